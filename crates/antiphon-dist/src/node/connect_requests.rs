//! Calls of `peer` that wait for their answer.
//!
//! Invariant: each is on the agenda, and is answered once: when its node is connected or refuses, when the nodes of its
//! host are gathered, or when its time is over.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time, egress};
use antiphon_wire::Refusal;

use super::dialer::ResolveFor;
use super::driver::Driver;
use super::peers::Peer;
use super::timers::NodeTimer;
use super::{NodeCore, settle};
use crate::error::PeerError;
use crate::location::{Location, PeerAt, PeerOptions};

/// How long after the last news of a host more nodes are expected there.
const GATHER: Duration = Duration::from_millis(250);
/// How long those are waited for that were found, and are not connected.
const GATHER_MOST: Duration = Duration::from_secs(1);
/// Nodes of one host.
const NODES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct ConnectRequests {
    open: BTreeMap<RequestId, ConnectRequest>,
}

#[derive(Debug)]
struct ConnectRequest {
    /// Where the node is; of a host, where its nodes are, as far as they are found.
    at: Vec<SocketAddr>,
    /// Where it is asked who is there; empty when the node's own location is known.
    hosts: Vec<SocketAddr>,
    options: PeerOptions,
    until: Time,
    /// When it is on the agenda.
    due: Time,
    /// When something was found last.
    news: Time,
    refused: Option<Refusal>,
}

impl ConnectRequest {
    /// Whether something else may come, when so many of its nodes are connected.
    fn waits(&self, connected: usize, now: Time) -> bool {
        let patience = match (connected, self.refused) {
            (0, None) => return true,
            _ if self.hosts.is_empty() => return false,
            _ if connected < self.at.len() && self.refused.is_none() => GATHER_MOST,
            _ => GATHER,
        };
        now.since(self.news) < patience
    }
}

impl NodeCore {
    /// Contacts a peer for an actor: answered now, or by the port.
    pub(crate) fn connect_request(
        &mut self,
        request_id: RequestId,
        at: PeerAt,
        options: PeerOptions,
        timeout: Duration,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        let (now, until) = (self.now, self.now + timeout);
        let connect_request = ConnectRequest {
            at: Vec::new(),
            hosts: Vec::new(),
            options,
            until,
            due: until,
            news: now,
            refused: None,
        };
        if let PeerAt::Location(location) = at
            && let Some(result) = self.connect_request_now(location.addr(), options)
        {
            return Some(result);
        }
        self.connect_requests.open.insert(request_id, connect_request);
        self.timers.add(until, NodeTimer::ConnectRequest(request_id));
        match at {
            PeerAt::Location(location) => self.connect_request_at(request_id, &[location.addr()]),
            PeerAt::Host(ref host, tcp_port) => {
                let query = self.next_request();
                self.dials.unasked.push((query, host.clone(), tcp_port));
                self.dials.queries.insert(query, ResolveFor::ConnectRequest(request_id, at));
            }
        }
        None
    }

    /// What is known of a location without asking.
    fn connect_request_now(
        &mut self,
        at: SocketAddr,
        options: PeerOptions,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        if let Err(reason) = egress::allowed(&at) {
            return Some(Err(reason.into()));
        }
        if self.settings.ignores(at.ip()) {
            return Some(Err(PeerError::Refused(Refusal::Ignored)));
        }
        if self.settings.is_own(at) {
            return Some(Err(PeerError::Refused(Refusal::SelfConnection)));
        }
        if at.port() == 0 || !self.is_connected_to(at) {
            return None;
        }
        if let Some(streams) = options.stream_send {
            self.streams_of(at, streams);
        }
        if self.wakes_at(at) {
            // Whether it is still there shows now.
            return None;
        }
        if options.broadcast {
            self.ask_announce_relay(at);
        }
        Some(Ok(vec![Location::new(at)]))
    }

    /// Dials the addresses at which a node may be; of port 0, asks them who is there.
    fn connect_request_at(&mut self, request_id: RequestId, all: &[SocketAddr]) {
        let Some(connect_request) = self.connect_requests.open.get_mut(&request_id) else { return };
        let (until, udp_port) =
            (connect_request.until, connect_request.options.udp_port.unwrap_or(self.settings.udp_port));
        let (hosts, at): (Vec<SocketAddr>, Vec<SocketAddr>) = all.iter().partition(|at| at.port() == 0);
        connect_request.at.clone_from(&at);
        connect_request.hosts = hosts;
        connect_request.hosts.iter_mut().for_each(|host| host.set_port(udp_port));
        let hosts = connect_request.hosts.clone();
        hosts.into_iter().for_each(|host| self.probe_host(host, until));
        at.into_iter().for_each(|at| self.dial_once(at, until));
    }

    /// A host that an actor wants to contact was looked up.
    pub(super) fn connect_request_host(
        &mut self,
        request_id: RequestId,
        at: PeerAt,
        all: Vec<SocketAddr>,
        driver: &mut impl Driver,
    ) {
        let refused = all.iter().find_map(|at| egress::allowed(at).err());
        let allowed: Vec<SocketAddr> = all.into_iter().filter(|at| egress::allowed(at).is_ok()).collect();
        if let Some(reason) = refused.filter(|_| allowed.is_empty()) {
            tracing::debug!(%at, "all its addresses are refused");
            return self.complete_connect_request(request_id, Err(reason.into()), driver);
        }
        if let Some(there) = allowed.iter().find(|at| at.port() != 0 && self.is_connected_to(**at)) {
            return self.complete_connect_request(request_id, Ok(vec![Location::new(*there)]), driver);
        }
        self.connect_request_at(request_id, &allowed);
    }

