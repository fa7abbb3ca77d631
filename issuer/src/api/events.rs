//! `/v1/events`, `/v1/event_subscriptions`, `/v1/responder_endpoints` and `/v1/auth_stream`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::input::{Body, Query, page, time_range};
use crate::{
    issuer::{Issuer, Refusal, StoreSession},
    signing::{self, SigningSecrets},
    store::{
        StoreError,
        outbox::{self, OutboxEvent, Subscription},
    },
    time::Time,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Separated by commas.
    #[serde(default)]
    event_types: String,
    #[serde(default)]
    with_content: bool,
    begin: Option<String>,
    end: Option<String>,
    page_size: Option<u32>,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

pub(super) async fn list(State(issuer): State<Issuer>, Query(query): Query<Filter>) -> Result<Json<Value>, Refusal> {
    let page = page(query.page_size, query.starting_after, query.ending_before)?;
    let time_range = time_range(query.begin.as_deref(), query.end.as_deref())?;
    let types: Vec<_> = query.event_types.split(',').filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
    let found = issuer.read(move |session| Ok(outbox::events(session.store, &types, time_range, &page)?));
    let (events, more) = found.await?.ok_or(Refusal::NotFound("event to page from"))?;
    let view = |event| event_view(event, query.with_content);
    Ok(Json(json!({ "data": events.into_iter().map(view).collect::<Vec<_>>(), "has_more": more })))
}

pub(super) async fn get(State(issuer): State<Issuer>, Path(token): Path<String>) -> Result<Json<Value>, Refusal> {
    let found = issuer.read(move |session| Ok(outbox::event(session.store, &token)?)).await?;
    Ok(Json(event_view(found.ok_or(Refusal::NotFound("event"))?, true)))
}

pub(super) async fn resend(
    State(issuer): State<Issuer>,
    Path((event, to)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let found = move |session: &StoreSession<'_>| Ok(outbox::resend(session.store, &event, &to, session.now)?);
    if issuer.write(found).await? { Ok(StatusCode::ACCEPTED) } else { Err(Refusal::NotFound("event or subscription")) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSubscription {
    url: String,
    description: Option<String>,
    disabled: Option<bool>,
    event_types: Option<Vec<String>>,
}

pub(super) async fn subscribe(
    State(issuer): State<Issuer>,
    Body(body): Body<NewSubscription>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let current = signing::new_secret().map_err(StoreError::from)?;
    let subscription = Subscription {
        token: format!("ep_{}", Uuid::new_v4().simple()),
        url: checked(&body.url)?,
        description: body.description.unwrap_or_default(),
        disabled: body.disabled.unwrap_or(false),
        event_types: body.event_types.filter(|types| !types.is_empty()),
        secrets: SigningSecrets { current, old: None },
    };
    let view = subscription_view(&subscription);
    issuer.write(move |session| Ok(outbox::subscribe(session.store, &subscription, session.now)?)).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageOnly {
    page_size: Option<u32>,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

pub(super) async fn subscriptions(
    State(issuer): State<Issuer>,
    Query(query): Query<PageOnly>,
) -> Result<Json<Value>, Refusal> {
    let page = page(query.page_size, query.starting_after, query.ending_before)?;
    let found = issuer.read(move |session| Ok(outbox::subscriptions(session.store, &page)?)).await?;
    let (list, more) = found.ok_or(Refusal::NotFound("subscription to page from"))?;
    Ok(Json(json!({ "data": list.iter().map(subscription_view).collect::<Vec<_>>(), "has_more": more })))
}

pub(super) async fn subscription(
    State(issuer): State<Issuer>,
    Path(token): Path<String>,
) -> Result<Json<Value>, Refusal> {
    find(&issuer, token).await.map(|subscription| Json(subscription_view(&subscription)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangedSubscription {
    url: Option<String>,
    description: Option<String>,
    disabled: Option<bool>,
    event_types: Option<Vec<String>>,
}

pub(super) async fn change(
    State(issuer): State<Issuer>,
    Path(token): Path<String>,
    Body(body): Body<ChangedSubscription>,
) -> Result<Json<Value>, Refusal> {
    let url = body.url.as_deref().map(checked).transpose()?;
    let change = move |session: &StoreSession<'_>| {
        let mut changed = outbox::subscription(session.store, &token)?.ok_or(SUBSCRIPTION)?;
        changed.url = url.unwrap_or(changed.url);
        changed.description = body.description.unwrap_or(changed.description);
        changed.disabled = body.disabled.unwrap_or(changed.disabled);
        if let Some(types) = body.event_types {
            changed.event_types = Some(types).filter(|types| !types.is_empty());
        }
        outbox::change(session.store, &changed)?;
        Ok(subscription_view(&changed))
    };
    issuer.write(change).await.map(Json)
}

pub(super) async fn unsubscribe(
    State(issuer): State<Issuer>,
    Path(token): Path<String>,
) -> Result<StatusCode, Refusal> {
    let existed = issuer.write(move |session| Ok(outbox::unsubscribe(session.store, &token)?)).await?;
    if existed { Ok(StatusCode::NO_CONTENT) } else { Err(SUBSCRIPTION) }
}

pub(super) async fn secret(State(issuer): State<Issuer>, Path(token): Path<String>) -> Result<Json<Value>, Refusal> {
    find(&issuer, token).await.map(|subscription| Json(secret_view(&subscription.secrets)))
}

pub(super) async fn rotate(State(issuer): State<Issuer>, Path(token): Path<String>) -> Result<StatusCode, Refusal> {
    let existed = issuer.write(move |session| Ok(outbox::rotate(session.store, &token, session.now)?)).await?;
    if existed { Ok(StatusCode::NO_CONTENT) } else { Err(SUBSCRIPTION) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpanOnly {
    begin: Option<String>,
    end: Option<String>,
}

pub(super) async fn recover(
    State(issuer): State<Issuer>,
    Path(token): Path<String>,
    Query(query): Query<SpanOnly>,
) -> Result<StatusCode, Refusal> {
    let time_range = time_range(query.begin.as_deref(), query.end.as_deref())?;
    find(&issuer, token.clone()).await?;
    issuer.write(move |session| Ok(outbox::recover(session.store, &token, time_range, session.now)?)).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn replay_missing(
    State(issuer): State<Issuer>,
    Path(token): Path<String>,
    Query(query): Query<SpanOnly>,
) -> Result<StatusCode, Refusal> {
    let time_range = time_range(query.begin.as_deref(), query.end.as_deref())?;
    find(&issuer, token.clone()).await?;
    issuer.write(move |session| Ok(outbox::replay_missing(session.store, &token, time_range, session.now)?)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The one stream that the mock has.
#[derive(Clone, Copy, Deserialize)]
enum ResponderType {
    #[serde(rename = "AUTH_STREAM_ACCESS")]
    AuthStreamAccess,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewResponder {
    #[serde(rename = "type")]
    _kind: ResponderType,
    url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResponderQuery {
    #[serde(rename = "type")]
    _kind: ResponderType,
}

pub(super) async fn register_responder(
    State(issuer): State<Issuer>,
    Body(body): Body<NewResponder>,
) -> Result<Json<Value>, Refusal> {
    let url = checked(&body.url)?;
    issuer.write(move |session| Ok(outbox::register_responder(session.store, Some(&url))?)).await?;
    Ok(Json(json!({ "enrolled": true })))
}

pub(super) async fn responder(
    State(issuer): State<Issuer>,
    Query(_): Query<ResponderQuery>,
) -> Result<Json<Value>, Refusal> {
    let url = issuer.read(|session| Ok(outbox::responder(session.store)?)).await?;
    Ok(Json(json!({ "enrolled": url.is_some(), "url": url })))
}

pub(super) async fn unregister_responder(
    State(issuer): State<Issuer>,
    Query(_): Query<ResponderQuery>,
) -> Result<StatusCode, Refusal> {
    issuer.write(|session| Ok(outbox::register_responder(session.store, None)?)).await?;
    Ok(StatusCode::OK)
}

/// Creates the secret when it is first asked for: until then nothing is signed, as at Lithic's.
pub(super) async fn asa_secret(State(issuer): State<Issuer>) -> Result<Json<Value>, Refusal> {
    let secrets = issuer.write(|session| {
        if outbox::responder_secrets(session.store)?.is_none() {
            outbox::rotate_responder(session.store, session.now)?;
        }
        let secrets = outbox::responder_secrets(session.store)?;
        Ok(secrets.ok_or_else(|| StoreError::inconsistent("a secret that was just stored is gone"))?)
    });
    secrets.await.map(|secrets| Json(secret_view(&secrets)))
}

pub(super) async fn rotate_asa(State(issuer): State<Issuer>) -> Result<StatusCode, Refusal> {
    issuer.write(|session| Ok(outbox::rotate_responder(session.store, session.now)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

const SUBSCRIPTION: Refusal = Refusal::NotFound("event subscription");

async fn find(issuer: &Issuer, token: String) -> Result<Subscription, Refusal> {
    let found = issuer.read(move |session| Ok(outbox::subscription(session.store, &token)?)).await?;
    found.ok_or(SUBSCRIPTION)
}

fn checked(url: &str) -> Result<String, Refusal> {
    signing::target(url).map(Into::into).map_err(|error| Refusal::BadRequest(error.to_string()))
}

fn secret_view(secrets: &SigningSecrets) -> Value {
    json!({ "secret": secrets.current.expose_secret() })
}

fn subscription_view(subscription: &Subscription) -> Value {
    json!({
        "token": subscription.token,
        "description": subscription.description,
        "disabled": subscription.disabled,
        "event_types": subscription.event_types,
        "url": subscription.url,
    })
}

fn event_view(event: OutboxEvent, with_content: bool) -> Value {
    json!({
        "token": event.token,
        "created": Time(event.created),
        "event_type": event.event_type,
        "payload": if with_content { event.payload } else { json!({}) },
    })
}
