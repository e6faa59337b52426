//! Data over TLS sockets, and how their connections end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;

use antiphon_dist::TlsFault;
use antiphon_sched::{Conn, SocketError};

use crate::common::bare_tls;
use crate::common::certs::Certs;
use crate::socket_actors::*;

/// A listening actor and one that dials it. Each has a certificate, and pins the other's.
struct ConnectedPair {
    test: SocketTest,
    server: SocketActor,
    client: SocketActor,
    /// The connection at the server.
    there: Conn,
    /// The connection at the client.
    here: Conn,
}

fn pair(mut test: SocketTest, server: EventHandler) -> ConnectedPair {
    let certs = Certs::new();
    let [a, b] = ["a", "b"].map(|name| certs.node(name));
    let (server, client) = (test.spawn(server), test.spawn(ignore));
    let at = test.listen(&server, tls(&a, &[&b]).at("127.0.0.1:0"));
    let here = test.connect(&client, tls(&b, &[&a]).at(at));
    let there = test.run_until_accepted(&server, 1);
    test.run_until("the open connection of the dialler", |_| client.has(here, &ConnEvent::Opened));
    ConnectedPair { test, server, client, there, here }
}

/// A frame whose content depends on its number.
fn frame(number: u32, bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) ^ number.wrapping_mul(40_503)) as u8).collect()
}

/// Frames of a megabyte go both ways in order, and the server reads nothing while the mailbox of its actor is full.
#[test]
fn tls_socket_with_full_mailbox_is_not_read() {
    const FRAMES: u32 = 60;
    let ConnectedPair { mut test, server, client, there, here } = pair(SocketTest::with_mailboxes(4), echo);
    test.suspend(&server);
    test.run_step(&client, move |cx| {
        (0..FRAMES).for_each(|number| cx.write(here, frame(number, 1 << 20)));
    });
    test.run_until_full(&server);
    assert_eq!(server.events_of(there), [ConnEvent::Opened], "the actor handles nothing");
    let unwritten = test.run_step(&client, move |cx| cx.unwritten(here));
    assert!(
        unwritten > 8 << 20,
        "only {unwritten} bytes are unwritten: the rest was read for a suspended actor"
    );
    test.resume(&server);
    test.run_until("all frames", |_| client.event_count() == 2 + FRAMES as usize);
    let events = client.events_of(here);
    assert_eq!(events.iter().filter(|event| **event == ConnEvent::Writable).count(), 1);
    let frames: Vec<&ConnEvent> = events.iter().filter(|event| matches!(event, ConnEvent::Data(_))).collect();
    assert_eq!(frames.len(), FRAMES as usize);
    assert!((0..FRAMES).zip(frames).all(|(number, event)| *event == data(frame(number, 1 << 20))));
    assert_eq!(test.run_step(&client, move |cx| cx.unwritten(here)), 0);
}

/// A record that the system accepts only in part is completed when the peer reads again, without a further write.
#[test]
fn tls_partly_written_record_is_completed_later() {
    let ConnectedPair { mut test, server, client, there, here } = pair(SocketTest::with_mailboxes(4), ignore);
    test.suspend(&server);
    let mut count = 0;
    // Each frame is one record. The loop ends at the first that does not fit: it is encrypted, and a part is unwritten.
    while test.run_step(&client, move |cx| cx.unwritten(here)) == 0 {
        assert!(count < 10_000, "the peer or the system accepts more than 100 MB");
        test.write(&client, here, frame(count, 10_000));
        count += 1;
        test.run_until_idle();
    }
    test.resume(&server);
    test.run_until("all frames", |_| server.event_count() == 1 + count as usize);
    assert_eq!(server.events_of(there).last(), Some(&data(frame(count - 1, 10_000))));
    assert_eq!(test.run_step(&client, move |cx| cx.unwritten(here)), 0);
}

#[test]
fn tls_data_written_before_open_is_sent() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let (server, client) = (test.spawn(echo), test.spawn(ignore));
    let at = test.listen(&server, tls.at(("127.0.0.1", 0)));
    let here = test.connect(&client, tls.at(at));
    test.write(&client, here, "early");
    test.run_until("the echo", |_| client.has(here, &data("early")));
    assert_eq!(client.events_of(here), [ConnEvent::Opened, data("early")]);
}

