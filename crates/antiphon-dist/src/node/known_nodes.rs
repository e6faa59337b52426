//! The nodes without a session that this node remembers: those that peers have named, and incarnations whose sessions have ended.
//!
//! A peer names a node by the route of a message, or by its location. Nobody has proven that such a node exists, so each peer has
//! a quota of them. Beyond it, its oldest that is not in use gives way; in a full table, the oldest of the peer that has named most.
//! After [`NAMED_FOR`] each gives way. A named node is in use while something waits for a session with it.
//!
//! Names are cheap to make up, so a peer may name nodes at [`NAMING_RATE`] only. A node that is met then does not count, so that a peer
//! may introduce any number of nodes that exist. What a peer names beyond its rate is ignored, and may be named again later.
//!
//! An incarnation whose session has ended stays known for a while, so that addresses of its actors are still refused for the right
//! reason, and so that its location is dialled when something is sent to it.
//!
//! Invariants: an entry of the peer table without a session is in one of these tables, or in use. No message walks a table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire::Route;

use super::NodeCore;
use super::dial_hints::DialCause;
use super::driver::Driver;
use super::peers::{PEERS_MAX, Peer};
use super::timers::NodeTimer;
use super::token_bucket::Rate;

/// The nodes that one peer may have named. Those of all peers that have gone count together.
pub(super) const NAMED_MAX: usize = 1024;
/// The nodes that one peer may name and that are not met: its whole quota at once, and then one of them replaces another.
const NAMING_RATE: Rate = Rate { burst: NAMED_MAX as u32, refill_every: Duration::from_millis(10) };
/// The nodes of one route that are learned. The rest of it is ignored.
const ROUTE_NODES_MAX: usize = NAMED_MAX;
/// How long a named node stays known that nobody uses or names again.
const NAMED_FOR: Duration = Duration::from_secs(3600);
/// How long a node that was named is not moved to the end of the order of namings, however often it is named again.
const RENEWED_EVERY: Duration = Duration::from_secs(1);
/// The ended incarnations that are remembered: those that never return, and as many that are only lost.
pub(super) const ENDED_MAX: usize = 256;
/// The sessions that give way at a time in a full table.
const UNCONNECTED_ENDED_AT_ONCE: usize = 64;
/// Entries that one step examines or removes.
const STEP_MAX: usize = 8;

/// How a node has become known that was never met.
#[derive(Copy, Clone, Debug)]
pub(super) struct Naming {
    /// The peer that has named it; `None` if that one has gone.
    by: Option<NodeId>,
    /// What dials of the node count for.
    pub(super) cause: DialCause,
    /// The place in the order of namings.
    number: u64,
    expires: Time,
    in_use: bool,
}

impl Naming {
    /// Whether the peer that has named the node has named it last long enough ago for another place in the order.
    fn is_renewed_by(&self, by: NodeId, now: Time) -> bool {
        self.by == Some(by) && now + NAMED_FOR >= self.expires + RENEWED_EVERY
    }
}

/// The nodes that peers have named and that were never met.
#[derive(Debug, Default)]
pub(super) struct NamedNodes {
    /// Those that are not in use, the oldest naming first.
    unused: BTreeMap<u64, NodeId>,
    /// All, by the peer that has named them. Peers that have gone are `None` together.
    by_peer: BTreeMap<Option<NodeId>, NamedByPeer>,
    /// The same peers by the number of nodes that are not in use.
    by_count: BTreeSet<(usize, Option<NodeId>)>,
    last_number: u64,
    /// When the timer fires, if it is set.
    timer: Option<Time>,
}

#[derive(Debug, Default)]
struct NamedByPeer {
    unused: BTreeMap<u64, NodeId>,
    in_use: BTreeMap<u64, NodeId>,
}

impl NamedByPeer {
    fn len(&self) -> usize {
        self.unused.len() + self.in_use.len()
    }
}

impl NamedNodes {
    /// The number of nodes that a peer has named.
    fn named_by(&self, by: Option<NodeId>) -> usize {
        self.by_peer.get(&by).map_or(0, NamedByPeer::len)
    }

