//! The interfaces of this machine, as far as a node needs them: whom it reaches by broadcast and multicast, and which
//! networks are its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use if_addrs::{IfAddr, Interface};

/// The address on which a node listens, with what its interface says of it.
#[derive(Copy, Clone, Debug)]
pub(super) struct ListenInterface {
    pub(super) ip: IpAddr,
    /// The number of the interface; 0 when the address is on none, or the system does not tell.
    pub(super) index: u32,
    /// The broadcast address of its network; none in IPv6, or where there is nobody else.
    pub(super) broadcast: Option<Ipv4Addr>,
}

impl ListenInterface {
    /// The interface that bears `ip`; `scope_id` names it where several do, as link-local addresses may.
    pub(super) fn of(ip: IpAddr, scope_id: u32) -> Self {
        if ip.is_loopback() {
            return Self { ip, index: 0, broadcast: Some(LOOPBACK_BROADCAST) };
        }
        let bears = |interface: &Interface| {
            interface.ip() == ip && (scope_id == 0 || interface.index == Some(scope_id))
        };
        let found = interfaces().into_iter().find(bears);
        let index = found.as_ref().and_then(|interface| interface.index).unwrap_or(scope_id);
        let broadcast = found.and_then(|interface| match interface.addr {
            IfAddr::V4(addr) => broadcast_of(addr.ip, addr.netmask, addr.prefixlen, addr.broadcast),
            IfAddr::V6(_) => None,
        });
        Self { ip, index, broadcast }
    }

    /// The address with a port, and with its interface where it means nothing without.
    pub(super) fn at(&self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, self.index).into(),
            ip => SocketAddr::new(ip, port),
        }
    }
}

/// The broadcast address of a network; one of one or two addresses has none. The system tells the address itself as that
/// of an interface for which none was set, and hears the usual one then.
fn broadcast_of(ip: Ipv4Addr, netmask: Ipv4Addr, bits: u8, told: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let usual = (bits <= 30).then_some(ip | !netmask);
    usual.map(|usual| told.filter(|told| *told != ip && !told.is_unspecified()).unwrap_or(usual))
}

/// Everybody on this host who listens for it: broadcast does not leave the loopback interface.
pub(super) const LOOPBACK_BROADCAST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);

/// The networks of the interfaces on which a node at `ip` listens: whose locations it dials when told.
pub(super) fn own_networks(ip: IpAddr) -> Vec<(IpAddr, u8)> {
    if ip.is_loopback() {
        return vec![(Ipv4Addr::LOCALHOST.into(), 8), (Ipv6Addr::LOCALHOST.into(), 128)];
    }
    let networks = interfaces().into_iter().filter(|interface| interface.ip() == ip);
    networks
        .map(|interface| match interface.addr {
            IfAddr::V4(addr) => (addr.ip.into(), addr.prefixlen),
            IfAddr::V6(addr) => (addr.ip.into(), addr.prefixlen),
        })
        .collect()
}

fn interfaces() -> Vec<Interface> {
    if_addrs::get_if_addrs().unwrap_or_else(|reason| {
        tracing::warn!(%reason, "the interfaces of this machine cannot be listed");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_broadcast_that_was_set_or_the_usual_one() {
        let (ip, mask) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(255, 255, 255, 0));
        let (usual, other) = (Ipv4Addr::new(10, 1, 0, 255), Ipv4Addr::new(10, 1, 0, 7));
        for (told, broadcast) in [(None, usual), (Some(ip), usual), (Some(other), other)] {
            assert_eq!(broadcast_of(ip, mask, 24, told), Some(broadcast), "{told:?}");
        }
        assert_eq!(broadcast_of(ip, Ipv4Addr::BROADCAST, 32, None), None);
    }

    #[test]
    fn loopback_is_near_by_itself_and_a_link_local_address_keeps_its_interface() {
        let near = ListenInterface::of(Ipv4Addr::LOCALHOST.into(), 0);
        assert_eq!(near.broadcast, Some(LOOPBACK_BROADCAST));
        assert_eq!(near.at(7).to_string(), "127.0.0.1:7");
        let link_local =
            ListenInterface { ip: "fe80::1".parse().expect("an address"), index: 3, broadcast: None };
        assert_eq!(link_local.at(7).to_string(), "[fe80::1%3]:7");
        let global =
            ListenInterface { ip: "2001:db8::1".parse().expect("an address"), index: 3, broadcast: None };
        assert_eq!(global.at(7).to_string(), "[2001:db8::1]:7");
    }
}
