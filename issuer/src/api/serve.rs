//! Connections, and how they end.

use std::{io, pin::pin, time::Duration};

use axum::Router;
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
use secrecy::SecretString;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::routes;
use crate::issuer::Issuer;

/// How long a client may take to send a head, and a kept connection may be idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
/// How many connections there are at once.
const CONNECTIONS: usize = 1_024;
/// How long requests may go on after the stop: longer than a real-time question.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept: out of file descriptors, most likely, and at once it would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Marks an answer that its caller never gets: the connection closes instead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost;

/// Serves until `stop` is cancelled; then what is being answered may finish.
pub(crate) async fn serve(
    listener: TcpListener,
    issuer: Issuer,
    api_key: SecretString,
    stop: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let app = routes(issuer, api_key);
    let mut connections = JoinSet::new();
    tracing::info!(%address, "serving the issuer");
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => _ = connections.spawn(connection(stream, app.clone(), stop.clone())),
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

async fn connection(stream: TcpStream, app: Router, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "can't turn off Nagle's algorithm");
    }
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = app.call(request);
        async move {
            let Ok(response) = answer.await;
            // hyper closes the connection without a word.
            if response.extensions().get::<Lost>().is_some() { Err(io::Error::other("lost")) } else { Ok(response) }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
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
        tracing::debug!(%error, "a connection ended early");
    }
}
