//! The journal: every posting, in the commit of the balances that it explains. Append-only.

use rusqlite::Connection;
use stipend_core::{Amount, Seconds};

use super::{
    LedgerError,
    balances::{LedgerEvent, Posting, shares},
    sql::{Sql, Statements, insert},
};

/// The largest amount of one entry.
const MAX_ENTRY_AMOUNT: u128 = i64::MAX as u128;
/// Wei in an ether.
const ETHER: u128 = 1_000_000_000_000_000_000;

/// What an entry is about, beside its mandate; places in the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct EntryRefs {
    pub payment: Option<u64>,
    pub card: Option<u64>,
    /// The transaction.
    pub tx: Option<u64>,
    /// The block that states the fact.
    pub block: Option<u64>,
}

impl EntryRefs {
    pub fn payment(seq: u64) -> Self {
        Self { payment: Some(seq), ..Self::default() }
    }

    pub fn card(seq: u64) -> Self {
        Self { card: Some(seq), ..Self::default() }
    }

    /// What a block says.
    pub const fn at(self, block: u64) -> Self {
        Self { block: Some(block), ..self }
    }
}

/// What the host has to do with, beside what belongs to mandates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// What captures brought to the card programme's treasury.
    pub treasury: Amount,
    /// What the issuer took beyond what could be captured.
    pub shortfall: Amount,
    /// What final transactions cost, in wei.
    pub gas: u128,
}

/// Enters the postings of a booking.
pub(super) fn enter(
    connection: &Connection,
    mandate: u64,
    event: LedgerEvent,
    postings: &[Posting],
    refs: EntryRefs,
    now: Seconds,
) -> Result<(), LedgerError> {
    for posting in postings {
        let (debit, credit) = (posting.from.name(), posting.to.name());
        let line = Line { cause: event.name(), debit, credit, amount: posting.amount.units() };
        append(connection, Some(mandate), line, refs, now)?;
    }
    Ok(())
}

/// A posting as it is entered.
struct Line {
    cause: &'static str,
    debit: &'static str,
    credit: &'static str,
    amount: u64,
}

fn append(
    connection: &Connection,
    mandate: Option<u64>,
    Line { cause, debit, credit, amount }: Line,
    refs: EntryRefs,
    now: Seconds,
) -> Result<(), LedgerError> {
    insert!(connection, "journal", {
        "at": now,
        "mandate": mandate,
        "payment": refs.payment,
        "card": refs.card,
        "tx": refs.tx,
        "block": refs.block,
        "cause": cause,
        "debit": debit,
        "credit": credit,
        "amount": amount,
    })
    .map(drop)
}

pub fn host(connection: &Connection) -> Result<Host, LedgerError> {
    let host: Option<(Amount, Amount, u64, u64)> =
        connection.row("SELECT treasury, shortfall, gas_ether, gas_wei FROM host", [])?;
    let (treasury, shortfall, ether, wei) =
        host.ok_or_else(|| LedgerError::inconsistent("the host has no accounts"))?;
    let gas = u128::from(ether).saturating_mul(ETHER).saturating_add(wei.into());
    Ok(Host { treasury, shortfall, gas })
}

fn set_host(connection: &Connection, host: Host) -> Result<(), LedgerError> {
    let part = |wei: u128| u64::try_from(wei).map_err(LedgerError::inconsistent);
    connection
        .change(
            "UPDATE host SET treasury = ?, shortfall = ?, gas_ether = ?, gas_wei = ?",
            (Sql(host.treasury), Sql(host.shortfall), part(host.gas / ETHER)?, part(host.gas % ETHER)?),
        )
        .map(drop)
}

/// Captured for the card programme: it is in its treasury.
pub fn credit_treasury(
    connection: &Connection,
    mandate: u64,
    amount: Amount,
    refs: EntryRefs,
    now: Seconds,
) -> Result<(), LedgerError> {
    if amount.is_zero() {
        return Ok(());
    }
    let host = host(connection)?;
    let treasury =
        host.treasury.checked_add(amount).ok_or_else(|| LedgerError::inconsistent("treasury balance overflow"))?;
    set_host(connection, Host { treasury, ..host })?;
    append(
        connection,
        Some(mandate),
        Line { cause: "capture", debit: "captures", credit: "treasury", amount: amount.units() },
        refs,
        now,
    )
}

