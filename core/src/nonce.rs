//! The nonces of a mandate, as the contract keeps them: a window of 88 that trails the highest one
//! (RFC 6479). A nonce within it is used at most once, in any order; one below it is retired.

/// How many nonces the window holds.
pub const WINDOW: u32 = 88;

/// The window's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NonceWindow {
    base: u32,
    bits: u128,
}

/// Why a nonce can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NonceError {
    /// A higher nonce has retired it.
    #[error("a higher nonce has retired this one")]
    Retired,
    /// It was used.
    #[error("this nonce is used")]
    Used,
}

impl NonceWindow {
    /// The lowest nonce that is not retired.
    #[must_use]
    pub const fn base(&self) -> u32 {
        self.base
    }

    /// The lowest nonce that would not be retired if `highest` were used.
    #[must_use]
    pub const fn floor(highest: u32) -> u32 {
        highest.saturating_sub(WINDOW - 1)
    }

    /// The highest nonce that retires none that is still free, as long as nonces are used in about their
    /// order: a window above the highest one used.
    #[must_use]
    pub const fn ceiling(highest: Option<u32>) -> u32 {
        match highest {
            Some(highest) => highest.saturating_add(WINDOW),
            None => WINDOW - 1,
        }
    }

    /// Uses a nonce. Moves the window only if it lies above it.
    ///
    /// # Errors
    /// [`NonceError`], and nothing changes.
    pub fn insert(&mut self, nonce: u32) -> Result<(), NonceError> {
        let Some(offset) = nonce.checked_sub(self.base) else { return Err(NonceError::Retired) };
        if offset < WINDOW {
            let bit = 1_u128 << offset;
            if self.bits & bit != 0 {
                return Err(NonceError::Used);
            }
            self.bits |= bit;
            return Ok(());
        }
        let shift = offset - (WINDOW - 1);
        self.bits = self.bits.checked_shr(shift).unwrap_or(0) | 1 << (WINDOW - 1);
        self.base += shift;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        /// Against the naive model: a set of everything used, and the highest of it.
        #[test]
        fn a_nonce_passes_once_and_not_below_the_window(nonces in vec(prop_oneof![0..300_u32, any::<u32>(), Just(u32::MAX)], 0..200)) {
            let mut window = NonceWindow::default();
            let mut used = HashSet::new();
            let mut highest = 0;
            for nonce in nonces {
                let expected = if nonce < NonceWindow::floor(highest) { Err(NonceError::Retired) }
                    else if used.contains(&nonce) { Err(NonceError::Used) }
                    else { Ok(()) };
                prop_assert_eq!(window.insert(nonce), expected);
                if expected.is_ok() {
                    used.insert(nonce);
                    highest = highest.max(nonce);
                }
                prop_assert_eq!(window.base(), NonceWindow::floor(highest));
            }
        }
    }
}
