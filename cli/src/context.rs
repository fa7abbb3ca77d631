//! What every command has: where relayer and node are, whose key signs, and how to print.

use std::{io, io::IsTerminal, path::PathBuf, time::Duration};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::Address;
use eyre::{OptionExt, WrapErr, bail, ensure};
use indicatif::ProgressBar;
use stipend_client::{
    Client, PageQuery,
    chain::{Chain, Escrow},
};
use stipend_core::{
    MandateId,
    api::{Info, Mandate},
};
use tokio::sync::watch;
use url::Url;

use crate::{
    keys::{DevAccount, KeyArgs},
    output::{self, Interrupted},
    settings::{self, Settings},
    signals,
};

/// The fewest hex digits that stand for an id.
const PREFIX_MIN: usize = 6;

/// What can be given to every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Globals {
    /// Print JSON for programs instead of tables for people
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// The relayer
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "STIPEND_RELAYER_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8420",
        help_heading = "Global options"
    )]
    pub(crate) relayer: Url,
    /// A node of the chain; `serve` takes several, the preferred one first
    #[arg(
        long = "rpc-url",
        global = true,
        value_name = "URL",
        env = "STIPEND_RPC_URL",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = settings::node_url,
        default_value = "http://127.0.0.1:8545",
        help_heading = "Global options"
    )]
    pub(crate) rpc_urls: Vec<Url>,
    /// The configuration file [default: $XDG_CONFIG_HOME/stipend/config.toml or ~/.config/stipend/config.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STIPEND_CONFIG",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
    /// The profile of that file to use [default: `default`, if it has one]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "STIPEND_PROFILE",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) profile: Option<String>,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// What every command has.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) globals: Globals,
    pub(crate) settings: Settings,
    /// What is so if the user interrupts the command.
    in_flight: watch::Sender<Option<String>>,
}

/// The relayer, seen with the caller's key.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) client: Client,
    pub(crate) info: Info,
    pub(crate) signer: PrivateKeySigner,
}

impl Context {
    pub(crate) fn new(globals: Globals, settings: Settings) -> Self {
        Self { globals, settings, in_flight: watch::Sender::new(None) }
    }

    pub(crate) const fn json(&self) -> bool {
        self.globals.json
    }

    /// The relayer and the caller's key, by default the dev account of `role`. Nothing is signed
    /// before the chain id is known to allow it.
    pub(crate) async fn caller(&self, role: DevAccount) -> eyre::Result<Caller> {
        let key = self.globals.keys.key(role)?;
        let info = Client::info_at(self.globals.relayer.clone()).await?;
        self.settings.check(&info)?;
        let signer = key.on(info.chain_id)?;
        let client = Client::new(self.globals.relayer.clone(), signer.clone())?;
        Ok(Caller { client, info, signer })
    }

    /// The node.
    pub(crate) async fn chain(&self) -> eyre::Result<Chain> {
        let url = self.node_url()?;
        let chain = Chain::connect(url.clone()).await;
        let chain =
            chain.wrap_err_with(|| format!("no node at {}: set --rpc-url or STIPEND_RPC_URL", output::url(url)))?;
        self.settings.check_chain(chain.id(), &format!("the node at {}", output::url(url)))?;
        Ok(chain)
    }

    /// The preferred node.
    pub(crate) fn node_url(&self) -> eyre::Result<&Url> {
        self.globals.rpc_urls.first().ok_or_eyre("no node is given: set --rpc-url or STIPEND_RPC_URL")
    }

    /// The escrow that the relayer names, after the chain has confirmed what the relayer says: its
    /// id, that there is an escrow, and which token it holds.
    pub(crate) async fn escrow(&self, info: &Info) -> eyre::Result<Escrow> {
        let chain = self.chain().await?;
        ensure!(
            chain.id() == info.chain_id,
            "the node at {} is on chain id {}, the relayer on {}: set --rpc-url to a node of the relayer's chain",
            output::url(self.node_url()?),
            chain.id(),
            info.chain_id
        );
        let escrow = Escrow::at(chain, info.escrow).await?;
        ensure!(
            escrow.token() == info.token,
            "the escrow {} holds the token {}, and the relayer says {}: do not trust this relayer",
            info.escrow,
            escrow.token(),
            info.token
        );
        Ok(escrow)
    }

    /// The same for those who need nothing else from a relayer.
    pub(crate) async fn relayers_escrow(&self) -> eyre::Result<Escrow> {
        self.escrow(&self.info().await?).await
    }

    /// What the relayer says of itself, for those who can do without.
    pub(crate) async fn info(&self) -> eyre::Result<Info> {
        let info = Client::info_at(self.globals.relayer.clone()).await;
        let info = info.map_err(|error| without_relayer(error.into()))?;
        self.settings.check(&info)?;
        Ok(info)
    }

