//! The dialer: the locations that this node connects to, and when it tries again.
//!
//! Invariant: this node dials at most one connection at a time to each location. A dial without a connection has a
//! timer. A dial that nothing needs any more is removed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time, Undelivered};
use antiphon_wire::{Hello, Refusal};

use super::dial_hints::{DialCause, DialHints, WaitingHint};
use crate::location::PeerAt;
use crate::node::context::NodeCx;
use crate::node::driver::{ConnId, Driver, Output};
use crate::node::peer::session::PeerSession;
use crate::node::peer::{LeftIdle, Peer};
use crate::node::peers::Peers;
use crate::node::timers::{NodeTimer, TimerQueue};

/// The pauses between attempts at a location: they double from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_LAST: Duration = Duration::from_secs(2);
/// How long a location from a datagram waits until it may be dialled. After that, another announcement has come.
const HINT_WAITS_FOR: Duration = Duration::from_secs(3);
/// How long this node dials a location to see which node is there.
const LOOKS_FOR: Duration = Duration::from_secs(1);
/// How long this node dials a location that it requested from an announce relay.
const REQUESTED_FOR: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(in crate::node) struct Dialer {
    by_location: BTreeMap<SocketAddr, DialState>,
    /// Locations to be dialled in this tick.
    scheduled: Vec<SocketAddr>,
    /// The host queries in progress, with their purposes.
    queries: BTreeMap<u64, ResolveFor>,
    /// Host queries that the driver has not received yet.
    unsent_queries: Vec<(u64, String, u16)>,
    /// The dials that others cause.
    hints: DialHints,
}

#[derive(Debug)]
struct DialState {
    /// Whether the location is configured: the dialer never gives it up.
    is_configured: bool,
    /// The location is dialled until then.
    until: Time,
    /// The node that was proven there last.
    node: Option<NodeId>,
    /// The node of the last hello from there, proven or not.
    answered: Option<NodeId>,
    /// The attempts since then that a node has refused without a hello, perhaps since they were meant for another one.
    refused_guesses: u32,
    conn: Option<ConnId>,
    attempts: u32,
    /// When the last attempt began.
    begun: Time,
    /// A new connection is needed beside the present one, which has used up its keys or may be broken.
    renews: bool,
    /// Until then, it is dialled although its node may be connected, to see whether that one is there.
    checks_until: Time,
    /// The present attempt is not for a certain node: it may find one that is connected.
    is_open: bool,
    /// If only others have caused this dial: each attempt counts towards their budget.
    hinted: Option<DialCause>,
}

/// The purpose for which a host is resolved.
#[derive(Debug)]
pub(in crate::node) enum ResolveFor {
    Configured(PeerAt),
    ConnectRequest(RequestId, PeerAt),
}

impl DialState {
    fn new(until: Time) -> Self {
        Self {
            is_configured: false,
            until,
            node: None,
            answered: None,
            refused_guesses: 0,
            conn: None,
            attempts: 0,
            begun: Time::ZERO,
            renews: false,
            checks_until: Time::ZERO,
            is_open: false,
            hinted: None,
        }
    }
}

impl Dialer {
    pub(in crate::node) fn has_pending(&self) -> bool {
        self.hints.is_ready() || !self.scheduled.is_empty() || !self.unsent_queries.is_empty()
    }

    /// Whether this node dials a location, or has a connection that it dialled there.
    pub(in crate::node) fn has(&self, at: SocketAddr) -> bool {
        self.by_location.contains_key(&at)
    }

    /// The node that was proven at a location last.
    pub(in crate::node) fn node_at(&self, at: SocketAddr) -> Option<NodeId> {
        self.by_location.get(&at)?.node
    }

    /// The node of the last hello from a location, which need not be proven.
    pub(in crate::node) fn answered_at(&self, at: SocketAddr) -> Option<NodeId> {
        self.by_location.get(&at)?.answered
    }

