//! Packs reserved payments into one call: `settle`, or `settleTo` where all of them go to one payee. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::{SolCall, SolInterface};
use stipend_bindings::{
    Spend,
    abi::MandateEscrow::{self, MandateEscrowCalls},
    compact, row, terms_on_chain,
};
use stipend_core::{Intent, MandateId, Terms, merkle::Tree, nonce::NonceWindow};

use super::size::ROWS;
use crate::ledger::payments;

/// Gas that a row saves in `settleTo`: its mandate makes no transfer of its own.
const GAS_SAVED: u64 = 7_300;
/// Gas of another transaction with a transfer, whatever is in it.
const GAS_TRANSACTION: u64 = 48_300;

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
    /// Whether a transaction that reverted held it: from then on it goes by `settle`, which does not revert where the
    /// token refuses a payee.
    pub reverted: bool,
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

    /// At most how many hashes lead from its payee to its mandate's payees.
    fn proof_words(&self) -> usize {
        let payees = self.intent.as_ref().and_then(|intent| intent.policy.payees.as_deref()).unwrap_or_default();
        // The tree is a heap of twice as many nodes, less one.
        (2 * payees.len()).saturating_sub(1).checked_ilog2().map_or(0, |depth| depth as usize)
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

/// What `settle` would have to hold: at least as many bytes as `settleTo` takes for the same rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallSize {
    groups: usize,
    rows: usize,
    proof_words: usize,
}

impl CallSize {
    const WORD: usize = 32;
    /// The selector, three offsets and three lengths.
    const CALL: usize = 4 + 6 * Self::WORD;
    /// The terms, two offsets and a length.
    const GROUP: usize = 16 * Self::WORD;
    const ROW: usize = 7 * Self::WORD;

    /// With another row, the first one of its mandate or not.
    #[must_use]
    pub fn with(self, row: &Row, is_first: bool) -> Self {
        Self {
            groups: self.groups + usize::from(is_first),
            rows: self.rows + 1,
            proof_words: self.proof_words + row.proof_words(),
        }
    }

    /// At most.
    pub const fn bytes(self) -> usize {
        // Where any row has a proof, each has an offset and a length.
        let proofs = if self.proof_words == 0 { 0 } else { Self::WORD * (self.proof_words + 2 * self.rows) };
        Self::CALL + Self::GROUP * self.groups + Self::ROW * self.rows + proofs
    }
}

#[derive(Clone, Debug)]
pub struct Batch {
    /// The rows, in the order of the call.
    pub rows: Vec<Row>,
    /// Whom `settleTo` pays all of them; `settle` pays them if there is none.
    payee: Option<Address>,
}

impl Batch {
    /// For `settle`.
    pub const fn of(rows: Vec<Row>) -> Self {
        Self { rows, payee: None }
    }

    /// For `settleTo` if that can pay all rows and costs less, else for `settle`.
    pub fn cheapest(rows: Vec<Row>) -> Self {
        let payee = most_paid(&rows).filter(|(_, of)| of.len() == rows.len()).map(|(payee, _)| payee);
        Self { rows, payee }
    }

    /// Leaves rows to another transaction if that costs less: half of them or more go to one payee by `settleTo`, the others
    /// by `settle`. The rows of `first`, whose turn it is, go now. Returns what is left.
    pub fn split(rows: Vec<Row>, first: Option<MandateId>) -> (Self, Vec<Row>) {
        let Some((_, mandates)) = most_paid(&rows).filter(|(_, of)| is_worth_a_transaction(of.len(), rows.len()))
        else {
            return (Self::cheapest(rows), Vec::new());
        };
        let (together, others): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| mandates.contains(&row.payment.mandate));
        match first.is_none_or(|first| mandates.contains(&first)) {
            true => (Self::cheapest(together), others),
            false => (Self::cheapest(others), together),
        }
    }

    /// Whether `settleTo` pays it.
    pub const fn is_to_one_payee(&self) -> bool {
        self.payee.is_some()
    }

    /// Takes the first rows, as many as any call holds, which come by mandate and nonce. `held_back` are
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
        Self::of(in_runs(candidates.into_iter().filter(can_go).take(ROWS).collect()))
    }

    /// The call. `None` if a row can't be put into one, which no row that was admitted is.
    pub fn calldata(&self) -> Option<Bytes> {
        match self.payee {
            Some(payee) => self.settle_to(payee),
            None => self.settle(),
        }
    }

    fn settle_to(&self, payee: Address) -> Option<Bytes> {
        let mut rows = Vec::with_capacity(self.rows.len());
        let mut proofs = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            rows.push(MandateEscrow::Row { terms: terms_on_chain(&row.terms).ok()?, payment: row.on_chain()? });
            proofs.push(row.payees().proof(payee).unwrap_or_default());
        }
        let proofs = unless_all_empty(proofs);
        Some(MandateEscrow::settleToCall { payee, rows, proofs, signatures: Vec::new() }.abi_encode().into())
    }

    fn settle(&self) -> Option<Bytes> {
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
        let proofs = unless_all_empty(proofs);
        Some(MandateEscrow::settleCall { groups, proofs, signatures: Vec::new() }.abi_encode().into())
    }
}

