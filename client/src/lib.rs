//! The typed SDK: asks for mandates, signs payments, sends both, and follows what becomes of them.
//!
//! ```no_run
//! # async fn example(signer: alloy::signers::local::PrivateKeySigner, mandate: stipend_core::MandateId,
//! #     payee: alloy_primitives::Address) -> Result<(), Box<dyn std::error::Error>> {
//! use stipend_client::{Client, Pay, Wait};
//!
//! let client = Client::new("http://127.0.0.1:8420".parse()?, signer)?;
//! let payment = client.pay(Pay::new(mandate, payee, "4.20".parse()?)).await?.object;
//! let payment = client.wait_for(payment.id, Wait::Mined, std::time::Duration::from_secs(60)).await?;
//! println!("{} is {}", payment.id, payment.state.name());
//! # Ok(())
//! # }
//! ```
//!
//! A card is asked for in the same way ([`CreateCard`]), and its number fetched by
//! [`Client::card_secrets`].
//!
//! What an operator does on chain, with a key and a node of their own and without the relayer, is
//! in [`chain`].

#![warn(missing_docs)]

mod card;
pub mod chain;
mod error;
mod events;
mod http;
mod nonces;
mod pay;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alloy::signers::{SignerSync, local::PrivateKeySigner};
use alloy_primitives::{Address, B256, Bytes};
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};
use stipend_bindings::Domain;
use stipend_core::{
    MandateId, PaymentId, RequestId, Seconds,
    api::{
        AuditEntry, AuditFormat, Explain, Explanation, Health, Info, Mandate, MandateRequest, NewMandate,
        NewMandateRequest, NewRevocation, Page, Payment, PaymentState, RawAuditEntry,
    },
    policy::MandateState,
};
use tokio::sync::OnceCell;
use url::Url;

pub use card::{CardWait, CreateCard};
pub use error::{Error, Resent, Signed};
pub use events::Events;
pub use pay::Pay;
pub use stipend_core::api::{Accepted, PageQuery, PaymentFilter};

use http::{ApiRequest, Http, Sent};

/// How long what `/v1/info` says about time may be used.
const CLOCK_TTL: Duration = Duration::from_secs(30);

/// A relayer, and the key that everything sent to it is signed with. Cheap to clone; clones hand
/// out nonces from one sequence.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: Http,
    signer: PrivateKeySigner,
    /// Where signatures are valid: never changes while a relayer runs.
    domain: OnceCell<Domain>,
    clock: Mutex<Option<(Instant, Info)>>,
    nonces: nonces::NoncePool,
}

/// What to wait for. A payment that fails ends every wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// In a block.
    Mined,
    /// In a block that is final.
    Settled,
}

impl Wait {
    /// Whether a payment in this state satisfies this wait.
    #[must_use]
    pub const fn is_satisfied_by(self, state: PaymentState) -> bool {
        match self {
            Self::Mined => matches!(state, PaymentState::Mined | PaymentState::Settled | PaymentState::Failed),
            Self::Settled => state.is_final(),
        }
    }
}

impl Client {
    /// A client of the relayer at `base`, which signs with `signer`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::Setup`] if `base` is not an `http` or `https` URL, or there is no TLS provider.
    pub fn new(base: Url, signer: PrivateKeySigner) -> Result<Self, Error> {
        Ok(Self {
            inner: Arc::new(Inner {
                http: Http::new(base)?,
                signer,
                domain: OnceCell::new(),
                clock: Mutex::new(None),
                nonces: nonces::NoncePool::default(),
            }),
        })
    }

    /// The address that signs.
    #[must_use]
    pub fn address(&self) -> Address {
        self.inner.signer.address()
    }

    /// What the relayer at `base` serves, for a caller that chooses a key by it.
    ///
    /// # Errors
    /// See [`Error`]; so for all calls.
    pub async fn info_at(base: Url) -> Result<Info, Error> {
        let http = Http::new(base)?;
        Ok(http.send(ApiRequest::new(Method::GET, http.url("v1/info", &())?), None).await?.object)
    }

    /// What the relayer serves.
    pub async fn info(&self) -> Result<Info, Error> {
        let info: Info = self.unsigned("v1/info").await?;
        if let Ok(mut clock) = self.inner.clock.lock() {
            *clock = Some((Instant::now(), info.clone()));
        }
        Ok(info)
    }

    /// Whether the relayer runs.
    pub async fn healthz(&self) -> Result<Health, Error> {
        self.unsigned("healthz").await
    }

    /// Whether it takes new work, and what is wrong; an answer of 503 is an answer here.
    pub async fn readyz(&self) -> Result<Health, Error> {
        let request = ApiRequest::new(Method::GET, self.inner.http.url("readyz", &())?).any_status();
        Ok(self.inner.http.send(request, None).await?.object)
    }

