//! The endpoints to connect to or listen at, before names are looked up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::rc::Rc;

use super::layer::Layer;

/// Where to connect to or listen: the types that the standard library accepts for it. A thread of the blocking pool
/// looks names up; the loop itself never does.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an address to connect to or listen at",
    note = "write \"127.0.0.1:1234\", (\"localhost\", 1234), or a `SocketAddr`"
)]
pub trait Endpoint {
    /// The addresses, or the name and port.
    ///
    /// # Errors
    /// The text has no host or no valid port.
    fn host(&self) -> io::Result<Host>;

    /// The layer between TCP and the frames; none by default.
    fn layer(&self) -> Option<Rc<dyn Layer>> {
        None
    }
}

/// The host of an [`Endpoint`], before a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Addresses, which are tried one after the other.
    Addrs(Vec<SocketAddr>),
    /// A name and a port.
    Name(String, u16),
}

impl Endpoint for SocketAddr {
    fn host(&self) -> io::Result<Host> {
        Ok(Host::Addrs(vec![*self]))
    }
}

impl Endpoint for [SocketAddr] {
    fn host(&self) -> io::Result<Host> {
        Ok(Host::Addrs(self.to_vec()))
    }
}

impl Endpoint for str {
    fn host(&self) -> io::Result<Host> {
        if let Ok(addr) = self.parse::<SocketAddr>() {
            return addr.host();
        }
        let parts = self.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() => (host, port).host(),
            Some(_) | None => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{self:?} is not `host:port`, such as 127.0.0.1:1234"),
            )),
        }
    }
}

impl Endpoint for (&str, u16) {
    fn host(&self) -> io::Result<Host> {
        let (host, port) = *self;
        if host == "localhost" {
            let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Ok(Host::Addrs(both.map(|ip| (ip, port).into()).to_vec()));
        }
        Ok(match host.parse::<IpAddr>() {
            Ok(ip) => Host::Addrs(vec![(ip, port).into()]),
            Err(_) => Host::Name(host.to_owned(), port),
        })
    }
}

impl Endpoint for String {
    fn host(&self) -> io::Result<Host> {
        self.as_str().host()
    }
}

impl Endpoint for (String, u16) {
    fn host(&self) -> io::Result<Host> {
        (self.0.as_str(), self.1).host()
    }
}

impl<T: Endpoint + ?Sized> Endpoint for &T {
    fn host(&self) -> io::Result<Host> {
        (**self).host()
    }

    fn layer(&self) -> Option<Rc<dyn Layer>> {
        (**self).layer()
    }
}

macro_rules! into_addr {
    ($($kind:ty),*) => {$(
        impl Endpoint for $kind {
            fn host(&self) -> io::Result<Host> {
                SocketAddr::from(*self).host()
            }
        }
    )*};
}

into_addr!(SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_only_names_need_lookup() {
        let addr = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let addrs = |texts: &[&str]| Host::Addrs(texts.iter().map(|text| addr(text)).collect());
        let is = |endpoint: &dyn Endpoint, host: Host| assert_eq!(endpoint.host().ok(), Some(host));
        is(&"127.0.0.1:80", addrs(&["127.0.0.1:80"]));
        is(&"[::1]:80", addrs(&["[::1]:80"]));
        is(&("::1", 80), addrs(&["[::1]:80"]));
        is(&"localhost:80", addrs(&["127.0.0.1:80", "[::1]:80"]));
        is(&(Ipv4Addr::LOCALHOST, 1), addrs(&["127.0.0.1:1"]));
        is(&"example.com:80".to_owned(), Host::Name("example.com".into(), 80));
        for bad in ["", "example.com", ":80", "host:port", "host:99999"] {
            let kind = bad.host().err().map(|reason| reason.kind());
            assert_eq!(kind, Some(io::ErrorKind::InvalidInput), "{bad}");
        }
    }
}
