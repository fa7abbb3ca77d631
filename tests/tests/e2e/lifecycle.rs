//! The story that the README tells: one approval, many payments, and what is refused.

use alloy_primitives::{Address, B256};
use eyre::Result;
use stipend_bindings::Spend;
use stipend_client::{
    Pay,
    chain::{ChainError, Escrow},
};
use stipend_core::{
    Code, Terms,
    api::{Mandate, NewMandate, NewMandateRequest, PaymentState, RequestState},
    policy::MandateState,
};
use stipend_e2e::{World, balance, eventually, key};

use crate::{asking, code, payee, usdc};

type Mutation = fn(&mut Spend);

const ALLOWED: [Address; 2] = [payee(1), payee(2)];

/// A hundred USDC for two payees, at most 20 each time.
fn narrow() -> Result<NewMandateRequest> {
    Ok(NewMandateRequest { per_payment: Some(usdc("20")?), payees: Some(ALLOWED.to_vec()), ..asking("100.00")? })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_approval_many_payments_and_the_rest_comes_back() -> Result<()> {
    let world = World::start("story").await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    let funds = world.escrow.balance_of(operator.address()).await?;

    // The agent asks, the operator looks and approves by one transaction.
    let request = agent.request_mandate(&narrow()?).await?.object;
    assert_eq!(request.state, RequestState::Pending);
    assert_eq!(operator.mandate_request(request.id).await?, request);
    let id = world.approve(&request).await?;
    let mandate = world.mandate_in(&agent, id, MandateState::Open).await?;
    assert_eq!((mandate.available, mandate.request), (usdc("100")?, Some(request.id)));
    let request = agent.mandate_request(request.id).await?;
    assert_eq!((request.state, request.mandate), (RequestState::Approved, Some(id)));
    assert_eq!(operator.mandate(id).await?.id, id);

    // Three payments with no further question.
    let mut payments = Vec::new();
    for (to, amount) in [(payee(1), "20"), (payee(1), "4.20"), (payee(2), "0.000001")] {
        let accepted = world.pay(&agent, &Pay::new(id, to, usdc(amount)?)).await??;
        assert!(!accepted.replayed);
        payments.push(accepted.object);
    }

    // What lies outside is refused, says why, and reserves nothing.
    let before = agent.mandate(id).await?;
    for (to, amount, expected) in [
        (payee(3), "1", Code::PayeeNotAllowed),
        (payee(1), "20.000001", Code::AbovePerPayment),
        (world.escrow.token(), "1", Code::BadPayee),
        (payee(1), "0", Code::AmountZero),
    ] {
        let refused = world.pay(&agent, &Pay::new(id, to, usdc(amount)?)).await?;
        let problem = refused.as_ref().err().and_then(|error| error.problem()).cloned().unwrap();
        let decision = problem.decision.unwrap();
        assert_eq!((problem.code, problem.status), (expected, 403));
        assert!(!decision.allow);
        assert_eq!(decision.refusal().unwrap().1, expected);
    }
    let after = agent.mandate(id).await?;
    assert_eq!((after.available, after.reserved), (before.available, before.reserved));
    for amount in ["20", "20", "20", "15"] {
        payments.push(world.pay(&agent, &Pay::new(id, payee(2), usdc(amount)?)).await??.object);
    }
    let left = agent.mandate(id).await?.available;
    assert_eq!(left, usdc("0.799999")?);
    assert_eq!(code(world.pay(&agent, &Pay::new(id, payee(2), usdc("0.80")?)).await?), Code::InsufficientBudget);

    // The same payment twice is paid once.
    let again = Pay {
        nonce: Some(payments[0].nonce),
        deadline: Some(payments[0].deadline),
        ..Pay::new(id, payee(1), usdc("20")?)
    };
    let again = world.pay(&agent, &again).await??;
    assert!(again.replayed);
    assert_eq!(again.object.id, payments[0].id);

    for payment in &payments {
        let settled = world.settled(&agent, payment).await?;
        assert!(settled.tx_hash.is_some() && settled.block_number.is_some());
    }
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("24.20")?);
    assert_eq!(world.escrow.balance_of(payee(2)).await?, usdc("75.000001")?);
    balance(&world, &agent, &[id]).await?;

    // The operator revokes and has the rest back.
    let revoked = world.escrow.revoke(&world.keys.operator, &mandate.terms).await?;
    assert_eq!(revoked.returned, left);
    let ended = world.mandate_in(&agent, id, MandateState::Ended).await?;
    assert_eq!(ended.ended_tx, Some(revoked.tx_hash));
    assert_eq!(code(world.pay(&agent, &Pay::new(id, payee(1), usdc("0.1")?)).await?), Code::Ended);
    world.returned(&agent, id, left).await?;
    balance(&world, &agent, &[id]).await?;
    assert_eq!(funds.checked_sub(world.escrow.balance_of(operator.address()).await?), Some(usdc("99.200001")?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_eth_approves_by_one_message() -> Result<()> {
    let world = World::start("gasless").await?;
    let (agent, operator) = (world.agent()?, world.client(&world.keys.gasless)?);
    let request = agent.request_mandate(&asking("5")?).await?.object;
    let terms = request.terms(operator.address(), world.keys.guardian.address(), world.time().await?);
    let approval = NewMandate {
        request: request.id,
        authorization: world.escrow.authorize(&world.keys.gasless, &terms, terms.start + 3_600)?,
        terms: terms.clone(),
    };
    world.secrets.signature("the operator's authorization", &approval.authorization.signature);

    // Terms other than those that were asked for open nothing, nor do terms other than those that were signed.
    let greedy = Terms { cap: usdc("6")?, ..terms.clone() };
    let authorization = world.escrow.authorize(&world.keys.gasless, &greedy, terms.start + 3_600)?;
    let greedy = NewMandate { terms: greedy, authorization, ..approval.clone() };
    assert_eq!(code(operator.open_mandate(&greedy).await), Code::InvalidTerms);
    let later = Terms { start: terms.start + 1, ..terms.clone() };
    let authorization = world.escrow.authorize(&world.keys.gasless, &later, terms.start + 3_600)?;
    let unsigned = NewMandate { authorization, ..approval.clone() };
    assert_eq!(code(operator.open_mandate(&unsigned).await), Code::BadSignature);

    // Neither does the signature of somebody who has no money.
    let poor = key("poor operator")?;
    let poor_terms = Terms { operator: poor.address(), ..terms.clone() };
    let authorization = world.escrow.authorize(&poor, &poor_terms, terms.start + 3_600)?;
    let poor_approval = NewMandate { request: request.id, terms: poor_terms, authorization };
    assert_eq!(code(world.client(&poor)?.open_mandate(&poor_approval).await), Code::OpenWouldFail);

    let id = operator.open_mandate(&approval).await?.object.id;
    assert_eq!(id, world.escrow.domain().mandate_id(&terms)?);
    let again = operator.open_mandate(&approval).await?;
    assert!(again.replayed);
    world.mandate_in(&agent, id, MandateState::Open).await?;
    let payment = world.pay(&agent, &Pay::new(id, payee(1), usdc("5")?)).await??.object;
    world.settled(&agent, &payment).await?;
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("5")?);
    balance(&world, &operator, &[id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_when_the_time_is_over_goes_back_by_itself() -> Result<()> {
    let world = World::start("expiry").await?;
    let agent = world.agent()?;
    let mandate = world.open(&NewMandateRequest { duration: "2h".parse()?, ..asking("10")? }).await?;
    let funds = world.escrow.balance_of(world.keys.operator.address()).await?;
    let pay = Pay::new(mandate.id, payee(1), usdc("3")?);
    let payment = world.pay(&agent, &pay).await??.object;
    world.settled(&agent, &payment).await?;

    // No block takes the sweep before the payment comes.
    world.anvil.automine(false).await?;
    world.anvil.pass(7_200).await?;
    world.followed(&agent).await?;
    let late = Pay { deadline: Some(mandate.terms.expiry), ..pay.clone() };
    assert_eq!(code(world.pay(&agent, &late).await?), Code::Expired);
    world.returned(&agent, mandate.id, usdc("7")?).await?;
    assert_eq!(world.escrow.balance_of(world.keys.operator.address()).await?.checked_sub(funds), Some(usdc("7")?));
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn unpayable_amounts_return_to_the_budget() -> Result<()> {
    let world = World::start("too-late").await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("10")?).await?;
    world.anvil.automine(false).await?;
    let pay = Pay::new(mandate.id, payee(1), usdc("4")?);
    let late = Pay { deadline: Some(world.time().await? + 180), ..pay.clone() };
    let late = world.pay(&agent, &late).await??.object;
    world.payment_in(&agent, &late, PaymentState::Submitted).await?;
    let during = agent.mandate(mandate.id).await?;
    assert_eq!((during.available, during.reserved), (usdc("6")?, usdc("4")?));

    // No block comes in time.
    world.anvil.pass(200).await?;
    let failed = eventually("it has failed", async || {
        world.anvil.mine(1).await?;
        Ok(Some(agent.payment(late.id, None).await?).filter(|payment| payment.state == PaymentState::Failed))
    })
    .await?;
    assert_eq!(failed.reason, Some(Code::DeadlinePassed));
    let after = agent.mandate(mandate.id).await?;
    assert_eq!((after.available, after.reserved), (usdc("10")?, usdc("0")?));

    let in_time = world.pay(&agent, &pay).await??.object;
    world.settled(&agent, &in_time).await?;
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("4")?);
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_key_alone_moves_nothing() -> Result<()> {
    let world = World::start("agent-alone").await?;
    let agent = world.agent()?;
    let mandate = world.open(&narrow()?).await?;
    let (terms, spend, signature) = signed(&world, &mandate).await?;
    let straight = world.escrow.spend(&world.keys.agent, &terms, &spend, &signature, Some(&ALLOWED)).await;
    assert!(matches!(straight, Err(ChainError::Refused(Code::NotSubmitter))), "{straight:?}");
    assert!(world.escrow.balance_of(payee(1)).await?.is_zero());
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_key_alone_cannot_alter_what_was_signed() -> Result<()> {
    let world = World::start("submitter-alone").await?;
    let agent = world.agent()?;
    let mandate = world.open(&narrow()?).await?;
    let other = world.open(&narrow()?).await?;
    let (terms, spend, signature) = signed(&world, &mandate).await?;
    let mutations: [(&str, Mutation); 7] = [
        ("payee", |spend| spend.payee = payee(2)),
        ("a larger amount", |spend| spend.amount += 1),
        ("a smaller amount", |spend| spend.amount -= 1),
        ("nonce", |spend| spend.nonce += 1),
        ("a later deadline", |spend| spend.deadline += alloy_primitives::aliases::U40::from(1)),
        ("an earlier deadline", |spend| spend.deadline -= alloy_primitives::aliases::U40::from(1)),
        ("ref", |spend| spend.reference = B256::repeat_byte(1)),
    ];
    for (what, mutate) in mutations {
        let mut mutated = spend.clone();
        mutate(&mut mutated);
        assert_refused(&world.escrow, &world, &terms, &mutated, &signature, what).await;
    }
    // The same message for another mandate of the same people.
    assert_refused(&world.escrow, &world, &other.terms, &spend, &signature, "mandate").await;
    assert!(world.escrow.balance_of(payee(1)).await?.is_zero() && world.escrow.balance_of(payee(2)).await?.is_zero());
    balance(&world, &agent, &[mandate.id, other.id]).await?;

    // And all of it was refused for the mutation alone.
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    assert_eq!(world.settled(&agent, &payment).await?.state, PaymentState::Settled);
    Ok(())
}

async fn assert_refused(escrow: &Escrow, world: &World, terms: &Terms, spend: &Spend, signature: &[u8], what: &str) {
    let sent = escrow.spend(&world.keys.submitter, terms, spend, signature, Some(&ALLOWED)).await;
    assert!(matches!(sent, Err(ChainError::Refused(Code::BadSignature))), "{what}: {sent:?}");
}

/// A payment that the agent signed and nobody sent.
async fn signed(world: &World, mandate: &Mandate) -> Result<(Terms, Spend, Vec<u8>)> {
    let pay = Pay::new(mandate.id, payee(1), usdc("1")?);
    let payment = world.sign(&world.agent()?, &pay).await?;
    let spend =
        Spend::new(payment.mandate, payment.payee, payment.amount, payment.nonce, payment.deadline, payment.reference)?;
    Ok((mandate.terms.clone(), spend, payment.signature.to_vec()))
}
