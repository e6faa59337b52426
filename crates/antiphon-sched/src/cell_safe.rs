//! The safe twin of the cell (feature `safe`): mailbox and actor in boxes of their own, and the actor taken
//! out of its cell while it runs.
//!
//! Invariant: `actor` is absent exactly while it runs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::actor::Actor;
use crate::batch::{self, AfterBatch, BatchOutcome};
use crate::core::Core;
use crate::event::ExitReason;
use crate::id::Key;
use crate::mailbox::{AnyMailbox, Mailbox};
use crate::panic_guard;

/// Holds nothing here: the twin knows by the absent actor that it runs.
#[derive(PartialEq, Eq)]
pub(crate) struct RunState;

impl RunState {
    pub(crate) const IDLE: Self = Self;
}

/// The owner of one actor.
pub(crate) struct Cell {
    mailbox: Box<dyn TypedMailbox>,
    actor: Option<Box<dyn Runs>>,
}

trait TypedMailbox: AnyMailbox {
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<M: 'static> TypedMailbox for Mailbox<M> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

trait Runs {
    fn turn(&mut self, core: &mut Core, key: Key) -> BatchOutcome;
}

struct Runner<M, A> {
    actor: A,
    messages: std::marker::PhantomData<fn(M)>,
}

impl Cell {
    /// A cell with `actor` behind `mailbox`.
    pub(crate) fn new<M: 'static, A: Actor<M>>(mailbox: Mailbox<M>, actor: A) -> Self {
        let actor = Runner { actor, messages: std::marker::PhantomData };
        Self { mailbox: Box::new(mailbox), actor: Some(Box::new(actor)) }
    }

    /// The mailbox, if it holds messages of type `M`.
    pub(crate) fn mailbox<M: 'static>(&mut self) -> Option<&mut Mailbox<M>> {
        self.mailbox.as_any().downcast_mut()
    }

    /// The mailbox, whatever its messages.
    pub(crate) fn any_mailbox(&mut self) -> &mut dyn AnyMailbox {
        &mut *self.mailbox
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        panic_guard::dispose_boxed(&mut *self.mailbox, self.actor.take());
    }
}

/// The way of a running turn to the mailbox of its own actor.
pub(crate) struct Running<M> {
    key: Key,
    messages: std::marker::PhantomData<fn(M)>,
}

impl<M: 'static> Running<M> {
    /// The mailbox; `None` when the actor has been ended during this turn.
    pub(crate) fn mailbox<'c>(&self, core: &'c mut Core) -> Option<&'c mut Mailbox<M>> {
        core.mailbox::<M>(self.key)
    }
}

/// Runs one turn of the next actor in the run queue; `None` when none has anything to do.
pub(crate) fn run_next(core: &mut Core) -> Option<(Key, BatchOutcome)> {
    let (key, cell) = core.actors.dequeue()?;
    let Some(mut actor) = cell.actor.take() else { return Some((key, BatchOutcome::Dead)) };
    core.begin_batch(key);
    let turned = actor.turn(core, key);
    match core.actors.cell_mut(key) {
        // A swap has put another actor there.
        Some(cell) if cell.actor.is_none() => cell.actor = Some(actor),
        Some(_) | None => panic_guard::log_panic(|| drop(actor)),
    }
    Some((key, turned))
}

impl<M: 'static, A: Actor<M>> Runs for Runner<M, A> {
    fn turn(&mut self, core: &mut Core, key: Key) -> BatchOutcome {
        let running = Running { key, messages: std::marker::PhantomData };
        match catch_unwind(AssertUnwindSafe(|| batch::run(&mut self.actor, core, key, running))) {
            Ok(AfterBatch::Outcome(turned)) => turned,
            Ok(AfterBatch::Swapped(next)) => {
                match core.actors.cell_mut(key) {
                    Some(cell) => {
                        let actor = Runner { actor: *next, messages: std::marker::PhantomData::<fn(M)> };
                        cell.actor = Some(Box::new(actor));
                    }
                    None => panic_guard::log_panic(|| drop(next)),
                }
                BatchOutcome::More
            }
            Err(payload) => {
                BatchOutcome::Ended(Box::new(ExitReason::Panicked(panic_guard::panic_text(payload))))
            }
        }
    }
}
