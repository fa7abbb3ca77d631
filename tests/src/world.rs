//! One test's world: a chain with an escrow, a relayer, and the people around them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolValue;
use eyre::{OptionExt, Result, ensure};
use stipend_bindings::{
    abi::{MockUSDC, MockUSDCProxy},
    deployment,
};
use stipend_client::{
    Accepted, Client, CreateCard, Error, Pay,
    chain::{Chain, Escrow},
    now,
};
use stipend_core::{
    Amount, CardId, DEV_CHAIN_ID, MandateId,
    api::{Card, CardSecrets, Mandate, MandateRequest, NewCard, NewMandateRequest, NewPayment, Payment, PaymentState},
    card::CardState,
    policy::MandateState,
};
use url::Url;

use crate::{
    Anvil, ApiRequest, FaultProxy, HttpSigner, Issuer, Keys, Relayer, Secrets, Settings, eventually,
    relayer::KEYSTORE_PASSWORD,
};

/// What operators have to begin with.
const FUNDS: u64 = 1_000_000_000_000;

/// An ether, in wei.
const ETHER: u128 = 1_000_000_000_000_000_000;

/// How long logs and ledgers of earlier runs are kept.
const KEPT: Duration = Duration::from_secs(3_600);

/// A chain, a relayer and the people around them. When it ends, everything that its processes wrote
/// is searched for secrets, and the test fails if there are any.
#[derive(Debug)]
pub struct World {
    /// The node.
    pub anvil: Anvil,
    pub relayer: Relayer,
    /// What stands between the relayer and the node, where there is to be trouble.
    proxy: Option<FaultProxy>,
    /// The card issuer, where cards are offered.
    issuer: Option<Arc<Issuer>>,
    /// The escrow on the node.
    pub escrow: Escrow,
    /// Whose keys play which part.
    pub keys: Keys,
    /// What must not leak.
    pub secrets: Secrets,
    finality: u64,
    dir: PathBuf,
}

impl World {
    /// A world with an empty ledger. `name` is the test's.
    pub async fn start(name: &str) -> Result<Self> {
        Self::with(name, &Settings::default()).await
    }

    /// The same with a relayer that is set up otherwise.
    pub async fn with(name: &str, settings: &Settings) -> Result<Self> {
        // Fails only if there is one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = directory(name)?;
        let network = settings.network.as_ref();
        let chain_id = network.map_or(DEV_CHAIN_ID, |network| network.chain_id);
        let keys = Keys::of_the_world(chain_id)?;
        let secrets = Secrets::default();
        for (name, key) in [
            ("the guardian's key", &keys.guardian),
            ("the operator's key", &keys.operator),
            ("the agent's key", &keys.agent),
            ("the submitter's key", &keys.submitter),
            ("the gasless operator's key", &keys.gasless),
        ] {
            secrets.key(name, key);
        }
        secrets.password("the keystore's password", KEYSTORE_PASSWORD);
        let anvil = Anvil::start(&dir, chain_id).await?;
        for key in [&keys.guardian, &keys.operator, &keys.agent, &keys.submitter] {
            anvil.set_balance(key.address(), 1_000 * ETHER).await?;
        }
        let escrow = deploy(&anvil, &keys).await?;
        for submitter in keys.submitters(settings.more_submitters)?.iter().skip(1) {
            secrets.key("a submitter's key", submitter);
            anvil.set_balance(submitter.address(), ETHER).await?;
            escrow.set_submitter(&keys.guardian, submitter.address(), true).await?;
        }
        let issuer = match settings.cards {
            Some(_) => Some(Arc::new(Issuer::start(&dir, &secrets).await?)),
            None => None,
        };
        let proxy = match settings.troubled {
            true => Some(FaultProxy::start(anvil.url()).await?),
            false => None,
        };
        if let (Some(network), Some(proxy)) = (network, &proxy) {
            anvil.set_block_gas_limit(network.block_gas).await?;
            anvil.mine_every(1).await?;
            proxy.delay_all(network.latency);
            for (method, fault) in &network.faults {
                proxy.fault(method, fault.clone());
            }
        }
        let node = proxy.as_ref().map_or(anvil.url(), FaultProxy::url);
        let relayer = Relayer::start(&dir, node, issuer.as_deref(), escrow.domain(), &keys, settings).await?;
        if let Some(issuer) = &issuer {
            for secret in issuer.signing_secrets().await? {
                secrets.of_the_issuer("what the issuer signs with", &secret);
            }
        }
        let finality = settings.finality;
        Ok(Self { anvil, relayer, proxy, issuer, escrow, keys, secrets, finality, dir })
    }

    /// What makes trouble between the relayer and the node.
    ///
    /// # Errors
    /// If the world has nothing of the kind.
    pub fn proxy(&self) -> Result<&FaultProxy> {
        self.proxy.as_ref().ok_or_eyre("a world without trouble")
    }

    /// The card issuer.
    ///
    /// # Errors
    /// If the world offers no cards.
    pub fn issuer(&self) -> Result<&Issuer> {
        self.issuer.as_deref().ok_or_eyre("a world without cards")
    }

