//! A transaction: what happened, as a list of events, and what they add up to. Pure: no store, no
//! clock.

#[cfg(test)]
mod tests;
mod view;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    card::{Card, Decline},
    time::Time,
};

/// What the mock's cards are held and settled in.
const CURRENCY: &str = "USD";
/// The currencies that a merchant of the sandbox can charge in.
const CURRENCIES: [&str; 4] = [CURRENCY, "GBP", "EUR", "CAD"];
/// The largest amount that is simulated, in cents.
const AMOUNT_MAX: i64 = 2_000_000_000;

/// A merchant, as the network describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Merchant {
    pub(crate) acceptor_id: String,
    pub(crate) city: String,
    pub(crate) country: String,
    pub(crate) descriptor: String,
    pub(crate) mcc: String,
    pub(crate) state: String,
}

impl Merchant {
    pub(crate) fn named(descriptor: impl Into<String>) -> Self {
        Self {
            acceptor_id: "174030075991".into(),
            city: "NEW YORK".into(),
            country: "USA".into(),
            descriptor: descriptor.into(),
            mcc: "5812".into(),
            state: "NY".into(),
        }
    }
}

/// What a terminal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Request {
    /// Two messages: a clearing follows.
    Authorization,
    /// One message: settled at once.
    FinancialAuthorization,
    BalanceInquiry,
}

/// What a merchant wants from a card.
#[derive(Clone, Debug)]
pub(crate) struct Purchase {
    pub(crate) request: Request,
    /// In cents of the cardholder.
    pub(crate) amount: i64,
    pub(crate) merchant: Merchant,
    pub(crate) merchant_amount: Option<i64>,
    pub(crate) merchant_currency: Option<String>,
    pub(crate) partial_approval_capable: bool,
    pub(crate) pin_entered: bool,
}

/// Why a purchase can't be simulated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PurchaseError {
    #[error("{name} must be 0 to {AMOUNT_MAX} cents, not {amount}")]
    Amount { name: &'static str, amount: i64 },
    #[error("a balance inquiry has the amount 0")]
    Inquiry,
    #[error("{name} has {least} to {most} characters")]
    Length { name: &'static str, least: usize, most: usize },
    #[error("mcc has four digits")]
    Mcc,
    #[error("merchant_currency is one of USD, GBP, EUR, CAD")]
    Currency,
}

impl Purchase {
    pub(crate) fn check(&self) -> Result<(), PurchaseError> {
        check_amount("amount", self.amount)?;
        if let Some(amount) = self.merchant_amount {
            check_amount("merchant_amount", amount)?;
        }
        if self.request == Request::BalanceInquiry && self.amount != 0 {
            return Err(PurchaseError::Inquiry);
        }
        let Merchant { acceptor_id, city, country, descriptor, mcc, state } = &self.merchant;
        for (name, text, least, most) in [
            ("descriptor", descriptor, 1, 25),
            ("merchant_acceptor_id", acceptor_id, 1, 15),
            ("merchant_acceptor_city", city, 0, 13),
            ("merchant_acceptor_state", state, 0, 3),
            ("merchant_acceptor_country", country, 3, 3),
        ] {
            if !(least..=most).contains(&text.chars().count()) {
                return Err(PurchaseError::Length { name, least, most });
            }
        }
        if mcc.len() != 4 || !mcc.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PurchaseError::Mcc);
        }
        if self.merchant_currency.as_deref().is_some_and(|currency| !CURRENCIES.contains(&currency)) {
            return Err(PurchaseError::Currency);
        }
        Ok(())
    }
}

fn check_amount(name: &'static str, amount: i64) -> Result<(), PurchaseError> {
    if (0..=AMOUNT_MAX).contains(&amount) { Ok(()) } else { Err(PurchaseError::Amount { name, amount }) }
}

/// What kind of step an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum EventKind {
    Authorization,
    AuthorizationAdvice,
    AuthorizationExpiry,
    AuthorizationReversal,
    BalanceInquiry,
    Clearing,
    FinancialAuthorization,
    Return,
    ReturnReversal,
}

impl EventKind {
    const fn is_credit(self) -> bool {
        matches!(self, Self::AuthorizationReversal | Self::AuthorizationExpiry | Self::Return)
    }

    /// Whether it moves money, rather than setting it aside.
    const fn is_financial(self) -> bool {
        matches!(self, Self::Clearing | Self::FinancialAuthorization | Self::Return | Self::ReturnReversal)
    }
}

