//! Payments that must not pass, and payments that come more than once.

use std::{collections::BTreeSet, sync::Arc};

use alloy::signers::{SignerSync, local::PrivateKeySigner};
use alloy_primitives::{Address, B256, Bytes, U256, uint};
use eyre::{OptionExt, Result};
use futures_util::future::try_join_all;
use stipend_bindings::{Domain, Spend, recover};
use stipend_client::{Pay, PaymentFilter};
use stipend_core::{
    Code,
    api::{NewPayment, NewPayments, Payment, PaymentResult, PaymentResults, PaymentState, Receipt},
};
use stipend_e2e::{ApiRequest, World, balance, eventually, key};

use crate::{asking, code, opened, payee, usdc};

/// Half of the curve's order is the largest s.
const ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

/// What an agent signs of it.
fn digest_of(payment: &NewPayment, domain: Domain) -> Result<B256> {
    let NewPayment { mandate, payee, amount, nonce, deadline, reference, .. } = *payment;
    Ok(domain.spend_digest(&Spend::new(mandate, payee, amount, nonce, deadline, reference)?))
}

/// The payment signed by this key, for this domain.
fn resigned(payment: &NewPayment, key: &PrivateKeySigner, domain: Domain) -> Result<NewPayment> {
    let signature = Bytes::copy_from_slice(&key.sign_hash_sync(&digest_of(payment, domain)?)?.as_bytes());
    Ok(NewPayment { signature, ..payment.clone() })
}

/// The payment with its signature's bytes changed.
fn bent(payment: &NewPayment, bend: impl FnOnce(&mut Vec<u8>)) -> NewPayment {
    let mut signature = payment.signature.to_vec();
    bend(&mut signature);
    NewPayment { signature: signature.into(), ..payment.clone() }
}

