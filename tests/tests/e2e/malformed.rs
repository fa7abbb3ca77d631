//! Bodies, amounts, addresses and paths that no client should send: each is refused with a code,
//! changes nothing, and hurts nobody.

use std::{fmt::Write as _, time::Duration};

use eyre::{Result, WrapErr, ensure};
use serde_json::{Value, json};
use stipend_client::{Pay, PaymentFilter};
use stipend_core::{Code, api::Mandate};
use stipend_e2e::{Answer, ApiRequest, World};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{opened, payee, usdc};

/// What is no amount, and is in JSON what it says.
const AMOUNTS: [&str; 33] = [
    r#""1e3""#,
    r#""NaN""#,
    r#""Infinity""#,
    r#""-1""#,
    r#""+1""#,
    r#""""#,
    r#"" 1""#,
    r#""1 ""#,
    r#""1,000""#,
    r#""1_000""#,
    r#""0x10""#,
    r#""٣""#,
    r#""１""#,
    r#""0.0000001""#,
    r#""1.""#,
    r#"".5""#,
    "\"\u{200b}.5\"",
    r#""00.1""#,
    r#""01""#,
    r#""-0""#,
    r#""1\u0000""#,
    r#""1\n""#,
    r#""1.2.3""#,
    "1e1",
    "-1",
    "1e999",
    "true",
    "null",
    "[]",
    "{}",
    r#""115792089237316195423570985008687907853269984665640564039457584007913129639936""#,
    r#""1234567890123456789012345678901234567890""#,
    r#""9223372036854.775808""#,
];

/// What is no address.
const ADDRESSES: [&str; 12] = [
    "0xD8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
    "0x0000000000000000000000000000000000000000",
    "vitalik.eth",
    "0xd8dа6bf26964af9d7eed9e03e53415d37aa96045",
    "0Xd8da6bf26964af9d7eed9e03e53415d37aa96045",
    " 0xd8da6bf26964af9d7eed9e03e53415d37aa96045",
    "0xd8da6bf26964af9d7eed9e03e53415d37aa96045 ",
    "d8da6bf26964af9d7eed9e03e53415d37aa96045",
    "0xd8da6bf26964af9d7eed9e03e53415d37aa9604",
    "0xd8da6bf26964af9d7eed9e03e53415d37aa960455",
    "0x",
    "",
];

/// A world, a mandate, and a payment that would pass.
struct Case {
    world: World,
    mandate: Mandate,
    payment: Value,
}

impl Case {
    async fn start(name: &str) -> Result<Self> {
        let (world, mandate) = opened(name, "100").await?;
        let pay = Pay::new(mandate.id, payee(1), usdc("1")?);
        let payment = serde_json::to_value(world.sign(&world.agent()?, &pay).await?)?;
        Ok(Self { world, mandate, payment })
    }

    /// The payment with a field that is `json`, whatever that is.
    fn with(&self, field: &str, json: &str) -> String {
        let mut payment = self.payment.clone();
        payment[field] = json!("HERE");
        payment.to_string().replace("\"HERE\"", json)
    }

    async fn pay(&self, body: impl Into<Vec<u8>>) -> Result<Answer> {
        ApiRequest::post(self.world.url("/v1/payments")?, body).send().await
    }

    async fn ask(&self, body: impl Into<Vec<u8>>) -> Result<Answer> {
        self.world.post("/v1/mandate-requests", body, &self.world.keys.agent).await?.send().await
    }

    /// Refused as a request that is not understood; says why.
    async fn refused(&self, body: impl Into<Vec<u8>> + Clone) -> Result<String> {
        let shown = String::from_utf8_lossy(&body.clone().into()).chars().take(200).collect::<String>();
        let problem = self.pay(body).await?.problem().wrap_err_with(|| shown.clone())?;
        ensure!(problem.code == Code::InvalidRequest, "{shown}: {problem:?}");
        ensure!(problem.detail.chars().count() <= 310, "{shown}: {problem:?}");
        Ok(problem.detail)
    }

    /// Everything is as it was, and what is right still passes.
    async fn unchanged(&self, trail: usize) -> Result<()> {
        let agent = self.world.agent()?;
        ensure!(agent.payments(&PaymentFilter::default(), &Default::default()).await?.data.is_empty());
        ensure!(agent.mandate_requests(&Default::default()).await?.data.len() == 1);
        ensure!(agent.audit(None, 0, Some(100)).await?.data.len() == trail);
        ensure!(agent.readyz().await?.ready);
        let mandate = agent.mandate(self.mandate.id).await?;
        ensure!(mandate == self.mandate, "{mandate:?}");
        ensure!(self.pay(self.payment.to_string()).await?.status == 202);
        Ok(())
    }

