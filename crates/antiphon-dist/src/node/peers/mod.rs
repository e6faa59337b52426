//! The table of known nodes, by their ids and by their locations.
//!
//! Invariants: the table holds at most [`PEERS_MAX`] nodes. An entry without a session is remembered as named or as ended
//! (`known_nodes`), or something waits for it. No message walks the table.

pub(super) mod known_nodes;
pub(super) mod location_index;
pub(super) mod token_bucket;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use antiphon_sched::{NodeId, Time, Undelivered};
use antiphon_wire::Route;

use crate::location::Location;
use crate::node::context::NodeCx;
use crate::node::discovery::dial_hints::DialCause;
use crate::node::peer::Peer;
use crate::node::peer::session::{Link, PeerSession};
use crate::node::timers::NodeTimer;
use known_nodes::{
    ENDED_MAX, EndedNodes, NAMED_FOR, NAMED_MAX, NAMING_RATE, NamedNodes, Naming, ROUTE_NODES_MAX, STEP_MAX,
};
use location_index::LocationIndex;

/// The largest number of known nodes.
pub(super) const PEERS_MAX: usize = 16_384;
/// The sessions that give way at a time in a full table.
const UNCONNECTED_ENDED_AT_ONCE: usize = 64;

/// All known nodes.
#[derive(Debug, Default)]
pub(super) struct Peers {
    table: BTreeMap<NodeId, Peer>,
    by_location: LocationIndex,
    named: NamedNodes,
    ended: EndedNodes,
}

