//! The decision about a payment: deterministic, without I/O, and the same when replayed.

use alloy_primitives::{Address, U256, utils::format_ether};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::mandate::MandateState;
use crate::{
    Amount, Code, Deployment, Intent, Seconds, Terms,
    amount::CENT,
    card::CLEARING_RESERVE,
    nonce::NonceWindow,
    schema,
    window::{Pending, RollingWindow, WindowUsage},
};

/// What is known of the mandate when the decision is made.
#[derive(Clone, Debug)]
pub struct PolicyContext<'a> {
    /// Its terms.
    pub terms: &'a Terms,
    /// Its intent document, if it is known here and matches the terms.
    pub intent: Option<&'a Intent>,
    /// Its state.
    pub state: MandateState,
    /// Cap less everything reserved, held, paid and returned.
    pub available: Amount,
    /// The highest nonce that was admitted.
    pub highest_nonce: Option<u32>,
    /// What the rolling window says.
    pub window: WindowInput<'a>,
    /// What its gas has cost today, if the host has a budget for that.
    pub gas: Option<GasUsage>,
}

/// What the rule of the rolling window goes by.
#[derive(Clone, Copy, Debug)]
pub enum WindowInput<'a> {
    /// All that counts in it.
    Usage(&'a WindowUsage),
    /// What that came to for this payment, as it is kept with a decision.
    Standing(WindowStanding),
}

/// What all that counts in a rolling window comes to for a payment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowStanding {
    /// What was taken in the last `window` seconds, or waits.
    pub recent: Amount,
    /// Whether the contract has room for the payment in time, and for what waits.
    pub fits: bool,
}

/// What a mandate's final transactions have cost today, in wei, and what they may cost.
#[derive(Clone, Copy, Debug)]
pub struct GasUsage {
    /// What they have cost.
    pub spent: u128,
    /// What they may cost a day.
    pub budget: u128,
    /// When the day ends.
    pub renews_at: Seconds,
}

/// What the host sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// A deadline is at least this far away: what is accepted needs time to settle.
    #[schema(value_type = schema::Seconds)]
    pub deadline_min: Seconds,
    /// A deadline is at most this far away: a signature lives until then.
    #[schema(value_type = schema::Seconds)]
    pub deadline_max: Seconds,
    /// The smallest payment: gas is the host's money.
    #[serde(deserialize_with = "crate::amount::string")]
    pub payment_min: Amount,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline_min: 120, deadline_max: 86_400, payment_min: Amount::ZERO }
    }
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

/// What a card adds to the hold that is proposed for it.
#[derive(Clone, Copy, Debug)]
pub struct CardProposal {
    /// Until when the hold may be captured.
    pub capture_by: Seconds,
    /// From this second on the card can't be charged.
    pub expires_at: Seconds,
}

/// Everything that a decision depends on.
#[derive(Clone, Debug)]
pub struct PolicyInput<'a> {
    /// The mandate.
    pub context: PolicyContext<'a>,
    /// What is to be paid or held.
    pub payment: Proposal,
    /// The card that it is held for, if it is a hold.
    pub card: Option<CardProposal>,
    /// The chain's and the host's own addresses.
    pub deployment: Deployment,
    /// What the host sets.
    pub limits: Limits,
    /// The later of the head's time and the clock's.
    pub now: Seconds,
}

/// Allow or deny, with every rule's verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// Whether the payment may be made.
    pub allow: bool,
    /// Every rule that was asked, in order.
    pub rules: Vec<Verdict>,
}

/// One rule's verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

/// What a rule found.
struct Finding<'a> {
    code: Option<Code>,
    /// What was compared, in words: told where somebody reads it.
    detail: Box<dyn FnOnce() -> String + 'a>,
}

impl<'a> Finding<'a> {
    /// Denies with the first of these codes whose condition holds.
    fn new<const N: usize>(denials: [(bool, Code); N], detail: impl FnOnce() -> String + 'a) -> Option<Self> {
        let code = denials.into_iter().find_map(|(broken, code)| broken.then_some(code));
        Some(Self { code, detail: Box::new(detail) })
    }
}

