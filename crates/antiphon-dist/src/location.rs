//! Where a node can be reached.

use std::fmt;
use std::net::{AddrParseError, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IP address and a TCP port: where a node takes connections.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Location(SocketAddr);

antiphon_sched::wire!(Location, "location");

impl Location {
    /// The node at this address and port.
    pub const fn new(at: SocketAddr) -> Self {
        Self(at)
    }

    /// Address and port.
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

/// A peer as the configuration names it: a location, or a host name with a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum PeerAt {
    /// A known location.
    Location(Location),
    /// A host that must be looked up, and a TCP port.
    Host(String, u16),
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

/// A text that names no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no peer; write `host:port`, such as `192.168.1.7:9705` or `server.example:9705`")]
pub struct PeerAtError {
    text: String,
}

impl FromStr for PeerAt {
    type Err = PeerAtError;

    fn from_str(text: &str) -> Result<Self, PeerAtError> {
        if let Ok(at) = text.parse::<SocketAddr>() {
            return Ok(at.into());
        }
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() && port != 0 => Ok(Self::Host(host.to_owned(), port)),
            Some(_) | None => Err(PeerAtError { text: text.to_owned() }),
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
