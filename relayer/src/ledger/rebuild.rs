//! Takes back everything that was booked from the chain, so that it can be booked anew: the chain
//! that the ledger followed is not the one that there is. What was accepted and what was signed
//! stays.

use rusqlite::{Connection, Row};
use stipend_core::{Amount, MandateId, Seconds};

use super::{
    LedgerError,
    balances::LedgerEvent,
    booking,
    journal::{self, EntryRefs},
    mandates,
};

/// Something that was accepted, as far as the chain had taken it.
struct Accepted {
    mandate: MandateId,
    refs: EntryRefs,
    paid: Amount,
    held: Amount,
    back: Amount,
    /// What was to be captured, and was not when the card closed.
    short: Amount,
}

/// Takes it all back; each booking that this reverses stays in the journal, and so does its reversal.
pub fn forget_chain(connection: &Connection, now: Seconds) -> Result<(), LedgerError> {
    let ids: Vec<MandateId> = {
        let mut statement = connection.prepare("SELECT id FROM mandate ORDER BY seq")?;
        let ids = statement.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
        ids.map(|id| Ok::<_, LedgerError>(MandateId(id?.into()))).collect::<Result<_, _>>()?
    };
    let book = |id: MandateId, event: LedgerEvent, refs: EntryRefs| {
        let mandate = mandates::get(connection, id)?.ok_or_else(|| LedgerError::inconsistent("a mandate is gone"))?;
        booking::book(connection, &mandate, event, refs, now)?;
        Ok::<_, LedgerError>(mandate.seq)
    };
    for id in &ids {
        book(*id, LedgerEvent::Forget, EntryRefs::default())?;
    }
    for Accepted { mandate, refs, paid, held, back, short } in accepted(connection)? {
        let seq = book(mandate, LedgerEvent::ReverseAccepted { paid, held, back }, refs)?;
        if refs.card.is_some() {
            journal::reverse_capture(connection, seq, paid, refs, now)?;
            journal::reverse_shortfall(connection, seq, short, refs, now)?;
        }
    }
    for id in ids {
        book(id, LedgerEvent::ReverseExternal, EntryRefs::default())?;
    }
    journal::reverse_gas(connection, now)?;
    connection.execute_batch(
        "UPDATE mandate SET refunded = 0, opened_block = NULL, opened_hash = NULL, opened_tx = NULL,
            ended_block = NULL, ended_hash = NULL, ended_tx = NULL;
         UPDATE payment SET mined_block = NULL, mined_hash = NULL, mined_at = NULL, state = CASE
            WHEN EXISTS (SELECT 1 FROM tx_payment WHERE payment = seq) THEN 'submitted' ELSE 'reserved' END
            WHERE state <> 'failed';
         UPDATE card SET held_block = NULL, held_hash = NULL, held_at = NULL, held_tx = NULL, hold_final = 0, settle_tx = NULL,
            captured = 0, released = 0, state = CASE state WHEN 'closed' THEN 'closing' ELSE state END
            WHERE state <> 'failed';
         UPDATE tx_payment SET skipped = NULL;
         UPDATE tx SET state = 'pending', mined_block = NULL, mined_hash = NULL, mined_tx = NULL, succeeded = NULL,
            gas_cost = NULL;
         DELETE FROM external_outflow; DELETE FROM mandate_gas; DELETE FROM log; DELETE FROM block; DELETE FROM submitter;",
    )?;
    Ok(())
}

/// What was accepted and not given up: it is reserved again.
fn accepted(connection: &Connection) -> Result<Vec<Accepted>, LedgerError> {
    let mut statement = connection.prepare(
        "SELECT mandate, seq, NULL, amount, 0, 0, 0 FROM payment WHERE state = 'settled'
         UNION ALL SELECT mandate, NULL, seq, captured, amount - captured - released, released,
            CASE state WHEN 'closed' THEN max(to_capture - captured, 0) ELSE 0 END
            FROM card WHERE hold_final OR released > 0",
    )?;
    let amount = |row: &Row<'_>, index| Amount::from_units(row.get(index)?).map_err(LedgerError::inconsistent);
    statement
        .query_and_then([], |row| {
            Ok(Accepted {
                mandate: MandateId(row.get::<_, [u8; 32]>(0)?.into()),
                refs: EntryRefs { payment: row.get(1)?, card: row.get(2)?, ..EntryRefs::default() },
                paid: amount(row, 3)?,
                held: amount(row, 4)?,
                back: amount(row, 5)?,
                short: amount(row, 6)?,
            })
        })?
        .collect()
}
