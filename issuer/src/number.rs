//! Card numbers. They leave this type only by [`CardNumber::reveal`] and [`Cvv::reveal`], into the
//! answers that Lithic gives them in.

use std::{fmt, str::FromStr};

/// The mock's issuer prefix: Visa's for tests, never one of a real bank.
const PREFIX: u64 = 411_111;

/// Sixteen digits, the last of which is Luhn's (ISO/IEC 7812-1). Prints as `****`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CardNumber(u64);

/// The three digits on a card's back. Prints as `****`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cvv(u16);

/// This is no card number. It says nothing about what was given instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a card number has 16 digits, the last one by Luhn's rule")]
pub struct NumberError;

impl CardNumber {
    /// One that nobody can guess.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        Ok(Self::with_account(getrandom::u64()? % 1_000_000_000))
    }

    fn with_account(account: u64) -> Self {
        let payload = PREFIX * 1_000_000_000 + account;
        Self(payload * 10 + check_digit(payload))
    }

    /// The number itself, for the answers that carry it and for nothing else.
    pub fn reveal(self) -> String {
        format!("{:016}", self.0)
    }

    /// What may be shown of it.
    pub fn last_four(self) -> String {
        format!("{:04}", self.0 % 10_000)
    }

    /// As the store keeps it: an integer, so that the file has no digits to be found by a search.
    pub(crate) fn stored(self) -> i64 {
        self.0.cast_signed()
    }

    pub(crate) fn from_stored(stored: i64) -> Result<Self, NumberError> {
        Self::checked(u64::try_from(stored).map_err(|_| NumberError)?)
    }

    fn checked(number: u64) -> Result<Self, NumberError> {
        let sound = number < 10_000_000_000_000_000 && check_digit(number / 10) == number % 10;
        if sound { Ok(Self(number)) } else { Err(NumberError) }
    }
}

impl FromStr for CardNumber {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, NumberError> {
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NumberError);
        }
        Self::checked(text.parse().map_err(|_| NumberError)?)
    }
}

impl Cvv {
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        Ok(Self(u16::try_from(getrandom::u64()? % 1_000).unwrap_or_default()))
    }

    /// The digits themselves, for the answers that carry them and for nothing else.
    pub fn reveal(self) -> String {
        format!("{:03}", self.0)
    }

    pub(crate) fn stored(self) -> i64 {
        self.0.into()
    }

    pub(crate) fn from_stored(stored: i64) -> Result<Self, NumberError> {
        u16::try_from(stored).ok().filter(|cvv| *cvv < 1_000).map(Self).ok_or(NumberError)
    }
}

impl fmt::Debug for CardNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl fmt::Display for CardNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl fmt::Debug for Cvv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl fmt::Display for Cvv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// Luhn's digit: every second digit counts twice, from the right.
fn check_digit(payload: u64) -> u64 {
    let (mut rest, mut sum, mut doubled) = (payload, 0, true);
    while rest > 0 {
        let digit = rest % 10;
        sum += match (doubled, digit) {
            (false, _) => digit,
            (true, 0..=4) => digit * 2,
            (true, _) => digit * 2 - 9,
        };
        rest /= 10;
        doubled = !doubled;
    }
    (10 - sum % 10) % 10
}

/// A text without what could be a number of a card: runs of digits that are long enough become `****`.
pub(crate) fn masked(text: &str) -> String {
    const LONG: usize = 9;
    let (mut clean, mut run) = (String::with_capacity(text.len()), String::new());
    for char in text.chars().map(Some).chain([None]) {
        match char {
            Some(digit) if digit.is_ascii_digit() => run.push(digit),
            other => {
                clean.push_str(if run.len() >= LONG { "****" } else { &run });
                run.clear();
                clean.extend(other);
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The textbook's way, from the left and on characters.
    fn luhn_valid(digits: &str) -> bool {
        let sum: u32 = digits
            .chars()
            .rev()
            .enumerate()
            .map(|(place, char)| {
                let digit = char.to_digit(10).unwrap();
                if place % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }
            })
            .sum();
        sum.is_multiple_of(10)
    }

    #[test]
    fn the_documented_example_is_valid_and_variants_are_not() {
        assert!("4111111289144142".parse::<CardNumber>().is_ok());
        for bad in
            ["4111111289144143", "411111128914414", "41111112891441422", "4111 1112 8914 4142", "+111111289144142", ""]
        {
            assert_eq!(bad.parse::<CardNumber>(), Err(NumberError), "{bad}");
        }
    }

    #[test]
    fn a_number_prints_as_stars() {
        let number = CardNumber::random().unwrap();
        let cvv = Cvv::random().unwrap();
        assert_eq!(
            format!("{number} {number:?} {cvv} {cvv:?} {:?}", Some((number, cvv))),
            "**** **** **** **** Some((****, ****))"
        );
        assert!(number.reveal().ends_with(&number.last_four()));
    }

    #[test]
    fn what_was_sent_is_not_quoted_back_with_a_number_in_it() {
        assert_eq!(
            masked("invalid type: integer `4111111289144142`, 12 and 5"),
            "invalid type: integer `****`, 12 and 5"
        );
        assert_eq!(masked("4111111289144142"), "****");
    }

    proptest! {
        #[test]
        fn every_number_is_valid_by_luhn(account in 0..1_000_000_000u64) {
            let number = CardNumber::with_account(account);
            let digits = number.reveal();
            prop_assert!(digits.len() == 16 && digits.starts_with("411111") && luhn_valid(&digits));
            prop_assert_eq!(digits.parse::<CardNumber>(), Ok(number));
            prop_assert_eq!(CardNumber::from_stored(number.stored()), Ok(number));
        }

        #[test]
        fn one_wrong_digit_is_always_noticed(account in 0..1_000_000_000u64, place in 0..16usize, add in 1..10u8) {
            let mut digits = CardNumber::with_account(account).reveal().into_bytes();
            digits[place] = b'0' + (digits[place] - b'0' + add) % 10;
            prop_assert!(std::str::from_utf8(&digits).unwrap().parse::<CardNumber>().is_err());
        }
    }
}
