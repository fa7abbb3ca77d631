//! What counts in mandates' rolling windows. What is final is kept as running totals by block time, so that a decision
//! reads as many rows however long the window is and however much it has taken.

use rusqlite::Connection;
use stipend_core::{
    Amount, MandateId, Seconds, Terms,
    window::{Mined, Pending, RollingWindow, WindowUsage},
};

use super::{
    LedgerError,
    books::AcceptedPayment,
    mandates::{MandateRow, TxLocation},
    sql::{AWAITING_HOLD, Sql, Statements, UNSETTLED, insert, row},
};

/// How many of the oldest blocks that count are told apart, so that it can be said when a payment would pass. The others
/// are told apart by what the contract's register tells apart.
const BLOCKS: u32 = 32;
/// How many totals that no window reaches any more are removed when one is added, at most.
const REMOVED: u32 = 16;

row! {
    /// What was taken up to a block's time, in all.
    #[derive(Clone, Copy, Debug, Default)]
    struct Total in "window_total" {
        at: Seconds = "at",
        amount: Amount = "amount",
        /// Of the contract's register, each payment rounded up.
        units: u64 = "units",
    }
}

impl Total {
    fn and(self, mined: Mined) -> Result<Self, LedgerError> {
        let sum = self.amount.checked_add(mined.amount).zip(self.units.checked_add(mined.units));
        let (amount, units) = sum.ok_or_else(|| LedgerError::inconsistent("a window's total overflows"))?;
        Ok(Self { at: mined.at.max(self.at), amount, units })
    }

    /// What was taken after `earlier`.
    fn since(self, earlier: Self) -> Mined {
        Mined {
            at: self.at,
            amount: self.amount.checked_sub(earlier.amount).unwrap_or_default(),
            units: self.units.saturating_sub(earlier.units),
        }
    }
}

/// A mandate's payments or holds are final in this block: they count in its window, if it has one.
pub fn record(
    connection: &Connection,
    mandate: MandateId,
    amounts: impl IntoIterator<Item = Amount>,
    location: TxLocation,
) -> Result<(), LedgerError> {
    // Most mandates have none: then the terms are not read any further.
    let windowed = "SELECT terms FROM mandate WHERE id = ? AND terms ->> 'window' > 0";
    let Some(terms): Option<Terms> = connection.row(windowed, [Sql(mandate)])? else { return Ok(()) };
    let at: Seconds = connection.value("SELECT time FROM block WHERE hash = ?", [Sql(location.hash)])?;
    let last = up_to(connection, mandate, Seconds::MAX >> 1)?.unwrap_or_default();
    let total = amounts.into_iter().try_fold(last, |total, amount| total.and(Mined::one(&terms, amount, at)))?;
    insert!(connection, "window_total", {
        "mandate": Sql(mandate),
        "at": total.at,
        "amount": Sql(total.amount),
        "units": total.units,
    }, "ON CONFLICT DO UPDATE SET amount = excluded.amount, units = excluded.units")?;
    // The last one before all that counts stays: what counts is what was taken since.
    connection
        .change(
            "DELETE FROM window_total WHERE mandate = ?1 AND at IN (SELECT at FROM window_total WHERE mandate = ?1
                AND at < (SELECT max(at) FROM window_total WHERE mandate = ?1 AND at <= ?2) ORDER BY at LIMIT ?3)",
            (Sql(mandate), total.at.saturating_sub(RollingWindow::memory(&terms)), REMOVED),
        )
        .map(drop)
}

/// The total at `time`, if something was taken.
fn up_to(connection: &Connection, mandate: MandateId, time: Seconds) -> Result<Option<Total>, LedgerError> {
    let rest = "WHERE mandate = ? AND at <= ? ORDER BY at DESC LIMIT 1";
    Ok(Total::select(connection, rest, (Sql(mandate), time))?.pop())
}

/// What of a mandate counts in its rolling window at `now`, or would if a block took it: payments and cards' holds. Empty
/// without a window. `accepted` are payments that are in no table yet.
pub fn usage(
    connection: &Connection,
    mandate: &MandateRow,
    accepted: &[AcceptedPayment],
    now: Seconds,
) -> Result<WindowUsage, LedgerError> {
    if mandate.terms.window == 0 {
        return Ok(WindowUsage::default());
    }
    let mut mined = final_usage(connection, mandate, now)?;
    let not_final = format!(
        "SELECT mined_at, amount FROM payment INDEXED BY payment_by_stage WHERE stage = 3 AND mandate = ?1
         UNION ALL SELECT held_at, amount FROM card INDEXED BY card_unsettled
            WHERE {UNSETTLED} AND mandate = ?1 AND held_at IS NOT NULL AND NOT hold_final ORDER BY 1"
    );
    let not_final: Vec<(Seconds, Amount)> = connection.rows(&not_final, [Sql(mandate.id)])?;
    mined.extend(not_final.into_iter().map(|(at, amount)| Mined::one(&mandate.terms, amount, at)));
    let pending = format!(
        "SELECT deadline, amount FROM payment INDEXED BY payment_by_stage WHERE stage IN (0, 1, 2) AND mandate = ?1
         UNION ALL SELECT deadline, amount FROM card INDEXED BY card_unsettled WHERE mandate = ?1 AND {AWAITING_HOLD}"
    );
    let pending: Vec<(Seconds, Amount)> = connection.rows(&pending, [Sql(mandate.id)])?;
    let accepted = accepted.iter().map(|payment| (payment.body().deadline, payment.body().amount));
    let pending = pending.into_iter().chain(accepted).map(|(deadline, amount)| Pending { deadline, amount }).collect();
    Ok(WindowUsage { mined, pending })
}

/// What of it is final, oldest first: block by block at first, then as much at once as no limit tells apart.
fn final_usage(connection: &Connection, mandate: &MandateRow, now: Seconds) -> Result<Vec<Mined>, LedgerError> {
    let mut bounds = RollingWindow::bounds(&mandate.terms, now);
    let start = bounds.first().copied().unwrap_or_default();
    let base = up_to(connection, mandate.id, start)?.unwrap_or_default();
    let rest = "WHERE mandate = ? AND at > ? ORDER BY at LIMIT ?";
    let mut totals = Total::select(connection, rest, (Sql(mandate.id), start, BLOCKS))?;
    if totals.len() == BLOCKS as usize {
        bounds.push(Seconds::MAX >> 1);
        for bound in bounds {
            let last = totals.last().map_or(0, |total| total.at);
            if bound > last {
                totals.extend(up_to(connection, mandate.id, bound)?.filter(|total| total.at > last));
            }
        }
    }
    let earlier = std::iter::once(base).chain(totals.iter().copied());
    Ok(totals.iter().zip(earlier).map(|(total, earlier)| total.since(earlier)).collect())
}
