//! Connections that are closed by agreement, because nothing needs them: the session rests, and whatever is sent next, by
//! either side, dials again.
//!
//! A side that wants it proposes when no numbered frame has moved for a while; the other agrees if nothing is open there
//! either; then the first says so for the last time, and closes. Between these words anything may be sent: who is told
//! of the end and still needs a connection dials one at once, so the agreement saves dials, and no frame hangs on it.
//!
//! Invariant: a session at rest has no connection, and nothing is open on it at this side.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire::Frame;
use antiphon_wire::frame::{Close, CloseReason, IdleAgreed, IdleProposed};

use super::NodeCore;
use super::driver::Driver;
use super::peer_session::PeerSession;
use super::peers::Peer;
use super::timers::NodeTimer;
use crate::error::UnknownPeer;
use crate::location::Location;

/// How long nothing has moved before this side proposes; and how often it looks.
const QUIET: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause between proposals that were not agreed to.
const PAUSE_LAST: Duration = Duration::from_secs(32);

/// How far a link is from being closed by agreement.
#[derive(Debug)]
pub(super) struct IdleClose {
    stage: IdleStage,
    /// Whether a look is on the agenda.
    is_watched: bool,
    /// Numbered frames sent and received, at the last look.
    moved: (u64, u64),
    /// When that was so for the first time.
    since: Time,
    /// How long nothing must have moved before the next proposal.
    pause: Duration,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum IdleStage {
    /// The connection is needed, as far as is known.
    Talks,
    /// This side has proposed to close it.
    Proposed,
    /// The other side has agreed.
    Agreed,
    /// The other side closes it.
    Told,
    /// There is none, and none is missed.
    Rests,
}

impl IdleClose {
    pub(super) fn new(now: Time) -> Self {
        Self { stage: IdleStage::Talks, is_watched: false, moved: (0, 0), since: now, pause: QUIET }
    }

    /// There is a new connection.
    pub(super) fn talk(&mut self, now: Time) {
        (self.stage, self.since, self.pause) = (IdleStage::Talks, now, QUIET);
    }

    pub(super) fn rests(&self) -> bool {
        self.stage == IdleStage::Rests
    }
}

fn moved(peer_session: &PeerSession) -> (u64, u64) {
    (peer_session.session.frames_sent(), peer_session.session.frames_received())
}

impl NodeCore {
    /// Keeps the connection with the peers at a location, or closes it when nothing needs it; of port 0, all on the host.
    pub(crate) fn stream_send(&mut self, at: Location, streams: bool) -> Result<(), UnknownPeer> {
        let there = self.nodes_at(at);
        for node in &there {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.streams = Some(streams);
            }
            self.watch_idle(*node);
            if streams {
                self.wake(*node);
            }
        }
        if there.is_empty() { Err(UnknownPeer { at }) } else { Ok(()) }
    }

    /// As [`NodeCore::stream_send`], for a location at which somebody is.
    pub(super) fn streams_of(&mut self, at: SocketAddr, streams: bool) {
        if let Err(reason) = self.stream_send(at.into(), streams) {
            tracing::debug!(%reason, "a connection is kept as all others");
        }
    }

