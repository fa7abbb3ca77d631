//! The issuer's API, as a client: the part of Lithic's that cards need. Bodies are never logged;
//! those of cards hold their numbers.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use stipend_core::{CardId, api::CardSecrets, host};
use url::Url;

use super::{CardsConfig, signature::SigningSecret};
use crate::ledger::charges;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What a responder is for, in the issuer's words, and where it is here.
const RESPONDER: &str = "AUTH_STREAM_ACCESS";
const AUTHORIZATIONS: &str = "/v1/issuer/authorizations";

/// Why the issuer did not do it.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// It said no.
    #[error("the issuer refuses {path}: {status}")]
    Refused {
        /// What was asked.
        path: String,
        /// Its answer.
        status: StatusCode,
    },
    /// No answer, or none that can be read: it may have been done.
    #[error("the issuer gives no usable answer to {0}")]
    Unknown(String),
}

/// What lists are of.
trait Listed: DeserializeOwned {
    /// What the next page starts after.
    fn token(&self) -> &str;
}

impl Listed for Transaction {
    fn token(&self) -> &str {
        &self.token
    }
}

impl Listed for Subscription {
    fn token(&self) -> &str {
        &self.token
    }
}

/// What the issuer signs its calls with.
#[derive(Clone, Debug)]
pub struct IssuerSecrets {
    /// Its questions about charges.
    pub asa: SigningSecret,
    /// What it tells afterwards.
    pub webhook: SigningSecret,
}

/// A card as the issuer tells it, without its secrets.
#[derive(Clone, Debug, Deserialize)]
pub struct IssuedCard {
    /// The issuer's name of it.
    pub token: String,
    /// The last digits of its number.
    pub last_four: String,
    /// OPEN, PAUSED, CLOSED.
    pub state: String,
}

/// A card with its secrets: only ever on its way to its owner.
#[derive(Deserialize)]
struct FullCard {
    pan: Option<String>,
    cvv: Option<String>,
    exp_month: Option<String>,
    exp_year: Option<String>,
}

#[derive(Deserialize)]
struct List<T> {
    data: Vec<T>,
    has_more: bool,
}

#[derive(Deserialize)]
struct Secret {
    secret: String,
}

#[derive(Deserialize)]
struct Subscription {
    token: String,
    url: String,
    #[serde(default)]
    disabled: bool,
}

/// A transaction of a card, as webhooks and lists tell it.
#[derive(Clone, Debug, Deserialize)]
pub struct Transaction {
    /// The issuer's name of it.
    pub token: String,
    pub card_token: String,
    /// Everything that happened to it.
    #[serde(default)]
    pub events: Vec<TransactionEvent>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TransactionEvent {
    token: String,
    #[serde(rename = "type")]
    kind: String,
    amount: i64,
    created: String,
    result: String,
}

impl Transaction {
    /// Its events as the ledger takes them.
    pub fn events(&self) -> impl Iterator<Item = charges::ChargeEvent> + '_ {
        self.events.iter().map(|event| charges::ChargeEvent {
            token: event.token.clone(),
            transaction: self.token.clone(),
            created: event.created.clone(),
            kind: event.kind.clone(),
            cents: event.amount,
            approved: event.result == "APPROVED",
        })
    }
}

/// The issuer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Issuer {
    base: Url,
    key: SecretString,
    http: reqwest::Client,
}

