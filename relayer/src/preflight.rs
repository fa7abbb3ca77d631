//! Before anything is signed: is this the deployment that the settings describe, and is this its
//! ledger? An old or copied one is detected, not trusted.

use std::collections::BTreeSet;

use alloy::eips::BlockId;
use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall;
use stipend_bindings::{
    TokenDomain,
    abi::{MandateEscrow, MockUSDC},
    is_mandate_escrow,
};
use stipend_core::{Deployment, MandateId};

use crate::{
    chain::{
        error::FollowError,
        rpc::{EthCall, Rpc, RpcError},
    },
    ledger::{Ledger, LedgerError, blocks, mandates, transactions},
};

/// What to do about any of it.
const REPAIR: &str = "if this ledger is old, lost or a copy, stop whatever else uses the submitter's key and run `stipend ledger repair`";

/// What the settings say of a deployment.
#[derive(Clone, Debug)]
pub struct Identity {
    pub chain_id: u64,
    pub escrow: Address,
    pub guardian: Address,
    /// Of which one must be allowed.
    pub submitters: Vec<Address>,
}

/// Why this is not the deployment that the settings describe.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("the node {node} is on chain {found}, not on {expected}: check the RPC URL and the chain id")]
    OtherChain { node: String, found: u64, expected: u64 },
    #[error(
        "what stands at {0} is not the MandateEscrow that this program was built with: check the escrow's address and the chain"
    )]
    NotAnEscrow(Address),
    #[error(
        "the guardian {guardian} has not allowed the submitter {submitter}: send setSubmitter({submitter}, true) to the escrow from the guardian (`stipend submitter allow {submitter}` with its key)"
    )]
    NotSubmitter { guardian: Address, submitter: Address },
}

/// Asks the chain for the deployment: chain id, escrow, guardian and submitters, of which one must be
/// allowed.
pub async fn inspect(rpc: &Rpc, identity: &Identity) -> Result<Deployment, DeploymentError> {
    let Identity { chain_id, escrow, guardian, ref submitters } = *identity;
    if let Some((node, found)) = rpc.verify_chain_ids().await? {
        return Err(DeploymentError::OtherChain { node, found, expected: chain_id });
    }
    if !is_mandate_escrow(&rpc.code(escrow).await?) {
        return Err(DeploymentError::NotAnEscrow(escrow));
    }
    let call = |data: Vec<u8>| EthCall { from: None, to: escrow, data: data.into(), gas: None };
    let token = call(MandateEscrow::tokenCall {}.abi_encode());
    let token = rpc.call::<MandateEscrow::tokenCall>(token, BlockId::latest()).await?;
    let mut refused = None;
    for submitter in submitters.iter().copied() {
        let allowed = call(MandateEscrow::isSubmitterCall { guardian, submitter }.abi_encode());
        if rpc.call::<MandateEscrow::isSubmitterCall>(allowed, BlockId::latest()).await? {
            return Ok(Deployment { chain_id, escrow, token, guardian });
        }
        refused = Some(submitter);
    }
    Err(DeploymentError::NotSubmitter { guardian, submitter: refused.unwrap_or_default() })
}

/// The EIP-712 domain of the escrow's token by its name and version, if that is the one it says it has.
/// Without, nobody can approve by a message.
pub async fn token_domain(rpc: &Rpc, deployment: &Deployment) -> Result<Option<TokenDomain>, RpcError> {
    let token = deployment.token;
    let call = |data: Vec<u8>| EthCall { from: None, to: token, data: data.into(), gas: None };
    let (separator, name, version) = (
        call(MockUSDC::DOMAIN_SEPARATORCall {}.abi_encode()),
        call(MockUSDC::nameCall {}.abi_encode()),
        call(MockUSDC::versionCall {}.abi_encode()),
    );
    let separator = told(rpc.call::<MockUSDC::DOMAIN_SEPARATORCall>(separator, BlockId::latest()).await)?;
    let name = told(rpc.call::<MockUSDC::nameCall>(name, BlockId::latest()).await)?;
    let version = told(rpc.call::<MockUSDC::versionCall>(version, BlockId::latest()).await)?;
    Ok(TokenDomain::confirmed(name.as_deref(), version.as_deref(), separator, deployment.chain_id, token))
}

