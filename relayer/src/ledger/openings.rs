//! Openings by an operator's message, until they are final.

use alloy_primitives::{B256, Bytes};
use rusqlite::Connection;
use stipend_core::{MandateId, RequestId, Seconds};

use super::{
    LedgerError, audit, mandates,
    sql::{Sql, Statements, insert, row},
};

row! {
    /// An accepted opening that waits for its transaction.
    #[derive(Clone, Debug)]
    pub struct Opening in "opening" {
        pub mandate: MandateId = "mandate",
        /// The call.
        pub calldata: Bytes = "calldata",
    }
}

/// Stores an accepted opening; one per mandate.
pub fn add(connection: &Connection, opening: &Opening, valid_before: Seconds) -> Result<(), LedgerError> {
    insert!(connection, "opening", {
        "mandate": Sql(opening.mandate),
        "calldata": opening.calldata.as_ref(),
        "valid_before": valid_before,
    })
    .map(drop)
}

// In the queries a CROSS JOIN says that the openings are gone through, which are few, and not the mandates.

/// The mandate whose opening was accepted for this request and is not final.
pub fn of_request(connection: &Connection, request: RequestId) -> Result<Option<MandateId>, LedgerError> {
    let query = "SELECT mandate FROM opening CROSS JOIN mandate ON mandate.id = mandate WHERE request = ?";
    connection.row(query, [Sql(request)])
}

/// The openings that wait for a transaction and whose mandate was neither opened nor revoked.
pub fn waiting(connection: &Connection) -> Result<Vec<Opening>, LedgerError> {
    let rest =
        "CROSS JOIN mandate ON mandate.id = mandate WHERE tx IS NULL AND opened_hash IS NULL AND ended_hash IS NULL
        ORDER BY mandate.seq";
    Opening::select(connection, rest, [])
}

/// Puts an opening into a transaction, if it still waits for one; returns whether it did.
pub fn attach_to_tx(connection: &Connection, mandate: MandateId, tx: u64) -> Result<bool, LedgerError> {
    let attached =
        connection.change("UPDATE opening SET tx = ? WHERE mandate = ? AND tx IS NULL", (tx, Sql(mandate)))?;
    Ok(attached > 0)
}

/// The transaction of an opening is superseded for good: it waits again, unless it was given up.
pub fn detach_from_tx(connection: &Connection, mandate: MandateId) -> Result<(), LedgerError> {
    connection.change("UPDATE opening SET tx = NULL WHERE mandate = ?", [Sql(mandate)]).map(drop)
}

/// Removes and returns an operator's openings of a request that another mandate of theirs answers, for
/// good: should a reorg take that one away, it may still come back, and two would take the cap twice.
/// Those of others stay: nobody's approval is undone by a stranger who is faster.
pub fn give_up(connection: &Connection, request: RequestId, answer: MandateId) -> Result<Vec<MandateId>, LedgerError> {
    connection.rows(
        "DELETE FROM opening WHERE mandate <> ?2 AND EXISTS (SELECT 1 FROM mandate WHERE id = opening.mandate
            AND request = ?1 AND operator = (SELECT operator FROM mandate WHERE id = ?2)) RETURNING mandate",
        (Sql(request), Sql(answer)),
    )
}

/// Gives up the opening of a mandate that its operator ends before anybody has opened it: its terms never open. For good:
/// should a reorg take the revocation away, the operator still wants none.
pub fn withdraw(
    connection: &Connection,
    id: MandateId,
    tx_hash: Option<B256>,
    now: Seconds,
) -> Result<(), LedgerError> {
    let Some(mandate) = mandates::get(connection, id)?.filter(|mandate| mandate.opened.is_none()) else {
        return Ok(());
    };
    if connection.change("DELETE FROM opening WHERE mandate = ?", [Sql(id)])? == 0 {
        return Ok(());
    }
    audit::append(connection, now, audit::NewAuditEntry { tx_hash, ..mandate.event("mandate.opening_given_up") })
}

/// Removes and returns the openings that have become impossible at a final block of this time.
pub fn lapsed(connection: &Connection, time: Seconds) -> Result<Vec<MandateId>, LedgerError> {
    connection.rows("DELETE FROM opening WHERE valid_before <= ? RETURNING mandate", [time])
}
