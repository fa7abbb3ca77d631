//! The service's side of payments.

use std::time::Duration;

use alloy_primitives::{Address, B256, U256, keccak256, utils::format_ether};
use rusqlite::Connection;
use serde_json::json;
use stipend_bindings::Spend;
use stipend_core::{
    Code, MandateId, PaymentId, Seconds,
    api::{NewPayment, Page, Payment, PaymentState, Problem},
    policy::{self, PolicyContext, Proposal},
};
use tokio::time::Instant;

use super::{Accepted, Deps, PageQuery, Service, invalid, not_found, of_agent, paged, replayed, signer};
use crate::{
    failpoint::{self, Point},
    ledger::{
        LedgerError, audit, cards as records, gas, mandates,
        payments::{self, Admission},
        requests::{self, IdempotentCall},
    },
};

/// How long `?wait=` waits at most.
const WAIT: Duration = Duration::from_secs(25);
/// A payment whose signer is known.
#[derive(Debug, Clone)]
pub struct SignedPayment {
    body: NewPayment,
    digest: B256,
    agent: Address,
}

impl SignedPayment {
    /// Who signed it.
    #[must_use]
    pub const fn agent(&self) -> Address {
        self.agent
    }
}

/// Which payments.
#[derive(Debug, Clone, Default)]
pub struct PaymentFilter {
    /// Of this mandate.
    pub mandate: Option<MandateId>,
    /// In this state.
    pub state: Option<PaymentState>,
    /// With this `ref`.
    pub reference: Option<B256>,
}

impl Service {
    /// Finds out who signed a payment. Costs a signature's recovery, off the async threads, and
    /// nothing else.
    ///
    /// # Errors
    /// `invalid_request` and `bad_signature`.
    pub async fn authenticate_payment(&self, body: NewPayment) -> Result<SignedPayment, Problem> {
        let NewPayment { mandate, payee, amount, nonce, deadline, reference, .. } = body;
        let spend = Spend::new(mandate, payee, amount, nonce, deadline, reference).map_err(|error| invalid(&error))?;
        let digest = self.domain().spend_digest(&spend);
        let agent = signer(digest, body.signature.clone()).await?;
        Ok(SignedPayment { body, digest, agent })
    }

