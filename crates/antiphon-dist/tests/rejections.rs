//! Connections, datagrams and configurations that a node rejects: another secret, another version, garbage. Crowds and
//! attackers are in `attacks`.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{TryRecvError, channel};

use antiphon_dist::{Config, DeliverError, Limits, LocateError, Node, NodeError, Secret, Status};
use antiphon_sched::{Addr, Cx, Event, Undelivered, millis, receive};
use antiphon_wire::{
    Handshake, Keyring, NodeId, Profile, Refusal, ResumeState, Suite, VERSION_MAX, VERSION_MIN,
};
use common::{Exit, Net, TestNode, recv, recv_until, report};

/// Sends bytes to the TCP port of a node, and returns the bytes that the node sends before it closes the connection.
fn exchange(node: &TestNode, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.location.addr()).expect("the node listens");
    stream.set_read_timeout(Some(common::PATIENCE)).expect("a timeout can be set");
    // The node may close the connection before it has read all bytes.
    drop(stream.write_all(bytes));
    let mut reply = Vec::new();
    match stream.read_to_end(&mut reply) {
        Err(reason) if reason.kind() != ErrorKind::ConnectionReset => {
            panic!("the node does not close the connection: {reason}")
        }
        Ok(_) | Err(_) => reply,
    }
}

/// Two connected nodes of one network.
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

    /// Checks that the node still works: another node connects and receives a message.
    fn check_service(&self) {
        let later = self.net.node("later");
        let received = later.listener::<String>("later");
        let addr: Addr<String> = self.one.find("later");
        assert_eq!(self.one.deliver(addr, "hello".into()), Ok(()));
        assert_eq!(recv(&received), "hello");
    }
}

#[test]
fn node_with_wrong_secret_discovers_no_peer() {
    let members = Members::new();
    let _listening = members.one.listener::<String>("here");
    let foreign = Net { udp_port: members.net.udp_port, ..Net::new() }.node("foreign");
    let (sender, results) = channel();
    foreign.spawn(move |cx, event| match event {
        Event::Start => {
            antiphon_dist::NetCx::locate(cx, "here", millis(1_500), |found: Result<Addr<String>, _>| found);
            receive()
        }
        Event::Message(found) => {
            report(&sender, found.map(|_| ()));
            antiphon_sched::stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&results), Err(LocateError::TimedOut));
    foreign.wait_for_counts("refused announcements", |counts| counts.refused_datagrams >= 2);
    for node in [&foreign, &members.one] {
        let lines = node.log.lines("same secret");
        assert_eq!(lines.len(), 1, "{:?}", node.log.lines(""));
    }
    assert_eq!(foreign.counts().peers, 0);
    members.check_service();
}

#[test]
fn peer_with_wrong_secret_is_logged_once() {
    let members = Members::new();
    let foreign = Net::new().static_node("foreign", &[members.one.location]);
    foreign.wait_for_counts("several refusals", |counts| counts.refused_handshakes >= 3);
    assert_eq!(foreign.log.lines("refused by the peer").len(), 1, "{:?}", foreign.log.lines(""));
    assert_eq!(members.one.log.lines("refused the peer").len(), 1, "{:?}", members.one.log.lines(""));
    assert_eq!(foreign.counts().peers, 0);
    members.check_service();
}

#[test]
fn tcp_garbage_is_refused_and_logged_once() {
    let members = Members::new();
    let garbage: Vec<u8> =
        (0..100_000u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for _ in 0..5 {
        exchange(&members.one, b"GET / HTTP/1.1\r\n\r\n");
        exchange(&members.one, &garbage);
        exchange(&members.one, b"ANTI\x01\x00\xff\xff and more than is allowed");
    }
    let counts = members.one.wait_for_counts("refusals", |counts| counts.refused_handshakes >= 15);
    assert_eq!(counts.connections, 1, "{counts:?}");
    assert_eq!(members.one.log.lines("do not begin as a handshake").len(), 1);
    members.check_service();
}

#[test]
fn udp_garbage_is_refused_and_logged_once() {
    let members = Members::new();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_broadcast(true).expect("broadcast can be allowed");
    let all = SocketAddr::from(([127, 255, 255, 255], members.net.udp_port));
    for size in (0..1_200).step_by(10) {
        socket.send_to(&vec![7; size], all).expect("a datagram can be sent");
    }
    members.one.wait_for_counts("refused datagrams", |counts| counts.refused_datagrams >= 100);
    assert_eq!(members.one.log.lines("not Antiphon's").len(), 1, "{:?}", members.one.log.lines(""));
    members.check_service();
}

/// The hello of a dialler that knows the secret.
fn hello(net: &Net) -> Vec<u8> {
    let profile = Profile {
        node: NodeId::from_bits(7),
        name: "crafted".into(),
        locations: vec![([127, 0, 0, 1], 9).into()],
        suites: Suite::aead().to_vec(),
        keyring: Keyring::new(0, net.secret.clone()),
        flags: 0,
        limits: Default::default(),
    };
    let mut bytes = Vec::new();
    let entropy = antiphon_dist::system_entropy().expect("the system has random numbers");
    drop(Handshake::dial(&profile, entropy, ResumeState::unknown(1), None, &mut bytes));
    bytes
}

#[test]
fn handshake_of_other_version_gets_supported_versions() {
    let members = Members::new();
    let mut hello = hello(&members.net);
    // The hello states its lowest and its highest version from byte 8 on.
    let at = 8;
    let width = size_of_val(&VERSION_MAX);
    let next = VERSION_MAX + 1;
    for version in [at, at + width] {
        hello[version..version + width].copy_from_slice(&next.to_le_bytes());
    }
    let refusal = Refusal::Version { min: VERSION_MIN, max: VERSION_MAX };
    assert_eq!(exchange(&members.one, &hello), refusal.message());
    assert_eq!(members.one.log.lines("version").len(), 1, "{:?}", members.one.log.lines(""));
    members.check_service();
}

#[test]
fn pending_connections_are_limited_in_number_and_time() {
    let net = Net::new();
    let limits = Limits { unproven_connections_max: 3, ..Limits::default() };
    let node = TestNode::start(Config { limits, ..net.static_config("few", &[]) });
    let mut pending: Vec<TcpStream> = Vec::new();
    for _ in 0..5 {
        pending.push(TcpStream::connect(node.location.addr()).expect("the node listens"));
    }
    let counts = node.wait_for_counts("two closed connections", |counts| counts.refused_handshakes >= 2);
    assert_eq!((counts.refused_handshakes, counts.connections), (2, 3), "{counts:?}");
    for oldest in &mut pending[..2] {
        assert_eq!(oldest.read(&mut [0]).expect("the node closed it"), 0);
    }
    let limits = Limits { handshake_timeout: millis(50), ..Limits::default() };
    let node = TestNode::start(Config { limits, ..net.static_config("brief", &[]) });
    let silent = TcpStream::connect(node.location.addr()).expect("the node listens");
    let counts = node.wait_for_counts("the handshake timeout", |counts| counts.refused_handshakes > 0);
    assert_eq!(counts.connections, 0, "{counts:?}");
    drop(silent);
}

#[test]
fn unexposed_actor_is_unreachable_for_peers() {
    let (there, here) = Net::new().pair();
    let (sender, received) = channel();
    let hidden = there.spawn(move |_: &mut Cx<String>, event| {
        let kind = match event {
            Event::Start => "start",
            Event::Message(_) => "message",
            Event::Terminate => "terminate",
            Event::Thrown(_) => "thrown",
            Event::Resumed(_) => "resumed",
            _ => "another event",
        };
        report(&sender, kind);
        receive()
    });
    assert_eq!(recv(&received), "start");
    let guessed: Addr<String> = Addr::of(hidden.id());
    let refused = here.deliver(guessed, "hello".into());
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::NoActor)));
    here.step(move |cx| {
        cx.terminate(guessed);
        cx.throw(guessed, 1u64);
        cx.resume(guessed, 2u64);
        cx.notify(guessed);
    });
    assert_eq!(recv(&here.monitor(guessed)), Exit::NoActor);
    there.wait_for_counts("refusals", |counts| counts.refused_messages == 5);
    assert_eq!(received.try_recv(), Err(TryRecvError::Empty), "no signal of the peer arrives");
    there.handle.send(hidden, "local".into()).expect("the node runs");
    assert_eq!(recv(&received), "message");
}

