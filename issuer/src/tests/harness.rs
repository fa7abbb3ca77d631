//! An issuer that runs, and somebody who is told and asked.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{CardNumber, Config, IssuerError};

pub(super) const KEY: &str = "key-of-the-test";
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// An issuer on a database of its own, with a receiver that has not subscribed to anything yet.
pub(super) struct TestIssuer {
    pub(super) http: Client,
    pub(super) receiver: Receiver,
    directory: TempDir,
    asa_limit: Duration,
    base: String,
    stop: CancellationToken,
    running: JoinHandle<Result<(), IssuerError>>,
    receiving: JoinHandle<()>,
}

impl TestIssuer {
    pub(super) async fn start() -> Self {
        Self::with_limit(Duration::from_secs(6)).await
    }

    /// With so much time for the real-time question.
    pub(super) async fn with_limit(asa_limit: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let (receiver, receiving) = Receiver::start().await;
        let (base, stop, running) = run(&directory, asa_limit).await;
        let http = Client::builder().no_proxy().build().unwrap();
        Self { http, receiver, directory, asa_limit, base, stop, running, receiving }
    }

    pub(super) async fn restart(&mut self) {
        self.end().await;
        (self.base, self.stop, self.running) = run(&self.directory, self.asa_limit).await;
    }

    /// Stops it, and returns what can be read of its file as text.
    pub(super) async fn stop(mut self) -> String {
        self.end().await;
        self.receiving.abort();
        // A delivery that was cut off may still be writing; whoever closes the file last takes its log away.
        let database = self.directory.path().join("issuer.db");
        eventually(async || !database.with_extension("db-wal").exists()).await;
        let text = String::from_utf8_lossy(&std::fs::read(database).unwrap()).into_owned();
        assert!(text.contains("SQLite format 3"));
        text
    }

    async fn end(&mut self) {
        self.stop.cancel();
        let ended = timeout(Duration::from_secs(5), &mut self.running).await;
        ended.expect("it stops in time").unwrap().unwrap();
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: RequestBuilder) -> (u16, Value) {
        let answer = request.header("authorization", KEY).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.http.get(self.url(path))).await
    }

    pub(super) async fn delete(&self, path: &str) -> u16 {
        self.send(self.http.delete(self.url(path))).await.0
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(self.http.post(self.url(path)).json(&body)).await
    }

    pub(super) async fn post_empty(&self, path: &str) -> u16 {
        self.send(self.http.post(self.url(path))).await.0
    }

    pub(super) async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(self.http.patch(self.url(path)).json(&body)).await
    }

    pub(super) async fn mock(&self, switches: Value) -> u16 {
        self.patch("/_mock", switches).await.0
    }

    pub(super) async fn until_switched(&self, reached: impl Fn(&Value) -> bool) {
        eventually(async || reached(&self.get("/_mock").await.1)).await;
    }

    pub(super) async fn create(&self, body: Value) -> Value {
        let (status, card) = self.post("/v1/cards", body).await;
        assert_eq!(status, 200, "{card}");
        card
    }

    pub(super) fn create_request(&self, key: &str, body: &Value) -> RequestBuilder {
        let request = self.http.post(self.url("/v1/cards")).header("authorization", KEY);
        request.header("idempotency-key", key).json(body)
    }

    pub(super) async fn create_with_key(&self, key: &str, body: Value) -> reqwest::Response {
        self.create_request(key, &body).send().await.unwrap()
    }

    /// Has the receiver asked, with signatures.
    pub(super) async fn register(&self) {
        self.asa_secret().await;
        self.enrol_unsigned().await;
    }

    pub(super) async fn enrol_unsigned(&self) {
        let url = format!("{}/asa", self.receiver.base);
        let (status, _) =
            self.post("/v1/responder_endpoints", json!({ "type": "AUTH_STREAM_ACCESS", "url": url })).await;
        assert_eq!(status, 200);
    }

    pub(super) async fn asa_secret(&self) -> String {
        self.get("/v1/auth_stream/secret").await.1["secret"].as_str().unwrap().to_owned()
    }

    /// Has the receiver told of events of these types, and returns the secret.
    pub(super) async fn subscribe(&self, event_types: Value) -> String {
        let url = format!("{}/events", self.receiver.base);
        let body = json!({ "url": url, "event_types": event_types });
        let (status, subscription) = self.post("/v1/event_subscriptions", body).await;
        assert_eq!(status, 201);
        let path = format!("/v1/event_subscriptions/{}/secret", subscription["token"].as_str().unwrap());
        self.get(&path).await.1["secret"].as_str().unwrap().to_owned()
    }
}

