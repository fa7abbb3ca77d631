//! Gas is the host's money.

use eyre::Result;
use stipend_client::Pay;
use stipend_core::{Code, api::PaymentState};
use stipend_e2e::{Settings, World, balance};

use crate::{asking, code, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn a_mandate_that_cost_its_gas_budget_waits_for_tomorrow() -> Result<()> {
    // Less than any transaction costs.
    let more = ["--gas-budget", "0.000000001"].map(String::from).to_vec();
    let world = World::with("gas-budget", &Settings { more, ..Settings::default() }).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("100")?).await?;
    let other = world.open(&asking("100")?).await?;
    let first = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    assert_eq!(world.settled(&agent, &first).await?.state, PaymentState::Settled);

    let denied = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?;
    assert_eq!(code(denied), Code::GasBudgetExceeded);
    let trail = agent.audit(Some(mandate.id), 0, Some(100)).await?.data;
    assert!(trail.iter().any(|entry| entry.kind == "payment.denied" && entry.data["code"] == "gas_budget_exceeded"));
    // Each mandate has a budget of its own.
    let paid = world.pay(&agent, &Pay::new(other.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &paid).await?;

    // A day later, by the chain's time, which is later than the clock's.
    world.anvil.pass(86_400).await?;
    world.followed(&agent).await?;
    let next = world.pay(&agent, &Pay::new(mandate.id, payee(2), usdc("2")?)).await??.object;
    // What is under way counts before it is final.
    let denied = world.pay(&agent, &Pay::new(mandate.id, payee(2), usdc("2")?)).await?;
    assert_eq!(code(denied), Code::GasBudgetExceeded);
    world.settled(&agent, &next).await?;
    balance(&world, &agent, &[mandate.id, other.id]).await
}
