//! The dials that others cause: by datagrams, by naming nodes, and by stating locations.
//!
//! All share one budget. A dial that proves a node gives its place back, so that many nodes that start together find each other at
//! once: [`HINTS_PER_SECOND`] are under way at a time. What fails, repeats or is not proven counts for its second. Beyond the
//! budget, locations wait. The hosts that cause them take turns, and so do the nodes of one host. So a peer that causes many
//! dials delays those that others cause by little.
//!
//! Invariant: the waiting locations of one node, of one host and of all are bounded. No cause has an entry without a location.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use antiphon_sched::{NodeId, Time, site_of};

/// Dials in one second that others may cause, besides those that have proven a node.
const HINTS_PER_SECOND: u32 = 10;
/// The locations of one node that wait until they may be dialled.
const OF_NODE_MAX: usize = 64;
/// The same of one host: of its datagrams, and of all its nodes.
const OF_SITE_MAX: usize = 256;
/// The same of all hosts.
const WAITING_MAX: usize = 1024;

/// What has caused a dial.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::node) struct DialCause {
    /// The host, as [`site_of`] counts it.
    site: IpAddr,
    /// The peer; `None`: a datagram of that host.
    node: Option<NodeId>,
}

impl DialCause {
    pub(in crate::node) fn datagram(from: IpAddr) -> Self {
        Self { site: site_of(from), node: None }
    }

    /// Whether it is a datagram of a host.
    pub(in crate::node) fn is_datagram(self) -> bool {
        self.node.is_none()
    }

    pub(in crate::node) fn peer(node: NodeId, remote: IpAddr) -> Self {
        Self { site: site_of(remote), node: Some(node) }
    }
}

impl Display for DialCause {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(node) => write!(f, "{node} at {}", self.site),
            None => write!(f, "datagrams of {}", self.site),
        }
    }
}

/// A location that others have named, and that waits for its turn.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::node) struct WaitingHint {
    pub(in crate::node) at: SocketAddr,
    pub(in crate::node) cause: DialCause,
    /// The node that is dialled there, if that is known.
    pub(in crate::node) node: Option<NodeId>,
    /// How long it waits for its turn, and how long it is dialled then.
    pub(in crate::node) until: Time,
    pub(in crate::node) dials_for: Duration,
    /// A connection is needed beside the present one of the node.
    pub(in crate::node) renews: bool,
    /// The attempts that were made before.
    pub(in crate::node) attempts: u32,
}

/// Limits the dials that others cause, and keeps the locations that wait for their turn.
#[derive(Debug, Default)]
pub(in crate::node) struct DialHints {
    used: u32,
    since: Time,
    sites: BTreeMap<IpAddr, SiteQueue>,
    waiting: usize,
    /// The turn of the site that was served last.
    turn: u64,
}

/// The waiting locations of one host.
#[derive(Debug, Default)]
struct SiteQueue {
    /// When it is served: the lowest turn comes first.
    turn: u64,
    nodes: BTreeMap<Option<NodeId>, NodeQueue>,
    waiting: usize,
    /// The turn of the node that was served last.
    node_turn: u64,
}

#[derive(Debug, Default)]
struct NodeQueue {
    turn: u64,
    hints: VecDeque<WaitingHint>,
}

impl DialHints {
    /// Whether another dial may begin now. Counts it if so.
    pub(in crate::node) fn take(&mut self, now: Time) -> bool {
        if now >= self.next_second() {
            (self.used, self.since) = (0, now);
        }
        let may = self.used < HINTS_PER_SECOND;
        self.used += u32::from(may);
        may
    }

