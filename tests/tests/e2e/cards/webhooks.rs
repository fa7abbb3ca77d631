//! What the issuer tells: lost, twice, in another order, and what it never said.

use eyre::Result;
use serde_json::{Value, json};
use stipend_client::{Client, now};
use stipend_core::{Code, api::Card, card::CardState};
use stipend_e2e::{Answer, ApiRequest, CardSettings, Issuer, Purchase, Void, World, signed_by_issuer};

use super::{active, charge, closes, kinds, noted, offered, offered_with, trail};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_told_is_found_by_asking() -> Result<()> {
    let asking = CardSettings { poll: 1, ..CardSettings::default() };
    let (world, mandate) = offered_with("webhooks-dropped", asking).await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    issuer.fault(json!({ "webhooks": { "drop": 1_000 } })).await?;
    for (void, captured) in [(None, "18.40"), (Some(Void::Reversal(None)), "0")] {
        let card = active(&world, &agent, mandate.id).await?;
        let charge = charge(&world, &agent, card.id, 1_840).await?;
        match void {
            Some(void) => issuer.void(&charge, void).await?,
            None => issuer.clear(&charge, None).await?,
        }
        closes(&world, &agent, &card, captured).await?;
    }
    let dropped = issuer.faults().await?["webhooks"]["drop"].as_u64();
    assert!(dropped.is_some_and(|left| left < 1_000), "nothing was told, so nothing was lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_twice_or_newest_first_counts_once() -> Result<()> {
    let (world, mandate) = offered("webhooks-twice").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);

    // Each twice, questions too.
    issuer.fault(json!({ "webhooks": { "duplicate": 1_000 }, "asa": { "duplicate": 1_000 } })).await?;
    let card = active(&world, &agent, mandate.id).await?;
    let first = charge(&world, &agent, card.id, 1_840).await?;
    issuer.clear(&first, Some(1_000)).await?;
    issuer.clear(&first, Some(840)).await?;
    closes(&world, &agent, &card, "18.40").await?;
    assert_events(&agent, &card, &["AUTHORIZATION", "CLEARING", "CLEARING"]).await?;
    let kinds = kinds(&agent, &card).await?;
    assert_eq!(kinds.iter().filter(|kind| *kind == "card.authorized").count(), 1, "{kinds:?}");
    assert!(!kinds.contains(&"card.declined".to_owned()), "{kinds:?}");
    issuer.well().await?;

    // The newest first: the whole story at once, then its parts again.
    issuer.fault(json!({ "webhooks": { "paused": true, "newest_first": true } })).await?;
    let card = active(&world, &agent, mandate.id).await?;
    let second = charge(&world, &agent, card.id, 1_840).await?;
    issuer.clear(&second, Some(1_000)).await?;
    issuer.clear(&second, Some(500)).await?;
    issuer.clear(&second, None).await?;
    assert_eq!(agent.card(card.id).await?.state, CardState::Used);
    issuer.fault(json!({ "webhooks": { "paused": false } })).await?;
    closes(&world, &agent, &card, "18.40").await?;
    assert_events(&agent, &card, &["AUTHORIZATION", "CLEARING", "CLEARING", "CLEARING"]).await
}

