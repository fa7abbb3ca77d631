//! Mandate requests, and what idempotency keys bought.

use alloy_primitives::{Address, B256};
use rusqlite::{Connection, OptionalExtension, Row};
use stipend_core::{
    Intent, MandateId, RequestId, Seconds,
    api::{MandateRequest, NewMandateRequest, RequestState},
};
use uuid::Uuid;

use super::LedgerError;

const COLUMNS: &str = "id, agent, body, intent, mandate, created_at";

fn record(row: &Row<'_>) -> Result<MandateRequest, LedgerError> {
    let body: NewMandateRequest = super::json(&row.get::<_, String>(2)?)?;
    let mandate = row.get::<_, Option<[u8; 32]>>(4)?.map(|id| MandateId(id.into()));
    Ok(MandateRequest {
        id: RequestId(Uuid::from_bytes(row.get(0)?)),
        state: if mandate.is_some() { RequestState::Approved } else { RequestState::Pending },
        agent: row.get::<_, [u8; 20]>(1)?.into(),
        amount: body.amount,
        duration: body.duration,
        per_payment: body.per_payment,
        window: body.window,
        window_cap: body.window_cap,
        refunds_restore_budget: body.refunds_restore_budget.unwrap_or(true),
        intent: super::json(&row.get::<_, String>(3)?)?,
        mandate,
        created_at: row.get(5)?,
        metadata: body.metadata,
    })
}

/// Stores a new request.
pub fn insert(
    connection: &Connection,
    id: RequestId,
    agent: Address,
    body: &NewMandateRequest,
    intent: &Intent,
    now: Seconds,
) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "INSERT INTO request (id, agent, body, intent, intent_hash, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute((id.0.into_bytes(), agent.0.0, super::to_json(body)?, intent.canonical(), intent.hash().0, now))?;
    Ok(())
}

/// One request.
pub fn get(connection: &Connection, id: RequestId) -> Result<Option<MandateRequest>, LedgerError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM request WHERE id = ?"))?
        .query_and_then([id.0.into_bytes()], record)?
        .next()
        .transpose()
}

/// The request of `agent` whose document has this hash.
pub fn of_intent(connection: &Connection, agent: Address, intent: B256) -> Result<Option<MandateRequest>, LedgerError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM request WHERE intent_hash = ? AND agent = ?"))?
        .query_and_then((intent.0, agent.0.0), record)?
        .next()
        .transpose()
}

/// The agent's requests, newest first, before `before`.
pub fn list(
    connection: &Connection,
    agent: Address,
    before: Option<RequestId>,
    limit: u32,
) -> Result<Vec<MandateRequest>, LedgerError> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM request WHERE agent = ?1 AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3"
        ))?
        .query_and_then((agent.0.0, before.map(|id| id.0.into_bytes()), limit), record)?
        .collect()
}

/// Ties a request to the mandate that came of it, or unties it when the opening is unmined.
pub fn set_mandate(connection: &Connection, id: RequestId, mandate: Option<MandateId>) -> Result<(), LedgerError> {
    connection
        .prepare_cached("UPDATE request SET mandate = ? WHERE id = ?")?
        .execute((mandate.map(|id| id.0.0), id.0.into_bytes()))?;
    Ok(())
}

/// What an idempotency key bought before: the fingerprint of what was asked and the id of what came
/// of it.
pub fn bought(connection: &Connection, scope: &[u8], key: &str) -> Result<Option<(B256, Uuid)>, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT fingerprint, subject FROM idempotency WHERE scope = ? AND key = ?")?
        .query_row((scope, key), |row| {
            Ok((row.get::<_, [u8; 32]>(0)?.into(), Uuid::from_bytes(row.get::<_, [u8; 16]>(1)?)))
        })
        .optional()?)
}

/// Remembers what an idempotency key bought.
pub fn remember(
    connection: &Connection,
    scope: &[u8],
    key: &str,
    fingerprint: B256,
    subject: Uuid,
) -> Result<(), LedgerError> {
    connection
        .prepare_cached("INSERT INTO idempotency (scope, key, fingerprint, subject) VALUES (?, ?, ?, ?)")?
        .execute((scope, key, fingerprint.0, subject.into_bytes()))?;
    Ok(())
}
