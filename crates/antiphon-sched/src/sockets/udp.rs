//! UDP sockets of actors.
//!
//! Invariant: nothing is read while the actor's mailbox is full; the system drops what comes meanwhile, as it may.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use mio::Interest;
use mio::net::UdpSocket;

use super::event_sink::EventSink;
use super::listener::bind;
use super::table::{FdReadiness, FdRole, Served, SocketGuard, SocketId, SocketKind};
use super::{Endpoint, SocketError, Udp};
use crate::core::Core;
use crate::egress;
use crate::id::Key;
use crate::readiness::Source;

/// Datagrams read at once, before the others have their turn.
const READS_A_ROUND: usize = 64;

pub(crate) struct UdpPort {
    socket: UdpSocket,
    source: Source,
    sink: Rc<dyn EventSink<(SocketAddr, Vec<u8>)>>,
    readable: bool,
}

impl Core {
    pub(crate) fn open_udp(
        &mut self,
        owner: Key,
        at: &impl Endpoint,
        sink: Rc<dyn EventSink<(SocketAddr, Vec<u8>)>>,
    ) -> io::Result<Udp> {
        self.readiness.check()?;
        if at.layer().is_some() {
            return Err(SocketError::LayerOverUdp.into());
        }
        let mut socket = bind(at, UdpSocket::bind)?;
        let local = socket.local_addr()?;
        let id = self.sockets.next_unshown();
        let source = self.watch_part(id, FdRole::Main, &mut socket, Interest::READABLE)?;
        let port = UdpPort { socket, source, sink, readable: false };
        self.insert_socket(id, owner, SocketKind::Udp(port));
        Ok(Udp { id: id.0, local })
    }

    pub(crate) fn send_udp(&mut self, owner: Key, udp: Udp, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        egress::allowed(&to).map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))?;
        match self.sockets.kind(SocketId(udp.id), owner) {
            Some(SocketKind::Udp(port)) => port.socket.send_to(data, to).map(|_| ()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no UDP socket of this actor; was it closed?")),
        }
    }

    pub(crate) fn close_udp(&mut self, owner: Key, udp: Udp) {
        self.with_own_socket(SocketId(udp.id), owner, |_, _| Served::Gone);
    }
}

impl UdpPort {
    pub(crate) fn serve(
        &mut self,
        hold: &mut SocketGuard<'_>,
        events: FdReadiness,
        space: &mut [u8],
    ) -> Served {
        let Some(owner) = hold.owner else { return Served::Gone };
        self.readable |= events.is_readable(FdRole::Main);
        for read in 0..READS_A_ROUND {
            if !self.readable {
                return Served::Rest;
            }
            if !hold.core.has_room(owner) {
                return Served::Full { fed: read > 0 };
            }
            match self.socket.recv_from(space) {
                Ok((count, from)) => self.sink.tell(hold.core, owner, (from, space[..count].to_vec())),
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                // The news of a datagram that was not taken somewhere: no end of this socket.
                Err(reason) => tracing::debug!(%reason, "a UDP socket"),
            }
        }
        Served::Again
    }

    pub(crate) fn leave(&mut self, core: &mut Core) {
        core.readiness.part_with(self.source, &mut self.socket);
    }
}
