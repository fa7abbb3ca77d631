//! The service's side of payments.

use std::time::Duration;

use alloy_primitives::{Address, B256, keccak256};
use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::json;
use stipend_bindings::Spend;
use stipend_core::{
    Code, MandateId, PaymentId, Seconds,
    api::{Accepted, NewPayment, Page, PageQuery, Payment, PaymentFilter, PaymentState, Problem},
    policy::{self, CardProposal, Decision, PolicyInput, Proposal},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Service,
    admission::{Judged, Signed, Spending},
    invalid, not_found, page_bounds, seen, signer,
};
use crate::{
    failpoint::Point,
    ledger::{
        LedgerError,
        books::{AcceptedPayment, OpenMandate},
        mandates::{self, MandateRow},
        pages::List,
        payments::{self, DecidedPayment, PaymentRow},
    },
};

/// How long `?wait=` waits at most.
const WAIT: Duration = Duration::from_secs(25);

impl Service {
    /// Finds out who signed a payment. Costs a signature's recovery, and nothing else.
    ///
    /// # Errors
    /// `invalid_request` and `bad_signature`.
    pub fn authenticate_payment(&self, body: NewPayment) -> Result<Signed<NewPayment>, Problem> {
        let NewPayment { mandate, payee, amount, nonce, deadline, reference, .. } = body;
        let spend = Spend::new(mandate, payee, amount, nonce, deadline, reference).map_err(|error| invalid(&error))?;
        let digest = self.domain().spend_digest(&spend);
        let agent = signer(digest, &body.signature)?;
        Ok(Signed { body, digest, agent })
    }

    /// A signed payment: stored and reserved before this returns, or refused with the reasons.
    ///
    /// # Errors
    /// Every code of the policy, with the decision; `not_found`, `nonce_taken`,
    /// `idempotency_key_reused`, and those of the ledger.
    pub async fn pay(&self, payment: Signed<NewPayment>, key: Option<String>) -> Result<Accepted<Payment>, Problem> {
        self.admit(payment, key).await
    }

    /// Signed payments, each by itself: what the first ones are refused for, others may be accepted.
    pub async fn pay_many(
        &self,
        payments: Vec<Result<Signed<NewPayment>, Problem>>,
    ) -> Vec<Result<Accepted<Payment>, Problem>> {
        // All are asked for before the first answer: those of one commit share it.
        join_all(payments.into_iter().map(async |payment| self.pay(payment?, None).await)).await
    }

    /// One payment of the caller's; with `wait`, once it is in that state or final, but after 25 s
    /// in any case.
    ///
    /// # Errors
    /// `not_found`, and those of the ledger.
    pub async fn payment(
        &self,
        caller: Address,
        id: PaymentId,
        wait: Option<PaymentState>,
    ) -> Result<Payment, Problem> {
        let deadline = Instant::now() + WAIT;
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let found = self
                .deps
                .ledger
                .read(move |ledger| {
                    let Some(payment) = payments::by_id(ledger, id)? else { return Ok(None) };
                    let mandate = mandates::account(ledger, payment.mandate)?;
                    Ok(mandate.filter(|mandate| mandate.belongs_to(caller)).map(|_| payment.view()))
                })
                .await?;
            let payment = found.ok_or_else(|| not_found("payment"))?;
            let reached = wait.is_none_or(|wanted| payment.state == wanted || payment.state.is_final());
            if reached || tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Ok(payment);
            }
        }
    }

    /// The caller's payments, newest first.
    pub async fn payments(
        &self,
        caller: Address,
        filter: PaymentFilter,
        page: PageQuery,
    ) -> Result<Page<Payment>, Problem> {
        let (limit, cursor) = page_bounds(&page)?;
        let PaymentFilter { mandate, state, reference } = filter;
        let (list, filter) = (List { reader: caller, mandate, cursor, limit }, payments::Filter { state, reference });
        let page = self.deps.ledger.read(move |ledger| payments::list(ledger, list, filter)).await?;
        Ok(seen(page, PaymentRow::view))
    }
}

impl Spending for NewPayment {
    type Object = Payment;
    const SHARES_BOOKS: bool = true;
    const COMMITTED: Point = Point::PaymentCommitted;

    fn mandate(&self) -> MandateId {
        self.mandate
    }

    fn proposal(&self, _: &Service, _: Seconds) -> Result<(Proposal, Option<CardProposal>), Problem> {
        let Self { payee, amount, nonce, deadline, .. } = *self;
        Ok((Proposal { payee, amount, nonce, deadline }, None))
    }

    fn fingerprint(&self) -> Result<B256, LedgerError> {
        let bought = json!({ "payee": self.payee, "amount": self.amount, "ref": self.reference });
        Ok(keccak256(serde_jcs::to_vec(&bought).map_err(LedgerError::inconsistent)?))
    }

    /// What is accepted is decided again where somebody reads it.
    fn decision(input: &PolicyInput<'_>) -> Option<Decision> {
        policy::refusal(input)
    }

    fn deny(
        &self,
        ledger: &Connection,
        open: &mut OpenMandate,
        judged: &Judged,
        _: Code,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        payments::deny(ledger, open, &decided(self, judged), now)
    }

    fn store(
        &self,
        ledger: &Connection,
        open: &mut OpenMandate,
        judged: &Judged,
        now: Seconds,
    ) -> Result<Payment, LedgerError> {
        let id = PaymentId::generate();
        payments::accept(ledger, open, id, &decided(self, judged), now)
    }

    fn known(
        &self,
        ledger: &Connection,
        mandate: &MandateRow,
        accepted: &[AcceptedPayment],
        digest: B256,
    ) -> Result<Option<Payment>, LedgerError> {
        if mandate.is_unused(self.nonce) {
            return Ok(None);
        }
        if let Some(payment) = accepted.iter().find(|payment| payment.digest() == digest) {
            return Ok(Some(payment.view()));
        }
        let found = payments::by_nonce(ledger, mandate.id, self.nonce)?;
        Ok(found.filter(|payment| payment.digest == digest).map(PaymentRow::view))
    }

    fn id_of(object: &Payment) -> Uuid {
        object.id.0
    }

    fn by_id(ledger: &Connection, accepted: &[AcceptedPayment], id: Uuid) -> Result<Option<Payment>, LedgerError> {
        if let Some(payment) = accepted.iter().find(|payment| payment.id() == PaymentId(id)) {
            return Ok(Some(payment.view()));
        }
        Ok(payments::by_id(ledger, PaymentId(id))?.map(PaymentRow::view))
    }
}

fn decided<'a>(body: &'a NewPayment, judged: &'a Judged) -> DecidedPayment<'a> {
    DecidedPayment { body, digest: judged.digest, inputs: &judged.inputs }
}
