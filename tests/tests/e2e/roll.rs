//! An operator replaces a mandate by another one: longer, of another agent, larger or smaller.

use alloy::signers::local::PrivateKeySigner;
use eyre::Result;
use serde_json::{Value, json};
use stipend_client::{Pay, chain::ChainError};
use stipend_core::{
    Code, MandateId, Terms,
    api::{NewMandateRequest, PaymentState},
    policy::MandateState,
};
use stipend_e2e::{CardSettings, Failed, Fault, Settings, TREASURY, World, balance, eventually, key};

use crate::{
    asking,
    cards::{active, charge},
    cli::{done, failed, text},
    code, mcp, opened, payee, usdc,
};

fn replace(world: &World, verb: &str, id: MandateId, how: &[&str]) -> Result<Result<Value, Failed>> {
    let id = id.to_string();
    world.stipend(&world.keys.operator, &[&["mandate", verb, &id, "--yes"], how].concat())
}

fn replaced(said: Result<Value, Failed>) -> Result<(MandateId, [String; 3])> {
    let said = done(said);
    let amount = |name: &str| text(&said[name]).map(str::to_owned);
    Ok((text(&said["mandate"])?.parse()?, [amount("carried")?, amount("pulled")?, amount("returned")?]))
}

fn amounts(carried: &str, pulled: &str, returned: &str) -> [String; 3] {
    [carried, pulled, returned].map(str::to_owned)
}

