//! The core of a node: [`NodeCore`] routes inputs to its peers and to the other parts, and joins what they return.
//!
//! The core does no input or output. Bytes, times and random numbers are arguments; its requests for input and output
//! leave through the [`Driver`].
//!
//! The core is the [`Transport`] of the loop and takes the messages of actors there. The
//! program that drives the node calls `handle` for each event of the network, by [`Loop::with_transport`](antiphon_sched::Loop::with_transport).
//!
//! Invariant: `handle` never fails and never blocks. The data of a peer changes only the state that belongs to that peer.
//!
//! Must not import: `service`, `cx`, `runtime`, `net_handle`.

#![deny(clippy::wildcard_enum_match_arm)]

mod awaited_replies;
mod connections;
mod context;
mod discovery;
mod driver;
mod end_reports;
mod ended_sessions;
mod handshakes;
mod inspection;
mod log_throttle;
mod outbound;
mod peer;
mod peer_watch;
mod peers;
mod receipts;
mod registry;
mod service_states;
mod settings;
#[cfg(test)]
mod testing;
mod timers;

pub use driver::{ConnId, Driver, Input, Output, OverTls};
pub use inspection::{NameCursor, NameInfo, NamePage, PeerCursor, PeerInfo, PeerPage, SessionInfo};
pub(crate) use peer::payload_faults::check_body;
pub(crate) use peer::session::is_flood;
pub(crate) use receipts::log_failed_delivery;
pub use registry::Space;
pub(crate) use registry::{FoundName, LookupStart, WantedName};
pub(crate) use service_states::ServiceState;
pub(crate) use settings::Settings;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::time::Duration;

use antiphon_sched::{
    ActorId, Addr, AskError, DeadLetter, EncodedValue, ExitReason, Key, LoopRef, MonitorId, NodeId, Notice,
    OutboundMessage, PayloadRules, QueueRoom, RequestId, Requests, SendMode, Signal, Time, Transport, Turn,
    Undelivered, with_origin,
};
use antiphon_wire::frame::{Close, CloseReason, GoodbyeReason, IdleProposed};
use antiphon_wire::{
    Admission, Datagram, Frame, Handshake, HandshakeError, HandshakeFault, ProvenConnection, Refusal,
    Session, SessionError, SessionEvent, TlsFault,
};

use crate::access::{AccessError, AccessPolicy};
use crate::credentials::{Credentials, ReloadError};
use crate::error::{
    CloseError, DeliverError, DialError, LocateError, NodeError, PeerError, PeerStatus, RegisterError,
    Status, UnknownNode, UnknownPeer,
};
use crate::location::{Ignored, Location, PeerAt, PeerOptions, seen_from};
use crate::peer_limits::Refusals;
use antiphon_wire as wire;
use connections::{Connection, ConnectionState, Contest, HandshakeProgress};
use context::NodeCx;
use discovery::Discovery;
use discovery::dialer::is_harmless;
use ended_sessions::EndedSession;
use handshakes::Handshakes;
use inspection::PAGE_MAX;
use ipnet::IpNet;
use outbound::ALL_QUEUES_MAX;
use outbound::OutboundRouter;
use peer::Peer;
use peer::disconnect::{DISCONNECT_WITHIN, Disconnect};
use peer::idle_close::{IdleStage, frame_counts};
use peer::session::{
    FrameEffect, InquiryEnd, LINGER, Link, NodeFrame, OLD_EPOCHS_FOR, OLD_EPOCHS_MAX, PeerSession,
    REDIAL_AFTER, REFUSALS_MAX, REFUSED_FOR, Received, Successor,
};
use peer_watch::{PeerWatches, status_of};
use peers::{PEERS_MAX, Peers};
use receipts::Withdrawal;
use registry::NameRegistry;
use service_states::ServiceStates;
use timers::NodeTimer;

/// The core of one node.
#[derive(Debug)]
pub struct NodeCore {
    cx: NodeCx,
    peers: Peers,
    names: NameRegistry,
    discovery: Discovery,
    peer_watches: PeerWatches,
    services: ServiceStates,
    /// The frames of the last input that need no credit.
    control_frames: u64,
    /// Results of host queries that wait for the next call with a driver.
    resolved: Vec<(u64, Result<Vec<SocketAddr>, String>)>,
    /// Credentials that wait for the next call with a driver.
    new_credentials: Option<Credentials>,
}

/// A change to the loop that the core makes as soon as it has access to the loop.
#[derive(Debug)]
enum LoopAction {
    Down { watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason<EncodedValue> },
    FailRequest(RequestId, AskError),
    DeadLetter(DeadLetter),
    FailReceipt(u64, Undelivered),
    Writable(Option<Key>, ActorId),
}

/// The sizes of a node's tables, and the numbers of its refusals and failures since its start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Known nodes, whether they were ever connected or not.
    pub peers: usize,
    /// Names of actors, channels and RCIs that are registered on this node. Services do not count;
    /// [`name_infos`](crate::NetHandle::name_infos) lists them too.
    pub names: usize,
    /// Open lookups, of this node and of peers.
    pub lookups: usize,
    /// Channels of other nodes that have subscribers on this node.
    pub channel_relays: usize,
    /// Messages that await a receipt.
    pub receipts: usize,
    /// Open requests with a [`ReplyTo`](antiphon_sched::ReplyTo) that was sent to another node.
    pub replies: usize,
    /// Monitors between this node and others, in both directions.
    pub monitors: usize,
    /// Actors that watch the statuses of peers; some may have exited.
    pub watchers: usize,
    /// Open connections, including those with an incomplete handshake.
    pub connections: usize,
    /// Peers that are online or suspect.
    pub online: usize,
    /// Bytes that were written to connections.
    pub bytes_sent: u64,
    /// Bytes that were read from connections.
    pub bytes_received: u64,
    /// Bytes that wait for full mailboxes.
    pub backlog_bytes: u64,
    /// Handshakes that this node or the other side refused, or that timed out.
    pub refused_handshakes: u64,
    /// Datagrams that were dropped.
    pub refused_datagrams: u64,
    /// Messages, replies and signals from peers that reached no actor and no request.
    pub refused_messages: u64,
    /// Sessions that ended because the peer broke the protocol.
    pub misbehaved: u64,
    /// Sessions that ended because the peer took no answers: 4 MiB of them waited, and it acknowledged nothing for
    /// `peer_timeout`.
    pub unresponsive: u64,
    /// Connections that ended because a record was not authentic: damaged, lost, repeated or forged.
    pub broken_connections: u64,
    /// Connections that were lost while the session had unacknowledged frames.
    pub cut_with_unacked: u64,
    /// Dials that were not made, because the process keeps its last descriptors for accepting.
    pub dials_without_descriptors: u64,
    /// Refusals to peers because of access policies and limits.
    pub refusals: Refusals,
}

impl NodeCore {
    /// A core without peers.
    pub(crate) fn new(me: NodeId, settings: Settings) -> Self {
        Self {
            cx: NodeCx::new(me, settings),
            peers: Peers::default(),
            names: NameRegistry::default(),
            discovery: Discovery::default(),
            peer_watches: PeerWatches::default(),
            services: ServiceStates::default(),
            control_frames: 0,
            resolved: Vec::new(),
            new_credentials: None,
        }
    }

