//! `stipend merchant`: a merchant's terminal, for demos and tests. It charges cards at the mock
//! issuer, or at a sandbox, through the issuer's own simulation calls. The card's number passes
//! through and is never printed.

use std::time::Duration;

use clap::{Subcommand, error::ErrorKind};
use eyre::{WrapErr, bail, eyre};
use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stipend_core::{Amount, CardId, api::CardSecrets, card::Mcc, host};
use url::Url;
use uuid::Uuid;

use crate::{
    context::Context,
    keys::{self, DevAccount},
    output::{self, Declined},
};

/// How long the issuer may take to answer: more than it gives the program to decide.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Charge a card: fetch its number as its agent, ask for authorization, and clear it if approved
    #[command(after_help = "\
Examples, with the key that `stipend dev` prints in STIPEND_ISSUER_API_KEY:
  stipend merchant charge --card card_… --amount 18.40 --descriptor \"ADS INC\" --mcc 5734
  stipend merchant charge --card card_… --amount 18.40 --descriptor \"ADS INC\" --mcc 5734 --no-clear

Exit code 3: the charge was declined.")]
    Charge(Charge),
    /// Clear a transaction: the merchant takes the money
    #[command(after_help = "\
Examples:
  stipend merchant clear --transaction 7d9c…
  stipend merchant clear --transaction 7d9c… --amount 10.00")]
    Clear(Step),
    /// Void a transaction: the merchant lets the money go
    #[command(after_help = "\
Examples:
  stipend merchant void --transaction 7d9c…
  stipend merchant void --transaction 7d9c… --amount 10.00")]
    Void(Step),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Charge {
    /// The card
    #[arg(long)]
    card: CardId,
    /// How much, in US dollars
    #[arg(long, value_name = "USD", value_parser = cents)]
    amount: Amount,
    /// The merchant's name, up to 25 characters
    #[arg(long, value_name = "TEXT")]
    descriptor: String,
    /// The merchant's category (ISO 18245)
    #[arg(long)]
    mcc: Mcc,
    /// Leave it open, for `clear` and `void`
    #[arg(long)]
    no_clear: bool,
    #[command(flatten)]
    issuer: IssuerArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Step {
    /// The transaction, as `charge` printed it
    #[arg(long, value_name = "TOKEN")]
    transaction: Uuid,
    /// The amount in US dollars [default: all that is authorized]
    #[arg(long, value_name = "USD", value_parser = cents)]
    amount: Option<Amount>,
    #[command(flatten)]
    issuer: IssuerArgs,
}

#[derive(Debug, clap::Args)]
struct IssuerArgs {
    /// The card issuer's API
    #[arg(
        long,
        value_name = "URL",
        env = "STIPEND_ISSUER_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8430"
    )]
    issuer_url: Url,
    /// The issuer's API key; prefer the environment variable
    #[arg(long, value_name = "KEY", env = "STIPEND_ISSUER_API_KEY", hide_env_values = true, value_parser = keys::api_key)]
    issuer_key: Option<SecretString>,
}

fn cents(text: &str) -> Result<Amount, String> {
    let amount: Amount = text.parse().map_err(|error| format!("{error}"))?;
    if amount.cents().is_some_and(|cents| cents > 0) {
        Ok(amount)
    } else {
        Err("one cent or more, in whole cents".into())
    }
}

pub(crate) async fn run(context: &Context, command: Command) -> eyre::Result<()> {
    match command {
        Command::Charge(args) => charge(context, args).await,
        Command::Clear(args) => step(context, args, "clearing").await,
        Command::Void(args) => step(context, args, "void").await,
    }
}

async fn charge(context: &Context, args: Charge) -> eyre::Result<()> {
    let terminal = Terminal::new(args.issuer)?;
    let caller = context.caller(DevAccount::Agent).await?;
    let secrets = caller.client.card_secrets(args.card).await?;
    let transaction = terminal.authorize(&secrets, args.amount, &args.descriptor, args.mcc).await?;
    let receipt = terminal.receipt(transaction).await?;
    output::result(context.json(), &receipt, Receipt::to_human)?;
    if !receipt.is_approved() {
        return Err(Declined.into());
    }
    if args.no_clear {
        return Ok(());
    }
    terminal.simulate("clearing", json!({ "token": transaction })).await?;
    output::result(context.json(), &terminal.receipt(transaction).await?, Receipt::to_human)
}

