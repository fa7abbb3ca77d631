//! `stipend audit`: the trail of what was asked, decided, sent, paid and charged.

use serde_json::Value;
use stipend_core::{
    Amount,
    api::{AuditEntry, Page},
};

use crate::{context::Context, keys::DevAccount, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stipend audit
  stipend audit --mandate mand_1f2e3d
  stipend audit --json | jq -r '.data[] | [.at, .type, .tx_hash] | @tsv'")]
pub(crate) struct Args {
    /// Only entries of this mandate: its id, or a unique prefix of it
    #[arg(long)]
    mandate: Option<String>,
    /// Only entries behind this one
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let mandate = match &args.mandate {
        Some(text) => Some(caller.find(text).await?.id),
        None => None,
    };
    let mut entries = Vec::new();
    let mut after = args.after;
    loop {
        let page = caller.client.audit(mandate, after, Some(100)).await?;
        entries.extend(page.data);
        match page.next_cursor.map(|cursor| cursor.parse()) {
            Some(next) => after = next?,
            None => break,
        }
    }
    output::result(context.json(), &Page { data: entries, next_cursor: None }, to_human)
}

fn to_human(page: &Page<AuditEntry>) -> String {
    if page.data.is_empty() {
        return "nothing yet".into();
    }
    let mut table = output::table(&["seq", "time", "what", "amount", "about", "transaction"]);
    for entry in &page.data {
        table.add_row([
            entry.seq.to_string(),
            output::time(entry.at),
            what(entry),
            amount(entry),
            subject(entry),
            entry.tx_hash.map(|hash| hash.to_string()).unwrap_or_default(),
        ]);
    }
    output::text(&table)
}

/// An entry on one line, for streams.
pub(crate) fn line(entry: &AuditEntry) -> String {
    let hash = entry.tx_hash.map(|hash| format!("  {hash}")).unwrap_or_default();
    format!("{}  {}  {}  {}{hash}", output::time(entry.at), what(entry), amount(entry), subject(entry))
}

/// What happened, and with a refusal its code, with an end its reason, with money that moved where
/// to, and with what an issuer tells its kind.
fn what(entry: &AuditEntry) -> String {
    let told = |name: &str| entry.data.get(name).and_then(Value::as_str);
    let declined = entry.data.get("approved").and_then(Value::as_bool) == Some(false);
    let detail = told("code").or_else(|| told("reason")).or_else(|| told("event"));
    let detail = detail.or_else(|| settled(entry).map(|(name, _)| name));
    let what = detail.map_or_else(|| entry.kind.clone(), |detail| format!("{}: {detail}", entry.kind));
    output::sanitize(&what) + if declined { ", declined" } else { "" }
}

/// The amount that it is about, under the name that such entries have for it.
fn amount(entry: &AuditEntry) -> String {
    let named = || ["amount", "cap", "from_remaining"].into_iter().find_map(|name| entry.data.get(name)?.as_str());
    // An issuer counts in cents.
    let cents = || Amount::from_cents(entry.data.get("cents")?.as_i64()?).map(|amount| amount.to_string());
    let amount = settled(entry).map(|(_, amount)| amount).or_else(named);
    amount.map(output::sanitize).or_else(cents).unwrap_or_default()
}

/// What of a hold has moved, and whether to the payee or back to the mandate.
fn settled(entry: &AuditEntry) -> Option<(&'static str, &str)> {
    let moved = |name| {
        let amount = entry.data.get(name)?.as_str()?;
        let nothing = amount.parse::<Amount>().is_ok_and(Amount::is_zero);
        (!nothing).then_some((name, amount))
    };
    ["captured", "released"].into_iter().find_map(moved)
}

/// The narrowest thing an entry is about.
fn subject(entry: &AuditEntry) -> String {
    let payment = entry.payment.map(|id| id.to_string());
    let card = entry.card.map(|id| id.to_string());
    let mandate = entry.mandate.map(|id| id.to_string());
    payment.or(card).or(mandate).or(entry.request.map(|id| id.to_string())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;
    use serde_json::json;
    use stipend_core::CardId;

    fn entry(kind: &str, data: Value) -> AuditEntry {
        AuditEntry {
            seq: 1,
            at: 1_800_000_000,
            kind: kind.into(),
            request: None,
            mandate: None,
            payment: None,
            card: Some(CardId::generate()),
            tx_hash: None,
            data,
            hash: B256::ZERO,
        }
    }

    #[test]
    fn card_events_carry_reason_and_amount() {
        let told = |kind, data| {
            let entry = entry(kind, data);
            assert!(subject(&entry).starts_with("card_"), "{entry:?}");
            (what(&entry), amount(&entry))
        };
        let pair = |what: &str, amount: &str| (what.to_owned(), amount.to_owned());
        assert_eq!(
            told("card.authorized", json!({"amount": "18.40", "code": null, "merchant": "ADS"})),
            pair("card.authorized", "18.40")
        );
        assert_eq!(
            told("card.declined", json!({"amount": "18.40", "code": "merchant_not_allowed"})),
            pair("card.declined: merchant_not_allowed", "18.40")
        );
        assert_eq!(
            told("card.issuer_event", json!({"event": "CLEARING", "cents": 1_840, "approved": true})),
            pair("card.issuer_event: CLEARING", "18.40")
        );
        assert_eq!(
            told("card.issuer_event", json!({"event": "AUTHORIZATION", "cents": 500, "approved": false})),
            pair("card.issuer_event: AUTHORIZATION, declined", "5.00")
        );
        assert_eq!(
            told("card.settled", json!({"captured": "0.00", "released": "6.60"})),
            pair("card.settled: released", "6.60")
        );
        assert_eq!(
            told("card.closing", json!({"amount": "25.00", "reason": "card_expired"})),
            pair("card.closing: card_expired", "25.00")
        );
    }
}
