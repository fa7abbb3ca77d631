//! The issuer as its callers see it: over HTTP, with a receiver of events and questions.

mod harness;

use std::time::Duration;

use axum::http::StatusCode;
use harness::{Answer, TestIssuer};
use serde_json::{Value, json};

const SINGLE_USE: &str = "SINGLE_USE";

fn new_card(limit: i64) -> Value {
    json!({ "type": SINGLE_USE, "spend_limit": limit, "spend_limit_duration": "FOREVER", "memo": "hold 1" })
}

fn charge(card: &Value, amount: i64) -> Value {
    json!({ "amount": amount, "descriptor": "COFFEE", "pan": card["pan"] })
}

#[tokio::test]
async fn only_the_status_is_open_to_all() {
    let issuer = TestIssuer::start().await;
    let nobody = reqwest::get(issuer.url("/v1/status")).await.unwrap();
    assert_eq!(nobody.status(), 200);
    for path in ["/v1/cards", "/_mock", "/v1/transactions"] {
        for key in ["", "Bearer key-of-the-test", "key-of-the-tes", "key-of-the-test2"] {
            let refused = issuer.http.get(issuer.url(path)).header("authorization", key).send().await.unwrap();
            assert_eq!(refused.status(), 401, "{path} {key}");
            let body: Value = refused.json().await.unwrap();
            assert!(body["message"].is_string() && body["debugging_request_id"].is_string());
        }
    }
    let (status, body) = issuer.get("/v1/nothing").await;
    assert_eq!((status, body["message"].as_str()), (404, Some("there is no such path")));
    issuer.stop().await;
}

#[tokio::test]
async fn a_number_is_in_the_answers_about_one_card_and_in_no_list() {
    let issuer = TestIssuer::start().await;
    let card = issuer.create(new_card(2_500)).await;
    let number = card["pan"].as_str().unwrap();
    assert!(number.parse::<crate::CardNumber>().is_ok() && number.starts_with("411111"));
    assert_eq!(card["last_four"].as_str().unwrap(), &number[12..]);
    assert_eq!(card["cvv"].as_str().unwrap().len(), 3);

    let path = format!("/v1/cards/{}", card["token"].as_str().unwrap());
    assert_eq!(issuer.get(&path).await, (200, card.clone()));
    let (_, list) = issuer.get("/v1/cards").await;
    assert!(list["data"][0].get("pan").is_none() && list["data"][0].get("cvv").is_none());
    assert_eq!(issuer.get("/v1/cards/00000000-0000-0000-0000-000000000000").await.0, 404);
    assert_eq!(issuer.get("/v1/cards/none").await.0, 404);
    issuer.stop().await;
}

#[tokio::test]
async fn a_key_creates_one_card_and_a_restart_does_not_forget_it() {
    let mut issuer = TestIssuer::start().await;
    let first = issuer.create_with_key("key 1", new_card(2_500)).await;
    let card = first.json::<Value>().await.unwrap();
    issuer.restart().await;
    let again = issuer.create_with_key("key 1", new_card(2_500)).await.json::<Value>().await.unwrap();
    assert_eq!(again, card);
    let other = issuer.create_with_key("key 1", new_card(2_501)).await;
    assert_eq!((other.status().as_u16(), other.headers()["x-should-retry"].to_str().unwrap()), (409, "false"));
    assert_eq!(issuer.get("/v1/cards").await.1["data"].as_array().unwrap().len(), 1);
    issuer.stop().await;
}

#[tokio::test]
async fn a_lost_answer_can_be_asked_for_again_and_its_card_be_found() {
    let issuer = TestIssuer::start().await;
    issuer.mock(json!({ "cards": { "lose_create_answer": 1 } })).await;
    let request = issuer.create_request("key 1", &new_card(2_500));
    assert!(request.send().await.is_err(), "the connection closes without an answer");
    let (_, found) = issuer.get("/v1/cards?memo=hold").await;
    let card = issuer.create_with_key("key 1", new_card(2_500)).await.json::<Value>().await.unwrap();
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
    assert_eq!(found["data"][0]["token"], card["token"]);
    issuer.stop().await;
}

