//! Many mandates pay one payee: one `settleTo`, one transfer.

use alloy::{consensus::Transaction as _, providers::Provider};
use alloy_primitives::{Address, B256};
use alloy_sol_types::{SolCall, SolEvent};
use eyre::{OptionExt, Result, ensure};
use stipend_bindings::{
    abi::{
        MandateEscrow::{revokeCall, settleCall, settleToCall},
        MockUSDC,
    },
    terms_on_chain,
};
use stipend_client::{Client, Pay};
use stipend_core::{
    Code, MandateId,
    api::{Mandate, NewMandateRequest, Payment, PaymentState},
};
use stipend_e2e::{World, balance, eventually};

use crate::{asking, payee, usdc};

const SELLER: Address = Address::repeat_byte(0x5e);

/// As many mandates, the last of which may pay the seller alone.
async fn mandates(world: &World, count: usize) -> Result<Vec<Mandate>> {
    let mut mandates = Vec::new();
    for number in 1..=count {
        let payees = (number == count).then(|| vec![SELLER, payee(9)]);
        mandates.push(world.open(&NewMandateRequest { payees, ..asking("10")? }).await?);
    }
    Ok(mandates)
}

fn ids(mandates: &[Mandate]) -> Vec<MandateId> {
    mandates.iter().map(|mandate| mandate.id).collect()
}

async fn pay(world: &World, agent: &Client, mandate: &Mandate, to: Address) -> Result<Payment> {
    Ok(world.pay(agent, &Pay::new(mandate.id, to, usdc("1")?)).await??.object)
}

/// Keeps the lane with a payment of the first mandate, has the others pay these meanwhile, and returns what they share a
/// transaction in, which waits for a block.
async fn pay_together(
    world: &World,
    agent: &Client,
    mandates: &[Mandate],
    to: &[Address],
) -> Result<(Vec<Payment>, B256)> {
    world.anvil.automine(false).await?;
    let first = pay(world, agent, &mandates[0], payee(1)).await?;
    let alone = world.anvil.arrived().await?;
    let mut payments = Vec::new();
    for (mandate, to) in mandates[1..].iter().zip(to) {
        payments.push(pay(world, agent, mandate, *to).await?);
    }
    world.anvil.mine(1).await?;
    world.payment_in(agent, &first, PaymentState::Mined).await?;
    let batch = eventually("the next transaction arrives", async || {
        Ok(world.anvil.waiting().await?.into_iter().find(|hash| *hash != alone))
    })
    .await?;
    Ok((payments, batch))
}

async fn input(world: &World, tx: B256) -> Result<Vec<u8>> {
    let tx = world.anvil.provider().get_transaction_by_hash(tx).await?.ok_or_eyre("no such transaction")?;
    Ok(tx.input().to_vec())
}

/// A payment that waits because a simulation refused it.
async fn waits(world: &World, agent: &Client, payment: &Payment) -> Result<()> {
    eventually(&format!("{} waits", payment.id), async || {
        world.anvil.mine(1).await?;
        let payment = agent.payment(payment.id, None).await?;
        ensure!(!payment.state.is_final(), "{payment:?}");
        Ok((payment.state == PaymentState::Reserved && payment.reason == Some(Code::TransferFailed)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_mandates_pay_one_payee_by_one_transfer_and_a_bad_row_costs_no_other() -> Result<()> {
    let world = World::start("one-payee").await?;
    let agent = world.agent()?;
    let mandates = mandates(&world, 7).await?;
    let (payments, sent) = pay_together(&world, &agent, &mandates, &[SELLER; 6]).await?;
    let call = settleToCall::abi_decode(&input(&world, sent).await?)?;
    assert_eq!((call.payee, call.rows.len()), (SELLER, 6));
    assert_eq!(call.proofs.iter().filter(|proof| !proof.is_empty()).count(), 1);

    // One mandate ends before the call is mined, which was simulated and is sent again.
    world.anvil.drop_transaction(sent).await?;
    world.anvil.automine(true).await?;
    let revoke = revokeCall { terms: terms_on_chain(&mandates[3].terms)? };
    let (chain, escrow) = (world.escrow.chain(), world.escrow.domain().escrow);
    chain.send(&world.keys.operator, escrow, &revoke).await?;
    for (number, payment) in payments.iter().enumerate() {
        if number == 2 {
            world.payment_in(&agent, payment, PaymentState::Failed).await?;
        } else {
            let settled = world.settled(&agent, payment).await?;
            ensure!(settled.tx_hash == Some(sent), "{settled:?}");
        }
    }
    let receipt = world.anvil.provider().get_transaction_receipt(sent).await?.ok_or_eyre("no receipt")?;
    let transfers = receipt.logs().iter().filter(|log| log.topic0() == Some(&MockUSDC::Transfer::SIGNATURE_HASH));
    assert_eq!(transfers.count(), 1);
    assert_eq!(world.escrow.balance_of(SELLER).await?, usdc("5")?);
    balance(&world, &agent, &ids(&mandates)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_settle_to_reverted_waits_and_goes_on_by_settle() -> Result<()> {
    let mut world = World::start("one-payee-refused").await?;
    let agent = world.agent()?;
    let mandates = mandates(&world, 9).await?;
    let (reverted, sent) = pay_together(&world, &agent, &mandates[..6], &[SELLER; 5]).await?;
    assert_eq!(settleToCall::abi_decode(&input(&world, sent).await?)?.rows.len(), 5);

    // It was simulated, and is mined only after the token has changed its mind.
    world.anvil.drop_transaction(sent).await?;
    world.anvil.automine(true).await?;
    let (chain, token) = (world.escrow.chain(), world.escrow.token());
    chain.send(&world.keys.guardian, token, &MockUSDC::blacklistCall { account: SELLER }).await?;
    let receipt = eventually("the call is mined", async || {
        world.anvil.mine(1).await?;
        Ok(world.anvil.provider().get_transaction_receipt(sent).await?)
    })
    .await?;
    assert!(!receipt.status());
    for payment in &reverted {
        waits(&world, &agent, payment).await?;
    }

    // New payments are refused before they are sent, and hold up no other payee's.
    let refused = [pay(&world, &agent, &mandates[6], SELLER).await?, pay(&world, &agent, &mandates[7], SELLER).await?];
    let others =
        [pay(&world, &agent, &mandates[8], payee(9)).await?, pay(&world, &agent, &mandates[0], payee(9)).await?];
    for payment in &others {
        world.settled(&agent, payment).await?;
    }
    for payment in &refused {
        waits(&world, &agent, payment).await?;
    }
    world.relayer.kill()?;
    world.relayer.restart().await?;
    for payment in reverted.iter().chain(&refused) {
        waits(&world, &agent, payment).await?;
    }
    assert_eq!(world.escrow.balance_of(SELLER).await?, usdc("0")?);

    // That they reverted is not forgotten.
    chain.send(&world.keys.guardian, token, &MockUSDC::unBlacklistCall { account: SELLER }).await?;
    for payment in &reverted {
        let paid = world.settled(&agent, payment).await?.tx_hash.ok_or_eyre("no transaction")?;
        assert!(settleCall::abi_decode(&input(&world, paid).await?).is_ok());
    }
    for payment in &refused {
        world.settled(&agent, payment).await?;
    }
    assert_eq!(world.escrow.balance_of(SELLER).await?, usdc("7")?);
    balance(&world, &agent, &ids(&mandates)).await
}
