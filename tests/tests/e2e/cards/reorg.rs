//! The chain takes a card's hold back.

use alloy::providers::Provider;
use eyre::{OptionExt, Result};
use stipend_client::Client;
use stipend_core::{
    Code,
    api::{Card, CardSecrets, Mandate},
    card::CardState,
};
use stipend_e2e::{CardSettings, Purchase, Settings, TREASURY, World, balance, eventually};

use super::{closes, noted, requested};
use crate::{asking, usdc};

/// Deeper than any reorg here.
const FINALITY: u64 = 8;
const DAY: u64 = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn an_unmined_hold_pauses_its_card_until_mined_again() -> Result<()> {
    let cards = Some(CardSettings { poll: 1, ..CardSettings::default() });
    let world = World::with("card-reorg", &Settings { finality: FINALITY, cards, ..Settings::default() }).await?;
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
    let world =
        World::with("card-reorg-capture", &Settings { finality: FINALITY, cards, ..Settings::default() }).await?;
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

/// A card that can be charged, and whose hold is only just mined: the relayer is away when the chain
/// takes it back. What comes then is on the other branch.
async fn held_for_a_moment(name: &str) -> Result<(World, Mandate, Card, CardSecrets)> {
    let cards = Some(CardSettings { poll: 1, ..CardSettings::default() });
    let world = World::with(name, &Settings { finality: FINALITY, cards, ..Settings::default() }).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("100")?).await?;
    world.anvil.mine(FINALITY + 2).await?;
    world.followed(&agent).await?;
    world.anvil.automine(false).await?;
    let card = requested(&world, &agent, mandate.id).await?;
    world.anvil.arrived().await?;
    world.anvil.mine(2).await?;
    let card = world.card_in(&agent, card.id, CardState::Active).await?;
    let secrets = world.reveal(&agent, card.id).await?;
    Ok((world, mandate, card, secrets))
}

/// Takes the hold back while nobody looks.
async fn take_back(world: &mut World) -> Result<()> {
    world.relayer.kill()?;
    world.anvil.reorg(2).await?;
    world.anvil.automine(true).await
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_was_paused_by_a_relayer_that_died_is_opened() -> Result<()> {
    let (mut world, _, card, secrets) = held_for_a_moment("card-reorg-paused").await?;
    let provider = world.anvil.provider();
    let hold = provider.get_raw_transaction_by_hash(card.hold_tx.ok_or_eyre("not held")?).await?;
    let hold = hold.ok_or_eyre("the node does not know the hold")?;
    world.relayer.kill()?;
    world.anvil.reorg(2).await?;
    world.relayer.begin_to_die_at("card.paused")?;
    world.relayer.must_end().await?;
    assert_eq!(world.issuer()?.card_for(card.id).await?["state"], "PAUSED");
    // The hold is in the chain again before anybody looks.
    if world.anvil.waiting().await?.is_empty() {
        let _pending = world.anvil.provider().send_raw_transaction(&hold).await?;
    }
    world.anvil.mine(1).await?;
    world.relayer.restart().await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    eventually("it is open", async || Ok((issuer.card_for(card.id).await?["state"] == "OPEN").then_some(()))).await?;
    let charge = issuer.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
    issuer.clear(&charge, None).await?;
    world.anvil.automine(true).await?;
    closes(&world, &agent, &card, "18.40").await?;
    Ok(())
}

/// The card closes without ever having held anything on chain: all of it is back.
async fn closes_unheld(world: &World, agent: &Client, card: &Card, reason: Code) -> Result<()> {
    let closed = world.card_closed(agent, card.id).await?;
    assert_eq!((closed.captured, closed.released, closed.reason), (usdc("0")?, card.amount, Some(reason)));
    assert_eq!((closed.hold_tx, closed.settle_tx), (None, None));
    let mandate = agent.mandate(card.mandate).await?;
    assert_eq!((mandate.reserved, mandate.held), (usdc("0")?, usdc("0")?), "{mandate:?}");
    balance(world, agent, &[card.mandate]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_whose_hold_can_never_be_made_again_is_the_host_s() -> Result<()> {
    for clears_first in [true, false] {
        let (mut world, mandate, card, secrets) = held_for_a_moment("card-reorg-revoked").await?;
        let charge = world.issuer()?.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
        take_back(&mut world).await?;
        let revoked = world.escrow.revoke(&world.keys.operator, &mandate.terms).await?;
        assert_eq!(revoked.returned, mandate.terms.cap);
        world.relayer.restart().await?;
        let (agent, issuer) = (world.agent()?, world.issuer()?);
        noted(&agent, &card, "card.unmined", 1).await?;
        world.card_in(&agent, card.id, CardState::Closing).await?;
        if clears_first {
            issuer.clear(&charge, None).await?;
            noted(&agent, &card, "card.concluded", 1).await?;
        }
        // The other branch could still come back.
        assert_eq!(agent.mandate(mandate.id).await?.reserved, card.amount);
        assert_eq!(agent.card(card.id).await?.released, usdc("0")?);

        world.anvil.mine(FINALITY).await?;
        let lost = noted(&agent, &card, "card.hold_lost", 1).await?;
        assert_eq!((&lost.data["released"], &lost.data["reason"]), (&"25.00".into(), &Code::Ended.name().into()));
        if !clears_first {
            assert_eq!(agent.card(card.id).await?.state, CardState::Closing, "a clearing may still come");
            issuer.clear(&charge, None).await?;
        }
        closes_unheld(&world, &agent, &card, Code::Ended).await?;
        let shortfall = noted(&agent, &card, "card.shortfall", 1).await?;
        assert_eq!((&shortfall.data["cleared"], &shortfall.data["shortfall"]), (&"18.40".into(), &"18.40".into()));
        assert_eq!(agent.mandate(mandate.id).await?.returned, mandate.terms.cap);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_whose_hold_is_too_late_closes_and_is_swept() -> Result<()> {
    let (mut world, mandate, card, secrets) = held_for_a_moment("card-reorg-late").await?;
    take_back(&mut world).await?;
    world.anvil.pass(2 * DAY).await?;
    world.relayer.restart().await?;
    let agent = world.agent()?;
    noted(&agent, &card, "card.unmined", 1).await?;
    closes_unheld(&world, &agent, &card, Code::DeadlinePassed).await?;
    assert_eq!(agent.mandate(mandate.id).await?.available, mandate.terms.cap);
    assert_eq!(world.issuer()?.charge(&secrets, Purchase::of(1_840)).await?.declined()?, "CARD_CLOSED");
    world.anvil.pass(mandate.terms.expiry - world.time().await?).await?;
    world.returned(&agent, mandate.id, mandate.terms.cap).await
}
