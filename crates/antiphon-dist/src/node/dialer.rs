//! The dialer: the locations that this node connects to, and when it tries again.
//!
//! Invariant: this node dials at most one connection at a time to each location. A dial without a connection has a
//! timer. A dial that nothing needs any more is removed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time, Undelivered};
use antiphon_wire::{HandshakeError, HandshakeFault, Hello, Refusal};

use super::NodeCore;
use super::dial_hints::{DialCause, DialHints, WaitingHint};
use super::driver::{ConnId, Driver, Output};
use super::peer::Peer;
use super::peer_session::PeerSession;
use super::timers::{NodeTimer, TimerQueue};
use crate::error::{DialError, PeerError};
use crate::location::PeerAt;

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
pub(super) struct Dialer {
    by_location: BTreeMap<SocketAddr, DialState>,
    /// Locations to be dialled in this tick.
    scheduled: Vec<SocketAddr>,
    /// The host queries in progress, with their purposes.
    pub(super) queries: BTreeMap<u64, ResolveFor>,
    /// Host queries that the driver has not received yet.
    pub(super) unsent_queries: Vec<(u64, String, u16)>,
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
pub(super) enum ResolveFor {
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
    pub(super) fn has_pending(&self) -> bool {
        self.hints.is_ready() || !self.scheduled.is_empty() || !self.unsent_queries.is_empty()
    }

    /// Whether this node dials a location, or has a connection that it dialled there.
    pub(super) fn has(&self, at: SocketAddr) -> bool {
        self.by_location.contains_key(&at)
    }

    /// The node that was proven at a location last.
    pub(super) fn node_at(&self, at: SocketAddr) -> Option<NodeId> {
        self.by_location.get(&at)?.node
    }

    /// The node of the last hello from a location, which need not be proven.
    pub(super) fn answered_at(&self, at: SocketAddr) -> Option<NodeId> {
        self.by_location.get(&at)?.answered
    }

    pub(super) fn answered(&mut self, at: SocketAddr, node: NodeId) {
        if let Some(dial) = self.by_location.get_mut(&at) {
            (dial.answered, dial.refused_guesses) = (Some(node), 0);
        }
    }

    /// A node at a location has refused a dial, and did not say which node it is.
    pub(super) fn guess_refused(&mut self, at: SocketAddr) {
        if let Some(dial) = self.by_location.get_mut(&at) {
            dial.refused_guesses += 1;
        }
    }

    pub(super) fn refused_guesses(&self, at: SocketAddr) -> u32 {
        self.by_location.get(&at).map_or(0, |dial| dial.refused_guesses)
    }

    /// Schedules a location for this tick, unless it has a connection.
    pub(super) fn schedule(&mut self, at: SocketAddr) {
        let is_unconnected = self.by_location.get(&at).is_some_and(|dial| dial.conn.is_none());
        if is_unconnected && !self.scheduled.contains(&at) {
            self.scheduled.push(at);
        }
    }

    /// A dial has succeeded; `is_new`: it has found a node without a session.
    pub(super) fn succeeded(&mut self, at: SocketAddr, conn: ConnId, node: NodeId, is_new: bool) {
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
    pub(super) fn check(&self, timers: &TimerQueue) {
        self.hints.check();
        for (at, dial) in &self.by_location {
            let is_going_on =
                dial.conn.is_some() || self.scheduled.contains(at) || timers.has_any(NodeTimer::Dial(*at));
            assert!(is_going_on, "a dial without a connection has no timer: {at}");
        }
    }
}

impl NodeCore {
    /// Dials a configured peer, now and whenever it is not connected.
    pub(super) fn dial_configured(&mut self, at: PeerAt) {
        match at {
            PeerAt::Location(at) => {
                if at.addr().port() == 0 {
                    let mut host = at.addr();
                    host.set_port(self.cx.settings.udp_port);
                    self.probe_host(host, Time::MAX);
                } else if self.schedule_dial(at.addr(), Time::MAX) {
                    self.dialer.by_location.entry(at.addr()).and_modify(|dial| dial.is_configured = true);
                }
            }
            PeerAt::Host(ref host, port) => {
                let query = self.cx.next_number();
                self.dialer.unsent_queries.push((query, host.clone(), port));
                self.dialer.queries.insert(query, ResolveFor::Configured(at));
            }
        }
    }