async fn run(
    directory: &TempDir,
    asa_limit: Duration,
) -> (String, CancellationToken, JoinHandle<Result<(), IssuerError>>) {
    let mut config = Config::new(KEY.into(), directory.path().join("issuer.db"));
    config.asa_limit = asa_limit;
    config.retry_schedule = [0, 20, 20].into_iter().map(Duration::from_millis).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    (base, stop.clone(), tokio::spawn(crate::run(config, listener, stop)))
}

/// What came in.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
    raw: Bytes,
}

/// What the receiver says to a question.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Value,
    after: Duration,
}

impl Answer {
    pub(super) const fn json(body: Value) -> Self {
        Self { status: StatusCode::OK, body, after: Duration::ZERO }
    }

    pub(super) fn with(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }
}

/// Who is told and asked.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    base: String,
    exchanges: Arc<Mutex<Exchanges>>,
}

#[derive(Debug)]
struct Exchanges {
    events: Vec<Received>,
    questions: Vec<Received>,
    answer: Answer,
    once: Option<Answer>,
    accepts: bool,
}

impl Receiver {
    async fn start() -> (Self, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let answer = Answer::json(json!({ "result": "APPROVED" }));
        let exchanges = Exchanges { events: Vec::new(), questions: Vec::new(), answer, once: None, accepts: true };
        let receiver = Self { base, exchanges: Arc::new(Mutex::new(exchanges)) };
        let app = Router::new().route("/events", post(told)).route("/asa", post(asked)).with_state(receiver.clone());
        (receiver, tokio::spawn(async { axum::serve(listener, app).await.unwrap() }))
    }

    fn exchanges(&self) -> MutexGuard<'_, Exchanges> {
        self.exchanges.lock().unwrap()
    }

    pub(super) fn events(&self) -> Vec<Received> {
        self.exchanges().events.clone()
    }

    pub(super) fn questions(&self) -> Vec<Received> {
        self.exchanges().questions.clone()
    }

    pub(super) fn answer(&self, answer: Answer) {
        self.exchanges().answer = answer;
    }

    pub(super) fn answer_once(&self, answer: Answer) {
        self.exchanges().once = Some(answer);
    }

    pub(super) fn accept_events(&self, accepts: bool) {
        self.exchanges().accepts = accepts;
    }

    pub(super) async fn wait_for_events(&self, count: usize) -> Vec<Received> {
        eventually(async || self.events().len() >= count).await;
        let events = self.events();
        assert_eq!(events.len(), count);
        events
    }

    pub(super) fn verify(&self, received: &Received, secret: &str) -> bool {
        Webhook::new(secret).unwrap().verify(&received.raw, &received.headers).is_ok()
    }
}

async fn told(State(receiver): State<Receiver>, headers: HeaderMap, raw: Bytes) -> StatusCode {
    let mut exchanges = receiver.exchanges();
    exchanges.events.push(Received { headers, body: serde_json::from_slice(&raw).unwrap(), raw });
    if exchanges.accepts { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
}

async fn asked(State(receiver): State<Receiver>, headers: HeaderMap, raw: Bytes) -> Response {
    let answer = {
        let mut exchanges = receiver.exchanges();
        exchanges.questions.push(Received { headers, body: serde_json::from_slice(&raw).unwrap(), raw });
        exchanges.once.take().unwrap_or_else(|| exchanges.answer.clone())
    };
    sleep(answer.after).await;
    (answer.status, Json(answer.body)).into_response()
}

pub(super) async fn eventually(reached: impl AsyncFn() -> bool) {
    let waiting = async {
        while !reached().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT_TIMEOUT, waiting).await.expect("what was waited for happens");
}

/// Everything that this process logs, at every level.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn log() -> Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    let start = || {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    };
    LOG.get_or_init(start).clone()
}

/// Words that are a valid card number.
pub(super) fn numbers_in(text: &str) -> Vec<String> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric());
    words.filter(|word| word.parse::<CardNumber>().is_ok()).map(str::to_owned).collect()
}
