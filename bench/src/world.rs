//! The world that everything is measured in: a node, the contracts, mandates, and a relayer.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, SolValue};
use eyre::{OptionExt, Result, ensure};
use stipend_bindings::{
    Domain,
    abi::{MandateEscrow, MockUSDC, MockUSDCProxy},
    deployment, terms_on_chain,
};
use stipend_client::{
    Client, PageQuery,
    chain::{Chain, Escrow},
};
use stipend_core::{Amount, DEV_CHAIN_ID, Deployment, api::NewMandateRequest, policy::MandateState};
use url::Url;

use crate::{
    http::{Connection, get},
    issuer::Issuer,
    node::Node,
    payments::{AMOUNT, CAP, Mandate, key},
    process::{Process, eventually, free_port},
    transactions::{Sender, send_all},
    usage,
};

/// How many accounts send for the relayer.
const SUBMITTERS: u64 = 6;

/// Whom the cards' holds are for.
const TREASURY: Address = Address::repeat_byte(0x7e);

/// Gas that no opening exceeds.
const OPEN_GAS: u64 = 300_000;

/// How often something is looked at while it is waited for.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// A node with the contracts.
#[derive(Debug)]
pub(crate) struct Contracts {
    pub(crate) node: Node,
    pub(crate) escrow: Escrow,
    guardian: PrivateKeySigner,
    pub(crate) operator: PrivateKeySigner,
    /// Where the world's files are.
    pub(crate) dir: PathBuf,
}

impl Contracts {
    /// Deploys them on a new node, in a new directory.
    pub(crate) async fn deploy(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let node = Node::start(&dir).await?;
        let (guardian, operator) = (key("guardian")?, key("operator")?);
        for account in [&guardian, &operator] {
            node.fund(account.address()).await?;
        }
        let chain = Chain::connect(node.url()?).await?;
        let token = chain.create(&guardian, MockUSDC::BYTECODE.clone()).await?;
        let proxy: Bytes = [&MockUSDCProxy::BYTECODE[..], &token.abi_encode()].concat().into();
        let token = chain.create(&guardian, proxy).await?;
        let (escrow, _) = Escrow::deploy(&chain, &guardian, token, deployment::SALT).await?;
        let approval = MockUSDC::approveCall { spender: escrow.domain().escrow, value: U256::MAX };
        chain.send(&operator, token, &approval).await?;
        Ok(Self { node, escrow, guardian, operator, dir })
    }

    pub(crate) fn domain(&self) -> Domain {
        self.escrow.domain()
    }

    pub(crate) fn deployment(&self) -> Deployment {
        let Domain { chain_id, escrow } = self.domain();
        Deployment { chain_id, escrow, token: self.escrow.token(), guardian: self.guardian.address() }
    }

    /// Gives somebody tokens.
    pub(crate) async fn mint(&self, to: Address, units: u64) -> Result<()> {
        let call = MockUSDC::mintCall { to, amount: U256::from(units) };
        self.escrow.chain().send(&self.guardian, self.escrow.token(), &call).await?;
        Ok(())
    }

    /// Opens mandates.
    pub(crate) async fn open(&self, mandates: &[Mandate]) -> Result<()> {
        let caps = CAP * mandates.len() as u64;
        self.mint(self.operator.address(), caps).await?;
        let mut sender = Sender::new(&self.node, self.operator.clone()).await?;
        for mandate in mandates {
            let call = MandateEscrow::openCall { terms: terms_on_chain(&mandate.terms)? };
            sender.call(&self.node, self.domain().escrow, call.abi_encode().into(), OPEN_GAS)?;
        }
        let before = self.escrowed().await?;
        send_all(&self.node, &mut [sender]).await?;
        ensure!(self.escrowed().await? - before == caps, "not all mandates were opened");
        Ok(())
    }

    /// The units that the escrow holds.
    pub(crate) async fn escrowed(&self) -> Result<u64> {
        Ok(self.escrow.balance_of(self.domain().escrow).await?.units())
    }
}

