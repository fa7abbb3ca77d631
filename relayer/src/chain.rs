//! The chain: one follower that turns blocks into facts, one sender that turns reserved payments
//! into transactions, and the booking between them.

pub mod backfill;
pub mod batch;
pub mod classify;
pub mod error;
pub mod fees;
pub mod follow;
pub mod logs;
pub mod rpc;
pub mod send;
