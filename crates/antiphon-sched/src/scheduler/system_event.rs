//! The events that are not messages, as a mailbox holds them.

use std::cell::Cell;
use std::rc::Rc;

use crate::actor::{Down, Value};
use crate::id::ActorId;
use crate::scheduler::budget::Permit;
use crate::socket::SocketId;

/// An event that is not a message, as stored in a mailbox: independent of the message type.
pub(crate) enum SystemEvent {
    Down(Down),
    Terminate,
    Resumed(Value),
    Thrown(Value),
    /// Holds a `SwapOffer<M>`.
    Swap(Box<dyn std::any::Any>),
    /// The address for which the actor awaited room.
    Writable(ActorId),
    /// A channel, and the number of its messages that were missed. The number may grow until the event is taken.
    Lagged(ActorId, Rc<Cell<u64>>),
    /// A readiness source, by its index.
    Ready(u32),
    /// Gets no event: the actor has handled everything queued before it, including the end of this socket.
    SocketCloseHandled(SocketId),
    /// A repeated timer, by its slot in the mailbox.
    Tick(u32),
    /// Another system event, with the permit for its bytes.
    Metered(Box<SystemEvent>, Permit),
}
