//! The verdict after a run with faults: what was promised was done, once, and nothing else was.
//!
//! What was promised is the test's own memory of every answer that it got; what was done is read from
//! the chain by plain JSON-RPC, with nothing of ours between.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::{Address, B256, U256, keccak256};
use eyre::{OptionExt, Result, WrapErr, ensure, eyre};
use serde_json::{Value, json};
use stipend_bindings::{Domain, Spend};
use stipend_client::{Accepted, Client};
use stipend_core::{
    Amount, Code, MandateId, PaymentId,
    api::{Mandate, NewPayment, Payment, PaymentState},
    nonce::NonceWindow,
};
use tokio::time::sleep;

use crate::{
    World, balance,
    card_buyer::finish_card,
    eventually::POLL,
    onchain::{cards, payments, payments_in},
};

/// Blocks, on top of those that finality takes, within which everything that was accepted must end once
/// all is well.
const BLOCKS: u64 = 40;

/// How often the relayer is looked at per block that is made: it works between blocks.
const LOOKS: u32 = 3;

/// An agent, and the mandates that it pays from.
#[derive(Clone, Debug)]
pub struct Account {
    /// The relayer as the agent sees it.
    pub client: Client,
    pub mandates: Vec<MandateId>,
}

/// A payment that was accepted: what was signed, and what was answered.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What the agent signed.
    pub signed: NewPayment,
    /// What the relayer called it.
    pub id: PaymentId,
}

/// What agents remember. All clones are one.
#[derive(Clone, Debug)]
pub struct AcceptedPayments {
    domain: Domain,
    kept: Arc<Mutex<Vec<Kept>>>,
}

impl AcceptedPayments {
    /// Nothing yet, in this world.
    pub fn of(world: &World) -> Self {
        Self { domain: world.escrow.domain(), kept: Arc::default() }
    }

    /// Remembers an answer, which must be about what was signed.
    ///
    /// # Errors
    /// If it is about something else.
    pub fn keep(&self, signed: NewPayment, answer: &Accepted<Payment>) -> Result<()> {
        let payment = &answer.object;
        let NewPayment { mandate, payee, amount, nonce, deadline, reference, .. } = signed;
        let spend = Spend::new(mandate, payee, amount, nonce, deadline, reference)?;
        let digest = self.domain.spend_digest(&spend);
        ensure!(payment.digest == digest, "signed was {digest}, answered was {payment:?}");
        self.kept().push(Kept { signed, id: payment.id });
        Ok(())
    }

    /// Everything so far, in the order in which the answers came.
    pub fn all(&self) -> Vec<Kept> {
        self.kept().clone()
    }

    /// How much there is.
    pub fn len(&self) -> usize {
        self.kept().len()
    }

