//! Mandates as the ledger holds them.

use std::{ops::Deref, sync::Arc};

use alloy_primitives::{Address, B256};
use rusqlite::Connection;
use stipend_core::{Amount, Intent, MandateId, RequestId, Seconds, Terms, api, policy::MandateState};

use super::{
    LedgerError, audit,
    balances::{Balances, LedgerEvent},
    journal::{self, EntryRefs},
    requests,
    sql::{Columns, FromColumns, HOLDS_HAVE_ENDED, Sql, Statements, insert, row},
};

/// The time in which an operator has so many openings.
const QUOTA_PERIOD: Seconds = 86_400;

/// Behind every place in the ledger.
pub(super) const LAST: u64 = i64::MAX.cast_unsigned();

/// The newest mandates of a reader (?1, as agent or operator) before a place (?2), at most ?3: the ends of two ranges.
const OF_READER: &str = "seq IN (
    SELECT * FROM (SELECT seq FROM mandate WHERE agent = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3)
    UNION ALL SELECT * FROM (SELECT seq FROM mandate WHERE operator = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3))";

/// A place in the chain: block height, block hash, transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxLocation {
    /// The block's height.
    pub block: u64,
    /// The block's hash.
    pub hash: B256,
    /// The transaction.
    pub tx: B256,
}

/// The columns of a [`MandateAccount`].
macro_rules! account {
    () => {
        "seq, id, agent, operator, request, cap, restored, overdrawn, available, reserved, held, paid, returned, carried"
    };
}

/// The columns of a [`Standing`].
macro_rules! standing {
    () => {
        concat!(
            account!(),
            ", opened_block, opened_hash, opened_tx, ended_block, ended_hash, ended_tx, frozen,
            (SELECT max(nonce) FROM (SELECT max(nonce) AS nonce FROM payment WHERE stage = 0 AND mandate = mandate.id
                UNION ALL SELECT max(nonce) FROM payment WHERE stage = 1 AND mandate = mandate.id
                UNION ALL SELECT max(nonce) FROM payment WHERE stage = 2 AND mandate = mandate.id
                UNION ALL SELECT max(nonce) FROM payment WHERE stage = 3 AND mandate = mandate.id
                UNION ALL SELECT max(nonce) FROM payment WHERE stage = 4 AND mandate = mandate.id
                UNION ALL SELECT max(nonce) FROM card WHERE mandate = mandate.id
                UNION ALL SELECT max(nonce) FROM external_outflow WHERE mandate = mandate.id)),
            refunded, EXISTS (SELECT 1 FROM revocation WHERE revocation.mandate = mandate.id),
            (SELECT valid_before FROM opening WHERE opening.mandate = mandate.id), intent IS NOT NULL"
        )
    };
}

/// What a booking needs of a mandate. Read for every step of payments, it leaves out all else.
#[derive(Clone, Debug)]
pub struct MandateAccount {
    /// Its place in the ledger.
    pub seq: u64,
    pub id: MandateId,
    pub agent: Address,
    pub operator: Address,
    /// The request it came from.
    pub request: Option<RequestId>,
    /// Where its money is.
    pub balances: Balances,
}

/// How a mandate stands, without its documents.
#[derive(Clone, Debug)]
pub struct Standing {
    pub account: MandateAccount,
    /// Where it was opened; absent while that is not mined.
    pub opened: Option<TxLocation>,
    /// Where it ended.
    pub ended: Option<TxLocation>,
    /// Why the relayer stopped it.
    pub frozen: Option<String>,
    /// The highest nonce that was admitted or seen on chain.
    pub highest_nonce: Option<u32>,
    /// Refunded in final blocks, wherever it went.
    pub refunded: Amount,
    /// Whether its operator's message that ends it was accepted.
    pub revoking: bool,
    /// Until when its operator's message that opens it may do so, if that was accepted and is not given
    /// up.
    pub opening_until: Option<Seconds>,
    /// Whether an intent document matches its terms.
    pub documented: bool,
}

row! {
    #[derive(Clone, Debug)]
    pub struct MandateRow in "mandate" {
        pub standing: Standing = standing!(),
        pub terms: Terms = "terms",
        /// Its intent document, if one matches the terms.
        pub intent: Option<Arc<Intent>> = "intent",
    }
}

