//! The sender: lanes, each a submitter with at most a few transactions that no block holds.
//!
//! ```text
//!  Unknown ──▶ Idle ── work simulated, signed, stored, sent ──▶ Unmined ── mined (by the follower) ──▶ Idle
//!                                                              │     ▲
//!                                   no block after a while:    └─────┘   the same bytes, or a replacement
//!                                                                        with higher fees and the same nonce
//!  Unmined, and a node has all of it: another call, or a full batch, with the next nonce
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
mod row_gas;
mod simulate;
mod size;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256};
use futures_util::future::join_all;
use rusqlite::Connection;
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
        gas_used::GasUsed,
        rpc::{Rpc, RpcError, SendOutcome},
    },
    ledger::{
        Ledger, LedgerError, blocks,
        transactions::{self, AttemptHead, Kind},
    },
};

/// An attempt that is unmined for this many blocks is replaced by one with higher fees.
const REPLACE_AFTER: u64 = 3;
/// An alarm is raised for a transaction that stays unmined for this many blocks.
const UNMINED_ALARM_BLOCKS: u64 = 10;
/// When to retry what failed, and to look again at what is unmined, if no block comes first.
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
    /// What blocks say of the gas of our transactions.
    pub gas_used: GasUsed,
    pub batches: BatchSize,
}

/// A stored transaction that no block holds.
#[derive(Clone, Copy, Debug)]
struct Unmined {
    tx: transactions::TransactionRow,
    /// The head's height when the first attempt was signed.
    since: u64,
    last: AttemptHead,
    /// It is obsolete, or no block has room for it, or it is not whole: only its nonce is to be used up.
    obsolete: bool,
    /// All payments of its call are in it. Otherwise it was being stored when the relayer stopped, or they changed.
    whole: bool,
}

impl Unmined {
    fn cost(&self) -> u128 {
        cost(self.tx.gas_limit, self.last.max_fee)
    }
}

