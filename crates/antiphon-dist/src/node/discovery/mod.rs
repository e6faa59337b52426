//! Discovery: how this node finds other nodes and connects to them. It owns the dialer, the open connect requests, the probes of
//! hosts, and the announce relays; here is what needs more than one of them.
//!
//! Nodes find each other by announcements on a shared UDP port. A datagram is a hint: it can cause one dial at most, and the
//! dialer limits these dials per second.

pub(super) mod announce_relay;
pub(super) mod connect_requests;
pub(super) mod dial_hints;
pub(super) mod dialer;
pub(super) mod host_discovery;

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, RequestId, Time};
use antiphon_wire::frame::NodeAt;
use antiphon_wire::{Datagram, DatagramError, Locations, Presence, ProbeReply, Refusal};

use crate::error::PeerError;
use crate::location::{Location, PeerAt, PeerOptions, seen_from};
use crate::node::complete_if_open;
use crate::node::context::NodeCx;
use crate::node::driver::Driver;
use crate::node::peer::Peer;
use crate::node::peer::session::PeerSession;
use crate::node::peers::Peers;
use crate::node::timers::NodeTimer;
use announce_relay::AnnounceRelays;
use connect_requests::ConnectRequests;
use dialer::{Dialer, ResolveFor};
use host_discovery::HostProbes;

/// The first pauses between announcements. They are short, because other nodes may start at the same moment.
const ANNOUNCE_AFTER: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(3)];
/// The pause between later announcements.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);
/// Dials of announced nodes and replies to probes wait for a random time. Its maximum is this for each known peer.
const SPREAD: Duration = Duration::from_millis(1);
/// With fewer peers than this, there is no wait.
const SPREAD_OVER: usize = 16;

/// How this node finds other nodes.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    /// The number of announcements so far.
    announced: usize,
    pub(super) dialer: Dialer,
    pub(super) requests: ConnectRequests,
    pub(super) probes: HostProbes,
    pub(super) relays: AnnounceRelays,
}

impl Discovery {
    /// Broadcasts an announcement of this node, and sets the timer of the next one.
    pub(super) fn announce(&mut self, cx: &mut NodeCx, driver: &mut impl Driver) {
        if !cx.settings.discover || cx.leaving {
            return;
        }
        cx.broadcast(&Datagram::Announce(cx.presence()), driver);
        let pause = ANNOUNCE_AFTER.get(self.announced).copied().unwrap_or(ANNOUNCE_EVERY);
        self.announced += 1;
        cx.timers.add(cx.now + pause, NodeTimer::Announce);
    }

    pub(super) fn on_datagram(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        (from, bytes): (SocketAddr, &[u8]),
        driver: &mut impl Driver,
    ) {
        if cx.settings.ignores(from.ip()) || cx.leaving {
            return;
        }
        match Datagram::decode(cx.settings.datagram_key.as_ref(), bytes) {
            Ok(Datagram::Announce(_) | Datagram::Probe(_)) if cx.settings.ignores_unknown_nodes => {}
            Ok(Datagram::Announce(presence)) => self.on_announce(cx, peers, &presence, from),
            Ok(Datagram::Probe(probe)) => self.probes.on_probe(cx, peers, &probe, from, driver),
            Ok(Datagram::ProbeReply(reply)) => self.on_probe_reply(cx, peers, &reply, from),
            // A leaving peer sends a goodbye in its session. A datagram ends no session.
            Ok(Datagram::Bye { .. }) => {}
            Err(reason) => refuse_datagram(cx, from, &reason),
        }
    }

    fn on_announce(&mut self, cx: &mut NodeCx, peers: &mut Peers, presence: &Presence<'_>, from: SocketAddr) {
        let node = presence.node;
        // A node that was never met may have been named at a location where another one is.
        let is_replaced = |peer: &Peer| peer.is_replaced() && peer.state.was_met();
        let is_known = |peer: &Peer| peer.session().is_some() || is_replaced(peer) || peer.no_auto_dial;
        if !cx.settings.discover || node == cx.me || peers.get(node).is_some_and(is_known) {
            return;
        }
        let spread = spread(cx, peers, node.to_bits());
        for at in seen_from(presence.locations.iter(), from) {
            if self.dialer.dial_hint(cx, peers, node, at, from, spread) {
                return;
            }
        }
    }

