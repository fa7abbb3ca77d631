//! The card issuer as a process, and its questions about charges.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use eyre::{OptionExt, Result, WrapErr, ensure};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use stipend_client::now;
use stipend_core::CardId;

use crate::{
    generator,
    http::{Answer, Connection, get, post},
    process::{Process, eventually, free_port},
};

/// What a charge is over.
const CENTS: i64 = 100;

/// A running `stipend issuer`.
#[derive(Debug)]
pub(crate) struct Issuer {
    process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

impl Issuer {
    pub(crate) async fn start(program: &Path, dir: &Path) -> Result<Self> {
        let port = free_port()?;
        let (address, key) = ((Ipv4Addr::LOCALHOST, port).into(), format!("key-of-the-issuer-on-port-{port}"));
        let mut command = Command::new(program);
        command.args(["issuer", "--port", &port.to_string(), "--database"]).arg(dir.join("issuer.db"));
        command.env_clear().env("STIPEND_ISSUER_API_KEY", &key).env("RUST_LOG", "warn");
        let process = Process::start(&mut command, dir.join("issuer.log"))?;
        let mut issuer = Self { process, address, key };
        eventually("the issuer answers", Duration::from_millis(20), async || {
            issuer.process.must_run()?;
            Ok(Connection::open(address).await.ok().map(drop))
        })
        .await?;
        Ok(issuer)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let mut connection = Connection::open(self.address).await?;
        let answer = connection.call(&get(self.address, path, &[("authorization", &self.key)])).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        Ok(serde_json::from_slice(answer.body)?)
    }

    /// Its name of a card.
    ///
    /// # Errors
    /// If it has made none.
    pub(crate) async fn token(&self, card: CardId) -> Result<String> {
        let cards = self.get(&format!("/v1/cards?memo={card}")).await?;
        let token = cards.pointer("/data/0/token").and_then(Value::as_str);
        Ok(token.ok_or_eyre("the issuer has not made the card")?.to_owned())
    }

    /// `count` questions about charges of these cards in turn, each a charge of its own, signed now. A card is charged
    /// once: the relayer declines all but the first, and stores each answer before it gives it.
    pub(crate) async fn questions(
        &self,
        relayer: SocketAddr,
        cards: &[String],
        count: u64,
    ) -> Result<VecDeque<Vec<u8>>> {
        let secret = self.get("/v1/auth_stream/secret").await?;
        let secret = secret.pointer("/secret").and_then(Value::as_str).ok_or_eyre("no secret")?;
        let (webhook, at) = (Webhook::new(secret).wrap_err("the issuer's secret")?, now());
        let money = json!({ "amount": CENTS, "currency": "USD" });
        let amounts = json!({ "cardholder": money, "hold": money, "merchant": money });
        let merchant = json!({ "descriptor": "A MERCHANT", "mcc": "5734" });
        let question = |(number, card): (u64, &String)| {
            let id = format!("{at}-{number}-{card}");
            let body = json!({
                "token": id, "status": "AUTHORIZATION", "card": { "token": card }, "amounts": amounts, "merchant": merchant,
            })
            .to_string();
            let signature = webhook.sign(&id, i64::try_from(at)?, body.as_bytes()).wrap_err("signing a question")?;
            let headers =
                [("webhook-id", &*id), ("webhook-timestamp", &at.to_string()), ("webhook-signature", &signature)];
            Ok(post(relayer, "/v1/issuer/authorizations", &headers, body.as_bytes()))
        };
        (0..count).zip(cards.iter().cycle()).map(question).collect()
    }
}

/// A question that was answered, one way or the other.
pub(crate) const IS_ANSWERED: generator::Check = |answer: Answer<'_>| {
    const RESULT: &[u8] = br#""result":"#;
    answer.status == 200 && answer.body.windows(RESULT.len()).any(|window| window == RESULT)
};
