//! The memory of one actor: a single allocation with its mailbox and its state.
//!
//! This module and `signals` hold the only unsafe code of Antiphon.
//!
//! The body of a cell is `Body<M, A>`: the mailbox first, then the actor. While an actor runs, both parts of its
//! body are in use at once: its step holds `&mut A`, and code that the step calls may borrow the mailbox of the
//! same cell (an actor may send to itself). The parts never overlap. Each is borrowed through the raw pointer of
//! the body, and no code makes a reference to a whole body.
//!
//! Each unsafe block is sound because of these invariants:
//! 1. `body` comes from `Box::into_raw` of a `Body<M, A>`, and `vtable` was made for the same `M` and `A`.
//! 2. The actor is accessed only by `run_batch` and by `destroy`. `run_batch` refuses to run a body that is
//!    running. Dropping the cell of a running body only marks the body, and `run_batch` destroys it at its end.
//!    Hence `&mut A` is unique, and the body outlives it.
//! 3. The mailbox is borrowed only through `&mut Cell`, and by `run_batch` while it holds `&mut Scheduler`,
//!    which owns all cells of the loop. `run_batch` gives up its own borrow before it calls the actor.
//! 4. Only this module changes `RunState`. `Mailbox::take_all` leaves an idle one behind; it is called only here,
//!    on a body that is about to be destroyed.

#![expect(
    unsafe_code,
    reason = "measured: a safe cell costs two allocations per actor and one move per batch"
)]

use std::any::{TypeId, type_name};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, addr_of_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::actor::{Actor, ExitReason};
use crate::id::Key;
use crate::scheduler::batch::{self, AfterBatch, BatchOutcome};
use crate::scheduler::core::Core;
use crate::scheduler::mailbox::{AnyMailbox, Mailbox};
use crate::scheduler::{Scheduler, log_panic, panic_guard};

/// Whether a body is running, and whether it must be destroyed afterwards.
#[derive(PartialEq, Eq)]
pub(crate) struct RunState(u8);

impl RunState {
    pub(crate) const IDLE: Self = Self(0);
    const RUNNING: Self = Self(1);
    /// Its cell was dropped while it ran.
    const DROPPED: Self = Self(2);
}

/// The owner of one actor.
pub(crate) struct Cell {
    body: NonNull<()>,
    vtable: &'static VTable,
}

/// Returns the name of the type of an actor.
pub(crate) type ActorType = fn() -> &'static str;

/// The type of the actor whose batch runs, for other threads.
#[derive(Default)]
pub(crate) struct RunningType(AtomicPtr<()>);

impl RunningType {
    #[inline]
    pub(crate) fn set(&self, actor_type: ActorType) {
        self.0.store(actor_type as *mut (), Ordering::Relaxed);
    }

    /// The name of the type; empty before the first batch.
    pub(crate) fn name(&self) -> &'static str {
        let actor_type = self.0.load(Ordering::Relaxed);
        if actor_type.is_null() {
            return "";
        }
        // SAFETY: only `set` stores pointers that are not null, and each of them is an `ActorType`.
        let actor_type = unsafe { std::mem::transmute::<*mut (), ActorType>(actor_type) };
        actor_type()
    }
}

struct VTable {
    message: TypeId,
    actor_type: ActorType,
    mailbox: unsafe fn(NonNull<()>) -> NonNull<dyn AnyMailbox>,
    run_batch: unsafe fn(NonNull<()>, &mut Scheduler, Key) -> BatchOutcome,
    dispose: unsafe fn(NonNull<()>),
}

#[repr(C)]
struct Body<M, A> {
    mailbox: Mailbox<M>,
    actor: A,
}

impl Cell {
    /// A cell with `mailbox` and `actor`.
    pub(crate) fn new<M: 'static, A: Actor<M>>(mailbox: Mailbox<M>, actor: A) -> Self {
        let body = Box::into_raw(Box::new(Body { mailbox, actor }));
        // SAFETY: the pointer of a box is not null.
        let body = unsafe { NonNull::new_unchecked(body.cast()) };
        Self { body, vtable: Table::<M, A>::VTABLE }
    }

    /// The mailbox, if it holds messages of type `M`.
    #[inline]
    pub(crate) fn mailbox<M: 'static>(&mut self) -> Option<&mut Mailbox<M>> {
        if self.vtable.message != TypeId::of::<M>() {
            return None;
        }
        // SAFETY: (1) the message type is `M`, and the mailbox is the first field of a `repr(C)` body;
        // (3) the borrow is bound to `&mut self`.
        Some(unsafe { self.body.cast::<Mailbox<M>>().as_mut() })
    }

    /// The type of the actor.
    pub(crate) fn actor_type(&self) -> ActorType {
        self.vtable.actor_type
    }

    /// The mailbox, without the type of its messages.
    pub(crate) fn any_mailbox(&mut self) -> &mut dyn AnyMailbox {
        // SAFETY: (1) the vtable belongs to the body; (3) the borrow is bound to `&mut self`.
        unsafe { (self.vtable.mailbox)(self.body).as_mut() }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // SAFETY: (1) the vtable belongs to the body, and the cell, its owner, does not exist after this.
        unsafe { (self.vtable.dispose)(self.body) }
    }
}

