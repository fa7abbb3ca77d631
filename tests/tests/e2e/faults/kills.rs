//! The relayer is killed at random under load, and started again; the chain may turn back meanwhile.

use std::time::{Duration, Instant};

use eyre::Result;
use stipend_e2e::{
    CardSettings, Load, Miner, SeededRng, Settings, Shape, World, exclusive_slot, number_from, reconcile,
};
use tokio::time::sleep;

/// How long it lives at most, in milliseconds: it takes about half of this to start.
const LIFE: u64 = 2_200;

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_under_load_it_pays_everything_once() -> Result<()> {
    let _place = exclusive_slot().await?;
    let kills = number_from("STIPEND_KILLS", 30)?;
    let mut rng = SeededRng::by_seed("kills")?;
    // What a webhook could not tell while it was down is asked for soon.
    let cards = Some(CardSettings { poll: 1, ..CardSettings::default() });
    let mut world = World::with("kills", &Settings { cards, log: "info", ..Settings::default() }).await?;
    // Of so many mandates at once that some of what is accepted is in the trail alone for a while.
    let load = Load::start(&world, Shape { agents: 9, mandates: 1, pause: Duration::from_millis(5) }).await?;
    let miner = Miner::start(&world, Duration::from_millis(250)).await?;
    let (start, mut ready) = (Instant::now(), 0);
    for kill in 1..=kills {
        sleep(Duration::from_millis(rng.below(LIFE))).await;
        ready += u64::from(world.relayer.is_ready().await);
        world.relayer.kill()?;
        world.relayer.begin()?;
        if kill % 50 == 0 {
            println!("{kill} kills, {} payments, {} s", load.accepted().len(), start.elapsed().as_secs());
        }
    }
    world.relayer.ready().await?;
    let killed = start.elapsed().as_secs();
    let cards = load.cards();
    let (accounts, accepted) = load.stop().await?;
    drop(miner);
    let found = reconcile(&world, &accounts, &accepted).await?;
    let log = std::fs::read_to_string(world.dir().join("relayer.log"))?;
    let recovered = log.matches("what was decided before a crash").count();
    println!(
        "{kills} kills in {killed} s, {ready} while it took work, {recovered} with something in the trail alone, {cards} cards"
    );
    println!("{found:?} after {} s", start.elapsed().as_secs());
    assert!(found.settled >= accepted.len() && !accepted.is_empty(), "{found:?}");
    assert!(cards > 0, "no card was made");
    // One kill in four does; of a few, none may.
    assert!(recovered > 0 || kills < 100, "no kill left anything in the trail alone");
    assert!(ready > 0 && ready < kills, "killed {ready} of {kills} times while it took work");
    Ok(())
}

/// Deeper than any reorg here.
const FINALITY: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_chain_turns_back_it_pays_everything_once() -> Result<()> {
    let _place = exclusive_slot().await?;
    let mut rng = SeededRng::by_seed("kills and reorgs")?;
    let cards = Some(CardSettings { poll: 1, ..CardSettings::default() });
    let settings = Settings { cards, finality: FINALITY, ..Settings::default() };
    let mut world = World::with("kills-and-reorgs", &settings).await?;
    world.anvil.mine(FINALITY).await?;
    let load = Load::start(&world, Shape::default()).await?;
    world.anvil.mine(FINALITY).await?;
    let miner = Miner::start(&world, Duration::from_millis(250)).await?;
    for kill in 1..=number_from("STIPEND_KILLS", 30)? / 2 {
        sleep(Duration::from_millis(rng.below(LIFE))).await;
        world.relayer.kill()?;
        {
            let _no_block = miner.rests().await;
            world.anvil.reorg(1 + rng.below(FINALITY - 1)).await?;
        }
        // Every other time it sees the new branch grow before it is there.
        sleep(Duration::from_millis(kill % 2 * rng.below(LIFE))).await;
        world.relayer.begin()?;
    }
    world.relayer.ready().await?;
    let (accounts, accepted) = load.stop().await?;
    drop(miner);
    let found = reconcile(&world, &accounts, &accepted).await?;
    println!("{found:?}");
    assert!(found.failed == 0 && found.settled >= accepted.len() && !accepted.is_empty(), "{found:?}");
    Ok(())
}
