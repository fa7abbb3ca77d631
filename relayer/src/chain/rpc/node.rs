//! One node: the few requests that the relayer makes, each bounded in time.

use std::{fmt, sync::Arc};

use alloy::{
    consensus::BlockHeader,
    eips::{BlockId, BlockNumberOrTag},
    providers::{Provider, RootProvider},
    rpc::types::{BlockTransactions, Filter, Log as NodeLog, TransactionInput, TransactionRequest},
};
use alloy_primitives::{Address, B256, Bloom, BloomInput, Bytes, U64, U128};
use alloy_sol_types::SolCall;
use url::Url;

use super::{
    RpcError,
    link::Link,
    send_outcome::{SendOutcome, classify},
};
use crate::ledger::blocks::{Block, Log, Receipt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A block as the node tells it.
#[derive(Clone, Debug)]
pub struct FullBlock {
    /// Its place in the chain.
    pub block: Block,
    /// Its base fee, in wei per gas.
    pub base_fee: u64,
    /// How much gas its transactions may use in all.
    pub gas_limit: u64,
    pub transactions: Vec<B256>,
    /// What its logs are about.
    pub bloom: Bloom,
}

impl FullBlock {
    /// Whether the block may hold logs of this contract. A yes can be by chance, a no can't.
    pub fn may_hold_logs_of(&self, contract: Address) -> bool {
        self.bloom.contains_input(BloomInput::Raw(contract.as_slice()))
    }
}

/// A receipt in a block, of any type of transaction: other chains have types of their own.
#[derive(Debug, serde::Deserialize)]
struct ReceiptWithLogs {
    logs: Vec<NodeLog>,
}

/// What is read of one of our receipts, with the fees that rollups charge besides gas.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptWithFees {
    block_hash: Option<B256>,
    status: U64,
    gas_used: U128,
    effective_gas_price: U128,
    logs: Vec<NodeLog>,
    /// OP stack: for publishing the transaction, in wei. Not a part of `gas_used`.
    l1_fee: Option<U128>,
    /// OP stack since Isthmus: millionths of a wei per gas, and wei.
    operator_fee_scalar: Option<U128>,
    operator_fee_constant: Option<U128>,
    /// OP stack since Jovian, which counts the scalar in hundreds of wei per gas.
    da_footprint_gas_scalar: Option<U128>,
}

impl ReceiptWithFees {
    /// All that the transaction cost, in wei.
    fn cost(&self) -> u128 {
        let number = |value: Option<U128>| value.map_or(0, |value| value.to::<u128>());
        let gas: u128 = self.gas_used.to();
        let scaled = gas.saturating_mul(number(self.operator_fee_scalar));
        let operator = if self.da_footprint_gas_scalar.is_some() {
            scaled.saturating_mul(100)
        } else {
            scaled.checked_div(1_000_000).unwrap_or_default()
        };
        gas.saturating_mul(self.effective_gas_price.to())
            .saturating_add(number(self.l1_fee))
            .saturating_add(operator)
            .saturating_add(number(self.operator_fee_constant))
    }
}

/// A receipt with what the ledger does not keep.
#[derive(Clone, Debug)]
pub struct FullReceipt {
    pub receipt: Receipt,
    pub gas_used: u64,
    /// The contract of each log.
    pub log_addresses: Vec<Address>,
}

/// What is read of a transaction of any type.
#[derive(Debug, serde::Deserialize)]
struct TransactionSender {
    from: Address,
}

/// A call without a transaction.
#[derive(Clone, Debug)]
pub struct EthCall {
    /// Who calls.
    pub from: Option<Address>,
    /// The contract.
    pub to: Address,
    /// The call.
    pub data: Bytes,
    /// With how much gas; absent: the node's maximum.
    pub gas: Option<u64>,
}

/// One node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    link: Link,
    url: Arc<Url>,
    name: Arc<str>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.name).finish()
    }
}

