//! One request: signed, sent, and sent again while its outcome is unknown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::signers::{SignerSync, local::PrivateKeySigner};
use alloy_primitives::Address;
use backon::{ExponentialBuilder, Retryable};
use erc8128::{Erc8128Error, SignOptions};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap},
};
use serde::{Serialize, de::DeserializeOwned};
use stipend_core::{Code, api::Problem, host};
use url::Url;

use crate::{Accepted, Error};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take: more than the 25 s that the relayer waits at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);

/// Five more attempts within about three seconds, or as the relayer says.
fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(5)
        .with_jitter()
}

/// By how many seconds a relayer lets clocks differ.
const CLOCK_SKEW: i64 = 5;

/// The longest that the relayer's `retry_after` is followed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// The connection to a relayer.
#[derive(Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    pub(crate) base: Url,
}

/// A request that can be sent any number of times.
#[derive(Debug)]
pub(crate) struct ApiRequest {
    method: Method,
    url: Url,
    body: Option<Vec<u8>>,
    idempotency_key: Option<String>,
    any_status: bool,
}

impl ApiRequest {
    pub(crate) const fn new(method: Method, url: Url) -> Self {
        Self { method, url, body: None, idempotency_key: None, any_status: false }
    }

    pub(crate) fn body(mut self, body: &impl Serialize, idempotency_key: Option<String>) -> Result<Self, Error> {
        self.body = Some(serde_json::to_vec(body).map_err(|error| Error::Setup(error.to_string()))?);
        self.idempotency_key = idempotency_key;
        Ok(self)
    }

    /// Takes the body of any answer for what was asked for, whatever its status.
    pub(crate) const fn any_status(mut self) -> Self {
        self.any_status = true;
        self
    }
}

/// An answer to a request that creates.
#[derive(Debug)]
pub(crate) struct Sent<T> {
    pub(crate) accepted: Accepted<T>,
    /// Whether an earlier attempt of the same request may have taken effect.
    pub(crate) earlier_may_have: bool,
}

/// What the relayer answered.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    replayed: bool,
}

