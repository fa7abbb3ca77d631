//! `stipend mandate`: ask, approve, list, show.

use alloy_primitives::Address;
use clap::Subcommand;
use eyre::ensure;
use stipend_bindings::Domain;
use stipend_client::PageQuery;
use stipend_core::{
    Amount, HumanDuration, RequestId, address,
    api::{Mandate, MandateRequest, NewMandateRequest, Page, RequestState},
    card::Mcc,
    policy::MandateState,
};

use crate::{
    approve,
    context::Context,
    keys::DevAccount,
    output, revoke, roll, sweep,
    terms::{self, ApprovalSummary},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask for a mandate, as an agent
    #[command(after_help = "\
Examples:
  stipend mandate request --amount 100.00 --intent \"Automate marketing ops spend\" --duration 30d
  stipend mandate request --amount 50 --intent \"Cloud bills\" --duration 12h --per-payment 25 --payee 0x…
  stipend mandate request --amount 600 --intent \"Ads\" --duration 30d --window 1d --window-cap 20
  stipend mandate request --amount 50 --intent \"Software\" --duration 7d --mcc 5734 --mcc 7372")]
    Request(Request),
    /// Approve a request, as the operator: shows the terms, asks for confirmation, and funds the mandate
    #[command(after_help = "\
Examples:
  stipend mandate approve req_…  # two transactions of your own
  stipend mandate approve req_… --permit  # one transaction of your own
  stipend mandate approve req_… --gasless  # one message, no ETH
  stipend mandate approve req_… --replace mand_…  # with what is left of another mandate of yours
  stipend mandate approve req_… --keystore operator.json --password-file operator.pass")]
    Approve(approve::Args),
    /// List your mandates, newest first
    #[command(after_help = "\
Examples:
  stipend mandate list
  stipend mandate list --json | jq -r '.data[].id'")]
    List(List),
    /// Show a mandate, or a request
    #[command(after_help = "\
Examples:
  stipend mandate show mand_1f2e3d  # a beginning that is unique will do
  stipend mandate show req_…")]
    Show {
        /// The mandate's id, or a unique prefix of it with at least 6 hex digits; or a request's id
        #[arg(value_name = "MANDATE|REQUEST")]
        id: String,
    },
    /// End a mandate, as its operator (or its agent): what is left returns to the operator
    #[command(after_help = "\
Examples:
  stipend mandate revoke mand_…
  stipend mandate revoke mand_… --gasless  # one message, no ETH
  stipend mandate revoke mand_… --escrow 0x… --from-block 123  # without any relayer
  stipend mandate revoke mand_… --print > end.json  # signed now, sent by anyone, whenever
  stipend mandate revoke --message end.json")]
    Revoke(revoke::Args),
    /// Return what is left of an ended mandate to its operator, from any account
    #[command(after_help = "\
Examples:
  stipend mandate sweep mand_…
  stipend mandate sweep mand_… --to 0x…  # as its operator, to another account
  stipend mandate sweep mand_… --escrow 0x…  # without any relayer")]
    Sweep(sweep::Args),
    /// Replace a mandate by one that lasts longer, as its operator: what is left is carried over
    #[command(after_help = "\
Examples:
  stipend mandate extend mand_… --duration 30d  # 30 days from now
  stipend mandate extend mand_… --duration 12h --yes --json | jq -r .mandate")]
    Extend(roll::Extend),
    /// Replace a mandate by one of another agent, as its operator: what is left is carried over
    #[command(after_help = "\
Examples:
  stipend mandate rotate mand_… --agent 0x…  # the old agent's key signs nothing more

To move to another relayer, have the agent ask for a mandate there, and approve it with --replace.")]
    Rotate(roll::Rotate),
    /// Replace a mandate by one with another budget, as its operator: the difference is pulled or returned
    #[command(after_help = "\
