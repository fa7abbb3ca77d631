//! The chain changes its mind.

use eyre::Result;
use stipend_client::{Events, Pay};
use stipend_core::{PaymentId, api::PaymentState, policy::MandateState};
use stipend_e2e::{Settings, World, balance, next_entry};

use crate::{asking, payee, usdc};

/// Deeper than any reorg here.
fn patient() -> Settings {
    Settings { finality: 8, ..Settings::default() }
}

/// The stream's next event about a payment.
async fn next(events: &mut Events, payment: PaymentId) -> Result<String> {
    loop {
        let entry = next_entry(events).await?;
        if entry.payment == Some(payment) {
            return Ok(entry.kind);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_mined_unmined_mined_again_and_settled_once() -> Result<()> {
    let world = World::with("reorg", &patient()).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("10")?).await?;
    // What opened the mandate stays out of the reorg.
    world.anvil.mine(10).await?;
    world.followed(&agent).await?;
    world.anvil.automine(false).await?;
    let mut events = agent.events(Some(mandate.id), Some(0)).await?;

    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("3")?)).await??.object;
    assert_eq!(next(&mut events, payment.id).await?, "payment.reserved");
    assert_eq!(next(&mut events, payment.id).await?, "payment.submitted");
    world.anvil.arrived().await?;
    world.anvil.mine(2).await?;
    assert_eq!(next(&mut events, payment.id).await?, "payment.mined");
    let mined = world.payment_in(&agent, &payment, PaymentState::Mined).await?;
    assert!(mined.block_number.is_some());
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("3")?);

    world.anvil.reorg(2).await?;
    assert!(world.escrow.balance_of(payee(1)).await?.is_zero());
    assert_eq!(next(&mut events, payment.id).await?, "payment.submitted");
    let unmined = world.payment_in(&agent, &payment, PaymentState::Submitted).await?;
    assert_eq!(unmined.block_number, None);
    let during = agent.mandate(mandate.id).await?;
    assert_eq!((during.available, during.reserved), (usdc("7")?, usdc("3")?));

    // The same transaction is sent again: it is only to be mined.
    world.anvil.arrived().await?;
    world.anvil.mine(1).await?;
    assert_eq!(next(&mut events, payment.id).await?, "payment.mined");
    world.anvil.mine(10).await?;
    assert_eq!(next(&mut events, payment.id).await?, "payment.settled");
    world.settled(&agent, &payment).await?;
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("3")?);
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorged_out_mandate_cannot_be_spent() -> Result<()> {
    let world = World::with("reorg-of-an-opening", &patient()).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("10")?).await?;
    world.anvil.reorg(1).await?;
    world.mandate_in(&agent, mandate.id, MandateState::Opening).await?;
    assert_eq!(
        crate::code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?),
        stipend_core::Code::NotYetOpen
    );

    // The operator sends it again, as a wallet would.
    world.escrow.allow(&world.keys.operator, mandate.terms.cap).await?;
    world.escrow.open(&world.keys.operator, &mandate.terms).await?;
    world.mandate_in(&agent, mandate.id, MandateState::Open).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &payment).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_during_a_reorg_changes_nothing() -> Result<()> {
    let mut world = World::with("reorg-while-down", &patient()).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("10")?).await?;
    world.anvil.mine(10).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("3")?)).await??.object;
    world.payment_in(&agent, &payment, PaymentState::Mined).await?;
    world.relayer.kill()?;
    world.anvil.reorg(2).await?;
    world.anvil.mine(3).await?;
    world.relayer.restart().await?;
    world.settled(&agent, &payment).await?;
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("3")?);
    balance(&world, &agent, &[mandate.id]).await
}
