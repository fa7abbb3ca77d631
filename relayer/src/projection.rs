//! Projects what the chain says onto the ledger; never talks to a node. A block is mined, reverted or
//! finalized; only the last moves balances. It runs in slices, each inside one commit of the ledger, which says what is
//! half done.

mod escrow_event;
mod finality;

use std::time::Instant;

use alloy_primitives::B256;
use rusqlite::Connection;
use serde_json::json;
use stipend_core::{Deployment, MandateId, Seconds, Terms, api::PaymentState};

use escrow_event::EscrowEvent;

use crate::{
    failpoint::{self, Point},
    ledger::{
        LedgerError, audit,
        balances::Transition,
        blocks::{self, Block, Log, Receipt, Unfinished},
        cards,
        mandates::{self, TxLocation},
        openings,
        payments::{self, Spent, TransitionContext},
        requests, transactions,
    },
};

/// A block with what it says about us.
#[derive(Clone, Debug)]
pub struct MinedBlock {
    pub block: Block,
    /// The escrow's logs.
    pub logs: Vec<Log>,
    /// The receipts of our transactions in it.
    pub receipts: Vec<Receipt>,
}

/// How the chain has changed: what is read from one node at once.
#[derive(Clone, Debug)]
pub struct ChainUpdate {
    /// The highest block that stays: every block above it is reverted.
    pub ancestor: Block,
    /// The blocks that follow it, in order.
    pub committed: Vec<MinedBlock>,
    /// The height up to which blocks are final.
    pub finalized: u64,
}

/// The ledger's position after an update.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// The last block.
    pub head: Block,
    /// The height of the last final block.
    pub finalized: u64,
    /// How many blocks the update reverted.
    pub reverted: usize,
    /// How many blocks it made final.
    pub newly_final: usize,
}

/// Projects what the chain says onto the ledger of one deployment.
#[derive(Clone, Copy, Debug)]
pub struct Projector {
    pub deployment: Deployment,
}

/// How much of an update one commit takes: the ledger's writer has others to serve in between.
#[derive(Debug)]
pub enum Slice {
    /// What is done until then, and at least one row.
    Until(Instant),
    /// So many rows.
    Rows(u32),
}

impl Slice {
    /// Counts a row; whether it was the last one.
    fn is_over(&mut self) -> bool {
        self.is_over_after(1)
    }

    /// Counts rows; whether there is no time left.
    fn is_over_after(&mut self, rows: usize) -> bool {
        match self {
            Self::Until(end) => Instant::now() >= *end,
            Self::Rows(left) => {
                *left = left.saturating_sub(u32::try_from(rows).unwrap_or(u32::MAX));
                *left == 0
            }
        }
    }

    /// How many rows may be taken at once.
    fn room(&self) -> u32 {
        match self {
            Self::Until(_) => TOGETHER,
            Self::Rows(left) => TOGETHER.min(*left).max(1),
        }
    }
}

/// How many payments take a step together at most: not for long.
const TOGETHER: u32 = 64;

/// How far an update is applied. Lost in a crash, it is found again: what is left half done is marked in the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// How many blocks were reverted, or are about to be.
    reverted: usize,
    /// How many blocks were stored, of which the last one may not be mined to its end.
    stored: usize,
    /// How many logs of the next block were stored.
    logs: usize,
    /// How many blocks became final.
    newly_final: usize,
}

/// What became of a slice.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// There is more to do.
    Paused(Progress),
    /// The update is applied.
    Done(Applied),
}