    /// Whether nothing was accepted yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of those from these mandates, if there is any: another one for each number.
    pub fn one_of(&self, mandates: &[MandateId], number: usize) -> Option<Kept> {
        let kept = self.kept();
        let (later, earlier) =
            kept.split_at_checked(number.wrapping_mul(31) % kept.len().max(1)).map(|it| (it.1, it.0))?;
        later.iter().chain(earlier).find(|kept| mandates.contains(&kept.signed.mandate)).cloned()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// Payments that were settled.
    pub settled: usize,
    /// Payments that failed for a reason that is true on chain, their money back.
    pub failed: usize,
    /// How many blocks it took until all had ended.
    pub blocks: u64,
}

/// Waits until everything has ended, makes the blocks that it takes, and judges: each payment that was
/// accepted is settled exactly once, or failed for one of the four reasons; the chain holds no other
/// payment; ledger and chain agree to the last unit; the relayer is ready.
///
/// # Errors
/// Says what is not so.
pub async fn reconcile(world: &World, accounts: &[Account], accepted: &AcceptedPayments) -> Result<Reconciliation> {
    let mut found = Reconciliation { blocks: everything_ends(world, accounts).await?, ..Reconciliation::default() };
    let chain = Chain::read(world).await?;
    let mut known = BTreeMap::new();
    for account in accounts {
        for id in &account.mandates {
            let mandate = account.client.mandate(*id).await?;
            ensure!(mandate.reserved.is_zero(), "money is reserved for nothing: {mandate:?}");
            for payment in payments(&account.client, *id).await? {
                match payment.state {
                    PaymentState::Settled => found.settled += 1,
                    _ => found.failed += 1,
                }
                chain.agrees(&payment, &mandate).wrap_err_with(|| format!("{payment:?}"))?;
                known.insert(payment.id, payment);
            }
        }
        balance(world, &account.client, &account.mandates).await?;
    }
    for kept in accepted.all() {
        let payment = known.get(&kept.id).ok_or_else(|| eyre!("accepted, and not there: {kept:?}"))?;
        let signed = &kept.signed;
        let as_signed = payment.payee == signed.payee && payment.amount == signed.amount;
        ensure!(as_signed && payment.nonce == signed.nonce, "signed was {signed:?}, kept is {payment:?}");
        let times = chain.spent(signed.mandate, signed.nonce, signed.payee, signed.amount, signed.reference);
        let due = usize::from(payment.state == PaymentState::Settled);
        ensure!(times == due, "{times} times on chain: {payment:?}");
    }
    let mut paid = BTreeMap::<Address, u64>::new();
    for spent in chain.spent.values().flatten() {
        *paid.entry(spent.payee).or_default() += spent.amount;
    }
    for (payee, amount) in paid {
        let has = world.escrow.balance_of(payee).await?;
        ensure!(has.units() == amount, "{payee} has {has}, and was paid {amount} units");
    }
    for account in accounts {
        let health = account.client.healthz().await?;
        ensure!(health.ready, "not ready: {health:?}");
    }
    Ok(found)
}

/// Makes blocks until no payment and no card is under way, and winds up cards; returns how many it took.
async fn everything_ends(world: &World, accounts: &[Account]) -> Result<u64> {
    let most = BLOCKS + world.finality();
    let mut under_way = Vec::new();
    for block in 0..most * u64::from(LOOKS) {
        under_way.clear();
        for account in accounts {
            for id in &account.mandates {
                for state in PaymentState::ALL.into_iter().filter(|state| !state.is_final()) {
                    let payments = payments_in(&account.client, *id, Some(state)).await?;
                    under_way.extend(payments.into_iter().map(|it| format!("{it:?}")));
                }
                for card in cards(&account.client, *id).await?.into_iter().filter(|card| !card.state.is_final()) {
                    finish_card(world, &account.client, &card).await?;
                    under_way.push(format!("{card:?}"));
                }
                // What goes back a state while the states are read one by one is in none of these lists.
                let mandate = account.client.mandate(*id).await?;
                under_way.extend((!mandate.reserved.is_zero()).then(|| format!("{mandate:?}")));
            }
        }
        if under_way.is_empty() {
            return Ok(block / u64::from(LOOKS));
        }
        if block % u64::from(LOOKS) == 0 {
            world.anvil.mine(1).await?;
        }
        sleep(POLL).await;
    }
    let health = match accounts.first() {
        Some(account) => format!("{:?}", account.client.healthz().await?),
        None => String::new(),
    };
    Err(eyre!("still under way after {most} blocks ({health}): {under_way:#?}"))
}

/// The escrow's events that tell where money went, decoded by hand.
#[derive(Debug)]
struct Chain {
    /// By mandate and nonce, where one is what there should be.
    spent: BTreeMap<(B256, u32), Vec<Outflow>>,
    held: Vec<(B256, u32)>,
    skipped: Vec<(B256, u32, B256)>,
    ended: Vec<B256>,
    final_time: u64,
}

#[derive(Debug)]
struct Outflow {
    payee: Address,
    amount: u64,
    reference: B256,
    tx: B256,
}

impl Chain {
    async fn read(world: &World) -> Result<Self> {
        let http = reqwest::Client::new();
        let ask = async |method: &str, params: Value| {
            let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            let answer: Value = http.post(world.anvil.url().clone()).json(&call).send().await?.json().await?;
            answer.get("result").cloned().ok_or_else(|| eyre!("{method}: {answer}"))
        };
        let head = ask("eth_blockNumber", json!([])).await?;
        let last_final = U256::from_str_radix(text(&head)?.trim_start_matches("0x"), 16)?;
        let last_final = last_final.saturating_sub(U256::from(world.finality()));
        let block = ask("eth_getBlockByNumber", json!([format!("{last_final:#x}"), false])).await?;
        let time = text(block.get("timestamp").ok_or_eyre("no time")?)?;
        let mut chain = Self {
            spent: BTreeMap::new(),
            held: Vec::new(),
            skipped: Vec::new(),
            ended: Vec::new(),
            final_time: u64::from_str_radix(time.trim_start_matches("0x"), 16)?,
        };
        // What is not final yet is no reason for anything.
        let filter = json!([{
            "address": world.escrow.domain().escrow, "fromBlock": "0x0", "toBlock": format!("{last_final:#x}"),
        }]);
        let topic = |event: &str| keccak256(event);
        let spent = topic("Spent(bytes32,address,uint64,uint32,bytes32)");
        let held = topic("Held(bytes32,address,uint64,uint32,uint40,bytes32)");
        let skipped = topic("Skipped(bytes32,uint32,uint8)");
        let ended = [
            topic("Revoked(bytes32,address)"),
            topic("Returned(bytes32,address,uint64,uint64)"),
            topic("Rolled(bytes32,bytes32,uint64)"),
        ];
        for log in ask("eth_getLogs", filter).await?.as_array().into_iter().flatten() {
            let log = Log::of(log)?;
            let (name, mandate) = (log.topic(0)?, log.topic(1).unwrap_or_default());
            if name == spent {
                chain.spent.entry((mandate, u32::try_from(log.number(1)?)?)).or_default().push(Outflow {
                    payee: Address::from_word(log.topic(2)?),
                    amount: log.number(0)?,
                    reference: log.word(2)?,
                    tx: log.tx,
                });
            } else if name == held {
                chain.held.push((mandate, u32::try_from(log.number(1)?)?));
            } else if name == skipped {
                chain.skipped.push((mandate, u32::try_from(log.number(0)?)?, log.tx));
            } else if ended.contains(&name) {
                chain.ended.push(mandate);
            }
        }
        Ok(chain)
    }

