//! Conversations, and their ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;

use antiphon_dist::TlsFault;
use antiphon_sched::{Conn, SocketError};

use crate::common::bare_tls;
use crate::common::certs::Certs;
use crate::players::*;

/// One listening player and one that dials it, each with a certificate, and each other's pinned.
struct Pair {
    stage: Stage,
    server: Player,
    client: Player,
    there: Conn,
    here: Conn,
}

fn pair(mut stage: Stage, server: Reaction) -> Pair {
    let certs = Certs::new();
    let [a, b] = ["a", "b"].map(|name| certs.node(name));
    let (server, client) = (stage.player(server), stage.player(nothing));
    let at = stage.listen(&server, tls(&a, &[&b]).at("127.0.0.1:0"));
    let here = stage.connect(&client, tls(&b, &[&a]).at(at));
    let there = stage.until_accepted(&server, 1);
    stage.until("the dialler's news", |_| client.has(here, &Told::Opened));
    Pair { stage, server, client, there, here }
}

/// A frame that differs from all others.
fn frame(number: u32, bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) ^ number.wrapping_mul(40_503)) as u8).collect()
}

#[test]
fn frames_of_a_megabyte_go_both_ways_in_order_and_nothing_is_read_while_a_mailbox_is_full() {
    const FRAMES: u32 = 60;
    let Pair { mut stage, server, client, there, here } = pair(Stage::with_mailboxes(4), echo);
    stage.doze(&server);
    stage.act(&client, move |cx| {
        (0..FRAMES).for_each(|number| cx.write(here, frame(number, 1 << 20)));
    });
    stage.until_full(&server);
    assert_eq!(server.of(there), [Told::Opened], "it takes nothing");
    let waiting = stage.act(&client, move |cx| cx.unwritten(here));
    assert!(
        waiting > 8 << 20,
        "only {waiting} bytes wait: the rest was read for an actor that takes nothing"
    );
    stage.wake(&server);
    stage.until("all frames", |_| client.count() == 2 + FRAMES as usize);
    let heard = client.of(here);
    assert_eq!(heard.iter().filter(|told| **told == Told::Writable).count(), 1);
    let frames: Vec<&Told> = heard.iter().filter(|told| matches!(told, Told::Data(_))).collect();
    assert!((0..FRAMES).zip(frames).all(|(number, told)| *told == data(frame(number, 1 << 20))));
    assert_eq!(stage.act(&client, move |cx| cx.unwritten(here)), 0);
}

#[test]
fn what_is_sealed_when_the_peer_takes_no_more_goes_out_later_without_another_word() {
    let Pair { mut stage, server, client, there, here } = pair(Stage::with_mailboxes(4), nothing);
    stage.doze(&server);
    let mut count = 0;
    // Frames of one record, until the first that does not fit: all of it is sealed, and a part waits.
    while stage.act(&client, move |cx| cx.unwritten(here)) == 0 {
        assert!(count < 10_000, "somebody takes more than 100 MB");
        stage.write(&client, here, frame(count, 10_000));
        count += 1;
        stage.settle();
    }
    stage.wake(&server);
    stage.until("all frames", |_| server.count() == 1 + count as usize);
    assert_eq!(server.of(there).last(), Some(&data(frame(count - 1, 10_000))));
    assert_eq!(stage.act(&client, move |cx| cx.unwritten(here)), 0);
}

#[test]
fn what_is_written_before_it_is_open_goes_out_then() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let (server, client) = (stage.player(echo), stage.player(nothing));
    let at = stage.listen(&server, tls.at(("127.0.0.1", 0)));
    let here = stage.connect(&client, tls.at(at));
    stage.write(&client, here, "early");
    stage.until("the echo", |_| client.has(here, &data("early")));
    assert_eq!(client.of(here), [Told::Opened, data("early")]);
}

