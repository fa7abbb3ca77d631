//! What a transaction may cost. Pure integers; no I/O.

/// The fees of an attempt, in wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// At most, base fee and tip together.
    pub max_fee: u64,
    /// The tip.
    pub priority_fee: u64,
}

/// The market's fees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Market {
    /// The last block's base fee.
    pub base_fee: u64,
    /// The tip that the node suggests.
    pub tip: u64,
}

/// Why there is no (further) attempt at these fees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeeError {
    /// The host does not pay so much.
    #[error("the market asks {asked} wei per gas, the ceiling is {ceiling}: waiting")]
    AboveCeiling {
        /// What it would take.
        asked: u64,
        /// What the host allows.
        ceiling: u64,
    },
}

impl Market {
    /// Room for six full blocks in a row (each raises the base fee by an eighth), and the tip.
    const fn comfortable(self) -> u64 {
        self.base_fee.saturating_mul(2).saturating_add(self.tip)
    }
}

impl Market {
    /// Whether an attempt at these fees may wait because others pay more. The base fee can rise by an
    /// eighth with each block.
    pub const fn asks_more_than(self, fees: Fees) -> bool {
        fees.max_fee < self.comfortable() || fees.priority_fee < self.tip
    }
}

/// The most that an attempt to do the work may cost under the host's `ceiling`: an eighth more still
/// fits, so that a transaction whose work has become obsolete can be canceled.
pub const fn for_work(ceiling: u64) -> u64 {
    // `ceiling * 8 / 9`, which could overflow.
    ceiling.saturating_sub(ceiling.div_ceil(9))
}

/// The fees of the first attempt: comfortable if the ceiling allows, and otherwise the ceiling, as
/// long as that pays the base fee.
///
/// # Errors
/// [`FeeError::AboveCeiling`].
pub fn first(market: Market, ceiling: u64) -> Result<Fees, FeeError> {
    // Under a ceiling of nothing there is no room to cancel, even where blocks are free.
    let asked = market.base_fee.max(1);
    if asked > ceiling {
        return Err(FeeError::AboveCeiling { asked, ceiling });
    }
    let max_fee = market.comfortable().min(ceiling);
    Ok(Fees { max_fee, priority_fee: market.tip.min(max_fee) })
}

