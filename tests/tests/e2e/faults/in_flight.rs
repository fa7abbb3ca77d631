//! A backlog: a submitter has several transactions that no block holds, one behind the other.

use alloy::{
    consensus::Transaction as _,
    providers::Provider,
    rpc::types::{BlockTransactions, Transaction},
};
use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall;
use eyre::{OptionExt, Result, bail, ensure};
use serde_json::Value;
use stipend_bindings::abi::MandateEscrow::settleCall;
use stipend_client::{Client, Pay};
use stipend_core::{
    Code, MandateId,
    api::{NewPayment, Payment, PaymentState},
};
use stipend_e2e::{AcceptedPayments, Account, Fault, Settings, World, eventually, reconcile};

use super::providers::{IMPLEMENTATION, dear};
use crate::{asking, payee, usdc};

const SEND: &str = "eth_sendRawTransaction";
/// A block of which half holds this many payments of a batch, before any was mined.
const SMALL_BLOCK: u64 = 5_000_000;
const SMALL_BATCH: u32 = 23;

struct Backlog {
    world: World,
    agent: Client,
    mandates: Vec<MandateId>,
    accepted: AcceptedPayments,
}

impl Backlog {
    async fn start(name: &str, mandates: usize, block_gas: u64, more: &[&str]) -> Result<Self> {
        let mut all = vec!["--rate-agent", "10000", "--rate-peer", "10000"];
        all.extend(more);
        let more = all.into_iter().map(str::to_owned).collect();
        let world = World::with(name, &Settings { troubled: true, more, ..Settings::default() }).await?;
        let agent = world.agent()?;
        let mut ids = Vec::new();
        for _ in 0..mandates {
            ids.push(world.open(&asking("1000")?).await?.id);
        }
        world.anvil.set_block_gas_limit(block_gas).await?;
        world.anvil.mine(1).await?;
        world.followed(&agent).await?;
        world.anvil.automine(false).await?;
        Ok(Self { accepted: AcceptedPayments::of(&world), world, agent, mandates: ids })
    }

    async fn pay_with(&self, pay: &Pay) -> Result<Payment> {
        let signed = self.world.sign(&self.agent, pay).await?;
        let accepted = self.agent.send_payment(&signed, None).await?;
        self.accepted.keep(signed, &accepted)?;
        Ok(accepted.object)
    }

    /// So many payments of a mandate, each to somebody of its own as far as these go.
    async fn pay(&self, mandate: usize, count: u32) -> Result<Vec<Payment>> {
        let mut payments = Vec::new();
        for number in 0..count {
            let to = payee(1 + u8::try_from(number % 40)?);
            payments.push(self.pay_with(&Pay::new(self.mandates[mandate], to, usdc("1")?)).await?);
        }
        Ok(payments)
    }

    /// So many payments of a mandate, signed alone.
    async fn signed(&self, mandate: usize, count: u32) -> Result<Vec<NewPayment>> {
        let mut signed = Vec::new();
        for _ in 0..count {
            let pay = Pay::new(self.mandates[mandate], payee(1), usdc("1")?);
            signed.push(self.world.sign(&self.agent, &pay).await?);
        }
        Ok(signed)
    }

    /// What waits for a block, by nonce, once it is this many.
    async fn waiting(&self, count: usize) -> Result<Vec<Transaction>> {
        let provider = self.world.anvil.provider();
        eventually(&format!("{count} transactions wait for a block"), async || {
            let mut waiting = Vec::new();
            for hash in self.world.anvil.waiting().await? {
                waiting.extend(provider.get_transaction_by_hash(hash).await?);
            }
            waiting.sort_unstable_by_key(|tx| tx.nonce());
            Ok((waiting.len() == count).then_some(waiting))
        })
        .await
    }

    /// All is paid once, and the submitter left no nonce out. Returns how many payments each of its batches made.
    async fn all_is_paid(self) -> Result<Vec<u32>> {
        self.world.anvil.automine(true).await?;
        self.world.anvil.mine(1).await?;
        let account = Account { client: self.agent.clone(), mandates: self.mandates.clone() };
        let found = reconcile(&self.world, &[account], &self.accepted).await?;
        ensure!(found.failed == 0 && found.settled == self.accepted.len(), "{found:?}");
        self.batches().await
    }

    async fn batches(&self) -> Result<Vec<u32>> {
        let mut sent = sent(&self.world, self.world.keys.submitter.address()).await?;
        sent.sort_unstable_by_key(|tx| tx.nonce());
        for (nonce, tx) in (0..).zip(&sent) {
            ensure!(tx.nonce() == nonce, "nonce {} where {nonce} is next", tx.nonce());
        }
        sent.iter().map(rows).collect()
    }
}

/// How many payments a transaction makes; one that only uses up its nonce, none.
fn rows(tx: &Transaction) -> Result<u32> {
    if tx.input().is_empty() {
        return Ok(0);
    }
    let call = settleCall::abi_decode(tx.input())?;
    Ok(u32::try_from(call.groups.iter().map(|group| group.payments.len()).sum::<usize>())?)
}

