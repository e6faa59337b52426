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
pub(crate) use names::{FoundName, LookupStart};
pub(crate) use payload_faults::check_body;
pub(crate) use peer_session::is_flood;
pub(crate) use receipts::log_failed_delivery;
pub(crate) use settings::Settings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use antiphon_sched::{
    ActorId, Budget, DeadLetter, EncodedValue, ExitReason, Key, MonitorId, NodeId, RequestId, Requests, Time,
};
use antiphon_wire as wire;

use crate::access::AccessPolicy;
use crate::credentials::Credentials;
use crate::files::OutgoingFiles;
use crate::location::Location;
use crate::peer_limits::Refusals;
use access_table::AccessTable;
use announce_relay::AnnounceRelays;
use awaited_replies::AwaitedReplies;
use channel_relay_table::ChannelRelayTable;
use connect_requests::ConnectRequests;
use connections::Connections;
use dialer::Dialer;
use discovery::Discovery;
use ended_sessions::EndedSessions;
use host_discovery::HostProbes;
use known_nodes::{EndedNodes, NamedNodes};
use location_index::LocationIndex;
use log_throttle::LogThrottle;
use names::NameRegistry;
use peer_watch::PeerWatches;
use peers::Peer;
use receipts::PendingReceipts;
use timers::{NodeTimer, TimerQueue};

/// The core of one node.
#[derive(Debug)]
pub struct NodeCore {
    me: NodeId,
    settings: Settings,
    now: Time,
    /// The source of the epochs of this node's sessions.
    epochs: wire::Epochs,
    timers: TimerQueue,
    connections: Connections,
    peers: BTreeMap<NodeId, Peer>,
    locations: LocationIndex,
    named_nodes: NamedNodes,
    ended_nodes: EndedNodes,
    /// Peers with a session that may have frames to transmit, each once.
    dirty: Vec<NodeId>,
    ended_sessions: EndedSessions,
    /// Peers with messages that wait for full mailboxes.
    backlogged: BTreeSet<NodeId>,
    dialer: Dialer,
    connect_requests: ConnectRequests,
    names: NameRegistry,
    access: AccessTable,
    channel_relays: ChannelRelayTable,
    receipts: PendingReceipts,
    /// The bytes of messages of all peers that wait in backlogs and mailboxes.
    all_peers_budget: Budget,
    /// The bytes of replies and values of all peers that wait in mailboxes.
    all_replies_budget: Budget,
    /// When the budgets of all peers were swept last.
    budgets_swept_at: Option<Time>,
    /// Peers whose credit is held because they use too many bytes.
    holding_credit: BTreeSet<NodeId>,
    /// Peers at which senders wait for room; perhaps some more.
    with_room_waiters: BTreeSet<NodeId>,
    /// Bytes that wait to be transmitted to all peers, or for their sessions. Each peer counts its own by `Peer::count_queue`.
    queued_total: u64,
    /// Whether messages were refused because of `queued_total`.
    was_refused_by_total: bool,
    /// The frames of the last input that need no credit.
    control_frames: u64,
    replies: AwaitedReplies,
    discovery: Discovery,
    host_probes: HostProbes,
    announce_relays: AnnounceRelays,
    peer_watches: PeerWatches,
    log_throttle: LogThrottle,
    outgoing_files: OutgoingFiles,
    /// Actions that wait for the next call with access to the loop.
    loop_actions: Vec<LoopAction>,
    /// Results of host queries that wait for the next call with a driver.
    resolved: Vec<(u64, Result<Vec<SocketAddr>, String>)>,
    /// Credentials that wait for the next call with a driver.
    new_credentials: Option<Credentials>,
    counts: Counts,
    /// See [`NodeCore::steps`].
    steps: u64,
    /// The last number given to a host query, receipt or lookup.
    last_number: u64,
    leaving: bool,
}