    pub(in crate::node) fn answered(&mut self, at: SocketAddr, node: NodeId) {
        if let Some(dial) = self.by_location.get_mut(&at) {
            (dial.answered, dial.refused_guesses) = (Some(node), 0);
        }
    }

    /// A node at a location has refused a dial, and did not say which node it is.
    pub(in crate::node) fn guess_refused(&mut self, at: SocketAddr) {
        if let Some(dial) = self.by_location.get_mut(&at) {
            dial.refused_guesses += 1;
        }
    }

    pub(in crate::node) fn refused_guesses(&self, at: SocketAddr) -> u32 {
        self.by_location.get(&at).map_or(0, |dial| dial.refused_guesses)
    }

    /// Schedules a location for this tick, unless it has a connection.
    pub(in crate::node) fn schedule(&mut self, at: SocketAddr) {
        let is_unconnected = self.by_location.get(&at).is_some_and(|dial| dial.conn.is_none());
        if is_unconnected && !self.scheduled.contains(&at) {
            self.scheduled.push(at);
        }
    }

    /// A dial has succeeded; `is_new`: it has found a node without a session.
    pub(in crate::node) fn succeeded(&mut self, at: SocketAddr, conn: ConnId, node: NodeId, is_new: bool) {
        if let Some(dial) = self.by_location.get_mut(&at) {
            let is_expected = dial.node == Some(node);
            if dial.hinted.is_some() && (is_new || is_expected) {
                self.hints.give_back();
            }
            (dial.conn, dial.node, dial.attempts, dial.hinted) = (Some(conn), Some(node), 0, None);
            dial.checks_until = Time::ZERO;
        }
    }
}

impl Dialer {
    pub(in crate::node) fn check(&self, timers: &TimerQueue) {
        self.hints.check();
        for (at, dial) in &self.by_location {
            let is_going_on =
                dial.conn.is_some() || self.scheduled.contains(at) || timers.has_any(NodeTimer::Dial(*at));
            assert!(is_going_on, "a dial without a connection has no timer: {at}");
        }
    }
}

impl Dialer {
    /// Dials a configured location, now and whenever its node is not connected.
    pub(in crate::node) fn dial_always(&mut self, cx: &NodeCx, at: SocketAddr) {
        if self.schedule_dial(cx, at, Time::MAX) {
            self.by_location.entry(at).and_modify(|dial| dial.is_configured = true);
        }
    }

    /// Resolves the name of a host.
    pub(in crate::node) fn resolve(&mut self, cx: &mut NodeCx, host: String, port: u16, purpose: ResolveFor) {
        let query = cx.next_number();
        self.unsent_queries.push((query, host, port));
        self.queries.insert(query, purpose);
    }

    /// Resolves the name of a configured host once more, after a pause.
    pub(in crate::node) fn resolve_later(&mut self, cx: &mut NodeCx, query: u64, purpose: ResolveFor) {
        self.queries.insert(query, purpose);
        cx.timers.add(cx.now + PAUSE_LAST, NodeTimer::Resolve(query));
    }

    /// The purpose of a host query that has a result.
    pub(in crate::node) fn take_query(&mut self, query: u64) -> Option<ResolveFor> {
        self.queries.remove(&query)
    }

    /// A connect request is closed: the results of its host queries are not needed.
    pub(in crate::node) fn forget_queries_of(&mut self, request_id: RequestId) {
        let is_of =
            |purpose: &ResolveFor| matches!(purpose, ResolveFor::ConnectRequest(id, _) if *id == request_id);
        self.queries.retain(|_, purpose| !is_of(purpose));
    }

    /// The session with a node is needed again: dials the node. If no connection follows, the session is lost.
    pub(in crate::node) fn reopen(&mut self, cx: &mut NodeCx, peers: &mut Peers, node: NodeId) {
        let left = peers.get_mut(node).and_then(|peer| peer.leave_idle(cx));
        if let Some(LeftIdle { at: Some(at) }) = left {
            self.redial_now(cx, peers, node, at);
        }
        if let Some(peer) = peers.get_mut(node) {
            peer.arm_session(cx);
        }
    }

