//! TCP connections of actors: framing, limits, backpressure, errors.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;

use antiphon_sched::*;

use crate::common::*;
use crate::station::*;

/// A connection from outside of the loop that never waits for ever.
fn client(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(secs(20))).unwrap();
    stream.set_write_timeout(Some(secs(20))).unwrap();
    stream
}

/// Where nobody listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn what_is_framed_comes_back_framed_also_after_the_peer_has_ended_its_half() {
    let counted = Framing::LengthPrefixed { max: 100 };
    for (framing, sent, back) in [
        (Framing::Bytes, &b"any bytes\0"[..], &b"any bytes\0"[..]),
        (LINES, b"one\r\ntwo\nthree", b"one\ntwo\nthree\n"),
        (counted, b"\0\0\0\x03one\0\0\0\0\0\0\0\x01!", b"\0\0\0\x03one\0\0\0\0\0\0\0\x01!"),
    ] {
        let mut station = Station::new(echo);
        let at = station.listen(framing);
        let peer = thread::spawn(move || {
            let mut stream = client(at);
            stream.write_all(sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            heard
        });
        let conn = station.until_accepted();
        station.until_ended(conn);
        station.until("the end of the socket", |station| station.events.stats().sockets == 1);
        assert_eq!(peer.join().unwrap(), back);
        assert_eq!(station.heard.of(conn).last().unwrap(), "closed");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_thousand_connections_are_served_by_one_actor() {
    const COUNT: usize = 1000;
    if !raise_descriptors(2 * COUNT as u64 + 200) {
        eprintln!("this system allows too few descriptors; not tested");
        return;
    }
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let mut peers = Station::new(nothing);
    let conns: Vec<Conn> = (0..COUNT).map(|_| peers.connect(at, LINES)).collect();
    for &conn in &conns {
        peers.write(conn, format!("hello {conn}"));
    }
    let all_heard = |peers: &Station| {
        conns.iter().all(|conn| peers.heard.joined(*conn) == format!("opened hello {conn}"))
    };
    for _ in 0..100_000 {
        let now = station.events.now();
        station.events.run_once(Some(now)).unwrap();
        let now = peers.events.now();
        peers.events.run_once(Some(now)).unwrap();
        if all_heard(&peers) {
            break;
        }
    }
    assert!(all_heard(&peers));
    assert_eq!(station.events.stats().sockets, COUNT + 1);
    drop(peers);
    station.until("the end of all", |station| station.events.stats().sockets == 1);
}

#[cfg(target_os = "linux")]
fn raise_descriptors(wanted: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: Some(wanted), maximum: limits.maximum };
    limits.current.is_none_or(|current| current >= wanted) || setrlimit(Resource::Nofile, raised).is_ok()
}

#[test]
fn a_slow_reader_costs_a_bounded_queue_and_the_writer_is_told_when_it_went_down() {
    const BYTES: usize = 24 << 20;
    let mut station = Station::new(nothing);
    let at = station.listen(Framing::Bytes);
    let mut peer = client(at);
    let conn = station.until_accepted();
    station.write(conn, vec![7; BYTES]);
    let mut before = usize::MAX;
    station.until("the system's own queue to be full", |station| {
        // Nobody reads: as soon as a round writes nothing, nothing more will be.
        let runs = station.events.is_runnable();
        before = if runs { usize::MAX } else { before.min(1) };
        before == 1
    });
    assert!(station.act(move |cx| cx.unwritten(conn)) > 1 << 20);
    assert_eq!(station.heard.joined(conn), "opened");
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; BYTES];
        peer.read_exact(&mut bytes).unwrap();
        (bytes.iter().all(|byte| *byte == 7), peer)
    });
    station.until("room", |station| station.heard.has(conn, "writable"));
    station.until("all of it", |_| reader.is_finished());
    let (all_sevens, _peer) = reader.join().unwrap();
    assert!(all_sevens);
    assert_eq!(station.heard.joined(conn), "opened writable");
    assert_eq!(station.act(move |cx| cx.unwritten(conn)), 0);
}

#[test]
fn a_writer_that_never_pauses_loses_the_connection_at_the_cap_and_is_told_so() {
    let mut station = Station::new(nothing);
    let at = station.listen(Framing::Bytes);
    let _peer = client(at);
    let conn = station.until_accepted();
    station.act(move |cx| {
        for _ in 0..65 {
            cx.write(conn, vec![7; 1 << 20]);
        }
    });
    let told = station.until_ended(conn);
    assert_eq!(told, format!("opened closed: {}", SocketError::QueueFull { max: 64 << 20 }));
    assert_eq!(station.events.stats().sockets, 1, "the listener is left");
}

