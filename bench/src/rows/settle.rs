//! Settlement: beside what the node does with plain transfers and with full batches made by hand; a backlog alone, and
//! beside new payments. And what a payment costs from its acceptance until it is settled.

use std::time::{Duration, Instant};

use eyre::{OptionExt, Result, ensure};

use super::Plan;
use crate::{
    chain_limits::{FINALITY, HandMade, transfers_per_second},
    limits::Limits,
    measure::{Bench, CONNECTIONS, Window, figure},
    node::Mining,
    process::comes_to,
    progress,
    report::{Better, Figure},
    stats::{Spread, per_second},
    usage::{Others, Usage},
    world::{Contracts, POLL, Settings, World},
};

/// What a second of a window means in payments of a backlog.
const BACKLOG_PER_SECOND: f64 = 4_000.0;

/// The part of full batches made by hand.
const TARGET: f64 = 0.7;

/// While payments are settled: the part of what two cores recover that is to be authorized, and how many are to be settled.
const TARGET_MIXED: f64 = 0.22;
const SETTLED_MIXED: f64 = 3_000.0;

/// How much longer than others the window is in which payments are made and settled, so that it has enough blocks.
const MIXED_WINDOWS: u32 = 4;

/// Per payment: microseconds to settle it, bytes written in its life, bytes kept.
const CPU_TARGET: f64 = 100.0;
const WRITTEN_TARGET: f64 = 4_000.0;
const KEPT_TARGET: f64 = 300.0;

/// How often payments are counted at the relayer, which costs it something.
const COUNTING: Duration = Duration::from_millis(250);

/// How many payments a backlog has.
pub(super) fn backlog(plan: &Plan) -> u64 {
    (BACKLOG_PER_SECOND * plan.window.as_secs_f64()) as u64
}

/// A backlog, from the first block until it was settled.
pub(super) struct Drain {
    /// Mined, and settled, per second.
    mined: f64,
    settled: f64,
    /// Microseconds of the relayer's CPU per payment.
    pub(super) cpu: f64,
    pub(super) others: f64,
}

/// Lets a backlog of `count` payments pile up, and settles it.
///
/// # Errors
/// If a payment is not accepted, or not settled in time.
pub(super) async fn drain(bench: &mut Bench, count: u64) -> Result<Drain> {
    bench.world.contracts.node.mine(Mining::Off).await?;
    let settled = bench.world.settled().await?;
    ensure!(settled == bench.accepted, "{settled} of {} payments are settled", bench.accepted);
    bench.accept(count).await?;
    let world = &bench.world;
    let (others, before) = (Others::watch(&world.processes())?, Usage::of(world.relayer.id())?);
    world.contracts.node.mine(Mining::EverySecond).await?;
    let start = Instant::now();
    comes_to("mined payments", POLL, bench.accepted, async || world.mined().await).await?;
    let to_mined = start.elapsed();
    all_settled(world, bench.accepted).await?;
    let (to_settled, cpu) = (start.elapsed(), Usage::of(world.relayer.id())?.cpu - before.cpu);
    Ok(Drain {
        mined: per_second(count, to_mined),
        settled: per_second(count, to_settled),
        cpu: cpu.as_secs_f64() * 1e6 / count as f64,
        others: others.cores()?,
    })
}

async fn all_settled(world: &World, count: u64) -> Result<()> {
    comes_to("settled payments", COUNTING, count, async || world.settled().await).await
}

/// Payments made and settled at the same time.
struct Mixed {
    authorized: Window,
    /// Mined per second meanwhile.
    settled: f64,
    /// Bytes per payment: written to disk until all were settled.
    written: f64,
}

/// Accepts payments for `time`, while a backlog of `count` and what of them comes is settled.
async fn mixed(bench: &mut Bench, count: u64, time: Duration) -> Result<Mixed> {
    bench.world.contracts.node.mine(Mining::Off).await?;
    let (written, accepted) = (Usage::of(bench.world.relayer.id())?.written, bench.accepted);
    bench.accept(count).await?;
    bench.prepare(time)?;
    bench.world.contracts.node.mine(Mining::EverySecond).await?;
    let (start, mined) = (Instant::now(), bench.world.mined().await?);
    let authorized = bench.closed(CONNECTIONS, time).await?;
    let meanwhile = per_second(bench.world.mined().await? - mined, start.elapsed());
    all_settled(&bench.world, bench.accepted).await?;
    let on_chain = bench.world.mined().await?;
    ensure!(on_chain == bench.accepted, "{on_chain} payments on chain, {} accepted", bench.accepted);
    let written = (Usage::of(bench.world.relayer.id())?.written - written) as f64;
    Ok(Mixed { authorized, settled: meanwhile, written: written / (bench.accepted - accepted) as f64 })
}