/// Waits until it is final that so much went along.
async fn carried(world: &World, id: MandateId, amount: &str) -> Result<()> {
    let operator = world.operator()?;
    eventually("the roll is final", async || {
        world.anvil.mine(1).await?;
        Ok((operator.mandate(id).await?.carried == usdc(amount)?).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mandate_is_extended_and_its_agent_pays_from_the_new_one() -> Result<()> {
    let (world, mandate) = opened("roll-extends", "10").await?;
    let agent = world.agent()?;
    let funds = world.escrow.balance_of(world.keys.operator.address()).await?;
    let first = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("4")?)).await??.object;
    world.settled(&agent, &first).await?;

    let (next, money) = replaced(replace(&world, "extend", mandate.id, &["--duration", "60d"])?)?;
    assert_eq!(money, amounts("6.00", "0.00", "0.00"));
    assert_eq!(world.escrow.balance_of(world.keys.operator.address()).await?, funds);
    let old = world.mandate_in(&agent, mandate.id, MandateState::Ended).await?;
    let new = world.mandate_in(&agent, next, MandateState::Open).await?;
    assert!(new.terms.expiry > old.terms.expiry && new.intent == old.intent && new.available == usdc("6")?);
    assert_eq!(code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?), Code::Ended);

    let second = world.pay(&agent, &Pay::new(next, payee(1), usdc("2")?)).await??.object;
    world.settled(&agent, &second).await?;
    failed(replace(&world, "extend", mandate.id, &["--duration", "60d"])?, "has ended already");
    carried(&world, mandate.id, "6").await?;
    // A model sees it as well.
    let shown = async |id: MandateId| mcp::done(&world, "mandate_show", &json!({ "mandate": id })).await;
    assert_eq!((&shown(mandate.id).await?["carried"], &shown(next).await?["carried"]), (&"6.00".into(), &Value::Null));
    balance(&world, &agent, &[mandate.id, next]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_takes_over_and_the_old_one_pays_nothing_more() -> Result<()> {
    let (world, mandate) = opened("roll-rotates", "10").await?;
    let heir: PrivateKeySigner = key("another agent")?;
    let (old, new) = (world.agent()?, world.client(&heir)?);
    let (next, _) = replaced(replace(&world, "rotate", mandate.id, &["--agent", &heir.address().to_string()])?)?;
    world.mandate_in(&new, next, MandateState::Open).await?;

    assert_eq!(code(world.pay(&old, &Pay::new(mandate.id, payee(2), usdc("1")?)).await?), Code::Ended);
    assert_eq!(code(old.mandate(next).await), Code::NotFound);
    let paid = world.pay(&new, &Pay::new(next, payee(2), usdc("3")?)).await??.object;
    world.settled(&new, &paid).await?;
    carried(&world, mandate.id, "10").await?;
    balance(&world, &world.operator()?, &[mandate.id, next]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_budget_returns_the_difference_and_a_larger_one_pulls_it() -> Result<()> {
    let (world, mandate) = opened("roll-resizes", "10").await?;
    let operator = world.keys.operator.address();
    let funds = world.escrow.balance_of(operator).await?;
    let (small, money) = replaced(replace(&world, "resize", mandate.id, &["--cap", "4"])?)?;
    assert_eq!(money, amounts("4.00", "0.00", "6.00"));
    assert_eq!(world.escrow.balance_of(operator).await?.checked_sub(funds), Some(usdc("6")?));
    let (large, money) = replaced(replace(&world, "resize", small, &["--cap", "10"])?)?;
    assert_eq!(money, amounts("4.00", "6.00", "0.00"));
    assert_eq!(world.escrow.balance_of(operator).await?, funds);

    carried(&world, small, "4").await?;
    world.returned(&world.operator()?, mandate.id, usdc("6")?).await?;
    balance(&world, &world.operator()?, &[mandate.id, small, large]).await
}

/// What the operator has seen is what is pulled, or nothing changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_comes_first_makes_it_fail_and_change_nothing() -> Result<()> {
    let (world, mandate) = opened("roll-outrun", "10").await?;
    let agent = world.agent()?;
    let to = Terms { start: world.time().await?, expiry: mandate.terms.expiry + 60, ..mandate.terms.clone() };
    let paid = world.pay(&agent, &Pay::new(mandate.id, payee(3), usdc("4")?)).await??.object;
    world.settled(&agent, &paid).await?;

    world.escrow.allow(&world.keys.operator, usdc("10")?).await?;
    let outrun = world.escrow.roll(&world.keys.operator, &mandate.terms, &to, usdc("0")?).await;
    let Err(ChainError::Reverted(why)) = outrun else { panic!("it did not fail: {outrun:?}") };
    assert!(why.contains("4.00 USDC would be pulled") && why.contains("try again"), "{why}");
    let next = world.escrow.domain().mandate_id(&to)?;
    assert!(!world.escrow.mandate_of(mandate.id).await?.ended && !world.escrow.mandate_of(next).await?.known);
    let again = world.pay(&agent, &Pay::new(mandate.id, payee(3), usdc("1")?)).await??.object;
    world.settled(&agent, &again).await?;
    balance(&world, &agent, &[mandate.id]).await
}

/// Before a mandate starts, its terms would be those again that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_goes_back_and_forth_before_the_start() -> Result<()> {
    let world = World::start("roll-back-and-forth").await?;
    let (agent, operator) = (world.agent()?, &world.keys.operator);
    let request = agent.request_mandate(&asking("10")?).await?.object;
    let start = world.time().await? + 3_600;
    let terms = request.terms(operator.address(), world.keys.guardian.address(), start);
    world.escrow.allow(operator, terms.cap).await?;
    world.escrow.open(operator, &terms).await?;
    let first = world.escrow.domain().mandate_id(&terms)?;
    world.mandate_in(&agent, first, MandateState::Open).await?;

    let (small, _) = replaced(replace(&world, "resize", first, &["--cap", "4"])?)?;
    assert_eq!(agent.mandate(small).await?.terms.start, start);
    let (large, money) = replaced(replace(&world, "resize", small, &["--cap", "10"])?)?;
    assert_eq!(money, amounts("4.00", "6.00", "0.00"));
    assert_eq!(agent.mandate(large).await?.terms, Terms { start: start + 1, ..terms });
    carried(&world, small, "4").await?;
    balance(&world, &agent, &[first, small, large]).await
}

/// What an agent asks for at another relayer is approved with what is left of a mandate here.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_moves_to_another_relayer_with_what_is_left() -> Result<()> {
    let (mut world, mandate) = opened("roll-moves", "10").await?;
    let guardian = key("another guardian")?;
    world.secrets.key("another guardian's key", &guardian);
    world.anvil.set_balance(guardian.address(), 10_u128.pow(18)).await?;
    world.escrow.set_submitter(&guardian, world.keys.submitter.address(), true).await?;
    let agent = world.agent()?;
    let paid = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("4")?)).await??.object;
    world.settled(&agent, &paid).await?;

    // They share a submitter, so one of them runs.
    world.relayer.stop()?;
    let mut other = world.relayer.twin(&world.dir().join("another-ledger.db"))?;
    other.set("--guardian", &guardian.address().to_string())?;
    other.restart().await?;
    world.relayer = other;
    let agent = world.agent()?;
    assert_eq!(code(agent.mandate(mandate.id).await), Code::NotFound);
    let body = NewMandateRequest { payees: Some(vec![payee(2)]), ..asking("8")? };
    let request = agent.request_mandate(&body).await?.object.id.to_string();
    let (old, operator) = (mandate.id.to_string(), &world.keys.operator);
    let funds = world.escrow.balance_of(operator.address()).await?;
    let approve = ["mandate", "approve", &request, "--replace", &old, "--yes"];
    failed(world.stipend(&world.keys.gasless, &approve)?, "only its operator");
    let opened = done(world.stipend(operator, &approve)?);
    assert_eq!((&opened["state"], &opened["available"]), (&"open".into(), &"8.00".into()));
    assert_eq!(funds.checked_sub(world.escrow.balance_of(operator.address()).await?), Some(usdc("2")?));
    assert!(world.escrow.mandate_of(mandate.id).await?.ended);

    let next: MandateId = text(&opened["id"])?.parse()?;
    failed(world.stipend(operator, &approve)?, "is approved already");
    let paid = world.pay(&agent, &Pay::new(next, payee(2), usdc("3")?)).await??.object;
    world.settled(&agent, &paid).await?;
    balance(&world, &agent, &[next]).await
}