    /// Dials a configured peer, now and whenever it is not connected.
    pub(super) fn dial_configured(&mut self, cx: &mut NodeCx, at: PeerAt) {
        match at {
            PeerAt::Location(at) => {
                let mut at = at.addr();
                if at.port() == 0 {
                    at.set_port(cx.settings.udp_port);
                    self.probes.probe_host(cx, at, Time::MAX);
                } else {
                    self.dialer.dial_always(cx, at);
                }
            }
            PeerAt::Host(ref host, port) => {
                let host = host.clone();
                self.dialer.resolve(cx, host, port, ResolveFor::Configured(at));
            }
        }
    }

    /// Handles the result of a host query.
    pub(super) fn on_resolved(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        (query, found): (u64, Result<Vec<SocketAddr>, String>),
        driver: &mut impl Driver,
    ) {
        let found =
            found.and_then(|all| if all.is_empty() { Err("it has no address".to_owned()) } else { Ok(all) });
        match (self.dialer.take_query(query), found) {
            // A host may have several addresses, and the node listens on one of them.
            (Some(ResolveFor::Configured(_)), Ok(all)) => {
                all.into_iter().for_each(|at| self.dial_configured(cx, PeerAt::Location(at.into())));
            }
            (Some(ResolveFor::Configured(at)), Err(reason)) => {
                if cx.may_log("not resolved", format_args!("{at} {reason}")) {
                    tracing::warn!(
                        %at, reason,
                        "the host of a configured peer cannot be resolved; the node keeps trying (logged at most once an hour)"
                    );
                }
                self.dialer.resolve_later(cx, query, ResolveFor::Configured(at));
            }
            (Some(ResolveFor::ConnectRequest(request_id, at)), Ok(all)) => {
                self.on_connect_request_resolved(cx, peers, (request_id, at, all), driver)
            }
            (Some(ResolveFor::ConnectRequest(request_id, at)), Err(reason)) => {
                let result = Err(PeerError::UnknownHost { at, reason });
                self.complete_connect_request(cx, peers, request_id, result, driver);
            }
            (None, _) => {}
        }
    }

    /// Connects to a peer for an actor. Returns the result if it is known now; otherwise the request completes later.
    pub(super) fn connect(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        (request_id, at): (RequestId, PeerAt),
        options: PeerOptions,
        timeout: Duration,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        if let PeerAt::Location(location) = at
            && let Some(result) = self.known_connect_result(cx, peers, location.addr(), options)
        {
            return Some(result);
        }
        self.requests.add(cx, request_id, options, timeout);
        match at {
            PeerAt::Location(location) => self.start_connect_request(cx, request_id, &[location.addr()]),
            PeerAt::Host(ref host, port) => {
                let host = host.clone();
                self.dialer.resolve(cx, host, port, ResolveFor::ConnectRequest(request_id, at));
            }
        }
        None
    }

    /// The result for a location, if it is known without a dial.
    fn known_connect_result(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        at: SocketAddr,
        options: PeerOptions,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        if let Err(reason) = (cx.settings.may_contact)(&at) {
            return Some(Err(reason.into()));
        }
        if cx.settings.ignores(at.ip()) {
            return Some(Err(PeerError::Refused(Refusal::Ignored)));
        }
        if cx.settings.is_own(at) {
            return Some(Err(PeerError::Refused(Refusal::SelfConnection)));
        }
        if at.port() == 0 || !peers.has_session_at(at) {
            return None;
        }
        if let Some(streams) = options.stream_send {
            self.set_stream_send(cx, peers, at, streams);
        }
        if self.reopen_at(cx, peers, at) {
            // The new connection shows whether the peer still runs.
            return None;
        }
        if !peers.has_reached(at) {
            // A dial shows whether the node that states the location is there.
            return None;
        }
        if options.broadcast {
            self.relays.request_announce_relay(cx, peers, at);
        }
        Some(Ok(vec![Location::new(at)]))
    }

