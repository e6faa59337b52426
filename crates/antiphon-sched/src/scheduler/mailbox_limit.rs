//! Limits of single mailboxes: their capacity, and what happens to messages when they are full.
//!
//! Invariant: only actors with [`Flag::OWN_LIMIT`] have a limit in their extras. To all others the limit of the loop applies, and
//! full mailboxes refuse. Events, replies and the actor's own messages are never dropped.

use crate::actor::{Actor, Addr};
use crate::error::Undelivered;
use crate::id::Key;
use crate::scheduler::actor_table::Flag;
use crate::scheduler::core::Core;
use crate::scheduler::dead_letter::DeadLetter;
use crate::scheduler::log_panic;

/// The limit of one mailbox, for `spawn_with`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct MailboxLimit {
    capacity: usize,
    when_full: WhenFull,
}

/// What happens to a message for a full mailbox.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub enum WhenFull {
    /// It is refused, and senders wait for room; those of other nodes are paused.
    #[default]
    Refuse,
    /// The oldest message of the mailbox becomes a dead letter. No sender waits.
    DropOldest,
    /// The message itself becomes a dead letter. No sender waits.
    DropNewest,
}

impl MailboxLimit {
    /// A mailbox of at most `capacity` messages, and at least one.
    pub fn new(capacity: usize, when_full: WhenFull) -> Self {
        Self { capacity: capacity.max(1), when_full }
    }
}

/// What to do with a message.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum MailboxAdmission {
    Push,
    Refuse,
    /// Drop it: it is recorded as a dead letter.
    Discard,
}

impl Core {
    /// Starts an actor whose mailbox has a limit of its own.
    pub(crate) fn spawn_with<M: 'static>(&mut self, limit: MailboxLimit, actor: impl Actor<M>) -> Addr<M> {
        let addr = self.spawn(actor);
        let key = addr.id().key();
        if let Some(extras) = self.extras(key) {
            extras.mailbox_limit = Some(limit);
            self.actors.set(key.index(), Flag::OWN_LIMIT, true);
        }
        addr
    }

    fn limit_of(&self, key: Key) -> Option<MailboxLimit> {
        if !self.actors.has_own_limit(key) {
            return None;
        }
        self.extras.get(&key.index())?.mailbox_limit
    }

    /// The most messages in the mailbox of an actor.
    pub(crate) fn capacity_of(&self, key: Key) -> usize {
        self.limit_of(key).map_or(self.mailbox_max, |limit| limit.capacity)
    }

    /// Whether the mailbox at an address holds its maximum of messages so many times.
    pub(crate) fn holds(&mut self, key: Key, times: usize) -> bool {
        let max = self.capacity_of(key.actor()).saturating_mul(times);
        self.any_mailbox_of(key).is_some_and(|mailbox| mailbox.is_full(max))
    }

    /// Whether an actor is alive and its mailbox has room. Sockets ask this: they take part in no turns, and read while there is
    /// room, also in a contended mailbox.
    pub(crate) fn has_room(&mut self, owner: Key) -> bool {
        let max = self.capacity_of(owner);
        self.any_mailbox(owner).is_some_and(|mailbox| !mailbox.is_full(max))
    }

    /// Whether the mailbox of an actor drops messages when it is full, and so has always room.
    pub(crate) fn drops_when_full(&self, key: Key) -> bool {
        self.limit_of(key).is_some_and(|limit| limit.when_full != WhenFull::Refuse)
    }

    /// Runs `deliver`, which delivers one message. Also returns whether a mailbox has discarded the message.
    pub(crate) fn noting_discards<R>(&mut self, deliver: impl FnOnce(&mut Self) -> R) -> (R, bool) {
        self.has_discarded = false;
        let result = deliver(self);
        (result, self.has_discarded)
    }

    /// Decides what to do with a message of the current sender for a mailbox that may be full. Drops the oldest message if
    /// the limit of the mailbox says so.
    pub(crate) fn admit<M: 'static>(&mut self, key: Key) -> MailboxAdmission {
        let Some(limit) = self.limit_of(key).filter(|limit| limit.when_full != WhenFull::Refuse) else {
            return if self.may_push_contended(key) {
                MailboxAdmission::Push
            } else {
                MailboxAdmission::Refuse
            };
        };
        let Some(mailbox) = self.mailbox::<M>(key) else { return MailboxAdmission::Refuse };
        if !mailbox.is_full(limit.capacity) {
            return MailboxAdmission::Push;
        }
        let oldest = if limit.when_full == WhenFull::DropOldest { mailbox.remove_oldest() } else { None };
        self.has_discarded = oldest.is_none();
        let what = std::any::type_name::<M>();
        self.dead_letter(DeadLetter::new(self.id(key), what, Undelivered::Discarded));
        match oldest {
            Some(oldest) => {
                log_panic(|| drop(oldest));
                MailboxAdmission::Push
            }
            // It holds only events and replies.
            None => MailboxAdmission::Discard,
        }
    }
}