impl Peers {
    pub(super) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.table.get(&node)
    }

    /// A known node. Its locations must not be changed: [`Peers::edit`] is for that.
    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.table.get_mut(&node)
    }

    /// The session with a node.
    pub(super) fn session(&self, node: NodeId) -> Option<&PeerSession> {
        self.table.get(&node)?.session()
    }

    /// The session with a node.
    pub(super) fn session_mut(&mut self, node: NodeId) -> Option<&mut PeerSession> {
        self.table.get_mut(&node)?.session_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The ids of all.
    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.table.keys().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.table.values()
    }

    /// The known nodes from one on, in the order of their ids.
    pub(super) fn from(&self, first: Option<NodeId>) -> impl Iterator<Item = &Peer> {
        self.table.range(first.unwrap_or(NodeId::from_bits(0))..).map(|(_, peer)| peer)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.table.values_mut()
    }

    /// Changes a node, which is added if it is not known. Its locations may change too. There is room for it.
    pub(super) fn edit<R>(&mut self, node: NodeId, change: impl FnOnce(&mut Peer) -> R) -> R {
        let peer = self.table.entry(node).or_insert_with(|| Peer::new(node, "", Vec::new()));
        self.by_location.remove(node, peer);
        let result = change(peer);
        self.by_location.add(node, peer);
        result
    }

    /// The known nodes at a location.
    pub(super) fn at(&self, at: SocketAddr) -> impl Iterator<Item = &Peer> {
        self.by_location.at(at).filter_map(|node| self.table.get(&node))
    }

    /// The known nodes at any of these locations, each once.
    pub(super) fn at_any(&self, all: impl Iterator<Item = SocketAddr>) -> BTreeSet<NodeId> {
        self.by_location.at_any(all)
    }

    /// The known nodes at a location. Port 0 stands for all nodes of the host.
    pub(super) fn nodes_at(&self, at: SocketAddr) -> Vec<NodeId> {
        let is_at = |peer: &Peer| match at.port() {
            0 => peer.shown_location.iter().chain(&peer.locations).any(|other| other.ip() == at.ip()),
            _ => peer.is_at(at) || peer.has_session_at(at),
        };
        let there = self.iter().filter(|peer| !peer.is_replaced() && is_at(peer));
        there.map(|peer| peer.node).collect()
    }

    /// Whether there is a session with a node that was reached at a location.
    pub(super) fn has_reached(&self, at: SocketAddr) -> bool {
        self.at(at).any(|peer| peer.was_reached_at(at))
    }

    /// Whether there is a session with a node at a location, which the node may only state.
    pub(super) fn has_session_at(&self, at: SocketAddr) -> bool {
        self.at(at).any(|peer| peer.has_session_at(at))
    }

    /// The node that was reached at a location and has a connection, or a session that needs none. A node that only states the
    /// location does not count: another one may be there.
    pub(super) fn connected_at(&self, at: SocketAddr) -> Option<&Peer> {
        self.at(at).filter(|peer| peer.was_reached_at(at)).find(|peer| peer.needs_no_dial())
    }

    /// Whether there is a node as for [`Peers::connected_at`].
    pub(super) fn is_connected_at(&self, at: SocketAddr) -> bool {
        self.connected_at(at).is_some()
    }

    /// Whether a node has a connection, or a session that needs none.
    pub(super) fn is_connected(&self, node: NodeId) -> bool {
        self.table.get(&node).is_some_and(Peer::needs_no_dial)
    }

    /// All known locations of a node, to pass on to other nodes. This node may not be allowed to dial some of them.
    pub(super) fn locations_of(&self, cx: &NodeCx, node: NodeId) -> Vec<SocketAddr> {
        if node == cx.me {
            return cx.settings.profile.locations.clone();
        }
        self.table.get(&node).map(|peer| peer.stated_locations.clone()).unwrap_or_default()
    }

    /// What dials of locations count for that a node states or that others have named for it. A node that was never met counts for the
    /// peer that has named it.
    pub(super) fn dial_cause_of(&self, node: NodeId) -> DialCause {
        let peer = self.table.get(&node);
        if let Some(naming) = peer.and_then(|peer| peer.naming) {
            return naming.cause;
        }
        let remote = peer.and_then(|peer| peer.remote);
        DialCause::peer(node, remote.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
    }

    /// Fails all messages and signals that wait for a session with a node.
    pub(super) fn drop_waiting(&mut self, cx: &mut NodeCx, node: NodeId, reason: &Undelivered) {
        if self.table.get_mut(&node).is_some_and(|peer| peer.drop_waiting(cx, reason)) {
            self.note_use(cx, node);
        }
    }

    /// Logs a warning if another node has the name of this peer. Names of nodes are for people only, so both stay.
    pub(super) fn warn_of_duplicate_name(&self, cx: &mut NodeCx, node: NodeId) {
        let Some(peer) = self.table.get(&node) else { return };
        let name = &peer.name;
        let is_elsewhere = |other: Option<Location>| other.is_some() && other != peer.location();
        let own_location = (cx.settings.name == *name).then_some(cx.settings.location);
        // At the same location it is an earlier process of the same node, which has ended.
        let mut namesakes = self.iter().filter(|other| {
            other.node != node && other.is_online() && other.name == *name && is_elsewhere(other.location())
        });
        let namesake = own_location.or_else(|| namesakes.find_map(Peer::location));
        if let (Some(one), Some(other)) = (namesake, peer.location())
            && cx.may_log("duplicate name", format_args!("{name} {other}"))
        {
            tracing::warn!(name, %one, %other, "two nodes have the same name; both stay connected");
        }
    }
}

impl Peers {
    /// Learns the locations of the nodes that the addresses in a message of a peer name. After the first that the peer may not name
    /// any more, the rest is ignored.
    pub(super) fn learn_route(&mut self, cx: &mut NodeCx, by: NodeId, route: Route<'_>) {
        let mut entries = route.iter();
        for (node, locations) in entries.by_ref().take(ROUTE_NODES_MAX) {
            cx.steps += 1;
            if !self.try_learn(cx, by, node, "", locations.iter()) {
                self.refuse_namings(cx, by, 1);
                break;
            }
        }
        let ignored = entries.count();
        if ignored > 0 {
            self.refuse_namings(cx, by, ignored as u64);
        }
    }

    /// Adds a node that a peer has named, so that messages to it can be sent. Nodes that were met are not changed.
    pub(super) fn learn(
        &mut self,
        cx: &mut NodeCx,
        by: NodeId,
        node: NodeId,
        name: &str,
        locations: impl Iterator<Item = SocketAddr>,
    ) {
        if !self.try_learn(cx, by, node, name, locations) {
            self.refuse_namings(cx, by, 1);
        }
    }

