//! The one question that every socket of every crate asks before it sends, dials or looks a name up.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use thiserror::Error;

/// The environment variable that keeps a process on this machine: `1` refuses all but loopback.
pub const LOOPBACK_ONLY: &str = "ANTIPHON_LOOPBACK_ONLY";

/// An address or name that this process must not contact.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{what} is not on loopback, and {LOOPBACK_ONLY}=1 keeps this process there; unset it to leave this machine"
)]
pub struct EgressError {
    what: String,
}

fn is_confined() -> bool {
    static CONFINED: OnceLock<bool> = OnceLock::new();
    *CONFINED.get_or_init(|| std::env::var(LOOPBACK_ONLY).is_ok_and(|value| value.trim() == "1"))
}

/// Whether this process may contact `addr`.
///
/// # Errors
/// It is confined to loopback (127.0.0.0/8, ::1), and `addr` is elsewhere. The refusal is logged.
pub fn allowed(addr: &SocketAddr) -> Result<(), EgressError> {
    check(is_confined(), is_loopback(addr.ip()), addr)
}

/// Whether this process may look up `host`.
///
/// # Errors
/// It is confined to loopback, and `host` is not `localhost` nor an address of loopback.
pub fn allowed_name(host: &str) -> Result<(), EgressError> {
    let local = host == "localhost" || host.parse().is_ok_and(is_loopback);
    check(is_confined(), local, &host)
}

fn check(confined: bool, local: bool, what: &dyn std::fmt::Display) -> Result<(), EgressError> {
    if !confined || local {
        return Ok(());
    }
    let error = EgressError { what: what.to_string() };
    tracing::error!(%error, "refused");
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
    fn confined_to_loopback_nothing_else_passes() {
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
            assert_eq!(check(true, is_loopback(ip), &ip).is_ok(), local);
            assert!(check(false, is_loopback(ip), &ip).is_ok());
        }
    }
}