/// Whoever was promised something by a hold gets it from where it was promised; a payment that no block has yet is not
/// paid, and its money goes along.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_stays_behind_and_what_is_on_its_way_is_not_paid() -> Result<()> {
    let settings = Settings { cards: Some(CardSettings::default()), troubled: true, ..Settings::default() };
    let world = World::with("roll-under-way", &settings).await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    let mandate = world.open(&asking("100")?).await?;
    let card = active(&world, &agent, mandate.id).await?;
    let charged = charge(&world, &agent, card.id, 1_840).await?;
    // Signed and stored, and no node has it.
    world.proxy()?.fault("eth_sendRawTransaction", Fault::DropRequest);
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("4")?)).await??.object;
    world.payment_in(&agent, &payment, PaymentState::Submitted).await?;

    let (next, money) = replaced(replace(&world, "extend", mandate.id, &["--duration", "60d"])?)?;
    assert_eq!(money, amounts("75.00", "0.00", "0.00"));
    let on_chain = world.escrow.mandate_of(mandate.id).await?;
    assert!(on_chain.ended && on_chain.held == usdc("25")? && on_chain.remaining.is_zero(), "{on_chain:?}");
    world.proxy()?.well().await?;
    carried(&world, mandate.id, "75").await?;
    let payment = world.payment_in(&agent, &payment, PaymentState::Failed).await?;
    assert_eq!(payment.reason, Some(Code::Ended));
    let old = agent.mandate(mandate.id).await?;
    assert_eq!((old.reserved, old.held, old.available), (usdc("0")?, usdc("25")?, usdc("0")?));

    world.issuer()?.clear(&charged, None).await?;
    let closed = world.card_closed(&agent, card.id).await?;
    assert_eq!((closed.mandate, closed.captured, closed.released), (mandate.id, usdc("18.40")?, usdc("6.60")?));
    assert_eq!(world.escrow.balance_of(TREASURY).await?, usdc("18.40")?);
    world.returned(&operator, mandate.id, usdc("6.60")?).await?;
    let new = agent.mandate(next).await?;
    assert_eq!((new.available, new.held, new.paid), (usdc("75")?, usdc("0")?, usdc("0")?));
    let again = world.pay(&agent, &Pay::new(next, payee(1), usdc("4")?)).await??.object;
    world.settled(&agent, &again).await?;
    balance(&world, &agent, &[mandate.id, next]).await
}
