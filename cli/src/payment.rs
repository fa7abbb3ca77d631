//! `stipend payment`: show, list, watch.

use alloy_primitives::{Address, B256};
use clap::Subcommand;
use eyre::bail;
use stipend_client::{PageQuery, PaymentFilter};
use stipend_core::{
    Amount, MandateId, PaymentId, address,
    api::{Explain, Explanation, Page, Payment, PaymentState},
};

use crate::{
    audit,
    context::Context,
    keys::DevAccount,
    output::{self, WouldBeRefused},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a payment
    #[command(after_help = "Example:\n  stipend payment show pay_…")]
    Show {
        /// The payment
        payment: PaymentId,
    },
    /// List your payments, newest first
    #[command(after_help = "\
Examples:
  stipend payment list --mandate mand_1f2e3d
  stipend payment list --state settled --limit 100")]
    List(List),
    /// Print what happens as it happens; ends when the payment is final
    #[command(after_help = "\
Examples:
  stipend payment watch pay_…  # exit code 1 if it fails
  stipend payment watch --mandate mand_1f2e3d  # until Ctrl-C")]
    Watch(Watch),
    /// Say what would become of a payment or a card now; nothing is signed or reserved
    #[command(after_help = "\
Examples:
  stipend payment explain --mandate mand_1f2e3d --to 0x… --amount 4.20
  stipend payment explain --mandate mand_1f2e3d --amount 25  # of a card

Exit code 3: it would be refused.")]
    Explain(ExplainArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The mandate: its id, or a unique prefix of it
    #[arg(long)]
    mandate: String,
    /// Who would be paid [default: a card would be created]
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    to: Option<Address>,
    /// How much, in USDC
    #[arg(long, value_name = "USDC")]
    amount: Amount,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only entries of this mandate: its id, or a unique prefix of it
    #[arg(long)]
    mandate: Option<String>,
    /// In this state: reserved, submitted, mined, settled or failed
    #[arg(long, value_parser = state)]
    state: Option<PaymentState>,
    /// With this `ref`
    #[arg(long = "ref", value_name = "HASH")]
    reference: Option<B256>,
    /// Number of results (1 to 100)
    #[arg(long)]
    limit: Option<u32>,
    /// Go on behind a list: its `next_cursor`
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// The payment [default: all payments]
    payment: Option<PaymentId>,
    /// Only entries of this mandate: its id, or a unique prefix of it
    #[arg(long, conflicts_with = "payment")]
    mandate: Option<String>,
}

fn state(text: &str) -> Result<PaymentState, String> {
    PaymentState::ALL
        .into_iter()
        .find(|state| state.name() == text)
        .ok_or_else(|| format!("one of {}", PaymentState::ALL.map(PaymentState::name).join(", ")))
}

pub(crate) async fn run(context: &Context, command: Command) -> eyre::Result<()> {
    match command {
        Command::Show { payment } => {
            let caller = context.caller(DevAccount::Agent).await?;
            let payment = caller.client.payment(payment, None).await?;
            output::result(context.json(), &payment, to_human)
        }
        Command::List(args) => list(context, args).await,
        Command::Watch(args) => watch(context, args).await,
        Command::Explain(args) => explain(context, args).await,
    }
}

async fn explain(context: &Context, args: ExplainArgs) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let mandate = caller.find(&args.mandate).await?.id;
    let asked = Explain { mandate, payee: args.to, amount: args.amount, nonce: None, deadline: None };
    let explanation = caller.client.explain(&asked).await?;
    output::result(context.json(), &explanation, explained)?;
    if explanation.decision.allow { Ok(()) } else { Err(WouldBeRefused.into()) }
}

