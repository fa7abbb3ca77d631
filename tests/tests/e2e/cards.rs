//! Cards: from an approved amount to a single-use card at a merchant, and back to the budget.

mod closing;
mod crashes;
mod lifecycle;
mod races;
mod refusals;
mod reorg;
mod secrets;
mod settlement;
mod verification;
mod webhooks;

use eyre::Result;
use stipend_client::{Client, CreateCard};
use stipend_core::{
    CardId, MandateId,
    api::{AuditEntry, Card, Mandate},
    card::CardState,
};
use stipend_e2e::{CardSettings, Purchase, Settings, World, balance, eventually};

use crate::{asking, usdc};

/// A world with cards and an open mandate over a hundred.
async fn offered(name: &str) -> Result<(World, Mandate)> {
    offered_with(name, CardSettings::default()).await
}

/// The same with cards that are set up otherwise.
async fn offered_with(name: &str, cards: CardSettings) -> Result<(World, Mandate)> {
    let world = World::with(name, &Settings { cards: Some(cards), ..Settings::default() }).await?;
    let mandate = world.open(&asking("100")?).await?;
    Ok((world, mandate))
}

/// A card over 25.00, just accepted.
async fn requested(world: &World, agent: &Client, mandate: MandateId) -> Result<Card> {
    Ok(world.create_card(agent, &CreateCard::new(mandate, usdc("25")?)).await??.object)
}

/// A card over 25.00 that can be charged.
pub(crate) async fn active(world: &World, agent: &Client, mandate: MandateId) -> Result<Card> {
    let card = requested(world, agent, mandate).await?;
    world.card_in(agent, card.id, CardState::Active).await
}

/// A merchant charges a card and must get it; returns the issuer's name of the charge.
pub(crate) async fn charge(world: &World, agent: &Client, card: CardId, cents: i64) -> Result<String> {
    let secrets = world.reveal(agent, card).await?;
    world.issuer()?.charge(&secrets, Purchase::of(cents)).await?.approved()
}

/// What the trail says about a card.
async fn trail(agent: &Client, card: &Card) -> Result<Vec<AuditEntry>> {
    let mut entries = trail_after(agent, card.mandate, 0).await?;
    entries.retain(|entry| entry.card == Some(card.id));
    Ok(entries)
}

/// What the trail says about a mandate after an entry.
async fn trail_after(agent: &Client, mandate: MandateId, entry: u64) -> Result<Vec<AuditEntry>> {
    let (mut entries, mut after) = (Vec::new(), Some(entry));
    while let Some(from) = after {
        let page = agent.audit(Some(mandate), from, Some(100)).await?;
        entries.extend(page.data);
        after = page.next_cursor.map(|cursor| cursor.parse()).transpose()?;
    }
    Ok(entries)
}

/// What the trail says about a card in one word each.
async fn kinds(agent: &Client, card: &Card) -> Result<Vec<String>> {
    Ok(trail(agent, card).await?.into_iter().map(|entry| entry.kind).collect())
}

/// Waits until the trail has this many entries of a kind about a card, and returns the last one.
async fn noted(agent: &Client, card: &Card, kind: &str, count: usize) -> Result<AuditEntry> {
    eventually(&format!("{count} of {kind} about {}", card.id), async || {
        let mut entries = trail(agent, card).await?;
        entries.retain(|entry| entry.kind == kind);
        Ok(entries.pop().filter(|_| entries.len() + 1 >= count))
    })
    .await
}

/// The card closes with so much captured and the rest released, and all books agree.
async fn closes(world: &World, agent: &Client, card: &Card, captured: &str) -> Result<Card> {
    let closed = world.card_closed(agent, card.id).await?;
    assert_eq!(closed.captured, usdc(captured)?, "{closed:?}");
    assert_eq!(closed.captured.checked_add(closed.released), Some(closed.amount), "{closed:?}");
    assert!(closed.hold_tx.is_some() && closed.settle_tx.is_some(), "{closed:?}");
    balance(world, agent, &[card.mandate]).await?;
    Ok(closed)
}
