//! The one head follower: turns the node's blocks into mined, unmined and final ones.
//!
//! It walks from the node's head back along parent hashes until it meets the chain that the ledger
//! holds, and commits the difference: blocks that are gone, from the top; then the new ones, in
//! order; then what became final. A reorg is a value, not an exception.

use std::time::Duration;

use alloy_primitives::{Address, B256};
use stipend_core::api::BlockRef;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    book::{Bookkeeper, MinedBlock},
    rpc::{FullBlock, Rpc, RpcError},
};
use crate::{
    clock,
    failpoint::{self, Point},
    health::Health,
    ledger::{Ledger, LedgerError, blocks, mandates, transactions},
};

/// How many blocks are fetched and committed at once when far behind.
const STRIDE: u64 = 64;

/// When a block counts as final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// This many blocks after it.
    Depth(u64),
    /// When the node says so.
    Tag,
}

/// Why a step of the follower failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The node.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain changed while it was read.
    #[error("the node lost block {0} while it was read")]
    Gone(B256),
    /// What was booked as final is not.
    #[error(
        "the chain no longer holds the final block {number} {hash}: nothing is signed until an operator has looked"
    )]
    PastFinality {
        /// Its height.
        number: u64,
        /// Its hash.
        hash: B256,
    },
}

/// What the sender needs to know of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The block.
    pub block: BlockRef,
    /// Its base fee.
    pub base_fee: u64,
    /// The last final block's height.
    pub finalized: u64,
}

/// The follower.
#[derive(Debug)]
pub struct Follower {
    /// The node.
    pub rpc: Rpc,
    /// The ledger.
    pub ledger: Ledger,
    /// Who books.
    pub bookkeeper: Bookkeeper,
    /// When a block is final.
    pub finality: Finality,
    /// How often to ask for the head.
    pub poll: Duration,
    /// Where to say what is wrong.
    pub health: Health,
}

impl Follower {
    /// Starts the list of blocks, on an empty ledger, just before `start` (absent: at the node's
    /// final block, for an escrow that nobody has used), and catches up with the node.
    ///
    /// # Errors
    /// [`FollowError`].
    pub async fn catch_up(&self, start: Option<u64>) -> Result<Head, FollowError> {
        if self.ledger.read(blocks::head).await?.is_none() {
            let height = match start {
                Some(start) => start.saturating_sub(1),
                None => self.final_height(&self.rpc.latest().await?).await?,
            };
            let anchor = self.rpc.block(height).await?.ok_or(RpcError::NoAnswer {
                method: "eth_getBlock",
                reason: format!("it has no block {height} to start from"),
            })?;
            let everything = start.is_some();
            self.ledger
                .writer()
                .write(move |ledger| {
                    if !everything {
                        // Whom the guardian allowed before is not known: somebody, to be safe.
                        blocks::add_submitter(ledger, Address::ZERO)?;
                    }
                    blocks::restart_at(ledger, anchor.block)
                })
                .await?;
        }
        loop {
            let (head, caught_up) = self.step().await?;
            if caught_up {
                return Ok(head);
            }
        }
    }

    /// Follows until `stop`, and tells `heads`.
    pub async fn run(self, heads: watch::Sender<Head>, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            match self.step().await {
                Ok((head, caught_up)) => {
                    failures = 0;
                    self.health.clear("chain");
                    if let Ok(Some(frozen)) = self.ledger.read(mandates::any_frozen).await {
                        let why = frozen.frozen.unwrap_or_default();
                        self.health.warn("frozen", format!("{} is frozen: {why}", frozen.id));
                    }
                    heads.send_if_modified(|last| std::mem::replace(last, head) != head);
                    if !caught_up {
                        continue;
                    }
                }
                Err(error @ FollowError::PastFinality { .. }) => self.health.halt("finality", error.to_string()),
                Err(error) => {
                    failures = failures.saturating_add(1);
                    // One lost answer is weather; several are news.
                    if failures >= 3 {
                        self.health.warn("chain", error.to_string());
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.poll) => {}
            }
        }
    }

