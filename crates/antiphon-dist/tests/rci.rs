//! RCI: registered functions start actors for callers on all nodes.

mod common;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use antiphon_dist::{CallError, Config, LocateError, NetCx, Rci, RegisterError};
use antiphon_sched::{
    Actor, ActorId, Addr, Cx, Event, NodeId, PayloadError, Wire, exit, fail, millis, receive, secs, stop,
};
use common::{Exit, Net, PATIENCE, TestNode, recv, report, wait_for};

/// An actor that exits with the first text that it receives, in capitals. With loudness 0 it fails in its first step, with
/// 1 it exits there.
fn shouter(loudness: u64) -> impl FnMut(&mut Cx<'_, String>, Event<String>) -> antiphon_sched::Step<String> {
    move |_cx, event| match event {
        Event::Start if loudness == 0 => fail("no voice"),
        Event::Start if loudness == 1 => exit("done at once".to_owned()),
        Event::Message(text) if text == "panic" => panic_silently("on purpose"),
        Event::Message(text) => exit(format!("{}{}", text.to_uppercase(), "!".repeat(loudness as usize))),
        _ => receive(),
    }
}

/// Panics, and prints nothing to standard error.
fn panic_silently(text: &str) -> ! {
    std::panic::resume_unwind(Box::new(text.to_owned()))
}

type Shout = Rci<u64, String>;

fn open_rci(node: &TestNode, name: &'static str) -> Shout {
    node.with(move |node| {
        node.rci(name, |loudness: u64| {
            if loudness == 13 {
                panic_silently("not thirteen");
            }
            shouter(loudness)
        })
    })
    .expect("the name is free")
}

type CallResult<T> = Result<Addr<T>, CallError>;

/// Calls an RCI. The answer arrives on the first receiver, the exit of the new actor on the second.
fn start_call<A: Wire + Send, T: Wire>(
    node: &TestNode,
    rci: Rci<A, T>,
    arguments: A,
    timeout: Duration,
) -> (Receiver<CallResult<T>>, Receiver<(ActorId, Exit)>) {
    let (answer_sender, answers) = channel();
    let (exit_sender, exits) = channel();
    let watcher = node.spawn(move |_cx: &mut Cx<()>, event| {
        if let Event::Down(down) = event {
            report(&exit_sender, (down.actor, Exit::of(down)));
        }
        receive()
    });
    let mut arguments = Some(arguments);
    node.spawn(move |cx, event| match event {
        Event::Start => {
            if let Some(arguments) = arguments.take() {
                cx.call_monitored(rci, arguments, watcher, timeout, |spawned| spawned);
            }
            receive()
        }
        Event::Message(spawned) => {
            report(&answer_sender, spawned);
            stop()
        }
        _ => receive(),
    });
    (answers, exits)
}

fn call(node: &TestNode, rci: Shout, loudness: u64) -> (CallResult<String>, Receiver<(ActorId, Exit)>) {
    let (answers, exits) = start_call(node, rci, loudness, PATIENCE);
    (recv(&answers), exits)
}

fn send(node: &TestNode, to: Addr<String>, text: &'static str) {
    node.step(move |cx| cx.send(to, text.to_owned()).is_ok());
}

fn locate<A: Wire, T: Wire>(node: &TestNode, name: &'static str) -> Result<Rci<A, T>, LocateError> {
    let (sender, results) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate(name, PATIENCE, |found| found);
            receive()
        }
        Event::Message(found) => {
            report(&sender, found);
            stop()
        }
        _ => receive(),
    });
    recv(&results)
}

#[test]
fn call_starts_remote_actor_and_reports_its_exit() {
    let (there, here) = Net::new().pair();
    let rci = open_rci(&there, "shout");
    assert_eq!(locate(&here, "shout"), Ok(rci));
    assert_eq!(size_of::<Shout>(), 24);
    for node in [&here, &there] {
        let (spawned, exits) = call(node, rci, 2);
        let actor = spawned.expect("the actor is started");
        assert_eq!(actor.node(), there.handle.node_id());
        send(node, actor, "hello");
        assert_eq!(recv(&exits), (actor.id(), Exit::Value("HELLO!!".into())));
        let (spawned, exits) = call(node, rci, 2);
        let actor = spawned.expect("the actor is started");
        send(node, actor, "panic");
        assert_eq!(recv(&exits), (actor.id(), Exit::Panicked("on purpose".into())));
        let (spawned, exits) = call(node, rci, 2);
        let actor = spawned.expect("the actor is started");
        node.step(move |cx| cx.terminate(actor));
        assert_eq!(recv(&exits), (actor.id(), Exit::Terminated));
        assert_eq!(exits.recv_timeout(millis(10)), Err(RecvTimeoutError::Timeout), "one exit is reported");
    }
}

