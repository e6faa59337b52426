//! Which hidden actor of this node holds its subscriptions to which channel elsewhere.
//!
//! Invariant: one channel has one relay here, however many subscribers; whoever leaves the table forwards what
//! still comes to it.

use std::collections::BTreeMap;

use antiphon_sched::{ActorId, Key};

use super::NodeCore;

/// Relays by channel, and by the name of the type that it carries: a channel that somebody believes to be of another
/// type does not get in the way of those who know.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_channel: BTreeMap<(ActorId, &'static str), Key>,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.by_channel.len()
    }
}

impl NodeCore {
    /// The relay of a channel, if there is one; it may have ended.
    pub(crate) fn relay_of(&self, channel: ActorId, tag: &'static str) -> Option<Key> {
        self.subscriptions.by_channel.get(&(channel, tag)).copied()
    }

    /// From now on `relay` holds this node's subscriptions to a channel.
    pub(crate) fn add_relay(&mut self, channel: ActorId, tag: &'static str, relay: Key) {
        self.subscriptions.by_channel.insert((channel, tag), relay);
    }

    /// A relay takes no more subscriptions.
    pub(crate) fn remove_relay(&mut self, channel: ActorId, tag: &'static str, relay: Key) {
        if self.relay_of(channel, tag) == Some(relay) {
            self.subscriptions.by_channel.remove(&(channel, tag));
        }
    }
}
