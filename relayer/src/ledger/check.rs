//! Proves a ledger: that its sums are right, its trail is whole, and its rows say the same thing.
//! Reads only.

use std::{collections::HashMap, path::Path};

use alloy_primitives::{B256, keccak256};
use rusqlite::{Connection, OpenFlags, Row};
use serde::Serialize;
use stipend_core::{
    MandateId,
    api::{AuditEntry, PaymentState},
    trail::{self, Entry},
};
use uuid::Uuid;

use super::{Deployment, LedgerError, audit, balances::Account, journal, payments as records, payments::PaymentRow};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The schema's version.
    pub version: i64,
    /// Whose ledger it is.
    pub deployment: Option<Deployment>,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What must be so.
    pub name: &'static str,
    /// How many were looked at.
    pub examined: u64,
    /// Where it is not so.
    pub differences: Vec<String>,
}

impl Report {
    /// How many differences there are.
    pub fn differences(&self) -> usize {
        self.checks.iter().map(|check| check.differences.len()).sum()
    }
}

impl Check {
    fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.examined = self.examined.saturating_add(1);
        if !holds {
            self.differences.push(otherwise());
        }
    }
}

type Examiner = fn(&Connection, &mut Check) -> Result<(), LedgerError>;

const CHECKS: [(&str, Examiner); 12] = [
    ("the file is sound", file),
    ("the trail is unbroken", unbroken),
    ("each payment is what the trail says", payments),
    ("each mandate's sum is right", sums),
    ("the journal comes to the balances", balances),
    ("payments' states are their bookings", bookings),
    ("each card's state is its booking", cards),
    ("each window counts what was taken", windows),
    ("each nonce is used once", nonces),
    ("each transaction has its attempts and its place", transactions),
    ("gas is shared out to the last wei", gas),
    ("the blocks are linked", blocks),
];

/// Examines the ledger in this file.
///
/// # Errors
/// [`LedgerError`] if it can't be opened, or has a version that this program does not know.
pub fn check(path: &Path) -> Result<Report, LedgerError> {
    std::fs::metadata(path).map_err(|source| LedgerError::File { path: path.to_owned(), source })?;
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    super::must_be_known(&connection, path, super::VERSION..=super::VERSION)?;
    // One snapshot, whatever a running relayer writes meanwhile.
    let snapshot = connection.unchecked_transaction()?;
    Ok(examine(&snapshot))
}

/// Examines what this connection shows.
pub fn examine(connection: &Connection) -> Report {
    let mut belongs = Check { name: "it belongs to one deployment", examined: 1, differences: Vec::new() };
    let deployment = super::deployment(connection).unwrap_or_else(|error| {
        belongs.differences.push(error.to_string());
        None
    });
    if deployment.is_none() && belongs.differences.is_empty() {
        belongs.differences.push("it belongs to nobody".into());
    }
    let others = CHECKS.map(|(name, examine)| {
        let mut check = Check { name, examined: 0, differences: Vec::new() };
        if let Err(error) = examine(connection, &mut check) {
            check.differences.push(format!("it can't be read: {error}"));
        }
        check
    });
    let checks = std::iter::once(belongs).chain(others).collect();
    Report { version: super::VERSION, deployment, checks }
}

fn each(
    connection: &Connection,
    query: &str,
    mut look: impl FnMut(&Row<'_>) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        look(row)?;
    }
    Ok(())
}

fn count(connection: &Connection, table: &str) -> Result<u64, LedgerError> {
    Ok(connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?)
}

/// Everything that the query returns, as text, is a difference.
fn none(connection: &Connection, check: &mut Check, query: &str) -> Result<(), LedgerError> {
    each(connection, query, |row| {
        check.differences.push(row.get(0)?);
        Ok(())
    })
}

fn hash(row: &Row<'_>, column: &str) -> Result<B256, LedgerError> {
    Ok(row.get::<_, [u8; 32]>(column)?.into())
}

/// What the journal has of a card.
fn entered_of(row: &Row<'_>) -> Result<(i64, i64, i64), LedgerError> {
    Ok((row.get("reserved")?, row.get("held")?, row.get("paid")?))
}

fn file(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    each(connection, "PRAGMA integrity_check", |row| {
        let said: String = row.get(0)?;
        check.must(said == "ok", || said);
        Ok(())
    })?;
    each(connection, "PRAGMA foreign_key_check", |row| {
        let (table, rowid, parent): (String, Option<i64>, String) =
            (row.get("table")?, row.get("rowid")?, row.get("parent")?);
        check.differences.push(format!("row {} of {table} points at no {parent}", rowid.unwrap_or_default()));
        Ok(())
    })
}

