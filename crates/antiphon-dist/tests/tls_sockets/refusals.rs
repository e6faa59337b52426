//! The peers that sockets with TLS refuse, and bounds of what a pending connection can use.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use antiphon_dist::TlsFault;
use antiphon_sched::{Conn, SocketError, millis};

use crate::common::PATIENCE;
use crate::common::bare_tls;
use crate::common::certs::{Certs, Files};
use crate::socket_actors::*;

/// Connects a client to a server, each with its own and a pinned certificate. Returns the events of the client, and
/// whether the server has events.
fn connect(
    test: &mut SocketTest,
    server: (&Files, &Files),
    client: (&Files, &Files),
) -> (Vec<ConnEvent>, bool) {
    let (server_tls, client_tls) = (tls(server.0, &[server.1]), tls(client.0, &[client.1]));
    let (server, client) = (test.spawn(ignore), test.spawn(ignore));
    let at = test.listen(&server, server_tls.at("127.0.0.1:0"));
    let conn = test.connect(&client, client_tls.at(at));
    let events = test.run_until_ended(&client, conn);
    (events, !server.has_no_events())
}

#[test]
fn tls_socket_refuses_unpinned_certificate() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let [a, b, c] = ["a", "b", "c"].map(|name| certs.node(name));
    // The dialler does not trust the listener.
    let (events, server_has_events) = connect(&mut test, (&a, &b), (&b, &c));
    assert_eq!((events, server_has_events), (vec![ConnEvent::Tls(TlsFault::Untrusted)], false));
    test.run_until_logged(TlsFault::Rejected);
    // The listener does not trust the dialler. The handshake of the dialler completes before the alert arrives.
    let (events, server_has_events) = connect(&mut test, (&a, &c), (&b, &a));
    assert_eq!(
        (events, server_has_events),
        (vec![ConnEvent::Opened, ConnEvent::Tls(TlsFault::Rejected)], false)
    );
    test.run_until_logged(TlsFault::Untrusted);
}

#[test]
fn tls_socket_refuses_expired_missing_and_stolen_certificates() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let own = certs.node("own");
    let old = certs.node_with("old", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let theirs = certs.node("theirs");
    let thief = Files { key: certs.node("thief").key, ..theirs.clone() };
    let tls = tls(&own, &[&own, &old, &theirs]);
    let (server, client) = (test.spawn(ignore), test.spawn(ignore));
    let at = test.listen(&server, tls.at("127.0.0.1:0"));
    for (files, fault) in [
        (Some(old.clone()), TlsFault::Expired),
        (None, TlsFault::Missing),
        (Some(thief.clone()), TlsFault::Unusable),
    ] {
        let peer = std::thread::spawn(move || bare_tls::refused_dial(at, files.as_ref()));
        let error = test.run_until_finished(peer);
        assert!(error.contains("alert"), "{error}");
        test.run_until_logged(fault);
    }
    assert!(server.has_no_events());
    for (files, fault) in [(old, TlsFault::Expired), (thief, TlsFault::Unusable)] {
        let conn = test.connect(&client, tls.at(bare_tls::serve(&files)));
        assert_eq!(test.run_until_ended(&client, conn), [ConnEvent::Tls(fault)]);
    }
    test.run_until_sockets(1);
}

#[test]
fn tls_socket_refuses_peers_without_tls() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let (secure, plain, client) = (test.spawn(ignore), test.spawn(ignore), test.spawn(ignore));
    let at = test.listen(&secure, tls.at("127.0.0.1:0"));
    let conn = test.connect(&client, at);
    test.write(&client, conn, "hello?");
    // The client takes the alert for the header of a frame that is too long.
    let too_long = ConnEvent::Socket(SocketError::FrameTooLong { max: 1 << 20 });
    assert_eq!(test.run_until_ended(&client, conn), [ConnEvent::Opened, too_long]);
    test.run_until_logged(TlsFault::OneSided);
    assert!(secure.has_no_events());

    // A peer that has sent more than the listener reads gets the alert, and no reset.
    let peer = std::thread::spawn(move || {
        let mut peer = raw_peer(at, &vec![0; 200_000]);
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).expect("the connection is not reset");
        answer
    });
    assert_eq!(test.run_until_finished(peer)[0], 21, "an alert");

    // A TLS hello looks to the plain listener like a frame of 200 MB, so it closes the connection.
    let at = test.listen(&plain, "127.0.0.1:0");
    let conn = test.connect(&client, tls.at(at));
    assert_eq!(test.run_until_ended(&client, conn), [ConnEvent::Tls(TlsFault::Broken)]);
    // A plain server sends first.
    let greeter = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let conn = test.connect(&client, tls.at(greeter.local_addr().expect("the listener is bound")));
    let (mut stream, _) = greeter.accept().expect("the client dials");
    stream.write_all(b"220 ready\r\n").expect("the client accepts the data");
    assert_eq!(test.run_until_ended(&client, conn), [ConnEvent::Tls(TlsFault::OneSided)]);
    test.run_until_sockets(2);
}

#[test]
fn tls_socket_handshake_without_answer_times_out() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let client = test.spawn(ignore);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let at = silent.local_addr().expect("the listener is bound");
    let conn =
        test.run_step(&client, move |cx| cx.connect(tls.at(at), FRAMES, millis(100), ActorInput::Socket));
    assert_eq!(test.run_until_ended(&client, conn), [ConnEvent::Socket(SocketError::LayerTimedOut)]);
    test.run_until_sockets(0);
}

