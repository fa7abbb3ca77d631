//! `stipend serve` as a process.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::signers::{k256::elliptic_curve::rand_core::OsRng, local::PrivateKeySigner};
use alloy_primitives::Address;
use eyre::{Result, bail, eyre};
use stipend_bindings::Domain;
use stipend_core::api::Health;
use tokio::time::timeout;
use url::Url;

use crate::{
    Fault, Issuer, eventually,
    keys::Keys,
    process::{Process, binary, free_port},
};

/// The variable that arms a failpoint of its.
const FAILPOINT: &str = "STIPEND_FAILPOINT";

/// How long a relayer that takes work needs at most to say so.
const ANSWER: Duration = Duration::from_millis(200);

/// How a relayer is set up, where tests differ.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Blocks on top of which what happened is final.
    pub finality: u64,
    /// Whether the submitter's key comes from an encrypted keystore, as a host's would, or from the
    /// environment, which is quicker.
    pub keystore: bool,
    /// Whether and how cards are offered.
    pub cards: Option<CardSettings>,
    /// Whether a proxy that makes trouble stands between the relayer and the node.
    pub troubled: bool,
    /// What it logs: less where a test lasts long.
    pub log: &'static str,
    /// How many submitters it has, beside the first one.
    pub more_submitters: usize,
    /// More arguments of `stipend serve`.
    pub more: Vec<String>,
    /// Another chain than anvil's, and a provider with its ways; `troubled` plays them.
    pub network: Option<Network>,
}

/// A chain and the provider behind which it is seen.
#[derive(Clone, Debug)]
pub struct Network {
    pub chain_id: u64,
    /// How much gas a block has.
    pub block_gas: u64,
    /// How long every call takes.
    pub latency: Duration,
    /// `--finality`: `finalized`, or how many blocks.
    pub finality: &'static str,
    /// What calls of a method meet.
    pub faults: Vec<(&'static str, Fault)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            finality: 2,
            keystore: false,
            cards: None,
            troubled: false,
            log: "debug",
            more_submitters: 0,
            more: Vec::new(),
            network: None,
        }
    }
}

/// How cards are offered.
#[derive(Clone, Copy, Debug)]
pub struct CardSettings {
    /// How long a card can be charged, in seconds.
    pub ttl: u64,
    /// How often the issuer is asked what webhooks should have told, in seconds.
    pub poll: u64,
}

impl Default for CardSettings {
    /// The issuer is asked so rarely that webhooks have to do.
    fn default() -> Self {
        Self { ttl: 3_600, poll: 300 }
    }
}

/// Whom the cards' holds are for.
pub const TREASURY: Address = Address::repeat_byte(0x7e);

