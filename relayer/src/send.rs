//! The sender: lanes, each a submitter with at most one transaction that no block holds.
//!
//! ```text
//!  Unknown ──▶ Idle ── work simulated, signed, stored, sent ──▶ Unmined ── mined (by the follower) ──▶ Idle
//!                                                              │     ▲
//!                                   no block after a while:    └─────┘   the same bytes, or a replacement
//!                                                                        with higher fees and the same nonce
//!  OutOfFunds, Removed, ExternalTxs: nothing new is signed until that is mended
//!  Keyless: the submitter of an earlier run; what it signed then is still sent
//! ```
//! Nothing is sent that was not stored before. Only the follower says what became of it: a node's
//! answer decides at most when to send again. [`plan`] decides what goes into which lane.

mod attempt;
pub mod batch;
mod dispatch;
pub mod fees;
mod lane;
pub mod plan;
mod queue;
mod simulate;
mod size;

use std::{collections::HashMap, time::Duration};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256};
use futures_util::future::join_all;
use stipend_core::{Amount, Deployment};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::size::BatchSize;
use self::{
    dispatch::Backlog,
    fees::{Fees, Market},
    lane::{Lane, list},
};
use crate::{
    alarms::Alarms,
    chain::{
        follow::Head,
        rpc::{Rpc, RpcError, SendOutcome},
    },
    ledger::{
        Ledger, LedgerError, blocks,
        transactions::{self, Attempt},
    },
};

/// An alarm is raised for a transaction that stays unmined for this many blocks.
const UNMINED_ALARM_BLOCKS: u64 = 10;
/// When to retry what failed, if no block comes first.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Why a step of the sender failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the submitter's key can't sign: {0}")]
    Key(#[from] alloy::signers::Error),
    #[error("the node refuses a transaction of the submitter {0}, which is sent again with every block: see the log")]
    Refused(Address),
    /// The node's count excludes transactions of the block itself.
    #[error(
        "the node counts {nonce} transactions of the submitter {submitter}, {expected} are in the blocks up to its own"
    )]
    NodeBehind { submitter: Address, nonce: u64, expected: u64 },
}

#[derive(Debug)]
pub struct Sender {
    pub rpc: Rpc,
    pub ledger: Ledger,
    pub deployment: Deployment,
    pub submitters: Vec<PrivateKeySigner>,
    /// Blocks, the including one counted, after which a mandate can be used.
    pub confirmations: u64,
    /// The most that is paid, in wei per gas.
    pub fee_ceiling: u64,
    /// What a mandate must have left to be swept.
    pub sweep_min: Amount,
    pub alarms: Alarms,
    pub batches: BatchSize,
}

/// A stored transaction that no block holds.
#[derive(Clone, Debug)]
struct Unmined {
    tx: transactions::TransactionRow,
    first: Attempt,
    newer: Vec<Attempt>,
    /// It is obsolete, or no block has room for it: only its nonce is to be used up.
    obsolete: bool,
}

impl Unmined {
    fn last(&self) -> &Attempt {
        self.newer.last().unwrap_or(&self.first)
    }

    fn cost(&self) -> u128 {
        cost(self.tx.gas_limit, self.last().max_fee)
    }
}

/// The ledger at one moment.
#[derive(Debug)]
struct LedgerView {
    head: Option<B256>,
    /// By submitter, in nonce order.
    unmined: HashMap<Address, Vec<Unmined>>,
    /// The nonce of each submitter's next transaction.
    next_nonce: HashMap<Address, u64>,
}

/// What is remembered from step to step. Losing it costs nothing but time.
#[derive(Debug)]
struct SenderState {
    lanes: Vec<Lane>,
    backlog: Backlog,
    market: Option<(B256, Market)>,
    /// Something is to be tried again, whether or not a block comes.
    retry: bool,
}

impl Sender {
    /// Begins to use the submitters.
    pub async fn start(&self) -> Result<(), SendError> {
        for key in &self.submitters {
            let submitter = key.address();
            let chain = self.rpc.nonce(submitter).await?;
            self.ledger.writer().write(move |ledger| transactions::start(ledger, submitter, chain)).await?;
        }
        Ok(())
    }

