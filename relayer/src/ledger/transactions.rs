//! Transactions: each owns a nonce of its submitter; its attempts are signed bytes with that nonce.

use alloy_primitives::{Address, B256, Bytes};
use rusqlite::Connection;
use stipend_core::{Code, MandateId};

use super::{
    LedgerError,
    mandates::TxLocation,
    sql::{Columns, FromColumns, HOLDS_HAVE_ENDED, Sql, Statements, insert, row},
};

/// How many transactions lose their bytes in one commit at most. Each of some dozen lanes has about one in a block; a
/// ledger from before they did loses them little by little.
const PRUNED: u32 = 64;

/// What a transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Settles a batch of payments, by `settle` or `settleTo`.
    Settle,
    /// Opens this mandate by its operator's authorization.
    Open(MandateId),
    /// Ends this mandate by its operator's message.
    Revoke(MandateId),
    /// Returns what is left of this ended mandate to the operator.
    Sweep(MandateId),
    /// Places the hold of the card at this place in the ledger.
    Hold(u64),
    /// Captures from the hold of this card.
    Capture(u64),
    /// Releases the hold of this card.
    Release(u64),
}

row! {
    /// A transaction without its call, which may be a hundred kilobytes.
    #[derive(Clone, Copy, Debug)]
    pub struct TransactionRow in "tx" {
        /// Its place in the ledger.
        pub id: u64 = "id",
        /// Who sends it.
        pub submitter: Address = "submitter",
        /// The nonce that it owns.
        pub nonce: u64 = "nonce",
        /// What it does.
        pub kind: Kind = "kind, mandate, card",
        pub gas_limit: u64 = "gas_limit",
        /// Where it is mined.
        pub mined: Option<TxLocation> = "mined_block, mined_hash, mined_tx",
        /// Whether it succeeded, once mined.
        pub succeeded: Option<bool> = "succeeded",
        /// What it cost in wei, once mined.
        pub cost: Option<u128> = "gas_cost",
        /// Whether its calldata and its attempts' bytes are gone.
        pub pruned: bool = "pruned",
    }
}

/// Signed bytes.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Their hash.
    pub hash: B256,
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

row! {
    /// What is known of signed bytes without reading them, which may be a hundred kilobytes.
    #[derive(Clone, Copy, Debug)]
    pub struct AttemptHead in "attempt" {
        /// Their hash.
        pub hash: B256 = "hash",
        /// Wei per gas at most.
        pub max_fee: u64 = "max_fee",
        /// Wei per gas for the block's builder.
        pub priority_fee: u64 = "priority_fee",
        /// The head's height when they were signed.
        pub sent_at: u64 = "sent_at",
        /// Whether they use the nonce for nothing, instead of for the call. Bytes that are gone can't.
        pub cancels: bool = "cancels AND length(raw) > 0",
    }
}

impl Attempt {
    pub const fn head(&self) -> AttemptHead {
        let Self { hash, max_fee, priority_fee, sent_at, cancels, .. } = *self;
        AttemptHead { hash, max_fee, priority_fee, sent_at, cancels }
    }
}

/// A transaction to store, with its first attempt.
#[derive(Clone, Debug)]
pub struct New {
    /// Who sends it.
    pub submitter: Address,
    pub nonce: u64,
    /// What it does.
    pub kind: Kind,
    /// The call, the same in every attempt.
    pub calldata: Bytes,
    pub gas_limit: u64,
    /// The first attempt.
    pub attempt: Attempt,
}

impl FromColumns for Kind {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
        let (kind, mandate, card): (String, Option<MandateId>, Option<u64>) = columns.take()?;
        match (kind.as_str(), mandate, card) {
            ("settle", None, None) => Ok(Self::Settle),
            ("open", Some(mandate), None) => Ok(Self::Open(mandate)),
            ("revoke", Some(mandate), None) => Ok(Self::Revoke(mandate)),
            ("sweep", Some(mandate), None) => Ok(Self::Sweep(mandate)),
            ("hold", None, Some(card)) => Ok(Self::Hold(card)),
            ("capture", None, Some(card)) => Ok(Self::Capture(card)),
            ("release", None, Some(card)) => Ok(Self::Release(card)),
            _ => Err(LedgerError::Inconsistent(format!("a transaction of kind {kind}"))),
        }
    }
}

