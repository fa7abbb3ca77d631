use super::*;
use crate::card::tests::{NOW, card};
use proptest::prelude::*;
use serde_json::json;

fn purchase(amount: i64) -> Purchase {
    Purchase {
        request: Request::Authorization,
        amount,
        merchant: Merchant::named("COFFEE"),
        merchant_amount: None,
        merchant_currency: None,
        partial_approval_capable: false,
        pin_entered: false,
    }
}

fn asked(purchase: &Purchase) -> Transaction {
    Transaction::asked(&card(json!({ "type": "SINGLE_USE" })).unwrap(), purchase, Uuid::from_u128(1), NOW)
}

fn authorized(amount: i64) -> Transaction {
    asked(&purchase(amount)).begun(Request::Authorization, Ok(amount), Uuid::from_u128(2), NOW)
}

fn step(transaction: &Transaction, step: Transition) -> Result<Transaction, TransitionError> {
    transaction.stepped(step, Uuid::from_u128(transaction.events.len() as u128 + 2), NOW)
}

/// Status, hold and settlement, as the wire has them.
fn shown(transaction: &Transaction) -> (String, i64, i64) {
    let view = transaction.view();
    let amount = |name: &str| view["amounts"][name]["amount"].as_i64().unwrap();
    (view["status"].as_str().unwrap().to_owned(), amount("hold"), amount("settlement"))
}

fn at(status: &str, hold: i64, settlement: i64) -> (String, i64, i64) {
    (status.to_owned(), hold, settlement)
}

#[test]
fn partial_clearings_settle_as_measured_in_the_sandbox() {
    let transaction = authorized(1_000);
    assert_eq!(shown(&transaction), at("PENDING", -1_000, 0));
    let transaction = step(&transaction, Transition::Clear(Some(600))).unwrap();
    assert_eq!(shown(&transaction), at("SETTLED", -400, -600));
    let transaction = step(&transaction, Transition::Clear(Some(300))).unwrap();
    assert_eq!(shown(&transaction), at("SETTLED", -100, -900));
    let transaction = step(&transaction, Transition::Clear(None)).unwrap();
    assert_eq!(shown(&transaction), at("SETTLED", 0, -1_000));
    assert_eq!(step(&transaction, Transition::Clear(None)), Err(TransitionError::NothingPending));
}

#[test]
fn a_clearing_may_be_more_than_was_authorized() {
    let transaction = step(&authorized(5_000), Transition::Clear(Some(7_340))).unwrap();
    assert_eq!(shown(&transaction), at("SETTLED", 0, -7_340));
}

#[test]
fn an_advice_is_the_new_total() {
    let transaction = step(&authorized(1_000), Transition::Advise(1_200)).unwrap();
    assert_eq!(shown(&transaction), at("PENDING", -1_200, 0));
    assert_eq!(shown(&step(&transaction, Transition::Advise(800)).unwrap()), at("PENDING", -800, 0));
}

#[test]
fn a_reversal_in_parts_ends_voided() {
    let transaction = step(&authorized(1_000), Transition::Reverse(Some(400))).unwrap();
    assert_eq!(shown(&transaction), at("PENDING", -600, 0));
    assert_eq!(
        step(&transaction, Transition::Reverse(Some(601))),
        Err(TransitionError::TooMuch { amount: 601, pending: 600 })
    );
    let transaction = step(&transaction, Transition::Reverse(None)).unwrap();
    assert_eq!(shown(&transaction), at("VOIDED", 0, 0));
    assert_eq!(step(&transaction, Transition::Reverse(None)), Err(TransitionError::NotPending(Status::Voided)));
}

#[test]
fn a_late_clearing_after_a_void_or_an_expiry_posts() {
    for end in [Transition::Reverse(None), Transition::Expire, Transition::ExpireHold] {
        let transaction = step(&authorized(1_000), end).unwrap();
        assert_eq!(transaction.standing().hold(), 0);
        let transaction = step(&transaction, Transition::Clear(Some(900))).unwrap();
        assert_eq!(shown(&transaction), at("SETTLED", 0, -900), "{end:?}");
    }
}

#[test]
fn what_is_left_after_a_clearing_can_expire_but_not_be_voided() {
    let transaction = step(&authorized(1_000), Transition::Clear(Some(600))).unwrap();
    assert_eq!(step(&transaction, Transition::Reverse(None)), Err(TransitionError::NotPending(Status::Settled)));
    assert_eq!(step(&transaction, Transition::Expire), Err(TransitionError::NotPending(Status::Settled)));
    let transaction = step(&transaction, Transition::ExpireHold).unwrap();
    assert_eq!(shown(&transaction), at("SETTLED", 0, -600));
    assert_eq!(step(&transaction, Transition::ExpireHold), Err(TransitionError::NothingPending));
}

