//! The service's side of mandates: asked for by agents, approved by operators.

use alloy::eips::BlockId;
use alloy_primitives::{Address, B256, keccak256};
use alloy_sol_types::{SolCall, SolInterface};
use rusqlite::Connection;
use serde_json::json;
use stipend_bindings::{Validity, abi::MandateEscrow, authorization_digest, canonical, recover, terms_on_chain};
use stipend_core::{
    Amount, Code, Intent, MandateId, RequestId, Seconds,
    api::{Accepted, Mandate, MandateRequest, NewMandate, NewMandateRequest, Page, PageQuery, Problem, RequestState},
    intent::{MCCS_MAX, PAYEES_MAX, PURPOSE_MAX, Policy},
};

use super::{Deps, Seq, Service, admission::Admission, invalid, not_found, page_bounds, paged};
use crate::{
    chain::rpc::{EthCall, RpcError},
    clock,
    failpoint::{self, Point},
    ledger::{
        LedgerError, audit, mandates,
        openings::{self, Opening},
        requests,
    },
};

/// The shortest and longest duration of a mandate.
const DURATION: std::ops::RangeInclusive<Seconds> = 60..=366 * 86_400;
/// The shortest remaining validity of an opening's authorization: it has to be mined before.
const AUTHORIZATION_MIN: Seconds = 120;

