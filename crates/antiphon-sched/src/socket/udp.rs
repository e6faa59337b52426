//! UDP sockets of actors.
//!
//! Invariant: nothing is read while the actor's mailbox is full. The system may drop the datagrams that arrive
//! meanwhile.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use mio::Interest;
use mio::net::UdpSocket;

use super::edge_triggered::EdgeTriggered;
use super::event_sink::EventSink;
use super::listener::bind;
use super::table::{FdEvents, FdRole, Served, SocketCx, SocketId, SocketKind, Sockets, watch_fd};
use super::{Endpoint, SocketError, Udp};
use crate::event_loop::Source;
use crate::id::Key;
use crate::scheduler::Core;
use crate::socket::egress;

/// Datagrams that one socket reads a round.
const READS_PER_ROUND: usize = 64;

pub(crate) struct UdpPort {
    socket: EdgeTriggered<UdpSocket>,
    source: Source,
    sink: Rc<dyn EventSink<(SocketAddr, Vec<u8>)>>,
}

impl Sockets<'_> {
    pub(crate) fn open_udp(
        &mut self,
        owner: Key,
        at: &impl Endpoint,
        sink: Rc<dyn EventSink<(SocketAddr, Vec<u8>)>>,
    ) -> io::Result<Udp> {
        self.core.readiness_mut().check()?;
        if at.layer().is_some() {
            return Err(SocketError::LayerOverUdp.into());
        }
        let mut socket = bind(at, UdpSocket::bind)?;
        let local = socket.local_addr()?;
        let id = self.core.sockets_mut().next_internal();
        let source = watch_fd(self.core, (id, FdRole::Main), &mut socket, Interest::READABLE)?;
        let port = UdpPort { socket: EdgeTriggered::new(socket), source, sink };
        self.insert_socket(id, owner, SocketKind::Udp(port));
        Ok(Udp { id: id.0, local })
    }

    pub(crate) fn send_udp(&mut self, owner: Key, udp: Udp, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        egress::allowed(&to).map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))?;
        match self.core.sockets().kind(SocketId(udp.id), owner) {
            Some(SocketKind::Udp(port)) => port.socket.io().send_to(data, to).map(|_| ()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "this actor has no such UDP socket; it may be closed already",
            )),
        }
    }

    pub(crate) fn close_udp(&mut self, owner: Key, udp: Udp) {
        self.with_own_socket(SocketId(udp.id), owner, |_, _| Served::Ended);
    }
}

impl UdpPort {
    pub(crate) fn serve(&mut self, cx: &mut SocketCx<'_>, events: FdEvents, buffer: &mut [u8]) -> Served {
        let Some(owner) = cx.owner else { return Served::Ended };
        self.socket.note(events.of(FdRole::Main));
        for read in 0..READS_PER_ROUND {
            if !self.socket.is_readable() {
                return Served::Idle;
            }
            if !cx.core.has_room(owner) {
                return Served::Full { delivered: read > 0 };
            }
            match self.socket.try_read(|socket| socket.recv_from(buffer)) {
                Ok((count, from)) => self.sink.emit(cx.core, owner, (from, buffer[..count].to_vec())),
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return Served::Idle,
                // An ICMP error for a datagram that was sent earlier. The socket itself goes on.
                Err(reason) => tracing::debug!(%reason, "receiving on a UDP socket failed"),
            }
        }
        Served::Again
    }

    pub(crate) fn release(&mut self, core: &mut Core) {
        core.readiness_mut().deregister_socket(self.source, self.socket.io_mut());
    }
}
