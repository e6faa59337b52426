//! The network interfaces of this machine: the broadcast address, the interface number and the networks of a node's
//! address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use if_addrs::{IfAddr, Interface};
use ipnet::IpNet;

/// The address on which a node listens, with the data of its interface.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct ListenInterface {
    pub(super) ip: IpAddr,
    scope_id: u32,
    /// The number of the interface; 0 when no interface has the address, or the system does not report the number.
    pub(super) index: u32,
    /// The broadcast address of its network; none in IPv6, or for a network of one or two addresses.
    pub(super) broadcast: Option<Ipv4Addr>,
}

impl ListenInterface {
    /// The interface with the address `ip`. Several may have the same link-local address; `scope_id` selects one.
    pub(super) fn of(ip: IpAddr, scope_id: u32) -> Self {
        if ip.is_loopback() {
            return Self { ip, scope_id, index: 0, broadcast: Some(LOOPBACK_BROADCAST) };
        }
        let matches = |interface: &Interface| {
            interface.ip() == ip && (scope_id == 0 || interface.index == Some(scope_id))
        };
        let found = interfaces().into_iter().find(matches);
        let index = found.as_ref().and_then(|interface| interface.index).unwrap_or(scope_id);
        let broadcast = found.and_then(|interface| match interface.addr {
            IfAddr::V4(addr) => broadcast_of(addr.ip, addr.netmask, addr.prefixlen, addr.broadcast),
            IfAddr::V6(_) => None,
        });
        Self { ip, scope_id, index, broadcast }
    }

    /// The interface that has the address now.
    pub(super) fn now(&self) -> Self {
        Self::of(self.ip, self.scope_id)
    }

    /// The address with a port. A link-local address also gets the number of its interface, which it needs.
    pub(super) fn at(&self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, self.index).into(),
            ip => SocketAddr::new(ip, port),
        }
    }
}

/// The broadcast address of a network; a network of one or two addresses has none. If no broadcast address was set, the
/// system reports the address of the interface itself. It receives at the default broadcast address then.
fn broadcast_of(ip: Ipv4Addr, netmask: Ipv4Addr, bits: u8, reported: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let default = (bits <= 30).then_some(ip | !netmask);
    let is_set = |reported: &Ipv4Addr| *reported != ip && !reported.is_unspecified();
    default.map(|default| reported.filter(is_set).unwrap_or(default))
}

/// The broadcast address of loopback, which reaches all listening nodes of this host and no other host.
pub(super) const LOOPBACK_BROADCAST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);

/// The networks of the interfaces on which a node at `ip` listens. By default, the node dials locations inside these
/// networks when it receives them from other nodes.
pub(super) fn own_networks(ip: IpAddr) -> Vec<IpNet> {
    if ip.is_loopback() {
        return vec![
            IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), 8),
            IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
        ];
    }
    let networks = interfaces().into_iter().filter(|interface| interface.ip() == ip);
    networks
        .filter_map(|interface| match interface.addr {
            IfAddr::V4(addr) => IpNet::new(addr.ip.into(), addr.prefixlen).ok(),
            IfAddr::V6(addr) => IpNet::new(addr.ip.into(), addr.prefixlen).ok(),
        })
        .collect()
}

fn interfaces() -> Vec<Interface> {
    if_addrs::get_if_addrs().unwrap_or_else(|reason| {
        tracing::warn!(%reason, "the network interfaces of this machine cannot be listed");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_broadcast_unset_uses_default() {
        let (ip, mask) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(255, 255, 255, 0));
        let (default, other) = (Ipv4Addr::new(10, 1, 0, 255), Ipv4Addr::new(10, 1, 0, 7));
        let unspecified = Ipv4Addr::UNSPECIFIED;
        for (reported, broadcast) in
            [(None, default), (Some(ip), default), (Some(unspecified), default), (Some(other), other)]
        {
            assert_eq!(broadcast_of(ip, mask, 24, reported), Some(broadcast), "{reported:?}");
        }
        assert_eq!(broadcast_of(ip, Ipv4Addr::BROADCAST, 32, None), None);
    }

    #[test]
    fn link_local_address_keeps_its_interface() {
        let loopback = ListenInterface::of(Ipv4Addr::LOCALHOST.into(), 0);
        assert_eq!(loopback.broadcast, Some(LOOPBACK_BROADCAST));
        assert_eq!(loopback.at(7).to_string(), "127.0.0.1:7");
        let link_local =
            ListenInterface { index: 3, ..ListenInterface::of("fe80::1".parse().expect("an address"), 0) };
        assert_eq!(link_local.at(7).to_string(), "[fe80::1%3]:7");
        let global = ListenInterface {
            index: 3,
            ..ListenInterface::of("2001:db8::1".parse().expect("an address"), 0)
        };
        assert_eq!(global.at(7).to_string(), "[2001:db8::1]:7");
    }
}