    /// A dial has proven a node, or was not made.
    pub(in crate::node) fn give_back(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    pub(in crate::node) fn next_second(&self) -> Time {
        self.since + Duration::from_secs(1)
    }

    pub(in crate::node) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Whether a waiting location may be dialled now.
    pub(in crate::node) fn is_ready(&self) -> bool {
        self.waiting > 0 && self.used < HINTS_PER_SECOND
    }

    /// Adds a location that waits for its turn. Returns one that does not wait: this one, if its cause has too many. When all have too
    /// many together, it is the last location of the host that has most.
    pub(in crate::node) fn push(&mut self, hint: WaitingHint) -> Option<WaitingHint> {
        let (turn, DialCause { site, node }) = (self.turn, hint.cause);
        let queue =
            self.sites.entry(site).or_insert_with(|| SiteQueue { turn: turn + 1, ..SiteQueue::default() });
        let node_turn = queue.node_turn;
        let of_node = queue
            .nodes
            .entry(node)
            .or_insert_with(|| NodeQueue { turn: node_turn + 1, ..NodeQueue::default() });
        if of_node.hints.iter().any(|waiting| waiting.at == hint.at) {
            return None;
        }
        if queue.waiting >= OF_SITE_MAX || (node.is_some() && of_node.hints.len() >= OF_NODE_MAX) {
            self.remove_if_empty(site, node);
            return Some(hint);
        }
        of_node.hints.push_back(hint);
        queue.waiting += 1;
        self.waiting += 1;
        if self.waiting > WAITING_MAX { self.pop_last_of_most() } else { None }
    }

    /// Takes the location whose turn it is.
    pub(in crate::node) fn pop(&mut self) -> Option<WaitingHint> {
        let (site, queue) = self.sites.iter_mut().min_by_key(|(_, queue)| queue.turn)?;
        let (node, of_node) = queue.nodes.iter_mut().min_by_key(|(_, of_node)| of_node.turn)?;
        let (site, node) = (*site, *node);
        let hint = of_node.hints.pop_front()?;
        (self.turn, queue.node_turn) = (self.turn.max(queue.turn), queue.node_turn.max(of_node.turn));
        (queue.turn, of_node.turn) = (self.turn + 1, queue.node_turn + 1);
        queue.waiting -= 1;
        self.waiting -= 1;
        self.remove_if_empty(site, node);
        Some(hint)
    }

    /// Takes the last location of the host and node that have most.
    fn pop_last_of_most(&mut self) -> Option<WaitingHint> {
        let (site, queue) = self.sites.iter_mut().max_by_key(|(_, queue)| queue.waiting)?;
        let (node, of_node) = queue.nodes.iter_mut().max_by_key(|(_, of_node)| of_node.hints.len())?;
        let (site, node) = (*site, *node);
        let last = of_node.hints.pop_back()?;
        queue.waiting -= 1;
        self.waiting -= 1;
        self.remove_if_empty(site, node);
        Some(last)
    }

    fn remove_if_empty(&mut self, site: IpAddr, node: Option<NodeId>) {
        let Some(queue) = self.sites.get_mut(&site) else { return };
        if queue.nodes.get(&node).is_some_and(|of_node| of_node.hints.is_empty()) {
            queue.nodes.remove(&node);
        }
        if queue.nodes.is_empty() {
            self.sites.remove(&site);
        }
    }

    pub(in crate::node) fn check(&self) {
        let mut all = 0;
        for queue in self.sites.values() {
            let of_nodes = queue.nodes.iter().map(|(node, of_node)| {
                let most = if node.is_some() { OF_NODE_MAX } else { OF_SITE_MAX };
                assert!((1..=most).contains(&of_node.hints.len()), "the locations of a node are bounded");
                of_node.hints.len()
            });
            assert_eq!(of_nodes.sum::<usize>(), queue.waiting, "a host counts the locations of its nodes");
            assert!((1..=OF_SITE_MAX).contains(&queue.waiting), "the locations of a host are bounded");
            all += queue.waiting;
        }
        assert_eq!(all, self.waiting, "all waiting locations are counted");
        assert!(all <= WAITING_MAX, "the waiting locations are bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(site: u8, node: u64, port: u16) -> WaitingHint {
        let cause = DialCause::peer(NodeId::from_bits(node), [10, 0, 0, site].into());
        let at = ([10, 0, 1, site], port).into();
        WaitingHint {
            at,
            cause,
            node: None,
            until: Time::MAX,
            dials_for: Duration::ZERO,
            renews: false,
            attempts: 0,
        }
    }

    fn waits(hints: &mut DialHints, hint: WaitingHint) -> bool {
        hints.push(hint).is_none()
    }

    /// Ten a second. A dial that has proven a node makes room for another.
    #[test]
    fn hint_budget_refills_each_second() {
        let mut hints = DialHints::default();
        let taken = |hints: &mut DialHints, now| {
            std::iter::repeat_with(|| hints.take(now)).take_while(|may| *may).count()
        };
        assert_eq!(taken(&mut hints, Time::ZERO), 10);
        hints.give_back();
        assert_eq!(taken(&mut hints, Time::ZERO), 1);
        let next_second = hints.next_second();
        assert_eq!(taken(&mut hints, next_second), 10);
    }

    /// The queue of one node is bounded, and another one is served after one location of it.
    #[test]
    fn waiting_hints_take_turns_by_host_and_node() {
        let mut hints = DialHints::default();
        let pushed = (0..1000).filter(|port| waits(&mut hints, hint(1, 1, *port))).count();
        assert_eq!(pushed, OF_NODE_MAX);
        assert!(waits(&mut hints, hint(1, 1, 3)), "a location that waits already is not refused");
        assert!(
            waits(&mut hints, hint(1, 2, 2000))
                && waits(&mut hints, hint(2, 3, 3000))
                && waits(&mut hints, hint(2, 3, 3001))
        );
        hints.check();
        let order: Vec<u16> = std::iter::from_fn(|| hints.pop()).map(|hint| hint.at.port()).collect();
        assert_eq!(order.len(), OF_NODE_MAX + 3);
        assert_eq!(order[..5], [0, 3000, 2000, 3001, 1]);
        hints.check();
        assert!(hints.sites.is_empty());
    }

    /// A cause that comes late is served in its turn, although others were served often meanwhile.
    #[test]
    fn late_cause_has_no_credit_and_no_debt() {
        let mut hints = DialHints::default();
        (0..60).for_each(|port| assert!(waits(&mut hints, hint(1, 1, port))));
        (0..40).for_each(|_| assert!(hints.pop().is_some()));
        assert!(waits(&mut hints, hint(2, 2, 1000)) && waits(&mut hints, hint(2, 2, 1001)));
        let order: Vec<u16> = (0..4).filter_map(|_| hints.pop()).map(|hint| hint.at.port()).collect();
        let late: Vec<usize> = (0..4).filter(|nth| order[*nth] >= 1000).collect();
        assert!(late == [0, 2] || late == [1, 3], "{order:?}");
    }

    #[test]
    fn full_queue_takes_from_host_with_most() {
        let mut hints = DialHints::default();
        for site in 1..=4 {
            for node in 0..4 {
                (0..64)
                    .for_each(|port| assert!(waits(&mut hints, hint(site, node, port + 64 * node as u16))));
            }
        }
        assert_eq!(hints.waiting, WAITING_MAX);
        let gone = hints.push(hint(5, 7, 1)).expect("all have too many together");
        assert_ne!(gone.cause.site, IpAddr::from([10, 0, 0, 5]));
        hints.check();
        assert_eq!((hints.waiting, hints.sites[&IpAddr::from([10, 0, 0, 5])].waiting), (WAITING_MAX, 1));
    }
}
