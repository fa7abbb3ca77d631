//! `stipend dev`: a chain, the contracts, a relayer, a card issuer and funded keys, as one process
//! tree that stops as one.

pub(crate) mod clock;
mod test_payees;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::providers::{Provider, RootProvider};
use alloy_primitives::U256;
use eyre::{WrapErr, ensure, eyre};
use serde_json::Value;
use stipend_bindings::{abi::MockUSDC, deployment};
use stipend_client::{chain::Escrow, now};
use stipend_core::{
    Amount, DEV_CHAIN_ID, MandateId, Seconds,
    api::NewMandateRequest,
    dev::Ready,
    policy::{Limits, MandateState},
};
use stipend_relayer::{
    api::ApiConfig,
    app::{self, Config, Finality},
    cards::CardsConfig,
    service::RelayLimits,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::{
    anvil::{self, Anvil},
    context::{Context, Progress},
    deploy,
    keys::{DEV_TREASURY, DevAccount},
    logging::{self, LogFormat},
    output, serve, signals,
};
use test_payees::Effects;

/// What each operator gets, in base units: a million USDC.
const FUNDS: u64 = 1_000_000_000_000;

/// How long a seeded mandate lasts.
const SEED_DURATION: &str = "30d";

/// How long a card can be charged.
const CARD_TTL: Seconds = 3_600;

/// A block is final with so many on top of it.
const FINAL_AFTER: u64 = 2;

/// How often it is asked whether the relayer has started.
const ANNOUNCE_POLL: Duration = Duration::from_millis(50);

/// How often the issuer is polled for events that webhooks may have missed.
const ISSUER_POLL: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The keys are anvil's, known to everybody: never use them on another chain. The issuer is a mock: its
cards are worth nothing. The ledger, the issuer's database, the node's log and, with --data, the
chain's state lie in one directory. What is logged is set by RUST_LOG.

Payments to the test payees, of mandates of the dev accounts, don't reach them as usual: they are
denied, skipped on chain, stall, or have their block reorganized away.

Examples:
  stipend dev
  stipend dev --data ./dev  # goes on where it stopped
  stipend dev --mandate 100.00  # with a mandate that is open
  stipend dev --json --port 0 --anvil-port 0 --issuer-port 0  # prints one line of JSON when ready
  stipend dev clock +1d  # of the one that runs, in another terminal")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The relayer's port; 0 takes a free one
    #[arg(long, default_value_t = 8420)]
    port: u16,
    /// The node's port; 0 takes a free one
    #[arg(long, default_value_t = 8545)]
    anvil_port: u16,
    /// The card issuer's port; 0 takes a free one
    #[arg(long, default_value_t = 8430)]
    issuer_port: u16,
    /// Seconds between blocks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    block_time: u64,
    /// Open a mandate over so much USDC for the dev agent, before it is ready; can be given several times
    #[arg(long = "mandate", value_name = "USDC")]
    mandates: Vec<Amount>,
    /// Keep chain and ledger in this directory [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Stop when stdin ends too, as it does when the program that started this one dies
    #[arg(long)]
    until_eof: bool,
    /// The anvil to run [default: the one on PATH, or in node_modules]
    #[arg(long, value_name = "FILE", env = "ANVIL")]
    anvil: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Move the chain's time forward
    Clock(clock::Args),
}

/// Where calls come in.
struct Listeners {
    relayer: TcpListener,
    issuer: TcpListener,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    logging::init(LogFormat::Text, "warn");
    let data = Data::new(args.data.as_deref())?;
    // Before anything starts: a port that is taken is the commonest failure.
    let listeners = Listeners {
        relayer: listen(args.port).await.wrap_err("choose another --port")?,
        issuer: listen(args.issuer_port).await.wrap_err("choose another --issuer-port")?,
    };
    let node_port = listen(args.anvil_port).await.wrap_err("choose another --anvil-port")?.local_addr()?.port();

