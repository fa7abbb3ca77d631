//! What the relayer can be asked for. The API, and later other skins, decide nothing themselves.

pub mod cards;

use std::{sync::Arc, time::Duration};

use alloy::eips::BlockId;
use alloy_primitives::{Address, B256, keccak256};
use alloy_sol_types::{SolCall, SolInterface};
use rusqlite::Connection;
use serde_json::json;
use stipend_bindings::{Domain, Spend, abi::MandateEscrow, receive_with_authorization, recover, terms_on_chain};
use stipend_core::{
    Code, Intent, MandateId, PaymentId, RequestId, Seconds,
    api::{
        AuditEntry, Health, Info, Mandate, MandateRequest, NewMandate, NewMandateRequest, NewPayment, Page, Payment,
        PaymentState, Problem, RequestState,
    },
    intent::{MCCS_MAX, PAYEES_MAX, PURPOSE_MAX, Policy},
    policy::{self, Limits, Proposal, Standing},
};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use crate::{
    chain::{
        follow::Head,
        rpc::{Call, Rpc, RpcError},
    },
    clock,
    health::Health as Alarms,
    ledger::{
        House, Ledger, LedgerError, audit, cards as records, mandates,
        payments::{self, Admission},
        requests,
        transactions::{self, Opening},
    },
};

pub use cards::{Cards, Question, SignedHold};

/// How long `?wait=` waits at most.
const WAIT: Duration = Duration::from_secs(25);
/// A mandate lives at least and at most so long.
const DURATION: std::ops::RangeInclusive<Seconds> = 60..=366 * 86_400;
/// An opening's authorisation must be good for at least so long: it has to be mined before.
const AUTHORIZATION_MIN: Seconds = 120;

/// The answer to something that creates: what there is now, and whether it was there before.
#[derive(Debug, Clone)]
pub struct Accepted<T> {
    /// The object.
    pub object: T,
    /// Whether an earlier call created it.
    pub replayed: bool,
}

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

/// Which page of a list.
#[derive(Debug, Clone, Default)]
pub struct PageQuery {
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// At most so many objects (1 to 100; default 20).
    pub limit: Option<u32>,
}

impl PageQuery {
    fn limit(&self) -> u32 {
        self.limit.unwrap_or(20).clamp(1, 100)
    }

    fn cursor<T: std::str::FromStr>(&self) -> Result<Option<T>, Problem> {
        let parse = |cursor: &String| {
            cursor
                .parse()
                .map_err(|_| Problem::new(Code::InvalidRequest, "the cursor is not a next_cursor of this list"))
        };
        self.cursor.as_ref().map(parse).transpose()
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

/// What the service works with.
#[derive(Debug)]
pub struct Parts {
    /// The ledger.
    pub ledger: Ledger,
    /// The node.
    pub rpc: Rpc,
    /// The house.
    pub house: House,
    /// What payments are held to.
    pub limits: Limits,
    /// Blocks, the including one counted, after which a mandate can be used.
    pub confirmations: u64,
    /// The head.
    pub heads: watch::Receiver<Head>,
    /// What is wrong.
    pub alarms: Alarms,
    /// What cards need, if they are offered.
    pub cards: Option<Cards>,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    parts: Arc<Parts>,
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        let code = match &error {
            LedgerError::Full => Code::Overloaded,
            LedgerError::Unknown => Code::Unavailable,
            _ => Code::Internal,
        };
        if code == Code::Internal {
            tracing::error!(%error, "the ledger failed");
            return Self::new(code, "the ledger failed");
        }
        Self::new(code, error.to_string())
    }
}

impl From<RpcError> for Problem {
    fn from(error: RpcError) -> Self {
        tracing::warn!(%error, "the node failed");
        Self::new(Code::Unavailable, "the node can't be asked now")
    }
}

impl Service {
    /// A service of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// Where this relayer stands.
    ///
    /// # Errors
    /// None yet; the signature is that of its peers.
    pub async fn info(&self) -> Result<Info, Problem> {
        let Parts { house, limits, confirmations, .. } = *self.parts;
        let head = *self.parts.heads.borrow();
        Ok(Info {
            chain_id: house.chain_id,
            escrow: house.escrow,
            token: house.token,
            guardian: house.guardian,
            confirmations,
            limits,
            cards: self.parts.cards.as_ref().map(Cards::info),
            head: head.block,
            finalized: head.finalized,
        })
    }

