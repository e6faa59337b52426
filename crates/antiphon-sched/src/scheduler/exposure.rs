//! The addresses that messages of the network may reach: those that left this loop, and those that services expose.

use crate::id::Key;
use crate::remote::{EncodedRefs, ExposedType};
use crate::scheduler::core::Core;

impl Core {
    /// Makes the addresses and replies in a sent message usable from other nodes.
    pub(crate) fn make_reachable(&mut self, refs: &EncodedRefs) {
        for (key, exposed) in &refs.exposed {
            self.expose(*key, *exposed);
        }
        for (request_id, expected) in &refs.requests {
            self.requests.expect_remote_reply(*request_id, *expected);
        }
    }

    /// Lets messages from the network reach an address; false when there is no such address.
    pub(crate) fn expose(&mut self, key: Key, exposed: ExposedType) -> bool {
        if !(exposed.fits)(self, key) {
            return false;
        }
        self.address_extras(key).map(|address| address.exposed.get_or_insert(exposed)).is_some()
    }

    /// The type of messages that an address accepts from the network; `None` if the network cannot reach it.
    pub(crate) fn exposed(&self, key: Key) -> Option<ExposedType> {
        let address = if key.is_adapter() {
            &self.adapter(key)?.address
        } else if self.actors.is_alive(key) {
            &self.extras.get(&key.index())?.address
        } else {
            return None;
        };
        address.exposed
    }

    /// Whether messages from the network may reach an address.
    pub(crate) fn is_exposed(&self, key: Key) -> bool {
        self.exposed(key).is_some()
    }
}
