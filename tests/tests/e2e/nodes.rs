//! Several nodes, and nodes that tell of blocks by themselves, over wires that are cut.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use eyre::{OptionExt, Result};
use stipend_client::Pay;
use stipend_core::api::PaymentState;
use stipend_e2e::{World, balance, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::watch,
    task::JoinHandle,
};
use url::Url;

use crate::{opened, payee, usdc};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Whole,
    /// Connections break, and new ones break at once.
    Cut,
    /// Existing connections stay open and go silent; new connections work.
    Dead,
}

/// A wire to the node with an address of its own.
#[derive(Debug)]
struct Line {
    address: String,
    state: watch::Sender<Wire>,
    listener: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Line {
    async fn to(node: &Url) -> Result<Self> {
        let target = (Ipv4Addr::LOCALHOST, node.port().ok_or_eyre("a node without a port")?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let (state, states) = watch::channel(Wire::Whole);
        let listener = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut states = states.clone();
                if *states.borrow_and_update() == Wire::Cut {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let (near, far) = (near.into_split(), far.into_split());
                    let (mut up, mut down) = (states.clone(), states);
                    tokio::select! {
                        () = carry(near.0, far.1, &mut up) => {}
                        () = carry(far.0, near.1, &mut down) => {}
                    }
                });
            }
        });
        Ok(Self { address, state, listener })
    }

    /// Its address, with a key that nobody may see.
    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/?key={SECRET}", self.address)
    }

    fn set(&self, wire: Wire) {
        self.state.send_replace(wire);
    }
}

/// What the URL of a provider can hold.
const SECRET: &str = "0123456789abcdef-nodes-key";

/// Carries bytes one way until the wire is cut.
async fn carry(mut from: OwnedReadHalf, mut to: impl AsyncWriteExt + Unpin, state: &mut watch::Receiver<Wire>) {
    let mut buffer = vec![0; 65_536];
    loop {
        tokio::select! {
            changed = state.changed() => {
                let now = *state.borrow_and_update();
                match now {
                    Wire::Whole if changed.is_ok() => {}
                    Wire::Dead => std::future::pending().await,
                    _ => return,
                }
            }
            read = from.read(&mut buffer) => {
                let Some(bytes) = read.ok().filter(|read| *read > 0).and_then(|read| buffer.get(..read)) else { return };
                if to.write_all(bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Everything that a relayer with these nodes wrote must not name the key in their URLs.
async fn reads_from(world: &mut World, nodes: &str, poll_ms: u64) -> Result<()> {
    world.secrets.of_the_issuer("a node's key", SECRET);
    world.relayer.stop()?;
    world.relayer.set("--rpc-url", nodes)?;
    world.relayer.set("--poll-ms", &poll_ms.to_string())?;
    world.relayer.restart().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_after_the_other_fails_and_payments_go_on() -> Result<()> {
    let (mut world, mandate) = opened("two-nodes", "100").await?;
    let agent = world.agent()?;
    let (first, second) = (Line::to(world.anvil.url()).await?, Line::to(world.anvil.url()).await?);
    reads_from(&mut world, &format!("{},{}", first.url("http"), second.url("http")), 50).await?;
    let alarms = async || Ok::<_, eyre::Report>(agent.readyz().await?.alarms);

    for (cut, name) in [(&first, &first.address), (&second, &second.address)] {
        cut.set(Wire::Cut);
        for _ in 0..2 {
            let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
            world.settled(&agent, &payment).await?;
        }
        let said = eventually("it is said", async || Ok(Some(alarms().await?).filter(|alarms| !alarms.is_empty())));
        let said = said.await?.join("\n");
        assert!(said.starts_with(&format!("nodes: {name} is not used: ")) && !said.contains(SECRET), "{said}");
        cut.set(Wire::Whole);
        eventually("all is well", async || Ok(alarms().await?.is_empty().then_some(()))).await?;
    }

    // Neither: payments wait, nothing fails, and the relayer says so without halting.
    for line in [&first, &second] {
        line.set(Wire::Cut);
    }
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    let said = eventually("it is said", async || {
        Ok(Some(agent.readyz().await?).filter(|health| health.alarms.iter().any(|alarm| alarm.starts_with("chain: "))))
    });
    assert!(said.await?.ready);
    assert!(!agent.payment(payment.id, None).await?.state.is_final());
    for line in [&first, &second] {
        line.set(Wire::Whole);
    }
    world.settled(&agent, &payment).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_is_away_when_it_starts() -> Result<()> {
    let (mut world, mandate) = opened("node-away", "100").await?;
    let agent = world.agent()?;
    let (first, second) = (Line::to(world.anvil.url()).await?, Line::to(world.anvil.url()).await?);
    first.set(Wire::Cut);
    reads_from(&mut world, &format!("{},{}", first.url("http"), second.url("http")), 50).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &payment).await?;
    Ok(())
}

/// Polled so rarely that only being told can be the reason.
const NEVER: u64 = 3_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_websocket_loses_no_block() -> Result<()> {
    let (mut world, mandate) = opened("websocket", "100").await?;
    let agent = world.agent()?;
    let line = Line::to(world.anvil.url()).await?;
    reads_from(&mut world, &line.url("ws"), NEVER).await?;
    let pay =
        async || -> Result<_> { Ok(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object) };
    let payment = pay().await?;
    world.settled(&agent, &payment).await?;

    // Blocks that are made while the wire is cut are found when it is whole again.
    for _ in 0..3 {
        let payment = pay().await?;
        world.payment_in(&agent, &payment, PaymentState::Mined).await?;
        line.set(Wire::Cut);
        world.anvil.mine(3).await?;
        line.set(Wire::Whole);
        world.payment_in(&agent, &payment, PaymentState::Settled).await?;
    }
    world.followed(&agent).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_falls_silent_is_asked_and_given_up() -> Result<()> {
    let (mut world, mandate) = opened("silent-websocket", "100").await?;
    let agent = world.agent()?;
    let line = Line::to(world.anvil.url()).await?;
    reads_from(&mut world, &line.url("ws"), 100).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.payment_in(&agent, &payment, PaymentState::Mined).await?;
    line.set(Wire::Dead);
    let start = Instant::now();
    world.anvil.mine(3).await?;
    world.payment_in(&agent, &payment, PaymentState::Settled).await?;
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    balance(&world, &agent, &[mandate.id]).await
}
