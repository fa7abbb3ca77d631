//! What mandates cost in gas, by day: the host pays it, and may set a budget.

use rusqlite::Connection;
use stipend_core::{MandateId, Seconds};

use super::{
    LedgerError,
    balances::shares,
    sql::{Sql, Statements},
    transactions::{self, TransactionRow},
};

/// Seconds of a day. Days begin at midnight, UTC.
const DAY: Seconds = 86_400;
/// Among how many of the latest transactions one is looked for that says what a payment costs.
const LATEST: u64 = 1_000;
/// Days that are kept.
const KEPT: u64 = 7;

/// When the day of `time` ends.
pub const fn day_end(time: Seconds) -> Seconds {
    day(time).saturating_add(1).saturating_mul(DAY)
}

const fn day(time: Seconds) -> u64 {
    time / DAY
}

/// A transaction is final, in a block of this time: each mandate bears the share of its rows, whether
/// they were paid or not.
pub fn charge(connection: &Connection, tx: &TransactionRow, time: Seconds) -> Result<(), LedgerError> {
    let cost = tx.cost.unwrap_or_default();
    let gas_payers = transactions::gas_payers(connection, tx)?;
    let day = day(time);
    connection.change("DELETE FROM mandate_gas WHERE day < ?", [day.saturating_sub(KEPT)])?;
    for ((mandate, _), share) in gas_payers.iter().zip(shares(cost, gas_payers.iter().map(|(_, rows)| *rows))) {
        let sum = on(connection, *mandate, day)?.saturating_add(share);
        connection.change(
            "INSERT INTO mandate_gas (day, mandate, wei) VALUES (?, ?, ?)
                 ON CONFLICT DO UPDATE SET wei = excluded.wei",
            (day, Sql(*mandate), Sql(sum)),
        )?;
    }
    Ok(())
}

/// What the final transactions of the day of `time` cost for a mandate, in wei.
pub fn spent(connection: &Connection, mandate: MandateId, time: Seconds) -> Result<u128, LedgerError> {
    on(connection, mandate, day(time))
}

/// What a payment cost lately, in wei: a row of the last final batch. `None`: there was none.
pub fn each(connection: &Connection) -> Result<Option<u128>, LedgerError> {
    let last: Option<(u64, Option<u128>)> = connection.row(
        "SELECT id, gas_cost FROM tx WHERE id > (SELECT max(id) FROM tx) - ? AND kind = 'settle' AND state = 'final'
         ORDER BY id DESC LIMIT 1",
        [LATEST],
    )?;
    let Some((id, Some(cost))) = last else { return Ok(None) };
    let rows: u64 = connection.value("SELECT count(*) FROM tx_payment WHERE tx = ?", [id])?;
    Ok(cost.checked_div(rows.into()))
}

/// What a mandate's payments that are not final are expected to cost, in wei; `accepted` of them are in no table yet.
pub fn expected(connection: &Connection, mandate: MandateId, accepted: usize) -> Result<u128, LedgerError> {
    let Some(each) = each(connection)? else { return Ok(0) };
    let live: u64 = connection.value(
        "SELECT count(*) FROM payment INDEXED BY payment_by_stage WHERE stage IN (0, 1, 2, 3) AND mandate = ?",
        [Sql(mandate)],
    )?;
    Ok(each.saturating_mul(u128::from(live).saturating_add(accepted as u128)))
}

fn on(connection: &Connection, mandate: MandateId, day: u64) -> Result<u128, LedgerError> {
    let wei: Option<u128> =
        connection.row("SELECT wei FROM mandate_gas WHERE day = ? AND mandate = ?", (day, Sql(mandate)))?;
    Ok(wei.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight() {
        assert_eq!((day_end(0), day_end(86_399), day_end(86_400)), (86_400, 86_400, 172_800));
    }
}