    /// As [`Self::learn`]. False if the peer has named too many nodes to name this one now.
    fn try_learn(
        &mut self,
        cx: &mut NodeCx,
        by: NodeId,
        node: NodeId,
        name: &str,
        locations: impl Iterator<Item = SocketAddr>,
    ) -> bool {
        if node == cx.me {
            return true;
        }
        if let Some(peer) = self.table.get_mut(&node) {
            if let Some(naming) = peer.naming.as_mut().filter(|naming| naming.is_renewed_by(by, cx.now)) {
                self.named.renew(node, naming, cx.now);
            }
            return true;
        }
        let mut locations = locations.filter(|at| cx.settings.may_dial(*at)).peekable();
        if locations.peek().is_none() {
            return true;
        }
        let may_name = self.table.get_mut(&by).is_some_and(|peer| peer.namings.take(cx.now, NAMING_RATE));
        if !may_name {
            return false;
        }
        let locations: Vec<SocketAddr> = locations.collect();
        if !self.make_room_for_named(cx, by) {
            return true;
        }
        let naming = Naming {
            by: Some(by),
            cause: self.dial_cause_of(by),
            number: self.named.next_number(),
            expires: cx.now + NAMED_FOR,
            in_use: false,
        };
        self.named.add(node, naming);
        let mut peer = Peer::new(node, name, locations);
        peer.naming = Some(naming);
        self.by_location.add(node, &peer);
        self.table.insert(node, peer);
        self.arm_named_timer(cx);
        true
    }

    fn refuse_namings(&self, cx: &mut NodeCx, by: NodeId, count: u64) {
        cx.counts.refusals.routes += count;
        if let Some(peer) = self.table.get(&by) {
            peer.log_refused(cx, "routes", "names more nodes than it may");
        }
    }

    /// Makes room for one more node that a peer names. False if all that it could replace are in use.
    fn make_room_for_named(&mut self, cx: &mut NodeCx, by: NodeId) -> bool {
        let is_over_quota = self.named.named_by(Some(by)) >= NAMED_MAX;
        let is_full = self.table.len() >= PEERS_MAX;
        if !is_over_quota && !is_full {
            return true;
        }
        let mut oldest = self.named.oldest_of(Some(by));
        if !is_over_quota {
            oldest = self.named.oldest_of_most();
        }
        self.refuse_namings(cx, by, 1);
        let Some(oldest) = oldest else { return false };
        self.forget(cx, oldest);
        true
    }

