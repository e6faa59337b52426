//! When the core has something to do.
//!
//! Invariant: an entry that no longer matters is either taken out, or harmless when it fires.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use antiphon_sched::{NodeId, RequestId, Time};

use super::driver::ConnId;

/// What is due.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum NodeTimer {
    /// A session's acks, pings, suspicion.
    Session(NodeId),
    /// The next attempt at a location.
    Dial(SocketAddr),
    /// A session that is being ended has taken long enough.
    Disconnect(NodeId),
    /// A connection may not be needed any more.
    Idle(NodeId),
    /// The other side of a session without a connection should have dialled by now.
    Missing(NodeId),
    /// A handshake has taken too long.
    HalfOpen(ConnId),
    /// A receipt is not awaited any longer.
    Receipt(u64),
    /// A name is not looked for any longer.
    Lookup(u64),
    /// A configured host is looked up again.
    LookUp(u64),
    /// A call of `peer` is not waited for any longer.
    ConnectRequest(RequestId),
    /// Messages for a full mailbox have waited long enough, or should be tried again.
    Backlog(NodeId),
    /// What waits for a node that was never reached is given up.
    Unreached(NodeId),
    /// A host is asked again who is there.
    Probe(SocketAddr),
    /// Who asked is answered.
    Answer(SocketAddr),
    /// Announce this node again.
    Announce,
}

#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    entries: BTreeSet<(Time, NodeTimer)>,
}

impl TimerQueue {
    pub(super) fn add(&mut self, at: Time, due: NodeTimer) {
        self.entries.insert((at, due));
    }

    pub(super) fn remove(&mut self, at: Time, due: NodeTimer) {
        self.entries.remove(&(at, due));
    }

    pub(super) fn has(&self, at: Time, due: NodeTimer) -> bool {
        self.entries.contains(&(at, due))
    }

    /// Whether something is due, at whatever time.
    pub(super) fn has_any(&self, due: NodeTimer) -> bool {
        self.entries.iter().any(|(_, other)| *other == due)
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.entries.first().map(|(at, _)| *at)
    }

    pub(super) fn take_due(&mut self, now: Time) -> Option<NodeTimer> {
        match self.entries.first() {
            Some((at, _)) if *at <= now => self.entries.pop_first().map(|(_, due)| due),
            Some(_) | None => None,
        }
    }
}
