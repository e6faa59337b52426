//! Sockets and child processes of actors. Their events reach the actor as messages that its own constructor makes.
//!
//! The loop owns the descriptors. An actor holds a [`Conn`] or a [`Udp`], and acts on it by the methods in
//! `cx_methods.rs`. In each round `table.rs` serves the ready sockets, each within a share, before the actors run.
//! After the actors it writes the output of streams.
//!
//! Invariants:
//! - The events of a socket are delivered in order. The end of a stream is its last event, and is delivered once.
//! - Nothing is read for an actor while its mailbox is full.
//! - The bytes that an actor has written and the system has not taken are bounded.
//! - A socket ends with its actor, unless it is being closed gracefully.
//!
//! Below them is what a node's driver uses, too: [`Acceptor`] accepts connections, and a [`ByteStream`] is one, with a
//! [layer](Layer) or without.
//!
//! It owns the kind of table that holds sockets, their framing, layers and buffers.
//! Must not import: `remote`, `request`, `testing`.

mod acceptor;
#[cfg(unix)]
mod child;
mod cx_methods;
mod edge_triggered;
pub mod egress;
mod endpoint;
mod error;
mod event_sink;
mod frame_reader;
mod framing;
mod layer;
mod listener;
mod pending;
mod send_buffer;
mod stream;
mod table;
mod tcp;
mod udp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;

pub use acceptor::Acceptor;
pub use edge_triggered::FdReadiness;
pub use endpoint::{Endpoint, Host};
pub use error::SocketError;
pub use framing::Framing;
pub use layer::{Duplex, Layer, Layered};
pub use pending::site_of;
pub use stream::ByteStream;
pub(crate) use table::{FdRole, SocketId, SocketTable, Sockets};

/// Identifies a connection or a child process of an actor. Its loop never uses the number again.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Conn(u64);

/// Identifies a UDP socket of an actor.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Udp {
    id: u64,
    local: SocketAddr,
}

/// An event of a connection. `Closed` is always the last one, whichever side closed it.
#[derive(Debug)]
#[non_exhaustive]
pub enum SocketEvent {
    /// The connection to this address is open, and its layer, such as TLS, is negotiated.
    Opened(SocketAddr),
    /// A frame of the connection's [`Framing`].
    Data(Vec<u8>),
    /// More than 1 MiB waited to be written; now less than 256 KiB waits.
    Writable,
    /// The connection has ended. `None`: the peer ended it, or this side called `close`, and all earlier data was
    /// delivered. An error that is not the system's contains a [`SocketError`], or an error of the layer.
    Closed(Option<io::Error>),
}

/// An event of a child process. `Ended` is always the last one.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProcessEvent {
    /// A frame of the standard output.
    Stdout(Vec<u8>),
    /// A frame of the standard error, if that was piped.
    Stderr(Vec<u8>),
    /// More than 1 MiB waited to be written to the standard input; now less than 256 KiB waits.
    Writable,
    /// The child has exited, and all its output was delivered; or its output broke the framing, and it was
    /// killed. The system's error if the loop cannot wait for the child, because the program ignores SIGCHLD or
    /// waits for children itself.
    Ended(io::Result<ExitStatus>),
}

impl fmt::Display for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Udp {
    /// The address that the socket is bound to.
    pub const fn local_addr(self) -> SocketAddr {
        self.local
    }
}
