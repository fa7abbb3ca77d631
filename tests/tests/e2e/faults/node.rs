//! A node in trouble: payments wait, none is lost, none is paid twice, and none is reported failed.

use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, ensure};
use serde_json::{Value, json};
use stipend_client::{Client, Pay};
use stipend_core::{
    MandateId,
    api::{Payment, PaymentState},
};
use stipend_e2e::{
    ANY, AcceptedPayments, Account, ErrorMessage, Fault, FaultProxy, Lag, Load, Miner, NodeClient, Settings, Shape,
    World, eventually, exclusive_slot, number_from, reconcile,
};
use tokio::time::sleep;

use crate::{asking, payee, usdc};

const SEND: &str = "eth_sendRawTransaction";
const LOGS: &str = "eth_getLogs";

/// A word of zeros: no row paid, no reason why.
const NOTHING: &str = "0x0000000000000000000000000000000000000000000000000000000000000000";

/// A world whose node can be troubled, with a mandate.
struct Troubled {
    world: World,
    agent: Client,
    mandate: MandateId,
    accepted: AcceptedPayments,
}

impl Troubled {
    async fn world(name: &str) -> Result<Self> {
        let world = World::with(name, &Settings { troubled: true, ..Settings::default() }).await?;
        let mandate = world.open(&asking("100")?).await?.id;
        Ok(Self { agent: world.agent()?, accepted: AcceptedPayments::of(&world), mandate, world })
    }

    async fn pay(&self) -> Result<Payment> {
        let signed = self.world.sign(&self.agent, &Pay::new(self.mandate, payee(1), usdc("1")?)).await?;
        let accepted = self.agent.send_payment(&signed, None).await?;
        self.accepted.keep(signed, &accepted)?;
        Ok(accepted.object)
    }

    /// A payment in a block of its own, and two in the next one.
    async fn pay_together(&self) -> Result<[Payment; 3]> {
        let anvil = &self.world.anvil;
        anvil.automine(false).await?;
        let first = self.pay().await?;
        anvil.arrived().await?;
        let together = [first, self.pay().await?, self.pay().await?];
        anvil.mine(1).await?;
        anvil.arrived().await?;
        anvil.mine(1).await?;
        anvil.automine(true).await?;
        Ok(together)
    }

    /// More blocks than finality takes; the payment waits all the while.
    async fn waits(&self, payment: &Payment, state: PaymentState) -> Result<()> {
        for _ in 0..8 {
            self.world.anvil.mine(1).await?;
            sleep(Duration::from_millis(100)).await;
            let now = self.agent.payment(payment.id, None).await?;
            ensure!(now.state == state, "{now:?}");
        }
        Ok(())
    }

