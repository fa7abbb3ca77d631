//! `stipend mandate revoke`: ends a mandate by a transaction, or by a signed message that the relayer
//! or anyone else sends.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes};
use eyre::{OptionExt, WrapErr, bail, ensure};
use serde::{Deserialize, Serialize};
use stipend_client::chain::{Ended, Escrow};
use stipend_core::{Amount, MandateId, Terms, address, policy::MandateState};

use crate::{
    context::Context,
    keys::DevAccount,
    mandate_source::{Source, must_be_operator, resolve_mandate},
    output, prompt,
};

/// How long a relayed revocation is waited for.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(120);

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What is so once the end of a mandate was asked for.
pub(crate) const MAY_END: &str = "the mandate may still end: `stipend mandate list` shows it; asking again is safe";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The mandate: the full id
    #[arg(required_unless_present = "message")]
    mandate: Option<MandateId>,
    /// Sign one message instead of sending a transaction: the relayer sends it, and you need no ETH
    #[arg(long, conflicts_with = "escrow")]
    gasless: bool,
    /// Sign the message and print it, for anyone to send; send nothing
    #[arg(long, conflicts_with = "gasless")]
    print: bool,
    /// Send a message that an operator printed, from this file (-: from stdin), at your own cost
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mandate", "gasless", "print", "escrow"])]
    message: Option<PathBuf>,
    /// Skip the confirmation prompt
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    source: Source,
}

/// What an operator signed so that anyone can end a mandate: all that it takes to send it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    chain_id: u64,
    #[serde(with = "address::strict")]
    escrow: Address,
    terms: Terms,
    signature: Bytes,
}

/// How a mandate ended, for programs.
#[derive(Serialize)]
pub(crate) struct EndedView {
    mandate: MandateId,
    tx_hash: B256,
    /// Absent: the relayer says it when the transaction is final.
    #[serde(skip_serializing_if = "Option::is_none")]
    returned: Option<Amount>,
}

impl EndedView {
    pub(crate) const fn new(mandate: MandateId, ended: Ended) -> Self {
        Self { mandate, tx_hash: ended.tx_hash, returned: Some(ended.returned) }
    }

    pub(crate) fn to_human(&self, done: &str, to: Address) -> String {
        let returned = self.returned.map(|amount| format!("{amount} USDC went back to {to}\n")).unwrap_or_default();
        format!("{done} {}\n{returned}transaction {}", self.mandate, self.tx_hash)
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    if let Some(file) = &args.message {
        return send_message(context, file, args.yes).await;
    }
    let id = args.mandate.ok_or_eyre("missing argument: <MANDATE>")?;
    if args.gasless {
        return revoke_gasless(context, id, args.yes).await;
    }
    let (escrow, terms, signer) = resolve_mandate(context, id, &args.source).await?;
    if args.print {
        must_be_operator(&terms, signer.address())?;
        let domain = escrow.domain();
        prompt::confirm(context, args.yes, &format!("{id}\nends, for good, when anyone sends this."), "Sign?")?;
        let signature = escrow.sign_revocation(&signer, id)?;
        let message = Message { chain_id: domain.chain_id, escrow: domain.escrow, terms, signature };
        return output::line(&serde_json::to_string(&message)?);
    }
    ensure!(
        [terms.operator, terms.agent].contains(&signer.address()),
        "only its operator {} and its agent {} can revoke it; this key is {}",
        terms.operator,
        terms.agent,
        signer.address()
    );
    confirm_end(context, &escrow, id, &terms, args.yes).await?;
    context.if_interrupted(MAY_END);
    let progress = context.progress("waiting for the transaction");
    let view = EndedView::new(id, escrow.revoke(&signer, &terms).await?);
    drop(progress);
    output::result(context.json(), &view, |view| view.to_human("revoked", terms.operator))
}

async fn confirm_end(context: &Context, escrow: &Escrow, id: MandateId, terms: &Terms, yes: bool) -> eyre::Result<()> {
    let state = escrow.mandate_of(id).await?;
    if state.ended {
        let left = state.remaining;
        ensure!(left > Amount::ZERO, "{id} has ended already, and nothing is left of it");
        bail!("{id} has ended already; `stipend mandate sweep {id}` returns the {left} USDC that are left");
    }
    let what = format!(
        "{id}\nends now, for good. {} USDC return to the operator {}; {} USDC in holds return when those end.",
        state.remaining, terms.operator, state.held
    );
    prompt::confirm(context, yes, &what, "Revoke?")
}

/// By one message that the relayer sends. The node is not needed: what is signed is this mandate's
/// end and nothing else, wherever it is sent.
async fn revoke_gasless(context: &Context, id: MandateId, yes: bool) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::GaslessOperator).await?;
    let mandate = caller.client.mandate(id).await?;
    must_be_operator(&mandate.terms, caller.address())?;
    ensure!(mandate.state != MandateState::Ended, "{id} has ended already");
    let what = if mandate.opened_tx.is_none() {
        format!("{id}\nis not open yet, and never opens once the relayer's transaction is in a block.")
    } else {
        format!(
            "{id}\nends, for good, when the relayer's transaction is in a block. {} USDC that are available return to the operator {}, and what is held when that ends.",
            mandate.available, mandate.terms.operator
        )
    };
    prompt::confirm(context, yes, &what, "Revoke, by signing one message?")?;
    let signature = caller.client.sign_revocation(id).await?;
    context.if_interrupted(MAY_END);
    let taken = caller.client.revoke_mandate(id, signature).await;
    if taken.is_err() && !context.json() {
        output::note(&format!("`stipend mandate revoke {id} --print` makes the same message for anyone to send"));
    }
    let mut mandate = taken?.object;
    let progress = context.progress("the relayer sends it");
    let start = Instant::now();
    while mandate.ended_tx.is_none() {
        if start.elapsed() >= REVOCATION_TIMEOUT {
            bail!(
                "the relayer has taken it, and no block has it after {} s: `stipend mandate revoke {id} --print` makes the same message for anyone to send",
                REVOCATION_TIMEOUT.as_secs()
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        mandate = caller.client.mandate(id).await?;
    }
    drop(progress);
    let tx_hash = mandate.ended_tx.ok_or_eyre("a mandate that ended in no transaction")?;
    let view = EndedView { mandate: id, tx_hash, returned: None };
    output::result(context.json(), &view, |view| view.to_human("revoked", mandate.terms.operator))
}

/// Sends what an operator printed, from any account.
async fn send_message(context: &Context, file: &Path, yes: bool) -> eyre::Result<()> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        text
    } else {
        fs::read_to_string(file).wrap_err_with(|| format!("can't read {}", file.display()))?
    };
    let message: Message = serde_json::from_str(&text)
        .wrap_err("not a valid revocation message (expected the output of `stipend mandate revoke --print`)")?;
    let key = context.globals.keys.key(DevAccount::Agent)?;
    let chain = context.chain().await?;
    ensure!(
        chain.id() == message.chain_id,
        "the message is for chain id {}, the node is on {}: set --rpc-url",
        message.chain_id,
        chain.id()
    );
    let signer = key.on(chain.id())?;
    let escrow = Escrow::at(chain, message.escrow).await?;
    let id = escrow.domain().mandate_id(&message.terms)?;
    confirm_end(context, &escrow, id, &message.terms, yes).await?;
    context.if_interrupted(MAY_END);
    let progress = context.progress("waiting for the transaction");
    let ended = escrow.revoke_with_signature(&signer, &message.terms, message.signature).await?;
    drop(progress);
    let view = EndedView::new(id, ended);
    output::result(context.json(), &view, |view| view.to_human("revoked", message.terms.operator))
}
