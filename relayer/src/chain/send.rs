//! The sender: one submitter, one transaction that no block holds at a time.
//!
//! ```text
//! idle ── something waits, simulated ──▶ signed and stored ──▶ sent ──▶ mined (by the follower) ──▶ idle
//!                                              ▲                │
//!                                              └── again, or ◀──┘  no block after a while:
//!                                                  with higher fees  the same call, the same nonce
//! ```
//! What is sent was stored before. What became of it is told by the follower alone: an answer of
//! the node decides at most when to send again.

use std::{collections::HashMap, sync::Arc};

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::{BlockId, eip2718::Encodable2718},
    network::TxSignerSync,
    signers::local::PrivateKeySigner,
};
use alloy_primitives::{Bytes, TxKind, U256};
use alloy_sol_types::SolCall;
use stipend_bindings::{Hold, abi::MandateEscrow, compact, hold_row, terms_on_chain};
use stipend_core::{Code, MandateId, api::PaymentState, merkle, policy::MandateState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    batch::{Batch, Row},
    classify::Sent,
    fees::{self, FeeError, Fees, Market},
    follow::Head,
    rpc::{Call, Rpc, RpcError},
};
use crate::{
    clock,
    failpoint::{self, Point},
    health::Health,
    ledger::{
        House, Ledger, LedgerError,
        books::Step,
        cards, mandates,
        payments::{self, Because},
        transactions::{self, Attempt, Kind},
    },
};

/// Gas of an opening by authorisation or of a sweep, with room to spare.
const CALL_GAS: u64 = 300_000;
/// After so many blocks without being mined an attempt is replaced by one with higher fees.
const REPLACE_AFTER: u64 = 3;
/// How many waiting payments are looked at for a batch.
const CANDIDATES: usize = 600;

/// Why a step of the sender failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The node.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Fees.
    #[error(transparent)]
    Fees(#[from] FeeError),
    /// The key.
    #[error("the submitter's key can't sign: {0}")]
    Key(#[from] alloy::signers::Error),
    /// Not enough ETH.
    #[error("the submitter {submitter} has {balance} wei, a batch may cost {needed}: send it ETH")]
    ShortOfEth {
        /// Who.
        submitter: alloy_primitives::Address,
        /// Has.
        balance: u128,
        /// Needs.
        needed: u128,
    },
    /// The chain's nonce is not the one that the ledger expects.
    #[error(
        "the submitter {submitter} has nonce {chain} on chain, the ledger expects {expected}: a transaction that is not in the ledger used its key; stop whatever else uses it, then run `stipend ledger repair`"
    )]
    ForeignTransaction {
        /// Who.
        submitter: alloy_primitives::Address,
        /// On chain.
        chain: u64,
        /// In the ledger.
        expected: u64,
    },
    /// The node lags behind what we know.
    #[error("the node counts fewer transactions of the submitter than are mined: it lags behind")]
    NodeLags,
}

/// The sender.
#[derive(Debug)]
pub struct Sender {
    /// The node.
    pub rpc: Rpc,
    /// The ledger.
    pub ledger: Ledger,
    /// The house.
    pub house: House,
    /// The submitter's key.
    pub submitter: PrivateKeySigner,
    /// Blocks, the including one counted, after which a mandate can be used.
    pub confirmations: u64,
    /// Wei per gas that are never exceeded.
    pub fee_ceiling: u64,
    /// Where to say what is wrong.
    pub health: Health,
}

/// Something to send.
enum Work {
    Batch(Batch),
    Call(Kind, Bytes),
}

impl Sender {
    /// Begins to use the submitter.
    ///
    /// # Errors
    /// Those of node and ledger.
    pub async fn start(&self) -> Result<(), SendError> {
        let submitter = self.submitter.address();
        let chain = self.rpc.nonce(submitter).await?;
        Ok(self.ledger.writer().write(move |ledger| transactions::start(ledger, submitter, chain)).await?)
    }