    /// The oldest node that a peer has named and that is not in use.
    fn oldest_of(&self, by: Option<NodeId>) -> Option<NodeId> {
        self.by_peer.get(&by)?.unused.first_key_value().map(|(_, node)| *node)
    }

    /// The oldest named node that is not in use.
    fn oldest(&self) -> Option<NodeId> {
        self.unused.first_key_value().map(|(_, node)| *node)
    }

    /// The oldest node that is not in use, of the peer that has named most of them.
    fn oldest_of_most(&self) -> Option<NodeId> {
        self.by_count.last().and_then(|(_, by)| self.oldest_of(*by))
    }

    fn add(&mut self, node: NodeId, naming: Naming) {
        let of_peer = self.by_peer.entry(naming.by).or_default();
        if naming.in_use {
            of_peer.in_use.insert(naming.number, node);
            return;
        }
        let before = of_peer.unused.len();
        of_peer.unused.insert(naming.number, node);
        self.unused.insert(naming.number, node);
        self.count(naming.by, before, before + 1);
    }

    /// A peer has named a node again: it counts as named now.
    fn renew(&mut self, node: NodeId, naming: &mut Naming, now: Time) {
        self.remove(*naming);
        (naming.number, naming.expires) = (self.next_number(), now + NAMED_FOR);
        self.add(node, *naming);
    }

    fn remove(&mut self, naming: Naming) {
        let Some(of_peer) = self.by_peer.get_mut(&naming.by) else { return };
        let before = of_peer.unused.len();
        if naming.in_use {
            of_peer.in_use.remove(&naming.number);
        } else {
            of_peer.unused.remove(&naming.number);
            self.unused.remove(&naming.number);
        }
        let after = of_peer.unused.len();
        if of_peer.len() == 0 {
            self.by_peer.remove(&naming.by);
        }
        self.count(naming.by, before, after);
    }

    fn remove_peer(&mut self, by: NodeId) -> Option<NamedByPeer> {
        let of_peer = self.by_peer.remove(&Some(by))?;
        self.count(Some(by), of_peer.unused.len(), 0);
        Some(of_peer)
    }

    fn count(&mut self, by: Option<NodeId>, before: usize, after: usize) {
        self.by_count.remove(&(before, by));
        if after > 0 {
            self.by_count.insert((after, by));
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn check<'a>(&self, peers: impl Iterator<Item = (&'a NodeId, &'a Peer)>) {
        let mut in_use = 0;
        let mut unused = 0;
        for (node, naming) in peers.filter_map(|(node, peer)| Some((node, peer.naming?))) {
            in_use += usize::from(naming.in_use);
            if !naming.in_use {
                unused += 1;
                assert_eq!(self.unused.get(&naming.number), Some(node), "the order has each unused node");
            }
        }
        assert_eq!(unused, self.unused.len(), "the order has the unused nodes of the table only");
        assert_eq!(unused, self.by_peer.values().map(|of_peer| of_peer.unused.len()).sum::<usize>());
        assert_eq!(in_use, self.by_peer.values().map(|of_peer| of_peer.in_use.len()).sum::<usize>());
        assert!(self.by_count.iter().all(|(count, by)| self.by_peer[by].unused.len() == *count));
        assert_eq!(unused, self.by_count.iter().map(|(count, _)| count).sum::<usize>());
        for (by, of_peer) in &self.by_peer {
            // Those in use outlast the peer that has named them, for the time of a dial.
            let counted = if by.is_some() { of_peer.len() } else { of_peer.unused.len() };
            assert!(of_peer.len() > 0 && counted <= NAMED_MAX, "{by:?} has named {counted} nodes");
        }
        assert!(self.unused.is_empty() || self.timer.is_some(), "unused nodes expire");
    }
}

/// The place of an ended incarnation in its table.
#[derive(Copy, Clone, Debug)]
pub(super) struct Ended {
    returns_never: bool,
    number: u64,
}

/// The incarnations whose sessions have ended, the first to end first.
#[derive(Debug, Default)]
pub(super) struct EndedNodes {
    /// They have left, or another incarnation has taken their place.
    never_return: BTreeMap<u64, NodeId>,
    /// They were lost, and may return.
    lost: BTreeMap<u64, NodeId>,
    last_number: u64,
}

impl EndedNodes {
    fn table(&mut self, returns_never: bool) -> &mut BTreeMap<u64, NodeId> {
        if returns_never { &mut self.never_return } else { &mut self.lost }
    }