    let progress = context.progress("starting anvil");
    let mut node = Anvil::start(&anvil::find(args.anvil.clone())?, node_port, &data.log(), data.state().as_deref())?;
    let stop = CancellationToken::new();
    let outcome = {
        let chain = node.url.clone();
        let relayer = play(context, chain, listeners, &data, &args, progress, &stop);
        tokio::pin!(relayer);
        let outcome = tokio::select! {
            ended = &mut relayer => return finish(node, ended.and(Err(eyre!("the relayer exited")))).await,
            ended = node.child.wait() => {
                let status = ended?;
                Err(eyre!("anvil exited ({status}): {}", anvil::last_words(&data.log())))
            }
            asked = signals::stop() => asked.map_err(Into::into),
            ended = end_of_input(), if args.until_eof => ended,
        };
        // The relayer first, while its node still runs.
        stop.cancel();
        outcome.and(relayer.await)
    };
    finish(node, outcome).await
}

/// Returns when nobody can write to stdin any more.
async fn end_of_input() -> eyre::Result<()> {
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await.map(drop).wrap_err("can't read stdin")
}

async fn finish(mut node: Anvil, outcome: eyre::Result<()>) -> eyre::Result<()> {
    signals::end(&mut node.child).await?;
    outcome
}

/// Deploys what is missing and relays until `stop` is canceled.
async fn play(
    context: &Context,
    rpc_url: Url,
    listeners: Listeners,
    data: &Data,
    args: &Args,
    progress: Progress,
    stop: &CancellationToken,
) -> eyre::Result<()> {
    let escrow = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        escrow = prepare(&rpc_url, args.block_time, &progress) => escrow?,
    };
    let mut ready = Ready {
        relayer: format!("http://{}", listeners.relayer.local_addr()?),
        rpc_url: rpc_url.as_str().trim_end_matches('/').to_owned(),
        chain_id: DEV_CHAIN_ID,
        escrow: escrow.domain().escrow,
        token: escrow.token(),
        guardian: DevAccount::Guardian.signer()?.address(),
        submitter: DevAccount::Submitter.signer()?.address(),
        operator: DevAccount::Operator.signer()?.address(),
        agent: DevAccount::Agent.signer()?.address(),
        gasless_operator: DevAccount::GaslessOperator.signer()?.address(),
        payee: DevAccount::Payee.signer()?.address(),
        test_payees: test_payees::addresses(escrow.token()),
        issuer: format!("http://{}", listeners.issuer.local_addr()?),
        issuer_key: Uuid::new_v4().to_string(),
        treasury: DEV_TREASURY,
        mandates: Vec::new(),
        data: data.directory().to_owned(),
    };
    let effects = Effects::new(ready.relayer.parse()?, rpc_url.clone(), ready.token, args.block_time);
    let config = Config {
        rpc_urls: vec![rpc_url],
        chain_id: DEV_CHAIN_ID,
        escrow: ready.escrow,
        guardian: ready.guardian,
        submitters: vec![DevAccount::Submitter.signer()?],
        database: data.database(),
        start_block: Some(0),
        confirmations: 1,
        finality: Finality::Depth(FINAL_AFTER),
        poll: Duration::from_millis(200),
        limits: Limits::default(),
        relaying: RelayLimits::default(),
        gas_budget: None,
        fee_ceiling: serve::DEV_FEE_CEILING,
        api: ApiConfig::default(),
        cards: Some(CardsConfig {
            issuer: ready.issuer.parse()?,
            api_key: ready.issuer_key.clone().into(),
            callback: ready.relayer.parse()?,
            treasury: ready.treasury,
            ttl: CARD_TTL,
            poll: ISSUER_POLL,
        }),
    };
    let issuer = stipend_issuer::Config::new(ready.issuer_key.clone().into(), data.issuer());
    let servers = run_both(config, issuer, listeners, stop);
    tokio::pin!(servers);
    let announced = async {
        let base: Url = ready.relayer.parse()?;
        while stipend_client::Client::info_at(base.clone()).await.is_err() {
            sleep(ANNOUNCE_POLL).await;
        }
        for amount in &args.mandates {
            progress.say(format!("opening a mandate over {amount} USDC"));
            ready.mandates.push(seed(&base, &escrow, *amount).await?);
        }
        drop(progress);
        output::result(context.json(), &ready, to_human)
    };
    tokio::select! {
        ended = &mut servers => return ended,
        announced = announced => announced?,
    }
    tokio::select! {
        ended = &mut servers => ended,
        failed = effects.run() => {
            if let Err(error) = failed && !stop.is_cancelled() {
                output::note(&format!("the test payees are like any other from now on: {error}"));
            }
            servers.await
        }
    }
}

