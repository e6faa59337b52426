//! The inbox: the messages and requests that handles have accepted, until they are delivered.
//!
//! They leave the channel in the order in which they arrived. A message for which its target has no room waits in a queue
//! of that target, and later messages for the same target wait behind it. Messages for other targets pass.
//!
//! Invariant: a queue of `WaitingMessages` is never empty, and its target is in the full targets of `InboxState`. The
//! queue of a local target has one ticket as `Waiter::Handles`; for the queue of a remote target the transport has
//! refused the first message, and calls `Mailboxes::writable`. `InboxState::accepted` is the number of messages in the
//! channel and in all queues, `InboxState::waiting` the number of those in the queues.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::{Undelivered, printable};
use crate::id::{ActorId, Key};
use crate::scheduler::{Core, Scheduler, Waiter, catch_panic, log_panic};

/// A message or request that a handle has accepted.
pub(crate) trait InboxMessage: Send + Any {
    /// The address that it is sent to.
    fn target(&self) -> ActorId;
    /// Records that it waits for room.
    fn note_waiting(&self) {}
    /// Whether a thread waits for its reply.
    fn is_request(&self) -> bool {
        false
    }
    /// Sends it. A refusal returns it.
    fn send(self: Box<Self>, scheduler: &mut Scheduler) -> InboxOutcome;
    /// Ends it unsent: a message becomes a dead letter, a request fails.
    fn discard(self: Box<Self>, core: &mut Core, reason: Undelivered);
    /// Ends it unsent, since the loop ends: a message becomes a dead letter, a request fails with `NoLoop`.
    fn end_with_loop(self: Box<Self>, core: &mut Core);
}

/// The result of sending a message of the inbox.
pub(crate) enum InboxOutcome {
    /// The target has the message.
    Sent,
    /// The request was withdrawn, or has failed.
    Ended,
    /// The message was not sent.
    Refused(Box<dyn InboxMessage>, Undelivered),
}

/// The part of the inbox that all threads use.
pub(crate) struct InboxState {
    max: usize,
    accepted: AtomicUsize,
    /// Only the loop changes it.
    waiting: AtomicUsize,
    /// The size of `full_targets`, so that its lock is taken only if it is not empty.
    full_targets_len: AtomicUsize,
    full_targets: Mutex<BTreeSet<ActorId>>,
}

