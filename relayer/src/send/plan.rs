//! What goes into which lane. Pure: the state in, the plan out.
//!
//! - A mandate whose nonces a transaction would use that no block holds goes into no other one.
//! - One whose last transaction is mined and not final stays with that transaction's submitter: its
//!   nonces keep the order on chain, whatever a reorg does.
//! - Kinds of work take turns: the kind that was served longest ago is next. A stream of payments
//!   never keeps a card's hold waiting for more than one transaction of each other kind.
//! - Within a kind the oldest is first; mandates with payments take turns too.
//! - Payments of many mandates to one payee go apart from the others where that costs less; the mandate whose turn it is
//!   goes first.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use alloy_primitives::Bytes;
use stipend_core::MandateId;

use crate::{
    chain::follow::Head,
    ledger::transactions::Kind,
    send::batch::{Batch, Row},
};

/// Gas of anything but a batch, with room to spare.
pub const CALL_GAS: u64 = 300_000;
/// The most gas that every chain allows a transaction (EIP-7825).
pub const MAX_TX_GAS: u64 = 16_777_216;

/// The most gas that a transaction gets: half a block's, since others use blocks too.
pub fn max_gas(head: Head) -> u64 {
    (head.gas_limit / 2).max(CALL_GAS).min(head.gas_limit).min(MAX_TX_GAS)
}

/// Kinds of work that take turns. Where no turn decides, the first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Revocations: their operators want no more to be spent.
    Revoke,
    /// Openings: others wait for them.
    Open,
    /// Holds: an agent waits for a card.
    Hold,
    EndHold,
    /// Payments.
    Settle,
    /// What is left of mandates that have ended.
    Sweep,
}

impl Priority {
    const ALL: [Self; 6] = [Self::Revoke, Self::Open, Self::Hold, Self::EndHold, Self::Settle, Self::Sweep];

    pub const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Revoke(_) => Self::Revoke,
            Kind::Open(_) => Self::Open,
            Kind::Hold(_) => Self::Hold,
            Kind::Capture(_) | Kind::Release(_) => Self::EndHold,
            Kind::Settle => Self::Settle,
            Kind::Sweep(_) => Self::Sweep,
        }
    }
}

/// Which kind was served when.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    served: BTreeMap<Priority, u64>,
    count: u64,
}

impl RoundRobin {
    pub fn serve(&mut self, priority: Priority) {
        self.count = self.count.saturating_add(1);
        self.served.insert(priority, self.count);
    }

    fn last(&self, priority: Priority) -> u64 {
        self.served.get(&priority).copied().unwrap_or_default()
    }
}

/// A call that is a transaction of its own.
#[derive(Clone, Debug)]
pub struct ContractCall {
    /// What it does.
    pub kind: Kind,
    /// The call.
    pub calldata: Bytes,
    /// The mandate whose nonce it uses.
    pub uses: Option<MandateId>,
}

/// Something to send.
#[derive(Clone, Debug)]
pub enum Work {
    /// Payments.
    Batch(Batch),
    /// Anything else.
    Call(ContractCall),
}

impl Work {
    pub const fn priority(&self) -> Priority {
        match self {
            Self::Batch(_) => Priority::Settle,
            Self::Call(call) => Priority::of(call.kind),
        }
    }
}

/// Who may use a mandate's nonces now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceOwner {
    /// Nobody: a transaction that no block holds would use some.
    Unmined,
    /// This lane alone: its transaction is mined and not final.
    Lane(usize),
}

/// All that a plan is made of.
#[derive(Clone, Debug, Default)]
pub struct PlanInput {
    /// The lanes that are idle and can send, with the gas that each can pay for.
    pub lanes: Vec<(usize, u64)>,
    /// Mandates that not every lane may take.
    pub nonce_owners: HashMap<MandateId, NonceOwner>,
    /// Calls that wait, the oldest of each kind first.
    pub calls: Vec<ContractCall>,
    /// Payments that wait: each mandate's together, in nonce order; the mandate whose turn it is first.
    pub rows: Vec<Row>,
    /// Gas that a payment takes.
    pub row_gas: u64,
}

