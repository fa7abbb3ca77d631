//! `stipend issuer`: the mock card issuer as one process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use eyre::WrapErr;
use secrecy::SecretString;
use serde::Serialize;
use stipend_issuer::Config;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    context::Context,
    keys,
    logging::{self, LogFormat},
    output, signals,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Its cards are worth nothing. It speaks the part of Lithic's API that Stipend needs, on this machine
alone; with Lithic's sandbox in its place, only the base URL and the key change. `/_mock` is its
own: a switchboard of faults. What is logged is set by RUST_LOG; the number of a card never is.

Examples:
  stipend issuer                                       # prints the key that it made up
  STIPEND_ISSUER_API_KEY=… stipend issuer --database cards.db
  stipend issuer --port 0 --retry-schedule-ms 0,100,100 --json      # for tests")]
pub(crate) struct Args {
    /// The port; 0 takes a free one
    #[arg(long, env = "STIPEND_ISSUER_PORT", default_value_t = 8430)]
    port: u16,
    /// Where cards, transactions and events are kept
    #[arg(long, value_name = "FILE", env = "STIPEND_ISSUER_DATABASE", default_value = "issuer.db")]
    database: PathBuf,
    /// The key that callers must send; prefer the environment variable. Without it, one is generated for
    /// this run, and printed
    #[arg(long, value_name = "KEY", env = "STIPEND_ISSUER_API_KEY", hide_env_values = true, value_parser = keys::api_key)]
    api_key: Option<SecretString>,
    /// Delay before each attempt to deliver an event [default: Lithic's, eight within a day]
    #[arg(long, value_name = "MILLISECONDS,…", env = "STIPEND_ISSUER_RETRY_SCHEDULE_MS", value_delimiter = ',')]
    retry_schedule_ms: Option<Vec<u64>>,
    /// How long the program may take to decide about an authorization before it is declined
    #[arg(long, value_name = "MILLISECONDS", env = "STIPEND_ISSUER_ASA_LIMIT_MS", default_value_t = 6_000)]
    asa_limit_ms: u64,
    /// The log format
    #[arg(long, value_name = "FORMAT", env = "STIPEND_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// Where it runs, once it does.
#[derive(Debug, Serialize)]
struct Ready {
    issuer: String,
    /// Only if it was generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
    database: PathBuf,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    logging::init(args.log_format, "info");
    let (key, made_up) = match args.api_key {
        Some(key) => (key, None),
        None => {
            let made_up = Uuid::new_v4().to_string();
            (made_up.clone().into(), Some(made_up))
        }
    };
    let mut config = Config::new(key, args.database.clone());
    config.asa_limit = Duration::from_millis(args.asa_limit_ms);
    if let Some(schedule) = args.retry_schedule_ms {
        config.retry_schedule = schedule.into_iter().map(Duration::from_millis).collect();
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(address).await.wrap_err_with(|| format!("can't listen on {address}"))?;
    let ready =
        Ready { issuer: format!("http://{}", listener.local_addr()?), api_key: made_up, database: args.database };

    let stop = CancellationToken::new();
    let issuer = stipend_issuer::run(config, listener, stop.clone());
    tokio::pin!(issuer);
    // Its first turn opens the database: what can't be opened ends it here.
    tokio::select! {
        biased;
        ended = &mut issuer => return Ok(ended?),
        () = std::future::ready(()) => {}
    }
    output::result(context.json(), &ready, to_human)?;
    tokio::select! {
        ended = &mut issuer => return Ok(ended?),
        asked = signals::stop() => asked?,
    }
    stop.cancel();
    Ok(issuer.await?)
}

fn to_human(ready: &Ready) -> String {
    let key = ready.api_key.clone().unwrap_or_else(|| "as given".into());
    output::key_value_table([
        ("issuer", ready.issuer.clone()),
        ("key", key),
        ("database", ready.database.display().to_string()),
    ])
}
