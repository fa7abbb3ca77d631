//! What the relayer can be asked for. The API, and later other skins, decide nothing themselves.

mod admission;
pub mod cards;
mod explain;
mod mandates;
mod payments;
mod revocations;

use std::{str::FromStr, sync::Arc};

use alloy::signers::{SignerSync, local::PrivateKeySigner};
use alloy_primitives::{Address, B256, Bytes};
use serde::Deserialize;
use stipend_bindings::{Domain, TokenDomain, recover};
use stipend_core::{
    Amount, Code, Deployment, MandateId, Seconds,
    api::{AuditEntry, Info, Mandate, Page, PageQuery, Payment, Problem, RawAuditEntry, Receipt},
    policy::Limits,
};
use tokio::sync::watch;

use crate::{
    alarms::Alarms,
    chain::{
        follow::Head,
        rpc::{Rpc, RpcError},
    },
    clock,
    ledger::{Ledger, LedgerError, feed, mandates::MandateRow, pages},
};

pub use admission::Signed;
pub use cards::{AuthorizationRequest, CardDeps};
pub use revocations::SignedRevocation;

/// What the service works with.
#[derive(Debug)]
pub struct Deps {
    pub ledger: Ledger,
    /// The node.
    pub rpc: Rpc,
    pub deployment: Deployment,
    /// What the token's messages are signed for; absent where it does not say.
    pub token_domain: Option<TokenDomain>,
    /// What payments are held to.
    pub limits: Limits,
    /// What strangers' mandates may cost the host.
    pub relaying: RelayLimits,
    /// Wei of gas that a mandate may cost per day; absent: any.
    pub gas_budget: Option<u128>,
    /// Blocks, the including one counted, after which a mandate can be used.
    pub confirmations: u64,
    pub heads: watch::Receiver<Head>,
    /// Signs receipts: a submitter, so that the chain vouches for it.
    pub receipt_signer: Option<PrivateKeySigner>,
    /// What is wrong.
    pub alarms: Alarms,
    /// What cards need, if they are offered.
    pub cards: Option<CardDeps>,
}

/// What the relayer sends for operators at the host's expense.
#[derive(Clone, Copy, Debug, Default)]
pub struct RelayLimits {
    /// The smallest mandate that is opened or revoked by message.
    pub mandate_min: Amount,
    /// How many mandates of one operator are opened by message in 24 hours; absent: any number.
    pub approvals_per_day: Option<u32>,
    /// How many of all operators together; absent: any number.
    pub approvals_per_day_total: Option<u32>,
    /// What a mandate must have left for it to be returned without anybody asking.
    pub sweep_min: Amount,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    deps: Arc<Deps>,
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
    /// A service with these dependencies.
    pub fn new(deps: Deps) -> Self {
        Self { deps: Arc::new(deps) }
    }

    /// What this relayer serves, and how far it has followed the chain.
    pub fn info(&self) -> Info {
        let Deps { deployment, limits, confirmations, .. } = *self.deps;
        let head = *self.deps.heads.borrow();
        Info {
            chain_id: deployment.chain_id,
            escrow: deployment.escrow,
            token: deployment.token,
            guardian: deployment.guardian,
            receipt_signer: self.deps.receipt_signer.as_ref().map(PrivateKeySigner::address),
            confirmations,
            limits,
            cards: self.deps.cards.as_ref().map(CardDeps::info),
            head: head.block,
            finalized: head.finalized,
        }
    }

    /// What is wrong.
    pub fn alarms(&self) -> Alarms {
        self.deps.alarms.clone()
    }

    /// The chain id that signed requests name.
    pub fn chain_id(&self) -> u64 {
        self.deps.deployment.chain_id
    }

