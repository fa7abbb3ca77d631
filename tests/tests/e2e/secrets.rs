//! No secret in any log, and no key in any database.
//!
//! Every [`World`] looks for its secrets when it ends, so this holds for all processes of a run; here
//! it is shown on one where everything happens, and that the search does find.

use std::fs;

use eyre::Result;
use stipend_client::{PageQuery, Pay};
use stipend_core::{Code, api::PaymentState};
use stipend_e2e::{Secrets, Settings, World, key};

use crate::{asking, code, payee, usdc};

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_leaves_no_secret_behind() -> Result<()> {
    let mut world = World::with("secrets", &Settings { keystore: true, ..Settings::default() }).await?;
    let agent = world.agent()?;
    let mandate = world.open(&asking("10")?).await?;
    let payment = world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &payment).await?;
    assert_eq!(code(world.pay(&agent, &Pay::new(mandate.id, payee(1), usdc("11")?)).await?), Code::InsufficientBudget);

    // A body that is refused can hold anything, a key too.
    let spilled = key("spilled by mistake")?;
    world.secrets.key("a key sent by mistake", &spilled);
    for secret in [spilled.to_bytes().to_string(), format!("{:x}", spilled.to_bytes())] {
        for body in [
            format!(r#"{{"amount":"{secret}","intent":"x","duration":"7d"}}"#),
            format!(r#"{{"{secret}":1}}"#),
            secret.clone(),
        ] {
            let answer = world.post("/v1/mandate-requests", body, &world.keys.agent).await?.send().await?;
            assert_eq!(answer.problem()?.code, Code::InvalidRequest);
        }
        let path = format!("/v1/mandates/{secret}");
        assert_eq!(world.get(&path, &world.keys.agent).await?.send().await?.status, 404);
    }
    world.relayer.kill()?;
    world.relayer.restart().await?;
    assert_eq!(agent.payment(payment.id, None).await?.state, PaymentState::Settled);
    assert_eq!(agent.mandates(&PageQuery::default()).await?.data.len(), 1);

    // The log is there to be searched, and says what went on.
    let log = fs::read_to_string(world.dir().join("relayer.log"))?;
    assert!(log.contains("serving HTTP") && log.len() > 1_000, "{log}");
    world.secrets.scan(world.dir())?;
    Ok(())
}

#[test]
fn what_leaks_is_found() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let secrets = Secrets::default();
    let (leaked, kept) = (key("leaked")?, key("kept")?);
    secrets.key("leaked", &leaked);
    secrets.key("kept", &kept);
    secrets.password("password", "hunter2 hunter2");
    secrets.signature("signature", &[0xab; 65]);
    fs::write(dir.path().join("ledger.db"), [&[0xab; 65][..], b"and nothing else"].concat())?;
    assert_eq!(secrets.scan(dir.path())?, 1);

    let hex = format!("{:x}", leaked.to_bytes());
    for (file, content) in [
        ("a.log", format!("key 0x{hex}").into_bytes()),
        ("a.log", format!("key {}", hex.to_uppercase()).into_bytes()),
        ("ledger.db", hex.into_bytes()),
        ("ledger.db", leaked.to_bytes().to_vec()),
        ("ledger.db-wal", b"hunter2 hunter2".to_vec()),
        ("a.log", vec![0xab; 65]),
        ("a.log", format!("sig {}", "ab".repeat(65)).into_bytes()),
    ] {
        let path = dir.path().join(file);
        fs::write(&path, &content)?;
        assert!(secrets.scan(dir.path()).is_err(), "{file}: {content:?}");
        fs::remove_file(path)?;
    }
    Ok(())
}
