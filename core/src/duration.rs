//! Durations as people write them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Seconds;

/// A duration such as `"30d"`, `"12h"`, `"45m"` or `"90s"`: one whole number and one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Seconds);

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a whole number and one of d, h, m, s, such as \"30d\"")]
pub struct DurationError;

const UNITS: [(char, Seconds); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl HumanDuration {
    /// From seconds.
    #[must_use]
    pub const fn from_seconds(seconds: Seconds) -> Self {
        Self(seconds)
    }

    /// Its length.
    #[must_use]
    pub const fn seconds(self) -> Seconds {
        self.0
    }
}

impl FromStr for HumanDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let unit = text.chars().last().ok_or(DurationError)?;
        let (_, length) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(DurationError)?;
        let digits = text.strip_suffix(unit).ok_or(DurationError)?;
        if digits.is_empty() || digits.len() > 10 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DurationError);
        }
        let count: Seconds = digits.parse().map_err(|_| DurationError)?;
        count.checked_mul(length).map(Self).ok_or(DurationError)
    }
}

impl fmt::Display for HumanDuration {
    /// In the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, length) =
            UNITS.into_iter().find(|(_, length)| self.0 > 0 && self.0.is_multiple_of(*length)).unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.0 / length)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_not_a_whole_number_and_a_unit() {
        for text in ["", "d", "30", "30 d", "1.5h", "-1d", "+1d", "1w", "30D", "٣d", "99999999999d"] {
            assert_eq!(text.parse::<HumanDuration>(), Err(DurationError), "{text:?}");
        }
        assert_eq!("30d".parse(), Ok(HumanDuration(2_592_000)));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(seconds in 0..10_000_000_000_u64) {
            let span = HumanDuration::from_seconds(seconds);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
