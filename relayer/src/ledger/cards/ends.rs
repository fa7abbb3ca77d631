//! How a card ends: with a hold that is empty, or that never can be.

use alloy_primitives::B256;
use rusqlite::Connection;
use serde_json::json;
use stipend_core::{
    Amount, Code, Seconds,
    card::{CardSettlement, CardState, Tally},
};

use super::{CardRow, HoldOutcome, mandate_of, note, set_settled, set_shares, step};
use crate::ledger::{
    LedgerError,
    balances::LedgerEvent,
    booking, charges,
    journal::{self, EntryRefs, HostAccount},
};

/// A card whose hold can never be placed: its reservation returns. One that nobody was given has
/// failed; of any other, what is left to do is what is left to do of one whose hold is empty.
///
/// # Errors
/// [`LedgerError::Inconsistent`], and those of the store.
pub fn give_up_hold(connection: &Connection, card: CardRow, reason: Code, now: Seconds) -> Result<(), LedgerError> {
    let mandate = mandate_of(connection, &card)?;
    booking::book(connection, &mandate, LedgerEvent::Unreserve(card.amount), EntryRefs::card(card.seq), now)?;
    if card.state == CardState::Requested {
        return step(connection, &card, CardState::Failed, Some(reason), None, now);
    }
    let released = card.amount;
    set_settled(connection, card.seq, HoldOutcome { captured: Amount::ZERO, released }, None)?;
    note(connection, &card, "card.hold_lost", None, json!({ "released": released, "reason": reason }), now)?;
    finish(connection, CardRow { released, ..card }, Some(reason), None, now)
}

/// Ends a card whose hold is empty. It is closed when the issuer has said so too, which the card worker
/// asks for: whoever emptied the hold told nobody.
///
/// # Errors
/// [`LedgerError::Inconsistent`], and those of the store.
pub fn finish(
    connection: &Connection,
    mut card: CardRow,
    reason: Option<Code>,
    tx_hash: Option<B256>,
    now: Seconds,
) -> Result<(), LedgerError> {
    if !card.left().is_zero() || card.state.is_final() {
        return Ok(());
    }
    // Far behind, a hold can be placed and emptied before the worker has looked at it.
    if card.state == CardState::Requested {
        step(connection, &card, CardState::Held, None, tx_hash, now)?;
        card.state = CardState::Held;
    }
    if card.state != CardState::Closing {
        step(connection, &card, CardState::Closing, reason, tx_hash, now)?;
        (card.state, card.reason) = (CardState::Closing, reason.or(card.reason));
    }
    if card.to_capture.is_none() {
        return Ok(());
    }
    step(connection, &card, CardState::Closed, None, tx_hash, now)?;
    // What was to be captured, and never can be, is the host's loss.
    settle_accounts(connection, card.seq, now)
}

/// Keeps the host's accounts of a card at what its events come to, in whatever order and however late they
/// came: nothing before it is certain what is captured.
///
/// # Errors
/// Those of the store.
pub fn settle_accounts(connection: &Connection, seq: u64, now: Seconds) -> Result<(), LedgerError> {
    let Some(card) = super::by_seq(connection, seq)? else { return Ok(()) };
    let Some(to_capture) = card.to_capture else { return Ok(()) };
    let captured = if card.state == CardState::Closed { card.captured } else { to_capture };
    let all = charges::tally(connection, seq)?;
    // What is captured is decided: what was approved here does not matter any longer.
    let CardSettlement { shortfall, owed_back, .. } =
        CardSettlement::of(all, Tally::default(), card.amount, Some(captured));
    if (shortfall, owed_back) == (card.shortfall, card.owed_back) {
        return Ok(());
    }
    let (mandate, refs) = (mandate_of(connection, &card)?.seq, EntryRefs::card(seq));
    let share = |account, from, to| journal::set_card_share(connection, account, mandate, from, to, refs, now);
    let cents = |cents| Amount::from_cents(cents).unwrap_or(Amount::MAX);
    let (cleared, returned) = (cents(all.cleared), cents(all.returned));
    if shortfall != card.shortfall {
        let data = json!({ "cleared": cleared, "returned": returned, "captured": captured, "shortfall": shortfall });
        note(connection, &card, "card.shortfall", None, data, now)?;
    }
    if owed_back != card.owed_back {
        let data = json!({ "cleared": cleared, "returned": returned, "captured": captured, "owed_back": owed_back });
        note(connection, &card, "card.refund_due", None, data, now)?;
    }
    let shortfall = share(HostAccount::Shortfall, card.shortfall, shortfall)?;
    let owed_back = share(HostAccount::OwedBack, card.owed_back, owed_back)?;
    set_shares(connection, &card, shortfall, owed_back)
}