fn explained(explanation: &Explanation) -> String {
    let Explanation { decision, headroom, passes_at, expected } = explanation;
    let mut table = output::table(&["rule", "verdict", "compared"]);
    for verdict in &decision.rules {
        let code = verdict.code.map_or("allows", |code| code.name());
        table.add_row([output::sanitize(&verdict.rule), code.to_owned(), output::sanitize(&verdict.detail)]);
    }
    let mut text = output::text(&table) + "\n";
    text.push_str(if decision.allow { "It would be accepted." } else { "It would be refused." });
    text.push_str(&format!(" At most {headroom} USDC would pass now.\n"));
    if let (false, Some(at)) = (decision.allow, passes_at) {
        text.push_str(&format!("The same would pass from {} on, if nothing else happens.\n", output::time(*at)));
    }
    if let Some(seconds) = expected.settles_within {
        text.push_str(&format!("The last payments took {seconds} s to settle.\n"));
    }
    text
}

async fn list(context: &Context, args: List) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let mandate = match &args.mandate {
        Some(text) => Some(caller.find(text).await?.id),
        None => None,
    };
    let filter = PaymentFilter { mandate, state: args.state, reference: args.reference };
    let page = caller.client.payments(&filter, &PageQuery { cursor: args.cursor, limit: args.limit }).await?;
    output::result(context.json(), &page, list_in_words)
}

fn list_in_words(page: &Page<Payment>) -> String {
    if page.data.is_empty() {
        return "no payments".into();
    }
    let mut table = output::table(&["payment", "state", "amount", "payee", "nonce", "accepted", "transaction"]);
    for payment in &page.data {
        table.add_row([
            output::short(payment.id),
            payment.state.name().into(),
            payment.amount.to_string(),
            output::short(payment.payee),
            payment.nonce.to_string(),
            output::time(payment.created_at),
            payment.tx_hash.map(output::short).unwrap_or_default(),
        ]);
    }
    let more = page.next_cursor.as_ref().map(|cursor| format!("more: --cursor {cursor}\n")).unwrap_or_default();
    output::fitted(table, &["transaction", "nonce", "accepted"]) + &more
}

/// A payment, line by line.
pub(crate) fn to_human(payment: &Payment) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("payment", payment.id.to_string());
    row("state", payment.state.name().into());
    if let Some(code) = payment.reason {
        row("reason", format!("{code}: {}", code.hint()));
    }
    row("amount", format!("{} USDC", payment.amount));
    row("payee", payment.payee.to_string());
    row("mandate", payment.mandate.to_string());
    row("nonce", payment.nonce.to_string());
    row("deadline", output::time(payment.deadline));
    if !payment.reference.is_zero() {
        row("ref", payment.reference.to_string());
    }
    if let Some(hash) = payment.tx_hash {
        row("transaction", hash.to_string());
    }
    if let Some(number) = payment.block_number {
        row("block", number.to_string());
    }
    output::key_value_table(rows)
}

async fn watch(context: &Context, args: Watch) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let mandate: Option<MandateId> = match (&args.payment, &args.mandate) {
        (Some(id), _) => Some(caller.client.payment(*id, None).await?.mandate),
        (None, Some(text)) => Some(caller.find(text).await?.id),
        (None, None) => None,
    };
    let mut events = caller.client.events(mandate, None).await?;
    // Looked at once the stream is open, so that nothing falls between the two.
    if let Some(id) = args.payment {
        let payment = caller.client.payment(id, None).await?;
        if payment.state.is_final() {
            return end(context, &payment);
        }
        output::note(&format!("{id} is {}", payment.state.name()));
    }
    loop {
        let entry = events.next().await?;
        if args.payment.is_some() && entry.payment != args.payment {
            continue;
        }
        output::result(context.json(), &entry, audit::line)?;
        if let Some(id) = args.payment {
            let payment = caller.client.payment(id, None).await?;
            if payment.state.is_final() {
                return end(context, &payment);
            }
        }
    }
}

fn end(context: &Context, payment: &Payment) -> eyre::Result<()> {
    output::result(context.json(), payment, to_human)?;
    if payment.state == PaymentState::Failed {
        bail!("the payment failed, and its amount is back in the budget");
    }
    Ok(())
}