pub(super) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let count = backlog(plan);
    progress("settle: setting up");
    let contracts = Contracts::deploy(plan.dir.join("settle")).await?;
    let mut limits = Limits::default();
    let (mut transfers, mut batches, mut others) = (Vec::new(), Vec::new(), Vec::new());
    // The first ones warm up: payees get their first tokens, mandates their first payments.
    transfers_per_second(&contracts, 2_000).await?;
    let mut hand_made = HandMade::new(&contracts).await?;
    hand_made.payments_per_second(&contracts, 0).await?;
    for repeat in 1..=plan.repeats {
        limits.sample(&plan.dir)?;
        let watched = Others::watch(&[contracts.node.id()])?;
        let transferred = transfers_per_second(&contracts, count).await?;
        let paid = hand_made.payments_per_second(&contracts, count).await?;
        let busy = watched.cores()?;
        progress(&format!(
            "settle {repeat}: {transferred:.0} transfers/s, {paid:.0} payments/s by hand; others {busy:.2}"
        ));
        transfers.push(transferred);
        batches.push(paid);
        others.push(busy);
    }

    contracts.node.mine(Mining::Instant).await?;
    let mut world = World::on(contracts, &plan.program, &Settings::default()).await?;
    // Only what has stopped has moved everything from its log to its file.
    world.relayer.stop()?;
    let stored = world.relayer.stored()?;
    world.relayer.restart().await?;
    let mut bench = Bench::on(world);
    progress("settle: warm-up");
    drain(&mut bench, count / 4).await?;
    let mut drains = Vec::new();
    for repeat in 1..=plan.repeats {
        let drain = drain(&mut bench, count).await?;
        let Drain { settled, cpu, others, .. } = drain;
        progress(&format!("settle {repeat}: {settled:.0} settled/s, {cpu:.0} µs each; others {others:.2}"));
        drains.push(drain);
    }
    let mut mixtures = Vec::new();
    for repeat in 1..=plan.repeats {
        limits.sample(&plan.dir)?;
        let mixed = mixed(&mut bench, count, plan.window * MIXED_WINDOWS).await?;
        let Mixed { authorized: Window { rate, others, .. }, settled, .. } = mixed;
        progress(&format!("settle {repeat}: {rate:.0} authorized/s, {settled:.0} settled/s; others {others:.2}"));
        mixtures.push(mixed);
    }
    bench.world.relayer.stop()?;
    let kept = (bench.world.relayer.stored()? - stored) as f64 / bench.accepted as f64;

    let mut figures = Vec::from(limits.figures()?);
    let median = |values: &[f64]| Spread::of(values.iter().copied()).ok_or_eyre("no repeat");
    let (transfers, batches, others) = (median(&transfers)?, median(&batches)?, median(&others)?.median);
    figures.push(Figure::of("limit: plain transfers, mined", "1/s", Better::Higher, transfers).others(others));
    let what = format!("limit: payments in full batches by hand ({} each), settled", hand_made.batch());
    figures.push(Figure::of(what, "payments/s", Better::Higher, batches).others(others));
    figures.extend(drain_figures(&drains, batches.median)?);
    figures.extend(mixed_figures(&mixtures, &limits)?);
    let kept = Figure::new("kept on disk per settled payment", "B", Better::Lower, kept);
    figures.push(kept.target(KEPT_TARGET));
    Ok(figures)
}

fn drain_figures(drains: &[Drain], by_hand: f64) -> Result<[Figure; 3]> {
    let row = |what: &str, unit, better, of: fn(&Drain) -> f64| {
        let spread = |of: fn(&Drain) -> f64| Spread::of(drains.iter().map(of)).ok_or_eyre("no repeat");
        Ok::<_, eyre::Report>(Figure::of(what, unit, better, spread(of)?).others(spread(|drain| drain.others)?.median))
    };
    let what = format!("a backlog, settled ({FINALITY} blocks on top)");
    Ok([
        row("a backlog, mined", "payments/s", Better::Higher, |drain| drain.mined)?,
        row(&what, "payments/s", Better::Higher, |drain| drain.settled)?.share_of(by_hand, TARGET),
        row("a backlog: relayer's CPU", "µs/payment", Better::Lower, |drain| drain.cpu)?.target(CPU_TARGET),
    ])
}

fn mixed_figures(mixtures: &[Mixed], limits: &Limits) -> Result<[Figure; 4]> {
    let windows: Vec<Window> = mixtures.iter().map(|mixed| mixed.authorized).collect();
    let spread = |of: fn(&Mixed) -> f64| Spread::of(mixtures.iter().map(of)).ok_or_eyre("no repeat");
    let what = format!("authorizations while payments are settled, {CONNECTIONS} connections");
    let rate = figure(what.clone(), "payments/s", Better::Higher, &windows, |window| window.rate)?;
    let settled = Figure::of("payments mined meanwhile", "payments/s", Better::Higher, spread(|mixed| mixed.settled)?);
    let written = spread(|mixed| mixed.written)?;
    let written = Figure::of("written to disk per payment, accepted to settled", "B", Better::Lower, written);
    Ok([
        rate.share_of(limits.recovery, TARGET_MIXED),
        figure(format!("{what}: p99"), "ms", Better::Lower, &windows, |window| window.p99)?,
        settled.target(SETTLED_MIXED),
        written.target(WRITTEN_TARGET),
    ])
}
