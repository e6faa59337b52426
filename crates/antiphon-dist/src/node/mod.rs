//! The node's core: what it knows of peers, names and messages under way. Pure: bytes, times and chance come
//! in as arguments, and what it wants done goes out through one door.
//!
//! It stands in the loop as its [`Transport`](antiphon_sched::Transport), where actors' messages reach it; the driver takes it out to
//! `handle` what happened on the network, and puts it back.
//!
//! Invariant: `handle` never fails and never blocks; whatever a peer sends changes only what is the peer's.

#![deny(clippy::wildcard_enum_match_arm)]

mod access_table;
mod announce_relay;
#[cfg(test)]
mod asked_tests;
mod connect_requests;
mod connections;
mod dialer;
mod disconnect;
mod discovery;
mod driver;
mod frames;
mod host_probe;
mod idle_close;
mod inbound;
mod log_throttle;
mod mailbox_budget;
mod monitors;
mod names;
mod outbound;
mod peer_session;
mod peer_watch;
mod peers;
mod relay_table;
mod replies;
mod settings;
mod signals;
#[cfg(test)]
mod testing;
mod timers;

pub use driver::{ConnId, Driver, Input, Output, OverTls};
pub use names::Space;
pub(crate) use names::{FoundName, LookupStart};
pub(crate) use settings::Settings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use antiphon_sched::{ActorId, Budget, ExitReason, Key, LoopRef, MonitorId, NodeId, RequestId, Time};
use antiphon_wire as wire;

use crate::access::AccessPolicy;
use crate::files::SendSlots;
use crate::location::Location;
use crate::peer_limits::Refusals;
use access_table::AccessTable;
use announce_relay::AnnounceRelays;
use connect_requests::ConnectRequests;
use connections::Connections;
use dialer::Dialer;
use discovery::Discovery;
use host_probe::HostProbes;
use inbound::PendingReceipts;
use log_throttle::LogThrottle;
use names::NameRegistry;
use peer_watch::PeerWatches;
use peers::Peer;
use relay_table::RelayTable;
use replies::Replies;
use timers::{NodeTimer, TimerQueue};

/// The core of one node.
#[derive(Debug)]
pub struct NodeCore {
    me: NodeId,
    settings: Settings,
    now: Time,
    /// Name this node's half of each session.
    epochs: wire::Epochs,
    timers: TimerQueue,
    connections: Connections,
    peers: BTreeMap<NodeId, Peer>,
    /// Peers that have something to transmit.
    dirty: Vec<NodeId>,
    /// Peers of which messages wait for full mailboxes.
    backlog: BTreeSet<NodeId>,
    dials: Dialer,
    connect_requests: ConnectRequests,
    names: NameRegistry,
    access: AccessTable,
    subscriptions: RelayTable,
    receipts: PendingReceipts,
    /// Of peers' messages and values, what waits in mailboxes.
    mailbox_budget: Budget,
    replies: Replies,
    discovery: Discovery,
    probes: HostProbes,
    announce_relays: AnnounceRelays,
    watchers: PeerWatches,
    log_throttle: LogThrottle,
    send_slots: SendSlots,
    /// What could not be told at once, because no door was at hand.
    notes: Vec<LoopAction>,
    /// Look-ups that came back where no world was at hand.
    resolved: Vec<(u64, Result<Vec<SocketAddr>, String>)>,
    counts: Counts,
    requests: u64,
    leaving: bool,
}

/// Something to tell the loop as soon as there is a door.
#[derive(Debug)]
enum LoopAction {
    Down { watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason },
    Refuse(RequestId, antiphon_sched::AskError),
    DeadLetter(ActorId, &'static str, antiphon_sched::Undelivered),
    Receipt(u64, antiphon_sched::Undelivered),
    Writable(Key, NodeId),
}

/// How a node is doing: sizes of its tables, and what it refused since its start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that are connected or were heard of.
    pub peers: usize,
    /// Names registered here.
    pub names: usize,
    /// Names looked for, here and by peers.
    pub lookups: usize,
    /// Channels elsewhere that have subscribers here.
    pub relays: usize,
    /// Messages that await a receipt.
    pub receipts: usize,
    /// Open requests whose replies are with other nodes.
    pub replies: usize,
    /// Monitors across nodes, in both directions.
    pub monitors: usize,
    /// Actors that are told of peers' statuses; some may have ended.
    pub watchers: usize,
    /// Open connections, with those that are not proven yet.
    pub connections: usize,
    /// Bytes that wait for full mailboxes.
    pub backlog_bytes: u64,
    /// Handshakes that were refused, here or by the other side.
    pub refused_handshakes: u64,
    /// Datagrams that were dropped.
    pub refused_datagrams: u64,
    /// Messages from peers that reached nobody.
    pub refused_messages: u64,
    /// Sessions that ended because the peer broke the protocol.
    pub misbehaved: u64,
    /// Connections that ended because a record on them did not open: damaged, lost, repeated, or somebody else's.
    pub broken_connections: u64,
    /// Connections that were lost while frames on them were not acknowledged.
    pub cut_with_unacked: u64,
    /// What peers were refused because they may not have it.
    pub refusals: Refusals,
}

