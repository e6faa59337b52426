//! The relays of this node, by the channels of other nodes that they subscribe to.
//!
//! Invariant: one channel has at most one relay here, for any number of subscribers. A relay that is no longer in the table
//! still forwards the messages that reach it.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_sched::{ActorId, Key, NodeId};

use super::NodeCore;

/// The relays by channel and by the name of the channel's message type. A subscriber with a wrong type gets a relay of its
/// own, so that it does not affect the subscribers with the right type.
#[derive(Debug, Default)]
pub(super) struct ChannelRelayTable {
    by_channel: BTreeMap<(ActorId, &'static str), Key>,
}

impl ChannelRelayTable {
    pub(super) fn len(&self) -> usize {
        self.by_channel.len()
    }
}

impl NodeCore {
    /// Counts one more subscriber of a peer on a channel of this node; `has` is the number that it has on this channel.
    /// `None` if the peer has reached a limit. Dropping the returned value frees the place.
    pub(crate) fn take_subscription(&mut self, by: NodeId, has: usize) -> Option<Arc<()>> {
        let limits = self.cx.settings.peer_limits;
        let subscriptions = &self.peers.get(by)?.subscriptions;
        let has_in_all = Arc::strong_count(subscriptions) - 1;
        let is_full = has >= limits.channel_subscriptions_max || has_in_all >= limits.subscriptions_max;
        (!is_full).then(|| subscriptions.clone())
    }

    /// The relay of a channel, if there is one; it may have exited.
    pub(crate) fn relay_of(&self, channel: ActorId, tag: &'static str) -> Option<Key> {
        self.channel_relays.by_channel.get(&(channel, tag)).copied()
    }

    /// Makes `relay` the relay of a channel.
    pub(crate) fn add_relay(&mut self, channel: ActorId, tag: &'static str, relay: Key) {
        self.channel_relays.by_channel.insert((channel, tag), relay);
    }

    /// Removes a relay, so that it accepts no more subscribers.
    pub(crate) fn remove_relay(&mut self, channel: ActorId, tag: &'static str, relay: Key) {
        if self.relay_of(channel, tag) == Some(relay) {
            self.channel_relays.by_channel.remove(&(channel, tag));
        }
    }
}
