//! Chains and providers that are not anvil: small blocks, limits of their own, methods that are missing.

use std::collections::BTreeSet;

use alloy::{
    consensus::Transaction as _,
    providers::Provider,
    rpc::types::{BlockTransactions, Transaction},
};
use alloy_primitives::{Address, hex};
use alloy_sol_types::SolCall;
use eyre::{OptionExt, Result, bail, ensure};
use stipend_bindings::abi::MandateEscrow::settleCall;
use stipend_client::{Client, Pay};
use stipend_core::{MandateId, api::Payment};
use stipend_e2e::{AcceptedPayments, Account, Fault, Settings, World, eventually, reconcile};

use crate::{asking, payee, usdc};

const SEND: &str = "eth_sendRawTransaction";
const PAYMENTS: u32 = 60;

/// Payments that wait together while the chain stands still.
struct Waiting {
    world: World,
    agent: Client,
    mandate: MandateId,
    accepted: AcceptedPayments,
}

impl Waiting {
    async fn world(name: &str) -> Result<Self> {
        let more = vec!["--rate-agent".into(), "1000".into()];
        let world = World::with(name, &Settings { troubled: true, more, ..Settings::default() }).await?;
        let mandate = world.open(&asking("100")?).await?.id;
        Ok(Self { agent: world.agent()?, accepted: AcceptedPayments::of(&world), mandate, world })
    }

    async fn pay(&self) -> Result<Payment> {
        let signed = self.world.sign(&self.agent, &Pay::new(self.mandate, payee(1), usdc("1")?)).await?;
        let accepted = self.agent.send_payment(&signed, None).await?;
        self.accepted.keep(signed, &accepted)?;
        Ok(accepted.object)
    }

    /// One is in the pool, and the others wait for it.
    async fn queue(&self) -> Result<()> {
        self.world.anvil.automine(false).await?;
        self.pay().await?;
        self.world.anvil.arrived().await?;
        for _ in 1..PAYMENTS {
            self.pay().await?;
        }
        Ok(())
    }

    /// All is paid once. Returns how many payments each mined batch made.
    async fn all_is_paid(&self) -> Result<Vec<usize>> {
        self.world.anvil.automine(true).await?;
        self.world.anvil.mine(1).await?;
        let account = Account { client: self.agent.clone(), mandates: vec![self.mandate] };
        let found = reconcile(&self.world, &[account], &self.accepted).await?;
        ensure!(found.failed == 0 && found.settled == self.accepted.len(), "{found:?}");
        let settled = sent(&self.world).await?.into_iter().filter_map(|tx| settleCall::abi_decode(tx.input()).ok());
        Ok(settled.map(|call| call.groups.iter().map(|group| group.payments.len()).sum()).collect())
    }
}

