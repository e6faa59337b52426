//! The credentials of a node: its secrets and its certificates, read from their files and checked.

use std::sync::Arc;

use antiphon_sched::{AskError, Handle};
use antiphon_wire::{Keyring, Suite};
use parking_lot::Mutex;
use thiserror::Error;

use crate::config::Config;
use crate::error::NodeError;
use crate::net::Tls;
use crate::net_handle::NetHandle;
use crate::node::Settings;
use crate::{secret, service};

/// What a node proves to its peers, and what it accepts from them.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) keyring: Keyring,
    pub(crate) suites: Vec<Suite>,
    /// `None` if the node uses no TLS.
    pub(crate) tls: Option<Tls>,
    /// A secret can be guessed, and nothing else protects the node or permits that.
    pub(crate) is_weak: bool,
}

impl Credentials {
    /// Reads the files that a configuration names, and checks them.
    pub(crate) fn read(config: &Config) -> Result<Self, NodeError> {
        let config = with_secrets_of_file(config)?;
        Settings::check(&config)?;
        service::check(&config)?;
        Ok(Self {
            keyring: config.keyring(),
            suites: Settings::suites(&config)?,
            tls: Tls::of(&config)?,
            is_weak: Settings::has_weak_secret(&config),
        })
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
    let mut secrets = secret::all_from_file(path)?;
    let (key_id, secret) = secrets.remove(0);
    Ok(Config { secret: Some(secret), key_id, other_secrets: secrets, secret_file: None, ..config.clone() })
}

/// Reads the files of a node again, on a thread of its own: a file may block.
#[derive(Debug, Default)]
pub(crate) struct Reloader(Arc<Mutex<ReloaderState>>);

#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
enum ReloaderState {
    #[default]
    Idle,
    Reading,
    /// Another reload was requested meanwhile.
    Again,
}

impl Reloader {
    /// Starts a reload; if one is under way, another one follows it.
    pub(crate) fn start(&self, config: &Config, handle: Handle) {
        if std::mem::replace(&mut *self.0.lock(), ReloaderState::Again) != ReloaderState::Idle {
            tracing::warn!(
                "the files with secrets and certificates are still being read; they are read once more after that"
            );
            return;
        }
        let (state, config) = (self.0.clone(), config.clone());
        let read = move || {
            while Self::begins(&state) {
                match handle.reload(&config) {
                    // `Loop`: the node ends.
                    Ok(()) | Err(ReloadError::Loop(_)) => {}
                    Err(reason) => {
                        tracing::error!(%reason, "at SIGHUP the node keeps its secrets and certificates");
                    }
                }
            }
        };
        if let Err(reason) = std::thread::Builder::new().name("antiphon-reload".into()).spawn(read) {
            *self.0.lock() = ReloaderState::Idle;
            tracing::error!(%reason, "no thread can be started to read secrets and certificates; send SIGHUP again");
        }
    }

    /// Whether another reload was requested since the last one began; then it begins.
    fn begins(state: &Mutex<ReloaderState>) -> bool {
        let mut state = state.lock();
        *state = if *state == ReloaderState::Again { ReloaderState::Reading } else { ReloaderState::Idle };
        *state == ReloaderState::Reading
    }
}
