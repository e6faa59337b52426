//! The events that actors handle, one per step.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use crate::actor::Actor;
use crate::actor::value::Value;
use crate::event_loop::Ready;
use crate::id::ActorId;

/// One event, as an actor's step receives it.
#[non_exhaustive]
pub enum Event<M> {
    /// The first event of every actor.
    Start,
    /// A message.
    Message(M),
    /// The time of `receive_within` or `sleep` has elapsed.
    Timeout,
    /// An actor that this one monitors has exited.
    Down(Down),
    /// This actor is terminated: it can clean up now. It exits after this step, unless the step returns
    /// [`finishing`](crate::finishing), which keeps it running for a while.
    Terminate,
    /// Another actor resumed this one from `sleep` or `suspend`, with a value.
    Resumed(Value),
    /// An exception was thrown into this actor. The actor fails unless it handles the exception: see [`Thrown`].
    Thrown(Thrown),
    /// An actor of this node offers another behaviour. Accept it with `swap_actor(offer)`, or drop it.
    Swap(SwapOffer<M>),
    /// Room for the message that [`Cx::send`](crate::Cx::send) or [`Cx::try_send`](crate::Cx::try_send) refused with
    /// [`SendError::Full`](crate::SendError::Full) or [`SendError::Busy`](crate::SendError::Busy), or the target has
    /// ended. In a mailbox of this node one place is reserved for this actor until the end of the batch in which it
    /// receives this event.
    Writable {
        /// The address that refused the message.
        target: ActorId,
    },
    /// This actor, a subscriber of a channel, has missed messages of it, because there was no room for them.
    Lagged {
        /// The channel.
        channel: ActorId,
        /// The number of messages that it missed since the last message or `Lagged` of that channel.
        missed: u64,
    },
    /// A readiness source that this actor registered is ready.
    Ready(Ready),
}

impl<M: fmt::Debug> fmt::Debug for Event<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("Start"),
            Self::Message(message) => f.debug_tuple("Message").field(message).finish(),
            Self::Timeout => f.write_str("Timeout"),
            Self::Down(down) => down.fmt(f),
            Self::Terminate => f.write_str("Terminate"),
            Self::Resumed(value) => f.debug_tuple("Resumed").field(value).finish(),
            Self::Thrown(thrown) => thrown.fmt(f),
            Self::Swap(_) => f.write_str("Swap"),
            Self::Writable { target } => f.debug_struct("Writable").field("target", target).finish(),
            Self::Lagged { channel, missed } => {
                f.debug_struct("Lagged").field("channel", channel).field("missed", missed).finish()
            }
            Self::Ready(ready) => ready.fmt(f),
        }
    }
}

/// Reports that a monitored actor has exited, or can no longer be monitored. Each monitor causes exactly one.
#[derive(Clone, Debug)]
pub struct Down {
    /// The actor that was monitored.
    pub actor: ActorId,
    /// Why it exited.
    pub reason: ExitReason,
}

/// Why an actor exited. `V` is the type of exit values: [`EncodedValue`](crate::EncodedValue) between loop and transport.
#[derive(Clone, Debug)]
pub enum ExitReason<V = Value> {
    /// It exited with this value; the value of `stop` is `()`.
    Done(V),
    /// Its step returned a failure with this text.
    Failed(String),
    /// Its step panicked with this text.
    Panicked(String),
    /// It was terminated.
    Terminated,
    /// Its node was lost; whether the actor still runs is unknown.
    NodeLost,
    /// There was no such actor when the monitor was set.
    NoActor,
    /// The monitor was refused: a limit was reached. The actor may still run; its exit will not be reported.
    ///
    /// For a monitor: this actor has as many open requests as [`requests_max`](crate::LoopConfig::requests_max) allows, or
    /// its node has set too many monitors on the actor's node. For a `notify`: too many actors have already reserved a
    /// `Down` at the watcher.
    Refused,
    /// The subscription has ended, as it was made to, because the subscriber missed messages of the channel.
    Lagged,
}

impl<V> ExitReason<V> {
    /// The same reason, with another form of its value.
    pub fn map<W>(self, convert: impl FnOnce(V) -> W) -> ExitReason<W> {
        match self {
            Self::Done(value) => ExitReason::Done(convert(value)),
            Self::Failed(text) => ExitReason::Failed(text),
            Self::Panicked(text) => ExitReason::Panicked(text),
            Self::Terminated => ExitReason::Terminated,
            Self::NodeLost => ExitReason::NodeLost,
            Self::NoActor => ExitReason::NoActor,
            Self::Refused => ExitReason::Refused,
            Self::Lagged => ExitReason::Lagged,
        }
    }
}

impl<V> fmt::Display for ExitReason<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(_) => f.write_str("done"),
            Self::Failed(text) => write!(f, "failed: {text}"),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
            Self::Terminated => f.write_str("terminated"),
            Self::NodeLost => f.write_str("its node was lost"),
            Self::NoActor => f.write_str("no such actor"),
            Self::Refused => f.write_str("no more monitors are admitted"),
            Self::Lagged => f.write_str("the subscriber missed messages of the channel"),
        }
    }
}

/// An exception thrown into an actor. If it is dropped without [`Thrown::take`], the actor fails after the step.
pub struct Thrown {
    thrown: Box<(Value, Rc<Cell<bool>>)>,
}

impl Thrown {
    pub(crate) fn new(value: Value) -> (Self, Rc<Cell<bool>>) {
        let handled = Rc::new(Cell::new(false));
        (Self { thrown: Box::new((value, handled.clone())) }, handled)
    }

    /// Whether the exception has been handled.
    pub(crate) fn handled(&self) -> Rc<Cell<bool>> {
        self.thrown.1.clone()
    }

    /// Handles the exception and returns its value: the actor continues with the result of its step.
    pub fn take(self) -> Value {
        let (value, handled) = *self.thrown;
        handled.set(true);
        value
    }
}

impl fmt::Debug for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Thrown").field(&self.thrown.0).finish()
    }
}

/// A behaviour offered to an actor; accept it with `swap_actor(offer)`.
pub struct SwapOffer<M>(pub(super) Box<dyn Actor<M>>);

impl<M: 'static> Actor<M> for SwapOffer<M> {
    fn step(&mut self, cx: &mut crate::actor::cx::Cx<'_, M>, event: Event<M>) -> crate::actor::step::Step<M> {
        self.0.step(cx, event)
    }
}
