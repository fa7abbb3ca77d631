//! A card's number is at the issuer and with its agent, and nowhere between.

use std::fs;

use eyre::Result;
use stipend_core::api::CardSecrets;
use stipend_e2e::{Purchase, Secrets};

use super::{active, closes, offered};

#[tokio::test(flavor = "multi_thread")]
async fn card_numbers_are_left_nowhere() -> Result<()> {
    let (mut world, mandate) = offered("card-secrets").await?;
    let agent = world.agent()?;
    let card = active(&world, &agent, mandate.id).await?;
    let secrets = world.reveal(&agent, card.id).await?;
    assert!(!format!("{secrets:?}").contains(&secrets.cvv));
    let answer = world.get(&format!("/v1/cards/{}/secrets", card.id), &world.keys.agent).await?.send().await?;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert!(!serde_json::to_string(&agent.card(card.id).await?)?.contains(&secrets.number));

    // Sent where it does not belong: in a path, in a body that is refused, to the wrong call.
    for path in ["/v1/cards", "/v1/payments", "/v1"] {
        let path = format!("{path}/{}", secrets.number);
        assert_eq!(world.get(&path, &world.keys.agent).await?.send().await?.status, 404);
    }
    for path in ["/v1/mandate-requests", "/v1/cards", "/v1/payments", "/v1/issuer/events"] {
        for body in [format!(r#"{{"cvv":"{}","{}":1}}"#, secrets.cvv, secrets.number), secrets.number.clone()] {
            assert!(world.post(path, body, &world.keys.agent).await?.send().await?.status >= 400);
        }
    }
    let issuer = world.issuer()?;
    let charge = issuer.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
    issuer.charge(&secrets, Purchase::of(1_840)).await?.declined()?;
    world.relayer.kill()?;
    world.relayer.restart().await?;
    world.issuer()?.clear(&charge, None).await?;
    closes(&world, &agent, &card, "18.40").await?;

    // The logs are there to be searched.
    for log in ["relayer.log", "issuer.log"] {
        assert!(fs::metadata(world.dir().join(log))?.len() > 1_000, "{log}");
    }
    world.secrets.scan(world.dir())?;
    Ok(())
}

#[test]
fn a_number_that_leaks_is_found() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let known = Secrets::default();
    let card = CardSecrets {
        number: "4111119876543211".into(),
        cvv: "739".into(),
        exp_month: "01".into(),
        exp_year: "2031".into(),
    };
    known.card(&card);
    known.of_the_issuer("what it signs with", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let never_told = Secrets::default();
    for (secrets, file, content, leaks) in [
        (&known, "ledger.db", "x4111119876543211y", true),
        (&known, "relayer.log", "4111119876543211", true),
        (&known, "issuer.log", "4111119876543211", true),
        (&known, "issuer.db", "4111119876543211 cvv 739", false),
        (&known, "issuer.db-wal", "4111119876543211", false),
        (&known, "ledger.db-wal", r#"{"CVV":"739"}"#, true),
        (&known, "ledger.db", r#"{"amount":"739"}"#, false),
        (&known, "relayer.log", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true),
        (&known, "issuer.db", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", false),
        // Numbers of cards that nobody has shown.
        (&never_told, "ledger.db", "x4111111289144142y", true),
        (&never_told, "relayer.log", "pan=5555555555554444", true),
        (&never_told, "relayer.log", "pan=5555555555554445", false),
        (&never_told, "relayer.log", "at=1700000000000006", false),
        (&never_told, "relayer.log", "hash=a5555555555554444f", false),
        (&never_told, "issuer.db", "4111111289144142", false),
    ] {
        let path = dir.path().join(file);
        fs::write(&path, content)?;
        assert_eq!(secrets.scan(dir.path()).is_err(), leaks, "{file}: {content}");
        fs::remove_file(path)?;
    }
    Ok(())
}
