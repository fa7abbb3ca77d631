//! A transaction as Lithic shows it, and the question that is asked about it. Everything is there
//! that the SDK demands under strict validation.

use serde_json::{Value, json};

use super::{CURRENCY, Merchant, Request, Status, Transaction, TransactionEvent};
use crate::card::Card;

impl Transaction {
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
        let authorized = if standing.status == Status::Declined { self.requested } else { standing.authorized };
        let amount = if standing.status == Status::Settled { cleared } else { authorized };
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
            "authorization_amount": authorized,
            "authorization_code": self.authorization_code,
            "avs": null,
            "card_token": self.card_token,
            "cardholder_authentication": null,
            "created": self.created,
            "financial_account_token": null,
            "merchant": self.merchant.view(),
            "merchant_amount": self.at_merchant(amount),
            "merchant_authorization_amount": self.at_merchant(authorized),
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

    fn event_view(&self, event: &TransactionEvent) -> Value {
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

impl Merchant {
    fn view(&self) -> Value {
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