#[test]
fn port_in_use_is_reported_with_its_number() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("the listener is bound").port();
    let net = Net::new();
    let failed = Node::new(Config { tcp_port: port, ..net.static_config("node", &[]) });
    match failed.err() {
        Some(NodeError::Listen { at, .. }) => assert_eq!(at.port(), port),
        other => panic!("{other:?}"),
    }
    let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, net.udp_port)).expect("the port is free");
    match Node::new(net.config("node")).err() {
        Some(NodeError::Udp { port, .. }) => assert_eq!(port, net.udp_port),
        other => panic!("{other:?}"),
    }
}

#[test]
fn non_loopback_node_requires_strong_secret() {
    // This address is reserved for documentation, so no socket of this machine can be bound to it.
    let beyond = Config { ip: [192, 0, 2, 1].into(), discover_peers: false, ..Config::default() };
    let with = |secret: Option<Secret>| Config { secret, ..beyond.clone() };
    assert!(matches!(Node::new(with(None)).err(), Some(NodeError::NoSecret { .. })));
    assert!(matches!(Node::new(with(Some("key".into()))).err(), Some(NodeError::WeakSecret { .. })));
    let strong = antiphon_dist::secret::generate().expect("the system has random numbers");
    // The next check refuses the address because tests are confined to loopback.
    assert!(matches!(Node::new(with(Some(strong))).err(), Some(NodeError::Egress(_))));
    let weak = Config { weak_secret: true, ..with(Some("key".into())) };
    assert!(matches!(Node::new(weak).err(), Some(NodeError::Egress(_))));
    let open = Config { open: true, ..with(None) };
    assert!(matches!(Node::new(open).err(), Some(NodeError::Egress(_))));
}

#[test]
fn ignored_address_is_neither_dialled_nor_accepted() {
    let net = Net::new();
    let ignoring = Config { ignore_peers: vec![Ipv4Addr::LOCALHOST.into()], ..net.config("ignoring") };
    let node = TestNode::start(ignoring);
    let other = net.static_node("other", &[node.location]);
    // The node closes the connection without a reply, so the other node dials again.
    assert_eq!(exchange(&node, b""), b"");
    let statuses = other.statuses();
    let third = net.static_node("third", &[other.location]);
    recv_until(&statuses, |status| *status == ("third".into(), Status::Online));
    assert_eq!((node.counts().peers, node.counts().connections), (0, 0));
    drop(third);
}
