//! A whole Stipend for your tests: a chain, the contracts, a relayer, a card issuer and funded keys.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use stipend_client::{Pay, Wait};
//! use stipend_testing::Stack;
//!
//! let stack = Stack::builder().mandate("100.00").start().await?;
//! let agent = stack.agent();
//! let payment = agent.pay(Pay::new(stack.mandates[0], stack.payee, "4.20".parse()?)).await?.object;
//! agent.wait_for(payment.id, Wait::Mined, std::time::Duration::from_secs(60)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! It stops when the [`Stack`] is dropped, and when the process that started it dies.

#![warn(missing_docs)]

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{B256, b256};
use serde_json::Value;
use stipend_client::Client;
use stipend_core::{HumanDuration, dev::Ready};

/// The key of the dev agent, which everybody knows: account 2 of anvil.
pub const AGENT_KEY: B256 = b256!("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a");

/// Longer than the program gives its parts to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(40);

/// How often it is asked whether it has stopped.
const POLL: Duration = Duration::from_millis(20);

/// Why there is no stack, or why it can't do something.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The `stipend` command is nowhere.
    #[error("no stipend found: build it, put it on PATH, or name it in STIPEND_BIN")]
    NoBinary,
    /// The system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// `stipend` has failed, and what it said.
    #[error("`stipend {0}` failed: {1}")]
    Failed(String, String),
    /// What the program said is not understood: is it of another version?
    #[error("`stipend` says something unexpected: {0}")]
    Unexpected(#[from] serde_json::Error),
    /// No client can be made.
    #[error(transparent)]
    Client(#[from] stipend_client::Error),
}

/// How to start a stack.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    binary: Option<PathBuf>,
    arguments: Vec<OsString>,
}

impl Builder {
    /// Opens a mandate over this much USDC for the dev agent; can be given several times.
    #[must_use]
    pub fn mandate(self, usdc: impl Into<String>) -> Self {
        self.argument("--mandate", usdc)
    }

    /// Makes a block every so many seconds; 1 by default.
    #[must_use]
    pub fn block_time(self, seconds: u64) -> Self {
        self.argument("--block-time", seconds.to_string())
    }

    /// Keeps chain and ledger in this directory, and goes on with what is in it.
    #[must_use]
    pub fn data(mut self, directory: impl Into<PathBuf>) -> Self {
        self.arguments.extend(["--data".into(), directory.into().into()]);
        self
    }

    /// Runs this `stipend` instead of STIPEND_BIN, the one beside the test, or the one on PATH.
    #[must_use]
    pub fn binary(mut self, file: impl Into<PathBuf>) -> Self {
        self.binary = Some(file.into());
        self
    }

    /// Starts it, and returns when all of it is ready.
    ///
    /// # Errors
    /// [`StackError`].
    pub async fn start(self) -> Result<Stack, StackError> {
        let binary = self.binary.or_else(find).ok_or(StackError::NoBinary)?;
        // Fails only if there is one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut log = tempfile::tempfile()?;
        let mut process = Process(
            Command::new(&binary)
                .args(["--json", "dev", "--port", "0", "--anvil-port", "0", "--issuer-port", "0", "--until-eof"])
                .args(self.arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log.try_clone()?)
                .spawn()?,
        );
        let output = process.0.stdout.take();
        let read = move || {
            let mut line = String::new();
            output.map_or(Ok(0), |output| BufReader::new(output).read_line(&mut line)).map(|_| line)
        };
        let line = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        if line.is_empty() {
            return Err(StackError::Failed("dev".into(), said(&mut log)?));
        }
        let ready: Ready = serde_json::from_str(&line)?;
        let key = PrivateKeySigner::from_bytes(&AGENT_KEY).map_err(io::Error::other)?;
        let relayer = ready.relayer.parse().map_err(io::Error::other)?;
        Ok(Stack { agent: Client::new(relayer, key)?, ready, binary, process })
    }

    fn argument(mut self, name: &str, value: impl Into<String>) -> Self {
        self.arguments.extend([name.into(), value.into().into()]);
        self
    }
}

/// A running `stipend dev`; what it said when it was ready is in its fields. Stops when dropped.
#[derive(Debug)]
pub struct Stack {
    ready: Ready,
    agent: Client,
    binary: PathBuf,
    process: Process,
}

impl Deref for Stack {
    type Target = Ready;

    fn deref(&self) -> &Ready {
        &self.ready
    }
}

impl Stack {
    /// One without mandates, with a block every second.
    ///
    /// # Errors
    /// [`StackError`].
    pub async fn start() -> Result<Self, StackError> {
        Self::builder().start().await
    }

    /// Chooses how to start it.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The relayer, as the dev agent sees it.
    #[must_use]
    pub fn agent(&self) -> Client {
        self.agent.clone()
    }

    /// Runs `stipend` with these arguments, and returns the last line that it prints, which is JSON. The dev account
    /// that fits signs, unless they say otherwise.
    ///
    /// # Errors
    /// [`StackError`].
    pub async fn stipend<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Result<Value, StackError> {
        let mut command = Command::new(&self.binary);
        command
            .args(["--json", "--relayer", &self.ready.relayer, "--rpc-url", &self.ready.rpc_url])
            .args(arguments)
            .env_remove("STIPEND_PRIVATE_KEY")
            .env("STIPEND_ISSUER_URL", &self.ready.issuer)
            .env("STIPEND_ISSUER_API_KEY", &self.ready.issuer_key)
            .stdin(Stdio::null());
        let called = command.get_args().skip(5).map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
        let output = tokio::task::spawn_blocking(move || command.output()).await.map_err(io::Error::other)??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(StackError::Failed(called.join(" "), said));
        }
        let last = output.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
        Ok(serde_json::from_slice(last.unwrap_or_default())?)
    }

    /// Moves the chain's time forward, and returns when the relayer judges by it.
    ///
    /// # Errors
    /// [`StackError`].
    pub async fn advance(&self, by: HumanDuration) -> Result<(), StackError> {
        self.stipend(["dev", "clock", &format!("+{by}")]).await.map(drop)
    }

    /// Stops it, and says how it ended.
    ///
    /// # Errors
    /// If it had to be killed.
    pub fn stop(mut self) -> Result<ExitStatus, StackError> {
        Ok(self.process.stop()?)
    }
}

/// A process that is asked to stop when dropped, and waited for.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn stop(&mut self) -> io::Result<ExitStatus> {
        // It stops when its input ends.
        drop(self.0.stdin.take());
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() >= STOPS_WITHIN {
                self.0.kill()?;
                self.0.wait()?;
                return Err(io::Error::other("stipend dev did not stop, and was killed"));
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.stop();
    }
}

fn said(log: &mut File) -> io::Result<String> {
    let mut text = String::new();
    log.rewind()?;
    log.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// STIPEND_BIN, the one that was built with this test, or the one on PATH.
fn find() -> Option<PathBuf> {
    if let Some(named) = env::var_os("STIPEND_BIN") {
        return Some(named.into());
    }
    let name = format!("stipend{}", env::consts::EXE_SUFFIX);
    // target/<profile>/deps/<test>
    let built = env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join(&name)));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join(&name));
    built.into_iter().chain(on_path).find(|file| Path::is_file(file))
}
