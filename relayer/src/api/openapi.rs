//! The OpenAPI document, made of the routes, the types, and what is listed here: which problems each
//! call can answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::{
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use stipend_core::{
    Code::{self, *},
    api::{AuditEntry, Explain, Problem, RawAuditEntry},
};
use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        self, AllOfBuilder, Content, Header, HeaderBuilder, Object, ObjectBuilder, Ref, RefOr, ResponseBuilder, Schema,
        path::Operation,
        schema::{AnyOfBuilder, ArrayItems, KnownFormat, SchemaFormat, SchemaType, Type},
        security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, callbacks, events,
    extract::{NoQuery, Query},
    handlers,
};
use crate::alarms::Alarms;

const SIGNATURE_INPUT: &str = "signature-input";
const SIGNATURE: &str = "signature";

/// Calls that are signed by ERC-8128.
pub(super) fn signed() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(handlers::request_mandate, handlers::mandate_requests))
        .routes(routes!(handlers::mandate_request))
        .routes(routes!(handlers::open_mandate, handlers::mandates))
        .routes(routes!(handlers::mandate))
        .routes(routes!(handlers::payments))
        .routes(routes!(handlers::payment))
        .routes(routes!(handlers::cards))
        .routes(routes!(handlers::card))
        .routes(routes!(handlers::card_secrets))
        .routes(routes!(handlers::close_card))
        .routes(routes!(handlers::audit))
        .routes(routes!(events::events))
        .routes(routes!(handlers::explain))
}

/// Calls that carry their own authority, or need none.
pub(super) fn unsigned() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        // The agent's EIP-712 signature.
        .routes(routes!(handlers::pay))
        .routes(routes!(handlers::pay_many))
        .routes(routes!(handlers::create_card))
        // The operator's.
        .routes(routes!(handlers::revoke))
        // The issuer's, over the raw bytes.
        .routes(routes!(callbacks::authorization))
        .routes(routes!(callbacks::event))
        .routes(routes!(handlers::info))
        .routes(routes!(serve))
}

/// Health checks.
pub(super) fn health() -> OpenApiRouter<Alarms> {
    OpenApiRouter::new().routes(routes!(handlers::healthz)).routes(routes!(handlers::readyz))
}

/// Show this document
#[utoipa::path(get, path = "/openapi.json", tag = "relayer", responses(
    (status = 200, content_type = "application/json", body = Object, description = "OpenAPI 3.1"),
))]
pub(super) async fn serve(_: Query<NoQuery>) -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_json().map(Into::into).unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// Of every call.
const ANY: &[Code] = &[InvalidRequest, Internal];
/// Of every call but health checks.
const LIMITED: &[Code] = &[RateLimited, Overloaded, Unavailable];
/// Of a call that is signed by ERC-8128.
const SIGNED: &[Code] = &[Unauthenticated, TooLarge, Timeout];
/// Of a call with a body.
const BODY: &[Code] = &[UnsupportedMediaType, TooLarge, Timeout];
/// Of a call that needs the relayer to take new work.
const WORK: &[Code] = &[Halted, CannotSend];
/// Of a call that takes from a mandate's budget.
const SPENDING: &[Code] = &[
    BadSignature,
    NotFound,
    NonceTaken,
    IdempotencyKeyReused,
    // The policy's.
    NotYetOpen,
    Frozen,
    Ended,
    ForeignGuardian,
    IntentUnknown,
    NotStarted,
    Expired,
    DeadlinePassed,
    DeadlineTooSoon,
    DeadlineTooLate,
    DeadlinePastExpiry,
    AmountZero,
    BelowMinimum,
    BadPayee,
    PayeeNotAllowed,
    AbovePerPayment,
    InsufficientBudget,
    WindowExceeded,
    NonceRetired,
    NonceTooHigh,
    GasBudgetExceeded,
];