/// Stores a transaction with its first attempt and returns its place. The nonce is unique: two
/// transactions can never share one.
pub fn insert(connection: &Connection, new: &New) -> Result<u64, LedgerError> {
    let (kind, mandate, card) = match new.kind {
        Kind::Settle => ("settle", None, None),
        Kind::Open(mandate) => ("open", Some(mandate), None),
        Kind::Revoke(mandate) => ("revoke", Some(mandate), None),
        Kind::Sweep(mandate) => ("sweep", Some(mandate), None),
        Kind::Hold(card) => ("hold", None, Some(card)),
        Kind::Capture(card) => ("capture", None, Some(card)),
        Kind::Release(card) => ("release", None, Some(card)),
    };
    insert!(connection, "tx", {
        "submitter": Sql(new.submitter),
        "nonce": new.nonce,
        "kind": kind,
        "mandate": mandate.map(Sql),
        "card": card,
        "calldata": new.calldata.as_ref(),
        "gas_limit": new.gas_limit,
        "state": "pending",
    })?;
    let id = connection.inserted()?;
    add_attempt(connection, id, &new.attempt)?;
    Ok(id)
}

/// Stores signed bytes, before they are sent.
pub fn add_attempt(connection: &Connection, tx: u64, attempt: &Attempt) -> Result<(), LedgerError> {
    insert!(connection, "attempt", {
        "hash": Sql(attempt.hash),
        "tx": tx,
        "raw": attempt.raw.as_ref(),
        "max_fee": attempt.max_fee,
        "priority_fee": attempt.priority_fee,
        "sent_at": attempt.sent_at,
        "cancels": attempt.cancels,
    })
    .map(drop)
}

/// Puts a payment into a transaction.
pub fn attach_payment(connection: &Connection, tx: u64, payment: u64) -> Result<(), LedgerError> {
    connection.change("INSERT INTO tx_payment (tx, payment) VALUES (?, ?)", (tx, payment)).map(drop)
}

/// The transaction at this place in the ledger.
pub fn by_id(connection: &Connection, id: u64) -> Result<Option<TransactionRow>, LedgerError> {
    Ok(TransactionRow::select(connection, "WHERE id = ?", [id])?.pop())
}

/// A transaction's call.
pub fn calldata(connection: &Connection, id: u64) -> Result<Bytes, LedgerError> {
    connection.value("SELECT calldata FROM tx WHERE id = ?", [id])
}

/// The transactions that no block holds, each submitter's in nonce order.
pub fn pending(connection: &Connection) -> Result<Vec<TransactionRow>, LedgerError> {
    TransactionRow::select(connection, "WHERE state <> 'final' AND state = 'pending' ORDER BY submitter, nonce", [])
}

/// A submitter's transactions that no block holds, in nonce order.
pub fn pending_of(connection: &Connection, submitter: Address) -> Result<Vec<TransactionRow>, LedgerError> {
    let rest = "WHERE state <> 'final' AND state = 'pending' AND submitter = ? ORDER BY nonce";
    TransactionRow::select(connection, rest, [Sql(submitter)])
}

row! {
    /// A transaction that is not final.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Unfinished in "tx" {
        /// Its place in the ledger.
        pub id: u64 = "id",
        /// Who sends it.
        pub submitter: Address = "submitter",
        /// Whether a block holds it.
        pub mined: bool = "state = 'mined'",
    }
}

/// The transactions that are not final.
pub fn unfinished(connection: &Connection) -> Result<Vec<Unfinished>, LedgerError> {
    Unfinished::select(connection, "WHERE state <> 'final'", [])
}

/// The mandates whose nonces a transaction would use.
pub fn mandates_of(connection: &Connection, tx: u64) -> Result<Vec<MandateId>, LedgerError> {
    connection.rows(
        "SELECT DISTINCT payment.mandate FROM tx_payment JOIN payment ON payment.seq = payment WHERE tx = ?1
         UNION SELECT card.mandate FROM tx JOIN card ON card.seq = tx.card WHERE tx.id = ?1 AND tx.kind = 'hold'",
        [tx],
    )
}

/// The mandates that a transaction was made for, each with the number of its rows.
pub fn gas_payers(connection: &Connection, tx: &TransactionRow) -> Result<Vec<(MandateId, u64)>, LedgerError> {
    connection.rows(
        "SELECT mandate, count(*) FROM (
            SELECT payment.mandate FROM tx_payment JOIN payment ON payment.seq = payment WHERE tx = ?1
            UNION ALL SELECT card.mandate FROM tx JOIN card ON card.seq = tx.card WHERE tx.id = ?1
            UNION ALL SELECT mandate FROM tx WHERE id = ?1 AND mandate IS NOT NULL)
         GROUP BY mandate ORDER BY mandate",
        [tx.id],
    )
}

