//! RCI: registered functions start actors for callers on all nodes.

mod common;

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use antiphon_dist::{CallError, Config, LocateError, NetCx, Rci, RegisterError};
use antiphon_sched::{
    Actor, ActorId, Addr, Cx, Event, NodeId, Wire, exit, fail, millis, receive, secs, stop,
};
use common::{End, Net, PATIENCE, TestNode, heard, tell_test, wait_for};

/// Ends with what it hears, in capitals; `0` fails in its first step.
fn shouter(loudness: u64) -> impl FnMut(&mut Cx<'_, String>, Event<String>) -> antiphon_sched::Step<String> {
    move |_cx, event| match event {
        Event::Start if loudness == 0 => fail("born silent"),
        Event::Start if loudness == 1 => exit("born done".to_owned()),
        Event::Message(text) if text == "panic" => panicking("on purpose"),
        Event::Message(text) => exit(format!("{}{}", text.to_uppercase(), "!".repeat(loudness as usize))),
        _ => receive(),
    }
}

/// Panics without a word on standard error.
fn panicking(text: &str) -> ! {
    std::panic::resume_unwind(Box::new(text.to_owned()))
}

type Shout = Rci<u64, String>;

fn open(node: &TestNode, name: &'static str) -> Shout {
    node.with(move |node| {
        node.rci(name, |loudness: u64| {
            if loudness == 13 {
                panicking("not thirteen");
            }
            shouter(loudness)
        })
    })
    .expect("the name is free")
}

type Called<T> = Result<Addr<T>, CallError>;

/// Calls; the answer and the end of the new actor are told.
fn calling<A: Wire + Send, T: Wire>(
    node: &TestNode,
    rci: Rci<A, T>,
    arguments: A,
    timeout: Duration,
) -> (Receiver<Called<T>>, Receiver<(ActorId, End)>) {
    let (tell, told) = channel();
    let (tell_end, end) = channel();
    let watcher = node.spawn(move |_cx: &mut Cx<()>, event| {
        if let Event::Down(down) = event {
            tell_test(&tell_end, (down.actor, End::of(down)));
        }
        receive()
    });
    let mut arguments = Some(arguments);
    node.spawn(move |cx, event| match event {
        Event::Start => {
            if let Some(arguments) = arguments.take() {
                cx.call_monitored(rci, arguments, watcher, timeout, |born| born);
            }
            receive()
        }
        Event::Message(born) => {
            tell_test(&tell, born);
            stop()
        }
        _ => receive(),
    });
    (told, end)
}

fn call(node: &TestNode, rci: Shout, loudness: u64) -> (Called<String>, Receiver<(ActorId, End)>) {
    let (told, end) = calling(node, rci, loudness, PATIENCE);
    (heard(&told), end)
}

fn send(node: &TestNode, to: Addr<String>, text: &'static str) {
    node.step(move |cx| cx.send(to, text.to_owned()).is_ok());
}

