//! Cards: until one can be used; and how long the issuer waits for its answers, alone, and while payments are made and
//! settled. The slowest answer also bounds how long the ledger's writer is held at a time: a question waits for it.

use std::time::{Duration, Instant};

use eyre::{OptionExt, Result, ensure};
use stipend_client::{Client, CreateCard};
use stipend_core::{Amount, CardId, card::CardState};
use tokio::time::sleep;

use super::Plan;
use crate::{
    generator::{Load, open_loop},
    issuer::IS_ANSWERED,
    limits::Limits,
    measure::{Bench, CONNECTIONS},
    node::Mining,
    payments::Mandate,
    process::eventually,
    progress,
    report::{Better, Figure},
    schedule::Schedule,
    stats::{Spread, millis},
    usage::Others,
    world::{Settings, World, phase},
};

/// How many cards are made, each from a mandate of its own.
const CARDS: usize = 10;

/// What each may be charged, in units: a dollar.
const CARD_UNITS: u64 = 1_000_000;

/// How often a card is looked at until it is there.
const LOOK: Duration = Duration::from_millis(10);

/// Questions per second, and how many can be under way.
const QUESTIONS: f64 = 100.0;
const QUESTION_CONNECTIONS: usize = 32;

/// How much longer than others a window is in which questions are asked: there are few of them.
const WINDOWS: u32 = 4;

/// Milliseconds for which the writer may be held at a time.
const HOLD_TARGET: f64 = 20.0;

/// Milliseconds from the call until the number is in the agent's hand.
async fn make(world: &World, mandate: &Mandate) -> Result<(CardId, f64)> {
    let agent = Client::new(world.relayer.url()?, mandate.agent.clone())?;
    let signed = agent.sign_card(&CreateCard::new(mandate.id, Amount::from_units(CARD_UNITS)?)).await?;
    let start = Instant::now();
    let card = agent.send_card(&signed, None).await?.object;
    eventually("the card can be used", LOOK, async || {
        let card = agent.card(card.id).await?;
        ensure!(!card.state.is_final(), "{card:?}");
        Ok((card.state == CardState::Active).then_some(()))
    })
    .await?;
    agent.card_secrets(card.id).await?;
    Ok((card.id, millis(start.elapsed())))
}

/// What questions took, in milliseconds.
struct Asked {
    p50: f64,
    p99: f64,
    max: f64,
    others: f64,
}

impl Asked {
    fn of(mut load: Load, others: f64) -> Self {
        Self { p50: load.latency(0.5), p99: load.latency(0.99), max: load.latency(1.0), others }
    }
}

async fn ask(bench: &mut Bench, cards: &[String], time: Duration, loaded: bool) -> Result<Asked> {
    if loaded {
        bench.prepare(time)?;
    }
    let (relayer, schedule) = (bench.world.relayer.address, Schedule::new(QUESTIONS, time));
    let issuer = bench.world.issuer.as_ref().ok_or_eyre("no issuer")?;
    let mut questions = issuer.questions(relayer, cards, schedule.count).await?;
    let others = Others::watch(&bench.world.processes())?;
    let asking = open_loop(relayer, QUESTION_CONNECTIONS, schedule, &mut questions, IS_ANSWERED);
    let load = match loaded {
        true => tokio::try_join!(asking, bench.closed(CONNECTIONS, time))?.0,
        false => asking.await?,
    };
    Ok(Asked::of(load, others.cores()?))
}

pub(super) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    progress("cards: setting up");
    let settings = Settings { cards: true, ..Settings::default() };
    let mut world = World::start(plan.dir.join("cards"), &plan.program, &settings).await?;
    world.contracts.node.mine(Mining::EverySecond).await?;
    let holders = world.mandates.split_off(world.mandates.len() - CARDS);
    let issuer = world.issuer.as_ref().ok_or_eyre("no issuer")?;
    let (others, mut cards, mut usable) = (Others::watch(&world.processes())?, Vec::new(), Vec::new());
    for (number, mandate) in (0..).zip(&holders) {
        sleep(phase(number)).await;
        let (card, time) = make(&world, mandate).await?;
        cards.push(issuer.token(card).await?);
        usable.push(time);
    }
    let making = others.cores()?;
    progress(&format!("cards: {CARDS} made; others {making:.2}"));

    let (mut bench, mut limits) = (Bench::on(world), Limits::default());
    let (mut alone, mut loaded) = (Vec::new(), Vec::new());
    for repeat in 1..=plan.repeats {
        limits.sample(&plan.dir)?;
        alone.push(ask(&mut bench, &cards, plan.window * WINDOWS, false).await?);
        let asked = ask(&mut bench, &cards, plan.window * WINDOWS, true).await?;
        let Asked { p99, max, others, .. } = asked;
        progress(&format!("cards {repeat}: under load p99 {p99:.1} ms, max {max:.1} ms; others {others:.2}"));
        loaded.push(asked);
    }

    let fdatasync = limits.fdatasync(0.99)?;
    let made =
        Figure::of("card created → usable, a block a second", "ms", Better::Lower, spread(&usable, |time| *time)?);
    let row = |what: String, asked: &[Asked], of: fn(&Asked) -> f64| {
        let others = spread(asked, |asked| asked.others)?.median;
        Ok::<_, eyre::Report>(Figure::of(what, "ms", Better::Lower, spread(asked, of)?).others(others))
    };
    let mut figures = vec![made.others(making)];
    for (when, asked) in [("alone", &alone), ("while payments are made and settled", &loaded)] {
        let p99 = row(format!("issuer's question, {when}: p99"), asked, |asked| asked.p99)?;
        figures.push(row(format!("issuer's question, {when}: p50"), asked, |asked| asked.p50)?);
        figures.push(p99.limit(fdatasync).target(10.0 + 2.0 * fdatasync));
    }
    let hold = row("the writer held at a time (slowest question under load)".into(), &loaded, |asked| asked.max)?;
    figures.push(hold.target(HOLD_TARGET));
    Ok(figures)
}

fn spread<T>(values: &[T], of: impl Fn(&T) -> f64) -> Result<Spread> {
    Spread::of(values.iter().map(of)).ok_or_eyre("no repeat")
}