    fn add(&mut self, node: NodeId, returns_never: bool) -> Ended {
        self.last_number += 1;
        let number = self.last_number;
        self.table(returns_never).insert(number, node);
        Ended { returns_never, number }
    }

    fn remove(&mut self, ended: Ended) {
        self.table(ended.returns_never).remove(&ended.number);
    }

    /// Takes the first to end out of a table. The caller forgets it, or adds it again as the last.
    fn pop(&mut self, returns_never: bool) -> Option<NodeId> {
        self.table(returns_never).pop_first().map(|(_, node)| node)
    }

    fn check<'a>(&self, peers: impl Iterator<Item = (&'a NodeId, &'a Peer)>) {
        let mut count = 0;
        for (node, ended) in peers.filter_map(|(node, peer)| Some((node, peer.ended?))) {
            let table = if ended.returns_never { &self.never_return } else { &self.lost };
            assert_eq!(table.get(&ended.number), Some(node), "the table has each ended incarnation");
            count += 1;
        }
        assert_eq!(count, self.never_return.len() + self.lost.len(), "the tables have ended ones only");
    }
}

impl NodeCore {
    /// Learns the locations of the nodes that the addresses in a message of a peer name. After the first that the peer may not name
    /// any more, the rest is ignored.
    pub(super) fn learn_route(&mut self, by: NodeId, route: Route<'_>) {
        let mut entries = route.iter();
        for (node, locations) in entries.by_ref().take(ROUTE_NODES_MAX) {
            self.cx.steps += 1;
            if !self.try_learn(by, node, "", locations.iter()) {
                self.refuse_namings(by, 1);
                break;
            }
        }
        let ignored = entries.count();
        if ignored > 0 {
            self.refuse_namings(by, ignored as u64);
        }
    }

    /// Adds a node that a peer has named, so that messages to it can be sent. Nodes that were met are not changed.
    pub(super) fn learn(
        &mut self,
        by: NodeId,
        node: NodeId,
        name: &str,
        locations: impl Iterator<Item = SocketAddr>,
    ) {
        if !self.try_learn(by, node, name, locations) {
            self.refuse_namings(by, 1);
        }
    }

    /// As [`Self::learn`]. False if the peer has named too many nodes to name this one now.
    fn try_learn(
        &mut self,
        by: NodeId,
        node: NodeId,
        name: &str,
        locations: impl Iterator<Item = SocketAddr>,
    ) -> bool {
        if node == self.cx.me {
            return true;
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            if let Some(naming) = peer.naming.as_mut().filter(|naming| naming.is_renewed_by(by, self.cx.now))
            {
                self.named_nodes.renew(node, naming, self.cx.now);
            }
            return true;
        }
        let mut locations = locations.filter(|at| self.cx.settings.may_dial(*at)).peekable();
        if locations.peek().is_none() {
            return true;
        }
        let may_name =
            self.peers.get_mut(&by).is_some_and(|peer| peer.namings.take(self.cx.now, NAMING_RATE));
        if !may_name {
            return false;
        }
        let locations: Vec<SocketAddr> = locations.collect();
        if !self.make_room_for_named(by) {
            return true;
        }
        let naming = Naming {
            by: Some(by),
            cause: self.dial_cause_of(by),
            number: self.named_nodes.next_number(),
            expires: self.cx.now + NAMED_FOR,
            in_use: false,
        };
        self.named_nodes.add(node, naming);
        let mut peer = Peer::new(node, name, locations);
        peer.naming = Some(naming);
        self.locations.add(node, &peer);
        self.peers.insert(node, peer);
        self.arm_named_timer();
        true
    }

    fn refuse_namings(&mut self, by: NodeId, count: u64) {
        self.cx.counts.refusals.routes += count;
        self.log_refused(by, "routes", "names more nodes than it may");
    }

