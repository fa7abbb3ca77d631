//! Requests made by hand, so that they can be made wrong.

use std::sync::LazyLock;

use alloy::signers::local::PrivateKeySigner;
use erc8128::{SignOptions, eoa::EoaSigner, sign_request};
use eyre::{Result, WrapErr, ensure, eyre};
use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;
use stipend_core::api::Problem;
use url::Url;

/// A key that signs requests for a chain.
#[derive(Clone, Debug)]
pub struct HttpSigner(EoaSigner);

impl HttpSigner {
    /// This key, for this chain.
    ///
    /// # Errors
    /// None for a key that is one.
    pub fn new(key: &PrivateKeySigner, chain_id: u64) -> Result<Self> {
        Ok(Self(EoaSigner::from_slice(key.to_bytes().as_slice(), chain_id)?))
    }
}

/// A request, whose parts can be changed until it is sent, and after.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub method: Method,
    /// Where it goes.
    pub url: Url,
    /// What it carries besides what HTTP needs.
    pub headers: HeaderMap,
    /// Its body; empty: none.
    pub body: Vec<u8>,
}

impl ApiRequest {
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Vec::new() }
    }

    /// A POST of JSON.
    pub fn post(url: Url, body: impl Into<Vec<u8>>) -> Self {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(reqwest::header::CONTENT_TYPE, json)]);
        Self { method: Method::POST, url, headers, body: body.into() }
    }

    /// With a header more, or another value of it.
    ///
    /// # Errors
    /// If it is no header.
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self> {
        self.headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_bytes(value.as_ref())?);
        Ok(self)
    }

    pub async fn signed(self, signer: &HttpSigner) -> Result<Self> {
        self.signed_with(signer, &SignOptions::default()).await
    }

    /// Signed as it is now, in another way than usual.
    pub async fn signed_with(self, signer: &HttpSigner, options: &SignOptions) -> Result<Self> {
        let request = erc8128::Request {
            method: self.method.as_str(),
            url: self.url.as_str(),
            headers: &[],
            body: (!self.body.is_empty()).then_some(self.body.as_slice()),
        };
        let signed = sign_request(&request, &signer.0, options).await?;
        let call = self.with("signature-input", signed.signature_input)?.with("signature", signed.signature)?;
        match signed.content_digest {
            Some(digest) => call.with("content-digest", digest),
            None => Ok(call),
        }
    }

    /// Sends it, on a connection of its own.
    pub async fn send(&self) -> Result<Answer> {
        self.send_by(&reqwest::Client::builder().pool_max_idle_per_host(0).build()?).await
    }

    /// Sends it by a client that there is already, which is quicker.
    pub async fn send_by(&self, client: &reqwest::Client) -> Result<Answer> {
        let request = client.request(self.method.clone(), self.url.clone()).headers(self.headers.clone());
        let request = if self.body.is_empty() { request } else { request.body(self.body.clone()) };
        let response = request.send().await.wrap_err_with(|| format!("{} {}", self.method, self.url))?;
        let answer = Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await?.to_vec(),
        };
        self.check_documented(&answer)?;
        Ok(answer)
    }

    /// That the API's document knows this answer to this call: its status, and the code of its problem.
    fn check_documented(&self, answer: &Answer) -> Result<()> {
        static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
            serde_json::from_str(include_str!("../../docs/reference/openapi.json")).unwrap_or_default()
        });
        let matches = |template: &str| {
            let (mut wanted, mut given) = (template.split('/'), self.url.path().split('/'));
            let all = wanted.by_ref().zip(given.by_ref()).all(|(wanted, given)| wanted == given || wanted == "{id}");
            all && template.matches('/').count() == self.url.path().matches('/').count()
        };
        let paths = DOCUMENT.get("paths").and_then(Value::as_object).ok_or_else(|| eyre!("no document"))?;
        let Some((path, item)) = paths.iter().find(|(template, _)| matches(template)) else { return Ok(()) };
        // The server's own: a head that is too large, a method that the path does not take.
        let (Some(operation), false) = (item.get(self.method.as_str().to_lowercase()), answer.status == 431) else {
            return Ok(());
        };
        let response = operation.pointer(&format!("/responses/{}", answer.status));
        let response =
            response.ok_or_else(|| eyre!("{} {path} answers {} undocumented", self.method, answer.status))?;
        let codes = response.pointer("/content/application~1problem+json/schema/allOf/1/properties/code/enum");
        if let (Some(codes), Ok(problem)) = (codes.and_then(Value::as_array), answer.json()) {
            let code = problem.get("code").ok_or_else(|| eyre!("a problem without a code"))?;
            ensure!(codes.contains(code), "{} {path} answers {code} undocumented", self.method);
        }
        Ok(())
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// If it is not.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .wrap_err_with(|| format!("{} with {:?}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The problem that every failure must be, in every detail that RFC 9457 and we promise.
    pub fn problem(&self) -> Result<Problem> {
        let problem: Problem = serde_json::from_value(self.json()?)?;
        ensure!(self.header("content-type") == Some("application/problem+json"), "{:?}", self.headers);
        ensure!(self.header("x-request-id").is_some(), "no request id: {:?}", self.headers);
        ensure!(problem.status == self.status && problem.code.status() == self.status, "{} {problem:?}", self.status);
        let retry_after = problem.retry_after.map(|seconds| seconds.to_string());
        ensure!(self.header("retry-after") == retry_after.as_deref(), "{:?} {problem:?}", self.headers);
        ensure!(!problem.hint.is_empty() && !problem.title.is_empty(), "{problem:?}");
        Ok(problem)
    }
}
