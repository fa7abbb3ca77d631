//! What waits to be sent, read from the ledger.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolCall;
use rusqlite::Connection;
use stipend_bindings::{Hold, Spend, abi::MandateEscrow, compact, hold_row, terms_on_chain};
use stipend_core::{Amount, MandateId, merkle, policy::MandateState};

use super::{
    batch::{Row, retires},
    plan::{ContractCall, NonceOwner},
};
use crate::{
    chain::follow::Head,
    ledger::{
        LedgerError, cards, mandates, openings,
        payments::{self, PaymentCursor, PaymentRow},
        revocations,
        transactions::{self, Kind},
    },
};

/// How many calls of a kind are read.
const CALLS: usize = 64;
/// How many mandates are read in search of payments.
const MANDATES: usize = 1_024;

/// The block at which mandates are judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainView {
    pub(super) head: Head,
    pub(super) confirmations: u64,
}

impl ChainView {
    fn is_open(self, mandate: &mandates::MandateRow) -> bool {
        mandate.state(self.head.block.number, self.confirmations) == MandateState::Open
    }

    const fn time(self) -> u64 {
        self.head.block.time
    }
}

/// The calls that wait, but for those that are backed off.
pub(super) fn calls(
    ledger: &Connection,
    at: ChainView,
    backed_off: &HashSet<Kind>,
) -> Result<Vec<ContractCall>, LedgerError> {
    let mut calls = Vec::new();
    for revocation in revocations::waiting(ledger)? {
        calls.push(ContractCall { kind: Kind::Revoke(revocation.mandate), calldata: revocation.calldata, uses: None });
    }
    for opening in openings::waiting(ledger)? {
        calls.push(ContractCall { kind: Kind::Open(opening.mandate), calldata: opening.calldata, uses: None });
    }
    calls.retain(|call| !backed_off.contains(&call.kind));
    calls.truncate(CALLS);

    let holds = cards::to_hold(ledger, at.time())?;
    for card in holds.into_iter().filter(|card| !backed_off.contains(&Kind::Hold(card.seq))).take(CALLS) {
        let Some(mandate) = mandates::get(ledger, card.mandate)?.filter(|mandate| at.is_open(mandate)) else {
            continue;
        };
        // Whatever still needs a lower nonce goes first.
        if payments::lowest_live(ledger, card.mandate, at.time())?.is_some_and(|lowest| retires(card.nonce, lowest)) {
            continue;
        }
        let calldata =
            hold_calldata(&card, &mandate).ok_or_else(|| LedgerError::inconsistent("a hold that can't be encoded"))?;
        calls.push(ContractCall { kind: Kind::Hold(card.seq), calldata, uses: Some(card.mandate) });
    }
    let ends = cards::to_settle(ledger)?.into_iter().map(|card| (end_of(&card), card));
    for (kind, card) in ends.filter(|(kind, _)| !backed_off.contains(kind)).take(CALLS) {
        let terms = terms_on_chain(&cards::mandate_of(ledger, &card)?.terms).map_err(LedgerError::inconsistent)?;
        let calldata = match kind {
            Kind::Release(_) => MandateEscrow::releaseCall { terms, nonce: card.nonce }.abi_encode(),
            _ => MandateEscrow::captureCall {
                terms,
                nonce: card.nonce,
                expectedHeld: card.left().units(),
                amount: card.to_capture.unwrap_or_default().units(),
                close: true,
            }
            .abi_encode(),
        };
        calls.push(ContractCall { kind, calldata: calldata.into(), uses: None });
    }
    Ok(calls)
}

fn end_of(card: &cards::CardRow) -> Kind {
    if card.to_capture.unwrap_or_default().is_zero() { Kind::Release(card.seq) } else { Kind::Capture(card.seq) }
}

/// A sweep of each mandate that has ended and has something left.
pub(super) fn sweeps(
    ledger: &Connection,
    guardian: Address,
    minimum: Amount,
    at: ChainView,
) -> Result<Vec<ContractCall>, LedgerError> {
    let sweep = |mandate: mandates::MandateRow| {
        let terms = terms_on_chain(&mandate.terms).map_err(LedgerError::inconsistent)?;
        let calldata = MandateEscrow::sweepCall { terms }.abi_encode().into();
        Ok(ContractCall { kind: Kind::Sweep(mandate.id), calldata, uses: None })
    };
    mandates::to_sweep(ledger, guardian, minimum, at.time())?.into_iter().map(sweep).collect()
}

/// Which waiting payments to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowQuery {
    /// Those of the mandates after this one first.
    pub(super) after: MandateId,
    /// About how many.
    pub(super) limit: usize,
    pub(super) per_mandate: usize,
}

