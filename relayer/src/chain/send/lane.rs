//! A lane: a submitter with at most one transaction that no block holds.

use std::collections::HashMap;

use alloy::{eips::BlockId, signers::local::PrivateKeySigner};
use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall;
use stipend_bindings::abi::MandateEscrow;

use super::{CALL_GAS, SendError, Sender, Waiting, cost};
use crate::chain::{
    fees::Fees,
    follow::Head,
    rpc::{Call, RpcError},
};

/// A lane.
#[derive(Debug)]
pub(super) struct Lane {
    /// The submitter.
    pub(super) address: Address,
    /// Its key. Without it (an earlier run had it) stored bytes are sent again, and nothing new.
    pub(super) key: Option<PrivateKeySigner>,
    /// What was found at the last head.
    pub(super) found: Option<Found>,
    /// Whether the guardian does not allow it (any more).
    pub(super) removed: bool,
    /// At which head each of its transactions was sent last.
    pub(super) sent: HashMap<u64, B256>,
}

/// What was found of a submitter at a head.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The head.
    pub(super) head: B256,
    /// How many transactions of it are mined.
    pub(super) nonce: u64,
    /// How many of them the ledger does not know.
    pub(super) foreign: u64,
    /// Its ETH, in wei.
    pub(super) balance: u128,
    /// What it needs, in wei.
    pub(super) needed: u128,
}

impl Lane {
    pub(super) fn new(address: Address, key: Option<PrivateKeySigner>) -> Self {
        Self { address, key, found: None, removed: false, sent: HashMap::new() }
    }

    pub(super) fn is_short(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.balance < found.needed)
    }

    pub(super) fn has_strangers(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.foreign > 0)
    }

    /// Whether it can take new work at all.
    pub(super) fn in_service(&self) -> bool {
        self.key.is_some() && !self.removed && !self.is_short() && !self.has_strangers()
    }

    /// What it knows of this head; nothing new is signed without.
    pub(super) fn at(&self, head: Head) -> Option<&Found> {
        self.found.as_ref().filter(|found| found.head == head.block.hash)
    }
}

impl Sender {
    /// Looks at a submitter at the followed head. What the chain counts there beyond what the ledger
    /// has in blocks is somebody else's; a node that is ahead or behind says nothing about that block.
    pub(super) async fn look(
        &self,
        lane: &Lane,
        (next, waiting): (u64, Option<&Waiting>),
        fees: Option<Fees>,
        head: Head,
    ) -> Result<(Found, bool), SendError> {
        let submitter = lane.address;
        let nonce = self.rpc.nonce_at(submitter, head.block.hash).await?;
        let expected = waiting.map_or(next, |waiting| waiting.tx.nonce);
        if nonce < expected {
            return Err(SendError::NodeForgets { submitter, nonce, expected });
        }
        let (mut balance, mut needed, mut removed) = (0, 0, false);
        if lane.key.is_some() {
            balance = self.rpc.balance(submitter).await?;
            needed = match (waiting, fees) {
                (Some(waiting), _) => waiting.cost(),
                (None, Some(fees)) => cost(CALL_GAS, fees.max_fee),
                (None, None) => 0,
            };
            removed = !self.is_allowed(submitter, head).await?;
        }
        let foreign = nonce.saturating_sub(expected);
        Ok((Found { head: head.block.hash, nonce, foreign, balance, needed }, removed))
    }

    /// Whether the guardian allows a submitter.
    pub(super) async fn is_allowed(&self, submitter: Address, head: Head) -> Result<bool, RpcError> {
        let question = MandateEscrow::isSubmitterCall { guardian: self.deployment.guardian, submitter };
        let call = Call { from: None, to: self.deployment.escrow, data: question.abi_encode().into(), gas: None };
        self.rpc.call::<MandateEscrow::isSubmitterCall>(call, BlockId::hash(head.block.hash)).await
    }

    /// Says which lanes do not work, and why. Where only ETH is missing, nothing more is accepted.
    pub(super) fn say(&self, lanes: &[Lane]) {
        let strangers = lanes.iter().filter_map(|lane| {
            let found = lane.found.as_ref().filter(|found| found.foreign > 0)?;
            let (submitter, nonce) = (lane.address, found.nonce);
            let expected = nonce.saturating_sub(found.foreign);
            Some(format!(
                "the submitter {submitter} has nonce {nonce} on chain, the ledger expects {expected}: \
                 a transaction that is not in the ledger used its key; stop whatever else uses it, then run \
                 `stipend ledger repair`"
            ))
        });
        match list(strangers) {
            Some(what) => self.health.halt("nonce", what),
            None if lanes.iter().all(|lane| lane.found.is_some()) => self.health.clear("nonce"),
            None => {}
        }
        let ours = || lanes.iter().filter(|lane| lane.key.is_some());
        let short = ours().filter(|lane| lane.is_short()).filter_map(|lane| {
            let Found { balance, needed, .. } = lane.found.as_ref()?;
            let submitter = lane.address;
            Some(format!("the submitter {submitter} has {balance} wei and needs {needed}: send it ETH"))
        });
        self.warn_or_clear("funds", list(short));
        let removed = ours().filter(|lane| lane.removed).map(|lane| {
            let (guardian, submitter) = (self.deployment.guardian, lane.address);
            format!(
                "the guardian {guardian} does not allow the submitter {submitter}: nothing is signed with it; send \
                 setSubmitter({submitter}, true) to the escrow from the guardian, or take it out of the settings"
            )
        });
        self.warn_or_clear("submitter", list(removed));
        if ours().any(|lane| !lane.is_short() && !lane.removed) || !ours().any(|lane| lane.is_short()) {
            self.health.clear("sending");
        } else {
            self.health.refuse("sending", "no submitter has enough ETH to send anything");
        }
    }

    pub(super) fn warn_or_clear(&self, name: &'static str, what: Option<String>) {
        match what {
            Some(what) => self.health.warn(name, what),
            None => self.health.clear(name),
        }
    }
}

/// All of them in one line; `None` if there are none.
pub(super) fn list(all: impl Iterator<Item = String>) -> Option<String> {
    Some(all.collect::<Vec<_>>().join("; ")).filter(|all| !all.is_empty())
}