#[test]
fn a_refused_connection_and_a_forbidden_one_are_closed_with_the_reason() {
    let mut station = Station::new(nothing);
    let refused = station.connect(nowhere(), LINES);
    let told = station.until_ended(refused);
    assert!(told.starts_with("closed: ") && told.contains("refused"), "{told}");
    for forbidden in ["192.0.2.1:9", "example.com:9"] {
        let conn = station.act(move |cx| cx.connect(forbidden, LINES, secs(20), Net::On));
        let told = station.until_ended(conn);
        assert!(told.contains("is not on loopback"), "{told}");
    }
    let no_port = station.act(|cx| cx.connect("localhost", LINES, secs(20), Net::On));
    assert!(station.until_ended(no_port).contains("no `host:port`"));
    let denied = station.act(|cx| cx.listen("0.0.0.0:0", LINES, Net::On).unwrap_err());
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let by_name = station.act(|cx| cx.listen("example.com:0", LINES, Net::On).unwrap_err());
    assert!(by_name.to_string().contains("look names up first"));
    assert_eq!((station.events.stats().sockets, station.events.stats().timers), (0, 0));
}

/// A name, where a plain `localhost` would be known without a look-up.
struct LookedUp(&'static str, u16);

impl Endpoint for LookedUp {
    fn host(&self) -> std::io::Result<Host> {
        Ok(Host::Name(self.0.into(), self.1))
    }
}

#[test]
fn a_name_is_looked_up_by_a_helper_and_its_addresses_tried_in_turn() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let conn = station.act(move |cx| {
        let conn = cx.connect(LookedUp("localhost", at.port()), LINES, secs(20), Net::On);
        cx.write(conn, "written before it was open");
        conn
    });
    station.until("the echo", |station| station.heard.of(conn).len() == 2);
    assert_eq!(station.heard.joined(conn), "opened written before it was open");
    // The first of these refuses.
    let both = [nowhere(), at];
    let conn = station.act(move |cx| cx.connect(&both[..], LINES, secs(20), Net::On));
    station.until("a connection", |station| station.heard.has(conn, "opened"));
    let nobody = station.act(move |cx| cx.connect(&[][..] as &[SocketAddr], LINES, secs(20), Net::On));
    assert!(station.until_ended(nobody).contains("no address"));
}

#[test]
fn a_connection_that_nobody_takes_is_closed_at_its_timeout() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let at = listener.local_addr().unwrap().as_socket().unwrap();
    // Fills the backlog: from then on the system takes no connection.
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&at, millis(200)) {
        held.push(stream);
        assert!(held.len() < 100, "a backlog that is never full");
    }
    let mut station = Station::new(nothing);
    let conn = station.act(move |cx| cx.connect(at, LINES, millis(30), Net::On));
    assert_eq!(station.until_ended(conn), format!("closed: {}", SocketError::ConnectTimedOut));
    assert_eq!(station.events.stats().sockets, 0);
}

#[test]
fn a_peer_that_dies_closes_the_connection_with_an_error() {
    let mut station = Station::new(nothing);
    let at = station.listen(LINES);
    let mut peer = client(at);
    peer.write_all(b"last words\n").unwrap();
    let conn = station.until_accepted();
    station.until("the words", |station| station.heard.has(conn, "last words"));
    // Reset, as by the end of its machine.
    socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(peer);
    let told = station.until_ended(conn);
    assert!(told.starts_with("opened last words closed: "), "{told}");
}

#[test]
fn frames_over_the_limit_close_the_connection_with_a_typed_error() {
    for (framing, bytes) in [
        (Framing::Lines { max: 5 }, &b"short\ntoo long\nshort\n"[..]),
        (Framing::LengthPrefixed { max: 5 }, b"\0\0\0\x05short\xff\xff\xff\xff"),
    ] {
        let mut station = Station::new(nothing);
        let at = station.listen(framing);
        let mut peer = client(at);
        peer.write_all(bytes).unwrap();
        let conn = station.until_accepted();
        let told = station.until_ended(conn);
        assert_eq!(told, format!("opened short closed: {}", SocketError::FrameTooLong { max: 5 }));
    }
    let mut station = Station::new(|cx, message| {
        if let Net::On(conn, SocketEvent::Opened(_)) = message {
            cx.write(*conn, "too long");
        }
        if let Net::On(_, SocketEvent::Closed(Some(reason))) = message {
            let inner = reason.get_ref().and_then(|inner| inner.downcast_ref::<SocketError>());
            assert_eq!(inner, Some(&SocketError::FrameTooLong { max: 5 }));
        }
    });
    let at = station.listen(Framing::LengthPrefixed { max: 5 });
    let mut peer = client(at);
    let conn = station.until_accepted();
    station.until_ended(conn);
    assert_eq!(peer.read(&mut [0; 9]).unwrap_or(0), 0, "nothing of it was sent");
}

