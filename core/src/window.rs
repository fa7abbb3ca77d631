//! The contract's rolling window: what was committed within the last `window` seconds, as a shift
//! register of seven lanes. Golden vectors (bindings/vectors) hold Solidity and Rust to the same
//! answers.

use crate::{Amount, Seconds, Terms};

/// How many lanes there are.
const LANES: usize = 7;

/// The largest sum that a lane can hold: the contract's lanes have 32 bits.
const LANE: u64 = u32::MAX as u64;

/// Each lane holds what was committed in one bucket, a sixth of the window; the first is the newest.
/// Seven of them always contain the whole window, so at worst the limit is a sixth longer than asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RollingWindow {
    bucket: Seconds,
    lanes: [u64; LANES],
}

impl RollingWindow {
    /// How long what is committed counts at most, in seconds: seven buckets.
    #[must_use]
    pub const fn memory(terms: &Terms) -> Seconds {
        length(terms) * LANES as Seconds
    }

    /// What is committed between two of these times, excluding the one and including the other, counts alike, seen from
    /// `now` or later: they are the ends of the buckets before its own, and the exact window's beginning; oldest first. What
    /// is committed up to the first one counts no longer.
    #[must_use]
    pub fn bounds(terms: &Terms, now: Seconds) -> Vec<Seconds> {
        let length = length(terms);
        let Some(bucket) = now.checked_div(length) else { return Vec::new() };
        let start = |age| bucket.saturating_sub(age).saturating_mul(length);
        let mut bounds: Vec<Seconds> = (0..LANES as Seconds).map(|age| start(age).saturating_sub(1)).collect();
        bounds.push(now.saturating_sub(terms.window.into()));
        bounds.sort_unstable();
        bounds.dedup();
        bounds
    }

    /// The window with one more amount at `time`, and whether it fits. Without a window, everything
    /// fits.
    #[must_use]
    pub fn add(self, terms: &Terms, amount: Amount, time: Seconds) -> (bool, Self) {
        self.add_units(terms, units(terms, amount).0, time)
    }

    fn add_units(self, terms: &Terms, units: u64, time: Seconds) -> (bool, Self) {
        let Some(bucket) = time.checked_div(length(terms)) else { return (true, self) };
        // Time does not go back on chain; what is from later counts as from now.
        let passed = usize::try_from(bucket.saturating_sub(self.bucket)).unwrap_or(LANES);
        let mut lanes = [0; LANES];
        for (lane, old) in lanes.iter_mut().skip(passed).zip(self.lanes) {
            *lane = old;
        }
        let (_, cap) = self::units(terms, Amount::ZERO);
        let sum: u64 = lanes.iter().fold(units, |sum, lane| sum.saturating_add(*lane));
        if let Some(newest) = lanes.first_mut() {
            *newest = newest.saturating_add(units);
        }
        (sum <= cap, Self { bucket: bucket.max(self.bucket), lanes })
    }
}

/// What a block has taken out of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mined {
    /// The block's time; of several, the last one's.
    pub at: Seconds,
    /// How much.
    pub amount: Amount,
    /// How much of the register that takes: of several, each is rounded up.
    pub units: u64,
}

impl Mined {
    /// One payment or hold.
    #[must_use]
    pub fn one(terms: &Terms, amount: Amount, at: Seconds) -> Self {
        Self { at, amount, units: units(terms, amount).0 }
    }
}

/// What was accepted and no block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Until when a block can take it.
    pub deadline: Seconds,
    /// How much.
    pub amount: Amount,
}

/// What of a mandate counts in its rolling window. Empty where its terms have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowUsage {
    /// Oldest first.
    pub mined: Vec<Mined>,
    /// In any order.
    pub pending: Vec<Pending>,
}

impl WindowUsage {
    /// What counts in the last `window` seconds, exactly to the second. What is pending counts as from
    /// now, whenever it was accepted.
    #[must_use]
    pub fn recent(&self, terms: &Terms, now: Seconds) -> Amount {
        let since = now.saturating_sub(terms.window.into());
        let mined = self.mined.iter().filter(|mined| mined.at > since).map(|mined| mined.amount);
        let amounts = mined.chain(self.pending.iter().map(|pending| pending.amount));
        amounts.fold(Amount::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(Amount::MAX))
    }

