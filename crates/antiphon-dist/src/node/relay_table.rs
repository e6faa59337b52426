//! Which hidden actor of this node holds its subscriptions to which channel elsewhere.
//!
//! Invariant: one channel has one relay here, however many subscribers; whoever leaves the table forwards what
//! still comes to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_sched::{ActorId, Key, NodeId};

use super::NodeCore;

/// Relays by channel, and by the name of the type that it carries: a channel that somebody believes to be of another
/// type does not get in the way of those who know.
#[derive(Debug, Default)]
pub(super) struct RelayTable {
    by_channel: BTreeMap<(ActorId, &'static str), Key>,
}

impl RelayTable {
    pub(super) fn len(&self) -> usize {
        self.by_channel.len()
    }
}

impl NodeCore {
    /// A place for one more receiver that a peer puts into a channel of this node, where it has so many; `None` when it has
    /// as many as it may. It is free again when the place is dropped.
    pub(crate) fn take_subscription(&mut self, by: NodeId, has: usize) -> Option<Arc<()>> {
        let limits = self.settings.peer_limits;
        let subscriptions = &self.peers.get(&by)?.subscriptions;
        let has_of_all = Arc::strong_count(subscriptions) - 1;
        let is_full = has >= limits.channel_subscriptions_max || has_of_all >= limits.subscriptions_max;
        (!is_full).then(|| subscriptions.clone())
    }

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