/// Whether a transaction has become obsolete for good: nothing it is for can happen. So is one whose bytes are gone,
/// which waits only where the chain was rebuilt from before it: what it was for is done by another one.
pub fn is_obsolete(connection: &Connection, tx: &TransactionRow) -> Result<bool, LedgerError> {
    if tx.pruned {
        return Ok(true);
    }
    match tx.kind {
        // A payment ends when a final block has made it impossible, or has paid it.
        Kind::Settle => connection.value(
            "SELECT NOT EXISTS (SELECT 1 FROM tx_payment JOIN payment ON payment.seq = payment
                WHERE tx = ? AND state NOT IN ('settled', 'failed'))",
            [tx.id],
        ),
        // What has lapsed, or was given up, is removed.
        Kind::Open(mandate) => {
            connection.value("SELECT NOT EXISTS (SELECT 1 FROM opening WHERE mandate = ?)", [Sql(mandate)])
        }
        Kind::Revoke(mandate) => connection.value(
            "SELECT coalesce(ended_block <= (SELECT max(number) FROM block WHERE final), FALSE) FROM mandate WHERE id = ?",
            [Sql(mandate)],
        ),
        Kind::Sweep(mandate) => connection.value(
            &format!(
                "SELECT cap + restored <= held + paid + returned + carried AND NOT ({HOLDS_HAVE_ENDED}) FROM mandate WHERE id = ?"
            ),
            [Sql(mandate)],
        ),
        Kind::Hold(card) | Kind::Capture(card) | Kind::Release(card) => connection.value(
            "SELECT state IN ('closed', 'failed') OR captured + released = amount FROM card WHERE seq = ?",
            [card],
        ),
    }
}

/// The attempts of a transaction, oldest first.
pub fn attempts(connection: &Connection, tx: u64) -> Result<Vec<AttemptHead>, LedgerError> {
    AttemptHead::select(connection, "WHERE tx = ? ORDER BY rowid", [tx])
}

/// The bytes of an attempt.
pub fn raw(connection: &Connection, hash: B256) -> Result<Bytes, LedgerError> {
    connection.value("SELECT raw FROM attempt WHERE hash = ?", [Sql(hash)])
}

/// How many payments ride in a transaction.
pub fn row_count(connection: &Connection, tx: u64) -> Result<u64, LedgerError> {
    connection.value("SELECT count(*) FROM tx_payment WHERE tx = ?", [tx])
}

/// How many payments ride in the batch that one of its attempts, by hash, belongs to; `None` if it is no batch of ours,
/// or does not pay.
pub fn rows_of_attempt(connection: &Connection, hash: B256) -> Result<Option<u64>, LedgerError> {
    let query = "SELECT (SELECT count(*) FROM tx_payment WHERE tx_payment.tx = attempt.tx)
        FROM attempt JOIN tx ON tx.id = attempt.tx WHERE hash = ? AND NOT cancels AND kind = 'settle'";
    connection.row(query, [Sql(hash)])
}

/// The transaction that one of its attempts, by hash, belongs to.
pub fn of_attempt(connection: &Connection, hash: B256) -> Result<Option<TransactionRow>, LedgerError> {
    Ok(TransactionRow::select(connection, "WHERE id = (SELECT tx FROM attempt WHERE hash = ?)", [Sql(hash)])?.pop())
}

/// Whether these bytes only use up their nonce.
pub fn cancels(connection: &Connection, hash: B256) -> Result<bool, LedgerError> {
    connection.value("SELECT EXISTS (SELECT 1 FROM attempt WHERE hash = ? AND cancels)", [Sql(hash)])
}

/// Hashes of everything that may still be mined.
pub fn live_hashes(connection: &Connection) -> Result<Vec<B256>, LedgerError> {
    connection.rows("SELECT hash FROM attempt WHERE tx IN (SELECT id FROM tx WHERE state <> 'final')", [])
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
        .change(
            "UPDATE tx SET state = 'mined', mined_block = ?, mined_hash = ?, mined_tx = ?, succeeded = ?, gas_cost = ?
             WHERE id = ?",
            (location.block, Sql(location.hash), Sql(location.tx), succeeded, Sql(gas_cost), tx),
        )
        .map(drop)
}

/// The block with this hash is no longer in the chain: what it held may be mined again.
pub fn unmine(connection: &Connection, block: B256) -> Result<(), LedgerError> {
    connection.change(
        "UPDATE tx_payment SET skipped = NULL WHERE tx IN (SELECT id FROM tx WHERE state = 'mined' AND mined_hash = ?)",
        [Sql(block)],
    )?;
    connection
        .change(
            "UPDATE tx SET state = 'pending', mined_block = NULL, mined_hash = NULL, mined_tx = NULL, succeeded = NULL,
             gas_cost = NULL WHERE state = 'mined' AND mined_hash = ?",
            [Sql(block)],
        )
        .map(drop)
}

/// A transaction that the block with this hash holds and that is not final.
pub fn next_to_finalize(connection: &Connection, block: B256) -> Result<Option<TransactionRow>, LedgerError> {
    let rest = "WHERE state = 'mined' AND mined_hash = ? ORDER BY id LIMIT 1";
    Ok(TransactionRow::select(connection, rest, [Sql(block)])?.pop())
}