impl Service {
    /// Creates an agent's request for a mandate.
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
        let answer = self
            .deps
            .ledger
            .writer()
            .write(move |ledger| {
                let scope = agent.as_slice();
                if let Some(key) = &idempotency_key
                    && let Some(earlier) = requests::recall(ledger, scope, key)?
                {
                    return Admission::replay(&earlier, fingerprint, key, |id| requests::get(ledger, RequestId(id)));
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
                    requests::remember(ledger, scope, key, requests::IdempotentCall { fingerprint, subject: id.0 })?;
                }
                let data = json!({
                    "amount": body.amount, "duration": body.duration, "purpose": body.intent,
                    "per_payment": body.per_payment, "window": body.window, "window_cap": body.window_cap,
                });
                let event = audit::NewAuditEntry {
                    kind: "mandate.requested".into(),
                    agent: Some(agent),
                    request: Some(id),
                    data,
                    ..audit::NewAuditEntry::default()
                };
                audit::append(ledger, now, event)?;
                let request = requests::get(ledger, id)?;
                request
                    .map(Admission::Accepted)
                    .ok_or_else(|| LedgerError::inconsistent("a request that was just stored is gone"))
            })
            .await?;
        failpoint::pass(Point::RequestCommitted);
        answer.into_result()
    }

    fn check_request(&self, body: &NewMandateRequest) -> Result<(), Problem> {
        let refuse = |detail: String| Err(Problem::new(Code::InvalidTerms, detail));
        let Deps { deployment, .. } = *self.deps;
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
        match (body.window, body.window_cap) {
            (None, None) => {}
            (Some(window), Some(cap)) => {
                if !(1..=u64::from(u32::MAX)).contains(&window.seconds()) {
                    return refuse(format!("a rolling window is from 1 to {} seconds", u32::MAX));
                }
                if cap.is_zero() || cap > body.amount {
                    let total = body.amount;
                    return refuse(format!("the rolling window's cap is above zero and at most the amount, {total}"));
                }
            }
            _ => return refuse("a rolling window needs both a length and a cap".into()),
        }
        if let Some(payees) = &body.payees {
            if payees.is_empty() || payees.len() > PAYEES_MAX {
                return refuse(format!("a list of payees has 1 to {PAYEES_MAX}; leave it out to allow anyone"));
            }
            if let Some(payee) = payees.iter().find(|payee| **payee == deployment.escrow || **payee == deployment.token)
            {
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

    /// One request, for any caller that knows its id, which nobody can guess.
    ///
    /// # Errors
    /// `not_found`, and those of the ledger.
    pub async fn mandate_request(&self, id: RequestId) -> Result<MandateRequest, Problem> {
        self.deps.ledger.read(move |ledger| requests::get(ledger, id)).await?.ok_or_else(|| not_found("request"))
    }

    /// The caller's requests, newest first.
    pub async fn mandate_requests(&self, caller: Address, page: PageQuery) -> Result<Page<MandateRequest>, Problem> {
        let (limit, before) = page_bounds(&page)?;
        let list = self.deps.ledger.read(move |ledger| requests::list(ledger, caller, before, limit + 1)).await?;
        Ok(paged(list, limit, |request| request.id.to_string(), |request| request))
    }

    /// An operator approves a request by one message.
    ///
    /// # Errors
    /// `not_found`, `invalid_terms`, `already_approved`, `approval_under_way`, `open_would_fail`,
    /// `bad_signature`, and those of ledger and node.
    pub async fn open_mandate(&self, operator: Address, body: NewMandate) -> Result<Accepted<Mandate>, Problem> {
        let request = self.mandate_request(body.request).await?;
        let now = self.now();
        let id = self.check_opening(operator, &request, &body, now)?;
        if request.state == RequestState::Approved && request.mandate != Some(id) {
            return Err(approved_already(&request));
        }
        if let Some(known) = self.deps.ledger.read(move |ledger| mandates::get(ledger, id)).await?
            && (known.opened.is_some() || self.opening_for(request.id).await? == Some(id))
        {
            return Ok(Accepted { object: self.view(known), replayed: true });
        }
        self.running()?;

        let terms = terms_on_chain(&body.terms).map_err(|error| invalid(&error))?;
        let authorization = &body.authorization;
        let call = MandateEscrow::openWithAuthorizationCall {
            terms,
            validAfter: alloy_primitives::U256::from(authorization.valid_after),
            validBefore: alloy_primitives::U256::from(authorization.valid_before),
            // The token does not take v as hardware wallets have it.
            signature: canonical(&authorization.signature)
                .map_or_else(|_| authorization.signature.clone(), alloy_primitives::Bytes::from),
        };
        let opening = Opening { mandate: id, calldata: call.abi_encode().into() };
        self.simulate_opening(&opening).await?;

        let relaying = self.deps.relaying;
        let (request, terms, valid_before) = (request.id, body.terms, authorization.valid_before);
        let record = self
            .deps
            .ledger
            .writer()
            .write(move |ledger| {
                // The very same approval may have come twice at once.
                if let Some(known) = mandates::get(ledger, id)?
                    && (known.opened.is_some() || openings::of_request(ledger, request)? == Some(id))
                {
                    return Ok(Admission::Replayed(known));
                }
                // A request takes one cap: it may have been answered meanwhile, or another approval be under way.
                if let Some(request) = requests::get(ledger, request)?
                    && request.mandate.is_some_and(|other| other != id)
                {
                    return Ok(Admission::Refused(approved_already(&request)));
                }
                if let Some(other) = openings::of_request(ledger, request)?.filter(|other| *other != id) {
                    return under_way(ledger, request, other, operator).map(Admission::Refused);
                }
                if let Some(limit) = relaying.approvals_per_day
                    && let Some(free_at) = mandates::quota_free_at(ledger, operator, limit, now)?
                {
                    let detail = format!(
                        "the operator {operator} has opened {limit} mandates by message in 24 hours; the next one is \
                         possible at {free_at}, or open it by a transaction of your own"
                    );
                    return Ok(Admission::Refused(Problem::new(Code::GasBudgetExceeded, detail)));
                }
                if let Some(limit) = relaying.approvals_per_day_total
                    && let Some(free_at) = mandates::total_quota_free_at(ledger, limit, now)?
                {
                    let detail = format!(
                        "this relayer has opened {limit} mandates by message in 24 hours; the next one is possible at \
                         {free_at}, or open it by a transaction of your own"
                    );
                    return Ok(Admission::Refused(Problem::new(Code::GasBudgetExceeded, detail)));
                }
                mandates::ensure(ledger, id, &terms, now)?;
                openings::add(ledger, &opening, valid_before)?;
                let record = mandates::get(ledger, id)?
                    .ok_or_else(|| LedgerError::inconsistent("a mandate that was just stored is gone"))?;
                let data = json!({ "cap": terms.cap, "operator": terms.operator.to_string() });
                audit::append(ledger, now, audit::NewAuditEntry { data, ..record.event("mandate.approved") })?;
                mandates::count_approval(ledger, terms.operator, now)?;
                Ok(Admission::Accepted(record))
            })
            .await?;
        failpoint::pass(Point::ApprovalCommitted);
        record.map(|record| self.view(record)).into_result()
    }

    /// That terms and authorization are what the operator may ask this relayer to send for this
    /// request; their mandate's id.
    fn check_opening(
        &self,
        operator: Address,
        request: &MandateRequest,
        body: &NewMandate,
        now: Seconds,
    ) -> Result<MandateId, Problem> {
        let Deps { deployment, .. } = *self.deps;
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
        if guardian != deployment.guardian {
            return refuse(format!(
                "the guardian of this relayer is {}, the terms name {guardian}",
                deployment.guardian
            ));
        }
        if body.terms.cap < self.deps.relaying.mandate_min {
            return Err(Problem::new(Code::BelowMinimum, too_small(body.terms.cap, self.deps.relaying.mandate_min)));
        }
        body.terms.check(now).map_err(|error| Problem::new(Code::InvalidTerms, error.to_string()))?;
        let authorization = &body.authorization;
        if authorization.valid_after >= now || authorization.valid_before < now.saturating_add(AUTHORIZATION_MIN) {
            return refuse(format!(
                "the authorization is valid after {} and before {}; it must be so from now ({now}) for {AUTHORIZATION_MIN} seconds",
                authorization.valid_after, authorization.valid_before
            ));
        }
        let domain = self.domain();
        let id = domain.mandate_id(&body.terms).map_err(|error| invalid(&error))?;
        let validity = Validity { after: authorization.valid_after, before: authorization.valid_before };
        let token_domain = self.deps.token_domain.ok_or_else(|| {
            let token = deployment.token;
            let detail = format!(
                "the token {token} does not say for which name and version its messages are signed, or says otherwise \
                 than its DOMAIN_SEPARATOR: approve by a transaction instead"
            );
            Problem::new(Code::OpenWouldFail, detail)
        })?;
        let digest = authorization_digest(domain, token_domain, operator, body.terms.cap, validity, id);
        match recover(digest, &authorization.signature) {
            Ok(signer) if signer == operator => Ok(id),
            Ok(signer) => Err(Problem::new(
                Code::BadSignature,
                format!("the authorization was signed by {signer}, or for other terms than {id}"),
            )),
            Err(error) => Err(Problem::new(Code::BadSignature, error.to_string())),
        }
    }

    async fn simulate_opening(&self, opening: &Opening) -> Result<(), Problem> {
        let head = self.deps.heads.borrow().block.hash;
        let data = opening.calldata.clone();
        let call = EthCall { from: None, to: self.deps.deployment.escrow, data, gas: None };
        let Err(error) =
            self.deps.rpc.call::<MandateEscrow::openWithAuthorizationCall>(call, BlockId::hash(head)).await
        else {
            return Ok(());
        };
        match error {
            RpcError::Refused { revert, message, .. } => {
                let revert = revert.and_then(|data| MandateEscrow::MandateEscrowErrors::abi_decode(&data).ok());
                match revert {
                    // Somebody was faster with the very same message: that is what was wanted.
                    Some(MandateEscrow::MandateEscrowErrors::AlreadyOpened(_)) => Ok(()),
                    Some(MandateEscrow::MandateEscrowErrors::AlreadyEnded(_)) => {
                        let detail =
                            format!("{} was revoked: its terms never open again, so approve anew", opening.mandate);
                        Err(Problem::new(Code::OpenWouldFail, detail))
                    }
                    Some(error) => Err(Problem::new(Code::OpenWouldFail, format!("the escrow refuses: {error:?}"))),
                    None => Err(Problem::new(Code::OpenWouldFail, format!("the token refuses: {message}"))),
                }
            }
            error => Err(error.into()),
        }
    }

    async fn opening_for(&self, request: RequestId) -> Result<Option<MandateId>, LedgerError> {
        self.deps.ledger.read(move |ledger| openings::of_request(ledger, request)).await
    }

    /// One mandate of the caller's (as its agent or its operator).
    ///
    /// # Errors
    /// `not_found`, and those of the ledger.
    pub async fn mandate(&self, caller: Address, id: MandateId) -> Result<Mandate, Problem> {
        let record = self.deps.ledger.read(move |ledger| mandates::get(ledger, id)).await?;
        record
            .filter(|record| record.belongs_to(caller))
            .map(|record| self.view(record))
            .ok_or_else(|| not_found("mandate"))
    }

    /// The caller's mandates, newest first.
    pub async fn mandates(&self, caller: Address, page: PageQuery) -> Result<Page<Mandate>, Problem> {
        let (limit, before) = page_bounds(&page)?;
        let before = before.map(Seq::get);
        let list = self.deps.ledger.read(move |ledger| mandates::list(ledger, caller, before, limit + 1)).await?;
        Ok(paged(list, limit, |mandate| mandate.seq.to_string(), |mandate| self.view(mandate)))
    }
}

/// Why the host does not pay for a transaction about a mandate.
pub(super) fn too_small(cap: Amount, minimum: Amount) -> String {
    format!(
        "the mandate's cap is {cap}; this relayer sends transactions for mandates from {minimum} on: send it yourself, \
         or ask for more"
    )
}

fn approved_already(request: &MandateRequest) -> Problem {
    let by = request.mandate.map(|id| format!(": {id}")).unwrap_or_default();
    Problem::new(Code::AlreadyApproved, format!("{} was approved already{by}", request.id))
}

/// That the approval of a request by `other` is under way, as far as `operator` may know.
fn under_way(
    ledger: &Connection,
    request: RequestId,
    other: MandateId,
    operator: Address,
) -> Result<Problem, LedgerError> {
    let other =
        mandates::get(ledger, other)?.ok_or_else(|| LedgerError::inconsistent("an opening without a mandate"))?;
    let until = other.opening_until.unwrap_or_default();
    let whose =
        if other.terms.operator == operator { format!("yours, of {},", other.id) } else { "another operator's".into() };
    let detail = format!("an approval of {request} is under way: {whose} is sent until {until} at the latest");
    Ok(Problem::new(Code::ApprovalUnderWay, detail))
}
