//! What waits in mailboxes at somebody's cost, in bytes.
//!
//! A charge lies in the mailbox beside what it was made for, and ends when that is taken or dropped, in whatever order and
//! for whatever reason: so an account is exact, and nobody has to look at mailboxes.
//!
//! Invariant: an account stands at the sum of its charges that live, those of the accounts below it among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::Core;
use crate::error::SendError;
use crate::event::SystemEvent;
use crate::id::ActorId;

/// So many bytes wait in mailboxes, of somebody. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Level>);

#[derive(Debug, Default)]
struct Level {
    bytes: AtomicU64,
    parent: Option<Budget>,
}

impl Budget {
    /// An account of which each byte is one of `parent` as well.
    pub fn child_of(parent: &Budget) -> Self {
        Self(Arc::new(Level { bytes: AtomicU64::new(0), parent: Some(parent.clone()) }))
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// So many bytes more, until the charge is dropped. Give it to [`LoopRef::with_permit`](crate::LoopRef::with_permit).
    pub fn acquire(&self, bytes: u64) -> Permit {
        self.for_each_level(|sum| sum.fetch_add(bytes, Ordering::Relaxed));
        Permit { budget: self.clone(), bytes }
    }

    fn for_each_level(&self, change: impl Fn(&AtomicU64) -> u64) {
        let mut next = Some(self);
        while let Some(budget) = next {
            change(&budget.0.bytes);
            next = budget.0.parent.as_ref();
        }
    }
}

/// Bytes on an account, as long as it lives.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.for_each_level(|sum| sum.fetch_sub(self.bytes, Ordering::Relaxed));
    }
}

impl Core {
    /// As [`Core::push_local`]; what somebody is charged for lies in the mailbox with its charge.
    pub(crate) fn push_metered<M: 'static>(&mut self, to: ActorId, message: M) -> Result<(), SendError<M>> {
        let (key, max) = (to.key(), self.mailbox_max);
        if self.permit.is_none() {
            return self.push_local(to, message);
        }
        let Some(mailbox) = self.actors.cell_mut(key).and_then(|cell| cell.mailbox::<M>()) else {
            // Nobody's mailbox, or an ear's, which takes the charge.
            return self.push_local(to, message);
        };
        if mailbox.is_full(max) {
            return Err(SendError::Full(message));
        }
        mailbox.push_with(message, self.permit.take());
        self.actors.enqueue(key.index());
        Ok(())
    }

    /// As [`Core::push_metered`], of an event.
    pub(crate) fn metered(&mut self, system: SystemEvent) -> SystemEvent {
        match self.permit.take() {
            Some(permit) => SystemEvent::Metered(Box::new(system), permit),
            None => system,
        }
    }
}
