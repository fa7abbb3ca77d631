//! A node that follows a script: a made-up chain behind real HTTP, which lags, lies or refuses as a
//! test has it.

use std::sync::{Arc, Mutex, MutexGuard};

use alloy::rpc::types::{Block as RpcBlock, BlockTransactions, Filter, FilterBlockOption, Log as RpcLog};
use alloy_primitives::{Address, B256, Bytes, LogData};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::Node;
use crate::ledger::blocks::Block;

/// The contract whose logs there are.
pub(crate) const CONTRACT: Address = Address::repeat_byte(0xee);

/// A block of the script.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) block: Block,
    /// How many logs of [`CONTRACT`] it has.
    pub(crate) logs: u64,
}

/// What the node does.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) chain_id: u64,
    pub(crate) chain: Vec<Made>,
    /// Blocks that one `eth_getLogs` may span.
    pub(crate) max_range: Option<u64>,
    /// Logs that one `eth_getLogs` over a range gives; the rest is left out without a word.
    pub(crate) max_logs: Option<usize>,
    /// Heights whose logs `eth_getLogs` always leaves out.
    pub(crate) forgets: Vec<u64>,
    /// What `eth_getLogs` does to the logs of each block.
    pub(crate) garbles: Option<fn(&mut Vec<RpcLog>)>,
    /// The place in its block that a log has everywhere, instead of its own.
    pub(crate) log_index: Option<u64>,
    /// Methods that it does not offer.
    pub(crate) lacks: Vec<&'static str>,
    /// Methods that are answered by this HTTP status.
    pub(crate) fails: Vec<(&'static str, u16)>,
    /// Methods, and for `eth_getLogs` over a range how many blocks, as they were asked.
    pub(crate) asked: Vec<(String, u64)>,
    /// The next nonce of every account.
    pub(crate) nonce: u64,
    /// Every account's ETH.
    pub(crate) balance: Option<u64>,
    /// One in this many requests is not answered.
    pub(crate) lose_every: Option<usize>,
    /// In which words a range is refused; absent: "eth_getLogs is limited to a … range".
    pub(crate) range_error: Option<&'static str>,
    /// The block that is called final, if any, instead of the third last.
    pub(crate) finalized: Option<Option<Block>>,
    /// Answers to methods that nobody wrote a script for.
    pub(crate) answers: Vec<(&'static str, Value)>,
    /// How signed bytes are refused, if they are.
    pub(crate) send_error: Option<String>,
}

/// The node, while it stands.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) url: url::Url,
    script: Arc<Mutex<Script>>,
    server: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Scripted {
    /// A node on chain 1 with this many blocks on top of the first.
    pub(crate) async fn start(blocks: u64) -> Self {
        // Fails only if there is one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let genesis = Block { number: 0, hash: hash(0, 0), parent: B256::ZERO, time: 1_000 };
        let script = Script { chain_id: 1, chain: vec![Made { block: genesis, logs: 0 }], ..Script::default() };
        let script = Arc::new(Mutex::new(script));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secret-path?key=secret", listener.local_addr().unwrap()).parse().unwrap();
        let router = Router::new().route("/{*path}", post(answer)).with_state(Arc::clone(&script));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let this = Self { url, script, server };
        this.mine(blocks, 0);
        this
    }

    pub(crate) fn node(&self) -> Node {
        Node::new(self.url.clone()).unwrap()
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Adds blocks; `fork` tells those of one height apart.
    pub(crate) fn mine(&self, blocks: u64, fork: u8) {
        let mut script = self.script();
        for _ in 0..blocks {
            let last = script.chain.last().unwrap().block;
            let number = last.number + 1;
            let block = Block { number, hash: hash(number, fork), parent: last.hash, time: last.time + 1 };
            script.chain.push(Made { block, logs: 0 });
        }
    }

    pub(crate) fn block(&self, number: usize) -> Block {
        self.script().chain[number].block
    }

    pub(crate) fn set_logs(&self, number: usize, logs: u64) {
        self.script().chain[number].logs = logs;
    }

    /// How many blocks each `eth_getLogs` over a range was about.
    pub(crate) fn ranges(&self) -> Vec<u64> {
        self.script().asked.iter().filter(|(method, _)| method == "eth_getLogs").map(|(_, blocks)| *blocks).collect()
    }
}

fn hash(number: u64, fork: u8) -> B256 {
    let mut hash = B256::left_padding_from(&(number + 1).to_be_bytes());
    hash.0[0] = fork;
    hash
}

impl Script {
    fn find(&self, id: &Value) -> Option<&Made> {
        let id = id.get("blockHash").unwrap_or(id).as_str().unwrap_or_default();
        match id {
            "latest" => self.chain.last(),
            "finalized" => self.chain.iter().rev().nth(2).or(self.chain.first()),
            id if id.len() == 66 => self.chain.iter().find(|made| made.block.hash.to_string() == id),
            id => self.chain.get(usize::from_str_radix(id.trim_start_matches("0x"), 16).unwrap()),
        }
    }

    fn block(made: &Made) -> Value {
        let mut block: RpcBlock = RpcBlock::default();
        block.header.hash = made.block.hash;
        block.header.inner.number = made.block.number;
        block.header.inner.parent_hash = made.block.parent;
        block.header.inner.timestamp = made.block.time;
        block.header.inner.base_fee_per_gas = Some(7);
        block.transactions = BlockTransactions::Hashes(Vec::new());
        if made.logs > 0 {
            block.transactions = BlockTransactions::Hashes(vec![B256::repeat_byte(2)]);
            block.header.inner.logs_bloom.accrue_raw_log(CONTRACT, &[B256::repeat_byte(1)]);
        }
        serde_json::to_value(block).unwrap()
    }

    fn logs(&self, made: &Made) -> Vec<RpcLog> {
        let log = |index: u64| RpcLog {
            inner: alloy_primitives::Log {
                address: CONTRACT,
                data: LogData::new_unchecked(vec![B256::repeat_byte(1)], Bytes::from(index.to_be_bytes())),
            },
            block_hash: Some(made.block.hash),
            block_number: Some(made.block.number),
            transaction_hash: Some(B256::repeat_byte(2)),
            transaction_index: Some(0),
            log_index: Some(self.log_index.unwrap_or(index)),
            ..RpcLog::default()
        };
        (0..made.logs).map(log).collect()
    }

    fn get_logs(&mut self, filter: &Filter) -> Result<Value, String> {
        let remembered = |made: &&Made| !self.forgets.contains(&made.block.number);
        let told = |made: &Made| {
            let mut logs = self.logs(made);
            if let Some(garble) = self.garbles {
                garble(&mut logs);
            }
            logs
        };
        if let FilterBlockOption::AtBlockHash(hash) = filter.block_option {
            let made = self.chain.iter().find(|made| made.block.hash == hash).ok_or("block not found")?;
            let logs = Some(made).filter(remembered).map(told).unwrap_or_default();
            return Ok(serde_json::to_value(logs).unwrap());
        }
        let (from, to) = (filter.get_from_block().unwrap(), filter.get_to_block().unwrap());
        if self.max_range.is_some_and(|most| to - from >= most) {
            let usual = || format!("eth_getLogs is limited to a {} range", self.max_range.unwrap());
            return Err(self.range_error.map_or_else(usual, str::to_owned));
        }
        let between = self.chain.iter().filter(|made| (from..=to).contains(&made.block.number));
        let mut logs: Vec<_> = between.filter(remembered).flat_map(told).collect();
        logs.truncate(self.max_logs.unwrap_or(usize::MAX));
        Ok(serde_json::to_value(logs).unwrap())
    }

    fn answer(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        match method {
            "eth_chainId" => Ok(json!(format!("{:#x}", self.chain_id))),
            "eth_getBlockByNumber" if params[0] == "finalized" && self.finalized.is_some() => {
                let block = self.finalized.flatten().map(|block| Self::block(&Made { block, logs: 0 }));
                Ok(block.unwrap_or_default())
            }
            "eth_getBlockByNumber" | "eth_getBlockByHash" => {
                Ok(self.find(&params[0]).map(Self::block).unwrap_or_default())
            }
            "eth_getLogs" => {
                let filter: Filter = serde_json::from_value(params[0].clone()).unwrap();
                if let (Some(from), Some(to)) = (filter.get_from_block(), filter.get_to_block()) {
                    self.asked.push((method.to_owned(), to - from + 1));
                }
                self.get_logs(&filter)
            }
            "eth_getBlockReceipts" => {
                let made = self.find(&params[0]).ok_or("block not found")?;
                let receipt = json!({
                    "type": "0x7e", "status": "0x1", "cumulativeGasUsed": "0x1", "gasUsed": "0x1",
                    "effectiveGasPrice": "0x1", "logsBloom": format!("0x{}", "0".repeat(512)), "logs": self.logs(made),
                    "transactionHash": B256::repeat_byte(2), "transactionIndex": "0x0", "blockHash": made.block.hash,
                    "blockNumber": format!("{:#x}", made.block.number), "from": CONTRACT, "to": CONTRACT,
                    "contractAddress": null,
                });
                Ok(json!([receipt]))
            }
            "eth_getTransactionCount" => Ok(json!(format!("{:#x}", self.nonce))),
            "eth_getBalance" => Ok(self.balance.map(|wei| json!(format!("{wei:#x}"))).unwrap_or_default()),
            // Every call returns an address.
            "eth_call" => match self.find(&params[1]) {
                Some(_) => Ok(json!(Address::repeat_byte(7).into_word())),
                None => Err("header not found".into()),
            },
            "eth_sendRawTransaction" => match &self.send_error {
                Some(error) => Err(error.clone()),
                None => Ok(json!(B256::repeat_byte(3))),
            },
            known if self.answers.iter().any(|(method, _)| *method == known) => {
                Ok(self.answers.iter().find(|(method, _)| *method == known).unwrap().1.clone())
            }
            other => panic!("nobody wrote a script for {other}"),
        }
    }
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, Json(call): Json<Value>) -> axum::response::Response {
    let mut script = script.lock().unwrap();
    let method = call["method"].as_str().unwrap_or_default().to_owned();
    if method != "eth_getLogs" {
        script.asked.push((method.clone(), 0));
    }
    if script.lose_every.is_some_and(|every| script.asked.len() % every == 0) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    if let Some((_, status)) = script.fails.iter().find(|(failing, _)| *failing == method) {
        return StatusCode::from_u16(*status).unwrap().into_response();
    }
    let id = call["id"].clone();
    if script.lacks.contains(&method.as_str()) {
        let error = json!({ "code": -32601, "message": "the method does not exist/is not available" });
        return Json(json!({ "jsonrpc": "2.0", "id": id, "error": error })).into_response();
    }
    Json(match script.answer(&method, &call["params"]) {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(message) => json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32000, "message": message } }),
    })
    .into_response()
}
