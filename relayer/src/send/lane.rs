//! A lane: a submitter with at most a few transactions that no block holds.

use std::{collections::HashMap, time::Duration};

use alloy::{eips::BlockId, signers::local::PrivateKeySigner};
use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall;
use stipend_bindings::abi::MandateEscrow;
use tokio::time::sleep;

use super::{REPLACE_AFTER, SendError, Sender, Unmined, cost, fees::Fees, plan::CALL_GAS};
use crate::{
    chain::{
        follow::Head,
        rpc::{EthCall, RpcError, SendOutcome},
    },
    ledger::transactions::AttemptHead,
};

/// How many transactions of a submitter may be unmined. While one block is booked, the next ones are made of the others.
/// Every node keeps as many of an account in its pool (geth and reth: 16).
pub(super) const MAX_UNMINED: usize = 3;
/// How long to wait before a nonce that is ahead of the ledger is read again: a false alarm halts the
/// relayer.
const NONCE_CONFIRMATION_DELAY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) address: Address,
    /// The submitter's key. Without it, stored bytes are sent again, and nothing new is signed.
    pub(super) key: Option<PrivateKeySigner>,
    /// The submitter's account as it was last seen.
    pub(super) account: Option<Account>,
    /// Its stored transactions that no block holds, in nonce order, without gaps.
    pub(super) unmined: Vec<Unmined>,
    /// The nonce of its next transaction, by the ledger.
    pub(super) next_nonce: Option<u64>,
    /// A balance, in wei, that a node found too small for the transaction that waits.
    pub(super) short_of: Option<u128>,
    /// The head at which each of its transactions was last sent, and what became of it.
    pub(super) sent: HashMap<u64, (B256, SendOutcome)>,
}

/// What a lane can do, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    /// The key is not here: the submitter of an earlier run.
    Keyless,
    /// Its account has not been seen yet.
    Unknown,
    /// The guardian does not allow the submitter.
    Removed,
    /// The balance does not cover the next transaction.
    OutOfFunds,
    /// A transaction that is not in the ledger used the key.
    ExternalTxs,
    /// A stored transaction waits for a block.
    Unmined,
    /// It can take work.
    Idle,
}

/// A submitter's account at a head.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) head: B256,
    /// The number of its mined transactions.
    pub(super) nonce: u64,
    /// How many of those the ledger does not know.
    pub(super) external: u64,
    /// In wei.
    pub(super) balance: u128,
    /// What the unmined transactions, or else the next one, can cost, in wei.
    pub(super) needed: u128,
    /// Whether the guardian allows it.
    pub(super) allowed: bool,
}

impl Account {
    fn out_of_funds(&self) -> bool {
        self.balance < self.needed
    }
}

impl Lane {
    pub(super) fn new(address: Address, key: Option<PrivateKeySigner>) -> Self {
        let (unmined, sent) = (Vec::new(), HashMap::new());
        Self { address, key, account: None, unmined, next_nonce: None, short_of: None, sent }
    }

    pub(super) fn state(&self) -> LaneState {
        match &self.account {
            _ if self.key.is_none() => LaneState::Keyless,
            None => LaneState::Unknown,
            Some(account) if !account.allowed => LaneState::Removed,
            Some(account) if account.out_of_funds() => LaneState::OutOfFunds,
            Some(account) if account.external > 0 => LaneState::ExternalTxs,
            Some(_) if self.is_busy() => LaneState::Unmined,
            Some(_) => LaneState::Idle,
        }
    }

    /// Whether a stored transaction of it is in no block.
    pub(super) const fn is_busy(&self) -> bool {
        !self.unmined.is_empty()
    }

    /// The gas limits of its unmined transactions.
    pub(super) fn gas_in_flight(&self) -> u64 {
        self.unmined.iter().fold(0, |gas, unmined| gas.saturating_add(unmined.tx.gas_limit))
    }

    /// What its unmined transactions can cost, in wei.
    pub(super) fn cost_in_flight(&self) -> u128 {
        self.unmined.iter().fold(0, |sum, unmined| sum.saturating_add(unmined.cost()))
    }

    /// Whether it can have another transaction behind those that are unmined: all goes well with these, so that it is mined
    /// right after them. What is refused, replaced or canceled is waited for.
    pub(super) fn can_go_on(&self, head: Head) -> bool {
        let goes_well = |unmined: &Unmined| {
            let AttemptHead { sent_at, cancels, .. } = unmined.last;
            let taken = |(at, outcome): &(B256, SendOutcome)| {
                *at == head.block.hash && matches!(outcome, SendOutcome::Accepted | SendOutcome::NonceUsed)
            };
            self.sent.get(&unmined.tx.id).is_some_and(taken)
                && !unmined.obsolete
                && !cancels
                && head.block.number.saturating_sub(sent_at) < REPLACE_AFTER
        };
        self.state() == LaneState::Unmined
            && self.short_of.is_none()
            && self.unmined.len() < MAX_UNMINED
            && self.unmined.iter().all(goes_well)
    }

    /// The nonce of what it signs next at this head; `None` if the chain counts other transactions than the ledger.
    pub(super) fn free_nonce(&self, head: Head) -> Option<u64> {
        let nonce = self.at(head)?.nonce.saturating_add(self.unmined.len() as u64);
        self.next_nonce.filter(|next| *next == nonce)
    }

    /// Whether it can send, now or when its transaction is mined.
    pub(super) fn in_service(&self) -> bool {
        matches!(self.state(), LaneState::Unknown | LaneState::Unmined | LaneState::Idle)
    }

