//! Attackers that have the secret, and that TLS refuses.

use std::io::Write;
use std::time::Instant;

use antiphon_dist::{Limits, TlsFault};
use antiphon_sched::secs;

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::caller::{connect, exchange, read_to_close};
use crate::common::certs::Certs;
use crate::common::{Net, bare_tls};
use crate::victim::VictimOptions;

fn attack(certs: &Certs) -> AttackTest {
    let tls = Some(certs.node("shared").both);
    AttackTest::on(Net { udp_port: 0, tls, ..Net::new() }, VictimOptions::default())
}

/// Both sides refuse the man in the middle.
pub(crate) fn tls_middle_with_other_certificate_is_refused() {
    let certs = Certs::new();
    let mut attack = attack(&certs);
    let other = certs.node("middle");
    let relay = bare_tls::relay(&other, attack.victim.location.addr());
    let dialler = attack.net.static_node("dialler", &[relay.into()]);
    dialler.wait_for_counts("several refusals", |counts| counts.refused_handshakes >= 3);
    dialler.log.wait_for(&format!("refused the peer: {}", TlsFault::Untrusted));
    assert_eq!(dialler.counts().peers, 0);
    for _ in 0..10 {
        bare_tls::refused_dial(attack.victim.location.addr(), Some(&other));
        bare_tls::refused_dial(attack.victim.location.addr(), None);
    }
    attack.victim.wait_for_count("refused_handshakes", 20);
    attack.victim.has_logged_once(&TlsFault::Untrusted.to_string());
    attack.victim.has_logged_once(&TlsFault::Missing.to_string());
    attack.end("a man in the middle of TLS", bounds::pending_connections(&Limits::default(), true));
}

pub(crate) fn tls_unfinished_handshakes_stay_within_their_buffers() {
    let certs = Certs::new();
    let mut attack = attack(&certs);
    let at = attack.victim.location.addr();
    let flight = bare_tls::first_flight();
    // A record whose length exceeds that of TLS; then records that are incomplete, one after another.
    let mut endless = b"\x16\x03\x01\xff\xff".to_vec();
    endless.resize(16 << 20, 0x55);
    let mut many = flight[..flight.len() - 1].to_vec();
    many.resize(16 << 20, 0x16);
    for bytes in [&endless, &many] {
        (0..3).for_each(|_| drop(exchange(at, bytes)));
    }
    let begun = Instant::now();
    let mut crowd: Vec<_> = (0..300).map(|_| connect(at)).collect();
    // The node replies to a complete first flight, and waits for the next one.
    crowd.retain_mut(|stream| stream.write_all(&flight).is_ok());
    attack.connect_new_peer();
    for stream in &mut crowd {
        read_to_close(stream);
    }
    assert!(begun.elapsed() < secs(15), "the last was closed after {:?}", begun.elapsed());
    attack.victim.wait_for_count("refused_handshakes", 300);
    attack.victim.has_logged_once("its handshake timed out");
    attack.end("TLS that is begun", bounds::pending_connections(&Limits::default(), true));
}
