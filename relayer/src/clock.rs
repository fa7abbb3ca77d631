//! The wall clock.

use stipend_core::{Seconds, api::BlockRef};

/// The earlier of the clock and the chain's head: what is given up by time is given up by both, so that a
/// clock that jumps ahead gives nothing away.
pub fn earlier(head: BlockRef) -> Seconds {
    now().min(head.time)
}

pub fn now() -> Seconds {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;

    use super::*;

    #[test]
    fn a_clock_that_is_ahead_gives_nothing_up() {
        let at = |time| earlier(BlockRef { number: 1, hash: B256::ZERO, time });
        assert_eq!(at(5), 5);
        assert!(at(Seconds::MAX) <= now());
    }
}
