//! The wallet that a model's host starts, and kills, and starts again.

use std::{path::Path, process::Stdio, time::Duration};

use eyre::{OptionExt, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use stipend_client::{Client, CreateCard, PageQuery, PaymentFilter};
use stipend_core::{
    api::{Payment, PaymentState},
    card::CardState,
};
use stipend_e2e::{CardSettings, SeededRng, Settings, World, balance, binary, number_from};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{asking, opened, payee, usdc};

/// How often the same call is repeated; `STIPEND_REPEATS` asks for more.
const REPEATS: u64 = 40;

/// What a host says first.
fn hello() -> String {
    let params = json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "host", "version": "1" },
    });
    let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    format!("{hello}\n{ready}")
}

/// Calls a tool once, of a server of its own. `None`: it was killed after `patience`, before it answered.
async fn call(world: &World, tool: &str, arguments: &Value, patience: Duration) -> Result<Option<Value>> {
    let mut command: Command = world.stipend_command(&world.keys.agent, &["mcp"])?.into();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut server = command.spawn()?;
    let mut input = server.stdin.take().ok_or_eyre("no stdin")?;
    let mut output = BufReader::new(server.stdout.take().ok_or_eyre("no stdout")?).lines();
    let params = json!({ "name": tool, "arguments": arguments });
    let asked = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let answered = timeout(patience, async {
        input.write_all(format!("{}\n{asked}\n", hello()).as_bytes()).await?;
        while let Some(line) = output.next_line().await? {
            let message: Value = serde_json::from_str(&line)?;
            if message["id"] == 1 {
                return Ok::<_, eyre::Report>(message["result"].clone());
            }
        }
        Err(eyre::eyre!("the server ended"))
    })
    .await;
    server.kill().await?;
    match answered {
        Ok(result) => Ok(Some(result?)),
        Err(_) => Ok(None),
    }
}

/// What a tool answers, which must be no error.
pub(crate) async fn done(world: &World, tool: &str, arguments: &Value) -> Result<Value> {
    let result = call(world, tool, arguments, Duration::from_secs(60)).await?.ok_or_eyre("no answer")?;
    ensure!(result["isError"] != true, "{result}");
    Ok(result["structuredContent"].clone())
}