async fn step(context: &Context, args: Step, what: &str) -> eyre::Result<()> {
    let terminal = Terminal::new(args.issuer)?;
    let mut body = json!({ "token": args.transaction });
    if let (Some(amount), Some(fields)) = (args.amount, body.as_object_mut()) {
        fields.insert("amount".into(), amount.cents().into());
    }
    terminal.simulate(what, body).await?;
    output::result(context.json(), &terminal.receipt(args.transaction).await?, Receipt::to_human)
}

/// The issuer's API, as far as a terminal needs it.
struct Terminal {
    base: Url,
    key: SecretString,
    http: reqwest::Client,
}

/// What every answer of a simulation may have.
#[derive(Deserialize)]
struct Answer {
    token: Option<Uuid>,
    message: Option<String>,
}

impl Terminal {
    fn new(IssuerArgs { issuer_url, issuer_key }: IssuerArgs) -> eyre::Result<Self> {
        // What is sent is for this issuer, and not to be carried elsewhere.
        let mut http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(REQUEST_TIMEOUT);
        if issuer_url.host_str().is_some_and(host::is_loopback) {
            http = http.no_proxy();
        }
        let http = http.build()?;
        let key = issuer_key.unwrap_or_else(|| {
            let missing = "the issuer's API key is missing: set STIPEND_ISSUER_API_KEY, to the one that `stipend dev` \
                           prints or to your own\n";
            clap::Error::raw(ErrorKind::MissingRequiredArgument, missing).exit()
        });
        Ok(Self { base: issuer_url, key, http })
    }

    /// Asks for authorization. A declined one is a transaction too.
    async fn authorize(&self, secrets: &CardSecrets, amount: Amount, descriptor: &str, mcc: Mcc) -> eyre::Result<Uuid> {
        let body = json!({ "pan": secrets.number, "amount": amount.cents(), "descriptor": descriptor, "mcc": mcc.to_string() });
        let (status, answer) = self.call(Method::POST, "/v1/simulate/authorize", Some(body)).await?;
        let Answer { token, message } = serde_json::from_value(answer).wrap_err("not an answer of a card issuer")?;
        match token {
            Some(token) if status.is_success() || status == StatusCode::UNPROCESSABLE_ENTITY => Ok(token),
            // Whatever it says, it may quote what it was sent.
            _ => Err(refused(status, message.map(|message| message.replace(&secrets.number, "****")))),
        }
    }

    /// Takes a transaction a step further.
    async fn simulate(&self, what: &str, body: Value) -> eyre::Result<()> {
        let (status, answer) = self.call(Method::POST, &format!("/v1/simulate/{what}"), Some(body)).await?;
        if status.is_success() {
            return Ok(());
        }
        Err(refused(status, answer.get("message").and_then(Value::as_str).map(str::to_owned)))
    }

    async fn receipt(&self, transaction: Uuid) -> eyre::Result<Receipt> {
        let (status, answer) = self.call(Method::GET, &format!("/v1/transactions/{transaction}"), None).await?;
        if !status.is_success() {
            return Err(refused(status, answer.get("message").and_then(Value::as_str).map(str::to_owned)));
        }
        let told: IssuerTransaction = serde_json::from_value(answer).wrap_err("not a transaction of a card issuer")?;
        told.try_into()
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> eyre::Result<(StatusCode, Value)> {
        let at = output::url(&self.base);
        let mut request = self.http.request(method, self.base.join(path)?);
        request = request.header(header::AUTHORIZATION, self.key.expose_secret());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|error| {
            if error.is_connect() {
                eyre!("no issuer answers at {at}: set --issuer-url or STIPEND_ISSUER_URL, or start one (`stipend dev`, `stipend issuer`)")
            } else {
                eyre!("no answer from the issuer at {at}: the outcome is unknown, so look at the card before trying again")
            }
        })?;
        let status = answer.status();
        let body = answer.json().await.map_err(|_| eyre!("{at} answered {status} with what no issuer says"))?;
        Ok((status, body))
    }
}

