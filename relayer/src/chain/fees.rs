//! What a transaction may cost. Pure integers; no I/O.

/// The fees of an attempt, in wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// At most, base fee and tip together.
    pub max_fee: u64,
    /// The tip.
    pub priority_fee: u64,
}

/// What the market asks.
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

/// The fees of the first attempt: comfortable if the ceiling allows, and otherwise the ceiling, as
/// long as that pays the base fee.
///
/// # Errors
/// [`FeeError::AboveCeiling`].
pub fn first(market: Market, ceiling: u64) -> Result<Fees, FeeError> {
    if market.base_fee > ceiling {
        return Err(FeeError::AboveCeiling { asked: market.base_fee, ceiling });
    }
    let max_fee = market.comfortable().min(ceiling);
    Ok(Fees { max_fee, priority_fee: market.tip.min(max_fee) })
}

/// The fees of an attempt that replaces `last`: what the market asks now, and both fees at least an
/// eighth higher, which every node takes as a replacement.
///
/// # Errors
/// [`FeeError::AboveCeiling`]: send the last attempt's bytes again instead.
pub fn replacement(last: Fees, market: Market, ceiling: u64) -> Result<Fees, FeeError> {
    let raised = |fee: u64| fee.saturating_add(fee.div_ceil(8)).max(fee.saturating_add(1));
    let priority_fee = raised(last.priority_fee).max(market.tip);
    let max_fee = raised(last.max_fee).max(market.comfortable().min(ceiling)).max(priority_fee);
    if max_fee > ceiling {
        return Err(FeeError::AboveCeiling { asked: max_fee, ceiling });
    }
    Ok(Fees { max_fee, priority_fee })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fees_stay_under_the_ceiling_and_rise_by_an_eighth(base_fee: u64, tip: u64, max_fee: u64, priority_fee: u64, ceiling: u64) {
            let market = Market { base_fee, tip };
            if let Ok(fees) = first(market, ceiling) {
                prop_assert!(base_fee <= fees.max_fee && fees.max_fee <= ceiling && fees.priority_fee <= fees.max_fee);
            }
            if let Ok(fees) = replacement(Fees { max_fee, priority_fee }, market, ceiling) {
                prop_assert!(fees.max_fee <= ceiling && fees.priority_fee <= fees.max_fee);
                prop_assert!(u128::from(fees.max_fee) * 8 >= u128::from(max_fee) * 9 && fees.max_fee > max_fee);
                prop_assert!(u128::from(fees.priority_fee) * 8 >= u128::from(priority_fee) * 9 && fees.priority_fee > priority_fee);
            }
        }
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
    }
}
