//! Connect requests: open calls of `peer`.
//!
//! Invariant: each request has a timer and completes once: when its node is connected or refuses, when the nodes of its
//! host are collected, or when it times out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time};

use crate::error::{DialError, PeerError};
use crate::location::{Location, PeerOptions};
use crate::node::context::NodeCx;
use crate::node::peer::Peer;
use crate::node::peers::Peers;
use crate::node::timers::NodeTimer;

/// How long a request waits for further nodes of a host after the last one was found.
const COLLECT_FOR: Duration = Duration::from_millis(250);
/// The same while some of the nodes that were found are not connected.
const COLLECT_UNCONNECTED_FOR: Duration = Duration::from_secs(1);
/// How long the request for a location that a connected node states waits for a dial to find it there.
const CHECK_STATED_FOR: Duration = Duration::from_secs(1);
/// Nodes of one host.
const NODES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(in crate::node) struct ConnectRequests {
    open: BTreeMap<RequestId, ConnectRequest>,
}

#[derive(Debug)]
struct ConnectRequest {
    /// The location of the node; for a host, the locations of its nodes that were found so far.
    locations: Vec<SocketAddr>,
    /// The addresses of the hosts that are probed; empty when the location of the node is known.
    hosts: Vec<SocketAddr>,
    options: PeerOptions,
    since: Time,
    until: Time,
    /// The time of its timer.
    due: Time,
    /// When a node was found last.
    last_found: Time,
    /// Why the last dial failed that had a known reason.
    failure: Option<DialError>,
    /// The locations of which a further dial would fail in the same way.
    failed: BTreeSet<SocketAddr>,
}

impl ConnectRequest {
    /// Whether further dials of all locations would fail.
    fn has_failed(&self) -> bool {
        !self.failed.is_empty() && self.locations.iter().all(|at| self.failed.contains(at))
    }

    /// Whether the request waits for further nodes, when `connected` of its nodes are connected.
    fn waits(&self, connected: usize, now: Time) -> bool {
        let wait = match connected {
            0 if !self.has_failed() => return true,
            _ if self.hosts.is_empty() => return false,
            _ if connected < self.locations.len() && !self.has_failed() => COLLECT_UNCONNECTED_FOR,
            _ => COLLECT_FOR,
        };
        now.since(self.last_found) < wait
    }
}

impl ConnectRequests {
    /// Whether a request waits for a connection to this location.
    pub(in crate::node) fn are_open_for(&self, at: SocketAddr) -> bool {
        self.open.values().any(|request| request.locations.contains(&at))
    }
}

impl ConnectRequests {
    /// Adds a request. Its targets follow when they are known.
    pub(in crate::node) fn add(
        &mut self,
        cx: &mut NodeCx,
        request_id: RequestId,
        options: PeerOptions,
        timeout: Duration,
    ) {
        let (now, until) = (cx.now, cx.now + timeout);
        let request = ConnectRequest {
            locations: Vec::new(),
            hosts: Vec::new(),
            options,
            since: now,
            until,
            due: until,
            last_found: now,
            failure: None,
            failed: BTreeSet::new(),
        };
        self.open.insert(request_id, request);
        cx.timers.add(until, NodeTimer::ConnectRequest(request_id));
    }

    /// Sets the addresses of a request: those with a port are dialled, and port 0 stands for all nodes of the host.
    pub(in crate::node) fn set_targets(
        &mut self,
        cx: &NodeCx,
        request_id: RequestId,
        all: &[SocketAddr],
    ) -> Option<ConnectTargets> {
        let request = self.open.get_mut(&request_id)?;
        let udp_port = request.options.udp_port.unwrap_or(cx.settings.udp_port);
        let (hosts, locations): (Vec<SocketAddr>, Vec<SocketAddr>) =
            all.iter().partition(|at| at.port() == 0);
        request.locations.clone_from(&locations);
        request.hosts = hosts;
        request.hosts.iter_mut().for_each(|host| host.set_port(udp_port));
        Some(ConnectTargets { hosts: request.hosts.clone(), locations, until: request.until })
    }

    /// The timer of a request has fired. Returns its result, or `None` if it waits further.
    pub(in crate::node) fn on_due(
        &mut self,
        cx: &mut NodeCx,
        peers: &Peers,
        request_id: RequestId,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        let now = cx.now;
        let request = self.open.get(&request_id)?;
        let counts_stated = !request.hosts.is_empty()
            || request.has_failed()
            || now >= request.until.min(request.since + CHECK_STATED_FOR);
        let location = |at: &SocketAddr| connected_location(peers, *at, counts_stated);
        let mut connected: Vec<Location> = request.locations.iter().filter_map(location).collect();
        connected.sort_unstable();
        connected.dedup();
        if now < request.until && request.waits(connected.len(), now) {
            let again = if request.locations.is_empty() { request.until } else { now + COLLECT_FOR };
            self.arm(cx, request_id, again);
            return None;
        }
        Some(match request.failure {
            _ if !connected.is_empty() => Ok(connected),
            Some(DialError::Refused(refusal)) => Err(PeerError::Refused(refusal)),
            Some(error) => Err(PeerError::Unreachable(error)),
            None => Err(PeerError::NoAnswer),
        })
    }