    /// As [`Self::reopen`], for a session that a hello without a proof calls in question: the dial waits for its turn among those that
    /// others cause.
    pub(in crate::node) fn examine(&mut self, cx: &mut NodeCx, peers: &mut Peers, node: NodeId) {
        let Some(LeftIdle { at }) = peers.get_mut(node).and_then(|peer| peer.leave_idle(cx)) else { return };
        if let Some(at) = at {
            let until = cx.now + cx.settings.limits().lost_after;
            self.dial_stated(cx, peers, node, at, until, false);
        }
    }

    /// The dialled connection is closed, and its session does not need another one from this side.
    pub(in crate::node) fn dial_is_over(&mut self, cx: &mut NodeCx, at: SocketAddr, conn: ConnId) {
        let Some(dial) = self.by_location.get_mut(&at).filter(|dial| dial.conn == Some(conn)) else {
            return;
        };
        (dial.conn, dial.node) = (None, None);
        if dial.is_configured {
            cx.timers.add(cx.now + PAUSE_FIRST, NodeTimer::Dial(at));
        } else {
            self.by_location.remove(&at);
        }
    }

    /// The session with the node at a location is lost: only a configured location is dialled further.
    pub(in crate::node) fn forget_dialled(&mut self, cx: &NodeCx, at: SocketAddr, node: NodeId) {
        let now = cx.now;
        if let Some(dial) = self.by_location.get_mut(&at).filter(|dial| dial.node == Some(node)) {
            dial.node = None;
            dial.until = dial.until.min(now);
        }
    }

    /// Stops dialling a location, even if it is configured: then its time is over, unless a request waits for it. With `at_once`, a
    /// dial without a connection ends now; otherwise it continues until its time is over.
    pub(in crate::node) fn give_up_dial(
        &mut self,
        cx: &NodeCx,
        at: SocketAddr,
        at_once: bool,
        is_requested: bool,
    ) {
        let now = cx.now;
        let Some(dial) = self.by_location.get_mut(&at) else { return };
        if std::mem::take(&mut dial.is_configured) && !is_requested {
            dial.until = now;
        }
        if dial.conn.is_none() && (at_once || dial.until <= now) {
            self.by_location.remove(&at);
        }
    }

    /// A dial that is not for a certain node has found one that is connected and states the location: no second connection is
    /// needed.
    pub(in crate::node) fn is_found_connected(
        &self,
        peers: &mut Peers,
        at: SocketAddr,
        hello: &Hello,
    ) -> bool {
        let is_open = self.by_location.get(&at).is_some_and(|dial| dial.is_open);
        let node = hello.node;
        let Some(peer) = peers.get(node) else { return false };
        let is_continued = |peer_session: &PeerSession| {
            peer_session.is_connected() && !peer_session.session.would_be_replaced_by(hello)
        };
        let is_found = is_open && peer.is_at(at) && peer.session().is_some_and(is_continued);
        if is_found {
            peers.edit(node, |peer| peer.found_at = Some(at));
        }
        is_found
    }

    /// A dial whose time is over has found a node that was disconnected on purpose meanwhile, at a location that the node has stated: it
    /// was under way then.
    pub(in crate::node) fn is_found_disconnected(
        &self,
        cx: &NodeCx,
        peers: &Peers,
        at: SocketAddr,
        hello: &Hello,
    ) -> bool {
        let is_disconnected = |peer: &Peer| {
            peer.no_auto_dial && peer.is_at(at) && peer.session().is_none() && peer.waiting.is_empty()
        };
        self.by_location.get(&at).is_some_and(|dial| !dial.is_configured && dial.until <= cx.now)
            && peers.get(hello.node).is_some_and(is_disconnected)
    }

