//! Child processes that do not outlive the benchmark.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use eyre::{Result, WrapErr, bail, ensure};

/// How long anything that starts or stops may take: a ledger of ten million payments included.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A process that logs to a file, and is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.wrap_err_with(|| format!("can't start {}", Path::new(command.get_program()).display()))?;
        Ok(Self { child, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("it ended with {status}: see {}", self.log.display()),
            None => Ok(()),
        }
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// If it does not within two minutes, or not well.
    pub(crate) fn stop(mut self) -> Result<()> {
        let asked = Command::new("kill").arg("-TERM").arg(self.id().to_string()).status()?;
        ensure!(asked.success(), "it has ended before: see {}", self.log.display());
        let start = Instant::now();
        while start.elapsed() < TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "stopped with {status}: see {}", self.log.display());
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("it does not stop: see {}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Counts every `poll` until it comes to `goal`.
///
/// # Errors
/// Those of `count`, or that it has not grown for two minutes.
pub(crate) async fn comes_to(
    what: &str,
    poll: Duration,
    goal: u64,
    mut count: impl AsyncFnMut() -> Result<u64>,
) -> Result<()> {
    let (mut grown, mut highest) = (Instant::now(), 0);
    while grown.elapsed() < TIMEOUT {
        let counted = count().await?;
        if counted >= goal {
            return Ok(());
        }
        if counted > highest {
            (grown, highest) = (Instant::now(), counted);
        }
        tokio::time::sleep(poll).await;
    }
    bail!("{what}: {highest} of {goal}, and no more for {TIMEOUT:?}")
}

/// Asks every `poll` until there is an answer.
///
/// # Errors
/// Those of `ask`, or that there was none in two minutes.
pub(crate) async fn eventually<T>(
    what: &str,
    poll: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    while start.elapsed() < TIMEOUT {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        tokio::time::sleep(poll).await;
    }
    bail!("{what}: not so after {TIMEOUT:?}")
}
