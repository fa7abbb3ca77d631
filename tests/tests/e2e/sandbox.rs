//! `stipend dev` for other people's tests: payees that something befalls, a clock that can be moved, and a stop that
//! leaves nothing behind.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use alloy_primitives::Address;
use eyre::{OptionExt, Result};
use stipend_client::{Events, Pay, Wait};
use stipend_core::{
    Amount, Code, MandateId, PaymentId,
    api::{AuditEntry, Payment, PaymentState},
    dev::Ready,
    policy::MandateState,
};
use stipend_e2e::{Network, Settings, World, binary, eventually, next_entry};
use stipend_testing::{Stack, StackError};

use crate::{code, usdc};

/// Longer than a payment stalls.
const PATIENCE: Duration = Duration::from_secs(60);

async fn start() -> Result<Stack> {
    Ok(Stack::builder().binary(binary()?).mandate("100.00").start().await?)
}

fn mandate(stack: &Stack) -> Result<MandateId> {
    stack.mandates.first().copied().ok_or_eyre("no mandate")
}

async fn pay(stack: &Stack, payee: Address, amount: &str) -> Result<Payment> {
    Ok(stack.agent().pay(Pay::new(mandate(stack)?, payee, usdc(amount)?)).await?.object)
}

async fn available(stack: &Stack) -> Result<Amount> {
    Ok(stack.agent().mandate(mandate(stack)?).await?.available)
}

