//! Sessions with peers, and all that ends with them.
//!
//! Invariant: a link's connection is live and this link's; when a session is lost, everything open on it is
//! answered once, here, and nothing of it arrives later.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{ActorId, AskError, ExitReason, Key, NodeId, Time, Undelivered};
use antiphon_wire as wire;
use antiphon_wire::frame::{Goodbye, GoodbyeReason};
use antiphon_wire::{Frame, ProvenConnection, Session, SessionError, SessionEvent};

use super::connections::ConnectionState;
use super::disconnect::Disconnect;
use super::driver::{ConnId, Driver, Output};
use super::idle_close::IdleClose;
use super::inbound::Backlog;
use super::peers::Peer;
use super::timers::NodeTimer;
use super::{NOBODY, NodeCore, sched_key};
use crate::error::Status;
use crate::location::seen_from;

/// How much sealed data waits in a connection's buffer at most, before the session is asked for more.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// How long the side that was dialled waits before it dials itself.
const MISSING_AFTER: Duration = Duration::from_secs(1);
/// How long a connection that ends is written out.
const LINGER: Duration = Duration::from_secs(1);
/// A location that refused so often, for so long, has nobody behind it any more.
const REFUSALS_MAX: u32 = 2;
const REFUSED_FOR: Duration = Duration::from_millis(100);

/// A session with a peer, and what belongs to it.
#[derive(Debug)]
pub(super) struct PeerSession {
    pub(super) session: Session,
    pub(super) conn: Option<ConnId>,
    /// Where this side dialled it, if it did.
    pub(super) dialled: Option<SocketAddr>,
    pub(super) backlog: Backlog,
    /// Actors that wait until there is room.
    pub(super) writers: BTreeSet<Key>,
    pub(super) dirty: bool,
    /// The peer said goodbye: the session ends when what it sent before is delivered.
    pub(super) leaves: bool,
    pub(super) idle: IdleClose,
    /// This side ends it.
    pub(super) disconnect: Option<Disconnect>,
    armed: Option<Time>,
    pub(super) cut_at: Time,
    pub(super) refusals: u32,
}

impl PeerSession {
    /// Whether there should be a connection, and is none.
    fn is_missed(&self) -> bool {
        self.conn.is_none() && !self.leaves && !self.idle.rests()
    }

    /// Whether nothing is under way on it, and nothing waits.
    pub(super) fn is_quiet(&self) -> bool {
        self.session.is_idle()
            && self.backlog.is_empty()
            && self.writers.is_empty()
            && !self.leaves
            && self.disconnect.is_none()
    }
}

impl NodeCore {
    /// Gives a proven connection to the session with `node`, which begins if there is none.
    pub(super) fn take_connection(
        &mut self,
        id: ConnId,
        node: NodeId,
        connection: Box<ProvenConnection>,
        driver: &mut impl Driver,
    ) -> bool {
        let now = self.wire_now();
        let Some(conn) = self.connections.get(id) else { return false };
        let (dialled, remote, certificate) = (conn.dialled, conn.remote, conn.certificate);
        let hello = connection.peer();
        let (name, undiscovered) = (hello.name.clone(), hello.flags & wire::UNDISCOVERED != 0);
        let said = seen_from(hello.locations.iter().copied(), remote);
        let told = self.settings.shown(&said, remote, dialled);
        let locations = said.clone();
        self.bury_predecessors(node, &locations, dialled, driver);
        // Whatever a peer says of itself, it is dialled only where the configuration allows, or where it was found.
        let locations: Vec<SocketAddr> =
            locations.into_iter().filter(|at| Some(*at) == dialled || self.settings.may_dial(*at)).collect();
        if !self.has_place_for(node) {
            if self.may_log("no place", remote.ip()) {
                tracing::warn!(%node, %remote, "no more peers can be known; a connection is refused (said once an hour)");
            }
            self.fail_conn(id, driver);
            return false;
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer::new(node, &name, Vec::new()));
        (peer.name, peer.told, peer.locations, peer.gone) = (name, told, locations, false);
        (peer.said, peer.undiscovered, peer.apart) = (said, undiscovered, false);
        (peer.certificate, peer.remote) = (certificate, Some(remote.ip()));
        let begins = peer.peer_session.is_none();
        let limits = self.settings.limits();
        let peer_session = peer.peer_session.get_or_insert_with(|| {
            Box::new(PeerSession {
                session: Session::begin(now, limits, wire::NodeId(self.me.to_bits()), &connection),
                conn: None,
                dialled: None,
                backlog: Backlog::default(),
                writers: BTreeSet::new(),
                dirty: false,
                leaves: false,
                idle: IdleClose::new(self.now),
                disconnect: None,
                armed: None,
                cut_at: self.now,
                refusals: 0,
            })
        });
        if let Err(reason) = peer_session.session.connected(now, connection) {
            if self.may_log("does not fit", node) {
                tracing::warn!(%node, %reason, "a proven connection does not fit its session (said once an hour)");
            }
            self.lose(node, "the peer broke the protocol", driver);
            self.fail_conn(id, driver);
            return false;
        }
        peer_session.refusals = 0;
        peer_session.idle.talk(self.now);
        peer_session.dialled = dialled.or(peer_session.dialled);
        let old = peer_session.conn.replace(id).filter(|old| *old != id);
        if let Some(conn) = self.connections.get(id) {
            conn.state = ConnectionState::Live(node);
        }
        if let Some(old) = old {
            let dialled = self.connections.get(old).and_then(|conn| conn.dialled);
            if let Some(at) = dialled {
                self.dial_is_over(at, old);
            }
            self.drop_conn(old, driver);
        }
        if let Some(at) = dialled {
            self.dials.succeeded(at, id, node);
        }
        if begins {
            self.on_met(node, driver);
        }
        self.complete_connect_requests(node, dialled);
        self.watch_idle(node);
        self.mark_dirty(node);
        true
    }