    /// Whether new work is taken, and what is wrong.
    pub async fn health(&self) -> Health {
        self.parts.alarms.view()
    }

    /// The chain id that signed requests name.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.parts.house.chain_id
    }

    /// Changes with every commit that adds audit entries: the last `seq`.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.parts.ledger.changes()
    }

    /// An agent asks for a mandate.
    ///
    /// # Errors
    /// `invalid_terms`, `idempotency_key_reused`, and those of the ledger.
    pub async fn request_mandate(
        &self,
        agent: Address,
        body: NewMandateRequest,
        idempotency_key: Option<String>,
    ) -> Result<Accepted<MandateRequest>, Problem> {
        self.running()?;
        self.check_request(&body)?;
        let fingerprint = keccak256(serde_jcs::to_vec(&body).map_err(|error| invalid(&error))?);
        self.parts
            .ledger
            .writer()
            .write(move |ledger| {
                let scope = agent.as_slice();
                if let Some(key) = &idempotency_key
                    && let Some(bought) = requests::bought(ledger, scope, key)?
                {
                    return replayed(bought, fingerprint, key, |id| requests::get(ledger, RequestId(id)));
                }
                let now = clock::now();
                let id = RequestId::generate();
                let intent = Intent {
                    version: 1,
                    purpose: body.intent.clone(),
                    policy: Policy { payees: body.payees.clone(), mccs: body.mccs.clone() },
                    nonce: B256::random(),
                };
                requests::insert(ledger, id, agent, &body, &intent, now)?;
                if let Some(key) = &idempotency_key {
                    requests::remember(ledger, scope, key, fingerprint, id.0)?;
                }
                let data = json!({ "amount": body.amount, "duration": body.duration, "purpose": body.intent });
                let event = audit::Event {
                    kind: "mandate.requested".into(),
                    agent: Some(agent),
                    request: Some(id),
                    data,
                    ..audit::Event::default()
                };
                audit::append(ledger, now, event)?;
                let object = requests::get(ledger, id)?
                    .ok_or_else(|| LedgerError::inconsistent("a request that was just stored is gone"))?;
                Ok(Ok(Accepted { object, replayed: false }))
            })
            .await?
    }

    fn check_request(&self, body: &NewMandateRequest) -> Result<(), Problem> {
        let refuse = |detail: String| Err(Problem::new(Code::InvalidTerms, detail));
        let Parts { house, .. } = *self.parts;
        if body.amount.is_zero() {
            return refuse("the amount is zero".into());
        }
        if body.intent.trim().is_empty() || body.intent.len() > PURPOSE_MAX {
            return refuse(format!("the intent is 1 to {PURPOSE_MAX} bytes of text"));
        }
        if !DURATION.contains(&body.duration.seconds()) {
            return refuse(format!("the duration is from {} to {} seconds", DURATION.start(), DURATION.end()));
        }
        if let Some(per_payment) = body.per_payment
            && (per_payment.is_zero() || per_payment > body.amount)
        {
            return refuse(format!("the per-payment maximum is above zero and at most the amount, {}", body.amount));
        }
        if let Some(payees) = &body.payees {
            if payees.is_empty() || payees.len() > PAYEES_MAX {
                return refuse(format!("a list of payees has 1 to {PAYEES_MAX}; leave it out to allow anyone"));
            }
            if let Some(payee) = payees.iter().find(|payee| **payee == house.escrow || **payee == house.token) {
                return refuse(format!("{payee} can't be paid: it is the escrow or the token"));
            }
            let distinct: std::collections::BTreeSet<_> = payees.iter().collect();
            if distinct.len() != payees.len() {
                return refuse("the list of payees names one twice".into());
            }
        }
        if let Some(mccs) = &body.mccs
            && (mccs.is_empty() || mccs.len() > MCCS_MAX)
        {
            return refuse(format!("a list of merchant categories has 1 to {MCCS_MAX}; leave it out to allow any"));
        }
        Ok(())
    }

    /// One request, for whoever knows its id, which nobody can guess.
    ///
    /// # Errors
    /// `not_found`, and those of the ledger.
    pub async fn mandate_request(&self, id: RequestId) -> Result<MandateRequest, Problem> {
        self.parts.ledger.read(move |ledger| requests::get(ledger, id)).await?.ok_or_else(|| not_found("request"))
    }

    /// The caller's requests, newest first.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn mandate_requests(&self, caller: Address, page: PageQuery) -> Result<Page<MandateRequest>, Problem> {
        let (limit, before) = (page.limit(), page.cursor()?);
        let list = self.parts.ledger.read(move |ledger| requests::list(ledger, caller, before, limit + 1)).await?;
        Ok(paged(list, limit, |request| request.id.to_string(), |request| request))
    }

    /// An operator approves a request by one message.
    ///
    /// # Errors
    /// `not_found`, `invalid_terms`, `already_approved`, `open_would_fail`, `bad_signature`, and
    /// those of ledger and node.
    pub async fn open_mandate(&self, operator: Address, body: NewMandate) -> Result<Accepted<Mandate>, Problem> {
        self.running()?;
        let request = self.mandate_request(body.request).await?;
        let now = self.now();
        let id = self.check_opening(operator, &request, &body, now)?;
        if request.state == RequestState::Approved && request.mandate != Some(id) {
            return Err(Problem::new(Code::AlreadyApproved, format!("{} was approved already", request.id)));
        }
        if let Some(known) = self.parts.ledger.read(move |ledger| mandates::get(ledger, id)).await?
            && (known.opened.is_some() || self.opening_for(request.id).await? == Some(id))
        {
            return Ok(Accepted { object: self.view(known), replayed: true });
        }

        let terms = terms_on_chain(&body.terms).map_err(|error| invalid(&error))?;
        let authorization = &body.authorization;
        let call = MandateEscrow::openWithAuthorizationCall {
            terms,
            validAfter: alloy_primitives::U256::from(authorization.valid_after),
            validBefore: alloy_primitives::U256::from(authorization.valid_before),
            signature: authorization.signature.clone(),
        };
        let opening = Opening { mandate: id, calldata: call.abi_encode().into() };
        self.simulate_opening(&opening).await?;

        let (request, terms, valid_before) = (request.id, body.terms, authorization.valid_before);
        let record = self
            .parts
            .ledger
            .writer()
            .write(move |ledger| {
                // Gas is the host's money: one opening per request at a time.
                if transactions::opening_for(ledger, request)?.is_some_and(|other| other != id) {
                    let detail = format!("an approval of {request} by somebody else is under way");
                    return Ok(Err(Problem::new(Code::AlreadyApproved, detail)));
                }
                mandates::ensure(ledger, id, &terms, now)?;
                transactions::add_opening(ledger, &opening, valid_before)?;
                let record = mandates::get(ledger, id)?
                    .ok_or_else(|| LedgerError::inconsistent("a mandate that was just stored is gone"))?;
                let data = json!({ "cap": terms.cap, "operator": terms.operator.to_string() });
                audit::append(ledger, now, audit::Event { data, ..record.event("mandate.approved") })?;
                Ok(Ok(record))
            })
            .await??;
        Ok(Accepted { object: self.view(record), replayed: false })
    }

    /// That terms and authorisation are what the operator may ask this relayer to send for this
    /// request; their mandate's id.
    fn check_opening(
        &self,
        operator: Address,
        request: &MandateRequest,
        body: &NewMandate,
        now: Seconds,
    ) -> Result<MandateId, Problem> {
        let Parts { house, .. } = *self.parts;
        let refuse = |detail: String| Err(Problem::new(Code::InvalidTerms, detail));
        let guardian = body.terms.guardian;
        if body.terms.operator != operator {
            return refuse(format!(
                "the terms name the operator {}, the request is signed by {operator}",
                body.terms.operator
            ));
        }
        if !request.is_answered_by(&body.terms) {
            return refuse("the terms are not those that were asked for".into());
        }
        if guardian != house.guardian {
            return refuse(format!("the guardian of this relayer is {}, the terms name {guardian}", house.guardian));
        }
        body.terms.check(now).map_err(|error| Problem::new(Code::InvalidTerms, error.to_string()))?;
        let authorization = &body.authorization;
        if authorization.valid_after >= now || authorization.valid_before < now.saturating_add(AUTHORIZATION_MIN) {
            return refuse(format!(
                "the authorisation is valid after {} and before {}; it must be so from now ({now}) for {AUTHORIZATION_MIN} seconds",
                authorization.valid_after, authorization.valid_before
            ));
        }
        let domain = self.domain();
        let id = domain.mandate_id(&body.terms).map_err(|error| invalid(&error))?;
        let validity = (authorization.valid_after, authorization.valid_before);
        let (_, digest) = receive_with_authorization(domain, house.token, (operator, body.terms.cap), validity, id);
        match recover(digest, &authorization.signature) {
            Ok(signer) if signer == operator => Ok(id),
            Ok(signer) => Err(Problem::new(
                Code::BadSignature,
                format!("the authorisation was signed by {signer}, or for other terms than {id}"),
            )),
            Err(error) => Err(Problem::new(Code::BadSignature, error.to_string())),
        }
    }

    async fn simulate_opening(&self, opening: &Opening) -> Result<(), Problem> {
        let head = self.parts.heads.borrow().block.hash;
        let data = opening.calldata.clone();
        let call = Call { from: None, to: self.parts.house.escrow, data, gas: None };
        let Err(error) =
            self.parts.rpc.call::<MandateEscrow::openWithAuthorizationCall>(call, BlockId::hash(head)).await
        else {
            return Ok(());
        };
        match error {
            RpcError::Refused { revert, message, .. } => {
                let revert = revert.and_then(|data| MandateEscrow::MandateEscrowErrors::abi_decode(&data).ok());
                match revert {
                    // Somebody was faster with the very same message: that is what was wanted.
                    Some(MandateEscrow::MandateEscrowErrors::AlreadyOpened(_)) => Ok(()),
                    Some(error) => Err(Problem::new(Code::OpenWouldFail, format!("the escrow refuses: {error:?}"))),
                    None => Err(Problem::new(Code::OpenWouldFail, format!("the token refuses: {message}"))),
                }
            }
            error => Err(error.into()),
        }
    }

    async fn opening_for(&self, request: RequestId) -> Result<Option<MandateId>, LedgerError> {
        self.parts.ledger.read(move |ledger| transactions::opening_for(ledger, request)).await
    }

    /// One mandate of the caller's (as its agent or its operator).
    ///
    /// # Errors
    /// `not_found`, and those of the ledger.
    pub async fn mandate(&self, caller: Address, id: MandateId) -> Result<Mandate, Problem> {
        let record = self.parts.ledger.read(move |ledger| mandates::get(ledger, id)).await?;
        record
            .filter(|record| record.belongs_to(caller))
            .map(|record| self.view(record))
            .ok_or_else(|| not_found("mandate"))
    }

    /// The caller's mandates, newest first.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn mandates(&self, caller: Address, page: PageQuery) -> Result<Page<Mandate>, Problem> {
        let (limit, before) = (page.limit(), page.cursor()?);
        let list = self.parts.ledger.read(move |ledger| mandates::list(ledger, caller, before, limit + 1)).await?;
        Ok(paged(list, limit, |mandate| mandate.seq.to_string(), |mandate| self.view(mandate)))
    }

    /// Finds out who signed a payment. Costs a signature's recovery, off the async threads, and
    /// nothing else.
    ///
    /// # Errors
    /// `invalid_request` and `bad_signature`.
    pub async fn recognise(&self, body: NewPayment) -> Result<SignedPayment, Problem> {
        let NewPayment { mandate, payee, amount, nonce, deadline, reference, .. } = body;
        let spend = Spend::new(mandate, payee, amount, nonce, deadline, reference).map_err(|error| invalid(&error))?;
        let digest = self.domain().spend_digest(&spend);
        let signature = body.signature.clone();
        let agent = tokio::task::spawn_blocking(move || recover(digest, &signature))
            .await
            .map_err(|_| Problem::new(Code::Internal, "the signature could not be checked"))?
            .map_err(|error| Problem::new(Code::BadSignature, error.to_string()))?;
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
        self.running()?;
        // A repeated payment costs no commit.
        let (mandate, digest, agent) = (payment.body.mandate, payment.digest, payment.agent);
        let known = self.parts.ledger.read(move |ledger| {
            let own = mandates::get(ledger, mandate)?.is_some_and(|mandate| mandate.terms.agent == agent);
            if own { payments::by_digest(ledger, digest) } else { Ok(None) }
        });
        if let Some(known) = known.await? {
            return Ok(Accepted { object: known.view(), replayed: true });
        }
        let this = self.clone();
        let head = self.parts.heads.borrow().block.number;
        let now = self.now();
        self.parts
            .ledger
            .writer()
            .write(move |ledger| this.admit(ledger, payment, idempotency_key.as_deref(), (head, now)))
            .await?
    }

    /// Decides and reserves, within the writer's commit. A denial is written down too.
    fn admit(
        &self,
        ledger: &Connection,
        SignedPayment { body, digest, agent }: SignedPayment,
        idempotency_key: Option<&str>,
        (head, now): (u64, Seconds),
    ) -> Result<Result<Accepted<Payment>, Problem>, LedgerError> {
        let mandate = mandates::get(ledger, body.mandate)?.filter(|mandate| mandate.terms.agent == agent);
        let Some(mandate) = mandate else {
            let detail = format!(
                "the agent {agent} has no mandate {}; it was recovered from the signature, so if it is not the one expected, the signed message differs",
                body.mandate
            );
            return Ok(Err(Problem::new(Code::NotFound, detail)));
        };
        if let Some(known) = payments::by_digest(ledger, digest)? {
            return Ok(Ok(Accepted { object: known.view(), replayed: true }));
        }
        // What is bought is payee, amount and ref: a caller that repeats itself signs a new nonce.
        let bought = json!({ "payee": body.payee, "amount": body.amount, "ref": body.reference });
        let fingerprint = keccak256(serde_jcs::to_vec(&bought).map_err(LedgerError::inconsistent)?);
        let scope = body.mandate.0.as_slice();
        if let Some(key) = idempotency_key
            && let Some(bought) = requests::bought(ledger, scope, key)?
        {
            let payment = |id| Ok(payments::by_id(ledger, PaymentId(id))?.map(payments::Record::view));
            return replayed(bought, fingerprint, key, payment);
        }
        if let Some(taken) = taken(ledger, body.mandate, body.nonce)? {
            return Ok(Err(taken));
        }

        let proposal = Proposal { payee: body.payee, amount: body.amount, nonce: body.nonce, deadline: body.deadline };
        let decision = self.decide(&mandate, &proposal, head, now);
        if let Some((verdict, code)) = decision.refusal() {
            let mut problem = Problem::new(code, verdict.detail.clone());
            let data = json!({
                "payee": body.payee.to_string(), "amount": body.amount, "nonce": body.nonce, "deadline": body.deadline,
                "ref": body.reference, "digest": digest, "code": code, "decision": decision,
            });
            audit::append(ledger, now, audit::Event { data, ..mandate.event("payment.denied") })?;
            problem.decision = Some(decision);
            return Ok(Err(problem));
        }
        let admission = Admission { id: PaymentId::generate(), body, digest };
        payments::admit(ledger, &mandate, &admission, &decision, now)?;
        if let Some(key) = idempotency_key {
            requests::remember(ledger, mandate.id.0.as_slice(), key, fingerprint, admission.id.0)?;
        }
        let payment = payments::by_id(ledger, admission.id)?
            .ok_or_else(|| LedgerError::inconsistent("a payment that was just stored is gone"))?;
        Ok(Ok(Accepted { object: payment.view(), replayed: false }))
    }

    /// What the policy says about an outflow of `mandate`.
    fn decide(&self, mandate: &mandates::Record, proposal: &Proposal, head: u64, now: Seconds) -> policy::Decision {
        let Parts { house, limits, confirmations, .. } = *self.parts;
        let standing = Standing {
            terms: &mandate.terms,
            intent: mandate.intent.as_ref(),
            state: mandate.state(head, confirmations),
            available: mandate.books.available(),
            highest_nonce: mandate.highest_nonce,
        };
        let house = policy::House { escrow: house.escrow, token: house.token, guardian: house.guardian };
        policy::decide(&standing, proposal, &house, &limits, now)
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
                .parts
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
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn payments(
        &self,
        caller: Address,
        filter: PaymentFilter,
        page: PageQuery,
    ) -> Result<Page<Payment>, Problem> {
        let (limit, before) = (page.limit(), page.cursor()?);
        let PaymentFilter { mandate, state, reference } = filter;
        let filter = payments::Filter { reader: caller, mandate, state, reference };
        let list = self.parts.ledger.read(move |ledger| payments::list(ledger, filter, before, limit + 1)).await?;
        Ok(paged(list, limit, |payment| payment.seq.to_string(), payments::Record::view))
    }

    /// The caller's audit entries after `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn audit(
        &self,
        caller: Address,
        mandate: Option<MandateId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, Problem> {
        let limit = limit.clamp(1, 1_000);
        Ok(self.parts.ledger.read(move |ledger| audit::list(ledger, caller, mandate, after, limit)).await?)
    }

    fn view(&self, record: mandates::Record) -> Mandate {
        record.view(self.parts.heads.borrow().block.number, self.parts.confirmations)
    }

    fn domain(&self) -> Domain {
        Domain { chain_id: self.parts.house.chain_id, escrow: self.parts.house.escrow }
    }

    /// The later of the head's time and the clock's: a deadline is judged by the stricter of both.
    fn now(&self) -> Seconds {
        self.parts.heads.borrow().block.time.max(clock::now())
    }

    fn running(&self) -> Result<(), Problem> {
        self.parts.alarms.halted().map_or(Ok(()), |why| Err(Problem::new(Code::Halted, why)))
    }
}

