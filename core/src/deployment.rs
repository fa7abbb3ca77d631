//! What a relayer serves.

use alloy_primitives::Address;
use serde::Serialize;

/// One escrow on one chain, its token, and the guardian that a relayer acts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Deployment {
    /// The chain's id.
    pub chain_id: u64,
    /// The escrow's address.
    pub escrow: Address,
    /// The token's address.
    pub token: Address,
    /// The guardian's address.
    pub guardian: Address,
}