/// What is remembered from step to step. Losing it costs nothing but time.
#[derive(Debug)]
struct SenderState {
    lanes: Vec<Lane>,
    /// The head at which the lanes' transactions were read from the ledger, and when.
    seen: Option<(B256, Instant)>,
    /// Those that are known to be whole.
    whole: HashSet<u64>,
    backlog: Backlog,
    market: Option<(B256, Market)>,
    /// After how long something is to be tried again, whether or not a block comes.
    retry: Option<Duration>,
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
            let mut retry = state.as_mut().and_then(|state| state.retry.take());
            match stepped {
                Ok(()) => self.alarms.clear("sender"),
                Err(error) => {
                    retry = Some(retry.unwrap_or(RETRY_DELAY));
                    self.alarms.warn("sender", error.to_string());
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                moved = heads.changed() => if moved.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
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

    /// Refreshes the lanes, sends again what no block holds, and gives work to those that can take some.
    async fn step(&self, head: Head, state: &mut SenderState) -> Result<(), SendError> {
        if !self.see(head, state).await? {
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
            Ok(market) => self.first_fees(&state.lanes, head, *market),
            Err(_) => None,
        };
        let refreshed = self.refresh_lanes(head, fees, state).await;
        self.publish_alarms(&state.lanes);
        if self.alarms.halted().is_some() {
            return refreshed;
        }
        let sent = self.rebroadcast_all(head, market.as_ref().ok().copied(), state).await;
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
    fn first_fees(&self, lanes: &[Lane], head: Head, market: Market) -> Option<Fees> {
        let first = fees::first(market, self.ceiling(false));
        let unmined = || lanes.iter().flat_map(|lane| &lane.unmined);
        let stuck = || unmined().find_map(|tx| self.fee_above_ceiling(tx, head, market));
        self.warn_or_clear("fees", first.err().or_else(stuck).map(|error| error.to_string()));
        first.ok()
    }

    /// Reads what of the lanes' transactions no block holds. With every head, and no more than once a second
    /// besides: only blocks and this task change it, but for what makes one obsolete. False if the ledger is at another
    /// head.
    async fn see(&self, head: Head, state: &mut SenderState) -> Result<bool, SendError> {
        if let Some((at, when)) = state.seen
            && at == head.block.hash
            && when.elapsed() < RETRY_DELAY
        {
            if state.lanes.iter().any(Lane::is_busy) {
                state.retry_within(RETRY_DELAY);
            }
            return Ok(true);
        }
        let when = Instant::now();
        let submitters: Vec<Address> = state.lanes.iter().map(|lane| lane.address).collect();
        let (too_large, block_gas) = (self.batches.too_large(), head.gas_limit);
        let is_too_large =
            move |tx: &transactions::TransactionRow| tx.gas_limit > block_gas || too_large.contains(&tx.id);
        let gas_used = self.gas_used.take();
        let known = state.whole.clone();
        let read = self.ledger.read_applied(move |ledger| {
            let mut unmined: HashMap<Address, Vec<Unmined>> = HashMap::new();
            for tx in transactions::pending(ledger)? {
                let attempts = transactions::attempts(ledger, tx.id)?;
                let (Some(first), Some(last)) = (attempts.first(), attempts.last()) else {
                    return Err(LedgerError::Inconsistent(format!("transaction {} has no attempt", tx.id)));
                };
                let whole = known.contains(&tx.id) || is_whole(ledger, &tx)?;
                let obsolete = !whole || transactions::is_obsolete(ledger, &tx)? || is_too_large(&tx);
                let of = unmined.entry(tx.submitter).or_default();
                of.push(Unmined { tx, since: first.sent_at, last: *last, obsolete, whole });
            }
            let mut next_nonces = Vec::with_capacity(submitters.len());
            for submitter in submitters {
                next_nonces.push(transactions::next_nonce(ledger, submitter)?);
            }
            let mut mined = Vec::new();
            for used in gas_used {
                mined.extend(transactions::rows_of_attempt(ledger, used.tx)?.map(|rows| (rows, used)));
            }
            Ok((blocks::head(ledger)?.map(|block| block.hash), unmined, next_nonces, mined))
        });
        let (at, mut unmined, next_nonces, mined) = read.await?;
        for (rows, used) in mined {
            self.batches.record(rows, used.gas, used.succeeded);
        }
        if at != Some(head.block.hash) {
            state.seen = None;
            return Ok(false);
        }
        for (lane, next_nonce) in state.lanes.iter_mut().zip(next_nonces) {
            lane.next_nonce = next_nonce;
            lane.unmined = unmined.remove(&lane.address).unwrap_or_default();
            let unmined = &lane.unmined;
            lane.sent.retain(|id, _| unmined.iter().any(|unmined| unmined.tx.id == *id));
        }
        let unmined = state.lanes.iter().flat_map(|lane| &lane.unmined);
        state.whole = unmined.filter(|unmined| unmined.whole).map(|unmined| unmined.tx.id).collect();
        state.seen = Some((head.block.hash, when));
        Ok(true)
    }

    /// Looks at each submitter's account once per head.
    async fn refresh_lanes(&self, head: Head, fees: Option<Fees>, state: &mut SenderState) -> Result<(), SendError> {
        let accounts = join_all(state.lanes.iter().map(async |lane| {
            let next = lane.next_nonce.filter(|_| lane.at(head).is_none())?;
            Some(self.account(lane, next, fees, head).await)
        }));
        let accounts = accounts.await;
        let mut outcome = Ok(());
        for (lane, account) in state.lanes.iter_mut().zip(accounts) {
            match account {
                None => {}
                Some(Ok(account)) => lane.refresh(account),
                Some(Err(error)) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Sends what waits for a block, in the order of nonces, each once per head at most: an answer of the node is no
    /// reason to hurry.
    async fn rebroadcast_all(
        &self,
        head: Head,
        market: Option<Market>,
        state: &mut SenderState,
    ) -> Result<(), SendError> {
        let hash = head.block.hash;
        let sends = join_all(state.lanes.iter().map(async |lane| {
            let mut sent = Vec::new();
            for (index, unmined) in lane.unmined.iter().enumerate() {
                if lane.sent.get(&unmined.tx.id).is_none_or(|(at, _)| *at != hash) {
                    sent.push((index, self.rebroadcast(lane, unmined, head, market).await));
                }
            }
            sent
        }));
        let sends = sends.await;
        let SenderState { lanes, seen, retry, .. } = state;
        let mut outcome = Ok(());
        for (lane, sends) in lanes.iter_mut().zip(sends) {
            for (index, sent) in sends {
                let Some(unmined) = lane.unmined.get_mut(index) else { continue };
                let id = unmined.tx.id;
                let sent = sent.map(|(sent, last)| {
                    unmined.last = last;
                    sent
                });
                match sent {
                    Ok(SendOutcome::Unknown) => *retry = Some(retry.unwrap_or(RETRY_DELAY)),
                    Ok(SendOutcome::Rejected | SendOutcome::TooLarge) => {
                        // What is refused for its size has become obsolete.
                        *seen = None;
                        outcome = Err(SendError::Refused(lane.address));
                    }
                    Ok(outcome) => {
                        if outcome == SendOutcome::NoFunds {
                            lane.lacks_funds();
                        }
                        lane.sent.insert(id, (hash, outcome));
                    }
                    Err(error) => outcome = Err(error),
                }
            }
        }
        let is_old = |unmined: &&Unmined| head.block.number.saturating_sub(unmined.since) >= UNMINED_ALARM_BLOCKS;
        let old =
            state.lanes.iter().flat_map(|lane| &lane.unmined).filter(is_old).map(|Unmined { tx, since, .. }| {
                let (submitter, nonce) = (tx.submitter, tx.nonce);
                format!("the transaction of {submitter} with nonce {nonce} waits for a block since block {since}")
            });
        self.warn_or_clear("unmined", list(old));
        outcome
    }
}

impl SenderState {
    fn new(lanes: Vec<Lane>) -> Self {
        Self { lanes, seen: None, whole: HashSet::new(), backlog: Backlog::default(), market: None, retry: None }
    }

    /// The next step comes no later than after this time.
    fn retry_within(&mut self, delay: Duration) {
        self.retry = Some(self.retry.map_or(delay, |before| before.min(delay)));
    }
}

/// Whether the ledger has all payments of a transaction's call as being in it.
fn is_whole(ledger: &Connection, tx: &transactions::TransactionRow) -> Result<bool, LedgerError> {
    if tx.kind != Kind::Settle {
        return Ok(true);
    }
    let rows = batch::row_count(&transactions::calldata(ledger, tx.id)?);
    Ok(rows == usize::try_from(transactions::row_count(ledger, tx.id)?).ok())
}

fn cost(gas_limit: u64, max_fee: u64) -> u128 {
    u128::from(gas_limit).saturating_mul(u128::from(max_fee))
}