fn unbroken(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    audit::verify(connection, |seq, intact| {
        check.must(intact, || format!("entry {seq} is not what was written, or what came before it is not"));
    })?;
    // What was decided since the books were closed is in no list, nor is anything else missing.
    none(
        connection,
        check,
        "SELECT 'entry ' || trail.seq || ' is not in its mandate''s list' FROM trail JOIN mandate ON mandate.seq = trail.mandate
         WHERE NOT (trail.seq > (SELECT seq FROM applied) AND trail.seq > mandate.applied AND substr(body, 1, 1) = x'02')
            AND NOT EXISTS (SELECT 1 FROM mandate_trail AS list WHERE list.mandate = trail.mandate AND list.seq = trail.seq)",
    )?;
    none(
        connection,
        check,
        "SELECT 'entry ' || list.seq || ' is in the list of another mandate' FROM mandate_trail AS list
         JOIN trail ON trail.seq = list.seq WHERE trail.mandate IS NOT list.mandate",
    )
}

/// What the trail says of each payment, against its row: what was accepted, and the last step that it took.
fn payments(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    connection.execute_batch(
        "DROP TABLE IF EXISTS temp.said; CREATE TEMP TABLE said (payment INTEGER PRIMARY KEY, state TEXT)",
    )?;
    // What was decided since then is in the trail alone: it is not in the balances either.
    let all_applied: u64 = connection.query_row("SELECT seq FROM applied", [], |row| row.get(0))?;
    let say = |payment: &PaymentRow, state: PaymentState| {
        let said = "INSERT INTO temp.said VALUES (?, ?) ON CONFLICT DO UPDATE SET state = excluded.state";
        connection.prepare_cached(said)?.execute((payment.seq, state.name())).map(drop)
    };
    let query =
        "SELECT trail.seq AS seq, body, mandate.id AS mandate, applied FROM trail JOIN mandate ON mandate.seq = trail.mandate
        ORDER BY trail.seq";
    each(connection, query, |row| {
        let (seq, body): (u64, Vec<u8>) = (row.get("seq")?, row.get("body")?);
        let (mandate, applied) = (MandateId(hash(row, "mandate")?), row.get::<_, u64>("applied")?.max(all_applied));
        match Entry::decode(&body) {
            Ok(Entry::Decision(_)) if seq > applied => {}
            Ok(Entry::Decision(decided)) => {
                let Some(id) = decided.id() else { return Ok(()) };
                let is_it = |row: &PaymentRow| {
                    (row.mandate, row.nonce, row.payee, row.amount.units(), row.deadline, row.reference)
                        == (mandate, decided.nonce, decided.payee, decided.amount, decided.deadline, decided.reference)
                        && row.signature == decided.signature
                        && row.metadata == decided.metadata.0
                };
                let payment = records::by_id(connection, id)?;
                check.must(payment.as_ref().is_some_and(is_it), || {
                    format!("{id} is not the one that was accepted, by entry {seq}")
                });
                payment.map_or(Ok(()), |payment| say(&payment, PaymentState::Reserved))?;
            }
            Ok(Entry::Step(step)) => {
                let state = trail::payment_state(&step.state).map_err(LedgerError::inconsistent)?;
                for nonce in step.nonces {
                    let payment = records::by_nonce(connection, mandate, nonce)?;
                    check.must(payment.is_some(), || {
                        format!("{mandate}: entry {seq} is of no payment with nonce {nonce}")
                    });
                    payment.map_or(Ok(()), |payment| say(&payment, state))?;
                }
            }
            Ok(Entry::Imported(note)) => {
                let entry: AuditEntry = note.read().map_err(LedgerError::inconsistent)?;
                let (Some(id), Some(state)) = (entry.payment, entry.kind.strip_prefix("payment.")) else {
                    return Ok(());
                };
                if let (Some(payment), Ok(state)) = (records::by_id(connection, id)?, trail::payment_state(state)) {
                    say(&payment, state)?;
                }
            }
            Ok(Entry::Note(_)) | Err(_) => {}
        }
        Ok(())
    })?;
    none(
        connection,
        check,
        "SELECT 'payment ' || hex(id) || ' over ' || amount || ' units is ' || payment.state || ', and '
            || coalesce(said.state, 'nothing') || ' by the trail' FROM payment LEFT JOIN temp.said ON said.payment = seq
         WHERE payment.state IS NOT said.state",
    )?;
    connection.execute_batch("DROP TABLE temp.said")?;
    none(
        connection,
        check,
        "SELECT 'payment ' || hex(id) || ' is submitted, but rides in no transaction that can still be mined'
         FROM payment WHERE state = 'submitted' AND NOT EXISTS
            (SELECT 1 FROM tx_payment JOIN tx ON tx.id = tx WHERE payment = seq AND tx.state <> 'final')",
    )?;
    none(
        connection,
        check,
        "SELECT 'payment ' || hex(id) || ' is mined in a block that is not in the list' FROM payment
         WHERE state = 'mined' AND NOT EXISTS (SELECT 1 FROM block WHERE hash = mined_hash)",
    )?;
    none(
        connection,
        check,
        "SELECT 'payment ' || hex(id) || ' is ' || state || ', which is not what is said of its block''s time' FROM payment
         WHERE (mined_at IS NULL) = (state IN ('mined', 'settled'))",
    )
}

