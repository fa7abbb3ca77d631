//! The story: one card, one purchase, and the rest is back.

use alloy::providers::Provider;
use eyre::{OptionExt as _, Result};
use stipend_client::CreateCard;
use stipend_core::{Code, api::NewMandateRequest, card::CardState};
use stipend_e2e::{CardSettings, Purchase, Settings, TREASURY, World, balance};

use super::{closes, trail};
use crate::{asking, usdc};

/// From the request to the block with the hold.
const BLOCKS: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_charged_once_and_the_rest_comes_back() -> Result<()> {
    let settings = Settings { cards: Some(CardSettings::default()), ..Settings::default() };
    let world = World::with("card-story", &settings).await?;
    let (agent, operator, issuer) = (world.agent()?, world.operator()?, world.issuer()?);
    let software = Some(vec!["5734".parse()?, "7372".parse()?]);
    let mandate = world.open(&NewMandateRequest { mccs: software, ..asking("100")? }).await?;

    // A card for 25.00, usable in two blocks.
    let before = world.escrow.chain().head().await?.number;
    let order = CreateCard::new(mandate.id, usdc("25.00")?);
    let accepted = world.create_card(&agent, &order).await??;
    assert!(!accepted.replayed);
    let card = world.card_in(&agent, accepted.object.id, CardState::Active).await?;
    let hold = card.hold_tx.ok_or_eyre("active without a hold")?;
    let hold = world.anvil.provider().get_transaction_receipt(hold).await?.ok_or_eyre("not mined")?;
    assert!(hold.block_number.is_some_and(|block| block - before <= BLOCKS), "ordered in block {before}: {hold:?}");
    let during = agent.mandate(mandate.id).await?;
    assert_eq!((during.available, during.reserved, during.held), (usdc("75")?, usdc("25")?, usdc("0")?));
    let issued = issuer.card_for(card.id).await?;
    assert_eq!(
        (&issued["state"], &issued["type"], &issued["spend_limit"]),
        (&"OPEN".into(), &"VIRTUAL".into(), &2_500.into())
    );

    // A merchant of another kind gets nothing, and neither does one who wants more.
    let secrets = world.reveal(&agent, card.id).await?;
    assert!(card.last_four.as_deref().is_some_and(|last| secrets.number.ends_with(last)));
    let casino = issuer.charge(&secrets, Purchase { mcc: "7995", ..Purchase::of(1_840) }).await?;
    assert_eq!(casino.declined()?, "UNAUTHORIZED_MERCHANT");
    assert_eq!(issuer.charge(&secrets, Purchase::of(2_501)).await?.declined()?, "CARD_SPEND_LIMIT_EXCEEDED");
    let abroad = issuer.charge(&secrets, Purchase { currency: "EUR", ..Purchase::of(1_840) }).await?;
    assert_eq!(abroad.declined()?, "UNAUTHORIZED_MERCHANT");
    assert_eq!(agent.card(card.id).await?.state, CardState::Active);

    // 18.40 pass, once.
    let charge = issuer.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
    let used = world.card_in(&agent, card.id, CardState::Used).await?;
    assert_eq!((used.authorized, used.captured), (Some(usdc("18.40")?), usdc("0")?));
    assert_eq!(issuer.charge(&secrets, Purchase::of(100)).await?.declined()?, "CARD_SPEND_LIMIT_EXCEEDED");
    assert!(world.escrow.balance_of(TREASURY).await?.is_zero());

    // The clearing captures it, and 6.60 are in the mandate again.
    issuer.clear(&charge, None).await?;
    let closed = closes(&world, &agent, &card, "18.40").await?;
    assert_eq!((closed.released, closed.reason), (usdc("6.60")?, None));
    assert_eq!(operator.card(card.id).await?, closed);
    assert_eq!(world.escrow.balance_of(TREASURY).await?, usdc("18.40")?);
    let after = agent.mandate(mandate.id).await?;
    assert_eq!((after.available, after.reserved, after.held), (usdc("81.60")?, usdc("0")?, usdc("0")?));
    assert_eq!((after.paid, after.returned), (usdc("18.40")?, usdc("0")?));

    // The trail says it all, with why and in which transaction.
    let trail = trail(&agent, &card).await?;
    let steps = trail.iter().filter(|entry| entry.kind != "card.issuer_event");
    let steps: Vec<_> = steps.map(|entry| entry.kind.strip_prefix("card.").unwrap_or_default()).collect();
    let (life, settled) = steps.split_at(steps.len() - 3);
    let told = [
        "requested",
        "hold_mined",
        "held",
        "active",
        "revealed",
        "declined",
        "declined",
        "authorized",
        "used",
        "declined",
    ];
    assert_eq!(life, [&told[..], &["closing", "concluded"]].concat());
    assert_eq!(settled, ["settled", "settled", "closed"]);
    let declined: Vec<_> = trail.iter().filter(|entry| entry.kind == "card.declined").collect();
    for (entry, code) in declined.iter().zip([Code::MerchantNotAllowed, Code::CurrencyNotAllowed, Code::CardUsed]) {
        assert_eq!(entry.data["code"], code.name(), "{entry:?}");
        let amount = if code == Code::CardUsed { "1.00" } else { "18.40" };
        assert_eq!((&entry.data["amount"], &entry.data["merchant"]), (&amount.into(), &"A MERCHANT".into()));
    }
    assert_eq!(declined[0].data["mcc"], "7995");
    for (kind, tx) in [("card.hold_mined", closed.hold_tx), ("card.settled", closed.settle_tx)] {
        assert!(trail.iter().filter(|entry| entry.kind == kind).all(|entry| entry.tx_hash == tx), "{trail:?}");
    }

    // The same order again is another card; the same signature is not.
    let hold = world.sign_card(&agent, &order).await?;
    let (first, again) = (agent.send_card(&hold, None).await?, agent.send_card(&hold, None).await?);
    assert!(first.object.id != card.id && first.object.id == again.object.id && again.replayed);
    world.card_in(&agent, first.object.id, CardState::Active).await?;
    agent.close_card(first.object.id).await?;
    closes(&world, &agent, &first.object, "0").await?;
    balance(&world, &operator, &[mandate.id]).await
}