/// The fees of an attempt that replaces `last`: the market's, and both fees at least an
/// eighth higher, which every node takes as a replacement.
///
/// # Errors
/// [`FeeError::AboveCeiling`]: send the last attempt's bytes again instead.
pub fn replacement(last: Fees, market: Market, ceiling: u64) -> Result<Fees, FeeError> {
    let raised = |fee: u64| fee.saturating_add(fee.div_ceil(8)).max(fee.saturating_add(1));
    let max_fee = raised(last.max_fee).max(market.comfortable().min(ceiling));
    if max_fee > ceiling {
        return Err(FeeError::AboveCeiling { asked: max_fee, ceiling });
    }
    // A node that suggests an absurd tip gets what the ceiling allows.
    Ok(Fees { max_fee, priority_fee: raised(last.priority_fee).max(market.tip.min(max_fee)) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fees as they occur, and at the ends.
    fn fee() -> impl Strategy<Value = u64> {
        prop_oneof![0..100_u64, 0..1_000_000_000_000_u64, any::<u64>()]
    }

    fn market() -> impl Strategy<Value = Market> {
        (fee(), fee()).prop_map(|(base_fee, tip)| Market { base_fee, tip })
    }

    fn attempt() -> impl Strategy<Value = Fees> {
        (fee(), fee()).prop_map(|(a, b)| Fees { max_fee: a.max(b), priority_fee: a.min(b) })
    }

    /// What geth requires of a replacement (its `txpool.pricebump` is 10): more, and a tenth more.
    fn geth_takes(last: u64, next: u64) -> bool {
        next > last && u128::from(next) >= u128::from(last) * 110 / 100
    }

    #[test]
    fn nothing_is_sent_under_a_ceiling_of_nothing() {
        let free = Market { base_fee: 0, tip: 0 };
        assert_eq!(first(free, for_work(1)), Err(FeeError::AboveCeiling { asked: 1, ceiling: 0 }));
    }

    proptest! {
        #[test]
        fn a_first_attempt_pays_the_base_fee_under_the_ceiling(market in market(), ceiling in fee()) {
            match first(market, ceiling) {
                Ok(fees) => prop_assert!(market.base_fee <= fees.max_fee && fees.priority_fee <= fees.max_fee && fees.max_fee <= ceiling),
                Err(FeeError::AboveCeiling { asked, ceiling: said }) => prop_assert!(asked > ceiling && said == ceiling),
            }
        }

        #[test]
        fn a_replacement_is_priced_within_bump_and_ceiling(last in attempt(), market in market(), ceiling in fee()) {
            if let Ok(fees) = replacement(last, market, ceiling) {
                prop_assert!(fees.max_fee <= ceiling && fees.priority_fee <= fees.max_fee);
                prop_assert!(geth_takes(last.max_fee, fees.max_fee) && geth_takes(last.priority_fee, fees.priority_fee));
                prop_assert!(u128::from(fees.max_fee) * 8 >= u128::from(last.max_fee) * 9);
                prop_assert!(u128::from(fees.priority_fee) * 8 >= u128::from(last.priority_fee) * 9);
            }
        }

        /// Whatever the market does, an attempt to work leaves room for one that cancels.
        #[test]
        fn room_for_a_cancel_is_kept_under_the_ceiling(market in market(), then in market(), ceiling in fee()) {
            let mut attempt = first(market, for_work(ceiling)).ok();
            while let Some(last) = attempt {
                prop_assert!(replacement(last, then, ceiling).is_ok(), "{last:?}");
                attempt = replacement(last, then, for_work(ceiling)).ok();
            }
        }

        #[test]
        fn a_dearer_market_or_a_higher_ceiling_lowers_nothing(
            last in attempt(), market in market(), dearer in (fee(), fee()), ceiling in fee(), more in fee()
        ) {
            let dear = Market { base_fee: market.base_fee.saturating_add(dearer.0), tip: market.tip.saturating_add(dearer.1) };
            let not_lower = |one: Fees, other: Fees| other.max_fee >= one.max_fee && other.priority_fee >= one.priority_fee;
            if let (Ok(one), Ok(other)) = (replacement(last, market, ceiling), replacement(last, dear, ceiling)) {
                prop_assert!(not_lower(one, other));
            }
            if let Ok(one) = replacement(last, market, ceiling) {
                prop_assert!(replacement(last, market, ceiling.saturating_add(more)).is_ok_and(|other| not_lower(one, other)));
            }
            if let Ok(one) = first(market, ceiling) {
                prop_assert!(first(market, ceiling.saturating_add(more)).is_ok_and(|other| not_lower(one, other)));
            }
        }
    }

    #[test]
    fn only_a_price_below_the_market_is_raised() {
        let market = Market { base_fee: 10, tip: 2 };
        let asks = |max_fee, priority_fee| market.asks_more_than(Fees { max_fee, priority_fee });
        assert!(!asks(22, 2) && !asks(1_000, 100));
        assert!(asks(21, 2) && asks(22, 1));
    }

    #[test]
    fn a_spike_waits_and_a_calm_market_pays_double_the_base_fee() {
        assert_eq!(first(Market { base_fee: 10, tip: 1 }, 100), Ok(Fees { max_fee: 21, priority_fee: 1 }));
        assert_eq!(first(Market { base_fee: 60, tip: 1 }, 100), Ok(Fees { max_fee: 100, priority_fee: 1 }));
        assert_eq!(
            first(Market { base_fee: 101, tip: 1 }, 100),
            Err(FeeError::AboveCeiling { asked: 101, ceiling: 100 })
        );
        let last = Fees { max_fee: 96, priority_fee: 8 };
        assert_eq!(
            replacement(last, Market { base_fee: 10, tip: 1 }, 100),
            Err(FeeError::AboveCeiling { asked: 108, ceiling: 100 })
        );
        assert_eq!(replacement(last, Market { base_fee: 10, tip: 1 }, 108), Ok(Fees { max_fee: 108, priority_fee: 9 }));
        assert_eq!((for_work(90), for_work(100)), (80, 88));
    }
}