/// How long to wait after a block before the `number`th of several measurements, so that they begin at all times of a
/// block's second.
pub(crate) const fn phase(number: u64) -> Duration {
    Duration::from_millis(number * 370 % 1_000)
}

/// How a relayer is set up, where measurements differ.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How many mandates pay.
    pub(crate) mandates: u64,
    /// `--poll-ms`.
    pub(crate) poll_ms: u64,
    /// Whether cards are offered.
    pub(crate) cards: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mandates: 100, poll_ms: 100, cards: false }
    }
}

/// A relayer with mandates to pay from.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) contracts: Contracts,
    pub(crate) relayer: Relayer,
    /// The card issuer, where cards are offered.
    pub(crate) issuer: Option<Issuer>,
    /// What pays.
    pub(crate) mandates: Vec<Mandate>,
    /// The relayer as the mandates' operator sees it.
    operator: Client,
    /// What the escrow held before any payment, in units.
    escrowed: u64,
}

impl World {
    pub(crate) async fn start(dir: PathBuf, program: &Path, settings: &Settings) -> Result<Self> {
        Self::on(Contracts::deploy(dir).await?, program, settings).await
    }

    /// The same where there are contracts already.
    pub(crate) async fn on(contracts: Contracts, program: &Path, settings: &Settings) -> Result<Self> {
        // What was measured before is not the relayer's business.
        let start_block = contracts.node.height().await? + 1;
        let submitters = (0..SUBMITTERS).map(|number| key(&format!("submitter {number}")));
        let submitters: Vec<PrivateKeySigner> = submitters.collect::<Result<_>>()?;
        for submitter in &submitters {
            contracts.node.fund(submitter.address()).await?;
            contracts.escrow.set_submitter(&contracts.guardian, submitter.address(), true).await?;
        }
        let issuer = if settings.cards { Some(Issuer::start(program, &contracts.dir).await?) } else { None };
        let mut relayer = Relayer::new(program, &contracts, &submitters, start_block, settings.poll_ms)?;
        if let Some(issuer) = &issuer {
            relayer.offer_cards(issuer);
        }
        relayer.restart().await?;
        let mandates = request(&contracts, &relayer, settings.mandates).await?;
        contracts.open(&mandates).await?;
        let operator = Client::new(relayer.url()?, contracts.operator.clone())?;
        let escrowed = contracts.escrowed().await?;
        let world = Self { contracts, relayer, issuer, mandates, operator, escrowed };
        eventually("the mandates are open", POLL, async || {
            let mandates = world.operator.mandates(&whole_page()).await?.data;
            let open = mandates.iter().filter(|mandate| mandate.state == MandateState::Open).count();
            Ok((open as u64 == settings.mandates).then_some(()))
        })
        .await?;
        Ok(world)
    }

    /// The processes that are measured, or that the measurement needs.
    pub(crate) fn processes(&self) -> Vec<u32> {
        [self.relayer.id(), self.contracts.node.id()].into_iter().chain(self.issuer.as_ref().map(Issuer::id)).collect()
    }

    /// How many payments are in blocks, as the escrow's own tokens tell.
    pub(crate) async fn mined(&self) -> Result<u64> {
        Ok((self.escrowed - self.contracts.escrowed().await?) / AMOUNT)
    }

    /// How many payments are settled, as the relayer tells the operator: all that was paid from the mandates.
    pub(crate) async fn settled(&self) -> Result<u64> {
        let mandates = self.operator.mandates(&whole_page()).await?.data;
        Ok(mandates.iter().map(|mandate| mandate.paid).map(Amount::units).sum::<u64>() / AMOUNT)
    }
}

