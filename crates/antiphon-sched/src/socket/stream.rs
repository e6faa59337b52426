//! A byte stream: a TCP connection, with a layer such as TLS or without. It is below the frames of an actor's
//! connection, and below the records of a node's.
//!
//! Invariant: after a read or write that returned `WouldBlock`, the system reports when to go on.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;

use super::edge_triggered::{EdgeTriggered, FdReadiness};
use super::egress;
use super::layer::Layered;

/// A TCP connection, with a layer such as TLS or without, that never blocks.
///
/// 1. Register [`tcp`](Self::tcp) with a poll, for reading and writing, and [note](Self::note) each report.
/// 2. Of a dialled stream, call [`connected`](Self::connected) at each report until it returns the result.
/// 3. With a layer, call [`open`](Self::open) until it returns `Ok`.
/// 4. Read until `WouldBlock`, or go on later while [`may_read`](Self::may_read). Write until `WouldBlock`, and go on
///    after the next report.
/// 5. Call [`finish`](Self::finish) before the stream is dropped.
pub struct ByteStream<L: Layered + ?Sized = dyn Layered> {
    tcp: EdgeTriggered<TcpStream>,
    layered: Option<Box<L>>,
    /// The last read would have blocked, and the system has reported nothing since.
    is_read_to_end: bool,
}

impl<L: Layered + ?Sized> ByteStream<L> {
    /// Begins to connect.
    ///
    /// # Errors
    /// The system or [`egress`] refuses.
    pub fn dial(to: SocketAddr, layered: Option<Box<L>>) -> io::Result<Self> {
        egress::allowed(&to).map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))?;
        Ok(Self { tcp: EdgeTriggered::tcp(TcpStream::connect(to)?, false), layered, is_read_to_end: false })
    }

    /// A stream of an accepted connection.
    ///
    /// # Errors
    /// The connection has ended already.
    pub fn accepted(tcp: TcpStream, layered: Option<Box<L>>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self { tcp: EdgeTriggered::tcp(tcp, true), layered, is_read_to_end: false })
    }

    /// Without a layer: from now on a read that does not fill its buffer shows that nothing is left. That saves a call of the system.
    /// Call it only if a peer that sends TCP urgent data may be kept waiting: a read ends at its mark. A layer reads in small parts,
    /// and what has arrived meanwhile belongs to the same batch.
    pub fn trust_short_reads(&mut self) {
        if self.layered.is_none() {
            self.tcp.trust_short_reads();
        }
    }

    /// The TCP connection, for its registration with a poll and for its options. Reads and writes there are not noted.
    pub fn tcp(&mut self) -> &mut TcpStream {
        self.tcp.io_mut()
    }

    /// The TCP connection below the layer.
    pub(super) fn below(&mut self) -> &mut EdgeTriggered<TcpStream> {
        &mut self.tcp
    }

    /// The layer, if there is one.
    pub fn layer(&self) -> Option<&L> {
        self.layered.as_deref()
    }

    /// Notes what the system has reported.
    pub fn note(&mut self, readiness: FdReadiness) {
        self.tcp.note(readiness);
        self.is_read_to_end &= !(readiness.readable || readiness.closed);
    }

    /// The peer of a dialled stream; `None` while it is still connecting.
    pub fn connected(&mut self) -> Option<io::Result<SocketAddr>> {
        let tcp = self.tcp();
        match tcp.take_error() {
            Ok(Some(reason)) | Err(reason) => return Some(Err(reason)),
            Ok(None) => {}
        }
        match tcp.peer_addr() {
            Ok(peer) => Some(tcp.set_nodelay(true).map(|()| peer)),
            Err(reason) if reason.kind() == io::ErrorKind::NotConnected => None,
            Err(reason) => Some(Err(reason)),
        }
    }

    /// Goes on with the negotiation of the layer; without a layer it is complete.
    ///
    /// # Errors
    /// As [`Layered::open`].
    pub fn open(&mut self) -> io::Result<()> {
        self.layered.as_mut().map_or(Ok(()), |layered| layered.open(&mut self.tcp))
    }

    /// Whether a read may return more, or end the stream.
    pub fn may_read(&self) -> bool {
        // A layer may hold bytes that TCP has no more.
        !self.is_read_to_end && (self.layered.is_some() || self.tcp.is_readable())
    }

    /// Sends the end mark of the layer, if there is a layer. May be called again.
    ///
    /// # Errors
    /// As [`Layered::finish`].
    pub fn finish(&mut self) -> io::Result<()> {
        self.layered.as_mut().map_or(Ok(()), |layered| layered.finish(&mut self.tcp))
    }

    /// The number of bytes that wait in the layer.
    pub fn unwritten(&self) -> usize {
        self.layered.as_ref().map_or(0, |layered| layered.unwritten())
    }
}

impl<L: Layered + ?Sized> Read for ByteStream<L> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.layered {
            Some(layered) => layered.read(&mut self.tcp, buffer),
            None => self.tcp.read(buffer),
        };
        let is_blocked = |reason: &io::Error| reason.kind() == io::ErrorKind::WouldBlock;
        self.is_read_to_end = result.as_ref().is_err_and(is_blocked);
        result
    }
}

impl<L: Layered + ?Sized> Write for ByteStream<L> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.layered {
            Some(layered) => layered.write(&mut self.tcp, bytes),
            None => self.tcp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.layered.as_mut().map_or(Ok(()), |layered| layered.flush(&mut self.tcp))
    }
}
