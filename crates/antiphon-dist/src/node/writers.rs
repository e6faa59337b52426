//! The senders that await room in the queues to the actors of one peer.
//!
//! Invariant: a sender awaits room at most once for each address.

use std::collections::BTreeMap;

use antiphon_sched::Key;
use antiphon_wire::SendMark;

/// The senders that await room in the queues to the actors of one peer, by the actors.
#[derive(Debug, Default)]
pub(super) struct Writers {
    by_actor: BTreeMap<Key, BTreeMap<Writer, AwaitedRoom>>,
    /// The largest number of bytes that waited for the peer since all writers were checked.
    largest: u64,
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
pub(super) struct AwaitedRoom {
    pub(super) bytes: u64,
    pub(super) mark: SendMark,
}

impl Writers {
    pub(super) fn is_empty(&self) -> bool {
        self.by_actor.is_empty()
    }

    /// Adds a sender, when `queued` bytes wait for the peer.
    pub(super) fn add(&mut self, writer: Writer, room: AwaitedRoom, queued: u64) {
        self.by_actor.entry(writer.address.actor()).or_default().insert(writer, room);
        self.largest = self.largest.max(queued);
    }

    /// The awaited actors that may have room: those of `drained`, or all if the bytes that wait for the peer have
    /// decreased so much that the shares of all actors have grown.
    pub(super) fn candidates(&mut self, drained: Vec<Key>, queued: u64, cap: u64) -> Vec<Key> {
        if queued == 0 || queued + cap / 8 <= self.largest {
            self.largest = queued;
            return self.by_actor.keys().copied().collect();
        }
        drained
    }

    /// Removes and returns the senders for which an actor has room.
    pub(super) fn take_ready(
        &mut self,
        actor: Key,
        has_room: impl Fn(AwaitedRoom) -> bool,
    ) -> Vec<Writer> {
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
