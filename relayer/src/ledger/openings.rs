//! Openings by an operator's message, until they are final.

use alloy_primitives::Bytes;
use rusqlite::{Connection, OptionalExtension};
use stipend_core::{MandateId, RequestId, Seconds};

use super::LedgerError;

/// An accepted opening that waits for its transaction.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The mandate.
    pub mandate: MandateId,
    /// The call.
    pub calldata: Bytes,
}

/// Stores an accepted opening; one per mandate.
pub fn add(connection: &Connection, opening: &Opening, valid_before: Seconds) -> Result<(), LedgerError> {
    connection.prepare_cached("INSERT INTO opening (mandate, calldata, valid_before) VALUES (?, ?, ?)")?.execute((
        opening.mandate.0.0,
        opening.calldata.as_ref(),
        valid_before,
    ))?;
    Ok(())
}

/// The mandate whose opening was accepted for this request and is not final.
pub fn of_request(connection: &Connection, request: RequestId) -> Result<Option<MandateId>, LedgerError> {
    let id: Option<[u8; 32]> = connection
        .prepare_cached("SELECT mandate FROM opening JOIN mandate ON mandate.id = mandate WHERE request = ?")?
        .query_row([request.0.into_bytes()], |row| row.get(0))
        .optional()?;
    Ok(id.map(|id| MandateId(id.into())))
}

/// The openings that wait for a transaction and whose mandate is not open.
pub fn waiting(connection: &Connection) -> Result<Vec<Opening>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT mandate, opening.calldata FROM opening JOIN mandate ON mandate.id = mandate
         WHERE tx IS NULL AND opened_hash IS NULL ORDER BY mandate.seq",
    )?;
    let openings = statement.query_map([], |row| {
        Ok(Opening {
            mandate: MandateId(row.get::<_, [u8; 32]>(0)?.into()),
            calldata: row.get::<_, Vec<u8>>(1)?.into(),
        })
    })?;
    Ok(openings.collect::<Result<_, _>>()?)
}

/// Puts an opening into a transaction, if it still waits for one; returns whether it did.
pub fn board(connection: &Connection, mandate: MandateId, tx: u64) -> Result<bool, LedgerError> {
    let boarded = connection
        .prepare_cached("UPDATE opening SET tx = ? WHERE mandate = ? AND tx IS NULL")?
        .execute((tx, mandate.0.0))?;
    Ok(boarded > 0)
}

/// The transaction of an opening is finally dead: it waits again, unless it was given up.
pub fn detach_from_tx(connection: &Connection, mandate: MandateId) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE opening SET tx = NULL WHERE mandate = ?")?.execute([mandate.0.0])?;
    Ok(())
}

/// Removes and returns an operator's openings of a request that another mandate of theirs answers, for
/// good: should a reorg take that one away, it may still come back, and two would take the cap twice.
/// Those of others stay: nobody's approval is undone by a stranger who is faster.
pub fn give_up(connection: &Connection, request: RequestId, answer: MandateId) -> Result<Vec<MandateId>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM opening WHERE mandate <> ?2 AND mandate IN (SELECT id FROM mandate WHERE request = ?1
            AND operator = (SELECT operator FROM mandate WHERE id = ?2)) RETURNING mandate",
    )?;
    let given_up = statement.query_map((request.0.into_bytes(), answer.0.0), |row| row.get::<_, [u8; 32]>(0))?;
    given_up.map(|id| Ok(MandateId(id?.into()))).collect()
}

/// Removes and returns the openings that can't happen any more at a final block of this time.
pub fn lapsed(connection: &Connection, time: Seconds) -> Result<Vec<MandateId>, LedgerError> {
    let mut statement = connection.prepare_cached("DELETE FROM opening WHERE valid_before <= ? RETURNING mandate")?;
    let lapsed = statement.query_map([time], |row| row.get::<_, [u8; 32]>(0))?;
    lapsed.map(|id| Ok(MandateId(id?.into()))).collect()
}
