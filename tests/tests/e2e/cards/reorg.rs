//! The chain takes a card's hold back.

use eyre::Result;
use stipend_core::{Code, card::CardState};
use stipend_e2e::{CardSettings, Purchase, Settings, TREASURY, World, eventually};

use super::{closes, noted, requested};
use crate::{asking, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn a_card_whose_hold_is_unmined_is_paused_until_it_is_mined_again() -> Result<()> {
    let cards = Some(CardSettings { poll: 1, ..CardSettings::default() });
    // Deeper than any reorg here.
    let world = World::with("card-reorg", &Settings { finality: 8, cards, ..Settings::default() }).await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let mandate = world.open(&asking("100")?).await?;
    world.anvil.mine(10).await?;
    world.followed(&agent).await?;
    world.anvil.automine(false).await?;
    let card = requested(&world, &agent, mandate.id).await?;
    let sent = world.anvil.arrived().await?;
    world.anvil.mine(2).await?;
    let card = world.card_in(&agent, card.id, CardState::Active).await?;
    assert_eq!(card.hold_tx, Some(sent));
    let secrets = world.reveal(&agent, card.id).await?;

    world.anvil.reorg(2).await?;
    noted(&agent, &card, "card.unmined", 1).await?;
    let issued_is = async |state: &str| {
        eventually(&format!("{} is {state} at the issuer", card.id), async || {
            Ok(Some(issuer.card_for(card.id).await?).filter(|issued| issued["state"] == state))
        })
        .await
    };
    let issued = issued_is("PAUSED").await?;
    assert_eq!(issuer.charge(&secrets, Purchase::of(1_840)).await?.declined()?, "CARD_PAUSED");
    // Even if the issuer did not pause it, the relayer would decline.
    let token = issued["token"].as_str().unwrap();
    issuer.set_state(token, "OPEN").await?;
    assert_eq!(issuer.charge(&secrets, Purchase::of(1_840)).await?.declined()?, "CARD_PAUSED");
    let declined = noted(&agent, &card, "card.declined", 1).await?;
    assert_eq!(declined.data["code"], Code::CardNotActive.name());
    issuer.set_state(token, "PAUSED").await?;
    let during = agent.mandate(mandate.id).await?;
    assert_eq!((during.available, during.reserved, during.held), (usdc("75")?, usdc("25")?, usdc("0")?));

    // The same bytes again; then it can be charged, and is captured once.
    assert_eq!(world.anvil.arrived().await?, sent);
    world.anvil.mine(1).await?;
    noted(&agent, &card, "card.hold_mined", 2).await?;
    issued_is("OPEN").await?;
    let charge = issuer.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
    issuer.clear(&charge, None).await?;
    closes(&world, &agent, &card, "18.40").await?;
    assert_eq!(world.escrow.balance_of(TREASURY).await?, usdc("18.40")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_unmined_is_made_once() -> Result<()> {
    let cards = Some(CardSettings { poll: 1, ..CardSettings::default() });
    let world = World::with("card-reorg-capture", &Settings { finality: 8, cards, ..Settings::default() }).await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let mandate = world.open(&asking("100")?).await?;
    let card = super::active(&world, &agent, mandate.id).await?;
    world.anvil.mine(10).await?;
    world.followed(&agent).await?;
    let charge = super::charge(&world, &agent, card.id, 1_840).await?;
    world.anvil.automine(false).await?;
    issuer.clear(&charge, None).await?;
    let sent = world.anvil.arrived().await?;
    world.anvil.mine(2).await?;
    world.followed(&agent).await?;
    assert_eq!(world.escrow.balance_of(TREASURY).await?, usdc("18.40")?);
    world.anvil.reorg(2).await?;
    assert!(world.escrow.balance_of(TREASURY).await?.is_zero());
    assert_eq!(world.anvil.arrived().await?, sent);
    let closed = closes(&world, &agent, &card, "18.40").await?;
    assert_eq!(closed.settle_tx, Some(sent));
    Ok(())
}
