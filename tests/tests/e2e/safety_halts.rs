//! What can't be explained stops the relayer, or keeps it from starting; reads go on.

use eyre::Result;
use stipend_bindings::Spend;
use stipend_client::{CreateCard, Pay};
use stipend_core::{Code, api::PaymentState, card::CardState, policy::MandateState};
use stipend_e2e::{CardSettings, Settings, World, eventually};

use crate::{asking, code, opened, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_start_on_another_deployment() -> Result<()> {
    let mut world = World::start("another-deployment").await?;
    let taken = world.relayer.must_not_start(&[]).await?;
    assert!(taken.contains("ledger.db"), "{taken}");
    world.relayer.kill()?;

    let fresh = world.dir().join("other.db").display().to_string();
    let token = world.escrow.token().to_string();
    let (operator, nobody) = (world.keys.operator.address().to_string(), payee(9).to_string());
    for (otherwise, why) in [
        (&[("--database", fresh.as_str()), ("--chain-id", "1")][..], "chain"),
        (&[("--database", &fresh), ("--escrow", &nobody)], "check the escrow's address"),
        (&[("--database", &fresh), ("--escrow", &token)], "check the escrow's address"),
        (&[("--database", &fresh), ("--guardian", &operator)], "has not allowed the submitter"),
        (&[("--guardian", &operator)], ""),
    ] {
        let said = world.relayer.must_not_start(otherwise).await?;
        assert!(said.contains(why), "{otherwise:?}: {said}");
    }
    world.relayer.restart().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_outside_the_ledger_freezes_and_halts() -> Result<()> {
    let (world, mandate) = opened("past-the-ledger", "100").await?;
    let agent = world.agent()?;
    let other = world.open(&asking("5")?).await?;
    let before = world.pay(&agent, &Pay::new(mandate.id, payee(2), usdc("1")?)).await??.object;
    world.settled(&agent, &before).await?;

    // Whoever has both keys can pay what was signed; nobody told the ledger.
    let payment = world.sign(&agent, &Pay::new(mandate.id, payee(1), usdc("3")?)).await?;
    let spend =
        Spend::new(payment.mandate, payment.payee, payment.amount, payment.nonce, payment.deadline, payment.reference)?;
    world.escrow.spend(&world.keys.submitter, &mandate.terms, &spend, &payment.signature, None).await?;

    world.mandate_in(&agent, mandate.id, MandateState::Frozen).await?;
    // And the submitter's key was used by somebody else: nothing is signed with it any more, for any mandate.
    let health =
        eventually("it stops", async || Ok(Some(agent.readyz().await?).filter(|health| !health.ready))).await?;
    assert!(health.alarms.iter().any(|alarm| alarm.contains(&mandate.id.to_string())), "{health:?}");
    assert!(agent.healthz().await.is_ok());
    for mandate in [&mandate, &other] {
        assert_eq!(code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?), Code::Halted);
    }

    // It pays nobody, and says where the money went.
    let frozen = eventually("it is booked", async || {
        world.anvil.mine(1).await?;
        Ok(Some(agent.mandate(mandate.id).await?).filter(|mandate| mandate.paid.units() == 4_000_000))
    })
    .await?;
    assert_eq!(frozen.available, usdc("96")?, "{frozen:?}");
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("3")?);
    let trail = agent.audit(Some(mandate.id), 0, Some(100)).await?.data;
    assert!(trail.iter().any(|entry| entry.kind == "mandate.frozen"), "{trail:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_past_finality_stops_the_relayer_and_reads_go_on() -> Result<()> {
    let (world, mandate) = opened("past-finality", "100").await?;
    let agent = world.agent()?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &payment).await?;
    world.anvil.mine(10).await?;
    world.followed(&agent).await?;
    world.anvil.reorg(10).await?;
    let stopped = async || Ok(Some(agent.readyz().await?).filter(|health| !health.ready));
    let health = eventually("it stops", stopped).await?;
    assert!(health.alarms[0].contains("finality"), "{health:?}");
    assert_eq!(code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?), Code::Halted);
    assert_eq!(agent.payment(payment.id, None).await?.state, PaymentState::Settled);
    assert_eq!(agent.healthz().await?.alarms, health.alarms);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_relayer_replays_answers_and_accepts_nothing() -> Result<()> {
    let cards = Some(CardSettings::default());
    let mut world = World::with("halted-repeats", &Settings { cards, ..Settings::default() }).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("100")?).await?;
    let key = |key: &str| Some(key.to_owned());
    let pay = Pay::new(mandate.id, payee(1), usdc("1")?);
    let payment = world.sign(&agent, &pay).await?;
    let paid = agent.send_payment(&payment, key("invoice")).await?.object;
    let card = CreateCard::new(mandate.id, usdc("25")?);
    let hold = world.sign_card(&agent, &card).await?;
    let created = agent.send_card(&hold, key("order")).await?.object;
    let paid = world.settled(&agent, &paid).await?;
    let created = world.card_in(&agent, created.id, CardState::Active).await?;

    world.anvil.mine(10).await?;
    world.followed(&agent).await?;
    world.anvil.reorg(10).await?;
    eventually("it stops", async || Ok((!agent.readyz().await?.ready).then_some(()))).await?;
    for started_again in [false, true] {
        if started_again {
            world.relayer.restart_halted().await?;
        }
        let before = (agent.mandate(mandate.id).await?, agent.audit(None, 0, Some(100)).await?.data);

        // The same bytes, and others under the same key, as from somebody who got no answer.
        let again = world.sign(&agent, &pay).await?;
        assert_ne!(again.nonce, payment.nonce);
        for (payment, key) in [(&payment, None), (&payment, key("invoice")), (&again, key("invoice"))] {
            let accepted = agent.send_payment(payment, key).await?;
            assert_eq!((accepted.object.id, accepted.replayed), (paid.id, true));
        }
        let other = world.sign_card(&agent, &card).await?;
        for (hold, key) in [(&hold, None), (&hold, key("order")), (&other, key("order"))] {
            let accepted = agent.send_card(hold, key).await?;
            assert_eq!((accepted.object.id, accepted.replayed), (created.id, true));
        }

        // What is new is refused, and who is nobody's agent learns nothing of what is known.
        assert_eq!(code(agent.send_payment(&again, key("other")).await), Code::Halted);
        assert_eq!(code(agent.send_card(&other, None).await), Code::Halted);
        let stranger = world.client(&world.keys.operator)?;
        let stranger = world.sign(&stranger, &Pay { nonce: Some(payment.nonce), ..pay.clone() }).await?;
        assert_eq!(code(agent.send_payment(&stranger, key("invoice")).await), Code::Halted);
        assert_eq!((agent.mandate(mandate.id).await?, agent.audit(None, 0, Some(100)).await?.data), before);
    }
    Ok(())
}
