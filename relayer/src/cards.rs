//! Cards: from an approved amount to a single-use card at the issuer, and back to the budget.
//!
//! ```text
//! requested ─ hold mined ─▶ held ─ issuer made it ─▶ active ─ charged ─▶ used
//!                             │                        │                  │ cleared, or taken back
//!                             └─── too late, ended ────┴────────┬─────────┘
//!                                                               ▼
//!                     closed ◀─ captured and released, final ─ closing: the issuer confirms that
//!                                                               the card is closed and nothing open
//! ```
//! The issuer's question when a card is charged is answered from the ledger alone, and the answer
//! is stored before it is given. What the issuer tells by webhook is also asked for, so that a lost
//! one costs only time.

pub mod issuer;
pub mod signature;
pub mod worker;

use std::time::Duration;

use alloy_primitives::Address;
use secrecy::SecretString;
use stipend_core::Seconds;
use url::Url;

/// What a host sets about cards.
#[derive(Clone, Debug)]
pub struct CardsConfig {
    /// The issuer's API: Lithic's production, its sandbox, or the mock.
    pub issuer: Url,
    pub api_key: SecretString,
    /// Where the issuer reaches this relayer.
    pub callback: Url,
    /// The card program's treasury, whom holds are for.
    pub treasury: Address,
    /// How long a card can be charged.
    pub ttl: Seconds,
    /// How often to poll the issuer for events that webhooks may have missed.
    pub poll: Duration,
}