fn hash(tx: &Transaction) -> B256 {
    *tx.inner.tx_hash()
}

async fn sent(world: &World, submitter: Address) -> Result<Vec<Transaction>> {
    let provider = world.anvil.provider();
    let mut sent = Vec::new();
    for number in 0..=provider.get_block_number().await? {
        let block = provider.get_block_by_number(number.into()).full().await?.ok_or_eyre("no such block")?;
        let BlockTransactions::Full(transactions) = block.transactions else { bail!("hashes alone") };
        sent.extend(transactions.into_iter().filter(|tx| tx.inner.signer() == submitter));
    }
    Ok(sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_batch_goes_behind_another_transaction_and_few_payments_wait() -> Result<()> {
    let backlog = Backlog::start("behind", 3, SMALL_BLOCK, &[]).await?;
    backlog.pay(0, 1).await?;
    let [alone] = &backlog.waiting(1).await?[..] else { bail!("not one") };
    backlog.pay(1, SMALL_BATCH - 1).await?;
    // They would be in the pool before this one is: they wait until they are enough.
    backlog.pay(2, 1).await?;
    let waiting = backlog.waiting(2).await?;
    assert_eq!((hash(&waiting[0]), rows(&waiting[0])?, rows(&waiting[1])?), (hash(alone), 1, SMALL_BATCH));

    // The node loses the first one, and with it a nonce below the second: it is sent again.
    backlog.world.anvil.drop_transaction(hash(alone)).await?;
    backlog.world.anvil.mine(1).await?;
    backlog.waiting(2).await?;
    assert_eq!(backlog.all_is_paid().await?, [1, SMALL_BATCH]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_behind_others_and_not_sent_is_sent_after_a_crash() -> Result<()> {
    let mut backlog = Backlog::start("behind-crash", 3, SMALL_BLOCK, &[]).await?;
    backlog.world.relayer.stop()?;
    backlog.world.relayer.begin_to_die_at("settle.stored:2")?;
    backlog.world.relayer.ready().await?;
    backlog.pay(0, 1).await?;
    let alone = hash(&backlog.waiting(1).await?[0]);
    let signed = backlog.signed(1, SMALL_BATCH).await?;
    for payment in &signed {
        // It dies of the last one, whose answer may be lost.
        let _ = backlog.agent.send_payment(payment, None).await;
    }
    eventually("it dies", async || Ok(backlog.world.relayer.has_died()?.then_some(()))).await?;
    // One is with the node, which loses it; the other one is stored alone.
    assert_eq!(backlog.world.anvil.waiting().await?, [alone]);
    backlog.world.anvil.drop_transaction(alone).await?;
    backlog.world.relayer.restart().await?;
    for payment in signed {
        let answer = backlog.agent.send_payment(&payment, None).await?;
        backlog.accepted.keep(payment, &answer)?;
    }
    let waiting = backlog.waiting(2).await?;
    assert_eq!((hash(&waiting[0]), rows(&waiting[1])?), (alone, SMALL_BATCH));
    assert_eq!(backlog.all_is_paid().await?, [1, SMALL_BATCH]);
    Ok(())
}

/// The relayer dies while it stores which payments are in a batch, which takes several commits. Nobody has seen that batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_stored_in_part_is_canceled_after_a_crash() -> Result<()> {
    const BATCH: u32 = 148;
    let mut backlog = Backlog::start("stored-in-part", 2, 30_000_000, &[]).await?;
    backlog.world.relayer.stop()?;
    backlog.world.relayer.begin_to_die_at("settle.storing:2")?;
    backlog.world.relayer.ready().await?;
    backlog.pay(0, 1).await?;
    let alone = hash(&backlog.waiting(1).await?[0]);
    let signed = backlog.signed(1, BATCH).await?;
    for payment in &signed {
        // It dies of the last one, whose answer may be lost.
        let _ = backlog.agent.send_payment(payment, None).await;
    }
    eventually("it dies", async || Ok(backlog.world.relayer.has_died()?.then_some(()))).await?;
    backlog.world.relayer.restart().await?;
    for payment in signed {
        let answer = backlog.agent.send_payment(&payment, None).await?;
        backlog.accepted.keep(payment, &answer)?;
    }
    let waiting = backlog.waiting(2).await?;
    assert_eq!((hash(&waiting[0]), rows(&waiting[1])?), (alone, 0));
    let batches = backlog.all_is_paid().await?;
    assert_eq!((batches[..2].to_vec(), batches.iter().sum()), (vec![1, 0], 1 + BATCH));
    Ok(())
}

/// What is mined of several in one block is unmined with it.
#[tokio::test(flavor = "multi_thread")]
async fn several_that_a_reorg_takes_off_the_chain_are_sent_again_in_order() -> Result<()> {
    let backlog = Backlog::start("behind-reorg", 3, SMALL_BLOCK, &[]).await?;
    backlog.pay(0, 1).await?;
    let payments = backlog.pay(1, SMALL_BATCH).await?;
    backlog.waiting(2).await?;
    backlog.world.anvil.mine(1).await?;
    backlog.world.payment_in(&backlog.agent, &payments[0], PaymentState::Mined).await?;
    backlog.world.anvil.reorg(1).await?;
    backlog.world.payment_in(&backlog.agent, &payments[0], PaymentState::Submitted).await?;
    backlog.waiting(2).await?;
    assert_eq!(backlog.all_is_paid().await?, [1, SMALL_BATCH]);
    Ok(())
}

/// The first one can't be paid any more, and its nonce is used up for nothing: what is behind it is paid.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_one_is_canceled_and_the_next_ones_are_paid() -> Result<()> {
    const GWEI: u64 = 1_000_000_000;
    let limits = ["--fee-ceiling-gwei", "5", "--deadline-min", "10"];
    let backlog = Backlog::start("behind-cancel", 2, SMALL_BLOCK, &limits).await?;
    let world = &backlog.world;
    let deadline = world.time().await? + 100;
    let pay = Pay { deadline: Some(deadline), ..Pay::new(backlog.mandates[0], payee(1), usdc("1")?) };
    let late = backlog.pay_with(&pay).await?;
    backlog.pay(1, SMALL_BATCH).await?;
    let before = backlog.waiting(2).await?;

    // Blocks are too dear for both.
    world.anvil.set_base_fee(100 * GWEI).await?;
    world.anvil.pass(200).await?;
    let failed = eventually("the late one failed", async || {
        world.anvil.set_base_fee(100 * GWEI).await?;
        world.anvil.mine(1).await?;
        world.followed(&backlog.agent).await?;
        let late = backlog.agent.payment(late.id, None).await?;
        Ok((late.state == PaymentState::Failed).then_some(late))
    })
    .await?;
    assert_eq!(failed.reason, Some(Code::DeadlinePassed));
    eventually("both nonces are used", async || {
        world.anvil.set_base_fee(GWEI).await?;
        world.anvil.mine(1).await?;
        Ok((sent(world, world.keys.submitter.address()).await?.len() == before.len()).then_some(()))
    })
    .await?;
    world.anvil.automine(true).await?;
    world.anvil.mine(1).await?;
    let account = Account { client: backlog.agent.clone(), mandates: backlog.mandates.clone() };
    let found = reconcile(world, &[account], &backlog.accepted).await?;
    ensure!(found.failed == 1 && found.settled == usize::try_from(SMALL_BATCH)?, "{found:?}");
    assert_eq!(backlog.batches().await?, [0, SMALL_BATCH]);
    Ok(())
}

/// The token takes more gas than when the batch was simulated: all of it reverts, and is paid by others with more.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_runs_out_of_gas_is_paid_with_more() -> Result<()> {
    let backlog = Backlog::start("out-of-gas", 1, 30_000_000, &[]).await?;
    let (anvil, token) = (&backlog.world.anvil, backlog.world.escrow.token());
    backlog.pay(0, 1).await?;
    let alone = hash(&backlog.waiting(1).await?[0]);
    let payments = backlog.pay(0, 20).await?;
    anvil.mine(1).await?;
    let batch = eventually("the batch waits for a block", async || {
        Ok(anvil.waiting().await?.into_iter().find(|hash| *hash != alone))
    })
    .await?;
    let slot = anvil.provider().get_storage_at(token, IMPLEMENTATION.parse()?).await?;
    anvil.set_code(token, &dear(Address::from_word(slot.into()))).await?;
    anvil.mine(1).await?;
    let receipt = anvil.provider().get_transaction_receipt(batch).await?.ok_or_eyre("not mined")?;
    ensure!(!receipt.status() && receipt.gas_used > 2_000_000, "{receipt:?}");
    backlog.world.settled(&backlog.agent, &payments[0]).await?;
    let batches = backlog.all_is_paid().await?;
    assert!(batches[2..].iter().any(|rows| *rows > 1), "{batches:?}");
    Ok(())
}

/// More than a node accepts that takes transactions of at most 12,000 bytes.
fn is_large(parameters: &Value) -> bool {
    parameters.get(0).and_then(Value::as_str).is_some_and(|raw| raw.len() > 2 * 12_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_no_large_transactions_gets_smaller_ones() -> Result<()> {
    let backlog = Backlog::start("small-node", 3, 30_000_000, &[]).await?;
    backlog.pay(0, 1).await?;
    backlog.waiting(1).await?;
    let words = "oversized data: transaction size 22000, limit 12000";
    backlog.world.proxy()?.fault(SEND, Fault::Refuses(is_large, -32_000, words));
    for mandate in 0..3 {
        backlog.pay(mandate, 60).await?;
    }
    let batches = backlog.all_is_paid().await?;
    // What is refused is canceled, and all that is mined is smaller.
    assert!(batches.contains(&0) && batches.iter().all(|rows| *rows <= 53), "{batches:?}");
    Ok(())
}
