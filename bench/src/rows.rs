//! What is measured, by the names on the command line.

mod authorize;
mod cards;
mod gas;
mod growth;
mod latency;
mod settle;

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use eyre::Result;

use crate::report::Figure;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Authorizations over HTTP: at most, and at 70 % of that
    Authorize,
    /// Settlement beside plain transfers and batches made by hand; bytes written and kept
    Settle,
    /// The same with a history of settled payments: rate, memory, start, CPU to settle
    Growth,
    /// Until a single payment is accepted, mined and settled
    Latency,
    /// Until a card can be used; the issuer's questions; how long the ledger's writer is held
    Cards,
    /// The contracts' committed figures
    Gas,
}

/// How long and how much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The `stipend` that is measured.
    pub(crate) program: PathBuf,
    /// Where everything is kept: on the disk that counts.
    pub(crate) dir: PathBuf,
    /// How long a window is.
    pub(crate) window: Duration,
    /// How many of them.
    pub(crate) repeats: usize,
    /// How many payments a ledger holds, where growth is measured; the smallest first.
    pub(crate) stored: Vec<u64>,
}

impl Row {
    /// Measures it, in a world of its own.
    ///
    /// # Errors
    /// At the first answer that is wrong, and if anything does not run.
    pub(crate) async fn measure(self, plan: &Plan) -> Result<Vec<Figure>> {
        match self {
            Self::Authorize => authorize::measure(plan).await,
            Self::Settle => settle::measure(plan).await,
            Self::Growth => growth::measure(plan).await,
            Self::Latency => latency::measure(plan).await,
            Self::Cards => cards::measure(plan).await,
            Self::Gas => gas::measure(),
        }
    }
}
