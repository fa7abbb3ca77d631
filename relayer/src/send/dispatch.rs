//! Gives work to lanes: planned, simulated, signed, stored, sent.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256};
use futures_util::future::join_all;
use stipend_core::{Code, MandateId};

use super::{
    RETRY_DELAY, SendError, Sender, SenderState, Unmined,
    fees::Fees,
    lane::{Lane, LaneState},
    plan::{ContractCall, NonceOwner, PlanInput, Priority, RoundRobin, Slot, Work, max_gas, plan},
    queue::{self, ChainView, RowQuery},
    simulate::BatchCheck,
};
use crate::{
    chain::{follow::Head, rpc::SendOutcome},
    failpoint::{self, Point},
    ledger::{
        blocks,
        payments::{self, PaymentCursor},
        transactions::Kind,
    },
};

/// How many parts of what a simulation refused are retried with each head, and how many rows each has.
const MAX_REFUSED_PARTS: usize = 16;
const REFUSED_ROWS: usize = 150;
/// How often, between two blocks, to look for work where no lane is idle.
const LOOK_BEHIND: Duration = Duration::from_millis(100);
/// The longest that a call which would fail is left alone.
const MAX_BACKOFF_BLOCKS: u64 = 16;

/// What waits to be sent, as far as it is remembered from step to step.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    round_robin: RoundRobin,
    /// After which mandate payments are looked for.
    after: MandateId,
    backoff: HashMap<Kind, Backoff>,
    mandates_of: HashMap<u64, Arc<[MandateId]>>,
    sweeps: Vec<ContractCall>,
    /// The head at which the sweeps were read.
    sweeps_read_at: Option<B256>,
    /// Where to resume with the rows that a simulation refused, and the head at which they were retried.
    refused_after: PaymentCursor,
    refused_retried_at: Option<B256>,
    /// The head at which work for lanes that are not idle was last looked for, and when.
    looked_behind: Option<(B256, Instant)>,
}

/// A call that would have failed.
#[derive(Clone, Copy, Debug, Default)]
struct Backoff {
    failures: u32,
    until_block: u64,
}

enum WorkOutcome {
    /// Stored, as this transaction.
    Stored(Box<Unmined>, SendOutcome),
    WouldFail(Kind),
    /// There is another plan now.
    Nothing,
    /// The lane can do nothing of this until another block.
    Stuck,
    NotSubmitter,
}

impl Backlog {
    fn would_fail(&mut self, kind: Kind, block: u64) {
        let backoff = self.backoff.entry(kind).or_default();
        let blocks = 1_u64.checked_shl(backoff.failures).unwrap_or(MAX_BACKOFF_BLOCKS).min(MAX_BACKOFF_BLOCKS);
        *backoff = Backoff { failures: backoff.failures.saturating_add(1), until_block: block.saturating_add(blocks) };
        self.sweeps.retain(|sweep| sweep.kind != kind);
    }

    fn stored(&mut self, kind: Kind) {
        self.round_robin.serve(Priority::of(kind));
        self.backoff.remove(&kind);
        self.sweeps.retain(|sweep| sweep.kind != kind);
    }

    /// The calls that are not to be tried yet at this height.
    fn backed_off(&mut self, height: u64) -> HashSet<Kind> {
        self.backoff.retain(|_, backoff| backoff.until_block.saturating_add(MAX_BACKOFF_BLOCKS) > height);
        self.backoff.iter().filter(|(_, backoff)| backoff.until_block > height).map(|(kind, _)| *kind).collect()
    }

    /// The next step looks for payments after the last mandate that this one served, but first for those of mandates that
    /// it left to another transaction.
    fn advance(&mut self, order: &[MandateId], planned: &[(usize, Work)]) {
        let is_in = |mandate: &MandateId, work: &Work| matches!(work, Work::Batch(batch) if batch.rows.iter().any(|row| row.payment.mandate == *mandate));
        let served = |mandate: &&MandateId| planned.iter().any(|(_, work)| is_in(mandate, work));
        if let Some(last) = order.iter().take_while(served).last() {
            self.after = *last;
        }
    }
}

