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
//! Invariant: nothing is open at this side on a session that rests.

use std::time::Duration;

use antiphon_sched::Time;

use super::session::PeerSession;

/// How long no frame was sent or received before this side proposes to close.
pub(in crate::node) const IDLE_FOR: Duration = Duration::from_secs(2);
/// How often this side checks whether a connection is idle.
pub(in crate::node) const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The type tags of a peer up to which its session may rest. The session keeps them, and a resting session needs no presence of its
/// peer: so members could leave very many tags.
pub(in crate::node) const TAGS_AT_REST_MAX: u64 = 128;
/// The longest pause between proposals that the peer did not agree to.
pub(in crate::node) const PAUSE_LAST: Duration = Duration::from_secs(32);

/// The state of the idle close of one session.
#[derive(Debug)]
pub(in crate::node) struct IdleClose {
    pub(in crate::node) stage: IdleStage,
    /// Whether the next check has a timer.
    pub(in crate::node) has_timer: bool,
    /// Numbered frames sent and received, at the last check.
    pub(in crate::node) frames: (u64, u64),
    /// The first check at which `frames` had this value.
    pub(in crate::node) since: Time,
    /// How long `frames` must not have changed before the next proposal.
    pub(in crate::node) pause: Duration,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::node) enum IdleStage {
    /// The connection is in use, as far as is known.
    Active,
    /// This side has proposed to close the connection.
    Proposed,
    /// The peer has agreed.
    Agreed,
    /// The peer closes the connection.
    ClosedByPeer,
}

impl IdleClose {
    pub(in crate::node) fn new(now: Time) -> Self {
        Self { stage: IdleStage::Active, has_timer: false, frames: (0, 0), since: now, pause: IDLE_FOR }
    }

    /// The session has, or needs, a new connection.
    pub(in crate::node) fn set_active(&mut self, now: Time) {
        (self.stage, self.since, self.pause) = (IdleStage::Active, now, IDLE_FOR);
    }
}

/// The numbered frames that a session has sent and received.
pub(in crate::node) fn frame_counts(peer_session: &PeerSession) -> (u64, u64) {
    (peer_session.session.frames_sent(), peer_session.session.frames_received())
}
