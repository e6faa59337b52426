//! Many connections without a proof, or slow ones.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use antiphon_dist::{Limits, Suite};
use antiphon_sched::{millis, secs};
use antiphon_wire::HELLO_BYTES_MAX;

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::caller::{self, connect, exchange, handshake, profile, read_to_close};
use crate::common::{Net, PATIENCE, wait_for};

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

/// Opens connections, each from a new address, until `is_over`. With a hello, each makes the victim answer.
fn flood(at: SocketAddr, hello: Vec<u8>, is_over: &AtomicBool, opened: &AtomicUsize) {
    let mut open = VecDeque::new();
    for number in 0_u32.. {
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        let [_, high, middle, low] = (number * 8191 % 0x00e0_0000).to_be_bytes();
        let socket = caller::socket_of([127, high, middle, low.max(1)]);
        if socket.connect_timeout(&at.into(), millis(200)).is_ok() {
            let mut stream = TcpStream::from(socket);
            drop(stream.write_all(&hello));
            opened.fetch_add(1, Ordering::SeqCst);
            open.push_back(stream);
        }
        if open.len() > 200 {
            open.pop_front();
        }
    }
}

/// The number of 20 members whose first connections succeed. Member n calls from 127.`block`.0.n.
fn members_that_get_in(net: &Net, at: SocketAddr, block: u8) -> usize {
    let join = |number: u8| {
        let socket = caller::socket_of([127, block, 0, number]);
        let stream = caller::connect_by(socket, at).expect("the victim listens");
        caller::handshake_on(stream, &profile(net, &Suite::aead()), 1, |_, _| ()).is_ok()
    };
    (1..=20).filter(|number| join(*number)).count()
}

/// Thousands of addresses open connections, with a hello or without.
pub(crate) fn half_open_flood_from_many_addresses_spares_members() {
    let attack = AttackTest::without_discovery();
    let (net, at) = (attack.net.clone(), attack.victim.location.addr());
    assert_eq!(members_that_get_in(&net, at, 240), 20, "there is no flood");
    let mut shares = Vec::new();
    for hello in [Vec::new(), caller::hello(&net)] {
        let kind = if hello.is_empty() { "silent" } else { "with a hello" };
        let (is_over, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
        let begun = Instant::now();
        let [known, unknown] = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| flood(at, hello.clone(), &is_over, &opened));
            }
            wait_for("the flood", || (opened.load(Ordering::SeqCst) > 1_000).then_some(()));
            let in_time = [240, if hello.is_empty() { 241 } else { 242 }]
                .map(|block| members_that_get_in(&net, at, block));
            is_over.store(true, Ordering::SeqCst);
            in_time
        });
        let rate = opened.load(Ordering::SeqCst) as f64 / begun.elapsed().as_secs_f64();
        println!(
            "{kind}, {rate:.0} connections a second: {known} of 20 known addresses got in at once, {unknown} of 20 others"
        );
        shares.push((kind, known, unknown));
    }
    for (kind, known, unknown) in shares {
        assert_eq!(known, 20, "{kind}: an address that has proven itself before gets in");
        assert!(unknown >= 15, "{kind}: {unknown} of 20 unknown addresses got in at once");
    }
    attack.end(
        "half-open connections of many addresses",
        bounds::pending_connections(&Limits::default(), false),
    );
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

/// Members that connect, prove themselves, and close the connection without a goodbye: more than the table of known nodes holds.
pub(crate) fn members_that_vanish_leave_room_for_newcomers() {
    const MEMBERS: u64 = 17_000;
    let attack = AttackTest::without_discovery();
    let at = attack.victim.location.addr();
    for _ in 0..MEMBERS {
        handshake(at, &profile(&attack.net, &Suite::aead()), PATIENCE, |_, _| ())
            .expect("the victim accepts a member");
    }
    attack.end("members that vanish", bounds::lost_sessions(MEMBERS) + bounds::SLACK);
}
