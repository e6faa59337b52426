//! Which peers may reach an actor of this node.
//!
//! Invariant: a peer that a policy does not name is refused. A policy by certificates refuses each peer without a
//! certificate.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::certificates::Fingerprint;

/// The peers that may reach an actor. It applies to channels and RCIs too, since each has a service actor.
///
/// To all other peers the actor does not exist, and its name is not registered. The actors of this node always reach
/// it.
///
/// Pass it to [`NetCx::allow`](crate::NetCx::allow).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessPolicy(AllowedPeers);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum AllowedPeers {
    #[default]
    All,
    Certificates(BTreeSet<Fingerprint>),
    Names(BTreeSet<String>),
}

impl AccessPolicy {
    /// All peers. This is the default of each actor.
    pub fn all() -> Self {
        Self(AllowedPeers::All)
    }

    /// No peers: only the actors of this node.
    pub fn none() -> Self {
        Self::certificates([])
    }

    /// The peers that present one of these certificates. It requires TLS. It does not depend on anything that peers
    /// claim about themselves.
    ///
    /// If all nodes share one certificate (no `pinned`, no `ca_files`), a policy with that certificate allows all
    /// peers, and the node logs a warning. Give each node a certificate of its own to distinguish peers.
    pub fn certificates(certificates: impl IntoIterator<Item = Fingerprint>) -> Self {
        Self(AllowedPeers::Certificates(certificates.into_iter().collect()))
    }

    /// The peers with one of these names: a convenience **without security**. Each node that knows the secret can
    /// choose any name.
    pub fn names<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self(AllowedPeers::Names(names.into_iter().map(Into::into).collect()))
    }

    /// Whether the policy allows a peer.
    pub(crate) fn allows(&self, name: &str, certificate: Option<Fingerprint>) -> bool {
        match &self.0 {
            AllowedPeers::All => true,
            AllowedPeers::Certificates(allowed) => {
                certificate.is_some_and(|certificate| allowed.contains(&certificate))
            }
            AllowedPeers::Names(allowed) => allowed.contains(name),
        }
    }

    pub(crate) fn allows_all(&self) -> bool {
        self.0 == AllowedPeers::All
    }

    /// Whether the policy is by certificates, and this one is among them.
    pub(crate) fn names_certificate(&self, certificate: &Fingerprint) -> bool {
        matches!(&self.0, AllowedPeers::Certificates(allowed) if allowed.contains(certificate))
    }

    /// Whether the policy is meant to allow some peers, but refuses each peer without a certificate.
    pub(crate) fn needs_tls(&self) -> bool {
        matches!(&self.0, AllowedPeers::Certificates(allowed) if !allowed.is_empty())
    }
}

/// Why the access policy of an actor was not set. Nothing was changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The actor is on another node.
    #[error("the actor is on another node; only its own node can set its access policy")]
    Elsewhere,
    /// The actor has exited.
    #[error("the actor has exited; set its access policy while it is alive")]
    Ended,
    /// The policy is by certificates, and no peer presents one.
    #[error("without TLS no peer presents a certificate; set `certfile`, or use `AccessPolicy::none()`")]
    NoTls,
    /// This actor is not part of a node.
    #[error("this actor's loop is not part of a node, so no peer can reach it")]
    NoNode,
}
