//! Mends a ledger that is old, lost or a copy, from the chain, before anything may be signed with
//! it: applies what happened, takes over the submitters' nonces, gives up what others have overtaken,
//! and frees mandates whose outflows turn out to be the relayer's own.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use alloy_primitives::Address;
use serde::Serialize;
use serde_json::json;
use stipend_core::{Amount, Deployment, MandateId, Seconds};
use url::Url;

use crate::{
    alarms::Alarms,
    chain::{
        error::FollowError,
        follow::{Finality, Follower, Head},
        gas_used::GasUsed,
        rpc::{Rpc, RpcError},
    },
    clock,
    ledger::{self, Ledger, LedgerError, Lock, audit, blocks, check, mandates, payments, transactions},
    preflight::{self, DeploymentError, Identity, Inconsistency},
    projection::Projector,
};

/// How often to ask the node while waiting for a block to become final.
const POLL: Duration = Duration::from_secs(1);

/// What a repair works with: the relayer's own settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The nodes, the preferred one first.
    pub rpc_urls: Vec<Url>,
    /// The chain that the node must be on.
    pub chain_id: u64,
    pub escrow: Address,
    pub guardian: Address,
    /// The submitters, of which one must be allowed.
    pub submitters: Vec<Address>,
    /// The ledger's file.
    pub database: PathBuf,
    /// The block that the escrow was deployed in; absent: it is looked for.
    pub start_block: Option<u64>,
    /// When a block is final.
    pub finality: Finality,
}

/// Why a ledger was not repaired. Nothing was changed, unless it is said.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// Something else still signs.
    #[error(
        "the submitter {submitter} went from nonce {before} to {after} meanwhile: another process signs with its key; stop it, then repair again"
    )]
    StillSending {
        /// Whose key.
        submitter: Address,
        before: u64,
        after: u64,
    },
    /// The node knows less than the ledger.
    #[error(
        "the node is at block {head}, the ledger has block {known} as final: wait for the node, or use another one"
    )]
    NodeBehind {
        /// The node's.
        head: u64,
        /// The ledger's.
        known: u64,
    },
    /// Nobody knows where to begin.
    #[error("the node can't say in which block the escrow was deployed: {0}; set --start-block")]
    NoStart(RpcError),
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct Repaired {
    /// Whether it was done; otherwise it was tried on a copy that is gone.
    pub done: bool,
    /// The copy of the file as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
    /// Why it was not to be trusted.
    pub inconsistencies: Vec<String>,
    /// Whether everything was booked anew from the escrow's first block.
    pub rebuilt: bool,
    /// The last block that is booked.
    pub block: u64,
    /// How many mandates are known, and what they paid and held without a row here.
    pub known: Counts,
    /// Submitters that were taken over, and from which nonce on.
    pub adopted: Vec<Adopted>,
    /// Nonces of transactions that can never be mined: others used them.
    pub abandoned: Vec<u64>,
    /// Mandates that can be used again: all their outflows were sent by our submitters.
    pub unfrozen: Vec<MandateId>,
    /// Mandates that stay frozen: an outflow was sent by an external submitter.
    pub frozen: Vec<MandateId>,
    /// What `ledger check` has against it now.
    pub differences: Vec<String>,
    /// What can't be brought back.
    pub lost: Vec<String>,
}

/// How much of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub mandates: u64,
    /// Payments and holds without a row.
    pub outflows: u64,
    /// Their sum.
    pub amount: Amount,
}

/// A submitter that was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Adopted {
    /// Which.
    pub submitter: Address,
    /// The first nonce that is free.
    pub nonce: u64,
}

/// Files of a try, gone with it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        for extension in ["wal", "shm", "lock"] {
            let mut name = self.0.as_os_str().to_owned();
            name.push(if extension == "lock" { "." } else { "-" });
            name.push(extension);
            // Not each of them was made.
            let _ = fs::remove_file(name);
        }
        let _ = fs::remove_file(&self.0);
    }
}

/// Repairs the ledger; without `apply` a copy of it, which is thrown away.
pub async fn run(config: Config, apply: bool) -> Result<Repaired, RepairError> {
    let rpc = Rpc::new(&config.rpc_urls, config.chain_id, Alarms::default())?;
    let identity = Identity {
        chain_id: config.chain_id,
        escrow: config.escrow,
        guardian: config.guardian,
        submitters: config.submitters.clone(),
    };
    let deployment = preflight::inspect(&rpc, &identity).await?;
    let lock = Lock::take(&config.database)?;
    let exists = fs::metadata(&config.database).is_ok_and(|file| file.len() > 0);
    let beside = |what: &str| config.database.with_added_extension(format!("{what}-{}", clock::now()));

    if !apply {
        let scratch = Scratch(beside("try"));
        if exists {
            ledger::copy(&config.database, &scratch.0)?;
        }
        let ledger = Ledger::open(&scratch.0, deployment)?;
        return Repair { config: &config, rpc, ledger, deployment }.run(None).await;
    }
    let backup = exists.then(|| beside("backup"));
    if let Some(backup) = &backup {
        ledger::copy(&config.database, backup)?;
    }
    let ledger = Ledger::open_locked(&config.database, deployment, lock)?;
    let repaired = Repair { config: &config, rpc, ledger: ledger.clone(), deployment }.run(backup).await?;
    ledger.checkpoint().await?;
    Ok(Repaired { done: true, ..repaired })
}

