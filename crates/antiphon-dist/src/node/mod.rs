//! The core of a node: its peers, names, and messages in transit.
//!
//! The core does no input or output. Bytes, times and random numbers are arguments; its requests for input and output
//! leave through the [`Driver`].
//!
//! The core is the [`Transport`](antiphon_sched::Transport) of the loop and takes the messages of actors there. The
//! program that drives the node calls `handle` for each event of the network, by [`Loop::with_transport`](antiphon_sched::Loop::with_transport).
//!
//! Invariant: `handle` never fails and never blocks. The data of a peer changes only the state that belongs to that peer.

#![deny(clippy::wildcard_enum_match_arm)]

mod access_table;
mod announce_relay;
mod awaited_replies;
mod backlog;
mod channel_relay_table;
mod connect_requests;
mod connections;
mod context;
mod dial_hints;
mod dialer;
mod disconnect;
mod discovery;
mod driver;
mod ended_sessions;
mod frames;
mod host_discovery;
mod idle_close;
mod inbound_messages;
mod inspection;
mod known_nodes;
mod location_index;
mod log_throttle;
mod mailbox_budget;
mod names;
mod outbound_messages;
mod outbound_signals;
mod payload_faults;
mod peer;
#[cfg(test)]
mod peer_monitor_tests;
mod peer_monitors;
mod peer_session;
mod peer_watch;
mod peers;
mod receipts;
mod reload;
mod room_waiters;
mod settings;
#[cfg(test)]
mod testing;
mod timers;
mod token_bucket;
mod waiting_outbound;

pub use driver::{ConnId, Driver, Input, Output, OverTls};
pub use inspection::{NameCursor, NameInfo, NamePage, PeerCursor, PeerInfo, PeerPage, SessionInfo};
pub use names::Space;
pub(crate) use names::{FoundName, LookupStart, WantedName};
pub(crate) use payload_faults::check_body;
pub(crate) use peer_session::is_flood;
pub(crate) use receipts::log_failed_delivery;
pub(crate) use settings::Settings;

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{ActorId, DeadLetter, ExitReason, Key, MonitorId, NodeId, RequestId, Requests, Time};

use antiphon_wire::{Datagram, HandshakeFault, Refusal};

use crate::access::AccessPolicy;
use crate::credentials::Credentials;
use crate::error::{DialError, LocateError, PeerError, RegisterError};
use crate::files::OutgoingFiles;
use crate::location::{Location, PeerAt, PeerOptions};
use crate::peer_limits::Refusals;
use channel_relay_table::ChannelRelayTable;
use context::NodeCx;
use dialer::is_harmless;
use discovery::Discovery;
use names::NameRegistry;
use peer::Peer;
use peer_watch::PeerWatches;
use peers::Peers;
use timers::NodeTimer;

/// The core of one node.
#[derive(Debug)]
pub struct NodeCore {
    cx: NodeCx,
    peers: Peers,
    names: NameRegistry,
    channel_relays: ChannelRelayTable,
    discovery: Discovery,
    peer_watches: PeerWatches,
    outgoing_files: OutgoingFiles,
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
    Down { watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason },
    FailRequest(RequestId, antiphon_sched::AskError),
    DeadLetter(DeadLetter),
    FailReceipt(u64, antiphon_sched::Undelivered),
    Writable(Option<Key>, ActorId),
}

/// The sizes of a node's tables, and the numbers of its refusals and failures since its start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Known nodes, whether they were ever connected or not.
    pub peers: usize,
    /// Names of actors, channels and RCIs that are registered on this node. The node's own services do not count;
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
            outgoing_files: OutgoingFiles::new(settings.transfers_max),
            cx: NodeCx::new(me, settings),
            peers: Peers::default(),
            names: NameRegistry::default(),
            channel_relays: ChannelRelayTable::default(),
            discovery: Discovery::default(),
            peer_watches: PeerWatches::default(),
            control_frames: 0,
            resolved: Vec::new(),
            new_credentials: None,
        }
    }

    /// A core for simulators and tests, which provide their own driver. The node listens at `location`. It dials a
    /// location that another node names only if `networks` contains it.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub fn simulated(
        config: &crate::Config,
        me: NodeId,
        location: Location,
        networks: Vec<(std::net::IpAddr, u8)>,
    ) -> Result<Self, crate::NodeError> {
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

    /// The files that this node sends.
    pub(crate) fn outgoing_files(&mut self) -> &mut OutgoingFiles {
        &mut self.outgoing_files
    }

    /// The counts of refusals. Each service counts its own here.
    pub(crate) fn refusals(&mut self) -> &mut Refusals {
        &mut self.cx.counts.refusals
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

    /// The access policy of an RCI that has none of its own.
    pub(crate) fn rci_access(&self) -> AccessPolicy {
        self.cx.settings.rci_access.clone()
    }

    /// The number of actors that one RCI of this node may run at a time for one calling node.
    pub(crate) fn rci_actors_max(&self) -> usize {
        self.cx.settings.rci_actors_max
    }

    /// The present counts.
    pub fn counts(&self) -> Counts {
        Counts {
            peers: self.peers.len(),
            online: self.peers.iter().filter(|peer| peer.is_online()).count(),
            names: self.names.user_names_len(),
            lookups: self.names.lookups_len(),
            channel_relays: self.channel_relays.len(),
            receipts: self.cx.receipts.len(),
            replies: self.cx.replies.len(),
            monitors: self.peers.iter().map(Peer::monitors_len).sum(),
            watchers: self.peer_watchers().len(),
            connections: self.cx.connections.len(),
            backlog_bytes: self.peers.iter().map(Peer::backlog_bytes).sum(),
            ..self.cx.counts
        }
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
            Input::Connected { conn, tls } => self.on_connected(conn, tls, driver),
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
            self.report_ended_sessions(driver);
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
        self.report_all_ended(driver);
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
            let is_dirty = peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.dirty);
            assert_eq!(is_dirty, self.cx.work.dirty.contains(node), "`dirty` lists the dirty sessions");
        }
        let queued: u64 = self.peers.iter().map(Peer::queued_bytes).sum();
        assert_eq!(self.cx.queues.bytes, queued, "the total has the queues of all peers");
        self.names.check(&self.cx.timers);
        let has_session =
            |node: &NodeId| self.peers.get(*node).is_some_and(|peer| peer.peer_session.is_some());
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
}

/// The key of no actor. It stands where a message or signal has no actor as sender or receiver.
const NO_ACTOR: Key = Key::from_bits(u64::MAX);

/// Completes a request of this node if it is still open. A closed request has its result already.
pub(crate) fn complete_if_open<R: 'static>(mut requests: Requests<'_>, request_id: RequestId, value: R) {
    if let Err(reason) = requests.complete(request_id, value) {
        tracing::debug!(%reason, "a result came for a closed request");
    }
}
