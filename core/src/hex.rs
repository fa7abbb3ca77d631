//! Bytes in hex at the edge: `0x` and digits, and nothing else that a library would take for bytes.

use alloy_primitives::{B256, Bytes, hex};

/// Why a text is not bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes are 0x and an even number of hex digits")]
pub struct BytesError;

/// Why a text is not 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 0x and 64 hex digits")]
pub struct HashError;

/// Reads `0x` and an even number of hex digits.
///
/// # Errors
/// [`BytesError`] if it is anything else.
pub fn parse_bytes(text: &str) -> Result<Bytes, BytesError> {
    let digits = text.strip_prefix("0x").ok_or(BytesError)?;
    // hex takes a prefix of its own, so "0x0x…" would pass without this.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(BytesError);
    }
    hex::decode(digits).map(Bytes::from).map_err(|_| BytesError)
}

/// Reads `0x` and 64 hex digits.
///
/// # Errors
/// [`HashError`] if it is anything else.
pub fn parse_hash(text: &str) -> Result<B256, HashError> {
    let bytes = parse_bytes(text).map_err(|_| HashError)?;
    B256::try_from(bytes.as_ref()).map_err(|_| HashError)
}

/// `#[serde(with = "stipend_core::hex::bytes")]` for [`Bytes`].
pub mod bytes {
    use alloy_primitives::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes `0x` and digits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(bytes)
    }

    /// Reads by [`super::parse_bytes`].
    ///
    /// # Errors
    /// Those of [`super::parse_bytes`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        super::parse_bytes(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// `#[serde(with = "stipend_core::hex::hash")]` for a [`B256`].
///
/// [`B256`]: alloy_primitives::B256
pub mod hash {
    use alloy_primitives::B256;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes `0x` and digits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(hash: &B256, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    /// Reads by [`super::parse_hash`].
    ///
    /// # Errors
    /// Those of [`super::parse_hash`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<B256, D::Error> {
        super::parse_hash(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_digits_behind_one_prefix_are_bytes() {
        assert_eq!(parse_bytes("0x").unwrap(), Bytes::new());
        assert_eq!(parse_bytes("0xAb01").unwrap(), Bytes::from(vec![0xab, 1]));
        for text in ["", "ab01", "0Xab01", "0xab0", "0x0xab", " 0xab", "0xab ", "0xzz", "[1,2]"] {
            assert_eq!(parse_bytes(text), Err(BytesError), "{text}");
        }
        for text in [format!("0x{}", "0".repeat(63)), format!("0x{}", "0".repeat(66)), "0".repeat(64)] {
            assert_eq!(parse_hash(&text), Err(HashError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in proptest::collection::vec(any::<u8>(), 0..80), hash in any::<[u8; 32]>()) {
            prop_assert_eq!(parse_bytes(&Bytes::from(bytes.clone()).to_string()), Ok(Bytes::from(bytes)));
            prop_assert_eq!(parse_hash(&B256::from(hash).to_string()), Ok(B256::from(hash)));
        }
    }
}
