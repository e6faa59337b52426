//! What goes into the core, and the one door out of it.

use std::net::SocketAddr;

use antiphon_sched::LoopRef;
use antiphon_wire::{Entropy, TlsFault};

use crate::certificates::Fingerprint;

/// A TCP connection, as core and driver call it.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What TLS tells of a connection that stands.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct OverTls {
    /// What it exports for the proofs.
    pub exporter: [u8; 32],
    /// The certificate of the other end, which has shown that it has the key.
    pub certificate: Fingerprint,
}

/// What happened outside. Bytes that arrive on a connection do not pass through here: the driver reads them
/// into [`NodeCore::space`](super::NodeCore::space).
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// The node starts: announce, dial the configured peers.
    Start,
    /// A stranger's bytes can come.
    Accepted {
        /// The answer of [`NodeCore::accept`](super::NodeCore::accept).
        conn: ConnId,
        /// What TLS tells, if the bytes come by it.
        tls: Option<OverTls>,
    },
    /// A dial of the core's has connected, with TLS if that is wanted.
    Connected {
        /// Which.
        conn: ConnId,
        /// As of `Accepted`.
        tls: Option<OverTls>,
    },
    /// TLS came to nothing, before or after the connection's first bytes; both sides know.
    TlsFailed {
        /// Which connection.
        conn: ConnId,
        /// Why.
        fault: TlsFault,
    },
    /// A dial of the core's has failed; `refused` when somebody said no, rather than nobody anything.
    DialFailed {
        /// Which.
        conn: ConnId,
        /// The host is there, and nobody listens.
        refused: bool,
    },
    /// This many bytes were read into the space of the connection.
    Received(ConnId, usize),
    /// So many bytes of what was going out are written.
    Written(ConnId, usize),
    /// The connection is gone: closed by the other side, or broken.
    Closed(ConnId),
    /// A datagram arrived.
    Datagram(SocketAddr, &'a [u8]),
    /// This process stood still for so long: silence meanwhile is nobody's fault.
    Stalled(std::time::Duration),
    /// Time has passed, or the loop has run: do what is due.
    Tick,
    /// The node ends: say goodbye.
    Leave,
}

/// What the core wants done.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Connect; answered by `Connected` or `DialFailed`.
    Dial(ConnId, SocketAddr),
    /// Write what [`NodeCore::outgoing`](super::NodeCore::outgoing) holds.
    Write(ConnId),
    /// Close, after writing what can be written at once.
    Close(ConnId),
    /// Send a datagram to an address, from the discovery port.
    Datagram(SocketAddr, Vec<u8>),
    /// Send a datagram to an address, from a port that no other node has, so that the answer comes here.
    Ask(SocketAddr, Vec<u8>),
    /// Send a datagram to the other nodes of this host, on the discovery port.
    Siblings(Vec<u8>),
    /// Send a datagram to everybody near, on the discovery port.
    Broadcast(Vec<u8>),
    /// Look a host up; answered by [`NodeCore::resolved`](super::NodeCore::resolved).
    Resolve {
        /// The number to answer with.
        query: u64,
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
}

/// What the core stands on: implemented by the driver, the simulator and tests.
pub trait Driver {
    /// The loop in which the actors live.
    fn loop_ref(&mut self) -> LoopRef<'_>;

    /// Takes what the core wants done. Must not call back.
    fn output(&mut self, output: Output);

    /// Chance for one handshake; `None` when there is none to be had.
    fn entropy(&mut self) -> Option<Entropy>;
}
