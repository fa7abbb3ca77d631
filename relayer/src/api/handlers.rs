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
        Accepted, AuditFormat, AuditPage, Card, CardSecrets, Explain, Explanation, Health, Info, Mandate,
        MandateRequest, NewCard, NewMandate, NewMandateRequest, NewPayment, NewPayments, NewRevocation, Page,
        PageQuery, Payment, PaymentFilter, PaymentResult, PaymentResults, PaymentState,
    },
    schema,
};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    auth::Caller,
    extract::{Body, Cursor, Id, IdempotencyHeader, IdempotencyKey, Limit, NoQuery, Query, invalid},
    limits::Peer,
    problem::Refusal,
};
use crate::{alarms::Alarms, ledger::feed::Query as Trail, service::Seq};

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The entries of a page of the audit trail, if the caller does not say.
const AUDIT_PAGE: u32 = 20;

type Answer<T> = Result<Json<T>, Refusal>;

/// Whether the process runs
///
/// Answered under any load. `alarms` names what to look at; the runbook has all of them.
#[utoipa::path(get, path = "/healthz", tag = "relayer", responses((status = 200, body = Health, description = "It runs")))]
pub(super) async fn healthz(State(alarms): State<Alarms>, _: Query<NoQuery>) -> Response {
    Json(alarms.view()).into_response()
}

/// Whether new work is taken
///
/// Not while the relayer starts, has halted, can't send or sees no block.
#[utoipa::path(get, path = "/readyz", tag = "relayer", responses(
    (status = 200, body = Health, description = "New work is taken"),
    (status = 503, body = Health, description = "No new work is taken: `alarms` says why"),
))]
pub(super) async fn readyz(State(alarms): State<Alarms>, _: Query<NoQuery>) -> Response {
    let health = alarms.view();
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

/// What this relayer serves
///
/// Chain, contract, limits, and how far it has followed the chain.
#[utoipa::path(get, path = "/v1/info", tag = "relayer", responses((status = 200, body = Info, description = "What it serves")))]
pub(super) async fn info(State(api): State<Api>, _: Query<NoQuery>) -> Response {
    Json(api.service.info()).into_response()
}

/// Ask for a mandate
///
/// The agent gives the id to its operator, who approves it. With an `Idempotency-Key` the same body is one request for ever.
#[utoipa::path(post, path = "/v1/mandate-requests", tag = "mandates",
    params(IdempotencyHeader), request_body = NewMandateRequest, responses(
    (status = 201, body = MandateRequest, description = "The request was made"),
    (status = 200, body = MandateRequest, description = "An earlier call with this key made it"),
))]
pub(super) async fn request_mandate(
    State(api): State<Api>,
    Caller(agent): Caller,
    _: Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewMandateRequest>,
) -> Result<Response, Refusal> {
    Ok(created(StatusCode::CREATED, api.service.request_mandate(agent, body, key).await?))
}

/// Show a mandate request
///
/// To anyone who knows its id. `state` becomes `approved`, with `mandate`, when a mandate with its intent was opened.
#[utoipa::path(get, path = "/v1/mandate-requests/{id}", tag = "mandates",
    params(("id" = RequestId, Path, description = "The request")), responses((status = 200, body = MandateRequest, description = "The request")))]
pub(super) async fn mandate_request(
    State(api): State<Api>,
    _: Caller,
    _: Query<NoQuery>,
    Id(id): Id<RequestId>,
) -> Answer<MandateRequest> {
    Ok(Json(api.service.mandate_request(id).await?))
}

/// List mandate requests
///
/// The caller's own, newest first.
#[utoipa::path(get, path = "/v1/mandate-requests", tag = "mandates",
    params(PagesQuery), responses((status = 200, body = Page<MandateRequest>, description = "A page")))]
pub(super) async fn mandate_requests(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(page): Query<PagesQuery>,
) -> Answer<Page<MandateRequest>> {
    Ok(Json(api.service.mandate_requests(caller, page.into()).await?))
}

