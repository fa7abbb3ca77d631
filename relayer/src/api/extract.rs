//! What comes in, held to its form: strict JSON, strict queries, ids, idempotency keys. What it
//! means is the service's to judge.

use std::{collections::HashSet, error::Error, fmt, str::FromStr};

use axum::{
    Json,
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Path, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use stipend_core::{
    Code,
    api::{Explain, Metadata, NewCard, NewMandate, NewMandateRequest, NewPayment, NewPayments, NewRevocation},
    schema::{METADATA_NAME_MAX, METADATA_PAIRS, METADATA_VALUE_MAX},
};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::{BODY_MAX, BODY_TIMEOUT, problem::Refusal};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_KEY_MAX: usize = 255;
const CURSOR_MAX: usize = 128;
/// How many payments one call may send.
const BATCH_MAX: usize = 100;
const PAGE_MAX: u32 = 100;

/// The longest part of a parser's message that is sent back: it can quote what it was given.
const COMPLAINT_MAX: usize = 300;

/// What the caller sent can't be understood.
pub(super) fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidRequest, detail)
}

/// Whether these are only printable ASCII characters.
pub(super) fn is_printable(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// A JSON body of a known form.
pub(super) struct Body<T>(pub(super) T);

impl<S: Sync, T: Validate> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            return Err(Refusal::new(Code::UnsupportedMediaType, "the body's content-type is not application/json"));
        }
        let body: T = json(&read(request).await?)?;
        body.check()?;
        Ok(Self(body))
    }
}

/// A body that can be sent.
pub(super) trait Validate: DeserializeOwned {
    /// Checks what its fields' own types do not.
    fn check(&self) -> Result<(), Refusal>;
}

impl Validate for NewMandateRequest {
    fn check(&self) -> Result<(), Refusal> {
        check_metadata(&self.metadata)
    }
}

impl Validate for Explain {
    fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Validate for NewMandate {
    fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Validate for NewRevocation {
    fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Validate for NewPayment {
    fn check(&self) -> Result<(), Refusal> {
        check_metadata(&self.metadata)
    }
}

impl Validate for NewPayments {
    fn check(&self) -> Result<(), Refusal> {
        if !(1..=BATCH_MAX).contains(&self.payments.len()) {
            return Err(invalid(format!("payments: from 1 to {BATCH_MAX}, not {}", self.payments.len())));
        }
        self.payments.iter().enumerate().try_for_each(|(index, payment)| {
            payment.check().map_err(|refusal| invalid(format!("payments[{index}].{}", refusal.into_problem().detail)))
        })
    }
}

impl Validate for NewCard {
    fn check(&self) -> Result<(), Refusal> {
        check_metadata(&self.metadata)
    }
}

/// Reads a body, up to the limits of size and time.
pub(super) async fn read(request: Request) -> Result<Bytes, Refusal> {
    match timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
            Err(Refusal::new(Code::TooLarge, format!("the body is larger than {BODY_MAX} bytes")))
        }
        Ok(Err(_)) => Err(invalid("the body broke off")),
        Err(_elapsed) => Err(Refusal::new(Code::Timeout, format!("the body took longer than {BODY_TIMEOUT:?}"))),
    }
}

/// Reads one JSON document and nothing else: UTF-8 without a byte order mark, no field twice at
/// any level, no NUL.
fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| invalid(format!("the body is not UTF-8 from byte {} on", error.valid_up_to())))?;
    if text.starts_with('\u{feff}') {
        return Err(invalid("the body starts with a byte order mark"));
    }
    parse::<NoDuplicateKeys>(bytes)?;
    parse(bytes)
}

/// By axum's extractor, because its errors name the path of the field.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    Json::from_bytes(bytes).map(|Json(value)| value).map_err(|rejection| rejection_detail(&rejection))
}

/// The innermost cause is the parser's message; those around it only say that it failed.
fn rejection_detail(rejection: &dyn Error) -> Refusal {
    let mut cause = rejection;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    invalid(shorten(&cause.to_string()))
}

/// Without its middle if it is too long: the field is named at the start, the problem at the end.
fn shorten(text: &str) -> String {
    let count = text.chars().count();
    if count <= COMPLAINT_MAX {
        return text.to_owned();
    }
    let half = COMPLAINT_MAX / 2;
    let (start, end): (String, String) = (text.chars().take(half).collect(), text.chars().skip(count - half).collect());
    format!("{start} … {end}")
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else { return false };
    let mut parts = first.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(b"application/json"));
    // JSON is UTF-8 (RFC 8259, 8.1): who says another charset has sent something else.
    let is_other_charset = |parameter: &[u8]| {
        let mut halves = parameter.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
        let is_charset = halves.next().is_some_and(|name| name.eq_ignore_ascii_case(b"charset"));
        let value = halves.next().unwrap_or_default();
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        is_charset && !value.eq_ignore_ascii_case(b"utf-8")
    };
    is_json && !parts.any(is_other_charset)
}

/// JSON of any shape, walked over for what serde lets pass, and thrown away.
struct NoDuplicateKeys;

