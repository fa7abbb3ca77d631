//! Addresses at the edge: strict on the way in, checksummed (EIP-55) on the way out.

use alloy_primitives::{Address, hex};

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not `0x` and 40 hex digits.
    #[error("an address is 0x and 40 hex digits")]
    Malformed,
    /// Upper and lower case are mixed, and not as EIP-55 prescribes.
    #[error("the address has a wrong checksum: a digit or a letter's case is off")]
    Checksum,
    /// The zero address, which nobody owns.
    #[error("the zero address can't be used here")]
    Zero,
}

/// Reads an address: `0x` and 40 hex digits; if upper and lower case are mixed, the EIP-55
/// checksum must be right; never the zero address.
///
/// # Errors
/// [`AddressError`] says which of these it is.
pub fn parse(text: &str) -> Result<Address, AddressError> {
    let digits = text.strip_prefix("0x").ok_or(AddressError::Malformed)?;
    let mut bytes = [0_u8; 20];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| AddressError::Malformed)?;
    // hex takes a prefix of its own, so "0x0x…" would pass without this.
    if digits.len() != 40 {
        return Err(AddressError::Malformed);
    }
    let address = Address::from(bytes);
    let mixed =
        digits.bytes().any(|byte| byte.is_ascii_uppercase()) && digits.bytes().any(|byte| byte.is_ascii_lowercase());
    if mixed && address.to_checksum(None) != text {
        return Err(AddressError::Checksum);
    }
    if address.is_zero() {
        return Err(AddressError::Zero);
    }
    Ok(address)
}

/// `#[serde(with = "stipend_core::address::strict")]` for an [`Address`].
pub mod strict {
    use alloy_primitives::Address;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes the checksummed form.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    /// Reads by [`super::parse`].
    ///
    /// # Errors
    /// Those of [`super::parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        super::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// `#[serde(with = "stipend_core::address::optional")]` for an [`Address`] that may be absent.
pub mod optional {
    use alloy_primitives::Address;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes the checksummed form.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(address: &Option<Address>, serializer: S) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_none(),
        }
    }

    /// Reads by [`super::parse`].
    ///
    /// # Errors
    /// Those of [`super::parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Address>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse(&text)).transpose().map_err(de::Error::custom)
    }
}

/// `#[serde(with = "stipend_core::address::or_zero")]` for an [`Address`] whose zero means "none".
pub mod or_zero {
    use alloy_primitives::Address;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes the checksummed form.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    /// Reads by [`super::parse`], and zero too.
    ///
    /// # Errors
    /// Those of [`super::parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        match super::parse(&String::deserialize(deserializer)?) {
            Err(super::AddressError::Zero) => Ok(Address::ZERO),
            other => other.map_err(de::Error::custom),
        }
    }
}

/// `#[serde(with = "stipend_core::address::list")]` for an optional list of addresses.
pub mod list {
    use alloy_primitives::Address;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Strict(#[serde(with = "super::strict")] Address);

    /// Writes the checksummed forms.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(list: &Option<Vec<Address>>, serializer: S) -> Result<S::Ok, S::Error> {
        list.as_ref().map(|list| list.iter().copied().map(Strict).collect::<Vec<_>>()).serialize(serializer)
    }

    /// Reads each by [`super::parse`].
    ///
    /// # Errors
    /// Those of [`super::parse`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Address>>, D::Error> {
        let list: Option<Vec<Strict>> = Option::deserialize(deserializer)?;
        Ok(list.map(|list| list.into_iter().map(|Strict(address)| address).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VITALIK: &str = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045";

    #[test]
    fn takes_one_case_or_the_right_checksum() {
        assert!(parse(VITALIK).is_ok());
        assert_eq!(parse(&VITALIK.to_lowercase()), parse(VITALIK));
        assert_eq!(parse(&format!("0x{}", VITALIK[2..].to_uppercase())), parse(VITALIK));
    }

    #[test]
    fn refuses_everything_else() {
        assert_eq!(parse("0xD8dA6BF26964aF9D7eEd9e03E53415D37aA96045"), Err(AddressError::Checksum));
        assert_eq!(parse("0x0000000000000000000000000000000000000000"), Err(AddressError::Zero));
        let plain = &VITALIK[2..];
        for text in [
            "",
            "0x",
            plain,
            "vitalik.eth",
            &format!("0X{plain}"),
            &format!(" {VITALIK}"),
            &format!("{VITALIK} "),
            &VITALIK[..41],
            &format!("{VITALIK}0"),
            &format!("0x0x{}", &plain[2..]),
            &VITALIK.replace('a', "а"),
        ] {
            assert_eq!(parse(text), Err(AddressError::Malformed), "{text:?}");
        }
    }
}
