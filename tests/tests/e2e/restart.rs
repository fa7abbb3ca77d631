//! The relayer is killed in the middle of its work, and starts where it stopped.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use eyre::{OptionExt, Result};
use stipend_client::{Error, PageQuery, Pay, PaymentFilter};
use stipend_core::{
    Code,
    api::{Mandate, Payment, PaymentState},
};
use stipend_e2e::{World, balance, eventually};

use tokio::task::JoinSet;

use crate::{code, opened, payee, usdc};

/// Accepts this many payments while no block is mined.
async fn accepted(world: &World, mandate: &Mandate, count: u32) -> Result<Vec<Payment>> {
    let agent = world.agent()?;
    let mut payments = Vec::new();
    for _ in 0..count {
        payments.push(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object);
    }
    Ok(payments)
}

/// Each is settled, in one event each, and there are no others.
async fn settled_once(world: &World, mandate: &Mandate, payments: &[Payment]) -> Result<()> {
    let agent = world.agent()?;
    for payment in payments {
        world.settled(&agent, payment).await?;
    }
    let filter = PaymentFilter { mandate: Some(mandate.id), ..PaymentFilter::default() };
    let page = PageQuery { cursor: None, limit: Some(100) };
    assert_eq!(agent.payments(&filter, &page).await?.data.len(), payments.len());
    let sum = payments.iter().map(|payment| payment.amount.units()).sum::<u64>();
    assert_eq!(world.escrow.balance_of(payee(1)).await?.units(), sum);
    balance(world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_paid_once_after_a_crash() -> Result<()> {
    let (mut world, mandate) = opened("crash-after-accepting", "100").await?;
    world.anvil.automine(false).await?;
    let payments = accepted(&world, &mandate, 5).await?;
    world.relayer.kill()?;
    world.relayer.restart().await?;

    // The first answer stands, whoever asks again.
    let agent = world.agent()?;
    let again = Pay {
        nonce: Some(payments[0].nonce),
        deadline: Some(payments[0].deadline),
        ..Pay::new(mandate.id, payee(1), usdc("1")?)
    };
    let again = world.pay(&agent, &again).await??;
    assert!(again.replayed);
    assert_eq!(again.object.id, payments[0].id);
    settled_once(&world, &mandate, &payments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_paid_once_after_a_crash() -> Result<()> {
    let (mut world, mandate) = opened("crash-after-sending", "100").await?;
    let agent = world.agent()?;
    world.anvil.automine(false).await?;
    let mut payments = accepted(&world, &mandate, 3).await?;
    let sent = world.payment_in(&agent, &payments[0], PaymentState::Submitted).await?.tx_hash;
    world.anvil.arrived().await?;
    world.relayer.kill()?;

    // Meanwhile the node loses it. The same bytes are sent again.
    for hash in world.anvil.waiting().await? {
        world.anvil.drop_transaction(hash).await?;
    }
    world.relayer.restart().await?;
    let again = world.anvil.arrived().await?;
    assert_eq!(Some(again), sent);
    payments.extend(accepted(&world, &mandate, 2).await?);
    settled_once(&world, &mandate, &payments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_mined_meanwhile_is_booked() -> Result<()> {
    let (mut world, mandate) = opened("mined-meanwhile", "100").await?;
    let agent = world.agent()?;
    world.anvil.automine(false).await?;
    let payments = accepted(&world, &mandate, 3).await?;
    world.payment_in(&agent, &payments[0], PaymentState::Submitted).await?;
    world.anvil.arrived().await?;
    world.relayer.kill()?;
    world.anvil.mine(10).await?;
    assert!(!world.escrow.balance_of(payee(1)).await?.is_zero());
    world.relayer.restart().await?;
    settled_once(&world, &mandate, &payments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_meanwhile_is_known() -> Result<()> {
    let (mut world, mandate) = opened("ended-meanwhile", "100").await?;
    let agent = world.agent()?;
    world.relayer.kill()?;
    world.escrow.revoke(&world.keys.operator, &mandate.terms).await?;
    world.relayer.restart().await?;
    let paid = Pay { nonce: Some(0), ..Pay::new(mandate.id, payee(1), usdc("1")?) };
    assert_eq!(code(world.pay(&agent, &paid).await?), Code::Ended);
    world.returned(&agent, mandate.id, mandate.terms.cap).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_after_crash_each_payment_is_paid_once() -> Result<()> {
    let (mut world, mandate) = opened("crashes", "100").await?;
    let mut payments = Vec::new();
    for round in 0..4 {
        payments.extend(accepted(&world, &mandate, 3).await?);
        world.relayer.kill()?;
        world.anvil.mine(round % 2).await?;
        world.relayer.restart().await?;
    }
    settled_once(&world, &mandate, &payments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_and_crashes_each_payment_is_paid_once() -> Result<()> {
    const PAYMENTS: u32 = 60;
    const CRASHES: u32 = 4;
    let (mut world, mandate) = opened("load-and-crashes", "100").await?;
    let agent = world.agent()?;
    let mut signed = Vec::new();
    for _ in 0..PAYMENTS {
        signed.push(world.sign(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?);
    }

    // Agents that do not give up, and a relayer that is shot while they send.
    let accepted = Arc::new(AtomicU32::new(0));
    let mut senders = JoinSet::new();
    for payments in signed.chunks(signed.len() / 4) {
        let (agent, payments, accepted) = (agent.clone(), payments.to_vec(), Arc::clone(&accepted));
        senders.spawn(async move {
            let mut taken = Vec::new();
            for payment in payments {
                taken.push(loop {
                    match agent.send_payment(&payment, None).await {
                        Ok(taken) => break taken.object,
                        Err(Error::Unknown { .. } | Error::Unreachable { .. }) => {}
                        Err(Error::Problem(problem)) if problem.status == 503 => {}
                        Err(error) => return Err(error),
                    }
                });
                accepted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(taken)
        });
    }
    for crash in 1..=CRASHES {
        let due = crash * PAYMENTS / (CRASHES + 1);
        eventually("enough are accepted", async || Ok((accepted.load(Ordering::Relaxed) >= due).then_some(()))).await?;
        world.relayer.kill()?;
        world.relayer.restart().await?;
    }
    let mut payments = Vec::new();
    while let Some(taken) = senders.join_next().await {
        payments.extend(taken??);
    }
    settled_once(&world, &mandate, &payments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_asked_for_ends_streams_and_exits_well() -> Result<()> {
    let (mut world, mandate) = opened("stop", "100").await?;
    let stream = world.get("/v1/events?after=0", &world.keys.agent).await?;
    let mut response = reqwest::Client::new().get(stream.url).headers(stream.headers).send().await?;
    assert_eq!(response.status(), 200);
    let payments = accepted(&world, &mandate, 2).await?;
    let (last, mut text) = (payments[1].id.to_string(), String::new());
    while !text.contains(&last) {
        let chunk = response.chunk().await?.ok_or_eyre("the stream ended before the payment")?;
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    world.relayer.stop()?;
    // It ends instead of breaking off.
    response.text().await?;
    world.relayer.restart().await?;
    settled_once(&world, &mandate, &payments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_relayer_and_loses_nothing() -> Result<()> {
    let (mut world, mandate) = opened("full-disk", "100").await?;
    let agent = world.agent()?;
    world.relayer.stop()?;
    let room = 128 * 1_024;
    world.relayer.restart_within(fs::metadata(world.dir().join("ledger.db"))?.len() + room).await?;
    let mut taken = Vec::new();
    let in_doubt = loop {
        let signed = world.sign(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?;
        match agent.send_payment(&signed, None).await {
            Ok(payment) => taken.push(payment.object),
            Err(Error::Problem(problem)) if problem.status == 503 => break signed,
            Err(Error::Unknown { .. } | Error::Unreachable { .. }) => break signed,
            Err(error) => return Err(error.into()),
        }
    };
    assert!(!taken.is_empty());
    world.relayer.must_end().await?;

    // There is room again. What was accepted is there, and what was in doubt may be sent again.
    world.relayer.restart().await?;
    taken.push(agent.send_payment(&in_doubt, None).await?.object);
    settled_once(&world, &mandate, &taken).await
}
