//! The byte stream of a node's connection: TCP, or TLS over TCP.
//!
//! Invariant: those of [`TlsConnection`]. An end of the stream without a TLS close is treated like a close, since the
//! session sends missing frames again.

use std::io::{self, Read, Write};
use std::net::IpAddr;

use antiphon_wire::{Refusal, TlsFault};
use mio::net::TcpStream;
use rustls::Connection;

use super::Tls;
use super::connection::TlsConnection;
use crate::node::OverTls;

/// A byte stream in both directions.
pub(in crate::net) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// TLS over TCP.
pub(in crate::net) struct TlsStream {
    tcp: TcpStream,
    connection: TlsConnection,
}

/// The state of a TLS handshake.
pub(in crate::net) enum TlsProgress {
    /// It waits for the peer.
    Pending,
    /// It is complete.
    Done(OverTls),
    /// It has failed, and the alert was sent to the peer.
    Failed(TlsFault),
    /// The connection is closed.
    Closed,
}

impl Stream {
    /// The stream of a connection that was dialled, once it is connected.
    pub(in crate::net) fn dialled(tcp: TcpStream, tls: Option<&Tls>, to: IpAddr) -> io::Result<Self> {
        Self::over(tcp, tls.map(|tls| tls.dial(to)))
    }

    /// The stream of an accepted connection.
    pub(in crate::net) fn accepted(tcp: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        Self::over(tcp, tls.map(Tls::accept))
    }

    fn over(tcp: TcpStream, tls: Option<Result<Connection, rustls::Error>>) -> io::Result<Self> {
        let Some(tls) = tls else { return Ok(Self::Plain(tcp)) };
        let connection = TlsConnection::new(tls.map_err(io::Error::other)?, WRITE_BYTES_MAX);
        Ok(Self::Tls(Box::new(TlsStream { tcp, connection })))
    }

    pub(in crate::net) fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(stream) => &mut stream.tcp,
        }
    }

    /// Whether a TLS handshake is in progress.
    pub(in crate::net) fn is_handshaking(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.connection.is_handshaking(),
        }
    }

    /// Continues the TLS handshake as far as data has arrived. Call it when the socket is ready during the handshake.
    pub(in crate::net) fn handshake(&mut self) -> TlsProgress {
        match self {
            Self::Plain(_) => TlsProgress::Pending,
            Self::Tls(stream) => stream.handshake().unwrap_or_else(|reason| match TlsFault::of(&reason) {
                Some(fault) => TlsProgress::Failed(fault),
                None if reason.kind() == io::ErrorKind::WouldBlock => TlsProgress::Pending,
                None => TlsProgress::Closed,
            }),
        }
    }

    pub(in crate::net) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(space),
            Self::Tls(stream) => match stream.connection.read(&mut stream.tcp, space) {
                Err(reason) if TlsFault::of(&reason) == Some(TlsFault::CutShort) => Ok(0),
                read => read,
            },
        }
    }

    /// Whether the last read stopped before the socket was empty.
    pub(in crate::net) fn take_cut(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.connection.take_cut(),
        }
    }

    pub(in crate::net) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(stream) => stream.connection.write(&mut stream.tcp, bytes),
        }
    }

    /// Writes the accepted bytes that did not fit before.
    pub(in crate::net) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.connection.flush(&mut stream.tcp),
        }
    }

    /// Closes TLS in the direction of the peer, as far as the close can be written at once.
    pub(in crate::net) fn finish(&mut self) {
        if let Self::Tls(stream) = self {
            // On an error, the peer notices the end of the TCP stream.
            drop(stream.connection.finish(&mut stream.tcp));
        }
    }
}

impl TlsStream {
    fn handshake(&mut self) -> io::Result<TlsProgress> {
        let Self { tcp, connection } = self;
        // The dialling side sends the first message.
        connection.flush_some(tcp)?;
        refuse_plain(tcp, connection)?;
        connection.handshake(tcp)?;
        connection.over_tls(tcp).map(TlsProgress::Done)
    }
}

/// Fails if the peer is a node without TLS, which its first byte shows. A server first sends it a refusal without TLS.
fn refuse_plain(tcp: &mut TcpStream, connection: &TlsConnection) -> io::Result<()> {
    let mut first = [0];
    if !connection.is_untouched() || tcp.peek(&mut first)? == 0 || first != *b"A" {
        return Ok(());
    }
    if connection.is_server() {
        // Unread bytes would make the system reset the connection before the peer has received the refusal. Both calls may
        // fail.
        drop(tcp.read(&mut [0; 4096]));
        drop(tcp.write(&Refusal::Tls(TlsFault::OneSided).message()));
    }
    Err(io::Error::other(TlsFault::OneSided))
}

/// Bytes that one write accepts: more than the core's buffer for one connection holds, so that TLS accepts it whole.
const WRITE_BYTES_MAX: usize = 512 * 1024;
