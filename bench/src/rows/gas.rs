//! Gas: what `scripts/gas` says of the contracts.

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
    progress("gas: scripts/gas");
    // Its exit code says whether targets are met, as the figures do.
    let said = Command::new("scripts/gas").arg("--json").stderr(Stdio::inherit()).output().wrap_err("scripts/gas")?;
    let jobs: Vec<Job> = serde_json::from_slice(&said.stdout).wrap_err("scripts/gas --json")?;
    let figure = |job: Job| Figure {
        target: job.target,
        ..Figure::new(format!("gas: {}", job.job), "gas", Better::Lower, job.gas)
    };
    Ok(jobs.into_iter().map(figure).collect())
}