/// Each of these was noted once.
async fn assert_events(agent: &Client, card: &Card, expected: &[&str]) -> Result<()> {
    let trail = trail(agent, card).await?;
    let events = trail.iter().filter(|entry| entry.kind == "card.issuer_event");
    let mut events: Vec<_> = events.map(|entry| entry.data["event"].as_str().unwrap_or_default()).collect();
    let mut expected = expected.to_vec();
    events.sort_unstable();
    expected.sort_unstable();
    assert_eq!(events, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_wrongly_or_too_late_is_told_again() -> Result<()> {
    let (world, mandate) = offered("webhooks-corrupt").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    for fault in ["corrupt_signature", "stale", "fail"] {
        let card = active(&world, &agent, mandate.id).await?;
        let charge = charge(&world, &agent, card.id, 1_840).await?;
        noted(&agent, &card, "card.issuer_event", 1).await?;
        issuer.fault(json!({ "webhooks": { fault: 2 } })).await?;
        issuer.clear(&charge, None).await?;
        closes(&world, &agent, &card, "18.40").await?;
        assert_eq!(issuer.faults().await?["webhooks"][fault], 0, "{fault} has not hit");
    }
    Ok(())
}

/// Calls to the relayer in the issuer's name.
struct Forger<'a> {
    world: &'a World,
    path: &'static str,
    secret: &'a str,
}

impl Forger<'_> {
    fn signed(&self, body: &str, id: &str, at: u64) -> Result<ApiRequest> {
        signed_by_issuer(self.secret, self.world.url(self.path)?, body, id, at)
    }

    /// Every way to get it wrong. None may be taken.
    async fn all_refused(&self, body: &str, altered: &str, other_secret: &str) -> Result<()> {
        let right = || self.signed(body, "msg_forged", now());
        let without = |name: &str| {
            let mut call = right()?;
            call.headers.remove(name);
            Ok::<_, eyre::Report>(call)
        };
        let nobody_s = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let with_secret =
            |secret: &str| signed_by_issuer(secret, self.world.url(self.path)?, body, "msg_forged", now());
        for (what, call) in [
            ("unsigned", ApiRequest::post(self.world.url(self.path)?, body)),
            ("no id", without("webhook-id")?),
            ("no timestamp", without("webhook-timestamp")?),
            ("no signature", without("webhook-signature")?),
            ("another secret", with_secret(nobody_s)?),
            ("the other call's secret", with_secret(other_secret)?),
            ("too old", self.signed(body, "msg_forged", now() - 310)?),
            ("from the future", self.signed(body, "msg_forged", now() + 310)?),
            ("another time", right()?.with("webhook-timestamp", (now() - 1).to_string())?),
            ("another id", right()?.with("webhook-id", "msg_other")?),
            ("another body", ApiRequest { body: altered.into(), ..right()? }),
            ("a byte more", ApiRequest { body: format!("{body} ").into(), ..right()? }),
        ] {
            let answer = call.send().await?;
            assert_eq!((answer.status, answer.problem()?.code), (401, Code::Unauthenticated), "{what}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn news_that_the_issuer_did_not_sign_changes_nothing() -> Result<()> {
    let (world, mandate) = offered("webhooks-forged").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 1_840).await?;
    noted(&agent, &card, "card.issuer_event", 1).await?;

    // What the issuer says and nobody hears yet.
    issuer.fault(json!({ "webhooks": { "paused": true } })).await?;
    issuer.clear(&charge, Some(1_840)).await?;
    let news = issuer.events().await?.pop().unwrap();
    let body = news.to_string();
    let altered = body.replace("1840", "2400");
    assert_ne!(body, altered);
    let before = agent.audit(Some(mandate.id), 0, Some(100)).await?.data.len();
    let [questions, events] = issuer.signing_secrets().await?;
    let forger = Forger { world: &world, path: "/v1/issuer/events", secret: &events };
    forger.all_refused(&body, &altered, &questions).await?;
    assert_eq!(agent.card(card.id).await?.state, CardState::Used);
    assert_eq!(agent.audit(Some(mandate.id), 0, Some(100)).await?.data.len(), before);

    // It was all refused for its signature alone. The same facts under another id are no news.
    for id in ["msg_1", "msg_1", "msg_2"] {
        assert_eq!(forger.signed(&body, id, now())?.send().await?.status, 204);
    }
    assert_events(&agent, &card, &["AUTHORIZATION", "CLEARING"]).await?;
    issuer.well().await?;
    closes(&world, &agent, &card, "18.40").await?;
    Ok(())
}

/// A question about a charge, in the form that the issuer asks it in.
fn question(transaction: &str, card: &str, cents: i64) -> String {
    let money = json!({ "amount": cents, "conversion_rate": "1.000000", "currency": "USD" });
    json!({
        "event_type": "card_authorization.approval_request", "token": transaction, "status": "AUTHORIZATION",
        "card": { "token": card }, "cash_amount": 0,
        "amounts": { "cardholder": money, "hold": money, "merchant": money, "settlement": null },
        "merchant": { "descriptor": "A MERCHANT", "mcc": "5734" },
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_the_issuer_did_not_sign_is_not_answered() -> Result<()> {
    let (world, mandate) = offered("questions-forged").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let card = active(&world, &agent, mandate.id).await?;
    let token = token(issuer, &card).await?;
    let [questions, events] = issuer.signing_secrets().await?;
    let forger = Forger { world: &world, path: "/v1/issuer/authorizations", secret: &questions };
    let before = trail(&agent, &card).await?.len();
    let body = question("forged", &token, 1_840);
    forger.all_refused(&body, &question("forged", &token, 1), &events).await?;
    assert_eq!((trail(&agent, &card).await?.len(), agent.card(card.id).await?.state), (before, CardState::Active));

    // Those that are signed are answered: each once, the same way every time, and about one amount.
    let ask = async |body: String| forger.signed(&body, "msg_question", now())?.send().await;
    assert_eq!(authorization_result(&ask(question("t-1", &token, 2_501)).await?)?, "INSUFFICIENT_FUNDS");
    assert_eq!(authorization_result(&ask(question("t-1", &token, 2_501)).await?)?, "INSUFFICIENT_FUNDS");
    assert_eq!(authorization_result(&ask(question("t-1", &token, 100)).await?)?, "VELOCITY_EXCEEDED");
    assert_eq!(authorization_result(&ask(question("t-2", "no card of ours", 100)).await?)?, "CARD_PAUSED");
    noted(&agent, &card, "card.declined", 1).await?;
    assert_eq!(trail(&agent, &card).await?.len(), before + 1);

    // What the issuer itself signs wrongly is declined, and the card can still be charged.
    let secrets = world.reveal(&agent, card.id).await?;
    issuer.fault(json!({ "asa": { "corrupt_signature": 1 } })).await?;
    let declined = issuer.charge(&secrets, Purchase::of(1_840)).await?.declined()?;
    assert_eq!(declined, "MALFORMED_ASA_RESPONSE");
    let charge = issuer.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
    issuer.clear(&charge, None).await?;
    closes(&world, &agent, &card, "18.40").await?;
    Ok(())
}

fn authorization_result(answer: &Answer) -> Result<String> {
    assert_eq!(answer.status, 200);
    Ok(answer.json()?["result"].as_str().unwrap_or_default().to_owned())
}

async fn token(issuer: &Issuer, card: &Card) -> Result<String> {
    Ok(issuer.card_for(card.id).await?["token"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_approved_here_is_not_captured() -> Result<()> {
    let (world, mandate) = offered("webhooks-force-post").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let force = async |card: &Card| {
        let body: Value = json!({ "card_token": token(issuer, card).await?, "amount": 300 });
        let posted = issuer.call(reqwest::Method::POST, "/_mock/force_post", Some(body)).await?;
        assert_eq!(posted.status, 201);
        Ok::<_, eyre::Report>(())
    };

    // Nothing was charged: the card is over, and its hold goes back.
    let card = active(&world, &agent, mandate.id).await?;
    force(&card).await?;
    closes(&world, &agent, &card, "0").await?;
    assert_eq!(noted(&agent, &card, "card.shortfall", 1).await?.data["shortfall"], "3.00");

    // Something was: that alone is captured.
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 1_840).await?;
    force(&card).await?;
    issuer.clear(&charge, None).await?;
    closes(&world, &agent, &card, "18.40").await?;
    Ok(())
}
