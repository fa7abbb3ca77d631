//! What a node's answer to a transaction means. Nodes differ in their words: a table, with the node
//! that says so, and whether we heard it from a real one.

/// What became of a transaction that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The node has it.
    Accepted,
    /// A transaction with this nonce is mined: this one, another attempt of it, or a stranger.
    NonceUsed,
    /// The node holds another attempt and wants higher fees for this one.
    Underpriced,
    /// The submitter can't pay for its gas.
    NoFunds,
    /// The node refuses it for another reason.
    Rejected,
    /// Nobody can say: it may be on its way.
    Unknown,
}

/// Fragments of error messages, lower case, in the order in which they are asked.
const TABLE: &[(&str, Sent)] = &[
    // geth, reth, op-geth, and anvil (heard)
    ("already known", Sent::Accepted),
    // erigon, nethermind: from their sources
    ("alreadyknown", Sent::Accepted),
    ("already imported", Sent::Accepted),
    // anvil (heard), geth, reth, erigon
    ("nonce too low", Sent::NonceUsed),
    // nethermind: from its source
    ("oldnonce", Sent::NonceUsed),
    // anvil, geth, reth, erigon
    ("replacement transaction underpriced", Sent::Underpriced),
    // nethermind, besu: from their sources
    ("replacementnotallowed", Sent::Underpriced),
    ("feetoolow", Sent::Underpriced),
    ("transaction underpriced", Sent::Underpriced),
    // anvil, geth: the base fee has risen above the attempt's maximum
    ("max fee per gas less than block base fee", Sent::Underpriced),
    // anvil, geth, reth, erigon
    ("insufficient funds", Sent::NoFunds),
    // nethermind: from its source
    ("insufficientfunds", Sent::NoFunds),
];

/// Classifies a node's error message.
#[must_use]
pub fn classify(message: &str) -> Sent {
    let message = message.to_lowercase();
    TABLE.iter().find(|(fragment, _)| message.contains(fragment)).map_or(Sent::Rejected, |(_, sent)| *sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_nodes_are_told_apart() {
        for (message, sent) in [
            ("already known", Sent::Accepted),
            ("transaction already imported", Sent::Accepted),
            ("AlreadyKnown", Sent::Accepted),
            ("nonce too low", Sent::NonceUsed),
            ("nonce too low: next nonce 5, tx nonce 4", Sent::NonceUsed),
            ("OldNonce, Current nonce: 5, nonce of rejected tx: 4", Sent::NonceUsed),
            ("replacement transaction underpriced", Sent::Underpriced),
            ("ReplacementNotAllowed", Sent::Underpriced),
            ("max fee per gas less than block base fee: address 0x…, maxFeePerGas: 1, baseFee: 2", Sent::Underpriced),
            ("Insufficient funds for gas * price + value", Sent::NoFunds),
            ("insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1", Sent::NoFunds),
            ("invalid chain id for signer", Sent::Rejected),
            ("", Sent::Rejected),
        ] {
            assert_eq!(classify(message), sent, "{message}");
        }
    }
}
