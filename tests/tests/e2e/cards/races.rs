//! Two charges of one card at the same moment.

use eyre::Result;
use futures_util::future::try_join_all;
use serde_json::json;
use stipend_client::CreateCard;
use stipend_core::{Code, card::CardState};
use stipend_e2e::{Charge, Purchase, balance};

use super::{offered, trail_after};
use crate::usdc;

/// How often; `STIPEND_RACES` asks for more.
const RACES: usize = 20;

/// So many cards at a time.
const CONCURRENT_CARDS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn of_two_charges_at_once_exactly_one_passes() -> Result<()> {
    let races = std::env::var("STIPEND_RACES").ok().and_then(|races| races.parse().ok()).unwrap_or(RACES);
    let (world, mandate) = offered("card-races").await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let (mut left, mut read) = (races, 0);
    while left > 0 {
        let count = left.min(CONCURRENT_CARDS);
        left -= count;
        let mut cards = Vec::new();
        for _ in 0..count {
            let order = CreateCard::new(mandate.id, usdc("0.25")?);
            cards.push(world.create_card(&agent, &order).await??.object);
        }
        let mut secrets = Vec::new();
        for card in &cards {
            world.card_in(&agent, card.id, CardState::Active).await?;
            secrets.push(world.reveal(&agent, card.id).await?);
        }

        // No answer arrives before both are asked for: so it is the relayer that has to choose.
        issuer.fault(json!({ "asa": { "delay_ms": 500 } })).await?;
        let pairs = secrets.iter().map(|card| async {
            let charge = || issuer.charge(card, Purchase::of(18));
            tokio::try_join!(charge(), charge())
        });
        let outcomes = try_join_all(pairs).await?;
        issuer.well().await?;
        for (card, outcome) in cards.iter().zip(outcomes) {
            let ((Charge::Approved(passed), Charge::Declined { .. })
            | (Charge::Declined { .. }, Charge::Approved(passed))) = outcome
            else {
                panic!("{}: {outcome:?}", card.id);
            };
            issuer.clear(&passed, None).await?;
        }
        for card in &cards {
            let closed = world.card_closed(&agent, card.id).await?;
            assert_eq!((closed.captured, closed.released), (usdc("0.18")?, usdc("0.07")?), "{closed:?}");
        }
        let trail = trail_after(&agent, mandate.id, read).await?;
        read = trail.last().map_or(read, |entry| entry.seq);
        for card in &cards {
            let mut verdicts: Vec<_> = trail
                .iter()
                .filter(|entry| entry.card == Some(card.id))
                .filter(|entry| matches!(entry.kind.as_str(), "card.authorized" | "card.declined"))
                .map(|entry| (entry.kind.as_str(), entry.data["code"].as_str()))
                .collect();
            verdicts.sort_unstable();
            let one_each = [("card.authorized", None), ("card.declined", Some(Code::CardUsed.name()))];
            assert_eq!(verdicts, one_each, "{}: one of them was not asked about, or answered otherwise", card.id);
        }
    }
    balance(&world, &agent, &[mandate.id]).await
}
