//! Openings by message, and other mandates that answer their requests.

use super::*;
use crate::ledger::openings::{self, Opening};

const A: MandateId = MandateId(B256::repeat_byte(0x31));
const B: MandateId = MandateId(B256::repeat_byte(0x32));

/// Until when messages are good, beyond all blocks here.
const UNTIL: Seconds = 10_000;

/// Accepts the operator's message for these terms, whose id is made up.
fn accept(scene: &Scene, id: MandateId, terms: &Terms) {
    mandates::ensure(&scene.ledger, id, terms, 0).unwrap();
    let opening = Opening { mandate: id, calldata: Bytes::new() };
    openings::add(&scene.ledger, &opening, UNTIL).unwrap();
}

/// Puts the opening of a mandate into a transaction.
fn board(scene: &Scene, id: MandateId) -> transactions::TransactionRow {
    let raw = Bytes::from_static(&[0xa0]);
    let attempt = Attempt { hash: keccak256(&raw), raw, max_fee: 1, priority_fee: 1, sent_at: 0, cancels: false };
    let (kind, calldata) = (Kind::Open(id), Bytes::new());
    let new = New { submitter: SUBMITTER, nonce: 0, kind, calldata, gas_limit: 1, attempt };
    let tx = transactions::insert(&scene.ledger, &new).unwrap();
    assert!(openings::attach_to_tx(&scene.ledger, id, tx).unwrap());
    transactions::by_id(&scene.ledger, tx).unwrap().unwrap()
}

fn waiting(scene: &Scene) -> Vec<MandateId> {
    openings::waiting(&scene.ledger).unwrap().into_iter().map(|opening| opening.mandate).collect()
}

fn under_way(scene: &Scene, id: MandateId) -> Option<Seconds> {
    mandates::get(&scene.ledger, id).unwrap().unwrap().view(0, 1).opening_until
}

fn trail(scene: &Scene, id: MandateId) -> Vec<String> {
    let list = feed::tests::all(&scene.ledger, Address::repeat_byte(1), Some(id));
    list.into_iter().map(|entry| entry.kind).collect()
}

/// A request, and two mandates that its operator would open for it, a second apart.
fn asked(scene: &Scene) -> (stipend_core::RequestId, Terms, Terms) {
    let request = ask(scene, 500);
    let terms = |start| request.terms(Address::repeat_byte(1), GUARDIAN, start);
    (request.id, terms(5), terms(6))
}

#[test]
fn a_waiting_opening_ends_when_its_request_is_answered() {
    let mut scene = Scene::new(GUARDIAN);
    let (request, a, b) = asked(&scene);
    accept(&scene, A, &a);
    assert_eq!((waiting(&scene), under_way(&scene, A)), (vec![A], Some(UNTIL)));

    scene.mine(opened(0x32, &b));
    assert_eq!((waiting(&scene), under_way(&scene, A)), (vec![], None));
    assert!(!openings::attach_to_tx(&scene.ledger, A, 0).unwrap(), "what was about to be signed is not");
    assert_eq!(trail(&scene, A), ["mandate.opening_given_up"]);

    // What answered it may come back from a reorg, so A does not; another approval is free to be made.
    scene.unmine();
    assert_eq!((waiting(&scene), under_way(&scene, A)), (vec![], None));
    assert_eq!(requests::get(&scene.ledger, request).unwrap().unwrap().mandate, None);
    assert_eq!(openings::of_request(&scene.ledger, request).unwrap(), None);
    scene.mine(opened(0x32, &b));
    assert_eq!(requests::get(&scene.ledger, request).unwrap().unwrap().mandate, Some(B));
}

#[test]
fn a_sent_opening_is_obsolete_once_its_request_is_answered() {
    let mut scene = Scene::new(GUARDIAN);
    let (_, a, b) = asked(&scene);
    accept(&scene, A, &a);
    let tx = board(&scene, A);
    scene.mine(Vec::new());
    assert!(!transactions::is_obsolete(&scene.ledger, &tx).unwrap());
    scene.mine(opened(0x32, &b));
    assert!(transactions::is_obsolete(&scene.ledger, &tx).unwrap());
    scene.unmine();
    assert!(transactions::is_obsolete(&scene.ledger, &tx).unwrap());

    // It is dead in the end, and does not wait again.
    PROJECTOR.superseded(&scene.ledger, &tx, 0).unwrap();
    assert_eq!(waiting(&scene), []);
}

