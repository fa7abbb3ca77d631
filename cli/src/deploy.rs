//! `stipend deploy`: puts an escrow on a chain, and on anvil's a token as well.

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolValue;
use eyre::{OptionExt, bail, ensure};
use serde::Serialize;
use stipend_bindings::{
    abi::{MockUSDC, MockUSDCProxy},
    deployment,
};
use stipend_client::chain::{Chain, Escrow};
use stipend_core::{DEV_CHAIN_ID, address};

use crate::{context::Context, keys::DevAccount, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The escrow of a token has the same address whoever deploys it: its code, the token and the salt determine it. Run again,
the command does what is left to do, and prints the same.

Examples:
  stipend deploy --token 0x… --dry-run  # the address and the gas, without a key
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
    /// Another salt, 32 bytes in hex, gives the token another escrow
    #[arg(long, value_name = "HEX", default_value_t = deployment::SALT)]
    salt: B256,
    /// Print where the escrow would be and what its deployment would cost; no key is needed, nothing is sent
    #[arg(long, requires = "token")]
    dry_run: bool,
}

/// What is deployed.
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
    /// A relayer need not look at blocks before this one. Absent where the node does not know it.
    start_block: Option<u64>,
}

/// What would be deployed.
#[derive(Debug, Serialize)]
struct Prediction {
    chain_id: u64,
    #[serde(with = "address::strict")]
    escrow: Address,
    #[serde(with = "address::strict")]
    token: Address,
    salt: B256,
    deployed: bool,
    /// Estimated; 0 if it is deployed.
    gas: u64,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    if args.dry_run {
        return predict(context, &args).await;
    }
    let key = context.globals.keys.key(DevAccount::Guardian)?;
    let chain = context.chain().await?;
    let signer = key.on(chain.id())?;
    let progress = context.progress("waiting for the account's earlier transactions");
    // One of an interrupted run may do what would be done again here.
    chain.settled(signer.address()).await?;
    progress.say("deploying");
    let token = match args.token {
        Some(token) => token,
        None if chain.id() == DEV_CHAIN_ID => mock_token(&chain, &signer).await?,
        None => bail!("--token is needed: a mock of USDC is deployed on chain id {DEV_CHAIN_ID} only"),
    };
    ensure_token(&chain, token).await?;
    context.if_interrupted("some of it may be done: the same command does the rest");
    let (escrow, receipt) = Escrow::deploy(&chain, &signer, token, args.salt).await?;
    let address = escrow.domain().escrow;
    let mut notes = vec![match &receipt {
        Some(receipt) => {
            format!("the escrow was created by transaction {}, for {} gas", receipt.transaction_hash, receipt.gas_used)
        }
        None => format!("the escrow {address} is deployed already, and is what this program was built with"),
    }];
    for submitter in &args.submitters {
        if escrow.is_submitter(signer.address(), *submitter).await? {
            notes.push(format!("{submitter} is allowed already"));
            continue;
        }
        progress.say(format!("allowing {submitter}"));
        let transaction = escrow.set_submitter(&signer, *submitter, true).await?;
        notes.push(format!("{submitter} was allowed by transaction {transaction}"));
    }
    progress.say("looking for the block of the deployment");
    let start_block = match receipt.and_then(|receipt| receipt.block_number) {
        Some(block) => Some(block),
        None => chain.deployed_in(address).await?,
    };
    drop(progress);
    notes.iter().for_each(|note| output::note(note));
    let deployment = Deployment {
        chain_id: chain.id(),
        escrow: address,
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
        let unknown = || "unknown to this node: look up in an explorer when the escrow was created".into();
        rows.push(("start block", deployment.start_block.map_or_else(unknown, |block| block.to_string())));
        output::key_value_table(rows)
    })
}

async fn predict(context: &Context, args: &Args) -> eyre::Result<()> {
    let chain = context.chain().await?;
    let token = args.token.ok_or_eyre("--token is needed")?;
    ensure_token(&chain, token).await?;
    let deployed = Escrow::deployed(&chain, token, args.salt).await?.is_some();
    let prediction = Prediction {
        chain_id: chain.id(),
        escrow: deployment::escrow_address(token, args.salt),
        token,
        salt: args.salt,
        deployed,
        gas: if deployed { 0 } else { Escrow::deployment_gas(&chain, token, args.salt).await? },
    };
    output::result(context.json(), &prediction, |prediction| {
        output::key_value_table([
            ("chain id", prediction.chain_id.to_string()),
            ("escrow", prediction.escrow.to_string()),
            ("token", prediction.token.to_string()),
            ("salt", prediction.salt.to_string()),
            ("deployed", if prediction.deployed { "yes" } else { "no" }.into()),
            ("gas", prediction.gas.to_string()),
        ])
    })
}

async fn ensure_token(chain: &Chain, token: Address) -> eyre::Result<()> {
    ensure!(chain.has_code(token).await?, "there is no contract at {token}: check --token and --rpc-url");
    Ok(())
}

/// Deploys the mock USDC behind a proxy, as Circle deploys USDC.
pub(crate) async fn mock_token(chain: &Chain, signer: &PrivateKeySigner) -> eyre::Result<Address> {
    let implementation = chain.create(signer, MockUSDC::BYTECODE.clone()).await?;
    let code: Bytes = [&MockUSDCProxy::BYTECODE[..], &implementation.abi_encode()].concat().into();
    Ok(chain.create(signer, code).await?)
}
