//! Which of the nodes to ask. Pure: what was seen of each goes in, an order comes out.

use std::time::{Duration, Instant};

/// A node whose head is so much older than another's is behind.
const LAG_SECONDS: u64 = 30;
/// How many blocks behind another node is lagging, for chains with fast blocks.
const LAG_BLOCKS: u64 = 64;
/// How many blocks a head may be below the same node's last one, as behind a load balancer. More
/// than that, it goes backwards.
const BACK_BLOCKS: u64 = 2;
/// For how long a node that contradicts itself or the others is not asked at all.
const QUARANTINE: Duration = Duration::from_secs(60);

/// What a node's last head was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) number: u64,
    pub(super) time: u64,
}

/// What is wrong with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// Its head is older than another's.
    Behind(String),
    /// It did not answer.
    Fails(String),
    OtherChain(u64),
    /// It contradicted itself or the others, and is not asked until then.
    Quarantined(String, Instant),
}

#[derive(Clone, Debug, Default)]
struct NodeHealth {
    /// Whether its chain is known to be the right one since it last failed.
    checked: bool,
    seen: Option<Seen>,
    /// The highest block it has shown.
    highest: u64,
    fault: Option<Fault>,
}

/// How the nodes stand, in order of preference.
#[derive(Clone, Debug)]
pub(super) struct NodeRanking {
    chain_id: u64,
    all: Vec<NodeHealth>,
}

impl NodeRanking {
    pub(super) fn new(nodes: usize, chain_id: u64) -> Self {
        Self { chain_id, all: vec![NodeHealth::default(); nodes] }
    }

