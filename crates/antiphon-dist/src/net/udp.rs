//! UDP: sockets for what is meant for this node, for what is meant for all, and for what this node asks.
//!
//! Several nodes of one host share the port of discovery: a broadcast or a multicast reaches all of them, a unicast
//! datagram one. So questions leave by a port of the node's own, to which the answers come; and who gets a question
//! repeats it to its siblings by a broadcast on loopback, which does not leave the host. On loopback a socket bound
//! to 127.0.0.1 hears no broadcast, and there is no multicast.
//!
//! Invariant: nothing is bound beyond the address in the configuration and loopback's broadcast.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket as StdSocket};

use antiphon_sched::egress;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::interfaces::{LOOPBACK_BROADCAST, ListenInterface};
use super::{UDP_FIRST, UDP_SOCKETS_MAX};
use crate::error::NodeError;

/// Datagrams read in one round, of one socket.
pub(super) const READS_A_ROUND: usize = 64;
/// A burst of announcements must fit; 256 tiny datagrams fill the default.
const BUFFER_BYTES: usize = 1 << 20;
/// Where nodes announce themselves: administratively scoped (RFC 2365), sent with a TTL of 1.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 97, 110);
/// Of the link, and not assigned (RFC 4291, flag T).
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x616e, 0x7469);

pub(super) struct UdpSockets {
    /// All sockets; the token of each follows from its place.
    sockets: Vec<UdpSocket>,
    /// The place of the one at the node's address and the port of discovery; none without discovery.
    one: Option<usize>,
    /// Whom an announcement goes to, and by which socket.
    everybody: Vec<(usize, SocketAddr)>,
    /// All nodes of this host, and the socket that reaches them.
    siblings: Option<(usize, SocketAddr)>,
    /// Sockets with a port of their own, for questions; one for each family that the node can ask in.
    asks: Vec<(usize, bool)>,
}

impl UdpSockets {
    /// The sockets of a node that listens near by. Without `discover` it can ask, and hears answers only.
    pub(super) fn open(
        near: &ListenInterface,
        port: u16,
        discover: bool,
        registry: &Registry,
    ) -> Result<Self, NodeError> {
        let mut opened =
            Self { sockets: Vec::new(), one: None, everybody: Vec::new(), siblings: None, asks: Vec::new() };
        let failed = |source| NodeError::Udp { port, source };
        if discover {
            opened.listen(near, port, registry).map_err(failed)?;
        }
        opened.prepare_to_ask(near, registry);
        Ok(opened)
    }

    fn listen(&mut self, near: &ListenInterface, port: u16, registry: &Registry) -> io::Result<()> {
        let one = self.add(shared(near.at(port), None, near)?, registry)?;
        self.one = Some(one);
        let on_host = SocketAddr::new(LOOPBACK_BROADCAST.into(), port);
        match (near.ip, near.broadcast) {
            (IpAddr::V4(_), Some(broadcast)) => {
                let all = SocketAddr::new(broadcast.into(), port);
                self.add(shared(all, None, near)?, registry)?;
                self.everybody.push((one, all));
            }
            (IpAddr::V4(_), None) | (IpAddr::V6(_), _) => {}
        }
        if near.ip.is_loopback() && near.ip.is_ipv4() {
            self.siblings = Some((one, on_host));
            return Ok(());
        }
        self.join_host(on_host, near, registry);
        if near.ip.is_loopback() {
            // ::1 has no multicast: its nodes find each other within the host.
            self.everybody.extend(self.siblings);
        } else {
            self.join_group(one, port, near, registry);
        }
        Ok(())
    }

    /// Siblings are a help, not a need: a host may be without IPv4.
    fn join_host(&mut self, on_host: SocketAddr, near: &ListenInterface, registry: &Registry) {
        match shared(on_host, None, near).and_then(|socket| self.add(socket, registry)) {
            Ok(place) => self.siblings = Some((place, on_host)),
            Err(reason) => tracing::warn!(%reason, "other nodes on this host cannot be told of questions"),
        }
    }