#[test]
fn who_is_agreed_with_while_the_mailbox_is_full_is_told_of_when_there_is_room() {
    let (mut stage, certs) = (Stage::with_mailboxes(2), Certs::new());
    let shared = certs.node("shared");
    let tls = tls(&shared, &[]);
    let (server, client) = (stage.player(nothing), stage.player(nothing));
    let at = stage.listen(&server, tls.at("127.0.0.1:0"));
    let first = stage.connect(&client, tls.at(at));
    stage.until_accepted(&server, 1);
    stage.until("the dialler's news", |_| client.has(first, &Told::Opened));
    let stranger = TcpStream::connect(at).expect("the listener is there");
    stage.until("the stranger", |stage| stage.events.stats().sockets == 4);
    stage.doze(&server);
    for text in ["1", "2", "3"] {
        stage.write(&client, first, text);
    }
    stage.until_full(&server);
    let (go_on, waits) = channel();
    let peer = std::thread::spawn(move || {
        let mut peer = bare_tls::begin(stranger, &shared);
        peer.write_all(b"\0\0\0\x05after").expect("the listener reads");
        waits.recv().expect("the test tells when");
        peer
    });
    stage.linger();
    assert_eq!(server.count(), 1, "it takes nothing");
    stage.wake(&server);
    stage.until("all", |_| server.count() == 6);
    assert_eq!(server.of(server.conns()[1]), [Told::Opened, data("after")]);
    go_on.send(()).expect("the peer waits");
    drop(stage.join(peer));
}

#[test]
fn closing_in_good_order_delivers_the_last_words_and_both_are_told_that_it_was_so() {
    let Pair { mut stage, server, client, there, here } = pair(Stage::new(), nothing);
    let words: Vec<Vec<u8>> = (0..5).map(|number| frame(number, 1 << 20)).collect();
    let spoken = words.clone();
    stage.act(&server, move |cx| {
        spoken.iter().for_each(|word| cx.write(there, word));
        cx.close(there);
    });
    let heard = stage.until_ended(&client, here);
    let expected: Vec<Told> =
        [Told::Opened].into_iter().chain(words.iter().map(data)).chain([Told::Closed]).collect();
    assert!(heard == expected, "{} of {} were told", heard.len(), expected.len());
    let ended = stage.until_ended(&server, there);
    assert_eq!(ended.last(), Some(&Told::Closed));
    stage.until_left(1);
}

#[test]
fn an_actor_that_ends_has_said_all_that_it_wrote_and_its_peer_is_told_a_good_end() {
    let Pair { mut stage, server, client, here, there } = pair(Stage::new(), nothing);
    stage.act(&server, move |cx| {
        cx.write(there, "last");
        let me = cx.addr();
        cx.terminate(me);
    });
    assert_eq!(stage.until_ended(&client, here), [Told::Opened, data("last"), Told::Closed]);
    stage.until_left(0);
}

#[test]
fn a_loop_that_ends_has_its_connections_end_well() {
    let certs = Certs::new();
    let tls = tls(&certs.node("shared"), &[]);
    let (mut theirs, mut stage) = (Stage::new(), Stage::new());
    let (server, client) = (theirs.player(nothing), stage.player(nothing));
    let at = theirs.listen(&server, tls.at("127.0.0.1:0"));
    let here = stage.connect(&client, tls.at(at));
    stage.until("both sides' news", |_| {
        theirs.settle();
        client.has(here, &Told::Opened) && server.count() == 1
    });
    drop(theirs);
    assert_eq!(stage.until_ended(&client, here), [Told::Opened, Told::Closed]);
}

#[test]
fn who_ends_its_half_first_still_hears_the_answer_and_a_good_end() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let shared = certs.node("shared");
    let server = stage.player(echo);
    let at = stage.listen(&server, tls(&shared, &[]).at("127.0.0.1:0"));
    let peer = std::thread::spawn(move || {
        let mut peer = bare_tls::dial(at, &shared);
        peer.write_all(b"\0\0\0\x05hello").expect("the listener reads");
        peer.conn.send_close_notify();
        peer.conn.complete_io(&mut peer.sock).expect("the listener reads");
        let mut heard = Vec::new();
        // An end without TLS's word would be an error here.
        peer.read_to_end(&mut heard).expect("a good end");
        heard
    });
    assert_eq!(stage.join(peer), b"\0\0\0\x05hello");
    let conn = server.conns()[0];
    assert_eq!(stage.until_ended(&server, conn), [Told::Opened, data("hello"), Told::Closed]);
    stage.until_left(1);
}