/// A rule finds nothing where it does not apply.
type Rule = for<'a> fn(&'a PolicyInput<'_>) -> Option<Finding<'a>>;

/// The rules, in the order in which they are shown; the first that denies gives the problem its code.
const RULES: [(&str, Rule); 15] = [
    ("state", state),
    ("guardian", guardian),
    ("intent", intent),
    ("start", start),
    ("expiry", expiry),
    ("deadline", deadline),
    ("amount", amount),
    ("payee", payee),
    ("per_payment", per_payment),
    ("budget", budget),
    ("window", window),
    ("nonce", nonce),
    ("cents", cents),
    ("capture_by", capture_by),
    ("gas", gas),
];

/// Asks every rule.
#[must_use]
pub fn decide(input: &PolicyInput<'_>) -> Decision {
    let verdict = |(rule, check): (&str, Rule)| {
        check(input).map(|Finding { code, detail }| Verdict { rule: rule.into(), code, detail: detail() })
    };
    let rules: Vec<Verdict> = RULES.into_iter().filter_map(verdict).collect();
    Decision { allow: rules.iter().all(|verdict| verdict.code.is_none()), rules }
}

/// The decision, if it denies: the same as [`decide`]'s, at less cost where nothing is wrong.
#[must_use]
pub fn refusal(input: &PolicyInput<'_>) -> Option<Decision> {
    let denies = |(_, check): &(&str, Rule)| check(input).is_some_and(|finding| finding.code.is_some());
    RULES.iter().any(denies).then(|| decide(input))
}

/// What a decision comes to, beyond itself: how much could be paid instead, and when this could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The decision now.
    pub decision: Decision,
    /// The largest amount that the rules about amounts allow now; zero: none.
    pub headroom: Amount,
    /// When the same would pass, with as long to its deadline, if nothing but time keeps it out and nothing
    /// else happens meanwhile.
    pub passes_at: Option<Seconds>,
}

/// The decision about a payment that nobody has signed, and its [`Outlook`].
#[must_use]
pub fn explain(input: &PolicyInput<'_>) -> Outlook {
    let decision = decide(input);
    let passes_at = if decision.allow { Some(input.now) } else { passes_at(input) };
    Outlook { headroom: headroom(input), passes_at, decision }
}

/// How many of the times at which something leaves the window are tried.
const MOMENTS: usize = 256;

fn passes_at(input: &PolicyInput<'_>) -> Option<Seconds> {
    let PolicyInput { context, now, .. } = input;
    let terms = context.terms;
    // The contract counts in buckets: what leaves the window leaves its last one later.
    let memory = RollingWindow::memory(terms);
    let mined: &[_] = match context.window {
        WindowInput::Usage(usage) => &usage.mined,
        WindowInput::Standing(_) => &[],
    };
    let mined = mined.iter().take(MOMENTS).map(|mined| mined.at);
    let left = mined.flat_map(|at| [at.saturating_add(terms.window.into()), at.saturating_add(memory)]);
    let moments = left.chain([terms.start]).chain(context.gas.map(|gas| gas.renews_at));
    let mut moments: Vec<Seconds> = moments.filter(|moment| moment > now).collect();
    moments.sort_unstable();
    moments.dedup();
    moments.into_iter().find(|moment| {
        let mut later = input.clone();
        later.now = *moment;
        later.payment.deadline = later.payment.deadline.saturating_add(moment.saturating_sub(*now));
        later.context.gas = later.context.gas.map(|gas| {
            let spent = if gas.renews_at <= *moment { 0 } else { gas.spent };
            GasUsage { spent, ..gas }
        });
        decide(&later).allow
    })
}

/// The rules that an amount can break.
const AMOUNT_RULES: [Rule; 4] = [amount, per_payment, budget, window];

