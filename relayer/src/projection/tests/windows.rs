//! Rolling windows: what is accepted is taken by the contract before its deadline.

use stipend_core::{
    policy::{self, Limits, MandateState, PolicyContext, PolicyInput, Proposal},
    window::RollingWindow,
};

use super::*;
use crate::ledger::window;

const HOUR: Seconds = 3_600;
/// A sixth of the window.
const BUCKET: Seconds = 600;
/// When a bucket begins.
const START: Seconds = 10 * HOUR;

/// A thousand units, at most twenty of them within any hour.
fn windowed(guardian: Address) -> Scene {
    Scene::with(guardian, |terms| {
        (terms.window, terms.window_cap) = (3_600, usdc(20));
        (terms.expiry, terms.capture_end) = (100 * HOUR, 100 * HOUR);
    })
}

/// What the window's rule says of a payment.
fn refusal(scene: &Scene, amount: u64, now: Seconds, deadline: Seconds) -> Option<Code> {
    let mandate = scene.mandate();
    let window = window::usage(&scene.ledger, &mandate, &[], now).unwrap();
    let context = PolicyContext {
        terms: &mandate.terms,
        intent: None,
        state: MandateState::Open,
        available: mandate.balances.available,
        highest_nonce: mandate.highest_nonce,
        window: policy::WindowInput::Usage(&window),
        gas: None,
    };
    let payment = Proposal { payee: PAYEE, amount: usdc(amount), nonce: 0, deadline };
    let (deployment, limits) = (PROJECTOR.deployment, Limits::default());
    let decision = policy::decide(&PolicyInput { context, payment, card: None, deployment, limits, now });
    decision.rules.into_iter().find(|verdict| verdict.rule == "window").unwrap().code
}

/// An agent that pays all that the window allows, once an hour, with an hour's time: each payment that has
/// to wait makes the next one wait too, and what could not be taken in time is denied.
#[test]
fn windows_lag_and_no_unpayable_spend_is_accepted() {
    let mut scene = windowed(GUARDIAN);
    let mut contract = RollingWindow::default();
    let mut accepted = Vec::new();
    for step in 0..20 * 6 {
        let now = START + step * BUCKET;
        if step % 6 == 0 && refusal(&scene, 20, now, now + HOUR).is_none() {
            let nonce = u32::try_from(accepted.len()).unwrap();
            scene.admit_at(nonce, 20, now + HOUR, now);
            accepted.push(nonce);
        }
        // A block takes what there is room for.
        let time = now + 12;
        let mut logs = Vec::new();
        for nonce in &accepted {
            let payment = scene.payment(*nonce);
            let (fits, added) = contract.add(&scene.mandate().terms, payment.amount, time);
            if payment.state == PaymentState::Reserved && time < payment.deadline && fits {
                contract = added;
                logs.push(spent(*nonce, 20, B256::ZERO));
            }
        }
        scene.mine_at(time, logs);
        scene.finalize();
        for nonce in &accepted {
            assert_ne!(scene.state(*nonce).0, PaymentState::Failed, "payment {nonce} at {step}");
        }
    }
    assert!(accepted.len() >= 10, "{accepted:?}");
    assert!(accepted.iter().all(|nonce| scene.state(*nonce).0 == PaymentState::Settled));
}

#[test]
fn pending_spend_counts_until_mined_then_from_block_time() {
    let first = START + HOUR + 10;
    for card in [false, true] {
        let mut scene = windowed(GUARDIAN);
        let exceeded = |scene: &Scene, now| refusal(scene, 1, now, now + 3 * HOUR) == Some(Code::WindowExceeded);
        assert!(!exceeded(&scene, START));
        if card {
            admit_card(&scene, 0, 20, START + 2 * HOUR);
        } else {
            scene.admit_at(0, 20, START + 2 * HOUR, START);
        }
        let log = || if card { held(0, 20) } else { spent(0, 20, B256::ZERO) };
        assert!(exceeded(&scene, START + HOUR + 1));
        scene.mine_at(first, vec![log()]);
        assert!(exceeded(&scene, first + HOUR - 1) && !exceeded(&scene, first + HOUR));

        // Another block may have it.
        scene.unmine();
        assert!(exceeded(&scene, first + HOUR));
        scene.mine_at(first + 20, vec![log()]);
        for _ in 0..2 {
            assert!(exceeded(&scene, first + HOUR + 19) && !exceeded(&scene, first + HOUR + 20));
            scene.finalize();
        }
    }
}

#[test]
fn external_payments_of_unguarded_mandates_count_once_final() {
    for log in [spent(7, 20, B256::ZERO), held(7, 20)] {
        let mut scene = windowed(Address::ZERO);
        scene.mine_at(START, vec![log]);
        let code = |scene: &Scene, now| refusal(scene, 1, now, now + 3 * HOUR);
        assert_eq!(code(&scene, START), None);
        scene.finalize();
        assert_eq!(code(&scene, START + HOUR - 1), Some(Code::WindowExceeded));
        assert_eq!(code(&scene, START + HOUR), None);
    }
}
