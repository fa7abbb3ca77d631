//! What accepted payments take from their mandates. A commit writes them into the trail alone; their rows, indexes and
//! balances follow together, a mandate at a time: it is read once and written once, and so is each page of an index, however
//! many payments there were.
//!
//! ```text
//! accept ─▶ trail, committed, answered ─▶ … ─▶ apply: rows, balances, one posting, the mandate's list
//!                                          └─▶ a crash ─▶ recover: what the trail has beyond the tables, then apply
//! ```

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256};
use rusqlite::Connection;
use stipend_bindings::{Domain, Spend};
use stipend_core::{
    Amount, Intent, MandateId, PaymentId, Seconds, Terms,
    api::{self, NewPayment, PaymentState},
    trail::{Decided, Entry},
};

use super::{
    LedgerError, audit,
    balances::{Account, LedgerEvent, Posting},
    journal::{self, EntryRefs},
    mandates::{self, MandateRow, Standing},
    sql::{Sql, Statements, insert, row},
};

/// How many mandates' documents are remembered.
const DOCUMENTS: usize = 1_024;
/// How often what was decided of a mandate is put into the tables, unless there is something of no other one: that is cheap,
/// and goes with the commit.
const EVERY: Duration = Duration::from_millis(100);
/// For how long a commit puts things into the tables: what becomes due together is spread out.
const APPLY_TIME: Duration = Duration::from_millis(1);
/// How many entries are in the trail alone after a commit, at most: whoever needs the tables has the writer add them all, and
/// others wait meanwhile.
const MOST: usize = 1_024;
/// How many mandates are remembered, besides those with something in the trail alone.
const OPEN: usize = 4_096;

/// The mandates that were read since the books were closed, and what was taken from them since.
#[derive(Debug, Default)]
pub struct Books {
    open: HashMap<MandateId, OpenMandate>,
    /// When the tables had all of everything last.
    closed: Option<Instant>,
    /// When what is to be put into the tables.
    due: BinaryHeap<Reverse<(Instant, MandateId)>>,
    /// How many entries are in the trail alone.
    entries: usize,
    /// By place in the ledger. They never change, but for an intent that becomes known.
    documents: HashMap<u64, (Terms, Option<Arc<Intent>>)>,
}

/// A payment that is in the trail, and in no table yet.
#[derive(Clone, Debug)]
pub struct AcceptedPayment {
    pub(super) id: PaymentId,
    pub(super) body: NewPayment,
    pub(super) digest: B256,
    pub(super) at: Seconds,
}

impl AcceptedPayment {
    /// Its id.
    pub const fn id(&self) -> PaymentId {
        self.id
    }

    /// What the agent signed.
    pub const fn digest(&self) -> B256 {
        self.digest
    }

    /// Its nonce.
    pub const fn nonce(&self) -> u32 {
        self.body.nonce
    }

    pub(super) const fn body(&self) -> &NewPayment {
        &self.body
    }

    /// Adds its row.
    fn insert(self, connection: &Connection) -> Result<(), LedgerError> {
        let Self { id, body, digest, at } = self;
        insert!(connection, "payment", {
            "id": Sql(id),
            "mandate": Sql(body.mandate),
            "nonce": body.nonce,
            "payee": Sql(body.payee),
            "amount": Sql(body.amount),
            "deadline": body.deadline,
            "ref": Sql(body.reference),
            "digest": Sql(digest),
            "signature": body.signature.as_ref(),
            "state": Sql(PaymentState::Reserved),
            "metadata": Sql(body.metadata),
            "created_at": at,
            "updated_at": at,
        })
        .map(drop)
    }

    /// As the API shows it.
    pub fn view(&self) -> api::Payment {
        let Self { id, ref body, digest, at, .. } = *self;
        api::Payment {
            id,
            mandate: body.mandate,
            state: PaymentState::Reserved,
            reason: None,
            payee: body.payee,
            amount: body.amount,
            nonce: body.nonce,
            deadline: body.deadline,
            reference: body.reference,
            digest,
            tx_hash: None,
            block_number: None,
            created_at: at,
            updated_at: at,
            metadata: body.metadata.clone(),
            receipt: None,
        }
    }
}

/// A mandate, as what was accepted leaves it.
#[derive(Debug)]
pub struct OpenMandate {
    page: BookPage,
    /// What is in no table yet, in the order of the trail.
    accepted: Vec<AcceptedPayment>,
    /// Its entries that no list has yet.
    entries: Vec<u64>,
    /// When the tables had all of it last.
    applied: Option<Instant>,
}

#[derive(Clone, Debug)]
struct BookPage {
    mandate: MandateRow,
    /// What was reserved, and is not written.
    reserved: Amount,
    /// When that was.
    at: Seconds,
    /// The hash of its last entry in the trail.
    hash: B256,
}