/// At most one piece of work for each lane.
pub fn plan(input: PlanInput, round_robin: &RoundRobin) -> Vec<(usize, Work)> {
    let PlanInput { lanes, nonce_owners, calls, rows, row_gas } = input;
    let mut round_robin = round_robin.clone();
    let mut waiting: BTreeMap<Priority, VecDeque<ContractCall>> = BTreeMap::new();
    for call in calls {
        waiting.entry(Priority::of(call.kind)).or_default().push_back(call);
    }
    let mut groups: Vec<(MandateId, VecDeque<Row>)> = Vec::new();
    for row in rows {
        let mandate = row.payment.mandate;
        match groups.last_mut().filter(|(last, _)| *last == mandate) {
            Some((_, rows)) => rows.push_back(row),
            None => groups.push((mandate, [row].into())),
        }
    }

    let mut taken: HashSet<MandateId> = HashSet::new();
    let mut plan = Vec::with_capacity(lanes.len());
    for (lane, gas) in lanes {
        let free = |taken: &HashSet<MandateId>, mandate: &MandateId| {
            let owner = nonce_owners.get(mandate);
            !taken.contains(mandate) && owner.is_none_or(|owner| *owner == NonceOwner::Lane(lane))
        };
        let can_go =
            |taken: &HashSet<MandateId>, call: &ContractCall| call.uses.is_none_or(|mandate| free(taken, &mandate));
        let room = Batch::room(gas, row_gas);
        let possible = |priority: &Priority| match priority {
            Priority::Settle => room > 0 && groups.iter().any(|(mandate, _)| free(&taken, mandate)),
            priority => gas >= CALL_GAS && waiting.get(priority).into_iter().flatten().any(|call| can_go(&taken, call)),
        };
        let Some(priority) =
            Priority::ALL.into_iter().filter(possible).min_by_key(|priority| (round_robin.last(*priority), *priority))
        else {
            continue;
        };
        let work = if priority == Priority::Settle {
            Some(Work::Batch(fill(&mut groups, room, lane, &nonce_owners, &mut taken)))
        } else {
            let calls = waiting.entry(priority).or_default();
            let at = calls.iter().position(|call| can_go(&taken, call));
            at.and_then(|at| calls.remove(at)).map(Work::Call)
        };
        if let Some(work) = work {
            if let Work::Call(ContractCall { uses: Some(mandate), .. }) = &work {
                taken.insert(*mandate);
            }
            round_robin.serve(priority);
            plan.push((lane, work));
        }
    }
    plan
}

