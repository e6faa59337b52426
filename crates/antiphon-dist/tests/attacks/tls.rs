//! Who is not let in by TLS, though he knows the secret.

use std::io::Write;
use std::time::Instant;

use antiphon_dist::{Limits, TlsFault};
use antiphon_sched::secs;

use crate::bounds;
use crate::caller::{connect, hear_to_the_end, say};
use crate::common::certs::Certs;
use crate::common::{Net, bare_tls};
use crate::siege::Siege;
use crate::victim::Traits;

fn siege(certs: &Certs) -> Siege {
    let tls = Some(certs.node("shared").both);
    Siege::of(Net { udp_port: 0, tls, ..Net::new() }, Traits::default())
}

#[test]
fn a_man_in_the_middle_with_another_certificate_is_refused_by_both_sides() {
    let certs = Certs::new();
    let mut siege = siege(&certs);
    let own = certs.node("middle");
    let relay = bare_tls::relay(&own, siege.victim.location.addr());
    let lured = siege.net.quiet_node("lured", &[relay.into()]);
    lured.wait_for_counts("several refusals", |counts| counts.refused_handshakes >= 3);
    lured.log.wait_for(&format!("refused the peer: {}", TlsFault::Stranger));
    assert_eq!(lured.counts().peers, 0);
    for _ in 0..10 {
        bare_tls::knock(siege.victim.location.addr(), Some(&own));
        bare_tls::knock(siege.victim.location.addr(), None);
    }
    siege.victim.wait_for_count("refused_handshakes", 20);
    siege.victim.has_logged_once(&TlsFault::Stranger.to_string());
    siege.victim.has_logged_once(&TlsFault::Missing.to_string());
    siege.end("a man in the middle of TLS", bounds::strangers(&Limits::default(), true));
}

#[test]
fn strangers_that_begin_tls_and_go_no_further_cost_no_more_than_their_buffers() {
    let certs = Certs::new();
    let mut siege = siege(&certs);
    let at = siege.victim.location.addr();
    let flight = bare_tls::first_flight();
    // A record that claims more than TLS has, and one that is never whole, again and again.
    let mut endless = b"\x16\x03\x01\xff\xff".to_vec();
    endless.resize(16 << 20, 0x55);
    let mut many = flight[..flight.len() - 1].to_vec();
    many.resize(16 << 20, 0x16);
    for bytes in [&endless, &many] {
        (0..3).for_each(|_| drop(say(at, bytes)));
    }
    let begun = Instant::now();
    let mut crowd: Vec<_> = (0..300).map(|_| connect(at)).collect();
    // All of it: the node answers, and waits for the rest.
    crowd.retain_mut(|stream| stream.write_all(&flight).is_ok());
    siege.let_a_new_peer_in();
    for stream in &mut crowd {
        hear_to_the_end(stream);
    }
    assert!(begun.elapsed() < secs(15), "the last was closed after {:?}", begun.elapsed());
    siege.victim.wait_for_count("refused_handshakes", 300);
    siege.victim.has_logged_once("its handshake timed out");
    siege.end("TLS that is begun", bounds::strangers(&Limits::default(), true));
}
