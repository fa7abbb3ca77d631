//! Ranges against a node that follows a script.

use alloy_primitives::B256;

use super::*;
use crate::chain::rpc::scripted::{CONTRACT, Scripted};

/// Everything above the first block, by as many ranges as it takes.
async fn all(scripted: &Scripted) -> Result<Vec<(u64, usize)>, FollowError> {
    let (node, to) = (scripted.node(), scripted.script().chain.len() as u64 - 1);
    let (mut known, mut range_size, mut found) = (scripted.block(0), RangeSize::default(), Vec::new());
    while known.number < to {
        let range = range(&node, CONTRACT, known, to, &mut range_size).await?;
        known = range.last().expect("it goes on").0.block;
        found.extend(range.into_iter().map(|(header, logs)| (header.block.number, logs.len())));
    }
    Ok(found)
}

fn expected(scripted: &Scripted) -> Vec<(u64, usize)> {
    let script = scripted.script();
    script.chain.iter().skip(1).map(|made| (made.block.number, made.logs as usize)).collect()
}

async fn with_logs(blocks: u64, logs: &[(usize, u64)]) -> Scripted {
    let scripted = Scripted::start(blocks).await;
    logs.iter().for_each(|(number, count)| scripted.set_logs(*number, *count));
    scripted
}

#[tokio::test]
async fn every_block_comes_once_in_order_with_its_logs() {
    let scripted = with_logs(1_300, &[(1, 1), (512, 2), (513, 1), (1_300, 3)]).await;
    assert_eq!(all(&scripted).await.unwrap(), expected(&scripted));
    assert_eq!(scripted.ranges(), [512, 512, 276]);
}

#[tokio::test]
async fn a_range_that_is_refused_is_split_and_ranges_grow_again() {
    let scripted = with_logs(900, &[(7, 1), (130, 2), (800, 1)]).await;
    scripted.script().max_range = Some(100);
    assert_eq!(all(&scripted).await.unwrap(), expected(&scripted));
    let ranges = scripted.ranges();
    assert_eq!(ranges[..4], [512, 256, 128, 64]);
    // Calm for a while, then more again, which is refused once.
    assert_eq!(ranges.iter().filter(|blocks| **blocks > 100).count(), 3, "{ranges:?}");

    // The limit is gone: what was split grows to the full size.
    let (node, mut range_size) = (scripted.node(), RangeSize { blocks: 1, cooldown: 0 });
    scripted.script().max_range = None;
    range(&node, CONTRACT, scripted.block(0), 900, &mut range_size).await.unwrap();
    assert_eq!(range_size.blocks, MAX_RANGE_BLOCKS);
}

#[tokio::test]
async fn a_range_is_split_in_whatever_words_it_is_refused() {
    for words in [
        "invalid params: range 512 exceeds limit of 10",
        "limit exceeded",
        "Please specify less number of addresses or blocks",
        "exceeded maximum allowed",
        "internal error",
    ] {
        let scripted = with_logs(60, &[(7, 1), (30, 2)]).await;
        (scripted.script().max_range, scripted.script().range_error) = (Some(10), Some(words));
        assert_eq!(all(&scripted).await.unwrap(), expected(&scripted), "{words}");
    }
}

#[tokio::test]
async fn a_node_that_refuses_every_range_is_asked_block_by_block() {
    let scripted = with_logs(9, &[(2, 1), (9, 1)]).await;
    scripted.script().max_range = Some(0);
    assert_eq!(all(&scripted).await.unwrap(), expected(&scripted));
}

#[tokio::test]
async fn truncated_logs_are_noticed_between_and_within_blocks() {
    for most in 0..=7 {
        let scripted = with_logs(40, &[(3, 2), (4, 2), (30, 3)]).await;
        scripted.script().max_logs = Some(most);
        assert_eq!(all(&scripted).await.unwrap(), expected(&scripted), "{most}");
    }
}

#[tokio::test]
async fn logs_that_a_node_has_forgotten_are_missed() {
    let scripted = with_logs(40, &[(3, 1), (17, 1), (30, 1)]).await;
    scripted.script().forgets = vec![17];
    assert!(matches!(all(&scripted).await, Err(FollowError::LogsMissing { number: 17, .. })));
}

#[tokio::test]
async fn a_log_that_is_left_out_in_the_middle_of_a_range_is_missed() {
    let scripted = with_logs(40, &[(3, 1), (17, 3), (30, 1)]).await;
    scripted.script().garbles = Some(|logs| logs.truncate(2));
    assert!(matches!(all(&scripted).await, Err(FollowError::LogsMissing { number: 17, .. })));
}

#[tokio::test]
async fn many_blocks_with_logs_are_checked_although_answers_are_lost() {
    let blocks: Vec<_> = (1..=400).map(|block| (block, 2)).collect();
    let scripted = with_logs(400, &blocks).await;
    scripted.script().lose_every = Some(50);
    assert_eq!(all(&scripted).await.unwrap(), expected(&scripted));
}

#[tokio::test]
async fn a_bloom_that_speaks_of_nothing_costs_one_question() {
    let scripted = with_logs(20, &[(5, 1)]).await;
    let (node, header) = (scripted.node(), scripted.node().block(5).await.unwrap().unwrap());
    scripted.set_logs(5, 0);
    assert!(header.may_hold_logs_of(CONTRACT));
    check(&node, CONTRACT, &header, &[]).await.unwrap();
    assert_eq!(scripted.script().asked.last().unwrap().0, "eth_getBlockReceipts");
}

#[tokio::test]
async fn a_chain_that_took_another_way_gives_nothing() {
    let scripted = Scripted::start(5).await;
    let mut known = scripted.block(0);
    known.hash = B256::repeat_byte(9);
    let range = range(&scripted.node(), CONTRACT, known, 5, &mut RangeSize::default()).await.unwrap();
    assert!(range.is_empty());
}