/// One step of a transaction. Its token is what tells it from a repetition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransactionEvent {
    pub(crate) token: Uuid,
    #[serde(rename = "type")]
    pub(crate) kind: EventKind,
    /// In cents, never negative; an advice's is the new total.
    pub(crate) amount: i64,
    pub(crate) created: Time,
    pub(crate) result: String,
    pub(crate) detail: String,
}

/// The state of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Status {
    Pending,
    /// Something was cleared. There may still be a hold.
    Settled,
    Voided,
    Expired,
    Declined,
}

/// What the events of a transaction add up to, in cents. Debits are positive here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) status: Status,
    pub(crate) authorized: i64,
    /// Below zero for money that came back.
    pub(crate) cleared: i64,
}

impl Totals {
    /// What is set aside. A return sets nothing aside.
    pub(crate) fn hold(&self) -> i64 {
        self.authorized.saturating_sub(self.cleared.max(0)).max(0)
    }

    /// What the card's limits count.
    pub(crate) fn spent(&self) -> i64 {
        self.hold().saturating_add(self.cleared.max(0))
    }
}

/// Adds events up, in the order in which they happened. Only approved ones count.
pub(crate) fn fold(events: &[TransactionEvent]) -> Totals {
    let start = Totals { status: Status::Declined, authorized: 0, cleared: 0 };
    events.iter().filter(|event| event.result == "APPROVED").fold(start, |standing, event| {
        let Totals { status, authorized, cleared } = standing;
        let amount = event.amount;
        match event.kind {
            EventKind::Authorization => Totals { status: Status::Pending, authorized: amount, cleared },
            EventKind::BalanceInquiry => Totals { status: Status::Settled, ..standing },
            EventKind::AuthorizationAdvice => Totals { authorized: amount, ..standing },
            EventKind::AuthorizationReversal => {
                let authorized = authorized.saturating_sub(amount);
                let status = if authorized == 0 && status == Status::Pending { Status::Voided } else { status };
                Totals { status, authorized, cleared }
            }
            EventKind::AuthorizationExpiry => {
                let status = if status == Status::Pending { Status::Expired } else { status };
                Totals { status, authorized: cleared.max(0).min(authorized), cleared }
            }
            EventKind::Clearing | EventKind::FinancialAuthorization | EventKind::ReturnReversal => {
                Totals { status: Status::Settled, authorized, cleared: cleared.saturating_add(amount) }
            }
            EventKind::Return => {
                Totals { status: Status::Settled, authorized, cleared: cleared.saturating_sub(amount) }
            }
        }
    })
}

/// What can happen to a transaction after it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// So many cents; none: all that is pending. More than was authorized is legal, and so is
    /// coming again or late.
    Clear(Option<i64>),
    /// The new total.
    Advise(i64),
    /// So many cents; none: all that is pending.
    Reverse(Option<i64>),
    /// The authorization runs out, as a void.
    Expire,
    /// What is still held runs out, even if something was cleared.
    ExpireHold,
    ReverseReturn,
}

/// Why a step can't be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransitionError {
    #[error("the transaction was declined")]
    Declined,
    #[error("the transaction is a return: only return_reversal goes on from it")]
    Return,
    #[error("the transaction is no return, or has been reversed")]
    NotReturned,
    #[error("nothing is pending: give an amount")]
    NothingPending,
    #[error("the transaction is {0:?}: only what is pending and not cleared can be changed")]
    NotPending(Status),
    #[error("the amount must be 1 to {AMOUNT_MAX} cents, not {0}")]
    Amount(i64),
    #[error("{amount} is more than the {pending} pending")]
    TooMuch { amount: i64, pending: i64 },
}

/// A transaction, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transaction {
    pub(crate) token: Uuid,
    pub(crate) account_token: Uuid,
    pub(crate) card_token: Uuid,
    pub(crate) created: Time,
    pub(crate) merchant: Merchant,
    /// What was asked for first, in cents.
    requested: i64,
    merchant_requested: i64,
    merchant_currency: String,
    authorization_code: String,
    partial_approval_capable: bool,
    pin_entered: bool,
    pub(crate) events: Vec<TransactionEvent>,
}

