//! An actor in memory: one allocation with its mailbox and its closure. The only unsafe code of Antiphon.
//!
//! A cell's body is `Body<M, A>`: the mailbox first, the actor behind it. While an actor runs, two parts of
//! one body are in use at once: its step holds `&mut A`, and whoever it calls may reach for the mailbox of
//! the same cell (an actor may send to itself). The parts never overlap, so each is borrowed through the
//! raw pointer of the body, and nobody ever makes a reference to a whole body.
//!
//! What holds, and makes each block sound:
//! 1. `body` comes from `Box::into_raw` of the very `Body<M, A>` for which `vtable` was made.
//! 2. The actor is reached only from `turn`, and from `destroy`. `turn` refuses to run a body that is running;
//!    dropping the cell of a running body only marks it, and `turn` destroys it at its end. Hence `&mut A` is
//!    unique, and its body outlives it.
//! 3. The mailbox is borrowed only through `&mut Cell`, and by `turn` while it holds `&mut Core`, which owns
//!    all cells of the loop. `turn` gives up its own borrow before it calls the actor.
//! 4. `RunState` is changed by this module alone; `Mailbox::take_all` leaves an idle one behind, and is called
//!    here only, on a body whose end is already decided.

#![expect(unsafe_code, reason = "measured: a safe cell costs two allocations an actor and a move a turn")]

use std::any::TypeId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, addr_of_mut};

use crate::actor::Actor;
use crate::batch::{self, AfterBatch, BatchOutcome};
use crate::core::Core;
use crate::event::ExitReason;
use crate::id::Key;
use crate::mailbox::{AnyMailbox, Mailbox};
use crate::panic_guard;

/// Whether a body is running, and whether it is to be destroyed after that.
#[derive(PartialEq, Eq)]
pub(crate) struct RunState(u8);

impl RunState {
    pub(crate) const IDLE: Self = Self(0);
    const RUNNING: Self = Self(1);
    const DOOMED: Self = Self(2);
}

/// The owner of one actor.
pub(crate) struct Cell {
    body: NonNull<()>,
    vtable: &'static VTable,
}

struct VTable {
    message: TypeId,
    mailbox: unsafe fn(NonNull<()>) -> NonNull<dyn AnyMailbox>,
    turn: unsafe fn(NonNull<()>, &mut Core, Key) -> BatchOutcome,
    dispose: unsafe fn(NonNull<()>),
}

#[repr(C)]
struct Body<M, A> {
    mailbox: Mailbox<M>,
    actor: A,
}

impl Cell {
    /// A cell with `actor` behind `mailbox`.
    pub(crate) fn new<M: 'static, A: Actor<M>>(mailbox: Mailbox<M>, actor: A) -> Self {
        let body = Box::into_raw(Box::new(Body { mailbox, actor }));
        // SAFETY: a box is never null.
        let body = unsafe { NonNull::new_unchecked(body.cast()) };
        Self { body, vtable: Table::<M, A>::VTABLE }
    }

    /// The mailbox, if it holds messages of type `M`.
    #[inline]
    pub(crate) fn mailbox<M: 'static>(&mut self) -> Option<&mut Mailbox<M>> {
        if self.vtable.message != TypeId::of::<M>() {
            return None;
        }
        // SAFETY: (1) the type agrees, and the mailbox is the first field of a `repr(C)` body;
        // (3) the borrow is bound to `&mut self`.
        Some(unsafe { self.body.cast::<Mailbox<M>>().as_mut() })
    }

    /// The mailbox, whatever its messages.
    pub(crate) fn any_mailbox(&mut self) -> &mut dyn AnyMailbox {
        // SAFETY: (1) the vtable is the body's; (3) the borrow is bound to `&mut self`.
        unsafe { (self.vtable.mailbox)(self.body).as_mut() }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // SAFETY: (1) the vtable is the body's, and the cell, its owner, is gone after this.
        unsafe { (self.vtable.dispose)(self.body) }
    }
}

