//! The one narrow door out of a loop: encoded messages and signals for actors elsewhere.

use std::any::Any;

use crate::addr::SendMode;
use crate::error::Undelivered;
use crate::event::ExitReason;
use crate::id::{ActorId, Key, NodeId};
use crate::requests::RequestId;
use crate::time::Time;
use crate::value::Value;

/// What carries messages and signals out of a loop: a node's core.
pub trait Transport: Any {
    /// Takes an encoded message; the bytes are the caller's, and used again.
    ///
    /// # Errors
    /// It was not taken; the sender has its message back.
    fn send(&mut self, now: Time, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered>;

    /// Takes a signal. Signals are never refused: what cannot arrive is answered by `Down`, or means nothing
    /// any more.
    fn signal(&mut self, now: Time, signal: Signal);
}

/// An encoded message.
#[derive(Debug)]
pub struct OutboundMessage<'a> {
    /// The sender, for order; `None` from outside of all actors.
    pub from: Option<Key>,
    /// The receiver.
    pub to: Destination,
    /// The name of the message's type.
    pub tag: &'static str,
    /// The message.
    pub body: &'a [u8],
    /// How it is to be handed over.
    pub mode: SendMode,
    /// The nodes that addresses in the body name: their locations must travel along.
    pub nodes: &'a [NodeId],
    /// The open requests whose replies travel in the body: to be answered `NodeLost` when that node is.
    pub replies: &'a [RequestId],
}

/// Where a outbound goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To an actor's mailbox.
    Actor(ActorId),
    /// To an open request.
    Request(NodeId, RequestId),
}

/// The number of a monitor: unique together with the node that gave it.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MonitorId {
    /// The node that numbered it.
    pub origin: NodeId,
    /// Its number there.
    pub number: u64,
}

/// What passes between actors besides messages, in the same order. Whoever carries signals has to know each, so it is
/// an error of its compilation when there is another.
#[derive(Clone, Debug)]
pub enum Signal {
    /// `watcher`, here, wants to be told when `target` ends.
    Monitor {
        /// Who is watched, elsewhere.
        target: ActorId,
        /// The monitor.
        id: MonitorId,
        /// Who watches.
        watcher: Key,
    },
    /// That monitor is no longer wanted.
    Demonitor {
        /// Who watched, here.
        watcher: Key,
        /// Who was watched, elsewhere.
        target: ActorId,
        /// The monitor.
        id: MonitorId,
    },
    /// `actor`, here, wants `watcher` to be told when it ends.
    Notify {
        /// Who is to be told, elsewhere.
        watcher: ActorId,
        /// The monitor.
        id: MonitorId,
        /// Who is watched.
        actor: Key,
    },
    /// `actor`, here, has ended; answers a monitor.
    Down {
        /// Who is told, elsewhere.
        watcher: ActorId,
        /// The monitor.
        id: MonitorId,
        /// Who has ended.
        actor: ActorId,
        /// How; a value in it is encoded.
        reason: ExitReason,
    },
    /// `target` is to end.
    Terminate {
        /// Who wants it, for order; `None` from outside of all actors.
        from: Option<Key>,
        /// Who is to end, elsewhere.
        target: ActorId,
    },
    /// An exception for `target`.
    Throw {
        /// Who wants it, for order; `None` from outside of all actors.
        from: Option<Key>,
        /// Whom it is thrown at, elsewhere.
        target: ActorId,
        /// What is thrown; encoded.
        value: Value,
    },
    /// `target` is to wake.
    Resume {
        /// Who wants it, for order; `None` from outside of all actors.
        from: Option<Key>,
        /// Who is to wake, elsewhere.
        target: ActorId,
        /// What it is told; encoded.
        value: Value,
    },
    /// A reply was dropped here without an answer.
    ReplyDropped {
        /// The node that asked.
        node: NodeId,
        /// Its request.
        request_id: RequestId,
    },
    /// A request of this loop, whose reply went abroad, is over.
    RequestClosed {
        /// The request.
        request_id: RequestId,
    },
    /// An actor of this loop that could be reached from outside has ended.
    Exited {
        /// The actor.
        actor: Key,
    },
}
