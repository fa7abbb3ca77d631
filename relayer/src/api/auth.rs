//! Who calls: ERC-8128 signatures over requests (a profile of RFC 9421), by the very keys that
//! mandates name.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, U256, eip191_hash_message, keccak256};
use axum::{
    body::Body,
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, Method, Uri, header, request::Parts, uri::Authority},
    middleware::Next,
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use erc8128::{Erc8128Error, NonceStore, RejectReplayable, Verifier, VerifyPolicy, verify_request};
use sha2::{Digest, Sha256, Sha512};
use stipend_core::{Code, Seconds};
use url::Url;

use super::{Api, extract, problem::Refusal};

/// The longest that a signature may be valid.
const VALIDITY_MAX: Seconds = 300;

/// How far a caller's clock may be off.
const CLOCK_SKEW: Seconds = 5;

/// How many nonces are remembered. Each lives for some minutes; a key can use a hundred a second.
const NONCES_MAX: usize = 500_000;

/// How the key ids of ERC-8128 begin.
const KEY_ID: &str = "erc8128:";

const CONTENT_DIGEST: &str = "content-digest";

const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");

/// The key that signed the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub(super) Address);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        // Only a route that is not behind `authenticate` would have none.
        parts.extensions.get().copied().ok_or_else(|| unauthenticated("the request is not signed"))
    }
}

/// Lets a request through if it is signed, and says by whom.
pub(super) async fn authenticate(State(api): State<Api>, request: Request, next: Next) -> Result<Response, Refusal> {
    if !is_signed(&request) {
        return Err(unauthenticated("the request is not signed: there is no signature-input header"));
    }
    Ok(next.run(identified(&api, request).await?).await)
}

/// Lets a request through, and says by whom it is signed, if it is.
pub(super) async fn identify(State(api): State<Api>, request: Request, next: Next) -> Result<Response, Refusal> {
    let request = if is_signed(&request) { identified(&api, request).await? } else { request };
    Ok(next.run(request).await)
}

fn is_signed(request: &Request) -> bool {
    request.headers().contains_key(SIGNATURE_INPUT)
}

async fn identified(api: &Api, request: Request) -> Result<Request, Refusal> {
    let (parts, body) = request.into_parts();
    // The body's limit is in the extensions.
    let mut to_read = Request::new(body);
    *to_read.extensions_mut() = parts.extensions.clone();
    let body = extract::read(to_read).await?;

    let caller = api.authenticator.verify(&parts.method, &parts.uri, &parts.headers, &body).await?;
    api.limiters.agent(caller)?;
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(Caller(caller));
    Ok(request)
}

/// Checks signatures, each good for one request.
pub(super) struct Authenticator {
    chain_id: u64,
    public_url: Option<Url>,
    nonces: Nonces,
    /// The second in which this process started, knowing no nonce that was used before.
    started: Seconds,
}

impl Authenticator {
    pub(super) fn new(chain_id: u64, public_url: Option<&Url>) -> Self {
        Self { chain_id, public_url: public_url.cloned(), nonces: Nonces::new(NONCES_MAX), started: now() }
    }

    /// Waits for the first second whose signatures are taken.
    pub(super) async fn second_after_start(&self) {
        sleep_until(self.started.saturating_add(1)).await;
    }