/// Approve a request by one message
///
/// The operator's EIP-3009 authorization, whose nonce is the hash of the terms; the relayer opens the mandate with it and
/// pays the gas. The mandate's id is the key: sent again, the same is answered.
#[utoipa::path(post, path = "/v1/mandates", tag = "mandates",
    request_body = NewMandate, responses(
    (status = 202, body = Mandate, description = "Accepted: the mandate is `opening`"),
    (status = 200, body = Mandate, description = "Known before"),
))]
pub(super) async fn open_mandate(
    State(api): State<Api>,
    Caller(operator): Caller,
    _: Query<NoQuery>,
    Body(body): Body<NewMandate>,
) -> Result<Response, Refusal> {
    Ok(created(StatusCode::ACCEPTED, api.service.open_mandate(operator, body).await?))
}

/// Show a mandate
///
/// Where its money is: `cap + restored = available + reserved + held + paid + returned + carried`.
#[utoipa::path(get, path = "/v1/mandates/{id}", tag = "mandates",
    params(("id" = MandateId, Path, description = "The mandate")), responses((status = 200, body = Mandate, description = "The mandate")))]
pub(super) async fn mandate(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Id(id): Id<MandateId>,
) -> Answer<Mandate> {
    Ok(Json(api.service.mandate(caller, id).await?))
}

/// List mandates
///
/// The caller's, as agent or operator, newest first.
#[utoipa::path(get, path = "/v1/mandates", tag = "mandates",
    params(PagesQuery), responses((status = 200, body = Page<Mandate>, description = "A page")))]
pub(super) async fn mandates(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(page): Query<PagesQuery>,
) -> Answer<Page<Mandate>> {
    Ok(Json(api.service.mandates(caller, page.into()).await?))
}

/// End a mandate by one message
///
/// The operator's EIP-712 `Revoke(bytes32 mandate)`. It carries its own authority: anyone may send it, and the relayer pays
/// the gas. From the answer on nothing new is accepted.
#[utoipa::path(post, path = "/v1/mandates/{id}/revocation", tag = "mandates",
    params(("id" = MandateId, Path, description = "The mandate")), request_body = NewRevocation, responses(
    (status = 202, body = Mandate, description = "Accepted: the mandate is `revoking`"),
    (status = 200, body = Mandate, description = "Known before, or ended already"),
))]
pub(super) async fn revoke(
    State(api): State<Api>,
    _: Query<NoQuery>,
    Id(id): Id<MandateId>,
    Body(body): Body<NewRevocation>,
) -> Result<Response, Refusal> {
    let revocation = api.service.authenticate_revocation(id, body)?;
    api.limiters.agent(revocation.signer())?;
    Ok(created(StatusCode::ACCEPTED, api.service.revoke(revocation).await?))
}

/// Pay
///
/// The agent's EIP-712 `Spend(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,bytes32 ref)`. It
/// carries its own authority. What is accepted ends as settled exactly once, or as failed with its reservation returned. Sent
/// again, the same payment is answered; with an `Idempotency-Key` also one that is signed anew.
#[utoipa::path(post, path = "/v1/payments", tag = "payments", params(PayQuery, IdempotencyHeader), request_body = NewPayment, responses(
    (status = 202, body = Payment, description = "Accepted: `reserved`"),
    (status = 200, body = Payment, description = "Known before"),
))]
pub(super) async fn pay(
    State(api): State<Api>,
    Query(query): Query<PayQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewPayment>,
) -> Result<Response, Refusal> {
    if query.receipt {
        api.service.check_receipts()?;
    }
    let payment = api.service.authenticate_payment(body)?;
    api.limiters.agent(payment.agent())?;
    let mut accepted = api.service.pay(payment, key).await?;
    if query.receipt {
        accepted.object.receipt = api.service.receipt(&accepted.object);
    }
    Ok(created(StatusCode::ACCEPTED, accepted))
}

/// Pay many
///
/// Up to 100 payments, of any mandates, each signed as for one. Each has its own answer, which is the one that it would have had
/// alone, and none depends on another; each counts as a call in the limits. There are no idempotency keys: sent again, the same
/// payments are answered.
#[utoipa::path(post, path = "/v1/payments/batch", tag = "payments", request_body = NewPayments, responses(
    (status = 200, body = PaymentResults, description = "What became of each"),
))]
pub(super) async fn pay_many(
    State(api): State<Api>,
    Peer(peer): Peer,
    _: Query<NoQuery>,
    Body(NewPayments { payments }): Body<NewPayments>,
) -> Answer<PaymentResults> {
    // The call itself is counted already.
    api.limiters.further(peer, payments.len().saturating_sub(1))?;
    let mut signed = Vec::with_capacity(payments.len());
    for payment in payments {
        let checked = api.service.authenticate_payment(payment).and_then(|payment| {
            api.limiters.agent(payment.agent()).map_err(Refusal::into_problem)?;
            Ok(payment)
        });
        signed.push(checked);
        // Recovering a hundred signatures in one go would keep everybody else waiting.
        tokio::task::yield_now().await;
    }
    let results = api.service.pay_many(signed).await.into_iter().map(|result| match result {
        Ok(Accepted { object, replayed }) => {
            let status = if replayed { StatusCode::OK } else { StatusCode::ACCEPTED };
            PaymentResult { status: status.as_u16(), payment: Some(object), problem: None }
        }
        Err(problem) => PaymentResult { status: problem.status, payment: None, problem: Some(problem) },
    });
    Ok(Json(PaymentResults { results: results.collect() }))
}