impl OpenMandate {
    pub const fn mandate(&self) -> &MandateRow {
        &self.page.mandate
    }

    /// What was accepted and is in no table yet.
    pub fn accepted(&self) -> &[AcceptedPayment] {
        &self.accepted
    }

    /// Reserves what a payment takes.
    ///
    /// # Errors
    /// [`LedgerError::Inconsistent`] if that is not available.
    pub(super) fn reserve(&mut self, payment: AcceptedPayment) -> Result<(), LedgerError> {
        let page = &mut self.page;
        let failed = |error: &dyn std::fmt::Display| LedgerError::Inconsistent(format!("{}: {error}", page.mandate.id));
        let (amount, nonce) = (payment.body.amount, payment.body.nonce);
        let (balances, _) = page.mandate.balances.book(LedgerEvent::Reserve(amount)).map_err(|error| failed(&error))?;
        let reserved = page.reserved.checked_add(amount).ok_or_else(|| failed(&"more than any amount is reserved"))?;
        let standing = &mut page.mandate.standing;
        standing.account.balances = balances;
        standing.highest_nonce = standing.highest_nonce.max(Some(nonce));
        (page.reserved, page.at) = (reserved, payment.at);
        self.accepted.push(payment);
        Ok(())
    }

    /// Adds an entry to its chain in the trail.
    pub(super) fn note(&mut self, connection: &Connection, entry: &Entry) -> Result<(), LedgerError> {
        let (seq, hash) = audit::write_after(connection, self.page.mandate.chain(), self.page.hash, entry)?;
        self.entries.push(seq);
        self.page.hash = hash;
        Ok(())
    }

    /// Puts what was decided into the tables. Returns how many entries of the trail that were.
    fn apply(&mut self, connection: &Connection) -> Result<usize, LedgerError> {
        let (Some(last), count) = (self.entries.last().copied(), self.entries.len()) else { return Ok(0) };
        let BookPage { mandate, reserved, at, .. } = &mut self.page;
        for payment in self.accepted.drain(..) {
            payment.insert(connection)?;
        }
        for seq in self.entries.drain(..) {
            audit::list(connection, mandate.seq, seq)?;
        }
        self.applied = Some(Instant::now());
        mandates::apply(connection, mandate.seq, mandate.balances, last)?;
        let amount = mem::take(reserved);
        if !amount.is_zero() {
            let posting = Posting { from: Account::Available, to: Account::Reserved, amount };
            let (event, refs) = (LedgerEvent::Reserve(amount), EntryRefs::default());
            journal::enter(connection, mandate.seq, event, &[posting], refs, *at)?;
        }
        Ok(count)
    }
}