/// What as many agents ask for; the relayer takes note of it, and nothing is opened yet.
async fn request(contracts: &Contracts, relayer: &Relayer, count: u64) -> Result<Vec<Mandate>> {
    let start = contracts.escrow.chain().head().await?.time;
    let asked = NewMandateRequest::new(Amount::from_units(CAP)?, "Measure", "30d".parse()?);
    let mut mandates = Vec::new();
    for number in 0..count {
        let agent = key(&format!("agent {number}"))?;
        let request = Client::new(relayer.url()?, agent.clone())?.request_mandate(&asked).await?.object;
        let terms = request.terms(contracts.operator.address(), contracts.guardian.address(), start);
        mandates.push(Mandate::new(contracts.domain(), number, agent, terms)?);
    }
    Ok(mandates)
}

/// As many mandates as a page may have.
fn whole_page() -> PageQuery {
    PageQuery { cursor: None, limit: Some(100) }
}

/// `stipend serve`.
#[derive(Debug)]
pub(crate) struct Relayer {
    process: Option<Process>,
    program: PathBuf,
    arguments: Vec<String>,
    /// What only its environment holds.
    secrets: Vec<(&'static str, String)>,
    dir: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Relayer {
    fn new(
        program: &Path,
        contracts: &Contracts,
        submitters: &[PrivateKeySigner],
        start_block: u64,
        poll_ms: u64,
    ) -> Result<Self> {
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let ledger = contracts.dir.join("ledger");
        std::fs::create_dir(&ledger)?;
        let arguments = [
            ("--listen", address.to_string()),
            ("--rpc-url", contracts.node.url()?.to_string()),
            ("--database", ledger.join("ledger.db").display().to_string()),
            ("--chain-id", DEV_CHAIN_ID.to_string()),
            ("--escrow", contracts.domain().escrow.to_string()),
            ("--guardian", contracts.guardian.address().to_string()),
            ("--start-block", start_block.to_string()),
            ("--confirmations", "1".into()),
            ("--finality", "2".into()),
            ("--poll-ms", poll_ms.to_string()),
            ("--rate-peer", "1000000".into()),
            ("--rate-total", "1000000".into()),
            ("--rate-agent", "1000000".into()),
        ];
        let keys: Vec<String> = submitters.iter().map(|key| key.to_bytes().to_string()).collect();
        Ok(Self {
            process: None,
            program: program.to_owned(),
            arguments: arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect(),
            secrets: vec![("STIPEND_PRIVATE_KEY", keys.join(","))],
            dir: contracts.dir.clone(),
            address,
        })
    }

    /// Offers cards, from its next start on. The issuer tells of everything itself.
    fn offer_cards(&mut self, issuer: &Issuer) {
        let arguments = [
            ("--issuer-url", format!("http://{}", issuer.address)),
            ("--callback-url", format!("http://{}", self.address)),
            ("--treasury", TREASURY.to_string()),
            ("--issuer-poll", "1h".into()),
        ];
        self.arguments.extend(arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        self.secrets.push(("STIPEND_ISSUER_API_KEY", issuer.key.clone()));
    }

    pub(crate) fn url(&self) -> Result<Url> {
        Ok(format!("http://{}", self.address).parse()?)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    /// The ledger's file.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.dir.join("ledger").join("ledger.db")
    }

    /// The bytes of all the ledger's files.
    pub(crate) fn stored(&self) -> Result<u64> {
        usage::size(&self.dir.join("ledger"))
    }

    /// Starts it on what it left behind. Returns how long it took until it was ready for work.
    pub(crate) async fn restart(&mut self) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        command.arg("serve").args(&self.arguments).env_clear();
        command.envs(self.secrets.iter().map(|(name, value)| (name, value))).env("RUST_LOG", "info");
        let start = Instant::now();
        let mut process = Process::start(&mut command, self.dir.join("relayer.log"))?;
        let request = get(self.address, "/readyz", &[]);
        eventually("the relayer is ready", Duration::from_millis(5), async || {
            process.must_run()?;
            let Ok(mut connection) = Connection::open(self.address).await else { return Ok(None) };
            Ok((connection.call(&request).await?.status == 200).then_some(()))
        })
        .await?;
        self.process = Some(process);
        Ok(start.elapsed())
    }

    /// Stops it in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.process.take().ok_or_eyre("the relayer does not run")?.stop()
    }
}
