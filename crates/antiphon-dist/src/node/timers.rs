//! The timers of the core.
//!
//! Invariant: a timer that is no longer needed is either removed, or harmless when it fires.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use antiphon_sched::{NodeId, RequestId, Time};

use super::driver::ConnId;

/// A timer, with the session, location or request that it is for.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum NodeTimer {
    /// The next acknowledgement, ping or keepalive check of a session.
    Session(NodeId),
    /// The next attempt to dial a location.
    Dial(SocketAddr),
    /// The start or the deadline of a disconnect.
    Disconnect(NodeId),
    /// The next check whether a connection is idle.
    Idle(NodeId),
    /// The peer of a session without a connection should have dialled by now.
    Redial(NodeId),
    /// The deadline by which a connection is established, or a closing one has written its last bytes.
    Connection(ConnId),
    /// The deadline of a receipt.
    Receipt(u64),
    /// The timeout of a lookup.
    Lookup(u64),
    /// The next attempt to resolve a configured host.
    Resolve(u64),
    /// The next check, or the timeout, of a connect request.
    ConnectRequest(RequestId),
    /// The deadline of messages of ended sessions that wait for full mailboxes.
    Backlog(NodeId),
    /// The deadline of messages for a node that was never reached.
    Unreached(NodeId),
    /// The next probe of a host.
    Probe(SocketAddr),
    /// The reply to a probe, after its random wait.
    ProbeReply(SocketAddr),
    /// The peer was asked whether it is still there. It should have answered by now, or is not connected any more.
    Predecessor(NodeId),
    /// The end of connections that were proven with credentials of before.
    Credentials,
    /// The next announcement of this node.
    Announce,
    /// Locations that others have named may be dialled again.
    Hints,
    /// The oldest node that a peer has named may be forgotten.
    Named,
}

#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    timers: BTreeSet<(Time, NodeTimer)>,
}

impl TimerQueue {
    pub(super) fn add(&mut self, at: Time, timer: NodeTimer) {
        self.timers.insert((at, timer));
    }

    pub(super) fn remove(&mut self, at: Time, timer: NodeTimer) {
        self.timers.remove(&(at, timer));
    }

    pub(super) fn has(&self, at: Time, timer: NodeTimer) -> bool {
        self.timers.contains(&(at, timer))
    }

    /// Whether a timer is set, for any time.
    pub(super) fn has_any(&self, timer: NodeTimer) -> bool {
        self.timers.iter().any(|(_, other)| *other == timer)
    }

    /// When the next timer fires.
    pub(super) fn next(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Removes and returns the next timer that is due.
    pub(super) fn take_due(&mut self, now: Time) -> Option<NodeTimer> {
        match self.timers.first() {
            Some((at, _)) if *at <= now => self.timers.pop_first().map(|(_, timer)| timer),
            Some(_) | None => None,
        }
    }
}
