//! Whether the chain moves, as far as its heads tell: that blocks still come, that they still become
//! final, and that this machine's clock agrees with theirs. Pure.

use std::time::{Duration, Instant};

use stipend_core::{Seconds, api::BlockRef};

/// A chain without a new block for this long stands still, or for ten of its usual intervals.
const HEAD_MIN: Duration = Duration::from_secs(30);
const HEAD_FACTOR: u32 = 10;
/// Finality stands still after three of its usual steps in the chain's time, within these limits.
const FINALITY_LIMITS: (Seconds, Seconds) = (60, 1_800);
const FINALITY_FACTOR: u64 = 3;
/// By how much clock and new blocks may differ, and for how many blocks in a row they may do so more.
const CLOCK_BEHIND: Seconds = 30;
const CLOCK_AHEAD: Seconds = 60;
const CLOCK_BLOCKS: u32 = 3;

/// What is remembered of the heads.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// The last head, and when it was first seen.
    last: Option<(BlockRef, Instant)>,
    /// The time between two heads, on average.
    interval: Duration,
    /// The chain's time when finality last moved, and its longest step so far.
    final_moved: Seconds,
    final_step: Option<Seconds>,
    has_moved: bool,
    finalized: u64,
    /// How many heads in a row were this far off the clock, with the last difference in seconds.
    off: u32,
    difference: i64,
}

impl Freshness {
    /// This is the head at this moment, and the last final block's height, when the machine's clock says
    /// `clock`.
    pub(super) fn record(&mut self, head: BlockRef, finalized: u64, now: Instant, clock: Seconds) {
        let Some((last, since)) = self.last else {
            (self.last, self.final_moved, self.finalized) = (Some((head, now)), head.time, finalized);
            return;
        };
        if finalized > self.finalized {
            // The first step was under way before anybody looked.
            let step = head.time.saturating_sub(self.final_moved);
            self.final_step = self.has_moved.then(|| step.max(self.final_step.unwrap_or_default()));
            self.has_moved = true;
            self.finalized = finalized;
            self.final_moved = head.time;
        }
        if head.hash == last.hash {
            return;
        }
        let waited = now.saturating_duration_since(since);
        self.interval = if self.interval.is_zero() { waited } else { (self.interval * 7 + waited) / 8 };
        // Only a block that comes right after the last one was made just now.
        if last.number.checked_add(1) == Some(head.number) {
            self.difference = clock.cast_signed().saturating_sub(head.time.cast_signed());
            let is_off = self.difference > CLOCK_AHEAD.cast_signed() || self.difference < -CLOCK_BEHIND.cast_signed();
            self.off = if is_off { self.off.saturating_add(1) } else { 0 };
        }
        self.last = Some((head, now));
    }

    /// That no block comes any more, if so.
    pub(super) fn stale_head(&self, now: Instant) -> Option<String> {
        let (head, since) = self.last?;
        let waited = now.saturating_duration_since(since);
        let limit = self.interval.saturating_mul(HEAD_FACTOR).max(HEAD_MIN);
        (waited > limit).then(|| {
            let (number, seconds) = (head.number, limit.as_secs());
            format!("no block after {number} for more than {seconds} s: the chain or the node stands still")
        })
    }

    /// That blocks do not become final any more, if so.
    pub(super) fn stale_finality(&self) -> Option<String> {
        let (head, _) = self.last?;
        let (least, most) = FINALITY_LIMITS;
        let waited = head.time.saturating_sub(self.final_moved);
        let limit = self.final_step.map_or(most, |step| step.saturating_mul(FINALITY_FACTOR).clamp(least, most));
        (waited > limit).then(|| {
            let number = self.finalized;
            format!("no block after {number} has become final for more than {limit} s: nothing settles until one does")
        })
    }

    /// That this machine's clock is off, if so.
    pub(super) fn wrong_clock(&self) -> Option<String> {
        (self.off >= CLOCK_BLOCKS).then(|| {
            let where_to = if self.difference > 0 { "ahead of" } else { "behind" };
            // In tens, so that the alarm does not change with every block.
            let seconds = self.difference.unsigned_abs() / 10 * 10;
            format!(
                "this machine's clock is about {seconds} s {where_to} new blocks: signed requests are refused as expired or \
                 as made in the future; set the clock (NTP)"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;

    fn head(number: u64, time: u64) -> BlockRef {
        BlockRef { number, hash: B256::left_padding_from(&number.to_be_bytes()), time }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_head_that_stands_is_said_after_half_a_minute_or_ten_intervals() {
        let (mut fast, mut slow, start) = (Freshness::default(), Freshness::default(), Instant::now());
        for block in 0..20 {
            fast.record(head(block, block), 0, start + seconds(block), block);
            slow.record(head(block, block * 12), 0, start + seconds(block * 12), block * 12);
        }
        assert_eq!(fast.stale_head(start + seconds(19 + 30)), None);
        assert!(fast.stale_head(start + seconds(19 + 31)).unwrap().contains("no block after 19 for more than 30 s"));
        assert_eq!(slow.stale_head(start + seconds(19 * 12 + 120)), None);
        assert!(slow.stale_head(start + seconds(19 * 12 + 121)).is_some());
        // The same head again is no news; a new one is.
        fast.record(head(19, 19), 0, start + seconds(60), 60);
        assert!(fast.stale_head(start + seconds(61)).is_some());
        fast.record(head(20, 61), 0, start + seconds(61), 61);
        assert_eq!(fast.stale_head(start + seconds(62)), None);
    }

    #[test]
    fn finality_that_stands_is_said_after_three_usual_steps() {
        let (mut watch, start) = (Freshness::default(), Instant::now());
        for block in 0..100_u64 {
            watch.record(head(block, block * 2), block.saturating_sub(40) / 20 * 20, start, block * 2);
            assert_eq!(watch.stale_finality(), None, "{block}");
        }
        // It moved at block 80, in steps of 40 s: the limit is 120 s, and not below a minute.
        watch.record(head(140, 280), 40, start, 280);
        assert_eq!(watch.stale_finality(), None);
        watch.record(head(141, 282), 40, start, 282);
        assert!(watch.stale_finality().unwrap().contains("no block after 40 has become final for more than 120 s"));
        watch.record(head(142, 284), 100, start, 284);
        assert_eq!(watch.stale_finality(), None);
    }

    #[test]
    fn a_clock_is_wrong_when_new_blocks_keep_telling_another_time() {
        for (offset, expected) in [(0_i64, None), (60, None), (61, Some("60 s ahead of")), (-31, Some("30 s behind"))] {
            let (mut watch, start) = (Freshness::default(), Instant::now());
            for block in 0..4_u64 {
                watch.record(head(block, 1_000 + block), 0, start, (1_000 + block).saturating_add_signed(offset));
                assert!(block == 3 || watch.wrong_clock().is_none());
            }
            let said = watch.wrong_clock();
            assert!(said.is_some() == expected.is_some(), "{said:?}");
            assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }

    #[test]
    fn old_blocks_that_are_caught_up_with_say_nothing_about_the_clock() {
        let (mut watch, start) = (Freshness::default(), Instant::now());
        for block in 0..20_u64 {
            watch.record(head(block * 64, block * 64), 0, start, 1_000_000);
        }
        assert_eq!(watch.wrong_clock(), None);
    }
}
