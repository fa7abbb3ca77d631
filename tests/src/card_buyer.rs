//! An agent that pays by card without a break, and does not give up when the relayer is shot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use eyre::{OptionExt, Result, bail};
use reqwest::Method;
use serde_json::Value;
use stipend_client::{Client, CreateCard, Error};
use stipend_core::{Amount, CardId, MandateId, api::Card, card::CardState};
use tokio::time::sleep;

use crate::{Issuer, Purchase, World, load::waits};

/// What a card is made for, and what it is charged.
const AMOUNT: u64 = 25_000_000;
const CENTS: i64 = 1_840;

/// Between two looks at a card.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct CardBuyer {
    pub(crate) client: Client,
    pub(crate) mandate: MandateId,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) stop: Arc<AtomicBool>,
    /// How many cards were made so far.
    pub(crate) made: Arc<AtomicU64>,
}

impl CardBuyer {
    /// Card after card: each is charged, and cleared.
    pub(crate) async fn buys(self) -> Result<()> {
        while let Some(card) = self.card().await? {
            self.made.fetch_add(1, Ordering::Relaxed);
            if let Some(card) = self.active(card).await? {
                self.charges(&card).await?;
            }
        }
        Ok(())
    }

    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn card(&self) -> Result<Option<CardId>> {
        let wanted = CreateCard::new(self.mandate, Amount::from_units(AMOUNT)?);
        while !self.over() {
            let signed = match self.client.sign_card(&wanted).await {
                Ok(signed) => signed,
                Err(error) => {
                    waits(error).await?;
                    continue;
                }
            };
            // What was sent once is sent until it is answered.
            loop {
                match self.client.send_card(&signed, None).await {
                    Ok(accepted) => return Ok(Some(accepted.object.id)),
                    Err(error) => waits(error).await?,
                }
            }
        }
        Ok(None)
    }

    async fn active(&self, id: CardId) -> Result<Option<Card>> {
        while !self.over() {
            match self.client.card(id).await {
                Ok(card) if card.state == CardState::Active => return Ok(Some(card)),
                Ok(card) if card.state.is_final() => bail!("a card that nobody has used has ended: {card:?}"),
                Ok(_) => sleep(LOOK).await,
                Err(error) => waits(error).await?,
            }
        }
        Ok(None)
    }

    async fn charges(&self, card: &Card) -> Result<()> {
        let secrets = loop {
            match self.client.card_secrets(card.id).await {
                Ok(secrets) => break secrets,
                // A reorg or a restart may have it wait a little.
                Err(Error::Problem(problem)) if problem.status == 403 => return Ok(()),
                Err(error) => waits(error).await?,
            }
        };
        // Declined while the relayer is down: the agent closes the card then, as it does at the end of the day.
        if let Ok(charge) = self.issuer.charge(&secrets, Purchase::of(CENTS)).await?.approved() {
            self.issuer.clear(&charge, None).await?;
        }
        Ok(())
    }
}

/// Takes a card one step nearer to its end, as its agent and its merchant would.
///
/// # Errors
/// If the issuer fails.
pub(crate) async fn finish_card(world: &World, agent: &Client, card: &Card) -> Result<()> {
    match card.state {
        CardState::Held | CardState::Active => {
            // It may have been charged meanwhile.
            let _ = agent.close_card(card.id).await;
        }
        CardState::Used | CardState::Closing => {
            let issuer = world.issuer()?;
            for issued in issuer.cards_for(card.id).await? {
                let token = issued.get("token").and_then(Value::as_str).ok_or_eyre("a card without token")?;
                let path = format!("/v1/transactions?card_token={token}&page_size=100");
                let list = issuer.call(Method::GET, &path, None).await?.json()?;
                for charge in list.pointer("/data").and_then(Value::as_array).into_iter().flatten() {
                    let pending = charge.pointer("/amounts/hold/amount").and_then(Value::as_i64).unwrap_or_default();
                    if let Some(token) = charge.get("token").and_then(Value::as_str).filter(|_| pending != 0) {
                        issuer.clear(token, None).await?;
                    }
                }
            }
        }
        _ => {}
    }
    Ok(())
}
