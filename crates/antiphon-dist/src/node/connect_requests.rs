//! Connect requests: open calls of `peer`.
//!
//! Invariant: each request has a timer and completes once: when its node is connected or refuses, when the nodes of its
//! host are collected, or when it times out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time};
use antiphon_wire::Refusal;

use super::dialer::ResolveFor;
use super::driver::Driver;
use super::peer::Peer;
use super::timers::NodeTimer;
use super::{NodeCore, complete_if_open};
use crate::error::{DialError, PeerError};
use crate::location::{Location, PeerAt, PeerOptions};

/// How long a request waits for further nodes of a host after the last one was found.
const COLLECT_FOR: Duration = Duration::from_millis(250);
/// The same while some of the nodes that were found are not connected.
const COLLECT_UNCONNECTED_FOR: Duration = Duration::from_secs(1);
/// How long the request for a location that a connected node states waits for a dial to find it there.
const CHECK_STATED_FOR: Duration = Duration::from_secs(1);
/// Nodes of one host.
const NODES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct ConnectRequests {
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
    pub(super) fn are_open_for(&self, at: SocketAddr) -> bool {
        self.open.values().any(|request| request.locations.contains(&at))
    }
}

impl NodeCore {
    /// Connects to a peer for an actor. Returns the result if it is known now; otherwise the request completes later.
    pub(crate) fn open_connect_request(
        &mut self,
        request_id: RequestId,
        at: PeerAt,
        options: PeerOptions,
        timeout: Duration,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        let (now, until) = (self.cx.now, self.cx.now + timeout);
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
        if let PeerAt::Location(location) = at
            && let Some(result) = self.known_connect_result(location.addr(), options)
        {
            return Some(result);
        }
        self.connect_requests.open.insert(request_id, request);
        self.cx.timers.add(until, NodeTimer::ConnectRequest(request_id));
        match at {
            PeerAt::Location(location) => self.start_connect_request(request_id, &[location.addr()]),
            PeerAt::Host(ref host, tcp_port) => {
                let query = self.cx.next_number();
                self.dialer.unsent_queries.push((query, host.clone(), tcp_port));
                self.dialer.queries.insert(query, ResolveFor::ConnectRequest(request_id, at));
            }
        }
        None
    }

    /// The result for a location, if it is known without a dial.
    fn known_connect_result(
        &mut self,
        at: SocketAddr,
        options: PeerOptions,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        if let Err(reason) = (self.cx.settings.may_contact)(&at) {
            return Some(Err(reason.into()));
        }
        if self.cx.settings.ignores(at.ip()) {
            return Some(Err(PeerError::Refused(Refusal::Ignored)));
        }
        if self.cx.settings.is_own(at) {
            return Some(Err(PeerError::Refused(Refusal::SelfConnection)));
        }
        if at.port() == 0 || !self.peers.has_session_at(at) {
            return None;
        }
        if let Some(streams) = options.stream_send {
            self.set_stream_send(at, streams);
        }
        if self.reopen_at(at) {
            // The new connection shows whether the peer still runs.
            return None;
        }
        if !self.peers.has_reached(at) {
            // A dial shows whether the node that states the location is there.
            return None;
        }
        if options.broadcast {
            self.request_announce_relay(at);
        }
        Some(Ok(vec![Location::new(at)]))
    }

    /// Dials the addresses with a port, and probes the hosts of the addresses with port 0.
    fn start_connect_request(&mut self, request_id: RequestId, all: &[SocketAddr]) {
        let Some(request) = self.connect_requests.open.get_mut(&request_id) else { return };
        let until = request.until;
        let udp_port = request.options.udp_port.unwrap_or(self.cx.settings.udp_port);
        let (hosts, locations): (Vec<SocketAddr>, Vec<SocketAddr>) =
            all.iter().partition(|at| at.port() == 0);
        request.locations.clone_from(&locations);
        request.hosts = hosts;
        request.hosts.iter_mut().for_each(|host| host.set_port(udp_port));
        let hosts = request.hosts.clone();
        hosts.into_iter().for_each(|host| self.probe_host(host, until));
        locations.into_iter().for_each(|at| self.dial_until(at, until));
    }

    /// The host of a connect request was resolved.
    pub(super) fn on_connect_request_resolved(
        &mut self,
        request_id: RequestId,
        at: PeerAt,
        all: Vec<SocketAddr>,
        driver: &mut impl Driver,
    ) {
        let refused = all.iter().find_map(|at| (self.cx.settings.may_contact)(at).err());
        let allowed: Vec<SocketAddr> =
            all.into_iter().filter(|at| (self.cx.settings.may_contact)(at).is_ok()).collect();
        if let Some(reason) = refused.filter(|_| allowed.is_empty()) {
            tracing::debug!(%at, "this process may not contact any address of the host");
            return self.complete_connect_request(request_id, Err(reason.into()), driver);
        }
        if let Some(connected) = allowed.iter().find(|at| at.port() != 0 && self.peers.has_reached(**at)) {
            return self.complete_connect_request(request_id, Ok(vec![Location::new(*connected)]), driver);
        }
        self.start_connect_request(request_id, &allowed);
    }

