//! What a real node says about transactions, and what the relayer makes of it.

use std::collections::BTreeSet;

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    network::TxSignerSync,
    providers::Provider,
    signers::local::PrivateKeySigner,
};
use alloy_primitives::{Address, TxKind, U256};
use eyre::{Result, bail};
use stipend_e2e::World;
use stipend_relayer::chain::rpc::send_outcome::{Evidence, PATTERNS, SendOutcome, classify};

fn signed(key: &PrivateKeySigner, mut transaction: TxEip1559) -> Result<Vec<u8>> {
    let signature = key.sign_transaction_sync(&mut transaction)?;
    Ok(TxEnvelope::Eip1559(transaction.into_signed(signature)).encoded_2718())
}

/// Every row of the table that is said to be heard is said here by a real anvil.
#[tokio::test(flavor = "multi_thread")]
async fn anvil_error_messages_are_classified() -> Result<()> {
    let world = World::start("words").await?;
    let provider = world.anvil.provider();
    let key = &world.keys.operator;
    let nonce = provider.get_transaction_count(key.address()).await?;
    world.anvil.automine(false).await?;
    let plain = TxEip1559 {
        chain_id: world.escrow.domain().chain_id,
        nonce: nonce + 1,
        gas_limit: 21_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(Address::repeat_byte(0xaa)),
        value: U256::ZERO,
        ..TxEip1559::default()
    };
    let first = signed(key, TxEip1559 { nonce, ..plain.clone() })?;
    let second = signed(key, plain.clone())?;
    for raw in [&first, &second] {
        let _ = provider.send_raw_transaction(raw).await?;
    }
    let other = TxEip1559 { value: U256::from(1), ..plain.clone() };
    let cheap = TxEip1559 { max_fee_per_gas: 1, max_priority_fee_per_gas: 1, nonce: nonce + 2, ..plain.clone() };
    let said = async |raw: Vec<u8>, expected: SendOutcome| {
        let Err(error) = provider.send_raw_transaction(&raw).await else { bail!("it took it: {expected:?}") };
        let Some(payload) = error.as_error_resp() else { bail!("no answer: {error}") };
        let message = payload.message.to_lowercase();
        assert_eq!(classify(&message), expected, "{message}");
        Ok(PATTERNS.iter().find(|pattern| message.contains(pattern.fragment)).map(|pattern| pattern.fragment))
    };
    let mut heard = BTreeSet::new();
    heard.extend(said(second.clone(), SendOutcome::Accepted).await?);
    heard.extend(said(signed(key, other)?, SendOutcome::Underpriced).await?);
    heard.extend(
        said(signed(&world.keys.gasless, TxEip1559 { nonce: 0, ..plain.clone() })?, SendOutcome::NoFunds).await?,
    );
    heard.extend(said(signed(key, TxEip1559 { chain_id: 1, ..plain.clone() })?, SendOutcome::Rejected).await?);
    heard.extend(
        said(signed(key, TxEip1559 { gas_limit: 20_000, nonce: nonce + 2, ..plain })?, SendOutcome::Rejected).await?,
    );
    heard.extend(said(signed(key, cheap)?, SendOutcome::Underpriced).await?);
    world.anvil.mine(1).await?;
    heard.extend(said(first, SendOutcome::NonceUsed).await?);

    let marked: BTreeSet<_> = PATTERNS
        .iter()
        .filter(|pattern| pattern.evidence == Evidence::Observed)
        .map(|pattern| pattern.fragment)
        .collect();
    assert_eq!(heard, marked);
    Ok(())
}
