//! The pending connections of a listener: their layer is not negotiated yet, and the actor does not know of them.
//!
//! Invariants: a listener has at most `PENDING_MAX` of them. Each one opens, fails, or is evicted. They end with their
//! listener.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::table::SocketId;

/// Pending connections of one listener at a time.
const PENDING_MAX: usize = 64;

/// The pending connections of one listener. Ids grow, so the first is the oldest.
#[derive(Default)]
pub(super) struct PendingConns(BTreeMap<SocketId, IpAddr>);

impl PendingConns {
    pub(super) fn insert(&mut self, id: SocketId, from: IpAddr) {
        self.0.insert(id, site_of(from));
    }

    pub(super) fn remove(&mut self, id: SocketId) {
        self.0.remove(&id);
    }

    /// Removes and returns one connection if there are more than `PENDING_MAX`: the oldest of the address that has
    /// the most. So an address with many connections evicts its own before those of other addresses.
    pub(super) fn take_surplus(&mut self) -> Option<SocketId> {
        if self.0.len() <= PENDING_MAX {
            return None;
        }
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        self.0.values().for_each(|from| *counts.entry(*from).or_default() += 1);
        let rank = |(id, from): &(&SocketId, &IpAddr)| (Reverse(counts.get(*from).copied()), **id);
        let oldest = self.0.iter().min_by_key(rank).map(|(id, _)| *id)?;
        self.0.remove(&oldest);
        Some(oldest)
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = SocketId> + use<> {
        std::mem::take(&mut self.0).into_keys()
    }
}

/// The network that one owner of this address controls: for IPv6 the first 64 bits, for IPv4 the address itself.
pub fn site_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => std::net::Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_surplus_evicts_oldest_of_busiest_address() {
        let (one, many) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let mut pending = PendingConns::default();
        pending.insert(SocketId(0), one);
        for id in 1..PENDING_MAX as u64 {
            pending.insert(SocketId(id), many);
        }
        assert_eq!(pending.take_surplus(), None);
        for id in 64..200 {
            pending.insert(SocketId(id), many);
            assert_eq!(pending.take_surplus(), Some(SocketId(id - 63)));
        }
        pending.insert(SocketId(200), one);
        assert_eq!(
            pending.take_surplus(),
            Some(SocketId(137)),
            "the busiest address, although the other has the oldest connection"
        );
        assert_eq!(pending.take_all().count(), PENDING_MAX);
    }

    #[test]
    fn pending_addresses_of_ipv6_network_count_together() {
        let mut pending = PendingConns::default();
        pending.insert(SocketId(0), "2001:db8::1".parse().expect("an address"));
        for id in 1..=PENDING_MAX as u16 {
            pending.insert(SocketId(id.into()), [0x2001, 0xdb8, 0, 1, 0, 0, 0, id].into());
        }
        assert_eq!(pending.take_surplus(), Some(SocketId(1)));
    }

    #[test]
    fn pending_equal_counts_evict_oldest() {
        let mut pending = PendingConns::default();
        for id in 0..=PENDING_MAX as u8 {
            pending.insert(SocketId(id.into()), [127, 0, 0, id].into());
        }
        assert_eq!(pending.take_surplus(), Some(SocketId(0)));
    }
}
