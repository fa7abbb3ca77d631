//! What is held when nobody captures or releases it: from captureEnd on it is swept.

use super::*;

const CAPTURE_END: Seconds = 30_000;

fn to_sweep(scene: &Scene) -> usize {
    let head = blocks::head(&scene.ledger).unwrap().unwrap();
    mandates::to_sweep(&scene.ledger, GUARDIAN, Amount::ZERO, head.time).unwrap().len()
}

/// A sweep that waits in the pool; whether nothing can come of it.
fn sweep(scene: &Scene) -> impl Fn(&Scene) -> bool + use<> {
    let raw = Bytes::from_static(&[0xcc]);
    let attempt = Attempt { hash: keccak256(&raw), raw, max_fee: 1, priority_fee: 1, sent_at: 3, cancels: false };
    let kind = Kind::Sweep(MANDATE);
    let new = New { submitter: SUBMITTER, nonce: 0, kind, calldata: Bytes::new(), gas_limit: 1, attempt };
    let tx = transactions::insert(&scene.ledger, &new).unwrap();
    move |scene| {
        let tx = transactions::by_id(&scene.ledger, tx).unwrap().unwrap();
        transactions::is_obsolete(&scene.ledger, &tx).unwrap()
    }
}

/// Cards that nobody closes, or a hold that has no row here; under a mandate that was revoked before,
/// or that only expired.
#[test]
fn what_only_holds_are_left_of_is_swept_from_its_capture_end_on() {
    for (with_row, revoked_before) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut scene = Scene::new(GUARDIAN);
        let amount = if revoked_before { 250 } else { 1_000 };
        let id = with_row.then(|| admit_card(&scene, 0, amount, DEADLINE));
        scene.mine(vec![held(0, amount)]);
        scene.finalize();
        if let Some(id) = id {
            walk(&scene, id, &[CardState::Held, CardState::Active]);
        }
        if revoked_before {
            scene.mine([revoked(), vec![returned(750)]].concat());
        }
        scene.mine_at(CAPTURE_END - 1, Vec::new());
        scene.finalize();
        assert_eq!(to_sweep(&scene), 0, "captures come first");
        scene.mine_at(CAPTURE_END, Vec::new());
        assert_eq!(to_sweep(&scene), 0, "not before that is final");
        scene.finalize();
        assert_eq!(to_sweep(&scene), 1);
        let is_obsolete = sweep(&scene);
        assert!(!is_obsolete(&scene));
        assert_eq!(to_sweep(&scene), 0, "one transaction at a time");

        let hash = keccak256([0xcc]);
        let swept = Log { tx_hash: hash, ..swept(0, amount) };
        scene.mine_with(vec![swept.clone()], vec![hash]);
        scene.unmine();
        assert!(!is_obsolete(&scene));
        scene.mine_with(vec![swept], vec![hash]);
        scene.finalize();
        assert_eq!(scene.money(), [0, 0, 0, 1_000]);
        assert!(scene.balances().held.is_zero() && is_obsolete(&scene));
        assert_eq!(to_sweep(&scene), 0);
    }
}