/// Opens a mandate of the dev operator for the dev agent, as both of them would.
async fn seed(relayer: &Url, escrow: &Escrow, amount: Amount) -> eyre::Result<MandateId> {
    let (operator, guardian) = (DevAccount::Operator.signer()?, DevAccount::Guardian.signer()?);
    let agent = stipend_client::Client::new(relayer.clone(), DevAccount::Agent.signer()?)?;
    let asked = NewMandateRequest::new(amount, "A mandate of `stipend dev`", SEED_DURATION.parse()?);
    let request = agent.request_mandate(&asked).await?.object;
    let start = escrow.chain().head().await?.time;
    let terms = request.terms(operator.address(), guardian.address(), start);
    escrow.allow(&operator, terms.cap).await?;
    escrow.open(&operator, &terms).await?;
    let id = escrow.domain().mandate_id(&terms)?;
    while !agent.mandate(id).await.is_ok_and(|mandate| mandate.state == MandateState::Open) {
        sleep(ANNOUNCE_POLL).await;
    }
    Ok(id)
}

/// Relayer and issuer, until one of them ends: then the other does.
async fn run_both(
    relayer: Config,
    issuer: stipend_issuer::Config,
    listeners: Listeners,
    stop: &CancellationToken,
) -> eyre::Result<()> {
    // The issuer stops last: the relayer may be asking it something.
    let issuer_stop = CancellationToken::new();
    let relayer = async {
        let ended = app::run(relayer, listeners.relayer, stop.clone()).await;
        issuer_stop.cancel();
        ended
    };
    let issuer = async {
        let ended = stipend_issuer::run(issuer, listeners.issuer, issuer_stop.clone()).await;
        stop.cancel();
        ended
    };
    let (relayer, issuer) = tokio::join!(relayer, issuer);
    issuer?;
    Ok(relayer?)
}

fn to_human(ready: &Ready) -> String {
    let mandates = ready.mandates.iter().map(|mandate| ("mandate", format!("{mandate}  is open")));
    let table = output::key_value_table(
        [
            ("relayer", ready.relayer.clone()),
            ("node", format!("{} (chain id {})", ready.rpc_url, ready.chain_id)),
            ("escrow", ready.escrow.to_string()),
            ("token", ready.token.to_string()),
            ("operator", format!("{}  has USDC and ETH", ready.operator)),
            ("", format!("{}  has USDC and no ETH, for --gasless", ready.gasless_operator)),
            ("agent", format!("{}  asks and pays", ready.agent)),
            ("payee", format!("{}  can be paid, and refund", ready.payee)),
            ("test payees", format!("{}  is always denied", ready.test_payees.denied)),
            ("", format!("{}  is skipped on chain", ready.test_payees.skip)),
            ("", format!("{}  is paid after a stall", ready.test_payees.stall)),
            ("", format!("{}  is paid, reorganized, and paid again", ready.test_payees.reorg)),
            ("guardian", ready.guardian.to_string()),
            ("submitter", ready.submitter.to_string()),
            ("issuer", format!("{}  a mock: its cards are worth nothing", ready.issuer)),
            ("treasury", ready.treasury.to_string()),
            ("data", ready.data.display().to_string()),
        ]
        .into_iter()
        .chain(mandates),
    );
    let mut settings = String::new();
    if !ready.relayer.ends_with(":8420") {
        settings += &format!("  export STIPEND_RELAYER_URL={}\n", ready.relayer);
    }
    if !ready.rpc_url.ends_with(":8545") {
        settings += &format!("  export STIPEND_RPC_URL={}\n", ready.rpc_url);
    }
    if !ready.issuer.ends_with(":8430") {
        settings += &format!("  export STIPEND_ISSUER_URL={}\n", ready.issuer);
    }
    settings += &format!("  export STIPEND_ISSUER_API_KEY={}\n", ready.issuer_key);
    format!(
        "{table}\nIn another terminal:\n{settings}  \
         stipend mandate request --amount 100.00 --intent \"Automate marketing ops spend\" --duration 30d\n  \
         stipend mandate approve req_…\n  \
         stipend pay --mandate mand_… --to {payee} --amount 4.20\n  \
         stipend refund --mandate mand_… --amount 1.00\n  \
         stipend card create --mandate mand_… --amount 25.00\n  \
         stipend merchant charge --card card_… --amount 18.40 --descriptor \"ADS INC\" --mcc 5734\n  \
         stipend balance\n\nCtrl-C stops everything.",
        payee = ready.payee
    )
}

