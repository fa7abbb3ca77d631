//! What the issuer asked about cards and was answered, and what it told: each once, in any order.

use rusqlite::{Connection, OptionalExtension};
use stipend_core::{
    Code, Seconds,
    card::{Move, Tally},
};

use super::LedgerError;

/// An answer that the issuer was given: the card, what was asked in cents, and the code of a
/// decline.
pub type Answered = (Option<u64>, i64, Option<Code>);

/// What was answered about this transaction of the issuer's.
pub fn answered(connection: &Connection, transaction: &str) -> Result<Option<Answered>, LedgerError> {
    let row: Option<(Option<u64>, i64, Option<String>)> = connection
        .prepare_cached("SELECT card, cents, verdict FROM charge WHERE transaction_token = ?")?
        .query_row([transaction], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    row.map(|(card, cents, verdict)| {
        let verdict = verdict.map(|verdict| super::named(Code::ALL, Code::name, &verdict)).transpose()?;
        Ok((card, cents, verdict))
    })
    .transpose()
}

/// Remembers an answer.
pub fn remember_answer(
    connection: &Connection,
    transaction: &str,
    (card, cents, verdict): Answered,
    now: Seconds,
) -> Result<(), LedgerError> {
    connection
        .prepare_cached("INSERT INTO charge (transaction_token, card, cents, verdict, at) VALUES (?, ?, ?, ?, ?)")?
        .execute((transaction, card, cents, verdict.map(Code::name), now))?;
    Ok(())
}

/// An event of one of the issuer's transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeEvent {
    /// The issuer's name of it.
    pub token: String,
    /// The transaction.
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

/// Takes in an event; whether it is new.
pub fn add_event(connection: &Connection, card: u64, event: &ChargeEvent, now: Seconds) -> Result<bool, LedgerError> {
    let added = connection
        .prepare_cached(
            "INSERT INTO issuer_event (token, card, transaction_token, created, kind, cents, approved, at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )?
        .execute((
            &event.token,
            card,
            &event.transaction,
            &event.created,
            &event.kind,
            event.cents,
            event.approved,
            now,
        ))?;
    Ok(added > 0)
}

/// When the last news of a card was taken in.
pub fn last_event_at(connection: &Connection, card: u64) -> Result<Option<Seconds>, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT max(at) FROM issuer_event WHERE card = ? AND approved")?
        .query_row([card], |row| row.get(0))?)
}

/// What the card's charges come to, or this one of them. Refunds are not charges.
pub fn tally(connection: &Connection, card: u64, transaction: Option<&str>) -> Result<Tally, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT transaction_token, kind, cents FROM issuer_event
         WHERE card = ?1 AND approved AND (?2 IS NULL OR transaction_token = ?2)
         ORDER BY transaction_token, created, rowid",
    )?;
    let mut rows = statement.query((card, transaction))?;
    let mut moves: Vec<(String, Vec<Move>)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (transaction, kind, cents): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let step = match kind.as_str() {
            "AUTHORIZATION" | "FINANCIAL_AUTHORIZATION" => Move::Authorised(cents),
            "AUTHORIZATION_ADVICE" => Move::Adjusted(cents),
            "AUTHORIZATION_REVERSAL" => Move::Reversed(cents),
            "AUTHORIZATION_EXPIRY" => Move::Expired,
            "CLEARING" => Move::Cleared(cents),
            _ => continue,
        };
        match moves.last_mut().filter(|(last, _)| *last == transaction) {
            Some((_, steps)) => steps.push(step),
            None => moves.push((transaction, vec![step])),
        }
    }
    Ok(moves.into_iter().fold(Tally::default(), |sum, (_, steps)| sum.plus(Tally::of(steps))))
}

/// Takes in a webhook's id; whether it is new.
pub fn add_webhook(connection: &Connection, id: &str, now: Seconds) -> Result<bool, LedgerError> {
    let added = connection
        .prepare_cached("INSERT INTO webhook (id, at) VALUES (?, ?) ON CONFLICT DO NOTHING")?
        .execute((id, now))?;
    Ok(added > 0)
}
