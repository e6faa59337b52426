//! The stream below a connection's frames: a TCP socket, and its layer if there is one.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::Interest;
use mio::net::TcpStream;

use super::layer::{Layer, Layered};
use super::table::{FdRole, SocketCx, SocketId, watch_fd};
use crate::event_loop::Source;
use crate::scheduler::Core;
use crate::socket::egress;

const READ_WRITE: Interest = Interest::READABLE.add(Interest::WRITABLE);

pub(super) struct Stream {
    pub(super) socket: TcpStream,
    source: Source,
    layered: Option<Box<dyn Layered>>,
}

impl Stream {
    pub(super) fn dial(cx: &mut SocketCx<'_>, addr: SocketAddr) -> io::Result<Self> {
        egress::allowed(&addr).map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))?;
        let mut socket = TcpStream::connect(addr)?;
        let source = watch_fd(cx.core, (cx.id, FdRole::Main), &mut socket, READ_WRITE)?;
        Ok(Self { socket, source, layered: None })
    }

    pub(super) fn accepted(
        core: &mut Core,
        id: SocketId,
        mut socket: TcpStream,
        layer: Option<&dyn Layer>,
    ) -> io::Result<Self> {
        let layered = layer.map(Layer::accepted).transpose()?;
        socket.set_nodelay(true)?;
        let source = watch_fd(core, (id, FdRole::Main), &mut socket, READ_WRITE)?;
        Ok(Self { socket, source, layered })
    }

    /// The peer of a dialled stream; `None` while it is still connecting.
    pub(super) fn connected(&self) -> Option<io::Result<SocketAddr>> {
        match self.socket.take_error() {
            Ok(Some(reason)) | Err(reason) => return Some(Err(reason)),
            Ok(None) => {}
        }
        match self.socket.peer_addr() {
            Ok(peer) => Some(self.socket.set_nodelay(true).map(|()| peer)),
            Err(reason) if reason.kind() == io::ErrorKind::NotConnected => None,
            Err(reason) => Some(Err(reason)),
        }
    }

    /// Adds a layer to a dialled stream that has connected.
    pub(super) fn add_layer(&mut self, layer: &dyn Layer, to: SocketAddr) -> io::Result<()> {
        self.layered = Some(layer.dialled(to.ip())?);
        Ok(())
    }

    /// Goes on with the negotiation of the layer; `WouldBlock` until it is complete.
    pub(super) fn open(&mut self) -> io::Result<()> {
        self.layered.as_mut().map_or(Ok(()), |layered| layered.open(&mut self.socket))
    }

    /// Sends the end mark of the layer, if there is a layer. May be called again.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.layered.as_mut().map_or(Ok(()), |layered| layered.finish(&mut self.socket))
    }

    pub(super) fn unwritten(&self) -> usize {
        self.layered.as_ref().map_or(0, |layered| layered.unwritten())
    }

    pub(super) fn release(mut self, core: &mut Core) {
        core.readiness_mut().deregister_socket(self.source, &mut self.socket);
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.layered {
            Some(layered) => layered.read(&mut self.socket, buffer),
            None => self.socket.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.layered {
            Some(layered) => layered.write(&mut self.socket, bytes),
            None => self.socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.layered.as_mut().map_or(Ok(()), |layered| layered.flush(&mut self.socket))
    }
}