fn told<T>(answer: Result<T, RpcError>) -> Result<Option<T>, RpcError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(RpcError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why nothing may be signed with this ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// The chain has seen transactions of a submitter that are not in the ledger.
    #[error(
        "the submitter {submitter} has nonce {chain} on chain, the ledger expects {expected}: transactions that are not in the ledger used its key; {REPAIR}"
    )]
    Ahead {
        /// Whose.
        submitter: Address,
        chain: u64,
        /// In the ledger.
        expected: u64,
    },
    /// A nonce that the ledger still wants to use is used, by bytes that it does not have.
    #[error(
        "nonce {nonce} of the submitter {submitter} was used on chain by a transaction that is not in the ledger; {REPAIR}"
    )]
    Used {
        /// Whose.
        submitter: Address,
        /// Which.
        nonce: u64,
    },
    /// A guarded mandate paid or held something that nobody accepted here.
    #[error("{mandate} is frozen: {why}; {REPAIR}")]
    Outflow {
        /// Which.
        mandate: MandateId,
        /// What was seen.
        why: String,
    },
    /// What was booked as final is not in the chain.
    #[error("the chain no longer holds the final block {number} {hash}; {REPAIR}")]
    Final {
        /// Its height.
        number: u64,
        hash: B256,
    },
}

impl Inconsistency {
    /// The alarm's name.
    pub const fn alarm(&self) -> &'static str {
        match self {
            Self::Ahead { .. } | Self::Used { .. } => "nonce",
            Self::Outflow { .. } => "outflow",
            Self::Final { .. } => "finality",
        }
    }
}

/// What speaks against signing with this ledger for this guardian, with `ours` and every submitter that it ever
/// used.
/// Asked after catching up, so that what the ledger knows of is booked.
pub async fn check_against_chain(
    rpc: &Rpc,
    ledger: &Ledger,
    guardian: Address,
    ours: &[Address],
) -> Result<Vec<Inconsistency>, FollowError> {
    let mut found = Vec::new();
    if let Some(block) = lost_final_block(rpc, ledger).await? {
        found.push(Inconsistency::Final { number: block.number, hash: block.hash });
    }
    for submitter in submitters(ledger, ours).await? {
        found.extend(external(rpc, ledger, submitter).await?);
    }
    for mandate in ledger.read(move |ledger| mandates::unexplained(ledger, guardian)).await? {
        let id = mandate.id;
        found.push(Inconsistency::Outflow { mandate: id, why: mandate.standing.frozen.unwrap_or_default() });
    }
    Ok(found)
}

/// `ours`, and every submitter that this ledger ever used.
pub(crate) async fn submitters(ledger: &Ledger, ours: &[Address]) -> Result<BTreeSet<Address>, LedgerError> {
    let mut all: BTreeSet<Address> = ours.iter().copied().collect();
    all.extend(ledger.read(transactions::submitters).await?);
    Ok(all)
}

/// The last final block, if the chain has another one in its place. A node that does not know the
/// height yet only lags behind.
pub(crate) async fn lost_final_block(rpc: &Rpc, ledger: &Ledger) -> Result<Option<blocks::Block>, FollowError> {
    let Some(stored) = ledger.read(blocks::last_final).await? else { return Ok(None) };
    let found = rpc.block_at(stored.number).await?;
    Ok(found.filter(|found| found.hash != stored.hash).map(|_| stored))
}

/// Nonces of a submitter that the chain counts and the ledger does not have.
async fn external(rpc: &Rpc, ledger: &Ledger, submitter: Address) -> Result<Option<Inconsistency>, FollowError> {
    let chain = rpc.nonce(submitter).await?;
    let (expected, pending) = ledger
        .read(move |ledger| {
            Ok((transactions::next_nonce(ledger, submitter)?, transactions::pending_of(ledger, submitter)?))
        })
        .await?;
    if let Some(expected) = expected.filter(|expected| chain > *expected) {
        return Ok(Some(Inconsistency::Ahead { submitter, chain, expected }));
    }
    for tx in pending.into_iter().filter(|tx| tx.nonce < chain) {
        if !is_known(rpc, ledger, tx.id).await? {
            return Ok(Some(Inconsistency::Used { submitter, nonce: tx.nonce }));
        }
    }
    Ok(None)
}

/// Whether a block holds one of the transaction's attempts.
async fn is_known(rpc: &Rpc, ledger: &Ledger, tx: u64) -> Result<bool, FollowError> {
    for attempt in ledger.read(move |ledger| transactions::attempts(ledger, tx)).await? {
        if rpc.receipt(attempt.hash).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
