//! The stream of bytes of a node's connection: TCP, or TLS over it.
//!
//! Invariant: that of [`TlsConnection`]; an end without a word is as good as one with it, since what is missing is sent again.

use std::io::{self, Read, Write};
use std::net::IpAddr;

use antiphon_wire::{Refusal, TlsFault};
use mio::net::TcpStream;
use rustls::Connection;

use super::Tls;
use super::connection::TlsConnection;
use crate::node::OverTls;

/// A stream of bytes in both directions.
pub(in crate::net) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// TLS over TCP.
pub(in crate::net) struct TlsStream {
    tcp: TcpStream,
    session: TlsConnection,
}

/// How far TLS has come.
pub(in crate::net) enum Opening {
    /// It waits for the peer.
    Pending,
    /// It is agreed on, and tells this.
    Done(OverTls),
    /// It failed; the peer was told.
    Failed(TlsFault),
    /// The peer has gone.
    Gone,
}

impl Stream {
    /// The stream of a connection that was dialled, once it is connected.
    pub(in crate::net) fn dialled(tcp: TcpStream, tls: Option<&Tls>, to: IpAddr) -> io::Result<Self> {
        Self::over(tcp, tls.map(|tls| tls.dial(to)))
    }

    /// The stream of a stranger.
    pub(in crate::net) fn accepted(tcp: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        Self::over(tcp, tls.map(Tls::accept))
    }

    fn over(tcp: TcpStream, tls: Option<Result<Connection, rustls::Error>>) -> io::Result<Self> {
        let Some(tls) = tls else { return Ok(Self::Plain(tcp)) };
        let session = TlsConnection::new(tls.map_err(io::Error::other)?, WRITE_BYTES_MAX);
        Ok(Self::Tls(Box::new(TlsStream { tcp, session })))
    }

    pub(in crate::net) fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(stream) => &mut stream.tcp,
        }
    }

    /// Whether TLS is still to be agreed on.
    pub(in crate::net) fn is_opening(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.session.is_opening(),
        }
    }

    /// Agrees on TLS, as far as the peer has come. To be called when the socket is ready, while it is opening.
    pub(in crate::net) fn open(&mut self) -> Opening {
        match self {
            Self::Plain(_) => Opening::Pending,
            Self::Tls(stream) => stream.open().unwrap_or_else(|reason| match TlsFault::of(&reason) {
                Some(fault) => Opening::Failed(fault),
                None if reason.kind() == io::ErrorKind::WouldBlock => Opening::Pending,
                None => Opening::Gone,
            }),
        }
    }

    pub(in crate::net) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(space),
            Self::Tls(stream) => match stream.session.read(&mut stream.tcp, space) {
                Err(reason) if TlsFault::of(&reason) == Some(TlsFault::CutShort) => Ok(0),
                read => read,
            },
        }
    }

    /// Whether the last read stopped before the socket was empty.
    pub(in crate::net) fn take_cut(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.session.take_cut(),
        }
    }

    pub(in crate::net) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(stream) => stream.session.write(&mut stream.tcp, bytes),
        }
    }

    /// Writes what was taken and did not fit.
    pub(in crate::net) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.session.flush(&mut stream.tcp),
        }
    }

    /// Says that nothing more comes, as far as that can be said at once.
    pub(in crate::net) fn finish(&mut self) {
        if let Self::Tls(stream) = self {
            // The peer finds the stream closed in any case.
            drop(stream.session.finish(&mut stream.tcp));
        }
    }
}

impl TlsStream {
    fn open(&mut self) -> io::Result<Opening> {
        let Self { tcp, session } = self;
        // Who dials speaks first.
        session.flush_some(tcp)?;
        refuse_plain(tcp, session)?;
        session.agree(tcp)?;
        session.told(tcp).map(Opening::Done)
    }
}

/// A node that does not speak TLS says so with its first byte, and is told in the same language.
fn refuse_plain(tcp: &mut TcpStream, session: &TlsConnection) -> io::Result<()> {
    let mut first = [0];
    if !session.is_untouched() || tcp.peek(&mut first)? == 0 || first != *b"A" {
        return Ok(());
    }
    if session.is_server() {
        // What is left unread would have the peer hear of a reset before it hears why. Neither is certain.
        drop(tcp.read(&mut [0; 4096]));
        drop(tcp.write(&Refusal::Tls(TlsFault::OneSided).message()));
    }
    Err(io::Error::other(TlsFault::OneSided))
}

/// More than the core has in its buffer for one connection, so that TLS takes it at once.
const WRITE_BYTES_MAX: usize = 512 * 1024;
