//! The access policies of the actors that are not open to all peers.
//!
//! Invariant: the table holds running actors only, each by its own key and never by the key of an adapter. All peers may
//! reach an actor that is not in it.

use std::collections::BTreeMap;

use antiphon_sched::Key;

use super::NodeCore;
use super::context::NodeCx;
use super::peer::Peer;
use crate::access::{AccessError, AccessPolicy};
use crate::certificates::Fingerprint;

#[derive(Debug, Default)]
pub(super) struct AccessTable {
    policies: BTreeMap<Key, AccessPolicy>,
}

impl AccessTable {
    pub(super) fn forget(&mut self, actor: Key) {
        self.policies.remove(&actor);
    }

    /// Whether a peer with this name and certificate may reach an actor; `to` is any of the actor's keys.
    fn allows(&self, to: Key, name: &str, certificate: Option<Fingerprint>) -> bool {
        let policy = if self.policies.is_empty() { None } else { self.policies.get(&to.actor()) };
        policy.is_none_or(|access| access.allows(name, certificate))
    }
}

impl NodeCore {
    /// Checks that this node can apply a policy. Logs a warning if the policy separates no peers.
    ///
    /// # Errors
    /// The policy needs the certificates of peers, and the node does not use TLS.
    pub(crate) fn check_access(&mut self, access: &AccessPolicy) -> Result<(), AccessError> {
        if access.needs_tls() && !self.cx.settings.is_tls() {
            return Err(AccessError::NoTls);
        }
        if let Some(shared) =
            self.cx.settings.shared_certificate.filter(|shared| access.names_certificate(shared))
            && self.cx.may_log("shared certificate in access policy", shared)
        {
            tracing::warn!(
                certificate = %shared,
                "an access policy names the certificate that all nodes share, and so allows every peer: give each node its \
                 own certificate (`pinned`, `ca_files`) to distinguish peers (logged at most once an hour)"
            );
        }
        Ok(())
    }

    /// Replaces the access policy of an actor. `Signal::Exited` removes it when the actor exits.
    pub(crate) fn set_access(&mut self, actor: Key, access: AccessPolicy) {
        let before = if access.allows_all() {
            self.cx.access.policies.remove(&actor)
        } else {
            self.cx.access.policies.insert(actor, access)
        };
        if before.is_some() {
            self.names.recheck_peer_lookups();
        }
    }

    /// The access policy of an actor.
    pub(crate) fn access_of(&self, actor: Key) -> AccessPolicy {
        self.cx.access.policies.get(&actor).cloned().unwrap_or_default()
    }
}

impl Peer {
    /// Whether the peer may reach an actor; `to` is any of the actor's keys.
    pub(super) fn may_reach(&self, cx: &NodeCx, to: Key) -> bool {
        cx.access.allows(to, &self.name, self.certificate)
    }

    /// As [`Self::may_reach`]; also counts a refusal, and logs it at a limited rate.
    pub(super) fn check_reach(&self, cx: &mut NodeCx, to: Key) -> bool {
        let is_open = self.may_reach(cx, to);
        if !is_open {
            let node = self.node;
            cx.counts.refusals.access += 1;
            if cx.may_log("access", node) {
                tracing::warn!(%node, name = self.name, %to, "the access policy of an actor refuses a peer (logged at most once an hour)");
            }
        }
        is_open
    }
}
