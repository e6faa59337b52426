//! Pings, and the judgement of how long a peer has been silent, in the time that the caller passes in.

use std::time::Duration;

use crate::limits::Limits;
use antiphon_types::Time;

/// Whether a peer is reachable, judged by its silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// The peer sent something lately.
    Online,
    /// The peer is silent for `suspect_after`.
    Suspect,
    /// The peer is silent for `lost_after`: the session is over.
    Lost,
}

/// The keepalive of one session.
#[derive(Debug)]
pub(crate) struct Keepalive {
    /// When the last record arrived, later by each stall of this side.
    last_received: Time,
    /// Pings since then, including missed ones.
    pings: u32,
    liveness: Liveness,
    /// Whether the connection was closed because it was idle: silence does not count then.
    is_stopped: bool,
}

/// The action that a timeout requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KeepaliveAction {
    pub(crate) ping: bool,
    /// The new liveness, if it changed.
    pub(crate) liveness: Option<Liveness>,
}

impl Keepalive {
    pub(crate) fn new(now: Time) -> Keepalive {
        Keepalive { last_received: now, pings: 0, liveness: Liveness::Online, is_stopped: false }
    }

    /// When the last record arrived; later, if this side did not run for a while since.
    pub(crate) fn last_received(&self) -> Time {
        self.last_received
    }

    pub(crate) fn liveness(&self) -> Liveness {
        self.liveness
    }

    /// Stops counting silence, until [`restart`](Keepalive::restart) or until something arrives.
    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Counts silence again after a [`stop`](Keepalive::stop), from now on.
    pub(crate) fn restart(&mut self, now: Time) {
        if self.is_stopped {
            self.last_received = self.last_received.max(now);
            self.pings = 0;
            self.is_stopped = false;
        }
    }

    /// Records that something arrived. Returns the liveness if that changed it.
    #[inline]
    pub(crate) fn on_received(&mut self, now: Time) -> Option<Liveness> {
        self.last_received = self.last_received.max(now);
        self.pings = 0;
        self.is_stopped = false;
        (self.liveness == Liveness::Suspect).then(|| {
            self.liveness = Liveness::Online;
            Liveness::Online
        })
    }

    /// Excludes a span during which this side itself did not run.
    pub(crate) fn exclude_stall(&mut self, span: Duration) {
        self.last_received = self.last_received + span;
    }

    /// When [`next_action`](Keepalive::next_action) is due.
    pub(crate) fn due(&self, limits: &Limits, is_connected: bool) -> Option<Time> {
        if self.is_stopped || self.liveness == Liveness::Lost {
            return None;
        }
        let next_change = match self.liveness {
            Liveness::Online => limits.suspect_after.min(limits.lost_after),
            Liveness::Suspect | Liveness::Lost => limits.lost_after,
        };
        let span = if is_connected { next_change.min(self.next_ping(limits)) } else { next_change };
        Some(self.last_received + span)
    }

    /// The silence after which the next ping is due.
    fn next_ping(&self, limits: &Limits) -> Duration {
        limits.ping_after.saturating_mul(self.pings.saturating_add(1))
    }

    pub(crate) fn next_action(&mut self, now: Time, limits: &Limits, is_connected: bool) -> KeepaliveAction {
        if self.is_stopped || self.liveness == Liveness::Lost {
            return KeepaliveAction::default();
        }
        let silence = now.since(self.last_received);
        let mut next_action = KeepaliveAction::default();
        if is_connected && silence >= self.next_ping(limits) {
            // After a late call, one ping stands for all missed ones.
            let missed = silence.as_nanos() / limits.ping_after.as_nanos().max(1);
            self.pings = u32::try_from(missed).unwrap_or(u32::MAX);
            next_action.ping = true;
        }
        let liveness = if silence >= limits.lost_after {
            Liveness::Lost
        } else if silence >= limits.suspect_after {
            Liveness::Suspect
        } else {
            self.liveness
        };
        if liveness != self.liveness {
            self.liveness = liveness;
            next_action.liveness = Some(liveness);
        }
        next_action
    }
}
