//! Why a node gave no usable answer. Nodes and providers each have their own messages:
//! tables, with who says so. None of these was heard from a real one but those marked so.

use alloy::transports::{RpcError as AlloyError, TransportErrorKind};
use alloy_primitives::Bytes;

/// Why the node gave no answer that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RpcError {
    /// It said no.
    #[error("the node refuses {method}: {message}")]
    Refused {
        /// What was asked.
        method: &'static str,
        message: String,
        /// What a reverted call returned.
        revert: Option<Bytes>,
    },
    /// It does not know the block that was asked about: it lags, or has forgotten it.
    #[error("the node does not know the block that {method} is about: {message}")]
    NoSuchBlock {
        /// What was asked.
        method: &'static str,
        message: String,
    },
    /// The answer would be too large: less can be asked for.
    #[error("the node finds {method} too large: {message}")]
    TooLarge {
        /// What was asked.
        method: &'static str,
        message: String,
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

/// What a message of refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Busy,
    TooLarge,
    NoSuchBlock,
}

/// Fragments of messages, lower case, in the order in which they are asked.
const PATTERNS: &[(&str, Meaning)] = &[
    // Infura, Alchemy, QuickNode, public nodes
    ("rate limit", Meaning::Busy),
    ("too many requests", Meaning::Busy),
    ("request limit reached", Meaning::Busy),
    ("daily request count exceeded", Meaning::Busy),
    ("compute units per second", Meaning::Busy),
    // Infura, older geth forks
    ("query returned more than", Meaning::TooLarge),
    // Alchemy: "… this block range should work: […]"
    ("response size exceeded", Meaning::TooLarge),
    // Alchemy, Ankr, Base, Chainstack, publicnode, BSC, reth, Moonbeam
    ("block range", Meaning::TooLarge),
    // drpc: "ranges over 10000 blocks are not supported on freetier"
    ("ranges over", Meaning::TooLarge),
    // QuickNode, 1RPC: "eth_getLogs is limited to a 10,000 range"
    ("is limited to", Meaning::TooLarge),
    // Cloudflare
    ("max range", Meaning::TooLarge),
    ("range too large", Meaning::TooLarge),
    ("range is too large", Meaning::TooLarge),
    // Avalanche: "requested too many blocks from 1 to 5000, maximum is set to 2048"
    ("requested too many blocks", Meaning::TooLarge),
    // reth: "query exceeds max results 20000, retry with the range 1-2"
    ("exceeds max results", Meaning::TooLarge),
    ("too many results", Meaning::TooLarge),
    ("too many logs", Meaning::TooLarge),
    // Ankr, 1RPC and others
    ("response is too big", Meaning::TooLarge),
    ("response size should not", Meaning::TooLarge),
    ("response too large", Meaning::TooLarge),
    ("content too large", Meaning::TooLarge),
    ("entity too large", Meaning::TooLarge),
    // geth, erigon: it took too long, and would again
    ("query timeout", Meaning::TooLarge),
    // geth, reth, op-geth
    ("header not found", Meaning::NoSuchBlock),
    ("unknown block", Meaning::NoSuchBlock),
    ("missing trie node", Meaning::NoSuchBlock),
    ("header for hash not found", Meaning::NoSuchBlock),
    // anvil (heard), nethermind, erigon
    ("block not found", Meaning::NoSuchBlock),
    ("blocknotfound", Meaning::NoSuchBlock),
    ("resource not found", Meaning::NoSuchBlock),
    ("is not canonical", Meaning::NoSuchBlock),
];

fn meaning(message: &str) -> Option<Meaning> {
    let message = message.to_lowercase();
    PATTERNS.iter().find(|(fragment, _)| message.contains(fragment)).map(|(_, meaning)| *meaning)
}

