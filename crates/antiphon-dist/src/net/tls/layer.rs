//! TLS on the sockets of actors.
//!
//! Invariant: that of [`TlsConnection`]; and here an end without TLS's own word is an error, since nobody sends again what is missing.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use antiphon_sched::{Duplex, Endpoint, Host, Layer, Layered};
use antiphon_wire::TlsFault;

use super::Tls;
use super::connection::TlsConnection;

/// A place to connect to or listen at by TLS: what [`Tls::at`] makes.
#[derive(Clone, Debug)]
pub struct TlsAt<E> {
    tls: Option<Tls>,
    place: E,
}

impl<E: Endpoint> TlsAt<E> {
    /// As [`Tls::at`], for programs that leave TLS to whoever runs them; `None`: the plain place.
    pub fn new(tls: Option<&Tls>, place: E) -> Self {
        Self { tls: tls.cloned(), place }
    }
}

impl Tls {
    /// A place to [connect](antiphon_sched::Cx::connect) to or [listen](antiphon_sched::Cx::listen) at by TLS.
    pub fn at<E: Endpoint>(&self, place: E) -> TlsAt<E> {
        TlsAt::new(Some(self), place)
    }
}

impl<E: Endpoint> Endpoint for TlsAt<E> {
    fn host(&self) -> io::Result<Host> {
        self.place.host()
    }

    fn layer(&self) -> Option<Rc<dyn Layer>> {
        let tls = self.tls.clone()?;
        Some(Rc::new(tls))
    }
}

impl Layer for Tls {
    fn dialled(&self, to: IpAddr) -> io::Result<Box<dyn Layered>> {
        let tls = self.dial(to).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnection::new(tls, WRITE_BYTES_MAX)))
    }

    fn accepted(&self) -> io::Result<Box<dyn Layered>> {
        let tls = self.accept().map_err(io::Error::other)?;
        Ok(Box::new(TlsConnection::new(tls, WRITE_BYTES_MAX)))
    }
}

impl Layered for TlsConnection {
    fn open(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        match self.agree(below) {
            // Whoever reads what it does not understand most often closes; the system then tells of a reset, or nothing.
            Err(reason) if TlsFault::of(&reason).is_none() && reason.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(%reason, "the peer ended while TLS was being agreed on");
                Err(io::Error::other(TlsFault::Broken))
            }
            agreed => agreed,
        }
    }

    fn read(&mut self, below: &mut dyn Duplex, space: &mut [u8]) -> io::Result<usize> {
        let read = TlsConnection::read(self, below, space);
        let would_block = matches!(&read, Err(reason) if reason.kind() == io::ErrorKind::WouldBlock);
        if self.take_cut() && would_block { Err(io::ErrorKind::Interrupted.into()) } else { read }
    }

    fn write(&mut self, below: &mut dyn Duplex, bytes: &[u8]) -> io::Result<usize> {
        TlsConnection::write(self, below, bytes)
    }

    fn flush(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        TlsConnection::flush(self, below)
    }

    fn finish(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        TlsConnection::finish(self, below)
    }

    fn unwritten(&self) -> usize {
        TlsConnection::unwritten(self)
    }
}

/// Sealed at once, and so what may wait here besides what waits in clear.
const WRITE_BYTES_MAX: usize = 64 * 1024;
