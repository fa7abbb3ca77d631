//! Pure accounting: where a mandate's money is, and the state of a payment. No store, no clock.
//!
//! Double entry: what came in (escrowed, restored, overdrawn) is what is somewhere (available,
//! reserved, held, paid, returned, carried). Every booking is a list of postings from one account to another,
//! so the two sides stay equal whatever is booked, and no account falls below zero.

use alloy_primitives::U256;
use stipend_core::{Amount, api::PaymentState};

/// An account of a mandate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Account {
    /// Came in with the opening: the cap.
    Escrowed,
    /// Came in again by refunds.
    Restored,
    /// Claimed twice: paid on chain while it was reserved here. Somebody's reservation will fail.
    Overdrawn,
    /// Can be reserved.
    Available,
    /// Accepted, not final.
    Reserved,
    /// Set aside in holds.
    Held,
    /// Paid, in a final block.
    Paid,
    /// Returned to the operator, in a final block.
    Returned,
    /// Carried by a roll to the mandate that replaces this one, in a final block.
    Carried,
}

impl Account {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Escrowed,
        Self::Restored,
        Self::Overdrawn,
        Self::Available,
        Self::Reserved,
        Self::Held,
        Self::Paid,
        Self::Returned,
        Self::Carried,
    ];

    /// As the journal calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Escrowed => "escrowed",
            Self::Restored => "restored",
            Self::Overdrawn => "overdrawn",
            Self::Available => "available",
            Self::Reserved => "reserved",
            Self::Held => "held",
            Self::Paid => "paid",
            Self::Returned => "returned",
            Self::Carried => "carried",
        }
    }

    /// Whether it says where money came from: it grows by what is taken from it.
    pub const fn is_source(self) -> bool {
        matches!(self, Self::Escrowed | Self::Restored | Self::Overdrawn)
    }
}

/// From one account to another. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    /// From here …
    pub from: Account,
    /// … to there.
    pub to: Account,
    /// How much.
    pub amount: Amount,
}

/// Where a mandate's money is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balances {
    /// What was escrowed.
    pub cap: Amount,
    /// What refunds gave back to the budget.
    pub restored: Amount,
    /// What is claimed twice. Zero unless facts of the chain have outrun the reservations.
    pub overdrawn: Amount,
    /// What can be reserved.
    pub available: Amount,
    /// Accepted, not final.
    pub reserved: Amount,
    /// Set aside in holds.
    pub held: Amount,
    /// Paid, in a final block.
    pub paid: Amount,
    /// Returned to the operator, in a final block.
    pub returned: Amount,
    /// Carried to the mandate that replaces this one, in a final block.
    pub carried: Amount,
}

/// What is booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerEvent {
    /// The mandate came with so much.
    Open(Amount),
    /// Something was accepted.
    Reserve(Amount),
    /// An accepted payment can never be paid.
    Unreserve(Amount),
    /// A reservation was paid, in a final block.
    Settle(Amount),
    /// The chain paid what was not reserved here.
    Pay(Amount),
    /// A reservation became a hold, in a final block.
    Place(Amount),
    /// The chain holds what was not reserved here.
    Hold(Amount),
    /// Part of a hold was paid, in a final block.
    Capture(Amount),
    /// Part of a hold went back to what is available.
    Release(Amount),
    /// What was not held went back to the operator.
    Return(Amount),
    /// What was held went back to the operator.
    ReturnHeld(Amount),
    /// A roll took what was not held along to another mandate, whose cap it is part of.
    Carry(Amount),
    /// A refund gave so much back to the budget.
    Restore(Amount),
    /// What was booked from the chain is taken back, to be booked anew: what went to the operator or to
    /// another mandate, and what refunds gave.
    Forget,
    /// The same for something that was accepted: so much of it was paid, so much is held, and so much
    /// is back.
    ReverseAccepted {
        /// Had been recorded as paid.
        paid: Amount,
        /// Had been recorded as held.
        held: Amount,
        /// Had been recorded as released.
        back: Amount,
    },
    /// The same for what was paid and held without a row.
    ReverseExternal,
}

impl LedgerEvent {
    /// As the journal calls its cause.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Reserve(_) => "reserve",
            Self::Unreserve(_) => "unreserve",
            Self::Settle(_) => "settle",
            Self::Pay(_) => "pay",
            Self::Place(_) => "place",
            Self::Hold(_) => "hold",
            Self::Capture(_) => "capture",
            Self::Release(_) => "release",
            Self::Return(_) => "return",
            Self::ReturnHeld(_) => "return_held",
            Self::Carry(_) => "carry",
            Self::Restore(_) => "restore",
            Self::Forget | Self::ReverseExternal => "forget",
            Self::ReverseAccepted { .. } => "reopen",
        }
    }
}

