//! Cards and what was bought with them.

use rusqlite::{Connection, OptionalExtension, Row, types::Value as Sql};
use serde_json::Value;
use uuid::Uuid;

use super::{Page, StoreError, json, page, to_json, word};
use crate::{
    card::{Card, CardCredentials, CardState, Velocity},
    number::{CardNumber, Cvv},
    time::Time,
    transaction::{Status, Transaction},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct CardFilter {
    pub(crate) account: Option<Uuid>,
    pub(crate) state: Option<CardState>,
    /// A part of the memo.
    pub(crate) memo: Option<String>,
    pub(crate) time_range: TimeRange,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TransactionFilter {
    pub(crate) account: Option<Uuid>,
    pub(crate) card: Option<Uuid>,
    pub(crate) status: Option<Status>,
    pub(crate) approved: Option<bool>,
    pub(crate) time_range: TimeRange,
}

/// What was created after `begin` and before `end`; both are outside, as Lithic has it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TimeRange {
    pub(crate) begin: Option<Time>,
    pub(crate) end: Option<Time>,
}

impl TimeRange {
    pub(super) fn conditions(self) -> impl Iterator<Item = (&'static str, Sql)> {
        let begin = self.begin.map(|begin| ("created > ?", Sql::from(begin.0)));
        begin.into_iter().chain(self.end.map(|end| ("created < ?", Sql::from(end.0))))
    }
}

/// What a create call was answered before.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) request: String,
    pub(crate) card: Uuid,
    pub(crate) answer: Value,
}

pub(crate) fn insert_card(connection: &Connection, card: &Card, secrets: &CardCredentials) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO card (token, account, number, cvv, state, memo, created, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            card.token.to_string(),
            card.account_token.to_string(),
            secrets.number.stored(),
            secrets.cvv.stored(),
            word(&card.state)?,
            card.memo.as_deref().unwrap_or_default(),
            card.created.0,
            to_json(card)?,
        ))?;
    Ok(())
}

pub(crate) fn update_card(connection: &Connection, card: &Card) -> Result<(), StoreError> {
    connection.prepare_cached("UPDATE card SET state = ?, memo = ?, body = ? WHERE token = ?")?.execute((
        word(&card.state)?,
        card.memo.as_deref().unwrap_or_default(),
        to_json(card)?,
        card.token.to_string(),
    ))?;
    Ok(())
}

/// A number that no card of this issuer has.
pub(crate) fn free_number(connection: &Connection) -> Result<CardNumber, StoreError> {
    loop {
        let number = CardNumber::random()?;
        if of_number(connection, number)?.is_none() {
            return Ok(number);
        }
    }
}

fn card_and_secrets(row: &Row<'_>) -> Result<(Card, CardCredentials), StoreError> {
    let number = CardNumber::from_stored(row.get(1)?).map_err(StoreError::inconsistent)?;
    let cvv = Cvv::from_stored(row.get(2)?).map_err(StoreError::inconsistent)?;
    Ok((json(&row.get::<_, String>(0)?)?, CardCredentials { number, cvv }))
}

pub(crate) fn card(connection: &Connection, token: Uuid) -> Result<Option<(Card, CardCredentials)>, StoreError> {
    connection
        .prepare_cached("SELECT body, number, cvv FROM card WHERE token = ?")?
        .query_and_then([token.to_string()], card_and_secrets)?
        .next()
        .transpose()
}

pub(crate) fn of_number(connection: &Connection, number: CardNumber) -> Result<Option<Card>, StoreError> {
    connection
        .prepare_cached("SELECT body FROM card WHERE number = ?")?
        .query_and_then([number.stored()], |row| json(&row.get::<_, String>(0)?))?
        .next()
        .transpose()
}

pub(crate) fn cards(
    connection: &Connection,
    filter: CardFilter,
    wanted: &Page,
) -> Result<Option<(Vec<Card>, bool)>, StoreError> {
    let mut conditions: Vec<(&str, Sql)> = filter.time_range.conditions().collect();
    conditions.extend(filter.account.map(|account| ("account = ?", account.to_string().into())));
    if let Some(state) = filter.state {
        conditions.push(("state = ?", word(&state)?.into()));
    }
    conditions.extend(filter.memo.map(|part| ("instr(memo, ?) > 0", part.into())));
    page(connection, "card", "body", conditions, wanted)
}

pub(crate) fn answered(connection: &Connection, key: &str) -> Result<Option<Answered>, StoreError> {
    connection
        .prepare_cached("SELECT request, card, answer FROM answered WHERE key = ?")?
        .query_and_then([key], |row| {
            let card = row.get::<_, String>(1)?.parse().map_err(StoreError::inconsistent)?;
            Ok(Answered { request: row.get(0)?, card, answer: json(&row.get::<_, String>(2)?)? })
        })?
        .next()
        .transpose()
}

pub(crate) fn remember(connection: &Connection, key: &str, answered: &Answered) -> Result<(), StoreError> {
    connection.prepare_cached("INSERT INTO answered (key, request, card, answer) VALUES (?, ?, ?, ?)")?.execute((
        key,
        &answered.request,
        answered.card.to_string(),
        answered.answer.to_string(),
    ))?;
    Ok(())
}

/// Stores a new transaction, or one that has gone on.
pub(crate) fn save(connection: &Connection, transaction: &Transaction) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO purchase (token, account, card, status, result, created, body) VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (token) DO UPDATE SET status = excluded.status, body = excluded.body",
        )?
        .execute((
            transaction.token.to_string(),
            transaction.account_token.to_string(),
            transaction.card_token.to_string(),
            word(&transaction.standing().status)?,
            transaction.result(),
            transaction.created.0,
            to_json(transaction)?,
        ))?;
    Ok(())
}

pub(crate) fn transaction(connection: &Connection, token: Uuid) -> Result<Option<Transaction>, StoreError> {
    let found: Option<String> = connection
        .prepare_cached("SELECT body FROM purchase WHERE token = ?")?
        .query_row([token.to_string()], |row| row.get(0))
        .optional()?;
    found.map(|body| json(&body)).transpose()
}

pub(crate) fn transactions(
    connection: &Connection,
    filter: TransactionFilter,
    wanted: &Page,
) -> Result<Option<(Vec<Transaction>, bool)>, StoreError> {
    let mut conditions: Vec<(&str, Sql)> = filter.time_range.conditions().collect();
    conditions.extend(filter.account.map(|account| ("account = ?", account.to_string().into())));
    conditions.extend(filter.card.map(|card| ("card = ?", card.to_string().into())));
    if let Some(status) = filter.status {
        conditions.push(("status = ?", word(&status)?.into()));
    }
    conditions.extend(filter.approved.map(|approved| ("(result = 'APPROVED') = ?", approved.into())));
    page(connection, "purchase", "body", conditions, wanted)
}

/// What a card's limits count at this time.
pub(crate) fn velocity(connection: &Connection, card: Uuid, now: Time) -> Result<Velocity, StoreError> {
    let mut statement = connection.prepare_cached("SELECT body FROM purchase WHERE card = ?")?;
    let mut rows = statement.query([card.to_string()])?;
    let mut spent = Velocity::default();
    while let Some(row) = rows.next()? {
        let transaction: Transaction = json(&row.get::<_, String>(0)?)?;
        let amount = transaction.standing().spent();
        for (since, sum) in [
            (Some(now.month_ago()), &mut spent.month),
            (Some(now.year_ago()), &mut spent.year),
            (None, &mut spent.forever),
        ] {
            if since.is_none_or(|since| transaction.created > since) {
                *sum = sum.saturating_add(amount);
            }
        }
    }
    Ok(spent)
}
