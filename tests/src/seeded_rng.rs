//! Pseudo-randomness that can be repeated: its seed is printed, and can be set.

use std::env;

use eyre::{Result, WrapErr};

/// The variable that sets the seed.
const SEED: &str = "STIPEND_SEED";

/// A sequence of numbers that follows from its seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct SeededRng(u64);

impl SeededRng {
    /// By `STIPEND_SEED`, or by the time. Prints the seed, which a failing test shows.
    pub fn by_seed(what: &str) -> Result<Self> {
        let seed = match env::var(SEED) {
            Ok(seed) => seed.parse().wrap_err(SEED)?,
            Err(_) => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs(),
        };
        println!("{what}: {SEED}={seed}");
        Ok(Self(seed))
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}

/// A number from the environment, where a longer run is wanted.
pub fn number_from(variable: &str, otherwise: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(number) => number.parse().wrap_err_with(|| variable.to_owned()),
        Err(_) => Ok(otherwise),
    }
}
