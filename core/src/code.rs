//! The one list of codes: why the contract refuses, why the relayer denies, why a call fails.
//!
//! Solidity's `enum Reason` is the head of this list, in order; HTTP, CLI and the audit trail use
//! the names. A code never changes its meaning.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $variant:ident, $name:literal, $status:literal, $hint:literal; )+) => {
        /// A stable code. See the module.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code { $( $(#[doc = $doc])+ #[serde(rename = $name)] $variant, )+ }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// Its name in JSON, in the CLI and in the audit trail.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $( Self::$variant => $status, )+ }
            }

            /// What the caller can do about it.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $( Self::$variant => $hint, )+ }
            }
        }
    };
}

codes! {
    // Solidity's `enum Reason` from its second member on (its first, None, is no reason).
    /// No mandate has these terms.
    UnknownMandate, "unknown_mandate", 404, "check the mandate id, and that its opening is confirmed";
    /// Revoked, swept or rolled.
    Ended, "mandate_ended", 403, "ask for a new mandate";
    /// The sender is not a submitter of the mandate's guardian.
    NotSubmitter, "not_submitter", 403, "send the payment to the relayer that the mandate names as its guardian";
    /// Before the mandate's start.
    NotStarted, "mandate_not_started", 403, "wait until the mandate's start";
    /// At or after the mandate's expiry.
    Expired, "mandate_expired", 403, "ask for a new mandate";
    /// At or after the hold's `captureBy`.
    CaptureByPassed, "capture_by_passed", 403, "sign the hold again with a later capture_by";
    /// The hold would last longer than the mandate allows.
    CaptureByTooLate, "capture_by_too_late", 403, "sign the hold again with the capture_by that /v1/info asks for, or ask for a mandate that lasts longer";
    /// At or after the payment's deadline.
    DeadlinePassed, "deadline_passed", 403, "sign the payment again with a later deadline";
    /// An amount of zero.
    AmountZero, "amount_zero", 403, "pay more than zero";
    /// The payee is the zero address, the escrow or the token.
    BadPayee, "bad_payee", 403, "name an address that can own money: neither zero, nor the escrow, nor the token";
    /// The payee is not in the mandate's list.
    PayeeNotAllowed, "payee_not_allowed", 403, "pay one of the mandate's payees, or ask for a mandate that allows this one";
    /// Above the mandate's maximum of one payment.
    AbovePerPayment, "above_per_payment", 403, "pay at most the mandate's per-payment maximum";
    /// More than is left.
    InsufficientBudget, "insufficient_budget", 403, "pay at most what is available, or ask for a new mandate";
    /// A higher nonce has retired this one.
    NonceRetired, "nonce_retired", 409, "sign again with a nonce above the highest one used";
    /// The nonce has paid already.
    NonceUsed, "nonce_used", 409, "sign again with the next free nonce";
    /// More than the rolling window leaves.
    WindowExceeded, "window_exceeded", 403, "wait until the rolling window has room again";
    /// The signature is not the agent's.
    BadSignature, "bad_signature", 400, "sign the message with the agent's key, for this chain id and escrow";
    /// The token refuses the transfer.
    TransferFailed, "transfer_failed", 403, "the token refuses this transfer: check that the payee can receive it";

    // Reasons that only the relayer knows.
    /// The opening is not confirmed yet.
    NotYetOpen, "mandate_not_open_yet", 409, "wait until the mandate's opening is confirmed";
    /// The relayer stopped the mandate.
    Frozen, "mandate_frozen", 403, "the relayer saw something on chain that it can't explain: ask its host";
    /// The guardian is not this relayer's.
    ForeignGuardian, "foreign_guardian", 403, "send the payment to the relayer that the mandate names as its guardian";
    /// The mandate's intent document is not known here.
    IntentUnknown, "intent_unknown", 403, "ask for mandates through this relayer, so that it knows what they allow";
    /// The deadline is too near.
    DeadlineTooSoon, "deadline_too_soon", 403, "sign again with a later deadline (see deadline_min in /v1/info)";
    /// The deadline is too far.
    DeadlineTooLate, "deadline_too_late", 403, "sign again with an earlier deadline (see deadline_max in /v1/info)";
    /// The deadline is past the mandate's expiry.
    DeadlinePastExpiry, "deadline_past_expiry", 403, "sign again with a deadline not past the mandate's expiry";
    /// Below the host's minimum.
    BelowMinimum, "below_minimum", 403, "pay at least the host's minimum (see payment_min in /v1/info)";

    /// The mandate has cost the host enough gas today.
    GasBudgetExceeded, "gas_budget_exceeded", 429, "wait until tomorrow (UTC), or ask the relayer's host for a larger gas budget";

    // Why a card is refused, or a charge of one is declined.
    /// No cards here.
    CardsNotOffered, "cards_not_offered", 501, "this relayer has no card issuer: pay on chain instead";
    /// Not whole cents.
    NotWholeCents, "not_whole_cents", 403, "ask for an amount of whole cents";
    /// The hold does not last as long as clearings may take.
    CaptureByTooSoon, "capture_by_too_soon", 403, "sign the hold again with the capture_by that /v1/info asks for";
    /// Charged already.
    CardUsed, "card_used", 403, "a card can be charged once: create another one";
    /// Not charged yet, or not any more.
    CardNotActive, "card_not_active", 403, "create another card, or wait until this one is active";
    /// Too late.
    CardExpired, "card_expired", 403, "create another card and use it before it expires";
    /// The merchant's category is not among those of the mandate.
    MerchantNotAllowed, "merchant_not_allowed", 403, "use the card at the merchants that the mandate allows";
    /// More than the card was created for.
    AboveCardAmount, "above_card_amount", 403, "create a card for the whole amount of the purchase";
    /// Not in US dollars.
    CurrencyNotAllowed, "currency_not_allowed", 403, "pay in US dollars";
    /// Cash, credit or a question instead of a purchase.
    ChargeNotPlain, "charge_not_plain", 403, "use the card for a purchase alone";
    /// The card was closed at the issuer, by others.
    ClosedByIssuer, "closed_by_issuer", 403, "create another card; if it persists, ask the host";
    /// The issuer did not make a card.
    IssuerFailed, "issuer_failed", 502, "create another card; if it persists, ask the host";

    // Failures of a call.
    /// Not understood.
    InvalidRequest, "invalid_request", 400, "send what the documentation of this call shows";
    /// Terms that the contract would refuse to open.
    InvalidTerms, "invalid_terms", 422, "change what the detail names";
    /// No valid ERC-8128 signature.
    Unauthenticated, "unauthenticated", 401, "sign the request by ERC-8128 with your key, now, with a new nonce";
    /// Nothing here, or not yours.
    NotFound, "not_found", 404, "check the id, and that you sign with the key that may see it, for this chain id and escrow";
    /// Not with this method.
    MethodNotAllowed, "method_not_allowed", 405, "use the method that the documentation names";
    /// The body is not JSON by its content type.
    UnsupportedMediaType, "unsupported_media_type", 415, "send content-type: application/json";
    /// The body is too large.
    TooLarge, "too_large", 413, "send at most 64 KiB";
    /// The client was too slow.
    Timeout, "timeout", 408, "send the request again";
    /// The nonce is so far above the others that it would retire many that are free.
    NonceTooHigh, "nonce_too_high", 409, "sign again with the mandate's next_nonce";
    /// The nonce belongs to another payment.
    NonceTaken, "nonce_taken", 409, "sign again with the next free nonce";
    /// The idempotency key came before with other content.
    IdempotencyKeyReused, "idempotency_key_reused", 422, "use a new Idempotency-Key for new content";
    /// The request was approved already.
    AlreadyApproved, "already_approved", 409, "use the mandate that the request shows";
    /// Another approval of the request is under way.
    ApprovalUnderWay, "approval_under_way", 409, "wait until the mandate of that approval is open, or its message has lapsed: a second one would take the cap twice";
    /// The opening would fail on chain.
    OpenWouldFail, "open_would_fail", 422, "check that the operator holds the cap in USDC and that the authorization is for exactly these terms";
    /// Too many calls.
    RateLimited, "rate_limited", 429, "wait as long as retry_after says";
    /// More work than can be taken.
    Overloaded, "overloaded", 503, "wait as long as retry_after says, then send the same again";
    /// It can't be said whether the call took effect.
    Unavailable, "unavailable", 503, "send the same again: it is never done twice";
    /// The relayer takes no new work.
    Halted, "halted", 503, "the relayer stopped itself to be safe: its /readyz says why";
    /// Nothing can be sent on chain now.
    CannotSend, "cannot_send", 503, "wait as long as retry_after says, then send the same again: the relayer's host has to act, its /readyz says how";
    /// A defect of ours.
    Internal, "internal", 500, "send the same again; if it persists, give the x-request-id to the host";
}

impl Code {
    /// The code of Solidity's `Reason`; `None` for its zero and for numbers it does not have.
    #[must_use]
    pub fn from_reason(reason: u8) -> Option<Self> {
        let index = usize::from(reason).checked_sub(1)?;
        Self::ALL.get(index).copied().filter(|_| reason <= Self::TransferFailed as u8 + 1)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_survive_json() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert!(Code::ALL.iter().skip(index + 1).all(|other| other.name() != code.name()), "{code}");
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
        }
    }

    #[test]
    fn only_contract_reasons_have_a_number() {
        assert_eq!(Code::from_reason(0), None);
        assert_eq!(Code::from_reason(1), Some(Code::UnknownMandate));
        assert_eq!(Code::from_reason(16), Some(Code::WindowExceeded));
        assert_eq!(Code::from_reason(18), Some(Code::TransferFailed));
        assert_eq!(Code::from_reason(19), None);
        assert_eq!(Code::from_reason(255), None);
    }
}
