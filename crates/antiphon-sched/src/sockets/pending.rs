//! Connections of a listener on which its layer is not agreed on: nobody has been told of them.
//!
//! Invariant: no more than `PENDING_MAX`, and each ends, is told of, or gives way; they end with their listener.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::table::SocketId;

/// Strangers of one listener at a time.
const PENDING_MAX: usize = 64;

/// The strangers of one listener. Their numbers grow, so the first is the oldest.
#[derive(Default)]
pub(super) struct PendingConns(BTreeMap<SocketId, IpAddr>);

impl PendingConns {
    pub(super) fn insert(&mut self, id: SocketId, from: IpAddr) {
        self.0.insert(id, site_of(from));
    }

    /// It is none any more.
    pub(super) fn remove(&mut self, id: SocketId) {
        self.0.remove(&id);
    }

    /// Who is to go when another has come: the oldest of the address that has most, so that many of one address keep
    /// those of others away least of all.
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

/// The network that somebody has who has this address: with one of IPv6 comes all that shares its first 64 bits.
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
    fn the_oldest_of_the_address_that_has_most_gives_way() {
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
        assert_eq!(pending.take_surplus(), Some(SocketId(137)), "not the one that is alone");
        assert_eq!(pending.take_all().count(), PENDING_MAX);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_count_as_one() {
        let mut pending = PendingConns::default();
        pending.insert(SocketId(0), "2001:db8::1".parse().expect("an address"));
        for id in 1..=PENDING_MAX as u16 {
            pending.insert(SocketId(id.into()), [0x2001, 0xdb8, 0, 1, 0, 0, 0, id].into());
        }
        assert_eq!(pending.take_surplus(), Some(SocketId(1)));
    }

    #[test]
    fn of_addresses_that_have_equally_many_the_oldest_gives_way() {
        let mut pending = PendingConns::default();
        for id in 0..=PENDING_MAX as u8 {
            pending.insert(SocketId(id.into()), [127, 0, 0, id].into());
        }
        assert_eq!(pending.take_surplus(), Some(SocketId(0)));
    }
}