    /// One step towards the node's head; whether it was reached.
    async fn step(&self) -> Result<(Head, bool), FollowError> {
        let latest = self.rpc.latest().await?;
        let finalized = self.final_height(&latest).await?;
        let (known, last_final) =
            self.ledger.read(|ledger| Ok((blocks::head(ledger)?, blocks::last_final(ledger)?))).await?;
        let (Some(known), Some(last_final)) = (known, last_final) else {
            return Err(LedgerError::inconsistent("no block to start from").into());
        };

        let far = known.number.saturating_add(STRIDE);
        let caught_up = latest.block.number <= far;
        let target = if caught_up { latest } else { self.fetch(far).await? };
        let base_fee = target.base_fee;
        let mut path = Vec::new();
        let mut cursor = target;
        let ancestor = loop {
            let hash = cursor.block.hash;
            if let Some(block) = self.ledger.read(move |ledger| blocks::by_hash(ledger, hash)).await? {
                break block;
            }
            if cursor.block.number <= last_final.number {
                return Err(FollowError::PastFinality { number: last_final.number, hash: last_final.hash });
            }
            let parent = cursor.block.parent;
            path.push(cursor);
            cursor = self.rpc.block(parent).await?.ok_or(FollowError::Gone(parent))?;
        };

        let head = |block: blocks::Block, finalized: u64| Head { block: block.into(), base_fee, finalized };
        // A node that lags shows a block that we have: nothing is gone, and nothing is new.
        if path.is_empty() && ancestor.number < known.number {
            return Ok((head(known, last_final.number), caught_up));
        }
        if ancestor.number < last_final.number {
            return Err(FollowError::PastFinality { number: last_final.number, hash: last_final.hash });
        }

        let mut mined = Vec::with_capacity(path.len());
        for block in path.into_iter().rev() {
            mined.push(self.examine(block).await?);
        }
        failpoint::pass(Point::FollowRead);
        let new_head = mined.last().map_or(ancestor, |mined| mined.block);
        let bookkeeper = self.bookkeeper;
        let finalized = self
            .ledger
            .writer()
            .write(move |ledger| {
                let now = clock::now();
                while let Some(top) = blocks::head(ledger)?.filter(|top| top.hash != ancestor.hash) {
                    bookkeeper.unmine(ledger, top, now)?;
                    failpoint::pass(Point::FollowUnmining);
                }
                for mined in &mined {
                    bookkeeper.mine(ledger, mined, now)?;
                    failpoint::pass(Point::FollowMining);
                }
                while let Some(block) = blocks::next_to_finalize(ledger, finalized)? {
                    bookkeeper.finalize(ledger, block, now)?;
                    failpoint::pass(Point::FollowFinalizing);
                }
                Ok(blocks::last_final(ledger)?.map_or(0, |block| block.number))
            })
            .await?;
        failpoint::pass_if(ancestor.hash != known.hash, Point::UnmineCommitted);
        failpoint::pass_if(new_head.hash != ancestor.hash, Point::MineCommitted);
        failpoint::pass_if(finalized > last_final.number, Point::FinalizeCommitted);
        Ok((head(new_head, finalized), caught_up))
    }

    async fn fetch(&self, height: u64) -> Result<FullBlock, FollowError> {
        Ok(self.rpc.block(height).await?.ok_or_else(|| RpcError::NoAnswer {
            method: "eth_getBlock",
            reason: format!("no block {height} below its head"),
        })?)
    }

    async fn final_height(&self, latest: &FullBlock) -> Result<u64, FollowError> {
        match self.finality {
            Finality::Depth(depth) => Ok(latest.block.number.saturating_sub(depth)),
            Finality::Tag => Ok(self.rpc.finalized().await?),
        }
    }

    /// What a block says about us.
    async fn examine(&self, block: FullBlock) -> Result<MinedBlock, FollowError> {
        let logs = self.rpc.logs(self.bookkeeper.house.escrow, block.block.hash).await?;
        // Asked after the block was read: whatever it holds of ours was stored before it was sent.
        let ours = self.ledger.read(transactions::live_hashes).await?;
        let mut receipts = Vec::new();
        for hash in block.transactions.into_iter().filter(|hash| ours.contains(hash)) {
            let receipt = self.rpc.receipt(hash).await?;
            let receipt = receipt.filter(|receipt| receipt.block == block.block.hash);
            receipts.push(receipt.ok_or(FollowError::Gone(block.block.hash))?);
        }
        Ok(MinedBlock { block: block.block, logs, receipts })
    }
}
