//! The follower: far behind, and with several nodes that lag, lie or fall silent.

use std::time::{Duration, Instant};

use eyre::Result;
use stipend_client::Pay;
use stipend_core::{
    Code,
    api::{Health, PaymentState},
    policy::MandateState,
};
use stipend_e2e::{ApiRequest, Fault, Settings, World, balance, eventually};
use tokio::time::timeout;

use crate::{asking, opened, payee, usdc};

/// While the relayer is away, a payment is mined and another mandate revoked, many blocks apart.
/// Starting, it is killed after these times first.
async fn catches_up(name: &str, blocks: u64, kills: &[Duration]) -> Result<()> {
    let (mut world, mandate) = opened(name, "100").await?;
    let agent = world.agent()?;
    let over = world.open(&asking("5")?).await?;
    world.anvil.automine(false).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("3")?)).await??.object;
    world.payment_in(&agent, &payment, PaymentState::Submitted).await?;
    world.anvil.arrived().await?;
    world.relayer.kill()?;

    world.anvil.mine(blocks / 3).await?;
    world.anvil.automine(true).await?;
    world.escrow.revoke(&world.keys.operator, &over.terms).await?;
    world.anvil.mine(blocks - blocks / 3).await?;
    for after in kills {
        // What is not ready by then is dropped, which kills it.
        let _ = timeout(*after, world.relayer.restart()).await;
    }
    let start = Instant::now();
    world.relayer.restart().await?;
    println!("{blocks} blocks: ready after {:?}", start.elapsed());

    world.payment_in(&agent, &payment, PaymentState::Settled).await?;
    let over = world.mandate_in(&agent, over.id, MandateState::Ended).await?;
    assert_eq!(over.returned, over.terms.cap);
    balance(&world, &agent, &[mandate.id, over.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_far_behind_catches_up() -> Result<()> {
    catches_up("far-behind", 2_000, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_catches_up_it_goes_on_where_it_was() -> Result<()> {
    let kills: Vec<_> = (1..=5).map(|kill| Duration::from_millis(kill * 120)).collect();
    catches_up("killed-far-behind", 2_500, &kills).await
}

/// How many blocks the relayer asks for at once when it is far behind, and books in one commit.
const RANGE: u64 = 512;
const HEADER: &str = "eth_getBlockByNumber";

/// The relayer is asked to stop while it is far behind, in the middle of its second range of blocks. It
/// stops at once, and does not read again what it has booked.
async fn stops_while_it_catches_up(name: &str, is_away: bool) -> Result<()> {
    let mut world = World::with(name, &Settings { troubled: true, ..Settings::default() }).await?;
    let (mandate, blocks) = (world.open(&asking("100")?).await?, 4 * RANGE);
    world.followed(&world.agent()?).await?;
    if is_away {
        world.relayer.stop()?;
    }
    world.proxy()?.fault(HEADER, Fault::SlowAnswer(Duration::from_millis(100)));
    // Seen half-made, the chain would be read in smaller ranges.
    world.proxy()?.refuse_connections().await?;
    let before = world.proxy()?.count(HEADER).asked;
    world.anvil.mine(blocks).await?;
    world.proxy()?.take_connections().await?;
    if is_away {
        world.relayer.begin()?;
    }
    let proxy = world.proxy()?;
    eventually("the second range is asked for", async || {
        Ok((proxy.count(HEADER).asked - before > RANGE + RANGE / 8).then_some(()))
    })
    .await?;

    if is_away {
        // Health checks are answered meanwhile, and callers learn that they are to come again.
        let asked = async |path: &str| Ok::<_, eyre::Report>(ApiRequest::get(world.url(path)?).send().await?);
        let (alive, ready) = (asked("/healthz").await?, asked("/readyz").await?);
        let health: Health = serde_json::from_value(alive.json()?)?;
        assert_eq!((alive.status, ready.status, health.ready), (200, 503, false));
        assert!(health.alarms.iter().any(|alarm| alarm.starts_with("starting: ")), "{health:?}");
        let problem = asked("/v1/info").await?.problem()?;
        assert_eq!((problem.code, problem.retry_after), (Code::Overloaded, Some(2)));
    }
    let before_stop = world.proxy()?.count(HEADER).asked;
    world.relayer.stop()?;
    let still_asked = world.proxy()?.count(HEADER).asked - before_stop;
    assert!(still_asked < RANGE, "after the stop it asked for {still_asked} headers");
    world.relayer.prove()?;
    world.proxy()?.well().await?;
    let before = world.proxy()?.count(HEADER).asked;
    world.relayer.restart().await?;
    let agent = world.agent()?;
    world.followed(&agent).await?;
    let asked = world.proxy()?.count(HEADER).asked - before;
    assert!(asked < blocks - RANGE / 2, "it asked for {asked} headers of {blocks}");
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_catching_up_is_immediate() -> Result<()> {
    stops_while_it_catches_up("stopped-far-behind", true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_while_it_has_fallen_behind_it_stops_at_once() -> Result<()> {
    stops_while_it_catches_up("stopped-falling-behind", false).await
}
