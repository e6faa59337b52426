//! A connection's stream of bytes: TCP, or TLS over it.
//!
//! Invariant: whoever reads fewer bytes than there was room for has emptied the socket, since its readiness is told once,
//! or is told by [`Stream::take_cut`] that more may be there; what was taken to be written and did not fit waits here, and then nothing more is taken.

use std::io::{self, Read, Write};
use std::net::IpAddr;

use antiphon_wire::{EXPORTER_LABEL, Refusal, TlsFault};
use mio::net::TcpStream;
use rustls::Connection;

use super::Tls;
use super::judge::fault_of;
use crate::certificates::Fingerprint;
use crate::node::OverTls;

/// A stream of bytes in both directions.
pub(in crate::net) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// TLS over TCP.
pub(in crate::net) struct TlsStream {
    tcp: TcpStream,
    tls: Connection,
    /// Bytes that the peer may still send until TLS is agreed on; `None` when it is.
    budget: Option<usize>,
    /// The last read stopped for the others' sake.
    cut: bool,
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
        let mut tls = tls.map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(BUFFER_BYTES_MAX));
        Ok(Self::Tls(Box::new(TlsStream { tcp, tls, budget: Some(HANDSHAKE_BYTES_MAX), cut: false })))
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
            Self::Tls(stream) => stream.budget.is_some(),
        }
    }

    /// Agrees on TLS, as far as the peer has come. To be called when the socket is ready, while it is opening.
    pub(in crate::net) fn open(&mut self) -> Opening {
        match self {
            Self::Plain(_) => Opening::Pending,
            Self::Tls(stream) => stream.open().unwrap_or_else(|why| match fault_in(&why) {
                Some(fault) => Opening::Failed(fault),
                None if why.kind() == io::ErrorKind::WouldBlock => Opening::Pending,
                None => Opening::Gone,
            }),
        }
    }

    pub(in crate::net) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(space),
            Self::Tls(stream) => stream.read(space),
        }
    }

    /// Whether the last read stopped before the socket was empty: records without content could go on for ever.
    pub(in crate::net) fn take_cut(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => std::mem::take(&mut stream.cut),
        }
    }

    pub(in crate::net) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Writes what was taken and did not fit.
    pub(in crate::net) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// Says that nothing more comes, as far as that can be said at once.
    pub(in crate::net) fn finish(&mut self) {
        if let Self::Tls(stream) = self {
            stream.tls.send_close_notify();
            // The peer finds the stream closed in any case.
            drop(stream.flush());
        }
    }
}

/// Why TLS failed, if that is what an error of a stream is about.
pub(in crate::net) fn fault_in(why: &io::Error) -> Option<TlsFault> {
    why.get_ref()?.downcast_ref().copied()
}

impl TlsStream {
    fn open(&mut self) -> io::Result<Opening> {
        loop {
            self.flush_some()?;
            if !self.tls.is_handshaking() {
                self.budget = None;
                return self.told().map(Opening::Done).map_err(|why| self.fail(&why));
            }
            self.refuse_plain()?;
            let count = self.receive()?;
            let left = self.budget.and_then(|budget| budget.checked_sub(count));
            match left {
                Some(_) if count == 0 => return Ok(Opening::Gone),
                Some(_) => self.budget = left,
                None => return Err(io::Error::other(TlsFault::Broken)),
            }
        }
    }

    /// What TLS tells the core.
    fn told(&mut self) -> Result<OverTls, rustls::Error> {
        let presented = self.tls.peer_certificates().and_then(|chain| chain.first());
        let certificate = presented.map(|own| Fingerprint::of(own));
        let certificate = certificate.ok_or(rustls::Error::NoCertificatesPresented)?;
        let exporter = self.tls.export_keying_material([0; 32], EXPORTER_LABEL, None)?;
        Ok(OverTls { exporter, certificate })
    }

    /// A peer that does not speak TLS says so with its first byte, and is told in the same language.
    fn refuse_plain(&mut self) -> io::Result<()> {
        let mut first = [0];
        if self.budget != Some(HANDSHAKE_BYTES_MAX) || self.tcp.peek(&mut first)? == 0 || first != *b"A" {
            return Ok(());
        }
        if matches!(self.tls, Connection::Server(_)) {
            // What is left unread would have the peer hear of a reset before it hears why. Neither is certain.
            drop(self.tcp.read(&mut [0; 4096]));
            drop(self.tcp.write(&Refusal::Tls(TlsFault::OneSided).message()));
        }
        Err(io::Error::other(TlsFault::OneSided))
    }

    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let (mut filled, mut received) = (0, 0);
        while filled < space.len() {
            match self.tls.reader().read(&mut space[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    continue;
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                // The end of the stream without a word: what is missing is sent again on the next one.
                Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(why) => return Err(why),
            }
            if received >= RECEIVED_AT_ONCE {
                self.cut = true;
                break;
            }
            match self.receive() {
                Ok(count) => received += count,
                Err(why) if filled > 0 && fault_in(&why).is_none() => break,
                Err(why) => return Err(why),
            }
        }
        // What TLS itself has to answer. What was read counts, whether or not anybody hears the answer.
        match self.flush_some() {
            Err(why) if filled == 0 => Err(why),
            // Not the end, which is what no bytes would mean.
            Ok(()) if filled == 0 && self.cut => Err(io::ErrorKind::WouldBlock.into()),
            Ok(()) | Err(_) => Ok(filled),
        }
    }

    /// Reads once from the socket, and opens what has arrived.
    fn receive(&mut self) -> io::Result<usize> {
        let count = loop {
            match self.tls.read_tls(&mut self.tcp) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        match self.tls.process_new_packets() {
            Ok(_) => Ok(count),
            Err(why) => Err(self.fail(&why)),
        }
    }

    /// Tells the peer of a failure, as far as that can be done at once.
    fn fail(&mut self, why: &rustls::Error) -> io::Error {
        let fault = fault_of(why);
        tracing::debug!(%why, "TLS failed");
        drop(self.flush());
        io::Error::other(fault)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let count = self.tls.writer().write(bytes)?;
        self.flush_some()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    /// As `flush`; what does not fit goes when the socket says that it is writable.
    fn flush_some(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }
}

/// More than the core has in its buffer for one connection, so that TLS takes it at once.
const BUFFER_BYTES_MAX: usize = 512 * 1024;
/// Read from the socket before the others have their turn, whatever it holds: enough to fill any space with full records.
const RECEIVED_AT_ONCE: usize = 256 * 1024;
/// What a peer may send until TLS is agreed on: a chain of certificates, and little more.
const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;