#[tokio::test]
async fn what_can_not_be_understood_is_refused_and_not_quoted() {
    let issuer = TestIssuer::start().await;
    for body in [
        json!({}),
        json!({ "type": "PHYSICAL" }),
        json!({ "type": SINGLE_USE, "spend_limit": -1 }),
        json!({ "type": SINGLE_USE, "spend_limit": 1.5 }),
        json!({ "type": SINGLE_USE, "spend_limits": 1 }),
        json!({ "type": SINGLE_USE, "state": "CLOSED" }),
    ] {
        let (status, answer) = issuer.post("/v1/cards", body.clone()).await;
        assert_eq!(status, 400, "{body} {answer}");
    }
    let number = 4_111_111_289_144_142_u64;
    for pan in [json!(number), json!(format!("{number}0"))] {
        let (status, answer) =
            issuer.post("/v1/simulate/authorize", json!({ "amount": 1, "descriptor": "X", "pan": pan })).await;
        assert!(status == 400 && !answer.to_string().contains("41111112"), "{answer}");
    }
    for path in ["/v1/cards?page_size=0", "/v1/cards?page_size=101", "/v1/cards?begin=now", "/v1/cards?stat=OPEN"] {
        assert_eq!(issuer.get(path).await.0, 400, "{path}");
    }
    let card = issuer.create(new_card(1)).await;
    let mut in_euro = charge(&card, 1);
    in_euro["billing_currency"] = "EUR".into();
    assert_eq!(issuer.post("/v1/simulate/authorize", in_euro).await.0, 422);
    let large = issuer.post("/v1/cards", json!({ "type": SINGLE_USE, "memo": "x".repeat(70_000) })).await;
    assert_eq!(large.0, 413);
    issuer.stop().await;
}

#[tokio::test]
async fn pages_hold_every_card_once_in_both_directions() {
    let issuer = TestIssuer::start().await;
    let mut tokens = Vec::new();
    for number in 0..7 {
        let memo = if number == 3 { "50% off_" } else { "hold" };
        let card = issuer.create(json!({ "type": SINGLE_USE, "memo": memo })).await;
        tokens.insert(0, card["token"].clone());
    }
    let mut seen = Vec::new();
    let mut path = "/v1/cards?page_size=3".to_owned();
    loop {
        let (_, page) = issuer.get(&path).await;
        let items = page["data"].as_array().unwrap().clone();
        seen.extend(items.iter().map(|card| card["token"].clone()));
        if page["has_more"] == json!(false) {
            break;
        }
        path = format!("/v1/cards?page_size=3&starting_after={}", seen.last().unwrap().as_str().unwrap());
    }
    assert_eq!(seen, tokens);

    let before = format!("/v1/cards?page_size=3&ending_before={}", tokens[5].as_str().unwrap());
    let (_, page) = issuer.get(&before).await;
    let page: Vec<_> = page["data"].as_array().unwrap().iter().map(|card| card["token"].clone()).collect();
    assert_eq!(page, tokens[2..5]);
    assert_eq!(issuer.get("/v1/cards?memo=%25%20off_").await.1["data"].as_array().unwrap().len(), 1);

    // The bounds of a time_range are outside it.
    let (_, list) = issuer.get("/v1/cards").await;
    let created = list["data"][3]["created"].as_str().unwrap();
    let (_, later) = issuer.get(&format!("/v1/cards?begin={created}")).await;
    let (_, earlier) = issuer.get(&format!("/v1/cards?end={created}")).await;
    assert_eq!((later["data"].as_array().unwrap().len(), earlier["data"].as_array().unwrap().len()), (3, 3));
    issuer.stop().await;
}

