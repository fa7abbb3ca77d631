//! The stream of audit entries (server-sent events), which goes on where it broke off.

use std::{fmt, pin::Pin, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::{Stream, StreamExt, stream};
use stipend_core::{MandateId, api::AuditEntry};
use url::Url;

use crate::{Client, Error};

/// A connection that stays silent for so long, without even a comment, is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// No event is that long.
const LONGEST: usize = 1 << 20;

/// The caller's audit entries as they come. It connects again by itself, and misses nothing: every
/// connection after the first starts behind the last entry seen.
pub struct Events {
    client: Client,
    url: Url,
    last: Option<u64>,
    connection: Option<Connection>,
}

type Body = Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>;

struct Connection {
    body: Body,
    parser: Parser,
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
        let mut events = Self { client, url, last: after, connection: None };
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
                self.reconnect().await?;
            }
            let Some(connection) = &mut self.connection else { continue };
            if let Some(data) = connection.parser.next() {
                let entry: AuditEntry = serde_json::from_str(&data).map_err(|error| self.odd(&error))?;
                self.last = Some(entry.seq);
                return Ok(entry);
            }
            match tokio::time::timeout(SILENCE, connection.body.next()).await {
                Ok(Some(Ok(bytes))) if connection.parser.len() + bytes.len() <= LONGEST => {
                    connection.parser.push(&bytes);
                }
                Ok(Some(Ok(_))) => return Err(self.odd(&"an event without an end")),
                // Ended, broken or silent: all the same.
                Ok(Some(Err(_)) | None) | Err(_) => {
                    self.last = connection.parser.last_id.or(self.last);
                    self.connection = None;
                }
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
                    let body = response.bytes_stream().map(|bytes| bytes.map(Vec::from)).boxed();
                    self.connection = Some(Connection { body, parser: Parser::default() });
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

/// Cuts a stream into the data of its events (WHATWG HTML, 9.2.6). Types are in the data as well.
#[derive(Debug, Default)]
struct Parser {
    /// What has come and is not a whole line yet.
    rest: Vec<u8>,
    data: Option<String>,
    id: Option<u64>,
    /// The id of the last event that ended. One without data says where a stream starts.
    last_id: Option<u64>,
    events: std::collections::VecDeque<String>,
}

impl Parser {
    fn len(&self) -> usize {
        self.rest.len() + self.data.as_ref().map_or(0, String::len)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            self.line(line.trim_end_matches(['\r', '\n']));
        }
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            self.events.extend(self.data.take());
            self.last_id = self.id;
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match (field, &mut self.data) {
            ("data", Some(data)) => {
                data.push('\n');
                data.push_str(value);
            }
            ("data", data @ None) => *data = Some(value.to_owned()),
            ("id", _) => self.id = value.parse().ok().or(self.id),
            _ => {}
        }
    }

    fn next(&mut self) -> Option<String> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&str]) -> Vec<String> {
        let mut parser = Parser::default();
        for chunk in chunks {
            parser.push(chunk.as_bytes());
        }
        std::iter::from_fn(|| parser.next()).collect()
    }

    #[test]
    fn events_are_whole_wherever_the_stream_is_cut() {
        let text =
            ": hello\n\nid: 7\nevent: payment.mined\ndata: {\"seq\":7}\n\nid: 8\r\ndata:{\"seq\":\r\ndata: 8}\r\n\r\n";
        let whole = parse(&[text]);
        assert_eq!(whole, ["{\"seq\":7}", "{\"seq\":\n8}"]);
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(parse(&[head, tail]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_that_did_not_end_does_not_count() {
        assert!(parse(&["data: {\"seq\":7}\n"]).is_empty());
    }

    #[test]
    fn a_stream_can_say_where_it_starts() {
        let mut parser = Parser::default();
        parser.push(b"id: 41\n: from here on\n\nid: 42\ndata: {}\n");
        assert_eq!((parser.last_id, parser.next()), (Some(41), None), "42 has not ended");
    }
}
