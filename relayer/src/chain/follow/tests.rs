//! Steps between nodes that follow scripts.

use alloy_primitives::Address;
use alloy_sol_types::SolEvent;
use stipend_bindings::abi::MandateEscrow;
use stipend_core::Deployment;
use url::Url;

use super::*;
use crate::chain::rpc::scripted::{CONTRACT, Scripted};

/// A follower on an empty ledger, with finality two blocks deep.
fn follower(nodes: &[&Scripted]) -> (Follower, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let urls: Vec<Url> = nodes.iter().map(|node| node.url.clone()).collect();
    let alarms = Alarms::default();
    let deployment =
        Deployment { chain_id: 1, escrow: CONTRACT, token: Address::ZERO, guardian: Address::repeat_byte(0xcc) };
    let follower = Follower {
        rpc: Rpc::new(&urls, 1, alarms.clone()).unwrap(),
        ledger: Ledger::open(&dir.path().join("ledger.db"), deployment).unwrap(),
        projector: Projector { deployment },
        finality: Finality::Depth(2),
        poll: Duration::from_millis(1),
        alarms,
        gas_used: GasUsed::default(),
    };
    (follower, dir)
}

impl Follower {
    /// Steps until the head of a node is reached.
    async fn reach(&self) -> Result<u64, FollowError> {
        let mut range_size = RangeSize::default();
        loop {
            let (head, caught_up) = self.advance(&mut range_size).await?;
            if caught_up {
                return Ok(head.block.number);
            }
        }
    }

    fn alarm(&self) -> String {
        self.alarms.view().alarms.join("\n")
    }
}

#[tokio::test]
async fn it_reads_on_from_another_node_when_the_preferred_one_fails() {
    let (first, second) = (Scripted::start(200).await, Scripted::start(201).await);
    let (follower, _dir) = follower(&[&first, &second]);
    assert_eq!(follower.catch_up(Some(0)).await.unwrap().block.number, 200);
    assert_eq!(second.script().asked.len(), 0);
    first.script().fails = vec![("eth_getBlockByNumber", 500)];
    follower.reach().await.unwrap_err();
    assert_eq!(follower.reach().await.unwrap(), 201);
    // The first one is back, a block behind: nothing is gone.
    first.script().fails = Vec::new();
    second.script().fails = vec![("eth_getBlockByNumber", 500)];
    follower.reach().await.unwrap_err();
    assert_eq!(follower.reach().await.unwrap(), 201);
}

#[tokio::test]
async fn lost_answers_do_not_keep_it_from_catching_up() {
    let node = Scripted::start(1_200).await;
    let (follower, _dir) = follower(&[&node]);
    node.script().lose_every = Some(300);
    assert_eq!(follower.catch_up(Some(0)).await.unwrap().block.number, 1_200);
}

#[tokio::test]
async fn a_node_alone_that_gives_up_a_final_block_stops_it() {
    let node = Scripted::start(20).await;
    let (follower, _dir) = follower(&[&node]);
    follower.catch_up(Some(0)).await.unwrap();
    node.script().chain.truncate(15);
    node.mine(10, 1);
    let error = follower.reach().await.unwrap_err();
    assert!(matches!(error, FollowError::PastFinality { number: 18, .. }), "{error}");
    assert!(error.to_string().contains("`stipend ledger repair`"));
    // And again, with the same ledger.
    assert!(matches!(follower.catch_up(None).await, Err(FollowError::PastFinality { number: 18, .. })));
}

#[tokio::test]
async fn a_node_that_alone_gives_up_a_final_block_is_set_aside() {
    let (first, second) = (Scripted::start(20).await, Scripted::start(20).await);
    let (follower, _dir) = follower(&[&first, &second]);
    follower.catch_up(Some(0)).await.unwrap();
    first.script().chain.truncate(15);
    first.mine(10, 1);
    second.mine(1, 0);
    assert!(matches!(follower.reach().await, Err(FollowError::Contradiction { number: 18, .. })));
    assert_eq!(follower.reach().await.unwrap(), 21);
    assert!(follower.alarm().contains("hold another chain"), "{}", follower.alarm());

    // Both do: that is a reorg past finality, whatever was believed.
    second.script().chain.truncate(15);
    second.mine(10, 1);
    assert!(matches!(follower.reach().await, Err(FollowError::PastFinality { number: 19, .. })));
}

