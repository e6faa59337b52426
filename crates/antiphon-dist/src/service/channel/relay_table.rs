//! The relays of this node, by the channels of other nodes that they subscribe to.
//!
//! Invariant: one channel has at most one relay here, for any number of subscribers. A relay that is no longer in the table
//! still forwards the messages that reach it.

use std::collections::BTreeMap;

use antiphon_sched::{ActorId, Key};

/// The relays by channel and by the name of the channel's message type. A subscriber with a wrong type gets a relay of its
/// own, so that it does not affect the subscribers with the right type.
#[derive(Debug, Default)]
pub(super) struct RelayTable {
    by_channel: BTreeMap<(ActorId, &'static str), Key>,
}

impl RelayTable {
    pub(super) fn len(&self) -> usize {
        self.by_channel.len()
    }

    /// The relay of a channel, if there is one; it may have exited.
    pub(super) fn of(&self, channel: ActorId, tag: &'static str) -> Option<Key> {
        self.by_channel.get(&(channel, tag)).copied()
    }

    /// Makes `relay` the relay of a channel.
    pub(super) fn add(&mut self, channel: ActorId, tag: &'static str, relay: Key) {
        self.by_channel.insert((channel, tag), relay);
    }

    /// Removes a relay, so that it accepts no more subscribers.
    pub(super) fn remove(&mut self, channel: ActorId, tag: &'static str, relay: Key) {
        if self.of(channel, tag) == Some(relay) {
            self.by_channel.remove(&(channel, tag));
        }
    }
}