    /// Sends until `stop`, whenever the head moves or something was accepted.
    pub async fn run(self, mut heads: watch::Receiver<Head>, stop: CancellationToken) {
        let mut changes = self.ledger.changes();
        let mut state = None;
        loop {
            let head = *heads.borrow_and_update();
            changes.mark_unchanged();
            let stepped = match &mut state {
                Some(state) => self.step(head, state).await,
                none => match self.lanes().await {
                    Ok(lanes) => self.step(head, none.insert(SenderState::new(lanes))).await,
                    Err(error) => Err(error),
                },
            };
            let mut retry = state.as_mut().is_some_and(|state| std::mem::take(&mut state.retry));
            match stepped {
                Ok(()) => self.alarms.clear("sender"),
                Err(error) => {
                    retry = true;
                    self.alarms.warn("sender", error.to_string());
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                moved = heads.changed() => if moved.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY_DELAY), if retry => {}
            }
        }
    }

    /// A lane for each key, and one without a key for each submitter of an earlier run: what that
    /// signed is still to be sent.
    async fn lanes(&self) -> Result<Vec<Lane>, SendError> {
        let mut lanes: Vec<Lane> = Vec::new();
        for key in &self.submitters {
            if lanes.iter().all(|lane| lane.address != key.address()) {
                lanes.push(Lane::new(key.address(), Some(key.clone())));
            }
        }
        for address in self.ledger.read(transactions::submitters).await? {
            if lanes.iter().all(|lane| lane.address != address) {
                lanes.push(Lane::new(address, None));
            }
        }
        Ok(lanes)
    }

    /// Refreshes the lanes, sends again what no block holds, and gives work to those that are idle.
    async fn step(&self, head: Head, state: &mut SenderState) -> Result<(), SendError> {
        let view = self.view(state, head.gas_limit).await?;
        if view.head != Some(head.block.hash) {
            // The follower is about to tell of another one.
            return Ok(());
        }
        let market = match state.market.filter(|(at, _)| *at == head.block.hash) {
            Some((_, market)) => Ok(market),
            None => self.rpc.tip(head.base_fee).await.map(|tip| Market { base_fee: head.base_fee, tip }),
        };
        if let Ok(market) = &market {
            state.market = Some((head.block.hash, *market));
        }
        let fees = match &market {
            Ok(market) => self.first_fees(&view, head, *market),
            Err(_) => None,
        };
        let refreshed = self.refresh_lanes(head, &view, fees, state).await;
        self.publish_alarms(&state.lanes);
        if self.alarms.halted().is_some() {
            return refreshed;
        }
        let sent = self.rebroadcast_all(head, &view, market.as_ref().ok().copied(), state).await;
        let dispatched = match fees {
            Some(fees) => self.dispatch(head, fees, state).await,
            None => Ok(()),
        };
        self.publish_alarms(&state.lanes);
        market?;
        refreshed.and(sent).and(dispatched)
    }

    /// What a new transaction pays, if the ceiling allows any. Raises an alarm for what waits for
    /// lower fees.
    fn first_fees(&self, view: &LedgerView, head: Head, market: Market) -> Option<Fees> {
        let first = fees::first(market, self.ceiling(false));
        let stuck = || view.unmined.values().flatten().find_map(|tx| self.fee_above_ceiling(tx, head, market));
        self.warn_or_clear("fees", first.err().or_else(stuck).map(|error| error.to_string()));
        first.ok()
    }