/// What the journal has of each mandate's payments, against what their states come to.
fn bookings(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    let sum = |account: &str| {
        format!("sum(CASE '{account}' WHEN credit THEN amount WHEN debit THEN -amount ELSE 0 END) AS {account}")
    };
    let query = format!(
        "WITH entered (mandate, reserved, paid) AS (
            SELECT mandate, {}, {} FROM journal
            WHERE card IS NULL AND cause IN ('reserve', 'unreserve', 'settle', 'reopen') GROUP BY mandate),
         come (mandate, reserved, paid) AS (
            SELECT mandate.seq, sum(CASE WHEN state NOT IN ('settled', 'failed') THEN payment.amount ELSE 0 END),
                sum(CASE state WHEN 'settled' THEN payment.amount ELSE 0 END)
            FROM payment JOIN mandate ON mandate.id = payment.mandate GROUP BY mandate.seq)
         SELECT id, coalesce(entered.reserved, 0) AS reserved, coalesce(entered.paid, 0) AS paid,
            coalesce(come.reserved, 0) AS come_reserved, coalesce(come.paid, 0) AS come_paid
         FROM mandate LEFT JOIN entered ON entered.mandate = mandate.seq LEFT JOIN come ON come.mandate = mandate.seq",
        sum("reserved"),
        sum("paid")
    );
    each(connection, &query, |row| {
        let id = MandateId(hash(row, "id")?);
        let entered: (i64, i64) = (row.get("reserved")?, row.get("paid")?);
        let come: (i64, i64) = (row.get("come_reserved")?, row.get("come_paid")?);
        check.must(entered == come, || {
            format!(
                "{id}: the journal has (reserved, paid) = {entered:?} units of its payments, which come to {come:?}"
            )
        });
        Ok(())
    })
}

fn sums(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    let query = "SELECT id, cap, restored, overdrawn, available, reserved, held, paid, returned, carried FROM mandate";
    each(connection, query, |row| {
        let id = MandateId(hash(row, "id")?);
        let mut amounts = [0_i128; 9];
        let columns = ["cap", "restored", "overdrawn", "available", "reserved", "held", "paid", "returned", "carried"];
        for (column, amount) in columns.into_iter().zip(&mut amounts) {
            *amount = row.get::<_, i64>(column)?.into();
        }
        let (sources, uses) = amounts.split_at(3);
        let (came, are) = (sources.iter().sum::<i128>(), uses.iter().sum::<i128>());
        check.must(came == are && amounts.iter().all(|amount| *amount >= 0), || {
            let names = Account::ALL.map(Account::name);
            let [cap, ..] = amounts;
            let listed: Vec<_> = names.iter().zip(amounts).map(|(name, amount)| format!("{name} {amount}")).collect();
            format!("{id}: of {cap} units {came} came in, {are} are somewhere: {}", listed.join(", "))
        });
        Ok(())
    })
}