/// Explain what would become of a payment or a card
///
/// The decision with every rule's verdict, and nothing reserved. Without `payee` it is a card.
#[utoipa::path(post, path = "/v1/explain", tag = "payments",
    request_body = Explain, responses((status = 200, body = Explanation, description = "What would become of it now")))]
pub(super) async fn explain(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Body(body): Body<Explain>,
) -> Answer<Explanation> {
    Ok(Json(api.service.explain(caller, body).await?))
}

/// Create a single-use card
///
/// The agent's EIP-712 `Hold(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,uint40 captureBy,bytes32
/// ref)` for the treasury that `/v1/info` names. When the hold is in the chain, the issuer makes the card.
#[utoipa::path(post, path = "/v1/cards", tag = "cards", params(IdempotencyHeader), request_body = NewCard, responses(
    (status = 202, body = Card, description = "Accepted: `requested`"),
    (status = 200, body = Card, description = "Known before"),
))]
pub(super) async fn create_card(
    State(api): State<Api>,
    _: Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewCard>,
) -> Result<Response, Refusal> {
    let hold = api.service.authenticate_hold(body)?;
    api.limiters.agent(hold.agent())?;
    Ok(created(StatusCode::ACCEPTED, api.service.create_card(hold, key).await?))
}

/// Show a card
#[utoipa::path(get, path = "/v1/cards/{id}", tag = "cards",
    params(("id" = CardId, Path, description = "The card")), responses((status = 200, body = Card, description = "The card")))]
pub(super) async fn card(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Id(id): Id<CardId>,
) -> Answer<Card> {
    Ok(Json(api.service.card(caller, id).await?))
}

/// List cards
///
/// The caller's, as agent or operator, newest first.
#[utoipa::path(get, path = "/v1/cards", tag = "cards",
    params(CardsQuery), responses((status = 200, body = Page<Card>, description = "A page")))]
pub(super) async fn cards(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(query): Query<CardsQuery>,
) -> Answer<Page<Card>> {
    let page = PagesQuery { cursor: query.cursor, limit: query.limit };
    Ok(Json(api.service.cards(caller, query.mandate, page.into()).await?))
}

/// Reveal a card's number
///
/// To its agent alone, until the card has ended. Each look is in the trail; the answer is kept nowhere.
#[utoipa::path(get, path = "/v1/cards/{id}/secrets", tag = "cards",
    params(("id" = CardId, Path, description = "The card")), responses((status = 200, body = CardSecrets, description = "What a merchant's form asks for")))]
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

/// Close a card
///
/// One that was not charged: its hold is released to the budget.
#[utoipa::path(post, path = "/v1/cards/{id}/close", tag = "cards",
    params(("id" = CardId, Path, description = "The card")), responses((status = 200, body = Card, description = "The card")))]
pub(super) async fn close_card(
    State(api): State<Api>,
    Caller(caller): Caller,
    _: Query<NoQuery>,
    Id(id): Id<CardId>,
) -> Answer<Card> {
    Ok(Json(api.service.close_card(caller, id).await?))
}

/// Show a payment
///
/// With `wait`, once it is in that state or final, but after 25 s in any case.
#[utoipa::path(get, path = "/v1/payments/{id}", tag = "payments",
    params(("id" = PaymentId, Path, description = "The payment"), WaitQuery), responses((status = 200, body = Payment, description = "The payment")))]
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

/// List payments
///
/// The caller's, as agent or operator, newest first.
#[utoipa::path(get, path = "/v1/payments", tag = "payments",
    params(PaymentsQuery), responses((status = 200, body = Page<Payment>, description = "A page")))]
