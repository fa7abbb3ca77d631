//! What is wrong, by name. An alarm that halts stops everything that signs or accepts; one that
//! refuses stops what accepts; reads continue.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use stipend_core::api;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Warns,
    Refuses,
    Halts,
}

/// The relayer's state of health. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    alarms: Arc<Mutex<BTreeMap<&'static str, (Severity, String)>>>,
}

impl Alarms {
    /// Needs attention; work continues.
    pub fn warn(&self, name: &'static str, what: impl Into<String>) {
        self.raise(name, Severity::Warns, what.into());
    }

    /// What would be accepted could not be sent: no new work is accepted until it is cleared.
    pub fn refuse(&self, name: &'static str, what: impl Into<String>) {
        self.raise(name, Severity::Refuses, what.into());
    }

    /// Something can't be explained or done: no new work until it is cleared.
    pub fn halt(&self, name: &'static str, what: impl Into<String>) {
        self.raise(name, Severity::Halts, what.into());
    }

    fn raise(&self, name: &'static str, severity: Severity, what: String) {
        let mut alarms = self.alarms();
        if alarms.get(name).is_none_or(|(_, known)| *known != what) {
            tracing::warn!(alarm = name, halts = severity == Severity::Halts, "{what}");
            alarms.insert(name, (severity, what));
        }
    }

    pub fn clear(&self, name: &'static str) {
        if self.alarms().remove(name).is_some() {
            tracing::info!(alarm = name, "cleared");
        }
    }

    /// Why nothing is signed or accepted, if so.
    pub fn halted(&self) -> Option<String> {
        self.first(Severity::Halts)
    }

    /// Why no new work is accepted while accepted work continues, if so.
    pub fn refusing(&self) -> Option<String> {
        self.first(Severity::Refuses)
    }

    fn first(&self, wanted: Severity) -> Option<String> {
        self.alarms().values().find(|(severity, _)| *severity == wanted).map(|(_, what)| what.clone())
    }

    /// As the API shows it.
    pub fn view(&self) -> api::Health {
        let alarms = self.alarms();
        api::Health {
            ready: alarms.values().all(|(severity, _)| *severity == Severity::Warns),
            alarms: alarms.iter().map(|(name, (_, what))| format!("{name}: {what}")).collect(),
        }
    }

    fn alarms(&self) -> MutexGuard<'_, BTreeMap<&'static str, (Severity, String)>> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