impl<'de> Deserialize<'de> for NoDuplicateKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for NoDuplicateKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E: de::Error>(self, _value: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: de::Error>(self, _value: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: de::Error>(self, _value: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: de::Error>(self, _value: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self, E> {
        if text.contains('\0') { Err(E::custom("a text holds a NUL character")) } else { Ok(self) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            if name.contains('\0') {
                return Err(de::Error::custom("a field's name holds a NUL character"));
            }
            if seen.contains(&name) {
                return Err(de::Error::custom(format_args!("duplicate field `{name}`")));
            }
            seen.insert(name);
            fields.next_value::<Self>()?;
        }
        Ok(self)
    }
}

fn check_metadata(metadata: &Metadata) -> Result<(), Refusal> {
    if metadata.len() > METADATA_PAIRS {
        return Err(invalid(format!("metadata: {} pairs, at most {METADATA_PAIRS} are kept", metadata.len())));
    }
    for (name, value) in metadata {
        if !(1..=METADATA_NAME_MAX).contains(&name.len()) {
            return Err(invalid(format!(
                "metadata: a name has {} bytes, it takes 1 to {METADATA_NAME_MAX}",
                name.len()
            )));
        }
        if value.len() > METADATA_VALUE_MAX {
            return Err(invalid(format!(
                "metadata.{name}: {} bytes, at most {METADATA_VALUE_MAX} are kept",
                value.len()
            )));
        }
    }
    Ok(())
}

/// The query, every parameter known and given once.
pub(super) struct Query<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let query = axum::extract::Query::try_from_uri(&parts.uri).map_err(|rejection| rejection_detail(&rejection))?;
        Ok(Self(query.0))
    }
}

/// A query of a call that takes none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

/// A page's length: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "u32")]
#[schema(minimum = 1, maximum = 100)]
pub(super) struct Limit(pub(super) u32);

impl TryFrom<u32> for Limit {
    type Error = String;

    fn try_from(limit: u32) -> Result<Self, String> {
        if (1..=PAGE_MAX).contains(&limit) { Ok(Self(limit)) } else { Err(format!("a limit is 1 to {PAGE_MAX}")) }
    }
}

/// What an earlier page gave as `next_cursor`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(min_length = 1, max_length = 128, pattern = "^[ -~]+$")]
pub(super) struct Cursor(pub(super) String);

impl TryFrom<String> for Cursor {
    type Error = &'static str;

    fn try_from(cursor: String) -> Result<Self, &'static str> {
        let fits = (1..=CURSOR_MAX).contains(&cursor.len()) && is_printable(cursor.as_bytes());
        if fits { Ok(Self(cursor)) } else { Err("a cursor is what next_cursor gave") }
    }
}

/// An id in the path. What is not one is nowhere to be found, as an id that belongs to nobody.
pub(super) struct Id<T>(pub(super) T);

impl<S: Sync + Send, T: FromStr> FromRequestParts<S> for Id<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let text = Path::<String>::from_request_parts(parts, state).await.ok();
        let id = text.and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(|| Refusal::new(Code::NotFound, "nothing has this id"))
    }
}

/// The `Idempotency-Key` header, as it is documented.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "a document's part: what is read is an IdempotencyKey")]
pub(super) struct IdempotencyHeader {
    /// Names the call: repeated with the same content, it is done once.
    #[param(rename = "idempotency-key", min_length = 1, max_length = 255, pattern = "^[ -~]+$")]
    idempotency_key: Option<String>,
}

