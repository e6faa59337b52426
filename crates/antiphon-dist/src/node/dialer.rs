//! Whom this node dials, when, and how often.
//!
//! Invariant: at most one connection of a location is being dialled or was dialled by this node; a dial without a
//! connection is on the agenda; one that nobody wants any more is forgotten.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time, egress};
use antiphon_wire::{HandshakeError, Refusal};

use super::NodeCore;
use super::driver::{ConnId, Driver, Output};
use super::peer_session::PeerSession;
use super::peers::Peer;
use super::timers::{NodeTimer, TimerQueue};
use crate::error::PeerError;
use crate::location::PeerAt;

/// The pauses between attempts at a location: they double from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_LAST: Duration = Duration::from_secs(2);
/// Dials that others' hints cause, in one second.
const HINTS_A_SECOND: u32 = 10;
/// How long a location is dialled that a peer was asked for.
const TOLD_FOR: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Dialer {
    dials: BTreeMap<SocketAddr, DialState>,
    /// Locations to be dialled in this tick.
    fresh: Vec<SocketAddr>,
    /// Look-ups under way: for whom.
    pub(super) queries: BTreeMap<u64, ResolveFor>,
    /// Look-ups that were not yet asked for.
    pub(super) unasked: Vec<(u64, String, u16)>,
    hints: u32,
    hints_since: Time,
}

#[derive(Debug)]
struct DialState {
    /// From the configuration: never given up.
    forever: bool,
    /// Wanted until then.
    until: Time,
    /// Who was proven there last.
    node: Option<NodeId>,
    /// Who said hello there last, proven or not.
    answered: Option<NodeId>,
    conn: Option<ConnId>,
    attempts: u32,
    /// Wanted although there is a connection: its keys are used up.
    renews: bool,
    /// Nobody but a datagram wants it: each attempt counts among those that datagrams cause.
    hinted: bool,
}

/// For whom a host is looked up.
#[derive(Debug)]
pub(super) enum ResolveFor {
    Configured(PeerAt),
    ConnectRequest(RequestId, PeerAt),
}

impl DialState {
    fn new(until: Time) -> Self {
        Self {
            forever: false,
            until,
            node: None,
            answered: None,
            conn: None,
            attempts: 0,
            renews: false,
            hinted: false,
        }
    }
}

impl Dialer {
    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty() || !self.unasked.is_empty()
    }

    /// Whether a location is dialled, or was by the connection that there is.
    pub(super) fn has(&self, at: SocketAddr) -> bool {
        self.dials.contains_key(&at)
    }

    /// Who is behind a location, as far as this node knows.
    pub(super) fn node_at(&self, at: SocketAddr) -> Option<NodeId> {
        self.dials.get(&at)?.node
    }

    /// Who said hello at a location last, which need not be true.
    pub(super) fn answered_at(&self, at: SocketAddr) -> Option<NodeId> {
        self.dials.get(&at)?.answered
    }

    pub(super) fn answered(&mut self, at: SocketAddr, node: NodeId) {
        if let Some(dial) = self.dials.get_mut(&at) {
            dial.answered = Some(node);
        }
    }

    pub(super) fn wake(&mut self, at: SocketAddr) {
        if self.dials.get(&at).is_some_and(|dial| dial.conn.is_none()) && !self.fresh.contains(&at) {
            self.fresh.push(at);
        }
    }

    /// Whether a datagram may cause another attempt now; counts it.
    fn may_hint(&mut self, now: Time) -> bool {
        if now.since(self.hints_since) >= Duration::from_secs(1) {
            (self.hints, self.hints_since) = (0, now);
        }
        let may = self.hints < HINTS_A_SECOND;
        self.hints += u32::from(may);
        may
    }

    pub(super) fn succeeded(&mut self, at: SocketAddr, conn: ConnId, node: NodeId) {
        if let Some(dial) = self.dials.get_mut(&at) {
            (dial.conn, dial.node, dial.attempts, dial.hinted) = (Some(conn), Some(node), 0, false);
        }
    }
}