    /// Dials a location until it answers, and retries at most until `until`.
    pub(in crate::node) fn dial_until(&mut self, cx: &NodeCx, at: SocketAddr, until: Time) {
        self.schedule_dial(cx, at, until);
    }

    /// Dials the location of a session again: at once if it was reached there before, else when it is its turn. If another node is
    /// connected that states this location, it is dialled all the same: the dial shows which of the two is there.
    pub(in crate::node) fn redial_now(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        at: SocketAddr,
    ) {
        let until = cx.now + cx.settings.limits().lost_after;
        match (self.is_reached(peers, node, at), peers.is_connected_at(at)) {
            (true, true) => self.renew_dial(cx, node, at),
            (true, false) => self.dial_node_until(cx, node, at, until),
            (false, renews) => self.dial_stated(cx, peers, node, at, until, renews),
        }
    }

    /// Whether this node may dial a peer there without limit: it was reached there before, or the location is configured.
    fn is_reached(&self, peers: &Peers, node: NodeId, at: SocketAddr) -> bool {
        peers.get(node).is_some_and(|peer| peer.was_found_at(at)) || self.is_configured(at)
    }

    pub(in crate::node) fn is_configured(&self, at: SocketAddr) -> bool {
        self.by_location.get(&at).is_some_and(|dial| dial.is_configured)
    }

    /// Dials a location that a connected peer states, in its turn.
    fn dial_stated(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        at: SocketAddr,
        until: Time,
        renews: bool,
    ) {
        if !cx.settings.is_own(at) && !cx.leaving {
            let (cause, dials_for) = (peers.dial_cause_of(node), until.since(cx.now));
            let hint = WaitingHint { at, cause, node: Some(node), until, dials_for, renews, attempts: 0 };
            self.dial_hinted(cx, peers, hint, Duration::ZERO);
        }
    }

    /// Dials the location of a node until it answers, and retries at most until `until`.
    pub(in crate::node) fn dial_node_until(
        &mut self,
        cx: &NodeCx,
        node: NodeId,
        at: SocketAddr,
        until: Time,
    ) {
        self.schedule_dial(cx, at, until);
        if let Some(dial) = self.by_location.get_mut(&at) {
            dial.node = Some(node);
        }
    }

    /// Dials a second connection, because the present one has used up its keys or may be broken.
    pub(in crate::node) fn renew_dial(&mut self, cx: &mut NodeCx, node: NodeId, at: SocketAddr) {
        // A dial that is under way goes on: there is one at a time.
        let connections = &mut cx.connections;
        if let Some(dial) = self.by_location.get_mut(&at)
            && !dial.conn.is_some_and(|conn| connections.is_unproven(conn))
        {
            dial.conn = None;
        }
        self.dial_node_until(cx, node, at, cx.now + cx.settings.limits().lost_after);
        if let Some(dial) = self.by_location.get_mut(&at) {
            dial.renews = true;
        }
    }

    /// Dials a second connection to a node at a location that it states, to see whether it is there: for one second, in its turn.
    pub(in crate::node) fn look_at(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        at: SocketAddr,
    ) {
        if cx.settings.may_dial(at) {
            self.dial_stated(cx, peers, node, at, cx.now + LOOKS_FOR, true);
        }
    }

    /// Dials a second connection to a silent peer, in its turn: the present one may be half open.
    pub(in crate::node) fn look_for_silent(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        at: SocketAddr,
    ) {
        if self.is_configured(at) {
            return self.renew_dial(cx, node, at);
        }
        self.dial_stated(cx, peers, node, at, cx.now + cx.settings.limits().lost_after, true);
    }

    /// Dials a location in this tick. `false` for an own location, or when the node is leaving.
    fn schedule_dial(&mut self, cx: &NodeCx, at: SocketAddr, until: Time) -> bool {
        if cx.settings.is_own(at) || cx.leaving {
            return false;
        }
        let dial = self.by_location.entry(at).or_insert_with(|| DialState::new(until));
        dial.until = dial.until.max(until);
        dial.hinted = None;
        self.schedule(at);
        true
    }

