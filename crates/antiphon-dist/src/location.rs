//! The locations at which nodes accept connections.

use std::fmt;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IP address and a TCP port at which a node accepts connections.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Location(SocketAddr);

antiphon_sched::wire!(Location, "location");

impl Location {
    /// The location with this address and port.
    pub const fn new(at: SocketAddr) -> Self {
        Self(at)
    }

    /// The address and port.
    pub const fn addr(self) -> SocketAddr {
        self.0
    }
}

impl From<SocketAddr> for Location {
    fn from(at: SocketAddr) -> Self {
        Self(at)
    }
}

impl FromStr for Location {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({})", self.0)
    }
}

/// The locations that a node states, adapted to this host. `via` is the address at which the node was reached, or from
/// which its datagram came. Locations with that IP address come first, since that address works; the others keep their
/// order. Link-local addresses get the interface of `via`, since the interface number of another host means nothing
/// here.
pub(crate) fn seen_from(locations: impl Iterator<Item = SocketAddr>, via: SocketAddr) -> Vec<SocketAddr> {
    let on_link = |mut at: SocketAddr| {
        if let (SocketAddr::V6(at), SocketAddr::V6(via)) = (&mut at, via)
            && at.ip().is_unicast_link_local()
        {
            at.set_scope_id(via.scope_id());
        }
        at
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = locations.map(on_link).partition(|at| at.ip() == via.ip());
    first.extend(rest);
    first
}

/// The target of a connect request: a location, or a host name with a port. Port 0 stands for all nodes on the host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum PeerAt {
    /// A location.
    Location(Location),
    /// A host name, and a TCP port. The name is resolved.
    Host(String, u16),
}

/// Options of a connect request.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerOptions {
    /// The UDP port at which a host is probed for its nodes, when no TCP port is given; `None`: the UDP port of this node.
    pub udp_port: Option<u16>,
    /// Whether the connection stays open while nothing is sent; `None`: as configured by
    /// [`Config::stream_send`](crate::Config::stream_send).
    pub stream_send: Option<bool>,
    /// Whether the peer acts as announce relay: it announces this node in its own network, which the announcements of this
    /// node do not reach, and reports the nodes there to this node. One such peer in each network is enough.
    pub broadcast: bool,
}

/// The nodes that a node ignores: the argument of [`NetCx::ignore_peers`](crate::NetCx::ignore_peers).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Ignored {
    /// Only the nodes that the configuration ignores.
    None,
    /// All nodes that are not peers yet, unless this node connects to them.
    UnknownNodes,
    /// Nodes at these addresses, in addition to those that are ignored already.
    At(Vec<IpAddr>),
}

impl From<IpAddr> for Ignored {
    fn from(ip: IpAddr) -> Self {
        Self::At(vec![ip])
    }
}

impl From<Vec<IpAddr>> for Ignored {
    fn from(these: Vec<IpAddr>) -> Self {
        Self::At(these)
    }
}

impl From<Location> for PeerAt {
    fn from(at: Location) -> Self {
        Self::Location(at)
    }
}

impl From<SocketAddr> for PeerAt {
    fn from(at: SocketAddr) -> Self {
        Self::Location(at.into())
    }
}

/// All nodes at an address.
impl From<IpAddr> for PeerAt {
    fn from(ip: IpAddr) -> Self {
        SocketAddr::new(ip, 0).into()
    }
}

/// The error for a text that is no location and no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a location or host; write `host:port`, such as `192.168.1.7:9705` or `server.example:9705`, or a \
     host alone for all nodes on it"
)]
pub struct PeerAtError {
    text: String,
}

impl FromStr for PeerAt {
    type Err = PeerAtError;

    fn from_str(text: &str) -> Result<Self, PeerAtError> {
        let location = text.parse().map(|at: SocketAddr| at.into());
        if let Ok(at) = location.or_else(|_| text.parse().map(|ip: IpAddr| ip.into())) {
            return Ok(at);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (text, Some(0)),
        };
        // A host with another colon was meant as an IP address.
        let is_host = !host.is_empty() && !host.contains([':', ' ', '/', '[', ']']);
        match port.filter(|_| is_host) {
            Some(port) => Ok(Self::Host(host.to_owned(), port)),
            None => Err(PeerAtError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for PeerAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Location(at) => at.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn peer_at_text_parses_or_shows_text() {
        let peer = |text: &str| text.parse::<PeerAt>();
        assert_eq!(peer("10.0.0.1:7"), Ok(at("10.0.0.1:7").into()));
        assert_eq!(peer("10.0.0.1"), Ok(at("10.0.0.1:0").into()));
        assert_eq!(peer("::1"), Ok(at("[::1]:0").into()));
        assert_eq!(peer("[fe80::1%3]:7"), Ok(at("[fe80::1%3]:7").into()));
        assert_eq!(peer("localhost:7"), Ok(PeerAt::Host("localhost".into(), 7)));
        assert_eq!(peer("localhost"), Ok(PeerAt::Host("localhost".into(), 0)));
        for text in
            ["", ":7", "localhost:", "localhost:x", "localhost:70000", "http://localhost:7", "1:2:3:4", "a b"]
        {
            let error = peer(text).expect_err(text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    /// The address of `via` comes first, and a link-local address gets the interface of `via`.
    #[test]
    fn seen_from_via_sorts_and_scopes_locations() {
        let stated = [at("192.168.1.2:7"), at("[fe80::2]:7"), at("203.0.113.1:7")];
        let seen = |via: &str| seen_from(stated.iter().copied(), at(via));
        assert_eq!(seen("203.0.113.1:4000"), [stated[2], stated[0], stated[1]]);
        assert_eq!(seen("10.0.0.1:4000"), stated);
        assert_eq!(seen("[fe80::9%4]:4000"), [stated[0], at("[fe80::2%4]:7"), stated[2]]);
    }
}