/// Where chain and ledger are kept.
enum Data {
    Fresh(TempDir),
    Kept(PathBuf),
}

impl Data {
    fn new(kept: Option<&Path>) -> eyre::Result<Self> {
        match kept {
            None => Ok(Self::Fresh(tempfile::Builder::new().prefix("stipend-dev-").tempdir()?)),
            Some(directory) => {
                fs::create_dir_all(directory).wrap_err_with(|| format!("can't create {}", directory.display()))?;
                Ok(Self::Kept(directory.canonicalize()?))
            }
        }
    }

    fn directory(&self) -> &Path {
        match self {
            Self::Fresh(directory) => directory.path(),
            Self::Kept(directory) => directory,
        }
    }

    fn database(&self) -> PathBuf {
        self.directory().join("stipend.db")
    }

    fn issuer(&self) -> PathBuf {
        self.directory().join("issuer.db")
    }

    fn log(&self) -> PathBuf {
        self.directory().join("anvil.log")
    }

    /// The chain's state, if it is to outlive this run: a ledger without its chain is worth nothing.
    fn state(&self) -> Option<PathBuf> {
        match self {
            Self::Fresh(_) => None,
            Self::Kept(directory) => Some(directory.join("anvil.json")),
        }
    }
}

async fn listen(port: u16) -> eyre::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.wrap_err_with(|| format!("can't listen on {address}"))
}

/// Waits for the node and gives it what is missing: contracts, submitter, money.
async fn prepare(rpc_url: &Url, block_time: u64, progress: &Progress) -> eyre::Result<Escrow> {
    let chain = anvil::connect(rpc_url).await?;
    ensure!(chain.id() == DEV_CHAIN_ID, "the node at {rpc_url} is on chain id {}", chain.id());
    let anvil: RootProvider = RootProvider::new_http(rpc_url.clone());
    // A chain whose clock was moved in an earlier run goes on from there.
    let ahead = chain.head().await?.time.saturating_sub(now());
    anvil.raw_request::<_, Value>("evm_increaseTime".into(), (ahead,)).await?;
    progress.say("deploying");
    let guardian = DevAccount::Guardian.signer()?;
    // The deployer's first two transactions create implementation and token, so where the token is is known.
    let token = guardian.address().create(1);
    if chain.has_code(token).await? {
        let escrow = Escrow::deployed(&chain, token, deployment::SALT).await?;
        ensure!(escrow.is_some(), "this chain has no escrow of this version: start with an empty --data directory");
    } else {
        let sent = chain.transactions_of(guardian.address()).await?;
        ensure!(sent == 0, "this chain's deployer has sent other transactions: start with an empty --data directory");
        let created = deploy::mock_token(&chain, &guardian).await?;
        ensure!(created == token, "the token is at {created}, not at {token}");
    }
    let (escrow, _) = Escrow::deploy(&chain, &guardian, token, deployment::SALT).await?;

    let submitter = DevAccount::Submitter.signer()?.address();
    if !escrow.is_submitter(guardian.address(), submitter).await? {
        escrow.set_submitter(&guardian, submitter, true).await?;
    }
    for operator in [DevAccount::Operator, DevAccount::GaslessOperator] {
        let to = operator.signer()?.address();
        if escrow.balance_of(to).await? == Amount::ZERO {
            let mint = MockUSDC::mintCall { to, amount: U256::from(FUNDS) };
            escrow.chain().send(&guardian, token, &mint).await?;
        }
    }
    test_payees::block_all(&escrow).await?;
    // Up to here every transaction had a block of its own, at once. From here on blocks come as on a real chain.
    anvil.raw_request::<_, Value>("evm_setIntervalMining".into(), (block_time,)).await?;
    Ok(escrow)
}
