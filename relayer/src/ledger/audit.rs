//! The audit trail: append-only, a hash chain for each mandate and one of heads over all.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, keccak256};
use rusqlite::Connection;
use serde_json::Value;
use stipend_core::{
    CardId, MandateId, PaymentId, RequestId, Seconds,
    api::AuditEntry,
    trail::{Body, Entry, Note, chained},
};

use super::{
    LedgerError,
    sql::{Columns, Sql, Statements, insert, row},
};

/// What happened, and to what.
#[derive(Debug, Default)]
pub struct NewAuditEntry {
    /// `mandate.opened`, …
    pub kind: String,
    /// Who may read it, where it belongs to no mandate.
    pub agent: Option<Address>,
    pub request: Option<RequestId>,
    pub mandate: Option<MandateId>,
    pub card: Option<CardId>,
    /// The transaction.
    pub tx_hash: Option<B256>,
    /// What else is to be known.
    pub data: Value,
}

pub fn append(connection: &Connection, at: Seconds, event: NewAuditEntry) -> Result<(), LedgerError> {
    let NewAuditEntry { kind, agent, request, mandate, card, tx_hash, data } = event;
    let note = Note::new(at, &Body { kind, request, card, tx_hash, data }).map_err(LedgerError::inconsistent)?;
    let owner = match mandate {
        Some(id) => {
            let seq: Option<u64> = connection.row("SELECT seq FROM mandate WHERE id = ?", [Sql(id)])?;
            Owner::Mandate { seq: seq.ok_or_else(|| LedgerError::inconsistent("an entry of no mandate"))?, id }
        }
        None => Owner::Agent(agent),
    };
    add(connection, owner, &Entry::Note(note))
}

/// The chain that an entry belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    /// That of a mandate, at this place in the ledger.
    Mandate { seq: u64, id: MandateId },
    /// That of what belongs to none. Who may read it.
    Agent(Option<Address>),
}

pub(super) fn add(connection: &Connection, owner: Owner, entry: &Entry) -> Result<(), LedgerError> {
    let (seq, _) = write_after(connection, owner, hash_before(connection, owner)?, entry)?;
    match owner {
        Owner::Mandate { seq: mandate, .. } => list(connection, mandate, seq),
        Owner::Agent(_) => Ok(()),
    }
}

/// Adds an entry to the list of its mandate's.
pub(super) fn list(connection: &Connection, mandate: u64, seq: u64) -> Result<(), LedgerError> {
    insert!(connection, "mandate_trail", { "mandate": mandate, "seq": seq }).map(drop)
}

/// The hash of the last entry of a chain.
pub(super) fn hash_before(connection: &Connection, owner: Owner) -> Result<B256, LedgerError> {
    let (last, start): (Option<B256>, B256) = match owner {
        Owner::Mandate { seq, id } => {
            let query = "SELECT hash FROM trail WHERE seq = (SELECT max(seq) FROM mandate_trail WHERE mandate = ?)";
            (connection.row(query, [seq])?, id.0)
        }
        Owner::Agent(_) => {
            let query =
                "SELECT hash FROM trail INDEXED BY trail_of_agents WHERE mandate IS NULL ORDER BY seq DESC LIMIT 1";
            (connection.row(query, [])?, B256::ZERO)
        }
    };
    Ok(last.unwrap_or(start))
}

/// Writes an entry behind one with this hash, and does not list it. Returns its place and its own hash.
pub(super) fn write_after(
    connection: &Connection,
    owner: Owner,
    previous: B256,
    entry: &Entry,
) -> Result<(u64, B256), LedgerError> {
    let (mandate, agent) = match owner {
        Owner::Mandate { seq, .. } => (Some(seq), None),
        Owner::Agent(agent) => (None, agent),
    };
    let body = entry.encode();
    let (hash, events) = (chained(previous, &body), u64::try_from(entry.events()).map_err(LedgerError::inconsistent)?);
    let seq = last(connection)?.saturating_add(events);
    insert!(connection, "trail", {
        "seq": seq,
        "mandate": mandate,
        "agent": agent.map(Sql),
        "hash": Sql(hash),
        "body": body,
    })?;
    Ok((seq, hash))
}

/// The place of the last event.
pub(super) fn last(connection: &Connection) -> Result<u64, LedgerError> {
    connection.value("SELECT coalesce(max(seq), 0) FROM trail", [])
}

row! {
    /// Seals every entry up to a place: the hash of the head before it, and of each entry since then, its place and its hash.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Head in "head" {
        seq: u64 = "seq",
        hash: B256 = "hash",
    }
}

impl Head {
    fn before(connection: &Connection) -> Result<Self, LedgerError> {
        Ok(Self::select(connection, "ORDER BY seq DESC LIMIT 1", [])?.pop().unwrap_or_default())
    }

