//! Locations (IP address and port) and routes (the locations of nodes). Both borrow, when sent and when received.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::bytes::{Field, Malformed, Reader};
use crate::ids::NodeId;
use crate::limits::LOCATIONS_MAX;

/// The locations at which a node accepts connections: at most [`LOCATIONS_MAX`], best first.
///
/// IPv6 scope ids and flow labels are not sent, because they have no meaning on another host.
#[derive(Debug, Clone, Copy)]
pub enum Locations<'a> {
    /// Locations to send.
    Plain(&'a [SocketAddr]),
    /// Received locations, which are well-formed.
    Encoded(EncodedLocations<'a>),
}

/// Received locations, as well-formed bytes.
#[derive(Debug, Clone, Copy)]
pub struct EncodedLocations<'a> {
    count: u8,
    bytes: &'a [u8],
}

impl<'a> Locations<'a> {
    /// No location.
    pub const NONE: Locations<'static> = Locations::Plain(&[]);

    /// The locations, best first.
    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let (plain, encoded): (&[SocketAddr], &[u8]) = match *self {
            Locations::Plain(plain) => (plain, &[]),
            Locations::Encoded(encoded) => (&[], encoded.bytes),
        };
        let mut reader = Reader::new(encoded);
        plain.iter().copied().chain(std::iter::from_fn(move || SocketAddr::take(&mut reader).ok()))
    }

    fn count(&self) -> usize {
        match self {
            Locations::Plain(plain) => plain.len().min(LOCATIONS_MAX),
            Locations::Encoded(encoded) => encoded.count.into(),
        }
    }
}

impl PartialEq for Locations<'_> {
    fn eq(&self, other: &Locations<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a> Field<'a> for Locations<'a> {
    fn size(&self) -> usize {
        1 + self.iter().take(LOCATIONS_MAX).map(|location| location.size()).sum::<usize>()
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(self.count()).unwrap_or(u8::MAX));
        self.iter().take(LOCATIONS_MAX).for_each(|location| location.put(out));
    }

    fn take(reader: &mut Reader<'a>) -> Result<Locations<'a>, Malformed> {
        let count = u8::take(reader)?;
        if usize::from(count) > LOCATIONS_MAX {
            let limit = LOCATIONS_MAX as u64;
            return Err(Malformed::TooLarge { field: "locations", value: count.into(), limit });
        }
        let mut ahead = *reader;
        let mut length = 0;
        for _ in 0..count {
            length += SocketAddr::take(&mut ahead)?.size();
        }
        Ok(Locations::Encoded(EncodedLocations { count, bytes: reader.slice("locations", length)? }))
    }
}

/// A byte 4 or 6, the IP address in network order, the port in little endian.
impl<'a> Field<'a> for SocketAddr {
    fn size(&self) -> usize {
        match self {
            SocketAddr::V4(_) => 7,
            SocketAddr::V6(_) => 19,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        self.port().put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<SocketAddr, Malformed> {
        let ip = match u8::take(reader)? {
            4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>("IPv4 address")?)),
            6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>("IPv6 address")?)),
            value => return Err(Malformed::Unknown { field: "address family", value: value.into() }),
        };
        Ok(SocketAddr::new(ip, u16::take(reader)?))
    }
}

/// The locations of the nodes to which the addresses in a body belong, so that the receiver can dial them.
///
/// Most routes are empty.
#[derive(Debug, Clone, Copy)]
pub enum Route<'a> {
    /// A route to send.
    Plain(&'a [(NodeId, Vec<SocketAddr>)]),
    /// A received route, which is well-formed.
    Encoded(EncodedRoute<'a>),
}

/// A received route, as well-formed bytes.
#[derive(Debug, Clone, Copy)]
pub struct EncodedRoute<'a> {
    bytes: &'a [u8],
}

impl<'a> Route<'a> {
    /// A route without nodes.
    pub const NONE: Route<'static> = Route::Plain(&[]);

    /// Whether it names no node.
    #[inline]
    pub fn is_empty(&self) -> bool {
        match self {
            Route::Plain(plain) => plain.is_empty(),
            Route::Encoded(encoded) => encoded.bytes.is_empty(),
        }
    }

    /// Each node with its locations.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Locations<'a>)> + use<'a> {
        let (plain, encoded): (&[(NodeId, Vec<SocketAddr>)], &[u8]) = match *self {
            Route::Plain(plain) => (plain, &[]),
            Route::Encoded(encoded) => (&[], encoded.bytes),
        };
        let mut reader = Reader::new(encoded);
        let plain = plain.iter().map(|(node, locations)| (*node, Locations::Plain(locations)));
        plain.chain(std::iter::from_fn(move || take_route_entry(&mut reader).ok()))
    }

    fn bytes_len(&self) -> usize {
        match self {
            Route::Plain([]) => 0,
            Route::Plain(_) => self.iter().map(|(node, locations)| node.size() + locations.size()).sum(),
            Route::Encoded(encoded) => encoded.bytes.len(),
        }
    }
}

impl PartialEq for Route<'_> {
    fn eq(&self, other: &Route<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

/// The length of all entries as u16, then the entries: a node id and its locations each.
impl<'a> Field<'a> for Route<'a> {
    #[inline]
    fn size(&self) -> usize {
        2 + self.bytes_len()
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        let length = self.bytes_len();
        u16::try_from(length).expect("the caller checks `fits` before it puts a route").put(out);
        if length > 0 {
            self.iter().for_each(|(node, locations)| {
                node.put(out);
                locations.put(out);
            });
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Route<'a>, Malformed> {
        let length = u16::take(reader)?;
        let bytes = reader.slice("route", length.into())?;
        let mut ahead = Reader::new(bytes);
        while !ahead.is_empty() {
            take_route_entry(&mut ahead)?;
        }
        Ok(Route::Encoded(EncodedRoute { bytes }))
    }

    fn fits(&self) -> bool {
        u16::try_from(self.bytes_len()).is_ok()
    }
}

fn take_route_entry<'a>(reader: &mut Reader<'a>) -> Result<(NodeId, Locations<'a>), Malformed> {
    Ok((NodeId::take(reader)?, Locations::take(reader)?))
}