    /// What is so if the user interrupts the command from now on.
    pub(crate) fn if_interrupted(&self, what: impl Into<String>) {
        self.in_flight.send_replace(Some(what.into()));
    }

    /// Does `work`, unless the user interrupts it once there is something to say. Before that nothing has
    /// happened, and the signal ends the process, in the middle of a question too.
    pub(crate) async fn interruptible(&self, work: impl Future<Output = eyre::Result<()>>) -> eyre::Result<()> {
        let mut in_flight = self.in_flight.subscribe();
        let interrupted = async {
            in_flight.wait_for(Option::is_some).await?;
            signals::stop().await?;
            eyre::Ok(in_flight.borrow().clone().unwrap_or_default())
        };
        tokio::select! {
            done = work => done,
            what = interrupted => Err(Interrupted(what?).into()),
        }
    }

    /// Shows that something takes its time, where somebody may be watching.
    pub(crate) fn progress(&self, doing: impl Into<String>) -> Progress {
        if self.json() || !io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = ProgressBar::new_spinner().with_message(doing.into());
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(Some(bar))
    }
}

impl Caller {
    /// The address that signs.
    pub(crate) const fn address(&self) -> Address {
        self.signer.address()
    }

    /// All mandates of the caller's.
    pub(crate) async fn mandates(&self) -> eyre::Result<Vec<Mandate>> {
        let mut mandates = Vec::new();
        let mut query = PageQuery { cursor: None, limit: Some(100) };
        loop {
            let page = self.client.mandates(&query).await?;
            mandates.extend(page.data);
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                return Ok(mandates);
            }
        }
    }

    /// The mandate that an id, or the beginning of one, stands for. For reading only: what moves
    /// money takes the full id.
    pub(crate) async fn find(&self, text: &str) -> eyre::Result<Mandate> {
        if let Ok(id) = text.parse::<MandateId>() {
            return Ok(self.client.mandate(id).await?);
        }
        let digits = prefix(text)?;
        let mandates = self.mandates().await?;
        unique(mandates, digits)
    }
}

/// The hex digits of a shortened id.
fn prefix(text: &str) -> eyre::Result<&str> {
    let digits = text.strip_prefix(MandateId::PREFIX).unwrap_or(text);
    ensure!(
        digits.len() >= PREFIX_MIN && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        "{} is not a mandate id: expected mand_ and at least {PREFIX_MIN} lower-case hex digits",
        output::sanitize(text)
    );
    Ok(digits)
}

fn unique(mandates: Vec<Mandate>, digits: &str) -> eyre::Result<Mandate> {
    let start = format!("{}{digits}", MandateId::PREFIX);
    let mut found = mandates.into_iter().filter(|mandate| mandate.id.to_string().starts_with(&start));
    match (found.next(), found.next()) {
        (Some(mandate), None) => Ok(mandate),
        (None, _) => bail!("none of your mandates starts with {start}: `stipend mandate list` shows them"),
        (Some(one), Some(other)) => {
            bail!("{start} matches {} and {}, at least: give more digits", one.id, other.id)
        }
    }
}

/// A spinner, gone when dropped.
#[derive(Debug)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Says what is going on now.
    pub(crate) fn say(&self, doing: impl Into<String>) {
        if let Some(bar) = &self.0 {
            bar.set_message(doing.into());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// Adds how to proceed without a relayer, if it is the relayer that fails.
pub(crate) fn without_relayer(report: eyre::Report) -> eyre::Report {
    if report.is::<stipend_client::Error>() {
        report.wrap_err(
            "could not get the mandate's terms from the relayer; pass --escrow 0x… to read them from the chain",
        )
    } else {
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::tests::mandate;

    #[test]
    fn a_prefix_needs_six_digits() {
        assert_eq!(prefix("mand_abc123").unwrap(), "abc123");
        assert_eq!(prefix("abc123").unwrap(), "abc123");
        for bad in ["mand_abc12", "mand_ABC123", "mand_", "pay_abc123", "mand_abc12z"] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_stands_for_one_mandate_or_none() {
        let (one, other) = (mandate([0xab; 32]), mandate([0xcd; 32]));
        let mut near = one.clone();
        near.id.0[31] = 0;
        assert_eq!(unique(vec![one.clone(), other.clone()], "ababab").unwrap().id, one.id);
        assert!(unique(vec![one.clone(), other.clone()], "abcdef").unwrap_err().to_string().contains("none"));
        let error = unique(vec![one, near, other], "ababab").unwrap_err().to_string();
        assert!(error.contains("more digits"), "{error}");
    }
}