    fn join_group(&mut self, one: usize, port: u16, near: &ListenInterface, registry: &Registry) {
        let group = match near.ip {
            IpAddr::V4(_) => SocketAddr::new(GROUP_V4.into(), port),
            IpAddr::V6(_) => SocketAddrV6::new(GROUP_V6, port, 0, near.index).into(),
        };
        match shared(group, Some(group.ip()), near).and_then(|socket| self.add(socket, registry)) {
            Ok(_) => self.everybody.push((one, group)),
            Err(reason) => {
                tracing::warn!(%group, %reason, "no multicast here; peers are found by other ways")
            }
        }
    }

    /// A node on loopback asks in both families, any other in its own.
    fn prepare_to_ask(&mut self, near: &ListenInterface, registry: &Registry) {
        let other: Option<IpAddr> = match near.ip {
            ip if !ip.is_loopback() => None,
            IpAddr::V4(_) => Some(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V6(_) => Some(Ipv4Addr::LOCALHOST.into()),
        };
        let all = [Some(near.at(0)), other.map(|ip| SocketAddr::new(ip, 0))];
        for at in all.into_iter().flatten() {
            match StdSocket::bind(at).and_then(|socket| self.add_asking(socket, registry)) {
                Ok(place) => self.asks.push((place, at.is_ipv4())),
                Err(reason) => tracing::debug!(%at, %reason, "this node cannot ask from there"),
            }
        }
    }

    fn add_asking(&mut self, socket: StdSocket, registry: &Registry) -> io::Result<usize> {
        socket.set_nonblocking(true)?;
        self.add(UdpSocket::from_std(socket), registry)
    }

    fn add(&mut self, mut socket: UdpSocket, registry: &Registry) -> io::Result<usize> {
        let place = self.sockets.len();
        assert!(place < UDP_SOCKETS_MAX, "a node has few sockets for discovery");
        registry.register(&mut socket, Token(UDP_FIRST + place), Interest::READABLE)?;
        self.sockets.push(socket);
        Ok(place)
    }

    /// To everybody near.
    pub(super) fn broadcast(&self, bytes: &[u8]) {
        self.everybody.iter().for_each(|(place, to)| self.send_by(*place, *to, bytes));
    }

    /// From the port of discovery.
    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        if let Some(one) = self.one {
            self.send_by(one, to, bytes);
        }
    }

    /// To the other nodes of this host.
    pub(super) fn tell_siblings(&self, bytes: &[u8]) {
        if let Some((place, to)) = self.siblings {
            self.send_by(place, to, bytes);
        }
    }

    /// From a port of this node's own.
    pub(super) fn ask(&self, to: SocketAddr, bytes: &[u8]) {
        match self.asks.iter().find(|(_, is_ipv4)| *is_ipv4 == to.is_ipv4()) {
            Some((place, _)) => self.send_by(*place, to, bytes),
            None => tracing::debug!(%to, "this node cannot ask in that family"),
        }
    }

    fn send_by(&self, place: usize, to: SocketAddr, bytes: &[u8]) {
        if egress::allowed(&to).is_err() {
            return;
        }
        if let Err(reason) = self.sockets[place].send_to(bytes, to) {
            tracing::debug!(%to, %reason, "a datagram was not sent; the next one may be");
        }
    }

    /// The next datagram of a socket.
    pub(super) fn receive(&self, place: usize, bytes: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let socket = self.sockets.get(place)?;
        // An error is about one datagram, often one that was sent; others may wait behind it.
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

/// A socket at an address that other nodes of this host have too; member of a group, if one is named.
fn shared(at: SocketAddr, group: Option<IpAddr>, near: &ListenInterface) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    match near.ip {
        IpAddr::V4(ip) if at.is_ipv4() => {
            socket.set_broadcast(true)?;
            socket.set_multicast_if_v4(&ip)?;
        }
        IpAddr::V6(_) if at.is_ipv6() => {
            socket.set_only_v6(true)?;
            socket.set_multicast_if_v6(near.index)?;
        }
        // Loopback's broadcast, of a node in IPv6.
        IpAddr::V4(_) | IpAddr::V6(_) => socket.set_broadcast(true)?,
    }
    match (group, near.ip) {
        (Some(IpAddr::V4(group)), IpAddr::V4(ip)) => socket.join_multicast_v4(&group, &ip)?,
        (Some(IpAddr::V6(group)), _) => socket.join_multicast_v6(&group, near.index)?,
        (Some(IpAddr::V4(_)) | None, _) => {}
    }
    socket.bind(&at.into())?;
    Ok(UdpSocket::from_std(StdSocket::from(socket)))
}
