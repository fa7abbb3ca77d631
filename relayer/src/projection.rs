//! Projects what the chain says onto the ledger; never talks to a node. A block is mined, reverted or
//! finalized; only the last moves balances. All of it runs inside one commit of the ledger.

use crate::projection::cards::HoldOutcome;
use crate::projection::journal::GasPayer;
use rusqlite::Connection;
use serde_json::json;
use stipend_core::{Amount, Code, Deployment, MandateId, Seconds, Terms, api::PaymentState, nonce::NonceWindow};

mod escrow_event;

use escrow_event::{EscrowEvent, Refund};

use crate::{
    failpoint::{self, Point},
    ledger::{
        LedgerError, audit,
        balances::{LedgerEvent, Transition},
        blocks::{self, Block, Log, Receipt},
        booking, cards, gas,
        journal::{self, EntryRefs},
        mandates::{self, TxLocation},
        openings,
        payments::{self, ExternalOutflow, Spent, TransitionContext},
        requests, revocations,
        transactions::{self, Kind},
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

/// How the chain has changed: what is read from one node and committed at once.
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

impl Projector {
    /// Applies an update: reverts blocks from the top, mines the new ones, then finalizes.
    pub fn apply(&self, ledger: &Connection, update: &ChainUpdate, now: Seconds) -> Result<Applied, LedgerError> {
        let (mut reverted, mut newly_final) = (0, 0);
        while let Some(top) = blocks::head(ledger)?.filter(|top| top.hash != update.ancestor.hash) {
            self.unmine(ledger, top, now)?;
            reverted += 1;
            failpoint::pass(Point::FollowUnmining);
        }
        for mined in &update.committed {
            self.mine(ledger, mined, now)?;
            failpoint::pass(Point::FollowMining);
        }
        while let Some(block) = blocks::next_to_finalize(ledger, update.finalized)? {
            self.finalize(ledger, block, now)?;
            newly_final += 1;
            failpoint::pass(Point::FollowFinalizing);
        }
        let head = blocks::head(ledger)?.ok_or_else(|| LedgerError::inconsistent("no block is left"))?;
        let finalized = blocks::last_final(ledger)?.map_or(0, |block| block.number);
        Ok(Applied { head, finalized, reverted, newly_final })
    }

    /// A block was appended to the chain.
    pub fn mine(&self, ledger: &Connection, mined: &MinedBlock, now: Seconds) -> Result<(), LedgerError> {
        let block = mined.block;
        blocks::push(ledger, block, &mined.logs)?;
        for receipt in &mined.receipts {
            if let Some(tx) = transactions::of_attempt(ledger, receipt.hash)? {
                let location = TxLocation { block: block.number, hash: block.hash, tx: receipt.hash };
                let succeeded = receipt.succeeded && !transactions::cancels(ledger, receipt.hash)?;
                transactions::set_mined(ledger, tx.id, location, succeeded, receipt.cost)?;
            }
        }
        for log in &mined.logs {
            let location = TxLocation { block: block.number, hash: block.hash, tx: log.tx_hash };
            match EscrowEvent::read(log) {
                Some(EscrowEvent::Opened(id, terms)) => self.opened(ledger, id, &terms, location, now)?,
                Some(EscrowEvent::Spent(spent)) => self.spent_mined(ledger, spent, location, now)?,
                Some(EscrowEvent::Held { hold, capture_by }) => {
                    self.held_mined(ledger, hold, capture_by, location, now)?
                }
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
                    let data =
                        json!({ "to": to.to_string(), "from_remaining": from_remaining, "from_held": from_held });
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
        }
        Ok(())
    }

    /// The last block was taken off the chain: what it said is unknown again.
    pub fn unmine(&self, ledger: &Connection, block: Block, now: Seconds) -> Result<(), LedgerError> {
        // Transactions first: whether one of ours still holds a payment decides where that goes.
        transactions::unmine(ledger, block.hash)?;
        for payment in payments::mined_in(ledger, block.hash)? {
            let held = transactions::holds_live(ledger, payment.seq)?;
            payments::step(ledger, &payment, Transition::Unmine { held }, TransitionContext::default(), now)?;
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
        blocks::pop(ledger, block)
    }

    /// A block, the next one in order, is final.
    pub fn finalize(&self, ledger: &Connection, block: Block, now: Seconds) -> Result<(), LedgerError> {
        for log in blocks::logs(ledger, block.number)? {
            let location = TxLocation { block: block.number, hash: block.hash, tx: log.tx_hash };
            match EscrowEvent::read(&log) {
                Some(EscrowEvent::Spent(spent)) => spent_final(ledger, spent, location, now)?,
                Some(EscrowEvent::Held { hold, .. }) => held_final(ledger, hold, location, now)?,
                Some(EscrowEvent::Captured { mandate, nonce, amount }) => {
                    hold_settled(
                        ledger,
                        mandate,
                        nonce,
                        HoldOutcome { captured: amount, released: Amount::ZERO },
                        location,
                        now,
                    )?;
                }
                Some(EscrowEvent::Released { mandate, nonce, amount }) => {
                    hold_settled(
                        ledger,
                        mandate,
                        nonce,
                        HoldOutcome { captured: Amount::ZERO, released: amount },
                        location,
                        now,
                    )?;
                }
                Some(EscrowEvent::Refunded(refund)) => refunded_final(ledger, refund, location, now)?,
                Some(EscrowEvent::Revoked { mandate, .. }) => fail_all(ledger, mandate, Code::Ended, now)?,
                Some(EscrowEvent::Returned { mandate, from_remaining, from_held, .. }) => {
                    fail_all(ledger, mandate, Code::Ended, now)?;
                    returned_final(ledger, mandate, Returned { from_remaining, from_held }, location, now)?;
                }
                Some(EscrowEvent::Rolled { from, carried, .. }) => {
                    fail_all(ledger, from, Code::Ended, now)?;
                    if let Some(mandate) = mandates::get(ledger, from)? {
                        let refs = EntryRefs::default().at(location.block);
                        booking::book(ledger, &mandate, LedgerEvent::Carry(carried), refs, now)?;
                    }
                }
                _ => {}
            }
        }
        for tx in transactions::finalize(ledger, block.hash)? {
            gas::charge(ledger, &tx, block.time)?;
            charge_gas(ledger, &tx, block.number, now)?;
            match tx.kind {
                Kind::Settle => self.batch_final(ledger, &tx, now)?,
                // Dead unless it succeeded; then the opening's own event has said all.
                Kind::Open(mandate) if tx.succeeded != Some(true) => {
                    openings::detach_from_tx(ledger, mandate)?;
                }
                Kind::Revoke(mandate) if tx.succeeded != Some(true) => revocations::set_tx(ledger, mandate, None)?,
                Kind::Open(_)
                | Kind::Revoke(_)
                | Kind::Sweep(_)
                | Kind::Hold(_)
                | Kind::Capture(_)
                | Kind::Release(_) => {}
            }
        }
        self.time_final(ledger, block.time, now)?;
        blocks::mark_final(ledger, block)
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

    fn spent_mined(
        &self,
        ledger: &Connection,
        spent: Spent,
        location: TxLocation,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        let Some(mandate) = mandates::get(ledger, spent.mandate)? else { return Ok(()) };
        let context = TransitionContext::mined(location);
        match settled_by(ledger, spent)? {
            Some(payment) if matches!(payment.state, PaymentState::Reserved | PaymentState::Submitted) => {
                payments::step(ledger, &payment, Transition::Mine, context, now)
            }
            _ => {
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

    /// A batch of ours is final: what it did not pay waits again, or can never be paid.
    fn batch_final(
        &self,
        ledger: &Connection,
        tx: &transactions::TransactionRow,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        for payment in payments::payments_in_tx(ledger, tx.id)? {
            if payment.state != PaymentState::Submitted || transactions::holds_live(ledger, payment.seq)? {
                continue;
            }
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
        }
        Ok(())
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
            Kind::Settle => self.batch_final(ledger, tx, now),
            Kind::Open(mandate) => openings::detach_from_tx(ledger, mandate),
            Kind::Revoke(mandate) => revocations::set_tx(ledger, mandate, None),
            Kind::Sweep(_) | Kind::Hold(_) | Kind::Capture(_) | Kind::Release(_) => Ok(()),
        }
    }

    fn only_we_submit(&self, ledger: &Connection, mandate: MandateId) -> Result<bool, LedgerError> {
        let guarded = mandates::get(ledger, mandate)?.is_some_and(|mandate| self.is_guarded_here(&mandate.terms));
        Ok(guarded && blocks::only_our_submitters(ledger)?)
    }

    /// A final block has reached `time`: what ended before can no longer happen.
    fn time_final(&self, ledger: &Connection, time: Seconds, now: Seconds) -> Result<(), LedgerError> {
        for payment in payments::overdue(ledger, time)? {
            fail(ledger, &payment, Code::DeadlinePassed, now)?;
        }
        for card in cards::overdue(ledger, time)? {
            cards::give_up_hold(ledger, card, Code::DeadlinePassed, now)?;
        }
        for mandate in mandates::expired_with_live_payments(ledger, time)? {
            fail_all(ledger, mandate.id, Code::Expired, now)?;
        }
        for id in openings::lapsed(ledger, time)? {
            if let Some(mandate) = mandates::get(ledger, id)?
                && mandate.opened.is_none()
            {
                audit::append(ledger, now, mandate.event("mandate.opening_lapsed"))?;
            }
        }
        Ok(())
    }
}

/// The payment that this event settles, if it is ours: equal in mandate, nonce, payee and amount.
fn settled_by(ledger: &Connection, spent: Spent) -> Result<Option<payments::PaymentRow>, LedgerError> {
    Ok(payments::by_nonce(ledger, spent.mandate, spent.nonce)?
        .filter(|payment| payment.payee == spent.payee && payment.amount == spent.amount))
}

fn spent_final(ledger: &Connection, spent: Spent, location: TxLocation, now: Seconds) -> Result<(), LedgerError> {
    let Some(mandate) = mandates::get(ledger, spent.mandate)? else { return Ok(()) };
    match settled_by(ledger, spent)? {
        Some(payment) if payment.state == PaymentState::Mined => {
            payments::step(ledger, &payment, Transition::Settle, TransitionContext::mined(location), now)?;
        }
        _ => {
            payments::insert_external(ledger, ExternalOutflow::Payment, &spent, location)?;
            let refs = EntryRefs::default().at(location.block);
            booking::book(ledger, &mandate, LedgerEvent::Pay(spent.amount), refs, now)?;
        }
    }
    nonce_final(ledger, spent.mandate, spent.nonce, now)
}

/// A nonce is finally used, and it has retired those below its window.
fn nonce_final(ledger: &Connection, mandate: MandateId, nonce: u32, now: Seconds) -> Result<(), LedgerError> {
    let reason = |other| if other == nonce { Code::NonceUsed } else { Code::NonceRetired };
    for payment in payments::ruled_out_by(ledger, mandate, nonce)? {
        fail(ledger, &payment, reason(payment.nonce), now)?;
    }
    for card in cards::awaiting_hold(ledger, mandate)? {
        if card.nonce == nonce || card.nonce < NonceWindow::floor(nonce) {
            let reason = reason(card.nonce);
            cards::give_up_hold(ledger, card, reason, now)?;
        }
    }
    Ok(())
}

fn held_final(ledger: &Connection, hold: Spent, location: TxLocation, now: Seconds) -> Result<(), LedgerError> {
    let Spent { nonce, amount, .. } = hold;
    let Some(mandate) = mandates::get(ledger, hold.mandate)? else { return Ok(()) };
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
    nonce_final(ledger, mandate.id, nonce, now)
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
    let Some(mandate) = mandates::get(ledger, mandate)? else { return Ok(()) };
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
        let Some(mandate) = mandates::get(ledger, id)? else { return Ok(()) };
        booking::book(ledger, &mandate, event, EntryRefs::default().at(location.block), now)?;
    }
    Ok(())
}

/// A refund is final: what the chain restored can be spent again.
fn refunded_final(ledger: &Connection, refund: Refund, location: TxLocation, now: Seconds) -> Result<(), LedgerError> {
    let Some(mandate) = mandates::get(ledger, refund.mandate)? else { return Ok(()) };
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
    let seq_of = |id: MandateId| Ok::<_, LedgerError>(mandates::get(ledger, id)?.map(|mandate| mandate.seq));
    let mut refs = EntryRefs { tx: Some(tx.id), ..EntryRefs::default() }.at(block);
    let mut payers = Vec::new();
    let mut mandate = None;
    match tx.kind {
        Kind::Settle => {
            for payment in payments::payments_in_tx(ledger, tx.id)? {
                let refs = EntryRefs { payment: Some(payment.seq), ..refs };
                payers.extend(seq_of(payment.mandate)?.map(|mandate| GasPayer { mandate: Some(mandate), refs }));
            }
        }
        Kind::Open(id) | Kind::Revoke(id) | Kind::Sweep(id) => mandate = seq_of(id)?,
        Kind::Hold(card) | Kind::Capture(card) | Kind::Release(card) => {
            refs.card = Some(card);
            if let Some(card) = cards::by_seq(ledger, card)? {
                mandate = seq_of(card.mandate)?;
            }
        }
    }
    if payers.is_empty() {
        payers.push(GasPayer { mandate, refs });
    }
    journal::charge_gas(ledger, tx.cost.unwrap_or_default(), &payers, now)
}

fn fail_all(ledger: &Connection, mandate: MandateId, reason: Code, now: Seconds) -> Result<(), LedgerError> {
    for payment in payments::live(ledger, mandate)? {
        fail(ledger, &payment, reason, now)?;
    }
    for card in cards::awaiting_hold(ledger, mandate)? {
        cards::give_up_hold(ledger, card, reason, now)?;
    }
    Ok(())
}

/// Fails a payment that a final block has made impossible. One that is mined is not: its block is
/// later than that one, and settles or unmines it.
fn fail(ledger: &Connection, payment: &payments::PaymentRow, reason: Code, now: Seconds) -> Result<(), LedgerError> {
    if payment.state == PaymentState::Mined {
        return Ok(());
    }
    payments::step(
        ledger,
        payment,
        Transition::Fail,
        TransitionContext { reason: Some(reason), ..TransitionContext::default() },
        now,
    )
}

#[cfg(test)]
mod tests;
