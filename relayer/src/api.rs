//! The HTTP API: a skin over [`Service`]. It settles who calls, how often, and whether what they
//! sent has the right form; it decides nothing else.

mod auth;
mod callbacks;
mod events;
mod extract;
mod handlers;
mod limits;
mod problem;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::{get, post},
};
use stipend_core::Code;
use stipend_http::Failure;
use tokio::{net::TcpListener, time::interval};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use limits::{ApiLimits, Rate};

use crate::service::Service;
use auth::Authenticator;
use limits::RateLimiters;
use problem::Refusal;

/// The largest body that is read.
const BODY_MAX: usize = 64 * 1024;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take: longer than the longest `?wait=`.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(40);

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

/// The API without its connections. Its event streams end when `stop` is canceled.
pub fn router(service: Service, config: &ApiConfig, stop: CancellationToken) -> Router {
    routes(Api::new(service, config, stop))
}

/// Serves the API until `stop` is canceled. Then event streams end, requests that are being answered
/// may finish for ten seconds, and no connection is left when it returns.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    config: ApiConfig,
    stop: CancellationToken,
) -> io::Result<()> {
    let api = Api::new(service, &config, stop.clone());
    api.authenticator.second_after_start().await;
    let limiters = api.limiters.clone();
    let housekeeping = async {
        let mut ticks = interval(HOUSEKEEPING_INTERVAL);
        loop {
            ticks.tick().await;
            limiters.forget_idle();
        }
    };
    tokio::select! {
        served = stipend_http::serve(listener, routes(api), config.limits.connections, stop) => served,
        () = housekeeping => Ok(()),
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

impl Api {
    fn new(service: Service, config: &ApiConfig, stop: CancellationToken) -> Self {
        let authenticator = Arc::new(Authenticator::new(service.chain_id(), config.public_url.as_ref()));
        Self { service, authenticator, limiters: Arc::new(RateLimiters::new(&config.limits)), stop }
    }
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
        .route("/healthz", get(handlers::healthz))
        .route("/readyz", get(handlers::readyz))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api);
    stipend_http::observed(routes, RESPONSE_TIMEOUT, |failure| match failure {
        Failure::Panicked => Refusal::new(Code::Internal, "this call met a defect of the relayer").into_response(),
        Failure::TimedOut => Refusal::new(Code::Unavailable, "the relayer did not answer in time").into_response(),
    })
}
