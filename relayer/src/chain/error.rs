//! What can go wrong on the way from a node to the ledger.

use alloy_primitives::B256;
use rusqlite::ErrorCode;

use crate::{
    chain::rpc::RpcError,
    ledger::{LedgerError, blocks::Block},
};

/// Why a step of the follower failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The node.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain changed while it was read.
    #[error("the node lost block {0} while it was read")]
    BlockLost(B256),
    /// The node says one thing and another.
    #[error("the node contradicts itself or the others about block {number} {hash}: {what}; use another node")]
    Contradiction {
        /// The block's height.
        number: u64,
        hash: B256,
        what: &'static str,
    },
    /// What the node says can't be.
    #[error(
        "what the node says up to block {number} {hash} can't be booked: {why}; use another node, and if that one says \
         the same, see `stipend ledger check`"
    )]
    RejectedByLedger {
        /// The last block's height.
        number: u64,
        hash: B256,
        /// The ledger's message.
        why: LedgerError,
    },
    /// The node gave fewer logs than there are.
    #[error("the node leaves out logs of block {number} {hash}: use another node")]
    LogsMissing {
        /// The block's height.
        number: u64,
        hash: B256,
    },
    /// Finality goes by the node's tag, and the node has none.
    #[error(
        "the node does not say which block is final (`finalized`): wait until it has synced, use another node, or set \
         --finality to the number of blocks after which one is final"
    )]
    NoFinality,
    /// What was booked as final is not.
    #[error(
        "the chain no longer holds the final block {number} {hash}: nothing is signed until an operator has looked; \
         if the chain is right and the node as well, `stipend ledger repair` rebuilds the ledger from it"
    )]
    PastFinality {
        /// Its height.
        number: u64,
        hash: B256,
    },
}

impl FollowError {
    /// What became of booking blocks up to this one, as a node tells them.
    pub(super) fn from_commit(Block { number, hash, .. }: Block, why: LedgerError) -> Self {
        let is_about_content = match &why {
            LedgerError::Inconsistent(_) | LedgerError::Database(rusqlite::Error::ToSqlConversionFailure(_)) => true,
            LedgerError::Database(error) => error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation),
            _ => false,
        };
        if is_about_content { Self::RejectedByLedger { number, hash, why } } else { why.into() }
    }

    /// Whether the next step, perhaps with another node, may go well.
    pub(super) const fn may_pass(&self) -> bool {
        !matches!(self, Self::Ledger(_) | Self::PastFinality { .. })
    }
}
