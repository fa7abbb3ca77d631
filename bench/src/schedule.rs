//! When the requests of an open loop are due: at a fixed rate, whatever becomes of the earlier ones.

use std::time::Duration;

/// A fixed rate for some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Per second.
    rate: f64,
    /// How many in all.
    pub(crate) count: u64,
}

impl Schedule {
    /// `rate` per second, for `time`.
    pub(crate) fn new(rate: f64, time: Duration) -> Self {
        Self { rate, count: (rate * time.as_secs_f64()).floor() as u64 }
    }

    /// When a request is due, counted from the start; the first at once.
    pub(crate) fn due(self, request: u64) -> Duration {
        Duration::from_secs_f64(request as f64 / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_evenly_and_for_the_whole_time() {
        let schedule = Schedule::new(800.0, Duration::from_secs(3));
        assert_eq!(schedule.count, 2_400);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(400), Duration::from_millis(500));
        assert!(schedule.due(schedule.count - 1) < Duration::from_secs(3));
    }

    #[test]
    fn errors_of_rounding_do_not_add_up() {
        let schedule = Schedule::new(3.0, Duration::from_secs(1_000_000));
        assert_eq!(schedule.due(3_000_000).as_millis(), 1_000_000_000);
    }
}
