//! Mandate requests, and what idempotency keys were used for.

use alloy_primitives::{Address, B256};
use rusqlite::Connection;
use stipend_core::{
    Intent, MandateId, RequestId, Seconds,
    api::{MandateRequest, NewMandateRequest, RequestState},
};
use uuid::Uuid;

use super::{
    LedgerError,
    sql::{Sql, Statements, insert, row},
};

row! {
    struct RequestRow in "request" {
        id: RequestId = "id",
        agent: Address = "agent",
        body: NewMandateRequest = "body",
        intent: Intent = "intent",
        mandate: Option<MandateId> = "mandate",
        created_at: Seconds = "created_at",
    }
}

impl From<RequestRow> for MandateRequest {
    fn from(RequestRow { id, agent, body, intent, mandate, created_at }: RequestRow) -> Self {
        Self {
            id,
            state: if mandate.is_some() { RequestState::Approved } else { RequestState::Pending },
            agent,
            amount: body.amount,
            duration: body.duration,
            per_payment: body.per_payment,
            window: body.window,
            window_cap: body.window_cap,
            refunds_restore_budget: body.refunds_restore_budget.unwrap_or(true),
            intent,
            mandate,
            created_at,
            metadata: body.metadata,
        }
    }
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
    insert!(connection, "request", {
        "id": Sql(id),
        "agent": Sql(agent),
        "body": Sql(body.clone()),
        "intent": Sql(intent.clone()),
        "intent_hash": Sql(intent.hash()),
        "created_at": now,
    })
    .map(drop)
}

pub fn get(connection: &Connection, id: RequestId) -> Result<Option<MandateRequest>, LedgerError> {
    Ok(RequestRow::select(connection, "WHERE id = ?", [Sql(id)])?.pop().map(Into::into))
}

/// The request of `agent` whose document has this hash.
pub fn of_intent(connection: &Connection, agent: Address, intent: B256) -> Result<Option<MandateRequest>, LedgerError> {
    let rest = "WHERE intent_hash = ? AND agent = ?";
    Ok(RequestRow::select(connection, rest, (Sql(intent), Sql(agent)))?.pop().map(Into::into))
}

/// The agent's requests, newest first, before `before`.
pub fn list(
    connection: &Connection,
    agent: Address,
    before: Option<RequestId>,
    limit: u32,
) -> Result<Vec<MandateRequest>, LedgerError> {
    let before = before.unwrap_or(RequestId(Uuid::max()));
    let rest = "WHERE agent = ? AND id < ? ORDER BY id DESC LIMIT ?";
    let rows = RequestRow::select(connection, rest, (Sql(agent), Sql(before), limit))?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Ties a request to the mandate that came of it, or unties it when the opening is unmined.
pub fn set_mandate(connection: &Connection, id: RequestId, mandate: Option<MandateId>) -> Result<(), LedgerError> {
    connection.change("UPDATE request SET mandate = ? WHERE id = ?", (mandate.map(Sql), Sql(id))).map(drop)
}

row! {
    /// What an idempotency key was used for.
    pub struct IdempotentCall in "idempotency" {
        /// Of what was asked.
        pub fingerprint: B256 = "fingerprint",
        /// The id of what came of it.
        pub subject: Uuid = "subject",
    }
}

/// What an idempotency key was used for before.
pub fn recall(connection: &Connection, scope: &[u8], key: &str) -> Result<Option<IdempotentCall>, LedgerError> {
    Ok(IdempotentCall::select(connection, "WHERE scope = ? AND key = ?", (scope, key))?.pop())
}

/// Remembers what an idempotency key was used for.
pub fn remember(connection: &Connection, scope: &[u8], key: &str, call: IdempotentCall) -> Result<(), LedgerError> {
    insert!(connection, "idempotency", {
        "scope": scope,
        "key": key,
        "fingerprint": Sql(call.fingerprint),
        "subject": Sql(call.subject),
    })
    .map(drop)
}
