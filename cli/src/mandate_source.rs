//! Where a command takes a mandate's terms from: the relayer, or the chain alone.

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::Address;
use eyre::{ensure, eyre};
use stipend_client::chain::Escrow;
use stipend_core::{MandateId, Terms, address};

use crate::{
    context::{self, Context},
    keys::DevAccount,
};

/// Where terms are read from, if not from the relayer.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Source {
    /// Do without a relayer: read the terms from this escrow's events
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub(crate) escrow: Option<Address>,
    /// Look for the opening no further back than this block
    #[arg(long, value_name = "BLOCK", default_value_t = 0, hide_default_value = true)]
    pub(crate) from_block: u64,
}

/// A mandate's escrow and terms, and the caller's key: from the relayer, or from the chain alone.
pub(crate) async fn resolve_mandate(
    context: &Context,
    id: MandateId,
    source: &Source,
) -> eyre::Result<(Escrow, Terms, PrivateKeySigner)> {
    let (escrow, terms, signer) = match source.escrow {
        Some(address) => {
            let key = context.globals.keys.key(DevAccount::Operator)?;
            let chain = context.chain().await?;
            let signer = key.on(chain.id())?;
            let escrow = Escrow::at(chain, address).await?;
            let terms = terms_on_chain(context, &escrow, id, source.from_block).await?;
            (escrow, terms, signer)
        }
        None => {
            let told = async {
                let caller = context.caller(DevAccount::Operator).await?;
                let terms = caller.client.mandate(id).await?.terms;
                Ok::<_, eyre::Report>((caller, terms))
            };
            let (caller, terms) = told.await.map_err(context::without_relayer)?;
            (context.escrow(&caller.info).await?, terms, caller.signer)
        }
    };
    ensure!(
        escrow.domain().mandate_id(&terms)? == id,
        "these terms are not those of {id}: do not trust where they came from"
    );
    Ok((escrow, terms, signer))
}

/// A mandate's terms as the chain tells them, from the latest block back.
pub(crate) async fn terms_on_chain(
    context: &Context,
    escrow: &Escrow,
    id: MandateId,
    from_block: u64,
) -> eyre::Result<Terms> {
    let progress = context.progress("looking for the opening");
    let looking = |block: u64| progress.say(format!("looking for the opening in block {block} and above"));
    let terms = escrow.terms_of(id, from_block, looking).await?;
    terms.ok_or_else(|| eyre!("the escrow {} has opened no {id} since block {from_block}", escrow.domain().escrow))
}

/// Refuses a caller who is not the operator.
pub(crate) fn must_be_operator(terms: &Terms, caller: Address) -> eyre::Result<()> {
    ensure!(caller == terms.operator, "only its operator {} can sign this; this key is {caller}", terms.operator);
    Ok(())
}
