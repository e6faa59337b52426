//! What may lie between TCP and a connection's frames, TLS above all: this crate knows only when to call it.
//!
//! Invariant: a layer does no input or output but through the stream that it is handed, and never waits: what that
//! stream cannot do at once, it answers with [`WouldBlock`](io::ErrorKind::WouldBlock), and is called again.
//! Nothing catches its panics: it is no code of an actor's.

use std::io::{self, Read, Write};
use std::net::IpAddr;

/// The stream below a layer, which never blocks.
pub trait Duplex: Read + Write {}

impl<T: Read + Write + ?Sized> Duplex for T {}

/// Makes the layers of single connections. An [`Endpoint`](crate::Endpoint) brings it.
pub trait Layer {
    /// The layer of a connection that leads to `to`.
    ///
    /// # Errors
    /// It cannot be made, which ends the connection.
    fn dialled(&self, to: IpAddr) -> io::Result<Box<dyn Layered>>;

    /// The layer of a connection that was accepted.
    ///
    /// # Errors
    /// It cannot be made, which ends the connection.
    fn accepted(&self) -> io::Result<Box<dyn Layered>>;
}

/// The layer of one connection.
pub trait Layered {
    /// Agrees with the peer, as far as both have come; `Ok` when it is agreed on, also if that is asked again. Bounds what it
    /// keeps of a peer meanwhile; the time is the caller's to bound.
    ///
    /// # Errors
    /// `WouldBlock`: it waits for the peer. Any other: it came to nothing, and the peer was told, as far as that was possible.
    fn open(&mut self, below: &mut dyn Duplex) -> io::Result<()>;

    /// Reads what the peer has sent; 0 when it has ended in good order.
    ///
    /// # Errors
    /// `WouldBlock`: nothing is left, here nor below. `Interrupted`: it has read its share, and there may be more.
    /// `UnexpectedEof`: the peer ended without saying so. Any other: the connection is at its end, and what was read
    /// before is whole.
    fn read(&mut self, below: &mut dyn Duplex, space: &mut [u8]) -> io::Result<usize>;

    /// Takes some of `bytes`, and writes what it makes of them. What does not fit waits here: a bounded part, since
    /// nothing more is taken meanwhile.
    ///
    /// # Errors
    /// `WouldBlock`: nothing was taken. Any other: nothing will be.
    fn write(&mut self, below: &mut dyn Duplex, bytes: &[u8]) -> io::Result<usize>;

    /// Writes what waits here.
    ///
    /// # Errors
    /// `WouldBlock`: some still waits. Any other: it will for ever.
    fn flush(&mut self, below: &mut dyn Duplex) -> io::Result<()>;

    /// Tells the peer that nothing more comes, and writes what waits here. It may be asked again, and says it once.
    ///
    /// # Errors
    /// As [`Layered::flush`].
    fn finish(&mut self, below: &mut dyn Duplex) -> io::Result<()>;

    /// How many of the bytes that [`Layered::write`] took wait here.
    fn unwritten(&self) -> usize;
}
