//! The endpoints of actors' sockets with TLS.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use antiphon_sched::{Endpoint, Host, Layer, Layered};

use super::Tls;

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
        Ok(self.dialled(to, WRITE_BYTES_MAX)?)
    }

    fn accepted(&self) -> io::Result<Box<dyn Layered>> {
        Ok(self.accepted(WRITE_BYTES_MAX)?)
    }
}

/// Bytes that one write accepts, and so the bytes that may wait in the layer besides those that wait unencrypted.
const WRITE_BYTES_MAX: usize = 64 * 1024;
