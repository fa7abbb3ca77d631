//! Authorization requests of the issuer with our answers, and its events: each once, in any order.

use rusqlite::Connection;
use serde_json::json;
use stipend_core::{
    Code, Seconds,
    card::{CardState, EventKind, Tally},
};

use super::{
    LedgerError, cards,
    sql::{Sql, Statements, insert, row},
};
use crate::clock;

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
    Ok(tally(connection, card, None)?.awaits_clearing(last_event_at, now))
}

/// Takes in what the issuer tells of a card, in any order and any number of times. A charge that has
/// come to its end takes the card to closing.
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
    // An unknown kind may be anything.
    let is_charge = |event: &ChargeEvent| EventKind::from_name(&event.kind).is_none_or(EventKind::is_charge);
    let charged = events.iter().any(|event| event.approved && is_charge(event));
    let ours = |event: &&ChargeEvent| card.charge.as_deref() == Some(&event.transaction);
    // Our approval came too late for the issuer.
    let is_first = |kind| matches!(kind, EventKind::Authorization | EventKind::FinancialAuthorization);
    let declined = |event: &ChargeEvent| !event.approved && EventKind::from_name(&event.kind).is_some_and(is_first);
    let lost = events.iter().filter(ours).any(declined);
    let ended = match card.state {
        // An approval that is not ours: nothing more may be charged.
        CardState::Active => charged,
        CardState::Used => lost || (charged && tally(connection, seq, None)?.pending == 0),
        _ => false,
    };
    if ended {
        cards::step(connection, &card, CardState::Closing, None, None, now)?;
    }
    cards::settle_accounts(connection, seq, now)
}

/// What the card's transactions come to, or this one of them.
pub fn tally(connection: &Connection, card: u64, transaction: Option<&str>) -> Result<Tally, LedgerError> {
    let mut rows: Vec<(String, String, i64, String)> = connection.rows(
        "SELECT transaction_token, kind, cents, created FROM issuer_event
         WHERE card = ?1 AND approved AND (?2 IS NULL OR transaction_token = ?2)
         ORDER BY transaction_token, rowid",
        (card, transaction),
    )?;
    // As times, not as text: "…:00.5Z" is after "…:00Z".
    rows.sort_by_cached_key(|(transaction, _, _, created)| {
        (transaction.clone(), created.parse::<jiff::Timestamp>().ok())
    });
    let mut transactions: Vec<(String, Vec<(EventKind, i64)>)> = Vec::new();
    for (transaction, kind, cents, _) in rows {
        let Some(kind) = EventKind::from_name(&kind) else { continue };
        match transactions.last_mut().filter(|(last, _)| *last == transaction) {
            Some((_, events)) => events.push((kind, cents)),
            None => transactions.push((transaction, vec![(kind, cents)])),
        }
    }
    Ok(transactions.into_iter().fold(Tally::default(), |sum, (_, events)| sum.plus(Tally::of(events))))
}

/// An approved event of a kind that is not known here: what it does to the money can't be told.
pub fn unknown_kind(connection: &Connection, card: u64) -> Result<Option<String>, LedgerError> {
    let kinds: Vec<String> =
        connection.rows("SELECT DISTINCT kind FROM issuer_event WHERE card = ? AND approved", [card])?;
    Ok(kinds.into_iter().find(|kind| EventKind::from_name(kind).is_none()))
}

/// Takes in a webhook's id; whether it is new.
pub fn add_webhook(connection: &Connection, id: &str, now: Seconds) -> Result<bool, LedgerError> {
    let added = connection.change("INSERT INTO webhook (id, at) VALUES (?, ?) ON CONFLICT DO NOTHING", (id, now))?;
    Ok(added > 0)
}
