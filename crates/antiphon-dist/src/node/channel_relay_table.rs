//! The relays of this node, by the channels of other nodes that they subscribe to.
//!
//! Invariant: one channel has at most one relay here, for any number of subscribers. A relay that is no longer in the table
//! still forwards the messages that reach it.

use std::collections::BTreeMap;

use antiphon_sched::{ActorId, Key};

/// The relays by channel and by the name of the channel's message type. A subscriber with a wrong type gets a relay of its
/// own, so that it does not affect the subscribers with the right type.
#[derive(Debug, Default)]
pub(super) struct ChannelRelayTable {
    pub(super) by_channel: BTreeMap<(ActorId, &'static str), Key>,
}

impl ChannelRelayTable {
    pub(super) fn len(&self) -> usize {
        self.by_channel.len()
    }
}
