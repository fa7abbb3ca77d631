//! How a node is reached: by HTTP, request by request; or by a websocket, which also tells when
//! there is a new block. What it tells is a reason to look and nothing else.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy::{
    network::Ethereum,
    providers::{Provider, RootProvider, WsConnect},
    pubsub::{ConnectionHandle, PubSubConnect},
    rpc::client::RpcClient,
    transports::{TransportErrorKind, TransportResult},
};
use stipend_core::host;
use tokio::{
    sync::{
        Notify,
        broadcast::error::RecvError::{Closed, Lagged},
    },
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::RpcError;

/// How long an answer may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without a new block a subscription may be dead: a chain with slower blocks
/// is polled, as it would be without.
const SUBSCRIPTION_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before subscribing again: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// The way to a node.
#[derive(Clone)]
pub(super) enum Link {
    Http(RootProvider<Ethereum>),
    Socket(Arc<Socket>),
}

/// A websocket: made when it is needed, and anew when it broke.
pub(super) struct Socket {
    url: Url,
    /// Held while connecting, so that there is one connection.
    connection: tokio::sync::Mutex<Option<RootProvider<Ethereum>>>,
    /// When the subscription last announced a block, or began.
    last_notified: Mutex<Option<Instant>>,
}

impl Link {
    pub(super) fn new(url: &Url) -> Result<Self, reqwest::Error> {
        if matches!(url.scheme(), "ws" | "wss") {
            let (connection, last_notified) = (tokio::sync::Mutex::default(), Mutex::default());
            return Ok(Self::Socket(Arc::new(Socket { url: url.clone(), connection, last_notified })));
        }
        let mut client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT);
        if url.host_str().is_some_and(host::is_loopback) {
            client = client.no_proxy();
        }
        let client = client.build()?;
        Ok(Self::Http(RootProvider::new(RpcClient::new_http_with_client(client, url.clone()))))
    }

    /// Asks something. A websocket that gives no answer is not used again.
    pub(super) async fn ask<T, F>(
        &self,
        method: &'static str,
        request: impl FnOnce(RootProvider<Ethereum>) -> F,
    ) -> Result<T, RpcError>
    where
        F: Future<Output = TransportResult<T>>,
    {
        let socket = match self {
            Self::Http(provider) => return request(provider.clone()).await.map_err(RpcError::of(method)),
            Self::Socket(socket) => socket,
        };
        let provider = socket.connected(method).await?;
        let answer = match timeout(REQUEST_TIMEOUT, request(provider.clone())).await {
            Ok(answer) => answer.map_err(RpcError::of(method)),
            Err(_) => Err(timed_out(method)),
        };
        if matches!(answer, Err(RpcError::NoAnswer { .. })) {
            socket.forget(&provider).await;
        }
        answer
    }

    /// Whether new blocks are announced.
    pub(super) fn is_subscribed(&self) -> bool {
        match self {
            Self::Http(_) => false,
            Self::Socket(socket) => {
                socket.last_notified().is_some_and(|last_notified| last_notified.elapsed() < SUBSCRIPTION_IDLE_TIMEOUT)
            }
        }
    }

    /// Notifies `new_heads` whenever the node announces a block, until `stop`. Over HTTP, never.
    pub(super) async fn listen(&self, new_heads: &Notify, stop: &CancellationToken) {
        let Self::Socket(socket) = self else { return };
        let mut wait = BACKOFF.0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                last_notified = socket.subscribe(new_heads) => if last_notified { wait = BACKOFF.0 },
            }
            // Polled as often as without, from now on.
            *socket.last_notified() = None;
            new_heads.notify_one();
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => wait = wait.saturating_mul(2).min(BACKOFF.1),
            }
        }
    }
}

impl Socket {
    async fn connected(&self, method: &'static str) -> Result<RootProvider<Ethereum>, RpcError> {
        let mut connection = self.connection.lock().await;
        if let Some(provider) = connection.as_ref() {
            return Ok(provider.clone());
        }
        let connect = RpcClient::connect_pubsub(Once(WsConnect::new(self.url.as_str())));
        let client = match timeout(REQUEST_TIMEOUT, connect).await {
            Ok(client) => client.map_err(RpcError::of(method))?,
            Err(_) => return Err(timed_out(method)),
        };
        let provider = RootProvider::new(client);
        *connection = Some(provider.clone());
        Ok(provider)
    }

    /// Drops this connection, if it is still the one in use.
    async fn forget(&self, broken: &RootProvider<Ethereum>) {
        let mut connection = self.connection.lock().await;
        if connection.as_ref().is_some_and(|current| std::ptr::eq(current.client(), broken.client())) {
            *connection = None;
        }
    }

    /// Subscribes, and notifies with every block until there is silence. Returns whether one was announced.
    async fn subscribe(&self, new_heads: &Notify) -> bool {
        let Ok(provider) = self.connected("eth_subscribe").await else { return false };
        let Ok(Ok(mut blocks)) = timeout(REQUEST_TIMEOUT, provider.subscribe_blocks()).await else {
            self.forget(&provider).await;
            return false;
        };
        *self.last_notified() = Some(Instant::now());
        // Earlier blocks are not announced.
        new_heads.notify_one();
        let mut last_notified = false;
        loop {
            match timeout(SUBSCRIPTION_IDLE_TIMEOUT, blocks.recv_any()).await {
                Ok(Ok(_) | Err(Lagged(_))) => {
                    last_notified = true;
                    *self.last_notified() = Some(Instant::now());
                    new_heads.notify_one();
                }
                Ok(Err(Closed)) => {
                    self.forget(&provider).await;
                    return last_notified;
                }
                // A quiet chain, or a dead connection: the next request over it will tell.
                Err(_) => return last_notified,
            }
        }
    }

    fn last_notified(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last_notified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn timed_out(method: &'static str) -> RpcError {
    RpcError::NoAnswer { method, reason: "it took too long".into() }
}

/// A connection that is not made again behind our back: the node on its other end could be another
/// one, on another chain.
#[derive(Clone, Debug)]
struct Once(WsConnect);

impl PubSubConnect for Once {
    fn is_local(&self) -> bool {
        self.0.is_local()
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        self.0.connect().await
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        // Anything else would be tried again for minutes, and callers wait for as long.
        Err(TransportErrorKind::non_retryable_str("the connection broke"))
    }
}
