//! Cards: the agent signs a hold for the card program's treasury, and gets a single-use card.

use std::time::{Duration, Instant};

use alloy::signers::SignerSync;
use alloy_primitives::{B256, Bytes};
use reqwest::Method;
use serde::Serialize;
use stipend_bindings::{Hold, Spend};
use stipend_core::{
    Amount, CardId, Code, MandateId, Seconds,
    api::{Card, CardSecrets, CardsInfo, Metadata, NewCard, Page, Problem},
    card::CardState,
    host,
};

use crate::{
    Accepted, Client, Error, PageQuery, Signed,
    http::{ApiRequest, Sent},
    nonces::{self, MandateDeadlines, Resigns},
};

/// How long a hold's signature is valid by default: the caller waits for the card.
const LIFETIME: Seconds = 600;

/// How much longer than asked a hold lasts: the relayer counts from when it is asked.
const CAPTURE_MARGIN: Seconds = 300;

/// A card to be created. What is not set is chosen: the next free nonce, a deadline in ten minutes,
/// a `capture_by` as the relayer needs it, no `ref`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateCard {
    /// The mandate.
    pub mandate: MandateId,
    /// What the card may be charged, in whole cents.
    pub amount: Amount,
    /// The hold's nonce: one sequence with the payments'.
    pub nonce: Option<u32>,
    /// Until when the hold may be placed.
    pub deadline: Option<Seconds>,
    /// Until when the hold may be captured.
    pub capture_by: Option<Seconds>,
    /// Commits to what is bought.
    pub reference: Option<B256>,
    /// Makes another card with the same key, mandate, amount and `ref` the same card.
    pub idempotency_key: Option<String>,
    /// Caller-defined key/value metadata.
    pub metadata: Metadata,
}

impl CreateCard {
    /// A card over `amount` from `mandate`.
    #[must_use]
    pub const fn new(mandate: MandateId, amount: Amount) -> Self {
        Self {
            mandate,
            amount,
            nonce: None,
            deadline: None,
            capture_by: None,
            reference: None,
            idempotency_key: None,
            metadata: Metadata::new(),
        }
    }
}

/// What to wait for. A card that can no longer become active ends every wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardWait {
    /// It can be charged.
    Active,
    /// Closed, and its hold is settled.
    Closed,
}

impl CardWait {
    /// Whether a card in this state satisfies this wait.
    #[must_use]
    pub const fn is_satisfied_by(self, state: CardState) -> bool {
        match self {
            Self::Active => !matches!(state, CardState::Requested | CardState::Held),
            Self::Closed => state.is_final(),
        }
    }
}

impl Client {
    /// Signs a hold and asks for the card that it backs.
    ///
    /// # Errors
    /// [`Error::Problem`] with a decision if it was denied; [`Error::Unknown`] carries the signed
    /// hold, for [`Client::resend`].
    pub async fn create_card(&self, card: CreateCard) -> Result<Accepted<Card>, Error> {
        let mut resigns = Resigns::of(card.deadline.is_some() && card.capture_by.is_some());
        loop {
            let hold = self.sign_card(&card).await?;
            let sent = self.send_card_counted(&hold, card.idempotency_key.clone()).await;
            if card.nonce.is_some() {
                return sent.map(|sent| sent.accepted);
            }
            let is_own = card.idempotency_key.is_some();
            if let Some(created) = self.settle_nonce(card.mandate, hold.nonce, sent, is_own, &mut resigns).await {
                return created;
            }
        }
    }

    /// Signs a card's hold without sending it. The same input with nonce, deadline and `capture_by`
    /// set gives the same bytes.
    pub async fn sign_card(&self, card: &CreateCard) -> Result<NewCard, Error> {
        let domain = self.domain().await?;
        let (now, info) = self.clock().await?;
        let Some(cards) = info.cards else {
            let problem = Problem::new(Code::CardsNotOffered, "this relayer has no card issuer");
            return Err(Error::Problem(Box::new(problem)));
        };
        let (nonce, deadlines) = match (card.nonce, card.deadline, card.capture_by) {
            (Some(nonce), Some(_), Some(_)) => (nonce, MandateDeadlines::NEVER),
            (nonce, ..) => self.nonce(card.mandate, nonce).await?,
        };
        let deadline =
            card.deadline.unwrap_or_else(|| nonces::deadline(now, nonces::jittered(LIFETIME), deadlines, &info.limits));
        let capture_by = card.capture_by.unwrap_or_else(|| capture_by(now, &cards, deadlines));
        let reference = card.reference.unwrap_or_default();
        let hold = Spend::new(card.mandate, cards.treasury, card.amount, nonce, deadline, reference)
            .and_then(|spend| Hold::new(spend, capture_by))
            .map_err(|error| Error::Setup(error.to_string()))?;
        let signature = self.inner.signer.sign_hash_sync(&domain.hold_digest(&hold));
        let signature = signature.map_err(|error| Error::Signing(error.to_string()))?;
        Ok(NewCard {
            mandate: card.mandate,
            amount: card.amount,
            nonce,
            deadline,
            capture_by,
            reference,
            signature: Bytes::copy_from_slice(&signature.as_bytes()),
            metadata: card.metadata.clone(),
        })
    }