#[test]
fn a_stream_that_is_cut_short_is_told_as_such_after_all_that_arrived_whole() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let shared = certs.node("shared");
    let server = stage.player(nothing);
    let at = stage.listen(&server, tls(&shared, &[]).at("127.0.0.1:0"));
    let peer = std::thread::spawn(move || {
        let mut peer = bare_tls::dial(at, &shared);
        peer.write_all(b"\0\0\0\x05whole").expect("the listener reads");
        peer.flush().expect("the listener reads");
    });
    stage.join(peer);
    let conn = stage.until_accepted(&server, 1);
    let heard = stage.until_ended(&server, conn);
    assert_eq!(heard, [Told::Opened, data("whole"), Told::Tls(TlsFault::CutShort)]);
    stage.until_left(1);
}

#[test]
fn bad_bytes_end_their_connection_after_what_was_sound_and_no_other() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let shared = certs.node("shared");
    let tls = tls(&shared, &[]);
    let (server, client) = (stage.player(echo), stage.player(nothing));
    let at = stage.listen(&server, tls.at("127.0.0.1:0"));
    let good = stage.connect(&client, tls.at(at));
    stage.until_accepted(&server, 1);
    let peer = std::thread::spawn(move || {
        let mut peer = bare_tls::dial(at, &shared);
        peer.conn.writer().write_all(b"\0\0\0\x05sound").expect("memory takes it");
        let mut bytes = Vec::new();
        peer.conn.write_tls(&mut bytes).expect("memory takes it");
        // A record that no key has sealed, in the same packet.
        bytes.extend_from_slice(&[23, 3, 3, 0, 20]);
        bytes.extend_from_slice(&[0; 20]);
        peer.sock.write_all(&bytes).expect("the listener reads");
        let mut answer = Vec::new();
        // The alert, or a reset.
        drop(peer.sock.read_to_end(&mut answer));
    });
    stage.join(peer);
    let bad = stage.until_accepted(&server, 2);
    let heard = stage.until_ended(&server, bad);
    assert_eq!(heard, [Told::Opened, data("sound"), Told::Tls(TlsFault::Broken)]);
    stage.write(&client, good, "still here");
    stage.until("the echo", |_| client.has(good, &data("still here")));
}

#[test]
fn a_frame_over_the_limit_ends_the_connection_as_without_tls() {
    let Pair { mut stage, server, client, there, here } = pair(Stage::new(), nothing);
    stage.act(&client, move |cx| cx.write(here, vec![0; (1 << 20) + 1]));
    let too_long = Told::SocketEvent(SocketError::FrameTooLong { max: 1 << 20 });
    assert_eq!(stage.until_ended(&client, here), [Told::Opened, too_long]);
    // It did not say that it ends.
    assert_eq!(stage.until_ended(&server, there), [Told::Opened, Told::Tls(TlsFault::CutShort)]);
}

#[test]
fn strangers_go_with_their_listener_and_open_connections_stay() {
    let (mut stage, certs) = (Stage::new(), Certs::new());
    let tls = tls(&certs.node("shared"), &[]);
    let (server, client) = (stage.player(echo), stage.player(nothing));
    let at = stage.listen(&server, tls.at("127.0.0.1:0"));
    let here = stage.connect(&client, tls.at(at));
    stage.until_accepted(&server, 1);
    let mut stranger = TcpStream::connect(at).expect("the listener is there");
    stage.until("the stranger", |stage| stage.events.stats().sockets == 4);
    assert!(stage.act(&server, move |cx| cx.unlisten(at)));
    stage.until_left(2);
    assert!(matches!(stranger.read(&mut [0]), Ok(0)), "it was closed");
    assert!(stage.log.lines("in time").is_empty(), "it had time left");
    stage.write(&client, here, "on");
    stage.until("the echo", |_| client.has(here, &data("on")));
}
