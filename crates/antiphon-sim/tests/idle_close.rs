//! The idle close of connections, over many seeds: it loses and repeats no frame, and a connection that something depends
//! on stays open.

mod violations;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Config, LocateError, NetCx, PeerStatus, Status, UnknownPeer};
use antiphon_sched::{
    Addr, AskError, Cx, Event, Loop, ReplyTo, Step, millis, receive, receive_within, secs, sleep, stop,
};
use antiphon_sim::{Faults, Replay, SimNode, World, assert_covered, seeds};
use serde::{Deserialize, Serialize};
use violations::Violations;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[derive(Serialize, Deserialize)]
enum SinkMessage {
    Number(u16, u64),
    Ask(ReplyTo<u64>),
    End,
}
antiphon_sched::wire!(SinkMessage, "test.word/1");

/// The observations of all actors.
#[derive(Default)]
struct Observed {
    /// The last number sent from one port to another.
    sent: BTreeMap<(u16, u16), u64>,
    /// The last number received from one port at another.
    received: BTreeMap<(u16, u16), u64>,
    /// Open requests of the sinks.
    replies: Vec<ReplyTo<u64>>,
    statuses: Vec<Status>,
    answers: Vec<Result<u64, AskError>>,
    /// Set when the actors are to send no more messages, or to stop.
    stopped: bool,
    violations: Violations,
}

type Shared = Rc<RefCell<Observed>>;
type Found = Result<Addr<SinkMessage>, LocateError>;

fn sink(sched: &mut Loop, port: u16, observed: &Shared) {
    let observed = observed.clone();
    sched.spawn(move |cx: &mut Cx<SinkMessage>, event| {
        match event {
            Event::Start => cx.register(&format!("sink {port}"))?,
            Event::Message(SinkMessage::Number(from, number)) => {
                let observed = &mut *observed.borrow_mut();
                let last = observed.received.insert((from, port), number).unwrap_or(0);
                observed
                    .violations
                    .check(number == last + 1, || format!("{from} to {port}: {number} arrived after {last}"));
            }
            Event::Message(SinkMessage::Ask(reply)) => observed.borrow_mut().replies.push(reply),
            Event::Message(SinkMessage::End) => return stop(),
            _ => {}
        }
        receive()
    });
}

/// Sends up to three numbers at a time. The pauses are about as long as the idle close of a connection takes.
fn source(sched: &mut Loop, port: u16, to: u16, observed: &Shared) {
    let observed = observed.clone();
    let mut sink: Option<Addr<SinkMessage>> = None;
    sched.spawn(move |cx: &mut Cx<Found>, event| {
        match event {
            Event::Start => {
                cx.locate(&format!("sink {to}"), secs(600), |found| found);
                return receive();
            }
            Event::Message(found) => sink = Some(found?),
            _ => {}
        }
        if let Some(sink) = sink.filter(|_| !observed.borrow().stopped) {
            for _ in 0..1 + cx.random() % 3 {
                let mut observed = observed.borrow_mut();
                let number = observed.sent.entry((port, to)).or_default();
                *number += 1;
                let message = SinkMessage::Number(port, *number);
                drop(observed);
                cx.tell(sink, message);
            }
        }
        // The pause varies in steps of 10 us, so that messages arrive in every stage of an idle close.
        sleep(millis(1_500) + micros(10) * u32::try_from(cx.random() % 600_000).unwrap_or(0))
    });
}

const fn micros(count: u64) -> std::time::Duration {
    std::time::Duration::from_micros(count)
}

/// Wakes its node every 100 ms, so that an actor that a test spawns from outside is started.
fn ticker(sched: &mut Loop) {
    sched.spawn(|cx: &mut Cx<()>, _| {
        cx.set_daemon(true);
        receive_within(millis(100))
    });
}

/// Nodes at the ports 1 to `count`, of which only the first closes idle connections; with `sources` they exchange messages.
fn world(seed: u64, faults: Faults, count: u16, sources: bool) -> (World<SimNode>, Shared) {
    let observed = Shared::default();
    let mut world = World::new(seed, faults);
    for port in 1..=count {
        let observed = observed.clone();
        world.add(at(port), move |seed| {
            let config = Config { stream_send: port != 1, secret: Some("key".into()), ..Config::default() };
            let mut node = SimNode::new(&config, at(port), seed, |sched| {
                ticker(sched);
                sink(sched, port, &observed);
                for to in (1..=count).filter(|to| sources && *to != port) {
                    source(sched, port, to, &observed);
                }
            });
            node.set_neighbours((1..=count).map(at).collect());
            node
        });
    }
    (world, observed)
}

fn connections(world: &mut World<SimNode>, port: u16) -> usize {
    world.machine(at(port)).expect("it is running").counts().connections
}

fn spawn<M: 'static>(
    world: &mut World<SimNode>,
    port: u16,
    actor: impl FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
) -> Addr<M> {
    world.machine(at(port)).expect("it is running").sched().spawn(actor)
}

