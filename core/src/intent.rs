//! The intent document: what the terms commit to by hash.

use alloy_primitives::{Address, B256, keccak256};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{address, card::Mcc, merkle, schema};

/// The longest purpose in bytes.
pub const PURPOSE_MAX: usize = 1_000;

/// The most payees that one document can list.
pub const PAYEES_MAX: usize = 1_000;

/// The most merchant categories that one document can list.
pub const MCCS_MAX: usize = 64;

/// What a mandate is for. `purpose` is shown to the operator and **not enforced**; `policy` is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// The version of this document: 1.
    pub version: u32,
    /// In plain language.
    pub purpose: String,
    /// What is enforced.
    pub policy: Policy,
    /// Random, so that no two documents have one hash and nobody can guess a private purpose.
    #[schema(value_type = schema::Hash)]
    pub nonce: B256,
}

/// The structured part of an intent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Who may be paid; absent: anyone.
    #[serde(with = "address::list", default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<schema::Address>>)]
    pub payees: Option<Vec<Address>>,
    /// At which merchants cards may be used, by their category; absent: at any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mccs: Option<Vec<Mcc>>,
}

impl Intent {
    /// The document as canonical JSON (RFC 8785): the bytes that are hashed.
    #[must_use]
    pub fn canonical(&self) -> String {
        // Strings, small integers and lists of them: nothing here that JSON could not hold.
        serde_jcs::to_string(self).unwrap_or_default()
    }

    /// The hash that the terms carry.
    #[must_use]
    pub fn hash(&self) -> B256 {
        keccak256(self.canonical())
    }

    /// The Merkle root that the terms carry; zero: anyone.
    #[must_use]
    pub fn payees_root(&self) -> B256 {
        self.policy.payees.as_deref().map(merkle::root).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            version: 1, purpose: "ads \"Q2\" \n €".into(), policy: Policy::default(), nonce: B256::repeat_byte(7)
        }
    }

    #[test]
    fn the_hash_is_over_sorted_canonical_json() {
        let nonce = B256::repeat_byte(7);
        assert_eq!(
            intent().canonical(),
            format!(r#"{{"nonce":"{nonce}","policy":{{}},"purpose":"ads \"Q2\" \n €","version":1}}"#)
        );
    }

    #[test]
    fn a_document_is_read_back_with_the_same_hash() {
        let mut intent = intent();
        intent.policy.payees = Some(vec![Address::repeat_byte(0xaa), Address::repeat_byte(0xbb)]);
        let again: Intent = serde_json::from_str(&intent.canonical()).unwrap();
        assert_eq!(again.hash(), intent.hash());
        assert_ne!(intent.payees_root(), B256::ZERO);
    }
}
