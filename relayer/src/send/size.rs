//! How large batches may be: what payments turn out to need, and what nodes turn out to take. Losing
//! it costs nothing but time.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use super::batch::{Batch, GAS_ROW, ROWS};
use crate::ledger::transactions::TransactionRow;

#[derive(Debug)]
pub struct BatchSize {
    /// Gas of a payment: doubled where simulations need more.
    row_gas: AtomicU64,
    /// Payments of a batch: halved where nodes refuse one for its size.
    max_rows: AtomicUsize,
    /// The transactions that were refused for their size, which no block will hold.
    too_large: Mutex<HashSet<u64>>,
}

impl Default for BatchSize {
    fn default() -> Self {
        Self { row_gas: GAS_ROW.into(), max_rows: ROWS.into(), too_large: Mutex::default() }
    }
}

impl BatchSize {
    pub(super) fn row_gas(&self) -> u64 {
        self.row_gas.load(Relaxed)
    }

    pub(super) fn raise_row_gas(&self, gas: u64) {
        self.row_gas.fetch_max(gas, Relaxed);
    }

    pub(super) fn max_rows(&self) -> usize {
        self.max_rows.load(Relaxed)
    }

    pub(super) fn too_large(&self) -> HashSet<u64> {
        self.too_large.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A node will not have this batch: it is canceled, and the next ones are half as large. A single
    /// payment can't be split.
    pub(super) fn halve(&self, tx: &TransactionRow) {
        let rows = Batch::room(tx.gas_limit, self.row_gas());
        if rows > 1 && self.too_large.lock().unwrap_or_else(PoisonError::into_inner).insert(tx.id) {
            self.max_rows.fetch_min(rows / 2, Relaxed);
            tracing::warn!(tx = tx.id, rows, "a node refuses a batch for its size: the next ones are half as large");
        }
    }
}