/// Lets two nodes exchange messages for 300 s. Returns at how many of the full seconds the connection was closed, and the
/// number of cuts.
fn exchange_with_idle_closes(seed: u64, faults: Faults) -> (u32, u64) {
    let (mut world, observed) = world(seed, faults, 2, true);
    let mut closed = 0;
    for _ in 0..300 {
        world.run_for(millis(1_000));
        closed += u32::from(connections(&mut world, 1) == 0);
    }
    world.set_faults(Faults::default());
    observed.borrow_mut().stopped = true;
    world.run_for(secs(60));
    for port in 1..=2 {
        let counts = world.machine(at(port)).expect("it is running").counts();
        assert_eq!((counts.connections, counts.peers, counts.misbehaved), (0, 1, 0), "node {port}");
    }
    let observed = observed.borrow();
    observed.violations.assert_none();
    assert_eq!(observed.sent, observed.received, "all messages arrive");
    assert_eq!(observed.sent.len(), 2, "both nodes sent messages");
    (closed, world.fault_counts().cuts)
}

#[test]
fn idle_close_concurrent_sends_arrive_once_in_order() {
    let mut closed = 0;
    for seed in seeds(12) {
        let _replay = Replay::new("idle_close_concurrent_sends_arrive_once_in_order", seed);
        // With this latency many messages are under way while the connection is being closed.
        let faults = Faults { latency: millis(100), jitter: millis(200), ..Faults::default() };
        closed += exchange_with_idle_closes(seed, faults).0;
    }
    assert_covered(closed > 0, "no connection was closed");
}

#[test]
fn idle_close_cuts_lose_and_repeat_nothing() {
    let (mut closed, mut cuts) = (0, 0);
    for seed in seeds(12) {
        let _replay = Replay::new("idle_close_cuts_lose_and_repeat_nothing", seed);
        let faults = Faults {
            cut_every: secs(2),
            half_open_once_in: 5,
            dial_fails_once_in: 6,
            piece_bytes_max: 20,
            jitter: millis(200),
            ..Faults::default()
        };
        let run = exchange_with_idle_closes(seed, faults);
        (closed, cuts) = (closed + run.0, cuts + run.1);
    }
    assert_covered(closed > 0, "no connection was closed");
    assert_covered(cuts > 0, "no connection was cut");
}

/// Two nodes that have located each other's sinks, and have closed their connection.
fn idle_closed(seed: u64) -> (World<SimNode>, Shared, [Addr<SinkMessage>; 2]) {
    let (mut world, observed) = world(seed, Faults::default(), 2, false);
    let sinks = Rc::new(RefCell::new(BTreeMap::new()));
    for port in 1..=2 {
        let sinks = sinks.clone();
        spawn(started(&mut world), port, move |cx: &mut Cx<Found>, event| {
            match event {
                Event::Start => cx.locate(&format!("sink {}", 3 - port), secs(60), |found| found),
                Event::Message(found) => {
                    sinks.borrow_mut().insert(port, found?);
                    return stop();
                }
                _ => {}
            }
            receive()
        });
    }
    world.run_for(secs(10));
    assert_eq!([1, 2].map(|port| connections(&mut world, port)), [0, 0], "nothing needs a connection");
    let sinks = sinks.borrow();
    (world, observed, [sinks[&1], sinks[&2]])
}

/// Runs the world until both nodes have started.
fn started(world: &mut World<SimNode>) -> &mut World<SimNode> {
    if world.machine(at(2)).is_none() || world.machine(at(1)).is_none() {
        world.run_for(millis(10));
    }
    world
}

#[test]
fn idle_closed_session_survives_silence_and_reopens() {
    for port in [1, 2] {
        let (mut world, observed, sinks) = idle_closed(u64::from(port));
        // Ten minutes are far beyond the time after which the silence of a connected peer ends its session.
        for second in 1..=600 {
            world.run_for(secs(1));
            for port in [1, 2] {
                let counts = world.machine(at(port)).expect("it is running").counts();
                assert_eq!((counts.connections, counts.peers), (0, 1), "node {port} after {second} s");
            }
        }
        let to = sinks[usize::from(port) - 1];
        spawn(&mut world, port, move |cx: &mut Cx<()>, _| {
            cx.tell(to, SinkMessage::Number(port, 1));
            stop()
        });
        world.run_for(secs(1));
        observed.borrow().violations.assert_none();
        assert_eq!(observed.borrow().received.get(&(port, 3 - port)), Some(&1));
        assert_eq!([1, 2].map(|port| connections(&mut world, port)), [1, 1]);
        world.run_for(secs(4));
        assert_eq!([1, 2].map(|port| connections(&mut world, port)), [0, 0]);
    }
}

