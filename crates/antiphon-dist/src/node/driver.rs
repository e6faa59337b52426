//! The inputs and outputs of the core, and the driver that performs them.
//!
//! The [`Driver`] is implemented for sockets in `net`, for the simulator and the fuzzer by `SimNode` of antiphon-sim, and by
//! tests, which record the outputs. Each driver reads the bytes of a connection into
//! [`NodeCore::space`](super::NodeCore::space), and writes those of [`NodeCore::outgoing`](super::NodeCore::outgoing). Only `net`
//! has TLS and network interfaces, and so [`Input::TlsFailed`], [`Input::Networks`] and [`Output::UseTls`].

use std::net::SocketAddr;

use antiphon_sched::LocalActors;
use antiphon_wire::{Entropy, TlsFault};

use crate::certificates::Fingerprint;
use crate::net::Tls;
use ipnet::IpNet;

/// Identifies a TCP connection between the core and the driver.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// The facts about the TLS of an established connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct OverTls {
    /// The exported keying material, which the proofs of the handshake cover.
    pub exporter: [u8; 32],
    /// The certificate of the other end, which has proven that it holds the private key.
    pub certificate: Fingerprint,
}

/// An event for the core. The bytes of a connection are not part of it: the driver reads them into
/// [`NodeCore::space`](super::NodeCore::space).
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// The node starts: the core announces it and dials the configured peers.
    Start,
    /// An accepted connection is ready for its handshake.
    Accepted {
        /// The id from [`NodeCore::accept`](super::NodeCore::accept).
        conn: ConnId,
        /// The facts about TLS, if the connection uses it.
        tls: Option<OverTls>,
    },
    /// A dial has connected, with TLS if the configuration requires it.
    Connected {
        /// The connection.
        conn: ConnId,
        /// The facts about TLS, if the connection uses it.
        tls: Option<OverTls>,
    },
    /// TLS failed, before or after the first bytes of the connection. Each side gets this event.
    TlsFailed {
        /// The connection.
        conn: ConnId,
        /// The reason.
        fault: TlsFault,
    },
    /// A dial has failed.
    DialFailed {
        /// The connection.
        conn: ConnId,
        /// The host answered that no process listens on the port. Otherwise there was no answer.
        refused: bool,
    },
    /// This many bytes were read into the space of the connection.
    Received(ConnId, usize),
    /// This many of the outgoing bytes were written.
    Written(ConnId, usize),
    /// The other side closed the connection, or it broke.
    Closed(ConnId),
    /// A datagram arrived.
    Datagram(SocketAddr, &'a [u8]),
    /// The networks of the interface that the node listens on have changed.
    Networks(Vec<IpNet>),
    /// This process was suspended for this long. The core does not count that time as silence of its peers.
    Stalled(std::time::Duration),
    /// Time has passed, or the loop has run: the core runs the timers that are due.
    Tick,
    /// The node stops: the core sends a goodbye to its peers.
    Leave,
}

/// A request of the core to its driver.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Connect. The result is `Connected` or `DialFailed`.
    Dial(ConnId, SocketAddr),
    /// Write the bytes of [`NodeCore::outgoing`](super::NodeCore::outgoing).
    Write(ConnId),
    /// Close the connection, after writing as much as the system accepts at once.
    Close(ConnId),
    /// Send a datagram to an address, from the discovery port.
    Datagram(SocketAddr, Vec<u8>),
    /// Send a datagram to an address from a port that only this node uses, so that the reply arrives at this node.
    Ask(SocketAddr, Vec<u8>),
    /// Send a datagram to the other nodes of this host, on the discovery port.
    Siblings(Vec<u8>),
    /// Broadcast a datagram on the local networks, on the discovery port.
    Broadcast(Vec<u8>),
    /// Use this TLS for all new connections.
    UseTls(Tls),
    /// Look up a host. The result goes to [`NodeCore::resolved`](super::NodeCore::resolved).
    Resolve {
        /// The number that identifies the result.
        query: u64,
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Performs the input and output of a core.
pub trait Driver {
    /// The actors of the node's loop.
    fn local(&mut self) -> LocalActors<'_>;

    /// Takes a request of the core. Must not call the core.
    fn output(&mut self, output: Output);

    /// The random numbers for one handshake, or `None` if the system has none.
    fn entropy(&mut self) -> Option<Entropy>;
}
