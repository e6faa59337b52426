//! Another node, as this one knows it: its locations, its session, and what waits for it or came from it.
//!
//! A peer sees neither other peers nor the table of them. What is shared it gets as an argument.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use antiphon_sched::{NodeId, Origin, Undelivered};
use antiphon_wire::{Limits, Session};

use super::backlog::Backlog;
use super::context::NodeCx;
use super::known_nodes::{Ended, Naming};
use super::mailbox_budget::{MailboxBudget, PeerBudget};
use super::peer_monitors::PeerMonitors;
use super::peer_session::PeerSession;
use super::room_waiters::RoomWaiters;
use super::timers::NodeTimer;
use super::token_bucket::TokenBucket;
use super::waiting_outbound::WaitingOutbound;
use crate::certificates::Fingerprint;
use crate::error::{DialError, Status};
use crate::location::Location;
use crate::peer_limits::PeerLimits;

/// Another node, as this one knows it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) name: String,
    /// The locations at which this node may dial it.
    pub(super) locations: Vec<SocketAddr>,
    /// The location that actors see. The peer states it, so this node does not dial it for that reason alone.
    pub(super) shown_location: Option<SocketAddr>,
    /// The location at which this node reached it last by a dial, which the peer need not state.
    pub(super) reached_at: Option<SocketAddr>,
    /// A location that it states, at which a dial has found it while it was connected.
    pub(super) found_at: Option<SocketAddr>,
    /// All locations that the peer states, best first. This node passes them on to other nodes.
    pub(super) stated_locations: Vec<SocketAddr>,
    /// The peer takes no part in discovery: this node does not name it there.
    pub(super) undiscovered: bool,
    /// The certificate that the peer presented, if TLS is in use. Meaningless before the first session.
    pub(super) certificate: Option<Fingerprint>,
    /// The other end of its last connection.
    pub(super) remote: Option<IpAddr>,
    /// The origin of its messages, with the count of its open requests.
    pub(super) origin: Option<Origin>,
    /// The bytes of its messages that wait at this node.
    pub(super) budget: MailboxBudget,
    /// Its messages and signals that wait for mailboxes.
    pub(super) backlog: Backlog,
    /// The actors of this node that await room for messages to it.
    pub(super) room_waiters: RoomWaiters,
    /// Counts the subscribers that the peer has added to channels of this node: each holds a clone.
    pub(super) subscriptions: Arc<()>,
    /// `None` before the first session.
    pub(super) status: Option<Status>,
    /// Why dials of the peer are refused, while it has no connection.
    pub(super) refusal: Option<DialError>,
    pub(super) peer_session: Option<Box<PeerSession>>,
    /// Messages and signals that wait for a session.
    pub(super) waiting: WaitingOutbound,
    /// What the node's total has of this peer's queues, in bytes.
    counted_queue: u64,
    /// Another incarnation runs at its location, so this one never returns.
    pub(super) replaced_by_restart: bool,
    /// It has sent a goodbye because its process ends, so it never returns.
    pub(super) has_left: bool,
    /// Whether its connection stays open when nothing needs it. `None` means the setting of this node.
    pub(super) keep_open: Option<bool>,
    /// One of the two nodes has ended their session, and neither has connected again since.
    pub(super) no_auto_dial: bool,
    pub(super) monitors: PeerMonitors,
    /// How it has become known, if it was never met.
    pub(super) naming: Option<Naming>,
    /// How many nodes it may name.
    pub(super) namings: TokenBucket,
    /// Its place among the incarnations whose sessions have ended.
    pub(super) ended: Option<Ended>,
}

impl Peer {
    /// The bytes that wait to be transmitted to it, or for a session.
    pub(super) fn queued_bytes(&self) -> u64 {
        let session =
            self.peer_session.as_ref().map_or(0, |peer_session| peer_session.session.queued_bytes());
        session + self.waiting.bytes()
    }

    /// Counts its queues in the total of all peers.
    pub(super) fn count_queue(&mut self, total: &mut u64) {
        let queued = self.queued_bytes();
        *total = *total - self.counted_queue + queued;
        self.counted_queue = queued;
    }

    /// Notes that its session has, or may have, something to transmit.
    pub(super) fn mark_dirty(&mut self, cx: &mut NodeCx) {
        self.count_queue(&mut cx.queues.bytes);
        if let Some(peer_session) = self.peer_session.as_mut()
            && !peer_session.dirty
        {
            peer_session.dirty = true;
            cx.work.dirty.push(self.node);
        }
    }

    /// Sets the timer of its session to the next deadline.
    pub(super) fn arm_session(&mut self, cx: &mut NodeCx) {
        let Some(peer_session) = &mut self.peer_session else { return };
        let due = peer_session.session.poll_timeout();
        match (due, peer_session.timer) {
            (Some(at), None) => {
                peer_session.timer = Some(at);
                cx.timers.add(at, NodeTimer::Session(self.node));
            }
            (Some(at), Some(timer)) if at < timer => {
                cx.timers.remove(timer, NodeTimer::Session(self.node));
                peer_session.timer = Some(at);
                cx.timers.add(at, NodeTimer::Session(self.node));
            }
            // The timer fires before the deadline, and is set again then.
            (Some(_) | None, _) => {}
        }
    }

    /// Logs that it exceeds one of its limits. `what` is the predicate of the line's sentence.
    pub(super) fn log_refused(&self, cx: &mut NodeCx, kind: &'static str, what: &'static str) {
        let node = self.node;
        if cx.log.may_about_node(cx.now, kind, node) {
            tracing::warn!(%node, name = self.name, "a peer {what}, and is refused (logged at most once an hour)");
        }
    }

