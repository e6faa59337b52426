//! What a program writes: actors, their addresses, the events that they receive, what a step returns, and what it can do (`Cx`).
//!
//! It owns no state of the loop: a `Cx` borrows the scheduler for one step.
//! Must not import: `socket`, `testing`.

mod addr;
mod cx;
mod event;
mod step;
mod value;

pub use addr::{Addr, SendMode, Target};
pub use cx::{Cx, Monitor, Timer};
pub use event::{Down, Event, ExitReason, SwapOffer, Thrown};
pub(crate) use step::{Admit, Then};
pub use step::{
    Ends, Failure, Fold, In, Next, Step, exit, exit_local, fail, finishing, receive, receive_again,
    receive_if, receive_if_within, receive_within, sleep, stop, suspend, swap, swap_actor, to,
};
pub use value::Value;

/// A state machine that handles one event at a time. Each step returns which event the actor waits for next.
///
/// Closures with the right signature are actors. A `Box<dyn Actor<M>>` is an actor too.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an actor for messages of type `{M}`",
    label = "not an actor for `{M}`",
    note = "a closure is an actor if it takes `|cx: &mut Cx<'_, {M}>, event: Event<{M}>|` and returns a `Step<{M}>`; wrap it in `actor(|cx, event| ..)` if it is not passed straight to `spawn`",
    note = "a struct needs `impl Actor<{M}> for ..`"
)]
pub trait Actor<M>: 'static {
    /// Handles `event`.
    ///
    /// # Errors
    /// An error ends the actor. Actors that monitor it receive its text in [`Down`](crate::Down).
    fn step(&mut self, cx: &mut Cx<'_, M>, event: Event<M>) -> Step<M>;
}

#[diagnostic::do_not_recommend]
impl<M, F> Actor<M> for F
where
    F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
{
    // Without inlining, the event is copied once more: see `batch::run`.
    #[expect(clippy::inline_always, reason = "measured: saves 4 ns per step")]
    #[inline(always)]
    fn step(&mut self, cx: &mut Cx<'_, M>, event: Event<M>) -> Step<M> {
        self(cx, event)
    }
}

impl<M: 'static> Actor<M> for Box<dyn Actor<M>> {
    fn step(&mut self, cx: &mut Cx<'_, M>, event: Event<M>) -> Step<M> {
        (**self).step(cx, event)
    }
}

/// Gives a closure the signature of an actor. Needed where the closure is not passed straight to `spawn`: in a
/// `let`, or as an `impl Actor<M>`.
pub fn actor<M, F>(step: F) -> F
where
    F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
{
    step
}

/// An actor made of a state and a fold. Each step takes the state by value and returns the next one.
pub(crate) struct FoldActor<S, F> {
    state: Option<S>,
    fold: F,
}

impl<S, F> FoldActor<S, F> {
    pub(crate) fn new(state: S, fold: F) -> Self {
        Self { state: Some(state), fold }
    }
}

impl<S, M, F> Actor<M> for FoldActor<S, F>
where
    S: 'static,
    F: FnMut(&mut Cx<'_, M>, S, Event<M>) -> Fold<S, M> + 'static,
{
    fn step(&mut self, cx: &mut Cx<'_, M>, event: Event<M>) -> Step<M> {
        let state = self.state.take().expect("a fold that returns no state has ended the actor");
        let outcome = (self.fold)(cx, state, event)?;
        match (outcome.state, outcome.next) {
            (Some(_), Next(Then::Swap(_))) => {
                Err(Failure::from("a fold keeps its behaviour; spawn a closure to use `swap`"))
            }
            (state, next) => {
                self.state = state;
                Ok(next)
            }
        }
    }
}
