//! UDP: one socket for what is meant for this node, one for what is meant for all.
//!
//! On loopback a socket bound to 127.0.0.1 hears no broadcast, so there are two. Several nodes of one host
//! share the port: a broadcast reaches all of them, a unicast datagram one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdSocket};

use antiphon_sched::egress;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::{UDP_ALL, UDP_ONE};
use crate::error::NodeError;

/// Datagrams read in one round, of one socket.
pub(super) const READS_A_ROUND: usize = 64;
/// A burst of announcements must fit; 256 tiny datagrams fill the default.
const BUFFER_BYTES: usize = 1 << 20;

pub(super) struct Discovery {
    one: UdpSocket,
    all: UdpSocket,
    everybody: SocketAddr,
}

impl Discovery {
    /// The sockets of a node that listens on `ip`; `None` where there is no broadcast (IPv6: peers are
    /// reached by location).
    pub(super) fn open(ip: IpAddr, port: u16, registry: &Registry) -> Result<Option<Self>, NodeError> {
        let IpAddr::V4(ip) = ip else { return Ok(None) };
        let failed = |source| NodeError::Udp { port, source };
        let broadcast = broadcast_of(ip);
        let mut one = shared(ip, port).map_err(failed)?;
        let mut all = shared(broadcast, port).map_err(failed)?;
        registry.register(&mut one, Token(UDP_ONE), Interest::READABLE).map_err(failed)?;
        registry.register(&mut all, Token(UDP_ALL), Interest::READABLE).map_err(failed)?;
        Ok(Some(Self { one, all, everybody: SocketAddr::new(broadcast.into(), port) }))
    }

    pub(super) fn broadcast(&self, bytes: &[u8]) {
        self.send(self.everybody, bytes);
    }

    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        if egress::allowed(&to).is_err() {
            return;
        }
        if let Err(why) = self.one.send_to(bytes, to) {
            tracing::debug!(%to, %why, "a datagram was not sent; the next one may be");
        }
    }

    pub(super) fn receive(&self, all: bool, bytes: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let socket = if all { &self.all } else { &self.one };
        // An error is about one datagram, often one that was sent; others may wait behind it.
        for _ in 0..READS_A_ROUND {
            match socket.recv_from(bytes) {
                Ok(received) => return Some(received),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return None,
                Err(why) => tracing::debug!(%why, "a datagram was not read"),
            }
        }
        None
    }
}

fn shared(ip: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_broadcast(true)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(ip.into(), port).into())?;
    Ok(UdpSocket::from_std(StdSocket::from(socket)))
}

/// The broadcast address of the network of one of this machine's addresses.
fn broadcast_of(ip: Ipv4Addr) -> Ipv4Addr {
    if ip.is_loopback() {
        return Ipv4Addr::new(127, 255, 255, 255);
    }
    let known = interfaces().into_iter().find_map(|interface| match interface.addr {
        if_addrs::IfAddr::V4(addr) if addr.ip == ip => addr.broadcast,
        if_addrs::IfAddr::V4(_) | if_addrs::IfAddr::V6(_) => None,
    });
    known.unwrap_or(Ipv4Addr::BROADCAST)
}

/// The networks of the interfaces on which a node at `ip` listens: whose locations it dials when told.
pub(super) fn own_networks(ip: IpAddr) -> Vec<(IpAddr, u8)> {
    if ip.is_loopback() {
        return vec![(Ipv4Addr::LOCALHOST.into(), 8), (std::net::Ipv6Addr::LOCALHOST.into(), 128)];
    }
    let here = |own: IpAddr| ip.is_unspecified() || own == ip;
    let networks = interfaces().into_iter().filter(|interface| here(interface.ip()));
    networks
        .map(|interface| match interface.addr {
            if_addrs::IfAddr::V4(addr) => (addr.ip.into(), addr.prefixlen),
            if_addrs::IfAddr::V6(addr) => (addr.ip.into(), addr.prefixlen),
        })
        .collect()
}

fn interfaces() -> Vec<if_addrs::Interface> {
    if_addrs::get_if_addrs().unwrap_or_else(|why| {
        tracing::warn!(%why, "the interfaces of this machine cannot be listed");
        Vec::new()
    })
}
