//! The audit trail as somebody would check it who trusts nobody: from its bytes.

use eyre::{OptionExt, Result, ensure};
use stipend_client::{Client, Pay};
use stipend_core::{
    Code, Deployment, MandateId,
    api::{AuditEntry, RawAuditEntry},
    policy::Decision,
    trail::{Body, Decided, Entry, chained},
};

use crate::{asking, code, opened, payee, usdc};

async fn raw(reader: &Client, mandate: Option<MandateId>, limit: u32) -> Result<Vec<RawAuditEntry>> {
    let (mut entries, mut after) = (Vec::new(), Some(0));
    while let Some(from) = after {
        let page = reader.raw_audit(mandate, from, Some(limit)).await?;
        entries.extend(page.data);
        after = page.next_cursor.map(|cursor| cursor.parse()).transpose()?;
    }
    Ok(entries)
}

/// Each event of these entries: its place, its type, and what is known of it without asking anyone.
fn events(entries: &[RawAuditEntry]) -> Result<Vec<(u64, String, Option<Decided>)>> {
    let mut events = Vec::new();
    for entry in entries {
        match Entry::decode(&entry.bytes)? {
            Entry::Note(note) => events.push((entry.seq, note.read::<Body>()?.kind, None)),
            Entry::Decision(decided) => {
                let kind = if decided.id().is_some() { "payment.reserved" } else { "payment.denied" };
                events.push((entry.seq, kind.into(), Some(decided)));
            }
            Entry::Step(step) => {
                let places = entry.seq + 1 - step.nonces.len() as u64..=entry.seq;
                events.extend(places.map(|seq| (seq, format!("payment.{}", step.state), None)));
            }
            Entry::Imported(note) => events.push((entry.seq, note.read::<AuditEntry>()?.kind, None)),
        }
    }
    Ok(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_checks_the_chain_of_its_mandate_alone() -> Result<()> {
    let (world, mandate) = opened("trail", "100").await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    // Another mandate's entries lie between.
    let other = world.open(&asking("5")?).await?;
    let paid = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1.5")?)).await??.object;
    world.pay(&agent, &Pay::new(other.id, payee(1), usdc("1")?)).await??;
    let refused = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("99")?)).await?;
    assert_eq!(code(refused), Code::InsufficientBudget);
    world.settled(&agent, &paid).await?;

    let entries = raw(&operator, Some(mandate.id), 100).await?;
    let mut hash = mandate.id.0;
    for entry in &entries {
        hash = chained(hash, &entry.bytes);
        ensure!(hash == entry.hash && entry.mandate == Some(mandate.id), "{entry:?}");
    }
    assert_eq!(raw(&operator, Some(mandate.id), 2).await?, entries);

    // What is shown is what the bytes say, and the decisions are what the policy comes to.
    let shown = operator.audit(Some(mandate.id), 0, Some(100)).await?.data;
    let events = events(&entries)?;
    let kinds = |shown: &AuditEntry| (shown.seq, shown.kind.clone());
    let told: Vec<_> = events.iter().map(|(seq, kind, _)| (*seq, kind.clone())).collect();
    assert_eq!(shown.iter().map(kinds).collect::<Vec<_>>(), told);
    let info = agent.info().await?;
    let deployment =
        Deployment { chain_id: info.chain_id, escrow: info.escrow, token: info.token, guardian: info.guardian };
    let document = agent.mandate(mandate.id).await?;
    let mut decisions = Vec::new();
    for (seq, kind, decided) in events {
        let Some(decided) = decided else { continue };
        let shown = shown.iter().find(|entry| entry.seq == seq).ok_or_eyre("an event that is not shown")?;
        let decision: Decision = serde_json::from_value(shown.data["decision"].clone())?;
        assert_eq!(decided.replay(&document.terms, document.intent.as_ref(), deployment)?, decision);
        assert_eq!(decided.id(), shown.payment);
        decisions.push((kind, decision.allow));
    }
    assert_eq!(decisions, [("payment.reserved".to_owned(), true), ("payment.denied".to_owned(), false)]);

    // Nobody else's.
    let stranger = world.client(&stipend_e2e::key("stranger")?)?;
    assert!(raw(&stranger, Some(mandate.id), 100).await?.is_empty());
    let both = world.get("/v1/audit?format=raw&latest=true", &world.keys.operator).await?.send().await?;
    assert_eq!(both.problem()?.code, Code::InvalidRequest);
    Ok(())
}
