//! What readers see of the audit trail, rendered from its bytes. It is also what the event stream sends, so nothing is
//! published that was not committed.

use std::collections::{BinaryHeap, HashMap, VecDeque, hash_map::Entry as Known};

use alloy_primitives::{Address, B256};
use rusqlite::Connection;
use serde_json::{Value, json};
use stipend_bindings::{Domain, Spend};
use stipend_core::{
    Deployment, Intent, MandateId, RequestId, Seconds, Terms,
    api::{AuditEntry, RawAuditEntry},
    trail::{Body, Decided, Entry, Place, Step},
};

use super::{
    LedgerError, audit, mandates, payments,
    sql::{Sql, Statements, row},
};

/// A reader who has seen all but so many events is told of the rest by looking at them all.
const RECENT: u64 = 1_000;
/// How many entries are read ahead of a mandate.
const AHEAD: u32 = 16;

row! {
    /// The entry as its mandate's readers see it.
    struct Seen in "trail LEFT JOIN mandate ON mandate.seq = trail.mandate" {
        seq: u64 = "trail.seq",
        body: Vec<u8> = "body",
        hash: B256 = "hash",
        id: Option<MandateId> = "id",
        request: Option<RequestId> = "request",
    }
}

impl Seen {
    /// An event that it tells of.
    fn event(&self, seq: u64, at: Seconds, kind: String, data: Value) -> AuditEntry {
        AuditEntry {
            seq,
            at,
            kind,
            request: self.request,
            mandate: self.id,
            payment: None,
            card: None,
            tx_hash: None,
            data,
            hash: self.hash,
        }
    }
}

/// What to read of the trail, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// What this agent or operator may see …
    pub reader: Address,
    /// … of this mandate alone …
    pub mandate: Option<MandateId>,
    /// … after this event.
    pub after: u64,
    /// How many events at most.
    pub limit: u32,
}

/// The events that the query asks for.
pub fn list(connection: &Connection, query: Query) -> Result<Vec<AuditEntry>, LedgerError> {
    let mut renderer = Renderer::new(connection)?;
    let (limit, mut events) = (query.limit as usize, Vec::new());
    for seq in places(connection, query)? {
        if events.len() >= limit {
            break;
        }
        events.extend(renderer.events(seq, query.after)?);
    }
    events.truncate(limit);
    Ok(events)
}

/// The entries that the query asks for, byte for byte. Of one with several events, the last one's place counts.
pub fn list_raw(connection: &Connection, query: Query) -> Result<Vec<RawAuditEntry>, LedgerError> {
    let read = |seq| {
        let Seen { seq, body, hash, id, .. } = seen(connection, seq)?;
        Ok(RawAuditEntry { seq, mandate: id, bytes: body.into(), hash })
    };
    places(connection, query)?.into_iter().map(read).collect()
}

/// The latest events that `reader` may see, oldest first, at most `limit`.
pub fn latest(
    connection: &Connection,
    reader: Address,
    mandate: Option<MandateId>,
    limit: u32,
) -> Result<Vec<AuditEntry>, LedgerError> {
    let mut renderer = Renderer::new(connection)?;
    let mut events = VecDeque::new();
    for seq in merged(connection, &chains(connection, reader, mandate)?, Direction::Back, mandates::LAST, limit)? {
        if events.len() >= limit as usize {
            break;
        }
        for event in renderer.events(seq, 0)?.into_iter().rev() {
            events.push_front(event);
        }
    }
    let surplus = events.len().saturating_sub(limit as usize);
    Ok(events.into_iter().skip(surplus).collect())
}

fn seen(connection: &Connection, seq: u64) -> Result<Seen, LedgerError> {
    let found = Seen::select(connection, "WHERE trail.seq = ?", [seq])?.pop();
    found.ok_or_else(|| LedgerError::inconsistent("an entry of the trail is gone"))
}