    async fn view(&self, state: &SenderState, block_gas: u64) -> Result<LedgerView, SendError> {
        let submitters: Vec<Address> = state.lanes.iter().map(|lane| lane.address).collect();
        let too_large = self.batches.too_large();
        let is_too_large =
            move |tx: &transactions::TransactionRow| tx.gas_limit > block_gas || too_large.contains(&tx.id);
        let view = self.ledger.read(move |ledger| {
            let mut unmined: HashMap<Address, Vec<Unmined>> = HashMap::new();
            for tx in transactions::pending(ledger)? {
                let mut attempts = transactions::attempts(ledger, tx.id)?.into_iter();
                let Some(first) = attempts.next() else {
                    return Err(LedgerError::Inconsistent(format!("transaction {} has no attempt", tx.id)));
                };
                let obsolete = transactions::is_obsolete(ledger, &tx)? || is_too_large(&tx);
                let of = unmined.entry(tx.submitter).or_default();
                of.push(Unmined { tx, first, newer: attempts.collect(), obsolete });
            }
            let mut next_nonce = HashMap::new();
            for submitter in submitters {
                next_nonce.extend(transactions::next_nonce(ledger, submitter)?.map(|nonce| (submitter, nonce)));
            }
            Ok(LedgerView { head: blocks::head(ledger)?.map(|block| block.hash), unmined, next_nonce })
        });
        Ok(view.await?)
    }

    /// Looks at each submitter's account once per head.
    async fn refresh_lanes(
        &self,
        head: Head,
        view: &LedgerView,
        fees: Option<Fees>,
        state: &mut SenderState,
    ) -> Result<(), SendError> {
        let accounts = join_all(state.lanes.iter().map(async |lane| {
            let next = view.next_nonce.get(&lane.address).filter(|_| lane.at(head).is_none())?;
            Some(self.account(lane, *next, view.first_unmined(lane), fees, head).await)
        }));
        let accounts = accounts.await;
        let mut outcome = Ok(());
        for (lane, account) in state.lanes.iter_mut().zip(accounts) {
            lane.unmined = view.first_unmined(lane).is_some();
            match account {
                None => {}
                Some(Ok(account)) => lane.refresh(account),
                Some(Err(error)) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Sends what waits for a block, each once per head at most: an answer of the node is no reason to
    /// hurry.
    async fn rebroadcast_all(
        &self,
        head: Head,
        view: &LedgerView,
        market: Option<Market>,
        state: &mut SenderState,
    ) -> Result<(), SendError> {
        let hash = head.block.hash;
        let sends = join_all(state.lanes.iter().map(async |lane| {
            let mut sent = Vec::new();
            for unmined in view.unmined.get(&lane.address).into_iter().flatten() {
                if lane.sent.get(&unmined.tx.id) != Some(&hash) {
                    sent.push((unmined.tx.id, self.rebroadcast(lane, unmined, head, market).await));
                }
            }
            sent
        }));
        let sends = sends.await;
        let mut outcome = Ok(());
        for (lane, sends) in state.lanes.iter_mut().zip(sends) {
            let unmined = view.unmined.get(&lane.address);
            lane.sent.retain(|id, _| unmined.into_iter().flatten().any(|unmined| unmined.tx.id == *id));
            for (id, sent) in sends {
                match sent {
                    Ok(SendOutcome::Unknown) => state.retry = true,
                    Ok(SendOutcome::Rejected | SendOutcome::TooLarge) => {
                        outcome = Err(SendError::Refused(lane.address))
                    }
                    Ok(SendOutcome::NoFunds) => {
                        lane.lacks_funds();
                        lane.sent.insert(id, hash);
                    }
                    Ok(_) => _ = lane.sent.insert(id, hash),
                    Err(error) => outcome = Err(error),
                }
            }
        }
        let is_old =
            |unmined: &&Unmined| head.block.number.saturating_sub(unmined.first.sent_at) >= UNMINED_ALARM_BLOCKS;
        let old = view.unmined.values().flatten().filter(is_old).map(|Unmined { tx, first, .. }| {
            let (submitter, nonce, since) = (tx.submitter, tx.nonce, first.sent_at);
            format!("the transaction of {submitter} with nonce {nonce} waits for a block since block {since}")
        });
        self.warn_or_clear("unmined", list(old));
        outcome
    }
}

impl LedgerView {
    fn first_unmined(&self, lane: &Lane) -> Option<&Unmined> {
        self.unmined.get(&lane.address)?.first()
    }
}

impl SenderState {
    fn new(lanes: Vec<Lane>) -> Self {
        Self { lanes, backlog: Backlog::default(), market: None, retry: false }
    }
}

fn cost(gas_limit: u64, max_fee: u64) -> u128 {
    u128::from(gas_limit).saturating_mul(u128::from(max_fee))
}