    /// The dialled connection is closed, and its session does not need another one from this side.
    pub(super) fn dial_is_over(&mut self, at: SocketAddr, conn: ConnId) {
        let Some(dial) = self.dialer.by_location.get_mut(&at).filter(|dial| dial.conn == Some(conn)) else {
            return;
        };
        (dial.conn, dial.node) = (None, None);
        if dial.is_configured {
            self.cx.timers.add(self.cx.now + PAUSE_FIRST, NodeTimer::Dial(at));
        } else {
            self.dialer.by_location.remove(&at);
        }
    }

    /// The session with the node at a location is lost: only a configured location is dialled further.
    pub(super) fn forget_dialled(&mut self, at: SocketAddr, node: NodeId) {
        let now = self.cx.now;
        if let Some(dial) = self.dialer.by_location.get_mut(&at).filter(|dial| dial.node == Some(node)) {
            dial.node = None;
            dial.until = dial.until.min(now);
        }
    }

    /// Stops dialling a location, even if it is configured: then its time is over, unless a request waits for it. With `at_once`, a
    /// dial without a connection ends now; otherwise it continues until its time is over.
    pub(super) fn give_up_dial(&mut self, at: SocketAddr, at_once: bool) {
        let is_requested = self.connect_requests.are_open_for(at);
        let now = self.cx.now;
        let Some(dial) = self.dialer.by_location.get_mut(&at) else { return };
        if std::mem::take(&mut dial.is_configured) && !is_requested {
            dial.until = now;
        }
        if dial.conn.is_none() && (at_once || dial.until <= now) {
            self.dialer.by_location.remove(&at);
        }
    }

    /// A dial that is not for a certain node has found one that is connected and states the location: no second connection is
    /// needed.
    pub(super) fn is_found_connected(&mut self, at: SocketAddr, hello: &Hello) -> bool {
        let is_open = self.dialer.by_location.get(&at).is_some_and(|dial| dial.is_open);
        let node = hello.node;
        let Some(peer) = self.peers.get(node) else { return false };
        let is_continued = |peer_session: &PeerSession| {
            peer_session.conn.is_some() && !peer_session.session.would_be_replaced_by(hello)
        };
        let is_found = is_open && peer.is_at(at) && peer.peer_session.as_deref().is_some_and(is_continued);
        if is_found {
            self.peers.edit(node, |peer| peer.found_at = Some(at));
        }
        is_found
    }

    /// A dial whose time is over has found a node that was disconnected on purpose meanwhile, at a location that the node has stated: it
    /// was under way then.
    pub(super) fn is_found_disconnected(&self, at: SocketAddr, hello: &Hello) -> bool {
        let is_disconnected = |peer: &Peer| {
            peer.no_auto_dial && peer.is_at(at) && peer.peer_session.is_none() && peer.waiting.is_empty()
        };
        self.dialer.by_location.get(&at).is_some_and(|dial| !dial.is_configured && dial.until <= self.cx.now)
            && self.peers.get(hello.node).is_some_and(is_disconnected)
    }

    /// Dials a location until it answers, and retries at most until `until`.
    pub(super) fn dial_until(&mut self, at: SocketAddr, until: Time) {
        self.schedule_dial(at, until);
    }