impl FromColumns for MandateAccount {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
        Ok(Self {
            seq: columns.take()?,
            id: columns.take()?,
            agent: columns.take()?,
            operator: columns.take()?,
            request: columns.take()?,
            balances: columns.take()?,
        })
    }
}

impl FromColumns for Standing {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
        Ok(Self {
            account: columns.take()?,
            opened: columns.take()?,
            ended: columns.take()?,
            frozen: columns.take()?,
            highest_nonce: columns.take()?,
            refunded: columns.take()?,
            revoking: columns.take()?,
            opening_until: columns.take()?,
            documented: columns.take()?,
        })
    }
}

impl FromColumns for Option<TxLocation> {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
        let location: (Option<u64>, Option<B256>, Option<B256>) = columns.take()?;
        match location {
            (Some(block), Some(hash), Some(tx)) => Ok(Some(TxLocation { block, hash, tx })),
            (None, None, None) => Ok(None),
            _ => Err(LedgerError::inconsistent("a part of a place in the chain")),
        }
    }
}

impl FromColumns for Balances {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
        Ok(Self {
            cap: columns.take()?,
            restored: columns.take()?,
            overdrawn: columns.take()?,
            available: columns.take()?,
            reserved: columns.take()?,
            held: columns.take()?,
            paid: columns.take()?,
            returned: columns.take()?,
            carried: columns.take()?,
        })
    }
}

impl Deref for Standing {
    type Target = MandateAccount;

    fn deref(&self) -> &MandateAccount {
        &self.account
    }
}

impl Deref for MandateRow {
    type Target = Standing;

    fn deref(&self) -> &Standing {
        &self.standing
    }
}

impl MandateAccount {
    /// Whether `who` may see it.
    pub fn belongs_to(&self, who: Address) -> bool {
        who == self.agent || who == self.operator
    }

    /// Its chain in the audit trail.
    pub(super) const fn chain(&self) -> audit::Owner {
        audit::Owner::Mandate { seq: self.seq, id: self.id }
    }

    /// An audit event about it.
    pub fn event(&self, kind: impl Into<String>) -> audit::NewAuditEntry {
        audit::NewAuditEntry {
            kind: kind.into(),
            request: self.request,
            mandate: Some(self.id),
            ..audit::NewAuditEntry::default()
        }
    }
}

impl Standing {
    /// Whether this nonce is above all that were ever admitted or seen on chain.
    pub fn is_unused(&self, nonce: u32) -> bool {
        self.highest_nonce.is_none_or(|highest| nonce > highest)
    }

    /// Where it stands, seen from a head at height `head`: usable `confirmations` blocks from its
    /// opening on, that block counted.
    pub fn state(&self, head: u64, confirmations: u64) -> MandateState {
        let confirmed =
            |location: &TxLocation| head >= location.block && head - location.block >= confirmations.saturating_sub(1);
        if self.ended.is_some() {
            MandateState::Ended
        } else if self.frozen.is_some() {
            MandateState::Frozen
        } else if self.opened.as_ref().is_some_and(confirmed) {
            MandateState::Open
        } else {
            MandateState::Opening
        }
    }

    /// The same for whatever is new: ended from its operator's message on. What would be accepted after
    /// that would only be refused later.
    pub fn state_for_new(&self, head: u64, confirmations: u64) -> MandateState {
        if self.revoking { MandateState::Ended } else { self.state(head, confirmations) }
    }
}

impl MandateRow {
    /// As the API shows it.
    pub fn view(self, head: u64, confirmations: u64) -> api::Mandate {
        api::Mandate {
            id: self.id,
            state: self.state(head, confirmations),
            available: self.balances.available,
            reserved: self.balances.reserved,
            held: self.balances.held,
            paid: self.balances.paid,
            returned: self.balances.returned,
            carried: self.balances.carried,
            refunded: self.refunded,
            restored: self.balances.restored,
            next_nonce: self.highest_nonce.map_or(0, |nonce| nonce.saturating_add(1)),
            opening_until: self.opening_until.filter(|_| self.opened.is_none()),
            opened_tx: self.opened.map(|location| location.tx),
            ended_tx: self.ended.map(|location| location.tx),
            revoking: self.revoking && self.ended.is_none(),
            request: self.request,
            terms: self.terms,
            intent: self.intent.map(Arc::unwrap_or_clone),
        }
    }
}