    /// Who signed this request, if it is signed as it must be and was not seen before.
    ///
    /// Signatures made up to the second in which this process started are refused: it can't know
    /// whether it took them in an earlier life. For the same reason a request is held back until
    /// the second in which its signature was made has come, where the caller's clock is ahead.
    pub(super) async fn verify(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Address, Refusal> {
        let url = self.url(uri, headers)?;
        let mut headers = combined(headers);
        // The library takes one digest; a header may have several (RFC 9530), all of them right.
        let mut signed_digest = None;
        if let Some((_, digest)) = headers.iter_mut().find(|(name, _)| *name == CONTENT_DIGEST) {
            let checked =
                one_digest(digest, body).ok_or_else(|| unauthenticated(reason(&Erc8128Error::DigestMismatch)))?;
            signed_digest = Some((checked.clone(), std::mem::replace(digest, checked)));
        }
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = erc8128::Request {
            method: method.as_str(),
            url: &url,
            headers: &headers,
            body: (!body.is_empty()).then_some(body),
        };
        let now = now();
        let policy = VerifyPolicy {
            max_validity_sec: VALIDITY_MAX,
            clock_skew_sec: CLOCK_SKEW,
            now: Some(now),
            ..VerifyPolicy::default()
        };
        let nonces = NoncesAt { nonces: &self.nonces, now, full: AtomicBool::new(false) };
        let signed = verify_request(&request, &ByKey { signed_digest }, &nonces, &RejectReplayable, &policy)
            .await
            .map_err(|error| {
                if nonces.full.load(Ordering::Relaxed) {
                    Refusal::new(Code::Overloaded, "more signed requests than can be remembered").after(VALIDITY_MAX)
                } else {
                    unauthenticated(self.reason(&error, now))
                }
            })?;
        if signed.chain_id != self.chain_id {
            return Err(unauthenticated(format!(
                "the key id names chain {}, this relayer serves chain {}",
                signed.chain_id, self.chain_id
            )));
        }
        let mut covered: Vec<_> = signed.components.iter().collect();
        covered.sort_unstable();
        if covered.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            return Err(unauthenticated("the signature covers a component twice"));
        }
        // One key has one name: a chain id with leading zeros would be another.
        if !signed.params.keyid.starts_with(&format!("{KEY_ID}{}:", self.chain_id)) {
            return Err(unauthenticated(reason(&Erc8128Error::BadKeyId)));
        }
        if signed.params.created <= self.started {
            return Err(unauthenticated("the signature was made before this relayer started"));
        }
        if signed.params.created > now {
            sleep_until(signed.params.created).await;
        }
        Ok(signed.address)
    }

    /// Why a signature is not taken, with what a caller can't see from outside.
    fn reason(&self, error: &Erc8128Error, now: Seconds) -> String {
        let reason = reason(error);
        match (error, &self.public_url) {
            (Erc8128Error::Expired | Erc8128Error::NotYetValid, _) => {
                format!("{reason}: this relayer's clock says {now}")
            }
            (Erc8128Error::BadSignature, Some(public)) => format!("{reason}; sign it for {public}"),
            _ => reason,
        }
    }

    /// The URL as the caller sees it: what the signature's `@authority` and `@path` are taken from.
    fn url(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, Refusal> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        if let Some(public) = &self.public_url {
            return Ok(format!("{}{path}", public.as_str().trim_end_matches('/')));
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let authority = match (hosts.next(), hosts.next()) {
            // A target with an authority of its own, which comes before Host (RFC 9112, 3.2.2).
            (Some(_), None) if uri.authority().is_some() => uri.authority().cloned(),
            // By its parser: a Host of "a/b?" would move the path into the authority's place.
            (Some(host), None) => Authority::try_from(host.as_bytes()).ok(),
            _ => None,
        };
        let authority = authority
            .filter(|authority| !authority.as_str().contains('@'))
            .ok_or_else(|| extract::invalid("the request has no usable host header"))?;
        Ok(format!("http://{authority}{path}"))
    }
}

/// The headers as RFC 9421 sees them: those of one name in one line, and of the signatures only ours.
/// Proxies and frameworks add theirs beside it, which need not be made as ours are.
fn combined(headers: &HeaderMap) -> Vec<(&str, String)> {
    headers
        .keys()
        .filter_map(|name| {
            let lines: Option<Vec<_>> =
                headers.get_all(name).iter().map(|line| line.to_str().ok().map(str::trim)).collect();
            let value = lines?.join(", ");
            let ours = |member: &&str| member.contains(&format!("keyid=\"{KEY_ID}"));
            let value = match *name == SIGNATURE_INPUT {
                true => members(&value).into_iter().filter(ours).collect::<Vec<_>>().join(", "),
                false => value,
            };
            Some((name.as_str(), value))
        })
        .collect()
}

/// One digest of a body of which there may be several, if all that are known are right.
fn one_digest(digests: &str, body: &[u8]) -> Option<String> {
    let mut right = None;
    for member in members(digests) {
        let (algorithm, value) = member.split_once('=')?;
        let actual = match algorithm {
            "sha-256" => BASE64.encode(Sha256::digest(body)),
            "sha-512" => BASE64.encode(Sha512::digest(body)),
            _ => continue,
        };
        if value != format!(":{actual}:") {
            return None;
        }
        right = Some(member.to_owned());
    }
    right
}

/// The members of a dictionary (RFC 8941): what is between commas outside of strings.
fn members(dictionary: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    dictionary
        .split(|next: char| {
            let separates = next == ',' && !quoted;
            (quoted, escaped) = match next {
                _ if escaped => (quoted, false),
                '\\' if quoted => (quoted, true),
                '"' => (!quoted, false),
                _ => (quoted, false),
            };
            separates
        })
        .map(str::trim)
        .collect()
}

/// ECDSA keys alone (EIP-191, low s); contracts can't sign requests yet.
struct ByKey {
    /// The digest as the library was told, and as it was signed.
    signed_digest: Option<(String, String)>,
}

impl Verifier for ByKey {
    async fn verify(&self, address: Address, message: &[u8], signature: &[u8]) -> Result<(), Erc8128Error> {
        let message = match (&self.signed_digest, std::str::from_utf8(message)) {
            (Some((told, signed)), Ok(base)) => {
                let line = |value: &str| format!("\"{CONTENT_DIGEST}\": {value}\n");
                base.replacen(&line(told), &line(signed), 1).into_bytes()
            }
            _ => message.to_vec(),
        };
        let signer = stipend_bindings::recover(eip191_hash_message(message), signature)
            .map_err(|error| Erc8128Error::VerificationFailed(error.to_string()))?;
        if signer == address { Ok(()) } else { Err(Erc8128Error::BadSignature) }
    }
}

/// The nonces of signatures that could come again.
struct Nonces {
    capacity: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    nonces: HashSet<u128>,
    /// The same by the last second at which their signatures are valid.
    by_end: BTreeMap<Seconds, Vec<u128>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    First,
    Again,
    /// Can't be remembered, so it must not be used.
    Full,
}

impl Nonces {
    fn new(capacity: usize) -> Self {
        Self { capacity, seen: Mutex::default() }
    }