impl Issuer {
    /// The issuer that is set.
    pub fn new(config: &CardsConfig) -> Result<Self, reqwest::Error> {
        // The API key is for this host alone.
        let mut http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(REQUEST_TIMEOUT);
        if config.issuer.host_str().is_some_and(host::is_loopback) {
            http = http.no_proxy();
        }
        let http = http.build()?;
        Ok(Self { base: config.issuer.clone(), key: config.api_key.clone(), http })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<serde_json::Value>,
        idempotency_key: Option<String>,
    ) -> Result<T, IssuerError> {
        let unknown = || IssuerError::Unknown(path.to_owned());
        let mut url = self.base.join(path).map_err(|_| unknown())?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url);
        request = request.header(header::AUTHORIZATION, self.key.expose_secret());
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        // The errors of the HTTP client can quote what was sent and received: they go no further.
        let answer = request.send().await.map_err(|error| {
            let why = if error.is_connect() { "no connection" } else { "the connection broke or took too long" };
            IssuerError::Unknown(format!("{path} ({why})"))
        })?;
        let status = answer.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
        {
            return Err(unknown());
        }
        if !status.is_success() {
            return Err(IssuerError::Refused { path: path.to_owned(), status });
        }
        answer.json().await.map_err(|_| unknown())
    }

    /// Creates a card of this many cents in all. The same id gives the same card. That it is used once is
    /// seen to here: an issuer's single-use card would be closed by a merchant who only verifies it.
    ///
    /// # Errors
    /// [`IssuerError`]; after `Unknown` there may be a card: see [`Issuer::find`].
    pub async fn create(&self, id: CardId, cents: i64) -> Result<IssuedCard, IssuerError> {
        let body = json!({
            "type": "VIRTUAL", "spend_limit": cents, "spend_limit_duration": "FOREVER", "state": "OPEN",
            "memo": id.to_string(),
        });
        self.call(Method::POST, "/v1/cards", &[], Some(body), Some(id.0.to_string())).await
    }

    /// The card that was created for this id, if there is one.
    pub async fn find(&self, id: CardId) -> Result<Option<IssuedCard>, IssuerError> {
        let memo = id.to_string();
        let list: List<IssuedCard> = self.call(Method::GET, "/v1/cards", &[("memo", &memo)], None, None).await?;
        Ok(list.data.into_iter().next())
    }

    /// What the issuer says of a card.
    pub async fn card(&self, token: &str) -> Result<IssuedCard, IssuerError> {
        self.call(Method::GET, &format!("/v1/cards/{token}"), &[], None, None).await
    }

    /// Sets a card's state: OPEN, PAUSED, or CLOSED for good.
    pub async fn set_state(&self, token: &str, state: &str) -> Result<IssuedCard, IssuerError> {
        let path = format!("/v1/cards/{token}");
        let card = self.card(token).await?;
        // What is closed stays closed, and some issuers refuse to be told again.
        if card.state == state || card.state == "CLOSED" {
            return Ok(card);
        }
        self.call(Method::PATCH, &path, &[], Some(json!({ "state": state })), None).await
    }

    /// What a merchant's form asks for.
    pub async fn secrets(&self, token: &str) -> Result<CardSecrets, IssuerError> {
        let path = format!("/v1/cards/{token}");
        let card: FullCard = self.call(Method::GET, &path, &[], None, None).await?;
        // Absent where the host's program may not see numbers (PCI DSS).
        match (card.pan, card.cvv, card.exp_month, card.exp_year) {
            (Some(number), Some(cvv), Some(exp_month), Some(exp_year)) => {
                Ok(CardSecrets { number, cvv, exp_month, exp_year })
            }
            _ => Err(IssuerError::Unknown(path)),
        }
    }

    /// All transactions of a card.
    pub async fn transactions(&self, token: &str) -> Result<Vec<Transaction>, IssuerError> {
        self.list("/v1/transactions", &[("card_token", token)]).await
    }

    /// Everything in a list, page by page.
    async fn list<T: Listed>(&self, path: &str, filter: &[(&str, &str)]) -> Result<Vec<T>, IssuerError> {
        let mut all: Vec<T> = Vec::new();
        loop {
            let last = all.last().map(|last| last.token().to_owned());
            let mut query = [filter, &[("page_size", "100")]].concat();
            query.extend(last.as_deref().map(|last| ("starting_after", last)));
            let page: List<T> = self.call(Method::GET, path, &query, None, None).await?;
            let more = page.has_more && !page.data.is_empty();
            all.extend(page.data);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Where the issuer asks before it approves a charge, if that is elsewhere than at `callback`.
    pub async fn other_responder(&self, callback: &Url) -> Result<Option<String>, IssuerError> {
        #[derive(Deserialize)]
        struct Enrolled {
            url: Option<String>,
        }
        let filter = [("type", RESPONDER)];
        let enrolled: Enrolled = self.call(Method::GET, "/v1/responder_endpoints", &filter, None, None).await?;
        let ours = callback.join(AUTHORIZATIONS).ok();
        Ok(enrolled.url.filter(|url| ours.is_none_or(|ours| ours.as_str() != url)))
    }

    /// Has the issuer call us: before it approves a charge, and after everything that happens.
    /// Done again, it changes nothing. Returns the secrets that it signs those calls with.
    pub async fn register_webhooks(&self, callback: &Url) -> Result<IssuerSecrets, IssuerError> {
        #[derive(Serialize)]
        struct Responder<'a> {
            r#type: &'a str,
            url: &'a str,
        }
        let at = |path: &str| callback.join(path).map_err(|_| IssuerError::Unknown(path.to_owned()));
        let (question, events) = (at(AUTHORIZATIONS)?, at("/v1/issuer/events")?);
        let parse = |secret: Secret| {
            SigningSecret::parse(&secret.secret).ok_or_else(|| IssuerError::Unknown("a secret".into()))
        };
        let responder = Responder { r#type: RESPONDER, url: question.as_str() };
        let body = serde_json::to_value(responder).map_err(|_| IssuerError::Unknown("a body".into()))?;
        let _: serde_json::Value = self.call(Method::POST, "/v1/responder_endpoints", &[], Some(body), None).await?;
        let secret = self.call(Method::GET, "/v1/auth_stream/secret", &[], None, None).await?;
        let asa_secret = parse(secret)?;

        let known: Vec<Subscription> = self.list("/v1/event_subscriptions", &[]).await?;
        let known = known.into_iter().find(|known| known.url == events.as_str() && !known.disabled);
        let subscription = match known {
            Some(known) => known,
            None => {
                let body = json!({ "url": events.as_str(), "event_types": ["card_transaction.updated"] });
                self.call(Method::POST, "/v1/event_subscriptions", &[], Some(body), None).await?
            }
        };
        let path = format!("/v1/event_subscriptions/{}/secret", subscription.token);
        let webhook_secret = parse(self.call(Method::GET, &path, &[], None, None).await?)?;
        Ok(IssuerSecrets { asa: asa_secret, webhook: webhook_secret })
    }
}
