//! Everything is simulated before it is signed, at a block that is followed. What would fail waits,
//! and says why; nothing fails for a simulation.

use alloy::eips::BlockId;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, SolInterface};
use stipend_bindings::abi::MandateEscrow;
use stipend_core::{Code, MandateId};

use super::{
    SendError, Sender,
    batch::{Batch, Row},
    plan::{CALL_GAS, ContractCall, max_gas},
    row_gas::ample,
    size::simulated,
};
use crate::{
    chain::{
        follow::Head,
        rpc::{EthCall, RpcError},
    },
    clock,
    failpoint::{self, Point},
    ledger::{LedgerError, openings, payments, transactions::Kind},
};

/// Rows, taken apart.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Rows that pass, alone or together.
    pub(super) pass: Vec<Row>,
    /// Those that would fail, and why.
    pub(super) refused: Vec<(Row, Code)>,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum BatchCheck {
    /// These rows pass together under this gas limit.
    Passes(Batch, u64),
    /// None does now, and it is stored why.
    Refused,
    /// None does with the gas there is.
    WantsGas,
    /// The guardian does not allow the submitter.
    NotSubmitter,
}

impl Sender {
    /// The gas with which a call would succeed now. One that would not waits: it may later.
    pub(super) async fn would_pass(
        &self,
        from: Address,
        call: &ContractCall,
        head: Head,
    ) -> Result<Option<u64>, SendError> {
        let most = max_gas(head);
        let mut gas = CALL_GAS.min(most);
        loop {
            match self.simulate_call(from, call, gas, head).await {
                // Some margin where the usual gas was not enough: the state can change until it is mined.
                Ok(()) => return Ok(Some(if gas > CALL_GAS { gas.saturating_add(gas / 4).min(most) } else { gas })),
                Err(RpcError::Refused { revert, .. }) if gas < most && may_want_gas(revert.as_ref()) => {
                    gas = gas.saturating_mul(2).min(most);
                }
                Err(RpcError::Refused { revert, message, .. }) => {
                    tracing::info!(kind = ?call.kind, %message, "a call would fail now");
                    if let Kind::Open(id) = call.kind
                        && is_ended(revert.as_ref())
                    {
                        let withdraw = move |ledger: &rusqlite::Transaction<'_>| {
                            openings::withdraw(ledger, id, None, clock::now())
                        };
                        self.ledger.writer().write(withdraw).await?;
                    }
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn simulate_call(&self, from: Address, call: &ContractCall, gas: u64, head: Head) -> Result<(), RpcError> {
        let ContractCall { kind, calldata, .. } = call;
        match kind {
            Kind::Revoke(_) => {
                self.simulate::<MandateEscrow::revokeWithSignatureCall>(from, calldata, gas, head).await.map(drop)
            }
            Kind::Open(_) => {
                self.simulate::<MandateEscrow::openWithAuthorizationCall>(from, calldata, gas, head).await.map(drop)
            }
            Kind::Hold(_) => self.simulate::<MandateEscrow::hold_1Call>(from, calldata, gas, head).await.map(drop),
            Kind::Capture(_) => self.simulate::<MandateEscrow::captureCall>(from, calldata, gas, head).await.map(drop),
            Kind::Release(_) => self.simulate::<MandateEscrow::releaseCall>(from, calldata, gas, head).await.map(drop),
            Kind::Sweep(_) => self.simulate::<MandateEscrow::sweepCall>(from, calldata, gas, head).await.map(drop),
            Kind::Settle => self.simulate::<MandateEscrow::settleCall>(from, calldata, gas, head).await.map(drop),
        }
    }

    /// Makes of a batch one of rows that all pass together, with at most so much gas.
    pub(super) async fn try_batch(
        &self,
        from: Address,
        mut batch: Batch,
        most: u64,
        head: Head,
    ) -> Result<BatchCheck, SendError> {
        if batch.is_to_one_payee()
            && let Some((batch, gas_limit)) = self.fit(from, batch.clone(), most, head).await?
        {
            return Ok(BatchCheck::Passes(batch, gas_limit));
        }
        // What fails, and why, shows row by row in `settle` alone. The order in which they will stand.
        batch = Batch::pack(batch.rows, &[]);
        if let Some((batch, gas_limit)) = self.fit(from, batch.clone(), most, head).await? {
            return Ok(BatchCheck::Passes(batch, gas_limit));
        }
        let parts = self.partition(from, batch.rows, head).await?;
        if parts.refused.iter().any(|(_, reason)| *reason == Code::NotSubmitter) {
            return Ok(BatchCheck::NotSubmitter);
        }
        self.record_refusals(&parts.refused).await?;
        let held_back: Vec<(MandateId, u32)> =
            parts.refused.iter().map(|(row, _)| (row.payment.mandate, row.payment.nonce)).collect();
        batch = Batch::pack(parts.pass, &held_back);
        let cheapest = Batch::cheapest(batch.rows.clone());
        if cheapest.is_to_one_payee()
            && let Some((batch, gas_limit)) = self.fit(from, cheapest, most, head).await?
        {
            return Ok(BatchCheck::Passes(batch, gas_limit));
        }
        // What passes apart can fail together: fewer rows may do.
        while !batch.rows.is_empty() {
            if let Some((batch, gas_limit)) = self.fit(from, batch.clone(), most, head).await? {
                return Ok(BatchCheck::Passes(batch, gas_limit));
            }
            batch.rows.truncate(batch.rows.len() / 2);
        }
        Ok(if parts.refused.is_empty() { BatchCheck::WantsGas } else { BatchCheck::Refused })
    }

    /// The first rows of a batch, as many as fit, with the gas limit under which all of them pass. Finds out whether rows
    /// take more gas than the last ones did. `None` if rows would fail with `most` gas, too.
    async fn fit(
        &self,
        from: Address,
        mut batch: Batch,
        most: u64,
        head: Head,
    ) -> Result<Option<(Batch, u64)>, SendError> {
        loop {
            let limits = self.batches.limits();
            batch.rows.truncate(limits.room(most).max(1));
            let rows = batch.rows.len();
            let gas_limit = limits.gas_limit(rows).max(ample(rows)).min(most);
            if self.pays_all(from, &batch, simulated(gas_limit), head).await? {
                return Ok(Some((batch, gas_limit)));
            }
            if !self.pays_all(from, &batch, most, head).await? {
                return Ok(None);
            }
            if (gas_limit == most && rows == 1) || !self.batches.double_row_gas(limits.row_gas) {
                return Ok(Some((batch, most)));
            }
        }
    }

    /// Finds the rows that would fail, by halves.
    pub(super) async fn partition(&self, from: Address, rows: Vec<Row>, head: Head) -> Result<Partition, SendError> {
        let mut parts = Partition::default();
        let mut stack = vec![rows];
        while let Some(mut rows) = stack.pop() {
            if rows.is_empty() {
                continue;
            }
            let batch = Batch::of(rows.clone());
            if self.pays_all(from, &batch, max_gas(head), head).await? {
                parts.pass.extend(rows);
                continue;
            }
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

    /// Whether the call would pay all of its rows with this much gas.
    async fn pays_all(&self, from: Address, batch: &Batch, gas_limit: u64, head: Head) -> Result<bool, SendError> {
        let calldata = batch.calldata().ok_or_else(|| LedgerError::inconsistent("a batch that can't be encoded"))?;
        let paid = if batch.is_to_one_payee() {
            self.simulate::<MandateEscrow::settleToCall>(from, &calldata, gas_limit, head).await
        } else {
            self.simulate::<MandateEscrow::settleCall>(from, &calldata, gas_limit, head).await
        };
        match paid {
            Ok(paid) => Ok(paid == U256::from(batch.rows.len())),
            // Some nodes say "out of gas" and the like without what was returned.
            Err(RpcError::Refused { .. }) => Ok(false),
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

/// Whether this is what the escrow says of terms that never open again. What says so of an opening may have been mined
/// before the ledger knew of the opening.
fn is_ended(revert: Option<&Bytes>) -> bool {
    use MandateEscrow::MandateEscrowErrors::AlreadyEnded;
    let reason = revert.and_then(|data| MandateEscrow::MandateEscrowErrors::abi_decode(data).ok());
    matches!(reason, Some(AlreadyEnded(_)))
}

/// Whether a call that reverted with this may pass with more gas: tokens, and chains that charge data
/// as gas, differ. The escrow's own reasons are final.
fn may_want_gas(revert: Option<&Bytes>) -> bool {
    use MandateEscrow::MandateEscrowErrors::{GasTooLow, TransferFailed};
    let reason = revert.and_then(|data| MandateEscrow::MandateEscrowErrors::abi_decode(data).ok());
    matches!(reason, None | Some(GasTooLow(_) | TransferFailed(_)))
}