    /// Dials the peer at a location if its session is at rest; whether it was.
    pub(super) fn wakes_at(&mut self, at: SocketAddr) -> bool {
        let rests =
            |peer: &Peer| peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.idle.rests());
        let found = self.peers.iter().find(|(_, peer)| rests(peer) && peer.is_connected_to(at));
        let Some(node) = found.map(|(node, _)| *node) else { return false };
        self.wake(node);
        true
    }

    /// The peers at a location; of port 0, all on the host.
    pub(super) fn nodes_at(&self, at: Location) -> Vec<NodeId> {
        let at = at.addr();
        let is_there = |peer: &Peer| match at.port() {
            0 => peer.told.iter().chain(&peer.locations).any(|other| other.ip() == at.ip()),
            _ => peer.is_at(at) || peer.is_connected_to(at),
        };
        self.peers.iter().filter(|(_, peer)| !peer.gone && is_there(peer)).map(|(node, _)| *node).collect()
    }

    /// Looks now and then whether a connection is still needed, if somebody wants to know.
    pub(super) fn watch_idle(&mut self, node: NodeId) {
        let by_default = self.settings.stream_send;
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let streams = peer.streams.unwrap_or(by_default);
        let Some(peer_session) = peer.peer_session.as_mut() else { return };
        if !streams
            && peer_session.conn.is_some()
            && !std::mem::replace(&mut peer_session.idle.is_watched, true)
        {
            self.timers.add(now + LOOK_EVERY, NodeTimer::Idle(node));
        }
    }

    pub(super) fn on_idle_due(&mut self, node: NodeId, driver: &mut impl Driver) {
        let now = self.now;
        let Some(mut peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.take())
        else {
            return;
        };
        peer_session.idle.is_watched = false;
        if moved(&peer_session) != peer_session.idle.moved {
            (peer_session.idle.moved, peer_session.idle.since, peer_session.idle.pause) =
                (moved(&peer_session), now, QUIET);
        }
        let streams = self.peers.get(&node).and_then(|peer| peer.streams);
        let lookups = !streams.unwrap_or(self.settings.stream_send);
        let is_due = now.since(peer_session.idle.since) >= peer_session.idle.pause;
        if lookups && is_due && self.needs_nothing(node, &peer_session, driver) {
            let sent = peer_session.session.frames_sent();
            if peer_session.session.send_control(&IdleProposed { sent }.into()).is_ok() {
                peer_session.idle.stage = IdleStage::Proposed;
                peer_session.idle.pause =
                    now.since(peer_session.idle.since) + (peer_session.idle.pause * 2).min(PAUSE_LAST);
            }
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.peer_session = Some(peer_session);
        }
        self.watch_idle(node);
        self.mark_dirty(node);
    }

    /// Whether nothing at this side depends on the connection, and there is a way to another one.
    fn needs_nothing(&mut self, node: NodeId, peer_session: &PeerSession, driver: &mut impl Driver) -> bool {
        self.forget_ended_watchers(driver);
        let Some(peer) = self.peers.get(&node) else { return false };
        let has_way = peer_session.dialled.is_some() || !peer.locations.is_empty();
        has_way
            && peer_session.is_quiet()
            && peer.has_nothing_open()
            && self.peer_watchers().is_empty()
            && !self.receipts.awaits(node)
            && !self.replies.awaits(node)
            && !self.names.has_lookups_with(node)
    }

    /// The peer proposes to close the connection. It has heard all that was sent, or it would wait for something.
    pub(super) fn on_idle_proposed(
        &mut self,
        node: NodeId,
        peer_session: &mut PeerSession,
        proposed: IdleProposed,
        driver: &mut impl Driver,
    ) {
        if proposed.sent != peer_session.session.frames_received()
            || !self.needs_nothing(node, peer_session, driver)
        {
            return;
        }
        let agreed = IdleAgreed { sent: peer_session.session.frames_sent() };
        if let Err(reason) = peer_session.session.send_control(&agreed.into()) {
            tracing::debug!(%node, %reason, "a proposal to close the connection is not answered");
        }
    }

    /// The peer agrees. What has come with its word is looked at first.
    pub(super) fn on_idle_agreed(peer_session: &mut PeerSession, agreed: IdleAgreed) {
        if peer_session.idle.stage == IdleStage::Proposed
            && agreed.sent == peer_session.session.frames_received()
        {
            peer_session.idle.stage = IdleStage::Agreed;
        }
    }

    pub(super) fn on_close(peer_session: &mut PeerSession, close: Close) {
        if close.reason == CloseReason::Idle {
            peer_session.idle.stage = IdleStage::Told;
        }
    }

    /// All that arrived is looked at: the connection may be closed now.
    pub(super) fn close_idle(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.take()) else {
            return;
        };
        let needs_nothing = match peer_session.idle.stage {
            IdleStage::Agreed => {
                moved(&peer_session) == peer_session.idle.moved
                    && self.needs_nothing(node, &peer_session, driver)
            }
            IdleStage::Told => self.needs_nothing(node, &peer_session, driver),
            IdleStage::Talks | IdleStage::Proposed | IdleStage::Rests => false,
        };
        let stage = peer_session.idle.stage;
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.peer_session = Some(peer_session);
        }
        match stage {
            IdleStage::Agreed if needs_nothing => self.rest(node, true, driver),
            IdleStage::Agreed => self.talk_on(node),
            IdleStage::Told => {
                self.rest(node, false, driver);
                if !needs_nothing {
                    self.wake(node);
                }
            }
            IdleStage::Talks | IdleStage::Proposed | IdleStage::Rests => {}
        }
    }

    fn talk_on(&mut self, node: NodeId) {
        if let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) {
            peer_session.idle.stage = IdleStage::Talks;
        }
    }

    /// Closes a connection, and keeps its session.
    fn rest(&mut self, node: NodeId, tell: bool, driver: &mut impl Driver) {
        let now = self.wire_now();
        let Some(peer_session) = self.peers.get_mut(&node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        let Some(id) = peer_session.conn.take() else { return };
        if tell && let Some(conn) = self.connections.get(id) {
            let close: Frame<'_> = Close { reason: CloseReason::Idle }.into();
            if let Err(reason) = peer_session.session.send_control(&close) {
                tracing::debug!(%node, %reason, "the peer is not told that the connection is closed");
            }
            while peer_session.session.poll_transmit(now, &mut conn.out) {}
        }
        peer_session.idle.stage = IdleStage::Rests;
        peer_session.session.rest();
        tracing::debug!(%node, "the connection is closed until it is needed");
        self.drop_conn_quietly(id, driver);
    }

    /// The session with a node is needed again: its node is dialled, or lost.
    pub(super) fn wake(&mut self, node: NodeId) {
        let (now, wire_now) = (self.now, self.wire_now());
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let first = peer.locations.first().copied();
        let Some(peer_session) = peer.peer_session.as_mut().filter(|peer_session| peer_session.idle.rests())
        else {
            return;
        };
        peer_session.idle.talk(now);
        peer_session.session.wake(wire_now);
        (peer_session.cut_at, peer_session.refusals) = (now, 0);
        if let Some(at) = peer_session.dialled.or(first) {
            self.redial(node, at);
        }
        self.arm_session(node);
    }

    /// Somebody wants to know who is there: of those at rest, nobody knows.
    pub(super) fn wake_all(&mut self) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.wake(node));
    }
}
