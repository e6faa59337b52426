//! TLS as the stream layer of actors' sockets.
//!
//! Invariant: those of [`TlsConnection`]. An end of the stream without a TLS close is an error here, since missing data is
//! not sent again.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use antiphon_sched::{Duplex, Endpoint, Host, Layer, Layered};
use antiphon_wire::TlsFault;

use super::Tls;
use super::connection::TlsConnection;

/// An endpoint to connect to or listen at with TLS; [`Tls::at`] creates it.
#[derive(Clone, Debug)]
pub struct TlsAt<E> {
    tls: Option<Tls>,
    endpoint: E,
}

impl<E: Endpoint> TlsAt<E> {
    /// As [`Tls::at`], for programs in which TLS is optional. With `None`, the connection has no TLS.
    pub fn new(tls: Option<&Tls>, endpoint: E) -> Self {
        Self { tls: tls.cloned(), endpoint }
    }
}

impl Tls {
    /// An endpoint to [connect](antiphon_sched::Cx::connect) to or [listen](antiphon_sched::Cx::listen) at with TLS.
    pub fn at<E: Endpoint>(&self, endpoint: E) -> TlsAt<E> {
        TlsAt::new(Some(self), endpoint)
    }
}

impl<E: Endpoint> Endpoint for TlsAt<E> {
    fn host(&self) -> io::Result<Host> {
        self.endpoint.host()
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
        match self.handshake(below) {
            // A peer without TLS most often closes the connection. The system then reports a reset, or the end of the stream.
            Err(reason) if TlsFault::of(&reason).is_none() && reason.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(%reason, "the peer closed the connection during the TLS handshake");
                Err(io::Error::other(TlsFault::Broken))
            }
            result => result,
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

/// Bytes that one write accepts, and so the bytes that may wait here besides those that wait unencrypted.
const WRITE_BYTES_MAX: usize = 64 * 1024;
