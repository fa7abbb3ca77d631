//! How much gas a payment takes, learned from batches in blocks. Pure.

/// The most gas that every chain allows a transaction (EIP-7825).
pub(super) const MAX_TX_GAS: u64 = 16_777_216;
/// Gas that a batch gets whatever is in it.
pub(super) const GAS_BASE: u64 = 200_000;
/// Gas that no row exceeds with USDC as it is on chains that charge for computation alone: a first
/// payment to a new holder of the token from a mandate not touched before, with a proof. What a row gets before any
/// batch was mined.
const GAS_ROW: u64 = 100_000;
/// Up to so much, a row gets that anyway: where gas is not what limits a batch, it is not worth to know more exactly.
const AMPLE: u64 = 4_000_000;
/// Less than any row takes: its calldata, its signature and its transfer.
const LEAST: u64 = 12_000;
/// The most that a row gets: one fits into a transaction.
const MOST: u64 = MAX_TX_GAS - GAS_BASE;

/// The gas that a row of the next batch gets.
///
/// It is what rows took, and two fifths: a simulation must pass with four fifths of a batch's gas, which leaves an eighth
/// for rows that differ, and the last fifth is for what changes until the batch is mined. More than expected counts at
/// once, less by degrees: a full batch brings the estimate half of the way down to what it took, a single payment hardly.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowGas(u64);

impl Default for RowGas {
    fn default() -> Self {
        Self(GAS_ROW)
    }
}

impl RowGas {
    pub(super) const fn get(self) -> u64 {
        self.0
    }

    /// A batch of so many rows is in a block and used this much gas. One that failed says only that it took as much.
    pub(super) fn record(&mut self, rows: u64, gas_used: u64, succeeded: bool) {
        let Some(took) = gas_used.saturating_sub(GAS_BASE).checked_div(rows) else { return };
        let target = within(took.saturating_add(1).saturating_mul(7) / 5);
        if target > self.0 {
            // Small batches are of many mandates, whose rows take more: they are not what others are measured by.
            if gas_used > GAS_BASE + AMPLE / 10 * 7 {
                self.0 = target;
            }
        } else if succeeded {
            let allotted = rows.saturating_mul(self.0).min(MAX_TX_GAS);
            // Both below 2^25.
            let step = self.0.saturating_sub(target).saturating_mul(allotted) / allotted.saturating_add(MAX_TX_GAS);
            self.0 = self.0.saturating_sub(step);
        }
    }

    /// A simulation wants more than this. False if there is no more.
    pub(super) fn double(&mut self, gas: u64) -> bool {
        // Lanes that simulate at one time find out the same.
        self.0 = self.0.max(within(gas.saturating_mul(2)));
        self.0 > gas
    }
}

/// The gas that so many rows get at least, if there is as much.
pub(super) const fn ample(rows: usize) -> u64 {
    let gas = GAS_ROW.saturating_mul(rows as u64);
    GAS_BASE + if gas < AMPLE { gas } else { AMPLE }
}

const fn within(gas: u64) -> u64 {
    if gas < LEAST {
        LEAST
    } else if gas > MOST {
        MOST
    } else {
        gas
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Clone, Debug)]
    enum Event {
        Mined { rows: u64, gas_used: u64, succeeded: bool },
        WantsMore,
    }

    fn event() -> impl Strategy<Value = Event> {
        let number = || prop_oneof![0..1_000_u64, 0..MAX_TX_GAS, any::<u64>()];
        prop_oneof![
            4 => (number(), number(), any::<bool>())
                .prop_map(|(rows, gas_used, succeeded)| Event::Mined { rows, gas_used, succeeded }),
            1 => Just(Event::WantsMore),
        ]
    }

    fn after(events: &[Event]) -> RowGas {
        let mut row_gas = RowGas::default();
        for event in events {
            match *event {
                Event::Mined { rows, gas_used, succeeded } => row_gas.record(rows, gas_used, succeeded),
                Event::WantsMore => _ = row_gas.double(row_gas.get()),
            }
        }
        row_gas
    }

    proptest! {
        #[test]
        fn whatever_happened_a_row_gets_some_gas_and_fits_into_a_transaction(events in vec(event(), 0..40)) {
            let gas = after(&events).get();
            prop_assert!(gas >= LEAST && GAS_BASE + gas <= MAX_TX_GAS, "{gas}");
        }

        /// What a batch took fits into four fifths of the next one's gas, less an eighth, at once.
        #[test]
        fn the_next_batch_gets_what_the_last_one_took_and_a_margin(
            events in vec(event(), 0..20), rows in 1..600_u64, took in LEAST..30_000_u64, succeeded: bool
        ) {
            let mut row_gas = after(&events);
            let used = GAS_BASE + rows * took;
            row_gas.record(rows, used, succeeded);
            let limit = (GAS_BASE + rows * row_gas.get()).max(ample(usize::try_from(rows).unwrap()));
            prop_assert!(limit * 4 / 5 >= used, "{row_gas:?}");
        }

        /// However wrong the estimate has become, two dozen full batches mend it.
        #[test]
        fn an_estimate_that_is_too_high_comes_down(events in vec(event(), 0..40), took in LEAST..30_000_u64) {
            let mut row_gas = after(&events);
            for _ in 0..24 {
                let rows = (MAX_TX_GAS - GAS_BASE) / row_gas.get();
                row_gas.record(rows, GAS_BASE + rows * took, true);
            }
            prop_assert!(row_gas.get() < 2 * took, "{row_gas:?}");
        }
    }

    #[test]
    fn few_rows_say_little_and_many_are_believed() {
        let mut row_gas = RowGas::default();
        row_gas.record(1, 90_000, true);
        assert!(row_gas.get() > 99_000, "{row_gas:?}");
        for _ in 0..6 {
            row_gas.record(165, GAS_BASE + 165 * 20_000, true);
        }
        assert!((28_000..34_000).contains(&row_gas.get()), "{row_gas:?}");
    }

    #[test]
    fn small_batches_of_many_mandates_say_nothing_about_full_ones() {
        let mut row_gas = RowGas::default();
        for _ in 0..20 {
            row_gas.record(500, GAS_BASE + 500 * 20_000, true);
        }
        let before = row_gas.get();
        row_gas.record(40, GAS_BASE + 40 * 60_000, true);
        assert!(row_gas.get() <= before && ample(40) * 4 / 5 > GAS_BASE + 40 * 60_000);
        row_gas.record(400, GAS_BASE + 400 * 30_000, true);
        assert!(row_gas.get() >= 42_000, "{row_gas:?}");
    }

    #[test]
    fn a_batch_that_ran_out_of_gas_raises_it() {
        let mut row_gas = RowGas::default();
        for _ in 0..20 {
            row_gas.record(500, GAS_BASE + 500 * 20_000, true);
        }
        let before = row_gas.get();
        row_gas.record(500, GAS_BASE + 500 * before, false);
        assert!(row_gas.get() * 10 >= before * 14 - 20, "{row_gas:?}");
        // A revert that took little says nothing.
        let after = row_gas.get();
        row_gas.record(500, 200_000, false);
        assert_eq!(row_gas.get(), after);
    }
}