    /// A node finds its balance too small, whatever the gas alone comes to: rollups charge for data besides.
    pub(super) fn lacks_funds(&mut self) {
        if let Some(account) = &mut self.account {
            account.needed = account.needed.max(account.balance.saturating_add(1));
            self.short_of = Some(account.balance);
        }
    }

    /// Its account as it was just read.
    pub(super) fn refresh(&mut self, mut account: Account) {
        // More than then, or nothing waits: it may do.
        self.short_of = self.short_of.filter(|short| !self.unmined.is_empty() && account.balance <= *short);
        if self.short_of.is_some() {
            account.needed = account.needed.max(account.balance.saturating_add(1));
        }
        self.account = Some(account);
    }

    /// A simulation has shown that the guardian no longer allows it.
    pub(super) fn remove(&mut self) {
        if let Some(account) = &mut self.account {
            account.allowed = false;
        }
    }

    /// Its account at this head; nothing new is signed without.
    pub(super) fn at(&self, head: Head) -> Option<&Account> {
        self.account.as_ref().filter(|account| account.head == head.block.hash)
    }
}

impl Sender {
    /// Looks at a submitter's account at the followed head. What the chain counts there beyond what
    /// the ledger has in blocks is external; a node that is ahead or behind says nothing about that
    /// block.
    pub(super) async fn account(
        &self,
        lane: &Lane,
        next_nonce: u64,
        fees: Option<Fees>,
        head: Head,
    ) -> Result<Account, SendError> {
        let submitter = lane.address;
        let mut nonce = self.rpc.nonce_at(submitter, head.block.hash).await?;
        let expected = lane.unmined.first().map_or(next_nonce, |unmined| unmined.tx.nonce);
        if nonce > expected {
            // A node that is just mining the next block may count its transactions already, and those are ours.
            sleep(NONCE_CONFIRMATION_DELAY).await;
            nonce = self.rpc.nonce_at(submitter, head.block.hash).await?;
        }
        if nonce < expected {
            return Err(SendError::NodeBehind { submitter, nonce, expected });
        }
        let external = nonce.saturating_sub(expected);
        let mut account = Account { head: head.block.hash, nonce, external, balance: 0, needed: 0, allowed: true };
        if lane.key.is_some() {
            account.balance = self.rpc.balance(submitter).await?;
            account.needed = match fees {
                _ if lane.is_busy() => lane.cost_in_flight(),
                Some(fees) => cost(CALL_GAS, fees.max_fee),
                None => 0,
            };
            account.allowed = self.is_allowed(submitter, head).await?;
        }
        Ok(account)
    }

    /// Whether the guardian allows a submitter.
    pub(super) async fn is_allowed(&self, submitter: Address, head: Head) -> Result<bool, RpcError> {
        let question = MandateEscrow::isSubmitterCall { guardian: self.deployment.guardian, submitter };
        let call = EthCall { from: None, to: self.deployment.escrow, data: question.abi_encode().into(), gas: None };
        self.rpc.call::<MandateEscrow::isSubmitterCall>(call, BlockId::hash(head.block.hash)).await
    }

    /// Says which lanes do not work, and why. Where only ETH is missing, nothing more is accepted.
    pub(super) fn publish_alarms(&self, lanes: &[Lane]) {
        let external = lanes.iter().filter_map(|lane| {
            let account = lane.account.as_ref().filter(|account| account.external > 0)?;
            let (submitter, nonce) = (lane.address, account.nonce);
            let expected = nonce.saturating_sub(account.external);
            Some(format!(
                "the submitter {submitter} has nonce {nonce} on chain, the ledger expects {expected}: \
                 a transaction that is not in the ledger used its key; stop whatever else uses it, then run \
                 `stipend ledger repair`"
            ))
        });
        match list(external) {
            Some(what) => self.alarms.halt("nonce", what),
            None if lanes.iter().all(|lane| lane.account.is_some()) => self.alarms.clear("nonce"),
            None => {}
        }
        let ours = || lanes.iter().filter(|lane| lane.key.is_some());
        let is_out_of_funds = |lane: &&Lane| lane.account.as_ref().is_some_and(Account::out_of_funds);
        let is_removed = |lane: &&Lane| lane.account.as_ref().is_some_and(|account| !account.allowed);
        let short = ours().filter(is_out_of_funds).filter_map(|lane| {
            let Account { balance, needed, .. } = lane.account.as_ref()?;
            Some(format!("the submitter {} has {balance} wei and needs at least {needed}: send it ETH", lane.address))
        });
        self.warn_or_clear("funds", list(short));
        let removed = ours().filter(is_removed).map(|lane| {
            let (guardian, submitter) = (self.deployment.guardian, lane.address);
            format!(
                "the guardian {guardian} does not allow the submitter {submitter}: nothing is signed with it; send \
                 setSubmitter({submitter}, true) to the escrow from the guardian (`stipend submitter allow {submitter}` with its key), or take it out of the settings"
            )
        });
        self.warn_or_clear("submitter", list(removed));
        if ours().any(|lane| !is_out_of_funds(&lane) && !is_removed(&lane))
            || !ours().any(|lane| is_out_of_funds(&lane))
        {
            self.alarms.clear("sending");
        } else {
            self.alarms.refuse("sending", "no submitter has enough ETH to send anything");
        }
    }

    pub(super) fn warn_or_clear(&self, name: &'static str, what: Option<String>) {
        match what {
            Some(what) => self.alarms.warn(name, what),
            None => self.alarms.clear(name),
        }
    }
}

/// All of them in one line; `None` if there are none.
pub(super) fn list(all: impl Iterator<Item = String>) -> Option<String> {
    Some(all.collect::<Vec<_>>().join("; ")).filter(|all| !all.is_empty())
}
