//! Handshakes that were recorded, reflected, weakened or damaged.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc::channel;

use antiphon_dist::{Limits, Refusal, Suite};
use antiphon_sched::{Addr, millis};
use antiphon_wire::{Deframer, Entropy, Handshake, HandshakeError, ResumeState};

use crate::bounds;
use crate::caller::{Failed, HEADER_BYTES, MESSAGES, Message, profile, read_message, say, shake};
use crate::common::{Net, PATIENCE, wait_for};
use crate::middle::{self, Passed, Way};
use crate::siege::Siege;
use crate::victim::{Echo, Traits};

/// The kind of a message, in its header.
const KIND: usize = 4;
const ACCEPTOR_HELLO: u8 = 2;
const ACCEPTOR_PROOF: u8 = 4;
const REFUSED: u8 = 5;

#[test]
fn a_recorded_handshake_is_worth_nothing_during_its_session_and_after_it() {
    let mut siege = Siege::quiet();
    let at = siege.victim.location.addr();
    let (tell, told) = channel();
    let between = middle::between(at, move |piece| {
        if piece.way == Way::ToVictim {
            // The test may have heard enough.
            drop(tell.send(piece.bytes.clone()));
        }
        Passed::Bytes(piece.bytes)
    });
    let peer = siege.net.quiet_node("peer", &[between.into()]);
    let echo: Addr<Echo> = peer.find("echo");
    let ask = |number| peer.handle.ask(echo, PATIENCE, move |reply| Echo(number, reply));
    assert_eq!(ask(1), Ok(1));
    let recorded: Vec<u8> = told.try_iter().flatten().collect();
    assert!(recorded.starts_with(b"ANTI"), "a handshake was recorded, with records after it");

    let answer = say(at, &recorded);
    assert_eq!(answer[KIND], REFUSED, "the session has its connection: {answer:?}");
    assert_eq!(ask(2), Ok(2), "which goes on");
    let peers = siege.victim.count("peers");
    peer.stop();
    wait_for("the victim to hear the goodbye", || (say(at, &recorded)[KIND] != REFUSED).then_some(()));
    for _ in 0..10 {
        // A hello of the victim, and a refusal of the old proof.
        let answer = say(at, &recorded);
        assert_eq!(answer[KIND], ACCEPTOR_HELLO, "{answer:?}");
        assert_eq!(answer[answer.len() - 14 + KIND], REFUSED, "{answer:?}");
    }
    siege.victim.wait_for_count("refused_handshakes", 10);
    siege.victim.has_logged_once("the secrets differ");
    assert!(siege.victim.count("peers") <= peers);
    siege.end("a replayed handshake", bounds::strangers(&Limits::default(), false));
}

#[test]
fn a_reflected_hello_and_a_reflected_proof_are_refused() {
    let listener = TcpListener::bind("127.0.0.2:0").expect("a free port");
    let here = listener.local_addr().expect("it is bound");
    let net = Net { udp_port: 0, ..Net::new() };
    let traits = Traits { peer: Some(here.into()), ..Traits::default() };
    let mut siege = Siege::of(net, traits);
    let at = siege.victim.location.addr();
    let dialled = || listener.accept().expect("the victim dials its peer").0;

    // Its own hello: on another connection, and as the answer.
    let mut stream = dialled();
    let hello = read_message(&mut stream).expect("a hello");
    assert_eq!(say(at, &hello)[KIND], REFUSED);
    let mut reflected = hello;
    reflected[KIND] = ACCEPTOR_HELLO;
    stream.write_all(&reflected).expect("the victim listens");
    assert_eq!(read_message(&mut stream).expect("an answer")[KIND], REFUSED);
    // The victim thinks now that it has dialled itself.
    drop(stream);
    siege.end("a reflected hello", bounds::strangers(&Limits::default(), false));

    // Its own proof, after a hello of somebody else.
    siege = Siege::of(Net { udp_port: 0, ..Net::new() }, traits);
    let other = profile(&Net::new(), &Suite::aead());
    for _ in 0..3 {
        let mut stream = dialled();
        let (mut input, mut out) = (Deframer::new(), Vec::new());
        input.push(&read_message(&mut stream).expect("a hello"));
        let mut shake = Handshake::accept(None);
        shake.advance(&other, &mut input, &mut out).expect("a hello");
        let fresh = Entropy::system().expect("the system has random numbers");
        shake.answer(&other, fresh, ResumeState::unknown(1), &mut out).expect("it can be answered");
        stream.write_all(&out).expect("the victim listens");
        let mut proof = read_message(&mut stream).expect("a proof");
        proof[KIND] = ACCEPTOR_PROOF;
        stream.write_all(&proof).expect("the victim listens");
        assert_eq!(read_message(&mut stream).expect("an answer")[KIND], REFUSED);
    }
    siege.victim.wait_for_count("refused_handshakes", 3);
    siege.victim.has_logged_once("the secrets differ");
    siege.end("a reflected proof", bounds::strangers(&Limits::default(), false));
}

