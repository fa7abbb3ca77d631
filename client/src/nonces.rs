//! Nonces: one sequence for the payments and the holds of a mandate, used densely.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
};

use alloy_primitives::B256;
use stipend_core::{
    Code, MandateId, Seconds,
    api::{Accepted, Card, Mandate, Payment, Problem},
    policy::Limits,
};

use crate::{Client, Error, http::Sent};

/// How often a message is signed again because another process used its nonce.
const MAX_RESIGNS: u32 = 12;

/// Other processes that lost a nonce choose the next one too: each skips up to this many, doubled
/// with every try, so that most of them part at once.
const FIRST_SPREAD: u32 = 4;
const MAX_SPREAD: u32 = 32;

/// The nonces of the mandates that this client signs for.
#[derive(Debug, Default)]
pub(crate) struct NoncePool(Mutex<HashMap<MandateId, MandateNonces>>);

#[derive(Debug)]
struct MandateNonces {
    deadlines: MandateDeadlines,
    next: u32,
    /// Nonces below `next` whose message was refused for good: used again, lowest first, so that
    /// the contract's window of nonces stays dense.
    free: BTreeSet<u32>,
}

/// How often, and why, one call has signed again.
#[derive(Debug, Default)]
pub(crate) struct Resigns {
    lost_nonces: u32,
    /// Whether the chain's time was asked for again, or is of no use.
    renewed_clock: bool,
}

impl Resigns {
    /// `timed`: whether the caller chose the times that are signed.
    pub(crate) fn of(timed: bool) -> Self {
        Self { renewed_clock: timed, ..Self::default() }
    }
}

/// The latest times that a mandate allows in its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MandateDeadlines {
    /// Of a deadline.
    pub(crate) expiry: Seconds,
    /// Of a hold's `capture_by`.
    pub(crate) capture_end: Seconds,
}

impl MandateDeadlines {
    /// For messages whose times are given.
    pub(crate) const NEVER: Self = Self { expiry: Seconds::MAX, capture_end: Seconds::MAX };

    const fn of(mandate: &Mandate) -> Self {
        Self { expiry: mandate.terms.expiry, capture_end: mandate.terms.capture_end }
    }
}

impl NoncePool {
    /// The next nonce, and when the mandate ends; `None` if the mandate is not known here.
    fn take(&self, mandate: MandateId) -> Option<(u32, MandateDeadlines)> {
        let mut pool = self.0.lock().ok()?;
        let nonces = pool.get_mut(&mandate)?;
        let nonce = match nonces.free.pop_first() {
            Some(nonce) => nonce,
            None => {
                let nonce = nonces.next;
                nonces.next = nonce.saturating_add(1);
                nonce
            }
        };
        Some((nonce, nonces.deadlines))
    }

    fn release(&self, mandate: MandateId, nonce: u32) {
        if let Ok(mut pool) = self.0.lock()
            && let Some(nonces) = pool.get_mut(&mandate)
        {
            nonces.free.insert(nonce);
        }
    }

    /// At least `skip` above the mandate's next nonce, and never backwards.
    fn raise(&self, mandate: &Mandate, skip: u32) {
        if let Ok(mut pool) = self.0.lock() {
            let nonces = pool.entry(mandate.id).or_insert_with(|| MandateNonces {
                deadlines: MandateDeadlines::of(mandate),
                next: mandate.next_nonce,
                free: BTreeSet::new(),
            });
            // Never backwards: nonces may be on their way that the relayer has not seen yet.
            nonces.next = nonces.next.max(mandate.next_nonce.saturating_add(skip));
        }
    }

    /// Another process uses nonces of this mandate: what was released may be theirs by now.
    fn forget_released(&self, mandate: MandateId) {
        if let Ok(mut pool) = self.0.lock()
            && let Some(nonces) = pool.get_mut(&mandate)
        {
            nonces.free.clear();
        }
    }
}

/// What was signed with a nonce.
pub(crate) trait Numbered {
    fn nonce(&self) -> u32;
}

impl Numbered for Payment {
    fn nonce(&self) -> u32 {
        self.nonce
    }
}

impl Numbered for Card {
    fn nonce(&self) -> u32 {
        self.nonce
    }
}

impl Client {
    /// The nonce to sign with, the next free one if none is chosen, and the mandate's latest times.
    pub(crate) async fn nonce(
        &self,
        mandate: MandateId,
        chosen: Option<u32>,
    ) -> Result<(u32, MandateDeadlines), Error> {
        if chosen.is_none()
            && let Some(known) = self.inner.nonces.take(mandate)
        {
            return Ok(known);
        }
        let fresh = self.mandate(mandate).await?;
        self.inner.nonces.raise(&fresh, 0);
        if let Some(nonce) = chosen {
            return Ok((nonce, MandateDeadlines::of(&fresh)));
        }
        Ok(self.inner.nonces.take(mandate).unwrap_or((fresh.next_nonce, MandateDeadlines::of(&fresh))))
    }

