//! The credentials of a node: its secrets and its certificates, read from their files and checked.

use antiphon_sched::AskError;
use antiphon_wire::{Keyring, Secret, Suite};
use thiserror::Error;

use crate::config::Config;
use crate::error::NodeError;
use crate::net::Tls;
use crate::node::Settings;

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
