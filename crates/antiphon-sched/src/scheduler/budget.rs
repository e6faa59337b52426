//! Budgets: how much of something limited is in use, such as bytes in mailboxes, open requests, or subscribers.
//!
//! A permit lies beside what it counts, such as a message in a mailbox, and is dropped with it, in any order and for any reason.
//! So a budget is exact without a scan of what it counts.
//!
//! Invariant: what a budget has in use is the sum of the live permits of it and of its children.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::actor::SendMode;
use crate::error::SendError;
use crate::id::ActorId;
use crate::scheduler::core::Core;
use crate::scheduler::log_panic;
use crate::scheduler::mailbox_limit::MailboxAdmission;
use crate::scheduler::system_event::SystemEvent;

/// How much of something limited is in use: bytes, or a number of things. Budgets form a tree: what a child has in use counts in its
/// parent too. A clone shares the count.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Level>);

#[derive(Debug)]
struct Level {
    used: AtomicU64,
    max: u64,
    parent: Option<Budget>,
}

impl Default for Level {
    fn default() -> Self {
        Self { used: AtomicU64::new(0), max: u64::MAX, parent: None }
    }
}

impl Budget {
    /// A budget of its own, of which at most `max` can be in use by [`Budget::try_acquire`]. [`Budget::default`] has no maximum.
    pub fn with_max(max: u64) -> Self {
        Self(Arc::new(Level { max, ..Level::default() }))
    }

    /// A budget without a maximum of its own, which counts in `parent` as well.
    pub fn child_of(parent: &Budget) -> Self {
        Self::child_with_max(parent, u64::MAX)
    }

    /// A budget with a maximum of its own, which counts in `parent` as well.
    pub fn child_with_max(parent: &Budget, max: u64) -> Self {
        Self(Arc::new(Level { used: AtomicU64::new(0), max, parent: Some(parent.clone()) }))
    }

    /// How much is in use.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Adds `amount` until the permit is dropped, whatever the maximum is. [`LocalActors::with_permit`](crate::LocalActors::with_permit)
    /// keeps a permit with a message.
    pub fn acquire(&self, amount: u64) -> Permit {
        self.for_each_level(|used| used.fetch_add(amount, Ordering::Relaxed));
        Permit { budget: self.clone(), amount }
    }

    /// As [`Budget::acquire`], if the budget and all above it have room for it. Only one thread may acquire permits of a tree of
    /// budgets with maxima; any thread may drop them.
    ///
    /// # Errors
    /// One of them would have more than its maximum in use.
    pub fn try_acquire(&self, amount: u64) -> Result<Permit, OverBudget> {
        let (mut next, mut over) = (Some(self), None);
        while let Some(budget) = next {
            if budget.0.max.saturating_sub(budget.used()) < amount {
                over = Some(OverBudget { max: budget.0.max });
            }
            next = budget.0.parent.as_ref();
        }
        over.map_or_else(|| Ok(self.acquire(amount)), Err)
    }

    fn for_each_level(&self, change: impl Fn(&AtomicU64) -> u64) {
        let mut next = Some(self);
        while let Some(budget) = next {
            change(&budget.0.used);
            next = budget.0.parent.as_ref();
        }
    }
}

/// A budget has no room for a permit.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct OverBudget {
    /// The most that may be in use of the budget without room; of several, of that which is above the others.
    pub max: u64,
}

/// A part of a budget that is in use until this permit is dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    amount: u64,
}

impl Permit {
    /// How much is in use until it is dropped.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Adds more of the budget to it, whatever the maximum is.
    pub fn grow(&mut self, more: u64) {
        self.budget.for_each_level(|used| used.fetch_add(more, Ordering::Relaxed));
        self.amount += more;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.for_each_level(|used| used.fetch_sub(self.amount, Ordering::Relaxed));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_count_in_all_budgets_above() {
        let all = Budget::with_max(3);
        let (one, other) = (Budget::child_with_max(&all, 2), Budget::child_of(&all));
        let first = one.try_acquire(2).expect("both have room");
        assert_eq!(one.try_acquire(1).expect_err("it is full"), OverBudget { max: 2 });
        let second = other.try_acquire(1).expect("one is left");
        assert_eq!(other.try_acquire(1).expect_err("the one above is full"), OverBudget { max: 3 });
        assert_eq!((one.used(), other.used(), all.used()), (2, 1, 3));
        // Beyond the maximum; then nothing fits until it is below again.
        let third = other.acquire(5);
        assert!(other.try_acquire(0).is_ok() && other.try_acquire(1).is_err());
        drop((first, third));
        assert_eq!((one.used(), other.used(), all.used()), (0, 1, 1));
        drop(second);
        assert_eq!(all.used(), 0);
    }
}