Examples:
  stipend mandate resize mand_… --cap 50  # 50 USDC can be spent from now on
  stipend mandate resize mand_… --cap 50 --escrow 0x…  # without any relayer")]
    Resize(roll::Resize),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// How much in total, in USDC
    #[arg(long, value_name = "USDC")]
    amount: Amount,
    /// The purpose: shown to the operator, not enforced
    #[arg(long, value_name = "TEXT")]
    intent: String,
    /// How long from the approval on: 30d, 12h, 45m or 90s
    #[arg(long)]
    duration: HumanDuration,
    /// The largest single payment [default: no limit below the total]
    #[arg(long, value_name = "USDC")]
    per_payment: Option<Amount>,
    /// Length of the rolling window in which at most `--window-cap` is paid [default: no window]
    #[arg(long, value_name = "DURATION", requires = "window_cap")]
    window: Option<HumanDuration>,
    /// The most that is paid within any `--window`
    #[arg(long, value_name = "USDC", requires = "window")]
    window_cap: Option<Amount>,
    /// Whether what a payee pays back can be spent again (`true`, the default) or goes to the operator (`=false`)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    refunds_restore_budget: Option<bool>,
    /// A payee that may be paid; can be repeated [default: anyone]
    #[arg(long = "payee", value_name = "ADDRESS", value_parser = address::parse)]
    payees: Vec<Address>,
    /// At which merchants cards may be used, by their category (ISO 18245); can be repeated; without
    /// it: at any
    #[arg(long = "mcc", value_name = "MCC")]
    mccs: Vec<Mcc>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Number of results (1 to 100)
    #[arg(long)]
    limit: Option<u32>,
    /// Go on behind a list: its `next_cursor`
    #[arg(long)]
    cursor: Option<String>,
}

pub(crate) async fn run(context: &Context, command: Command) -> eyre::Result<()> {
    match command {
        Command::Request(args) => request(context, args).await,
        Command::Approve(args) => approve::run(context, args).await,
        Command::List(args) => list(context, args).await,
        Command::Show { id } => show_one(context, &id).await,
        Command::Revoke(args) => revoke::run(context, args).await,
        Command::Sweep(args) => sweep::run(context, args).await,
        Command::Extend(args) => roll::extend(context, args).await,
        Command::Rotate(args) => roll::rotate(context, args).await,
        Command::Resize(args) => roll::resize(context, args).await,
    }
}

async fn request(context: &Context, args: Request) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let body = NewMandateRequest {
        amount: args.amount,
        intent: args.intent,
        duration: args.duration,
        per_payment: args.per_payment,
        window: args.window,
        window_cap: args.window_cap,
        refunds_restore_budget: args.refunds_restore_budget,
        payees: (!args.payees.is_empty()).then_some(args.payees),
        mccs: (!args.mccs.is_empty()).then_some(args.mccs),
        metadata: Default::default(),
    };
    let request = caller.client.request_mandate(&body).await?.object;
    output::result(context.json(), &request, |request| {
        request_in_words(request) + &format!("\nThe operator approves it by: stipend mandate approve {}\n", request.id)
    })
}

async fn list(context: &Context, args: List) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let page = caller.client.mandates(&PageQuery { cursor: args.cursor, limit: args.limit }).await?;
    output::result(context.json(), &page, |page| list_in_words(page, caller.address()))
}

fn list_in_words(page: &Page<Mandate>, caller: Address) -> String {
    if page.data.is_empty() {
        return format!("no mandates of {caller} here");
    }
    let mut table = output::table(&["mandate", "state", "cap", "available", "until", "purpose"]);
    for mandate in &page.data {
        let purpose = mandate.intent.as_ref().map(|intent| output::sanitize(&intent.purpose)).unwrap_or_default();
        table.add_row([
            output::short(mandate.id),
            mandate.state.name().into(),
            mandate.terms.cap.to_string(),
            mandate.available.to_string(),
            output::time(mandate.terms.expiry),
            purpose,
        ]);
    }
    let more = page.next_cursor.as_ref().map(|cursor| format!("more: --cursor {cursor}\n")).unwrap_or_default();
    output::fitted(table, &["cap", "until"]) + &more
}

