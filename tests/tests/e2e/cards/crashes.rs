//! The relayer is killed between any two steps of a card's life, and the card lives on.

use eyre::{Result, ensure};
use reqwest::Method;
use serde_json::json;
use stipend_client::{Client, Pay};
use stipend_core::{
    api::{Card, Mandate},
    card::CardState,
};
use stipend_e2e::{CardSettings, Purchase, World, eventually};

use super::{active, charge, closes, kinds, noted, offered_with, requested};
use crate::{payee, usdc};

/// What webhooks have missed is asked for soon.
const ASKING: CardSettings = CardSettings { ttl: 3_600, poll: 1 };

async fn to_be_killed(name: &str) -> Result<(World, Mandate, Client)> {
    let (world, mandate) = offered_with(name, ASKING).await?;
    let agent = world.agent()?;
    Ok((world, mandate, agent))
}

/// From wherever it is before it is charged to its end; it has become each of its states once.
async fn lives_on(world: &World, agent: &Client, card: &Card) -> Result<()> {
    eventually(&format!("{} is active", card.id), async || {
        world.anvil.mine(1).await?;
        Ok(Some(agent.card(card.id).await?).filter(|card| card.state == CardState::Active))
    })
    .await?;
    let charge = charge(world, agent, card.id, 1_840).await?;
    world.issuer()?.clear(&charge, None).await?;
    ends_once(world, agent, card).await
}