fn balances(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    let mut journal: HashMap<(u64, String), i128> = HashMap::new();
    let (mut treasury, mut shortfall, mut owed_back) = (0_i128, 0_i128, 0_i128);
    let query = "SELECT mandate, debit, credit, sum(amount) AS amount FROM journal
        WHERE credit <> 'gas' AND debit <> 'gas' GROUP BY mandate, debit, credit";
    each(connection, query, |row| {
        let mandate = row.get::<_, Option<u64>>("mandate")?.unwrap_or_default();
        let amount = i128::from(row.get::<_, i64>("amount")?);
        let (debit, credit): (String, String) = (row.get("debit")?, row.get("credit")?);
        match (debit.as_str(), credit.as_str()) {
            ("captures", "treasury") => treasury += amount,
            ("treasury", "captures") => treasury -= amount,
            ("host", "shortfall") => shortfall += amount,
            ("shortfall", "host") => shortfall -= amount,
            ("host", "owed_back") => owed_back += amount,
            ("owed_back", "host") => owed_back -= amount,
            _ => {
                *journal.entry((mandate, debit)).or_default() -= amount;
                *journal.entry((mandate, credit)).or_default() += amount;
            }
        }
        Ok(())
    })?;
    let query = "SELECT seq, id, cap AS escrowed, restored, overdrawn, available, reserved, held, paid, returned, carried FROM mandate";
    each(connection, query, |row| {
        let (seq, id) = (row.get("seq")?, MandateId(hash(row, "id")?));
        for account in Account::ALL {
            let entered = journal.remove(&(seq, account.name().into())).unwrap_or_default();
            let entered = if account.is_source() { -entered } else { entered };
            let balance = i128::from(row.get::<_, i64>(account.name())?);
            let name = account.name();
            check.must(entered == balance, || {
                format!("{id}: {name} is {balance} units, the journal comes to {entered}")
            });
        }
        Ok(())
    })?;
    for ((mandate, account), amount) in journal {
        check
            .differences
            .push(format!("the journal has {amount} units in {account:?} of mandate {mandate}, which is none"));
    }
    let host = journal::host(connection)?;
    for (name, balance, entered) in [
        ("treasury", host.treasury, treasury),
        ("shortfall", host.shortfall, shortfall),
        ("owed_back", host.owed_back, owed_back),
    ] {
        check.must(i128::from(balance.units()) == entered, || {
            format!("the host's {name} is {} units, the journal comes to {entered}", balance.units())
        });
    }
    // What was paid or held elsewhere has a row of its own, and an entry.
    for kind in ["pay", "hold"] {
        let query = format!(
            "SELECT mandate.id AS id, coalesce((SELECT sum(amount) FROM external_outflow AS rows
                    WHERE rows.mandate = mandate.id AND kind = '{kind}'), 0) AS outflows,
                coalesce(sum(journal.amount), 0) AS entered
             FROM mandate LEFT JOIN journal ON journal.mandate = mandate.seq AND cause = '{kind}'
                AND journal.seq > (SELECT coalesce(max(seq), 0) FROM journal WHERE cause = 'forget') GROUP BY mandate.seq"
        );
        each(connection, &query, |row| {
            let id = MandateId(hash(row, "id")?);
            let (rows, entered): (i64, i64) = (row.get("outflows")?, row.get("entered")?);
            check.must(rows == entered, || {
                format!("{id}: the rows of {kind} elsewhere come to {rows} units, the journal to {entered}")
            });
            Ok(())
        })?;
    }
    Ok(())
}

/// What the journal has for each card, in three accounts.
fn entered() -> String {
    let sum = |account: &str| {
        format!("sum(CASE '{account}' WHEN credit THEN amount WHEN debit THEN -amount ELSE 0 END) AS {account}")
    };
    let (reserved, held, paid) = (sum("reserved"), sum("held"), sum("paid"));
    format!("(SELECT card, {reserved}, {held}, {paid} FROM journal WHERE card IS NOT NULL GROUP BY card)")
}

