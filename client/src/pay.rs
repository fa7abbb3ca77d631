//! Payments: built, signed and sent, with nonces used densely.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
};

use alloy::signers::SignerSync;
use alloy_primitives::{Address, B256, Bytes};
use reqwest::Method;
use stipend_bindings::Spend;
use stipend_core::{
    Amount, Code, MandateId, Seconds,
    api::{Mandate, Metadata, NewPayment, Payment},
};

use crate::{Accepted, Client, Error, http::Call};

/// How long a payment's signature lives by default.
const LIFETIME: Seconds = 3_600;

/// How often a payment is signed again because what was known of the mandate had grown old.
const RENEWALS: usize = 3;

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
    /// Free words.
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

/// What is known of the mandates that are paid from.
#[derive(Debug, Default)]
pub(crate) struct Books(Mutex<HashMap<MandateId, Book>>);

#[derive(Debug)]
struct Book {
    expiry: Seconds,
    next: u32,
    /// Nonces below `next` whose payment was refused for good: used again, lowest first, so that
    /// the contract's window of nonces stays dense.
    free: BTreeSet<u32>,
}

impl Books {
    /// The next nonce, and the mandate's expiry; `None` if the mandate is not known here.
    fn take(&self, mandate: MandateId) -> Option<(u32, Seconds)> {
        let mut books = self.0.lock().ok()?;
        let book = books.get_mut(&mandate)?;
        let nonce = match book.free.pop_first() {
            Some(nonce) => nonce,
            None => {
                let nonce = book.next;
                book.next = nonce.saturating_add(1);
                nonce
            }
        };
        Some((nonce, book.expiry))
    }

    fn give_back(&self, mandate: MandateId, nonce: u32) {
        if let Ok(mut books) = self.0.lock()
            && let Some(book) = books.get_mut(&mandate)
        {
            book.free.insert(nonce);
        }
    }

    fn learn(&self, mandate: &Mandate) {
        if let Ok(mut books) = self.0.lock() {
            let book = books.entry(mandate.id).or_insert_with(|| Book {
                expiry: mandate.terms.expiry,
                next: mandate.next_nonce,
                free: BTreeSet::new(),
            });
            // Never backwards: nonces may be on their way that the relayer has not seen yet.
            book.next = book.next.max(mandate.next_nonce);
        }
    }

    /// Somebody else uses nonces of this mandate: what was given back may be theirs by now.
    fn distrust(&self, mandate: MandateId) {
        if let Ok(mut books) = self.0.lock()
            && let Some(book) = books.get_mut(&mandate)
        {
            book.free.clear();
        }
    }
}

impl Client {
    /// Signs a payment and sends it.
    ///
    /// # Errors
    /// [`Error::Problem`] with a decision if it was denied; [`Error::Unknown`] carries the signed
    /// payment, for [`Client::send_payment`].
    pub async fn pay(&self, pay: Pay) -> Result<Accepted<Payment>, Error> {
        let mut renewals = RENEWALS;
        loop {
            let payment = self.sign_payment(&pay).await?;
            let error = match self.send_payment(&payment, pay.idempotency_key.clone()).await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            if pay.nonce.is_none() {
                match error.code() {
                    // Another process pays from this mandate too. The refusal says that this payment was not
                    // made, so signing it again can't pay it twice.
                    Some(Code::NonceTaken | Code::NonceUsed | Code::NonceRetired) => {
                        self.inner.books.distrust(pay.mandate);
                        self.inner.books.learn(&self.mandate(pay.mandate).await?);
                        if renewals > 0 {
                            renewals -= 1;
                            continue;
                        }
                    }
                    _ if !error.may_have_taken_effect() => self.inner.books.give_back(pay.mandate, payment.nonce),
                    _ => {}
                }
            }
            return Err(error);
        }
    }

    /// Signs a payment without sending it. The same input with nonce and deadline set gives the
    /// same bytes.
    pub async fn sign_payment(&self, pay: &Pay) -> Result<NewPayment, Error> {
        let domain = self.domain().await?;
        let (nonce, expiry) = match (pay.nonce, pay.deadline) {
            (Some(nonce), Some(_)) => (nonce, Seconds::MAX),
            (nonce, _) => {
                let (next, expiry) = self.next(pay.mandate, nonce.is_none()).await?;
                (nonce.unwrap_or(next), expiry)
            }
        };
        let deadline = match pay.deadline {
            Some(deadline) => deadline,
            None => {
                let (now, info) = self.clock().await?;
                deadline(now, expiry, info.limits.deadline_min, info.limits.deadline_max)
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
        let call = Call::new(Method::POST, self.inner.http.url("v1/payments", &())?).body(payment, idempotency_key)?;
        // The payment carries its own signature; the request needs none.
        match self.inner.http.send(call, None).await {
            Ok(answer) => Ok(Accepted { replayed: answer.replayed, object: answer.json()? }),
            Err(Error::Unknown { url, source, .. }) => {
                Err(Error::Unknown { url, payment: Some(Box::new(payment.clone())), source })
            }
            Err(error) => Err(error),
        }
    }

    /// The next nonce (if one is to be taken) and the expiry of a mandate.
    async fn next(&self, mandate: MandateId, take: bool) -> Result<(u32, Seconds), Error> {
        if take && let Some(known) = self.inner.books.take(mandate) {
            return Ok(known);
        }
        let fresh = self.mandate(mandate).await?;
        self.inner.books.learn(&fresh);
        let taken = if take { self.inner.books.take(mandate) } else { None };
        Ok(taken.unwrap_or((fresh.next_nonce, fresh.terms.expiry)))
    }
}

/// In an hour, but within the host's limits and not past the expiry.
fn deadline(now: Seconds, expiry: Seconds, earliest: Seconds, latest: Seconds) -> Seconds {
    // The relayer's clock goes on until it looks at this: stay clear of its limits.
    const MARGIN: Seconds = 30;
    let lifetime = LIFETIME.min(latest).max(earliest.saturating_add(MARGIN));
    now.saturating_add(lifetime).min(expiry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_stays_within_limits_and_expiry() {
        assert_eq!(deadline(1_000, 1_000_000, 120, 86_400), 4_600);
        assert_eq!(deadline(1_000, 2_000, 120, 86_400), 2_000, "never past the expiry");
        assert_eq!(deadline(1_000, 1_000_000, 120, 600), 1_600, "never above the longest");
        assert_eq!(deadline(1_000, 1_000_000, 7_200, 86_400), 8_230, "never below the shortest");
    }

    #[test]
    fn refused_nonces_are_used_again_lowest_first() {
        let id = MandateId(B256::ZERO);
        let books = Books::default();
        assert_eq!(books.take(id), None);
        books.0.lock().unwrap().insert(id, Book { expiry: 9, next: 4, free: BTreeSet::new() });
        assert_eq!(books.take(id), Some((4, 9)));
        assert_eq!(books.take(id), Some((5, 9)));
        books.give_back(id, 5);
        books.give_back(id, 4);
        assert_eq!(books.take(id), Some((4, 9)));
        assert_eq!(books.take(id), Some((5, 9)));
        assert_eq!(books.take(id), Some((6, 9)));
        books.give_back(id, 6);
        books.distrust(id);
        assert_eq!(books.take(id), Some((7, 9)));
    }
}
