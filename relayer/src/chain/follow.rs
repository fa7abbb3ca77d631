//! The one head follower: turns the node's blocks into mined, unmined and final ones.
//!
//! It walks from the node's head back along parent hashes until it meets the chain that the ledger
//! holds, and commits the difference: blocks that are gone, from the top; then the new ones, in
//! order; then what became final. A reorg is a value, not an exception. Far behind, what is final
//! already comes in ranges. A step reads from one node and commits in slices, which say what is half
//! done: that is finished first, wherever the process dies.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256};
use rusqlite::{Connection, Transaction};
use stipend_core::{DEV_CHAIN_ID, api::BlockRef};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    backfill::{self, RangeSize},
    error::FollowError,
    freshness::Freshness,
    gas_used::{GasUsed, Used},
    logs,
    rpc::{Chosen, FullBlock, FullReceipt, Node, Rpc, RpcError},
};
use crate::{
    alarms::Alarms,
    clock,
    failpoint::{self, Point},
    ledger::{
        Ledger, LedgerError, Priority, STEP_TIME,
        blocks::{self, Block, Log},
        mandates, transactions,
    },
    projection::{Applied, ChainUpdate, MinedBlock, Outcome, Progress, Projector, Slice},
};

/// How many blocks are walked at most, one by one. Further behind, what is final comes in ranges.
const MAX_LINEAR_CATCHUP: u64 = 64;
/// How many times longer to wait for a node that announces new blocks.
const SUBSCRIBED_POLL_FACTOR: u32 = 10;
/// How soon to look again for a block of what was just sent: on some chains there is one at once.
const MIN_POLL: Duration = Duration::from_millis(10);
/// How many failures in a row, of one node or several, do not keep the relayer from starting.
const MAX_STARTUP_FAILURES: u32 = 5;
/// The longest wait between two tries at the start.
const MAX_STARTUP_DELAY: Duration = Duration::from_secs(10);

/// When a block counts as final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// This many blocks after it.
    Depth(u64),
    /// When the node says so.
    Tag,
}

/// What the sender needs to know of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub block: BlockRef,
    pub base_fee: u64,
    /// How much gas the transactions of a block may use.
    pub gas_limit: u64,
    /// The last final block's height.
    pub finalized: u64,
}

#[derive(Debug)]
pub struct Follower {
    /// The nodes.
    pub rpc: Rpc,
    pub ledger: Ledger,
    /// Writes what blocks say to the ledger.
    pub projector: Projector,
    /// When a block is final.
    pub finality: Finality,
    /// How often to ask for the head.
    pub poll: Duration,
    /// Where to say what is wrong.
    pub alarms: Alarms,
    /// Where to say how much gas our transactions took.
    pub gas_used: GasUsed,
}