#[test]
fn exit_in_first_step_is_reported() {
    let (there, here) = Net::new().pair();
    let rci = open_rci(&there, "shout");
    for _ in 0..100 {
        for node in [&here, &there] {
            let (spawned, exits) = call(node, rci, 0);
            let failed = Exit::Failed("no voice".into());
            assert_eq!(recv(&exits), (spawned.expect("the actor was started").id(), failed));
            let (spawned, exits) = call(node, rci, 1);
            let done = Exit::Value("done at once".into());
            assert_eq!(recv(&exits), (spawned.expect("the actor was started").id(), done));
        }
    }
}

/// A caller can name a watcher of the node that owns the function.
#[test]
fn watcher_on_owning_node_receives_exit() {
    let (there, here) = Net::new().pair();
    let rci = open_rci(&there, "shout");
    let (sender, exits) = channel();
    let watcher = there.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => cx.register("watcher")?,
            Event::Down(down) => report(&sender, Exit::of(down)),
            _ => {}
        }
        receive()
    });
    let known: Addr<String> = here.find("watcher");
    assert_eq!(known.id(), watcher.id());
    here.spawn(move |cx: &mut Cx<CallResult<String>>, event| match event {
        Event::Start => {
            cx.call_monitored(rci, 1, known, PATIENCE, |spawned| spawned);
            receive()
        }
        _ => stop(),
    });
    assert_eq!(recv(&exits), Exit::Value("done at once".into()));
}

#[test]
fn rci_actor_starts_struct_with_two_arguments() {
    struct Adder(u64);
    impl Actor<u64> for Adder {
        fn step(&mut self, _: &mut Cx<'_, u64>, event: Event<u64>) -> antiphon_sched::Step<u64> {
            match event {
                Event::Message(n) => exit((self.0 + n).to_string()),
                _ => receive(),
            }
        }
    }
    let (there, here) = Net::new().pair();
    let rci = there.with(|node| node.rci_actor("add", |(a, b): (u64, u64)| Adder(a + b)));
    let (spawned, exits) = start_call(&here, rci.expect("the name is free"), (1, 2), PATIENCE);
    let actor = recv(&spawned).expect("the actor is started");
    here.step(move |cx| cx.send(actor, 3).is_ok());
    assert_eq!(recv(&exits).1, Exit::Value("6".into()));
}

#[test]
fn rci_function_that_panics_stays_registered() {
    let (there, here) = Net::new().pair();
    let rci = open_rci(&there, "shout");
    for node in [&here, &there] {
        let (spawned, exits) = call(node, rci, 13);
        assert_eq!(spawned, Err(CallError::Panicked("not thirteen".into())));
        assert_eq!(
            exits.recv_timeout(millis(10)),
            Err(RecvTimeoutError::Timeout),
            "no actor was started, so none exits"
        );
        assert!(call(node, rci, 2).0.is_ok());
    }
}

#[test]
fn rci_names_have_own_namespace_and_both_types() {
    let (there, here) = Net::new().pair();
    let rci = open_rci(&there, "name");
    let _actor = there.listener::<u64>("name");
    let _channel = there.with(|node| node.channel::<u64>("name")).expect("channels have their own namespace");
    assert_eq!(locate(&here, "name"), Ok(rci));
    let wrong = LocateError::WrongType { expected: "str -> u64".into(), found: "u64 -> str".into() };
    assert_eq!(locate::<String, u64>(&here, "name"), Err(wrong));
    let taken = RegisterError::Taken { name: "name".into() };
    let again = there.step(|cx| cx.rci("name", |(): ()| |_cx: &mut Cx<u64>, _| stop()).err());
    assert_eq!(again, Some(taken));
    let not_owner = RegisterError::NotOwner { name: "name".into() };
    assert_eq!(there.step(|cx| cx.unregister_rci("name")), Err(not_owner.clone()));
    assert_eq!(
        there.with(|node| node.unregister_rci("other")),
        Err(RegisterError::NotOwner { name: "other".into() })
    );
    // A caller with the address and the wrong type of arguments gets an error.
    let forged: Rci<String, String> = forged_rci(rci.id());
    for node in [&here, &there] {
        let (spawned, _) = start_call(node, forged, "x".to_owned(), PATIENCE);
        let refused = recv(&spawned);
        assert!(matches!(refused, Err(CallError::Arguments(PayloadError::WrongType { .. }))), "{refused:?}");
    }
}

/// An RCI with this id and any types.
fn forged_rci<A: Wire, T: Wire>(id: ActorId) -> Rci<A, T> {
    let mut bytes = vec![0x92];
    for number in [id.node().to_bits(), id.key().to_bits()] {
        bytes.push(0xcf);
        bytes.extend(number.to_be_bytes());
    }
    Rci::decode_all(&bytes).expect("the bytes are an address")
}

