//! The decision about a payment: deterministic, without I/O, and the same when replayed.

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use crate::{Amount, Code, Intent, Seconds, Terms, nonce::NonceWindow, window::Committed};

/// Where a mandate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MandateState {
    /// Its opening is not confirmed yet.
    Opening,
    /// It can be spent.
    Open,
    /// The relayer stopped it: something on chain can't be explained.
    Frozen,
    /// Revoked or swept.
    Ended,
}

/// What is known of the mandate when the decision is made.
#[derive(Clone, Debug)]
pub struct PolicyContext<'a> {
    /// Its terms.
    pub terms: &'a Terms,
    /// Its intent document, if it is known here and matches the terms.
    pub intent: Option<&'a Intent>,
    /// Where it stands.
    pub state: MandateState,
    /// Cap less everything reserved, held, paid and returned.
    pub available: Amount,
    /// The highest nonce that was admitted.
    pub highest_nonce: Option<u32>,
    /// What counts in the rolling window.
    pub committed: &'a Committed,
}

/// What the host sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// A deadline is at least this far away: what is accepted needs time to settle.
    pub deadline_min: Seconds,
    /// A deadline is at most this far away: a signature lives until then.
    pub deadline_max: Seconds,
    /// The smallest payment: gas is the host's money.
    pub payment_min: Amount,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline_min: 120, deadline_max: 86_400, payment_min: Amount::ZERO }
    }
}

/// The chain's and the host's own addresses, which matter to a decision.
#[derive(Clone, Copy, Debug)]
pub struct Deployment {
    /// The escrow.
    pub escrow: Address,
    /// The token.
    pub token: Address,
    /// The guardian that this relayer acts for.
    pub guardian: Address,
}

/// The payment in question.
#[derive(Clone, Copy, Debug)]
pub struct Proposal {
    /// Who is paid.
    pub payee: Address,
    /// How much.
    pub amount: Amount,
    /// Its nonce.
    pub nonce: u32,
    /// Until when it may be paid.
    pub deadline: Seconds,
}

/// Allow or deny, with every rule's verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether the payment may be made.
    pub allow: bool,
    /// Every rule that was asked, in order.
    pub rules: Vec<Verdict>,
}

/// One rule's verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The rule's name.
    pub rule: String,
    /// Why it denies; absent: it allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// What was compared.
    pub detail: String,
}

impl Decision {
    /// The first rule that denies.
    #[must_use]
    pub fn refusal(&self) -> Option<(&Verdict, Code)> {
        self.rules.iter().find_map(|verdict| verdict.code.map(|code| (verdict, code)))
    }
}

