//! Idle close: both sides agree to close a connection that nothing needs. The session stays, and the next frame that
//! either side sends dials again.
//!
//! 1. A side proposes the close when no numbered frame was sent or received for a while.
//! 2. The peer agrees, if nothing is open on the session at its side.
//! 3. The first side sends a `Close` and closes the connection.
//!
//! Either side may send frames between these steps. A side that receives the `Close` and still needs a connection dials
//! at once. So the agreement only saves dials; no frame depends on it.
//!
//! Invariant: a session that is closed while idle has no connection, and nothing is open on it at this side.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sched::{NodeId, Time};
use antiphon_wire::Frame;
use antiphon_wire::frame::{Close, CloseReason, IdleAgreed, IdleProposed};

use super::NodeCore;
use super::context::NodeCx;
use super::driver::Driver;
use super::peer::Peer;
use super::peer_session::{FrameEffect, PeerSession};
use super::timers::NodeTimer;
use crate::error::UnknownPeer;
use crate::location::Location;

/// How long no frame was sent or received before this side proposes to close.
const IDLE_FOR: Duration = Duration::from_secs(2);
/// How often this side checks whether a connection is idle.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause between proposals that the peer did not agree to.
const PAUSE_LAST: Duration = Duration::from_secs(32);

/// The state of the idle close of one session.
#[derive(Debug)]
pub(super) struct IdleClose {
    stage: IdleStage,
    /// Whether the next check has a timer.
    has_timer: bool,
    /// Numbered frames sent and received, at the last check.
    frames: (u64, u64),
    /// The first check at which `frames` had this value.
    since: Time,
    /// How long `frames` must not have changed before the next proposal.
    pause: Duration,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum IdleStage {
    /// The connection is in use, as far as is known.
    Active,
    /// This side has proposed to close the connection.
    Proposed,
    /// The peer has agreed.
    Agreed,
    /// The peer closes the connection.
    ClosedByPeer,
    /// The session has no connection and needs none.
    Closed,
}

impl IdleClose {
    pub(super) fn new(now: Time) -> Self {
        Self { stage: IdleStage::Active, has_timer: false, frames: (0, 0), since: now, pause: IDLE_FOR }
    }

    /// The session has, or needs, a new connection.
    pub(super) fn set_active(&mut self, now: Time) {
        (self.stage, self.since, self.pause) = (IdleStage::Active, now, IDLE_FOR);
    }

    /// Whether the session has no connection and needs none.
    pub(super) fn is_closed(&self) -> bool {
        self.stage == IdleStage::Closed
    }
}

/// The numbered frames that a session has sent and received.
fn frame_counts(peer_session: &PeerSession) -> (u64, u64) {
    (peer_session.session.frames_sent(), peer_session.session.frames_received())
}

impl NodeCore {
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
    pub(super) fn reopen(&mut self, node: NodeId) {
        self.discovery.dialer.reopen(&mut self.cx, &mut self.peers, node);
    }

    pub(super) fn on_idle_due(&mut self, node: NodeId, driver: &mut impl Driver) {
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
        self.remove_exited_watchers(driver);
        !self.peer_watchers().is_empty() || self.names.has_lookups_with(node)
    }

    /// A peer proposes to close the connection. It has received all frames of this side; otherwise this side would wait for an
    /// acknowledgement.
    pub(super) fn on_idle_proposed(
        &mut self,
        node: NodeId,
        proposed: IdleProposed,
        driver: &mut impl Driver,
    ) {
        let is_needed = self.needs_connections(node, driver);
        if let Some(peer) = self.peers.get_mut(node) {
            peer.on_idle_proposed(&self.cx, proposed, is_needed);
        }
    }

    /// All frames that arrived are handled: closes the connection, if both sides agree.
    pub(super) fn close_idle(&mut self, node: NodeId, driver: &mut impl Driver) {
        let Some(peer_session) = self.peers.get(node).and_then(|peer| peer.peer_session.as_ref()) else {
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
            IdleStage::Active | IdleStage::Proposed | IdleStage::Closed => {}
        }
    }

    fn needs_no_connection(&mut self, node: NodeId, driver: &mut impl Driver) -> bool {
        let is_needed = self.needs_connections(node, driver);
        !is_needed && self.peers.get(node).is_some_and(|peer| peer.needs_no_connection(&self.cx))
    }

    fn keep_connection(&mut self, node: NodeId) {
        if let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) {
            peer_session.idle.stage = IdleStage::Active;
        }
    }

    /// Closes a connection, and keeps its session. With `send_close`, sends the peer a `Close` first.
    fn close_connection(&mut self, node: NodeId, send_close: bool, driver: &mut impl Driver) {
        let now = self.cx.now;
        let Some(peer_session) = self.peers.get_mut(node).and_then(|peer| peer.peer_session.as_mut()) else {
            return;
        };
        let Some(id) = peer_session.conn.take() else { return };
        if send_close && let Some(conn) = self.cx.connections.get(id) {
            let close: Frame<'_> = Close { reason: CloseReason::Idle }.into();
            if let Err(reason) = peer_session.session.send_control(&close) {
                tracing::debug!(%node, %reason, "the `Close` of an idle connection was not sent");
            }
            while peer_session.session.poll_transmit(now, &mut conn.out) {}
        }
        peer_session.idle.stage = IdleStage::Closed;
        peer_session.session.connection_closed_idle();
        tracing::debug!(%node, "an idle connection was closed; the node dials again when it is needed");
        self.flush_and_close_conn(id, driver);
    }

