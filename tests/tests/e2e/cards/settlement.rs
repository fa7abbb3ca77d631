//! What the issuer took for a card is captured from its hold, borne by the host, or owed back: all of it, in
//! whatever message and however late.

use alloy_primitives::{B256, U256};
use eyre::Result;
use stipend_bindings::{
    abi::{MandateEscrow::refundCall, MockUSDC::approveCall},
    terms_on_chain,
};
use stipend_client::Client;
use stipend_core::{
    api::{Card, CardSecrets},
    card::CardState,
};
use stipend_e2e::{Borne, CardSettings, Purchase, TREASURY, Void, World, borne, eventually};

use super::{active, charge, closes, noted, offered, offered_with};
use crate::usdc;

/// As dollars: captured, shortfall, owed back.
async fn is_borne(world: &World, agent: &Client, card: &Card, dollars: [&str; 3]) -> Result<()> {
    let Borne { captured, shortfall, owed_back } = borne(agent, world.issuer()?, card).await?;
    let [first, second, third] = dollars;
    assert_eq!([captured, shortfall, owed_back], [usdc(first)?, usdc(second)?, usdc(third)?]);
    Ok(())
}

async fn revealed(world: &World, agent: &Client, card: &Card) -> Result<CardSecrets> {
    world.reveal(agent, card.id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_in_a_single_message_is_captured() -> Result<()> {
    let (world, mandate) = offered("card-single-message").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let card = active(&world, &agent, mandate.id).await?;
    let secrets = revealed(&world, &agent, &card).await?;
    let at_once = Purchase { status: "FINANCIAL_AUTHORIZATION", ..Purchase::of(500) };
    issuer.charge(&secrets, at_once).await?.approved()?;
    closes(&world, &agent, &card, "5").await?;
    is_borne(&world, &agent, &card, ["5", "0", "0"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cleared_after_the_end_is_the_host_shortfall() -> Result<()> {
    let (world, mandate) = offered("card-late").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);

    // Taken back, closed, and cleared all the same.
    let card = active(&world, &agent, mandate.id).await?;
    let voided = charge(&world, &agent, card.id, 1_000).await?;
    issuer.void(&voided, Void::Reversal(None)).await?;
    closes(&world, &agent, &card, "0").await?;
    issuer.clear(&voided, Some(1_000)).await?;
    noted(&agent, &card, "card.shortfall", 1).await?;
    is_borne(&world, &agent, &card, ["0", "10", "0"]).await?;

    // A second clearing; and then a merchant who gives most of it back.
    let card = active(&world, &agent, mandate.id).await?;
    let secrets = revealed(&world, &agent, &card).await?;
    let charged = issuer.charge(&secrets, Purchase::of(1_000)).await?.approved()?;
    issuer.clear(&charged, None).await?;
    closes(&world, &agent, &card, "10").await?;
    issuer.clear(&charged, Some(400)).await?;
    noted(&agent, &card, "card.shortfall", 1).await?;
    is_borne(&world, &agent, &card, ["10", "4", "0"]).await?;
    issuer.refund(&secrets, 900).await?;
    noted(&agent, &card, "card.refund_due", 1).await?;
    is_borne(&world, &agent, &card, ["10", "0", "5"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_by_a_merchant_is_owed_back_or_not_captured() -> Result<()> {
    let (world, mandate) = offered_with("card-refund", CardSettings { poll: 1, ..CardSettings::default() }).await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);

    // After the capture.
    let card = active(&world, &agent, mandate.id).await?;
    let secrets = revealed(&world, &agent, &card).await?;
    let charged = issuer.charge(&secrets, Purchase::of(1_000)).await?.approved()?;
    issuer.clear(&charged, None).await?;
    closes(&world, &agent, &card, "10").await?;
    issuer.refund(&secrets, 400).await?;
    let due = noted(&agent, &card, "card.refund_due", 1).await?;
    assert_eq!((&due.data["captured"], &due.data["returned"]), (&"10.00".into(), &"4.00".into()));
    is_borne(&world, &agent, &card, ["10", "0", "4"]).await?;
    let alarm = eventually("the alarm refund_due", async || {
        Ok(agent.readyz().await?.alarms.into_iter().find(|alarm| alarm.starts_with("refund_due: ")))
    })
    .await?;
    assert!(alarm.contains(&format!("`stipend refund --mandate {} --amount 4.00`", mandate.id)), "{alarm}");

    // Before the clearing: so much less is captured. Money that comes back is no charge, and uses up no card.
    let card = active(&world, &agent, mandate.id).await?;
    let secrets = revealed(&world, &agent, &card).await?;
    issuer.refund(&secrets, 400).await?;
    noted(&agent, &card, "card.issuer_event", 1).await?;
    assert_eq!(agent.card(card.id).await?.state, CardState::Active);
    let charged = issuer.charge(&secrets, Purchase::of(1_000)).await?.approved()?;
    issuer.clear(&charged, None).await?;
    closes(&world, &agent, &card, "6").await?;
    is_borne(&world, &agent, &card, ["6", "0", "0"]).await?;

    // The treasury passes it on, and no more is due.
    let amount = usdc("4")?.units();
    let (escrow, token) = (world.escrow.domain().escrow, world.escrow.token());
    let approve = approveCall { spender: escrow, value: U256::from(amount) };
    world.anvil.send_as(TREASURY, token, &approve).await?;
    let refund = refundCall { terms: terms_on_chain(&mandate.terms)?, amount, r#ref: B256::ZERO };
    world.anvil.send_as(TREASURY, escrow, &refund).await?;
    eventually("the alarm is cleared", async || {
        world.anvil.mine(1).await?;
        Ok(agent.readyz().await?.alarms.is_empty().then_some(()))
    })
    .await?;
    assert_eq!(agent.mandate(mandate.id).await?.refunded, usdc("4")?);
    Ok(())
}
