//! `stipend deploy`: puts an escrow on a chain, and on anvil's a token as well.

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, Bytes};
use alloy_sol_types::{SolConstructor, SolValue};
use eyre::{bail, ensure};
use serde::Serialize;
use stipend_bindings::abi::{MandateEscrow, MockUSDC, MockUSDCProxy};
use stipend_client::chain::{Chain, Escrow};
use stipend_core::{DEV_CHAIN_ID, address};

use crate::{context::Context, keys::DevAccount, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stipend deploy --token 0x… --submitter 0x… --keystore guardian.json --password-file guardian.pass
  stipend deploy  # on anvil: with a token of its own")]
pub(crate) struct Args {
    /// The chain's USDC. Without it, on chain id 31337 only, a mock USDC is deployed as well
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    token: Option<Address>,
    /// Allow this account to send transactions for the guardian, which is the account that deploys;
    /// can be repeated
    #[arg(long = "submitter", value_name = "ADDRESS", value_parser = address::parse)]
    submitters: Vec<Address>,
}

/// What was deployed.
#[derive(Debug, Serialize)]
struct Deployment {
    chain_id: u64,
    #[serde(with = "address::strict")]
    escrow: Address,
    #[serde(with = "address::strict")]
    token: Address,
    #[serde(with = "address::strict")]
    guardian: Address,
    #[serde(with = "address::list")]
    submitters: Option<Vec<Address>>,
    /// A relayer need not look at blocks before this one.
    start_block: u64,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    let key = context.globals.keys.key(DevAccount::Guardian)?;
    let chain = context.chain().await?;
    let signer = key.on(chain.id())?;
    let start_block = chain.head().await?.number;
    let progress = context.progress("deploying");
    let token = match args.token {
        Some(token) => token,
        None if chain.id() == DEV_CHAIN_ID => mock_token(&chain, &signer).await?,
        None => bail!("--token is needed: a mock of USDC is deployed on chain id {DEV_CHAIN_ID} only"),
    };
    ensure!(chain.has_code(token).await?, "there is no contract at {token}: check --token and --rpc-url");
    let escrow = escrow(&chain, &signer, token).await?;
    for submitter in &args.submitters {
        progress.say(format!("allowing {submitter}"));
        escrow.set_submitter(&signer, *submitter, true).await?;
    }
    drop(progress);
    let deployment = Deployment {
        chain_id: chain.id(),
        escrow: escrow.domain().escrow,
        token,
        guardian: signer.address(),
        submitters: Some(args.submitters),
        start_block,
    };
    output::result(context.json(), &deployment, |deployment| {
        let mut rows = vec![
            ("chain id", deployment.chain_id.to_string()),
            ("escrow", deployment.escrow.to_string()),
            ("token", deployment.token.to_string()),
            ("guardian", deployment.guardian.to_string()),
        ];
        rows.extend(deployment.submitters.iter().flatten().map(|submitter| ("submitter", submitter.to_string())));
        rows.push(("start block", deployment.start_block.to_string()));
        output::key_value_table(rows)
    })
}

/// Deploys an escrow for `token`.
pub(crate) async fn escrow(chain: &Chain, signer: &PrivateKeySigner, token: Address) -> eyre::Result<Escrow> {
    let arguments = MandateEscrow::constructorCall { token_: token }.abi_encode();
    let address = chain.create(signer, code(&MandateEscrow::BYTECODE, &arguments)).await?;
    Ok(Escrow::at(chain.clone(), address).await?)
}

/// Deploys the mock USDC behind a proxy, as Circle deploys USDC.
pub(crate) async fn mock_token(chain: &Chain, signer: &PrivateKeySigner) -> eyre::Result<Address> {
    let implementation = chain.create(signer, MockUSDC::BYTECODE.clone()).await?;
    Ok(chain.create(signer, code(&MockUSDCProxy::BYTECODE, &implementation.abi_encode())).await?)
}

fn code(creation: &Bytes, arguments: &[u8]) -> Bytes {
    [creation, arguments].concat().into()
}
