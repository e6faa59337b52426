//! TCP connections of actors: framing, limits, backpressure, errors.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;

use antiphon_sched::*;

use crate::common::*;
use crate::station::*;

/// Connects from outside the loop. The timeouts end a test that fails.
fn client(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(secs(20))).unwrap();
    stream.set_write_timeout(Some(secs(20))).unwrap();
    stream
}

/// An address at which nothing listens.
fn unused_addr() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn echo_after_peer_half_close_keeps_framing() {
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
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received
        });
        let conn = station.until_accepted();
        station.until_ended(conn);
        station.until("the end of the socket", |station| station.events.stats().sockets == 1);
        assert_eq!(peer.join().unwrap(), back);
        assert_eq!(station.log.of(conn).last().unwrap(), "closed");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn actor_serves_thousand_connections() {
    const COUNT: usize = 1000;
    if !raise_descriptors(2 * COUNT as u64 + 200) {
        eprintln!("this system allows too few descriptors; the test is skipped");
        return;
    }
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let mut peers = Station::new(nothing);
    let conns: Vec<Conn> = (0..COUNT).map(|_| peers.connect(at, LINES)).collect();
    for &conn in &conns {
        peers.write(conn, format!("hello {conn}"));
    }
    let all_echoed =
        |peers: &Station| conns.iter().all(|conn| peers.log.joined(*conn) == format!("opened hello {conn}"));
    for _ in 0..100_000 {
        let now = station.events.now();
        station.events.run_once(Some(now)).unwrap();
        let now = peers.events.now();
        peers.events.run_once(Some(now)).unwrap();
        if all_echoed(&peers) {
            break;
        }
    }
    assert!(all_echoed(&peers));
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
fn writer_to_slow_reader_gets_writable_later() {
    const BYTES: usize = 24 << 20;
    let mut station = Station::new(nothing);
    let at = station.listen(Framing::Bytes);
    let mut peer = client(at);
    let conn = station.until_accepted();
    station.write(conn, vec![7; BYTES]);
    // The peer does not read, so the loop has work until the system's own queue is full.
    station.until("a full queue of the system", |station| !station.events.is_runnable());
    assert!(station.act(move |cx| cx.unwritten(conn)) > 1 << 20);
    assert_eq!(station.log.joined(conn), "opened");
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; BYTES];
        peer.read_exact(&mut bytes).unwrap();
        (bytes.iter().all(|byte| *byte == 7), peer)
    });
    station.until("room", |station| station.log.has(conn, "writable"));
    station.until("all of it", |_| reader.is_finished());
    let (all_sevens, _peer) = reader.join().unwrap();
    assert!(all_sevens);
    assert_eq!(station.log.joined(conn), "opened writable");
    assert_eq!(station.act(move |cx| cx.unwritten(conn)), 0);
}

#[test]
fn writer_over_cap_gets_queue_full() {
    let mut station = Station::new(nothing);
    let at = station.listen(Framing::Bytes);
    let _peer = client(at);
    let conn = station.until_accepted();
    station.act(move |cx| {
        for _ in 0..65 {
            cx.write(conn, vec![7; 1 << 20]);
        }
    });
    let log = station.until_ended(conn);
    assert_eq!(log, format!("opened closed: {}", SocketError::QueueFull { max: 64 << 20 }));
    assert_eq!(station.events.stats().sockets, 1, "only the listener is left");
}

#[test]
fn connect_refused_or_forbidden_closes_with_reason() {
    let mut station = Station::new(nothing);
    let refused = station.connect(unused_addr(), LINES);
    let log = station.until_ended(refused);
    assert!(log.starts_with("closed: ") && log.contains("refused"), "{log}");
    for forbidden in ["192.0.2.1:9", "example.com:9"] {
        let conn = station.act(move |cx| cx.connect(forbidden, LINES, secs(20), StationMessage::On));
        let log = station.until_ended(conn);
        assert!(log.contains("is not on loopback"), "{log}");
    }
    let no_port = station.act(|cx| cx.connect("localhost", LINES, secs(20), StationMessage::On));
    assert!(station.until_ended(no_port).contains("is not `host:port`"));
    let denied = station.act(|cx| cx.listen("0.0.0.0:0", LINES, StationMessage::On).unwrap_err());
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let by_name = station.act(|cx| cx.listen("example.com:0", LINES, StationMessage::On).unwrap_err());
    assert!(by_name.to_string().contains("look names up first"));
    assert_eq!((station.events.stats().sockets, station.events.stats().timers), (0, 0));
}