    /// A core for simulators and tests, which provide their own driver. The node listens at `location`. It dials a
    /// location that another node names only if `networks` contains it. Channels and RCIs have their default limits, and there is no
    /// file service.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub fn simulated(
        config: &crate::Config,
        me: NodeId,
        location: Location,
        networks: Vec<IpNet>,
    ) -> Result<Self, NodeError> {
        Ok(Self::new(me, Settings::new(config, me.to_bits(), location, networks)?))
    }

    /// This node's incarnation.
    pub fn me(&self) -> NodeId {
        self.cx.me
    }

    /// The location at which this node accepts connections.
    pub fn location(&self) -> Location {
        self.cx.settings.location
    }

    /// The state of a service on this node; made at the first call.
    pub(crate) fn service_state<S: ServiceState + Default>(&mut self) -> &mut S {
        self.services.get_mut()
    }

    /// Identifies the owner of a peer over its restarts: by its certificate, or without TLS by its IP address. Empty for
    /// this node.
    pub(crate) fn owner_of_peer(&self, node: Option<NodeId>) -> String {
        let Some(node) = node else { return String::new() };
        let unknown = || node.to_string();
        let Some(peer) = self.peers.get(node) else { return unknown() };
        let address = || peer.remote.map(|ip| ip.to_string());
        peer.certificate.map(|certificate| certificate.to_string()).or_else(address).unwrap_or_else(unknown)
    }

    /// The present counts.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            peers: self.peers.len(),
            online: self.peers.iter().filter(|peer| peer.is_online()).count(),
            names: self.names.user_names_len(),
            lookups: self.names.lookups_len(),
            receipts: self.cx.receipts.len(),
            replies: self.cx.replies.len(),
            monitors: self.peers.iter().map(Peer::monitors_len).sum(),
            watchers: self.peer_watchers().len(),
            connections: self.cx.connections.len(),
            backlog_bytes: self.peers.iter().map(Peer::backlog_bytes).sum(),
            ..self.cx.counts
        };
        self.services.add_counts(&mut counts);
        counts
    }

    /// The latest time for the next [`Input::Tick`]. Every other call may change it.
    pub fn next_timeout(&self) -> Option<Time> {
        self.cx.timers.next()
    }

    /// The bytes that this node holds for one peer: frames that wait for it, and what it has sent that waits here. 0 if the
    /// node is unknown.
    pub fn held_bytes(&self, node: NodeId) -> u64 {
        self.peers.get(node).map_or(0, Peer::held_bytes)
    }

    /// The steps of work since the start: frames received and moved, nodes of routes, reports, and timers. A simulator checks how
    /// many one input causes.
    pub fn steps(&self) -> u64 {
        self.cx.steps
    }

    /// Whether there is work for an immediate [`Input::Tick`].
    pub fn is_dirty(&self) -> bool {
        !self.cx.work.dirty.is_empty()
            || !self.cx.loop_actions.is_empty()
            || !self.resolved.is_empty()
            || self.new_credentials.is_some()
            || self.names.has_pending()
            || self.discovery.dialer.has_pending()
            || !self.cx.ended_sessions.is_empty()
    }

    /// Handles one event, and then all timers that are due.
    pub fn handle(&mut self, now: Time, input: Input<'_>, driver: &mut impl Driver) {
        self.cx.now = self.cx.now.max(now);
        match input {
            Input::Start => self.start(driver),
            Input::Accepted { conn, tls } => self.on_accepted(conn, tls),
            Input::Connected { conn, tls } => {
                if !self.handshakes().begin(conn, tls, driver) {
                    self.fail_conn(conn, driver);
                }
            }
            Input::TlsFailed { conn, fault } => self.on_tls_failed(conn, fault, driver),
            Input::DialFailed { conn, refused } => self.on_dial_failed(conn, refused, driver),
            Input::Received(conn, count) => self.on_received(conn, count, driver),
            Input::Written(conn, count) => self.on_written(conn, count, driver),
            Input::Closed(conn) => self.on_closed(conn, driver),
            Input::Datagram(from, bytes) => {
                self.discovery.on_datagram(&mut self.cx, &mut self.peers, (from, bytes), driver);
            }
            Input::Networks(networks) => self.cx.settings.set_own_networks(networks),
            // No tick: the data that arrived during the pause is handled before the timers.
            Input::Stalled(span) => return self.on_stalled(span),
            Input::Tick => self.take_turns(driver),
            Input::Leave => self.leave(driver),
        }
        self.tick(driver);
    }

    fn start(&mut self, driver: &mut impl Driver) {
        self.discovery.announce(&mut self.cx, driver);
        for at in self.cx.settings.peers.clone() {
            self.discovery.dial_configured(&mut self.cx, at);
        }
    }

    /// Runs the timers that are due, and sends the results.
    fn tick(&mut self, driver: &mut impl Driver) {
        for (query, found) in std::mem::take(&mut self.resolved) {
            self.discovery.on_resolved(&mut self.cx, &mut self.peers, (query, found), driver);
        }
        while let Some(due) = self.cx.timers.take_due(self.cx.now) {
            self.cx.steps += 1;
            self.on_due(due, driver);
        }
        if !self.cx.ended_sessions.is_empty() {
            self.cx.report_ended_sessions(&mut self.peers, driver);
        }
        self.names.complete_pending_lookups(&mut self.cx, &mut self.peers);
        self.cx.run_loop_actions(driver);
        self.use_new_credentials(driver);
        self.discovery.dialer.start_dials(&mut self.cx, &mut self.peers, driver);
        self.transmit(driver);
    }

    fn on_due(&mut self, due: NodeTimer, driver: &mut impl Driver) {
        match due {
            NodeTimer::Session(node) => self.on_session_due(node, driver),
            NodeTimer::Idle(node) => self.on_idle_due(node, driver),
            NodeTimer::Dial(at) => self.discovery.dialer.schedule(at),
            NodeTimer::Disconnect(node) => self.on_disconnect_due(node, driver),
            NodeTimer::Redial(node) => self.on_redial_due(node),
            NodeTimer::Connection(conn) => self.on_connection_due(conn, driver),
            NodeTimer::Receipt(receipt_number) => self.on_receipt_due(receipt_number, driver),
            NodeTimer::Lookup(lookup_number) => {
                self.names.on_lookup_due(&mut self.cx, &mut self.peers, lookup_number, driver);
            }
            NodeTimer::Resolve(query) => self.discovery.dialer.on_resolve_due(query),
            NodeTimer::ConnectRequest(request_id) => {
                self.discovery.on_connect_request_due(&mut self.cx, &mut self.peers, request_id, driver);
            }
            NodeTimer::Backlog(node) => {
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.on_backlog_due(&mut self.cx, driver);
                }
            }
            NodeTimer::Unreached(node) => self.on_unreached(node, driver),
            NodeTimer::Probe(host) => self.discovery.probes.on_probe_due(&mut self.cx, host, driver),
            NodeTimer::ProbeReply(to) => {
                self.discovery.probes.reply_to_probe(&self.cx, &self.peers, to, driver);
            }
            NodeTimer::Predecessor(node) => self.on_predecessor_due(node, driver),
            NodeTimer::Credentials => self.on_credentials_due(driver),
            NodeTimer::Announce => self.discovery.announce(&mut self.cx, driver),
            NodeTimer::Hints => self.discovery.dialer.begin_waiting_hints(&mut self.cx, &mut self.peers),
            NodeTimer::Named => self.peers.on_named_due(&mut self.cx),
        }
    }

    fn leave(&mut self, driver: &mut impl Driver) {
        if std::mem::replace(&mut self.cx.leaving, true) {
            return;
        }
        self.send_goodbyes(driver);
        if self.cx.settings.discover {
            self.cx.broadcast(&Datagram::Bye { node: self.cx.me }, driver);
        }
        self.cx.report_all_ended(&mut self.peers, driver);
    }

    /// Sets the time of the loop, before a call other than `handle`.
    pub(crate) fn advance(&mut self, now: Time) {
        self.cx.now = self.cx.now.max(now);
    }

    /// A dial could not be made, or was not answered.
    fn on_dial_failed(&mut self, conn: ConnId, refused: bool, driver: &mut impl Driver) {
        let Some(gone) = self.cx.remove_conn(conn) else { return };
        let Some(at) = gone.dialled else { return };
        if refused {
            self.note_dial_error(at, DialError::ConnectionRefused, false);
            self.clear_refusals(at, driver);
        }
        let node = self.discovery.dialer.node_at(at);
        self.retry_dial(at, conn);
        // Others may have named this location for the node: then it says nothing about the node.
        let is_of = |node: &NodeId| self.peers.get(*node).is_some_and(|peer| peer.is_dialled_at(at));
        if let Some(node) = node.filter(is_of).filter(|_| refused) {
            self.on_location_refused(node, driver);
        }
    }

    fn retry_dial(&mut self, at: SocketAddr, conn: ConnId) {
        self.discovery.dialer.retry_dial(&mut self.cx, &mut self.peers, at, conn);
    }

    /// A dial of a location has failed: the requests and lookups that wait for it may fail.
    fn note_dial_error(&mut self, at: SocketAddr, error: DialError, is_lasting: bool) {
        self.discovery.requests.note_dial_error(at, error, is_lasting);
        self.names.fail_lookups_at(&mut self.cx, at, error, is_lasting);
    }

    /// A dial was refused. With `by_us` this node refused it; otherwise the peer did, and its refusal is not proven.
    fn on_dial_refused(&mut self, at: SocketAddr, reason: Refusal, by_us: bool, driver: &mut impl Driver) {
        if !is_harmless(reason) {
            self.note_dial_error(at, DialError::Refused(reason), true);
        }
        // A peer that leaves says goodbye, and this node itself is no peer.
        if !is_harmless(reason) && !matches!(reason, Refusal::Leaving | Refusal::SelfConnection) {
            self.on_peers_refused(at, DialError::Refused(reason), driver);
        }
        self.discovery.requests.recheck(&mut self.cx, &self.peers, at);
        self.discovery.dialer.refused(&self.cx, at, reason, by_us);
    }

    /// The program at a dialled location does not speak the protocol.
    fn on_dialled_no_node(&mut self, at: SocketAddr, fault: HandshakeFault, driver: &mut impl Driver) {
        self.note_dial_error(at, DialError::NotAntiphon(fault), true);
        self.on_peers_refused(at, DialError::NotAntiphon(fault), driver);
        self.discovery.requests.recheck(&mut self.cx, &self.peers, at);
        self.discovery.dialer.end_unconfigured(&self.cx, at);
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

    /// Connects to a peer for an actor. Returns the result if it is known now; otherwise the request completes later.
    pub(crate) fn open_connect_request(
        &mut self,
        request_id: RequestId,
        at: PeerAt,
        options: PeerOptions,
        timeout: Duration,
    ) -> Option<Result<Vec<Location>, PeerError>> {
        self.discovery.connect(&mut self.cx, &mut self.peers, (request_id, at), options, timeout)
    }

    /// See [`NameRegistry::check_free`].
    pub(crate) fn check_free(&self, space: Space, name: &str) -> Result<(), RegisterError> {
        self.names.check_free(space, name)
    }

    /// See [`NameRegistry::register`].
    pub(crate) fn register(
        &mut self,
        name: (Space, &str),
        key: Key,
        tag: &'static str,
        owner: Option<Key>,
    ) -> Result<Vec<RequestId>, RegisterError> {
        self.names.register(&mut self.cx, &mut self.peers, name, key, tag, owner)
    }

    /// See [`NameRegistry::unregister`].
    pub(crate) fn unregister(
        &mut self,
        space: Space,
        name: &str,
        owner: Option<Key>,
    ) -> Result<Key, RegisterError> {
        self.names.unregister(space, name, owner)
    }

    /// See [`NameRegistry::locate`]. The location `at` is dialled, if no node was reached there.
    pub(crate) fn locate(
        &mut self,
        request: (RequestId, Key),
        wanted: WantedName<'_>,
        timeout: Duration,
    ) -> LookupStart {
        let start = self.names.locate(&mut self.cx, &mut self.peers, request, wanted, timeout);
        if let (LookupStart::Later, Some(at)) = (&start, wanted.at)
            && !self.peers.has_reached(at.addr())
        {
            self.discovery.dialer.dial_until(&self.cx, at.addr(), self.cx.now + timeout);
        }
        start
    }

    /// See [`NameRegistry::locate_all`].
    pub(crate) fn locate_all(
        &mut self,
        request_id: RequestId,
        wanted: WantedName<'_>,
        timeout: Duration,
    ) -> Result<(), LocateError> {
        self.names.locate_all(&mut self.cx, &mut self.peers, request_id, wanted, timeout)
    }

    /// See [`NameRegistry::locate_node`].
    pub(crate) fn locate_node(
        &mut self,
        request_id: RequestId,
        name: &str,
        timeout: Duration,
    ) -> Option<Result<Location, LocateError>> {
        self.names.locate_node(&mut self.cx, &self.peers, request_id, name, timeout)
    }

    /// Takes the result of a host query; `query` is the number from [`Output::Resolve`].
    pub fn resolved(&mut self, query: u64, found: Result<Vec<SocketAddr>, String>) {
        self.resolved.push((query, found));
    }

    /// Checks the invariants of all tables and sessions. It takes time in all that waits; a simulator calls it after some events.
    ///
    /// # Panics
    /// If an invariant does not hold, which is a bug.
    pub fn check(&self) {
        for peer in self.peers.iter() {
            let node = &peer.node;
            peer.check(self.cx.settings.limits(), &self.cx.settings.peer_limits);
            let is_dirty = peer.session().is_some_and(|peer_session| peer_session.dirty);
            assert_eq!(is_dirty, self.cx.work.dirty.contains(node), "`dirty` lists the dirty sessions");
        }
        let queued: u64 = self.peers.iter().map(Peer::queued_bytes).sum();
        assert_eq!(self.cx.queues.bytes, queued, "the total has the queues of all peers");
        self.names.check(&self.cx.timers);
        let has_session = |node: &NodeId| self.peers.get(*node).is_some_and(|peer| peer.session().is_some());
        assert!(
            self.names.asked_peers().all(|node| has_session(&node)),
            "lookups wait only for peers with a session"
        );
        self.cx.receipts.check(&self.cx.timers);
        self.cx.budgets.check(self.peers.iter().map(|peer| &peer.budget));
        self.cx.replies.check();
        self.discovery.dialer.check(&self.cx.timers);
        self.peers.check();
        self.cx.connections.check(&self.cx.timers);
    }

    // Access policies.

    /// Checks that this node can apply a policy. Logs a warning if the policy separates no peers.
    ///
    /// # Errors
    /// The policy needs the certificates of peers, and the node does not use TLS.
    pub(crate) fn check_access(&mut self, access: &AccessPolicy) -> Result<(), AccessError> {
        if access.needs_tls() && !self.cx.settings.is_tls() {
            return Err(AccessError::NoTls);
        }
        if let Some(shared) =
            self.cx.settings.shared_certificate.filter(|shared| access.names_certificate(shared))
            && self.cx.may_log("shared certificate in access policy", shared)
        {
            tracing::warn!(
                certificate = %shared,
                "an access policy names the certificate that all nodes share, and so allows every peer: give each node its \
                 own certificate (`pinned`, `ca_files`) to distinguish peers (logged at most once an hour)"
            );
        }
        Ok(())
    }

    /// Replaces the access policy of an actor. `Notice::Exited` removes it when the actor exits.
    pub(crate) fn set_access(&mut self, actor: Key, access: AccessPolicy) {
        let before = if access.allows_all() {
            self.cx.access.policies.remove(&actor)
        } else {
            self.cx.access.policies.insert(actor, access)
        };
        if before.is_some() {
            self.names.recheck_peer_lookups();
        }
    }

    /// The access policy of an actor.
    pub(crate) fn access_of(&self, actor: Key) -> AccessPolicy {
        self.cx.access.policies.get(&actor).cloned().unwrap_or_default()
    }

    // Connections and handshakes.

    /// Takes a connection that was accepted from `remote`. Returns its id, or `None` if the driver must close it at once.
    /// If there are too many unproven connections, one of them is closed.
    pub fn accept(&mut self, now: Time, remote: SocketAddr, driver: &mut impl Driver) -> Option<ConnId> {
        self.cx.now = self.cx.now.max(now);
        if self.cx.leaving || self.cx.settings.ignores(remote.ip()) {
            return None;
        }
        if let Some(oldest) =
            self.cx.connections.unproven_to_evict(self.cx.settings.limits().unproven_connections_max)
        {
            self.cx.counts.refused_handshakes += 1;
            let from = self.cx.connections.get(oldest).map_or(remote, |conn| conn.remote);
            self.cx.log_closed_before_proof(from, "there were too many connections without a proof");
            self.close_conn(oldest, driver);
        }
        let id = self.cx.connections.add(remote, false, self.cx.now);
        // The time includes that of TLS, which has no timeout of its own.
        self.cx.set_deadline(id, self.cx.settings.limits().handshake_timeout);
        Some(id)
    }

    fn on_accepted(&mut self, id: ConnId, tls: Option<OverTls>) {
        if let Some(conn) = self.cx.connections.get(id)
            && matches!(conn.state, ConnectionState::Handshaking(_))
        {
            conn.certificate = tls.map(|tls| tls.certificate);
            conn.state =
                ConnectionState::Handshaking(Box::new(Handshake::accept(tls.map(|tls| tls.exporter))));
        }
    }

    /// Whether this node dialled the connection.
    pub fn is_dialled(&mut self, conn: ConnId) -> bool {
        self.cx.connections.get(conn).is_some_and(|conn| conn.dialled.is_some())
    }

    /// Handles a failure of TLS: it fails the handshake. An established session continues without the connection.
    fn on_tls_failed(&mut self, id: ConnId, fault: TlsFault, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
        if matches!(conn.state, ConnectionState::Established(_)) {
            return self.on_closed(id, driver);
        }
        // The other side would not read any of it.
        conn.out.clear();
        conn.written = 0;
        let refusal = Refusal::Tls(fault);
        let error = if fault.is_rejected_by_peer() {
            HandshakeError::RefusedByPeer(refusal)
        } else {
            HandshakeError::Refused(refusal)
        };
        self.on_handshake_error(id, error, driver);
    }

    /// The buffer into which the driver reads the bytes of a connection. Empty if the core needs no more of them.
    pub fn space(&mut self, conn: ConnId) -> &mut [u8] {
        match self.cx.connections.get(conn) {
            Some(conn) if !matches!(conn.state, ConnectionState::Closing) => conn.deframer.space(),
            Some(_) | None => &mut [],
        }
    }

    /// The number of frames that need no credit among those of the last [`Input::Received`]. A driver
    /// limits their number in a round.
    pub fn control_frames(&self) -> u64 {
        self.control_frames
    }

    /// Whether a connection has received frames that the core has not taken: a peer has sent very many that need no credit. Then the
    /// driver calls with [`Input::Received`] of no bytes in the next round, before it reads more.
    pub fn has_unread(&mut self, conn: ConnId) -> bool {
        let is_unread =
            |conn: &mut Connection| conn.has_unread && matches!(conn.state, ConnectionState::Established(_));
        self.cx.connections.get(conn).is_some_and(is_unread)
    }

    /// The bytes that the driver must write to a connection.
    pub fn outgoing(&mut self, conn: ConnId) -> &[u8] {
        self.cx.connections.get(conn).map_or(&[], |conn| &conn.out[conn.written..])
    }

    /// The number of bytes that wait in the buffer of a connection.
    fn unwritten(&mut self, conn: ConnId) -> usize {
        self.outgoing(conn).len()
    }

    fn on_written(&mut self, id: ConnId, count: usize, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
        conn.written += count;
        self.cx.counts.bytes_sent += count as u64;
        if conn.written < conn.out.len() {
            return;
        }
        conn.out.clear();
        conn.written = 0;
        match conn.state {
            ConnectionState::Established(node) => self.mark_dirty(node),
            ConnectionState::Closing => self.close_conn(id, driver),
            ConnectionState::Dialling | ConnectionState::Handshaking(_) => {}
        }
    }

    fn on_connection_due(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
        conn.deadline = None;
        match conn.state {
            ConnectionState::Dialling => {
                tracing::debug!(remote = %conn.remote, "a dial timed out");
                self.cx.counts.refused_handshakes += 1;
                self.fail_conn(id, driver);
            }
            ConnectionState::Handshaking(_) => {
                let remote = conn.remote;
                self.cx.counts.refused_handshakes += 1;
                self.cx.log_closed_before_proof(remote, "its handshake timed out");
                self.fail_conn(id, driver);
            }
            // The other side does not read the last bytes.
            ConnectionState::Closing => self.close_conn(id, driver),
            ConnectionState::Established(_) => {}
        }
    }

    fn on_received(&mut self, id: ConnId, count: usize, driver: &mut impl Driver) {
        self.control_frames = 0;
        let Some(conn) = self.cx.connections.get(id) else { return };
        conn.deframer.filled(count);
        self.cx.counts.bytes_received += count as u64;
        conn.is_idle = false;
        self.advance_connection(id, driver);
    }

    fn outbound(&mut self) -> OutboundRouter<'_> {
        OutboundRouter { cx: &mut self.cx, peers: &mut self.peers, dialer: &mut self.discovery.dialer }
    }

    fn handshakes(&mut self) -> Handshakes<'_> {
        Handshakes { cx: &mut self.cx, peers: &mut self.peers, dialer: &mut self.discovery.dialer }
    }

    /// Continues the handshake of a connection, or handles the records that have arrived on it.
    fn advance_connection(&mut self, id: ConnId, driver: &mut impl Driver) {
        loop {
            let Some(conn) = self.cx.connections.get(id) else { return };
            match conn.state {
                ConnectionState::Handshaking(_) => match self.handshakes().advance(id, driver) {
                    Ok(HandshakeProgress::Wait) => return,
                    Ok(HandshakeProgress::Continue) => {}
                    Ok(HandshakeProgress::Proven(connection)) => {
                        if !self.on_proven(id, connection, driver) {
                            return;
                        }
                    }
                    Err(error) => return self.on_handshake_error(id, error, driver),
                },
                ConnectionState::Established(node) => return self.receive(node, id, driver),
                ConnectionState::Dialling | ConnectionState::Closing => return,
            }
        }
    }

    /// The present connection of a node has had its time to answer, or is lost: the handshakes that waited for that continue.
    fn decide_contests(&mut self, node: NodeId, driver: &mut impl Driver) {
        for id in self.cx.connections.take_contenders(node) {
            self.advance_connection(id, driver);
        }
        // Some may wait for a session to be reopened. A timer for that is set.
    }

    /// The connection of a session has closed, or the session has ended: nothing needs to wait for its answer.
    fn decide_contests_soon(&mut self, node: NodeId) {
        if self.cx.connections.has_contenders(node) {
            self.cx.timers.add(self.cx.now, NodeTimer::Predecessor(node));
        }
    }

    /// Handles a completed handshake. False if the connection is not used.
    fn on_proven(&mut self, id: ConnId, connection: Box<ProvenConnection>, driver: &mut impl Driver) -> bool {
        let node = connection.peer().node;
        let certificate = self.cx.connections.get(id).and_then(|conn| conn.certificate);
        if !connection.resumes() && self.handshakes().has_other_certificate(node, certificate) {
            self.cx.counts.refusals.certificates += 1;
            self.on_handshake_error(id, HandshakeError::Refused(Refusal::Certificate), driver);
            return false;
        }
        let session = self.peers.session(node).map(|peer_session| &peer_session.session);
        match Session::admit(session, &self.cx.epochs, &connection) {
            Admission::Continues => {}
            // The session has changed since the hello of the other side arrived.
            Admission::Begins if self.handshakes().contest(id, connection.peer()) != Contest::Won => {
                tracing::debug!(%node, "a proven connection would end a session that answers");
                self.fail_conn(id, driver);
                return false;
            }
            Admission::Begins => {
                if self.peers.get(node).is_some_and(|peer| peer.session().is_some()) {
                    self.end_session(node, "the peer has started a new session", driver);
                }
            }
            Admission::Refused(refusal) => {
                tracing::debug!(%node, %refusal, "a proven connection was refused");
                self.fail_conn(id, driver);
                return false;
            }
        }
        let is_attached = self.attach_connection(id, node, connection, driver);
        if let Some(conn) = self.cx.connections.get(id).filter(|_| is_attached)
            && let Some(deadline) = conn.deadline.take()
        {
            self.cx.timers.remove(deadline, NodeTimer::Connection(id));
        }
        is_attached
    }

    fn on_handshake_error(&mut self, id: ConnId, error: HandshakeError, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
        let (remote, dialled) = (conn.remote, conn.dialled);
        let refusal = match error {
            HandshakeError::Refused(refusal) | HandshakeError::RefusedByPeer(refusal) => Some(refusal),
            HandshakeError::PeerMisbehaved(_) | HandshakeError::CallerMisused | _ => None,
        };
        let is_expected = matches!(
            refusal,
            Some(
                Refusal::Duplicate | Refusal::Superseded | Refusal::SelfConnection | Refusal::OldEpoch { .. }
            )
        );
        if !is_expected {
            self.cx.counts.refused_handshakes += 1;
            self.cx.log_refusal(remote, &error);
        }
        if let (Some(at), HandshakeError::RefusedByPeer(reason)) = (dialled, error) {
            if let Refusal::OldEpoch { node, known } = reason {
                self.on_old_epoch(at, node, known, driver);
            } else if let Refusal::EpochTooHigh { node, .. } = reason {
                // The hello had the epoch for another node.
                self.discovery.dialer.answered(at, node);
            } else if matches!(reason, Refusal::Duplicate | Refusal::Superseded) {
                self.discovery.dialer.guess_refused(at);
            }
        }
        if let (Some(at), HandshakeError::Refused(reason) | HandshakeError::RefusedByPeer(reason)) =
            (dialled, error)
        {
            self.on_dial_refused(at, reason, matches!(error, HandshakeError::Refused(_)), driver);
        }
        if let (Some(at), HandshakeError::PeerMisbehaved(fault)) = (dialled, error) {
            self.on_dialled_no_node(at, fault, driver);
        }
        match self.cx.connections.get(id) {
            Some(conn) if conn.out.len() > conn.written => {
                conn.state = ConnectionState::Closing;
                driver.output(Output::Write(id));
                if let Some(at) = dialled {
                    self.retry_dial(at, id);
                }
            }
            Some(_) => self.fail_conn(id, driver),
            None => {}
        }
    }

    /// Closes a connection after a failed handshake.
    fn fail_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
        if let Some(at) = self.cx.connections.get(id).and_then(|conn| conn.dialled) {
            self.retry_dial(at, id);
        }
        self.close_conn(id, driver);
    }

    /// Closes a connection in any state. The caller has detached it from its session, if it had one.
    fn close_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
        if self.cx.remove_conn(id).is_some() {
            driver.output(Output::Close(id));
        }
    }

    fn on_closed(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.cx.remove_conn(id) else { return };
        driver.output(Output::Close(id));
        match conn.state {
            ConnectionState::Established(node) => self.on_connection_lost(node, id, conn.dialled, driver),
            ConnectionState::Dialling | ConnectionState::Handshaking(_) | ConnectionState::Closing => {
                if let Some(at) = conn.dialled {
                    self.retry_dial(at, id);
                }
            }
        }
    }

    // Sessions.

    /// Attaches a proven connection to the session with `node`. Starts the session if there is none.
    /// False if the connection was closed instead.
    fn attach_connection(
        &mut self,
        id: ConnId,
        node: NodeId,
        connection: Box<ProvenConnection>,
        driver: &mut impl Driver,
    ) -> bool {
        let now = self.cx.now;
        let Some(conn) = self.cx.connections.get(id) else { return false };
        let (dialled, remote, certificate) = (conn.dialled, conn.remote, conn.certificate);
        let is_outdated = conn.is_outdated();
        let hello = connection.peer();
        let (name, undiscovered) = (hello.name.clone(), hello.flags & wire::UNDISCOVERED != 0);
        let stated = seen_from(hello.locations.iter().copied(), remote);
        let shown_location = self.cx.settings.shown_location(&stated, remote, dialled);
        let locations = stated.clone();
        if let Some(at) = dialled {
            self.supersede_predecessors(node, at, driver);
        }
        // This node dials a location that the peer states only if the configuration allows it, or if this connection was
        // dialled there.
        let locations: Vec<SocketAddr> = locations
            .into_iter()
            .filter(|at| Some(*at) == dialled || self.cx.settings.may_dial(*at))
            .collect();
        let has_room = self.peers.make_room_for(&mut self.cx, node)
            || (self.end_unconnected(driver) && self.peers.make_room_for(&mut self.cx, node));
        if !has_room {
            if self.cx.may_log("peer table full", remote.ip()) {
                tracing::warn!(%node, %remote, peers_max = PEERS_MAX, "the peer table is full; a connection is refused (logged at most once an hour)");
            }
            self.fail_conn(id, driver);
            return false;
        }
        self.peers.edit(node, |peer| {
            (peer.name, peer.shown_location, peer.locations) = (name, shown_location, locations);
            peer.reached_at = dialled.or(peer.reached_at);
        });
        self.peers.note_met(node);
        let Some(peer) = self.peers.get_mut(node) else { return false };
        let was_refused = peer.refusal.take().is_some();
        (peer.stated_locations, peer.undiscovered, peer.no_auto_dial) = (stated, undiscovered, false);
        (peer.certificate, peer.remote) = (certificate, Some(remote.ip()));
        self.cx.connections.note_proven(remote.ip(), self.cx.now);
        let is_new = peer.session().is_none();
        let limits = self.cx.settings.limits();
        let peer_session = peer.state.session_or_begin(|| {
            let session = Session::begin(now, limits, self.cx.me, &connection);
            PeerSession::new(session, now)
        });
        peer_session.peer_leaves = false;
        if let Err(reason) = peer_session.session.connected(now, connection) {
            if self.cx.may_log("connection mismatch", node) {
                tracing::warn!(%node, %reason, "a proven connection does not match its session (logged at most once an hour)");
            }
            self.end_session(node, "the peer broke the protocol", driver);
            self.fail_conn(id, driver);
            return false;
        }
        peer_session.connected_at = self.cx.now;
        peer_session.idle.set_active(self.cx.now);
        peer_session.dialled = dialled.or(peer_session.dialled);
        let old = peer_session.set_connected(id);
        if let Some(conn) = self.cx.connections.get(id) {
            conn.state = ConnectionState::Established(node);
        }
        if let Some(old) = old {
            let dialled = self.cx.connections.get(old).and_then(|conn| conn.dialled);
            if let Some(at) = dialled {
                self.discovery.dialer.dial_is_over(&mut self.cx, at, old);
            }
            self.close_conn(old, driver);
        }
        if let Some(at) = dialled {
            self.discovery.dialer.succeeded(at, id, node, is_new);
        }
        if is_new {
            self.on_session_started(node, driver);
            self.ask_predecessors(node, dialled);
        } else if was_refused {
            self.send_status(node, driver);
        }
        if is_outdated {
            self.renew(node);
        }
        self.discovery.requests.note_connected(&mut self.cx, &self.peers, node, dialled);
        if let Some(peer) = self.peers.get_mut(node) {
            peer.schedule_idle_check(&mut self.cx);
        }
        self.mark_dirty(node);
        true
    }

    /// In a full table, sessions without a connection give way. False if there is none.
    fn end_unconnected(&mut self, driver: &mut impl Driver) -> bool {
        let unused = self.peers.unconnected();
        for node in &unused {
            let reason = "the table of known nodes is full, and the peer is not connected";
            self.end_session(*node, reason, driver);
        }
        !unused.is_empty()
    }

    /// Handles the start of a session: sends the messages that waited for it, and reports the status of the peer.
    fn on_session_started(&mut self, node: NodeId, driver: &mut impl Driver) {
        if let Some(peer) = self.peers.get(node) {
            let location = peer.location().map(tracing::field::display);
            tracing::info!(target: "antiphon::peers", %node, name = peer.name, location, "a peer has connected");
        }
        self.peers.warn_of_duplicate_name(&mut self.cx, node);
        self.send_status(node, driver);
        self.names.repeat_lookups_to(&mut self.cx, &mut self.peers, node);
        self.outbound().send_waiting(node);
        self.names.complete_node_lookups(&mut self.cx, &self.peers, node, driver);
    }

    /// This node has dialled a location, and `node` is there. Other nodes that were at it are earlier incarnations, which never
    /// return: their sessions end. A node that is connected is asked first: it may state a wrong location.
    fn supersede_predecessors(&mut self, node: NodeId, at: SocketAddr, driver: &mut impl Driver) {
        let was_there = |peer: &Peer| !peer.is_replaced() && peer.is_at(at);
        let old = self.peers.at(at).filter(|peer| peer.node != node && was_there(peer));
        let old: Vec<NodeId> = old.map(|peer| peer.node).collect();
        for old in old {
            let peer_session = self.peers.session(old);
            let may_answer = |peer_session: &PeerSession| {
                let last_received = peer_session.session.last_received();
                peer_session.is_connected()
                    && peer_session.silent_since.is_none_or(|since| last_received >= since)
            };
            if peer_session.is_some_and(may_answer) {
                if let Some(peer) = self.peers.get_mut(old) {
                    peer.inquire(&mut self.cx, Some(Successor { node, at, is_there: true }));
                }
            } else {
                self.supersede(old, driver);
            }
        }
    }

    /// Another incarnation runs at the location of a node.
    fn supersede(&mut self, old: NodeId, driver: &mut impl Driver) {
        self.end_session(old, "another incarnation runs at the peer's location", driver);
        if let Some(peer) = self.peers.get_mut(old) {
            peer.state.set_replaced();
        }
        self.peers.drop_waiting(&mut self.cx, old, &Undelivered::NoActor);
        self.peers.remember_ended(&mut self.cx, old);
    }

    /// A session has started whose peer states the location of another node. If that is an earlier incarnation, it does not
    /// answer. A member may state any location, so the statement alone ends no session: the location is dialled, which shows which of
    /// the two is there.
    fn ask_predecessors(&mut self, node: NodeId, dialled: Option<SocketAddr>) {
        let Some(peer) = self.peers.get(node) else { return };
        let stated: Vec<SocketAddr> =
            peer.locations.iter().copied().filter(|at| Some(*at) != dialled).collect();
        let (mut connected, mut unconnected) = (Vec::new(), BTreeSet::new());
        for other in self.peers.at_any(stated.iter().copied()) {
            let Some(peer) = self.peers.get(other).filter(|_| other != node) else { continue };
            let is_there =
                |at: &SocketAddr| peer.has_session_at(*at) || (!peer.is_replaced() && peer.is_at(*at));
            let Some(at) = stated.iter().copied().find(is_there) else { continue };
            if peer.session().is_some_and(|peer_session| peer_session.is_connected()) {
                connected.push((other, at));
            } else {
                unconnected.insert(at);
            }
        }
        for (other, at) in connected {
            if let Some(peer) = self.peers.get_mut(other) {
                peer.inquire(&mut self.cx, Some(Successor { node, at, is_there: false }));
            }
        }
        unconnected
            .into_iter()
            .for_each(|at| self.discovery.dialer.look_at(&mut self.cx, &mut self.peers, node, at));
    }

    /// A peer was asked whether it is still there, and has had its time to answer. If it has not, or is not connected any more,
    /// another one may have taken its place.
    fn on_predecessor_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let unanswered = match self.peers.get_mut(node).map(|peer| peer.end_inquiry(&self.cx)) {
            Some(InquiryEnd::Over { unanswered }) => unanswered,
            Some(InquiryEnd::Pending) => return,
            None => None,
        };
        match unanswered {
            Some(successor) if successor.is_there => self.supersede(node, driver),
            Some(successor) => {
                self.discovery.dialer.look_at(&mut self.cx, &mut self.peers, successor.node, successor.at)
            }
            None => {}
        }
        self.decide_contests(node, driver);
    }

    /// The peer at a location refuses this node because it knows a higher epoch of its node id: another program has used that. The
    /// refusal is not proven. If it is repeated while there is no connection, the present session ends, which the peer does not have
    /// any more; the next dial has a higher epoch.
    fn on_old_epoch(&mut self, at: SocketAddr, node: NodeId, known: u64, driver: &mut impl Driver) {
        self.discovery.dialer.answered(at, node);
        let now = self.cx.now;
        let peer = self.peers.get_mut(node);
        if let Some(peer_session) = peer.and_then(Peer::session_mut) {
            if peer_session.session.epoch() > known {
                return;
            }
            let Some(outage) = peer_session.outage() else { return };
            outage.old_epochs += 1;
            if outage.old_epochs < OLD_EPOCHS_MAX || now.since(outage.since) < OLD_EPOCHS_FOR {
                return;
            }
            self.end_session(node, "the peer has begun another session with this node's id", driver);
            self.discovery.dialer.dial_node_until(
                &self.cx,
                node,
                at,
                now + self.cx.settings.limits().lost_after,
            );
        }
        if self.cx.epochs.raise(node, known) && self.cx.may_log("old epoch", node) {
            tracing::warn!(
                %node, %at,
                "another program has used the id of this node, which is random; this node returns with a higher epoch (logged at most once an hour)"
            );
        }
    }

    /// Handles all records that have arrived on an established connection.
    fn receive(&mut self, node: NodeId, id: ConnId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(conn) = self.cx.connections.get(id) else { return };
        let mut deframer = std::mem::take(&mut conn.deframer);
        let Some(peer) = self.peers.get_mut(node) else { return };
        let before = peer.frames_received();
        let origin = peer.take_origin(&self.cx);
        let (received, origin) = with_origin(origin, || self.take_records(now, node, &mut deframer, driver));
        if let Some(conn) = self.cx.connections.get(id) {
            conn.deframer = deframer;
            conn.has_unread = matches!(received, Ok(Received::Unfinished));
        }
        if let Some(peer) = self.peers.get_mut(node) {
            peer.origin = origin;
            peer.count_queue(&mut self.cx.queues.bytes);
            let received = peer.frames_received();
            self.control_frames = received.control.saturating_sub(before.control);
            self.cx.steps += self.control_frames + received.numbered.saturating_sub(before.numbered);
        }
        match received {
            // The connection is in use as long as frames are left.
            Ok(Received::Unfinished) => {
                self.poll_events(node, driver);
                self.mark_dirty(node);
            }
            Ok(Received::All) => {
                self.poll_events(node, driver);
                self.mark_dirty(node);
                self.close_idle(node, driver);
                self.advance_disconnect(node, driver);
            }
            Ok(Received::Goodbye(reason)) => self.on_goodbye(node, reason, driver),
            Ok(Received::Rejected) => {
                if self.cx.may_log("rejected by peer", node) {
                    tracing::warn!(%node, "a peer has ended the session: in its view this node broke the protocol; its log says how (logged at most once an hour)");
                }
                self.end_session(node, "the peer says that this node broke the protocol", driver);
            }
            Err(SessionError::PeerMisbehaved(fault)) => {
                self.cx.counts.misbehaved += 1;
                if self.cx.may_log("protocol violated", node) {
                    tracing::warn!(%node, %fault, "a peer broke the protocol; its session ends (logged at most once an hour)");
                }
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.send_misbehaved(&mut self.cx);
                }
                self.end_session(node, "the peer broke the protocol", driver);
            }
            Err(reason) => {
                self.cx.counts.broken_connections += 1;
                if self.cx.may_log("connection broke", node) {
                    tracing::warn!(%node, %reason, "a connection broke; its session continues over a new one (logged at most once an hour)");
                }
                self.on_closed(id, driver);
            }
        }
    }

    /// Handles the records that have arrived on the connection of a session.
    fn take_records(
        &mut self,
        now: Time,
        node: NodeId,
        deframer: &mut wire::Deframer,
        driver: &mut impl Driver,
    ) -> Result<Received, SessionError> {
        let Some(mut peer) = self.peers.get_mut(node) else { return Ok(Received::All) };
        let control_frames = peer.frames_received().control;
        while let Some(mut frames) = peer.next_record(now, deframer)? {
            while let Some(incoming) = peer.next_frame(now, &mut frames)? {
                match peer.on_frame(&mut self.cx, incoming.frame(), driver) {
                    FrameEffect::Continue => continue,
                    FrameEffect::Learn(route) => self.peers.learn_route(&mut self.cx, node, route),
                    FrameEffect::Node(frame) => self.on_node_frame(node, frame, driver),
                    FrameEffect::Goodbye(reason) => return Ok(Received::Goodbye(reason)),
                    FrameEffect::Rejected => return Ok(Received::Rejected),
                }
                let Some(again) = self.peers.get_mut(node) else { return Ok(Received::All) };
                peer = again;
            }
            let unread = frames.unread();
            deframer.put_back(unread);
            // A record of which a part is left has had its share.
            if is_flood(peer.frames_received().control - control_frames) {
                return Ok(Received::Unfinished);
            }
        }
        Ok(Received::All)
    }

    /// Handles a frame that concerns more than its peer: lookups, locations of nodes, announce relays, and proposals of an idle close.
    fn on_node_frame(&mut self, node: NodeId, frame: NodeFrame<'_>, driver: &mut impl Driver) {
        match frame {
            NodeFrame::Lookup(lookup) => self.names.on_lookup(&mut self.cx, &mut self.peers, node, &lookup),
            NodeFrame::CancelLookup(cancel_lookup) => {
                self.names.forget_lookup_of(node, cancel_lookup.request)
            }
            NodeFrame::Found(found) => {
                self.names.on_found(&mut self.cx, &mut self.peers, node, &found, driver)
            }
            NodeFrame::NodeAt(hint) => self.discovery.on_node_at(&mut self.cx, &mut self.peers, node, &hint),
            NodeFrame::AnnounceRelay(relay) => {
                let relays = &mut self.discovery.relays;
                relays.on_announce_relay(&mut self.cx, &mut self.peers, node, relay.request, driver);
            }
            NodeFrame::IdleProposed(proposed) => self.on_idle_proposed(node, proposed, driver),
        }
    }

    /// Handles the goodbye of a peer: all its messages have arrived. Those that wait for full mailboxes stay in the backlog.
    fn on_goodbye(&mut self, node: NodeId, reason: GoodbyeReason, driver: &mut impl Driver) {
        if reason != GoodbyeReason::Leaving {
            self.stop_auto_dial(node);
        }
        let Some(peer_session) = self.peers.session_mut(node) else {
            return;
        };
        peer_session.peer_leaves = reason == GoodbyeReason::Leaving;
        // The peer may wait for the acknowledgement.
        peer_session.session.acknowledge_now();
        self.mark_dirty(node);
        self.transmit(driver);
        self.end_session(node, "the peer sent a goodbye", driver);
    }

    /// Handles the end of a session's connection: the session waits for a new one.
    fn on_connection_lost(
        &mut self,
        node: NodeId,
        id: ConnId,
        dialled: Option<SocketAddr>,
        driver: &mut impl Driver,
    ) {
        if let Some(at) = dialled {
            self.discovery.dialer.dial_is_over(&mut self.cx, at, id);
        }
        let now = self.cx.now;
        let Some(peer_session) = self.peers.session_mut(node) else {
            return;
        };
        if peer_session.conn() != Some(id) {
            return;
        }
        if !peer_session.session.is_idle() {
            self.cx.counts.cut_with_unacked += 1;
        }
        peer_session.lose_connection(now);
        self.decide_contests_soon(node);
        if self.finish_disconnect_if_goodbye_sent(node, driver) {
            return;
        }
        let Some(peer_session) = self.peers.session(node) else {
            return;
        };
        match peer_session.dialled {
            Some(at) => self.discovery.dialer.redial_now(&mut self.cx, &mut self.peers, node, at),
            None => self.cx.timers.add(now + REDIAL_AFTER, NodeTimer::Redial(node)),
        }
        if let Some(peer) = self.peers.get_mut(node) {
            peer.arm_session(&mut self.cx);
        }
        self.poll_events(node, driver);
    }

    /// Dials a peer that has not dialled again after its connection ended.
    fn on_redial_due(&mut self, node: NodeId) {
        let now = self.cx.now;
        let Some(peer) = self.peers.get(node) else { return };
        // The timer may be that of an earlier connection: each sets its own.
        let needs_redial = |peer_session: &PeerSession| match &peer_session.link {
            Link::Down(outage) => now.since(outage.since) >= REDIAL_AFTER,
            Link::Up(_) | Link::Resting => false,
        };
        if peer.session().is_some_and(needs_redial)
            && let Some(at) = peer.locations.first().copied()
        {
            self.discovery.dialer.redial_now(&mut self.cx, &mut self.peers, node, at);
        }
    }

    /// Counts a refused dial to a peer without a connection. After [`REFUSALS_MAX`] the session ends. If it has ended before,
    /// what waits for another one fails: a process that has ended never returns as the same node.
    fn on_location_refused(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(peer) = self.peers.get_mut(node) else { return };
        let Some(peer_session) = peer.session_mut() else {
            if peer.status() == Some(Status::Offline) && peer.waiting.note_refused_dial() >= REFUSALS_MAX {
                self.peers.drop_waiting(&mut self.cx, node, &Undelivered::NoNode);
                self.cx.run_loop_actions(driver);
            }
            return;
        };
        let Some(outage) = peer_session.outage() else { return };
        outage.refused_dials += 1;
        if outage.refused_dials >= REFUSALS_MAX && now.since(outage.since) >= REFUSED_FOR {
            self.end_session(node, "the connection closed, and the peer's location refuses new ones", driver);
        }
    }

    /// Notes that the session of a peer has, or may have, something to transmit.
    fn mark_dirty(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.mark_dirty(&mut self.cx);
        }
    }

    /// Seals the frames of all dirty sessions into the buffers of their connections.
    fn transmit(&mut self, driver: &mut impl Driver) {
        let mut dirty = std::mem::take(&mut self.cx.work.dirty);
        for node in dirty.drain(..) {
            if self.peers.get_mut(node).is_some_and(|peer| peer.transmit(&mut self.cx, driver)) {
                self.reopen(node);
            }
            self.poll_events(node, driver);
            if let Some(peer) = self.peers.get_mut(node) {
                peer.report_short_queue(&mut self.cx, driver);
                peer.arm_session(&mut self.cx);
            }
        }
        if self.cx.work.dirty.is_empty() {
            self.cx.work.dirty = dirty;
        }
        self.report_room_to_all(driver);
    }

    fn on_session_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(peer_session) = self.peers.session_mut(node) else {
            return;
        };
        peer_session.timer = None;
        peer_session.session.on_timeout(now);
        if let Some(conn) = peer_session.conn().and_then(|id| self.cx.connections.get(id)) {
            conn.release_buffers();
        }
        self.poll_events(node, driver);
        self.mark_dirty(node);
    }

    fn poll_events(&mut self, node: NodeId, driver: &mut impl Driver) {
        while let Some(event) =
            self.peers.session_mut(node).and_then(|peer_session| peer_session.session.poll_event())
        {
            match event {
                SessionEvent::Liveness(wire::Liveness::Online) => self.set_suspect(node, false, driver),
                SessionEvent::Liveness(wire::Liveness::Suspect) => {
                    self.set_suspect(node, true, driver);
                    // The connection may be half open. A new one shows whether it is, and replaces it.
                    if let Some(at) = self.renewal_location(node) {
                        self.discovery.dialer.look_for_silent(&mut self.cx, &mut self.peers, node, at);
                    }
                }
                SessionEvent::Liveness(wire::Liveness::Lost) => {
                    self.end_session(node, "the peer was silent for too long", driver)
                }
                SessionEvent::Writable { actor } => {
                    if let Some(peer) = self.peers.get_mut(node) {
                        peer.report_room(actor, driver);
                    }
                }
                SessionEvent::Renew => self.renew(node),
                SessionEvent::Unresponsive => {
                    self.cx.counts.unresponsive += 1;
                    if self.cx.may_log("takes no answers", node) {
                        tracing::warn!(%node, "a peer takes none of the answers that it causes; its session ends (logged at most once an hour)");
                    }
                    self.end_session(
                        node,
                        "the peer takes no answers, and acknowledged nothing for `peer_timeout`",
                        driver,
                    );
                }
            }
        }
    }

    /// Dials a new connection because the present one is exhausted or may be broken. The new connection replaces the
    /// present one when it is proven.
    fn renew(&mut self, node: NodeId) {
        if let Some(at) = self.renewal_location(node) {
            self.discovery.dialer.renew_dial(&mut self.cx, node, at);
        }
    }

    /// Where this node dials another connection of a session.
    fn renewal_location(&self, node: NodeId) -> Option<SocketAddr> {
        let peer = self.peers.get(node)?;
        let dialled = peer.session().and_then(|peer_session| peer_session.dialled);
        dialled.or(peer.locations.first().copied())
    }

    /// Excludes a pause of this process from the silence of its peers.
    fn on_stalled(&mut self, span: Duration) {
        for peer_session in self.peers.iter_mut().filter_map(Peer::session_mut) {
            peer_session.session.exclude_stall(span);
        }
    }

    /// Ends the session with a node, and completes every open operation on it.
    fn end_session(&mut self, node: NodeId, reason: &str, driver: &mut impl Driver) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let Some(mut peer_session) = peer.state.end_session() else { return };
        peer.count_queue(&mut self.cx.queues.bytes);
        let (conn, disconnect) = (peer_session.conn(), peer_session.disconnect.take());
        let peer_lost = peer.undelivered();
        tracing::info!(target: "antiphon::peers", %node, name = peer.name, reason, "the session with a peer has ended");
        self.cx.epochs.ended(node);
        let (local_watchers, remote_watchers) = peer.monitors.take();
        // The messages that wait for the next session, after a disconnect, keep their receipts and requests.
        let (requests, spared) = peer.waiting.open();
        let awaited_replies = self.cx.replies.take_except(node, &spared.into_iter().collect());
        if let Some(at) = peer_session.timer {
            self.cx.timers.remove(at, NodeTimer::Session(node));
        }
        if let Some(at) = peer_session.dialled {
            self.discovery.dialer.forget_dialled(&self.cx, at, node);
        }
        let expires = self.cx.now + self.cx.settings.limits().lost_after;
        if let Some(peer) = self.peers.get_mut(node) {
            peer.end_backlog_session(&mut self.cx, expires, driver);
        }
        let ended = EndedSession {
            node,
            peer_lost,
            local_watchers,
            expires,
            requests: awaited_replies.into(),
            receipts: self.cx.receipts.awaited_from(node, &requests).into(),
            session: peer_session.session,
        };
        self.cx.report_ended(&mut self.peers, ended, remote_watchers, driver);
        if let Some(peer) = self.peers.get_mut(node) {
            peer.release_room_waiters(&mut self.cx);
        }
        self.cx.run_loop_actions(driver);
        self.names.forget_peer(node);
        if let Some(conn) = conn {
            self.flush_and_close_conn(conn, driver);
        }
        if self.peers.get(node).is_some_and(|peer| peer.no_auto_dial) {
            self.stop_auto_dial(node);
        }
        self.send_status(node, driver);
        self.decide_contests_soon(node);
        self.peers.release_named_by(&mut self.cx, node);
        self.peers.remember_ended(&mut self.cx, node);
        if let Some(disconnect) = disconnect {
            self.complete_close_requests(node, disconnect, driver);
        }
    }

    /// Closes a connection after its last bytes are written, without a report to its session.
    fn flush_and_close_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.cx.connections.get(id) else { return };
        conn.state = ConnectionState::Closing;
        if let Some(at) = conn.dialled {
            self.discovery.dialer.dial_is_over(&mut self.cx, at, id);
        }
        if self.unwritten(id) == 0 {
            self.close_conn(id, driver);
        } else {
            self.cx.set_deadline(id, LINGER);
            driver.output(Output::Write(id));
        }
    }

    /// Sends a goodbye to each peer, behind the frames that were sent before.
    fn send_goodbyes(&mut self, driver: &mut impl Driver) {
        for node in self.peers.ids() {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.say_goodbye(&mut self.cx, GoodbyeReason::Leaving);
            }
        }
        self.transmit(driver);
    }

    /// Whether the peers have acknowledged all frames. While the node stops: whether all bytes are written.
    pub fn is_flushed(&mut self) -> bool {
        if !self.cx.leaving {
            return self.peers.iter().all(|peer| {
                let is_session_idle =
                    peer.session().is_none_or(|peer_session| peer_session.session.is_idle());
                is_session_idle && peer.waiting.is_empty()
            });
        }
        let connections: Vec<ConnId> =
            self.peers.iter().filter_map(Peer::session).filter_map(PeerSession::conn).collect();
        self.cx.work.dirty.is_empty() && connections.into_iter().all(|conn| self.unwritten(conn) == 0)
    }

    // Idle close.

    /// Sets whether the connection with the peers at a location stays open when nothing needs it. Port 0 stands for all
    /// peers on the host.
    ///
    /// # Errors
    /// This node knows no peer there.
    pub(crate) fn stream_send(&mut self, at: Location, keep_open: bool) -> Result<(), UnknownPeer> {
        let count = self.discovery.stream_send(&mut self.cx, &mut self.peers, at.addr(), keep_open);
        if count == 0 { Err(UnknownPeer { at }) } else { Ok(()) }
    }

    /// The session with a node is needed again: dials the node. If no connection follows, the session is lost.
    fn reopen(&mut self, node: NodeId) {
        self.discovery.dialer.reopen(&mut self.cx, &mut self.peers, node);
    }

    fn on_idle_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let is_watched = self.needs_connections(node, driver);
        let Some(peer) = self.peers.get_mut(node) else { return };
        peer.propose_idle_close(&mut self.cx, is_watched);
        if let Some(peer) = self.peers.get_mut(node) {
            peer.schedule_idle_check(&mut self.cx);
        }
        self.mark_dirty(node);
    }

    /// Whether something beside the peer itself needs its connection: an actor that watches the statuses of peers, or a lookup.
    fn needs_connections(&mut self, node: NodeId, driver: &mut impl Driver) -> bool {
        self.peer_watches.remove_exited(driver);
        !self.peer_watchers().is_empty() || self.names.has_lookups_with(node)
    }

    /// A peer proposes to close the connection. It has received all frames of this side; otherwise this side would wait for an
    /// acknowledgement.
    fn on_idle_proposed(&mut self, node: NodeId, proposed: IdleProposed, driver: &mut impl Driver) {
        let is_needed = self.needs_connections(node, driver);
        if let Some(peer) = self.peers.get_mut(node) {
            peer.on_idle_proposed(&self.cx, proposed, is_needed);
        }
    }

    /// All frames that arrived are handled: closes the connection, if both sides agree.
    fn close_idle(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(peer_session) = self.peers.session(node) else {
            return;
        };
        let stage = peer_session.idle.stage;
        let is_unchanged = frame_counts(peer_session) == peer_session.idle.frames;
        match stage {
            IdleStage::Agreed if is_unchanged && self.needs_no_connection(node, driver) => {
                self.close_connection(node, true, driver);
            }
            IdleStage::Agreed => self.keep_connection(node),
            IdleStage::ClosedByPeer => {
                let is_needed = !self.needs_no_connection(node, driver);
                self.close_connection(node, false, driver);
                if is_needed {
                    self.reopen(node);
                }
            }
            IdleStage::Active | IdleStage::Proposed => {}
        }
    }

    fn needs_no_connection(&mut self, node: NodeId, driver: &mut impl Driver) -> bool {
        let is_needed = self.needs_connections(node, driver);
        !is_needed && self.peers.get(node).is_some_and(|peer| peer.needs_no_connection(&self.cx))
    }

    fn keep_connection(&mut self, node: NodeId) {
        if let Some(peer_session) = self.peers.session_mut(node) {
            peer_session.idle.stage = IdleStage::Active;
        }
    }

    /// Closes a connection, and keeps its session. With `send_close`, sends the peer a `Close` first.
    fn close_connection(&mut self, node: NodeId, send_close: bool, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(peer_session) = self.peers.session_mut(node) else {
            return;
        };
        let Some(id) = peer_session.conn() else { return };
        if send_close && let Some(conn) = self.cx.connections.get(id) {
            let close: Frame<'_> = Close { reason: CloseReason::Idle }.into();
            if let Err(reason) = peer_session.session.send_control(&close) {
                tracing::debug!(%node, %reason, "the `Close` of an idle connection was not sent");
            }
            while peer_session.session.poll_transmit(now, &mut conn.out) {}
        }
        peer_session.rest();
        tracing::debug!(%node, "an idle connection was closed; the node dials again when it is needed");
        self.flush_and_close_conn(id, driver);
    }

    /// Dials all peers that have idle sessions without a connection, because their status is not known.
    fn reopen_all(&mut self) {
        self.peers.ids().into_iter().for_each(|node| self.reopen(node));
    }

    // Disconnects.

    /// Ends the session with the peer at a location, for an actor. No peer is at port 0. Returns the result if it is
    /// known now; otherwise the request completes later.
    pub(crate) fn close_peer(
        &mut self,
        request_id: RequestId,
        at: Location,
        timeout: Duration,
    ) -> Option<Result<(), CloseError>> {
        let nodes = if at.addr().port() == 0 { Vec::new() } else { self.peers.nodes_at(at.addr()) };
        if nodes.is_empty() {
            return Some(Err(UnknownPeer { at }.into()));
        }
        self.give_up_dial(at.addr(), false);
        let mut request_id = Some(request_id);
        for node in nodes {
            if self.start_disconnect(node, GoodbyeReason::Closed, timeout)
                && let Some(disconnect) = self.peers.get_mut(node).and_then(Peer::disconnect)
            {
                disconnect.request_ids.extend(request_id.take());
            }
        }
        request_id.map(|_| Ok(()))
    }

    /// Ignores these peers, in addition to those of the configuration.
    pub(crate) fn ignore_peers(&mut self, peers: Ignored) {
        match peers {
            Ignored::None => {
                self.cx.settings.ignored_by_actors.clear();
                self.cx.settings.ignores_unknown_nodes = false;
            }
            Ignored::UnknownNodes => self.cx.settings.ignores_unknown_nodes = true,
            Ignored::At(addresses) => {
                for ip in addresses {
                    if !self.cx.settings.ignores(ip) {
                        self.cx.settings.ignored_by_actors.push(ip);
                    }
                }
                self.disconnect_ignored();
            }
        }
    }

    fn disconnect_ignored(&mut self) {
        let mut ignored = Vec::new();
        for peer in self.peers.iter() {
            let dialled = peer.session().and_then(|peer_session| peer_session.dialled);
            let all = peer
                .stated_locations
                .iter()
                .chain(&peer.locations)
                .chain(&peer.shown_location)
                .chain(&dialled);
            if all.map(SocketAddr::ip).any(|ip: IpAddr| self.cx.settings.ignores(ip)) {
                ignored.push(peer.node);
            }
        }
        for node in ignored {
            self.start_disconnect(node, GoodbyeReason::Ignored, DISCONNECT_WITHIN);
        }
    }

    /// Begins to end a session. `false` if there is none.
    fn start_disconnect(&mut self, node: NodeId, reason: GoodbyeReason, within: Duration) -> bool {
        // An idle session without a connection needs the goodbye too: without it, the peer would lose the messages that
        // it sends next.
        self.reopen(node);
        self.stop_auto_dial(node);
        self.peers.get_mut(node).is_some_and(|peer| peer.start_disconnect(&mut self.cx, reason, within))
    }

    /// Marks a peer so that this node no longer dials it by itself. A location that it only states may be that of another node,
    /// whose dials go on.
    fn stop_auto_dial(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        peer.no_auto_dial = true;
        let dialled = peer.session().and_then(|peer_session| peer_session.dialled);
        let reached = dialled.into_iter().chain(peer.reached_at).chain(peer.found_at);
        let stated = peer.locations.iter().chain(&peer.shown_location).copied();
        let dialled_for_it = stated.filter(|at| self.discovery.dialer.node_at(*at) == Some(node));
        let all: Vec<SocketAddr> = reached.chain(dialled_for_it).collect();
        let is_connected = peer.session().is_some();
        all.into_iter().for_each(|at| self.give_up_dial(at, !is_connected));
    }

    /// Stops dialling a location, even if it is configured. With `at_once`, also a dial that waits for its next attempt.
    fn give_up_dial(&mut self, at: SocketAddr, at_once: bool) {
        let is_requested = self.discovery.requests.are_open_for(at);
        self.discovery.dialer.give_up_dial(&self.cx, at, at_once, is_requested);
    }

    fn on_disconnect_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(peer) = self.peers.get_mut(node) else { return };
        let Some(disconnect) = peer.disconnect() else { return };
        if now < disconnect.until {
            return self.advance_disconnect(node, driver);
        }
        disconnect.outcome = Err(CloseError::TimedOut);
        peer.send_goodbye(&mut self.cx);
        self.transmit(driver);
        self.finish_disconnect(node, driver);
    }

    /// Frames have arrived, perhaps with an acknowledgement. Sends the goodbye when all earlier frames are acknowledged,
    /// and ends the session when the goodbye is.
    fn advance_disconnect(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let is_idle = peer.session().is_some_and(|peer_session| peer_session.session.is_idle());
        match peer.disconnect() {
            Some(disconnect) if is_idle && disconnect.goodbye_sent => self.finish_disconnect(node, driver),
            Some(_) if is_idle => peer.send_goodbye(&mut self.cx),
            Some(_) | None => {}
        }
    }

    /// The connection is closed. Ends the session and returns `true` if the goodbye was sent before.
    fn finish_disconnect_if_goodbye_sent(&mut self, node: NodeId, driver: &mut impl Driver) -> bool {
        let disconnect = self.peers.get_mut(node).and_then(Peer::disconnect);
        let is_over = disconnect.is_some_and(|disconnect| disconnect.goodbye_sent);
        if is_over {
            self.finish_disconnect(node, driver);
        }
        is_over
    }

    fn finish_disconnect(&mut self, node: NodeId, driver: &mut impl Driver) {
        self.end_session(node, "this node closed the peer", driver);
    }

    /// A session with a disconnect has ended: completes its requests.
    fn complete_close_requests(&mut self, node: NodeId, disconnect: Disconnect, driver: &mut impl Driver) {
        self.cx.timers.remove(disconnect.until, NodeTimer::Disconnect(node));
        for request_id in disconnect.request_ids {
            complete_if_open(driver.local().requests(), request_id, disconnect.outcome);
        }
        // The messages that were sent meanwhile need a new session.
        self.outbound().dial_for_waiting(node);
    }

    // Turns of what waits for mailboxes.

    /// Gives the free places of mailboxes to the messages of peers that wait for them, each in its turn.
    fn take_turns(&mut self, driver: &mut impl Driver) {
        while let Some(Turn { target, peer: node, .. }) = driver.local().mailboxes().next_turn() {
            self.cx.steps += 1;
            if let Some(peer) = self.peers.get_mut(node) {
                peer.take_turn(&mut self.cx, target, driver);
            }
        }
        if !self.cx.work.holding_credit.is_empty() {
            self.release_credit(driver);
        }
    }

    /// Returns the credit that was held, to the peers that use fewer bytes again.
    fn release_credit(&mut self, driver: &mut impl Driver) {
        let budgets = self.peers.iter_mut().map(|peer| &mut peer.budget);
        self.cx.budgets.sweep(self.cx.now, budgets, driver);
        for node in std::mem::take(&mut self.cx.work.holding_credit) {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            if peer.budget.must_hold_credit(&self.cx.budgets, None) {
                self.cx.work.holding_credit.insert(node);
            } else {
                peer.release_credit(&mut self.cx);
            }
        }
    }

    // Outbound messages.

    /// Forgets a sender that has exited.
    fn forget_room_waiter(&mut self, sender: Key) {
        let peers = &mut self.peers;
        self.cx.work.with_room_waiters.retain(|node| {
            let Some(peer) = peers.get_mut(*node) else { return false };
            peer.room_waiters.remove_sender(sender);
            !peer.room_waiters.is_empty()
        });
    }

    /// After messages were refused because of the total of all queues: releases their senders when it has decreased.
    fn report_room_to_all(&mut self, driver: &mut impl Driver) {
        if !self.cx.queues.has_refused || self.cx.queues.bytes > ALL_QUEUES_MAX / 8 * 7 {
            return;
        }
        self.cx.queues.has_refused = false;
        for node in self.cx.work.with_room_waiters.iter().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            let waiters = peer.room_waiters.take_by_total();
            peer.release(&mut self.cx, waiters);
        }
        self.cx.run_loop_actions(driver);
    }

    /// Fails the waiting messages of a node that was not reached in time.
    fn on_unreached(&mut self, node: NodeId, driver: &mut impl Driver) {
        // The timer may be that of earlier messages: there may have been a session since.
        if self.peers.get(node).is_some_and(|peer| self.cx.now >= peer.waiting.until) {
            self.peers.drop_waiting(&mut self.cx, node, &Undelivered::NoNode);
            self.cx.run_loop_actions(driver);
        }
    }

    // Receipts.

    /// Sets how long `request_id` waits for its receipt.
    pub(crate) fn set_receipt_timeout(&mut self, request_id: RequestId, timeout: Duration) {
        let until = self.cx.now + timeout;
        self.cx.receipts.set_timeout(request_id, until, &mut self.cx.timers);
    }

    /// The receipt for which `request_id` waits, right after its message was sent.
    pub(crate) fn newest_receipt(&self, request_id: RequestId) -> Option<u64> {
        self.cx.receipts.newest_of(request_id)
    }

    /// Forgets a receipt whose request is closed.
    pub(crate) fn forget_receipt(&mut self, receipt_number: u64) {
        self.cx.receipts.forget(receipt_number);
    }

    /// Forgets a request that is closed, and the receipts of messages that ended with it.
    fn on_request_closed(&mut self, request_id: RequestId) {
        let NodeCx { receipts, replies, .. } = &mut self.cx;
        for receipt_number in replies.all_receipts_of(request_id) {
            receipts.forget_if_only_for(receipt_number, request_id);
        }
        replies.forget(request_id);
    }

    /// Withdraws a message that still waits for transmission at its timeout. A message that was transmitted may arrive
    /// later.
    fn on_receipt_due(&mut self, receipt_number: u64, driver: &mut impl Driver) {
        let reason = match self.outbound().withdraw_message(receipt_number) {
            Some(Withdrawal::ActorFull) => DeliverError::Refused(Undelivered::Full),
            Some(Withdrawal::NotSent) | None => DeliverError::TimedOut,
        };
        self.cx.receipts.complete(receipt_number, Err(reason), &mut self.cx.timers, driver);
    }

    // Statuses of peers.

    /// The locations of the peers that are online.
    pub(crate) fn online(&self) -> Vec<Location> {
        let online = self.peers.iter().filter(|peer| peer.is_online());
        online.filter_map(|peer| peer.location()).collect()
    }

    /// Subscribes an actor to the statuses of peers. Returns the statuses of the peers that are online now.
    pub(crate) fn watch_peers(&mut self, watcher: Addr<PeerStatus>) -> Vec<PeerStatus> {
        self.peer_watches.actors.push(watcher);
        self.reopen_all();
        let online = self.peers.iter().filter(|peer| peer.is_online());
        online.filter_map(status_of).collect()
    }

    /// The actors that receive status changes; some may have exited.
    pub(crate) fn peer_watchers(&self) -> &[Addr<PeerStatus>] {
        &self.peer_watches.actors
    }

    /// The location of a node, which may be this one.
    ///
    /// # Errors
    /// This node does not know the node, or not its location.
    pub(crate) fn location_of(&self, node: NodeId) -> Result<Location, UnknownNode> {
        if node == self.cx.me {
            return Ok(self.cx.settings.location);
        }
        self.peers.get(node).and_then(|peer| peer.location()).ok_or(UnknownNode { node })
    }

    /// Cancels the subscription of an actor.
    pub(crate) fn unwatch_peers(&mut self, watcher: Addr<PeerStatus>) {
        self.peer_watches.remove(watcher);
    }

    /// Sends the status of a peer to the subscribed actors.
    fn send_status(&mut self, node: NodeId, driver: &mut impl Driver) {
        if let Some(status) = self.peers.get(node).and_then(status_of) {
            self.peer_watches.send(&status, driver);
        }
    }

    /// A peer is silent, or is not any more: sends its status to the subscribed actors if that is new.
    fn set_suspect(&mut self, node: NodeId, is_suspect: bool, driver: &mut impl Driver) {
        let Some(peer_session) = self.peers.session_mut(node) else { return };
        if std::mem::replace(&mut peer_session.is_suspect, is_suspect) != is_suspect {
            self.send_status(node, driver);
        }
    }

    /// A dial of a location was refused, and a further one would be: the peers there that are not connected have this status,
    /// and what waits for a session with them fails.
    fn on_peers_refused(&mut self, at: SocketAddr, refusal: DialError, driver: &mut impl Driver) {
        let is_unconnected =
            |peer: &Peer| peer.session().is_none_or(|peer_session| !peer_session.is_connected());
        let refused = self
            .peers
            .at(at)
            .filter(|peer| peer.is_dialled_at(at) && !peer.is_replaced() && is_unconnected(peer));
        let refused: Vec<NodeId> = refused.map(|peer| peer.node).collect();
        for node in refused {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            let is_new = peer.refusal.replace(refusal) != Some(refusal);
            let undelivered = peer.undelivered();
            if is_new {
                self.send_status(node, driver);
            }
            self.peers.drop_waiting(&mut self.cx, node, &undelivered);
        }
        self.cx.run_loop_actions(driver);
    }

    /// No program listens at a location any more: what refused the peers there has gone.
    fn clear_refusals(&mut self, at: SocketAddr, driver: &mut impl Driver) {
        let there = self.peers.at(at).filter(|peer| peer.is_dialled_at(at) && peer.refusal.is_some());
        let refused: Vec<NodeId> = there.map(|peer| peer.node).collect();
        for node in refused {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.refusal = None;
            }
            self.send_status(node, driver);
        }
    }

    // Replacement of credentials. A connection that was proven with credentials of before is replaced by another one, or is closed
    // after the time of `peer_timeout`. Its session continues.

    /// Replaces the secrets and the certificates of this node, at the next tick.
    pub(crate) fn reload(&mut self, credentials: Credentials) -> Result<(), ReloadError> {
        let profile = &self.cx.settings.profile;
        if credentials.suites != profile.suites
            || credentials.keyring.is_empty() != profile.keyring.is_empty()
        {
            return Err(ReloadError::Protection);
        }
        let ip = self.cx.settings.location.addr().ip();
        if !ip.is_loopback() && credentials.is_weak {
            return Err(NodeError::WeakSecret { ip }.into());
        }
        self.new_credentials = Some(credentials);
        Ok(())
    }

    /// Uses the new credentials, if there are any. Handshakes that have begun with those of before are repeated.
    fn use_new_credentials(&mut self, driver: &mut impl Driver) {
        let Some(credentials) = self.new_credentials.take() else { return };
        self.cx.settings.set_credentials(&credentials);
        if let Some(tls) = credentials.tls {
            driver.output(Output::UseTls(tls));
        }
        for conn in self.cx.connections.in_handshake() {
            self.fail_conn(conn, driver);
        }
        self.cx.connections.set_outdated(self.cx.now);
        let connected = self
            .peers
            .iter()
            .filter(|peer| peer.session().is_some_and(|peer_session| peer_session.is_connected()));
        let connected: Vec<NodeId> = connected.map(|peer| peer.node).collect();
        connected.into_iter().for_each(|node| self.renew(node));
        self.cx.timers.add(self.cx.now + self.cx.settings.limits().lost_after, NodeTimer::Credentials);
        tracing::info!("the node uses new secrets and certificates");
    }

    /// Closes the connections that were not replaced since the credentials were. Their sessions try to connect again.
    fn on_credentials_due(&mut self, driver: &mut impl Driver) {
        for conn in self.cx.connections.outdated_for(self.cx.settings.limits().lost_after, self.cx.now) {
            self.on_closed(conn, driver);
        }
    }

    // Inspection.

    /// The peers from `from` on. Sends a ping to each, so that a later call shows its round-trip time.
    pub(crate) fn peers_from(&mut self, from: Option<PeerCursor>) -> PeerPage {
        let from = self.peers.from(from.map(|cursor| cursor.0));
        let mut peers: Vec<PeerInfo> = from.take(PAGE_MAX + 1).map(|peer| peer.info(self.cx.now)).collect();
        let next = peers.get(PAGE_MAX).map(|peer| PeerCursor(peer.node));
        peers.truncate(PAGE_MAX);
        for peer in &peers {
            if let Some(peer) = self.peers.get_mut(peer.node) {
                peer.ping(&mut self.cx);
            }
        }
        PeerPage { peers, next }
    }

    /// The names of this node from `from` on.
    pub(crate) fn names_from(&self, from: Option<NameCursor>) -> NamePage {
        let first = from.map_or(Bound::Unbounded, |NameCursor(space, name)| Bound::Included((space, name)));
        let mut names: Vec<NameInfo> =
            self.names.registered_from(first, self.cx.me).take(PAGE_MAX + 1).collect();
        let next = names.get(PAGE_MAX).map(|name| NameCursor(name.space, name.name.as_str().into()));
        names.truncate(PAGE_MAX);
        NamePage { names, next }
    }

    // The log.

    /// Whether a line may be logged now; see [`LogThrottle::may`].
    pub(crate) fn may_log(&mut self, kind: &'static str, about: impl Display) -> bool {
        self.cx.may_log(kind, about)
    }

    /// Logs that a peer exceeds one of its limits. `what` is the predicate of the line's sentence.
    pub(crate) fn log_refused(&mut self, node: NodeId, kind: &'static str, what: &'static str) {
        if let Some(peer) = self.peers.get(node) {
            peer.log_refused(&mut self.cx, kind, what);
        }
    }
}

