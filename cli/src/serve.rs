//! `stipend serve`: the relayer as one process.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use alloy_primitives::{Address, utils::parse_ether};
use eyre::{WrapErr, eyre};
use secrecy::SecretString;
use stipend_core::{Amount, HumanDuration, Seconds, address, host, policy::Limits};
use stipend_relayer::{
    api::{self, ApiConfig},
    app::{self, Config, Finality},
    cards::CardsConfig,
    service::RelayLimits,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    context::Context,
    keys::{self, DevAccount},
    logging::{self, LogFormat},
    networks::{self, Network},
    output, signals,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The key (--keystore, or STIPEND_PRIVATE_KEY) is the submitter's: the account that sends
transactions for the guardian and pays for their gas. There can be several: each sends one
transaction at a time (--submitter-keystore, or a list with commas in STIPEND_PRIVATE_KEY).
What is logged is set by RUST_LOG.

Examples:
  stipend serve --chain base --escrow 0x… --guardian 0x… --start-block 123 --rpc-url https://… \\
    --keystore submitter.json --password-file submitter.pass
  stipend serve --chain-id 31337 --escrow 0x… --guardian 0x… --confirmations 1 --finality 2

With cards (the issuer's key is in STIPEND_ISSUER_API_KEY):
  stipend serve … --issuer-url https://sandbox.lithic.com --treasury 0x… --callback-url https://…")]
pub(crate) struct Args {
    /// The address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT", env = "STIPEND_LISTEN", default_value = "127.0.0.1:8420")]
    listen: SocketAddr,
    /// The chain, by its id or as base, ethereum, arbitrum, …; the node must be on it. Sets the
    /// defaults below that depend on it (docs/reference/chains.md)
    #[arg(long, visible_alias = "chain", value_name = "NAME|ID", env = "STIPEND_CHAIN_ID", value_parser = networks::chain_id)]
    pub(crate) chain_id: u64,
    /// The MandateEscrow
    #[arg(long, value_name = "ADDRESS", env = "STIPEND_ESCROW", value_parser = address::parse)]
    pub(crate) escrow: Address,
    /// The guardian that this relayer acts for: it has allowed the submitter
    #[arg(long, value_name = "ADDRESS", env = "STIPEND_GUARDIAN", value_parser = address::parse)]
    pub(crate) guardian: Address,
    /// An additional submitter's keystore, with the same password; can be repeated
    #[arg(
        long = "submitter-keystore",
        value_name = "FILE",
        env = "STIPEND_SUBMITTER_KEYSTORES",
        value_delimiter = ','
    )]
    pub(crate) submitter_keystores: Vec<PathBuf>,
    /// The ledger
    #[arg(long, value_name = "FILE", env = "STIPEND_DATABASE", default_value = "stipend.db")]
    pub(crate) database: PathBuf,
    /// The first block to read into an empty ledger: the one the escrow was deployed in [default: the
    /// current block; always set it, because nothing before it is known otherwise]
    #[arg(long, value_name = "NUMBER", env = "STIPEND_START_BLOCK")]
    pub(crate) start_block: Option<u64>,
    /// Blocks, the including one counted, after which a mandate can be used
    #[arg(long, value_name = "BLOCKS", env = "STIPEND_CONFIRMATIONS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    confirmations: u64,
    /// When a block is final: `finalized`, the node's tag, or a number of blocks on top of it
    #[arg(long, value_name = "finalized|BLOCKS", env = "STIPEND_FINALITY", default_value = "finalized", value_parser = finality)]
    pub(crate) finality: Finality,
    /// How often to ask the node for a new block
    #[arg(long, value_name = "MILLISECONDS", env = "STIPEND_POLL_MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..))]
    poll_ms: u64,
    /// The highest gas price to pay [default: by chain]
    #[arg(long = "fee-ceiling-gwei", value_name = "GWEI", env = "STIPEND_FEE_CEILING_GWEI", value_parser = gwei)]
    fee_ceiling: Option<u64>,
    /// The shortest time to a payment's deadline
    #[arg(long, value_name = "SECONDS", env = "STIPEND_DEADLINE_MIN", default_value_t = Limits::default().deadline_min)]
    deadline_min: Seconds,
    /// The longest time to a payment's deadline
    #[arg(long, value_name = "SECONDS", env = "STIPEND_DEADLINE_MAX", default_value_t = Limits::default().deadline_max)]
    deadline_max: Seconds,
    /// The smallest payment, in USDC: gas is the host's money [default: by chain]
    #[arg(long, value_name = "USDC", env = "STIPEND_PAYMENT_MIN")]
    payment_min: Option<Amount>,
    /// The smallest mandate to open and revoke by message, in USDC [default: 1.00; on anvil any]
    #[arg(long, value_name = "USDC", env = "STIPEND_MANDATE_MIN")]
    mandate_min: Option<Amount>,
    /// How many mandates an operator may open by message in 24 hours [default: 20; on anvil any number]
    #[arg(long, value_name = "COUNT", env = "STIPEND_APPROVALS_PER_DAY", value_parser = clap::value_parser!(u32).range(1..))]
    approvals_per_day: Option<u32>,
    /// How many mandates of all operators together are opened by message in 24 hours [default: 500; on
    /// anvil any number]
    #[arg(long, value_name = "COUNT", env = "STIPEND_APPROVALS_PER_DAY_TOTAL", value_parser = clap::value_parser!(u32).range(1..))]
    approvals_per_day_total: Option<u32>,
    /// What a mandate that has ended must have left to be returned unasked, in USDC [default: 0.01; on anvil anything]
    #[arg(long, value_name = "USDC", env = "STIPEND_SWEEP_MIN")]
    sweep_min: Option<Amount>,
    /// The gas that a mandate may use per day (UTC), in ETH [default: by chain; on anvil unlimited]
    #[arg(long, value_name = "ETH", env = "STIPEND_GAS_BUDGET", value_parser = ether)]
    gas_budget: Option<u128>,
    /// The URL that callers use, if this runs behind a proxy: signed requests name it
    #[arg(long, value_name = "URL", env = "STIPEND_PUBLIC_URL")]
    public_url: Option<Url>,
    /// Requests per second allowed from one peer
    #[arg(long, value_name = "CALLS", env = "STIPEND_RATE_PEER")]
    rate_peer: Option<u32>,
    /// Requests per second allowed in total
    #[arg(long, value_name = "CALLS", env = "STIPEND_RATE_TOTAL")]
    rate_total: Option<u32>,
    /// Signed requests per second allowed from one key
    #[arg(long, value_name = "CALLS", env = "STIPEND_RATE_AGENT")]
    rate_agent: Option<u32>,
    /// The log format
    #[arg(long, value_name = "FORMAT", env = "STIPEND_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(flatten)]
    cards: CardArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cards")]
struct CardArgs {
    /// The card issuer's API [default: cards are disabled]
    #[arg(
        long,
        value_name = "URL",
        env = "STIPEND_ISSUER_URL",
        hide_env_values = true,
        requires_all = ["issuer_key", "treasury"]
    )]
    issuer_url: Option<Url>,
    /// The issuer's API key; prefer the environment variable
    #[arg(long, value_name = "KEY", env = "STIPEND_ISSUER_API_KEY", hide_env_values = true, value_parser = keys::api_key)]
    issuer_key: Option<SecretString>,
    /// The card program's treasury: receives what is captured
    #[arg(long, value_name = "ADDRESS", env = "STIPEND_TREASURY", value_parser = address::parse)]
    treasury: Option<Address>,
    /// The URL at which the issuer reaches this relayer [default: the listen address, if it is loopback]
    #[arg(long, value_name = "URL", env = "STIPEND_CALLBACK_URL", hide_env_values = true)]
    callback_url: Option<Url>,
    /// How long a card can be charged: 1h, 45m or 90s
    #[arg(long, value_name = "DURATION", env = "STIPEND_CARD_TTL", default_value = "1h")]
    card_ttl: HumanDuration,
    /// How often to poll the issuer for events that its webhooks may have missed
    #[arg(long, value_name = "DURATION", env = "STIPEND_ISSUER_POLL", default_value = "30s")]
    issuer_poll: HumanDuration,
}