/// The other s that verifies, with the other v.
fn high_s(signature: &mut [u8]) {
    let s = U256::from_be_slice(&signature[32..64]);
    signature[32..64].copy_from_slice(&(ORDER - s).to_be_bytes::<32>());
    signature[64] = 27 + 28 - signature[64];
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_repeated_uses_no_nonces() -> Result<()> {
    let (world, mandate) = opened("repeated-key", "100").await?;
    let agent = world.agent()?;
    let keyed = Pay { idempotency_key: Some("invoice 17".into()), ..Pay::new(mandate.id, payee(1), usdc("1")?) };
    let first = agent.pay(keyed.clone()).await?.object;
    // More often than there are nonces in a row that can be skipped.
    for _ in 0..100 {
        let repeated = agent.pay(keyed.clone()).await?;
        assert_eq!((repeated.object.id, repeated.replayed), (first.id, true));
    }
    let second = agent.pay(Pay::new(mandate.id, payee(1), usdc("1")?)).await?.object;
    assert_eq!((first.nonce, second.nonce), (0, 1));
    world.settled(&agent, &second).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_a_payment_gets_a_receipt_that_the_chain_vouches_for() -> Result<()> {
    let (world, mandate) = opened("receipts", "100").await?;
    let agent = world.agent()?;
    let payment = world.sign(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?;
    let domain = world.escrow.domain();
    let send = async |query: &str| -> Result<Payment> {
        // The payee has the signed payment, and no key.
        let body = serde_json::to_vec(&payment)?;
        let answer = ApiRequest::post(world.url(&format!("/v1/payments{query}"))?, body).send().await?;
        Ok(serde_json::from_value(answer.json()?)?)
    };
    let check = |receipt: &Receipt| -> Result<Address> {
        assert_eq!((receipt.payment, receipt.deadline), (digest_of(&payment, domain)?, payment.deadline));
        Ok(recover(domain.receipt_digest(receipt)?, &receipt.signature)?)
    };

    let accepted = send("?receipt=true").await?.receipt.ok_or_eyre("no receipt")?;
    let signer = check(&accepted)?;
    assert_eq!(accepted.state, PaymentState::Reserved);
    assert_eq!(agent.info().await?.receipt_signer, Some(signer));
    assert!(world.escrow.is_submitter(world.keys.guardian.address(), signer).await?);
    // Another statement is signed by somebody else.
    for altered in [
        Receipt { state: PaymentState::Settled, ..accepted.clone() },
        Receipt { payment: B256::repeat_byte(1), ..accepted.clone() },
        Receipt { deadline: accepted.deadline + 1, ..accepted.clone() },
        Receipt { time: accepted.time + 1, ..accepted.clone() },
    ] {
        assert_ne!(recover(domain.receipt_digest(&altered)?, &altered.signature)?, signer);
    }

    // Sent again, it says how far it is.
    let mined = eventually("the payment is mined", async || {
        let receipt = send("?receipt=true").await?.receipt.ok_or_eyre("no receipt")?;
        Ok((receipt.state == PaymentState::Mined).then_some(receipt))
    });
    assert_eq!(check(&mined.await?)?, signer);
    assert_eq!(send("").await?.receipt, None);
    let refused = ApiRequest::post(world.url("/v1/payments?receipt=yes")?, serde_json::to_vec(&payment)?);
    assert_eq!(refused.send().await?.problem()?.code, Code::InvalidRequest);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_payment_of_a_batch_has_the_answer_that_it_would_have_alone() -> Result<()> {
    let (world, mandate) = opened("batch", "100").await?;
    let agent = world.agent()?;
    let url = world.url("/v1/payments/batch")?;
    let send = async |payments: Vec<NewPayment>| -> Result<Vec<PaymentResult>> {
        let answer = ApiRequest::post(url.clone(), serde_json::to_vec(&NewPayments { payments })?).send().await?;
        assert_eq!(answer.status, 200);
        Ok(serde_json::from_value::<PaymentResults>(answer.json()?)?.results)
    };
    let sign = async |nonce: u32, amount: &str| -> Result<NewPayment> {
        world.sign(&agent, &Pay { nonce: Some(nonce), ..Pay::new(mandate.id, payee(1), usdc(amount)?) }).await
    };
    let known = sign(0, "1").await?;
    let earlier = agent.send_payment(&known, None).await?.object;
    let (first, second) = (sign(1, "2").await?, sign(2, "3").await?);
    let rows = vec![
        known,
        first.clone(),
        bent(&sign(3, "4").await?, |signature| high_s(signature)),
        sign(4, "1000").await?,
        // The same nonce again, and the same payment again.
        sign(1, "5").await?,
        first,
        second,
    ];
    let results = send(rows.clone()).await?;
    assert_eq!(results.iter().map(|result| result.status).collect::<Vec<_>>(), [200, 202, 400, 403, 409, 200, 202]);
    let codes: Vec<_> = results.iter().map(|result| result.problem.as_ref().map(|problem| problem.code)).collect();
    let refused = [Code::BadSignature, Code::InsufficientBudget, Code::NonceTaken].map(Some);
    assert_eq!(codes, [None, None, refused[0], refused[1], refused[2], None, None]);
    let paid = |index: usize| results[index].payment.clone().ok_or_eyre("no payment");
    assert_eq!((paid(0)?.id, paid(5)?.id), (earlier.id, paid(1)?.id));
    assert!(results[3].problem.as_ref().is_some_and(|problem| problem.decision.is_some()));

    // Sent again, it creates nothing.
    let statuses: Vec<_> = send(rows).await?.iter().map(|result| result.status).collect();
    assert_eq!(statuses, [200, 200, 400, 403, 409, 200, 200]);
    for payment in [earlier, paid(1)?, paid(6)?] {
        world.settled(&agent, &payment).await?;
    }
    balance(&world, &agent, &[mandate.id]).await?;

    // What has the wrong form is refused as a whole.
    let (odd, mut unknown) = (sign(5, "1").await?, serde_json::to_value(sign(6, "1").await?)?);
    unknown["more"] = 1.into();
    let wrong = [
        serde_json::json!({ "payments": [] }),
        serde_json::json!({ "payments": vec![odd.clone(); 101] }),
        serde_json::json!({ "payments": [odd, unknown] }),
        serde_json::json!([]),
    ];
    for body in wrong {
        let answer = ApiRequest::post(url.clone(), serde_json::to_vec(&body)?).send().await?;
        assert_eq!(answer.problem()?.code, Code::InvalidRequest, "{body}");
    }
    assert_eq!(agent.payments(&PaymentFilter::default(), &Default::default()).await?.data.len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_signature_is_refused_and_costs_nothing() -> Result<()> {
    let (world, mandate) = opened("signatures", "100").await?;
    let agent = world.agent()?;
    let payment = world.sign(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await?;
    let (here, own) = (world.escrow.domain(), &world.keys.agent);

    // Who signed is recovered from the signature: whatever was not signed so comes from somebody who has no such
    // mandate.
    for (what, wrong) in [
        ("another key", resigned(&payment, &world.keys.operator, here)?),
        ("the submitter's key", resigned(&payment, &world.keys.submitter, here)?),
        ("another chain", resigned(&payment, own, Domain { chain_id: 1, ..here })?),
        ("another escrow", resigned(&payment, own, Domain { escrow: Address::repeat_byte(1), ..here })?),
        ("another amount", NewPayment { amount: usdc("2")?, ..payment.clone() }),
        ("another payee", NewPayment { payee: payee(2), ..payment.clone() }),
        ("another nonce", NewPayment { nonce: payment.nonce + 1, ..payment.clone() }),
        ("another deadline", NewPayment { deadline: payment.deadline + 1, ..payment.clone() }),
        ("another ref", NewPayment { reference: B256::repeat_byte(1), ..payment.clone() }),
        ("the other v", bent(&payment, |bytes| bytes[64] = 27 + 28 - bytes[64])),
    ] {
        assert_eq!(code(agent.send_payment(&wrong, None).await), Code::NotFound, "{what}");
    }
    for (what, wrong) in [
        ("high s", bent(&payment, |bytes| high_s(bytes))),
        ("64 bytes", bent(&payment, |bytes| bytes.truncate(64))),
        ("66 bytes", bent(&payment, |bytes| bytes.push(0))),
        ("no bytes", bent(&payment, Vec::clear)),
        ("zeros", bent(&payment, |bytes| bytes.fill(0))),
        ("v 2 or 3", bent(&payment, |bytes| bytes[64] -= 25)),
        ("v 29 or 30", bent(&payment, |bytes| bytes[64] += 2)),
    ] {
        assert_eq!(code(agent.send_payment(&wrong, None).await), Code::BadSignature, "{what}");
    }
    let untouched = agent.mandate(mandate.id).await?;
    assert_eq!((untouched.available, untouched.next_nonce), (usdc("100")?, mandate.next_nonce));

    let accepted = agent.send_payment(&payment, None).await?;
    assert!(!accepted.replayed);
    world.settled(&agent, &accepted.object).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_neither_over_nor_too_near_nor_too_far() -> Result<()> {
    let world = World::start("deadlines").await?;
    let agent = world.agent()?;
    let brief = stipend_core::api::NewMandateRequest { duration: "2h".parse()?, ..asking("100")? };
    let (long, brief) = (world.open(&asking("100")?).await?, world.open(&brief).await?);
    let now = world.time().await?;
    for (mandate, deadline, expected) in [
        (&long, now - 3_600, Code::DeadlinePassed),
        (&long, 0, Code::DeadlinePassed),
        (&long, now + 60, Code::DeadlineTooSoon),
        (&long, now + 86_400 + 60, Code::DeadlineTooLate),
        (&brief, brief.terms.expiry + 1, Code::DeadlinePastExpiry),
    ] {
        let pay = Pay { deadline: Some(deadline), ..Pay::new(mandate.id, payee(1), usdc("1")?) };
        assert_eq!(code(world.pay(&agent, &pay).await?), expected, "{deadline}, now {now}");
    }
    let pay = Pay { deadline: Some(brief.terms.expiry), ..Pay::new(brief.id, payee(1), usdc("1")?) };
    let payment = world.pay(&agent, &pay).await??.object;
    world.settled(&agent, &payment).await?;
    balance(&world, &agent, &[long.id, brief.id]).await
}

/// The ids that so many commands of one key printed, all at once.
async fn at_once(world: &Arc<World>, count: usize, arguments: &[&str]) -> Result<BTreeSet<String>> {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let commands = (0..count).map(|_| {
        let (world, arguments) = (Arc::clone(world), arguments.clone());
        tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            world.stipend(&world.keys.agent, &arguments)
        })
    });
    let mut ids = BTreeSet::new();
    for said in try_join_all(commands).await? {
        let said = said?.unwrap_or_else(|failed| panic!("{failed:?}"));
        ids.insert(said["id"].as_str().ok_or_eyre("no id")?.to_owned());
    }
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_run_at_once_pay_once_each() -> Result<()> {
    let (world, mandate) = opened("at-once", "100").await?;
    let (world, id, to) = (Arc::new(world), mandate.id.to_string(), payee(1).to_string());
    let pay = ["pay", "--mandate", &id, "--to", &to, "--amount", "1", "--no-wait"];
    assert_eq!(at_once(&world, 24, &pay).await?.len(), 24);
    let one = [&pay[..], &["--idempotency-key", "invoice 7"]].concat();
    assert_eq!(at_once(&world, 8, &one).await?.len(), 1);
    let agent = world.agent()?;
    eventually("all are settled", async || {
        world.anvil.mine(1).await?;
        Ok((agent.mandate(mandate.id).await?.paid == usdc("25")?).then_some(()))
    })
    .await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_belongs_to_one_payment() -> Result<()> {
    let (world, mandate) = opened("nonces", "100").await?;
    let agent = world.agent()?;
    let pay = Pay { nonce: Some(7), ..Pay::new(mandate.id, payee(1), usdc("1")?) };
    let first = world.sign(&agent, &pay).await?;
    let payment = agent.send_payment(&first, None).await?.object;

    // The same bytes are the same payment, whenever they come.
    for _ in 0..2 {
        let again = agent.send_payment(&first, None).await?;
        assert!(again.replayed);
        assert_eq!(again.object.id, payment.id);
        world.settled(&agent, &payment).await?;
    }
    for other in [
        Pay { amount: usdc("2")?, ..pay.clone() },
        Pay { payee: payee(2), ..pay.clone() },
        Pay { deadline: Some(first.deadline + 60), ..pay.clone() },
        Pay { reference: Some(B256::repeat_byte(1)), ..pay.clone() },
    ] {
        assert_eq!(code(world.pay(&agent, &other).await?), Code::NonceTaken, "{other:?}");
    }

    // Out of order is fine within the window; what a higher nonce has retired is not.
    for nonce in [500, u32::MAX] {
        let refused = world.pay(&agent, &Pay { nonce: Some(nonce), ..pay.clone() }).await?;
        assert_eq!(code(refused), Code::NonceTooHigh, "{nonce}");
    }
    for nonce in [9, 8, 97, 185] {
        let payment = world.pay(&agent, &Pay { nonce: Some(nonce), ..pay.clone() }).await??.object;
        world.settled(&agent, &payment).await?;
    }
    assert_eq!(code(world.pay(&agent, &Pay { nonce: Some(96), ..pay.clone() }).await?), Code::NonceRetired);
    let payment = world.pay(&agent, &Pay { nonce: Some(98), ..pay.clone() }).await??.object;
    world.settled(&agent, &payment).await?;
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_times_the_same_payment_at_once_is_one_payment() -> Result<()> {
    let (world, mandate) = opened("fifty", "100").await?;
    let agent = world.agent()?;
    let payment = world.sign(&agent, &Pay::new(mandate.id, payee(1), usdc("2")?)).await?;
    let answers = try_join_all((0..50).map(|_| agent.send_payment(&payment, None))).await?;
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.object.id == answers[0].object.id));
    world.settled(&agent, &answers[0].object).await?;
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("2")?);
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_payments_at_once_never_exceed_the_cap() -> Result<()> {
    let (world, mandate) = opened("race-for-the-cap", "10").await?;
    let agent = world.agent()?;
    let mut payments = Vec::new();
    for nonce in 0..40 {
        let pay = Pay { nonce: Some(nonce), ..Pay::new(mandate.id, payee(1), usdc("1")?) };
        payments.push(world.sign(&agent, &pay).await?);
    }
    let answers =
        futures_util::future::join_all(payments.iter().map(|payment| agent.send_payment(payment, None))).await;
    let (paid, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(paid.len(), 10);
    assert!(refused.into_iter().all(|refusal| code(refusal) == Code::InsufficientBudget));
    for payment in paid {
        world.settled(&agent, &payment?.object).await?;
    }
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("10")?);
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_stands_for_one_payment_of_a_mandate() -> Result<()> {
    let (world, mandate) = opened("idempotency", "100").await?;
    let agent = world.agent()?;
    let keyed = Pay { idempotency_key: Some("task 7".into()), ..Pay::new(mandate.id, payee(1), usdc("1")?) };

    // A host that repeats a tool call signs again, with a new nonce: it would pay twice.
    let first = world.pay(&agent, &keyed).await??;
    let again = world.pay(&agent, &keyed).await??;
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.object.id, again.object.id);
    for other in [Pay { amount: usdc("2")?, ..keyed.clone() }, Pay { payee: payee(2), ..keyed.clone() }] {
        assert_eq!(code(world.pay(&agent, &other).await?), Code::IdempotencyKeyReused);
    }

    // All at once, each signed on its own.
    let mut payments = Vec::new();
    for _ in 0..20 {
        payments.push(world.sign(&agent, &keyed).await?);
    }
    let key = Some("task 8".to_owned());
    let answers = try_join_all(payments.iter().map(|payment| agent.send_payment(payment, key.clone()))).await?;
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.object.id == answers[0].object.id));

    // A key that comes with bytes that are known stands for their payment from then on.
    let plain = world.sign(&agent, &Pay::new(mandate.id, payee(3), usdc("1")?)).await?;
    let known = agent.send_payment(&plain, None).await?;
    let late = Some("task 9".to_owned());
    assert!(agent.send_payment(&plain, late.clone()).await?.replayed);
    let again = world.sign(&agent, &Pay::new(mandate.id, payee(3), usdc("1")?)).await?;
    let again = agent.send_payment(&again, late).await?;
    assert!(again.replayed);
    assert_eq!(again.object.id, known.object.id);
    let taken = Some("task 7".to_owned());
    assert_eq!(code(agent.send_payment(&plain, taken).await), Code::IdempotencyKeyReused);

    // Another mandate's keys are its own.
    let other = world.open(&asking("5")?).await?;
    let elsewhere = world.pay(&agent, &Pay { mandate: other.id, ..keyed.clone() }).await??;
    assert!(!elsewhere.replayed);

    for payment in [&first.object, &answers[0].object, &known.object, &elsewhere.object] {
        world.settled(&agent, payment).await?;
    }
    assert_eq!(world.escrow.balance_of(payee(1)).await?, usdc("3")?);
    balance(&world, &agent, &[mandate.id, other.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mandate_request_with_the_same_key_is_the_same_request() -> Result<()> {
    let world = World::start("idempotent-requests").await?;
    let (here, key) = (world.signer(&world.keys.agent)?, "r-1");
    let body = |amount: &str| format!(r#"{{"amount":"{amount}","intent":"ads","duration":"7d"}}"#);
    let ask = async |amount: &str, key: &str| {
        let call = ApiRequest::post(world.url("/v1/mandate-requests")?, body(amount)).with("idempotency-key", key)?;
        call.signed(&here).await?.send().await
    };
    let first = ask("5", key).await?;
    assert_eq!((first.status, first.header("idempotent-replayed")), (201, None));
    let again = ask("5", key).await?;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(first.json()?, again.json()?);
    assert_eq!(ask("6", key).await?.problem()?.code, Code::IdempotencyKeyReused);
    assert_eq!(ask("6", "r-2").await?.status, 201);
    let long = "k".repeat(256);
    for malformed in ["", &long, "a\tb"] {
        assert_eq!(ask("7", malformed).await?.problem()?.code, Code::InvalidRequest, "{malformed:?}");
    }
    assert_eq!(world.agent()?.mandate_requests(&Default::default()).await?.data.len(), 2);

    // Somebody else's keys are their own.
    let other = ApiRequest::post(world.url("/v1/mandate-requests")?, body("5")).with("idempotency-key", key)?;
    let other = other.signed(&world.signer(&stipend_e2e::key("another agent")?)?).await?.send().await?;
    assert_eq!(other.status, 201);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_newest_first_and_can_be_narrowed() -> Result<()> {
    let (world, mandate) = opened("lists", "100").await?;
    let agent = world.agent()?;
    let other = world.open(&asking("5")?).await?;
    let reference = B256::repeat_byte(7);
    let mut ids = Vec::new();
    for nonce in 0..5_u32 {
        let reference = (nonce == 2).then_some(reference);
        let pay = Pay { reference, ..Pay::new(mandate.id, payee(1), usdc("1")?) };
        ids.push(world.pay(&agent, &pay).await??.object);
    }
    let elsewhere = world.pay(&agent, &Pay::new(other.id, payee(1), usdc("1")?)).await??.object;
    for payment in ids.iter().chain([&elsewhere]) {
        world.settled(&agent, payment).await?;
    }
    let list = async |filter: PaymentFilter| -> Result<Vec<_>> {
        let mut page = stipend_client::PageQuery { cursor: None, limit: Some(2) };
        let mut found = Vec::new();
        loop {
            let next = agent.payments(&filter, &page).await?;
            assert!(next.data.len() <= 2);
            found.extend(next.data.into_iter().map(|payment| payment.id));
            page.cursor = next.next_cursor;
            if page.cursor.is_none() {
                return Ok(found);
            }
        }
    };
    let newest_first: Vec<_> = ids.iter().rev().map(|payment| payment.id).collect();
    assert_eq!(list(PaymentFilter { mandate: Some(mandate.id), ..Default::default() }).await?, newest_first);
    assert_eq!(list(PaymentFilter::default()).await?.len(), 6);
    assert_eq!(list(PaymentFilter { reference: Some(reference), ..Default::default() }).await?, [ids[2].id]);
    assert_eq!(list(PaymentFilter { state: Some(PaymentState::Settled), ..Default::default() }).await?.len(), 6);
    assert!(list(PaymentFilter { state: Some(PaymentState::Failed), ..Default::default() }).await?.is_empty());
    let operator = world.operator()?;
    assert_eq!(operator.payments(&PaymentFilter::default(), &Default::default()).await?.data.len(), 6);
    let stranger = world.client(&key("stranger")?)?;
    assert!(stranger.payments(&PaymentFilter::default(), &Default::default()).await?.data.is_empty());

    // The end of the trail is the same from either side, for whoever may see it.
    let (mut trail, mut after) = (Vec::new(), Some(0));
    while let Some(from) = after {
        let page = agent.audit(Some(mandate.id), from, Some(7)).await?;
        trail.extend(page.data);
        after = page.next_cursor.map(|cursor| cursor.parse()).transpose()?;
    }
    assert_eq!(agent.latest_audit(Some(mandate.id), 3).await?, trail.split_off(trail.len() - 3));
    assert!(agent.latest_audit(None, 100).await?.len() > trail.len());
    assert!(!operator.latest_audit(Some(mandate.id), 100).await?.is_empty());
    assert!(stranger.latest_audit(None, 100).await?.is_empty());
    let both = world.get("/v1/audit?latest=true&after=3", &world.keys.agent).await?.send().await?;
    assert_eq!(both.status, 400);
    Ok(())
}
