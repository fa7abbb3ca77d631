//! Authorization requests of the issuer with our answers, and its events: each once, in any order.

use rusqlite::Connection;
use serde_json::json;
use stipend_core::{
    Code, Seconds,
    card::{self, CardState, EventKind, Tally, VERIFICATIONS},
};

use super::{
    LedgerError, cards,
    sql::{Sql, Statements, insert, row},
};
use crate::clock;

/// How long a webhook's id is remembered, in seconds: far longer than an issuer repeats one.
const WEBHOOK_MEMORY: Seconds = 30 * 86_400;
/// How many old ids go when a new one comes, at most.
const FORGOTTEN: u32 = 16;

row! {
    /// An answer that the issuer was given.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Answer in "charge" {
        /// The card's place in the ledger, if there is one.
        pub card: Option<u64> = "card",
        /// What was asked for.
        pub cents: i64 = "cents",
        /// Why it was declined, if it was.
        pub declined: Option<Code> = "verdict",
    }
}

/// What was answered about this transaction of the issuer's.
pub fn answered(connection: &Connection, transaction: &str) -> Result<Option<Answer>, LedgerError> {
    Ok(Answer::select(connection, "WHERE transaction_token = ?", [transaction])?.pop())
}

/// How many of a card's charges were approved.
pub fn approvals(connection: &Connection, card: u64) -> Result<u32, LedgerError> {
    connection.value("SELECT count(*) FROM charge WHERE card = ? AND verdict IS NULL", [card])
}

pub fn remember_answer(
    connection: &Connection,
    transaction: &str,
    answer: Answer,
    now: Seconds,
) -> Result<(), LedgerError> {
    insert!(connection, "charge", {
        "transaction_token": transaction,
        "card": answer.card,
        "cents": answer.cents,
        "verdict": answer.declined.map(Sql),
        "at": now,
    })
    .map(drop)
}

/// An event of one of the issuer's transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeEvent {
    /// The issuer's name of it.
    pub token: String,
    pub transaction: String,
    /// When, as the issuer says: orders them.
    pub created: String,
    /// What it does.
    pub kind: String,
    /// How much, in cents.
    pub cents: i64,
    /// Whether it took effect.
    pub approved: bool,
}

/// Stores an event; whether it is new.
fn add_event(connection: &Connection, card: u64, event: &ChargeEvent, now: Seconds) -> Result<bool, LedgerError> {
    let added = insert!(connection, "issuer_event", {
        "token": event.token,
        "card": card,
        "transaction_token": event.transaction,
        "created": event.created,
        "kind": event.kind,
        "cents": event.cents,
        "approved": event.approved,
        "at": now,
    }, "ON CONFLICT DO NOTHING")?;
    Ok(added > 0)
}

/// Whether something of the card's charges may still come.
pub fn awaits_clearing(connection: &Connection, card: u64, now: Seconds) -> Result<bool, LedgerError> {
    let query = "SELECT max(at) FROM issuer_event WHERE card = ? AND approved";
    let last_event_at: Option<Seconds> = connection.value(query, [card])?;
    Ok(tally(connection, card)?.awaits_clearing(last_event_at, now))
}

/// Takes in what the issuer tells of a card, in any order and any number of times. A charge that has
/// come to its end takes the card to closing; one that came to nothing, a few times, leaves it usable.
pub fn ingest(connection: &Connection, seq: u64, events: &[ChargeEvent]) -> Result<(), LedgerError> {
    let now = clock::now();
    let Some(card) = cards::by_seq(connection, seq)? else { return Ok(()) };
    let mut changed = false;
    for event in events {
        if add_event(connection, seq, event, now)? {
            changed = true;
            if event.approved && EventKind::from_name(&event.kind).is_none() {
                tracing::warn!(card = %card.id, kind = %event.kind, "the issuer reports an event that this version does not know");
            }
            let data = json!({
                "event": event.kind, "cents": event.cents, "approved": event.approved, "transaction": event.transaction,
            });
            cards::note(connection, &card, "card.issuer_event", None, data, now)?;
        }
    }
    if !changed {
        return Ok(());
    }
    settle_charge(connection, &card, events, now)?;
    cards::settle_accounts(connection, seq, now)
}

