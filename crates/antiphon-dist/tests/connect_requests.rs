//! Connect requests: by location, by host alone, and through an announce relay.

mod common;

use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use antiphon_dist::{
    Config, DialError, LocateError, Location, NetCx, NodeError, PeerAt, PeerError, PeerOptions, Refusal,
};
use antiphon_sched::{Addr, Cx, Event, LoopError, millis, receive, secs, stop};
use antiphon_wire::{Datagram, DatagramKey};
use common::{Net, TestNode, recv, report, wait_for};

type ConnectResult = Result<Vec<Location>, PeerError>;

/// Opens a connect request; the receiver gets the result.
fn connect(node: &TestNode, at: PeerAt, options: PeerOptions, timeout: Duration) -> Receiver<ConnectResult> {
    let (sender, results) = channel();
    node.spawn(move |cx: &mut Cx<ConnectResult>, event| match event {
        Event::Start => {
            cx.peer_with(at.clone(), options, timeout, |found| found);
            receive()
        }
        Event::Message(found) => {
            report(&sender, found);
            stop()
        }
        _ => receive(),
    });
    results
}

fn host(text: &str) -> PeerAt {
    text.parse().expect("a host")
}

fn at_port_of(net: &Net) -> PeerOptions {
    PeerOptions { udp_port: Some(net.udp_port), ..PeerOptions::default() }
}

/// A node with the secret of the network and another UDP port, so it receives no announcements of the network.
fn outsider(net: &Net, name: &str) -> TestNode {
    let udp_port = Net::new().udp_port;
    TestNode::start(Config { udp_port: Some(udp_port), ..net.config(name) })
}

/// Connects to a host until one request finds all these nodes. On a busy machine, replies may arrive late.
fn find_all(node: &TestNode, at: &str, net: &Net, all: &[TestNode]) {
    let all = sorted(all);
    wait_for("all nodes of the host", || {
        let found =
            recv(&connect(node, host(at), at_port_of(net), secs(10))).expect("at least one node replies");
        assert!(found.iter().all(|at| all.contains(at)), "found {found:?}, expected only nodes of {all:?}");
        (found == all).then_some(())
    });
}

fn sorted(nodes: &[TestNode]) -> Vec<Location> {
    let mut all: Vec<Location> = nodes.iter().map(|node| node.location).collect();
    all.sort_unstable();
    all
}

#[test]
fn host_address_finds_all_nodes_of_host() {
    let net = Net::new();
    let nodes = ["a", "b", "c", "d"].map(|name| net.node(name));
    let here = outsider(&net, "here");
    assert_eq!(here.step(|cx| cx.peers()), vec![], "the node receives no announcement");
    find_all(&here, "127.0.0.1", &net, &nodes);
    nodes.iter().for_each(|node| node.wait_for_peers(4));
    // Again while all are connected, and by the name of the host.
    find_all(&here, "localhost", &net, &nodes);
}

#[test]
fn host_address_finds_unconnected_nodes() {
    let net = Net::new();
    // These nodes dial no announced node.
    let nodes = ["a", "b", "c", "d"]
        .map(|name| TestNode::start(Config { dial_allow: Some(Vec::new()), ..net.config(name) }));
    let here = outsider(&net, "here");
    find_all(&here, "127.0.0.1", &net, &nodes);
    nodes.iter().for_each(|node| assert_eq!(node.counts().peers, 1));
}

#[test]
fn node_without_discovery_connects_and_stays_hidden() {
    let net = Net::new();
    let open = net.node("open");
    let hidden = net.static_node("quiet", &[]);
    let found = recv(&connect(&hidden, host("127.0.0.1"), PeerOptions::default(), secs(10)));
    assert_eq!(found, Ok(vec![open.location]), "the probe finds only the node that uses discovery");
    open.wait_for_peers(1);
    let here = outsider(&net, "here");
    let found = recv(&connect(&here, host("127.0.0.1"), at_port_of(&net), secs(10)));
    assert_eq!(found, Ok(vec![open.location]), "a probe reply does not list the hidden node");
    let relayed = PeerOptions { broadcast: true, ..at_port_of(&net) };
    assert_eq!(recv(&connect(&here, open.location.into(), relayed, secs(10))), Ok(vec![open.location]));
    // The relay sends its list of nodes before it replies to this lookup.
    let _barrier = open.listener::<String>("barrier");
    here.find::<String>("barrier");
    assert_eq!(
        (here.counts().connections, hidden.counts().connections),
        (1, 1),
        "the hidden node is not dialled"
    );
    let by_location = recv(&connect(&here, hidden.location.into(), PeerOptions::default(), secs(10)));
    assert_eq!(by_location, Ok(vec![hidden.location]), "its location reaches the hidden node");
}