impl CardArgs {
    /// The settings of cards on a relayer that listens there, if they are offered.
    fn config(self, listen: SocketAddr, public_url: Option<&Url>) -> eyre::Result<Option<CardsConfig>> {
        let (Some(issuer), Some(api_key), Some(treasury)) = (self.issuer_url, self.issuer_key, self.treasury) else {
            return Ok(None);
        };
        let is_private = |url: &Url| url.scheme() == "https" || url.host_str().is_some_and(host::is_loopback);
        if !is_private(&issuer) {
            return Err(eyre!("--issuer-url must be https: its API key and card numbers are not sent in the clear"));
        }
        if !listen.ip().is_loopback() && public_url.is_none_or(|url| url.scheme() != "https") {
            return Err(eyre!(
                "cards need --public-url with https: {listen} is not loopback, and card numbers are not sent in the clear"
            ));
        }
        let callback = match self.callback_url {
            Some(url) if is_private(&url) => url,
            Some(_) => return Err(eyre!("--callback-url must be https, or loopback")),
            None if listen.ip().is_loopback() => format!("http://{listen}").parse()?,
            None => {
                return Err(eyre!("cards need --callback-url: {listen} does not say where the issuer reaches this"));
            }
        };
        let (ttl, poll) = (self.card_ttl.seconds(), Duration::from_secs(self.issuer_poll.seconds()));
        Ok(Some(CardsConfig { issuer, api_key, callback, treasury, ttl, poll }))
    }
}

