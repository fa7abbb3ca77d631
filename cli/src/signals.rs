//! When to stop, and how to tell a child to.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
};

/// How long a child may take to put its things in order.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Returns when this process should stop: Ctrl-C, SIGTERM, or the terminal is gone.
pub(crate) async fn stop() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// Asks a child to end, waits until it has, and ends it if it does not.
pub(crate) async fn end(child: &mut Child) -> std::io::Result<()> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // A child that is gone already can't be told, and need not be.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(SHUTDOWN_TIMEOUT, child.wait()).await {
        Ok(status) => status.map(drop),
        Err(_) => child.kill().await,
    }
}
