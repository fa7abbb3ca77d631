//! A worker of the relayer panics: the relayer ends instead of taking what nobody would send.
#![cfg(debug_assertions)]

use std::fs;

use eyre::{Result, ensure};
use stipend_client::{CreateCard, Pay};
use stipend_core::card::CardState;
use stipend_e2e::{CardSettings, Settings, World, balance, eventually};

use crate::{asking, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_panic_stops_the_relayer_and_a_restart_resumes() -> Result<()> {
    let cards = Some(CardSettings { poll: 1, ..CardSettings::default() });
    let mut world = World::with("worker-panics", &Settings { cards, ..Settings::default() }).await?;
    let mandate = world.open(&asking("100")?).await?.id;
    let agent = world.agent()?;
    for (failpoint, said) in [
        ("mine.committed:1:panic", "the follower task panicked"),
        ("settle.stored:1:panic", "the sender task panicked"),
        ("card.creating:1:panic", "the card worker task panicked"),
    ] {
        world.relayer.stop()?;
        world.relayer.begin_to_die_at(failpoint)?;
        world.relayer.ready().await?;
        if failpoint.starts_with("card.") {
            let card = world.create_card(&agent, &CreateCard::new(mandate, usdc("25")?)).await??.object;
            ends(&mut world, said).await?;
            eventually("the card is active", async || {
                world.anvil.mine(1).await?;
                Ok((agent.card(card.id).await?.state == CardState::Active).then_some(()))
            })
            .await?;
        } else {
            let payment = world.pay(&agent, &Pay::new(mandate, payee(1), usdc("1")?)).await??.object;
            ends(&mut world, said).await?;
            world.settled(&agent, &payment).await?;
        }
    }
    world.anvil.mine(3).await?;
    world.followed(&agent).await?;
    balance(&world, &agent, &[mandate]).await
}

/// It ends by itself, says why, and is started again.
async fn ends(world: &mut World, said: &str) -> Result<()> {
    world.relayer.must_end().await?;
    let log = fs::read_to_string(world.dir().join("relayer.log"))?;
    ensure!(log.lines().rev().take(5).any(|line| line.contains(said)), "{said}: {log}");
    world.relayer.restart().await
}
