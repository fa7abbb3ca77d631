//! The HTTP surface: Lithic's paths, bodies and status codes, and `/_mock`. A skin over [`Issuer`].

mod cards;
mod events;
mod input;
mod mock;
mod transactions;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use stipend_http::Failure;
use subtle::ConstantTimeEq;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::issuer::{Issuer, Refusal};

/// The largest body that is read.
const BODY_MAX: usize = 64 * 1024;

/// How long an answer may take: longer than the real-time question.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(40);

/// How many connections there are at once.
const MAX_CONNECTIONS: usize = 1_024;

/// Serves until `stop` is canceled; then what is being answered may finish.
pub(crate) async fn serve(
    listener: TcpListener,
    issuer: Issuer,
    api_key: SecretString,
    stop: CancellationToken,
) -> io::Result<()> {
    let (_, app) = watch::channel(routes(issuer, api_key));
    stipend_http::serve(listener, app, MAX_CONNECTIONS, stop).await
}

fn routes(issuer: Issuer, api_key: SecretString) -> Router {
    let routes = Router::new()
        .route("/v1/cards", post(cards::create).get(cards::list))
        .route("/v1/cards/{token}", get(cards::get).patch(cards::update))
        .route("/v1/cards/{token}/spend_limits", get(cards::spend_limits))
        .route("/v1/transactions", get(transactions::list))
        .route("/v1/transactions/{token}", get(transactions::get))
        .route("/v1/transactions/{token}/expire_authorization", post(transactions::expire))
        .route("/v1/simulate/authorize", post(transactions::authorize))
        .route("/v1/simulate/authorization_advice", post(transactions::advise))
        .route("/v1/simulate/clearing", post(transactions::clear))
        .route("/v1/simulate/void", post(transactions::void))
        .route("/v1/simulate/return", post(transactions::create_return))
        .route("/v1/simulate/return_reversal", post(transactions::reverse_return))
        .route("/v1/events", get(events::list))
        .route("/v1/events/{event}", get(events::get))
        .route("/v1/events/{event}/event_subscriptions/{subscription}/resend", post(events::resend))
        .route("/v1/event_subscriptions", post(events::subscribe).get(events::subscriptions))
        .route(
            "/v1/event_subscriptions/{token}",
            get(events::subscription).patch(events::change).delete(events::unsubscribe),
        )
        .route("/v1/event_subscriptions/{token}/secret", get(events::secret))
        .route("/v1/event_subscriptions/{token}/secret/rotate", post(events::rotate))
        .route("/v1/event_subscriptions/{token}/recover", post(events::recover))
        .route("/v1/event_subscriptions/{token}/replay_missing", post(events::replay_missing))
        .route(
            "/v1/responder_endpoints",
            post(events::register_responder).get(events::responder).delete(events::unregister_responder),
        )
        .route("/v1/auth_stream/secret", get(events::asa_secret))
        .route("/v1/auth_stream/secret/rotate", post(events::rotate_asa))
        .route("/_mock", get(mock::show).patch(mock::change))
        .route("/_mock/reset", post(mock::reset))
        .route("/_mock/force_post", post(mock::force_post))
        .route_layer(from_fn_with_state(Arc::new(api_key), authenticate))
        // Open, as at Lithic's.
        .route("/v1/status", get(async || Json(json!({ "message": "OK" }))))
        .fallback(async || Refusal::NotFound("path"))
        .method_not_allowed_fallback(async || Refusal::Method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(issuer);
    stipend_http::observed(routes, RESPONSE_TIMEOUT, |failure| match failure {
        Failure::Panicked => Refusal::Panicked.into_response(),
        Failure::TimedOut => Refusal::TimedOut.into_response(),
    })
}

/// The bare key, as Lithic has it: no scheme before it.
async fn authenticate(State(key): State<Arc<SecretString>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
    if given.ct_eq(key.expose_secret().as_bytes()).into() {
        next.run(request).await
    } else {
        Refusal::Unauthorized.into_response()
    }
}

fn debugging_id() -> Uuid {
    Uuid::new_v4()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::KeyReused => StatusCode::CONFLICT,
            Self::Unprocessable(_) | Self::Declined { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Store(_) | Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
        };
        let message = match &self {
            Self::Store(error) => {
                tracing::error!(%error, "a call failed");
                "the issuer failed: see its log".into()
            }
            told => told.to_string(),
        };
        let id = debugging_id();
        let body = match &self {
            Self::Declined { token, .. } => {
                json!({ "debugging_request_id": id, "message": message, "token": token })
            }
            _ => json!({ "debugging_request_id": id, "message": message }),
        };
        let mut response = (status, Json(body)).into_response();
        if matches!(self, Self::KeyReused) {
            // The SDK tries a 409 again unless it is told not to.
            let header = HeaderName::from_static("x-should-retry");
            response.headers_mut().insert(header, HeaderValue::from_static("false"));
        }
        response
    }
}
