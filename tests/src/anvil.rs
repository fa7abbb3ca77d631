//! A node of its own for every test.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use alloy::providers::{Provider, RootProvider};
use alloy_primitives::{Address, B256, hex};
use alloy_sol_types::SolCall;
use eyre::{Result, bail};
use serde_json::{Value, json};
use url::Url;

use crate::{
    eventually,
    process::{Process, free_port},
};

/// A running anvil. It mines each transaction at once until told otherwise.
#[derive(Debug)]
pub struct Anvil {
    process: Process,
    url: Url,
    provider: RootProvider,
}

impl Anvil {
    pub(crate) async fn start(dir: &Path, chain_id: u64) -> Result<Self> {
        let port = free_port()?;
        let url: Url = format!("http://127.0.0.1:{port}").parse()?;
        let mut command = Command::new(binary()?);
        // Silent: it would print the keys of its accounts.
        command.args(["--silent", "--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--chain-id", &chain_id.to_string()]);
        // Blocks get the tag `finalized` when there are two epochs on top of them.
        command.args(["--slots-in-an-epoch", "1"]);
        let mut process = Process::start(&mut command, &dir.join("anvil.log"))?;
        let provider = RootProvider::new_http(url.clone());
        eventually("anvil answers", async || {
            process.must_run()?;
            Ok(provider.get_chain_id().await.ok())
        })
        .await?;
        Ok(Self { process, url, provider })
    }

    /// Where it listens.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// For everything that is not below.
    pub const fn provider(&self) -> &RootProvider {
        &self.provider
    }

    /// Whether each transaction is mined at once; otherwise blocks are made by [`Anvil::mine`] alone.
    ///
    /// # Errors
    /// If anvil refuses; so for all calls.
    pub async fn automine(&self, on: bool) -> Result<()> {
        self.rpc("evm_setAutomine", json!([on])).await.map(drop)
    }

    /// From now on a block is mined every so many seconds, and only then.
    pub async fn mine_every(&self, seconds: u64) -> Result<()> {
        self.rpc("evm_setIntervalMining", json!([seconds])).await.map(drop)
    }

    /// Mines this many blocks.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        self.rpc("anvil_mine", json!([blocks])).await.map(drop)
    }

    /// Advances the chain's time by this many seconds, and mines a block.
    pub async fn pass(&self, seconds: u64) -> Result<()> {
        self.rpc("evm_increaseTime", json!([seconds])).await?;
        self.mine(1).await
    }

    /// Replaces the last `depth` blocks by empty ones; their transactions are gone.
    pub async fn reorg(&self, depth: u64) -> Result<()> {
        self.rpc("anvil_reorg", json!([depth, []])).await.map(drop)
    }

    /// The hashes of what waits for a block.
    pub async fn waiting(&self) -> Result<Vec<B256>> {
        let pool = self.rpc("txpool_content", json!([])).await?;
        let senders = pool.get("pending").and_then(Value::as_object).into_iter().flatten();
        let transactions = senders.filter_map(|(_, by_nonce)| by_nonce.as_object()).flatten();
        let hashes = transactions.filter_map(|(_, transaction)| transaction.get("hash")?.as_str());
        Ok(hashes.map(str::parse).collect::<Result<_, _>>()?)
    }

    /// One of them, once there is any: what is said to be sent may still be on its way.
    pub async fn arrived(&self) -> Result<B256> {
        eventually("a transaction waits for a block", async || Ok(self.waiting().await?.first().copied())).await
    }

    /// Sets an account's balance, in wei.
    pub async fn set_balance(&self, account: Address, wei: u128) -> Result<()> {
        self.rpc("anvil_setBalance", json!([account, format!("{wei:#x}")])).await.map(drop)
    }

    /// Sets how much gas the transactions of a block may use.
    pub async fn set_block_gas_limit(&self, gas: u64) -> Result<()> {
        self.rpc("evm_setBlockGasLimit", json!([format!("{gas:#x}")])).await.map(drop)
    }

    /// Sets an account's code.
    pub async fn set_code(&self, account: Address, code: &[u8]) -> Result<()> {
        self.rpc("anvil_setCode", json!([account, hex::encode_prefixed(code)])).await.map(drop)
    }

    /// Sets a word of a contract's storage.
    pub async fn set_storage(&self, contract: Address, slot: B256, word: B256) -> Result<()> {
        self.rpc("anvil_setStorageAt", json!([contract, slot, word])).await.map(drop)
    }

    /// Sets the next block's base fee, in wei per gas.
    pub async fn set_base_fee(&self, wei: u64) -> Result<()> {
        self.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{wei:#x}")])).await.map(drop)
    }

    /// Sends a call from any account, with or without its key.
    pub async fn send_as(&self, account: Address, to: Address, call: &impl SolCall) -> Result<()> {
        self.set_balance(account, 10_u128.pow(18)).await?;
        self.rpc("anvil_impersonateAccount", json!([account])).await?;
        let data = hex::encode_prefixed(call.abi_encode());
        self.rpc("eth_sendTransaction", json!([{ "from": account, "to": to, "data": data }])).await.map(drop)
    }

    /// Forgets a transaction that waits for a block.
    pub async fn drop_transaction(&self, hash: B256) -> Result<()> {
        self.rpc("anvil_dropTransaction", json!([hash])).await.map(drop)
    }

    /// Forgets all transactions that wait for a block.
    pub async fn drop_all_transactions(&self) -> Result<()> {
        self.rpc("anvil_dropAllTransactions", json!([])).await.map(drop)
    }

    /// What gas costs at least in the next block, in wei.
    pub async fn next_base_fee(&self, wei: u64) -> Result<()> {
        self.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{wei:#x}")])).await.map(drop)
    }

    async fn rpc(&self, method: &'static str, params: Value) -> Result<Value> {
        Ok(self.provider.raw_request(method.into(), params).await?)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}

/// `$ANVIL`, or one on PATH, or the one that package-lock.json pins.
fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ANVIL") {
        return Ok(path.into());
    }
    // npm's launcher orphans the anvil that it starts when it is killed.
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("anvil")).find(|file| {
        file.canonicalize().is_ok_and(|real| !real.components().any(|part| part.as_os_str() == "node_modules"))
    });
    if let Some(binary) = on_path {
        return Ok(binary);
    }
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let pinned = format!("../node_modules/@foundry-rs/anvil-{os}-{arch}/bin/anvil");
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join(pinned);
    if !pinned.is_file() {
        bail!("no anvil found: run `npm ci` in the repository, or set ANVIL to one");
    }
    Ok(pinned)
}