    /// All is well again: what waited is paid once, and nothing has failed.
    async fn all_is_paid(&self) -> Result<()> {
        self.world.proxy()?.well().await?;
        self.world.anvil.automine(true).await?;
        let account = Account { client: self.agent.clone(), mandates: vec![self.mandate] };
        let found = reconcile(&self.world, &[account], &self.accepted).await?;
        ensure!(found.failed == 0 && found.settled == self.accepted.len(), "{found:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_no_payment_lost() -> Result<()> {
    let troubled = Troubled::world("lost-answer").await?;
    let proxy = troubled.world.proxy()?;
    proxy.fault(SEND, Fault::DropAnswer);
    troubled.pay().await?;
    eventually("an answer is lost", async || Ok((proxy.count(SEND).faulted > 0).then_some(()))).await?;
    troubled.all_is_paid().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_arrived_is_sent_again() -> Result<()> {
    let troubled = Troubled::world("lost-request").await?;
    troubled.world.proxy()?.fault_next(2, SEND, Fault::DropRequest);
    let payment = troubled.pay().await?;
    troubled.world.payment_in(&troubled.agent, &payment, PaymentState::Submitted).await?;
    troubled.all_is_paid().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_twice_or_late_is_paid_once() -> Result<()> {
    let troubled = Troubled::world("twice-and-late").await?;
    let proxy = troubled.world.proxy()?;
    proxy.fault_next(2, SEND, Fault::Twice);
    proxy.fault_next(2, SEND, Fault::Late(Duration::from_secs(2)));
    for _ in 0..3 {
        let payment = troubled.pay().await?;
        troubled.world.settled(&troubled.agent, &payment).await?;
    }
    troubled.all_is_paid().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_node_says_about_a_transaction_it_is_paid_once() -> Result<()> {
    let troubled = Troubled::world("words").await?;
    let proxy = troubled.world.proxy()?;
    for client in NodeClient::ALL {
        for says in [
            ErrorMessage::AlreadyKnown(client),
            ErrorMessage::NonceTooLow(client),
            ErrorMessage::ReplacementUnderpriced(client),
            ErrorMessage::Underpriced(client),
            ErrorMessage::InsufficientFunds(client),
            ErrorMessage::PoolFull(client),
        ] {
            // It is not true: the node has nothing.
            proxy.fault_next(2, SEND, Fault::ErrorMessage(says));
            let payment = troubled.pay().await?;
            troubled.world.settled(&troubled.agent, &payment).await?;
            // And once it has.
            proxy.fault_next(1, SEND, Fault::TakesAndSays(says));
            let payment = troubled.pay().await?;
            troubled.world.settled(&troubled.agent, &payment).await?;
            proxy.well().await?;
        }
    }
    troubled.all_is_paid().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mined_while_it_is_asked_about_is_no_stranger_s() -> Result<()> {
    let troubled = Troubled::world("mined-meanwhile").await?;
    let (anvil, proxy) = (&troubled.world.anvil, troubled.world.proxy()?);
    anvil.automine(false).await?;
    troubled.pay().await?;
    let sent = anvil.arrived().await?;
    anvil.drop_transaction(sent).await?;
    // It is sent again with the next block. The node takes it, and calls its nonce too low: who used it?
    proxy.fault_next(1, "eth_getTransactionCount", Fault::Late(Duration::from_secs(1)));
    proxy.fault_next(1, SEND, Fault::TakesAndSays(ErrorMessage::NonceTooLow(NodeClient::Geth)));
    anvil.mine(1).await?;
    anvil.arrived().await?;
    sleep(Duration::from_millis(300)).await;
    anvil.mine(1).await?;
    // The late answer comes, and nothing is concluded from it.
    for _ in 0..20 {
        sleep(Duration::from_millis(100)).await;
        let health = troubled.agent.healthz().await?;
        ensure!(health.ready, "{health:?}");
    }
    troubled.all_is_paid().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_never_comes_is_waited_for() -> Result<()> {
    let troubled = Troubled::world("no-receipt").await?;
    troubled.world.proxy()?.fault("eth_getTransactionReceipt", Fault::Answer(json!(null)));
    let payment = troubled.pay().await?;
    troubled.world.payment_in(&troubled.agent, &payment, PaymentState::Submitted).await?;
    troubled.waits(&payment, PaymentState::Submitted).await?;
    troubled.all_is_paid().await
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_wait_while_every_simulation_fails() -> Result<()> {
    let troubled = Troubled::world("no-simulation").await?;
    let proxy = troubled.world.proxy()?;
    for fault in [Fault::Reverts, Fault::Answer(json!(NOTHING)), Fault::Answer(json!("0x"))] {
        proxy.fault("eth_call", fault);
        let payment = troubled.pay().await?;
        troubled.waits(&payment, PaymentState::Reserved).await?;
        proxy.well().await?;
    }
    troubled.all_is_paid().await
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_wait_for_a_node_that_is_a_minute_behind() -> Result<()> {
    let world = World::with("behind", &Settings { troubled: true, ..Settings::default() }).await?;
    // What the node knows a minute later is the chain without the mandate.
    let before = world.escrow.chain().head().await?;
    world.anvil.pass(60).await?;
    let mandate = world.open(&asking("100")?).await?.id;
    let troubled = Troubled { agent: world.agent()?, accepted: AcceptedPayments::of(&world), mandate, world };
    for behind in [Lag::Seconds(60), Lag::Blocks(40), Lag::At(before.number), Lag::BlindAt(before.number)] {
        troubled.world.proxy()?.fall_behind(behind);
        let payment = troubled.pay().await?;
        troubled.waits(&payment, PaymentState::Reserved).await?;
        let now = troubled.agent.info().await?.head;
        ensure!(now.number > before.number, "it took the old head {now:?} for new");
        troubled.world.proxy()?.well().await?;
        troubled.world.settled(&troubled.agent, &payment).await?;
    }
    troubled.all_is_paid().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_node_costs_nothing_beside_a_good_one() -> Result<()> {
    let mut troubled = Troubled::world("one-of-two-lies").await?;
    let world = &mut troubled.world;
    let nodes = format!("{},{}", world.proxy()?.url(), world.anvil.url());
    world.relayer.stop()?;
    world.relayer.set("--rpc-url", &nodes)?;
    world.relayer.restart().await?;
    let before = world.escrow.chain().head().await?;
    world.anvil.pass(60).await?;

    // The one that lies is the preferred one. What it is caught at, if it is not asked for a while then.
    type Trouble = fn(&FaultProxy, u64);
    let troubles: [(&str, Trouble, &str); 11] = [
        ("a minute behind", |node, _| node.fall_behind(Lag::Seconds(60)), ""),
        ("stands still", |node, before| node.fall_behind(Lag::At(before)), ""),
        ("stands still and knows no later block", |node, before| node.fall_behind(Lag::BlindAt(before)), ""),
        ("another chain", |node, _| node.fault("eth_chainId", Fault::Answer(json!("0x1"))), ""),
        ("no logs", |node, _| node.fault(LOGS, Fault::Answer(json!([]))), "leaves out logs"),
        ("some logs", |node, _| node.fault(LOGS, Fault::Alters(|logs| one_of_many(logs, |_| None))), "leaves out logs"),
        ("a log twice", |node, _| node.fault(LOGS, Fault::Alters(|logs| one_of_many(logs, Some))), "comes twice"),
        ("a log garbled", |node, _| node.fault(LOGS, Fault::Alters(|logs| one_of_many(logs, garbled))), "its receipts"),
        ("a log out of place", |node, _| node.fault(ANY, Fault::Alters(out_of_place)), "can't be booked"),
        ("no receipts", |node, _| node.fault("eth_getTransactionReceipt", Fault::Answer(json!(null))), "no receipt"),
        ("only errors", |node, _| node.fault(ANY, Fault::Error(-32_603, "Internal error")), ""),
    ];
    for (name, trouble, caught) in troubles {
        // What it did before is forgotten.
        troubled.world.proxy()?.well().await?;
        troubled.world.relayer.stop()?;
        troubled.world.relayer.restart().await?;
        trouble(troubled.world.proxy()?, before.number);
        for payment in troubled.pay_together().await? {
            troubled.world.settled(&troubled.agent, &payment).await.wrap_err(name)?;
        }
        let alarms = troubled.agent.readyz().await?.alarms.join("\n");
        ensure!(alarms.contains(caught), "{name}: {alarms}");
    }
    troubled.all_is_paid().await
}

/// Alters the last one of several logs: into what is in its place and behind it.
fn one_of_many(logs: &mut Value, alter: fn(Value) -> Option<Value>) {
    let Some(logs) = logs.as_array_mut().filter(|logs| logs.len() > 1) else { return };
    let Some(last) = logs.pop() else { return };
    if let Some(altered) = alter(last.clone()) {
        if altered == last {
            logs.push(last);
        }
        logs.push(altered);
    }
}

/// The amount that it tells is another one.
fn garbled(mut log: Value) -> Option<Value> {
    let data = log.get("data")?.as_str()?;
    let digit = if data.ends_with('1') { '2' } else { '1' };
    let altered = format!("{}{digit}", data.get(..data.len() - 1)?);
    *log.get_mut("data")? = json!(altered);
    Some(log)
}

/// Logs stand where no ledger has room for them.
fn out_of_place(result: &mut Value) {
    for log in result.as_array_mut().into_iter().flatten() {
        if let Some(place) = log.get_mut("logIndex") {
            *place = json!("0xffffffffffffffff");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_node_that_comes_back_on_another_chain() -> Result<()> {
    let troubled = Troubled::world("other-chain").await?;
    let proxy = troubled.world.proxy()?;
    proxy.refuse_connections().await?;
    let payment = troubled.pay().await?;
    let alarm = async |about: &str| {
        eventually(about, async || {
            let health = troubled.agent.healthz().await?;
            Ok(health.alarms.iter().any(|alarm| alarm.contains(about)).then_some(()))
        })
        .await
    };
    alarm("no connection").await?;
    proxy.fault("eth_chainId", Fault::Answer(json!("0x1")));
    proxy.take_connections().await?;
    alarm("chain 1").await?;
    troubled.waits(&payment, PaymentState::Reserved).await?;
    ensure!(proxy.count(SEND).asked == 0, "{:?}", proxy.count(SEND));
    troubled.all_is_paid().await
}

/// Twenty seconds of errors; ten minutes in the long run.
#[tokio::test(flavor = "multi_thread")]
async fn payments_are_accepted_and_wait_while_nodes_fail() -> Result<()> {
    let _place = exclusive_slot().await?;
    let seconds = number_from("STIPEND_RPC_ERRORS", 20)?;
    let world = World::with("rpc-errors", &Settings { troubled: true, ..Settings::default() }).await?;
    let shape = Shape { agents: 2, mandates: 1, pause: Duration::from_millis(1_000 * seconds / 200) };
    let load = Load::start(&world, shape).await?;
    let miner = Miner::start(&world, Duration::from_millis(500)).await?;
    let proxy = world.proxy()?;
    eventually("some are accepted", async || Ok((load.accepted().len() > 5).then_some(()))).await?;
    let before = load.accepted().len();
    let troubles = [
        Some(Fault::Error(-32_603, "Internal error")),
        Some(Fault::TooMany(1)),
        Some(Fault::DropAnswer),
        None,
        Some(Fault::DropRequest),
        Some(Fault::Error(-32_005, "limit exceeded")),
    ];
    let start = Instant::now();
    for trouble in troubles.iter().cycle() {
        if start.elapsed().as_secs() >= seconds {
            break;
        }
        match trouble {
            Some(fault) => {
                proxy.well().await?;
                proxy.fault(ANY, fault.clone());
            }
            None => proxy.refuse_connections().await?,
        }
        sleep(Duration::from_millis(1_000 * seconds / 12)).await;
    }
    proxy.well().await?;
    let (accounts, accepted) = load.stop().await?;
    drop(miner);
    let found = reconcile(&world, &accounts, &accepted).await?;
    println!("{seconds} s of errors, {:?} calls of the node: {found:?}", proxy.count(ANY));
    ensure!(found.failed == 0 && accepted.len() > before, "{before} before, {found:?}");
    Ok(())
}