/// In wei per gas, on anvil.
pub(crate) const DEV_FEE_CEILING: u64 = 100 * GWEI;

/// In wei.
const GWEI: u64 = 1_000_000_000;

/// A gas price in gwei, as wei.
pub(crate) fn gwei(text: &str) -> Result<u64, String> {
    let wrong = || "a gas price in gwei above zero, as 100 or 0.5".to_owned();
    // A gwei is to an ether what a wei is to a gwei.
    let wei = ether(text).map_err(|_| wrong())?.checked_div(GWEI.into()).unwrap_or_default();
    u64::try_from(wei).ok().filter(|wei| *wei > 0).ok_or_else(wrong)
}

/// ETH as wei.
pub(crate) fn ether(text: &str) -> Result<u128, String> {
    let wrong = || "an amount of ETH, as 0.01".to_owned();
    let digits = text.chars().all(|character| character.is_ascii_digit() || character == '.');
    let exact = text.split_once('.').is_none_or(|(_, decimals)| decimals.len() <= 18);
    let wei = parse_ether(text).ok().filter(|_| digits && exact && !text.is_empty()).ok_or_else(wrong)?;
    u128::try_from(wei).map_err(|_| wrong())
}

fn finality(text: &str) -> Result<Finality, String> {
    match text {
        "finalized" => Ok(Finality::Tag),
        number => match number.parse() {
            Ok(depth @ 1..) => Ok(Finality::Depth(depth)),
            _ => Err("expected `finalized`, or a number of blocks from 1 on".into()),
        },
    }
}

impl Args {
    /// Settings that can't work together.
    ///
    /// # Errors
    /// What is wrong, naming the flags.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.deadline_min > self.deadline_max {
            return Err(format!(
                "--deadline-min {} is above --deadline-max {}: no payment could pass",
                self.deadline_min, self.deadline_max
            ));
        }
        Ok(())
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    logging::init(args.log_format, "info");
    if args.public_url.is_none() && !args.listen.ip().is_loopback() {
        output::note(&format!(
            "no --public-url, and {} is not loopback: requests that are signed for any host are accepted; set it to the \
             URL that callers use",
            args.listen
        ));
    }
    let api = api_config(&args);
    let keys = context.globals.keys.keys(DevAccount::Submitter, &args.submitter_keystores)?;
    let submitters = keys.iter().map(|key| key.on(args.chain_id)).collect::<Result<_, _>>()?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.wrap_err_with(|| format!("can't listen on {}", args.listen))?;
    let network = Network::of(args.chain_id);
    let by_chain = |of: fn(&Network) -> &'static str| network.as_ref().map(of);
    let or_amount = |set: Option<Amount>, otherwise: Option<&str>| {
        set.unwrap_or_else(|| otherwise.map_or(Amount::ZERO, networks::amount))
    };
    let config = Config {
        rpc_urls: context.globals.rpc_urls.clone(),
        chain_id: args.chain_id,
        escrow: args.escrow,
        guardian: args.guardian,
        submitters,
        database: args.database,
        start_block: args.start_block,
        confirmations: args.confirmations,
        finality: args.finality,
        poll: Duration::from_millis(args.poll_ms),
        limits: Limits {
            deadline_min: args.deadline_min,
            deadline_max: args.deadline_max,
            payment_min: or_amount(args.payment_min, by_chain(|network| network.payment_min)),
        },
        relaying: RelayLimits {
            mandate_min: or_amount(args.mandate_min, network.map(|_| networks::MANDATE_MIN)),
            approvals_per_day: args.approvals_per_day.or_else(|| network.map(|_| networks::APPROVALS_PER_DAY)),
            approvals_per_day_total: args
                .approvals_per_day_total
                .or_else(|| network.map(|_| networks::APPROVALS_PER_DAY_TOTAL)),
            sweep_min: or_amount(args.sweep_min, network.map(|_| networks::SWEEP_MIN)),
        },
        gas_budget: args.gas_budget.or_else(|| ether(by_chain(|network| network.gas_budget)?).ok()),
        fee_ceiling: args
            .fee_ceiling
            .or_else(|| gwei(by_chain(|network| network.fee_ceiling)?).ok())
            .unwrap_or(DEV_FEE_CEILING),
        api,
        cards: args.cards.config(listener.local_addr()?, args.public_url.as_ref())?,
    };
    output::note(&format!("starting on http://{}", listener.local_addr()?));

    let stop = CancellationToken::new();
    let relayer = app::run(config, listener, stop.clone());
    tokio::pin!(relayer);
    tokio::select! {
        ended = &mut relayer => return Ok(ended?),
        asked = signals::stop() => asked?,
    }
    stop.cancel();
    Ok(relayer.await?)
}

