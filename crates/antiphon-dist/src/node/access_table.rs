//! Which actors of this node are not open to all peers.
//!
//! Invariant: the table holds living actors only, each by its own key, never by that of a further address; whoever is not in
//! it is open to everybody.

use std::collections::BTreeMap;

use antiphon_sched::{Key, NodeId};

use super::NodeCore;
use super::driver::Driver;
use crate::access::{AccessError, AccessPolicy};

#[derive(Debug, Default)]
pub(super) struct AccessTable {
    of: BTreeMap<Key, AccessPolicy>,
}

impl AccessTable {
    pub(super) fn forget(&mut self, actor: Key) {
        self.of.remove(&actor);
    }
}

impl NodeCore {
    /// Whether an audience can be meant. One that separates nobody can, and the log is told.
    pub(crate) fn check_access(&mut self, access: &AccessPolicy) -> Result<(), AccessError> {
        if access.needs_tls() && !self.settings.is_tls() {
            return Err(AccessError::NoTls);
        }
        if let Some(shared) =
            self.settings.shared_certificate.filter(|shared| access.names_certificate(shared))
            && self.may_log("audience of all", shared)
        {
            tracing::warn!(
                certificate = %shared,
                "an audience names the certificate that all nodes share, and so lets everybody in: give each node its own \
                 (`pinned`, `ca_files`) to tell peers apart (said once an hour)"
            );
        }
        Ok(())
    }

    /// From now on these peers reach an actor, and no others. Its end is told by `Signal::Exited`.
    pub(crate) fn set_access(&mut self, actor: Key, access: AccessPolicy) {
        let before = match access.is_everybody() {
            true => self.access.of.remove(&actor),
            false => self.access.of.insert(actor, access),
        };
        if before.is_some() {
            self.names.look_again();
        }
    }

    /// Who reaches an actor.
    pub(crate) fn access_of(&self, actor: Key) -> AccessPolicy {
        self.access.of.get(&actor).cloned().unwrap_or_default()
    }

    /// Whether an actor, by any of its keys, is open to a peer.
    pub(super) fn is_open_to(&self, node: NodeId, to: Key, driver: &mut impl Driver) -> bool {
        if self.access.of.is_empty() {
            return true;
        }
        let Some(access) = self.access.of.get(&driver.loop_ref().owner_of(to)) else { return true };
        self.peers.get(&node).is_some_and(|peer| access.allows(&peer.name, peer.certificate))
    }

    /// As [`Self::is_open_to`]; a refusal is counted, and the log told seldom.
    pub(super) fn allows(&mut self, node: NodeId, to: Key, driver: &mut impl Driver) -> bool {
        let is_open = self.is_open_to(node, to, driver);
        if !is_open {
            self.counts.refusals.access += 1;
            if self.may_log("audience", node) {
                let name = self.peers.get(&node).map_or("", |peer| peer.name.as_str());
                tracing::warn!(%node, name, %to, "a peer is refused by an actor that is not open to it (said once an hour)");
            }
        }
        is_open
    }
}
