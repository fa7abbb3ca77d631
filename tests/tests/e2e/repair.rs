//! An old, lost or copied ledger: the relayer notices at its start, signs nothing and shows what it
//! knows; a repair from the chain sets it right; nothing is paid twice.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use eyre::{OptionExt, Result, ensure};
use serde_json::Value;
use stipend_client::{Client, Pay};
use stipend_core::{
    Code, MandateId,
    api::{Health, Mandate, PaymentState},
    policy::MandateState,
};
use stipend_e2e::{World, eventually};

use crate::{asking, code, opened, payee, usdc};

fn ledger(world: &World) -> PathBuf {
    world.dir().join("ledger.db")
}

/// Puts a file where another one is, with nothing of the other one's left.
fn replace(file: &Path, by: Option<&Path>) -> Result<()> {
    for part in ["-wal", "-shm"] {
        let beside = file.with_file_name(format!("ledger.db{part}"));
        if beside.exists() {
            fs::remove_file(beside)?;
        }
    }
    match by {
        Some(by) => fs::copy(by, file).map(drop)?,
        None => fs::remove_file(file)?,
    }
    Ok(())
}

/// Repairs while the chain advances, and returns the output; it must succeed.
async fn repaired(world: &World, more: &[&str]) -> Result<Value> {
    let mut blocks = tokio::time::interval(Duration::from_millis(200));
    let repair = world.relayer.repair(more);
    tokio::pin!(repair);
    let (well, said) = loop {
        tokio::select! {
            ended = &mut repair => break ended?,
            _ = blocks.tick() => world.anvil.mine(1).await?,
        }
    };
    ensure!(well, "{said}");
    let result = said.lines().find(|line| line.starts_with('{')).ok_or_eyre("no result")?;
    Ok(serde_json::from_str(result)?)
}

/// It takes no work, and says what to do; reads go on.
async fn halted(world: &World, agent: &Client, mandate: MandateId) -> Result<Health> {
    let health = agent.readyz().await?;
    ensure!(!health.ready, "{health:?}");
    ensure!(health.alarms.iter().any(|alarm| alarm.contains("`stipend ledger repair`")), "{health:?}");
    let pay = Pay { nonce: Some(80), ..Pay::new(mandate, payee(9), usdc("1")?) };
    assert_eq!(code(world.pay(agent, &pay).await?), Code::Halted);
    assert_eq!(agent.mandate(mandate).await?.id, mandate);
    Ok(health)
}

