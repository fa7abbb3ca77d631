//! Mandates, without any I/O.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of a mandate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MandateState {
    /// Its opening is not confirmed yet.
    Opening,
    /// It can be spent.
    Open,
    /// The relayer stopped it: something on chain can't be explained.
    Frozen,
    /// Revoked, swept or rolled.
    Ended,
}

impl MandateState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Opening, Self::Open, Self::Frozen, Self::Ended];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Frozen => "frozen",
            Self::Ended => "ended",
        }
    }
}