/// The block that holds it is final: so is the transaction.
pub fn set_final(connection: &Connection, tx: u64) -> Result<(), LedgerError> {
    connection.change("UPDATE tx SET state = 'final' WHERE id = ?", [tx]).map(drop)
}

/// Removes the calldata and the signed bytes of some of the transactions that were final before the block at `height`:
/// nothing will ask to send them again. Their hashes stay, so that they are known wherever they turn up.
pub(super) fn prune(connection: &Connection, height: u64) -> Result<(), LedgerError> {
    let pruned: Vec<u64> = connection.rows(
        "UPDATE tx SET calldata = x'', pruned = 1 WHERE id IN (SELECT id FROM tx INDEXED BY tx_whole
            WHERE state = 'final' AND NOT pruned AND mined_block < ? ORDER BY mined_block LIMIT ?) RETURNING id",
        (height, PRUNED),
    )?;
    for tx in pruned {
        connection.change("UPDATE attempt SET raw = x'' WHERE tx = ?", [tx])?;
    }
    Ok(())
}

/// The mined transaction skipped this payment's row.
pub fn set_skipped(connection: &Connection, tx: u64, payment: u64, reason: Code) -> Result<(), LedgerError> {
    connection
        .change("UPDATE tx_payment SET skipped = ? WHERE tx = ? AND payment = ?", (reason.name(), tx, payment))
        .map(drop)
}

/// Why the mined transaction skipped this payment's row, if it did.
pub fn skipped(connection: &Connection, tx: u64, payment: u64) -> Result<Option<Code>, LedgerError> {
    let reason: Option<Option<Code>> =
        connection.row("SELECT skipped FROM tx_payment WHERE tx = ? AND payment = ?", (tx, payment))?;
    Ok(reason.flatten())
}

/// Whether a transaction that is not final holds the payment.
pub fn holds_live(connection: &Connection, payment: u64) -> Result<bool, LedgerError> {
    connection.value(
        "SELECT EXISTS (SELECT 1 FROM tx_payment JOIN tx ON tx.id = tx WHERE payment = ? AND state <> 'final')",
        [payment],
    )
}

/// Whether a transaction that held the payment was mined and reverted.
pub fn has_reverted(connection: &Connection, payment: u64) -> Result<bool, LedgerError> {
    connection.value(
        "SELECT EXISTS (SELECT 1 FROM tx_payment JOIN tx ON tx.id = tx WHERE payment = ? AND NOT succeeded)",
        [payment],
    )
}

/// The nonce that the submitter's next transaction must have, if this ledger has used it before.
pub fn next_nonce(connection: &Connection, submitter: Address) -> Result<Option<u64>, LedgerError> {
    connection.value(
        "SELECT max(nonce) FROM (SELECT nonce FROM submitter_start WHERE address = ?1
             UNION ALL SELECT max(nonce) + 1 FROM tx WHERE submitter = ?1)",
        [Sql(submitter)],
    )
}

/// Begins to use a submitter whose nonce on chain is `nonce`.
pub fn start(connection: &Connection, submitter: Address, nonce: u64) -> Result<(), LedgerError> {
    connection
        .change(
            "INSERT INTO submitter_start (address, nonce) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (Sql(submitter), nonce),
        )
        .map(drop)
}

/// Takes over a submitter from a ledger that is gone: everything below `nonce` is used.
pub fn adopt(connection: &Connection, submitter: Address, nonce: u64) -> Result<(), LedgerError> {
    connection
        .change(
            "INSERT INTO submitter_start (address, nonce) VALUES (?, ?)
             ON CONFLICT DO UPDATE SET nonce = max(nonce, excluded.nonce)",
            (Sql(submitter), nonce),
        )
        .map(drop)
}

/// Every submitter that this ledger ever used.
pub fn submitters(connection: &Connection) -> Result<Vec<Address>, LedgerError> {
    // From each to the next by the index, past all that they sent.
    connection.rows(
        "WITH RECURSIVE sender (address) AS (SELECT min(submitter) FROM tx
            UNION ALL SELECT (SELECT min(submitter) FROM tx WHERE submitter > address) FROM sender
                WHERE address IS NOT NULL)
         SELECT address FROM submitter_start UNION SELECT address FROM sender WHERE address IS NOT NULL",
        [],
    )
}

/// The transaction's nonce is final in another transaction: no attempt of it can be mined.
pub fn set_superseded(connection: &Connection, tx: u64) -> Result<(), LedgerError> {
    connection.change("UPDATE tx SET state = 'final', succeeded = 0 WHERE id = ? AND state = 'pending'", [tx]).map(drop)
}
