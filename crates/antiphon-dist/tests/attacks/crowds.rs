//! Strangers in numbers, or in no hurry.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Instant;

use antiphon_dist::Limits;
use antiphon_sched::{millis, secs};
use antiphon_wire::HELLO_BYTES_MAX;

use crate::bounds;
use crate::caller::{self, connect, hear_to_the_end, say};
use crate::siege::Siege;

#[test]
fn a_hello_of_64_megabytes_is_read_no_further_than_4_kilobytes() {
    let mut siege = Siege::quiet();
    let at = siege.victim.location.addr();
    let mut endless = b"ANTI\x01\x00\xff\xff".to_vec();
    endless.resize(64 << 20, 0x55);
    // As long as a message may be, and never whole; then one after another.
    let mut longest = b"ANTI\x01\x00".to_vec();
    longest.extend_from_slice(&u16::try_from(HELLO_BYTES_MAX - 8).expect("4 KiB").to_le_bytes());
    longest.resize(64 << 20, 0x55);
    let many: Vec<u8> = caller::hello(&siege.net).iter().copied().cycle().take(64 << 20).collect();
    for bytes in [&endless, &longest, &many] {
        for _ in 0..3 {
            assert!(say(at, bytes).len() < HELLO_BYTES_MAX, "an answer is no longer than a message");
        }
    }
    siege.victim.wait_for_count("refused_handshakes", 9);
    siege.victim.has_logged_once("more than the 4096");
    siege.end("a hello of 64 MB", bounds::strangers(&Limits::default(), false));
}

#[test]
fn a_thousand_that_send_a_byte_a_second_are_closed_after_five_and_lock_nobody_out() {
    let mut siege = Siege::quiet();
    let at = siege.victim.location.addr();
    let hello = caller::hello(&siege.net);
    let begun = Instant::now();
    let mut crowd: Vec<_> = (0..1_000).map(|_| connect(at)).collect();
    for (second, byte) in hello[..5].iter().enumerate() {
        // They come again as soon as they give way: the pause is the attack.
        crowd.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
        siege.let_a_new_peer_in();
        std::thread::sleep(secs(second as u64 + 1).saturating_sub(begun.elapsed()));
    }
    for stream in &mut crowd {
        hear_to_the_end(stream);
    }
    assert!(begun.elapsed() < secs(15), "the last was closed after {:?}", begun.elapsed());
    siege.victim.wait_for_count("refused_handshakes", 1_000);
    siege.victim.has_logged_once("its handshake timed out");
    siege.victim.has_logged_once("too many connections without a proof");
    siege.end("a byte a second", bounds::strangers(&Limits::default(), false));
}

#[test]
fn ten_thousand_half_open_connections_from_one_address_lock_nobody_out() {
    let mut siege = Siege::quiet();
    let at = siege.victim.location.addr();
    let crowd = std::thread::spawn(move || {
        let mut open = VecDeque::new();
        for _ in 0..10_000 {
            let socket = caller::socket();
            // What finds no place in the queue of the listener is as good as open.
            if socket.connect_timeout(&at.into(), millis(200)).is_ok() {
                open.push_back(socket);
            }
            if open.len() > 500 {
                open.pop_front();
            }
        }
        open
    });
    let mut joined = 0;
    let strangers_max = u64::from(Limits::default().unproven_connections_max);
    while !crowd.is_finished() || joined == 0 {
        siege.let_a_new_peer_in();
        joined += 1;
        let connections = siege.victim.count("connections");
        assert!(connections <= strangers_max + 8, "{connections} connections at a time");
    }
    let open = crowd.join().expect("the crowd comes");
    siege.let_a_new_peer_in();
    siege.victim.wait_for_count("refused_handshakes", 1_000);
    siege.victim.has_logged_once("too many connections without a proof");
    drop(open);
    println!("{joined} peers joined meanwhile");
    siege.end("10,000 half-open connections", bounds::strangers(&Limits::default(), false));
}
