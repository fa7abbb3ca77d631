//! One way in for whatever an agent signs to take from a mandate's budget: payments and the holds of
//! cards.
//!
//! ```text
//! signature ─▶ running? ─▶ one commit: known? nonce free? policy ─▶ reserved, stored, journaled
//!              only replays             replayed     refused, and written down
//! ```

use alloy_primitives::{Address, B256};
use rusqlite::{Connection, Transaction};
use stipend_core::{
    Code, MandateId, Seconds,
    api::{Accepted, Problem},
    policy::{CardProposal, Decision, GasUsage, PolicyContext, PolicyInput, Proposal, WindowInput},
    trail::Inputs,
};
use uuid::Uuid;

use super::Service;
use crate::{
    failpoint::{self, Point},
    ledger::{
        LedgerError,
        books::{self, Books, OpenMandate},
        cards, gas,
        mandates::{self, MandateRow},
        payments,
        requests::{self, IdempotentCall},
        window,
    },
};

/// What became of a call that creates something.
#[derive(Debug)]
pub(super) enum Admission<T> {
    /// It was created.
    Accepted(T),
    /// An earlier call created it.
    Replayed(T),
    /// It was not, and nothing of it was stored but the refusal.
    Refused(Problem),
}

impl<T> Admission<T> {
    pub(super) fn into_result(self) -> Result<Accepted<T>, Problem> {
        match self {
            Self::Accepted(object) => Ok(Accepted { object, replayed: false }),
            Self::Replayed(object) => Ok(Accepted { object, replayed: true }),
            Self::Refused(problem) => Err(problem),
        }
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Admission<U> {
        match self {
            Self::Accepted(object) => Admission::Accepted(change(object)),
            Self::Replayed(object) => Admission::Replayed(change(object)),
            Self::Refused(problem) => Admission::Refused(problem),
        }
    }

    /// The answer to an idempotency key that was used before; `find` looks its object up.
    pub(super) fn replay(
        earlier: &IdempotentCall,
        fingerprint: B256,
        key: &str,
        find: impl FnOnce(Uuid) -> Result<Option<T>, LedgerError>,
    ) -> Result<Self, LedgerError> {
        if earlier.fingerprint != fingerprint {
            let detail = format!("the key {key:?} came before with other content");
            return Ok(Self::Refused(Problem::new(Code::IdempotencyKeyReused, detail)));
        }
        let object = find(earlier.subject)?;
        object.map(Self::Replayed).ok_or_else(|| LedgerError::inconsistent("an idempotency key whose object is gone"))
    }
}

/// Something signed whose signer is known.
#[derive(Debug, Clone)]
pub struct Signed<T> {
    pub(super) body: T,
    pub(super) digest: B256,
    pub(super) agent: Address,
}

impl<T> Signed<T> {
    /// Who signed it.
    pub const fn agent(&self) -> Address {
        self.agent
    }
}

/// What an agent signs to take from a mandate's budget.
pub(super) trait Spending: Clone + Send + Sync + 'static {
    /// As the API shows it.
    type Object: Send + 'static;
    /// Whether it only takes from what is open in the books, which it then shares with others of the same commit.
    const SHARES_BOOKS: bool;
    /// Where a test may kill the process after the commit.
    const COMMITTED: Point;

    fn mandate(&self) -> MandateId;
    /// The policy's input, at `now`.
    fn proposal(&self, service: &Service, now: Seconds) -> Result<(Proposal, Option<CardProposal>), Problem>;
    /// What is asked for, whatever signs for it: a caller that repeats itself signs a new nonce.
    fn fingerprint(&self) -> Result<B256, LedgerError>;
    /// The decision, if it denies, or is shown whatever it is.
    fn decision(input: &PolicyInput<'_>) -> Option<Decision>;
    /// Writes down that it was refused.
    fn deny(
        &self,
        ledger: &Connection,
        open: &mut OpenMandate,
        judged: &Judged,
        refusal: Code,
        now: Seconds,
    ) -> Result<(), LedgerError>;
    /// Reserves the amount and stores it.
    fn store(
        &self,
        ledger: &Connection,
        open: &mut OpenMandate,
        judged: &Judged,
        now: Seconds,
    ) -> Result<Self::Object, LedgerError>;
    /// The one that was signed as `digest`, if it is this one.
    fn known(
        &self,
        ledger: &Connection,
        mandate: &MandateRow,
        accepted: &[books::AcceptedPayment],
        digest: B256,
    ) -> Result<Option<Self::Object>, LedgerError>;
    fn id_of(object: &Self::Object) -> Uuid;
    fn by_id(
        ledger: &Connection,
        accepted: &[books::AcceptedPayment],
        id: Uuid,
    ) -> Result<Option<Self::Object>, LedgerError>;
}

/// What the policy has judged.
pub(super) struct Judged {
    pub(super) digest: B256,
    pub(super) proposal: Proposal,
    pub(super) card: Option<CardProposal>,
    /// Where it is shown: a refusal's, and a card's.
    pub(super) decision: Option<Decision>,
    /// What that is based on.
    pub(super) inputs: Inputs,
}

/// Where and when a mandate is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChainClock {
    pub(super) head: u64,
    /// The later of the head's time and the clock's.
    pub(super) now: Seconds,
}

