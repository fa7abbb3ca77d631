//! Cards whose hold a reorg takes away, and the other branch does not make again.

use super::*;
use crate::ledger::window;
use crate::ledger::{journal, rebuild};

/// The states of a card that there is, or may be.
const ISSUED: [&[CardState]; 4] = [
    &[CardState::Held],
    &[CardState::Held, CardState::Active],
    &[CardState::Held, CardState::Active, CardState::Used],
    &[CardState::Held, CardState::Active, CardState::Used, CardState::Closing],
];

/// A card over 250 units that has gone so far when its hold is unmined.
fn unmined(scene: &mut Scene, deadline: Seconds, states: &[CardState]) -> stipend_core::CardId {
    let id = admit_card(scene, 0, 250, deadline);
    scene.mine(vec![held(0, 250)]);
    walk(scene, id, states);
    scene.unmine();
    id
}

fn shortfall(scene: &Scene) -> u64 {
    journal::host(&scene.ledger).unwrap().shortfall.units()
}

/// A cent in units: the least that an issuer takes, and more than these holds have.
const CENT: u64 = 10_000;

/// It is certain that so much is to be captured; if it is anything, the issuer has taken a cent.
fn finalize_with_issuer(scene: &Scene, id: stipend_core::CardId, to_capture: u64) {
    let seq = card(scene, id).seq;
    if to_capture > 0 {
        let event = charges::ChargeEvent {
            token: "event".into(),
            transaction: "transaction".into(),
            created: "2026-01-01T00:00:00Z".into(),
            kind: "CLEARING".into(),
            cents: 1,
            approved: true,
        };
        charges::ingest(&scene.ledger, seq, &[event]).unwrap();
    }
    cards::set_to_capture(&scene.ledger, seq, usdc(to_capture)).unwrap();
    cards::settle_accounts(&scene.ledger, seq, 0).unwrap();
    cards::finish(&scene.ledger, card(scene, id), None, None, 0).unwrap();
}

/// What counts in a rolling window of an hour.
fn counted(scene: &Scene) -> Vec<u64> {
    let usage = window::usage(&scene.ledger, &scene.mandate(), &[], 100).unwrap();
    let mined = usage.mined.iter().map(|mined| mined.amount);
    mined.chain(usage.pending.iter().map(|pending| pending.amount)).map(Amount::units).collect()
}

#[test]
fn a_hold_that_cannot_recur_returns_its_money() {
    let used = |nonce| vec![spent(nonce, 5, B256::ZERO)];
    for states in ISSUED {
        for (deadline, logs, reason, purse_after) in [
            (DEADLINE, revoked(), Code::Ended, [1_000, 0, 0, 0]),
            (5, Vec::new(), Code::DeadlinePassed, [1_000, 0, 0, 0]),
            (DEADLINE, used(0), Code::NonceUsed, [995, 0, 0, 5]),
            (DEADLINE, used(1_000), Code::NonceRetired, [995, 0, 0, 5]),
        ] {
            let windowed = |terms: &mut Terms| (terms.window, terms.window_cap) = (3_600, usdc(250));
            let mut scene = Scene::with(GUARDIAN, windowed);
            let id = unmined(&mut scene, deadline, states);
            scene.mine(logs);
            scene.mine(Vec::new());
            scene.mine(Vec::new());
            assert_eq!(purse(&scene), [750, 250, 0, 0], "{reason:?}: not before that is final");
            assert_eq!(Some(&card(&scene, id).state), states.last());
            assert!(counted(&scene).contains(&250));
            scene.finalize();
            assert!(!counted(&scene).contains(&250), "{reason:?} {states:?}");
            assert_eq!(purse(&scene), purse_after, "{reason:?} {states:?}");
            let lost = card(&scene, id);
            assert_eq!((lost.state, lost.released, lost.held), (CardState::Closing, usdc(250), None));
            if states.last() != Some(&CardState::Closing) {
                assert_eq!(lost.reason, Some(reason));
            }
            assert!(cards::to_hold(&scene.ledger, 0).unwrap().is_empty());
            assert!(cards::to_settle(&scene.ledger).unwrap().is_empty());
            finalize_with_issuer(&scene, id, 0);
            assert_eq!(card(&scene, id).state, CardState::Closed);
            assert!(!counted(&scene).contains(&250), "{reason:?} {states:?}");
        }
    }
}