impl Sender {
    /// Gives work to the lanes that can take some, until nothing is left that can go.
    pub(super) async fn dispatch(&self, head: Head, fees: Fees, state: &mut SenderState) -> Result<(), SendError> {
        let mut outcome = self.retry_refused(head, state).await;
        let mut failed: HashSet<usize> = HashSet::new();
        for round in 0_u32.. {
            let slots = slots(head, fees, &failed, round > 0, state);
            if slots.is_empty() {
                break;
            }
            let input = self.plan_input(head, slots, state).await?;
            let order: Vec<MandateId> = input.rows.iter().map(|row| row.payment.mandate).collect();
            let planned = plan(input, &state.backlog.round_robin);
            if planned.is_empty() {
                break;
            }
            state.backlog.advance(&order, &planned);
            let lanes = &state.lanes;
            let outcomes = join_all(planned.into_iter().map(async |(index, work)| match lanes.get(index) {
                Some(lane) => (index, self.execute(lane, work, head, fees).await),
                None => (index, Ok(WorkOutcome::Nothing)),
            }));
            for (index, executed) in outcomes.await {
                let Some(lane) = state.lanes.get_mut(index) else { continue };
                match executed {
                    Ok(WorkOutcome::Stored(unmined, sent)) => {
                        state.backlog.stored(unmined.tx.kind);
                        state.whole.insert(unmined.tx.id);
                        lane.next_nonce = lane.next_nonce.map(|nonce| nonce.saturating_add(1));
                        lane.unmined.push(*unmined);
                        match sent {
                            SendOutcome::Unknown => state.retry = Some(RETRY_DELAY),
                            _ => _ = lane.sent.insert(unmined.tx.id, (head.block.hash, sent)),
                        }
                        if sent != SendOutcome::Accepted {
                            // Nothing goes behind what a node does not have.
                            state.seen = None;
                            failed.insert(index);
                        }
                    }
                    Ok(WorkOutcome::WouldFail(kind)) => state.backlog.would_fail(kind, head.block.number),
                    Ok(WorkOutcome::Nothing) => {}
                    Ok(WorkOutcome::Stuck) => _ = failed.insert(index),
                    Ok(WorkOutcome::NotSubmitter) => lane.remove(),
                    Err(error) => {
                        failed.insert(index);
                        // It may be stored all the same.
                        state.seen = None;
                        outcome = Err(error);
                    }
                }
            }
        }
        outcome
    }

    const fn chain_view(&self, head: Head) -> ChainView {
        ChainView { head, confirmations: self.confirmations }
    }

