//! Percentiles, medians, and rates.

use std::time::Duration;

/// The value that `part` (0 to 1) of the samples do not exceed: the nearest rank, none is made up between two.
/// `None` without samples.
pub(crate) fn percentile(samples: &mut [f64], part: f64) -> Option<f64> {
    samples.sort_unstable_by(f64::total_cmp);
    let rank = (part * samples.len() as f64).ceil() as usize;
    samples.get(rank.max(1) - 1).copied()
}

/// What repeats of a measurement came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value; of an even number the lower one of the middle. `None` without values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        let median = percentile(&mut values, 0.5)?;
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

/// How many per second.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// In milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let mut hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut hundred, 0.5), Some(50.0));
        assert_eq!(percentile(&mut hundred, 0.99), Some(99.0));
        assert_eq!(percentile(&mut hundred, 1.0), Some(100.0));
        assert_eq!(percentile(&mut hundred, 0.0), Some(1.0));
        // Of few samples the highest is the 99th percentile.
        assert_eq!(percentile(&mut [3.0, 1.0, 2.0], 0.99), Some(3.0));
        assert_eq!(percentile(&mut [], 0.5), None);
    }

    #[test]
    fn repeats_come_to_a_median_between_their_extremes() {
        let spread = Spread::of([5.0, 1.0, 3.0]).unwrap();
        assert_eq!(spread, Spread { median: 3.0, min: 1.0, max: 5.0 });
        assert_eq!(Spread::of([4.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_rate_is_a_count_over_its_time() {
        assert_eq!(per_second(500, Duration::from_millis(250)), 2_000.0);
        assert_eq!(millis(Duration::from_micros(1_500)), 1.5);
    }
}