/// How many payments a call makes; `None` if it makes none.
pub(super) fn row_count(calldata: &[u8]) -> Option<usize> {
    match MandateEscrowCalls::abi_decode(calldata).ok()? {
        MandateEscrowCalls::settle(call) => Some(call.groups.iter().map(|group| group.payments.len()).sum()),
        MandateEscrowCalls::settleTo(call) => Some(call.rows.len()),
        _ => None,
    }
}

fn unless_all_empty(proofs: Vec<Vec<B256>>) -> Vec<Vec<B256>> {
    if proofs.iter().all(Vec::is_empty) { Vec::new() } else { proofs }
}

/// The payee whom the most mandates pay by one row each, and those mandates: two or more, for which `settleTo` costs
/// less. What several rows of one mandate pay is cheaper in `settle`, whose rows share their terms.
fn most_paid(rows: &[Row]) -> Option<(Address, HashSet<MandateId>)> {
    let mut rows_of: HashMap<MandateId, usize> = HashMap::new();
    for row in rows {
        *rows_of.entry(row.payment.mandate).or_default() += 1;
    }
    let mut mandates: BTreeMap<Address, HashSet<MandateId>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.reverted && rows_of.get(&row.payment.mandate) == Some(&1)) {
        mandates.entry(row.payment.payee).or_default().insert(row.payment.mandate);
    }
    mandates.into_iter().filter(|(_, of)| of.len() > 1).max_by_key(|(_, of)| of.len())
}

