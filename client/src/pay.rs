//! Payments: built, signed and sent.

use alloy::signers::SignerSync;
use alloy_primitives::{Address, B256, Bytes};
use reqwest::Method;
use stipend_bindings::Spend;
use stipend_core::{
    Amount, MandateId, Seconds,
    api::{Metadata, NewPayment, Payment},
};

use crate::{
    Accepted, Client, Error, Signed,
    http::{ApiRequest, Sent},
    nonces::{self, MandateDeadlines, Resigns},
};

/// How long a payment's signature lives by default.
const LIFETIME: Seconds = 3_600;

/// A payment to be made. What is not set is chosen: the next free nonce, a deadline in an hour, no
/// `ref`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pay {
    /// The mandate.
    pub mandate: MandateId,
    /// Who is paid.
    pub payee: Address,
    /// How much.
    pub amount: Amount,
    /// The payment's nonce.
    pub nonce: Option<u32>,
    /// Until when it may be paid.
    pub deadline: Option<Seconds>,
    /// Commits to what is paid for.
    pub reference: Option<B256>,
    /// Makes another payment with the same key, mandate, payee and amount the same payment.
    pub idempotency_key: Option<String>,
    /// Caller-defined key/value metadata.
    pub metadata: Metadata,
}

impl Pay {
    /// A payment of `amount` from `mandate` to `payee`.
    #[must_use]
    pub const fn new(mandate: MandateId, payee: Address, amount: Amount) -> Self {
        Self {
            mandate,
            payee,
            amount,
            nonce: None,
            deadline: None,
            reference: None,
            idempotency_key: None,
            metadata: Metadata::new(),
        }
    }
}

impl Client {
    /// Signs a payment and sends it.
    ///
    /// # Errors
    /// [`Error::Problem`] with a decision if it was denied; [`Error::Unknown`] carries the signed
    /// payment, for [`Client::resend`].
    pub async fn pay(&self, pay: Pay) -> Result<Accepted<Payment>, Error> {
        let mut resigns = Resigns::of(pay.deadline.is_some());
        loop {
            let payment = self.sign_payment(&pay).await?;
            let sent = self.send_payment_counted(&payment, pay.idempotency_key.clone()).await;
            if pay.nonce.is_some() {
                return sent.map(|sent| sent.accepted);
            }
            let is_own = pay.idempotency_key.is_some();
            if let Some(paid) = self.settle_nonce(pay.mandate, payment.nonce, sent, is_own, &mut resigns).await {
                return paid;
            }
        }
    }

    /// Signs a payment without sending it. The same input with nonce and deadline set gives the
    /// same bytes.
    pub async fn sign_payment(&self, pay: &Pay) -> Result<NewPayment, Error> {
        let domain = self.domain().await?;
        let (nonce, deadlines) = match (pay.nonce, pay.deadline) {
            (Some(nonce), Some(_)) => (nonce, MandateDeadlines::NEVER),
            (nonce, _) => self.nonce(pay.mandate, nonce).await?,
        };
        let deadline = match pay.deadline {
            Some(deadline) => deadline,
            None => {
                let (now, info) = self.clock().await?;
                nonces::deadline(now, nonces::jittered(LIFETIME), deadlines, &info.limits)
            }
        };
        let reference = pay.reference.unwrap_or_default();
        let spend = Spend::new(pay.mandate, pay.payee, pay.amount, nonce, deadline, reference)
            .map_err(|error| Error::Setup(error.to_string()))?;
        let signature = self.inner.signer.sign_hash_sync(&domain.spend_digest(&spend));
        let signature = signature.map_err(|error| Error::Signing(error.to_string()))?;
        Ok(NewPayment {
            mandate: pay.mandate,
            payee: pay.payee,
            amount: pay.amount,
            nonce,
            deadline,
            reference,
            signature: Bytes::copy_from_slice(&signature.as_bytes()),
            metadata: pay.metadata.clone(),
        })
    }

    /// Sends a payment that is signed, and sends the same bytes again while the outcome is unknown:
    /// it is never paid twice.
    pub async fn send_payment(
        &self,
        payment: &NewPayment,
        idempotency_key: Option<String>,
    ) -> Result<Accepted<Payment>, Error> {
        Ok(self.send_payment_counted(payment, idempotency_key).await?.accepted)
    }

    async fn send_payment_counted(
        &self,
        payment: &NewPayment,
        idempotency_key: Option<String>,
    ) -> Result<Sent<Payment>, Error> {
        let request = ApiRequest::new(Method::POST, self.inner.http.url("v1/payments", &())?);
        let request = request.body(payment, idempotency_key.clone())?;
        // The payment carries its own signature; the request needs none.
        self.send_signed(request, || Signed::Payment { payment: Box::new(payment.clone()), idempotency_key }).await
    }
}
