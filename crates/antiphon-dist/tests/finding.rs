//! Lookups of names and nodes, registration, discovery and peer watches.

mod common;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use antiphon_dist::{
    DialError, LocateError, Location, NetCx, PeerStatus, RegisterError, Status, UnknownNode,
};
use antiphon_sched::{Addr, Cx, Event, NodeId, Wire, exit, millis, receive, secs, stop};
use common::{Exit, Net, PATIENCE, TestNode, recv, recv_until, report, wait_for};

/// Opens a request in a new actor; the receiver gets the reply.
fn request<R: Send + 'static>(
    node: &TestNode,
    open: impl FnOnce(&mut Cx<'_, R>) + Send + 'static,
) -> Receiver<R> {
    let (sender, results) = channel();
    let mut open = Some(open);
    node.spawn(move |cx: &mut Cx<R>, event| match event {
        Event::Start => {
            if let Some(open) = open.take() {
                open(cx);
            }
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

type LocateResult<M> = Result<Addr<M>, LocateError>;

fn locate<M: Wire>(node: &TestNode, name: &'static str, timeout: Duration) -> Receiver<LocateResult<M>> {
    request(node, move |cx| cx.locate(name, timeout, |found| found))
}

#[test]
fn locate_completes_when_name_is_registered() {
    let (there, here) = Net::new().pair();
    let results = locate::<String>(&here, "late", secs(10));
    there.wait_for_counts("the lookup", |counts| counts.lookups == 1);
    assert_eq!(results.recv_timeout(millis(100)), Err(RecvTimeoutError::Timeout));
    let _listening = there.listener::<String>("late");
    assert!(recv(&results).is_ok());
    here.wait_for_counts("no open lookup", |counts| counts.lookups == 0);
    there.wait_for_counts("no open lookup", |counts| counts.lookups == 0);
}

#[test]
fn locate_finds_local_name_before_and_after_registration() {
    let node = Net::new().static_node("alone", &[]);
    let results = locate::<String>(&node, "name", secs(10));
    let _listening = node.listener::<String>("name");
    assert!(recv(&results).is_ok());
    assert!(recv(&locate::<String>(&node, "name", secs(10))).is_ok());
    assert_eq!(node.counts().lookups, 0);
}

#[test]
fn locate_completes_when_peer_connects() {
    let net = Net::new();
    let here = net.node("here");
    let results = locate::<String>(&here, "late", secs(10));
    here.wait_for_counts("the lookup", |counts| counts.lookups == 1);
    let there = net.node("there");
    let _listening = there.listener::<String>("late");
    assert!(recv(&results).is_ok());
}

#[test]
fn locate_unknown_name_times_out_and_closes() {
    let (there, here) = Net::new().pair();
    let start = Instant::now();
    assert_eq!(recv(&locate::<String>(&here, "absent", millis(300))), Err(LocateError::TimedOut));
    assert!((millis(300)..secs(3)).contains(&start.elapsed()), "{:?}", start.elapsed());
    there.wait_for_counts("no open lookup", |counts| counts.lookups == 0);
    assert_eq!(here.step(|cx| cx.register("x")), Ok(()));
    assert_eq!(here.step(|cx| cx.register("")), Err(RegisterError::BadName));
    assert_eq!(recv(&locate::<String>(&here, "", secs(1))), Err(LocateError::BadName));
}

#[test]
fn type_name_too_long_is_refused() {
    type Deep<T> = (T, T, T, T, T, T);
    type Deepest = Deep<Deep<Deep<u64>>>;
    let bytes = Deepest::name().len();
    assert!(bytes > 255);
    let node = Net::new().node("deep");
    let (sender, results) = channel();
    node.spawn(move |cx: &mut Cx<Deepest>, event| {
        if let Event::Start = event {
            report(&sender, cx.register("deep"));
        }
        receive()
    });
    assert_eq!(recv(&results), Err(RegisterError::TypeNameTooLong { bytes }));
    let refused = recv(&locate::<Deepest>(&node, "deep", secs(1)));
    assert_eq!(refused.err(), Some(LocateError::TypeNameTooLong { bytes }));
}

#[test]
fn locate_wrong_type_reports_both_types() {
    let (there, here) = Net::new().pair();
    let _listening = there.listener::<u64>("number");
    let wrong = |wanted: &str| LocateError::WrongType { expected: wanted.into(), found: u64::name().into() };
    assert_eq!(recv(&locate::<String>(&here, "number", secs(10))), Err(wrong(&String::name())));
    assert_eq!(recv(&locate::<String>(&there, "number", secs(10))), Err(wrong(&String::name())));
}

#[test]
fn locate_at_finds_names_of_one_node() {
    let net = Net::new();
    let (one, two) = (net.static_node("one", &[]), net.static_node("two", &[]));
    let here = net.static_node("here", &[]);
    let _one = one.listener::<String>("name");
    let (at_one, at_two) = (one.location, two.location);
    let at = |at: Location| {
        request(&here, move |cx| cx.locate_at("name", at, secs(10), |found: LocateResult<String>| found))
    };
    assert_eq!(recv(&at(at_one)).expect("the name is registered").node(), one.handle.node_id());
    let results = at(at_two);
    // `here` connects to the second node, where the name is not registered yet.
    here.wait_for_peers(2);
    two.wait_for_counts("the lookup", |counts| counts.lookups == 1);
    let _two = two.listener::<String>("name");
    assert_eq!(recv(&results).expect("the name is registered now").node(), two.handle.node_id());
    let _here = here.listener::<String>("name");
    assert_eq!(recv(&at(here.location)).expect("the name is registered here").node(), here.handle.node_id());
    let absent = Net::new().static_node("stopped", &[]).location;
    let results = request(&here, move |cx| {
        cx.locate_at("name", absent, millis(300), |found: LocateResult<String>| found)
    });
    assert_eq!(recv(&results), Err(LocateError::Unreachable(DialError::ConnectionRefused)));
}

#[test]
fn locate_all_finds_name_on_every_node() {
    let net = Net::new();
    let nodes: Vec<TestNode> = ["a", "b", "c"].map(|name| net.node(name)).into();
    nodes.iter().for_each(|node| node.wait_for_peers(2));
    let listeners: Vec<_> = nodes.iter().map(|node| node.listener::<String>("name")).collect();
    let _other = nodes[0].listener::<u64>("number");
    type LocateAllResult = Result<Vec<Addr<String>>, LocateError>;
    let all = |name: &'static str| {
        request(&nodes[0], move |cx| cx.locate_all(name, secs(2), |found: LocateAllResult| found))
    };
    let found = recv(&all("name")).expect("the name is registered");
    let mut found: Vec<NodeId> = found.iter().map(|addr| addr.node()).collect();
    found.sort_unstable();
    let mut expected: Vec<NodeId> = nodes.iter().map(|node| node.handle.node_id()).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(recv(&all("number")), Ok(vec![]));
    assert_eq!(recv(&all("absent")), Ok(vec![]));
    drop(listeners);
}

#[test]
fn locate_node_completes_when_node_connects() {
    let net = Net::new();
    let here = net.node("here");
    let find = |name: &'static str| request(&here, move |cx| cx.locate_node(name, secs(10), |found| found));
    assert_eq!(recv(&find("here")), Ok(here.location));
    let results = find("there");
    here.wait_for_counts("the lookup", |counts| counts.lookups == 1);
    let there = net.node("there");
    assert_eq!(recv(&results), Ok(there.location));
    assert_eq!(recv(&find("there")), Ok(there.location));
    let results = request(&here, |cx| cx.locate_node("absent", millis(200), |found| found));
    assert_eq!(recv(&results), Err(LocateError::TimedOut));
    let node_id = there.handle.node_id();
    assert_eq!(here.step(move |cx| cx.location_of(node_id)), Ok(there.location));
    let unknown = NodeId::from_bits(7);
    assert_eq!(here.step(move |cx| cx.location_of(unknown)), Err(UnknownNode { node: unknown }));
}

#[test]
fn name_is_held_until_unregister_or_exit() {
    let (there, here) = Net::new().pair();
    let (sender, results) = channel();
    let owner = there.spawn(move |cx: &mut Cx<String>, event| match event {
        Event::Start => {
            cx.register("name")?;
            report(&sender, cx.register("name"));
            receive()
        }
        Event::Message(text) if text == "unregister" => {
            report(&sender, cx.unregister("name"));
            receive()
        }
        Event::Message(text) if text == "register" => {
            report(&sender, cx.register("name"));
            receive()
        }
        Event::Message(_) => exit(7u64),
        _ => receive(),
    });
    assert_eq!(recv(&results), Ok(()), "the owner may register the name again");
    let taken = RegisterError::Taken { name: "name".into() };
    let not_owner = RegisterError::NotOwner { name: "name".into() };
    assert_eq!(there.step(|cx| cx.register("name")), Err(taken));
    assert_eq!(there.step(|cx| cx.unregister("name")), Err(not_owner));
    let found: Addr<String> = here.find("name");
    assert!(found == owner);

    assert_eq!(here.deliver(found, "unregister".into()), Ok(()));
    assert_eq!(recv(&results), Ok(()));
    assert_eq!(recv(&locate::<String>(&here, "name", millis(200))), Err(LocateError::TimedOut));
    assert_eq!(here.deliver(found, "register".into()), Ok(()));
    assert_eq!(recv(&results), Ok(()));
    assert!(recv(&locate::<String>(&here, "name", secs(10))).is_ok());

    let down = here.monitor(found);
    assert_eq!(here.deliver(found, "end".into()), Ok(()));
    assert_eq!(recv(&down), Exit::Done);
    assert_eq!(there.counts().names, 0);
    assert_eq!(recv(&locate::<String>(&here, "name", millis(200))), Err(LocateError::TimedOut));
    assert_eq!(there.step(|cx| cx.register("name")), Ok(()));
}

#[test]
fn five_nodes_on_one_port_all_connect() {
    let net = Net::new();
    let nodes: Vec<TestNode> = ["a", "b", "c", "d", "e"].map(|name| net.node(name)).into();
    let quiet = net.static_node("quiet", &[]);
    nodes.iter().for_each(|node| node.wait_for_peers(4));
    let one_each = |node: &TestNode| node.counts().connections == 4;
    wait_for("one connection each", || nodes.iter().all(one_each).then_some(()));
    assert_eq!(quiet.counts().peers, 0, "a node without discovery is not found");
    assert_eq!(quiet.step(|cx| cx.peers()), vec![]);
}

#[test]
fn duplicate_node_name_logs_one_warning() {
    let net = Net::new();
    let here = net.static_node("here", &[]);
    let twins = [net.static_node("twin", &[here.location]), net.static_node("twin", &[here.location])];
    here.wait_for_peers(2);
    let warnings = here.log.lines("twin");
    assert_eq!(warnings.len(), 1, "{:?}", here.log.lines(""));
    assert!(twins.iter().all(|twin| warnings[0].contains(&twin.location.to_string())), "{warnings:?}");
}

#[test]
fn peer_watch_reports_statuses_until_unwatched() {
    let net = Net::new();
    let here = net.static_node("here", &[]);
    let (sender, results) = channel();
    let watcher = here.spawn(move |cx: &mut Cx<Option<PeerStatus>>, event| {
        match event {
            Event::Start => {
                let watch = cx.peer_status(Some).expect("the limit is not reached");
                report(&sender, Err(watch));
            }
            Event::Message(status) => report(&sender, Ok(status.map(|status| (status.name, status.status)))),
            _ => {}
        }
        receive()
    });
    let Err(watch) = recv(&results) else { panic!("the watch comes first") };
    let one = net.static_node("one", &[here.location]);
    assert_eq!(recv(&results), Ok(Some(("one".into(), Status::Online))));
    one.stop();
    assert_eq!(recv(&results), Ok(Some(("one".into(), Status::Offline))));
    here.step(move |cx| cx.unwatch(watch));
    let statuses = here.statuses();
    let _two = net.static_node("two", &[here.location]);
    recv_until(&statuses, |status| *status == ("two".into(), Status::Online));
    here.handle.send(watcher, None).expect("the node runs");
    assert_eq!(recv(&results), Ok(None));
}

#[test]
fn peer_watches_of_exited_actors_are_removed() {
    let node = Net::new().static_node("alone", &[]);
    for _ in 0..200 {
        node.step(|cx| {
            cx.peer_status(|_| ()).expect("the limit is not reached");
        });
    }
    let watchers = node.counts().watchers;
    assert!(watchers <= 4, "{watchers} watchers");
}

#[test]
fn name_of_two_nodes_is_logged_with_both() {
    let net = Net::new();
    let [first, second] = ["first", "second"].map(|name| net.static_node(name, &[]));
    let _listeners = [first.listener::<String>("twin"), second.listener::<String>("twin")];
    let here = net.static_node("here", &[first.location, second.location]);
    here.wait_for_peers(2);
    // Both nodes have the name, so both answer.
    assert!(recv(&locate::<String>(&here, "twin", PATIENCE)).is_ok());
    here.log.wait_for("two nodes have registered one name");
    let line = here.log.lines("two nodes have registered one name").remove(0);
    for node in [&first, &second] {
        assert!(line.contains(&node.location.to_string()), "{line}");
    }
}

/// Nodes that start together find each other without waiting for further announcements.
#[test]
fn many_nodes_started_together_know_each_other() {
    const NODES: usize = 50;
    let net = Net::new();
    let begun = Instant::now();
    let nodes: Vec<TestNode> = (0..NODES).map(|number| net.node(&format!("node-{number}"))).collect();
    nodes.iter().for_each(|node| node.wait_for_peers(NODES - 1));
    println!("{NODES} nodes know each other after {:?}", begun.elapsed());
}
