//! Whoever is no member: another secret, another version, garbage; and configurations that are none. Crowds, and who
//! means harm, are in `attacks`.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::channel;

use antiphon_dist::{Config, DeliverError, Limits, LocateError, Node, NodeError, Secret, Status};
use antiphon_sched::{Addr, Cx, Event, Undelivered, millis, receive};
use antiphon_wire::{Entropy, Handshake, Keyring, NodeId, Profile, ResumeState, Suite, VERSION_MAX};
use common::{End, Net, TestNode, heard, heard_until, tell_test};

/// Says something to a node's TCP port, and answers what it says until it closes.
fn say_to(node: &TestNode, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.location.addr()).expect("the node listens");
    stream.set_read_timeout(Some(common::PATIENCE)).expect("a timeout can be set");
    // The node may have closed before it has read all.
    drop(stream.write_all(bytes));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(reason) if reason.kind() != ErrorKind::ConnectionReset => {
            panic!("the node does not close: {reason}")
        }
        Ok(_) | Err(_) => answer,
    }
}

/// Two other nodes, which have found each other.
struct Members {
    net: Net,
    one: TestNode,
    _other: TestNode,
}

impl Members {
    fn new() -> Self {
        let net = Net::new();
        let (one, other) = (net.node("one"), net.node("other"));
        one.wait_for_peers(1);
        Self { net, one, _other: other }
    }

    /// The node goes on serving everyone else: another one joins, and is answered.
    fn go_on(&self) {
        let later = self.net.node("later");
        let told = later.listener::<String>("later");
        let addr: Addr<String> = self.one.find("later");
        assert_eq!(self.one.deliver(addr, "hello".into()), Ok(()));
        assert_eq!(heard(&told), "hello");
    }
}

#[test]
fn a_node_with_another_secret_finds_nobody_and_says_why_once() {
    let members = Members::new();
    let _listening = members.one.listener::<String>("here");
    let stranger = Net { udp_port: members.net.udp_port, ..Net::new() }.node("stranger");
    let (tell, told) = channel();
    stranger.spawn(move |cx, event| match event {
        Event::Start => {
            antiphon_dist::NetCx::locate(cx, "here", millis(1_500), |found: Result<Addr<String>, _>| found);
            receive()
        }
        Event::Message(found) => {
            tell_test(&tell, found.map(|_| ()));
            antiphon_sched::stop()
        }
        _ => receive(),
    });
    assert_eq!(heard(&told), Err(LocateError::TimedOut));
    stranger.wait_for_counts("announcements to be refused", |counts| counts.refused_datagrams >= 2);
    for node in [&stranger, &members.one] {
        let said = node.log.lines("same secret");
        assert_eq!(said.len(), 1, "{:?}", node.log.lines(""));
    }
    assert_eq!(stranger.counts().peers, 0);
    members.go_on();
}

#[test]
fn a_peer_with_another_secret_is_refused_on_both_sides_and_told_why_once() {
    let members = Members::new();
    let stranger = Net::new().quiet_node("stranger", &[members.one.location]);
    stranger.wait_for_counts("several refusals", |counts| counts.refused_handshakes >= 3);
    assert_eq!(stranger.log.lines("refused by the peer").len(), 1, "{:?}", stranger.log.lines(""));
    assert_eq!(members.one.log.lines("refused the peer").len(), 1, "{:?}", members.one.log.lines(""));
    assert_eq!(stranger.counts().peers, 0);
    members.go_on();
}

