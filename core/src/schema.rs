//! Schemas (OpenAPI 3.1) of what no derive can describe: texts of a certain form. Types of other
//! crates have a stand-in here, to be named in `#[schema(value_type = …)]`.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type},
};

use crate::{Amount, CardId, Code, HumanDuration, MandateId, PaymentId, RequestId, card::Mcc};

/// The most pairs of metadata.
pub const METADATA_PAIRS: usize = 16;
/// The longest name of a pair, in bytes.
pub const METADATA_NAME_MAX: usize = 40;
/// The longest value of a pair, in bytes.
pub const METADATA_VALUE_MAX: usize = 500;

/// An address on the way in or out.
#[derive(Debug)]
pub struct Address;

/// A hash, or another 32 bytes.
#[derive(Debug)]
pub struct Hash;

/// Bytes of any number.
#[derive(Debug)]
pub struct Bytes;

/// A signature by a key.
#[derive(Debug)]
pub struct Signature;

/// An [`Amount`] on the way in.
#[derive(Debug)]
pub struct AmountInput;

/// [`crate::Seconds`].
#[derive(Debug)]
pub struct Seconds;

/// [`crate::api::Metadata`].
#[derive(Debug)]
pub struct Metadata;

fn text(description: &str, pattern: &str, example: &str) -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(Some(pattern))
        .examples([example])
        .into()
}

macro_rules! texts {
    ($($type:ty, $name:literal, $pattern:literal, $example:literal, $description:literal;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                text($description, $pattern, $example).into()
            }
        }

        impl ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
        }
    )+};
}

texts! {
    Amount, "Amount", "^(0|[1-9][0-9]{0,12})\\.[0-9]{2,6}$", "25.00",
        "An amount of USDC: two to six decimals, at most 9223372036854.775807.";
    Address, "Address", "^0x[0-9a-fA-F]{40}$", "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
        "An address: in one case, or with the right checksum (EIP-55).";
    Hash, "Hash", "^0x[0-9a-fA-F]{64}$", "0x9f3fa9d9d24267021dd540d153e4539b3ea4138603bd2a53322e18cd65b312c8",
        "32 bytes in hex.";
    Bytes, "Bytes", "^0x([0-9a-fA-F]{2})*$", "0x01c88469298c6382203a", "Bytes in hex.";
    Signature, "Signature", "^0x[0-9a-fA-F]{130}$", "0x01794662626dc899f3fd355e68c945577edc0abdd6546dbc1b513a06d53793822e4eb8004441b36a376bd8f6e55b2667ccd33985a37d5634a536a21e64f5f8f51b",
        "A signature: r ‖ s ‖ v, 65 bytes, low s, v 27 or 28 (0 or 1 is taken for these).";
    MandateId, "MandateId", "^mand_[0-9a-f]{64}$", "mand_4e5b7c23d2673298131323a84820efd4de0f52f3e84d3e0ddb2d3bace3ee081a",
        "A mandate: the EIP-712 hash of its terms.";
    RequestId, "RequestId", "^req_[0-9a-f]{32}$", "req_01a2027a88417640b2fff5cce8649e5f",
        "A mandate request. It can't be guessed: knowing it entitles to read the request.";
    PaymentId, "PaymentId", "^pay_[0-9a-f]{32}$", "pay_01a2027a951a776fbce3f5348778568c", "A payment.";
    CardId, "CardId", "^card_[0-9a-f]{32}$", "card_01a21d1820f877aa8f63ac98f04ffe71", "A card.";
    HumanDuration, "Duration", "^[0-9]{1,10}[dhms]$", "30d",
        "A whole number and a unit: days, hours, minutes or seconds.";
    Mcc, "Mcc", "^[0-9]{4}$", "5734", "A merchant category code (ISO 18245).";
}

impl PartialSchema for AmountInput {
    fn schema() -> RefOr<Schema> {
        let string =
            text("A decimal string with at most six decimals.", "^(0|[1-9][0-9]{0,11})(\\.[0-9]{1,6})?$", "25.00");
        let number = ObjectBuilder::new()
            .schema_type(Type::Number)
            .description(Some("A number, taken by the digits it is written with: no exponent, at most six decimals."))
            .minimum(Some(0))
            .examples([25]);
        OneOfBuilder::new()
            .item(string)
            .item(number)
            .description(Some("An amount of USDC. It never passes through a float."))
            .into()
    }
}

impl ToSchema for AmountInput {}

impl PartialSchema for Seconds {
    fn schema() -> RefOr<Schema> {
        let kind = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(u32::MAX));
        kind.description(Some("Seconds; a time counts them since 1970.")).into()
    }
}

impl ToSchema for Seconds {}

impl PartialSchema for Metadata {
    fn schema() -> RefOr<Schema> {
        let text = |most| ObjectBuilder::new().schema_type(Type::String).max_length(Some(most));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("Caller-defined pairs: names of 1 to 40 bytes, values up to 500."))
            .property_names(Some(text(METADATA_NAME_MAX).min_length(Some(1))))
            .additional_properties(Some(text(METADATA_VALUE_MAX)))
            .max_properties(Some(METADATA_PAIRS))
            .into()
    }
}

impl ToSchema for Metadata {}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let names = Self::ALL.iter().map(|code| code.name());
        let kind = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names));
        kind.description(Some("A stable code.")).into()
    }
}

impl ToSchema for Code {}
