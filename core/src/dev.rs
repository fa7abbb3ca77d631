//! What `stipend dev` says, as one line of JSON, when it is ready.

use std::path::PathBuf;

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use crate::{MandateId, address};

/// What runs where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// The relayer's URL.
    pub relayer: String,
    /// The node's URL.
    pub rpc_url: String,
    /// Anvil's.
    pub chain_id: u64,
    /// The `MandateEscrow`.
    #[serde(with = "address::strict")]
    pub escrow: Address,
    /// A mock of USDC that anybody can mint.
    #[serde(with = "address::strict")]
    pub token: Address,
    /// The relayer's guardian.
    #[serde(with = "address::strict")]
    pub guardian: Address,
    /// Sends the relayer's transactions.
    #[serde(with = "address::strict")]
    pub submitter: Address,
    /// Approves mandates; has USDC and ETH.
    #[serde(with = "address::strict")]
    pub operator: Address,
    /// Asks for mandates and pays.
    #[serde(with = "address::strict")]
    pub agent: Address,
    /// Approves mandates by message; has USDC and no ETH.
    #[serde(with = "address::strict")]
    pub gasless_operator: Address,
    /// Can be paid, and refund.
    #[serde(with = "address::strict")]
    pub payee: Address,
    /// Those whom a payment does not reach as usual.
    pub test_payees: TestPayees,
    /// The mock card issuer's URL.
    pub issuer: String,
    /// Its API key, for this run.
    pub issuer_key: String,
    /// Receives what cards capture.
    #[serde(with = "address::strict")]
    pub treasury: Address,
    /// The mandates that were asked for by `--mandate`, open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mandates: Vec<MandateId>,
    /// The directory of chain and ledger.
    pub data: PathBuf,
}

/// The payees that show a client what can become of a payment. They are the same in every run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TestPayees {
    /// Every payment is denied with `bad_payee`.
    #[serde(with = "address::strict")]
    pub denied: Address,
    /// A payment is accepted, and skipped on chain: it fails with `transfer_failed`, and its reservation returns.
    #[serde(with = "address::strict")]
    pub skip: Address,
    /// A payment is accepted, stays `reserved` for at least ten seconds, and is then paid.
    #[serde(with = "address::strict")]
    pub stall: Address,
    /// A payment is mined, its block is reorganized away, and it is mined again.
    #[serde(with = "address::strict")]
    pub reorg: Address,
}