impl Service {
    pub(super) fn chain_clock(&self) -> ChainClock {
        ChainClock { head: self.deps.heads.borrow().block.number, now: self.now() }
    }

    /// Something signed: stored and reserved before this returns, or refused with the reasons.
    pub(super) async fn admit<S: Spending>(
        &self,
        signed: Signed<S>,
        idempotency_key: Option<String>,
    ) -> Result<Accepted<S::Object>, Problem> {
        // What was accepted is answered whatever has happened since; nothing else is while nothing is written.
        if let Err(why) = self.running() {
            let known = self.deps.ledger.read(move |ledger| {
                match mandates::of_agent(ledger, signed.body.mandate(), signed.agent)? {
                    Some(mandate) => known(ledger, &mandate, &[], &signed, idempotency_key.as_deref()),
                    None => Ok(None),
                }
            });
            return known.await?.map_or(Err(why), Admission::into_result);
        }
        let this = self.clone();
        let at = self.chain_clock();
        let (mandate, agent, writer) = (signed.body.mandate(), signed.agent, self.deps.ledger.writer());
        let decide = move |ledger: &Transaction<'_>, open: Option<&mut OpenMandate>| {
            this.admit_within(ledger, open, &signed, idempotency_key.as_deref(), at)
        };
        let answer = if S::SHARES_BOOKS {
            writer.admit(mandate, agent, decide).await?
        } else {
            writer
                .write(move |ledger| Books::default().change(ledger, mandate, agent, |open| decide(ledger, open)))
                .await?
        };
        failpoint::pass(S::COMMITTED);
        answer.into_result()
    }

    /// Decides and reserves, within the writer's commit. A refusal by the policy is written down too.
    fn admit_within<S: Spending>(
        &self,
        ledger: &Connection,
        open: Option<&mut OpenMandate>,
        signed: &Signed<S>,
        idempotency_key: Option<&str>,
        at: ChainClock,
    ) -> Result<Admission<S::Object>, LedgerError> {
        let Signed { body, digest, agent } = signed;
        let Some(open) = open else {
            let detail = format!(
                "the agent {agent} has no mandate {}; it was recovered from the signature, so if it is not the one expected, the signed message differs",
                body.mandate()
            );
            return Ok(Admission::Refused(Problem::new(Code::NotFound, detail)));
        };
        let (mandate, accepted) = (open.mandate(), open.accepted());
        let scope = mandate.id;
        if let Some(known) = known(ledger, mandate, accepted, signed, idempotency_key)? {
            if let (Some(key), Admission::Replayed(object)) = (idempotency_key, &known)
                && is_unbound(ledger, body, idempotency_key)?
            {
                let call = IdempotentCall { fingerprint: body.fingerprint()?, subject: S::id_of(object) };
                requests::remember(ledger, scope.0.as_slice(), key, call)?;
            }
            return Ok(known);
        }
        let (proposal, card) = match body.proposal(self, at.now) {
            Ok(proposal) => proposal,
            Err(problem) => return Ok(Admission::Refused(problem)),
        };
        if let Some(by) = nonce_owner(ledger, mandate, accepted, proposal.nonce)? {
            let detail = format!("nonce {} belongs to {by}", proposal.nonce);
            return Ok(Admission::Refused(Problem::new(Code::NonceTaken, detail)));
        }
        let judge = |input: &PolicyInput<'_>| (S::decision(input), Inputs::of(input));
        let (decision, inputs) = self.judge(ledger, mandate, accepted, (proposal, card), at, judge)?;
        let judged = Judged { digest: *digest, proposal, card, decision, inputs };
        if let Some((verdict, code)) = judged.decision.as_ref().and_then(Decision::refusal) {
            let mut problem = Problem::new(code, verdict.detail.clone());
            body.deny(ledger, open, &judged, code, at.now)?;
            problem.decision = judged.decision;
            return Ok(Admission::Refused(problem));
        }
        let object = body.store(ledger, open, &judged, at.now)?;
        if let Some(key) = idempotency_key {
            let call = IdempotentCall { fingerprint: body.fingerprint()?, subject: S::id_of(&object) };
            requests::remember(ledger, scope.0.as_slice(), key, call)?;
        }
        Ok(Admission::Accepted(object))
    }

    /// Asks the policy something about a payment. `accepted` are the mandate's that are in no table yet.
    pub(super) fn judge<T>(
        &self,
        ledger: &Connection,
        mandate: &MandateRow,
        accepted: &[books::AcceptedPayment],
        (payment, card): (Proposal, Option<CardProposal>),
        ChainClock { head, now }: ChainClock,
        ask: impl FnOnce(&PolicyInput<'_>) -> T,
    ) -> Result<T, LedgerError> {
        let deps = &self.deps;
        let window = window::usage(ledger, mandate, accepted, now)?;
        let gas = match deps.gas_budget {
            Some(budget) => {
                // What is under way will be paid for too.
                let expected = gas::expected(ledger, mandate.id, accepted.len())?;
                let spent = gas::spent(ledger, mandate.id, now)?.saturating_add(expected);
                Some(GasUsage { spent, budget, renews_at: gas::day_end(now) })
            }
            None => None,
        };
        let context = PolicyContext {
            terms: &mandate.terms,
            intent: mandate.intent.as_deref(),
            state: mandate.state_for_new(head, deps.confirmations),
            available: mandate.balances.available,
            highest_nonce: mandate.highest_nonce,
            window: WindowInput::Usage(&window),
            gas,
        };
        let (deployment, limits) = (deps.deployment, deps.limits);
        Ok(ask(&PolicyInput { context, payment, card, deployment, limits, now }))
    }
}

