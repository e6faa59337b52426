//! The UDP sockets of discovery: for unicast datagrams, for broadcast and multicast, and for host probes.
//!
//! Several nodes of one host share the discovery port. A broadcast or multicast datagram reaches all of them; a unicast
//! datagram reaches one. So a node sends its probes from a port of its own, to which the replies come. A node that
//! receives a probe repeats it to its siblings, the other nodes of the host, by a broadcast on loopback. On loopback, a
//! socket bound to 127.0.0.1 receives no broadcast, and there is no multicast.
//!
//! Invariant: the sockets are bound to the configured address, loopback, the broadcast addresses of the two and the
//! multicast group only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket as StdSocket};

use antiphon_sched::egress;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::interfaces::{LOOPBACK_BROADCAST, ListenInterface};
use super::{UDP_FIRST, UDP_SOCKETS_MAX};
use crate::error::NodeError;

/// Datagrams read from one socket in one round.
pub(super) const READS_A_ROUND: usize = 64;
/// The receive buffer of a socket. It holds a burst of announcements; 256 tiny datagrams fill the system's default.
const BUFFER_BYTES: usize = 1 << 20;
/// The multicast group of announcements: administratively scoped (RFC 2365), sent with a TTL of 1.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 97, 110);
/// The same in IPv6: link-local, and not permanently assigned (RFC 4291, flag T).
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x616e, 0x7469);

pub(super) struct UdpSockets {
    interface: ListenInterface,
    port: u16,
    discover: bool,
    /// The sockets must be opened again, as soon as the interface allows it.
    is_outdated: bool,
    /// All sockets; the index of a socket determines its token.
    sockets: Vec<UdpSocket>,
    /// The index of the socket at the node's address and the discovery port; none without discovery.
    unicast: Option<usize>,
    /// The destinations of an announcement, with the index of the socket for each.
    announce_to: Vec<(usize, SocketAddr)>,
    /// The address that reaches all nodes of this host, with the index of its socket.
    siblings: Option<(usize, SocketAddr)>,
    /// The indices of the sockets with a port of their own, for probes, and whether each is IPv4.
    probe_sockets: Vec<(usize, bool)>,
}

impl UdpSockets {
    /// Opens the sockets of a node that listens at `interface`. Without `discover` it can only send probes and receive the
    /// replies.
    pub(super) fn open(
        interface: &ListenInterface,
        port: u16,
        discover: bool,
        registry: &Registry,
    ) -> Result<Self, NodeError> {
        let mut opened = Self {
            interface: *interface,
            port,
            discover,
            is_outdated: false,
            sockets: Vec::new(),
            unicast: None,
            announce_to: Vec::new(),
            siblings: None,
            probe_sockets: Vec::new(),
        };
        let failed = |source| NodeError::Udp { port, source };
        if discover {
            opened.listen(interface, port, registry).map_err(failed)?;
        }
        opened.open_probe_sockets(interface, registry);
        Ok(opened)
    }

    /// Opens the sockets again if the interface has changed: it was replaced, it has another network, or it was absent. Returns
    /// whether it did.
    pub(super) fn follow_interface(&mut self, registry: &Registry) -> bool {
        let interface = self.interface.now();
        self.is_outdated |= interface != self.interface;
        if !self.is_outdated {
            return false;
        }
        match Self::open(&interface, self.port, self.discover, registry) {
            Ok(opened) => {
                tracing::info!(
                    ?interface,
                    "the network interface has changed; announcements use the new one"
                );
                *self = opened;
                true
            }
            Err(reason) => {
                // The sockets of before stay. The next announcement tries again.
                tracing::debug!(%reason, "the network interface has changed, and cannot be used now");
                false
            }
        }
    }

    fn listen(&mut self, interface: &ListenInterface, port: u16, registry: &Registry) -> io::Result<()> {
        let unicast = self.add(open_shared(interface.at(port), None, interface)?, registry)?;
        self.unicast = Some(unicast);
        let on_host = SocketAddr::new(LOOPBACK_BROADCAST.into(), port);
        match (interface.ip, interface.broadcast) {
            (IpAddr::V4(_), Some(broadcast)) => {
                let all = SocketAddr::new(broadcast.into(), port);
                self.add(open_shared(all, None, interface)?, registry)?;
                self.announce_to.push((unicast, all));
            }
            (IpAddr::V4(_), None) | (IpAddr::V6(_), _) => {}
        }
        if interface.ip.is_loopback() && interface.ip.is_ipv4() {
            self.siblings = Some((unicast, on_host));
            return Ok(());
        }
        self.join_host(on_host, interface, registry);
        if interface.ip.is_loopback() {
            // ::1 has no multicast: its nodes find each other by the broadcast within the host.
            self.announce_to.extend(self.siblings);
        } else {
            self.join_group(unicast, port, interface, registry);
        }
        Ok(())
    }

    /// Opens the socket that reaches the siblings. The node works without it: a host may be without IPv4.
    fn join_host(&mut self, on_host: SocketAddr, interface: &ListenInterface, registry: &Registry) {
        match open_shared(on_host, None, interface).and_then(|socket| self.add(socket, registry)) {
            Ok(index) => self.siblings = Some((index, on_host)),
            Err(reason) => {
                tracing::warn!(%reason, "probes cannot be repeated to the other nodes of this host")
            }
        }
    }

