//! Tests that put load on the machine take turns.

use tokio::sync::{Semaphore, SemaphorePermit};

/// How many of them run at once.
const MAX_CONCURRENT_TESTS: usize = 2;

static PLACES: Semaphore = Semaphore::const_new(MAX_CONCURRENT_TESTS);

/// A place among the tests that put load on the machine, until dropped.
pub async fn exclusive_slot() -> eyre::Result<SemaphorePermit<'static>> {
    Ok(PLACES.acquire().await?)
}