    /// Asks for a mandate.
    pub async fn request_mandate(&self, body: &NewMandateRequest) -> Result<Accepted<MandateRequest>, Error> {
        self.post("v1/mandate-requests", body).await
    }

    /// One request.
    pub async fn mandate_request(&self, id: RequestId) -> Result<MandateRequest, Error> {
        self.get(&format!("v1/mandate-requests/{id}"), &()).await
    }

    /// The caller's requests, newest first.
    pub async fn mandate_requests(&self, page: &PageQuery) -> Result<Page<MandateRequest>, Error> {
        self.get("v1/mandate-requests", page).await
    }

    /// The mandate that came of a request, once it is open, or over already; after `at_most` as it is then: `None` if
    /// nobody has approved the request.
    pub async fn wait_for_mandate(&self, request: RequestId, at_most: Duration) -> Result<Option<Mandate>, Error> {
        let start = Instant::now();
        loop {
            // Asked anew each time: an opening that was given up makes room for another mandate.
            let mandate = match self.mandate_request(request).await?.mandate {
                Some(id) => Some(self.mandate(id).await?),
                None => None,
            };
            let is_decided = mandate.as_ref().is_some_and(|mandate| mandate.state != MandateState::Opening);
            let waited = start.elapsed();
            if is_decided || waited >= at_most {
                return Ok(mandate);
            }
            // An operator may be there at once, or tomorrow.
            tokio::time::sleep((waited / 8).clamp(Duration::from_millis(100), Duration::from_secs(2))).await;
        }
    }

    /// Approves a request by one message, which the relayer sends.
    pub async fn open_mandate(&self, body: &NewMandate) -> Result<Accepted<Mandate>, Error> {
        self.post("v1/mandates", body).await
    }

    /// One mandate of the caller's, as its agent or its operator.
    pub async fn mandate(&self, id: MandateId) -> Result<Mandate, Error> {
        self.get(&format!("v1/mandates/{id}"), &()).await
    }

    /// Signs a revocation, which anyone may send.
    pub async fn sign_revocation(&self, id: MandateId) -> Result<Bytes, Error> {
        let signature = self.inner.signer.sign_hash_sync(&self.domain().await?.revoke_digest(id));
        Ok(signature.map_err(|error| Error::Signing(error.to_string()))?.as_bytes().into())
    }

    /// Ends a mandate by its operator's signature of [`Domain::revoke_digest`], which the relayer sends.
    pub async fn revoke_mandate(&self, id: MandateId, signature: Bytes) -> Result<Accepted<Mandate>, Error> {
        let request = ApiRequest::new(Method::POST, self.inner.http.url(&format!("v1/mandates/{id}/revocation"), &())?);
        self.inner.http.send(request.body(&NewRevocation { signature }, None)?, None).await
    }

    /// The caller's mandates, newest first.
    pub async fn mandates(&self, page: &PageQuery) -> Result<Page<Mandate>, Error> {
        self.get("v1/mandates", page).await
    }

    /// What would become of a payment or a card now; nothing is signed or reserved.
    pub async fn explain(&self, asked: &Explain) -> Result<Explanation, Error> {
        Ok(self.post("v1/explain", asked).await?.object)
    }

    /// One payment of the caller's; with `wait`, once that is reached, but after 25 s in any case.
    pub async fn payment(&self, id: PaymentId, wait: Option<Wait>) -> Result<Payment, Error> {
        #[derive(Serialize)]
        struct Query {
            #[serde(skip_serializing_if = "Option::is_none")]
            wait: Option<Wait>,
        }
        self.get(&format!("v1/payments/{id}"), &Query { wait }).await
    }

