//! Transactions: each owns a nonce of its submitter; its attempts are signed bytes with that nonce.

use alloy_primitives::{Address, B256, Bytes};
use rusqlite::{Connection, OptionalExtension, Row};
use stipend_core::{Code, MandateId};

use super::{LedgerError, mandates::TxLocation, sql::HOLDS_ARE_OVER};

/// What a transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Settles a batch of payments.
    Settle,
    /// Opens this mandate by its operator's authorisation.
    Open(MandateId),
    /// Ends this mandate by its operator's message.
    Revoke(MandateId),
    /// Returns to the operator what is left of this mandate, which is over.
    Sweep(MandateId),
    /// Places the hold of the card at this place in the ledger.
    Hold(u64),
    /// Captures from the hold of this card.
    Capture(u64),
    /// Releases the hold of this card.
    Release(u64),
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct TransactionRow {
    /// Its place in the ledger.
    pub id: u64,
    /// Who sends it.
    pub submitter: Address,
    /// The nonce that it owns.
    pub nonce: u64,
    /// What it does.
    pub kind: Kind,
    /// The call, the same in every attempt.
    pub calldata: Bytes,
    /// Its gas limit.
    pub gas_limit: u64,
    /// Where it is mined.
    pub mined: Option<TxLocation>,
    /// Whether it succeeded, once mined.
    pub succeeded: Option<bool>,
    /// What it cost in wei, once mined.
    pub cost: Option<u128>,
}

/// Signed bytes.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Their hash.
    pub hash: B256,
    /// The bytes.
    pub raw: Bytes,
    /// Wei per gas at most.
    pub max_fee: u64,
    /// Wei per gas for the block's builder.
    pub priority_fee: u64,
    /// The head's height when they were signed.
    pub sent_at: u64,
    /// Whether they use the nonce for nothing, instead of for the call.
    pub cancels: bool,
}

/// A transaction to store, with its first attempt.
#[derive(Clone, Debug)]
pub struct New {
    /// Who sends it.
    pub submitter: Address,
    /// Its nonce.
    pub nonce: u64,
    /// What it does.
    pub kind: Kind,
    /// The call.
    pub calldata: Bytes,
    /// Its gas limit.
    pub gas_limit: u64,
    /// The first attempt.
    pub attempt: Attempt,
}

const COLUMNS: &str =
    "id, submitter, nonce, kind, mandate, calldata, gas_limit, mined_block, mined_hash, mined_tx, succeeded, card,
    gas_cost";

fn record(row: &Row<'_>) -> Result<TransactionRow, LedgerError> {
    let mandate = row.get::<_, Option<[u8; 32]>>(4)?.map(|id| MandateId(id.into()));
    let kind = match (row.get::<_, String>(3)?.as_str(), mandate, row.get::<_, Option<u64>>(11)?) {
        ("settle", None, None) => Kind::Settle,
        ("open", Some(mandate), None) => Kind::Open(mandate),
        ("revoke", Some(mandate), None) => Kind::Revoke(mandate),
        ("sweep", Some(mandate), None) => Kind::Sweep(mandate),
        ("hold", None, Some(card)) => Kind::Hold(card),
        ("capture", None, Some(card)) => Kind::Capture(card),
        ("release", None, Some(card)) => Kind::Release(card),
        (kind, ..) => return Err(LedgerError::Inconsistent(format!("a transaction of kind {kind}"))),
    };
    let mined = match row.get::<_, Option<u64>>(7)? {
        None => None,
        Some(block) => {
            Some(TxLocation { block, hash: row.get::<_, [u8; 32]>(8)?.into(), tx: row.get::<_, [u8; 32]>(9)?.into() })
        }
    };
    Ok(TransactionRow {
        id: row.get(0)?,
        submitter: row.get::<_, [u8; 20]>(1)?.into(),
        nonce: row.get(2)?,
        kind,
        calldata: row.get::<_, Vec<u8>>(5)?.into(),
        gas_limit: row.get(6)?,
        mined,
        succeeded: row.get(10)?,
        cost: row.get::<_, Option<[u8; 16]>>(12)?.map(u128::from_be_bytes),
    })
}

fn select(
    connection: &Connection,
    condition: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<TransactionRow>, LedgerError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM tx WHERE {condition}"))?
        .query_and_then(parameters, record)?
        .collect()
}