/// Whether `together` of these rows have a `settleTo` of their own: only if they save the gas of a transaction, and are
/// so many that a lane is never kept with small ones.
const fn is_worth_a_transaction(together: usize, rows: usize) -> bool {
    let saved = GAS_SAVED.saturating_mul(together as u64);
    together == rows || (together >= rows.saturating_sub(together) && saved > GAS_TRANSACTION)
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
    Row { payment, terms: terms.into(), intent: None, reverted: false }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{
        collection::{btree_set, vec},
        prelude::*,
        sample::subsequence,
    };

    use stipend_core::intent::Policy;

    use super::*;
    use crate::send::{row_gas::MAX_TX_GAS, size::BatchLimits};

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

    /// That may pay the payees of candidates and others, so many in all.
    fn intent_with(payees: usize) -> Intent {
        let others = (0x80..).take(payees).map(Address::repeat_byte);
        let payees = (3..6).map(Address::repeat_byte).chain(others).collect();
        let policy = Policy { payees: Some(payees), ..Policy::default() };
        Intent { version: 1, purpose: String::new(), policy, nonce: B256::ZERO }
    }

    /// Rows of any mandates, payees and fates, each mandate's together.
    fn any_rows() -> impl Strategy<Value = Vec<Row>> {
        let mandate = prop_oneof![4 => Just(1_u32), 1 => 1..5_u32];
        let rows = vec((mandate, 0..3_u32, proptest::bool::weighted(0.1)), 0..30);
        rows.prop_map(|mandates| {
            let rows = |(mandate, (count, first, reverted)): (u8, (u32, u32, bool))| {
                (first..first + count).map(move |nonce| Row { reverted, ..candidate(mandate, nonce) })
            };
            (0..).zip(mandates).flat_map(rows).collect()
        })
    }

    fn keys(rows: &[Row]) -> BTreeSet<(MandateId, u32)> {
        rows.iter().map(|row| (row.payment.mandate, row.payment.nonce)).collect()
    }

    fn mandates(rows: &[Row]) -> BTreeSet<MandateId> {
        rows.iter().map(|row| row.payment.mandate).collect()
    }

    proptest! {
        #[test]
        fn a_split_loses_no_row_and_keeps_mandates_whole(rows in any_rows(), first in 0..30_u8) {
            let first = rows.get(usize::from(first)).or(rows.first()).map(|row| row.payment.mandate);
            let (batch, left) = Batch::split(rows.clone(), first);
            prop_assert_eq!(batch.rows.len() + left.len(), rows.len());
            prop_assert_eq!(&keys(&batch.rows) | &keys(&left), keys(&rows));
            prop_assert!(mandates(&batch.rows).is_disjoint(&mandates(&left)));
            prop_assert!(first.is_none_or(|first| mandates(&batch.rows).contains(&first)));
            if !left.is_empty() {
                let together = [&batch, &Batch::cheapest(left)].map(|part| part.rows.len() * usize::from(part.is_to_one_payee()));
                prop_assert!(together.iter().any(|together| *together >= 7 && 2 * together >= rows.len()), "{together:?}");
            }
        }

        #[test]
        fn settle_to_has_one_row_of_each_mandate_to_one_payee(rows in any_rows()) {
            let batch = Batch::cheapest(rows);
            let Some(payee) = batch.payee else { return Ok(()) };
            prop_assert!(batch.rows.len() > 1 && mandates(&batch.rows).len() == batch.rows.len());
            prop_assert!(batch.rows.iter().all(|row| row.payment.payee == payee && !row.reverted));
        }
    }

    #[test]
    fn many_mandates_pay_one_payee_by_settle_to() {
        let rows = vec![candidate(1, 0), candidate(2, 3), candidate(3, 0)];
        let payee = rows[0].payment.payee;
        let call = MandateEscrow::settleToCall::abi_decode(&Batch::cheapest(rows).calldata().unwrap()).unwrap();
        assert_eq!(call.payee, payee);
        assert_eq!(call.rows.iter().map(|row| row.payment.nonce).collect::<Vec<_>>(), [0, 3, 0]);
        assert!(call.rows.iter().all(|row| row.payment.payee == payee));
        assert!(call.proofs.is_empty() && call.signatures.is_empty());
    }

    #[test]
    fn rows_go_by_settle_where_settle_to_saves_nothing_or_has_reverted() {
        let reverted = Row { reverted: true, ..candidate(2, 0) };
        for rows in [
            vec![candidate(1, 0)],
            vec![candidate(1, 0), candidate(1, 3)],
            vec![candidate(1, 0), candidate(2, 1)],
            vec![candidate(1, 0), candidate(2, 0), candidate(2, 3)],
            vec![candidate(1, 0), reverted],
        ] {
            let calldata = Batch::cheapest(rows.clone()).calldata().unwrap();
            assert!(MandateEscrow::settleCall::abi_decode(&calldata).is_ok(), "{rows:?}");
        }
    }

    #[test]
    fn rows_have_a_transaction_of_their_own_where_that_saves_gas_and_half_of_the_rows_go() {
        for (together, others, apart) in [(6, 1, false), (7, 1, true), (7, 7, true), (7, 8, false), (75, 75, true)] {
            let rows = (0..together).map(|mandate| candidate(mandate, 0));
            let others = (0..others).flat_map(|other| [candidate(200, 3 * other + 1)]);
            let (batch, left) = Batch::split(rows.chain(others).collect(), None);
            assert_eq!(
                (batch.is_to_one_payee(), !left.is_empty()),
                (apart, apart),
                "{together} of {}",
                batch.rows.len()
            );
        }
    }

    #[test]
    fn rows_of_a_mandate_share_a_group_and_its_terms() {
        let batch = Batch::of(vec![candidate(1, 0), candidate(1, 1), candidate(2, 0)]);
        let call = MandateEscrow::settleCall::abi_decode(&batch.calldata().unwrap()).unwrap();
        assert_eq!(call.groups.iter().map(|group| group.payments.len()).collect::<Vec<_>>(), [2, 1]);
        assert!(call.proofs.is_empty() && call.signatures.is_empty());
    }

    #[test]
    fn a_full_batch_stays_under_the_gas_limit_of_a_transaction() {
        let limits = BatchLimits::default();
        let rows = limits.room(MAX_TX_GAS);
        assert!(rows > 150 && limits.gas_limit(rows) <= MAX_TX_GAS && limits.gas_limit(rows + 1) > MAX_TX_GAS);
        let plenty = BatchLimits { row_gas: 1, ..limits };
        assert_eq!(plenty.room(MAX_TX_GAS), ROWS);
        assert_eq!(limits.room(0), 0);
    }

    proptest! {
        #[test]
        fn a_call_is_no_larger_than_it_is_expected_to_be(
            counts in vec(1..20_u32, 0..20), payees in 0..40_usize, first in 0..20_u8
        ) {
            let intent = (payees > 0).then(|| Arc::new(intent_with(payees)));
            let rows = (0..).zip(counts).flat_map(|(mandate, count)| {
                let intent = intent.clone().filter(|_| mandate < first);
                (0..count).map(move |nonce| Row { intent: intent.clone(), ..candidate(mandate, nonce) })
            });
            let rows: Vec<Row> = rows.collect();
            let mut size = CallSize::default();
            let mut last = None;
            for row in &rows {
                size = size.with(row, last.replace(row.payment.mandate) != Some(row.payment.mandate));
            }
            let settle = Batch::of(rows.clone()).calldata().unwrap();
            prop_assert_eq!(row_count(&settle), Some(rows.len()));
            prop_assert!(settle.len() <= size.bytes() && settle.len() + 1_024 * 20 > size.bytes());
            if intent.is_none() {
                prop_assert_eq!(settle.len(), size.bytes());
            }
            let (count, settle_to) = (rows.len(), Batch::cheapest(rows).calldata().unwrap());
            prop_assert!(row_count(&settle_to) == Some(count) && settle_to.len() <= size.bytes());
        }
    }
}