    /// What becomes of a message whose nonce this client chose; `None`: sign again with another one.
    /// `is_own`: whether a replay can only be this call's own, so that it counts as accepted.
    pub(crate) async fn settle_nonce<T: Numbered>(
        &self,
        mandate: MandateId,
        nonce: u32,
        sent: Result<Sent<T>, Error>,
        is_own: bool,
        resigns: &mut Resigns,
    ) -> Option<Result<Accepted<T>, Error>> {
        let lost = match sent {
            // Nobody had sent this before, and it is known: another process signed the very same message, for a
            // payment of its own.
            Ok(Sent { accepted, earlier_may_have }) if accepted.replayed && !earlier_may_have && !is_own => {
                Error::Problem(Box::new(Problem::new(Code::NonceTaken, format!("another process uses nonce {nonce}"))))
            }
            Ok(Sent { accepted, .. }) => {
                // What a key stands for has a nonce of its own.
                if accepted.replayed && accepted.object.nonce() != nonce {
                    self.inner.nonces.release(mandate, nonce);
                }
                return Some(Ok(accepted));
            }
            // The refusal says that nothing was done, so signing again can't do it twice.
            Err(error) if matches!(error.code(), Some(Code::NonceTaken | Code::NonceUsed | Code::NonceRetired)) => {
                error
            }
            // The chain's time is ahead of what was known of it.
            Err(error)
                if !resigns.renewed_clock
                    && matches!(
                        error.code(),
                        Some(Code::DeadlinePassed | Code::DeadlineTooSoon | Code::CaptureByTooSoon)
                    ) =>
            {
                resigns.renewed_clock = true;
                self.forget_clock();
                self.inner.nonces.release(mandate, nonce);
                return None;
            }
            Err(error) => {
                if !error.may_have_taken_effect() {
                    self.inner.nonces.release(mandate, nonce);
                }
                return Some(Err(error));
            }
        };
        if resigns.lost_nonces == MAX_RESIGNS {
            return Some(Err(lost));
        }
        self.inner.nonces.forget_released(mandate);
        match self.mandate(mandate).await {
            Ok(fresh) => {
                self.inner.nonces.raise(&fresh, random_below((FIRST_SPREAD << resigns.lost_nonces).min(MAX_SPREAD)))
            }
            Err(error) => return Some(Err(error)),
        }
        resigns.lost_nonces += 1;
        None
    }
}

fn random_below(bound: u32) -> u32 {
    let [first, second, ..] = B256::random().0;
    u32::from(u16::from_be_bytes([first, second])) % bound.max(1)
}

/// A lifetime, shortened by up to a tenth, so that two processes hardly ever sign the same message.
pub(crate) fn jittered(lifetime: Seconds) -> Seconds {
    lifetime - Seconds::from(random_below(u32::try_from(lifetime / 10).unwrap_or(u32::MAX)))
}

/// After `lifetime`, but within the host's limits and not past the expiry.
pub(crate) fn deadline(now: Seconds, lifetime: Seconds, deadlines: MandateDeadlines, limits: &Limits) -> Seconds {
    // Time passes until the relayer checks this: stay clear of its limits.
    const MARGIN: Seconds = 30;
    let lifetime = lifetime.min(limits.deadline_max).max(limits.deadline_min.saturating_add(MARGIN));
    now.saturating_add(lifetime).min(deadlines.expiry)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINES: MandateDeadlines = MandateDeadlines { expiry: 9, capture_end: 99 };

    #[test]
    fn a_deadline_stays_within_limits_and_expiry() {
        let deadline = |expiry, deadline_min, deadline_max| {
            let limits = Limits { deadline_min, deadline_max, ..Limits::default() };
            super::deadline(1_000, 3_600, MandateDeadlines { expiry, ..DEADLINES }, &limits)
        };
        assert_eq!(deadline(1_000_000, 120, 86_400), 4_600);
        assert_eq!(deadline(2_000, 120, 86_400), 2_000, "never past the expiry");
        assert_eq!(deadline(1_000_000, 120, 600), 1_600, "never above the longest");
        assert_eq!(deadline(1_000_000, 7_200, 86_400), 8_230, "never below the shortest");
    }

    #[test]
    fn refused_nonces_are_used_again_lowest_first() {
        let id = MandateId(B256::ZERO);
        let pool = NoncePool::default();
        assert_eq!(pool.take(id), None);
        pool.0.lock().unwrap().insert(id, MandateNonces { deadlines: DEADLINES, next: 4, free: BTreeSet::new() });
        assert_eq!(pool.take(id), Some((4, DEADLINES)));
        assert_eq!(pool.take(id), Some((5, DEADLINES)));
        pool.release(id, 5);
        pool.release(id, 4);
        assert_eq!(pool.take(id), Some((4, DEADLINES)));
        assert_eq!(pool.take(id), Some((5, DEADLINES)));
        assert_eq!(pool.take(id), Some((6, DEADLINES)));
        pool.release(id, 6);
        pool.forget_released(id);
        assert_eq!(pool.take(id), Some((7, DEADLINES)));
    }
}
