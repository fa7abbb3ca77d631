//! `stipend ledger`: prove a relayer's ledger, and mend it from the chain.

use std::path::PathBuf;

use clap::Subcommand;
use eyre::{WrapErr, bail};
use stipend_relayer::{
    ledger::check::{self, Report},
    repair::{self, Repaired},
};

use crate::{
    context::Context,
    keys::DevAccount,
    logging::{self, LogFormat},
    output, serve,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prove that a ledger's sums are right and its trail is whole; reads only, also beside a running
    /// relayer
    Check(CheckArgs),
    /// Mend a ledger that is old, lost or a copy, from the chain, so that the relayer may sign again
    Repair(Box<RepairArgs>),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits with 1 if there is any difference, and names each.

Examples:
  stipend ledger check --database stipend.db
  stipend ledger check --database stipend.db --json | jq '.checks[] | select(.differences != [])'")]
pub(crate) struct CheckArgs {
    /// The ledger
    #[arg(long, value_name = "FILE", env = "STIPEND_DATABASE", default_value = "stipend.db")]
    database: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Takes the relayer's own command line, with `ledger repair` in the place of `serve`. The relayer must
not run. Without --yes it tries on a copy and says what it would do. With --yes it copies the file
first. It waits until what is doubtful is final.

Examples:
  stipend ledger repair --chain-id 8453 --escrow 0x… --guardian 0x… --start-block 123 --rpc-url https://… \\
    --keystore submitter.json --password-file submitter.pass
  stipend ledger repair … --yes")]
pub(crate) struct RepairArgs {
    /// Do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    serve: serve::Args,
}

pub(crate) async fn run(context: &Context, command: Command) -> eyre::Result<()> {
    match command {
        Command::Check(args) => check(context, args).await,
        Command::Repair(args) => repair(context, *args).await,
    }
}

async fn check(context: &Context, CheckArgs { database }: CheckArgs) -> eyre::Result<()> {
    let file = database.clone();
    let report = tokio::task::spawn_blocking(move || check::check(&file)).await?;
    let report = report.wrap_err_with(|| format!("can't examine {}", database.display()))?;
    output::result(context.json(), &report, to_human)?;
    match report.differences() {
        0 => Ok(()),
        1 => bail!("the ledger has 1 difference"),
        count => bail!("the ledger has {count} differences"),
    }
}

fn to_human(report: &Report) -> String {
    let mut table = output::table(&["what must be so", "examined", "differences"]);
    for check in &report.checks {
        table.add_row([check.name.to_owned(), check.examined.to_string(), check.differences.len().to_string()]);
    }
    let mut text = output::text(&table);
    for check in report.checks.iter().filter(|check| !check.differences.is_empty()) {
        text.push_str(&format!("\n{}, but:\n", check.name));
        for difference in &check.differences {
            text.push_str(&format!("  {}\n", output::sanitize(difference)));
        }
    }
    text
}

async fn repair(context: &Context, RepairArgs { yes, serve }: RepairArgs) -> eyre::Result<()> {
    logging::init(LogFormat::Text, "warn,stipend_relayer::repair=info");
    let keys = context.globals.keys.keys(DevAccount::Submitter, &serve.submitter_keystores)?;
    let submitters =
        keys.iter().map(|key| key.on(serve.chain_id).map(|signer| signer.address())).collect::<Result<_, _>>()?;
    let config = repair::Config {
        rpc_urls: context.globals.rpc_urls.clone(),
        chain_id: serve.chain_id,
        escrow: serve.escrow,
        guardian: serve.guardian,
        submitters,
        database: serve.database,
        start_block: serve.start_block,
        finality: serve.finality,
    };
    let repaired = repair::run(config, yes).await?;
    output::result(context.json(), &repaired, repaired_in_words)?;
    match repaired.differences.len() {
        0 => Ok(()),
        count => bail!("the ledger has {count} differences after the repair: see `stipend ledger check`"),
    }
}

fn repaired_in_words(repaired: &Repaired) -> String {
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join("\n") };
    let adopted = repaired.adopted.iter().map(|adopted| format!("{} from nonce {}", adopted.submitter, adopted.nonce));
    let known = &repaired.known;
    let mut rows = vec![
        ("against it", list(repaired.inconsistencies.clone())),
        ("booked up to block", format!("{}{}", repaired.block, if repaired.rebuilt { ", all anew" } else { "" })),
        ("mandates", known.mandates.to_string()),
        ("outflows without a row", format!("{}, {} USDC", known.outflows, known.amount)),
        ("submitters taken over", list(adopted.collect())),
        ("transactions abandoned", list(repaired.abandoned.iter().map(|nonce| format!("nonce {nonce}")).collect())),
        ("usable again", list(repaired.unfrozen.iter().map(ToString::to_string).collect())),
        ("still frozen", list(repaired.frozen.iter().map(ToString::to_string).collect())),
        ("differences", list(repaired.differences.clone())),
        ("can't be brought back", list(repaired.lost.clone())),
    ];
    if let Some(backup) = &repaired.backup {
        rows.push(("as it was", backup.display().to_string()));
    }
    let mut text = output::key_value_table(rows.into_iter().map(|(name, value)| (name, show_lines(&value))));
    if !repaired.done {
        text.push_str("\nNothing was changed. With --yes it is done.\n");
    }
    text
}

/// Text from outside, sanitized line by line.
fn show_lines(text: &str) -> String {
    text.lines().map(output::sanitize).collect::<Vec<_>>().join("\n")
}