#[tokio::test]
async fn a_node_that_leaves_out_logs_is_set_aside() {
    let (first, second) = (Scripted::start(10).await, Scripted::start(10).await);
    let (follower, _dir) = follower(&[&first, &second]);
    follower.catch_up(Some(0)).await.unwrap();
    for node in [&first, &second] {
        node.mine(1, 0);
        node.set_logs(11, 1);
    }
    first.script().forgets = vec![11];
    assert!(matches!(follower.reach().await, Err(FollowError::LogsMissing { number: 11, .. })));
    assert_eq!(follower.reach().await.unwrap(), 11);
    assert!(follower.alarm().contains("leaves out logs of block 11"), "{}", follower.alarm());
}

#[tokio::test]
async fn incomplete_or_duplicate_logs_quarantine_the_node() {
    type Garble = fn(&mut Vec<alloy::rpc::types::Log>);
    let garbles: [(Garble, &str); 2] =
        [(|logs| logs.truncate(1), "leaves out logs"), (|logs| logs.push(logs[0].clone()), "comes twice")];
    for (garble, said) in garbles {
        let (first, second) = (Scripted::start(10).await, Scripted::start(10).await);
        let (follower, _dir) = follower(&[&first, &second]);
        follower.catch_up(Some(0)).await.unwrap();
        first.script().garbles = Some(garble);
        for node in [&first, &second] {
            node.mine(1, 0);
            node.set_logs(11, 3);
        }
        follower.reach().await.unwrap_err();
        assert_eq!(follower.reach().await.unwrap(), 11);
        assert!(follower.alarm().contains(said), "{}", follower.alarm());
        let logs = "SELECT count(*) FROM log WHERE number = 11";
        let stored = follower.ledger.read(move |ledger| Ok(ledger.query_row(logs, [], |row| row.get::<_, u64>(0))?));
        assert_eq!(stored.await.unwrap(), 3);
    }
}

#[tokio::test]
async fn rejected_blocks_quarantine_the_node_unless_it_is_the_last() {
    let (first, second) = (Scripted::start(10).await, Scripted::start(10).await);
    let (follower, _dir) = follower(&[&first, &second]);
    follower.catch_up(Some(0)).await.unwrap();
    // No ledger has room for such a place.
    first.script().log_index = Some(u64::MAX);
    for node in [&first, &second] {
        node.mine(1, 0);
        node.set_logs(11, 1);
    }
    assert!(matches!(follower.reach().await, Err(FollowError::RejectedByLedger { number: 11, .. })));
    assert!(follower.alarm().contains("can't be booked"), "{}", follower.alarm());
    assert_eq!(follower.reach().await.unwrap(), 11);

    second.script().log_index = Some(u64::MAX);
    second.mine(1, 0);
    second.set_logs(12, 1);
    for _ in 0..3 {
        assert!(matches!(follower.reach().await, Err(FollowError::RejectedByLedger { number: 12, .. })));
    }
    second.script().log_index = None;
    assert_eq!(follower.reach().await.unwrap(), 12);
}

/// A crash has left a block half mined, and the rest of what it says can't be projected.
#[tokio::test]
async fn a_half_mined_block_that_cannot_be_finished_is_taken_back_and_another_one_followed() {
    let node = Scripted::start(10).await;
    let (follower, _dir) = follower(&[&node]);
    follower.catch_up(Some(0)).await.unwrap();
    let allowed = MandateEscrow::SubmitterSet {
        guardian: follower.projector.deployment.guardian,
        submitter: Address::repeat_byte(7),
        allowed: true,
    };
    let allowed = allowed.encode_log_data();
    let log = |index, topics| Log { index, tx_hash: B256::ZERO, topics, data: allowed.data.clone() };
    let logs = vec![log(0, Vec::new()), log(1, allowed.topics().to_vec())];
    let projector = follower.projector;
    let half = follower.ledger.writer().write(move |ledger| {
        ledger.execute_batch(
            "CREATE TRIGGER refused BEFORE INSERT ON submitter BEGIN SELECT raise(ABORT, 'made up'); END",
        )?;
        let ancestor = blocks::head(ledger)?.unwrap();
        let block = Block { number: 11, hash: B256::repeat_byte(0x11), parent: ancestor.hash, time: ancestor.time + 1 };
        let update =
            ChainUpdate { ancestor, committed: vec![MinedBlock { block, logs, receipts: Vec::new() }], finalized: 0 };
        // Both logs are stored, and the first one is projected.
        projector.apply(ledger, &update, Progress::default(), &mut Slice::Rows(3), 0)
    });
    assert!(matches!(half.await.unwrap(), Outcome::Paused(_)));
    node.mine(1, 0);
    assert_eq!(follower.reach().await.unwrap(), 11);
    let (top, left) =
        follower.ledger.read(|ledger| Ok((blocks::head(ledger)?, blocks::unfinished(ledger)?))).await.unwrap();
    assert_ne!(top.unwrap().hash, B256::repeat_byte(0x11));
    assert_eq!(left, None);
}