    /// Dials the location of a node from a datagram, in its turn, and retries for one second, if the settings allow it.
    pub(in crate::node) fn dial_hint(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        at: SocketAddr,
        from: SocketAddr,
        after: Duration,
    ) -> bool {
        let is_dialled = self.by_location.get(&at).is_some_and(|dial| dial.conn.is_some());
        if is_dialled || !cx.settings.may_dial(at) || cx.settings.is_own(at) {
            return false;
        }
        let hint = WaitingHint {
            at,
            cause: DialCause::datagram(from.ip()),
            node: Some(node),
            until: cx.now + HINT_WAITS_FOR,
            dials_for: Duration::from_secs(1),
            renews: false,
            attempts: 0,
        };
        self.dial_hinted(cx, peers, hint, after)
    }

    /// Dials a node without a session, at most until `until`: at once if it was reached there before, else in its turn. Returns
    /// false if the settings do not allow it, or too many locations wait for their turn.
    pub(in crate::node) fn dial_node(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        node: NodeId,
        at: SocketAddr,
        until: Time,
    ) -> bool {
        if self.is_reached(peers, node, at) || cx.settings.is_own(at) || cx.leaving {
            self.dial_node_until(cx, node, at, until);
            return true;
        }
        if let Some(dial) = self.by_location.get_mut(&at) {
            (dial.node, dial.until) = (Some(node), dial.until.max(until));
            self.schedule(at);
            return true;
        }
        let (cause, dials_for) = (peers.dial_cause_of(node), until.since(cx.now));
        let hint = WaitingHint { at, cause, node: Some(node), until, dials_for, renews: false, attempts: 0 };
        cx.settings.may_dial(at) && self.dial_hinted(cx, peers, hint, Duration::ZERO)
    }

    fn dial_hinted(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        hint: WaitingHint,
        after: Duration,
    ) -> bool {
        if !self.hints.is_waiting() && self.hints.take(cx.now) {
            self.begin_hinted_dial(cx, hint, after);
            return true;
        }
        self.wait_for_turn(cx, peers, hint)
    }

    /// Adds a location that waits for its turn. False if it may not wait.
    fn wait_for_turn(&mut self, cx: &mut NodeCx, peers: &mut Peers, hint: WaitingHint) -> bool {
        let refused = self.hints.push(hint);
        if let Some(refused) = refused {
            cx.counts.refusals.dials += 1;
            if cx.may_log("dials", refused.cause) {
                tracing::warn!(
                    cause = %refused.cause,
                    "a peer or host causes too many dials; some are not made (logged at most once an hour)"
                );
            }
        }
        if refused == Some(hint) {
            return false;
        }
        if let Some(other) = refused {
            self.fail_undialled(cx, peers, &other);
        }
        cx.timers.add(self.hints.next_second(), NodeTimer::Hints);
        true
    }

    /// Fails what waits for a session with a node, after its location has given way to another one.
    fn fail_undialled(&mut self, cx: &mut NodeCx, peers: &mut Peers, hint: &WaitingHint) {
        let Some(node) = hint.node.filter(|_| !hint.cause.is_datagram()) else { return };
        if !self.has(hint.at) {
            peers.drop_waiting(cx, node, &Undelivered::NoNode);
        }
    }

    fn begin_hinted_dial(&mut self, cx: &mut NodeCx, hint: WaitingHint, after: Duration) {
        let WaitingHint { at, cause, node, dials_for, renews, attempts, .. } = hint;
        let until = cx.now + after + dials_for;
        let state = || DialState { node, attempts, hinted: Some(cause), ..DialState::new(until) };
        let is_new = !self.has(at);
        let dial = self.by_location.entry(at).or_insert_with(state);
        if renews {
            // A dial that is under way shows as well which node is there, and goes on. One for other reasons keeps its node and its time.
            let is_under_way = dial.conn.is_some_and(|conn| cx.connections.is_unproven(conn));
            if !is_under_way {
                (dial.conn, dial.renews) = (None, true);
            }
            dial.until = dial.until.max(until);
            dial.checks_until = until.min(cx.now + after + LOOKS_FOR);
        }
        if !is_new && !renews {
            return self.hints.give_back();
        }
        if after.is_zero() {
            self.schedule(at);
        } else {
            cx.timers.add(cx.now + after, NodeTimer::Dial(at));
        }
    }

