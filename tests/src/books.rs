//! The books, kept a second time: from the chain's own logs, without the relayer.

use std::collections::BTreeMap;

use alloy::{eips::BlockNumberOrTag, providers::Provider, rpc::types::Filter};
use alloy_primitives::{Address, B256};
use alloy_sol_types::SolEventInterface;
use eyre::{Result, ensure};
use stipend_bindings::abi::MandateEscrow::{self, MandateEscrowEvents};
use stipend_client::{Client, PageQuery, PaymentFilter};
use stipend_core::{
    Amount, MandateId,
    api::{Payment, PaymentState},
};

use crate::World;

/// What the chain's logs say of one mandate.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// What was escrowed.
    pub opened: u64,
    /// Every payment.
    pub spent: Vec<MandateEscrow::Spent>,
    /// What went back.
    pub returned: u64,
}

impl Books {
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
                MandateEscrowEvents::Returned(event) => {
                    books.entry(event.mandate).or_default().returned += event.fromRemaining + event.fromHeld;
                }
                _ => {}
            }
        }
        Ok(books)
    }

    /// The sum of all payments.
    #[must_use]
    pub fn paid(&self) -> u64 {
        self.spent.iter().map(|event| event.amount).sum()
    }
}

/// Compares the ledger with the chain to the last unit, for the mandates that `client` may see. For
/// when everything is final.
///
/// # Errors
/// Says what differs.
pub async fn balance(world: &World, client: &Client, mandates: &[MandateId]) -> Result<()> {
    let books = Books::of(world).await?;
    let mut escrowed = 0;
    for (id, book) in &books {
        let state = world.escrow.mandate_of(MandateId(*id)).await?;
        let left = state.remaining.units() + state.held.units();
        escrowed += left;
        ensure!(book.opened == book.paid() + left + book.returned, "{id}: the chain's own books: {book:?} {state:?}");
    }
    let held = world.escrow.balance_of(world.escrow.domain().escrow).await?;
    ensure!(held.units() == escrowed, "the escrow holds {held}, and owes {escrowed} units");

    for id in mandates {
        let book = books.get(&id.0).cloned().unwrap_or_default();
        let on_chain = world.escrow.mandate_of(*id).await?;
        let mandate = client.mandate(*id).await?;
        let sums = [mandate.available, mandate.reserved, mandate.held, mandate.paid, mandate.returned];
        let sum: u64 = sums.into_iter().map(Amount::units).sum();
        ensure!(mandate.terms.cap.units() == sum, "{id}: the ledger's own books: {mandate:?}");
        ensure!(mandate.terms.cap.units() == book.opened, "{id}: opened: {mandate:?} {book:?}");
        ensure!(mandate.paid.units() == book.paid(), "{id}: paid: {mandate:?} {book:?}");
        ensure!(mandate.returned.units() == book.returned, "{id}: returned: {mandate:?} {book:?}");
        let left = mandate.available.units() + mandate.reserved.units();
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
    }
    Ok(())
}

/// All payments of a mandate.
async fn payments(client: &Client, mandate: MandateId) -> Result<Vec<Payment>> {
    let filter = PaymentFilter { mandate: Some(mandate), ..PaymentFilter::default() };
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