pub(super) async fn payments(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(query): Query<PaymentsQuery>,
) -> Answer<Page<Payment>> {
    let filter = PaymentFilter { mandate: query.mandate, state: query.state, reference: query.reference };
    let page = PagesQuery { cursor: query.cursor, limit: query.limit };
    Ok(Json(api.service.payments(caller, filter, page.into()).await?))
}

/// Read the audit trail
///
/// What concerns the caller's requests and mandates, oldest first. `next_cursor` is given as `after` for the next page. With
/// `format=raw` entries come as they are stored and hashed, byte for byte, of which one may tell several events.
#[utoipa::path(get, path = "/v1/audit", tag = "audit",
    params(AuditQuery), responses((status = 200, body = AuditPage, description = "A page")))]
pub(super) async fn audit(
    State(api): State<Api>,
    Caller(caller): Caller,
    Query(query): Query<AuditQuery>,
) -> Answer<AuditPage> {
    let AuditQuery { mandate, after, latest, format, limit } = query;
    let limit = limit.map_or(AUDIT_PAGE, |Limit(limit)| limit);
    if latest {
        if after.get() > 0 || format == AuditFormat::Raw {
            return Err(invalid("latest: not with after, and not with format=raw"));
        }
        let data = api.service.latest_audit(caller, mandate, limit).await?;
        return Ok(Json(AuditPage::Entries(Page { data, next_cursor: None })));
    }
    let query = Trail { reader: caller, mandate, after: after.get(), limit };
    Ok(Json(match format {
        AuditFormat::Json => AuditPage::Entries(page(api.service.audit(query).await?, limit, |entry| entry.seq)),
        AuditFormat::Raw => AuditPage::Raw(page(api.service.raw_audit(query).await?, limit, |entry| entry.seq)),
    }))
}

/// A page that goes on after its last entry, if it is full.
fn page<T>(data: Vec<T>, limit: u32, seq: impl Fn(&T) -> u64) -> Page<T> {
    let full = u32::try_from(data.len()).is_ok_and(|length| length >= limit);
    let next_cursor = data.last().filter(|_| full).map(|entry| seq(entry).to_string());
    Page { data, next_cursor }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PagesQuery {
    /// The `next_cursor` of the page before.
    #[param(inline)]
    cursor: Option<Cursor>,
    /// How many at most: 20, if it is absent.
    #[param(inline)]
    limit: Option<Limit>,
}

impl From<PagesQuery> for PageQuery {
    fn from(pages: PagesQuery) -> Self {
        Self { cursor: pages.cursor.map(|Cursor(cursor)| cursor), limit: pages.limit.map(|Limit(limit)| limit) }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PayQuery {
    /// Whether to sign a receipt: for a payee who was handed the payment, and sends it himself.
    #[serde(default)]
    receipt: bool,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// For which state to wait.
    #[param(inline)]
    wait: Option<Wait>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Wait {
    Mined,
    Settled,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PaymentsQuery {
    /// Of this mandate.
    mandate: Option<MandateId>,
    /// In this state.
    state: Option<PaymentState>,
    /// With this `ref`.
    #[serde(rename = "ref")]
    #[param(value_type = Option<schema::Hash>)]
    reference: Option<B256>,
    /// The `next_cursor` of the page before.
    #[param(inline)]
    cursor: Option<Cursor>,
    /// How many at most: 20, if it is absent.
    #[param(inline)]
    limit: Option<Limit>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Of this mandate.
    mandate: Option<MandateId>,
    /// After the entry with this `seq`; 0: from the beginning.
    #[serde(default)]
    #[param(value_type = Option<u64>, maximum = 9_223_372_036_854_775_807_i64)]
    after: Seq,
    /// The latest entries instead, oldest first too; not with `after`.
    #[serde(default)]
    latest: bool,
    /// Event by event, or byte for byte; not with `latest`.
    #[serde(default)]
    #[param(inline)]
    format: AuditFormat,
    /// How many at most: 20, if it is absent.
    #[param(inline)]
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CardsQuery {
    /// Of this mandate.
    mandate: Option<MandateId>,
    /// The `next_cursor` of the page before.
    #[param(inline)]
    cursor: Option<Cursor>,
    /// How many at most: 20, if it is absent.
    #[param(inline)]
    limit: Option<Limit>,
}
