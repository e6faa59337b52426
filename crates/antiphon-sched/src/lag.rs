//! The messages of a channel that a subscriber misses because its mailbox is full.
//!
//! Invariant: a subscriber receives one `Lagged` between two messages of a channel if it missed messages there, with
//! their exact number. The event is queued at the first missed message, so it keeps its place in the order.

use std::cell::Cell;
use std::rc::Rc;

use crate::actor_event::SystemEvent;
use crate::core::Core;
use crate::id::{ActorId, Key};

/// The messages of one channel that one actor of this loop has missed since the last message that it got.
#[derive(Debug, Default)]
pub struct Lag(Option<Rc<Cell<u64>>>);

impl Lag {
    /// The subscriber got a message: messages that it misses from now on are reported by another event.
    pub fn end(&mut self) {
        self.0 = None;
    }

    /// The number in the event, while the event waits in the mailbox, which holds the other reference.
    fn queued(&self) -> Option<&Rc<Cell<u64>>> {
        self.0.as_ref().filter(|queued| Rc::strong_count(queued) > 1)
    }

    /// Whether the subscriber has not yet taken the event of the messages that it missed last.
    pub(crate) fn is_queued(&self) -> bool {
        self.queued().is_some()
    }
}

impl Core {
    /// Adds to the messages of a channel that an actor of this loop has missed; false when it has exited.
    pub(crate) fn add_missed(
        &mut self,
        subscriber: Key,
        channel: ActorId,
        missed: u64,
        lag: &mut Lag,
    ) -> bool {
        if let Some(queued) = lag.queued() {
            queued.set(queued.get().saturating_add(missed));
            return true;
        }
        let queued = Rc::new(Cell::new(missed));
        lag.0 = Some(queued.clone());
        self.push_system(subscriber, SystemEvent::Lagged(channel, queued))
    }
}
