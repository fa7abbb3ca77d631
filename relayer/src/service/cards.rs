//! The service's side of cards: asked for by agents, and by the issuer.

use alloy_primitives::{Address, B256, keccak256};
use rusqlite::Connection;
use serde_json::json;
use stipend_bindings::{Hold, Spend};
use stipend_core::{
    Amount, CardId, Code, MandateId, Seconds,
    api::{Accepted, Card, CardSecrets, CardsInfo, NewCard, Page, PageQuery, Problem},
    card::{self, CLEARING_RESERVE, CardState, Charge, ChargeContext},
    policy::{self, CardProposal, Decision, PolicyInput, Proposal},
};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Service,
    admission::{Admission, Judged, Signed, Spending},
    invalid, not_found, page_bounds, seen, signer,
};
use crate::{
    cards::{
        CardsConfig,
        issuer::{Issuer, IssuerSecrets, Transaction},
    },
    clock,
    failpoint::{self, Point},
    ledger::{
        LedgerError, Priority, audit,
        books::{AcceptedPayment, OpenMandate},
        cards::{self as records, CardRow},
        charges::{self, Answer},
        mandates::MandateRow,
        pages::List,
    },
};

/// What cards need.
#[derive(Clone, Debug)]
pub struct CardDeps {
    /// What the host sets.
    pub config: CardsConfig,
    pub issuer: Issuer,
    /// What it signs its calls with, once it has been reached.
    pub secrets: watch::Receiver<Option<IssuerSecrets>>,
}

impl CardDeps {
    pub(super) const fn info(&self) -> CardsInfo {
        CardsInfo { treasury: self.config.treasury, ttl: self.config.ttl, clearing_reserve: CLEARING_RESERVE }
    }
}

/// The issuer's question about a charge.
#[derive(Debug, Clone)]
pub struct AuthorizationRequest {
    /// The issuer's name of the charge.
    pub transaction: String,
    /// The issuer's name of the card.
    pub card: String,
    /// The merchant's descriptor.
    pub merchant: String,
    /// What is charged.
    pub charge: Charge,
}

impl Service {
    /// What cards need, or that there are none.
    ///
    /// # Errors
    /// `cards_not_offered`.
    pub fn cards_offered(&self) -> Result<&CardDeps, Problem> {
        self.deps.cards.as_ref().ok_or_else(|| Problem::new(Code::CardsNotOffered, "this relayer has no card issuer"))
    }

    /// Finds out who signed a hold.
    ///
    /// # Errors
    /// `cards_not_offered`, `invalid_request` and `bad_signature`.
    pub fn authenticate_hold(&self, body: NewCard) -> Result<Signed<NewCard>, Problem> {
        let treasury = self.cards_offered()?.config.treasury;
        let hold = Spend::new(body.mandate, treasury, body.amount, body.nonce, body.deadline, body.reference)
            .and_then(|spend| Hold::new(spend, body.capture_by))
            .map_err(|error| invalid(&error))?;
        let digest = self.domain().hold_digest(&hold);
        let agent = signer(digest, &body.signature)?;
        Ok(Signed { body, digest, agent })
    }

    /// A card for a signed hold: stored and reserved before this returns, or refused.
    ///
    /// # Errors
    /// Every code of the policy, with the decision; `not_found`, `nonce_taken`,
    /// `idempotency_key_reused`, and those of the ledger.
    pub async fn create_card(&self, hold: Signed<NewCard>, key: Option<String>) -> Result<Accepted<Card>, Problem> {
        self.admit(hold, key).await
    }

    async fn card_of(&self, caller: Address, id: CardId, agent_only: bool) -> Result<CardRow, Problem> {
        let found = self.deps.ledger.read(move |ledger| {
            let Some(card) = records::by_id(ledger, id)? else { return Ok(None) };
            let terms = records::mandate_of(ledger, &card)?.terms;
            let may = caller == terms.agent || (!agent_only && caller == terms.operator);
            Ok(may.then_some(card))
        });
        found.await?.ok_or_else(|| not_found("card"))
    }

    /// One card of the caller's (as its agent or its operator).
    ///
    /// # Errors
    /// `not_found`, and those of the ledger.
    pub async fn card(&self, caller: Address, id: CardId) -> Result<Card, Problem> {
        Ok(self.card_of(caller, id, false).await?.view())
    }

    /// The caller's cards, newest first.
    pub async fn cards(
        &self,
        caller: Address,
        mandate: Option<MandateId>,
        page: PageQuery,
    ) -> Result<Page<Card>, Problem> {
        let (limit, cursor) = page_bounds(&page)?;
        let list = List { reader: caller, mandate, cursor, limit };
        let page = self.deps.ledger.read(move |ledger| records::list(ledger, list)).await?;
        Ok(seen(page, CardRow::view))
    }