/// Which problems a call can answer, by its operation id, beside those that its kind has.
fn problems(call: &str) -> Option<&'static [&'static [Code]]> {
    Some(match call {
        "healthz" | "readyz" | "info" | "serve" | "mandate_requests" | "mandates" | "payments" | "cards" | "audit"
        | "events" => &[],
        "mandate_request" | "mandate" | "payment" => &[&[NotFound]],
        "request_mandate" => &[BODY, WORK, &[InvalidTerms, IdempotencyKeyReused]],
        "open_mandate" => &[
            BODY,
            WORK,
            &[
                NotFound,
                InvalidTerms,
                BelowMinimum,
                BadSignature,
                OpenWouldFail,
                AlreadyApproved,
                ApprovalUnderWay,
                GasBudgetExceeded,
            ],
        ],
        "revoke" => &[BODY, WORK, &[BadSignature, NotFound, ForeignGuardian, BelowMinimum]],
        "pay" => &[BODY, WORK, SPENDING],
        "pay_many" => &[BODY],
        "create_card" => &[BODY, WORK, SPENDING, &[CardsNotOffered, NotWholeCents, CaptureByTooSoon, CaptureByTooLate]],
        "explain" => &[BODY, &[NotFound, CardsNotOffered]],
        "card" => &[&[NotFound]],
        "card_secrets" => &[&[NotFound, CardNotActive, CardsNotOffered]],
        "close_card" => &[&[NotFound, CardNotActive]],
        "authorization" | "event" => &[&[Unauthenticated, TooLarge, Timeout, CardsNotOffered]],
        _ => return None,
    })
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Stipend",
        description = "On-chain spending mandates for AI agents: the relayer's API. Unknown fields and query parameters \
                       are refused. Every answer has an `x-request-id`. What is not the caller's is answered like what \
                       does not exist."
    ),
    tags(
        (name = "payments", description = "Pay within a mandate"),
        (name = "cards", description = "Single-use virtual cards, each backed by a hold"),
        (name = "mandates", description = "Ask for mandates, approve, watch and end them"),
        (name = "audit", description = "Everything that happened"),
        (name = "relayer", description = "What runs here, and how it is"),
        (name = "issuer", description = "What the card issuer calls"),
    ),
    components(schemas(Problem, AuditEntry, RawAuditEntry))
)]
struct Document;

/// The document.
pub(super) fn document() -> openapi::OpenApi {
    let mut document = Document::openapi();
    let examples = examples();
    let kinds: [(openapi::OpenApi, &[&[Code]]); 3] = [
        (signed().into_openapi(), &[ANY, LIMITED, SIGNED]),
        (unsigned().into_openapi(), &[ANY, LIMITED]),
        (health().into_openapi(), &[ANY]),
    ];
    for (mut calls, always) in kinds {
        for operation in operations(&mut calls) {
            let call = operation.operation_id.clone().unwrap_or_default();
            let codes = always.iter().chain(problems(&call).unwrap_or_default()).copied().flatten().copied().collect();
            describe_problems(operation, codes);
            describe_replay(operation);
            if always.contains(&SIGNED) {
                operation.security = Some(vec![
                    SecurityRequirement::default()
                        .add::<_, _, &str>(SIGNATURE_INPUT, [])
                        .add::<_, _, &str>(SIGNATURE, []),
                ]);
            }
            if let Some(example) = examples.get(&call) {
                show(operation, example);
            }
        }
        document.merge(calls);
    }
    let components = document.components.get_or_insert_default();
    for (header, says) in [
        (SIGNATURE_INPUT, "What is signed, by whom and until when (RFC 9421), in the profile of ERC-8128."),
        (SIGNATURE, "The signature over it (EIP-191)."),
    ] {
        let scheme = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(header, says)));
        components.security_schemes.insert(header.into(), scheme.into());
    }
    for (name, schema) in &mut components.schemas {
        // An absent field of an answer is left out; one of a request may be null as well.
        refine(schema, name.starts_with("New") || *name == Explain::name());
        if let (Some(of), RefOr::T(Schema::Object(page))) = (name.strip_prefix("Page_"), schema)
            && let Some(RefOr::T(Schema::Array(data))) = page.properties.get_mut("data")
        {
            data.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(of).into()));
        }
    }
    document
}

fn operations(document: &mut openapi::OpenApi) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|item| [&mut item.get, &mut item.post]).flatten()
}

