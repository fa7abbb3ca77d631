//! Cards, without any I/O: what a card may be used for, what its transaction says, its state.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Amount, Code, Intent, Seconds, mandate::MandateState};

/// After a card has ended, how long clearings may still arrive: the networks' latest (30 days for
/// hotels and cars) and a week.
pub const CLEARING_RESERVE: Seconds = 38 * 86_400;

/// Merchants verify a card with a charge of at most this many cents, which they take back: that leaves the
/// card usable.
pub const VERIFICATION_MAX: i64 = 500;
/// How many approved charges of a card may come to nothing, and leave it usable.
pub const VERIFICATIONS: u32 = 5;

/// A charge is cleared within this time: hotels and cars take longest.
const CLEARED_WITHIN: Seconds = 31 * 86_400;
/// What a clearing left open is cleared within this time, or never.
const REST_CLEARED_WITHIN: Seconds = 7 * 86_400;

/// A merchant category code (ISO 18245): four digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mcc([u8; 4]);

/// Why a text is not a merchant category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a merchant category is four digits, such as \"5734\"")]
pub struct MccError;

impl std::str::FromStr for Mcc {
    type Err = MccError;

    fn from_str(text: &str) -> Result<Self, MccError> {
        let digits: [u8; 4] = text.as_bytes().try_into().map_err(|_| MccError)?;
        if digits.iter().all(u8::is_ascii_digit) { Ok(Self(digits)) } else { Err(MccError) }
    }
}

impl TryFrom<String> for Mcc {
    type Error = MccError;

    fn try_from(text: String) -> Result<Self, MccError> {
        text.parse()
    }
}

impl From<Mcc> for String {
    fn from(mcc: Mcc) -> Self {
        mcc.to_string()
    }
}

impl fmt::Display for Mcc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Mcc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The state of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CardState {
    /// Accepted; its hold is not confirmed on chain.
    Requested,
    /// Its hold is on chain; the issuer is asked for a card.
    Held,
    /// It can be charged, once.
    Active,
    /// It was charged; the clearing has not come.
    Used,
    /// It can no longer be charged; what was cleared is captured, the rest released.
    Closing,
    /// Closed; its hold is settled, or can never be made.
    Closed,
    /// There never was a card, and its money is back in the budget.
    Failed,
}

impl CardState {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Requested, Self::Held, Self::Active, Self::Used, Self::Closing, Self::Closed, Self::Failed];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Held => "held",
            Self::Active => "active",
            Self::Used => "used",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }

    /// Whether it never changes again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Closed | Self::Failed)
    }

    /// Whether it may become `next`.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Requested, Self::Held | Self::Failed)
                // A reorg takes the hold away before there is a card; then it is sent again.
                | (Self::Held, Self::Requested | Self::Active | Self::Closing)
                | (Self::Active, Self::Used | Self::Closing)
                // The charge came to nothing.
                | (Self::Used, Self::Active | Self::Closing)
                | (Self::Closing, Self::Closed)
        )
    }
}

/// What an issuer asks when a card is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// In cents: the larger of what is charged and what is held for it.
    pub cents: i64,
    /// In cents: cash that is handed out.
    pub cash_cents: i64,
    /// Whether cardholder and merchant both count in US dollars.
    pub in_dollars: bool,
    /// Whether it is a plain authorization: no credit, no balance inquiry.
    pub plain: bool,
    /// The merchant's category, as the merchant says.
    pub mcc: Option<Mcc>,
}

/// What is known of a card when it is charged.
#[derive(Clone, Debug)]
pub struct ChargeContext<'a> {
    /// Its state.
    pub state: CardState,
    /// Whether its hold is in the chain now.
    pub held_now: bool,
    /// What it may be charged.
    pub amount: Amount,
    /// How many of its charges were approved before this one, verifications included.
    pub approved: u32,
    /// From this second on it can't be charged.
    pub expires_at: Seconds,
    /// Its mandate's state.
    pub mandate: MandateState,
    /// The intent of its mandate.
    pub intent: Option<&'a Intent>,
}