/// A batch for this lane: first the mandates that no other lane may take, then the others in turn. What it leaves to
/// another transaction stays in its place.
fn fill(
    groups: &mut [(MandateId, VecDeque<Row>)],
    room: usize,
    lane: usize,
    nonce_owners: &HashMap<MandateId, NonceOwner>,
    taken: &mut HashSet<MandateId>,
) -> Batch {
    let mut rows: Vec<Row> = Vec::with_capacity(room);
    for owner in [Some(NonceOwner::Lane(lane)), None] {
        for (mandate, waiting) in groups.iter_mut() {
            let left = room.saturating_sub(rows.len());
            if left > 0 && nonce_owners.get(mandate).copied() == owner && taken.insert(*mandate) {
                rows.extend(waiting.drain(..left.min(waiting.len())));
            }
        }
    }
    let is_in = |mandate: &MandateId| rows.iter().any(|row| row.payment.mandate == *mandate);
    let first = groups.iter().map(|(mandate, _)| *mandate).find(is_in);
    let (batch, left) = Batch::split(rows, first);
    for row in left.into_iter().rev() {
        let mandate = row.payment.mandate;
        taken.remove(&mandate);
        if let Some((_, waiting)) = groups.iter_mut().find(|(of, _)| *of == mandate) {
            waiting.push_front(row);
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::send::batch::{GAS_ROW, ROWS, candidate};

    fn id(mandate: u8) -> MandateId {
        MandateId(B256::repeat_byte(mandate))
    }

    fn call(kind: Kind, uses: Option<u8>) -> ContractCall {
        ContractCall { kind, calldata: Bytes::new(), uses: uses.map(id) }
    }

    fn plan_inputs() -> impl Strategy<Value = PlanInput> {
        let gas = prop_oneof![0..1_000_000_u64, Just(u64::MAX)];
        let lanes = vec(gas, 0..5).prop_map(|gas| gas.into_iter().enumerate().collect());
        let nonce_owners =
            vec((0..12_u8, prop_oneof![Just(NonceOwner::Unmined), (0..6_usize).prop_map(NonceOwner::Lane)]), 0..8)
                .prop_map(|nonce_owners| {
                    nonce_owners.into_iter().map(|(mandate, owner)| (id(mandate), owner)).collect()
                });
        let calls = vec((0..6_u8, 0..12_u8), 0..8).prop_map(|calls| {
            let call = |(kind, mandate): (u8, u8)| match kind {
                0 => call(Kind::Open(id(mandate)), None),
                1 | 2 => call(Kind::Hold(mandate.into()), Some(mandate)),
                3 => call(Kind::Capture(mandate.into()), None),
                4 => call(Kind::Revoke(id(mandate)), None),
                _ => call(Kind::Sweep(id(mandate)), None),
            };
            calls.into_iter().map(call).collect()
        });
        let rows = vec(prop_oneof![2 => Just(1_u32), 1 => 0..200_u32], 12).prop_map(|counts| {
            let rows = |(mandate, count): (u8, u32)| (0..count).map(move |nonce| candidate(mandate, nonce));
            (0..).zip(counts).flat_map(rows).collect()
        });
        (lanes, nonce_owners, calls, rows).prop_map(|(lanes, nonce_owners, calls, rows)| PlanInput {
            lanes,
            nonce_owners,
            calls,
            rows,
            row_gas: GAS_ROW,
        })
    }

    /// The mandates whose nonces the work uses.
    fn uses(work: &Work) -> HashSet<MandateId> {
        match work {
            Work::Batch(batch) => batch.rows.iter().map(|row| row.payment.mandate).collect(),
            Work::Call(call) => call.uses.into_iter().collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_mandate_is_in_one_lane_and_in_the_right_one(input in plan_inputs()) {
            let work = plan(input.clone(), &RoundRobin::default());
            let (mut lanes, mut mandates) = (HashSet::new(), HashSet::new());
            for (lane, work) in &work {
                prop_assert!(lanes.insert(*lane) && input.lanes.iter().any(|(known, _)| known == lane));
                for mandate in uses(work) {
                    prop_assert!(mandates.insert(mandate), "{mandate} goes into two lanes");
                    prop_assert!(input.nonce_owners.get(&mandate).is_none_or(|owner| *owner == NonceOwner::Lane(*lane)));
                }
            }
        }

        #[test]
        fn a_batch_takes_first_payments_in_order_within_lane_gas(input in plan_inputs()) {
            let gas: HashMap<usize, u64> = input.lanes.iter().copied().collect();
            for (lane, work) in plan(input.clone(), &RoundRobin::default()) {
                let Work::Batch(batch) = work else { continue };
                prop_assert!(!batch.rows.is_empty() && batch.rows.len() <= ROWS);
                prop_assert!(batch.gas_limit(GAS_ROW) <= gas[&lane]);
                let mut next: HashMap<MandateId, u32> = HashMap::new();
                let mut seen = Vec::new();
                for row in &batch.rows {
                    let next = next.entry(row.payment.mandate).or_default();
                    prop_assert_eq!(row.payment.nonce, *next);
                    *next += 1;
                    if seen.last() != Some(&row.payment.mandate) {
                        prop_assert!(!seen.contains(&row.payment.mandate), "a mandate's rows are together");
                        seen.push(row.payment.mandate);
                    }
                }
            }
        }

        /// No lane is left idle that could do something that is left.
        #[test]
        fn no_lane_idles_beside_work(input in plan_inputs()) {
            let work = plan(input.clone(), &RoundRobin::default());
            let busy: HashSet<usize> = work.iter().map(|(lane, _)| *lane).collect();
            let taken: HashSet<MandateId> = work.iter().flat_map(|(_, work)| uses(work)).collect();
            for (lane, gas) in input.lanes.iter().filter(|(lane, _)| !busy.contains(lane)) {
                let free = |mandate: &MandateId| !taken.contains(mandate)
                    && input.nonce_owners.get(mandate).is_none_or(|owner| *owner == NonceOwner::Lane(*lane));
                prop_assert!(Batch::room(*gas, GAS_ROW) == 0 || input.rows.iter().all(|row| !free(&row.payment.mandate)));
                let left = |call: &&ContractCall| call.uses.is_none_or(|mandate| free(&mandate));
                let done = work.iter().filter(|(_, work)| matches!(work, Work::Call(_))).count();
                let possible = input.calls.iter().filter(left).filter(|call| call.uses.is_none()).count();
                prop_assert!(*gas < CALL_GAS || possible <= done, "lane {lane}");
            }
        }
    }

    /// An endless stream of payments, and of everything else: each kind gets its turn.
    #[test]
    fn no_kind_of_work_starves_another() {
        let mut round_robin = RoundRobin::default();
        let mut waited = BTreeMap::new();
        for _ in 0..50 {
            let input = PlanInput {
                lanes: vec![(0, u64::MAX)],
                calls: vec![
                    call(Kind::Revoke(id(3)), None),
                    call(Kind::Open(id(1)), None),
                    call(Kind::Hold(1), Some(1)),
                    call(Kind::Release(1), None),
                    call(Kind::Sweep(id(2)), None),
                ],
                rows: (0..400).map(|nonce| candidate(1, nonce)).collect(),
                row_gas: GAS_ROW,
                ..PlanInput::default()
            };
            let (_, work) = plan(input, &round_robin).pop().unwrap();
            for priority in Priority::ALL {
                *waited.entry(priority).or_insert(0) += 1;
            }
            waited.insert(work.priority(), 0);
            round_robin.serve(work.priority());
            assert!(waited.values().all(|waited| *waited < Priority::ALL.len()), "{waited:?}");
        }
    }

    #[test]
    fn a_hold_precedes_payments_of_its_own_mandate() {
        let input = PlanInput {
            lanes: vec![(0, u64::MAX), (1, u64::MAX)],
            calls: vec![call(Kind::Hold(1), Some(1))],
            rows: [candidate(1, 0), candidate(2, 0)].to_vec(),
            row_gas: GAS_ROW,
            ..PlanInput::default()
        };
        let mut round_robin = RoundRobin::default();
        round_robin.serve(Priority::Settle);
        let work = plan(input, &round_robin);
        assert_eq!(
            work.iter().map(|(lane, work)| (*lane, work.priority())).collect::<Vec<_>>(),
            [(0, Priority::Hold), (1, Priority::Settle)]
        );
        assert_eq!(uses(&work[1].1), HashSet::from([id(2)]));
    }

    /// What is planned where nine mandates pay one payee, after those of `first`, and another one pays somebody else.
    fn popular_payee(lanes: usize, first: &[u8]) -> Vec<(bool, HashSet<MandateId>)> {
        let others = first.iter().map(|mandate| candidate(*mandate, 1));
        let input = PlanInput {
            lanes: (0..lanes).map(|lane| (lane, u64::MAX)).collect(),
            rows: others.chain((20..29).map(|mandate| candidate(mandate, 0))).chain([candidate(40, 2)]).collect(),
            row_gas: GAS_ROW,
            ..PlanInput::default()
        };
        let kind = |work: &Work| matches!(work, Work::Batch(batch) if batch.is_to_one_payee());
        plan(input, &RoundRobin::default()).iter().map(|(_, work)| (kind(work), uses(work))).collect()
    }

    #[test]
    fn many_mandates_of_one_payee_go_apart_from_the_others() {
        let popular: HashSet<MandateId> = (20..29).map(id).collect();
        assert_eq!(popular_payee(1, &[]), [(true, popular.clone())]);
        assert_eq!(popular_payee(3, &[]), [(true, popular.clone()), (false, HashSet::from([id(40)]))]);
        let others: HashSet<MandateId> = [1, 40].map(id).into();
        assert_eq!(popular_payee(1, &[1]), [(false, others.clone())], "the mandate whose turn it is goes first");
        assert_eq!(popular_payee(3, &[1]), [(false, others), (true, popular)]);
    }

    #[test]
    fn few_payments_share_one_transaction_despite_many_lanes() {
        let input = PlanInput {
            lanes: (0..6).map(|lane| (lane, u64::MAX)).collect(),
            rows: (0..9).map(|mandate| candidate(mandate, 0)).collect(),
            row_gas: GAS_ROW,
            ..PlanInput::default()
        };
        assert_eq!(plan(input, &RoundRobin::default()).len(), 1);
    }
}
