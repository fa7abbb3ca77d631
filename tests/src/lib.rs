//! What the end-to-end tests stand on: a real anvil, a real relayer process, and an eye on both.
//!
//! Nothing here is called in-process: a [`World`] starts processes on free loopback ports, talks to
//! them over HTTP, kills them by their id, and when it ends looks for secrets in what they wrote.

mod anvil;
mod books;
mod chance;
mod cli;
mod eventually;
mod fault_proxy;
mod heavy;
mod http;
mod issuer;
mod keys;
mod load;
mod miner;
mod process;
mod relayer;
mod secrets;
mod shopper;
mod verdict;
mod world;

pub use anvil::Anvil;
pub use books::{Books, balance};
pub use chance::{Chance, number_from};
pub use cli::Failed;
pub use eventually::{eventually, next_entry};
pub use fault_proxy::{ANY, Behind, Count, Fault, FaultProxy, NodeClient, Says};
pub use heavy::heavy;
pub use http::{Answer, Call, HttpSigner};
pub use issuer::{Charge, Charged, Issuer, Purchase, Void, dollars, signed_by_issuer};
pub use keys::{Keys, key};
pub use load::{Load, Shape};
pub use miner::Miner;
pub use relayer::{CardSettings, Relayer, Settings, TREASURY};
pub use secrets::Secrets;
pub use verdict::{Account, Kept, Memory, Verdict, verdict};
pub use world::World;