/// Runs one turn of the next actor in the run queue; `None` when none has anything to do.
#[inline]
pub(crate) fn run_next(core: &mut Core) -> Option<(Key, BatchOutcome)> {
    let (key, cell) = core.actors.dequeue()?;
    let (body, vtable) = (cell.body, cell.vtable);
    core.begin_batch(key);
    // SAFETY: (1) the vtable is the body's; (2) the cell was in its slot just now, and `begin_batch` drops
    // nothing: the body lives at least until it is marked as running.
    let turned = unsafe { (vtable.turn)(body, core, key) };
    Some((key, turned))
}

/// The way of a running turn to the mailbox of its own actor, without a look into the table.
pub(crate) struct Running<M> {
    mailbox: NonNull<Mailbox<M>>,
}

impl<M> Running<M> {
    /// The mailbox; `None` when the actor has been ended during this turn.
    #[inline]
    pub(crate) fn mailbox<'c>(&self, _: &'c mut Core) -> Option<&'c mut Mailbox<M>> {
        // SAFETY: (2) made and used within `turn`, which keeps the body; (3) the borrow is bound to that of
        // the core, so nobody else borrows the mailbox.
        let mailbox = unsafe { &mut *self.mailbox.as_ptr() };
        (mailbox.state == RunState::RUNNING).then_some(mailbox)
    }
}

struct Table<M, A>(std::marker::PhantomData<(M, A)>);

impl<M: 'static, A: Actor<M>> Table<M, A> {
    const VTABLE: &'static VTable = &VTable {
        message: TypeId::of::<M>(),
        mailbox: Self::mailbox,
        turn: Self::turn,
        dispose: Self::dispose,
    };

    /// # Safety
    /// `body` is a living `Body<M, A>`, and nobody else borrows its mailbox.
    unsafe fn mailbox(body: NonNull<()>) -> NonNull<dyn AnyMailbox> {
        body.cast::<Mailbox<M>>()
    }

    /// # Safety
    /// `body` is a living `Body<M, A>`, owned by a cell of `core`.
    unsafe fn turn(body: NonNull<()>, core: &mut Core, key: Key) -> BatchOutcome {
        let whole = body.cast::<Body<M, A>>().as_ptr();
        // SAFETY: (3) `core` is ours alone, so nobody borrows the mailbox.
        let state = unsafe { &mut (*whole).mailbox.state };
        if *state != RunState::IDLE {
            return BatchOutcome::Dead;
        }
        *state = RunState::RUNNING;
        // SAFETY: (2) marked as running: nobody else reaches the actor, nor frees the body.
        let actor = unsafe { &mut *addr_of_mut!((*whole).actor) };
        let running = Running { mailbox: body.cast() };
        let outcome = catch_unwind(AssertUnwindSafe(|| batch::run(actor, core, key, running)));
        // SAFETY: (3) as above; the run is over.
        let state = unsafe { &mut (*whole).mailbox.state };
        let doomed = *state == RunState::DOOMED;
        *state = RunState::IDLE;
        if doomed {
            // SAFETY: (2) its cell was dropped while it ran, and left the body to us.
            unsafe { Self::destroy(body) };
        }
        match outcome {
            Ok(AfterBatch::Outcome(turned)) => turned,
            Ok(AfterBatch::Swapped(next)) => {
                match core.actors.cell_mut(key).and_then(Cell::mailbox::<M>) {
                    Some(mailbox) => {
                        let cell = Cell::new(mailbox.take_all(), *next);
                        drop(core.actors.replace(key, cell));
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

    /// # Safety
    /// `body` is a living `Body<M, A>` whose owner is going away.
    unsafe fn dispose(body: NonNull<()>) {
        let whole = body.cast::<Body<M, A>>().as_ptr();
        // SAFETY: (3) the owner is going away, so nobody borrows through it.
        let state = unsafe { &mut (*whole).mailbox.state };
        if *state == RunState::IDLE {
            // SAFETY: (2) it does not run.
            unsafe { Self::destroy(body) };
        } else {
            *state = RunState::DOOMED;
        }
    }

    /// # Safety
    /// `body` is a living `Body<M, A>` that is not running, and nobody owns it.
    unsafe fn destroy(body: NonNull<()>) {
        // SAFETY: (1) it came from a box of this very type, and is taken back once.
        let body = unsafe { Box::from_raw(body.cast::<Body<M, A>>().as_ptr()) };
        let Body { mailbox, actor } = *body;
        panic_guard::dispose(mailbox, actor);
    }
}
