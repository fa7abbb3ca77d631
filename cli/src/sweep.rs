//! `stipend mandate sweep`: returns what is left of a mandate that has ended.

use alloy_primitives::Address;
use eyre::ensure;
use stipend_client::now;
use stipend_core::{MandateId, address};

use crate::{
    context::Context,
    mandate_source::{Source, must_be_operator, resolve_mandate},
    output, prompt,
    revoke::{EndedView, MAY_END},
};

/// Seconds until the operator's call that names another recipient must be mined.
const SWEEP_LIFETIME: u64 = 3_600;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The mandate: the full id
    mandate: MandateId,
    /// Send the funds to this address instead of the operator (operator only)
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    to: Option<Address>,
    /// Skip the confirmation prompt
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    source: Source,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    let (escrow, terms, signer) = resolve_mandate(context, args.mandate, &args.source).await?;
    let to = args.to.unwrap_or(terms.operator);
    if args.to.is_some() {
        must_be_operator(&terms, signer.address())?;
    }
    let state = escrow.mandate_of(args.mandate).await?;
    let time = escrow.chain().head().await?.time;
    ensure!(
        state.ended || time >= terms.expiry,
        "{} has not ended: it does at {}, or when it is revoked",
        args.mandate,
        output::time(terms.expiry)
    );
    let what = format!(
        "{}\nWhat is left and not held, {} USDC, goes to {to}; the {} USDC in holds with it, once captures are over.",
        args.mandate, state.remaining, state.held
    );
    prompt::confirm(context, args.yes, &what, "Sweep?")?;
    context.if_interrupted(MAY_END);
    let progress = context.progress("waiting for the transaction");
    let ended = match args.to {
        None => escrow.sweep(&signer, &terms).await?,
        Some(to) => {
            let deadline = time.max(now()).saturating_add(SWEEP_LIFETIME);
            escrow.sweep_to(&signer, &terms, to, deadline).await?
        }
    };
    drop(progress);
    let view = EndedView::new(args.mandate, ended);
    output::result(context.json(), &view, |view| view.to_human("swept", to))
}
