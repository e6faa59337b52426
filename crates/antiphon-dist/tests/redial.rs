//! Configured and requested peers: dialling, redialling, and resolution of host names.

mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use antiphon_dist::{Config, DialError, Location, NetCx, PeerAt, PeerError, Refusal, Status};
use antiphon_sched::{Event, receive, secs, stop};
use common::{Net, TestNode, recv, recv_until, report};

fn at_port_of(net: &Net, name: &str, at: Location) -> TestNode {
    TestNode::start(Config { tcp_port: at.addr().port(), ..net.static_config(name, &[]) })
}

#[test]
fn configured_peer_reconnects_after_goodbye() {
    let net = Net::new();
    let server = net.static_node("server", &[]);
    let at = server.location;
    let client = net.static_node("client", &[at]);
    let statuses = client.statuses();
    assert_eq!(recv(&statuses), ("server".into(), Status::Online));
    server.stop();
    assert_eq!(recv(&statuses), ("server".into(), Status::Offline));
    let server = at_port_of(&net, "server again", at);
    assert_eq!(recv(&statuses), ("server again".into(), Status::Online));
    drop(server);
}

#[test]
fn restarted_peer_connects_by_its_first_announcement() {
    let net = Net::new();
    let server = net.node("server");
    let at = server.location;
    let client = net.node("client");
    let statuses = client.statuses();
    recv_until(&statuses, |status| *status == ("server".into(), Status::Online));
    // The client started later, so it has dialled. It must be able to dial again.
    server.stop();
    assert_eq!(recv(&statuses), ("server".into(), Status::Offline));
    let again = TestNode::start(Config { tcp_port: at.addr().port(), ..net.config("server again") });
    let start = std::time::Instant::now();
    assert_eq!(recv(&statuses), ("server again".into(), Status::Online));
    assert!(start.elapsed() < secs(3), "connected only after {:?}, by a later announcement", start.elapsed());
    drop(again);
}

#[test]
fn connect_request_to_peer_reuses_connection() {
    let net = Net::new();
    let first = net.static_node("first", &[]);
    let second = net.static_node("second", &[first.location]);
    first.wait_for_peers(1);
    let (sender, results) = std::sync::mpsc::channel();
    let at = second.location;
    first.spawn(move |cx, event| match event {
        Event::Start => {
            cx.peer(at, secs(10), |found| found);
            receive()
        }
        Event::Message(found) => {
            report(&sender, found);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&results), Ok(vec![at]));
    // A hello has shown that the peer is at the location that it states. That connection is closed at once.
    first.wait_for_counts("one connection", |counts| counts.connections == 1);
    second.wait_for_counts("one connection", |counts| counts.connections == 1);
}

#[test]
fn connect_request_reports_peer_refusal_or_silence() {
    let net = Net::new();
    let here = net.static_node("here", &[]);
    let there = net.static_node("there", &[]);
    assert_eq!(here.connect(there.location, secs(2)), Ok(vec![there.location]));
    assert_eq!(here.connect(there.location, secs(2)), Ok(vec![there.location]));
    let to_itself = here.connect(here.location, secs(2));
    assert_eq!(to_itself, Err(PeerError::Refused(Refusal::SelfConnection)));
    let foreign = Net::new().static_node("foreign", &[]);
    let refused = here.connect(foreign.location, secs(2));
    assert_eq!(refused, Err(PeerError::Refused(Refusal::WrongSecret)));
    let absent = there.location;
    there.stop();
    assert_eq!(here.connect(absent, secs(2)), Err(PeerError::Unreachable(DialError::ConnectionRefused)));
}

static SERVER_PORT: AtomicU16 = AtomicU16::new(0);
static RESOLUTIONS: AtomicUsize = AtomicUsize::new(0);

/// Resolves `twin.test` to two addresses; the node listens on the second. Resolves `late.test` from the second call on.
fn resolve(host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
    let port = SERVER_PORT.load(Ordering::SeqCst);
    match host {
        "twin.test" => {
            Ok(vec![SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)), ([127, 0, 0, 1], port).into()])
        }
        "late.test" if RESOLUTIONS.fetch_add(1, Ordering::SeqCst) > 0 => {
            Ok(vec![([127, 0, 0, 1], port).into()])
        }
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
    }
}

#[test]
fn host_name_dials_all_resolved_addresses() {
    let net = Net::new();
    let server = net.static_node("server", &[]);
    SERVER_PORT.store(server.location.addr().port(), Ordering::SeqCst);
    let host = |name: &str| PeerAt::Host(name.into(), server.location.addr().port());

    let unknown = host("nowhere.test");
    let config = Config { peers: vec![host("late.test")], ..net.static_config("late", &[]) };
    let late = TestNode::resolving(config, resolve);
    let result = late.connect(unknown.clone(), secs(2));
    assert_eq!(result, Err(PeerError::UnknownHost { at: unknown.clone(), reason: "no such host".into() }));
    late.wait_for_peers(1);
    assert_eq!(late.log.lines("late.test").len(), 1, "{:?}", late.log.lines(""));

    let twin = TestNode::resolving(net.static_config("twin", &[]), resolve);
    assert_eq!(twin.connect(host("twin.test"), secs(2)), Ok(vec![server.location]));

    // An unknown host in the configuration does not prevent the other dials.
    let config = Config { peers: vec![unknown, host("twin.test")], ..net.static_config("patient", &[]) };
    let patient = TestNode::resolving(config, resolve);
    patient.wait_for_peers(1);
    assert_eq!(patient.log.lines("nowhere.test").len(), 1);
}

#[test]
fn localhost_is_resolved_by_system() {
    let net = Net::new();
    let server = net.static_node("server", &[]);
    let at: PeerAt = format!("localhost:{}", server.location.addr().port()).parse().expect("a peer");
    let client = TestNode::start(Config { peers: vec![at], ..net.static_config("client", &[]) });
    client.wait_for_peers(1);
}

#[test]
fn loopback_confinement_refuses_other_hosts() {
    let net = Net::new();
    let here = net.static_node("here", &[]);
    let far: PeerAt = "192.0.2.1:9".parse().expect("a location");
    assert!(matches!(here.connect(far, secs(2)), Err(PeerError::Egress(_))));
    let far: PeerAt = "far.test:9".parse().expect("a host");
    assert!(matches!(here.connect(far, secs(2)), Err(PeerError::UnknownHost { .. })));
}

/// One node states the location of another one: both stay connected, since each of them answers.
#[test]
fn peer_with_wrong_external_address_stays_connected() {
    let net = Net::new();
    let middle = net.static_node("middle", &[]);
    let named = |name, ip: [u8; 4]| Config { ip: ip.into(), ..net.static_config(name, &[middle.location]) };
    let right = TestNode::start(named("right", [127, 0, 0, 5]));
    let statuses = middle.statuses();
    recv_until(&statuses, |status| *status == ("right".into(), Status::Online));
    let wrong = TestNode::start(Config {
        tcp_port: right.location.addr().port(),
        ext_ip_addr: Some(right.location.addr().ip()),
        ..named("wrong", [127, 0, 0, 6])
    });
    recv_until(&statuses, |status| *status == ("wrong".into(), Status::Online));
    // Longer than a peer may take to answer.
    std::thread::sleep(secs(2));
    assert_eq!(statuses.try_iter().collect::<Vec<_>>(), []);
    middle.wait_for_counts("both", |counts| counts.connections == 2);
    drop(wrong);
}
