//! The balances against a naive model: a list of facts, from which everything is counted anew after
//! each of them.

use proptest::{collection::vec, prelude::*};

use super::*;

fn usdc(units: u64) -> Amount {
    Amount::from_units(units).unwrap()
}

/// Something that was accepted, and how far it came.
#[derive(Clone, Debug)]
struct Item {
    amount: u64,
    is_hold: bool,
    state: PaymentState,
    captured: u64,
    released: u64,
}

/// What happened to a mandate, in no account at all.
#[derive(Clone, Debug, Default)]
struct Facts {
    cap: u64,
    items: Vec<Item>,
    foreign_paid: Vec<u64>,
    foreign_held: Vec<u64>,
    refunds: Vec<u64>,
    returned: Vec<u64>,
    returned_held: Vec<u64>,
    carried: Vec<u64>,
}

impl Facts {
    fn sum(&self, of: impl Fn(&Item) -> u64) -> u64 {
        self.items.iter().map(of).sum()
    }

    fn reserved(&self) -> u64 {
        self.sum(|item| if item.state.is_final() { 0 } else { item.amount })
    }

    fn held(&self) -> u64 {
        let ours = self.sum(|item| {
            if item.is_hold && item.state == PaymentState::Settled {
                item.amount - item.captured - item.released
            } else {
                0
            }
        });
        ours + self.foreign_held.iter().sum::<u64>() - self.returned_held.iter().sum::<u64>()
    }

    fn paid(&self) -> u64 {
        let settled =
            self.sum(|item| if !item.is_hold && item.state == PaymentState::Settled { item.amount } else { 0 });
        settled + self.sum(|item| item.captured) + self.foreign_paid.iter().sum::<u64>()
    }

    fn returned(&self) -> u64 {
        self.returned.iter().chain(&self.returned_held).sum()
    }

    fn carried(&self) -> u64 {
        self.carried.iter().sum()
    }

    fn restored(&self) -> u64 {
        self.refunds.iter().sum()
    }

    /// What the contract counts as remaining.
    fn remaining(&self) -> u64 {
        self.cap + self.restored() - self.held() - self.paid() - self.returned() - self.carried()
    }

    fn balances(&self) -> Balances {
        let (into, claimed) = (self.remaining(), self.reserved());
        Balances {
            cap: usdc(self.cap),
            restored: usdc(self.restored()),
            overdrawn: usdc(claimed.saturating_sub(into)),
            available: usdc(into.saturating_sub(claimed)),
            reserved: usdc(claimed),
            held: usdc(self.held()),
            paid: usdc(self.paid()),
            returned: usdc(self.returned()),
            carried: usdc(self.carried()),
        }
    }
}

/// The balances with every posting that was ever made.
struct Kept {
    balances: Balances,
    journal: Vec<Posting>,
}

impl Kept {
    fn book(&mut self, booking: LedgerEvent) -> Result<(), BalanceError> {
        let (balances, postings) = self.balances.book(booking)?;
        self.balances = balances;
        self.journal.extend(postings);
        Ok(())
    }

    /// An account by the journal alone.
    fn balance(&self, account: Account) -> i128 {
        let sum = |wanted: fn(&Posting) -> Account| -> i128 {
            let postings = self.journal.iter().filter(|posting| wanted(posting) == account);
            postings.map(|posting| i128::from(posting.amount.units())).sum()
        };
        let (from, to) = (sum(|posting| posting.from), sum(|posting| posting.to));
        if account.is_source() { from - to } else { to - from }
    }
}

const STEPS: [Transition; 7] = [
    Transition::Submit,
    Transition::GiveUp,
    Transition::Mine,
    Transition::Unmine { held: true },
    Transition::Unmine { held: false },
    Transition::Settle,
    Transition::Fail,
];

/// What the random walk tries next; indices and amounts are taken as they fit.
#[derive(Clone, Copy, Debug)]
enum Try {
    Admit {
        amount: u64,
        is_hold: bool,
    },
    Walk {
        item: usize,
        step: usize,
    },
    Capture {
        item: usize,
        amount: u64,
    },
    Release {
        item: usize,
        amount: u64,
    },
    PaidElsewhere(u64),
    HeldElsewhere(u64),
    Refund(u64),
    /// Revoked or swept: everything that waits fails first, as a final end does.
    Return,
    ReturnHeld,
    /// Rolled: the same, and so much of what is left goes on.
    Roll(u64),
}

