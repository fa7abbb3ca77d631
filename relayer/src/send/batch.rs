//! Packs reserved payments into one `settle` call. Pure.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, Bytes};
use alloy_sol_types::SolCall;
use stipend_bindings::{Spend, abi::MandateEscrow, compact, row, terms_on_chain};
use stipend_core::{Intent, MandateId, Terms, merkle::Tree, nonce::NonceWindow};

use crate::ledger::payments;

/// The most rows of a batch: what fits under the gas limit that every chain allows a transaction
/// (EIP-7825: 16,777,216) with room to spare.
pub const ROWS: usize = 150;
/// Gas that a batch needs whatever is in it.
const GAS_BASE: u64 = 100_000;
/// Gas that no row exceeds with USDC as it is on chains that charge for computation alone: a first
/// payment to a new holder of the token from a mandate not touched before, with a proof.
pub const GAS_ROW: u64 = 100_000;

/// Whether using `nonce` would make it impossible to use `lowest`.
pub const fn retires(nonce: u32, lowest: u32) -> bool {
    NonceWindow::floor(nonce) > lowest
}

/// A row's payment with what its mandate says about it.
#[derive(Clone, Debug)]
pub struct Row {
    pub payment: payments::PaymentRow,
    /// Its mandate's terms.
    pub terms: Arc<Terms>,
    /// Its mandate's intent.
    pub intent: Option<Arc<Intent>>,
}

impl Row {
    /// The row of the call.
    fn on_chain(&self) -> Option<MandateEscrow::Payment> {
        let payments::PaymentRow { mandate, payee, amount, nonce, deadline, reference, .. } = self.payment;
        let spend = Spend::new(mandate, payee, amount, nonce, deadline, reference).ok()?;
        Some(row(&spend, compact(&self.payment.signature).ok()?))
    }

    /// The payees that its mandate allows; none where it allows anyone.
    fn payees(&self) -> Tree {
        let payees = self.intent.as_ref().and_then(|intent| intent.policy.payees.as_deref());
        Tree::of(payees.unwrap_or_default())
    }

    /// The call that asks the contract why it would not pay this row if `submitter` sent it.
    pub fn question(&self, submitter: Address) -> Option<Bytes> {
        let call = MandateEscrow::canSpendCall {
            terms: terms_on_chain(&self.terms).ok()?,
            payment: self.on_chain()?,
            proof: self.payees().proof(self.payment.payee).unwrap_or_default(),
            signature: Bytes::new(),
            submitter,
        };
        Some(call.abi_encode().into())
    }
}

#[derive(Clone, Debug)]
pub struct Batch {
    /// The rows, in the order of the call.
    pub rows: Vec<Row>,
}

impl Batch {
    /// Takes the first rows, at most [`ROWS`], which come by mandate and nonce. `held_back` are
    /// payments that can't go now; a nonce more than the window above one of them would retire it,
    /// so such rows wait too.
    pub fn pack(candidates: Vec<Row>, held_back: &[(MandateId, u32)]) -> Self {
        let mut lowest: BTreeMap<MandateId, u32> = BTreeMap::new();
        for (mandate, nonce) in held_back {
            lowest.entry(*mandate).and_modify(|lowest| *lowest = (*lowest).min(*nonce)).or_insert(*nonce);
        }
        let retires =
            |row: &Row| lowest.get(&row.payment.mandate).is_some_and(|lowest| retires(row.payment.nonce, *lowest));
        let can_go = |row: &Row| !held_back.contains(&(row.payment.mandate, row.payment.nonce)) && !retires(row);
        Self { rows: in_runs(candidates.into_iter().filter(can_go).take(ROWS).collect()) }
    }

    /// How many rows that take `row_gas` each this much gas suffices for.
    pub fn room(gas: u64, row_gas: u64) -> usize {
        let rows = gas.saturating_sub(GAS_BASE).checked_div(row_gas).unwrap_or_default();
        usize::try_from(rows).unwrap_or(ROWS).min(ROWS)
    }

    /// Gas that suffices for it where a row takes `row_gas`, so that none is skipped for want of gas.
    pub fn gas_limit(&self, row_gas: u64) -> u64 {
        GAS_BASE.saturating_add(row_gas.saturating_mul(self.rows.len() as u64))
    }

    /// The call. `None` if a row can't be put into one, which no row that was admitted is.
    pub fn calldata(&self) -> Option<Bytes> {
        let mut groups: Vec<MandateEscrow::Group> = Vec::new();
        let mut proofs = Vec::with_capacity(self.rows.len());
        let mut last = None;
        let mut payees = Tree::of(&[]);
        for row in &self.rows {
            let payment = row.on_chain()?;
            match groups.last_mut().filter(|_| last == Some(row.payment.mandate)) {
                Some(group) => group.payments.push(payment),
                None => {
                    payees = row.payees();
                    let terms = terms_on_chain(&row.terms).ok()?;
                    groups.push(MandateEscrow::Group { terms, payments: vec![payment] });
                }
            }
            last = Some(row.payment.mandate);
            proofs.push(payees.proof(row.payment.payee).unwrap_or_default());
        }
        if proofs.iter().all(Vec::is_empty) {
            proofs.clear();
        }
        Some(MandateEscrow::settleCall { groups, proofs, signatures: Vec::new() }.abi_encode().into())
    }
}