    fn consume(&self, key: &str, end: Seconds, now: Seconds) -> Use {
        // 128 bits of a hash: a caller chooses a nonce's length, but not how much of it is kept.
        let nonce: u128 = U256::from_be_bytes(keccak256(key).0).wrapping_to();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = seen.by_end.first_entry().filter(|first| *first.key() < now) {
            for nonce in first.remove() {
                seen.nonces.remove(&nonce);
            }
        }
        if seen.nonces.contains(&nonce) {
            return Use::Again;
        }
        if seen.nonces.len() >= self.capacity {
            return Use::Full;
        }
        seen.nonces.insert(nonce);
        seen.by_end.entry(end).or_default().push(nonce);
        Use::First
    }
}

/// The nonces as one check sees them.
struct NoncesAt<'a> {
    nonces: &'a Nonces,
    now: Seconds,
    full: AtomicBool,
}

impl NonceStore for NoncesAt<'_> {
    async fn consume(&self, key: &str, ttl: Seconds) -> bool {
        // The skew lengthens a signature's life, which `ttl` does not count.
        let end = self.now.saturating_add(ttl).saturating_add(CLOCK_SKEW);
        match self.nonces.consume(key, end, self.now) {
            Use::First => true,
            Use::Again => false,
            Use::Full => {
                self.full.store(true, Ordering::Relaxed);
                false
            }
        }
    }
}

fn unauthenticated(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::Unauthenticated, detail)
}

fn reason(error: &Erc8128Error) -> String {
    match error {
        Erc8128Error::Replay => "this signature was used before".into(),
        Erc8128Error::Expired => "the signature has expired".into(),
        Erc8128Error::NotYetValid => format!("the signature's created is more than {CLOCK_SKEW} s in the future"),
        Erc8128Error::ValidityTooLong => format!("the signature is valid for more than {VALIDITY_MAX} s"),
        Erc8128Error::ReplayableNotAllowed => "the signature has no nonce".into(),
        Erc8128Error::NotRequestBound => {
            "the signature does not cover @authority, @method, @path, @query (if any) and content-digest (if there is a body)".into()
        }
        Erc8128Error::DigestRequired => "content-digest is covered, but the header is missing".into(),
        Erc8128Error::DigestMismatch => "the body does not match its content-digest".into(),
        Erc8128Error::BadSignature => "the signature is not by the key that keyid names, or not over this request".into(),
        Erc8128Error::BadKeyId => "keyid is not erc8128:<chain id>:<address>".into(),
        other => other.to_string(),
    }
}