impl InboxState {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            accepted: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            full_targets_len: AtomicUsize::new(0),
            full_targets: Mutex::new(BTreeSet::new()),
        }
    }

    /// Takes a place for a message; false if the inbox is full, or messages for the target wait.
    ///
    /// The channel may hold as many messages as are free in the bound of all, which is twice `max`, and at most `max`.
    /// So a burst for one target that takes none leaves half of the places to other targets.
    pub(crate) fn accept(&self, target: ActorId) -> bool {
        let is_target_full = self.full_targets_len.load(Ordering::Relaxed) > 0
            && self.full_targets.lock().contains(&target.actor());
        let next = |accepted: usize| {
            let in_channel = accepted.saturating_sub(self.waiting.load(Ordering::Relaxed));
            let free = self.max.saturating_mul(2).saturating_sub(accepted);
            (in_channel < self.max && in_channel < free).then_some(accepted + 1)
        };
        !is_target_full && self.accepted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Frees the place of a message that was accepted, and does not wait in a queue.
    pub(crate) fn release(&self) {
        self.accepted.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of messages that wait in the queues of their targets.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts a message that enters the queue of its target.
    fn start_wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that leaves the queue of its target.
    fn end_wait(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    fn set_full(&self, target: ActorId, is_full: bool) {
        let mut full_targets = self.full_targets.lock();
        if is_full {
            full_targets.insert(target);
        } else {
            full_targets.remove(&target);
        }
        self.full_targets_len.store(full_targets.len(), Ordering::Relaxed);
    }
}

/// The messages of handles that wait for room at their targets.
#[derive(Default)]
pub(crate) struct WaitingMessages {
    queues: BTreeMap<ActorId, TargetQueue>,
    /// Remote targets for which the transport has reported room.
    ready: VecDeque<ActorId>,
}

#[derive(Default)]
struct TargetQueue {
    messages: VecDeque<Box<dyn InboxMessage>>,
    is_ready: bool,
}

impl WaitingMessages {
    /// Whether messages can be sent to a remote target.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn pop(&mut self, state: &InboxState, target: ActorId) -> Option<Box<dyn InboxMessage>> {
        let message = self.queues.get_mut(&target)?.messages.pop_front()?;
        state.end_wait();
        Some(message)
    }

    fn put_back(&mut self, state: &InboxState, target: ActorId, message: Box<dyn InboxMessage>) {
        message.note_waiting();
        state.start_wait();
        self.queues.entry(target).or_default().messages.push_front(message);
    }
}

/// The result of an attempt to send a message of the inbox.
enum Attempt {
    Sent,
    /// The message is not sent, and does not wait.
    Ended,
    /// There is no room for it now.
    Waits(Box<dyn InboxMessage>),
}

/// The most messages sent to one remote target in a round.
const REMOTE_PER_ROUND: usize = 256;

impl Core {
    /// Notes that the transport has room for messages to a remote target, or that the target has ended. The messages are
    /// sent in the next round, since the transport is in use now.
    pub(crate) fn serve_remote_handles(&mut self, target: ActorId) {
        let target = target.actor();
        if let Some(queue) = self.waiting_messages.queues.get_mut(&target)
            && !std::mem::replace(&mut queue.is_ready, true)
        {
            self.waiting_messages.ready.push_back(target);
        }
    }

    /// Removes the queue of a target if it is empty: then handles may send to the target again.
    fn end_empty_queue(&mut self, target: ActorId) -> bool {
        let queues = &mut self.waiting_messages.queues;
        if queues.get(&target).is_some_and(|queue| !queue.messages.is_empty()) {
            return false;
        }
        if queues.remove(&target).is_some() {
            self.shared.inbox_state().set_full(target, false);
        }
        true
    }

    /// Ends all waiting messages, since the loop ends.
    pub(crate) fn discard_waiting_messages(&mut self) {
        for (_, mut queue) in std::mem::take(&mut self.waiting_messages.queues) {
            while let Some(message) = queue.messages.pop_front() {
                self.shared.inbox_state().end_wait();
                self.discard_message(message);
            }
        }
        self.waiting_messages.ready.clear();
    }

    /// Ends the requests among the waiting messages, since the loop has returned from its run.
    pub(crate) fn discard_waiting_requests(&mut self) {
        let targets: Vec<ActorId> = self.waiting_messages.queues.keys().copied().collect();
        for target in targets {
            let Some(queue) = self.waiting_messages.queues.get_mut(&target) else { continue };
            let (requests, messages) =
                std::mem::take(&mut queue.messages).into_iter().partition(|message| message.is_request());
            queue.messages = messages;
            let requests: VecDeque<_> = requests;
            for request in requests {
                self.shared.inbox_state().end_wait();
                self.discard_message(request);
            }
            self.end_empty_queue(target);
        }
    }

    /// Ends a message that was accepted, since the loop ends.
    pub(crate) fn discard_message(&mut self, message: Box<dyn InboxMessage>) {
        log_panic(|| message.end_with_loop(self));
        self.shared.inbox_state().release();
    }

    fn discard(&mut self, message: Box<dyn InboxMessage>, reason: Undelivered) {
        log_panic(|| message.discard(self, reason));
    }
}

impl Scheduler {
    /// Sends a message of the inbox, or queues it if its target has no room.
    pub(crate) fn open_message(&mut self, message: Box<dyn InboxMessage>) {
        self.core.current = None;
        let target = message.target().actor();
        if let Some(queue) = self.core.waiting_messages.queues.get_mut(&target) {
            message.note_waiting();
            self.core.shared.inbox_state().start_wait();
            queue.messages.push_back(message);
            return;
        }
        match self.attempt(message) {
            Attempt::Sent | Attempt::Ended => self.core.shared.inbox_state().release(),
            Attempt::Waits(message) => {
                self.core.waiting_messages.put_back(self.core.shared.inbox_state(), target, message);
                self.core.shared.inbox_state().set_full(target, true);
                if target.node() == self.core.node_id {
                    self.core.wait_for_turn(target.key(), Waiter::Handles);
                }
            }
        }
    }

    /// Delivers one of the messages that wait for a local actor, whose turn it is; ends them all if the actor has ended.
    pub(crate) fn serve_handles(&mut self, actor: Key) {
        let target = self.core.id(actor);
        // The messages have no sender, whichever actor has just run.
        let current = self.core.current.take();
        while let Some(message) = self.core.waiting_messages.pop(self.core.shared.inbox_state(), target) {
            if !self.core.actors.is_alive(actor) {
                self.core.discard(message, Undelivered::NoActor);
                self.core.shared.inbox_state().release();
                continue;
            }
            self.core.begin_turn(actor);
            let attempt = self.attempt(message);
            self.core.end_turn();
            match attempt {
                Attempt::Ended => self.core.shared.inbox_state().release(),
                Attempt::Sent => {
                    self.core.shared.inbox_state().release();
                    break;
                }
                Attempt::Waits(message) => {
                    self.core.waiting_messages.put_back(self.core.shared.inbox_state(), target, message);
                    break;
                }
            }
        }
        if !self.core.end_empty_queue(target) {
            self.core.wait_for_turn(actor, Waiter::Handles);
        }
        self.core.current = current;
    }

    /// Sends messages to the remote targets that have room.
    pub(crate) fn send_ready_messages(&mut self) {
        self.core.current = None;
        for _ in 0..self.core.waiting_messages.ready.len() {
            let Some(target) = self.core.waiting_messages.ready.pop_front() else { return };
            let has_room = self.send_to_remote(target);
            if self.core.end_empty_queue(target) {
                continue;
            }
            if has_room {
                self.core.waiting_messages.ready.push_back(target);
            } else if let Some(queue) = self.core.waiting_messages.queues.get_mut(&target) {
                queue.is_ready = false;
            }
        }
    }

    /// Sends a limited number of the messages for a remote target; false if it was refused.
    fn send_to_remote(&mut self, target: ActorId) -> bool {
        for _ in 0..REMOTE_PER_ROUND {
            let Some(message) = self.core.waiting_messages.pop(self.core.shared.inbox_state(), target) else {
                break;
            };
            match self.attempt(message) {
                Attempt::Sent | Attempt::Ended => self.core.shared.inbox_state().release(),
                Attempt::Waits(message) => {
                    self.core.waiting_messages.put_back(self.core.shared.inbox_state(), target, message);
                    return false;
                }
            }
        }
        true
    }

    /// Sends a message, unless its target has no room for it.
    fn attempt(&mut self, message: Box<dyn InboxMessage>) -> Attempt {
        let target = message.target();
        match catch_panic(|| message.send(self)) {
            Ok(InboxOutcome::Sent) => Attempt::Sent,
            Ok(InboxOutcome::Ended) => Attempt::Ended,
            Ok(InboxOutcome::Refused(message, reason)) if self.is_reported(target, &reason) => {
                Attempt::Waits(message)
            }
            Ok(InboxOutcome::Refused(message, reason)) => {
                self.core.discard(message, reason);
                Attempt::Ended
            }
            Err(text) => {
                tracing::error!(%target, text = printable(text), "a message of a handle panicked while it was sent");
                Attempt::Ended
            }
        }
    }

    /// Whether room for a message that was refused is reported later: to the waiters of a mailbox, or by the transport.
    fn is_reported(&mut self, target: ActorId, reason: &Undelivered) -> bool {
        if target.node() == self.core.node_id {
            let actor = target.key().actor();
            *reason == Undelivered::Full && !self.core.has_place(actor)
        } else {
            *reason == Undelivered::Busy
        }
    }
}
