//! Idle close, disconnects, and ignored peers.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use antiphon_dist::{
    CloseError, Config, Counts, DeliverError, Ignored, Location, NetCx, PeerError, PeerOptions, Refusal,
    Status, UnknownPeer,
};
use antiphon_sched::{Addr, Cx, Event, receive, secs, stop};
use common::{Exit, Net, TestNode, recv, recv_until, report};

fn start_close(node: &TestNode, at: Location, timeout: Duration) -> Receiver<Result<(), CloseError>> {
    let (sender, results) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.close_peer(at, timeout, |closed| closed);
            receive()
        }
        Event::Message(closed) => {
            report(&sender, closed);
            stop()
        }
        _ => receive(),
    });
    results
}

fn start_connect(
    node: &TestNode,
    at: Location,
    options: PeerOptions,
) -> Receiver<Result<Vec<Location>, PeerError>> {
    let (sender, results) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.peer_with(at, options, secs(10), |found| found);
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

fn connect(node: &TestNode, at: Location) -> Result<Vec<Location>, PeerError> {
    recv(&start_connect(node, at, PeerOptions::default()))
}

fn is_disconnected(counts: &Counts) -> bool {
    counts.connections == 0
}

/// Waits until both nodes have closed their connection. They are still peers.
fn wait_for_idle_close(one: &TestNode, other: &TestNode) {
    one.wait_for_counts("an idle close", is_disconnected);
    other.wait_for_counts("an idle close", is_disconnected);
    assert_eq!(one.step(|cx| cx.peers().len()), 1);
}

#[test]
fn idle_connection_closes_and_next_message_arrives() {
    let net = Net::new();
    let there = TestNode::start(Config { stream_send: false, ..net.static_config("there", &[]) });
    // A configured peer is dialled without end.
    let here = net.static_node("here", &[there.location]);
    let (at_there, at_here) = (there.listener::<String>("there"), here.listener::<String>("here"));
    let (to_there, to_here): (Addr<String>, Addr<String>) = (here.find("there"), there.find("here"));
    wait_for_idle_close(&here, &there);
    assert_eq!(here.deliver(to_there, "one".into()), Ok(()));
    assert_eq!(recv(&at_there), "one");
    wait_for_idle_close(&here, &there);
    assert_eq!(there.deliver(to_here, "two".into()), Ok(()));
    assert_eq!(recv(&at_here), "two");
    wait_for_idle_close(&here, &there);
    assert_eq!(connect(&here, there.location), Ok(vec![there.location]));
    assert_eq!(here.counts().connections, 1, "a connect request opens the connection again");
}

#[test]
fn peer_option_stream_send_false_permits_idle_close() {
    let net = Net::new();
    let (here, there) = (net.static_node("here", &[]), net.static_node("there", &[]));
    let closes = PeerOptions { stream_send: Some(false), ..PeerOptions::default() };
    assert_eq!(recv(&start_connect(&here, there.location, closes)), Ok(vec![there.location]));
    wait_for_idle_close(&here, &there);
}

#[test]
fn peer_stopped_after_idle_close_becomes_offline() {
    let net = Net::new();
    let there = TestNode::start(Config { stream_send: false, ..net.static_config("there", &[]) });
    let here = net.static_node("here", &[there.location]);
    let _listening = there.listener::<String>("there");
    let to: Addr<String> = here.find("there");
    wait_for_idle_close(&here, &there);
    there.stop();
    assert_eq!(here.step(|cx| cx.peers().len()), 1, "the loss is not noticed yet");
    let down = here.monitor(to);
    let statuses = here.statuses();
    assert_eq!(recv(&down), Exit::NodeLost);
    recv_until(&statuses, |status| *status == ("there".into(), Status::Offline));
    assert_eq!(here.step(|cx| cx.peers().len()), 0);
}

#[test]
fn close_peer_delivers_all_and_allows_reconnect() {
    let net = Net::new();
    // `here` dials its configured peer without end, and both receive the announcements of the other.
    let there = net.node("there");
    let here = TestNode::start(Config { peers: vec![there.location.into()], ..net.config("here") });
    there.wait_for_peers(1);
    let at_there = there.listener::<String>("there");
    let to: Addr<String> = here.find("there");
    let statuses = there.statuses();
    assert_eq!(recv(&statuses), ("here".into(), Status::Online));
    let down = here.monitor(to);
    let at = there.location;
    let (sender, results) = channel();
    here.spawn(move |cx, event| match event {
        Event::Start => {
            for number in 0..5_000 {
                cx.send(to, number.to_string())?;
            }
            cx.close_peer(at, secs(20), |closed| closed);
            cx.close_peer(at, secs(20), |closed| closed);
            receive()
        }
        Event::Message(closed) => {
            report(&sender, closed);
            receive()
        }
        _ => receive(),
    });
    assert_eq!((recv(&results), recv(&results)), (Ok(()), Ok(())));
    assert_eq!(recv(&down), Exit::NodeLost);
    assert_eq!(here.stats().dead_letters, 0);
    for number in 0..5_000 {
        assert_eq!(recv(&at_there), number.to_string());
    }
    assert_eq!(recv(&statuses), ("here".into(), Status::Offline));
    assert_eq!(recv(&start_close(&here, at, secs(5))), Ok(()), "the peer is disconnected already");
    // An announcement arrives within one second, and a configured peer is dialled within two. Neither may connect the
    // nodes, so the test waits for a fixed time.
    std::thread::sleep(secs(3));
    let counts = [here.counts(), there.counts()];
    assert_eq!(counts.map(|counts| (counts.connections, counts.monitors, counts.receipts)), [(0, 0, 0); 2]);
    assert_eq!(here.deliver(to, "again".into()), Ok(()), "a message opens a new session");
    assert_eq!(recv(&at_there), "again");
    assert_eq!(recv(&statuses), ("here".into(), Status::Online));
}

#[test]
fn send_during_close_uses_next_session() {
    let net = Net::new();
    let (there, here) = net.pair();
    let at_there = there.listener::<String>("there");
    let to: Addr<String> = here.find("there");
    let at = there.location;
    here.step(move |cx| {
        cx.spawn(move |cx: &mut Cx<Result<(), CloseError>>, event| match event {
            Event::Start => {
                cx.send(to, "before".into())?;
                cx.close_peer(at, secs(20), |closed| closed);
                cx.send(to, "after".into())?;
                receive()
            }
            _ => stop(),
        });
    });
    assert_eq!(recv(&at_there), "before");
    assert_eq!(recv(&at_there), "after");
}

#[test]
fn deliver_during_close_completes_in_next_session() {
    let net = Net::new();
    let (there, here) = net.pair();
    let at_there = there.listener::<String>("there");
    let to: Addr<String> = here.find("there");
    let at = there.location;
    let (sender, results) = channel();
    here.spawn(move |cx: &mut Cx<Option<Result<(), DeliverError>>>, event| match event {
        Event::Start => {
            cx.close_peer(at, secs(20), |_| None);
            cx.deliver(to, "in between".into(), secs(20), Some);
            receive()
        }
        Event::Message(Some(done)) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(recv(&results), Ok(()), "the message was not sent in the session that ended");
    assert_eq!(recv(&at_there), "in between");
}

#[test]
fn mutual_close_completes_on_both_sides() {
    let net = Net::new();
    let (there, here) = net.pair();
    let one = start_close(&there, here.location, secs(20));
    let other = start_close(&here, there.location, secs(20));
    assert_eq!([recv(&one), recv(&other)], [Ok(()); 2]);
}

#[test]
fn close_peer_after_idle_close_sends_goodbye() {
    let net = Net::new();
    let there = TestNode::start(Config { stream_send: false, ..net.static_config("there", &[]) });
    let here = net.static_node("here", &[there.location]);
    there.wait_for_peers(1);
    wait_for_idle_close(&here, &there);
    assert_eq!(recv(&start_close(&here, there.location, secs(10))), Ok(()));
    there.wait_for_peers(0);
    assert_eq!(here.step(|cx| cx.peers().len()), 0);
}

#[test]
fn close_peer_at_unknown_location_fails() {
    let here = Net::new().static_node("here", &[]);
    for at in ["127.0.0.1:9", "127.0.0.1:0"] {
        let at: Location = at.parse().expect("a location");
        assert_eq!(recv(&start_close(&here, at, secs(1))), Err(CloseError::Unknown(UnknownPeer { at })));
    }
}

fn ignore(node: &TestNode, peers: impl Into<Ignored>) {
    let peers = peers.into();
    node.step(move |cx| cx.ignore_peers(peers));
}

#[test]
fn ignore_unknown_nodes_keeps_peers() {
    let net = Net::new();
    let (here, friend) = net.pair();
    let unknown = net.static_node("unknown", &[]);
    ignore(&here, Ignored::UnknownNodes);
    assert_eq!(connect(&unknown, here.location), Err(PeerError::Refused(Refusal::Ignored)));
    assert_eq!(here.step(|cx| cx.peers().len()), 1);
    assert_eq!(connect(&here, friend.location), Ok(vec![friend.location]));
    assert_eq!(
        connect(&here, unknown.location),
        Ok(vec![unknown.location]),
        "this node still dials unknown nodes"
    );
    let another = net.static_node("another", &[]);
    assert_eq!(connect(&another, here.location), Err(PeerError::Refused(Refusal::Ignored)));
    ignore(&here, Ignored::None);
    assert_eq!(connect(&another, here.location), Ok(vec![here.location]));
}

#[test]
fn ignore_address_disconnects_its_peers() {
    let net = Net::new();
    let here = net.static_node("here", &[]);
    let other: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
    let there = TestNode::start(Config { ip: other, ..net.static_config("there", &[here.location]) });
    let friend = net.static_node("friend", &[here.location]);
    here.wait_for_peers(2);
    let statuses = there.statuses();
    assert_eq!(recv(&statuses), ("here".into(), Status::Online));
    ignore(&here, other);
    assert_eq!(recv(&statuses), ("here".into(), Status::Offline));
    here.wait_for_peers(1);
    assert_eq!(connect(&here, there.location), Err(PeerError::Refused(Refusal::Ignored)));
    assert_eq!(connect(&there, here.location), Err(PeerError::Refused(Refusal::Ignored)));
    assert_eq!(connect(&here, friend.location), Ok(vec![friend.location]));
    ignore(&here, Ignored::None);
    assert_eq!(connect(&there, here.location), Ok(vec![here.location]));
}
