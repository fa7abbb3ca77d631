//! The HTTP API: a skin over [`Service`]. It settles who calls, how often, and whether what they
//! sent has the right form; it decides nothing else.

mod auth;
mod callbacks;
mod events;
mod extract;
mod handlers;
mod limits;
mod problem;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::{get, post},
};
use stipend_core::Code;
use stipend_http::Failure;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use limits::{ApiLimits, Rate};

use crate::{alarms::Alarms, service::Service};
use auth::Authenticator;
use limits::RateLimiters;
use problem::Refusal;

/// The largest body that is read.
const BODY_MAX: usize = 64 * 1024;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take: longer than the longest `?wait=`.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(40);

/// After how many seconds to call again while the relayer starts.
const STARTING_RETRY: u64 = 2;

/// How often limits forget who has not called lately.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);

/// What a host sets about the API.
#[derive(Clone, Debug, Default)]
pub struct ApiConfig {
    /// Where clients see this relayer, when it stands behind a proxy. Signed requests must be made
    /// for this authority; absent: for the one that their own `Host` header names.
    pub public_url: Option<Url>,
    /// How much is taken at most.
    pub limits: ApiLimits,
}

/// What is served while there is no service yet: the state of health, and to everything else that it will come.
pub fn starting(alarms: Alarms) -> Router {
    observed(health(alarms).fallback(async || {
        let detail = "the relayer is starting: it takes work once it has caught up with the chain";
        Refusal::new(Code::Overloaded, detail).after(STARTING_RETRY)
    }))
}

/// Health checks.
fn health<S: Clone + Send + Sync + 'static>(alarms: Alarms) -> Router<S> {
    Router::new().route("/healthz", get(handlers::healthz)).route("/readyz", get(handlers::readyz)).with_state(alarms)
}

/// The API, whose event streams end when `stop` is canceled, and what has to run beside it until `told`. It is
/// ready once the first second has come whose signatures can be taken.
pub async fn started(
    service: Service,
    config: &ApiConfig,
    stop: CancellationToken,
    told: CancellationToken,
) -> (Router, impl Future<Output = ()> + Send + use<>) {
    let authenticator = Arc::new(Authenticator::new(service.chain_id(), config.public_url.as_ref()));
    authenticator.second_after_start().await;
    let limiters = Arc::new(RateLimiters::new(&config.limits));
    let housekeeping = housekeep(limiters.clone(), told);
    (routes(Api { service, authenticator, limiters, stop }), housekeeping)
}

/// Forgets who has not called lately, until `stop`.
async fn housekeep(limiters: Arc<RateLimiters>, stop: CancellationToken) {
    let mut ticks = interval(HOUSEKEEPING_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        limiters.forget_idle();
    }
}

/// What the calls share.
#[derive(Clone)]
struct Api {
    service: Service,
    authenticator: Arc<Authenticator>,
    limiters: Arc<RateLimiters>,
    stop: CancellationToken,
}

fn routes(api: Api) -> Router {
    let signed = Router::new()
        .route("/v1/mandate-requests", post(handlers::request_mandate).get(handlers::mandate_requests))
        .route("/v1/mandate-requests/{id}", get(handlers::mandate_request))
        .route("/v1/mandates", post(handlers::open_mandate).get(handlers::mandates))
        .route("/v1/mandates/{id}", get(handlers::mandate))
        .route("/v1/payments", get(handlers::payments))
        .route("/v1/payments/{id}", get(handlers::payment))
        .route("/v1/cards", get(handlers::cards))
        .route("/v1/cards/{id}", get(handlers::card))
        .route("/v1/cards/{id}/secrets", get(handlers::card_secrets))
        .route("/v1/cards/{id}/close", post(handlers::close_card))
        .route("/v1/audit", get(handlers::audit))
        .route("/v1/events", get(events::events))
        .route("/v1/explain", post(handlers::explain))
        .route_layer(from_fn_with_state(api.clone(), auth::authenticate));

    let routes = signed
        // A payment carries its own authority: the agent's EIP-712 signature.
        .route("/v1/payments", post(handlers::pay))
        .route("/v1/cards", post(handlers::create_card))
        // So does a revocation: the operator's.
        .route("/v1/mandates/{id}/revocation", post(handlers::revoke))
        // The issuer's own signature, over the raw bytes.
        .route("/v1/issuer/authorizations", post(callbacks::authorization))
        .route("/v1/issuer/events", post(callbacks::event))
        .route("/v1/info", get(handlers::info))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn_with_state(api.clone(), limits::enforce))
        // Health checks are answered under any load.
        .merge(health(api.service.alarms()))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api);
    observed(routes)
}

fn observed(routes: Router) -> Router {
    stipend_http::observed(routes, RESPONSE_TIMEOUT, |failure| match failure {
        Failure::Panicked => Refusal::new(Code::Internal, "this call met a defect of the relayer").into_response(),
        Failure::TimedOut => Refusal::new(Code::Unavailable, "the relayer did not answer in time").into_response(),
    })
}
