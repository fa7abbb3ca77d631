//! Points in time, as Lithic writes them: RFC 3339 in UTC.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{SignedDuration, Timestamp, ToSpan, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) i64);

#[derive(Debug, thiserror::Error)]
#[error("this is no time: give RFC 3339, like 2026-07-01T12:00:00Z")]
pub(crate) struct TimeError;

impl Time {
    pub(crate) fn now() -> Self {
        Self(Timestamp::now().as_microsecond())
    }

    pub(crate) fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }

    pub(crate) fn before(self, ago: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long it is from now on until then; zero if it is past.
    pub(crate) fn wait(self) -> Duration {
        u64::try_from(self.0.saturating_sub(Self::now().0)).map(Duration::from_micros).unwrap_or_default()
    }

    pub(crate) const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The year and month this many years later.
    pub(crate) fn month_in_years(self, years: i64) -> (i16, i8) {
        let date = self.date_time().date();
        let then = date.saturating_add(years.years());
        (then.year(), then.month())
    }

    /// Whether a card's expiry month has passed.
    pub(crate) fn is_past_month(self, year: i16, month: i8) -> bool {
        let date = self.date_time().date();
        (date.year(), date.month()) > (year, month)
    }

    /// A month earlier.
    pub(crate) fn month_ago(self) -> Self {
        self.back(1.month())
    }

    /// A year earlier.
    pub(crate) fn year_ago(self) -> Self {
        self.back(1.year())
    }

    fn back(self, time_range: jiff::Span) -> Self {
        let then = self.date_time().saturating_sub(time_range).to_zoned(TimeZone::UTC);
        then.map_or(Self(0), |then| Self(then.timestamp().as_microsecond()))
    }

    fn date_time(self) -> DateTime {
        self.timestamp().to_zoned(TimeZone::UTC).datetime()
    }

    fn timestamp(self) -> Timestamp {
        Timestamp::UNIX_EPOCH.saturating_add(SignedDuration::from_micros(self.0)).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.timestamp())
    }
}

impl FromStr for Time {
    type Err = TimeError;

    /// Without a time zone it is UTC, as Lithic has it.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let in_utc = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
        let timestamp = text.parse::<Timestamp>().ok().or_else(in_utc).ok_or(TimeError)?;
        Ok(Self(timestamp.as_microsecond()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_it_was_written() {
        let time = Time(1_800_000_000_123_456);
        assert_eq!(time.to_string(), "2027-01-15T08:00:00.123456Z");
        assert_eq!(time.to_string().parse::<Time>().unwrap(), time);
        assert_eq!("2027-01-15T09:00:00.123456+01:00".parse::<Time>().unwrap(), time);
        assert_eq!("2027-01-15T08:00:00.123456".parse::<Time>().unwrap(), time);
        assert!("yesterday".parse::<Time>().is_err());
    }

    #[test]
    fn a_card_is_good_to_the_end_of_its_month() {
        let time = Time(1_800_000_000_000_000);
        assert!(!time.is_past_month(2027, 1) && time.is_past_month(2026, 12) && !time.is_past_month(2027, 2));
        assert_eq!(time.month_in_years(5), (2032, 1));
    }
}