#[tokio::test]
async fn an_approval_closes_a_single_use_card() {
    let issuer = TestIssuer::start().await;
    issuer.register().await;
    let card = issuer.create(new_card(2_500)).await;
    let (status, authorized) = issuer.post("/v1/simulate/authorize", charge(&card, 1_840)).await;
    assert_eq!(status, 201, "{authorized}");
    let question = issuer.receiver.questions().pop().unwrap();
    assert!(issuer.receiver.verify(&question, &issuer.asa_secret().await));
    assert_eq!(question.body["event_type"], "card_authorization.approval_request");
    assert_eq!(question.body["token"], authorized["token"]);
    assert_eq!(question.body["amounts"]["hold"]["amount"], 1_840);
    assert!(question.body.to_string().find(card["pan"].as_str().unwrap()).is_none());

    let (status, declined) = issuer.post("/v1/simulate/authorize", charge(&card, 100)).await;
    assert_eq!(status, 422);
    assert_eq!(issuer.receiver.questions().len(), 1, "a closed card is declined without a question");
    let (_, transaction) = issuer.get(&format!("/v1/transactions/{}", declined["token"].as_str().unwrap())).await;
    assert_eq!((&transaction["status"], &transaction["result"]), (&json!("DECLINED"), &json!("SINGLE_USE_RECHARGED")));
    assert_eq!(transaction["events"][0]["detailed_results"], json!(["SINGLE_USE_CARD_REATTEMPTED"]));

    let (status, _) =
        issuer.post("/v1/simulate/clearing", json!({ "token": authorized["token"], "amount": 1_840 })).await;
    assert_eq!(status, 201);
    let (_, limits) = issuer.get(&format!("/v1/cards/{}/spend_limits", card["token"].as_str().unwrap())).await;
    assert_eq!(limits["available_spend_limit"]["forever"], 660);
    issuer.stop().await;
}

#[tokio::test]
async fn whatever_is_no_clear_yes_in_time_declines() {
    let issuer = TestIssuer::with_limit(Duration::from_secs(1)).await;
    issuer.register().await;
    let yes = json!({ "result": "APPROVED" });
    for (answer, detail, asked) in [
        (Answer::json(json!({ "result": "UNAUTHORIZED_MERCHANT" })), "UNAUTHORIZED_MERCHANT", 1),
        (Answer::json(json!({ "result": "VELOCITY_EXCEEDED" })), "CARD_SPEND_LIMIT_EXCEEDED", 1),
        (Answer::json(json!({ "result": "PERHAPS" })), "CUSTOM_ASA_RESULT", 1),
        (Answer::json(json!({ "approved": true })), "MALFORMED_ASA_RESPONSE", 1),
        (Answer::json(json!({ "result": "APPROVED", "approved_amount": 500 })), "MALFORMED_ASA_RESPONSE", 1),
        (Answer::json(yes.clone()).with(StatusCode::UNAUTHORIZED), "MALFORMED_ASA_RESPONSE", 1),
        (Answer::json(yes.clone()).with(StatusCode::CREATED), "MALFORMED_ASA_RESPONSE", 1),
        (Answer::json(yes.clone()).with(StatusCode::SERVICE_UNAVAILABLE), "CUSTOMER_ASA_TIMEOUT", 2),
        (Answer::json(yes.clone()).after(Duration::from_secs(3)), "CUSTOMER_ASA_TIMEOUT", 1),
    ] {
        let before = issuer.receiver.questions().len();
        issuer.receiver.answer(answer.clone());
        let card = issuer.create(new_card(2_500)).await;
        let (status, declined) = issuer.post("/v1/simulate/authorize", charge(&card, 500)).await;
        assert_eq!(status, 422, "{answer:?}");
        let (_, transaction) = issuer.get(&format!("/v1/transactions/{}", declined["token"].as_str().unwrap())).await;
        assert_eq!(transaction["events"][0]["detailed_results"], json!([detail]), "{answer:?}");
        assert_eq!(issuer.receiver.questions().len() - before, asked, "{answer:?}");
        let (_, card) = issuer.get(&format!("/v1/cards/{}", card["token"].as_str().unwrap())).await;
        assert_eq!(card["state"], "OPEN", "a declined authorization uses nothing up");
    }
    issuer.stop().await;
}

