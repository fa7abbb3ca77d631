//! `/v1/cards`.

use axum::{
    Extension, Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use stipend_http::Unanswered;
use uuid::Uuid;

use super::input::{Body, Query, Token, page, time_range};
use crate::{
    card::{Card, CardState, CardUpdate, NewCard},
    issuer::{Issuer, Refusal},
    store::cards::{self, CardFilter},
};

const KEY_MAX: usize = 255;

pub(super) async fn create(
    State(issuer): State<Issuer>,
    headers: HeaderMap,
    Body(new): Body<NewCard>,
) -> Result<Response, Refusal> {
    let key = headers.get("idempotency-key").map(|key| match key.to_str() {
        Ok(key) if (1..=KEY_MAX).contains(&key.len()) => Ok(key.to_owned()),
        _ => Err(Refusal::BadRequest(format!("an idempotency key has 1 to {KEY_MAX} printable characters"))),
    });
    let card = issuer.create_card(new, key.transpose()?).await?;
    if issuer.faults().take(|faults| &mut faults.cards.lose_create_answer) {
        return Ok(Extension(Unanswered).into_response());
    }
    Ok(Json(card).into_response())
}

pub(super) async fn get(State(issuer): State<Issuer>, Token(token): Token) -> Result<Json<Value>, Refusal> {
    let (card, secrets) = card_of(&issuer, token).await?;
    Ok(Json(secrets.join(card.view())))
}

pub(super) async fn update(
    State(issuer): State<Issuer>,
    Token(token): Token,
    Body(update): Body<CardUpdate>,
) -> Result<Json<Value>, Refusal> {
    issuer.update_card(token, update).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    account_token: Option<Uuid>,
    state: Option<CardState>,
    memo: Option<String>,
    begin: Option<String>,
    end: Option<String>,
    page_size: Option<u32>,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

pub(super) async fn list(State(issuer): State<Issuer>, Query(query): Query<Filter>) -> Result<Json<Value>, Refusal> {
    let page = page(query.page_size, query.starting_after, query.ending_before)?;
    let time_range = time_range(query.begin.as_deref(), query.end.as_deref())?;
    let filter = CardFilter { account: query.account_token, state: query.state, memo: query.memo, time_range };
    let found = issuer.read(move |session| Ok(cards::cards(session.store, filter, &page)?)).await?;
    let (cards, more) = found.ok_or(Refusal::NotFound("card to page from"))?;
    Ok(Json(json!({ "data": cards.iter().map(Card::view).collect::<Vec<_>>(), "has_more": more })))
}

pub(super) async fn spend_limits(State(issuer): State<Issuer>, Token(token): Token) -> Result<Json<Value>, Refusal> {
    let limits = issuer.read(move |session| {
        let (card, _) = session.card(token)?;
        Ok(card.limits_view(&cards::velocity(session.store, token, session.now)?))
    });
    limits.await.map(Json)
}

async fn card_of(issuer: &Issuer, token: Uuid) -> Result<(Card, crate::card::CardCredentials), Refusal> {
    issuer.read(move |session| session.card(token)).await
}