/// Why a booking is impossible: the ledger and its caller disagree about what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BalanceError {
    /// More than the account has.
    #[error("{amount} is more than the {balance} {}", account.name())]
    NotThere {
        /// Which.
        account: Account,
        /// Wanted.
        amount: Amount,
        /// There is.
        balance: Amount,
    },
    /// More than the escrow can still pay from the mandate.
    #[error("{amount} is more than the {remaining} that the escrow has left of the mandate")]
    NotEscrowed {
        /// Wanted.
        amount: Amount,
        /// There is.
        remaining: Amount,
    },
    /// More than was ever paid.
    #[error("{amount} is more than the {spent} that could be refunded")]
    NotSpent {
        /// Wanted.
        amount: Amount,
        /// There is.
        spent: Amount,
    },
    /// A sum beyond the largest amount.
    #[error("the sum is more than can be stored")]
    Overflow,
}

impl Balances {
    pub const fn balance(&self, account: Account) -> Amount {
        match account {
            Account::Escrowed => self.cap,
            Account::Restored => self.restored,
            Account::Overdrawn => self.overdrawn,
            Account::Available => self.available,
            Account::Reserved => self.reserved,
            Account::Held => self.held,
            Account::Paid => self.paid,
            Account::Returned => self.returned,
            Account::Carried => self.carried,
        }
    }

    const fn balance_mut(&mut self, account: Account) -> &mut Amount {
        match account {
            Account::Escrowed => &mut self.cap,
            Account::Restored => &mut self.restored,
            Account::Overdrawn => &mut self.overdrawn,
            Account::Available => &mut self.available,
            Account::Reserved => &mut self.reserved,
            Account::Held => &mut self.held,
            Account::Paid => &mut self.paid,
            Account::Returned => &mut self.returned,
            Account::Carried => &mut self.carried,
        }
    }

    /// What the escrow has left of the mandate beside its holds, as far as that is final.
    pub fn remaining(&self) -> Amount {
        // What is overdrawn is part of what is reserved.
        let reserved = self.reserved.checked_sub(self.overdrawn).unwrap_or_default();
        self.available.checked_add(reserved).unwrap_or(Amount::MAX)
    }

    /// Applies an event: the balances after it, and the postings that lead there. Facts of the chain may outrun
    /// the reservations, never the escrow.
    ///
    /// # Errors
    /// [`BalanceError`]; nothing is booked then.
    pub fn book(self, event: LedgerEvent) -> Result<(Self, Vec<Posting>), BalanceError> {
        use Account::{Available, Carried, Escrowed, Held, Paid, Reserved, Restored, Returned};
        let mut page = Page { balances: self, postings: Vec::new() };
        match event {
            LedgerEvent::Open(amount) => page.post(Escrowed, Available, amount)?,
            LedgerEvent::Reserve(amount) => page.post(Available, Reserved, amount)?,
            LedgerEvent::Unreserve(amount) => page.free(Reserved, amount)?,
            LedgerEvent::Settle(amount) => {
                page.leaves(amount)?;
                page.post(Reserved, Paid, amount)?;
            }
            LedgerEvent::Pay(amount) => {
                page.leaves(amount)?;
                page.claim(Paid, amount)?;
            }
            LedgerEvent::Place(amount) => {
                page.leaves(amount)?;
                page.post(Reserved, Held, amount)?;
            }
            LedgerEvent::Hold(amount) => {
                page.leaves(amount)?;
                page.claim(Held, amount)?;
            }
            LedgerEvent::Capture(amount) => page.post(Held, Paid, amount)?,
            LedgerEvent::Release(amount) => page.free(Held, amount)?,
            LedgerEvent::Return(amount) => {
                page.leaves(amount)?;
                page.claim(Returned, amount)?;
            }
            LedgerEvent::ReturnHeld(amount) => page.post(Held, Returned, amount)?,
            LedgerEvent::Carry(amount) => {
                page.leaves(amount)?;
                page.claim(Carried, amount)?;
            }
            LedgerEvent::Restore(amount) => {
                let gone = self.paid.checked_add(self.returned).ok_or(BalanceError::Overflow)?;
                let spent = gone.checked_sub(self.restored).unwrap_or_default();
                if amount > spent {
                    return Err(BalanceError::NotSpent { amount, spent });
                }
                page.free(Restored, amount)?;
            }
            LedgerEvent::Forget => {
                page.free(Returned, self.returned)?;
                page.free(Carried, self.carried)?;
                page.claim(Restored, self.restored)?;
            }
            LedgerEvent::ReverseAccepted { paid, held, back } => {
                page.post(Paid, Reserved, paid)?;
                // What was swept from holds is no longer held, and has returned already.
                let there = held.min(self.held);
                page.post(Held, Reserved, there)?;
                page.claim(Reserved, held.checked_sub(there).unwrap_or_default())?;
                page.claim(Reserved, back)?;
            }
            LedgerEvent::ReverseExternal => {
                page.free(Paid, self.paid)?;
                page.free(Held, self.held)?;
            }
        }
        Ok((page.balances, page.postings))
    }
}

