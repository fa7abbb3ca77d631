//! What every server of Stipend puts in front of its routes: connections that are bounded in number
//! and time, and answers that have a request id, come in bounded time, and come even if a handler
//! panics.

#[cfg(test)]
mod tests;

use std::{any::Any, io, net::SocketAddr, pin::pin, time::Duration};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::{ConnectInfo, MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::map_request,
    response::Response,
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceBuilder, timeout::TimeoutLayer};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    trace::TraceLayer,
};
use tracing::Span;

/// How long a client may take to send a head, and a kept connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest head that is read.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// How long requests may continue after the stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// After a failed accept: out of file descriptors, most likely, and at once it would fail again.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id of a client's own that is kept.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// Why no handler answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The handler panicked.
    Panicked,
    /// The handler took too long.
    TimedOut,
}

/// As the extension of a response: its caller never gets it, the connection closes instead.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered;

/// Puts what every answer has around `routes`: a request id, the client's own if it can be echoed
/// safely; an end after `response_timeout`; an answer to a panic; a line in the access log, at
/// debug level, with method, route, status and time, and never a path, a query or a body, which
/// may hold anything. `respond_to` gives the server's own response to a failed request.
pub fn observed(routes: Router, response_timeout: Duration, respond_to: fn(Failure) -> Response) -> Router {
    let layers = ServiceBuilder::new()
        .layer(map_request(drop_unusable_request_id))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_request(())
                .on_response(|response: &axum::http::Response<_>, latency: Duration, _span: &Span| {
                    tracing::debug!(status = response.status().as_u16(), ?latency, "answered");
                })
                .on_body_chunk(())
                .on_eos(())
                // Whatever fails says so where it does, with its cause.
                .on_failure(()),
        )
        .layer(CatchPanicLayer::custom(move |_panic: Box<dyn Any + Send>| {
            tracing::error!("a handler panicked");
            respond_to(Failure::Panicked)
        }))
        .layer(HandleErrorLayer::new(async move |_elapsed: BoxError| {
            tracing::warn!("a handler took too long");
            respond_to(Failure::TimedOut)
        }))
        // tower's, because the one of tower-http answers without a body.
        .layer(TimeoutLayer::new(response_timeout));
    routes.layer(layers)
}

fn span(request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str);
    let request_id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    tracing::info_span!("request", method = %request.method(), route, request_id)
}

async fn drop_unusable_request_id(mut request: Request) -> Request {
    let usable = |id: &HeaderValue| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte))
    };
    if request.headers().get(REQUEST_ID).is_some_and(|id| !usable(id)) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// Serves what `app` holds, for each request anew, until `stop` is canceled; above `max_connections`, new
/// ones are closed at once. Then requests that are being answered may finish for ten seconds, and no
/// connection is left when it returns. Handlers find the peer's address as [`ConnectInfo`].
pub async fn serve(
    listener: TcpListener,
    app: watch::Receiver<Router>,
    max_connections: usize,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    tracing::info!(address = %listener.local_addr()?, "serving HTTP");
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < max_connections => {
                    connections.spawn(connection(stream, peer, app.clone(), stop.clone()));
                }
                Ok((_, peer)) => tracing::warn!(%peer, "too many connections: closed one"),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }

    drop(listener);
    let ended = timeout(SHUTDOWN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = connections.len(), "cut off what did not finish in time");
        connections.shutdown().await;
    }
    Ok(())
}

/// HTTP/1.1 alone: every client and proxy speaks it, and it has no streams to reset.
async fn connection(stream: TcpStream, peer: SocketAddr, app: watch::Receiver<Router>, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "can't turn off Nagle's algorithm");
    }
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let app = app.borrow().clone();
        let response = TowerToHyperService::new(app).call(request);
        async move {
            let Ok(response) = response.await;
            // On an error, hyper closes the connection without a word.
            if response.extensions().get::<Unanswered>().is_some() {
                Err(io::Error::other("left unanswered on purpose"))
            } else {
                Ok(response)
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}
