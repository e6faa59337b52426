//! The cell without unsafe code (feature `safe`): mailbox and actor have a box each, and the actor is taken
//! out of its cell while it runs.
//!
//! Invariant: `actor` is `None` exactly while the actor runs.

use std::any::{Any, type_name};
use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::Mutex;

use crate::actor::{Actor, ExitReason};
use crate::id::Key;
use crate::scheduler::batch::{self, AfterBatch, BatchOutcome};
use crate::scheduler::core::Core;
use crate::scheduler::mailbox::{AnyMailbox, Mailbox};
use crate::scheduler::{Scheduler, log_panic, panic_guard};

/// Empty in this build: a cell is running if its `actor` is `None`.
#[derive(PartialEq, Eq)]
pub(crate) struct RunState;

impl RunState {
    pub(crate) const IDLE: Self = Self;
}

/// Returns the name of the type of an actor.
pub(crate) type ActorType = fn() -> &'static str;

/// The type of the actor whose batch runs, for other threads.
#[derive(Default)]
pub(crate) struct RunningType(Mutex<Option<ActorType>>);

impl RunningType {
    pub(crate) fn set(&self, actor_type: ActorType) {
        *self.0.lock() = Some(actor_type);
    }

    /// The name of the type; empty before the first batch.
    pub(crate) fn name(&self) -> &'static str {
        let actor_type = *self.0.lock();
        actor_type.map_or("", |actor_type| actor_type())
    }
}

/// The owner of one actor.
pub(crate) struct Cell {
    mailbox: Box<dyn TypedMailbox>,
    actor: Option<Box<dyn RunBatch>>,
    actor_type: ActorType,
}

trait TypedMailbox: AnyMailbox {
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<M: 'static> TypedMailbox for Mailbox<M> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

trait RunBatch {
    fn run_batch(&mut self, scheduler: &mut Scheduler, key: Key) -> BatchOutcome;
}

struct Runner<M, A> {
    actor: A,
    messages: std::marker::PhantomData<fn(M)>,
}

impl Cell {
    /// A cell with `mailbox` and `actor`.
    pub(crate) fn new<M: 'static, A: Actor<M>>(mailbox: Mailbox<M>, actor: A) -> Self {
        let actor = Runner { actor, messages: std::marker::PhantomData };
        Self { mailbox: Box::new(mailbox), actor: Some(Box::new(actor)), actor_type: type_name::<A> }
    }

    /// The mailbox, if it holds messages of type `M`.
    pub(crate) fn mailbox<M: 'static>(&mut self) -> Option<&mut Mailbox<M>> {
        self.mailbox.as_any().downcast_mut()
    }

    /// The type of the actor.
    pub(crate) fn actor_type(&self) -> ActorType {
        self.actor_type
    }

    /// The mailbox, without the type of its messages.
    pub(crate) fn any_mailbox(&mut self) -> &mut dyn AnyMailbox {
        &mut *self.mailbox
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        panic_guard::dispose_boxed(&mut *self.mailbox, self.actor.take());
    }
}

/// Gives a running batch access to the mailbox of its own actor.
pub(crate) struct Running<M> {
    key: Key,
    messages: std::marker::PhantomData<fn(M)>,
}

impl<M: 'static> Running<M> {
    /// The mailbox; `None` if the actor has been ended during this batch.
    pub(crate) fn mailbox<'c>(&self, core: &'c mut Core) -> Option<&'c mut Mailbox<M>> {
        core.mailbox::<M>(self.key)
    }
}

/// Runs one batch of the next actor in the run queue; `None` if the queue is empty.
pub(crate) fn run_next(scheduler: &mut Scheduler) -> Option<(Key, BatchOutcome)> {
    let (key, cell) = scheduler.core.actors.dequeue()?;
    let actor_type = cell.actor_type;
    let Some(mut actor) = cell.actor.take() else { return Some((key, BatchOutcome::Dead)) };
    scheduler.core.begin_batch(key, actor_type);
    let outcome = actor.run_batch(scheduler, key);
    match scheduler.core.actors.cell_mut(key) {
        Some(cell) if cell.actor.is_none() => cell.actor = Some(actor),
        // A swap has put another actor into the cell, or the cell is gone.
        Some(_) | None => log_panic(|| drop(actor)),
    }
    Some((key, outcome))
}

impl<M: 'static, A: Actor<M>> RunBatch for Runner<M, A> {
    fn run_batch(&mut self, scheduler: &mut Scheduler, key: Key) -> BatchOutcome {
        let running = Running { key, messages: std::marker::PhantomData };
        match catch_unwind(AssertUnwindSafe(|| batch::run(&mut self.actor, scheduler, key, running))) {
            Ok(AfterBatch::Outcome(outcome)) => outcome,
            Ok(AfterBatch::Swapped(next)) => {
                match scheduler.core.actors.cell_mut(key) {
                    Some(cell) => {
                        let actor = Runner { actor: *next, messages: std::marker::PhantomData::<fn(M)> };
                        cell.actor = Some(Box::new(actor));
                    }
                    None => log_panic(|| drop(next)),
                }
                BatchOutcome::More
            }
            Err(payload) => {
                BatchOutcome::Ended(Box::new(ExitReason::Panicked(panic_guard::panic_text(payload))))
            }
        }
    }
}
