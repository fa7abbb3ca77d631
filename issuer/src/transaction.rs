//! A transaction: what happened, as a list of events, and what they add up to. Pure: no store, no
//! clock.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
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

    pub(crate) fn view(&self) -> Value {
        json!({
            "acceptor_id": self.acceptor_id,
            "acquiring_institution_id": "191231",
            "city": self.city,
            "country": self.country,
            "descriptor": self.descriptor,
            "mcc": self.mcc,
            "phone_number": null,
            "postal_code": null,
            "state": self.state,
            "street_address": null,
        })
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
pub(crate) struct Event {
    pub(crate) token: Uuid,
    #[serde(rename = "type")]
    pub(crate) kind: EventKind,
    /// In cents, never negative; an advice's is the new total.
    pub(crate) amount: i64,
    pub(crate) created: Time,
    pub(crate) result: String,
    pub(crate) detail: String,
}

/// Where a transaction stands.
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
pub(crate) struct Standing {
    pub(crate) status: Status,
    pub(crate) authorised: i64,
    /// Below zero for money that came back.
    pub(crate) cleared: i64,
}

impl Standing {
    /// What is set aside. A return sets nothing aside.
    pub(crate) fn hold(&self) -> i64 {
        self.authorised.saturating_sub(self.cleared.max(0)).max(0)
    }

    /// What the card's limits count.
    pub(crate) fn spent(&self) -> i64 {
        self.hold().saturating_add(self.cleared.max(0))
    }
}

/// Adds events up, in the order in which they happened. Only approved ones count.
pub(crate) fn fold(events: &[Event]) -> Standing {
    let start = Standing { status: Status::Declined, authorised: 0, cleared: 0 };
    events.iter().filter(|event| event.result == "APPROVED").fold(start, |standing, event| {
        let Standing { status, authorised, cleared } = standing;
        let amount = event.amount;
        match event.kind {
            EventKind::Authorization => Standing { status: Status::Pending, authorised: amount, cleared },
            EventKind::BalanceInquiry => Standing { status: Status::Settled, ..standing },
            EventKind::AuthorizationAdvice => Standing { authorised: amount, ..standing },
            EventKind::AuthorizationReversal => {
                let authorised = authorised.saturating_sub(amount);
                let status = if authorised == 0 && status == Status::Pending { Status::Voided } else { status };
                Standing { status, authorised, cleared }
            }
            EventKind::AuthorizationExpiry => {
                let status = if status == Status::Pending { Status::Expired } else { status };
                Standing { status, authorised: cleared.max(0).min(authorised), cleared }
            }
            EventKind::Clearing | EventKind::FinancialAuthorization | EventKind::ReturnReversal => {
                Standing { status: Status::Settled, authorised, cleared: cleared.saturating_add(amount) }
            }
            EventKind::Return => {
                Standing { status: Status::Settled, authorised, cleared: cleared.saturating_sub(amount) }
            }
        }
    })
}

/// What can happen to a transaction after it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many cents; none: all that is pending. More than was authorised is legal, and so is
    /// coming again or late.
    Clear(Option<i64>),
    /// The new total.
    Advise(i64),
    /// So many cents; none: all that is pending.
    Reverse(Option<i64>),
    /// The authorisation runs out, as a void.
    Expire,
    /// What is still held runs out, even if something was cleared.
    ExpireHold,
    ReverseReturn,
}

