//! The HTTP API: a skin over [`Service`]. It settles who calls, how often, and whether what they
//! sent has the right form; it decides nothing else.

mod auth;
mod callbacks;
mod events;
mod extract;
pub mod guide;
mod handlers;
mod limits;
mod mcp;
mod openapi;
mod problem;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware::from_fn_with_state, response::IntoResponse};
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
    Router::from(openapi::health()).with_state(alarms)
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
    (routes(Api { service, authenticator, limiters, stop }, config.public_url.as_ref()), housekeeping)
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

fn routes(api: Api, public_url: Option<&Url>) -> Router {
    let routes = Router::from(openapi::signed())
        .route_layer(from_fn_with_state(api.clone(), auth::authenticate))
        .merge(Router::from(openapi::unsigned()))
        .merge(mcp::routes(&api, public_url))
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