pub fn account(connection: &Connection, id: MandateId) -> Result<Option<MandateAccount>, LedgerError> {
    connection.row(concat!("SELECT ", account!(), " FROM mandate WHERE id = ?"), [Sql(id)])
}

/// How a mandate stands, if it is this agent's.
pub(super) fn standing(
    connection: &Connection,
    id: MandateId,
    agent: Address,
) -> Result<Option<Standing>, LedgerError> {
    let query = concat!("SELECT ", standing!(), " FROM mandate WHERE id = ? AND agent = ?");
    connection.row(query, (Sql(id), Sql(agent)))
}

/// The mandate, if it is this agent's. Another agent's is not read: a stranger's calls cost nothing of its documents.
pub fn of_agent(connection: &Connection, id: MandateId, agent: Address) -> Result<Option<MandateRow>, LedgerError> {
    Ok(MandateRow::select(connection, "WHERE id = ? AND agent = ?", (Sql(id), Sql(agent)))?.pop())
}

pub fn get(connection: &Connection, id: MandateId) -> Result<Option<MandateRow>, LedgerError> {
    Ok(MandateRow::select(connection, "WHERE id = ?", [Sql(id)])?.pop())
}

/// The mandates of `who` (as agent or operator), newest first, before `before`.
pub fn list(
    connection: &Connection,
    who: Address,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<MandateRow>, LedgerError> {
    let rest = format!("WHERE {OF_READER} ORDER BY seq DESC LIMIT ?3");
    MandateRow::select(connection, &rest, (Sql(who), before.unwrap_or(LAST), limit))
}

/// The places and ids of those.
pub(super) fn ids(
    connection: &Connection,
    who: Address,
    before: u64,
    limit: u32,
) -> Result<Vec<(u64, MandateId)>, LedgerError> {
    let query = format!("SELECT seq, id FROM mandate WHERE {OF_READER} ORDER BY seq DESC LIMIT ?3");
    connection.rows(&query, (Sql(who), before, limit))
}

/// Makes a mandate known, if it is not: from its operator's message or from the chain. Its intent
/// document is the one of the request that it answers, if that matches the terms.
pub fn ensure(connection: &Connection, id: MandateId, terms: &Terms, now: Seconds) -> Result<(), LedgerError> {
    let request = requests::of_intent(connection, terms.agent, terms.intent)?
        .filter(|request| request.intent.payees_root() == terms.payees);
    let event = LedgerEvent::Open(terms.cap);
    let (balances, postings) = Balances::default().book(event).map_err(LedgerError::inconsistent)?;
    let added = insert!(connection, "mandate", {
        "id": Sql(id),
        "operator": Sql(terms.operator),
        "agent": Sql(terms.agent),
        "terms": Sql(terms.clone()),
        "intent": Sql(request.as_ref().map(|request| request.intent.clone())),
        "request": request.as_ref().map(|request| Sql(request.id)),
        "expiry": terms.expiry,
        "cap": Sql(balances.cap),
        "available": Sql(balances.available),
        "created_at": now,
    }, "ON CONFLICT (id) DO NOTHING")?;
    if added == 0 {
        return Ok(());
    }
    let seq = connection.inserted()?;
    journal::enter(connection, seq, event, &postings, EntryRefs::default(), now)
}

/// Gives a mandate that replaces another one its intent document, if it commits to the same and has none of its own: a
/// document is looked up by the agent that asked for it, and a roll may name another agent.
pub fn inherit_intent(connection: &Connection, from: MandateId, to: MandateId) -> Result<(), LedgerError> {
    let (Some(from), Some(to)) = (get(connection, from)?, get(connection, to)?) else { return Ok(()) };
    let Some(intent) = from.intent.as_deref().filter(|_| !to.documented && to.terms.intent == from.terms.intent) else {
        return Ok(());
    };
    if intent.payees_root() != to.terms.payees {
        return Ok(());
    }
    connection.change("UPDATE mandate SET intent = ? WHERE id = ?", (Sql(Some(intent.clone())), Sql(to.id))).map(drop)
}

/// Stores where its money is. The journal says why, in the same commit.
pub(super) fn set_balances(connection: &Connection, id: MandateId, balances: Balances) -> Result<(), LedgerError> {
    connection.change("UPDATE mandate SET restored = ?, overdrawn = ?, available = ?, reserved = ?, held = ?, paid = ?, returned = ?,
             carried = ?
             WHERE id = ?", (
            Sql(balances.restored),
            Sql(balances.overdrawn),
            Sql(balances.available),
            Sql(balances.reserved),
            Sql(balances.held),
            Sql(balances.paid),
            Sql(balances.returned),
            Sql(balances.carried),
            Sql(id),
        )).map(drop)
}