impl NodeCore {
    /// A core that knows nobody.
    pub(crate) fn new(me: NodeId, settings: Settings) -> Self {
        Self {
            me,
            send_slots: SendSlots::new(settings.transfers_max),
            settings,
            now: Time::ZERO,
            epochs: wire::Epochs::default(),
            timers: TimerQueue::default(),
            connections: Connections::default(),
            peers: BTreeMap::new(),
            dirty: Vec::new(),
            backlog: BTreeSet::new(),
            dials: Dialer::default(),
            connect_requests: ConnectRequests::default(),
            names: NameRegistry::default(),
            access: AccessTable::default(),
            subscriptions: RelayTable::default(),
            receipts: PendingReceipts::default(),
            mailbox_budget: Budget::default(),
            replies: Replies::default(),
            discovery: Discovery::default(),
            probes: HostProbes::default(),
            announce_relays: AnnounceRelays::default(),
            watchers: PeerWatches::default(),
            log_throttle: LogThrottle::default(),
            notes: Vec::new(),
            resolved: Vec::new(),
            counts: Counts::default(),
            requests: 0,
            leaving: false,
        }
    }

    /// The core of a node without a driver, that listens at `location`: for simulators and tests. It dials
    /// inside `networks` when others tell it to.
    ///
    /// # Errors
    /// The configuration says what no node can do.
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

    /// Where this node takes connections.
    pub fn location(&self) -> Location {
        self.settings.location
    }

    /// The files that this node sends.
    pub(crate) fn send_slots(&mut self) -> &mut SendSlots {
        &mut self.send_slots
    }

    /// What peers were refused: to be counted by whoever refuses them.
    pub(crate) fn refusals(&mut self) -> &mut Refusals {
        &mut self.counts.refusals
    }

    /// Who may call an RCI that says nothing else.
    pub(crate) fn rci_access(&self) -> AccessPolicy {
        self.settings.rci_access.clone()
    }

    /// How many actors an RCI of this node keeps alive for one calling node.
    pub(crate) fn rci_actors_max(&self) -> usize {
        self.settings.rci_actors_max
    }

    /// How the node is doing.
    pub fn counts(&self) -> Counts {
        Counts {
            peers: self.peers.len(),
            names: self.names.given_len(),
            lookups: self.names.lookups_len(),
            relays: self.subscriptions.len(),
            receipts: self.receipts.len(),
            replies: self.replies.len(),
            monitors: self.peers.values().map(Peer::monitors_len).sum(),
            watchers: self.peer_watchers().len(),
            connections: self.connections.len(),
            backlog_bytes: self.peers.values().map(Peer::backlog_bytes).sum(),
            ..self.counts
        }
    }