fn headroom(input: &PolicyInput<'_>) -> Amount {
    // For a card, in cents.
    let step = if input.card.is_some() { CENT } else { 1 };
    let of = |steps: u64| Amount::from_units(steps.saturating_mul(step)).unwrap_or(Amount::MAX);
    let passes = |steps: u64| {
        let mut other = input.clone();
        other.payment.amount = of(steps);
        AMOUNT_RULES.iter().all(|rule| rule(&other).is_none_or(|finding| finding.code.is_none()))
    };
    let smallest = input.limits.payment_min.units().div_ceil(step).max(1);
    if !passes(smallest) {
        return Amount::ZERO;
    }
    // What is larger than an amount that does not pass does not pass either.
    let (mut passing, mut failing) = (smallest, input.context.available.units() / step + 1);
    while failing.saturating_sub(passing) > 1 {
        let middle = passing.midpoint(failing);
        if passes(middle) {
            passing = middle;
        } else {
            failing = middle;
        }
    }
    of(passing)
}

fn state<'a>(PolicyInput { context, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let (code, name) = match context.state {
        MandateState::Opening => (Some(Code::NotYetOpen), "not confirmed yet"),
        MandateState::Open => (None, "open"),
        MandateState::Frozen => (Some(Code::Frozen), "frozen"),
        MandateState::Ended => (Some(Code::Ended), "ended"),
    };
    Some(Finding { code, detail: Box::new(move || format!("the mandate is {name}")) })
}

fn guardian<'a>(PolicyInput { context, deployment, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let (theirs, ours) = (context.terms.guardian, deployment.guardian);
    let foreign = !theirs.is_zero() && theirs != ours;
    Finding::new([(foreign, Code::ForeignGuardian)], move || format!("guardian {theirs}, this relayer acts for {ours}"))
}

fn intent<'a>(PolicyInput { context, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let found = if context.intent.is_some() { "the document matches" } else { "no document matches" };
    Finding::new([(context.intent.is_none(), Code::IntentUnknown)], move || format!("{found} the terms"))
}

fn start<'a>(PolicyInput { context, now, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let start = context.terms.start;
    Finding::new([(*now < start, Code::NotStarted)], move || format!("start {start}, now {now}"))
}

fn expiry<'a>(PolicyInput { context, now, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let expiry = context.terms.expiry;
    Finding::new([(*now >= expiry, Code::Expired)], move || format!("expiry {expiry}, now {now}"))
}

fn deadline<'a>(PolicyInput { context, payment, limits, now, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let (deadline, expiry) = (payment.deadline, context.terms.expiry);
    let (earliest, latest) = (now.saturating_add(limits.deadline_min), now.saturating_add(limits.deadline_max));
    Finding::new(
        [
            (deadline <= *now, Code::DeadlinePassed),
            (deadline < earliest, Code::DeadlineTooSoon),
            (deadline > latest, Code::DeadlineTooLate),
            (deadline > expiry, Code::DeadlinePastExpiry),
        ],
        move || format!("deadline {deadline}, allowed from {earliest} to {}", latest.min(expiry)),
    )
}

fn amount<'a>(PolicyInput { payment, limits, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let (amount, minimum) = (payment.amount, limits.payment_min);
    Finding::new([(amount.is_zero(), Code::AmountZero), (amount < minimum, Code::BelowMinimum)], move || {
        format!("amount {amount}, minimum {minimum}")
    })
}

fn payee<'a>(PolicyInput { context, payment, deployment, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let payee = payment.payee;
    let unpayable = payee.is_zero() || payee == deployment.escrow || payee == deployment.token;
    // A document that is known matches the terms: its payees have their root.
    let payees = context.intent.and_then(|intent| intent.policy.payees.as_deref());
    let allowed = context.terms.payees.is_zero() || payees.is_some_and(|payees| payees.contains(&payee));
    Finding::new([(unpayable, Code::BadPayee), (!allowed, Code::PayeeNotAllowed)], move || {
        let whom = payees.map_or("anyone".to_owned(), |payees| payees.len().to_string());
        format!("payee {payee}, {whom} allowed")
    })
}

