//! The senders that wait for room in the queues to the actors of one peer.
//!
//! Invariant: a sender waits at most once for each address. The session of the peer awaits the least room that a sender
//! needs for the same actor, without those that only the total of all queues holds up.

use std::collections::BTreeMap;

use antiphon_sched::Key;
use antiphon_wire::SendMark;

/// The senders that wait for room, by the actors of the peer.
#[derive(Debug, Default)]
pub(in crate::node) struct RoomWaiters {
    by_actor: BTreeMap<Key, BTreeMap<RoomWaiter, NeededRoom>>,
}

/// A sender that waits for room.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::node) struct RoomWaiter {
    /// The actor of this node; `None` for the messages of handles.
    pub(in crate::node) sender: Option<Key>,
    /// The address that refused its message: the actor, or one of its adapters.
    pub(in crate::node) address: Key,
}

/// The room that a refused message needs.
#[derive(Copy, Clone, Debug)]
pub(in crate::node) struct NeededRoom {
    /// The bytes of the message in the queue.
    pub(in crate::node) bytes: u64,
    pub(in crate::node) mark: SendMark,
    /// The total of all queues refused the message, not the queue to its actor.
    pub(in crate::node) by_total: bool,
}

impl RoomWaiters {
    pub(in crate::node) fn is_empty(&self) -> bool {
        self.by_actor.is_empty()
    }

    /// Adds a sender. It replaces what the sender waited for at the same address before.
    pub(in crate::node) fn add(&mut self, waiter: RoomWaiter, room: NeededRoom) {
        self.by_actor.entry(waiter.address.actor()).or_default().insert(waiter, room);
    }

    /// The actors for which senders wait.
    pub(in crate::node) fn actors(&self) -> Vec<Key> {
        self.by_actor.keys().copied().collect()
    }

    /// The least room that a sender needs for an actor up to a mark.
    pub(in crate::node) fn least_room(&self, actor: Key, mark: SendMark) -> Option<u64> {
        let rooms = self.by_actor.get(&actor)?.values();
        rooms.filter(|room| !room.by_total && room.mark == mark).map(|room| room.bytes).min()
    }

    /// Removes and returns the senders of an actor for which there is room.
    pub(in crate::node) fn take_ready(
        &mut self,
        actor: Key,
        has_room: impl Fn(NeededRoom) -> bool,
    ) -> Vec<RoomWaiter> {
        let Some(waiters) = self.by_actor.get_mut(&actor) else { return Vec::new() };
        let ready = waiters.extract_if(.., |_, room| has_room(*room)).map(|(waiter, _)| waiter).collect();
        if waiters.is_empty() {
            self.by_actor.remove(&actor);
        }
        ready
    }

    /// Removes and returns the senders that only the total of all queues held up.
    pub(in crate::node) fn take_by_total(&mut self) -> Vec<RoomWaiter> {
        let actors = self.actors();
        actors.into_iter().flat_map(|actor| self.take_ready(actor, |room| room.by_total)).collect()
    }

    pub(in crate::node) fn take_all(&mut self) -> Vec<RoomWaiter> {
        let all = std::mem::take(self);
        all.by_actor.into_values().flat_map(BTreeMap::into_keys).collect()
    }

    /// Removes a sender that waits no more.
    pub(in crate::node) fn remove(&mut self, waiter: RoomWaiter) {
        let actor = waiter.address.actor();
        let Some(waiters) = self.by_actor.get_mut(&actor) else { return };
        waiters.remove(&waiter);
        if waiters.is_empty() {
            self.by_actor.remove(&actor);
        }
    }

    /// Removes a sender that has exited.
    pub(in crate::node) fn remove_sender(&mut self, sender: Key) {
        self.by_actor.retain(|_, waiters| {
            waiters.retain(|waiter, _| waiter.sender != Some(sender));
            !waiters.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(index: u32) -> Key {
        Key::new(1, index)
    }

    #[test]
    fn removed_waiters_leave_nothing() {
        let mut waiters = RoomWaiters::default();
        let room = NeededRoom { bytes: 1, mark: SendMark::Cap, by_total: false };
        let waiter = |sender, address| RoomWaiter { sender: Some(key(sender)), address: key(address) };
        for (sender, address) in [(1, 8), (2, 8), (1, 9)] {
            waiters.add(waiter(sender, address), room);
        }
        waiters.remove(waiter(1, 8));
        waiters.remove(waiter(1, 9));
        assert_eq!(waiters.actors(), [key(8)]);
        waiters.remove(waiter(1, 8));
        assert!(!waiters.is_empty());
        waiters.remove(waiter(2, 8));
        assert!(waiters.is_empty());
    }
}
