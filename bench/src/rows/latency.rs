//! How long a single payment takes at low load: until it is accepted, mined and settled.

use std::time::{Duration, Instant};

use eyre::{OptionExt, Result, ensure};
use stipend_client::{Client, Pay, Wait};
use stipend_core::{Amount, api::PaymentState};
use tokio::time::sleep;

use super::Plan;
use crate::{
    limits::Limits,
    node::Mining,
    payments::{AMOUNT, payee},
    progress,
    report::{Better, Figure},
    stats::{Spread, millis},
    usage::Others,
    world::{Settings, World, phase},
};

/// How often the relayer asks for a new block.
const POLL_MS: u64 = 20;

/// Payments per second of a window.
const PER_SECOND: u64 = 5;

/// Milliseconds until a payment is mined on a node that makes a block at once.
const INSTANT_TARGET: f64 = 100.0;

/// How long anything is waited for.
const AT_MOST: Duration = Duration::from_secs(60);

/// What one payment took, in milliseconds but for the blocks.
struct Taken {
    accepted: f64,
    mined: f64,
    settled: f64,
    /// From the head when it was accepted to the block that holds it.
    blocks: f64,
}

async fn pay(world: &World, agent: &Client, number: u64, until: Wait) -> Result<Taken> {
    let mandate = world.mandates.first().ok_or_eyre("no mandate")?.id;
    let signed = agent.sign_payment(&Pay::new(mandate, payee(number), Amount::from_units(AMOUNT)?)).await?;
    let start = Instant::now();
    let payment = agent.send_payment(&signed, None).await?.object;
    ensure!(payment.state == PaymentState::Reserved, "{payment:?}");
    let accepted = start.elapsed();
    let height = world.contracts.node.height().await?;
    let mined = agent.wait_for(payment.id, Wait::Mined, AT_MOST).await?;
    let to_mined = start.elapsed();
    ensure!(matches!(mined.state, PaymentState::Mined | PaymentState::Settled), "{mined:?}");
    if until == Wait::Settled {
        let settled = agent.wait_for(payment.id, Wait::Settled, AT_MOST).await?;
        ensure!(settled.state == PaymentState::Settled, "{settled:?}");
    }
    let block = mined.block_number.ok_or_eyre("mined in no block")?;
    Ok(Taken {
        accepted: millis(accepted),
        mined: millis(to_mined),
        settled: millis(start.elapsed()),
        blocks: block as f64 - height as f64,
    })
}

pub(super) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    progress("latency: setting up");
    let settings = Settings { mandates: 1, poll_ms: POLL_MS, ..Settings::default() };
    let world = World::start(plan.dir.join("latency"), &plan.program, &settings).await?;
    let agent = world.mandates.first().ok_or_eyre("no mandate")?.agent.clone();
    let agent = Client::new(world.relayer.url()?, agent)?;
    let mut limits = Limits::default();
    limits.sample(&plan.dir)?;
    let count = PER_SECOND * plan.window.as_secs() * plan.repeats as u64;

    world.contracts.node.mine(Mining::EverySecond).await?;
    pay(&world, &agent, 0, Wait::Mined).await?;
    let (others, mut every_second) = (Others::watch(&world.processes())?, Vec::new());
    for number in 1..=count {
        sleep(phase(number)).await;
        every_second.push(pay(&world, &agent, number, Wait::Settled).await?);
    }
    let (busy, others) = (others.cores()?, Others::watch(&world.processes())?);
    progress(&format!("latency: {count} payments with a block a second; others {busy:.2}"));
    world.contracts.node.mine(Mining::Instant).await?;
    let mut instant = Vec::new();
    for number in 1..=count {
        instant.push(pay(&world, &agent, count + number, Wait::Mined).await?);
    }
    let instant_others = others.cores()?;
    progress(&format!("latency: {count} payments with a block at once; others {instant_others:.2}"));

    let row = |what: &str, unit, taken: &[Taken], of: fn(&Taken) -> f64, others| {
        let spread = Spread::of(taken.iter().map(of)).ok_or_eyre("no payment")?;
        Ok::<_, eyre::Report>(Figure::of(what, unit, Better::Lower, spread).others(others))
    };
    let fdatasync = limits.fdatasync(0.5)?;
    let mined_at_once = row("accepted → mined, a block at once", "ms", &instant, |taken| taken.mined, instant_others)?;
    Ok(vec![
        row("one payment at a time → accepted", "ms", &every_second, |taken| taken.accepted, busy)?.limit(fdatasync),
        row("accepted → mined, a block a second: blocks", "blocks", &every_second, |taken| taken.blocks, busy)?
            .target(1.0),
        row("accepted → mined, a block a second", "ms", &every_second, |taken| taken.mined, busy)?,
        row("accepted → settled, a block a second, finality 2", "ms", &every_second, |taken| taken.settled, busy)?,
        mined_at_once.target(INSTANT_TARGET),
    ])
}
