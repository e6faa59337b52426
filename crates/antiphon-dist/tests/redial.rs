//! Peers that are told rather than found: dialled, dialled again, and looked up.

mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use antiphon_dist::{Config, Location, NetCx, PeerAt, PeerError, Refusal, Status};
use antiphon_sched::{Cx, Event, receive, secs, stop};
use common::{Net, TestNode, heard, heard_until, tell_test};

fn at_port_of(net: &Net, name: &str, at: Location) -> TestNode {
    TestNode::start(Config { tcp_port: at.addr().port(), ..net.quiet(name, &[]) })
}

#[test]
fn a_configured_peer_that_left_with_goodbye_is_found_when_it_comes_back() {
    let net = Net::new();
    let server = net.quiet_node("server", &[]);
    let at = server.location;
    let client = net.quiet_node("client", &[at]);
    let statuses = client.statuses();
    assert_eq!(heard(&statuses), ("server".into(), Status::Online));
    server.stop();
    assert_eq!(heard(&statuses), ("server".into(), Status::Offline));
    let server = at_port_of(&net, "server again", at);
    assert_eq!(heard(&statuses), ("server again".into(), Status::Online));
    drop(server);
}

#[test]
fn a_peer_that_left_and_came_back_at_its_port_is_met_by_its_first_announcement() {
    let net = Net::new();
    let server = net.node("server");
    let at = server.location;
    let client = net.node("client");
    let statuses = client.statuses();
    heard_until(&statuses, |told| *told == ("server".into(), Status::Online));
    // The later of the two has dialled; it should be able to dial again.
    server.stop();
    assert_eq!(heard(&statuses), ("server".into(), Status::Offline));
    let again = TestNode::start(Config { tcp_port: at.addr().port(), ..net.config("server again") });
    let asked = std::time::Instant::now();
    assert_eq!(heard(&statuses), ("server again".into(), Status::Online));
    assert!(asked.elapsed() < secs(3), "met after {:?}, by an announcement of the client's", asked.elapsed());
    drop(again);
}

#[test]
fn two_nodes_that_know_each_other_have_one_connection() {
    let net = Net::new();
    let first = net.quiet_node("first", &[]);
    let second = net.quiet_node("second", &[first.location]);
    first.wait_for_peers(1);
    let (tell, told) = std::sync::mpsc::channel();
    let at = second.location;
    first.spawn(move |cx, event| match event {
        Event::Start => {
            cx.peer(at, secs(10), |found| found);
            receive()
        }
        Event::Message(found) => {
            tell_test(&tell, found);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(heard(&told), Ok(vec![at]));
    assert_eq!(first.counts().connections, 1);
    assert_eq!(second.counts().connections, 1);
}

/// What `cx.peer` answers.
fn contact(node: &TestNode, at: PeerAt) -> Result<Vec<Location>, PeerError> {
    let (tell, told) = std::sync::mpsc::channel();
    node.spawn(move |cx: &mut Cx<Result<Vec<Location>, PeerError>>, event| match event {
        Event::Start => {
            cx.peer(at.clone(), secs(2), |found| found);
            receive()
        }
        Event::Message(found) => {
            tell_test(&tell, found);
            stop()
        }
        _ => receive(),
    });
    heard(&told)
}

#[test]
fn a_contact_is_answered_by_the_peer_a_refusal_or_silence() {
    let net = Net::new();
    let here = net.quiet_node("here", &[]);
    let there = net.quiet_node("there", &[]);
    assert_eq!(contact(&here, there.location.into()), Ok(vec![there.location]));
    assert_eq!(contact(&here, there.location.into()), Ok(vec![there.location]));
    let myself = contact(&here, here.location.into());
    assert_eq!(myself, Err(PeerError::Refused(Refusal::SelfConnection)));
    let stranger = Net::new().quiet_node("stranger", &[]);
    let refused = contact(&here, stranger.location.into());
    assert_eq!(refused, Err(PeerError::Refused(Refusal::WrongSecret)));
    let nobody = there.location;
    there.stop();
    assert_eq!(contact(&here, nobody.into()), Err(PeerError::NoAnswer));
}

static SERVER_PORT: AtomicU16 = AtomicU16::new(0);
static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);

/// Knows one host, which has two addresses, of which the node listens on the second; and one that it learns of late.
fn resolve(host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
    let port = SERVER_PORT.load(Ordering::SeqCst);
    match host {
        "twin.test" => {
            Ok(vec![SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)), ([127, 0, 0, 1], port).into()])
        }
        "late.test" if LOOK_UPS.fetch_add(1, Ordering::SeqCst) > 0 => Ok(vec![([127, 0, 0, 1], port).into()]),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
    }
}

#[test]
fn hosts_are_looked_up_and_all_their_addresses_tried() {
    let net = Net::new();
    let server = net.quiet_node("server", &[]);
    SERVER_PORT.store(server.location.addr().port(), Ordering::SeqCst);
    let host = |name: &str| PeerAt::Host(name.into(), server.location.addr().port());

    let unknown = host("nowhere.test");
    let config = Config { peers: vec![host("late.test")], ..net.quiet("late", &[]) };
    let late = TestNode::resolving(config, resolve);
    let answer = contact(&late, unknown.clone());
    assert_eq!(answer, Err(PeerError::UnknownHost { at: unknown.clone(), reason: "no such host".into() }));
    late.wait_for_peers(1);
    assert_eq!(late.log.lines("late.test").len(), 1, "{:?}", late.log.lines(""));

    let twin = TestNode::resolving(net.quiet("twin", &[]), resolve);
    assert_eq!(contact(&twin, host("twin.test")), Ok(vec![server.location]));

    // Unknown hosts in the configuration stop nobody.
    let config = Config { peers: vec![unknown, host("twin.test")], ..net.quiet("patient", &[]) };
    let patient = TestNode::resolving(config, resolve);
    patient.wait_for_peers(1);
    assert_eq!(patient.log.lines("nowhere.test").len(), 1);
}

#[test]
fn the_system_looks_up_localhost() {
    let net = Net::new();
    let server = net.quiet_node("server", &[]);
    let at: PeerAt = format!("localhost:{}", server.location.addr().port()).parse().expect("a peer");
    let client = TestNode::start(Config { peers: vec![at], ..net.quiet("client", &[]) });
    client.wait_for_peers(1);
}

#[test]
fn a_host_beyond_loopback_is_refused_where_only_loopback_is_allowed() {
    let net = Net::new();
    let here = net.quiet_node("here", &[]);
    let far: PeerAt = "192.0.2.1:9".parse().expect("a location");
    assert!(matches!(contact(&here, far), Err(PeerError::Egress(_))));
    let far: PeerAt = "far.test:9".parse().expect("a host");
    assert!(matches!(contact(&here, far), Err(PeerError::UnknownHost { .. })));
}
