//! TLS without the checks of the product, for peers that misbehave.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certs::Files;

/// Accepts every certificate.
#[derive(Debug)]
struct AcceptAll;

fn schemes() -> Vec<SignatureScheme> {
    rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
}

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for AcceptAll {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// A certificate with the key in its file, which may be the key of another certificate.
fn presented(files: &Files) -> Arc<SingleCertAndKey> {
    let key = rustls::crypto::ring::sign::any_supported_type(&files.private_key()).expect("the key is valid");
    Arc::new(CertifiedKey::new(files.chain(), key).into())
}

fn client(files: Option<&Files>) -> Connection {
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAll));
    let config = match files {
        Some(files) => config.with_client_cert_resolver(presented(files)),
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("localhost").expect("the name is valid");
    ClientConnection::new(config.into(), name).expect("the configuration is valid").into()
}

fn server(files: &Files) -> Connection {
    let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(Arc::new(AcceptAll))
        .with_cert_resolver(presented(files));
    ServerConnection::new(config.into()).expect("the configuration is valid").into()
}

/// Starts a server that presents a certificate to each dialler.
pub(crate) fn serve(files: &Files) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let at = listener.local_addr().expect("the listener is bound");
    let files = files.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut tls = server(&files);
            // The dialler refuses the certificate, and closes.
            while tls.complete_io(&mut stream).is_ok_and(|(read, _)| read > 0) {}
        }
    });
    at
}

/// Connects to a listener, and completes the TLS handshake.
pub(crate) fn dial(at: SocketAddr, files: &Files) -> StreamOwned<ClientConnection, TcpStream> {
    begin(TcpStream::connect(at).expect("the listener accepts"), files)
}

/// Like [`dial`], over a connection that is open.
pub(crate) fn begin(mut stream: TcpStream, files: &Files) -> StreamOwned<ClientConnection, TcpStream> {
    stream.set_read_timeout(Some(super::PATIENCE)).expect("the timeout is valid");
    let Connection::Client(mut tls) = client(Some(files)) else { unreachable!("the client side dials") };
    tls.complete_io(&mut stream).expect("the handshake succeeds");
    StreamOwned::new(tls, stream)
}

/// The error with which a node refuses a dialler that presents this certificate, or none.
pub(crate) fn refused_dial(at: SocketAddr, files: Option<&Files>) -> String {
    let mut stream = TcpStream::connect(at).expect("the node listens");
    let mut tls = client(files);
    loop {
        match tls.complete_io(&mut stream) {
            Ok(_) if !tls.wants_read() => panic!("the node accepted the dialler"),
            Ok(_) => {}
            Err(reason) => return reason.to_string(),
        }
    }
}

/// The first bytes that a dialler sends.
pub(crate) fn first_flight() -> Vec<u8> {
    let mut bytes = Vec::new();
    client(None).write_tls(&mut bytes).expect("a vector accepts all bytes");
    bytes
}

/// Starts a relay between diallers and a node, which terminates TLS on both sides.
pub(crate) fn relay(files: &Files, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let at = listener.local_addr().expect("the listener is bound");
    let files = files.clone();
    std::thread::spawn(move || {
        for dialler in listener.incoming().map_while(Result::ok) {
            let node = TcpStream::connect(to).expect("the node listens");
            // The tests are about the error that ends a relay; both sides report it.
            drop(carry((server(&files), dialler), (client(Some(&files)), node)));
        }
    });
    at
}

type BareStream = (Connection, TcpStream);

fn carry(mut dialler: BareStream, mut node: BareStream) -> io::Result<()> {
    for (tls, stream) in [&mut dialler, &mut node] {
        while tls.is_handshaking() {
            tls.complete_io(stream)?;
        }
        stream.set_read_timeout(Some(std::time::Duration::from_millis(5)))?;
    }
    loop {
        for from_dialler in [true, false] {
            let (from, to) = if from_dialler { (&mut dialler, &mut node) } else { (&mut node, &mut dialler) };
            let mut bytes = [0; 4096];
            let count = match pull(from, &mut bytes) {
                Ok(0) => return to.1.shutdown(Shutdown::Both),
                Ok(count) => count,
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => continue,
                Err(reason) => return Err(reason),
            };
            to.0.writer().write_all(&bytes[..count])?;
            while to.0.wants_write() {
                to.0.write_tls(&mut to.1)?;
            }
        }
    }
}

fn pull((tls, stream): &mut BareStream, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(bytes) {
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        tls.read_tls(stream)?;
        tls.process_new_packets().map_err(io::Error::other)?;
    }
}