#[tokio::test]
async fn one_failed_response_is_retried_with_the_same_request() {
    let issuer = TestIssuer::start().await;
    issuer.register().await;
    issuer.receiver.answer_once(Answer::json(json!({})).with(StatusCode::BAD_GATEWAY));
    let card = issuer.create(new_card(2_500)).await;
    assert_eq!(issuer.post("/v1/simulate/authorize", charge(&card, 500)).await.0, 201);
    let questions = issuer.receiver.questions();
    assert_eq!(questions.len(), 2);
    assert_eq!(questions[0].body, questions[1].body);
    assert_eq!(questions[0].headers["webhook-id"], questions[1].headers["webhook-id"]);
    issuer.stop().await;
}

#[tokio::test]
async fn mock_faults_delay_drop_double_or_forge_requests() {
    let issuer = TestIssuer::with_limit(Duration::from_secs(1)).await;
    issuer.register().await;
    let secret = issuer.asa_secret().await;
    let authorize = async || {
        let card = issuer.create(new_card(2_500)).await;
        issuer.post("/v1/simulate/authorize", charge(&card, 500)).await.0
    };
    issuer.mock(json!({ "asa": { "absent": 1 } })).await;
    assert_eq!((authorize().await, issuer.receiver.questions().len()), (422, 0));
    issuer.mock(json!({ "asa": { "delay_ms": 5_000 } })).await;
    assert_eq!((authorize().await, issuer.receiver.questions().len()), (422, 1), "approved, and too late");
    issuer.mock(json!({ "asa": { "delay_ms": 0, "duplicate": 1 } })).await;
    assert_eq!((authorize().await, issuer.receiver.questions().len()), (201, 3));
    issuer.mock(json!({ "asa": { "corrupt_signature": 1 } })).await;
    authorize().await;
    let questions = issuer.receiver.questions();
    assert!(issuer.receiver.verify(&questions[2], &secret) && !issuer.receiver.verify(&questions[3], &secret));
    issuer.stop().await;
}

#[tokio::test]
async fn nothing_is_signed_before_the_secret_was_fetched() {
    let issuer = TestIssuer::start().await;
    issuer.enrol_unsigned().await;
    let card = issuer.create(new_card(2_500)).await;
    issuer.post("/v1/simulate/authorize", charge(&card, 500)).await;
    assert!(issuer.receiver.questions()[0].headers.get("webhook-signature").is_none());
    let (_, enrolled) = issuer.get("/v1/responder_endpoints?type=AUTH_STREAM_ACCESS").await;
    assert_eq!(enrolled["enrolled"], true);
    issuer.delete("/v1/responder_endpoints?type=AUTH_STREAM_ACCESS").await;
    let card = issuer.create(new_card(2_500)).await;
    assert_eq!(issuer.post("/v1/simulate/authorize", charge(&card, 500)).await.0, 201, "nobody has to be asked");
    assert_eq!(issuer.receiver.questions().len(), 1);
    issuer.stop().await;
}