#[test]
fn a_return_sets_nothing_aside_and_is_reversed_once() {
    let back = asked(&purchase(700)).posted(EventKind::Return, Uuid::from_u128(2), NOW);
    assert_eq!(shown(&back), at("SETTLED", 0, 700));
    assert_eq!(step(&back, Transition::Clear(Some(1))), Err(TransitionError::Return));
    let again = step(&back, Transition::ReverseReturn).unwrap();
    assert_eq!(shown(&again), at("SETTLED", 0, 0));
    assert_eq!(step(&again, Transition::ReverseReturn), Err(TransitionError::NotReturned));
    assert_eq!(step(&authorized(1), Transition::ReverseReturn), Err(TransitionError::NotReturned));
}

#[test]
fn a_declined_transaction_stays_so_and_weighs_nothing() {
    let decline = Decline { result: "INSUFFICIENT_FUNDS", detail: "INSUFFICIENT_FUNDS" };
    let declined = asked(&purchase(500)).begun(Request::Authorization, Err(decline), Uuid::from_u128(2), NOW);
    assert_eq!(shown(&declined), at("DECLINED", 0, 0));
    assert_eq!(declined.result(), "INSUFFICIENT_FUNDS");
    assert_eq!(step(&declined, Transition::Clear(Some(1))), Err(TransitionError::Declined));
    assert_eq!(declined.standing().spent(), 0);
}

#[test]
fn a_single_message_settles_at_once() {
    let mut wanted = purchase(900);
    wanted.request = Request::FinancialAuthorization;
    let paid = asked(&wanted).begun(wanted.request, Ok(900), Uuid::from_u128(2), NOW);
    assert_eq!(shown(&paid), at("SETTLED", 0, -900));
}

#[test]
fn another_currency_is_converted_by_the_rate_of_the_request() {
    let mut wanted = purchase(1_300);
    wanted.merchant_amount = Some(1_000);
    let transaction = asked(&wanted).begun(Request::Authorization, Ok(1_300), Uuid::from_u128(2), NOW);
    let view = step(&transaction, Transition::Clear(Some(650))).unwrap().view();
    assert_eq!(view["merchant_currency"], "GBP");
    assert_eq!(view["amounts"]["cardholder"]["conversion_rate"], "1.300000");
    assert_eq!(view["events"][1]["amounts"]["merchant"]["amount"], 500);
}

#[test]
fn a_purchase_is_held_to_the_sizes_of_the_network() {
    assert_eq!(purchase(0).check(), Ok(()));
    assert!(matches!(purchase(-1).check(), Err(PurchaseError::Amount { .. })));
    assert!(matches!(purchase(i64::MAX).check(), Err(PurchaseError::Amount { .. })));
    let mut inquiry = purchase(1);
    inquiry.request = Request::BalanceInquiry;
    assert_eq!(inquiry.check(), Err(PurchaseError::Inquiry));
    let mut long = purchase(1);
    long.merchant.descriptor = "x".repeat(26);
    assert!(matches!(long.check(), Err(PurchaseError::Length { name: "descriptor", .. })));
    let mut yen = purchase(1);
    yen.merchant_currency = Some("JPY".into());
    assert_eq!(yen.check(), Err(PurchaseError::Currency));
}

fn any_step() -> impl Strategy<Value = Transition> {
    let amount = -5..3_000i64;
    let perhaps = prop::option::of(amount.clone());
    prop_oneof![
        perhaps.clone().prop_map(Transition::Clear),
        amount.prop_map(Transition::Advise),
        perhaps.prop_map(Transition::Reverse),
        Just(Transition::Expire),
        Just(Transition::ExpireHold),
        Just(Transition::ReverseReturn),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_amounts_add_up(amount in 1..2_000i64, steps in prop::collection::vec(any_step(), 0..12)) {
        let mut transaction = authorized(amount);
        let mut cleared = 0;
        for next in steps {
            let before = transaction.standing();
            let Ok(after) = step(&transaction, next) else { continue };
            transaction = after;
            let standing = transaction.standing();
            if let Some(TransactionEvent { kind: EventKind::Clearing, amount, .. }) = transaction.events.last() {
                cleared += amount;
            }
            // What was cleared stays cleared, and nothing but a clearing settles.
            prop_assert_eq!(standing.cleared, cleared);
            prop_assert_eq!(standing.status == Status::Settled, cleared > 0);
            // A hold is what is authorized and not cleared, and grows by an advice alone.
            prop_assert!(standing.hold() >= 0 && standing.hold() <= standing.authorized);
            if !matches!(next, Transition::Advise(_)) {
                prop_assert!(standing.hold() <= before.hold());
            }
            prop_assert!(standing.status != Status::Voided || standing.hold() == 0);
            prop_assert!(standing.status != Status::Expired || standing.hold() == 0);
            let (_, hold, settlement) = shown(&transaction);
            prop_assert_eq!((hold, settlement), (-standing.hold(), -cleared));
        }
    }

    #[test]
    fn a_stored_transaction_is_the_same_transaction(amount in 1..2_000i64, steps in prop::collection::vec(any_step(), 0..6)) {
        let mut transaction = authorized(amount);
        for next in steps {
            transaction = step(&transaction, next).unwrap_or(transaction);
        }
        let stored = serde_json::to_string(&transaction).unwrap();
        let read: Transaction = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(read, transaction);
    }
}
