//! What belongs to others is not there.

use alloy_primitives::B256;
use eyre::Result;
use serde_json::json;
use stipend_client::{Pay, PaymentFilter};
use stipend_core::{
    Code, MandateId, PaymentId,
    api::{NewMandateRequest, Problem},
};
use stipend_e2e::{World, balance, key, next_entry};

use crate::{asking, code, opened, payee, usdc};

/// What a key is told at a path, without the path's own id.
async fn told(world: &World, path: &str, id: &str, by: &str) -> Result<Problem> {
    let mut problem = world.get(&format!("{path}{id}"), &key(by)?).await?.send().await?.problem()?;
    problem.detail = problem.detail.replace(id, "…");
    Ok(problem)
}

#[tokio::test(flavor = "multi_thread")]
async fn other_agents_objects_look_nonexistent() -> Result<()> {
    let (world, mandate) = opened("tenants", "100").await?;
    let agent = world.agent()?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &payment).await?;

    let nobody_s = MandateId(B256::ZERO);
    for (path, theirs, nothing) in [
        ("/v1/mandates/", mandate.id.to_string(), nobody_s.to_string()),
        ("/v1/payments/", payment.id.to_string(), PaymentId::generate().to_string()),
    ] {
        let foreign = told(&world, path, &theirs, "stranger").await?;
        assert_eq!((foreign.code, foreign.status), (Code::NotFound, 404), "{path}");
        assert_eq!(foreign, told(&world, path, &nothing, "stranger").await?, "{path}");
    }
    for path in ["/v1/payments?mandate=", "/v1/audit?mandate="] {
        let listed = async |id| world.get(&format!("{path}{id}"), &key("stranger")?).await?.send().await?.json();
        let foreign = listed(mandate.id).await?;
        assert_eq!(foreign, json!({"data": []}), "{path}");
        assert_eq!(foreign, listed(nobody_s).await?, "{path}");
    }

    let stranger = world.client(&key("stranger")?)?;
    assert!(stranger.mandates(&Default::default()).await?.data.is_empty());
    assert!(stranger.mandate_requests(&Default::default()).await?.data.is_empty());
    assert!(stranger.payments(&PaymentFilter::default(), &Default::default()).await?.data.is_empty());
    assert!(stranger.audit(None, 0, None).await?.data.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_agent_pays_from_another_mandate() -> Result<()> {
    let (world, mandate) = opened("foreign-payment", "100").await?;
    let (agent, stranger) = (world.agent()?, world.client(&key("stranger")?)?);
    let before = agent.audit(None, 0, Some(100)).await?.data.len();
    let deadline = Some(world.time().await? + 600);
    let pay = Pay { nonce: Some(0), deadline, ..Pay::new(mandate.id, payee(1), usdc("1")?) };
    let unknown = Pay { mandate: MandateId(B256::repeat_byte(9)), ..pay.clone() };
    for foreign in [&pay, &unknown] {
        assert_eq!(code(world.pay(&stranger, foreign).await?), Code::NotFound);
    }
    assert_eq!(agent.mandate(mandate.id).await?.available, usdc("100")?);
    assert_eq!(agent.audit(None, 0, Some(100)).await?.data.len(), before);
    // The nonce is still the agent's.
    assert!(!world.pay(&agent, &pay).await??.replayed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_share_a_relayer_and_see_their_own() -> Result<()> {
    let (world, mandate) = opened("two-agents", "100").await?;
    let (agent, other) = (world.agent()?, world.client(&key("another agent")?)?);
    let theirs = world.open_for(&other, &NewMandateRequest { intent: "theirs".into(), ..asking("7")? }).await?;
    for (client, own, foreign) in [(&agent, &mandate, &theirs), (&other, &theirs, &mandate)] {
        let payment = world.pay(client, &Pay::new(own.id, payee(1), usdc("1")?)).await??.object;
        world.settled(client, &payment).await?;
        let mandates: Vec<_> = client.mandates(&Default::default()).await?.data.iter().map(|m| m.id).collect();
        assert_eq!(mandates, [own.id]);
        let trail = client.audit(None, 0, Some(100)).await?.data;
        assert!(trail.iter().all(|entry| entry.mandate != Some(foreign.id)));
        assert!(trail.iter().any(|entry| entry.payment == Some(payment.id)));
        let mut events = client.events(None, Some(0)).await?;
        for expected in &trail {
            assert_eq!(next_entry(&mut events).await?, *expected);
        }
    }
    // Who funded both sees both.
    let operator = world.operator()?;
    assert_eq!(operator.mandates(&Default::default()).await?.data.len(), 2);
    balance(&world, &operator, &[mandate.id, theirs.id]).await
}
