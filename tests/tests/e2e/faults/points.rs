//! The relayer dies between any two effects, and nothing is lost, repeated or stuck.
#![cfg(debug_assertions)]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use eyre::{Result, WrapErr, ensure};
use futures_util::future::try_join_all;
use stipend_e2e::{World, exclusive_slot};

use super::lane::Lane;

/// How many worlds share the work: most of the time each waits for a relayer to start.
const LANES: usize = 4;

/// Which passings it dies at: the first one, and one in the middle of things.
const PASSINGS: [u32; 2] = [1, 3];

#[tokio::test(flavor = "multi_thread")]
async fn a_failpoint_that_there_is_not_is_refused() -> Result<()> {
    let world = World::start("no-such-failpoint").await?;
    let names = world.relayer.failpoints().await?;
    assert!(names.iter().any(|name| name == "settle.stored"), "{names:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_between_any_two_effects_it_goes_on_where_it_was() -> Result<()> {
    let _place = exclusive_slot().await?;
    let start = Instant::now();
    let mut lanes = vec![Lane::start("failpoints").await?];
    let names = lanes[0].world().relayer.failpoints().await?;
    let mut work = VecDeque::new();
    for passing in PASSINGS {
        // A process starts once.
        let names = names.iter().filter(|name| passing == 1 || !name.starts_with("start."));
        work.extend(names.map(|name| (name.clone(), passing)));
    }
    let (all, work) = (work.len(), Mutex::new(work));
    for _ in 1..LANES {
        lanes.push(Lane::start("failpoints").await?);
    }
    let fired = Mutex::new(BTreeMap::<String, u32>::new());
    let running = lanes.into_iter().map(async |mut lane| {
        loop {
            let next = lock(&work).pop_front();
            // The end of a world takes long, and would hold up the others.
            let Some((point, passing)) = next else { return Ok(lane) };
            let start = Instant::now();
            lane.dies_at(&point, passing).await.wrap_err_with(|| format!("{point}:{passing}"))?;
            println!("{point}:{passing} in {} ms", start.elapsed().as_millis());
            *lock(&fired).entry(point).or_default() += 1;
        }
    });
    let ended: Result<Vec<Lane>> = try_join_all(running).await;
    drop(ended?);
    let fired = lock(&fired);
    for name in &names {
        println!("{name}: fired {} times", fired.get(name).copied().unwrap_or_default());
    }
    println!("{all} deaths in {} s", start.elapsed().as_secs());
    let never: Vec<_> = names.iter().filter(|name| !fired.contains_key(*name)).collect();
    ensure!(never.is_empty(), "never fired: {never:?}");
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
