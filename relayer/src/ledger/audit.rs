//! The audit trail: append-only, each entry hashed together with the one before it. It is also
//! what the event stream sends, so nothing is told that was not committed.

use alloy_primitives::{Address, B256, keccak256};
use rusqlite::{Connection, OptionalExtension, Row};
use stipend_core::{CardId, MandateId, PaymentId, RequestId, Seconds, api::AuditEntry};
use uuid::Uuid;

use super::LedgerError;

/// What happened, and to what.
#[derive(Debug, Default)]
pub struct NewAuditEntry {
    /// `payment.submitted`, `mandate.opened`, …
    pub kind: String,
    /// May read it.
    pub agent: Option<Address>,
    /// May read it too.
    pub operator: Option<Address>,
    /// The request.
    pub request: Option<RequestId>,
    /// The mandate.
    pub mandate: Option<MandateId>,
    /// The payment.
    pub payment: Option<PaymentId>,
    /// The card.
    pub card: Option<CardId>,
    /// The transaction.
    pub tx_hash: Option<B256>,
    /// What else is to be known.
    pub data: serde_json::Value,
}

const COLUMNS: &str = "seq, at, kind, request, mandate, payment, card, tx_hash, data, hash";

fn entry(row: &Row<'_>) -> Result<AuditEntry, LedgerError> {
    let data: String = row.get(8)?;
    Ok(AuditEntry {
        seq: row.get(0)?,
        at: row.get(1)?,
        kind: row.get(2)?,
        request: row.get::<_, Option<[u8; 16]>>(3)?.map(|id| RequestId(Uuid::from_bytes(id))),
        mandate: row.get::<_, Option<[u8; 32]>>(4)?.map(|id| MandateId(id.into())),
        payment: row.get::<_, Option<[u8; 16]>>(5)?.map(|id| PaymentId(Uuid::from_bytes(id))),
        card: row.get::<_, Option<[u8; 16]>>(6)?.map(|id| CardId(Uuid::from_bytes(id))),
        tx_hash: row.get::<_, Option<[u8; 32]>>(7)?.map(Into::into),
        data: super::json(&data)?,
        hash: row.get::<_, [u8; 32]>(9)?.into(),
    })
}

/// Appends an entry.
pub fn append(connection: &Connection, at: Seconds, event: NewAuditEntry) -> Result<(), LedgerError> {
    let last = connection
        .prepare_cached("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, [u8; 32]>(1)?)))
        .optional()?;
    let (seq, previous) = last.map_or((1, B256::ZERO), |(seq, hash)| (seq + 1, hash.into()));
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
    connection
        .prepare_cached(&format!(
            "INSERT INTO audit ({COLUMNS}, agent, operator) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        ))?
        .execute((
            entry.seq,
            entry.at,
            &entry.kind,
            entry.request.map(|id| id.0.into_bytes()),
            entry.mandate.map(|id| id.0.0),
            entry.payment.map(|id| id.0.into_bytes()),
            entry.card.map(|id| id.0.into_bytes()),
            entry.tx_hash.map(|hash| hash.0),
            super::to_json(&entry.data)?,
            entry.hash.0,
            event.agent.map(|address| address.0.0),
            event.operator.map(|address| address.0.0),
        ))?;
    Ok(())
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
        let stored = entry(row)?;
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
    connection
        .prepare_cached(&format!("{} UNION {} ORDER BY 1 LIMIT ?4", side("agent"), side("operator")))?
        .query_and_then((reader.0.0, after, mandate.map(|id| id.0.0), limit), entry)?
        .collect()
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
