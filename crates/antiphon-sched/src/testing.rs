//! Helpers for tests and examples.

use std::net::{Ipv4Addr, UdpSocket};

/// Returns a UDP port that is free at the moment on 127.0.0.1, on 127.0.0.2 and on the broadcast address of
/// loopback.
///
/// # Panics
/// When the system has no free port.
pub fn free_udp_port() -> u16 {
    for _ in 0..64 {
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else { continue };
        let Ok(at) = socket.local_addr() else { continue };
        let others = [Ipv4Addr::new(127, 255, 255, 255), Ipv4Addr::new(127, 0, 0, 2)];
        if others.iter().all(|ip| UdpSocket::bind((*ip, at.port())).is_ok()) {
            return at.port();
        }
    }
    panic!("no free UDP port on loopback in 64 attempts");
}
