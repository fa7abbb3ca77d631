//! One world in which the relayer dies at a failpoint, over and over: something to do that comes by
//! each point, and how everything is brought to its end afterwards.

use std::sync::{Mutex, MutexGuard, PoisonError};

use alloy_primitives::{Address, B256, U256};
use eyre::{OptionExt, Result, bail};
use stipend_bindings::abi::MockUSDC;
use stipend_client::{Client, CreateCard, Pay};
use stipend_core::{
    Amount, Code, MandateId,
    api::{Card, NewCard, NewMandate, NewMandateRequest, NewPayment, PaymentState},
    card::CardState,
    policy::MandateState,
};
use stipend_e2e::{
    AcceptedPayments, Account, CardSettings, Purchase, Reconciliation, Settings, World, eventually, reconcile,
};

use crate::{asking, payee, usdc};

/// Whom the token does not let be paid while a test says so.
const REFUSED: Address = Address::repeat_byte(0xbb);

/// A base fee that what was signed before does not pay, below what the relayer pays at most.
const SPIKE: u64 = 60_000_000_000;

/// Any other one.
const LOW_BASE_FEE: u64 = 1_000_000_000;

/// How often something is done at most until it has come by a point three times.
const ROUNDS: usize = 8;

pub(super) struct Lane {
    world: World,
    agent: Client,
    mandate: MandateId,
    accepted: AcceptedPayments,
    begun: Mutex<Begun>,
}

/// What somebody has signed and, perhaps, got no answer to.
#[derive(Default)]
struct Begun {
    payments: Vec<NewPayment>,
    cards: Vec<NewCard>,
    approvals: Vec<NewMandate>,
    /// Mandates beyond the first one.
    mandates: Vec<MandateId>,
    /// Those whose time is over.
    over: Vec<(MandateId, Amount)>,
    count: u64,
}

impl Lane {
    pub(super) async fn start(name: &str) -> Result<Self> {
        let cards = Some(CardSettings { poll: 1, ..CardSettings::default() });
        let world = World::with(name, &Settings { cards, log: "info", ..Settings::default() }).await?;
        let mandate = world.open(&asking("100000")?).await?.id;
        let agent = world.agent()?;
        Ok(Self { accepted: AcceptedPayments::of(&world), world, agent, mandate, begun: Mutex::default() })
    }

    pub(super) const fn world(&self) -> &World {
        &self.world
    }

    /// Has the relayer die at the so-many-th passing of a point, starts it again, and judges.
    pub(super) async fn dies_at(&mut self, point: &str, passing: u32) -> Result<Reconciliation> {
        self.world.relayer.begin_to_die_at(&format!("{point}:{passing}"))?;
        let mut rounds = 0;
        loop {
            let outcome = tokio::select! {
                biased;
                died = self.has_died() => { died?; break }
                outcome = self.comes_by(point) => outcome,
            };
            rounds += 1;
            // What failed may have done so because it is dying.
            if let Err(error) = outcome {
                let died = tokio::time::timeout(std::time::Duration::from_secs(5), self.has_died()).await;
                died.map_err(|_| error)??;
                break;
            }
            if rounds == ROUNDS {
                bail!("it never came to {point} for the {passing}. time");
            }
        }
        self.world.anvil.next_base_fee(LOW_BASE_FEE).await?;
        self.world.anvil.automine(true).await?;
        self.world.anvil.mine(1).await?;
        self.world.relayer.restart().await?;
        self.ends().await
    }

    async fn has_died(&self) -> Result<()> {
        eventually("it dies", async || Ok(self.world.relayer.has_died()?.then_some(()))).await
    }

    /// Something that comes by the point at least once.
    async fn comes_by(&self, point: &str) -> Result<()> {
        eventually("it takes work", async || Ok(self.world.relayer.is_ready().await.then_some(()))).await?;
        match point.split_once('.').ok_or_eyre("a point without a dot")? {
            ("start", _) => bail!("{point} is passed before it takes work"),
            ("writer" | "payment" | "settle" | "send" | "mine" | "finalize", _)
            | ("follow", "read" | "mining" | "finalizing") => self.a_payment().await,
            ("request" | "approval" | "open", _) => self.an_opening().await,
            ("sweep", _) => self.a_sweep().await,
            ("unmine", _) | ("follow", "unmining") => self.a_reorg().await,
            ("replace", _) => self.a_replacement().await,
            ("wait", _) => self.a_refusal().await,
            ("card", "pausing" | "paused") => self.a_card_whose_hold_is_unmined().await,
            ("release", _) => self.an_unused_card().await,
            ("card" | "hold" | "charge" | "webhook" | "capture", _) => self.a_used_card().await,
            _ => bail!("nothing is known that comes by {point}"),
        }
    }

