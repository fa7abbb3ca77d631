//! What would become of a payment, before anybody signs it.

use eyre::Result;
use stipend_client::Pay;
use stipend_core::{
    Code,
    api::{Explain, NewMandateRequest},
};
use stipend_e2e::{World, balance};

use crate::{asking, code, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_reserves_nothing_and_says_what_a_payment_meets() -> Result<()> {
    let world = World::start("explain").await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    let body = NewMandateRequest {
        per_payment: Some(usdc("20")?),
        window: Some("1h".parse()?),
        window_cap: Some(usdc("30")?),
        ..asking("100")?
    };
    let mandate = world.open(&body).await?;
    let asked =
        Explain { mandate: mandate.id, payee: Some(payee(1)), amount: usdc("15")?, nonce: None, deadline: None };
    let passes = agent.explain(&asked).await?;
    assert!(passes.decision.allow && passes.expected.settles_within.is_none(), "{passes:?}");
    assert_eq!(passes.headroom, usdc("20")?);

    let above = agent.explain(&Explain { amount: usdc("25")?, ..asked.clone() }).await?;
    assert_eq!(above.decision.refusal().map(|(_, code)| code), Some(Code::AbovePerPayment));
    assert_eq!((above.headroom, above.passes_at), (usdc("20")?, None));
    // The whole list, and no entry in the trail; the payment itself says the same.
    assert!(above.decision.rules.len() >= 12, "{above:?}");
    let trail = agent.audit(Some(mandate.id), 0, Some(100)).await?.data;
    assert!(!trail.iter().any(|entry| entry.kind.starts_with("payment.")), "{trail:?}");
    assert_eq!(agent.mandate(mandate.id).await?.available, usdc("100")?);
    let refused = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("25")?)).await?;
    assert_eq!(code(refused), Code::AbovePerPayment);

    // The window is full for an hour: the operator can ask too.
    for _ in 0..2 {
        let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("14")?)).await??.object;
        world.settled(&agent, &payment).await?;
    }
    let later = operator.explain(&asked).await?;
    assert_eq!(later.decision.refusal().map(|(_, code)| code), Some(Code::WindowExceeded));
    assert_eq!(later.headroom, usdc("2")?);
    let now = world.time().await?;
    assert!(later.passes_at.is_some_and(|at| (now + 3_500..=now + 4_300).contains(&at)), "{now} {later:?}");
    assert!(later.expected.gas_wei.is_some() && later.expected.settles_within.is_some(), "{later:?}");

    // For nobody else; and no card where there are none.
    let stranger = world.client(&stipend_e2e::key("stranger")?)?;
    assert_eq!(code(stranger.explain(&asked).await), Code::NotFound);
    assert_eq!(code(agent.explain(&Explain { payee: None, ..asked }).await), Code::CardsNotOffered);
    let (id, to) = (mandate.id.to_string(), payee(1).to_string());
    let explain = ["payment", "explain", "--mandate", &id, "--to", &to, "--amount", "15"];
    let said = world.stipend_command(&world.keys.agent, &explain)?.output()?;
    let text = String::from_utf8(said.stdout)?;
    assert!(said.status.code() == Some(3) && text.contains("At most 2.00 USDC would pass now"), "{text}");
    balance(&world, &agent, &[mandate.id]).await
}
