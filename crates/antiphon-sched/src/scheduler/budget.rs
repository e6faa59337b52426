//! Byte budgets: how many bytes of messages and events wait in mailboxes.
//!
//! A permit lies in the mailbox beside its message or event, and is dropped with it, in any order and for any reason.
//! So a budget is exact without a scan of the mailboxes.
//!
//! Invariant: the bytes of a budget are the sum of the live permits of it and of its children.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::actor::SendMode;
use crate::error::SendError;
use crate::id::ActorId;
use crate::scheduler::core::Core;
use crate::scheduler::log_panic;
use crate::scheduler::mailbox_limit::MailboxAdmission;
use crate::scheduler::system_event::SystemEvent;

/// A count of bytes that wait in mailboxes. A clone shares the count.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Level>);

#[derive(Debug, Default)]
struct Level {
    bytes: AtomicU64,
    parent: Option<Budget>,
}

impl Budget {
    /// A budget whose bytes count in `parent` as well.
    pub fn child_of(parent: &Budget) -> Self {
        Self(Arc::new(Level { bytes: AtomicU64::new(0), parent: Some(parent.clone()) }))
    }

    /// The number of bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Adds `bytes` until the permit is dropped. Pass the permit to [`LocalActors::with_permit`](crate::LocalActors::with_permit).
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

/// Bytes of a budget that are in use until this permit is dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    bytes: u64,
}

impl Permit {
    /// The bytes that are in use until it is dropped.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds bytes of the budget to it.
    pub fn grow(&mut self, bytes: u64) {
        self.budget.for_each_level(|sum| sum.fetch_add(bytes, Ordering::Relaxed));
        self.bytes += bytes;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.for_each_level(|sum| sum.fetch_sub(self.bytes, Ordering::Relaxed));
    }
}

impl Core {
    /// Runs `put`, which pushes one message or event. `permit` is kept with it.
    pub(crate) fn with_permit<R>(&mut self, permit: Option<Permit>, put: impl FnOnce(&mut Self) -> R) -> R {
        if permit.is_none() {
            return put(self);
        }
        self.permit = permit;
        let result = put(self);
        // When `put` used no permit, it is returned to its budget here.
        self.permit = None;
        result
    }

    /// As [`Core::push_local`]; the current permit, if any, goes into the mailbox with the message.
    pub(crate) fn push_metered<M: 'static>(&mut self, to: ActorId, message: M) -> Result<(), SendError<M>> {
        let key = to.key();
        if self.permit.is_none() {
            return self.push_local(to, message, SendMode::Once);
        }
        if self.mailbox::<M>(key).is_none() {
            // The actor has exited, or its messages have another type, or this is an adapter, which takes the permit
            // itself.
            return self.push_local(to, message, SendMode::Once);
        }
        match self.admit::<M>(key) {
            MailboxAdmission::Push => {}
            MailboxAdmission::Refuse => return Err(SendError::Full(message)),
            MailboxAdmission::Discard => {
                log_panic(|| drop(message));
                return Ok(());
            }
        }
        let permit = self.permit.take();
        if let Some(mailbox) = self.mailbox::<M>(key) {
            mailbox.push_with(message, permit);
            self.actors.enqueue(key.index());
        }
        Ok(())
    }

    /// Attaches the current permit, if any, to an event.
    pub(crate) fn metered(&mut self, system: SystemEvent) -> SystemEvent {
        match self.permit.take() {
            Some(permit) => SystemEvent::Metered(Box::new(system), permit),
            None => system,
        }
    }
}
