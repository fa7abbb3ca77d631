//! `/_mock`: the switchboard. Only this mock has it; nothing but tests and demos may call it.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{
    input::Body,
    transactions::{created, posting},
};
use crate::{
    faults::Faults,
    issuer::{Issuer, Refusal, Target},
    store::StoreError,
    transaction::EventKind,
};

pub(super) async fn show(State(issuer): State<Issuer>) -> Json<Faults> {
    Json(issuer.faults().show())
}

/// Sets the switches that the body names, and leaves the others as they are.
pub(super) async fn change(State(issuer): State<Issuer>, Body(body): Body<Value>) -> Result<Json<Faults>, Refusal> {
    let mut switches = serde_json::to_value(issuer.faults().show()).map_err(StoreError::inconsistent)?;
    merge(&mut switches, body);
    let faults: Faults = serde_json::from_value(switches).map_err(|error| Refusal::BadRequest(error.to_string()))?;
    issuer.faults().set(faults.clone());
    issuer.wake();
    Ok(Json(faults))
}

/// Clears all faults. What has happened stays.
pub(super) async fn reset(State(issuer): State<Issuer>) -> Json<Faults> {
    issuer.faults().set(Faults::default());
    issuer.wake();
    Json(issuer.faults().show())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForcePost {
    card_token: Uuid,
    amount: i64,
    descriptor: Option<String>,
    merchant_amount: Option<i64>,
    merchant_currency: Option<String>,
}

/// A clearing that no authorization came before. Whatever the card's state: it posts.
pub(super) async fn force_post(
    State(issuer): State<Issuer>,
    Body(body): Body<ForcePost>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let mut purchase = posting(body.amount, body.descriptor.unwrap_or_else(|| "FORCE POST".into()));
    purchase.merchant_amount = body.merchant_amount;
    purchase.merchant_currency = body.merchant_currency;
    Ok(created(Some(issuer.post(Target::Token(body.card_token), EventKind::Clearing, purchase).await?)))
}

/// JSON merge patch (RFC 7396), without its removal: every switch is always there.
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(fields), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(fields.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}
