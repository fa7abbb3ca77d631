//! Refunds: back to the budget, or straight to the operator; the ledger knows what became of each.

use eyre::Result;
use stipend_client::{Pay, chain::Refunded};
use stipend_core::{
    Code,
    api::{Mandate, NewMandateRequest},
    policy::MandateState,
};
use stipend_e2e::{World, balance, eventually};

use crate::{asking, code, payee, usdc};

/// A world with an open mandate over 100, of which a payee with ETH has got so much for good.
async fn paid(name: &str, amount: &str, restore: bool) -> Result<(World, Mandate)> {
    let world = World::start(name).await?;
    let agent = world.agent()?;
    let mandate = world.open(&NewMandateRequest { refunds_restore_budget: Some(restore), ..asking("100")? }).await?;
    assert_eq!(mandate.terms.refunds_restore_budget, restore);
    let pay = Pay::new(mandate.id, world.keys.guardian.address(), usdc(amount)?);
    let payment = world.pay(&agent, &pay).await??.object;
    world.settled(&agent, &payment).await?;
    Ok((world, mandate))
}

/// The payee gives so much back.
async fn refund(world: &World, mandate: &Mandate, amount: &str) -> Result<Refunded> {
    let (payer, amount) = (&world.keys.guardian, usdc(amount)?);
    world.escrow.allow(payer, amount).await?;
    Ok(world.escrow.refund(payer, &mandate.terms, amount, Default::default()).await?)
}

/// The mandate, once so much of it was refunded for good; makes the blocks that it takes.
async fn refunded(world: &World, mandate: &Mandate, amount: &str) -> Result<Mandate> {
    let agent = world.agent()?;
    eventually(&format!("{amount} of {} is refunded", mandate.id), async || {
        world.anvil.mine(1).await?;
        let mandate = agent.mandate(mandate.id).await?;
        Ok((mandate.refunded == usdc(amount)?).then_some(mandate))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_can_be_spent_again() -> Result<()> {
    let (world, mandate) = paid("refund-restores", "60", true).await?;
    let agent = world.agent()?;
    let tx = refund(&world, &mandate, "20").await?;
    assert_eq!(tx.restored, usdc("20")?);
    let known = refunded(&world, &mandate, "20").await?;
    assert_eq!((known.available, known.paid, known.restored), (usdc("60")?, usdc("60")?, usdc("20")?));
    balance(&world, &agent, &[mandate.id]).await?;

    let trail = world.operator()?.audit(Some(mandate.id), 0, Some(100)).await?.data;
    let entries: Vec<_> = trail.iter().filter(|entry| entry.kind == "mandate.refunded").collect();
    let [entry] = entries.as_slice() else { panic!("{trail:?}") };
    assert_eq!(entry.tx_hash, Some(tx.tx_hash));
    assert_eq!(entry.data["payer"], world.keys.guardian.address().to_string());
    assert_eq!((&entry.data["amount"], &entry.data["restored"]), (&"20.00".into(), &"20.00".into()));

    let again = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("60")?)).await??.object;
    world.settled(&agent, &again).await?;
    assert_eq!(
        code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("0.01")?)).await?),
        Code::InsufficientBudget
    );

    // The budget never grows beyond the cap; what is more goes to the operator.
    let operator = world.keys.operator.address();
    let before = world.escrow.balance_of(operator).await?;
    let third = refund(&world, &mandate, "40").await?;
    assert_eq!(third.restored, usdc("40")?);
    refunded(&world, &mandate, "60").await?;
    balance(&world, &agent, &[mandate.id]).await?;
    world.escrow.revoke(&world.keys.operator, &mandate.terms).await?;
    world.returned(&agent, mandate.id, usdc("40")?).await?;
    assert_eq!(world.escrow.balance_of(operator).await?.checked_sub(before), Some(usdc("40")?));
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_back_to_the_budget_goes_to_the_operator() -> Result<()> {
    for (restore, ended, expected) in [(false, false, "0"), (true, true, "0"), (true, false, "10")] {
        let (world, mandate) = paid("refund-to-operator", "10", restore).await?;
        let agent = world.agent()?;
        // So that the payee has more to give than it got.
        let other = world.open(&asking("50")?).await?;
        let more = world.pay(&agent, &Pay::new(other.id, world.keys.guardian.address(), usdc("5")?)).await??.object;
        world.settled(&agent, &more).await?;
        if ended {
            world.escrow.revoke(&world.keys.operator, &mandate.terms).await?;
            world.mandate_in(&agent, mandate.id, MandateState::Ended).await?;
            world.returned(&agent, mandate.id, usdc("90")?).await?;
        }
        let operator = world.keys.operator.address();
        let before = world.escrow.balance_of(operator).await?;
        let tx = refund(&world, &mandate, "15").await?;
        assert_eq!(tx.restored, usdc(expected)?);
        let known = refunded(&world, &mandate, "15").await?;
        assert_eq!((known.restored, known.paid), (usdc(expected)?, usdc("10")?));
        let direct = usdc("15")?.checked_sub(usdc(expected)?);
        assert_eq!(world.escrow.balance_of(operator).await?.checked_sub(before), direct);
        balance(&world, &agent, &[mandate.id, other.id]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_a_reorg_takes_away_was_none() -> Result<()> {
    let (world, mandate) = paid("refund-reorg", "60", true).await?;
    let agent = world.agent()?;
    world.escrow.allow(&world.keys.guardian, usdc("20")?).await?;
    world.anvil.mine(1).await?;
    refund(&world, &mandate, "20").await?;
    world.followed(&agent).await?;
    world.anvil.reorg(1).await?;
    world.anvil.mine(4).await?;
    world.followed(&agent).await?;
    let other = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &other).await?;
    let known = agent.mandate(mandate.id).await?;
    assert_eq!((known.refunded, known.restored, known.available), (usdc("0")?, usdc("0")?, usdc("39")?));
    balance(&world, &agent, &[mandate.id]).await?;

    refund(&world, &mandate, "20").await?;
    let known = refunded(&world, &mandate, "20").await?;
    assert_eq!((known.restored, known.available), (usdc("20")?, usdc("59")?));
    balance(&world, &agent, &[mandate.id]).await
}