/// Its decisions up to this place of the trail are in the tables. They only reserve.
pub(super) fn apply(connection: &Connection, seq: u64, balances: Balances, applied: u64) -> Result<(), LedgerError> {
    let query = "UPDATE mandate SET available = ?, reserved = ?, applied = ? WHERE seq = ?";
    connection.change(query, (Sql(balances.available), Sql(balances.reserved), applied, seq)).map(drop)
}

/// Adds what a payee gave back.
pub fn add_refunded(connection: &Connection, id: MandateId, payer: Address, amount: Amount) -> Result<(), LedgerError> {
    connection.change("UPDATE mandate SET refunded = refunded + ? WHERE id = ?", (Sql(amount), Sql(id)))?;
    connection
        .change(
            "INSERT INTO refund (mandate, payer, amount) VALUES (?, ?, ?)
             ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
            (Sql(id), Sql(payer), Sql(amount)),
        )
        .map(drop)
}

/// Stores where it was opened.
pub fn set_opened(connection: &Connection, id: MandateId, location: Option<TxLocation>) -> Result<(), LedgerError> {
    set_location(connection, "opened", id, location)
}

/// Stores where it ended.
pub fn set_ended(connection: &Connection, id: MandateId, location: Option<TxLocation>) -> Result<(), LedgerError> {
    set_location(connection, "ended", id, location)
}

fn set_location(
    connection: &Connection,
    what: &str,
    id: MandateId,
    location: Option<TxLocation>,
) -> Result<(), LedgerError> {
    connection
        .change(
            &format!("UPDATE mandate SET {what}_block = ?, {what}_hash = ?, {what}_tx = ? WHERE id = ?"),
            (
                location.map(|location| location.block),
                location.map(|location| Sql(location.hash)),
                location.map(|location| Sql(location.tx)),
                Sql(id),
            ),
        )
        .map(drop)
}

/// The mandates that the block with this hash opened or ended.
pub fn touched_by(connection: &Connection, block: B256) -> Result<Vec<MandateRow>, LedgerError> {
    MandateRow::select(connection, "WHERE opened_hash = ?1 OR ended_hash = ?1", [Sql(block)])
}

/// Freezes a mandate.
pub fn freeze(connection: &Connection, id: MandateId, why: &str) -> Result<(), LedgerError> {
    connection.change("UPDATE mandate SET frozen = coalesce(frozen, ?) WHERE id = ?", (why, Sql(id))).map(drop)
}

/// An operator's message that opens a mandate was accepted.
pub fn count_approval(connection: &Connection, operator: Address, now: Seconds) -> Result<(), LedgerError> {
    insert!(connection, "approval", { "at": now, "operator": Sql(operator) }).map(drop)
}

/// When an operator who may open so many mandates by message in 24 hours can open the next one; `None` if now. What the
/// operator opens or rolls by a transaction of its own costs the host nothing, and does not count.
pub fn quota_free_at(
    connection: &Connection,
    operator: Address,
    limit: u32,
    now: Seconds,
) -> Result<Option<Seconds>, LedgerError> {
    let query = "SELECT at FROM approval WHERE operator = ? AND at > ? ORDER BY at DESC LIMIT 1 OFFSET ?";
    let since = now.saturating_sub(QUOTA_PERIOD);
    let approved: Option<Seconds> = connection.row(query, (Sql(operator), since, limit.saturating_sub(1)))?;
    Ok(approved.map(|approved| approved.saturating_add(QUOTA_PERIOD)))
}

/// When a relayer that may open so many mandates by message in 24 hours can open the next one; `None` if now.
pub fn total_quota_free_at(connection: &Connection, limit: u32, now: Seconds) -> Result<Option<Seconds>, LedgerError> {
    let query = "SELECT at FROM approval ORDER BY at DESC LIMIT 1 OFFSET ?";
    let approved: Option<Seconds> = connection.row(query, [limit.saturating_sub(1)])?;
    Ok(approved.map(|approved| approved.saturating_add(QUOTA_PERIOD)).filter(|free_at| *free_at > now))
}