    /// In which order to ask: those with nothing wrong; then, since nothing better is there, those
    /// that lag, and those that failed and may be back. A single node is always asked.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let rank = |health: &NodeHealth| match health.fault {
            None => Some(0),
            Some(Fault::Behind(_)) => Some(1),
            Some(Fault::Fails(_)) => Some(2),
            Some(Fault::OtherChain(_)) => Some(3),
            Some(Fault::Quarantined(_, until)) if self.all.len() == 1 || until <= now => Some(2),
            Some(Fault::Quarantined(..)) => None,
        };
        let mut order: Vec<(u8, usize)> =
            self.all.iter().enumerate().filter_map(|(node, health)| Some((rank(health)?, node))).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, node)| node).collect()
    }

    /// Those with nothing wrong.
    pub(super) fn healthy(&self) -> Vec<usize> {
        (0..self.all.len()).filter(|node| self.get(*node).is_some_and(|health| health.fault.is_none())).collect()
    }

    pub(super) fn is_checked(&self, node: usize) -> bool {
        self.get(node).is_some_and(|health| health.checked)
    }

    /// It says that it is on this chain.
    pub(super) fn on_chain(&mut self, node: usize, chain_id: u64) -> bool {
        let expected = self.chain_id;
        let Some(health) = self.all.get_mut(node) else { return false };
        health.checked = chain_id == expected;
        match health.fault {
            _ if chain_id != expected => health.fault = Some(Fault::OtherChain(chain_id)),
            Some(Fault::OtherChain(_)) => health.fault = None,
            _ => {}
        }
        health.checked
    }

    /// It gave no answer. Whoever it is when it is back, its chain is looked at first.
    pub(super) fn failed(&mut self, node: usize, why: String, now: Instant) {
        if let Some(health) = self.all.get_mut(node) {
            health.checked = false;
            if !matches!(health.fault, Some(Fault::Quarantined(_, until)) if until > now) {
                health.fault = Some(Fault::Fails(why));
            }
        }
    }

    pub(super) fn answered(&mut self, node: usize, now: Instant) {
        let Some(health) = self.all.get_mut(node).filter(|health| health.checked) else { return };
        match health.fault {
            Some(Fault::Fails(_)) => health.fault = None,
            Some(Fault::Quarantined(_, until)) if until <= now => health.fault = None,
            _ => {}
        }
    }

    /// It contradicted itself or the others.
    pub(super) fn quarantine(&mut self, node: usize, why: String, now: Instant) {
        if let Some(health) = self.all.get_mut(node) {
            health.checked = false;
            health.fault = Some(Fault::Quarantined(why, now + QUARANTINE));
        }
    }

    /// It shows this head. Compared with what the others show, and with what it has shown itself.
    pub(super) fn record_head(&mut self, node: usize, seen: Seen, now: Instant) {
        let fresher = |other: &NodeHealth| other.seen.is_some_and(|other| other.number > seen.number);
        let back = self.get(node).is_some_and(|health| seen.number.saturating_add(BACK_BLOCKS) < health.highest)
            && self.others(node).any(fresher);
        let Some(health) = self.all.get_mut(node) else { return };
        if back {
            let why = format!("its head went back from block {} to {}", health.highest, seen.number);
            health.seen = Some(seen);
            health.highest = seen.number;
            self.quarantine(node, why, now);
            return;
        }
        health.highest = health.highest.max(seen.number);
        health.seen = Some(seen);
        self.answered(node, now);
        self.compare();
    }

    /// Says of each node whether it is behind another that is in use.
    fn compare(&mut self) {
        let in_use = |health: &&NodeHealth| matches!(health.fault, None | Some(Fault::Behind(_)));
        let seen = || self.all.iter().filter(in_use).filter_map(|health| health.seen);
        let (number, time) = (seen().map(|seen| seen.number).max(), seen().map(|seen| seen.time).max());
        let (Some(number), Some(time)) = (number, time) else { return };
        for health in &mut self.all {
            let (Some(seen), None | Some(Fault::Behind(_))) = (health.seen, &health.fault) else { continue };
            let lag = time.saturating_sub(seen.time);
            let behind = lag >= LAG_SECONDS || number.saturating_sub(seen.number) >= LAG_BLOCKS;
            health.fault = behind.then(|| {
                Fault::Behind(format!("its head is block {} where another has {number}, {lag} s newer", seen.number))
            });
        }
    }

    /// Which are not used, and why.
    pub(super) fn unhealthy_report(&self) -> impl Iterator<Item = (usize, String)> {
        self.all.iter().enumerate().filter_map(|(node, health)| {
            let why = match health.fault.as_ref()? {
                Fault::Behind(why) | Fault::Fails(why) | Fault::Quarantined(why, _) => why.clone(),
                Fault::OtherChain(found) => format!("it is on chain {found}, not on {}", self.chain_id),
            };
            Some((node, why))
        })
    }

    /// Whether every node is on another chain.
    pub(super) fn all_on_other_chain(&self) -> bool {
        self.all.iter().all(|health| matches!(health.fault, Some(Fault::OtherChain(_))))
    }

    fn get(&self, node: usize) -> Option<&NodeHealth> {
        self.all.get(node)
    }

    fn others(&self, node: usize) -> impl Iterator<Item = &NodeHealth> {
        self.all.iter().enumerate().filter(move |(other, _)| *other != node).map(|(_, health)| health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(number: u64, time: u64) -> Seen {
        Seen { number, time }
    }

    /// So many nodes, all well.
    fn nodes(count: usize) -> (NodeRanking, Instant) {
        let mut ranking = NodeRanking::new(count, 1);
        assert!((0..count).all(|node| ranking.on_chain(node, 1)));
        (ranking, Instant::now())
    }

    #[test]
    fn the_first_is_preferred_and_comes_back_when_it_answers_again() {
        let (mut nodes, now) = nodes(3);
        assert_eq!(nodes.order(now), [0, 1, 2]);
        nodes.failed(0, "no connection".into(), now);
        assert_eq!(nodes.order(now), [1, 2, 0]);
        assert_eq!(nodes.healthy(), [1, 2]);
        // An answer counts only when its chain has been looked at again.
        nodes.answered(0, now);
        assert_eq!(nodes.order(now), [1, 2, 0]);
        assert!(!nodes.is_checked(0) && nodes.on_chain(0, 1));
        nodes.answered(0, now);
        assert_eq!(nodes.order(now), [0, 1, 2]);
        assert_eq!(nodes.unhealthy_report().count(), 0);
    }

    #[test]
    fn a_node_back_on_another_chain_is_asked_last() {
        let (mut nodes, now) = nodes(2);
        nodes.failed(0, "no connection".into(), now);
        assert!(!nodes.on_chain(0, 5));
        nodes.answered(0, now);
        assert_eq!((nodes.order(now), nodes.healthy()), (vec![1, 0], vec![1]));
        assert_eq!(nodes.unhealthy_report().collect::<Vec<_>>(), [(0, "it is on chain 5, not on 1".to_owned())]);
        assert!(!nodes.all_on_other_chain());
        nodes.on_chain(1, 5);
        assert!(nodes.all_on_other_chain());
        assert!(nodes.on_chain(0, 1));
        assert_eq!(nodes.healthy(), [0]);
    }

    #[test]
    fn a_lagging_node_is_asked_after_a_fresher_one() {
        let (mut nodes, now) = nodes(2);
        nodes.record_head(0, at(100, 1_000), now);
        nodes.record_head(1, at(101, 1_029), now);
        assert_eq!(nodes.order(now), [0, 1]);
        nodes.record_head(1, at(102, 1_060), now);
        assert_eq!((nodes.order(now), nodes.healthy()), (vec![1, 0], vec![1]));
        // The fresher one is gone: the one that is left is used, without a comparison.
        nodes.failed(1, "no connection".into(), now);
        nodes.record_head(0, at(101, 1_012), now);
        assert_eq!(nodes.order(now), [0, 1]);
        // Back, and both are level.
        assert!(nodes.on_chain(1, 1));
        nodes.record_head(1, at(102, 1_060), now);
        assert_eq!(nodes.order(now), [1, 0]);
        nodes.record_head(0, at(102, 1_060), now);
        assert_eq!(nodes.order(now), [0, 1]);
    }

    #[test]
    fn many_quick_blocks_are_a_lag_too() {
        let (mut nodes, now) = nodes(2);
        nodes.record_head(0, at(100, 1_000), now);
        nodes.record_head(1, at(163, 1_010), now);
        assert_eq!(nodes.order(now), [0, 1]);
        nodes.record_head(1, at(164, 1_010), now);
        assert_eq!(nodes.order(now), [1, 0]);
    }

    #[test]
    fn a_node_that_goes_backwards_is_quarantined() {
        let (mut nodes, now) = nodes(2);
        nodes.record_head(0, at(100, 1_000), now);
        nodes.record_head(1, at(100, 1_000), now);
        nodes.record_head(0, at(98, 998), now);
        assert_eq!(nodes.order(now), [0, 1]);
        nodes.record_head(0, at(97, 997), now);
        assert_eq!(nodes.order(now), [1]);
        assert!(nodes.unhealthy_report().next().unwrap().1.contains("from block 100 to 97"));
        // Not even when the other one fails; and no answer lifts the quarantine before its time.
        nodes.failed(1, "no connection".into(), now);
        nodes.failed(0, "no connection".into(), now);
        nodes.on_chain(0, 1);
        nodes.record_head(0, at(101, 1_001), now);
        assert_eq!(nodes.order(now), [1]);
        let later = now + QUARANTINE;
        assert_eq!(nodes.order(later), [0, 1]);
        nodes.record_head(0, at(101, 1_001), later);
        assert_eq!(nodes.healthy(), [0]);
    }

    #[test]
    fn a_single_node_is_asked_whatever_it_did() {
        let (mut nodes, now) = nodes(1);
        nodes.record_head(0, at(100, 1_000), now);
        nodes.record_head(0, at(10, 900), now);
        assert_eq!(nodes.healthy(), [0]);
        nodes.quarantine(0, "it leaves out logs".into(), now);
        assert_eq!(nodes.order(now), [0]);
        nodes.failed(0, "no connection".into(), now);
        assert_eq!(nodes.order(now), [0]);
    }
}
