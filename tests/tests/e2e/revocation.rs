//! Revocation by message: free for the operator, and nobody's leave is needed. Sweeps and openings
//! that an operator does alone.

use alloy_primitives::Bytes;
use eyre::Result;
use stipend_bindings::Domain;
use stipend_client::{Pay, chain::ChainError};
use stipend_core::{Code, api::NewMandate, policy::MandateState};
use stipend_e2e::{World, balance, eventually, key};

use crate::{asking, code, opened, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_eth_ends_a_mandate_by_one_message() -> Result<()> {
    let world = World::start("revoked-by-message").await?;
    let (agent, operator) = (world.agent()?, world.client(&world.keys.gasless)?);
    let funds = world.escrow.balance_of(operator.address()).await?;
    let request = agent.request_mandate(&asking("10")?).await?.object;
    let terms = request.terms(operator.address(), world.keys.guardian.address(), world.time().await?);
    let authorization = world.escrow.authorize(&world.keys.gasless, &terms, terms.start + 3_600)?;
    world.secrets.signature("the operator's authorization", &authorization.signature);
    let approval = NewMandate { request: request.id, authorization, terms: terms.clone() };
    let id = operator.open_mandate(&approval).await?.object.id;
    world.mandate_in(&agent, id, MandateState::Open).await?;
    let paid = world.pay(&agent, &Pay::new(id, payee(1), usdc("4")?)).await??.object;
    world.settled(&agent, &paid).await?;

    // Nobody else's word ends it, nor the operator's for another chain.
    for (what, signature) in [
        ("the agent", agent.sign_revocation(id).await?),
        ("a stranger", world.client(&key("stranger")?)?.sign_revocation(id).await?),
        ("another chain", {
            let elsewhere = Domain { chain_id: 1, ..world.escrow.domain() }.revoke_digest(id);
            let signature = alloy::signers::SignerSync::sign_hash_sync(&world.keys.gasless, &elsewhere)?;
            Bytes::from(signature.as_bytes())
        }),
    ] {
        assert_eq!(code(agent.revoke_mandate(id, signature).await), Code::NotFound, "{what}");
    }
    assert_eq!(code(operator.revoke_mandate(id, Bytes::from([0; 64])).await), Code::BadSignature);
    assert!(!agent.mandate(id).await?.revoking);

    let signature = operator.sign_revocation(id).await?;
    world.anvil.automine(false).await?;
    // Whoever brings it: it is the operator's word.
    let accepted = agent.revoke_mandate(id, signature.clone()).await?;
    assert!(!accepted.replayed && accepted.object.revoking);
    let again = operator.revoke_mandate(id, signature).await?;
    assert!(again.replayed);
    // From now on nothing new is accepted, whether or not a block has it.
    assert_eq!(code(world.pay(&agent, &Pay::new(id, payee(1), usdc("1")?)).await?), Code::Ended);
    world.anvil.arrived().await?;
    world.anvil.automine(true).await?;
    world.anvil.mine(1).await?;

    let ended = world.mandate_in(&agent, id, MandateState::Ended).await?;
    assert!(ended.ended_tx.is_some() && !ended.revoking);
    world.returned(&agent, id, usdc("6")?).await?;
    assert_eq!(funds.checked_sub(world.escrow.balance_of(operator.address()).await?), Some(usdc("4")?));
    let trail: Vec<_> =
        operator.audit(Some(id), 0, Some(100)).await?.data.into_iter().map(|entry| entry.kind).collect();
    assert_eq!(trail.iter().filter(|kind| *kind == "mandate.revoking").count(), 1, "{trail:?}");
    assert_eq!(trail.iter().filter(|kind| *kind == "mandate.revoked").count(), 1, "{trail:?}");
    balance(&world, &agent, &[id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_survives_a_crash_and_a_reorg() -> Result<()> {
    let (mut world, mandate) = opened("revocation-crash", "10").await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    world.anvil.automine(false).await?;
    operator.revoke_mandate(mandate.id, operator.sign_revocation(mandate.id).await?).await?;
    world.relayer.kill()?;
    world.relayer.restart().await?;
    let sent = world.anvil.arrived().await?;
    world.anvil.mine(1).await?;
    let ended = world.mandate_in(&agent, mandate.id, MandateState::Ended).await?;
    assert_eq!(ended.ended_tx, Some(sent));

    world.anvil.reorg(1).await?;
    world.anvil.mine(1).await?;
    world.anvil.automine(true).await?;
    eventually("it is ended again, for good", async || {
        world.anvil.mine(1).await?;
        Ok((agent.mandate(mandate.id).await?.returned == usdc("10")?).then_some(()))
    })
    .await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_works_without_the_relayer_from_any_account() -> Result<()> {
    let (mut world, mandate) = opened("revoked-by-anyone", "10").await?;
    let (agent, operator) = (world.agent()?, &world.keys.operator);
    let signature = world.escrow.sign_revocation(operator, mandate.id)?;
    let forged = world.escrow.sign_revocation(&world.keys.agent, mandate.id)?;
    world.relayer.stop()?;

    let anyone = &world.keys.agent;
    let refused = world.escrow.revoke_with_signature(anyone, &mandate.terms, forged).await;
    assert!(matches!(refused, Err(ChainError::Reverted(_))), "{refused:?}");
    let terms = world.escrow.terms_of(mandate.id, 0, |_| ()).await?;
    assert_eq!(terms.as_ref(), Some(&mandate.terms));
    let ended = world.escrow.revoke_with_signature(anyone, &mandate.terms, signature.clone()).await?;
    assert_eq!(ended.returned, usdc("10")?);

    // A relayer that is told afterwards knows it.
    world.relayer.restart().await?;
    world.mandate_in(&agent, mandate.id, MandateState::Ended).await?;
    assert!(agent.revoke_mandate(mandate.id, signature).await?.replayed);
    world.returned(&agent, mandate.id, usdc("10")?).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_opens_by_a_permit_and_sweeps_to_another_account() -> Result<()> {
    let mut world = World::start("permit-and-sweep").await?;
    let (agent, operator) = (world.agent()?, world.keys.operator.clone());
    let request = stipend_core::api::NewMandateRequest { duration: "60s".parse()?, ..asking("10")? };
    let request = agent.request_mandate(&request).await?.object;
    let terms = request.terms(operator.address(), world.keys.guardian.address(), world.time().await?);
    world.escrow.open_with_permit(&operator, &terms, terms.start + 3_600).await?;
    let id = world.escrow.domain().mandate_id(&terms)?;
    world.mandate_in(&agent, id, MandateState::Open).await?;
    // Nothing is left of the allowance.
    let again = world.escrow.open(&operator, &stipend_core::Terms { start: terms.start + 1, ..terms.clone() }).await;
    assert!(matches!(again, Err(ChainError::Reverted(_))), "{again:?}");

    // The relayer would sweep it to the operator.
    world.relayer.stop()?;
    let early = world.escrow.sweep_to(&operator, &terms, payee(7), terms.start + 3_600).await;
    assert!(matches!(early, Err(ChainError::Reverted(_))), "{early:?}");
    world.anvil.pass(60).await?;
    let now = world.time().await?;
    let swept = world.escrow.sweep_to(&operator, &terms, payee(7), now + 3_600).await?;
    assert_eq!(swept.returned, usdc("10")?);
    assert_eq!(world.escrow.balance_of(payee(7)).await?, usdc("10")?);
    world.relayer.restart().await?;
    world.returned(&agent, id, usdc("10")?).await?;
    balance(&world, &agent, &[id]).await
}