#[test]
fn host_without_node_of_network_gives_no_answer() {
    let net = Net::new();
    let here = net.node("here");
    let alone = connect(&here, host("127.0.0.1"), PeerOptions::default(), millis(300));
    assert_eq!(recv(&alone), Err(PeerError::NoAnswer), "a node does not find itself");
    let other_net = Net::new();
    let foreign = other_net.node("foreign");
    let result = connect(&here, host("127.0.0.1"), at_port_of(&other_net), millis(300));
    assert_eq!(recv(&result), Err(PeerError::NoAnswer));
    foreign.wait_for_counts("the probe", |counts| counts.refused_datagrams > 0);
    assert_eq!(foreign.log.lines("dropped").len(), 1, "the drop is logged once");
}

#[test]
fn connect_wrong_secret_or_self_is_refused() {
    let (here, there) = (Net::new().static_node("here", &[]), Net::new().static_node("there", &[]));
    let refused = connect(&here, there.location.into(), PeerOptions::default(), secs(10));
    assert_eq!(recv(&refused), Err(PeerError::Refused(Refusal::WrongSecret)));
    let own = connect(&here, here.location.into(), PeerOptions::default(), secs(10));
    assert_eq!(recv(&own), Err(PeerError::Refused(Refusal::SelfConnection)));
}

#[test]
fn configured_host_is_probed_until_nodes_start() {
    let net = Net::new();
    let here = TestNode::start(Config { peers: vec![host("127.0.0.1")], ..net.static_config("here", &[]) });
    let nodes = [net.node("a"), net.node("b")];
    here.wait_for_peers(2);
    nodes.iter().for_each(|node| node.wait_for_peers(2));
}

#[test]
fn ipv6_loopback_nodes_are_discovered() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return println!("skipped: no IPv6 loopback");
    }
    let net = Net::new();
    let nodes = ["a", "b", "c"]
        .map(|name| TestNode::start(Config { ip: Ipv6Addr::LOCALHOST.into(), ..net.config(name) }));
    nodes.iter().for_each(|node| node.wait_for_peers(2));
    let here = outsider(&net, "here");
    find_all(&here, "::1", &net, &nodes);
    assert!(nodes[0].location.to_string().starts_with("[::1]:"));
}

#[test]
fn announce_relay_connects_nodes_of_its_network() {
    let net = Net::new();
    let relay = net.node("relay");
    // This node dials no announced node, so `here` must dial it.
    let behind = TestNode::start(Config { dial_allow: Some(Vec::new()), ..net.config("behind") });
    relay.wait_for_peers(1);
    let here = outsider(&net, "here");
    assert_eq!(
        recv(&connect(&here, relay.location.into(), at_port_of(&net), secs(10))),
        Ok(vec![relay.location])
    );
    assert_eq!(here.step(|cx| cx.peers()), vec![relay.location]);
    let relayed = PeerOptions { broadcast: true, ..at_port_of(&net) };
    assert_eq!(recv(&connect(&here, relay.location.into(), relayed, secs(10))), Ok(vec![relay.location]));
    here.wait_for_peers(2);
    behind.wait_for_peers(2);
}

#[test]
fn announce_relay_announces_requesting_node() {
    let net = Net::new();
    let relay = net.node("relay");
    let socket = announcement_socket(net.udp_port);
    let here = outsider(&net, "here");
    let relayed = PeerOptions { broadcast: true, ..at_port_of(&net) };
    assert_eq!(recv(&connect(&here, relay.location.into(), relayed, secs(10))), Ok(vec![relay.location]));
    let key = DatagramKey::new(0, &net.secret);
    let mut bytes = [0; 2048];
    wait_for("the announcement of `here`", || {
        let (count, _) = socket.recv_from(&mut bytes).expect("the relay announces");
        let datagram = Datagram::decode(Some(&key), &bytes[..count]).expect("a datagram of this network");
        match datagram {
            Datagram::Announce(announcement) if announcement.name == "here" => {
                let locations: Vec<SocketAddr> = announcement.locations.iter().collect();
                assert_eq!(locations, [here.location.addr()]);
                Some(())
            }
            _ => None,
        }
    });
}