struct Repair<'a> {
    config: &'a Config,
    rpc: Rpc,
    ledger: Ledger,
    deployment: Deployment,
}

impl Repair<'_> {
    async fn run(self, backup: Option<PathBuf>) -> Result<Repaired, RepairError> {
        let follower = Follower {
            rpc: self.rpc.clone(),
            ledger: self.ledger.clone(),
            projector: self.projector(),
            finality: self.config.finality,
            poll: POLL,
            alarms: Alarms::default(),
            gas_used: GasUsed::default(),
        };
        let head = self.rpc.height().await?;
        if let Some(known) =
            self.ledger.read(blocks::last_final).await?.map(|block| block.number).filter(|known| head < *known)
        {
            return Err(RepairError::NodeBehind { head, known });
        }
        let doubted = preflight::lost_final_block(&self.rpc, &self.ledger).await?;
        let rebuilt = doubted.is_some() || self.ledger.read(blocks::is_partial).await?;
        if rebuilt {
            let start = self.start().await?;
            tracing::info!(block = start, "rebuilding the ledger from the chain");
            self.forget(start).await?;
        }
        let start = if self.ledger.read(blocks::head).await?.is_none() { Some(self.start().await?) } else { None };
        let mut head = follower.catch_up(start).await?;
        let mut inconsistencies =
            preflight::check_against_chain(&self.rpc, &self.ledger, self.config.guardian, &self.config.submitters)
                .await?;
        inconsistencies.extend(doubted.map(|block| Inconsistency::Final { number: block.number, hash: block.hash }));

        let mut repaired = Repaired {
            done: false,
            backup,
            inconsistencies: inconsistencies.iter().map(Inconsistency::to_string).collect(),
            rebuilt,
            block: head.block.number,
            known: Counts::default(),
            adopted: Vec::new(),
            abandoned: Vec::new(),
            unfrozen: Vec::new(),
            frozen: Vec::new(),
            differences: Vec::new(),
            lost: Vec::new(),
        };
        if !inconsistencies.is_empty() {
            head = self.mend(&follower, head, &mut repaired).await?;
        }
        repaired.block = head.block.number;
        repaired.known = self.ledger.read(counts).await?;
        let report = self.ledger.read(|ledger| Ok(check::examine(ledger))).await?;
        repaired.differences = report.checks.into_iter().flat_map(|check| check.differences).collect();
        // What is intact has lost nothing.
        if rebuilt || !repaired.inconsistencies.is_empty() {
            repaired.lost = self.ledger.read(lost).await?;
        }
        let summary = json!({
            "block": repaired.block, "rebuilt": repaired.rebuilt, "inconsistencies": repaired.inconsistencies, "abandoned": repaired.abandoned,
            "adopted": repaired.adopted, "unfrozen": repaired.unfrozen, "frozen": repaired.frozen,
        });
        let event =
            audit::NewAuditEntry { kind: "ledger.repaired".into(), data: summary, ..audit::NewAuditEntry::default() };
        self.ledger.writer().write(move |ledger| audit::append(ledger, clock::now(), event)).await?;
        Ok(repaired)
    }

    const fn projector(&self) -> Projector {
        Projector { deployment: self.deployment }
    }

    /// The block before which there is nothing to know.
    async fn start(&self) -> Result<u64, RepairError> {
        if let Some(start) = self.config.start_block {
            return Ok(start);
        }
        // Code appears once and stays: the first block that has it is found by halving.
        let (mut without, mut with) = (0, self.rpc.height().await?);
        while without < with {
            let middle = without.midpoint(with);
            let code = self.rpc.code_at(self.config.escrow, middle).await.map_err(RepairError::NoStart)?;
            if code.is_empty() {
                without = middle.saturating_add(1);
            } else {
                with = middle;
            }
        }
        Ok(with)
    }

    /// Takes back everything that was booked from the chain, so that it is booked anew.
    async fn forget(&self, start: u64) -> Result<(), RepairError> {
        let height = start.saturating_sub(1);
        let anchor = self.rpc.block_at(height).await?.ok_or(RpcError::NoAnswer {
            method: "eth_getBlock",
            reason: format!("it has no block {height} to start from"),
        })?;
        let forget = move |ledger: &rusqlite::Transaction<'_>| {
            ledger::rebuild::forget_chain(ledger, clock::now())?;
            blocks::restart_at(ledger, anchor)
        };
        Ok(self.ledger.writer().write(forget).await?)
    }

    /// Waits until what is doubtful is final, and draws the conclusions.
    async fn mend(&self, follower: &Follower, mut head: Head, repaired: &mut Repaired) -> Result<Head, RepairError> {
        let submitters = preflight::submitters(&self.ledger, &self.config.submitters).await?;
        let mut nonces = Vec::new();
        for submitter in &submitters {
            nonces.push((*submitter, self.rpc.nonce(*submitter).await?));
        }
        // What these nonces count is in this block or below it.
        let goal = self.rpc.height().await?;
        if head.finalized < goal {
            tracing::info!(block = goal, finalized = head.finalized, "waits until the block is final");
        }
        while head.finalized < goal {
            tokio::time::sleep(POLL).await;
            head = follower.catch_up(None).await?;
        }
        for (submitter, before) in &nonces {
            let after = self.rpc.nonce(*submitter).await?;
            if after != *before {
                return Err(RepairError::StillSending { submitter: *submitter, before: *before, after });
            }
        }
        let frozen = self.ledger.read(mandates::all_frozen).await?;
        let mut verdicts = Vec::new();
        for mandate in frozen {
            verdicts.push((mandate.id, self.is_explained(mandate.id, &submitters).await?));
        }
        let projector = self.projector();
        let (adopted, abandoned) = self
            .ledger
            .writer()
            .write({
                let verdicts = verdicts.clone();
                move |ledger| {
                    let now = clock::now();
                    let (adopted, abandoned) = overtake(ledger, projector, &nonces, now)?;
                    for (id, explained) in verdicts {
                        mandates::set_examined(ledger, id, explained)?;
                        if let Some(mandate) = mandates::get(ledger, id)?.filter(|_| explained) {
                            audit::append(ledger, now, mandate.event("mandate.unfrozen"))?;
                        }
                    }
                    Ok((adopted, abandoned))
                }
            })
            .await?;
        (repaired.adopted, repaired.abandoned) = (adopted, abandoned);
        for (id, explained) in verdicts {
            if explained { repaired.unfrozen.push(id) } else { repaired.frozen.push(id) }
        }
        Ok(head)
    }

    /// Whether everything that this mandate paid or held past the ledger was sent by our submitters:
    /// then a ledger of ours, which is gone, had accepted it.
    async fn is_explained(&self, id: MandateId, submitters: &BTreeSet<Address>) -> Result<bool, RepairError> {
        let transactions = self.ledger.read(move |ledger| payments::external_txs(ledger, id)).await?;
        for hash in transactions {
            if !self.rpc.sender_of(hash).await?.is_some_and(|sender| submitters.contains(&sender)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Takes over the submitters at these nonces, and gives up what others have overtaken.
fn overtake(
    ledger: &rusqlite::Connection,
    projector: Projector,
    nonces: &[(Address, u64)],
    now: Seconds,
) -> Result<(Vec<Adopted>, Vec<u64>), LedgerError> {
    let (mut adopted, mut abandoned) = (Vec::new(), Vec::new());
    for (submitter, nonce) in nonces.iter().copied() {
        for tx in transactions::pending_of(ledger, submitter)?.into_iter().filter(|tx| tx.nonce < nonce) {
            projector.superseded(ledger, &tx, now)?;
            abandoned.push(tx.nonce);
        }
        if transactions::next_nonce(ledger, submitter)?.is_none_or(|expected| expected < nonce) {
            transactions::adopt(ledger, submitter, nonce)?;
            adopted.push(Adopted { submitter, nonce });
        }
    }
    Ok((adopted, abandoned))
}

fn counts(ledger: &rusqlite::Connection) -> Result<Counts, LedgerError> {
    let row = ledger.query_row(
        "SELECT (SELECT count(*) FROM mandate) AS mandates, count(*) AS outflows, coalesce(sum(amount), 0) AS amount
         FROM external_outflow",
        [],
        |row| Ok((row.get("mandates")?, row.get("outflows")?, row.get("amount")?)),
    )?;
    let (mandates, outflows, amount) = row;
    Ok(Counts { mandates, outflows, amount: Amount::from_units(amount).map_err(LedgerError::inconsistent)? })
}

/// What the chain does not contain, as text for the host.
fn lost(ledger: &rusqlite::Connection) -> Result<Vec<String>, LedgerError> {
    let count = |query: &str| Ok::<u64, LedgerError>(ledger.query_row(query, [], |row| row.get(0))?);
    let mut lost = Vec::new();
    let undocumented = count("SELECT count(*) FROM mandate WHERE intent IS NULL")?;
    if undocumented > 0 {
        lost.push(format!(
            "the intent documents of {undocumented} mandates: what they are for and whom they may pay is unknown, so nothing new is accepted from them; have them revoked and approved anew"
        ));
    }
    let outflows = count("SELECT count(*) FROM external_outflow")?;
    if outflows > 0 {
        lost.push(format!(
            "ref, metadata, agent's signature and gas of {outflows} payments and holds that have no row: they are booked as paid or held elsewhere"
        ));
    }
    lost.push("payments that were accepted, but neither stored here nor sent: their agents may send the same again, which is never paid twice".into());
    lost.push("cards that have no row: their holds can be charged no more; close them at the issuer, their money is back at captureBy".into());
    lost.push("requests, idempotency keys and entries of the audit trail that are not in this file".into());
    Ok(lost)
}