async fn show_one(context: &Context, id: &str) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    if id.starts_with(RequestId::PREFIX) {
        let request = caller.client.mandate_request(id.parse()?).await?;
        return output::result(context.json(), &request, request_in_words);
    }
    let mandate = caller.find(id).await?;
    let domain = Domain { chain_id: caller.info.chain_id, escrow: caller.info.escrow };
    // Also for programs: what is shown is what the id stands for, or nothing is shown.
    let text = to_human(&mandate, domain)?;
    output::result(context.json(), &mandate, |_| text)
}

/// A mandate with its terms, once they are seen to be those of its id.
pub(crate) fn to_human(mandate: &Mandate, domain: Domain) -> eyre::Result<String> {
    ensure!(
        domain.mandate_id(&mandate.terms)? == mandate.id,
        "the relayer shows terms that are not those of {}: do not trust it",
        mandate.id
    );
    let mut rows = match &mandate.intent {
        Some(intent) => ApprovalSummary::new(&mandate.terms, intent, domain)?.rows(usize::MAX),
        None => vec![("mandate".into(), mandate.id.to_string()), ("intent".into(), "not known to this relayer".into())],
    };
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("", String::new());
    let ending = if mandate.revoking { ", its end is on the way" } else { "" };
    let opening = match (mandate.state, mandate.opening_until, mandate.opened_tx) {
        (MandateState::Opening, Some(until), _) => format!(", by its operator's message until {}", output::time(until)),
        (MandateState::Opening, None, None) => ", and the relayer has nothing that opens it".into(),
        (MandateState::Ended, _, None) => ", before it opened".into(),
        _ => String::new(),
    };
    row("state", format!("{}{opening}{ending}", mandate.state.name()));
    row("available", mandate.available.to_string());
    row("reserved", mandate.reserved.to_string());
    row("held", mandate.held.to_string());
    row("paid", mandate.paid.to_string());
    row("returned", mandate.returned.to_string());
    if !mandate.carried.is_zero() {
        row("carried", format!("{} to the mandate that replaces it", mandate.carried));
    }
    if !mandate.refunded.is_zero() {
        row("refunded", format!("{}, of which {} can be spent again", mandate.refunded, mandate.restored));
    }
    for (name, tx) in [("opened by", mandate.opened_tx), ("ended by", mandate.ended_tx)] {
        if let Some(tx) = tx {
            row(name, tx.to_string());
        }
    }
    let purpose = mandate.intent.as_ref().map(terms::purpose).unwrap_or_default();
    Ok(output::key_value_table(rows) + &purpose)
}

fn request_in_words(request: &MandateRequest) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("request", request.id.to_string());
    row(
        "state",
        match (request.state, request.mandate) {
            (RequestState::Pending, _) => "waits for an operator".into(),
            (RequestState::Approved, Some(mandate)) => format!("approved: {mandate}"),
            (RequestState::Approved, None) => "approved".into(),
        },
    );
    row("in total", format!("{} USDC", request.amount));
    if let Some(maximum) = request.per_payment {
        row("per payment", format!("at most {maximum} USDC"));
    }
    if let (Some(window), Some(cap)) = (request.window, request.window_cap) {
        row("at most", terms::within(cap, window));
    }
    match request.intent.policy.payees.as_deref() {
        None => row("may be paid", "anyone".into()),
        Some(payees) => {
            for (index, payee) in payees.iter().enumerate() {
                row(if index == 0 { "may be paid" } else { "" }, payee.to_string());
            }
        }
    }
    row("cards may be used", terms::cards(&request.intent.policy));
    row("refunds", terms::refunds(request.refunds_restore_budget).into());
    row("duration", request.duration.to_string());
    row("agent", request.agent.to_string());
    row("asked", output::time(request.created_at));
    output::key_value_table(rows) + &terms::purpose(&request.intent)
}
