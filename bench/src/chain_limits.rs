//! What the node does at best: plain transfers of the token, and full batches of payments that are made by hand.

use std::time::{Duration, Instant};

use alloy_primitives::{Bytes, U256};
use alloy_sol_types::SolCall;
use eyre::{OptionExt, Result, ensure};
use stipend_bindings::abi::{MandateEscrow, MockUSDC};

use crate::{
    node::Mining,
    payments::{AMOUNT, Mandate, key, payee},
    process::eventually,
    stats::per_second,
    transactions::{Sender, send_all},
    world::{Contracts, POLL},
};

/// Blocks on top of which a payment is settled, for the relayer and for what is measured here.
pub(crate) const FINALITY: u64 = 2;

/// How many accounts send transfers, and the gas of one.
const TRANSFER_SENDERS: u64 = 20;
const TRANSFER_GAS: u64 = 100_000;

/// How many accounts send batches, and from how many mandates each.
const BATCH_SENDERS: u64 = 6;
const MANDATES_EACH: u64 = 10;

/// The calldata of a full batch: nodes do not pass on transactions above 128 KiB, and the rest needs some.
const CALLDATA_MAX: usize = 127 << 10;

/// The bytes of a payment in calldata: seven words.
const ROW_BYTES: usize = 7 * 32;

/// A batch's gas beyond the estimate, which is of the first one.
const GAS_MARGIN: f64 = 1.1;

/// Plain transfers per second, from the first one sent until the last one is in a block. Also gives every payee a first
/// unit: a payment to a new holder costs more gas.
pub(crate) async fn transfers_per_second(contracts: &Contracts, count: u64) -> Result<f64> {
    let (node, token) = (&contracts.node, contracts.escrow.token());
    let each = count / TRANSFER_SENDERS;
    node.mine(Mining::Instant).await?;
    let mut senders = Vec::new();
    for number in 0..TRANSFER_SENDERS {
        let mut sender = Sender::new(node, key(&format!("transfers {number}"))?).await?;
        contracts.mint(sender.address(), each).await?;
        for transfer in 0..each {
            let to = payee(number * each + transfer);
            let call = MockUSDC::transferCall { to, value: U256::from(1) };
            sender.call(node, token, call.abi_encode().into(), TRANSFER_GAS)?;
        }
        senders.push(sender);
    }
    node.mine(Mining::EverySecond).await?;
    let start = Instant::now();
    send_all(node, &mut senders).await?;
    let rate = per_second(each * TRANSFER_SENDERS, start.elapsed());
    for sender in &senders {
        let left = contracts.escrow.balance_of(sender.address()).await?;
        ensure!(left.is_zero(), "a sender has {left} left: not all transfers succeeded");
    }
    Ok(rate)
}

/// Makes full batches by hand, and counts what becomes of them.
#[derive(Debug)]
pub(crate) struct HandMade {
    senders: Vec<(Sender, Vec<Mandate>)>,
    /// How many payments of each mandate fill a batch.
    rows: usize,
    gas: u64,
}

impl HandMade {
    /// Opens the mandates, for which anybody may submit.
    pub(crate) async fn new(contracts: &Contracts) -> Result<Self> {
        let node = &contracts.node;
        node.mine(Mining::Instant).await?;
        let (start, operator) = (contracts.escrow.chain().head().await?.time, contracts.operator.address());
        let mandate = |number| Mandate::unguarded(contracts.domain(), number, operator, start);
        let mandates: Vec<_> = (0..BATCH_SENDERS * MANDATES_EACH).map(mandate).collect::<Result<_>>()?;
        contracts.open(&mandates).await?;
        let mut mandates = mandates.into_iter();
        let mut senders = Vec::new();
        for number in 0..BATCH_SENDERS {
            let sender = Sender::new(node, key(&format!("batches {number}"))?).await?;
            senders.push((sender, mandates.by_ref().take(usize::try_from(MANDATES_EACH)?).collect()));
        }
        let mut made = Self { senders, rows: 1, gas: 0 };
        let (sender, mandates) = made.senders.first().ok_or_eyre("no sender")?;
        let overhead = settle(contracts, &mut mandates.clone(), 0)?.len();
        made.rows = (CALLDATA_MAX - overhead) / ROW_BYTES / mandates.len();
        let batch = settle(contracts, &mut mandates.clone(), made.rows)?;
        let gas = node.estimate(sender.address(), contracts.domain().escrow, &batch).await?;
        made.gas = (gas as f64 * GAS_MARGIN) as u64;
        Ok(made)
    }

    /// How many payments a batch holds.
    pub(crate) fn batch(&self) -> u64 {
        self.rows as u64 * MANDATES_EACH
    }

    /// Payments per second, of about `count`: from the first batch sent until the last one is settled.
    ///
    /// # Errors
    /// If any payment is not made.
    pub(crate) async fn payments_per_second(&mut self, contracts: &Contracts, count: u64) -> Result<f64> {
        let each = (count / self.batch() / BATCH_SENDERS).max(1);
        let escrow = contracts.domain().escrow;
        let (mut senders, mut all) = (Vec::new(), Vec::new());
        for (mut sender, mut mandates) in self.senders.drain(..) {
            for _ in 0..each {
                let batch = settle(contracts, &mut mandates, self.rows)?;
                sender.call(&contracts.node, escrow, batch, self.gas)?;
            }
            senders.push(sender);
            all.push(mandates);
        }
        let payments = each * BATCH_SENDERS * self.batch();
        let before = contracts.escrowed().await?;
        contracts.node.mine(Mining::EverySecond).await?;
        let start = Instant::now();
        send_all(&contracts.node, &mut senders).await?;
        let mined = contracts.node.height().await?;
        eventually("the batches are final", POLL, async || {
            Ok((contracts.node.height().await? >= mined + FINALITY).then_some(()))
        })
        .await?;
        let time: Duration = start.elapsed();
        self.senders = senders.into_iter().zip(all).collect();
        ensure!(before - contracts.escrowed().await? == payments * AMOUNT, "not all payments of batches were made");
        Ok(per_second(payments, time))
    }
}

/// The call that makes the next payments of each mandate.
fn settle(contracts: &Contracts, mandates: &mut [Mandate], rows: usize) -> Result<Bytes> {
    let groups = mandates.iter_mut().map(|mandate| mandate.group(contracts.domain(), rows)).collect::<Result<_>>()?;
    let call = MandateEscrow::settleCall { groups, proofs: Vec::new(), signatures: Vec::new() };
    Ok(call.abi_encode().into())
}