/// A relayer, running or not. Its address stays the same.
#[derive(Debug)]
pub struct Relayer {
    process: Mutex<Option<Process>>,
    arguments: Vec<String>,
    /// What only its environment holds.
    secrets: Vec<(&'static str, String)>,
    log: &'static str,
    dir: PathBuf,
    url: Url,
}

impl Relayer {
    /// Starts one on an empty ledger below `dir`.
    pub(crate) async fn start(
        dir: &Path,
        node: &Url,
        issuer: Option<&Issuer>,
        domain: Domain,
        keys: &Keys,
        settings: &Settings,
    ) -> Result<Self> {
        let port = free_port()?;
        let finality = settings.finality.to_string();
        let mut arguments: Vec<String> = [
            ("--listen", format!("127.0.0.1:{port}")),
            ("--rpc-url", node.to_string()),
            ("--database", dir.join("ledger.db").display().to_string()),
            ("--chain-id", domain.chain_id.to_string()),
            ("--escrow", domain.escrow.to_string()),
            ("--guardian", keys.guardian.address().to_string()),
            ("--start-block", "0".into()),
            ("--confirmations", "1".into()),
            ("--finality", settings.network.as_ref().map_or(finality, |network| network.finality.to_owned())),
            ("--poll-ms", "50".into()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        arguments.extend_from_slice(&settings.more);
        let mut secrets = vec![if settings.keystore {
            let file = keystore(dir, keys)?;
            arguments.extend(["--keystore".to_owned(), file.display().to_string()]);
            ("STIPEND_PASSWORD", KEYSTORE_PASSWORD.to_owned())
        } else {
            let submitters = keys.submitters(settings.more_submitters)?;
            let submitters = submitters.iter().map(|key| key.to_bytes().to_string()).collect::<Vec<_>>();
            ("STIPEND_PRIVATE_KEY", submitters.join(","))
        }];
        if let (Some(issuer), Some(cards)) = (issuer, settings.cards) {
            let offered = [
                ("--issuer-url", issuer.url().to_string()),
                ("--callback-url", format!("http://127.0.0.1:{port}")),
                ("--treasury", TREASURY.to_string()),
                ("--card-ttl", format!("{}s", cards.ttl)),
                ("--issuer-poll", format!("{}s", cards.poll)),
            ];
            arguments.extend(offered.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
            secrets.push(("STIPEND_ISSUER_API_KEY", issuer.key().to_owned()));
        }
        let url = format!("http://127.0.0.1:{port}").parse()?;
        let mut relayer =
            Self { process: Mutex::default(), arguments, secrets, log: settings.log, dir: dir.to_owned(), url };
        relayer.restart().await?;
        Ok(relayer)
    }

    /// Where it listens.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Starts another one, with some arguments otherwise. It must end by itself, and not well; returns
    /// what it said.
    ///
    /// # Errors
    /// If it runs on, or ends well.
    pub async fn must_not_start(&self, otherwise: &[(&str, &str)]) -> Result<String> {
        self.refuses(otherwise, None).await
    }

    /// The names of all failpoints: what it says about one that there is not, and does not start.
    ///
    /// # Errors
    /// If it runs on, or does not name them.
    pub async fn failpoints(&self) -> Result<Vec<String>> {
        let said = self.refuses(&[], Some("none.such")).await?;
        let (_, names) = said.split_once("there are: ").ok_or_else(|| eyre!("no names: {said}"))?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    async fn refuses(&self, otherwise: &[(&str, &str)], failpoint: Option<&str>) -> Result<String> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut arguments = self.arguments.clone();
        for (name, value) in otherwise.iter().chain([&("--listen", listen.as_str())]) {
            set(&mut arguments, name, value)?;
        }
        let log = self.dir.join(format!("not-started-{listen}.log"));
        let mut command = self.command(&arguments)?;
        command.envs(failpoint.map(|name| (FAILPOINT, name)));
        let mut process = Process::start(&mut command, &log)?;
        let status = eventually("it ends", async || process.ended()).await?;
        if status.success() {
            bail!("it ended well: {arguments:?}");
        }
        Ok(std::fs::read_to_string(log)?)
    }

    /// Starts it again on what it left behind, and waits until it takes work.
    pub async fn restart(&mut self) -> Result<()> {
        self.begin()?;
        self.ready().await
    }

    /// Waits until it takes work.
    pub async fn ready(&mut self) -> Result<()> {
        eventually("the relayer is ready", async || {
            self.must_run()?;
            Ok(self.is_ready().await.then_some(()))
        })
        .await
    }

    /// Starts it again on what it left behind, and waits for nothing.
    pub fn begin(&mut self) -> Result<()> {
        self.begin_with(self.command(&self.arguments)?)
    }

    fn begin_with(&mut self, mut command: Command) -> Result<()> {
        // The one before is gone first: there is one ledger.
        *self.process() = None;
        let process = Process::start(&mut command, &self.dir.join("relayer.log"))?;
        *self.process() = Some(process);
        Ok(())
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn must_run(&self) -> Result<()> {
        self.process().as_mut().map_or(Ok(()), Process::must_run)
    }

    /// Whether it takes work.
    pub async fn is_ready(&self) -> bool {
        let Ok(ready) = self.url.join("readyz") else { return false };
        // Until it serves, a connection is taken and nothing is answered.
        let answer = timeout(ANSWER, reqwest::get(ready)).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status().is_success()))
    }

    /// Starts it again on what it left behind, to die at a failpoint: `<name>` or `<name>:<passing>`. It
    /// may do so before it takes work.
    pub fn begin_to_die_at(&mut self, failpoint: &str) -> Result<()> {
        let mut command = self.command(&self.arguments)?;
        command.env(FAILPOINT, failpoint);
        self.begin_with(command)
    }

    /// Whether it died at its failpoint.
    ///
    /// # Errors
    /// If it ended in another way.
    pub fn has_died(&self) -> Result<bool> {
        let mut process = self.process();
        let Some(process) = process.as_mut() else { bail!("the relayer does not run") };
        match process.ended()? {
            None => Ok(false),
            // By a signal, and not by an exit of its own.
            Some(status) if status.code().is_none() => Ok(true),
            Some(_) => process.must_run().map(|()| false),
        }
    }

    /// Gives it more arguments, from its next start on.
    pub fn more(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().copied().map(str::to_owned));
    }

    /// Gives one of its arguments another value, from its next start on.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        set(&mut self.arguments, name, value)
    }

    /// Starts it again on what it left behind, and waits until it has started, halted or not.
    ///
    /// # Errors
    /// If it ends, or does not answer within a minute.
    pub async fn restart_halted(&mut self) -> Result<()> {
        self.begin()?;
        let alive = self.url.join("healthz")?;
        eventually("the relayer answers", async || {
            self.must_run()?;
            let Ok(answer) = reqwest::get(alive.clone()).await else { return Ok(None) };
            let health: Health = serde_json::from_slice(&answer.bytes().await?)?;
            Ok((!health.alarms.iter().any(|alarm| alarm.starts_with("starting: "))).then_some(()))
        })
        .await
    }

