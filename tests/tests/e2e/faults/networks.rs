//! The story and 200 payments on six networks, each behind a provider with its limits, words, missing methods,
//! finality and latency. None of these was recorded: they are as the networks and providers document them.

use std::time::Duration;

use alloy::providers::Provider;
use alloy_primitives::Address;
use eyre::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use stipend_client::{CreateCard, Pay};
use stipend_core::{
    Code,
    api::{NewMandate, NewMandateRequest, PaymentState},
    card::CardState,
    policy::MandateState,
};
use stipend_e2e::{
    AcceptedPayments, Account, CardSettings, Fault, Network, Purchase, Settings, TREASURY, World, eventually, reconcile,
};

use super::providers::{IMPLEMENTATION, dear};
use crate::{asking, code, payee, usdc};

const LATENCY: Duration = Duration::from_millis(50);
const PAYMENTS: u8 = 200;
/// How many payments agents send at once.
const AT_ONCE: usize = 20;

/// A provider of its own kind, on this chain.
fn network(chain_id: u64, block_gas: u64, faults: Vec<(&'static str, Fault)>) -> Network {
    Network { chain_id, block_gas, latency: LATENCY, finality: "finalized", faults }
}

const MISSING: Fault = Fault::Error(-32_601, "the method does not exist/is not available");

/// Whether these are the parameters of `eth_getLogs` for more than so many blocks.
fn is_wider<const BLOCKS: u64>(params: &Value) -> bool {
    let number = |name: &str| {
        let text = params.pointer(&format!("/0/{name}"))?.as_str()?;
        u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let blocks = number("toBlock").zip(number("fromBlock")).map(|(to, from)| to.saturating_sub(from) + 1);
    blocks.is_some_and(|blocks| blocks > BLOCKS)
}

/// A receipt on the OP stack: the fee for data is beside the gas.
fn with_l1_fee(receipt: &mut Value) {
    if let Value::Object(receipt) = receipt {
        receipt.insert("l1Fee".into(), json!("0x2540be400"));
        receipt.insert("l1GasUsed".into(), json!("0x640"));
    }
}

/// A receipt on Arbitrum.
fn with_l1_block(receipt: &mut Value) {
    if let Value::Object(receipt) = receipt {
        receipt.insert("l1BlockNumber".into(), json!("0x1500000"));
        receipt.insert("gasUsedForL1".into(), json!("0x1f4"));
    }
}

/// Where every block is final as soon as it is accepted, the tag is the head.
fn at_once(params: &mut Value) {
    if let Some(tag) = params.get_mut(0).filter(|tag| *tag == "finalized") {
        *tag = "latest".into();
    }
}

fn asks_for_finalized(params: &Value) -> bool {
    params.get(0).is_some_and(|tag| tag == "finalized")
}

/// From the request to the return of what is left: by transaction and by message, a card, what is refused, and
/// 200 payments in between, all at once.
async fn story(name: &str, network: Network, token_is_dear: bool) -> Result<World> {
    let settings = Settings {
        troubled: true,
        network: Some(network),
        cards: Some(CardSettings { poll: 2, ..CardSettings::default() }),
        more: vec!["--rate-agent".into(), "1000".into()],
        log: "info",
        ..Settings::default()
    };
    let world = World::with(name, &settings).await?;
    let (agent, operator, issuer) = (world.agent()?, world.operator()?, world.issuer()?);
    if token_is_dear {
        let token = world.escrow.token();
        let slot = world.anvil.provider().get_storage_at(token, IMPLEMENTATION.parse()?).await?;
        world.anvil.set_code(token, &dear(Address::from_word(slot.into()))).await?;
    }

    // Approved by a transaction, and by a message of somebody without ETH.
    let mandate = world.open(&NewMandateRequest { per_payment: Some(usdc("30")?), ..asking("300")? }).await?;
    let request = agent.request_mandate(&asking("5")?).await?.object;
    let gasless = world.client(&world.keys.gasless)?;
    let start = world.escrow.chain().head().await?.time;
    let terms = request.terms(gasless.address(), world.keys.guardian.address(), start);
    let authorization = world.escrow.authorize(&world.keys.gasless, &terms, world.time().await? + 3_600)?;
    let opened = gasless.open_mandate(&NewMandate { request: request.id, terms, authorization }).await?.object;
    let opened = world.mandate_in(&agent, opened.id, MandateState::Open).await?;

    let accepted = AcceptedPayments::of(&world);
    stream::iter(0..PAYMENTS)
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, async |number| {
            let pay = Pay::new(mandate.id, payee(1 + number % 5), usdc("1")?);
            let signed = world.sign(&agent, &pay).await?;
            accepted.keep(signed.clone(), &agent.send_payment(&signed, None).await?)
        })
        .await?;
    let beyond = Pay::new(mandate.id, payee(1), usdc("30.01")?);
    assert_eq!(code(world.pay(&agent, &beyond).await?), Code::AbovePerPayment);

    let card = world.create_card(&agent, &CreateCard::new(mandate.id, usdc("25")?)).await??.object;
    world.card_in(&agent, card.id, CardState::Active).await?;
    let secrets = world.reveal(&agent, card.id).await?;
    let charge = issuer.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
    issuer.clear(&charge, None).await?;
    let closed = world.card_in(&agent, card.id, CardState::Closed).await?;
    assert_eq!((closed.captured, closed.released), (usdc("18.40")?, usdc("6.60")?));

    // Blocks come by themselves here.
    eventually("nothing is under way", async || Ok(agent.mandate(mandate.id).await?.reserved.is_zero().then_some(())))
        .await?;
    world.anvil.mine(world.finality()).await?;
    let accounts = [Account { client: agent.clone(), mandates: vec![mandate.id, opened.id] }];
    let found = reconcile(&world, &accounts, &accepted).await?;
    ensure!(found.failed == 0 && found.settled == usize::from(PAYMENTS), "{found:?}");
    assert_eq!(world.escrow.balance_of(TREASURY).await?, usdc("18.40")?);

    // What is left comes back, once.
    let left = operator.mandate(mandate.id).await?.available;
    assert_eq!(left, usdc("81.60")?);
    let signature = operator.sign_revocation(mandate.id).await?;
    operator.revoke_mandate(mandate.id, signature).await?;
    eventually("the rest is back", async || Ok((agent.mandate(mandate.id).await?.returned == left).then_some(())))
        .await?;
    eventually("all is well", async || Ok(agent.readyz().await?.alarms.is_empty().then_some(()))).await?;
    Ok(world)
}

#[tokio::test(flavor = "multi_thread")]
async fn base_behind_a_provider_that_gives_logs_of_ten_blocks() -> Result<()> {
    let words = "You can make eth_getLogs requests with up to a 10 block range. Based on your parameters, this block \
                 range should work: [0x1, 0xa]";
    let faults = vec![
        ("eth_getLogs", Fault::Refuses(is_wider::<10>, -32_600, words)),
        ("eth_getTransactionReceipt", Fault::Alters(with_l1_fee)),
    ];
    let world = story("network-base", network(8_453, 60_000_000, faults), false).await?;
    assert!(world.proxy()?.count("eth_getTransactionReceipt").faulted > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ethereum_behind_a_provider_without_receipts_of_blocks() -> Result<()> {
    let faults = vec![
        ("eth_getLogs", Fault::Refuses(is_wider::<100>, -32_005, "query returned more than 10000 results")),
        ("eth_getBlockReceipts", MISSING),
        ("eth_feeHistory", Fault::Error(-32_600, "the method is not part of your plan")),
    ];
    story("network-ethereum", network(1, 36_000_000, faults), false).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrum_behind_a_provider_that_gives_logs_of_five_blocks() -> Result<()> {
    let faults = vec![
        ("eth_getLogs", Fault::Refuses(is_wider::<5>, -32_614, "eth_getLogs is limited to a 5 range")),
        ("eth_getTransactionReceipt", Fault::Alters(with_l1_block)),
        ("eth_maxPriorityFeePerGas", Fault::Answer(json!("0x0"))),
    ];
    story("network-arbitrum", network(42_161, 32_000_000, faults), true).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn polygon_behind_a_public_endpoint_that_says_slow_down() -> Result<()> {
    let faults = vec![
        ("eth_getLogs", Fault::Refuses(is_wider::<1>, -32_701, "Please specify an address or use a smaller range")),
        ("eth_maxPriorityFeePerGas", MISSING),
        ("eth_feeHistory", MISSING),
        ("eth_getBlockReceipts", MISSING),
    ];
    // Smaller blocks than Polygon's, so that batches are cut to them.
    let world = story("network-polygon", network(137, 5_000_000, faults), false).await?;
    assert!(world.proxy()?.count("eth_gasPrice").forwarded > 0);
    // Asked for too often, it answers nothing for a while.
    let (agent, proxy) = (world.agent()?, world.proxy()?);
    for method in ["eth_getBlockByNumber", "eth_sendRawTransaction", "eth_call"] {
        proxy.fault_next(3, method, Fault::TooMany(1));
    }
    let mandate = world.open(&asking("2")?).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.payment_in(&agent, &payment, PaymentState::Settled).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn avalanche_where_blocks_are_final_at_once() -> Result<()> {
    let faults = vec![
        ("eth_getBlockByNumber", Fault::Rewrites(at_once)),
        (
            "eth_getLogs",
            Fault::Refuses(is_wider::<30>, -32_000, "requested too many blocks from 1 to 64, maximum is set to 30"),
        ),
        ("eth_getBlockReceipts", MISSING),
    ];
    story("network-avalanche", network(43_114, 15_000_000, faults), false).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn optimism_behind_a_node_of_its_own_that_knows_no_finality() -> Result<()> {
    let unknown = Fault::Refuses(asks_for_finalized, -39_001, "Unknown block");
    let faults = vec![
        ("eth_getBlockByNumber", unknown),
        ("eth_getTransactionReceipt", Fault::Alters(with_l1_fee)),
        ("eth_feeHistory", MISSING),
    ];
    let network = Network { finality: "2", ..network(10, 60_000_000, faults) };
    let mut world = story("network-optimism", network, false).await?;
    // By the tag it would never see a final block, and does not start.
    world.relayer.stop()?;
    let said = world.relayer.must_not_start(&[("--finality", "finalized")]).await?;
    ensure!(said.contains("--finality"), "{said}");
    Ok(())
}