/// Stores a transaction with its first attempt and returns its place. The nonce is unique: two
/// transactions can never share one.
pub fn insert(connection: &Connection, new: &New) -> Result<u64, LedgerError> {
    let (kind, mandate, card) = match new.kind {
        Kind::Settle => ("settle", None, None),
        Kind::Open(mandate) => ("open", Some(mandate.0.0), None),
        Kind::Revoke(mandate) => ("revoke", Some(mandate.0.0), None),
        Kind::Sweep(mandate) => ("sweep", Some(mandate.0.0), None),
        Kind::Hold(card) => ("hold", None, Some(card)),
        Kind::Capture(card) => ("capture", None, Some(card)),
        Kind::Release(card) => ("release", None, Some(card)),
    };
    connection
        .prepare_cached(
            "INSERT INTO tx (submitter, nonce, kind, mandate, card, calldata, gas_limit, state)
             VALUES (?, ?, ?, ?, ?, ?, ?, 'pending')",
        )?
        .execute((new.submitter.0.0, new.nonce, kind, mandate, card, new.calldata.as_ref(), new.gas_limit))?;
    let id = u64::try_from(connection.last_insert_rowid()).map_err(LedgerError::inconsistent)?;
    add_attempt(connection, id, &new.attempt)?;
    Ok(id)
}

/// Stores signed bytes, before anybody sends them.
pub fn add_attempt(connection: &Connection, tx: u64, attempt: &Attempt) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "INSERT INTO attempt (hash, tx, raw, max_fee, priority_fee, sent_at, cancels) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            attempt.hash.0,
            tx,
            attempt.raw.as_ref(),
            attempt.max_fee,
            attempt.priority_fee,
            attempt.sent_at,
            attempt.cancels,
        ))?;
    Ok(())
}

/// Puts a payment into a transaction.
pub fn board(connection: &Connection, tx: u64, payment: u64) -> Result<(), LedgerError> {
    connection.prepare_cached("INSERT INTO tx_payment (tx, payment) VALUES (?, ?)")?.execute((tx, payment))?;
    Ok(())
}

/// The transaction at this place in the ledger.
pub fn by_id(connection: &Connection, id: u64) -> Result<Option<TransactionRow>, LedgerError> {
    Ok(select(connection, "id = ?", [id])?.pop())
}

/// The transactions that no block holds, each submitter's in nonce order.
pub fn pending(connection: &Connection) -> Result<Vec<TransactionRow>, LedgerError> {
    select(connection, "state <> 'final' AND state = 'pending' ORDER BY submitter, nonce", [])
}

/// A submitter's transactions that no block holds, in nonce order.
pub fn pending_of(connection: &Connection, submitter: Address) -> Result<Vec<TransactionRow>, LedgerError> {
    let condition = "state <> 'final' AND state = 'pending' AND submitter = ? ORDER BY nonce";
    select(connection, condition, [submitter.0.0])
}

/// A transaction that is not final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its place in the ledger.
    pub id: u64,
    /// Who sends it.
    pub submitter: Address,
    /// Whether a block holds it.
    pub mined: bool,
}

/// The transactions that are not final.
pub fn unfinished(connection: &Connection) -> Result<Vec<Unfinished>, LedgerError> {
    let mut statement =
        connection.prepare_cached("SELECT id, submitter, state = 'mined' FROM tx WHERE state <> 'final'")?;
    let transactions = statement.query_map([], |row| {
        Ok(Unfinished { id: row.get(0)?, submitter: row.get::<_, [u8; 20]>(1)?.into(), mined: row.get(2)? })
    })?;
    Ok(transactions.collect::<Result<_, _>>()?)
}

/// The mandates whose nonces a transaction would use.
pub fn mandates_of(connection: &Connection, tx: u64) -> Result<Vec<MandateId>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT payment.mandate FROM tx_payment JOIN payment ON payment.seq = payment WHERE tx = ?1
         UNION SELECT card.mandate FROM tx JOIN card ON card.seq = tx.card WHERE tx.id = ?1 AND tx.kind = 'hold'",
    )?;
    let mandates = statement.query_map([tx], |row| row.get::<_, [u8; 32]>(0))?;
    mandates.map(|id| Ok(MandateId(id?.into()))).collect()
}