impl Books {
    /// Lets `work` take from the mandate, if it is this agent's. If it fails, the mandate is as it was before.
    pub fn change<T>(
        &mut self,
        connection: &Connection,
        id: MandateId,
        agent: Address,
        work: impl FnOnce(Option<&mut OpenMandate>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        if !self.open.contains_key(&id)
            && let Some(standing) = mandates::standing(connection, id, agent)?
        {
            if self.open.len() >= OPEN {
                self.open.retain(|_, open| !open.entries.is_empty());
            }
            self.read(connection, standing)?;
        }
        let Some(open) = self.open.get_mut(&id) else { return work(None) };
        let (before, accepted, entries) = (open.page.clone(), open.accepted.len(), open.entries.len());
        let result = work(if open.page.mandate.agent == agent { Some(&mut *open) } else { None });
        if result.is_err() {
            open.page = before;
            open.accepted.truncate(accepted);
            open.entries.truncate(entries);
        }
        // Nothing is put into the tables here: if that failed, it would not be this command's failure alone.
        self.entries = self.entries.saturating_add(open.entries.len().saturating_sub(entries));
        if entries == 0 && !open.entries.is_empty() {
            let now = Instant::now();
            let due = open.applied.map_or(now, |applied| now.max(applied + EVERY));
            self.due.push(Reverse((due, id)));
        }
        result
    }

    fn read(&mut self, connection: &Connection, standing: Standing) -> Result<(), LedgerError> {
        let mandate = self.documented(connection, standing)?;
        let hash = audit::hash_before(connection, mandate.chain())?;
        let id = mandate.id;
        let page = BookPage { mandate, reserved: Amount::ZERO, at: 0, hash };
        self.open.insert(id, OpenMandate { page, accepted: Vec::new(), entries: Vec::new(), applied: self.closed });
        Ok(())
    }

    /// Whether the tables have all that the trail has.
    pub(super) fn is_applied(&self) -> bool {
        self.due.is_empty()
    }

    /// When something is to be put into the tables next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// Puts into the tables what is due. Returns up to where they have all that was decided, which is `last` at most.
    pub(super) fn apply_due(&mut self, connection: &Connection, last: u64) -> Result<u64, LedgerError> {
        let (alone, now, mut some) = (self.due.len() == 1, Instant::now(), false);
        while let Some(Reverse((due, id))) = self.due.peek().copied()
            && (alone || self.entries > MOST || due <= now && now.elapsed() < APPLY_TIME)
        {
            self.due.pop();
            if let Some(open) = self.open.get_mut(&id) {
                self.entries = self.entries.saturating_sub(open.apply(connection)?);
                some = true;
            }
        }
        let first = self.open.values().filter_map(|open| open.entries.first()).min();
        let applied = first.map_or(last, |first| first.saturating_sub(1));
        if some {
            connection.change("UPDATE applied SET seq = ?", [applied])?;
        }
        Ok(applied)
    }

    /// Puts everything into the tables: from here on they alone say how mandates stand.
    pub(crate) fn close(&mut self, connection: &Connection) -> Result<(), LedgerError> {
        let mut open: Vec<OpenMandate> = mem::take(&mut self.open).into_values().collect();
        if mem::take(&mut self.due).is_empty() {
            return Ok(());
        }
        (self.closed, self.entries) = (Some(Instant::now()), 0);
        open.sort_unstable_by_key(|open| open.entries.first().copied());
        for open in &mut open {
            open.apply(connection)?;
        }
        connection.change(APPLIED, []).map(drop)
    }

    fn documented(&mut self, connection: &Connection, standing: Standing) -> Result<MandateRow, LedgerError> {
        let seq = standing.account.seq;
        let known = self.documents.get(&seq).filter(|(_, intent)| intent.is_some() == standing.documented);
        let (terms, intent) = match known {
            Some(documents) => documents.clone(),
            None => {
                let documents: Option<(Terms, Option<Arc<Intent>>)> =
                    connection.row("SELECT terms, intent FROM mandate WHERE seq = ?", [seq])?;
                let documents = documents.ok_or_else(|| LedgerError::inconsistent("a mandate is gone"))?;
                if self.documents.len() >= DOCUMENTS {
                    self.documents.clear();
                }
                self.documents.insert(seq, documents.clone());
                documents
            }
        };
        Ok(MandateRow { standing, terms, intent })
    }
}

row! {
    /// An entry that the tables may not have.
    struct Unapplied in "trail JOIN mandate ON mandate.seq = trail.mandate" {
        seq: u64 = "trail.seq",
        body: Vec<u8> = "body",
        hash: B256 = "hash",
        mandate: MandateId = "id",
        agent: Address = "mandate.agent",
    }
}

/// Adds to the tables what was decided, and is in the trail alone because the process ended first.
pub(super) fn recover(connection: &Connection, domain: Domain) -> Result<(), LedgerError> {
    let mut books = Books::default();
    // What is no decision was written when the books were closed.
    let rest = "WHERE trail.seq > (SELECT seq FROM applied) AND trail.seq > mandate.applied
        AND substr(body, 1, 1) = x'02' ORDER BY trail.seq";
    let entries = Unapplied::select(connection, rest, [])?;
    if !entries.is_empty() {
        tracing::info!(entries = entries.len(), "what was decided before a crash is put into the ledger's tables");
    }
    for Unapplied { seq, body, hash, mandate, agent } in entries {
        let Entry::Decision(decided) = Entry::decode(&body).map_err(LedgerError::inconsistent)? else { continue };
        books.change(connection, mandate, agent, |open| {
            let open = open.ok_or_else(|| LedgerError::inconsistent("a decision of no mandate"))?;
            open.page.hash = hash;
            open.entries.push(seq);
            match accepted(mandate, decided, domain)? {
                Some(payment) => open.reserve(payment),
                None => Ok(()),
            }
        })?;
    }
    books.close(connection)?;
    connection.change(APPLIED, []).map(drop)
}

/// The payment that a decision accepted.
fn accepted(mandate: MandateId, decided: Decided, domain: Domain) -> Result<Option<AcceptedPayment>, LedgerError> {
    let Some(id) = decided.id() else { return Ok(None) };
    let amount = decided.amount().map_err(LedgerError::inconsistent)?;
    let Decided { at, nonce, payee, deadline, reference, signature, metadata, .. } = decided;
    let spend = Spend::new(mandate, payee, amount, nonce, deadline, reference).map_err(LedgerError::inconsistent)?;
    let digest = domain.spend_digest(&spend);
    let body = NewPayment { mandate, payee, amount, nonce, deadline, reference, signature, metadata: metadata.0 };
    Ok(Some(AcceptedPayment { id, body, digest, at }))
}

/// All of the trail is in the tables.
const APPLIED: &str = "UPDATE applied SET seq = (SELECT coalesce(max(seq), 0) FROM trail)";

#[cfg(test)]
pub(super) mod tests;