    /// The same for somebody who works on their own.
    pub(crate) fn shared_issuer(&self) -> Option<Arc<Issuer>> {
        self.issuer.clone()
    }

    /// The relayer as somebody sees it.
    pub fn client(&self, key: &PrivateKeySigner) -> Result<Client> {
        self.secrets.key("a client's key", key);
        Ok(Client::new(self.relayer.url().clone(), key.clone())?)
    }

    /// The relayer as the agent sees it.
    pub fn agent(&self) -> Result<Client> {
        self.client(&self.keys.agent)
    }

    /// The relayer as the operator sees it.
    pub fn operator(&self) -> Result<Client> {
        self.client(&self.keys.operator)
    }

    /// A path of the relayer's.
    pub fn url(&self, path: &str) -> Result<Url> {
        Ok(self.relayer.url().join(path)?)
    }

    /// Signs requests made by hand.
    pub fn signer(&self, key: &PrivateKeySigner) -> Result<HttpSigner> {
        HttpSigner::new(key, self.escrow.domain().chain_id)
    }

    /// A signed GET, made by hand.
    pub async fn get(&self, path: &str, key: &PrivateKeySigner) -> Result<ApiRequest> {
        ApiRequest::get(self.url(path)?).signed(&self.signer(key)?).await
    }

    /// A signed POST, made by hand.
    pub async fn post(&self, path: &str, body: impl Into<Vec<u8>>, key: &PrivateKeySigner) -> Result<ApiRequest> {
        ApiRequest::post(self.url(path)?, body).signed(&self.signer(key)?).await
    }

    /// The agent asks, the operator approves by a transaction, the relayer takes note.
    pub async fn open(&self, body: &NewMandateRequest) -> Result<Mandate> {
        self.open_for(&self.agent()?, body).await
    }

    /// The same for another agent.
    pub async fn open_for(&self, agent: &Client, body: &NewMandateRequest) -> Result<Mandate> {
        let request = agent.request_mandate(body).await?.object;
        let id = self.approve(&request).await?;
        self.mandate_in(agent, id, MandateState::Open).await
    }

    /// The operator approves what was asked for, by a transaction of its own.
    ///
    /// # Errors
    /// If it fails.
    pub async fn approve(&self, request: &MandateRequest) -> Result<MandateId> {
        let operator = &self.keys.operator;
        // The chain's time, as the CLI takes it: a chain that stands still does not come to a later start.
        let start = self.escrow.chain().head().await?.time;
        let terms = request.terms(operator.address(), self.keys.guardian.address(), start);
        self.escrow.allow(operator, terms.cap).await?;
        self.escrow.open(operator, &terms).await?;
        Ok(self.escrow.domain().mandate_id(&terms)?)
    }

    /// A mandate, once it is in this state.
    pub async fn mandate_in(&self, client: &Client, id: MandateId, state: MandateState) -> Result<Mandate> {
        eventually(&format!("{id} is {state:?}"), async || match client.mandate(id).await {
            Ok(mandate) => Ok(Some(mandate).filter(|mandate| mandate.state == state)),
            // Until the opening is confirmed.
            Err(Error::Problem(problem)) if problem.status == 404 => Ok(None),
            Err(error) => Err(error.into()),
        })
        .await
    }

    /// Signs a payment, whose signature must not be in any log from now on.
    ///
    /// # Errors
    /// If the relayer does not know the mandate.
    pub async fn sign(&self, agent: &Client, pay: &Pay) -> Result<NewPayment> {
        let payment = agent.sign_payment(pay).await?;
        self.secrets.signature("a payment's signature", &payment.signature);
        Ok(payment)
    }

    /// Signs a payment and sends it.
    pub async fn pay(&self, agent: &Client, pay: &Pay) -> Result<Result<Accepted<Payment>, Error>> {
        let payment = self.sign(agent, pay).await?;
        Ok(agent.send_payment(&payment, pay.idempotency_key.clone()).await)
    }

    /// A payment, once it is in this state.
    pub async fn payment_in(&self, client: &Client, payment: &Payment, state: PaymentState) -> Result<Payment> {
        eventually(&format!("{} is {}", payment.id, state.name()), async || {
            let payment = client.payment(payment.id, None).await?;
            ensure!(payment.state == state || !payment.state.is_final(), "{payment:?}");
            Ok(Some(payment).filter(|payment| payment.state == state))
        })
        .await
    }

    /// A payment, once it is settled; makes the blocks that it takes.
    pub async fn settled(&self, client: &Client, payment: &Payment) -> Result<Payment> {
        eventually(&format!("{} is settled", payment.id), async || {
            let payment = client.payment(payment.id, None).await?;
            ensure!(payment.state != PaymentState::Failed, "{payment:?}");
            self.anvil.mine(1).await?;
            Ok(Some(payment).filter(|payment| payment.state == PaymentState::Settled))
        })
        .await
    }

    /// Signs a card's hold, whose signature must not be in any log from now on.
    ///
    /// # Errors
    /// If the relayer does not know the mandate, or offers no cards.
    pub async fn sign_card(&self, agent: &Client, card: &CreateCard) -> Result<NewCard> {
        let card = agent.sign_card(card).await?;
        self.secrets.signature("a hold's signature", &card.signature);
        Ok(card)
    }

