//! TLS 1.3, below the protocol and on the sockets of actors: who this side is, whom it trusts, and the streams.
//!
//! Invariant: whatever the configuration leaves out, both sides present a certificate, and rustls verifies each handshake's
//! signature; what this crate decides is only which certificates are trusted.

mod config;
mod connection;
mod layer;
mod stream;
mod verifier;

pub use config::TlsConfig;
pub use layer::TlsAt;
pub(super) use stream::{Opening, Stream};

use std::fmt;
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

/// TLS 1.3 with certificates on both sides, for the sockets of actors: [`Tls::at`] goes where a place goes.
///
/// A connection is told of as [`Opened`](antiphon_sched::Socket::Opened) when TLS is agreed on, within the timeout of `connect`.
/// What came to nothing ends with [`Closed`](antiphon_sched::Socket::Closed) and an error that holds a [`TlsFault`](crate::TlsFault), which says why, and
/// what to do. Who dials learns last whether its own certificate is trusted: TLS 1.3 has it done by then, so `Opened` may be
/// followed by [`TlsFault::Rejected`](crate::TlsFault::Rejected). A peer that ends without TLS's own word of it is told as [`TlsFault::CutShort`](crate::TlsFault::CutShort): the connection
/// may have been cut by anybody, and what is missing is not known.
///
/// Both sides present a certificate, and name their protocol as `antiphon-socket/1` (ALPN): a peer of another kind takes part if
/// it names the same or none. [`TlsFault::of`](crate::TlsFault::of) finds the fault inside an error that a socket is closed with.
///
/// A clone is cheap, and the files are read once, here.
///
/// ```no_run
/// use antiphon_dist::{Tls, TlsConfig};
/// use antiphon_sched::{Conn, Event, Framing, Loop, LoopConfig, Socket, receive, secs, stop};
///
/// struct Heard(Conn, Socket);
///
/// let tls = Tls::new(&TlsConfig { certfile: "own.pem".into(), ..TlsConfig::default() })?;
/// let mut events = Loop::new(LoopConfig::default())?;
/// events.spawn(move |cx, event| match event {
///     Event::Start => {
///         cx.connect(tls.at(("127.0.0.1", 1234)), Framing::LengthPrefixed { max: 65_536 }, secs(5), Heard);
///         receive()
///     }
///     Event::Message(Heard(conn, Socket::Opened(_))) => {
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
    /// The certificate that this node and all its peers present, if there is one for all.
    shared: Option<Fingerprint>,
}

/// What a node and an actor's socket say that they speak (ALPN, RFC 7301). One certificate may serve both: whoever sits in the
/// middle must not connect one to the other. A side that says nothing is let in, as programs of other kinds are.
const OF_NODES: &[u8] = b"antiphon/1";
const OF_SOCKETS: &[u8] = b"antiphon-socket/1";

impl Tls {
    /// Reads the files, and looks that they are of use.
    ///
    /// # Errors
    /// A file cannot be read or used, or the own certificate has expired: what to do is said.
    pub fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        Self::speaking(OF_SOCKETS, config)
    }

    fn speaking(protocol: &[u8], config: &TlsConfig) -> Result<Self, TlsError> {
        let TlsConfig { certfile, keyfile, .. } = config;
        if certfile.as_os_str().is_empty() {
            return Err(TlsError::NoCertfile { field: config.alone().unwrap_or("TlsConfig") });
        }
        let identity = certificates::identity(certfile, keyfile.as_deref())?;
        check_dates(certfile, &identity)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(PeerVerifier::new(config, &identity, &provider)?);
        let own = identity.chain.first().filter(|own| verifier.admits_only(own));
        let shared = own.map(|own| Fingerprint::of(own));
        let keyfile = keyfile.as_ref().unwrap_or(certfile);
        let (mut client, mut server) =
            configs(identity, provider, verifier).map_err(|reason| blame(certfile, keyfile, reason))?;
        client.alpn_protocols = vec![protocol.to_vec()];
        server.alpn_protocols = vec![protocol.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server), shared })
    }

    /// What a node's configuration asks for; `None`: no TLS.
    pub(super) fn of(config: &Config) -> Result<Option<Self>, TlsError> {
        match TlsConfig::of(config) {
            Ok(config) => Self::speaking(OF_NODES, &config).map(Some),
            Err(Some(field)) => Err(TlsError::NoCertfile { field }),
            Err(None) => Ok(None),
        }
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
    // A session of ours outlives its connections by itself; each of them is proven anew.
    client.resumption = rustls::client::Resumption::disabled();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok((client, server))
}

/// Which file is to blame for what rustls refuses.
fn blame(certfile: &Path, keyfile: &Path, reason: rustls::Error) -> TlsError {
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