/// Runs one batch of the next actor in the run queue; `None` if the queue is empty.
#[inline]
pub(crate) fn run_next(scheduler: &mut Scheduler) -> Option<(Key, BatchOutcome)> {
    let (key, cell) = scheduler.core.actors.dequeue()?;
    let (body, vtable) = (cell.body, cell.vtable);
    scheduler.core.begin_batch(key, vtable.actor_type);
    // SAFETY: (1) the vtable belongs to the body; (2) the cell was just taken from its slot by reference, and
    // `begin_batch` drops nothing. So the body is live at least until it is marked as running.
    let outcome = unsafe { (vtable.run_batch)(body, scheduler, key) };
    Some((key, outcome))
}

/// Gives a running batch access to the mailbox of its own actor, without a lookup in the actor table.
pub(crate) struct Running<M> {
    mailbox: NonNull<Mailbox<M>>,
}

impl<M> Running<M> {
    /// The mailbox; `None` if the actor has been ended during this batch.
    #[inline]
    pub(crate) fn mailbox<'c>(&self, _: &'c mut Core) -> Option<&'c mut Mailbox<M>> {
        // SAFETY: (2) made and used within `run_batch`, which keeps the body; (3) the borrow is bound to that of
        // the core, so no other code borrows the mailbox.
        let mailbox = unsafe { &mut *self.mailbox.as_ptr() };
        (mailbox.state == RunState::RUNNING).then_some(mailbox)
    }
}

struct Table<M, A>(std::marker::PhantomData<(M, A)>);

impl<M: 'static, A: Actor<M>> Table<M, A> {
    const VTABLE: &'static VTable = &VTable {
        message: TypeId::of::<M>(),
        actor_type: type_name::<A>,
        mailbox: Self::mailbox,
        run_batch: Self::run_batch,
        dispose: Self::dispose,
    };

    /// # Safety
    /// `body` is a live `Body<M, A>`, and no other code borrows its mailbox.
    unsafe fn mailbox(body: NonNull<()>) -> NonNull<dyn AnyMailbox> {
        body.cast::<Mailbox<M>>()
    }

    /// # Safety
    /// `body` is a live `Body<M, A>`, owned by a cell of `scheduler`.
    unsafe fn run_batch(body: NonNull<()>, scheduler: &mut Scheduler, key: Key) -> BatchOutcome {
        let whole = body.cast::<Body<M, A>>().as_ptr();
        // SAFETY: (3) `scheduler` is borrowed exclusively, so no other code borrows the mailbox.
        let state = unsafe { &mut (*whole).mailbox.state };
        if *state != RunState::IDLE {
            return BatchOutcome::Dead;
        }
        *state = RunState::RUNNING;
        // SAFETY: (2) the body is marked as running, so no other code accesses the actor or frees the body.
        let actor = unsafe { &mut *addr_of_mut!((*whole).actor) };
        let running = Running { mailbox: body.cast() };
        let outcome = catch_unwind(AssertUnwindSafe(|| batch::run(actor, scheduler, key, running)));
        // SAFETY: (3) as above; the batch is over.
        let state = unsafe { &mut (*whole).mailbox.state };
        let dropped = *state == RunState::DROPPED;
        *state = RunState::IDLE;
        if dropped {
            // SAFETY: (2) its cell was dropped while it ran, and did not free the body.
            unsafe { Self::destroy(body) };
        }
        match outcome {
            Ok(AfterBatch::Outcome(outcome)) => outcome,
            Ok(AfterBatch::Swapped(next)) => {
                match scheduler.core.actors.cell_mut(key).and_then(Cell::mailbox::<M>) {
                    Some(mailbox) => {
                        let cell = Cell::new(mailbox.take_all(), *next);
                        drop(scheduler.core.actors.replace(key, cell));
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

    /// # Safety
    /// `body` is a live `Body<M, A>`, and its owner is being dropped.
    unsafe fn dispose(body: NonNull<()>) {
        let whole = body.cast::<Body<M, A>>().as_ptr();
        // SAFETY: (3) the owner is being dropped, so no code borrows through it.
        let state = unsafe { &mut (*whole).mailbox.state };
        if *state == RunState::IDLE {
            // SAFETY: (2) the body is not running.
            unsafe { Self::destroy(body) };
        } else {
            *state = RunState::DROPPED;
        }
    }

    /// # Safety
    /// `body` is a live `Body<M, A>` that is not running and has no owner.
    unsafe fn destroy(body: NonNull<()>) {
        // SAFETY: (1) it came from a box of this type; `destroy` runs once for each body.
        let body = unsafe { Box::from_raw(body.cast::<Body<M, A>>().as_ptr()) };
        let Body { mailbox, actor } = *body;
        panic_guard::dispose(mailbox, actor);
    }
}
