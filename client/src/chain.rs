//! What an operator does on chain with a key and a node of their own: look, approve, open, revoke,
//! deploy. No relayer is needed, and none is trusted.

mod escrow;
mod reverts;

use std::time::{Duration, Instant};

use alloy::{
    consensus::TxEnvelope,
    eips::{BlockNumberOrTag, eip2718::Encodable2718},
    network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder},
    providers::{Provider, ProviderBuilder, RootProvider},
    rpc::types::{TransactionReceipt, TransactionRequest},
    signers::local::PrivateKeySigner,
    transports::{RpcError, TransportError, TransportErrorKind},
};
use alloy_primitives::{Address, B256, Bytes, TxKind};
use alloy_sol_types::SolCall;
use stipend_bindings::{OutOfRange, deployment};
use stipend_core::{Code, MandateId, api::BlockRef, host};
use url::Url;

pub use escrow::{Ended, Escrow, OnChain, Refunded, Rolled};

/// How long a transaction may take to be mined.
const MINED_WITHIN: Duration = Duration::from_secs(120);

/// How often it is looked for.
const POLL: Duration = Duration::from_millis(200);

/// After how long without a receipt the same bytes are sent again.
const RESEND: Duration = Duration::from_secs(10);

/// How long a node may take to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Why something on chain did not work.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The escrow refuses the payment.
    #[error("the contract refuses the payment: {0}")]
    Refused(Code),
    /// A mandate with exactly these terms is open: for a caller who wants that, this is success.
    #[error("{0} is open already")]
    AlreadyOpened(MandateId),
    /// It was revoked, swept or rolled before, or revoked before anybody opened it.
    #[error("{0} has ended already: its terms never open again")]
    AlreadyEnded(MandateId),
    /// Any other revert.
    #[error("the contract reverts: {0}")]
    Reverted(String),
    /// The node refuses, or does not answer.
    #[error("{method} fails at the node: {reason}")]
    Node {
        /// What it was asked.
        method: &'static str,
        /// What it said, or why nothing came; without its URL, which may hold a key.
        reason: String,
    },
    /// Sent, and not seen in a block.
    #[error("transaction {hash} is not mined after {} s: it may still be; look it up before trying again", MINED_WITHIN.as_secs())]
    NotMined {
        /// The transaction.
        hash: B256,
    },
    /// No contract where one should be.
    #[error("there is no contract at {0} on this chain: check the address and the RPC URL")]
    NoCode(Address),
    /// What a token's messages are signed for can't be told.
    #[error(
        "the token {0} does not say for which name and version its messages are signed, or says otherwise than its \
         DOMAIN_SEPARATOR: approve by a transaction instead of a message"
    )]
    UnknownTokenDomain(Address),
    /// The address has other code than the escrow's.
    #[error(
        "what stands at {0} is not the MandateEscrow that this program was built with: check the address and the RPC URL, and do not send anything there"
    )]
    NotAnEscrow(Address),
    /// The chain lacks the contract through which escrows are created.
    #[error(
        "the deterministic deployment proxy, through which escrows are deployed, is not at {at} on this chain. To put it \
         there: send {sender} 0.01 ETH, which pays for 100,000 gas at 100 gwei, and publish its presigned transaction, with \
         `cast publish {transaction}` or eth_sendRawTransaction",
        at = deployment::DEPLOYER,
        sender = deployment::DEPLOYER_SENDER,
        transaction = deployment::DEPLOYER_TRANSACTION
    )]
    NoDeployer,
    /// The account has sent what no block has taken in time.
    #[error("transactions of {0} still wait for a block: try again once they are mined")]
    Waiting(Address),
    /// A number that does not fit.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Cannot happen with a sound node and key.
    #[error("{0}")]
    Other(String),
}

fn node(method: &'static str) -> impl Fn(TransportError) -> ChainError {
    move |error| match error.as_error_resp().and_then(|error| error.as_revert_data()) {
        Some(data) => reverts::read(&data),
        None => ChainError::Node { method, reason: reason(&error) },
    }
}

