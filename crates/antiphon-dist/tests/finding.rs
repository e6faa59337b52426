//! Names and nodes that are looked for, and found when they appear.

mod common;

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use antiphon_dist::{LocateError, Location, NetCx, PeerStatus, RegisterError, Status, UnknownNode};
use antiphon_sched::{Addr, Cx, Event, NodeId, Wire, exit, millis, receive, secs, stop};
use common::{End, Net, TestNode, heard, heard_until, tell_test, wait_for};

/// Looks for something, as `look` says, and tells what comes of it.
fn look<R: Send + 'static>(
    node: &TestNode,
    look: impl FnOnce(&mut Cx<'_, R>) + Send + 'static,
) -> Receiver<R> {
    let (tell, told) = channel();
    let mut look = Some(look);
    node.spawn(move |cx: &mut Cx<R>, event| match event {
        Event::Start => {
            if let Some(look) = look.take() {
                look(cx);
            }
            receive()
        }
        Event::Message(found) => {
            tell_test(&tell, found);
            stop()
        }
        _ => receive(),
    });
    told
}

type Found<M> = Result<Addr<M>, LocateError>;

fn locate<M: Wire>(node: &TestNode, name: &'static str, timeout: Duration) -> Receiver<Found<M>> {
    look(node, move |cx| cx.locate(name, timeout, |found| found))
}

#[test]
fn a_name_that_is_registered_later_is_found_then() {
    let (there, here) = Net::new().pair();
    let told = locate::<String>(&here, "late", secs(10));
    there.wait_for_counts("the question", |counts| counts.lookups == 1);
    assert_eq!(told.recv_timeout(millis(100)).ok(), None);
    let _listening = there.listener::<String>("late");
    assert!(heard(&told).is_ok());
    here.wait_for_counts("no open question", |counts| counts.lookups == 0);
    there.wait_for_counts("no open question", |counts| counts.lookups == 0);
}

#[test]
fn a_name_at_home_is_found_now_and_later() {
    let node = Net::new().quiet_node("alone", &[]);
    let told = locate::<String>(&node, "name", secs(10));
    let _listening = node.listener::<String>("name");
    assert!(heard(&told).is_ok());
    assert!(heard(&locate::<String>(&node, "name", secs(10))).is_ok());
    assert_eq!(node.counts().lookups, 0);
}

#[test]
fn a_name_of_a_peer_that_joins_later_is_found_then() {
    let net = Net::new();
    let here = net.node("here");
    let told = locate::<String>(&here, "late", secs(10));
    here.wait_for_counts("the question", |counts| counts.lookups == 1);
    let there = net.node("there");
    let _listening = there.listener::<String>("late");
    assert!(heard(&told).is_ok());
}

