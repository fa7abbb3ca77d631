//! The composition root: checks the deployment, catches up with the chain, starts everything, and stops
//! it in order.

use std::{path::PathBuf, time::Duration};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::Address;
use axum::Router;
use stipend_bindings::TokenDomain;
use stipend_core::{Deployment, policy::Limits};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use crate::chain::follow::Finality;
use crate::{
    alarms::Alarms,
    api,
    cards::{
        CardsConfig,
        issuer::{Issuer, IssuerError, IssuerSecrets},
        worker::CardWorker,
    },
    chain::{
        error::FollowError,
        follow::{Follower, Head},
        gas_used::GasUsed,
        rpc::Rpc,
    },
    failpoint::{self, Point},
    ledger::{Ledger, LedgerError},
    preflight::{self, DeploymentError, Identity},
    projection::Projector,
    send::{BatchSize, SendError, Sender},
    service::{CardDeps, Deps, RelayLimits, Service},
    workers::{Ended, Workers},
};

/// Everything that is set from outside.
#[derive(Clone, Debug)]
pub struct Config {
    /// The nodes, the preferred one first.
    pub rpc_urls: Vec<Url>,
    /// The chain that the node must be on.
    pub chain_id: u64,
    pub escrow: Address,
    /// The guardian that this relayer acts for.
    pub guardian: Address,
    /// The submitters' keys; print their addresses only.
    pub submitters: Vec<PrivateKeySigner>,
    /// The ledger's file.
    pub database: PathBuf,
    /// The block from which on the escrow is followed, on an empty ledger; absent: from now on.
    pub start_block: Option<u64>,
    /// Blocks, the including one counted, after which a mandate can be used.
    pub confirmations: u64,
    /// When a block is final.
    pub finality: Finality,
    /// How often to ask the node for its head.
    pub poll: Duration,
    /// Wei per gas that are never exceeded.
    pub fee_ceiling: u64,
    /// Wei of gas that a mandate may cost per day; absent: any.
    pub gas_budget: Option<u128>,
    /// What payments are held to.
    pub limits: Limits,
    /// What strangers' mandates may cost.
    pub relaying: RelayLimits,
    /// Settings of the API.
    pub api: api::ApiConfig,
    /// Settings of cards, if they are offered.
    pub cards: Option<CardsConfig>,
}