/// Why a charge is declined; `None`: it is approved. A charge of nothing verifies the card, and does not use
/// it up.
#[must_use]
pub fn authorize(card: &ChargeContext<'_>, charge: &Charge, now: Seconds) -> Option<Code> {
    let allowed = card.intent.and_then(|intent| intent.policy.mccs.as_deref());
    let fits = Amount::from_cents(charge.cents).is_some_and(|amount| amount <= card.amount);
    let verifications = if charge.cents == 0 { VERIFICATIONS } else { VERIFICATIONS.saturating_add(1) };
    match card.state {
        CardState::Active if card.held_now => {}
        CardState::Used => return Some(Code::CardUsed),
        _ => return Some(Code::CardNotActive),
    }
    if now >= card.expires_at {
        return Some(Code::CardExpired);
    }
    // The hold is senior to the end of its mandate on chain; a new charge is not.
    if card.mandate != MandateState::Open {
        return Some(Code::Ended);
    }
    if !charge.plain || charge.cash_cents != 0 {
        return Some(Code::ChargeNotPlain);
    }
    if !charge.in_dollars {
        return Some(Code::CurrencyNotAllowed);
    }
    if allowed.is_some_and(|allowed| charge.mcc.is_none_or(|mcc| !allowed.contains(&mcc))) {
        return Some(Code::MerchantNotAllowed);
    }
    if !fits {
        return Some(Code::AboveCardAmount);
    }
    (card.approved >= verifications).then_some(Code::CardUsed)
}

/// Whether a transaction, by its events, was a verification of the card that is over: a small authorization
/// which the merchant took back as a whole. Of one that merely lapsed something may still be taken.
#[must_use]
pub fn is_voided_verification(events: &[(EventKind, i64)]) -> bool {
    let cents = |wanted| events.iter().filter(|(kind, _)| *kind == wanted).map(|(_, cents)| *cents).sum::<i64>();
    let authorized = cents(EventKind::Authorization);
    events.iter().all(|(kind, _)| matches!(kind, EventKind::Authorization | EventKind::AuthorizationReversal))
        && (1..=VERIFICATION_MAX).contains(&authorized)
        && cents(EventKind::AuthorizationReversal) >= authorized
}

/// What is known of a card that is not final, in the ledger and at the issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardProgress {
    /// Its state.
    pub state: CardState,
    /// Whether its hold is in the chain.
    pub held: bool,
    /// Whether it is, for as many blocks as count.
    pub confirmed: bool,
    /// Whether the issuer has made it.
    pub issued: bool,
    /// Whether it is paused at the issuer, or is about to be.
    pub paused: bool,
    /// Why it is to be closed, if it is.
    pub close: Option<Code>,
    /// Whether it is certain how its hold is settled.
    pub concluded: bool,
    /// Whether a clearing may still come.
    pub awaits_clearing: bool,
}

/// What to do next with a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardAction {
    /// It goes into this state.
    Become(CardState, Option<Code>),
    /// The issuer is to make it.
    Issue,
    /// The issuer is to pause it, or to open it again.
    SetPaused(bool),
    /// Poll the issuer for its events.
    FetchEvents,
    /// The issuer closes it, and how its hold is settled follows.
    FinalizeWithIssuer,
}

impl CardProgress {
    /// What to do next, in order; `poll`: whether it is time to ask the issuer.
    #[must_use]
    pub fn next_actions(self, poll: bool) -> Vec<CardAction> {
        use CardAction::{Become, FetchEvents, FinalizeWithIssuer, Issue, SetPaused};
        let closing = self.close.map(|reason| Become(CardState::Closing, Some(reason)));
        match self.state {
            CardState::Requested if self.confirmed => vec![Become(CardState::Held, None)],
            // A reorg took the hold away before there was a card.
            CardState::Held if !self.held => vec![Become(CardState::Requested, None)],
            CardState::Held => vec![closing.unwrap_or(Issue)],
            CardState::Active | CardState::Used => {
                // Also again: whether the issuer heard of it the last time is not known.
                let due = self.paused == self.held || (self.paused && poll);
                let pause = (self.issued && due).then_some(SetPaused(!self.held));
                let fetch = (self.issued && poll).then_some(FetchEvents);
                // Of a charge too: whether it still comes to anything is settled while closing.
                [pause, fetch, closing].into_iter().flatten().collect()
            }
            // A clearing may take days: no hurry to ask for it.
            CardState::Closing if !self.concluded && (poll || !self.awaits_clearing) => vec![FinalizeWithIssuer],
            // Clearings and refunds may still come: they change what the host bears.
            CardState::Closing if self.concluded && self.issued && poll => vec![FetchEvents],
            _ => Vec::new(),
        }
    }
}

