//! Whether the logs that a node gives of a block are all that there are, and no others.
//!
//! Bloom and receipts are what a block's hash commits to, and are kept apart from the index that
//! answers `eth_getLogs`, which is what nodes get wrong: it is behind, was pruned, or is cut off.

use alloy_primitives::{Address, B256, Bytes};

use super::{
    error::FollowError,
    rpc::{FullBlock, Node},
};
use crate::ledger::blocks::{Block, Log};

/// Whether these may be the logs of `contract` in a block without asking for more.
pub fn are_none(contract: Address, header: &FullBlock, logs: &[Log]) -> bool {
    logs.is_empty() && !header.may_hold_logs_of(contract)
}

/// Whether these are the logs of `contract` in a block: in order, of its transactions, and the same
/// as in its receipts. Receipts are asked for only where there are logs, or the bloom says that there
/// may be.
///
/// # Errors
/// [`FollowError::LogsMissing`], [`FollowError::Contradiction`], and those of the node.
pub async fn check(node: &Node, contract: Address, header: &FullBlock, logs: &[Log]) -> Result<(), FollowError> {
    if are_none(contract, header, logs) {
        return Ok(());
    }
    let Block { number, hash, .. } = header.block;
    let contradiction = |what| Err(FollowError::Contradiction { number, hash, what });
    if !logs.is_sorted_by(|one, next| one.index < next.index) {
        return contradiction("its logs are not in order, or one comes twice");
    }
    if logs.iter().any(|log| !header.transactions.contains(&log.tx_hash)) {
        return contradiction("a log is of a transaction that it does not hold");
    }
    match node.logs_by_receipts(contract, hash).await? {
        Some(receipts) if receipts.iter().map(content).eq(logs.iter().map(content)) => Ok(()),
        Some(receipts) if receipts.len() > logs.len() => Err(FollowError::LogsMissing { number, hash }),
        Some(_) => contradiction("its logs are not those of its receipts"),
        None => {
            tracing::warn!(number, %hash, "the node has no eth_getBlockReceipts to compare the escrow's logs with");
            Ok(())
        }
    }
}

/// Without the place in the block: some nodes count it anew in each receipt.
fn content(log: &Log) -> (B256, &[B256], &Bytes) {
    (log.tx_hash, &log.topics, &log.data)
}

#[cfg(test)]
mod tests;