    /// Makes room for one more node that a peer names. False if all that it could replace are in use.
    fn make_room_for_named(&mut self, by: NodeId) -> bool {
        let is_over_quota = self.named_nodes.named_by(Some(by)) >= NAMED_MAX;
        let is_full = self.peers.len() >= PEERS_MAX;
        if !is_over_quota && !is_full {
            return true;
        }
        let mut oldest = self.named_nodes.oldest_of(Some(by));
        if !is_over_quota {
            oldest = self.named_nodes.oldest_of_most();
        }
        self.refuse_namings(by, 1);
        let Some(oldest) = oldest else { return false };
        self.forget_peer(oldest);
        true
    }

    /// What waits for a session with a node has changed: a node that was never met gives way to no other while something waits.
    pub(super) fn note_use(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let in_use = !peer.waiting.is_empty();
        if let Some(naming) = peer.naming.as_mut().filter(|naming| naming.in_use != in_use) {
            self.named_nodes.remove(*naming);
            naming.in_use = in_use;
            self.named_nodes.add(node, *naming);
            self.arm_named_timer();
        }
    }

    /// A peer has no session any more: the nodes that it has named count together with those of others that have gone.
    pub(super) fn release_named_by(&mut self, by: NodeId) {
        let Some(of_peer) = self.named_nodes.remove_peer(by) else { return };
        for node in of_peer.unused.values().chain(of_peer.in_use.values()) {
            if let Some(naming) = self.peers.get_mut(node).and_then(|peer| peer.naming.as_mut()) {
                naming.by = None;
                self.named_nodes.add(*node, *naming);
            }
        }
        while self.named_nodes.named_by(None) > NAMED_MAX
            && let Some(oldest) = self.named_nodes.oldest_of(None)
        {
            self.forget_peer(oldest);
        }
    }

    fn arm_named_timer(&mut self) {
        if self.named_nodes.timer.is_some() {
            return;
        }
        let oldest = self.named_nodes.oldest().and_then(|node| self.peers.get(&node));
        let Some(naming) = oldest.and_then(|peer| peer.naming) else { return };
        let at = naming.expires.max(self.cx.now);
        self.named_nodes.timer = Some(at);
        self.cx.timers.add(at, NodeTimer::Named);
    }

    /// Forgets named nodes whose time is over.
    pub(super) fn on_named_due(&mut self) {
        self.named_nodes.timer = None;
        for _ in 0..STEP_MAX {
            let Some(oldest) = self.named_nodes.oldest() else { break };
            let naming = self.peers.get(&oldest).and_then(|peer| peer.naming);
            if naming.is_some_and(|naming| naming.expires > self.cx.now) {
                break;
            }
            self.forget_peer(oldest);
        }
        self.arm_named_timer();
    }

    /// Makes room for a node in the table, if necessary by forgetting an entry without open operations. False if there is
    /// none.
    pub(super) fn make_room_for(&mut self, node: NodeId) -> bool {
        if self.peers.contains_key(&node) || self.peers.len() < PEERS_MAX {
            return true;
        }
        if let Some(oldest) = self.named_nodes.oldest_of_most() {
            self.forget_peer(oldest);
            return true;
        }
        self.forget_ended(true, 0) || self.forget_ended(false, 0)
    }

    /// In a full table, sessions without a connection give way, if nothing is open on them: those that lost it first. False if there
    /// is none.
    pub(super) fn end_unconnected(&mut self, driver: &mut impl Driver) -> bool {
        let since = |peer: &Peer| {
            let peer_session = peer.peer_session.as_ref()?;
            let is_unused =
                peer_session.needs_connection() && peer_session.is_idle() && peer.has_nothing_open();
            is_unused.then_some(peer_session.unconnected_since)
        };
        let unused = self.peers.iter().filter_map(|(node, peer)| Some((since(peer)?, *node)));
        let mut unused: Vec<(Time, NodeId)> = unused.collect();
        unused.sort_unstable();
        // Several at a time, since this has walked the table.
        unused.truncate(UNCONNECTED_ENDED_AT_ONCE);
        for (_, node) in &unused {
            self.end_session(
                *node,
                "the table of known nodes is full, and the peer is not connected",
                driver,
            );
        }
        !unused.is_empty()
    }

