//! Ids as people and programs see them.

use std::{fmt, str::FromStr};

use alloy_primitives::{B256, hex};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::{NoContext, Timestamp, Uuid};

/// Why a text is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this id is {0} and {1} lower-case hex digits")]
pub struct IdError(&'static str, usize);

/// A mandate's id: the EIP-712 hash of its terms, shown as `mand_` and 64 hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MandateId(pub B256);

/// A mandate request's id: `req_` and a time-ordered UUID. It can't be guessed, so knowing it is
/// what entitles somebody to read the request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub Uuid);

/// A payment's id: `pay_` and a time-ordered UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentId(pub Uuid);

/// A card's id: `card_` and a time-ordered UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CardId(pub Uuid);

impl RequestId {
    /// A new id.
    #[must_use]
    pub fn generate() -> Self {
        // A counter within the millisecond, as `now_v7` has one, would leave less to guess.
        Self(Uuid::new_v7(Timestamp::now(NoContext)))
    }
}

impl PaymentId {
    /// A new id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl CardId {
    /// A new id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

fn parse<const N: usize>(text: &str, prefix: &'static str) -> Result<[u8; N], IdError> {
    let error = IdError(prefix, 2 * N);
    let Some(digits) = text.strip_prefix(prefix) else { return Err(error) };
    if digits.len() != 2 * N || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(error);
    }
    hex::decode_to_array(digits).map_err(|_| error)
}

macro_rules! id {
    ($name:ident, $prefix:literal, $bytes:literal, $from:expr) => {
        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse::<$bytes>(text, $prefix).map(|bytes| Self($from(bytes)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!($prefix, "{}"), hex::encode(self.0)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(MandateId, "mand_", 32, B256::from);
id!(RequestId, "req_", 16, Uuid::from_bytes);
id!(PaymentId, "pay_", 16, Uuid::from_bytes);
id!(CardId, "card_", 16, Uuid::from_bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_of_one_millisecond_count_nothing() {
        let ids: Vec<u128> = (0..2_000).map(|_| RequestId::generate().0.as_u128()).collect();
        let counted = ids.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!(counted < 1_900, "{counted} of 1,999 neighbors rise");
    }

    #[test]
    fn an_id_is_read_back_and_nothing_else_is() {
        let id = RequestId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        let mandate = MandateId(B256::repeat_byte(0xab));
        assert_eq!(mandate.to_string().parse(), Ok(mandate));
        for text in [
            "",
            "req_",
            "mand_ab",
            "../req_",
            "req_%00",
            "mand_' or 1=1",
            &mandate.to_string().to_uppercase(),
            &format!("{mandate}0"),
        ] {
            assert!(text.parse::<MandateId>().is_err(), "{text}");
            assert!(text.parse::<RequestId>().is_err(), "{text}");
        }
    }
}
