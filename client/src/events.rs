//! The stream of audit entries (server-sent events), which resumes where it broke off.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use sse_stream::{Sse, SseStream};
use stipend_core::{MandateId, api::AuditEntry};
use url::Url;

use crate::{Client, Error};

/// A connection that stays silent for this long, without even a comment, is given up.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait after streams that delivered nothing: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// No event is that long.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// The caller's audit entries as they come. It reconnects automatically, and misses nothing: every
/// connection after the first starts behind the last entry seen.
pub struct Events {
    client: Client,
    url: Url,
    last: Option<u64>,
    connection: Option<Connection>,
    /// How many connections in a row have ended without an entry.
    fruitless: u32,
}

struct Connection {
    events: BoxStream<'static, Result<Sse, sse_stream::Error>>,
    budget: Budget,
    since: Instant,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("url", &self.url.as_str()).field("last", &self.last).finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) async fn connect(client: Client, mandate: Option<MandateId>, after: Option<u64>) -> Result<Self, Error> {
        let mut url = client.inner.http.url("v1/events", &())?;
        if let Some(mandate) = mandate {
            url.query_pairs_mut().append_pair("mandate", &mandate.to_string());
        }
        let mut events = Self { client, url, last: after, connection: None, fruitless: 0 };
        events.reconnect().await?;
        Ok(events)
    }

    /// The next entry. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the relayer refuses the stream, or does not come back within about half a minute.
    pub async fn next(&mut self) -> Result<AuditEntry, Error> {
        loop {
            if self.connection.is_none() {
                if let Some(delay) = self.pause() {
                    tokio::time::sleep(delay).await;
                }
                self.reconnect().await?;
            }
            let Some(connection) = &mut self.connection else { continue };
            match tokio::time::timeout(STREAM_IDLE_TIMEOUT, connection.events.next()).await {
                Ok(Some(Ok(event))) => {
                    connection.budget.renew();
                    // One without data says where a stream starts.
                    self.last = event.id.and_then(|id| id.parse().ok()).or(self.last);
                    if let Some(data) = event.data {
                        let entry: AuditEntry = serde_json::from_str(&data).map_err(|error| self.odd(&error))?;
                        self.last = Some(entry.seq);
                        self.fruitless = 0;
                        return Ok(entry);
                    }
                }
                // Ended, broken or silent: all the same.
                Ok(Some(Err(sse_stream::Error::Body(error)))) if !is_invalid(&*error) => self.disconnect(),
                Ok(None) | Err(_) => self.disconnect(),
                Ok(Some(Err(error))) => return Err(self.odd(&error)),
            }
        }
    }

    /// As a [`Stream`], which ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<AuditEntry, Error>> {
        stream::unfold(Some(self), |events| async move {
            let mut events = events?;
            match events.next().await {
                Ok(entry) => Some((Ok(entry), Some(events))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    fn disconnect(&mut self) {
        let lasted = self.connection.take().is_some_and(|connection| connection.since.elapsed() >= PAUSE_MAX);
        self.fruitless = if lasted { 0 } else { self.fruitless.saturating_add(1) };
    }

    /// How long to wait before connecting again. The first time not at all: streams end with a restart of
    /// the relayer. One that ends at once, again and again, is not asked in a loop.
    fn pause(&self) -> Option<Duration> {
        let doublings = self.fruitless.checked_sub(2)?;
        Some(PAUSE_MIN.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(PAUSE_MAX))
    }

    async fn reconnect(&mut self) -> Result<(), Error> {
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_max_times(11)
            .with_jitter()
            .build();
        loop {
            let identity = self.client.identity().await?;
            match self.client.inner.http.open(&self.url, &identity, self.last).await {
                Ok(response) => {
                    let body = response.bytes_stream().map(|bytes| bytes.map(Vec::from).map_err(io::Error::other));
                    self.connection = Some(parse(body));
                    return Ok(());
                }
                Err(error) if error.is_transient() => match delays.next() {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    }

    fn odd(&self, reason: &dyn fmt::Display) -> Error {
        Error::NotARelayer { url: self.url.clone(), status: reqwest::StatusCode::OK, reason: reason.to_string() }
    }
}

/// Whether the body was given up by us.
fn is_invalid(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// What came since the last event, which no event of ours reaches.
#[derive(Clone, Debug, Default)]
struct Budget(Arc<AtomicUsize>);

impl Budget {
    fn take(&self, bytes: &[u8]) -> io::Result<()> {
        let used = self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        let within = used.checked_add(bytes.len()).is_some_and(|sum| sum <= MAX_EVENT_BYTES);
        if within { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "an event without an end")) }
    }

    fn renew(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The events of a body.
fn parse(body: impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static) -> Connection {
    let budget = Budget::default();
    let spent = budget.clone();
    let bytes = body.map(move |chunk| {
        let chunk = chunk?;
        spent.take(&chunk)?;
        Ok::<_, io::Error>(Bytes::from(chunk))
    });
    Connection { events: SseStream::from_bytes_stream(bytes).boxed(), budget, since: Instant::now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn events(chunks: Vec<String>) -> Vec<Result<Sse, sse_stream::Error>> {
        parse(stream::iter(chunks.into_iter().map(|chunk| Ok(chunk.into_bytes())))).events.collect().await
    }

    #[tokio::test]
    async fn events_are_whole_wherever_the_stream_is_cut() {
        let text =
            ": hello\n\nid: 7\nevent: payment.mined\ndata: {\"seq\":7}\n\nid: 8\r\ndata:{\"seq\":\r\ndata: 8}\r\n\r\n";
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            let found = events(vec![head.into(), tail.into()]).await;
            let data: Vec<_> = found.into_iter().map(|event| event.unwrap().data.unwrap()).collect();
            assert_eq!(data, ["{\"seq\":7}", "{\"seq\":\n8}"], "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn an_event_that_did_not_end_does_not_count() {
        assert!(events(vec!["data: {\"seq\":7}\n".into()]).await.is_empty());
    }

    #[tokio::test]
    async fn a_stream_can_say_where_it_starts() {
        let found = events(vec!["id: 41\n: from here on\n\nid: 42\ndata: {}\n".into()]).await;
        assert_eq!(found.len(), 1, "42 has not ended");
        assert_eq!(found[0].as_ref().unwrap().id.as_deref(), Some("41"));
    }

    #[tokio::test]
    async fn an_event_without_an_end_is_given_up() {
        let found = events(vec!["data: ".into(), "x".repeat(MAX_EVENT_BYTES), "\n\n".into()]).await;
        assert!(found.iter().any(|event| matches!(event, Err(sse_stream::Error::Body(_)))));
    }
}
