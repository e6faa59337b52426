//! Peers that are contacted: by location, by host alone, and through others.

mod common;

use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use antiphon_dist::{Config, Location, NetCx, NodeError, PeerAt, PeerError, PeerOptions, Refusal};
use antiphon_sched::{Cx, Event, millis, receive, secs, stop};
use antiphon_wire::{Datagram, DatagramKey};
use common::{Net, TestNode, heard, tell_test, wait_for};

type Contacted = Result<Vec<Location>, PeerError>;

/// Contacts a peer; the answer is told.
fn contact(node: &TestNode, at: PeerAt, options: PeerOptions, timeout: Duration) -> Receiver<Contacted> {
    let (tell, told) = channel();
    node.spawn(move |cx: &mut Cx<Contacted>, event| match event {
        Event::Start => {
            cx.peer_with(at.clone(), options, timeout, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => receive(),
    });
    told
}

fn host(text: &str) -> PeerAt {
    text.parse().expect("a host")
}

fn at_port_of(net: &Net) -> PeerOptions {
    PeerOptions { udp_port: Some(net.udp_port), ..PeerOptions::default() }
}

/// A node that hears none of the net's announcements, and has its secret.
fn outsider(net: &Net, name: &str) -> TestNode {
    let udp_port = Net::new().udp_port;
    TestNode::start(Config { udp_port: Some(udp_port), ..net.config(name) })
}

/// Contacts a host until all these nodes are found at once: a busy machine may answer late.
fn find_all(node: &TestNode, at: &str, net: &Net, all: &[TestNode]) {
    let all = sorted(all);
    wait_for("all nodes of the host", || {
        let found = heard(&contact(node, host(at), at_port_of(net), secs(10))).expect("some are there");
        assert!(found.iter().all(|at| all.contains(at)), "{found:?} and no others than {all:?}");
        (found == all).then_some(())
    });
}

fn sorted(nodes: &[TestNode]) -> Vec<Location> {
    let mut all: Vec<Location> = nodes.iter().map(|node| node.location).collect();
    all.sort_unstable();
    all
}

#[test]
fn all_nodes_on_a_host_are_found_by_its_address_alone() {
    let net = Net::new();
    let nodes = ["a", "b", "c", "d"].map(|name| net.node(name));
    let here = outsider(&net, "here");
    assert_eq!(here.step(|cx| cx.peers()), vec![], "no announcement reaches it");
    find_all(&here, "127.0.0.1", &net, &nodes);
    nodes.iter().for_each(|node| node.wait_for_peers(4));
    // Again, when all are connected; and by the host's name.
    find_all(&here, "localhost", &net, &nodes);
}

#[test]
fn siblings_that_do_not_know_each_other_are_found_too() {
    let net = Net::new();
    // Nobody dials whom it hears of.
    let nodes = ["a", "b", "c", "d"]
        .map(|name| TestNode::start(Config { dial_allow: Some(Vec::new()), ..net.config(name) }));
    let here = outsider(&net, "here");
    find_all(&here, "127.0.0.1", &net, &nodes);
    nodes.iter().for_each(|node| assert_eq!(node.counts().peers, 1));
}

#[test]
fn a_node_without_discovery_asks_and_is_not_told_of() {
    let net = Net::new();
    let open = net.node("open");
    let quiet = net.quiet_node("quiet", &[]);
    let found = heard(&contact(&quiet, host("127.0.0.1"), PeerOptions::default(), secs(10)));
    assert_eq!(found, Ok(vec![open.location]), "it finds the one that discovers");
    open.wait_for_peers(1);
    let here = outsider(&net, "here");
    let found = heard(&contact(&here, host("127.0.0.1"), at_port_of(&net), secs(10)));
    assert_eq!(found, Ok(vec![open.location]), "the one that knows it does not tell of it");
    let relayed = PeerOptions { broadcast: true, ..at_port_of(&net) };
    assert_eq!(heard(&contact(&here, open.location.into(), relayed, secs(10))), Ok(vec![open.location]));
    // What the relay tells of others, it tells before it answers this.
    let _fence = open.listener::<String>("fence");
    here.find::<String>("fence");
    assert_eq!((here.counts().connections, quiet.counts().connections), (1, 1), "nobody dials it");
    let named = heard(&contact(&here, quiet.location.into(), PeerOptions::default(), secs(10)));
    assert_eq!(named, Ok(vec![quiet.location]), "who names it reaches it");
}

#[test]
fn a_host_without_a_node_or_with_another_secret_does_not_answer() {
    let net = Net::new();
    let here = net.node("here");
    let alone = contact(&here, host("127.0.0.1"), PeerOptions::default(), millis(300));
    assert_eq!(heard(&alone), Err(PeerError::NoAnswer), "nobody is its own peer");
    let others = Net::new();
    let stranger = others.node("stranger");
    let told = contact(&here, host("127.0.0.1"), at_port_of(&others), millis(300));
    assert_eq!(heard(&told), Err(PeerError::NoAnswer));
    stranger.wait_for_counts("the question", |counts| counts.refused_datagrams > 0);
    assert_eq!(stranger.log.lines("dropped").len(), 1, "and says so once");
}

#[test]
fn a_peer_with_another_secret_is_told_as_a_refusal() {
    let (here, there) = (Net::new().quiet_node("here", &[]), Net::new().quiet_node("there", &[]));
    let refused = contact(&here, there.location.into(), PeerOptions::default(), secs(10));
    assert_eq!(heard(&refused), Err(PeerError::Refused(Refusal::WrongSecret)));
    let own = contact(&here, here.location.into(), PeerOptions::default(), secs(10));
    assert_eq!(heard(&own), Err(PeerError::Refused(Refusal::SelfConnection)));
}

#[test]
fn a_configured_host_is_asked_until_its_nodes_are_there() {
    let net = Net::new();
    let here = TestNode::start(Config { peers: vec![host("127.0.0.1")], ..net.quiet("here", &[]) });
    let nodes = [net.node("a"), net.node("b")];
    here.wait_for_peers(2);
    nodes.iter().for_each(|node| node.wait_for_peers(2));
}

#[test]
fn nodes_on_the_loopback_of_ipv6_find_each_other_and_are_found() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return println!("skipped: this machine has no IPv6");
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
fn a_peer_announces_who_asks_it_and_tells_who_is_there() {
    let net = Net::new();
    let relay = net.node("relay");
    // It dials nobody that it only hears of, so the asker has to.
    let behind = TestNode::start(Config { dial_allow: Some(Vec::new()), ..net.config("behind") });
    relay.wait_for_peers(1);
    let here = outsider(&net, "here");
    assert_eq!(
        heard(&contact(&here, relay.location.into(), at_port_of(&net), secs(10))),
        Ok(vec![relay.location])
    );
    assert_eq!(here.step(|cx| cx.peers()), vec![relay.location]);
    let relayed = PeerOptions { broadcast: true, ..at_port_of(&net) };
    assert_eq!(heard(&contact(&here, relay.location.into(), relayed, secs(10))), Ok(vec![relay.location]));
    here.wait_for_peers(2);
    behind.wait_for_peers(2);
}

#[test]
fn nodes_behind_a_peer_hear_of_who_asks_it() {
    let net = Net::new();
    let relay = net.node("relay");
    let adapter = shared_ear(net.udp_port);
    let here = outsider(&net, "here");
    let relayed = PeerOptions { broadcast: true, ..at_port_of(&net) };
    assert_eq!(heard(&contact(&here, relay.location.into(), relayed, secs(10))), Ok(vec![relay.location]));
    let key = DatagramKey::new(0, &net.secret);
    let mut bytes = [0; 2048];
    wait_for("the announcement of who asked", || {
        let (count, _) = adapter.recv_from(&mut bytes).expect("the relay announces");
        let said = Datagram::decode(Some(&key), &bytes[..count]).expect("the net's own");
        match said {
            Datagram::Announce(said) if said.name == "here" => {
                let locations: Vec<SocketAddr> = said.locations.iter().collect();
                assert_eq!(locations, [here.location.addr()]);
                Some(())
            }
            _ => None,
        }
    });
}

/// A socket that hears what nodes on loopback announce, beside them.
fn shared_ear(udp_port: u16) -> UdpSocket {
    use socket2::{Domain, Socket, Type};
    let adapter = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    adapter.set_reuse_address(true).expect("it is new");
    #[cfg(unix)]
    adapter.set_reuse_port(true).expect("it is new");
    adapter.set_read_timeout(Some(common::PATIENCE)).expect("it is new");
    let at: SocketAddr = ([127, 255, 255, 255], udp_port).into();
    adapter.bind(&at.into()).expect("the port is shared");
    adapter.into()
}

#[test]
fn addresses_at_which_no_node_can_be_are_refused_at_the_start() {
    let ip = |text: &str| text.parse().expect("an address");
    let config =
        |ip, ext_ip_addr, dial_allow| Config { ip, ext_ip_addr, dial_allow, ..Net::new().config("x") };
    let refused = |config: Config| antiphon_dist::Node::new(config).map(|node| node.location());
    for none in ["0.0.0.0", "224.0.0.1", "ff02::1", "::", "255.255.255.255"] {
        let is_undialled =
            |found| matches!(found, Err(NodeError::UndialledIp { ip: found }) if found == ip(none));
        assert!(is_undialled(refused(config(ip(none), None, None))), "{none}");
        assert!(is_undialled(refused(config(ip("127.0.0.1"), Some(ip(none)), None))), "{none}");
    }
    for (network, bits) in [("10.0.0.0", 33), ("fe80::", 129)] {
        let found = refused(config(ip("127.0.0.1"), None, Some(vec![(ip(network), bits)])));
        assert!(matches!(found, Err(NodeError::Network { .. })), "{network}/{bits}");
    }
}