/// Decides about `payment` at time `now`, which is the later of the head's and the clock's.
#[must_use]
pub fn decide(
    context: &PolicyContext<'_>,
    payment: &Proposal,
    deployment: &Deployment,
    limits: &Limits,
    now: Seconds,
) -> Decision {
    let terms = context.terms;
    let mut rules = Vec::new();
    let mut rule = |rule: &str, code, detail| rules.push(Verdict { rule: rule.into(), code, detail });
    let deny = |broken: bool, code: Code| broken.then_some(code);

    rule(
        "state",
        match context.state {
            MandateState::Opening => Some(Code::NotYetOpen),
            MandateState::Open => None,
            MandateState::Frozen => Some(Code::Frozen),
            MandateState::Ended => Some(Code::Ended),
        },
        format!(
            "the mandate is {}",
            match context.state {
                MandateState::Opening => "not confirmed yet",
                MandateState::Open => "open",
                MandateState::Frozen => "frozen",
                MandateState::Ended => "ended",
            }
        ),
    );
    rule(
        "guardian",
        deny(!terms.guardian.is_zero() && terms.guardian != deployment.guardian, Code::ForeignGuardian),
        format!("guardian {}, this relayer acts for {}", terms.guardian, deployment.guardian),
    );
    rule(
        "intent",
        deny(context.intent.is_none(), Code::IntentUnknown),
        match context.intent {
            Some(_) => "the document matches the terms".into(),
            None => "no document matches the terms".into(),
        },
    );
    rule("start", deny(now < terms.start, Code::NotStarted), format!("start {}, now {now}", terms.start));
    rule("expiry", deny(now >= terms.expiry, Code::Expired), format!("expiry {}, now {now}", terms.expiry));
    rule(
        "deadline",
        deny(payment.deadline <= now, Code::DeadlinePassed)
            .or(deny(payment.deadline < now.saturating_add(limits.deadline_min), Code::DeadlineTooSoon))
            .or(deny(payment.deadline > now.saturating_add(limits.deadline_max), Code::DeadlineTooLate))
            .or(deny(payment.deadline > terms.expiry, Code::DeadlinePastExpiry)),
        format!(
            "deadline {}, allowed from {} to {}",
            payment.deadline,
            now.saturating_add(limits.deadline_min),
            now.saturating_add(limits.deadline_max).min(terms.expiry)
        ),
    );
    rule(
        "amount",
        deny(payment.amount.is_zero(), Code::AmountZero)
            .or(deny(payment.amount < limits.payment_min, Code::BelowMinimum)),
        format!("amount {}, minimum {}", payment.amount, limits.payment_min),
    );
    rule(
        "payee",
        deny(
            payment.payee.is_zero() || payment.payee == deployment.escrow || payment.payee == deployment.token,
            Code::BadPayee,
        )
        .or(deny(!may_be_paid(context, payment.payee), Code::PayeeNotAllowed)),
        match context.intent.and_then(|intent| intent.policy.payees.as_ref()) {
            Some(payees) => format!("payee {}, {} allowed", payment.payee, payees.len()),
            None => format!("payee {}, anyone allowed", payment.payee),
        },
    );
    rule(
        "per_payment",
        deny(!terms.per_payment.is_zero() && payment.amount > terms.per_payment, Code::AbovePerPayment),
        if terms.per_payment.is_zero() {
            "no maximum of one payment".into()
        } else {
            format!("amount {}, at most {} in one payment", payment.amount, terms.per_payment)
        },
    );
    rule(
        "budget",
        deny(payment.amount > context.available, Code::InsufficientBudget),
        format!("amount {}, available {}", payment.amount, context.available),
    );
    let (code, detail) = window(context, payment, limits, now);
    rule("window", code, detail);
    let floor = context.highest_nonce.map_or(0, NonceWindow::floor);
    rule(
        "nonce",
        deny(payment.nonce < floor, Code::NonceRetired),
        format!("nonce {}, lowest live one {floor}", payment.nonce),
    );

    Decision { allow: rules.iter().all(|verdict| verdict.code.is_none()), rules }
}

/// The contract counts in buckets and by the times of blocks, which nobody knows beforehand. So this
/// refuses what exceeds the window's cap with all that a block has taken in that time and all that
/// waits, and what would not fit into the contract's buckets in time, or would keep out what waits.
/// What passes may have to wait for up to a sixth of the window: the chain says so, and it is sent again.
fn window(context: &PolicyContext<'_>, payment: &Proposal, limits: &Limits, now: Seconds) -> (Option<Code>, String) {
    let (terms, committed) = (context.terms, context.committed);
    if terms.window == 0 {
        return (None, "no rolling window".into());
    }
    let recent = committed.recent(terms, now);
    let exceeds = recent.checked_add(payment.amount).is_none_or(|sum| sum > terms.window_cap);
    let fits_in_time = committed.has_room(terms, (payment.amount, payment.deadline), (now, limits.deadline_min));
    let detail = format!(
        "amount {}, {recent} in the last {} seconds, at most {} in that time{}",
        payment.amount,
        terms.window,
        terms.window_cap,
        if exceeds || fits_in_time { "" } else { "; the contract has no room for it in time, or for what waits" }
    );
    ((exceeds || !fits_in_time).then_some(Code::WindowExceeded), detail)
}

