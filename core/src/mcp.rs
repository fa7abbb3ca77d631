//! What both servers of the Model Context Protocol do alike: the agent's own (`stipend mcp`) and the relayer's (`/mcp`).

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, keccak256};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Amount, Code, api::PaymentState};

/// How long a reference may be, in bytes.
pub const REFERENCE_MAX: usize = 200;

/// Arguments that are amounts.
const AMOUNTS: [&str; 3] = ["amount", "per_payment", "window_cap"];

/// Why a text is not a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("say what is paid for, an invoice or an order, in 1 to {REFERENCE_MAX} bytes")]
pub struct ReferenceError;

/// What a reference is on chain, as the payment's `ref`.
///
/// # Errors
/// [`ReferenceError`] if it is blank or too long.
pub fn commitment(reference: &str) -> Result<B256, ReferenceError> {
    if reference.trim().is_empty() || reference.len() > REFERENCE_MAX {
        return Err(ReferenceError);
    }
    Ok(keccak256(reference))
}

/// The idempotency key under which the same payment is made once in a mandate, for ever.
#[must_use]
pub fn payment_key(payee: Address, amount: Amount, reference: B256) -> String {
    key("pay", payee, amount, reference)
}

/// The same for a card.
#[must_use]
pub fn card_key(amount: Amount, reference: B256) -> String {
    key("card", Address::ZERO, amount, reference)
}

fn key(kind: &str, payee: Address, amount: Amount, reference: B256) -> String {
    format!("{kind} {}", keccak256(format!("{payee} {amount} {reference}")))
}

/// What a model does next after a problem with this code.
#[must_use]
pub const fn next_step(code: Code, may_have_happened: bool, can_retry: bool) -> &'static str {
    match code {
        Code::InsufficientBudget | Code::Ended | Code::Expired => {
            "Ask for another budget with payment_request, or pay less."
        }
        Code::AbovePerPayment | Code::WindowExceeded | Code::BelowMinimum => {
            "payment_explain says how much would be accepted now, and when more would be."
        }
        Code::PayeeNotAllowed | Code::BadPayee => {
            "Do not look for a way around it. mandate_show lists who may be paid; ask your user, or ask for a mandate \
             that allows this payee."
        }
        Code::IdempotencyKeyReused => "Use another reference.",
        _ if may_have_happened || can_retry => {
            "Call the same tool again with exactly the same arguments: it is never done twice."
        }
        _ => "Tell your user what the message says.",
    }
}

/// What a model does next about a payment in this state; `repeated`: an earlier call made it.
#[must_use]
pub const fn payment_next(state: PaymentState, repeated: bool) -> &'static str {
    match state {
        PaymentState::Settled | PaymentState::Mined if repeated => {
            "This was paid before, once; nothing new was paid. To pay the same amount to the same payee again on purpose, use \
             another reference."
        }
        PaymentState::Settled => "Paid, for good.",
        PaymentState::Mined => "Paid. payment_status says when it is final.",
        PaymentState::Failed => {
            "Not paid, and the amount is back in the budget. To pay the same amount to the same payee again on purpose, use \
             another reference."
        }
        PaymentState::Reserved | PaymentState::Submitted => {
            "Accepted: it will be paid, or its amount returns. Don't pay again; ask payment_status."
        }
    }
}

type Fields = BTreeMap<String, Box<RawValue>>;

/// A call of a tool with its amounts as strings, by the digits that a model wrote, so that no library reads them into a
/// float; `None`: it is no call, or has none that are numbers.
#[must_use]
pub fn with_exact_amounts(message: &str) -> Option<String> {
    let mut message: Fields = serde_json::from_str(message).ok()?;
    let mut params: Fields = serde_json::from_str(message.get("params")?.get()).ok()?;
    let mut arguments: Fields = serde_json::from_str(params.get("arguments")?.get()).ok()?;
    let mut changed = false;
    for name in AMOUNTS {
        let Some(value) = arguments.get_mut(name) else { continue };
        let text = value.get();
        if text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
            *value = to_raw_value(text).ok()?;
            changed = true;
        }
    }
    if !changed {
        return None;
    }
    params.insert("arguments".into(), to_raw_value(&arguments).ok()?);
    message.insert("params".into(), to_raw_value(&params).ok()?);
    serde_json::to_string(&message).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn call(arguments: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"payment_execute","arguments":{arguments}}}}}"#
        )
    }

    #[test]
    fn amounts_keep_the_digits_that_they_were_written_with() {
        for written in ["100.00", "9007199254740.993001", "1e2", "-1", "0.1000000"] {
            let line =
                with_exact_amounts(&call(&format!(r#"{{"amount":{written},"payee":"0x00","count":1.50}}"#))).unwrap();
            let message: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(message["params"]["arguments"]["amount"], written);
            assert_eq!((&message["id"], &message["params"]["name"]), (&json!(1), &json!("payment_execute")));
            assert!(line.contains("1.50"), "{line}");
        }
    }

    #[test]
    fn what_has_no_numbers_for_amounts_is_left_as_it_is() {
        for line in [&call(r#"{"amount":"4.20"}"#), &call("{}"), "", "[]", "nonsense", r#"{"method":"ping"}"#] {
            assert_eq!(with_exact_amounts(line), None, "{line}");
        }
    }

    #[test]
    fn a_reference_says_something() {
        assert_eq!(commitment("invoice 17"), Ok(keccak256("invoice 17")));
        for reference in ["", " \t", &"x".repeat(REFERENCE_MAX + 1)] {
            assert_eq!(commitment(reference), Err(ReferenceError), "{reference:?}");
        }
    }
}
