//! What nodes say, each in its own words. From the sources of their transaction pools.

/// A node's software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// go-ethereum, and op-geth.
    Geth,
    Erigon,
    /// Nethermind, before it took over geth's words.
    Nethermind,
    /// Reth, and op-reth.
    Reth,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Geth, Self::Erigon, Self::Nethermind, Self::Reth];
}

/// What it says about a transaction or a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorMessage {
    /// It has this very transaction.
    AlreadyKnown(Client),
    /// A transaction with this nonce is mined.
    NonceTooLow(Client),
    /// It has another one with this nonce, and wants higher fees.
    ReplacementUnderpriced(Client),
    /// It wants higher fees.
    Underpriced(Client),
    /// The sender can't pay for it.
    InsufficientFunds(Client),
    PoolFull(Client),
    /// It does not know the block at which a call is to run.
    UnknownBlock(Client),
}

impl ErrorMessage {
    /// Its message.
    pub const fn text(self) -> &'static str {
        use Client::{Erigon, Geth, Nethermind, Reth};
        match self {
            Self::AlreadyKnown(Geth | Erigon | Reth) => "already known",
            Self::AlreadyKnown(Nethermind) => "AlreadyKnown",
            Self::NonceTooLow(Geth | Reth) => "nonce too low: next nonce 7, tx nonce 6",
            Self::NonceTooLow(Erigon) => "nonce too low",
            Self::NonceTooLow(Nethermind) => "OldNonce, Current nonce: 7, nonce of rejected tx: 6",
            Self::ReplacementUnderpriced(Geth | Reth) => "replacement transaction underpriced",
            Self::ReplacementUnderpriced(Erigon) => "could not replace existing tx",
            Self::ReplacementUnderpriced(Nethermind) => "ReplacementNotAllowed",
            Self::Underpriced(Geth | Reth) => "transaction underpriced",
            Self::Underpriced(Erigon) => "underpriced",
            Self::Underpriced(Nethermind) => "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 2",
            Self::InsufficientFunds(Geth) => {
                "insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1"
            }
            Self::InsufficientFunds(Erigon) => "insufficient funds",
            Self::InsufficientFunds(Nethermind) => "InsufficientFunds, Account balance: 0, cumulative cost: 1",
            Self::InsufficientFunds(Reth) => "insufficient funds for gas * price + value: have 0 want 1",
            Self::PoolFull(Geth | Reth) => "txpool is full",
            Self::PoolFull(Erigon) => "pending sub-pool is full",
            Self::PoolFull(Nethermind) => "FeeTooLowToCompete",
            Self::UnknownBlock(Geth) => "header not found",
            Self::UnknownBlock(Erigon) => "block not found",
            Self::UnknownBlock(Nethermind) => "header not found",
            Self::UnknownBlock(Reth) => "block not found",
        }
    }
}