    /// Whether the contract has room for `wanted` by its deadline, and for all that is pending by
    /// theirs, in whatever order they come, with `to_settle` seconds left for it: when the first of
    /// them is due, there must be room for all of them at once.
    #[must_use]
    pub fn fits_before_deadlines(&self, terms: &Terms, wanted: Pending, now: Seconds, to_settle: Seconds) -> bool {
        // What is too late is not waited for; until that is final it counts.
        let deadlines = self.pending.iter().map(|pending| pending.deadline).filter(|deadline| *deadline > now);
        let due = deadlines.fold(wanted.deadline, Seconds::min).saturating_sub(to_settle).max(now);
        let mined = self.mined.iter().map(|mined| (mined.at, mined.units));
        let pending = self.pending.iter().map(|pending| (due, units(terms, pending.amount).0));
        let register = mined
            .chain(pending)
            .fold(RollingWindow::default(), |register, (at, units)| register.add_units(terms, units, at).1);
        register.add(terms, wanted.amount, due).0
    }
}

/// The length of a bucket.
const fn length(terms: &Terms) -> Seconds {
    (terms.window as Seconds).div_ceil(6)
}

/// An amount and the cap in units of the smallest power of two in which the cap fits a lane. The
/// amount is rounded up, the cap down.
fn units(terms: &Terms, amount: Amount) -> (u64, u64) {
    let (mut units, mut cap) = (amount.units(), terms.window_cap.units());
    while cap >= LANE {
        cap >>= 1;
        units = (units + 1) >> 1;
    }
    (units, cap)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn terms(window: u32, cap: u64) -> Terms {
        Terms {
            operator: Address::repeat_byte(1),
            agent: Address::repeat_byte(2),
            guardian: Address::ZERO,
            cap: Amount::MAX,
            per_payment: Amount::ZERO,
            window_cap: Amount::from_units(cap).unwrap(),
            window,
            start: 0,
            expiry: 1,
            capture_end: 1,
            payees: B256::ZERO,
            intent: B256::ZERO,
            refunds_restore_budget: false,
        }
    }

    fn amount(units: u64) -> Amount {
        Amount::from_units(units).unwrap()
    }

    /// What the vectors say of the contract, which checks them too.
    #[test]
    fn it_answers_as_the_contract_does() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../bindings/vectors/window.json")).unwrap();
        let number = |value: &serde_json::Value| value.as_str().unwrap().parse::<u64>().unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(cases.len() >= 10);
        for case in cases {
            let terms = terms(number(&case["window"]).try_into().unwrap(), number(&case["windowCap"]));
            let (times, amounts) = (case["times"].as_array().unwrap(), case["amounts"].as_array().unwrap());
            let mut window = RollingWindow::default();
            for (index, (time, units)) in times.iter().zip(amounts).enumerate() {
                let (fits, added) = window.add(&terms, amount(number(units)), number(time));
                assert_eq!(fits, case["fits"][index].as_bool().unwrap(), "{}, step {index}", case["name"]);
                if fits {
                    window = added;
                }
            }
        }
    }

    #[test]
    fn without_a_window_everything_fits() {
        assert!(RollingWindow::default().add(&terms(0, 0), Amount::MAX, 7).0);
    }

    proptest! {
        /// I8, and that it is not much stricter: what does not fit would have exceeded the cap, but
        /// for rounding, within seven sixths of the window.
        #[test]
        fn no_interval_takes_more_than_the_cap_and_none_much_less(
            window in 1..100_000_u32,
            cap in prop_oneof![1..1_000_000_u64, LANE - 2..LANE + 3, 1..=i64::MAX as u64],
            steps in prop::collection::vec((0..400_u64, 0..1_100_u128), 1..60),
        ) {
            let terms = terms(window, cap);
            let mut register = RollingWindow::default();
            let mut taken: Vec<(Seconds, u128)> = Vec::new();
            let mut now = 1_800_000_000;
            for (pause, part) in steps {
                now += u64::from(window) * pause / 1_000;
                let units = u64::try_from(part * u128::from(cap) / 1_000).unwrap().clamp(1, i64::MAX as u64);
                let since = |age: Seconds| -> u128 {
                    taken.iter().filter(|(at, _)| at + age > now).map(|(_, units)| units).sum()
                };
                let (fits, added) = register.add(&terms, amount(units), now);
                if fits {
                    prop_assert!(since(window.into()) + u128::from(units) <= u128::from(cap));
                    register = added;
                    taken.push((now, units.into()));
                } else {
                    let unit = 1_u128 << (64 - cap.leading_zeros()).saturating_sub(31);
                    let rounding = unit * (taken.len() as u128 + 2);
                    prop_assert!(since(RollingWindow::memory(&terms)) + u128::from(units) + rounding > u128::from(cap));
                }
            }
        }

        /// What counts alike may be counted at once.
        #[test]
        fn sums_between_bounds_say_what_their_parts_say(
            window in prop_oneof![1..100_000_u32, Just(u32::MAX)],
            cap in prop_oneof![1..1_000_000_u64, LANE - 2..LANE + 3, (1..=i64::MAX as u64)],
            mined in vec((0..2_000_u64, 0..300_u128), 0..60), part in 0..1_000_u128, life in 0..3_000_u64, due in 0..100_u64,
        ) {
            let (terms, now): (_, Seconds) = (terms(window, cap), 1_800_000_000);
            // No block but the first one has the time zero.
            let ago = |thousandths: u64| now.saturating_sub(u64::from(window) * thousandths / 1_000).max(1);
            let units = |part: u128| amount(u64::try_from(part * u128::from(cap) / 1_000).unwrap().max(1));
            let mut parts: Vec<_> = mined.iter().map(|(age, part)| Mined::one(&terms, units(*part), ago(*age))).collect();
            parts.sort_by_key(|mined| mined.at);
            let bounds = RollingWindow::bounds(&terms, now);
            let mut sums: Vec<Mined> = Vec::new();
            for (from, to) in bounds.iter().zip(bounds[1..].iter().chain([&Seconds::MAX])) {
                let within = parts.iter().filter(|mined| mined.at > *from && mined.at <= *to);
                sums.extend(within.copied().reduce(|sum, next| Mined {
                    at: next.at,
                    amount: sum.amount.checked_add(next.amount).unwrap_or(Amount::MAX),
                    units: sum.units + next.units,
                }));
            }
            let pending = vec![Pending { deadline: now + due, amount: units(part / 2) }];
            let [parts, sums] = [parts, sums].map(|mined| WindowUsage { mined, pending: pending.clone() });
            prop_assert_eq!(parts.recent(&terms, now), sums.recent(&terms, now));
            let wanted = Pending { deadline: now + u64::from(window) * life / 1_000, amount: units(part) };
            for to_settle in [0, 120] {
                let fits = |usage: &WindowUsage| usage.fits_before_deadlines(&terms, wanted, now, to_settle);
                prop_assert_eq!(fits(&parts), fits(&sums));
            }
        }

        /// Whoever mines, in whatever order, and however late: what was accepted is taken in time, if
        /// blocks come while it is due.
        #[test]
        fn what_is_accepted_is_taken_before_its_deadline(
            window in prop_oneof![1..600_u32, 600..20_000_u32],
            cap in prop_oneof![1..1_000_u64, Just(u64::from(u32::MAX)), Just(u64::from(u32::MAX) << 3)],
            // In thousandths of the window and of its cap: a pause, an amount, a life.
            steps in vec(
                (0..100_u64, prop_oneof![3 => 1..200_u128, 1 => 200..900_u128], 0..400_u64, any::<u64>()),
                40..120,
            ),
        ) {
            const TO_SETTLE: Seconds = 120;
            let terms = terms(window, cap);
            let (mut contract, mut usage) = (RollingWindow::default(), WindowUsage::default());
            // Takes what there is room for, beginning anywhere.
            let mut block = |usage: &mut WindowUsage, time: Seconds, order: u64| {
                let count = usage.pending.len();
                usage.pending.rotate_left(usize::try_from(order).unwrap().checked_rem(count).unwrap_or_default());
                usage.pending.retain(|Pending { deadline, amount }| {
                    let (fits, added) = contract.add(&terms, *amount, time);
                    if fits && time < *deadline {
                        contract = added;
                        usage.mined.push(Mined::one(&terms, *amount, time));
                    }
                    !(fits && time < *deadline)
                });
            };
            let mut now = 1_800_000_000;
            for (pause, part, life, order) in steps {
                let until = now + u64::from(window) * pause / 1_000;
                let due = |usage: &WindowUsage| usage.pending.iter().map(|pending| pending.deadline - TO_SETTLE).min();
                while let Some(time) = due(&usage).filter(|due| *due <= until) {
                    block(&mut usage, time.max(now), order);
                    prop_assert!(due(&usage).is_none_or(|due| due > time), "{usage:?}");
                }
                now = until;
                if order % 3 == 0 {
                    block(&mut usage, now, order / 3);
                }
                let units = u64::try_from(part * u128::from(cap) / 1_000).unwrap().max(1);
                let deadline = now + TO_SETTLE + u64::from(window) * life / 1_000;
                let recent = usage.recent(&terms, now).units();
                let wanted = Pending { deadline, amount: amount(units) };
                if recent + units <= cap && usage.fits_before_deadlines(&terms, wanted, now, TO_SETTLE) {
                    usage.pending.push(wanted);
                }
            }
        }
    }
}