fn tries() -> impl Strategy<Value = Try> {
    let amount = 1..300_u64;
    prop_oneof![
        4 => (amount.clone(), any::<bool>()).prop_map(|(amount, is_hold)| Try::Admit { amount, is_hold }),
        12 => (0..8_usize, 0..STEPS.len()).prop_map(|(item, step)| Try::Walk { item, step }),
        2 => (0..8_usize, amount.clone()).prop_map(|(item, amount)| Try::Capture { item, amount }),
        2 => (0..8_usize, amount.clone()).prop_map(|(item, amount)| Try::Release { item, amount }),
        1 => amount.clone().prop_map(Try::PaidElsewhere),
        1 => amount.clone().prop_map(Try::HeldElsewhere),
        1 => amount.clone().prop_map(Try::Refund),
        1 => amount.prop_map(Try::Roll),
        1 => Just(Try::Return),
        1 => Just(Try::ReturnHeld),
    ]
}

/// Everything that waits fails, as when the end is final.
fn fail_all(facts: &mut Facts, kept: &mut Kept) {
    for item in &mut facts.items {
        if next(item.state, Transition::Fail).is_some() {
            kept.book(LedgerEvent::Unreserve(usdc(item.amount))).unwrap();
            item.state = PaymentState::Failed;
        }
    }
}