#[test]
fn an_unbacked_clearing_is_at_the_cost_of_the_host() {
    for concluded_first in [true, false] {
        let mut scene = Scene::new(GUARDIAN);
        let id = unmined(&mut scene, DEADLINE, ISSUED[3]);
        if concluded_first {
            finalize_with_issuer(&scene, id, 184);
        }
        scene.mine([revoked(), vec![returned(1_000)]].concat());
        let beyond_hold = if concluded_first { CENT - 184 } else { 0 };
        assert_eq!((shortfall(&scene), card(&scene, id).state), (beyond_hold, CardState::Closing));
        scene.finalize();
        if !concluded_first {
            assert_eq!((shortfall(&scene), card(&scene, id).state), (0, CardState::Closing));
            finalize_with_issuer(&scene, id, 184);
        }
        assert_eq!((shortfall(&scene), card(&scene, id).state), (CENT, CardState::Closed));
        assert_eq!(scene.money(), [0, 0, 0, 1_000]);

        // Once, however often it is booked; and what another chain captures is none.
        for (logs, shortfall_after, money) in [
            ([revoked(), vec![returned(1_000)]].concat(), CENT, [0, 0, 0, 1_000]),
            (vec![held(0, 250), captured(0, 184), released(0, 66)], CENT - 184, [816, 0, 184, 0]),
        ] {
            rebuild::forget_chain(&scene.ledger, 0).unwrap();
            let genesis = Block { number: 0, hash: B256::repeat_byte(0xfe), parent: B256::ZERO, time: 0 };
            blocks::restart_at(&scene.ledger, genesis).unwrap();
            assert_eq!(scene.examine().differences(), 0);
            assert_eq!((shortfall(&scene), scene.money()), (CENT - 184, [750, 250, 0, 0]));
            let terms = scene.mandate().terms;
            scene.mine(opened(0x11, &terms));
            scene.mine(logs);
            scene.finalize();
            assert_eq!((shortfall(&scene), scene.money()), (shortfall_after, money));
            assert_eq!(card(&scene, id).state, CardState::Closed);
        }
    }
}

#[test]
fn an_unmined_hold_is_placed_again_while_useful() {
    for states in ISSUED {
        let mut scene = Scene::new(GUARDIAN);
        let id = unmined(&mut scene, DEADLINE, states);
        let waits = |scene: &Scene| cards::to_hold(&scene.ledger, 100).unwrap().len() == 1;
        assert!(waits(&scene), "{states:?}");
        // What would retire its nonce waits for it.
        assert_eq!(payments::lowest_needed(&scene.ledger, MANDATE, 100).unwrap(), Some(0));
        let seq = card(&scene, id).seq;
        cards::set_to_capture(&scene.ledger, seq, usdc(184)).unwrap();
        assert!(waits(&scene), "{states:?}");
        cards::set_to_capture(&scene.ledger, seq, Amount::ZERO).unwrap();
        assert!(!waits(&scene), "{states:?}: to be released at once");
    }
}

#[test]
fn a_hold_that_others_took_as_given_up_freezes_its_mandate() {
    let mut scene = Scene::new(GUARDIAN);
    let id = unmined(&mut scene, 5, ISSUED[1]);
    for _ in 0..3 {
        scene.mine(Vec::new());
    }
    scene.finalize();
    assert_eq!(card(&scene, id).released, usdc(250));
    scene.mine(vec![held(0, 250)]);
    assert!(scene.mandate().frozen.is_some() && card(&scene, id).held.is_none());
    scene.finalize();
    assert_eq!(purse(&scene), [750, 0, 250, 0]);
}

#[test]
fn a_transaction_for_a_hold_that_was_given_up_is_pointless() {
    let mut scene = Scene::new(GUARDIAN);
    let id = unmined(&mut scene, DEADLINE, ISSUED[2]);
    let raw = Bytes::from_static(&[0xcb]);
    let attempt = Attempt { hash: keccak256(&raw), raw, max_fee: 1, priority_fee: 1, sent_at: 3, cancels: false };
    let new = New {
        submitter: SUBMITTER,
        nonce: 0,
        kind: Kind::Hold(card(&scene, id).seq),
        calldata: Bytes::new(),
        gas_limit: 1,
        attempt,
    };
    transactions::insert(&scene.ledger, &new).unwrap();
    let [tx] = &transactions::pending(&scene.ledger).unwrap()[..] else { panic!("one transaction waits") };
    assert!(cards::to_hold(&scene.ledger, 0).unwrap().is_empty(), "one transaction at a time");
    scene.mine(revoked());
    assert!(!transactions::is_obsolete(&scene.ledger, tx).unwrap());
    scene.finalize();
    assert!(transactions::is_obsolete(&scene.ledger, tx).unwrap());
}
