//! The chain as it is followed: a hash-linked list of blocks, the escrow's logs of those that are
//! not final, and which submitters the guardian ever allowed.

use alloy_primitives::{Address, B256, Bytes};
use rusqlite::Connection;
use stipend_core::{Seconds, api::BlockRef};

use super::{
    LedgerError,
    sql::{Sql, Statements, insert, row},
    transactions,
};

/// How many final blocks are kept, so that a reorg past finality is authenticated for what it is. So are the bytes of the
/// transactions in them, which after such a one are sent again.
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

/// The last block.
pub fn head(connection: &Connection) -> Result<Option<Block>, LedgerError> {
    Ok(Block::select(connection, "ORDER BY number DESC LIMIT 1", [])?.pop())
}

pub fn last_final(connection: &Connection) -> Result<Option<Block>, LedgerError> {
    Ok(Block::select(connection, "WHERE final ORDER BY number DESC LIMIT 1", [])?.pop())
}

pub fn by_hash(connection: &Connection, hash: B256) -> Result<Option<Block>, LedgerError> {
    Ok(Block::select(connection, "WHERE hash = ?", [Sql(hash)])?.pop())
}

/// The hash of the block at this height, if it is still kept.
pub fn hash_at(connection: &Connection, height: u64) -> Result<Option<B256>, LedgerError> {
    Ok(Block::select(connection, "WHERE number = ?", [height])?.pop().map(|block| block.hash))
}

/// The lowest block that is not final and not above `height`.
pub fn next_to_finalize(connection: &Connection, height: u64) -> Result<Option<Block>, LedgerError> {
    Ok(Block::select(connection, "WHERE NOT final AND number <= ? ORDER BY number LIMIT 1", [height])?.pop())
}

/// What is half done of a block, since it does not fit into one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It is stored, and not all that it says is projected.
    Mining,
    /// Not all that it said is taken back.
    Reverting,
    /// It is final, and not all that it says is booked.
    Finalizing,
}

impl Unfinished {
    const ALL: [Self; 3] = [Self::Mining, Self::Reverting, Self::Finalizing];

    const fn name(self) -> &'static str {
        match self {
            Self::Mining => "mining",
            Self::Reverting => "reverting",
            Self::Finalizing => "finalizing",
        }
    }
}

/// The block of which something is half done, if there is one.
pub fn unfinished(connection: &Connection) -> Result<Option<(Block, Unfinished)>, LedgerError> {
    let Some(block) = Block::select(connection, "WHERE unfinished IS NOT NULL", [])?.pop() else { return Ok(None) };
    let name: String = connection.value("SELECT unfinished FROM block WHERE number = ?", [block.number])?;
    let unfinished = Unfinished::ALL.into_iter().find(|unfinished| unfinished.name() == name);
    let unfinished = unfinished.ok_or_else(|| LedgerError::Inconsistent(format!("a block that is {name}")))?;
    Ok(Some((block, unfinished)))
}

/// Marks what is half done of a block; `None`: nothing is any more.
pub fn mark(connection: &Connection, block: Block, unfinished: Option<Unfinished>) -> Result<(), LedgerError> {
    let mark = "UPDATE block SET unfinished = ?1, next_log = CASE WHEN ?1 IS NULL THEN 0 ELSE next_log END
        WHERE number = ?2 AND unfinished IS NOT ?1";
    connection.change(mark, (unfinished.map(Unfinished::name), block.number)).map(drop)
}

/// Has a block that is half mined taken back, since it says what can't be; whether there was one.
pub fn take_back(connection: &Connection) -> Result<bool, LedgerError> {
    match unfinished(connection)? {
        Some((block, Unfinished::Mining)) => mark(connection, block, Some(Unfinished::Reverting)).map(|()| true),
        _ => Ok(false),
    }
}

/// Removes the logs of a height that has no block: of one that was not stored to its end.
pub fn forget_logs(connection: &Connection, number: u64) -> Result<(), LedgerError> {
    connection.change("DELETE FROM log WHERE number = ?", [number]).map(drop)
}

/// Stores a log of the next block.
pub fn add_log(connection: &Connection, number: u64, log: &Log) -> Result<(), LedgerError> {
    insert!(connection, "log", {
        "number": number,
        "idx": log.index,
        "tx_hash": Sql(log.tx_hash),
        "topics": log.topics.concat(),
        "data": log.data.as_ref(),
    })
    .map(drop)
}

/// Appends a block, which must continue the list, and whose logs are stored. Nothing of it is projected yet.
///
/// # Errors
/// [`LedgerError::Inconsistent`] if it does not continue the list, and those of the store.
pub fn push(connection: &Connection, block: Block) -> Result<(), LedgerError> {
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
        "unfinished": Unfinished::Mining.name(),
    })
    .map(drop)
}

/// Starts the list anew at a block that is final: everything up to it has been booked.
pub fn restart_at(connection: &Connection, block: Block) -> Result<(), LedgerError> {
    connection.execute("DELETE FROM block", [])?;
    push(connection, block)?;
    mark_final(connection, block)
}

/// Takes the last block off the list.
pub fn pop(connection: &Connection, block: Block) -> Result<(), LedgerError> {
    forget_logs(connection, block.number)?;
    connection.change("DELETE FROM block WHERE number = ?", [block.number]).map(drop)
}

/// The first of the block's logs that what is half done has not come to, so many at most.
pub fn next_logs(connection: &Connection, block: Block, limit: u32) -> Result<Vec<Log>, LedgerError> {
    let rest = "WHERE number = ?1 AND idx >= (SELECT next_log FROM block WHERE number = ?1) ORDER BY idx LIMIT ?2";
    Log::select(connection, rest, (block.number, limit))
}

/// What is half done of the block has come past this log.
pub fn log_done(connection: &Connection, block: Block, log: &Log) -> Result<(), LedgerError> {
    let next = log.index.saturating_add(1);
    connection.change("UPDATE block SET next_log = ? WHERE number = ?", (next, block.number)).map(drop)
}

/// Marks a block as final, and prunes what is no longer needed.
pub fn mark_final(connection: &Connection, block: Block) -> Result<(), LedgerError> {
    connection
        .change("UPDATE block SET final = 1, unfinished = NULL, next_log = 0 WHERE number = ?", [block.number])?;
    connection.change("DELETE FROM log WHERE number <= ?", [block.number])?;
    let kept = block.number.saturating_sub(KEPT);
    connection.change("DELETE FROM block WHERE number < ?", [kept])?;
    transactions::prune(connection, kept)
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
