//! Authorizations by the relayer's service in this process: without HTTP, JSON, sender and chain.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
    vec::IntoIter,
};

use eyre::{Report, Result, ensure, eyre};
use stipend_core::{
    Deployment,
    api::{BlockRef, NewPayment, PaymentState},
    policy::Limits,
};
use stipend_relayer::{
    alarms::Alarms,
    chain::{follow::Head, rpc::Rpc},
    ledger::Ledger,
    service::{Deps, RelayLimits, Service},
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};
use url::Url;

use crate::{limits::CORES, stats::per_second, usage::Others};

/// How many payments are under way.
pub(crate) const TASKS: usize = 64;

/// Where the service works.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// A ledger that nobody has open.
    pub(crate) ledger: &'a Path,
    pub(crate) deployment: Deployment,
    pub(crate) node: Url,
    pub(crate) head: BlockRef,
    /// What does not count as others.
    pub(crate) processes: &'a [u32],
}

/// How many of the payments were authorized per second, in each of so many windows of `time`, and how many cores others used.
///
/// # Errors
/// If one is not authorized.
pub(crate) fn rates(
    place: &Place<'_>,
    payments: Vec<NewPayment>,
    windows: usize,
    time: Duration,
) -> Result<Vec<(f64, f64)>> {
    // A runtime like the relayer's own: another one than that of the caller, so on another thread.
    let measure = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(CORES).enable_all().build()?;
        runtime.block_on(async {
            let (service, _heads) = place.service()?;
            // What a window leaves is for the next one: a mandate's nonces have no gaps.
            let payments = Arc::new(Mutex::new(payments.into_iter()));
            let mut rates = Vec::new();
            for _ in 0..windows {
                let others = Others::watch(place.processes)?;
                rates.push((rate(&service, &payments, time).await?, others.cores()?));
            }
            Ok(rates)
        })
    };
    thread::scope(|scope| scope.spawn(measure).join().map_err(|_| eyre!("the thread panicked"))?)
}

impl Place<'_> {
    fn service(&self) -> Result<(Service, watch::Sender<Head>)> {
        let alarms = Alarms::default();
        let head = Head { block: self.head, base_fee: 0, gas_limit: 0, finalized: self.head.number };
        let (sender, heads) = watch::channel(head);
        let service = Service::new(Deps {
            ledger: Ledger::open(self.ledger, self.deployment)?,
            rpc: Rpc::new(std::slice::from_ref(&self.node), self.deployment.chain_id, alarms.clone())?,
            deployment: self.deployment,
            token_domain: None,
            limits: Limits::default(),
            relaying: RelayLimits::default(),
            gas_budget: None,
            confirmations: 1,
            heads,
            receipt_signer: None,
            alarms,
            cards: None,
        });
        Ok((service, sender))
    }
}

async fn rate(service: &Service, payments: &Arc<Mutex<IntoIter<NewPayment>>>, time: Duration) -> Result<f64> {
    let count = Arc::new(AtomicU64::new(0));
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    for _ in 0..TASKS {
        let (service, payments, count) = (service.clone(), payments.clone(), count.clone());
        tasks.spawn(async move {
            while start.elapsed() < time {
                let next = payments.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(payment) = next else { break };
                let signed = service.authenticate_payment(payment).map_err(|problem| eyre!("{problem:?}"))?;
                let accepted = service.pay(signed, None).await.map_err(|problem| eyre!("{problem:?}"))?;
                ensure!(!accepted.replayed && accepted.object.state == PaymentState::Reserved, "{:?}", accepted.object);
                count.fetch_add(1, Relaxed);
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error: JoinError| Report::new(error))??;
    }
    Ok(per_second(count.load(Relaxed), start.elapsed()))
}
