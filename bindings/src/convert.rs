//! Between the core's types and the ABI's.

use crate::CompactSignature;
use alloy_primitives::aliases::{U40, U88};
use stipend_core::{Amount, Seconds, Terms};

use crate::{Hold, Spend, abi::MandateEscrow};

/// A number that the other side can't hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, more than can be stored")]
pub struct OutOfRange {
    /// Which one.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
}

pub(crate) fn time(field: &'static str, value: Seconds) -> Result<U40, OutOfRange> {
    U40::try_from(value).map_err(|_| OutOfRange { field, value })
}

fn amount(field: &'static str, value: u64) -> Result<Amount, OutOfRange> {
    Amount::from_units(value).map_err(|_| OutOfRange { field, value })
}

/// Terms as the contract takes them.
///
/// # Errors
/// [`OutOfRange`] for a time beyond 40 bits.
pub fn terms_on_chain(terms: &Terms) -> Result<MandateEscrow::Terms, OutOfRange> {
    Ok(MandateEscrow::Terms {
        operator: terms.operator,
        agent: terms.agent,
        guardian: terms.guardian,
        cap: terms.cap.units(),
        perPayment: terms.per_payment.units(),
        windowCap: terms.window_cap.units(),
        window: terms.window,
        start: time("start", terms.start)?,
        expiry: time("expiry", terms.expiry)?,
        captureEnd: time("capture_end", terms.capture_end)?,
        payees: terms.payees,
        intent: terms.intent,
        refundsRestoreBudget: terms.refunds_restore_budget,
    })
}

/// Terms as the contract tells them.
///
/// # Errors
/// [`OutOfRange`] for an amount that no store can hold (above `i64::MAX`).
pub fn terms_from_chain(terms: &MandateEscrow::Terms) -> Result<Terms, OutOfRange> {
    Ok(Terms {
        operator: terms.operator,
        agent: terms.agent,
        guardian: terms.guardian,
        cap: amount("cap", terms.cap)?,
        per_payment: amount("per_payment", terms.perPayment)?,
        window_cap: amount("window_cap", terms.windowCap)?,
        window: terms.window,
        start: terms.start.to(),
        expiry: terms.expiry.to(),
        capture_end: terms.captureEnd.to(),
        payees: terms.payees,
        intent: terms.intent,
        refunds_restore_budget: terms.refundsRestoreBudget,
    })
}

/// A signed payment as a row of a batch: the message and its signature in ERC-2098's two words.
#[must_use]
pub fn row(spend: &Spend, signature: CompactSignature) -> MandateEscrow::Payment {
    MandateEscrow::Payment {
        payee: spend.payee,
        amount: spend.amount,
        nonce: spend.nonce,
        deadline: spend.deadline,
        r#ref: spend.reference,
        r: signature.r,
        vs: signature.vs,
    }
}

/// A signed hold as the contract takes it.
#[must_use]
pub fn hold_row(hold: &Hold, signature: CompactSignature) -> MandateEscrow::Hold {
    let payment = MandateEscrow::Payment {
        payee: hold.payee,
        amount: hold.amount,
        nonce: hold.nonce,
        deadline: hold.deadline,
        r#ref: hold.reference,
        r: signature.r,
        vs: signature.vs,
    };
    MandateEscrow::Hold { payment, captureBy: hold.captureBy }
}

/// The nonces' bits fit their type in Rust as in Solidity.
const _: () = assert!(U88::BITS == stipend_core::nonce::WINDOW as usize);
