//! What Stipend means, without any I/O: amounts, ids, terms, intents, policy, codes and the types
//! of the API. Nothing here knows of a runtime, a database or a node.

#![warn(missing_docs)]

pub mod address;
pub mod amount;
pub mod api;
pub mod card;
pub mod code;
pub mod deployment;
pub mod dev;
pub mod duration;
pub mod hex;
pub mod host;
pub mod id;
pub mod intent;
pub mod mandate;
pub mod mcp;
pub mod merkle;
pub mod nonce;
pub mod policy;
pub mod schema;
pub mod terms;
pub mod trail;
pub mod window;

pub use amount::Amount;
pub use code::Code;
pub use deployment::Deployment;
pub use duration::HumanDuration;
pub use id::{CardId, MandateId, PaymentId, RequestId};
pub use intent::Intent;
pub use terms::Terms;

/// Seconds since 1970, as block times and deadlines count them.
pub type Seconds = u64;

/// The chain id of anvil, whose accounts and keys everybody knows.
pub const DEV_CHAIN_ID: u64 = 31_337;
