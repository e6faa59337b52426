//! The interface between a loop and other nodes: encoded messages, and signals.

use std::any::Any;
use std::time::Duration;

use crate::actor::{ExitReason, SendMode};
use crate::error::{AskError, PayloadError, Undelivered};
use crate::id::{ActorId, Key, NodeId};
use crate::remote::encoded_value::EncodedValue;
use crate::request::RequestId;
use antiphon_types::Time;

/// Carries messages and signals to other nodes. A node of `antiphon-dist` implements it.
pub trait Transport: Any {
    /// Sends an encoded message. The bytes belong to the caller, which reuses them.
    ///
    /// # Errors
    /// The transport did not accept the message; the loop returns it to its sender.
    ///
    /// # Contract
    /// After [`Undelivered::Busy`] for a message to an actor in the mode [`SendMode::Send`] or [`SendMode::Try`], the transport
    /// calls [`Mailboxes::writable`](crate::Mailboxes::writable) later: when there is room for the message, or when it has dropped
    /// what waits for the actor's node. It passes the sender and the address of the message. Without a sender it passes `None`: messages of
    /// handles wait for this call. It may forget a sender after [`Notice::Exited`]. Without the call, the sender or the
    /// messages of handles wait for ever. Other modes and errors need no call.
    fn send(&mut self, now: Time, outbound: &OutboundMessage<'_>) -> Result<(), Undelivered>;

    /// Whether the queue to an actor of another node has this room: for a message, or for a signal that `from` may hold back.
    /// `mode` says how a message would be sent.
    ///
    /// # Errors
    /// As [`Transport::send`], with the same contract after [`Undelivered::Busy`].
    fn check_room(
        &mut self,
        now: Time,
        from: Key,
        to: (ActorId, QueueRoom),
        mode: SendMode,
    ) -> Result<(), Undelivered>;

    /// The rules for the bytes of messages and values. They do not change.
    fn payload_rules(&self) -> PayloadRules {
        PayloadRules::default()
    }

    /// A request has reached its timeout: withdraws the message that holds its `ReplyTo`, if that still waits in a queue
    /// of this node. Returns the error with which the request fails: `Full` if the message was withdrawn and its actor
    /// takes no messages at present, else `TimedOut`.
    fn withdraw(&mut self, now: Time, request_id: RequestId) -> AskError;

    /// Sends a signal. Signals are never refused. If a monitor cannot reach its node, the watcher receives a `Down`;
    /// other signals are dropped.
    fn signal(&mut self, now: Time, signal: Signal);

    /// Takes a notice of the loop, in order with messages and signals.
    fn notice(&mut self, now: Time, notice: Notice);
}

/// The rules of a transport for the bytes of messages and values.
#[derive(Copy, Clone, Debug)]
pub struct PayloadRules {
    /// The most bytes. Encoders stop there.
    pub bytes_max: usize,
    /// Checks the bytes of a value of the named type, with the limit, as [`Transport::send`] checks a message for which
    /// [`is_checked`](OutboundMessage::is_checked) is false: an encoder of the user may have written what peers would refuse.
    pub check: fn(&str, &[u8], u64) -> Result<(), PayloadError>,
}

impl Default for PayloadRules {
    /// 16 MiB, and no check.
    fn default() -> Self {
        Self { bytes_max: crate::remote::MESSAGE_BYTES_MAX, check: |_, _, _| Ok(()) }
    }
}

impl dyn Transport {
    /// The transport as a `T`, if it is one.
    pub(crate) fn as_a<T: Transport>(&mut self) -> Option<&mut T> {
        let transport: &mut dyn Any = self;
        transport.downcast_mut()
    }
}

/// An encoded message.
#[derive(Debug)]
pub struct OutboundMessage<'a> {
    /// The sender, for the order of messages; `None` from outside of all actors.
    pub from: Option<Key>,
    /// The receiver.
    pub to: Destination,
    /// The name of the message's type.
    pub type_name: &'static str,
    /// The encoded message.
    pub body: &'a [u8],
    /// How to deliver the message.
    pub mode: SendMode,
    /// Whether the body is known to be one MessagePack value that keeps to the limits of depth and number. Otherwise the
    /// transport must check it, since an encoder of the user may have written anything.
    pub is_checked: bool,
    /// The nodes of the addresses in the body: their locations must be sent along.
    pub nodes: &'a [NodeId],
    /// The open requests with a `ReplyTo` in the body: they fail with `NodeLost` when the receiving node is lost.
    pub requests: &'a [RequestId],
}