fn may_be_paid(context: &PolicyContext<'_>, payee: Address) -> bool {
    // A document that is known matches the terms: its payees have their root.
    let payees = context.intent.and_then(|intent| intent.policy.payees.as_deref());
    context.terms.payees.is_zero() || payees.is_some_and(|payees| payees.contains(&payee))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::prelude::*;

    use super::*;
    use crate::intent::Policy;

    const NOW: Seconds = 1_000_000;
    const DEPLOYMENT: Deployment = Deployment {
        escrow: Address::repeat_byte(0xee),
        token: Address::repeat_byte(0xdd),
        guardian: Address::repeat_byte(0xcc),
    };
    const PAYEE: Address = Address::repeat_byte(0x0a);

    fn usdc(text: &str) -> Amount {
        text.parse().unwrap()
    }

    struct Case {
        terms: Terms,
        intent: Option<Intent>,
        state: MandateState,
        available: Amount,
        highest_nonce: Option<u32>,
        committed: Committed,
        payment: Proposal,
        limits: Limits,
        now: Seconds,
    }

    impl Case {
        fn good() -> Self {
            let intent = Intent {
                version: 1,
                purpose: "p".into(),
                policy: Policy { payees: Some(vec![PAYEE]), ..Policy::default() },
                nonce: B256::ZERO,
            };
            Self {
                terms: Terms {
                    operator: Address::repeat_byte(1),
                    agent: Address::repeat_byte(2),
                    guardian: DEPLOYMENT.guardian,
                    cap: usdc("100"),
                    per_payment: usdc("10"),
                    window_cap: Amount::ZERO,
                    window: 0,
                    start: NOW - 10,
                    expiry: NOW + 10_000,
                    capture_end: NOW + 20_000,
                    payees: intent.payees_root(),
                    intent: intent.hash(),
                    refunds_restore_budget: false,
                },
                intent: Some(intent),
                state: MandateState::Open,
                available: usdc("20"),
                highest_nonce: Some(100),
                committed: Committed::default(),
                payment: Proposal { payee: PAYEE, amount: usdc("10"), nonce: 101, deadline: NOW + 600 },
                limits: Limits::default(),
                now: NOW,
            }
        }

        fn decide(&self) -> Decision {
            let context = PolicyContext {
                terms: &self.terms,
                intent: self.intent.as_ref(),
                state: self.state,
                available: self.available,
                highest_nonce: self.highest_nonce,
                committed: &self.committed,
            };
            decide(&context, &self.payment, &DEPLOYMENT, &self.limits, self.now)
        }

        fn refusal(change: impl FnOnce(&mut Self)) -> Option<Code> {
            let mut case = Self::good();
            change(&mut case);
            let decision = case.decide();
            assert_eq!(decision.allow, decision.refusal().is_none());
            decision.refusal().map(|(_, code)| code)
        }
    }

    #[test]
    fn each_rule_denies_with_its_code_and_not_a_second_early() {
        let refusal: fn(fn(&mut Case)) -> Option<Code> = Case::refusal;
        assert_eq!(refusal(|_| ()), None);
        assert_eq!(refusal(|c| c.state = MandateState::Opening), Some(Code::NotYetOpen));
        assert_eq!(refusal(|c| c.state = MandateState::Ended), Some(Code::Ended));
        assert_eq!(refusal(|c| c.state = MandateState::Frozen), Some(Code::Frozen));
        assert_eq!(refusal(|c| c.terms.guardian = Address::repeat_byte(9)), Some(Code::ForeignGuardian));
        assert_eq!(refusal(|c| c.terms.guardian = Address::ZERO), None);
        assert_eq!(refusal(|c| c.intent = None), Some(Code::IntentUnknown));
        assert_eq!(refusal(|c| c.terms.start = NOW), None);
        assert_eq!(refusal(|c| c.terms.start = NOW + 1), Some(Code::NotStarted));
        assert_eq!(refusal(|c| c.terms.expiry = NOW), Some(Code::Expired));
        assert_eq!(refusal(|c| c.terms.expiry = NOW + 1), Some(Code::DeadlinePastExpiry));
        assert_eq!(refusal(|c| c.payment.deadline = NOW), Some(Code::DeadlinePassed));
        assert_eq!(refusal(|c| c.payment.deadline = NOW + 119), Some(Code::DeadlineTooSoon));
        assert_eq!(refusal(|c| c.payment.deadline = NOW + 120), None);
        assert_eq!(refusal(|c| c.payment.deadline = c.terms.expiry), None);
        assert_eq!(refusal(|c| c.payment.deadline = c.terms.expiry + 1), Some(Code::DeadlinePastExpiry));
        assert_eq!(refusal(|c| c.payment.deadline = NOW + 86_401), Some(Code::DeadlineTooLate));
        assert_eq!(refusal(|c| c.payment.deadline = Seconds::MAX), Some(Code::DeadlineTooLate));
        assert_eq!(refusal(|c| c.payment.amount = Amount::ZERO), Some(Code::AmountZero));
        assert_eq!(refusal(|c| c.limits.payment_min = usdc("10.000001")), Some(Code::BelowMinimum));
        assert_eq!(refusal(|c| c.payment.amount = usdc("10.000001")), Some(Code::AbovePerPayment));
        assert_eq!(refusal(|c| c.available = usdc("9.999999")), Some(Code::InsufficientBudget));
        assert_eq!(refusal(|c| c.payment.payee = DEPLOYMENT.escrow), Some(Code::BadPayee));
        assert_eq!(refusal(|c| c.payment.payee = DEPLOYMENT.token), Some(Code::BadPayee));
        assert_eq!(refusal(|c| c.payment.payee = Address::repeat_byte(0x0b)), Some(Code::PayeeNotAllowed));
        assert_eq!(refusal(|c| (c.terms.payees, c.payment.payee) = (B256::ZERO, Address::repeat_byte(0x0b))), None);
        assert_eq!(refusal(|c| c.payment.nonce = 13), None);
        assert_eq!(refusal(|c| c.payment.nonce = 12), Some(Code::NonceRetired));
    }

    #[test]
    fn every_rule_is_shown_whatever_the_others_say() {
        let mut case = Case::good();
        case.payment.amount = usdc("50");
        let rules = case.decide().rules;
        assert_eq!(rules.len(), 12);
        let denied: Vec<_> = rules.iter().filter_map(|verdict| verdict.code).collect();
        assert_eq!(denied, [Code::AbovePerPayment, Code::InsufficientBudget]);
    }

    #[test]
    fn the_window_counts_what_was_admitted_within_it() {
        let windowed = |committed: &[(Seconds, &str)], change: fn(&mut Case)| {
            Case::refusal(|case| {
                (case.terms.window, case.terms.window_cap) = (600, usdc("15"));
                case.committed.taken = committed.iter().map(|(at, amount)| (*at, usdc(amount))).collect();
                change(case);
            })
        };
        let same: fn(&mut Case) = |_| ();
        assert_eq!(windowed(&[(NOW, "5")], same), None);
        assert_eq!(windowed(&[(NOW, "5.000001")], same), Some(Code::WindowExceeded));
        assert_eq!(windowed(&[(NOW - 599, "5.000001")], same), Some(Code::WindowExceeded));
        // The contract still counts it, in a bucket; that waits.
        assert_eq!(windowed(&[(NOW - 600, "5.000001")], same), None);
        // Unless too little of its time would be left to settle.
        assert_eq!(
            windowed(&[(NOW - 600, "15")], |case| case.payment.deadline = NOW + 219),
            Some(Code::WindowExceeded)
        );
        assert_eq!(windowed(&[(NOW - 600, "15")], |case| case.payment.deadline = NOW + 220), None);
        // Nor may it take the room of what waits and is due before it.
        let beside: fn(&mut Case) = |case| case.committed.waiting = vec![(NOW + 219, usdc("5"))];
        assert_eq!(windowed(&[(NOW - 600, "5")], beside), Some(Code::WindowExceeded));
        assert_eq!(windowed(&[(NOW - 600, "5")], |case| case.committed.waiting = vec![(NOW + 220, usdc("5"))]), None);
        // What waits counts, however long ago it was accepted and whatever becomes of it.
        assert_eq!(
            windowed(&[], |case| case.committed.waiting = vec![(NOW - 1, usdc("5.000001"))]),
            Some(Code::WindowExceeded)
        );
        let brief: fn(&mut Case) = |case| {
            (case.terms.window, case.payment.deadline) = (6_000, NOW + 120);
        };
        assert_eq!(windowed(&[(NOW - 6_000, "15")], brief), Some(Code::WindowExceeded));
        assert_eq!(windowed(&[(NOW - 7_000, "15")], brief), None);
        assert_eq!(windowed(&[], |case| case.terms.window_cap = usdc("9.999999")), Some(Code::WindowExceeded));
        assert_eq!(windowed(&[(NOW, "15")], |case| case.terms.window = 0), None);
    }

    proptest! {
        #[test]
        fn nothing_allowed_exceeds_what_is_available(units in 0..=i64::MAX as u64, available in 0..=i64::MAX as u64, per_payment in 0..=i64::MAX as u64) {
            let mut case = Case::good();
            case.terms.per_payment = Amount::from_units(per_payment).unwrap();
            case.available = Amount::from_units(available).unwrap();
            case.payment.amount = Amount::from_units(units).unwrap();
            let fits = units > 0 && units <= available && (per_payment == 0 || units <= per_payment);
            prop_assert_eq!(case.decide().allow, fits);
        }
    }
}
