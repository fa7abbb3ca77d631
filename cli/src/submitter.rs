//! `stipend submitter`: whom the guardian lets send transactions.

use alloy_primitives::{Address, B256};
use serde::Serialize;
use stipend_client::chain::Escrow;
use stipend_core::address;

use crate::{context::Context, keys::DevAccount, output, prompt};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Let an account send payments, holds, captures and releases of this guardian's mandates
    #[command(after_help = "\
The key is the guardian's. Then give the account ETH, and `stipend serve` its key.

Examples:
  stipend submitter allow 0x… --keystore guardian.json --password-file guardian.pass
  stipend submitter allow 0x… --escrow 0x…  # without any relayer")]
    Allow(Args),
    /// Remove a submitter: what it sends from the next block on is refused
    #[command(after_help = "\
The key is the guardian's. Do this at once if a submitter's key may be in other hands.

Examples:
  stipend submitter remove 0x… --keystore guardian.json --password-file guardian.pass
  stipend submitter remove 0x… --escrow 0x…  # without any relayer")]
    Remove(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whose account it is
    #[arg(value_name = "ADDRESS", value_parser = address::parse)]
    submitter: Address,
    /// Do without a relayer: at this escrow
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    escrow: Option<Address>,
    /// Skip the confirmation prompt
    #[arg(long)]
    yes: bool,
}

/// What the escrow knows now, for programs.
#[derive(Serialize)]
struct SubmitterView {
    #[serde(with = "address::strict")]
    guardian: Address,
    #[serde(with = "address::strict")]
    submitter: Address,
    allowed: bool,
    /// Absent: it was so before.
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_hash: Option<B256>,
}

pub(crate) async fn run(context: &Context, command: Command) -> eyre::Result<()> {
    let (args, allowed) = match command {
        Command::Allow(args) => (args, true),
        Command::Remove(args) => (args, false),
    };
    let key = context.globals.keys.key(DevAccount::Guardian)?;
    let (escrow, relayers) = match args.escrow {
        Some(address) => (Escrow::at(context.chain().await?, address).await?, None),
        None => {
            let info = context.info().await?;
            (context.escrow(&info).await?, Some(info.guardian))
        }
    };
    let guardian = key.on(escrow.chain().id())?;
    if let Some(relayers) = relayers.filter(|relayers| *relayers != guardian.address()) {
        output::note(&format!(
            "this key is {}, and the relayer's guardian is {relayers}: nothing changes for that relayer",
            guardian.address()
        ));
    }
    let mut view = SubmitterView { guardian: guardian.address(), submitter: args.submitter, allowed, tx_hash: None };
    if escrow.is_submitter(view.guardian, view.submitter).await? != allowed {
        let may = if allowed { "may send" } else { "may no longer send" };
        let what = format!(
            "{} {may} what agents of mandates with the guardian {} have signed, at the escrow {}.",
            view.submitter,
            view.guardian,
            escrow.domain().escrow
        );
        prompt::confirm(context, args.yes, &what, if allowed { "Allow?" } else { "Remove?" })?;
        let progress = context.progress("waiting for the transaction");
        view.tx_hash = Some(escrow.set_submitter(&guardian, view.submitter, allowed).await?);
        drop(progress);
    }
    if !allowed && view.tx_hash.is_none() {
        output::note(&format!(
            "the guardian {} had not allowed it: if another guardian has, use that one's key",
            view.guardian
        ));
    }
    output::result(context.json(), &view, |view| {
        let is = if view.allowed { "is a submitter" } else { "is no submitter" };
        let how = view.tx_hash.map_or_else(|| "it was so before".into(), |tx| format!("transaction {tx}"));
        format!("{} {is} of the guardian {}\n{how}", view.submitter, view.guardian)
    })
}