    fn over(self, entries: impl IntoIterator<Item = (u64, B256)>) -> Self {
        let (mut seq, mut bytes) = (self.seq, self.hash.to_vec());
        for (place, hash) in entries {
            seq = place;
            bytes.extend(place.to_be_bytes());
            bytes.extend(hash);
        }
        Self { seq, hash: keccak256(bytes) }
    }
}

/// Seals what was written since the last time: none of it can be left out, or moved, unseen. Returns the place of the last
/// event.
pub(crate) fn seal(connection: &Connection) -> Result<u64, LedgerError> {
    let before = Head::before(connection)?;
    let since: Vec<(u64, B256)> =
        connection.rows("SELECT seq, hash FROM trail WHERE seq > ? ORDER BY seq", [before.seq])?;
    if since.is_empty() {
        return Ok(before.seq);
    }
    let head = before.over(since);
    insert!(connection, "head", { "seq": head.seq, "hash": Sql(head.hash) })?;
    Ok(head.seq)
}

/// Tells `look` of each entry, in order, whether it follows from those of its chain before it, and whether the heads say so too.
pub(super) fn verify(connection: &Connection, mut look: impl FnMut(u64, bool)) -> Result<(), LedgerError> {
    let mut heads = connection.prepare("SELECT seq, hash FROM head ORDER BY seq")?;
    let mut heads = heads.query_and_then([], |row| Columns::of(row).take::<Head>())?;
    let mut entries = connection.prepare(
        "SELECT trail.seq, body, hash, mandate.seq, id FROM trail LEFT JOIN mandate ON mandate.seq = trail.mandate
            ORDER BY trail.seq",
    )?;
    let mut entries = entries.query([])?;
    let mut chains: BTreeMap<Option<u64>, B256> = BTreeMap::new();
    let (mut last, mut sealed, mut unsealed) = (0_u64, Head::default(), Vec::new());
    let mut head = heads.next().transpose()?;
    while let Some(row) = entries.next()? {
        let mut columns = Columns::of(row);
        let (seq, body, hash): (u64, Vec<u8>, B256) = columns.take()?;
        let (mandate, id): (Option<u64>, Option<MandateId>) = columns.take()?;
        let start = id.map_or(B256::ZERO, |id| id.0);
        let previous = chains.insert(mandate, hash).unwrap_or(start);
        let events = Entry::decode(&body).ok().and_then(|entry| u64::try_from(entry.events()).ok());
        let mut intact =
            events.is_some_and(|events| last.saturating_add(events) == seq) && chained(previous, &body) == hash;
        unsealed.push((seq, hash));
        if let Some(next) = head.filter(|head| head.seq <= seq) {
            sealed = sealed.over(unsealed.drain(..));
            intact &= sealed == next;
            (sealed, head) = (next, heads.next().transpose()?);
        }
        look(seq, intact);
        last = seq;
    }
    // What the last head seals is gone, or was added without one.
    if head.is_some() || !unsealed.is_empty() {
        look(last.saturating_add(1), false);
    }
    Ok(())
}

/// How many entries of a ledger that is taken over are read and sealed at once.
const IMPORTED: u32 = 10_000;

row! {
    /// An entry from before entries were bytes.
    struct Imported in "audit" {
        seq: u64 = "seq",
        at: Seconds = "at",
        kind: String = "kind",
        agent: Option<Address> = "agent",
        request: Option<RequestId> = "request",
        mandate: Option<MandateId> = "mandate",
        place: Option<u64> = "(SELECT seq FROM mandate WHERE id = audit.mandate)",
        payment: Option<PaymentId> = "payment",
        card: Option<CardId> = "card",
        tx_hash: Option<B256> = "tx_hash",
        data: Value = "data",
        hash: B256 = "hash",
    }
}

/// Takes over the entries of a ledger from before they were bytes, each with its hash in the chain that there was.
pub(super) fn import(connection: &Connection) -> Result<(), LedgerError> {
    let mut after = 0;
    loop {
        let entries = Imported::select(connection, "WHERE seq > ? ORDER BY seq LIMIT ?", (after, IMPORTED))?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            let Imported { seq, at, kind, agent, request, mandate, place, payment, card, tx_hash, data, hash } = entry;
            let owner = match (place, mandate) {
                (Some(seq), Some(id)) => Owner::Mandate { seq, id },
                _ => Owner::Agent(agent),
            };
            let whole = AuditEntry { seq, at, kind, request, mandate, payment, card, tx_hash, data, hash };
            add(connection, owner, &Entry::Imported(Note::new(at, &whole).map_err(LedgerError::inconsistent)?))?;
            after = seq;
        }
        seal(connection)?;
    }
}