/// What becomes of a payment until it is final, as its agent's trail has it; where it goes back, with a minus.
async fn trail(events: &mut Events, payment: PaymentId) -> Result<Vec<String>> {
    let mut steps = Vec::new();
    loop {
        let AuditEntry { kind, data, payment: of, .. } = next_entry(events).await?;
        if of != Some(payment) {
            continue;
        }
        let step = kind.trim_start_matches("payment.").to_owned();
        let is_final = ["settled", "failed"].contains(&step.as_str());
        steps.push(if data["unmined"] == true { format!("-{step}") } else { step });
        if is_final {
            return Ok(steps);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_payee_is_always_denied() -> Result<()> {
    let stack = start().await?;
    let denied = stack.agent().pay(Pay::new(mandate(&stack)?, stack.test_payees.denied, usdc("1")?)).await;
    assert_eq!(code(denied), Code::BadPayee);
    assert_eq!(available(&stack).await?, usdc("100")?);
    // The others are not, and nothing befalls a payment to anybody else.
    let payment = pay(&stack, stack.payee, "1").await?;
    let settled = stack.agent().wait_for(payment.id, Wait::Settled, PATIENCE).await?;
    assert_eq!(settled.state, PaymentState::Settled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_to_a_test_payee_is_skipped_on_chain_and_its_reservation_returns() -> Result<()> {
    let stack = start().await?;
    let agent = stack.agent();
    let mut events = agent.events(Some(mandate(&stack)?), Some(0)).await?;
    let payment = pay(&stack, stack.test_payees.skip, "4.20").await?;
    assert_eq!((payment.state, available(&stack).await?), (PaymentState::Reserved, usdc("95.80")?));
    // A payment that goes along with it is paid.
    let other = pay(&stack, stack.payee, "1").await?;
    let failed = agent.wait_for(payment.id, Wait::Settled, PATIENCE).await?;
    assert_eq!((failed.state, failed.reason), (PaymentState::Failed, Some(Code::TransferFailed)));
    assert_eq!(trail(&mut events, payment.id).await?, ["reserved", "submitted", "failed"]);
    assert_eq!(agent.wait_for(other.id, Wait::Settled, PATIENCE).await?.state, PaymentState::Settled);
    assert_eq!(available(&stack).await?, usdc("99")?);
    // Every time.
    let again = pay(&stack, stack.test_payees.skip, "1").await?;
    assert_eq!(agent.wait_for(again.id, Wait::Settled, PATIENCE).await?.state, PaymentState::Failed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_to_a_test_payee_stalls_and_is_paid() -> Result<()> {
    let stack = start().await?;
    let agent = stack.agent();
    let accepted = Instant::now();
    let stalling = pay(&stack, stack.test_payees.stall, "4.20").await?;
    // Others don't wait for it.
    let other = pay(&stack, stack.payee, "1").await?;
    assert_eq!(agent.wait_for(other.id, Wait::Settled, PATIENCE).await?.state, PaymentState::Settled);
    assert_eq!(agent.payment(stalling.id, None).await?.state, PaymentState::Reserved);
    let settled = agent.wait_for(stalling.id, Wait::Settled, PATIENCE).await?;
    assert_eq!((settled.state, settled.reason), (PaymentState::Settled, None));
    assert!(accepted.elapsed() >= Duration::from_secs(10), "{:?}", accepted.elapsed());
    assert_eq!(available(&stack).await?, usdc("94.80")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_to_a_test_payee_is_mined_reorganized_and_settled_once() -> Result<()> {
    let stack = start().await?;
    let agent = stack.agent();
    let mut events = agent.events(Some(mandate(&stack)?), Some(0)).await?;
    for _ in 0..2 {
        let payment = pay(&stack, stack.test_payees.reorg, "4.20").await?;
        let expected = ["reserved", "submitted", "mined", "-submitted", "mined", "settled"];
        assert_eq!(trail(&mut events, payment.id).await?, expected);
    }
    let after = agent.mandate(mandate(&stack)?).await?;
    assert_eq!((after.available, after.paid), (usdc("91.60")?, usdc("8.40")?));
    let health = agent.readyz().await?;
    assert!(health.ready, "{health:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_each_test_payee_has_its_own_effect() -> Result<()> {
    let stack = start().await?;
    let agent = stack.agent();
    let mut paid = Vec::new();
    for _ in 0..2 {
        for payee in [stack.test_payees.skip, stack.test_payees.reorg, stack.test_payees.stall, stack.payee] {
            paid.push((payee, pay(&stack, payee, "1").await?.id));
        }
    }
    for (payee, payment) in paid {
        let state = agent.wait_for(payment, Wait::Settled, PATIENCE).await?.state;
        let expected = if payee == stack.test_payees.skip { PaymentState::Failed } else { PaymentState::Settled };
        assert_eq!(state, expected, "{payee}");
    }
    assert_eq!(available(&stack).await?, usdc("94")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_moves_a_mandate_to_its_end_and_its_money_back() -> Result<()> {
    let stack = start().await?;
    let (agent, mandate) = (stack.agent(), mandate(&stack)?);
    let paid = pay(&stack, stack.payee, "4.20").await?;
    assert_eq!(agent.wait_for(paid.id, Wait::Settled, PATIENCE).await?.state, PaymentState::Settled);
    // What waits when its deadline passes is not paid any more.
    let waiting = pay(&stack, stack.test_payees.stall, "1").await?;
    stack.advance("2h".parse()?).await?;
    let failed = agent.wait_for(waiting.id, Wait::Settled, PATIENCE).await?;
    assert_eq!((failed.state, failed.reason), (PaymentState::Failed, Some(Code::DeadlinePassed)));

    let before = agent.info().await?.head.time;
    // The client, which has just heard what time it is, signs for the new time.
    stack.advance("29d".parse()?).await?;
    let moved = agent.info().await?.head.time - before;
    assert!((29 * 86_400..29 * 86_400 + 60).contains(&moved), "{moved}");
    let late = pay(&stack, stack.payee, "1").await?;
    assert_eq!(agent.wait_for(late.id, Wait::Settled, PATIENCE).await?.state, PaymentState::Settled);
    stack.advance("2d".parse()?).await?;
    let refused = code(agent.pay(Pay::new(mandate, stack.payee, usdc("1")?)).await);
    assert!(matches!(refused, Code::Expired | Code::Ended), "{refused:?}");
    let ended = eventually("what is left is returned", async || {
        Ok(Some(agent.mandate(mandate).await?).filter(|mandate| !mandate.returned.is_zero()))
    });
    let ended = ended.await?;
    assert_eq!((ended.state, ended.returned, ended.paid), (MandateState::Ended, usdc("94.80")?, usdc("5.20")?));

    // A new one works, at the new time.
    let asked = stack.stipend(["mandate", "request", "--amount", "10", "--intent", "More", "--duration", "1d"]).await?;
    let request = asked["id"].as_str().ok_or_eyre("no id")?;
    let opened = stack.stipend(["mandate", "approve", request, "--yes"]).await?;
    let next = opened["id"].as_str().or_else(|| opened["mandate"].as_str()).ok_or_eyre("no mandate")?.parse()?;
    let payment = agent.pay(Pay::new(next, stack.payee, usdc("1")?)).await?.object;
    assert_eq!(agent.wait_for(payment.id, Wait::Settled, PATIENCE).await?.state, PaymentState::Settled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_clock_and_the_test_payees() -> Result<()> {
    let data = tempfile::tempdir()?;
    let builder = || Ok::<_, eyre::Report>(Stack::builder().binary(binary()?).data(data.path()));
    let stack = builder()?.mandate("100.00").start().await?;
    let mandate = mandate(&stack)?;
    stack.advance("1d".parse()?).await?;
    let stalling = pay(&stack, stack.test_payees.stall, "1").await?;
    let before = stack.agent().info().await?.head.time;
    stack.stop()?;

    let stack = builder()?.start().await?;
    let agent = stack.agent();
    assert_eq!(agent.payment(stalling.id, None).await?.state, PaymentState::Reserved);
    let reorganized = agent.pay(Pay::new(mandate, stack.test_payees.reorg, usdc("1")?)).await?.object;
    let mut events = agent.events(Some(mandate), Some(0)).await?;
    assert!(trail(&mut events, reorganized.id).await?.contains(&"-submitted".to_owned()));
    assert_eq!(agent.wait_for(stalling.id, Wait::Settled, PATIENCE).await?.state, PaymentState::Settled);
    let after = agent.info().await?.head.time - before;
    assert!(after < 120, "{after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_moves_forward_and_on_anvil_s_chain_id_alone() -> Result<()> {
    let stack = start().await?;
    for wrong in ["-1d", "0s", "1w", "36501d"] {
        let refused = stack.stipend(["dev", "clock", "--", wrong]).await;
        assert!(matches!(refused, Err(StackError::Failed(..))), "{wrong}: {refused:?}");
    }
    let faults = Vec::new();
    let network = Network { chain_id: 10, block_gas: 60_000_000, latency: Duration::ZERO, finality: "2", faults };
    let elsewhere = Settings { network: Some(network), ..Settings::default() };
    let world = World::with("clock-elsewhere", &elsewhere).await?;
    let before = world.escrow.chain().head().await?;
    let refused = world.stipend(&world.keys.agent, &["dev", "clock", "+1d"])?.unwrap_err();
    assert!(refused.problem["detail"].as_str().is_some_and(|why| why.contains("chain id 10")), "{refused:?}");
    assert_eq!(world.escrow.chain().head().await?, before);
    Ok(())
}

/// Whether somebody listens at a URL.
fn listens(url: &str) -> Result<bool> {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    Ok(TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(5)).is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_that_is_stopped_or_dropped_leaves_nothing_behind() -> Result<()> {
    for is_dropped in [true, false] {
        let stack = Stack::builder().binary(binary()?).start().await?;
        let Ready { relayer, rpc_url, issuer, data, .. } = (*stack).clone();
        assert!(listens(&relayer)? && listens(&rpc_url)? && listens(&issuer)? && data.is_dir());
        if is_dropped {
            drop(stack);
        } else {
            assert!(stack.stop()?.success());
        }
        assert!(!listens(&relayer)? && !listens(&rpc_url)? && !listens(&issuer)? && !data.exists());
    }
    Ok(())
}

/// A sandbox without anybody who would stop it in order.
fn sandbox() -> Result<(Killed, Ready)> {
    let mut command = Command::new(binary()?);
    command.args(["--json", "dev", "--port", "0", "--anvil-port", "0", "--issuer-port", "0", "--until-eof"]);
    let mut sandbox = Killed(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(sandbox.0.stdout.take().ok_or_eyre("no stdout")?).read_line(&mut line)?;
    Ok((sandbox, serde_json::from_str(&line)?))
}

/// Is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_stops_when_its_starter_dies() -> Result<()> {
    let (mut sandbox, Ready { relayer, rpc_url, .. }) = sandbox()?;
    assert!(listens(&relayer)? && listens(&rpc_url)?);
    // All that the system does for a process whose starter was killed.
    drop(sandbox.0.stdin.take());
    let status = eventually("it stops", async || Ok(sandbox.0.try_wait()?)).await?;
    assert!(status.success(), "{status}");
    assert!(!listens(&relayer)? && !listens(&rpc_url)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_killed_leaves_no_node_behind() -> Result<()> {
    let (sandbox, Ready { rpc_url, .. }) = sandbox()?;
    assert!(listens(&rpc_url)?);
    drop(sandbox);
    eventually("the node ends", async || Ok((!listens(&rpc_url)?).then_some(()))).await
}
