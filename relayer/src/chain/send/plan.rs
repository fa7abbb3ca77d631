//! What goes into which lane. Pure: the state in, the plan out.
//!
//! - A mandate whose nonces a transaction would use that no block holds goes into no other one.
//! - One whose last transaction is mined and not final stays with that transaction's submitter: its
//!   nonces keep the order on chain, whatever a reorg does.
//! - Kinds of work take turns: the kind that was served longest ago is next. A stream of payments
//!   never keeps a card's hold waiting for more than one transaction of each other kind.
//! - Within a kind the oldest is first; mandates with payments take turns too.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use alloy_primitives::Bytes;
use stipend_core::MandateId;

use crate::{
    chain::batch::{Batch, Row},
    ledger::transactions::Kind,
};

/// Gas of anything but a batch, with room to spare.
pub const CALL_GAS: u64 = 300_000;

/// Kinds of work that take turns. Where no turn decides, the first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Revocations: their operators want no more to be spent.
    Revoke,
    /// Openings: others wait for them.
    Open,
    /// Holds: somebody waits for a card.
    Hold,
    /// What ends a hold.
    EndHold,
    /// Payments.
    Settle,
    /// What is left of mandates that are over.
    Sweep,
}

impl Class {
    const ALL: [Self; 6] = [Self::Revoke, Self::Open, Self::Hold, Self::EndHold, Self::Settle, Self::Sweep];

    /// The class of a kind of transaction.
    #[must_use]
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

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    served: BTreeMap<Class, u64>,
    count: u64,
}

impl Turns {
    /// This class had its turn.
    pub fn serve(&mut self, class: Class) {
        self.count = self.count.saturating_add(1);
        self.served.insert(class, self.count);
    }

    fn last(&self, class: Class) -> u64 {
        self.served.get(&class).copied().unwrap_or_default()
    }
}

/// A call that is a transaction of its own.
#[derive(Clone, Debug)]
pub struct Single {
    /// What it does.
    pub kind: Kind,
    /// The call.
    pub calldata: Bytes,
    /// The mandate whose nonce it uses.
    pub uses: Option<MandateId>,
}

/// Something to send.
#[derive(Clone, Debug)]
pub enum Job {
    /// Payments.
    Batch(Batch),
    /// Anything else.
    Single(Single),
}

impl Job {
    /// Its class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Batch(_) => Class::Settle,
            Self::Single(single) => Class::of(single.kind),
        }
    }
}

/// Who may use a mandate's nonces now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: a transaction that no block holds would use some.
    Unmined,
    /// This lane alone: its transaction is mined and not final.
    Lane(usize),
}

/// All that a plan is made of.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// The lanes that are idle and can send, with the gas that each can pay for.
    pub lanes: Vec<(usize, u64)>,
    /// Mandates that not every lane may take.
    pub holders: HashMap<MandateId, Holder>,
    /// Calls that wait, the oldest of each kind first.
    pub calls: Vec<Single>,
    /// Payments that wait: each mandate's together, in nonce order; the mandate whose turn it is first.
    pub rows: Vec<Row>,
}