fn per_payment<'a>(PolicyInput { context, payment, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let (amount, most) = (payment.amount, context.terms.per_payment);
    if most.is_zero() {
        return Finding::new([], || "no maximum of one payment".into());
    }
    Finding::new([(amount > most, Code::AbovePerPayment)], move || {
        format!("amount {amount}, at most {most} in one payment")
    })
}

fn budget<'a>(PolicyInput { context, payment, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let (amount, available) = (payment.amount, context.available);
    Finding::new([(amount > available, Code::InsufficientBudget)], move || {
        format!("amount {amount}, available {available}")
    })
}

/// The contract counts in buckets and by the times of blocks, which nobody knows beforehand. So this
/// refuses what exceeds the window's cap with all that a block has taken in that time and all that
/// waits, and what would not fit into the contract's buckets in time, or would keep out what waits.
/// What passes may have to wait for up to a sixth of the window: the chain says so, and it is sent again.
fn window<'a>(input: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let PolicyInput { context: PolicyContext { terms, .. }, payment, .. } = input;
    if terms.window == 0 {
        return Finding::new([], || "no rolling window".into());
    }
    let WindowStanding { recent, fits } = window_standing(input);
    let exceeds = recent.checked_add(payment.amount).is_none_or(|sum| sum > terms.window_cap);
    let late = if exceeds || fits { "" } else { "; the contract has no room for it in time, or for what waits" };
    Finding::new([(exceeds || !fits, Code::WindowExceeded)], move || {
        format!(
            "amount {}, {recent} in the last {} seconds, at most {} in that time{late}",
            payment.amount, terms.window, terms.window_cap
        )
    })
}

/// What the rolling window comes to for the payment.
pub(crate) fn window_standing(PolicyInput { context, payment, limits, now, .. }: &PolicyInput<'_>) -> WindowStanding {
    match context.window {
        WindowInput::Usage(usage) => {
            let wanted = Pending { deadline: payment.deadline, amount: payment.amount };
            let fits = usage.fits_before_deadlines(context.terms, wanted, *now, limits.deadline_min);
            WindowStanding { recent: usage.recent(context.terms, *now), fits }
        }
        WindowInput::Standing(standing) => standing,
    }
}

fn nonce<'a>(PolicyInput { context, payment, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let floor = context.highest_nonce.map_or(0, NonceWindow::floor);
    let ceiling = NonceWindow::ceiling(context.highest_nonce);
    let nonce = payment.nonce;
    Finding::new([(nonce < floor, Code::NonceRetired), (nonce > ceiling, Code::NonceTooHigh)], move || {
        format!("nonce {nonce}, from {floor} to {ceiling}")
    })
}

/// Cards are charged in cents.
fn cents<'a>(PolicyInput { payment, card, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    card.as_ref()?;
    let broken = payment.amount.cents().is_none_or(|cents| cents == 0);
    Finding::new([(broken, Code::NotWholeCents)], move || format!("amount {}", payment.amount))
}

/// A clearing can come long after the card has expired: the hold must outlive it.
fn capture_by<'a>(PolicyInput { context, card, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let CardProposal { capture_by, expires_at } = (*card)?;
    let (earliest, latest) = (expires_at.saturating_add(CLEARING_RESERVE), context.terms.capture_end);
    Finding::new(
        [(capture_by < earliest, Code::CaptureByTooSoon), (capture_by > latest, Code::CaptureByTooLate)],
        move || format!("capture by {capture_by}, allowed from {earliest} to {latest}"),
    )
}