    /// Sends a card's hold that is signed, and sends the same bytes again while the outcome is
    /// unknown: they never give two cards.
    pub async fn send_card(&self, card: &NewCard, idempotency_key: Option<String>) -> Result<Accepted<Card>, Error> {
        Ok(self.send_card_counted(card, idempotency_key).await?.accepted)
    }

    async fn send_card_counted(&self, card: &NewCard, idempotency_key: Option<String>) -> Result<Sent<Card>, Error> {
        let request = ApiRequest::new(Method::POST, self.inner.http.url("v1/cards", &())?);
        let request = request.body(card, idempotency_key.clone())?;
        self.send_signed(request, || Signed::Card { card: Box::new(card.clone()), idempotency_key }).await
    }

    /// One card of the caller's, as its agent or its operator.
    pub async fn card(&self, id: CardId) -> Result<Card, Error> {
        self.get(&format!("v1/cards/{id}"), &()).await
    }

    /// One card of the caller's, once `wait` is reached, but after `at_most` in any case: look at its
    /// state.
    pub async fn wait_for_card(&self, id: CardId, wait: CardWait, at_most: Duration) -> Result<Card, Error> {
        let start = Instant::now();
        loop {
            let card = self.card(id).await?;
            let waited = start.elapsed();
            if wait.is_satisfied_by(card.state) || waited >= at_most {
                return Ok(card);
            }
            // A card is there in a block or two; its end may be days away.
            tokio::time::sleep((waited / 8).clamp(Duration::from_millis(100), Duration::from_secs(2))).await;
        }
    }

    /// The caller's cards, newest first.
    pub async fn cards(&self, mandate: Option<MandateId>, page: &PageQuery) -> Result<Page<Card>, Error> {
        #[derive(Serialize)]
        struct Query<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            mandate: Option<MandateId>,
            #[serde(flatten)]
            page: &'a PageQuery,
        }
        self.get("v1/cards", &Query { mandate, page }).await
    }

    /// A card's number, expiry and code, for its agent alone. Every look is in the audit trail.
    pub async fn card_secrets(&self, id: CardId) -> Result<CardSecrets, Error> {
        let base = &self.inner.http.base;
        if base.scheme() != "https" && !base.host_str().is_some_and(host::is_loopback) {
            return Err(Error::Setup(format!("{base} is not https: a card's number is not sent in the clear")));
        }
        let secrets = self.get(&format!("v1/cards/{id}/secrets"), &()).await;
        secrets.map_err(|error| match error {
            // Quote the unexpected part of an answer.
            Error::NotARelayer { url, status, .. } => {
                Error::NotARelayer { url, status, reason: "these are no card's secrets".into() }
            }
            error => error,
        })
    }

    /// Ends a card that was not charged: its hold is released.
    pub async fn close_card(&self, id: CardId) -> Result<Card, Error> {
        let request = ApiRequest::new(Method::POST, self.inner.http.url(&format!("v1/cards/{id}/close"), &())?);
        Ok(self.inner.http.send(request, Some(self.identity().await?)).await?.object)
    }
}

/// As late as the relayer needs it and a little later, but not past the end of captures.
fn capture_by(now: Seconds, cards: &CardsInfo, deadlines: MandateDeadlines) -> Seconds {
    let needed = now.saturating_add(cards.ttl).saturating_add(cards.clearing_reserve);
    needed.saturating_add(CAPTURE_MARGIN).min(deadlines.capture_end)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;

    use super::*;

    #[test]
    fn a_hold_lasts_as_long_as_clearings_may_take() {
        let cards = CardsInfo { treasury: Address::ZERO, ttl: 3_600, clearing_reserve: 86_400 };
        let capture_by = |capture_end| capture_by(1_000, &cards, MandateDeadlines { expiry: 0, capture_end });
        assert_eq!(capture_by(1_000_000), 91_300);
        assert_eq!(capture_by(91_200), 91_200, "never past the end of captures");
    }

    #[test]
    fn a_wait_for_a_card_ends_when_it_cannot_come() {
        let over = |wait: CardWait| CardState::ALL.into_iter().filter(move |state| wait.is_satisfied_by(*state));
        assert!(over(CardWait::Closed).eq([CardState::Closed, CardState::Failed]));
        assert!(!CardWait::Active.is_satisfied_by(CardState::Held));
        assert_eq!(over(CardWait::Active).count(), 5);
    }
}