/// Why a step can't be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StepError {
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
    pub(crate) events: Vec<Event>,
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
            Err(Decline { result, detail }) => self.events.push(Event {
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

    /// With an event that no authorisation came before: a return, or a clearing by force.
    pub(crate) fn posted(mut self, kind: EventKind, event: Uuid, now: Time) -> Self {
        self.approve(kind, self.requested, event, now);
        self
    }

    /// With one more step taken.
    pub(crate) fn stepped(&self, step: Step, event: Uuid, now: Time) -> Result<Self, StepError> {
        let (kind, amount) = self.check(step)?;
        let mut next = self.clone();
        next.approve(kind, amount, event, now);
        Ok(next)
    }

    fn check(&self, step: Step) -> Result<(EventKind, i64), StepError> {
        let standing = self.standing();
        let (pending, is_return) = (standing.hold(), self.is_return());
        if standing.status == Status::Declined {
            return Err(StepError::Declined);
        }
        if is_return != (step == Step::ReverseReturn) {
            return Err(if is_return { StepError::Return } else { StepError::NotReturned });
        }
        let positive = |amount| {
            if (1..=AMOUNT_MAX).contains(&amount) { Ok(amount) } else { Err(StepError::Amount(amount)) }
        };
        let all = || if pending > 0 { Ok(pending) } else { Err(StepError::NothingPending) };
        let uncleared = || match standing.status {
            Status::Pending => Ok(()),
            status => Err(StepError::NotPending(status)),
        };
        match step {
            Step::Clear(amount) => Ok((EventKind::Clearing, amount.map_or_else(all, positive)?)),
            Step::Advise(total) => {
                uncleared()?;
                Ok((EventKind::AuthorizationAdvice, positive(total)?))
            }
            Step::Reverse(amount) => {
                uncleared()?;
                let amount = amount.map_or_else(all, positive)?;
                if amount > pending {
                    return Err(StepError::TooMuch { amount, pending });
                }
                Ok((EventKind::AuthorizationReversal, amount))
            }
            Step::Expire => {
                uncleared()?;
                Ok((EventKind::AuthorizationExpiry, all()?))
            }
            Step::ExpireHold => Ok((EventKind::AuthorizationExpiry, all()?)),
            Step::ReverseReturn if standing.cleared < 0 => Ok((EventKind::ReturnReversal, -standing.cleared)),
            Step::ReverseReturn => Err(StepError::NotReturned),
        }
    }

    fn approve(&mut self, kind: EventKind, amount: i64, token: Uuid, now: Time) {
        let (result, detail) = ("APPROVED".into(), "APPROVED".into());
        self.events.push(Event { token, kind, amount, created: now, result, detail });
    }

    pub(crate) fn standing(&self) -> Standing {
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

    /// So many cents of the cardholder in the merchant's currency, by the rate of the first request.
    fn at_merchant(&self, amount: i64) -> i64 {
        if self.requested == 0 || self.merchant_requested == self.requested {
            return amount;
        }
        let exact = i128::from(amount) * i128::from(self.merchant_requested) / i128::from(self.requested);
        i64::try_from(exact).unwrap_or(i64::MAX)
    }

    /// What one unit of the merchant's is to the cardholder, with six places.
    fn rate(&self) -> String {
        if self.merchant_requested == 0 || self.merchant_requested == self.requested {
            return "1.000000".into();
        }
        let millionths = i128::from(self.requested) * 1_000_000 / i128::from(self.merchant_requested);
        format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
    }

    /// As Lithic shows it, with all events. Amounts of the transaction are negative for debits,
    /// those of its events are positive and have a polarity.
    pub(crate) fn view(&self) -> Value {
        let standing = self.standing();
        let (hold, cleared) = (standing.hold(), standing.cleared);
        let estimated = hold.saturating_add(cleared);
        let authorised = if standing.status == Status::Declined { self.requested } else { standing.authorised };
        let amount = if standing.status == Status::Settled { cleared } else { authorised };
        json!({
            "token": self.token,
            "account_token": self.account_token,
            "acquirer_fee": 0,
            "acquirer_reference_number": null,
            "amount": amount,
            "amounts": {
                "cardholder": { "amount": -estimated, "conversion_rate": self.rate(), "currency": CURRENCY },
                "hold": { "amount": -hold, "currency": CURRENCY },
                "merchant": { "amount": -self.at_merchant(estimated), "currency": self.merchant_currency },
                "settlement": { "amount": -cleared, "currency": CURRENCY },
            },
            "authorization_amount": authorised,
            "authorization_code": self.authorization_code,
            "avs": null,
            "card_token": self.card_token,
            "cardholder_authentication": null,
            "created": self.created,
            "financial_account_token": null,
            "merchant": self.merchant.view(),
            "merchant_amount": self.at_merchant(amount),
            "merchant_authorization_amount": self.at_merchant(authorised),
            "merchant_currency": self.merchant_currency,
            "network": "VISA",
            "network_risk_score": 0,
            "pos": self.pos(),
            "result": self.result(),
            "service_location": null,
            "settled_amount": cleared,
            "status": standing.status,
            "tags": {},
            "token_info": null,
            "updated": self.updated(),
            "events": self.events.iter().map(|event| self.event_view(event)).collect::<Vec<_>>(),
        })
    }

    fn event_view(&self, event: &Event) -> Value {
        let (amount, rate) = (event.amount, self.rate());
        let settlement = json!({ "amount": amount, "conversion_rate": rate, "currency": CURRENCY });
        json!({
            "token": event.token,
            "account_type": null,
            "amount": amount,
            "amounts": {
                "cardholder": { "amount": amount, "conversion_rate": rate, "currency": CURRENCY },
                "merchant": { "amount": self.at_merchant(amount), "currency": self.merchant_currency },
                "settlement": event.kind.is_financial().then_some(settlement),
            },
            "created": event.created,
            "detailed_results": [event.detail],
            "effective_polarity": if event.kind.is_credit() { "CREDIT" } else { "DEBIT" },
            "network_info": null,
            "network_specific_data": null,
            "result": event.result,
            "rule_results": [],
            "type": event.kind,
        })
    }

    fn pos(&self) -> Value {
        json!({
            "entry_mode": {
                "card": "NOT_PRESENT",
                "cardholder": "ELECTRONIC_ORDER",
                "pan": "ECOMMERCE",
                "pin_entered": self.pin_entered,
            },
            "terminal": {
                "acceptor_terminal_id": null,
                "attended": false,
                "card_retention_capable": false,
                "on_premise": false,
                "operator": "UNKNOWN",
                "partial_approval_capable": self.partial_approval_capable,
                "pin_capability": "UNSPECIFIED",
                "type": "ECOMMERCE",
            },
        })
    }

    /// The question that the program is asked about it in real time. Amounts are positive here.
    pub(crate) fn question(&self, request: Request, card: &Card) -> Value {
        let (amount, merchant_amount) = (self.requested, self.merchant_requested);
        json!({
            "event_type": "card_authorization.approval_request",
            "token": self.token,
            "account_type": null,
            "acquirer_fee": 0,
            "amount": amount,
            "amounts": {
                "cardholder": { "amount": amount, "conversion_rate": self.rate(), "currency": CURRENCY },
                "hold": { "amount": amount, "currency": CURRENCY },
                "merchant": { "amount": merchant_amount, "currency": self.merchant_currency },
                "settlement": null,
            },
            "authorization_amount": amount,
            "avs": { "address": "", "address_on_file_match": "NOT_PRESENT", "zipcode": "" },
            "card": {
                "token": card.token,
                "last_four": card.last_four,
                "memo": card.memo.as_deref().unwrap_or_default(),
                "spend_limit": card.spend_limit,
                "spend_limit_duration": card.spend_limit_duration,
                "state": card.state,
                "tags": card.tags,
                "type": card.kind,
            },
            "cardholder_authentication": null,
            "cardholder_currency": CURRENCY,
            "cash_amount": 0,
            "created": self.created,
            "event_token": null,
            "fleet_info": null,
            "latest_challenge": null,
            "merchant": self.merchant.view(),
            "merchant_amount": merchant_amount,
            "merchant_currency": self.merchant_currency,
            "name_validation": null,
            "network": "VISA",
            "network_risk_score": 0,
            "pos": self.pos(),
            "service_location": null,
            "settled_amount": 0,
            "status": request,
            "token_info": null,
            "transaction_initiator": "CARDHOLDER",
            "ttl": null,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::tests::{NOW, card};
    use proptest::prelude::*;

    fn purchase(amount: i64) -> Purchase {
        Purchase {
            request: Request::Authorization,
            amount,
            merchant: Merchant::named("COFFEE"),
            merchant_amount: None,
            merchant_currency: None,
            partial_approval_capable: false,
            pin_entered: false,
        }
    }

    fn asked(purchase: &Purchase) -> Transaction {
        Transaction::asked(&card(json!({ "type": "SINGLE_USE" })).unwrap(), purchase, Uuid::from_u128(1), NOW)
    }

    fn authorised(amount: i64) -> Transaction {
        asked(&purchase(amount)).begun(Request::Authorization, Ok(amount), Uuid::from_u128(2), NOW)
    }

    fn step(transaction: &Transaction, step: Step) -> Result<Transaction, StepError> {
        transaction.stepped(step, Uuid::from_u128(transaction.events.len() as u128 + 2), NOW)
    }

    /// Status, hold and settlement, as the wire has them.
    fn shown(transaction: &Transaction) -> (String, i64, i64) {
        let view = transaction.view();
        let amount = |name: &str| view["amounts"][name]["amount"].as_i64().unwrap();
        (view["status"].as_str().unwrap().to_owned(), amount("hold"), amount("settlement"))
    }

    fn at(status: &str, hold: i64, settlement: i64) -> (String, i64, i64) {
        (status.to_owned(), hold, settlement)
    }

    #[test]
    fn partial_clearings_settle_and_leave_a_hold_as_measured_in_the_sandbox() {
        let transaction = authorised(1_000);
        assert_eq!(shown(&transaction), at("PENDING", -1_000, 0));
        let transaction = step(&transaction, Step::Clear(Some(600))).unwrap();
        assert_eq!(shown(&transaction), at("SETTLED", -400, -600));
        let transaction = step(&transaction, Step::Clear(Some(300))).unwrap();
        assert_eq!(shown(&transaction), at("SETTLED", -100, -900));
        let transaction = step(&transaction, Step::Clear(None)).unwrap();
        assert_eq!(shown(&transaction), at("SETTLED", 0, -1_000));
        assert_eq!(step(&transaction, Step::Clear(None)), Err(StepError::NothingPending));
    }

    #[test]
    fn a_clearing_may_be_more_than_was_authorised() {
        let transaction = step(&authorised(5_000), Step::Clear(Some(7_340))).unwrap();
        assert_eq!(shown(&transaction), at("SETTLED", 0, -7_340));
    }

    #[test]
    fn an_advice_is_the_new_total() {
        let transaction = step(&authorised(1_000), Step::Advise(1_200)).unwrap();
        assert_eq!(shown(&transaction), at("PENDING", -1_200, 0));
        assert_eq!(shown(&step(&transaction, Step::Advise(800)).unwrap()), at("PENDING", -800, 0));
    }

    #[test]
    fn a_reversal_in_parts_ends_voided() {
        let transaction = step(&authorised(1_000), Step::Reverse(Some(400))).unwrap();
        assert_eq!(shown(&transaction), at("PENDING", -600, 0));
        assert_eq!(step(&transaction, Step::Reverse(Some(601))), Err(StepError::TooMuch { amount: 601, pending: 600 }));
        let transaction = step(&transaction, Step::Reverse(None)).unwrap();
        assert_eq!(shown(&transaction), at("VOIDED", 0, 0));
        assert_eq!(step(&transaction, Step::Reverse(None)), Err(StepError::NotPending(Status::Voided)));
    }

    #[test]
    fn a_late_clearing_after_a_void_or_an_expiry_posts() {
        for end in [Step::Reverse(None), Step::Expire, Step::ExpireHold] {
            let transaction = step(&authorised(1_000), end).unwrap();
            assert_eq!(transaction.standing().hold(), 0);
            let transaction = step(&transaction, Step::Clear(Some(900))).unwrap();
            assert_eq!(shown(&transaction), at("SETTLED", 0, -900), "{end:?}");
        }
    }

    #[test]
    fn what_is_left_after_a_clearing_can_expire_but_not_be_voided() {
        let transaction = step(&authorised(1_000), Step::Clear(Some(600))).unwrap();
        assert_eq!(step(&transaction, Step::Reverse(None)), Err(StepError::NotPending(Status::Settled)));
        assert_eq!(step(&transaction, Step::Expire), Err(StepError::NotPending(Status::Settled)));
        let transaction = step(&transaction, Step::ExpireHold).unwrap();
        assert_eq!(shown(&transaction), at("SETTLED", 0, -600));
        assert_eq!(step(&transaction, Step::ExpireHold), Err(StepError::NothingPending));
    }

    #[test]
    fn a_return_sets_nothing_aside_and_is_reversed_once() {
        let back = asked(&purchase(700)).posted(EventKind::Return, Uuid::from_u128(2), NOW);
        assert_eq!(shown(&back), at("SETTLED", 0, 700));
        assert_eq!(step(&back, Step::Clear(Some(1))), Err(StepError::Return));
        let again = step(&back, Step::ReverseReturn).unwrap();
        assert_eq!(shown(&again), at("SETTLED", 0, 0));
        assert_eq!(step(&again, Step::ReverseReturn), Err(StepError::NotReturned));
        assert_eq!(step(&authorised(1), Step::ReverseReturn), Err(StepError::NotReturned));
    }

    #[test]
    fn a_declined_transaction_stays_so_and_weighs_nothing() {
        let decline = Decline { result: "INSUFFICIENT_FUNDS", detail: "INSUFFICIENT_FUNDS" };
        let declined = asked(&purchase(500)).begun(Request::Authorization, Err(decline), Uuid::from_u128(2), NOW);
        assert_eq!(shown(&declined), at("DECLINED", 0, 0));
        assert_eq!(declined.result(), "INSUFFICIENT_FUNDS");
        assert_eq!(step(&declined, Step::Clear(Some(1))), Err(StepError::Declined));
        assert_eq!(declined.standing().spent(), 0);
    }

    #[test]
    fn a_single_message_settles_at_once() {
        let mut wanted = purchase(900);
        wanted.request = Request::FinancialAuthorization;
        let paid = asked(&wanted).begun(wanted.request, Ok(900), Uuid::from_u128(2), NOW);
        assert_eq!(shown(&paid), at("SETTLED", 0, -900));
    }

    #[test]
    fn another_currency_is_converted_by_the_rate_of_the_request() {
        let mut wanted = purchase(1_300);
        wanted.merchant_amount = Some(1_000);
        let transaction = asked(&wanted).begun(Request::Authorization, Ok(1_300), Uuid::from_u128(2), NOW);
        let view = step(&transaction, Step::Clear(Some(650))).unwrap().view();
        assert_eq!(view["merchant_currency"], "GBP");
        assert_eq!(view["amounts"]["cardholder"]["conversion_rate"], "1.300000");
        assert_eq!(view["events"][1]["amounts"]["merchant"]["amount"], 500);
    }

    #[test]
    fn a_purchase_is_held_to_the_sizes_of_the_network() {
        assert_eq!(purchase(0).check(), Ok(()));
        assert!(matches!(purchase(-1).check(), Err(PurchaseError::Amount { .. })));
        assert!(matches!(purchase(i64::MAX).check(), Err(PurchaseError::Amount { .. })));
        let mut inquiry = purchase(1);
        inquiry.request = Request::BalanceInquiry;
        assert_eq!(inquiry.check(), Err(PurchaseError::Inquiry));
        let mut long = purchase(1);
        long.merchant.descriptor = "x".repeat(26);
        assert!(matches!(long.check(), Err(PurchaseError::Length { name: "descriptor", .. })));
        let mut yen = purchase(1);
        yen.merchant_currency = Some("JPY".into());
        assert_eq!(yen.check(), Err(PurchaseError::Currency));
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let amount = -5..3_000i64;
        let perhaps = prop::option::of(amount.clone());
        prop_oneof![
            perhaps.clone().prop_map(Step::Clear),
            amount.prop_map(Step::Advise),
            perhaps.prop_map(Step::Reverse),
            Just(Step::Expire),
            Just(Step::ExpireHold),
            Just(Step::ReverseReturn),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_amounts_add_up(amount in 1..2_000i64, steps in prop::collection::vec(any_step(), 0..12)) {
            let mut transaction = authorised(amount);
            let mut cleared = 0;
            for next in steps {
                let before = transaction.standing();
                let Ok(after) = step(&transaction, next) else { continue };
                transaction = after;
                let standing = transaction.standing();
                if let Some(Event { kind: EventKind::Clearing, amount, .. }) = transaction.events.last() {
                    cleared += amount;
                }
                // What was cleared stays cleared, and nothing but a clearing settles.
                prop_assert_eq!(standing.cleared, cleared);
                prop_assert_eq!(standing.status == Status::Settled, cleared > 0);
                // A hold is what is authorised and not cleared, and grows by an advice alone.
                prop_assert!(standing.hold() >= 0 && standing.hold() <= standing.authorised);
                if !matches!(next, Step::Advise(_)) {
                    prop_assert!(standing.hold() <= before.hold());
                }
                prop_assert!(standing.status != Status::Voided || standing.hold() == 0);
                prop_assert!(standing.status != Status::Expired || standing.hold() == 0);
                let (_, hold, settlement) = shown(&transaction);
                prop_assert_eq!((hold, settlement), (-standing.hold(), -cleared));
            }
        }

        #[test]
        fn a_stored_transaction_is_the_same_transaction(amount in 1..2_000i64, steps in prop::collection::vec(any_step(), 0..6)) {
            let mut transaction = authorised(amount);
            for next in steps {
                transaction = step(&transaction, next).unwrap_or(transaction);
            }
            let stored = serde_json::to_string(&transaction).unwrap();
            let read: Transaction = serde_json::from_str(&stored).unwrap();
            prop_assert_eq!(read, transaction);
        }
    }
}
