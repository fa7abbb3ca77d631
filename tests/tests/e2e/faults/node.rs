//! A node in trouble: payments wait, none is lost, none is paid twice, and none is reported failed.

use eyre::Result;
use stipend_client::Pay;
use stipend_core::api::PaymentState;
use stipend_e2e::{Fault, Settings, World, balance};

use crate::{asking, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_no_payment_lost() -> Result<()> {
    let world = World::with("lost-answer", &Settings { troubled: true, ..Settings::default() }).await?;
    let (mandate, agent) = (world.open(&asking("10")?).await?, world.agent()?);
    let proxy = world.proxy()?;
    proxy.fault("eth_sendRawTransaction", Fault::DropAnswer);
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("3")?)).await??.object;
    let settled = world.settled(&agent, &payment).await?;
    assert_eq!(settled.state, PaymentState::Settled);
    assert!(proxy.count("eth_sendRawTransaction").faulted > 0);
    balance(&world, &agent, &[mandate.id]).await
}