    /// Dials the addresses with a port, and probes the hosts of the addresses with port 0.
    fn start_connect_request(&mut self, cx: &mut NodeCx, request_id: RequestId, all: &[SocketAddr]) {
        let Some(targets) = self.requests.set_targets(cx, request_id, all) else { return };
        for host in targets.hosts {
            self.probes.probe_host(cx, host, targets.until);
        }
        for at in targets.locations {
            self.dialer.dial_until(cx, at, targets.until);
        }
    }

    /// The host of a connect request was resolved.
    fn on_connect_request_resolved(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        (request_id, at, all): (RequestId, PeerAt, Vec<SocketAddr>),
        driver: &mut impl Driver,
    ) {
        let refused = all.iter().find_map(|at| (cx.settings.may_contact)(at).err());
        let allowed: Vec<SocketAddr> =
            all.into_iter().filter(|at| (cx.settings.may_contact)(at).is_ok()).collect();
        let result = if let Some(reason) = refused.filter(|_| allowed.is_empty()) {
            tracing::debug!(%at, "this process may not contact any address of the host");
            Err(reason.into())
        } else if let Some(connected) = allowed.iter().find(|at| at.port() != 0 && peers.has_reached(**at)) {
            Ok(vec![Location::new(*connected)])
        } else {
            return self.start_connect_request(cx, request_id, &allowed);
        };
        self.complete_connect_request(cx, peers, request_id, result, driver);
    }

    pub(super) fn on_connect_request_due(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        request_id: RequestId,
        driver: &mut impl Driver,
    ) {
        if let Some(result) = self.requests.on_due(cx, peers, request_id) {
            self.complete_connect_request(cx, peers, request_id, result, driver);
        }
    }

    fn complete_connect_request(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        request_id: RequestId,
        result: Result<Vec<Location>, PeerError>,
        driver: &mut impl Driver,
    ) {
        let Some(closed) = self.requests.remove(cx, request_id) else { return };
        self.dialer.forget_queries_of(request_id);
        for host in closed.unused_hosts {
            self.probes.forget_host(cx, host);
        }
        if let Some(streams) = closed.options.stream_send {
            result.iter().flatten().for_each(|at| self.set_stream_send(cx, peers, at.addr(), streams));
        }
        if let Some(first) = result.iter().flatten().next().filter(|_| closed.options.broadcast) {
            self.relays.request_announce_relay(cx, peers, first.addr());
        }
        complete_if_open(driver.local().requests(), request_id, result);
    }

    /// A probed host has sent a reply.
    fn on_probe_reply(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        reply: &ProbeReply<'_>,
        from: SocketAddr,
    ) {
        if !self.probes.is_probed(from) {
            return;
        }
        self.on_node_listed(cx, peers, from, (reply.from.node, reply.from.locations));
        for (node, locations) in reply.siblings.iter().take(host_discovery::SIBLINGS_MAX) {
            self.on_node_listed(cx, peers, from, (node, locations));
        }
    }

