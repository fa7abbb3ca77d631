//! `stipend refund`: a payee gives money back to a mandate.

use alloy_primitives::{Address, B256};
use eyre::ensure;
use serde::Serialize;
use stipend_client::chain::Escrow;
use stipend_core::{Amount, MandateId, Terms, address};

use crate::{context::Context, keys::DevAccount, mandate_source, output, prompt};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The terms and what is left of the mandate are read from the chain: a payee needs nobody's leave.

Examples:
  stipend refund --mandate mand_… --amount 4.20
  stipend refund --mandate mand_… --amount 4.20 --escrow 0x… --from-block 123  # without any relayer")]
pub(crate) struct Args {
    /// The mandate that paid: the full id
    #[arg(long)]
    mandate: MandateId,
    /// How much, in USDC
    #[arg(long, value_name = "USDC")]
    amount: Amount,
    /// Says what is paid back, as the payment's ref said what was paid: 32 bytes in hex
    #[arg(long = "ref", value_name = "HASH")]
    reference: Option<B256>,
    /// Skip the confirmation prompt
    #[arg(long)]
    yes: bool,
    /// Do without a relayer: this escrow
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    escrow: Option<Address>,
    /// Look for the opening no further back than this block
    #[arg(long, value_name = "BLOCK", default_value_t = 0, hide_default_value = true)]
    from_block: u64,
}

/// What a refund did, for programs.
#[derive(Serialize)]
struct RefundedView {
    mandate: MandateId,
    amount: Amount,
    /// What of it is the mandate's budget again; the rest went to the operator.
    restored: Amount,
    tx_hash: B256,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    let key = context.globals.keys.key(DevAccount::Payee)?;
    let escrow = match args.escrow {
        Some(address) => Escrow::at(context.chain().await?, address).await?,
        None => context.relayers_escrow().await?,
    };
    let payer = key.on(escrow.chain().id())?;
    let terms = mandate_source::terms_on_chain(context, &escrow, args.mandate, args.from_block).await?;
    ensure!(
        escrow.domain().mandate_id(&terms)? == args.mandate,
        "these terms are not those of {}: do not trust this node",
        args.mandate
    );
    let balance = escrow.balance_of(payer.address()).await?;
    ensure!(
        !escrow.chain().is_waiting(payer.address()).await?,
        "a transaction of {} waits for a block, and may be this very refund: run this again when it is mined",
        payer.address()
    );
    ensure!(balance >= args.amount, "{} holds {balance} USDC, less than {}", payer.address(), args.amount);
    let restored = restored(&escrow, args.mandate, &terms, args.amount).await?;
    let what = format!(
        "{} of {}\ngets {} USDC back from {}: {}.",
        args.mandate,
        terms.agent,
        args.amount,
        payer.address(),
        where_to(args.amount, restored, terms.operator)
    );
    prompt::confirm(context, args.yes, &what, "Refund?")?;

    context.if_interrupted("the refund may still be mined: wait for the account's transaction before you repeat it");
    let progress = context.progress("allowing the escrow to take exactly the refund");
    escrow.allow(&payer, args.amount).await?;
    progress.say("waiting for the transaction");
    let refunded = escrow.refund(&payer, &terms, args.amount, args.reference.unwrap_or_default()).await?;
    drop(progress);
    let view = RefundedView {
        mandate: args.mandate,
        amount: args.amount,
        restored: refunded.restored,
        tx_hash: refunded.tx_hash,
    };
    output::result(context.json(), &view, |view| {
        format!(
            "refunded {} USDC to {}\n{} USDC of it can be spent again\ntransaction {}",
            view.amount, view.mandate, view.restored, view.tx_hash
        )
    })
}

/// Where a refund goes, of which so much is the budget again.
fn where_to(amount: Amount, restored: Amount, operator: Address) -> String {
    match restored {
        Amount::ZERO => format!("it goes to the operator {operator}"),
        restored if restored == amount => "all of it can be spent again".into(),
        restored => format!("{restored} USDC can be spent again, the rest goes to the operator {operator}"),
    }
}

/// What of a refund would be the budget again now.
async fn restored(escrow: &Escrow, id: MandateId, terms: &Terms, amount: Amount) -> eyre::Result<Amount> {
    let state = escrow.mandate_of(id).await?;
    if !terms.refunds_restore_budget || state.ended || escrow.chain().head().await?.time >= terms.expiry {
        return Ok(Amount::ZERO);
    }
    let room = terms.cap.checked_sub(state.remaining).and_then(|room| room.checked_sub(state.held));
    Ok(amount.min(room.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refund_says_where_it_goes() {
        let to = |restored: &str| where_to("5".parse().unwrap(), restored.parse().unwrap(), Address::repeat_byte(7));
        assert_eq!(to("5"), "all of it can be spent again");
        let operator = Address::repeat_byte(7);
        assert_eq!(to("0"), format!("it goes to the operator {operator}"));
        assert_eq!(to("2"), format!("2.00 USDC can be spent again, the rest goes to the operator {operator}"));
    }
}
