//! What a node's answer to a transaction means. Nodes differ in their messages: a table, with whose
//! they are, and whether a real one has said them to us.

/// What became of a transaction that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The node has it.
    Accepted,
    /// A transaction with this nonce is mined: this one, another attempt of it, or a stranger.
    NonceUsed,
    /// The node wants higher fees for this one, or holds another attempt and wants higher ones than
    /// that has.
    Underpriced,
    /// The submitter can't pay for its gas.
    NoFunds,
    /// It is too large for the node, or for any block: less may do.
    TooLarge,
    /// The node refuses it for another reason, which time alone does not mend.
    Rejected,
    /// Nobody can say: it may be on its way.
    Unknown,
}

/// How a pattern is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A real one of these nodes says them in a test.
    Observed,
    /// From its sources or its documentation. No real one was asked.
    Documented,
}

/// A fragment of a node's error message.
#[derive(Clone, Copy, Debug)]
pub struct ErrorPattern {
    /// A part of its message, lower case.
    pub fragment: &'static str,
    /// What it means.
    pub outcome: SendOutcome,
    /// Which nodes say so.
    pub nodes: &'static [&'static str],
    /// How we know.
    pub evidence: Evidence,
}

const fn observed(fragment: &'static str, outcome: SendOutcome, nodes: &'static [&'static str]) -> ErrorPattern {
    ErrorPattern { fragment, outcome, nodes, evidence: Evidence::Observed }
}

const fn documented(fragment: &'static str, outcome: SendOutcome, nodes: &'static [&'static str]) -> ErrorPattern {
    ErrorPattern { fragment, outcome, nodes, evidence: Evidence::Documented }
}

/// The table, in the order in which it is asked: the first fragment that the message has. What is
/// heard is heard from anvil alone.
pub const PATTERNS: &[ErrorPattern] = &[
    observed("already imported", SendOutcome::Accepted, &["anvil"]),
    documented("already known", SendOutcome::Accepted, &["geth", "reth", "erigon", "nethermind"]),
    documented("alreadyknown", SendOutcome::Accepted, &["nethermind"]),
    documented("known transaction", SendOutcome::Accepted, &["besu"]),
    documented("existing tx with same hash", SendOutcome::Accepted, &["erigon"]),
    observed("nonce too low", SendOutcome::NonceUsed, &["anvil", "geth", "reth", "erigon", "nethermind", "besu"]),
    documented("oldnonce", SendOutcome::NonceUsed, &["nethermind"]),
    documented("nonce is too low", SendOutcome::NonceUsed, &["openethereum"]),
    observed(
        "replacement transaction underpriced",
        SendOutcome::Underpriced,
        &["anvil", "geth", "reth", "nethermind", "besu"],
    ),
    documented("could not replace existing tx", SendOutcome::Underpriced, &["erigon"]),
    documented("replacementnotallowed", SendOutcome::Underpriced, &["nethermind"]),
    observed("max fee per gas less than block base fee", SendOutcome::Underpriced, &["anvil", "geth", "reth"]),
    documented("gas price below", SendOutcome::Underpriced, &["besu"]),
    documented("feetoolow", SendOutcome::Underpriced, &["nethermind"]),
    documented("fee too low", SendOutcome::Underpriced, &["erigon"]),
    documented("underpriced", SendOutcome::Underpriced, &["geth", "reth", "erigon", "nethermind"]),
    observed("insufficient funds", SendOutcome::NoFunds, &["anvil", "geth", "reth", "erigon", "nethermind"]),
    documented("insufficientfunds", SendOutcome::NoFunds, &["nethermind"]),
    documented("upfront cost exceeds account balance", SendOutcome::NoFunds, &["besu"]),
    // Nothing but new settings helps; the same bytes are sent again all the same.
    observed("invalid chain id", SendOutcome::Rejected, &["anvil", "geth", "reth", "erigon"]),
    documented("wrong chainid", SendOutcome::Rejected, &["besu"]),
    observed("intrinsic gas too low", SendOutcome::Rejected, &["anvil", "geth", "reth", "erigon"]),
    documented("exceeds block gas limit", SendOutcome::TooLarge, &["geth", "reth", "erigon", "besu"]),
    documented("gas limit reached", SendOutcome::TooLarge, &["nethermind"]),
    documented("gaslimitexceeded", SendOutcome::TooLarge, &["nethermind"]),
    documented("exceeds the configured cap", SendOutcome::Rejected, &["geth", "reth"]),
    documented("transaction fee cap exceeded", SendOutcome::Rejected, &["besu"]),
    documented("oversized data", SendOutcome::TooLarge, &["geth", "reth", "erigon"]),
    // EIP-7825, and limits of sequencers and providers.
    documented("transaction gas limit", SendOutcome::TooLarge, &["geth", "reth"]),
    documented("gas limit too high", SendOutcome::TooLarge, &["geth", "reth", "nethermind"]),
    documented("gas limit is too high", SendOutcome::TooLarge, &["arbitrum", "zksync"]),
    documented("exceeds maximum allowed gas", SendOutcome::TooLarge, &["op-geth"]),
    documented("exceeds max transaction gas limit", SendOutcome::TooLarge, &["reth"]),
    documented("exceeds the gas limit cap", SendOutcome::TooLarge, &["erigon"]),
    documented("tx size too large", SendOutcome::TooLarge, &["evmos"]),
    documented("transaction size exceeds", SendOutcome::TooLarge, &["scroll"]),
];

/// Classifies a node's error message. An unknown message says nothing: the transaction may be on its way.
pub fn classify(message: &str) -> SendOutcome {
    let message = message.to_lowercase();
    PATTERNS
        .iter()
        .find(|pattern| message.contains(pattern.fragment))
        .map_or(SendOutcome::Unknown, |pattern| pattern.outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_nodes_are_told_apart() {
        for (node, message, sent) in [
            ("anvil", "transaction already imported", SendOutcome::Accepted),
            ("geth", "already known", SendOutcome::Accepted),
            ("nethermind", "AlreadyKnown", SendOutcome::Accepted),
            ("besu", "Known transaction", SendOutcome::Accepted),
            ("erigon", "INTERNAL_ERROR: existing tx with same hash", SendOutcome::Accepted),
            ("anvil", "nonce too low", SendOutcome::NonceUsed),
            ("geth", "nonce too low: next nonce 5, tx nonce 4", SendOutcome::NonceUsed),
            ("besu", "Nonce too low", SendOutcome::NonceUsed),
            ("nethermind", "OldNonce, Current nonce: 5, nonce of rejected tx: 4", SendOutcome::NonceUsed),
            ("geth", "replacement transaction underpriced", SendOutcome::Underpriced),
            ("erigon", "INTERNAL_ERROR: could not replace existing tx", SendOutcome::Underpriced),
            ("nethermind", "ReplacementNotAllowed", SendOutcome::Underpriced),
            ("nethermind", "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 2", SendOutcome::Underpriced),
            ("geth", "transaction underpriced: gas tip cap 0, minimum needed 1", SendOutcome::Underpriced),
            ("erigon", "underpriced", SendOutcome::Underpriced),
            ("besu", "Gas price below current base fee", SendOutcome::Underpriced),
            (
                "geth",
                "max fee per gas less than block base fee: address 0x…, maxFeePerGas: 1, baseFee: 2",
                SendOutcome::Underpriced,
            ),
            ("anvil", "Insufficient funds for gas * price + value", SendOutcome::NoFunds),
            (
                "geth",
                "insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1",
                SendOutcome::NoFunds,
            ),
            ("nethermind", "InsufficientFunds, Account balance: 0, cumulative cost: 1", SendOutcome::NoFunds),
            ("besu", "Upfront cost exceeds account balance", SendOutcome::NoFunds),
            ("geth", "invalid chain id for signer: have 1 want 2", SendOutcome::Rejected),
            ("besu", "Transaction gas limit exceeds block gas limit", SendOutcome::TooLarge),
            ("geth", "exceeds block gas limit", SendOutcome::TooLarge),
            ("reth", "transaction gas limit too high (cap: 16777216, tx: 20000000)", SendOutcome::TooLarge),
            ("geth", "oversized data: transaction size 140000, limit 131072", SendOutcome::TooLarge),
            // Unknown messages, and those of what a provider puts before its nodes.
            ("geth", "txpool is full", SendOutcome::Unknown),
            ("", "internal error", SendOutcome::Unknown),
            ("", "daily request count exceeded, request rate limited", SendOutcome::Unknown),
            ("", "", SendOutcome::Unknown),
        ] {
            assert_eq!(classify(message), sent, "{node}: {message}");
        }
    }

    #[test]
    fn no_row_hides_behind_one_before_it_that_means_something_else() {
        for pattern in PATTERNS {
            assert_eq!(classify(pattern.fragment), pattern.outcome, "{pattern:?}");
            assert_eq!(pattern.fragment, pattern.fragment.to_lowercase());
            assert!(!pattern.nodes.is_empty());
            assert!(pattern.evidence == Evidence::Documented || pattern.nodes.contains(&"anvil"), "{pattern:?}");
        }
    }
}
