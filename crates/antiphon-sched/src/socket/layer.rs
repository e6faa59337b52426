//! The interface of a layer between TCP and the frames of a connection, such as TLS. This crate knows only when to
//! call it.
//!
//! Invariants: a layer does input and output only through the stream that it is passed, and it never blocks. Where
//! that stream would block, the layer returns [`WouldBlock`](io::ErrorKind::WouldBlock), and is called again later.
//! Its panics are not caught, because it is not code of an actor.

use std::io::{self, Read, Write};
use std::net::IpAddr;

/// The non-blocking stream below a layer.
pub trait Duplex: Read + Write {}

impl<T: Read + Write + ?Sized> Duplex for T {}

/// Makes the layer of each connection. It comes from an [`Endpoint`](crate::Endpoint).
pub trait Layer {
    /// Makes the layer of a connection that is dialled to `to`: before TCP connects, and for each address of an endpoint that is tried.
    ///
    /// # Errors
    /// The layer cannot be made; the next address is tried.
    fn dialled(&self, to: IpAddr) -> io::Result<Box<dyn Layered>>;

    /// Makes the layer of a connection that was accepted.
    ///
    /// # Errors
    /// The layer cannot be made, which ends the connection.
    fn accepted(&self) -> io::Result<Box<dyn Layered>>;
}

/// The layer of one connection.
pub trait Layered {
    /// Goes on with the negotiation. Returns `Ok` once it is complete, also when called again. The layer bounds the
    /// memory that a peer can use meanwhile; the caller bounds the time.
    ///
    /// # Errors
    /// `WouldBlock`: the layer waits for the peer. `Interrupted`: it has used its share, and there may be more. Any
    /// other: the negotiation failed, and the peer was informed if that was possible.
    fn open(&mut self, below: &mut dyn Duplex) -> io::Result<()>;

    /// Reads the data of the peer; 0 when the peer has ended the stream gracefully.
    ///
    /// # Errors
    /// `WouldBlock`: nothing is left to read, in the layer or below it. `Interrupted`: it has read its share, and
    /// there may be more. `UnexpectedEof`: the stream ended without the layer's end mark. Any other: the connection
    /// has ended, and all data that was read before is valid.
    fn read(&mut self, below: &mut dyn Duplex, buffer: &mut [u8]) -> io::Result<usize>;

    /// Takes some of `bytes`, and writes their encoded form. The part that does not fit below waits in the layer. It
    /// is bounded, because the layer takes nothing more meanwhile.
    ///
    /// # Errors
    /// `WouldBlock`: nothing was taken. Any other: the layer will never take bytes again.
    fn write(&mut self, below: &mut dyn Duplex, bytes: &[u8]) -> io::Result<usize>;

    /// Writes the bytes that wait in the layer.
    ///
    /// # Errors
    /// `WouldBlock`: some bytes still wait. Any other: they can never be written.
    fn flush(&mut self, below: &mut dyn Duplex) -> io::Result<()>;

    /// Sends the end mark, and writes the bytes that wait in the layer. When called again, sends no second mark.
    ///
    /// # Errors
    /// As [`Layered::flush`].
    fn finish(&mut self, below: &mut dyn Duplex) -> io::Result<()>;

    /// The number of bytes that [`Layered::write`] took and that still wait in the layer.
    fn unwritten(&self) -> usize;
}
