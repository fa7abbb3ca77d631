//! The journal: every posting, in the commit of the balances that it explains. Append-only.

use rusqlite::Connection;
use stipend_core::{Amount, Seconds};

use super::{
    LedgerError,
    balances::{LedgerEvent, Posting, shares},
    sql::{Sql, Statements, insert, row},
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
    /// What captures brought to the card program's treasury.
    pub treasury: Amount,
    /// What the issuer took beyond what could be captured.
    pub shortfall: Amount,
    /// Captured beyond what the issuer took: mandates' or their operators'.
    pub owed_back: Amount,
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

row! {
    struct HostRow in "host" {
        treasury: Amount = "treasury",
        shortfall: Amount = "shortfall",
        owed_back: Amount = "owed_back",
        ether: u64 = "gas_ether",
        wei: u64 = "gas_wei",
    }
}

pub fn host(connection: &Connection) -> Result<Host, LedgerError> {
    let HostRow { treasury, shortfall, owed_back, ether, wei } = HostRow::select(connection, "", [])?
        .pop()
        .ok_or_else(|| LedgerError::inconsistent("the host has no accounts"))?;
    let gas = u128::from(ether).saturating_mul(ETHER).saturating_add(wei.into());
    Ok(Host { treasury, shortfall, owed_back, gas })
}

fn set_host(connection: &Connection, host: Host) -> Result<(), LedgerError> {
    let part = |wei: u128| u64::try_from(wei).map_err(LedgerError::inconsistent);
    connection
        .change(
            "UPDATE host SET treasury = ?, shortfall = ?, owed_back = ?, gas_ether = ?, gas_wei = ?",
            (
                Sql(host.treasury),
                Sql(host.shortfall),
                Sql(host.owed_back),
                part(host.gas / ETHER)?,
                part(host.gas % ETHER)?,
            ),
        )
        .map(drop)
}

/// Captured for the card program: it is in its treasury.
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

/// What was captured for the card program is taken back, to be booked anew.
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

/// An account of the host's that says how what the issuer took for cards is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAccount {
    /// Taken by the issuer beyond what is captured.
    Shortfall,
    /// Captured beyond what the issuer took.
    OwedBack,
}

impl HostAccount {
    const fn name(self) -> &'static str {
        match self {
            Self::Shortfall => "shortfall",
            Self::OwedBack => "owed_back",
        }
    }

    const fn of(self, host: &mut Host) -> &mut Amount {
        match self {
            Self::Shortfall => &mut host.shortfall,
            Self::OwedBack => &mut host.owed_back,
        }
    }
}

/// Moves what a card adds to an account of the host's from one amount to another; returns what it adds
/// now. An issuer can claim anything: what no ledger can hold stays in the trail alone.
pub fn set_card_share(
    connection: &Connection,
    account: HostAccount,
    mandate: u64,
    from: Amount,
    to: Amount,
    refs: EntryRefs,
    now: Seconds,
) -> Result<Amount, LedgerError> {
    let mut host = host(connection)?;
    let balance = account.of(&mut host);
    let others = balance.checked_sub(from).ok_or_else(|| LedgerError::inconsistent("less than a card's share"))?;
    let to = to.min(Amount::MAX.checked_sub(others).unwrap_or_default());
    *balance = others.checked_add(to).unwrap_or(Amount::MAX);
    let line = match (to.checked_sub(from), from.checked_sub(to)) {
        (Some(more), _) if !more.is_zero() => {
            Line { cause: account.name(), debit: "host", credit: account.name(), amount: more.units() }
        }
        (_, Some(less)) if !less.is_zero() => {
            Line { cause: account.name(), debit: account.name(), credit: "host", amount: less.units() }
        }
        _ => return Ok(to),
    };
    set_host(connection, host)?;
    append(connection, Some(mandate), line, refs, now)?;
    Ok(to)
}

/// What bears a share of a transaction's gas.
#[derive(Clone, Copy, Debug, Default)]
pub struct GasPayer {
    pub mandate: Option<u64>,
    /// How many rows of the transaction are its own.
    pub rows: u64,
}

/// Charges a final transaction's cost in wei to its payers, by their rows.
pub fn charge_gas(
    connection: &Connection,
    cost: u128,
    payers: &[GasPayer],
    refs: EntryRefs,
    now: Seconds,
) -> Result<(), LedgerError> {
    if cost == 0 {
        return Ok(());
    }
    let host = host(connection)?;
    let gas = host.gas.checked_add(cost).ok_or_else(|| LedgerError::inconsistent("gas overflow"))?;
    set_host(connection, Host { gas, ..host })?;
    for (payer, share) in payers.iter().zip(shares(cost, payers.iter().map(|payer| payer.rows))) {
        let mut rest = share;
        while rest > 0 {
            let part = rest.min(MAX_ENTRY_AMOUNT);
            let amount = u64::try_from(part).map_err(LedgerError::inconsistent)?;
            let line = Line { cause: "gas", debit: "host", credit: "gas", amount };
            append(connection, payer.mandate, line, refs, now)?;
            rest = rest.saturating_sub(part);
        }
    }
    Ok(())
}
