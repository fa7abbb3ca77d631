//! Several submitters: no mandate is in unmined transactions of two of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use alloy::{
    consensus::Transaction as _,
    providers::Provider,
    rpc::types::{BlockTransactions, Transaction},
};
use alloy_primitives::{Address, B256, TxKind};
use alloy_sol_types::SolCall;
use eyre::{OptionExt, Result, bail, ensure};
use stipend_bindings::abi::MandateEscrow::{setSubmitterCall, settleCall};
use stipend_client::{Client, Pay};
use stipend_core::{
    Code,
    api::{Mandate, Payment, PaymentState},
};
use stipend_e2e::{Fault, Settings, World, balance, eventually};

use crate::{asking, code, payee, usdc};

const GWEI: u64 = 1_000_000_000;

async fn lanes(name: &str, more_submitters: usize, more: &[&str]) -> Result<World> {
    let more = more.iter().map(ToString::to_string).collect();
    World::with(name, &Settings { more_submitters, more, ..Settings::default() }).await
}

/// What submitters sent, in the chain's order: block, sender and transaction.
async fn sent(world: &World, submitters: &BTreeSet<Address>) -> Result<Vec<(u64, Address, Transaction)>> {
    let provider = world.anvil.provider();
    let mut sent = Vec::new();
    for number in 0..=provider.get_block_number().await? {
        let block = provider.get_block_by_number(number.into()).full().await?.ok_or_eyre("no such block")?;
        let BlockTransactions::Full(transactions) = block.transactions else { bail!("hashes alone") };
        let ours = transactions.into_iter().filter(|tx| submitters.contains(&tx.inner.signer()));
        sent.extend(ours.map(|tx| (number, tx.inner.signer(), tx)));
    }
    Ok(sent)
}

/// The mandates of a batch with their nonces, in the order of the call.
fn rows(world: &World, call: &settleCall) -> Result<Vec<(B256, Vec<u32>)>> {
    let domain = world.escrow.domain();
    let groups = call.groups.iter().map(|group| {
        let terms = stipend_bindings::terms_from_chain(&group.terms)?;
        Ok((domain.mandate_id(&terms)?.0, group.payments.iter().map(|payment| payment.nonce).collect()))
    });
    groups.collect()
}

/// Makes blocks until the work is done.
async fn mining<T>(world: &World, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(std::time::Duration::from_millis(250)) => world.anvil.mine(1).await?,
        }
    }
}

/// A mandate that has begun: a chain that stands still does not come to its start by itself.
async fn opened(world: &World, client: &Client) -> Result<Mandate> {
    let mandate = world.open_for(client, &asking("100")?).await?;
    while world.escrow.chain().head().await?.time < mandate.terms.start {
        world.anvil.mine(1).await?;
    }
    world.followed(client).await?;
    Ok(mandate)
}

async fn alarm(client: &Client, named: &str) -> Result<String> {
    eventually(&format!("there is an alarm {named}"), async || {
        let alarms = client.readyz().await?.alarms;
        Ok(alarms.into_iter().find(|alarm| alarm.starts_with(&format!("{named}: "))))
    })
    .await
}

