//! Attempts: signed bytes with a nonce. They are stored before they are sent, and sent again until a
//! block holds one of them.

use std::{sync::Arc, time::Instant};

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::{eip2718::Encodable2718, eip2930::AccessList},
    network::TxSignerSync,
    signers::local::PrivateKeySigner,
};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use rusqlite::Connection;
use stipend_core::{PaymentId, Seconds, api::PaymentState};

use super::{
    REPLACE_AFTER, SendError, Sender, Unmined,
    fees::{self, FeeError, Fees, Market},
    lane::Lane,
    plan::Work,
};
use crate::{
    chain::{follow::Head, rpc::SendOutcome},
    clock,
    failpoint::{self, Point},
    ledger::{
        LedgerError, Priority, STEP_TIME,
        balances::Transition,
        openings,
        payments::{self, TransitionContext},
        revocations,
        transactions::{self, Attempt, AttemptHead, Kind, New},
    },
};

/// Gas of a transfer of nothing to oneself; on some chains it takes more than 21,000.
const CANCEL_GAS: u64 = 100_000;
/// How many payments are put into a transaction together …
const TOGETHER: usize = 64;
/// … and how often in one commit, at most.
const TIMES: usize = 2;

/// What to sign.
struct UnsignedTx<'a> {
    nonce: u64,
    to: Address,
    gas_limit: u64,
    calldata: &'a Bytes,
    fees: Fees,
    cancels: bool,
}

impl Sender {
    /// Sends a stored transaction: the last attempt's bytes; or, if those have waited long, a new
    /// attempt with higher fees; or, if it is obsolete, one that uses up the nonce. Returns the attempt that is now the
    /// last one as well.
    pub(super) async fn rebroadcast(
        &self,
        lane: &Lane,
        unmined: &Unmined,
        head: Head,
        market: Option<Market>,
    ) -> Result<(SendOutcome, AttemptHead), SendError> {
        let mut last = unmined.last;
        let old = head.block.number.saturating_sub(last.sent_at) >= REPLACE_AFTER;
        let to_cancel = unmined.obsolete && !last.cancels;
        // Where the price is not what keeps it, a higher one only costs more.
        let is_cheap =
            |market: Market| market.asks_more_than(Fees { max_fee: last.max_fee, priority_fee: last.priority_fee });
        let newer = match market {
            Some(market) if to_cancel || (old && is_cheap(market)) => {
                self.replace(lane, unmined, last, head, market).await?
            }
            _ => None,
        };
        let raw = match newer {
            Some(newer) => {
                last = newer.head();
                newer.raw
            }
            // Not all of its payments are in it: only what cancels it is sent.
            None if !unmined.whole && !last.cancels => return Ok((SendOutcome::Unknown, last)),
            None => self.ledger.read(move |ledger| transactions::raw(ledger, last.hash)).await?,
        };
        let outcome = self.transmit(lane, unmined, last, &raw).await?;
        if outcome == SendOutcome::Underpriced
            && let Some(market) = market
            && let Some(newer) = self.replace(lane, unmined, last, head, market).await?
        {
            last = newer.head();
        }
        Ok((outcome, last))
    }

    /// Sends the bytes of an attempt, which is stored.
    pub(super) async fn transmit(
        &self,
        lane: &Lane,
        unmined: &Unmined,
        last: AttemptHead,
        raw: &Bytes,
    ) -> Result<SendOutcome, SendError> {
        let (outcome, message) = self.rpc.send(raw).await;
        let Unmined { tx, .. } = *unmined;
        failpoint::pass(sent(tx.kind));
        let message = message.unwrap_or_default();
        tracing::info!(
            submitter = %lane.address, tx = %last.hash, nonce = tx.nonce, cancels = last.cancels, ?outcome, %message,
            "sent"
        );
        if outcome == SendOutcome::TooLarge && tx.kind == Kind::Settle {
            let rows = self.ledger.read(move |ledger| transactions::row_count(ledger, tx.id)).await?;
            self.batches.halve(tx.id, usize::try_from(rows).unwrap_or(usize::MAX));
        }
        Ok(outcome)
    }

