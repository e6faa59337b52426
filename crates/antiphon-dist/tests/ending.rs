//! The end of nodes and of their actors, and the exit values that others receive.

mod common;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::time::Instant;

use antiphon_dist::{CallError, Config, DeliverError, NetCx, Node};
use antiphon_sched::{
    Addr, AskError, Cx, Event, ExitReason, JobError, JoinError, ReplyTo, Undelivered, exit, finishing,
    millis, receive, receive_within, secs, stop,
};
use common::harness::{self, tests};
use common::process::{self, Process, Role};
use common::{Exit, Net, PATIENCE, recv, report, wait_for};

fn main() -> ExitCode {
    harness::run(
        run_server,
        tests![
            exit_value_reaches_join_handle_and_remote_monitor,
            node_with_only_daemons_flushes_and_returns,
            stopped_actor_has_unit_value_elsewhere,
            serve_until_returns_exit_value_and_stops_node,
            requests_after_goodbye_fail_at_once,
            stopping_node_starts_no_actors_for_peers,
            blocked_resolver_holds_up_no_jobs,
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
        let no_actor = <ExitReason>::NoActor.to_string();
        assert!(matches!(&late, Err(JoinError::NoValue(reason)) if *reason == no_actor), "{late:?}");
        value
    });
    assert_eq!(joined.expect("the node runs").expect("the worker exits with a text"), "3 apples");
}

/// The exit value of `stop` is `()`, also on another node.
fn stopped_actor_has_unit_value_elsewhere() {
    let (here, there) = Net::new().pair();
    let (sender, values) = channel();
    there.spawn(|cx: &mut Cx<u32>, event| match event {
        Event::Start => {
            cx.register("worker")?;
            receive()
        }
        Event::Message(_) => stop(),
        _ => receive(),
    });
    let worker: Addr<u32> = here.find("worker");
    here.spawn(move |cx: &mut Cx<()>, event| {
        match event {
            Event::Start => {
                cx.monitor(worker);
                cx.send(worker, 1)?;
            }
            Event::Down(down) => {
                let ExitReason::Done(value) = down.reason else { panic!("{}", down.reason) };
                report(&sender, value.get::<()>().is_ok());
            }
            _ => {}
        }
        receive()
    });
    assert!(recv(&values));
}

fn serve_until_returns_exit_value_and_stops_node() {
    let net = Net::new();
    let mut node = Node::new(net.static_config("node", &[])).expect("a node can start");
    let (sender, ends) = channel();
    node.spawn(move |_: &mut Cx<()>, event| {
        if let Event::Terminate = event {
            report(&sender, "terminated");
        }
        receive()
    });
    let main = node.spawn(|cx: &mut Cx<()>, event| match event {
        Event::Start => {
            cx.after(millis(10), ())?;
            receive()
        }
        Event::Message(()) => exit(42_u32),
        _ => receive(),
    });
    let reason = node.serve_until(main).expect("the node runs");
    let ExitReason::Done(value) = reason else { panic!("{reason}") };
    assert_eq!(value.get::<u32>().expect("the value is a number"), 42);
    assert_eq!(ends.try_recv(), Ok("terminated"), "the other actor was stopped in order");
    assert_eq!(node.stats().dead_letters, 0);
    // The node can run again, for another actor.
    let next = node.spawn(|_: &mut Cx<()>, _| antiphon_sched::fail("no luck"));
    let reason = node.serve_until(next).expect("the node runs");
    assert_eq!(reason.to_string(), "failed: no luck");
}

/// A node that has said goodbye never returns. What is open with it ends at once, without any timeout.
fn requests_after_goodbye_fail_at_once() {
    let (here, there) = Net::new().pair();
    drop(there.listener::<String>("text"));
    let text: Addr<String> = here.find("text");
    assert_eq!(here.deliver(text, "hello".into()), Ok(()));
    there.stop();
    here.wait_for_counts("the end of the session", |counts| counts.connections == 0);
    let refused = here.deliver(text, "hello".into());
    assert_eq!(refused, Err(DeliverError::Refused(Undelivered::NoNode)));
    assert_eq!(recv(&here.monitor(text)), Exit::NodeLost);
    let request: Addr<ReplyTo<u64>> = Addr::of(text.id());
    assert_eq!(here.handle.ask(request, secs(1000), |reply| reply), Err(AskError::NodeLost));
}

fn stopping_node_starts_no_actors_for_peers() {
    let (caller, owner) = Net::new().pair();
    let rci = owner.with(|node| {
        // It keeps the node stopping until the test ends it.
        node.spawn(|cx: &mut Cx<()>, event| match event {
            Event::Start => {
                cx.register("lasting")?;
                receive()
            }
            Event::Message(()) => stop(),
            Event::Terminate => finishing(secs(1000)),
            _ => receive(),
        });
        node.rci("function", |(): ()| |_: &mut Cx<u32>, _: Event<u32>| receive()).expect("the name is free")
    });
    let lasting: Addr<()> = caller.find("lasting");
    let call = || {
        let (sender, results) = channel();
        caller.spawn(move |cx: &mut Cx<Result<(), CallError>>, event| match event {
            Event::Start => {
                cx.call(rci, (), PATIENCE, |spawned| spawned.map(|_| ()));
                receive()
            }
            Event::Message(result) => {
                report(&sender, result);
                stop()
            }
            _ => receive(),
        });
        recv(&results)
    };
    assert_eq!(call(), Ok(()));
    owner.handle.stop();
    wait_for("the node to be stopping", || (call() == Err(CallError::Stopping)).then_some(()));
    assert_eq!(caller.deliver(lasting, ()), Ok(()));
}

/// Host names without an answer hold up neither jobs nor each other.
fn blocked_resolver_holds_up_no_jobs() {
    // The look-ups never end.
    let resolver = |_: &str, _: u16| loop {
        std::thread::park();
    };
    let net = Net::new();
    let peers = (0..8).map(|n| format!("host{n}.invalid:9705").parse().expect("a peer")).collect();
    let config = Config { peers, ..net.static_config("node", &[]) };
    let mut node = Node::with_resolver(config, resolver).expect("a node can start");
    let jobs = node.spawn(|cx: &mut Cx<Result<u32, JobError>>, event| match event {
        Event::Start => {
            cx.blocking(|| 7, |done| done);
            receive()
        }
        Event::Message(done) => exit(done?),
        _ => receive(),
    });
    let reason = node.serve_until(jobs).expect("the node runs");
    let ExitReason::Done(value) = reason else { panic!("{reason}") };
    assert_eq!(value.get::<u32>().expect("the value is a number"), 7);
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
