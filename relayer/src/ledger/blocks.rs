//! The chain as it is followed: a hash-linked list of blocks, the escrow's logs of those that are
//! not final, and which submitters the guardian ever allowed.

use alloy_primitives::{Address, B256, Bytes};
use rusqlite::Connection;
use stipend_core::{Seconds, api::BlockRef};

use super::{
    LedgerError,
    sql::{Sql, Statements, insert, row},
};

/// How many final blocks are kept, so that a reorg past finality is authenticated for what it is.
const KEPT: u64 = 256;

row! {
    /// A block of the list.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Block in "block" {
        /// Its height.
        pub number: u64 = "number",
        pub hash: B256 = "hash",
        /// Its parent's hash.
        pub parent: B256 = "parent",
        pub time: Seconds = "time",
    }
}

impl From<Block> for BlockRef {
    fn from(block: Block) -> Self {
        Self { number: block.number, hash: block.hash, time: block.time }
    }
}

row! {
    /// A log of the escrow.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Log in "log" {
        /// Its place in the block.
        pub index: u64 = "idx",
        /// The transaction.
        pub tx_hash: B256 = "tx_hash",
        pub topics: Vec<B256> = "topics",
        pub data: Bytes = "data",
    }
}

/// What a block says about one of our transactions.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// The transaction.
    pub hash: B256,
    pub block: B256,
    pub succeeded: bool,
    /// What it cost, in wei.
    pub cost: u128,
}

fn one(connection: &Connection, rest: &str, parameters: impl rusqlite::Params) -> Result<Option<Block>, LedgerError> {
    Ok(Block::select(connection, rest, parameters)?.pop())
}

/// The last block.
pub fn head(connection: &Connection) -> Result<Option<Block>, LedgerError> {
    one(connection, "ORDER BY number DESC LIMIT 1", [])
}

pub fn last_final(connection: &Connection) -> Result<Option<Block>, LedgerError> {
    one(connection, "WHERE final ORDER BY number DESC LIMIT 1", [])
}

pub fn by_hash(connection: &Connection, hash: B256) -> Result<Option<Block>, LedgerError> {
    one(connection, "WHERE hash = ?", [Sql(hash)])
}

/// The hash of the block at this height, if it is still kept.
pub fn hash_at(connection: &Connection, height: u64) -> Result<Option<B256>, LedgerError> {
    Ok(one(connection, "WHERE number = ?", [height])?.map(|block| block.hash))
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
    insert!(connection, "block", {
        "number": block.number,
        "hash": Sql(block.hash),
        "parent": Sql(block.parent),
        "time": block.time,
    })?;
    for log in logs {
        insert!(connection, "log", {
            "number": block.number,
            "idx": log.index,
            "tx_hash": Sql(log.tx_hash),
            "topics": log.topics.concat(),
            "data": log.data.as_ref(),
        })?;
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
    connection.change("DELETE FROM log WHERE number = ?", [block.number])?;
    connection.change("DELETE FROM block WHERE number = ?", [block.number]).map(drop)
}

/// The escrow's logs of a block that is not final, in order.
pub fn logs(connection: &Connection, number: u64) -> Result<Vec<Log>, LedgerError> {
    Log::select(connection, "WHERE number = ? ORDER BY idx", [number])
}

/// Marks a block as final, and prunes what is no longer needed.
pub fn mark_final(connection: &Connection, block: Block) -> Result<(), LedgerError> {
    connection.change("UPDATE block SET final = 1 WHERE number = ?", [block.number])?;
    connection.change("DELETE FROM log WHERE number <= ?", [block.number])?;
    connection.change("DELETE FROM block WHERE number < ?", [block.number.saturating_sub(KEPT)]).map(drop)
}

/// Remembers a submitter that the guardian allowed.
pub fn add_submitter(connection: &Connection, submitter: Address) -> Result<(), LedgerError> {
    connection.change("INSERT INTO submitter (address) VALUES (?) ON CONFLICT DO NOTHING", [Sql(submitter)]).map(drop)
}

/// Whether the list began in the middle of the escrow's life, so that not everything is known.
pub fn is_partial(connection: &Connection) -> Result<bool, LedgerError> {
    connection.value("SELECT EXISTS (SELECT 1 FROM submitter WHERE address = ?)", [Sql(Address::ZERO)])
}

/// Whether the guardian never allowed a submitter but those that this ledger uses or has used: then
/// everything that any of them ever signed is in it.
pub fn only_our_submitters(connection: &Connection) -> Result<bool, LedgerError> {
    connection.value(
        "SELECT NOT EXISTS (SELECT 1 FROM submitter WHERE address NOT IN (SELECT address FROM submitter_start))",
        [],
    )
}