fn reason(error: &TransportError) -> String {
    match error {
        RpcError::ErrorResp(error) => format!("{} (code {})", error.message, error.code),
        RpcError::Transport(TransportErrorKind::HttpError(error)) => format!("HTTP status {}", error.status),
        RpcError::Transport(TransportErrorKind::Custom(error)) => match error.downcast_ref::<reqwest::Error>() {
            Some(error) if error.is_connect() => "no connection".into(),
            Some(error) if error.is_timeout() => "no answer in time".into(),
            _ => "the connection broke".into(),
        },
        _ => "an answer that no node gives".into(),
    }
}

/// A chain, seen through one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Chain {
    provider: RootProvider,
    id: u64,
}

impl Chain {
    /// Connects to a node and asks which chain it is on.
    ///
    /// # Errors
    /// [`ChainError`], if it does not answer; so for all calls.
    pub async fn connect(node_url: Url) -> Result<Self, ChainError> {
        let mut http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT);
        if node_url.host_str().is_some_and(host::is_loopback) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| ChainError::Other(error.to_string()))?;
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_reqwest(http, node_url);
        let id = provider.get_chain_id().await.map_err(node("eth_chainId"))?;
        Ok(Self { provider, id })
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The latest block.
    pub async fn head(&self) -> Result<BlockRef, ChainError> {
        let block = self.provider.get_block_by_number(BlockNumberOrTag::Latest).await;
        let block = block.map_err(node("eth_getBlockByNumber"))?;
        let block = block.ok_or_else(|| ChainError::Other("the node has no latest block".into()))?;
        let header = block.header;
        Ok(BlockRef { number: header.number, hash: header.hash, time: header.timestamp })
    }

    /// Whether there is a contract.
    pub async fn has_code(&self, address: Address) -> Result<bool, ChainError> {
        Ok(!self.code(address).await?.is_empty())
    }

    /// The code of a contract; empty if there is none.
    pub async fn code(&self, address: Address) -> Result<Bytes, ChainError> {
        self.provider.get_code_at(address).await.map_err(node("eth_getCode"))
    }

    /// How many transactions of an account are in blocks.
    pub async fn transactions_of(&self, account: Address) -> Result<u64, ChainError> {
        self.provider.get_transaction_count(account).latest().await.map_err(node("eth_getTransactionCount"))
    }

    /// Whether transactions of an account wait for a block.
    pub async fn is_waiting(&self, account: Address) -> Result<bool, ChainError> {
        let all = self.provider.get_transaction_count(account).pending().await;
        Ok(all.map_err(node("eth_getTransactionCount"))? > self.transactions_of(account).await?)
    }

    /// Waits until no transaction of an account waits for a block.
    ///
    /// # Errors
    /// [`ChainError::Waiting`], if that takes too long.
    pub async fn settled(&self, account: Address) -> Result<(), ChainError> {
        let start = Instant::now();
        while self.is_waiting(account).await? {
            if start.elapsed() >= MINED_WITHIN {
                return Err(ChainError::Waiting(account));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The block in which an escrow was deployed; `None` if the node does not know the state after old blocks.
    pub async fn deployed_in(&self, escrow: Address) -> Result<Option<u64>, ChainError> {
        // None at `before`, and code at `block`.
        let (mut before, mut block) = (0, self.head().await?.number);
        while block - before > 1 {
            let middle = before + (block - before) / 2;
            match self.had_code(escrow, middle).await? {
                Some(true) => block = middle,
                Some(false) => before = middle,
                None => return Ok(None),
            }
        }
        // Some nodes tell of no code where they don't know. What the escrow was created by was there before it.
        let known = self.had_code(deployment::DEPLOYER, before).await? == Some(true);
        Ok(known.then_some(block))
    }

    /// Whether there was a contract after this block, if the node knows.
    async fn had_code(&self, address: Address, block: u64) -> Result<Option<bool>, ChainError> {
        match self.provider.get_code_at(address).number(block).await {
            Ok(code) => Ok(Some(!code.is_empty())),
            Err(RpcError::ErrorResp(_)) => Ok(None),
            Err(error) => Err(node("eth_getCode")(error)),
        }
    }

    /// That an escrow of this token can be deployed here.
    async fn check_deployment(&self, token: Address) -> Result<(), ChainError> {
        if self.code(deployment::DEPLOYER).await? != deployment::DEPLOYER_CODE {
            return Err(ChainError::NoDeployer);
        }
        // The proxy does not pass on why a constructor reverts.
        let request = TransactionRequest::default().input(deployment::creation_code(token).into()).into_create();
        self.provider.call(request).latest().await.map_err(node("eth_call")).map(drop)
    }

    /// Asks a contract.
    pub async fn view<C: SolCall>(&self, contract: Address, call: &C) -> Result<C::Return, ChainError> {
        // A call without a sender comes from the zero address, which a proxy without an admin takes for its admin.
        let request = TransactionRequest::default().from(contract).to(contract).input(call.abi_encode().into());
        let answer = self.provider.call(request).latest().await.map_err(node("eth_call"))?;
        C::abi_decode_returns(&answer).map_err(|error| ChainError::Other(format!("{contract} answers oddly: {error}")))
    }

    /// Sends a call of a contract and waits until it is mined.
    pub async fn send(
        &self,
        from: &PrivateKeySigner,
        contract: Address,
        call: &impl SolCall,
    ) -> Result<TransactionReceipt, ChainError> {
        self.transact(from, TxKind::Call(contract), call.abi_encode().into()).await
    }

    /// Creates a contract and waits until it is mined.
    pub async fn create(&self, from: &PrivateKeySigner, code: Bytes) -> Result<Address, ChainError> {
        let receipt = self.transact(from, TxKind::Create, code).await?;
        receipt.contract_address.ok_or_else(|| ChainError::Other("the node names no created contract".into()))
    }

    async fn transact(
        &self,
        from: &PrivateKeySigner,
        to: TxKind,
        input: Bytes,
    ) -> Result<TransactionReceipt, ChainError> {
        let sender = from.address();
        let mut request = TransactionRequest::default().from(sender).input(input.into());
        request.to = Some(to);
        // The estimate runs the call, so what would revert is refused here, for nothing.
        let gas = self.provider.estimate_gas(request.clone()).await.map_err(node("eth_estimateGas"))?;
        let fees = self.provider.estimate_eip1559_fees().await.map_err(node("eth_feeHistory"))?;
        let nonce = self.provider.get_transaction_count(sender).pending().await;
        let filled = request
            .clone()
            .with_chain_id(self.id)
            .with_nonce(nonce.map_err(node("eth_getTransactionCount"))?)
            // Room for what other transactions change until this one is mined.
            .with_gas_limit(gas.saturating_add(gas / 4))
            .with_max_fee_per_gas(fees.max_fee_per_gas)
            .with_max_priority_fee_per_gas(fees.max_priority_fee_per_gas);
        let envelope = filled.build(&EthereumWallet::from(from.clone())).await;
        let envelope = envelope.map_err(|error| ChainError::Other(error.to_string()))?;

        let receipt = self.land(&envelope).await?;
        if receipt.status() {
            return Ok(receipt);
        }
        let again = self.provider.call(request).block(receipt.block_number.unwrap_or_default().into()).await;
        Err(again.map_err(node("eth_call")).err().unwrap_or_else(|| {
            ChainError::Reverted(format!(
                "transaction {} reverted, for a reason that is gone",
                receipt.transaction_hash
            ))
        }))
    }

    /// Sends signed bytes, and sends them again, until they are mined or time is up.
    async fn land(&self, envelope: &TxEnvelope) -> Result<TransactionReceipt, ChainError> {
        let bytes = envelope.encoded_2718();
        let hash = *envelope.tx_hash();
        let start = Instant::now();
        let mut attempts = 0_u32;
        while start.elapsed() < MINED_WITHIN {
            if start.elapsed() >= RESEND * attempts {
                let sent = self.provider.send_raw_transaction(&bytes).await;
                // A node that rejects the first attempt does not have it. Later on it may well say "already known"
                // or "nonce too low" of what it holds or has mined, and no answer at all says nothing.
                if let Err(error @ RpcError::ErrorResp(_)) = sent
                    && attempts == 0
                {
                    return Err(node("eth_sendRawTransaction")(error));
                }
                attempts += 1;
            }
            if let Ok(Some(receipt)) = self.provider.get_transaction_receipt(hash).await {
                return Ok(receipt);
            }
            tokio::time::sleep(POLL).await;
        }
        Err(ChainError::NotMined { hash })
    }
}