    /// Dials the location of a session again: at once if it was reached there before, else when it is its turn. If another node is
    /// connected that states this location, it is dialled all the same: the dial shows which of the two is there.
    pub(super) fn redial_now(&mut self, node: NodeId, at: SocketAddr) {
        let until = self.cx.now + self.cx.settings.limits().lost_after;
        match (self.is_reached(node, at), self.peers.is_connected_at(at)) {
            (true, true) => self.renew_dial(node, at),
            (true, false) => self.dial_node_until(node, at, until),
            (false, renews) => self.dial_stated(node, at, until, renews),
        }
    }

    /// Whether this node may dial a peer there without limit: it was reached there before, or the location is configured.
    fn is_reached(&self, node: NodeId, at: SocketAddr) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.was_found_at(at)) || self.is_configured(at)
    }

    fn is_configured(&self, at: SocketAddr) -> bool {
        self.dialer.by_location.get(&at).is_some_and(|dial| dial.is_configured)
    }

    /// Dials a location that a connected peer states, in its turn.
    fn dial_stated(&mut self, node: NodeId, at: SocketAddr, until: Time, renews: bool) {
        if !self.cx.settings.is_own(at) && !self.cx.leaving {
            let (cause, dials_for) = (self.peers.dial_cause_of(node), until.since(self.cx.now));
            let hint = WaitingHint { at, cause, node: Some(node), until, dials_for, renews, attempts: 0 };
            self.dial_hinted(hint, Duration::ZERO);
        }
    }

    /// Dials the location of a node until it answers, and retries at most until `until`.
    pub(super) fn dial_node_until(&mut self, node: NodeId, at: SocketAddr, until: Time) {
        self.schedule_dial(at, until);
        if let Some(dial) = self.dialer.by_location.get_mut(&at) {
            dial.node = Some(node);
        }
    }

    /// Dials a second connection, because the present one has used up its keys or may be broken.
    pub(super) fn renew_dial(&mut self, node: NodeId, at: SocketAddr) {
        // A dial that is under way goes on: there is one at a time.
        let connections = &mut self.cx.connections;
        if let Some(dial) = self.dialer.by_location.get_mut(&at)
            && !dial.conn.is_some_and(|conn| connections.is_unproven(conn))
        {
            dial.conn = None;
        }
        self.dial_node_until(node, at, self.cx.now + self.cx.settings.limits().lost_after);
        if let Some(dial) = self.dialer.by_location.get_mut(&at) {
            dial.renews = true;
        }
    }

    /// Dials a second connection to a node at a location that it states, to see whether it is there: for one second, in its turn.
    pub(super) fn look_at(&mut self, node: NodeId, at: SocketAddr) {
        if self.cx.settings.may_dial(at) {
            self.dial_stated(node, at, self.cx.now + LOOKS_FOR, true);
        }
    }

    /// Dials a second connection to a silent peer, in its turn: the present one may be half open.
    pub(super) fn look_for_silent(&mut self, node: NodeId, at: SocketAddr) {
        if self.is_configured(at) {
            return self.renew_dial(node, at);
        }
        self.dial_stated(node, at, self.cx.now + self.cx.settings.limits().lost_after, true);
    }

    /// Dials a location in this tick. `false` for an own location, or when the node is leaving.
    fn schedule_dial(&mut self, at: SocketAddr, until: Time) -> bool {
        if self.cx.settings.is_own(at) || self.cx.leaving {
            return false;
        }
        let dial = self.dialer.by_location.entry(at).or_insert_with(|| DialState::new(until));
        dial.until = dial.until.max(until);
        dial.hinted = None;
        self.dialer.schedule(at);
        true
    }

    /// Dials the location of a node from a datagram, in its turn, and retries for one second, if the settings allow it.
    pub(super) fn dial_hint(
        &mut self,
        node: NodeId,
        at: SocketAddr,
        from: SocketAddr,
        after: Duration,
    ) -> bool {
        let is_dialled = self.dialer.by_location.get(&at).is_some_and(|dial| dial.conn.is_some());
        if is_dialled || !self.cx.settings.may_dial(at) || self.cx.settings.is_own(at) {
            return false;
        }
        let hint = WaitingHint {
            at,
            cause: DialCause::datagram(from.ip()),
            node: Some(node),
            until: self.cx.now + HINT_WAITS_FOR,
            dials_for: Duration::from_secs(1),
            renews: false,
            attempts: 0,
        };
        self.dial_hinted(hint, after)
    }