    /// One payment of the caller's, once `wait` is reached, but after `at_most` in any case: look at
    /// its state.
    pub async fn wait_for(&self, id: PaymentId, wait: Wait, at_most: Duration) -> Result<Payment, Error> {
        let start = Instant::now();
        loop {
            let payment = self.payment(id, Some(wait)).await?;
            if wait.is_satisfied_by(payment.state) || start.elapsed() >= at_most {
                return Ok(payment);
            }
            // The relayer does the waiting; this only keeps one that answers at once from being asked all the time.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The caller's payments, newest first.
    pub async fn payments(&self, filter: &PaymentFilter, page: &PageQuery) -> Result<Page<Payment>, Error> {
        #[derive(Serialize)]
        struct Query<'a> {
            #[serde(flatten)]
            filter: &'a PaymentFilter,
            #[serde(flatten)]
            page: &'a PageQuery,
        }
        self.get("v1/payments", &Query { filter, page }).await
    }

    /// The caller's audit entries after `after`, oldest first; `next_cursor` is the next `after`.
    pub async fn audit(
        &self,
        mandate: Option<MandateId>,
        after: u64,
        limit: Option<u32>,
    ) -> Result<Page<AuditEntry>, Error> {
        #[derive(Serialize)]
        struct Query {
            #[serde(skip_serializing_if = "Option::is_none")]
            mandate: Option<MandateId>,
            after: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            limit: Option<u32>,
        }
        self.get("v1/audit", &Query { mandate, after, limit }).await
    }

    /// The same, as they are stored and hashed ([`stipend_core::trail`]): what checks a mandate's chain.
    pub async fn raw_audit(
        &self,
        mandate: Option<MandateId>,
        after: u64,
        limit: Option<u32>,
    ) -> Result<Page<RawAuditEntry>, Error> {
        #[derive(Serialize)]
        struct Query {
            #[serde(skip_serializing_if = "Option::is_none")]
            mandate: Option<MandateId>,
            after: u64,
            format: AuditFormat,
            #[serde(skip_serializing_if = "Option::is_none")]
            limit: Option<u32>,
        }
        self.get("v1/audit", &Query { mandate, after, format: AuditFormat::Raw, limit }).await
    }

    /// The caller's latest audit entries (1 to 100), oldest first.
    pub async fn latest_audit(&self, mandate: Option<MandateId>, limit: u32) -> Result<Vec<AuditEntry>, Error> {
        #[derive(Serialize)]
        struct Query {
            #[serde(skip_serializing_if = "Option::is_none")]
            mandate: Option<MandateId>,
            latest: bool,
            limit: u32,
        }
        let page: Page<AuditEntry> = self.get("v1/audit", &Query { mandate, latest: true, limit }).await?;
        Ok(page.data)
    }

    /// The caller's audit entries as they come: those after `after`, or from now on.
    pub async fn events(&self, mandate: Option<MandateId>, after: Option<u64>) -> Result<Events, Error> {
        Events::connect(self.clone(), mandate, after).await
    }

    /// Where this relayer's signatures are valid.
    pub async fn domain(&self) -> Result<Domain, Error> {
        let domain = self.inner.domain.get_or_try_init(|| async {
            let info = self.info().await?;
            Ok::<_, Error>(Domain { chain_id: info.chain_id, escrow: info.escrow })
        });
        domain.await.copied()
    }

    /// The time that deadlines are measured against, the later of the chain's and this machine's,
    /// and the limits they are held to.
    async fn clock(&self) -> Result<(Seconds, Info), Error> {
        let known = self.inner.clock.lock().ok().and_then(|clock| clock.clone());
        let info = match known {
            Some((at, info)) if at.elapsed() < CLOCK_TTL => info,
            _ => self.info().await?,
        };
        Ok((info.head.time.max(now()), info))
    }

    fn forget_clock(&self) {
        if let Ok(mut clock) = self.inner.clock.lock() {
            *clock = None;
        }
    }

    async fn unsigned<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let request = ApiRequest::new(Method::GET, self.inner.http.url(path, &())?);
        Ok(self.inner.http.send(request, None).await?.object)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T, Error> {
        let request = ApiRequest::new(Method::GET, self.inner.http.url(path, query)?);
        Ok(self.inner.http.send(request, Some(self.identity().await?)).await?.object)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<Accepted<T>, Error> {
        // One key for all attempts: whatever is sent again is done once.
        let key = B256::random().to_string();
        let request = ApiRequest::new(Method::POST, self.inner.http.url(path, &())?).body(body, Some(key))?;
        self.inner.http.send(request, Some(self.identity().await?)).await
    }

    /// Sends what was signed before and has an unknown outcome, as it is: it is never done twice.
    pub async fn resend(&self, signed: &Signed) -> Result<Resent, Error> {
        Ok(match signed {
            Signed::Payment { payment, idempotency_key } => {
                Resent::Payment(self.send_payment(payment, idempotency_key.clone()).await?)
            }
            Signed::Card { card, idempotency_key } => {
                Resent::Card(self.send_card(card, idempotency_key.clone()).await?)
            }
        })
    }

    /// Sends what carries its own signature: the request needs none.
    async fn send_signed<T: DeserializeOwned>(
        &self,
        request: ApiRequest,
        content: impl FnOnce() -> Signed,
    ) -> Result<Sent<T>, Error> {
        self.inner.http.send_counted(request, None).await.map_err(|error| match error {
            Error::Unknown { url, source, .. } => Error::Unknown { url, signed: Some(content()), source },
            error => error,
        })
    }

    async fn identity(&self) -> Result<http::Identity<'_>, Error> {
        Ok(http::Identity { signer: &self.inner.signer, chain_id: self.domain().await?.chain_id })
    }
}

/// Seconds since 1970 by this machine's clock.
#[must_use]
pub fn now() -> Seconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