    pub(super) fn new(node: NodeId, name: &str, locations: Vec<SocketAddr>) -> Self {
        Self {
            node,
            name: name.to_owned(),
            shown_location: locations.first().copied(),
            stated_locations: locations.clone(),
            reached_at: None,
            found_at: None,
            undiscovered: false,
            locations,
            certificate: None,
            remote: None,
            origin: None,
            budget: MailboxBudget::default(),
            backlog: Backlog::default(),
            room_waiters: RoomWaiters::default(),
            subscriptions: Arc::new(()),
            status: None,
            refusal: None,
            peer_session: None,
            waiting: WaitingOutbound::default(),
            counted_queue: 0,
            replaced_by_restart: false,
            has_left: false,
            keep_open: None,
            no_auto_dial: false,
            monitors: PeerMonitors::new(node),
            naming: None,
            namings: TokenBucket::default(),
            ended: None,
        }
    }

    /// After the end of its session: frees what nothing refers to.
    pub(super) fn release_unused(&mut self) {
        self.budget.release_unused();
        self.origin.take_if(|origin| origin.requests() == 0);
    }

    pub(super) fn location(&self) -> Option<Location> {
        self.shown_location.map(Location::new)
    }

    /// The reason for what cannot be sent to the peer, which has no session.
    pub(super) fn undelivered(&self) -> Undelivered {
        self.refusal
            .map_or(Undelivered::NoNode, |refusal| Undelivered::NodeRefused(refusal.to_string().into()))
    }

    pub(super) fn is_online(&self) -> bool {
        matches!(self.status, Some(Status::Online | Status::Suspect))
    }

    /// The locations at which it is shown, may be dialled, or was reached.
    pub(super) fn all_locations(&self) -> impl Iterator<Item = SocketAddr> {
        let found = self.reached_at.iter().chain(&self.found_at);
        self.locations.iter().chain(&self.shown_location).chain(found).copied()
    }

    /// Whether the peer is shown at this location, or may be dialled there.
    pub(super) fn is_at(&self, at: SocketAddr) -> bool {
        self.shown_location == Some(at) || self.locations.contains(&at)
    }

    /// Whether dials of this location concern the peer.
    pub(super) fn is_dialled_at(&self, at: SocketAddr) -> bool {
        self.is_at(at) || self.was_found_at(at)
    }

    /// Whether there is a session with the peer, and this node has found it at this location. What the peer states is not enough: a
    /// member may state the location of another node.
    pub(super) fn was_reached_at(&self, at: SocketAddr) -> bool {
        let peer_session = self.peer_session.as_ref();
        peer_session.is_some_and(|peer_session| peer_session.dialled == Some(at) || self.was_found_at(at))
    }

    /// Whether a dial of this node has found the peer at this location.
    pub(super) fn was_found_at(&self, at: SocketAddr) -> bool {
        self.reached_at == Some(at) || self.found_at == Some(at)
    }

    /// Whether there is a session with the peer, and it is at this location, or states it.
    pub(super) fn has_session_at(&self, at: SocketAddr) -> bool {
        let peer_session = self.peer_session.as_ref();
        peer_session.is_some_and(|peer_session| peer_session.dialled == Some(at) || self.is_at(at))
    }

    /// Whether it has a connection, or a session that needs none.
    pub(super) fn needs_no_dial(&self) -> bool {
        let peer_session = self.peer_session.as_deref();
        peer_session.is_some_and(|peer_session| peer_session.conn.is_some() || peer_session.idle.is_closed())
    }

    pub(super) fn monitors_len(&self) -> usize {
        self.monitors.len()
    }

    /// Whether there are no monitors between the two nodes, and nothing waits for the peer or came from it and waits.
    pub(super) fn has_nothing_open(&self) -> bool {
        self.monitors_len() == 0 && self.is_forgettable()
    }

    /// Whether nothing waits for the node or came from it.
    fn is_forgettable(&self) -> bool {
        self.waiting.is_empty() && !self.backlog.has_entries() && self.room_waiters.is_empty()
    }

    pub(super) fn backlog_bytes(&self) -> u64 {
        self.backlog.bytes()
    }

    /// The bytes that this node holds for the peer, whatever the node's own actors have sent to it.
    pub(super) fn held_bytes(&self) -> u64 {
        let session = self.peer_session.as_ref().map_or(0, |peer_session| peer_session.session.held_bytes());
        session + self.budget.bytes() + self.waiting.bytes() + self.monitors_len() as u64 * MONITOR_BYTES
    }

    /// The most bytes that a node with these limits holds for a peer.
    fn held_bytes_max(limits: &Limits, peer_limits: &PeerLimits) -> u64 {
        let waiting = 3 * limits.queue_bytes_cap;
        let monitors = 2 * peer_limits.monitors_max as u64 * MONITOR_BYTES;
        Session::held_bytes_max(limits) + PeerBudget::bytes_max(limits) + waiting + monitors
    }

    pub(super) fn check(&self, limits: &Limits, peer_limits: &PeerLimits) {
        let (held, most) = (self.held_bytes(), Peer::held_bytes_max(limits, peer_limits));
        assert!(held <= most, "{held} bytes are held for {}, and the limits allow {most}", self.name);
        self.waiting.check();
        self.backlog.check();
        self.monitors.check();
        if let Some(peer_session) = &self.peer_session {
            peer_session.session.check();
            assert!(
                self.waiting.is_empty() || peer_session.disconnect.is_some(),
                "messages wait for a session only while there is none, or while it is being ended"
            );
            assert_eq!(
                peer_session.conn.is_some(),
                peer_session.session.is_connected(),
                "the session and its entry agree on the connection"
            );
            assert!(
                !peer_session.idle.is_closed() || peer_session.conn.is_none(),
                "an idle session has no connection"
            );
        }
    }
}

/// What a monitor occupies.
const MONITOR_BYTES: u64 = 256;
