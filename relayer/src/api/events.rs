//! The audit trail as it grows: server-sent events that resume where they broke off.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use alloy_primitives::Address;
use axum::{
    extract::{Extension, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{StreamExt, future::ready, stream};
use serde::Deserialize;
use stipend_core::{
    MandateId,
    api::{AuditEntry, Problem},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::{
    Api,
    auth::Caller,
    extract::{Query, invalid},
    limits::ConcurrencyPermit,
    problem::Refusal,
};
use crate::{
    ledger::feed,
    service::{Seq, Service},
};

/// The `Last-Event-ID` header, as it is documented.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "a document's part")]
pub(super) struct LastEventIdHeader {
    /// The last event that was received.
    #[param(rename = "last-event-id")]
    last_event_id: Option<u64>,
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How many entries are read at once: all that a slow client makes us hold.
const BATCH: u32 = 100;

/// A comment is sent after so much silence, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Of this mandate.
    mandate: Option<MandateId>,
    /// Those after this one (0: all); absent: from now on. `Last-Event-ID` counts more, because a
    /// client that reconnects repeats its query.
    #[param(value_type = Option<u64>, maximum = 9_223_372_036_854_775_807_i64)]
    after: Option<Seq>,
}

/// Follow the audit trail
///
/// As server-sent events, whose `id` is the entry's `seq`, whose `event` is its type, and whose `data` is the entry. It starts
/// after `Last-Event-ID`, or else after `after`, or else now; it never skips and never repeats. A comment every 15 s keeps the
/// connection.
#[utoipa::path(get, path = "/v1/events", tag = "audit", params(EventsQuery, LastEventIdHeader), responses(
    (status = 200, content_type = "text/event-stream", body = String, description = "Entries, as they are written"),
))]
pub(super) async fn events(
    State(api): State<Api>,
    Caller(caller): Caller,
    Extension(permit): Extension<ConcurrencyPermit>,
    Query(which): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let changes = api.service.changes();
    let after = match headers.get(LAST_EVENT_ID) {
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.parse().ok()).map(Seq::get);
            id.ok_or_else(|| invalid("last-event-id: not the id of an event"))?
        }
        None => which.after.map_or_else(|| *changes.borrow(), Seq::get),
    };
    let mut feed = Feed {
        changes,
        service: api.service,
        stop: api.stop,
        caller,
        mandate: which.mandate,
        after,
        ready: VecDeque::new(),
        _permit: permit,
    };
    // What can fail at all fails here, with a status, and not in the stream.
    feed.read().await?;

    // An id without data: no event, but where to resume if the stream breaks before the first one.
    let start = stream::once(ready(Ok(Event::default().id(after.to_string()))));
    let events = stream::unfold(feed, |mut feed| async move {
        let entry = feed.next().await?;
        let event = Event::default().id(entry.seq.to_string()).event(&entry.kind).json_data(&entry).ok()?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    let mut response = Sse::new(start.chain(events)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // nginx holds events back until its buffer is full, unless it is told not to.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// One caller's view of the trail, read on demand: nothing is pushed, so nothing piles up.
struct Feed {
    service: Service,
    changes: watch::Receiver<u64>,
    stop: CancellationToken,
    caller: Address,
    mandate: Option<MandateId>,
    /// The last entry that was read, or is known not to concern the caller.
    after: u64,
    ready: VecDeque<AuditEntry>,
    _permit: ConcurrencyPermit,
}

impl Feed {
    /// The next entry, when there is one; `None` when the relayer stops, or can't be read.
    async fn next(&mut self) -> Option<AuditEntry> {
        while !self.stop.is_cancelled() {
            if let Some(entry) = self.ready.pop_front() {
                return Some(entry);
            }
            // Changes are marked as seen before the trail is read: what is written in between
            // wakes us again.
            if !self.changes.has_changed().ok()? {
                tokio::select! {
                    () = self.stop.cancelled() => return None,
                    changed = self.changes.changed() => changed.ok()?,
                }
            }
            self.read().await.ok()?;
        }
        None
    }

    async fn read(&mut self) -> Result<(), Problem> {
        let written = *self.changes.borrow_and_update();
        let query = feed::Query { reader: self.caller, mandate: self.mandate, after: self.after, limit: BATCH };
        let entries = self.service.audit(query).await?;
        let last = entries.last().map_or(0, |entry| entry.seq);
        if entries.len() < BATCH as usize {
            self.after = self.after.max(last).max(written);
        } else {
            self.after = last;
            self.changes.mark_changed();
        }
        self.ready = entries.into();
        Ok(())
    }
}