/// A handshake completes while the mailbox of the listener is full. Its `Opened` is delivered when there is room.
#[test]
fn tls_opened_event_waits_for_full_mailbox() {
    let (mut test, certs) = (SocketTest::with_mailboxes(2), Certs::new());
    let shared = certs.node("shared");
    let tls = tls(&shared, &[]);
    let (server, client) = (test.spawn(ignore), test.spawn(ignore));
    let at = test.listen(&server, tls.at("127.0.0.1:0"));
    let first = test.connect(&client, tls.at(at));
    test.run_until_accepted(&server, 1);
    test.run_until("the open connection of the dialler", |_| client.has(first, &ConnEvent::Opened));
    let pending = TcpStream::connect(at).expect("the listener accepts");
    test.run_until("the pending connection", |test| test.event_loop.stats().sockets == 4);
    test.suspend(&server);
    for text in ["1", "2", "3"] {
        test.write(&client, first, text);
    }
    test.run_until_full(&server);
    let (close_sender, close) = channel();
    let peer = std::thread::spawn(move || {
        let mut peer = bare_tls::begin(pending, &shared);
        peer.write_all(b"\0\0\0\x05after").expect("the listener accepts the data");
        close.recv().expect("the test sends the permission to close");
        peer
    });
    test.run_for_a_while();
    assert_eq!(server.event_count(), 1, "the actor handles nothing");
    test.resume(&server);
    test.run_until("all events", |_| server.event_count() == 6);
    assert_eq!(server.events_of(server.conns()[1]), [ConnEvent::Opened, data("after")]);
    close_sender.send(()).expect("the peer waits");
    drop(test.run_until_finished(peer));
}

#[test]
fn tls_close_delivers_written_data_first() {
    let ConnectedPair { mut test, server, client, there, here } = pair(SocketTest::new(), ignore);
    let frames: Vec<Vec<u8>> = (0..5).map(|number| frame(number, 1 << 20)).collect();
    let written = frames.clone();
    test.run_step(&server, move |cx| {
        written.iter().for_each(|frame| cx.write(there, frame));
        cx.close(there);
    });
    let events = test.run_until_ended(&client, here);
    let expected: Vec<ConnEvent> =
        [ConnEvent::Opened].into_iter().chain(frames.iter().map(data)).chain([ConnEvent::Closed]).collect();
    assert!(events == expected, "{} of {} events", events.len(), expected.len());
    let ended = test.run_until_ended(&server, there);
    assert_eq!(ended.last(), Some(&ConnEvent::Closed));
    test.run_until_sockets(1);
}

#[test]
fn tls_actor_end_delivers_written_data_first() {
    let ConnectedPair { mut test, server, client, here, there } = pair(SocketTest::new(), ignore);
    test.run_step(&server, move |cx| {
        cx.write(there, "last");
        let me = cx.addr();
        cx.terminate(me);
    });
    assert_eq!(test.run_until_ended(&client, here), [ConnEvent::Opened, data("last"), ConnEvent::Closed]);
    test.run_until_sockets(0);
}

#[test]
fn tls_connections_close_cleanly_with_their_loop() {
    let certs = Certs::new();
    let tls = tls(&certs.node("shared"), &[]);
    let (mut server_test, mut test) = (SocketTest::new(), SocketTest::new());
    let (server, client) = (server_test.spawn(ignore), test.spawn(ignore));
    let at = server_test.listen(&server, tls.at("127.0.0.1:0"));
    let here = test.connect(&client, tls.at(at));
    test.run_until("the open connection on both sides", |_| {
        server_test.run_until_idle();
        client.has(here, &ConnEvent::Opened) && server.event_count() == 1
    });
    drop(server_test);
    assert_eq!(test.run_until_ended(&client, here), [ConnEvent::Opened, ConnEvent::Closed]);
}

#[test]
fn tls_peer_that_half_closes_gets_answer() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let shared = certs.node("shared");
    let server = test.spawn(echo);
    let at = test.listen(&server, tls(&shared, &[]).at("127.0.0.1:0"));
    let peer = std::thread::spawn(move || {
        let mut peer = bare_tls::dial(at, &shared);
        peer.write_all(b"\0\0\0\x05hello").expect("the listener accepts the data");
        peer.conn.send_close_notify();
        peer.conn.complete_io(&mut peer.sock).expect("the listener accepts the data");
        let mut answer = Vec::new();
        // Without the listener's `close_notify` this is an error.
        peer.read_to_end(&mut answer).expect("the stream ends with `close_notify`");
        answer
    });
    assert_eq!(test.run_until_finished(peer), b"\0\0\0\x05hello");
    let conn = server.conns()[0];
    assert_eq!(test.run_until_ended(&server, conn), [ConnEvent::Opened, data("hello"), ConnEvent::Closed]);
    test.run_until_sockets(1);
}