/// The mandates that a transaction was made for, each with the number of its rows.
pub fn gas_payers(connection: &Connection, tx: &TransactionRow) -> Result<Vec<(MandateId, u64)>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT mandate, count(*) FROM (
            SELECT payment.mandate FROM tx_payment JOIN payment ON payment.seq = payment WHERE tx = ?1
            UNION ALL SELECT card.mandate FROM tx JOIN card ON card.seq = tx.card WHERE tx.id = ?1
            UNION ALL SELECT mandate FROM tx WHERE id = ?1 AND mandate IS NOT NULL)
         GROUP BY mandate ORDER BY mandate",
    )?;
    let gas_payers = statement.query_map([tx.id], |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get(1)?)))?;
    gas_payers
        .map(|bearer| {
            let (mandate, rows) = bearer?;
            Ok((MandateId(mandate.into()), rows))
        })
        .collect()
}

/// Whether nothing that a transaction is for can come of it any more, for good.
pub fn is_obsolete(connection: &Connection, tx: &TransactionRow) -> Result<bool, LedgerError> {
    let ask = |question: &str, subject: &dyn rusqlite::ToSql| -> Result<bool, LedgerError> {
        Ok(connection.prepare_cached(question)?.query_row([subject], |row| row.get(0))?)
    };
    match tx.kind {
        // A payment ends when a final block has made it impossible, or has paid it.
        Kind::Settle => ask(
            "SELECT NOT EXISTS (SELECT 1 FROM tx_payment JOIN payment ON payment.seq = payment
                WHERE tx = ? AND state NOT IN ('settled', 'failed'))",
            &tx.id,
        ),
        // What has lapsed, or was given up, is removed.
        Kind::Open(mandate) => ask("SELECT NOT EXISTS (SELECT 1 FROM opening WHERE mandate = ?)", &mandate.0.0),
        Kind::Revoke(mandate) => ask(
            "SELECT coalesce(ended_block <= (SELECT max(number) FROM block WHERE final), FALSE) FROM mandate WHERE id = ?",
            &mandate.0.0,
        ),
        Kind::Sweep(mandate) => ask(
            &format!(
                "SELECT cap + restored <= held + paid + returned AND NOT ({HOLDS_ARE_OVER}) FROM mandate WHERE id = ?"
            ),
            &mandate.0.0,
        ),
        Kind::Hold(card) | Kind::Capture(card) | Kind::Release(card) => {
            ask("SELECT state IN ('closed', 'failed') OR captured + released = amount FROM card WHERE seq = ?", &card)
        }
    }
}

/// The attempts of a transaction, oldest first.
pub fn attempts(connection: &Connection, tx: u64) -> Result<Vec<Attempt>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT hash, raw, max_fee, priority_fee, sent_at, cancels FROM attempt WHERE tx = ? ORDER BY rowid",
    )?;
    let attempts = statement.query_map([tx], |row| {
        Ok(Attempt {
            hash: row.get::<_, [u8; 32]>(0)?.into(),
            raw: row.get::<_, Vec<u8>>(1)?.into(),
            max_fee: row.get(2)?,
            priority_fee: row.get(3)?,
            sent_at: row.get(4)?,
            cancels: row.get(5)?,
        })
    })?;
    Ok(attempts.collect::<Result<_, _>>()?)
}

/// The transaction that one of its attempts, by hash, belongs to.
pub fn of_attempt(connection: &Connection, hash: B256) -> Result<Option<TransactionRow>, LedgerError> {
    Ok(select(connection, "id = (SELECT tx FROM attempt WHERE hash = ?)", [hash.0])?.pop())
}

/// Whether these bytes only use up their nonce.
pub fn cancels(connection: &Connection, hash: B256) -> Result<bool, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM attempt WHERE hash = ? AND cancels)")?
        .query_row([hash.0], |row| row.get(0))?)
}

/// Hashes of everything that may still be mined.
pub fn live_hashes(connection: &Connection) -> Result<Vec<B256>, LedgerError> {
    let mut statement =
        connection.prepare_cached("SELECT hash FROM attempt WHERE tx IN (SELECT id FROM tx WHERE state <> 'final')")?;
    let hashes = statement.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
    hashes.map(|hash| Ok(hash?.into())).collect()
}

/// A block holds the transaction.
pub fn set_mined(
    connection: &Connection,
    tx: u64,
    location: TxLocation,
    succeeded: bool,
    gas_cost: u128,
) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "UPDATE tx SET state = 'mined', mined_block = ?, mined_hash = ?, mined_tx = ?, succeeded = ?, gas_cost = ?
             WHERE id = ?",
        )?
        .execute((location.block, location.hash.0, location.tx.0, succeeded, gas_cost.to_be_bytes(), tx))?;
    Ok(())
}