/// Gas counts when its transaction is final.
fn gas<'a>(PolicyInput { context, .. }: &'a PolicyInput<'_>) -> Option<Finding<'a>> {
    let GasUsage { spent, budget, renews_at } = context.gas?;
    let ether = |wei: u128| format_ether(U256::from(wei));
    Finding::new([(spent >= budget, Code::GasBudgetExceeded)], move || {
        format!("gas for {} ETH today, at most {}, anew at {renews_at}", ether(spent), ether(budget))
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::prelude::*;

    use super::*;
    use crate::{intent::Policy, window::Mined};

    const NOW: Seconds = 1_000_000;
    const DEPLOYMENT: Deployment = Deployment {
        chain_id: 1,
        escrow: Address::repeat_byte(0xee),
        token: Address::repeat_byte(0xdd),
        guardian: Address::repeat_byte(0xcc),
    };
    const PAYEE: Address = Address::repeat_byte(0x0a);

    fn usdc(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn pending(deadline: Seconds, amount: &str) -> Vec<Pending> {
        vec![Pending { deadline, amount: usdc(amount) }]
    }

    struct Case {
        terms: Terms,
        intent: Option<Intent>,
        state: MandateState,
        available: Amount,
        highest_nonce: Option<u32>,
        window: WindowUsage,
        payment: Proposal,
        card: Option<CardProposal>,
        gas: Option<GasUsage>,
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
                window: WindowUsage::default(),
                card: None,
                gas: None,
                payment: Proposal { payee: PAYEE, amount: usdc("10"), nonce: 101, deadline: NOW + 600 },
                limits: Limits::default(),
                now: NOW,
            }
        }

        fn decide(&self) -> Decision {
            self.ask(decide)
        }

        fn explain(&self) -> Outlook {
            self.ask(explain)
        }

        fn ask<T>(&self, ask: fn(&PolicyInput<'_>) -> T) -> T {
            let context = PolicyContext {
                terms: &self.terms,
                intent: self.intent.as_ref(),
                state: self.state,
                available: self.available,
                highest_nonce: self.highest_nonce,
                window: WindowInput::Usage(&self.window),
                gas: self.gas,
            };
            let Self { payment, card, limits, now, .. } = *self;
            ask(&PolicyInput { context, payment, card, deployment: DEPLOYMENT, limits, now })
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
        assert_eq!(refusal(|c| c.payment.nonce = 188), None);
        assert_eq!(refusal(|c| c.payment.nonce = 189), Some(Code::NonceTooHigh));
        assert_eq!(refusal(|c| c.payment.nonce = u32::MAX), Some(Code::NonceTooHigh));
    }

    #[test]
    fn a_card_needs_whole_cents_and_a_hold_that_outlives_it() {
        let card = |change: fn(&mut Case)| {
            Case::refusal(|case| {
                let expires_at = NOW + 3_600;
                let capture_by = expires_at + CLEARING_RESERVE;
                case.terms.capture_end = capture_by + 1;
                case.card = Some(CardProposal { capture_by, expires_at });
                change(case);
            })
        };
        assert_eq!(card(|_| ()), None);
        assert_eq!(card(|case| case.payment.amount = usdc("9.999")), Some(Code::NotWholeCents));
        assert_eq!(card(|case| case.card.as_mut().unwrap().capture_by -= 1), Some(Code::CaptureByTooSoon));
        assert_eq!(card(|case| case.card.as_mut().unwrap().capture_by += 1), None);
        assert_eq!(card(|case| case.card.as_mut().unwrap().capture_by += 2), Some(Code::CaptureByTooLate));
    }

    #[test]
    fn an_explanation_says_how_much_would_pass() {
        let headroom = |change: fn(&mut Case)| {
            let mut case = Case::good();
            change(&mut case);
            case.explain().headroom
        };
        // The maximum of one payment, what is available, and the window, whichever is least.
        assert_eq!(headroom(|_| ()), usdc("10"));
        assert_eq!(headroom(|case| case.payment.amount = usdc("5000")), usdc("10"));
        assert_eq!(headroom(|case| case.available = usdc("3.000001")), usdc("3.000001"));
        assert_eq!(headroom(|case| case.terms.per_payment = Amount::ZERO), usdc("20"));
        assert_eq!(headroom(|case| case.available = Amount::ZERO), Amount::ZERO);
        assert_eq!(headroom(|case| (case.available, case.limits.payment_min) = (usdc("1"), usdc("2"))), Amount::ZERO);
        let windowed: fn(&mut Case) = |case| {
            (case.terms.window, case.terms.window_cap) = (3_600, usdc("8"));
            case.window.mined = vec![Mined::one(&case.terms, usdc("5"), NOW - 600)];
        };
        assert_eq!(headroom(windowed), usdc("3"));
        let card: fn(&mut Case) = |case| {
            case.available = usdc("3.009");
            case.card = Some(CardProposal { capture_by: 0, expires_at: 0 });
        };
        assert_eq!(headroom(card), usdc("3"));
    }

    #[test]
    fn an_explanation_says_when_it_would_pass() {
        let passes_at = |change: fn(&mut Case)| {
            let mut case = Case::good();
            change(&mut case);
            case.explain().passes_at
        };
        assert_eq!(passes_at(|_| ()), Some(NOW));
        assert_eq!(passes_at(|case| case.terms.start = NOW + 50), Some(NOW + 50));
        assert_eq!(passes_at(|case| case.payment.amount = usdc("11")), None);
        assert_eq!(passes_at(|case| case.state = MandateState::Ended), None);
        let gas: fn(&mut Case) = |case| case.gas = Some(GasUsage { spent: 9, budget: 9, renews_at: NOW + 70 });
        assert_eq!(passes_at(gas), Some(NOW + 70));
        let windowed: fn(&mut Case) = |case| {
            (case.terms.window, case.terms.window_cap) = (3_600, usdc("12"));
            case.window.mined = vec![Mined::one(&case.terms, usdc("5"), NOW - 600)];
        };
        let at = passes_at(windowed).unwrap();
        assert!((NOW + 3_000..=NOW + 3_600).contains(&at), "{at}");
    }

    proptest! {
        /// What is said to pass passes, and a unit more does not.
        #[test]
        fn headroom_is_where_amounts_begin_to_be_refused(
            available in 0..50_000_000_u64, per_payment in 0..30_000_000_u64, window_cap in 1..40_000_000_u64,
            minimum in 0..2_000_000_u64, mined in proptest::collection::vec((0..5_000_u64, 1..9_000_000_u64), 0..8),
        ) {
            let amount = |units| Amount::from_units(units).unwrap();
            let mut case = Case::good();
            (case.available, case.terms.per_payment) = (amount(available), amount(per_payment));
            (case.terms.window, case.terms.window_cap) = (3_600, amount(window_cap));
            case.limits.payment_min = amount(minimum);
            case.window.mined = mined.into_iter().map(|(age, units)| Mined::one(&case.terms, amount(units), NOW - age)).collect();
            case.window.mined.sort_by_key(|mined| mined.at);
            let headroom = case.explain().headroom;
            let passes = |case: &mut Case, units| {
                case.payment.amount = amount(units);
                case.decide().allow
            };
            prop_assert!(headroom.is_zero() || passes(&mut case, headroom.units()));
            let next = headroom.units().max(minimum.saturating_sub(1)) + 1;
            prop_assert!(!passes(&mut case, next), "{headroom} {next}");
        }
    }

    #[test]
    fn a_mandate_that_cost_its_gas_budget_waits_for_the_next_day() {
        let gas = |spent| Case::refusal(|case| case.gas = Some(GasUsage { spent, budget: 10, renews_at: NOW + 1 }));
        assert_eq!(gas(9), None);
        assert_eq!(gas(10), Some(Code::GasBudgetExceeded));
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
        let windowed = |mined: &[(Seconds, &str)], change: fn(&mut Case)| {
            Case::refusal(|case| {
                (case.terms.window, case.terms.window_cap) = (600, usdc("15"));
                case.window.mined =
                    mined.iter().map(|(at, amount)| Mined::one(&case.terms, usdc(amount), *at)).collect();
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
        let beside: fn(&mut Case) = |case| case.window.pending = pending(NOW + 219, "5");
        assert_eq!(windowed(&[(NOW - 600, "5")], beside), Some(Code::WindowExceeded));
        assert_eq!(windowed(&[(NOW - 600, "5")], |case| case.window.pending = pending(NOW + 220, "5")), None);
        // What waits counts, however long ago it was accepted and whatever becomes of it.
        assert_eq!(
            windowed(&[], |case| case.window.pending = pending(NOW - 1, "5.000001")),
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