    /// A session has begun: what waited for it goes out, and whoever watches is told.
    fn on_met(&mut self, node: NodeId, driver: &mut impl Driver) {
        if self.may_log("has come", node)
            && let Some(peer) = self.peers.get(&node)
        {
            tracing::info!(%node, name = peer.name, "a peer has come");
        }
        self.warn_of_twins(node);
        self.set_status(node, Status::Online, driver);
        self.repeat_lookups_to(node);
        self.send_waiting(node);
        self.settle_node_lookups(node, driver);
    }

    /// Another incarnation at the same location has ended, however it ended. That is certain of a location which
    /// this side dialled itself; what a peer only says of itself is believed where nobody else is connected.
    fn bury_predecessors(
        &mut self,
        node: NodeId,
        told: &[SocketAddr],
        dialled: Option<SocketAddr>,
        driver: &mut impl Driver,
    ) {
        let takes_place = |peer: &Peer| {
            let is_connected =
                peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.conn.is_some());
            let is_there = |at: &SocketAddr| Some(*at) == dialled || (!is_connected && told.contains(at));
            !peer.gone && peer.told.iter().chain(&peer.locations).any(is_there)
        };
        let old: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(id, peer)| **id != node && takes_place(peer))
            .map(|(id, _)| *id)
            .collect();
        for old in old {
            self.lose(old, "another incarnation answers at its location", driver);
            if let Some(peer) = self.peers.get_mut(&old) {
                peer.gone = true;
            }
            self.drop_waiting(old, Undelivered::NoActor);
        }
    }

    /// Takes all that has arrived on a live connection.
    pub(super) fn receive(&mut self, node: NodeId, id: ConnId, driver: &mut impl Driver) {
        let now = self.wire_now();
        let Some(conn) = self.connections.get(id) else { return };
        let mut deframer = std::mem::take(&mut conn.deframer);
        let Some(mut peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.take())
        else {
            return;
        };
        let taken = self
            .take_from(node, |core| core.take_records(now, node, &mut peer_session, &mut deframer, driver));
        if let Some(conn) = self.connections.get(id) {
            conn.deframer = deframer;
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.peer_session = Some(peer_session);
        }
        match taken {
            Ok(FrameEffect::GoesOn) => {
                self.poll_events(node, driver);
                self.mark_dirty(node);
                self.close_idle(node, driver);
                self.advance_disconnect(node, driver);
            }
            Ok(FrameEffect::Leaves(reason)) => self.on_goodbye(node, reason, driver),
            Err(SessionError::PeerMisbehaved(fault)) => {
                self.counts.misbehaved += 1;
                if self.may_log("broke the protocol", node) {
                    tracing::warn!(%node, %fault, "a peer broke the protocol; its session ends (said once an hour)");
                }
                self.lose(node, "the peer broke the protocol", driver);
            }
            Err(reason) => {
                self.counts.broken_connections += 1;
                if self.may_log("connection broke", node) {
                    tracing::warn!(%node, %reason, "a connection broke; its session goes on over another one (said once an hour)");
                }
                self.on_closed(id, driver);
            }
        }
    }

    fn take_records(
        &mut self,
        now: wire::Time,
        node: NodeId,
        peer_session: &mut PeerSession,
        deframer: &mut wire::Deframer,
        driver: &mut impl Driver,
    ) -> Result<FrameEffect, SessionError> {
        while let Some(mut frames) = peer_session.session.next_record(now, deframer)? {
            while let Some(incoming) = peer_session.session.next_frame(now, &mut frames)? {
                let fate = self.on_frame(node, peer_session, &incoming.frame(), driver);
                if fate != FrameEffect::GoesOn {
                    return Ok(fate);
                }
            }
        }
        Ok(FrameEffect::GoesOn)
    }

    /// The peer ends the session. What it sent before is delivered first, where mailboxes are full.
    fn on_goodbye(&mut self, node: NodeId, reason: GoodbyeReason, driver: &mut impl Driver) {
        if reason != GoodbyeReason::Leaving {
            self.keep_apart(node);
        }
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        if peer_session.backlog.is_empty() {
            // What it sent has arrived, and it may wait to know.
            peer_session.session.acknowledge_now();
            self.mark_dirty(node);
            self.transmit(driver);
            return self.lose(node, "the peer said goodbye", driver);
        }
        peer_session.leaves = true;
        self.set_status(node, Status::Offline, driver);
    }

    /// The connection of a session is gone; the session waits for another.
    pub(super) fn on_disconnected(
        &mut self,
        node: NodeId,
        id: ConnId,
        dialled: Option<SocketAddr>,
        driver: &mut impl Driver,
    ) {
        if let Some(at) = dialled {
            self.dial_is_over(at, id);
        }
        let now = self.now;
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        if peer_session.conn != Some(id) {
            return;
        }
        peer_session.conn = None;
        peer_session.cut_at = now;
        peer_session.refusals = 0;
        if !peer_session.session.is_idle() {
            self.counts.cut_with_unacked += 1;
        }
        peer_session.session.disconnected();
        if self.disconnects_by_closing(node, driver) {
            return;
        }
        let Some(peer_session) = self.peers.get(&node).and_then(|peer| peer.peer_session.as_ref()) else {
            return;
        };
        match peer_session.dialled {
            _ if peer_session.leaves => {}
            Some(at) => self.redial(node, at),
            None => self.timers.add(now + MISSING_AFTER, NodeTimer::Missing(node)),
        }
        self.arm_session(node);
        self.poll_events(node, driver);
    }

    /// The other side has not come back by itself.
    pub(super) fn on_missing(&mut self, node: NodeId) {
        let now = self.now;
        let Some(peer) = self.peers.get(&node) else { return };
        // Connections may have come and gone since; each has its own time.
        let is_missing = |peer_session: &PeerSession| {
            peer_session.is_missed() && now.since(peer_session.cut_at) >= MISSING_AFTER
        };
        if peer.peer_session.as_deref().is_some_and(is_missing)
            && let Some(at) = peer.locations.first().copied()
        {
            self.redial(node, at);
        }
    }

    /// Nobody listens any more where the peer was: after a few attempts it is lost.
    pub(super) fn on_location_refused(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.now;
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        if !peer_session.is_missed() {
            return;
        }
        peer_session.refusals += 1;
        if peer_session.refusals >= REFUSALS_MAX && now.since(peer_session.cut_at) >= REFUSED_FOR {
            self.lose(node, "its connection closed, and its location refuses new ones", driver);
        }
    }

    pub(super) fn mark_dirty(&mut self, node: NodeId) {
        if let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut())
            && !peer_session.dirty
        {
            peer_session.dirty = true;
            self.dirty.push(node);
        }
    }

    /// Seals what the sessions have to send into their connections' buffers.
    pub(super) fn transmit(&mut self, driver: &mut impl Driver) {
        let now = self.wire_now();
        let mut dirty = std::mem::take(&mut self.dirty);
        for node in dirty.drain(..) {
            let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut())
            else {
                continue;
            };
            peer_session.dirty = false;
            let low = self.settings.profile.limits.queue_bytes_low;
            if let Some(id) = peer_session.conn
                && let Some(conn) = self.connections.get(id)
            {
                let before = conn.out.len();
                while conn.out.len() < OUT_BYTES_MAX && peer_session.session.poll_transmit(now, &mut conn.out)
                {
                }
                if conn.out.len() > before {
                    driver.output(Output::Write(id));
                }
            }
            let is_needed = peer_session.idle.rests() && !peer_session.session.is_idle();
            if peer_session.session.queued_bytes() < low {
                for writer in std::mem::take(&mut peer_session.writers) {
                    driver.loop_ref().writable(writer, node);
                }
            }
            if is_needed {
                self.wake(node);
            }
            self.arm_session(node);
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Puts a session's next deadline on the agenda.
    pub(super) fn arm_session(&mut self, node: NodeId) {
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        let due = peer_session.session.poll_timeout().map(|at| Time::from_nanos(at.as_nanos()));
        match (due, peer_session.armed) {
            (Some(at), None) => {
                peer_session.armed = Some(at);
                self.timers.add(at, NodeTimer::Session(node));
            }
            (Some(at), Some(armed)) if at < armed => {
                self.timers.remove(armed, NodeTimer::Session(node));
                peer_session.armed = Some(at);
                self.timers.add(at, NodeTimer::Session(node));
            }
            // What is armed comes first, and arms the next.
            (Some(_) | None, _) => {}
        }
    }

    pub(super) fn on_session_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.wire_now();
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        peer_session.armed = None;
        peer_session.session.on_timeout(now);
        if let Some(conn) = peer_session.conn.and_then(|id| self.connections.get(id)) {
            conn.rest();
        }
        self.poll_events(node, driver);
        self.mark_dirty(node);
    }

    fn poll_events(&mut self, node: NodeId, driver: &mut impl Driver) {
        while let Some(event) = self
            .peers
            .get_mut(&node)
            .and_then(|peer| peer.peer_session.as_mut())
            .and_then(|peer_session| peer_session.session.poll_event())
        {
            match event {
                SessionEvent::Liveness(wire::Liveness::Online) => {
                    self.set_status(node, Status::Online, driver)
                }
                SessionEvent::Liveness(wire::Liveness::Suspect) => {
                    self.set_status(node, Status::Suspect, driver);
                    // The connection may be half open: another one shows, and takes over if it is.
                    self.renew(node);
                }
                SessionEvent::Liveness(wire::Liveness::Lost) => {
                    self.lose(node, "it was silent for too long", driver)
                }
                // Writers are told when the queue is low, in `transmit`.
                SessionEvent::Writable => {}
                SessionEvent::Renew => self.renew(node),
            }
        }
    }

    /// A connection is worn or in doubt: another one is dialled, which takes over when it is proven.
    fn renew(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get(&node) else { return };
        let dialled = peer.peer_session.as_ref().and_then(|peer_session| peer_session.dialled);
        if let Some(at) = dialled.or(peer.locations.first().copied()) {
            self.renew_dial(node, at);
        }
    }

    /// A pause of this whole process is nobody's silence.
    pub(super) fn forgive(&mut self, span: Duration) {
        for peer_session in self.peers.values_mut().filter_map(|peer| peer.peer_session.as_mut()) {
            peer_session.session.forgive(span);
        }
    }

    /// Ends the session with a node: everything open on it is answered, once.
    pub(super) fn lose(&mut self, node: NodeId, reason: &str, driver: &mut impl Driver) {
        let is_said = self.peers.get(&node).is_some_and(|peer| peer.peer_session.is_some())
            && self.may_log("is lost", format_args!("{node} {reason}"));
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(mut peer_session) = peer.peer_session.take() else { return };
        let disconnect = peer_session.disconnect.take();
        if is_said {
            tracing::info!(%node, name = peer.name, reason, "a peer is lost");
        }
        self.epochs.ended(wire::NodeId(node.to_bits()));
        let (watching, watched) = peer.monitors.take();
        // While a peer is being closed, what is sent to it waits for another session.
        let (requests, spared) = peer.waiting.open();
        let mut replies = self.replies.take(node);
        replies.retain(|request_id| !spared.contains(request_id));
        self.replies.add(node, &spared);
        if let Some(armed) = peer_session.armed {
            self.timers.remove(armed, NodeTimer::Session(node));
        }
        if let Some(at) = peer_session.dialled {
            self.forget_dialled(at, node);
        }
        let mut loop_ref = driver.loop_ref();
        for (id, (watcher, actor)) in watching {
            loop_ref.down(watcher, id, actor, ExitReason::NodeLost);
        }
        for (target, id) in watched {
            loop_ref.unwatch(target, id);
        }
        for request_id in replies {
            loop_ref.fail_request(request_id, AskError::NodeLost);
        }
        for writer in &peer_session.writers {
            loop_ref.writable(*writer, node);
        }
        peer_session.session.undelivered(|frame, _| {
            if let Some((to, what)) = lost_with_session(frame) {
                loop_ref.dead_letter(ActorId::new(node, to), what, Undelivered::NoNode);
            }
        });
        for (to, messages) in peer_session.backlog.lost() {
            let to = ActorId::new(self.me, to);
            (0..messages).for_each(|_| {
                driver.loop_ref().dead_letter(to, "a message from a node that was lost", Undelivered::Full);
            });
        }
        self.fail_receipts(node, &requests, driver);
        self.names.forget_peer(node);
        if let Some(conn) = peer_session.conn {
            self.drop_conn_quietly(conn, driver);
        }
        if self.peers.get(&node).is_some_and(|peer| peer.apart) {
            self.keep_apart(node);
        }
        self.set_status(node, Status::Offline, driver);
        if let Some(disconnect) = disconnect {
            self.conclude_disconnect(node, disconnect, driver);
        }
    }

    /// Closes a connection after what is in its buffer.
    pub(super) fn drop_conn_quietly(&mut self, id: ConnId, driver: &mut impl Driver) {
        let Some(conn) = self.connections.get(id) else { return };
        conn.state = ConnectionState::Ending;
        if let Some(at) = conn.dialled {
            self.dial_is_over(at, id);
        }
        if self.unwritten(id) == 0 {
            self.drop_conn(id, driver);
        } else {
            self.limit(id, LINGER);
            driver.output(Output::Write(id));
        }
    }

    /// Says goodbye to everybody; what was sent before goes first.
    pub(super) fn farewell(&mut self, driver: &mut impl Driver) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut())
            else {
                continue;
            };
            let goodbye = Goodbye { reason: GoodbyeReason::Leaving };
            if let Err(reason) = peer_session.session.send(&goodbye.into()) {
                tracing::debug!(%node, %reason, "a peer is left without goodbye");
            }
            self.mark_dirty(node);
        }
        self.transmit(driver);
    }

    /// Whether all that was sent has arrived; of a node that leaves, whether it is written.
    pub fn is_flushed(&mut self) -> bool {
        if !self.leaving {
            return self.peers.values().all(|peer| {
                let link_is_idle =
                    peer.peer_session.as_ref().is_none_or(|peer_session| peer_session.session.is_idle());
                link_is_idle && peer.waiting.is_empty()
            });
        }
        let connections: Vec<ConnId> = self
            .peers
            .values()
            .filter_map(|peer| peer.peer_session.as_ref())
            .filter_map(|peer_session| peer_session.conn)
            .collect();
        self.dirty.is_empty() && connections.into_iter().all(|conn| self.unwritten(conn) == 0)
    }
}

