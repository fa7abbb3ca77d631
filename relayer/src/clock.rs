//! The wall clock.

use stipend_core::Seconds;

pub fn now() -> Seconds {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}