impl Projector {
    /// Applies a slice of an update: reverts blocks from the top, mines the new ones, then finalizes. First of all it finishes
    /// what an update before left half done.
    pub fn apply(
        &self,
        ledger: &Connection,
        update: &ChainUpdate,
        mut progress: Progress,
        slice: &mut Slice,
        now: Seconds,
    ) -> Result<Outcome, LedgerError> {
        if !self.resume(ledger, slice, now)? {
            return Ok(Outcome::Paused(progress));
        }
        let last_stored = progress.stored.checked_sub(1).and_then(|last| update.committed.get(last));
        let expected = last_stored.map_or(update.ancestor, |mined| mined.block);
        while let Some(top) = blocks::head(ledger)?.filter(|top| top.hash != expected.hash) {
            progress.reverted += 1;
            if !self.unmine(ledger, top, slice, now)? {
                return Ok(Outcome::Paused(progress));
            }
            failpoint::pass(Point::FollowUnmining);
        }
        while let Some(mined) = update.committed.get(progress.stored) {
            if !self.store(ledger, mined, &mut progress, slice)? || !self.mine(ledger, mined.block, slice, now)? {
                return Ok(Outcome::Paused(progress));
            }
            failpoint::pass(Point::FollowMining);
        }
        while let Some(block) = blocks::next_to_finalize(ledger, update.finalized)? {
            if !self.finalize(ledger, block, slice, now)? {
                return Ok(Outcome::Paused(progress));
            }
            progress.newly_final += 1;
            failpoint::pass(Point::FollowFinalizing);
        }
        let head = blocks::head(ledger)?.ok_or_else(|| LedgerError::inconsistent("no block is left"))?;
        let finalized = blocks::last_final(ledger)?.map_or(0, |block| block.number);
        let Progress { reverted, newly_final, .. } = progress;
        Ok(Outcome::Done(Applied { head, finalized, reverted, newly_final }))
    }

    /// Finishes what was left half done of the last block; whether that is all.
    pub fn resume(&self, ledger: &Connection, slice: &mut Slice, now: Seconds) -> Result<bool, LedgerError> {
        match blocks::unfinished(ledger)? {
            Some((block, Unfinished::Mining)) => self.mine(ledger, block, slice, now),
            Some((block, Unfinished::Reverting)) => self.unmine(ledger, block, slice, now),
            Some((block, Unfinished::Finalizing)) => self.finalize(ledger, block, slice, now),
            None => Ok(true),
        }
    }

    /// Stores the next block, its logs and what became of our transactions in it; whether that is all.
    fn store(
        &self,
        ledger: &Connection,
        mined: &MinedBlock,
        progress: &mut Progress,
        slice: &mut Slice,
    ) -> Result<bool, LedgerError> {
        let block = mined.block;
        if progress.logs == 0 {
            blocks::forget_logs(ledger, block.number)?;
        }
        for log in mined.logs.iter().skip(progress.logs) {
            blocks::add_log(ledger, block.number, log)?;
            progress.logs += 1;
            if slice.is_over() {
                return Ok(false);
            }
        }
        blocks::push(ledger, block)?;
        for receipt in &mined.receipts {
            if let Some(tx) = transactions::of_attempt(ledger, receipt.hash)? {
                let location = TxLocation { block: block.number, hash: block.hash, tx: receipt.hash };
                let succeeded = receipt.succeeded && !transactions::cancels(ledger, receipt.hash)?;
                transactions::set_mined(ledger, tx.id, location, succeeded, receipt.cost)?;
            }
        }
        (progress.stored, progress.logs) = (progress.stored + 1, 0);
        Ok(true)
    }

    /// The last block, which is stored, was appended to the chain; whether all of it is projected.
    fn mine(&self, ledger: &Connection, block: Block, slice: &mut Slice, now: Seconds) -> Result<bool, LedgerError> {
        let mut logs = Vec::new();
        loop {
            if logs.is_empty() {
                logs = blocks::next_logs(ledger, block, slice.room())?;
            }
            let taken =
                match run_of(ledger, &logs, |state| matches!(state, PaymentState::Reserved | PaymentState::Submitted))?
                {
                    Some(run) => {
                        let context = TransitionContext::mined(run.location(block));
                        payments::step_all(ledger, &run.payments, Transition::Mine, context, now)?;
                        run.payments.len()
                    }
                    None => {
                        let Some(log) = logs.first() else { break };
                        self.log_mined(ledger, block, log, now)?;
                        1
                    }
                };
            done(ledger, block, &mut logs, taken)?;
            if slice.is_over_after(taken) {
                return Ok(false);
            }
        }
        blocks::mark(ledger, block, None)?;
        Ok(true)
    }