/// An endpoint whose name is looked up, unlike a plain `localhost`.
struct ByName(&'static str, u16);

impl Endpoint for ByName {
    fn host(&self) -> std::io::Result<Host> {
        Ok(Host::Name(self.0.into(), self.1))
    }
}

#[test]
fn connect_by_name_tries_all_addresses() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let conn = station.act(move |cx| {
        let conn = cx.connect(ByName("localhost", at.port()), LINES, secs(20), StationMessage::On);
        cx.write(conn, "written before it was open");
        conn
    });
    station.until("the echo", |station| station.log.of(conn).len() == 2);
    assert_eq!(station.log.joined(conn), "opened written before it was open");
    // The first address refuses.
    let both = [unused_addr(), at];
    let conn = station.act(move |cx| cx.connect(&both[..], LINES, secs(20), StationMessage::On));
    station.until("a connection", |station| station.log.has(conn, "opened"));
    let no_addrs =
        station.act(move |cx| cx.connect(&[][..] as &[SocketAddr], LINES, secs(20), StationMessage::On));
    assert!(station.until_ended(no_addrs).contains("no address"));
}

#[test]
fn connect_without_answer_times_out() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let at = listener.local_addr().unwrap().as_socket().unwrap();
    // Fill the backlog: after that the system accepts no connection.
    let mut streams = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&at, millis(200)) {
        streams.push(stream);
        assert!(streams.len() < 100, "the backlog is never full");
    }
    let mut station = Station::new(nothing);
    let conn = station.act(move |cx| cx.connect(at, LINES, millis(30), StationMessage::On));
    assert_eq!(station.until_ended(conn), format!("closed: {}", SocketError::ConnectTimedOut));
    assert_eq!(station.events.stats().sockets, 0);
}

#[test]
fn connection_reset_closes_with_error() {
    let mut station = Station::new(nothing);
    let at = station.listen(LINES);
    let mut peer = client(at);
    peer.write_all(b"last words\n").unwrap();
    let conn = station.until_accepted();
    station.until("the words", |station| station.log.has(conn, "last words"));
    // A reset, as when the machine of the peer fails.
    socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(peer);
    let log = station.until_ended(conn);
    assert!(log.starts_with("opened last words closed: ") && log.contains("reset"), "{log}");
}

#[test]
fn frame_over_limit_closes_with_typed_error() {
    for (framing, bytes) in [
        (Framing::Lines { max: 5 }, &b"short\ntoo long\nshort\n"[..]),
        (Framing::LengthPrefixed { max: 5 }, b"\0\0\0\x05short\xff\xff\xff\xff"),
    ] {
        let mut station = Station::new(nothing);
        let at = station.listen(framing);
        let mut peer = client(at);
        peer.write_all(bytes).unwrap();
        let conn = station.until_accepted();
        let log = station.until_ended(conn);
        assert_eq!(log, format!("opened short closed: {}", SocketError::FrameTooLong { max: 5 }));
    }
    let mut station = Station::new(|cx, message| {
        if let StationMessage::On(conn, SocketEvent::Opened(_)) = message {
            cx.write(*conn, "too long");
        }
        if let StationMessage::On(_, SocketEvent::Closed(Some(reason))) = message {
            let inner = reason.get_ref().and_then(|inner| inner.downcast_ref::<SocketError>());
            assert_eq!(inner, Some(&SocketError::FrameTooLong { max: 5 }));
        }
    });
    let at = station.listen(Framing::LengthPrefixed { max: 5 });
    let mut peer = client(at);
    let conn = station.until_accepted();
    let log = station.until_ended(conn);
    assert_eq!(log, format!("opened closed: {}", SocketError::FrameTooLong { max: 5 }));
    assert_eq!(peer.read(&mut [0; 9]).unwrap(), 0, "a part of the frame was sent");
}