    /// A new attempt with higher fees, stored before it is sent; `None` at the ceiling, where the same
    /// bytes are sent again, and without the key.
    async fn replace(
        &self,
        lane: &Lane,
        unmined: &Unmined,
        last: AttemptHead,
        head: Head,
        market: Market,
    ) -> Result<Option<Attempt>, SendError> {
        let Some(key) = &lane.key else { return Ok(None) };
        let (tx, cancels) = (unmined.tx, unmined.obsolete || last.cancels);
        let ceiling = self.ceiling(cancels);
        let last = Fees { max_fee: last.max_fee, priority_fee: last.priority_fee };
        let Ok(fees) = fees::replacement(last, market, ceiling) else { return Ok(None) };
        let (to, gas_limit, calldata) = if cancels {
            (lane.address, CANCEL_GAS.min(tx.gas_limit), Bytes::new())
        } else {
            let calldata = self.ledger.read(move |ledger| transactions::calldata(ledger, tx.id)).await?;
            (self.deployment.escrow, tx.gas_limit, calldata)
        };
        let unsigned = UnsignedTx { nonce: tx.nonce, to, gas_limit, calldata: &calldata, fees, cancels };
        let attempt = self.sign(key, unsigned, head)?;
        failpoint::pass(Point::ReplaceSigned);
        let (id, stored) = (tx.id, attempt.clone());
        self.ledger
            .writer()
            .write_as(Priority::Step, move |ledger| {
                transactions::add_attempt(ledger, id, &stored)?;
                payments::set_tx_hash(ledger, id, stored.hash)
            })
            .await?;
        failpoint::pass(Point::ReplaceStored);
        Ok(Some(attempt))
    }

    /// What an attempt may cost at most.
    pub(super) fn ceiling(&self, cancels: bool) -> u64 {
        if cancels { self.fee_ceiling } else { fees::for_work(self.fee_ceiling) }
    }

    /// Why fees keep transactions waiting, if they do.
    pub(super) fn fee_above_ceiling(&self, unmined: &Unmined, head: Head, market: Market) -> Option<FeeError> {
        let last = unmined.last;
        let old = head.block.number.saturating_sub(last.sent_at) >= REPLACE_AFTER;
        let ceiling = self.ceiling(unmined.obsolete || last.cancels);
        let fees = Fees { max_fee: last.max_fee, priority_fee: last.priority_fee };
        fees::replacement(fees, market, ceiling).err().filter(|_| old && market.asks_more_than(fees))
    }

    fn sign(&self, key: &PrivateKeySigner, unsigned: UnsignedTx<'_>, head: Head) -> Result<Attempt, SendError> {
        let mut transaction = TxEip1559 {
            chain_id: self.deployment.chain_id,
            nonce: unsigned.nonce,
            gas_limit: unsigned.gas_limit,
            max_fee_per_gas: unsigned.fees.max_fee.into(),
            max_priority_fee_per_gas: unsigned.fees.priority_fee.into(),
            to: TxKind::Call(unsigned.to),
            value: U256::ZERO,
            access_list: AccessList::default(),
            input: unsigned.calldata.clone(),
        };
        let signature = key.sign_transaction_sync(&mut transaction)?;
        let signed = TxEnvelope::Eip1559(transaction.into_signed(signature));
        Ok(Attempt {
            hash: *signed.tx_hash(),
            raw: signed.encoded_2718().into(),
            max_fee: unsigned.fees.max_fee,
            priority_fee: unsigned.fees.priority_fee,
            sent_at: head.block.number,
            cancels: unsigned.cancels,
        })
    }

