//! What a card is and what may become of it. Pure: no store, no clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::{Uuid, uuid};

use crate::{
    number::{CardNumber, Cvv},
    time::Time,
};

/// The account of a card that names none.
const ACCOUNT: Uuid = uuid!("5e9483eb-8103-4e16-9794-2106111b2eca");
/// The program of a card that names none: the sandbox's first.
const PROGRAM: Uuid = uuid!("00000000-0000-0000-1000-000000000000");
/// How long a card is good for, at most.
const YEARS: i64 = 5;

const TAGS_MAX: usize = 50;
const TAG_NAME_MAX: usize = 40;
const TAG_VALUE_MAX: usize = 500;
const TEXT_MAX: usize = 500;

/// How a card behaves. Lithic has more; these are what the mock plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum CardType {
    /// Closes with its first approved authorization.
    SingleUse,
    Virtual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum CardState {
    Open,
    Paused,
    /// For good.
    Closed,
}

/// The period that a spend limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum LimitDuration {
    Transaction,
    Monthly,
    Annually,
    Forever,
}

/// A card, without what is secret about it. Named as on the wire, and stored like that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) token: Uuid,
    pub(crate) account_token: Uuid,
    pub(crate) card_program_token: Uuid,
    pub(crate) created: Time,
    pub(crate) last_four: String,
    #[serde(rename = "type")]
    pub(crate) kind: CardType,
    pub(crate) state: CardState,
    pub(crate) substatus: Option<Substatus>,
    /// In cents; 0: none.
    pub(crate) spend_limit: i64,
    pub(crate) spend_limit_duration: LimitDuration,
    pub(crate) memo: Option<String>,
    pub(crate) comment: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) exp_month: String,
    pub(crate) exp_year: String,
    /// Whether an approved authorization has used it up.
    pub(crate) used: bool,
}

/// What only the card's owner may see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CardCredentials {
    pub(crate) number: CardNumber,
    pub(crate) cvv: Cvv,
}

/// Why a card's state is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Substatus {
    Lost,
    Compromised,
    Damaged,
    EndUserRequest,
    IssuerRequest,
    NotActive,
    SuspiciousActivity,
    InternalReview,
    Expired,
    Undeliverable,
    Other,
}

/// The body of a create call.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCard {
    #[serde(rename = "type")]
    kind: CardType,
    account_token: Option<Uuid>,
    card_program_token: Option<Uuid>,
    spend_limit: Option<i64>,
    spend_limit_duration: Option<LimitDuration>,
    state: Option<CardState>,
    memo: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    exp_month: Option<String>,
    exp_year: Option<String>,
}

/// The body of an update call. A tag that is null goes away.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CardUpdate {
    pub(crate) state: Option<CardState>,
    substatus: Option<Substatus>,
    spend_limit: Option<i64>,
    spend_limit_duration: Option<LimitDuration>,
    memo: Option<String>,
    comment: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, Option<String>>,
    #[serde(rename = "pin_status")]
    _pin_status: Option<PinStatus>,
}

/// The one that can be set: it unblocks, and no card of the mock is ever blocked.
#[derive(Clone, Copy, Debug, Deserialize)]
enum PinStatus {
    #[serde(rename = "OK")]
    Ok,
}

/// Why a card can't be made or changed like that.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CardError {
    #[error("spend_limit must be 0 (no limit) or more cents, not {0}")]
    SpendLimit(i64),
    #[error("a new card is OPEN or PAUSED")]
    BornClosed,
    #[error("exp_month is MM and exp_year is YYYY, both or neither, not past and at most {YEARS} years from now")]
    Expiry,
    #[error("tags: at most {TAGS_MAX}, names of 1 to {TAG_NAME_MAX} characters, values of at most {TAG_VALUE_MAX}")]
    Tags,
    #[error("{0} has more than {TEXT_MAX} characters")]
    TooLong(&'static str),
    #[error("the card is CLOSED, and closed is for good")]
    Closed,
}

/// Why an authorization is declined, by Lithic's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decline {
    pub(crate) result: &'static str,
    pub(crate) detail: &'static str,
}

/// What approved debits have taken from a card, in cents, by when they began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Velocity {
    pub(crate) month: i64,
    pub(crate) year: i64,
    pub(crate) forever: i64,
}

