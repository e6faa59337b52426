//! Whom sockets with TLS refuse, and what an unknown peer can cost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use antiphon_dist::TlsFault;
use antiphon_sched::{Conn, SocketError, millis};

use crate::common::PATIENCE;
use crate::common::bare_tls;
use crate::common::certs::{Certs, Files};
use crate::players::*;

/// What a dialler with one certificate is told by a listener with another, each letting in those of its list; and whether the
/// listener was told anything.
fn meet(stage: &mut Stage, listens: (&Files, &Files), dials: (&Files, &Files)) -> (Vec<Told>, bool) {
    let (server, client) = (stage.player(nothing), stage.player(nothing));
    let at = stage.listen(&server, tls(listens.0, &[listens.1]).at("127.0.0.1:0"));
    let conn = stage.connect(&client, tls(dials.0, &[dials.1]).at(at));
    let told = stage.until_ended(&client, conn);
    (told, !server.has_heard_nothing())
}

#[test]
fn a_certificate_that_is_not_pinned_is_refused_by_either_side_with_the_cure() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let [a, b, c] = ["a", "b", "c"].map(|name| certs.node(name));
    // The dialler does not trust the listener.
    let (told, was_heard) = meet(&mut stage, (&a, &b), (&b, &c));
    assert_eq!((told, was_heard), (vec![Told::Tls(TlsFault::Stranger)], false));
    stage.until_logged(TlsFault::Rejected);
    // The listener does not trust the dialler, who hears of it when all was agreed on its side.
    let (told, was_heard) = meet(&mut stage, (&a, &c), (&b, &a));
    assert_eq!((told, was_heard), (vec![Told::Opened, Told::Tls(TlsFault::Rejected)], false));
    stage.until_logged(TlsFault::Stranger);
}

#[test]
fn an_expired_a_missing_and_a_stolen_certificate_are_refused() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let own = certs.node("own");
    let old = certs.node_with("old", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let theirs = certs.node("theirs");
    let thief = Files { key: certs.node("thief").key, ..theirs.clone() };
    let tls = tls(&own, &[&own, &old, &theirs]);
    let (server, client) = (stage.player(nothing), stage.player(nothing));
    let at = stage.listen(&server, tls.at("127.0.0.1:0"));
    for (files, fault) in [
        (Some(old.clone()), TlsFault::Expired),
        (None, TlsFault::Missing),
        (Some(thief.clone()), TlsFault::Unusable),
    ] {
        let peer = std::thread::spawn(move || bare_tls::knock(at, files.as_ref()));
        let said = stage.join(peer);
        assert!(said.contains("alert"), "{said}");
        stage.until_logged(fault);
    }
    assert!(server.has_heard_nothing());
    for (files, fault) in [(old, TlsFault::Expired), (thief, TlsFault::Unusable)] {
        let conn = stage.connect(&client, tls.at(bare_tls::serve(&files)));
        assert_eq!(stage.until_ended(&client, conn), [Told::Tls(fault)]);
    }
    stage.until_left(1);
}

#[test]
fn a_peer_without_tls_is_told_by_a_listener_as_far_as_tls_can_and_a_dialler_is_told_the_cure() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let (secure, plain, client) = (stage.player(nothing), stage.player(nothing), stage.player(nothing));
    let at = stage.listen(&secure, tls.at("127.0.0.1:0"));
    let conn = stage.connect(&client, at);
    stage.write(&client, conn, "hello?");
    // An alert is no frame.
    let too_long = Told::SocketEvent(SocketError::FrameTooLong { max: 1 << 20 });
    assert_eq!(stage.until_ended(&client, conn), [Told::Opened, too_long]);
    stage.until_logged(TlsFault::OneSided);
    assert!(secure.has_heard_nothing());

    // Also one that has said more than is read, who would hear of a reset if the rest were left.
    let peer = std::thread::spawn(move || {
        let mut peer = stranger(at, &vec![0; 200_000]);
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).expect("a good end");
        answer
    });
    assert_eq!(stage.join(peer)[0], 21, "an alert");

    // One that hears a frame of two hundred megabytes closes.
    let at = stage.listen(&plain, "127.0.0.1:0");
    let conn = stage.connect(&client, tls.at(at));
    assert_eq!(stage.until_ended(&client, conn), [Told::Tls(TlsFault::Broken)]);
    // One that speaks first.
    let greeter = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let conn = stage.connect(&client, tls.at(greeter.local_addr().expect("it is bound")));
    let (mut stream, _) = greeter.accept().expect("it dials");
    stream.write_all(b"220 ready\r\n").expect("it listens");
    assert_eq!(stage.until_ended(&client, conn), [Told::Tls(TlsFault::OneSided)]);
    stage.until_left(2);
}

#[test]
fn a_dialler_whose_peer_never_answers_is_told_so_at_its_timeout() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let client = stage.player(nothing);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = silent.local_addr().expect("it is bound");
    let conn = stage.act(&client, move |cx| cx.connect(tls.at(at), FRAMES, millis(100), Note::Net));
    assert_eq!(stage.until_ended(&client, conn), [Told::SocketEvent(SocketError::LayerTimedOut)]);
    stage.until_left(0);
}