impl Node {
    /// The node at this address.
    pub fn new(url: Url) -> Result<Self, reqwest::Error> {
        let host = url.host_str().unwrap_or("a node");
        let name = url.port_or_known_default().map_or_else(|| host.into(), |port| format!("{host}:{port}").into());
        Ok(Self { link: Link::new(&url)?, url: Arc::new(url), name })
    }

    /// Whether it announces new blocks, and has lately.
    pub fn is_subscribed(&self) -> bool {
        self.link.is_subscribed()
    }

    /// Notifies `new_heads` whenever the node announces a block, until `stop`.
    pub async fn listen(&self, new_heads: &Notify, stop: &CancellationToken) {
        self.link.listen(new_heads, stop).await;
    }

    /// Its host and port, which is all of its address that may be shown.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A text of the node or about it, without the parts of its address that can be a key.
    pub fn without_secrets(&self, text: &str) -> String {
        let path = self.url.path_segments().into_iter().flatten();
        let query = self.url.query_pairs().map(|(_, value)| value.into_owned());
        let parts = path.map(str::to_owned).chain(query).chain(self.url.password().map(str::to_owned));
        // Shorter ones are words like "v3" and "rpc".
        let keys = parts.chain([self.url.username().to_owned()]).filter(|part| part.len() >= 8);
        keys.fold(text.to_owned(), |text, key| text.replace(&key, "…"))
    }

    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        self.link.ask("eth_chainId", |node| async move { node.get_chain_id().await }).await
    }

    /// A block; `None` if the node does not know it.
    pub async fn block(&self, id: impl Into<BlockId>) -> Result<Option<FullBlock>, RpcError> {
        let method = "eth_getBlock";
        let id = id.into();
        let block = match self.link.ask(method, |node| async move { node.get_block(id).await }).await {
            Ok(Some(block)) => block,
            Ok(None) | Err(RpcError::NoSuchBlock { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let BlockTransactions::Hashes(transactions) = block.transactions else {
            return Err(RpcError::NoAnswer { method, reason: "whole transactions instead of hashes".into() });
        };
        Ok(Some(FullBlock {
            block: Block {
                number: block.header.number(),
                hash: block.header.hash,
                parent: block.header.parent_hash(),
                time: block.header.timestamp(),
            },
            base_fee: block.header.base_fee_per_gas().unwrap_or_default(),
            // Zero is a chain that does not say.
            gas_limit: Some(block.header.gas_limit()).filter(|gas| *gas > 0).unwrap_or(u64::MAX),
            transactions,
            bloom: block.header.logs_bloom(),
        }))
    }

    /// The last block.
    pub async fn latest(&self) -> Result<FullBlock, RpcError> {
        self.block(BlockNumberOrTag::Latest)
            .await?
            .ok_or_else(|| RpcError::NoAnswer { method: "eth_getBlock", reason: "it has no blocks".into() })
    }

    /// The last block that the node calls final; `None` if it knows of none, or does not know the word.
    pub async fn finalized(&self) -> Result<Option<Block>, RpcError> {
        match self.block(BlockNumberOrTag::Finalized).await {
            Ok(block) => Ok(block.map(|block| block.block)),
            Err(RpcError::Refused { message, .. } | RpcError::TooLarge { message, .. }) => {
                tracing::debug!(%message, "no block is final");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The logs of `contract` in the block with this hash, in order. By hash, so that they belong to
    /// exactly this block whatever the chain does meanwhile.
    pub async fn logs(&self, contract: Address, block: B256) -> Result<Vec<Log>, RpcError> {
        let found = self.found(contract, &Filter::new().at_block_hash(block)).await?;
        if found.iter().any(|(hash, _)| *hash != block) {
            let (method, reason) = ("eth_getLogs", "a log of another block".into());
            return Err(RpcError::NoAnswer { method, reason });
        }
        Ok(found.into_iter().map(|(_, log)| log).collect())
    }

    /// The logs of `contract` from one height to another, both counted, each with its block's hash.
    ///
    /// # Errors
    /// [`RpcError`]; [`RpcError::TooLarge`] if fewer blocks should be asked for at once.
    pub async fn logs_between(&self, contract: Address, from: u64, to: u64) -> Result<Vec<(B256, Log)>, RpcError> {
        self.found(contract, &Filter::new().from_block(from).to_block(to)).await
    }

    async fn found(&self, contract: Address, filter: &Filter) -> Result<Vec<(B256, Log)>, RpcError> {
        let method = "eth_getLogs";
        let filter = &filter.clone().address(contract);
        let logs = self.link.ask(method, |node| async move { node.get_logs(filter).await }).await?;
        if logs.iter().any(|log| log.address() != contract) {
            return Err(RpcError::NoAnswer { method, reason: "a log of another contract".into() });
        }
        logs.iter()
            .map(|log| Some((log.block_hash?, read_log(log)?)))
            .collect::<Option<_>>()
            .ok_or_else(|| RpcError::NoAnswer { method, reason: "a log without its place".into() })
    }

    /// The logs of `contract` in a block, read from the receipts of all its transactions. `None` if
    /// the node does not offer them, or not as many.
    pub async fn logs_by_receipts(&self, contract: Address, block: B256) -> Result<Option<Vec<Log>>, RpcError> {
        let method = "eth_getBlockReceipts";
        let ask = |node: RootProvider| async move { node.raw_request(method.into(), (BlockId::hash(block),)).await };
        let receipts: Vec<ReceiptWithLogs> = match self.link.ask(method, ask).await {
            Ok(Some(receipts)) => receipts,
            Ok(None) => return Err(RpcError::NoSuchBlock { method, message: block.to_string() }),
            Err(RpcError::Refused { message, .. } | RpcError::TooLarge { message, .. }) => {
                tracing::debug!(%message, "no receipts of whole blocks");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let logs = receipts.iter().flat_map(|receipt| &receipt.logs).filter(|log| log.address() == contract);
        let logs = logs.map(read_log).collect::<Option<_>>();
        logs.map(Some).ok_or_else(|| RpcError::NoAnswer { method, reason: "a log without its place".into() })
    }

    /// The receipt of a transaction; `None` while no block holds it.
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, RpcError> {
        Ok(self.full_receipt(hash).await?.map(|found| found.receipt))
    }

    /// The receipt of a transaction with its gas and whose logs it has; `None` while no block holds it.
    pub async fn full_receipt(&self, hash: B256) -> Result<Option<FullReceipt>, RpcError> {
        let method = "eth_getTransactionReceipt";
        let ask = |node: RootProvider| async move { node.raw_request(method.into(), (hash,)).await };
        let receipt: Option<ReceiptWithFees> = self.link.ask(method, ask).await?;
        Ok(receipt.and_then(|receipt| {
            let (block, succeeded, cost) = (receipt.block_hash?, receipt.status == U64::from(1), receipt.cost());
            let log_addresses = receipt.logs.iter().map(NodeLog::address).collect();
            let gas_used = receipt.gas_used.saturating_to();
            Some(FullReceipt { receipt: Receipt { hash, block, succeeded, cost }, gas_used, log_addresses })
        }))
    }

    /// The next nonce of an account by the transactions mined up to a block.
    pub async fn nonce_at(&self, account: Address, at: impl Into<BlockId>) -> Result<u64, RpcError> {
        let (method, at) = ("eth_getTransactionCount", at.into());
        self.link.ask(method, |node| async move { node.get_transaction_count(account).block_id(at).await }).await
    }

    /// An account's ETH, in wei.
    pub async fn balance(&self, account: Address) -> Result<u128, RpcError> {
        let balance = self.link.ask("eth_getBalance", |node| async move { node.get_balance(account).await }).await?;
        Ok(u128::try_from(balance).unwrap_or(u128::MAX))
    }

    /// The code of a contract; empty if there is none.
    pub async fn code(&self, account: Address) -> Result<Bytes, RpcError> {
        self.link.ask("eth_getCode", |node| async move { node.get_code_at(account).await }).await
    }

    /// The code that a contract had at this height; empty if there was none.
    pub async fn code_at(&self, account: Address, height: u64) -> Result<Bytes, RpcError> {
        self.link.ask("eth_getCode", |node| async move { node.get_code_at(account).number(height).await }).await
    }

    /// Who sent a transaction; `None` if the node does not know it.
    pub async fn sender_of(&self, hash: B256) -> Result<Option<Address>, RpcError> {
        let method = "eth_getTransactionByHash";
        let ask = |node: RootProvider| async move { node.raw_request(method.into(), (hash,)).await };
        let found: Option<TransactionSender> = self.link.ask(method, ask).await?;
        Ok(found.map(|transaction| transaction.from))
    }

    /// The tip that the node suggests, in wei per gas. One that suggests none is asked for the median
    /// tip of recent blocks, and then for its gas price, which is `base_fee` and a tip.
    pub async fn tip(&self, base_fee: u64) -> Result<u64, RpcError> {
        let limited = |wei: u128| u64::try_from(wei).unwrap_or(u64::MAX);
        let method = "eth_maxPriorityFeePerGas";
        match self.link.ask(method, |node| async move { node.get_max_priority_fee_per_gas().await }).await {
            Err(RpcError::Refused { .. }) => {}
            tip => return tip.map(limited),
        }
        let (method, latest) = ("eth_feeHistory", BlockNumberOrTag::Latest);
        match self.link.ask(method, |node| async move { node.get_fee_history(5, latest, &[50.0]).await }).await {
            Err(RpcError::Refused { .. }) => {}
            Err(error) => return Err(error),
            Ok(history) => {
                let mut tips: Vec<u128> = history.reward.unwrap_or_default().into_iter().flatten().collect();
                tips.sort_unstable();
                if let Some(median) = tips.get(tips.len() / 2) {
                    return Ok(limited(*median));
                }
            }
        }
        let price = self.link.ask("eth_gasPrice", |node| async move { node.get_gas_price().await }).await?;
        Ok(limited(price).saturating_sub(base_fee))
    }

    /// Calls a contract at a block, without a transaction.
    ///
    /// # Errors
    /// [`RpcError`]; of a call that reverts with what it returned.
    pub async fn call<C: SolCall>(&self, call: &EthCall, at: BlockId) -> Result<C::Return, RpcError> {
        let method = "eth_call";
        let mut request = TransactionRequest::default().to(call.to).input(TransactionInput::new(call.data.clone()));
        request.from = call.from;
        request.gas = call.gas;
        let answer = self.link.ask(method, |node| async move { node.call(request).block(at).await }).await?;
        C::abi_decode_returns(&answer).map_err(|error| RpcError::NoAnswer { method, reason: error.to_string() })
    }

    /// Sends signed bytes and says what became of them.
    pub async fn send(&self, raw: &[u8]) -> (SendOutcome, Option<String>) {
        let method = "eth_sendRawTransaction";
        let sent = self.link.ask(method, |node| async move { node.send_raw_transaction(raw).await.map(drop) }).await;
        match sent {
            // Only the answer counts: the follower sees what is mined.
            Ok(_) => (SendOutcome::Accepted, None),
            Err(RpcError::Refused { message, .. }) => (classify(&message), Some(message)),
            Err(error) => (SendOutcome::Unknown, Some(error.to_string())),
        }
    }
}

fn read_log(log: &NodeLog) -> Option<Log> {
    Some(Log {
        index: log.log_index?,
        tx_hash: log.transaction_hash?,
        topics: log.topics().to_vec(),
        data: log.data().data.clone(),
    })
}