impl Card {
    pub(crate) fn new(new: NewCard, token: Uuid, number: CardNumber, now: Time) -> Result<Self, CardError> {
        let state = new.state.unwrap_or(CardState::Open);
        if state == CardState::Closed {
            return Err(CardError::BornClosed);
        }
        let (exp_year, exp_month) = expiry(new.exp_year.as_deref(), new.exp_month.as_deref(), now)?;
        let card = Self {
            token,
            account_token: new.account_token.unwrap_or(ACCOUNT),
            card_program_token: new.card_program_token.unwrap_or(PROGRAM),
            created: now,
            last_four: number.last_four(),
            kind: new.kind,
            state,
            substatus: None,
            spend_limit: new.spend_limit.unwrap_or(0),
            spend_limit_duration: new.spend_limit_duration.unwrap_or(LimitDuration::Transaction),
            memo: new.memo,
            comment: None,
            tags: new.tags,
            exp_month: format!("{exp_month:02}"),
            exp_year: format!("{exp_year:04}"),
            used: false,
        };
        card.check()?;
        Ok(card)
    }

    /// The card after an update, and what the changed fields were before it.
    pub(crate) fn updated(&self, update: CardUpdate) -> Result<(Self, Map<String, Value>), CardError> {
        let mut card = self.clone();
        if let Some(state) = update.state {
            if self.state == CardState::Closed && state != CardState::Closed {
                return Err(CardError::Closed);
            }
            card.state = state;
        }
        card.substatus = update.substatus.or(card.substatus);
        card.spend_limit = update.spend_limit.unwrap_or(card.spend_limit);
        card.spend_limit_duration = update.spend_limit_duration.unwrap_or(card.spend_limit_duration);
        card.memo = update.memo.or(card.memo);
        card.comment = update.comment.or(card.comment);
        for (name, value) in update.tags {
            match value {
                Some(value) => card.tags.insert(name, value),
                None => card.tags.remove(&name),
            };
        }
        card.check()?;
        let previous = self.differences(&card);
        Ok((card, previous))
    }

    /// The card after an approved authorization, and what the changed fields were before it.
    pub(crate) fn authorized(&self) -> (Self, Map<String, Value>) {
        let mut card = self.clone();
        if card.kind == CardType::SingleUse {
            card.state = CardState::Closed;
            card.used = true;
        }
        let previous = self.differences(&card);
        (card, previous)
    }

    /// What the issuer itself decides about an authorization of this many cents, before anybody
    /// is asked.
    pub(crate) fn admits(&self, amount: i64, spent: &Velocity, now: Time) -> Result<(), Decline> {
        let decline = |result, detail| Err(Decline { result, detail });
        match self.state {
            CardState::Closed if self.used => decline("SINGLE_USE_RECHARGED", "SINGLE_USE_CARD_REATTEMPTED"),
            CardState::Closed => decline("CARD_CLOSED", "CARD_CLOSED"),
            CardState::Paused => decline("CARD_PAUSED", "CARD_PAUSED"),
            CardState::Open if self.is_expired(now) => decline("INVALID_CARD_DETAILS", "CARD_EXPIRED"),
            CardState::Open if self.left(spent).is_some_and(|left| amount > left) => {
                decline("USER_TRANSACTION_LIMIT", "CARD_SPEND_LIMIT_EXCEEDED")
            }
            CardState::Open => Ok(()),
        }
    }

    /// What the limit leaves, if there is one.
    fn left(&self, spent: &Velocity) -> Option<i64> {
        let used = match self.spend_limit_duration {
            LimitDuration::Transaction => 0,
            LimitDuration::Monthly => spent.month,
            LimitDuration::Annually => spent.year,
            LimitDuration::Forever => spent.forever,
        };
        (self.spend_limit > 0).then(|| self.spend_limit.saturating_sub(used).max(0))
    }

    fn is_expired(&self, now: Time) -> bool {
        match (self.exp_year.parse(), self.exp_month.parse()) {
            (Ok(year), Ok(month)) => now.is_past_month(year, month),
            _ => true,
        }
    }

    fn check(&self) -> Result<(), CardError> {
        if self.spend_limit < 0 {
            return Err(CardError::SpendLimit(self.spend_limit));
        }
        for (name, text) in [("memo", &self.memo), ("comment", &self.comment)] {
            if text.as_ref().is_some_and(|text| text.chars().count() > TEXT_MAX) {
                return Err(CardError::TooLong(name));
            }
        }
        let sound = |(name, value): (&String, &String)| {
            (1..=TAG_NAME_MAX).contains(&name.chars().count()) && value.chars().count() <= TAG_VALUE_MAX
        };
        if self.tags.len() > TAGS_MAX || !self.tags.iter().all(sound) {
            return Err(CardError::Tags);
        }
        Ok(())
    }