    /// Changes with every commit that adds audit entries: the last `seq`.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.deps.ledger.changes()
    }

    /// The caller's latest audit entries, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn latest_audit(
        &self,
        caller: Address,
        mandate: Option<MandateId>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, Problem> {
        Ok(self.deps.ledger.read(move |ledger| feed::latest(ledger, caller, mandate, limit)).await?)
    }

    /// The caller's audit entries after `after`, oldest first, at most `limit`.
    pub async fn audit(&self, query: feed::Query) -> Result<Vec<AuditEntry>, Problem> {
        Ok(self.deps.ledger.read(move |ledger| feed::list(ledger, query)).await?)
    }

    /// The same, byte for byte.
    pub async fn raw_audit(&self, query: feed::Query) -> Result<Vec<RawAuditEntry>, Problem> {
        Ok(self.deps.ledger.read(move |ledger| feed::list_raw(ledger, query)).await?)
    }

    /// That there is somebody to sign receipts.
    ///
    /// # Errors
    /// `cannot_send` without a submitter.
    pub fn check_receipts(&self) -> Result<(), Problem> {
        let none = || Problem::new(Code::CannotSend, "this relayer has no submitter, who would sign receipts");
        self.deps.receipt_signer.as_ref().map(|_| ()).ok_or_else(none)
    }

    /// What this relayer promises about a payment that it has accepted; `None`: nobody can sign it.
    #[must_use]
    pub fn receipt(&self, payment: &Payment) -> Option<Receipt> {
        let Payment { digest, state, deadline, .. } = *payment;
        let receipt = Receipt { payment: digest, state, deadline, time: self.now(), signature: Bytes::new() };
        let digest = self.domain().receipt_digest(&receipt).ok()?;
        let signature = self.deps.receipt_signer.as_ref()?.sign_hash_sync(&digest).ok()?;
        Some(Receipt { signature: signature.as_bytes().into(), ..receipt })
    }

    fn view(&self, record: MandateRow) -> Mandate {
        record.view(self.deps.heads.borrow().block.number, self.deps.confirmations)
    }

    fn domain(&self) -> Domain {
        Domain { chain_id: self.deps.deployment.chain_id, escrow: self.deps.deployment.escrow }
    }

    /// The later of the head's time and the clock's: a deadline is judged by the stricter of both.
    fn now(&self) -> Seconds {
        self.deps.heads.borrow().block.time.max(clock::now())
    }

    fn running(&self) -> Result<(), Problem> {
        let alarms = &self.deps.alarms;
        alarms.halted().map_or(Ok(()), |why| Err(Problem::new(Code::Halted, why)))?;
        alarms.refusing().map_or(Ok(()), |why| Err(Problem::new(Code::CannotSend, why)))
    }
}

fn invalid(error: &impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidRequest, error.to_string())
}

fn not_found(what: &str) -> Problem {
    Problem::new(Code::NotFound, format!("no such {what}"))
}

/// Who signed `digest`. Takes some 60 µs: on another thread, it and the way there and back would take longer.
fn signer(digest: B256, signature: &[u8]) -> Result<Address, Problem> {
    recover(digest, signature).map_err(|error| Problem::new(Code::BadSignature, error.to_string()))
}

/// A place in a list, as the ledger can store it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Seq(u64);

impl Seq {
    /// It as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Seq {
    type Error = &'static str;

    fn try_from(seq: u64) -> Result<Self, &'static str> {
        if i64::try_from(seq).is_ok() { Ok(Self(seq)) } else { Err("no entry has so high a number") }
    }
}

impl FromStr for Seq {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.parse::<u64>().map_err(|_| "not a number")?.try_into()
    }
}

/// What a page is limited to, and the object that it starts before.
fn page_bounds<T: FromStr>(page: &PageQuery) -> Result<(u32, Option<T>), Problem> {
    let parse = |cursor: &String| {
        let invalid = |_| Problem::new(Code::InvalidRequest, "the cursor is not a next_cursor of this list");
        cursor.parse().map_err(invalid)
    };
    let before = page.cursor.as_ref().map(parse).transpose()?;
    Ok((page.limit.unwrap_or(20).clamp(1, 100), before))
}

/// A page as the API shows it.
fn seen<R, T>(page: pages::Page<R>, view: impl FnMut(R) -> T) -> Page<T> {
    let next_cursor = page.next.map(|cursor| cursor.to_string());
    Page { data: page.rows.into_iter().map(view).collect(), next_cursor }
}

/// A page of `list`, which was asked for one more than `limit`.
fn paged<R, T>(mut list: Vec<R>, limit: u32, cursor: impl Fn(&R) -> String, view: impl FnMut(R) -> T) -> Page<T> {
    let more = list.len() > limit as usize;
    list.truncate(limit as usize);
    let next_cursor = list.last().filter(|_| more).map(cursor);
    Page { data: list.into_iter().map(view).collect(), next_cursor }
}
