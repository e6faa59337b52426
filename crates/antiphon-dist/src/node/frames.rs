//! Handling of the frames of peers.
//!
//! A peer has proven that it knows the secret, and nothing else. Its frames affect only its own session and the actors
//! that are exposed to it.

use std::time::Duration;

use antiphon_sched::{
    ActorId, DeadLetter, Destination, EncodedValue, ExitReason, Key, Lag, MonitorId, NodeId, Undelivered,
};

use super::context::NodeCx;
use super::driver::Driver;

/// The bit in the number of a monitor in a frame that marks it as numbered by the node of the target, not of the watcher.
pub(super) const BY_TARGET: u64 = 1 << 63;

/// A signal of a peer. It may have to wait behind messages for the same actor.
#[derive(Debug)]
pub(super) enum InboundSignal {
    Monitor { watcher: Key, target: Key, id: MonitorId },
    Demonitor { target: Key, id: MonitorId },
    Notify { watcher: Key, id: MonitorId, actor: ActorId },
    Down { watcher: Key, id: MonitorId, actor: ActorId, reason: ExitReason<EncodedValue> },
    Lagged { subscriber: Key, channel: ActorId, missed: u64, ended: bool },
    Terminate { target: Key, grace: Option<Duration> },
    Throw { target: Key, value: EncodedValue },
    Resume { target: Key, value: EncodedValue },
}

impl InboundSignal {
    /// The size in bytes of its value or text.
    pub(super) fn body_bytes(&self) -> usize {
        match self {
            Self::Throw { value, .. } | Self::Resume { value, .. } => bytes_of(value),
            Self::Down { reason, .. } => bytes_of_reason(reason),
            Self::Monitor { .. }
            | Self::Demonitor { .. }
            | Self::Notify { .. }
            | Self::Lagged { .. }
            | Self::Terminate { .. } => 0,
        }
    }

    /// Whether it overtakes messages that wait for the mailbox of its receiver.
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Self::Terminate { .. } | Self::Throw { .. } | Self::Resume { .. } => true,
            Self::Monitor { .. }
            | Self::Demonitor { .. }
            | Self::Notify { .. }
            | Self::Down { .. }
            | Self::Lagged { .. } => false,
        }
    }

    /// Whether it waits while the mailbox of its receiver holds twice its maximum.
    pub(super) fn needs_room(&self) -> bool {
        matches!(self, Self::Lagged { .. })
    }

    /// Whether it belongs to a monitor that was admitted before. Such a signal needs no further permission.
    pub(super) fn is_always_admitted(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Demonitor { .. } => true,
            Self::Monitor { .. }
            | Self::Notify { .. }
            | Self::Lagged { .. }
            | Self::Terminate { .. }
            | Self::Throw { .. }
            | Self::Resume { .. } => false,
        }
    }

    /// The receiving actor of this node.
    pub(super) fn receiver(&self) -> Key {
        match self {
            Self::Monitor { target, .. }
            | Self::Demonitor { target, .. }
            | Self::Terminate { target, .. }
            | Self::Throw { target, .. }
            | Self::Resume { target, .. } => *target,
            Self::Notify { watcher, .. } | Self::Down { watcher, .. } => *watcher,
            Self::Lagged { subscriber, .. } => *subscriber,
        }
    }
}

impl NodeCx {
    /// Delivers the number of messages that a subscriber has missed, or the end of its subscription.
    pub(super) fn deliver_lagged(
        &mut self,
        subscriber: Key,
        (channel, missed, ended): (ActorId, u64, bool),
        driver: &mut impl Driver,
    ) {
        let mut local = driver.local();
        let is_taken = if ended {
            local.signals().push_down(subscriber, channel, ExitReason::Lagged)
        } else {
            local.mailboxes().add_missed(subscriber, channel, missed, &mut Lag::default())
        };
        self.counts.refused_messages += u64::from(!is_taken);
    }

    /// Records a dead letter for a signal that had no room.
    pub(super) fn report_signal(
        &mut self,
        is_taken: bool,
        target: Key,
        what: &'static str,
        driver: &mut impl Driver,
    ) {
        if !is_taken {
            self.counts.refused_messages += 1;
            let is_alive = driver.local().is_alive(target.actor());
            let reason = if is_alive { Undelivered::Full } else { Undelivered::NoActor };
            driver.local().dead_letter(DeadLetter::new(ActorId::new(self.me, target), what, reason));
        }
    }
}

/// The size in bytes of a value of a peer.
pub(super) fn bytes_of(value: &EncodedValue) -> usize {
    value.body().len()
}

/// The size in bytes of the value or text of an exit reason.
pub(super) fn bytes_of_reason(reason: &ExitReason<EncodedValue>) -> usize {
    match reason {
        ExitReason::Done(value) => bytes_of(value),
        ExitReason::Failed(text) | ExitReason::Panicked(text) => text.len(),
        ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused
        | ExitReason::Lagged => 0,
    }
}

/// The exit reason without its value or text.
pub(super) fn without_value(reason: ExitReason<EncodedValue>) -> ExitReason<EncodedValue> {
    match reason {
        ExitReason::Done(_) => ExitReason::Done(EncodedValue::Opaque),
        ExitReason::Failed(_) => ExitReason::Failed(String::new()),
        ExitReason::Panicked(_) => ExitReason::Panicked(String::new()),
        ExitReason::Terminated
        | ExitReason::NodeLost
        | ExitReason::NoActor
        | ExitReason::Refused
        | ExitReason::Lagged => reason,
    }
}

/// The node of a destination.
pub(super) fn destination_node(to: Destination) -> NodeId {
    match to {
        Destination::Actor(id) => id.node(),
        Destination::Request(node, _) => node,
    }
}
