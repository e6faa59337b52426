//! TLS 1.3 below the protocol: who this node is, whom it trusts, and the streams.
//!
//! Invariant: whatever the configuration leaves out, both sides present a certificate, and rustls verifies each handshake's
//! signature; what this crate decides is only which certificates are trusted.

mod judge;
mod stream;

pub(super) use stream::{Opening, Stream, fault_in};

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, InconsistentKeys, ServerConfig};
use rustls_pki_types::ServerName;

use crate::certificates::{self, Fingerprint, Identity, Moment, TlsError, Validity};
use crate::config::Config;
use judge::Judge;

/// What a node needs to begin TLS in either direction.
pub(super) struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// The certificate that this node and all its peers present, if there is one for all.
    shared: Option<Fingerprint>,
}

impl Tls {
    /// What the configuration asks for; `None`: no TLS.
    pub(super) fn new(config: &Config) -> Result<Option<Self>, TlsError> {
        let Some(certfile) = config.certfile.as_deref() else {
            return match alone(config) {
                Some(field) => Err(TlsError::NoCertfile { field }),
                None => Ok(None),
            };
        };
        let keyfile = config.keyfile.as_deref();
        let identity = certificates::identity(certfile, keyfile)?;
        check_dates(certfile, &identity)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let judge = Arc::new(Judge::new(config, &identity, &provider)?);
        let own = identity.chain.first().filter(|own| judge.admits_only(own));
        let shared = own.map(|own| Fingerprint::of(own));
        let keyfile = keyfile.unwrap_or(certfile);
        let (client, server) =
            configs(identity, provider, judge).map_err(|why| blame(certfile, keyfile, why))?;
        Ok(Some(Self { client: Arc::new(client), server: Arc::new(server), shared }))
    }

    pub(super) fn shared(&self) -> Option<Fingerprint> {
        self.shared
    }

    fn dial(&self, to: IpAddr) -> Result<rustls::Connection, rustls::Error> {
        // The name is neither sent nor looked at.
        let name = ServerName::IpAddress(to.into());
        Ok(rustls::ClientConnection::new(self.client.clone(), name)?.into())
    }

    fn accept(&self) -> Result<rustls::Connection, rustls::Error> {
        Ok(rustls::ServerConnection::new(self.server.clone())?.into())
    }
}

/// A field that makes sense only beside a certificate.
fn alone(config: &Config) -> Option<&'static str> {
    let fields = [
        ("keyfile", config.keyfile.is_some()),
        ("pinned", !config.pinned.is_empty()),
        ("ca_files", !config.ca_files.is_empty()),
    ];
    fields.into_iter().find(|(_, is_set)| *is_set).map(|(field, _)| field)
}

fn configs(
    identity: Identity,
    provider: Arc<CryptoProvider>,
    judge: Arc<Judge>,
) -> Result<(ClientConfig, ServerConfig), rustls::Error> {
    let versions = &[&rustls::version::TLS13];
    let Identity { chain, key } = identity;
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(judge.clone())
        .with_client_auth_cert(chain.clone(), key.clone_key())?;
    client.enable_sni = false;
    // A session of ours outlives its connections by itself; each of them is proven anew.
    client.resumption = rustls::client::Resumption::disabled();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(judge)
        .with_single_cert(chain, key)?;
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok((client, server))
}

/// Which file is to blame for what rustls refuses.
fn blame(certfile: &Path, keyfile: &Path, why: rustls::Error) -> TlsError {
    match why {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::KeyMismatch { certfile: certfile.to_owned(), keyfile: keyfile.to_owned() }
        }
        rustls::Error::InvalidCertificate(why) => {
            TlsError::BadCertificate { file: certfile.to_owned(), why: why.to_string() }
        }
        why => TlsError::BadKey { file: keyfile.to_owned(), why: why.to_string() },
    }
}

fn check_dates(certfile: &Path, identity: &Identity) -> Result<(), TlsError> {
    let file = certfile.to_owned();
    let Some(validity) = identity.chain.first().and_then(|own| Validity::of(own)) else {
        return Err(TlsError::BadCertificate { file, why: "its dates cannot be read".to_owned() });
    };
    let now = now();
    if now > validity.not_after {
        Err(TlsError::Expired { file, at: validity.not_after.to_string() })
    } else if now < validity.not_before {
        Err(TlsError::NotYetValid { file, at: validity.not_before.to_string() })
    } else {
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid by the world's calendar")]
fn now() -> Moment {
    // A clock before 1970 is as wrong as one that stands there: nothing is valid yet.
    Moment::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