/// Checks that `begin`, called for each node in a separate world, keeps the connection open until `end` is
/// called. Returns the observations of both worlds.
fn keeps_open(
    label: &str,
    begin: impl Fn(&mut World<SimNode>, u16, Addr<SinkMessage>, &Shared),
    end: impl Fn(&mut World<SimNode>, &Shared),
) -> [Shared; 2] {
    [1, 2].map(|port| {
        let (mut world, observed, sinks) = idle_closed(7);
        begin(&mut world, port, sinks[usize::from(port) - 1], &observed);
        world.run_for(secs(60));
        let count = [1, 2].map(|port| connections(&mut world, port));
        assert_eq!(count, [1, 1], "{label} at {port} keeps the connection open");
        end(&mut world, &observed);
        // A refused proposal to close is repeated after growing pauses.
        world.run_for(secs(40));
        let count = [1, 2].map(|port| connections(&mut world, port));
        assert_eq!(count, [0, 0], "{label} at {port} has ended");
        observed
    })
}

#[test]
fn monitor_open_keeps_connection() {
    let begin = |world: &mut World<SimNode>, port, sink: Addr<SinkMessage>, observed: &Shared| {
        let observed = observed.clone();
        spawn(world, port, move |cx: &mut Cx<()>, event| {
            if matches!(event, Event::Start) {
                cx.monitor(sink);
            }
            if observed.borrow().stopped { stop() } else { receive_within(millis(100)) }
        });
    };
    keeps_open("a monitor", begin, |_, observed| observed.borrow_mut().stopped = true);
}

#[test]
fn peer_watch_open_keeps_connection() {
    let begin = |world: &mut World<SimNode>, port, _, observed: &Shared| {
        let observed = observed.clone();
        spawn(world, port, move |cx: &mut Cx<PeerStatus>, event| {
            match event {
                Event::Start => drop(cx.peer_status(|status| status).expect("the limit is not reached")),
                Event::Message(status) => observed.borrow_mut().statuses.push(status.status),
                _ => {}
            }
            if observed.borrow().stopped { stop() } else { receive_within(millis(100)) }
        });
    };
    keeps_open("a peer watch", begin, |_, observed| {
        assert_eq!(observed.borrow().statuses, [Status::Online]);
        observed.borrow_mut().stopped = true;
    });
}

#[test]
fn lookup_open_keeps_connection() {
    let begin = |world: &mut World<SimNode>, port, _, _: &Shared| {
        spawn(world, port, |cx: &mut Cx<Found>, event| match event {
            Event::Start => {
                cx.locate("nobody", secs(65), |found| found);
                receive()
            }
            _ => stop(),
        });
    };
    keeps_open("a lookup", begin, |_, _| {});
}

#[test]
fn request_unanswered_keeps_connection() {
    let begin = |world: &mut World<SimNode>, port, sink, observed: &Shared| {
        let observed = observed.clone();
        spawn(world, port, move |cx: &mut Cx<Result<u64, AskError>>, event| match event {
            Event::Start => {
                cx.ask(sink, secs(600), SinkMessage::Ask, |answer| answer);
                receive()
            }
            Event::Message(answer) => {
                observed.borrow_mut().answers.push(answer);
                stop()
            }
            _ => receive(),
        });
    };
    let worlds = keeps_open("a request", begin, |_, observed| observed.borrow_mut().replies.clear());
    for observed in worlds {
        assert_eq!(observed.borrow().answers, [Err(AskError::Dropped)]);
    }
}

#[test]
fn peer_watch_on_idle_closed_session_reports_offline() {
    let (mut world, observed, _) = idle_closed(3);
    // The peer stalls for longer than its timeout; the first node does not notice, since it has no connection.
    world.stall(at(2), secs(3_000));
    world.run_for(secs(100));
    assert_eq!(world.machine(at(1)).expect("it is running").counts().peers, 1, "the session still exists");
    let results = observed.clone();
    spawn(&mut world, 1, move |cx: &mut Cx<PeerStatus>, event| {
        match event {
            Event::Start => drop(cx.peer_status(|status| status).expect("the limit is not reached")),
            Event::Message(status) => results.borrow_mut().statuses.push(status.status),
            _ => {}
        }
        receive()
    });
    world.run_for(secs(30));
    assert_eq!(observed.borrow().statuses, [Status::Online, Status::Suspect, Status::Offline]);
}

#[test]
fn stream_send_switched_opens_or_closes_connection() {
    let (mut world, observed, _) = idle_closed(5);
    let switch = |world: &mut World<SimNode>, port, streams| {
        let observed = observed.clone();
        spawn(world, port, move |cx: &mut Cx<()>, _| {
            let there = at(3 - port).into();
            cx.stream_send(there, streams)?;
            let unknown = cx.stream_send(at(99).into(), streams);
            observed.borrow_mut().violations.check(unknown == Err(UnknownPeer { at: at(99).into() }), || {
                format!("a location without a peer: {unknown:?}")
            });
            stop()
        });
    };
    switch(&mut world, 1, true);
    world.run_for(secs(60));
    assert_eq!([1, 2].map(|port| connections(&mut world, port)), [1, 1]);
    switch(&mut world, 2, false);
    world.run_for(secs(4));
    assert_eq!([1, 2].map(|port| connections(&mut world, port)), [0, 0], "one side is enough to close it");
    observed.borrow().violations.assert_none();
}
