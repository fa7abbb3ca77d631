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

use super::{row_gas::MAX_TX_GAS, size::BatchLimits};
use crate::{
    chain::follow::Head,
    ledger::transactions::Kind,
    send::batch::{Batch, CallSize, Row},
};

/// Gas of anything but a batch, with room to spare.
pub const CALL_GAS: u64 = 300_000;

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

/// A lane that can take a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub lane: usize,
    /// The gas that it can pay for.
    pub gas: u64,
    /// Whether it has another one that no block holds: then it takes no batch that is not full, so that few payments
    /// still share a transaction.
    pub behind: bool,
}

/// All that a plan is made of.
#[derive(Clone, Debug, Default)]
pub struct PlanInput {
    /// At most one of each lane; those that are idle first.
    pub slots: Vec<Slot>,
    /// Mandates that not every lane may take.
    pub nonce_owners: HashMap<MandateId, NonceOwner>,
    /// Calls that wait, the oldest of each kind first.
    pub calls: Vec<ContractCall>,
    /// Payments that wait: each mandate's together, in nonce order; the mandate whose turn it is first.
    pub rows: Vec<Row>,
    pub limits: BatchLimits,
}

/// At most one piece of work for each lane.
pub fn plan(input: PlanInput, round_robin: &RoundRobin) -> Vec<(usize, Work)> {
    let PlanInput { slots, nonce_owners, calls, rows, limits } = input;
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
    let mut plan = Vec::with_capacity(slots.len());
    for Slot { lane, gas, behind } in slots {
        let free = |taken: &HashSet<MandateId>, mandate: &MandateId| {
            let owner = nonce_owners.get(mandate);
            !taken.contains(mandate) && owner.is_none_or(|owner| *owner == NonceOwner::Lane(lane))
        };
        let can_go =
            |taken: &HashSet<MandateId>, call: &ContractCall| call.uses.is_none_or(|mandate| free(taken, &mandate));
        let room = limits.room(gas);
        let enough = if behind { room } else { 1 };
        let possible = |priority: &Priority| match priority {
            Priority::Settle => {
                let free = groups.iter().filter(|(mandate, _)| free(&taken, mandate));
                room > 0 && free.map(|(_, rows)| rows.len()).sum::<usize>() >= enough
            }
            priority => gas >= CALL_GAS && waiting.get(priority).into_iter().flatten().any(|call| can_go(&taken, call)),
        };
        let Some(priority) =
            Priority::ALL.into_iter().filter(possible).min_by_key(|priority| (round_robin.last(*priority), *priority))
        else {
            continue;
        };
        let work = if priority == Priority::Settle {
            Some(Work::Batch(fill(&mut groups, room, limits.bytes, lane, &nonce_owners, &mut taken)))
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
    bytes: usize,
    lane: usize,
    nonce_owners: &HashMap<MandateId, NonceOwner>,
    taken: &mut HashSet<MandateId>,
) -> Batch {
    let mut rows: Vec<Row> = Vec::with_capacity(room);
    let mut size = CallSize::default();
    for owner in [Some(NonceOwner::Lane(lane)), None] {
        for (mandate, waiting) in groups.iter_mut() {
            if nonce_owners.get(mandate).copied() != owner || taken.contains(mandate) {
                continue;
            }
            while let Some(row) = waiting.front() {
                let with = size.with(row, !taken.contains(mandate));
                if rows.len() >= room || with.bytes() > bytes {
                    break;
                }
                size = with;
                taken.insert(*mandate);
                rows.extend(waiting.pop_front());
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
    use crate::send::{batch::candidate, size::ROWS};

    fn id(mandate: u8) -> MandateId {
        MandateId(B256::repeat_byte(mandate))
    }

    fn call(kind: Kind, uses: Option<u8>) -> ContractCall {
        ContractCall { kind, calldata: Bytes::new(), uses: uses.map(id) }
    }

    fn plan_inputs() -> impl Strategy<Value = PlanInput> {
        let gas = prop_oneof![0..1_000_000_u64, Just(u64::MAX)];
        let slot = |(lane, (gas, behind))| Slot { lane, gas, behind };
        let slots = vec((gas, proptest::bool::weighted(0.3)), 0..5)
            .prop_map(move |slots| slots.into_iter().enumerate().map(slot).collect());
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
        (slots, nonce_owners, calls, rows).prop_map(|(slots, nonce_owners, calls, rows)| PlanInput {
            slots,
            nonce_owners,
            calls,
            rows,
            limits: BatchLimits::default(),
        })
    }

    fn idle(lane: usize, gas: u64) -> Slot {
        Slot { lane, gas, behind: false }
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
                prop_assert!(lanes.insert(*lane) && input.slots.iter().any(|slot| slot.lane == *lane));
                for mandate in uses(work) {
                    prop_assert!(mandates.insert(mandate), "{mandate} goes into two lanes");
                    prop_assert!(input.nonce_owners.get(&mandate).is_none_or(|owner| *owner == NonceOwner::Lane(*lane)));
                }
            }
        }

        #[test]
        fn a_batch_takes_first_payments_in_order_within_lane_gas(input in plan_inputs()) {
            let limits = input.limits;
            let slots: HashMap<usize, Slot> = input.slots.iter().map(|slot| (slot.lane, *slot)).collect();
            for (lane, work) in plan(input.clone(), &RoundRobin::default()) {
                let Work::Batch(batch) = work else { continue };
                prop_assert!(!batch.rows.is_empty() && batch.rows.len() <= ROWS);
                prop_assert!(limits.gas_limit(batch.rows.len()) <= slots[&lane].gas);
                prop_assert!(batch.calldata().unwrap().len() <= limits.bytes);
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
            for Slot { lane, gas, behind } in input.slots.iter().filter(|slot| !busy.contains(&slot.lane)) {
                let free = |mandate: &MandateId| !taken.contains(mandate)
                    && input.nonce_owners.get(mandate).is_none_or(|owner| *owner == NonceOwner::Lane(*lane));
                let room = input.limits.room(*gas);
                let rows = input.rows.iter().filter(|row| free(&row.payment.mandate)).count();
                let least = if *behind { room } else { 1 };
                prop_assert!(room == 0 || rows < least);
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
                slots: vec![idle(0, u64::MAX)],
                calls: vec![
                    call(Kind::Revoke(id(3)), None),
                    call(Kind::Open(id(1)), None),
                    call(Kind::Hold(1), Some(1)),
                    call(Kind::Release(1), None),
                    call(Kind::Sweep(id(2)), None),
                ],
                rows: (0..400).map(|nonce| candidate(1, nonce)).collect(),
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
            slots: vec![idle(0, u64::MAX), idle(1, u64::MAX)],
            calls: vec![call(Kind::Hold(1), Some(1))],
            rows: [candidate(1, 0), candidate(2, 0)].to_vec(),
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
            slots: (0..lanes).map(|lane| idle(lane, u64::MAX)).collect(),
            rows: others.chain((20..29).map(|mandate| candidate(mandate, 0))).chain([candidate(40, 2)]).collect(),
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
            slots: (0..6).map(|lane| idle(lane, u64::MAX)).collect(),
            rows: (0..9).map(|mandate| candidate(mandate, 0)).collect(),
            ..PlanInput::default()
        };
        assert_eq!(plan(input, &RoundRobin::default()).len(), 1);
    }

    /// A lane that has something in flight takes a call, or a full batch, and nothing less.
    #[test]
    fn behind_another_transaction_only_full_batches_go() {
        let limits = BatchLimits { rows: 20, ..BatchLimits::default() };
        let planned = |rows: u32, calls: Vec<ContractCall>| {
            let rows = (0..rows).map(|nonce| candidate(1, nonce)).collect();
            let slots = vec![Slot { lane: 0, gas: u64::MAX, behind: true }];
            let input = PlanInput { slots, rows, calls, limits, ..PlanInput::default() };
            let rows = |work: &Work| if let Work::Batch(batch) = work { batch.rows.len() } else { 0 };
            plan(input, &RoundRobin::default()).iter().map(|(_, work)| rows(work)).collect::<Vec<_>>()
        };
        assert_eq!(planned(19, Vec::new()), [0; 0]);
        assert_eq!(planned(20, Vec::new()), [20]);
        assert_eq!(planned(21, Vec::new()), [20]);
        assert_eq!(planned(19, vec![call(Kind::Hold(1), Some(2))]), [0]);
    }

    #[test]
    fn a_batch_stops_where_a_pool_would_not_take_more() {
        let rows: Vec<Row> = (0..20).flat_map(|mandate| (0..5).map(move |nonce| candidate(mandate, nonce))).collect();
        let limits = BatchLimits { bytes: 20_000, ..BatchLimits::default() };
        let input =
            PlanInput { slots: vec![idle(0, u64::MAX), idle(1, u64::MAX)], rows, limits, ..PlanInput::default() };
        let batches: Vec<usize> = plan(input, &RoundRobin::default())
            .iter()
            .map(|(_, work)| {
                let Work::Batch(batch) = work else { panic!("{work:?}") };
                assert!(batch.calldata().unwrap().len() <= 20_000);
                batch.rows.len()
            })
            .collect();
        assert_eq!(batches, [60, 40]);
    }
}
