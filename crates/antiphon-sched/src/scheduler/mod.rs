//! The scheduler: the actors of one loop, their mailboxes and timers, and the steps that they take.
//!
//! It owns the core: the actor table with the run queue, mailboxes and what waits for room in them, timers, monitors, adapters,
//! terminations and dead letters. The core also holds the tables of requests, readiness, sockets and pools, whose code is in their own
//! modules. All unsafe code of this module is in `cell.rs`.
//! Must not import: `testing`.

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
mod ended_monitors;
mod exposure;
mod extras;
mod inbox;
mod inspection;
mod lag;
mod mailbox;
mod mailbox_limit;
mod mailbox_waiters;
mod panic_guard;
mod system_event;
mod termination;
mod timers;

pub(crate) use self::core::Core;
pub(crate) use batch::StepEffect;
pub use budget::{Budget, OverBudget, Permit};
pub(crate) use cell::{ActorType, RunningType};
pub use dead_letter::{DeadLetter, DeadLetterCounts};
pub use extras::SignalPolicy;
pub(crate) use inbox::{InboxMessage, InboxOutcome, InboxState};
pub use inspection::{ActorActivity, ActorCursor, ActorInfo, ActorPage, ActorState, LoopStats};
pub use lag::Lag;
pub(crate) use mailbox::{Make, NO_REQUEST, PendingTimer};
pub use mailbox_limit::{MailboxLimit, WhenFull};
pub(crate) use mailbox_waiters::Waiter;
pub use mailbox_waiters::{RoomMark, Ticket, Turn};
pub(crate) use panic_guard::{TableInUse, catch_panic, debug_assert_no_table_in_use, log_panic};
pub(crate) use system_event::SystemEvent;
pub(crate) use termination::GRACE;
pub(crate) use timers::{TimerKey, TimerPurpose};

use crate::id::Key;
use crate::remote::{QueuedSignal, Transport};

/// The state of a loop that steps of actors reach through their `Cx`: the core, and beside it the transport to other nodes.
///
/// The core queues signals for the transport. They are passed to it before it gets a message or is used in another way, so
/// signals and messages keep their order. The end of a batch and of a round pass those that are left: so few wait.
pub(crate) struct Scheduler {
    pub(crate) core: Core,
    transport: Option<Box<dyn Transport>>,
}

impl Scheduler {
    /// A loop without a transport: it reaches no other node.
    pub(crate) fn new(core: Core) -> Self {
        Self { core, transport: None }
    }

    /// Sets the transport. The one before, if any, gets the signals that are queued.
    pub(crate) fn set_transport(&mut self, transport: Box<dyn Transport>) {
        self.pass_signals();
        self.core.payload_rules = Some(transport.payload_rules());
        self.transport = Some(transport);
    }

    /// Passes the queued signals to the transport.
    pub(crate) fn pass_signals(&mut self) {
        if let Some(transport) = &mut self.transport {
            for queued in self.core.signals.drain(..) {
                match queued {
                    QueuedSignal::Signal(signal) => transport.signal(self.core.now, signal),
                    QueuedSignal::Notice(notice) => transport.notice(self.core.now, notice),
                }
            }
        }
    }

    /// The core and the transport, which has all signals of the core; `None` without a transport.
    #[inline]
    pub(crate) fn parts(&mut self) -> Option<(&mut Core, &mut dyn Transport)> {
        if !self.core.signals.is_empty() {
            self.pass_signals();
        }
        let transport = self.transport.as_mut()?;
        Some((&mut self.core, &mut **transport))
    }

    /// Runs one batch of the next runnable actor; false if there is none.
    #[inline]
    pub(crate) fn run_one(&mut self) -> bool {
        let Some((key, outcome)) = cell::run_next(self) else { return false };
        self.core.after_batch(key, outcome);
        if !self.core.signals.is_empty() {
            self.pass_signals();
        }
        if self.core.mailbox_waiters.is_active() {
            self.serve_waiters_after(key);
        }
        true
    }

    #[inline(never)]
    fn serve_waiters_after(&mut self, key: Key) {
        self.core.note_batch_end(key);
        self.serve_waiters();
    }

    /// Gives turns to local actors and to messages of handles that wait for room in mailboxes, as long as none of the transport is
    /// due before.
    pub(crate) fn serve_waiters(&mut self) {
        while let Some(target) = self.core.next_turn_of_handles() {
            self.serve_handles(target);
        }
    }
}
