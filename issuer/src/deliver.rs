//! Delivers events: signed, at least once, in no promised order, again on schedule.

use std::{collections::HashSet, time::Duration};

use reqwest::header;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    issuer::Issuer,
    signing,
    store::{
        StoreError,
        outbox::{self, Delivery},
    },
    time::Time,
};

/// How many attempts are on their way at once.
const MAX_CONCURRENT_DELIVERIES: usize = 32;
/// How long a receiver may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after the store failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait at most: the clock that deliveries are due by can be set.
const LOOK: Duration = Duration::from_secs(60);
/// How old the timestamp of a delivery is that the switchboard makes stale.
const STALE: Duration = Duration::from_secs(600);

/// Delivers until `stop` is canceled. Attempts that are then on their way are cut off, and made again
/// after the next start.
pub(crate) async fn run(issuer: Issuer, stop: CancellationToken) {
    let mut attempts = JoinSet::new();
    let mut under_way = HashSet::new();
    loop {
        let wait = match start(&issuer, &mut attempts, &mut under_way).await {
            Ok(next) => next.map_or(LOOK, Time::wait).min(LOOK),
            Err(error) => {
                tracing::error!(%error, "can't tell what is to be delivered");
                PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = issuer.due_delivery() => {}
            Some(ended) = attempts.join_next() => match ended {
                Ok(key) => _ = under_way.remove(&key),
                Err(error) => tracing::error!(%error, "an attempt to deliver was cut off"),
            },
            () = sleep(wait) => {}
        }
    }
    attempts.shutdown().await;
}

/// Starts what is due and not under way; returns when something will be due.
async fn start(
    issuer: &Issuer,
    attempts: &mut JoinSet<(i64, i64)>,
    under_way: &mut HashSet<(i64, i64)>,
) -> Result<Option<Time>, StoreError> {
    let faults = issuer.faults().show().webhooks;
    if faults.paused {
        return Ok(None);
    }
    // One after the other, or newest first would mean nothing.
    let at_once = if faults.newest_first { 1 } else { MAX_CONCURRENT_DELIVERIES };
    let (due, next) = issuer.store().run(move |store| outbox::due(store, Time::now(), faults.newest_first)).await?;
    for delivery in due {
        let key = (delivery.event, delivery.subscription);
        if attempts.len() >= at_once {
            break;
        }
        if under_way.insert(key) {
            let issuer = issuer.clone();
            attempts.spawn(async move {
                if let Err(error) = attempt(&issuer, delivery).await {
                    tracing::error!(%error, "can't write down how a delivery ended");
                }
                key
            });
        }
    }
    Ok(next)
}

async fn attempt(issuer: &Issuer, delivery: Delivery) -> Result<(), StoreError> {
    let faults = issuer.faults();
    sleep(Duration::from_millis(faults.show().webhooks.delay_ms)).await;
    let delivered = if faults.take(|faults| &mut faults.webhooks.drop) {
        true
    } else if faults.take(|faults| &mut faults.webhooks.fail) {
        false
    } else {
        let twice = faults.take(|faults| &mut faults.webhooks.duplicate);
        let first = send(issuer, &delivery).await;
        if twice { send(issuer, &delivery).await || first } else { first }
    };
    let due = if delivered { None } else { issuer.next_attempt(delivery.attempts) };
    if !delivered && due.is_none() {
        tracing::warn!(id = delivery.id, "gave up delivering an event: `recover` tries again");
    }
    issuer.store().run(move |store| outbox::attempted(store, &delivery, delivered, due)).await
}

/// Whether the receiver took it.
async fn send(issuer: &Issuer, delivery: &Delivery) -> bool {
    let faults = issuer.faults();
    let corrupt = faults.take(|faults| &mut faults.webhooks.corrupt_signature);
    let stale = faults.take(|faults| &mut faults.webhooks.stale);
    let now = Time::now();
    let at = if stale { now.before(STALE) } else { now };
    let headers = match signing::headers(&delivery.secrets, &delivery.id, at, &delivery.payload, corrupt) {
        Ok(headers) => headers,
        Err(error) => {
            tracing::error!(%error, id = delivery.id, "can't sign an event");
            return false;
        }
    };
    let request = issuer
        .http()
        .post(&delivery.url)
        .timeout(REQUEST_TIMEOUT)
        .headers(headers)
        .header(header::CONTENT_TYPE, "application/json")
        .body(delivery.payload.clone());
    match request.send().await {
        Ok(response) => {
            tracing::debug!(id = delivery.id, status = response.status().as_u16(), "delivered an event");
            response.status().is_success()
        }
        Err(error) => {
            tracing::debug!(id = delivery.id, error = %error.without_url(), "can't deliver an event");
            false
        }
    }
}
