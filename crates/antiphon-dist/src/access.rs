//! Who may reach an actor of this node from others.
//!
//! Invariant: what an audience does not name is outside of it; a peer without a certificate is in none that is by
//! certificates.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::certificates::Fingerprint;

/// The peers that may reach an actor, and so a channel or an RCI, behind each of which stands one. For all others it is as if
/// there were no such actor, nor its name. This node's own actors always reach it.
///
/// Give it to [`NetCx::allow`](crate::NetCx::allow).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessPolicy(AllowedPeers);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum AllowedPeers {
    #[default]
    Everybody,
    Certificates(BTreeSet<Fingerprint>),
    Names(BTreeSet<String>),
}

impl AccessPolicy {
    /// All peers: what every actor has at first.
    pub fn everybody() -> Self {
        Self(AllowedPeers::Everybody)
    }

    /// This node alone.
    pub fn nobody() -> Self {
        Self::certificates([])
    }

    /// The peers that present one of these certificates. It needs TLS, and no trust in what peers say of themselves.
    ///
    /// Where all nodes share one certificate (no `pinned`, no `ca_files`), that one names everybody: the log warns of it. Give
    /// each node a certificate of its own, to tell peers apart.
    pub fn certificates(of: impl IntoIterator<Item = Fingerprint>) -> Self {
        Self(AllowedPeers::Certificates(of.into_iter().collect()))
    }

    /// The peers that bear one of these names: a convenience **without security**. Every node that knows the secret
    /// may call itself what it likes.
    pub fn names<S: Into<String>>(of: impl IntoIterator<Item = S>) -> Self {
        Self(AllowedPeers::Names(of.into_iter().map(Into::into).collect()))
    }

    /// Whether a peer is in it.
    pub(crate) fn allows(&self, name: &str, certificate: Option<Fingerprint>) -> bool {
        match &self.0 {
            AllowedPeers::Everybody => true,
            AllowedPeers::Certificates(of) => {
                certificate.is_some_and(|certificate| of.contains(&certificate))
            }
            AllowedPeers::Names(of) => of.contains(name),
        }
    }

    pub(crate) fn is_everybody(&self) -> bool {
        self.0 == AllowedPeers::Everybody
    }

    /// Whether it is by certificates, and this one is among them.
    pub(crate) fn names_certificate(&self, certificate: &Fingerprint) -> bool {
        matches!(&self.0, AllowedPeers::Certificates(of) if of.contains(certificate))
    }

    /// Whether a peer without a certificate could never be in it, though one is meant to be.
    pub(crate) fn needs_tls(&self) -> bool {
        matches!(&self.0, AllowedPeers::Certificates(of) if !of.is_empty())
    }
}

/// Why an actor was not opened or closed to peers. Nothing was changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AccessError {
    /// It is an actor of another node.
    #[error("it lives on another node; only its own node can open or close it")]
    Elsewhere,
    /// It has ended.
    #[error("it has ended; open or close it while it lives")]
    Ended,
    /// The audience is by certificates, and no peer presents one.
    #[error("without TLS no peer presents a certificate; set `certfile`, or take `AccessPolicy::nobody()`")]
    NoTls,
    /// This actor is not part of a node.
    #[error("this actor runs in a loop by itself; nobody can reach it from elsewhere")]
    NoNode,
}