fn cards(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    let query = format!(
        "SELECT id, state, hold_final, card.amount AS amount, captured, released,
            coalesce(reserved, 0) AS reserved, coalesce(held, 0) AS held, coalesce(paid, 0) AS paid
         FROM card LEFT JOIN {} AS entered ON entered.card = card.seq",
        entered()
    );
    each(connection, &query, |row| {
        let id = stipend_core::CardId(Uuid::from_bytes(row.get("id")?));
        let (state, hold_final): (String, bool) = (row.get("state")?, row.get("hold_final")?);
        let (amount, captured, released): (i64, i64, i64) =
            (row.get("amount")?, row.get("captured")?, row.get("released")?);
        let entered = entered_of(row)?;
        let expected = match (state.as_str(), hold_final) {
            (_, true) => (0, amount - captured - released, captured),
            ("failed", false) => (0, 0, 0),
            // What a hold that can never be placed gave back is released too.
            (_, false) => (amount - released, 0, 0),
        };
        check.must(entered == expected, || {
            format!(
                "{id} over {amount} units is {state}, captured {captured} and released {released}, the journal has \
                 (reserved, held, paid) = {entered:?} of it"
            )
        });
        Ok(())
    })?;
    none(
        connection,
        check,
        "SELECT 'card ' || hex(id) || ' has a shortfall of ' || shortfall || ' and owes back ' || owed_back
            || ' units, the journal comes to ' || coalesce(short, 0) || ' and ' || coalesce(owed, 0)
         FROM card LEFT JOIN (SELECT card,
                sum(CASE 'shortfall' WHEN credit THEN amount WHEN debit THEN -amount ELSE 0 END) AS short,
                sum(CASE 'owed_back' WHEN credit THEN amount WHEN debit THEN -amount ELSE 0 END) AS owed
            FROM journal WHERE card IS NOT NULL GROUP BY card) AS entered ON entered.card = card.seq
         WHERE (shortfall, owed_back) <> (coalesce(short, 0), coalesce(owed, 0))",
    )?;
    none(
        connection,
        check,
        "SELECT 'the treasury ' || hex(payee) || ' owes ' || owing || ' units to mandate ' || hex(card.mandate)
            || ', the sum says ' || coalesce(owed, 0)
         FROM (SELECT mandate, payee, sum(owed_back) AS owing FROM card GROUP BY mandate, payee) AS card
            LEFT JOIN refund ON refund.mandate = card.mandate AND payer = payee WHERE owing <> coalesce(owed, 0)",
    )?;
    none(
        connection,
        check,
        "SELECT 'the hold of card ' || hex(id) || ' has a block or a time, and not both' FROM card
         WHERE (held_at IS NULL) <> (held_hash IS NULL)",
    )
}

/// What a window's totals say was taken between the first and the last of them.
fn windows(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    let query = "WITH taken (mandate, at, amount) AS (
            SELECT mandate, mined_at, amount FROM payment WHERE state = 'settled'
            UNION ALL SELECT mandate, held_at, amount FROM card WHERE hold_final
            UNION ALL SELECT mandate, at, amount FROM external_outflow),
        counted (mandate, since, until, amount) AS (
            SELECT mandate, min(at), max(at), max(amount) - min(amount) FROM window_total GROUP BY mandate)
        SELECT counted.mandate AS mandate, counted.amount AS counted, coalesce(sum(taken.amount), 0) AS taken
        FROM counted LEFT JOIN taken ON taken.mandate = counted.mandate AND taken.at > since AND taken.at <= until
        GROUP BY counted.mandate";
    each(connection, query, |row| {
        let id = MandateId(hash(row, "mandate")?);
        let (counted, taken): (i64, i64) = (row.get("counted")?, row.get("taken")?);
        check.must(counted == taken, || format!("{id}: the window counts {counted} units, {taken} were taken"));
        Ok(())
    })
}

fn nonces(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    check.examined = count(connection, "payment")? + count(connection, "card")? + count(connection, "tx")?;
    for (what, rows) in [
        ("accepted", "SELECT mandate, nonce FROM payment UNION ALL SELECT mandate, nonce FROM card"),
        (
            "used on chain",
            "SELECT mandate, nonce FROM payment WHERE state = 'settled' UNION ALL
             SELECT mandate, nonce FROM card WHERE hold_final UNION ALL SELECT mandate, nonce FROM external_outflow",
        ),
    ] {
        let query = format!(
            "SELECT mandate, nonce, count(*) AS times FROM ({rows}) GROUP BY mandate, nonce HAVING count(*) > 1"
        );
        each(connection, &query, |row| {
            let id = MandateId(hash(row, "mandate")?);
            let (nonce, times): (i64, i64) = (row.get("nonce")?, row.get("times")?);
            check.differences.push(format!("{id}: nonce {nonce} is {what} {times} times"));
            Ok(())
        })?;
    }
    none(
        connection,
        check,
        "SELECT 'submitter ' || hex(submitter) || ' has nonce ' || nonce || ' ' || count(*) || ' times' FROM tx NOT INDEXED
         GROUP BY submitter, nonce HAVING count(*) > 1",
    )?;
    // The chain takes nonces one by one: a gap would never be mined.
    none(
        connection,
        check,
        "SELECT 'submitter ' || hex(address) || ' has ' || count(tx.id) || ' transactions from nonce ' || start.nonce
            || ' to ' || max(tx.nonce)
         FROM submitter_start AS start JOIN tx ON tx.submitter = address AND tx.nonce >= start.nonce
         GROUP BY address HAVING count(tx.id) <> max(tx.nonce) - start.nonce + 1",
    )
}

