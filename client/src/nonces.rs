//! Nonces: one sequence for the payments and the holds of a mandate, used densely.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
};

use stipend_core::{Code, MandateId, Seconds, api::Mandate, policy::Limits};

use crate::{Client, Error};

/// How often something is signed again because what was known of the mandate had grown old.
pub(crate) const RENEWALS: usize = 3;

/// What is known of the mandates that nonces are used of.
#[derive(Debug, Default)]
pub(crate) struct Books(Mutex<HashMap<MandateId, Book>>);

#[derive(Debug)]
struct Book {
    ends: Ends,
    next: u32,
    /// Nonces below `next` whose message was refused for good: used again, lowest first, so that
    /// the contract's window of nonces stays dense.
    free: BTreeSet<u32>,
}

/// How late the times in a mandate's messages may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Of a deadline.
    pub(crate) expiry: Seconds,
    /// Of a hold's `capture_by`.
    pub(crate) capture_end: Seconds,
}

impl Ends {
    /// For messages whose times are given.
    pub(crate) const NEVER: Self = Self { expiry: Seconds::MAX, capture_end: Seconds::MAX };

    const fn of(mandate: &Mandate) -> Self {
        Self { expiry: mandate.terms.expiry, capture_end: mandate.terms.capture_end }
    }
}

impl Books {
    /// The next nonce, and when the mandate ends; `None` if the mandate is not known here.
    fn take(&self, mandate: MandateId) -> Option<(u32, Ends)> {
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
        Some((nonce, book.ends))
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
                ends: Ends::of(mandate),
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
    /// The nonce to sign with, the next free one if none is chosen, and when the mandate ends.
    pub(crate) async fn nonce(&self, mandate: MandateId, chosen: Option<u32>) -> Result<(u32, Ends), Error> {
        if chosen.is_none()
            && let Some(known) = self.inner.books.take(mandate)
        {
            return Ok(known);
        }
        let fresh = self.mandate(mandate).await?;
        self.inner.books.learn(&fresh);
        if let Some(nonce) = chosen {
            return Ok((nonce, Ends::of(&fresh)));
        }
        Ok(self.inner.books.take(mandate).unwrap_or((fresh.next_nonce, Ends::of(&fresh))))
    }

    /// What becomes of a nonce that this client chose, now that its message has failed; returns
    /// whether to sign again with another one.
    pub(crate) async fn renounce(&self, mandate: MandateId, nonce: u32, error: &Error) -> Result<bool, Error> {
        match error.code() {
            // Another process uses this mandate too. The refusal says that nothing was done, so signing again can't
            // do it twice.
            Some(Code::NonceTaken | Code::NonceUsed | Code::NonceRetired) => {
                self.inner.books.distrust(mandate);
                self.inner.books.learn(&self.mandate(mandate).await?);
                Ok(true)
            }
            _ => {
                if !error.may_have_taken_effect() {
                    self.inner.books.give_back(mandate, nonce);
                }
                Ok(false)
            }
        }
    }
}

/// After `lifetime`, but within the host's limits and not past the expiry.
pub(crate) fn deadline(now: Seconds, lifetime: Seconds, ends: Ends, limits: &Limits) -> Seconds {
    // The relayer's clock goes on until it looks at this: stay clear of its limits.
    const MARGIN: Seconds = 30;
    let lifetime = lifetime.min(limits.deadline_max).max(limits.deadline_min.saturating_add(MARGIN));
    now.saturating_add(lifetime).min(ends.expiry)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;

    use super::*;

    const ENDS: Ends = Ends { expiry: 9, capture_end: 99 };

    #[test]
    fn a_deadline_stays_within_limits_and_expiry() {
        let deadline = |expiry, deadline_min, deadline_max| {
            let limits = Limits { deadline_min, deadline_max, ..Limits::default() };
            super::deadline(1_000, 3_600, Ends { expiry, ..ENDS }, &limits)
        };
        assert_eq!(deadline(1_000_000, 120, 86_400), 4_600);
        assert_eq!(deadline(2_000, 120, 86_400), 2_000, "never past the expiry");
        assert_eq!(deadline(1_000_000, 120, 600), 1_600, "never above the longest");
        assert_eq!(deadline(1_000_000, 7_200, 86_400), 8_230, "never below the shortest");
    }

    #[test]
    fn refused_nonces_are_used_again_lowest_first() {
        let id = MandateId(B256::ZERO);
        let books = Books::default();
        assert_eq!(books.take(id), None);
        books.0.lock().unwrap().insert(id, Book { ends: ENDS, next: 4, free: BTreeSet::new() });
        assert_eq!(books.take(id), Some((4, ENDS)));
        assert_eq!(books.take(id), Some((5, ENDS)));
        books.give_back(id, 5);
        books.give_back(id, 4);
        assert_eq!(books.take(id), Some((4, ENDS)));
        assert_eq!(books.take(id), Some((5, ENDS)));
        assert_eq!(books.take(id), Some((6, ENDS)));
        books.give_back(id, 6);
        books.distrust(id);
        assert_eq!(books.take(id), Some((7, ENDS)));
    }
}
