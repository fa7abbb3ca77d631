//! Operators' messages that end a mandate: accepted, and sent like everything else.

use alloy_primitives::Bytes;
use rusqlite::Connection;
use stipend_core::MandateId;

use super::{
    LedgerError,
    sql::{Sql, Statements, row},
};

row! {
    /// An accepted revocation.
    #[derive(Clone, Debug)]
    pub struct Revocation in "revocation" {
        pub mandate: MandateId = "mandate",
        /// The call.
        pub calldata: Bytes = "calldata",
    }
}

/// Stores an accepted revocation, one per mandate; whether it is new.
pub fn add(connection: &Connection, revocation: &Revocation) -> Result<bool, LedgerError> {
    let added = connection.change(
        "INSERT INTO revocation (mandate, calldata) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (Sql(revocation.mandate), revocation.calldata.as_ref()),
    )?;
    Ok(added == 1)
}

/// The revocations that wait for a transaction and whose mandate has not ended, opened or not.
pub fn waiting(connection: &Connection) -> Result<Vec<Revocation>, LedgerError> {
    let rest = "INDEXED BY revocation_waiting CROSS JOIN mandate ON mandate.id = mandate
        WHERE tx IS NULL AND NOT done AND ended_hash IS NULL ORDER BY mandate.seq";
    Revocation::select(connection, rest, [])
}

/// The mandate's end is final: the revocation waits for nothing, whoever ended it.
pub fn set_done(connection: &Connection, mandate: MandateId) -> Result<(), LedgerError> {
    connection.change("UPDATE revocation SET done = 1 WHERE mandate = ?", [Sql(mandate)]).map(drop)
}

/// Puts a revocation into a transaction, or takes it out of one that is superseded for good.
pub fn set_tx(connection: &Connection, mandate: MandateId, tx: Option<u64>) -> Result<(), LedgerError> {
    connection.change("UPDATE revocation SET tx = ? WHERE mandate = ?", (tx, Sql(mandate))).map(drop)
}
