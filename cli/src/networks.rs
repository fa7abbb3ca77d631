//! The chains that are known by name, and what is sensible on each. Nothing here is needed to use
//! another chain: every value is a flag of `stipend serve`.

use std::str::FromStr;

use stipend_core::{Amount, DEV_CHAIN_ID};

/// A known chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    pub(crate) chain_id: u64,
    /// The highest gas price to pay, in gwei: about ten times that of a busy day.
    pub(crate) fee_ceiling: &'static str,
    /// The gas that a mandate may use per day, in the chain's coin.
    pub(crate) gas_budget: &'static str,
    /// The smallest payment, in USDC.
    pub(crate) payment_min: &'static str,
}

const fn network(
    name: &'static str,
    chain_id: u64,
    fee_ceiling: &'static str,
    gas_budget: &'static str,
    payment_min: &'static str,
) -> Network {
    Network { name, chain_id, fee_ceiling, gas_budget, payment_min }
}

pub(crate) const NETWORKS: &[Network] = &[
    network("ethereum", 1, "100", "0.02", "1.00"),
    network("base", 8453, "5", "0.005", "0.01"),
    network("optimism", 10, "5", "0.005", "0.01"),
    network("arbitrum", 42_161, "10", "0.005", "0.01"),
    network("polygon", 137, "2000", "20", "0.01"),
    network("avalanche", 43_114, "300", "0.5", "0.01"),
    network("sepolia", 11_155_111, "100", "0.05", "0.01"),
    network("base-sepolia", 84_532, "5", "0.05", "0.01"),
    network("optimism-sepolia", 11_155_420, "5", "0.05", "0.01"),
    network("arbitrum-sepolia", 421_614, "10", "0.05", "0.01"),
];

/// A chain that is not in the list.
const OTHER: Network = network("", 0, "100", "0.02", "0.01");

/// The smallest mandate that is opened and revoked by message, what it must have left to be returned
/// without anybody asking, and how many an operator, and all together, may open by message in 24 hours, on
/// every chain where gas costs something.
pub(crate) const MANDATE_MIN: &str = "1.00";
pub(crate) const SWEEP_MIN: &str = "0.01";
pub(crate) const APPROVALS_PER_DAY: u32 = 20;
pub(crate) const APPROVALS_PER_DAY_TOTAL: u32 = 500;

impl Network {
    /// The values for this chain; `None` on anvil's, where nothing costs anything.
    pub(crate) fn of(chain_id: u64) -> Option<Self> {
        let known = NETWORKS.iter().find(|network| network.chain_id == chain_id);
        (chain_id != DEV_CHAIN_ID).then(|| known.copied().unwrap_or(OTHER))
    }
}

/// A chain by its name or its id.
pub(crate) fn chain_id(text: &str) -> Result<u64, String> {
    let named = NETWORKS.iter().find(|network| network.name == text).map(|network| network.chain_id);
    named.or_else(|| text.parse().ok()).ok_or_else(|| {
        let names: Vec<_> = NETWORKS.iter().map(|network| network.name).collect();
        format!("expected a chain id, or one of {}", names.join(", "))
    })
}

/// An amount of the table.
pub(crate) fn amount(text: &str) -> Amount {
    Amount::from_str(text).unwrap_or(Amount::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_named_or_numbered() {
        assert_eq!(chain_id("base"), Ok(8_453));
        assert_eq!(chain_id("8453"), Ok(8_453));
        assert_eq!(chain_id("31337"), Ok(31_337));
        let error = chain_id("bse").unwrap_err();
        assert!(error.contains("base") && error.contains("ethereum"), "{error}");
    }

    #[test]
    fn every_value_can_be_read() {
        for network in NETWORKS.iter().chain([&OTHER]) {
            assert!(crate::serve::gwei(network.fee_ceiling).is_ok(), "{network:?}");
            assert!(crate::serve::ether(network.gas_budget).is_ok(), "{network:?}");
            assert!(!amount(network.payment_min).is_zero(), "{network:?}");
        }
        assert!(!amount(MANDATE_MIN).is_zero() && !amount(SWEEP_MIN).is_zero());
        assert!(Network::of(DEV_CHAIN_ID).is_none() && Network::of(999_999).is_some());
    }
}