#[test]
fn rci_unregistered_refuses_calls_and_keeps_actors() {
    let (there, here) = Net::new().pair();
    let rci = open_rci(&there, "shout");
    let (spawned, exits) = call(&here, rci, 2);
    assert_eq!(there.with(|node| node.unregister_rci("shout")), Ok(()));
    for node in [&here, &there] {
        wait_for("the refusal of calls", || {
            (call(node, rci, 2).0 == Err(CallError::NotRegistered)).then_some(())
        });
    }
    let actor = spawned.expect("the actor was started");
    send(&here, actor, "still here");
    assert_eq!(recv(&exits).1, Exit::Value("STILL HERE!!".into()));
    open_rci(&there, "shout");
}

#[test]
fn rci_caller_over_quota_is_refused_until_exit() {
    let net = Net::new();
    let there = TestNode::start(Config { rci_actors_max: 2, ..net.static_config("there", &[]) });
    let here = net.static_node("here", &[there.location]);
    here.wait_for_peers(1);
    let rci = open_rci(&there, "shout");
    for node in [&here, &there] {
        let (spawned, exits) = call(node, rci, 2);
        assert!(call(node, rci, 2).0.is_ok());
        assert_eq!(call(node, rci, 2).0, Err(CallError::OverQuota { max: 2 }));
        send(node, spawned.expect("the actor was started"), "over");
        recv(&exits);
        wait_for("room for one more actor", || call(node, rci, 2).0.is_ok().then_some(()));
        assert_eq!(call(node, rci, 2).0, Err(CallError::OverQuota { max: 2 }));
    }
}

#[test]
fn node_lost_fails_call_and_reports_exit() {
    let (there, here) = Net::new().pair();
    let rci = open_rci(&there, "shout");
    let (spawned, exits) = call(&here, rci, 2);
    there.stop();
    assert_eq!(recv(&exits), (spawned.expect("the actor was started").id(), Exit::NodeLost));
    let (spawned, _) = start_call(&here, rci, 2, millis(100));
    let reason = recv(&spawned).expect_err("the node has stopped");
    assert!(
        matches!(reason, CallError::TimedOut | CallError::NodeLost | CallError::NotRegistered),
        "{reason}"
    );
    // No node has had a session with this one.
    let unknown: Shout = forged_rci(ActorId::new(NodeId::from_bits(7), rci.id().key()));
    assert_eq!(call(&here, unknown, 2).0, Err(CallError::NodeLost));
}

#[test]
fn thousand_calls_of_each_outcome_leak_nothing() {
    let net = Net::new();
    let there = TestNode::start(Config { rci_actors_max: 9_999, ..net.static_config("there", &[]) });
    let here = net.static_node("here", &[there.location]);
    here.wait_for_peers(1);
    let rci = open_rci(&there, "shout");
    let closed = open_rci(&there, "closed");
    assert_eq!(there.with(|node| node.unregister_rci("closed")), Ok(()));
    let tables = |node: &TestNode| {
        let (stats, counts) = (node.stats(), node.counts());
        (
            stats.actors,
            stats.requests,
            stats.timers,
            stats.extras,
            counts.receipts,
            counts.monitors,
            counts.names,
        )
    };
    assert_eq!(call(&here, closed, 0).0, Err(CallError::NotRegistered));
    for node in [&here, &there] {
        let before = wait_for("equal sizes of the tables twice in a row", || {
            let now = (tables(&here), tables(&there));
            (now == (tables(&here), tables(&there))).then_some(now)
        });
        let (sender, done) = channel();
        let mut open = 0;
        node.spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => {
                    let me = cx.addr();
                    for _ in 0..1000 {
                        cx.call_monitored(rci, 0, me, secs(20), |spawned| assert!(spawned.is_ok()));
                        cx.call_monitored(rci, 13, me, secs(20), |spawned| {
                            assert!(matches!(spawned, Err(CallError::Panicked(_))));
                        });
                        cx.call_monitored(closed, 0, me, secs(20), |spawned| {
                            assert_eq!(spawned, Err(CallError::NotRegistered));
                        });
                        cx.call(rci, 1, secs(20), |spawned| assert!(spawned.is_ok()));
                        open += 5;
                    }
                }
                Event::Message(()) | Event::Down(_) => open -= 1,
                _ => {}
            }
            if open == 0 {
                report(&sender, ());
                return stop();
            }
            receive()
        });
        recv(&done);
        wait_for("the sizes of the tables before the calls", || {
            ((tables(&here), tables(&there)) == before).then_some(())
        });
    }
}
