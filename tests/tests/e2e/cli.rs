//! What operators, agents and bystanders do by the command line alone.

use std::{
    fs,
    process::{Command, Stdio},
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, U256};
use eyre::{OptionExt, Result};
use serde_json::Value;
use stipend_client::{PageQuery, PaymentFilter};
use stipend_core::{MandateId, api::NewMandateRequest, policy::MandateState};
use stipend_e2e::{Failed, World, balance, binary, eventually, key};

use crate::{asking, opened, payee, usdc};

/// Asked for by the agent, approved by the operator with a permit.
fn approved(world: &World, amount: &str, duration: &str) -> Result<MandateId> {
    let asked =
        ["mandate", "request", "--amount", amount, "--intent", "Flowers for the office", "--duration", duration];
    let request = done(world.stipend(&world.keys.agent, &asked)?);
    let approve = ["mandate", "approve", text(&request["id"])?, "--permit", "--yes"];
    let mandate = done(world.stipend(&world.keys.operator, &approve)?);
    assert_eq!((&mandate["state"], &mandate["available"]), (&"open".into(), &usdc(amount)?.to_string().into()));
    Ok(text(&mandate["id"])?.parse()?)
}

pub(crate) fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_eyre("no text")
}

pub(crate) fn done(said: Result<Value, Failed>) -> Value {
    said.unwrap_or_else(|failed| panic!("{failed:?}"))
}

/// That it failed, and for a reason with these words in it.
pub(crate) fn failed(said: Result<Value, Failed>, why: &str) {
    let Err(failed) = said else { panic!("it did not fail: {said:?}") };
    assert!(failed.exit == 1 && failed.problem["detail"].to_string().contains(why), "{why}: {failed:?}");
}

