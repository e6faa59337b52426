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
use crate::event::System;
use crate::id::ActorId;

/// So many bytes wait in mailboxes, of somebody. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Account(Arc<Sum>);

#[derive(Debug, Default)]
struct Sum {
    bytes: AtomicU64,
    above: Option<Account>,
}

impl Account {
    /// An account of which each byte is one of `above` as well.
    pub fn below(above: &Account) -> Self {
        Self(Arc::new(Sum { bytes: AtomicU64::new(0), above: Some(above.clone()) }))
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// So many bytes more, until the charge is dropped. Give it to [`Door::charging`](crate::Door::charging).
    pub fn charge(&self, bytes: u64) -> Charge {
        self.and_above(|sum| sum.fetch_add(bytes, Ordering::Relaxed));
        Charge { account: self.clone(), bytes }
    }

    fn and_above(&self, change: impl Fn(&AtomicU64) -> u64) {
        let mut next = Some(self);
        while let Some(account) = next {
            change(&account.0.bytes);
            next = account.0.above.as_ref();
        }
    }
}

/// Bytes on an account, as long as it lives.
#[derive(Debug)]
pub struct Charge {
    account: Account,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.and_above(|sum| sum.fetch_sub(self.bytes, Ordering::Relaxed));
    }
}

impl Core {
    /// As [`Core::push_local`]; what somebody is charged for lies in the mailbox with its charge.
    pub(crate) fn push_charged<M: 'static>(&mut self, to: ActorId, message: M) -> Result<(), SendError<M>> {
        let (key, max) = (to.key(), self.mailbox_max);
        if self.charge.is_none() {
            return self.push_local(to, message);
        }
        let Some(mailbox) = self.slots.cell_mut(key).and_then(|cell| cell.mailbox::<M>()) else {
            // Nobody's mailbox, or an ear's, which takes the charge.
            return self.push_local(to, message);
        };
        if mailbox.is_full(max) {
            return Err(SendError::Full(message));
        }
        mailbox.push_with(message, self.charge.take());
        self.slots.enqueue(key.index());
        Ok(())
    }

    /// As [`Core::push_charged`], of an event.
    pub(crate) fn charged(&mut self, system: System) -> System {
        match self.charge.take() {
            Some(charge) => System::Charged(Box::new(system), charge),
            None => system,
        }
    }
}