impl RpcError {
    /// The same with another text of the node.
    pub(super) fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Refused { method, message, revert } => Self::Refused { method, message: change(message), revert },
            Self::NoSuchBlock { method, message } => Self::NoSuchBlock { method, message: change(message) },
            Self::TooLarge { method, message } => Self::TooLarge { method, message: change(message) },
            Self::NoAnswer { method, reason } => Self::NoAnswer { method, reason: change(reason) },
        }
    }

    pub(super) fn of(method: &'static str) -> impl Fn(AlloyError<TransportErrorKind>) -> Self {
        move |error| match error {
            AlloyError::ErrorResp(payload) => {
                let revert = payload.as_revert_data();
                let code = payload.code;
                let message = payload.message.into_owned();
                match meaning(&message).filter(|_| revert.is_none()) {
                    Some(Meaning::Busy) => Self::NoAnswer { method, reason: message },
                    Some(Meaning::TooLarge) => Self::TooLarge { method, message },
                    Some(Meaning::NoSuchBlock) => Self::NoSuchBlock { method, message },
                    // "Too many requests", where a provider takes the status for the code.
                    None if code == 429 => Self::NoAnswer { method, reason: message },
                    None => Self::Refused { method, message, revert },
                }
            }
            AlloyError::Transport(TransportErrorKind::HttpError(error)) => {
                let message = format!("HTTP status {}", error.status);
                // Its body may be a page of anything.
                match (error.status, meaning(&error.body)) {
                    (413, _) | (400, Some(Meaning::TooLarge)) => Self::TooLarge { method, message },
                    _ => Self::NoAnswer { method, reason: message },
                }
            }
            // The URL of an endpoint can carry its key: say what failed, not where.
            AlloyError::Transport(TransportErrorKind::Custom(error)) => Self::NoAnswer {
                method,
                reason: error
                    .downcast_ref::<reqwest::Error>()
                    // A websocket's; it names no URL.
                    .map_or_else(|| error.to_string(), connection_failure),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_rate_limit_and_missing_block_are_told_apart() {
        for (message, expected) in [
            ("query returned more than 10000 results", Some(Meaning::TooLarge)),
            (
                "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no limit on the response size, or you can request any block range with a cap of 10K logs in the response. Based on your parameters and the response size limit, this block range should work: [0xc5dc00, 0xc614a7]",
                Some(Meaning::TooLarge),
            ),
            (
                "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range.",
                Some(Meaning::TooLarge),
            ),
            ("eth_getLogs is limited to a 10,000 range", Some(Meaning::TooLarge)),
            ("eth_getLogs is limited to 0 - 50 blocks range", Some(Meaning::TooLarge)),
            ("block range is too wide", Some(Meaning::TooLarge)),
            ("block range is too wide (maximum 1024)", Some(Meaning::TooLarge)),
            ("block range too large", Some(Meaning::TooLarge)),
            ("Block range limit exceeded. See more details at …", Some(Meaning::TooLarge)),
            ("exceed maximum block range: 50000", Some(Meaning::TooLarge)),
            ("query exceeds max block range 100000", Some(Meaning::TooLarge)),
            ("query exceeds max results 20000, retry with the range 1-2", Some(Meaning::TooLarge)),
            ("ranges over 10000 blocks are not supported on freetier", Some(Meaning::TooLarge)),
            ("requested too many blocks from 1 to 5000, maximum is set to 2048", Some(Meaning::TooLarge)),
            ("Max range: 800", Some(Meaning::TooLarge)),
            ("Response is too big", Some(Meaning::TooLarge)),
            ("response size should not greater than 10000000 bytes", Some(Meaning::TooLarge)),
            ("query timeout exceeded", Some(Meaning::TooLarge)),
            ("project ID request rate exceeded: rate limit", Some(Meaning::Busy)),
            ("Too Many Requests", Some(Meaning::Busy)),
            ("100/second request limit reached - reduce calls per second or upgrade", Some(Meaning::Busy)),
            ("Your app has exceeded its compute units per second capacity", Some(Meaning::Busy)),
            ("header not found", Some(Meaning::NoSuchBlock)),
            ("header for hash not found", Some(Meaning::NoSuchBlock)),
            ("missing trie node 1234 (path )", Some(Meaning::NoSuchBlock)),
            ("BlockNotFound", Some(Meaning::NoSuchBlock)),
            ("hash 0x12 is not canonical", Some(Meaning::NoSuchBlock)),
            ("execution reverted", None),
            ("nonce too low", None),
            ("replacement transaction underpriced", None),
            ("insufficient funds for gas * price + value", None),
            ("max fee per gas less than block base fee", None),
            ("already known", None),
            ("exceeds block gas limit", None),
            ("", None),
        ] {
            assert_eq!(meaning(message), expected, "{message}");
        }
    }
}
