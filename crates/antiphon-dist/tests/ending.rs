//! The end of nodes and of their actors, and the exit values that others receive.

mod common;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::time::Instant;

use antiphon_dist::{NetCx, Node};
use antiphon_sched::{Addr, Cx, Event, ExitReason, JoinError, exit, receive, receive_within, secs, stop};
use common::harness::{self, tests};
use common::process::{self, Process, Role};
use common::{Exit, Net, PATIENCE, recv, report};

fn main() -> ExitCode {
    harness::run(
        run_server,
        tests![
            exit_value_reaches_join_handle_and_remote_monitor,
            node_with_only_daemons_flushes_and_returns,
            node_stops_in_time_with_frozen_peer,
        ],
    )
}

/// The child process: a server that receives texts.
fn run_server(role: &Role) {
    let mut node = Node::new(role.config()).expect("a node can start");
    process::send_line(node.location());
    node.spawn(|cx: &mut Cx<String>, event| {
        if matches!(event, Event::Start) {
            cx.register("server")?;
        }
        receive()
    });
    node.run().expect("the node runs");
}

fn exit_value_reaches_join_handle_and_remote_monitor() {
    let net = Net::new();
    let there = net.static_node("there", &[]);
    let mut here = Node::new(net.static_config("here", &[there.location])).expect("a node can start");
    let worker = here.spawn(|cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            cx.register("worker")?;
            receive()
        }
        Event::Message(number) => exit(format!("{number} apples")),
        _ => receive(),
    });
    let join_handle = here.join_handle::<String>(worker);
    let joined = here.run_with(|handle| {
        let remote: Addr<u32> = there.find("worker");
        assert!(remote == worker);
        let ended = there.monitor(remote);
        assert_eq!(there.step(move |cx| cx.send(remote, 3)).map_err(|error| error.reason()), Ok(()));
        let value = join_handle.join(PATIENCE);
        assert_eq!(recv(&ended), Exit::Value("3 apples".into()));
        let late = handle.join::<String>(worker, secs(5));
        let no_actor = ExitReason::NoActor.to_string();
        assert!(matches!(&late, Err(JoinError::NoValue(reason)) if *reason == no_actor), "{late:?}");
        value
    });
    assert_eq!(joined.expect("the node runs").expect("the worker exits with a text"), "3 apples");
}

/// A node runs until only daemons are left, and its messages are acknowledged.
fn node_with_only_daemons_flushes_and_returns() {
    let net = Net::new();
    let there = net.static_node("there", &[]);
    let messages = there.listener::<u64>("listener");
    let mut here = Node::new(net.static_config("here", &[there.location])).expect("a node can start");
    here.spawn(|cx: &mut Cx<()>, _| {
        cx.set_daemon(true);
        receive_within(secs(3_600))
    });
    here.spawn(|cx: &mut Cx<Addr<u64>>, event| match event {
        Event::Start => {
            cx.locate("listener", PATIENCE, |found| found.expect("the name is registered"));
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
    // The node no longer runs: all messages were acknowledged before `run` returned.
    assert_eq!(here.counts().receipts, 0);
    for number in 0..1_000 {
        assert_eq!(recv(&messages), number);
    }
}

fn node_stops_in_time_with_frozen_peer() {
    let net = Net { udp_port: 0, ..Net::new() };
    let server = Rc::new(Process::start(&net, "server"));
    let at = server.location();
    let mut here = Node::new(net.static_config("here", &[at])).expect("a node can start");
    let (sender, results) = channel();
    // A clone stays here: the process would be killed with the actor, and the node would have lost its peer.
    let peer = server.clone();
    here.spawn(move |cx: &mut Cx<Addr<String>>, event| match event {
        Event::Start => {
            cx.locate("server", PATIENCE, |found| found.expect("the name is registered"));
            receive()
        }
        Event::Message(to) => {
            peer.freeze();
            for _ in 0..100 {
                cx.send(to, "x".repeat(100_000))?;
            }
            report(&sender, Instant::now());
            stop()
        }
        _ => receive(),
    });
    here.run().expect("the node runs");
    drop(here);
    let stopped = recv(&results);
    let lasted = stopped.elapsed();
    assert!((secs(1)..secs(10)).contains(&lasted), "the node waited {lasted:?} for its peer");
    drop(server);
}