/// Where the suites of a hello stand: after the header and 120 bytes of fixed fields, as PROTOCOL.md lays them out.
const SUITES: usize = HEADER_BYTES + 120;

fn set_suites(message: &mut Vec<u8>, suites: &[Suite]) {
    let count = usize::from(message[SUITES]);
    let numbers: Vec<u8> = suites.iter().map(|suite| *suite as u8).collect();
    message.splice(SUITES + 1..=SUITES + count, numbers);
    message[SUITES] = u8::try_from(suites.len()).expect("few");
    let length = u16::try_from(message.len() - HEADER_BYTES).expect("short");
    message[6..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
}

#[test]
fn nobody_in_the_middle_can_have_a_weaker_suite_chosen() {
    let traits = Traits { is_lenient: true, ..Traits::default() };
    let mut siege = Siege::of(Net { udp_port: 0, ..Net::new() }, traits);
    let at = siege.victim.location.addr();
    let lenient = [Suite::aead().to_vec(), vec![Suite::Hmac]].concat();
    let dial = |net: &Net, change: &dyn Fn(Message, &mut Vec<u8>)| {
        shake(at, &profile(net, &lenient), PATIENCE, change).map(|proven| proven.connection.suite())
    };
    let weaken = |which: Message, to: &'static [Suite]| {
        move |message, bytes: &mut Vec<u8>| {
            if message == which {
                set_suites(bytes, to);
            }
        }
    };
    let net = siege.net.clone();
    assert_eq!(dial(&net, &|_, _| ()).expect("nobody meddles"), lenient[0]);
    let hmac = [Suite::Hmac].as_slice();
    let honest = [lenient[0], lenient[1], Suite::Hmac];
    assert_eq!(honest.as_slice(), lenient, "what is allowed, best first");

    for which in [Message::DiallerHello, Message::AcceptorHello] {
        let refused = dial(&net, &weaken(which, hmac));
        let secrets = HandshakeError::RefusedByPeer(Refusal::WrongSecret);
        assert!(
            matches!(&refused, Err(Failed::Refused(reason)) if *reason == secrets),
            "{which:?}: {refused:?}"
        );
    }
    let refused = dial(&net, &weaken(Message::DiallerHello, &[Suite::Plain]));
    let no_suite = HandshakeError::RefusedByPeer(Refusal::Suite);
    assert!(matches!(&refused, Err(Failed::Refused(reason)) if *reason == no_suite), "{refused:?}");
    let refused = dial(&net, &weaken(Message::AcceptorHello, &[Suite::Plain]));
    assert!(matches!(&refused, Err(Failed::Refused(HandshakeError::PeerMisbehaved(_)))), "{refused:?}");

    siege.victim.wait_for_count("refused_handshakes", 3);
    siege.victim.has_logged_once("the secrets differ");
    siege.victim.has_logged_once("no suite in common");
    siege.end("a downgrade", bounds::strangers(&Limits::default(), false));
}

#[test]
fn a_bit_flipped_in_any_byte_of_any_message_ends_the_handshake() {
    let mut siege = Siege::quiet();
    let at = siege.victim.location.addr();
    let net = siege.net.clone();
    let mut lengths = [0; 4];
    shake(at, &profile(&net, &Suite::aead()), PATIENCE, |message, bytes| {
        lengths[message as usize] = bytes.len()
    })
    .expect("nobody meddles");
    let mut told = 0;
    for which in MESSAGES {
        for byte in 0..lengths[which as usize] {
            // Of a longer message more would be waited for, as long as a handshake may last.
            let is_length = (6..HEADER_BYTES).contains(&byte);
            let patience = if is_length { millis(200) } else { PATIENCE };
            let failed = shake(at, &profile(&net, &Suite::aead()), patience, |message, bytes| {
                if message == which {
                    bytes[byte] ^= 1 << (byte % 8);
                }
            });
            match failed {
                Err(Failed::Refused(reason)) => {
                    told += u64::from(matches!(reason, HandshakeError::RefusedByPeer(_)))
                }
                Err(Failed::Silence) if is_length => {}
                other => panic!("byte {byte} of {which:?}: {other:?}"),
            }
        }
    }
    let from_dialler = lengths[0] + lengths[2];
    assert!(told >= from_dialler as u64 - 4, "{told} of {from_dialler} were refused by the victim");
    siege.victim.wait_for_count("refused_handshakes", told);
    let lines = siege.victim.log.lines("no connection with this peer");
    let texts: BTreeSet<&str> =
        lines.iter().filter_map(|line| line.split_once("error=")).map(|it| it.1).collect();
    assert_eq!(texts.len(), lines.len(), "each refusal is logged once: {lines:?}");
    println!(
        "{} flips, {told} of them refused by the victim in {} lines",
        lengths.iter().sum::<usize>(),
        lines.len()
    );
    siege.end("flipped bits", bounds::strangers(&Limits::default(), false));
}
