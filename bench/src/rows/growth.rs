//! Growth: what a ledger with a history of settled payments does to authorizing, settling, memory and start.

use std::time::Duration;

use eyre::{OptionExt, Result};

use super::{
    Plan,
    settle::{backlog, drain},
};
use crate::{
    measure::{Bench, CONNECTIONS, Window, figure},
    node::Mining,
    prefill::prefill,
    progress,
    report::{Better, Figure},
    stats::Spread,
    usage::memory,
    world::{Settings, World},
};

/// How many mandates the history is of, and those that payments are authorized from, too.
const MANDATES: [u64; 2] = [100, 4];

/// Real payments of each mandate before the history, which is made after their model.
const MODELS: u32 = 3;

/// By how much of it a figure may move from the smallest ledger on.
const FLAT: f64 = 0.2;

/// Microseconds of CPU per settled payment, megabytes, and seconds to start.
const CPU_TARGET: f64 = 100.0;
const MEMORY_TARGET: f64 = 150.0;
const START_TARGET: f64 = 1.0;

/// What was measured on the smallest ledger.
#[derive(Default)]
struct Smallest {
    rate: Option<f64>,
    cpu: [Option<f64>; MANDATES.len()],
}

pub(super) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let (mut figures, mut smallest) = (Vec::new(), Smallest::default());
    for stored in &plan.stored {
        for (cpu, mandates) in smallest.cpu.iter_mut().zip(MANDATES) {
            let mut bench = with_history(plan, *stored, mandates).await?;
            let what = format!("{stored} stored");
            if mandates == MANDATES[0] {
                figures.push(start(plan, &mut bench, &what).await?);
            }
            figures.push(settling(plan, &mut bench, &format!("{what}, {mandates} mandates"), cpu).await?);
            if mandates == MANDATES[0] {
                figures.extend(authorizing(plan, &mut bench, &what, &mut smallest.rate).await?);
            }
            // The next one needs its room.
            let dir = bench.world.contracts.dir.clone();
            drop(bench);
            std::fs::remove_dir_all(dir)?;
        }
    }
    Ok(figures)
}

/// A relayer on a ledger with this many settled payments.
async fn with_history(plan: &Plan, stored: u64, mandates: u64) -> Result<Bench> {
    progress(&format!("growth: storing {stored} payments of {mandates} mandates"));
    let dir = plan.dir.join(format!("growth-{stored}-{mandates}"));
    let settings = Settings { mandates, ..Settings::default() };
    let mut bench = Bench::on(World::start(dir, &plan.program, &settings).await?);
    drain(&mut bench, mandates * u64::from(MODELS)).await?;
    bench.world.relayer.stop()?;
    prefill(&bench.world.relayer.ledger(), stored, MODELS)?;
    bench.skip(u32::try_from(stored.div_ceil(mandates))?);
    bench.world.relayer.restart().await?;
    Ok(bench)
}

async fn start(plan: &Plan, bench: &mut Bench, what: &str) -> Result<Figure> {
    let mut times = Vec::new();
    for _ in 0..plan.repeats {
        bench.world.relayer.stop()?;
        times.push(bench.world.relayer.restart().await?.as_secs_f64());
    }
    let spread = Spread::of(times).ok_or_eyre("no repeat")?;
    Ok(Figure::of(format!("start, {what}"), "s", Better::Lower, spread).target(START_TARGET))
}

async fn settling(plan: &Plan, bench: &mut Bench, what: &str, smallest: &mut Option<f64>) -> Result<Figure> {
    let mut drains = Vec::new();
    for _ in 0..plan.repeats {
        drains.push(drain(bench, backlog(plan)).await?);
    }
    let cpu = Spread::of(drains.iter().map(|drain| drain.cpu)).ok_or_eyre("no repeat")?;
    let others = Spread::of(drains.iter().map(|drain| drain.others)).ok_or_eyre("no repeat")?.median;
    progress(&format!("growth: {what}: {:.0} µs per settled payment; others {others:.2}", cpu.median));
    let flat = *smallest.get_or_insert(cpu.median) * (1.0 + FLAT);
    let figure = Figure::of(format!("relayer's CPU per settled payment, {what}"), "µs/payment", Better::Lower, cpu);
    Ok(figure.target(flat.min(CPU_TARGET)).others(others))
}

async fn authorizing(plan: &Plan, bench: &mut Bench, what: &str, smallest: &mut Option<f64>) -> Result<[Figure; 3]> {
    bench.world.contracts.node.mine(Mining::Off).await?;
    let idle = memory(bench.world.relayer.id())?.0;
    bench.closed(CONNECTIONS, plan.window.min(Duration::from_secs(1))).await?;
    let mut windows: Vec<Window> = Vec::new();
    for _ in 0..plan.repeats {
        windows.push(bench.closed(CONNECTIONS, plan.window).await?);
    }
    let peak = memory(bench.world.relayer.id())?.1;
    progress(&format!("growth: {what}: memory {} kB idle, {} kB at most", idle / 1_000, peak / 1_000));
    let rate = figure(
        format!("authorizations, {CONNECTIONS} connections, {what}"),
        "payments/s",
        Better::Higher,
        &windows,
        |window| window.rate,
    )?;
    let p99 = format!("authorizations, {CONNECTIONS} connections, {what}: p99");
    let flat = *smallest.get_or_insert(rate.value) * (1.0 - FLAT);
    let memory = Figure::new(format!("memory at most, {what}"), "MB", Better::Lower, peak as f64 / 1e6);
    Ok([
        rate.target(flat),
        figure(p99, "ms", Better::Lower, &windows, |window| window.p99)?,
        memory.target(MEMORY_TARGET),
    ])
}