    /// When [`Input::Tick`] should come at the latest. Changes with every other call.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Whether something waits to be told or sent: a tick should come at once.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
            || !self.notes.is_empty()
            || !self.resolved.is_empty()
            || self.names.has_fresh()
            || self.dials.has_fresh()
    }

    /// Takes what happened.
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
            // What has arrived meanwhile comes before what was due.
            Input::Stalled(span) => return self.forgive(span),
            Input::Tick => self.retry_backlogs(driver),
            Input::Leave => self.leave(driver),
        }
        self.tick(driver);
    }

    fn start(&mut self, driver: &mut impl Driver) {
        self.announce(driver);
        for at in self.settings.peers.clone() {
            self.dial_for_ever(at);
        }
    }

    /// Does all that is due.
    fn tick(&mut self, driver: &mut impl Driver) {
        for (query, found) in std::mem::take(&mut self.resolved) {
            self.on_resolved(query, found, driver);
        }
        while let Some(due) = self.timers.take_due(self.now) {
            self.on_due(due, driver);
        }
        self.answer_fresh(driver);
        self.run_loop_actions(driver);
        self.start_dials(driver);
        self.transmit(driver);
    }

    fn on_due(&mut self, due: NodeTimer, driver: &mut impl Driver) {
        match due {
            NodeTimer::Session(node) => self.on_session_due(node, driver),
            NodeTimer::Idle(node) => self.on_idle_due(node, driver),
            NodeTimer::Dial(at) => self.dials.wake(at),
            NodeTimer::Disconnect(node) => self.on_disconnect_due(node, driver),
            NodeTimer::Missing(node) => self.on_missing(node),
            NodeTimer::HalfOpen(conn) => self.on_half_open(conn, driver),
            NodeTimer::Receipt(request) => self.on_receipt_due(request, driver),
            NodeTimer::Lookup(lookup) => self.on_lookup_due(lookup, driver),
            NodeTimer::LookUp(query) => self.on_look_up(query),
            NodeTimer::ConnectRequest(request_id) => self.on_connect_request_due(request_id, driver),
            NodeTimer::Backlog(node) => self.on_backlog_due(node, driver),
            NodeTimer::Unreached(node) => self.on_unreached(node, driver),
            NodeTimer::Probe(host) => self.on_probe_due(host, driver),
            NodeTimer::Answer(to) => self.answer_probe(to, driver),
            NodeTimer::Announce => self.announce(driver),
        }
    }

    fn run_loop_actions(&mut self, driver: &mut impl Driver) {
        for note in std::mem::take(&mut self.notes) {
            match note {
                LoopAction::Down { watcher, id, actor, reason } => {
                    driver.loop_ref().down(watcher, id, actor, reason)
                }
                LoopAction::Refuse(request_id, reason) => driver.loop_ref().fail_request(request_id, reason),
                LoopAction::DeadLetter(to, what, reason) => driver.loop_ref().dead_letter(to, what, reason),
                LoopAction::Receipt(request, reason) => self.refuse_receipt(request, reason, driver),
                LoopAction::Writable(writer, node) => driver.loop_ref().writable(writer, node),
            }
        }
    }

    fn leave(&mut self, driver: &mut impl Driver) {
        if std::mem::replace(&mut self.leaving, true) {
            return;
        }
        self.farewell(driver);
        self.say_bye(driver);
    }

    /// The loop's time, before a call that is not `handle`.
    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// A host was looked up; `query` is the number that [`Output::Resolve`] gave.
    pub fn resolved(&mut self, query: u64, found: Result<Vec<SocketAddr>, String>) {
        self.resolved.push((query, found));
    }

    fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    fn wire_now(&self) -> wire::Time {
        wire::Time::from_nanos(self.now.as_nanos())
    }

    /// Re-checks the invariants of all tables and sessions: for a simulator, after each event.
    ///
    /// # Panics
    /// If one does not hold: a bug.
    pub fn check(&self) {
        for (node, peer) in &self.peers {
            peer.check();
            let is_dirty = peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.dirty);
            assert_eq!(is_dirty, self.dirty.contains(node), "a link that is dirty is listed, once");
        }
        self.names.check(&self.timers);
        let is_linked = |node: &NodeId| self.peers.get(node).is_some_and(|peer| peer.peer_session.is_some());
        assert!(self.names.asked_peers().all(|node| is_linked(&node)), "who was asked is linked");
        self.receipts.check(&self.timers);
        self.check_mailbox_budget();
        self.replies.check();
        self.dials.check(&self.timers);
        self.connections.check(&self.timers);
    }
}

/// No actor of any loop: also who sends from outside of all actors.
const NOBODY: Key = Key::from_bits(u64::MAX);

/// Answers a request of this node's, unless it is over: then its asker was told so.
pub(crate) fn settle<R: 'static>(loop_ref: &mut LoopRef<'_>, request_id: RequestId, value: R) {
    if let Err(reason) = loop_ref.complete_request(request_id, value) {
        tracing::debug!(%reason, "nobody waits any more for an answer");
    }
}

fn wire_key(key: Key) -> wire::Key {
    wire::Key(key.to_bits())
}

fn sched_key(key: wire::Key) -> Key {
    Key::from_bits(key.0)
}

fn wire_node(node: NodeId) -> wire::NodeId {
    wire::NodeId(node.to_bits())
}

fn sched_node(node: wire::NodeId) -> NodeId {
    NodeId::from_bits(node.0)
}
