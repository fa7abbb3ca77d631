//! The issuer calls: before it approves a charge, and after everything that happens. Lithic's forms;
//! whatever else they carry is passed over.

use crate::cards::signature::SignatureHeaders;
use axum::{
    Json,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use stipend_core::{Code, card::Charge};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    extract::{self, invalid},
    problem::Refusal,
};
use crate::{
    cards::{
        issuer::{IssuerSecrets, Transaction},
        signature::SigningSecret,
    },
    clock,
    service::AuthorizationRequest,
};

#[derive(Deserialize)]
struct Authorization {
    token: String,
    status: String,
    card: CardName,
    amounts: Amounts,
    #[serde(default)]
    cash_amount: i64,
    merchant: Merchant,
}

#[derive(Deserialize)]
struct CardName {
    token: String,
}

#[derive(Deserialize)]
struct Amounts {
    cardholder: Money,
    hold: Option<Money>,
    merchant: Money,
}

#[derive(Deserialize)]
struct Money {
    amount: i64,
    currency: String,
}

#[derive(Deserialize)]
struct Merchant {
    #[serde(default)]
    descriptor: String,
    #[serde(default)]
    mcc: String,
}

impl From<Authorization> for AuthorizationRequest {
    fn from(asked: Authorization) -> Self {
        let Amounts { cardholder, hold, merchant } = asked.amounts;
        // More can be held than is charged, for a tip: that counts.
        let held = hold.as_ref().map_or(0, |hold| hold.amount);
        let currencies = [Some(&cardholder), Some(&merchant), hold.as_ref()];
        Self {
            transaction: asked.token,
            card: asked.card.token,
            merchant: asked.merchant.descriptor,
            charge: Charge {
                cents: cardholder.amount.max(held),
                cash_cents: asked.cash_amount,
                in_dollars: currencies.into_iter().flatten().all(|money| money.currency == "USD"),
                plain: matches!(asked.status.as_str(), "AUTHORIZATION" | "FINANCIAL_AUTHORIZATION"),
                mcc: asked.merchant.mcc.parse().ok(),
            },
        }
    }
}

/// The issuer's signature over the raw body (Standard Webhooks).
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "a document's part")]
struct WebhookHeaders {
    /// The message's id.
    #[param(rename = "webhook-id")]
    id: String,
    /// When it was sent, in seconds since 1970.
    #[param(rename = "webhook-timestamp")]
    timestamp: String,
    /// `v1,` and the HMAC-SHA256 in Base64; several are separated by spaces.
    #[param(rename = "webhook-signature")]
    signature: String,
}

/// The answer to a question about a charge.
#[derive(Serialize, ToSchema)]
pub(super) struct AuthorizationResponse {
    result: &'static str,
    token: String,
}

/// What a decline is called at the issuer; our own reason is in the trail.
const fn result(verdict: Option<Code>) -> &'static str {
    match verdict {
        None => "APPROVED",
        Some(Code::AboveCardAmount) => "INSUFFICIENT_FUNDS",
        Some(Code::MerchantNotAllowed | Code::CurrencyNotAllowed) => "UNAUTHORIZED_MERCHANT",
        Some(Code::CardUsed) => "VELOCITY_EXCEEDED",
        Some(_) => "CARD_PAUSED",
    }
}

/// Answer the issuer's question about a charge
///
/// Lithic's Auth Stream Access: the answer is decided from the ledger, and stored before it is given.
#[utoipa::path(post, path = "/v1/issuer/authorizations", tag = "issuer", params(WebhookHeaders),
    request_body(content = Object, description = "Lithic's authorization request"), responses(
    (status = 200, body = AuthorizationResponse, description = "The answer"),
))]
pub(super) async fn authorization(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<AuthorizationResponse>, Refusal> {
    let (_, body) = checked(&api, request, |secrets| &secrets.asa).await?;
    let asked: Authorization = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    let token = asked.token.clone();
    let verdict = api.service.authorize_charge(asked.into()).await?;
    Ok(Json(AuthorizationResponse { result: result(verdict), token }))
}

#[derive(Deserialize)]
struct Kind {
    event_type: String,
}

/// Take the issuer's news
///
/// Lithic's event webhooks: each is taken once by its id, in any order.
#[utoipa::path(post, path = "/v1/issuer/events", tag = "issuer", params(WebhookHeaders),
    request_body(content = Object, description = "Lithic's event"), responses((status = 204, description = "Taken")))]
pub(super) async fn event(State(api): State<Api>, request: Request) -> Result<StatusCode, Refusal> {
    let (id, body) = checked(&api, request, |secrets| &secrets.webhook).await?;
    let kind: Kind = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    let transaction: Option<Transaction> = if kind.event_type == "card_transaction.updated" {
        Some(serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?)
    } else {
        None
    };
    api.service.ingest_events(id, transaction).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The id and the raw body of a call that the issuer has signed.
async fn checked(
    api: &Api,
    request: Request,
    secret: impl FnOnce(&IssuerSecrets) -> &SigningSecret,
) -> Result<(String, Bytes), Refusal> {
    let secrets = api.service.cards_offered()?.secrets.borrow().clone();
    let not_yet =
        || Refusal::new(Code::Unavailable, "the issuer has not been reached yet: its signature can't be checked");
    let secret = secret(&secrets.ok_or_else(not_yet)?).clone();
    let headers = request.headers().clone();
    let body = extract::read(request).await?;
    let header = |name: &str| one(&headers, name);
    let headers = SignatureHeaders {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signatures: header("webhook-signature"),
    };
    secret
        .check(&headers, &body, clock::now())
        .map_err(|error| Refusal::new(Code::Unauthenticated, error.to_string()))?;
    Ok((headers.id, body))
}

/// A header's one value; empty if there is none, or more than one.
fn one(headers: &HeaderMap, name: &str) -> String {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}
