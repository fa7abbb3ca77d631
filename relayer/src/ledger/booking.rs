//! Booking: changes a mandate's balances and journals the postings that explain it, in one commit.

use rusqlite::Connection;
use stipend_core::Seconds;

use super::{
    LedgerError,
    balances::LedgerEvent,
    journal::{self, EntryRefs},
    mandates::{self, MandateAccount},
};

/// Applies an event to a mandate: writes its balances and the entries that explain them.
///
/// # Errors
/// [`LedgerError::Inconsistent`] if it can't be, and those of the store.
pub fn book(
    connection: &Connection,
    mandate: &MandateAccount,
    event: LedgerEvent,
    refs: EntryRefs,
    now: Seconds,
) -> Result<(), LedgerError> {
    let (balances, postings) =
        mandate.balances.book(event).map_err(|error| LedgerError::Inconsistent(format!("{}: {error}", mandate.id)))?;
    mandates::set_balances(connection, mandate.id, balances)?;
    journal::enter(connection, mandate.seq, event, &postings, refs, now)
}
