//! Anvil as a child process of `stipend dev`.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use eyre::{WrapErr, bail, eyre};
use stipend_client::chain::Chain;
use stipend_core::DEV_CHAIN_ID;
use tokio::process::{Child, Command};
use url::Url;

/// How long anvil may take to answer.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(20);

/// What ends a process, by its id, as soon as nobody holds the other end of its input.
const END_WITH_INPUT: &str = "read -r _; kill \"$0\"";

/// A running anvil, killed when dropped.
pub(crate) struct Anvil {
    /// Ends it if this process is killed and can't. Dropped first, so that it never looks for an id that is free again.
    _watchdog: Option<Child>,
    pub(crate) child: Child,
    pub(crate) url: Url,
}

impl Anvil {
    /// Starts `program` on loopback, with what it prints in `log`; `state` is loaded at the start and
    /// saved at the end.
    pub(crate) fn start(program: &Path, port: u16, log: &Path, state: Option<&Path>) -> eyre::Result<Self> {
        let log = File::create(log)?;
        let mut command = Command::new(program);
        command
            .args([
                "--host",
                "127.0.0.1",
                "--quiet",
                "--chain-id",
                &DEV_CHAIN_ID.to_string(),
                "--port",
                &port.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C goes to a terminal's whole process group: the node is stopped later, after the relayer.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(state) = state {
            command.arg("--state").arg(state);
        }
        let child = command.spawn().wrap_err_with(|| format!("can't run {}", program.display()))?;
        let watchdog = child.id().map(|id| {
            let mut watchdog = Command::new("sh");
            watchdog.args(["-c", END_WITH_INPUT, &id.to_string()]).process_group(0).kill_on_drop(true);
            watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        });
        Ok(Self { _watchdog: watchdog.transpose()?, child, url: format!("http://127.0.0.1:{port}").parse()? })
    }
}

/// The last lines of what anvil printed.
pub(crate) fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    if lines.is_empty() { "it said nothing".into() } else { lines.into_iter().rev().collect::<Vec<_>>().join("; ") }
}

/// The anvil that was named, the one on PATH, or the one that npm installed where this program was built: what
/// lies in or above the current directory is somebody else's, perhaps.
pub(crate) fn find(named: Option<PathBuf>) -> eyre::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join("anvil")).find(|file| {
        // npm's launcher leaves anvil behind as an orphan when it is stopped.
        file.canonicalize().is_ok_and(|file| !file.iter().any(|part| part == OsStr::new("node_modules")))
    });
    if let Some(anvil) = on_path {
        return Ok(anvil);
    }
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let installed = format!("node_modules/@foundry-rs/anvil-{os}-{arch}/bin/anvil");
    let program = env::current_exe()?;
    let mut places = program.ancestors().map(|directory| directory.join(&installed));
    places.find(|file| file.is_file()).ok_or_else(|| {
        eyre!("no anvil found: install Foundry (https://getfoundry.sh), run `npm ci`, or name it by --anvil")
    })
}

/// Connects to a node that was just started.
pub(crate) async fn connect(rpc_url: &Url) -> eyre::Result<Chain> {
    let start = Instant::now();
    loop {
        match Chain::connect(rpc_url.clone()).await {
            Ok(chain) => return Ok(chain),
            Err(error) if start.elapsed() >= STARTUP_TIMEOUT => bail!("anvil does not answer: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