impl Dialer {
    pub(super) fn check(&self, timers: &TimerQueue) {
        for (at, dial) in &self.dials {
            let is_going_on =
                dial.conn.is_some() || self.fresh.contains(at) || timers.has_any(NodeTimer::Dial(*at));
            assert!(is_going_on, "a dial without a connection is on the agenda: {at}");
        }
    }
}

impl NodeCore {
    /// Dials a peer of the configuration, now and whenever it is not connected.
    pub(super) fn dial_for_ever(&mut self, at: PeerAt) {
        match at {
            PeerAt::Location(at) => {
                if at.addr().port() == 0 {
                    let mut host = at.addr();
                    host.set_port(self.settings.udp_port);
                    self.probe_host(host, Time::MAX);
                } else if self.want_dial(at.addr(), Time::MAX) {
                    self.dials.dials.entry(at.addr()).and_modify(|dial| dial.forever = true);
                }
            }
            PeerAt::Host(ref host, port) => {
                let query = self.next_request();
                self.dials.unasked.push((query, host.clone(), port));
                self.dials.queries.insert(query, ResolveFor::Configured(at));
            }
        }
    }

    /// The connection that was dialled is gone, and its session does not need another from here.
    pub(super) fn dial_is_over(&mut self, at: SocketAddr, conn: ConnId) {
        let Some(dial) = self.dials.dials.get_mut(&at).filter(|dial| dial.conn == Some(conn)) else { return };
        (dial.conn, dial.node) = (None, None);
        if dial.forever {
            self.timers.add(self.now + PAUSE_FIRST, NodeTimer::Dial(at));
        } else {
            self.dials.dials.remove(&at);
        }
    }

    /// The session with the node behind a location is lost: it is dialled further only if the configuration
    /// says so.
    pub(super) fn forget_dialled(&mut self, at: SocketAddr, node: NodeId) {
        let now = self.now;
        if let Some(dial) = self.dials.dials.get_mut(&at).filter(|dial| dial.node == Some(node)) {
            dial.node = None;
            dial.until = dial.until.min(now);
        }
    }

    /// A location is not dialled any more, also if the configuration says so. A dial under way goes on, unless it is
    /// `at_once`.
    pub(super) fn give_up_dial(&mut self, at: SocketAddr, at_once: bool) {
        let Some(dial) = self.dials.dials.get_mut(&at) else { return };
        dial.forever = false;
        if at_once && dial.conn.is_none() {
            self.dials.dials.remove(&at);
        }
    }

    /// Whether there is a connection with the node at a location, or none is needed.
    fn is_connected(&self, at: SocketAddr) -> bool {
        let is_served = |peer_session: &PeerSession| peer_session.conn.is_some() || peer_session.idle.rests();
        let has_connection = |peer: &Peer| peer.peer_session.as_deref().is_some_and(is_served);
        self.peers.values().any(|peer| peer.is_connected_to(at) && has_connection(peer))
    }

    /// Dials a location until it answers, at most until then.
    pub(super) fn dial_once(&mut self, at: SocketAddr, until: Time) {
        self.want_dial(at, until);
    }

    /// Dials again where a session was, at once.
    pub(super) fn redial(&mut self, node: NodeId, at: SocketAddr) {
        let until = self.now + self.settings.limits().lost_after;
        self.want_dial(at, until);
        if let Some(dial) = self.dials.dials.get_mut(&at) {
            dial.node = Some(node);
        }
    }

    /// Dials beside a connection that is there, whose keys are used up.
    pub(super) fn renew_dial(&mut self, node: NodeId, at: SocketAddr) {
        if let Some(dial) = self.dials.dials.get_mut(&at) {
            dial.conn = None;
        }
        self.redial(node, at);
        if let Some(dial) = self.dials.dials.get_mut(&at) {
            dial.renews = true;
        }
    }

