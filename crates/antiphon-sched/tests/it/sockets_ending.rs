//! How connections end: closed by the actor, with the actor, by both at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use antiphon_sched::*;

use crate::common::*;
use crate::station::*;

fn client(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(secs(20))).unwrap();
    stream
}

fn reading(mut stream: TcpStream) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

#[test]
fn close_with_pending_data_writes_all_first() {
    const BYTES: usize = 16 << 20;
    let mut station = Station::new(nothing);
    let at = station.listen(Framing::Bytes);
    let mut peer = client(at);
    let conn = station.until_accepted();
    peer.write_all(&[1; 100_000]).unwrap();
    station.act(move |cx| {
        cx.write(conn, vec![7; BYTES]);
        cx.close(conn);
        cx.write(conn, "too late");
    });
    station.until("an idle loop", |station| !station.events.is_runnable());
    assert_eq!(station.log.joined(conn).matches("closed").count(), 0, "`Closed` came before all was written");
    let reader = reading(peer);
    station.until("all of it", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), vec![7; BYTES]);
    station.until_ended(conn);
    assert_eq!(station.log.of(conn).last().unwrap(), "closed");
    station.until("the end of the socket", |station| station.events.stats().sockets == 1);
    let stats = station.events.stats();
    assert_eq!((stats.sources, stats.timers), (1, 0));
}

#[test]
fn close_with_unread_input_causes_no_reset() {
    const BYTES: usize = 400_000;
    let mut station = Station::new(nothing);
    let at = station.listen(Framing::Bytes);
    let mut peer = client(at);
    let conn = station.until_accepted();
    peer.write_all(&[1; 10_000]).unwrap();
    station.act(move |cx| {
        cx.write(conn, vec![7; BYTES]);
        cx.close(conn);
    });
    // The system has taken part of the data, and has not sent most of that: a reset now would lose it.
    station.until("an idle loop", |station| !station.events.is_runnable());
    let reader = reading(peer);
    station.until("all of it", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap().len(), BYTES);
}

#[test]
fn close_before_connect_ends_at_once() {
    let mut station = Station::new(nothing);
    let at = station.listen(LINES);
    let conn = station.act(move |cx| {
        let conn = cx.connect(at, LINES, secs(20), StationMessage::On);
        cx.close(conn);
        cx.close(conn);
        conn
    });
    assert_eq!(station.until_ended(conn), "closed");
    assert_eq!(station.events.stats().timers, 0);
}

#[test]
fn actor_end_writes_data_and_closes_sockets() {
    let mut station = Station::new(|cx, message| {
        if let StationMessage::On(conn, SocketEvent::Data(_)) = message {
            cx.write(*conn, "farewell");
            cx.terminate(cx.addr());
        }
    });
    let at = station.listen(LINES);
    let mut peer = client(at);
    station.until_accepted();
    peer.write_all(b"go\n").unwrap();
    let reader = reading(peer);
    station.until("the end", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), b"farewell\n");
    let stats = station.events.stats();
    assert_eq!((stats.sockets, stats.sources, stats.extras, stats.timers), (0, 0, 0, 0));
}

#[test]
fn closed_connection_outlives_actor_until_written() {
    const BYTES: usize = 16 << 20;
    let mut station = Station::new(nothing);
    let at = station.listen(Framing::Bytes);
    let peer = client(at);
    let conn = station.until_accepted();
    station.act(move |cx| {
        cx.write(conn, vec![7; BYTES]);
        cx.close(conn);
        cx.terminate(cx.addr());
    });
    station.until("the end of the actor", |station| station.events.stats().actors == 0);
    assert_eq!(station.events.stats().sockets, 1, "the connection is still writing");
    let reader = reading(peer);
    station.until("all of it", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap().len(), BYTES);
    station.until("the end of the socket", |station| station.events.stats().sockets == 0);
    assert_eq!((station.events.stats().sources, station.events.stats().timers), (0, 0));
}

#[test]
fn open_connection_with_backlog_ends_with_actor() {
    let mut station = Station::new(nothing);
    let at = station.listen(Framing::Bytes);
    let _peer = client(at);
    let conn = station.until_accepted();
    station.act(move |cx| {
        cx.write(conn, vec![7; 16 << 20]);
        cx.terminate(cx.addr());
    });
    station.until("the end of the actor", |station| station.events.stats().actors == 0);
    assert_eq!(station.events.stats().sockets, 0);
}

#[test]
fn unlisten_keeps_open_connections() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let mut peer = client(at);
    let conn = station.until_accepted();
    assert!(station.act(move |cx| cx.unlisten(at)));
    assert!(!station.act(move |cx| cx.unlisten(at)));
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    peer.write_all(b"hello\n").unwrap();
    station.until("the line", |station| station.log.has(conn, "hello"));
}

#[test]
fn connection_ignores_calls_of_other_actors() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let peer = client(at);
    let conn = station.until_accepted();
    with_cx(&mut station.events, move |cx| {
        cx.write(conn, "from another actor");
        cx.close(conn);
        assert_eq!(cx.unwritten(conn), 0);
    });
    assert_eq!(station.log.joined(conn), "opened");
    station.act(move |cx| cx.close(conn));
    assert_eq!(station.until_ended(conn), "opened closed");
    let reader = reading(peer);
    station.until("the end", |_| reader.is_finished());
    assert!(reader.join().unwrap().is_empty());
}

#[test]
fn constructor_panic_ends_actor_and_sockets() {
    let mut station = Station::new(nothing);
    let at = station.act(|cx| {
        cx.listen("127.0.0.1:0", LINES, |conn, event| match event {
            SocketEvent::Data(_) => panic!("no such message"),
            event => StationMessage::On(conn, event),
        })
        .unwrap()
    });
    let log = Log::default();
    log_exit(&mut station.events, &log, station.actor);
    let mut peer = client(at);
    peer.write_all(b"one\ntwo\n").unwrap();
    station.until("the end of the sockets", |station| station.events.stats().sockets == 0);
    let reader = reading(peer);
    station.until("the end", |_| reader.is_finished());
    drop(reader.join());
    assert_eq!(log.take(), "[panicked: no such message]");
}

#[test]
fn thousand_short_connections_leave_no_state() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let before = station.events.stats();
    for round in 0..1000 {
        let conn = station.connect(at, LINES);
        station.until("an open connection", |station| station.log.has(conn, "opened"));
        if round % 2 == 0 {
            station.write(conn, "x");
        }
        station.act(move |cx| cx.close(conn));
        station.until_ended(conn);
    }
    station.until("the end of all", |station| station.events.stats().sockets == 1);
    let after = station.events.stats();
    let mut unchanged = after;
    unchanged.steps = before.steps;
    assert_eq!(unchanged, before);
}