    async fn pay(&self, payee: Address) -> Result<stipend_core::api::Payment> {
        let number = {
            let mut begun = self.begun();
            begun.count += 1;
            begun.count
        };
        let reference = Some(B256::from(U256::from(number)));
        let pay = Pay { reference, ..Pay::new(self.mandate, payee, Amount::from_units(10_000 + number)?) };
        let signed = self.world.sign(&self.agent, &pay).await?;
        self.begun().payments.push(signed.clone());
        let accepted = self.agent.send_payment(&signed, None).await?;
        self.begun().payments.retain(|begun| begun.nonce != signed.nonce);
        self.accepted.keep(signed, &accepted)?;
        Ok(accepted.object)
    }

    async fn a_payment(&self) -> Result<()> {
        let payment = self.pay(payee(1)).await?;
        self.world.settled(&self.agent, &payment).await.map(drop)
    }

    async fn a_reorg(&self) -> Result<()> {
        let anvil = &self.world.anvil;
        anvil.automine(false).await?;
        let payment = self.pay(payee(2)).await?;
        anvil.arrived().await?;
        anvil.mine(1).await?;
        self.world.payment_in(&self.agent, &payment, PaymentState::Mined).await?;
        anvil.reorg(1).await?;
        self.world.payment_in(&self.agent, &payment, PaymentState::Submitted).await?;
        anvil.automine(true).await?;
        self.world.settled(&self.agent, &payment).await.map(drop)
    }

    /// Fees rise until a transaction that was sent is not mined for long.
    async fn a_replacement(&self) -> Result<()> {
        let anvil = &self.world.anvil;
        anvil.automine(false).await?;
        let payment = self.pay(payee(3)).await?;
        let first = anvil.arrived().await?;
        eventually("there is another attempt", async || {
            anvil.next_base_fee(SPIKE).await?;
            anvil.mine(1).await?;
            self.world.followed(&self.agent).await?;
            let now = self.agent.payment(payment.id, None).await?;
            Ok((now.tx_hash != Some(first) || now.state != PaymentState::Submitted).then_some(()))
        })
        .await?;
        anvil.next_base_fee(LOW_BASE_FEE).await?;
        anvil.automine(true).await?;
        self.world.settled(&self.agent, &payment).await.map(drop)
    }

    /// The token refuses a payee, for a while.
    async fn a_refusal(&self) -> Result<()> {
        let (chain, token, by) = (self.world.escrow.chain(), self.world.escrow.token(), &self.world.keys.guardian);
        chain.send(by, token, &MockUSDC::blacklistCall { account: REFUSED }).await?;
        self.world.followed(&self.agent).await?;
        let payment = self.pay(REFUSED).await?;
        eventually("it waits for a reason", async || {
            let payment = self.agent.payment(payment.id, None).await?;
            Ok((payment.reason == Some(Code::TransferFailed)).then_some(()))
        })
        .await?;
        chain.send(by, token, &MockUSDC::unBlacklistCall { account: REFUSED }).await?;
        self.world.settled(&self.agent, &payment).await.map(drop)
    }

    /// A mandate that an operator without ETH opens by a message.
    async fn an_opening(&self) -> Result<()> {
        let request = self.agent.request_mandate(&asking("5")?).await?.object;
        let operator = &self.world.keys.gasless;
        let guardian = self.world.keys.guardian.address();
        let terms = request.terms(operator.address(), guardian, self.world.time().await?);
        let authorization = self.world.escrow.authorize(operator, &terms, terms.start + 3_600)?;
        let approval = NewMandate { request: request.id, terms, authorization };
        self.begun().approvals.push(approval.clone());
        self.approved(&approval).await
    }

