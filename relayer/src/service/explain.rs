//! What would become of a payment or a card, without reserving anything.

use alloy_primitives::Address;
use stipend_core::{
    Seconds,
    api::{Expected, Explain, Explanation, Problem},
    card::CLEARING_RESERVE,
    policy::{self, CardProposal, Outlook, Proposal},
};

use super::{Service, not_found};
use crate::ledger::{gas, mandates, payments};

/// How far away a deadline is that nobody has chosen.
const LIFETIME: Seconds = 3_600;

impl Service {
    /// The decision about what nobody has signed yet, for the mandate's agent or operator.
    ///
    /// # Errors
    /// `not_found`, `cards_not_offered` without a payee where there are none, and those of the ledger.
    pub async fn explain(&self, caller: Address, asked: Explain) -> Result<Explanation, Problem> {
        let at = self.chain_clock();
        let cards = match asked.payee {
            None => Some(self.cards_offered()?.config.clone()),
            Some(_) => None,
        };
        let this = self.clone();
        let explained = self.deps.ledger.read(move |ledger| {
            let Some(mandate) = mandates::get(ledger, asked.mandate)?.filter(|mandate| mandate.belongs_to(caller))
            else {
                return Ok(None);
            };
            let (terms, limits) = (&mandate.terms, this.deps.limits);
            let soon = LIFETIME.clamp(limits.deadline_min, limits.deadline_max.max(limits.deadline_min));
            let proposal = Proposal {
                payee: asked.payee.or(cards.as_ref().map(|cards| cards.treasury)).unwrap_or_default(),
                amount: asked.amount,
                nonce: asked.nonce.unwrap_or_else(|| mandate.highest_nonce.map_or(0, |nonce| nonce.saturating_add(1))),
                deadline: asked.deadline.unwrap_or_else(|| at.now.saturating_add(soon).min(terms.expiry)),
            };
            let card = cards.map(|cards| {
                let expires_at = at.now.saturating_add(cards.ttl);
                CardProposal { capture_by: expires_at.saturating_add(CLEARING_RESERVE), expires_at }
            });
            let outlook = this.judge(ledger, &mandate, &[], (proposal, card), at, policy::explain)?;
            let Outlook { decision, headroom, passes_at } = outlook;
            let expected = Expected {
                gas_wei: gas::each(ledger)?.map(|wei| wei.to_string()),
                settles_within: payments::settles_within(ledger)?,
            };
            Ok(Some(Explanation { decision, headroom, passes_at, expected }))
        });
        explained.await?.ok_or_else(|| not_found("mandate"))
    }
}