fn places(connection: &Connection, Query { reader, mandate, after, limit }: Query) -> Result<Vec<u64>, LedgerError> {
    if mandate.is_none() && audit::last(connection)?.saturating_sub(after) <= RECENT {
        // Most readers have seen nearly all: what is new is looked at, whosever it is.
        let query = "SELECT trail.seq FROM trail LEFT JOIN mandate ON mandate.seq = trail.mandate
            WHERE trail.seq > ?1 AND (trail.agent = ?2 OR mandate.agent = ?2 OR operator = ?2) ORDER BY trail.seq LIMIT ?3";
        return connection.rows(query, (after, Sql(reader), limit));
    }
    merged(connection, &chains(connection, reader, mandate)?, Direction::On, after, limit)
}

/// A chain of entries that somebody reads.
#[derive(Clone, Copy, Debug)]
enum Chain {
    Mandate(u64),
    Agent(Address),
}

/// What a reader may see.
fn chains(connection: &Connection, reader: Address, mandate: Option<MandateId>) -> Result<Vec<Chain>, LedgerError> {
    if let Some(id) = mandate {
        let query = "SELECT seq FROM mandate WHERE id = ?1 AND (agent = ?2 OR operator = ?2)";
        let place: Option<u64> = connection.row(query, (Sql(id), Sql(reader)))?;
        return Ok(place.into_iter().map(Chain::Mandate).collect());
    }
    let query = "SELECT seq FROM mandate WHERE agent = ?1 UNION SELECT seq FROM mandate WHERE operator = ?1";
    let mandates: Vec<u64> = connection.rows(query, [Sql(reader)])?;
    Ok(mandates.into_iter().map(Chain::Mandate).chain([Chain::Agent(reader)]).collect())
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    /// From older to newer.
    On,
    /// From newer to older.
    Back,
}

/// The places of entries of these chains beyond a place, merged; so many at most.
fn merged(
    connection: &Connection,
    chains: &[Chain],
    direction: Direction,
    from: u64,
    limit: u32,
) -> Result<Vec<u64>, LedgerError> {
    let read = |chain: Chain, from: u64, count: u32| -> Result<VecDeque<u64>, LedgerError> {
        let places: Vec<u64> = match (chain, direction) {
            (Chain::Mandate(mandate), Direction::On) => {
                let query = "SELECT seq FROM mandate_trail WHERE mandate = ? AND seq > ? ORDER BY seq LIMIT ?";
                connection.rows(query, (mandate, from, count))?
            }
            (Chain::Mandate(mandate), Direction::Back) => {
                let query = "SELECT seq FROM mandate_trail WHERE mandate = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
                connection.rows(query, (mandate, from, count))?
            }
            (Chain::Agent(agent), Direction::On) => {
                let query =
                    "SELECT seq FROM trail WHERE mandate IS NULL AND agent = ? AND seq > ? ORDER BY seq LIMIT ?";
                connection.rows(query, (Sql(agent), from, count))?
            }
            (Chain::Agent(agent), Direction::Back) => {
                let query =
                    "SELECT seq FROM trail WHERE mandate IS NULL AND agent = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
                connection.rows(query, (Sql(agent), from, count))?
            }
        };
        Ok(places.into())
    };
    // The next one is the greatest.
    let rank = |place: u64| match direction {
        Direction::On => !place,
        Direction::Back => place,
    };
    let (mut next, mut places) = (BinaryHeap::new(), Vec::new());
    for (index, chain) in chains.iter().enumerate() {
        next.extend(read(*chain, from, 1)?.pop_front().map(|place| (rank(place), place, index, VecDeque::new())));
    }
    while let Some((_, place, index, mut ahead)) = next.pop() {
        if places.len() == limit as usize {
            break;
        }
        places.push(place);
        if let (true, Some(chain)) = (ahead.is_empty(), chains.get(index)) {
            ahead = read(*chain, place, AHEAD)?;
        }
        next.extend(ahead.pop_front().map(|place| (rank(place), place, index, ahead)));
    }
    Ok(places)
}

/// Renders entries: what the API shows of their bytes.
struct Renderer<'a> {
    connection: &'a Connection,
    deployment: Deployment,
    /// The documents of mandates whose decisions were rendered.
    documents: HashMap<MandateId, (Terms, Option<Intent>)>,
}

impl<'a> Renderer<'a> {
    fn new(connection: &'a Connection) -> Result<Self, LedgerError> {
        let deployment = super::deployment(connection)?;
        let deployment = deployment.ok_or_else(|| LedgerError::inconsistent("it belongs to nobody"))?;
        Ok(Self { connection, deployment, documents: HashMap::new() })
    }