    /// How often exactly this was paid.
    fn spent(&self, mandate: MandateId, nonce: u32, payee: Address, amount: Amount, reference: B256) -> usize {
        let same = |it: &&Outflow| (it.payee, it.amount, it.reference) == (payee, amount.units(), reference);
        self.spent.get(&(mandate.0, nonce)).into_iter().flatten().filter(same).count()
    }

    /// That a payment which has ended did so for a reason.
    fn agrees(&self, payment: &Payment, mandate: &Mandate) -> Result<()> {
        let (id, nonce) = (payment.mandate.0, payment.nonce);
        let times = self.spent(payment.mandate, nonce, payment.payee, payment.amount, payment.reference);
        if payment.state == PaymentState::Settled {
            ensure!(times == 1, "settled, and {times} times on chain");
            let tx = self.spent.get(&(id, nonce)).and_then(|spent| spent.first()).map(|it| it.tx);
            ensure!(payment.tx_hash == tx, "another transaction paid it: {tx:?}");
            return Ok(());
        }
        ensure!(times == 0, "failed, and {times} times on chain");
        let nonces = self.spent.keys().chain(&self.held).copied();
        let mut nonces = nonces.filter(|(of, _)| *of == id).map(|(_, nonce)| nonce);
        // By ourselves: a skip counts only if no other transaction may still pay it.
        let skipped = self.skipped.iter().any(|it| *it == (id, nonce, payment.tx_hash.unwrap_or_default()));
        let true_on_chain = match payment.reason.ok_or_eyre("failed without a reason")? {
            Code::NonceUsed => nonces.any(|used| used == nonce),
            Code::NonceRetired => nonces.any(|used| NonceWindow::floor(used) > nonce),
            Code::DeadlinePassed => self.final_time >= payment.deadline || skipped,
            Code::Expired => self.final_time >= mandate.terms.expiry || skipped,
            Code::Ended => self.ended.contains(&id) || skipped,
            _ => skipped && !mandate.terms.guardian.is_zero(),
        };
        ensure!(true_on_chain, "its reason is not true on chain, final up to {}", self.final_time);
        Ok(())
    }
}

struct Log {
    topics: Vec<B256>,
    data: Vec<u8>,
    tx: B256,
}

impl Log {
    fn of(log: &Value) -> Result<Self> {
        let field = |name: &str| log.get(name).ok_or_else(|| eyre!("a log without {name}: {log}"));
        let topics = field("topics")?.as_array().into_iter().flatten();
        Ok(Self {
            topics: topics.map(|topic| Ok(text(topic)?.parse()?)).collect::<Result<_>>()?,
            data: alloy_primitives::hex::decode(text(field("data")?)?)?,
            tx: text(field("transactionHash")?)?.parse()?,
        })
    }

    fn topic(&self, index: usize) -> Result<B256> {
        self.topics.get(index).copied().ok_or_eyre("a log with fewer topics than it should have")
    }

    fn word(&self, index: usize) -> Result<B256> {
        let word =
            self.data.get(index * 32..(index + 1) * 32).ok_or_eyre("a log with less data than it should have")?;
        Ok(B256::from_slice(word))
    }

    fn number(&self, index: usize) -> Result<u64> {
        Ok(U256::from_be_bytes(self.word(index)?.0).try_into()?)
    }
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| eyre!("no text: {value}"))
}
