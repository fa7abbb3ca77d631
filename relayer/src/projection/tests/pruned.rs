//! What is removed once it is final for long, and that nothing is lost by it.

use super::*;
use crate::ledger::rebuild;

/// Final blocks that are kept, with the bytes of the transactions in them.
const KEPT: u64 = 256;

/// A ledger whose first transaction paid two payments, in a block that is no longer kept.
fn long_after() -> (Scene, B256) {
    let mut scene = Scene::new(GUARDIAN);
    scene.admit(0, 100, DEADLINE);
    scene.admit(1, 50, DEADLINE);
    let hash = scene.submit(0, &[0, 1]);
    scene.mine_with(vec![spent(0, 100, hash), spent(1, 50, hash)], vec![hash]);
    for _ in 0..KEPT {
        scene.mine(Vec::new());
    }
    scene.finalize();
    assert!(!is_pruned(&scene, hash), "a block that is kept");
    scene.mine(Vec::new());
    scene.finalize();
    assert!(is_pruned(&scene, hash));
    (scene, hash)
}

fn tx(scene: &Scene, hash: B256) -> transactions::TransactionRow {
    transactions::of_attempt(&scene.ledger, hash).unwrap().unwrap()
}

fn is_pruned(scene: &Scene, hash: B256) -> bool {
    let tx = tx(scene, hash);
    let attempts = transactions::attempts(&scene.ledger, tx.id).unwrap();
    let is_gone = |hash| transactions::raw(&scene.ledger, hash).unwrap().is_empty();
    assert_eq!(attempts.iter().all(|attempt| is_gone(attempt.hash)), tx.pruned);
    tx.pruned
}

/// Starts the chain anew under the ledger, as a repair does.
fn forget(scene: &mut Scene) {
    let terms = scene.mandate().terms;
    rebuild::forget_chain(&scene.ledger, 0).unwrap();
    let genesis = Block { number: 0, hash: B256::repeat_byte(0xfe), parent: B256::ZERO, time: 0 };
    blocks::restart_at(&scene.ledger, genesis).unwrap();
    scene.allow(SUBMITTER);
    scene.mine(opened(0x11, &terms));
}

#[test]
fn the_bytes_of_a_transaction_go_when_its_block_does_and_a_rebuilt_ledger_knows_it_all_the_same() {
    let (mut scene, hash) = long_after();
    forget(&mut scene);
    assert_eq!(scene.state(0).0, PaymentState::Submitted);
    scene.mine_with(vec![spent(0, 100, hash), spent(1, 50, hash)], vec![hash]);
    scene.finalize();
    assert_eq!([0, 1].map(|nonce| scene.state(nonce).0), [PaymentState::Settled; 2]);
    assert_eq!(scene.money(), [850, 0, 150, 0]);
    assert_eq!(tx(&scene, hash).cost, Some(7));
}

/// A chain that lost blocks that were final for long.
#[test]
fn a_transaction_that_has_to_be_made_again_without_its_bytes_gives_its_payments_back() {
    let (mut scene, hash) = long_after();
    forget(&mut scene);
    let lost = tx(&scene, hash);
    assert_eq!(transactions::pending(&scene.ledger).unwrap().len(), 1);
    assert!(transactions::is_obsolete(&scene.ledger, &lost).unwrap(), "only its nonce is to be used up");
    let raw = Bytes::from_static(&[0xca]);
    let cancel = Attempt { hash: keccak256(&raw), raw, max_fee: 2, priority_fee: 2, sent_at: 3, cancels: true };
    let hash = cancel.hash;
    transactions::add_attempt(&scene.ledger, lost.id, &cancel).unwrap();
    let attempts = transactions::attempts(&scene.ledger, lost.id).unwrap();
    assert_eq!(attempts.iter().map(|attempt| attempt.cancels).collect::<Vec<_>>(), [false, true]);
    scene.mine_with(Vec::new(), vec![hash]);
    scene.finalize();
    assert_eq!([0, 1].map(|nonce| scene.state(nonce).0), [PaymentState::Reserved; 2]);

    let again = scene.submit(1, &[0, 1]);
    scene.mine_with(vec![spent(0, 100, again), spent(1, 50, again)], vec![again]);
    scene.finalize();
    assert_eq!(scene.money(), [850, 0, 150, 0]);
}

/// What a ledger from before was never rid of goes little by little.
#[test]
fn a_commit_prunes_only_so_many() {
    let mut scene = Scene::new(GUARDIAN);
    let hashes: Vec<B256> = (0..100)
        .map(|nonce| {
            scene.admit(u32::try_from(nonce).unwrap(), 1, DEADLINE);
            scene.submit(nonce, &[u32::try_from(nonce).unwrap()])
        })
        .collect();
    let logs = (0..).zip(&hashes).map(|(nonce, hash)| spent(nonce, 1, *hash)).collect();
    scene.mine_with(logs, hashes.clone());
    for _ in 0..=KEPT {
        scene.mine(Vec::new());
    }
    scene.finalize();
    let pruned = |scene: &Scene| hashes.iter().filter(|hash| is_pruned(scene, **hash)).count();
    assert_eq!(pruned(&scene), 64);
    scene.mine(Vec::new());
    scene.finalize();
    assert_eq!(pruned(&scene), 100);
}