/// Balances on which something is being booked.
struct Page {
    balances: Balances,
    postings: Vec<Posting>,
}

impl Page {
    fn post(&mut self, from: Account, to: Account, amount: Amount) -> Result<(), BalanceError> {
        if amount.is_zero() {
            return Ok(());
        }
        let grow = |balance: Amount| balance.checked_add(amount).ok_or(BalanceError::Overflow);
        let shrink = |account, balance: Amount| {
            balance.checked_sub(amount).ok_or(BalanceError::NotThere { account, amount, balance })
        };
        let source = self.balances.balance(from);
        *self.balances.balance_mut(from) = if from.is_source() { grow(source)? } else { shrink(from, source)? };
        let target = self.balances.balance(to);
        *self.balances.balance_mut(to) = if to.is_source() { shrink(to, target)? } else { grow(target)? };
        self.postings.push(Posting { from, to, amount });
        Ok(())
    }

    /// To what is available; what is claimed twice is set right first.
    fn free(&mut self, from: Account, amount: Amount) -> Result<(), BalanceError> {
        let twice = amount.min(self.balances.overdrawn);
        self.post(from, Account::Overdrawn, twice)?;
        self.post(from, Account::Available, amount.checked_sub(twice).unwrap_or_default())
    }

    /// From what is available; beyond that, it is claimed twice.
    fn claim(&mut self, to: Account, amount: Amount) -> Result<(), BalanceError> {
        let once = amount.min(self.balances.available);
        self.post(Account::Available, to, once)?;
        self.post(Account::Overdrawn, to, amount.checked_sub(once).unwrap_or_default())
    }

    fn leaves(&self, amount: Amount) -> Result<(), BalanceError> {
        let remaining = self.balances.remaining();
        if amount > remaining { Err(BalanceError::NotEscrowed { amount, remaining }) } else { Ok(()) }
    }
}

/// Parts of a transaction's `cost`, in wei, in proportion to rows, which add up to it.
pub fn shares(cost: u128, rows: impl Iterator<Item = u64> + Clone) -> Vec<u128> {
    let all: u128 = rows.clone().map(u128::from).sum();
    let (mut seen, mut given) = (0_u128, 0_u128);
    rows.map(|rows| {
        seen = seen.saturating_add(rows.into());
        let share = U256::from(cost).saturating_mul(U256::from(seen)).checked_div(U256::from(all)).unwrap_or_default();
        let until = u128::try_from(share).unwrap_or(u128::MAX);
        let share = until.saturating_sub(given);
        given = until;
        share
    })
    .collect()
}

/// The ledger event of entering this state.
pub const fn event_of_state(state: PaymentState, amount: Amount) -> Option<LedgerEvent> {
    match state {
        PaymentState::Settled => Some(LedgerEvent::Settle(amount)),
        PaymentState::Failed => Some(LedgerEvent::Unreserve(amount)),
        PaymentState::Reserved | PaymentState::Submitted | PaymentState::Mined => None,
    }
}

/// What can happen to a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A signed transaction holds it.
    Submit,
    /// The transaction that held it is superseded for good, and the payment is not.
    GiveUp,
    /// A block pays it.
    Mine,
    /// The block that paid it is no longer in the chain; whether a transaction of ours still holds
    /// it.
    Unmine {
        /// Whether one does.
        held: bool,
    },
    /// The block that paid it is final.
    Settle,
    /// It can never be paid.
    Fail,
}

/// The next state, or `None` where the step is impossible.
pub const fn next(state: PaymentState, step: Transition) -> Option<PaymentState> {
    use PaymentState::{Failed, Mined, Reserved, Settled, Submitted};
    match (state, step) {
        (Reserved, Transition::Submit) => Some(Submitted),
        (Submitted, Transition::GiveUp) => Some(Reserved),
        // From `reserved` too: without a guardian anyone may submit what the agent signed.
        (Reserved | Submitted, Transition::Mine) => Some(Mined),
        (Mined, Transition::Unmine { held: true }) => Some(Submitted),
        (Mined, Transition::Unmine { held: false }) => Some(Reserved),
        (Mined, Transition::Settle) => Some(Settled),
        (Reserved | Submitted, Transition::Fail) => Some(Failed),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