    fn want_dial(&mut self, at: SocketAddr, until: Time) -> bool {
        if self.settings.is_own(at) || self.leaving {
            return false;
        }
        let dial = self.dials.dials.entry(at).or_insert_with(|| DialState::new(until));
        dial.until = dial.until.max(until);
        dial.hinted = false;
        self.dials.wake(at);
        true
    }

    /// A location that somebody told of: dialled once, if it is allowed, and not too many at a time.
    pub(super) fn dial_hint(&mut self, at: SocketAddr, after: Duration) -> bool {
        let is_dialled = self.dials.dials.get(&at).is_some_and(|dial| dial.conn.is_some());
        if is_dialled || !self.settings.may_dial(at) || self.settings.is_own(at) {
            return false;
        }
        if !self.dials.may_hint(self.now) {
            return false;
        }
        let until = self.now + after + Duration::from_secs(1);
        self.dials.dials.entry(at).or_insert_with(|| DialState { hinted: true, ..DialState::new(until) });
        self.timers.add(self.now + after, NodeTimer::Dial(at));
        true
    }

    /// A location that a peer told of because it was asked to: dialled for a while, if a node can be there.
    pub(super) fn dial_told(&mut self, at: SocketAddr, after: Duration) {
        if !self.settings.may_dial_asked(at) || self.settings.is_own(at) || self.is_connected_to(at) {
            return;
        }
        let until = self.now + after + TOLD_FOR;
        self.dials.dials.entry(at).or_insert_with(|| DialState::new(until));
        self.timers.add(self.now + after, NodeTimer::Dial(at));
    }

    /// Whether there is a session with the node at a location.
    pub(super) fn is_connected_to(&self, at: SocketAddr) -> bool {
        self.peers.values().any(|peer| peer.is_connected_to(at))
    }

    pub(super) fn start_dials(&mut self, driver: &mut impl Driver) {
        for (query, host, port) in self.dials.unasked.drain(..) {
            driver.output(Output::Resolve { query, host, port });
        }
        for at in std::mem::take(&mut self.dials.fresh) {
            let is_connected = self.is_connected(at);
            let Some(dial) = self.dials.dials.get_mut(&at).filter(|dial| dial.conn.is_none()) else {
                continue;
            };
            let is_needed = std::mem::take(&mut dial.renews) || !is_connected;
            let is_ignored = self.settings.ignores(at.ip());
            if is_needed && !is_ignored && !self.leaving && egress::allowed(&at).is_ok() {
                // Dialled below.
            } else if dial.forever && (is_connected || is_ignored) {
                // It has dialled this node: looked at again, in case that connection goes. Or it is not ignored later.
                self.timers.add(self.now + PAUSE_LAST, NodeTimer::Dial(at));
                continue;
            } else {
                self.dials.dials.remove(&at);
                continue;
            }
            let conn = self.connections.add(at, true, self.now);
            if let Some(dial) = self.dials.dials.get_mut(&at) {
                dial.conn = Some(conn);
                dial.attempts += 1;
            }
            self.limit(conn, self.settings.limits().handshake_timeout);
            driver.output(Output::Dial(conn, at));
        }
    }

    pub(super) fn on_dial_failed(&mut self, conn: ConnId, refused: bool, driver: &mut impl Driver) {
        let Some(gone) = self.remove_conn(conn) else { return };
        let Some(at) = gone.dialled else { return };
        let node = self.dials.node_at(at);
        self.dial_again(at, conn);
        if let Some(node) = node.filter(|_| refused) {
            self.on_location_refused(node, driver);
        }
    }