    /// What waits for a session with a node has changed: a node that was never met gives way to no other while something waits.
    pub(super) fn note_use(&mut self, cx: &mut NodeCx, node: NodeId) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        let in_use = !peer.waiting.is_empty();
        if let Some(naming) = peer.naming.as_mut().filter(|naming| naming.in_use != in_use) {
            self.named.remove(*naming);
            naming.in_use = in_use;
            self.named.add(node, *naming);
            self.arm_named_timer(cx);
        }
    }

    /// A peer has no session any more: the nodes that it has named count together with those of others that have gone.
    pub(super) fn release_named_by(&mut self, cx: &mut NodeCx, by: NodeId) {
        for node in self.named.remove_peer(by) {
            if let Some(naming) = self.table.get_mut(&node).and_then(|peer| peer.naming.as_mut()) {
                naming.by = None;
                self.named.add(node, *naming);
            }
        }
        while self.named.named_by(None) > NAMED_MAX
            && let Some(oldest) = self.named.oldest_of(None)
        {
            self.forget(cx, oldest);
        }
    }

    fn arm_named_timer(&mut self, cx: &mut NodeCx) {
        if self.named.timer.is_some() {
            return;
        }
        let oldest = self.named.oldest().and_then(|node| self.table.get(&node));
        let Some(naming) = oldest.and_then(|peer| peer.naming) else { return };
        let at = naming.expires.max(cx.now);
        self.named.timer = Some(at);
        cx.timers.add(at, NodeTimer::Named);
    }

    /// Forgets named nodes whose time is over.
    pub(super) fn on_named_due(&mut self, cx: &mut NodeCx) {
        self.named.timer = None;
        for _ in 0..STEP_MAX {
            let Some(oldest) = self.named.oldest() else { break };
            let naming = self.table.get(&oldest).and_then(|peer| peer.naming);
            if naming.is_some_and(|naming| naming.expires > cx.now) {
                break;
            }
            self.forget(cx, oldest);
        }
        self.arm_named_timer(cx);
    }

    /// Makes room for a node in the table, if necessary by forgetting an entry without open operations. False if there is
    /// none.
    pub(super) fn make_room_for(&mut self, cx: &mut NodeCx, node: NodeId) -> bool {
        if self.table.contains_key(&node) || self.table.len() < PEERS_MAX {
            return true;
        }
        if let Some(oldest) = self.named.oldest_of_most() {
            self.forget(cx, oldest);
            return true;
        }
        self.forget_ended(cx, true, 0) || self.forget_ended(cx, false, 0)
    }

    /// The sessions that give way in a full table: some that have no connection, and on which nothing is open; those first that
    /// lost it first.
    pub(super) fn unconnected(&self) -> Vec<NodeId> {
        let since = |peer: &Peer| {
            let peer_session = peer.session()?;
            let Link::Down(outage) = &peer_session.link else { return None };
            (peer_session.is_idle() && peer.has_nothing_open()).then_some(outage.since)
        };
        let unused = self.table.iter().filter_map(|(node, peer)| Some((since(peer)?, *node)));
        let mut unused: Vec<(Time, NodeId)> = unused.collect();
        unused.sort_unstable();
        // Several at a time, since this has walked the table.
        unused.truncate(UNCONNECTED_ENDED_AT_ONCE);
        unused.into_iter().map(|(_, node)| node).collect()
    }

    /// Enters an incarnation whose session has ended, or which has become known not to return, into its table. Forgets the first
    /// ones to end beyond [`ENDED_MAX`].
    pub(super) fn remember_ended(&mut self, cx: &mut NodeCx, node: NodeId) {
        let Some(peer) = self.table.get_mut(&node).filter(|peer| peer.session().is_none()) else { return };
        let returns_never = peer.state.gone().is_some();
        if let Some(before) = peer.ended.take() {
            self.ended.remove(before);
        }
        peer.ended = Some(self.ended.add(node, returns_never));
        peer.release_unused();
        self.forget_ended(cx, returns_never, ENDED_MAX);
    }

    /// Forgets the first ended incarnations of a table beyond `kept`, unless something refers to them. Whether it has forgotten
    /// one.
    fn forget_ended(&mut self, cx: &mut NodeCx, returns_never: bool, kept: usize) -> bool {
        let mut has_forgotten = false;
        for _ in 0..STEP_MAX {
            if self.ended.table(returns_never).len() <= kept || (kept == 0 && has_forgotten) {
                break;
            }
            let Some(node) = self.ended.pop(returns_never) else { break };
            let Some(peer) = self.table.get_mut(&node) else { continue };
            if peer.has_nothing_open() {
                peer.ended = None;
                self.forget(cx, node);
                has_forgotten = true;
            } else {
                peer.ended = Some(self.ended.add(node, returns_never));
            }
        }
        has_forgotten
    }

    /// A node has a session: it is neither only named nor ended, and does not count for the peer that has named it.
    pub(super) fn note_met(&mut self, node: NodeId) {
        let by = self.table.get(&node).and_then(|peer| peer.naming?.by);
        if let Some(by) = by.and_then(|by| self.table.get_mut(&by)) {
            by.namings.give_back(NAMING_RATE);
        }
        self.remove_from_orders(node);
    }

    /// Removes a node from the orders of namings and of ended incarnations.
    fn remove_from_orders(&mut self, node: NodeId) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        if let Some(naming) = peer.naming.take() {
            self.named.remove(naming);
        }
        if let Some(ended) = peer.ended.take() {
            self.ended.remove(ended);
        }
    }

    /// Removes a node without a session and without open operations from all tables.
    fn forget(&mut self, cx: &mut NodeCx, node: NodeId) {
        self.remove_from_orders(node);
        if let Some(peer) = self.table.remove(&node) {
            self.by_location.remove(node, &peer);
        }
        cx.work.holding_credit.remove(&node);
        cx.work.with_room_waiters.remove(&node);
        cx.epochs.forget(node);
    }

    /// Checks the orders and the index against the table.
    pub(super) fn check(&self) {
        self.named.check(self.table.iter());
        self.ended.check(self.table.iter());
        self.by_location.check(&self.table);
        for (node, peer) in &self.table {
            let has_place = peer.session().is_some() || peer.naming.is_some() || peer.ended.is_some();
            assert!(has_place || !peer.state.was_met(), "{node} is in no table");
            assert!(peer.session().is_none() || (peer.naming.is_none() && peer.ended.is_none()));
            let is_used = peer.naming.is_some_and(|naming| naming.in_use);
            assert!(
                peer.naming.is_none() || is_used != peer.waiting.is_empty(),
                "a named node is in use while something waits for it"
            );
        }
    }
}

