//! What the end-to-end tests stand on: a real anvil, a real relayer process, and an eye on both.
//!
//! Nothing here is called in-process: a [`World`] starts processes on free loopback ports, talks to
//! them over HTTP, kills them by their id, and when it ends looks for secrets in what they wrote.

mod anvil;
mod card_buyer;
mod cli;
mod eventually;
mod exclusive_slot;
mod fault_proxy;
mod http;
mod issuer;
mod keys;
mod load;
mod miner;
mod onchain;
mod process;
mod reconciliation;
mod relayer;
mod secrets;
mod seeded_rng;
mod terminal;
mod world;

pub use anvil::Anvil;
pub use cli::Failed;
pub use eventually::{eventually, next_entry};
pub use exclusive_slot::exclusive_slot;
pub use fault_proxy::{ANY, Count, ErrorMessage, Fault, FaultProxy, Lag, NodeClient};
pub use http::{Answer, ApiRequest, HttpSigner};
pub use issuer::{ASA_LIMIT_MS, Charge, Charged, Issuer, Purchase, Void, signed_by_issuer};
pub use keys::{Keys, key};
pub use load::{Load, Shape};
pub use miner::Miner;
pub use onchain::{Borne, OnchainBalances, balance, borne};
pub use process::binary;
pub use reconciliation::{AcceptedPayments, Account, Kept, Reconciliation, reconcile};
pub use relayer::{CardSettings, Network, Relayer, Settings, TREASURY};
pub use secrets::Secrets;
pub use seeded_rng::{SeededRng, number_from};
pub use terminal::on_terminal;
pub use world::World;