/// Room in the queue to an actor of another node.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct QueueRoom {
    /// The bytes that are to fit.
    pub bytes: u64,
    /// The most bytes that may wait for the actor already.
    pub waiting_max: u64,
}

impl QueueRoom {
    /// Room for so many bytes, however many wait.
    pub const fn for_bytes(bytes: u64) -> Self {
        Self { bytes, waiting_max: u64::MAX }
    }
}

/// The receiver of an outbound message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The mailbox of an actor.
    Actor(ActorId),
    /// An open request.
    Request(NodeId, RequestId),
}

/// The id of a monitor: a number, and the node that assigned it.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MonitorId {
    /// The node that assigned the number.
    pub origin: NodeId,
    /// The number, unique on that node.
    pub number: u64,
}

/// A signal from one actor to another; both directions have this form. It keeps its order with the messages between the two. It
/// holds bytes, keys and numbers only, so it is `Send`.
#[derive(Clone, Debug)]
pub struct Signal {
    /// The actor that it comes from; `None` from outside of all actors.
    pub from: Option<ActorId>,
    /// The actor that it is for.
    pub to: ActorId,
    /// What it says.
    pub kind: SignalKind,
}

/// What a [`Signal`] says.
///
/// A transport must handle every kind, so this enum is exhaustive: a new variant breaks the build of each transport.
#[derive(Clone, Debug)]
pub enum SignalKind {
    /// The sender monitors the receiver.
    Monitor(MonitorId),
    /// The sender does not monitor the receiver any more.
    Demonitor(MonitorId),
    /// The sender requests that the receiver gets a `Down` when the sender exits.
    Notify(MonitorId),
    /// The sender, which the receiver monitors, has exited for this reason.
    Down(MonitorId, ExitReason<EncodedValue>),
    /// Terminates the receiver.
    Terminate {
        /// The time that it has to end; `None` ends it at once, without a further step.
        grace: Option<Duration>,
    },
    /// Throws this exception into the receiver.
    Throw(EncodedValue),
    /// Resumes the receiver with this value.
    Resume(EncodedValue),
    /// The receiver, a subscriber, has missed messages of the sender, a channel.
    Lagged {
        /// The number of messages that it missed since its last message or `Lagged` of the channel.
        missed: u64,
        /// The subscription has ended for this reason.
        ended: bool,
    },
}

impl SignalKind {
    /// The value in it, if it has one.
    pub fn value(&self) -> Option<&EncodedValue> {
        match self {
            Self::Throw(value) | Self::Resume(value) | Self::Down(_, ExitReason::Done(value)) => Some(value),
            Self::Monitor(_)
            | Self::Demonitor(_)
            | Self::Notify(_)
            | Self::Down(..)
            | Self::Terminate { .. }
            | Self::Lagged { .. } => None,
        }
    }
}

/// Something that a loop tells its transport, in order with signals. Like [`SignalKind`], this enum is exhaustive.
#[derive(Clone, Debug)]
pub enum Notice {
    /// No reply will follow: a `ReplyTo` was dropped in this loop, or there was no room for the reply. The transport informs the other
    /// node.
    ReplyDropped {
        /// The node that sent the request.
        node: NodeId,
        /// The request there.
        request_id: RequestId,
        /// The error with which the request fails: `Dropped`, `Busy` or `Reply`.
        reason: AskError,
    },
    /// A request of this loop is closed; its `ReplyTo` had been sent to another node.
    RequestClosed {
        /// The request.
        request_id: RequestId,
    },
    /// `sender`, an actor of this loop, awaits room for messages to an address no more: no
    /// [`writable`](crate::Mailboxes::writable) needs to follow.
    RoomNotAwaited {
        /// The actor.
        sender: Key,
        /// The address on another node.
        address: ActorId,
    },
    /// An actor of this loop that other nodes could reach has exited, or such an adapter is closed. If it has many monitors, some of
    /// their [`SignalKind::Down`]s follow later.
    Exited {
        /// The actor or the adapter.
        actor: Key,
    },
}

/// What the core has queued for the transport.
#[derive(Debug)]
pub(crate) enum QueuedSignal {
    Signal(Signal),
    Notice(Notice),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop on another thread may be the transport: what passes the seam must be `Send`.
    #[test]
    fn signal_is_send() {
        fn assert_send<T: Send>() {}
        assert_send::<Signal>();
        assert_send::<Notice>();
        assert_send::<OutboundMessage<'_>>();
    }
}
