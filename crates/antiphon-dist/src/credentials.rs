//! The credentials of a node: its secrets and its certificates, read from their files and checked.

use antiphon_sched::{AskError, Handle};
use antiphon_wire::{Keyring, Secret, Suite};
use thiserror::Error;

use crate::config::Config;
use crate::error::NodeError;
use crate::net::Tls;
use crate::node::{NodeCore, Settings};

/// What a node proves to its peers, and what it accepts from them.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) keyring: Keyring,
    pub(crate) suites: Vec<Suite>,
    /// `None` if the node uses no TLS.
    pub(crate) tls: Option<Tls>,
}

impl Credentials {
    /// Reads the files that a configuration names, and checks them.
    pub(crate) fn read(config: &Config) -> Result<Self, NodeError> {
        let config = with_secrets_of_file(config)?;
        Settings::check(&config)?;
        Ok(Self { keyring: config.keyring(), suites: Settings::suites(&config)?, tls: Tls::of(&config)? })
    }
}

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
}

impl NetHandle for Handle {
    fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        let credentials = Credentials::read(config)?;
        self.run(|loop_ref| match loop_ref.transport::<NodeCore>() {
            Some(core) => core.reload(credentials),
            None => Err(ReloadError::NoNode),
        })?
    }
}

/// Why secrets and certificates were not replaced. The node keeps those that it has.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A file cannot be used, or the configuration is not valid.
    #[error(transparent)]
    Config(#[from] NodeError),
    /// Connections would be protected in another way: with or without TLS, or with or without a secret.
    #[error(
        "a running node cannot change between TLS, a secret and neither; start it again with this configuration"
    )]
    Protection,
    /// The loop has ended or has not started, or this is its own thread.
    #[error(transparent)]
    Loop(#[from] AskError),
    /// The loop is not part of a node.
    #[error("the loop of this handle is not part of a node; use the handle of a `Node`")]
    NoNode,
}

/// The configuration with the secrets of its `secret_file`.
pub(crate) fn with_secrets_of_file(config: &Config) -> Result<Config, NodeError> {
    let Some(path) = &config.secret_file else { return Ok(config.clone()) };
    if config.secret.is_some() || !config.other_secrets.is_empty() {
        return Err(NodeError::TwoSecretSources);
    }
    let mut secrets = Secret::all_from_file(path)?;
    let (key_id, secret) = secrets.remove(0);
    Ok(Config { secret: Some(secret), key_id, other_secrets: secrets, secret_file: None, ..config.clone() })
}