    /// Restarts it with a file size limit in bytes, as on a full disk, and waits until
    /// it takes work. It logs nothing, since a log grows too.
    pub async fn restart_within(&mut self, bytes: u64) -> Result<()> {
        const BLOCK: u64 = 512;
        let serve = self.command(&self.arguments)?;
        let mut command = Command::new("/bin/sh");
        // Without the trap the signal would kill it, as no full disk does.
        command.args(["-c", "trap '' XFSZ; ulimit -f \"$0\" && exec \"$@\"", &(bytes / BLOCK).to_string()]);
        command.arg(serve.get_program()).args(serve.get_args());
        command.env_clear().envs(self.secrets.iter().map(|(name, value)| (name, value))).env("RUST_LOG", "off");
        *self.process() = None;
        let process = Process::start(&mut command, &self.dir.join("relayer-within.log"))?;
        *self.process() = Some(process);
        self.ready().await
    }

    /// Waits until it has exited on its own, which must be a failure.
    ///
    /// # Errors
    /// If it runs on for a minute, or ends well.
    pub async fn must_end(&mut self) -> Result<()> {
        let Some(mut process) = self.process().take() else { bail!("the relayer does not run") };
        let status = eventually("the relayer ends", async || process.ended()).await?;
        if status.success() { bail!("it ended well") } else { Ok(()) }
    }

    /// Another one with the same key and the same settings on another ledger. It does not run yet.
    pub fn twin(&self, database: &Path) -> Result<Self> {
        let (port, mut arguments) = (free_port()?, self.arguments.clone());
        let database = database.display().to_string();
        for (name, value) in [("--listen", format!("127.0.0.1:{port}")), ("--database", database)] {
            set(&mut arguments, name, &value)?;
        }
        let url = format!("http://127.0.0.1:{port}").parse()?;
        let (secrets, dir) = (self.secrets.clone(), self.dir.clone());
        Ok(Self { process: Mutex::default(), arguments, secrets, log: self.log, dir, url })
    }

    /// The same without one of its arguments. It does not run yet.
    pub fn without(&self, name: &str) -> Result<Self> {
        let mut arguments = self.arguments.clone();
        let at = arguments.iter().position(|argument| argument == name);
        let at = at.ok_or_else(|| eyre!("{name} is not an argument"))?;
        arguments.drain(at..at + 2);
        let (secrets, dir, url) = (self.secrets.clone(), self.dir.clone(), self.url.clone());
        Ok(Self { process: Mutex::default(), arguments, secrets, log: self.log, dir, url })
    }

    /// Runs `stipend ledger repair` with its settings; whether it ended well, and what it said.
    ///
    /// # Errors
    /// If it does not end within a minute.
    pub async fn repair(&self, more: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new(binary()?);
        command.args(["--json", "ledger", "repair"]).args(&self.arguments).args(more);
        command.env_clear().envs(self.secrets.iter().map(|(name, value)| (name, value)));
        let log = self.dir.join(format!("repair-{}.log", free_port()?));
        let mut process = Process::start(&mut command, &log)?;
        let status = eventually("the repair ends", async || process.ended()).await?;
        Ok((status.success(), std::fs::read_to_string(log)?))
    }

    /// Examines its ledger, running or not, as `stipend ledger check` does.
    ///
    /// # Errors
    /// If there is any difference; it says which.
    pub fn prove(&self) -> Result<()> {
        let database = self.argument("--database")?;
        let mut command = Command::new(binary()?);
        let said = command.args(["ledger", "check", "--database", database]).env_clear().output()?;
        if said.status.success() { Ok(()) } else { bail!("{}", String::from_utf8_lossy(&said.stdout)) }
    }

    fn argument(&self, name: &str) -> Result<&str> {
        let at = self.arguments.iter().position(|argument| argument == name);
        let value = at.and_then(|at| self.arguments.get(at + 1));
        Ok(value.ok_or_else(|| eyre!("{name} is not an argument"))?)
    }

    fn command(&self, arguments: &[String]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .arg("serve")
            .args(arguments)
            // What a developer's shell sets must not change a test.
            .env_clear()
            .envs(self.secrets.iter().map(|(name, value)| (name, value)))
            .env("RUST_LOG", self.log);
        Ok(command)
    }

    /// Kills it as a crash would: it gets no chance to tidy up.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        match self.process().take() {
            Some(mut process) => process.kill(),
            None => bail!("the relayer does not run"),
        }
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// If it does not run, or its exit is no success.
    pub fn stop(&mut self) -> Result<()> {
        match self.process().take() {
            Some(mut process) => process.stop(),
            None => bail!("the relayer does not run"),
        }
    }
}

/// Gives an argument another value.
fn set(arguments: &mut [String], name: &str, value: &str) -> Result<()> {
    let at = arguments.iter().position(|argument| argument == name);
    let place = at.and_then(|at| arguments.get_mut(at + 1));
    value.clone_into(place.ok_or_else(|| eyre!("{name} is not an argument"))?);
    Ok(())
}

/// The password of the submitter's keystore.
pub(crate) const KEYSTORE_PASSWORD: &str = "correct horse battery staple";

/// The submitter's key as `cast wallet` would keep it.
fn keystore(dir: &Path, keys: &Keys) -> Result<PathBuf> {
    let (name, key) = ("submitter.keystore", keys.submitter.to_bytes());
    PrivateKeySigner::encrypt_keystore(dir, &mut OsRng, key, KEYSTORE_PASSWORD, Some(name))?;
    Ok(dir.join(name))
}
