//! The TLS configuration: the files with certificates and keys.

use std::path::PathBuf;

use crate::config::Config;

/// The certificates of one side. The fields have the same meaning as those of the same names in [`Config`].
///
/// Both sides present a certificate. A side accepts the certificate of its peer if its dates are valid, and if one of
/// these is true:
///
/// - The same certificate is in one of the `pinned` files.
/// - A CA in `ca_files` has signed it.
///
/// The names in a certificate are ignored. With neither `pinned` nor `ca_files`, all sides share one certificate.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// The own certificate, as PEM. The file may also hold the intermediate CA certificates, after the own one, and the
    /// key.
    pub certfile: PathBuf,
    /// The key of the certificate, as PEM without a passphrase; `None`: `certfile` holds it.
    pub keyfile: Option<PathBuf>,
    /// Files with the certificates of accepted peers, any number in each, as PEM.
    pub pinned: Vec<PathBuf>,
    /// Files with the certificates of private CAs, as PEM. Peers with a certificate that one of them signed are accepted.
    pub ca_files: Vec<PathBuf>,
}

impl TlsConfig {
    /// The TLS configuration of a node. Without `certfile` it is `Err`, with the first set field that needs a certificate.
    pub(super) fn of(config: &Config) -> Result<Self, Option<&'static str>> {
        let of = Self {
            certfile: config.certfile.clone().unwrap_or_default(),
            keyfile: config.keyfile.clone(),
            pinned: config.pinned.clone(),
            ca_files: config.ca_files.clone(),
        };
        if config.certfile.is_some() { Ok(of) } else { Err(of.field_without_certfile()) }
    }

    /// The first set field that needs a certificate.
    pub(super) fn field_without_certfile(&self) -> Option<&'static str> {
        let fields = [
            ("keyfile", self.keyfile.is_some()),
            ("pinned", !self.pinned.is_empty()),
            ("ca_files", !self.ca_files.is_empty()),
        ];
        fields.into_iter().find(|(_, is_set)| *is_set).map(|(field, _)| field)
    }
}
