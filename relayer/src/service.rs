//! What the relayer can be asked for. The API, and later other skins, decide nothing themselves.

use alloy_primitives::{Address, B256};
use stipend_core::{
    Code, MandateId, PaymentId, RequestId,
    api::{
        AuditEntry, Health, Info, Mandate, MandateRequest, NewMandate, NewMandateRequest, NewPayment, Page, Payment,
        PaymentState, Problem,
    },
};
use tokio::sync::watch;

/// The answer to something that creates: what there is now, and whether it was there before.
#[derive(Debug, Clone)]
pub struct Accepted<T> {
    /// The object.
    pub object: T,
    /// Whether an earlier call created it.
    pub replayed: bool,
}

/// Which page of a list.
#[derive(Debug, Clone, Default)]
pub struct PageQuery {
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// At most so many objects (1 to 100; default 20).
    pub limit: Option<u32>,
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

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    changes: watch::Receiver<u64>,
}

fn none<T>() -> Result<T, Problem> {
    Err(Problem::new(Code::Unavailable, "starting"))
}

impl Service {
    /// Where this relayer stands.
    pub async fn info(&self) -> Result<Info, Problem> { none() }
    /// Whether new work is taken, and what is wrong.
    pub async fn health(&self) -> Health { Health { ready: false, alarms: vec![] } }
    /// The chain id that signed requests name.
    pub fn chain_id(&self) -> u64 { 0 }
    /// An agent asks for a mandate.
    pub async fn request_mandate(&self, _agent: Address, _body: NewMandateRequest, _idempotency_key: Option<String>) -> Result<Accepted<MandateRequest>, Problem> { none() }
    /// One request, for whoever knows its id.
    pub async fn mandate_request(&self, _id: RequestId) -> Result<MandateRequest, Problem> { none() }
    /// The caller's requests, newest first.
    pub async fn mandate_requests(&self, _caller: Address, _page: PageQuery) -> Result<Page<MandateRequest>, Problem> { none() }
    /// An operator approves a request by one message.
    pub async fn open_mandate(&self, _operator: Address, _body: NewMandate) -> Result<Accepted<Mandate>, Problem> { none() }
    /// One mandate of the caller's (as its agent or its operator).
    pub async fn mandate(&self, _caller: Address, _id: MandateId) -> Result<Mandate, Problem> { none() }
    /// The caller's mandates, newest first.
    pub async fn mandates(&self, _caller: Address, _page: PageQuery) -> Result<Page<Mandate>, Problem> { none() }
    /// A signed payment.
    pub async fn pay(&self, _body: NewPayment, _idempotency_key: Option<String>) -> Result<Accepted<Payment>, Problem> { none() }
    /// One payment of the caller's; with `wait`, once it is in that state or final, but after 25 s in any case.
    pub async fn payment(&self, _caller: Address, _id: PaymentId, _wait: Option<PaymentState>) -> Result<Payment, Problem> { none() }
    /// The caller's payments, newest first.
    pub async fn payments(&self, _caller: Address, _filter: PaymentFilter, _page: PageQuery) -> Result<Page<Payment>, Problem> { none() }
    /// The caller's audit entries after `after`, oldest first, at most `limit`.
    pub async fn audit(&self, _caller: Address, _mandate: Option<MandateId>, _after: u64, _limit: u32) -> Result<Vec<AuditEntry>, Problem> { none() }
    /// Changes with every commit that adds audit entries: the last `seq`.
    pub fn changes(&self) -> watch::Receiver<u64> { self.changes.clone() }
}