/// At most one job for each lane.
#[must_use]
pub fn plan(board: Board, turns: &Turns) -> Vec<(usize, Job)> {
    let Board { lanes, holders, calls, rows } = board;
    let mut turns = turns.clone();
    let mut waiting: BTreeMap<Class, VecDeque<Single>> = BTreeMap::new();
    for call in calls {
        waiting.entry(Class::of(call.kind)).or_default().push_back(call);
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
    let mut jobs = Vec::with_capacity(lanes.len());
    for (lane, gas) in lanes {
        let free = |taken: &HashSet<MandateId>, mandate: &MandateId| {
            let holder = holders.get(mandate);
            !taken.contains(mandate) && holder.is_none_or(|holder| *holder == Holder::Lane(lane))
        };
        let can_go = |taken: &HashSet<MandateId>, call: &Single| call.uses.is_none_or(|mandate| free(taken, &mandate));
        let room = Batch::room(gas);
        let possible = |class: &Class| match class {
            Class::Settle => room > 0 && groups.iter().any(|(mandate, _)| free(&taken, mandate)),
            class => gas >= CALL_GAS && waiting.get(class).into_iter().flatten().any(|call| can_go(&taken, call)),
        };
        let Some(class) = Class::ALL.into_iter().filter(possible).min_by_key(|class| (turns.last(*class), *class))
        else {
            continue;
        };
        let job = if class == Class::Settle {
            Some(Job::Batch(fill(&mut groups, room, lane, &holders, &mut taken)))
        } else {
            let calls = waiting.entry(class).or_default();
            let at = calls.iter().position(|call| can_go(&taken, call));
            at.and_then(|at| calls.remove(at)).map(Job::Single)
        };
        if let Some(job) = job {
            if let Job::Single(Single { uses: Some(mandate), .. }) = &job {
                taken.insert(*mandate);
            }
            turns.serve(class);
            jobs.push((lane, job));
        }
    }
    jobs
}

/// A batch for this lane: first the mandates that no other lane may take, then the others in turn.
fn fill(
    groups: &mut [(MandateId, VecDeque<Row>)],
    room: usize,
    lane: usize,
    holders: &HashMap<MandateId, Holder>,
    taken: &mut HashSet<MandateId>,
) -> Batch {
    let mut rows: Vec<Row> = Vec::with_capacity(room);
    for holder in [Some(Holder::Lane(lane)), None] {
        for (mandate, waiting) in groups.iter_mut() {
            let left = room.saturating_sub(rows.len());
            if left > 0 && holders.get(mandate).copied() == holder && taken.insert(*mandate) {
                rows.extend(waiting.drain(..left.min(waiting.len())));
            }
        }
    }
    Batch { rows }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::chain::batch::{ROWS, candidate};

    fn id(mandate: u8) -> MandateId {
        MandateId(B256::repeat_byte(mandate))
    }

    fn call(kind: Kind, uses: Option<u8>) -> Single {
        Single { kind, calldata: Bytes::new(), uses: uses.map(id) }
    }

    fn boards() -> impl Strategy<Value = Board> {
        let gas = prop_oneof![0..1_000_000_u64, Just(u64::MAX)];
        let lanes = vec(gas, 0..5).prop_map(|gas| gas.into_iter().enumerate().collect());
        let holders = vec((0..12_u8, prop_oneof![Just(Holder::Unmined), (0..6_usize).prop_map(Holder::Lane)]), 0..8)
            .prop_map(|holders| holders.into_iter().map(|(mandate, holder)| (id(mandate), holder)).collect());
        let calls = vec((0..6_u8, 0..12_u8), 0..8).prop_map(|calls| {
            let single = |(kind, mandate): (u8, u8)| match kind {
                0 => call(Kind::Open(id(mandate)), None),
                1 | 2 => call(Kind::Hold(mandate.into()), Some(mandate)),
                3 => call(Kind::Capture(mandate.into()), None),
                4 => call(Kind::Revoke(id(mandate)), None),
                _ => call(Kind::Sweep(id(mandate)), None),
            };
            calls.into_iter().map(single).collect()
        });
        let rows = vec(0..200_u32, 12).prop_map(|counts| {
            let rows = |(mandate, count): (u8, u32)| (0..count).map(move |nonce| candidate(mandate, nonce));
            (0..).zip(counts).flat_map(rows).collect()
        });
        (lanes, holders, calls, rows).prop_map(|(lanes, holders, calls, rows)| Board { lanes, holders, calls, rows })
    }

    /// The mandates whose nonces a job uses.
    fn uses(job: &Job) -> HashSet<MandateId> {
        match job {
            Job::Batch(batch) => batch.rows.iter().map(|row| row.payment.mandate).collect(),
            Job::Single(single) => single.uses.into_iter().collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_mandate_is_in_one_lane_and_in_the_right_one(board in boards()) {
            let jobs = plan(board.clone(), &Turns::default());
            let (mut lanes, mut mandates) = (HashSet::new(), HashSet::new());
            for (lane, job) in &jobs {
                prop_assert!(lanes.insert(*lane) && board.lanes.iter().any(|(known, _)| known == lane));
                for mandate in uses(job) {
                    prop_assert!(mandates.insert(mandate), "{mandate} goes into two lanes");
                    prop_assert!(board.holders.get(&mandate).is_none_or(|holder| *holder == Holder::Lane(*lane)));
                }
            }
        }

        #[test]
        fn a_batch_takes_each_mandate_s_first_payments_in_order_and_what_its_lane_can_pay(board in boards()) {
            let gas: HashMap<usize, u64> = board.lanes.iter().copied().collect();
            for (lane, job) in plan(board.clone(), &Turns::default()) {
                let Job::Batch(batch) = job else { continue };
                prop_assert!(!batch.rows.is_empty() && batch.rows.len() <= ROWS);
                prop_assert!(batch.gas_limit() <= gas[&lane]);
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
        fn no_lane_idles_beside_work(board in boards()) {
            let jobs = plan(board.clone(), &Turns::default());
            let busy: HashSet<usize> = jobs.iter().map(|(lane, _)| *lane).collect();
            let taken: HashSet<MandateId> = jobs.iter().flat_map(|(_, job)| uses(job)).collect();
            for (lane, gas) in board.lanes.iter().filter(|(lane, _)| !busy.contains(lane)) {
                let free = |mandate: &MandateId| !taken.contains(mandate)
                    && board.holders.get(mandate).is_none_or(|holder| *holder == Holder::Lane(*lane));
                prop_assert!(Batch::room(*gas) == 0 || board.rows.iter().all(|row| !free(&row.payment.mandate)));
                let left = |single: &&Single| single.uses.is_none_or(|mandate| free(&mandate));
                let done = jobs.iter().filter(|(_, job)| matches!(job, Job::Single(_))).count();
                let possible = board.calls.iter().filter(left).filter(|call| call.uses.is_none()).count();
                prop_assert!(*gas < CALL_GAS || possible <= done, "lane {lane}");
            }
        }
    }

    /// An endless stream of payments, and of everything else: each kind gets its turn.
    #[test]
    fn no_kind_of_work_starves_another() {
        let mut turns = Turns::default();
        let mut waited = BTreeMap::new();
        for _ in 0..50 {
            let board = Board {
                lanes: vec![(0, u64::MAX)],
                calls: vec![
                    call(Kind::Revoke(id(3)), None),
                    call(Kind::Open(id(1)), None),
                    call(Kind::Hold(1), Some(1)),
                    call(Kind::Release(1), None),
                    call(Kind::Sweep(id(2)), None),
                ],
                rows: (0..400).map(|nonce| candidate(1, nonce)).collect(),
                ..Board::default()
            };
            let (_, job) = plan(board, &turns).pop().unwrap();
            for class in Class::ALL {
                *waited.entry(class).or_insert(0) += 1;
            }
            waited.insert(job.class(), 0);
            turns.serve(job.class());
            assert!(waited.values().all(|waited| *waited < Class::ALL.len()), "{waited:?}");
        }
    }

    #[test]
    fn a_hold_goes_before_the_payments_of_its_mandate_and_beside_those_of_others() {
        let board = Board {
            lanes: vec![(0, u64::MAX), (1, u64::MAX)],
            calls: vec![call(Kind::Hold(1), Some(1))],
            rows: [candidate(1, 0), candidate(2, 0)].to_vec(),
            ..Board::default()
        };
        let mut turns = Turns::default();
        turns.serve(Class::Settle);
        let jobs = plan(board, &turns);
        assert_eq!(
            jobs.iter().map(|(lane, job)| (*lane, job.class())).collect::<Vec<_>>(),
            [(0, Class::Hold), (1, Class::Settle)]
        );
        assert_eq!(uses(&jobs[1].1), HashSet::from([id(2)]));
    }

    #[test]
    fn few_payments_share_a_transaction_however_many_lanes_there_are() {
        let board = Board {
            lanes: (0..6).map(|lane| (lane, u64::MAX)).collect(),
            rows: (0..9).map(|mandate| candidate(mandate, 0)).collect(),
            ..Board::default()
        };
        assert_eq!(plan(board, &Turns::default()).len(), 1);
    }
}
