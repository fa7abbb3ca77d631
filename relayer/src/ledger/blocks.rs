//! The chain as it is followed: a hash-linked list of blocks, the escrow's logs of those that are
//! not final, and which submitters the guardian ever allowed.

use alloy_primitives::{Address, B256, Bytes};
use rusqlite::{Connection, OptionalExtension, Row};
use stipend_core::{Seconds, api::BlockRef};

use super::LedgerError;

/// How many final blocks are kept, so that a reorg past finality is authenticated for what it is.
const KEPT: u64 = 256;

/// A block of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Its parent's hash.
    pub parent: B256,
    /// Its time.
    pub time: Seconds,
}

impl From<Block> for BlockRef {
    fn from(block: Block) -> Self {
        Self { number: block.number, hash: block.hash, time: block.time }
    }
}

/// A log of the escrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its place in the block.
    pub index: u64,
    /// The transaction.
    pub tx_hash: B256,
    /// Its topics.
    pub topics: Vec<B256>,
    /// Its data.
    pub data: Bytes,
}

/// What a block says about one of our transactions.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// The transaction.
    pub hash: B256,
    /// The block.
    pub block: B256,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// What it cost, in wei.
    pub cost: u128,
}

const COLUMNS: &str = "number, hash, parent, time";

fn block(row: &Row<'_>) -> rusqlite::Result<Block> {
    Ok(Block {
        number: row.get(0)?,
        hash: row.get::<_, [u8; 32]>(1)?.into(),
        parent: row.get::<_, [u8; 32]>(2)?.into(),
        time: row.get(3)?,
    })
}

fn one(connection: &Connection, rest: &str, parameters: impl rusqlite::Params) -> Result<Option<Block>, LedgerError> {
    Ok(connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM block {rest}"))?
        .query_row(parameters, block)
        .optional()?)
}

/// The last block.
pub fn head(connection: &Connection) -> Result<Option<Block>, LedgerError> {
    one(connection, "ORDER BY number DESC LIMIT 1", [])
}

/// The last final block.
pub fn last_final(connection: &Connection) -> Result<Option<Block>, LedgerError> {
    one(connection, "WHERE final ORDER BY number DESC LIMIT 1", [])
}

/// The block with this hash.
pub fn by_hash(connection: &Connection, hash: B256) -> Result<Option<Block>, LedgerError> {
    one(connection, "WHERE hash = ?", [hash.0])
}

/// The lowest block that is not final and not above `height`.
pub fn next_to_finalize(connection: &Connection, height: u64) -> Result<Option<Block>, LedgerError> {
    one(connection, "WHERE NOT final AND number <= ? ORDER BY number LIMIT 1", [height])
}

/// Appends a block, which must continue the list, and its logs.
///
/// # Errors
/// [`LedgerError::Inconsistent`] if it does not continue the list, and those of the store.
pub fn push(connection: &Connection, block: Block, logs: &[Log]) -> Result<(), LedgerError> {
    if let Some(head) = head(connection)?
        && (head.hash != block.parent || head.number.checked_add(1) != Some(block.number))
    {
        return Err(LedgerError::Inconsistent(format!("block {} does not follow {}", block.hash, head.hash)));
    }
    connection.prepare_cached("INSERT INTO block (number, hash, parent, time) VALUES (?, ?, ?, ?)")?.execute((
        block.number,
        block.hash.0,
        block.parent.0,
        block.time,
    ))?;
    for log in logs {
        connection
            .prepare_cached("INSERT INTO log (number, idx, tx_hash, topics, data) VALUES (?, ?, ?, ?, ?)")?
            .execute((block.number, log.index, log.tx_hash.0, log.topics.concat(), log.data.as_ref()))?;
    }
    Ok(())
}

/// Starts the list anew at a block that is final: everything up to it has been booked.
pub fn restart_at(connection: &Connection, block: Block) -> Result<(), LedgerError> {
    connection.execute("DELETE FROM block", [])?;
    push(connection, block, &[])?;
    mark_final(connection, block)
}

/// Takes the last block off the list.
pub fn pop(connection: &Connection, block: Block) -> Result<(), LedgerError> {
    connection.prepare_cached("DELETE FROM log WHERE number = ?")?.execute([block.number])?;
    connection.prepare_cached("DELETE FROM block WHERE number = ?")?.execute([block.number])?;
    Ok(())
}

/// The escrow's logs of a block that is not final, in order.
pub fn logs(connection: &Connection, number: u64) -> Result<Vec<Log>, LedgerError> {
    let mut statement =
        connection.prepare_cached("SELECT idx, tx_hash, topics, data FROM log WHERE number = ? ORDER BY idx")?;
    let logs = statement.query_map([number], |row| {
        let topics: Vec<u8> = row.get(2)?;
        Ok(Log {
            index: row.get(0)?,
            tx_hash: row.get::<_, [u8; 32]>(1)?.into(),
            topics: topics.as_chunks().0.iter().map(|topic| B256::new(*topic)).collect(),
            data: row.get::<_, Vec<u8>>(3)?.into(),
        })
    })?;
    Ok(logs.collect::<Result<_, _>>()?)
}

/// Marks a block as final, and forgets what is not needed any more.
pub fn mark_final(connection: &Connection, block: Block) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE block SET final = 1 WHERE number = ?")?.execute([block.number])?;
    connection.prepare_cached("DELETE FROM log WHERE number <= ?")?.execute([block.number])?;
    connection.prepare_cached("DELETE FROM block WHERE number < ?")?.execute([block.number.saturating_sub(KEPT)])?;
    Ok(())
}

/// Remembers a submitter that the guardian allowed.
pub fn add_submitter(connection: &Connection, submitter: Address) -> Result<(), LedgerError> {
    connection
        .prepare_cached("INSERT INTO submitter (address) VALUES (?) ON CONFLICT DO NOTHING")?
        .execute([submitter.0.0])?;
    Ok(())
}

/// Whether the list began in the middle of the escrow's life, so that not everything is known.
pub fn is_partial(connection: &Connection) -> Result<bool, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM submitter WHERE address = ?)")?
        .query_row([Address::ZERO.0.0], |row| row.get(0))?)
}

/// Whether the guardian never allowed a submitter but those that this ledger uses or has used: then
/// everything that any of them ever signed is in it.
pub fn only_our_submitters(connection: &Connection) -> Result<bool, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT NOT EXISTS (SELECT 1 FROM submitter WHERE address NOT IN (SELECT address FROM submitter_start))",
        )?
        .query_row([], |row| row.get(0))?)
}