impl Follower {
    /// Starts the list of blocks, on an empty ledger, just before `start` (absent: at the node's
    /// final block, for an escrow that nobody has used), and catches up with the node. It may be
    /// dropped at any time: commits stay, and the next call continues from there.
    pub async fn catch_up(&self, start: Option<u64>) -> Result<Head, FollowError> {
        let last_final = self.require_finality().await?;
        if self.ledger.read_applied(blocks::head).await?.is_none() {
            let node = self.rpc.choose().await?.node;
            let height = start.map_or(last_final, |start| start.saturating_sub(1));
            let anchor = node.block(height).await?.ok_or(RpcError::NoAnswer {
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
        let (mut range_size, mut failures) = (RangeSize::default(), 0_u32);
        loop {
            match self.advance(&mut range_size).await {
                Ok((head, true)) => return Ok(head),
                Ok((_, false)) => failures = 0,
                // What a node merely refuses or does not answer is no reason to exit, however long it lasts.
                Err(error)
                    if error.may_pass()
                        && (failures < MAX_STARTUP_FAILURES || matches!(error, FollowError::Rpc(_))) =>
                {
                    failures = failures.saturating_add(1);
                    tracing::warn!(%error, "catching up, again");
                    tokio::time::sleep(self.poll.saturating_mul(failures).min(MAX_STARTUP_DELAY)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The last final block's height, from the first node that knows one: without, nothing would ever
    /// settle.
    async fn require_finality(&self) -> Result<u64, FollowError> {
        let mut failures = 0;
        loop {
            let chosen = self.rpc.choose().await;
            let found = async {
                let node = &chosen.as_ref().map_err(RpcError::clone)?.node;
                self.last_final(node, &node.latest().await?).await
            };
            let error = match found.await {
                Ok(Some((height, _))) => return Ok(height),
                Ok(None) if failures >= MAX_STARTUP_FAILURES => return Err(FollowError::NoFinality),
                Ok(None) => RpcError::NoAnswer { method: "eth_getBlock", reason: FollowError::NoFinality.to_string() },
                Err(error) if failures >= MAX_STARTUP_FAILURES => return Err(error.into()),
                Err(error) => error,
            };
            failures += 1;
            tracing::warn!(%error, "no final block");
            if let Ok(chosen) = &chosen {
                _ = self.rpc.record_failure(chosen, error);
            }
            tokio::time::sleep(self.poll).await;
        }
    }

    /// The head as the ledger has it, where the node can't be followed.
    pub async fn last_known(&self) -> Result<Head, FollowError> {
        let blocks =
            self.ledger.read_applied(|ledger| Ok((blocks::head(ledger)?, blocks::last_final(ledger)?))).await?;
        let (Some(head), Some(last_final)) = blocks else {
            return Err(LedgerError::inconsistent("no block to start from").into());
        };
        Ok(Head { block: head.into(), base_fee: 0, gas_limit: u64::MAX, finalized: last_final.number })
    }

    /// Follows until `stop`, and tells `heads`.
    pub async fn run(self, heads: watch::Sender<Head>, stop: CancellationToken) {
        let mut failures = 0_u32;
        let (mut range_size, mut freshness) = (RangeSize::default(), Freshness::default());
        loop {
            // A step that is broken off has booked whole slices; the next start finishes what is half done.
            let Some(step) = stop.run_until_cancelled(self.advance(&mut range_size)).await else { return };
            match step {
                Ok((head, caught_up)) => {
                    failures = 0;
                    self.alarms.clear("chain");
                    if let Ok(Some(frozen)) = self.ledger.read_applied(mandates::any_frozen).await {
                        let why = frozen.frozen.as_deref().unwrap_or_default();
                        self.alarms.warn("frozen", format!("{} is frozen: {why}", frozen.id));
                    }
                    // Nothing is simulated or judged at a block that is known to be an old one.
                    if !caught_up {
                        continue;
                    }
                    freshness.record(head.block, head.finalized, Instant::now(), clock::now());
                    heads.send_if_modified(|last| std::mem::replace(last, head) != head);
                }
                Err(error @ FollowError::PastFinality { .. }) => self.alarms.halt("finality", error.to_string()),
                Err(error) => {
                    failures = failures.saturating_add(1);
                    // A single failed poll is normal; raise the alarm after several in a row.
                    if failures >= 3 {
                        self.alarms.warn("chain", error.to_string());
                    }
                }
            }
            self.report(&freshness);
            // With a live subscription, poll less often, only to catch missed notifications.
            let rest = if self.rpc.is_subscribed() {
                self.poll.saturating_mul(SUBSCRIBED_POLL_FACTOR)
            } else {
                // Twice as long after each look, beginning with what was sent last.
                self.rpc.since_sent().map_or(self.poll, |since| since.max(MIN_POLL).min(self.poll))
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.rpc.new_head() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// Says whether the chain stands still, or the clock is off.
    fn report(&self, freshness: &Freshness) {
        let alarms = &self.alarms;
        match freshness.stale_head(Instant::now()) {
            // A development chain may make blocks only for transactions.
            Some(what) if self.projector.deployment.chain_id == DEV_CHAIN_ID => alarms.warn("head", what),
            Some(what) => alarms.refuse("head", what),
            None => alarms.clear("head"),
        }
        for (name, what) in [("finality_stalled", freshness.stale_finality()), ("clock", freshness.wrong_clock())] {
            match what {
                Some(what) => alarms.warn(name, what),
                None => alarms.clear(name),
            }
        }
    }

    /// One step towards the head of one node; whether it was reached. What the node did wrong is
    /// held against it, and the next step may read from another.
    async fn advance(&self, range_size: &mut RangeSize) -> Result<(Head, bool), FollowError> {
        let chosen = self.rpc.choose().await?;
        let error = match self.step(&chosen, range_size).await {
            Err(FollowError::Rpc(error)) => return Err(self.rpc.record_failure(&chosen, error).into()),
            Err(FollowError::BlockLost(hash)) => {
                let (method, message) = ("eth_getBlock", format!("it lost block {hash} while it was read"));
                _ = self.rpc.record_failure(&chosen, RpcError::NoSuchBlock { method, message });
                return Err(FollowError::BlockLost(hash));
            }
            Err(FollowError::PastFinality { number, hash }) => {
                let error = FollowError::PastFinality { number, hash };
                // The ledger and another node against this one.
                if !self.is_held_by_another(&chosen, number, hash).await {
                    return Err(error);
                }
                FollowError::Contradiction { number, hash, what: "another node and the ledger hold another chain" }
            }
            // It may be the ledger's fault as well: then the last node is not given up for it.
            Err(error @ FollowError::RejectedByLedger { .. }) if self.rpc.other_healthy(&chosen).is_empty() => {
                return Err(error);
            }
            Err(
                error @ (FollowError::Contradiction { .. }
                | FollowError::LogsMissing { .. }
                | FollowError::RejectedByLedger { .. }),
            ) => error,
            other => return other,
        };
        self.rpc.quarantine(&chosen, error.to_string());
        Err(error)
    }

    async fn is_held_by_another(&self, chosen: &Chosen, number: u64, hash: B256) -> bool {
        for node in self.rpc.other_healthy(chosen) {
            if node.block(number).await.is_ok_and(|block| block.is_some_and(|block| block.block.hash == hash)) {
                return true;
            }
        }
        false
    }

    async fn step(&self, chosen: &Chosen, range_size: &mut RangeSize) -> Result<(Head, bool), FollowError> {
        self.resume().await?;
        let node = &chosen.node;
        let latest = node.latest().await?;
        self.rpc.record_head(chosen, latest.block);
        let final_now = self.last_final(node, &latest).await?;
        let (known, last_final) =
            self.ledger.read_applied(|ledger| Ok((blocks::head(ledger)?, blocks::last_final(ledger)?))).await?;
        let (Some(known), Some(last_final)) = (known, last_final) else {
            return Err(LedgerError::inconsistent("no block to start from").into());
        };

        // One that has forgotten what is final moves nothing.
        let finalized = final_now.map_or(last_final.number, |(height, _)| height);
        let walk_limit = known.number.saturating_add(MAX_LINEAR_CATCHUP);
        if walk_limit < finalized {
            let range = backfill::range(node, self.projector.deployment.escrow, known, finalized, range_size).await?;
            if let Some((last, _)) = range.last() {
                require_on_chain(final_now, last.block.number, Some(last.block.hash))?;
                let (base_fee, gas_limit) = (last.base_fee, last.gas_limit);
                let Applied { head, finalized, .. } = self.commit(node, known, range, finalized).await?;
                return Ok((Head { block: head.into(), base_fee, gas_limit, finalized }, false));
            }
            // The chain took another way above what is final: that way is walked.
        }
        let caught_up = latest.block.number <= walk_limit;
        let target = if caught_up { latest } else { fetch(node, walk_limit).await? };
        let (base_fee, gas_limit) = (target.base_fee, target.gas_limit);
        let (ancestor, path) = self.path(node, target, last_final).await?;

        // A node that lags shows a block that we have: nothing is gone, and nothing is new.
        if path.is_empty() && ancestor.number < known.number {
            return Ok((Head { block: known.into(), base_fee, gas_limit, finalized: last_final.number }, caught_up));
        }
        if ancestor.number < last_final.number {
            return Err(FollowError::PastFinality { number: last_final.number, hash: last_final.hash });
        }
        if let Some((height, _)) = final_now {
            let hash = match path.iter().find(|block| block.block.number == height) {
                Some(block) => Some(block.block.hash),
                None if height <= ancestor.number => {
                    self.ledger.read_applied(move |ledger| blocks::hash_at(ledger, height)).await?
                }
                None => None,
            };
            require_on_chain(final_now, height, hash)?;
        }
        // Nothing is written for nothing: a command has the ledger's tables brought up to date.
        if path.is_empty() && ancestor.hash == known.hash && finalized <= last_final.number {
            return Ok((Head { block: known.into(), base_fee, gas_limit, finalized: last_final.number }, caught_up));
        }
        let mut blocks = Vec::with_capacity(path.len());
        for block in path.into_iter().rev() {
            let logs = node.logs(self.projector.deployment.escrow, block.block.hash).await?;
            logs::check(node, self.projector.deployment.escrow, &block, &logs).await?;
            blocks.push((block, logs));
        }
        let Applied { head, finalized, .. } = self.commit(node, ancestor, blocks, finalized).await?;
        Ok((Head { block: head.into(), base_fee, gas_limit, finalized }, caught_up))
    }

    /// From `target` back to a block that the ledger holds: that block, and those between, the last
    /// one first.
    async fn path(
        &self,
        node: &Node,
        target: FullBlock,
        last_final: Block,
    ) -> Result<(Block, Vec<FullBlock>), FollowError> {
        let mut path = Vec::new();
        let mut cursor = target;
        loop {
            let hash = cursor.block.hash;
            if let Some(block) = self.ledger.read_applied(move |ledger| blocks::by_hash(ledger, hash)).await? {
                return Ok((block, path));
            }
            if cursor.block.number <= last_final.number {
                return Err(FollowError::PastFinality { number: last_final.number, hash: last_final.hash });
            }
            let parent = cursor.block.parent;
            path.push(cursor);
            cursor = node.block(parent).await?.ok_or(FollowError::BlockLost(parent))?;
        }
    }

    /// A command that takes a slice of the writer's time.
    async fn slice<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Slice) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let command = move |ledger: &Transaction<'_>| work(ledger, &mut Slice::Until(Instant::now() + STEP_TIME));
        self.ledger.writer().write_as(Priority::Step, command).await
    }

    /// Finishes what a step before left half done: before a crash, or because a block says what can't be. Such a block is
    /// taken back; another node may have another one.
    async fn resume(&self) -> Result<(), FollowError> {
        let projector = self.projector;
        while self.ledger.read_applied(blocks::unfinished).await?.is_some() {
            let resumed = self.slice(move |ledger, slice| projector.resume(ledger, slice, clock::now())).await;
            if let Err(error) = resumed {
                let taken_back =
                    self.ledger.writer().write_as(Priority::Step, |ledger| blocks::take_back(ledger)).await?;
                if !taken_back {
                    return Err(error.into());
                }
                tracing::warn!(%error, "a block that can't be projected is taken back");
            }
        }
        Ok(())
    }

    /// Completes what was read after `ancestor` to an update, and applies it.
    async fn commit(
        &self,
        node: &Node,
        ancestor: Block,
        blocks: Vec<(FullBlock, Vec<Log>)>,
        finalized: u64,
    ) -> Result<Applied, FollowError> {
        let (committed, used) = self.with_receipts(node, blocks).await?;
        let last = committed.last().map(|mined| mined.block);
        let update = Arc::new(ChainUpdate { ancestor, committed, finalized });
        failpoint::pass(Point::FollowRead);
        let mut progress = Progress::default();
        let applied = loop {
            let (projector, update) = (self.projector, update.clone());
            let outcome =
                self.slice(move |ledger, slice| projector.apply(ledger, &update, progress, slice, clock::now()));
            match (outcome.await, last) {
                (Ok(Outcome::Done(applied)), _) => break applied,
                (Ok(Outcome::Paused(so_far)), _) => progress = so_far,
                (Err(error), Some(last)) => return Err(FollowError::from_commit(last, error)),
                (Err(error), None) => return Err(error.into()),
            }
        };
        used.into_iter().for_each(|used| self.gas_used.record(used));
        failpoint::pass_if(applied.reverted > 0, Point::UnmineCommitted);
        failpoint::pass_if(last.is_some(), Point::MineCommitted);
        failpoint::pass_if(applied.newly_final > 0, Point::FinalizeCommitted);
        Ok(applied)
    }

    /// The last final block's height, and its hash if the node said which one it is; `None` if the
    /// node knows of none.
    async fn last_final(&self, node: &Node, latest: &FullBlock) -> Result<Option<(u64, Option<B256>)>, RpcError> {
        match self.finality {
            Finality::Depth(depth) => Ok(Some((latest.block.number.saturating_sub(depth), None))),
            Finality::Tag => Ok(node.finalized().await?.map(|block| (block.number, Some(block.hash)))),
        }
    }

    /// What blocks say about us: the escrow's logs, and what became of our transactions and how much gas they took.
    async fn with_receipts(
        &self,
        node: &Node,
        blocks: Vec<(FullBlock, Vec<Log>)>,
    ) -> Result<(Vec<MinedBlock>, Vec<Used>), FollowError> {
        // Asked after the blocks were read: whatever they hold of ours was stored before it was sent.
        let ours: HashSet<B256> = self.ledger.read_applied(transactions::live_hashes).await?.into_iter().collect();
        let escrow = self.projector.deployment.escrow;
        let (mut mined, mut used) = (Vec::with_capacity(blocks.len()), Vec::new());
        for (FullBlock { block, transactions, .. }, logs) in blocks {
            let mut receipts = Vec::new();
            for hash in transactions.into_iter().filter(|hash| ours.contains(hash)) {
                let found = node.full_receipt(hash).await?.filter(|found| found.receipt.block == block.hash);
                let Some(FullReceipt { receipt, gas_used, log_addresses }) = found else {
                    return Err(lost(node, block).await);
                };
                // A node whose bloom is wrong can leave out logs that its own receipts have.
                let expected = log_addresses.iter().filter(|contract| **contract == escrow).count();
                if logs.iter().filter(|log| log.tx_hash == hash).count() != expected {
                    let Block { number, hash, .. } = block;
                    return Err(FollowError::LogsMissing { number, hash });
                }
                used.push(Used { tx: hash, gas: gas_used, succeeded: receipt.succeeded });
                receipts.push(receipt);
            }
            mined.push(MinedBlock { block, logs, receipts });
        }
        Ok((mined, used))
    }
}

/// That the node's final block is the one of this height on its chain. Behind a load balancer the two
/// can come from two nodes, and one of them may be on a fork.
fn require_on_chain(
    final_now: Option<(u64, Option<B256>)>,
    height: u64,
    on_chain: Option<B256>,
) -> Result<(), FollowError> {
    match (final_now, on_chain) {
        (Some((number, Some(hash))), Some(on_chain)) if number == height && hash != on_chain => {
            Err(FollowError::Contradiction { number, hash, what: "its final block is not on its chain" })
        }
        _ => Ok(()),
    }
}

async fn fetch(node: &Node, height: u64) -> Result<FullBlock, FollowError> {
    Ok(node.block(height).await?.ok_or_else(|| RpcError::NoSuchBlock {
        method: "eth_getBlock",
        message: format!("no block {height} below its head"),
    })?)
}

/// Why a block that holds a transaction has no receipt of it: it was taken off the chain meanwhile,
/// or the node contradicts itself.
async fn lost(node: &Node, Block { number, hash, .. }: Block) -> FollowError {
    match node.block(number).await {
        Ok(Some(block)) if block.block.hash == hash => {
            FollowError::Contradiction { number, hash, what: "it holds a transaction that has no receipt" }
        }
        Ok(_) => FollowError::BlockLost(hash),
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests;
