//! Authorizations: durable, over HTTP, with nothing being settled. Blocks are not made, so that each submitter holds one
//! small batch and waits.

use eyre::{OptionExt, Result};

use super::Plan;
use crate::{
    in_process::{self, Place},
    limits::Limits,
    measure::{Bench, CONNECTIONS, Window, figure},
    node::Mining,
    payments::BATCH,
    progress,
    report::{Better, Figure},
    stats::Spread,
    usage::memory,
    world::{Settings, World},
};

/// How many requests are under way.
const LEVELS: [usize; 3] = [16, CONNECTIONS, 256];

/// The part of the rate that the open loop offers.
const OPEN_LOOP_PART: f64 = 0.7;

/// The part of what two cores recover that is to be authorized, from this many connections on.
const TARGET: f64 = 0.25;
const TARGET_FROM: usize = 64;

/// The same for calls of many, and how many of those are under way.
const BATCH_TARGET: f64 = 0.45;
const BATCH_CONNECTIONS: usize = 8;

pub(super) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    progress("authorize: setting up");
    let world = World::start(plan.dir.join("authorize"), &plan.program, &Settings::default()).await?;
    world.contracts.node.mine(Mining::Off).await?;
    let (mut bench, mut limits) = (Bench::on(world), Limits::default());
    progress("authorize: warm-up");
    bench.closed(CONNECTIONS, plan.window).await?;

    let mut closed: Vec<(usize, Vec<Window>)> = LEVELS.map(|connections| (connections, Vec::new())).into();
    for repeat in 1..=plan.repeats {
        for (connections, windows) in &mut closed {
            limits.sample(&plan.dir)?;
            let window = bench.closed(*connections, plan.window).await?;
            let Window { rate, others, .. } = window;
            progress(&format!("authorize {repeat}: {connections} connections: {rate:.0}/s; others {others:.2}"));
            windows.push(window);
        }
    }
    let usual = closed.iter().find(|(connections, _)| *connections == CONNECTIONS).map(|(_, windows)| windows);
    let rate =
        usual.and_then(|windows| Spread::of(windows.iter().map(|window| window.rate))).ok_or_eyre("no window")?;
    let mut open = Vec::new();
    for repeat in 1..=plan.repeats {
        limits.sample(&plan.dir)?;
        let window = bench.open(rate.median * OPEN_LOOP_PART, plan.window).await?;
        progress(&format!("authorize {repeat}: open loop: p99 {:.1} ms; others {:.2}", window.p99, window.others));
        open.push(window);
    }
    let mut batched = Vec::new();
    for repeat in 1..=plan.repeats {
        limits.sample(&plan.dir)?;
        let window = bench.closed_batches(BATCH_CONNECTIONS, plan.window).await?;
        let Window { rate, others, .. } = window;
        progress(&format!("authorize {repeat}: {BATCH} a call: {rate:.0}/s; others {others:.2}"));
        batched.push(window);
    }
    let resident = memory(bench.world.relayer.id())?.0 as f64 / 1e6;
    let in_process = in_process(plan, &mut bench).await?;
    let mut figures = figures(&limits, &closed, &open)?;
    let what = format!("authorizations, {BATCH} a call, {BATCH_CONNECTIONS} connections");
    let rate = figure(what.clone(), "payments/s", Better::Higher, &batched, |window| window.rate)?;
    figures.push(rate.share_of(limits.recovery, BATCH_TARGET));
    figures
        .push(figure(format!("{what}: relayer's CPU"), "µs/payment", Better::Lower, &batched, |window| window.cpu)?);
    figures.push(Figure::new("memory with all of these reserved", "MB", Better::Lower, resident));
    figures.push(in_process.limit(limits.recovery));
    Ok(figures)
}

async fn in_process(plan: &Plan, bench: &mut Bench) -> Result<Figure> {
    let payments = bench.take(plan.window * u32::try_from(plan.repeats)?)?;
    bench.world.relayer.stop()?;
    let contracts = &bench.world.contracts;
    let place = Place {
        ledger: &bench.world.relayer.ledger(),
        deployment: contracts.deployment(),
        node: contracts.node.url()?,
        head: contracts.escrow.chain().head().await?,
        processes: &[contracts.node.id()],
    };
    let rates = in_process::rates(&place, payments, plan.repeats, plan.window)?;
    let spread = |of: fn(&(f64, f64)) -> f64| Spread::of(rates.iter().map(of)).ok_or_eyre("no window");
    let (rate, others) = (spread(|(rate, _)| *rate)?, spread(|(_, others)| *others)?.median);
    progress(&format!("authorize: in process: {:.0}/s; others {others:.2}", rate.median));
    let what = format!("authorizations in process, {} tasks", in_process::TASKS);
    Ok(Figure::of(what, "payments/s", Better::Higher, rate).others(others))
}

fn figures(limits: &Limits, closed: &[(usize, Vec<Window>)], open: &[Window]) -> Result<Vec<Figure>> {
    let (recovery, fdatasync) = (limits.recovery, limits.fdatasync(0.99)?);
    let mut figures = Vec::from(limits.figures()?);
    for (connections, windows) in closed {
        let what = format!("authorizations, single over HTTP, {connections} connections");
        let rate = figure(what.clone(), "payments/s", Better::Higher, windows, |window| window.rate)?;
        let is_target = *connections >= TARGET_FROM;
        figures.push(if is_target { rate.share_of(recovery, TARGET) } else { rate.limit(recovery) });
        figures.push(figure(format!("{what}: p99"), "ms", Better::Lower, windows, |window| window.p99)?);
        let cpu = format!("{what}: relayer's CPU");
        figures.push(figure(cpu, "µs/payment", Better::Lower, windows, |window| window.cpu)?);
    }
    let what = format!("authorizations at 70 % of {CONNECTIONS} connections' rate, open loop");
    figures.push(figure(format!("{what}: p50"), "ms", Better::Lower, open, |window| window.p50)?);
    let p99 = figure(format!("{what}: p99"), "ms", Better::Lower, open, |window| window.p99)?;
    figures.push(p99.limit(fdatasync).target(10.0 + 3.0 * fdatasync));
    Ok(figures)
}
