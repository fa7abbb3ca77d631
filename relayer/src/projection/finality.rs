//! What is booked when a block is final: the only thing that moves balances.

use rusqlite::Connection;
use serde_json::json;
use stipend_core::{Amount, Code, MandateId, Seconds, api::PaymentState, nonce::NonceWindow};

use super::{
    Projector, Run, Slice, done,
    escrow_event::{EscrowEvent, Refund},
    run_of,
};
use crate::ledger::{
    LedgerError, audit,
    balances::{LedgerEvent, Transition},
    blocks::{self, Block, Log, Unfinished},
    booking,
    cards::{self, HoldOutcome},
    gas,
    journal::{self, EntryRefs, GasPayer},
    mandates::{self, TxLocation},
    openings,
    payments::{self, ExternalOutflow, Spent, TransitionContext},
    revocations,
    transactions::{self, Kind},
    window,
};

impl Projector {
    /// A block, the next one in order, is final; whether all of it is booked.
    pub(super) fn finalize(
        &self,
        ledger: &Connection,
        block: Block,
        slice: &mut Slice,
        now: Seconds,
    ) -> Result<bool, LedgerError> {
        blocks::mark(ledger, block, Some(Unfinished::Finalizing))?;
        let mut logs = Vec::new();
        loop {
            if logs.is_empty() {
                logs = blocks::next_logs(ledger, block, slice.room())?;
            }
            let (taken, is_all) = match run_of(ledger, &logs, |state| state == PaymentState::Mined)? {
                Some(run) => (run.payments.len(), run_final(ledger, &run, block, slice, now)?),
                None => {
                    let Some(log) = logs.first() else { break };
                    (1, log_final(ledger, block, log, slice, now)?)
                }
            };
            if !is_all {
                return Ok(false);
            }
            done(ledger, block, &mut logs, taken)?;
            if slice.is_over_after(taken) {
                return Ok(false);
            }
        }
        while let Some(tx) = transactions::next_to_finalize(ledger, block.hash)? {
            if tx.kind == Kind::Settle && !self.batch_final(ledger, &tx, slice, now)? {
                return Ok(false);
            }
            transactions::set_final(ledger, tx.id)?;
            gas::charge(ledger, &tx, block.time)?;
            charge_gas(ledger, &tx, block.number, now)?;
            match tx.kind {
                // Dead unless it succeeded; then the opening's own event has said all.
                Kind::Open(mandate) if tx.succeeded != Some(true) => {
                    openings::detach_from_tx(ledger, mandate)?;
                }
                Kind::Revoke(mandate) if tx.succeeded != Some(true) => revocations::set_tx(ledger, mandate, None)?,
                Kind::Settle
                | Kind::Open(_)
                | Kind::Revoke(_)
                | Kind::Sweep(_)
                | Kind::Hold(_)
                | Kind::Capture(_)
                | Kind::Release(_) => {}
            }
            if slice.is_over() {
                return Ok(false);
            }
        }
        if !time_final(ledger, block.time, slice, now)? {
            return Ok(false);
        }
        blocks::mark_final(ledger, block)?;
        Ok(true)
    }

