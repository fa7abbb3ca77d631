//! `/v1/transactions` and `/v1/simulate`.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    debugging_id,
    input::{Body, Query, Token, page, time_range},
};
use crate::{
    issuer::{Issuer, Refusal, Target},
    number::CardNumber,
    store::cards::{self, TransactionFilter},
    transaction::{EventKind, Merchant, Purchase, Request, Status, Transaction, Transition},
};

type Created = (StatusCode, Json<Value>);

pub(super) async fn get(State(issuer): State<Issuer>, Token(token): Token) -> Result<Json<Value>, Refusal> {
    let found = issuer.read(move |session| Ok(cards::transaction(session.store, token)?)).await?;
    Ok(Json(found.ok_or(Refusal::NotFound("transaction"))?.view()))
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Outcome {
    Approved,
    Declined,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    account_token: Option<Uuid>,
    card_token: Option<Uuid>,
    status: Option<Status>,
    result: Option<Outcome>,
    begin: Option<String>,
    end: Option<String>,
    page_size: Option<u32>,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

pub(super) async fn list(State(issuer): State<Issuer>, Query(query): Query<Filter>) -> Result<Json<Value>, Refusal> {
    let page = page(query.page_size, query.starting_after, query.ending_before)?;
    let filter = TransactionFilter {
        account: query.account_token,
        card: query.card_token,
        status: query.status,
        approved: query.result.map(|outcome| outcome == Outcome::Approved),
        time_range: time_range(query.begin.as_deref(), query.end.as_deref())?,
    };
    let found = issuer.read(move |session| Ok(cards::transactions(session.store, filter, &page)?));
    let (list, more) = found.await?.ok_or(Refusal::NotFound("transaction to page from"))?;
    Ok(Json(json!({ "data": list.iter().map(Transaction::view).collect::<Vec<_>>(), "has_more": more })))
}

pub(super) async fn expire(State(issuer): State<Issuer>, Token(token): Token) -> Result<StatusCode, Refusal> {
    issuer.step(token, Transition::ExpireHold).await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authorize {
    amount: i64,
    descriptor: String,
    pan: String,
    mcc: Option<String>,
    merchant_acceptor_id: Option<String>,
    merchant_acceptor_city: Option<String>,
    merchant_acceptor_state: Option<String>,
    merchant_acceptor_country: Option<String>,
    merchant_amount: Option<i64>,
    merchant_currency: Option<String>,
    billing_currency: Option<String>,
    settlement_currency: Option<String>,
    #[serde(default)]
    partial_approval_capable: bool,
    pin: Option<String>,
    status: Option<Request>,
}

pub(super) async fn authorize(State(issuer): State<Issuer>, Body(body): Body<Authorize>) -> Result<Created, Refusal> {
    only_dollars([body.billing_currency, body.settlement_currency])?;
    let usual = Merchant::named(body.descriptor);
    let purchase = Purchase {
        request: body.status.unwrap_or(Request::Authorization),
        amount: body.amount,
        merchant: Merchant {
            acceptor_id: body.merchant_acceptor_id.unwrap_or(usual.acceptor_id),
            city: body.merchant_acceptor_city.unwrap_or(usual.city),
            country: body.merchant_acceptor_country.unwrap_or(usual.country),
            mcc: body.mcc.unwrap_or(usual.mcc),
            state: body.merchant_acceptor_state.unwrap_or(usual.state),
            descriptor: usual.descriptor,
        },
        merchant_amount: body.merchant_amount,
        merchant_currency: body.merchant_currency,
        partial_approval_capable: body.partial_approval_capable,
        pin_entered: body.pin.is_some(),
    };
    Ok(created(Some(issuer.authorize(number(&body.pan)?, purchase).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Advise {
    token: Uuid,
    amount: i64,
}

pub(super) async fn advise(State(issuer): State<Issuer>, Body(body): Body<Advise>) -> Result<Created, Refusal> {
    issuer.step(body.token, Transition::Advise(body.amount)).await?;
    Ok(created(Some(body.token)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Clear {
    token: Uuid,
    amount: Option<i64>,
}

pub(super) async fn clear(State(issuer): State<Issuer>, Body(body): Body<Clear>) -> Result<Created, Refusal> {
    issuer.step(body.token, Transition::Clear(body.amount)).await?;
    Ok(created(None))
}

#[derive(Clone, Copy, Deserialize)]
enum VoidType {
    #[serde(rename = "AUTHORIZATION_REVERSAL")]
    Reversal,
    #[serde(rename = "AUTHORIZATION_EXPIRY")]
    Expiry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Void {
    token: Uuid,
    amount: Option<i64>,
    #[serde(rename = "type")]
    kind: Option<VoidType>,
}

pub(super) async fn void(State(issuer): State<Issuer>, Body(body): Body<Void>) -> Result<Created, Refusal> {
    let step = match body.kind.unwrap_or(VoidType::Reversal) {
        VoidType::Reversal => Transition::Reverse(body.amount),
        // Always for all that is pending, whatever the amount says.
        VoidType::Expiry => Transition::Expire,
    };
    issuer.step(body.token, step).await?;
    Ok(created(None))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Return {
    amount: i64,
    descriptor: String,
    pan: String,
    billing_currency: Option<String>,
    settlement_currency: Option<String>,
}

pub(super) async fn create_return(State(issuer): State<Issuer>, Body(body): Body<Return>) -> Result<Created, Refusal> {
    only_dollars([body.billing_currency, body.settlement_currency])?;
    let card = Target::Number(number(&body.pan)?);
    Ok(created(Some(issuer.post(card, EventKind::Return, posting(body.amount, body.descriptor)).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReverseReturn {
    token: Uuid,
}

pub(super) async fn reverse_return(
    State(issuer): State<Issuer>,
    Body(body): Body<ReverseReturn>,
) -> Result<Created, Refusal> {
    issuer.step(body.token, Transition::ReverseReturn).await?;
    Ok(created(None))
}

/// What is posted without having been asked for.
pub(super) fn posting(amount: i64, descriptor: String) -> Purchase {
    Purchase {
        request: Request::FinancialAuthorization,
        amount,
        merchant: Merchant::named(descriptor),
        merchant_amount: None,
        merchant_currency: None,
        partial_approval_capable: false,
        pin_entered: false,
    }
}

fn only_dollars(currencies: [Option<String>; 2]) -> Result<(), Refusal> {
    if currencies.iter().flatten().all(|currency| currency == "USD") {
        return Ok(());
    }
    Err(Refusal::Unprocessable("the mock's cards are billed and settled in USD".into()))
}

fn number(pan: &str) -> Result<CardNumber, Refusal> {
    pan.parse().map_err(|error| Refusal::BadRequest(format!("pan: {error}")))
}

pub(super) fn created(token: Option<Uuid>) -> Created {
    let id = debugging_id();
    let body = match token {
        Some(token) => json!({ "debugging_request_id": id, "token": token }),
        None => json!({ "debugging_request_id": id }),
    };
    (StatusCode::CREATED, Json(body))
}
