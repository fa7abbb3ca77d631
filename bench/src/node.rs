//! A node of its own: anvil, asked over HTTP.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use alloy_primitives::{Address, Bytes, hex};
use eyre::{OptionExt, Result, WrapErr, bail};
use serde_json::{Value, json};
use stipend_core::DEV_CHAIN_ID;
use url::Url;

use crate::{
    http::{Connection, post},
    process::{Process, eventually, free_port},
};

/// Gas of a block: what a busy chain has, so that the node is the limit and not the chain's rules.
const BLOCK_GAS: &str = "300000000";

/// Wei that everybody gets who sends transactions.
const FUNDS: u128 = 1_000_000_000_000_000_000_000;

/// When blocks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mining {
    /// One for each transaction, at once.
    Instant,
    /// One a second.
    EverySecond,
    Off,
}

/// A running anvil.
#[derive(Debug)]
pub(crate) struct Node {
    process: Process,
    pub(crate) address: SocketAddr,
}

impl Node {
    /// Starts one, which makes a block for each transaction at once.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let port = free_port()?;
        let program = std::env::var_os("ANVIL").ok_or_eyre("ANVIL names no anvil: start this by scripts/bench")?;
        let mut command = Command::new(program);
        // Silent: it would print the keys of its accounts.
        command.args(["--silent", "--host", "127.0.0.1", "--port", &port.to_string(), "--gas-limit", BLOCK_GAS]);
        command.args(["--chain-id", &DEV_CHAIN_ID.to_string()]);
        let process = Process::start(&mut command, dir.join("anvil.log"))?;
        let mut node = Self { process, address: (Ipv4Addr::LOCALHOST, port).into() };
        eventually("anvil answers", Duration::from_millis(50), async || {
            node.process.must_run()?;
            Ok(Connection::open(node.address).await.ok().map(drop))
        })
        .await?;
        Ok(node)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn url(&self) -> Result<Url> {
        Ok(format!("http://{}", self.address).parse()?)
    }

    /// Asks it something.
    ///
    /// # Errors
    /// If it refuses.
    pub(crate) async fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        let mut connection = Connection::open(self.address).await?;
        let answer = connection.call(&request(self.address, method, &params)).await?;
        result(answer.body).wrap_err_with(|| method.to_owned())
    }

    pub(crate) async fn mine(&self, mining: Mining) -> Result<()> {
        self.rpc("evm_setAutomine", json!([mining == Mining::Instant])).await?;
        if mining != Mining::Instant {
            self.rpc("evm_setIntervalMining", json!([u64::from(mining == Mining::EverySecond)])).await?;
        }
        Ok(())
    }

    pub(crate) async fn fund(&self, account: Address) -> Result<()> {
        self.rpc("anvil_setBalance", json!([account, format!("{FUNDS:#x}")])).await.map(drop)
    }

    /// The height of its head.
    pub(crate) async fn height(&self) -> Result<u64> {
        number(&self.rpc("eth_blockNumber", json!([])).await?)
    }

    /// How many transactions of an account are in blocks.
    pub(crate) async fn nonce(&self, account: Address) -> Result<u64> {
        number(&self.rpc("eth_getTransactionCount", json!([account, "latest"])).await?)
    }

    pub(crate) async fn estimate(&self, from: Address, to: Address, input: &Bytes) -> Result<u64> {
        number(&self.rpc("eth_estimateGas", json!([{ "from": from, "to": to, "data": input }])).await?)
    }
}

/// What sends a signed transaction, ready to be written.
pub(crate) fn send_raw(address: SocketAddr, transaction: &[u8]) -> Vec<u8> {
    request(address, "eth_sendRawTransaction", &json!([hex::encode_prefixed(transaction)]))
}

fn request(address: SocketAddr, method: &str, params: &Value) -> Vec<u8> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    post(address, "/", &[], body.to_string().as_bytes())
}

/// What an answer says.
///
/// # Errors
/// If it is an error.
pub(crate) fn result(body: &[u8]) -> Result<Value> {
    let mut answer: Value = serde_json::from_slice(body)?;
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => bail!("{answer}"),
    }
}

fn number(value: &Value) -> Result<u64> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).ok_or_eyre("no number")?;
    Ok(u64::from_str_radix(digits, 16)?)
}
