//! The payees of `stipend dev` whose payments are skipped, stall, or are reorganized.
//!
//! The mock token blocks them, so a payment to one is accepted and waits. Then it is let into a block, on a chain
//! that makes no blocks but the ones that are asked for here: so nothing depends on who is faster.

use std::time::Duration;

use alloy::{
    eips::BlockNumberOrTag,
    providers::{Provider, RootProvider},
    rpc::types::{Block, TransactionRequest},
};
use alloy_primitives::{Address, address};
use alloy_sol_types::SolCall;
use eyre::{OptionExt, bail, ensure};
use serde_json::{Value, json};
use stipend_bindings::abi::MockUSDC;
use stipend_client::{Client, chain::Escrow};
use stipend_core::{
    PaymentId,
    api::{AuditEntry, Payment, PaymentState},
    dev::TestPayees,
};
use tokio::time::{Instant, sleep, sleep_until};
use url::Url;

use super::FINAL_AFTER;
use crate::{keys::DevAccount, output};

const SKIP: Address = address!("0xeFfEC70000000000000000000000000000000001");
const STALL: Address = address!("0xEffec70000000000000000000000000000000002");
const REORG: Address = address!("0xeFfEc70000000000000000000000000000000003");

/// Account 9 of anvil, which nobody else uses: blocks and unblocks payees.
const BLOCKER: Address = address!("0xa0Ee7A142d267C1f36714E4a8F75612F20a79720");

/// How long a payment stalls, counted from the last one that was accepted for the same payee.
const STALLS_FOR: Duration = Duration::from_secs(10);

/// How long the relayer may take to send what can go, how often it is looked at, and how many blocks it gets.
const SENT_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
const STEPS: u32 = 5;

/// How long the relayer may take to see a block.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// Gas for a call of the token's.
const GAS: u64 = 100_000;

/// Wei per gas, far more than the relayer pays: anvil orders a block by them.
const FIRST: u64 = 1_000_000_000_000;

/// The payees, given the token, which no payment can go to.
pub(super) const fn addresses(token: Address) -> TestPayees {
    TestPayees { denied: token, skip: SKIP, stall: STALL, reorg: REORG }
}

/// Has the token block the payees, as they are found at the start.
pub(super) async fn block_all(escrow: &Escrow) -> eyre::Result<()> {
    let (chain, token, by) = (escrow.chain(), escrow.token(), DevAccount::Guardian.signer()?);
    for account in [SKIP, STALL, REORG] {
        if !chain.view(token, &MockUSDC::isBlacklistedCall { account }).await? {
            chain.send(&by, token, &MockUSDC::blacklistCall { account }).await?;
        }
    }
    Ok(())
}

/// What befalls payments to these payees, of mandates whose operator or agent is a dev account.
pub(super) struct Effects {
    relayer: Url,
    node: RootProvider,
    token: Address,
    /// Seconds between blocks.
    block_time: u64,
}

/// A payment to a test payee, and who may look at it.
struct Paid {
    id: PaymentId,
    payee: Address,
    seen_by: Client,
}

impl Effects {
    pub(super) fn new(relayer: Url, node: Url, token: Address, block_time: u64) -> Self {
        Self { relayer, node: RootProvider::new_http(node), token, block_time }
    }

    /// Watches what is paid. Ends only with the relayer.
    pub(super) async fn run(&self) -> eyre::Result<()> {
        let client =
            |account: DevAccount| -> eyre::Result<Client> { Ok(Client::new(self.relayer.clone(), account.signer()?)?) };
        let operator = client(DevAccount::Operator)?;
        let gasless = client(DevAccount::GaslessOperator)?;
        let agent = client(DevAccount::Agent)?;
        // From the beginning: an earlier run on the same data may have left some that wait.
        let mut of_operator = operator.events(None, Some(0)).await?;
        let mut of_gasless = gasless.events(None, Some(0)).await?;
        let mut of_agent = agent.events(None, Some(0)).await?;
        let mut stalled: Vec<Paid> = Vec::new();
        let mut stalled_until = Instant::now();
        loop {
            let (entry, seen_by) = tokio::select! {
                entry = of_operator.next() => (entry?, &operator),
                entry = of_gasless.next() => (entry?, &gasless),
                entry = of_agent.next() => (entry?, &agent),
                () = sleep_until(stalled_until), if !stalled.is_empty() => {
                    for paid in stalled.drain(..) {
                        self.with_blocks_held(&paid, self.let_in(&paid)).await;
                    }
                    continue;
                }
            };
            let Some((id, payee)) = accepted(&entry) else { continue };
            let paid = Paid { id, payee, seen_by: seen_by.clone() };
            match payee {
                SKIP => self.with_blocks_held(&paid, self.skip(&paid)).await,
                REORG => self.with_blocks_held(&paid, self.reorganize(&paid)).await,
                STALL => {
                    stalled.push(paid);
                    stalled_until = Instant::now() + STALLS_FOR;
                }
                _ => {}
            }
        }
    }

    /// Does something to a payment that waits, while no block is made but those that it asks for.
    async fn with_blocks_held<T>(&self, paid: &Paid, effect: impl Future<Output = eyre::Result<T>>) {
        let done = async {
            // An entry that is old, or was seen twice.
            if self.payment(paid).await?.state != PaymentState::Reserved {
                return Ok(());
            }
            self.make_blocks_every(0).await?;
            let done = effect.await;
            self.make_blocks_every(self.block_time).await?;
            done.map(drop)
        };
        if let Err(error) = done.await {
            output::note(&format!("the payment {} is left alone: {error}", paid.id));
        }
    }

