//! The event stream as a browser or curl would read it.

use eyre::{Result, ensure};
use futures_util::StreamExt;
use serde_json::Value;
use stipend_client::Pay;
use stipend_core::{MandateId, api::PaymentState};
use stipend_e2e::{ApiRequest, World, next_entry};

use crate::{asking, opened, payee, usdc};

/// One event, field by field.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: u64,
    kind: String,
    data: Value,
}

/// Reads the first `count` events that a call gives.
async fn read(call: &ApiRequest, count: usize) -> Result<Vec<Event>> {
    let response = reqwest::Client::new().get(call.url.clone()).headers(call.headers.clone()).send().await?;
    ensure!(response.status() == 200, "{response:?}");
    ensure!(response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream"));
    // Otherwise nginx keeps events until its buffer is full.
    ensure!(response.headers().get("x-accel-buffering").is_some_and(|value| value == "no"));
    let mut chunks = response.bytes_stream();
    let mut text = String::new();
    let mut events = Vec::new();
    while events.len() < count {
        let chunk = tokio::time::timeout(std::time::Duration::from_secs(30), chunks.next()).await?;
        text.push_str(std::str::from_utf8(&chunk.ok_or_else(|| eyre::eyre!("ended after {events:?}"))??)?);
        while let Some((block, rest)) = text.split_once("\n\n") {
            events.extend(event(block)?);
            text = rest.to_owned();
        }
    }
    events.truncate(count);
    Ok(events)
}

fn event(block: &str) -> Result<Option<Event>> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let (Some(id), Some(kind), Some(data)) = (field("id"), field("event"), field("data")) else { return Ok(None) };
    Ok(Some(Event { id: id.parse()?, kind: kind.to_owned(), data: serde_json::from_str(data)? }))
}

/// Everything that the agent's trail says of a mandate.
async fn trail(world: &World, mandate: MandateId) -> Result<Vec<(u64, String)>> {
    let page = world.agent()?.audit(Some(mandate), 0, Some(100)).await?;
    Ok(page.data.into_iter().map(|entry| (entry.seq, entry.kind)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_resumes_after_a_crash_without_gap_or_repeat() -> Result<()> {
    let (mut world, mandate) = opened("events", "100").await?;
    let agent = world.agent()?;
    let path = format!("/v1/events?mandate={}&after=0", mandate.id);
    let pay = Pay::new(mandate.id, payee(1), usdc("1")?);
    let first = world.pay(&agent, &pay).await??.object;
    world.settled(&agent, &first).await?;

    let known = trail(&world, mandate.id).await?;
    assert!(known.len() >= 5, "{known:?}");
    let head = read(&world.get(&path, &world.keys.agent).await?, 3).await?;
    for event in &head {
        assert_eq!(event.data["seq"], event.id);
        assert_eq!(event.data["type"], event.kind);
    }

    world.relayer.kill()?;
    world.relayer.restart().await?;
    let second = world.pay(&agent, &pay).await??.object;
    world.settled(&agent, &second).await?;

    // The query of the first connection, as every client repeats it, and the last id it saw.
    let all = trail(&world, mandate.id).await?;
    let resumed = world.get(&path, &world.keys.agent).await?.with("last-event-id", head[2].id.to_string())?;
    let tail = read(&resumed, all.len() - 3).await?;
    let seen: Vec<_> = head.into_iter().chain(tail).map(|event| (event.id, event.kind)).collect();
    assert_eq!(seen, all);
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typed_stream_goes_on_over_a_restart() -> Result<()> {
    let (mut world, mandate) = opened("events-typed", "100").await?;
    let agent = world.agent()?;
    let mut events = agent.events(Some(mandate.id), Some(0)).await?;
    let mut seen = Vec::new();
    let pay = Pay::new(mandate.id, payee(1), usdc("1")?);
    for round in 0..2 {
        let payment = world.pay(&agent, &pay).await??.object;
        world.settled(&agent, &payment).await?;
        loop {
            let entry = next_entry(&mut events).await?;
            seen.push((entry.seq, entry.kind.clone()));
            if entry.payment == Some(payment.id) && entry.kind == "payment.settled" {
                break;
            }
        }
        if round == 0 {
            world.relayer.kill()?;
            world.relayer.restart().await?;
        }
    }
    assert_eq!(seen, trail(&world, mandate.id).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_start_begins_now() -> Result<()> {
    let (world, mandate) = opened("events-now", "100").await?;
    let agent = world.agent()?;
    let other = world.open(&asking("1")?).await?;
    let mut events = agent.events(None, None).await?;
    let payment = world.pay(&agent, &Pay::new(other.id, payee(1), usdc("1")?)).await??.object;
    let entry = next_entry(&mut events).await?;
    assert_eq!((entry.kind.as_str(), entry.payment), ("payment.reserved", Some(payment.id)));
    assert_ne!(entry.mandate, Some(mandate.id));
    world.payment_in(&agent, &payment, PaymentState::Mined).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_event_id_that_is_none_is_refused() -> Result<()> {
    let world = World::start("events-malformed").await?;
    for id in ["x", "-1", "1.5", "", "18446744073709551616"] {
        let call = world.get("/v1/events", &world.keys.agent).await?.with("last-event-id", id)?;
        let problem = call.send().await?.problem()?;
        assert_eq!(problem.status, 400, "{id}: {problem:?}");
    }
    Ok(())
}
