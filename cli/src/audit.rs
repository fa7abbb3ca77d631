//! `stipend audit`: the trail of what was asked, decided, sent, paid and charged.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::Value;
use stipend_core::{
    Amount, CardId,
    api::{AuditEntry, Page},
};

use crate::{context::Context, keys::DevAccount, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stipend audit
  stipend audit --mandate mand_1f2e3d
  stipend audit --totals
  stipend audit --csv > trail.csv
  stipend audit --json | jq -r '.data[] | [.at, .type, .tx_hash] | @tsv'")]
pub(crate) struct Args {
    /// Only entries of this mandate: its id, or a unique prefix of it
    #[arg(long)]
    mandate: Option<String>,
    /// Only entries behind this one
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// Sums instead of entries: what was paid to whom, and what was refused and why
    #[arg(long, conflicts_with = "csv")]
    totals: bool,
    /// Comma-separated values, for spreadsheets
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// The trail in sums.
#[derive(Debug, Default, Serialize)]
struct Totals {
    /// What reached each payee or merchant for good.
    paid: Vec<Total>,
    /// What was refused, by code.
    refused: Vec<Total>,
}

#[derive(Debug, Serialize)]
struct Total {
    /// The payee, the merchant or the code.
    name: String,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Amount>,
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
    if args.csv {
        return output::file(&csv(&entries));
    }
    if args.totals {
        return output::result(context.json(), &totals(&entries), totals_in_words);
    }
    output::result(context.json(), &Page { data: entries, next_cursor: None }, to_human)
}

fn to_human(page: &Page<AuditEntry>) -> String {
    if page.data.is_empty() {
        return "nothing yet".into();
    }
    let merchants = merchants(&page.data);
    let mut table = output::table(&["seq", "time (utc)", "what", "amount", "paid to", "about", "transaction"]);
    for entry in &page.data {
        table.add_row([
            entry.seq.to_string(),
            output::time(entry.at).trim_end_matches(" UTC").to_owned(),
            what(entry),
            amount(entry),
            counterparty(entry, &merchants),
            output::short(subject(entry)),
            entry.tx_hash.map(output::short).unwrap_or_default(),
        ]);
    }
    output::fitted(table, &["transaction", "about", "time (utc)"])
}

/// At which merchant each card was used.
fn merchants(entries: &[AuditEntry]) -> HashMap<CardId, &str> {
    let authorized = entries.iter().filter(|entry| entry.kind == "card.authorized");
    authorized.filter_map(|entry| Some((entry.card?, entry.data.get("merchant")?.as_str()?))).collect()
}

/// Whom an entry is about money for: a payee, or the merchant of a card.
fn counterparty(entry: &AuditEntry, merchants: &HashMap<CardId, &str>) -> String {
    if let Some(payee) = entry.data.get("payee").and_then(Value::as_str) {
        return output::short(output::sanitize(payee));
    }
    let named = entry.data.get("merchant").and_then(Value::as_str);
    let known = || merchants.get(&entry.card?).copied().filter(|_| entry.kind == "card.settled");
    named.or_else(known).map(output::sanitize).unwrap_or_default()
}

fn totals(entries: &[AuditEntry]) -> Totals {
    let merchants = merchants(entries);
    let (mut paid, mut refused) = (BTreeMap::<String, Total>::new(), BTreeMap::<String, Total>::new());
    let add = |to: &mut BTreeMap<String, Total>, name: &str, amount: Option<Amount>| {
        let total = to.entry(name.to_owned()).or_insert_with(|| Total { name: name.to_owned(), count: 0, total: None });
        total.count = total.count.saturating_add(1);
        total.total = match (total.total, amount) {
            (Some(sum), Some(amount)) => sum.checked_add(amount),
            (sum, amount) => sum.or(amount),
        };
    };
    for entry in entries {
        let text = |name: &str| entry.data.get(name).and_then(Value::as_str);
        let value = |name: &str| text(name).and_then(|amount| amount.parse::<Amount>().ok());
        match entry.kind.as_str() {
            "payment.settled" => add(&mut paid, text("payee").unwrap_or("?"), value("amount")),
            "card.settled" => {
                if let Some(captured) = value("captured").filter(|captured| !captured.is_zero()) {
                    let merchant = entry.card.and_then(|card| merchants.get(&card).copied());
                    add(&mut paid, merchant.unwrap_or("?"), Some(captured));
                }
            }
            "payment.denied" | "card.denied" | "card.declined" => {
                add(&mut refused, text("code").unwrap_or("?"), value("amount"));
            }
            _ => {}
        }
    }
    Totals { paid: paid.into_values().collect(), refused: refused.into_values().collect() }
}

fn totals_in_words(totals: &Totals) -> String {
    let table = |heading: &str, totals: &[Total]| {
        let mut table = output::table(&[heading, "count", "total"]);
        for Total { name, count, total } in totals {
            table.add_row([
                output::sanitize(name),
                count.to_string(),
                total.map(|total| total.to_string()).unwrap_or_default(),
            ]);
        }
        output::text(&table)
    };
    match (totals.paid.as_slice(), totals.refused.as_slice()) {
        ([], []) => "nothing was paid or refused yet".into(),
        (paid, []) => table("paid to", paid),
        ([], refused) => table("refused for", refused),
        (paid, refused) => format!("{}\n{}", table("paid to", paid), table("refused for", refused)),
    }
}

/// The trail for spreadsheets (RFC 4180), in full.
fn csv(entries: &[AuditEntry]) -> String {
    let merchants = merchants(entries);
    let mut text =
        "seq,time,type,amount,payee,merchant,code,ref,mandate,payment,card,request,transaction\r\n".to_owned();
    for entry in entries {
        let told = |name: &str| entry.data.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let merchant = || merchants.get(&entry.card?).map(|merchant| (*merchant).to_owned());
        let fields = [
            entry.seq.to_string(),
            output::time(entry.at),
            entry.kind.clone(),
            amount(entry),
            told("payee"),
            Some(told("merchant")).filter(|merchant| !merchant.is_empty()).or_else(merchant).unwrap_or_default(),
            told("code"),
            told("ref"),
            entry.mandate.map(|id| id.to_string()).unwrap_or_default(),
            entry.payment.map(|id| id.to_string()).unwrap_or_default(),
            entry.card.map(|id| id.to_string()).unwrap_or_default(),
            entry.request.map(|id| id.to_string()).unwrap_or_default(),
            entry.tx_hash.map(|hash| hash.to_string()).unwrap_or_default(),
        ];
        text.push_str(&fields.map(|field| csv_field(&field)).join(","));
        text.push_str("\r\n");
    }
    text
}

/// A field that no spreadsheet takes for a formula, or for two.
fn csv_field(field: &str) -> String {
    let field = output::sanitize(field);
    let formula = field.starts_with(['=', '+', '-', '@']);
    let field = if formula { format!("'{field}") } else { field };
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
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

    fn trail() -> Vec<AuditEntry> {
        let paid = |payee: &str, amount: &str| entry("payment.settled", json!({"payee": payee, "amount": amount}));
        let card = CardId::generate();
        let of_card = |kind, data| AuditEntry { card: Some(card), ..entry(kind, data) };
        vec![
            paid("0xaa", "1.00"),
            paid("0xbb", "2.50"),
            entry("payment.mined", json!({"payee": "0xaa", "amount": "1.00"})),
            paid("0xaa", "0.25"),
            entry("payment.denied", json!({"payee": "0xcc", "amount": "99.00", "code": "insufficient_budget"})),
            of_card("card.authorized", json!({"amount": "18.40", "merchant": "=ADS, \"Inc\""})),
            of_card("card.settled", json!({"captured": "18.40", "released": "6.60"})),
        ]
    }

    #[test]
    fn totals_say_who_was_paid_what_and_what_was_refused() {
        let totals = totals(&trail());
        let list = |totals: &[Total]| -> Vec<_> {
            totals.iter().map(|total| (total.name.clone(), total.count, total.total.unwrap().to_string())).collect()
        };
        let row = |name: &str, count, total: &str| (name.to_owned(), count, total.to_owned());
        assert_eq!(
            list(&totals.paid),
            [row("0xaa", 2, "1.25"), row("0xbb", 1, "2.50"), row("=ADS, \"Inc\"", 1, "18.40")]
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
        assert_eq!(list(&totals.refused), [row("insufficient_budget", 1, "99.00")]);
        let words = totals_in_words(&totals);
        assert!(words.contains("PAID TO") && words.contains("REFUSED FOR"), "{words}");
    }

    #[test]
    fn a_spreadsheet_reads_what_was_written() {
        let text = csv(&trail());
        assert!(text.lines().all(|line| line.starts_with(|first: char| first.is_ascii_digit() || first == 's')));
        assert!(text.contains(",0xbb,,"), "{text}");
        assert!(text.contains("\"'=ADS, \"\"Inc\"\"\""), "{text}");
        assert_eq!(text.lines().count(), trail().len() + 1);
    }

    #[test]
    fn a_line_says_whom_it_is_about() {
        let trail = trail();
        let merchants = merchants(&trail);
        let of = |index: usize| counterparty(&trail[index], &merchants);
        assert_eq!((of(0).as_str(), of(5).as_str(), of(6).as_str()), ("0xaa", "=ADS, \"Inc\"", "=ADS, \"Inc\""));
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