    /// Dials a node without a session, at most until `until`: at once if it was reached there before, else in its turn. Returns
    /// false if the settings do not allow it, or too many locations wait for their turn.
    pub(super) fn dial_node(&mut self, node: NodeId, at: SocketAddr, until: Time) -> bool {
        if self.is_reached(node, at) || self.cx.settings.is_own(at) || self.cx.leaving {
            self.dial_node_until(node, at, until);
            return true;
        }
        if let Some(dial) = self.dialer.by_location.get_mut(&at) {
            (dial.node, dial.until) = (Some(node), dial.until.max(until));
            self.dialer.schedule(at);
            return true;
        }
        let (cause, dials_for) = (self.peers.dial_cause_of(node), until.since(self.cx.now));
        let hint = WaitingHint { at, cause, node: Some(node), until, dials_for, renews: false, attempts: 0 };
        self.cx.settings.may_dial(at) && self.dial_hinted(hint, Duration::ZERO)
    }

    fn dial_hinted(&mut self, hint: WaitingHint, after: Duration) -> bool {
        if !self.dialer.hints.is_waiting() && self.dialer.hints.take(self.cx.now) {
            self.begin_hinted_dial(hint, after);
            return true;
        }
        self.wait_for_turn(hint)
    }

    /// Adds a location that waits for its turn. False if it may not wait.
    fn wait_for_turn(&mut self, hint: WaitingHint) -> bool {
        let refused = self.dialer.hints.push(hint);
        if let Some(refused) = refused {
            self.cx.counts.refusals.dials += 1;
            if self.cx.may_log("dials", refused.cause) {
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
            self.fail_undialled(&other);
        }
        self.cx.timers.add(self.dialer.hints.next_second(), NodeTimer::Hints);
        true
    }

    /// Fails what waits for a session with a node, after its location has given way to another one.
    fn fail_undialled(&mut self, hint: &WaitingHint) {
        let Some(node) = hint.node.filter(|_| !hint.cause.is_datagram()) else { return };
        if !self.dialer.has(hint.at) {
            self.peers.drop_waiting(&mut self.cx, node, &Undelivered::NoNode);
        }
    }

    fn begin_hinted_dial(&mut self, hint: WaitingHint, after: Duration) {
        let WaitingHint { at, cause, node, dials_for, renews, attempts, .. } = hint;
        let until = self.cx.now + after + dials_for;
        let state = || DialState { node, attempts, hinted: Some(cause), ..DialState::new(until) };
        let is_new = !self.dialer.has(at);
        let dial = self.dialer.by_location.entry(at).or_insert_with(state);
        if renews {
            // A dial that is under way shows as well which node is there, and goes on. One for other reasons keeps its node and its time.
            let is_under_way = dial.conn.is_some_and(|conn| self.cx.connections.is_unproven(conn));
            if !is_under_way {
                (dial.conn, dial.renews) = (None, true);
            }
            dial.until = dial.until.max(until);
            dial.checks_until = until.min(self.cx.now + after + LOOKS_FOR);
        }
        if !is_new && !renews {
            return self.dialer.hints.give_back();
        }
        if after.is_zero() {
            self.dialer.schedule(at);
        } else {
            self.cx.timers.add(self.cx.now + after, NodeTimer::Dial(at));
        }
    }

    /// Dials locations that waited for their turn.
    pub(super) fn begin_waiting_hints(&mut self) {
        while self.dialer.hints.is_waiting() {
            if !self.dialer.hints.take(self.cx.now) {
                self.cx.timers.add(self.dialer.hints.next_second(), NodeTimer::Hints);
                return;
            }
            match self.dialer.hints.pop() {
                Some(hint) if hint.until >= self.cx.now && self.is_needed(&hint) => {
                    self.begin_hinted_dial(hint, Duration::ZERO);
                }
                Some(_) | None => self.dialer.hints.give_back(),
            }
        }
    }

    /// Whether a location that has waited is still to be dialled.
    fn is_needed(&self, hint: &WaitingHint) -> bool {
        let Some(node) = hint.node else {
            return !self.dialer.has(hint.at) && !self.peers.is_connected_at(hint.at);
        };
        if hint.cause.is_datagram() {
            return !self.dialer.has(hint.at) && !self.peers.is_connected(node);
        }
        let Some(peer) = self.peers.get(node) else { return false };
        match peer.peer_session.as_deref() {
            Some(_) if hint.renews => true,
            Some(session) => session.needs_connection() && !self.dialer.has(hint.at),
            None => !peer.waiting.is_empty() && !self.dialer.has(hint.at),
        }
    }

    /// Dials a location that this node requested from an announce relay, for [`REQUESTED_FOR`], if a node can be there.
    pub(super) fn dial_requested(&mut self, at: SocketAddr, after: Duration) {
        if !self.cx.settings.may_dial_requested(at)
            || self.cx.settings.is_own(at)
            || self.peers.is_connected_at(at)
        {
            return;
        }
        let until = self.cx.now + after + REQUESTED_FOR;
        self.dialer.by_location.entry(at).or_insert_with(|| DialState::new(until));
        self.cx.timers.add(self.cx.now + after, NodeTimer::Dial(at));
    }

    pub(super) fn start_dials(&mut self, driver: &mut impl Driver) {
        self.begin_waiting_hints();
        for (query, host, port) in self.dialer.unsent_queries.drain(..) {
            driver.output(Output::Resolve { query, host, port });
        }
        for at in std::mem::take(&mut self.dialer.scheduled) {
            let node = self.dialer.node_at(at);
            let is_connected =
                node.map_or_else(|| self.peers.is_connected_at(at), |node| self.peers.is_connected(node));
            let Some(dial) = self.dialer.by_location.get_mut(&at).filter(|dial| dial.conn.is_none()) else {
                continue;
            };
            let renews = std::mem::take(&mut dial.renews) || self.cx.now < dial.checks_until;
            dial.is_open = node.is_none() && !renews;
            let is_needed = renews || !is_connected;
            let is_ignored = self.cx.settings.ignores(at.ip());
            if is_needed && !is_ignored && !self.cx.leaving && (self.cx.settings.may_contact)(&at).is_ok() {
                // Dialled below.
            } else if dial.is_configured && (is_connected || is_ignored) {
                // Either the peer has dialled this node, or its location is ignored. Both can change: check again later.
                self.cx.timers.add(self.cx.now + PAUSE_LAST, NodeTimer::Dial(at));
                continue;
            } else {
                if self
                    .dialer
                    .by_location
                    .remove(&at)
                    .is_some_and(|dial| dial.hinted.is_some() && dial.attempts == 0)
                {
                    self.dialer.hints.give_back();
                }
                continue;
            }
            let conn = self.cx.connections.add(at, true, self.cx.now);
            if let Some(dial) = self.dialer.by_location.get_mut(&at) {
                dial.conn = Some(conn);
                dial.attempts += 1;
                dial.begun = self.cx.now;
            }
            self.set_deadline(conn, self.cx.settings.limits().handshake_timeout);
            driver.output(Output::Dial(conn, at));
        }
    }

    pub(super) fn on_dial_failed(&mut self, conn: ConnId, refused: bool, driver: &mut impl Driver) {
        let Some(gone) = self.remove_conn(conn) else { return };
        let Some(at) = gone.dialled else { return };
        if refused {
            self.note_dial_error(at, DialError::ConnectionRefused, false);
            self.clear_refusals(at, driver);
        }
        let node = self.dialer.node_at(at);
        self.retry_dial(at, conn);
        // Others may have named this location for the node: then it says nothing about the node.
        let is_of = |node: &NodeId| self.peers.get(*node).is_some_and(|peer| peer.is_dialled_at(at));
        if let Some(node) = node.filter(is_of).filter(|_| refused) {
            self.on_location_refused(node, driver);
        }
    }

    /// An attempt at a location has failed: tries again after a pause, if the dial is still needed.
    pub(super) fn retry_dial(&mut self, at: SocketAddr, conn: ConnId) {
        let random = self.cx.last_number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ conn.0;
        let Some(dial) = self.dialer.by_location.get_mut(&at).filter(|dial| dial.conn == Some(conn)) else {
            return;
        };
        dial.conn = None;
        let (is_hinted, begun, node) = (dial.hinted.is_some(), dial.begun, dial.node);
        let checks = self.cx.now < dial.checks_until;
        let found = match node {
            Some(node) => self.peers.get(node).filter(|peer| peer.needs_no_dial()),
            None => self.peers.connected_at(at),
        };
        if is_hinted
            && !checks
            && let Some(peer) = found
        {
            // If the node there has dialled this one meanwhile, the dial does not count. One that states the location of another
            // host was not there.
            let has_dialled = peer.peer_session.as_ref().is_some_and(|session| session.connected_at >= begun);
            if has_dialled && peer.remote == Some(at.ip()) {
                self.dialer.hints.give_back();
            }
            self.dialer.by_location.remove(&at);
            return;
        }
        let Some(dial) = self.dialer.by_location.get_mut(&at) else { return };
        let waits = dial.node.is_some_and(|node| {
            self.peers
                .get(node)
                .and_then(|peer| peer.peer_session.as_ref())
                .is_some_and(|peer_session| peer_session.conn.is_none())
        });
        let is_over = !dial.is_configured && self.cx.now >= dial.until && !waits;
        let DialState { hinted, attempts, until, node, .. } = *dial;
        if is_over {
            self.dialer.by_location.remove(&at);
            return;
        }
        if let Some(cause) = hinted
            && (self.dialer.hints.is_waiting() || !self.dialer.hints.take(self.cx.now))
        {
            self.dialer.by_location.remove(&at);
            let dials_for = until.since(self.cx.now);
            let until = until.max(self.cx.now + HINT_WAITS_FOR);
            let hint = WaitingHint { at, cause, node, until, dials_for, renews: checks, attempts };
            self.wait_for_turn(hint);
            return;
        }
        let doubled = PAUSE_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(PAUSE_LAST);
        // The random part spreads nodes that dial the same location.
        let pause = doubled + doubled.mul_f64((random % 256) as f64 / 1024.0);
        self.cx.timers.add(self.cx.now + pause, NodeTimer::Dial(at));
    }

    /// A dial was refused. With `by_us` this node refused it; otherwise the peer did, and its refusal is not proven.
    pub(super) fn on_dial_refused(
        &mut self,
        at: SocketAddr,
        reason: Refusal,
        by_us: bool,
        driver: &mut impl Driver,
    ) {
        let harmless = matches!(
            reason,
            Refusal::Duplicate
                | Refusal::Superseded
                | Refusal::Busy
                | Refusal::Session
                | Refusal::OldEpoch { .. }
                | Refusal::EpochTooHigh { .. }
                | Refusal::NodeIdInUse
        );
        if !harmless {
            self.note_dial_error(at, DialError::Refused(reason), true);
        }
        // A peer that leaves says goodbye, and this node itself is no peer.
        if !harmless && !matches!(reason, Refusal::Leaving | Refusal::SelfConnection) {
            self.on_peers_refused(at, DialError::Refused(reason), driver);
        }
        self.recheck_connect_requests(at);
        if reason == Refusal::SelfConnection && by_us {
            self.dialer.by_location.remove(&at);
        } else if let Some(dial) = self.dialer.by_location.get_mut(&at)
            && !harmless
            && !dial.is_configured
        {
            dial.until = self.cx.now;
        }
    }

    /// The program at a dialled location does not speak the protocol.
    pub(super) fn on_dialled_no_node(
        &mut self,
        at: SocketAddr,
        fault: HandshakeFault,
        driver: &mut impl Driver,
    ) {
        self.note_dial_error(at, DialError::NotAntiphon(fault), true);
        self.on_peers_refused(at, DialError::NotAntiphon(fault), driver);
        self.recheck_connect_requests(at);
        if let Some(dial) = self.dialer.by_location.get_mut(&at).filter(|dial| !dial.is_configured) {
            dial.until = self.cx.now;
        }
    }

    /// A dial was not made, because the process keeps its last descriptors for accepting.
    pub(crate) fn note_few_descriptors(&mut self, to: SocketAddr) {
        self.cx.counts.dials_without_descriptors += 1;
        if self.cx.may_log("few descriptors", "") {
            tracing::warn!(
                %to,
                "a dial is not made yet, because the process keeps its last descriptors for connections that it accepts; close some \
                 connections, or raise the limit of open files (logged at most once an hour)"
            );
        }
    }

    /// Logs that a connection was closed before its proof and without a refusal.
    pub(super) fn log_closed_before_proof(&mut self, remote: SocketAddr, reason: &str) {
        if self.cx.may_log("no proof", format_args!("{} {reason}", remote.ip())) {
            tracing::warn!(%remote, reason, "a connection was closed before its proof (logged at most once an hour)");
        }
    }

    pub(super) fn log_refusal(&mut self, remote: SocketAddr, error: &HandshakeError) {
        if self.cx.may_log("no connection", format_args!("{} {error}", remote.ip())) {
            tracing::warn!(%remote, reason = %error, "a handshake failed (logged at most once an hour)");
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        query: u64,
        found: Result<Vec<SocketAddr>, String>,
        driver: &mut impl Driver,
    ) {
        let found =
            found.and_then(|all| if all.is_empty() { Err("it has no address".to_owned()) } else { Ok(all) });
        match (self.dialer.queries.remove(&query), found) {
            // A host may have several addresses, and the node listens on one of them.
            (Some(ResolveFor::Configured(_)), Ok(all)) => {
                all.into_iter().for_each(|at| self.dial_configured(PeerAt::Location(at.into())));
            }
            (Some(ResolveFor::Configured(at)), Err(reason)) => {
                if self.cx.may_log("not resolved", format_args!("{at} {reason}")) {
                    tracing::warn!(
                        %at, reason,
                        "the host of a configured peer cannot be resolved; the node keeps trying (logged at most once an hour)"
                    );
                }
                self.dialer.queries.insert(query, ResolveFor::Configured(at));
                self.cx.timers.add(self.cx.now + PAUSE_LAST, NodeTimer::Resolve(query));
            }
            (Some(ResolveFor::ConnectRequest(request_id, at)), Ok(all)) => {
                self.on_connect_request_resolved(request_id, at, all, driver)
            }
            (Some(ResolveFor::ConnectRequest(request_id, at)), Err(reason)) => {
                self.complete_connect_request(request_id, Err(PeerError::UnknownHost { at, reason }), driver);
            }
            (None, _) => {}
        }
    }

    /// Resolves a configured host once more.
    pub(super) fn on_resolve_due(&mut self, query: u64) {
        if let Some(ResolveFor::Configured(PeerAt::Host(host, port))) = self.dialer.queries.get(&query) {
            self.dialer.unsent_queries.push((query, host.clone(), *port));
        }
    }
}
