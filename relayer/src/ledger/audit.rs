//! The audit trail: append-only, each entry hashed together with the one before it. It is also
//! what the event stream sends, so nothing is published that was not committed.

use alloy_primitives::{Address, B256, keccak256};
use rusqlite::Connection;
use stipend_core::{CardId, MandateId, PaymentId, RequestId, Seconds, api::AuditEntry};

use super::{
    LedgerError,
    sql::{Columns, FromColumns, Sql, Statements, insert},
};

/// What happened, and to what.
#[derive(Debug, Default)]
pub struct NewAuditEntry {
    /// `payment.submitted`, `mandate.opened`, …
    pub kind: String,
    /// May read it.
    pub agent: Option<Address>,
    /// May read it too.
    pub operator: Option<Address>,
    pub request: Option<RequestId>,
    pub mandate: Option<MandateId>,
    pub payment: Option<PaymentId>,
    pub card: Option<CardId>,
    /// The transaction.
    pub tx_hash: Option<B256>,
    /// What else is to be known.
    pub data: serde_json::Value,
}

const COLUMNS: &str = "seq, at, kind, request, mandate, payment, card, tx_hash, data, hash";

impl FromColumns for AuditEntry {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
        Ok(Self {
            seq: columns.take()?,
            at: columns.take()?,
            kind: columns.take()?,
            request: columns.take()?,
            mandate: columns.take()?,
            payment: columns.take()?,
            card: columns.take()?,
            tx_hash: columns.take()?,
            data: columns.take()?,
            hash: columns.take()?,
        })
    }
}

pub fn append(connection: &Connection, at: Seconds, event: NewAuditEntry) -> Result<(), LedgerError> {
    let last: Option<(u64, B256)> = connection.row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [])?;
    let (seq, previous) = last.map_or((1, B256::ZERO), |(seq, hash)| (seq + 1, hash));
    let mut entry = AuditEntry {
        seq,
        at,
        kind: event.kind,
        request: event.request,
        mandate: event.mandate,
        payment: event.payment,
        card: event.card,
        tx_hash: event.tx_hash,
        data: event.data,
        hash: previous,
    };
    entry.hash = chained(&entry)?;
    insert!(connection, "audit", {
        "seq": entry.seq,
        "at": entry.at,
        "kind": entry.kind,
        "request": entry.request.map(Sql),
        "mandate": entry.mandate.map(Sql),
        "payment": entry.payment.map(Sql),
        "card": entry.card.map(Sql),
        "tx_hash": entry.tx_hash.map(Sql),
        "data": Sql(entry.data),
        "hash": Sql(entry.hash),
        "agent": event.agent.map(Sql),
        "operator": event.operator.map(Sql),
    })
    .map(drop)
}

/// An entry's hash is that of itself with the previous entry's hash in the place of its own.
fn chained(entry: &AuditEntry) -> Result<B256, LedgerError> {
    Ok(keccak256(serde_jcs::to_vec(entry).map_err(LedgerError::inconsistent)?))
}

/// Tells `look` of each entry, in order, whether it follows from the one before it.
pub(super) fn verify(connection: &Connection, mut look: impl FnMut(u64, bool)) -> Result<(), LedgerError> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM audit ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    let (mut expected, mut previous) = (1, B256::ZERO);
    while let Some(row) = rows.next()? {
        let stored = AuditEntry::from_columns(&mut Columns::of(row))?;
        let hash = chained(&AuditEntry { hash: previous, ..stored.clone() })?;
        look(stored.seq, stored.seq == expected && hash == stored.hash);
        (expected, previous) = (stored.seq.saturating_add(1), stored.hash);
    }
    Ok(())
}

/// What `reader` may see after `after`, oldest first, at most `limit` entries.
pub fn list(
    connection: &Connection,
    reader: Address,
    mandate: Option<MandateId>,
    after: u64,
    limit: u32,
) -> Result<Vec<AuditEntry>, LedgerError> {
    // Two indexed searches; an entry is both agent's and operator's only if they are one.
    let side = |column: &str| {
        format!(
            "SELECT * FROM (SELECT {COLUMNS} FROM audit WHERE {column} = ?1 AND seq > ?2 AND (?3 IS NULL OR mandate = ?3) ORDER BY seq LIMIT ?4)"
        )
    };
    connection.rows(
        &format!("{} UNION {} ORDER BY 1 LIMIT ?4", side("agent"), side("operator")),
        (Sql(reader), after, mandate.map(Sql), limit),
    )
}

/// The latest that `reader` may see, oldest first, at most `limit` entries.
pub fn latest(
    connection: &Connection,
    reader: Address,
    mandate: Option<MandateId>,
    limit: u32,
) -> Result<Vec<AuditEntry>, LedgerError> {
    let side = |column: &str| {
        format!(
            "SELECT * FROM (SELECT {COLUMNS} FROM audit WHERE {column} = ?1 AND (?2 IS NULL OR mandate = ?2)
                ORDER BY seq DESC LIMIT ?3)"
        )
    };
    let mut entries: Vec<AuditEntry> = connection.rows(
        &format!("{} UNION {} ORDER BY 1 DESC LIMIT ?3", side("agent"), side("operator")),
        (Sql(reader), mandate.map(Sql), limit),
    )?;
    entries.reverse();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_or_an_omission_shows() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("schema.sql")).unwrap();
        let agent = Address::repeat_byte(1);
        for kind in ["a", "b", "c"] {
            append(&connection, 5, NewAuditEntry { kind: kind.into(), agent: Some(agent), ..NewAuditEntry::default() })
                .unwrap();
        }
        let intact = |entries: &[AuditEntry]| {
            entries.iter().try_fold(B256::ZERO, |previous, entry| {
                let hashed = serde_jcs::to_vec(&AuditEntry { hash: previous, ..entry.clone() }).unwrap();
                (keccak256(hashed) == entry.hash).then_some(entry.hash)
            })
        };
        let mut entries = list(&connection, agent, None, 0, 10).unwrap();
        assert_eq!(entries.len(), 3);
        assert!(intact(&entries).is_some());
        assert_eq!(list(&connection, agent, None, 2, 10).unwrap().len(), 1);
        assert_eq!(list(&connection, Address::repeat_byte(2), None, 0, 10).unwrap().len(), 0);

        let mut edited = entries.clone();
        edited[1].at = 6;
        assert!(intact(&edited).is_none());
        entries.remove(1);
        assert!(intact(&entries).is_none());
    }
}