#[test]
fn mailbox_full_pauses_reading_without_loss() {
    const LINES_EACH: usize = 20_000;
    let config = LoopConfig { mailbox_max: 16, watchdog: None, ..LoopConfig::default() };
    let mut station = Station::on(Loop::new(config).unwrap(), nothing);
    let at = station.listen(LINES);
    let go = Arc::new(Barrier::new(4));
    let peers: Vec<_> = (0..3)
        .map(|_| {
            let go = go.clone();
            thread::spawn(move || {
                // More than the buffers of the system hold.
                let lines: String = (0..LINES_EACH).map(|n| format!("{n:0>900}\n")).collect();
                let mut stream = client(at);
                go.wait();
                stream.write_all(lines.as_bytes()).unwrap();
            })
        })
        .collect();
    station.until("three connections", |station| station.log.conns().len() == 3);
    let actor = station.actor;
    station.suspend_actor();
    go.wait();
    while station.events.local_actors().mailboxes().has_room(actor.id().key()) != Some(false) {
        station.events.run_once(None).unwrap();
    }
    station.until("an idle loop", |station| !station.events.is_runnable());
    // Long enough to read all of it, if reading went on.
    for _ in 0..300 {
        let now = station.events.now();
        station.events.run_once(Some(now + millis(1))).unwrap();
    }
    assert!(
        !peers.iter().any(thread::JoinHandle::is_finished),
        "a peer could send everything to a full mailbox"
    );
    with_cx(&mut station.events, move |cx| cx.resume(actor, ()));
    station.until("all lines", |station| station.log.conns().iter().all(|conn| station.log.has_ended(*conn)));
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    let numbers = (0..LINES_EACH).map(|n| format!("{n:0>900}"));
    let whole: Vec<String> = ["opened".into()].into_iter().chain(numbers).chain(["closed".into()]).collect();
    for conn in station.log.conns() {
        assert_eq!(station.log.of(conn), whole);
    }
}

#[test]
fn actor_swap_keeps_connection() {
    let mut station = Station::new(nothing);
    let at = station.listen(LINES);
    let mut peer = client(at);
    let conn = station.until_accepted();
    let (log, actor) = (station.log.clone(), station.actor);
    with_cx(&mut station.events, move |cx| {
        let mut next = station_actor(&log, echo);
        cx.swap(actor, move |cx, event| next.step(cx, event));
    });
    peer.write_all(b"still there\n").unwrap();
    station.until("the echo", |station| station.log.has(conn, "still there"));
    let mut back = [0; 12];
    station.until("the end of the round", |station| !station.events.is_runnable());
    peer.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there\n");
}

#[test]
fn flood_and_busy_actor_share_the_loop() {
    let mut station = Station::new(echo);
    let at = station.listen(LINES);
    let busy = station.events.spawn(move |cx, event: Event<()>| {
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
    assert!(station.events.stats().steps > steps + 8000, "the busy actor was starved");
    with_cx(&mut station.events, move |cx| cx.terminate(busy));
}

#[test]
fn virtual_loop_refuses_sockets() {
    let mut station = Station::on(virtual_loop(), nothing);
    let text = "a virtual loop has no sockets; simulate them as actors";
    let listen = station.act(|cx| cx.listen("127.0.0.1:0", LINES, StationMessage::On).unwrap_err());
    let udp = station.act(|cx| cx.udp("127.0.0.1:0", StationMessage::Datagram).unwrap_err());
    assert_eq!((listen.to_string(), udp.to_string()), (text.into(), text.into()));
    let conn = station.connect(unused_addr(), LINES);
    settle(&mut station.events);
    assert_eq!(station.log.joined(conn), format!("closed: {text}"));
    assert_eq!(station.events.stats().timers, 0);
}

/// The test runs in a process of its own, which is allowed few descriptors.
#[test]
fn listener_without_descriptors_pauses_then_accepts() {
    if let Some(command) = own_process("sockets::listener_without_descriptors_pauses_then_accepts") {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]);
        limited.arg(command.get_program()).args(command.get_args());
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        return expect_pass(limited);
    }
    let mut station = Station::new(nothing);
    let at = station.listen(LINES);
    let peers: Vec<TcpStream> = (0..10).map(|_| client(at)).collect();
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    station.until("the listener to pause", |station| station.events.stats().timers == 1);
    for _ in 0..10 {
        station.events.work();
        assert!(!station.events.is_runnable(), "the loop would spin");
    }
    assert!(station.log.conns().is_empty());
    drop(files);
    station.until("all connections", |station| station.log.conns().len() == peers.len());
}