    /// The fields of this card that `next` has changed.
    fn differences(&self, next: &Self) -> Map<String, Value> {
        let (Value::Object(before), Value::Object(after)) = (self.view(), next.view()) else { return Map::new() };
        before.into_iter().filter(|(name, value)| after.get(name) != Some(value)).collect()
    }

    /// As lists show it.
    pub(crate) fn view(&self) -> Value {
        json!({
            "token": self.token,
            "account_token": self.account_token,
            "auth_rule_tokens": [],
            "bulk_order_token": null,
            "card_program_token": self.card_program_token,
            "cardholder_currency": "USD",
            "comment": self.comment,
            "created": self.created,
            "digital_card_art_token": null,
            "exp_month": self.exp_month,
            "exp_year": self.exp_year,
            "funding": null,
            "hostname": "",
            "last_four": self.last_four,
            "memo": self.memo,
            "network_program_token": null,
            "pending_commands": [],
            "pin_status": "NOT_SET",
            "product_id": null,
            "replacement_for": null,
            "spend_limit": self.spend_limit,
            "spend_limit_duration": self.spend_limit_duration,
            "state": self.state,
            "substatus": self.substatus,
            "tags": self.tags,
            "type": self.kind,
        })
    }

    /// As the answers to spend_limits show what is left.
    pub(crate) fn limits_view(&self, spent: &Velocity) -> Value {
        let (name, used) = match self.spend_limit_duration {
            LimitDuration::Monthly => ("monthly", spent.month),
            LimitDuration::Annually => ("annually", spent.year),
            LimitDuration::Forever => ("forever", spent.forever),
            LimitDuration::Transaction => return json!({ "available_spend_limit": {} }),
        };
        match self.left(spent) {
            None => json!({ "available_spend_limit": {} }),
            Some(left) => json!({
                "available_spend_limit": { name: left },
                "spend_limit": { name: self.spend_limit },
                "spend_velocity": { name: used },
            }),
        }
    }
}

impl CardCredentials {
    /// Adds the secrets to a card's view, where Lithic's answers have them.
    pub(crate) fn join(&self, mut view: Value) -> Value {
        if let Value::Object(fields) = &mut view {
            fields.insert("pan".into(), self.number.reveal().into());
            fields.insert("cvv".into(), self.cvv.reveal().into());
        }
        view
    }
}