#[test]
fn datagrams_have_no_tls_and_the_error_says_what_has() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let at = tls(&certs.node("shared"), &[]).at("127.0.0.1:0");
    let player = stage.player(nothing);
    let reason = stage.act(&player, |cx| cx.udp(at, |_, _| panic!("nothing comes")).map(drop));
    let reason = reason.expect_err("there is no such thing");
    assert!(reason.to_string().contains("`cx.connect`"), "{reason}");
}

/// A stranger that has sent so much, and waits.
fn stranger(to: std::net::SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("the listener is there");
    stream.write_all(bytes).expect("a few bytes fit");
    stream.set_read_timeout(Some(PATIENCE)).expect("a sound timeout");
    stream
}

#[test]
fn strangers_that_go_no_further_are_closed_after_their_time_and_never_told_of() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let server = stage.player(nothing);
    let at = stage.listen(&server, tls(&certs.node("shared"), &[]).at("127.0.0.1:0"));
    let flight = bare_tls::first_flight();
    let strangers =
        [stranger(at, b""), stranger(at, &flight[..1]), stranger(at, &flight[..flight.len() - 1])];
    stage.until("all three", |stage| stage.events.stats().sockets == 4);
    stage.until_left(1);
    for mut stranger in strangers {
        assert!(matches!(stranger.read(&mut [0]), Ok(0) | Err(_)), "it was closed");
    }
    assert_eq!(stage.log.lines("in time").len(), 3);
    assert!(server.has_heard_nothing());
}

#[test]
fn a_stranger_is_read_no_further_than_32_kibibytes() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let server = stage.player(nothing);
    let at = stage.listen(&server, tls(&certs.node("shared"), &[]).at("127.0.0.1:0"));
    // A hello of nearly 64 KiB, in records of 8.
    let record = |body: &[u8]| [&[22, 3, 1, 0x20, 0][..], body, &vec![0; 0x2000 - body.len()]].concat();
    let mut begun = stranger(at, &record(&[1, 0, 0xff, 0]));
    stage.until("the stranger", |stage| stage.events.stats().sockets == 2);
    for _ in 0..2 {
        begun.write_all(&record(&[])).expect("the system takes it");
    }
    // 24 KiB are within its bound: it has its time.
    stage.linger();
    assert_eq!(stage.events.stats().sockets, 2);
    begun.write_all(&record(&[])).expect("the system takes it");
    begun.write_all(&record(&[])).expect("the system takes it");
    stage.until_logged(TlsFault::Broken);
    // It goes on, and is not listened to: what it can send is what the system keeps.
    let flood = std::thread::spawn(move || {
        let (block, mut sent) = (vec![0; 1 << 16], 0);
        while sent < 256 << 20 {
            match begun.write(&block) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        sent
    });
    let sent = stage.join(flood);
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    stage.until_left(1);
    assert!(stage.log.lines("in time").is_empty() && server.has_heard_nothing());
}

#[test]
fn sixty_four_strangers_lock_nobody_out_and_the_oldest_gives_way() {
    const CROWD: usize = 70;
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let (server, client) = (stage.player(echo), stage.player(nothing));
    let at = stage.listen(&server, tls.at("127.0.0.1:0"));
    // Who is open is no stranger, however old.
    let early = stage.connect(&client, tls.at(at));
    stage.until_accepted(&server, 1);
    stage.until("the dialler's news", |_| client.has(early, &Told::Opened));
    let mut crowd: Vec<TcpStream> = Vec::new();
    for count in 1..=CROWD {
        crowd.push(stranger(at, b""));
        // Accepted in order.
        let left = 3 + count.min(64);
        let gone = count.saturating_sub(64);
        stage.until("the next stranger", |stage| {
            stage.events.stats().sockets == left && stage.log.lines("gives way").len() == gone
        });
    }
    let here: Conn = stage.connect(&client, tls.at(at));
    stage.write(&client, here, "let me in");
    stage.until("the echo", |_| client.has(here, &data("let me in")));
    stage.write(&client, early, "still here");
    stage.until("the echo", |_| client.has(early, &data("still here")));
    assert_eq!(server.conns().len(), 2);
    // It took a place, and gave it back when it was agreed with.
    assert_eq!(stage.log.lines("gives way").len(), CROWD - 63);
    assert_eq!(stage.events.stats().sockets, 1 + 63 + 4);
    assert!(matches!(crowd[0].read(&mut [0]), Ok(0)), "the oldest was closed");
    crowd[CROWD - 1].set_nonblocking(true).expect("a socket");
    let last = crowd[CROWD - 1].read(&mut [0]).expect_err("the youngest was not").kind();
    assert_eq!(last, std::io::ErrorKind::WouldBlock);
    drop(crowd);
    stage.until_left(5);
}