/// The mandates under this guardian that have ended and still have at least `minimum` that nothing accepted can
/// claim, unless a transaction is about to return it. What a revocation returned is booked when it
/// is final; what is released from holds after that is still to be returned, and so is what is held when the holds
/// have ended.
pub fn to_sweep(
    connection: &Connection,
    guardian: Address,
    minimum: Amount,
    time: Seconds,
) -> Result<Vec<MandateRow>, LedgerError> {
    // What has come to its end is found by what is left of it: what is empty, or not worth a transaction, is not read. No
    // mandate's capture end is before its expiry. Of a plain UNION, SQLite makes a merge in the order of `seq`, and reads
    // every mandate for it.
    let ended = MandateRow::select(
        connection,
        &format!(
            "WHERE seq IN (
                SELECT seq FROM mandate INDEXED BY mandate_lapsing WHERE NOT lapsed AND expiry <= ?1
                UNION ALL SELECT seq FROM mandate INDEXED BY mandate_remainder
                    WHERE (lapsed OR ended_hash IS NOT NULL) AND cap + restored - paid - returned - carried >= ?2)
             AND (({HOLDS_HAVE_ENDED}) OR cap + restored > held + paid + returned + carried AND (ended_hash IS NULL
                OR ended_block <= (SELECT number FROM block WHERE final ORDER BY number DESC LIMIT 1)))
             AND opened_hash IS NOT NULL AND reserved = 0 AND cap + restored - paid - returned - carried >= ?2
             AND NOT EXISTS (SELECT 1 FROM tx WHERE kind = 'sweep' AND tx.mandate = mandate.id AND state <> 'final')"
        ),
        (time, minimum.units().max(1)),
    )?;
    Ok(ended.into_iter().filter(|mandate| mandate.terms.guardian == guardian).collect())
}

pub fn any_frozen(connection: &Connection) -> Result<Option<MandateRow>, LedgerError> {
    Ok(MandateRow::select(connection, "INDEXED BY mandate_frozen WHERE frozen IS NOT NULL LIMIT 1", [])?.pop())
}

/// The frozen mandates under this guardian that no repair has looked into.
pub fn unexplained(connection: &Connection, guardian: Address) -> Result<Vec<MandateRow>, LedgerError> {
    let rest = "INDEXED BY mandate_frozen WHERE frozen IS NOT NULL AND NOT examined ORDER BY seq";
    let mut frozen = MandateRow::select(connection, rest, [])?;
    frozen.retain(|mandate| mandate.terms.guardian == guardian);
    Ok(frozen)
}

/// All frozen mandates.
pub fn all_frozen(connection: &Connection) -> Result<Vec<MandateRow>, LedgerError> {
    MandateRow::select(connection, "INDEXED BY mandate_frozen WHERE frozen IS NOT NULL ORDER BY seq", [])
}

/// A repair has looked into why a mandate is frozen: it is usable again if that is explained.
pub fn set_examined(connection: &Connection, id: MandateId, explained: bool) -> Result<(), LedgerError> {
    connection
        .change(
            "UPDATE mandate SET examined = NOT ?1, frozen = CASE WHEN ?1 THEN NULL ELSE frozen END WHERE id = ?2",
            (explained, Sql(id)),
        )
        .map(drop)
}

/// A mandate whose expiry a final block of this time is the first to have come to, and whether a block has ended it. Nothing
/// new is accepted from it.
pub fn first_lapsing(connection: &Connection, time: Seconds) -> Result<Option<(MandateId, bool)>, LedgerError> {
    let query =
        "SELECT id, ended_hash IS NOT NULL FROM mandate INDEXED BY mandate_lapsing WHERE NOT lapsed AND expiry <= ?
        ORDER BY expiry LIMIT 1";
    connection.row(query, [time])
}

/// A final block has come to its expiry.
pub fn set_lapsed(connection: &Connection, id: MandateId) -> Result<(), LedgerError> {
    connection.change("UPDATE mandate SET lapsed = 1 WHERE id = ?", [Sql(id)]).map(drop)
}