    /// A host that was asked has a node at this location.
    pub(super) fn found_on_host(&mut self, host: SocketAddr, at: SocketAddr) {
        let now = self.now;
        let mut found = Vec::new();
        for (request_id, connect_request) in self
            .connect_requests
            .open
            .iter_mut()
            .filter(|(_, connect_request)| connect_request.hosts.contains(&host))
        {
            if !connect_request.at.contains(&at) && connect_request.at.len() < NODES_MAX {
                connect_request.at.push(at);
                connect_request.news = now;
                found.push(*request_id);
            }
        }
        found.into_iter().for_each(|request_id| self.arm_connect_request(request_id, now + GATHER));
    }

    /// Looks at a contact again then.
    fn arm_connect_request(&mut self, request_id: RequestId, due: Time) {
        let Some(connect_request) = self.connect_requests.open.get_mut(&request_id) else { return };
        self.timers.remove(connect_request.due, NodeTimer::ConnectRequest(request_id));
        connect_request.due = due.min(connect_request.until);
        self.timers.add(connect_request.due, NodeTimer::ConnectRequest(request_id));
    }

    /// A dial of a location was refused for a reason that stays.
    pub(super) fn refuse_connect_requests(&mut self, at: SocketAddr, reason: Refusal) {
        for connect_request in
            self.connect_requests.open.values_mut().filter(|connect_request| connect_request.at.contains(&at))
        {
            connect_request.refused = Some(reason);
        }
    }

    /// What became of a location is told in the same tick.
    pub(super) fn hurry_connect_requests(&mut self, at: SocketAddr) {
        let linked = self.is_connected_to(at);
        let is_over = |connect_request: &ConnectRequest| connect_request.refused.is_some() || linked;
        let about = self
            .connect_requests
            .open
            .iter()
            .filter(|(_, connect_request)| connect_request.at.contains(&at) && is_over(connect_request));
        let due: Vec<RequestId> = about.map(|(request_id, _)| *request_id).collect();
        due.into_iter().for_each(|request_id| self.arm_connect_request(request_id, self.now));
    }

    /// A session was proven: calls of `peer` for its locations are answered.
    pub(super) fn complete_connect_requests(&mut self, node: NodeId, dialled: Option<SocketAddr>) {
        let Some(peer) = self.peers.get(&node) else { return };
        let reached = |at: &SocketAddr| Some(*at) == dialled || peer.is_connected_to(*at);
        let about = self
            .connect_requests
            .open
            .iter()
            .filter(|(_, connect_request)| connect_request.at.iter().any(reached));
        let due: Vec<RequestId> = about.map(|(request_id, _)| *request_id).collect();
        due.into_iter().for_each(|request_id| self.arm_connect_request(request_id, self.now));
    }

    pub(super) fn on_connect_request_due(&mut self, request_id: RequestId, driver: &mut impl Driver) {
        let now = self.now;
        let Some(connect_request) = self.connect_requests.open.get(&request_id) else { return };
        let mut there: Vec<Location> =
            connect_request.at.iter().filter_map(|at| self.connected_location(*at)).collect();
        there.sort_unstable();
        there.dedup();
        if now < connect_request.until && connect_request.waits(there.len(), now) {
            let again = if connect_request.at.is_empty() { connect_request.until } else { now + GATHER };
            return self.arm_connect_request(request_id, again);
        }
        let result = match connect_request.refused {
            _ if !there.is_empty() => Ok(there),
            Some(refusal) => Err(PeerError::Refused(refusal)),
            None => Err(PeerError::NoAnswer),
        };
        self.complete_connect_request(request_id, result, driver);
    }

    /// Where the node is shown that is connected at a location.
    fn connected_location(&self, at: SocketAddr) -> Option<Location> {
        let is_connected =
            |peer: &Peer| peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.conn.is_some());
        self.peers.values().find(|peer| peer.is_connected_to(at) && is_connected(peer))?.location()
    }

    pub(super) fn complete_connect_request(
        &mut self,
        request_id: RequestId,
        result: Result<Vec<Location>, PeerError>,
        driver: &mut impl Driver,
    ) {
        let Some(connect_request) = self.connect_requests.open.remove(&request_id) else { return };
        self.timers.remove(connect_request.due, NodeTimer::ConnectRequest(request_id));
        self.dials
            .queries
            .retain(|_, query| !matches!(query, ResolveFor::ConnectRequest(of, _) if *of == request_id));
        for host in &connect_request.hosts {
            if !self.connect_requests.open.values().any(|other| other.hosts.contains(host)) {
                self.forget_host(*host);
            }
        }
        if let Some(streams) = connect_request.options.stream_send {
            result.iter().flatten().for_each(|at| self.streams_of(at.addr(), streams));
        }
        if let Some(first) = result.iter().flatten().next().filter(|_| connect_request.options.broadcast) {
            self.ask_announce_relay(first.addr());
        }
        settle(&mut driver.loop_ref(), request_id, result);
    }
}