    /// The events of the entry at this place that are after `after`, in order.
    fn events(&mut self, seq: u64, after: u64) -> Result<Vec<AuditEntry>, LedgerError> {
        let seen = seen(self.connection, seq)?;
        let entry = Entry::decode(&seen.body).map_err(LedgerError::inconsistent)?;
        match entry {
            Entry::Imported(note) => {
                let imported: AuditEntry = note.read().map_err(LedgerError::inconsistent)?;
                Ok(vec![AuditEntry { seq, hash: seen.hash, ..imported }])
            }
            Entry::Note(note) => {
                let Body { kind, request, card, tx_hash, data } = note.read().map_err(LedgerError::inconsistent)?;
                Ok(vec![AuditEntry { request, card, tx_hash, ..seen.event(seq, note.at, kind, data) }])
            }
            Entry::Decision(decided) => Ok(vec![self.decision(&seen, &decided)?]),
            Entry::Step(step) => self.step(&seen, &step, after),
        }
    }

    fn decision(&mut self, seen: &Seen, decided: &Decided) -> Result<AuditEntry, LedgerError> {
        let id = seen.id.ok_or_else(|| LedgerError::inconsistent("a decision of no mandate"))?;
        let (terms, intent) = match self.documents.entry(id) {
            Known::Occupied(known) => known.into_mut(),
            Known::Vacant(unknown) => {
                let query = "SELECT terms, intent FROM mandate WHERE id = ?";
                let documents: Option<(Terms, Option<Intent>)> = self.connection.row(query, [Sql(id)])?;
                unknown.insert(documents.ok_or_else(|| LedgerError::inconsistent("a mandate is gone"))?)
            }
        };
        let decision = decided.replay(terms, intent.as_ref(), self.deployment).map_err(LedgerError::inconsistent)?;
        let amount = decided.amount().map_err(LedgerError::inconsistent)?;
        let Decided { at, payee, nonce, deadline, reference, .. } = *decided;
        let spend = Spend::new(id, payee, amount, nonce, deadline, reference).map_err(LedgerError::inconsistent)?;
        let domain = Domain { chain_id: self.deployment.chain_id, escrow: self.deployment.escrow };
        let mut data = json!({
            "payee": payee.to_string(), "amount": amount, "nonce": nonce, "deadline": deadline, "ref": reference,
            "digest": domain.spend_digest(&spend), "decision": decision,
        });
        if let (Some(data), Some((_, code))) = (data.as_object_mut(), decision.refusal()) {
            data.insert("code".into(), json!(code));
        }
        let payment = decided.id();
        let kind = if payment.is_some() { "payment.reserved" } else { "payment.denied" };
        Ok(AuditEntry { payment, ..seen.event(seen.seq, at, kind.into(), data) })
    }

    /// The step of each payment.
    fn step(&self, seen: &Seen, step: &Step, after: u64) -> Result<Vec<AuditEntry>, LedgerError> {
        let mandate = seen.id.ok_or_else(|| LedgerError::inconsistent("a step of no mandate"))?;
        let first = seen.seq.saturating_add(1).saturating_sub(step.nonces.len() as u64);
        let event = |(seq, nonce): (u64, &u32)| {
            let payment = payments::by_nonce(self.connection, mandate, *nonce)?
                .ok_or_else(|| LedgerError::inconsistent("a step of no payment"))?;
            let mut data = json!({ "amount": payment.amount, "nonce": nonce, "payee": payment.payee.to_string() });
            if let Some(data) = data.as_object_mut() {
                if let Some(Place { number, hash }) = step.block.0 {
                    data.insert("block".into(), json!({ "number": number, "hash": hash }));
                }
                if let Some(reason) = &step.reason.0 {
                    data.insert("reason".into(), json!(reason));
                }
                if step.unmined {
                    data.insert("unmined".into(), json!(true));
                }
            }
            let event = seen.event(seq, step.at, format!("payment.{}", step.state), data);
            Ok(AuditEntry { payment: Some(payment.id), tx_hash: step.tx.0, ..event })
        };
        (first..).zip(&step.nonces).filter(|(seq, _)| *seq > after).map(event).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