    fn join_group(&mut self, unicast: usize, port: u16, interface: &ListenInterface, registry: &Registry) {
        let group = match interface.ip {
            IpAddr::V4(_) => SocketAddr::new(GROUP_V4.into(), port),
            IpAddr::V6(_) => SocketAddrV6::new(GROUP_V6, port, 0, interface.index).into(),
        };
        match open_shared(group, Some(group.ip()), interface).and_then(|socket| self.add(socket, registry)) {
            Ok(_) => self.announce_to.push((unicast, group)),
            Err(reason) => {
                tracing::warn!(%group, %reason, "multicast is not available; this node sends no announcements by it")
            }
        }
    }

    /// Opens the sockets for probes. A node on loopback sends them in both families, any other node in its own.
    fn open_probe_sockets(&mut self, interface: &ListenInterface, registry: &Registry) {
        let other: Option<IpAddr> = match interface.ip {
            ip if !ip.is_loopback() => None,
            IpAddr::V4(_) => Some(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V6(_) => Some(Ipv4Addr::LOCALHOST.into()),
        };
        let all = [Some(interface.at(0)), other.map(|ip| SocketAddr::new(ip, 0))];
        for at in all.into_iter().flatten() {
            match StdSocket::bind(at).and_then(|socket| self.add_probe_socket(socket, registry)) {
                Ok(index) => self.probe_sockets.push((index, at.is_ipv4())),
                Err(reason) => tracing::debug!(%at, %reason, "a socket for probes cannot be opened"),
            }
        }
    }

    fn add_probe_socket(&mut self, socket: StdSocket, registry: &Registry) -> io::Result<usize> {
        socket.set_nonblocking(true)?;
        self.add(UdpSocket::from_std(socket), registry)
    }

    fn add(&mut self, mut socket: UdpSocket, registry: &Registry) -> io::Result<usize> {
        let index = self.sockets.len();
        assert!(index < UDP_SOCKETS_MAX, "a node has more than {UDP_SOCKETS_MAX} sockets for discovery");
        registry.register(&mut socket, Token(UDP_FIRST + index), Interest::READABLE)?;
        self.sockets.push(socket);
        Ok(index)
    }

    /// Sends an announcement by broadcast and multicast.
    pub(super) fn broadcast(&self, bytes: &[u8]) {
        self.announce_to.iter().for_each(|(index, to)| self.send_from(*index, *to, bytes));
    }

    /// Sends a datagram from the discovery port.
    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        if let Some(unicast) = self.unicast {
            self.send_from(unicast, to, bytes);
        }
    }

    /// Sends a datagram to the other nodes of this host.
    pub(super) fn send_to_siblings(&self, bytes: &[u8]) {
        if let Some((index, to)) = self.siblings {
            self.send_from(index, to, bytes);
        }
    }

    /// Sends a probe from a port of this node's own.
    pub(super) fn send_probe(&self, to: SocketAddr, bytes: &[u8]) {
        match self.probe_sockets.iter().find(|(_, is_ipv4)| *is_ipv4 == to.is_ipv4()) {
            Some((index, _)) => self.send_from(*index, to, bytes),
            None => tracing::debug!(%to, "this node has no socket for probes in that address family"),
        }
    }

    fn send_from(&self, index: usize, to: SocketAddr, bytes: &[u8]) {
        if egress::allowed(&to).is_err() {
            return;
        }
        if let Err(reason) = self.sockets[index].send_to(bytes, to) {
            tracing::debug!(%to, %reason, "a datagram was not sent");
        }
    }

    /// Receives the next datagram of a socket. Returns its length and its sender.
    pub(super) fn receive(&self, index: usize, bytes: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let socket = self.sockets.get(index)?;
        // An error concerns one datagram, often one that was sent. Further datagrams may wait behind it.
        for _ in 0..READS_A_ROUND {
            match socket.recv_from(bytes) {
                Ok(received) => return Some(received),
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return None,
                Err(reason) => tracing::debug!(%reason, "a datagram was not read"),
            }
        }
        None
    }
}

/// Opens a socket at an address that other nodes of this host share. The socket joins the multicast group, if one is given.
fn open_shared(at: SocketAddr, group: Option<IpAddr>, interface: &ListenInterface) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    match interface.ip {
        IpAddr::V4(ip) if at.is_ipv4() => {
            socket.set_broadcast(true)?;
            socket.set_multicast_if_v4(&ip)?;
        }
        IpAddr::V6(_) if at.is_ipv6() => {
            socket.set_only_v6(true)?;
            socket.set_multicast_if_v6(interface.index)?;
        }
        // The loopback broadcast, of a node that listens in IPv6.
        IpAddr::V4(_) | IpAddr::V6(_) => socket.set_broadcast(true)?,
    }
    match (group, interface.ip) {
        (Some(IpAddr::V4(group)), IpAddr::V4(ip)) => socket.join_multicast_v4(&group, &ip)?,
        (Some(IpAddr::V6(group)), _) => socket.join_multicast_v6(&group, interface.index)?,
        (Some(IpAddr::V4(_)) | None, _) => {}
    }
    socket.bind(&at.into())?;
    Ok(UdpSocket::from_std(StdSocket::from(socket)))
}
