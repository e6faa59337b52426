//! Sockets and child processes of actors, as messages: what happens to one is told by a constructor of the
//! actor's own.
//!
//! The loop owns the descriptors. An actor knows a [`Conn`] or a [`Udp`], and says what it wants by the verbs of
//! `verbs.rs`; `table.rs` serves who is ready, each within a share, before the actors have their turns, and writes
//! what they wrote after that.
//!
//! Invariant: a socket is told of in order, and its end last and once; nothing is read for an actor whose mailbox
//! is full; what an actor wrote is bounded; a socket ends with its actor, unless it is being closed in good order.

#[cfg(unix)]
mod child;
mod cx_methods;
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

pub use endpoint::{Endpoint, Host};
pub use error::SocketError;
pub use framing::Framing;
pub use layer::{Duplex, Layer, Layered};
pub use listener::is_exhausted;
pub use pending::site_of;
pub(crate) use table::{FdRole, SocketId, SocketTable};

/// A connection of an actor's, or a child process: a small number that is used once in its loop.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Conn(pub(crate) u64);

/// A UDP socket of an actor's.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Udp {
    pub(crate) id: u64,
    pub(crate) local: SocketAddr,
}

/// What happens on a connection. `Closed` is the last that is told of it, whoever closed it.
#[derive(Debug)]
#[non_exhaustive]
pub enum SocketEvent {
    /// It is there, and leads to this address; where a layer such as TLS lies over TCP, that is agreed on.
    Opened(SocketAddr),
    /// A frame of the connection's [`Framing`].
    Data(Vec<u8>),
    /// More than 1 MiB waited to be written; now it is less than 256 KiB.
    Writable,
    /// It has ended: by the peer's word or this side's `close`, after all that came before; or with an error. The
    /// errors that are not the system's are a [`SocketError`] inside, or one of the layer's.
    Closed(Option<io::Error>),
}

/// What happens to a child process. `Ended` is the last that is told of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProcessEvent {
    /// A frame of what it prints.
    Stdout(Vec<u8>),
    /// A frame of what it prints on standard error, if that was piped.
    Stderr(Vec<u8>),
    /// More than 1 MiB waited to be read by it; now it is less than 256 KiB.
    Writable,
    /// It has ended, after all that it printed; or its output broke the framing, and it was killed. The system's
    /// error if it cannot be waited for, since the program ignores SIGCHLD or waits for children by itself.
    Ended(io::Result<ExitStatus>),
}

impl fmt::Display for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Udp {
    /// Where the socket is bound.
    pub const fn local_addr(self) -> SocketAddr {
        self.local
    }
}