    /// Lets a payment into a block that blocks its payee first.
    async fn skip(&self, paid: &Paid) -> eyre::Result<()> {
        for _ in 0..STEPS {
            self.send(&MockUSDC::unBlacklistCall { account: paid.payee }, FIRST).await?;
            self.mine().await?;
            // Now, so that it comes first in whatever block the payment comes into.
            self.send(&MockUSDC::blacklistCall { account: paid.payee }, FIRST).await?;
            let taken = self.is_taken(paid).await?;
            self.mine().await?;
            if taken {
                return Ok(());
            }
        }
        bail!("the relayer does not send it")
    }

    /// Lets a payment into a block that blocks its payee at the end.
    async fn let_in(&self, paid: &Paid) -> eyre::Result<()> {
        self.send(&MockUSDC::unBlacklistCall { account: paid.payee }, FIRST).await?;
        self.mine().await?;
        let mut taken = self.is_taken(paid).await?;
        for _ in 1..STEPS {
            if taken {
                break;
            }
            self.mine().await?;
            taken = self.is_taken(paid).await?;
        }
        // What the next block can ask for at least; the relayer pays more.
        let base_fee = self.block(BlockNumberOrTag::Latest).await?.header.base_fee_per_gas.unwrap_or_default();
        self.send(&MockUSDC::blacklistCall { account: paid.payee }, base_fee + base_fee / 8 + 1).await?;
        self.mine().await?;
        ensure!(taken, "the relayer does not send it");
        Ok(())
    }

    /// Lets a payment into a block, and replaces that block by an empty one.
    async fn reorganize(&self, paid: &Paid) -> eyre::Result<()> {
        self.let_in(paid).await?;
        let mined = self.until(paid, SEEN_WITHIN, |payment| payment.state == PaymentState::Mined).await?;
        let block = mined.and_then(|payment| payment.block_number).ok_or_eyre("the relayer does not see its block")?;
        let head = self.block(BlockNumberOrTag::Latest).await?.header.number;
        let mut transactions = Vec::new();
        for number in block..=head {
            for hash in self.block(number.into()).await?.transactions.hashes() {
                transactions.extend(self.node.get_raw_transaction_by_hash(hash).await?);
            }
        }
        let depth = head.saturating_sub(block).saturating_add(1);
        ensure!(depth < FINAL_AFTER, "its block is final");
        self.request("anvil_reorg", json!([depth, []])).await?;
        self.until(paid, SEEN_WITHIN, |payment| payment.state == PaymentState::Submitted).await?;
        // A node keeps what was in a block that is gone; anvil does not.
        for transaction in transactions {
            // The relayer has sent its own again, perhaps.
            let _ = self.node.send_raw_transaction(&transaction).await;
        }
        self.mine().await
    }

    /// Whether the relayer has sent a payment by now, or within a moment.
    async fn is_taken(&self, paid: &Paid) -> eyre::Result<bool> {
        let start = Instant::now();
        while start.elapsed() < SENT_WITHIN {
            let payment = self.payment(paid).await?;
            // It is submitted before it is sent.
            if payment.state != PaymentState::Reserved
                && let Some(hash) = payment.tx_hash
                && self.node.get_transaction_by_hash(hash).await?.is_some()
            {
                return Ok(true);
            }
            sleep(POLL).await;
        }
        Ok(false)
    }

    async fn until(
        &self,
        paid: &Paid,
        patience: Duration,
        holds: impl Fn(&Payment) -> bool,
    ) -> eyre::Result<Option<Payment>> {
        let start = Instant::now();
        while start.elapsed() < patience {
            let payment = self.payment(paid).await?;
            if holds(&payment) {
                return Ok(Some(payment));
            }
            sleep(POLL).await;
        }
        Ok(None)
    }

    async fn payment(&self, paid: &Paid) -> eyre::Result<Payment> {
        Ok(paid.seen_by.payment(paid.id, None).await?)
    }

    async fn block(&self, which: BlockNumberOrTag) -> eyre::Result<Block> {
        self.node.get_block_by_number(which).await?.ok_or_eyre("the node has no such block")
    }

    /// Sends a call of the token's; anvil signs it.
    async fn send(&self, call: &impl SolCall, max_fee: u64) -> eyre::Result<()> {
        let transaction = TransactionRequest::default()
            .from(BLOCKER)
            .to(self.token)
            .input(call.abi_encode().into())
            .gas_limit(GAS)
            .max_fee_per_gas(max_fee.into())
            .max_priority_fee_per_gas(0);
        self.node.send_transaction(transaction).await.map(drop).map_err(Into::into)
    }

    async fn mine(&self) -> eyre::Result<()> {
        self.request("evm_mine", json!([])).await
    }

    async fn make_blocks_every(&self, seconds: u64) -> eyre::Result<()> {
        self.request("evm_setIntervalMining", json!([seconds])).await
    }

    async fn request(&self, method: &'static str, params: Value) -> eyre::Result<()> {
        self.node.raw_request::<_, Value>(method.into(), params).await?;
        Ok(())
    }
}

/// The payment that this entry says was accepted, and whom it pays.
fn accepted(entry: &AuditEntry) -> Option<(PaymentId, Address)> {
    let id = entry.payment.filter(|_| entry.kind == "payment.reserved")?;
    Some((id, entry.data.get("payee")?.as_str()?.parse().ok()?))
}
