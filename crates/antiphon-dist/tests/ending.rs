//! How nodes and their actors end, and who is told with what value.

mod common;

use std::sync::mpsc::channel;
use std::time::Instant;

use antiphon_dist::{NetCx, Node};
use antiphon_sched::{Addr, Cx, Event, exit, receive, receive_within, secs, stop};
use common::process::{self, Process};
use common::{End, Net, PATIENCE, heard, tell_test};

#[test]
#[ignore = "a role of the other tests, not one by itself"]
fn the_other_process() {
    let Some(role) = process::role() else { return };
    let mut node = Node::new(role.config()).expect("a node can start");
    process::say(node.location());
    node.spawn(|cx: &mut Cx<String>, event| {
        if matches!(event, Event::Start) {
            cx.register("server")?;
        }
        receive()
    });
    node.run().expect("the node runs");
}

#[test]
fn an_exit_value_is_read_by_the_main_thread_and_by_an_actor_elsewhere() {
    let net = Net::new();
    let there = net.quiet_node("there", &[]);
    let mut here = Node::new(net.quiet("here", &[there.location])).expect("a node can start");
    let worker = here.spawn(|cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            cx.register("worker")?;
            receive()
        }
        Event::Message(number) => exit(format!("{number} apples")),
        _ => receive(),
    });
    let join_handle = here.join_handle::<String>(worker);
    let read = here.run_with(|handle| {
        let elsewhere: Addr<u32> = there.find("worker");
        assert!(elsewhere == worker);
        let ended = there.watch(elsewhere);
        assert_eq!(there.step(move |cx| cx.send(elsewhere, 3)).map_err(|error| error.reason()), Ok(()));
        let waited = join_handle.join(PATIENCE);
        assert_eq!(heard(&ended), End::Value("3 apples".into()));
        assert!(handle.join::<String>(worker, secs(5)).is_err(), "it has ended before");
        waited
    });
    assert_eq!(read.expect("the node runs").expect("it exits with a text"), "3 apples");
}

#[test]
fn a_node_runs_until_only_daemons_are_left_and_what_they_sent_has_arrived() {
    let net = Net::new();
    let there = net.quiet_node("there", &[]);
    let told = there.listener::<u64>("listener");
    let mut here = Node::new(net.quiet("here", &[there.location])).expect("a node can start");
    here.spawn(|cx: &mut Cx<()>, _| {
        cx.set_daemon(true);
        receive_within(secs(3_600))
    });
    here.spawn(|cx: &mut Cx<Addr<u64>>, event| match event {
        Event::Start => {
            cx.locate("listener", PATIENCE, |found| found.expect("it is registered"));
            receive()
        }
        Event::Message(to) => {
            for number in 0..1_000 {
                cx.send(to, number)?;
            }
            stop()
        }
        _ => receive(),
    });
    here.run().expect("the node runs");
    // Nothing happens between these lines at the node here: all has arrived before.
    assert_eq!(here.counts().receipts, 0);
    for number in 0..1_000 {
        assert_eq!(heard(&told), number);
    }
}

#[test]
fn a_node_ends_in_time_although_its_peer_takes_nothing_any_more() {
    let net = Net { udp_port: 0, ..Net::new() };
    let server = Process::start(&net, "server");
    let at = server.location();
    let mut here = Node::new(net.quiet("here", &[at])).expect("a node can start");
    let (tell, told) = channel();
    here.spawn(move |cx: &mut Cx<Addr<String>>, event| match event {
        Event::Start => {
            cx.locate("server", PATIENCE, |found| found.expect("it is registered"));
            receive()
        }
        Event::Message(to) => {
            server.freeze();
            for _ in 0..100 {
                cx.send(to, "x".repeat(100_000))?;
            }
            tell_test(&tell, Instant::now());
            stop()
        }
        _ => receive(),
    });
    here.run().expect("the node runs");
    drop(here);
    let since = heard(&told);
    assert!(since.elapsed() < secs(10), "it took {:?} to end", since.elapsed());
}
