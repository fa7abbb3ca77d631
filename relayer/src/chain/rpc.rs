//! The nodes: the few questions that the relayer asks.

mod error;
mod node;
#[cfg(test)]
pub(crate) mod scripted;

pub use error::RpcError;
pub use node::{Call, FullBlock, Node, Receipt};

/// The node.
pub type Rpc = Node;
