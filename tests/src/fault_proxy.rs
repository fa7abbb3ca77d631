//! A node that is in trouble: a JSON-RPC proxy between the relayer and anvil that does to each call
//! what a test tells it to.
//!
//! Rules are asked in the order in which they were set; the first one for the call's method decides,
//! and a call without one is passed on. The test's own calls go to anvil directly.

mod error_messages;
mod upstream;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::{Body, to_bytes};
use eyre::{Result, eyre};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::sleep,
};
use url::Url;

pub use error_messages::{Client as NodeClient, ErrorMessage};
pub use upstream::Lag;

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The node gets it, and its answer is lost: the connection breaks.
    DropAnswer,
    /// It never reaches the node: the connection breaks.
    DropRequest,
    /// It reaches the node so much later, even if the caller has given up by then.
    Late(Duration),
    /// The node answers at once, and its answer takes so much longer.
    SlowAnswer(Duration),
    /// It reaches the node twice; the second answer counts.
    Twice,
    /// HTTP 429, with this many seconds in `Retry-After`.
    TooMany(u64),
    /// An error in a node's words; the node gets nothing.
    ErrorMessage(ErrorMessage),
    /// The node gets it, and an error in its words is the answer all the same.
    TakesAndSays(ErrorMessage),
    /// A JSON-RPC error with this code and message.
    Error(i64, &'static str),
    /// A call that reverts without a word.
    Reverts,
    /// This result, whatever was asked; null for a receipt that never comes.
    Answer(Value),
    /// The node's result, altered.
    Alters(fn(&mut Value)),
    /// The node gets these parameters instead.
    Rewrites(fn(&mut Value)),
    /// A JSON-RPC error with this code and message where the parameters are like this.
    Refuses(fn(&Value) -> bool, i64, &'static str),
    /// Nothing: the call is passed on.
    Nothing,
}

/// What happened to the calls of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many came.
    pub asked: u64,
    /// How often the node was asked on their account.
    pub forwarded: u64,
    /// How many met a fault.
    pub faulted: u64,
}

/// For every method.
pub const ANY: &str = "*";

#[derive(Debug)]
struct Rule {
    method: &'static str,
    fault: Fault,
    /// For this many requests; `None`: until it is cleared.
    left: Option<u32>,
}

/// The proxy. Its address stays the same; it ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    url: Url,
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
struct Shared {
    node: Url,
    http: reqwest::Client,
    rules: Mutex<VecDeque<Rule>>,
    behind: Mutex<Option<Lag>>,
    latency: Mutex<Duration>,
    counts: Mutex<BTreeMap<String, Count>>,
}

/// Whether connections are taken; told once it is so.
#[derive(Debug)]
enum Order {
    Refuse(oneshot::Sender<()>),
    Take(oneshot::Sender<()>),
}

impl FaultProxy {
    /// Starts one before a node, well to begin with.
    pub async fn start(node: &Url) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            node: node.clone(),
            http: reqwest::Client::new(),
            rules: Mutex::default(),
            behind: Mutex::default(),
            latency: Mutex::default(),
            counts: Mutex::default(),
        });
        let (orders, taken) = mpsc::channel(1);
        tokio::spawn(serve(listener, address, Arc::clone(&shared), taken));
        Ok(Self { url: format!("http://{address}").parse()?, shared, orders })
    }

    /// Where it listens.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// What calls of a method meet from now on. What was said about it before holds first.
    pub fn fault(&self, method: &'static str, fault: Fault) {
        lock(&self.shared.rules).push_back(Rule { method, fault, left: None });
    }

    /// Injects a fault into the next requests of a method.
    pub fn fault_next(&self, calls: u32, method: &'static str, fault: Fault) {
        lock(&self.shared.rules).push_back(Rule { method, fault, left: Some(calls) });
    }

    /// Every call takes this much longer, whatever else it meets.
    pub fn delay_all(&self, latency: Duration) {
        *lock(&self.shared.latency) = latency;
    }

    /// The node falls behind, and answers as if it were so, consistently.
    pub fn fall_behind(&self, behind: Lag) {
        *lock(&self.shared.behind) = Some(behind);
    }

    /// All is well again.
    pub async fn well(&self) -> Result<()> {
        lock(&self.shared.rules).clear();
        *lock(&self.shared.behind) = None;
        self.take_connections().await
    }

    /// Somebody listens again; what was said about calls still holds.
    pub async fn take_connections(&self) -> Result<()> {
        self.order(Order::Take).await
    }

    /// Stops listening: connections are refused, and open ones break.
    pub async fn refuse_connections(&self) -> Result<()> {
        self.order(Order::Refuse).await
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) -> Result<()> {
        let (done, told) = oneshot::channel();
        self.orders.send(order(done)).await.map_err(|_| eyre!("the proxy has ended"))?;
        told.await.map_err(|_| eyre!("the proxy can't listen on {} again", self.url))
    }

    /// What happened to the calls of a method so far; [`ANY`]: to all.
    pub fn count(&self, method: &str) -> Count {
        let counts = lock(&self.shared.counts);
        let counts = counts.iter().filter(|(name, _)| method == ANY || *name == method);
        counts.fold(Count::default(), |sum, (_, count)| Count {
            asked: sum.asked + count.asked,
            forwarded: sum.forwarded + count.forwarded,
            faulted: sum.faulted + count.faulted,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes connections, or refuses them, until the proxy is dropped.
async fn serve(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>, mut orders: mpsc::Receiver<Order>) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => {
                let done = match order {
                    None => return,
                    Some(Order::Refuse(done)) => {
                        listener = None;
                        connections.shutdown().await;
                        done
                    }
                    Some(Order::Take(done)) if listener.is_some() => done,
                    Some(Order::Take(done)) => match TcpListener::bind(address).await {
                        Ok(bound) => {
                            listener = Some(bound);
                            done
                        }
                        // Whoever asked learns it from the channel that ends.
                        Err(_) => continue,
                    },
                };
                let _ = done.send(());
            }
            Some(_ended) = connections.join_next() => {}
            Ok((stream, _)) = accepted => {
                connections.spawn(connection(stream, Arc::clone(&shared)));
            }
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let body = to_bytes(Body::new(request.into_body()), usize::MAX).await.map_err(|_| Broken)?;
            // On its own, so that the node gets what it is to get even if the caller has given up.
            tokio::spawn(async move { shared.answer(&body).await }).await.map_err(|_| Broken)?
        }
    });
    // A connection that breaks is what some tests want.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// No answer: the connection breaks.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is to break")
    }
}

