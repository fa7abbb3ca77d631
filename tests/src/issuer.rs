//! `stipend issuer` as a process, and the merchants that charge its cards.
#![expect(clippy::indexing_slicing, reason = "what a JSON object does not have is null")]

use std::{path::Path, process::Command};

use eyre::{Result, WrapErr, bail, ensure, eyre};
use reqwest::Method;
use serde_json::{Value, json};
use stipend_core::{CardId, api::CardSecrets};
use url::Url;

use crate::{
    Answer, ApiRequest, Secrets, eventually,
    process::{Process, binary, free_port},
};

/// The file in which the issuer, and nobody else, may keep its cards' numbers.
pub(crate) const DATABASE: &str = "issuer.db";

/// How long the issuer waits for an answer about a charge. Lithic's six seconds are too long to wait
/// for in a test.
pub const ASA_LIMIT_MS: u64 = 3_000;

/// When an event is delivered again: soon, and for as long as a test may take.
const RETRIES: &str = "0,200,400,800,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000";

/// What a charge of a card comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Charge {
    /// It passed; the issuer's name of the transaction.
    Approved(String),
    /// It did not.
    Declined {
        /// The issuer's name of the transaction all the same.
        transaction: String,
        /// Why, in the issuer's words.
        detail: String,
    },
}

impl Charge {
    /// The issuer's name of a charge that must have passed.
    ///
    /// # Errors
    /// If it was declined.
    pub fn approved(self) -> Result<String> {
        match self {
            Self::Approved(transaction) => Ok(transaction),
            Self::Declined { detail, .. } => bail!("declined: {detail}"),
        }
    }

    /// Why a charge that must not have passed was declined, in the issuer's words.
    ///
    /// # Errors
    /// If it passed.
    pub fn declined(self) -> Result<String> {
        match self {
            Self::Approved(transaction) => bail!("{transaction} was approved"),
            Self::Declined { detail, .. } => Ok(detail),
        }
    }
}

/// Where and for how much a card is charged.
#[derive(Clone, Copy, Debug)]
pub struct Purchase<'a> {
    pub cents: i64,
    /// The merchant's category.
    pub mcc: &'a str,
    /// The merchant's currency.
    pub currency: &'a str,
    /// The kind of message: authorized first and cleared later, or both at once.
    pub status: &'a str,
    /// The merchant's name.
    pub merchant: &'a str,
}

impl Purchase<'_> {
    /// A purchase of software for this many cents.
    pub const fn of(cents: i64) -> Self {
        Self { cents, mcc: "5734", currency: "USD", status: "AUTHORIZATION", merchant: "A MERCHANT" }
    }
}

/// How a charge is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    /// By the merchant: this many cents, or all.
    Reversal(Option<i64>),
    /// By time, before anything was cleared.
    Expiry,
    /// By time, what is still pending.
    Rest,
}

/// What the issuer says about all charges of a card that it has asked about, in cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charged {
    /// How many were approved.
    pub approved: usize,
    /// Still held for the merchant.
    pub pending: i64,
    /// Cleared, in cents.
    pub cleared: i64,
}

/// An issuer. Its address stays the same.
#[derive(Debug)]
pub struct Issuer {
    _process: Process,
    http: reqwest::Client,
    url: Url,
    key: String,
}

impl Issuer {
    /// Starts one with an empty database below `dir`.
    pub(crate) async fn start(dir: &Path, secrets: &Secrets) -> Result<Self> {
        let port = free_port()?;
        let url: Url = format!("http://127.0.0.1:{port}").parse()?;
        let key = format!("key-to-the-issuer-on-port-{port}");
        secrets.password("the issuer's API key", &key);
        let mut command = Command::new(binary()?);
        command
            .args(["issuer", "--port", &port.to_string(), "--retry-schedule-ms", RETRIES])
            .args(["--asa-limit-ms", &ASA_LIMIT_MS.to_string()])
            .arg("--database")
            .arg(dir.join(DATABASE))
            .env_clear()
            .env("STIPEND_ISSUER_API_KEY", &key)
            .env("RUST_LOG", "debug");
        let mut process = Process::start(&mut command, &dir.join("issuer.log"))?;
        let status = url.join("/v1/status")?;
        eventually("the issuer answers", async || {
            process.must_run()?;
            Ok(reqwest::get(status.clone()).await.ok())
        })
        .await?;
        Ok(Self { _process: process, http: reqwest::Client::new(), url, key })
    }