/// It ends as if nothing had happened.
async fn ends_once(world: &World, agent: &Client, card: &Card) -> Result<()> {
    closes(world, agent, card, "18.40").await?;
    assert_eq!(agent.mandate(card.mandate).await?.available, usdc("81.60")?);
    let mut kinds = kinds(agent, card).await?;
    kinds.retain(|kind| !["card.issuer_event", "card.revealed", "card.declined"].contains(&kind.as_str()));
    let (begun, ended) = (["requested", "hold_mined", "held", "active"], ["settled", "settled", "closed"]);
    let told = begun.into_iter().chain(["authorized", "used", "closing", "concluded"]).chain(ended);
    let told: Vec<_> = told.map(|kind| format!("card.{kind}")).collect();
    assert_eq!(kinds, told);
    assert_eq!(world.issuer()?.count().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_accepting() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-accepting").await?;
    world.anvil.automine(false).await?;
    let card = requested(&world, &agent, mandate.id).await?;
    world.relayer.kill()?;
    world.relayer.restart().await?;
    lives_on(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sending_the_hold_which_the_node_loses() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-sending").await?;
    world.anvil.automine(false).await?;
    let card = requested(&world, &agent, mandate.id).await?;
    let sent = world.anvil.arrived().await?;
    world.relayer.kill()?;
    world.anvil.drop_transaction(sent).await?;
    world.relayer.restart().await?;
    assert_eq!(world.anvil.arrived().await?, sent);
    lives_on(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sending_the_hold_which_is_mined_meanwhile() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-mined").await?;
    world.anvil.automine(false).await?;
    let card = requested(&world, &agent, mandate.id).await?;
    world.anvil.arrived().await?;
    world.relayer.kill()?;
    world.anvil.mine(10).await?;
    world.relayer.restart().await?;
    lives_on(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_issuer_made_the_card_and_its_answer_was_lost() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-creating").await?;
    let issuer = world.issuer()?;
    issuer.fault(json!({ "cards": { "lose_create_answer": 1_000 } })).await?;
    let card = requested(&world, &agent, mandate.id).await?;
    eventually("the issuer has made it", async || Ok((!issuer.cards_for(card.id).await?.is_empty()).then_some(())))
        .await?;
    let without = agent.card(card.id).await?;
    assert_eq!((without.state, without.last_four), (CardState::Held, None));
    world.relayer.kill()?;
    world.issuer()?.well().await?;
    world.relayer.restart().await?;
    lives_on(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_once_is_asked_for_again() -> Result<()> {
    let (world, mandate, agent) = to_be_killed("card-lost-answer").await?;
    world.issuer()?.fault(json!({ "cards": { "lose_create_answer": 1 } })).await?;
    let card = requested(&world, &agent, mandate.id).await?;
    lives_on(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_charge() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-charged").await?;
    let card = active(&world, &agent, mandate.id).await?;
    let secrets = world.reveal(&agent, card.id).await?;
    let charge = world.issuer()?.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
    world.relayer.kill()?;
    world.relayer.restart().await?;
    let used = agent.card(card.id).await?;
    assert_eq!((used.state, used.authorized), (CardState::Used, Some(usdc("18.40")?)));
    let issuer = world.issuer()?;
    issuer.charge(&secrets, Purchase::of(100)).await?.declined()?;
    issuer.clear(&charge, None).await?;
    ends_once(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_hears_of_the_clearing() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-before-clearing").await?;
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 1_840).await?;
    world.relayer.kill()?;
    world.issuer()?.clear(&charge, None).await?;
    world.relayer.restart().await?;
    ends_once(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_it_heard_of_the_clearing() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-cleared").await?;
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 1_840).await?;
    world.anvil.automine(false).await?;
    world.issuer()?.clear(&charge, None).await?;
    noted(&agent, &card, "card.closing", 1).await?;
    world.relayer.kill()?;
    world.relayer.restart().await?;
    ends_once(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sending_the_capture_which_the_node_loses() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-capture-lost").await?;
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 1_840).await?;
    world.anvil.automine(false).await?;
    world.issuer()?.clear(&charge, None).await?;
    let sent = world.anvil.arrived().await?;
    world.relayer.kill()?;
    world.anvil.drop_transaction(sent).await?;
    world.relayer.restart().await?;
    assert_eq!(world.anvil.arrived().await?, sent);
    ends_once(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sending_the_capture_which_is_mined_meanwhile() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-crash-captured").await?;
    let card = active(&world, &agent, mandate.id).await?;
    let charge = charge(&world, &agent, card.id, 1_840).await?;
    world.anvil.automine(false).await?;
    world.issuer()?.clear(&charge, None).await?;
    world.anvil.arrived().await?;
    world.relayer.kill()?;
    world.anvil.mine(1).await?;
    world.relayer.restart().await?;
    ends_once(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_while_down_is_declined_and_the_card_stays_usable() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("card-down").await?;
    let card = active(&world, &agent, mandate.id).await?;
    let secrets = world.reveal(&agent, card.id).await?;
    world.relayer.kill()?;
    let charge = world.issuer()?.charge(&secrets, Purchase::of(1_840)).await?;
    assert_eq!(charge.declined()?, "CUSTOMER_ASA_TIMEOUT");
    world.relayer.restart().await?;
    noted(&agent, &card, "card.issuer_event", 1).await?;
    let still = agent.card(card.id).await?;
    assert_eq!((still.state, still.authorized), (CardState::Active, None));
    lives_on(&world, &agent, &card).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_issuer_it_starts_and_pays_and_enrolls_later() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("issuer-away").await?;
    // Nobody listens on the port of a listener that is gone.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let url = world.issuer()?.url().to_string();
    world.relayer.set("--issuer-url", &format!("http://{nowhere}"))?;
    world.relayer.restart().await?;
    eventually("it is said", async || {
        let alarms = agent.readyz().await?.alarms;
        Ok(alarms.iter().any(|alarm| alarm.starts_with("cards: ") && alarm.contains("no connection")).then_some(()))
    })
    .await?;
    let pay = Pay::new(mandate.id, payee(1), usdc("1")?);
    let payment = world.pay(&agent, &pay).await??.object;
    world.settled(&agent, &payment).await?;

    // It forgets that we are to be asked, and is told again with the next poll.
    world.relayer.set("--issuer-url", &url)?;
    world.relayer.restart().await?;
    let issuer = world.issuer()?;
    let path = "/v1/responder_endpoints?type=AUTH_STREAM_ACCESS";
    let forgotten = issuer.call(Method::DELETE, path, None).await?;
    ensure!(forgotten.status < 300, "{}", forgotten.status);
    let enrolled =
        async || Ok::<_, eyre::Report>(issuer.call(Method::GET, path, None).await?.json()?["enrolled"] == true);
    eventually("it is enrolled again", async || Ok(enrolled().await?.then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_relayer_that_the_issuer_asks_instead_is_named() -> Result<()> {
    let (mut world, mandate, agent) = to_be_killed("other-responder").await?;
    let other = "http://127.0.0.1:9/v1/issuer/authorizations";
    let path = "/v1/responder_endpoints";
    let body = json!({ "type": "AUTH_STREAM_ACCESS", "url": other });
    let taken = world.issuer()?.call(Method::POST, path, Some(body)).await?;
    ensure!(taken.status < 300, "{}", taken.status);
    eventually("it is said", async || {
        let alarms = agent.readyz().await?.alarms;
        Ok(alarms.iter().any(|alarm| alarm.starts_with("cards: ") && alarm.contains(other)).then_some(()))
    })
    .await?;
    let path = "/v1/responder_endpoints?type=AUTH_STREAM_ACCESS";
    assert_eq!(world.issuer()?.call(Method::GET, path, None).await?.json()?["url"], other);
    world.relayer.restart().await?;
    eventually("all is well", async || Ok(agent.readyz().await?.alarms.is_empty().then_some(()))).await?;
    let card = requested(&world, &agent, mandate.id).await?;
    lives_on(&world, &agent, &card).await
}
