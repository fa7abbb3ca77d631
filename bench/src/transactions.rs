//! Transactions that are signed beforehand and sent in bulk, by several accounts at the same time.

use std::time::Duration;

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    signers::{SignerSync, local::PrivateKeySigner},
};
use alloy_primitives::{Address, Bytes, TxKind, U256};
use eyre::Result;
use stipend_core::DEV_CHAIN_ID;
use tokio::task::{JoinSet, LocalSet};

use crate::{
    http::Connection,
    node::{Node, result, send_raw},
    process::eventually,
};

/// Wei per gas: more than the base fee rises to in any run.
const MAX_FEE: u128 = 1_000_000_000_000;

/// What one account sends.
#[derive(Debug)]
pub(crate) struct Sender {
    signer: PrivateKeySigner,
    nonce: u64,
    requests: Vec<Vec<u8>>,
}

impl Sender {
    /// An account, with ether to pay for gas.
    pub(crate) async fn new(node: &Node, signer: PrivateKeySigner) -> Result<Self> {
        node.fund(signer.address()).await?;
        let nonce = node.nonce(signer.address()).await?;
        Ok(Self { signer, nonce, requests: Vec::new() })
    }

    pub(crate) const fn address(&self) -> Address {
        self.signer.address()
    }

    /// Signs a call, to be sent.
    pub(crate) fn call(&mut self, node: &Node, to: Address, input: Bytes, gas_limit: u64) -> Result<()> {
        let transaction = TxEip1559 {
            chain_id: DEV_CHAIN_ID,
            nonce: self.nonce,
            gas_limit,
            max_fee_per_gas: MAX_FEE,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(to),
            value: U256::ZERO,
            input,
            access_list: Default::default(),
        };
        let signature = self.signer.sign_hash_sync(&transaction.signature_hash())?;
        let signed = TxEnvelope::from(transaction.into_signed(signature));
        self.nonce += 1;
        self.requests.push(send_raw(node.address, &signed.encoded_2718()));
        Ok(())
    }
}

/// Sends everything, each account on a connection of its own, and waits until it is in blocks.
///
/// # Errors
/// If the node refuses one.
pub(crate) async fn send_all(node: &Node, senders: &mut [Sender]) -> Result<()> {
    let (local, mut set) = (LocalSet::new(), JoinSet::new());
    for sender in senders.iter_mut() {
        let (address, requests) = (node.address, std::mem::take(&mut sender.requests));
        let sending = async move {
            let mut connection = Connection::open(address).await?;
            for request in requests {
                result(connection.call(&request).await?.body)?;
            }
            Ok::<_, eyre::Report>(())
        };
        set.spawn_local_on(sending, &local);
    }
    local
        .run_until(async {
            while let Some(sent) = set.join_next().await {
                sent??;
            }
            Ok::<_, eyre::Report>(())
        })
        .await?;
    for sender in senders {
        eventually("transactions are mined", Duration::from_millis(20), async || {
            Ok((node.nonce(sender.address()).await? >= sender.nonce).then_some(()))
        })
        .await?;
    }
    Ok(())
}
