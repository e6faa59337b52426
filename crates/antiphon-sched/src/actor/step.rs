//! The result of a step: what the actor waits for next, or how it ends.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use crate::actor::Actor;
use crate::actor::cx::Cx;
use crate::actor::event::Event;
use crate::actor::value::Value;
use crate::remote::Wire;

/// The result of a step: what to wait for next, or a failure.
pub type Step<M> = Result<Next<M>, Failure>;

/// The result of a fold: the next state and what to wait for, or the end.
pub type Fold<S, M> = Result<In<S, M>, Failure>;

/// What an actor waits for next. [`receive`] and the other functions of this module make it.
#[must_use = "an actor's step must return it"]
pub struct Next<M>(pub(crate) Then<M>);

pub(crate) type Admit<M> = Box<dyn FnMut(&M) -> bool>;

pub(crate) enum Then<M> {
    Receive,
    Within(Duration),
    If(Admit<M>),
    IfWithin(Duration, Admit<M>),
    Again,
    Sleep(Duration),
    Suspend,
    Finish(Duration),
    Swap(Box<dyn Actor<M>>),
    Exit(Option<Box<Value>>),
}

/// The next state of a fold and what it waits for, or its end. [`to`] and [`stop`] make it.
#[must_use = "a fold must return it"]
pub struct In<S, M> {
    pub(super) state: Option<S>,
    pub(super) next: Next<M>,
}

/// Why an actor failed, as text.
///
/// `?` converts every `Display` type to it. For that reason it implements neither `Display` nor `Error` itself.
pub struct Failure(Box<str>);

impl Failure {
    /// The reason.
    pub fn text(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_text(self) -> String {
        self.0.into()
    }
}

impl<E: fmt::Display> From<E> for Failure {
    fn from(reason: E) -> Self {
        Self(reason.to_string().into())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Waits for the next message or event.
#[inline]
pub fn receive<M>() -> Step<M> {
    Ok(Next(Then::Receive))
}

/// Waits for the next message or event; after `span` the actor receives [`Event::Timeout`].
#[inline]
pub fn receive_within<M>(span: Duration) -> Step<M> {
    Ok(Next(Then::Within(span)))
}

/// Waits for a message that `admit` accepts, or for any event. Other messages keep their places in the mailbox.
///
/// The predicate tests messages only. Events such as [`Event::Down`](crate::Event::Down) and
/// [`Event::Timeout`] arrive without a test, also before messages that came earlier and wait.
pub fn receive_if<M>(admit: impl FnMut(&M) -> bool + 'static) -> Step<M> {
    Ok(Next(Then::If(Box::new(admit))))
}

/// As [`receive_if`]; after `span` the actor receives [`Event::Timeout`].
pub fn receive_if_within<M>(span: Duration, admit: impl FnMut(&M) -> bool + 'static) -> Step<M> {
    Ok(Next(Then::IfWithin(span, Box::new(admit))))
}

/// Goes on with the last [`receive_if`] or [`receive_if_within`], with its predicate and its deadline, behind the message
/// or event that the actor has just received. Messages that the predicate has refused are not tested again: so many
/// messages can be picked from a long mailbox in a time that grows with its length alone.
///
/// It is the same as [`receive`] if the actor has waited in another way since. After [`Event::Timeout`] it waits without a
/// deadline.
pub fn receive_again<M>() -> Step<M> {
    Ok(Next(Then::Again))
}

/// Waits for `span`, until [`Event::Timeout`]; messages wait meanwhile. A resume, throw or termination ends the wait
/// early.
///
/// After a span of zero, the actors that can run now run first: so an actor can do long work in parts. It does not wait, so a
/// termination keeps its place behind the messages in the mailbox, as for an actor that is running.
pub fn sleep<M>(span: Duration) -> Step<M> {
    Ok(Next(Then::Sleep(span)))
}

/// Waits without a timeout until the actor is resumed; messages wait meanwhile. A throw or termination ends the
/// wait too.
pub fn suspend<M>() -> Step<M> {
    Ok(Next(Then::Suspend))
}

/// Waits for the next message or event, as [`receive`] does. As the result of [`Event::Terminate`] it keeps the actor
/// running, so that it can finish its work: until it stops by itself, or `span` has elapsed, or the grace time of its
/// termination is over. Later steps wait as usual, by [`receive`] for example; each further `finishing` sets the span anew.
///
/// ```
/// # use antiphon_sched::{Cx, Event, Loop, LoopConfig, finishing, receive, secs, stop};
/// # let mut events = Loop::new(LoopConfig::default())?;
/// let mut open_jobs = 2;
/// let mut is_ending = false;
/// events.spawn(move |cx: &mut Cx<&str>, event| match event {
///     Event::Start => {
///         for _ in 0..open_jobs {
///             cx.after(secs(1), "job done")?;
///         }
///         receive()
///     }
///     Event::Message(_) => {
///         open_jobs -= 1;
///         if is_ending && open_jobs == 0 { stop() } else { receive() }
///     }
///     Event::Terminate => {
///         is_ending = true;
///         finishing(secs(3))
///     }
///     _ => receive(),
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn finishing<M>(span: Duration) -> Step<M> {
    Ok(Next(Then::Finish(span)))
}

/// Replaces the behaviour of the actor. Mailbox, address and names stay. The new behaviour receives the next
/// event, but no [`Event::Start`].
pub fn swap<M: 'static, F>(next: F) -> Step<M>
where
    F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
{
    swap_actor(next)
}

/// As [`swap`], for any value that implements [`Actor`]: a struct, a box, a [`SwapOffer`](crate::SwapOffer).
pub fn swap_actor<M: 'static>(next: impl Actor<M>) -> Step<M> {
    Ok(Next(Then::Swap(Box::new(next))))
}

/// Ends the actor with the exit value `()`; its monitors receive [`ExitReason::Done`](crate::ExitReason::Done).
pub fn stop<N: Ends>() -> Result<N, Failure> {
    Ok(N::end(None))
}

/// Ends the actor with an exit value that can be read on this and on other nodes.
pub fn exit<N: Ends>(value: impl Wire) -> Result<N, Failure> {
    Ok(N::end(Some(Value::new(value))))
}

/// Ends the actor with an exit value that can be read on this node only.
pub fn exit_local<N: Ends>(value: impl Any) -> Result<N, Failure> {
    Ok(N::end(Some(Value::local(value))))
}

/// Ends the actor with a failure.
pub fn fail<N>(reason: impl fmt::Display) -> Result<N, Failure> {
    Err(Failure::from(reason))
}

/// Returns the next state of a fold, and what it waits for.
pub fn to<S, M>(state: S, step: Step<M>) -> Fold<S, M> {
    step.map(|next| In { state: Some(state), next })
}

/// A result that can end an actor: of a closure, or of a fold.
#[diagnostic::on_unimplemented(
    message = "`stop`, `exit` and `exit_local` are the whole result of a step",
    label = "write `return stop()`, without `?`",
    note = "a closure returns a `Step<M>`, a fold returns a `Fold<S, M>`"
)]
pub trait Ends: sealed::Sealed {
    #[doc(hidden)]
    fn end(value: Option<Value>) -> Self;
}

impl<M> Ends for Next<M> {
    fn end(value: Option<Value>) -> Self {
        Self(Then::Exit(value.map(Box::new)))
    }
}

impl<S, M> Ends for In<S, M> {
    fn end(value: Option<Value>) -> Self {
        Self { state: None, next: Ends::end(value) }
    }
}

mod sealed {
    pub trait Sealed {}
    impl<M> Sealed for super::Next<M> {}
    impl<S, M> Sealed for super::In<S, M> {}
}
