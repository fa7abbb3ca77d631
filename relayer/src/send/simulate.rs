//! Everything is simulated before it is signed, at a block that is followed. What would fail waits,
//! and says why; nothing fails for a simulation.

use alloy::eips::BlockId;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall;
use stipend_bindings::abi::MandateEscrow;
use stipend_core::{Code, MandateId};

use super::{
    SendError, Sender,
    batch::{Batch, Row},
    plan::{CALL_GAS, ContractCall},
};
use crate::{
    chain::{
        follow::Head,
        rpc::{EthCall, RpcError},
    },
    failpoint::{self, Point},
    ledger::{LedgerError, payments, transactions::Kind},
};

/// Rows, taken apart.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Rows that pass, alone or together.
    pub(super) pass: Vec<Row>,
    /// Those that would fail, and why.
    pub(super) refused: Vec<(Row, Code)>,
    /// Whether not all of them passed together.
    apart: bool,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum BatchCheck {
    /// These rows pass together.
    Passes(Batch),
    /// None does now.
    Refused,
    /// The guardian does not allow the submitter.
    NotSubmitter,
}

impl Sender {
    /// Whether a call would succeed now. One that would not waits: it may later.
    pub(super) async fn would_pass(&self, from: Address, call: &ContractCall, head: Head) -> Result<bool, SendError> {
        let ContractCall { kind, calldata, .. } = call;
        let simulated = match kind {
            Kind::Revoke(_) => {
                self.simulate::<MandateEscrow::revokeWithSignatureCall>(from, calldata, CALL_GAS, head).await.map(drop)
            }
            Kind::Open(_) => self
                .simulate::<MandateEscrow::openWithAuthorizationCall>(from, calldata, CALL_GAS, head)
                .await
                .map(drop),
            Kind::Hold(_) => self.simulate::<MandateEscrow::hold_1Call>(from, calldata, CALL_GAS, head).await.map(drop),
            Kind::Capture(_) => {
                self.simulate::<MandateEscrow::captureCall>(from, calldata, CALL_GAS, head).await.map(drop)
            }
            Kind::Release(_) => {
                self.simulate::<MandateEscrow::releaseCall>(from, calldata, CALL_GAS, head).await.map(drop)
            }
            Kind::Sweep(_) => self.simulate::<MandateEscrow::sweepCall>(from, calldata, CALL_GAS, head).await.map(drop),
            Kind::Settle => self.simulate::<MandateEscrow::settleCall>(from, calldata, CALL_GAS, head).await.map(drop),
        };
        match simulated {
            Ok(()) => Ok(true),
            Err(error @ RpcError::Refused { .. }) => {
                tracing::info!(?kind, %error, "a call would fail now");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes of a batch one of rows that all pass together.
    pub(super) async fn try_batch(&self, from: Address, mut batch: Batch, head: Head) -> Result<BatchCheck, SendError> {
        // The order in which they will stand.
        batch = Batch::pack(batch.rows, &[]);
        let parts = self.partition(from, batch.rows, head).await?;
        if parts.refused.iter().any(|(_, reason)| *reason == Code::NotSubmitter) {
            return Ok(BatchCheck::NotSubmitter);
        }
        self.record_refusals(&parts.refused).await?;
        if parts.refused.is_empty() && !parts.apart {
            return Ok(BatchCheck::Passes(Batch { rows: parts.pass }));
        }
        let held_back: Vec<(MandateId, u32)> =
            parts.refused.iter().map(|(row, _)| (row.payment.mandate, row.payment.nonce)).collect();
        batch = Batch::pack(parts.pass, &held_back);
        // What passes apart can fail together: fewer rows may do.
        while !batch.rows.is_empty() {
            if self.pay_together(from, &batch.rows, head).await? {
                return Ok(BatchCheck::Passes(batch));
            }
            batch.rows.truncate(batch.rows.len() / 2);
        }
        Ok(BatchCheck::Refused)
    }

    /// Finds the rows that would fail, by halves.
    pub(super) async fn partition(&self, from: Address, rows: Vec<Row>, head: Head) -> Result<Partition, SendError> {
        let mut parts = Partition::default();
        let mut stack = vec![rows];
        while let Some(mut rows) = stack.pop() {
            if rows.is_empty() {
                continue;
            }
            if self.pay_together(from, &rows, head).await? {
                parts.pass.extend(rows);
                continue;
            }
            parts.apart = true;
            let half = rows.split_off(rows.len() / 2);
            if rows.is_empty() {
                for row in half {
                    let reason = self.refusal(from, &row, head).await?;
                    parts.refused.push((row, reason));
                }
            } else {
                stack.push(half);
                stack.push(rows);
            }
        }
        Ok(parts)
    }

    /// Whether a batch of these rows would pay all of them.
    async fn pay_together(&self, from: Address, rows: &[Row], head: Head) -> Result<bool, SendError> {
        let batch = Batch { rows: rows.to_vec() };
        let calldata = batch.calldata().ok_or_else(|| LedgerError::inconsistent("a batch that can't be encoded"))?;
        match self.simulate::<MandateEscrow::settleCall>(from, &calldata, batch.gas_limit(), head).await {
            Ok(paid) => Ok(paid == U256::from(rows.len())),
            Err(RpcError::Refused { revert: Some(_), .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Why a row fails alone.
    async fn refusal(&self, from: Address, row: &Row, head: Head) -> Result<Code, SendError> {
        let question = row.question(from).ok_or_else(|| LedgerError::inconsistent("a row that can't be encoded"))?;
        let call = EthCall { from: None, to: self.deployment.escrow, data: question, gas: None };
        let reason = self.rpc.call::<MandateEscrow::canSpendCall>(call, BlockId::hash(head.block.hash)).await?;
        // What the view lets pass and the verb does not can only be the token.
        Ok(Code::from_reason(reason).unwrap_or(Code::TransferFailed))
    }

    async fn simulate<C: SolCall>(
        &self,
        from: Address,
        calldata: &Bytes,
        gas: u64,
        head: Head,
    ) -> Result<C::Return, RpcError> {
        let call = EthCall { from: Some(from), to: self.deployment.escrow, data: calldata.clone(), gas: Some(gas) };
        self.rpc.call::<C>(call, BlockId::hash(head.block.hash)).await
    }

    /// Records why rows wait, where that has changed.
    pub(super) async fn record_refusals(&self, refused: &[(Row, Code)]) -> Result<(), SendError> {
        let news = refused.iter().filter(|(row, reason)| row.payment.reason != Some(*reason));
        self.set_reasons(news.map(|(row, reason)| (row.payment.seq, Some(*reason))).collect()).await
    }

    /// Clears the refusals of rows: they go with the next batch.
    pub(super) async fn clear_refusals(&self, rows: &[Row]) -> Result<(), SendError> {
        self.set_reasons(rows.iter().map(|row| (row.payment.seq, None)).collect()).await
    }

    async fn set_reasons(&self, news: Vec<(u64, Option<Code>)>) -> Result<(), SendError> {
        if news.is_empty() {
            return Ok(());
        }
        let note = move |ledger: &rusqlite::Transaction<'_>| {
            news.iter().try_for_each(|(seq, reason)| payments::set_reason(ledger, *seq, *reason))
        };
        self.ledger.writer().write(note).await?;
        failpoint::pass(Point::WaitNoted);
        Ok(())
    }
}