#[test]
fn tls_truncated_stream_delivers_frames_then_fails() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let shared = certs.node("shared");
    let server = test.spawn(ignore);
    let at = test.listen(&server, tls(&shared, &[]).at("127.0.0.1:0"));
    let peer = std::thread::spawn(move || {
        let mut peer = bare_tls::dial(at, &shared);
        peer.write_all(b"\0\0\0\x05whole").expect("the listener accepts the data");
        peer.flush().expect("the listener accepts the data");
    });
    test.run_until_finished(peer);
    let conn = test.run_until_accepted(&server, 1);
    let events = test.run_until_ended(&server, conn);
    assert_eq!(events, [ConnEvent::Opened, data("whole"), ConnEvent::Tls(TlsFault::CutShort)]);
    test.run_until_sockets(1);
}

#[test]
fn tls_invalid_record_ends_only_its_connection() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let shared = certs.node("shared");
    let tls = tls(&shared, &[]);
    let (server, client) = (test.spawn(echo), test.spawn(ignore));
    let at = test.listen(&server, tls.at("127.0.0.1:0"));
    let good = test.connect(&client, tls.at(at));
    test.run_until_accepted(&server, 1);
    let peer = std::thread::spawn(move || {
        let mut peer = bare_tls::dial(at, &shared);
        peer.conn.writer().write_all(b"\0\0\0\x05valid").expect("a vector accepts all bytes");
        let mut bytes = Vec::new();
        peer.conn.write_tls(&mut bytes).expect("a vector accepts all bytes");
        // A record that is not encrypted with the key of the session, in the same packet.
        bytes.extend_from_slice(&[23, 3, 3, 0, 20]);
        bytes.extend_from_slice(&[0; 20]);
        peer.sock.write_all(&bytes).expect("the listener accepts the data");
        let mut answer = Vec::new();
        // The peer receives an alert or a reset.
        drop(peer.sock.read_to_end(&mut answer));
    });
    test.run_until_finished(peer);
    let bad = test.run_until_accepted(&server, 2);
    let events = test.run_until_ended(&server, bad);
    assert_eq!(events, [ConnEvent::Opened, data("valid"), ConnEvent::Tls(TlsFault::Broken)]);
    test.write(&client, good, "still here");
    test.run_until("the echo", |_| client.has(good, &data("still here")));
}

#[test]
fn tls_frame_over_limit_ends_connection() {
    let ConnectedPair { mut test, server, client, there, here } = pair(SocketTest::new(), ignore);
    test.run_step(&client, move |cx| cx.write(here, vec![0; (1 << 20) + 1]));
    let too_long = ConnEvent::Socket(SocketError::FrameTooLong { max: 1 << 20 });
    assert_eq!(test.run_until_ended(&client, here), [ConnEvent::Opened, too_long]);
    // The client sends no `close_notify`.
    assert_eq!(test.run_until_ended(&server, there), [ConnEvent::Opened, ConnEvent::Tls(TlsFault::CutShort)]);
}

#[test]
fn tls_unlisten_closes_pending_and_keeps_open_connections() {
    let (mut test, certs) = (SocketTest::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let (server, client) = (test.spawn(echo), test.spawn(ignore));
    let at = test.listen(&server, tls.at("127.0.0.1:0"));
    let here = test.connect(&client, tls.at(at));
    test.run_until_accepted(&server, 1);
    let mut pending = TcpStream::connect(at).expect("the listener accepts");
    test.run_until("the pending connection", |test| test.event_loop.stats().sockets == 4);
    assert!(test.run_step(&server, move |cx| cx.unlisten(at)));
    test.run_until_sockets(2);
    assert!(matches!(pending.read(&mut [0]), Ok(0)), "the pending connection is closed");
    assert!(test.log.lines("in time").is_empty(), "the pending connection has not timed out");
    test.write(&client, here, "on");
    test.run_until("the echo", |_| client.has(here, &data("on")));
}
