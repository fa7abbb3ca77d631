//! Whatever may have been done is said to be unknown, and comes back signed.

use std::error::Error as _;

use futures_util::future::join_all;
use stipend_core::policy::{Decision, Verdict};

use super::*;

const PROXY: &str = "<html>the origin is away</html>";

/// What a proxy says that has lost the relayer, perhaps after it had passed the call on.
fn proxy(status: &str) -> String {
    answer(status, "text/html", PROXY)
}

/// As the relayer answers who was denied.
fn denied() -> String {
    let verdict = Verdict { rule: "budget".into(), code: Some(Code::InsufficientBudget), detail: "too little".into() };
    let decision = Some(Decision { allow: false, rules: vec![verdict] });
    let problem = Problem { decision, ..Problem::new(Code::InsufficientBudget, "too little") };
    answer("403 X", "application/problem+json", &serde_json::to_string(&problem).unwrap())
}

/// The requests, once there was one for each answer.
async fn all_of(served: JoinHandle<Vec<String>>) -> Vec<String> {
    tokio::time::timeout(Duration::from_secs(20), served).await.expect("fewer requests than answers").unwrap()
}

/// What became of a payment that was answered so, after `/v1/info`.
async fn paid(answers: impl IntoIterator<Item = String>) -> Result<(), Error> {
    let (client, served) = relayer([info()].into_iter().chain(answers).collect()).await;
    let paid = client.pay(pay()).await.map(drop);
    all_of(served).await;
    paid
}

/// The payment that comes back from what is unknown.
fn signed(result: Result<(), Error>) -> NewPayment {
    let Err(Error::Unknown { signed: Some(Signed::Payment { payment, .. }), .. }) = result else {
        panic!("{result:?}")
    };
    *payment
}

#[tokio::test]
async fn a_proxy_that_lost_the_relayer_tells_nothing() {
    let lost = ["500 X", "502 X", "503 X", "520 X", "524 X"].map(|status| paid(vec![proxy(status); 6]));
    assert!(join_all(lost).await.into_iter().all(|error| signed(error).nonce == 3));
    paid([proxy("503 X"), payment()]).await.unwrap();
    // What is no refusal of a relayer's is no refusal.
    signed(paid([proxy("404 Not Found")]).await);
    signed(paid([proxy("302 Found")]).await);
}

#[tokio::test]
async fn an_unreadable_answer_may_be_an_acceptance() {
    for body in ["", "{}", PROXY] {
        for status in ["200 OK", "202 Accepted"] {
            let error = paid([answer(status, "application/json", body)]).await;
            let cause = error.as_ref().unwrap_err().source().map(ToString::to_string);
            assert!(cause.is_some_and(|cause| cause.contains(status)), "{error:?}");
            signed(error);
        }
    }
}

#[tokio::test]
async fn an_internal_error_may_have_come_after_the_commit() {
    signed(paid([problem(Code::Internal)]).await);
}

#[tokio::test]
async fn an_early_refusal_after_a_lost_answer_proves_nothing() {
    let once = [
        Code::Halted,
        Code::Internal,
        Code::NotFound,
        Code::InvalidRequest,
        Code::BadSignature,
        Code::TooLarge,
        Code::MethodNotAllowed,
    ];
    for code in once {
        assert_eq!(signed(paid([String::new(), problem(code)]).await).nonce, 3, "{code}");
    }
    let often = [Code::CannotSend, Code::Overloaded, Code::RateLimited, Code::Unauthenticated];
    let often = often.map(|code| paid([String::new()].into_iter().chain(vec![problem(code); 5])));
    assert!(join_all(often).await.into_iter().all(|error| signed(error).nonce == 3));
}

#[tokio::test]
async fn a_decision_after_a_lost_answer_proves_there_was_none() {
    let error = paid([String::new(), denied()]).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InsufficientBudget));
    for code in [Code::NonceTaken, Code::IdempotencyKeyReused] {
        assert_eq!(paid([String::new(), problem(code)]).await.unwrap_err().code(), Some(code));
    }
}

#[tokio::test]
async fn without_a_lost_answer_a_refusal_is_one() {
    for code in [Code::Halted, Code::NotFound, Code::BadSignature] {
        assert_eq!(paid([problem(code)]).await.unwrap_err().code(), Some(code));
    }
}

#[tokio::test]
async fn the_nonce_of_what_may_have_been_paid_is_not_used_again() {
    let odd = answer("202 Accepted", "application/json", "{}");
    let answers = vec![
        info(),
        mandate(3),
        String::new(),
        problem(Code::Halted),
        odd,
        problem(Code::Halted),
        payment(),
        payment(),
    ];
    let (client, served) = relayer(answers).await;
    let pay = Pay { nonce: None, ..pay() };
    for _ in 0..2 {
        assert!(matches!(client.pay(pay.clone()).await, Err(Error::Unknown { .. })));
    }
    assert_eq!(client.pay(pay.clone()).await.unwrap_err().code(), Some(Code::Halted));
    client.pay(pay.clone()).await.unwrap();
    client.pay(pay).await.unwrap();

    let requests = all_of(served).await;
    let sent = requests[2..].iter().map(|request| serde_json::from_str::<NewPayment>(body(request)).unwrap().nonce);
    assert_eq!(
        sent.collect::<Vec<_>>(),
        [3, 3, 4, 5, 5, 6],
        "what was refused at once is used again, and nothing else"
    );
}

#[tokio::test]
async fn a_card_that_may_have_been_accepted_comes_back_signed() {
    for answers in [vec![proxy("520 X"); 6], vec![String::new(), problem(Code::Halted)]] {
        let (client, served) = relayer([info(), mandate(3)].into_iter().chain(answers).collect()).await;
        let error = client.create_card(CreateCard::new(MandateId(B256::ZERO), amount("25"))).await.unwrap_err();
        all_of(served).await;
        let Error::Unknown { signed: Some(Signed::Card { card: hold, .. }), .. } = error else { panic!("{error:?}") };
        assert_eq!(hold.nonce, 3);
    }
}

#[tokio::test]
async fn what_only_reads_is_never_in_doubt() {
    let (client, served) = relayer(vec![info(), String::new(), problem(Code::NotFound)]).await;
    let error = client.mandate(MandateId(B256::ZERO)).await.unwrap_err();
    all_of(served).await;
    assert_eq!(error.code(), Some(Code::NotFound));

    let odd = answer("200 OK", "text/html", PROXY);
    let (client, served) = relayer(vec![info(), odd]).await;
    let error = client.mandate(MandateId(B256::ZERO)).await.unwrap_err();
    all_of(served).await;
    assert!(matches!(error, Error::NotARelayer { .. }), "{error:?}");
}