impl Transaction {
    /// The transaction that a purchase would become. Nothing has happened to it yet.
    pub(crate) fn asked(card: &Card, purchase: &Purchase, token: Uuid, now: Time) -> Self {
        // Without an amount of its own the merchant charges in the cardholder's currency; with one,
        // in pounds unless it says otherwise: so the sandbox has it.
        let (merchant_requested, merchant_currency) = match (purchase.merchant_amount, &purchase.merchant_currency) {
            (None, _) => (purchase.amount, CURRENCY.to_owned()),
            (Some(amount), currency) => (amount, currency.clone().unwrap_or_else(|| "GBP".to_owned())),
        };
        Self {
            token,
            account_token: card.account_token,
            card_token: card.token,
            created: now,
            merchant: purchase.merchant.clone(),
            requested: purchase.amount,
            merchant_requested,
            merchant_currency,
            authorization_code: format!("{:06}", token.as_u128() % 1_000_000),
            partial_approval_capable: purchase.partial_approval_capable,
            pin_entered: purchase.pin_entered,
            events: Vec::new(),
        }
    }

    /// With its first event: what was decided about the purchase, and for how much.
    pub(crate) fn begun(mut self, request: Request, decision: Result<i64, Decline>, event: Uuid, now: Time) -> Self {
        let kind = match request {
            Request::Authorization => EventKind::Authorization,
            Request::FinancialAuthorization => EventKind::FinancialAuthorization,
            Request::BalanceInquiry => EventKind::BalanceInquiry,
        };
        match decision {
            Ok(amount) => self.approve(kind, amount, event, now),
            Err(Decline { result, detail }) => self.events.push(TransactionEvent {
                token: event,
                kind,
                amount: self.requested,
                created: now,
                result: result.into(),
                detail: detail.into(),
            }),
        }
        self
    }

    /// With an event that no authorization came before: a return, or a clearing by force.
    pub(crate) fn posted(mut self, kind: EventKind, event: Uuid, now: Time) -> Self {
        self.approve(kind, self.requested, event, now);
        self
    }

    /// With one more step taken.
    pub(crate) fn stepped(&self, step: Transition, event: Uuid, now: Time) -> Result<Self, TransitionError> {
        let (kind, amount) = self.check(step)?;
        let mut next = self.clone();
        next.approve(kind, amount, event, now);
        Ok(next)
    }

    fn check(&self, step: Transition) -> Result<(EventKind, i64), TransitionError> {
        let standing = self.standing();
        let (pending, is_return) = (standing.hold(), self.is_return());
        if standing.status == Status::Declined {
            return Err(TransitionError::Declined);
        }
        if is_return != (step == Transition::ReverseReturn) {
            return Err(if is_return { TransitionError::Return } else { TransitionError::NotReturned });
        }
        let positive = |amount| {
            if (1..=AMOUNT_MAX).contains(&amount) { Ok(amount) } else { Err(TransitionError::Amount(amount)) }
        };
        let all = || if pending > 0 { Ok(pending) } else { Err(TransitionError::NothingPending) };
        let uncleared = || match standing.status {
            Status::Pending => Ok(()),
            status => Err(TransitionError::NotPending(status)),
        };
        match step {
            Transition::Clear(amount) => Ok((EventKind::Clearing, amount.map_or_else(all, positive)?)),
            Transition::Advise(total) => {
                uncleared()?;
                Ok((EventKind::AuthorizationAdvice, positive(total)?))
            }
            Transition::Reverse(amount) => {
                uncleared()?;
                let amount = amount.map_or_else(all, positive)?;
                if amount > pending {
                    return Err(TransitionError::TooMuch { amount, pending });
                }
                Ok((EventKind::AuthorizationReversal, amount))
            }
            Transition::Expire => {
                uncleared()?;
                Ok((EventKind::AuthorizationExpiry, all()?))
            }
            Transition::ExpireHold => Ok((EventKind::AuthorizationExpiry, all()?)),
            Transition::ReverseReturn if standing.cleared < 0 => Ok((EventKind::ReturnReversal, -standing.cleared)),
            Transition::ReverseReturn => Err(TransitionError::NotReturned),
        }
    }

    fn approve(&mut self, kind: EventKind, amount: i64, token: Uuid, now: Time) {
        let (result, detail) = ("APPROVED".into(), "APPROVED".into());
        self.events.push(TransactionEvent { token, kind, amount, created: now, result, detail });
    }

    pub(crate) fn standing(&self) -> Totals {
        fold(&self.events)
    }

    fn is_return(&self) -> bool {
        self.events.first().is_some_and(|event| event.kind == EventKind::Return)
    }

    /// The first event's result, which is the transaction's.
    pub(crate) fn result(&self) -> &str {
        self.events.first().map_or("DECLINED", |event| &event.result)
    }

    fn updated(&self) -> Time {
        self.events.last().map_or(self.created, |event| event.created)
    }
}
