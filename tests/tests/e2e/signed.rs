//! Who calls is proved by ERC-8128 signatures, each good for one request.

use std::{path::Path, process::Command};

use erc8128::SignOptions;
use eyre::{Result, ensure};
use reqwest::Method;
use serde_json::Value;
use stipend_client::now;
use stipend_core::Code;
use stipend_e2e::{ApiRequest, HttpSigner, World};

const BODY: &str = r#"{"amount":"5","intent":"ads","duration":"7d"}"#;

/// Every call but those that need no signature.
const SIGNED: [&str; 8] = [
    "/v1/mandate-requests",
    "/v1/mandate-requests/req_00000000000000000000000000000000",
    "/v1/mandates",
    "/v1/mandates/mand_0000000000000000000000000000000000000000000000000000000000000000",
    "/v1/payments",
    "/v1/payments/pay_00000000000000000000000000000000",
    "/v1/audit",
    "/v1/events",
];

/// The call is not let through; says why.
async fn refused(call: &ApiRequest) -> Result<String> {
    let answer = call.send().await?;
    let problem = answer.problem()?;
    ensure!(problem.code == Code::Unauthenticated, "{} {}: {problem:?}", call.method, call.url);
    ensure!(answer.header("www-authenticate").is_some(), "{:?}", answer.headers);
    Ok(problem.detail)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_signed_for_here_and_now_and_counts_once() -> Result<()> {
    let world = World::start("signed").await?;
    let (here, url) = (world.signer(&world.keys.agent)?, world.url("/v1/mandate-requests")?);

    for path in SIGNED {
        assert!(refused(&ApiRequest::get(world.url(path)?)).await?.contains("not signed"), "{path}");
    }
    assert!(refused(&ApiRequest::post(url.clone(), BODY)).await?.contains("not signed"));

    let good = ApiRequest::post(url.clone(), BODY).signed(&here).await?;
    assert_eq!(good.send().await?.status, 201);
    assert!(refused(&good).await?.contains("used before"));

    let fresh = async || ApiRequest::post(url.clone(), BODY).signed(&here).await;
    let altered = ApiRequest { body: BODY.replace('5', "6").into(), ..fresh().await? };
    assert!(refused(&altered).await?.contains("content-digest"));
    let altered = ApiRequest { body: Vec::new(), ..fresh().await? };
    refused(&altered).await?;
    let altered = ApiRequest { url: world.url("/v1/mandate-requests?limit=1")?, method: Method::GET, ..fresh().await? };
    refused(&altered).await?;
    let altered =
        ApiRequest { method: Method::GET, body: Vec::new(), ..world.get("/v1/mandates", &world.keys.agent).await? };
    let altered = ApiRequest { url: world.url("/v1/audit")?, ..altered };
    assert!(refused(&altered).await?.contains("not over this request"));
    let query = world.get("/v1/mandates?limit=1", &world.keys.agent).await?;
    refused(&ApiRequest { url: world.url("/v1/mandates?limit=2")?, ..query.clone() }).await?;
    refused(&ApiRequest { url: world.url("/v1/mandates")?, ..query.clone() }).await?;
    refused(&query.clone().with("host", "stipend.example")?).await?;
    assert_eq!(query.send().await?.status, 200);
    let dropped = fresh().await?;
    for header in ["signature", "signature-input", "content-digest"] {
        let mut dropped = dropped.clone();
        dropped.headers.remove(header);
        refused(&dropped).await?;
    }

    let now = now();
    let at = |created: u64, expires: u64| SignOptions {
        created: Some(created),
        expires: Some(expires),
        ..SignOptions::default()
    };
    for (options, why) in [
        (at(now - 120, now - 60), "expired"),
        (at(now + 60, now + 120), "future"),
        (at(now, now + 3_600), "more than 300 s"),
        (SignOptions { replay: erc8128::Replay::Replayable, ..SignOptions::default() }, "no nonce"),
    ] {
        let call = ApiRequest::post(url.clone(), BODY).signed_with(&here, &options).await?;
        assert!(refused(&call).await?.contains(why), "{why}");
    }
    let elsewhere = HttpSigner::new(&world.keys.agent, 1)?;
    assert!(refused(&ApiRequest::post(url.clone(), BODY).signed(&elsewhere).await?).await?.contains("chain 1"));

    // Another's name on one's own signature.
    let own = fresh().await?;
    let input = own.headers.get("signature-input").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let [agent, operator] =
        [&world.keys.agent, &world.keys.operator].map(|key| key.address().to_string().to_lowercase());
    assert!(input.contains(&agent));
    let posing = own.clone().with("signature-input", input.replace(&agent, &operator))?;
    assert!(refused(&posing).await?.contains("not by the key"));

    assert_eq!(world.agent()?.mandate_requests(&Default::default()).await?.data.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_signed_before_a_restart_is_refused_after_it() -> Result<()> {
    let mut world = World::start("signed-restart").await?;
    let call = world.post("/v1/mandate-requests", BODY, &world.keys.agent).await?;
    assert_eq!(call.send().await?.status, 201);
    world.relayer.kill()?;
    world.relayer.restart().await?;
    assert!(refused(&call).await?.contains("before this relayer started"));
    assert_eq!(world.agent()?.mandate_requests(&Default::default()).await?.data.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_requests_are_signed_for_its_address() -> Result<()> {
    let more = ["--public-url", "https://pay.example/relayer"].map(str::to_owned).to_vec();
    let world = World::with("signed-public", &stipend_e2e::Settings { more, ..Default::default() }).await?;
    let public = ApiRequest::get("https://pay.example/relayer/v1/mandates".parse()?);
    let signed = public.signed(&world.signer(&world.keys.agent)?).await?;
    let arriving = ApiRequest { url: world.url("/v1/mandates")?, ..signed };
    assert_eq!(arriving.send().await?.status, 200);
    refused(&world.get("/v1/mandates", &world.keys.agent).await?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_client_of_the_standard_is_understood() -> Result<()> {
    let world = World::start("javascript").await?;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("js");
    ensure!(dir.join("node_modules").is_dir(), "no node_modules: run `npm ci` in {}", dir.display());
    let base = world.relayer.url().as_str().trim_end_matches('/');
    let output = Command::new("node").arg("sign.mjs").arg(base).current_dir(dir).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let results = &answer["results"];

    assert_eq!(results["post"]["status"], 201, "{answer}");
    let id = &results["post"]["body"]["id"];
    assert_eq!(results["get"]["status"], 200);
    assert_eq!(&results["get"]["body"]["id"], id);
    assert_eq!(results["get"]["body"]["agent"], world.keys.agent.address().to_string());
    assert_eq!(results["query"]["status"], 200);
    assert_eq!(&results["query"]["body"]["data"][0]["id"], id);
    assert_eq!(results["first"]["status"], 200);
    assert_eq!(results["again"]["status"], 401);
    assert_eq!(results["again"]["body"]["code"], "unauthenticated");
    Ok(())
}
