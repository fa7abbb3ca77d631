//! What a node's answer to a transaction means. Nodes differ in their words: a table, with whose
//! they are, and whether a real one has said them to us.

/// What became of a transaction that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The node has it.
    Accepted,
    /// A transaction with this nonce is mined: this one, another attempt of it, or a stranger.
    NonceUsed,
    /// The node wants higher fees for this one, or holds another attempt and wants higher ones than
    /// that has.
    Underpriced,
    /// The submitter can't pay for its gas.
    NoFunds,
    /// The node refuses it for another reason, which time alone does not mend.
    Rejected,
    /// Nobody can say: it may be on its way.
    Unknown,
}

/// How we know the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A real one of these nodes says them in a test.
    Heard,
    /// From its sources or its documentation. No real one was asked.
    Read,
}

/// Words of a node.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// A part of its message, lower case.
    pub fragment: &'static str,
    /// What they mean.
    pub mean: Sent,
    /// Which nodes say so.
    pub nodes: &'static [&'static str],
    /// How we know.
    pub known: Known,
}

const fn heard(fragment: &'static str, mean: Sent, nodes: &'static [&'static str]) -> Words {
    Words { fragment, mean, nodes, known: Known::Heard }
}

const fn read(fragment: &'static str, mean: Sent, nodes: &'static [&'static str]) -> Words {
    Words { fragment, mean, nodes, known: Known::Read }
}

/// The table, in the order in which it is asked: the first fragment that the message has. What is
/// heard is heard from anvil alone.
pub const TABLE: &[Words] = &[
    heard("already imported", Sent::Accepted, &["anvil"]),
    read("already known", Sent::Accepted, &["geth", "reth", "erigon", "nethermind"]),
    read("alreadyknown", Sent::Accepted, &["nethermind"]),
    read("known transaction", Sent::Accepted, &["besu"]),
    read("existing tx with same hash", Sent::Accepted, &["erigon"]),
    heard("nonce too low", Sent::NonceUsed, &["anvil", "geth", "reth", "erigon", "nethermind", "besu"]),
    read("oldnonce", Sent::NonceUsed, &["nethermind"]),
    read("nonce is too low", Sent::NonceUsed, &["openethereum"]),
    heard("replacement transaction underpriced", Sent::Underpriced, &["anvil", "geth", "reth", "nethermind", "besu"]),
    read("could not replace existing tx", Sent::Underpriced, &["erigon"]),
    read("replacementnotallowed", Sent::Underpriced, &["nethermind"]),
    heard("max fee per gas less than block base fee", Sent::Underpriced, &["anvil", "geth", "reth"]),
    read("gas price below", Sent::Underpriced, &["besu"]),
    read("feetoolow", Sent::Underpriced, &["nethermind"]),
    read("fee too low", Sent::Underpriced, &["erigon"]),
    read("underpriced", Sent::Underpriced, &["geth", "reth", "erigon", "nethermind"]),
    heard("insufficient funds", Sent::NoFunds, &["anvil", "geth", "reth", "erigon", "nethermind"]),
    read("insufficientfunds", Sent::NoFunds, &["nethermind"]),
    read("upfront cost exceeds account balance", Sent::NoFunds, &["besu"]),
    // Nothing but new settings helps; the same bytes are sent again all the same.
    heard("invalid chain id", Sent::Rejected, &["anvil", "geth", "reth", "erigon"]),
    read("wrong chainid", Sent::Rejected, &["besu"]),
    heard("intrinsic gas too low", Sent::Rejected, &["anvil", "geth", "reth", "erigon"]),
    read("exceeds block gas limit", Sent::Rejected, &["geth", "reth", "erigon", "besu"]),
    read("gas limit reached", Sent::Rejected, &["nethermind"]),
    read("gaslimitexceeded", Sent::Rejected, &["nethermind"]),
    read("exceeds the configured cap", Sent::Rejected, &["geth", "reth"]),
    read("transaction fee cap exceeded", Sent::Rejected, &["besu"]),
    read("oversized data", Sent::Rejected, &["geth", "reth", "erigon"]),
];

/// Classifies a node's error message. Words that nobody taught us say nothing: it may be on its way.
#[must_use]
pub fn classify(message: &str) -> Sent {
    let message = message.to_lowercase();
    TABLE.iter().find(|words| message.contains(words.fragment)).map_or(Sent::Unknown, |words| words.mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_nodes_are_told_apart() {
        for (node, message, sent) in [
            ("anvil", "transaction already imported", Sent::Accepted),
            ("geth", "already known", Sent::Accepted),
            ("nethermind", "AlreadyKnown", Sent::Accepted),
            ("besu", "Known transaction", Sent::Accepted),
            ("erigon", "INTERNAL_ERROR: existing tx with same hash", Sent::Accepted),
            ("anvil", "nonce too low", Sent::NonceUsed),
            ("geth", "nonce too low: next nonce 5, tx nonce 4", Sent::NonceUsed),
            ("besu", "Nonce too low", Sent::NonceUsed),
            ("nethermind", "OldNonce, Current nonce: 5, nonce of rejected tx: 4", Sent::NonceUsed),
            ("geth", "replacement transaction underpriced", Sent::Underpriced),
            ("erigon", "INTERNAL_ERROR: could not replace existing tx", Sent::Underpriced),
            ("nethermind", "ReplacementNotAllowed", Sent::Underpriced),
            ("nethermind", "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 2", Sent::Underpriced),
            ("geth", "transaction underpriced: gas tip cap 0, minimum needed 1", Sent::Underpriced),
            ("erigon", "underpriced", Sent::Underpriced),
            ("besu", "Gas price below current base fee", Sent::Underpriced),
            (
                "geth",
                "max fee per gas less than block base fee: address 0x…, maxFeePerGas: 1, baseFee: 2",
                Sent::Underpriced,
            ),
            ("anvil", "Insufficient funds for gas * price + value", Sent::NoFunds),
            ("geth", "insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1", Sent::NoFunds),
            ("nethermind", "InsufficientFunds, Account balance: 0, cumulative cost: 1", Sent::NoFunds),
            ("besu", "Upfront cost exceeds account balance", Sent::NoFunds),
            ("geth", "invalid chain id for signer: have 1 want 2", Sent::Rejected),
            ("besu", "Transaction gas limit exceeds block gas limit", Sent::Rejected),
            // Words that nobody taught us, and what a provider puts before its nodes.
            ("geth", "txpool is full", Sent::Unknown),
            ("", "internal error", Sent::Unknown),
            ("", "daily request count exceeded, request rate limited", Sent::Unknown),
            ("", "", Sent::Unknown),
        ] {
            assert_eq!(classify(message), sent, "{node}: {message}");
        }
    }

    #[test]
    fn no_row_hides_behind_one_before_it_that_means_something_else() {
        for words in TABLE {
            assert_eq!(classify(words.fragment), words.mean, "{words:?}");
            assert_eq!(words.fragment, words.fragment.to_lowercase());
            assert!(!words.nodes.is_empty());
            assert!(words.known == Known::Read || words.nodes.contains(&"anvil"), "{words:?}");
        }
    }
}