    /// A card's number, for its agent alone. The look is in the trail before the number is fetched.
    ///
    /// # Errors
    /// `not_found`, `card_not_active` before there is a number and after the end, `unavailable`, and
    /// those of the ledger.
    pub async fn reveal_card(&self, caller: Address, id: CardId) -> Result<CardSecrets, Problem> {
        let issuer = self.cards_offered()?.issuer.clone();
        let card = self.card_of(caller, id, true).await?;
        // Once charged, a number is no use for another charge, but merchants ask for it on refunds.
        let token = card.token.clone().filter(|_| !card.state.is_final());
        let Some(token) = token else {
            return Err(Problem::new(Code::CardNotActive, format!("{id} is {}", card.state.name())));
        };
        let note = move |ledger: &rusqlite::Transaction<'_>| {
            records::note(ledger, &card, "card.revealed", None, json!({ "to": caller.to_string() }), clock::now())
        };
        self.deps.ledger.writer().write(note).await?;
        issuer.secrets(&token).await.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))
    }

    /// Ends a card that was not charged; its hold is released.
    ///
    /// # Errors
    /// `not_found`, `card_not_active` if it was charged or has not begun, and those of the ledger.
    pub async fn close_card(&self, caller: Address, id: CardId) -> Result<Card, Problem> {
        self.card_of(caller, id, false).await?;
        let close = move |ledger: &rusqlite::Transaction<'_>| {
            let gone = || LedgerError::inconsistent("a card that is gone");
            let card = records::by_id(ledger, id)?.ok_or_else(gone)?;
            match card.state {
                CardState::Held | CardState::Active => {
                    records::step(ledger, &card, CardState::Closing, None, None, clock::now())?;
                }
                CardState::Closing | CardState::Closed => {}
                state => {
                    let detail = format!("{id} is {}: it can't be closed now", state.name());
                    return Ok(Admission::Refused(Problem::new(Code::CardNotActive, detail)));
                }
            }
            records::by_id(ledger, id)?.map(|card| Admission::Accepted(card.view())).ok_or_else(gone)
        };
        Ok(self.deps.ledger.writer().write(close).await?.into_result()?.object)
    }

    /// Answers the issuer's question about a charge from what the ledger knows; the answer is stored
    /// before it is given, so that the same question gets the same answer. `None`: approved.
    ///
    /// # Errors
    /// Those of the ledger: then there is no answer, and the issuer declines.
    pub async fn authorize_charge(&self, request: AuthorizationRequest) -> Result<Option<Code>, Problem> {
        let at = ChainPosition {
            head: self.deps.heads.borrow().block.number,
            confirmations: self.deps.confirmations,
            halted: self.deps.alarms.halted().is_some(),
            now: self.now(),
        };
        let decide = move |ledger: &rusqlite::Transaction<'_>| decide_charge(ledger, request, at);
        let verdict = self.deps.ledger.writer().write_as(Priority::Urgent, decide).await?;
        failpoint::pass(Point::ChargeDecided);
        Ok(verdict)
    }

    /// Takes in what the issuer tells of a transaction: once by webhook id, in any order.
    ///
    /// # Errors
    /// Those of the ledger: then the issuer tells it again.
    pub async fn ingest_events(&self, webhook: String, transaction: Option<Transaction>) -> Result<(), Problem> {
        let ingest_events = move |ledger: &rusqlite::Transaction<'_>| {
            if !charges::add_webhook(ledger, &webhook, clock::now())? {
                return Ok(());
            }
            let Some(transaction) = transaction else { return Ok(()) };
            match records::by_token(ledger, &transaction.card_token)? {
                Some(card) => charges::ingest(ledger, card.seq, &transaction.events().collect::<Vec<_>>()),
                // A card that is not ours, or whose creation is not stored yet: asking tells later.
                None => Ok(()),
            }
        };
        self.deps.ledger.writer().write(ingest_events).await?;
        failpoint::pass(Point::WebhookTaken);
        Ok(())
    }
}

/// At which block, and when, a charge is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainPosition {
    pub(crate) head: u64,
    pub(crate) confirmations: u64,
    pub(crate) halted: bool,
    pub(crate) now: Seconds,
}

