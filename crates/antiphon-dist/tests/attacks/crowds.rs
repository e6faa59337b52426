//! Many connections without a proof, or slow ones.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Instant;

use antiphon_dist::Limits;
use antiphon_sched::{millis, secs};
use antiphon_wire::HELLO_BYTES_MAX;

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::caller::{self, connect, exchange, read_to_close};

/// The victim reads no more than 4 KiB of 64 MiB.
pub(crate) fn hello_oversized_is_refused_after_4_kib() {
    let mut attack = AttackTest::without_discovery();
    let at = attack.victim.location.addr();
    let mut endless = b"ANTI\x01\x00\xff\xff".to_vec();
    endless.resize(64 << 20, 0x55);
    // A message of the greatest length that does not end; then many messages.
    let mut longest = b"ANTI\x01\x00".to_vec();
    longest.extend_from_slice(&u16::try_from(HELLO_BYTES_MAX - 8).expect("4 KiB").to_le_bytes());
    longest.resize(64 << 20, 0x55);
    let many: Vec<u8> = caller::hello(&attack.net).iter().copied().cycle().take(64 << 20).collect();
    for bytes in [&endless, &longest, &many] {
        for _ in 0..3 {
            assert!(exchange(at, bytes).len() < HELLO_BYTES_MAX, "the reply is no longer than a message");
        }
    }
    attack.victim.wait_for_count("refused_handshakes", 9);
    attack.victim.has_logged_once("more than the 4096");
    attack.end("a hello of 64 MB", bounds::pending_connections(&Limits::default(), false));
}

/// A thousand connections send a byte a second; new peers can connect meanwhile.
pub(crate) fn slow_handshakes_are_closed_after_five_seconds() {
    let mut attack = AttackTest::without_discovery();
    let at = attack.victim.location.addr();
    let hello = caller::hello(&attack.net);
    let begun = Instant::now();
    let mut crowd: Vec<_> = (0..1_000).map(|_| connect(at)).collect();
    for (second, byte) in hello[..5].iter().enumerate() {
        // The attack is the pause between two bytes.
        crowd.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
        attack.connect_new_peer();
        std::thread::sleep(secs(second as u64 + 1).saturating_sub(begun.elapsed()));
    }
    for stream in &mut crowd {
        read_to_close(stream);
    }
    assert!(begun.elapsed() < secs(15), "the last was closed after {:?}", begun.elapsed());
    attack.victim.wait_for_count("refused_handshakes", 1_000);
    attack.victim.has_logged_once("its handshake timed out");
    attack.victim.has_logged_once("too many connections without a proof");
    attack.end("a byte a second", bounds::pending_connections(&Limits::default(), false));
}

/// One address opens ten thousand connections, and sends nothing.
pub(crate) fn half_open_connections_do_not_block_new_peers() {
    let mut attack = AttackTest::without_discovery();
    let at = attack.victim.location.addr();
    let crowd = std::thread::spawn(move || {
        let mut open = VecDeque::new();
        for _ in 0..10_000 {
            let socket = caller::socket();
            // A connection that finds the listener's queue full counts as well.
            if socket.connect_timeout(&at.into(), millis(200)).is_ok() {
                open.push_back(socket);
            }
            if open.len() > 500 {
                open.pop_front();
            }
        }
        open
    });
    let mut new_peers = 0;
    let pending_max = u64::from(Limits::default().unproven_connections_max);
    while !crowd.is_finished() || new_peers == 0 {
        attack.connect_new_peer();
        new_peers += 1;
        let connections = attack.victim.count("connections");
        assert!(connections <= pending_max + 8, "{connections} connections at a time");
    }
    let open = crowd.join().expect("the sockets can be opened");
    attack.connect_new_peer();
    attack.victim.wait_for_count("refused_handshakes", 1_000);
    attack.victim.has_logged_once("too many connections without a proof");
    drop(open);
    println!("{new_peers} new peers have connected meanwhile");
    attack.end("10,000 half-open connections", bounds::pending_connections(&Limits::default(), false));
}