impl Http {
    pub(crate) fn new(mut base: Url) -> Result<Self, Error> {
        if !matches!(base.scheme(), "http" | "https") {
            return Err(Error::Setup(format!("{base} is not an http or https address")));
        }
        // A path is a prefix: without the slash, joining would replace its last part.
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A signature is for one authority and path: it is not carried elsewhere.
            .redirect(reqwest::redirect::Policy::none());
        if base.host_str().is_some_and(host::is_loopback) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| Error::Setup(error.to_string()))?;
        Ok(Self { client, base })
    }

    pub(crate) fn url(&self, path: &str, query: &impl Serialize) -> Result<Url, Error> {
        let setup = |error: &dyn std::fmt::Display| Error::Setup(error.to_string());
        let mut url = self.base.join(path).map_err(|error| setup(&error))?;
        let query = serde_json::to_value(query).map_err(|error| setup(&error))?;
        for (name, value) in query.as_object().into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            url.query_pairs_mut().append_pair(name, &text);
        }
        Ok(url)
    }

    /// Sends a request until it is answered, within bounds. What may have changed something, and is not
    /// known to have failed, fails as [`Error::Unknown`].
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        request: ApiRequest,
        identity: Option<Identity<'_>>,
    ) -> Result<Accepted<T>, Error> {
        Ok(self.send_counted(request, identity).await?.accepted)
    }

    /// Like [`send`](Self::send), and says whether it took more than one attempt.
    pub(crate) async fn send_counted<T: DeserializeOwned>(
        &self,
        request: ApiRequest,
        identity: Option<Identity<'_>>,
    ) -> Result<Sent<T>, Error> {
        let mut earlier_may_have = false;
        let answer = (|| self.attempt(&request, identity.as_ref()))
            .retry(backoff())
            .when(Error::is_transient)
            .notify(|error, _| earlier_may_have |= error.may_have_taken_effect())
            .adjust(|error, delay| {
                let asked = error.problem().and_then(|problem| problem.retry_after).map(Duration::from_secs);
                delay.map(|delay| delay.max(asked.unwrap_or_default()).min(MAX_RETRY_AFTER))
            })
            .await;
        let read = answer.and_then(|Answer { status, body, replayed }| match serde_json::from_slice(&body) {
            Ok(object) => Ok(Sent { accepted: Accepted { object, replayed }, earlier_may_have }),
            Err(error) => Err(Error::NotARelayer { url: request.url.clone(), status, reason: error.to_string() }),
        });
        match read {
            Err(error) if request.method != Method::GET => Err(error.for_mutation(request.url, earlier_may_have)),
            read => read,
        }
    }

    async fn attempt(&self, request: &ApiRequest, identity: Option<&Identity<'_>>) -> Result<Answer, Error> {
        let response = self.signed(request, identity).await?.timeout(REQUEST_TIMEOUT).send().await;
        let response = response.map_err(|source| sending(&request.url, source))?;
        let status = response.status();
        let replayed = response.headers().contains_key("idempotent-replayed");
        let difference = clock_difference(response.headers(), SystemTime::now());
        let body = response.bytes().await.map_err(|source| sending(&request.url, source))?;
        if status.is_success() || request.any_status {
            return Ok(Answer { status, body: body.into(), replayed });
        }
        Err(refusal(&request.url, status, &body, difference))
    }

    /// Opens a stream: the answer's head is read, its body is left to the caller.
    pub(crate) async fn open(
        &self,
        url: &Url,
        identity: &Identity<'_>,
        last_event_id: Option<u64>,
    ) -> Result<Response, Error> {
        let request = ApiRequest::new(Method::GET, url.clone());
        let mut request = self.signed(&request, Some(identity)).await?.header(ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = tokio::time::timeout(REQUEST_TIMEOUT, request.send()).await;
        let response = match response {
            Ok(response) => response.map_err(|source| sending(url, source))?,
            Err(_) => return Err(Error::Unknown { url: url.clone(), signed: None, source: None }),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let difference = clock_difference(response.headers(), SystemTime::now());
        let body = response.bytes().await.unwrap_or_default();
        Err(refusal(url, status, &body, difference))
    }

    /// The request of one attempt: the same content, a signature of its own.
    async fn signed(&self, request: &ApiRequest, identity: Option<&Identity<'_>>) -> Result<RequestBuilder, Error> {
        let mut builder = self.client.request(request.method.clone(), request.url.clone());
        if let Some(identity) = identity {
            let signed = erc8128::Request {
                method: request.method.as_str(),
                url: request.url.as_str(),
                headers: &[],
                body: request.body.as_deref(),
            };
            let signed = erc8128::sign_request(&signed, identity, &SignOptions::default()).await;
            let signed = signed.map_err(|error| Error::Signing(error.to_string()))?;
            builder = builder.header("signature-input", signed.signature_input).header("signature", signed.signature);
            if let Some(digest) = signed.content_digest {
                builder = builder.header("content-digest", digest);
            }
        }
        if let Some(key) = &request.idempotency_key {
            builder = builder.header("idempotency-key", key);
        }
        if let Some(body) = &request.body {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        Ok(builder)
    }
}

fn sending(url: &Url, source: reqwest::Error) -> Error {
    // The outer error shows the URL.
    let source = source.without_url();
    if source.is_connect() {
        Error::Unreachable { url: url.clone(), source }
    } else {
        Error::Unknown { url: url.clone(), signed: None, source: Some(Box::new(source)) }
    }
}

/// By how many seconds this machine's clock is ahead of the one that answers.
fn clock_difference(headers: &HeaderMap, now: SystemTime) -> i64 {
    let seconds =
        |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok());
    let theirs = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let difference = || seconds(now)?.checked_sub(seconds(theirs?)?);
    difference().unwrap_or_default()
}

fn refusal(url: &Url, status: StatusCode, body: &[u8], clock_difference: i64) -> Error {
    let error = match serde_json::from_slice::<Problem>(body) {
        Ok(mut problem) => {
            if problem.code == Code::Unauthenticated && clock_difference.abs() > CLOCK_SKEW {
                let (seconds, by) = (clock_difference.abs(), if clock_difference > 0 { "ahead of" } else { "behind" });
                problem.detail.push_str(&format!(
                    "; this machine's clock is {seconds} s {by} the relayer's: set it (NTP), then try again"
                ));
            }
            return Error::Problem(Box::new(problem));
        }
        Err(error) => Error::NotARelayer { url: url.clone(), status, reason: error.to_string() },
    };
    // A proxy between us lost the relayer: 502 and 504 (RFC 9110, 15.6), and what each has of its own.
    if status.is_server_error() {
        return Error::Unknown { url: url.clone(), signed: None, source: Some(Box::new(error)) };
    }
    error
}

/// Who signs requests (ERC-8128).
pub(crate) struct Identity<'a> {
    pub(crate) signer: &'a PrivateKeySigner,
    pub(crate) chain_id: u64,
}

