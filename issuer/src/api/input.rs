//! What comes in, held to its form.

use std::error::Error;

use axum::{
    Json,
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Path, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::request::Parts,
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::BODY_MAX;
use crate::{
    issuer::Refusal,
    number::masked,
    store::{Cursor, Page, cards::TimeRange},
    time::{Time, TimeError},
};

const PAGE_SIZE: u32 = 50;
const PAGE_MAX: u32 = 100;
/// The longest part of a parser's message that is sent back.
const COMPLAINT_MAX: usize = 300;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let bytes = match Bytes::from_request(request, &()).await {
            Ok(bytes) => bytes,
            Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_))) => {
                return Err(Refusal::TooLarge(BODY_MAX));
            }
            Err(_) => return Err(Refusal::BadRequest("the body broke off".into())),
        };
        Json::from_bytes(&bytes).map(|Json(body)| Self(body)).map_err(|rejection| rejection_message(&rejection))
    }
}

/// A query whose parameters are all known.
pub(super) struct Query<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let query =
            axum::extract::Query::try_from_uri(&parts.uri).map_err(|rejection| rejection_message(&rejection))?;
        Ok(Self(query.0))
    }
}

/// The UUID in a path. What is none is of nothing that exists.
pub(super) struct Token(pub(super) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Token {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let token = Path::<Uuid>::from_request_parts(parts, state).await;
        token.map(|Path(token)| Self(token)).map_err(|_| Refusal::NotFound("item"))
    }
}

/// The innermost cause is the parser's own words. They quote what was sent, which may hold the
/// number of a card.
fn rejection_message(rejection: &dyn Error) -> Refusal {
    let mut cause = rejection;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Refusal::BadRequest(masked(&cause.to_string()).chars().take(COMPLAINT_MAX).collect())
}

/// The page that a list call asks for.
pub(super) fn page(size: Option<u32>, after: Option<String>, before: Option<String>) -> Result<Page, Refusal> {
    let size = size.unwrap_or(PAGE_SIZE);
    if !(1..=PAGE_MAX).contains(&size) {
        return Err(Refusal::BadRequest(format!("page_size must be 1 to {PAGE_MAX}, not {size}")));
    }
    let cursor = match (after, before) {
        (None, None) => None,
        (Some(token), None) => Some(Cursor::After(token)),
        (None, Some(token)) => Some(Cursor::Before(token)),
        (Some(_), Some(_)) => {
            return Err(Refusal::BadRequest("give starting_after or ending_before, not both".into()));
        }
    };
    Ok(Page { size, cursor })
}

/// The time_range that a call asks for.
pub(super) fn time_range(begin: Option<&str>, end: Option<&str>) -> Result<TimeRange, Refusal> {
    let time = |name: &str, text: Option<&str>| {
        let parsed = text.map(str::parse::<Time>).transpose();
        parsed.map_err(|error: TimeError| Refusal::BadRequest(format!("{name}: {error}")))
    };
    Ok(TimeRange { begin: time("begin", begin)?, end: time("end", end)? })
}
