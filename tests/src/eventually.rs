//! Waiting for a condition, never for a time.

use std::time::Duration;

use eyre::{Result, bail};
use tokio::time::{Instant, sleep};

/// Nothing that works takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(50);

/// Asks until there is an answer.
///
/// # Errors
/// Those of `ask`, or that there was no answer for a minute.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    eventually_within(PATIENCE, what, ask).await
}

/// Asks until there is an answer, for so long.
///
/// # Errors
/// Those of `ask`, or that there was no answer in time.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        sleep(POLL).await;
    }
    bail!("{what}: still not so after {patience:?}")
}
