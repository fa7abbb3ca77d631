//! What blocks say of the gas of our transactions, from the follower to whoever sizes the next ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::B256;

/// How many are kept for somebody who does not read: the last ones say most.
const KEPT: usize = 64;

/// The gas of a transaction in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub tx: B256,
    pub gas: u64,
    pub succeeded: bool,
}

/// Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct GasUsed(Arc<Mutex<VecDeque<Used>>>);

impl GasUsed {
    pub fn record(&self, used: Used) {
        let mut kept = self.kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(used);
    }

    /// All since the last call, the oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<Used> {
        self.kept().drain(..).collect()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Used>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_read_once() {
        let (written, read) = (GasUsed::default(), GasUsed::default());
        let read_end = written.clone();
        for gas in 0..=KEPT as u64 {
            written.record(Used { tx: B256::ZERO, gas, succeeded: true });
        }
        let kept: Vec<u64> = read_end.take().iter().map(|used| used.gas).collect();
        assert_eq!(kept, (1..=KEPT as u64).collect::<Vec<_>>());
        assert!(read_end.take().is_empty() && read.take().is_empty());
    }
}