    /// Dials locations that waited for their turn.
    pub(in crate::node) fn begin_waiting_hints(&mut self, cx: &mut NodeCx, peers: &mut Peers) {
        while self.hints.is_waiting() {
            if !self.hints.take(cx.now) {
                cx.timers.add(self.hints.next_second(), NodeTimer::Hints);
                return;
            }
            match self.hints.pop() {
                Some(hint) if hint.until >= cx.now && self.is_needed(peers, &hint) => {
                    self.begin_hinted_dial(cx, hint, Duration::ZERO);
                }
                Some(_) | None => self.hints.give_back(),
            }
        }
    }

    /// Whether a location that has waited is still to be dialled.
    fn is_needed(&self, peers: &Peers, hint: &WaitingHint) -> bool {
        let Some(node) = hint.node else {
            return !self.has(hint.at) && !peers.is_connected_at(hint.at);
        };
        if hint.cause.is_datagram() {
            return !self.has(hint.at) && !peers.is_connected(node);
        }
        let Some(peer) = peers.get(node) else { return false };
        match peer.session() {
            Some(_) if hint.renews => true,
            Some(session) => session.needs_connection() && !self.has(hint.at),
            None => !peer.waiting.is_empty() && !self.has(hint.at),
        }
    }

    /// Dials a location that this node requested from an announce relay, for [`REQUESTED_FOR`], if a node can be there.
    pub(in crate::node) fn dial_requested(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        at: SocketAddr,
        after: Duration,
    ) {
        if !cx.settings.may_dial_requested(at) || cx.settings.is_own(at) || peers.is_connected_at(at) {
            return;
        }
        let until = cx.now + after + REQUESTED_FOR;
        self.by_location.entry(at).or_insert_with(|| DialState::new(until));
        cx.timers.add(cx.now + after, NodeTimer::Dial(at));
    }

    pub(in crate::node) fn start_dials(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        driver: &mut impl Driver,
    ) {
        self.begin_waiting_hints(cx, peers);
        for (query, host, port) in self.unsent_queries.drain(..) {
            driver.output(Output::Resolve { query, host, port });
        }
        for at in std::mem::take(&mut self.scheduled) {
            let node = self.node_at(at);
            let is_connected =
                node.map_or_else(|| peers.is_connected_at(at), |node| peers.is_connected(node));
            let Some(dial) = self.by_location.get_mut(&at).filter(|dial| dial.conn.is_none()) else {
                continue;
            };
            let renews = std::mem::take(&mut dial.renews) || cx.now < dial.checks_until;
            dial.is_open = node.is_none() && !renews;
            let is_needed = renews || !is_connected;
            let is_ignored = cx.settings.ignores(at.ip());
            if is_needed && !is_ignored && !cx.leaving && (cx.settings.may_contact)(&at).is_ok() {
                // Dialled below.
            } else if dial.is_configured && (is_connected || is_ignored) {
                // Either the peer has dialled this node, or its location is ignored. Both can change: check again later.
                cx.timers.add(cx.now + PAUSE_LAST, NodeTimer::Dial(at));
                continue;
            } else {
                if self
                    .by_location
                    .remove(&at)
                    .is_some_and(|dial| dial.hinted.is_some() && dial.attempts == 0)
                {
                    self.hints.give_back();
                }
                continue;
            }
            let conn = cx.connections.add(at, true, cx.now);
            if let Some(dial) = self.by_location.get_mut(&at) {
                dial.conn = Some(conn);
                dial.attempts += 1;
                dial.begun = cx.now;
            }
            cx.set_deadline(conn, cx.settings.limits().handshake_timeout);
            driver.output(Output::Dial(conn, at));
        }
    }

