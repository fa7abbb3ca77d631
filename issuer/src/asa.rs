//! The real-time question: the program says what becomes of an authorization, within seconds, or it
//! is declined (Auth Stream Access).

use std::time::Duration;

use reqwest::{Client, StatusCode, header};
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    card::Decline,
    faults::Switchboard,
    signing::{self, SigningSecrets},
    time::Time,
};

/// The largest answer that is read.
const ANSWER_MAX: usize = 64 * 1024;

const TIMEOUT: Decline = Decline { result: "UNKNOWN_HOST_TIMEOUT", detail: "CUSTOMER_ASA_TIMEOUT" };
const MALFORMED: Decline = Decline { result: "DECLINED", detail: "MALFORMED_ASA_RESPONSE" };

/// Who is asked.
#[derive(Clone, Debug)]
pub(crate) struct Responder {
    pub(crate) url: String,
    /// None: nobody has fetched the secret yet, and the question goes unsigned.
    pub(crate) secrets: Option<SigningSecrets>,
}

/// Asks, and returns the amount if only a part was approved.
///
/// # Errors
/// Why it is declined: by the answer, or for want of one.
pub(crate) async fn ask(
    http: &Client,
    faults: &Switchboard,
    responder: &Responder,
    question: String,
    limit: Duration,
) -> Result<Option<i64>, Decline> {
    if faults.take(|faults| &mut faults.asa.absent) {
        sleep(limit).await;
        return Err(TIMEOUT);
    }
    let corrupt = faults.take(|faults| &mut faults.asa.corrupt_signature);
    let twice = faults.take(|faults| &mut faults.asa.duplicate);
    let late = Duration::from_millis(faults.show().asa.delay_ms);
    let id = format!("msg_{}", Uuid::new_v4().simple());
    let call = || call(http, responder, &id, &question, corrupt);
    let answer = timeout(limit, async {
        let answer = if twice {
            let (answer, _) = tokio::join!(call(), call());
            answer
        } else {
            call().await
        };
        sleep(late).await;
        answer
    });
    answer.await.unwrap_or(Err(TIMEOUT))
}

/// One question: once more, at once, if the network or the server fails.
async fn call(
    http: &Client,
    responder: &Responder,
    id: &str,
    question: &str,
    corrupt: bool,
) -> Result<Option<i64>, Decline> {
    match attempt(http, responder, id, question, corrupt).await {
        Some(answer) => answer,
        // Lithic does not say what it answers then; like a host that can't be reached, it is.
        None => attempt(http, responder, id, question, corrupt).await.unwrap_or(Err(TIMEOUT)),
    }
}

/// None: worth another attempt.
async fn attempt(
    http: &Client,
    responder: &Responder,
    id: &str,
    question: &str,
    corrupt: bool,
) -> Option<Result<Option<i64>, Decline>> {
    let mut request =
        http.post(&responder.url).header(header::CONTENT_TYPE, "application/json").body(question.to_owned());
    if let Some(secrets) = &responder.secrets {
        match signing::headers(secrets, id, Time::now(), question, corrupt) {
            Ok(headers) => request = request.headers(headers),
            Err(error) => {
                tracing::error!(%error, "can't sign the real-time question");
                return Some(Err(TIMEOUT));
            }
        }
    }
    let mut response = request.send().await.ok()?;
    if response.status().is_server_error() {
        return None;
    }
    if response.status() != StatusCode::OK {
        return Some(Err(MALFORMED));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_MAX {
            return Some(Err(MALFORMED));
        }
    }
    Some(verdict(&body))
}

#[derive(Deserialize)]
struct AsaDecision {
    result: String,
    approved_amount: Option<i64>,
}

/// What an answer means.
fn verdict(body: &[u8]) -> Result<Option<i64>, Decline> {
    let Ok(AsaDecision { result, approved_amount }) = serde_json::from_slice(body) else { return Err(MALFORMED) };
    let decline = |result, detail| Err(Decline { result, detail });
    match result.as_str() {
        "APPROVED" => Ok(approved_amount),
        "INSUFFICIENT_FUNDS" => decline("INSUFFICIENT_FUNDS", "INSUFFICIENT_FUNDS"),
        "UNAUTHORIZED_MERCHANT" => decline("UNAUTHORIZED_MERCHANT", "UNAUTHORIZED_MERCHANT"),
        // As measured in the sandbox: the same pair as a limit of the card's own.
        "VELOCITY_EXCEEDED" => decline("USER_TRANSACTION_LIMIT", "CARD_SPEND_LIMIT_EXCEEDED"),
        "SUSPECTED_FRAUD" => decline("SUSPECTED_FRAUD", "SUSPECTED_FRAUD"),
        "CARD_PAUSED" => decline("CARD_PAUSED", "CARD_PAUSED"),
        "AVS_INVALID" => decline("DECLINED", "ADDRESS_INCORRECT"),
        "DRIVER_NUMBER_INVALID" => decline("DECLINED", "DRIVER_NUMBER_INVALID"),
        "VEHICLE_NUMBER_INVALID" => decline("DECLINED", "VEHICLE_NUMBER_INVALID"),
        // A challenge among them: the mock has no cardholder to ask.
        _ => decline("DECLINED", "CUSTOM_ASA_RESULT"),
    }
}

/// For how much an approval is, given what was asked for. A part is only for terminals that can
/// take one, and less than the whole: whoever names the whole has not understood the field.
pub(crate) fn granted(asked: i64, part: Option<i64>, partial_capable: bool) -> Result<i64, Decline> {
    match part {
        None => Ok(asked),
        Some(part) if partial_capable && (1..asked).contains(&part) => Ok(part),
        Some(_) => Err(MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(body: &str) -> &'static str {
        verdict(body.as_bytes()).unwrap_err().detail
    }

    #[test]
    fn only_a_clear_yes_is_an_approval() {
        assert_eq!(verdict(br#"{"result":"APPROVED","token":"x"}"#), Ok(None));
        assert_eq!(detail(r#"{"result":"UNAUTHORIZED_MERCHANT"}"#), "UNAUTHORIZED_MERCHANT");
        assert_eq!(detail(r#"{"result":"VELOCITY_EXCEEDED"}"#), "CARD_SPEND_LIMIT_EXCEEDED");
        assert_eq!(detail(r#"{"result":"approved"}"#), "CUSTOM_ASA_RESULT");
        assert_eq!(detail(r#"{"result":"CHALLENGE"}"#), "CUSTOM_ASA_RESULT");
        for malformed in ["", "{}", "null", "[]", "APPROVED", r#"{"result":true}"#, r#"{"result":"APPROVED"} x"#] {
            assert_eq!(detail(malformed), "MALFORMED_ASA_RESPONSE", "{malformed}");
        }
    }

    #[test]
    fn a_partial_approval_needs_a_terminal_that_supports_it() {
        assert_eq!(granted(1_000, None, false), Ok(1_000));
        assert_eq!(granted(1_000, Some(400), true), Ok(400));
        for (part, capable) in [(400, false), (1_000, true), (1_001, true), (0, true), (-1, true)] {
            assert_eq!(granted(1_000, Some(part), capable), Err(MALFORMED), "{part}");
        }
    }
}