impl erc8128::Signer for Identity<'_> {
    fn address(&self) -> Address {
        self.signer.address()
    }

    fn chain_id(&self) -> u64 {
        self.chain_id
    }

    async fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, Erc8128Error> {
        let signature = self.signer.sign_message_sync(message);
        let signature = signature.map_err(|error| Erc8128Error::SigningFailed(error.to_string()))?;
        Ok(signature.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PageQuery;

    fn http(base: &str) -> Http {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Http::new(base.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_path_in_the_base_is_a_prefix() {
        let page = PageQuery { cursor: Some("a b&c".into()), limit: Some(5) };
        let url = http("https://host.example/stipend").url("v1/mandates", &page).unwrap();
        assert_eq!(url.as_str(), "https://host.example/stipend/v1/mandates?cursor=a+b%26c&limit=5");
        assert_eq!(
            http("http://127.0.0.1:8420").url("v1/info", &()).unwrap().as_str(),
            "http://127.0.0.1:8420/v1/info"
        );
    }

    #[test]
    fn other_schemes_are_refused() {
        assert!(matches!(Http::new("ftp://host.example".parse().unwrap()), Err(Error::Setup(_))));
    }

    #[test]
    fn a_clock_that_is_off_is_said_where_a_signature_is_refused() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut headers = HeaderMap::new();
        assert_eq!(clock_difference(&headers, now), 0);
        headers.insert(DATE, "not a date".parse().unwrap());
        assert_eq!(clock_difference(&headers, now), 0);
        let theirs = httpdate::fmt_http_date(now + Duration::from_secs(120));
        headers.insert(DATE, theirs.parse().unwrap());
        assert_eq!(clock_difference(&headers, now), -120);

        let url = Url::parse("http://127.0.0.1:8420/v1/mandates").unwrap();
        let said = |code, difference| {
            let body = serde_json::to_vec(&Problem::new(code, "the signature has expired")).unwrap();
            refusal(&url, StatusCode::UNAUTHORIZED, &body, difference).to_string()
        };
        assert!(said(Code::Unauthenticated, -120).contains("120 s behind the relayer's"));
        assert!(said(Code::Unauthenticated, 6).contains("6 s ahead of the relayer's"));
        assert!(!said(Code::Unauthenticated, 5).contains("clock"));
        assert!(!said(Code::NotFound, 120).contains("clock"));
    }

    #[test]
    fn a_foreign_answer_differs_from_a_lost_one() {
        let url = Url::parse("http://127.0.0.1:8420/v1/info").unwrap();
        for lost in [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::from_u16(524).unwrap()] {
            assert!(matches!(refusal(&url, lost, b"<html>", 0), Error::Unknown { .. }), "{lost}");
        }
        assert!(matches!(refusal(&url, StatusCode::NOT_FOUND, b"<html>", 0), Error::NotARelayer { .. }));
    }
}
