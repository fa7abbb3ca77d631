//! Far behind: final blocks in ranges instead of one by one.
//!
//! The headers of a range are linked by hash to the ledger's last block, its logs are asked for in
//! one question, and checked block by block where there are any or may be. What a node finds too large
//! is asked for in smaller parts, and those grow again.

use std::time::Duration;

use alloy_primitives::Address;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};

use super::{
    error::FollowError,
    logs::{are_none, check},
    rpc::{FullBlock, Node, RpcError},
};
use crate::ledger::blocks::{Block, Log};

/// How many headers, or blocks' receipts, are asked for at the same time.
const MAX_CONCURRENT_REQUESTS: usize = 16;
/// How often each is asked for, and how long to wait before the second time.
const ATTEMPTS: u32 = 4;
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// How many blocks are read before one commit applies them; other writers wait for that commit.
const MAX_RANGE_BLOCKS: usize = 512;
/// After a rejected range, how many requests must succeed before the range grows again.
const GROW_AFTER_SUCCESSES: u32 = 16;

/// Of how many blocks to ask for logs at once: fewer after a refusal, and later more again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeSize {
    blocks: usize,
    cooldown: u32,
}

impl Default for RangeSize {
    fn default() -> Self {
        Self { blocks: MAX_RANGE_BLOCKS, cooldown: 0 }
    }
}

impl RangeSize {
    /// It was too much. False if it can't be less.
    fn shrink(&mut self) -> bool {
        let possible = self.blocks > 1;
        *self = Self { blocks: (self.blocks / 2).max(1), cooldown: GROW_AFTER_SUCCESSES };
        possible
    }

    /// It went well.
    fn grow(&mut self) {
        match self.cooldown.checked_sub(1) {
            Some(cooldown) => self.cooldown = cooldown,
            None => self.blocks = self.blocks.saturating_mul(2).min(MAX_RANGE_BLOCKS),
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
    known: Block,
    to: u64,
    range_size: &mut RangeSize,
) -> Result<Vec<(FullBlock, Vec<Log>)>, FollowError> {
    let end = known.number.saturating_add(MAX_RANGE_BLOCKS as u64).min(to);
    let Some(headers) = headers(node, known, end).await? else { return Ok(Vec::new()) };
    let mut found = Vec::with_capacity(headers.len());
    while let Some(rest) = headers.get(found.len()..).filter(|rest| !rest.is_empty()) {
        let part = rest.get(..range_size.blocks).unwrap_or(rest);
        match logs(node, contract, part).await {
            Ok(logs) => {
                range_size.grow();
                found.extend(logs);
            }
            // Providers have many words for "too much": whatever they refuse, they may not refuse a part of it.
            Err(
                FollowError::Rpc(RpcError::TooLarge { .. } | RpcError::Refused { .. })
                | FollowError::LogsMissing { .. },
            ) if range_size.shrink() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(headers.into_iter().zip(found).collect())
}

/// The headers after `known` up to a height, linked by hash; `None` if they do not continue it.
async fn headers(node: &Node, known: Block, end: u64) -> Result<Option<Vec<FullBlock>>, FollowError> {
    let heights = known.number.saturating_add(1)..=end;
    let headers: Vec<FullBlock> = stream::iter(heights)
        .map(|height| header(node, height))
        .buffered(MAX_CONCURRENT_REQUESTS)
        .try_collect()
        .await?;
    let mut last = known;
    for header in &headers {
        let block = header.block;
        if block.parent != last.hash || Some(block.number) != last.number.checked_add(1) {
            // The chain may have changed above what is known, or while it was read.
            return if last.hash == known.hash { Ok(None) } else { Err(FollowError::BlockLost(block.parent)) };
        }
        last = block;
    }
    Ok(Some(headers))
}

async fn header(node: &Node, height: u64) -> Result<FullBlock, FollowError> {
    let block = with_retry(|| async move { Ok(node.block(height).await?) }).await?;
    Ok(block.ok_or_else(|| RpcError::NoSuchBlock {
        method: "eth_getBlock",
        message: format!("no block {height} below its head"),
    })?)
}

/// Asks again. A lost answer among hundreds is no reason to read the others again.
async fn with_retry<T, F>(ask: impl Fn() -> F) -> Result<T, FollowError>
where
    F: Future<Output = Result<T, FollowError>>,
{
    let mut attempt = 1;
    loop {
        match ask().await {
            Err(FollowError::Rpc(RpcError::NoAnswer { .. })) if attempt < ATTEMPTS => {
                tokio::time::sleep(RETRY_DELAY.saturating_mul(attempt)).await;
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

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
        return Err(FollowError::BlockLost(hash));
    }

    // An answer that was cut off ends within a block: that one is asked for by itself.
    let cut_off = logs.iter().rposition(|of_block| !of_block.is_empty());
    if let Some((header, of_block)) = cut_off.and_then(|place| Some((headers.get(place)?, logs.get(place)?))) {
        let Block { number, hash, .. } = header.block;
        if node.logs(contract, hash).await?.len() != of_block.len() {
            return Err(FollowError::LogsMissing { number, hash });
        }
    }
    let in_question: Vec<_> =
        headers.iter().zip(&logs).filter(|(header, of_block)| !are_none(contract, header, of_block)).collect();
    for some in in_question.chunks(MAX_CONCURRENT_REQUESTS) {
        let checks = some.iter().map(|(header, logs)| with_retry(|| check(node, contract, header, logs)));
        try_join_all(checks).await?;
    }
    Ok(logs)
}

#[cfg(test)]
mod tests;
