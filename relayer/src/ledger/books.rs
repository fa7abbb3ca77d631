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

/// The mandates that the commit has read. What was taken from them is written when the books are closed, which is before
/// anything else reads or changes a mandate.
#[derive(Debug, Default)]
pub struct Books {
    open: HashMap<MandateId, OpenMandate>,
    /// By place in the ledger. They never change, but for an intent that becomes known.
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
    /// Lets `work` take from the mandate, if it is this agent's. If it fails, the mandate is as it was before.
    pub fn change<T>(
        &mut self,
        connection: &Connection,
        id: MandateId,
        agent: Address,
        work: impl FnOnce(Option<&mut OpenMandate>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let open = match self.open.remove(&id) {
            Some(open) => Some(open),
            None => self.read(connection, id, agent)?,
        };
        let Some(before) = open else { return work(None) };
        let mut changed = before.clone();
        let result = work(Some(&mut changed).filter(|open| open.mandate.agent == agent));
        self.open.insert(id, if result.is_ok() { changed } else { before });
        result
    }

    fn read(
        &mut self,
        connection: &Connection,
        id: MandateId,
        agent: Address,
    ) -> Result<Option<OpenMandate>, LedgerError> {
        let Some(standing) = mandates::standing(connection, id, agent)? else { return Ok(None) };
        let mandate = self.documented(connection, standing)?;
        let hash = audit::hash_before(connection, mandate.chain())?;
        Ok(Some(OpenMandate { mandate, reserved: Amount::ZERO, at: 0, hash }))
    }

    /// Writes what has changed: from here on the ledger alone says how mandates stand.
    pub(crate) fn close(&mut self, connection: &Connection) -> Result<(), LedgerError> {
        mem::take(&mut self.open).into_values().try_for_each(|open| open.close(connection))
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

#[cfg(test)]
mod tests {
    use stipend_core::{PaymentId, api::NewPayment};

    use super::*;
    use crate::ledger::{
        feed::tests::inputs,
        payments::{self, DecidedPayment},
    };

    const AGENT: Address = Address::repeat_byte(1);
    const MANDATE: MandateId = MandateId(B256::repeat_byte(2));

    fn usdc(units: u64) -> Amount {
        Amount::from_units(units).unwrap()
    }

    fn ledger() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("schema.sql")).unwrap();
        let terms = Terms {
            operator: AGENT,
            agent: AGENT,
            guardian: AGENT,
            cap: usdc(100),
            per_payment: Amount::ZERO,
            window_cap: Amount::ZERO,
            window: 0,
            start: 0,
            expiry: 1,
            capture_end: 1,
            payees: B256::ZERO,
            intent: B256::ZERO,
            refunds_restore_budget: false,
        };
        mandates::ensure(&connection, MANDATE, &terms, 0).unwrap();
        connection
    }

    fn try_pay(
        connection: &Connection,
        books: &mut Books,
        (nonce, amount): (u32, u64),
        fails: bool,
    ) -> Result<(), LedgerError> {
        let body = NewPayment {
            mandate: MANDATE,
            payee: AGENT,
            amount: usdc(amount),
            nonce,
            deadline: 1,
            reference: B256::ZERO,
            signature: vec![1; 65].into(),
            metadata: Default::default(),
        };
        let new = DecidedPayment { body: &body, digest: B256::with_last_byte(nonce as u8), inputs: &inputs() };
        books.change(connection, MANDATE, AGENT, |open| {
            payments::insert(connection, open.unwrap(), PaymentId::generate(), &new, 7)?;
            if fails { Err(LedgerError::Full) } else { Ok(()) }
        })
    }

    fn standing(connection: &Connection) -> (Amount, Amount, Option<u32>) {
        let standing = mandates::standing(connection, MANDATE, AGENT).unwrap().unwrap();
        (standing.balances.available, standing.balances.reserved, standing.highest_nonce)
    }

    #[test]
    fn what_a_commit_reserves_is_written_once() {
        let (connection, mut books) = (ledger(), Books::default());
        for payment in [(0, 10), (1, 20), (2, 30)] {
            try_pay(&connection, &mut books, payment, false).unwrap();
        }
        let seen = books.change(&connection, MANDATE, AGENT, |open| {
            let mandate = open.unwrap().mandate();
            Ok((mandate.balances.available, mandate.highest_nonce))
        });
        assert_eq!(seen.unwrap(), (usdc(40), Some(2)));
        assert_eq!(standing(&connection).1, Amount::ZERO);
        books.close(&connection).unwrap();
        assert_eq!(standing(&connection), (usdc(40), usdc(60), Some(2)));
        let entered: Vec<Amount> = connection.rows("SELECT amount FROM journal WHERE cause = 'reserve'", []).unwrap();
        assert_eq!(entered, [usdc(60)]);
        // Nothing is written twice.
        books.close(&connection).unwrap();
        assert_eq!(standing(&connection).1, usdc(60));
    }

    #[test]
    fn a_command_that_fails_leaves_the_books_as_they_were() {
        let (connection, mut books) = (ledger(), Books::default());
        let failing = |books: &mut Books, payment, fails| {
            connection.execute_batch("SAVEPOINT command").unwrap();
            try_pay(&connection, books, payment, fails).unwrap_err();
            connection.execute_batch("ROLLBACK TO command; RELEASE command").unwrap();
        };
        // The first of its mandate; what is taken already, too much, and after all was in order but what came behind it.
        failing(&mut books, (0, 10), true);
        try_pay(&connection, &mut books, (0, 10), false).unwrap();
        for (payment, fails) in [((0, 20), false), ((1, 91), false), ((1, 20), true)] {
            failing(&mut books, payment, fails);
        }
        // One that never came to a mandate.
        connection.execute_batch("ALTER TABLE mandate RENAME TO elsewhere").unwrap();
        let lost = books.change(&connection, MandateId(B256::ZERO), AGENT, |_| Ok(()));
        assert!(matches!(lost, Err(LedgerError::Database(_))));
        connection.execute_batch("ALTER TABLE elsewhere RENAME TO mandate").unwrap();
        try_pay(&connection, &mut books, (2, 30), false).unwrap();
        books.close(&connection).unwrap();
        audit::seal(&connection).unwrap();
        assert_eq!(standing(&connection), (usdc(60), usdc(40), Some(2)));
        audit::verify(&connection, |seq, intact| assert!(intact, "entry {seq}")).unwrap();
    }

    #[test]
    fn another_agent_opens_nothing() {
        let (connection, mut books) = (ledger(), Books::default());
        let opens = |books: &mut Books, agent| books.change(&connection, MANDATE, agent, |open| Ok(open.is_some()));
        assert!(!opens(&mut books, Address::ZERO).unwrap());
        assert!(opens(&mut books, AGENT).unwrap());
        assert!(!opens(&mut books, Address::ZERO).unwrap());
        assert!(opens(&mut books, AGENT).unwrap());
    }
}
