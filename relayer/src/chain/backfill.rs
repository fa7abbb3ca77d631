//! Far behind: final blocks in ranges instead of one by one.
//!
//! The headers of a range are linked by hash to the ledger's last block, its logs are asked for in
//! one question, and each header's bloom says where that answer may have left something out. What a
//! node finds too large is asked for in smaller parts, and those grow again.

use std::time::Duration;

use alloy_primitives::Address;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    follow::FollowError,
    rpc::{FullBlock, Node, RpcError},
};
use crate::ledger::blocks::{Block, Log};

/// How many headers are asked for at the same time.
const AT_ONCE: usize = 16;
/// How often a header is asked for, and how long to wait before the second time.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);
/// How many blocks are read before they are booked: one commit does it, and others wait for it.
const MOST: usize = 512;
/// After a refusal, so many questions must go well before more is asked for again.
const CALM: u32 = 16;

/// Of how many blocks to ask for logs at once: fewer after a refusal, and later more again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride {
    blocks: usize,
    calm: u32,
}

impl Default for Stride {
    fn default() -> Self {
        Self { blocks: MOST, calm: 0 }
    }
}

impl Stride {
    /// It was too much. False if it can't be less.
    fn shrink(&mut self) -> bool {
        let possible = self.blocks > 1;
        *self = Self { blocks: (self.blocks / 2).max(1), calm: CALM };
        possible
    }

    /// It went well.
    fn grow(&mut self) {
        match self.calm.checked_sub(1) {
            Some(calm) => self.calm = calm,
            None => self.blocks = self.blocks.saturating_mul(2).min(MOST),
        }
    }
}

/// Some blocks after `known`, up to `to` at most, each with the logs of `contract`. Empty if the
/// chain does not continue `known`.
///
/// # Errors
/// Those of the node; [`FollowError::LogsMissing`] if it leaves out logs of a single block.
pub async fn range(
    node: &Node,
    contract: Address,
    (known, to): (Block, u64),
    stride: &mut Stride,
) -> Result<Vec<(FullBlock, Vec<Log>)>, FollowError> {
    let end = known.number.saturating_add(MOST as u64).min(to);
    let Some(headers) = headers(node, known, end).await? else { return Ok(Vec::new()) };
    let mut found = Vec::with_capacity(headers.len());
    while let Some(rest) = headers.get(found.len()..).filter(|rest| !rest.is_empty()) {
        let part = rest.get(..stride.blocks).unwrap_or(rest);
        match logs(node, contract, part).await {
            Ok(logs) => {
                stride.grow();
                found.extend(logs);
            }
            Err(FollowError::Rpc(RpcError::TooLarge { .. }) | FollowError::LogsMissing { .. }) if stride.shrink() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(headers.into_iter().zip(found).collect())
}

/// The headers after `known` up to a height, linked by hash; `None` if they do not continue it.
async fn headers(node: &Node, known: Block, end: u64) -> Result<Option<Vec<FullBlock>>, FollowError> {
    let heights = known.number.saturating_add(1)..=end;
    let headers: Vec<FullBlock> =
        stream::iter(heights).map(|height| header(node, height)).buffered(AT_ONCE).try_collect().await?;
    let mut last = known;
    for header in &headers {
        let block = header.block;
        if block.parent != last.hash || Some(block.number) != last.number.checked_add(1) {
            // The chain may have changed above what is known, or while it was read.
            return if last.hash == known.hash { Ok(None) } else { Err(FollowError::Gone(block.parent)) };
        }
        last = block;
    }
    Ok(Some(headers))
}

/// One header. A lost answer among hundreds is no reason to read the others again.
async fn header(node: &Node, height: u64) -> Result<FullBlock, RpcError> {
    let mut attempt = 1;
    loop {
        match node.block(height).await {
            Err(RpcError::NoAnswer { .. }) if attempt < ATTEMPTS => {
                tokio::time::sleep(PAUSE.saturating_mul(attempt)).await;
                attempt += 1;
            }
            answer => {
                return answer?.ok_or_else(|| RpcError::NoSuchBlock {
                    method: "eth_getBlock",
                    message: format!("no block {height} below its head"),
                });
            }
        }
    }
}

/// The logs of each of these blocks.
async fn logs(node: &Node, contract: Address, headers: &[FullBlock]) -> Result<Vec<Vec<Log>>, FollowError> {
    let (first, last) = match headers {
        [] => return Ok(Vec::new()),
        [single] => {
            let logs = node.logs(contract, single.block.hash).await?;
            check(node, contract, single, &logs).await?;
            return Ok(vec![logs]);
        }
        [first, .., last] => (first, last),
    };
    let mut found = node.logs_between(contract, first.block.number, last.block.number).await?.into_iter().peekable();
    let mut logs: Vec<Vec<Log>> = Vec::with_capacity(headers.len());
    for header in headers {
        let mut of_block = Vec::new();
        while let Some((_, log)) = found.next_if(|(hash, _)| *hash == header.block.hash) {
            of_block.push(log);
        }
        logs.push(of_block);
    }
    if let Some((hash, _)) = found.next() {
        return Err(FollowError::Gone(hash));
    }

    // An answer that was cut off ends within a block: that one is asked for by itself.
    let cut_off = logs.iter().rposition(|of_block| !of_block.is_empty());
    for (place, (header, of_block)) in headers.iter().zip(&mut logs).enumerate() {
        if cut_off == Some(place) {
            let whole = node.logs(contract, header.block.hash).await?;
            if whole.len() != of_block.len() {
                return Err(FollowError::LogsMissing { number: header.block.number, hash: header.block.hash });
            }
        }
        check(node, contract, header, of_block).await?;
    }
    Ok(logs)
}

/// Whether these can be all logs of `contract` in a block: none at all needs a bloom or receipts
/// that say so.
///
/// # Errors
/// [`FollowError::LogsMissing`], and those of the node.
pub async fn check(node: &Node, contract: Address, header: &FullBlock, logs: &[Log]) -> Result<(), FollowError> {
    if !logs.is_empty() || !header.may_hold_logs_of(contract) {
        return Ok(());
    }
    let Block { number, hash, .. } = header.block;
    match node.logs_by_receipts(contract, hash).await? {
        Some(by_receipts) if !by_receipts.is_empty() => Err(FollowError::LogsMissing { number, hash }),
        Some(_) => Ok(()),
        None => {
            tracing::warn!(number, %hash, "the block may hold logs of the escrow that the node did not give, and it has no eth_getBlockReceipts to ask");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
