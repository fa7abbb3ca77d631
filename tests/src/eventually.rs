//! Waiting for a condition, never for a time.

use std::time::Duration;

use eyre::{Result, WrapErr, bail};
use stipend_client::Events;
use stipend_core::api::AuditEntry;
use tokio::time::{Instant, sleep, timeout};

/// Nothing that works takes longer, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often something is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Asks until there is an answer.
///
/// # Errors
/// Those of `ask`, or that there was no answer for a minute.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    while start.elapsed() < TIMEOUT {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        sleep(POLL).await;
    }
    bail!("{what}: still not so after {TIMEOUT:?}")
}

/// The stream's next entry. One that never comes would be waited on for ever otherwise.
///
/// # Errors
/// Those of the stream, or that nothing came for a minute.
pub async fn next_entry(events: &mut Events) -> Result<AuditEntry> {
    let next = timeout(TIMEOUT, events.next()).await;
    Ok(next.wrap_err_with(|| format!("no event for {TIMEOUT:?}"))??)
}