    /// Enters an incarnation whose session has ended, or which has become known not to return, into its table. Forgets the first
    /// ones to end beyond [`ENDED_MAX`].
    pub(super) fn remember_ended(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.peer_session.is_none()) else { return };
        let returns_never = peer.has_left || peer.replaced_by_restart;
        if let Some(before) = peer.ended.take() {
            self.ended_nodes.remove(before);
        }
        peer.ended = Some(self.ended_nodes.add(node, returns_never));
        peer.release_unused();
        self.forget_ended(returns_never, ENDED_MAX);
    }

    /// Forgets the first ended incarnations of a table beyond `kept`, unless something refers to them. Whether it has forgotten
    /// one.
    fn forget_ended(&mut self, returns_never: bool, kept: usize) -> bool {
        let mut has_forgotten = false;
        for _ in 0..STEP_MAX {
            if self.ended_nodes.table(returns_never).len() <= kept || (kept == 0 && has_forgotten) {
                break;
            }
            let Some(node) = self.ended_nodes.pop(returns_never) else { break };
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            if peer.has_nothing_open() {
                peer.ended = None;
                self.forget_peer(node);
                has_forgotten = true;
            } else {
                peer.ended = Some(self.ended_nodes.add(node, returns_never));
            }
        }
        has_forgotten
    }

    /// A node has a session: it is neither only named nor ended, and does not count for the peer that has named it.
    pub(super) fn note_met(&mut self, node: NodeId) {
        let by = self.peers.get(&node).and_then(|peer| peer.naming?.by);
        if let Some(by) = by.and_then(|by| self.peers.get_mut(&by)) {
            by.namings.give_back(NAMING_RATE);
        }
        self.remove_from_orders(node);
    }

    /// Removes a node from the orders of namings and of ended incarnations.
    fn remove_from_orders(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if let Some(naming) = peer.naming.take() {
            self.named_nodes.remove(naming);
        }
        if let Some(ended) = peer.ended.take() {
            self.ended_nodes.remove(ended);
        }
    }

    /// Removes a node without a session and without open operations from all tables.
    fn forget_peer(&mut self, node: NodeId) {
        self.remove_from_orders(node);
        if let Some(peer) = self.peers.remove(&node) {
            self.locations.remove(node, &peer);
        }
        self.cx.work.holding_credit.remove(&node);
        self.cx.work.with_room_waiters.remove(&node);
        self.cx.epochs.forget(node);
    }

    pub(super) fn check_known_nodes(&self) {
        self.named_nodes.check(self.peers.iter());
        self.ended_nodes.check(self.peers.iter());
        for (node, peer) in &self.peers {
            let has_place = peer.peer_session.is_some() || peer.naming.is_some() || peer.ended.is_some();
            assert!(has_place || peer.status.is_none(), "{node} is in no table");
            assert!(peer.peer_session.is_none() || (peer.naming.is_none() && peer.ended.is_none()));
            let is_used = peer.naming.is_some_and(|naming| naming.in_use);
            assert!(
                peer.naming.is_none() || is_used != peer.waiting.is_empty(),
                "a named node is in use while something waits for it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::ops::Range;

    use antiphon_sched::{ActorId, Key, MonitorId, Signal, Transport, Undelivered};

    use super::super::testing::TestCore;
    use super::super::token_bucket::TokenBucket;
    use super::*;
    use crate::error::Status;

    const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

    fn node(number: u64) -> NodeId {
        NodeId::from_bits(number)
    }

    impl TestCore {
        fn dialling_loopback() -> Self {
            let mut test = Self::new();
            test.core.cx.settings.dial_allow = vec![([127, 0, 0, 0].into(), 8)];
            test
        }

        /// A peer names a node. Its rate of namings does not matter.
        fn learn(&mut self, by: u64, named: u64) {
            self.peer(by).namings = TokenBucket::default();
            self.learn_limited(by, named);
        }

        /// A peer names a node, at its rate.
        fn learn_limited(&mut self, by: u64, named: u64) {
            self.learn_at(by, named, AT);
        }

        fn learn_at(&mut self, by: u64, named: u64, at: SocketAddr) {
            self.core.learn(node(by), node(named), "", std::iter::once(at));
        }

        fn learn_route(&mut self, by: u64, named: Range<u64>) {
            let route: Vec<_> = named.map(|number| (node(number), vec![AT])).collect();
            self.core.learn_route(node(by), Route::Plain(&route));
        }

        fn peer(&mut self, number: u64) -> &mut Peer {
            let node = node(number);
            self.core.peers.entry(node).or_insert_with(|| Peer::new(node, "peer", Vec::new()))
        }

        fn knows(&self, number: u64) -> bool {
            self.core.peers.contains_key(&node(number))
        }

        /// Sends a signal that waits for a session with the node.
        fn send_signal(&mut self, to: u64) {
            let id = MonitorId { origin: self.core.me(), number: to };
            let target = ActorId::new(node(to), Key::from_bits(1));
            self.core.signal(self.core.cx.now, Signal::Monitor { target, id, watcher: Key::from_bits(1) });
        }

        /// A peer that has been connected and is not any more.
        fn add_ended(&mut self, number: u64, has_left: bool) {
            let node = self.add_peer(number);
            let peer = self.core.peers.get_mut(&node).expect("it is added");
            (peer.status, peer.has_left) = (Some(Status::Offline), has_left);
            self.core.remember_ended(node);
        }
    }

    /// A peer that names very many nodes replaces its own only: those of another one stay.
    #[test]
    fn named_nodes_over_quota_replace_own_oldest() {
        let mut test = TestCore::dialling_loopback();
        test.learn(1, 100);
        (1000..18_000).for_each(|number| test.learn(2, number));
        assert_eq!(test.core.peers.len(), NAMED_MAX + 1 + 2);
        assert!(test.knows(100) && test.knows(17_999) && !test.knows(1000));
        assert_eq!(test.core.cx.counts.refusals.routes, 17_000 - NAMED_MAX as u64);
        test.learn(1, 101);
        assert!(test.knows(101));
        // The peer names its oldest again: after a second it counts as named then.
        let oldest = 18_000 - NAMED_MAX as u64;
        test.learn(2, oldest);
        test.learn(2, 18_000);
        assert!(!test.knows(oldest) && test.knows(oldest + 1));
        test.core.cx.now = test.core.cx.now + RENEWED_EVERY;
        test.learn(2, oldest + 1);
        test.learn(2, 18_001);
        assert!(test.knows(oldest + 1) && !test.knows(oldest + 2));
        test.core.check_known_nodes();
    }

    /// A peer may fill its quota at once. Then it may name some nodes a second, and others may name as many as before.
    #[test]
    fn namings_over_rate_are_refused_meanwhile() {
        let mut test = TestCore::dialling_loopback();
        let (first, quota) = (1000, NAMED_MAX as u64);
        test.peer(2);
        (first..first + quota).for_each(|number| test.learn_limited(2, number));
        assert_eq!(test.core.cx.counts.refusals.routes, 0);
        let later = first + quota;
        (later..later + 500).for_each(|number| test.learn_limited(2, number));
        assert!(test.knows(first) && !test.knows(later) && !test.knows(later + 499));
        assert_eq!(test.core.cx.counts.refusals.routes, 500);
        // Those that it has named it may name again.
        test.learn_limited(2, first);
        assert_eq!(test.core.cx.counts.refusals.routes, 500);
        test.peer(3);
        test.learn_limited(3, 100);
        assert!(test.knows(100));
        test.core.cx.now = test.core.cx.now + Duration::from_secs(1);
        (later..later + 500).for_each(|number| test.learn_limited(2, number));
        assert!(test.knows(later + 99) && !test.knows(later + 100));
        test.core.check_known_nodes();
    }

    /// A peer introduces many nodes that exist: each is met before the next ones are named.
    #[test]
    fn named_nodes_that_are_met_are_not_limited() {
        let mut test = TestCore::dialling_loopback();
        test.peer(2);
        for number in 1000..11_000 {
            test.learn_limited(2, number);
            assert!(test.knows(number));
            test.core.note_met(node(number));
        }
        assert_eq!(test.core.cx.counts.refusals.routes, 0);
    }

    /// Of a long route a node learns the first part, and examines no more of it.
    #[test]
    fn route_beyond_bound_is_not_examined() {
        let mut test = TestCore::dialling_loopback();
        test.peer(2);
        let before = test.core.cx.steps;
        test.learn_route(2, 1000..5000);
        let quota = NAMED_MAX as u64;
        assert!(test.knows(1000 + quota - 1) && !test.knows(1000 + quota));
        assert_eq!(test.core.cx.steps - before, ROUTE_NODES_MAX as u64);
        assert_eq!(test.core.cx.counts.refusals.routes, 4000 - quota);
        // The allowance is used up.
        test.learn_route(2, 5000..9000);
        assert_eq!(test.core.cx.steps - before, ROUTE_NODES_MAX as u64 + 1);
        assert_eq!(test.core.cx.counts.refusals.routes, 8000 - quota);
        // Nodes that are known are examined too.
        test.learn_route(2, 1000..1500);
        assert_eq!(test.core.cx.steps - before, ROUTE_NODES_MAX as u64 + 501);
    }

    #[test]
    fn named_node_in_use_gives_way_to_none() {
        let mut test = TestCore::dialling_loopback();
        test.learn(2, 100);
        test.send_signal(100);
        (1000..5000).for_each(|number| test.learn(2, number));
        assert!(test.knows(100));
        test.core.check_known_nodes();
        test.core.drop_waiting(node(100), Undelivered::NoNode);
        test.learn(2, 5000);
        assert!(!test.knows(100), "nothing waits for it any more");
        test.core.check_known_nodes();
    }

    /// When too many locations wait to be dialled, one gives way. What waits for its node fails at once.
    #[test]
    fn node_not_dialled_for_others_fails_waiting() {
        let mut test = TestCore::dialling_loopback();
        let send_to = |test: &mut TestCore, host: u8, by: u64, number: u64| {
            let named = 1000 * by + number;
            test.peer(by).remote = Some([10, 0, 0, host].into());
            test.learn_at(by, named, SocketAddr::new(AT.ip(), named as u16));
            test.send_signal(named);
            named
        };
        let mut named = Vec::new();
        for by in 1..=16 {
            // Ten are dialled at once.
            let count = if by == 1 { 74 } else { 64 };
            let host = 1 + (by as u8 - 1) / 4;
            (0..count).for_each(|number| named.push(send_to(&mut test, host, by, number)));
        }
        let waiting = |test: &TestCore| {
            named.iter().filter(|number| !test.core.peers[&node(**number)].waiting.is_empty()).count()
        };
        assert_eq!((waiting(&test), test.core.cx.counts.refusals.dials), (named.len(), 0));
        let late = send_to(&mut test, 5, 20, 0);
        assert!(!test.core.peers[&node(late)].waiting.is_empty());
        assert_eq!((waiting(&test), test.core.cx.counts.refusals.dials), (named.len() - 1, 1));
        test.core.check_known_nodes();
    }

    /// When all nodes that a peer has named are in use, further ones are not remembered.
    #[test]
    fn named_nodes_all_in_use_refuse_another() {
        let mut test = TestCore::dialling_loopback();
        for number in 1000..1000 + NAMED_MAX as u64 {
            test.learn(2, number);
            let peer = test.core.peers.get_mut(&node(number)).expect("it is known");
            // Reached before: so dials of it are not limited, and each signal can wait.
            peer.reached_at = peer.locations.first().copied();
            test.send_signal(number);
        }
        test.learn(2, 5000);
        test.learn(3, 5001);
        assert!(!test.knows(5000) && test.knows(5001));
        test.core.check_known_nodes();
    }

    /// The nodes that peers have named that are gone share one quota.
    #[test]
    fn nodes_named_by_gone_peers_share_quota() {
        let mut test = TestCore::dialling_loopback();
        for by in 1..=20 {
            (0..NAMED_MAX as u64).for_each(|number| test.learn(by, by * 10_000 + number));
            test.core.release_named_by(node(by));
            test.core.check_known_nodes();
        }
        assert_eq!(test.core.peers.len(), NAMED_MAX + 20);
        assert!(test.knows(200_000) && !test.knows(190_000));
    }

    #[test]
    fn named_node_unused_expires_after_an_hour() {
        let mut test = TestCore::dialling_loopback();
        (1000..1100).for_each(|number| test.learn(2, number));
        test.core.cx.now = test.core.cx.now + NAMED_FOR / 2;
        test.learn(2, 1000);
        test.learn(2, 1100);
        test.core.cx.now = test.core.cx.now + NAMED_FOR / 2;
        let mut due = 0;
        while test.core.cx.timers.next().is_some_and(|at| at <= test.core.cx.now) {
            assert_eq!(test.core.cx.timers.take_due(test.core.cx.now), Some(NodeTimer::Named));
            test.core.on_named_due();
            test.core.check_known_nodes();
            due += 1;
        }
        assert!((100 / STEP_MAX..20).contains(&due), "each step is short: {due}");
        assert_eq!(test.core.peers.keys().copied().collect::<Vec<_>>(), [node(2), node(1000), node(1100)]);
    }

    /// A node that connects replaces a named one in a full table, and then an ended one.
    #[test]
    fn full_table_makes_room_for_proven_node() {
        let mut test = TestCore::dialling_loopback();
        test.add_ended(1, false);
        (2..10).for_each(|number| _ = test.add_peer(number));
        (100..103).for_each(|number| test.learn(10, number));
        for by in 20.. {
            (0..NAMED_MAX as u64).for_each(|number| test.learn(by, by * 10_000 + number));
            if test.core.peers.len() == PEERS_MAX {
                break;
            }
        }
        assert_eq!(test.core.peers.len(), PEERS_MAX);
        assert!(test.core.make_room_for(node(1 << 40)));
        assert!(test.knows(1) && test.knows(100), "a node of the peer that has named most gives way");
        test.learn(12, 200);
        test.learn(12, 201);
        assert!(test.knows(200) && test.knows(201) && test.knows(100));
        assert_eq!(test.core.peers.len(), PEERS_MAX);
        test.core.check_known_nodes();
        while let Some(oldest) = test.core.named_nodes.oldest() {
            test.core.forget_peer(oldest);
        }
        (0..PEERS_MAX as u64).for_each(|number| _ = test.add_peer(1000 + number));
        assert!(test.core.peers.len() > PEERS_MAX);
        assert!(test.core.make_room_for(node(1 << 40)) && !test.knows(1));
        assert!(!test.core.make_room_for(node(1 << 40)), "all others have sessions");
    }

    #[test]
    fn ended_incarnations_over_limit_are_forgotten() {
        let mut test = TestCore::dialling_loopback();
        test.add_ended(1, false);
        test.add_ended(2, true);
        // Something refers to it: a local actor monitors one of its actors.
        let id = MonitorId { origin: test.core.me(), number: 1 };
        let peer = test.core.peers.get_mut(&node(2)).expect("it is added");
        peer.monitors.add_local_watcher(Key::from_bits(1), id, ActorId::new(node(2), Key::from_bits(1)));
        for number in 1000..3000 {
            test.add_ended(number, true);
            test.core.check_known_nodes();
        }
        assert_eq!(test.core.peers.len(), ENDED_MAX + 1);
        assert!(test.knows(1), "those that never return do not replace those that may");
        assert!(test.knows(2) && test.knows(2999) && !test.knows(1000));
        for number in 3000..4000 {
            test.add_ended(number, false);
        }
        assert_eq!(test.core.peers.len(), 2 * ENDED_MAX);
        assert!(!test.knows(1) && test.knows(2));
        // One of them returns.
        test.core.note_met(node(3999));
        (4000..4300).for_each(|number| test.add_ended(number, false));
        assert!(test.knows(3999) && !test.knows(3998));
    }
}