#[test]
fn while_a_mailbox_is_full_nothing_is_read_and_nothing_is_lost() {
    const LINES_EACH: usize = 20_000;
    let config = LoopConfig { mailbox_max: 16, watchdog: None, ..LoopConfig::default() };
    let mut station = Station::on(Loop::new(config).unwrap(), nothing);
    let at = station.listen(LINES);
    let go = Arc::new(Barrier::new(4));
    let peers: Vec<_> = (0..3)
        .map(|_| {
            let go = go.clone();
            thread::spawn(move || {
                // More than the system keeps for a reader.
                let lines: String = (0..LINES_EACH).map(|n| format!("{n:0>900}\n")).collect();
                let mut stream = client(at);
                go.wait();
                stream.write_all(lines.as_bytes()).unwrap();
            })
        })
        .collect();
    station.until("three connections", |station| station.heard.conns().len() == 3);
    let sleeper = station.actor;
    station.doze();
    go.wait();
    while station.events.loop_ref().has_room(sleeper.id().key()) != Some(false) {
        station.events.run_once(None).unwrap();
    }
    station.until("rest", |station| !station.events.is_runnable());
    // Time enough to read all of it, if anything were read.
    for _ in 0..300 {
        let now = station.events.now();
        station.events.run_once(Some(now + millis(1))).unwrap();
    }
    assert!(!peers.iter().any(thread::JoinHandle::is_finished), "most of it still waits");
    within(&mut station.events, move |cx| cx.resume(sleeper, ()));
    station.until("all lines", |station| {
        station.heard.conns().iter().all(|conn| station.heard.has_ended(*conn))
    });
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    let numbers = (0..LINES_EACH).map(|n| format!("{n:0>900}"));
    let whole: Vec<String> = ["opened".into()].into_iter().chain(numbers).chain(["closed".into()]).collect();
    for conn in station.heard.conns() {
        assert_eq!(station.heard.of(conn), whole);
    }
}

#[test]
fn a_connection_survives_a_change_of_behaviour() {
    let mut station = Station::new(nothing);
    let at = station.listen(LINES);
    let mut peer = client(at);
    let conn = station.until_accepted();
    let (heard, actor) = (station.heard.clone(), station.actor);
    within(&mut station.events, move |cx| {
        let mut next = actor_of(&heard, echo);
        cx.swap(actor, move |cx, event| next.step(cx, event));
    });
    peer.write_all(b"still there\n").unwrap();
    station.until("the echo", |station| station.heard.has(conn, "still there"));
    let mut back = [0; 12];
    station.until("the end of the round", |station| !station.events.is_runnable());
    peer.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there\n");
}

#[test]
fn neither_a_flood_of_bytes_nor_an_actor_that_talks_to_itself_starves_the_other() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let talker = station.events.spawn(move |cx, event: Event<()>| {
        if let Event::Message(()) | Event::Start = event {
            cx.tell(cx.addr(), ());
        }
        receive()
    });
    let mut flooder = client(at);
    let flood = thread::spawn(move || {
        let line = "x".repeat(999) + "\n";
        let mut bytes = [0; 1 << 16];
        for _ in 0..4000 {
            flooder.write_all(line.as_bytes()).unwrap();
            flooder.read_exact(&mut bytes[..1000]).unwrap();
        }
    });
    let steps = station.events.stats().steps;
    station.until("the end of the flood", |_| flood.is_finished());
    flood.join().unwrap();
    assert!(station.events.stats().steps > steps + 8000, "the talker ran as well");
    within(&mut station.events, move |cx| cx.terminate(talker));
}

#[test]
fn a_virtual_loop_has_no_sockets_and_says_so_at_once() {
    let mut station = Station::on(virtual_loop(), nothing);
    let text = "a virtual loop has no sockets; simulate them as actors";
    let listen = station.act(|cx| cx.listen("127.0.0.1:0", LINES, Net::On).unwrap_err());
    let udp = station.act(|cx| cx.udp("127.0.0.1:0", Net::Datagram).unwrap_err());
    assert_eq!((listen.to_string(), udp.to_string()), (text.into(), text.into()));
    let conn = station.connect(nowhere(), LINES);
    settle(&mut station.events);
    assert_eq!(station.heard.joined(conn), format!("closed: {text}"));
    assert_eq!(station.events.stats().timers, 0);
}

/// Runs a test of this file in a process of its own, with few descriptors.
fn with_few_descriptors(name: &str) {
    let program = std::env::current_exe().unwrap();
    let script = format!("ulimit -n 64; exec \"$0\" --exact sockets::{name} --ignored --nocapture");
    let output = Command::new("sh").arg("-c").arg(script).arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn without_descriptors_the_loop_rests_and_accepts_later() {
    with_few_descriptors("accepting_without_descriptors");
}

#[test]
#[ignore = "started by the test above, in a process with few descriptors"]
fn accepting_without_descriptors() {
    let mut station = Station::new(nothing);
    let at = station.listen(LINES);
    let peers: Vec<TcpStream> = (0..10).map(|_| client(at)).collect();
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    station.until("the listener to pause", |station| station.events.stats().timers == 1);
    for _ in 0..10 {
        station.events.work();
        assert!(!station.events.is_runnable(), "it would spin");
    }
    assert!(station.heard.conns().is_empty());
    drop(hoard);
    station.until("all connections", |station| station.heard.conns().len() == peers.len());
}