fn transactions(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    each(connection, "SELECT hash, raw, tx, pruned FROM attempt JOIN tx ON tx.id = tx", |row| {
        let hash = hash(row, "hash")?;
        let (raw, tx, pruned): (Vec<u8>, i64, bool) = (row.get("raw")?, row.get("tx")?, row.get("pruned")?);
        check.must(pruned && raw.is_empty() || keccak256(raw) == hash, || {
            format!("attempt {hash} of transaction {tx} has other bytes")
        });
        Ok(())
    })?;
    none(
        connection,
        check,
        "SELECT 'transaction ' || id || ' has no attempt' FROM tx
         WHERE NOT EXISTS (SELECT 1 FROM attempt WHERE tx = tx.id)",
    )?;
    none(
        connection,
        check,
        "SELECT 'transaction ' || id || ' settles nothing' FROM tx
         WHERE kind = 'settle' AND NOT EXISTS (SELECT 1 FROM tx_payment WHERE tx = tx.id)",
    )?;
    none(
        connection,
        check,
        "SELECT 'transaction ' || id || ' is mined in a block that is not in the list' FROM tx
         WHERE state = 'mined' AND NOT EXISTS (SELECT 1 FROM block WHERE hash = mined_hash)",
    )?;
    none(
        connection,
        check,
        "SELECT 'transaction ' || id || ' is ' || state || ', which is not what is said of its block' FROM tx
         WHERE (state = 'pending') AND mined_hash IS NOT NULL OR (state = 'mined') AND mined_hash IS NULL",
    )
}

fn gas(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    // In two parts, since a sum of wei outgrows what the database can add.
    let side = "CASE WHEN credit = 'gas' THEN 1 ELSE -1 END";
    let split = format!("sum({side} * (amount / 1000000000)) AS gwei, sum({side} * (amount % 1000000000)) AS wei");
    let wei = |row: &Row<'_>| -> Result<i128, LedgerError> {
        let part =
            |column| Ok::<_, rusqlite::Error>(i128::from(row.get::<_, Option<i64>>(column)?.unwrap_or_default()));
        Ok(part("gwei")? * 1_000_000_000 + part("wei")?)
    };
    let query = format!(
        "SELECT tx.id AS id, tx.gas_cost AS cost, {split} FROM tx LEFT JOIN journal ON journal.tx = tx.id AND (credit = 'gas' OR debit = 'gas')
         WHERE tx.state = 'final' AND tx.gas_cost IS NOT NULL GROUP BY tx.id"
    );
    each(connection, &query, |row| {
        let (tx, cost): (i64, u128) = (row.get("id")?, u128::from_be_bytes(row.get("cost")?));
        let entered = wei(row)?;
        check.must(i128::try_from(cost) == Ok(entered), || {
            format!("transaction {tx} cost {cost} wei, the journal comes to {entered}")
        });
        Ok(())
    })?;
    let host = journal::host(connection)?;
    each(connection, &format!("SELECT {split} FROM journal WHERE credit = 'gas' OR debit = 'gas'"), |row| {
        let entered = wei(row)?;
        check.must(i128::try_from(host.gas) == Ok(entered), || {
            format!("the host's gas is {} wei, the journal comes to {entered}", host.gas)
        });
        Ok(())
    })
}

fn blocks(connection: &Connection, check: &mut Check) -> Result<(), LedgerError> {
    let mut last: Option<(u64, B256, bool)> = None;
    each(connection, "SELECT number, hash, parent, final FROM block ORDER BY number", |row| {
        let (number, is_final): (u64, bool) = (row.get("number")?, row.get("final")?);
        let (hash, parent) = (hash(row, "hash")?, hash(row, "parent")?);
        let follows = last.is_none_or(|(before, parent_hash, final_before)| {
            before + 1 == number && parent_hash == parent && (final_before || !is_final)
        });
        check.must(follows, || format!("block {number} {hash} does not follow the one before it"));
        last = Some((number, hash, is_final));
        Ok(())
    })
}
