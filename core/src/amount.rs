//! Amounts of USDC.

use std::{fmt, str::FromStr};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

/// Decimals of the token: one unit is 0.000001 USDC.
const DECIMALS: u32 = 6;

/// Base units of a cent.
pub(crate) const CENT: u64 = 10_000;

/// An amount in base units of the token (six decimals). At the edges it is a decimal string such
/// as `"25.00"`; a JSON number is taken by its digits. It never passes through a float.
///
/// The largest amount is `i64::MAX` units (about 9.2 × 10¹² USDC), so that every store can hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u64);

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Anything but digits with at most one point between them: signs, exponents, separators,
    /// spaces, leading zeros, digits of other scripts.
    #[error("an amount is a decimal string such as \"25.00\": digits, and at most one point with digits on both sides")]
    Malformed,
    /// More than six digits behind the point.
    #[error("an amount has at most 6 digits behind the point")]
    TooPrecise,
    /// Above the largest amount.
    #[error("an amount is at most {}", Amount::MAX)]
    TooLarge,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// From base units.
    ///
    /// # Errors
    /// [`AmountError::TooLarge`] above [`Amount::MAX`].
    pub const fn from_units(units: u64) -> Result<Self, AmountError> {
        if units > Self::MAX.0 { Err(AmountError::TooLarge) } else { Ok(Self(units)) }
    }

    /// The amount in base units.
    #[must_use]
    pub const fn units(self) -> u64 {
        self.0
    }

    /// From cents, as card networks count. `None` for what is negative or too large.
    #[must_use]
    pub fn from_cents(cents: i64) -> Option<Self> {
        u64::try_from(cents).ok()?.checked_mul(CENT).and_then(|units| Self::from_units(units).ok())
    }

    /// The amount in cents, if it is a whole number of them.
    #[must_use]
    pub fn cents(self) -> Option<i64> {
        self.0.is_multiple_of(CENT).then(|| i64::try_from(self.0 / CENT).ok()).flatten()
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, if it is an amount.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(|units| Self::from_units(units).ok())
    }

    /// The difference, if it is not negative.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || (whole.len() > 1 && whole.starts_with('0')) {
            return Err(AmountError::Malformed);
        }
        if let Some(fraction) = fraction {
            if !digits(fraction) {
                return Err(AmountError::Malformed);
            }
            if fraction.len() > DECIMALS as usize {
                return Err(AmountError::TooPrecise);
            }
        }
        // 13 digits hold every whole amount up to the largest; beyond them Decimal itself may overflow.
        if whole.len() > 13 {
            return Err(AmountError::TooLarge);
        }
        let value = Decimal::from_str_exact(text).map_err(|_| AmountError::TooLarge)?;
        let units = value.checked_mul(Decimal::from(10_u64.pow(DECIMALS))).ok_or(AmountError::TooLarge)?;
        u64::try_from(units).map_err(|_| AmountError::TooLarge).and_then(Self::from_units)
    }
}

impl fmt::Display for Amount {
    /// At least two and at most six digits behind the point, so that it reads as money and loses
    /// nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = Decimal::from_i128_with_scale(i128::from(self.0), DECIMALS).normalize();
        let decimals = value.scale().max(2) as usize;
        f.pad(&format!("{value:.decimals$}"))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A decimal string, or a JSON number by the digits that it is written with.
impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        if text.starts_with('"') {
            return serde_json::from_str::<String>(text).map_err(de::Error::custom)?.parse().map_err(de::Error::custom);
        }
        text.parse().map_err(de::Error::custom)
    }
}

/// `#[serde(deserialize_with = "stipend_core::amount::string")]`: a decimal string alone, as servers answer it.
///
/// # Errors
/// If it is anything else.
pub fn string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_json_number_is_taken_by_its_digits() {
        let read =
            |json: &str| serde_json::from_str::<Amount>(json).map(Amount::units).map_err(|error| error.to_string());
        for (json, units) in [
            ("100.00", 100_000_000),
            ("0.1", 100_000),
            (" 25 ", 25_000_000),
            ("\"4.20\"", 4_200_000),
            // What no float holds.
            ("9007199254740.993001", 9_007_199_254_740_993_001),
            ("0.300000", 300_000),
        ] {
            assert_eq!(read(json), Ok(units), "{json}");
        }
        for json in
            ["1e2", "1E2", "1.0e0", "-1", "0.0000001", "9223372036855", "1.", "true", "null", "{}", "[1]", "\"1e2\""]
        {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn reads_decimal_strings() {
        for (text, units) in [
            ("0", 0),
            ("1", 1_000_000),
            ("25.00", 25_000_000),
            ("0.000001", 1),
            ("4.2", 4_200_000),
            ("100.123456", 100_123_456),
        ] {
            assert_eq!(text.parse(), Ok(Amount(units)), "{text}");
        }
        assert_eq!("9223372036854.775807".parse(), Ok(Amount::MAX));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            " 1",
            "1 ",
            "+1",
            "-1",
            "-0",
            "1e3",
            "NaN",
            "Infinity",
            "1,000",
            "1_000",
            "0x10",
            "٣",
            "１",
            "1.",
            ".5",
            "\u{200b}.5",
            "00.1",
            "01",
            "1.2.3",
            "1.-2",
            "1\n",
            "1\0",
        ] {
            assert_eq!(text.parse::<Amount>(), Err(AmountError::Malformed), "{text:?}");
        }
        assert_eq!("0.0000001".parse::<Amount>(), Err(AmountError::TooPrecise));
        for text in ["9223372036854.775808", "9999999999999", &"9".repeat(40), &alloy_primitives::U256::MAX.to_string()]
        {
            assert_eq!(text.parse::<Amount>(), Err(AmountError::TooLarge), "{text}");
        }
    }

    #[test]
    fn cents_are_whole() {
        assert_eq!(Amount(18_400_000).cents(), Some(1_840));
        assert_eq!(Amount(18_400_001).cents(), None);
        assert_eq!(Amount::from_cents(1_840), Some(Amount(18_400_000)));
        assert_eq!(Amount::from_cents(-1), None);
        assert_eq!(Amount::from_cents(i64::MAX), None);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(units in 0..=i64::MAX as u64) {
            let amount = Amount::from_units(units).unwrap();
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }
    }
}