    /// A probed host has listed a node. Dials it on that host, or at a location that the settings allow.
    fn on_node_listed(
        &mut self,
        cx: &mut NodeCx,
        peers: &Peers,
        host: SocketAddr,
        (node, locations): (NodeId, Locations<'_>),
    ) {
        if node == cx.me {
            return;
        }
        let with_session = peers.get(node).filter(|peer| peer.session().is_some());
        if let Some(at) = with_session.and_then(|peer| peer.shown_location) {
            return self.requests.found_on_host(cx, host, at);
        }
        let is_on_host = |at: &SocketAddr| at.ip() == host.ip() && at.port() != 0;
        let best = seen_from(locations.iter(), host)
            .into_iter()
            .find(|at| is_on_host(at) || cx.settings.may_dial(*at));
        let Some(at) = best.filter(|at| !cx.settings.ignores(at.ip())) else { return };
        let is_new = !self.dialer.has(at);
        if let Some(until) = self.probes.note_listed(cx, host, is_new) {
            self.requests.found_on_host(cx, host, at);
            self.dialer.dial_until(cx, at, until);
        }
    }

    /// A peer sends the locations of another node. This node records them, and dials if it requested them.
    pub(super) fn on_node_at(&mut self, cx: &mut NodeCx, peers: &mut Peers, node: NodeId, hint: &NodeAt<'_>) {
        let other = hint.node;
        let peer_session = peers.session(node);
        let conn = peer_session.and_then(PeerSession::conn);
        let Some(remote) = conn.and_then(|conn| cx.connections.get(conn)).map(|conn| conn.remote) else {
            return;
        };
        let locations = seen_from(hint.locations.iter(), remote);
        let has_session = peers.get(other).is_some_and(|peer| peer.session().is_some());
        peers.learn(cx, node, other, hint.name, locations.iter().copied());
        let Some(after) = self.relays.note_listed(cx, node, hint.request) else { return };
        let allowed = locations.iter().find(|at| cx.settings.may_dial(**at));
        // A node behind a gateway lists its own address first and the gateway's last. Only the last is reachable from
        // other networks.
        if let Some(at) = allowed.or(locations.last()).copied()
            && !has_session
            && other != cx.me
        {
            self.dialer.dial_requested(cx, peers, at, after);
        }
    }

    /// Sets whether the connection with the peers at a location stays open when nothing needs it. Port 0 stands for all
    /// peers on the host. Returns the number of peers there.
    pub(super) fn stream_send(
        &mut self,
        cx: &mut NodeCx,
        peers: &mut Peers,
        at: SocketAddr,
        keep_open: bool,
    ) -> usize {
        let nodes = peers.nodes_at(at);
        for node in &nodes {
            if let Some(peer) = peers.get_mut(*node) {
                peer.keep_open = Some(keep_open);
                peer.schedule_idle_check(cx);
            }
            if keep_open {
                self.dialer.reopen(cx, peers, *node);
            }
        }
        nodes.len()
    }

    /// As [`Discovery::stream_send`], for the location of a known peer.
    fn set_stream_send(&mut self, cx: &mut NodeCx, peers: &mut Peers, at: SocketAddr, keep_open: bool) {
        if self.stream_send(cx, peers, at, keep_open) == 0 {
            tracing::debug!(%at, "`stream_send` was not set for a peer that is not known; the node's default applies");
        }
    }

    /// Dials the peer at a location if its session is closed while idle. Returns whether it was.
    fn reopen_at(&mut self, cx: &mut NodeCx, peers: &mut Peers, at: SocketAddr) -> bool {
        let is_closed = |peer: &Peer| peer.session().is_some_and(|peer_session| peer_session.is_resting());
        let closed = peers.at(at).filter(|peer| is_closed(peer) && peer.has_session_at(at));
        let closed: Vec<NodeId> = closed.map(|peer| peer.node).collect();
        closed.iter().for_each(|node| self.dialer.reopen(cx, peers, *node));
        !closed.is_empty()
    }
}

/// The wait that spreads the nodes which react to the same datagram over time.
pub(super) fn spread(cx: &NodeCx, peers: &Peers, about: u64) -> Duration {
    if peers.len() < SPREAD_OVER {
        return Duration::ZERO;
    }
    let most = SPREAD * u32::try_from(peers.len()).unwrap_or(u32::MAX);
    most.mul_f64((cx.me.to_bits() ^ about) as f64 / u64::MAX as f64)
}

fn refuse_datagram(cx: &mut NodeCx, from: SocketAddr, reason: &DatagramError) {
    cx.counts.refused_datagrams += 1;
    if cx.may_log("datagram", format_args!("{} {reason}", from.ip())) {
        tracing::warn!(%from, %reason, "a datagram was dropped (logged at most once an hour)");
    }
}