/// The ledger proves itself, and says of a mandate what the chain says.
async fn agrees(world: &World, agent: &Client, mandate: &Mandate) -> Result<()> {
    world.relayer.prove()?;
    let (there, here) = (world.escrow.mandate_of(mandate.id).await?, agent.mandate(mandate.id).await?);
    ensure!(there.remaining.units() == here.available.units() + here.reserved.units(), "{there:?} {here:?}");
    ensure!(here.paid.units() == mandate.terms.cap.units() - there.remaining.units(), "{there:?} {here:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_ledger_signs_nothing_until_repaired() -> Result<()> {
    let (mut world, mandate) = opened("yesterday", "100").await?;
    let agent = world.agent()?;
    let kept = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &kept).await?;
    world.relayer.stop()?;
    let backup = world.dir().join("yesterday.copy");
    fs::copy(ledger(&world), &backup)?;

    world.relayer.restart().await?;
    let forgotten = world.sign(&agent, &Pay::new(mandate.id, payee(2), usdc("2")?)).await?;
    let payment = agent.send_payment(&forgotten, None).await?.object;
    world.settled(&agent, &payment).await?;
    world.relayer.stop()?;
    replace(&ledger(&world), Some(&backup))?;

    world.relayer.restart_halted().await?;
    let health = halted(&world, &agent, mandate.id).await?;
    assert!(health.alarms.iter().any(|alarm| alarm.starts_with("nonce: ")), "{health:?}");
    assert!(health.alarms.iter().any(|alarm| alarm.starts_with("outflow: ")), "{health:?}");
    assert_eq!(agent.payment(kept.id, None).await?.state, PaymentState::Settled);
    let (well, said) = world.relayer.repair(&["--yes"]).await?;
    assert!(!well && said.contains("another process uses the ledger"), "{said}");
    world.relayer.stop()?;

    // To try is to change nothing.
    let before = fs::read(ledger(&world))?;
    let tried = repaired(&world, &[]).await?;
    assert_eq!(
        (tried["done"].as_bool(), tried["unfrozen"].as_array().map(Vec::len)),
        (Some(false), Some(1)),
        "{tried}"
    );
    assert!(before == fs::read(ledger(&world))?);
    world.relayer.restart_halted().await?;
    halted(&world, &agent, mandate.id).await?;
    world.relayer.stop()?;

    let done = repaired(&world, &["--yes"]).await?;
    assert_eq!(done["done"].as_bool(), Some(true), "{done}");
    assert_eq!(done["unfrozen"][0].as_str(), Some(mandate.id.to_string().as_str()), "{done}");
    assert_eq!(done["adopted"].as_array().map(Vec::len), Some(1), "{done}");
    assert!(Path::new(done["backup"].as_str().ok_or_eyre("no backup")?).is_file());
    assert!(done["lost"].as_array().is_some_and(|lost| !lost.is_empty()), "{done}");

    // It goes on, and what was forgotten is not paid again.
    world.relayer.restart().await?;
    assert_eq!(code(agent.send_payment(&forgotten, None).await), Code::NonceTaken);
    let next = world.pay(&agent, &Pay::new(mandate.id, payee(3), usdc("3")?)).await??.object;
    world.settled(&agent, &next).await?;
    for (number, amount) in [(1, "1"), (2, "2"), (3, "3")] {
        assert_eq!(world.escrow.balance_of(payee(number)).await?, usdc(amount)?);
    }
    agrees(&world, &agent, &mandate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_waiting_in_a_restored_ledger_are_paid_once() -> Result<()> {
    let (mut world, mandate) = opened("waited-yesterday", "100").await?;
    let agent = world.agent()?;
    // One payment is in a transaction that is not mined, one waits behind it.
    world.anvil.automine(false).await?;
    let sent = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.payment_in(&agent, &sent, PaymentState::Submitted).await?;
    let first = world.anvil.arrived().await?;
    let waits = world.pay(&agent, &Pay::new(mandate.id, payee(2), usdc("2")?)).await??.object;
    let other = Pay { nonce: Some(5), ..Pay::new(mandate.id, payee(3), usdc("3")?) };
    let other = world.sign(&agent, &other).await?;
    world.relayer.stop()?;

    // Meanwhile a transaction that the ledger does not have uses its nonce.
    world.anvil.drop_transaction(first).await?;
    world.anvil.automine(true).await?;
    let spend = stipend_bindings::Spend::new(
        other.mandate,
        other.payee,
        other.amount,
        other.nonce,
        other.deadline,
        other.reference,
    )?;
    world.escrow.spend(&world.keys.submitter, &mandate.terms, &spend, &other.signature, None).await?;

    world.relayer.restart_halted().await?;
    halted(&world, &agent, mandate.id).await?;
    world.relayer.stop()?;
    let done = repaired(&world, &["--yes"]).await?;
    assert_eq!(done["abandoned"].as_array().map(Vec::len), Some(1), "{done}");
    world.relayer.restart().await?;
    world.settled(&agent, &sent).await?;
    world.settled(&agent, &waits).await?;
    for (number, amount) in [(1, "1"), (2, "2"), (3, "3")] {
        assert_eq!(world.escrow.balance_of(payee(number)).await?, usdc(amount)?);
    }
    agrees(&world, &agent, &mandate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ledger_is_rebuilt_from_the_chain() -> Result<()> {
    let (mut world, mandate) = opened("lost", "100").await?;
    let agent = world.agent()?;
    let untouched = world.open(&asking("5")?).await?;
    for number in 1..=2 {
        let payment = world.pay(&agent, &Pay::new(mandate.id, payee(number), usdc("2")?)).await??.object;
        world.settled(&agent, &payment).await?;
    }
    world.relayer.stop()?;
    replace(&ledger(&world), None)?;

    world.relayer.restart_halted().await?;
    halted(&world, &agent, mandate.id).await?;
    world.relayer.stop()?;
    let done = repaired(&world, &["--yes"]).await?;
    assert!(done["lost"].to_string().contains("intent documents of 2 mandates"), "{done}");

    world.relayer.restart().await?;
    for mandate in [&mandate, &untouched] {
        let known = world.mandate_in(&agent, mandate.id, MandateState::Open).await?;
        assert_eq!((known.terms, known.intent), (mandate.terms.clone(), None));
    }
    // What it may be paid for is gone with the file. The money is not.
    let refused = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("2")?)).await?;
    assert_eq!(code(refused), Code::IntentUnknown);
    assert_eq!(agent.mandate(mandate.id).await?.next_nonce, 2);
    agrees(&world, &agent, &mandate).await?;
    world.escrow.revoke(&world.keys.operator, &mandate.terms).await?;
    world.returned(&agent, mandate.id, usdc("96")?).await?;

    // A new one can be paid from.
    let anew = world.open(&asking("5")?).await?;
    let payment = world.pay(&agent, &Pay::new(anew.id, payee(3), usdc("2")?)).await??.object;
    world.settled(&agent, &payment).await?;
    for number in 1..=3 {
        assert_eq!(world.escrow.balance_of(payee(number)).await?, usdc("2")?);
    }
    agrees(&world, &agent, &anew).await
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_without_file_or_start_block_finds_the_beginning() -> Result<()> {
    let (mut world, mandate) = opened("no-start", "100").await?;
    let agent = world.agent()?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("2")?)).await??.object;
    world.settled(&agent, &payment).await?;
    world.relayer.stop()?;
    replace(&ledger(&world), None)?;
    let without_start = world.relayer.without("--start-block")?;
    let whole = std::mem::replace(&mut world.relayer, without_start);
    let done = repaired(&world, &["--yes"]).await?;
    assert_eq!((&done["known"]["mandates"], &done["known"]["outflows"]), (&1.into(), &1.into()), "{done}");
    world.relayer = whole;
    world.relayer.restart().await?;
    agrees(&world, &agent, &mandate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_a_running_relayer_stops_before_it_signs() -> Result<()> {
    let (mut world, mandate) = opened("copy", "100").await?;
    let agent = world.agent()?;
    let other = world.open(&asking("5")?).await?;
    world.relayer.stop()?;
    let copied = world.dir().join("copied.db");
    fs::copy(ledger(&world), &copied)?;
    let mut copy = world.relayer.twin(&copied)?;
    world.relayer.restart().await?;
    copy.restart().await?;
    let of_copy = Client::new(copy.url().clone(), world.keys.agent.clone())?;

    // Both take the same payment, and both sign with the same nonce: the chain takes one.
    world.anvil.automine(false).await?;
    let both = world.sign(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?;
    let there = of_copy.send_payment(&both, None).await?.object;
    let here = agent.send_payment(&both, None).await?.object;
    world.payment_in(&agent, &here, PaymentState::Submitted).await?;
    world.payment_in(&of_copy, &there, PaymentState::Submitted).await?;
    world.anvil.automine(true).await?;
    world.settled(&agent, &here).await?;
    world.settled(&of_copy, &there).await?;
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("1")?);

    // One of the two used that nonce. The other one stops at the next thing that it has to send; what
    // it has taken meanwhile, it does not send.
    let second = world.pay(&agent, &Pay::new(other.id, payee(2), usdc("1")?)).await??.object;
    let third = Pay { nonce: Some(7), ..Pay::new(mandate.id, payee(3), usdc("1")?) };
    let third = world.sign(&of_copy, &third).await?;
    // Taken, or refused by one that has stopped already.
    let _ = of_copy.send_payment(&third, None).await;
    eventually("one of the two has stopped", async || {
        world.anvil.mine(1).await?;
        let ready = (agent.readyz().await?.ready, of_copy.readyz().await?.ready);
        Ok((ready != (true, true)).then_some(()))
    })
    .await?;
    copy.kill()?;

    // The one that stays is repaired, whether it was the one that stopped or not.
    world.relayer.stop()?;
    repaired(&world, &["--yes"]).await?;
    world.relayer.restart().await?;
    world.settled(&agent, &second).await?;
    let last = world.pay(&agent, &Pay::new(other.id, payee(4), usdc("1")?)).await??.object;
    world.settled(&agent, &last).await?;
    assert_eq!(world.escrow.balance_of(payee(2)).await?, usdc("1")?);
    assert!(world.escrow.balance_of(payee(3)).await? <= usdc("1")?);
    agrees(&world, &agent, &other).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_outflow_stays_frozen_and_the_rest_resumes() -> Result<()> {
    let (mut world, mandate) = opened("stranger", "100").await?;
    let agent = world.agent()?;
    let other = world.open(&asking("5")?).await?;
    let payment = world.sign(&agent, &Pay::new(mandate.id, payee(1), usdc("3")?)).await?;
    let spend = stipend_bindings::Spend::new(
        payment.mandate,
        payment.payee,
        payment.amount,
        payment.nonce,
        payment.deadline,
        payment.reference,
    )?;
    world.escrow.set_submitter(&world.keys.guardian, world.keys.operator.address(), true).await?;
    world.escrow.spend(&world.keys.operator, &mandate.terms, &spend, &payment.signature, None).await?;
    world.mandate_in(&agent, mandate.id, MandateState::Frozen).await?;
    world.relayer.stop()?;
    world.relayer.restart_halted().await?;
    halted(&world, &agent, mandate.id).await?;
    world.relayer.stop()?;
    let done = repaired(&world, &["--yes"]).await?;
    assert_eq!(done["frozen"][0].as_str(), Some(mandate.id.to_string().as_str()), "{done}");
    world.relayer.restart().await?;
    assert_eq!(code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?), Code::Frozen);
    let paid = world.pay(&agent, &Pay::new(other.id, payee(2), usdc("1")?)).await??.object;
    world.settled(&agent, &paid).await?;
    agrees(&world, &agent, &mandate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_went_back_past_finality_is_booked_anew() -> Result<()> {
    let (mut world, mandate) = opened("past-finality-repair", "100").await?;
    let agent = world.agent()?;
    let kept = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &kept).await?;
    let before = world.escrow.chain().head().await?.number;
    let gone = world.pay(&agent, &Pay::new(mandate.id, payee(2), usdc("2")?)).await??.object;
    world.settled(&agent, &gone).await?;
    world.anvil.mine(3).await?;
    world.followed(&agent).await?;
    let after = world.escrow.chain().head().await?.number;
    world.anvil.reorg(after - before).await?;
    assert_eq!(world.escrow.balance_of(payee(2)).await?, usdc("0")?);
    eventually("it stops", async || Ok((!agent.readyz().await?.ready).then_some(()))).await?;
    world.relayer.stop()?;

    // Starting again explains nothing.
    world.relayer.restart_halted().await?;
    let health = halted(&world, &agent, mandate.id).await?;
    assert!(health.alarms.iter().any(|alarm| alarm.starts_with("finality: ")), "{health:?}");
    world.relayer.stop()?;
    let done = repaired(&world, &["--yes"]).await?;
    assert_eq!(done["rebuilt"].as_bool(), Some(true), "{done}");
    world.relayer.restart().await?;
    assert_eq!(world.settled(&agent, &gone).await?.id, gone.id);
    assert_eq!(agent.payment(kept.id, None).await?.state, PaymentState::Settled);
    for (number, amount) in [(1, "1"), (2, "2")] {
        assert_eq!(world.escrow.balance_of(payee(number)).await?, usdc(amount)?);
    }
    agrees(&world, &agent, &mandate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intact_ledger_has_lost_nothing() -> Result<()> {
    let (mut world, mandate) = opened("repair-intact", "100").await?;
    let agent = world.agent()?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &payment).await?;
    world.relayer.stop()?;
    let done = repaired(&world, &["--yes"]).await?;
    assert_eq!((&done["lost"], &done["inconsistencies"]), (&serde_json::json!([]), &serde_json::json!([])), "{done}");
    Ok(())
}