    async fn approved(&self, approval: &NewMandate) -> Result<()> {
        let operator = self.world.client(&self.world.keys.gasless)?;
        let id = operator.open_mandate(approval).await?.object.id;
        self.world.mandate_in(&self.agent, id, MandateState::Open).await?;
        let mut begun = self.begun();
        begun.approvals.retain(|begun| begun.request != approval.request);
        begun.mandates.push(id);
        Ok(())
    }

    /// A mandate whose time runs out.
    async fn a_sweep(&self) -> Result<()> {
        let brief = NewMandateRequest { duration: "1m".parse()?, ..asking("5")? };
        let mandate = self.world.open(&brief).await?;
        self.begun().over.push((mandate.id, mandate.terms.cap));
        self.world.anvil.pass(61).await?;
        self.world.returned(&self.agent, mandate.id, mandate.terms.cap).await
    }

    async fn requested(&self) -> Result<Card> {
        let card = self.world.sign_card(&self.agent, &CreateCard::new(self.mandate, usdc("25")?)).await?;
        self.begun().cards.push(card.clone());
        let accepted = self.agent.send_card(&card, None).await?;
        self.begun().cards.retain(|begun| begun.nonce != card.nonce);
        Ok(accepted.object)
    }

    async fn a_used_card(&self) -> Result<()> {
        let card = self.requested().await?;
        let card = self.world.card_in(&self.agent, card.id, CardState::Active).await?;
        let secrets = self.world.reveal(&self.agent, card.id).await?;
        let charge = self.world.issuer()?.charge(&secrets, Purchase::of(1_840)).await?.approved()?;
        self.world.issuer()?.clear(&charge, None).await?;
        self.world.card_closed(&self.agent, card.id).await.map(drop)
    }

    async fn an_unused_card(&self) -> Result<()> {
        let card = self.requested().await?;
        self.world.card_in(&self.agent, card.id, CardState::Active).await?;
        self.agent.close_card(card.id).await?;
        self.world.card_closed(&self.agent, card.id).await.map(drop)
    }

    async fn a_card_whose_hold_is_unmined(&self) -> Result<()> {
        let anvil = &self.world.anvil;
        anvil.automine(false).await?;
        let card = self.requested().await?;
        anvil.arrived().await?;
        anvil.mine(1).await?;
        self.world.card_in(&self.agent, card.id, CardState::Active).await?;
        anvil.reorg(1).await?;
        self.issued_is(&card, "PAUSED").await?;
        anvil.arrived().await?;
        anvil.mine(1).await?;
        anvil.automine(true).await?;
        self.issued_is(&card, "OPEN").await?;
        self.agent.close_card(card.id).await?;
        self.world.card_closed(&self.agent, card.id).await.map(drop)
    }

    async fn issued_is(&self, card: &Card, state: &str) -> Result<()> {
        eventually(&format!("{} is {state} at the issuer", card.id), async || {
            let issued = self.world.issuer()?.card_for(card.id).await?;
            Ok((issued["state"] == state).then_some(()))
        })
        .await
    }

    /// Whoever got no answer asks again; what is under way is brought to its end, and judged.
    async fn ends(&self) -> Result<Reconciliation> {
        let world = &self.world;
        let (payments, cards, approvals, over) = {
            let mut begun = self.begun();
            let begun = &mut *begun;
            let over = std::mem::take(&mut begun.over);
            (std::mem::take(&mut begun.payments), std::mem::take(&mut begun.cards), begun.approvals.clone(), over)
        };
        for payment in payments {
            let accepted = self.agent.send_payment(&payment, None).await?;
            self.accepted.keep(payment, &accepted)?;
        }
        for card in cards {
            self.agent.send_card(&card, None).await?;
        }
        for approval in approvals {
            self.approved(&approval).await?;
        }
        for (mandate, cap) in over {
            world.returned(&self.agent, mandate, cap).await?;
            self.begun().mandates.push(mandate);
        }
        let token = world.escrow.token();
        let allow = MockUSDC::unBlacklistCall { account: REFUSED };
        world.escrow.chain().send(&world.keys.guardian, token, &allow).await?;
        let mut mandates = vec![self.mandate];
        mandates.extend(&self.begun().mandates);
        let account = Account { client: self.agent.clone(), mandates };
        reconcile(world, &[account], &self.accepted).await
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