/// Whom a frame was for that was under way when its session ended, and what it was. What is answered otherwise, by its
/// receipt or by a `Down`, is not told twice.
fn lost_with_session(frame: &Frame<'_>) -> Option<(Key, &'static str)> {
    match frame {
        Frame::Message(message) if message.receipt.is_none() => {
            Some((sched_key(message.to), "a message under way"))
        }
        // Its receiver is a request, which has no address.
        Frame::Answer(_) => Some((NOBODY, "an answer under way")),
        Frame::Terminate(terminate) => Some((sched_key(terminate.target), "a terminate under way")),
        Frame::Throw(throw) => Some((sched_key(throw.target), "a throw under way")),
        Frame::Resume(resume) => Some((sched_key(resume.target), "a resume under way")),
        Frame::Notify(notify) => Some((sched_key(notify.watcher), "a notify under way")),
        Frame::Message(_)
        | Frame::ReplyDropped(_)
        | Frame::Receipt(_)
        | Frame::Monitor(_)
        | Frame::Demonitor(_)
        | Frame::Down(_)
        | Frame::Lookup(_)
        | Frame::CancelLookup(_)
        | Frame::Found(_)
        | Frame::NodeAt(_)
        | Frame::Goodbye(_)
        | Frame::AnnounceRelay(_)
        | Frame::Tag(_)
        | Frame::Fragment(_)
        | Frame::Ack(_)
        | Frame::Credit(_)
        | Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::Pause(_)
        | Frame::Unpause(_)
        | Frame::Close(_)
        | Frame::IdleProposed(_)
        | Frame::IdleAgreed(_)
        | Frame::Begin(_) => None,
    }
}

/// What a frame means for its session.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum FrameEffect {
    GoesOn,
    /// The peer ends the session.
    Leaves(GoodbyeReason),
}
