//! `stipend audit`: the trail of what was asked, decided, sent and paid.

use serde_json::Value;
use stipend_core::api::{AuditEntry, Page};

use crate::{context::Context, keys::DevAccount, show};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stipend audit
  stipend audit --mandate mand_1f2e3d
  stipend audit --json | jq -r '.data[] | [.at, .type, .tx_hash] | @tsv'")]
pub(crate) struct Args {
    /// Of this mandate: its id, or a unique beginning of it
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
    show::result(context.json(), &Page { data: entries, next_cursor: None }, in_words)
}

fn in_words(page: &Page<AuditEntry>) -> String {
    if page.data.is_empty() {
        return "nothing yet".into();
    }
    let mut table = show::table(&["seq", "time", "what", "amount", "about", "transaction"]);
    for entry in &page.data {
        table.add_row([
            entry.seq.to_string(),
            show::time(entry.at),
            what(entry),
            amount(entry),
            subject(entry),
            entry.tx_hash.map(|hash| hash.to_string()).unwrap_or_default(),
        ]);
    }
    show::text(&table)
}

/// An entry on one line, for streams.
pub(crate) fn line(entry: &AuditEntry) -> String {
    let hash = entry.tx_hash.map(|hash| format!("  {hash}")).unwrap_or_default();
    format!("{}  {}  {}  {}{hash}", show::time(entry.at), what(entry), amount(entry), subject(entry))
}

/// What happened, and for a refusal its code.
fn what(entry: &AuditEntry) -> String {
    let code = entry.data.get("code").and_then(Value::as_str);
    show::plain(&code.map_or_else(|| entry.kind.clone(), |code| format!("{}: {code}", entry.kind)))
}

/// The amount that it is about, under the name that such entries have for it.
fn amount(entry: &AuditEntry) -> String {
    let amount = ["amount", "cap", "from_remaining"].into_iter().find_map(|name| entry.data.get(name)?.as_str());
    show::plain(amount.unwrap_or_default())
}

/// The narrowest thing an entry is about.
fn subject(entry: &AuditEntry) -> String {
    let payment = entry.payment.map(|id| id.to_string());
    let mandate = entry.mandate.map(|id| id.to_string());
    payment.or(mandate).or(entry.request.map(|id| id.to_string())).unwrap_or_default()
}
