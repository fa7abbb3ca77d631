//! A node that is behind: it answers as it would have some blocks or seconds ago.

use serde_json::{Value, json};

use super::{Broken, ErrorMessage, Shared, error_messages::Client};

/// The length of a hash in hexadecimal, with its prefix.
const HASH: usize = 66;

/// How far a node is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// So many blocks.
    Blocks(u64),
    /// So many seconds, by the blocks' own times.
    Seconds(u64),
    /// It stands still at this height.
    At(u64),
    /// It stands still at this height, and answers calls at blocks that it does not have from the
    /// ones that it has, as a careless proxy before several nodes does.
    BlindAt(u64),
}

pub(super) async fn answer(node: &Shared, behind: Lag, method: &str, call: &Value) -> Result<Value, Broken> {
    let head = head(node, behind).await?;
    let mut call = call.clone();
    let ok = |call: &Value, result: Value| Ok(json!({ "jsonrpc": "2.0", "id": call.get("id"), "result": result }));
    match method {
        "eth_blockNumber" => ok(&call, json!(hex(head))),
        "eth_getBlockByNumber" => {
            if let Some(height) = number(call.pointer("/params/0"))
                && height > head
            {
                return ok(&call, Value::Null);
            }
            if tip(call.pointer("/params/0")) {
                set(&mut call, 0, json!(hex(head)));
            }
            let answer = node.ask(&call).await?;
            if !above(&answer, "/result/number", head) {
                return Ok(answer);
            }
            // `finalized` and `safe` can't be ahead of its head either.
            set(&mut call, 0, json!(hex(head)));
            node.ask(&call).await
        }
        "eth_getBlockByHash" => known(node.ask(&call).await?, "/result/number", head),
        "eth_getTransactionReceipt" | "eth_getTransactionByHash" => {
            known(node.ask(&call).await?, "/result/blockNumber", head)
        }
        "eth_call" | "eth_estimateGas" | "eth_getBalance" | "eth_getCode" | "eth_getTransactionCount" => {
            if !has(node, call.pointer("/params/1"), head).await? {
                match behind {
                    Lag::BlindAt(_) => set(&mut call, 1, json!(hex(head))),
                    _ => return Ok(unknown_block(&call)),
                }
            } else if tip(call.pointer("/params/1")) {
                set(&mut call, 1, json!(hex(head)));
            }
            node.ask(&call).await
        }
        "eth_getLogs" => {
            if let Some(hash) = call.pointer("/params/0/blockHash").cloned() {
                if !has(node, Some(&json!({ "blockHash": hash })), head).await? {
                    return Ok(unknown_block(&call));
                }
            } else if let Some(filter) = call.pointer_mut("/params/0").and_then(Value::as_object_mut) {
                for end in ["fromBlock", "toBlock"] {
                    if tip(filter.get(end)) || number(filter.get(end)).is_some_and(|height| height > head) {
                        filter.insert(end.into(), json!(hex(head)));
                    }
                }
            }
            node.ask(&call).await
        }
        _ => node.ask(&call).await,
    }
}

async fn head(node: &Shared, behind: Lag) -> Result<u64, Broken> {
    let block = async |at: Value| {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": [at, false] });
        let answer = node.ask(&call).await?;
        let field = |name: &str| number(answer.pointer(&format!("/result/{name}"))).ok_or(Broken);
        Ok((field("number")?, field("timestamp")?))
    };
    let (mut height, time) = match behind {
        Lag::At(height) | Lag::BlindAt(height) => return Ok(height),
        Lag::Blocks(_) | Lag::Seconds(_) => block(json!("latest")).await?,
    };
    match behind {
        Lag::Seconds(seconds) => {
            while height > 0 && block(json!(hex(height))).await?.1 > time.saturating_sub(seconds) {
                height -= 1;
            }
        }
        Lag::Blocks(blocks) => height = height.saturating_sub(blocks),
        Lag::At(_) | Lag::BlindAt(_) => {}
    }
    Ok(height)
}

/// Whether it has the block at which a call is to run.
async fn has(node: &Shared, at: Option<&Value>, head: u64) -> Result<bool, Broken> {
    if let Some(height) = number(at).or_else(|| number(at?.get("blockNumber"))) {
        return Ok(height <= head);
    }
    // By EIP-1898 an object names a hash; nodes take it alone, too.
    let alone = |at: &&Value| at.as_str().is_some_and(|at| at.len() == HASH);
    let Some(hash) = at.and_then(|at| at.get("blockHash").or(Some(at).filter(alone))) else { return Ok(true) };
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByHash", "params": [hash, false] });
    let answer = node.ask(&call).await?;
    Ok(number(answer.pointer("/result/number")).is_some_and(|height| height <= head))
}

/// The answer, or null where it speaks of a block that it does not have yet.
fn known(mut answer: Value, at: &str, head: u64) -> Result<Value, Broken> {
    if above(&answer, at, head)
        && let Some(result) = answer.get_mut("result")
    {
        *result = Value::Null;
    }
    Ok(answer)
}

fn unknown_block(call: &Value) -> Value {
    let error = json!({ "code": -32_000, "message": ErrorMessage::UnknownBlock(Client::Geth).text() });
    json!({ "jsonrpc": "2.0", "id": call.get("id"), "error": error })
}

fn above(answer: &Value, at: &str, head: u64) -> bool {
    number(answer.pointer(at)).is_some_and(|height| height > head)
}

/// Whether a call is about the newest block: it says so, or says nothing.
fn tip(at: Option<&Value>) -> bool {
    at.is_none_or(|at| at.is_null() || at == "latest" || at == "pending")
}

fn set(call: &mut Value, index: usize, to: Value) {
    let Some(params) = call.get_mut("params").and_then(Value::as_array_mut) else { return };
    match params.get_mut(index) {
        Some(place) => *place = to,
        None => params.push(to),
    }
}

fn number(value: Option<&Value>) -> Option<u64> {
    u64::from_str_radix(value?.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}