    /// A signed payment: stored and reserved before this returns, or refused with the reasons.
    ///
    /// # Errors
    /// Every code of the policy, with the decision; `not_found`, `nonce_taken`,
    /// `idempotency_key_reused`, and those of the ledger.
    pub async fn pay(
        &self,
        payment: SignedPayment,
        idempotency_key: Option<String>,
    ) -> Result<Accepted<Payment>, Problem> {
        // What was accepted is answered whatever has happened since; and a repeated payment costs no commit.
        let (repeated, key) = (payment.clone(), idempotency_key.clone());
        let known = self.deps.ledger.read(move |ledger| {
            let SignedPayment { body, agent, .. } = &repeated;
            match of_agent(ledger, body.mandate, *agent)? {
                Ok(_) => known(ledger, &repeated, key.as_deref()),
                Err(_) => Ok(None),
            }
        });
        if let Some(known) = known.await? {
            return known;
        }
        self.running()?;
        let this = self.clone();
        let head = self.deps.heads.borrow().block.number;
        let now = self.now();
        let admit = move |ledger: &rusqlite::Transaction<'_>| {
            this.admit(ledger, &payment, idempotency_key.as_deref(), (head, now))
        };
        let answer = self.deps.ledger.writer().write(admit).await?;
        failpoint::pass(Point::PaymentCommitted);
        answer
    }

    /// Decides and reserves, within the writer's commit. A denial is written down too.
    fn admit(
        &self,
        ledger: &Connection,
        payment: &SignedPayment,
        idempotency_key: Option<&str>,
        (head, now): (u64, Seconds),
    ) -> Result<Result<Accepted<Payment>, Problem>, LedgerError> {
        let SignedPayment { body, digest, agent } = payment;
        let mandate = match of_agent(ledger, body.mandate, *agent)? {
            Ok(mandate) => mandate,
            Err(problem) => return Ok(Err(problem)),
        };
        if let Some(known) = known(ledger, payment, idempotency_key)? {
            return Ok(known);
        }
        if let Some(taken) = taken(ledger, body.mandate, body.nonce)? {
            return Ok(Err(taken));
        }

        let proposal = Proposal { payee: body.payee, amount: body.amount, nonce: body.nonce, deadline: body.deadline };
        let mut decision = self.decide(ledger, &mandate, &proposal, (head, now))?;
        self.add_gas_rule(ledger, &mut decision, &mandate, now)?;
        if let Some((verdict, code)) = decision.refusal() {
            let mut problem = Problem::new(code, verdict.detail.clone());
            let data = json!({
                "payee": body.payee.to_string(), "amount": body.amount, "nonce": body.nonce, "deadline": body.deadline,
                "ref": body.reference, "digest": digest, "code": code, "decision": decision,
            });
            audit::append(ledger, now, audit::NewAuditEntry { data, ..mandate.event("payment.denied") })?;
            problem.decision = Some(decision);
            return Ok(Err(problem));
        }
        let admission = Admission { id: PaymentId::generate(), body: body.clone(), digest: *digest };
        payments::admit(ledger, &mandate, &admission, &decision, now)?;
        if let Some(key) = idempotency_key {
            let call = IdempotentCall { fingerprint: fingerprint(body)?, subject: admission.id.0 };
            requests::remember(ledger, mandate.id.0.as_slice(), key, call)?;
        }
        let payment = payments::by_id(ledger, admission.id)?
            .ok_or_else(|| LedgerError::inconsistent("a payment that was just stored is gone"))?;
        Ok(Ok(Accepted { object: payment.view(), replayed: false }))
    }

    /// What the policy says about an outflow of `mandate`.
    pub(super) fn decide(
        &self,
        ledger: &Connection,
        mandate: &mandates::MandateRow,
        proposal: &Proposal,
        (head, now): (u64, Seconds),
    ) -> Result<policy::Decision, LedgerError> {
        let Deps { deployment, limits, confirmations, .. } = *self.deps;
        let committed = payments::committed(ledger, mandate, now)?;
        let standing = PolicyContext {
            terms: &mandate.terms,
            intent: mandate.intent.as_ref(),
            state: mandate.state_for_new(head, confirmations),
            available: mandate.balances.available,
            highest_nonce: mandate.highest_nonce,
            committed: &committed,
        };
        let deployment =
            policy::Deployment { escrow: deployment.escrow, token: deployment.token, guardian: deployment.guardian };
        Ok(policy::decide(&standing, proposal, &deployment, &limits, now))
    }

    /// Adds what the host's gas budget says. Gas counts when its transaction is final.
    pub(super) fn add_gas_rule(
        &self,
        ledger: &Connection,
        decision: &mut policy::Decision,
        mandate: &mandates::MandateRow,
        now: Seconds,
    ) -> Result<(), LedgerError> {
        let Some(budget) = self.deps.gas_budget else { return Ok(()) };
        let spent = gas::spent(ledger, mandate.id, now)?;
        let code = (spent >= budget).then_some(Code::GasBudgetExceeded);
        let (spent, budget) = (format_ether(U256::from(spent)), format_ether(U256::from(budget)));
        let detail = format!("gas for {spent} ETH today, at most {budget}, anew at {}", gas::day_end(now));
        decision.rules.push(policy::Verdict { rule: "gas".into(), code, detail });
        decision.allow &= code.is_none();
        Ok(())
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
                    let mandate = mandates::get(ledger, payment.mandate)?;
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
        let (limit, before) = (page.limit(), page.cursor()?);
        let PaymentFilter { mandate, state, reference } = filter;
        let filter = payments::Filter { reader: caller, mandate, state, reference };
        let list = self.deps.ledger.read(move |ledger| payments::list(ledger, filter, before, limit + 1)).await?;
        Ok(paged(list, limit, |payment| payment.seq.to_string(), payments::PaymentRow::view))
    }
}

/// What is bought is payee, amount and ref: a caller that repeats itself signs a new nonce.
fn fingerprint(body: &NewPayment) -> Result<B256, LedgerError> {
    let bought = json!({ "payee": body.payee, "amount": body.amount, "ref": body.reference });
    Ok(keccak256(serde_jcs::to_vec(&bought).map_err(LedgerError::inconsistent)?))
}

/// The answer to a payment that came before, by its digest or its key; changes nothing.
fn known(
    ledger: &Connection,
    SignedPayment { body, digest, .. }: &SignedPayment,
    idempotency_key: Option<&str>,
) -> Result<Option<Result<Accepted<Payment>, Problem>>, LedgerError> {
    if let Some(known) = payments::by_digest(ledger, *digest)? {
        return Ok(Some(Ok(Accepted { object: known.view(), replayed: true })));
    }
    let Some(key) = idempotency_key else { return Ok(None) };
    let Some(earlier) = requests::recall(ledger, body.mandate.0.as_slice(), key)? else { return Ok(None) };
    let payment = |id| Ok(payments::by_id(ledger, PaymentId(id))?.map(payments::PaymentRow::view));
    replayed(earlier, fingerprint(body)?, key, payment).map(Some)
}

/// That the nonce belongs to a payment or a card already: they share one sequence.
pub(super) fn taken(ledger: &Connection, mandate: MandateId, nonce: u32) -> Result<Option<Problem>, LedgerError> {
    let by = match payments::by_nonce(ledger, mandate, nonce)? {
        Some(payment) => Some(payment.id.to_string()),
        None => match records::by_nonce(ledger, mandate, nonce)? {
            Some(card) => Some(card.id.to_string()),
            None => payments::is_external(ledger, mandate, nonce)?
                .then(|| "a payment or a hold on chain that was not accepted here".to_owned()),
        },
    };
    Ok(by.map(|by| Problem::new(Code::NonceTaken, format!("nonce {nonce} belongs to {by}"))))
}
