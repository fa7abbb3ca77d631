//! Pure bookkeeping: where a mandate's money is, and where a payment stands. No store, no clock.

use stipend_core::{Amount, api::PaymentState};

/// Where a mandate's money is. What is in none of the four accounts is available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// What was escrowed.
    pub cap: Amount,
    /// Accepted, not final.
    pub reserved: Amount,
    /// Set aside in holds.
    pub held: Amount,
    /// Paid for good.
    pub paid: Amount,
    /// Went back to the operator for good.
    pub returned: Amount,
}

/// Why a booking is impossible: the ledger and its caller disagree about what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BooksError {
    /// More than is available.
    #[error("{amount} is more than the {available} available")]
    NotAvailable {
        /// Wanted.
        amount: Amount,
        /// There is.
        available: Amount,
    },
    /// More than is reserved.
    #[error("{amount} is more than the {reserved} reserved")]
    NotReserved {
        /// Wanted.
        amount: Amount,
        /// There is.
        reserved: Amount,
    },
    /// More than is held.
    #[error("{amount} is more than the {held} held")]
    NotHeld {
        /// Wanted.
        amount: Amount,
        /// There is.
        held: Amount,
    },
    /// A sum beyond the largest amount.
    #[error("the sum is more than can be stored")]
    Overflow,
}

impl Books {
    /// What can be reserved. Zero when facts of the chain have outrun the reservations.
    #[must_use]
    pub fn available(&self) -> Amount {
        [self.reserved, self.held, self.paid, self.returned]
            .into_iter()
            .try_fold(self.cap, Amount::checked_sub)
            .unwrap_or_default()
    }

    /// Reserves.
    ///
    /// # Errors
    /// [`BooksError::NotAvailable`].
    pub fn reserve(self, amount: Amount) -> Result<Self, BooksError> {
        let available = self.available();
        if amount > available {
            return Err(BooksError::NotAvailable { amount, available });
        }
        Ok(Self { reserved: self.reserved.checked_add(amount).ok_or(BooksError::Overflow)?, ..self })
    }

    /// Gives a reservation back to what is available.
    ///
    /// # Errors
    /// [`BooksError::NotReserved`].
    pub fn unreserve(self, amount: Amount) -> Result<Self, BooksError> {
        let reserved = self.reserved;
        let rest = reserved.checked_sub(amount).ok_or(BooksError::NotReserved { amount, reserved })?;
        Ok(Self { reserved: rest, ..self })
    }

    /// A reservation was paid for good.
    ///
    /// # Errors
    /// [`BooksError::NotReserved`].
    pub fn settle(self, amount: Amount) -> Result<Self, BooksError> {
        self.unreserve(amount)?.pay(amount)
    }

    /// The chain paid what was not reserved here. A fact: it may outrun what is available.
    ///
    /// # Errors
    /// [`BooksError::Overflow`].
    pub fn pay(self, amount: Amount) -> Result<Self, BooksError> {
        Ok(Self { paid: self.paid.checked_add(amount).ok_or(BooksError::Overflow)?, ..self })
    }

    /// A reservation became a hold for good.
    ///
    /// # Errors
    /// [`BooksError::NotReserved`].
    pub fn hold_reserved(self, amount: Amount) -> Result<Self, BooksError> {
        self.unreserve(amount)?.hold(amount)
    }

    /// The chain holds what was not reserved here. A fact.
    ///
    /// # Errors
    /// [`BooksError::Overflow`].
    pub fn hold(self, amount: Amount) -> Result<Self, BooksError> {
        Ok(Self { held: self.held.checked_add(amount).ok_or(BooksError::Overflow)?, ..self })
    }

    /// Part of a hold went back to what is available.
    ///
    /// # Errors
    /// [`BooksError::NotHeld`].
    pub fn release(self, amount: Amount) -> Result<Self, BooksError> {
        let held = self.held;
        Ok(Self { held: held.checked_sub(amount).ok_or(BooksError::NotHeld { amount, held })?, ..self })
    }

    /// Part of a hold was paid for good.
    ///
    /// # Errors
    /// [`BooksError::NotHeld`].
    pub fn capture(self, amount: Amount) -> Result<Self, BooksError> {
        self.release(amount)?.pay(amount)
    }

