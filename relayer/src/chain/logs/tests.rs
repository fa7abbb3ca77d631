//! Logs of nodes that follow scripts.

use alloy::rpc::types::Log as RpcLog;

use super::*;
use crate::chain::rpc::scripted::{CONTRACT, Scripted};

/// The result for a block with this many logs if the node garbles them like this.
async fn checked(logs: u64, garble: fn(&mut Vec<RpcLog>), also: fn(&Scripted)) -> Result<usize, FollowError> {
    let scripted = Scripted::start(5).await;
    scripted.set_logs(5, logs);
    scripted.script().garbles = Some(garble);
    also(&scripted);
    let (node, hash) = (scripted.node(), scripted.block(5).hash);
    let header = node.block(hash).await?.unwrap();
    let logs = node.logs(CONTRACT, hash).await?;
    check(&node, CONTRACT, &header, &logs).await.map(|()| logs.len())
}

#[tokio::test]
async fn block_logs_match_receipts_of_any_type() {
    for logs in 0..4 {
        assert_eq!(checked(logs, |_| {}, |_| {}).await.unwrap() as u64, logs);
    }
}

#[tokio::test]
async fn a_log_that_is_left_out_is_missed_wherever_it_stood() {
    let leave_out: [fn(&mut Vec<RpcLog>); 5] = [
        |logs| logs.clear(),
        |logs| logs.truncate(1),
        |logs| _ = logs.pop(),
        |logs| _ = logs.remove(0),
        |logs| _ = logs.remove(1),
    ];
    for (place, garble) in leave_out.into_iter().enumerate() {
        let checked = checked(3, garble, |_| {}).await;
        assert!(matches!(checked, Err(FollowError::LogsMissing { number: 5, .. })), "{place}: {checked:?}");
    }
}

#[tokio::test]
async fn logs_of_another_block_are_noticed() {
    type Garble = fn(&mut Vec<RpcLog>);
    let garbles: [(Garble, &str); 7] = [
        (|logs| logs.push(logs[1].clone()), "comes twice"),
        (|logs| logs.swap(0, 1), "not in order"),
        (|logs| logs[1].inner.data.data = Bytes::from([1]), "not those of its receipts"),
        (|logs| logs[1].inner.data = Default::default(), "not those of its receipts"),
        (|logs| logs[0].transaction_hash = Some(B256::repeat_byte(9)), "does not hold"),
        (|logs| logs[0].inner.address = Address::repeat_byte(9), "another contract"),
        (|logs| logs[0].block_hash = Some(B256::repeat_byte(9)), "another block"),
    ];
    for (garble, what) in garbles {
        let error = checked(2, garble, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_node_without_receipts_of_whole_blocks_is_taken_at_its_word() {
    let lacks = |scripted: &Scripted| scripted.script().lacks = vec!["eth_getBlockReceipts"];
    assert_eq!(checked(2, |_| {}, lacks).await.unwrap(), 2);
    assert_eq!(checked(2, |logs| logs.clear(), lacks).await.unwrap(), 0);
    // What shows without them.
    checked(2, |logs| logs.push(logs[1].clone()), lacks).await.unwrap_err();
}

#[tokio::test]
async fn a_place_that_receipts_count_anew_is_no_contradiction() {
    let counts_elsewhere = |logs: &mut Vec<RpcLog>| {
        for log in logs {
            log.log_index = log.log_index.map(|index| index + 40);
        }
    };
    assert_eq!(checked(3, counts_elsewhere, |_| {}).await.unwrap(), 3);
}
