//! How large batches may be: what payments turn out to take, and what nodes turn out to accept. Losing
//! it costs nothing but time.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::row_gas::{GAS_BASE, RowGas};

/// The most rows of a batch, whatever room there is.
pub(super) const ROWS: usize = 600;
/// The most bytes of a call. Nodes take transactions of at most 128 KiB into their pools (geth: `txMaxSize`), of which
/// signature, fees and the like are some 200 bytes.
pub(super) const CALL_BYTES: usize = 127 * 1_024;

/// What a batch may be at most.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Gas that a row gets.
    pub row_gas: u64,
    pub rows: usize,
    /// Of calldata.
    pub bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { row_gas: RowGas::default().get(), rows: ROWS, bytes: CALL_BYTES }
    }
}

impl BatchLimits {
    /// How many rows this much gas suffices for.
    pub fn room(&self, gas: u64) -> usize {
        let rows = gas.saturating_sub(GAS_BASE).checked_div(self.row_gas).unwrap_or_default();
        usize::try_from(rows).unwrap_or(self.rows).min(self.rows)
    }

    /// The gas limit of a batch of so many rows, so that none is skipped for want of gas.
    pub const fn gas_limit(&self, rows: usize) -> u64 {
        GAS_BASE.saturating_add(self.row_gas.saturating_mul(rows as u64))
    }
}

/// The gas with which a transaction is simulated: what it gets beyond that is for what changes until it is mined.
pub(super) const fn simulated(gas_limit: u64) -> u64 {
    gas_limit - gas_limit / 5
}

#[derive(Debug, Default)]
pub struct BatchSize {
    learned: Mutex<Learned>,
}

#[derive(Debug)]
struct Learned {
    row_gas: RowGas,
    /// Halved where nodes refuse a batch for its size.
    max_rows: usize,
    /// The transactions that were refused for their size, which no block will hold.
    too_large: HashSet<u64>,
}

impl Default for Learned {
    fn default() -> Self {
        Self { row_gas: RowGas::default(), max_rows: ROWS, too_large: HashSet::new() }
    }
}

impl BatchSize {
    pub(super) fn limits(&self) -> BatchLimits {
        let learned = self.learned();
        BatchLimits { row_gas: learned.row_gas.get(), rows: learned.max_rows, bytes: CALL_BYTES }
    }

    /// A batch of so many rows is in a block.
    pub(super) fn record(&self, rows: u64, gas_used: u64, succeeded: bool) {
        self.learned().row_gas.record(rows, gas_used, succeeded);
    }

    /// A simulation wants more gas for a row than this. False if no row can get more.
    pub(super) fn double_row_gas(&self, row_gas: u64) -> bool {
        let mut learned = self.learned();
        let raised = learned.row_gas.double(row_gas);
        tracing::info!(row_gas = learned.row_gas.get(), "payments take more gas than the last ones");
        raised
    }

    pub(super) fn too_large(&self) -> HashSet<u64> {
        self.learned().too_large.clone()
    }

    /// A node will not have this batch of so many rows: it is canceled, and the next ones are half as large. A single
    /// payment can't be split.
    pub(super) fn halve(&self, tx: u64, rows: usize) {
        let mut learned = self.learned();
        if rows > 1 && learned.too_large.insert(tx) {
            learned.max_rows = learned.max_rows.min(rows / 2);
            tracing::warn!(tx, rows, "a node refuses a batch for its size: the next ones are half as large");
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