async fn sleep_until(second: Seconds) {
    tokio::time::sleep(Duration::from_secs(second).saturating_sub(since_1970())).await;
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn now() -> Seconds {
    since_1970().as_secs()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use erc8128::{SignOptions, eoa::EoaSigner, sign_request};

    use super::*;

    const CHAIN: u64 = 31_337;
    const HOST: &str = "127.0.0.1:8080";
    const BODY: &[u8] = br#"{"amount":"1"}"#;

    fn key(byte: u8, chain_id: u64) -> EoaSigner {
        EoaSigner::from_slice(&[byte; 32], chain_id).unwrap()
    }

    /// An authenticator that started long enough ago.
    fn authenticator() -> Authenticator {
        let mut authenticator = Authenticator::new(CHAIN, None);
        authenticator.started -= 1_000;
        authenticator
    }

    struct TestRequest {
        method: Method,
        path: &'static str,
        headers: HeaderMap,
        body: &'static [u8],
    }

    impl TestRequest {
        async fn signed(signer: &EoaSigner, options: &SignOptions) -> Self {
            let path = "/v1/mandate-requests?a=1";
            let url = format!("http://{HOST}{path}");
            let request = erc8128::Request { method: "POST", url: &url, headers: &[], body: Some(BODY) };
            let signed = sign_request(&request, signer, options).await.unwrap();
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("host", HOST.to_owned()),
                ("signature-input", signed.signature_input),
                ("signature", signed.signature),
                ("content-digest", signed.content_digest.unwrap()),
            ] {
                headers.insert(name, HeaderValue::try_from(value).unwrap());
            }
            Self { method: Method::POST, path, headers, body: BODY }
        }

        async fn good() -> Self {
            Self::signed(&key(7, CHAIN), &SignOptions::default()).await
        }

        async fn check(&self, authenticator: &Authenticator) -> Result<Address, (Code, String)> {
            let uri: Uri = self.path.parse().unwrap();
            authenticator
                .verify(&self.method, &uri, &self.headers, self.body)
                .await
                .map_err(|refusal| (refusal.problem().code, refusal.problem().detail.clone()))
        }

        /// What a fresh authenticator says.
        async fn refusal(&self) -> String {
            let (code, detail) = self.check(&authenticator()).await.unwrap_err();
            assert_eq!(code, Code::Unauthenticated);
            detail
        }
    }

    #[tokio::test]
    async fn a_signed_request_passes_once() {
        use erc8128::Signer;
        let (authenticator, call) = (authenticator(), TestRequest::good().await);
        assert_eq!(call.check(&authenticator).await, Ok(key(7, CHAIN).address()));
        assert_eq!(call.check(&authenticator).await.unwrap_err().1, "this signature was used before");
    }

    #[tokio::test]
    async fn whatever_is_altered_is_refused() {
        let mut call = TestRequest::good().await;
        call.body = br#"{"amount":"2"}"#;
        assert!(call.refusal().await.contains("content-digest"));

        let mut call = TestRequest::good().await;
        call.body = b"";
        assert!(call.refusal().await.contains("content-digest"));

        for path in ["/v1/mandates?a=1", "/v1/mandate-requests?a=2", "/v1/mandate-requests", "/v1/mandate-requests?"] {
            let mut call = TestRequest::good().await;
            call.path = path;
            assert!(call.refusal().await.contains("not over this request"), "{path}");
        }

        let mut call = TestRequest::good().await;
        call.method = Method::PUT;
        assert!(call.refusal().await.contains("not over this request"));

        let mut call = TestRequest::good().await;
        call.headers.insert("host", HeaderValue::from_static("elsewhere:8080"));
        assert!(call.refusal().await.contains("not over this request"));
    }

    #[tokio::test]
    async fn signatures_of_others_beside_ours_are_skipped() {
        let theirs = "sig1=(\"@authority\" \"@method\");created=1;keyid=\"a, \\\"erc8128\\\", b\";tag=\"web-bot-auth\"";
        for ours_first in [true, false] {
            let mut call = TestRequest::good().await;
            for (name, added) in [("signature-input", theirs), ("signature", "sig1=:AAAA:")] {
                let ours = call.headers.remove(name).unwrap();
                let lines = if ours_first { [ours.to_str().unwrap(), added] } else { [added, ours.to_str().unwrap()] };
                // Of one line, or of several, which are one list.
                match name {
                    "signature" => lines.iter().for_each(|line| _ = call.headers.append(name, line.parse().unwrap())),
                    _ => _ = call.headers.insert(name, lines.join(", ").parse().unwrap()),
                }
            }
            assert_eq!(call.check(&authenticator()).await.map(drop), Ok(()), "ours first: {ours_first}");
        }
    }

    #[tokio::test]
    async fn every_digest_that_is_known_must_be_right() {
        let sha_256 = format!("sha-256=:{}:", BASE64.encode(Sha256::digest(BODY)));
        let sha_512 = format!("sha-512=:{}:", BASE64.encode(Sha512::digest(BODY)));
        let wrong = format!("sha-512=:{}:", BASE64.encode(Sha512::digest(b"other")));
        let unknown = "sha-1=:AAAA:";
        for (digests, passes) in [
            (vec![&*sha_256, &*sha_512], true),
            (vec![&*sha_512], true),
            (vec![unknown, &*sha_256], true),
            (vec![&*sha_256, &*wrong], false),
            (vec![unknown], false),
        ] {
            // A caller signs the header that it sends.
            let value = digests.join(", ");
            let mut call = TestRequest::good().await;
            let input = call.headers["signature-input"].to_str().unwrap().to_owned();
            let (label, params) = input.split_once('=').unwrap();
            let base = [
                ("@authority", HOST),
                ("@method", "POST"),
                ("@path", "/v1/mandate-requests"),
                ("@query", "?a=1"),
                ("content-digest", &*value),
            ];
            let lines: String = params
                .trim_start_matches('(')
                .split(')')
                .next()
                .unwrap()
                .split(' ')
                .map(|component| {
                    let name = component.trim_matches('"');
                    let (_, value) = base.iter().find(|(known, _)| *known == name).unwrap();
                    format!("\"{name}\": {value}\n")
                })
                .collect();
            let base = format!("{lines}\"@signature-params\": {params}");
            let signature = erc8128::Signer::sign_message(&key(7, CHAIN), base.as_bytes()).await.unwrap();
            call.headers.insert("signature", format!("{label}=:{}:", BASE64.encode(signature)).parse().unwrap());
            // In one line, or in several.
            call.headers.remove("content-digest");
            digests.iter().for_each(|digest| _ = call.headers.append("content-digest", digest.parse().unwrap()));
            assert_eq!(call.check(&authenticator()).await.is_ok(), passes, "{value}");
        }
    }

    #[tokio::test]
    async fn a_target_with_an_authority_comes_before_host() {
        let call = TestRequest::good().await;
        let check = async |target: &str| {
            let uri: Uri = target.parse().unwrap();
            authenticator().verify(&call.method, &uri, &call.headers, call.body).await.is_ok()
        };
        assert!(check(&format!("http://{HOST}{}", call.path)).await);
        assert!(!check(&format!("http://evil.example{}", call.path)).await);
    }

    #[test]
    fn a_dictionary_is_split_outside_of_strings() {
        assert_eq!(members(r#"a=("x" "y");k="1, 2", b;k="\"," , c"#), [r#"a=("x" "y");k="1, 2""#, r#"b;k="\",""#, "c"]);
    }

    #[tokio::test]
    async fn a_signature_must_be_fresh_and_for_one_request_of_this_chain() {
        let at =
            |created, expires| SignOptions { created: Some(created), expires: Some(expires), ..Default::default() };
        let now = now();
        for (signer, options, reason) in [
            (key(7, 1), SignOptions::default(), "the key id names chain 1, this relayer serves chain 31337"),
            (key(7, CHAIN), at(now - 60, now - 10), "the signature has expired: this relayer's clock says"),
            (key(7, CHAIN), at(now + 60, now + 90), "in the future"),
            (key(7, CHAIN), at(now, now + 301), "more than 300 s"),
            (key(7, CHAIN), SignOptions { replay: erc8128::Replay::Replayable, ..Default::default() }, "no nonce"),
            (
                key(7, CHAIN),
                SignOptions {
                    binding: erc8128::Binding::ClassBound,
                    components: Some(vec!["@authority".into()]),
                    ..Default::default()
                },
                "does not cover",
            ),
        ] {
            let mut call = TestRequest::good().await;
            let signed = erc8128::Request {
                method: "POST",
                url: &format!("http://{HOST}{}", call.path),
                headers: &[],
                body: Some(BODY),
            };
            let signed = sign_request(&signed, &signer, &options).await.unwrap();
            call.headers.insert("signature-input", HeaderValue::try_from(signed.signature_input).unwrap());
            call.headers.insert("signature", HeaderValue::try_from(signed.signature).unwrap());
            assert!(call.refusal().await.contains(reason), "{reason}");
        }
    }

    #[tokio::test]
    async fn signatures_from_before_the_start_are_refused() {
        let mut authenticator = authenticator();
        let call = TestRequest::good().await;
        authenticator.started = now();
        assert!(call.check(&authenticator).await.unwrap_err().1.contains("before this relayer started"));
    }

    #[tokio::test]
    async fn a_caller_whose_clock_is_ahead_waits_for_its_own_second() {
        let options = SignOptions { created: Some(now() + 1), ..Default::default() };
        let call = TestRequest::signed(&key(7, CHAIN), &options).await;
        assert!(call.check(&authenticator()).await.is_ok());
        assert!(now() >= options.created.unwrap());
    }

    #[tokio::test]
    async fn a_host_header_cannot_move_the_path() {
        for host in ["127.0.0.1:8080/v1/mandates?", "user@127.0.0.1:8080", "", "a b"] {
            let mut call = TestRequest::good().await;
            call.headers.insert("host", HeaderValue::try_from(host).unwrap());
            assert_eq!(call.check(&authenticator()).await.unwrap_err().0, Code::InvalidRequest, "{host}");
        }
    }

    #[tokio::test]
    async fn behind_a_proxy_the_public_address_is_what_is_signed() {
        let mut authenticator = Authenticator::new(CHAIN, Some(&"https://pay.example/relayer/".parse().unwrap()));
        authenticator.started -= 1_000;
        let signed_for = async |url: &str| {
            let request = erc8128::Request { method: "GET", url, headers: &[], body: None };
            let signed = sign_request(&request, &key(7, CHAIN), &SignOptions::default()).await.unwrap();
            let (path, body) = ("/v1/mandates", &b""[..]);
            let mut call = TestRequest { method: Method::GET, path, headers: HeaderMap::new(), body };
            call.headers.insert("host", HeaderValue::from_static("internal:8080"));
            call.headers.insert("signature-input", HeaderValue::try_from(signed.signature_input).unwrap());
            call.headers.insert("signature", HeaderValue::try_from(signed.signature).unwrap());
            call.check(&authenticator).await
        };
        assert!(signed_for("https://pay.example/relayer/v1/mandates").await.is_ok());
        let (code, detail) = signed_for("http://internal:8080/v1/mandates").await.unwrap_err();
        assert!(code == Code::Unauthenticated && detail.contains("https://pay.example/relayer/"), "{detail}");
    }

    #[test]
    fn a_nonce_is_remembered_while_its_signature_is_valid() {
        let nonces = Nonces::new(2);
        assert_eq!(nonces.consume("a", 100, 50), Use::First);
        assert_eq!(nonces.consume("a", 100, 100), Use::Again);
        assert_eq!(nonces.consume("b", 90, 50), Use::First);
        assert_eq!(nonces.consume("c", 100, 50), Use::Full);
        assert_eq!(nonces.consume("c", 100, 91), Use::First);
        assert_eq!(nonces.consume("a", 200, 101), Use::First);
        assert_eq!(nonces.seen.lock().unwrap().nonces.len(), 1);
    }

    #[tokio::test]
    async fn without_room_for_a_nonce_nobody_passes() {
        let mut authenticator = authenticator();
        authenticator.nonces = Nonces::new(0);
        assert_eq!(TestRequest::good().await.check(&authenticator).await.unwrap_err().0, Code::Overloaded);
    }
}
