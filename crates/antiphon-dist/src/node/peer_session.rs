//! Sessions with peers.
//!
//! Invariant: the connection of a session is established and belongs to no other session. When a session ends, each open
//! operation on it completes once, in `end_session`, and no result arrives later.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time, Undelivered, with_origin};
use antiphon_wire as wire;
use antiphon_wire::frame::{Close, CloseReason, Goodbye, GoodbyeReason};
use antiphon_wire::{
    CONTROL_FRAMES_AT_ONCE, Frame, HeldCredit, ProvenConnection, Session, SessionError, SessionEvent,
};

use super::NodeCore;
use super::connections::ConnectionState;
use super::disconnect::Disconnect;
use super::driver::{ConnId, Driver, Output};
use super::ended_sessions::EndedSession;
use super::idle_close::IdleClose;
use super::peer::Peer;
use super::peers::PEERS_MAX;
use super::timers::NodeTimer;
use crate::error::Status;
use crate::location::seen_from;

/// The number of sealed bytes in a connection's buffer from which on no more records are sealed.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// How long the accepting side waits for the peer to dial again before it dials itself.
const REDIAL_AFTER: Duration = Duration::from_secs(1);
/// How long a peer may take to answer when another one states its location, or uses its node id.
const PREDECESSOR_WITHIN: Duration = Duration::from_secs(1);
/// The number of refusals of its epoch after which this node ends a session that the peer does not have any more, and how long it must
/// be without a connection before.
const OLD_EPOCHS_MAX: u32 = 3;
const OLD_EPOCHS_FOR: Duration = Duration::from_secs(1);
/// How long a closing connection may take to write its last bytes.
const LINGER: Duration = Duration::from_secs(1);
/// The number of refused dials after which the session with a peer may end.
const REFUSALS_MAX: u32 = 2;
/// How long a peer must be without a connection before refused dials end its session.
const REFUSED_FOR: Duration = Duration::from_millis(100);

/// A session with a peer, and its state in this node.
#[derive(Debug)]
pub(super) struct PeerSession {
    pub(super) session: Session,
    pub(super) conn: Option<ConnId>,
    pub(super) started: Time,
    /// When its last connection was proven.
    pub(super) connected_at: Time,
    /// The peer was asked whether it is still there, since another one may have taken its place.
    inquiry: Option<Inquiry>,
    /// It has not answered this ping in time.
    silent_since: Option<Time>,
    /// The location that this side dialled last for the session, if it did.
    pub(super) dialled: Option<SocketAddr>,
    /// The credit of frames that use too many bytes at this node.
    pub(super) held_credit: Vec<HeldCredit>,
    /// The session may have frames to transmit.
    pub(super) dirty: bool,
    pub(super) idle: IdleClose,
    /// The state of the disconnect, while this side ends the session.
    pub(super) disconnect: Option<Disconnect>,
    /// The time of the `Session` timer, if it is set.
    pub(super) timer: Option<Time>,
    /// When the last connection ended, or when the session was needed again after an idle close.
    pub(super) unconnected_since: Time,
    /// The number of refused dials since then.
    pub(super) refused_dials: u32,
    /// The number of dials since then that the peer refused because of the epoch.
    old_epochs: u32,
}

/// A ping that a peer must answer within [`PREDECESSOR_WITHIN`].
#[derive(Debug)]
struct Inquiry {
    since: Time,
    /// The node that may be at a location of this peer.
    successor: Option<Successor>,
}

/// A node that states a location of another one, or was found there.
#[derive(Copy, Clone, Debug)]
pub(super) struct Successor {
    node: NodeId,
    at: SocketAddr,
    /// This node has dialled the location, and found the successor there.
    is_there: bool,
}

impl PeerSession {
    /// A session that begins now, without a connection.
    pub(super) fn new(session: Session, now: Time) -> Self {
        Self {
            session,
            conn: None,
            started: now,
            connected_at: now,
            inquiry: None,
            silent_since: None,
            dialled: None,
            held_credit: Vec::new(),
            dirty: false,
            idle: IdleClose::new(now),
            disconnect: None,
            timer: None,
            unconnected_since: now,
            refused_dials: 0,
            old_epochs: 0,
        }
    }