/// One response for each status, with the codes that it can have.
fn describe_problems(operation: &mut Operation, codes: BTreeSet<Code>) {
    let mut by_status = BTreeMap::<u16, Vec<Code>>::new();
    for code in codes {
        by_status.entry(code.status()).or_default().push(code);
    }
    for (status, codes) in by_status {
        let names = codes.iter().map(|code| code.name());
        let code = ObjectBuilder::new()
            .property("code", ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names.clone())))
            .required("code");
        let schema = AllOfBuilder::new().item(Ref::from_schema_name(Problem::name())).item(code);
        let mut response = ResponseBuilder::new()
            .description(names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
            .content("application/problem+json", Content::new(Some(schema)));
        if codes.contains(&Unauthenticated) {
            response = response.header("www-authenticate", header_of(Type::String, "`ERC-8128`"));
        }
        if codes.iter().any(|code| Problem::new(*code, "").retry_after.is_some()) {
            response = response.header("retry-after", header_of(Type::Integer, "Seconds after which to try again"));
        }
        operation.responses.responses.entry(status.to_string()).or_insert_with(|| response.build().into());
    }
}

/// What creates says whether an earlier call has.
fn describe_replay(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    let creates = responses.contains_key("201") || responses.contains_key("202");
    if let (true, Some(RefOr::T(response))) = (creates, responses.get_mut("200")) {
        response.headers.insert("idempotent-replayed".into(), header_of(Type::String, "`true`").into());
    }
}

fn header_of(kind: Type, says: &str) -> Header {
    HeaderBuilder::new().schema(Some(Object::with_type(kind))).description(Some(says)).build()
}

/// A request and its answer, as a real run had them.
#[derive(Deserialize)]
struct Example {
    request: Option<Value>,
    answer: Option<Value>,
}

/// By operation id.
fn examples() -> BTreeMap<String, Example> {
    serde_json::from_str(include_str!("examples.json")).unwrap_or_default()
}

fn show(operation: &mut Operation, example: &Example) {
    if let Some(RefOr::T(request)) = &mut operation.request_body {
        show_in(&mut request.content, &example.request);
    }
    for (status, response) in &mut operation.responses.responses {
        if let (true, RefOr::T(response)) = (status.starts_with('2'), response) {
            show_in(&mut response.content, &example.answer);
        }
    }
}

fn show_in<'a>(contents: impl IntoIterator<Item = (&'a String, &'a mut RefOr<Content>)>, example: &Option<Value>) {
    for (_, content) in contents {
        if let RefOr::T(content) = content {
            content.example.clone_from(example);
        }
    }
}

