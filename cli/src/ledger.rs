//! `stipend ledger`: prove a relayer's ledger.

use std::path::PathBuf;

use clap::Subcommand;
use eyre::{WrapErr, bail};
use stipend_relayer::ledger::check::{self, Report};

use crate::{context::Context, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prove that a ledger's sums are right and its trail is whole; reads only, also beside a running
    /// relayer
    Check(CheckArgs),
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

pub(crate) async fn run(context: &Context, command: Command) -> eyre::Result<()> {
    match command {
        Command::Check(args) => check(context, args).await,
    }
}

async fn check(context: &Context, CheckArgs { database }: CheckArgs) -> eyre::Result<()> {
    let file = database.clone();
    let report = tokio::task::spawn_blocking(move || check::check(&file)).await?;
    let report = report.wrap_err_with(|| format!("can't examine {}", database.display()))?;
    show::result(context.json(), &report, in_words)?;
    match report.differences() {
        0 => Ok(()),
        1 => bail!("the ledger has 1 difference"),
        count => bail!("the ledger has {count} differences"),
    }
}

fn in_words(report: &Report) -> String {
    let mut table = show::table(&["what must be so", "examined", "differences"]);
    for check in &report.checks {
        table.add_row([check.name.to_owned(), check.examined.to_string(), check.differences.len().to_string()]);
    }
    let mut text = show::text(&table);
    for check in report.checks.iter().filter(|check| !check.differences.is_empty()) {
        text.push_str(&format!("\n{}, but:\n", check.name));
        for difference in &check.differences {
            text.push_str(&format!("  {}\n", show::plain(difference)));
        }
    }
    text
}