#[tokio::test]
async fn a_terminal_that_hangs_up_has_not_unasked_the_program() {
    let issuer = TestIssuer::start().await;
    issuer.register().await;
    issuer.receiver.answer(Answer::json(json!({ "result": "APPROVED" })).after(Duration::from_millis(300)));
    let card = issuer.create(new_card(2_500)).await;
    let request = issuer.http.post(issuer.url("/v1/simulate/authorize")).header("authorization", harness::KEY);
    let hung_up = request.json(&charge(&card, 500)).timeout(Duration::from_millis(100)).send().await;
    assert!(hung_up.unwrap_err().is_timeout());
    let approved = async || issuer.get("/v1/transactions?result=APPROVED").await.1["data"][0]["card_token"].clone();
    harness::eventually(async || approved().await == card["token"]).await;
    issuer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_racing_authorizations_is_approved() {
    let issuer = TestIssuer::start().await;
    issuer.register().await;
    for race in 0..200 {
        let card = issuer.create(new_card(2_500)).await;
        let (one, other) = tokio::join!(
            issuer.post("/v1/simulate/authorize", charge(&card, 1_000)),
            issuer.post("/v1/simulate/authorize", charge(&card, 1_000)),
        );
        let mut statuses = [one.0, other.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 422], "race {race}");
    }
    let (_, approved) = issuer.get("/v1/transactions?result=APPROVED&page_size=1").await;
    assert_eq!(approved["has_more"], true);
    issuer.stop().await;
}

#[tokio::test]
async fn every_step_is_told_signed_and_with_all_events_so_far() {
    let issuer = TestIssuer::start().await;
    let secret = issuer.subscribe(json!(["card_transaction.updated"])).await;
    let card = issuer.create(new_card(2_500)).await;
    let (_, authorized) = issuer.post("/v1/simulate/authorize", charge(&card, 1_000)).await;
    issuer.post("/v1/simulate/clearing", json!({ "token": authorized["token"], "amount": 600 })).await;
    let events = issuer.receiver.wait_for_events(2).await;
    assert!(events.iter().all(|event| issuer.receiver.verify(event, &secret)));
    let last = events.iter().max_by_key(|event| event.body["events"].as_array().unwrap().len()).unwrap();
    assert_eq!(last.body["event_type"], "card_transaction.updated");
    assert_eq!((&last.body["status"], &last.body["amounts"]["hold"]["amount"]), (&json!("SETTLED"), &json!(-400)));
    issuer.stop().await;
}

#[tokio::test]
async fn a_failed_delivery_is_retried_under_the_same_id() {
    let issuer = TestIssuer::start().await;
    issuer.subscribe(Value::Null).await;
    issuer.receiver.accept_events(false);
    issuer.create(new_card(1)).await;
    let attempts = issuer.receiver.wait_for_events(3).await;
    assert!(attempts.iter().all(|attempt| attempt.headers["webhook-id"] == attempts[0].headers["webhook-id"]));
    assert!(attempts.iter().all(|attempt| attempt.body == attempts[0].body));
    issuer.receiver.accept_events(true);
    // The schedule of the tests has three attempts.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(issuer.receiver.events().len(), 3);

    let (_, list) = issuer.get("/v1/event_subscriptions").await;
    let token = list["data"][0]["token"].as_str().unwrap().to_owned();
    assert_eq!(issuer.post_empty(&format!("/v1/event_subscriptions/{token}/recover")).await, 202);
    issuer.receiver.wait_for_events(4).await;
    let (_, events) = issuer.get("/v1/events?with_content=true&event_types=card.created,card.updated").await;
    assert_eq!(events["data"][0]["payload"], attempts[0].body);
    let id = attempts[0].headers["webhook-id"].to_str().unwrap();
    assert_eq!(events["data"][0]["token"], id);
    assert_eq!(issuer.post_empty(&format!("/v1/events/{id}/event_subscriptions/{token}/resend")).await, 202);
    issuer.receiver.wait_for_events(5).await;
    issuer.stop().await;
}