    /// Whether the session needs a connection and has none.
    pub(super) fn needs_connection(&self) -> bool {
        self.conn.is_none() && !self.idle.is_closed()
    }

    /// Whether the session has no data in transit, and is not about to end.
    pub(super) fn is_idle(&self) -> bool {
        self.session.is_idle() && self.disconnect.is_none()
    }
}

impl NodeCore {
    /// Attaches a proven connection to the session with `node`. Starts the session if there is none.
    /// False if the connection was closed instead.
    pub(super) fn attach_connection(
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
            (peer.name, peer.shown_location, peer.locations, peer.replaced_by_restart) =
                (name, shown_location, locations, false);
            peer.has_left = false;
            peer.reached_at = dialled.or(peer.reached_at);
        });
        self.peers.note_met(node);
        let Some(peer) = self.peers.get_mut(node) else { return false };
        let was_refused = peer.refusal.take().is_some();
        (peer.stated_locations, peer.undiscovered, peer.no_auto_dial) = (stated, undiscovered, false);
        (peer.certificate, peer.remote) = (certificate, Some(remote.ip()));
        self.cx.connections.note_proven(remote.ip(), self.cx.now);
        let is_new = peer.peer_session.is_none();
        let limits = self.cx.settings.limits();
        let peer_session = peer.peer_session.get_or_insert_with(|| {
            let session = Session::begin(now, limits, self.cx.me, &connection);
            Box::new(PeerSession::new(session, self.cx.now))
        });
        if let Err(reason) = peer_session.session.connected(now, connection) {
            if self.cx.may_log("connection mismatch", node) {
                tracing::warn!(%node, %reason, "a proven connection does not match its session (logged at most once an hour)");
            }
            self.end_session(node, "the peer broke the protocol", driver);
            self.fail_conn(id, driver);
            return false;
        }
        (peer_session.refused_dials, peer_session.old_epochs) = (0, 0);
        peer_session.connected_at = self.cx.now;
        peer_session.idle.set_active(self.cx.now);
        peer_session.dialled = dialled.or(peer_session.dialled);
        let old = peer_session.conn.replace(id).filter(|old| *old != id);
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
        self.set_status(node, Status::Online, driver);
        self.names.repeat_lookups_to(&mut self.cx, &mut self.peers, node);
        self.send_waiting(node);
        self.names.complete_node_lookups(&mut self.cx, &self.peers, node, driver);
    }

    /// This node has dialled a location, and `node` is there. Other nodes that were at it are earlier incarnations, which never
    /// return: their sessions end. A node that is connected is asked first: it may state a wrong location.
    fn supersede_predecessors(&mut self, node: NodeId, at: SocketAddr, driver: &mut impl Driver) {
        let was_there = |peer: &Peer| !peer.replaced_by_restart && peer.is_at(at);
        let old = self.peers.at(at).filter(|peer| peer.node != node && was_there(peer));
        let old: Vec<NodeId> = old.map(|peer| peer.node).collect();
        for old in old {
            let peer_session = self.peers.get(old).and_then(|peer| peer.peer_session.as_ref());
            let may_answer = |peer_session: &PeerSession| {
                let last_received = peer_session.session.last_received();
                peer_session.conn.is_some()
                    && peer_session.silent_since.is_none_or(|since| last_received >= since)
            };
            if peer_session.is_some_and(|peer_session| may_answer(peer_session)) {
                self.ask(old, Some(Successor { node, at, is_there: true }));
            } else {
                self.supersede(old, driver);
            }
        }
    }

    /// Another incarnation runs at the location of a node.
    fn supersede(&mut self, old: NodeId, driver: &mut impl Driver) {
        self.end_session(old, "another incarnation runs at the peer's location", driver);
        if let Some(peer) = self.peers.get_mut(old) {
            peer.replaced_by_restart = true;
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
                |at: &SocketAddr| peer.has_session_at(*at) || (!peer.replaced_by_restart && peer.is_at(*at));
            let Some(at) = stated.iter().copied().find(is_there) else { continue };
            if peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.conn.is_some()) {
                connected.push((other, at));
            } else {
                unconnected.insert(at);
            }
        }
        for (other, at) in connected {
            self.ask(other, Some(Successor { node, at, is_there: false }));
        }
        unconnected
            .into_iter()
            .for_each(|at| self.discovery.dialer.look_at(&mut self.cx, &mut self.peers, node, at));
    }

    /// Sends a ping to a connected peer, which it must answer within [`PREDECESSOR_WITHIN`]. Returns when the ping was sent that it
    /// has to answer.
    pub(super) fn ask(&mut self, node: NodeId, successor: Option<Successor>) -> Option<Time> {
        let now = self.cx.now;
        let peer_session = self.peers.get_mut(node)?.peer_session.as_mut()?;
        if let Some(inquiry) = &mut peer_session.inquiry {
            inquiry.successor = successor.or(inquiry.successor);
            return Some(inquiry.since);
        }
        peer_session.inquiry = Some(Inquiry { since: now, successor });
        peer_session.session.ping(now);
        self.mark_dirty(node);
        self.cx.timers.add(self.cx.now + self.answer_within(), NodeTimer::Predecessor(node));
        Some(now)
    }

    /// How long a peer may take to answer such a ping: connections that wait for it must not time out before.
    pub(super) fn answer_within(&self) -> Duration {
        PREDECESSOR_WITHIN.min(self.cx.settings.limits().handshake_timeout / 2)
    }

    /// A peer was asked whether it is still there, and has had its time to answer. If it has not, or is not connected any more,
    /// another one may have taken its place.
    pub(super) fn on_predecessor_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let (now, answer_within) = (self.cx.now, self.answer_within());
        let mut unanswered = None;
        if let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut())
            && let Some(inquiry) = &peer_session.inquiry
        {
            let is_connected = peer_session.conn.is_some();
            if is_connected && now < inquiry.since + answer_within {
                // The timer is that of an earlier inquiry: each has its own.
                return;
            }
            let has_answered = is_connected && peer_session.session.last_received() >= inquiry.since;
            unanswered = inquiry.successor.filter(|_| !has_answered);
            peer_session.silent_since = (!has_answered).then_some(inquiry.since);
            peer_session.inquiry = None;
        }
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
    pub(super) fn on_old_epoch(
        &mut self,
        at: SocketAddr,
        node: NodeId,
        known: u64,
        driver: &mut impl Driver,
    ) {
        self.discovery.dialer.answered(at, node);
        let now = self.cx.now;
        let peer = self.peers.get_mut(node);
        if let Some(peer_session) = peer.and_then(|peer| peer.peer_session.as_mut()) {
            if !peer_session.needs_connection() || peer_session.session.epoch() > known {
                return;
            }
            peer_session.old_epochs += 1;
            if peer_session.old_epochs < OLD_EPOCHS_MAX
                || now.since(peer_session.unconnected_since) < OLD_EPOCHS_FOR
            {
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
    pub(super) fn receive(&mut self, node: NodeId, id: ConnId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(conn) = self.cx.connections.get(id) else { return };
        let mut deframer = std::mem::take(&mut conn.deframer);
        let Some(peer) = self.peers.get_mut(node) else { return };
        let before = peer.frames_received();
        let origin = peer.take_origin(&self.cx);
        let (received, origin) = with_origin(origin, || self.take_records(now, node, &mut deframer, driver));
        if let Some(conn) = self.cx.connections.get(id) {
            conn.deframer = deframer;
            conn.has_unread = matches!(received, Ok(FrameEffect::Unfinished));
        }
        if let Some(peer) = self.peers.get_mut(node) {
            peer.origin = origin;
            peer.count_queue(&mut self.cx.queues.bytes);
            let received = peer.frames_received();
            self.control_frames = received.control - before.control;
            self.cx.steps += self.control_frames + received.numbered - before.numbered;
        }
        match received {
            // The connection is in use as long as frames are left.
            Ok(FrameEffect::Unfinished) => {
                self.poll_events(node, driver);
                self.mark_dirty(node);
            }
            Ok(FrameEffect::Continue) => {
                self.poll_events(node, driver);
                self.mark_dirty(node);
                self.close_idle(node, driver);
                self.advance_disconnect(node, driver);
            }
            Ok(FrameEffect::Goodbye(reason)) => self.on_goodbye(node, reason, driver),
            Ok(FrameEffect::Rejected) => {
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
                self.send_misbehaved(node, id);
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

    /// Appends a `Close` for the log of a peer that broke the protocol. The end of the session writes it.
    fn send_misbehaved(&mut self, node: NodeId, id: ConnId) {
        let now = self.cx.now;
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        let close = Close { reason: CloseReason::Misbehaved };
        if let Some(conn) = self.cx.connections.get(id)
            && peer_session.session.send_control(&close.into()).is_ok()
        {
            while conn.out.len() < OUT_BYTES_MAX && peer_session.session.poll_transmit(now, &mut conn.out) {}
        }
    }

    /// Handles the records that have arrived on the connection of a session.
    fn take_records(
        &mut self,
        now: Time,
        node: NodeId,
        deframer: &mut wire::Deframer,
        driver: &mut impl Driver,
    ) -> Result<FrameEffect, SessionError> {
        let Some(mut peer) = self.peers.get_mut(node) else { return Ok(FrameEffect::Continue) };
        let control_frames = peer.frames_received().control;
        while let Some(mut frames) = peer.next_record(now, deframer)? {
            while let Some(incoming) = peer.next_frame(now, &mut frames)? {
                let frame = incoming.frame();
                if concerns_node(&frame) {
                    self.on_node_frame(node, &frame, driver);
                    let Some(again) = self.peers.get_mut(node) else { return Ok(FrameEffect::Continue) };
                    peer = again;
                }
                let effect = peer.on_frame(&mut self.cx, &frame, driver);
                if effect != FrameEffect::Continue {
                    return Ok(effect);
                }
            }
            let unread = frames.unread();
            deframer.put_back(unread);
            // A record of which a part is left has had its share.
            if is_flood(peer.frames_received().control - control_frames) {
                return Ok(FrameEffect::Unfinished);
            }
        }
        Ok(FrameEffect::Continue)
    }

    /// Handles what a frame means for other parts of the node than its peer: lookups, and the locations of other nodes.
    fn on_node_frame(&mut self, node: NodeId, frame: &Frame<'_>, driver: &mut impl Driver) {
        match frame {
            Frame::Message(message) => {
                let may_reach = |peer: &Peer| peer.may_reach(&self.cx, message.to);
                if self.peers.get(node).is_some_and(may_reach) {
                    self.peers.learn_route(&mut self.cx, node, message.route);
                }
            }
            Frame::Answer(answer) => self.peers.learn_route(&mut self.cx, node, answer.route),
            Frame::Lookup(lookup) => self.names.on_lookup(&mut self.cx, &mut self.peers, node, lookup),
            Frame::CancelLookup(cancel_lookup) => self.names.forget_lookup_of(node, cancel_lookup.request),
            Frame::Found(found) => self.names.on_found(&mut self.cx, &mut self.peers, node, found, driver),
            Frame::NodeAt(hint) => self.discovery.on_node_at(&mut self.cx, &mut self.peers, node, hint),
            Frame::AnnounceRelay(relay) => {
                let relays = &mut self.discovery.relays;
                relays.on_announce_relay(&mut self.cx, &mut self.peers, node, relay.request, driver);
            }
            Frame::IdleProposed(proposed) => self.on_idle_proposed(node, *proposed, driver),
            Frame::ReplyDropped(_)
            | Frame::PayloadRefused(_)
            | Frame::Receipt(_)
            | Frame::Monitor(_)
            | Frame::Demonitor(_)
            | Frame::Down(_)
            | Frame::Notify(_)
            | Frame::Terminate(_)
            | Frame::Throw(_)
            | Frame::Resume(_)
            | Frame::Goodbye(_)
            | Frame::Lagged(_)
            | Frame::Tag(_)
            | Frame::Fragment(_)
            | Frame::Ack(_)
            | Frame::Credit(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Pause(_)
            | Frame::Unpause(_)
            | Frame::Close(_)
            | Frame::IdleAgreed(_)
            | Frame::Begin(_) => {}
        }
    }

    /// Handles the goodbye of a peer: all its messages have arrived. Those that wait for full mailboxes stay in the backlog.
    fn on_goodbye(&mut self, node: NodeId, reason: GoodbyeReason, driver: &mut impl Driver) {
        if reason != GoodbyeReason::Leaving {
            self.stop_auto_dial(node);
        } else if let Some(peer) = self.peers.get_mut(node) {
            peer.has_left = true;
        }
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        // The peer may wait for the acknowledgement.
        peer_session.session.acknowledge_now();
        self.mark_dirty(node);
        self.transmit(driver);
        self.end_session(node, "the peer sent a goodbye", driver);
    }

    /// Handles the end of a session's connection: the session waits for a new one.
    pub(super) fn on_connection_lost(
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
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        if peer_session.conn != Some(id) {
            return;
        }
        peer_session.conn = None;
        peer_session.unconnected_since = now;
        (peer_session.refused_dials, peer_session.old_epochs) = (0, 0);
        if !peer_session.session.is_idle() {
            self.cx.counts.cut_with_unacked += 1;
        }
        peer_session.session.connection_lost();
        self.decide_contests_soon(node);
        if self.finish_disconnect_if_goodbye_sent(node, driver) {
            return;
        }
        let Some(peer_session) = self.peers.get(node).and_then(|peer| peer.peer_session.as_ref()) else {
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
    pub(super) fn on_redial_due(&mut self, node: NodeId) {
        let now = self.cx.now;
        let Some(peer) = self.peers.get(node) else { return };
        // The timer may be that of an earlier connection: each sets its own.
        let needs_redial = |peer_session: &PeerSession| {
            peer_session.needs_connection() && now.since(peer_session.unconnected_since) >= REDIAL_AFTER
        };
        if peer.peer_session.as_deref().is_some_and(needs_redial)
            && let Some(at) = peer.locations.first().copied()
        {
            self.discovery.dialer.redial_now(&mut self.cx, &mut self.peers, node, at);
        }
    }

    /// Counts a refused dial to a peer without a connection. After [`REFUSALS_MAX`] the session ends. If it has ended before,
    /// what waits for another one fails: a process that has ended never returns as the same node.
    pub(super) fn on_location_refused(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(peer) = self.peers.get_mut(node) else { return };
        let Some(peer_session) = peer.peer_session.as_mut() else {
            if peer.status == Some(Status::Offline) && peer.waiting.note_refused_dial() >= REFUSALS_MAX {
                self.peers.drop_waiting(&mut self.cx, node, &Undelivered::NoNode);
                self.cx.run_loop_actions(driver);
            }
            return;
        };
        if !peer_session.needs_connection() {
            return;
        }
        peer_session.refused_dials += 1;
        if peer_session.refused_dials >= REFUSALS_MAX
            && now.since(peer_session.unconnected_since) >= REFUSED_FOR
        {
            self.end_session(node, "the connection closed, and the peer's location refuses new ones", driver);
        }
    }

    /// Notes that the session of a peer has, or may have, something to transmit.
    pub(super) fn mark_dirty(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.mark_dirty(&mut self.cx);
        }
    }

    /// Seals the frames of all dirty sessions into the buffers of their connections.
    pub(super) fn transmit(&mut self, driver: &mut impl Driver) {
        let now = self.cx.now;
        let mut dirty = std::mem::take(&mut self.cx.work.dirty);
        for node in dirty.drain(..) {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            let Some(peer_session) = peer.peer_session.as_mut() else { continue };
            peer_session.dirty = false;
            if let Some(id) = peer_session.conn
                && let Some(conn) = self.cx.connections.get(id)
            {
                let (before, frames) = (conn.out.len(), peer_session.session.frames_sent());
                while conn.out.len() < OUT_BYTES_MAX && peer_session.session.poll_transmit(now, &mut conn.out)
                {
                }
                self.cx.steps += peer_session.session.frames_sent() - frames;
                if conn.out.len() > before {
                    driver.output(Output::Write(id));
                }
            }
            let is_needed = peer_session.idle.is_closed() && !peer_session.session.is_idle();
            peer.count_queue(&mut self.cx.queues.bytes);
            if is_needed {
                self.reopen(node);
            }
            self.poll_events(node, driver);
            if let Some(peer) = self.peers.get_mut(node) {
                peer.report_short_queue(&mut self.cx, driver);
            }
            if let Some(peer) = self.peers.get_mut(node) {
                peer.arm_session(&mut self.cx);
            }
        }
        if self.cx.work.dirty.is_empty() {
            self.cx.work.dirty = dirty;
        }
        self.report_room_to_all(driver);
    }

    pub(super) fn on_session_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        peer_session.timer = None;
        peer_session.session.on_timeout(now);
        if let Some(conn) = peer_session.conn.and_then(|id| self.cx.connections.get(id)) {
            conn.release_buffers();
        }
        self.poll_events(node, driver);
        self.mark_dirty(node);
    }

    fn poll_events(&mut self, node: NodeId, driver: &mut impl Driver) {
        while let Some(event) = self
            .peers
            .get_mut(node)
            .and_then(|peer| peer.peer_session.as_mut())
            .and_then(|peer_session| peer_session.session.poll_event())
        {
            match event {
                SessionEvent::Liveness(wire::Liveness::Online) => {
                    self.set_status(node, Status::Online, driver)
                }
                SessionEvent::Liveness(wire::Liveness::Suspect) => {
                    self.set_status(node, Status::Suspect, driver);
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
    pub(super) fn renew(&mut self, node: NodeId) {
        if let Some(at) = self.renewal_location(node) {
            self.discovery.dialer.renew_dial(&mut self.cx, node, at);
        }
    }

    /// Where this node dials another connection of a session.
    fn renewal_location(&self, node: NodeId) -> Option<SocketAddr> {
        let peer = self.peers.get(node)?;
        let dialled = peer.peer_session.as_ref().and_then(|peer_session| peer_session.dialled);
        dialled.or(peer.locations.first().copied())
    }

    /// Excludes a pause of this process from the silence of its peers.
    pub(super) fn on_stalled(&mut self, span: Duration) {
        for peer_session in self.peers.iter_mut().filter_map(|peer| peer.peer_session.as_mut()) {
            peer_session.session.exclude_stall(span);
        }
    }

    /// Ends the session with a node, and completes every open operation on it.
    pub(super) fn end_session(&mut self, node: NodeId, reason: &str, driver: &mut impl Driver) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let Some(mut peer_session) = peer.peer_session.take() else { return };
        peer.count_queue(&mut self.cx.queues.bytes);
        let disconnect = peer_session.disconnect.take();
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
        self.end_backlog_session(node, expires, driver);
        let ended = EndedSession {
            node,
            peer_lost,
            local_watchers,
            expires,
            requests: awaited_replies.into(),
            receipts: self.cx.receipts.awaited_from(node, &requests).into(),
            session: peer_session.session,
        };
        self.report_ended(ended, remote_watchers, driver);
        if let Some(peer) = self.peers.get_mut(node) {
            peer.release_room_waiters(&mut self.cx);
        }
        self.cx.run_loop_actions(driver);
        self.names.forget_peer(node);
        if let Some(conn) = peer_session.conn {
            self.flush_and_close_conn(conn, driver);
        }
        if self.peers.get(node).is_some_and(|peer| peer.no_auto_dial) {
            self.stop_auto_dial(node);
        }
        self.set_status(node, Status::Offline, driver);
        self.decide_contests_soon(node);
        self.peers.release_named_by(&mut self.cx, node);
        self.peers.remember_ended(&mut self.cx, node);
        if let Some(disconnect) = disconnect {
            self.complete_close_requests(node, disconnect, driver);
        }
    }

    /// At the end of a session: its backlog stays until it expires.
    fn end_backlog_session(&mut self, node: NodeId, expires: Time, driver: &mut impl Driver) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        for (actor, ticket) in peer.backlog.end_session(expires) {
            driver.local().mailboxes().cancel_wait(actor, ticket);
        }
        if peer.backlog.has_entries() {
            self.cx.timers.add(expires, NodeTimer::Backlog(node));
        }
    }

    /// Closes a connection after its last bytes are written, without a report to its session.
    pub(super) fn flush_and_close_conn(&mut self, id: ConnId, driver: &mut impl Driver) {
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
    pub(super) fn send_goodbyes(&mut self, driver: &mut impl Driver) {
        for node in self.peers.ids() {
            let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut())
            else {
                continue;
            };
            let goodbye = Goodbye { reason: GoodbyeReason::Leaving };
            if let Err(reason) = peer_session.session.send(&goodbye.into()) {
                tracing::debug!(%node, %reason, "a goodbye was not sent");
            }
            self.mark_dirty(node);
        }
        self.transmit(driver);
    }

    /// Whether the peers have acknowledged all frames. While the node stops: whether all bytes are written.
    pub fn is_flushed(&mut self) -> bool {
        if !self.cx.leaving {
            return self.peers.iter().all(|peer| {
                let is_session_idle =
                    peer.peer_session.as_ref().is_none_or(|peer_session| peer_session.session.is_idle());
                is_session_idle && peer.waiting.is_empty()
            });
        }
        let connections: Vec<ConnId> = self
            .peers
            .iter()
            .filter_map(|peer| peer.peer_session.as_ref())
            .filter_map(|peer_session| peer_session.conn)
            .collect();
        self.cx.work.dirty.is_empty() && connections.into_iter().all(|conn| self.unwritten(conn) == 0)
    }
}

/// The frames that a session has received.
#[derive(Copy, Clone, Default)]
struct ReceivedFrames {
    numbered: u64,
    control: u64,
}

impl Peer {
    fn frames_received(&self) -> ReceivedFrames {
        self.peer_session.as_ref().map_or_else(ReceivedFrames::default, |peer_session| ReceivedFrames {
            numbered: peer_session.session.frames_received(),
            control: peer_session.session.control_frames_received(),
        })
    }

    fn next_record<'d>(
        &mut self,
        now: Time,
        deframer: &'d mut wire::Deframer,
    ) -> Result<Option<wire::Frames<'d>>, SessionError> {
        let Some(peer_session) = &mut self.peer_session else { return Ok(None) };
        peer_session.session.next_record(now, deframer)
    }

    fn next_frame<'d>(
        &mut self,
        now: Time,
        frames: &mut wire::Frames<'d>,
    ) -> Result<Option<wire::Incoming<'d>>, SessionError> {
        let Some(peer_session) = &mut self.peer_session else { return Ok(None) };
        peer_session.session.next_frame(now, frames)
    }
}

/// Whether a frame means something for other parts of the node than its peer.
fn concerns_node(frame: &Frame<'_>) -> bool {
    match frame {
        Frame::Message(message) => !message.route.is_empty(),
        Frame::Answer(answer) => !answer.route.is_empty(),
        Frame::Lookup(_)
        | Frame::CancelLookup(_)
        | Frame::Found(_)
        | Frame::NodeAt(_)
        | Frame::AnnounceRelay(_)
        | Frame::IdleProposed(_) => true,
        Frame::ReplyDropped(_)
        | Frame::PayloadRefused(_)
        | Frame::Receipt(_)
        | Frame::Monitor(_)
        | Frame::Demonitor(_)
        | Frame::Down(_)
        | Frame::Notify(_)
        | Frame::Terminate(_)
        | Frame::Throw(_)
        | Frame::Resume(_)
        | Frame::Goodbye(_)
        | Frame::Lagged(_)
        | Frame::Tag(_)
        | Frame::Fragment(_)
        | Frame::Ack(_)
        | Frame::Credit(_)
        | Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::Pause(_)
        | Frame::Unpause(_)
        | Frame::Close(_)
        | Frame::IdleAgreed(_)
        | Frame::Begin(_) => false,
    }
}

/// Whether a connection that has had so many control frames in a round waits for the next one.
pub(crate) fn is_flood(control_frames: u64) -> bool {
    control_frames >= u64::from(CONTROL_FRAMES_AT_ONCE)
}

/// The effect of a frame on its session.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum FrameEffect {
    Continue,
    /// Frames are left for the next round, because very many of those before needed no credit.
    Unfinished,
    /// The peer ends the session.
    Goodbye(GoodbyeReason),
    /// The peer ends the session, because this node broke the protocol in its view.
    Rejected,
}