#[test]
fn a_name_that_nobody_has_times_out_in_time_and_is_no_longer_asked_for() {
    let (there, here) = Net::new().pair();
    let asked = Instant::now();
    assert_eq!(heard(&locate::<String>(&here, "nobody", millis(300))), Err(LocateError::TimedOut));
    assert!((millis(300)..secs(3)).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    there.wait_for_counts("no open question", |counts| counts.lookups == 0);
    let mut late = here.step(|cx| cx.register("x"));
    assert_eq!(late, Ok(()));
    late = here.step(|cx| cx.register(""));
    assert_eq!(late, Err(RegisterError::BadName));
    assert_eq!(heard(&locate::<String>(&here, "", secs(1))), Err(LocateError::BadName));
}

#[test]
fn a_type_whose_composed_name_is_too_long_can_be_neither_registered_nor_located() {
    type Deep<T> = (T, T, T, T, T, T);
    type Deepest = Deep<Deep<Deep<u64>>>;
    let bytes = Deepest::name().len();
    assert!(bytes > 255);
    let node = Net::new().node("deep");
    let (tell, told) = channel();
    node.spawn(move |cx: &mut Cx<Deepest>, event| {
        if let Event::Start = event {
            tell_test(&tell, cx.register("deep"));
        }
        receive()
    });
    assert_eq!(heard(&told), Err(RegisterError::TypeNameTooLong { bytes }));
    let refused = heard(&locate::<Deepest>(&node, "deep", secs(1)));
    assert_eq!(refused.err(), Some(LocateError::TypeNameTooLong { bytes }));
}

#[test]
fn a_name_of_another_type_is_told_with_both_types() {
    let (there, here) = Net::new().pair();
    let _listening = there.listener::<u64>("number");
    let wrong = |wanted: &str| LocateError::WrongType { wanted: wanted.into(), found: u64::name().into() };
    assert_eq!(heard(&locate::<String>(&here, "number", secs(10))), Err(wrong(&String::name())));
    assert_eq!(heard(&locate::<String>(&there, "number", secs(10))), Err(wrong(&String::name())));
}

#[test]
fn a_name_at_one_location_is_that_nodes_own() {
    let net = Net::new();
    let (one, two) = (net.quiet_node("one", &[]), net.quiet_node("two", &[]));
    let here = net.quiet_node("here", &[]);
    let _one = one.listener::<String>("name");
    let (at_one, at_two) = (one.location, two.location);
    let at = |at: Location| {
        look(&here, move |cx| cx.locate_at("name", at, secs(10), |found: Found<String>| found))
    };
    assert_eq!(heard(&at(at_one)).expect("it is there").node(), one.handle.node_id());
    let told = at(at_two);
    // The other node is dialled, and does not have it yet.
    here.wait_for_peers(2);
    two.wait_for_counts("the question", |counts| counts.lookups == 1);
    let _two = two.listener::<String>("name");
    assert_eq!(heard(&told).expect("it is there now").node(), two.handle.node_id());
    let _here = here.listener::<String>("name");
    assert_eq!(heard(&at(here.location)).expect("it is here").node(), here.handle.node_id());
    let nobody = Net::new().quiet_node("gone", &[]).location;
    let told = look(&here, move |cx| cx.locate_at("name", nobody, millis(300), |found: Found<String>| found));
    assert_eq!(heard(&told), Err(LocateError::TimedOut));
}

#[test]
fn all_that_bear_a_name_are_collected() {
    let net = Net::new();
    let nodes: Vec<TestNode> = ["a", "b", "c"].map(|name| net.node(name)).into();
    nodes.iter().for_each(|node| node.wait_for_peers(2));
    let told: Vec<_> = nodes.iter().map(|node| node.listener::<String>("name")).collect();
    let _other = nodes[0].listener::<u64>("number");
    type All = Result<Vec<Addr<String>>, LocateError>;
    let all =
        |name: &'static str| look(&nodes[0], move |cx| cx.locate_all(name, secs(2), |found: All| found));
    let found = heard(&all("name")).expect("they are there");
    let mut homes: Vec<NodeId> = found.iter().map(|addr| addr.node()).collect();
    homes.sort_unstable();
    let mut wanted: Vec<NodeId> = nodes.iter().map(|node| node.handle.node_id()).collect();
    wanted.sort_unstable();
    assert_eq!(homes, wanted);
    assert_eq!(heard(&all("number")), Ok(vec![]));
    assert_eq!(heard(&all("nobody")), Ok(vec![]));
    drop(told);
}

#[test]
fn a_node_is_found_by_its_name_now_and_later() {
    let net = Net::new();
    let here = net.node("here");
    let find = |name: &'static str| look(&here, move |cx| cx.locate_node(name, secs(10), |found| found));
    assert_eq!(heard(&find("here")), Ok(here.location));
    let told = find("there");
    here.wait_for_counts("the question", |counts| counts.lookups == 1);
    let there = net.node("there");
    assert_eq!(heard(&told), Ok(there.location));
    assert_eq!(heard(&find("there")), Ok(there.location));
    let told = look(&here, |cx| cx.locate_node("nobody", millis(200), |found| found));
    assert_eq!(heard(&told), Err(LocateError::TimedOut));
    let node_id = there.handle.node_id();
    assert_eq!(here.step(move |cx| cx.location_of(node_id)), Ok(there.location));
    let unknown = NodeId::from_bits(7);
    assert_eq!(here.step(move |cx| cx.location_of(unknown)), Err(UnknownNode { node: unknown }));
}

#[test]
fn a_name_is_its_owners_until_it_is_given_back_or_the_owner_ends() {
    let (there, here) = Net::new().pair();
    let (tell, told) = channel();
    let owner = there.spawn(move |cx: &mut Cx<String>, event| match event {
        Event::Start => {
            cx.register("name")?;
            tell_test(&tell, cx.register("name"));
            receive()
        }
        Event::Message(text) if text == "give back" => {
            tell_test(&tell, cx.unregister("name"));
            receive()
        }
        Event::Message(text) if text == "take" => {
            tell_test(&tell, cx.register("name"));
            receive()
        }
        Event::Message(_) => exit(7u64),
        _ => receive(),
    });
    assert_eq!(heard(&told), Ok(()), "to register twice changes nothing");
    let taken = RegisterError::Taken { name: "name".into() };
    let not_owner = RegisterError::NotOwner { name: "name".into() };
    assert_eq!(there.step(|cx| cx.register("name")), Err(taken));
    assert_eq!(there.step(|cx| cx.unregister("name")), Err(not_owner));
    let found: Addr<String> = here.find("name");
    assert!(found == owner);

    assert_eq!(here.deliver(found, "give back".into()), Ok(()));
    assert_eq!(heard(&told), Ok(()));
    assert_eq!(heard(&locate::<String>(&here, "name", millis(200))), Err(LocateError::TimedOut));
    assert_eq!(here.deliver(found, "take".into()), Ok(()));
    assert_eq!(heard(&told), Ok(()));
    assert!(heard(&locate::<String>(&here, "name", secs(10))).is_ok());

    let down = here.watch(found);
    assert_eq!(here.deliver(found, "end".into()), Ok(()));
    assert_eq!(heard(&down), End::Done);
    assert_eq!(there.counts().names, 0);
    assert_eq!(heard(&locate::<String>(&here, "name", millis(200))), Err(LocateError::TimedOut));
    assert_eq!(there.step(|cx| cx.register("name")), Ok(()));
}

#[test]
fn five_nodes_on_one_host_and_port_all_find_each_other() {
    let net = Net::new();
    let nodes: Vec<TestNode> = ["a", "b", "c", "d", "e"].map(|name| net.node(name)).into();
    let quiet = net.quiet_node("quiet", &[]);
    nodes.iter().for_each(|node| node.wait_for_peers(4));
    let one_each = |node: &TestNode| node.counts().connections == 4;
    wait_for("one connection each", || nodes.iter().all(one_each).then_some(()));
    assert_eq!(quiet.counts().peers, 0, "who does not discover is not found");
    assert_eq!(quiet.step(|cx| cx.peers()), vec![]);
}

#[test]
fn two_nodes_of_one_name_both_stay_and_a_warning_names_both() {
    let net = Net::new();
    let here = net.quiet_node("here", &[]);
    let twins = [net.quiet_node("twin", &[here.location]), net.quiet_node("twin", &[here.location])];
    here.wait_for_peers(2);
    let said = here.log.lines("twin");
    assert_eq!(said.len(), 1, "{:?}", here.log.lines(""));
    assert!(twins.iter().all(|twin| said[0].contains(&twin.location.to_string())), "{said:?}");
}

#[test]
fn who_watches_peers_is_told_of_each_until_it_no_longer_wants_to() {
    let net = Net::new();
    let here = net.quiet_node("here", &[]);
    let (tell, told) = channel();
    let watcher = here.spawn(move |cx: &mut Cx<Option<PeerStatus>>, event| {
        match event {
            Event::Start => {
                let watch = cx.peer_status(Some);
                tell_test(&tell, Err(watch));
            }
            Event::Message(status) => tell_test(&tell, Ok(status.map(|status| (status.name, status.status)))),
            _ => {}
        }
        receive()
    });
    let Err(watch) = heard(&told) else { panic!("the watch comes first") };
    let one = net.quiet_node("one", &[here.location]);
    assert_eq!(heard(&told), Ok(Some(("one".into(), Status::Online))));
    one.stop();
    assert_eq!(heard(&told), Ok(Some(("one".into(), Status::Offline))));
    here.step(move |cx| cx.unwatch(watch));
    let statuses = here.statuses();
    let _two = net.quiet_node("two", &[here.location]);
    heard_until(&statuses, |status| *status == ("two".into(), Status::Online));
    here.handle.send(watcher, None).expect("the node runs");
    assert_eq!(heard(&told), Ok(None));
}

#[test]
fn watchers_of_peers_that_have_ended_are_forgotten() {
    let node = Net::new().quiet_node("alone", &[]);
    for _ in 0..200 {
        node.step(|cx| {
            cx.peer_status(|_| ());
        });
    }
    let watchers = node.counts().watchers;
    assert!(watchers <= 4, "{watchers} watchers");
}
