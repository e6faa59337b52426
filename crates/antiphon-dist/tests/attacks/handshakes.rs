//! Handshakes that are replayed, reflected, downgraded or damaged.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc::channel;

use antiphon_dist::{Limits, Refusal, Suite};
use antiphon_sched::{Addr, millis};
use antiphon_wire::{Deframer, Handshake, HandshakeError, ResumeState};

use crate::attack_test::AttackTest;
use crate::bounds;
use crate::caller::{Failed, HEADER_BYTES, MESSAGES, Message, exchange, handshake, profile, read_message};
use crate::common::{Net, PATIENCE, report, wait_for};
use crate::middle::{self, Direction, Forward};
use crate::victim::{Echo, VictimOptions};

/// The index of the kind of a message.
const KIND: usize = 4;
const ACCEPTOR_HELLO: u8 = 2;
const ACCEPTOR_PROOF: u8 = 4;
const REFUSED: u8 = 5;

/// A recorded handshake is refused during its session and after it.
pub(crate) fn handshake_replayed_is_refused() {
    let mut attack = AttackTest::without_discovery();
    let at = attack.victim.location.addr();
    let (sender, pieces) = channel();
    let middle = middle::start(at, move |piece| {
        if piece.direction == Direction::ToVictim {
            report(&sender, piece.bytes.clone());
        }
        Forward::Bytes(piece.bytes)
    });
    let peer = attack.net.static_node("peer", &[middle.into()]);
    let echo: Addr<Echo> = peer.find("echo");
    let ask = |number| peer.handle.ask(echo, PATIENCE, move |reply| Echo(number, reply));
    assert_eq!(ask(1), Ok(1));
    let recorded: Vec<u8> = pieces.try_iter().flatten().collect();
    assert!(recorded.starts_with(b"ANTI"), "the recording begins with a handshake");

    let reply = exchange(at, &recorded);
    assert_eq!(reply[KIND], REFUSED, "the session keeps its connection: {reply:?}");
    assert_eq!(ask(2), Ok(2), "the session continues");
    let peers = attack.victim.count("peers");
    peer.stop();
    wait_for("the victim to receive the goodbye", || {
        (exchange(at, &recorded)[KIND] != REFUSED).then_some(())
    });
    for _ in 0..10 {
        // The victim sends its hello, and then refuses the old proof.
        let reply = exchange(at, &recorded);
        assert_eq!(reply[KIND], ACCEPTOR_HELLO, "{reply:?}");
        assert_eq!(reply[reply.len() - 14 + KIND], REFUSED, "{reply:?}");
    }
    attack.victim.wait_for_count("refused_handshakes", 10);
    attack.victim.has_logged_once("the secrets differ");
    assert!(attack.victim.count("peers") <= peers);
    attack.end("a replayed handshake", bounds::pending_connections(&Limits::default(), false));
}

pub(crate) fn hello_or_proof_reflected_is_refused() {
    let listener = TcpListener::bind("127.0.0.2:0").expect("a port is free");
    let here = listener.local_addr().expect("the listener is bound");
    let net = Net { udp_port: 0, ..Net::new() };
    let options = VictimOptions { peer: Some(here.into()), ..VictimOptions::default() };
    let mut attack = AttackTest::on(net, options);
    let at = attack.victim.location.addr();
    let dialled = || listener.accept().expect("the victim dials its peer").0;

    // The victim's own hello comes back: on another connection, and as the acceptor's hello.
    let mut stream = dialled();
    let hello = read_message(&mut stream).expect("the victim sends a hello");
    assert_eq!(exchange(at, &hello)[KIND], REFUSED);
    let mut reflected = hello;
    reflected[KIND] = ACCEPTOR_HELLO;
    stream.write_all(&reflected).expect("the victim reads");
    assert_eq!(read_message(&mut stream).expect("the victim replies")[KIND], REFUSED);
    // The victim concludes that it has dialled itself.
    drop(stream);
    attack.end("a reflected hello", bounds::pending_connections(&Limits::default(), false));

    // The victim's own proof comes back, after the hello of another node.
    attack = AttackTest::on(Net { udp_port: 0, ..Net::new() }, options);
    let other = profile(&Net::new(), &Suite::aead());
    for _ in 0..3 {
        let mut stream = dialled();
        let (mut input, mut out) = (Deframer::new(), Vec::new());
        input.push(&read_message(&mut stream).expect("the victim sends a hello"));
        let mut acceptor = Handshake::accept(None);
        acceptor.advance(&other, &mut input, &mut out).expect("the hello is valid");
        let entropy = antiphon_dist::system_entropy().expect("the system has random numbers");
        acceptor.answer(&other, entropy, ResumeState::unknown(1), &mut out).expect("the hello is acceptable");
        stream.write_all(&out).expect("the victim reads");
        let mut proof = read_message(&mut stream).expect("the victim sends a proof");
        proof[KIND] = ACCEPTOR_PROOF;
        stream.write_all(&proof).expect("the victim reads");
        assert_eq!(read_message(&mut stream).expect("the victim replies")[KIND], REFUSED);
    }
    attack.victim.wait_for_count("refused_handshakes", 3);
    attack.victim.has_logged_once("the secrets differ");
    attack.end("a reflected proof", bounds::pending_connections(&Limits::default(), false));
}

