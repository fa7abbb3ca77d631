//! Reading the chain: nodes, the head follower, catching up and the check of logs.

pub mod backfill;
pub mod error;
pub mod follow;
mod freshness;
pub mod gas_used;
pub mod logs;
pub mod rpc;