/// The payments that wait, of mandates that can go, in the order of mandates.
pub(super) fn rows(
    ledger: &Connection,
    at: ChainView,
    query: RowQuery,
    can_go: impl Fn(&MandateId) -> bool,
) -> Result<Vec<Row>, LedgerError> {
    let mut rows = Vec::new();
    let (mut last, mut wrapped) = (query.after, false);
    for _ in 0..MANDATES {
        let id = match payments::next_to_send(ledger, last)? {
            Some(id) if wrapped && id > query.after => break,
            Some(id) => id,
            None if wrapped => break,
            None => {
                (last, wrapped) = (MandateId(B256::ZERO), true);
                continue;
            }
        };
        last = id;
        if !can_go(&id) {
            continue;
        }
        let Some(mandate) = mandates::get(ledger, id)?.filter(|mandate| at.is_open(mandate)) else { continue };
        // A payment whose nonce would retire one that is still needed waits for that one.
        let needed = payments::lowest_needed(ledger, id, at.time())?;
        let (terms, intent) = (Arc::new(mandate.terms), mandate.intent);
        let waiting = payments::to_send(ledger, id, at.time(), query.per_mandate)?;
        for payment in waiting.into_iter().filter(|payment| needed.is_none_or(|needed| !retires(payment.nonce, needed)))
        {
            let reverted = transactions::has_reverted(ledger, payment.seq)?;
            rows.push(Row { payment, terms: terms.clone(), intent: intent.clone(), reverted });
        }
        if rows.len() >= query.limit {
            break;
        }
    }
    Ok(rows)
}

/// A part of the payments that a simulation refused and that can be retried, and where to resume;
/// `None` at the end.
pub(super) fn refused(
    ledger: &Connection,
    at: ChainView,
    after: PaymentCursor,
    limit: usize,
) -> Result<(Vec<Row>, Option<PaymentCursor>), LedgerError> {
    let waiting = payments::refused(ledger, after, at.time(), limit)?;
    let next = waiting.last().filter(|_| waiting.len() == limit).map(PaymentRow::cursor);
    let mut rows = Vec::with_capacity(waiting.len());
    // They come by mandate.
    let mut of = None;
    for payment in waiting {
        let PaymentRow { mandate: id, .. } = payment;
        if of.as_ref().is_none_or(|(known, _)| *known != id) {
            let open = mandates::get(ledger, id)?.filter(|mandate| at.is_open(mandate));
            of = Some((id, open.map(|mandate| (Arc::new(mandate.terms), mandate.intent))));
        }
        if let Some((_, Some((terms, intent)))) = &of {
            let reverted = transactions::has_reverted(ledger, payment.seq)?;
            rows.push(Row { payment, terms: terms.clone(), intent: intent.clone(), reverted });
        }
    }
    Ok((rows, next))
}

/// The mandates that not every lane may take. `known` caches each transaction's mandates, which never
/// change.
pub(super) fn nonce_owners(
    ledger: &Connection,
    known: &mut HashMap<u64, Arc<[MandateId]>>,
    lane_of: impl Fn(Address) -> Option<usize>,
) -> Result<HashMap<MandateId, NonceOwner>, LedgerError> {
    let mut unfinished = transactions::unfinished(ledger)?;
    unfinished.sort_unstable_by_key(|tx| tx.id);
    let ids: HashSet<u64> = unfinished.iter().map(|tx| tx.id).collect();
    known.retain(|id, _| ids.contains(id));
    let mut nonce_owners = HashMap::new();
    for tx in unfinished {
        let mandates = match known.get(&tx.id) {
            Some(mandates) => mandates.clone(),
            None => {
                let mandates: Arc<[MandateId]> = transactions::mandates_of(ledger, tx.id)?.into();
                known.insert(tx.id, mandates.clone());
                mandates
            }
        };
        for mandate in mandates.iter() {
            match (tx.mined, lane_of(tx.submitter)) {
                (false, _) => _ = nonce_owners.insert(*mandate, NonceOwner::Unmined),
                // The newest one counts, unless one is not mined.
                (true, Some(lane)) if nonce_owners.get(mandate) != Some(&NonceOwner::Unmined) => {
                    _ = nonce_owners.insert(*mandate, NonceOwner::Lane(lane));
                }
                // Who can't send keeps nothing.
                (true, _) => {}
            }
        }
    }
    Ok(nonce_owners)
}

fn hold_calldata(card: &cards::CardRow, mandate: &mandates::MandateRow) -> Option<Bytes> {
    let spend = Spend::new(card.mandate, card.payee, card.amount, card.nonce, card.deadline, card.reference).ok()?;
    let hold = Hold::new(spend, card.capture_by).ok()?;
    let payees = mandate.intent.as_ref().and_then(|intent| intent.policy.payees.as_deref()).unwrap_or_default();
    let call = MandateEscrow::hold_1Call {
        terms: terms_on_chain(&mandate.terms).ok()?,
        hold_: hold_row(&hold, compact(&card.signature).ok()?),
        proof: merkle::proof(payees, card.payee).unwrap_or_default(),
        signature: Bytes::new(),
    };
    Some(call.abi_encode().into())
}