    fn log_mined(&self, ledger: &Connection, block: Block, log: &Log, now: Seconds) -> Result<(), LedgerError> {
        let location = TxLocation { block: block.number, hash: block.hash, tx: log.tx_hash };
        match EscrowEvent::read(log) {
            Some(EscrowEvent::Opened(id, terms)) => self.opened(ledger, id, &terms, location, now)?,
            Some(EscrowEvent::Spent(spent)) => self.spent_elsewhere(ledger, spent, location, now)?,
            Some(EscrowEvent::Held { hold, capture_by }) => self.held_mined(ledger, hold, capture_by, location, now)?,
            // They follow from a hold that is known, or come from outside; what they move is booked when
            // final.
            Some(EscrowEvent::Captured { .. } | EscrowEvent::Released { .. } | EscrowEvent::Refunded(_)) => {}
            Some(EscrowEvent::Skipped { mandate, nonce, reason }) => {
                // A hint that anyone can cause: it counts only in our own transactions, by row.
                if let Some(tx) = transactions::of_attempt(ledger, log.tx_hash)?
                    && let Some(payment) = payments::by_nonce(ledger, mandate, nonce)?
                {
                    transactions::set_skipped(ledger, tx.id, payment.seq, reason)?;
                }
            }
            Some(EscrowEvent::Revoked { mandate, by }) => {
                openings::withdraw(ledger, mandate, Some(location.tx), now)?;
                ended(ledger, mandate, location, "mandate.revoked", json!({ "by": by.to_string() }), now)?;
            }
            Some(EscrowEvent::Returned { mandate, to, from_remaining, from_held }) => {
                let data = json!({ "to": to.to_string(), "from_remaining": from_remaining, "from_held": from_held });
                ended(ledger, mandate, location, "mandate.returned", data, now)?;
            }
            Some(EscrowEvent::Rolled { from, to, carried }) => {
                mandates::inherit_intent(ledger, from, to)?;
                let data = json!({ "to": to.to_string(), "carried": carried });
                ended(ledger, from, location, "mandate.rolled", data, now)?;
            }
            Some(EscrowEvent::SubmitterSet { guardian, submitter, allowed: true })
                if guardian == self.deployment.guardian =>
            {
                blocks::add_submitter(ledger, submitter)?;
            }
            Some(EscrowEvent::SubmitterSet { .. }) | None => {}
        }
        Ok(())
    }

    /// The last block was taken off the chain: what it said is unknown again. Whether that is all.
    pub fn unmine(
        &self,
        ledger: &Connection,
        block: Block,
        slice: &mut Slice,
        now: Seconds,
    ) -> Result<bool, LedgerError> {
        blocks::mark(ledger, block, Some(Unfinished::Reverting))?;
        // Transactions first: whether one of ours still holds a payment decides where that goes.
        transactions::unmine(ledger, block.hash)?;
        while let Some(payment) = payments::first_mined_in(ledger, block.hash)? {
            let held = transactions::holds_live(ledger, payment.seq)?;
            payments::step(ledger, &payment, Transition::Unmine { held }, TransitionContext::default(), now)?;
            if slice.is_over() {
                return Ok(false);
            }
        }
        for card in cards::held_in(ledger, block.hash)? {
            cards::set_held(ledger, card.seq, None)?;
            cards::note(ledger, &card, "card.unmined", None, json!({}), now)?;
        }
        for mandate in mandates::touched_by(ledger, block.hash)? {
            let by_this = |location: Option<TxLocation>| location.is_some_and(|location| location.hash == block.hash);
            if by_this(mandate.ended) {
                mandates::set_ended(ledger, mandate.id, None)?;
            }
            if by_this(mandate.opened) {
                mandates::set_opened(ledger, mandate.id, None)?;
                if let Some(request) = mandate.request
                    && requests::get(ledger, request)?.is_some_and(|request| request.mandate == Some(mandate.id))
                {
                    requests::set_mandate(ledger, request, None)?;
                }
            }
            audit::append(ledger, now, mandate.event("mandate.unmined"))?;
        }
        blocks::pop(ledger, block)?;
        Ok(true)
    }

