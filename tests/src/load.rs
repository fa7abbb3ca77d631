//! Agents that pay without a break, and do not give up when the relayer is shot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, U256};
use eyre::{OptionExt, Result, bail, ensure};
use stipend_client::{Error, Pay};
use stipend_core::{Amount, MandateId, api::NewMandateRequest};
use tokio::{task::JoinSet, time::sleep};

use crate::{AcceptedPayments, Account, World, card_buyer::CardBuyer, key};

/// What each agent asks for: more than it will spend.
const CAP: u64 = 100_000_000_000;

/// How many accepted payments are followed by sending one of them again.
const REPEAT_EVERY: u64 = 5;

/// Between two attempts of an agent whose relayer does not answer.
const RETRY: Duration = Duration::from_millis(20);

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many agents pay at the same time.
    pub agents: u64,
    /// How many mandates each of them has.
    pub mandates: u64,
    /// How long an agent rests after each payment.
    pub pause: Duration,
}

impl Default for Shape {
    fn default() -> Self {
        Self { agents: 3, mandates: 2, pause: Duration::from_millis(30) }
    }
}

/// Agents at work; where cards are offered, one of them shops by card beside.
#[derive(Debug)]
pub struct Load {
    accounts: Vec<Account>,
    accepted: AcceptedPayments,
    stop: Arc<AtomicBool>,
    agents: JoinSet<Result<()>>,
    cards: Arc<AtomicU64>,
}

impl Load {
    /// Opens the mandates, and lets the agents begin.
    ///
    /// # Errors
    /// If a mandate can't be opened.
    pub async fn start(world: &World, shape: Shape) -> Result<Self> {
        let mut accounts = Vec::new();
        for agent in 0..shape.agents {
            let client = world.client(&key(&format!("agent {agent}"))?)?;
            let mut mandates = Vec::new();
            for _ in 0..shape.mandates {
                mandates.push(world.open_for(&client, &asking()?).await?.id);
            }
            accounts.push(Account { client, mandates });
        }
        let mut load = Self {
            accounts,
            accepted: AcceptedPayments::of(world),
            stop: Arc::default(),
            agents: JoinSet::new(),
            cards: Arc::default(),
        };
        let count = Arc::new(AtomicU64::new(0));
        for account in &load.accounts {
            let agent = Agent {
                account: account.clone(),
                accepted: load.accepted.clone(),
                stop: Arc::clone(&load.stop),
                count: Arc::clone(&count),
            };
            load.agents.spawn(agent.pays(shape.pause));
        }
        if let (Some(issuer), Some(account)) = (world.shared_issuer(), load.accounts.first()) {
            let card_buyer = CardBuyer {
                client: account.client.clone(),
                mandate: *account.mandates.first().ok_or_eyre("an agent without a mandate")?,
                issuer,
                stop: Arc::clone(&load.stop),
                made: Arc::clone(&load.cards),
            };
            load.agents.spawn(card_buyer.buys());
        }
        Ok(load)
    }

    /// Who pays.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// What was accepted so far.
    pub const fn accepted(&self) -> &AcceptedPayments {
        &self.accepted
    }

    /// How many cards were made so far, where they are offered.
    pub fn cards(&self) -> u64 {
        self.cards.load(Ordering::Relaxed)
    }

    /// Lets the agents finish what they have begun; the relayer must run.
    ///
    /// # Errors
    /// What an agent met that it should not.
    pub async fn stop(mut self) -> Result<(Vec<Account>, AcceptedPayments)> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(agent) = self.agents.join_next().await {
            // The world's own end may speak louder.
            agent?.inspect_err(|error| eprintln!("an agent gave up: {error:?}"))?;
        }
        Ok((self.accounts, self.accepted))
    }
}

fn asking() -> Result<NewMandateRequest> {
    Ok(NewMandateRequest::new(Amount::from_units(CAP)?, "Pay under fire", "30d".parse()?))
}

struct Agent {
    account: Account,
    accepted: AcceptedPayments,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Agent {
    async fn pays(self, pause: Duration) -> Result<()> {
        let mandates = self.account.mandates.iter().cycle();
        for mandate in mandates.take_while(|_| !self.stop.load(Ordering::Relaxed)) {
            let number = self.count.fetch_add(1, Ordering::Relaxed);
            let Some(pay) = self.sign(*mandate, number).await? else { break };
            loop {
                match self.account.client.send_payment(&pay, None).await {
                    Ok(accepted) => {
                        self.accepted.keep(pay, &accepted)?;
                        break;
                    }
                    Err(error) => waits(error).await?,
                }
            }
            if number.is_multiple_of(REPEAT_EVERY) {
                self.asks_again(number).await?;
            }
            sleep(pause).await;
        }
        Ok(())
    }

    /// The next payment, signed; `None` if it is time to stop.
    async fn sign(&self, mandate: MandateId, number: u64) -> Result<Option<stipend_core::api::NewPayment>> {
        let amount = Amount::from_units(1_000 + number % 977)?;
        let pay = Pay { reference: Some(B256::from(U256::from(number))), ..Pay::new(mandate, payee(number), amount) };
        while !self.stop.load(Ordering::Relaxed) {
            match self.account.client.sign_payment(&pay).await {
                Ok(signed) => return Ok(Some(signed)),
                Err(error) => waits(error).await?,
            }
        }
        Ok(None)
    }

    /// A payment that was accepted is never taken for another one.
    async fn asks_again(&self, number: u64) -> Result<()> {
        let Some(kept) = self.accepted.one_of(&self.account.mandates, usize::try_from(number)?) else { return Ok(()) };
        loop {
            match self.account.client.send_payment(&kept.signed, None).await {
                Ok(again) => {
                    ensure!(again.replayed && again.object.id == kept.id, "{kept:?} came back as {again:?}");
                    return Ok(());
                }
                Err(error) => waits(error).await?,
            }
        }
    }
}

/// One of a few payees, whom nobody else pays.
fn payee(number: u64) -> Address {
    let mut bytes = [0xb0; 20];
    bytes[19] = u8::try_from(number % 7).unwrap_or_default();
    bytes.into()
}

/// Waits a little if a relayer that was shot explains the error.
pub(crate) async fn waits(error: Error) -> Result<()> {
    match error {
        Error::Unknown { .. } | Error::Unreachable { .. } => {}
        Error::Problem(problem) if matches!(problem.status, 401 | 429 | 503) => {}
        error => bail!("an agent is told {error:?}"),
    }
    sleep(RETRY).await;
    Ok(())
}
