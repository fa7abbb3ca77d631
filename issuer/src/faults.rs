//! The switchboard: what the mock does wrong on purpose. Nothing of it exists at Lithic's.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// All switches. A count says how many of the next ones are hit, and goes down by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Faults {
    pub(crate) webhooks: Webhooks,
    pub(crate) asa: Asa,
    pub(crate) cards: CardFaults,
}

/// What goes wrong with webhooks. What is counted are deliveries, each attempt on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Webhooks {
    /// Lost for good: never sent and never tried again, as if delivered.
    pub(crate) drop: u32,
    /// Lost on the way: tried again on schedule.
    pub(crate) fail: u32,
    /// Sent twice.
    pub(crate) duplicate: u32,
    /// Sent with a signature that is wrong.
    pub(crate) corrupt_signature: u32,
    /// Sent with a sound signature of ten minutes ago.
    pub(crate) stale: u32,
    /// How much later all of them are sent.
    pub(crate) delay_ms: u64,
    /// Nothing is sent until this is off again.
    pub(crate) paused: bool,
    /// What is due is sent newest first.
    pub(crate) newest_first: bool,
}

/// What goes wrong with the real-time question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Asa {
    /// Never asked: declined when the time is up.
    pub(crate) absent: u32,
    /// Asked twice at once; the first answer counts.
    pub(crate) duplicate: u32,
    /// Asked with a signature that is wrong.
    pub(crate) corrupt_signature: u32,
    /// How much later every answer arrives: an approval can so come too late.
    pub(crate) delay_ms: u64,
}

/// What goes wrong with cards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CardFaults {
    /// Created, and the connection closed without an answer.
    pub(crate) lose_create_answer: u32,
}

/// Where the switches are kept while the mock runs: a restart begins without faults.
#[derive(Debug, Default)]
pub(crate) struct Switchboard(Mutex<Faults>);

impl Switchboard {
    pub(crate) fn show(&self) -> Faults {
        self.faults().clone()
    }

    pub(crate) fn set(&self, faults: Faults) {
        *self.faults() = faults;
    }

    /// Whether a counted fault hits now; if so, it is one less.
    pub(crate) fn take(&self, count: impl FnOnce(&mut Faults) -> &mut u32) -> bool {
        let mut faults = self.faults();
        let count = count(&mut faults);
        let hit = *count > 0;
        *count = count.saturating_sub(1);
        hit
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_fault_hits_so_often_and_no_more() {
        let switchboard = Switchboard::default();
        switchboard.set(serde_json::from_str(r#"{"webhooks":{"drop":2}}"#).unwrap());
        let drop = || switchboard.take(|faults| &mut faults.webhooks.drop);
        assert_eq!([drop(), drop(), drop()], [true, true, false]);
        assert_eq!(switchboard.show(), Faults::default());
    }

    #[test]
    fn a_switch_that_does_not_exist_is_refused() {
        assert!(serde_json::from_str::<Faults>(r#"{"webhooks":{"dorp":1}}"#).is_err());
    }
}