    /// Dials all peers that have idle sessions without a connection, because their status is not known.
    pub(super) fn reopen_all(&mut self) {
        self.peers.ids().into_iter().for_each(|node| self.reopen(node));
    }
}

impl Peer {
    /// Whether nothing of the peer at this side needs the connection, and this node can dial another one.
    fn needs_no_connection(&self, cx: &NodeCx) -> bool {
        let Some(peer_session) = &self.peer_session else { return false };
        let can_dial = peer_session.dialled.is_some() || !self.locations.is_empty();
        can_dial
            && peer_session.is_idle()
            && self.has_nothing_open()
            && !cx.receipts.awaits(self.node)
            && !cx.replies.awaits(self.node)
    }

    /// Proposes to close the connection, if nothing has needed it for a while.
    fn propose_idle_close(&mut self, cx: &mut NodeCx, is_needed: bool) {
        let keep_open = self.keep_open.unwrap_or(cx.settings.stream_send);
        let needs_no_connection = !is_needed && self.needs_no_connection(cx);
        let Some(peer_session) = &mut self.peer_session else { return };
        peer_session.idle.has_timer = false;
        let frames = frame_counts(peer_session);
        let idle = &mut peer_session.idle;
        if frames != idle.frames {
            (idle.frames, idle.since, idle.pause) = (frames, cx.now, IDLE_FOR);
        }
        let quiet_for = cx.now.since(idle.since);
        if !keep_open && quiet_for >= idle.pause && needs_no_connection {
            let sent = peer_session.session.frames_sent();
            if peer_session.session.send_control(&IdleProposed { sent }.into()).is_ok() {
                idle.stage = IdleStage::Proposed;
                idle.pause = quiet_for + (idle.pause * 2).min(PAUSE_LAST);
            }
        }
    }

    fn on_idle_proposed(&mut self, cx: &NodeCx, proposed: IdleProposed, is_needed: bool) {
        let needs_no_connection = !is_needed && self.needs_no_connection(cx);
        let Some(peer_session) = &mut self.peer_session else { return };
        if proposed.sent != peer_session.session.frames_received() || !needs_no_connection {
            return;
        }
        let agreed = IdleAgreed { sent: peer_session.session.frames_sent() };
        if let Err(reason) = peer_session.session.send_control(&agreed.into()) {
            tracing::debug!(node = %self.node, %reason, "the agreement to close an idle connection was not sent");
        }
    }

    /// The peer agrees. [`NodeCore::close_idle`] follows when the frames that arrived with the agreement are handled.
    pub(super) fn on_idle_agreed(&mut self, agreed: IdleAgreed) {
        if let Some(peer_session) = &mut self.peer_session
            && peer_session.idle.stage == IdleStage::Proposed
            && agreed.sent == peer_session.session.frames_received()
        {
            peer_session.idle.stage = IdleStage::Agreed;
        }
    }

    /// The peer has sent its last frame on this connection.
    pub(super) fn on_close(&mut self, close: Close) -> FrameEffect {
        match (close.reason, &mut self.peer_session) {
            (CloseReason::Idle, Some(peer_session)) => {
                peer_session.idle.stage = IdleStage::ClosedByPeer;
                FrameEffect::Continue
            }
            (CloseReason::Idle, None) => FrameEffect::Continue,
            (CloseReason::Misbehaved, _) => FrameEffect::Rejected,
        }
    }

    /// Sets the timer of the next idle check, unless the connection is to stay open.
    pub(super) fn schedule_idle_check(&mut self, cx: &mut NodeCx) {
        let keep_open = self.keep_open.unwrap_or(cx.settings.stream_send);
        let Some(peer_session) = &mut self.peer_session else { return };
        if !keep_open
            && peer_session.conn.is_some()
            && !std::mem::replace(&mut peer_session.idle.has_timer, true)
        {
            cx.timers.add(cx.now + CHECK_EVERY, NodeTimer::Idle(self.node));
        }
    }

    /// The session is needed again that was closed while idle. Returns the location to dial, if the session was closed and a
    /// location is known.
    pub(super) fn leave_idle(&mut self, now: Time) -> Option<SocketAddr> {
        let peer_session = self.peer_session.as_mut().filter(|peer_session| peer_session.idle.is_closed())?;
        peer_session.idle.set_active(now);
        peer_session.session.restart_keepalive(now);
        (peer_session.unconnected_since, peer_session.refused_dials) = (now, 0);
        peer_session.dialled.or(self.locations.first().copied())
    }
}