/// What an event of a card's transaction is, by the issuer's name of it: all of Lithic's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventKind {
    /// A charge was approved.
    Authorization,
    /// The charge is now this much in all.
    AuthorizationAdvice,
    /// This much of the charge was taken back.
    AuthorizationReversal,
    /// What is left of the charge lapsed. Some merchants take it all the same.
    AuthorizationExpiry,
    /// A question, without money.
    BalanceInquiry,
    /// This much was taken.
    Clearing,
    /// The issuer corrected in the cardholder's favor.
    CorrectionCredit,
    /// The issuer corrected in the merchant's favor.
    CorrectionDebit,
    /// A merchant announced a refund.
    CreditAuthorization,
    /// The announced refund is now this much in all.
    CreditAuthorizationAdvice,
    /// A purchase in a single message: authorized and cleared at once.
    FinancialAuthorization,
    /// A refund in a single message.
    FinancialCreditAuthorization,
    /// A merchant refunded.
    Return,
    /// A merchant took a refund back.
    ReturnReversal,
}

impl EventKind {
    /// The kind with this name; `None`: unknown here.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        use serde::de::{IntoDeserializer, value::Error};
        let name: serde::de::value::StrDeserializer<'_, Error> = name.into_deserializer();
        Self::deserialize(name).ok()
    }

    /// Whether a charge begins with it.
    #[must_use]
    pub const fn is_authorization(self) -> bool {
        matches!(self, Self::Authorization | Self::FinancialAuthorization)
    }

    /// Whether it takes money, or may: a question, or money that comes back, does not.
    #[must_use]
    pub const fn is_charge(self) -> bool {
        match self {
            Self::Authorization
            | Self::AuthorizationAdvice
            | Self::AuthorizationReversal
            | Self::AuthorizationExpiry
            | Self::Clearing
            | Self::CorrectionDebit
            | Self::FinancialAuthorization => true,
            Self::BalanceInquiry
            | Self::CorrectionCredit
            | Self::CreditAuthorization
            | Self::CreditAuthorizationAdvice
            | Self::FinancialCreditAuthorization
            | Self::Return
            | Self::ReturnReversal => false,
        }
    }
}

/// What a card's transactions come to, in cents. Events are a set: their order of arrival does not
/// matter, only the issuer's own order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Charged, and neither cleared nor taken back yet.
    pub pending: i64,
    /// Charged, and lapsed before it was cleared: it may be cleared all the same.
    pub lapsed: i64,
    /// Taken by merchants.
    pub cleared: i64,
    /// Given back by merchants.
    pub returned: i64,
}

impl Tally {
    /// Over one transaction's events, in the issuer's order, with what each is about in cents.
    #[must_use]
    pub fn of(events: impl IntoIterator<Item = (EventKind, i64)>) -> Self {
        let (mut authorized, mut lapsed, mut tally, mut is_credit) = (0_i64, 0_i64, Self::default(), false);
        for (kind, cents) in events {
            let cents = cents.max(0);
            match kind {
                EventKind::Authorization | EventKind::AuthorizationAdvice => authorized = cents,
                EventKind::AuthorizationReversal => {
                    authorized = authorized.saturating_sub(cents).max(0);
                    lapsed = lapsed.saturating_sub(cents).max(0);
                }
                EventKind::AuthorizationExpiry => (authorized, lapsed) = (tally.cleared.min(authorized), authorized),
                EventKind::BalanceInquiry => {}
                EventKind::CreditAuthorization | EventKind::CreditAuthorizationAdvice => is_credit = true,
                // What completes an announced refund.
                EventKind::Clearing if is_credit => tally.returned = tally.returned.saturating_add(cents),
                EventKind::Clearing | EventKind::CorrectionDebit => tally.cleared = tally.cleared.saturating_add(cents),
                EventKind::FinancialAuthorization => {
                    authorized = authorized.saturating_add(cents);
                    tally.cleared = tally.cleared.saturating_add(cents);
                }
                EventKind::CorrectionCredit | EventKind::FinancialCreditAuthorization | EventKind::Return => {
                    tally.returned = tally.returned.saturating_add(cents);
                }
                EventKind::ReturnReversal => tally.returned = tally.returned.saturating_sub(cents).max(0),
            }
        }
        let open = |cents: i64| cents.saturating_sub(tally.cleared).max(0);
        Self { pending: open(authorized), lapsed: open(lapsed.max(authorized)) - open(authorized), ..tally }
    }