    /// An attempt at a location has come to nothing: the next follows after a pause, if anybody wants it.
    pub(super) fn dial_again(&mut self, at: SocketAddr, conn: ConnId) {
        let random = self.requests.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ conn.0;
        let Some(dial) = self.dials.dials.get_mut(&at).filter(|dial| dial.conn == Some(conn)) else { return };
        dial.conn = None;
        let waits = dial.node.is_some_and(|node| {
            self.peers
                .get(&node)
                .and_then(|peer| peer.peer_session.as_ref())
                .is_some_and(|peer_session| peer_session.conn.is_none())
        });
        let is_over = !dial.forever && self.now >= dial.until && !waits;
        let (is_hinted, attempts) = (dial.hinted, dial.attempts);
        if is_over || (is_hinted && !self.dials.may_hint(self.now)) {
            self.dials.dials.remove(&at);
            return;
        }
        let doubled = PAUSE_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(PAUSE_LAST);
        // A little apart from others who try the same.
        let pause = doubled + doubled.mul_f64((random % 256) as f64 / 1024.0);
        self.timers.add(self.now + pause, NodeTimer::Dial(at));
    }

    /// A dial was refused: by this side, which knows, or by the word of the other, which is not proven.
    pub(super) fn on_dial_refused(&mut self, at: SocketAddr, reason: Refusal, by_us: bool) {
        let harmless =
            matches!(reason, Refusal::Duplicate | Refusal::Superseded | Refusal::Busy | Refusal::Session);
        if !harmless {
            self.refuse_connect_requests(at, reason);
        }
        self.hurry_connect_requests(at);
        if reason == Refusal::SelfConnection && by_us {
            self.dials.dials.remove(&at);
        } else if let Some(dial) = self.dials.dials.get_mut(&at)
            && !harmless
            && !dial.forever
        {
            dial.until = self.now;
        }
    }

    /// A connection that was closed without a word.
    pub(super) fn log_refusal_of(&mut self, remote: SocketAddr, reason: &str) {
        if self.may_log("no proof", format_args!("{} {reason}", remote.ip())) {
            tracing::warn!(%remote, reason, "a connection was closed before its proof (said once an hour)");
        }
    }

    pub(super) fn log_refusal(&mut self, remote: SocketAddr, error: &HandshakeError) {
        if self.may_log("no connection", format_args!("{} {error}", remote.ip())) {
            tracing::warn!(%remote, %error, "no connection with this peer (said once an hour)");
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        query: u64,
        found: Result<Vec<SocketAddr>, String>,
        driver: &mut impl Driver,
    ) {
        let found = found.and_then(|all| match all.is_empty() {
            true => Err("it has no address".to_owned()),
            false => Ok(all),
        });
        match (self.dials.queries.remove(&query), found) {
            // One host may have several addresses, of which the node listens on one.
            (Some(ResolveFor::Configured(_)), Ok(all)) => {
                all.into_iter().for_each(|at| self.dial_for_ever(PeerAt::Location(at.into())));
            }
            (Some(ResolveFor::Configured(at)), Err(reason)) => {
                if self.may_log("not looked up", format_args!("{at} {reason}")) {
                    tracing::warn!(
                        %at, reason, "a configured peer cannot be looked up (said once an hour); tried again for ever"
                    );
                }
                self.dials.queries.insert(query, ResolveFor::Configured(at));
                self.timers.add(self.now + PAUSE_LAST, NodeTimer::LookUp(query));
            }
            (Some(ResolveFor::ConnectRequest(request_id, at)), Ok(all)) => {
                self.connect_request_host(request_id, at, all, driver)
            }
            (Some(ResolveFor::ConnectRequest(request_id, at)), Err(reason)) => {
                self.complete_connect_request(request_id, Err(PeerError::UnknownHost { at, reason }), driver);
            }
            (None, _) => {}
        }
    }

    /// Looks a configured host up once more.
    pub(super) fn on_look_up(&mut self, query: u64) {
        if let Some(ResolveFor::Configured(PeerAt::Host(host, port))) = self.dials.queries.get(&query) {
            self.dials.unasked.push((query, host.clone(), *port));
        }
    }
}