async fn all_is_well(world: &World, client: &Client) -> Result<()> {
    eventually("nothing is wrong", async || {
        world.anvil.mine(1).await?;
        let health = client.readyz().await?;
        // Where a test moved the chain's time, this machine's clock is off.
        let others = health.alarms.iter().filter(|alarm| !alarm.starts_with("clock: "));
        Ok((health.ready && others.count() == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mandate_is_in_two_lanes_at_a_time() -> Result<()> {
    let world = lanes("three-lanes", 2, &["--rate-peer", "10000", "--rate-agent", "10000"]).await?;
    let agent = world.agent()?;
    let mut mandates: Vec<Mandate> = Vec::new();
    for _ in 0..6 {
        mandates.push(opened(&world, &agent).await?);
    }
    world.anvil.automine(false).await?;
    let mut payments: Vec<Payment> = Vec::new();
    let paying = async {
        for _ in 0..30 {
            for (number, mandate) in (1..).zip(&mandates) {
                payments.push(world.pay(&agent, &Pay::new(mandate.id, payee(number), usdc("0.5")?)).await??.object);
            }
        }
        for payment in &payments {
            eventually(&format!("{} is settled", payment.id), async || {
                let payment = agent.payment(payment.id, None).await?;
                ensure!(payment.state != PaymentState::Failed, "{payment:?}");
                Ok((payment.state == PaymentState::Settled).then_some(()))
            })
            .await?;
        }
        Ok(())
    };
    mining(&world, paying).await?;

    let submitters: BTreeSet<Address> = world.keys.submitters(2)?.iter().map(|key| key.address()).collect();
    let (mut used, mut next) = (BTreeSet::new(), BTreeMap::<B256, u32>::new());
    let mut in_block: BTreeMap<(u64, B256), Address> = BTreeMap::new();
    for (block, submitter, tx) in sent(&world, &submitters).await? {
        used.insert(submitter);
        for (mandate, mut nonces) in rows(&world, &settleCall::abi_decode(tx.input())?)? {
            // Within a call they may stand in another order.
            nonces.sort_unstable();
            // All that is in a block was signed before it: two submitters there had it at one time.
            ensure!(*in_block.entry((block, mandate)).or_insert(submitter) == submitter, "{mandate} in two lanes");
            for nonce in nonces {
                let next = next.entry(mandate).or_default();
                ensure!(nonce == *next, "{mandate} pays nonce {nonce} where {next} is next");
                *next += 1;
            }
        }
    }
    assert_eq!(used, submitters, "not everybody worked");
    assert!(next.values().all(|paid| *paid == 30), "{next:?}");
    let ids: Vec<_> = mandates.iter().map(|mandate| mandate.id).collect();
    balance(&world, &agent, &ids).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_short_of_eth_says_so_and_the_others_go_on() -> Result<()> {
    let world = lanes("short-of-eth", 1, &[]).await?;
    let agent = world.agent()?;
    let mandate = opened(&world, &agent).await?;
    let submitters = world.keys.submitters(1)?;
    let [first, second] = [submitters[0].address(), submitters[1].address()];

    world.anvil.set_balance(first, 1).await?;
    world.anvil.mine(1).await?;
    let said = alarm(&agent, "funds").await?;
    assert!(said.contains(&first.to_string()) && !said.contains(&second.to_string()), "{said}");
    assert!(agent.readyz().await?.ready);
    let paid = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    let paid = world.settled(&agent, &paid).await?;
    let by = world.anvil.provider().get_transaction_by_hash(paid.tx_hash.ok_or_eyre("no transaction")?).await?;
    assert_eq!(by.ok_or_eyre("not there")?.inner.signer(), second);

    // Nobody can pay for gas: what can't be sent is not accepted.
    world.anvil.set_balance(second, 1).await?;
    world.anvil.mine(1).await?;
    alarm(&agent, "sending").await?;
    let said = alarm(&agent, "funds").await?;
    assert!(said.contains(&first.to_string()) && said.contains(&second.to_string()), "{said}");
    assert!(!agent.readyz().await?.ready);
    assert_eq!(code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?), Code::CannotSend);
    assert_eq!(agent.payment(paid.id, None).await?.state, PaymentState::Settled, "reads go on");

    world.anvil.set_balance(first, 1_000_000_000_000_000_000).await?;
    world.anvil.set_balance(second, 1_000_000_000_000_000_000).await?;
    all_is_well(&world, &agent).await?;
    let paid = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &paid).await?;
    balance(&world, &agent, &[mandate.id]).await
}

/// A rollup charges for data besides, of which the balance that covers the gas knows nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_wants_more_eth_than_the_gas_costs_is_believed() -> Result<()> {
    let world = World::with("lacks-l1-fee", &Settings { troubled: true, ..Settings::default() }).await?;
    let agent = world.agent()?;
    let mandate = opened(&world, &agent).await?;
    let words = "insufficient funds for gas * price + value: have 1 want 2";
    world.proxy()?.fault("eth_sendRawTransaction", Fault::Error(-32_000, words));
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.anvil.mine(1).await?;
    let submitter = world.keys.submitter.address();
    assert!(alarm(&agent, "funds").await?.contains(&submitter.to_string()));
    // The only one: nothing new is accepted until it can pay.
    alarm(&agent, "sending").await?;
    let pay = Pay { nonce: Some(1), ..Pay::new(mandate.id, payee(1), usdc("1")?) };
    assert_eq!(code(world.pay(&agent, &pay).await?), Code::CannotSend);
    world.anvil.mine(2).await?;
    world.followed(&agent).await?;
    alarm(&agent, "funds").await?;

    world.proxy()?.well().await?;
    world.settled(&agent, &payment).await?;
    all_is_well(&world, &agent).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_waits_for_eth_and_goes_by_itself() -> Result<()> {
    let world = lanes("drained", 0, &[]).await?;
    let agent = world.agent()?;
    let mandate = opened(&world, &agent).await?;
    let submitter = world.keys.submitter.address();
    world.anvil.automine(false).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    // Signed and sent; then the node loses it, and the money is gone when it is sent again.
    let lost = world.anvil.arrived().await?;
    world.anvil.set_balance(submitter, 1).await?;
    world.anvil.drop_transaction(lost).await?;
    world.anvil.mine(3).await?;
    assert!(alarm(&agent, "funds").await?.contains(&submitter.to_string()));
    assert_eq!(agent.payment(payment.id, None).await?.state, PaymentState::Submitted);
    world.anvil.set_balance(submitter, 1_000_000_000_000_000_000).await?;
    world.settled(&agent, &payment).await?;
    all_is_well(&world, &agent).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn other_submitters_pay_for_a_removed_one() -> Result<()> {
    let world = lanes("removed-submitter", 1, &[]).await?;
    let agent = world.agent()?;
    let mandate = opened(&world, &agent).await?;
    let submitters = world.keys.submitters(1)?;
    let [first, second] = [submitters[0].address(), submitters[1].address()];
    let set = async |allowed| {
        let call = setSubmitterCall { submitter: first, allowed };
        world.escrow.chain().send(&world.keys.guardian, world.escrow.domain().escrow, &call).await
    };

    world.anvil.automine(false).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    let lost = world.anvil.arrived().await?;
    world.anvil.drop_transaction(lost).await?;
    world.anvil.automine(true).await?;
    set(false).await?;

    // The same bytes are sent again; their row is skipped, and comes back when that is final.
    let settled = world.settled(&agent, &payment).await?;
    let paid = settled.tx_hash.ok_or_eyre("no transaction")?;
    assert_ne!(paid, lost);
    let by = world.anvil.provider().get_transaction_by_hash(paid).await?.ok_or_eyre("not there")?;
    assert_eq!(by.inner.signer(), second);
    let skipped = world.anvil.provider().get_transaction_receipt(lost).await?.ok_or_eyre("never mined")?;
    assert!(skipped.status());
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("1")?);
    assert!(alarm(&agent, "submitter").await?.contains(&first.to_string()));
    assert!(agent.readyz().await?.ready);

    set(true).await?;
    all_is_well(&world, &agent).await?;
    balance(&world, &agent, &[mandate.id]).await
}

/// A spike of a hundred times keeps a payment waiting; when it can't be paid any more, its nonce is
/// used up for nothing, and the submitter goes on.
#[tokio::test(flavor = "multi_thread")]
async fn obsolete_transactions_are_canceled_under_the_ceiling() -> Result<()> {
    let world = lanes("canceled", 0, &["--fee-ceiling-gwei", "5", "--deadline-min", "10"]).await?;
    let agent = world.agent()?;
    let mandate = opened(&world, &agent).await?;
    let submitter = world.keys.submitter.address();
    world.anvil.automine(false).await?;
    let deadline = world.time().await? + 100;
    let pay = Pay { deadline: Some(deadline), ..Pay::new(mandate.id, payee(1), usdc("1")?) };
    let payment = world.pay(&agent, &pay).await??.object;
    let first = world.anvil.arrived().await?;
    let provider = world.anvil.provider();
    let nonce = provider.get_transaction_by_hash(first).await?.ok_or_eyre("not there")?.nonce();

    let dear = async || {
        world.anvil.set_base_fee(100 * GWEI).await?;
        world.anvil.mine(1).await?;
        world.followed(&agent).await
    };
    for _ in 0..8 {
        dear().await?;
        assert_eq!(agent.payment(payment.id, None).await?.state, PaymentState::Submitted);
    }
    alarm(&agent, "fees").await?;

    world.anvil.set_base_fee(100 * GWEI).await?;
    world.anvil.pass(200).await?;
    eventually("it failed", async || {
        dear().await?;
        let payment = agent.payment(payment.id, None).await?;
        Ok((payment.state == PaymentState::Failed).then_some(()))
    })
    .await?;

    let ceiling = u128::from(5 * GWEI);
    world.anvil.set_base_fee(GWEI).await?;
    let cancel = eventually("the nonce is used", async || {
        world.anvil.mine(1).await?;
        let all = sent(&world, &BTreeSet::from([submitter])).await?;
        Ok(all.into_iter().map(|(_, _, tx)| tx).find(|tx| tx.nonce() == nonce))
    })
    .await?;
    assert_eq!((cancel.kind(), cancel.value().is_zero(), cancel.input().len()), (TxKind::Call(submitter), true, 0));
    assert!(cancel.max_fee_per_gas() <= ceiling, "{cancel:?}");

    let failed = agent.payment(payment.id, None).await?;
    assert_eq!((failed.state, failed.reason), (PaymentState::Failed, Some(Code::DeadlinePassed)));
    assert_eq!(agent.mandate(mandate.id).await?.available, usdc("100")?);
    all_is_well(&world, &agent).await?;
    let next = world.pay(&agent, &Pay::new(mandate.id, payee(2), usdc("2")?)).await??.object;
    world.settled(&agent, &next).await?;
    assert!(world.escrow.balance_of(payee(1)).await?.is_zero());
    balance(&world, &agent, &[mandate.id]).await
}