    /// A batch of ours is in a final block, or superseded by one: what it did not pay waits again, or can never be paid.
    /// Whether that is all.
    fn batch_final(
        &self,
        ledger: &Connection,
        tx: &transactions::TransactionRow,
        slice: &mut Slice,
        now: Seconds,
    ) -> Result<bool, LedgerError> {
        while let Some(payment) = payments::first_left_by(ledger, tx.id)? {
            let skipped = transactions::skipped(ledger, tx.id, payment.seq)?;
            let context =
                TransitionContext { reason: skipped, tx_hash: tx.mined.map(|location| location.tx), mined: None };
            // Nobody else can send it, and every transaction that held it is final: the money may
            // go back, and this very commit makes sure that it is never sent again. What only came
            // too early, as when a reorg moved the opening behind it or the rolling window was full,
            // is sent again instead.
            use Code::{NotStarted, NotSubmitter, UnknownMandate, WindowExceeded};
            let too_early = |reason| matches!(reason, UnknownMandate | NotSubmitter | NotStarted | WindowExceeded);
            let refused = skipped.is_some_and(|reason| !too_early(reason));
            let is_lost = refused && self.only_we_submit(ledger, payment.mandate)?;
            payments::step(
                ledger,
                &payment,
                if is_lost { Transition::Fail } else { Transition::GiveUp },
                context,
                now,
            )?;
            if slice.is_over() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A transaction's nonce is final in an external one: its payments wait again.
    pub fn superseded(
        &self,
        ledger: &Connection,
        tx: &transactions::TransactionRow,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        transactions::set_superseded(ledger, tx.id)?;
        match tx.kind {
            Kind::Settle => self.batch_final(ledger, tx, &mut Slice::Rows(u32::MAX), now).map(drop),
            Kind::Open(mandate) => openings::detach_from_tx(ledger, mandate),
            Kind::Revoke(mandate) => revocations::set_tx(ledger, mandate, None),
            Kind::Sweep(_) | Kind::Hold(_) | Kind::Capture(_) | Kind::Release(_) => Ok(()),
        }
    }

    fn only_we_submit(&self, ledger: &Connection, mandate: MandateId) -> Result<bool, LedgerError> {
        let guarded = mandates::get(ledger, mandate)?.is_some_and(|mandate| self.is_guarded_here(&mandate.terms));
        Ok(guarded && blocks::only_our_submitters(ledger)?)
    }
}

/// A log of a final block; whether all that follows from it is booked. What may be much comes first, and finds the rest of
/// itself in the next slice.
fn log_final(
    ledger: &Connection,
    block: Block,
    log: &Log,
    slice: &mut Slice,
    now: Seconds,
) -> Result<bool, LedgerError> {
    let location = TxLocation { block: block.number, hash: block.hash, tx: log.tx_hash };
    match EscrowEvent::read(log) {
        Some(EscrowEvent::Spent(spent)) => return spent_elsewhere_final(ledger, spent, location, slice, now),
        Some(EscrowEvent::Held { hold, .. }) => return held_final(ledger, hold, location, slice, now),
        Some(EscrowEvent::Captured { mandate, nonce, amount }) => {
            let outcome = HoldOutcome { captured: amount, released: Amount::ZERO };
            hold_settled(ledger, mandate, nonce, outcome, location, now)?;
        }
        Some(EscrowEvent::Released { mandate, nonce, amount }) => {
            let outcome = HoldOutcome { captured: Amount::ZERO, released: amount };
            hold_settled(ledger, mandate, nonce, outcome, location, now)?;
        }
        Some(EscrowEvent::Refunded(refund)) => refunded_final(ledger, refund, location, now)?,
        Some(EscrowEvent::Revoked { mandate, .. }) => return over(ledger, mandate, slice, now),
        Some(EscrowEvent::Returned { mandate, from_remaining, from_held, .. }) => {
            if !over(ledger, mandate, slice, now)? {
                return Ok(false);
            }
            returned_final(ledger, mandate, Returned { from_remaining, from_held }, location, now)?;
        }
        Some(EscrowEvent::Rolled { from, carried, .. }) => {
            if !over(ledger, from, slice, now)? {
                return Ok(false);
            }
            if let Some(mandate) = mandates::account(ledger, from)? {
                let refs = EntryRefs::default().at(location.block);
                booking::book(ledger, &mandate, LedgerEvent::Carry(carried), refs, now)?;
            }
        }
        Some(EscrowEvent::Opened(..) | EscrowEvent::Skipped { .. } | EscrowEvent::SubmitterSet { .. }) | None => {}
    }
    Ok(true)
}

/// A final block has reached `time`: what ended before can no longer happen. Whether all of it is booked.
fn time_final(ledger: &Connection, time: Seconds, slice: &mut Slice, now: Seconds) -> Result<bool, LedgerError> {
    while let Some(payment) = payments::first_overdue(ledger, time)? {
        fail(ledger, &payment, Code::DeadlinePassed, now)?;
        if slice.is_over() {
            return Ok(false);
        }
    }
    for card in cards::overdue(ledger, time)? {
        cards::give_up_hold(ledger, card, Code::DeadlinePassed, now)?;
    }
    while let Some((mandate, has_ended)) = mandates::first_lapsing(ledger, time)? {
        if !has_ended && !fail_all(ledger, mandate, Code::Expired, slice, now)? {
            return Ok(false);
        }
        mandates::set_lapsed(ledger, mandate)?;
        if slice.is_over() {
            return Ok(false);
        }
    }
    for id in openings::lapsed(ledger, time)? {
        if let Some(mandate) = mandates::get(ledger, id)?
            && mandate.opened.is_none()
        {
            audit::append(ledger, now, mandate.event("mandate.opening_lapsed"))?;
        }
    }
    Ok(true)
}

/// Payments of ours are finally paid; whether all that follows from it is booked.
fn run_final(
    ledger: &Connection,
    run: &Run,
    block: Block,
    slice: &mut Slice,
    now: Seconds,
) -> Result<bool, LedgerError> {
    let location = run.location(block);
    // The last one has the highest nonce: it retires what the others do. Nothing else has their nonces here.
    let Some(last) = run.payments.last() else { return Ok(true) };
    if !nonce_final(ledger, last.mandate, last.nonce, slice, now)? {
        return Ok(false);
    }
    payments::step_all(ledger, &run.payments, Transition::Settle, TransitionContext::mined(location), now)?;
    window::record(ledger, last.mandate, run.payments.iter().map(|payment| payment.amount), location)?;
    Ok(true)
}

/// The chain finally paid what was not accepted here, or not so; whether all that follows from it is booked.
fn spent_elsewhere_final(
    ledger: &Connection,
    spent: Spent,
    location: TxLocation,
    slice: &mut Slice,
    now: Seconds,
) -> Result<bool, LedgerError> {
    if !nonce_final(ledger, spent.mandate, spent.nonce, slice, now)? {
        return Ok(false);
    }
    let Some(mandate) = mandates::account(ledger, spent.mandate)? else { return Ok(true) };
    payments::insert_external(ledger, ExternalOutflow::Payment, &spent, location)?;
    let refs = EntryRefs::default().at(location.block);
    booking::book(ledger, &mandate, LedgerEvent::Pay(spent.amount), refs, now)?;
    window::record(ledger, spent.mandate, [spent.amount], location)?;
    Ok(true)
}

/// A nonce is finally used, and it has retired those below its window; whether all that waited for one of them has
/// failed. What the nonce was used for is not failed: its block has mined it.
fn nonce_final(
    ledger: &Connection,
    mandate: MandateId,
    nonce: u32,
    slice: &mut Slice,
    now: Seconds,
) -> Result<bool, LedgerError> {
    let reason = |other| if other == nonce { Code::NonceUsed } else { Code::NonceRetired };
    while let Some(payment) = payments::first_ruled_out_by(ledger, mandate, nonce)? {
        fail(ledger, &payment, reason(payment.nonce), now)?;
        if slice.is_over() {
            return Ok(false);
        }
    }
    for card in cards::awaiting_hold(ledger, mandate)? {
        if card.nonce == nonce || card.nonce < NonceWindow::floor(nonce) {
            let reason = reason(card.nonce);
            cards::give_up_hold(ledger, card, reason, now)?;
        }
    }
    Ok(true)
}

fn held_final(
    ledger: &Connection,
    hold: Spent,
    location: TxLocation,
    slice: &mut Slice,
    now: Seconds,
) -> Result<bool, LedgerError> {
    let Spent { nonce, amount, .. } = hold;
    if !nonce_final(ledger, hold.mandate, nonce, slice, now)? {
        return Ok(false);
    }
    let Some(mandate) = mandates::account(ledger, hold.mandate)? else { return Ok(true) };
    let ours =
        cards::by_nonce(ledger, mandate.id, nonce)?.filter(|card| card.held == Some(location) && !card.hold_final);
    let (event, refs) = match &ours {
        Some(card) => {
            cards::set_hold_final(ledger, card.seq)?;
            (LedgerEvent::Place(amount), EntryRefs::card(card.seq))
        }
        None => {
            payments::insert_external(ledger, ExternalOutflow::Hold, &hold, location)?;
            (LedgerEvent::Hold(amount), EntryRefs::default())
        }
    };
    booking::book(ledger, &mandate, event, refs.at(location.block), now)?;
    window::record(ledger, hold.mandate, [amount], location)?;
    Ok(true)
}

/// Part of a hold was finally captured or released, by us or by anyone entitled to.
fn hold_settled(
    ledger: &Connection,
    mandate: MandateId,
    nonce: u32,
    HoldOutcome { captured, released }: HoldOutcome,
    location: TxLocation,
    now: Seconds,
) -> Result<(), LedgerError> {
    let Some(mandate) = mandates::account(ledger, mandate)? else { return Ok(()) };
    let card = cards::by_nonce(ledger, mandate.id, nonce)?.filter(|card| card.hold_final);
    let refs = card.as_ref().map_or_else(EntryRefs::default, |card| EntryRefs::card(card.seq)).at(location.block);
    let event = if captured.is_zero() { LedgerEvent::Release(released) } else { LedgerEvent::Capture(captured) };
    booking::book(ledger, &mandate, event, refs, now)?;
    let Some(card) = card else { return Ok(()) };
    journal::credit_treasury(ledger, mandate.seq, captured, refs, now)?;
    let sum =
        |a: Amount, b: Amount| a.checked_add(b).ok_or_else(|| LedgerError::inconsistent("more than a hold holds"));
    let settled = HoldOutcome { captured: sum(card.captured, captured)?, released: sum(card.released, released)? };
    cards::set_settled(ledger, card.seq, settled, Some(location.tx))?;
    let data = json!({ "captured": captured, "released": released });
    cards::note(ledger, &card, "card.settled", Some(location.tx), data, now)?;
    let HoldOutcome { captured, released } = settled;
    cards::finish(ledger, cards::CardRow { captured, released, ..card }, None, Some(location.tx), now)
}

/// A sweep has taken what cards of the mandate still held: so much.
fn holds_swept(ledger: &Connection, id: MandateId, location: TxLocation, now: Seconds) -> Result<Amount, LedgerError> {
    let too_much = || LedgerError::inconsistent("more than a hold holds");
    let mut swept = Amount::ZERO;
    for card in cards::holding(ledger, id)? {
        let left = card.left();
        let released = card.released.checked_add(left).ok_or_else(too_much)?;
        let mandate = cards::mandate_of(ledger, &card)?;
        let refs = EntryRefs::card(card.seq).at(location.block);
        booking::book(ledger, &mandate, LedgerEvent::ReturnHeld(left), refs, now)?;
        cards::set_settled(ledger, card.seq, HoldOutcome { captured: card.captured, released }, Some(location.tx))?;
        let data = json!({ "captured": Amount::ZERO, "released": left });
        cards::note(ledger, &card, "card.settled", Some(location.tx), data, now)?;
        swept = swept.checked_add(left).ok_or_else(too_much)?;
        cards::finish(ledger, cards::CardRow { released, ..card }, None, Some(location.tx), now)?;
    }
    Ok(swept)
}

/// What went back to the operator, by where it came from.
struct Returned {
    from_remaining: Amount,
    from_held: Amount,
}

fn returned_final(
    ledger: &Connection,
    id: MandateId,
    Returned { from_remaining, from_held }: Returned,
    location: TxLocation,
    now: Seconds,
) -> Result<(), LedgerError> {
    let swept = if from_held.is_zero() { Amount::ZERO } else { holds_swept(ledger, id, location, now)? };
    let elsewhere =
        from_held.checked_sub(swept).ok_or_else(|| LedgerError::inconsistent("less returned than cards held"))?;
    for event in [LedgerEvent::Return(from_remaining), LedgerEvent::ReturnHeld(elsewhere)] {
        let Some(mandate) = mandates::account(ledger, id)? else { return Ok(()) };
        booking::book(ledger, &mandate, event, EntryRefs::default().at(location.block), now)?;
    }
    Ok(())
}

/// A refund is final: what the chain restored can be spent again.
fn refunded_final(ledger: &Connection, refund: Refund, location: TxLocation, now: Seconds) -> Result<(), LedgerError> {
    let Some(mandate) = mandates::account(ledger, refund.mandate)? else { return Ok(()) };
    mandates::add_refunded(ledger, refund.mandate, refund.payer, refund.amount)?;
    booking::book(
        ledger,
        &mandate,
        LedgerEvent::Restore(refund.restored),
        EntryRefs::default().at(location.block),
        now,
    )?;
    let data = json!({
        "payer": refund.payer.to_string(), "amount": refund.amount, "restored": refund.restored,
        "ref": refund.reference, "block": { "number": location.block, "hash": location.hash },
    });
    audit::append(
        ledger,
        now,
        audit::NewAuditEntry { tx_hash: Some(location.tx), data, ..mandate.event("mandate.refunded") },
    )
}

/// A final transaction of ours was paid for, whatever it did.
fn charge_gas(
    ledger: &Connection,
    tx: &transactions::TransactionRow,
    block: u64,
    now: Seconds,
) -> Result<(), LedgerError> {
    let card = match tx.kind {
        Kind::Hold(card) | Kind::Capture(card) | Kind::Release(card) => Some(card),
        Kind::Settle | Kind::Open(_) | Kind::Revoke(_) | Kind::Sweep(_) => None,
    };
    let mut payers = Vec::new();
    for (mandate, rows) in transactions::gas_payers(ledger, tx)? {
        payers.push(GasPayer { mandate: mandates::account(ledger, mandate)?.map(|mandate| mandate.seq), rows });
    }
    if payers.is_empty() {
        payers.push(GasPayer { mandate: None, rows: 1 });
    }
    let refs = EntryRefs { tx: Some(tx.id), card, ..EntryRefs::default() }.at(block);
    journal::charge_gas(ledger, tx.cost.unwrap_or_default(), &payers, refs, now)
}

/// A mandate has ended, in a final block: fails all of it that waits; whether that is all.
fn over(ledger: &Connection, mandate: MandateId, slice: &mut Slice, now: Seconds) -> Result<bool, LedgerError> {
    revocations::set_done(ledger, mandate)?;
    fail_all(ledger, mandate, Code::Ended, slice, now)
}

/// Fails all of a mandate that waits; whether that is all.
fn fail_all(
    ledger: &Connection,
    mandate: MandateId,
    reason: Code,
    slice: &mut Slice,
    now: Seconds,
) -> Result<bool, LedgerError> {
    while let Some(payment) = payments::first_waiting(ledger, mandate)? {
        fail(ledger, &payment, reason, now)?;
        if slice.is_over() {
            return Ok(false);
        }
    }
    for card in cards::awaiting_hold(ledger, mandate)? {
        cards::give_up_hold(ledger, card, reason, now)?;
    }
    Ok(true)
}

/// Fails a payment that a final block has made impossible: one that no block has paid. A block that is not final yet
/// settles or unmines what it has.
fn fail(ledger: &Connection, payment: &payments::PaymentRow, reason: Code, now: Seconds) -> Result<(), LedgerError> {
    let context = TransitionContext { reason: Some(reason), ..TransitionContext::default() };
    payments::step(ledger, payment, Transition::Fail, context, now)
}