fn locate<A: Wire, T: Wire>(node: &TestNode, name: &'static str) -> Result<Rci<A, T>, LocateError> {
    let (tell, told) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate(name, PATIENCE, |found| found);
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
fn a_call_starts_an_actor_there_and_its_end_is_told() {
    let (there, here) = Net::new().pair();
    let rci = open(&there, "shout");
    assert_eq!(locate(&here, "shout"), Ok(rci));
    assert_eq!(size_of::<Shout>(), 24);
    for node in [&here, &there] {
        let (born, end) = call(node, rci, 2);
        let actor = born.expect("it is started");
        assert_eq!(actor.node(), there.handle.node_id());
        send(node, actor, "hello");
        assert_eq!(heard(&end), (actor.id(), End::Value("HELLO!!".into())));
        let (born, end) = call(node, rci, 2);
        let actor = born.expect("it is started");
        send(node, actor, "panic");
        assert_eq!(heard(&end), (actor.id(), End::Panicked("on purpose".into())));
        let (born, end) = call(node, rci, 2);
        let actor = born.expect("it is started");
        node.step(move |cx| cx.terminate(actor));
        assert_eq!(heard(&end), (actor.id(), End::Terminated));
        assert!(end.recv_timeout(millis(10)).is_err(), "an end is told once");
    }
}

#[test]
fn the_end_of_an_actor_in_its_first_step_is_not_missed() {
    let (there, here) = Net::new().pair();
    let rci = open(&there, "shout");
    for _ in 0..100 {
        for node in [&here, &there] {
            let (born, end) = call(node, rci, 0);
            let failed = End::Failed("born silent".into());
            assert_eq!(heard(&end), (born.expect("it was started").id(), failed));
            let (born, end) = call(node, rci, 1);
            let done = End::Value("born done".into());
            assert_eq!(heard(&end), (born.expect("it was started").id(), done));
        }
    }
}

#[test]
fn a_watcher_of_the_functions_own_node_is_told_too() {
    let (there, here) = Net::new().pair();
    let rci = open(&there, "shout");
    let (tell, told) = channel();
    let watcher = there.spawn(move |cx: &mut Cx<String>, event| {
        match event {
            Event::Start => cx.register("watcher")?,
            Event::Down(down) => tell_test(&tell, End::of(down)),
            _ => {}
        }
        receive()
    });
    let known: Addr<String> = here.find("watcher");
    assert_eq!(known.id(), watcher.id());
    here.spawn(move |cx: &mut Cx<Called<String>>, event| match event {
        Event::Start => {
            cx.call_monitored(rci, 1, known, PATIENCE, |born| born);
            receive()
        }
        _ => stop(),
    });
    assert_eq!(heard(&told), End::Value("born done".into()));
}

#[test]
fn structs_are_started_by_rci_actor_and_arguments_may_be_many() {
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
    let (born, end) = calling(&here, rci.expect("the name is free"), (1, 2), PATIENCE);
    let actor = heard(&born).expect("it is started");
    here.step(move |cx| cx.send(actor, 3).is_ok());
    assert_eq!(heard(&end).1, End::Value("6".into()));
}

#[test]
fn a_function_that_panics_stays_registered() {
    let (there, here) = Net::new().pair();
    let rci = open(&there, "shout");
    for node in [&here, &there] {
        let (born, end) = call(node, rci, 13);
        assert_eq!(born, Err(CallError::Panicked("not thirteen".into())));
        assert!(end.recv_timeout(millis(10)).is_err(), "there is no end of what never was");
        assert!(call(node, rci, 2).0.is_ok());
    }
}

#[test]
fn names_of_functions_are_a_space_of_their_own_and_tell_both_types() {
    let (there, here) = Net::new().pair();
    let rci = open(&there, "name");
    let _actor = there.listener::<u64>("name");
    let _channel = there.with(|node| node.channel::<u64>("name")).expect("another space");
    assert_eq!(locate(&here, "name"), Ok(rci));
    let wrong = LocateError::WrongType { wanted: "str -> u64".into(), found: "u64 -> str".into() };
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
    // Who knows the address and believes in other arguments is told so.
    let forged: Rci<String, String> = believed(rci.id());
    for node in [&here, &there] {
        let (born, _) = calling(node, forged, "x".to_owned(), PATIENCE);
        assert_eq!(heard(&born), Err(CallError::WrongArguments { arguments: "str".into() }));
    }
}

/// An actor, believed to be a function of some type.
fn believed<A: Wire, T: Wire>(id: ActorId) -> Rci<A, T> {
    let mut bytes = vec![0x92];
    for number in [id.node().to_bits(), id.key().to_bits()] {
        bytes.push(0xcf);
        bytes.extend(number.to_be_bytes());
    }
    Rci::decode_all(&bytes).expect("an address")
}

#[test]
fn an_unregistered_function_takes_no_calls_and_its_actors_go_on() {
    let (there, here) = Net::new().pair();
    let rci = open(&there, "shout");
    let (born, end) = call(&here, rci, 2);
    assert_eq!(there.with(|node| node.unregister_rci("shout")), Ok(()));
    for node in [&here, &there] {
        wait_for("the end to be known", || {
            (call(node, rci, 2).0 == Err(CallError::NotRegistered)).then_some(())
        });
    }
    let actor = born.expect("it was started");
    send(&here, actor, "still here");
    assert_eq!(heard(&end).1, End::Value("STILL HERE!!".into()));
    open(&there, "shout");
}

#[test]
fn a_calling_node_has_so_many_actors_alive_and_no_more() {
    let net = Net::new();
    let there = TestNode::start(Config { rci_actors_max: 2, ..net.quiet("there", &[]) });
    let here = net.quiet_node("here", &[there.location]);
    here.wait_for_peers(1);
    let rci = open(&there, "shout");
    for node in [&here, &there] {
        let (one, end) = call(node, rci, 2);
        assert!(call(node, rci, 2).0.is_ok());
        assert_eq!(call(node, rci, 2).0, Err(CallError::OverQuota { max: 2 }));
        send(node, one.expect("it was started"), "over");
        heard(&end);
        wait_for("one more", || call(node, rci, 2).0.is_ok().then_some(()));
        assert_eq!(call(node, rci, 2).0, Err(CallError::OverQuota { max: 2 }));
    }
}

#[test]
fn a_call_to_a_node_that_is_lost_is_answered_and_so_is_the_watcher() {
    let (there, here) = Net::new().pair();
    let rci = open(&there, "shout");
    let (born, end) = call(&here, rci, 2);
    there.stop();
    assert_eq!(heard(&end), (born.expect("it was started").id(), End::NodeLost));
    let (born, _) = calling(&here, rci, 2, millis(100));
    let reason = heard(&born).expect_err("nobody is there");
    assert!(
        matches!(reason, CallError::TimedOut | CallError::NodeLost | CallError::NotRegistered),
        "{reason}"
    );
    // A node that nobody ever met.
    let stranger: Shout = believed(ActorId::new(NodeId::from_bits(7), rci.id().key()));
    assert_eq!(call(&here, stranger, 2).0, Err(CallError::NodeLost));
}

#[test]
fn after_a_thousand_calls_of_each_outcome_all_tables_are_as_before() {
    let net = Net::new();
    let there = TestNode::start(Config { rci_actors_max: 9_999, ..net.quiet("there", &[]) });
    let here = net.quiet_node("here", &[there.location]);
    here.wait_for_peers(1);
    let rci = open(&there, "shout");
    let closed = open(&there, "closed");
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
        let before = wait_for("quiet", || {
            let now = (tables(&here), tables(&there));
            (now == (tables(&here), tables(&there))).then_some(now)
        });
        let (tell, told) = channel();
        let mut open = 0;
        node.spawn(move |cx: &mut Cx<()>, event| {
            match event {
                Event::Start => {
                    let me = cx.addr();
                    for _ in 0..1000 {
                        cx.call_monitored(rci, 0, me, secs(20), |_| ());
                        cx.call_monitored(rci, 13, me, secs(20), |_| ());
                        cx.call_monitored(closed, 0, me, secs(20), |_| ());
                        cx.call(rci, 1, secs(20), |_| ());
                        open += 5;
                    }
                }
                Event::Message(()) | Event::Down(_) => open -= 1,
                _ => {}
            }
            if open == 0 {
                tell_test(&tell, ());
                return stop();
            }
            receive()
        });
        heard(&told);
        wait_for("tables as before", || ((tables(&here), tables(&there)) == before).then_some(()));
    }
}