/// The block with this hash is no longer in the chain: what it held may be mined again.
pub fn unmine(connection: &Connection, block: B256) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "UPDATE tx_payment SET skipped = NULL WHERE tx IN (SELECT id FROM tx WHERE state = 'mined' AND mined_hash = ?)",
        )?
        .execute([block.0])?;
    connection
        .prepare_cached(
            "UPDATE tx SET state = 'pending', mined_block = NULL, mined_hash = NULL, mined_tx = NULL, succeeded = NULL,
             gas_cost = NULL WHERE state = 'mined' AND mined_hash = ?",
        )?
        .execute([block.0])?;
    Ok(())
}

/// The block with this hash is final: so are the transactions in it, which are returned.
pub fn finalize(connection: &Connection, block: B256) -> Result<Vec<TransactionRow>, LedgerError> {
    let transactions = select(connection, "state = 'mined' AND mined_hash = ? ORDER BY nonce", [block.0])?;
    connection
        .prepare_cached("UPDATE tx SET state = 'final' WHERE state = 'mined' AND mined_hash = ?")?
        .execute([block.0])?;
    Ok(transactions)
}

/// The mined transaction skipped this payment's row.
pub fn set_skipped(connection: &Connection, tx: u64, payment: u64, reason: Code) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE tx_payment SET skipped = ? WHERE tx = ? AND payment = ?")?.execute((
        reason.name(),
        tx,
        payment,
    ))?;
    Ok(())
}

/// Why the mined transaction skipped this payment's row, if it did.
pub fn skipped(connection: &Connection, tx: u64, payment: u64) -> Result<Option<Code>, LedgerError> {
    let name: Option<Option<String>> = connection
        .prepare_cached("SELECT skipped FROM tx_payment WHERE tx = ? AND payment = ?")?
        .query_row((tx, payment), |row| row.get(0))
        .optional()?;
    Ok(name.flatten().and_then(|name| Code::ALL.iter().copied().find(|code| code.name() == name)))
}

/// Whether a transaction that is not final holds the payment.
pub fn holds_live(connection: &Connection, payment: u64) -> Result<bool, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM tx_payment JOIN tx ON tx.id = tx WHERE payment = ? AND state <> 'final')",
        )?
        .query_row([payment], |row| row.get(0))?)
}

/// The nonce that the submitter's next transaction must have, if this ledger has used it before.
pub fn next_nonce(connection: &Connection, submitter: Address) -> Result<Option<u64>, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT max(nonce) FROM (SELECT nonce FROM submitter_start WHERE address = ?1
             UNION ALL SELECT nonce + 1 FROM tx WHERE submitter = ?1)",
        )?
        .query_row([submitter.0.0], |row| row.get(0))?)
}

/// Begins to use a submitter whose nonce on chain is `nonce`.
pub fn start(connection: &Connection, submitter: Address, nonce: u64) -> Result<(), LedgerError> {
    connection
        .prepare_cached("INSERT INTO submitter_start (address, nonce) VALUES (?, ?) ON CONFLICT DO NOTHING")?
        .execute((submitter.0.0, nonce))?;
    Ok(())
}

/// Takes over a submitter from a ledger that is gone: everything below `nonce` is used.
pub fn adopt(connection: &Connection, submitter: Address, nonce: u64) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "INSERT INTO submitter_start (address, nonce) VALUES (?, ?)
             ON CONFLICT DO UPDATE SET nonce = max(nonce, excluded.nonce)",
        )?
        .execute((submitter.0.0, nonce))?;
    Ok(())
}

/// Every submitter that this ledger ever used.
pub fn submitters(connection: &Connection) -> Result<Vec<Address>, LedgerError> {
    let mut statement =
        connection.prepare_cached("SELECT address FROM submitter_start UNION SELECT submitter FROM tx")?;
    let submitters = statement.query_map([], |row| row.get::<_, [u8; 20]>(0))?;
    submitters.map(|address| Ok(address?.into())).collect()
}

/// Others have used the transaction's nonce for good: no attempt of it can be mined any more.
pub fn set_dead(connection: &Connection, tx: u64) -> Result<(), LedgerError> {
    connection
        .prepare_cached("UPDATE tx SET state = 'final', succeeded = 0 WHERE id = ? AND state = 'pending'")?
        .execute([tx])?;
    Ok(())
}