    /// Whether something may still come of what is pending or has lapsed at `now`: it is given up when nothing
    /// has come since `last_event_at` for longer than the networks allow.
    #[must_use]
    pub fn awaits_clearing(self, last_event_at: Option<Seconds>, now: Seconds) -> bool {
        let limit = if self.cleared > 0 { REST_CLEARED_WITHIN } else { CLEARED_WITHIN };
        self.pending.max(self.lapsed) > 0 && last_event_at.is_none_or(|since| now.saturating_sub(since) < limit)
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            pending: self.pending.saturating_add(other.pending),
            lapsed: self.lapsed.saturating_add(other.lapsed),
            cleared: self.cleared.saturating_add(other.cleared),
            returned: self.returned.saturating_add(other.returned),
        }
    }
}

/// How what the issuer took for a card is borne: what it took, less what merchants gave back, is always
/// captured + shortfall − owed back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardSettlement {
    /// From the hold, to the treasury.
    pub captured: Amount,
    /// By the host, beyond what is captured.
    pub shortfall: Amount,
    /// Captured beyond what the issuer took: the mandate's, or its operator's.
    pub owed_back: Amount,
}

impl CardSettlement {
    /// `all`: all transactions of the card; `ours`: those that were approved here. Only they are
    /// captured, and only up to the hold: what an issuer errs or lies about is the host's to settle with
    /// it. `captured`: what it was decided to capture, if it was.
    #[must_use]
    pub fn of(all: Tally, ours: Tally, hold: Amount, captured: Option<Amount>) -> Self {
        let amount = |cents: i64| Amount::from_cents(cents.max(0)).unwrap_or(Amount::MAX);
        let captured = captured.unwrap_or_else(|| amount(ours.cleared.saturating_sub(all.returned)).min(hold));
        let taken = amount(all.cleared.saturating_sub(all.returned));
        Self {
            captured,
            shortfall: taken.checked_sub(captured).unwrap_or_default(),
            owed_back: captured
                .checked_add(amount(all.returned.saturating_sub(all.cleared)))
                .and_then(|owed| owed.checked_sub(taken))
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::prelude::*;

    use super::*;
    use crate::intent::Policy;

    const NOW: Seconds = 1_000;

    fn intent(mccs: Option<&[&str]>) -> Intent {
        let mccs = mccs.map(|mccs| mccs.iter().map(|mcc| mcc.parse().unwrap()).collect());
        Intent { version: 1, purpose: "p".into(), policy: Policy { mccs, ..Policy::default() }, nonce: B256::ZERO }
    }

    fn verdict(change: impl FnOnce(&mut ChargeContext<'_>, &mut Charge), intent: &Intent) -> Option<Code> {
        let mut card = ChargeContext {
            state: CardState::Active,
            held_now: true,
            amount: "25".parse().unwrap(),
            approved: 0,
            expires_at: NOW + 1,
            mandate: MandateState::Open,
            intent: Some(intent),
        };
        let mut charge =
            Charge { cents: 2_500, cash_cents: 0, in_dollars: true, plain: true, mcc: "5734".parse().ok() };
        change(&mut card, &mut charge);
        authorize(&card, &charge, NOW)
    }

    #[test]
    fn a_charge_passes_once_within_its_limits() {
        let any = intent(None);
        assert_eq!(verdict(|_, _| (), &any), None);
        assert_eq!(verdict(|card, _| card.state = CardState::Used, &any), Some(Code::CardUsed));
        assert_eq!(verdict(|card, _| card.held_now = false, &any), Some(Code::CardNotActive));
        assert_eq!(verdict(|card, _| card.expires_at = NOW, &any), Some(Code::CardExpired));
        assert_eq!(verdict(|card, _| card.mandate = MandateState::Ended, &any), Some(Code::Ended));
        assert_eq!(verdict(|_, charge| charge.plain = false, &any), Some(Code::ChargeNotPlain));
        assert_eq!(verdict(|_, charge| charge.cash_cents = 1, &any), Some(Code::ChargeNotPlain));
        assert_eq!(verdict(|_, charge| charge.in_dollars = false, &any), Some(Code::CurrencyNotAllowed));
        for cents in [2_501, -1, i64::MIN, i64::MAX] {
            assert_eq!(verdict(|_, charge| charge.cents = cents, &any), Some(Code::AboveCardAmount), "{cents}");
        }
        let narrow = intent(Some(&["5734", "7372"]));
        assert_eq!(verdict(|_, _| (), &narrow), None);
        for mcc in ["7995".parse().ok(), None] {
            assert_eq!(verdict(|_, charge| charge.mcc = mcc, &narrow), Some(Code::MerchantNotAllowed));
        }
        for state in [CardState::Requested, CardState::Held, CardState::Closing, CardState::Closed, CardState::Failed] {
            assert_eq!(verdict(|card, _| card.state = state, &any), Some(Code::CardNotActive));
        }
    }

    #[test]
    fn a_card_can_be_verified_a_few_times_before_its_purchase() {
        let any = intent(None);
        let asked = |cents, approved| verdict(|card, charge| (card.approved, charge.cents) = (approved, cents), &any);
        for approved in 0..VERIFICATIONS {
            assert_eq!((asked(0, approved), asked(2_500, approved)), (None, None));
        }
        assert_eq!((asked(0, VERIFICATIONS), asked(2_500, VERIFICATIONS)), (Some(Code::CardUsed), None));
        assert_eq!(asked(2_500, VERIFICATIONS + 1), Some(Code::CardUsed));
        let narrow = intent(Some(&["5734"]));
        assert_eq!(
            verdict(|_, charge| (charge.cents, charge.mcc) = (0, None), &narrow),
            Some(Code::MerchantNotAllowed)
        );
    }

    #[test]
    fn a_verification_is_over_when_all_of_it_was_taken_back() {
        let [auth, back] = [EventKind::Authorization, EventKind::AuthorizationReversal];
        assert!(is_voided_verification(&[(auth, 100), (back, 100)]));
        assert!(is_voided_verification(&[(back, 400), (back, 100), (auth, VERIFICATION_MAX)]));
        for events in [
            &[(auth, 100)][..],
            &[(back, 100)],
            &[(auth, 100), (back, 99)],
            &[(auth, VERIFICATION_MAX + 1), (back, VERIFICATION_MAX + 1)],
            &[(auth, 100), (EventKind::AuthorizationExpiry, 100)],
            &[(auth, 100), (back, 100), (EventKind::Clearing, 100)],
            &[],
        ] {
            assert!(!is_voided_verification(events), "{events:?}");
        }
    }

    #[test]
    fn a_card_goes_on_by_its_hold_its_issuer_and_its_mandate() {
        use CardAction::{Become, FetchEvents, FinalizeWithIssuer, Issue, SetPaused};
        let card = CardProgress {
            state: CardState::Requested,
            held: true,
            confirmed: true,
            issued: true,
            paused: false,
            close: None,
            concluded: false,
            awaits_clearing: false,
        };
        let actions = |change: fn(&mut CardProgress), poll| {
            let mut card = card;
            change(&mut card);
            card.next_actions(poll)
        };
        assert_eq!(actions(|_| (), false), [Become(CardState::Held, None)]);
        assert_eq!(actions(|card| card.confirmed = false, true), []);
        assert_eq!(actions(|card| card.state = CardState::Held, false), [Issue]);
        let unmined: fn(&mut CardProgress) = |card| (card.state, card.held) = (CardState::Held, false);
        assert_eq!(actions(unmined, false), [Become(CardState::Requested, None)]);
        let ended: fn(&mut CardProgress) = |card| (card.state, card.close) = (CardState::Held, Some(Code::Ended));
        assert_eq!(actions(ended, false), [Become(CardState::Closing, Some(Code::Ended))]);

        assert_eq!(actions(|card| card.state = CardState::Active, false), []);
        assert_eq!(actions(|card| card.state = CardState::Used, true), [FetchEvents]);
        let awaiting_hold: fn(&mut CardProgress) = |card| (card.state, card.held) = (CardState::Active, false);
        assert_eq!(actions(awaiting_hold, false), [SetPaused(true)]);
        let paused: fn(&mut CardProgress) =
            |card| (card.state, card.held, card.paused) = (CardState::Active, false, true);
        assert_eq!((actions(paused, false), actions(paused, true)), (vec![], vec![SetPaused(true), FetchEvents]));
        let held_again: fn(&mut CardProgress) = |card| (card.state, card.paused) = (CardState::Active, true);
        assert_eq!(actions(held_again, false), [SetPaused(false)]);
        let expired: fn(&mut CardProgress) =
            |card| (card.state, card.close) = (CardState::Active, Some(Code::CardExpired));
        assert_eq!(actions(expired, true), [FetchEvents, Become(CardState::Closing, Some(Code::CardExpired))]);

        assert_eq!(actions(|card| card.state = CardState::Closing, false), [FinalizeWithIssuer]);
        let waits: fn(&mut CardProgress) = |card| (card.state, card.awaits_clearing) = (CardState::Closing, true);
        assert_eq!((actions(waits, false), actions(waits, true)), (vec![], vec![FinalizeWithIssuer]));
        let concluded: fn(&mut CardProgress) = |card| (card.state, card.concluded) = (CardState::Closing, true);
        assert_eq!((actions(concluded, false), actions(concluded, true)), (vec![], vec![FetchEvents]));
        assert_eq!(actions(|card| card.state = CardState::Closed, true), []);
    }

    #[test]
    fn a_clearing_is_awaited_as_long_as_networks_allow() {
        for open in [Tally { pending: 1, ..Tally::default() }, Tally { lapsed: 1, ..Tally::default() }] {
            let awaits = |cleared, age| Tally { cleared, ..open }.awaits_clearing(Some(NOW), NOW + age);
            assert!(awaits(0, CLEARED_WITHIN - 1) && !awaits(0, CLEARED_WITHIN));
            assert!(awaits(1, REST_CLEARED_WITHIN - 1) && !awaits(1, REST_CLEARED_WITHIN));
        }
        assert!(Tally { pending: 1, ..Tally::default() }.awaits_clearing(None, Seconds::MAX));
        assert!(!Tally { cleared: 1, ..Tally::default() }.awaits_clearing(None, NOW));
    }

    #[test]
    fn a_tally_follows_the_issuer_rules() {
        use EventKind as Kind;
        let tally = |events: &[(EventKind, i64)]| {
            let Tally { pending, cleared, returned, .. } = Tally::of(events.iter().copied());
            (pending, cleared, returned)
        };
        let [auth, advice, back, clear] =
            [Kind::Authorization, Kind::AuthorizationAdvice, Kind::AuthorizationReversal, Kind::Clearing];
        let lapse = (Kind::AuthorizationExpiry, 0);
        assert_eq!(tally(&[(auth, 1_840)]), (1_840, 0, 0));
        assert_eq!(tally(&[(auth, 1_000), (clear, 600)]), (400, 600, 0));
        assert_eq!(tally(&[(auth, 1_000), (clear, 600), (clear, 300)]), (100, 900, 0));
        assert_eq!(tally(&[(auth, 5_000), (clear, 7_340)]), (0, 7_340, 0));
        assert_eq!(tally(&[(auth, 1_000), (advice, 1_200), (clear, 1_200)]), (0, 1_200, 0));
        assert_eq!(tally(&[(auth, 1_000), (back, 1_000)]), (0, 0, 0));
        assert_eq!(tally(&[(auth, 1_000), (back, 2_000)]), (0, 0, 0));
        assert_eq!(tally(&[(auth, 1_000), lapse]), (0, 0, 0));
        assert_eq!(tally(&[(auth, 1_000), lapse, (clear, 900)]), (0, 900, 0));
        assert_eq!(tally(&[(auth, 1_000), (clear, 400), lapse]), (0, 400, 0));
        assert_eq!(tally(&[(clear, 5)]), (0, 5, 0));
        assert_eq!(tally(&[(Kind::FinancialAuthorization, 500)]), (0, 500, 0));
        assert_eq!(tally(&[(auth, 1_000), (clear, 1_000), (Kind::CorrectionDebit, 50)]), (0, 1_050, 0));
        assert_eq!(tally(&[(auth, 1_000), (clear, 1_000), (Kind::CorrectionCredit, 50)]), (0, 1_000, 50));
        assert_eq!(tally(&[(Kind::Return, 400)]), (0, 0, 400));
        assert_eq!(tally(&[(Kind::Return, 400), (Kind::ReturnReversal, 400)]), (0, 0, 0));
        assert_eq!(tally(&[(Kind::FinancialCreditAuthorization, 400)]), (0, 0, 400));
        assert_eq!(tally(&[(Kind::CreditAuthorization, 400)]), (0, 0, 0));
        assert_eq!(tally(&[(Kind::CreditAuthorization, 400), (clear, 400)]), (0, 0, 400));
        assert_eq!(tally(&[(Kind::BalanceInquiry, 400)]), (0, 0, 0));
    }

    #[test]
    fn what_lapsed_may_be_cleared_until_it_is() {
        use EventKind as Kind;
        let lapse = (Kind::AuthorizationExpiry, 0);
        for (events, lapsed) in [
            (vec![(Kind::Authorization, 1_000)], 0),
            (vec![(Kind::Authorization, 1_000), lapse], 1_000),
            (vec![(Kind::Authorization, 1_000), (Kind::Clearing, 400), lapse], 600),
            (vec![(Kind::Authorization, 1_000), lapse, (Kind::Clearing, 400)], 600),
            (vec![(Kind::Authorization, 1_000), lapse, (Kind::Clearing, 1_400)], 0),
            (vec![(Kind::Authorization, 1_000), lapse, (Kind::AuthorizationReversal, 1_000)], 0),
            (vec![lapse], 0),
        ] {
            let tally = Tally::of(events.iter().copied());
            assert_eq!(
                (tally.lapsed, tally.pending),
                (lapsed, if events.len() == 1 { tally.pending } else { 0 }),
                "{events:?}"
            );
        }
    }

    #[test]
    fn an_event_kind_is_known_by_the_issuer_name() {
        assert_eq!(EventKind::from_name("FINANCIAL_AUTHORIZATION"), Some(EventKind::FinancialAuthorization));
        assert_eq!(EventKind::from_name("RETURN_REVERSAL"), Some(EventKind::ReturnReversal));
        assert_eq!(EventKind::from_name("PARTIAL_MIRACLE"), None);
    }

    #[test]
    fn a_settlement_splits_what_the_issuer_took() {
        let tally = |cleared, returned| Tally { cleared, returned, ..Tally::default() };
        let usdc = |text: &str| text.parse::<Amount>().unwrap();
        for (all, ours, fixed, expected) in [
            ((1_840, 0), 1_840, None, ["18.40", "0", "0"]),
            ((2_700, 0), 2_700, None, ["25", "2", "0"]),
            ((1_000, 0), 0, None, ["0", "10", "0"]),
            ((1_000, 400), 1_000, None, ["6", "0", "0"]),
            ((1_000, 400), 1_000, Some("10"), ["10", "0", "4"]),
            ((0, 500), 0, Some("0"), ["0", "0", "5"]),
            ((1_400, 0), 1_400, Some("10"), ["10", "4", "0"]),
        ] {
            let settlement = CardSettlement::of(tally(all.0, all.1), tally(ours, 0), usdc("25"), fixed.map(usdc));
            let CardSettlement { captured, shortfall, owed_back } = settlement;
            assert_eq!([captured, shortfall, owed_back], expected.map(usdc), "{all:?} {fixed:?}");
        }
    }

    proptest! {
        #[test]
        fn what_the_issuer_took_is_captured_short_or_owed_back(
            cleared in 0..1_000_000_i64, ours in 0..1_000_000_i64, returned in 0..1_000_000_i64,
            hold in 1..1_000_000_i64, fixed in proptest::option::of(0..1_000_000_i64),
        ) {
            let all = Tally { cleared: cleared.saturating_add(ours), returned, ..Tally::default() };
            let ours = Tally { cleared: ours, ..Tally::default() };
            let amount = |cents| Amount::from_cents(cents).unwrap();
            let CardSettlement { captured, shortfall, owed_back } =
                CardSettlement::of(all, ours, amount(hold), fixed.map(|cents| amount(cents.min(hold))));
            prop_assert!(captured <= amount(hold));
            let cents = |amount: Amount| amount.cents().unwrap();
            prop_assert_eq!(all.cleared - all.returned, cents(captured) + cents(shortfall) - cents(owed_back));
            prop_assert!(shortfall.is_zero() || owed_back.is_zero());
        }
    }

    proptest! {
        #[test]
        fn a_category_is_four_digits_and_nothing_else(text in "\\PC{0,6}") {
            let valid = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
            prop_assert_eq!(text.parse::<Mcc>().is_ok(), valid);
        }
    }
}