/// Does it to the facts and to the balances; the balances must refuse exactly what the facts make
/// impossible.
fn attempt(facts: &mut Facts, kept: &mut Kept, tried: Try) {
    match tried {
        Try::Admit { amount, is_hold } => {
            let fits = facts.reserved() + amount <= facts.remaining();
            assert_eq!(kept.book(LedgerEvent::Reserve(usdc(amount))).is_ok(), fits);
            if fits {
                let state = PaymentState::Reserved;
                facts.items.push(Item { amount, is_hold, state, captured: 0, released: 0 });
            }
        }
        Try::Walk { item, step } => {
            let remaining = facts.remaining();
            let Some(item) = facts.items.get_mut(item) else { return };
            let Some(state) = next(item.state, STEPS[step]) else { return };
            let booking = match state {
                PaymentState::Settled if item.is_hold => Some(LedgerEvent::Place(usdc(item.amount))),
                state => event_of_state(state, usdc(item.amount)),
            };
            // The chain can't pay what it does not have: such a block does not come.
            let possible = state != PaymentState::Settled || item.amount <= remaining;
            assert_eq!(booking.is_none_or(|booking| kept.book(booking).is_ok()), possible);
            if possible {
                item.state = state;
            }
        }
        Try::Capture { item, amount } | Try::Release { item, amount } => {
            let held = facts.held();
            let Some(item) = facts.items.get_mut(item) else { return };
            if !item.is_hold || item.state != PaymentState::Settled {
                return;
            }
            // What was swept from holds is gone for all of them.
            let amount = amount.min(item.amount - item.captured - item.released).min(held);
            if matches!(tried, Try::Capture { .. }) {
                kept.book(LedgerEvent::Capture(usdc(amount))).unwrap();
                item.captured += amount;
            } else {
                kept.book(LedgerEvent::Release(usdc(amount))).unwrap();
                item.released += amount;
            }
            assert!(kept.book(LedgerEvent::Capture(usdc(held - amount + 1))).is_err());
            assert!(kept.book(LedgerEvent::Release(usdc(held - amount + 1))).is_err());
        }
        Try::PaidElsewhere(amount) => {
            let possible = amount <= facts.remaining();
            assert_eq!(kept.book(LedgerEvent::Pay(usdc(amount))).is_ok(), possible);
            if possible {
                facts.foreign_paid.push(amount);
            }
        }
        Try::HeldElsewhere(amount) => {
            let possible = amount <= facts.remaining();
            assert_eq!(kept.book(LedgerEvent::Hold(usdc(amount))).is_ok(), possible);
            if possible {
                facts.foreign_held.push(amount);
            }
        }
        Try::Refund(amount) => {
            let possible = amount <= facts.paid() + facts.returned() - facts.restored();
            assert_eq!(kept.book(LedgerEvent::Restore(usdc(amount))).is_ok(), possible);
            if possible {
                facts.refunds.push(amount);
            }
        }
        Try::Return => {
            fail_all(facts, kept);
            let amount = facts.remaining();
            assert!(kept.book(LedgerEvent::Return(usdc(amount + 1))).is_err());
            kept.book(LedgerEvent::Return(usdc(amount))).unwrap();
            facts.returned.push(amount);
        }
        Try::Roll(amount) => {
            fail_all(facts, kept);
            let remaining = facts.remaining();
            let carried = amount.min(remaining);
            assert!(kept.book(LedgerEvent::Carry(usdc(remaining + 1))).is_err());
            kept.book(LedgerEvent::Carry(usdc(carried))).unwrap();
            facts.carried.push(carried);
            kept.book(LedgerEvent::Return(usdc(remaining - carried))).unwrap();
            facts.returned.push(remaining - carried);
        }
        Try::ReturnHeld => {
            let amount = facts.held();
            assert!(kept.book(LedgerEvent::ReturnHeld(usdc(amount + 1))).is_err());
            kept.book(LedgerEvent::ReturnHeld(usdc(amount))).unwrap();
            facts.returned_held.push(amount);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// However things go, the balances are what the facts come to, the journal explains them, both
    /// sides are equal, and what is impossible is refused and changes nothing.
    #[test]
    fn the_books_are_what_the_facts_come_to(cap in 1..1_000_u64, tries in vec(tries(), 0..120)) {
        let mut facts = Facts { cap, ..Facts::default() };
        let mut kept = Kept { balances: Balances::default(), journal: Vec::new() };
        kept.book(LedgerEvent::Open(usdc(cap))).unwrap();
        for tried in tries {
            attempt(&mut facts, &mut kept, tried);
            prop_assert_eq!(kept.balances, facts.balances(), "after {:?}", tried);
            prop_assert_eq!(kept.balances.remaining().units(), facts.remaining());
            let (mut sources, mut uses) = (0, 0);
            for account in Account::ALL {
                let balance = i128::from(kept.balances.balance(account).units());
                prop_assert_eq!(kept.balance(account), balance, "{:?}", account);
                *(if account.is_source() { &mut sources } else { &mut uses }) += balance;
            }
            prop_assert_eq!(sources, uses);
        }

        // To take it all back is to have everything in reserve that was ever accepted and not given up.
        kept.book(LedgerEvent::Forget).unwrap();
        for item in facts.items.iter().filter(|item| item.state == PaymentState::Settled) {
            let (paid, held) = if item.is_hold {
                (item.captured, item.amount - item.captured - item.released)
            } else {
                (item.amount, 0)
            };
            let (paid, held, back) = (usdc(paid), usdc(held), usdc(item.released));
            kept.book(LedgerEvent::ReverseAccepted { paid, held, back }).unwrap();
        }
        kept.book(LedgerEvent::ReverseExternal).unwrap();
        let reserved = facts.sum(|item| if item.state == PaymentState::Failed { 0 } else { item.amount });
        let untouched = Balances {
            cap: usdc(cap),
            reserved: usdc(reserved),
            available: usdc(cap.saturating_sub(reserved)),
            overdrawn: usdc(reserved.saturating_sub(cap)),
            ..Balances::default()
        };
        prop_assert_eq!(kept.balances, untouched);
        prop_assert!(kept.journal.iter().all(|posting| !posting.amount.is_zero() && posting.from != posting.to));
    }

    #[test]
    fn an_end_is_an_end(step in 0..STEPS.len()) {
        for state in [PaymentState::Settled, PaymentState::Failed] {
            prop_assert_eq!(next(state, STEPS[step]), None);
        }
        // What may be in the chain is never failed.
        prop_assert_eq!(next(PaymentState::Mined, Transition::Fail), None);
    }
}

#[test]
fn a_double_claim_is_reversed_before_funds_are_available() {
    let book = |balances: Balances, booking| balances.book(booking).unwrap().0;
    let opened = book(Balances::default(), LedgerEvent::Open(usdc(10)));
    let balances = book(book(opened, LedgerEvent::Reserve(usdc(8))), LedgerEvent::Pay(usdc(5)));
    assert_eq!((balances.available, balances.overdrawn, balances.remaining()), (usdc(0), usdc(3), usdc(5)));
    assert!(balances.book(LedgerEvent::Reserve(usdc(1))).is_err());
    let (balances, postings) = balances.book(LedgerEvent::Unreserve(usdc(8))).unwrap();
    assert_eq!((balances.available, balances.overdrawn), (usdc(5), usdc(0)));
    let posting = |to, amount| Posting { from: Account::Reserved, to, amount: usdc(amount) };
    assert_eq!(postings, [posting(Account::Overdrawn, 3), posting(Account::Available, 5)]);
}

#[test]
fn a_refund_restores_what_was_paid_and_no_more() {
    let book = |balances: Balances, booking| balances.book(booking).unwrap().0;
    let balances = book(book(Balances::default(), LedgerEvent::Open(usdc(10))), LedgerEvent::Pay(usdc(6)));
    let balances = book(balances, LedgerEvent::Restore(usdc(4)));
    assert_eq!((balances.available, balances.paid, balances.restored), (usdc(8), usdc(6), usdc(4)));
    let too_much = balances.book(LedgerEvent::Restore(usdc(3)));
    assert_eq!(too_much, Err(BalanceError::NotSpent { amount: usdc(3), spent: usdc(2) }));
}

proptest! {
    #[test]
    fn shares_add_up_and_follow_the_rows(cost: u128, rows in vec(1..200_u64, 1..20)) {
        let shares = shares(cost, rows.iter().copied());
        prop_assert_eq!(shares.iter().sum::<u128>(), cost);
        let all: u64 = rows.iter().sum();
        for (share, rows) in shares.iter().zip(&rows) {
            let exact = U256::from(cost) * U256::from(*rows) / U256::from(all);
            prop_assert!(U256::from(*share).abs_diff(exact) <= U256::from(1));
        }
    }
}
