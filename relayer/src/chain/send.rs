//! The sender: lanes, each a submitter with at most one transaction that no block holds.
//!
//! ```text
//! idle ── something waits, simulated ──▶ signed and stored ──▶ sent ──▶ mined (by the follower) ──▶ idle
//!                                              ▲                │
//!                                              └── again, or ◀──┘  no block after a while:
//!                                                  with higher fees  the same call, the same nonce
//! ```
//! What is sent was stored before. What became of it is told by the follower alone: an answer of
//! the node decides at most when to send again. What goes into which lane is decided by [`plan`].

mod attempt;
mod lane;
pub mod plan;
mod simulate;
mod work;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256};
use futures_util::future::join_all;
use stipend_core::MandateId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    lane::{Lane, list},
    plan::{Board, CALL_GAS, Job, Single, Turns, plan},
    simulate::Tried,
    work::At,
};
use super::{
    batch::{Batch, ROWS},
    classify::Sent,
    fees::{self, Fees, Market},
    follow::Head,
    rpc::{Rpc, RpcError},
};
use crate::{
    failpoint::{self, Point},
    health::Health,
    ledger::{
        Deployment, Ledger, LedgerError, blocks,
        transactions::{self, Attempt, Kind},
    },
};

/// What is not mined after so many blocks is said.
const SAY_AFTER: u64 = 10;
/// When to try again what failed, if no block comes first.
const AGAIN: Duration = Duration::from_secs(1);
/// How many parts of what a simulation refused are asked about again with each head.
const PROBES: usize = 16;
/// The longest that a call which would fail is left alone, in blocks.
const LATER: u64 = 16;

/// Why a step of the sender failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The node.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The key.
    #[error("the submitter's key can't sign: {0}")]
    Key(#[from] alloy::signers::Error),
    /// The node refuses what we send.
    #[error("the node refuses a transaction of the submitter {0}, which is sent again with every block: see the log")]
    Refused(Address),
    /// The chain's nonce is not the one that the ledger expects.
    #[error(
        "the submitter {submitter} has nonce {chain} on chain, the ledger expects {expected}: a transaction that is not in the ledger used its key; stop whatever else uses it, then run `stipend ledger repair`"
    )]
    ForeignTransaction {
        /// Who.
        submitter: Address,
        /// On chain.
        chain: u64,
        /// In the ledger.
        expected: u64,
    },
    /// The node does not count what is in the very block that it is asked about.
    #[error(
        "the node counts {nonce} transactions of the submitter {submitter}, {expected} are in the blocks up to its own"
    )]
    NodeForgets {
        /// Who.
        submitter: Address,
        /// What it says.
        nonce: u64,
        /// What is known.
        expected: u64,
    },
}

/// The sender.
#[derive(Debug)]
pub struct Sender {
    /// The node.
    pub rpc: Rpc,
    /// The ledger.
    pub ledger: Ledger,
    /// The deployment.
    pub deployment: Deployment,
    /// The submitters' keys.
    pub submitters: Vec<PrivateKeySigner>,
    /// Blocks, the including one counted, after which a mandate can be used.
    pub confirmations: u64,
    /// Wei per gas that are never exceeded.
    pub fee_ceiling: u64,
    /// Where to say what is wrong.
    pub health: Health,
}

/// A stored transaction that no block holds.
#[derive(Clone, Debug)]
struct Waiting {
    tx: transactions::TransactionRow,
    first: Attempt,
    newer: Vec<Attempt>,
    pointless: bool,
}

impl Waiting {
    fn last(&self) -> &Attempt {
        self.newer.last().unwrap_or(&self.first)
    }

    fn cost(&self) -> u128 {
        cost(self.tx.gas_limit, self.last().max_fee)
    }
}

/// The ledger, at one moment.
#[derive(Debug)]
struct View {
    head: Option<B256>,
    /// By submitter, in nonce order.
    waiting: HashMap<Address, Vec<Waiting>>,
    /// The nonce of each submitter's next transaction.
    next: HashMap<Address, u64>,
}

