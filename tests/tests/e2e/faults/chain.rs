//! A chain in trouble under load: reorgs, lost transactions, fees that rise a hundredfold, and a token
//! that refuses.

use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use eyre::{Result, ensure};
use stipend_bindings::abi::MockUSDC;
use stipend_client::Pay;
use stipend_core::{Amount, Code, api::PaymentState};
use stipend_e2e::{
    AcceptedPayments, Account, Load, Miner, SeededRng, Settings, Shape, World, eventually, exclusive_slot, reconcile,
};
use tokio::time::sleep;

use crate::{opened, payee, usdc};

/// Deeper than any reorg here.
const FINALITY: u64 = 8;

/// A base fee of a quiet day, in wei.
const LOW_BASE_FEE: u64 = 1_000_000_000;

const BLOCK: Duration = Duration::from_millis(150);

/// Waits until this many more payments are accepted.
async fn go_on(load: &Load, payments: usize) -> Result<()> {
    let due = load.accepted().len() + payments;
    eventually("payments are accepted", async || Ok((load.accepted().len() >= due).then_some(()))).await
}

/// All that was accepted is paid, once.
async fn all_is_paid(world: &World, load: Load, miner: Miner) -> Result<()> {
    let (accounts, accepted) = load.stop().await?;
    drop(miner);
    let found = reconcile(world, &accounts, &accepted).await?;
    println!("{found:?}");
    ensure!(found.failed == 0 && found.settled == accepted.len(), "{} accepted, {found:?}", accepted.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reorgs_of_every_depth_short_of_finality_change_nothing() -> Result<()> {
    let _place = exclusive_slot().await?;
    let world = World::with("reorgs", &Settings { finality: FINALITY, ..Settings::default() }).await?;
    world.anvil.mine(FINALITY).await?;
    let load = Load::start(&world, Shape::default()).await?;
    world.anvil.mine(FINALITY).await?;
    let miner = Miner::start(&world, BLOCK).await?;
    for depth in (1..FINALITY).chain((1..FINALITY).rev()) {
        go_on(&load, 10).await?;
        let _no_block = miner.rests().await;
        world.anvil.reorg(depth).await?;
    }
    all_is_paid(&world, load, miner).await
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_the_node_forgets_are_sent_again() -> Result<()> {
    let _place = exclusive_slot().await?;
    let mut rng = SeededRng::by_seed("forgotten transactions")?;
    let world = World::start("forgotten").await?;
    let load = Load::start(&world, Shape::default()).await?;
    let miner = Miner::start(&world, BLOCK).await?;
    for _ in 0..20 {
        let hash = world.anvil.arrived().await?;
        if rng.below(2) == 0 {
            world.anvil.drop_transaction(hash).await?;
        } else {
            world.anvil.drop_all_transactions().await?;
        }
        sleep(Duration::from_millis(rng.below(200))).await;
    }
    all_is_paid(&world, load, miner).await
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_wait_while_gas_costs_a_hundred_times_more() -> Result<()> {
    let _place = exclusive_slot().await?;
    // The host pays at most ten times what gas costs on a quiet day.
    let ceiling = vec!["--fee-ceiling-gwei".to_owned(), "10".to_owned()];
    let world = World::with("fee-spike", &Settings { more: ceiling, ..Settings::default() }).await?;
    let load = Load::start(&world, Shape::default()).await?;
    world.anvil.automine(false).await?;
    let block = async |base_fee| {
        world.anvil.next_base_fee(base_fee).await?;
        world.anvil.mine(1).await?;
        sleep(BLOCK).await;
        eyre::Ok(())
    };
    for _ in 0..5 {
        block(LOW_BASE_FEE).await?;
    }
    let accounts = load.accounts().to_vec();
    let spent = async || {
        let mut paid = 0;
        for account in &accounts {
            for id in &account.mandates {
                paid += account.client.mandate(*id).await?.paid.units();
            }
        }
        eyre::Ok(paid)
    };
    for _ in 0..4 {
        block(100 * LOW_BASE_FEE).await?;
    }
    // Whatever was mined before is final by now.
    let during = spent().await?;
    go_on(&load, 20).await?;
    for _ in 0..10 {
        block(100 * LOW_BASE_FEE).await?;
    }
    ensure!(spent().await? == during, "paid while gas was too expensive");
    let health = accounts[0].client.healthz().await?;
    ensure!(health.ready && health.alarms.iter().any(|alarm| alarm.contains("ceiling")), "{health:?}");
    block(LOW_BASE_FEE).await?;
    let miner = Miner::start(&world, BLOCK).await?;
    all_is_paid(&world, load, miner).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_the_token_refuses_returns_and_others_are_paid() -> Result<()> {
    const REFUSED: Address = Address::repeat_byte(0xbb);
    let (world, mandate) = opened("refused-row", "10").await?;
    let (agent, accepted) = (world.agent()?, AcceptedPayments::of(&world));
    let anvil = &world.anvil;
    let pay = async |number: u64, payee| {
        let reference = Some(B256::from(U256::from(number)));
        let signed = world.sign(&agent, &Pay { reference, ..Pay::new(mandate.id, payee, usdc("1")?) }).await?;
        let answer = agent.send_payment(&signed, None).await?;
        accepted.keep(signed, &answer)?;
        eyre::Ok(answer.object)
    };
    anvil.automine(false).await?;
    // The first one goes alone; those that come meanwhile share a batch.
    let first = pay(0, payee(1)).await?;
    anvil.arrived().await?;
    let (left, refused, right) = (pay(1, payee(1)).await?, pay(2, REFUSED).await?, pay(3, payee(2)).await?);
    anvil.mine(1).await?;
    world.payment_in(&agent, &first, PaymentState::Mined).await?;
    let batch = world.payment_in(&agent, &refused, PaymentState::Submitted).await?.tx_hash;
    for neighbor in [&left, &right] {
        ensure!(world.payment_in(&agent, neighbor, PaymentState::Submitted).await?.tx_hash == batch);
    }
    // It was simulated, and is mined only after the token has changed its mind.
    let sent = anvil.arrived().await?;
    ensure!(Some(sent) == batch);
    anvil.drop_transaction(sent).await?;
    anvil.automine(true).await?;
    let blacklist = MockUSDC::blacklistCall { account: REFUSED };
    world.escrow.chain().send(&world.keys.guardian, world.escrow.token(), &blacklist).await?;

    for neighbor in [&left, &right] {
        world.payment_in(&agent, neighbor, PaymentState::Mined).await?;
    }
    anvil.mine(1).await?;
    world.followed(&agent).await?;
    let waiting = agent.payment(refused.id, None).await?;
    ensure!(waiting.state == PaymentState::Submitted, "before finality: {waiting:?}");
    ensure!(agent.mandate(mandate.id).await?.available == usdc("6")?);
    anvil.mine(2).await?;
    let failed = world.payment_in(&agent, &refused, PaymentState::Failed).await?;
    ensure!(failed.reason == Some(Code::TransferFailed) && failed.tx_hash == batch, "{failed:?}");
    for neighbor in [&left, &right] {
        world.payment_in(&agent, neighbor, PaymentState::Settled).await?;
    }
    let found = reconcile(&world, &[Account { client: agent.clone(), mandates: vec![mandate.id] }], &accepted).await?;
    ensure!((found.settled, found.failed) == (3, 1), "{found:?}");
    ensure!(agent.mandate(mandate.id).await?.available == usdc("7")?);
    ensure!(world.escrow.balance_of(REFUSED).await? == Amount::ZERO);

    // It is not sent again even if the token changes its mind once more.
    let allow = MockUSDC::unBlacklistCall { account: REFUSED };
    world.escrow.chain().send(&world.keys.guardian, world.escrow.token(), &allow).await?;
    for _ in 0..4 {
        anvil.mine(1).await?;
        world.followed(&agent).await?;
    }
    ensure!(world.escrow.balance_of(REFUSED).await? == Amount::ZERO);
    Ok(())
}
