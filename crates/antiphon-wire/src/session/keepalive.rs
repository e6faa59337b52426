//! Whether the peer still lives: silence, counted in the time that the caller gives.

use std::time::Duration;

use crate::limits::Limits;
use crate::time::Time;

/// What a session thinks of its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Heard of lately.
    Online,
    /// Silent for `suspect_after`.
    Suspect,
    /// Silent for `lost_after`: the session is over.
    Lost,
}

/// The silence of one peer.
#[derive(Debug)]
pub(crate) struct Keepalive {
    heard: Time,
    /// Pings since then.
    pings: u32,
    status: Liveness,
    /// Whether the connection was closed by agreement: silence means nothing then.
    is_resting: bool,
}

/// What the passing of time brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KeepaliveAction {
    pub(crate) ping: bool,
    pub(crate) status: Option<Liveness>,
}

impl Keepalive {
    pub(crate) fn new(now: Time) -> Keepalive {
        Keepalive { heard: now, pings: 0, status: Liveness::Online, is_resting: false }
    }

    pub(crate) fn status(&self) -> Liveness {
        self.status
    }

    pub(crate) fn rest(&mut self) {
        self.is_resting = true;
    }

    /// Silence means something again, from now on.
    pub(crate) fn wake(&mut self, now: Time) {
        if self.is_resting {
            self.heard = self.heard.max(now);
            self.pings = 0;
            self.is_resting = false;
        }
    }

    /// Something arrived; answers the status if that changed it.
    #[inline]
    pub(crate) fn hear(&mut self, now: Time) -> Option<Liveness> {
        self.heard = self.heard.max(now);
        self.pings = 0;
        self.is_resting = false;
        (self.status == Liveness::Suspect).then(|| {
            self.status = Liveness::Online;
            Liveness::Online
        })
    }

    /// A span during which this side itself stood still does not count.
    pub(crate) fn forgive(&mut self, span: Duration) {
        self.heard = self.heard + span;
    }

    /// When to look again.
    pub(crate) fn due(&self, limits: &Limits, is_connected: bool) -> Option<Time> {
        if self.is_resting || self.status == Liveness::Lost {
            return None;
        }
        let status = match self.status {
            Liveness::Online => limits.suspect_after.min(limits.lost_after),
            Liveness::Suspect | Liveness::Lost => limits.lost_after,
        };
        let span = if is_connected { status.min(self.next_ping(limits)) } else { status };
        Some(self.heard + span)
    }

    fn next_ping(&self, limits: &Limits) -> Duration {
        limits.ping_after.saturating_mul(self.pings.saturating_add(1))
    }

    pub(crate) fn next_action(&mut self, now: Time, limits: &Limits, is_connected: bool) -> KeepaliveAction {
        if self.is_resting || self.status == Liveness::Lost {
            return KeepaliveAction::default();
        }
        let silence = now.since(self.heard);
        let mut next_action = KeepaliveAction::default();
        if is_connected && silence >= self.next_ping(limits) {
            // One ping, however many were missed.
            let missed = silence.as_nanos() / limits.ping_after.as_nanos().max(1);
            self.pings = u32::try_from(missed).unwrap_or(u32::MAX);
            next_action.ping = true;
        }
        let status = if silence >= limits.lost_after {
            Liveness::Lost
        } else if silence >= limits.suspect_after {
            Liveness::Suspect
        } else {
            self.status
        };
        if status != self.status {
            self.status = status;
            next_action.status = Some(status);
        }
        next_action
    }
}