    /// Sends until `stop`, whenever the head moves or something was accepted.
    pub async fn run(self, mut heads: watch::Receiver<Head>, stop: CancellationToken) {
        let mut changes = self.ledger.changes();
        let mut sent_at = HashMap::new();
        loop {
            let head = *heads.borrow_and_update();
            changes.mark_unchanged();
            // What the guardian does not allow would fail; it is allowed again at a later head.
            if head.allowed && self.health.halted().is_none() {
                match self.step(head, &mut sent_at).await {
                    Ok(()) => self.health.clear("sender"),
                    Err(error @ SendError::ForeignTransaction { .. }) => self.health.halt("nonce", error.to_string()),
                    Err(error @ SendError::ShortOfEth { .. }) => self.health.warn("funds", error.to_string()),
                    Err(error) => self.health.warn("sender", error.to_string()),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                moved = heads.changed() => if moved.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Sends again what no block holds; when there is nothing of that, the next piece of work.
    async fn step(&self, head: Head, sent_at: &mut HashMap<u64, u64>) -> Result<(), SendError> {
        let submitter = self.submitter.address();
        let pending = self.ledger.read(move |ledger| transactions::pending(ledger, submitter)).await?;
        if !pending.is_empty() {
            for tx in pending {
                // Once per head at most: an answer of the node is no reason to hurry.
                if sent_at.insert(tx.id, head.block.number) != Some(head.block.number) {
                    self.push(&tx, head).await?;
                }
            }
            return Ok(());
        }
        sent_at.clear();
        let Some(work) = self.next_work(head).await? else { return Ok(()) };
        failpoint::pass(Point::SendSimulated);
        if let Some(tx) = self.sign_and_store(work, head).await? {
            failpoint::pass(stored(tx.kind));
            sent_at.insert(tx.id, head.block.number);
            self.push(&tx, head).await?;
        }
        Ok(())
    }

    /// Sends a stored transaction: the last attempt's bytes, or, if that has waited long, a new
    /// attempt with higher fees.
    async fn push(&self, tx: &transactions::Record, head: Head) -> Result<(), SendError> {
        let id = tx.id;
        let attempts = self.ledger.read(move |ledger| transactions::attempts(ledger, id)).await?;
        let Some(mut last) = attempts.last().cloned() else {
            return Err(LedgerError::inconsistent(format!("transaction {id} has no attempt")).into());
        };
        if head.block.number.saturating_sub(last.sent_at) >= REPLACE_AFTER {
            last = self.replace(tx, &last, head).await?.unwrap_or(last);
        }
        let (outcome, message) = self.rpc.send(&last.raw).await;
        failpoint::pass(sent(tx.kind));
        let message = message.unwrap_or_default();
        tracing::info!(tx = %last.hash, nonce = tx.nonce, ?outcome, %message, "sent");
        match outcome {
            Sent::Accepted => {
                self.at_ease();
                Ok(())
            }
            Sent::Unknown => Ok(()),
            Sent::Underpriced => self.replace(tx, &last, head).await.map(|_| ()),
            // Mined by one of our attempts, which the follower will tell; or by a stranger.
            Sent::NonceUsed => self.expect_own_transaction(tx, &attempts).await,
            Sent::NoFunds => {
                let submitter = self.submitter.address();
                let balance = self.rpc.balance(submitter).await?;
                Err(SendError::ShortOfEth { submitter, balance, needed: cost(tx.gas_limit, last.max_fee) })
            }
            Sent::Rejected => Err(RpcError::Refused { method: "eth_sendRawTransaction", message, revert: None }.into()),
        }
    }

    /// The node takes what we send: nothing stands in the way.
    fn at_ease(&self) {
        ["funds", "fees", "submitter"].into_iter().for_each(|alarm| self.health.clear(alarm));
    }

    async fn expect_own_transaction(&self, tx: &transactions::Record, attempts: &[Attempt]) -> Result<(), SendError> {
        for attempt in attempts {
            if self.rpc.receipt(attempt.hash).await?.is_some() {
                return Ok(());
            }
        }
        let submitter = self.submitter.address();
        let chain = self.rpc.nonce(submitter).await?;
        if chain > tx.nonce {
            return Err(SendError::ForeignTransaction { submitter, chain, expected: tx.nonce });
        }
        Err(SendError::NodeLags)
    }

    /// A new attempt with higher fees, stored before it is sent; `None` at the ceiling.
    async fn replace(
        &self,
        tx: &transactions::Record,
        last: &Attempt,
        head: Head,
    ) -> Result<Option<Attempt>, SendError> {
        let last = Fees { max_fee: last.max_fee, priority_fee: last.priority_fee };
        let fees = match fees::replacement(last, self.market(head).await?, self.fee_ceiling) {
            Ok(fees) => fees,
            Err(error) => {
                self.health.warn("fees", error.to_string());
                return Ok(None);
            }
        };
        let attempt = self.sign(tx.nonce, tx.gas_limit, &tx.calldata, fees, head)?;
        failpoint::pass(Point::ReplaceSigned);
        let (id, stored) = (tx.id, attempt.clone());
        self.ledger
            .writer()
            .write(move |ledger| {
                transactions::add_attempt(ledger, id, &stored)?;
                payments::set_tx_hash(ledger, id, stored.hash)
            })
            .await?;
        failpoint::pass(Point::ReplaceStored);
        Ok(Some(attempt))
    }

    async fn market(&self, head: Head) -> Result<Market, SendError> {
        Ok(Market { base_fee: head.base_fee, tip: self.rpc.tip().await? })
    }

    fn sign(&self, nonce: u64, gas_limit: u64, calldata: &Bytes, fees: Fees, head: Head) -> Result<Attempt, SendError> {
        let mut transaction = TxEip1559 {
            chain_id: self.house.chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: fees.max_fee.into(),
            max_priority_fee_per_gas: fees.priority_fee.into(),
            to: TxKind::Call(self.house.escrow),
            value: U256::ZERO,
            access_list: alloy::eips::eip2930::AccessList::default(),
            input: calldata.clone(),
        };
        let signature = self.submitter.sign_transaction_sync(&mut transaction)?;
        let signed = TxEnvelope::Eip1559(transaction.into_signed(signature));
        Ok(Attempt {
            hash: *signed.tx_hash(),
            raw: signed.encoded_2718().into(),
            max_fee: fees.max_fee,
            priority_fee: fees.priority_fee,
            sent_at: head.block.number,
        })
    }

    /// Signs the work and stores it, in one commit with the steps of its payments. Fails, and stores
    /// nothing, if something of it changed meanwhile: then the next step looks again.
    async fn sign_and_store(&self, work: Work, head: Head) -> Result<Option<transactions::Record>, SendError> {
        let (kind, calldata, gas_limit) = match &work {
            Work::Call(kind, calldata) => (*kind, calldata.clone(), CALL_GAS),
            Work::Batch(batch) => {
                let calldata =
                    batch.calldata().ok_or_else(|| LedgerError::inconsistent("a batch that can't be encoded"))?;
                (Kind::Settle, calldata, batch.gas_limit())
            }
        };
        let submitter = self.submitter.address();
        let fees = fees::first(self.market(head).await?, self.fee_ceiling)?;
        let (balance, needed) = (self.rpc.balance(submitter).await?, cost(gas_limit, fees.max_fee));
        if balance < needed {
            return Err(SendError::ShortOfEth { submitter, balance, needed });
        }
        // Nothing of ours is pending, so the chain counts exactly what the ledger has stored.
        let chain = self.rpc.nonce(submitter).await?;
        let expected = self.ledger.read(move |ledger| transactions::next_nonce(ledger, submitter)).await?;
        let expected = expected.ok_or_else(|| LedgerError::inconsistent("a submitter that was never started"))?;
        match chain.cmp(&expected) {
            std::cmp::Ordering::Greater => {
                return Err(SendError::ForeignTransaction { submitter, chain, expected });
            }
            std::cmp::Ordering::Less => return Err(SendError::NodeLags),
            std::cmp::Ordering::Equal => {}
        }
        let attempt = self.sign(expected, gas_limit, &calldata, fees, head)?;
        failpoint::pass(Point::SendSigned);
        let new = transactions::New { submitter, nonce: expected, kind, calldata, gas_limit, attempt };
        Ok(self
            .ledger
            .writer()
            .write(move |ledger| {
                // The nonce is unique in the ledger: if another transaction took it, this fails.
                let id = transactions::insert(ledger, &new)?;
                match &work {
                    Work::Call(Kind::Open(mandate), _) => transactions::set_opening_tx(ledger, *mandate, Some(id))?,
                    Work::Call(..) => {}
                    Work::Batch(batch) => {
                        for row in &batch.rows {
                            let payment = payments::by_id(ledger, row.payment.id)?
                                .filter(|payment| payment.state == PaymentState::Reserved)
                                .ok_or_else(|| {
                                    LedgerError::Inconsistent(format!("{} waits no longer", row.payment.id))
                                })?;
                            transactions::board(ledger, id, payment.seq)?;
                            let because = Because { tx_hash: Some(new.attempt.hash), ..Because::default() };
                            payments::step(ledger, &payment, Step::Submit, because, clock::now())?;
                        }
                    }
                }
                Ok(transactions::pending(ledger, new.submitter)?.into_iter().find(|tx| tx.id == id))
            })
            .await?)
    }

    /// What to send next: openings first, since others wait for them; then a batch; then what is
    /// left of mandates that are over. Everything has been simulated at a block that is followed.
    async fn next_work(&self, head: Head) -> Result<Option<Work>, SendError> {
        for opening in self.ledger.read(transactions::waiting_openings).await? {
            let calldata = opening.calldata;
            if self.would_pass::<MandateEscrow::openWithAuthorizationCall>(&calldata, head).await? {
                return Ok(Some(Work::Call(Kind::Open(opening.mandate), calldata)));
            }
        }
        if let Some((kind, calldata)) = self.next_of_cards(head).await? {
            return Ok(Some(Work::Call(kind, calldata)));
        }
        if let Some(batch) = self.next_batch(head).await? {
            return Ok(Some(Work::Batch(batch)));
        }
        let (guardian, time) = (self.house.guardian, head.block.time);
        for mandate in self.ledger.read(move |ledger| mandates::to_sweep(ledger, guardian, time)).await? {
            let terms = terms_on_chain(&mandate.terms).map_err(LedgerError::inconsistent)?;
            let calldata = MandateEscrow::sweepCall { terms }.abi_encode().into();
            if self.would_pass::<MandateEscrow::sweepCall>(&calldata, head).await? {
                return Ok(Some(Work::Call(Kind::Sweep(mandate.id), calldata)));
            }
        }
        Ok(None)
    }

    /// The next hold, since somebody waits for a card; then the next hold that is to be settled.
    async fn next_of_cards(&self, head: Head) -> Result<Option<(Kind, Bytes)>, SendError> {
        let time = head.block.time;
        let (to_hold, to_settle) =
            self.ledger.read(move |ledger| Ok((cards::to_hold(ledger, time)?, cards::to_settle(ledger)?))).await?;
        for card in to_hold {
            let id = card.mandate;
            let mandate = self.ledger.read(move |ledger| mandates::get(ledger, id)).await?;
            let open =
                |mandate: &mandates::Record| mandate.state(head.block.number, self.confirmations) == MandateState::Open;
            let Some(mandate) = mandate.filter(open) else { continue };
            let calldata = hold_calldata(&card, &mandate)
                .ok_or_else(|| LedgerError::inconsistent("a hold that can't be encoded"))?;
            if self.would_pass::<MandateEscrow::hold_1Call>(&calldata, head).await? {
                return Ok(Some((Kind::Hold(card.seq), calldata)));
            }
        }
        for card in to_settle {
            let mandate = self.ledger.read({
                let card = card.clone();
                move |ledger| cards::mandate_of(ledger, &card)
            });
            let terms = terms_on_chain(&mandate.await?.terms).map_err(LedgerError::inconsistent)?;
            let amount = card.to_capture.unwrap_or_default();
            let passes = if amount.is_zero() {
                let calldata = MandateEscrow::releaseCall { terms, nonce: card.nonce }.abi_encode().into();
                let passes = self.would_pass::<MandateEscrow::releaseCall>(&calldata, head).await?;
                passes.then_some((Kind::Release(card.seq), calldata))
            } else {
                let call = MandateEscrow::captureCall {
                    terms,
                    nonce: card.nonce,
                    expectedHeld: card.left().units(),
                    amount: amount.units(),
                    close: true,
                };
                let calldata = call.abi_encode().into();
                let passes = self.would_pass::<MandateEscrow::captureCall>(&calldata, head).await?;
                passes.then_some((Kind::Capture(card.seq), calldata))
            };
            if passes.is_some() {
                return Ok(passes);
            }
        }
        Ok(None)
    }

    /// Whether a call would succeed now. One that would not waits: it may later.
    async fn would_pass<C: SolCall>(&self, calldata: &Bytes, head: Head) -> Result<bool, SendError> {
        match self.simulate::<C>(calldata, CALL_GAS, head).await {
            Ok(_) => Ok(true),
            Err(error @ RpcError::Refused { .. }) => {
                tracing::info!(call = C::SIGNATURE, %error, "a call would fail now");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The next batch, of rows that all pass together.
    async fn next_batch(&self, head: Head) -> Result<Option<Batch>, SendError> {
        let candidates = self.candidates(head).await?;
        let mut held_back: Vec<(MandateId, u32)> = Vec::new();
        let mut batch = Batch::pack(candidates.clone(), &held_back);
        loop {
            if batch.rows.is_empty() {
                return Ok(None);
            }
            let calldata =
                batch.calldata().ok_or_else(|| LedgerError::inconsistent("a batch that can't be encoded"))?;
            let paid = self.simulate::<MandateEscrow::settleCall>(&calldata, batch.gas_limit(), head).await?;
            if paid == U256::from(batch.rows.len()) {
                self.note(&batch.rows, None).await?;
                return Ok(Some(batch));
            }
            // Find the rows that fail by themselves; where none does, fewer rows may do together.
            let before = held_back.len();
            for row in &batch.rows {
                if let Some(reason) = self.refusal(row, head).await? {
                    if reason == Code::NotSubmitter {
                        let submitter = self.submitter.address();
                        let what = format!("the guardian does not allow the submitter {submitter}: payments wait");
                        self.health.warn("submitter", what);
                    }
                    self.note(std::slice::from_ref(row), Some(reason)).await?;
                    held_back.push((row.payment.mandate, row.payment.nonce));
                }
            }
            if held_back.len() == before {
                batch.rows.truncate(batch.rows.len() / 2);
            } else {
                batch = Batch::pack(candidates.clone(), &held_back);
            }
        }
    }

    /// The payments that wait and whose mandate can be used now.
    async fn candidates(&self, head: Head) -> Result<Vec<Row>, SendError> {
        let (confirmations, block) = (self.confirmations, head.block);
        let rows = self.ledger.read(move |ledger| {
            let mut mandates: HashMap<MandateId, Option<Arc<mandates::Record>>> = HashMap::new();
            let mut rows = Vec::new();
            for payment in payments::reserved(ledger, CANDIDATES)? {
                if payment.deadline <= block.time {
                    continue;
                }
                let id = payment.mandate;
                let mandate = match mandates.get(&id) {
                    Some(known) => known.clone(),
                    None => {
                        let open = mandates::get(ledger, id)?
                            .filter(|mandate| mandate.state(block.number, confirmations) == MandateState::Open);
                        mandates.entry(id).or_insert(open.map(Arc::new)).clone()
                    }
                };
                if let Some(mandate) = mandate {
                    let (terms, intent) = (mandate.terms.clone(), mandate.intent.clone());
                    rows.push(Row { payment, terms, intent });
                }
            }
            Ok(rows)
        });
        Ok(rows.await?)
    }

    async fn simulate<C: SolCall>(&self, calldata: &Bytes, gas: u64, head: Head) -> Result<C::Return, RpcError> {
        let call = Call {
            from: Some(self.submitter.address()),
            to: self.house.escrow,
            data: calldata.clone(),
            gas: Some(gas),
        };
        self.rpc.call::<C>(call, BlockId::hash(head.block.hash)).await
    }

    /// Why a row would fail by itself, or `None` if it would pass.
    async fn refusal(&self, row: &Row, head: Head) -> Result<Option<Code>, SendError> {
        let single = Batch { rows: vec![row.clone()] };
        let calldata = single.calldata().ok_or_else(|| LedgerError::inconsistent("a row that can't be encoded"))?;
        if self.simulate::<MandateEscrow::settleCall>(&calldata, single.gas_limit(), head).await? == U256::from(1) {
            return Ok(None);
        }
        let question = row
            .question(self.submitter.address())
            .ok_or_else(|| LedgerError::inconsistent("a row that can't be encoded"))?;
        let call = Call { from: None, to: self.house.escrow, data: question, gas: None };
        let reason = self.rpc.call::<MandateEscrow::canSpendCall>(call, BlockId::hash(head.block.hash)).await?;
        // What the view lets pass and the verb does not can only be the token.
        Ok(Some(Code::from_reason(reason).unwrap_or(Code::TransferFailed)))
    }

    /// Notes why these rows wait, where that is news.
    async fn note(&self, rows: &[Row], reason: Option<Code>) -> Result<(), SendError> {
        let news: Vec<u64> =
            rows.iter().filter(|row| row.payment.reason != reason).map(|row| row.payment.seq).collect();
        if news.is_empty() {
            return Ok(());
        }
        let note = move |ledger: &rusqlite::Transaction<'_>| {
            news.iter().try_for_each(|seq| payments::set_reason(ledger, *seq, reason))
        };
        self.ledger.writer().write(note).await?;
        failpoint::pass(Point::WaitNoted);
        Ok(())
    }
}

fn hold_calldata(card: &cards::Record, mandate: &mandates::Record) -> Option<Bytes> {
    let times = (card.deadline, card.capture_by);
    let hold = Hold::new(card.mandate, (card.payee, card.amount), card.nonce, times, card.reference).ok()?;
    let payees = mandate.intent.as_ref().and_then(|intent| intent.policy.payees.as_deref()).unwrap_or_default();
    let call = MandateEscrow::hold_1Call {
        terms: terms_on_chain(&mandate.terms).ok()?,
        hold_: hold_row(&hold, compact(&card.signature).ok()?),
        proof: merkle::proof(payees, card.payee).unwrap_or_default(),
        signature: Bytes::new(),
    };
    Some(call.abi_encode().into())
}

/// The failpoint after a transaction of this kind was stored.
const fn stored(kind: Kind) -> Point {
    match kind {
        Kind::Settle => Point::SettleStored,
        Kind::Open(_) => Point::OpenStored,
        Kind::Sweep(_) => Point::SweepStored,
        Kind::Hold(_) => Point::HoldStored,
        Kind::Capture(_) => Point::CaptureStored,
        Kind::Release(_) => Point::ReleaseStored,
    }
}

/// The failpoint after one was sent.
const fn sent(kind: Kind) -> Point {
    match kind {
        Kind::Settle => Point::SettleSent,
        Kind::Open(_) => Point::OpenSent,
        Kind::Sweep(_) => Point::SweepSent,
        Kind::Hold(_) => Point::HoldSent,
        Kind::Capture(_) => Point::CaptureSent,
        Kind::Release(_) => Point::ReleaseSent,
    }
}

fn cost(gas_limit: u64, max_fee: u64) -> u128 {
    u128::from(gas_limit).saturating_mul(u128::from(max_fee))
}
