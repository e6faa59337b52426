//! How connections end: closed by the actor, with the actor, by both at once.

use std::io::{Read, Write};
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
fn close_writes_all_that_was_written_and_tells_the_end_after_that() {
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
    station.until("rest", |station| !station.events.is_runnable());
    assert_eq!(station.heard.joined(conn).matches("closed").count(), 0, "most of it waits");
    let reader = reading(peer);
    station.until("all of it", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), vec![7; BYTES]);
    station.until_ended(conn);
    assert_eq!(station.heard.of(conn).last().unwrap(), "closed");
    station.until("the end of the socket", |station| station.events.stats().sockets == 1);
    let stats = station.events.stats();
    assert_eq!((stats.sources, stats.timers), (1, 0));
}

#[test]
fn what_the_peer_said_and_nobody_read_does_not_cost_it_the_last_words() {
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
    // All that the system takes is written, most of it not yet sent: a reset now would lose it.
    station.until("rest", |station| !station.events.is_runnable());
    let reader = reading(peer);
    station.until("all of it", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap().len(), BYTES);
}

#[test]
fn closing_before_the_connection_is_made_ends_it_at_once() {
    let mut station = Station::new(nothing);
    let at = station.listen(LINES);
    let conn = station.act(move |cx| {
        let conn = cx.connect(at, LINES, secs(20), Net::On);
        cx.close(conn);
        cx.close(conn);
        conn
    });
    assert_eq!(station.until_ended(conn), "closed");
    assert_eq!(station.events.stats().timers, 0);
}

#[test]
fn what_an_actor_wrote_in_its_last_step_goes_out_and_its_sockets_end_with_it() {
    let mut station = Station::new(|cx, message| {
        if let Net::On(conn, SocketEvent::Data(_)) = message {
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
fn a_connection_that_was_closed_writes_on_when_its_actor_has_ended() {
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
    assert_eq!(station.events.stats().sockets, 1, "it writes on");
    let reader = reading(peer);
    station.until("all of it", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap().len(), BYTES);
    station.until("the end of the socket", |station| station.events.stats().sockets == 0);
    assert_eq!((station.events.stats().sources, station.events.stats().timers), (0, 0));
}

#[test]
fn a_peer_that_takes_nothing_ends_with_its_actor_unless_it_was_closed() {
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
fn a_listener_ends_alone_and_its_connections_stay() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let mut peer = client(at);
    let conn = station.until_accepted();
    assert!(station.act(move |cx| cx.unlisten(at)));
    assert!(!station.act(move |cx| cx.unlisten(at)));
    assert!(TcpStream::connect(at).is_err());
    peer.write_all(b"hello\n").unwrap();
    station.until("the line", |station| station.heard.has(conn, "hello"));
}

#[test]
fn nobody_but_its_actor_writes_to_a_connection_or_closes_it() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let peer = client(at);
    let conn = station.until_accepted();
    within(&mut station.events, move |cx| {
        cx.write(conn, "an intruder");
        cx.close(conn);
        assert_eq!(cx.unwritten(conn), 0);
    });
    station.act(move |cx| cx.close(conn));
    let reader = reading(peer);
    station.until("the end", |_| reader.is_finished());
    assert!(reader.join().unwrap().is_empty());
}

#[test]
fn a_constructor_that_panics_ends_its_actor_and_its_sockets() {
    let mut station = Station::new(nothing);
    let at = station.act(|cx| {
        cx.listen("127.0.0.1:0", LINES, |conn, what| match what {
            SocketEvent::Data(_) => panic!("no such message"),
            what => Net::On(conn, what),
        })
        .unwrap()
    });
    let log = Log::default();
    log_end(&mut station.events, &log, station.actor);
    let mut peer = client(at);
    peer.write_all(b"one\ntwo\n").unwrap();
    station.until("the end of the sockets", |station| station.events.stats().sockets == 0);
    let reader = reading(peer);
    station.until("the end", |_| reader.is_finished());
    drop(reader.join());
    assert_eq!(log.take(), "[panicked: no such message]");
}

#[test]
fn a_thousand_connections_that_come_and_go_leave_nothing_behind() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let before = station.events.stats();
    for round in 0..1000 {
        let conn = station.connect(at, LINES);
        station.until("it to open", |station| station.heard.has(conn, "opened"));
        if round % 2 == 0 {
            station.write(conn, "x");
        }
        station.act(move |cx| cx.close(conn));
        station.until_ended(conn);
    }
    station.until("the end of all", |station| station.events.stats().sockets == 1);
    let after = station.events.stats();
    assert_eq!(LoopStats { steps: before.steps, ..after }, before);
}
