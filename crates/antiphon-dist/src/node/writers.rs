//! The senders that await room in the queues to the actors of one peer.
//!
//! Invariant: a sender awaits room at most once for each address. The session of the peer awaits the least room that a
//! sender awaits for the same actor.

use std::collections::BTreeMap;

use antiphon_sched::Key;
use antiphon_wire::SendMark;

/// The senders that await room in the queues to the actors of one peer, by the actors.
#[derive(Debug, Default)]
pub(super) struct Writers {
    by_actor: BTreeMap<Key, BTreeMap<Writer, NeededRoom>>,
}

/// A sender that awaits room.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Writer {
    /// The actor of this node; `None` for the messages of handles.
    pub(super) sender: Option<Key>,
    /// The address that refused its message: the actor, or one of its adapters.
    pub(super) address: Key,
}

/// The room that a refused message needs.
#[derive(Copy, Clone, Debug)]
pub(super) struct NeededRoom {
    /// The bytes of the message in the queue.
    pub(super) bytes: u64,
    pub(super) mark: SendMark,
}

impl Writers {
    pub(super) fn is_empty(&self) -> bool {
        self.by_actor.is_empty()
    }

    /// Adds a sender. It replaces what the sender awaited for the same address before.
    pub(super) fn add(&mut self, writer: Writer, room: NeededRoom) {
        self.by_actor.entry(writer.address.actor()).or_default().insert(writer, room);
    }

    /// The actors for which senders await room.
    pub(super) fn actors(&self) -> Vec<Key> {
        self.by_actor.keys().copied().collect()
    }

    /// The least room that a sender awaits for an actor.
    pub(super) fn least_room(&self, actor: Key) -> Option<NeededRoom> {
        let rooms = self.by_actor.get(&actor)?.values().copied();
        rooms.min_by_key(|room| (room.mark == SendMark::High, room.bytes))
    }

    /// Removes and returns the senders for which an actor has room.
    pub(super) fn take_ready(&mut self, actor: Key, has_room: impl Fn(NeededRoom) -> bool) -> Vec<Writer> {
        let Some(writers) = self.by_actor.get_mut(&actor) else { return Vec::new() };
        let ready = writers.extract_if(.., |_, room| has_room(*room)).map(|(writer, _)| writer).collect();
        if writers.is_empty() {
            self.by_actor.remove(&actor);
        }
        ready
    }

    pub(super) fn take_all(&mut self) -> Vec<Writer> {
        let all = std::mem::take(self);
        all.by_actor.into_values().flat_map(BTreeMap::into_keys).collect()
    }

    /// Removes a sender that has exited.
    pub(super) fn remove_sender(&mut self, sender: Key) {
        self.by_actor.retain(|_, writers| {
            writers.retain(|writer, _| writer.sender != Some(sender));
            !writers.is_empty()
        });
    }
}

#[cfg(test)]
mod adversary_tests {
    use antiphon_wire::Limits;

    use super::*;

    /// The session awaits one room for all senders to an actor. If a sender's message fits, that room must fit too;
    /// otherwise nobody reports the sender's room.
    #[test]
    fn least_room_fits_whenever_a_sender_fits() {
        let (actor, limits) = (Key::from_bits(7), Limits::default());
        let mut writers = Writers::default();
        let sender = |number| Writer { sender: Some(Key::from_bits(number)), address: actor };
        let large = NeededRoom { bytes: 15 << 20, mark: SendMark::Cap };
        let small = NeededRoom { bytes: 192, mark: SendMark::High };
        writers.add(sender(1), large);
        writers.add(sender(2), small);
        // 40 MiB wait for other actors, and a part of 1 MiB for this one.
        let (queued, total) = (512 << 10, (40 << 20) + (512 << 10));
        let fits = |room: NeededRoom| limits.admits(queued, total, room.bytes, room.mark);
        assert!(fits(small) && !fits(large));
        assert!(fits(writers.least_room(actor).unwrap()), "`try_send` would succeed; `Writable` waits for the large one");
    }
}
