//! Charges of cards, answered from the ledger alone.

use stipend_core::card::Charge;

use super::*;
use crate::{
    ledger::revocations::{self, Revocation},
    service::cards::{AuthorizationRequest, ChainPosition, decide_charge},
};

fn ask(scene: &Scene, transaction: &str) -> Option<Code> {
    let charge = Charge { cents: 1, cash_cents: 0, mcc: None, in_dollars: true, plain: true };
    let request =
        AuthorizationRequest { transaction: transaction.into(), card: "token".into(), merchant: "shop".into(), charge };
    decide_charge(&scene.ledger, request, ChainPosition { head: 100, confirmations: 1, halted: false, now: 100 })
        .unwrap()
}

#[test]
fn a_revocation_stops_charges_mined_or_not() {
    for taken in [false, true] {
        let mut scene = Scene::with(GUARDIAN, |terms| terms.cap = usdc(10_000));
        let id = admit_card(&scene, 0, 10_000, DEADLINE);
        scene.mine(vec![held(0, 10_000)]);
        walk(&scene, id, &[CardState::Held, CardState::Active]);
        cards::set_issued(&scene.ledger, card(&scene, id).seq, "token", "1234").unwrap();
        if taken {
            revocations::add(&scene.ledger, &Revocation { mandate: MANDATE, calldata: Bytes::new() }).unwrap();
        }
        let verdict = ask(&scene, "t");
        assert_eq!(verdict, taken.then_some(Code::Ended));
        assert_eq!(card(&scene, id).state, if taken { CardState::Active } else { CardState::Used });
        let trail = feed::tests::all(&scene.ledger, Address::repeat_byte(1), None);
        let last =
            trail.iter().rfind(|entry| matches!(entry.kind.as_str(), "card.authorized" | "card.declined")).unwrap();
        assert_eq!((last.kind == "card.declined", last.data["code"].as_str()), (taken, verdict.map(Code::name)));
    }
}
