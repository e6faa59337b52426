//! Typed addresses, and the trait of everything that messages can be sent to.
//!
//! Invariant: a message reaches a mailbox only if that mailbox holds messages of the same type. Addresses can
//! be forged, so each send checks the type.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::error::SendError;
use crate::id::{ActorId, NodeId};
use crate::remote::{LoopRef, Wire, reach_wire};
use crate::request::RequestId;

/// How a message is sent.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendMode {
    /// Queues the message, up to the limit of the queue to the actor. If the message is refused with `Full` or `Busy`,
    /// the sending actor receives `Writable` when there is room.
    Send,
    /// As `Send`, but queues the message only while the queue to the actor is below its high-water mark.
    Try,
    /// As `Send`, for a caller that does not send the message again: no `Writable` follows a refusal.
    Once,
    /// As `Once`, for the message of a request: it is withdrawn if it still waits when the request reaches its timeout.
    Ask,
    /// As `Send`; the receipt completes this request with the outcome. A local address returns the outcome instead,
    /// and leaves the request open.
    Receipt(RequestId),
}

/// The function that sends a message of type `M` to an actor.
type Reach<M> = fn(&mut LoopRef<'_>, ActorId, M, SendMode) -> Result<(), SendError<M>>;

/// The address of an actor that receives messages of type `M`.
///
/// It is `Copy`, has 24 bytes and needs no bound on `M`. Two addresses are equal if they refer to the same
/// actor, or to the same adapter of it: the address of an adapter differs from that of its actor, and from those of its other
/// adapters. [`ActorId::actor`] finds the actor of each.
pub struct Addr<M> {
    id: ActorId,
    reach: Reach<M>,
}

impl<M> Addr<M> {
    /// The id of the actor, without the type of its messages.
    pub const fn id(self) -> ActorId {
        self.id
    }

    /// The node of the actor.
    pub const fn node(self) -> NodeId {
        self.id.node()
    }
}

impl<M: 'static> Addr<M> {
    pub(crate) fn local(id: ActorId) -> Self {
        Self { id, reach: reach_local::<M> }
    }
}

impl<M: Wire> Addr<M> {
    /// The address of an actor, on any node, that receives messages of type `M`.
    ///
    /// A wrong type does no harm: each send checks it, on the actor's node.
    pub fn of(id: ActorId) -> Self {
        Self { id, reach: reach_wire::<M> }
    }
}

fn reach_local<M: 'static>(
    loop_ref: &mut LoopRef<'_>,
    to: ActorId,
    message: M,
    mode: SendMode,
) -> Result<(), SendError<M>> {
    loop_ref.scheduler.core.push_local(to, message, mode)
}

/// A receiver of messages: an [`Addr`] or a channel.
#[diagnostic::on_unimplemented(
    message = "nothing can be sent to `{Self}`",
    label = "not an address or a channel",
    note = "to reply to a request, use `cx.reply(reply, value)`; everything else is sent to an `Addr<M>` or a `Channel<T>`"
)]
pub trait Target: Copy {
    /// The type of the messages that it receives.
    type Message;

    /// Sends `message` in the given mode.
    ///
    /// # Errors
    /// The message comes back with the reason; nothing was queued.
    fn put(
        self,
        loop_ref: &mut LoopRef<'_>,
        message: Self::Message,
        mode: SendMode,
    ) -> Result<(), SendError<Self::Message>>;

    /// The id of the receiving actor, for dead letters.
    fn target_id(self) -> ActorId;
}

impl<M> Target for Addr<M> {
    type Message = M;

    #[inline]
    fn put(self, loop_ref: &mut LoopRef<'_>, message: M, mode: SendMode) -> Result<(), SendError<M>> {
        (self.reach)(loop_ref, self.id, message, mode)
    }

    fn target_id(self) -> ActorId {
        self.id
    }
}

impl<M> Copy for Addr<M> {}

impl<M> Clone for Addr<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, N> PartialEq<Addr<N>> for Addr<M> {
    fn eq(&self, other: &Addr<N>) -> bool {
        self.id == other.id
    }
}

impl<M> Eq for Addr<M> {}

impl<M> PartialEq<ActorId> for Addr<M> {
    fn eq(&self, other: &ActorId) -> bool {
        self.id == *other
    }
}

impl<M> PartialEq<Addr<M>> for ActorId {
    fn eq(&self, other: &Addr<M>) -> bool {
        *self == other.id
    }
}

impl<M> Hash for Addr<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<M> From<Addr<M>> for ActorId {
    fn from(addr: Addr<M>) -> Self {
        addr.id
    }
}

impl<M> fmt::Display for Addr<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl<M> fmt::Debug for Addr<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Addr<{}>({})", std::any::type_name::<M>(), self.id)
    }
}