fn api_config(args: &Args) -> ApiConfig {
    let mut limits = api::ApiLimits::default();
    // A burst is two seconds' worth.
    let rate = |calls: u32| api::Rate::new(calls, calls.saturating_mul(2));
    for (limit, calls) in [
        (&mut limits.per_peer, args.rate_peer),
        (&mut limits.total, args.rate_total),
        (&mut limits.per_agent, args.rate_agent),
    ] {
        *limit = calls.map_or(*limit, rate);
    }
    ApiConfig { public_url: args.public_url.clone(), limits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card_args() -> CardArgs {
        CardArgs {
            issuer_url: "http://127.0.0.1:8430".parse().ok(),
            issuer_key: Some("key".into()),
            treasury: Some(Address::repeat_byte(4)),
            callback_url: None,
            card_ttl: "1h".parse().unwrap(),
            issuer_poll: "30s".parse().unwrap(),
        }
    }

    #[test]
    fn a_relayer_on_another_machine_needs_a_callback_url() {
        let callback = |listen: &str, callback_url: Option<&str>| {
            let callback_url = callback_url.map(|url| url.parse().unwrap());
            let public = "https://pay.example".parse().unwrap();
            let config = CardArgs { callback_url, ..card_args() }.config(listen.parse().unwrap(), Some(&public));
            config.map(|config| config.unwrap().callback.to_string())
        };
        assert_eq!(callback("127.0.0.1:8420", None).unwrap(), "http://127.0.0.1:8420/");
        assert_eq!(callback("[::1]:8420", None).unwrap(), "http://[::1]:8420/");
        assert_eq!(callback("0.0.0.0:80", Some("https://pay.example")).unwrap(), "https://pay.example/");
        assert!(callback("0.0.0.0:80", None).unwrap_err().to_string().contains("--callback-url"));
    }

    #[test]
    fn keys_and_card_numbers_are_not_sent_in_the_clear() {
        let refusal = |args: CardArgs, listen: &str, public: Option<&str>| {
            let public = public.map(|url| url.parse().unwrap());
            args.config(listen.parse().unwrap(), public.as_ref()).unwrap_err().to_string()
        };
        let issuer = CardArgs { issuer_url: "http://issuer.example".parse().ok(), ..card_args() };
        assert!(refusal(issuer, "127.0.0.1:8420", None).contains("--issuer-url"));
        let callback = CardArgs { callback_url: "http://pay.example".parse().ok(), ..card_args() };
        assert!(refusal(callback, "127.0.0.1:8420", None).contains("--callback-url"));
        for public in [None, Some("http://pay.example")] {
            let callback = CardArgs { callback_url: "https://pay.example".parse().ok(), ..card_args() };
            assert!(refusal(callback, "0.0.0.0:8420", public).contains("--public-url"));
        }
    }

    #[test]
    fn without_an_issuer_there_are_no_cards() {
        let none = CardArgs { issuer_url: None, ..card_args() };
        assert!(none.config("0.0.0.0:80".parse().unwrap(), None).unwrap().is_none());
    }

    #[test]
    fn a_gas_budget_is_in_ether() {
        assert_eq!(ether("0.01"), Ok(10_000_000_000_000_000));
        assert_eq!(ether("2"), Ok(2_000_000_000_000_000_000));
        for wrong in ["", "-1", "1e3", "0x1", "1,5", "0.0000000000000000001", "99999999999999999999999"] {
            assert!(ether(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_gas_price_is_in_gwei_with_decimals() {
        assert_eq!(gwei("5"), Ok(5_000_000_000));
        assert_eq!(gwei("0.05"), Ok(50_000_000));
        for wrong in ["0", "", "-1", "0.0000000001", "99999999999999"] {
            assert!(gwei(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn finality_is_the_tag_or_a_depth() {
        assert!(matches!(finality("finalized"), Ok(Finality::Tag)));
        assert!(matches!(finality("64"), Ok(Finality::Depth(64))));
        assert!(finality("safe").is_err() && finality("-1").is_err() && finality("0").is_err());
    }
}
