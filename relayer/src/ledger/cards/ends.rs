//! How a card ends: with a hold that is empty, or that never can be.

use alloy_primitives::B256;
use rusqlite::Connection;
use serde_json::json;
use stipend_core::{Amount, Code, Seconds, card::CardState};

use super::{CardRow, HoldOutcome, mandate_of, note, set_settled, step};
use crate::ledger::{
    LedgerError,
    balances::LedgerEvent,
    booking,
    journal::{self, EntryRefs},
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
    let Some(to_capture) = card.to_capture else { return Ok(()) };
    // It was to be captured, and never can be.
    record_shortfall(connection, &card, Clearing { cleared: to_capture, captured: card.captured }, now)?;
    step(connection, &card, CardState::Closed, None, tx_hash, now)
}

/// What the issuer has taken for a card, and what of it is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clearing {
    /// What the issuer has taken.
    pub cleared: Amount,
    /// What the treasury gets of the hold.
    pub captured: Amount,
}

/// What the issuer has taken for a card beyond what is captured is the host's loss.
pub fn record_shortfall(
    connection: &Connection,
    card: &CardRow,
    Clearing { cleared, captured }: Clearing,
    now: Seconds,
) -> Result<(), LedgerError> {
    let Some(shortfall) = cleared.checked_sub(captured).filter(|shortfall| !shortfall.is_zero()) else {
        return Ok(());
    };
    let data = json!({ "cleared": cleared, "captured": captured, "shortfall": shortfall });
    note(connection, card, "card.shortfall", None, data, now)?;
    let mandate = mandate_of(connection, card)?.seq;
    journal::record_shortfall(connection, mandate, shortfall, EntryRefs::card(card.seq), now)
}
