//! Cards that are not made, and callers who may not.

use eyre::Result;
use stipend_client::{CreateCard, Pay};
use stipend_core::{
    Amount, Code,
    api::{NewMandateRequest, PaymentState},
    card::{CLEARING_RESERVE, CardState},
};
use stipend_e2e::{ApiRequest, CardSettings, Settings, TREASURY, World, balance, key};

use super::{active, closes, offered};
use crate::{asking, code, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn what_no_card_is_made_of_is_refused_and_reserves_nothing() -> Result<()> {
    let (world, mandate) = offered("card-refusals").await?;
    let agent = world.agent()?;
    let order = CreateCard::new(mandate.id, usdc("25")?);
    let info = agent.info().await?.cards.unwrap();
    assert_eq!((info.treasury, info.ttl, info.clearing_reserve), (TREASURY, 3_600, CLEARING_RESERVE));
    let now = world.time().await?;
    let end = mandate.terms.capture_end;
    for (otherwise, expected) in [
        (CreateCard { amount: usdc("25.001")?, ..order.clone() }, Code::NotWholeCents),
        (CreateCard { amount: usdc("0.000001")?, ..order.clone() }, Code::NotWholeCents),
        (CreateCard { amount: Amount::ZERO, ..order.clone() }, Code::AmountZero),
        (CreateCard { amount: usdc("100.01")?, ..order.clone() }, Code::InsufficientBudget),
        (
            CreateCard { capture_by: Some(now + info.ttl + CLEARING_RESERVE - 60), ..order.clone() },
            Code::CaptureByTooSoon,
        ),
        (CreateCard { capture_by: Some(0), ..order.clone() }, Code::CaptureByTooSoon),
        (CreateCard { capture_by: Some(end + 1), ..order.clone() }, Code::CaptureByTooLate),
        (CreateCard { deadline: Some(now - 3_600), ..order.clone() }, Code::DeadlinePassed),
        (CreateCard { deadline: Some(now + 60), ..order.clone() }, Code::DeadlineTooSoon),
        (CreateCard { deadline: Some(now + 86_400 + 60), ..order.clone() }, Code::DeadlineTooLate),
    ] {
        // A nonce of one's own each time: a client would use the refused one again.
        let refused = world.create_card(&agent, &CreateCard { nonce: Some(0), ..otherwise.clone() }).await?;
        let problem = refused.as_ref().err().and_then(|error| error.problem()).cloned().unwrap();
        assert_eq!((problem.code, problem.status), (expected, 403), "{otherwise:?}");
        assert!(problem.decision.is_some_and(|decision| !decision.allow), "{otherwise:?}");
    }
    let untouched = agent.mandate(mandate.id).await?;
    assert_eq!((untouched.available, untouched.reserved), (usdc("100")?, usdc("0")?));
    assert!(agent.cards(Some(mandate.id), &Default::default()).await?.data.is_empty());

    // A signature for anything else is somebody else's.
    let hold = world.sign_card(&agent, &CreateCard { nonce: Some(0), ..order.clone() }).await?;
    for wrong in [
        stipend_core::api::NewCard { amount: usdc("26")?, ..hold.clone() },
        stipend_core::api::NewCard { nonce: 1, ..hold.clone() },
        stipend_core::api::NewCard { capture_by: hold.capture_by + 1, ..hold.clone() },
        stipend_core::api::NewCard { deadline: hold.deadline + 1, ..hold.clone() },
    ] {
        assert_eq!(code(agent.send_card(&wrong, None).await), Code::NotFound);
    }
    assert_eq!(world.issuer()?.count().await?, 0);

    // The latest and the largest that pass.
    let card = CreateCard { capture_by: Some(end), amount: usdc("100")?, ..order };
    let card = world.create_card(&agent, &card).await??.object;
    world.card_in(&agent, card.id, CardState::Active).await?;
    agent.close_card(card.id).await?;
    closes(&world, &agent, &card, "0").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_and_payments_share_their_nonces() -> Result<()> {
    let (world, mandate) = offered("card-nonces").await?;
    let agent = world.agent()?;
    let payment = Pay { nonce: Some(3), ..Pay::new(mandate.id, payee(1), usdc("1")?) };
    let order = CreateCard { nonce: Some(3), ..CreateCard::new(mandate.id, usdc("25")?) };

    let paid = world.pay(&agent, &payment).await??.object;
    assert_eq!(code(world.create_card(&agent, &order).await?), Code::NonceTaken);
    world.settled(&agent, &paid).await?;
    let refused = code(world.create_card(&agent, &order).await?);
    assert!(matches!(refused, Code::NonceTaken | Code::NonceUsed), "{refused}");

    let order = CreateCard { nonce: Some(4), ..order };
    let card = world.create_card(&agent, &order).await??.object;
    let payment = Pay { nonce: Some(4), ..payment };
    assert_eq!(code(world.pay(&agent, &payment).await?), Code::NonceTaken);
    world.card_in(&agent, card.id, CardState::Active).await?;
    agent.close_card(card.id).await?;
    closes(&world, &agent, &card, "0").await?;
    let refused = code(world.pay(&agent, &payment).await?);
    assert!(matches!(refused, Code::NonceTaken | Code::NonceUsed), "{refused}");

    // What each chooses by itself is the other's next one.
    let card = world.create_card(&agent, &CreateCard { nonce: None, ..order }).await??.object;
    let paid = world.pay(&agent, &Pay { nonce: None, ..payment }).await??.object;
    assert_eq!((card.nonce, paid.nonce), (5, 6));
    world.payment_in(&agent, &paid, PaymentState::Mined).await?;
    world.card_in(&agent, card.id, CardState::Active).await?;
    agent.close_card(card.id).await?;
    world.settled(&agent, &paid).await?;
    closes(&world, &agent, &card, "0").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn payee_lists_allow_cards_only_with_the_treasury() -> Result<()> {
    let cards = Some(CardSettings::default());
    let world = World::with("card-payees", &Settings { cards, ..Settings::default() }).await?;
    let agent = world.agent()?;
    let without = world.open(&NewMandateRequest { payees: Some(vec![payee(1), payee(2)]), ..asking("100")? }).await?;
    let with = world.open(&NewMandateRequest { payees: Some(vec![payee(1), TREASURY]), ..asking("100")? }).await?;
    let order = CreateCard::new(without.id, usdc("25")?);
    assert_eq!(code(world.create_card(&agent, &order).await?), Code::PayeeNotAllowed);
    let card = active(&world, &agent, with.id).await?;
    agent.close_card(card.id).await?;
    closes(&world, &agent, &card, "0").await?;
    balance(&world, &agent, &[without.id, with.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_stands_for_one_card() -> Result<()> {
    let (world, mandate) = offered("card-idempotency").await?;
    let agent = world.agent()?;
    let keyed = CreateCard { idempotency_key: Some("task 7".into()), ..CreateCard::new(mandate.id, usdc("25")?) };
    let (first, again) = (world.create_card(&agent, &keyed).await??, world.create_card(&agent, &keyed).await??);
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.object.id, again.object.id);
    let other = CreateCard { amount: usdc("26")?, ..keyed.clone() };
    assert_eq!(code(world.create_card(&agent, &other).await?), Code::IdempotencyKeyReused);
    let payment = Pay { idempotency_key: keyed.idempotency_key, ..Pay::new(mandate.id, TREASURY, usdc("25")?) };
    assert_eq!(code(world.pay(&agent, &payment).await?), Code::IdempotencyKeyReused);
    world.card_in(&agent, first.object.id, CardState::Active).await?;
    assert_eq!(world.issuer()?.count().await?, 1);
    agent.close_card(first.object.id).await?;
    closes(&world, &agent, &first.object, "0").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_belongs_to_its_agent_and_its_operator_may_look() -> Result<()> {
    let (world, mandate) = offered("card-tenants").await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    let stranger = world.client(&key("a stranger")?)?;
    let card = active(&world, &agent, mandate.id).await?;
    world.reveal(&agent, card.id).await?;

    // The stranger has a mandate, just not this one.
    let elsewhere = world.open_for(&stranger, &asking("50")?).await?;
    let theirs = active(&world, &stranger, elsewhere.id).await?;
    for (client, id) in [(&stranger, card.id), (&agent, theirs.id)] {
        assert_eq!(code(client.card(id).await), Code::NotFound);
        assert_eq!(code(client.card_secrets(id).await.map(drop)), Code::NotFound);
        assert_eq!(code(client.close_card(id).await), Code::NotFound);
        assert!(client.cards(None, &Default::default()).await?.data.iter().all(|card| card.id != id));
        assert!(client.audit(None, 0, Some(100)).await?.data.iter().all(|entry| entry.card != Some(id)));
    }
    let order = CreateCard { nonce: Some(9), ..CreateCard::new(mandate.id, usdc("1")?) };
    assert_eq!(code(stranger.create_card(order).await), Code::NotFound);
    for path in ["", "/secrets"] {
        let path = format!("/v1/cards/{}{path}", card.id);
        assert_eq!(ApiRequest::get(world.url(&path)?).send().await?.status, 401);
    }

    // The operator sees the card, and not its number.
    assert_eq!(operator.card(card.id).await?.state, CardState::Active);
    assert_eq!(code(operator.card_secrets(card.id).await.map(drop)), Code::NotFound);
    let mut seen: Vec<_> = operator.cards(None, &Default::default()).await?.data;
    seen.retain(|seen| seen.id == card.id || seen.id == theirs.id);
    assert_eq!(seen.len(), 2);
    let trail = super::trail(&agent, &card).await?;
    let looks: Vec<_> = trail.iter().filter(|entry| entry.kind == "card.revealed").collect();
    assert_eq!(looks.len(), 1);
    assert_eq!(looks[0].data["to"], agent.address().to_string());

    for (client, card) in [(&agent, &card), (&stranger, &theirs)] {
        client.close_card(card.id).await?;
        closes(&world, client, card, "0").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_without_an_issuer_says_so() -> Result<()> {
    let world = World::start("card-not-offered").await?;
    let agent = world.agent()?;
    assert_eq!(agent.info().await?.cards, None);
    let body = r#"{"mandate":"0x00"}"#;
    assert!(world.post("/v1/cards", body, &world.keys.agent).await?.send().await?.status >= 400);
    for path in ["/v1/issuer/events", "/v1/issuer/authorizations"] {
        let problem = ApiRequest::post(world.url(path)?, "{}").send().await?.problem()?;
        assert_eq!((problem.code, problem.status), (Code::CardsNotOffered, 501));
    }
    Ok(())
}
