//! `stipend dev clock`: moves the time of `stipend dev`'s chain forward.

use std::time::{Duration, Instant};

use alloy::providers::{Provider, RootProvider};
use eyre::{WrapErr, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use stipend_client::{Client, chain::Chain};
use stipend_core::{DEV_CHAIN_ID, HumanDuration, Seconds};

use crate::{context::Context, output};

/// How long the relayer may take to see the new time.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// How often it is asked.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Deadlines, windows, expiries and sweeps follow the chain's time. Request signatures and cards follow
the machine's clock, which stays as it is; so `stipend doctor` and the alarm `clock` say that they
differ. There is no way back.

Examples:
  stipend dev clock +1d
  stipend dev clock +90s --json")]
pub(crate) struct Args {
    /// By how much, such as +31d, +12h, +45m or +90s
    #[arg(value_name = "DURATION", value_parser = forward)]
    by: HumanDuration,
}

fn forward(text: &str) -> Result<HumanDuration, String> {
    let by: HumanDuration = text.strip_prefix('+').unwrap_or(text).parse().map_err(|error| format!("{error}"))?;
    // A block's time fits into 40 bits at the contract.
    if (1..=MOST).contains(&by.seconds()) { Ok(by) } else { Err("between 1s and 36500d".into()) }
}

/// A hundred years.
const MOST: Seconds = 36_500 * 86_400;

/// Where the chain's clock stands now.
#[derive(Debug, Serialize)]
struct Moved {
    by: HumanDuration,
    /// The block that has the new time.
    block: u64,
    time: Seconds,
}

pub(crate) async fn run(context: &Context, Args { by }: Args) -> eyre::Result<()> {
    let chain = context.chain().await?;
    ensure!(
        chain.id() == DEV_CHAIN_ID,
        "the node is on chain id {}: only the time of `stipend dev` can be moved",
        chain.id()
    );
    let node: RootProvider = RootProvider::new_http(context.node_url()?.clone());
    for (method, params) in [("evm_increaseTime", json!([by.seconds()])), ("evm_mine", json!([]))] {
        node.raw_request::<_, Value>(method.into(), params).await.wrap_err("the node is not anvil")?;
    }
    let moved = head_once_seen(context, &chain, by).await?;
    output::result(context.json(), &moved, |moved| {
        format!("the chain's time is {} with block {}", output::time(moved.time), moved.block)
    })
}

/// The head, once the relayer judges by it.
async fn head_once_seen(context: &Context, chain: &Chain, by: HumanDuration) -> eyre::Result<Moved> {
    let head = chain.head().await?;
    let start = Instant::now();
    while Client::info_at(context.globals.relayer.clone()).await?.head.number < head.number {
        if start.elapsed() >= SEEN_WITHIN {
            bail!(
                "the chain's time is moved, and the relayer at {} does not follow",
                output::url(&context.globals.relayer)
            );
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Moved { by, block: head.number, time: head.time })
}
