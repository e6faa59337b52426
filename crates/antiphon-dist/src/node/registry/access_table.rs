//! The access policies of the actors that are not open to all peers.
//!
//! Invariant: the table holds running actors only, each by its own key and never by the key of an adapter. All peers may
//! reach an actor that is not in it.

use std::collections::BTreeMap;

use antiphon_sched::Key;

use crate::access::AccessPolicy;
use crate::certificates::Fingerprint;

#[derive(Debug, Default)]
pub(in crate::node) struct AccessTable {
    pub(in crate::node) policies: BTreeMap<Key, AccessPolicy>,
}

impl AccessTable {
    pub(in crate::node) fn forget(&mut self, actor: Key) {
        self.policies.remove(&actor);
    }

    /// Whether a peer with this name and certificate may reach an actor; `to` is any of the actor's keys.
    pub(in crate::node) fn allows(&self, to: Key, name: &str, certificate: Option<Fingerprint>) -> bool {
        let policy = if self.policies.is_empty() { None } else { self.policies.get(&to.actor()) };
        policy.is_none_or(|access| access.allows(name, certificate))
    }
}
