//! Tests that put load on the machine take turns.

use tokio::sync::{Semaphore, SemaphorePermit};

/// How many of them run at once.
const AT_ONCE: usize = 2;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// A place among the tests that put load on the machine, until dropped.
pub async fn exclusive_slot() -> eyre::Result<SemaphorePermit<'static>> {
    Ok(PLACES.acquire().await?)
}