/// The `Idempotency-Key` header, if there is one.
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        idempotency_key(&parts.headers).map(Self)
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.as_bytes();
    if keys.next().is_some() || !(1..=IDEMPOTENCY_KEY_MAX).contains(&key.len()) || !is_printable(key) {
        return Err(invalid(format!(
            "idempotency-key: one value of 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters"
        )));
    }
    Ok(Some(String::from_utf8_lossy(key).into_owned()))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Uri};

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        amount: stipend_core::Amount,
        #[serde(default)]
        metadata: Metadata,
    }

    fn refusal(body: impl AsRef<[u8]>) -> String {
        let refusal = json::<Sample>(body.as_ref()).unwrap_err();
        assert_eq!(refusal.problem().code, Code::InvalidRequest);
        refusal.problem().detail.clone()
    }

    #[test]
    fn plain_json_is_read() {
        let sample = json::<Sample>(br#" {"amount":"4.20","metadata":{"task":"t\n1"}} "#).unwrap();
        assert_eq!(sample.amount.to_string(), "4.20");
        assert_eq!(
            json::<Sample>(br#"{"amount":9007199254740.993001}"#).unwrap().amount.to_string(),
            "9007199254740.993001"
        );
        assert_eq!(sample.metadata["task"], "t\n1");
    }

    #[test]
    fn a_refusal_names_field_and_problem() {
        assert!(refusal(r#"{"amount":1e1}"#).starts_with("amount: an amount is a decimal string"));
        assert!(refusal(r#"{"amount":"0.0000001"}"#).starts_with("amount: an amount has at most 6 digits"));
        assert!(refusal(r#"{"amount":"1","amount":"2"}"#).contains("duplicate field `amount`"));
        assert!(refusal(r#"{"amount":"1","amuont":"2"}"#).contains("unknown field `amuont`"));
        assert!(refusal(r#"{"amount":"1","metadata":{"a":"1","a":"2"}}"#).contains("duplicate field `a`"));
        assert!(refusal(r#"{"amount":"1","metadata":{"a":1}}"#).starts_with("metadata.a: invalid type"));
        assert!(refusal(r#"{"amount":"1","metadata":{"a":"\u0000"}}"#).starts_with("metadata.a: a text holds a NUL"));
        assert!(refusal(r#"{"amount":"1","metadata":{"\u0000":""}}"#).contains("name holds a NUL"));
        assert!(refusal("{}").contains("missing field `amount`"));
    }

    #[test]
    fn what_is_not_one_json_document_is_refused() {
        assert!(refusal("").contains("EOF"));
        assert!(refusal(r#"{"amount":"1"} x"#).contains("trailing characters"));
        assert!(refusal(r#"{"amount":"1"}{}"#).contains("trailing characters"));
        assert!(refusal("\u{feff}{\"amount\":\"1\"}").contains("byte order mark"));
        assert!(refusal(b"{\"amount\":\"\xff\"}").contains("not UTF-8 from byte 11 on"));
        assert!(refusal("{\"amount\":\"1\0\"}").contains("control character"));
        assert!(
            refusal(r#"{"amount":"\ud800"}"#).contains("surrogate")
                || refusal(r#"{"amount":"\ud800"}"#).contains("hex escape")
        );
        assert!(refusal("[".repeat(10_000)).contains("recursion limit"));
        assert!(refusal(r#"{"a":"#.repeat(10_000)).contains("recursion limit"));
        assert!(refusal(format!(r#"{{"{}":1}}"#, "x".repeat(10_000))).chars().count() <= COMPLAINT_MAX + 3);
    }

    #[test]
    fn metadata_has_bounds() {
        let metadata = |pairs: &[(&str, &str)]| {
            check_metadata(&pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        assert!(metadata(&[(&"n".repeat(40), &"v".repeat(500))]).is_ok());
        assert!(metadata(&[(&"n".repeat(41), "")]).is_err());
        assert!(metadata(&[("", "")]).is_err());
        assert!(metadata(&[("n", &"v".repeat(501))]).is_err());
        let names: Vec<_> = (0..17).map(|n| n.to_string()).collect();
        let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(metadata(&pairs[..16]).is_ok());
        assert!(metadata(&pairs).is_err());
    }

    #[test]
    fn an_idempotency_key_is_one_short_printable_text() {
        let key = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
            }
            idempotency_key(&headers).map_err(|refusal| refusal.problem().code)
        };
        assert_eq!(key(&[]), Ok(None));
        assert_eq!(key(&[b"task 7"]), Ok(Some("task 7".into())));
        assert!(key(&[&[b'k'; 255]]).is_ok());
        for values in [&[&b""[..]][..], &[&[b'k'; 256]], &[b"a\tb"], &["é".as_bytes()], &[b"a", b"a"]] {
            assert_eq!(key(values), Err(Code::InvalidRequest), "{values:?}");
        }
    }

    #[test]
    fn a_body_is_json_by_its_content_type() {
        let is = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(value));
            }
            is_json(&headers)
        };
        assert!(is(&["application/json"]) && is(&["Application/JSON ; charset=utf-8"]));
        assert!(is(&["application/json; charset=\"UTF-8\""]) && !is(&["application/json; Charset = utf-16"]));
        assert!(
            !is(&[]) && !is(&["text/plain"]) && !is(&["application/jsonx"]) && !is(&["application/json", "text/plain"])
        );
    }

    #[tokio::test]
    async fn query_parameters_are_known_unique_and_in_bounds() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Sample {
            #[expect(dead_code, reason = "read by serde")]
            cursor: Option<Cursor>,
            limit: Option<Limit>,
        }
        async fn query(text: &str) -> Result<Sample, String> {
            let uri: Uri = format!("/v1/things?{text}").parse().unwrap();
            let mut parts = Request::builder().uri(uri).body(()).unwrap().into_parts().0;
            let query = Query::from_request_parts(&mut parts, &()).await;
            query.map(|Query(sample)| sample).map_err(|refusal| refusal.problem().detail.clone())
        }
        assert_eq!(query("limit=100&cursor=abc").await.unwrap().limit, Some(Limit(100)));
        for (text, detail) in [
            ("limit=0", "limit: a limit is 1 to 100"),
            ("limit=101", "limit: a limit is 1 to 100"),
            ("limit=x", "limit: invalid digit"),
            ("limit=1&limit=1", "duplicate field `limit`"),
            ("sort=asc", "unknown field `sort`"),
            ("cursor=%00", "cursor: a cursor is"),
            ("cursor=", "cursor: a cursor is"),
        ] {
            let refusal = query(text).await.unwrap_err();
            assert!(refusal.contains(detail), "{text}: {refusal}");
        }
    }
}
