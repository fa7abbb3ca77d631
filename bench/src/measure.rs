//! Windows of load on a world, and what the relayer used in them.

use std::time::Duration;

use eyre::{OptionExt, Result};
use stipend_core::api::NewPayment;

use crate::{
    generator::{Load, are_reserved, closed_loop, is_reserved, open_loop},
    payments::{BATCH, Payments},
    report::{Better, Figure},
    schedule::Schedule,
    stats::Spread,
    usage::{Others, Usage},
    world::World,
};

/// The load that others are compared with: as many connections as keep today's machine busy.
pub(crate) const CONNECTIONS: usize = 64;

/// How many requests of an open loop can be under way.
const OPEN_LOOP_CONNECTIONS: usize = 256;

/// Payments per second that are signed for before the first rate is known.
const FIRST_GUESS: f64 = 6_000.0;

/// A window of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Per second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Microseconds of the relayer's CPU per payment.
    pub(crate) cpu: f64,
    /// Cores that anything else used.
    pub(crate) others: f64,
}

/// A world under load.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) world: World,
    payments: Payments,
    /// The last closed loop's rate.
    rate: f64,
    /// How many payments were accepted.
    pub(crate) accepted: u64,
}

impl Bench {
    pub(crate) fn on(world: World) -> Self {
        let payments = Payments::new(world.contracts.domain(), world.relayer.address, world.mandates.clone());
        Self { world, payments, rate: FIRST_GUESS, accepted: 0 }
    }

    /// Signs as many payments as a closed loop may send in `time`. It does so itself; signing blocks, though, what goes on at
    /// the same time.
    ///
    /// # Errors
    /// If a key can't sign.
    pub(crate) fn prepare(&mut self, time: Duration) -> Result<()> {
        // Half as many again as last time, since a window without requests is shorter.
        self.payments.prepare((self.rate * 1.5 * time.as_secs_f64()) as usize)
    }

    /// As many payments as `connections` get accepted in `time`.
    ///
    /// # Errors
    /// At the first that is not accepted; so for all loads.
    pub(crate) async fn closed(&mut self, connections: usize, time: Duration) -> Result<Window> {
        self.prepare(time)?;
        let meter = Meter::start(&self.world)?;
        let (to, ready) = (self.world.relayer.address, &mut self.payments.ready);
        let prepared = ready.len();
        let load = closed_loop(to, connections, time, ready, is_reserved).await?;
        self.accepted += (prepared - ready.len()) as u64;
        let window = meter.read(load)?;
        self.rate = window.rate;
        Ok(window)
    }

    /// The same by calls of [`BATCH`] payments; latencies are those of calls.
    pub(crate) async fn closed_batches(&mut self, connections: usize, time: Duration) -> Result<Window> {
        // Three times as many as come singly.
        self.payments.prepare((self.rate * 3.0 * time.as_secs_f64()) as usize)?;
        let mut calls = self.payments.batches()?;
        let meter = Meter::start(&self.world)?;
        let prepared = calls.len();
        let mut load = closed_loop(self.world.relayer.address, connections, time, &mut calls, are_reserved).await?;
        self.accepted += ((prepared - calls.len()) * BATCH) as u64;
        self.payments.take_back(&calls)?;
        load.count *= BATCH as u64;
        meter.read(load)
    }

    /// Payments at a fixed rate; latencies count from the due time.
    pub(crate) async fn open(&mut self, rate: f64, time: Duration) -> Result<Window> {
        let schedule = Schedule::new(rate, time);
        self.payments.prepare(usize::try_from(schedule.count)?)?;
        let meter = Meter::start(&self.world)?;
        let (to, ready) = (self.world.relayer.address, &mut self.payments.ready);
        let load = open_loop(to, OPEN_LOOP_CONNECTIONS, schedule, ready, is_reserved).await?;
        self.accepted += load.count;
        meter.read(load)
    }

    /// Payments for a window in which they are not sent by HTTP.
    pub(crate) fn take(&mut self, time: Duration) -> Result<Vec<NewPayment>> {
        self.payments.take((self.rate * 1.5 * time.as_secs_f64()) as usize)
    }

    /// Leaves out this many nonces of each mandate.
    pub(crate) fn skip(&mut self, nonces: u32) {
        self.payments.skip(nonces);
    }

    /// Exactly `count` payments, as fast as they are accepted.
    pub(crate) async fn accept(&mut self, count: u64) -> Result<()> {
        let these = usize::try_from(count)?;
        self.payments.prepare(these)?;
        let mut these = self.payments.ready.drain(..these).collect();
        let to = self.world.relayer.address;
        closed_loop(to, CONNECTIONS, Duration::from_secs(3_600), &mut these, is_reserved).await?;
        self.accepted += count;
        Ok(())
    }
}

/// What the relayer and others use from now on.
struct Meter {
    relayer: u32,
    before: Usage,
    others: Others,
}

impl Meter {
    fn start(world: &World) -> Result<Self> {
        let relayer = world.relayer.id();
        Ok(Self { relayer, before: Usage::of(relayer)?, others: Others::watch(&world.processes())? })
    }

    fn read(self, mut load: Load) -> Result<Window> {
        let cpu = (Usage::of(self.relayer)?.cpu - self.before.cpu).as_secs_f64() * 1e6 / load.count as f64;
        let (p50, p99) = (load.latency(0.5), load.latency(0.99));
        Ok(Window { rate: load.rate(), p50, p99, cpu, others: self.others.cores()? })
    }
}

/// A figure of the same quantity in several windows.
///
/// # Errors
/// If there are none.
pub(crate) fn figure(
    what: impl Into<String>,
    unit: &'static str,
    better: Better,
    windows: &[Window],
    of: fn(&Window) -> f64,
) -> Result<Figure> {
    let spread = |of: fn(&Window) -> f64| Spread::of(windows.iter().map(of)).ok_or_eyre("no window");
    Ok(Figure::of(what, unit, better, spread(of)?).others(spread(|window| window.others)?.median))
}