/// A change to the loop that the core makes as soon as it has access to the loop.
#[derive(Debug)]
enum LoopAction {
    Down { watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason<EncodedValue> },
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
            me,
            outgoing_files: OutgoingFiles::new(settings.transfers_max),
            settings,
            now: Time::ZERO,
            epochs: wire::Epochs::default(),
            timers: TimerQueue::default(),
            connections: Connections::default(),
            peers: BTreeMap::new(),
            locations: LocationIndex::default(),
            named_nodes: NamedNodes::default(),
            ended_nodes: EndedNodes::default(),
            dirty: Vec::new(),
            ended_sessions: EndedSessions::default(),
            backlogged: BTreeSet::new(),
            dialer: Dialer::default(),
            connect_requests: ConnectRequests::default(),
            names: NameRegistry::default(),
            access: AccessTable::default(),
            channel_relays: ChannelRelayTable::default(),
            receipts: PendingReceipts::default(),
            all_peers_budget: Budget::default(),
            all_replies_budget: Budget::default(),
            budgets_swept_at: None,
            holding_credit: BTreeSet::new(),
            with_room_waiters: BTreeSet::new(),
            queued_total: 0,
            control_frames: 0,
            was_refused_by_total: false,
            replies: AwaitedReplies::default(),
            discovery: Discovery::default(),
            host_probes: HostProbes::default(),
            announce_relays: AnnounceRelays::default(),
            peer_watches: PeerWatches::default(),
            log_throttle: LogThrottle::default(),
            loop_actions: Vec::new(),
            resolved: Vec::new(),
            new_credentials: None,
            counts: Counts::default(),
            steps: 0,
            last_number: 0,
            leaving: false,
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
        self.me
    }

    /// The location at which this node accepts connections.
    pub fn location(&self) -> Location {
        self.settings.location
    }

    /// The files that this node sends.
    pub(crate) fn outgoing_files(&mut self) -> &mut OutgoingFiles {
        &mut self.outgoing_files
    }

    /// The counts of refusals. Each service counts its own here.
    pub(crate) fn refusals(&mut self) -> &mut Refusals {
        &mut self.counts.refusals
    }

    /// The access policy of an RCI that has none of its own.
    pub(crate) fn rci_access(&self) -> AccessPolicy {
        self.settings.rci_access.clone()
    }

    /// The number of actors that one RCI of this node may run at a time for one calling node.
    pub(crate) fn rci_actors_max(&self) -> usize {
        self.settings.rci_actors_max
    }

    /// The present counts.
    pub fn counts(&self) -> Counts {
        Counts {
            peers: self.peers.len(),
            online: self.peers.values().filter(|peer| peer.is_online()).count(),
            names: self.names.user_names_len(),
            lookups: self.names.lookups_len(),
            channel_relays: self.channel_relays.len(),
            receipts: self.receipts.len(),
            replies: self.replies.len(),
            monitors: self.peers.values().map(Peer::monitors_len).sum(),
            watchers: self.peer_watchers().len(),
            connections: self.connections.len(),
            backlog_bytes: self.peers.values().map(Peer::backlog_bytes).sum(),
            ..self.counts
        }
    }

    /// The latest time for the next [`Input::Tick`]. Every other call may change it.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// The bytes that this node holds for one peer: frames that wait for it, and what it has sent that waits here. 0 if the
    /// node is unknown.
    pub fn held_bytes(&self, node: NodeId) -> u64 {
        self.peers.get(&node).map_or(0, Peer::held_bytes)
    }

    /// The steps of work since the start: frames received and moved, nodes of routes, reports, and timers. A simulator checks how
    /// many one input causes.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether there is work for an immediate [`Input::Tick`].
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
            || !self.loop_actions.is_empty()
            || !self.resolved.is_empty()
            || self.new_credentials.is_some()
            || self.names.has_pending()
            || self.dialer.has_pending()
            || !self.ended_sessions.is_empty()
    }

    /// Handles one event, and then all timers that are due.
    pub fn handle(&mut self, now: Time, input: Input<'_>, driver: &mut impl Driver) {
        self.now = self.now.max(now);
        match input {
            Input::Start => self.start(driver),
            Input::Accepted { conn, tls } => self.on_accepted(conn, tls),
            Input::Connected { conn, tls } => self.on_connected(conn, tls, driver),
            Input::TlsFailed { conn, fault } => self.on_tls_failed(conn, fault, driver),
            Input::DialFailed { conn, refused } => self.on_dial_failed(conn, refused, driver),
            Input::Received(conn, count) => self.on_received(conn, count, driver),
            Input::Written(conn, count) => self.on_written(conn, count, driver),
            Input::Closed(conn) => self.on_closed(conn, driver),
            Input::Datagram(from, bytes) => self.on_datagram(from, bytes, driver),
            Input::Networks(networks) => self.settings.set_own_networks(networks),
            // No tick: the data that arrived during the pause is handled before the timers.
            Input::Stalled(span) => return self.on_stalled(span),
            Input::Tick => self.take_turns(driver),
            Input::Leave => self.leave(driver),
        }
        self.tick(driver);
    }

    fn start(&mut self, driver: &mut impl Driver) {
        self.announce(driver);
        for at in self.settings.peers.clone() {
            self.dial_configured(at);
        }
    }

    /// Runs the timers that are due, and sends the results.
    fn tick(&mut self, driver: &mut impl Driver) {
        for (query, found) in std::mem::take(&mut self.resolved) {
            self.on_resolved(query, found, driver);
        }
        while let Some(due) = self.timers.take_due(self.now) {
            self.steps += 1;
            self.on_due(due, driver);
        }
        if !self.ended_sessions.is_empty() {
            self.report_ended_sessions(driver);
        }
        self.complete_pending_lookups();
        self.run_loop_actions(driver);
        self.use_new_credentials(driver);
        self.start_dials(driver);
        self.transmit(driver);
    }

    fn on_due(&mut self, due: NodeTimer, driver: &mut impl Driver) {
        match due {
            NodeTimer::Session(node) => self.on_session_due(node, driver),
            NodeTimer::Idle(node) => self.on_idle_due(node, driver),
            NodeTimer::Dial(at) => self.dialer.schedule(at),
            NodeTimer::Disconnect(node) => self.on_disconnect_due(node, driver),
            NodeTimer::Redial(node) => self.on_redial_due(node),
            NodeTimer::Connection(conn) => self.on_connection_due(conn, driver),
            NodeTimer::Receipt(receipt_number) => self.on_receipt_due(receipt_number, driver),
            NodeTimer::Lookup(lookup_number) => self.on_lookup_due(lookup_number, driver),
            NodeTimer::Resolve(query) => self.on_resolve_due(query),
            NodeTimer::ConnectRequest(request_id) => self.on_connect_request_due(request_id, driver),
            NodeTimer::Backlog(node) => self.on_backlog_due(node, driver),
            NodeTimer::Unreached(node) => self.on_unreached(node, driver),
            NodeTimer::Probe(host) => self.on_probe_due(host, driver),
            NodeTimer::ProbeReply(to) => self.reply_to_probe(to, driver),
            NodeTimer::Predecessor(node) => self.on_predecessor_due(node, driver),
            NodeTimer::Credentials => self.on_credentials_due(driver),
            NodeTimer::Announce => self.announce(driver),
            NodeTimer::Hints => self.begin_waiting_hints(),
            NodeTimer::Named => self.on_named_due(),
        }
    }

    fn run_loop_actions(&mut self, driver: &mut impl Driver) {
        for action in std::mem::take(&mut self.loop_actions) {
            self.steps += 1;
            match action {
                LoopAction::Down { watcher, id, actor, reason } => {
                    driver.local().signals().down(watcher, id, actor, reason)
                }
                LoopAction::FailRequest(request_id, reason) => {
                    driver.local().requests().fail(request_id, reason)
                }
                LoopAction::DeadLetter(dead_letter) => driver.local().dead_letter(dead_letter),
                LoopAction::FailReceipt(receipt_number, reason) => {
                    self.refuse_receipt(receipt_number, reason, driver)
                }
                LoopAction::Writable(writer, target) => driver.local().mailboxes().writable(writer, target),
            }
        }
    }

    fn leave(&mut self, driver: &mut impl Driver) {
        if std::mem::replace(&mut self.leaving, true) {
            return;
        }
        self.send_goodbyes(driver);
        self.broadcast_bye(driver);
        self.report_all_ended(driver);
    }

    /// Sets the time of the loop, before a call other than `handle`.
    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Takes the result of a host query; `query` is the number from [`Output::Resolve`].
    pub fn resolved(&mut self, query: u64, found: Result<Vec<SocketAddr>, String>) {
        self.resolved.push((query, found));
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Checks the invariants of all tables and sessions. It takes time in all that waits; a simulator calls it after some events.
    ///
    /// # Panics
    /// If an invariant does not hold, which is a bug.
    pub fn check(&self) {
        for (node, peer) in &self.peers {
            peer.check(self.settings.limits(), &self.settings.peer_limits);
            let is_dirty = peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.dirty);
            assert_eq!(is_dirty, self.dirty.contains(node), "`dirty` lists the dirty sessions");
        }
        let queued: u64 = self.peers.values().map(Peer::queued_bytes).sum();
        assert_eq!(self.queued_total, queued, "the total has the queues of all peers");
        self.names.check(&self.timers);
        let has_session =
            |node: &NodeId| self.peers.get(node).is_some_and(|peer| peer.peer_session.is_some());
        assert!(
            self.names.asked_peers().all(|node| has_session(&node)),
            "lookups wait only for peers with a session"
        );
        self.receipts.check(&self.timers);
        self.check_budgets();
        self.replies.check();
        self.dialer.check(&self.timers);
        self.check_known_nodes();
        self.locations.check(&self.peers);
        self.connections.check(&self.timers);
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
