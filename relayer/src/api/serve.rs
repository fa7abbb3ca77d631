//! Connections: how many, how long one may take to say what it wants, and how they end.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::{
    Request,
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
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Api, ApiConfig, routes};
use crate::service::Service;

/// How long a client may take to send a head, and a kept connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest head that is read.
const HEAD_MAX: usize = 64 * 1024;

/// How long requests may go on after the stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often limits forget who has not called lately.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// After a failed accept: out of file descriptors, most likely, and at once it would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `stop` is cancelled. Then event streams end, requests that are being
/// answered may finish for ten seconds, and no connection is left when it returns.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    config: ApiConfig,
    stop: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let api = Api::new(service, &config, stop.clone());
    let app = routes(api.clone());
    let mut connections = JoinSet::new();
    let mut housekeeping = interval(HOUSEKEEPING);
    api.authenticator.second_after_start().await;
    tracing::info!(%address, "serving the API");

    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = housekeeping.tick() => api.limiters.forget_idle(),
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < config.limits.connections => {
                    connections.spawn(connection(stream, peer, app.clone(), stop.clone()));
                }
                Ok((_, peer)) => tracing::warn!(%peer, "too many connections: closed one"),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    sleep(ACCEPT_PAUSE).await;
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
async fn connection(stream: TcpStream, peer: SocketAddr, app: Router, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "can't turn off Nagle's algorithm");
    }
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_MAX)
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