/// The index of the suites in a hello: after the header and 120 bytes of fixed fields (PROTOCOL.md has the layout).
const SUITES: usize = HEADER_BYTES + 124;

fn set_suites(message: &mut Vec<u8>, suites: &[Suite]) {
    let count = usize::from(message[SUITES]);
    let numbers: Vec<u8> = suites.iter().map(|suite| *suite as u8).collect();
    message.splice(SUITES + 1..=SUITES + count, numbers);
    message[SUITES] = u8::try_from(suites.len()).expect("there are few suites");
    let length = u16::try_from(message.len() - HEADER_BYTES).expect("a hello is short");
    message[6..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
}

pub(crate) fn suite_downgrade_in_the_middle_is_refused() {
    let options = VictimOptions { allows_weak_suite: true, ..VictimOptions::default() };
    let mut attack = AttackTest::on(Net { udp_port: 0, ..Net::new() }, options);
    let at = attack.victim.location.addr();
    let allowed = [Suite::aead().to_vec(), vec![Suite::Hmac]].concat();
    let dial = |net: &Net, change: &dyn Fn(Message, &mut Vec<u8>)| {
        handshake(at, &profile(net, &allowed), PATIENCE, change).map(|proven| proven.connection.suite())
    };
    let downgrade = |changed: Message, suites: &'static [Suite]| {
        move |message, bytes: &mut Vec<u8>| {
            if message == changed {
                set_suites(bytes, suites);
            }
        }
    };
    let net = attack.net.clone();
    assert_eq!(dial(&net, &|_, _| ()).expect("an unchanged handshake succeeds"), allowed[0]);
    let hmac = [Suite::Hmac].as_slice();
    let best_first = [allowed[0], allowed[1], Suite::Hmac];
    assert_eq!(best_first.as_slice(), allowed, "the weakest allowed suite comes last");

    for changed in [Message::DiallerHello, Message::AcceptorHello] {
        let refused = dial(&net, &downgrade(changed, hmac));
        let wrong_secret = HandshakeError::RefusedByPeer(Refusal::WrongSecret);
        assert!(
            matches!(&refused, Err(Failed::Refused(reason)) if *reason == wrong_secret),
            "{changed:?}: {refused:?}"
        );
    }
    let refused = dial(&net, &downgrade(Message::DiallerHello, &[Suite::Plain]));
    let no_suite = HandshakeError::RefusedByPeer(Refusal::Suite);
    assert!(matches!(&refused, Err(Failed::Refused(reason)) if *reason == no_suite), "{refused:?}");
    let refused = dial(&net, &downgrade(Message::AcceptorHello, &[Suite::Plain]));
    assert!(matches!(&refused, Err(Failed::Refused(HandshakeError::PeerMisbehaved(_)))), "{refused:?}");

    attack.victim.wait_for_count("refused_handshakes", 3);
    attack.victim.has_logged_once("the secrets differ");
    attack.victim.has_logged_once("no suite in common");
    attack.end("a downgrade", bounds::pending_connections(&Limits::default(), false));
}

/// One bit is flipped in each byte of each message in turn.
pub(crate) fn handshake_with_flipped_bit_fails() {
    let mut attack = AttackTest::without_discovery();
    let at = attack.victim.location.addr();
    let net = attack.net.clone();
    let mut lengths = [0; 4];
    handshake(at, &profile(&net, &Suite::aead()), PATIENCE, |message, bytes| {
        lengths[message as usize] = bytes.len()
    })
    .expect("an unchanged handshake succeeds");
    let mut refused = 0;
    for changed in MESSAGES {
        for byte in 0..lengths[changed as usize] {
            // With a greater length, the reader would wait for more until the handshake times out.
            let is_length = (6..HEADER_BYTES).contains(&byte);
            let patience = if is_length { millis(200) } else { PATIENCE };
            let outcome = handshake(at, &profile(&net, &Suite::aead()), patience, |message, bytes| {
                if message == changed {
                    bytes[byte] ^= 1 << (byte % 8);
                }
            });
            match outcome {
                Err(Failed::Refused(reason)) => {
                    refused += u64::from(matches!(reason, HandshakeError::RefusedByPeer(_)))
                }
                Err(Failed::Silence) if is_length => {}
                other => panic!("byte {byte} of {changed:?}: {other:?}"),
            }
        }
    }
    let from_dialler = lengths[0] + lengths[2];
    assert!(
        refused >= from_dialler as u64 - 4,
        "the victim refused {refused} of {from_dialler} changed messages"
    );
    attack.victim.wait_for_count("refused_handshakes", refused);
    let lines = attack.victim.log.lines("a handshake failed");
    let texts: BTreeSet<&str> =
        lines.iter().filter_map(|line| line.split_once("reason=")).map(|(_, text)| text).collect();
    assert_eq!(texts.len(), lines.len(), "each refusal is logged once: {lines:?}");
    println!(
        "{} flipped bits: the victim refused {refused} messages, and logged {} lines",
        lengths.iter().sum::<usize>(),
        lines.len()
    );
    attack.end("flipped bits", bounds::pending_connections(&Limits::default(), false));
}