fn refused(status: StatusCode, message: Option<String>) -> eyre::Report {
    eyre!("the issuer refuses ({status}): {}", output::sanitize(&message.unwrap_or_default()))
}

/// A transaction as the issuer tells it: the part that a terminal prints.
#[derive(Deserialize)]
struct IssuerTransaction {
    token: Uuid,
    status: String,
    result: String,
    amount: i64,
    settled_amount: i64,
    merchant: Merchant,
}

#[derive(Deserialize)]
struct Merchant {
    descriptor: String,
    mcc: String,
}

/// What a terminal prints.
#[derive(Debug, Serialize)]
struct Receipt {
    transaction: Uuid,
    /// PENDING, SETTLED, VOIDED, EXPIRED or DECLINED.
    status: String,
    /// APPROVED, or why not.
    result: String,
    amount: Amount,
    cleared: Amount,
    merchant: String,
    mcc: String,
}

impl TryFrom<IssuerTransaction> for Receipt {
    type Error = eyre::Report;

    fn try_from(told: IssuerTransaction) -> eyre::Result<Self> {
        let (Some(amount), Some(cleared)) = (Amount::from_cents(told.amount), Amount::from_cents(told.settled_amount))
        else {
            bail!("the issuer reports an impossible amount: {} cents, {} cleared", told.amount, told.settled_amount);
        };
        let Merchant { descriptor: merchant, mcc } = told.merchant;
        Ok(Self { transaction: told.token, status: told.status, result: told.result, amount, cleared, merchant, mcc })
    }
}

impl Receipt {
    fn is_approved(&self) -> bool {
        self.result == "APPROVED"
    }

    fn to_human(&self) -> String {
        let Self { transaction, status, result, amount, cleared, merchant, mcc } = self;
        let what = match status.as_str() {
            "DECLINED" => format!("declined: {amount} USD: {}", output::sanitize(result)),
            "PENDING" => format!("approved: {amount} USD"),
            "SETTLED" => format!("cleared: {cleared} USD"),
            other => output::sanitize(&other.to_lowercase()),
        };
        format!("{what} at {} ({})\ntransaction {transaction}", output::sanitize(merchant), output::sanitize(mcc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: &str, result: &str, settled: i64) -> Receipt {
        let transaction = json!({
            "token": Uuid::nil(), "status": status, "result": result, "amount": 1_840, "settled_amount": settled,
            "merchant": { "descriptor": "ADS\u{1b}[2K", "mcc": "5734", "city": "" }, "events": [],
        });
        serde_json::from_value::<IssuerTransaction>(transaction).unwrap().try_into().unwrap()
    }

    #[test]
    fn a_receipt_says_what_became_of_the_charge() {
        let declined = told("DECLINED", "UNAUTHORIZED_MERCHANT", 0);
        assert!(!declined.is_approved());
        let text = declined.to_human();
        assert!(text.starts_with("declined: 18.40 USD: UNAUTHORIZED_MERCHANT at ADS\\u{1b}[2K (5734)\n"), "{text}");
        assert!(told("PENDING", "APPROVED", 0).to_human().starts_with("approved: 18.40 USD at"));
        assert!(told("SETTLED", "APPROVED", 1_000).to_human().starts_with("cleared: 10.00 USD at"));
        assert!(told("VOIDED", "APPROVED", 0).to_human().starts_with("voided at"));
    }

    #[test]
    fn a_terminal_takes_whole_cents() {
        assert!(cents("18.40").is_ok());
        for bad in ["18.401", "0", "0.00", "-1", "x"] {
            assert!(cents(bad).is_err(), "{bad}");
        }
    }
}