async fn payments(agent: &Client) -> Result<Vec<Payment>> {
    let page = PageQuery { cursor: None, limit: Some(100) };
    Ok(agent.payments(&PaymentFilter::default(), &page).await?.data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_hosts_repeat_and_kill_is_paid_once() -> Result<()> {
    let repeats = number_from("STIPEND_REPEATS", REPEATS)?;
    let (mut world, mandate) = opened("mcp-repeats", "100").await?;
    let agent = world.agent()?;
    let mut random = SeededRng::by_seed("mcp repeats")?;
    let arguments = json!({ "payee": payee(1).to_string(), "amount": "4.20", "reference": "invoice 17" });
    let mut answers = 0;
    for repeat in 0..repeats {
        let patience = Duration::from_millis(random.below(160));
        answers += usize::from(call(&world, "payment_execute", &arguments, patience).await?.is_some());
        if repeat % 10 == 9 {
            world.relayer.kill()?;
            world.relayer.restart().await?;
        }
    }
    println!("{answers} of {repeats} were answered before they were killed");
    // At the same time, too.
    let at_once = (0..8).map(|_| done(&world, "payment_execute", &arguments));
    let ids: Vec<Value> = try_join_all(at_once).await?.into_iter().map(|paid| paid["payment"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let made = payments(&agent).await?;
    assert_eq!(made.len(), 1, "{made:?}");

    // Another reference is another payment, each time.
    for number in 18..21 {
        let arguments =
            json!({ "payee": payee(1).to_string(), "amount": "4.20", "reference": format!("invoice {number}") });
        assert_eq!(done(&world, "payment_execute", &arguments).await?["repeated"], false);
        assert_eq!(done(&world, "payment_execute", &arguments).await?["repeated"], true);
    }
    let made = payments(&agent).await?;
    assert_eq!(made.len(), 4, "{made:?}");
    for payment in &made {
        world.settled(&agent, payment).await?;
    }
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wallet_cannot_know_it_says_and_does_not_pay_again() -> Result<()> {
    let (mut world, mandate) = opened("mcp-unknown", "100").await?;
    let agent = world.agent()?;
    world.relayer.stop()?;
    let unreachable = call(&world, "wallet_balance", &json!({}), Duration::from_secs(60)).await;
    assert!(unreachable.is_err(), "without a relayer it does not start: {unreachable:?}");
    world.relayer.restart().await?;
    // Accepted, and waiting for a block that does not come: the host is told not to pay again.
    world.anvil.automine(false).await?;
    let arguments = json!({ "payee": payee(1).to_string(), "amount": "1", "reference": "slow", "wait": "accepted" });
    let paid = done(&world, "payment_execute", &arguments).await?;
    assert!(paid["next"].as_str().is_some_and(|next| next.contains("Don't pay again")), "{paid}");
    world.anvil.automine(true).await?;
    world.anvil.mine(1).await?;
    let made = payments(&agent).await?;
    assert_eq!(world.settled(&agent, &made[0]).await?.state, PaymentState::Settled);
    balance(&world, &agent, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_number_reaches_no_log_however_much_is_logged() -> Result<()> {
    let cards = Some(CardSettings::default());
    let world = World::with("mcp-log", &Settings { cards, ..Settings::default() }).await?;
    let (agent, mandate) = (world.agent()?, world.open(&asking("100")?).await?);
    let card = world.create_card(&agent, &CreateCard::new(mandate.id, usdc("25")?)).await??.object;
    world.card_in(&agent, card.id, CardState::Active).await?;
    let secrets = world.reveal(&agent, card.id).await?;
    let mut command: Command = world.stipend_command(&world.keys.agent, &["mcp"])?.into();
    command
        .env("RUST_LOG", "trace,rmcp::service=trace")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut server = command.kill_on_drop(true).spawn()?;
    let mut input = server.stdin.take().ok_or_eyre("no stdin")?;
    let mut output = BufReader::new(server.stdout.take().ok_or_eyre("no stdout")?).lines();
    let params = json!({ "name": "card_reveal", "arguments": { "card": card.id } });
    let asked = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    input.write_all(format!("{}\n{asked}\n", hello()).as_bytes()).await?;
    let answer = timeout(Duration::from_secs(60), async {
        loop {
            let line = output.next_line().await?.ok_or_eyre("no answer")?;
            if line.contains(&secrets.number) {
                return Ok::<_, eyre::Report>(line);
            }
        }
    });
    assert!(answer.await??.contains("card_"));
    drop(input);
    let log = String::from_utf8(server.wait_with_output().await?.stderr)?;
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "nothing was logged: {log}");
    assert!(!log.contains(&secrets.number) && !log.contains(&format!("\"{}\"", secrets.cvv)), "a number in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_is_asked_to_stop_or_left_alone_ends() -> Result<()> {
    let world = World::start("mcp-ends").await?;
    for is_asked in [true, false] {
        let mut command: Command = world.stipend_command(&world.keys.agent, &["mcp"])?.into();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut server = command.spawn()?;
        let mut input = server.stdin.take().ok_or_eyre("no stdin")?;
        let mut output = BufReader::new(server.stdout.take().ok_or_eyre("no stdout")?).lines();
        let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        input.write_all(format!("{}\n{ping}\n", hello()).as_bytes()).await?;
        for _ in 0..2 {
            output.next_line().await?.ok_or_eyre("no answer")?;
        }
        if is_asked {
            let pid = server.id().ok_or_eyre("no process")?.to_string();
            ensure!(Command::new("kill").args(["-TERM", &pid]).status().await?.success());
        } else {
            drop(input);
        }
        let status = timeout(Duration::from_secs(10), server.wait()).await??;
        assert!(status.success(), "{status}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_client_of_the_protocol_is_served() -> Result<()> {
    let (world, mandate) = opened("mcp-typescript", "100").await?;
    world.anvil.mine_every(1).await?;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("js");
    let mut command = Command::new("node");
    command.arg("mcp.mjs").arg(binary()?).arg(world.relayer.url().as_str()).arg(world.anvil.url().as_str());
    command.arg(payee(1).to_string()).current_dir(dir);
    let output = command.env("STIPEND_PRIVATE_KEY", world.keys.agent.to_bytes().to_string()).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(said["tools"].as_array().map(Vec::len), Some(12), "{said}");
    let results = &said["results"];
    for name in ["wallet_balance", "mandate_list", "audit_recent", "paid", "again", "explained", "payment_status"] {
        assert_eq!(results[name]["failed"], false, "{name}: {said}");
    }
    assert_eq!((&results["paid"]["state"], &results["paid"]["repeated"]), (&json!("settled"), &json!(false)), "{said}");
    assert_eq!(
        (&results["again"]["payment"], &results["again"]["repeated"]),
        (&results["paid"]["payment"], &json!(true))
    );
    assert_eq!(
        (&results["refused"]["failed"], &results["refused"]["code"]),
        (&json!(true), &json!("insufficient_budget"))
    );
    // It heard of the payment while it waited for its block.
    let heard = said["heard"].as_array().ok_or_eyre("no progress")?;
    assert!(heard.iter().any(|message| message.as_str().is_some_and(|text| text.starts_with("pay_"))), "{said}");
    balance(&world, &world.agent()?, &[mandate.id]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_client_is_served_over_http() -> Result<()> {
    let (world, mandate) = opened("mcp-http", "100").await?;
    world.anvil.mine_every(1).await?;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("js");
    let mut command = Command::new("node");
    command.arg("mcp-http.mjs").arg(world.relayer.url().as_str()).arg(mandate.id.to_string());
    command.arg(payee(1).to_string()).current_dir(dir);
    let output = command.env("STIPEND_PRIVATE_KEY", world.keys.agent.to_bytes().to_string()).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(said["tools"].as_array().map(Vec::len), Some(12), "{said}");
    let results = &said["results"];
    for (name, result) in results.as_object().ok_or_eyre("no results")? {
        assert_eq!(result["failed"], name == "refused", "{name}: {said}");
    }
    let (paid, again) = (&results["paid"], &results["again"]);
    assert_eq!((&paid["answer"]["state"], &paid["repeated"]), (&json!("settled"), &json!(false)), "{said}");
    assert_eq!((&again["answer"]["id"], &again["repeated"]), (&paid["answer"]["id"], &json!(true)), "{said}");
    assert_eq!(results["refused"]["code"], "insufficient_budget", "{said}");
    let heard = said["heard"].as_array().ok_or_eyre("no progress")?;
    assert!(heard.iter().any(|message| message.as_str().is_some_and(|text| text.starts_with("pay_"))), "{said}");
    balance(&world, &world.agent()?, &[mandate.id]).await
}
