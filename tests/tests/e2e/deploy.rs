//! `stipend deploy`: one address for a token, whoever deploys, however often, and whatever befalls it on the way.

use alloy::providers::Provider;
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{Eip712Domain, SolCall, SolValue};
use eyre::{OptionExt, Result};
use serde_json::Value;
use stipend_bindings::{
    TokenDomain, Validity,
    abi::MockUSDC::{DOMAIN_SEPARATORCall, decimalsCall, nameCall, versionCall},
    authorization_digest,
    deployment::{DEPLOYER, DEPLOYER_SENDER, DEPLOYER_TRANSACTION, escrow_address},
    recover,
};
use stipend_client::chain::{Chain, Escrow};
use stipend_core::DEV_CHAIN_ID;
use stipend_e2e::{Fault, FaultProxy, Network, Settings, World, key};

use crate::{
    asking,
    cli::{done, failed},
    usdc,
};

/// Gives the world's token a second escrow.
const SALT: &str = "0x0000000000000000000000000000000000000000000000000000000000000007";

const ETHER: u128 = 10_u128.pow(18);

fn salt() -> Result<B256> {
    Ok(SALT.parse()?)
}

/// Where the second escrow is, or will be.
fn second(world: &World) -> Result<Address> {
    Ok(escrow_address(world.escrow.token(), salt()?))
}

fn deploy<'a>(token: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["deploy", "--token", token, "--salt", SALT], more].concat()
}

/// The code of a contract that gives these answers to these calls, and reverts on all others.
fn saying(answers: &[([u8; 4], Vec<u8>)]) -> Result<Vec<u8>> {
    const BRANCH: usize = 11;
    const ANSWER: usize = 14;
    // PUSH0 CALLDATALOAD PUSH1 224 SHR … PUSH0 PUSH0 REVERT
    let mut code = vec![0x5f, 0x35, 0x60, 0xe0, 0x1c];
    let first = code.len() + BRANCH * answers.len() + 3;
    let mut data = first + ANSWER * answers.len();
    let mut replies = vec![0x5f, 0x5f, 0xfd];
    for (number, (selector, answer)) in answers.iter().enumerate() {
        let [high, low] = u16::try_from(first + ANSWER * number)?.to_be_bytes();
        // DUP1 PUSH4 selector EQ PUSH2 destination JUMPI
        code.extend([&[0x80, 0x63], &selector[..], &[0x14, 0x61, high, low, 0x57]].concat());
        let (length, place) = (u16::try_from(answer.len())?.to_be_bytes(), u16::try_from(data)?.to_be_bytes());
        // JUMPDEST PUSH2 length PUSH2 place PUSH0 CODECOPY PUSH2 length PUSH0 RETURN
        let (length, place) = (&length[..], &place[..]);
        replies.extend([&[0x5b, 0x61], length, &[0x61], place, &[0x5f, 0x39, 0x61], length, &[0x5f, 0xf3]].concat());
        data += answer.len();
    }
    let answers = answers.iter().flat_map(|(_, answer)| answer.clone());
    Ok(code.into_iter().chain(replies).chain(answers).collect())
}