/// What was captured for the card programme is taken back, to be booked anew.
pub(super) fn reverse_capture(
    connection: &Connection,
    mandate: u64,
    amount: Amount,
    refs: EntryRefs,
    now: Seconds,
) -> Result<(), LedgerError> {
    if amount.is_zero() {
        return Ok(());
    }
    let host = host(connection)?;
    let treasury = host
        .treasury
        .checked_sub(amount)
        .ok_or_else(|| LedgerError::inconsistent("more captured than the treasury got"))?;
    set_host(connection, Host { treasury, ..host })?;
    append(
        connection,
        Some(mandate),
        Line { cause: "forget", debit: "treasury", credit: "captures", amount: amount.units() },
        refs,
        now,
    )
}

/// All gas is taken back, entry by entry, to be booked anew.
pub(super) fn reverse_gas(connection: &Connection, now: Seconds) -> Result<(), LedgerError> {
    set_host(connection, Host { gas: 0, ..host(connection)? })?;
    connection.execute(
        "INSERT INTO journal (at, mandate, payment, card, tx, cause, debit, credit, amount)
         SELECT ?, mandate, payment, card, tx, 'forget', credit, debit, amount FROM journal
         WHERE (credit = 'gas' OR debit = 'gas')",
        [now],
    )?;
    Ok(())
}

/// The issuer took more for a card than its hold has to give.
pub fn record_shortfall(
    connection: &Connection,
    mandate: u64,
    amount: Amount,
    refs: EntryRefs,
    now: Seconds,
) -> Result<(), LedgerError> {
    let host = host(connection)?;
    // An issuer can claim anything; what no ledger can hold stays in the trail alone.
    let amount = amount.min(Amount::MAX.checked_sub(host.shortfall).unwrap_or_default());
    if amount.is_zero() {
        return Ok(());
    }
    let shortfall = host.shortfall.checked_add(amount).unwrap_or(Amount::MAX);
    set_host(connection, Host { shortfall, ..host })?;
    append(
        connection,
        Some(mandate),
        Line { cause: "shortfall", debit: "host", credit: "shortfall", amount: amount.units() },
        refs,
        now,
    )
}

/// What could not be captured is taken back, to be booked anew.
pub(super) fn reverse_shortfall(
    connection: &Connection,
    mandate: u64,
    amount: Amount,
    refs: EntryRefs,
    now: Seconds,
) -> Result<(), LedgerError> {
    let host = host(connection)?;
    // What was beyond measure was never booked.
    let amount = amount.min(host.shortfall);
    if amount.is_zero() {
        return Ok(());
    }
    let shortfall = host.shortfall.checked_sub(amount).unwrap_or_default();
    set_host(connection, Host { shortfall, ..host })?;
    append(
        connection,
        Some(mandate),
        Line { cause: "forget", debit: "shortfall", credit: "host", amount: amount.units() },
        refs,
        now,
    )
}

/// What bears a share of a transaction's gas.
#[derive(Clone, Copy, Debug, Default)]
pub struct GasPayer {
    pub mandate: Option<u64>,
    /// What its entries are about.
    pub refs: EntryRefs,
}

/// Charges a final transaction's cost in wei evenly to its payers.
pub fn charge_gas(connection: &Connection, cost: u128, payers: &[GasPayer], now: Seconds) -> Result<(), LedgerError> {
    if cost == 0 {
        return Ok(());
    }
    let host = host(connection)?;
    let gas = host.gas.checked_add(cost).ok_or_else(|| LedgerError::inconsistent("gas overflow"))?;
    set_host(connection, Host { gas, ..host })?;
    for (payer, share) in payers.iter().zip(shares(cost, payers.len())) {
        let mut rest = share;
        while rest > 0 {
            let part = rest.min(MAX_ENTRY_AMOUNT);
            let amount = u64::try_from(part).map_err(LedgerError::inconsistent)?;
            append(
                connection,
                payer.mandate,
                Line { cause: "gas", debit: "host", credit: "gas", amount },
                payer.refs,
                now,
            )?;
            rest = rest.saturating_sub(part);
        }
    }
    Ok(())
}
