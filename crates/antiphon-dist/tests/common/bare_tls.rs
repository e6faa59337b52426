//! TLS by hand, for peers as they should not be.

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

/// Accepts everybody.
#[derive(Debug)]
struct Gullible;

fn schemes() -> Vec<SignatureScheme> {
    rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
}

impl ServerCertVerifier for Gullible {
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

impl ClientCertVerifier for Gullible {
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

/// A certificate with whatever key stands beside it.
fn presented(files: &Files) -> Arc<SingleCertAndKey> {
    let key = rustls::crypto::ring::sign::any_supported_type(&files.private_key()).expect("a sound key");
    Arc::new(CertifiedKey::new(files.chain(), key).into())
}

fn client(files: Option<&Files>) -> Connection {
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let config = match files {
        Some(files) => config.with_client_cert_resolver(presented(files)),
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(config.into(), name).expect("a sound configuration").into()
}

fn server(files: &Files) -> Connection {
    let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_client_cert_verifier(Arc::new(Gullible))
        .with_cert_resolver(presented(files));
    ServerConnection::new(config.into()).expect("a sound configuration").into()
}

/// A server that presents a certificate to whoever comes.
pub(crate) fn serve(files: &Files) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let files = files.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut tls = server(&files);
            // The dialler refuses it, and closes.
            while tls.complete_io(&mut stream).is_ok_and(|(read, _)| read > 0) {}
        }
    });
    at
}

/// A conversation with whoever listens, begun.
pub(crate) fn dial(at: SocketAddr, files: &Files) -> StreamOwned<ClientConnection, TcpStream> {
    begin(TcpStream::connect(at).expect("somebody listens"), files)
}

/// As `dial`, on a connection that stands.
pub(crate) fn begin(mut stream: TcpStream, files: &Files) -> StreamOwned<ClientConnection, TcpStream> {
    stream.set_read_timeout(Some(super::PATIENCE)).expect("a sound timeout");
    let Connection::Client(mut tls) = client(Some(files)) else { unreachable!("it dials") };
    tls.complete_io(&mut stream).expect("the listener agrees");
    StreamOwned::new(tls, stream)
}

/// What a node says to a dialler that presents a certificate, or none.
pub(crate) fn knock(at: SocketAddr, files: Option<&Files>) -> String {
    let mut stream = TcpStream::connect(at).expect("the node listens");
    let mut tls = client(files);
    loop {
        match tls.complete_io(&mut stream) {
            Ok(_) if !tls.wants_read() => panic!("the node let it in"),
            Ok(_) => {}
            Err(reason) => return reason.to_string(),
        }
    }
}

/// The first bytes of a dialler.
pub(crate) fn first_flight() -> Vec<u8> {
    let mut bytes = Vec::new();
    client(None).write_tls(&mut bytes).expect("memory takes all");
    bytes
}

/// Stands between whoever dials and a node, with TLS on both sides.
pub(crate) fn relay(files: &Files, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let files = files.clone();
    std::thread::spawn(move || {
        for dialler in listener.incoming().map_while(Result::ok) {
            let there = TcpStream::connect(to).expect("the node listens");
            // What ends a relay is what the test is about.
            drop(carry((server(&files), dialler), (client(Some(&files)), there)));
        }
    });
    at
}

type End = (Connection, TcpStream);

fn carry(mut near: End, mut far: End) -> io::Result<()> {
    for (tls, stream) in [&mut near, &mut far] {
        while tls.is_handshaking() {
            tls.complete_io(stream)?;
        }
        stream.set_read_timeout(Some(std::time::Duration::from_millis(5)))?;
    }
    loop {
        for (from, to) in [(true, false), (false, true)] {
            debug_assert_ne!(from, to);
            let (from, to) = if from { (&mut near, &mut far) } else { (&mut far, &mut near) };
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

fn pull((tls, stream): &mut End, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(bytes) {
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        tls.read_tls(stream)?;
        tls.process_new_packets().map_err(io::Error::other)?;
    }
}
