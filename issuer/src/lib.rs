//! The mock card issuer: an HTTP server that speaks the part of Lithic's API that Stipend needs, so
//! truly that Lithic's own SDK drives it and that moving to the real sandbox is a base URL and a key.
//!
//! Its cards are worth nothing. What it adds to Lithic's surface is `/_mock`: a switchboard that
//! makes it misbehave.
//!
//! Imports point one way: `number, time, signing ← card ← transaction ← store ← issuer ← deliver, api`.

mod api;
mod asa;
mod card;
mod deliver;
mod faults;
mod issuer;
mod number;
mod signing;
mod store;
#[cfg(test)]
mod tests;
mod time;
mod transaction;

use std::{io, path::PathBuf, time::Duration};

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use number::{CardNumber, Cvv, NumberError};
pub use store::StoreError;

use issuer::Issuer;
use store::Store;

/// How an issuer is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// What callers send as `Authorization`.
    pub api_key: SecretString,
    /// Where everything is kept.
    pub database: PathBuf,
    /// How long to wait before each attempt to deliver an event, the first one included. After the
    /// last one it is given up.
    pub retry_schedule: Vec<Duration>,
    /// How long the real-time question may take before the authorization is declined.
    pub asa_limit: Duration,
}

impl Config {
    /// As Lithic has it: eight attempts within a bit more than a day, and six seconds for the
    /// real-time question.
    pub fn new(api_key: SecretString, database: PathBuf) -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        let schedule = [0, 5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR];
        let retry_schedule = schedule.into_iter().map(Duration::from_secs).collect();
        Self { api_key, database, retry_schedule, asa_limit: Duration::from_secs(6) }
    }
}

/// Why an issuer can't run.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// What it keeps can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The listener can't be used.
    #[error("the issuer's listener failed: {0}")]
    Listener(#[from] io::Error),
    /// Nothing can be called.
    #[error("the issuer's HTTP client can't be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// Runs an issuer until `stop` is canceled; nothing of it is left when this returns. What could not
/// be delivered by then is delivered after the next start. A default `CryptoProvider` of rustls must
/// be installed.
///
/// # Errors
/// [`IssuerError`], before anything is served.
pub async fn run(config: Config, listener: TcpListener, stop: CancellationToken) -> Result<(), IssuerError> {
    let store = Store::open(&config.database)?;
    // Redirects would lead where the target's check has not looked, and a proxy does not know this machine.
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
    let issuer = Issuer::new(store, http, config.asa_limit, config.retry_schedule);
    let deliveries = tokio::spawn(deliver::run(issuer.clone(), stop.clone()));
    let served = api::serve(listener, issuer.clone(), config.api_key, stop.clone()).await;
    stop.cancel();
    issuer.finished().await;
    if deliveries.await.is_err() {
        tracing::error!("the task that delivers events panicked");
    }
    Ok(served?)
}
