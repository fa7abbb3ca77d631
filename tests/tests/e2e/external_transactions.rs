//! What others do on chain is anybody's right, and is booked; what they do with our keys is not.

use alloy::providers::Provider;
use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use eyre::Result;
use serde_json::{Value, json};
use stipend_bindings::{
    abi::{MandateEscrow, MockUSDC},
    terms_on_chain,
};
use stipend_client::{Client, CreateCard, Pay};
use stipend_core::{Code, api::PaymentState, card::CardState, policy::MandateState};
use stipend_e2e::{CardSettings, Fault, Settings, TREASURY, World, balance, eventually};

use crate::{asking, code, opened, payee, usdc};

/// Sends a call of the escrow from an account whose key nobody here has.
async fn call_as(world: &World, from: Address, call: impl SolCall) -> Result<()> {
    let node = world.anvil.provider();
    node.raw_request::<_, ()>("anvil_impersonateAccount".into(), (from,)).await?;
    node.raw_request::<_, ()>("anvil_setBalance".into(), (from, U256::from(10).pow(U256::from(18)))).await?;
    let data = alloy_primitives::hex::encode_prefixed(call.abi_encode());
    let transaction = json!([{ "from": from, "to": world.escrow.domain().escrow, "data": data }]);
    node.raw_request::<_, alloy_primitives::B256>("eth_sendTransaction".into(), transaction).await?;
    Ok(())
}

