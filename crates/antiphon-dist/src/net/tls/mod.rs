//! TLS 1.3, for the connections of nodes and for the sockets of actors.
//!
//! Invariant: with any configuration, both sides present a certificate, and rustls verifies the signature of each
//! handshake. This crate only decides which certificates are trusted.

mod config;
mod connection;
mod layer;
mod verifier;

pub use config::TlsConfig;
pub(super) use connection::TlsConnection;
pub use layer::TlsAt;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, InconsistentKeys, ServerConfig};
use rustls_pki_types::ServerName;

use crate::certificates::{self, CertificateIdentity, Fingerprint, Moment, TlsError, Validity};
use crate::config::Config;
use verifier::PeerVerifier;

/// TLS 1.3 with certificates on both sides, for the sockets of actors. Pass [`Tls::at`] in place of an address.
///
/// - **Start**: the actor receives [`Opened`](antiphon_sched::SocketEvent::Opened) when the TLS handshake is complete. The
///   timeout of `connect` includes the handshake.
/// - **Failure**: the actor receives [`Closed`](antiphon_sched::SocketEvent::Closed) with an error that holds a
///   [`TlsFault`](crate::TlsFault). Its text says what happened and what to do. [`TlsFault::of`](crate::TlsFault::of)
///   finds the fault in the error.
/// - **Refused certificates**: the dialling side completes the handshake before it knows whether the peer trusts its
///   certificate. So it may receive [`TlsFault::Rejected`](crate::TlsFault::Rejected) after `Opened`.
/// - **End**: a peer that ends the stream without closing TLS causes [`TlsFault::CutShort`](crate::TlsFault::CutShort). An
///   attacker may have cut the connection, and data may be missing.
/// - **Protocol**: both sides name their protocol as `antiphon-socket/1` (ALPN). A program without Antiphon can connect if
///   it names the same protocol or none.
///
/// A clone is cheap. The files are read once, by [`Tls::new`].
///
/// ```no_run
/// use antiphon_dist::{Tls, TlsConfig};
/// use antiphon_sched::{Conn, Event, Framing, Loop, LoopConfig, SocketEvent, receive, secs, stop};
///
/// struct FromSocket(Conn, SocketEvent);
///
/// let tls = Tls::new(&TlsConfig { certfile: "own.pem".into(), ..TlsConfig::default() })?;
/// let mut events = Loop::new(LoopConfig::default())?;
/// events.spawn(move |cx, event| match event {
///     Event::Start => {
///         let framing = Framing::LengthPrefixed { max: 65_536 };
///         cx.connect(tls.at(("127.0.0.1", 1234)), framing, secs(5), FromSocket);
///         receive()
///     }
///     Event::Message(FromSocket(conn, SocketEvent::Opened(_))) => {
///         cx.write(conn, "hello");
///         receive()
///     }
///     _ => stop(),
/// });
/// events.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// The certificate that this node and all its peers share, if they do.
    shared: Option<Fingerprint>,
}

/// The protocol names of nodes and of actors' sockets (ALPN, RFC 7301). Both may use one certificate, and an attacker in
/// the middle must not be able to connect a node to a socket. A side that names no protocol is accepted, since programs
/// without Antiphon may do so.
const NODE_PROTOCOL: &[u8] = b"antiphon/1";
const SOCKET_PROTOCOL: &[u8] = b"antiphon-socket/1";