/// All that the submitter sent, in the chain's order.
async fn sent(world: &World) -> Result<Vec<Transaction>> {
    let (provider, submitter) = (world.anvil.provider(), world.keys.submitter.address());
    let mut sent = Vec::new();
    for number in 0..=provider.get_block_number().await? {
        let block = provider.get_block_by_number(number.into()).full().await?.ok_or_eyre("no such block")?;
        let BlockTransactions::Full(transactions) = block.transactions else { bail!("hashes alone") };
        sent.extend(transactions.into_iter().filter(|tx| tx.inner.signer() == submitter));
    }
    Ok(sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_leave_half_of_a_small_block_to_others() -> Result<()> {
    let waiting = Waiting::world("small-blocks").await?;
    waiting.world.anvil.set_block_gas_limit(5_000_000).await?;
    waiting.world.anvil.mine(1).await?;
    waiting.world.followed(&waiting.agent).await?;
    waiting.queue().await?;
    let batches = waiting.all_is_paid().await?;
    // As long as it is not known how little gas a payment takes.
    assert_eq!(batches[..2], [1, 23], "{batches:?}");
    for tx in sent(&waiting.world).await? {
        assert!(tx.gas_limit() <= 2_500_000, "{tx:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_blocks_have_no_room_for_any_more_is_canceled_and_split() -> Result<()> {
    let waiting = Waiting::world("shrinking-blocks").await?;
    waiting.queue().await?;
    // The large batch is signed for the blocks of before.
    let anvil = &waiting.world.anvil;
    let first = anvil.arrived().await?;
    anvil.mine(1).await?;
    eventually("the large batch is in the pool", async || {
        Ok(anvil.waiting().await?.into_iter().any(|hash| hash != first).then_some(()))
    })
    .await?;
    anvil.set_block_gas_limit(2_000_000).await?;
    // Blocks go on without it until it is replaced.
    eventually("it is replaced", async || {
        anvil.mine(1).await?;
        let empty = sent(&waiting.world).await?.into_iter().any(|tx| tx.input().is_empty());
        Ok(empty.then_some(()))
    })
    .await?;
    let batches = waiting.all_is_paid().await?;
    assert!(batches.iter().all(|rows| *rows <= 9), "{batches:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_a_node_refuses_for_its_size_is_split() -> Result<()> {
    let waiting = Waiting::world("oversized").await?;
    waiting.queue().await?;
    let proxy = waiting.world.proxy()?;
    proxy.fault_next(1, SEND, Fault::Error(-32_000, "oversized data: transaction size 140000, limit 131072"));
    waiting.world.anvil.mine(1).await?;
    eventually("it is refused", async || Ok((proxy.count(SEND).faulted > 0).then_some(()))).await?;
    proxy.well().await?;
    let batches = waiting.all_is_paid().await?;
    assert!(batches.iter().all(|rows| *rows <= 29), "{batches:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_settle_without_the_methods_that_some_nodes_lack() -> Result<()> {
    let waiting = Waiting::world("missing-methods").await?;
    let proxy = waiting.world.proxy()?;
    for method in ["eth_maxPriorityFeePerGas", "eth_feeHistory", "eth_getBlockReceipts"] {
        proxy.fault(method, Fault::Error(-32_601, "the method does not exist/is not available"));
    }
    waiting.world.anvil.mine(1).await?;
    let payment = waiting.pay().await?;
    waiting.world.settled(&waiting.agent, &payment).await?;
    assert!(proxy.count("eth_gasPrice").forwarded > 0);
    let tips: BTreeSet<u128> =
        sent(&waiting.world).await?.iter().filter_map(Transaction::max_priority_fee_per_gas).collect();
    assert!(!tips.is_empty(), "{tips:?}");
    waiting.all_is_paid().await.map(drop)
}

/// Where a proxy has its implementation (ERC-1967).
pub(super) const IMPLEMENTATION: &str = "0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc";

/// Code that uses up some 300,000 gas with every call, and then does what the implementation does.
pub(super) fn dear(implementation: Address) -> Vec<u8> {
    // A loop from 12,000 down; calldatacopy and delegatecall; its answer, or its revert.
    [
        hex!("612ee05b6001900380600357503660006000376000600036600073").as_slice(),
        implementation.as_slice(),
        hex!("5af43d600060003e603e573d6000fd5b3d6000f3").as_slice(),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_transfers_are_dear_gets_the_gas_it_needs() -> Result<()> {
    let waiting = Waiting::world("dear-token").await?;
    let (anvil, token) = (&waiting.world.anvil, waiting.world.escrow.token());
    let slot = anvil.provider().get_storage_at(token, IMPLEMENTATION.parse()?).await?;
    anvil.set_code(token, &dear(Address::from_word(slot.into()))).await?;
    // A sweep is a call of its own, which takes more than calls do otherwise.
    let ended = waiting.world.open(&asking("5")?).await?;
    waiting.world.escrow.revoke(&waiting.world.keys.operator, &ended.terms).await?;
    waiting.queue().await?;
    let batches = waiting.all_is_paid().await?;
    assert!(batches.iter().any(|rows| *rows > 1), "{batches:?}");
    Ok(())
}