impl std::error::Error for Broken {}

impl Shared {
    async fn answer(&self, body: &[u8]) -> Result<Response<Body>, Broken> {
        let call: Value = serde_json::from_slice(body).map_err(|_| Broken)?;
        let latency = *lock(&self.latency);
        sleep(latency).await;
        let method = call.get("method").and_then(Value::as_str).unwrap_or("a batch").to_owned();
        let fault = self.next_fault(&method);
        self.note(&method, |count| {
            count.asked += 1;
            count.faulted += u64::from(!matches!(fault, Fault::Nothing));
        });
        let error = |code: i64, message: &str| answered(&call, "error", json!({ "code": code, "message": message }));
        match fault {
            Fault::Nothing => self.pass_on(&method, &call).await.map(json_answer),
            Fault::DropRequest => Err(Broken),
            Fault::DropAnswer => {
                self.pass_on(&method, &call).await?;
                Err(Broken)
            }
            Fault::Late(delay) => {
                sleep(delay).await;
                self.pass_on(&method, &call).await.map(json_answer)
            }
            Fault::SlowAnswer(delay) => {
                let answer = self.pass_on(&method, &call).await?;
                sleep(delay).await;
                Ok(json_answer(answer))
            }
            Fault::Twice => {
                self.pass_on(&method, &call).await?;
                self.pass_on(&method, &call).await.map(json_answer)
            }
            Fault::TooMany(seconds) => {
                let response = Response::builder().status(StatusCode::TOO_MANY_REQUESTS);
                let response = response.header(header::RETRY_AFTER, seconds);
                response.body(Body::from("slow down")).map_err(|_| Broken)
            }
            Fault::ErrorMessage(says) => Ok(error(-32_000, says.text())),
            Fault::TakesAndSays(says) => {
                self.pass_on(&method, &call).await?;
                Ok(error(-32_000, says.text()))
            }
            Fault::Error(code, message) => Ok(error(code, message)),
            Fault::Reverts => {
                let error = json!({ "code": 3, "message": "execution reverted", "data": "0x" });
                Ok(answered(&call, "error", error))
            }
            Fault::Answer(result) => Ok(answered(&call, "result", result)),
            Fault::Rewrites(rewrite) => {
                let mut call = call;
                if let Some(params) = call.get_mut("params") {
                    rewrite(params);
                }
                self.pass_on(&method, &call).await.map(json_answer)
            }
            Fault::Refuses(is_refused, code, message) => {
                if call.get("params").is_some_and(is_refused) {
                    return Ok(error(code, message));
                }
                self.pass_on(&method, &call).await.map(json_answer)
            }
            Fault::Alters(alter) => {
                let mut answer = self.pass_on(&method, &call).await?;
                if let Some(result) = answer.get_mut("result") {
                    alter(result);
                }
                Ok(json_answer(answer))
            }
        }
    }

    fn next_fault(&self, method: &str) -> Fault {
        let mut rules = lock(&self.rules);
        let matching = |rule: &Rule| (rule.method == ANY || rule.method == method) && rule.left != Some(0);
        let Some(rule) = rules.iter_mut().find(|rule| matching(rule)) else { return Fault::Nothing };
        rule.left = rule.left.map(|left| left - 1);
        rule.fault.clone()
    }

    fn note(&self, method: &str, note: impl FnOnce(&mut Count)) {
        note(lock(&self.counts).entry(method.to_owned()).or_default());
    }

    /// Asks the node, as it is or as it was.
    async fn pass_on(&self, method: &str, call: &Value) -> Result<Value, Broken> {
        self.note(method, |count| count.forwarded += 1);
        let behind = *lock(&self.behind);
        match behind {
            None => self.ask(call).await,
            Some(behind) => upstream::answer(self, behind, method, call).await,
        }
    }

    async fn ask(&self, call: &Value) -> Result<Value, Broken> {
        let answer = self.http.post(self.node.clone()).json(call).send().await.map_err(|_| Broken)?;
        answer.json().await.map_err(|_| Broken)
    }
}

/// An answer to a call of the proxy's own.
fn answered(call: &Value, member: &str, value: Value) -> Response<Body> {
    json_answer(json!({ "jsonrpc": "2.0", "id": call.get("id"), member: value }))
}

fn json_answer(answer: Value) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