/// The answer to something that came before, by its digest or its key; changes nothing.
fn known<S: Spending>(
    ledger: &Connection,
    mandate: &MandateRow,
    accepted: &[books::AcceptedPayment],
    Signed { body, digest, .. }: &Signed<S>,
    idempotency_key: Option<&str>,
) -> Result<Option<Admission<S::Object>>, LedgerError> {
    let by_digest = body.known(ledger, mandate, accepted, *digest)?;
    let earlier = match idempotency_key {
        Some(key) => requests::recall(ledger, body.mandate().0.as_slice(), key)?.map(|earlier| (key, earlier)),
        None => None,
    };
    if let Some(known) = by_digest {
        return Ok(Some(match earlier {
            Some((key, earlier)) if earlier.subject != S::id_of(&known) => {
                let detail = format!("the key {key:?} stands for another one than this");
                Admission::Refused(Problem::new(Code::IdempotencyKeyReused, detail))
            }
            _ => Admission::Replayed(known),
        }));
    }
    let Some((key, earlier)) = earlier else { return Ok(None) };
    Admission::replay(&earlier, body.fingerprint()?, key, |id| S::by_id(ledger, accepted, id)).map(Some)
}

/// Whether a key has come that stands for nothing yet.
fn is_unbound<S: Spending>(ledger: &Connection, body: &S, key: Option<&str>) -> Result<bool, LedgerError> {
    match key {
        Some(key) => Ok(requests::recall(ledger, body.mandate().0.as_slice(), key)?.is_none()),
        None => Ok(false),
    }
}

/// What a nonce belongs to already: payments and cards share one sequence.
fn nonce_owner(
    ledger: &Connection,
    mandate: &MandateRow,
    accepted: &[books::AcceptedPayment],
    nonce: u32,
) -> Result<Option<String>, LedgerError> {
    if mandate.is_unused(nonce) {
        return Ok(None);
    }
    if let Some(payment) = accepted.iter().find(|payment| payment.nonce() == nonce) {
        return Ok(Some(payment.id().to_string()));
    }
    let mandate = mandate.id;
    if let Some(payment) = payments::by_nonce(ledger, mandate, nonce)? {
        return Ok(Some(payment.id.to_string()));
    }
    if let Some(card) = cards::by_nonce(ledger, mandate, nonce)? {
        return Ok(Some(card.id.to_string()));
    }
    let external = payments::is_external(ledger, mandate, nonce)?;
    Ok(external.then(|| "a payment or a hold on chain that was not accepted here".to_owned()))
}