/// As compose files and service managers set it.
#[test]
fn an_empty_variable_is_no_setting() -> Result<()> {
    let mut serve = Command::new(binary()?);
    let said = serve.arg("serve").env_clear().env("STIPEND_CONFIRMATIONS", "").env("STIPEND_FINALITY", "").output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.code() == Some(2) && text.contains("--chain-id"), "{text}");
    assert!(!text.contains("--confirmations") && !text.contains("--finality"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_prints_the_end_of_a_mandate_and_anyone_sends_it() -> Result<()> {
    let mut world = World::start("cli-printed-end").await?;
    let (operator, agent) = (world.keys.operator.clone(), world.keys.agent.clone());
    let funds = world.escrow.balance_of(operator.address()).await?;
    let id = approved(&world, "10", "1d")?;
    // The one transaction has used up the permit, and opened what was asked for once.
    assert_eq!(funds.checked_sub(world.escrow.balance_of(operator.address()).await?), Some(usdc("10")?));

    let mandate = id.to_string();
    let print = ["mandate", "revoke", &mandate, "--print", "--yes"];
    failed(world.stipend(&agent, &print)?, "only its operator");
    let message = done(world.stipend(&operator, &print)?);
    assert_eq!(world.agent()?.mandate(id).await?.state, MandateState::Open, "printing ends nothing");

    // Whoever sends it needs no relayer; what it says can't be changed on the way.
    world.relayer.stop()?;
    let file = world.dir().join("end.json");
    let path = file.display().to_string();
    let send = |by: &PrivateKeySigner, message: &Value| -> Result<Result<Value, Failed>> {
        fs::write(&file, serde_json::to_vec(message)?)?;
        world.stipend(by, &["mandate", "revoke", "--message", &path, "--yes"])
    };
    for (field, value, why) in [
        ("chain_id", Value::from(1), "for chain id 1"),
        ("escrow", world.escrow.token().to_string().into(), "is not the MandateEscrow"),
        ("terms", Value::Null, "not a valid revocation message"),
        ("more", Value::Null, "not a valid revocation message"),
        ("signature", "0x00".into(), "has not signed this"),
    ] {
        let mut changed = message.clone();
        changed[field] = value;
        failed(send(&agent, &changed)?, why);
    }
    let mut larger = message.clone();
    larger["terms"]["cap"] = "11".into();
    failed(send(&agent, &larger)?, "has not signed this");
    assert!(!world.escrow.mandate_of(id).await?.ended);

    let ended = done(send(&agent, &message)?);
    assert_eq!((&ended["mandate"], &ended["returned"]), (&mandate.as_str().into(), &"10.00".into()));
    assert_eq!(world.escrow.balance_of(operator.address()).await?, funds);
    failed(send(&agent, &message)?, "has ended already, and nothing is left");

    world.relayer.restart().await?;
    world.returned(&world.agent()?, id, usdc("10")?).await?;
    balance(&world, &world.agent()?, &[id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_guardian_pays_straight_to_the_contract() -> Result<()> {
    let world = World::start("cli-direct").await?;
    let (agent, operator) = (world.keys.agent.clone(), &world.keys.operator);
    let listed = (1..=5).map(payee).collect();
    let request = NewMandateRequest { payees: Some(listed), ..asking("10")? };
    let request = world.agent()?.request_mandate(&request).await?.object;
    let terms = request.terms(operator.address(), Address::ZERO, world.time().await?);
    world.escrow.allow(operator, terms.cap).await?;
    world.escrow.open(operator, &terms).await?;
    let id = world.escrow.domain().mandate_id(&terms)?;
    world.mandate_in(&world.agent()?, id, MandateState::Open).await?;

    let mandate = id.to_string();
    let pay = |to: Address, amount: &str| {
        let to = to.to_string();
        world.stipend(&agent, &["pay", "--direct", "--mandate", &mandate, "--to", &to, "--amount", amount])
    };
    // The payee's place in the list is proved; the second payment takes the next nonce.
    for (to, amount, nonce) in [(payee(3), "3", 0), (payee(5), "2.5", 1)] {
        let paid = done(pay(to, amount)?);
        assert!(paid["tx_hash"].is_string() && paid["payment"]["nonce"] == nonce, "{paid}");
        assert_eq!(world.escrow.balance_of(to).await?, usdc(amount)?);
    }
    for (to, amount, code) in [(payee(6), "1", "payee_not_allowed"), (payee(3), "4.51", "insufficient_budget")] {
        let Err(refused) = pay(to, amount)? else { panic!("paid {amount} to {to}") };
        assert_eq!((refused.exit, &refused.problem["code"]), (3, &code.into()));
    }

    eventually("what went past the relayer is booked", async || {
        world.anvil.mine(1).await?;
        Ok((world.agent()?.mandate(id).await?.paid == usdc("5.5")?).then_some(()))
    })
    .await?;
    assert_eq!(world.agent()?.mandate(id).await?.available, usdc("4.5")?);
    assert_eq!(world.escrow.mandate_of(id).await?.remaining, usdc("4.5")?);
    let trail = world.operator()?.audit(Some(id), 0, Some(100)).await?.data;
    assert_eq!(trail.iter().filter(|entry| entry.kind == "mandate.spent_elsewhere").count(), 2);
    world.relayer.prove()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payee_gives_back() -> Result<()> {
    let mut world = World::start("cli-refund").await?;
    let (agent, payee) = (world.keys.agent.clone(), world.keys.guardian.clone());
    let id = approved(&world, "10", "1d")?;
    let (mandate, to) = (id.to_string(), payee.address().to_string());
    let pay = ["pay", "--mandate", &mandate, "--to", &to, "--amount", "4"];
    assert_eq!(done(world.stipend(&agent, &pay)?)["state"], "mined");

    let refund = |world: &World, by: &PrivateKeySigner, amount: &str, more: &[&str]| {
        let refund = ["refund", "--mandate", &mandate, "--amount", amount, "--yes"];
        world.stipend(by, &[&refund[..], more].concat())
    };
    failed(refund(&world, &payee, "4.01", &[])?, "holds 4.00 USDC, less than 4.01");
    let refunded = done(refund(&world, &payee, "1", &[])?);
    assert_eq!((&refunded["amount"], &refunded["restored"]), (&"1.00".into(), &"1.00".into()));
    assert_eq!(world.escrow.mandate_of(id).await?.remaining, usdc("7")?);

    // Sent, and perhaps in the next block: the same again could be paid twice.
    world.anvil.automine(false).await?;
    let transfer = stipend_bindings::abi::MockUSDC::transferCall { to: agent.address(), value: U256::ZERO };
    let chain = world.escrow.chain().clone();
    let waiting = tokio::spawn({
        let (payee, token) = (payee.clone(), world.escrow.token());
        async move { chain.send(&payee, token, &transfer).await.map(|_| ()) }
    });
    world.anvil.arrived().await?;
    failed(refund(&world, &payee, "1", &[])?, "waits for a block");
    world.anvil.automine(true).await?;
    world.anvil.mine(1).await?;
    waiting.await??;

    // Without a relayer, as a payee who knows none.
    world.relayer.stop()?;
    let escrow = world.escrow.domain().escrow.to_string();
    failed(refund(&world, &payee, "1", &[])?, "--escrow");
    assert_eq!(done(refund(&world, &payee, "1", &["--escrow", &escrow])?)["restored"], "1.00");
    world.relayer.restart().await?;
    eventually("both refunds are booked", async || {
        world.anvil.mine(1).await?;
        Ok((world.agent()?.mandate(id).await?.restored == usdc("2")?).then_some(()))
    })
    .await?;
    balance(&world, &world.agent()?, &[id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guardian_removes_a_submitter_and_allows_it_again() -> Result<()> {
    let world = World::start("cli-submitter").await?;
    let (guardian, submitter) = (world.keys.guardian.clone(), world.keys.submitter.address());
    let is_allowed = async || world.escrow.is_submitter(guardian.address(), submitter).await;
    let name = submitter.to_string();
    assert!(done(world.stipend(&guardian, &["submitter", "allow", &name])?).get("tx_hash").is_none(), "it was before");

    let escrow = world.escrow.domain().escrow.to_string();
    let removed = done(world.stipend(&guardian, &["submitter", "remove", &name, "--escrow", &escrow, "--yes"])?);
    assert!(removed["allowed"] == false && removed["tx_hash"].is_string());
    assert!(!is_allowed().await?);
    // Everybody speaks for themselves alone.
    done(world.stipend(&world.keys.operator, &["submitter", "allow", &name, "--yes"])?);
    assert!(!is_allowed().await?);
    failed(world.stipend(&guardian, &["submitter", "allow", &name])?, "nobody to ask");
    done(world.stipend(&guardian, &["submitter", "allow", &name, "--yes"])?);
    assert!(is_allowed().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_swept_without_a_relayer() -> Result<()> {
    let mut world = World::start("cli-sweeps").await?;
    let (operator, elsewhere) = (world.keys.operator.clone(), payee(7));
    let stranger = world.keys.guardian.clone();
    let (mine, theirs) = (approved(&world, "10", "60s")?, approved(&world, "5", "60s")?);
    world.relayer.stop()?;

    let escrow = world.escrow.domain().escrow.to_string();
    let sweep = |by: &PrivateKeySigner, id: MandateId, to: Option<Address>| {
        let (id, to) = (id.to_string(), to.map(|to| to.to_string()));
        let mut arguments = vec!["mandate", "sweep", &id, "--escrow", &escrow, "--yes"];
        arguments.extend(to.iter().flat_map(|to| ["--to", to]));
        world.stipend(by, &arguments)
    };
    failed(sweep(&operator, mine, None)?, "has not ended: it does at 20");
    world.anvil.pass(60).await?;
    failed(sweep(&stranger, mine, Some(stranger.address()))?, "only its operator");
    failed(sweep(&operator, MandateId(Default::default()), None)?, "has opened no");

    let swept = done(sweep(&operator, mine, Some(elsewhere))?);
    assert_eq!(swept["returned"], "10.00");
    assert_eq!(world.escrow.balance_of(elsewhere).await?, usdc("10")?);
    let funds = world.escrow.balance_of(operator.address()).await?;
    let swept = done(sweep(&stranger, theirs, None)?);
    assert_eq!(swept["returned"], "5.00");
    assert_eq!(world.escrow.balance_of(operator.address()).await?.checked_sub(funds), Some(usdc("5")?));
    failed(sweep(&key("a stranger without ETH")?, theirs, None)?, "is left that could go back");

    world.relayer.restart().await?;
    for (id, amount) in [(mine, "10"), (theirs, "5")] {
        world.returned(&world.agent()?, id, usdc(amount)?).await?;
    }
    balance(&world, &world.agent()?, &[mine, theirs]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_payment_says_that_it_is_accepted() -> Result<()> {
    let (world, mandate) = opened("cli-interrupted", "10").await?;
    let agent = world.agent()?;
    world.anvil.automine(false).await?;
    let (id, to) = (mandate.id.to_string(), payee(1).to_string());
    let mut command =
        world.stipend_command(&world.keys.agent, &["pay", "--mandate", &id, "--to", &to, "--amount", "1"])?;
    let paying = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let accepted = eventually("the payment is accepted", async || {
        Ok(agent.payments(&PaymentFilter::default(), &PageQuery::default()).await?.data.pop())
    })
    .await?;
    let interrupted = Command::new("kill").args(["-INT", &paying.id().to_string()]).status()?;
    assert!(interrupted.success());
    let said = paying.wait_with_output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(130), "{text}");
    // It may not have read the answer yet.
    let follow = format!("`stipend payment watch {}`", accepted.id);
    assert!(text.contains(&follow) || text.contains("look at `stipend payment list`"), "{text}");
    world.anvil.automine(true).await?;
    world.anvil.mine(1).await?;
    world.settled(&agent, &accepted).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guardian_that_is_not_the_relayer_s_is_told_so() -> Result<()> {
    let world = World::start("cli-other-guardian").await?;
    let submitter = world.keys.submitter.address().to_string();
    let said = |by: &PrivateKeySigner| -> Result<String> {
        let output = world.stipend_command(by, &["submitter", "remove", &submitter, "--yes"])?.output()?;
        assert!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stderr)?)
    };
    let other = said(&world.keys.operator)?;
    assert!(other.contains("nothing changes for that relayer") && other.contains("had not allowed it"), "{other}");
    let right = said(&world.keys.guardian)?;
    assert!(!right.contains("nothing changes"), "{right}");
    Ok(())
}

#[test]
fn a_missing_issuer_key_is_named_with_its_variable() -> Result<()> {
    let mut charge = Command::new(binary()?);
    charge.args(["merchant", "clear", "--transaction", "00000000-0000-0000-0000-000000000000"]).env_clear();
    let said = charge.output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.code() == Some(2) && text.contains("STIPEND_ISSUER_API_KEY"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_finds_what_is_wrong_and_says_what_mends_it() -> Result<()> {
    let mut world = World::start("cli-doctor").await?;
    let agent = world.keys.agent.clone();
    let found = |world: &World, more: &[&str]| -> Result<(Option<i32>, Value)> {
        let output = world.stipend_command(&agent, &[&["--json", "doctor"], more].concat())?.output()?;
        Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
    };
    let of = |findings: &Value, what: &str| -> (String, String) {
        let finding = findings.as_array().into_iter().flatten().find(|finding| finding["what"] == what);
        let text = |field: &str| finding.map(|finding| finding[field].to_string()).unwrap_or_default();
        (text("result"), text("mend"))
    };
    let (code, well) = found(&world, &[])?;
    assert_eq!(code, Some(0), "{well}");
    for what in ["relayer", "node", "contract", "key and clock", "alarms"] {
        assert_eq!(of(&well, what).0, "\"ok\"", "{what}: {well}");
    }
    // No node, a relayer in trouble, and none at all.
    world.anvil.set_balance(world.keys.submitter.address(), 0).await?;
    world.anvil.mine(1).await?;
    eventually("it is in trouble", async || Ok((!world.relayer.is_ready().await).then_some(()))).await?;
    let (code, trouble) = found(&world, &[])?;
    assert_eq!((code, of(&trouble, "alarms").0.as_str()), (Some(1), "\"failed\""), "{trouble}");
    assert!(of(&trouble, "alarms").1.contains("runbook"), "{trouble}");
    world.relayer.stop()?;
    let (code, alone) = found(&world, &[])?;
    assert_eq!(
        (code, of(&alone, "relayer").0.as_str(), of(&alone, "node").0.as_str()),
        (Some(1), "\"failed\"", "\"ok\"")
    );
    assert!(of(&alone, "relayer").1.contains("stipend serve"), "{alone}");
    Ok(())
}
