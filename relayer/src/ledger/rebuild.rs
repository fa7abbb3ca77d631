//! Takes back everything that was booked from the chain, so that it can be booked anew: the chain
//! that the ledger followed is not the one that there is. What was accepted and what was signed
//! stays.

use rusqlite::Connection;
use stipend_core::{Amount, MandateId, Seconds};

use super::{
    LedgerError,
    balances::LedgerEvent,
    booking, cards,
    journal::{self, EntryRefs},
    mandates, payments,
    sql::{Statements, row},
};

row! {
    /// Something that was accepted and not given up, as far as the chain had taken it.
    struct AcceptedWork in "(
        SELECT mandate, seq AS payment, NULL AS card, amount AS paid, 0 AS held, 0 AS back
            FROM payment WHERE state = 'settled'
        UNION ALL SELECT mandate, NULL, seq, captured, amount - captured - released, released
            FROM card WHERE hold_final OR released > 0)" {
        mandate: MandateId = "mandate",
        payment: Option<u64> = "payment",
        card: Option<u64> = "card",
        paid: Amount = "paid",
        held: Amount = "held",
        back: Amount = "back",
    }
}

/// Takes it all back; each booking that this reverses stays in the journal, and so does its reversal.
pub fn forget_chain(connection: &Connection, now: Seconds) -> Result<(), LedgerError> {
    let ids: Vec<MandateId> = connection.rows("SELECT id FROM mandate ORDER BY seq", [])?;
    let book = |id: MandateId, event: LedgerEvent, refs: EntryRefs| {
        let mandate =
            mandates::account(connection, id)?.ok_or_else(|| LedgerError::inconsistent("a mandate is gone"))?;
        booking::book(connection, &mandate, event, refs, now)?;
        Ok::<_, LedgerError>(mandate.seq)
    };
    for id in &ids {
        book(*id, LedgerEvent::Forget, EntryRefs::default())?;
    }
    // It is reserved again.
    for AcceptedWork { mandate, payment, card, paid, held, back } in AcceptedWork::select(connection, "", [])? {
        let refs = EntryRefs { payment, card, ..EntryRefs::default() };
        let seq = book(mandate, LedgerEvent::ReverseAccepted { paid, held, back }, refs)?;
        if refs.card.is_some() {
            journal::reverse_capture(connection, seq, paid, refs, now)?;
        }
    }
    for id in ids {
        book(id, LedgerEvent::ReverseExternal, EntryRefs::default())?;
    }
    journal::reverse_gas(connection, now)?;
    payments::reopen(connection, now)?;
    connection.execute_batch(
        "UPDATE mandate SET refunded = 0, opened_block = NULL, opened_hash = NULL, opened_tx = NULL,
            ended_block = NULL, ended_hash = NULL, ended_tx = NULL, lapsed = 0;
         UPDATE revocation SET done = 0;
         UPDATE card SET held_block = NULL, held_hash = NULL, held_at = NULL, held_tx = NULL, hold_final = 0, settle_tx = NULL,
            captured = 0, released = 0, state = CASE state WHEN 'closed' THEN 'closing' ELSE state END
            WHERE state <> 'failed';
         UPDATE tx_payment SET skipped = NULL;
         UPDATE tx SET state = 'pending', mined_block = NULL, mined_hash = NULL, mined_tx = NULL, succeeded = NULL,
            gas_cost = NULL;
         DELETE FROM external_outflow; DELETE FROM window_total; UPDATE refund SET amount = 0; DELETE FROM mandate_gas; DELETE FROM log; DELETE FROM block; DELETE FROM submitter;",
    )?;
    // What was to be captured can be again.
    for card in cards::concluded(connection)? {
        cards::settle_accounts(connection, card.seq, now)?;
    }
    Ok(())
}
