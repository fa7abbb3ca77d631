//! The node: the few questions that the relayer asks, each bounded in time.

use std::time::Duration;

use alloy::{
    consensus::BlockHeader,
    eips::{BlockId, BlockNumberOrTag},
    network::Ethereum,
    providers::{Provider, RootProvider},
    rpc::{
        client::RpcClient,
        types::{BlockTransactions, Filter, TransactionInput, TransactionRequest},
    },
    transports::{RpcError as AlloyError, TransportErrorKind},
};
use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolCall;
use url::Url;

use super::classify::{Sent, classify};
use crate::ledger::blocks::{Block, Log};

const PATIENCE: Duration = Duration::from_secs(10);

/// Why the node gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// It said no.
    #[error("the node refuses {method}: {message}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// In its words.
        message: String,
        /// What a reverted call returned.
        revert: Option<Bytes>,
    },
    /// No answer, or none that can be read.
    #[error("the node gives no answer to {method}: {reason}")]
    NoAnswer {
        /// What was asked.
        method: &'static str,
        /// Why.
        reason: String,
    },
}

impl RpcError {
    fn of(method: &'static str) -> impl Fn(AlloyError<TransportErrorKind>) -> Self {
        move |error| match error {
            AlloyError::ErrorResp(payload) => {
                Self::Refused { method, revert: payload.as_revert_data(), message: payload.message.into_owned() }
            }
            // The URL of an endpoint can carry its key: say what failed, not where.
            AlloyError::Transport(TransportErrorKind::Custom(error)) => Self::NoAnswer {
                method,
                reason: error
                    .downcast_ref::<reqwest::Error>()
                    .map_or_else(|| "no connection".into(), connection_failure),
            },
            AlloyError::DeserError { err, .. } => Self::NoAnswer { method, reason: err.to_string() },
            other => Self::NoAnswer { method, reason: other.to_string() },
        }
    }
}

fn connection_failure(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "it took too long"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    kind.into()
}

/// A block as the node tells it.
#[derive(Clone, Debug)]
pub struct FullBlock {
    /// Its place in the chain.
    pub block: Block,
    /// Its base fee, in wei per gas.
    pub base_fee: u64,
    /// Its transactions.
    pub transactions: Vec<B256>,
}

/// What a block says about one of our transactions.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// The transaction.
    pub hash: B256,
    /// The block.
    pub block: B256,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// What it cost, in wei.
    pub cost: u128,
}

/// A call without a transaction.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls.
    pub from: Option<Address>,
    /// The contract.
    pub to: Address,
    /// The call.
    pub data: Bytes,
    /// With how much gas; absent: the node's maximum.
    pub gas: Option<u64>,
}

/// A node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rpc {
    provider: RootProvider<Ethereum>,
}

impl Rpc {
    /// The node at this address.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(url: Url) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self { provider: RootProvider::new(RpcClient::new_http_with_client(client, url)) })
    }

    /// Its chain.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        self.provider.get_chain_id().await.map_err(RpcError::of("eth_chainId"))
    }

    /// A block; `None` if the node does not know it.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn block(&self, id: impl Into<BlockId>) -> Result<Option<FullBlock>, RpcError> {
        let method = "eth_getBlock";
        let Some(block) = self.provider.get_block(id.into()).await.map_err(RpcError::of(method))? else {
            return Ok(None);
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
            transactions,
        }))
    }

    /// The last block.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn latest(&self) -> Result<FullBlock, RpcError> {
        self.block(BlockNumberOrTag::Latest)
            .await?
            .ok_or_else(|| RpcError::NoAnswer { method: "eth_getBlock", reason: "it has no blocks".into() })
    }

    /// The height of the last block that the node calls final.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn finalized(&self) -> Result<u64, RpcError> {
        Ok(self.block(BlockNumberOrTag::Finalized).await?.map_or(0, |block| block.block.number))
    }

    /// The logs of `contract` in the block with this hash, in order. By hash, so that they belong to
    /// exactly this block whatever the chain does meanwhile.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn logs(&self, contract: Address, block: B256) -> Result<Vec<Log>, RpcError> {
        let filter = Filter::new().address(contract).at_block_hash(block);
        let logs = self.provider.get_logs(&filter).await.map_err(RpcError::of("eth_getLogs"))?;
        logs.into_iter()
            .map(|log| {
                Some(Log {
                    index: log.log_index?,
                    tx_hash: log.transaction_hash?,
                    topics: log.topics().to_vec(),
                    data: log.data().data.clone(),
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| RpcError::NoAnswer { method: "eth_getLogs", reason: "a log without its place".into() })
    }

    /// The receipt of a transaction; `None` while no block holds it.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, RpcError> {
        let receipt =
            self.provider.get_transaction_receipt(hash).await.map_err(RpcError::of("eth_getTransactionReceipt"))?;
        Ok(receipt.and_then(|receipt| {
            Some(Receipt {
                hash,
                block: receipt.block_hash?,
                succeeded: receipt.status(),
                cost: u128::from(receipt.gas_used).saturating_mul(receipt.effective_gas_price),
            })
        }))
    }

    /// The next nonce of an account by mined transactions.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn nonce(&self, account: Address) -> Result<u64, RpcError> {
        self.provider.get_transaction_count(account).await.map_err(RpcError::of("eth_getTransactionCount"))
    }

    /// An account's ETH, in wei.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn balance(&self, account: Address) -> Result<u128, RpcError> {
        let balance = self.provider.get_balance(account).await.map_err(RpcError::of("eth_getBalance"))?;
        Ok(u128::try_from(balance).unwrap_or(u128::MAX))
    }

    /// The code of a contract; empty if there is none.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn code(&self, account: Address) -> Result<Bytes, RpcError> {
        self.provider.get_code_at(account).await.map_err(RpcError::of("eth_getCode"))
    }

    /// The tip that the node suggests, in wei per gas.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn tip(&self) -> Result<u64, RpcError> {
        let tip =
            self.provider.get_max_priority_fee_per_gas().await.map_err(RpcError::of("eth_maxPriorityFeePerGas"))?;
        Ok(u64::try_from(tip).unwrap_or(u64::MAX))
    }

    /// Calls a contract at a block, without a transaction.
    ///
    /// # Errors
    /// [`RpcError`]; of a call that reverts with what it returned.
    pub async fn call<C: SolCall>(&self, call: Call, at: impl Into<BlockId>) -> Result<C::Return, RpcError> {
        let method = "eth_call";
        let mut request = TransactionRequest::default().to(call.to).input(TransactionInput::new(call.data.clone()));
        request.from = call.from;
        request.gas = call.gas;
        let answer = self.provider.call(request).block(at.into()).await.map_err(RpcError::of(method))?;
        C::abi_decode_returns(&answer).map_err(|error| RpcError::NoAnswer { method, reason: error.to_string() })
    }

    /// Sends signed bytes and says what became of them.
    pub async fn send(&self, raw: &[u8]) -> (Sent, Option<String>) {
        let method = "eth_sendRawTransaction";
        match self.provider.send_raw_transaction(raw).await.map_err(RpcError::of(method)) {
            // Only the answer counts: the follower sees what is mined.
            Ok(_) => (Sent::Accepted, None),
            Err(RpcError::Refused { message, .. }) => (classify(&message), Some(message)),
            Err(error @ RpcError::NoAnswer { .. }) => (Sent::Unknown, Some(error.to_string())),
        }
    }
}