    /// Signs a card's hold and sends it.
    pub async fn create_card(&self, agent: &Client, card: &CreateCard) -> Result<Result<Accepted<Card>, Error>> {
        // A chain that stands still does not come to the mandate's start by itself.
        let start = agent.mandate(card.mandate).await?.terms.start;
        while self.escrow.chain().head().await?.time < start {
            self.anvil.mine(1).await?;
        }
        let hold = self.sign_card(agent, card).await?;
        Ok(agent.send_card(&hold, card.idempotency_key.clone()).await)
    }

    /// A card, once it is in this state.
    pub async fn card_in(&self, client: &Client, id: CardId, state: CardState) -> Result<Card> {
        eventually(&format!("{id} is {}", state.name()), async || {
            let card = client.card(id).await?;
            ensure!(card.state == state || !card.state.is_final(), "{card:?}");
            Ok(Some(card).filter(|card| card.state == state))
        })
        .await
    }

    /// A card, once it is closed for good; makes the blocks that it takes.
    pub async fn card_closed(&self, client: &Client, id: CardId) -> Result<Card> {
        eventually(&format!("{id} is closed"), async || {
            let card = client.card(id).await?;
            ensure!(card.state != CardState::Failed, "{card:?}");
            self.anvil.mine(1).await?;
            Ok(Some(card).filter(|card| card.state == CardState::Closed))
        })
        .await
    }

    /// What its agent sees of a card, and nobody else from now on.
    ///
    /// # Errors
    /// If it can't be seen.
    pub async fn reveal(&self, agent: &Client, id: CardId) -> Result<CardSecrets> {
        let secrets = agent.card_secrets(id).await?;
        self.secrets.card(&secrets);
        Ok(secrets)
    }

    /// Waits until the relayer has seen the chain's head.
    pub async fn followed(&self, client: &Client) -> Result<()> {
        let head = self.escrow.chain().head().await?;
        eventually(&format!("block {} is seen", head.number), async || {
            Ok((client.info().await?.head.number >= head.number).then_some(()))
        })
        .await
    }

    /// Waits until this much has gone back to the operator for good; makes the blocks that it takes.
    pub async fn returned(&self, client: &Client, id: MandateId, amount: Amount) -> Result<()> {
        eventually(&format!("{amount} of {id} is returned"), async || {
            self.anvil.mine(1).await?;
            Ok((client.mandate(id).await?.returned == amount).then_some(()))
        })
        .await
    }

    /// The later of the chain's time and ours, as the relayer counts.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn time(&self) -> Result<u64> {
        Ok(self.escrow.chain().head().await?.time.max(now()))
    }

    /// Blocks on top of which its relayer takes what happened for final.
    pub const fn finality(&self) -> u64 {
        self.finality
    }

    /// Where this world's files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.relayer.kill();
        self.issuer = None;
        let _ = self.anvil.kill();
        let scanned = self.secrets.scan(&self.dir);
        if !std::thread::panicking() {
            assert!(scanned.is_ok_and(|files| files >= 3), "{:?}", self.secrets.scan(&self.dir));
        }
    }
}

async fn deploy(anvil: &Anvil, keys: &Keys) -> Result<Escrow> {
    let chain = Chain::connect(anvil.url().clone()).await?;
    let by = &keys.guardian;
    let implementation = chain.create(by, MockUSDC::BYTECODE.clone()).await?;
    let token = chain.create(by, code(&MockUSDCProxy::BYTECODE, &implementation.abi_encode())).await?;
    let (escrow, _) = Escrow::deploy(&chain, by, token, deployment::SALT).await?;
    escrow.set_submitter(by, keys.submitter.address(), true).await?;
    for operator in [&keys.operator, &keys.gasless] {
        mint(&escrow, by, operator.address()).await?;
    }
    Ok(escrow)
}

async fn mint(escrow: &Escrow, by: &PrivateKeySigner, to: Address) -> Result<()> {
    let call = MockUSDC::mintCall { to, amount: U256::from(FUNDS) };
    escrow.chain().send(by, escrow.token(), &call).await?;
    ensure!(escrow.balance_of(to).await? == Amount::from_units(FUNDS)?);
    Ok(())
}

fn code(creation: &Bytes, arguments: &[u8]) -> Bytes {
    [creation, arguments].concat().into()
}

/// A new directory below the build's own for temporary files; those of old runs are removed.
fn directory(name: &str) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).unwrap_or(Path::new("target"));
    let runs = target.join("tmp").join("e2e");
    let run = runs.join(std::process::id().to_string());
    fs::create_dir_all(&run)?;
    for old in fs::read_dir(&runs)?.flatten() {
        let modified = old.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if modified.elapsed().is_ok_and(|age| age > KEPT) {
            // Another test may be removing it as well.
            let _ = fs::remove_dir_all(old.path());
        }
    }
    let dir = run.join(format!("{:02}-{name}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&dir)?;
    Ok(dir)
}