/// Decides about a charge, within the writer's commit.
pub(crate) fn decide_charge(
    ledger: &Connection,
    request: AuthorizationRequest,
    at: ChainPosition,
) -> Result<Option<Code>, LedgerError> {
    let AuthorizationRequest { transaction, card: token, merchant, charge } = request;
    if let Some(answer) = charges::answered(ledger, &transaction)? {
        // The same charge about another amount is not the same charge.
        return Ok(if answer.cents == charge.cents { answer.declined } else { Some(Code::CardUsed) });
    }
    let Some(card) = records::by_token(ledger, &token)? else {
        let verdict = Some(Code::CardNotActive);
        let answer = Answer { card: None, cents: charge.cents, declined: verdict };
        charges::remember_answer(ledger, &transaction, answer, at.now)?;
        return Ok(verdict);
    };
    let mandate = records::mandate_of(ledger, &card)?;
    let context = ChargeContext {
        state: card.state,
        held_now: card.held.is_some() && !at.halted,
        amount: card.amount,
        approved: charges::approvals(ledger, card.seq)?,
        expires_at: card.expires_at,
        mandate: mandate.state_for_new(at.head, at.confirmations),
        intent: mandate.intent.as_deref(),
    };
    let verdict = card::authorize(&context, &charge, at.now);
    let answer = Answer { card: Some(card.seq), cents: charge.cents, declined: verdict };
    charges::remember_answer(ledger, &transaction, answer, at.now)?;
    let amount = Amount::from_cents(charge.cents);
    let data = json!({
        "amount": amount, "merchant": merchant, "mcc": charge.mcc, "code": verdict, "transaction": transaction,
    });
    match (verdict, amount) {
        (None, Some(Amount::ZERO)) => records::note(ledger, &card, "card.verified", None, data, at.now)?,
        (None, Some(amount)) => {
            records::set_charged(ledger, card.seq, Some((&transaction, amount)))?;
            records::note(ledger, &card, "card.authorized", None, data, at.now)?;
            records::step(ledger, &card, CardState::Used, None, None, at.now)?;
        }
        _ => records::note(ledger, &card, "card.declined", None, data, at.now)?,
    }
    Ok(verdict)
}

impl Spending for NewCard {
    type Object = Card;
    // Its hold is booked in the ledger itself.
    const SHARES_BOOKS: bool = false;
    const COMMITTED: Point = Point::CardCommitted;

    fn mandate(&self) -> MandateId {
        self.mandate
    }

    fn proposal(&self, service: &Service, now: Seconds) -> Result<(Proposal, Option<CardProposal>), Problem> {
        let CardsConfig { treasury, ttl, .. } = service.cards_offered()?.config;
        let proposal = Proposal { payee: treasury, amount: self.amount, nonce: self.nonce, deadline: self.deadline };
        let card = CardProposal { capture_by: self.capture_by, expires_at: now.saturating_add(ttl) };
        Ok((proposal, Some(card)))
    }

    fn fingerprint(&self) -> Result<B256, LedgerError> {
        let asked = json!({ "card": true, "amount": self.amount, "ref": self.reference });
        Ok(keccak256(serde_jcs::to_vec(&asked).map_err(LedgerError::inconsistent)?))
    }

    fn decision(input: &PolicyInput<'_>) -> Option<Decision> {
        Some(policy::decide(input))
    }

    fn deny(
        &self,
        ledger: &Connection,
        open: &mut OpenMandate,
        judged: &Judged,
        refusal: Code,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        let data = json!({ "amount": self.amount, "nonce": self.nonce, "code": refusal, "decision": judged.decision });
        audit::append(ledger, now, audit::NewAuditEntry { data, ..open.mandate().event("card.denied") })
    }

    fn store(
        &self,
        ledger: &Connection,
        open: &mut OpenMandate,
        Judged { digest, proposal, card, decision, .. }: &Judged,
        now: Seconds,
    ) -> Result<Card, LedgerError> {
        let decision = decision.as_ref().ok_or_else(|| LedgerError::inconsistent("a card that nobody decided"))?;
        let expires_at =
            card.map(|card| card.expires_at).ok_or_else(|| LedgerError::inconsistent("a card without a term"))?;
        let (id, body, digest, payee) = (CardId::generate(), self.clone(), *digest, proposal.payee);
        records::insert(
            ledger,
            open.mandate(),
            &records::NewCardRow { id, body, digest, payee, expires_at },
            decision,
            now,
        )?;
        let stored = records::by_id(ledger, id)?;
        stored.map(CardRow::view).ok_or_else(|| LedgerError::inconsistent("a card that was just stored is gone"))
    }

    fn known(
        &self,
        ledger: &Connection,
        _: &MandateRow,
        _: &[AcceptedPayment],
        digest: B256,
    ) -> Result<Option<Card>, LedgerError> {
        Ok(records::by_digest(ledger, digest)?.map(CardRow::view))
    }

    fn id_of(object: &Card) -> Uuid {
        object.id.0
    }

    fn by_id(ledger: &Connection, _: &[AcceptedPayment], id: Uuid) -> Result<Option<Card>, LedgerError> {
        Ok(records::by_id(ledger, CardId(id))?.map(CardRow::view))
    }
}
