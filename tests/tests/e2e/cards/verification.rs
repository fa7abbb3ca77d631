//! Charges that come to nothing: merchants verify cards, and answers come too late.

use eyre::Result;
use serde_json::json;
use stipend_client::{Client, CreateCard};
use stipend_core::{
    Code,
    api::{Card, CardSecrets, Mandate},
    card::{CardState, VERIFICATIONS},
};
use stipend_e2e::{ASA_LIMIT_MS, Purchase, Void, World};

use super::{closes, kinds, noted, offered};
use crate::usdc;

/// A card over 10.00 that can be charged, with its number.
async fn small(world: &World, agent: &Client, mandate: &Mandate) -> Result<(Card, CardSecrets)> {
    let card = world.create_card(agent, &CreateCard::new(mandate.id, usdc("10")?)).await??.object;
    let card = world.card_in(agent, card.id, CardState::Active).await?;
    let secrets = world.reveal(agent, card.id).await?;
    Ok((card, secrets))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_a_merchant_verifies_stays_usable() -> Result<()> {
    let (world, mandate) = offered("card-verified").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let (card, secrets) = small(&world, &agent, &mandate).await?;

    // By nothing; and by a dollar that is taken back.
    issuer.charge(&secrets, Purchase::of(0)).await?.approved()?;
    let verified = noted(&agent, &card, "card.verified", 1).await?;
    assert_eq!(verified.data["amount"], "0.00");
    noted(&agent, &card, "card.issuer_event", 1).await?;
    assert_eq!(agent.card(card.id).await?.state, CardState::Active);
    let dollar = issuer.charge(&secrets, Purchase::of(100)).await?.approved()?;
    assert_eq!(agent.card(card.id).await?.state, CardState::Used);
    issuer.void(&dollar, Void::Reversal(None)).await?;
    let usable = world.card_in(&agent, card.id, CardState::Active).await?;
    assert_eq!(usable.authorized, None);

    let purchase = issuer.charge(&secrets, Purchase::of(900)).await?.approved()?;
    assert_eq!(issuer.charge(&secrets, Purchase::of(50)).await?.declined()?, "CARD_SPEND_LIMIT_EXCEEDED");
    let used = noted(&agent, &card, "card.declined", 1).await?;
    assert_eq!(used.data["code"], Code::CardUsed.name());
    issuer.clear(&purchase, None).await?;
    closes(&world, &agent, &card, "9").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn verifications_are_few_and_small() -> Result<()> {
    let (world, mandate) = offered("card-verified-often").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let (card, secrets) = small(&world, &agent, &mandate).await?;
    for _ in 0..VERIFICATIONS {
        issuer.charge(&secrets, Purchase::of(0)).await?.approved()?;
    }
    issuer.charge(&secrets, Purchase::of(0)).await?.declined()?;
    let last = issuer.charge(&secrets, Purchase::of(100)).await?.approved()?;
    issuer.void(&last, Void::Reversal(None)).await?;
    closes(&world, &agent, &card, "0").await?;

    // What is larger than a verification was a purchase.
    let (card, secrets) = small(&world, &agent, &mandate).await?;
    let purchase = issuer.charge(&secrets, Purchase::of(501)).await?.approved()?;
    issuer.void(&purchase, Void::Reversal(None)).await?;
    closes(&world, &agent, &card, "0").await?;

    // Taken although it was taken back, before anything else was charged.
    let (card, secrets) = small(&world, &agent, &mandate).await?;
    let dollar = issuer.charge(&secrets, Purchase::of(100)).await?.approved()?;
    issuer.void(&dollar, Void::Reversal(None)).await?;
    world.card_in(&agent, card.id, CardState::Active).await?;
    issuer.clear(&dollar, Some(100)).await?;
    closes(&world, &agent, &card, "1").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_was_answered_too_late_is_not_charged() -> Result<()> {
    let (world, mandate) = offered("card-late-answer").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let (card, secrets) = small(&world, &agent, &mandate).await?;
    issuer.fault(json!({ "asa": { "delay_ms": ASA_LIMIT_MS } })).await?;
    assert_eq!(issuer.charge(&secrets, Purchase::of(900)).await?.declined()?, "CUSTOMER_ASA_TIMEOUT");
    issuer.well().await?;
    let said = noted(&agent, &card, "card.not_charged", 1).await?;
    assert_eq!((&said.data["amount"], &said.data["why"]), (&"9.00".into(), &"declined by the issuer".into()));
    let usable = world.card_in(&agent, card.id, CardState::Active).await?;
    assert_eq!(usable.authorized, None);

    let charge = issuer.charge(&secrets, Purchase::of(900)).await?.approved()?;
    issuer.clear(&charge, None).await?;
    closes(&world, &agent, &card, "9").await?;
    let authorized = kinds(&agent, &card).await?.into_iter().filter(|kind| kind == "card.authorized").count();
    assert_eq!(authorized, 2);
    Ok(())
}
