//! What the payments that one commit accepts take from their mandates: each mandate is read once and written once, however
//! many of its payments the commit has.

use std::{collections::HashMap, mem, sync::Arc};

use alloy_primitives::{Address, B256};
use rusqlite::Connection;
use stipend_core::{Amount, Intent, MandateId, Seconds, Terms, trail::Entry};

use super::{
    LedgerError, audit,
    balances::{Account, LedgerEvent, Posting},
    journal::{self, EntryRefs},
    mandates::{self, MandateRow, Standing},
    sql::Statements,
};

/// How many mandates' documents are remembered.
const DOCUMENTS: usize = 1_024;

/// The mandates that the commit has read. What they are changed by is written when they are closed: nothing else may read or
/// change them before that.
#[derive(Debug, Default)]
pub struct Books {
    open: HashMap<MandateId, OpenMandate>,
    /// The page that was opened last, as it was then.
    undo: Option<(MandateId, OpenMandate)>,
    /// They never change, but for one that becomes known.
    documents: HashMap<u64, (Terms, Option<Arc<Intent>>)>,
}

/// A mandate, as the payments that were accepted leave it.
#[derive(Clone, Debug)]
pub struct OpenMandate {
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
        &self.mandate
    }

    /// Reserves an amount for the payment with this nonce.
    ///
    /// # Errors
    /// [`LedgerError::Inconsistent`] if that is not available.
    pub(super) fn reserve(&mut self, amount: Amount, nonce: u32, now: Seconds) -> Result<(), LedgerError> {
        let failed = |error: &dyn std::fmt::Display| LedgerError::Inconsistent(format!("{}: {error}", self.mandate.id));
        let (balances, _) = self.mandate.balances.book(LedgerEvent::Reserve(amount)).map_err(|error| failed(&error))?;
        let reserved = self.reserved.checked_add(amount).ok_or_else(|| failed(&"more than any amount is reserved"))?;
        let standing = &mut self.mandate.standing;
        standing.account.balances = balances;
        standing.highest_nonce = standing.highest_nonce.max(Some(nonce));
        (self.reserved, self.at) = (reserved, now);
        Ok(())
    }

    /// Adds an entry to its chain in the trail.
    pub(super) fn note(&mut self, connection: &Connection, entry: &Entry) -> Result<(), LedgerError> {
        self.hash = audit::add_after(connection, self.mandate.chain(), self.hash, entry)?;
        Ok(())
    }

    fn close(self, connection: &Connection) -> Result<(), LedgerError> {
        if self.reserved.is_zero() {
            return Ok(());
        }
        let Self { mandate, reserved, at, .. } = self;
        mandates::set_balances(connection, mandate.id, mandate.balances)?;
        let posting = Posting { from: Account::Available, to: Account::Reserved, amount: reserved };
        journal::enter(connection, mandate.seq, LedgerEvent::Reserve(reserved), &[posting], EntryRefs::default(), at)
    }
}

impl Books {
    /// The mandate, if it is this agent's.
    pub fn open(
        &mut self,
        connection: &Connection,
        id: MandateId,
        agent: Address,
    ) -> Result<Option<&mut OpenMandate>, LedgerError> {
        if !self.open.contains_key(&id) {
            let Some(standing) = mandates::standing(connection, id, agent)? else { return Ok(None) };
            let mandate = self.documented(connection, standing)?;
            let hash = audit::hash_before(connection, mandate.chain())?;
            self.open.insert(id, OpenMandate { mandate, reserved: Amount::ZERO, at: 0, hash });
        }
        let Some(page) = self.open.get_mut(&id).filter(|page| page.mandate.agent == agent) else { return Ok(None) };
        self.undo = Some((id, page.clone()));
        Ok(Some(page))
    }

    /// A mandate that is open.
    pub fn page(&mut self, id: MandateId) -> Result<&mut OpenMandate, LedgerError> {
        self.open.get_mut(&id).ok_or_else(|| LedgerError::inconsistent("a mandate that was not opened"))
    }

    /// The command that opened a page last has failed: the page is as it was.
    pub(super) fn undo(&mut self) {
        if let Some((id, page)) = self.undo.take() {
            self.open.insert(id, page);
        }
    }

    /// Writes what has changed: from here on the ledger alone says how mandates stand.
    pub fn close(&mut self, connection: &Connection) -> Result<(), LedgerError> {
        self.undo = None;
        mem::take(&mut self.open).into_values().try_for_each(|page| page.close(connection))
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
