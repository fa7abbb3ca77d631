//! Operators' messages that end a mandate: accepted, and sent like everything else.

use alloy_primitives::Bytes;
use rusqlite::Connection;
use stipend_core::MandateId;

use super::LedgerError;

/// An accepted revocation.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// The mandate.
    pub mandate: MandateId,
    /// The call.
    pub calldata: Bytes,
}

/// Stores an accepted revocation, one per mandate; whether it is new.
pub fn add(connection: &Connection, revocation: &Revocation) -> Result<bool, LedgerError> {
    let added = connection
        .prepare_cached("INSERT INTO revocation (mandate, calldata) VALUES (?, ?) ON CONFLICT DO NOTHING")?
        .execute((revocation.mandate.0.0, revocation.calldata.as_ref()))?;
    Ok(added == 1)
}

/// The revocations that wait for a transaction and whose mandate is open.
pub fn waiting(connection: &Connection) -> Result<Vec<Revocation>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT mandate, calldata FROM revocation JOIN mandate ON mandate.id = mandate
         WHERE tx IS NULL AND opened_hash IS NOT NULL AND ended_hash IS NULL ORDER BY mandate.seq",
    )?;
    let revocations = statement.query_map([], |row| {
        Ok(Revocation {
            mandate: MandateId(row.get::<_, [u8; 32]>(0)?.into()),
            calldata: row.get::<_, Vec<u8>>(1)?.into(),
        })
    })?;
    Ok(revocations.collect::<Result<_, _>>()?)
}

/// Puts a revocation into a transaction, or takes it out of one that is finally dead.
pub fn set_tx(connection: &Connection, mandate: MandateId, tx: Option<u64>) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE revocation SET tx = ? WHERE mandate = ?")?.execute((tx, mandate.0.0))?;
    Ok(())
}