#[tokio::test]
async fn what_happened_before_a_subscription_can_be_replayed() {
    let issuer = TestIssuer::start().await;
    issuer.create(new_card(1)).await;
    issuer.subscribe(Value::Null).await;
    let (_, list) = issuer.get("/v1/event_subscriptions").await;
    let token = list["data"][0]["token"].as_str().unwrap();
    assert_eq!(issuer.post_empty(&format!("/v1/event_subscriptions/{token}/replay_missing")).await, 202);
    assert_eq!(issuer.receiver.wait_for_events(1).await[0].body["event_type"], "card.created");
    issuer.stop().await;
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_old_one() {
    let issuer = TestIssuer::start().await;
    let old = issuer.subscribe(Value::Null).await;
    let (_, list) = issuer.get("/v1/event_subscriptions").await;
    let path = format!("/v1/event_subscriptions/{}/secret", list["data"][0]["token"].as_str().unwrap());
    assert_eq!(issuer.post_empty(&format!("{path}/rotate")).await, 204);
    let new = issuer.get(&path).await.1["secret"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    issuer.create(new_card(1)).await;
    let event = issuer.receiver.wait_for_events(1).await.remove(0);
    assert!(issuer.receiver.verify(&event, &old) && issuer.receiver.verify(&event, &new));
    issuer.stop().await;
}

#[tokio::test]
async fn mock_faults_drop_double_forge_delay_and_reorder_events() {
    let issuer = TestIssuer::start().await;
    let secret = issuer.subscribe(json!(["card.created"])).await;
    issuer.mock(json!({ "webhooks": { "drop": 1 } })).await;
    issuer.create(new_card(1)).await;
    issuer.until_switched(|mock| mock["webhooks"]["drop"] == 0).await;
    issuer.mock(json!({ "webhooks": { "duplicate": 1 } })).await;
    let doubled = issuer.create(new_card(1)).await;
    let events = issuer.receiver.wait_for_events(2).await;
    assert!(events.iter().all(|event| event.body["card_token"] == doubled["token"]), "the dropped one never comes");
    assert_eq!(events[0].headers["webhook-id"], events[1].headers["webhook-id"]);

    issuer.mock(json!({ "webhooks": { "corrupt_signature": 1 } })).await;
    issuer.create(new_card(1)).await;
    let forged = issuer.receiver.wait_for_events(3).await.remove(2);
    assert!(!issuer.receiver.verify(&forged, &secret));
    issuer.mock(json!({ "webhooks": { "stale": 1 } })).await;
    issuer.create(new_card(1)).await;
    let stale = issuer.receiver.wait_for_events(4).await.remove(3);
    assert!(!issuer.receiver.verify(&stale, &secret));

    issuer.mock(json!({ "webhooks": { "paused": true, "newest_first": true } })).await;
    let mut created = Vec::new();
    for _ in 0..5 {
        created.insert(0, issuer.create(new_card(1)).await["token"].clone());
    }
    assert_eq!(issuer.receiver.events().len(), 4);
    issuer.mock(json!({ "webhooks": { "paused": false } })).await;
    let events = issuer.receiver.wait_for_events(9).await;
    let told: Vec<_> = events[4..].iter().map(|event| event.body["card_token"].clone()).collect();
    assert_eq!(told, created);
    assert_eq!(issuer.mock(json!({ "webhooks": { "dorp": 1 } })).await, 400);
    issuer.stop().await;
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_delivers_what_it_still_owes() {
    let mut issuer = TestIssuer::start().await;
    issuer.subscribe(Value::Null).await;
    issuer.mock(json!({ "webhooks": { "paused": true } })).await;
    let card = issuer.create(new_card(2_500)).await;
    let (_, authorized) = issuer.post("/v1/simulate/authorize", charge(&card, 1_000)).await;
    assert!(issuer.receiver.events().is_empty());
    issuer.restart().await;
    let mut told: Vec<_> = issuer.receiver.wait_for_events(3).await;
    told.sort_by_key(|event| event.body["event_type"].to_string());
    let kinds: Vec<_> = told.iter().map(|event| event.body["event_type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["card.created", "card.updated", "card_transaction.updated"]);
    let (_, known) = issuer.get(&format!("/v1/cards/{}", card["token"].as_str().unwrap())).await;
    assert_eq!((&known["pan"], &known["cvv"], &known["state"]), (&card["pan"], &card["cvv"], &json!("CLOSED")));
    let clearing = json!({ "token": authorized["token"] });
    assert_eq!(issuer.post("/v1/simulate/clearing", clearing).await.0, 201);
    issuer.stop().await;
}

#[tokio::test]
async fn what_comes_by_force_posts_even_to_a_closed_card() {
    let issuer = TestIssuer::start().await;
    let card = issuer.create(new_card(2_500)).await;
    let path = format!("/v1/cards/{}", card["token"].as_str().unwrap());
    assert_eq!(issuer.patch(&path, json!({ "state": "CLOSED" })).await.0, 200);
    assert_eq!(issuer.patch(&path, json!({ "state": "OPEN" })).await.0, 400);
    let forced =
        json!({ "card_token": card["token"], "amount": 900, "merchant_amount": 800, "merchant_currency": "EUR" });
    let (status, posted) = issuer.post("/_mock/force_post", forced).await;
    assert_eq!(status, 201);
    let (_, transaction) = issuer.get(&format!("/v1/transactions/{}", posted["token"].as_str().unwrap())).await;
    assert_eq!((&transaction["status"], &transaction["merchant_currency"]), (&json!("SETTLED"), &json!("EUR")));
    assert_eq!(transaction["events"][0]["type"], "CLEARING");

    let back = json!({ "amount": 900, "descriptor": "COFFEE", "pan": card["pan"] });
    let (status, returned) = issuer.post("/v1/simulate/return", back).await;
    assert_eq!(status, 201);
    assert_eq!(issuer.post("/v1/simulate/return_reversal", json!({ "token": returned["token"] })).await.0, 201);
    assert_eq!(issuer.post("/v1/simulate/return_reversal", json!({ "token": returned["token"] })).await.0, 422);
    issuer.stop().await;
}

#[tokio::test]
async fn callbacks_go_only_to_loopback_or_over_https() {
    let issuer = TestIssuer::start().await;
    for url in ["http://10.0.0.1/", "http://relayer.example/", "ftp://127.0.0.1/", "https://u:p@relayer.example/", ""] {
        assert_eq!(issuer.post("/v1/event_subscriptions", json!({ "url": url })).await.0, 400, "{url}");
        let register = json!({ "type": "AUTH_STREAM_ACCESS", "url": url });
        assert_eq!(issuer.post("/v1/responder_endpoints", register).await.0, 400, "{url}");
    }
    issuer.stop().await;
}

#[tokio::test]
async fn no_number_is_in_a_log_or_can_be_read_from_the_file() {
    let log = harness::log();
    let issuer = TestIssuer::with_limit(Duration::from_millis(200)).await;
    issuer.register().await;
    issuer.subscribe(Value::Null).await;
    let mut secrets = vec![issuer.asa_secret().await, harness::KEY.to_owned()];
    for answer in ["APPROVED", "SUSPECTED_FRAUD"] {
        issuer.receiver.answer(Answer::json(json!({ "result": answer })));
        let card = issuer.create(new_card(2_500)).await;
        issuer.post("/v1/simulate/authorize", charge(&card, 1_000)).await;
        issuer.post("/v1/simulate/authorize", json!({ "amount": "x", "descriptor": "X", "pan": card["pan"] })).await;
        issuer.post("/v1/simulate/return", charge(&card, 1_000)).await;
        secrets.push(card["pan"].as_str().unwrap().to_owned());
    }
    issuer.receiver.wait_for_events(7).await;
    let files = issuer.stop().await;
    let log = log.text();
    assert!(log.contains("answered") && log.contains("/v1/simulate/authorize"), "something was logged");
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "in the log");
    }
    for text in [log, files] {
        assert_eq!(harness::numbers_in(&text), Vec::<String>::new());
    }
}