/// How many transactions the guardian has in blocks.
async fn sent(world: &World) -> Result<u64> {
    Ok(world.escrow.chain().transactions_of(world.keys.guardian.address()).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_the_address_without_a_key_and_sends_nothing() -> Result<()> {
    let world = World::start("deploy-dry-run").await?;
    let (guardian, token) = (&world.keys.guardian, world.escrow.token().to_string());
    let before = world.escrow.chain().head().await?.number;
    let arguments = deploy(&token, &["--dry-run"]);
    let said = world
        .stipend_command(guardian, &[&["--json"], &arguments[..]].concat())?
        .env_remove("STIPEND_PRIVATE_KEY")
        .output()?;
    let predicted: Value = serde_json::from_slice(&said.stdout)?;
    assert_eq!(predicted["escrow"], second(&world)?.to_string());
    assert_eq!((&predicted["deployed"], &predicted["salt"]), (&false.into(), &SALT.into()));
    assert_eq!(world.escrow.chain().head().await?.number, before);

    let deployed = done(world.stipend(guardian, &deploy(&token, &[]))?);
    assert_eq!(deployed["escrow"], predicted["escrow"]);
    // A block has this transaction alone.
    let block =
        world.anvil.provider().get_block_by_number(deployed["start_block"].as_u64().ok_or_eyre("no block")?.into());
    let used = block.await?.ok_or_eyre("no block")?.header.gas_used;
    let estimated = predicted["gas"].as_u64().ok_or_eyre("no gas")?;
    assert!(used.abs_diff(estimated) < used / 50, "{used} used, {estimated} estimated");
    let again = done(world.stipend(guardian, &arguments)?);
    assert_eq!((&again["deployed"], &again["gas"]), (&true.into(), &0.into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_finds_what_the_first_deployed_and_says_the_same() -> Result<()> {
    let world = World::start("deploy-twice").await?;
    let (guardian, token) = (&world.keys.guardian, world.escrow.token().to_string());
    let submitter = key("another submitter")?.address().to_string();
    let arguments = deploy(&token, &["--submitter", &submitter]);
    let first = done(world.stipend(guardian, &arguments)?);
    world.anvil.mine(50).await?;
    let transactions = sent(&world).await?;
    assert_eq!(done(world.stipend(guardian, &arguments)?), first);
    assert_eq!(sent(&world).await?, transactions, "nothing is sent again");

    // Whoever deploys it: another guardian finds the same one, and allows submitters of its own there.
    let other = key("another guardian")?;
    world.anvil.set_balance(other.address(), ETHER).await?;
    let theirs = done(world.stipend(&other, &arguments)?);
    assert_eq!((&theirs["escrow"], &theirs["start_block"]), (&first["escrow"], &first["start_block"]));
    let escrow = Escrow::at(world.escrow.chain().clone(), second(&world)?).await?;
    assert!(escrow.is_submitter(other.address(), submitter.parse()?).await?);
    assert_eq!(world.escrow.chain().transactions_of(other.address()).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_deployment_goes_on_where_it_was() -> Result<()> {
    let world = World::start("deploy-killed").await?;
    let (guardian, token) = (&world.keys.guardian, world.escrow.token().to_string());
    let [first, last] = ["first", "last"].map(|name| key(name).map(|key| key.address().to_string()));
    let (first, last) = (first?, last?);
    let arguments = deploy(&token, &["--submitter", &first, "--submitter", &last]);
    let before = sent(&world).await?;
    world.anvil.automine(false).await?;
    let mut killed = world.stipend_command(guardian, &arguments)?.spawn()?;
    world.anvil.arrived().await?;
    killed.kill()?;
    killed.wait()?;

    // The next run waits for the transaction of the first, instead of sending another one that would fail.
    world.anvil.mine_every(1).await?;
    let deployed = done(world.stipend(guardian, &arguments)?);
    assert_eq!(deployed["escrow"], second(&world)?.to_string());
    assert_eq!(sent(&world).await?, before + 3, "one deployment and two submitters");

    // Of what was done in part, the rest.
    let more = key("one more")?.address().to_string();
    let arguments = deploy(&token, &["--submitter", &first, "--submitter", &more, "--submitter", &last]);
    let again = done(world.stipend(guardian, &arguments)?);
    assert_eq!(again["start_block"], deployed["start_block"]);
    assert_eq!(sent(&world).await?, before + 4);
    let escrow = Escrow::at(world.escrow.chain().clone(), second(&world)?).await?;
    for submitter in [&first, &last, &more] {
        assert!(escrow.is_submitter(guardian.address(), submitter.parse()?).await?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_a_reorganization_removed_is_made_again() -> Result<()> {
    let world = World::start("deploy-reorg").await?;
    let (guardian, token) = (&world.keys.guardian, world.escrow.token().to_string());
    let first = done(world.stipend(guardian, &deploy(&token, &[]))?);
    world.anvil.reorg(1).await?;
    assert!(!world.escrow.chain().has_code(second(&world)?).await?);
    let again = done(world.stipend(guardian, &deploy(&token, &[]))?);
    assert_eq!(again["escrow"], first["escrow"]);
    assert!(world.escrow.chain().has_code(second(&world)?).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_state_of_old_blocks_knows_no_start_block() -> Result<()> {
    let world = World::start("deploy-pruned").await?;
    let escrow = world.escrow.domain().escrow;
    world.anvil.mine(50).await?;
    assert!(world.escrow.chain().deployed_in(escrow).await?.is_some());
    let is_old: fn(&Value) -> bool = |params| params.pointer("/1").is_some_and(|block| block != "latest");
    // One says so; another one tells of accounts without code.
    for fault in [Fault::Refuses(is_old, -32_000, "missing trie node"), Fault::Answer("0x".into())] {
        let proxy = FaultProxy::start(world.anvil.url()).await?;
        proxy.fault("eth_getCode", fault);
        let chain = Chain::connect(proxy.url().clone()).await?;
        assert_eq!(chain.deployed_in(escrow).await?, None);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_escrow_is_refused() -> Result<()> {
    let world = World::start("deploy-foreign-code").await?;
    let (guardian, token) = (&world.keys.guardian, world.escrow.token().to_string());
    let chain = world.escrow.chain();
    let before = sent(&world).await?;
    let elsewhere = chain.code(world.escrow.domain().escrow).await?;
    // Other code, and an escrow whose mandates have the ids of another address.
    for code in [&[0x00][..], &elsewhere] {
        world.anvil.set_code(second(&world)?, code).await?;
        for more in [&[][..], &["--dry-run"]] {
            failed(
                world.stipend(guardian, &deploy(&token, more))?,
                "is not the MandateEscrow that this program was built with",
            );
        }
    }
    assert_eq!(sent(&world).await?, before, "nothing is sent");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_constructor_says_of_a_token_is_told() -> Result<()> {
    let world = World::start("deploy-no-usdc").await?;
    let dai = Address::repeat_byte(0xda);
    failed(world.stipend(&world.keys.guardian, &deploy(&dai.to_string(), &[]))?, "there is no contract at");
    world.anvil.set_code(dai, &saying(&[(decimalsCall::SELECTOR, U256::from(18).abi_encode())])?).await?;
    for more in [&[][..], &["--dry-run"]] {
        failed(world.stipend(&world.keys.guardian, &deploy(&dai.to_string(), more))?, "18 decimals");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_the_proxy_is_told_how_to_get_it() -> Result<()> {
    let world = World::start("deploy-no-proxy").await?;
    let (guardian, token) = (&world.keys.guardian, world.escrow.token().to_string());
    let chain = world.escrow.chain();
    for code in [&[][..], &[0x00]] {
        world.anvil.set_code(DEPLOYER, code).await?;
        for more in [&[][..], &["--dry-run"]] {
            failed(world.stipend(guardian, &deploy(&token, more))?, &DEPLOYER_TRANSACTION.to_string());
        }
    }
    assert!(!chain.has_code(second(&world)?).await?);

    // As the message says, on a chain that never had it.
    world.anvil.set_code(DEPLOYER, &[]).await?;
    let provider = world.anvil.provider();
    provider.raw_request::<_, Value>("anvil_setNonce".into(), (DEPLOYER, "0x0")).await?;
    world.anvil.set_balance(DEPLOYER_SENDER, ETHER / 100).await?;
    provider.send_raw_transaction(&DEPLOYER_TRANSACTION).await?.watch().await?;
    let deployed = done(world.stipend(guardian, &deploy(&token, &[]))?);
    assert_eq!(deployed["escrow"], second(&world)?.to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_base_sepolia_with_a_token_of_another_name() -> Result<()> {
    const CHAIN_ID: u64 = 84_532;
    let network = Network {
        chain_id: CHAIN_ID,
        block_gas: 30_000_000,
        latency: Default::default(),
        finality: "2",
        faults: vec![],
    };
    let world = World::with("deploy-base-sepolia", &Settings { network: Some(network), ..Settings::default() }).await?;
    let guardian = &world.keys.guardian;
    let token = Address::repeat_byte(0x36);
    let domain = TokenDomain::new("USDC", "2", CHAIN_ID, token);
    let (name, version) = (Some("USDC".into()), Some("2".into()));
    let separator = Eip712Domain::new(name, version, Some(U256::from(CHAIN_ID)), Some(token), None).separator();
    let answers = [
        (decimalsCall::SELECTOR, U256::from(6).abi_encode()),
        (nameCall::SELECTOR, "USDC".abi_encode()),
        (versionCall::SELECTOR, "2".abi_encode()),
        (DOMAIN_SEPARATORCall::SELECTOR, separator.abi_encode()),
    ];
    world.anvil.set_code(token, &saying(&answers)?).await?;

    failed(world.stipend(guardian, &["deploy"])?, &format!("on chain id {DEV_CHAIN_ID} only"));
    let argument = token.to_string();
    let deployed = done(world.stipend(guardian, &["deploy", "--token", &argument])?);
    assert_eq!((&deployed["chain_id"], &deployed["token"]), (&CHAIN_ID.into(), &argument.as_str().into()));
    let escrow =
        Escrow::at(world.escrow.chain().clone(), deployed["escrow"].as_str().ok_or_eyre("no text")?.parse()?).await?;
    assert_ne!(escrow.domain(), world.escrow.domain());

    // What opens a mandate there is signed for that token.
    let operator = &world.keys.operator;
    let request = world.agent()?.request_mandate(&asking("10")?).await?.object;
    let terms = request.terms(operator.address(), guardian.address(), world.time().await?);
    let until = terms.start + 600;
    let signature = escrow.authorize(operator, &terms, until)?.signature;
    let id = escrow.domain().mandate_id(&terms)?;
    let validity = Validity { after: 0, before: until };
    let digest = authorization_digest(escrow.domain(), domain, operator.address(), usdc("10")?, validity, id);
    assert_eq!(recover(digest, &signature)?, operator.address());
    Ok(())
}
