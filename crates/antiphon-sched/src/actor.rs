//! One contract, three front doors: closures, structs, folds.

use crate::cx::Cx;
use crate::event::Event;
use crate::step::{Failure, Fold, Next, Step, Then};

/// Something that takes one event at a time, and answers with what it waits for next.
///
/// Closures of the right shape are actors; so are boxes of actors.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no actor for messages of type `{M}`",
    label = "no actor for `{M}`",
    note = "a closure is one when it takes `|cx: &mut Cx<'_, {M}>, event: Event<{M}>|` and answers a `Step<{M}>`; wrap it in `actor(|cx, event| ..)` where it is not passed straight to `spawn`",
    note = "a struct needs `impl Actor<{M}> for ..`"
)]
pub trait Actor<M>: 'static {
    /// Reacts to `event`.
    ///
    /// # Errors
    /// A failure ends the actor; whoever monitors it is told the text.
    fn step(&mut self, cx: &mut Cx<'_, M>, event: Event<M>) -> Step<M>;
}

#[diagnostic::do_not_recommend]
impl<M, F> Actor<M> for F
where
    F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
{
    // A frame of its own would copy the event once more: see `batch::run`.
    #[expect(clippy::inline_always, reason = "measured: 4 ns a step")]
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

/// Gives a closure its shape where it is not passed straight to `spawn`: in a `let`, or as an `impl Actor<M>`.
pub fn actor<M, F>(step: F) -> F
where
    F: FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
{
    step
}

/// A fold as an actor: its state travels by value through each step.
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
        let state = self.state.take().expect("a fold that gave no state back has ended");
        let answer = (self.fold)(cx, state, event)?;
        match (answer.state, answer.next) {
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