#[test]
fn garbage_on_the_tcp_port_is_refused_and_logged_once() {
    let members = Members::new();
    let garbage: Vec<u8> =
        (0..100_000u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for _ in 0..5 {
        say_to(&members.one, b"GET / HTTP/1.1\r\n\r\n");
        say_to(&members.one, &garbage);
        say_to(&members.one, b"ANTI\x01\x00\xff\xff and more than is allowed");
    }
    let counts = members.one.wait_for_counts("refusals", |counts| counts.refused_handshakes >= 15);
    assert_eq!(counts.connections, 1, "{counts:?}");
    assert_eq!(members.one.log.lines("do not begin as a handshake").len(), 1);
    members.go_on();
}

#[test]
fn garbage_on_the_udp_port_is_refused_and_logged_once() {
    let members = Members::new();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_broadcast(true).expect("broadcast can be allowed");
    let all = SocketAddr::from(([127, 255, 255, 255], members.net.udp_port));
    for size in (0..1_200).step_by(10) {
        socket.send_to(&vec![7; size], all).expect("a datagram goes out");
    }
    members.one.wait_for_counts("datagrams to be refused", |counts| counts.refused_datagrams >= 100);
    assert_eq!(members.one.log.lines("none of Antiphon's").len(), 1, "{:?}", members.one.log.lines(""));
    members.go_on();
}

fn hello(net: &Net) -> Vec<u8> {
    let profile = Profile {
        node: NodeId(7),
        name: "crafted".into(),
        locations: vec![([127, 0, 0, 1], 9).into()],
        suites: Suite::aead().to_vec(),
        keyring: Keyring::new(0, net.secret.clone()),
        flags: 0,
        limits: Default::default(),
    };
    let mut bytes = Vec::new();
    let fresh = Entropy::system().expect("the system has random numbers");
    drop(Handshake::dial(&profile, fresh, ResumeState::unknown(1), None, &mut bytes));
    bytes
}

#[test]
fn a_peer_of_another_version_is_told_which_ones_there_are() {
    let members = Members::new();
    let mut hello = hello(&members.net);
    let at = 8;
    let width = size_of_val(&VERSION_MAX);
    let next = VERSION_MAX + 1;
    for version in [at, at + width] {
        hello[version..version + width].copy_from_slice(&next.to_le_bytes());
    }
    let answer = say_to(&members.one, &hello);
    assert!(answer.starts_with(b"ANTI"), "a refusal is told, not silence: {answer:?}");
    assert_eq!(members.one.log.lines("version").len(), 1, "{:?}", members.one.log.lines(""));
    members.go_on();
}

#[test]
fn the_oldest_stranger_gives_way_at_the_configured_number_and_all_do_in_the_configured_time() {
    let net = Net::new();
    let limits = Limits { unproven_connections_max: 3, ..Limits::default() };
    let node = TestNode::start(Config { limits, ..net.quiet("few", &[]) });
    let mut strangers: Vec<TcpStream> = Vec::new();
    for _ in 0..5 {
        strangers.push(TcpStream::connect(node.location.addr()).expect("the node listens"));
    }
    let counts = node.wait_for_counts("two to give way", |counts| counts.refused_handshakes >= 2);
    assert_eq!((counts.refused_handshakes, counts.connections), (2, 3), "{counts:?}");
    for stranger in &mut strangers[..2] {
        assert_eq!(stranger.read(&mut [0]).expect("it is closed"), 0);
    }
    let limits = Limits { handshake_timeout: millis(50), ..Limits::default() };
    let node = TestNode::start(Config { limits, ..net.quiet("brief", &[]) });
    let silent = TcpStream::connect(node.location.addr()).expect("the node listens");
    let counts = node.wait_for_counts("it to be closed", |counts| counts.refused_handshakes > 0);
    assert_eq!(counts.connections, 0, "{counts:?}");
    drop(silent);
}

#[test]
fn an_actor_whose_address_was_not_given_away_is_nobody_for_peers() {
    let (there, here) = Net::new().pair();
    let (tell, told) = channel();
    let hidden = there.spawn(move |_: &mut Cx<String>, event| {
        let what = match event {
            Event::Start => "start",
            Event::Message(_) => "message",
            Event::Terminate => "terminate",
            Event::Thrown(_) => "thrown",
            Event::Resumed(_) => "resumed",
            _ => "something else",
        };
        tell_test(&tell, what);
        receive()
    });
    assert_eq!(heard(&told), "start");
    let guessed: Addr<String> = Addr::of(hidden.id());
    let refused = here.deliver(guessed, "hello".into());
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::NoActor)));
    here.step(move |cx| {
        cx.terminate(guessed);
        cx.throw(guessed, 1u64);
        cx.resume(guessed, 2u64);
        cx.notify(guessed);
    });
    assert_eq!(heard(&here.watch(guessed)), End::NoActor);
    there.wait_for_counts("refusals", |counts| counts.refused_messages == 5);
    assert_eq!(told.try_recv().ok(), None);
    there.handle.send(hidden, "from here".into()).expect("the node runs");
    assert_eq!(heard(&told), "message");
}

#[test]
fn ports_in_use_are_told_with_their_numbers() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let net = Net::new();
    let failed = Node::new(Config { tcp_port: port, ..net.quiet("node", &[]) });
    match failed.err() {
        Some(NodeError::Listen { at, .. }) => assert_eq!(at.port(), port),
        other => panic!("{other:?}"),
    }
    let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, net.udp_port)).expect("nobody uses it");
    match Node::new(net.config("node")).err() {
        Some(NodeError::Udp { port, .. }) => assert_eq!(port, net.udp_port),
        other => panic!("{other:?}"),
    }
}

#[test]
fn beyond_loopback_a_weak_secret_or_none_is_refused_before_anything_is_bound() {
    // An address for documentation: it is not this machine's, and nothing could be bound to it.
    let beyond = Config { ip: [192, 0, 2, 1].into(), discover_peers: false, ..Config::default() };
    let with = |secret: Option<Secret>| Config { secret, ..beyond.clone() };
    assert!(matches!(Node::new(with(None)).err(), Some(NodeError::NoSecret { .. })));
    assert!(matches!(Node::new(with(Some("key".into()))).err(), Some(NodeError::WeakSecret { .. })));
    let strong = Secret::generate().expect("the system has random numbers");
    // Tests stay on loopback: that is the next thing that is asked.
    assert!(matches!(Node::new(with(Some(strong))).err(), Some(NodeError::Egress(_))));
    let weak = Config { weak_secret: true, ..with(Some("key".into())) };
    assert!(matches!(Node::new(weak).err(), Some(NodeError::Egress(_))));
    let open = Config { open: true, ..with(None) };
    assert!(matches!(Node::new(open).err(), Some(NodeError::Egress(_))));
}

#[test]
fn ignored_addresses_are_neither_dialled_nor_let_in() {
    let net = Net::new();
    let ignoring = Config { ignore_peers: vec![Ipv4Addr::LOCALHOST.into()], ..net.config("ignoring") };
    let node = TestNode::start(ignoring);
    let other = net.quiet_node("other", &[node.location]);
    // Closed before anything is said: the other goes on trying.
    assert_eq!(say_to(&node, b""), b"");
    let statuses = other.statuses();
    let third = net.quiet_node("third", &[other.location]);
    heard_until(&statuses, |told| *told == ("third".into(), Status::Online));
    assert_eq!((node.counts().peers, node.counts().connections), (0, 0));
    drop(third);
}
