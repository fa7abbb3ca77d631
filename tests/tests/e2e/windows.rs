//! Rolling windows: what is above them is denied, and what the chain has no room for yet waits.

use eyre::Result;
use stipend_client::Pay;
use stipend_core::{
    Code,
    api::{NewMandateRequest, PaymentState},
    terms::TermsError,
};
use stipend_e2e::{World, balance, eventually};

use crate::{asking, code, payee, usdc};

/// A sixth of the window of [`windowed`], in seconds.
const BUCKET: u64 = 1_000;

/// A hundred USDC, at most twenty of them within any 6,000 seconds.
fn windowed() -> Result<NewMandateRequest> {
    Ok(NewMandateRequest { window: Some("6000s".parse()?), window_cap: Some(usdc("20")?), ..asking("100")? })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_above_the_window_is_denied_and_passes_later() -> Result<()> {
    let world = World::start("windows").await?;
    let agent = world.agent()?;
    let mandate = world.open(&windowed()?).await?;
    assert_eq!((mandate.terms.window, mandate.terms.window_cap), (6_000, usdc("20")?));

    let pay = |amount: &str| -> Result<Pay> { Ok(Pay::new(mandate.id, payee(1), usdc(amount)?)) };
    let first = world.pay(&agent, &pay("15")?).await??.object;
    let denied = world.pay(&agent, &pay("5.000001")?).await?.unwrap_err().problem().cloned().unwrap();
    assert_eq!((denied.code, denied.status), (Code::WindowExceeded, 403));
    let decision = denied.decision.unwrap();
    let (reconcile, _) = decision.refusal().unwrap();
    assert_eq!(reconcile.rule, "window");
    assert!(reconcile.detail.contains("15.00 in the last 6000 seconds, at most 20.00"), "{}", reconcile.detail);
    let second = world.pay(&agent, &pay("5")?).await??.object;
    for payment in [&first, &second] {
        world.settled(&agent, payment).await?;
    }
    assert_eq!(code(world.pay(&agent, &pay("0.000001")?).await?), Code::WindowExceeded);
    // What was denied has reserved nothing, and does not count.
    assert_eq!(agent.mandate(mandate.id).await?.available, usdc("80")?);

    world.anvil.pass(7 * BUCKET).await?;
    world.followed(&agent).await?;
    let third = world.pay(&agent, &pay("20")?).await??.object;
    world.settled(&agent, &third).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_beyond_the_window_waits_and_settles() -> Result<()> {
    let world = World::start("windows-wait").await?;
    let agent = world.agent()?;
    let mandate = world.open(&windowed()?).await?;
    // A bucket has just begun, so that seconds don't matter below.
    let head = world.escrow.chain().head().await?.time;
    world.anvil.pass(BUCKET - head % BUCKET).await?;
    world.followed(&agent).await?;
    let first = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("20")?)).await??.object;
    world.settled(&agent, &first).await?;

    // By the clock the window is over; the contract still counts the bucket, for a sixth longer.
    world.anvil.pass(6 * BUCKET + 100).await?;
    world.followed(&agent).await?;
    let now = world.time().await?;
    let second = Pay { deadline: Some(now + 7_200), ..Pay::new(mandate.id, payee(2), usdc("20")?) };
    // What would have to wait for longer than it lives is denied.
    let soon = Pay { deadline: Some(now + 130), ..second.clone() };
    assert_eq!(code(world.pay(&agent, &soon).await?), Code::WindowExceeded);
    let second = world.pay(&agent, &second).await??.object;
    eventually("the payment says why it waits", async || {
        let payment = agent.payment(second.id, None).await?;
        assert_eq!(payment.state, PaymentState::Reserved);
        world.anvil.mine(1).await?;
        Ok((payment.reason == Some(Code::WindowExceeded)).then_some(()))
    })
    .await?;
    world.anvil.pass(BUCKET).await?;
    let settled = world.settled(&agent, &second).await?;
    assert_eq!(settled.reason, None);
    assert_eq!(world.escrow.balance_of(payee(2)).await?, usdc("20")?);
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_has_a_length_and_a_cap_within_the_mandate() -> Result<()> {
    let world = World::start("windows-asked").await?;
    let agent = world.agent()?;
    for (window, cap) in [
        (Some("1d"), None),
        (None, Some("5")),
        (Some("0s"), Some("5")),
        (Some("4294967296s"), Some("5")),
        (Some("1d"), Some("0")),
        (Some("1d"), Some("100.000001")),
    ] {
        let body = NewMandateRequest {
            window: window.map(str::parse).transpose()?,
            window_cap: cap.map(str::parse).transpose()?,
            ..asking("100")?
        };
        assert_eq!(code(agent.request_mandate(&body).await), Code::InvalidTerms, "{window:?} {cap:?}");
    }
    let request = agent.request_mandate(&windowed()?).await?.object;
    let mut terms = request.terms(world.keys.operator.address(), world.keys.guardian.address(), 1);
    assert_eq!(terms.check(0), Ok(()));
    terms.window_cap = usdc("100.000001")?;
    assert_eq!(terms.check(0), Err(TermsError::WindowCapAboveCap(terms.window_cap, terms.cap)));
    Ok(())
}