fn invalid(error: &impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidRequest, error.to_string())
}

fn not_found(what: &str) -> Problem {
    Problem::new(Code::NotFound, format!("no such {what}"))
}

/// That the nonce belongs to a payment or a card already: they share one sequence.
fn taken(ledger: &Connection, mandate: MandateId, nonce: u32) -> Result<Option<Problem>, LedgerError> {
    let by = match payments::by_nonce(ledger, mandate, nonce)? {
        Some(payment) => Some(payment.id.to_string()),
        None => records::by_nonce(ledger, mandate, nonce)?.map(|card| card.id.to_string()),
    };
    Ok(by.map(|by| Problem::new(Code::NonceTaken, format!("nonce {nonce} belongs to {by}"))))
}

/// The answer to an idempotency key that came before.
fn replayed<T>(
    (stored, subject): (B256, Uuid),
    fingerprint: B256,
    key: &str,
    find: impl FnOnce(Uuid) -> Result<Option<T>, LedgerError>,
) -> Result<Result<Accepted<T>, Problem>, LedgerError> {
    if stored != fingerprint {
        let detail = format!("the key {key:?} came before with other content");
        return Ok(Err(Problem::new(Code::IdempotencyKeyReused, detail)));
    }
    let object = find(subject)?.ok_or_else(|| LedgerError::inconsistent("an idempotency key whose object is gone"))?;
    Ok(Ok(Accepted { object, replayed: true }))
}

/// A page of `list`, which was asked for one more than `limit`.
fn paged<R, T>(mut list: Vec<R>, limit: u32, cursor: impl Fn(&R) -> String, view: impl FnMut(R) -> T) -> Page<T> {
    let more = list.len() > limit as usize;
    list.truncate(limit as usize);
    let next_cursor = list.last().filter(|_| more).map(cursor);
    Page { data: list.into_iter().map(view).collect(), next_cursor }
}
