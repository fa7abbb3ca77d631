//! A roll ends one mandate, and what it had left is part of the cap of another.

use stipend_core::{Intent, intent::Policy};

use super::*;

const NEXT: MandateId = MandateId(B256::repeat_byte(0x22));

/// The events of a roll, in the contract's order, to a mandate on changed terms.
fn roll(scene: &Scene, carried: u64, excess: u64, change: impl FnOnce(&mut Terms)) -> Vec<Log> {
    let mut terms = scene.mandate().terms;
    change(&mut terms);
    let rolled = MandateEscrow::Rolled { from: MANDATE.0, to: NEXT.0, carried };
    let mut logs = [opened(0x22, &terms), vec![log(&rolled, B256::ZERO)]].concat();
    logs.extend((excess != 0).then(|| returned(excess)));
    logs
}

fn next(scene: &Scene) -> Option<mandates::MandateRow> {
    mandates::get(&scene.ledger, NEXT).unwrap()
}

fn carried(scene: &Scene) -> u64 {
    scene.balances().carried.units()
}

#[test]
fn a_roll_ends_the_mandate_at_once_and_fails_what_waits_when_it_is_final() {
    let mut scene = Scene::new(GUARDIAN);
    scene.admit(0, 100, DEADLINE);
    scene.admit(1, 50, DEADLINE);
    let hash = scene.submit(0, &[0]);
    scene.mine_with(vec![spent(0, 100, hash)], vec![hash]);
    let logs = roll(&scene, 900, 0, |terms| terms.cap = usdc(1_500));
    scene.mine(logs.clone());
    assert!(scene.mandate().ended.is_some());
    assert_eq!((scene.state(1).0, carried(&scene)), (PaymentState::Reserved, 0));

    scene.unmine();
    assert!(scene.mandate().ended.is_none() && next(&scene).unwrap().opened.is_none());

    scene.mine(logs);
    scene.finalize();
    assert_eq!(scene.state(0).0, PaymentState::Settled);
    assert_eq!(scene.state(1), (PaymentState::Failed, Some(Code::Ended)));
    assert_eq!((scene.money(), carried(&scene)), ([0, 0, 100, 0], 900));
    let next = next(&scene).unwrap();
    assert!(next.opened.is_some() && next.ended.is_none());
    assert_eq!((next.balances.cap, next.balances.available), (usdc(1_500), usdc(1_500)));
    let trail = feed::tests::all(&scene.ledger, Address::repeat_byte(1), None);
    let kinds: Vec<_> = trail.iter().filter(|entry| entry.mandate == Some(MANDATE)).map(|entry| &*entry.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "mandate.rolled").count(), 2, "{kinds:?}");
}

#[test]
fn what_the_new_cap_has_no_room_for_is_returned() {
    let mut scene = Scene::new(GUARDIAN);
    let logs = roll(&scene, 300, 700, |terms| terms.cap = usdc(300));
    scene.mine(logs);
    scene.finalize();
    assert_eq!((scene.money(), carried(&scene)), ([0, 0, 0, 700], 300));
    assert_eq!(next(&scene).unwrap().balances.available, usdc(300));
}

/// What was carried is nothing to sweep; what is released from a hold later is.
#[test]
fn holds_stay_with_the_mandate_that_was_rolled() {
    let mut scene = Scene::new(GUARDIAN);
    scene.mine(vec![held(0, 200)]);
    mandates::set_examined(&scene.ledger, MANDATE, true).unwrap();
    scene.finalize();
    let logs = roll(&scene, 800, 0, |terms| terms.expiry += 1);
    scene.mine(logs);
    scene.finalize();
    let to_sweep = |scene: &Scene| {
        let due = mandates::to_sweep(&scene.ledger, GUARDIAN, usdc(1), 0).unwrap();
        due.into_iter().map(|mandate| mandate.id).collect::<Vec<_>>()
    };
    assert_eq!((scene.balances().held, carried(&scene)), (usdc(200), 800));
    assert!(to_sweep(&scene).is_empty());
    let released = MandateEscrow::Released { mandate: MANDATE.0, amount: 200, nonce: 0 };
    scene.mine(vec![log(&released, B256::ZERO)]);
    scene.finalize();
    assert_eq!((scene.money(), to_sweep(&scene)), ([200, 0, 0, 0], vec![MANDATE]));
    scene.mine(vec![returned(200)]);
    scene.finalize();
    assert_eq!((scene.money(), carried(&scene)), ([0, 0, 0, 200], 800));
    assert!(to_sweep(&scene).is_empty());
}

#[test]
fn a_roll_to_another_guardian_is_followed_no_further() {
    let mut scene = Scene::new(GUARDIAN);
    let logs = roll(&scene, 1_000, 0, |terms| terms.guardian = Address::repeat_byte(0x99));
    scene.mine(logs);
    scene.finalize();
    assert_eq!((scene.money(), carried(&scene)), ([0, 0, 0, 0], 1_000));
    assert!(next(&scene).is_none());
}

#[test]
fn a_rebuild_books_a_roll_anew() {
    let mut scene = Scene::new(GUARDIAN);
    let first = scene.mandate().terms;
    let logs = roll(&scene, 600, 400, |terms| terms.cap = usdc(600));
    scene.mine(logs.clone());
    scene.finalize();
    crate::ledger::rebuild::forget_chain(&scene.ledger, 0).unwrap();
    assert_eq!((scene.money(), carried(&scene)), ([1_000, 0, 0, 0], 0));
    let genesis = Block { number: 0, hash: B256::repeat_byte(0xfe), parent: B256::ZERO, time: 0 };
    blocks::restart_at(&scene.ledger, genesis).unwrap();
    scene.mine(opened(0x11, &first));
    scene.mine(logs);
    scene.finalize();
    assert_eq!((scene.money(), carried(&scene)), ([0, 0, 0, 400], 600));
    assert!(scene.mandate().ended.is_some());
}

/// The request is the old agent's; what the new one may do is in the same document.
#[test]
fn the_next_mandate_has_the_intent_that_it_commits_to() {
    let intent = Intent { version: 1, purpose: "ads".into(), policy: Policy::default(), nonce: B256::repeat_byte(3) };
    for (commits, inherits) in [(intent.hash(), true), (B256::repeat_byte(4), false)] {
        let mut scene = Scene::with(GUARDIAN, |terms| terms.intent = intent.hash());
        let document = serde_json::to_string(&intent).unwrap();
        scene.ledger.execute("UPDATE mandate SET intent = ?", [document]).unwrap();
        let logs = roll(&scene, 1_000, 0, |terms| {
            (terms.agent, terms.intent) = (Address::repeat_byte(7), commits);
        });
        scene.mine(logs);
        assert_eq!(next(&scene).unwrap().intent.is_some(), inherits);
        scene.finalize();
    }
}