    /// An attempt at a location has failed: tries again after a pause, if the dial is still needed.
    pub(in crate::node) fn retry_dial(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        at: SocketAddr,
        conn: ConnId,
    ) {
        let random = cx.last_number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ conn.0;
        let Some(dial) = self.by_location.get_mut(&at).filter(|dial| dial.conn == Some(conn)) else {
            return;
        };
        dial.conn = None;
        let (is_hinted, begun, node) = (dial.hinted.is_some(), dial.begun, dial.node);
        let checks = cx.now < dial.checks_until;
        let found = match node {
            Some(node) => peers.get(node).filter(|peer| peer.needs_no_dial()),
            None => peers.connected_at(at),
        };
        if is_hinted
            && !checks
            && let Some(peer) = found
        {
            // If the node there has dialled this one meanwhile, the dial does not count. One that states the location of another
            // host was not there.
            let has_dialled = peer.session().is_some_and(|session| session.connected_at >= begun);
            if has_dialled && peer.remote == Some(at.ip()) {
                self.hints.give_back();
            }
            self.by_location.remove(&at);
            return;
        }
        let Some(dial) = self.by_location.get_mut(&at) else { return };
        let waits = dial
            .node
            .is_some_and(|node| peers.session(node).is_some_and(|peer_session| !peer_session.is_connected()));
        let is_over = !dial.is_configured && cx.now >= dial.until && !waits;
        let DialState { hinted, attempts, until, node, .. } = *dial;
        if is_over {
            self.by_location.remove(&at);
            return;
        }
        if let Some(cause) = hinted
            && (self.hints.is_waiting() || !self.hints.take(cx.now))
        {
            self.by_location.remove(&at);
            let dials_for = until.since(cx.now);
            let until = until.max(cx.now + HINT_WAITS_FOR);
            let hint = WaitingHint { at, cause, node, until, dials_for, renews: checks, attempts };
            self.wait_for_turn(cx, peers, hint);
            return;
        }
        let doubled = PAUSE_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(PAUSE_LAST);
        // The random part spreads nodes that dial the same location.
        let pause = doubled + doubled.mul_f64((random % 256) as f64 / 1024.0);
        cx.timers.add(cx.now + pause, NodeTimer::Dial(at));
    }

    /// Resolves a configured host once more.
    pub(in crate::node) fn on_resolve_due(&mut self, query: u64) {
        if let Some(ResolveFor::Configured(PeerAt::Host(host, port))) = self.queries.get(&query) {
            self.unsent_queries.push((query, host.clone(), *port));
        }
    }

    /// A dial of a location was refused: with `by_us` this node refused it, otherwise the peer did, and its refusal is not proven.
    pub(in crate::node) fn refused(&mut self, cx: &NodeCx, at: SocketAddr, reason: Refusal, by_us: bool) {
        if reason == Refusal::SelfConnection && by_us {
            self.by_location.remove(&at);
        } else if !is_harmless(reason) {
            self.end_unconfigured(cx, at);
        }
    }

    /// A further dial of a location would fail: it ends now, unless it is configured.
    pub(in crate::node) fn end_unconfigured(&mut self, cx: &NodeCx, at: SocketAddr) {
        if let Some(dial) = self.by_location.get_mut(&at).filter(|dial| !dial.is_configured) {
            dial.until = cx.now;
        }
    }
}

/// Whether a refusal of a dial says nothing about a further dial.
pub(in crate::node) fn is_harmless(reason: Refusal) -> bool {
    matches!(
        reason,
        Refusal::Duplicate
            | Refusal::Superseded
            | Refusal::Busy
            | Refusal::Session
            | Refusal::OldEpoch { .. }
            | Refusal::EpochTooHigh { .. }
            | Refusal::NodeIdInUse
    )
}