    /// Signs the work and stores it, and then that its payments are in it: a full batch takes longer than one commit may. It
    /// is not sent before all are. Fails if something of it changed meanwhile: then the next step looks again, and cancels
    /// what is stored in part.
    pub(super) async fn sign_and_store(
        &self,
        lane: &Lane,
        work: Work,
        gas_limit: u64,
        head: Head,
        fees: Fees,
    ) -> Result<(Unmined, Bytes), SendError> {
        let unsigned = || LedgerError::inconsistent("a lane that can't sign");
        let key = lane.key.as_ref().ok_or_else(unsigned)?;
        let nonce = lane.free_nonce(head).ok_or_else(unsigned)?;
        let (kind, calldata, rows) = match work {
            Work::Call(call) => (call.kind, call.calldata, Vec::new()),
            Work::Batch(batch) => {
                let calldata =
                    batch.calldata().ok_or_else(|| LedgerError::inconsistent("a batch that can't be encoded"))?;
                (Kind::Settle, calldata, batch.rows)
            }
        };
        let to = self.deployment.escrow;
        let attempt =
            self.sign(key, UnsignedTx { nonce, to, gas_limit, calldata: &calldata, fees, cancels: false }, head)?;
        failpoint::pass(Point::SendSigned);
        let (submitter, last, raw) = (lane.address, attempt.head(), attempt.raw.clone());
        let new = New { submitter, nonce, kind, calldata, gas_limit, attempt };
        let payments: Arc<[PaymentId]> = rows.iter().map(|row| row.payment.id).collect();
        let first = payments.clone();
        let stored = self.ledger.writer().write_as(Priority::Step, move |ledger| {
            // The chain counts exactly what the ledger has; and the nonce is unique in the ledger.
            if transactions::next_nonce(ledger, submitter)? != Some(nonce) {
                return Err(LedgerError::Inconsistent(format!("{submitter} has used nonce {nonce}")));
            }
            let id = transactions::insert(ledger, &new)?;
            match kind {
                Kind::Open(mandate) if !openings::attach_to_tx(ledger, mandate, id)? => {
                    return Err(LedgerError::Inconsistent(format!("the opening of {mandate} waits no longer")));
                }
                Kind::Revoke(mandate) => revocations::set_tx(ledger, mandate, Some(id))?,
                _ => {}
            }
            let tx = transactions::by_id(ledger, id)?
                .ok_or_else(|| LedgerError::inconsistent("a transaction that was just stored is gone"))?;
            Ok((tx, submit(ledger, id, last.hash, &first)?))
        });
        let (tx, mut done) = stored.await?;
        failpoint::pass_if(kind == Kind::Settle, Point::SettleStoring);
        while done < payments.len() {
            let rest = payments.clone();
            let submitted = self.ledger.writer().write_as(Priority::Step, move |ledger| {
                submit(ledger, tx.id, last.hash, rest.get(done..).unwrap_or_default())
            });
            done += submitted.await?;
            failpoint::pass(Point::SettleStoring);
        }
        failpoint::pass(stored_as(kind));
        Ok((Unmined { tx, since: last.sent_at, last, obsolete: false, whole: true }, raw))
    }
}

/// Puts the first of these payments into a transaction, as many as a slice of time allows. Returns how many.
fn submit(ledger: &Connection, tx: u64, hash: B256, payments: &[PaymentId]) -> Result<usize, LedgerError> {
    let (start, now): (Instant, Seconds) = (Instant::now(), clock::now());
    let context = TransitionContext { tx_hash: Some(hash), ..TransitionContext::default() };
    let mut done = 0;
    for together in payments.chunks(TOGETHER).take(TIMES) {
        let mut rows = Vec::with_capacity(together.len());
        for id in together {
            let payment = payments::by_id(ledger, *id)?
                .filter(|payment| payment.state == PaymentState::Reserved)
                .ok_or_else(|| LedgerError::Inconsistent(format!("{id} waits no longer")))?;
            transactions::attach_payment(ledger, tx, payment.seq)?;
            rows.push(payment);
        }
        payments::step_all(ledger, &rows, Transition::Submit, context, now)?;
        done += rows.len();
        if start.elapsed() >= STEP_TIME {
            break;
        }
    }
    Ok(done)
}

/// The failpoint after a transaction of this kind was stored.
const fn stored_as(kind: Kind) -> Point {
    match kind {
        Kind::Settle => Point::SettleStored,
        Kind::Open(_) => Point::OpenStored,
        Kind::Revoke(_) | Kind::Sweep(_) => Point::SweepStored,
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
        Kind::Revoke(_) | Kind::Sweep(_) => Point::SweepSent,
        Kind::Hold(_) => Point::HoldSent,
        Kind::Capture(_) => Point::CaptureSent,
        Kind::Release(_) => Point::ReleaseSent,
    }
}