    /// Removes a request that completes.
    pub(in crate::node) fn remove(
        &mut self,
        cx: &mut NodeCx,
        request_id: RequestId,
    ) -> Option<ClosedConnectRequest> {
        let request = self.open.remove(&request_id)?;
        cx.timers.remove(request.due, NodeTimer::ConnectRequest(request_id));
        let is_unused = |host: &SocketAddr| !self.open.values().any(|other| other.hosts.contains(host));
        let unused_hosts = request.hosts.into_iter().filter(is_unused).collect();
        Some(ClosedConnectRequest { options: request.options, unused_hosts })
    }

    /// A probed host has a node at this location.
    pub(in crate::node) fn found_on_host(&mut self, cx: &mut NodeCx, host: SocketAddr, at: SocketAddr) {
        let now = cx.now;
        let mut found = Vec::new();
        let requests = self.open.iter_mut();
        for (request_id, request) in requests.filter(|(_, request)| request.hosts.contains(&host)) {
            if !request.locations.contains(&at) && request.locations.len() < NODES_MAX {
                request.locations.push(at);
                request.last_found = now;
                found.push(*request_id);
            }
        }
        found.into_iter().for_each(|request_id| self.arm(cx, request_id, now + COLLECT_FOR));
    }

    /// Moves the timer of a connect request, at most to the end of its timeout.
    fn arm(&mut self, cx: &mut NodeCx, request_id: RequestId, due: Time) {
        let Some(request) = self.open.get_mut(&request_id) else { return };
        cx.timers.remove(request.due, NodeTimer::ConnectRequest(request_id));
        request.due = due.min(request.until);
        cx.timers.add(request.due, NodeTimer::ConnectRequest(request_id));
    }

    /// A dial of a location has failed. The requests that wait for it complete with this reason: at once if it lasts.
    pub(in crate::node) fn note_dial_error(&mut self, at: SocketAddr, error: DialError, is_lasting: bool) {
        let requests = self.open.values_mut();
        for request in requests.filter(|request| request.locations.contains(&at)) {
            // A reason that lasts says more than one that may pass.
            if is_lasting || request.failed.is_empty() {
                request.failure = Some(error);
            }
            if is_lasting {
                request.failed.insert(at);
            }
        }
    }

    /// Completes the requests for a location in the same tick, if it is connected or has refused.
    pub(in crate::node) fn recheck(&mut self, cx: &mut NodeCx, peers: &Peers, at: SocketAddr) {
        let has_session = peers.has_session_at(at);
        let is_decided = |request: &ConnectRequest| request.has_failed() || has_session;
        let requests = self.open.iter();
        let decided = requests.filter(|(_, request)| request.locations.contains(&at) && is_decided(request));
        let due: Vec<RequestId> = decided.map(|(request_id, _)| *request_id).collect();
        due.into_iter().for_each(|request_id| self.arm(cx, request_id, cx.now));
    }

    /// A session was proven: completes the requests for the locations of its peer.
    pub(in crate::node) fn note_connected(
        &mut self,
        cx: &mut NodeCx,
        peers: &Peers,
        node: NodeId,
        dialled: Option<SocketAddr>,
    ) {
        let Some(peer) = peers.get(node) else { return };
        let reached = |at: &SocketAddr| Some(*at) == dialled || peer.has_session_at(*at);
        let requests = self.open.iter();
        let connected = requests.filter(|(_, request)| request.locations.iter().any(reached));
        let due: Vec<RequestId> = connected.map(|(request_id, _)| *request_id).collect();
        due.into_iter().for_each(|request_id| self.arm(cx, request_id, cx.now));
    }
}

/// The addresses of a connect request.
pub(in crate::node) struct ConnectTargets {
    /// The hosts to probe.
    pub(in crate::node) hosts: Vec<SocketAddr>,
    /// The locations to dial.
    pub(in crate::node) locations: Vec<SocketAddr>,
    pub(in crate::node) until: Time,
}

/// A connect request that completes.
pub(in crate::node) struct ClosedConnectRequest {
    pub(in crate::node) options: PeerOptions,
    /// The hosts that no other request needs.
    pub(in crate::node) unused_hosts: Vec<SocketAddr>,
}

/// The location that the node connected at `at` is shown with. A node that only states the location counts with `counts_stated`,
/// if no other was reached there.
fn connected_location(peers: &Peers, at: SocketAddr, counts_stated: bool) -> Option<Location> {
    let is_connected = |peer: &Peer| peer.session().is_some_and(|peer_session| peer_session.is_connected());
    let connected = || peers.at(at).filter(|peer| is_connected(peer));
    let reached = connected().find(|peer| peer.was_reached_at(at));
    let stated = || connected().find(|peer| counts_stated && peer.has_session_at(at));
    reached.or_else(stated)?.location()
}