fn revoked_unopened(id: MandateId) -> Vec<Log> {
    vec![log(&MandateEscrow::Revoked { mandate: id.0, by: Address::repeat_byte(1) }, B256::ZERO)]
}

#[test]
fn an_opening_ends_when_its_operator_revokes_before_it() {
    for sent in [false, true] {
        let mut scene = Scene::new(GUARDIAN);
        let (request, a, b) = asked(&scene);
        accept(&scene, A, &a);
        let tx = sent.then(|| board(&scene, A));
        scene.mine(revoked_unopened(A));
        assert_eq!((waiting(&scene), under_way(&scene, A)), (vec![], None));
        let mandate = mandates::get(&scene.ledger, A).unwrap().unwrap();
        assert_eq!(mandate.state(u64::MAX, 1), stipend_core::policy::MandateState::Ended);
        assert_eq!(trail(&scene, A), ["mandate.opening_given_up", "mandate.revoked"]);
        assert!(tx.is_none_or(|tx| transactions::is_obsolete(&scene.ledger, &tx).unwrap()));
        // The request can be approved anew, and is.
        assert_eq!(openings::of_request(&scene.ledger, request).unwrap(), None);
        scene.finalize();
        scene.mine(opened(0x32, &b));
        assert_eq!(requests::get(&scene.ledger, request).unwrap().unwrap().mandate, Some(B));
        scene.finalize();
    }
}

#[test]
fn a_reorged_revocation_revives_no_opening() {
    let mut scene = Scene::new(GUARDIAN);
    let (_, a, _) = asked(&scene);
    accept(&scene, A, &a);
    scene.mine(revoked_unopened(A));
    scene.unmine();
    assert_eq!((waiting(&scene), under_way(&scene, A)), (vec![], None));
    // A transaction that was sent before may be mined after all.
    scene.mine(opened(0x31, &a));
    let mandate = mandates::get(&scene.ledger, A).unwrap().unwrap();
    assert!(mandate.opened.is_some() && mandate.ended.is_none());
}

#[test]
fn revocations_of_unknown_terms_and_of_open_mandates_give_no_opening_up() {
    let mut scene = Scene::new(GUARDIAN);
    let (_, a, _) = asked(&scene);
    accept(&scene, A, &a);
    scene.mine(revoked_unopened(B));
    assert_eq!((waiting(&scene), mandates::get(&scene.ledger, B).unwrap().is_none()), (vec![A], true));
    scene.mine(opened(0x31, &a));
    scene.mine(revoked_unopened(A));
    scene.unmine();
    scene.unmine();
    // Its own message is still good, as long as nobody revokes before it.
    assert_eq!(waiting(&scene), [A]);
}

#[test]
fn its_own_opening_and_others_requests_give_nothing_up() {
    let mut scene = Scene::new(GUARDIAN);
    let (_, a, _) = asked(&scene);
    let (_, other, _) = asked(&scene);
    accept(&scene, A, &a);
    accept(&scene, B, &other);
    scene.mine(opened(0x31, &a));
    assert_eq!((waiting(&scene), under_way(&scene, A)), (vec![B], None), "open, so no longer under way");
    scene.unmine();
    // Its own message is still good.
    assert_eq!((waiting(&scene), under_way(&scene, A)), (vec![A, B], Some(UNTIL)));
    // Nobody's approval is undone by a stranger who is faster.
    scene.mine(opened(0x34, &Terms { operator: Address::repeat_byte(0x99), ..a.clone() }));
    assert_eq!(waiting(&scene), [A, B]);
    scene.unmine();
    // What is not what was asked for answers nothing.
    scene.mine(opened(0x33, &Terms { cap: usdc(1), ..a }));
    assert_eq!(waiting(&scene), [A, B]);
}
