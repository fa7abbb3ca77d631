//! Lists of payees: each row of a batch carries its proof, and one payee is paid by one transfer.

use alloy::providers::Provider;
use alloy_primitives::{Address, B256};
use alloy_sol_types::SolEvent;
use eyre::{OptionExt, Result};
use stipend_bindings::abi::MockUSDC;
use stipend_client::Pay;
use stipend_core::{Code, api::NewMandateRequest};
use stipend_e2e::{World, balance};

use crate::{asking, code, usdc};

fn somebody(number: u64) -> Address {
    Address::left_padding_from(&(0xbeef_0000 + number).to_be_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_payees_can_be_listed_and_batches_pay_each_once() -> Result<()> {
    let world = World::start("thousand-payees").await?;
    let agent = world.agent()?;
    let all: Vec<_> = (0..1_000).map(somebody).collect();
    let mandate = world.open(&NewMandateRequest { payees: Some(all), ..asking("100")? }).await?;
    let one_more = (0..1_001).map(somebody).collect();
    let too_many = NewMandateRequest { payees: Some(one_more), ..asking("100")? };
    assert_eq!(code(agent.request_mandate(&too_many).await), Code::InvalidTerms);
    assert_eq!(
        code(world.pay(&agent, &Pay::new(mandate.id, somebody(1_000), usdc("1")?)).await?),
        Code::PayeeNotAllowed
    );

    // The first goes alone, the others meanwhile gather for the next batch.
    world.anvil.automine(false).await?;
    let mut payments = Vec::new();
    for number in 0..61 {
        let pay = Pay::new(mandate.id, somebody(499 + 500 * (number % 2)), usdc("0.5")?);
        payments.push(world.pay(&agent, &pay).await??.object);
        if number == 0 {
            world.anvil.arrived().await?;
        }
    }
    world.anvil.automine(true).await?;
    world.anvil.mine(1).await?;
    let mut settled = Vec::new();
    for payment in &payments {
        settled.push(world.settled(&agent, payment).await?);
    }
    let batch: B256 = settled[1].tx_hash.ok_or_eyre("settled in no transaction")?;
    assert!(settled[1..].iter().all(|payment| payment.tx_hash == Some(batch)));
    let receipt = world.anvil.provider().get_transaction_receipt(batch).await?.ok_or_eyre("no receipt")?;
    let transfers = receipt.logs().iter().filter(|log| log.topic0() == Some(&MockUSDC::Transfer::SIGNATURE_HASH));
    assert_eq!(transfers.count(), 2);
    let gas = receipt.gas_used / 60;
    println!("{gas} gas for each of 60 payments to 2 payees with proofs among 1,000");
    assert!(gas < 40_000, "{gas} gas for each of 60 payments with proofs among 1,000 payees");
    assert_eq!(world.escrow.balance_of(somebody(499)).await?, usdc("15.5")?);
    balance(&world, &agent, &[mandate.id]).await
}
