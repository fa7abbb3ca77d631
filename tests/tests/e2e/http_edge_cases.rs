//! What every answer has, whatever was asked.

use eyre::{Result, WrapErr};
use futures_util::future::try_join_all;
use reqwest::Method;
use stipend_client::Pay;
use stipend_core::{
    Code,
    api::{Health, Info, PaymentState},
};
use stipend_e2e::{ApiRequest, Settings, World};

use crate::{opened, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn health_and_info_need_no_signature() -> Result<()> {
    let world = World::start("health").await?;
    for path in ["/healthz", "/readyz"] {
        let answer = ApiRequest::get(world.url(path)?).send().await?;
        assert_eq!(answer.status, 200);
        assert_eq!(serde_json::from_value::<Health>(answer.json()?)?, Health { ready: true, alarms: Vec::new() });
    }
    let info: Info = serde_json::from_value(ApiRequest::get(world.url("/v1/info")?).send().await?.json()?)?;
    assert_eq!((info.chain_id, info.escrow, info.token), (31_337, world.escrow.domain().escrow, world.escrow.token()));
    assert_eq!(info.guardian, world.keys.guardian.address());
    assert_eq!(info.confirmations, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_request_id_and_every_failure_is_a_problem() -> Result<()> {
    let world = World::start("answers").await?;
    let info = ApiRequest::get(world.url("/v1/info")?);
    let [one, other] =
        [info.send().await?, info.send().await?].map(|answer| answer.header("x-request-id").map(str::to_owned));
    assert!(one.is_some() && one != other);
    let echoed = info.clone().with("x-request-id", "task-7/42")?.send().await?;
    assert_eq!(echoed.header("x-request-id"), Some("task-7/42"));
    for unfit in ["x".repeat(65), "é".to_owned(), "a\tb".to_owned()] {
        let answer = info.clone().with("x-request-id", &unfit)?.send().await?;
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36), "{unfit}");
    }
    let missing = ApiRequest::get(world.url("/v1/nothing")?).with("x-request-id", "mine")?.send().await?;
    assert_eq!((missing.problem()?.code, missing.header("x-request-id")), (Code::NotFound, Some("mine")));

    for (method, path, allowed) in [
        (Method::DELETE, "/v1/mandates", "GET"),
        (Method::PUT, "/v1/payments", "POST"),
        (Method::POST, "/v1/info", "GET"),
        (Method::PATCH, "/healthz", "GET"),
        (Method::OPTIONS, "/v1/audit", "GET"),
    ] {
        let answer = ApiRequest { method: method.clone(), ..ApiRequest::get(world.url(path)?) }.send().await?;
        let problem = answer.problem().wrap_err_with(|| format!("{method} {path}"))?;
        assert_eq!(problem.code, Code::MethodNotAllowed, "{method} {path}");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains(allowed)), "{path}: {:?}", answer.headers);
    }
    assert_eq!(ApiRequest::get(world.url("/v1/info?x=1")?).send().await?.problem()?.code, Code::InvalidRequest);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_told_when_to_come_back() -> Result<()> {
    let more = ["--rate-peer", "5"].map(str::to_owned).to_vec();
    let world = World::with("flood", &Settings { more, ..Settings::default() }).await?;
    let info = ApiRequest::get(world.url("/v1/info")?);
    // One client: while two hundred are made, the connections of the first would be given up.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
    let answers = try_join_all((0..200).map(|_| info.send_by(&client))).await?;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    // A burst is two seconds' worth; what else passes is what the time that it took allows.
    assert!((100..=190).contains(&refused.len()), "{}", refused.len());
    for answer in refused {
        let problem = answer.problem()?;
        assert_eq!(problem.code, Code::RateLimited);
        assert!(problem.retry_after.is_some());
    }
    // Who watches over the relayer is answered all the same.
    assert_eq!(ApiRequest::get(world.url("/healthz")?).send().await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_key_leaves_other_keys_alone() -> Result<()> {
    let more = ["--rate-agent", "1"].map(str::to_owned).to_vec();
    let world = World::with("flood-of-a-key", &Settings { more, ..Settings::default() }).await?;
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(world.get("/v1/mandates", &world.keys.agent).await?);
    }
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
    let answers = try_join_all(calls.iter().map(|call| call.send_by(&client))).await?;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!((40..100).contains(&refused.len()), "{}", refused.len());
    for answer in refused {
        assert_eq!(answer.problem()?.code, Code::RateLimited);
    }
    // A claim to be that key costs it nothing, and another key is not held back.
    assert_eq!(world.get("/v1/mandates", &world.keys.operator).await?.send().await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_can_be_waited_for() -> Result<()> {
    let (world, mandate) = opened("wait", "10").await?;
    let agent = world.agent()?;
    world.anvil.automine(false).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    let wait = agent.payment(payment.id, Some(stipend_client::Wait::Mined));
    let mine = async {
        world.anvil.arrived().await?;
        world.anvil.mine(1).await
    };
    let (waited, mined) = tokio::join!(wait, mine);
    mined?;
    assert_eq!(waited?.state, PaymentState::Mined);
    let answer = world.get(&format!("/v1/payments/{}?wait=reserved", payment.id), &world.keys.agent).await?;
    assert_eq!(answer.send().await?.problem()?.code, Code::InvalidRequest);
    Ok(())
}
