//! The egress check: every crate calls it before it sends to, connects to or looks up another host.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use thiserror::Error;

/// The environment variable that confines a process to loopback: `1` refuses all other addresses.
pub const LOOPBACK_ONLY: &str = "ANTIPHON_LOOPBACK_ONLY";

/// An address or name that this process must not contact.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{target} is not on loopback, and {LOOPBACK_ONLY}=1 allows only loopback; unset it to use other addresses"
)]
pub struct EgressError {
    target: String,
}

fn is_confined() -> bool {
    static CONFINED: OnceLock<bool> = OnceLock::new();
    *CONFINED.get_or_init(|| std::env::var(LOOPBACK_ONLY).is_ok_and(|value| value.trim() == "1"))
}

/// Whether this process may contact `addr`.
///
/// # Errors
/// The process is confined to loopback (127.0.0.0/8, ::1), and `addr` is another address. The refusal is logged.
pub fn allowed(addr: &SocketAddr) -> Result<(), EgressError> {
    check(is_confined(), is_loopback(addr.ip()), addr)
}

/// Whether this process may look up `host`.
///
/// # Errors
/// The process is confined to loopback, and `host` is neither `localhost` nor a loopback address. The refusal is
/// logged.
pub fn allowed_name(host: &str) -> Result<(), EgressError> {
    let local = host == "localhost" || host.parse().is_ok_and(is_loopback);
    check(is_confined(), local, &host)
}

fn check(confined: bool, local: bool, target: &dyn std::fmt::Display) -> Result<(), EgressError> {
    if !confined || local {
        return Ok(());
    }
    let error = EgressError { target: target.to_string() };
    tracing::error!(%error, "egress refused");
    Err(error)
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn egress_confined_allows_only_loopback() {
        for (ip, local) in [
            ("127.0.0.1", true),
            ("127.255.255.255", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("::ffff:8.8.8.8", false),
            ("::ffff:127.0.0.1", true),
        ] {
            let ip = ip.parse().expect("an address");
            assert_eq!(is_loopback(ip), local, "{ip}");
            let refused = EgressError { target: ip.to_string() };
            assert_eq!(check(true, is_loopback(ip), &ip), if local { Ok(()) } else { Err(refused) });
            assert_eq!(check(false, is_loopback(ip), &ip), Ok(()));
        }
    }
}