    /// The rest went back to the operator. A fact.
    ///
    /// # Errors
    /// [`BooksError::Overflow`].
    pub fn give_back(self, amount: Amount) -> Result<Self, BooksError> {
        Ok(Self { returned: self.returned.checked_add(amount).ok_or(BooksError::Overflow)?, ..self })
    }
}

/// What can happen to a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A signed transaction holds it.
    Submit,
    /// The transaction that held it is finally dead, and the payment is not.
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
    /// It can never be paid any more.
    Fail,
}

/// The next state, or `None` where the step is impossible.
#[must_use]
pub const fn next(state: PaymentState, step: Step) -> Option<PaymentState> {
    use PaymentState::{Failed, Mined, Reserved, Settled, Submitted};
    match (state, step) {
        (Reserved, Step::Submit) => Some(Submitted),
        (Submitted, Step::GiveUp) => Some(Reserved),
        // From `reserved` too: without a guardian anybody may submit what the agent signed.
        (Reserved | Submitted, Step::Mine) => Some(Mined),
        (Mined, Step::Unmine { held: true }) => Some(Submitted),
        (Mined, Step::Unmine { held: false }) => Some(Reserved),
        (Mined, Step::Settle) => Some(Settled),
        (Reserved | Submitted, Step::Fail) => Some(Failed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn units(units: u64) -> Amount {
        Amount::from_units(units).unwrap()
    }

    proptest! {
        /// Payments of a mandate against the naive model: a list of them with their states. However
        /// they go, the books are the sums of the list, and never more is committed than the cap.
        #[test]
        fn the_books_are_the_sums_of_the_payments(cap in 1..1_000_u64, steps in vec((0..8_usize, 1..400_u64, 0..6_u8), 0..60)) {
            let mut books = Books { cap: units(cap), ..Books::default() };
            let mut payments: Vec<(Amount, PaymentState)> = Vec::new();
            for (index, amount, step) in steps {
                let Some(payment) = payments.get_mut(index) else {
                    match books.reserve(units(amount)) {
                        Ok(after) => {
                            books = after;
                            payments.push((units(amount), PaymentState::Reserved));
                        }
                        Err(error) => prop_assert_eq!(
                            error,
                            BooksError::NotAvailable { amount: units(amount), available: books.available() }
                        ),
                    }
                    continue;
                };
                let step = [Step::Submit, Step::GiveUp, Step::Mine, Step::Unmine { held: amount % 2 == 0 }, Step::Settle, Step::Fail][usize::from(step)];
                let Some(state) = next(payment.1, step) else { continue };
                payment.1 = state;
                match state {
                    PaymentState::Settled => books = books.settle(payment.0).unwrap(),
                    PaymentState::Failed => books = books.unreserve(payment.0).unwrap(),
                    _ => {}
                }
                let sum = |wanted: fn(PaymentState) -> bool| payments.iter().filter(|(_, state)| wanted(*state)).map(|(amount, _)| amount.units()).sum::<u64>();
                let (reserved, paid) = (sum(|state| !state.is_final()), sum(|state| state == PaymentState::Settled));
                prop_assert_eq!((books.reserved, books.paid), (units(reserved), units(paid)));
                prop_assert_eq!(books.available(), units(cap - reserved - paid));
            }
        }

        #[test]
        fn an_end_is_an_end(step in 0..6_usize) {
            let steps = [Step::Submit, Step::GiveUp, Step::Mine, Step::Unmine { held: true }, Step::Settle, Step::Fail];
            for state in [PaymentState::Settled, PaymentState::Failed] {
                prop_assert_eq!(next(state, steps[step]), None);
            }
            // What may be in the chain is never failed.
            prop_assert_eq!(next(PaymentState::Mined, Step::Fail), None);
        }
    }

    #[test]
    fn a_fact_of_the_chain_may_outrun_the_reservations() {
        let books = Books { cap: units(10), ..Books::default() }.reserve(units(8)).unwrap().pay(units(5)).unwrap();
        assert_eq!(books.available(), Amount::ZERO);
        assert!(books.reserve(units(1)).is_err());
    }
}
