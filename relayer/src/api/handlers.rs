//! The calls, each as thin as it can be.

use alloy_primitives::B256;
use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use stipend_core::{
    CardId, MandateId, PaymentId, RequestId,
    api::{
        Accepted, AuditEntry, Card, Explain, Explanation, Mandate, MandateRequest, NewCard, NewMandate,
        NewMandateRequest, NewPayment, NewRevocation, Page, PageQuery, Payment, PaymentFilter, PaymentState,
    },
};

use super::{
    Api,
    auth::Caller,
    extract::{Body, Cursor, Id, IdempotencyKey, Limit, NoQuery, Query, invalid},
    problem::Refusal,
};
use crate::alarms::Alarms;

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The entries of a page of the audit trail, if the caller does not say.
const AUDIT_PAGE: u32 = 20;

type Answer<T> = Result<Json<T>, Refusal>;

pub(super) async fn healthz(State(alarms): State<Alarms>, _: Query<NoQuery>) -> Response {
    Json(alarms.view()).into_response()
}

pub(super) async fn readyz(State(alarms): State<Alarms>, _: Query<NoQuery>) -> Response {
    let health = alarms.view();
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

pub(super) async fn info(State(api): State<Api>, _: Query<NoQuery>) -> Response {
    Json(api.service.info()).into_response()
}

pub(super) async fn request_mandate(
    State(api): State<Api>,
    Caller(agent): Caller,
    _: Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewMandateRequest>,
) -> Result<Response, Refusal> {
    Ok(created(StatusCode::CREATED, api.service.request_mandate(agent, body, key).await?))
}

pub(super) async fn mandate_request(
    State(api): State<Api>,
    _: Caller,
    _: Query<NoQuery>,
    Id(id): Id<RequestId>,
) -> Answer<MandateRequest> {
    Ok(Json(api.service.mandate_request(id).await?))
}

pub(super) async fn mandate_requests(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(page): Query<PagesQuery>,
) -> Answer<Page<MandateRequest>> {
    Ok(Json(api.service.mandate_requests(caller, page.into()).await?))
}

pub(super) async fn open_mandate(
    State(api): State<Api>,
    Caller(operator): Caller,
    _: Query<NoQuery>,
    Body(body): Body<NewMandate>,
) -> Result<Response, Refusal> {
    Ok(created(StatusCode::ACCEPTED, api.service.open_mandate(operator, body).await?))
}

pub(super) async fn mandate(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Id(id): Id<MandateId>,
) -> Answer<Mandate> {
    Ok(Json(api.service.mandate(caller, id).await?))
}

pub(super) async fn mandates(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(page): Query<PagesQuery>,
) -> Answer<Page<Mandate>> {
    Ok(Json(api.service.mandates(caller, page.into()).await?))
}

pub(super) async fn revoke(
    State(api): State<Api>,
    _: Query<NoQuery>,
    Id(id): Id<MandateId>,
    Body(body): Body<NewRevocation>,
) -> Result<Response, Refusal> {
    let revocation = api.service.authenticate_revocation(id, body).await?;
    api.limiters.agent(revocation.signer())?;
    Ok(created(StatusCode::ACCEPTED, api.service.revoke(revocation).await?))
}

pub(super) async fn pay(
    State(api): State<Api>,
    _: Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewPayment>,
) -> Result<Response, Refusal> {
    let payment = api.service.authenticate_payment(body).await?;
    api.limiters.agent(payment.agent())?;
    Ok(created(StatusCode::ACCEPTED, api.service.pay(payment, key).await?))
}

pub(super) async fn explain(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Body(body): Body<Explain>,
) -> Answer<Explanation> {
    Ok(Json(api.service.explain(caller, body).await?))
}

pub(super) async fn create_card(
    State(api): State<Api>,
    _: Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewCard>,
) -> Result<Response, Refusal> {
    let hold = api.service.authenticate_hold(body).await?;
    api.limiters.agent(hold.agent())?;
    Ok(created(StatusCode::ACCEPTED, api.service.create_card(hold, key).await?))
}

pub(super) async fn card(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Id(id): Id<CardId>,
) -> Answer<Card> {
    Ok(Json(api.service.card(caller, id).await?))
}

pub(super) async fn cards(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(query): Query<CardsQuery>,
) -> Answer<Page<Card>> {
    let page = PagesQuery { cursor: query.cursor, limit: query.limit };
    Ok(Json(api.service.cards(caller, query.mandate, page.into()).await?))
}

pub(super) async fn card_secrets(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Id(id): Id<CardId>,
) -> Result<Response, Refusal> {
    let secrets = api.service.reveal_card(caller, id).await?;
    // Kept by nobody on the way.
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(secrets)).into_response())
}

pub(super) async fn close_card(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Id(id): Id<CardId>,
) -> Answer<Card> {
    Ok(Json(api.service.close_card(caller, id).await?))
}

pub(super) async fn payment(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(query): Query<WaitQuery>,
    Id(id): Id<PaymentId>,
) -> Answer<Payment> {
    let wait = query.wait.map(|wait| match wait {
        Wait::Mined => PaymentState::Mined,
        Wait::Settled => PaymentState::Settled,
    });
    Ok(Json(api.service.payment(caller, id, wait).await?))
}

pub(super) async fn payments(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(query): Query<PaymentsQuery>,
) -> Answer<Page<Payment>> {
    let filter = PaymentFilter { mandate: query.mandate, state: query.state, reference: query.reference };
    let page = PagesQuery { cursor: query.cursor, limit: query.limit };
    Ok(Json(api.service.payments(caller, filter, page.into()).await?))
}

pub(super) async fn audit(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(query): Query<AuditQuery>,
) -> Answer<Page<AuditEntry>> {
    let limit = query.limit.map_or(AUDIT_PAGE, |Limit(limit)| limit);
    if query.latest {
        if query.after > 0 {
            return Err(invalid("latest: the latest entries are not those after another one"));
        }
        let data = api.service.latest_audit(caller, query.mandate, limit).await?;
        return Ok(Json(Page { data, next_cursor: None }));
    }
    let data = api.service.audit(caller, query.mandate, query.after, limit).await?;
    let full = u32::try_from(data.len()).is_ok_and(|length| length >= limit);
    let next_cursor = data.last().filter(|_| full).map(|entry| entry.seq.to_string());
    Ok(Json(Page { data, next_cursor }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PagesQuery {
    cursor: Option<Cursor>,
    limit: Option<Limit>,
}

impl From<PagesQuery> for PageQuery {
    fn from(pages: PagesQuery) -> Self {
        Self { cursor: pages.cursor.map(|Cursor(cursor)| cursor), limit: pages.limit.map(|Limit(limit)| limit) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    wait: Option<Wait>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wait {
    Mined,
    Settled,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PaymentsQuery {
    mandate: Option<MandateId>,
    state: Option<PaymentState>,
    #[serde(rename = "ref")]
    reference: Option<B256>,
    cursor: Option<Cursor>,
    limit: Option<Limit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    mandate: Option<MandateId>,
    #[serde(default)]
    after: u64,
    #[serde(default)]
    latest: bool,
    limit: Option<Limit>,
}

/// The answer to something that creates: `status` the first time, 200 when it was there before.
fn created<T: Serialize>(status: StatusCode, accepted: Accepted<T>) -> Response {
    if accepted.replayed {
        ([(REPLAYED, HeaderValue::from_static("true"))], Json(accepted.object)).into_response()
    } else {
        (status, Json(accepted.object)).into_response()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CardsQuery {
    mandate: Option<MandateId>,
    cursor: Option<Cursor>,
    limit: Option<Limit>,
}
