//! What an actor is told, one event a step.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use crate::actor::Actor;
use crate::budget::Permit;
use crate::id::{ActorId, NodeId};
use crate::readiness::Ready;
use crate::sockets::SocketId;
use crate::value::Value;

/// One event, as an actor's step receives it.
#[non_exhaustive]
pub enum Event<M> {
    /// The first event of every actor.
    Start,
    /// A message.
    Message(M),
    /// The time of `receive_within` or `sleep` is over.
    Timeout,
    /// An actor that this one monitors has ended.
    Down(Down),
    /// Somebody wants this actor to end. It ends after this step, whatever it answers; now it can clean up.
    Terminate,
    /// Somebody woke this actor from `sleep` or `suspend`, with a value.
    Resumed(Value),
    /// Somebody throws an exception into this actor. Fails unless handled: see [`Thrown`].
    Thrown(Thrown),
    /// Somebody on this node offers another behaviour. Take it with `swap_actor(offer)`, or drop it.
    Swap(SwapOffer<M>),
    /// The way to that node has room again, after a `try_send` that was answered with `Busy`.
    Writable(NodeId),
    /// A source of readiness that this actor registered.
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
            Self::Writable(node) => f.debug_tuple("Writable").field(node).finish(),
            Self::Ready(ready) => ready.fmt(f),
        }
    }
}

/// An actor that was monitored has ended, or cannot be watched any longer. There is exactly one a monitor.
#[derive(Clone, Debug)]
pub struct Down {
    /// The actor that was monitored.
    pub actor: ActorId,
    /// How it ended.
    pub reason: ExitReason,
}

/// How an actor ended.
#[derive(Clone, Debug)]
pub enum ExitReason {
    /// It stopped, or exited with this value; `stop` gives the value `()`.
    Done(Value),
    /// Its step answered with a failure, with this text.
    Failed(String),
    /// Its step panicked, with this text.
    Panicked(String),
    /// It was terminated.
    Terminated,
    /// Its node was lost; what became of the actor is not known.
    NodeLost,
    /// There was no such actor when the monitor was set.
    NoActor,
    /// The watcher's node has set as many monitors at the actor's as that one admits; what becomes of the actor will
    /// not be told. Or the actor wanted this watcher to be told, which had as many such places taken as it may: what becomes
    /// of it will not be told either.
    Refused,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(_) => f.write_str("done"),
            Self::Failed(text) => write!(f, "failed: {text}"),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
            Self::Terminated => f.write_str("terminated"),
            Self::NodeLost => f.write_str("its node was lost"),
            Self::NoActor => f.write_str("no such actor"),
            Self::Refused => f.write_str("no more monitors are admitted"),
        }
    }
}

/// An exception thrown into an actor. Dropped without [`Thrown::take`], it fails the actor after the step.
pub struct Thrown {
    thrown: Box<(Value, Rc<Cell<bool>>)>,
}

impl Thrown {
    pub(crate) fn new(value: Value) -> (Self, Rc<Cell<bool>>) {
        let handled = Rc::new(Cell::new(false));
        (Self { thrown: Box::new((value, handled.clone())) }, handled)
    }

    /// Handles the exception: the actor goes on, with what it answers.
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

/// A behaviour offered to an actor; take it with `swap_actor(offer)`.
pub struct SwapOffer<M>(pub(crate) Box<dyn Actor<M>>);

impl<M: 'static> Actor<M> for SwapOffer<M> {
    fn step(&mut self, cx: &mut crate::cx::Cx<'_, M>, event: Event<M>) -> crate::step::Step<M> {
        self.0.step(cx, event)
    }
}

/// An event that is not a message, as it waits in a mailbox: without the type of messages.
pub(crate) enum SystemEvent {
    Down(Down),
    Terminate,
    Resumed(Value),
    Thrown(Value),
    /// Holds an `SwapOffer<M>`.
    Swap(Box<dyn std::any::Any>),
    Writable(NodeId),
    /// A source of readiness, by its token.
    Ready(u32),
    /// Not told: the actor has taken all that came before, the end of this socket among it.
    SocketSeen(SocketId),
    /// A repeated timer, by its place in the mailbox.
    Tick(u32),
    /// Another, at somebody's cost until it is taken.
    Metered(Box<SystemEvent>, Permit),
}