    /// A probed host has a node at this location.
    pub(super) fn found_on_host(&mut self, host: SocketAddr, at: SocketAddr) {
        let now = self.cx.now;
        let mut found = Vec::new();
        let requests = self.connect_requests.open.iter_mut();
        for (request_id, request) in requests.filter(|(_, request)| request.hosts.contains(&host)) {
            if !request.locations.contains(&at) && request.locations.len() < NODES_MAX {
                request.locations.push(at);
                request.last_found = now;
                found.push(*request_id);
            }
        }
        found.into_iter().for_each(|request_id| self.arm_connect_request(request_id, now + COLLECT_FOR));
    }

    /// Moves the timer of a connect request, at most to the end of its timeout.
    fn arm_connect_request(&mut self, request_id: RequestId, due: Time) {
        let Some(request) = self.connect_requests.open.get_mut(&request_id) else { return };
        self.cx.timers.remove(request.due, NodeTimer::ConnectRequest(request_id));
        request.due = due.min(request.until);
        self.cx.timers.add(request.due, NodeTimer::ConnectRequest(request_id));
    }

    /// A dial of a location has failed. The requests that wait for it complete with this reason: at once if it lasts.
    pub(super) fn note_dial_error(&mut self, at: SocketAddr, error: DialError, is_lasting: bool) {
        let requests = self.connect_requests.open.values_mut();
        for request in requests.filter(|request| request.locations.contains(&at)) {
            // A reason that lasts says more than one that may pass.
            if is_lasting || request.failed.is_empty() {
                request.failure = Some(error);
            }
            if is_lasting {
                request.failed.insert(at);
            }
        }
        self.fail_lookups_at(at, error, is_lasting);
    }

    /// Completes the requests for a location in the same tick, if it is connected or has refused.
    pub(super) fn recheck_connect_requests(&mut self, at: SocketAddr) {
        let has_session = self.peers.has_session_at(at);
        let is_decided = |request: &ConnectRequest| request.has_failed() || has_session;
        let requests = self.connect_requests.open.iter();
        let decided = requests.filter(|(_, request)| request.locations.contains(&at) && is_decided(request));
        let due: Vec<RequestId> = decided.map(|(request_id, _)| *request_id).collect();
        due.into_iter().for_each(|request_id| self.arm_connect_request(request_id, self.cx.now));
    }

    /// A session was proven: completes the requests for the locations of its peer.
    pub(super) fn complete_connect_requests(&mut self, node: NodeId, dialled: Option<SocketAddr>) {
        let Some(peer) = self.peers.get(node) else { return };
        let reached = |at: &SocketAddr| Some(*at) == dialled || peer.has_session_at(*at);
        let requests = self.connect_requests.open.iter();
        let connected = requests.filter(|(_, request)| request.locations.iter().any(reached));
        let due: Vec<RequestId> = connected.map(|(request_id, _)| *request_id).collect();
        due.into_iter().for_each(|request_id| self.arm_connect_request(request_id, self.cx.now));
    }

    pub(super) fn on_connect_request_due(&mut self, request_id: RequestId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(request) = self.connect_requests.open.get(&request_id) else { return };
        let counts_stated = !request.hosts.is_empty()
            || request.has_failed()
            || now >= request.until.min(request.since + CHECK_STATED_FOR);
        let location = |at: &SocketAddr| self.connected_location(*at, counts_stated);
        let mut connected: Vec<Location> = request.locations.iter().filter_map(location).collect();
        connected.sort_unstable();
        connected.dedup();
        if now < request.until && request.waits(connected.len(), now) {
            let again = if request.locations.is_empty() { request.until } else { now + COLLECT_FOR };
            return self.arm_connect_request(request_id, again);
        }
        let result = match request.failure {
            _ if !connected.is_empty() => Ok(connected),
            Some(DialError::Refused(refusal)) => Err(PeerError::Refused(refusal)),
            Some(error) => Err(PeerError::Unreachable(error)),
            None => Err(PeerError::NoAnswer),
        };
        self.complete_connect_request(request_id, result, driver);
    }

    /// The location that the node connected at `at` is shown with. A node that only states the location counts with `counts_stated`,
    /// if no other was reached there.
    fn connected_location(&self, at: SocketAddr, counts_stated: bool) -> Option<Location> {
        let is_connected =
            |peer: &Peer| peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.conn.is_some());
        let connected = || self.peers.at(at).filter(|peer| is_connected(peer));
        let reached = connected().find(|peer| peer.was_reached_at(at));
        let stated = || connected().find(|peer| counts_stated && peer.has_session_at(at));
        reached.or_else(stated)?.location()
    }

    pub(super) fn complete_connect_request(
        &mut self,
        request_id: RequestId,
        result: Result<Vec<Location>, PeerError>,
        driver: &mut impl Driver,
    ) {
        let Some(request) = self.connect_requests.open.remove(&request_id) else { return };
        self.cx.timers.remove(request.due, NodeTimer::ConnectRequest(request_id));
        self.dialer
            .queries
            .retain(|_, query| !matches!(query, ResolveFor::ConnectRequest(id, _) if *id == request_id));
        for host in &request.hosts {
            if !self.connect_requests.open.values().any(|other| other.hosts.contains(host)) {
                self.forget_host(*host);
            }
        }
        if let Some(streams) = request.options.stream_send {
            result.iter().flatten().for_each(|at| self.set_stream_send(at.addr(), streams));
        }
        if let Some(first) = result.iter().flatten().next().filter(|_| request.options.broadcast) {
            self.request_announce_relay(first.addr());
        }
        complete_if_open(driver.local().requests(), request_id, result);
    }
}
