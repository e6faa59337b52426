//! Peers that part: for a while, because nothing is sent; for good, because one wants it so; or because one ignores
//! the other.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use antiphon_dist::{
    CloseError, Config, Counts, DeliverError, Ignored, Location, NetCx, PeerError, PeerOptions, Refusal,
    Status, UnknownPeer,
};
use antiphon_sched::{Addr, Cx, Event, receive, secs, stop};
use common::{End, Net, TestNode, heard, heard_until};

fn closing(node: &TestNode, at: Location, timeout: Duration) -> Receiver<Result<(), CloseError>> {
    let (tell, told) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.close_peer(at, timeout, |closed| closed);
            receive()
        }
        Event::Message(closed) => {
            common::tell_test(&tell, closed);
            stop()
        }
        _ => receive(),
    });
    told
}

fn contacting(
    node: &TestNode,
    at: Location,
    options: PeerOptions,
) -> Receiver<Result<Vec<Location>, PeerError>> {
    let (tell, told) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.peer_with(at, options, secs(10), |found| found);
            receive()
        }
        Event::Message(found) => {
            common::tell_test(&tell, found);
            stop()
        }
        _ => receive(),
    });
    told
}

fn contact(node: &TestNode, at: Location) -> Result<Vec<Location>, PeerError> {
    heard(&contacting(node, at, PeerOptions::default()))
}

fn is_at_rest(counts: &Counts) -> bool {
    counts.connections == 0
}

/// Both have closed their connection, and are peers still.
fn rest(one: &TestNode, other: &TestNode) {
    one.wait_for_counts("the connection to be closed", is_at_rest);
    other.wait_for_counts("the connection to be closed", is_at_rest);
    assert_eq!(one.step(|cx| cx.peers().len()), 1);
}

#[test]
fn a_connection_that_nothing_needs_is_closed_and_what_is_sent_next_arrives() {
    let net = Net::new();
    let there = TestNode::start(Config { stream_send: false, ..net.quiet("there", &[]) });
    // Its configuration tells it to dial for ever.
    let here = net.quiet_node("here", &[there.location]);
    let (at_there, at_here) = (there.listener::<String>("there"), here.listener::<String>("here"));
    let (to_there, to_here): (Addr<String>, Addr<String>) = (here.find("there"), there.find("here"));
    rest(&here, &there);
    assert_eq!(here.deliver(to_there, "one".into()), Ok(()));
    assert_eq!(heard(&at_there), "one");
    rest(&here, &there);
    assert_eq!(there.deliver(to_here, "two".into()), Ok(()));
    assert_eq!(heard(&at_here), "two");
    rest(&here, &there);
    assert_eq!(contact(&here, there.location), Ok(vec![there.location]));
    assert_eq!(here.counts().connections, 1, "to contact is to look whether it is there");
}

#[test]
fn a_contact_says_whether_the_connection_is_kept() {
    let net = Net::new();
    let (here, there) = (net.quiet_node("here", &[]), net.quiet_node("there", &[]));
    let closes = PeerOptions { stream_send: Some(false), ..PeerOptions::default() };
    assert_eq!(heard(&contacting(&here, there.location, closes)), Ok(vec![there.location]));
    rest(&here, &there);
}

#[test]
fn a_peer_that_left_while_its_session_was_at_rest_is_lost_when_something_is_sent_to_it() {
    let net = Net::new();
    let there = TestNode::start(Config { stream_send: false, ..net.quiet("there", &[]) });
    let here = net.quiet_node("here", &[there.location]);
    let _listening = there.listener::<String>("there");
    let to: Addr<String> = here.find("there");
    rest(&here, &there);
    there.stop();
    assert_eq!(here.step(|cx| cx.peers().len()), 1, "nobody has looked");
    let down = here.watch(to);
    let statuses = here.statuses();
    assert_eq!(heard(&down), End::NodeLost);
    heard_until(&statuses, |told| *told == ("there".into(), Status::Offline));
    assert_eq!(here.step(|cx| cx.peers().len()), 0);
}

#[test]
fn a_peer_that_is_closed_has_heard_all_and_is_met_again_when_it_is_contacted() {
    let net = Net::new();
    // Both are configured to dial each other for ever, and hear each other's announcements.
    let there = net.node("there");
    let here = TestNode::start(Config { peers: vec![there.location.into()], ..net.config("here") });
    there.wait_for_peers(1);
    let at_there = there.listener::<String>("there");
    let to: Addr<String> = here.find("there");
    let statuses = there.statuses();
    assert_eq!(heard(&statuses), ("here".into(), Status::Online));
    let down = here.watch(to);
    let at = there.location;
    let (tell, told) = channel();
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
            common::tell_test(&tell, closed);
            receive()
        }
        _ => receive(),
    });
    assert_eq!((heard(&told), heard(&told)), (Ok(()), Ok(())));
    assert_eq!(heard(&down), End::NodeLost);
    assert_eq!(here.stats().dead_letters, 0);
    for number in 0..5_000 {
        assert_eq!(heard(&at_there), number.to_string());
    }
    assert_eq!(heard(&statuses), ("here".into(), Status::Offline));
    assert_eq!(heard(&closing(&here, at, secs(5))), Ok(()), "it is closed already");
    // Announcements come within a second, and dials of the configuration within two: it is the span that is tested.
    std::thread::sleep(secs(3));
    let counts = [here.counts(), there.counts()];
    assert_eq!(counts.map(|counts| (counts.connections, counts.monitors, counts.receipts)), [(0, 0, 0); 2]);
    assert_eq!(here.deliver(to, "again".into()), Ok(()), "a message contacts it anew");
    assert_eq!(heard(&at_there), "again");
    assert_eq!(heard(&statuses), ("here".into(), Status::Online));
}