#[tokio::test]
async fn a_lie_while_it_catches_up_at_the_start_is_no_reason_to_stop() {
    let (first, second) = (Scripted::start(100).await, Scripted::start(100).await);
    for node in [&first, &second] {
        node.set_logs(50, 2);
        node.set_logs(99, 2);
    }
    first.script().garbles = Some(|logs| logs.truncate(1));
    let (several, _dir) = follower(&[&first, &second]);
    assert_eq!(several.catch_up(Some(0)).await.unwrap().block.number, 100);
    // With nobody else to ask it gives up in the end.
    let (alone, _dir) = follower(&[&first]);
    assert!(matches!(alone.catch_up(Some(0)).await, Err(FollowError::LogsMissing { number: 50, .. })));
}

#[tokio::test]
async fn a_reorg_while_away_is_walked_then_ranges_resume() {
    let node = Scripted::start(20).await;
    let (follower, _dir) = follower(&[&node]);
    follower.catch_up(Some(0)).await.unwrap();
    node.script().chain.truncate(19);
    node.mine(1_000, 1);
    assert_eq!(follower.catch_up(None).await.unwrap().block.number, 1_018);
    assert!(!node.ranges().is_empty());
}

#[tokio::test]
async fn without_a_final_block_it_does_not_start() {
    for start in [None, Some(0)] {
        let node = Scripted::start(20).await;
        let (follower, _dir) = follower(&[&node]);
        let follower = Follower { finality: Finality::Tag, ..follower };
        node.script().finalized = Some(None);
        let error = follower.catch_up(start).await.unwrap_err();
        assert!(matches!(error, FollowError::NoFinality), "{error}");
        assert!(error.to_string().contains("--finality"));
        assert!(follower.ledger.read(blocks::head).await.unwrap().is_none());
        // It is there, and later it is gone: nothing becomes final, and blocks are followed all the same.
        node.script().finalized = None;
        follower.catch_up(start).await.unwrap();
        node.script().finalized = Some(None);
        node.mine(5, 0);
        assert_eq!(follower.reach().await.unwrap(), 25);
        assert_eq!(follower.ledger.read(blocks::last_final).await.unwrap().unwrap().number, 18);
    }
}

#[tokio::test]
async fn a_final_block_of_another_chain_finalizes_nothing() {
    let (node, fork) = (Scripted::start(20).await, Scripted::start(15).await);
    fork.mine(10, 1);
    let (follower, _dir) = follower(&[&node]);
    let follower = Follower { finality: Finality::Tag, ..follower };
    follower.catch_up(Some(0)).await.unwrap();
    // On what is followed already, on what is new, and above it.
    for number in [19, 21] {
        node.script().finalized = Some(Some(fork.block(number)));
        node.mine(1, 0);
        let error = follower.reach().await.unwrap_err();
        assert!(matches!(error, FollowError::Contradiction { .. }), "{error}");
    }
    assert_eq!(follower.ledger.read(blocks::last_final).await.unwrap().unwrap().number, 18);
    node.script().finalized = Some(Some(node.block(21)));
    assert_eq!(follower.reach().await.unwrap(), 22);
    assert_eq!(follower.ledger.read(blocks::last_final).await.unwrap().unwrap().number, 21);
}