    fn opened(
        &self,
        ledger: &Connection,
        id: MandateId,
        terms: &Terms,
        location: TxLocation,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        let request = requests::of_intent(ledger, terms.agent, terms.intent)?;
        // Others use the escrow too; only what we can have a part in is ours to follow. Anyone can open a mandate under a
        // request's hash: that alone makes it none of ours.
        let answers = request.as_ref().is_some_and(|request| request.is_answered_by(terms));
        let is_known = mandates::get(ledger, id)?.is_some();
        if terms.guardian != self.deployment.guardian && !answers && !is_known {
            return Ok(());
        }
        mandates::ensure(ledger, id, terms, now)?;
        mandates::set_opened(ledger, id, Some(location))?;
        let Some(mandate) = mandates::get(ledger, id)? else { return Ok(()) };
        // The first mandate that gives what was asked for answers the request; from then on its
        // intent's hash is public, and anyone could open another one under it.
        if let Some(request) = request.filter(|request| request.mandate.is_none() && request.is_answered_by(terms)) {
            requests::set_mandate(ledger, request.id, Some(id))?;
            for other in openings::give_up(ledger, request.id, id)? {
                if let Some(other) = mandates::get(ledger, other)? {
                    let data = json!({ "answer": id.to_string() });
                    audit::append(
                        ledger,
                        now,
                        audit::NewAuditEntry { data, ..other.event("mandate.opening_given_up") },
                    )?;
                }
            }
        }
        let data = json!({
            "cap": terms.cap, "operator": terms.operator.to_string(), "agent": terms.agent.to_string(),
            "expiry": terms.expiry, "block": { "number": location.block, "hash": location.hash },
        });
        audit::append(
            ledger,
            now,
            audit::NewAuditEntry { tx_hash: Some(location.tx), data, ..mandate.event("mandate.opened") },
        )
    }

    /// Whether nobody but this relayer's submitters may send for a mandate.
    fn is_guarded_here(&self, terms: &Terms) -> bool {
        !terms.guardian.is_zero() && terms.guardian == self.deployment.guardian
    }

    /// The chain paid what this relayer did not accept, or not so.
    fn spent_elsewhere(
        &self,
        ledger: &Connection,
        spent: Spent,
        location: TxLocation,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        let Some(mandate) = mandates::get(ledger, spent.mandate)? else { return Ok(()) };
        let data = json!({ "payee": spent.payee.to_string(), "amount": spent.amount, "nonce": spent.nonce });
        let event = |kind| audit::NewAuditEntry { tx_hash: Some(location.tx), data, ..mandate.event(kind) };
        // Only we send for our guardian. For another one, or for none, others may send what the agent signed.
        if self.is_guarded_here(&mandate.terms) {
            mandates::freeze(ledger, mandate.id, "a payment on chain that this relayer did not accept")?;
            audit::append(ledger, now, event("mandate.frozen"))
        } else {
            audit::append(ledger, now, event("mandate.spent_elsewhere"))
        }
    }