/// Waits for an alarm of this name.
async fn alarm(agent: &Client, name: &str) -> Result<String> {
    eventually(&format!("the alarm {name}"), async || {
        Ok(agent.readyz().await?.alarms.into_iter().find(|alarm| alarm.starts_with(&format!("{name}: "))))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_submitter_signs_nothing_until_it_is_allowed_again() -> Result<()> {
    let (mut world, mandate) = opened("removed-submitter", "100").await?;
    let agent = world.agent()?;
    let (guardian, submitter) = (world.keys.guardian.clone(), world.keys.submitter.address());
    let set = |allowed| MandateEscrow::setSubmitterCall { submitter, allowed };
    let escrow = world.escrow.domain().escrow;
    world.escrow.chain().send(&guardian, escrow, &set(false)).await?;
    let what = alarm(&agent, "submitter").await?;
    assert!(what.contains(&format!("setSubmitter({submitter}, true)")), "{what}");

    // It is accepted and waits; not even a simulation is made for it.
    let sent = world.escrow.chain().transactions_of(submitter).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.anvil.mine(5).await?;
    world.followed(&agent).await?;
    let waits = agent.payment(payment.id, None).await?;
    assert_eq!((waits.state, waits.reason), (PaymentState::Reserved, None));
    assert_eq!(world.escrow.chain().transactions_of(submitter).await?, sent);

    // Starting again says the same.
    world.relayer.stop()?;
    assert!(world.relayer.must_not_start(&[]).await?.contains("has not allowed the submitter"));

    world.escrow.chain().send(&guardian, escrow, &set(true)).await?;
    world.relayer.restart().await?;
    world.settled(&agent, &payment).await?;
    world.escrow.chain().send(&guardian, escrow, &set(false)).await?;
    alarm(&agent, "submitter").await?;
    world.escrow.chain().send(&guardian, escrow, &set(true)).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("2")?)).await??.object;
    world.settled(&agent, &payment).await?;
    assert!(agent.readyz().await?.alarms.is_empty());
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_that_takes_a_removal_back_lets_the_submitter_go_on() -> Result<()> {
    let world = World::with("removal-reorged", &Settings { finality: 8, ..Settings::default() }).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("10")?).await?;
    let call = MandateEscrow::setSubmitterCall { submitter: world.keys.submitter.address(), allowed: false };
    world.escrow.chain().send(&world.keys.guardian, world.escrow.domain().escrow, &call).await?;
    alarm(&agent, "submitter").await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.anvil.reorg(1).await?;
    world.settled(&agent, &payment).await?;
    assert!(agent.readyz().await?.alarms.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_use_of_the_key_is_noticed_while_idle() -> Result<()> {
    let (mut world, mandate) = opened("stolen-submitter", "100").await?;
    let agent = world.agent()?;
    world.followed(&agent).await?;
    assert!(agent.readyz().await?.ready);
    let call = MockUSDC::approveCall { spender: payee(1), value: U256::from(1) };
    world.escrow.chain().send(&world.keys.submitter, world.escrow.token(), &call).await?;
    let what = alarm(&agent, "nonce").await?;
    assert!(what.contains("`stipend ledger repair`"), "{what}");
    assert!(!agent.readyz().await?.ready);
    assert_eq!(code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?), Code::Halted);
    world.relayer.stop()?;
    world.relayer.restart_halted().await?;
    assert!(alarm(&agent, "nonce").await?.contains("`stipend ledger repair`"));
    assert_eq!(code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?), Code::Halted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_is_ahead_for_a_moment_halts_nothing() -> Result<()> {
    const NONCE: &str = "eth_getTransactionCount";
    let world = World::with("nonce-ahead", &Settings { troubled: true, ..Settings::default() }).await?;
    let (agent, mandate) = (world.agent()?, world.open(&asking("10")?).await?);
    let ahead = |nonce: &mut Value| {
        let read = nonce.as_str().and_then(|hex| u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok());
        *nonce = read.map_or(Value::Null, |read| json!(format!("{:#x}", read + 1)));
    };
    world.proxy()?.fault_next(1, NONCE, Fault::Alters(ahead));
    let before = world.proxy()?.count(NONCE);
    world.anvil.mine(1).await?;
    eventually("the nonce is read again", async || {
        let count = world.proxy()?.count(NONCE);
        Ok((count.faulted > before.faulted && count.asked >= before.asked + 2).then_some(()))
    })
    .await?;
    world.anvil.mine(1).await?;
    world.followed(&agent).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &payment).await?;
    assert!(agent.readyz().await?.alarms.is_empty());
    let log = std::fs::read_to_string(world.dir().join("relayer.log"))?;
    assert!(!log.contains("used its key"), "it never halted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_payee_captures_by_itself_is_booked() -> Result<()> {
    let settings = Settings { cards: Some(CardSettings { poll: 1, ..CardSettings::default() }), ..Settings::default() };
    let world = World::with("payee-captures", &settings).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("100")?).await?;
    let card = world.create_card(&agent, &CreateCard::new(mandate.id, usdc("25")?)).await??.object;
    let card = world.card_in(&agent, card.id, CardState::Active).await?;
    let terms = terms_on_chain(&mandate.terms)?;
    let capture = |expected: &str, amount: &str| -> Result<_> {
        Ok(MandateEscrow::captureCall {
            terms: terms.clone(),
            nonce: card.nonce,
            expectedHeld: usdc(expected)?.units(),
            amount: usdc(amount)?.units(),
            close: false,
        })
    };

    call_as(&world, TREASURY, capture("25", "10")?).await?;
    let captured = eventually("the first capture is booked", async || {
        world.anvil.mine(1).await?;
        Ok(Some(agent.card(card.id).await?).filter(|card| !card.captured.is_zero()))
    })
    .await?;
    assert_eq!((captured.state, captured.captured), (CardState::Active, usdc("10")?));
    let books = agent.mandate(mandate.id).await?;
    assert_eq!((books.held, books.paid, books.available), (usdc("15")?, usdc("10")?, usdc("75")?));

    // All of it: there is nothing left to charge.
    call_as(&world, TREASURY, capture("15", "15")?).await?;
    let closed = world.card_closed(&agent, card.id).await?;
    assert_eq!((closed.captured, closed.released), (usdc("25")?, usdc("0")?));
    assert_eq!(world.escrow.balance_of(TREASURY).await?, usdc("25")?);
    assert_eq!(world.issuer()?.card_for(card.id).await?["state"], "CLOSED");
    let books = agent.mandate(mandate.id).await?;
    assert_eq!((books.held, books.paid, books.available), (usdc("0")?, usdc("25")?, usdc("75")?));
    assert!(agent.readyz().await?.alarms.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_sweeps_while_the_relayer_is_away_is_booked() -> Result<()> {
    let mut world = World::start("stranger-sweeps").await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("10")?).await?;
    let paid = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("4")?)).await??.object;
    world.settled(&agent, &paid).await?;
    world.relayer.kill()?;
    let over = mandate.terms.capture_end - world.time().await?;
    world.anvil.pass(over + 1).await?;
    call_as(&world, payee(9), MandateEscrow::sweepCall { terms: terms_on_chain(&mandate.terms)? }).await?;
    world.relayer.restart().await?;
    world.returned(&agent, mandate.id, usdc("6")?).await?;
    assert_ne!(agent.mandate(mandate.id).await?.state, MandateState::Open);
    balance(&world, &agent, &[mandate.id]).await
}