/// What new events mean for a card that can be charged, or was.
fn settle_charge(
    connection: &Connection,
    card: &cards::CardRow,
    events: &[ChargeEvent],
    now: Seconds,
) -> Result<(), LedgerError> {
    // An unknown kind may be anything.
    let is_charge = |event: &ChargeEvent| EventKind::from_name(&event.kind).is_none_or(EventKind::is_charge);
    let charged = events.iter().any(|event| event.approved && is_charge(event));
    let transactions = transactions(connection, card.seq)?;
    let tally = sum(&transactions);
    match card.state {
        CardState::Active if charged => {
            let mut unasked = false;
            for event in events.iter().filter(|event| event.approved && is_charge(event)) {
                unasked |= answered(connection, &event.transaction)?.is_none_or(|answer| answer.declined.is_some());
            }
            // Approved without us, or taken although it had come to nothing: nothing more may be charged.
            if unasked || tally.pending.max(tally.lapsed).max(tally.cleared) > 0 {
                return cards::step(connection, card, CardState::Closing, None, None, now);
            }
            Ok(())
        }
        CardState::Used => {
            let is_ours = |event: &&ChargeEvent| card.charge.as_deref() == Some(&event.transaction);
            let is_decline = |event: &ChargeEvent| {
                !event.approved && EventKind::from_name(&event.kind).is_some_and(EventKind::is_authorization)
            };
            let known = transactions.iter().find(|(token, _)| card.charge.as_deref() == Some(token));
            let known = known.map_or(&[][..], |(_, events)| events);
            let why = if events.iter().filter(is_ours).any(is_decline) {
                // Our approval came too late for it.
                Some("declined by the issuer")
            } else if tally.cleared == 0 && card::is_voided_verification(known) {
                Some("taken back by the merchant")
            } else {
                None
            };
            if let Some(why) = why {
                let data = json!({ "amount": card.authorized, "transaction": card.charge, "why": why });
                cards::note(connection, card, "card.not_charged", None, data, now)?;
                cards::set_charged(connection, card.seq, None)?;
                let usable = approvals(connection, card.seq)? <= VERIFICATIONS;
                let next = if usable { CardState::Active } else { CardState::Closing };
                return cards::step(connection, card, next, None, None, now);
            }
            // Of a charge whose beginning is not known yet, more is to come.
            let begun = known.iter().any(|(kind, _)| kind.is_authorization());
            if begun && charged && tally.pending == 0 {
                return cards::step(connection, card, CardState::Closing, None, None, now);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What all of the card's transactions come to.
pub fn tally(connection: &Connection, card: u64) -> Result<Tally, LedgerError> {
    Ok(sum(&transactions(connection, card)?))
}

/// What those come to that were approved here.
pub fn approved_tally(connection: &Connection, card: u64) -> Result<Tally, LedgerError> {
    let approved: Vec<String> =
        connection.rows("SELECT transaction_token FROM charge WHERE card = ? AND verdict IS NULL", [card])?;
    let mut transactions = transactions(connection, card)?;
    transactions.retain(|(token, _)| approved.contains(token));
    Ok(sum(&transactions))
}

/// A transaction's token, and its events with their cents.
type TransactionEvents = (String, Vec<(EventKind, i64)>);

fn sum(transactions: &[TransactionEvents]) -> Tally {
    transactions.iter().fold(Tally::default(), |sum, (_, events)| sum.plus(Tally::of(events.iter().copied())))
}

/// A card's transactions, each with its approved events of known kinds, in the issuer's order.
fn transactions(connection: &Connection, card: u64) -> Result<Vec<TransactionEvents>, LedgerError> {
    let mut rows: Vec<(String, String, i64, String)> = connection.rows(
        "SELECT transaction_token, kind, cents, created FROM issuer_event WHERE card = ? AND approved
         ORDER BY transaction_token, rowid",
        [card],
    )?;
    // As times, not as text: "…:00.5Z" is after "…:00Z".
    rows.sort_by_cached_key(|(transaction, _, _, created)| {
        (transaction.clone(), created.parse::<jiff::Timestamp>().ok())
    });
    let mut transactions: Vec<TransactionEvents> = Vec::new();
    for (transaction, kind, cents, _) in rows {
        let Some(kind) = EventKind::from_name(&kind) else { continue };
        match transactions.last_mut().filter(|(last, _)| *last == transaction) {
            Some((_, events)) => events.push((kind, cents)),
            None => transactions.push((transaction, vec![(kind, cents)])),
        }
    }
    Ok(transactions)
}

/// An approved event of a kind that is not known here: what it does to the money can't be told.
pub fn unknown_kind(connection: &Connection, card: u64) -> Result<Option<String>, LedgerError> {
    let kinds: Vec<String> =
        connection.rows("SELECT DISTINCT kind FROM issuer_event WHERE card = ? AND approved", [card])?;
    Ok(kinds.into_iter().find(|kind| EventKind::from_name(kind).is_none()))
}

/// Takes in a webhook's id; whether it is new. An old one is forgotten: should the issuer repeat it all the same, its
/// events are known.
pub fn add_webhook(connection: &Connection, id: &str, now: Seconds) -> Result<bool, LedgerError> {
    let old = "DELETE FROM webhook WHERE id IN (SELECT id FROM webhook INDEXED BY webhook_taken WHERE at < ? LIMIT ?)";
    connection.change(old, (now.saturating_sub(WEBHOOK_MEMORY), FORGOTTEN))?;
    let added = connection.change("INSERT INTO webhook (id, at) VALUES (?, ?) ON CONFLICT DO NOTHING", (id, now))?;
    Ok(added > 0)
}
