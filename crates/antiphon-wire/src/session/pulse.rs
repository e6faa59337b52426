//! Whether the peer still lives: silence, counted in the time that the caller gives.

use std::time::Duration;

use crate::limits::Limits;
use crate::time::Time;

/// What a session thinks of its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Heard of lately.
    Online,
    /// Silent for `suspect_after`.
    Suspect,
    /// Silent for `lost_after`: the session is over.
    Lost,
}

/// The silence of one peer.
#[derive(Debug)]
pub(crate) struct Pulse {
    heard: Time,
    /// Pings since then.
    pings: u32,
    status: Status,
    /// Whether the connection was closed by agreement: silence means nothing then.
    is_resting: bool,
}

/// What the passing of time brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Beat {
    pub(crate) ping: bool,
    pub(crate) status: Option<Status>,
}

impl Pulse {
    pub(crate) fn new(now: Time) -> Pulse {
        Pulse { heard: now, pings: 0, status: Status::Online, is_resting: false }
    }

    pub(crate) fn status(&self) -> Status {
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
    pub(crate) fn hear(&mut self, now: Time) -> Option<Status> {
        self.heard = self.heard.max(now);
        self.pings = 0;
        self.is_resting = false;
        (self.status == Status::Suspect).then(|| {
            self.status = Status::Online;
            Status::Online
        })
    }

    /// A span during which this side itself stood still does not count.
    pub(crate) fn forgive(&mut self, span: Duration) {
        self.heard = self.heard + span;
    }

    /// When to look again.
    pub(crate) fn due(&self, limits: &Limits, is_connected: bool) -> Option<Time> {
        if self.is_resting || self.status == Status::Lost {
            return None;
        }
        let status = match self.status {
            Status::Online => limits.suspect_after.min(limits.lost_after),
            Status::Suspect | Status::Lost => limits.lost_after,
        };
        let span = if is_connected { status.min(self.next_ping(limits)) } else { status };
        Some(self.heard + span)
    }

    fn next_ping(&self, limits: &Limits) -> Duration {
        limits.ping_after.saturating_mul(self.pings.saturating_add(1))
    }

    pub(crate) fn beat(&mut self, now: Time, limits: &Limits, is_connected: bool) -> Beat {
        if self.is_resting || self.status == Status::Lost {
            return Beat::default();
        }
        let silence = now.since(self.heard);
        let mut beat = Beat::default();
        if is_connected && silence >= self.next_ping(limits) {
            // One ping, however many were missed.
            let missed = silence.as_nanos() / limits.ping_after.as_nanos().max(1);
            self.pings = u32::try_from(missed).unwrap_or(u32::MAX);
            beat.ping = true;
        }
        let status = if silence >= limits.lost_after {
            Status::Lost
        } else if silence >= limits.suspect_after {
            Status::Suspect
        } else {
            self.status
        };
        if status != self.status {
            self.status = status;
            beat.status = Some(status);
        }
        beat
    }
}
