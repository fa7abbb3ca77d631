//! The balances, computed a second time: from the chain's own logs, without the relayer.

use std::collections::BTreeMap;

use alloy::{eips::BlockNumberOrTag, providers::Provider, rpc::types::Filter};
use alloy_primitives::{Address, B256};
use alloy_sol_types::SolEventInterface;
use eyre::{Result, WrapErr, ensure};
use serde_json::Value;
use stipend_bindings::abi::MandateEscrow::{self, MandateEscrowEvents};
use stipend_client::{Client, PageQuery, PaymentFilter};
use stipend_core::{
    Amount, MandateId,
    api::{Card, Payment, PaymentState},
    card::CardState,
};

use crate::{Issuer, TREASURY, World, eventually};

/// What the chain's logs say of one mandate.
#[derive(Clone, Debug, Default)]
pub struct OnchainBalances {
    /// What was escrowed.
    pub opened: u64,
    /// Every payment.
    pub spent: Vec<MandateEscrow::Spent>,
    /// Every hold: its nonce, payee and amount.
    pub held: Vec<MandateEscrow::Held>,
    /// What was captured of holds, by nonce.
    pub captured: BTreeMap<u32, u64>,
    /// What was released of holds, by nonce; what a sweep took of them, too.
    pub released: BTreeMap<u32, u64>,
    /// What went back.
    pub returned: u64,
    /// What went on to the mandate that replaces it.
    pub carried: u64,
    /// What payees gave back.
    pub refunded: u64,
    /// What of it is the budget again.
    pub restored: u64,
}

impl OnchainBalances {
    /// Reads the logs of all mandates.
    ///
    /// # Errors
    /// If the node fails.
    pub async fn of(world: &World) -> Result<BTreeMap<B256, Self>> {
        let filter = Filter::new().address(world.escrow.domain().escrow).from_block(BlockNumberOrTag::Earliest);
        let mut books = BTreeMap::<B256, Self>::new();
        for log in world.anvil.provider().get_logs(&filter).await? {
            match MandateEscrowEvents::decode_log(&log.inner)?.data {
                MandateEscrowEvents::Opened(event) => books.entry(event.mandate).or_default().opened += event.terms.cap,
                MandateEscrowEvents::Spent(event) => books.entry(event.mandate).or_default().spent.push(event),
                MandateEscrowEvents::Held(event) => books.entry(event.mandate).or_default().held.push(event),
                MandateEscrowEvents::Captured(event) => {
                    *books.entry(event.mandate).or_default().captured.entry(event.nonce).or_default() += event.amount;
                }
                MandateEscrowEvents::Released(event) => {
                    *books.entry(event.mandate).or_default().released.entry(event.nonce).or_default() += event.amount;
                }
                MandateEscrowEvents::Refunded(event) => {
                    let book = books.entry(event.mandate).or_default();
                    book.refunded += event.amount;
                    book.restored += event.restored;
                }
                MandateEscrowEvents::Returned(event) => {
                    let book = books.entry(event.mandate).or_default();
                    book.returned += event.fromRemaining + event.fromHeld;
                    book.sweep_holds(event.fromHeld)?;
                }
                MandateEscrowEvents::Rolled(event) => {
                    books.entry(event.from).or_default().carried += event.carried;
                }
                _ => {}
            }
        }
        Ok(books)
    }

    /// From the capture end on a sweep takes all that is held, or nothing.
    fn sweep_holds(&mut self, from_held: u64) -> Result<()> {
        let mut swept = 0;
        for hold in self.held.iter().filter(|_| from_held != 0) {
            let released = self.released.entry(hold.nonce).or_default();
            let left = hold.amount - self.captured.get(&hold.nonce).copied().unwrap_or_default() - *released;
            *released += left;
            swept += left;
        }
        ensure!(swept == from_held, "a sweep took {from_held} of holds, {swept} units were held");
        Ok(())
    }

    /// The sum of all payments and captures.
    pub fn paid(&self) -> u64 {
        self.spent.iter().map(|event| event.amount).sum::<u64>() + self.captured.values().sum::<u64>()
    }
}