impl Transport for NodeCore {
    fn send(&mut self, now: Time, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered> {
        self.cx.now = self.cx.now.max(now);
        self.outbound().send(outbound)
    }

    fn check_room(
        &mut self,
        now: Time,
        from: Key,
        (to, room): (ActorId, QueueRoom),
        mode: SendMode,
    ) -> Result<(), Undelivered> {
        self.cx.now = self.cx.now.max(now);
        let peer = self.peers.get_mut(to.node()).ok_or(Undelivered::NoNode)?;
        peer.check_room(&mut self.cx, from, (to, room), mode)
    }

    fn payload_rules(&self) -> PayloadRules {
        let bytes_max = self.cx.settings.profile.limits.message_bytes_max as usize;
        PayloadRules { bytes_max, check: check_body }
    }

    fn withdraw(&mut self, now: Time, request_id: RequestId) -> AskError {
        self.cx.now = self.cx.now.max(now);
        self.outbound().withdraw_request(request_id)
    }

    fn signal(&mut self, now: Time, signal: Signal) {
        self.cx.now = self.cx.now.max(now);
        self.outbound().signal_peer(signal);
    }

    fn notice(&mut self, now: Time, notice: Notice) {
        self.cx.now = self.cx.now.max(now);
        match notice {
            Notice::Exited { actor } => {
                self.names.unregister_all(actor);
                self.cx.access.forget(actor);
                self.forget_room_waiter(actor);
            }
            Notice::RequestClosed { request_id } => self.on_request_closed(request_id),
            Notice::RoomNotAwaited { sender, address } => {
                if let Some(peer) = self.peers.get_mut(address.node()) {
                    peer.end_room_wait(&mut self.cx, sender, address.key());
                }
            }
            Notice::ReplyDropped { node, request_id, reason } => {
                self.outbound().drop_reply(node, request_id, reason)
            }
        }
    }
}

/// The node that a loop is part of.
pub(crate) fn node_mut<'c>(loop_ref: &'c mut LoopRef<'_>) -> Option<&'c mut NodeCore> {
    let now = loop_ref.now();
    let core = loop_ref.transport::<NodeCore>()?;
    core.advance(now);
    Some(core)
}

/// The key of no actor. It stands where a message or signal has no actor as sender or receiver.
const NO_ACTOR: Key = Key::from_bits(u64::MAX);

/// Completes a request of this node if it is still open. A closed request has its result already.
pub(crate) fn complete_if_open<R: 'static>(mut requests: Requests<'_>, request_id: RequestId, value: R) {
    if let Err(reason) = requests.complete(request_id, value) {
        tracing::debug!(%reason, "a result came for a closed request");
    }
}