fn expiry(year: Option<&str>, month: Option<&str>, now: Time) -> Result<(i16, i8), CardError> {
    let latest = now.month_in_years(YEARS);
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    match (year, month) {
        (None, None) => Ok(latest),
        (Some(year), Some(month)) if digits(year, 4) && digits(month, 2) => {
            let year: i16 = year.parse().map_err(|_| CardError::Expiry)?;
            let month: i8 = month.parse().map_err(|_| CardError::Expiry)?;
            let sound = (1..=12).contains(&month) && !now.is_past_month(year, month) && (year, month) <= latest;
            if sound { Ok((year, month)) } else { Err(CardError::Expiry) }
        }
        _ => Err(CardError::Expiry),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const NOW: Time = Time(1_800_000_000_000_000);

    pub(crate) fn card(body: Value) -> Result<Card, CardError> {
        let new = serde_json::from_value(body).unwrap();
        Card::new(new, Uuid::from_u128(7), "4111111289144142".parse().unwrap(), NOW)
    }

    fn single_use() -> Card {
        card(json!({ "type": "SINGLE_USE", "spend_limit": 2_500, "spend_limit_duration": "FOREVER" })).unwrap()
    }

    fn update(card: &Card, body: Value) -> Result<Card, CardError> {
        card.updated(serde_json::from_value(body).unwrap()).map(|(card, _)| card)
    }

    fn spent(forever: i64) -> Velocity {
        Velocity { forever, ..Velocity::default() }
    }

    #[test]
    fn a_card_starts_open_and_is_good_for_five_years() {
        let card = single_use();
        assert_eq!((card.state, card.exp_month.as_str(), card.exp_year.as_str()), (CardState::Open, "01", "2032"));
        assert_eq!(card.last_four, "4142");
        assert!(!card.view().to_string().contains("pan"));
    }

    #[test]
    fn an_expiry_is_given_whole_and_within_reach() {
        let given =
            |month: Value, year: Value| card(json!({ "type": "VIRTUAL", "exp_month": month, "exp_year": year }));
        assert!(given(json!("01"), json!("2027")).is_ok() && given(json!("01"), json!("2032")).is_ok());
        for (month, year) in [
            (json!("12"), json!("2026")),
            (json!("02"), json!("2032")),
            (json!("13"), json!("2028")),
            (json!("1"), json!("2028")),
            (json!("01"), Value::Null),
            (json!("+1"), json!("2028")),
        ] {
            assert_eq!(given(month, year).unwrap_err(), CardError::Expiry);
        }
    }

    #[test]
    fn a_single_use_card_closes_with_its_first_approval() {
        let (used, previous) = single_use().authorized();
        assert_eq!(used.state, CardState::Closed);
        assert_eq!(Value::Object(previous), json!({ "state": "OPEN" }));
        let decline = used.admits(1, &spent(0), NOW).unwrap_err();
        assert_eq!((decline.result, decline.detail), ("SINGLE_USE_RECHARGED", "SINGLE_USE_CARD_REATTEMPTED"));
    }

    #[test]
    fn a_virtual_card_stays_open() {
        let open = card(json!({ "type": "VIRTUAL" })).unwrap();
        assert_eq!(open.authorized(), (open.clone(), Map::new()));
    }

    #[test]
    fn closed_is_for_good() {
        let closed = update(&single_use(), json!({ "state": "CLOSED" })).unwrap();
        assert_eq!(closed.admits(1, &spent(0), NOW).unwrap_err().detail, "CARD_CLOSED");
        assert_eq!(update(&closed, json!({ "state": "OPEN" })), Err(CardError::Closed));
        assert_eq!(update(&closed, json!({ "state": "PAUSED" })), Err(CardError::Closed));
        assert!(update(&closed, json!({ "state": "CLOSED", "memo": "again" })).is_ok());
    }

    #[test]
    fn a_paused_card_declines_until_it_is_resumed() {
        let paused = update(&single_use(), json!({ "state": "PAUSED" })).unwrap();
        assert_eq!(paused.admits(1, &spent(0), NOW).unwrap_err().detail, "CARD_PAUSED");
        let resumed = update(&paused, json!({ "state": "OPEN" })).unwrap();
        assert_eq!(resumed.admits(1, &spent(0), NOW), Ok(()));
    }

    #[test]
    fn a_limit_is_for_its_period_and_zero_is_none() {
        let card = single_use();
        assert_eq!(card.admits(2_500, &spent(0), NOW), Ok(()));
        assert_eq!(card.admits(2_501, &spent(0), NOW).unwrap_err().result, "USER_TRANSACTION_LIMIT");
        assert_eq!(card.admits(1, &spent(2_500), NOW).unwrap_err().detail, "CARD_SPEND_LIMIT_EXCEEDED");
        let each = update(&card, json!({ "spend_limit_duration": "TRANSACTION" })).unwrap();
        assert_eq!(each.admits(2_500, &spent(9_999), NOW), Ok(()));
        let free = update(&card, json!({ "spend_limit": 0 })).unwrap();
        assert_eq!(free.admits(i64::MAX, &spent(i64::MAX), NOW), Ok(()));
        assert_eq!(update(&card, json!({ "spend_limit": -1 })), Err(CardError::SpendLimit(-1)));
    }

    #[test]
    fn an_expired_card_declines() {
        let later = Time("2032-02-01T00:00:00Z".parse::<Time>().unwrap().0);
        assert_eq!(single_use().admits(1, &spent(0), later).unwrap_err().detail, "CARD_EXPIRED");
    }

    #[test]
    fn tags_are_merged_and_null_removes() {
        let tagged = card(json!({ "type": "VIRTUAL", "tags": { "hold": "1", "mandate": "2" } })).unwrap();
        let tagged = update(&tagged, json!({ "tags": { "hold": null, "purchase": "3" } })).unwrap();
        assert_eq!(json!(tagged.tags), json!({ "mandate": "2", "purchase": "3" }));
        let long = "x".repeat(TAG_NAME_MAX + 1);
        assert_eq!(update(&tagged, json!({ "tags": { long: "v" } })), Err(CardError::Tags));
    }

    proptest! {
        #[test]
        fn no_update_opens_a_closed_card_or_uses_one_up(states in prop::collection::vec(0..3usize, 1..12)) {
            let mut card = single_use();
            for state in states {
                let wanted = ["OPEN", "PAUSED", "CLOSED"][state];
                let before = card.clone();
                match update(&card, json!({ "state": wanted })) {
                    Ok(next) => card = next,
                    Err(error) => prop_assert_eq!(error, CardError::Closed),
                }
                if before.state == CardState::Closed {
                    prop_assert_eq!(&card, &before);
                } else {
                    prop_assert_eq!(json!(card.state), json!(wanted));
                }
                prop_assert!(!card.used);
            }
        }
    }
}
