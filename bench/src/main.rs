//! `scripts/bench`: how fast the relayer is, beside what the machine does at best.
#![expect(clippy::float_arithmetic, reason = "rates, ratios and percentiles; no money")]

mod chain_limits;
mod generator;
mod http;
mod in_process;
mod issuer;
mod limits;
mod measure;
mod node;
mod payments;
mod prefill;
mod process;
mod report;
mod rows;
mod schedule;
mod stats;
mod transactions;
mod usage;
mod world;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use eyre::{Result, WrapErr, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use rows::{Plan, Row};

#[derive(Debug, Parser)]
#[command(about = "Measures the relayer beside what the machine does at best; started by scripts/bench")]
struct Args {
    /// What to measure [default: everything]
    #[arg(value_name = "ROW")]
    rows: Vec<Row>,
    /// Short windows, each once: figures are rough
    #[arg(long, conflicts_with = "slow")]
    quick: bool,
    /// Longer windows, more repeats, and ten million stored payments
    #[arg(long)]
    slow: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// The stipend to measure [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    bin: Option<PathBuf>,
    /// Where ledgers and logs are kept until the next run; on the disk that is to be measured
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    dir: PathBuf,
}

/// Says what is going on.
fn progress(text: &str) {
    eprintln!("bench: {text}");
}

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> Result<()> {
    // Fails only if there is one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Whatever ends this ends the processes that it has started.
        tokio::select! {
            figures = run(args) => figures,
            _ = interrupted.recv() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
        }
    })?;
    report::check(&figures)?;
    println!("{}", if args.json { report::json(&figures)? } else { report::table(&figures) });
    Ok(())
}

async fn run(args: &Args) -> Result<Vec<report::Figure>> {
    let plan = plan(args)?;
    let rows = if args.rows.is_empty() { Row::value_variants() } else { &args.rows };
    let mut figures = Vec::new();
    for row in rows {
        figures.extend(row.measure(&plan).await?);
    }
    Ok(figures)
}

fn plan(args: &Args) -> Result<Plan> {
    let program = match &args.bin {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("stipend"),
    };
    ensure!(program.is_file(), "there is no {}: start this by scripts/bench", program.display());
    if args.dir.exists() {
        std::fs::remove_dir_all(&args.dir).wrap_err("can't remove what the last run left")?;
    }
    std::fs::create_dir_all(&args.dir)?;
    let (seconds, repeats, stored) = match (args.quick, args.slow) {
        (true, _) => (1, 1, vec![1_000, 10_000]),
        (_, true) => (10, 5, vec![1_000, 100_000, 1_000_000, 10_000_000]),
        _ => (3, 3, vec![1_000, 100_000, 1_000_000]),
    };
    let dir = args.dir.canonicalize()?;
    Ok(Plan { program, dir, window: Duration::from_secs(seconds), repeats, stored })
}