    fn held_mined(
        &self,
        ledger: &Connection,
        hold: Spent,
        capture_by: Seconds,
        location: TxLocation,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        let Spent { nonce, payee, amount, .. } = hold;
        let Some(mandate) = mandates::get(ledger, hold.mandate)? else { return Ok(()) };
        let card = cards::by_nonce(ledger, mandate.id, nonce)?.filter(|card| {
            let is_this = (card.payee, card.amount, card.capture_by) == (payee, amount, capture_by);
            is_this && !card.state.is_final() && !card.left().is_zero()
        });
        if let Some(card) = card {
            cards::set_held(ledger, card.seq, Some(location))?;
            let data = json!({ "amount": amount, "block": { "number": location.block, "hash": location.hash } });
            return cards::note(ledger, &card, "card.hold_mined", Some(location.tx), data, now);
        }
        let data = json!({ "payee": payee.to_string(), "amount": amount, "nonce": nonce });
        let event = |kind| audit::NewAuditEntry { tx_hash: Some(location.tx), data, ..mandate.event(kind) };
        if !self.is_guarded_here(&mandate.terms) {
            return audit::append(ledger, now, event("mandate.held_elsewhere"));
        }
        mandates::freeze(ledger, mandate.id, "a hold on chain that this relayer did not accept")?;
        audit::append(ledger, now, event("mandate.frozen"))
    }
}

/// Payments of one mandate that one transaction paid, one log after the other.
struct Run {
    payments: Vec<payments::PaymentRow>,
    tx: B256,
}

impl Run {
    const fn location(&self, block: Block) -> TxLocation {
        TxLocation { block: block.number, hash: block.hash, tx: self.tx }
    }
}

/// The run that the first of these logs begins, if it pays one of ours that is in such a state.
fn run_of(
    ledger: &Connection,
    logs: &[Log],
    is_due: impl Fn(PaymentState) -> bool,
) -> Result<Option<Run>, LedgerError> {
    let Some(tx) = logs.first().map(|log| log.tx_hash) else { return Ok(None) };
    let mut payments: Vec<payments::PaymentRow> = Vec::new();
    for log in logs.iter().take_while(|log| log.tx_hash == tx) {
        let Some(EscrowEvent::Spent(spent)) = EscrowEvent::read(log) else { break };
        // In the order of their nonces, each is there once.
        let follows = |last: &payments::PaymentRow| (last.mandate, true) == (spent.mandate, last.nonce < spent.nonce);
        if !payments.last().is_none_or(follows) {
            break;
        }
        let Some(payment) = settled_by(ledger, spent)?.filter(|payment| is_due(payment.state)) else { break };
        payments.push(payment);
    }
    Ok(if payments.is_empty() { None } else { Some(Run { payments, tx }) })
}

/// The first of these logs are projected.
fn done(ledger: &Connection, block: Block, logs: &mut Vec<Log>, count: usize) -> Result<(), LedgerError> {
    let taken = logs.drain(..count.min(logs.len()));
    match taken.last() {
        Some(log) => blocks::log_done(ledger, block, &log),
        None => Ok(()),
    }
}

/// The payment that this event settles, if it is ours: equal in mandate, nonce, payee and amount.
fn settled_by(ledger: &Connection, spent: Spent) -> Result<Option<payments::PaymentRow>, LedgerError> {
    Ok(payments::by_nonce(ledger, spent.mandate, spent.nonce)?
        .filter(|payment| payment.payee == spent.payee && payment.amount == spent.amount))
}

fn ended(
    ledger: &Connection,
    id: MandateId,
    location: TxLocation,
    kind: &str,
    data: serde_json::Value,
    now: Seconds,
) -> Result<(), LedgerError> {
    let Some(mandate) = mandates::get(ledger, id)? else { return Ok(()) };
    if mandate.ended.is_none() {
        mandates::set_ended(ledger, id, Some(location))?;
    }
    audit::append(ledger, now, audit::NewAuditEntry { tx_hash: Some(location.tx), data, ..mandate.event(kind) })
}

#[cfg(test)]
mod tests;