/// What is remembered from step to step. Losing it costs nothing but time.
#[derive(Debug)]
struct State {
    lanes: Vec<Lane>,
    turns: Turns,
    /// After which mandate payments are looked for.
    cursor: MandateId,
    /// Calls that would have failed: how often, and when to try again.
    later: HashMap<Kind, (u32, u64)>,
    mandates_of: HashMap<u64, Arc<[MandateId]>>,
    sweeps: Vec<Single>,
    /// The head at which the sweeps were read, and at which refused rows were asked about.
    swept: Option<B256>,
    probed: Option<B256>,
    probe: (MandateId, u32),
    market: Option<(B256, Market)>,
    /// Something is to be tried again, whether or not a block comes.
    again: bool,
}

/// What became of a job.
enum Done {
    Stored(Kind),
    Later(Kind),
    Nothing,
    NotSubmitter,
}

impl Sender {
    /// Begins to use the submitters.
    ///
    /// # Errors
    /// Those of node and ledger.
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
                    Ok(lanes) => self.step(head, none.insert(State::new(lanes))).await,
                    Err(error) => Err(error),
                },
            };
            let mut again = state.as_mut().is_some_and(|state| std::mem::take(&mut state.again));
            match stepped {
                Ok(()) => self.health.clear("sender"),
                Err(error) => {
                    again = true;
                    self.health.warn("sender", error.to_string());
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                moved = heads.changed() => if moved.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if again => {}
            }
        }
    }

    /// A lane for each key, and one without a key for each submitter that an earlier run had: what it
    /// signed then is still to be sent.
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

    /// Looks at the submitters, sends again what no block holds, and gives work to lanes without.
    async fn step(&self, head: Head, state: &mut State) -> Result<(), SendError> {
        let view = self.view(state).await?;
        if view.head != Some(head.block.hash) {
            // The follower is about to tell of another one.
            return Ok(());
        }
        let market = match state.market.filter(|(at, _)| *at == head.block.hash) {
            Some((_, market)) => Ok(market),
            None => self.rpc.tip().await.map(|tip| Market { base_fee: head.base_fee, tip }),
        };
        if let Ok(market) = &market {
            state.market = Some((head.block.hash, *market));
        }
        let fees = match &market {
            Ok(market) => self.first_fees(&view, head, *market),
            Err(_) => None,
        };
        let looked = self.look_at_all(head, &view, fees, state).await;
        self.say(&state.lanes);
        if self.health.halted().is_some() {
            return looked;
        }
        let pushed = self.push_all(head, &view, market.as_ref().ok().copied(), state).await;
        let given = match fees {
            Some(fees) => self.give_work(head, &view, fees, state).await,
            None => Ok(()),
        };
        self.say(&state.lanes);
        market?;
        looked.and(pushed).and(given)
    }

    /// What a new transaction pays, if the ceiling allows any. Says what waits for lower fees.
    fn first_fees(&self, view: &View, head: Head, market: Market) -> Option<Fees> {
        let first = fees::first(market, self.ceiling(false));
        let stuck = || view.waiting.values().flatten().find_map(|waiting| self.too_dear(waiting, head, market));
        self.warn_or_clear("fees", first.err().or_else(stuck).map(|error| error.to_string()));
        first.ok()
    }

    async fn view(&self, state: &State) -> Result<View, SendError> {
        let submitters: Vec<Address> = state.lanes.iter().map(|lane| lane.address).collect();
        let view = self.ledger.read(move |ledger| {
            let mut waiting: HashMap<Address, Vec<Waiting>> = HashMap::new();
            for tx in transactions::pending(ledger)? {
                let mut attempts = transactions::attempts(ledger, tx.id)?.into_iter();
                let Some(first) = attempts.next() else {
                    return Err(LedgerError::Inconsistent(format!("transaction {} has no attempt", tx.id)));
                };
                let pointless = transactions::is_pointless(ledger, &tx)?;
                let of = waiting.entry(tx.submitter).or_default();
                of.push(Waiting { tx, first, newer: attempts.collect(), pointless });
            }
            let mut next = HashMap::new();
            for submitter in submitters {
                next.extend(transactions::next_nonce(ledger, submitter)?.map(|nonce| (submitter, nonce)));
            }
            Ok(View { head: blocks::head(ledger)?.map(|block| block.hash), waiting, next })
        });
        Ok(view.await?)
    }

    /// Each submitter once per head.
    async fn look_at_all(
        &self,
        head: Head,
        view: &View,
        fees: Option<Fees>,
        state: &mut State,
    ) -> Result<(), SendError> {
        let looks = state.lanes.iter().map(async |lane| {
            let next = view.next.get(&lane.address).filter(|_| lane.at(head).is_none())?;
            let waiting = view.waiting.get(&lane.address).and_then(|waiting| waiting.first());
            Some(self.look(lane, (*next, waiting), fees, head).await)
        });
        let looks = join_all(looks).await;
        let mut outcome = Ok(());
        for (lane, look) in state.lanes.iter_mut().zip(looks) {
            match look {
                None => {}
                Some(Ok((found, removed))) => (lane.found, lane.removed) = (Some(found), removed),
                Some(Err(error)) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Sends what waits for a block, each once per head at most: an answer of the node is no reason to
    /// hurry.
    async fn push_all(
        &self,
        head: Head,
        view: &View,
        market: Option<Market>,
        state: &mut State,
    ) -> Result<(), SendError> {
        let hash = head.block.hash;
        let sends = state.lanes.iter().map(async |lane| {
            let mut sent = Vec::new();
            for waiting in view.waiting.get(&lane.address).into_iter().flatten() {
                if lane.sent.get(&waiting.tx.id) != Some(&hash) {
                    sent.push((waiting.tx.id, self.push(lane, waiting, head, market).await));
                }
            }
            sent
        });
        let sends = join_all(sends).await;
        let mut outcome = Ok(());
        for (lane, sends) in state.lanes.iter_mut().zip(sends) {
            let waiting = view.waiting.get(&lane.address);
            lane.sent.retain(|id, _| waiting.into_iter().flatten().any(|waiting| waiting.tx.id == *id));
            for (id, sent) in sends {
                match sent {
                    Ok(Sent::Unknown) => state.again = true,
                    Ok(Sent::Rejected) => outcome = Err(SendError::Refused(lane.address)),
                    Ok(_) => _ = lane.sent.insert(id, hash),
                    Err(error) => outcome = Err(error),
                }
            }
        }
        let old = view
            .waiting
            .values()
            .flatten()
            .filter(|waiting| head.block.number.saturating_sub(waiting.first.sent_at) >= SAY_AFTER);
        let old = old.map(|Waiting { tx, first, .. }| {
            let (submitter, nonce, since) = (tx.submitter, tx.nonce, first.sent_at);
            format!("the transaction of {submitter} with nonce {nonce} waits for a block since block {since}")
        });
        self.warn_or_clear("unmined", list(old));
        outcome
    }

    /// Gives work to the lanes that have none, until nothing is left that can go.
    async fn give_work(&self, head: Head, view: &View, fees: Fees, state: &mut State) -> Result<(), SendError> {
        let mut busy: HashSet<usize> = HashSet::new();
        for (index, lane) in state.lanes.iter().enumerate() {
            if view.waiting.contains_key(&lane.address) {
                busy.insert(index);
            }
        }
        let mut outcome = self.probe(head, state).await;
        loop {
            let board = self.board(head, fees, &busy, state).await?;
            if board.lanes.is_empty() {
                return outcome;
            }
            let order: Vec<MandateId> = board.rows.iter().map(|row| row.payment.mandate).collect();
            let jobs = plan(board, &state.turns);
            if jobs.is_empty() {
                return outcome;
            }
            let goes = |mandate: &&MandateId| {
                let rides = |job: &Job| matches!(job, Job::Batch(batch) if batch.rows.iter().any(|row| row.payment.mandate == **mandate));
                jobs.iter().any(|(_, job)| rides(job))
            };
            if let Some(last) = order.iter().rev().find(goes) {
                state.cursor = *last;
            }
            let lanes = &state.lanes;
            let done = join_all(jobs.into_iter().map(async |(index, job)| {
                let done = match lanes.get(index) {
                    Some(lane) => self.carry_out(lane, job, head, fees).await,
                    None => Ok((Done::Nothing, None)),
                };
                (index, done)
            }));
            for (index, done) in done.await {
                let lane = state.lanes.get_mut(index);
                match done {
                    Ok((Done::Stored(kind), sent)) => {
                        busy.insert(index);
                        state.turns.serve(plan::Class::of(kind));
                        state.later.remove(&kind);
                        state.sweeps.retain(|sweep| sweep.kind != kind);
                        match (lane, sent) {
                            (Some(lane), Some(id)) => _ = lane.sent.insert(id, head.block.hash),
                            _ => state.again = true,
                        }
                    }
                    Ok((Done::Later(kind), _)) => {
                        let (times, at) = state.later.entry(kind).or_default();
                        *at = head.block.number.saturating_add(1_u64.checked_shl(*times).unwrap_or(LATER).min(LATER));
                        *times = times.saturating_add(1);
                        state.sweeps.retain(|sweep| sweep.kind != kind);
                    }
                    Ok((Done::Nothing, _)) => {}
                    Ok((Done::NotSubmitter, _)) => {
                        if let Some(lane) = lane {
                            lane.removed = true;
                        }
                    }
                    Err(error) => {
                        busy.insert(index);
                        outcome = Err(error);
                    }
                }
            }
        }
    }

    /// Everything that can be given to the idle lanes.
    async fn board(
        &self,
        head: Head,
        fees: Fees,
        busy: &HashSet<usize>,
        state: &mut State,
    ) -> Result<Board, SendError> {
        let price = u128::from(fees.max_fee.max(1));
        let idle = state.lanes.iter().enumerate().filter(|(index, lane)| lane.in_service() && !busy.contains(index));
        let lanes: Vec<(usize, u64)> = idle
            .filter_map(|(index, lane)| {
                let gas = lane.at(head)?.balance.checked_div(price)?;
                Some((index, u64::try_from(gas).unwrap_or(u64::MAX)))
            })
            .collect();
        if lanes.is_empty() {
            return Ok(Board::default());
        }
        let at = At { head, confirmations: self.confirmations };
        let guardian = self.deployment.guardian;
        if state.swept != Some(head.block.hash) {
            state.sweeps = self.ledger.read(move |ledger| work::sweeps(ledger, guardian, at)).await?;
            state.swept = Some(head.block.hash);
        }
        state.later.retain(|_, (_, block)| block.saturating_add(LATER) > head.block.number);
        let later: HashSet<Kind> =
            state.later.iter().filter(|(_, (_, block))| *block > head.block.number).map(|(kind, _)| *kind).collect();
        let sweeps: Vec<Single> = state.sweeps.iter().filter(|sweep| !later.contains(&sweep.kind)).cloned().collect();

        // Who can send keeps the mandates of its transactions until these are final.
        let keeps: HashMap<Address, usize> = state
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.in_service())
            .map(|(index, lane)| (lane.address, index))
            .collect();
        let (cursor, mut known) = (state.cursor, std::mem::take(&mut state.mandates_of));
        let idle: HashSet<usize> = lanes.iter().map(|(index, _)| *index).collect();
        let per_mandate = lanes.iter().map(|(_, gas)| Batch::room(*gas)).max().unwrap_or_default();
        let wanted = lanes.len().saturating_mul(ROWS);
        let read = self.ledger.read(move |ledger| {
            let holders = work::holders(ledger, &mut known, |submitter| keeps.get(&submitter).copied())?;
            let may_go = |mandate: &MandateId| match holders.get(mandate) {
                None => true,
                Some(plan::Holder::Unmined) => false,
                Some(plan::Holder::Lane(lane)) => idle.contains(lane),
            };
            let rows = work::rows(ledger, at, (cursor, wanted, per_mandate), may_go)?;
            let mut calls = work::calls(ledger, at, &later)?;
            calls.extend(sweeps);
            Ok((Board { lanes, holders, calls, rows }, known))
        });
        let (board, known) = read.await?;
        state.mandates_of = known;
        Ok(board)
    }

    /// Simulates a job, signs it, stores it and sends it. Whether the node has it is secondary: the
    /// next step sends it again.
    async fn carry_out(&self, lane: &Lane, job: Job, head: Head, fees: Fees) -> Result<(Done, Option<u64>), SendError> {
        let job = match job {
            Job::Single(single) => {
                if !self.would_pass(lane.address, (single.kind, &single.calldata), head).await? {
                    let allowed = self.is_allowed(lane.address, head).await?;
                    return Ok((if allowed { Done::Later(single.kind) } else { Done::NotSubmitter }, None));
                }
                Job::Single(single)
            }
            Job::Batch(batch) => match self.try_batch(lane.address, batch, head).await? {
                Tried::Passes(batch) => Job::Batch(batch),
                Tried::Refused => return Ok((Done::Nothing, None)),
                Tried::NotSubmitter => return Ok((Done::NotSubmitter, None)),
            },
        };
        failpoint::pass(Point::SendSimulated);
        let waiting = self.sign_and_store(lane, job, head, fees).await?;
        let id = match self.push(lane, &waiting, head, None).await? {
            Sent::Unknown => None,
            _ => Some(waiting.tx.id),
        };
        Ok((Done::Stored(waiting.tx.kind), id))
    }

    /// Asks once per head about rows that a simulation refused: as long as all of a part pass, about
    /// the next one.
    async fn probe(&self, head: Head, state: &mut State) -> Result<(), SendError> {
        let lane = state.lanes.iter().find(|lane| lane.key.is_some() && !lane.removed);
        let Some(from) = lane.map(|lane| lane.address).filter(|_| state.probed != Some(head.block.hash)) else {
            return Ok(());
        };
        state.probed = Some(head.block.hash);
        let at = At { head, confirmations: self.confirmations };
        for _ in 0..PROBES {
            let cursor = state.probe;
            let (rows, next) = self.ledger.read(move |ledger| work::refused(ledger, at, (cursor, ROWS))).await?;
            let begun_anew = next.is_none();
            state.probe = next.unwrap_or(State::START);
            let sifted = self.sift(from, rows, head).await?;
            if sifted.refused.iter().any(|(_, reason)| *reason == stipend_core::Code::NotSubmitter) {
                return Ok(());
            }
            self.take_up(&sifted.pass).await?;
            self.note(&sifted.refused).await?;
            if begun_anew || !sifted.refused.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl State {
    /// Before every payment.
    const START: (MandateId, u32) = (MandateId(B256::ZERO), 0);

    fn new(lanes: Vec<Lane>) -> Self {
        Self {
            lanes,
            turns: Turns::default(),
            cursor: Self::START.0,
            later: HashMap::new(),
            mandates_of: HashMap::new(),
            sweeps: Vec::new(),
            swept: None,
            probed: None,
            probe: Self::START,
            market: None,
            again: false,
        }
    }
}

fn cost(gas_limit: u64, max_fee: u64) -> u128 {
    u128::from(gas_limit).saturating_mul(u128::from(max_fee))
}