#[test]
fn udp_socket_with_tls_is_refused() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let at = tls(&certs.node("shared"), &[]).at("127.0.0.1:0");
    let actor = test.spawn(ignore);
    let reason =
        test.run_step(&actor, |cx| cx.udp(at, |_, _| panic!("a refused socket has no events")).map(drop));
    let reason = reason.expect_err("UDP has no TLS");
    assert!(reason.to_string().contains("`cx.connect`"), "{reason}");
}

/// Connects without TLS, and sends some bytes.
fn raw_peer(to: std::net::SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("the listener accepts");
    stream.write_all(bytes).expect("the system accepts the bytes");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is valid");
    stream
}

#[test]
fn pending_connections_time_out_without_events() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let server = test.spawn(ignore);
    let at = test.listen(&server, tls(&certs.node("shared"), &[]).at("127.0.0.1:0"));
    let flight = bare_tls::first_flight();
    let peers = [raw_peer(at, b""), raw_peer(at, &flight[..1]), raw_peer(at, &flight[..flight.len() - 1])];
    test.run_until("three pending connections", |test| test.event_loop.stats().sockets == 4);
    test.run_until_sockets(1);
    for mut peer in peers {
        match peer.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0, "the connection was closed"),
            Err(reason) => assert!(
                !matches!(reason.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "the connection is open: {reason}"
            ),
        }
    }
    assert_eq!(test.log.lines("in time").len(), 3);
    assert!(server.has_no_events());
}

#[test]
fn pending_connection_is_read_up_to_32_kib() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let server = test.spawn(ignore);
    let at = test.listen(&server, tls(&certs.node("shared"), &[]).at("127.0.0.1:0"));
    // A hello of nearly 64 KiB, in records of 8 KiB.
    let record = |body: &[u8]| [&[22, 3, 1, 0x20, 0][..], body, &vec![0; 0x2000 - body.len()]].concat();
    let mut peer = raw_peer(at, &record(&[1, 0, 0xff, 0]));
    test.run_until("the pending connection", |test| test.event_loop.stats().sockets == 2);
    for _ in 0..2 {
        peer.write_all(&record(&[])).expect("the system accepts the record");
    }
    // 24 KiB are within the bound, so the connection stays pending.
    test.run_for_a_while();
    assert_eq!(test.event_loop.stats().sockets, 2);
    peer.write_all(&record(&[])).expect("the system accepts the record");
    peer.write_all(&record(&[])).expect("the system accepts the record");
    test.run_until_logged(TlsFault::Broken);
    // The peer goes on. The listener does not read, so the peer can only fill the buffers of the system.
    let flood = std::thread::spawn(move || {
        let (block, mut sent) = (vec![0; 1 << 16], 0);
        while sent < 256 << 20 {
            match peer.write(&block) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        sent
    });
    let sent = test.run_until_finished(flood);
    assert!(sent < 64 << 20, "the system accepted {sent} bytes");
    test.run_until_sockets(1);
    assert!(test.log.lines("in time").is_empty() && server.has_no_events());
}

/// A peer with more than 64 pending connections does not lock out a peer that completes its handshake.
#[test]
fn pending_connections_over_64_evict_the_oldest() {
    const PENDING: usize = 70;
    const EVICTED: &str = "closed in favour of a newer one";
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let (server, client) = (test.spawn(echo), test.spawn(ignore));
    let at = test.listen(&server, tls.at("127.0.0.1:0"));
    // This connection is open. So it is not evicted, although it is the oldest.
    let early = test.connect(&client, tls.at(at));
    test.run_until_accepted(&server, 1);
    test.run_until("the open connection of the dialler", |_| client.has(early, &ConnEvent::Opened));
    let mut peers: Vec<TcpStream> = Vec::new();
    for count in 1..=PENDING {
        peers.push(raw_peer(at, b""));
        // The listener accepts in order.
        let sockets = 3 + count.min(64);
        let evicted = count.saturating_sub(64);
        test.run_until("the next pending connection", |test| {
            test.event_loop.stats().sockets == sockets && test.log.lines(EVICTED).len() == evicted
        });
    }
    let here: Conn = test.connect(&client, tls.at(at));
    test.write(&client, here, "let me in");
    test.run_until("the echo", |_| client.has(here, &data("let me in")));
    test.write(&client, early, "still here");
    test.run_until("the echo", |_| client.has(early, &data("still here")));
    assert_eq!(server.conns().len(), 2);
    // The client evicted one more, and its own place was free again when its handshake completed.
    assert_eq!(test.log.lines(EVICTED).len(), PENDING - 63);
    assert_eq!(test.event_loop.stats().sockets, 1 + 63 + 4);
    assert!(matches!(peers[0].read(&mut [0]), Ok(0)), "the oldest is closed");
    peers[PENDING - 1].set_nonblocking(true).expect("the socket is open");
    let last = peers[PENDING - 1].read(&mut [0]).expect_err("the newest is open").kind();
    assert_eq!(last, ErrorKind::WouldBlock);
    drop(peers);
    test.run_until_sockets(5);
}
