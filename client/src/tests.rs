//! The client against a relayer that loses answers: a socket that says what each test wants.

mod unknown;

use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256};
use futures_util::StreamExt;
use serde_json::json;
use stipend_bindings::{Hold, Spend, recover};
use stipend_core::{
    Amount, Code, MandateId, RequestId, Terms,
    api::{Mandate, NewCard, NewPayment, Problem},
    policy::MandateState,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::{Client, CreateCard, Error, Pay, Resent, Signed};

/// Answers one connection after the other; an empty answer hangs up instead. Gives back what came.
async fn relayer(answers: Vec<String>) -> (Client, JoinHandle<Vec<String>>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let served = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            let mut buffer = [0; 4_096];
            while !is_whole(&request) {
                let count = socket.read(&mut buffer).await.unwrap();
                request.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
            requests.push(request);
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (Client::new(base, PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap()).unwrap(), served)
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    body.len() >= header(head, "content-length").map_or(0, |length| length.parse().unwrap())
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let lines = request.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn body(request: &str) -> &str {
    request.split_once("\r\n\r\n").unwrap().1
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn info() -> String {
    info_with(json!({"treasury": Address::repeat_byte(4).to_string(), "ttl": 3_600, "clearing_reserve": 86_400}))
}

fn info_with(cards: serde_json::Value) -> String {
    let body = json!({
        "chain_id": 31337, "escrow": Address::repeat_byte(5).to_string(), "token": Address::repeat_byte(6).to_string(),
        "guardian": Address::repeat_byte(3).to_string(), "confirmations": 1,
        "deadline_min": 120, "deadline_max": 86400, "payment_min": "0.00",
        "cards": cards,
        "head": {"number": 1, "hash": B256::ZERO, "time": 1_800_000_000}, "finalized": 0,
    });
    answer("200 OK", "application/json", &body.to_string())
}

fn payment() -> String {
    let body = json!({
        "id": "pay_00000000000000000000000000000001", "mandate": MandateId(B256::ZERO), "state": "reserved",
        "payee": Address::repeat_byte(7).to_string(), "amount": "4.20", "nonce": 3, "deadline": 1_800_003_600,
        "ref": B256::ZERO, "digest": B256::ZERO, "created_at": 1, "updated_at": 1,
    });
    answer("202 Accepted", "application/json", &body.to_string())
}

fn card() -> String {
    let body = json!({
        "id": "card_00000000000000000000000000000001", "mandate": MandateId(B256::ZERO), "state": "requested",
        "amount": "25.00", "captured": "0.00", "released": "0.00", "expires_at": 1, "nonce": 3, "capture_by": 1,
        "ref": B256::ZERO, "created_at": 1, "updated_at": 1,
    });
    answer("202 Accepted", "application/json", &body.to_string())
}

fn mandate(next_nonce: u32) -> String {
    mandate_in(MandateState::Open, next_nonce)
}

fn mandate_in(state: MandateState, next_nonce: u32) -> String {
    let terms = Terms {
        operator: Address::repeat_byte(1),
        agent: Address::repeat_byte(2),
        guardian: Address::repeat_byte(3),
        cap: amount("100"),
        per_payment: Amount::ZERO,
        window_cap: Amount::ZERO,
        window: 0,
        start: 0,
        // Far away, whatever the time is when this runs.
        expiry: 100_000_000_000,
        capture_end: 100_000_000_000,
        payees: B256::ZERO,
        intent: B256::ZERO,
        refunds_restore_budget: true,
    };
    let mandate = Mandate {
        id: MandateId(B256::ZERO),
        state,
        terms,
        intent: None,
        request: None,
        available: amount("100"),
        reserved: Amount::ZERO,
        held: Amount::ZERO,
        paid: Amount::ZERO,
        returned: Amount::ZERO,
        carried: Amount::ZERO,
        refunded: Amount::ZERO,
        restored: Amount::ZERO,
        revoking: false,
        next_nonce,
        opening_until: None,
        opened_tx: None,
        ended_tx: None,
    };
    answer("200 OK", "application/json", &serde_json::to_string(&mandate).unwrap())
}

fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

fn problem(code: Code) -> String {
    let problem = serde_json::to_string(&Problem::new(code, "for a test")).unwrap();
    answer(&format!("{} X", code.status()), "application/problem+json", &problem)
}

fn pay() -> Pay {
    Pay {
        nonce: Some(3),
        deadline: Some(1_800_003_600),
        ..Pay::new(MandateId(B256::ZERO), Address::repeat_byte(7), amount("4.20"))
    }
}

#[tokio::test]
async fn a_lost_answer_is_retried_with_the_same_bytes() {
    let (client, served) = relayer(vec![info(), String::new(), problem(Code::Unavailable), payment()]).await;
    let paid = client.pay(pay()).await.unwrap();
    assert_eq!(paid.object.nonce, 3);

    let requests = served.await.unwrap();
    let [_, first, second, third] = requests.as_slice() else { panic!("{requests:?}") };
    assert!(first.starts_with("POST /v1/payments HTTP/1.1"));
    assert_eq!(body(first), body(second));
    assert_eq!(body(first), body(third));
}

#[tokio::test]
async fn a_payment_carries_the_agents_own_signature() {
    let (client, served) = relayer(vec![info(), payment()]).await;
    client.pay(pay()).await.unwrap();

    let requests = served.await.unwrap();
    let sent: NewPayment = serde_json::from_str(body(&requests[1])).unwrap();
    let spend = Spend::new(sent.mandate, sent.payee, sent.amount, sent.nonce, sent.deadline, sent.reference).unwrap();
    let digest = client.domain().await.unwrap().spend_digest(&spend);
    assert_eq!(recover(digest, &sent.signature).unwrap(), client.address());
}

#[tokio::test]
async fn a_card_carries_the_agent_signature_over_a_treasury_hold() {
    let (client, served) = relayer(vec![info(), mandate(3), card()]).await;
    client.create_card(CreateCard::new(MandateId(B256::ZERO), amount("25"))).await.unwrap();

    let requests = served.await.unwrap();
    assert!(requests[2].starts_with("POST /v1/cards HTTP/1.1"));
    let sent: NewCard = serde_json::from_str(body(&requests[2])).unwrap();
    let treasury = Address::repeat_byte(4);
    let spend = Spend::new(sent.mandate, treasury, sent.amount, sent.nonce, sent.deadline, sent.reference).unwrap();
    let digest = client.domain().await.unwrap().hold_digest(&Hold::new(spend, sent.capture_by).unwrap());
    assert_eq!(recover(digest, &sent.signature).unwrap(), client.address());
    // The deadline is up to a tenth earlier than asked, so that no two processes sign the same.
    let after_deadline = sent.capture_by - sent.deadline;
    assert!((89_700..89_760).contains(&after_deadline), "{after_deadline}");
}

#[tokio::test]
async fn cards_and_payments_take_their_nonces_from_one_sequence() {
    let denied = problem(Code::InsufficientBudget);
    let (client, served) = relayer(vec![info(), mandate(3), card(), payment(), denied, card()]).await;
    let id = MandateId(B256::ZERO);
    let (create, pay) = (CreateCard::new(id, amount("25")), Pay::new(id, Address::repeat_byte(7), amount("4.20")));
    client.create_card(create.clone()).await.unwrap();
    client.pay(pay).await.unwrap();
    client.create_card(create.clone()).await.unwrap_err();
    client.create_card(create).await.unwrap();

    let requests = served.await.unwrap();
    let nonce = |request: &String| serde_json::from_str::<serde_json::Value>(body(request)).unwrap()["nonce"].clone();
    let nonces: Vec<_> = requests[2..].iter().map(nonce).collect();
    assert_eq!(nonces, [3, 4, 5, 5], "what was denied is used again");
}

#[tokio::test]
async fn a_relayer_without_cards_is_not_asked_for_one() {
    let (client, served) = relayer(vec![info_with(json!(null))]).await;
    let error = client.create_card(CreateCard::new(MandateId(B256::ZERO), amount("25"))).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::CardsNotOffered));
    assert_eq!(served.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_card_with_a_taken_nonce_is_signed_again_with_the_next() {
    let (client, served) = relayer(vec![info(), mandate(3), problem(Code::NonceTaken), mandate(9), card()]).await;
    client.create_card(CreateCard::new(MandateId(B256::ZERO), amount("25"))).await.unwrap();
    let requests = served.await.unwrap();
    let sent: NewCard = serde_json::from_str(body(&requests[4])).unwrap();
    assert!((9..13).contains(&sent.nonce), "{}", sent.nonce);
}

/// Another process has signed the very same message: each of them wants a payment.
#[tokio::test]
async fn a_replay_at_first_sight_is_signed_again_unless_it_was_asked_for() {
    let replayed = || payment().replacen("\r\n", "\r\nidempotent-replayed: true\r\n", 1);
    let any = Pay { nonce: None, deadline: None, ..pay() };
    let (client, served) = relayer(vec![info(), mandate(3), replayed(), mandate(4), payment()]).await;
    assert!(!client.pay(any.clone()).await.unwrap().replayed);
    let requests = served.await.unwrap();
    let nonce = |request: &str| serde_json::from_str::<NewPayment>(body(request)).unwrap().nonce;
    assert_eq!(nonce(&requests[2]), 3);
    assert!((4..8).contains(&nonce(&requests[4])), "{}", requests[4]);

    // Lost, and then known: that was this call's own. So is what has its nonce or key from the caller.
    let (client, served) = relayer(vec![info(), mandate(3), String::new(), replayed()]).await;
    assert!(client.pay(any.clone()).await.unwrap().replayed);
    served.await.unwrap();
    for (asked, answers) in [
        (Pay { idempotency_key: Some("k".into()), ..any }, vec![info(), mandate(3), replayed()]),
        (pay(), vec![info(), replayed()]),
    ] {
        let (client, served) = relayer(answers).await;
        assert!(client.pay(asked).await.unwrap().replayed);
        served.await.unwrap();
    }
}

#[tokio::test]
async fn an_odd_answer_to_a_card_reveal_is_not_quoted() {
    let odd = answer("200 OK", "application/json", r#"{"number": 4242424242424242}"#);
    let (client, served) = relayer(vec![info(), odd]).await;
    let error = client.card_secrets("card_00000000000000000000000000000001".parse().unwrap()).await.unwrap_err();
    served.await.unwrap();
    assert!(!format!("{error} {error:?}").contains("4242"), "{error:?}");
}

#[tokio::test]
async fn an_unanswered_payment_is_unknown_and_returned_signed() {
    let mut answers = vec![info()];
    answers.resize(7, String::new());
    let (client, served) = relayer(answers).await;
    let error = client.pay(pay()).await.unwrap_err();
    served.await.unwrap();
    let Error::Unknown { signed: Some(Signed::Payment { payment, .. }), .. } = error else { panic!("{error:?}") };
    assert_eq!((payment.nonce, payment.deadline), (3, 1_800_003_600));
}

#[tokio::test]
async fn what_is_unknown_is_sent_again_as_it_was_with_its_key() {
    let (mut answers, key) = (vec![info()], Some("step 4".to_owned()));
    answers.resize(7, String::new());
    answers.push(payment());
    let (client, served) = relayer(answers).await;
    let error = client.pay(Pay { idempotency_key: key.clone(), ..pay() }).await.unwrap_err();
    assert!(error.may_have_taken_effect());
    let Error::Unknown { signed: Some(signed), .. } = error else { panic!("{error:?}") };
    let Resent::Payment(paid) = client.resend(&signed).await.unwrap() else { panic!("a card") };
    assert_eq!(paid.object.nonce, 3);
    let requests = served.await.unwrap();
    assert_eq!(body(&requests[7]), body(&requests[1]));
    assert_eq!(header(&requests[7], "idempotency-key"), key.as_deref());

    let create = CreateCard {
        nonce: Some(3),
        idempotency_key: key.clone(),
        ..CreateCard::new(MandateId(B256::ZERO), amount("25"))
    };
    let mut answers = vec![info(), mandate(3)];
    answers.resize(8, String::new());
    answers.push(card());
    let (client, served) = relayer(answers).await;
    let error = client.create_card(create).await.unwrap_err();
    let Error::Unknown { signed: Some(signed), .. } = error else { panic!("{error:?}") };
    assert!(matches!(client.resend(&signed).await, Ok(Resent::Card(_))));
    let requests = served.await.unwrap();
    assert_eq!(body(&requests[8]), body(&requests[2]));
    assert_eq!(header(&requests[8], "idempotency-key"), key.as_deref());
}

#[tokio::test]
async fn a_mandate_is_waited_for_until_it_is_open() {
    let asked = |mandate: Option<MandateId>| {
        let body = json!({
            "id": "req_00000000000000000000000000000001", "state": "pending", "agent": Address::repeat_byte(2).to_string(),
            "amount": "100.00", "duration": "30d", "refunds_restore_budget": true, "mandate": mandate, "created_at": 1,
            "intent": {"version": 1, "purpose": "p", "policy": {}, "nonce": B256::ZERO},
        });
        answer("200 OK", "application/json", &body.to_string())
    };
    let id: RequestId = "req_00000000000000000000000000000001".parse().unwrap();
    let approved = || asked(Some(MandateId(B256::ZERO)));
    let opening = || mandate_in(MandateState::Opening, 0);
    let answers = vec![info(), asked(None), approved(), opening(), approved(), mandate(0)];
    let (client, served) = relayer(answers).await;
    let found = client.wait_for_mandate(id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(found.map(|mandate| mandate.state), Some(MandateState::Open));
    assert_eq!(served.await.unwrap().len(), 6);

    for (answers, state) in [(vec![asked(None)], None), (vec![approved(), opening()], Some(MandateState::Opening))] {
        let (client, _served) = relayer([vec![info()], answers].concat()).await;
        let found = client.wait_for_mandate(id, Duration::ZERO).await.unwrap();
        assert_eq!(found.map(|mandate| mandate.state), state);
    }
}

#[tokio::test]
async fn a_refusal_is_a_refusal_at_once() {
    let (client, served) = relayer(vec![info(), problem(Code::InsufficientBudget)]).await;
    let error = client.pay(pay()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InsufficientBudget));
    assert_eq!(served.await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_call_that_is_repeated_keeps_its_key_and_is_signed_anew() {
    let page = answer("200 OK", "application/json", r#"{"data":[]}"#);
    let (client, served) = relayer(vec![info(), problem(Code::Unauthenticated), page]).await;
    client.mandates(&Default::default()).await.unwrap();

    let requests = served.await.unwrap();
    let signatures: Vec<_> = requests[1..].iter().map(|request| header(request, "signature").unwrap()).collect();
    assert_ne!(signatures[0], signatures[1], "a signature's nonce is good for one request");
}

#[tokio::test]
async fn streams_that_end_at_once_are_not_asked_for_in_a_loop() {
    let empty = answer("200 OK", "text/event-stream", "");
    let (client, served) = relayer([vec![info()], vec![empty; 100]].concat()).await;
    let mut events = client.events(None, None).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(2), events.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    // The relayer is still waiting for nearly all of them.
    served.abort();
    let left = served.await;
    assert!(left.is_err_and(|error| error.is_cancelled()));
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_behind_the_last_entry() {
    let entry = |seq: u64| {
        let entry = json!({"seq": seq, "at": 1, "type": "payment.mined", "data": {}, "hash": B256::ZERO});
        answer("200 OK", "text/event-stream", &format!("id: {seq}\nevent: payment.mined\ndata: {entry}\n\n"))
    };
    let (client, served) = relayer(vec![info(), entry(7), String::new(), entry(8)]).await;
    let events = client.events(None, None).await.unwrap();
    let seqs: Vec<_> = events.into_stream().take(2).map(|entry| entry.unwrap().seq).collect().await;
    assert_eq!(seqs, [7, 8]);

    let requests = served.await.unwrap();
    let resumed: Vec<_> = requests.iter().map(|request| header(request, "last-event-id")).collect();
    assert_eq!(resumed, [None, None, Some("7"), Some("7")]);
}