#[test]
fn what_is_sent_while_a_peer_is_being_closed_waits_for_another_session() {
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
    assert_eq!(heard(&at_there), "before");
    assert_eq!(heard(&at_there), "after");
}

#[test]
fn what_is_asked_while_a_peer_is_being_closed_is_answered_by_another_session() {
    let net = Net::new();
    let (there, here) = net.pair();
    let at_there = there.listener::<String>("there");
    let to: Addr<String> = here.find("there");
    let at = there.location;
    let (tell, told) = channel();
    here.spawn(move |cx: &mut Cx<Option<Result<(), DeliverError>>>, event| match event {
        Event::Start => {
            cx.close_peer(at, secs(20), |_| None);
            cx.deliver(to, "in between".into(), secs(20), Some);
            receive()
        }
        Event::Message(Some(done)) => {
            common::tell_test(&tell, done);
            stop()
        }
        _ => receive(),
    });
    assert_eq!(heard(&told), Ok(()), "it was not under way when the session ended");
    assert_eq!(heard(&at_there), "in between");
}

#[test]
fn two_nodes_that_close_each_other_at_once_are_both_answered() {
    let net = Net::new();
    let (there, here) = net.pair();
    let one = closing(&there, here.location, secs(20));
    let other = closing(&here, there.location, secs(20));
    assert_eq!([heard(&one), heard(&other)].map(|closed| closed.is_ok()), [true; 2]);
}

#[test]
fn a_session_at_rest_is_closed_with_goodbye_too() {
    let net = Net::new();
    let there = TestNode::start(Config { stream_send: false, ..net.quiet("there", &[]) });
    let here = net.quiet_node("here", &[there.location]);
    there.wait_for_peers(1);
    rest(&here, &there);
    assert_eq!(heard(&closing(&here, there.location, secs(10))), Ok(()));
    there.wait_for_peers(0);
    assert_eq!(here.step(|cx| cx.peers().len()), 0);
}

#[test]
fn where_no_peer_is_known_none_is_closed() {
    let here = Net::new().quiet_node("here", &[]);
    for at in ["127.0.0.1:9", "127.0.0.1:0"] {
        let at: Location = at.parse().expect("a location");
        assert_eq!(heard(&closing(&here, at, secs(1))), Err(CloseError::Unknown(UnknownPeer { at })));
    }
}

fn ignore(node: &TestNode, whom: impl Into<Ignored>) {
    let whom = whom.into();
    node.step(move |cx| cx.ignore_peers(whom));
}

#[test]
fn strangers_are_ignored_and_peers_stay_until_it_is_taken_back() {
    let net = Net::new();
    let (here, friend) = net.pair();
    let stranger = net.quiet_node("stranger", &[]);
    ignore(&here, Ignored::UnknownNodes);
    assert_eq!(contact(&stranger, here.location), Err(PeerError::Refused(Refusal::Ignored)));
    assert_eq!(here.step(|cx| cx.peers().len()), 1);
    assert_eq!(contact(&here, friend.location), Ok(vec![friend.location]));
    assert_eq!(contact(&here, stranger.location), Ok(vec![stranger.location]), "it is this node's own will");
    let another = net.quiet_node("another", &[]);
    assert_eq!(contact(&another, here.location), Err(PeerError::Refused(Refusal::Ignored)));
    ignore(&here, Ignored::None);
    assert_eq!(contact(&another, here.location), Ok(vec![here.location]));
}

#[test]
fn nodes_at_an_address_that_is_ignored_from_now_on_are_left_with_goodbye() {
    let net = Net::new();
    let here = net.quiet_node("here", &[]);
    let other: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
    let there = TestNode::start(Config { ip: other, ..net.quiet("there", &[here.location]) });
    let friend = net.quiet_node("friend", &[here.location]);
    here.wait_for_peers(2);
    let statuses = there.statuses();
    assert_eq!(heard(&statuses), ("here".into(), Status::Online));
    ignore(&here, other);
    assert_eq!(heard(&statuses), ("here".into(), Status::Offline));
    here.wait_for_peers(1);
    assert_eq!(contact(&here, there.location), Err(PeerError::Refused(Refusal::Ignored)));
    assert!(contact(&there, here.location).is_err());
    assert_eq!(contact(&here, friend.location), Ok(vec![friend.location]));
    ignore(&here, Ignored::None);
    assert_eq!(contact(&there, here.location), Ok(vec![here.location]));
}
