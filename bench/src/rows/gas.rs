//! Gas: the committed figures of the contracts, which `scripts/gas --check` holds to the code.

use std::process::{Command, Stdio};

use eyre::{Result, WrapErr};
use serde::Deserialize;

use crate::{
    progress,
    report::{Better, Figure},
};

#[derive(Deserialize)]
struct Job {
    job: String,
    gas: f64,
    target: Option<f64>,
}

pub(super) fn measure() -> Result<Vec<Figure>> {
    progress("gas: the committed figures");
    // Its exit code says whether targets are met, as the figures do.
    let said = Command::new("scripts/gas").args(["--committed", "--json"]).stderr(Stdio::inherit()).output();
    let jobs: Vec<Job> =
        serde_json::from_slice(&said.wrap_err("scripts/gas")?.stdout).wrap_err("scripts/gas --json")?;
    let figure = |job: Job| {
        let unit = if job.job.ends_with("bytes") { "B" } else { "gas" };
        Figure { target: job.target, ..Figure::new(format!("gas: {}", job.job), unit, Better::Lower, job.gas) }
    };
    Ok(jobs.into_iter().map(figure).collect())
}