/// Why the relayer did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// The card issuer.
    #[error("cards can't be offered: {0}: check the issuer's URL and key")]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error(transparent)]
    Send(#[from] SendError),
    /// The API's socket.
    #[error("the API stopped: {0}")]
    Api(#[from] std::io::Error),
    /// A commit failed while running.
    #[error("the ledger stopped, since a commit failed: free the disk or mend it, then start again")]
    LedgerStopped,
    /// A worker ended while running.
    #[error(transparent)]
    Worker(#[from] Ended),
    /// Only in builds for tests.
    #[error("{0}")]
    Failpoint(String),
}

/// Every how many polls the nodes that are not read from are checked.
const HEALTH_CHECK_EVERY_N_POLLS: u32 = 10;

/// Runs the relayer on `listener` until `stop`, which is heard at any time: while it starts, too.
///
/// # Errors
/// [`AppError`]: it does not start on a wrong chain, without contract code, with a submitter that
/// may not submit, or with a ledger that is not this deployment's; and it stops when the ledger fails, or
/// a worker exits.
pub async fn run(config: Config, listener: TcpListener, stop: CancellationToken) -> Result<(), AppError> {
    failpoint::arm().map_err(AppError::Failpoint)?;
    let alarms = Alarms::default();
    alarms.refuse("starting", "the relayer checks the deployment and catches up with the chain");
    let (app, served) = watch::channel(api::starting(alarms.clone()));
    let serving = stipend_http::serve(listener, served, config.api.limits.connections, stop.clone());
    let mut front = Front { app, serving: Some(tokio::spawn(serving)) };
    let outcome = relay(config, alarms, &mut front, stop.clone()).await;
    stop.cancel();
    outcome.map_err(AppError::explained).and(front.ended().await)
}

impl AppError {
    /// Where a write to the ledger failed, while it starts too, what to do about it.
    fn explained(self) -> Self {
        match self {
            Self::Ledger(LedgerError::Unknown)
            | Self::Follow(FollowError::Ledger(LedgerError::Unknown))
            | Self::Send(SendError::Ledger(LedgerError::Unknown)) => Self::LedgerStopped,
            other => other,
        }
    }
}

/// What is served, and the task that serves it.
struct Front {
    app: watch::Sender<Router>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Front {
    /// Waits until nothing is served any more.
    async fn ended(&mut self) -> Result<(), AppError> {
        let Some(serving) = &mut self.serving else { return Ok(()) };
        let served = serving.await;
        self.serving = None;
        Ok(served.map_err(std::io::Error::other)??)
    }
}

async fn relay(config: Config, alarms: Alarms, front: &mut Front, stop: CancellationToken) -> Result<(), AppError> {
    let rpc = Rpc::new(&config.rpc_urls, config.chain_id, alarms.clone())?;
    let identity = Identity {
        chain_id: config.chain_id,
        escrow: config.escrow,
        guardian: config.guardian,
        submitters: config.submitters.iter().map(PrivateKeySigner::address).collect(),
    };
    let inspected = stop.run_until_cancelled(preflight::inspect(&rpc, &identity)).await.transpose()?;
    let Some(deployment) = inspected else { return Ok(()) };
    let domain = stop.run_until_cancelled(preflight::token_domain(&rpc, &deployment)).await.transpose();
    let Some(token_domain) = domain.map_err(DeploymentError::from)? else { return Ok(()) };
    let ledger = Ledger::open(&config.database, deployment)?;
    failpoint::pass(Point::StartOpened);

    // A start that is broken off has done nothing that the next one does not do again.
    let started = Runtime::start(config, rpc, ledger.clone(), deployment, token_domain, alarms);
    let outcome = match stop.run_until_cancelled(started).await.transpose()? {
        Some(runtime) => runtime.serve(front, stop).await,
        None => Ok(()),
    };
    if let Err(error) = ledger.checkpoint().await {
        tracing::warn!(%error, "the ledger's newest part stays in its -wal file");
    }
    outcome
}

/// What runs once the chain is caught up with.
struct Runtime {
    follower: Follower,
    head: Head,
    sender: Sender,
    token_domain: Option<TokenDomain>,
    cards: Option<(CardDeps, watch::Sender<Option<IssuerSecrets>>)>,
    limits: Limits,
    relaying: RelayLimits,
    gas_budget: Option<u128>,
    api: api::ApiConfig,
}

impl Runtime {
    async fn start(
        config: Config,
        rpc: Rpc,
        ledger: Ledger,
        deployment: Deployment,
        token_domain: Option<TokenDomain>,
        alarms: Alarms,
    ) -> Result<Self, AppError> {
        let submitters: Vec<Address> = config.submitters.iter().map(PrivateKeySigner::address).collect();
        let gas_used = GasUsed::default();
        let follower = Follower {
            rpc: rpc.clone(),
            ledger: ledger.clone(),
            projector: Projector { deployment },
            finality: config.finality,
            poll: config.poll,
            alarms: alarms.clone(),
            gas_used: gas_used.clone(),
        };
        let head = match follower.catch_up(config.start_block).await {
            // Nothing will be signed; what is known can still be read.
            Err(error @ FollowError::PastFinality { .. }) => {
                alarms.halt("finality", error.to_string());
                follower.last_known().await?
            }
            head => head?,
        };
        failpoint::pass(Point::StartCaughtUp);
        let sender = Sender {
            rpc: rpc.clone(),
            ledger: ledger.clone(),
            deployment,
            submitters: config.submitters,
            confirmations: config.confirmations,
            fee_ceiling: config.fee_ceiling,
            sweep_min: config.relaying.sweep_min,
            alarms: alarms.clone(),
            gas_used,
            batches: BatchSize::default(),
        };
        sender.start().await?;
        failpoint::pass(Point::StartSender);
        for inconsistency in
            preflight::check_against_chain(&rpc, &ledger, sender.deployment.guardian, &submitters).await?
        {
            alarms.halt(inconsistency.alarm(), inconsistency.to_string());
        }
        let cards = match config.cards {
            None => None,
            Some(config) => Some(register_webhooks(config, &alarms).await?),
        };
        let Config { limits, relaying, gas_budget, api, .. } = config;
        Ok(Self { follower, head, sender, token_domain, cards, limits, relaying, gas_budget, api })
    }

    async fn serve(self, front: &mut Front, stop: CancellationToken) -> Result<(), AppError> {
        let Self { follower, head, sender, token_domain, cards, limits, relaying, gas_budget, api } = self;
        let (rpc, ledger, alarms) = (sender.rpc.clone(), sender.ledger.clone(), sender.alarms.clone());
        let (cards, secrets) = cards.unzip();
        let worker = cards.as_ref().zip(secrets).map(|(cards, secrets)| CardWorker {
            issuer: cards.issuer.clone(),
            callback: cards.config.callback.clone(),
            secrets,
            ledger: ledger.clone(),
            confirmations: sender.confirmations,
            poll: cards.config.poll,
            alarms: alarms.clone(),
        });
        let (heads, head) = watch::channel(head);
        let service = Service::new(Deps {
            ledger: ledger.clone(),
            rpc: rpc.clone(),
            deployment: sender.deployment,
            token_domain,
            limits,
            relaying,
            gas_budget,
            confirmations: sender.confirmations,
            heads: head.clone(),
            receipt_signer: sender.submitters.first().cloned(),
            alarms: alarms.clone(),
            cards,
        });
        let mut workers = Workers::default();
        let told = workers.stop_token();
        let every = follower.poll.saturating_mul(HEALTH_CHECK_EVERY_N_POLLS);
        workers.spawn("watch over the nodes", rpc.clone().watch(every, told.clone()));
        workers.spawn("listener to the nodes", rpc.listen(told.clone()));
        // One end of the heads stays here: a follower that ends does not take the others with it, and
        // is the one that is named.
        workers.spawn("follower", follower.run(heads.clone(), told.clone()));
        if let Some(worker) = worker {
            workers.spawn("card worker", worker.run(head.clone(), told.clone()));
        }
        workers.spawn("sender", sender.run(head, told.clone()));

        let Some((routes, housekeeping)) =
            stop.run_until_cancelled(api::started(service, &api, stop.clone(), told)).await
        else {
            workers.stop().await;
            return Ok(());
        };
        workers.spawn("housekeeping", housekeeping);
        drop(front.app.send_replace(routes));
        alarms.clear("starting");

        // The API first, so that nothing is accepted that nobody would send; then the rest.
        let outcome = tokio::select! {
            biased;
            // Before the workers, which end with it.
            () = ledger.writer().stopped() => Err(AppError::LedgerStopped),
            ended = workers.ended() => {
                alarms.halt("worker", ended.to_string());
                stop.cancel();
                // Who is being answered learns it.
                front.ended().await.and(Err(ended.into()))
            }
            served = front.ended() => served,
        };
        stop.cancel();
        workers.stop().await;
        outcome
    }
}

/// Has the issuer call us, and learns what it signs with; the worker tries again where that fails.
async fn register_webhooks(
    config: CardsConfig,
    alarms: &Alarms,
) -> Result<(CardDeps, watch::Sender<Option<IssuerSecrets>>), AppError> {
    let issuer = Issuer::new(&config)?;
    let secrets = match issuer.register_webhooks(&config.callback).await {
        Ok(secrets) => Some(secrets),
        // Payments need no issuer, and it may come back.
        Err(error @ IssuerError::Unknown(_)) => {
            alarms.warn("cards", error.to_string());
            None
        }
        Err(error) => return Err(error.into()),
    };
    let (sender, receiver) = watch::channel(secrets);
    Ok((CardDeps { config, issuer, secrets: receiver }, sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_failed_says_what_to_do() {
        let failed = || LedgerError::Unknown;
        for error in [
            AppError::Ledger(failed()),
            AppError::Follow(FollowError::Ledger(failed())),
            AppError::Send(SendError::Ledger(failed())),
        ] {
            let said = error.explained().to_string();
            assert!(said.contains("free the disk"), "{said}");
        }
        assert!(matches!(AppError::Ledger(LedgerError::Full).explained(), AppError::Ledger(LedgerError::Full)));
    }
}