    async fn trail(&self) -> Result<usize> {
        Ok(self.world.agent()?.audit(None, 0, Some(100)).await?.data.len())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_fields_are_named_and_refused() -> Result<()> {
    let case = Case::start("malformed-fields").await?;
    let trail = case.trail().await?;
    for amount in AMOUNTS {
        assert!(case.refused(case.with("amount", amount)).await?.contains("amount"), "{amount}");
        let body = format!(r#"{{"amount":{amount},"intent":"x","duration":"7d"}}"#);
        let problem = case.ask(body).await?.problem()?;
        assert_eq!(problem.code, Code::InvalidRequest, "{amount}");
        assert!(problem.detail.contains("amount"), "{amount}: {problem:?}");
    }
    for address in ADDRESSES {
        assert!(case.refused(case.with("payee", &json!(address).to_string())).await?.contains("payee"), "{address}");
        let body = json!({"amount": "1", "intent": "x", "duration": "7d", "payees": [address]}).to_string();
        let problem = case.ask(body).await?.problem()?;
        assert_eq!(problem.code, Code::InvalidRequest, "{address}");
        assert!(problem.detail.contains("payees[0]"), "{address}: {problem:?}");
    }
    let long = "v".repeat(501);
    let bytes = format!("{:?}", [0; 32]);
    let crowd: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!(""))).collect();
    for (field, values) in [
        ("mandate", &["\"\"", "\"mand_ab\"", "\"mand_' or 1=1\"", "7", "null"][..]),
        ("nonce", &["-1", "4294967296", "1.0", "\"1\"", "1e3", "null"]),
        ("deadline", &["-1", "18446744073709551616", "\"soon\"", "1.5"]),
        ("ref", &["\"0x12\"", "\"zz\"", "1", "{}", "null", &bytes, &format!("\"{}\"", "0".repeat(64))]),
        ("signature", &["\"0x1\"", "\"zz\"", "{}", "null", "[1,2]", "\"0Xab\"", "\"ab\""]),
        ("metadata", &["[]", "\"x\"", r#"{"a":1}"#, r#"{"a":"1","a":"2"}"#, r#"{"":"x"}"#, r#"{"a":"\u0000"}"#]),
        ("metadata", &[&format!(r#"{{"a":"{long}"}}"#), &Value::Object(crowd).to_string()]),
    ] {
        for value in values {
            let detail = case.refused(case.with(field, value)).await?;
            assert!(detail.contains(field) || detail.contains("duplicate"), "{field} {value}: {detail}");
        }
    }
    for duration in ["\"30\"", "\"1w\"", "\"-1d\"", "30", "\"99999999999d\"", "null"] {
        let body = format!(r#"{{"amount":"1","intent":"x","duration":{duration}}}"#);
        let problem = case.ask(body).await?.problem()?;
        assert!(problem.code == Code::InvalidRequest && problem.detail.contains("duration"), "{duration}: {problem:?}");
    }
    case.unchanged(trail).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_one_strict_json_document_are_refused() -> Result<()> {
    let case = Case::start("malformed-bodies").await?;
    let trail = case.trail().await?;
    let good = case.payment.to_string();
    let (open, rest) = good.split_at(1);

    for body in [
        String::new(),
        "null".into(),
        "[]".into(),
        "\"x\"".into(),
        good[..good.len() - 1].into(),
        format!("{good} {good}"),
        format!("{good}x"),
        format!("\u{feff}{good}"),
        format!("{open}\"amount\":\"2\",{rest}"),
        format!("{open}\"memo\":\"x\",{rest}"),
        format!("{open}\"metadata\":{{\"a\":\"\\ud800\"}},{rest}"),
        format!("{open}\"metadata\":{{\"a\":\"\\udc00\\ud800\"}},{rest}"),
        format!("{open}\"metadata\":{{\"a\":\"\0\"}},{rest}"),
        format!("{open}\"metadata\":{{\"\\u0000\":\"x\"}},{rest}"),
        format!("{open}\"metadata\":{}", "[".repeat(10_000)),
        format!("{open}\"metadata\":{}", "{\"a\":".repeat(10_000)),
        good.replace('"', "'"),
        format!("{good}//"),
    ] {
        case.refused(body).await?;
    }
    for bytes in [&b"\xff\xfe{\0}\0"[..], b"{\"amount\":\"\xc3\x28\"}", b"\xed\xa0\x80", b"\0"] {
        case.refused(bytes).await?;
    }
    let mut crowd = open.to_owned();
    for n in 0..1_000 {
        write!(crowd, "\"field{n}\":\"\",")?;
    }
    case.refused(crowd + rest).await?;

    let url = case.world.url("/v1/payments")?;
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json, text/plain", ""]
    {
        let call = ApiRequest::post(url.clone(), good.clone()).with("content-type", kind)?;
        assert_eq!(call.send().await?.problem()?.code, Code::UnsupportedMediaType, "{kind:?}");
    }
    let mut call = ApiRequest::post(url.clone(), good.clone());
    call.headers.remove("content-type");
    assert_eq!(call.send().await?.problem()?.code, Code::UnsupportedMediaType);

    let padded = |length: usize| format!("{}{good}", " ".repeat(length - good.len()));
    assert_eq!(case.pay(padded(64 * 1024 + 1)).await?.problem()?.code, Code::TooLarge);
    let large = case.ask(" ".repeat(64 * 1024 + 1)).await?;
    assert_eq!(large.problem()?.code, Code::TooLarge);
    case.unchanged(trail).await?;
    // One byte less, and it is the payment that is known by now.
    assert_eq!(case.pay(padded(64 * 1024)).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_any_script_are_kept_as_they_are() -> Result<()> {
    let case = Case::start("any-script").await?;
    let words = "שלום \u{202e}evil\u{202c} \r\n =cmd|'/c calc'!A1 \u{1f4b8} \"quoted\" \\ <script>";
    let mut payment = case.payment.clone();
    payment["metadata"] = json!({"memo": words, "": ""});
    payment["metadata"].as_object_mut().unwrap().remove("");
    let accepted = case.pay(payment.to_string()).await?;
    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.json()?["metadata"]["memo"], words);
    let asked = case.ask(json!({"amount": "1", "intent": words, "duration": "7d"}).to_string()).await?;
    assert_eq!(asked.status, 201);
    assert_eq!(asked.json()?["intent"]["purpose"], words);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_are_no_ids_lead_nowhere() -> Result<()> {
    let (world, mandate) = opened("malformed-paths", "100").await?;
    let mut shapes = Vec::new();
    for id in [
        "x",
        "%00",
        "%ff",
        "..%2f..%2fetc%2fpasswd",
        "'%20or%201=1--",
        "mand_",
        "mand_abc123",
        "pay_00000000000000000000000000000000",
        "req_g0000000000000000000000000000000",
        &mandate.id.to_string().to_uppercase(),
        &format!("{}0", mandate.id),
        &"a".repeat(5_000),
    ] {
        for path in ["/v1/mandates/", "/v1/payments/", "/v1/mandate-requests/"] {
            let answer = world.get(&format!("{path}{id}"), &world.keys.agent).await?.send().await?;
            let problem = answer.problem().wrap_err_with(|| format!("{path}{id}"))?;
            assert_eq!(problem.code, Code::NotFound, "{path}{id}");
            shapes.push(problem.hint);
        }
    }
    shapes.dedup();
    assert_eq!(shapes.len(), 1);
    for path in ["/", "/v1", "/v1/", "/v2/info", "/v1/mandates/", "//v1/info", "/v1/info/", "/V1/info", "/.env"] {
        assert_eq!(
            ApiRequest::get(world.url("/")?.join(&format!(".{path}"))?).send().await?.problem()?.status,
            404,
            "{path}"
        );
    }
    for query in ["sort=asc", "limit=0", "limit=101", "limit=-1", "limit=1&limit=1", "limit=", "cursor=%00", "cursor="]
    {
        let answer = world.get(&format!("/v1/mandates?{query}"), &world.keys.agent).await?.send().await?;
        assert_eq!(answer.problem()?.code, Code::InvalidRequest, "{query}");
    }
    for query in ["mandate=x", "state=open", "ref=x", "state=", "wait=mined"] {
        let answer = world.get(&format!("/v1/payments?{query}"), &world.keys.agent).await?.send().await?;
        assert_eq!(answer.problem()?.code, Code::InvalidRequest, "{query}");
    }
    for query in ["cursor=x", "cursor=99999999999999999999", "cursor=9223372036854775808", "cursor=' or 1=1"] {
        let answer = world.get(&format!("/v1/payments?{query}"), &world.keys.agent).await?.send().await?;
        assert_eq!(answer.problem()?.status, 400, "{query}");
    }
    // What no ledger can count is no entry's number.
    for path in ["/v1/audit?after=9223372036854775808", "/v1/audit?after=-1", "/v1/events?after=18446744073709551615"] {
        let answer = world.get(path, &world.keys.agent).await?.send().await?;
        assert_eq!(answer.problem()?.code, Code::InvalidRequest, "{path}");
    }
    let resumed = world.get("/v1/events", &world.keys.agent).await?.with("last-event-id", "9223372036854775808")?;
    assert_eq!(resumed.send().await?.problem()?.code, Code::InvalidRequest);
    Ok(())
}

/// What a raw connection gets that says so much and no more.
async fn talk(world: &World, words: impl AsRef<[u8]>, patience: Duration) -> Result<String> {
    let address = (world.relayer.url().host_str().unwrap_or_default(), world.relayer.url().port().unwrap_or_default());
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(words.as_ref()).await?;
    let mut answer = Vec::new();
    timeout(patience, stream.read_to_end(&mut answer)).await.wrap_err("the connection is still open")??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_or_never_ends_is_cut_off_and_hurts_nobody() -> Result<()> {
    let case = Case::start("slow").await?;
    let trail = case.trail().await?;
    let world = &case.world;
    let patience = Duration::from_secs(25);
    let post =
        |rest: &str| format!("POST /v1/payments HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{rest}");

    // A head that does not end, a body that does not come, a connection that says nothing.
    let silent = talk(world, "", patience);
    let endless_head = talk(world, "GET /v1/info HTTP/1.1\r\nhost: x\r\nx-a: ", patience);
    let missing_body = talk(world, post("content-length: 100\r\n\r\n{"), patience);
    let endless_chunks = talk(world, post("transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"), patience);

    let quick = async {
        // Idle connections in numbers keep nobody out.
        let address =
            (world.relayer.url().host_str().unwrap_or_default(), world.relayer.url().port().unwrap_or_default());
        let mut idle = Vec::new();
        for _ in 0..300 {
            idle.push(TcpStream::connect(address).await?);
        }
        for junk in
            [&b"\0\0\0\0\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        {
            let answer = talk(world, junk, patience).await?;
            ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        let flood = format!("GET /v1/info HTTP/1.1\r\nhost: x\r\nx-a: {}\r\n\r\n", "a".repeat(200_000));
        let flooded = talk(world, flood, patience).await;
        ensure!(flooded.as_ref().map_or(true, |answer| answer.starts_with("HTTP/1.1 431")), "{flooded:?}");
        let smuggled = post("content-length: 2\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n");
        ensure!(talk(world, smuggled, patience).await?.starts_with("HTTP/1.1 4"));
        let huge = talk(world, post("content-length: 104857600\r\n\r\n") + &" ".repeat(100_000), patience).await;
        ensure!(huge.as_ref().map_or(true, |answer| answer.starts_with("HTTP/1.1 413")), "{huge:?}");
        ensure!(ApiRequest::get(world.url("/v1/info")?).send().await?.status == 200);
        eyre::Ok(())
    };
    let (quick, silent, endless_head, missing_body, endless_chunks) =
        tokio::join!(quick, silent, endless_head, missing_body, endless_chunks);
    quick?;
    assert_eq!(silent?, "");
    assert_eq!(endless_head?, "");
    for slow in [missing_body?, endless_chunks?] {
        assert!(slow.starts_with("HTTP/1.1 408") && slow.contains("\"code\":\"timeout\""), "{slow}");
    }
    case.unchanged(trail).await
}

/// As models write it, and the mission's own example.
#[tokio::test(flavor = "multi_thread")]
async fn amounts_as_json_numbers_are_taken_by_their_digits() -> Result<()> {
    let case = Case::start("number-amounts").await?;
    for (written, amount) in [("100.00", "100.00"), ("0.1", "0.10"), ("9007199254740.993001", "9007199254740.993001")] {
        let body = format!(r#"{{"amount":{written},"intent":"Automate marketing ops spend","duration":"30d"}}"#);
        let asked: Value = case.ask(body).await?.json()?;
        assert_eq!(asked["amount"], amount, "{asked}");
    }
    Ok(())
}
