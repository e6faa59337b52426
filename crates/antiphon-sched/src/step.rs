//! What an actor answers: what it waits for next, or how it ends.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use crate::actor::Actor;
use crate::cx::Cx;
use crate::event::Event;
use crate::value::Value;
use crate::wire::Wire;

/// A step's answer: what to wait for next, or a failure.
pub type Step<M> = Result<Next<M>, Failure>;

/// A fold's answer: the next state with what to wait for, or the end.
pub type Fold<S, M> = Result<In<S, M>, Failure>;

/// What an actor waits for next. Made by [`receive`] and its siblings.
#[must_use = "an actor's step must answer with it"]
pub struct Next<M>(pub(crate) Then<M>);

pub(crate) type Admit<M> = Box<dyn FnMut(&M) -> bool>;

pub(crate) enum Then<M> {
    Receive,
    Within(Duration),
    If(Admit<M>),
    Sleep(Duration),
    Suspend,
    Swap(Box<dyn Actor<M>>),
    Exit(Option<Box<Value>>),
}

/// A fold's next state, with what it waits for; or its end. Made by [`to`] and [`stop`].
#[must_use = "a fold must answer with it"]
pub struct In<S, M> {
    pub(crate) state: Option<S>,
    pub(crate) next: Next<M>,
}

/// Why an actor failed: the text of any error, or of anything that can be printed.
///
/// It comes from every `Display` by `?`, and is for that reason neither `Display` nor `Error` itself.
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

/// Waits for the next message or event, and after `span` for [`Event::Timeout`].
#[inline]
pub fn receive_within<M>(span: Duration) -> Step<M> {
    Ok(Next(Then::Within(span)))
}

/// Waits for a message that `admit` admits; the others keep their places. Events come in any case.
pub fn receive_if<M>(admit: impl FnMut(&M) -> bool + 'static) -> Step<M> {
    Ok(Next(Then::If(Box::new(admit))))
}

/// Waits for `span`, then [`Event::Timeout`]; messages wait meanwhile. A resume wakes it early.
pub fn sleep<M>(span: Duration) -> Step<M> {
    Ok(Next(Then::Sleep(span)))
}

/// Waits, without a limit of time, to be resumed; messages wait meanwhile.
pub fn suspend<M>() -> Step<M> {
    Ok(Next(Then::Suspend))
}

/// Goes on with another behaviour. Mailbox, address and names stay; the first event of the new behaviour is
/// the next that arrives, not a `Start`.
pub fn swap<M: 'static, F>(next: F) -> Step<M>
where
    F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
{
    swap_actor(next)
}

/// As [`swap`], with anything that is an actor: a struct, a box, an offer.
pub fn swap_actor<M: 'static>(next: impl Actor<M>) -> Step<M> {
    Ok(Next(Then::Swap(Box::new(next))))
}

/// Ends; whoever monitors is told [`ExitReason::Done`](crate::ExitReason::Done) with `()`.
pub fn stop<N: Ends>() -> Result<N, Failure> {
    Ok(N::end(None))
}

/// Ends with a value that can be read here and on other nodes.
pub fn exit<N: Ends>(value: impl Wire) -> Result<N, Failure> {
    Ok(N::end(Some(Value::new(value))))
}

/// Ends with a value that can be read on this node only.
pub fn exit_local<N: Ends>(value: impl Any) -> Result<N, Failure> {
    Ok(N::end(Some(Value::local(value))))
}

/// Ends with a failure.
pub fn fail<N>(reason: impl fmt::Display) -> Result<N, Failure> {
    Err(Failure::from(reason))
}

/// A fold's next state, and what it waits for in it.
pub fn to<S, M>(state: S, step: Step<M>) -> Fold<S, M> {
    step.map(|next| In { state: Some(state), next })
}

/// An answer that can end an actor: of a closure, or of a fold.
#[diagnostic::on_unimplemented(
    message = "`stop`, `exit` and `exit_local` are an actor's whole answer",
    label = "write `return stop()`, without `?`",
    note = "the answer of a closure is a `Step<M>`, of a fold a `Fold<S, M>`"
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