#[cfg(test)]
impl Peers {
    /// Adds a node without a place among the named or ended ones.
    pub(super) fn insert(&mut self, peer: Peer) {
        self.by_location.add(peer.node, &peer);
        self.table.insert(peer.node, peer);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::ops::Range;
    use std::time::Duration;

    use antiphon_sched::{ActorId, Key, MonitorId, SignalKind, Undelivered};

    use super::*;
    use crate::node::peer::state::{Gone, PeerState};
    use crate::node::peers::known_nodes::{
        ENDED_MAX, NAMED_FOR, NAMED_MAX, RENEWED_EVERY, ROUTE_NODES_MAX, STEP_MAX,
    };
    use crate::node::peers::token_bucket::TokenBucket;
    use crate::node::testing::TestCore;

    const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

    fn node(number: u64) -> NodeId {
        NodeId::from_bits(number)
    }

    impl TestCore {
        fn dialling_loopback() -> Self {
            let mut test = Self::new();
            test.core.cx.settings.dial_allow = vec!["127.0.0.0/8".parse().expect("a network")];
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
            let core = &mut self.core;
            core.peers.learn(&mut core.cx, node(by), node(named), "", std::iter::once(at));
        }

        fn learn_route(&mut self, by: u64, named: Range<u64>) {
            let route: Vec<_> = named.map(|number| (node(number), vec![AT])).collect();
            let core = &mut self.core;
            core.peers.learn_route(&mut core.cx, node(by), Route::Plain(&route));
        }

        fn peer(&mut self, number: u64) -> &mut Peer {
            let node = node(number);
            self.core.peers.table.entry(node).or_insert_with(|| Peer::new(node, "peer", Vec::new()))
        }

        fn knows(&self, number: u64) -> bool {
            self.core.peers.get(node(number)).is_some()
        }

        fn drop_waiting(&mut self, node: NodeId) {
            self.core.peers.drop_waiting(&mut self.core.cx, node, &Undelivered::NoNode);
        }

        fn release_named_by(&mut self, by: NodeId) {
            self.core.peers.release_named_by(&mut self.core.cx, by);
        }

        fn on_named_due(&mut self) {
            self.core.peers.on_named_due(&mut self.core.cx);
        }

        fn make_room_for(&mut self, node: NodeId) -> bool {
            self.core.peers.make_room_for(&mut self.core.cx, node)
        }

        fn forget(&mut self, node: NodeId) {
            self.core.peers.forget(&mut self.core.cx, node);
        }

        /// Sends a signal that waits for a session with the node.
        fn send_signal(&mut self, to: u64) {
            let id = MonitorId { origin: self.core.me(), number: to };
            let target = ActorId::new(node(to), Key::from_bits(1));
            self.signal(Key::from_bits(1), target, SignalKind::Monitor(id));
        }

        /// A peer that has been connected and is not any more.
        fn add_ended(&mut self, number: u64, has_left: bool) {
            let node = self.add_peer(number);
            let peer = self.core.peers.get_mut(node).expect("it is added");
            peer.state = match has_left {
                true => PeerState::Gone { how: Gone::Left, was_met: true },
                false => PeerState::Lost,
            };
            let core = &mut self.core;
            core.peers.remember_ended(&mut core.cx, node);
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
        test.core.peers.check();
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
        test.core.peers.check();
    }

    /// A peer introduces many nodes that exist: each is met before the next ones are named.
    #[test]
    fn named_nodes_that_are_met_are_not_limited() {
        let mut test = TestCore::dialling_loopback();
        test.peer(2);
        for number in 1000..11_000 {
            test.learn_limited(2, number);
            assert!(test.knows(number));
            test.core.peers.note_met(node(number));
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
        test.core.peers.check();
        test.drop_waiting(node(100));
        test.learn(2, 5000);
        assert!(!test.knows(100), "nothing waits for it any more");
        test.core.peers.check();
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
            named.iter().filter(|number| !test.core.peers.table[&node(**number)].waiting.is_empty()).count()
        };
        assert_eq!((waiting(&test), test.core.cx.counts.refusals.dials), (named.len(), 0));
        let late = send_to(&mut test, 5, 20, 0);
        assert!(!test.core.peers.table[&node(late)].waiting.is_empty());
        assert_eq!((waiting(&test), test.core.cx.counts.refusals.dials), (named.len() - 1, 1));
        test.core.peers.check();
    }

    /// When all nodes that a peer has named are in use, further ones are not remembered.
    #[test]
    fn named_nodes_all_in_use_refuse_another() {
        let mut test = TestCore::dialling_loopback();
        for number in 1000..1000 + NAMED_MAX as u64 {
            test.learn(2, number);
            let peer = test.core.peers.get_mut(node(number)).expect("it is known");
            // Reached before: so dials of it are not limited, and each signal can wait.
            peer.reached_at = peer.locations.first().copied();
            test.send_signal(number);
        }
        test.learn(2, 5000);
        test.learn(3, 5001);
        assert!(!test.knows(5000) && test.knows(5001));
        test.core.peers.check();
    }

    /// The nodes that peers have named that are gone share one quota.
    #[test]
    fn nodes_named_by_gone_peers_share_quota() {
        let mut test = TestCore::dialling_loopback();
        for by in 1..=20 {
            (0..NAMED_MAX as u64).for_each(|number| test.learn(by, by * 10_000 + number));
            test.release_named_by(node(by));
            test.core.peers.check();
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
            test.on_named_due();
            test.core.peers.check();
            due += 1;
        }
        assert!((100 / STEP_MAX..20).contains(&due), "each step is short: {due}");
        assert_eq!(test.core.peers.ids(), [node(2), node(1000), node(1100)]);
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
        assert!(test.make_room_for(node(1 << 40)));
        assert!(test.knows(1) && test.knows(100), "a node of the peer that has named most gives way");
        test.learn(12, 200);
        test.learn(12, 201);
        assert!(test.knows(200) && test.knows(201) && test.knows(100));
        assert_eq!(test.core.peers.len(), PEERS_MAX);
        test.core.peers.check();
        while let Some(oldest) = test.core.peers.named.oldest() {
            test.forget(oldest);
        }
        (0..PEERS_MAX as u64).for_each(|number| _ = test.add_peer(1000 + number));
        assert!(test.core.peers.len() > PEERS_MAX);
        assert!(test.make_room_for(node(1 << 40)) && !test.knows(1));
        assert!(!test.make_room_for(node(1 << 40)), "all others have sessions");
    }

    #[test]
    fn ended_incarnations_over_limit_are_forgotten() {
        let mut test = TestCore::dialling_loopback();
        test.add_ended(1, false);
        test.add_ended(2, true);
        // Something refers to it: a local actor monitors one of its actors.
        let id = MonitorId { origin: test.core.me(), number: 1 };
        let peer = test.core.peers.get_mut(node(2)).expect("it is added");
        peer.monitors.add_local_watcher(Key::from_bits(1), id, ActorId::new(node(2), Key::from_bits(1)));
        for number in 1000..3000 {
            test.add_ended(number, true);
            test.core.peers.check();
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
        test.core.peers.note_met(node(3999));
        (4000..4300).for_each(|number| test.add_ended(number, false));
        assert!(test.knows(3999) && !test.knows(3998));
    }
}