/// The JSON Schema of a type on its own, with everything that it refers to within.
pub(super) fn json_schema<T: ToSchema>(nullable: bool) -> Map<String, Value> {
    let mut named = Vec::new();
    T::schemas(&mut named);
    let value = |mut schema: RefOr<Schema>| {
        refine(&mut schema, nullable);
        serde_json::to_value(schema).unwrap_or_default()
    };
    let named = named.into_iter().map(|(name, schema)| (name, value(schema))).collect();
    let mut schema = value(T::schema());
    resolve(&mut schema, &named);
    match schema {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Puts what is referred to in the place of the references.
fn resolve(schema: &mut Value, named: &BTreeMap<String, Value>) {
    match schema {
        Value::Object(fields) => {
            let target = fields.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            if let Some(Value::Object(target)) = target.and_then(|name| named.get(name)).cloned() {
                fields.remove("$ref");
                // What is said where it is used counts more.
                for (name, value) in target {
                    fields.entry(name).or_insert(value);
                }
            }
            fields.values_mut().for_each(|field| resolve(field, named));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| resolve(item, named)),
        _ => {}
    }
}

/// What the derives can't say: that a field is not null, and that an integer is unsigned.
fn refine(schema: &mut RefOr<Schema>, nullable: bool) {
    let is_null = |item: &RefOr<Schema>| matches!(item, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null));
    let not_null = |types: &mut SchemaType| {
        if let SchemaType::Array(list) = types
            && !nullable
            && let Some(only) = list.iter().find(|item| **item != Type::Null)
        {
            *types = SchemaType::Type(only.clone());
        }
    };
    let RefOr::T(inner) = schema else { return };
    match inner {
        Schema::Object(object) => {
            not_null(&mut object.schema_type);
            object
                .format
                .take_if(|format| matches!(format, SchemaFormat::KnownFormat(KnownFormat::Int32 | KnownFormat::Int64)));
            object.properties.values_mut().for_each(|property| refine(property, nullable));
        }
        Schema::Array(array) => not_null(&mut array.schema_type),
        Schema::AllOf(all_of) => all_of.items.iter_mut().for_each(|item| refine(item, nullable)),
        Schema::OneOf(one_of) if !nullable => {
            one_of.items.retain(|item| !is_null(item));
            if let [only] = &*one_of.items {
                *schema = only.clone();
            } else if one_of.items.iter().all(|item| matches!(item, RefOr::Ref(_))) {
                // An empty page is a page of either kind.
                let items = std::mem::take(&mut one_of.items);
                let description = one_of.description.take();
                *inner =
                    items.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item).description(description).into();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::{Serialize, de::DeserializeOwned};
    use stipend_core::api::{
        Card, Explanation, Health, Info, Mandate, MandateRequest, NewCard, NewMandate, NewMandateRequest, NewPayment,
        NewPayments, NewRevocation, Page, Payment, PaymentResults,
    };

    use super::*;

    const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/openapi.json");

    #[test]
    fn the_document_that_is_checked_in_is_the_one_that_is_served() {
        let served = document().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("STIPEND_WRITE").is_some() {
            std::fs::write(CHECKED_IN, &served).unwrap();
        }
        let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap();
        assert!(checked_in == served, "docs/reference/openapi.json is out of date: run scripts/openapi");
    }

    #[test]
    fn every_call_says_what_can_go_wrong_and_shows_an_example() {
        let examples = examples();
        for operation in operations(&mut document()) {
            let call = operation.operation_id.clone().unwrap();
            assert!(problems(&call).is_some(), "{call}");
            // A card's number is shown nowhere; what the issuer sends is documented by the issuer.
            let without = ["card_secrets", "events", "serve", "authorization", "event"];
            assert_eq!(examples.contains_key(&call), !without.contains(&&*call), "{call}");
            assert!(operation.summary.is_some(), "{call}");
        }
    }

    /// Reads it as `T`, which writes the same again.
    fn is<T: DeserializeOwned + Serialize>(call: &str, example: Option<&Value>) {
        let example = example.unwrap_or_else(|| panic!("{call}"));
        let read: T = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{call}: {error}"));
        assert_eq!(serde_json::to_value(&read).unwrap(), *example, "{call}");
    }

    #[test]
    fn examples_are_what_the_types_read_and_write() {
        for (call, Example { request, answer }) in &examples() {
            match &**call {
                "request_mandate" => is::<NewMandateRequest>(call, request.as_ref()),
                "open_mandate" => is::<NewMandate>(call, request.as_ref()),
                "revoke" => is::<NewRevocation>(call, request.as_ref()),
                "pay" => is::<NewPayment>(call, request.as_ref()),
                "pay_many" => is::<NewPayments>(call, request.as_ref()),
                "create_card" => is::<NewCard>(call, request.as_ref()),
                "explain" => is::<Explain>(call, request.as_ref()),
                _ => assert!(request.is_none(), "{call}"),
            }
            let check = match &**call {
                "healthz" | "readyz" => is::<Health>,
                "info" => is::<Info>,
                "request_mandate" | "mandate_request" => is::<MandateRequest>,
                "open_mandate" | "mandate" | "revoke" => is::<Mandate>,
                "pay" | "payment" => is::<Payment>,
                "pay_many" => is::<PaymentResults>,
                "create_card" | "card" | "close_card" => is::<Card>,
                "explain" => is::<Explanation>,
                "mandate_requests" => is::<Page<MandateRequest>>,
                "mandates" => is::<Page<Mandate>>,
                "payments" => is::<Page<Payment>>,
                "cards" => is::<Page<Card>>,
                "audit" => is::<Page<AuditEntry>>,
                _ => panic!("an example of no call: {call}"),
            };
            check(call, answer.as_ref());
        }
    }
}
