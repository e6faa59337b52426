//! The scheduler: the actors of one loop, their mailboxes and timers, and the steps that they take.
//!
//! It owns the actor table and the run queue, mailboxes, timers, monitors, adapters, budgets and dead letters. Only this module
//! holds unsafe code (`cell.rs`). It must not import `event_loop`, `socket` or `thread`, which call it.

mod actor_table;
mod adapter;
mod batch;
mod budget;
#[cfg(not(feature = "safe"))]
mod cell;
#[cfg(feature = "safe")]
#[path = "cell_safe.rs"]
mod cell;
mod core;
mod dead_letter;
mod extras;
mod inspection;
mod lag;
mod mailbox;
mod mailbox_limit;
mod mailbox_waiters;
pub(crate) mod panic_guard;
mod termination;
mod timers;

pub(crate) use self::core::{Core, TransportSlot};
pub(crate) use actor_table::Flag;
pub(crate) use batch::StepEffect;
pub use budget::{Budget, Permit};
pub(crate) use cell::{ActorType, RunningType};
pub use dead_letter::{DeadLetter, DeadLetterCounts};
pub use extras::SignalPolicy;
pub use inspection::{ActorActivity, ActorCursor, ActorInfo, ActorPage, ActorState};
pub use lag::Lag;
pub(crate) use mailbox::{Make, NO_REQUEST, PendingTimer};
pub use mailbox_limit::{MailboxLimit, WhenFull};
pub(crate) use mailbox_waiters::Waiter;
pub use mailbox_waiters::{RoomMark, Ticket, Turn};
pub(crate) use panic_guard::{catch_panic, log_panic};
pub(crate) use termination::GRACE;
pub(crate) use timers::{DueTimer, TimerKey};