    /// Where it listens.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// A call with the key.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer> {
        let url = self.url.join(path)?;
        let call = match body {
            Some(body) => ApiRequest::post(url, body.to_string()),
            None => ApiRequest::get(url),
        };
        ApiRequest { method, ..call }.with("authorization", &self.key)?.send_by(&self.http).await
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.call(Method::GET, path, None).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        answer.json()
    }

    async fn post(&self, path: &str, body: Value) -> Result<()> {
        let answer = self.call(Method::POST, path, Some(body)).await?;
        ensure!(answer.status == 201, "{path}: {} {:?}", answer.status, answer.json());
        Ok(())
    }

    /// Sets switches of the switchboard.
    ///
    /// # Errors
    /// If there are no such switches.
    pub async fn fault(&self, switches: Value) -> Result<()> {
        let answer = self.call(Method::PATCH, "/_mock", Some(switches)).await?;
        ensure!(answer.status == 200, "{:?}", answer.json());
        Ok(())
    }

    /// The switchboard as it is now.
    ///
    /// # Errors
    /// If the issuer fails; so for all calls.
    pub async fn faults(&self) -> Result<Value> {
        self.get("/_mock").await
    }

    /// No faults any more.
    pub async fn well(&self) -> Result<()> {
        let answer = self.call(Method::POST, "/_mock/reset", None).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    }

    /// A merchant charges a card.
    pub async fn charge(&self, card: &CardSecrets, purchase: Purchase<'_>) -> Result<Charge> {
        let body = json!({
            "amount": purchase.cents, "descriptor": purchase.merchant, "pan": card.number, "mcc": purchase.mcc,
            "merchant_amount": purchase.cents, "merchant_currency": purchase.currency, "status": purchase.status,
        });
        let answer = self.call(Method::POST, "/v1/simulate/authorize", Some(body)).await?;
        let told = answer.json()?;
        let token = told["token"].as_str().ok_or_else(|| eyre!("{told}"))?.to_owned();
        match answer.status {
            201 => Ok(Charge::Approved(token)),
            422 => {
                let transaction = self.get(&format!("/v1/transactions/{token}")).await?;
                let detail = transaction["events"][0]["detailed_results"][0].as_str().unwrap_or_default().to_owned();
                Ok(Charge::Declined { transaction: token, detail })
            }
            status => bail!("{status}: {told}"),
        }
    }

    /// Clears this many cents of a charge, or all that is pending.
    pub async fn clear(&self, transaction: &str, cents: Option<i64>) -> Result<()> {
        let mut body = json!({ "token": transaction });
        if let Some(cents) = cents {
            body["amount"] = cents.into();
        }
        self.post("/v1/simulate/clearing", body).await
    }

    /// A merchant refunds this many cents to a card.
    pub async fn refund(&self, card: &CardSecrets, cents: i64) -> Result<()> {
        let body = json!({ "amount": cents, "descriptor": "A MERCHANT", "pan": card.number });
        self.post("/v1/simulate/return", body).await
    }

    /// What merchants took with one of its cards, less what they gave back, in cents.
    pub async fn settled(&self, token: &str) -> Result<i64> {
        let list = self.get(&format!("/v1/transactions?card_token={token}&page_size=100")).await?;
        let amounts = list["data"].as_array().into_iter().flatten();
        Ok(-amounts.filter_map(|transaction| transaction["amounts"]["settlement"]["amount"].as_i64()).sum::<i64>())
    }

    /// A charge is taken back.
    pub async fn void(&self, transaction: &str, void: Void) -> Result<()> {
        let mut body = json!({ "token": transaction });
        match void {
            Void::Reversal(Some(cents)) => body["amount"] = cents.into(),
            Void::Reversal(None) => {}
            Void::Expiry => body["type"] = "AUTHORIZATION_EXPIRY".into(),
            Void::Rest => {
                let path = format!("/v1/transactions/{transaction}/expire_authorization");
                let answer = self.call(Method::POST, &path, None).await?;
                ensure!(answer.status == 202, "{}", answer.status);
                return Ok(());
            }
        }
        self.post("/v1/simulate/void", body).await
    }

    /// Sets a card's state behind the relayer's back.
    pub async fn set_state(&self, token: &str, state: &str) -> Result<()> {
        let answer = self.call(Method::PATCH, &format!("/v1/cards/{token}"), Some(json!({ "state": state }))).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    }

    /// Its cards for this one of ours: there is to be one at most.
    pub async fn cards_for(&self, id: CardId) -> Result<Vec<Value>> {
        let list = self.get(&format!("/v1/cards?memo={id}")).await?;
        Ok(list["data"].as_array().cloned().unwrap_or_default())
    }

    /// Its only card for this one of ours.
    pub async fn card_for(&self, id: CardId) -> Result<Value> {
        let mut cards = self.cards_for(id).await?;
        let card = cards.pop().ok_or_else(|| eyre!("no card for {id}"))?;
        ensure!(cards.is_empty(), "several cards for {id}");
        Ok(card)
    }

    /// How many cards it has made.
    pub async fn count(&self) -> Result<usize> {
        let list = self.get("/v1/cards?page_size=100").await?;
        ensure!(list["has_more"] == false, "more cards than a page");
        Ok(list["data"].as_array().map_or(0, Vec::len))
    }

    /// What it says about all charges of one of its cards that it has asked about.
    pub async fn charged(&self, token: &str) -> Result<Charged> {
        let list = self.get(&format!("/v1/transactions?card_token={token}&page_size=100")).await?;
        let mut sum = Charged::default();
        for transaction in list["data"].as_array().into_iter().flatten() {
            if transaction["events"][0]["type"] != "AUTHORIZATION" {
                continue;
            }
            let cents = |what: &str| transaction["amounts"][what]["amount"].as_i64().map(|cents| -cents);
            if transaction["result"] == "APPROVED" {
                sum.approved += 1;
            }
            sum.pending += cents("hold").ok_or_else(|| eyre!("{transaction}"))?;
            sum.cleared += cents("settlement").ok_or_else(|| eyre!("{transaction}"))?;
        }
        Ok(sum)
    }

    /// The payloads of all news about transactions so far, oldest first.
    pub async fn events(&self) -> Result<Vec<Value>> {
        let list = self.get("/v1/events?event_types=card_transaction.updated&with_content=true&page_size=100").await?;
        let newest_first = list["data"].as_array().cloned().unwrap_or_default();
        Ok(newest_first.into_iter().rev().map(|event| event["payload"].clone()).collect())
    }

    /// What it signs its questions and its news with, in this order.
    pub async fn signing_secrets(&self) -> Result<[String; 2]> {
        let questions = self.get("/v1/auth_stream/secret").await?;
        let subscriptions = self.get("/v1/event_subscriptions").await?;
        let token = subscriptions["data"][0]["token"].as_str().ok_or_else(|| eyre!("nobody listens"))?;
        let news = self.get(&format!("/v1/event_subscriptions/{token}/secret")).await?;
        let secret = |told: &Value| told["secret"].as_str().map(str::to_owned).ok_or_else(|| eyre!("no secret"));
        Ok([secret(&questions)?, secret(&news)?])
    }
}

/// A call as the issuer would sign it, at `at` seconds since 1970.
///
/// # Errors
/// If the secret is none.
pub fn signed_by_issuer(secret: &str, url: Url, body: &str, id: &str, at: u64) -> Result<ApiRequest> {
    let webhook = standardwebhooks::Webhook::new(secret).wrap_err("a secret")?;
    let signature = webhook.sign(id, i64::try_from(at)?, body.as_bytes()).wrap_err("a signature")?;
    ApiRequest::post(url, body)
        .with("webhook-id", id)?
        .with("webhook-timestamp", at.to_string())?
        .with("webhook-signature", signature)
}
