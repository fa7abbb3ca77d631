//! The terms of a mandate, exactly as the contract hashes them.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Amount, Seconds, address, hex, schema};

/// After the expiry, how long captures may still arrive by default: a card's latest clearing (38
/// days) and some reserve. The contract allows [`CAPTURE_PERIOD_MAX`].
pub const CAPTURE_RESERVE: Seconds = 40 * 86_400;

/// The longest that the contract allows from expiry to capture end.
pub const CAPTURE_PERIOD_MAX: Seconds = 90 * 86_400;

/// The latest second that the contract can store.
pub const LATEST: Seconds = u32::MAX as Seconds;

/// The terms of a mandate: fixed when it is opened, and hashed into its id. Field by field
/// Solidity's `struct Terms`; see docs/operations/open.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Funds the mandate; everything that is left returns here.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub operator: Address,
    /// Signs payments.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub agent: Address,
    /// Whose submitters may act; zero: anyone may submit what the agent signed.
    #[serde(with = "address::or_zero")]
    #[schema(value_type = schema::Address)]
    pub guardian: Address,
    /// Escrowed in full when opened.
    pub cap: Amount,
    /// Maximum of one payment or hold; zero: none.
    pub per_payment: Amount,
    /// Maximum newly committed in any window; zero: none.
    pub window_cap: Amount,
    /// Length of the window in seconds.
    pub window: u32,
    /// First second at which it can be spent.
    #[schema(value_type = schema::Seconds)]
    pub start: Seconds,
    /// From this second on there is no new payment and no new hold.
    #[schema(value_type = schema::Seconds)]
    pub expiry: Seconds,
    /// From this second on everything can be swept.
    #[schema(value_type = schema::Seconds)]
    pub capture_end: Seconds,
    /// Merkle root of the allowed payees; zero: any.
    #[serde(with = "hex::hash")]
    #[schema(value_type = schema::Hash)]
    pub payees: B256,
    /// Hash of the intent document.
    #[serde(with = "hex::hash")]
    #[schema(value_type = schema::Hash)]
    pub intent: B256,
    /// Whether a refund goes back to the budget, or straight to the operator.
    pub refunds_restore_budget: bool,
}

/// Why the contract would not open these terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// The operator is the zero address.
    #[error("the operator is the zero address")]
    OperatorZero,
    /// The agent is the zero address.
    #[error("the agent is the zero address")]
    AgentZero,
    /// Nothing to spend.
    #[error("the cap is zero")]
    CapZero,
    /// Nothing could be spent.
    #[error("the start {start} is not before the expiry {expiry}")]
    StartNotBeforeExpiry {
        /// The start.
        start: Seconds,
        /// The expiry.
        expiry: Seconds,
    },
    /// Holds would end before the mandate.
    #[error("the expiry {expiry} is after the capture end {capture_end}")]
    ExpiryAfterCaptureEnd {
        /// The expiry.
        expiry: Seconds,
        /// The capture end.
        capture_end: Seconds,
    },
    /// Holds could lock what is left for too long.
    #[error("the capture end {capture_end} is after {latest}: at most 90 days after the expiry, and 2³² − 1")]
    CaptureEndTooLate {
        /// The capture end.
        capture_end: Seconds,
        /// The latest that the expiry allows.
        latest: Seconds,
    },
    /// Already over.
    #[error("the expiry {expiry} is not in the future (now {now})")]
    ExpiryPassed {
        /// The expiry.
        expiry: Seconds,
        /// The time compared with.
        now: Seconds,
    },
    /// One without the other.
    #[error("a window needs both a length and a cap")]
    WindowIncomplete,
    /// A part above the whole.
    #[error("the rolling window's cap {0} is above the cap {1}")]
    WindowCapAboveCap(Amount, Amount),
    /// A part above the whole.
    #[error("the per-payment maximum {0} is above the cap {1}")]
    PerPaymentAboveCap(Amount, Amount),
}

impl Terms {
    /// Checks what the contract checks when it opens them, at block time `now`.
    ///
    /// # Errors
    /// The first of [`TermsError`] that applies.
    pub fn check(&self, now: Seconds) -> Result<(), TermsError> {
        let Self { start, expiry, capture_end, .. } = *self;
        if self.operator.is_zero() {
            return Err(TermsError::OperatorZero);
        }
        if self.agent.is_zero() {
            return Err(TermsError::AgentZero);
        }
        if self.cap.is_zero() {
            return Err(TermsError::CapZero);
        }
        if start >= expiry {
            return Err(TermsError::StartNotBeforeExpiry { start, expiry });
        }
        if expiry > capture_end {
            return Err(TermsError::ExpiryAfterCaptureEnd { expiry, capture_end });
        }
        let latest = expiry.saturating_add(CAPTURE_PERIOD_MAX).min(LATEST);
        if capture_end > latest {
            return Err(TermsError::CaptureEndTooLate { capture_end, latest });
        }
        if expiry <= now {
            return Err(TermsError::ExpiryPassed { expiry, now });
        }
        if (self.window == 0) != self.window_cap.is_zero() {
            return Err(TermsError::WindowIncomplete);
        }
        if self.window_cap > self.cap {
            return Err(TermsError::WindowCapAboveCap(self.window_cap, self.cap));
        }
        if self.per_payment > self.cap {
            return Err(TermsError::PerPaymentAboveCap(self.per_payment, self.cap));
        }
        Ok(())
    }
}