/// A socket that shares the UDP port of the nodes on loopback and receives their announcements.
fn announcement_socket(udp_port: u16) -> UdpSocket {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("the socket is not bound yet");
    #[cfg(unix)]
    socket.set_reuse_port(true).expect("the socket is not bound yet");
    socket.set_read_timeout(Some(common::PATIENCE)).expect("the timeout is not zero");
    let at: SocketAddr = ([127, 255, 255, 255], udp_port).into();
    socket.bind(&at.into()).expect("the port is shared");
    socket.into()
}

#[test]
fn config_with_unusable_address_is_refused() {
    let ip = |text: &str| text.parse().expect("an address");
    let config = |ip, ext_ip_addr| Config { ip, ext_ip_addr, ..Net::new().config("x") };
    let start = |config: Config| antiphon_dist::Node::new(config).map(|node| node.location());
    for unusable in ["0.0.0.0", "224.0.0.1", "ff02::1", "::", "255.255.255.255"] {
        let is_refused =
            |found| matches!(found, Err(NodeError::UndialableIp { ip: found }) if found == ip(unusable));
        assert!(is_refused(start(config(ip(unusable), None))), "{unusable}");
        assert!(is_refused(start(config(ip("127.0.0.1"), Some(ip(unusable))))), "{unusable}");
    }
}

/// Accepts connections, and answers each with bytes that are no handshake.
fn other_program() -> SocketAddr {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let at = listener.local_addr().expect("the listener has an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // It fails only when the node has closed the connection.
            drop(std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    at
}

/// Looks for a name at a location; the receiver gets the result.
fn locate_at(node: &TestNode, at: Location, timeout: Duration) -> Receiver<Result<(), LocateError>> {
    let (sender, results) = channel();
    node.spawn(move |cx: &mut Cx<Result<(), LocateError>>, event| match event {
        Event::Start => {
            cx.locate_at::<Addr<u64>>("name", at, timeout, |found| found.map(|_| ()));
            receive()
        }
        Event::Message(found) => {
            report(&sender, found);
            stop()
        }
        _ => receive(),
    });
    results
}

#[test]
fn requests_to_other_program_fail_at_once() {
    let here = Net::new().static_node("here", &[]);
    let at = Location::new(other_program());
    let found = recv(&connect(&here, at.into(), PeerOptions::default(), secs(1000)));
    assert!(matches!(found, Err(PeerError::Unreachable(DialError::NotAntiphon(_)))), "{found:?}");
    let found = recv(&locate_at(&here, at, secs(1000)));
    assert!(matches!(found, Err(LocateError::Unreachable(DialError::NotAntiphon(_)))), "{found:?}");
}

#[test]
fn lookup_with_wrong_secret_fails_at_once() {
    let (here, there) = (Net::new().static_node("here", &[]), Net::new().static_node("there", &[]));
    let found = recv(&locate_at(&here, there.location, secs(1000)));
    assert_eq!(found, Err(LocateError::Unreachable(DialError::Refused(Refusal::WrongSecret))));
}

#[test]
fn lookup_at_closed_port_names_reason_at_timeout() {
    let here = Net::new().static_node("here", &[]);
    let closed = Location::new(([127, 0, 0, 1], 9).into());
    let found = recv(&locate_at(&here, closed, millis(300)));
    assert_eq!(found, Err(LocateError::Unreachable(DialError::ConnectionRefused)));
}

#[test]
fn settings_out_of_range_are_refused() {
    let net = Net::new();
    let refused = |change: fn(&mut Config)| {
        let mut config = net.static_config("node", &[]);
        change(&mut config);
        match antiphon_dist::Node::new(config).map(|_| ()) {
            Err(NodeError::Setting(error)) => error.name,
            Err(NodeError::Loop(LoopError::Setting(error))) => error.name,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|config| config.peer_timeout = millis(0)), "peer_timeout");
    assert_eq!(refused(|config| config.peer_timeout = millis(1)), "peer_timeout");
    assert_eq!(refused(|config| config.peer_timeout = Duration::MAX), "peer_timeout");
    assert_eq!(refused(|config| config.scheduler.mailbox_max = 0), "mailbox_max");
    assert_eq!(refused(|config| config.scheduler.stop_within = Duration::MAX), "stop_within");
    assert_eq!(refused(|config| config.limits.handshake_timeout = secs(0)), "limits.handshake_timeout");
    assert_eq!(refused(|config| config.limits.message_bytes_max = 0), "limits.message_bytes_max");
    let error = antiphon_sched::SettingError::check("peer_timeout", millis(1), secs(1)..=secs(86_400));
    let text = error.expect_err("it is out of range").to_string();
    assert_eq!(text, "the setting `peer_timeout` is 1ms; it must be at least 1s and at most 86400s");
}
