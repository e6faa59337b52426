//! Which files TLS is made of.

use std::path::PathBuf;

use crate::config::Config;

/// The certificates of one side: as the fields of the same names in [`Config`].
///
/// Both sides present a certificate, and the other judges it: by its bytes, where it is `pinned`, and its dates; or by the CAs.
/// Names in it are not looked at. With neither `pinned` nor `ca_files`, one certificate is for all.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// The own certificate, as PEM; it may hold the CA certificates between it and a root behind it, and the key.
    pub certfile: PathBuf,
    /// The key of the certificate, as PEM without a passphrase; `None`: it stands in `certfile`.
    pub keyfile: Option<PathBuf>,
    /// Files with the certificates of all who are let in, any number in each, as PEM.
    pub pinned: Vec<PathBuf>,
    /// Files with the certificates of private CAs, as PEM: whom they have signed is let in.
    pub ca_files: Vec<PathBuf>,
}

impl TlsConfig {
    /// What a node's configuration says of TLS; `Err` with a field that makes no sense without a certificate, if there is one.
    pub(super) fn of(config: &Config) -> Result<Self, Option<&'static str>> {
        let of = Self {
            certfile: config.certfile.clone().unwrap_or_default(),
            keyfile: config.keyfile.clone(),
            pinned: config.pinned.clone(),
            ca_files: config.ca_files.clone(),
        };
        if config.certfile.is_some() { Ok(of) } else { Err(of.alone()) }
    }

    /// A field that makes sense only beside a certificate.
    pub(super) fn alone(&self) -> Option<&'static str> {
        let fields = [
            ("keyfile", self.keyfile.is_some()),
            ("pinned", !self.pinned.is_empty()),
            ("ca_files", !self.ca_files.is_empty()),
        ];
        fields.into_iter().find(|(_, is_set)| *is_set).map(|(field, _)| field)
    }
}
