//! The methods that a node adds to its handle.

use std::time::Duration;

use antiphon_sched::{AskError, Handle};

use crate::config::Config;
use crate::credentials::{Credentials, ReloadError};
use crate::node::{Counts, NameCursor, NamePage, PeerCursor, PeerPage, node_mut};

/// The methods that a node adds to its handle.
pub trait NetHandle {
    /// Replaces the secrets and the certificates of the running node by those of `config`: `secret`, `key_id`,
    /// `other_secrets`, `secret_file`, `certfile`, `keyfile`, `pinned` and `ca_files`. All other fields are only checked.
    /// The files are read on this thread.
    ///
    /// No session ends, and no message is lost, as long as the node and its peer accept each other again within
    /// `peer_timeout`: each connection is replaced by one that is proven with the new secrets and certificates. A
    /// connection that was not replaced by then is closed, and the peer is lost if it can prove nothing else. So a secret
    /// or a certificate that is removed is refused soon. To change a secret or a certificate on several nodes, one after
    /// another:
    ///
    /// 1. Reload each node with the new one as accepted: in `other_secrets`, or in `pinned`.
    /// 2. Reload each with the new one as its own, and the old one as accepted.
    /// 3. Reload each without the old one.
    ///
    /// A peer recognises the node by its session. If it has lost the node before it sees the new certificate, it refuses
    /// the node ([`Refusal::Certificate`](crate::Refusal::Certificate)) until the node starts again.
    ///
    /// # Errors
    /// Nothing was changed: a file cannot be used, or the configuration is not valid, or connections would be protected in
    /// another way (with or without TLS, with or without a secret), which needs a new start.
    fn reload(&self, config: &Config) -> Result<(), ReloadError>;

    /// The counters of the node; all 0 if the loop is not part of a node.
    ///
    /// # Errors
    /// As [`Handle::run`].
    fn counts(&self, timeout: Duration) -> Result<Counts, AskError>;

    /// Some of the nodes that this one knows: at most 1,000. `from` is `None` for the first page, and [`PeerPage::next`] of the
    /// page before for each further one.
    ///
    /// # Errors
    /// As [`Handle::run`].
    fn peer_infos(&self, from: Option<PeerCursor>, timeout: Duration) -> Result<PeerPage, AskError>;

    /// Some of the names of this node: at most 1,000. `from` is as for [`NetHandle::peer_infos`].
    ///
    /// # Errors
    /// As [`Handle::run`].
    fn name_infos(&self, from: Option<NameCursor>, timeout: Duration) -> Result<NamePage, AskError>;
}

impl NetHandle for Handle {
    fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        let credentials = Credentials::read(config)?;
        self.run(Duration::MAX, |loop_ref| match node_mut(loop_ref) {
            Some(core) => core.reload(credentials),
            None => Err(ReloadError::NoNode),
        })?
    }

    fn counts(&self, timeout: Duration) -> Result<Counts, AskError> {
        self.run(timeout, |loop_ref| node_mut(loop_ref).map(|core| core.counts()).unwrap_or_default())
    }

    fn peer_infos(&self, from: Option<PeerCursor>, timeout: Duration) -> Result<PeerPage, AskError> {
        self.run(timeout, move |loop_ref| {
            node_mut(loop_ref).map(|core| core.peers_from(from)).unwrap_or_default()
        })
    }

    fn name_infos(&self, from: Option<NameCursor>, timeout: Duration) -> Result<NamePage, AskError> {
        self.run(timeout, move |loop_ref| {
            node_mut(loop_ref).map(|core| core.names_from(from)).unwrap_or_default()
        })
    }
}