/// Puts the rows of a mandate that pay one payee next to each other: the contract pays them by one
/// transfer. They come in nonce order; only rows whose nonces are in one window change places, so that
/// none retires another.
fn in_runs(rows: Vec<Row>) -> Vec<Row> {
    let mut stretches: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        let together = |first: &Row| {
            first.payment.mandate == row.payment.mandate && NonceWindow::floor(row.payment.nonce) <= first.payment.nonce
        };
        match stretches.last_mut() {
            Some(stretch) if stretch.first().is_some_and(together) => stretch.push(row),
            _ => stretches.push(vec![row]),
        }
    }
    for stretch in &mut stretches {
        let mut places: BTreeMap<Address, usize> = BTreeMap::new();
        for row in stretch.iter() {
            let next = places.len();
            places.entry(row.payment.payee).or_insert(next);
        }
        stretch.sort_by_key(|row| places.get(&row.payment.payee).copied());
    }
    stretches.into_iter().flatten().collect()
}

/// A payment that waits, for tests. Every third of a mandate is for the same payee.
#[cfg(test)]
pub(crate) fn candidate(mandate: u8, nonce: u32) -> Row {
    use alloy_primitives::B256;
    use stipend_core::{Amount, PaymentId, api::PaymentState};

    let terms = Terms {
        operator: Address::repeat_byte(1),
        agent: Address::repeat_byte(2),
        guardian: Address::ZERO,
        cap: Amount::MAX,
        per_payment: Amount::ZERO,
        window_cap: Amount::ZERO,
        window: 0,
        start: 0,
        expiry: 1,
        capture_end: 1,
        payees: B256::ZERO,
        intent: B256::ZERO,
        refunds_restore_budget: false,
    };
    let mut signature = vec![1; 65];
    signature[64] = 27;
    let payment = payments::PaymentRow {
        seq: nonce.into(),
        id: PaymentId::generate(),
        mandate: MandateId(B256::repeat_byte(mandate)),
        nonce,
        payee: Address::repeat_byte(3 + u8::try_from(nonce % 3).unwrap()),
        amount: Amount::MAX,
        deadline: 1,
        reference: B256::ZERO,
        digest: B256::ZERO,
        signature,
        state: PaymentState::Reserved,
        reason: None,
        tx_hash: None,
        block: None,
        metadata: Default::default(),
        created_at: 0,
        updated_at: 0,
    };
    Row { payment, terms: terms.into(), intent: None }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::{collection::btree_set, prelude::*, sample::subsequence};

    use super::*;
    use crate::send::plan::MAX_TX_GAS;

    proptest! {
        /// Played through the contract's window, no row that goes makes one that waits impossible.
        #[test]
        fn what_goes_retires_nothing_that_waits(
            (nonces, held) in btree_set(0..400_u32, 1..80).prop_flat_map(|nonces| {
                let nonces: Vec<u32> = nonces.into_iter().collect();
                let held = subsequence(nonces.clone(), 0..=nonces.len());
                (Just(nonces), held)
            })
        ) {
            let mandate = MandateId(B256::repeat_byte(7));
            let candidates = nonces.iter().map(|nonce| candidate(7, *nonce)).collect();
            let held_back: Vec<_> = held.iter().map(|nonce| (mandate, *nonce)).collect();
            let batch = Batch::pack(candidates, &held_back);
            let mut window = NonceWindow::default();
            for row in &batch.rows {
                prop_assert!(!held.contains(&row.payment.nonce));
                prop_assert_eq!(window.insert(row.payment.nonce), Ok(()));
            }
            for nonce in &held {
                prop_assert_eq!(window.insert(*nonce), Ok(()));
            }
        }
    }

    #[test]
    fn a_payee_is_paid_by_one_transfer_where_the_nonces_allow_it() {
        let rows = |batch: &Batch| -> Vec<_> {
            batch.rows.iter().map(|row| (row.payment.mandate.0[0], row.payment.nonce)).collect()
        };
        let candidates = [(1, 0), (1, 1), (1, 3), (1, 4), (1, 87), (1, 88), (1, 90), (2, 0), (2, 3)];
        let batch = Batch::pack(candidates.iter().map(|(mandate, nonce)| candidate(*mandate, *nonce)).collect(), &[]);
        assert_eq!(rows(&batch), [(1, 0), (1, 3), (1, 87), (1, 1), (1, 4), (1, 88), (1, 90), (2, 0), (2, 3)]);
    }

    #[test]
    fn rows_of_a_mandate_share_a_group_and_its_terms() {
        let batch = Batch { rows: vec![candidate(1, 0), candidate(1, 1), candidate(2, 0)] };
        let call = MandateEscrow::settleCall::abi_decode(&batch.calldata().unwrap()).unwrap();
        assert_eq!(call.groups.iter().map(|group| group.payments.len()).collect::<Vec<_>>(), [2, 1]);
        assert!(call.proofs.is_empty() && call.signatures.is_empty());
    }

    #[test]
    fn a_full_batch_stays_under_the_gas_limit_of_a_transaction() {
        let batch = Batch::pack((0..1_000).map(|nonce| candidate(1, nonce)).collect(), &[]);
        assert_eq!(batch.rows.len(), ROWS);
        assert!(batch.gas_limit(GAS_ROW) < MAX_TX_GAS);
    }
}