    /// Everything that can be given to these lanes.
    async fn plan_input(&self, head: Head, slots: Vec<Slot>, state: &mut SenderState) -> Result<PlanInput, SendError> {
        let SenderState { lanes, backlog, .. } = state;
        let limits = self.batches.limits();
        let (at, guardian, minimum) = (self.chain_view(head), self.deployment.guardian, self.sweep_min);
        if backlog.sweeps_read_at != Some(head.block.hash) {
            backlog.sweeps = self.ledger.read(move |ledger| queue::sweeps(ledger, guardian, minimum, at)).await?;
            backlog.sweeps_read_at = Some(head.block.hash);
        }
        let backed_off = backlog.backed_off(head.block.number);
        let sweeps: Vec<ContractCall> =
            backlog.sweeps.iter().filter(|sweep| !backed_off.contains(&sweep.kind)).cloned().collect();

        // Who can send keeps the mandates of its transactions until these are final.
        let keeps: HashMap<Address, usize> = lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.in_service())
            .map(|(index, lane)| (lane.address, index))
            .collect();
        let mut mandates_of = std::mem::take(&mut backlog.mandates_of);
        let query = RowQuery {
            after: backlog.after,
            limit: slots.len().saturating_mul(limits.rows),
            per_mandate: slots.iter().map(|slot| limits.room(slot.gas)).max().unwrap_or_default(),
        };
        // Behind others few payments do not go.
        let least = slots.iter().map(|slot| if slot.behind { limits.room(slot.gas) } else { 1 }).min();
        let read = self.ledger.read_applied(move |ledger| {
            if blocks::head(ledger)?.map(|block| block.hash) != Some(head.block.hash) {
                // The follower is about to tell of another one.
                return Ok((PlanInput::default(), mandates_of));
            }
            let nonce_owners = queue::nonce_owners(ledger, &mut mandates_of, |of| keeps.get(&of).copied())?;
            let can_go = |mandate: &MandateId| match nonce_owners.get(mandate) {
                None => true,
                Some(NonceOwner::Unmined) => false,
                Some(NonceOwner::Lane(lane)) => slots.iter().any(|slot| slot.lane == *lane),
            };
            let rows = match least {
                Some(least) if payments::wait_to_be_sent(ledger, least)? => queue::rows(ledger, at, query, can_go)?,
                _ => Vec::new(),
            };
            let mut calls = queue::calls(ledger, at, &backed_off)?;
            calls.extend(sweeps);
            Ok((PlanInput { slots, nonce_owners, calls, rows, limits }, mandates_of))
        });
        let (input, mandates_of) = read.await?;
        backlog.mandates_of = mandates_of;
        Ok(input)
    }

    /// Simulates work, signs it, stores it and sends it. Whether the node has it is secondary: the
    /// next step sends it again.
    async fn execute(&self, lane: &Lane, work: Work, head: Head, fees: Fees) -> Result<WorkOutcome, SendError> {
        let (work, gas_limit) = match work {
            Work::Call(call) => {
                let Some(gas_limit) = self.would_pass(lane.address, &call, head).await? else {
                    let allowed = self.is_allowed(lane.address, head).await?;
                    return Ok(if allowed { WorkOutcome::WouldFail(call.kind) } else { WorkOutcome::NotSubmitter });
                };
                (Work::Call(call), gas_limit)
            }
            Work::Batch(batch) => {
                let Some(most) = affordable(lane, head, fees) else { return Ok(WorkOutcome::Stuck) };
                match self.try_batch(lane.address, batch, most, head).await? {
                    BatchCheck::Passes(batch, gas_limit) => (Work::Batch(batch), gas_limit),
                    BatchCheck::Refused => return Ok(WorkOutcome::Nothing),
                    BatchCheck::WantsGas => return Ok(WorkOutcome::Stuck),
                    BatchCheck::NotSubmitter => return Ok(WorkOutcome::NotSubmitter),
                }
            }
        };
        failpoint::pass(Point::SendSimulated);
        let (stored, raw) = self.sign_and_store(lane, work, gas_limit, head, fees).await?;
        let outcome = self.transmit(lane, &stored, stored.last, &raw).await?;
        Ok(WorkOutcome::Stored(Box::new(stored), outcome))
    }

    /// Simulates the rows that an earlier simulation refused once per head: as long as all of a part
    /// pass, the next one too.
    async fn retry_refused(&self, head: Head, state: &mut SenderState) -> Result<(), SendError> {
        let SenderState { lanes, backlog, .. } = state;
        let lane = lanes.iter().find(|lane| !matches!(lane.state(), LaneState::Keyless | LaneState::Removed));
        let Some(from) = lane.map(|lane| lane.address).filter(|_| backlog.refused_retried_at != Some(head.block.hash))
        else {
            return Ok(());
        };
        backlog.refused_retried_at = Some(head.block.hash);
        let at = self.chain_view(head);
        for _ in 0..MAX_REFUSED_PARTS {
            let after = backlog.refused_after;
            let read = self.ledger.read(move |ledger| queue::refused(ledger, at, after, REFUSED_ROWS));
            let (rows, next) = read.await?;
            backlog.refused_after = next.unwrap_or_default();
            let parts = self.partition(from, rows, head).await?;
            if parts.refused.iter().any(|(_, reason)| *reason == Code::NotSubmitter) {
                return Ok(());
            }
            self.clear_refusals(&parts.pass).await?;
            self.record_refusals(&parts.refused).await?;
            if next.is_none() || !parts.refused.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The lanes that can take something, but for those that failed in this step: the idle ones, and those whose
/// transactions are about to be mined. All that is in flight behind others fits into one block.
fn slots(head: Head, fees: Fees, failed: &HashSet<usize>, again: bool, state: &mut SenderState) -> Vec<Slot> {
    let SenderState { lanes, backlog, .. } = &*state;
    let able = || lanes.iter().enumerate().filter(|(index, _)| !failed.contains(index));
    let slot = |lane, gas, behind| Slot { lane, gas, behind };
    let idle = able().filter(|(_, lane)| lane.state() == LaneState::Idle);
    let mut slots: Vec<Slot> =
        idle.filter_map(|(index, lane)| Some(slot(index, affordable(lane, head, fees)?, false))).collect();

    let in_flight = lanes.iter().fold(0_u64, |gas, lane| gas.saturating_add(lane.gas_in_flight()));
    let room = head.gas_limit.saturating_sub(in_flight) / max_gas(head).max(1);
    let room = usize::try_from(room).unwrap_or(usize::MAX).saturating_sub(slots.len());
    let behind = able().filter(|(_, lane)| lane.can_go_on(head)).take(room);
    let behind: Vec<Slot> =
        behind.filter_map(|(index, lane)| Some(slot(index, affordable(lane, head, fees)?, true))).collect();
    if behind.is_empty() {
        return slots;
    }
    // Where no lane is idle, what is accepted is mostly too little, and to look takes a read of the ledger.
    if slots.is_empty() && !again {
        let looked = backlog.looked_behind.filter(|(at, _)| *at == head.block.hash).map(|(_, when)| when.elapsed());
        if let Some(early) = looked.and_then(|looked| LOOK_BEHIND.checked_sub(looked)) {
            state.retry_within(early);
            return slots;
        }
        state.backlog.looked_behind = Some((head.block.hash, Instant::now()));
    }
    slots.extend(behind);
    slots
}

/// The gas of a transaction that the lane can pay for beside what it has in flight.
fn affordable(lane: &Lane, head: Head, fees: Fees) -> Option<u64> {
    let balance = lane.at(head)?.balance.saturating_sub(lane.cost_in_flight());
    let affordable = balance.checked_div(u128::from(fees.max_fee.max(1)))?;
    Some(u64::try_from(affordable).unwrap_or(u64::MAX).min(max_gas(head)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::batch::{Row, candidate};

    /// An endless stream to one payee, in one lane.
    #[test]
    fn a_popular_payee_keeps_no_other_waiting() {
        let mut backlog = Backlog::default();
        let mut waited: HashMap<MandateId, u32> = HashMap::new();
        for nonce in 0..40 {
            // A third of the mandates is read at a time; one in ten pays somebody else; all of them again and again.
            let paying = |mandate: u8| candidate(mandate, 3 * nonce + u32::from(mandate % 10 == 5));
            let (before, after): (Vec<Row>, Vec<Row>) =
                (1..=60).map(paying).partition(|row| row.payment.mandate <= backlog.after);
            let rows: Vec<Row> = after.into_iter().chain(before).take(20).collect();
            let order: Vec<MandateId> = rows.iter().map(|row| row.payment.mandate).collect();
            let input =
                PlanInput { slots: vec![Slot { lane: 0, gas: u64::MAX, behind: false }], rows, ..PlanInput::default() };
            let planned = plan(input, &backlog.round_robin);
            backlog.advance(&order, &planned);
            order.iter().for_each(|mandate| *waited.entry(*mandate).or_default() += 1);
            for (_, work) in &planned {
                let Work::Batch(batch) = work else { panic!("{work:?}") };
                batch.rows.iter().for_each(|row| _ = waited.insert(row.payment.mandate, 0));
            }
            assert!(waited.values().all(|waited| *waited < 2), "{waited:?}");
        }
    }
}