/// Has the ledger prove itself, and compares it with the chain and the issuer to the last unit, for the mandates that `client` may see. For
/// when everything is final.
///
/// # Errors
/// Says what differs.
pub async fn balance(world: &World, client: &Client, mandates: &[MandateId]) -> Result<()> {
    world.relayer.prove()?;
    let books = OnchainBalances::of(world).await?;
    let mut escrowed = 0;
    for (id, book) in &books {
        let state = world.escrow.mandate_of(MandateId(*id)).await?;
        let left = state.remaining.units() + state.held.units();
        escrowed += left;
        let came = book.opened + book.restored;
        ensure!(
            came == book.paid() + left + book.returned + book.carried,
            "{id}: the chain's own books: {book:?} {state:?}"
        );
    }
    let held = world.escrow.balance_of(world.escrow.domain().escrow).await?;
    ensure!(held.units() == escrowed, "the escrow holds {held}, and owes {escrowed} units");

    for id in mandates {
        let book = books.get(&id.0).cloned().unwrap_or_default();
        let on_chain = world.escrow.mandate_of(*id).await?;
        let mandate = client.mandate(*id).await?;
        let sums = [mandate.available, mandate.reserved, mandate.held, mandate.paid, mandate.returned, mandate.carried];
        let sum: u64 = sums.into_iter().map(Amount::units).sum();
        ensure!(
            mandate.terms.cap.units() + mandate.restored.units() == sum,
            "{id}: the ledger's own books: {mandate:?}"
        );
        ensure!(mandate.terms.cap.units() == book.opened, "{id}: opened: {mandate:?} {book:?}");
        ensure!(mandate.paid.units() == book.paid(), "{id}: paid: {mandate:?} {book:?}");
        let refunds = (mandate.refunded.units(), mandate.restored.units());
        ensure!(refunds == (book.refunded, book.restored), "{id}: refunded: {mandate:?} {book:?}");
        ensure!(mandate.returned.units() == book.returned, "{id}: returned: {mandate:?} {book:?}");
        ensure!(mandate.carried.units() == book.carried, "{id}: carried: {mandate:?} {book:?}");
        let left = mandate.available.units() + mandate.reserved.units();
        ensure!(mandate.held == on_chain.held, "{id}: held: {mandate:?} {on_chain:?}");
        ensure!(on_chain.ended || on_chain.remaining.units() == left, "{id}: {mandate:?} {on_chain:?}");

        let payments = payments(client, *id).await?;
        let settled = payments.iter().filter(|payment| payment.state == PaymentState::Settled);
        let mut ledger: Vec<_> =
            settled.map(|payment| (payment.nonce, payment.payee, payment.amount.units(), payment.reference)).collect();
        let mut chain: Vec<(u32, Address, u64, B256)> =
            book.spent.iter().map(|event| (event.nonce, event.payee, event.amount, event.r#ref)).collect();
        ledger.sort_unstable();
        chain.sort_unstable();
        ensure!(ledger == chain, "{id}: settled in the ledger {ledger:?}, spent on chain {chain:?}");
        if let Ok(issuer) = world.issuer() {
            let cards = cards(client, *id).await?;
            cards_balance(&cards, &book).wrap_err_with(|| format!("{id}: {cards:?} {book:?}"))?;
            for card in &cards {
                is_as_issued(client, issuer, card).await.wrap_err_with(|| format!("{card:?}"))?;
            }
        }
    }
    let captured: u64 = books.values().flat_map(|book| book.captured.values()).sum();
    let treasury = world.escrow.balance_of(TREASURY).await?;
    ensure!(treasury.units() == captured, "the treasury has {treasury}, captured were {captured} units");
    Ok(())
}

/// Every hold on chain is one card's, and what a card says of its hold is so.
fn cards_balance(cards: &[Card], book: &OnchainBalances) -> Result<()> {
    let mut in_ledger = Vec::new();
    for card in cards {
        let (captured, released) = (book.captured.get(&card.nonce), book.released.get(&card.nonce));
        let on_chain = (captured.copied().unwrap_or_default(), released.copied().unwrap_or_default());
        if was_never_held(card) {
            ensure!(on_chain == (0, 0), "{}: on chain {on_chain:?}", card.id);
            continue;
        }
        ensure!((card.captured.units(), card.released.units()) == on_chain, "{}: on chain {on_chain:?}", card.id);
        let settled = on_chain.0 + on_chain.1;
        match card.state {
            CardState::Closed => ensure!(settled == card.amount.units(), "{}: {settled} are settled", card.id),
            CardState::Failed => ensure!(settled == 0, "{}: {settled} are settled", card.id),
            _ => {}
        }
        if !matches!(card.state, CardState::Failed | CardState::Requested) {
            in_ledger.push((card.nonce, TREASURY, card.amount.units(), card.capture_by, card.reference));
        }
    }
    let on_chain = book.held.iter();
    let on_chain = on_chain.map(|hold| (hold.nonce, hold.payee, hold.amount, hold.captureBy.to(), hold.r#ref));
    let mut on_chain: Vec<(u32, Address, u64, u64, B256)> = on_chain.collect();
    in_ledger.sort_unstable();
    on_chain.sort_unstable();
    ensure!(in_ledger == on_chain, "held in the ledger {in_ledger:?}, on chain {on_chain:?}");
    Ok(())
}

/// A card whose hold a reorg took away for good: all of it is back, and the chain knows nothing of it.
fn was_never_held(card: &Card) -> bool {
    card.hold_tx.is_none() && card.released == card.amount
}

/// How what the issuer took for a card is borne, by the ledger and the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Borne {
    pub captured: Amount,
    pub shortfall: Amount,
    pub owed_back: Amount,
}

/// Waits until captured + shortfall − owed back of a card is what the issuer took, less what merchants gave
/// back.
///
/// # Errors
/// If it is not within a minute.
pub async fn borne(client: &Client, issuer: &Issuer, card: &Card) -> Result<Borne> {
    let issued = issuer.card_for(card.id).await?;
    let token = issued.get("token").and_then(Value::as_str).unwrap_or_default();
    let settled = issuer.settled(token).await?;
    eventually(&format!("{} comes to {settled} cents", card.id), async || {
        let (mut shortfall, mut owed_back, mut after) = (Amount::ZERO, Amount::ZERO, Some(0));
        while let Some(from) = after {
            let page = client.audit(Some(card.mandate), from, Some(100)).await?;
            for entry in page.data.iter().filter(|entry| entry.card == Some(card.id)) {
                let amount = |name: &str| entry.data.get(name)?.as_str()?.parse().ok();
                match entry.kind.as_str() {
                    "card.shortfall" => shortfall = amount("shortfall").unwrap_or_default(),
                    "card.refund_due" => owed_back = amount("owed_back").unwrap_or_default(),
                    _ => {}
                }
            }
            after = page.next_cursor.map(|cursor| cursor.parse()).transpose()?;
        }
        let captured = client.card(card.id).await?.captured;
        let [sum, short, owed] = [captured, shortfall, owed_back].map(|amount| amount.cents().unwrap_or_default());
        Ok((sum + short - owed == settled).then_some(Borne { captured, shortfall, owed_back }))
    })
    .await
}

/// The issuer's view of a card is ours: there is one, closed when ours is, nothing pending, and what it took
/// is accounted for to the last cent.
async fn is_as_issued(client: &Client, issuer: &Issuer, card: &Card) -> Result<()> {
    let issued = issuer.cards_for(card.id).await?;
    let [issued] = issued.as_slice() else {
        ensure!(issued.is_empty() && card.last_four.is_none() && card.captured.is_zero(), "issued: {issued:?}");
        return Ok(());
    };
    ensure!(issued["last_four"].as_str() == card.last_four.as_deref() || card.last_four.is_none(), "{issued}");
    let charged = issuer.charged(issued["token"].as_str().unwrap_or_default()).await?;
    if card.state == CardState::Closed {
        ensure!(issued["state"] == "CLOSED", "{issued}");
        ensure!(charged.pending == 0, "{charged:?}");
        borne(client, issuer, card).await?;
    }
    Ok(())
}

pub(crate) async fn cards(client: &Client, mandate: MandateId) -> Result<Vec<Card>> {
    let mut page = PageQuery { cursor: None, limit: Some(100) };
    let mut cards = Vec::new();
    loop {
        let next = client.cards(Some(mandate), &page).await?;
        cards.extend(next.data);
        page.cursor = next.next_cursor;
        if page.cursor.is_none() {
            return Ok(cards);
        }
    }
}

pub(crate) async fn payments(client: &Client, mandate: MandateId) -> Result<Vec<Payment>> {
    payments_in(client, mandate, None).await
}

/// All payments of a mandate that are in this state, or in any.
pub(crate) async fn payments_in(
    client: &Client,
    mandate: MandateId,
    state: Option<PaymentState>,
) -> Result<Vec<Payment>> {
    let filter = PaymentFilter { mandate: Some(mandate), state, ..PaymentFilter::default() };
    let mut page = PageQuery { cursor: None, limit: Some(100) };
    let mut payments = Vec::new();
    loop {
        let next = client.payments(&filter, &page).await?;
        payments.extend(next.data);
        page.cursor = next.next_cursor;
        if page.cursor.is_none() {
            return Ok(payments);
        }
    }
}