impl Tls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// A file cannot be read or used, or the own certificate is not valid now. The error text says what to do.
    pub fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        Self::with_protocol(SOCKET_PROTOCOL, config)
    }

    fn with_protocol(protocol: &[u8], config: &TlsConfig) -> Result<Self, TlsError> {
        let TlsConfig { certfile, keyfile, .. } = config;
        if certfile.as_os_str().is_empty() {
            return Err(TlsError::NoCertfile {
                field: config.field_without_certfile().unwrap_or("TlsConfig"),
            });
        }
        let identity = certificates::identity(certfile, keyfile.as_deref())?;
        check_dates(certfile, &identity)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(PeerVerifier::new(config, &identity, &provider)?);
        let own = identity.chain.first().filter(|own| verifier.admits_only(own));
        let shared = own.map(|own| Fingerprint::of(own));
        let keyfile = keyfile.as_ref().unwrap_or(certfile);
        let (mut client, mut server) =
            configs(identity, provider, verifier).map_err(|reason| file_error(certfile, keyfile, reason))?;
        client.alpn_protocols = vec![protocol.to_vec()];
        server.alpn_protocols = vec![protocol.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server), shared })
    }

    /// The TLS of a node; `None` if its configuration has no certificate.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, TlsError> {
        match TlsConfig::of(config) {
            Ok(config) => Self::with_protocol(NODE_PROTOCOL, &config).map(Some),
            Err(Some(field)) => Err(TlsError::NoCertfile { field }),
            Err(None) => Ok(None),
        }
    }

    pub(crate) fn shared(&self) -> Option<Fingerprint> {
        self.shared
    }

    /// The layer of a connection that is dialled. It accepts up to `write_bytes_max` bytes in one write.
    pub(super) fn dialled(&self, to: IpAddr, write_bytes_max: usize) -> io::Result<Box<TlsConnection>> {
        // rustls needs a name. It is neither sent nor verified.
        let name = ServerName::IpAddress(to.into());
        let tls = rustls::ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnection::new(tls.into(), write_bytes_max)))
    }

    /// As [`Tls::dialled`], of a connection that was accepted.
    pub(super) fn accepted(&self, write_bytes_max: usize) -> io::Result<Box<TlsConnection>> {
        let tls = rustls::ServerConnection::new(self.server.clone()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnection::new(tls.into(), write_bytes_max)))
    }
}

/// Clones of one value are equal.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.client, &other.client)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn configs(
    identity: CertificateIdentity,
    provider: Arc<CryptoProvider>,
    verifier: Arc<PeerVerifier>,
) -> Result<(ClientConfig, ServerConfig), rustls::Error> {
    let versions = &[&rustls::version::TLS13];
    let CertificateIdentity { chain, key } = identity;
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_auth_cert(chain.clone(), key.clone_key())?;
    client.enable_sni = false;
    // Sessions of nodes outlive their connections without TLS resumption, and each connection is proven again.
    client.resumption = rustls::client::Resumption::disabled();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok((client, server))
}

/// The error that names the file which rustls refuses.
fn file_error(certfile: &Path, keyfile: &Path, reason: rustls::Error) -> TlsError {
    match reason {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::KeyMismatch { certfile: certfile.to_owned(), keyfile: keyfile.to_owned() }
        }
        rustls::Error::InvalidCertificate(reason) => {
            TlsError::BadCertificate { file: certfile.to_owned(), reason: reason.to_string() }
        }
        reason => TlsError::BadKey { file: keyfile.to_owned(), reason: reason.to_string() },
    }
}

fn check_dates(certfile: &Path, identity: &CertificateIdentity) -> Result<(), TlsError> {
    let file = certfile.to_owned();
    let Some(validity) = identity.chain.first().and_then(|own| Validity::of(own)) else {
        return Err(TlsError::BadCertificate { file, reason: "its dates cannot be read".to_owned() });
    };
    let now = now();
    if validity.is_version_1 {
        Err(TlsError::Version1 { file })
    } else if now > validity.not_after {
        Err(TlsError::Expired { file, at: validity.not_after.to_string() })
    } else if now < validity.not_before {
        Err(TlsError::NotYetValid { file, at: validity.not_before.to_string() })
    } else {
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the dates of certificates are compared with the system's clock"
)]
fn now() -> Moment {
    // A clock before 1970 is treated as 1970: no certificate is valid then.
    Moment::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
