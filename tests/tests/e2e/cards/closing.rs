//! The ways in which a card ends.

use eyre::Result;
use stipend_core::{Code, card::CardState};
use stipend_e2e::{CardSettings, Purchase, TREASURY, Void, balance, eventually};

use super::{active, charge, closes, noted, offered, offered_with, trail};
use crate::{code, usdc};

/// Long enough to be charged in, short enough to be waited for.
const SHORT: CardSettings = CardSettings { ttl: 4, poll: 1 };

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_is_taken_back_costs_nothing() -> Result<()> {
    let (world, mandate) = offered("card-void").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    for void in [Void::Reversal(None), Void::Reversal(Some(1_840))] {
        let card = active(&world, &agent, mandate.id).await?;
        let charge = charge(&world, &agent, card.id, 1_840).await?;
        issuer.void(&charge, void).await?;
        closes(&world, &agent, &card, "0").await?;
    }
    assert_eq!(agent.mandate(mandate.id).await?.available, usdc("100")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cleared_amounts_are_captured_and_pending_ones_awaited() -> Result<()> {
    let (world, mandate) = offered("card-partial").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);

    // A part is taken, and the rest may still come: although it lapses.
    let card = active(&world, &agent, mandate.id).await?;
    let first = charge(&world, &agent, card.id, 1_840).await?;
    issuer.clear(&first, Some(1_000)).await?;
    noted(&agent, &card, "card.issuer_event", 2).await?;
    world.anvil.mine(4).await?;
    world.followed(&agent).await?;
    let waiting = agent.card(card.id).await?;
    assert_eq!((waiting.state, waiting.captured), (CardState::Used, usdc("0")?));
    assert!(world.escrow.balance_of(TREASURY).await?.is_zero());
    issuer.void(&first, Void::Rest).await?;
    world.card_in(&agent, card.id, CardState::Closing).await?;
    world.anvil.mine(4).await?;
    world.followed(&agent).await?;
    assert_eq!(agent.card(card.id).await?.released, usdc("0")?);
    issuer.clear(&first, Some(840)).await?;
    closes(&world, &agent, &card, "18.40").await?;

    // All of it lapses, and is taken all the same.
    let card = active(&world, &agent, mandate.id).await?;
    let lapsed = charge(&world, &agent, card.id, 1_840).await?;
    issuer.void(&lapsed, Void::Expiry).await?;
    world.card_in(&agent, card.id, CardState::Closing).await?;
    world.anvil.mine(4).await?;
    world.followed(&agent).await?;
    assert_eq!(agent.card(card.id).await?.released, usdc("0")?);
    issuer.clear(&lapsed, Some(1_840)).await?;
    closes(&world, &agent, &card, "18.40").await?;

    // Two parts, the second later.
    let card = active(&world, &agent, mandate.id).await?;
    let second = charge(&world, &agent, card.id, 1_840).await?;
    issuer.clear(&second, Some(1_000)).await?;
    noted(&agent, &card, "card.issuer_event", 2).await?;
    issuer.clear(&second, None).await?;
    closes(&world, &agent, &card, "18.40").await?;

    // Less than was charged.
    let card = active(&world, &agent, mandate.id).await?;
    let third = charge(&world, &agent, card.id, 1_840).await?;
    issuer.void(&third, Void::Reversal(Some(400))).await?;
    noted(&agent, &card, "card.issuer_event", 2).await?;
    assert_eq!(agent.card(card.id).await?.state, CardState::Used);
    issuer.clear(&third, None).await?;
    closes(&world, &agent, &card, "14.40").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_hold_is_captured_whatever_is_cleared() -> Result<()> {
    let (world, mandate) = offered("card-over-clear").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 2_300).await?;
    // With a tip, say.
    issuer.clear(&charge, Some(2_700)).await?;
    closes(&world, &agent, &card, "25").await?;
    let notes = trail(&agent, &card).await?;
    let shortfalls: Vec<_> = notes.iter().filter(|entry| entry.kind == "card.shortfall").collect();
    assert_eq!(shortfalls.len(), 1, "{notes:?}");
    assert_eq!((&shortfalls[0].data["cleared"], &shortfalls[0].data["shortfall"]), (&"27.00".into(), &"2.00".into()));
    assert_eq!(agent.mandate(mandate.id).await?.available, usdc("75")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_nobody_charges_in_time_is_released() -> Result<()> {
    let (world, mandate) = offered_with("card-expiry", SHORT).await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let card = active(&world, &agent, mandate.id).await?;
    let secrets = world.reveal(&agent, card.id).await?;
    let closed = closes(&world, &agent, &card, "0").await?;
    assert_eq!(closed.reason, Some(Code::CardExpired));
    assert_eq!(issuer.charge(&secrets, Purchase::of(1_840)).await?.declined()?, "CARD_CLOSED");
    assert_eq!(agent.mandate(mandate.id).await?.available, usdc("100")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clearing_after_the_card_expired_is_captured() -> Result<()> {
    let (world, mandate) = offered_with("card-late-clearing", SHORT).await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 1_840).await?;
    world.card_in(&agent, card.id, CardState::Closing).await?;
    world.anvil.mine(4).await?;
    world.followed(&agent).await?;
    assert_eq!(agent.card(card.id).await?.released, usdc("0")?);
    issuer.clear(&charge, None).await?;
    closes(&world, &agent, &card, "18.40").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_and_operator_can_close_a_card_that_was_not_charged() -> Result<()> {
    let (world, mandate) = offered("card-close").await?;
    let (agent, operator, issuer) = (world.agent()?, world.operator()?, world.issuer()?);
    for closer in [&agent, &operator] {
        let card = active(&world, &agent, mandate.id).await?;
        let secrets = world.reveal(&agent, card.id).await?;
        assert_eq!(closer.close_card(card.id).await?.state, CardState::Closing);
        let closed = closes(&world, &agent, &card, "0").await?;
        assert_eq!(closer.close_card(card.id).await?, closed, "closing again changes nothing");
        assert_eq!(issuer.charge(&secrets, Purchase::of(1_840)).await?.declined()?, "CARD_CLOSED");
        assert_eq!(code(agent.card_secrets(card.id).await), Code::CardNotActive);
    }

    // A merchant who has a promise keeps it.
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 1_840).await?;
    world.card_in(&agent, card.id, CardState::Used).await?;
    for closer in [&agent, &operator] {
        assert_eq!(code(closer.close_card(card.id).await), Code::CardNotActive);
    }
    issuer.clear(&charge, None).await?;
    closes(&world, &agent, &card, "18.40").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_a_card_at_the_issuer_is_noticed() -> Result<()> {
    let (world, mandate) = offered_with("card-meddled", CardSettings { poll: 1, ..CardSettings::default() }).await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let card = active(&world, &agent, mandate.id).await?;
    let token = issuer.card_for(card.id).await?["token"].as_str().unwrap_or_default().to_owned();
    issuer.set_state(&token, "PAUSED").await?;
    eventually("the alarm cards", async || {
        let alarms = agent.readyz().await?.alarms;
        Ok(alarms.iter().any(|alarm| alarm.starts_with("cards: ") && alarm.contains("is paused")).then_some(()))
    })
    .await?;
    assert_eq!(agent.card(card.id).await?.state, CardState::Active);
    issuer.set_state(&token, "OPEN").await?;
    eventually("no alarm", async || Ok(agent.readyz().await?.alarms.is_empty().then_some(()))).await?;

    issuer.set_state(&token, "CLOSED").await?;
    let closed = closes(&world, &agent, &card, "0").await?;
    assert_eq!(closed.reason, Some(Code::ClosedByIssuer));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_mandate_closes_its_cards_and_keeps_approvals() -> Result<()> {
    let (world, mandate) = offered("card-revoked").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let (unused, used) = (active(&world, &agent, mandate.id).await?, active(&world, &agent, mandate.id).await?);
    let secrets = world.reveal(&agent, unused.id).await?;
    let charge = charge(&world, &agent, used.id, 1_840).await?;
    let revoked = world.escrow.revoke(&world.keys.operator, &mandate.terms).await?;
    assert_eq!(revoked.returned, usdc("50")?);

    let closed = world.card_closed(&agent, unused.id).await?;
    assert_eq!((closed.reason, closed.captured, closed.released), (Some(Code::Ended), usdc("0")?, usdc("25")?));
    assert_eq!(issuer.charge(&secrets, Purchase::of(1_840)).await?.declined()?, "CARD_CLOSED");
    issuer.clear(&charge, None).await?;
    let closed = world.card_closed(&agent, used.id).await?;
    assert_eq!((closed.captured, closed.released), (usdc("18.40")?, usdc("6.60")?));
    world.returned(&agent, mandate.id, usdc("81.60")?).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_message_stops_charges_before_any_block() -> Result<()> {
    let (world, mandate) = offered("card-revoking").await?;
    let (agent, operator, issuer) = (world.agent()?, world.operator()?, world.issuer()?);
    let (card, used) = (active(&world, &agent, mandate.id).await?, active(&world, &agent, mandate.id).await?);
    let secrets = world.reveal(&agent, card.id).await?;
    let promised = charge(&world, &agent, used.id, 1_840).await?;
    world.anvil.automine(false).await?;
    let accepted = operator.revoke_mandate(mandate.id, operator.sign_revocation(mandate.id).await?).await?;
    assert!(accepted.object.revoking);

    // Who is first decides which of the two says no: the relayer that is asked, or the closed card.
    let declined = issuer.charge(&secrets, Purchase::of(1_840)).await?.declined()?;
    assert!(matches!(declined.as_str(), "CARD_PAUSED" | "CARD_CLOSED"), "{declined}");
    let closing = world.card_in(&agent, card.id, CardState::Closing).await?;
    assert_eq!(closing.reason, Some(Code::Ended));
    for entry in trail(&agent, &card).await?.iter().filter(|entry| entry.kind == "card.declined") {
        let code = entry.data["code"].as_str();
        assert!([Code::Ended, Code::CardNotActive].iter().any(|reason| code == Some(reason.name())), "{entry:?}");
    }
    assert!(agent.mandate(mandate.id).await?.revoking, "no block has it");

    issuer.clear(&promised, None).await?;
    world.anvil.automine(true).await?;
    world.anvil.mine(1).await?;
    let closed = world.card_closed(&agent, card.id).await?;
    assert_eq!((closed.captured, closed.released), (usdc("0")?, usdc("25")?));
    let closed = world.card_closed(&agent, used.id).await?;
    assert_eq!((closed.captured, closed.released), (usdc("18.40")?, usdc("6.60")?));
    world.returned(&agent, mandate.id, usdc("81.60")?).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uncaptured_hold_returns_at_the_capture_end() -> Result<()> {
    let (mut world, mandate) = offered("card-unswept").await?;
    let agent = world.agent()?;
    let card = active(&world, &agent, mandate.id).await?;
    // Its host offers no cards any more: nobody closes the ones that there are.
    world.relayer.stop()?;
    world.relayer = world.relayer.without("--issuer-url")?;
    world.relayer.restart().await?;
    let revoked = world.escrow.revoke(&world.keys.operator, &mandate.terms).await?;
    assert_eq!(revoked.returned, usdc("75")?);
    world.returned(&agent, mandate.id, usdc("75")?).await?;

    world.anvil.pass(mandate.terms.capture_end - world.time().await?).await?;
    world.returned(&agent, mandate.id, usdc("100")?).await?;
    let swept = agent.card(card.id).await?;
    assert_eq!((swept.state, swept.captured, swept.released), (CardState::Closing, usdc("0")?, usdc("25")?));
    balance(&world, &agent, &[mandate.id]).await
}
