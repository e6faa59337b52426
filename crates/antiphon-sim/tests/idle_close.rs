//! Connections that are closed because nothing needs them, over many seeds: no frame is lost or repeated by that, and
//! nothing that depends on a connection loses it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Config, LocateError, NetCx, PeerStatus, Status};
use antiphon_sched::{
    Addr, AskError, Cx, Event, Loop, ReplyTo, Step, millis, receive, receive_within, secs, sleep, stop,
};
use antiphon_sim::{Faults, Replay, SimNode, World, seeds};
use serde::{Deserialize, Serialize};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[derive(Serialize, Deserialize)]
enum Word {
    Number(u16, u64),
    Ask(ReplyTo<u64>),
    End,
}
antiphon_sched::wire!(Word, "test.word/1");

/// What all actors saw: the last number that was sent, and that was heard, from one port to another.
#[derive(Default)]
struct Book {
    sent: BTreeMap<(u16, u16), u64>,
    heard: BTreeMap<(u16, u16), u64>,
    kept: Vec<ReplyTo<u64>>,
    statuses: Vec<Status>,
    answers: Vec<Result<u64, AskError>>,
    quiet: bool,
}

type Shared = Rc<RefCell<Book>>;
type Found = Result<Addr<Word>, LocateError>;

fn sink(sched: &mut Loop, port: u16, book: &Shared) {
    let book = book.clone();
    sched.spawn(move |cx: &mut Cx<Word>, event| {
        match event {
            Event::Start => cx.register(&format!("sink {port}"))?,
            Event::Message(Word::Number(from, number)) => {
                let last = book.borrow_mut().heard.insert((from, port), number).unwrap_or(0);
                assert_eq!(number, last + 1, "in order, once, and whole, from {from} to {port}");
            }
            Event::Message(Word::Ask(reply)) => book.borrow_mut().kept.push(reply),
            Event::Message(Word::End) => return stop(),
            _ => {}
        }
        receive()
    });
}

/// Sends a few numbers now and then; the pauses are as long as it takes to close a connection, more or less.
fn source(sched: &mut Loop, port: u16, to: u16, book: &Shared) {
    let book = book.clone();
    let mut sink: Option<Addr<Word>> = None;
    sched.spawn(move |cx: &mut Cx<Found>, event| {
        match event {
            Event::Start => {
                cx.locate(&format!("sink {to}"), secs(600), |found| found);
                return receive();
            }
            Event::Message(found) => sink = Some(found?),
            _ => {}
        }
        if let Some(sink) = sink.filter(|_| !book.borrow().quiet) {
            for _ in 0..1 + cx.random() % 3 {
                let mut book = book.borrow_mut();
                let number = book.sent.entry((port, to)).or_default();
                *number += 1;
                let word = Word::Number(port, *number);
                drop(book);
                cx.tell(sink, word);
            }
        }
        // Steps of a hundredth of a millisecond, so that words cross in all ways.
        sleep(millis(1_500) + micros(10) * u32::try_from(cx.random() % 600_000).unwrap_or(0))
    });
}

const fn micros(count: u64) -> std::time::Duration {
    std::time::Duration::from_micros(count)
}

/// Something happens at every node now and then, so that what a test spawns begins.
fn ticker(sched: &mut Loop) {
    sched.spawn(|cx: &mut Cx<()>, _| {
        cx.set_daemon(true);
        receive_within(millis(100))
    });
}

/// Nodes at ports 1 to `count`, of which only the first wants connections closed.
fn world(seed: u64, faults: Faults, count: u16, talk: bool) -> (World<SimNode>, Shared) {
    let book = Shared::default();
    let mut world = World::new(seed, faults);
    for port in 1..=count {
        let book = book.clone();
        world.add(at(port), move |seed| {
            let config = Config { stream_send: port != 1, secret: Some("key".into()), ..Config::default() };
            let mut node = SimNode::new(&config, at(port), seed, |sched| {
                ticker(sched);
                sink(sched, port, &book);
                for to in (1..=count).filter(|to| talk && *to != port) {
                    source(sched, port, to, &book);
                }
            });
            node.set_neighbours((1..=count).map(at).collect());
            node
        });
    }
    (world, book)
}

fn connections(world: &mut World<SimNode>, port: u16) -> usize {
    world.machine(at(port)).expect("it runs").counts().connections
}

fn spawn<M: 'static>(
    world: &mut World<SimNode>,
    port: u16,
    actor: impl FnMut(&mut Cx<'_, M>, Event<M>) -> Step<M> + 'static,
) -> Addr<M> {
    world.machine(at(port)).expect("it runs").sched().spawn(actor)
}

/// Answers at how many of 300 looks the connection was closed.
fn talk_and_rest(seed: u64, faults: Faults) -> u32 {
    let (mut world, book) = world(seed, faults, 2, true);
    let mut rests = 0;
    for _ in 0..300 {
        world.run_for(millis(1_000));
        rests += u32::from(connections(&mut world, 1) == 0);
    }
    world.set_faults(Faults::default());
    book.borrow_mut().quiet = true;
    world.run_for(secs(60));
    for port in 1..=2 {
        let counts = world.machine(at(port)).expect("it runs").counts();
        assert_eq!((counts.connections, counts.peers, counts.misbehaved), (0, 1, 0), "node {port}");
    }
    let book = book.borrow();
    assert_eq!(book.sent, book.heard, "whatever was sent was heard");
    assert_eq!(book.sent.len(), 2);
    rests
}

#[test]
fn what_is_sent_while_connections_are_closed_arrives_once_and_in_order() {
    let mut rests = 0;
    for seed in seeds(12) {
        let _replay = Replay::new("what_is_sent_while_connections_are_closed", seed);
        // Words take so long that many cross the closing.
        rests +=
            talk_and_rest(seed, Faults { latency: millis(100), jitter: millis(200), ..Faults::default() });
    }
    assert!(rests > 0, "it was closed now and then");
}

#[test]
fn cuts_of_connections_that_are_being_closed_lose_and_repeat_nothing() {
    let mut rests = 0;
    for seed in seeds(12) {
        let _replay = Replay::new("cuts_of_connections_that_are_being_closed", seed);
        let faults = Faults {
            cut_every: secs(2),
            half_open_once_in: 5,
            dial_fails_once_in: 6,
            piece_bytes_max: 20,
            jitter: millis(200),
            ..Faults::default()
        };
        rests += talk_and_rest(seed, faults);
    }
    assert!(rests > 0, "it was closed now and then");
}

/// Two nodes that know each other's sinks, and have closed their connection.
fn at_rest(seed: u64) -> (World<SimNode>, Shared, [Addr<Word>; 2]) {
    let (mut world, book) = world(seed, Faults::default(), 2, false);
    let sinks = Rc::new(RefCell::new(BTreeMap::new()));
    for port in 1..=2 {
        let sinks = sinks.clone();
        spawn(world_started(&mut world), port, move |cx: &mut Cx<Found>, event| {
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
    (world, book, [sinks[&1], sinks[&2]])
}

fn world_started(world: &mut World<SimNode>) -> &mut World<SimNode> {
    if world.machine(at(2)).is_none() || world.machine(at(1)).is_none() {
        world.run_for(millis(10));
    }
    world
}

#[test]
fn silence_at_rest_means_nothing_and_either_side_may_end_it() {
    for port in [1, 2] {
        let (mut world, book, sinks) = at_rest(u64::from(port));
        let before = world.now();
        world.run_for(secs(600));
        assert!(world.now() > before);
        assert_eq!([1, 2].map(|port| connections(&mut world, port)), [0, 0]);
        let to = sinks[usize::from(port) - 1];
        spawn(&mut world, port, move |cx: &mut Cx<()>, _| {
            cx.tell(to, Word::Number(port, 1));
            stop()
        });
        world.run_for(secs(1));
        assert_eq!(book.borrow().heard.get(&(port, 3 - port)), Some(&1));
        assert_eq!([1, 2].map(|port| connections(&mut world, port)), [1, 1]);
        world.run_for(secs(4));
        assert_eq!([1, 2].map(|port| connections(&mut world, port)), [0, 0]);
    }
}

/// What `begin` does at the node on `port` holds the connection, until `end` is done there.
fn holds(
    what: &str,
    begin: impl Fn(&mut World<SimNode>, u16, Addr<Word>, &Shared),
    end: impl Fn(&mut World<SimNode>, &Shared),
) {
    for port in [1, 2] {
        let (mut world, book, sinks) = at_rest(7);
        begin(&mut world, port, sinks[usize::from(port) - 1], &book);
        world.run_for(secs(60));
        let count = [1, 2].map(|port| connections(&mut world, port));
        assert_eq!(count, [1, 1], "{what} at {port} holds the connection");
        end(&mut world, &book);
        // The other side is asked again, with growing pauses.
        world.run_for(secs(40));
        let count = [1, 2].map(|port| connections(&mut world, port));
        assert_eq!(count, [0, 0], "{what} at {port} is over");
    }
}

#[test]
fn a_monitor_holds_the_connection() {
    let begin = |world: &mut World<SimNode>, port, sink: Addr<Word>, book: &Shared| {
        let book = book.clone();
        spawn(world, port, move |cx: &mut Cx<()>, event| {
            if matches!(event, Event::Start) {
                cx.monitor(sink);
            }
            if book.borrow().quiet { stop() } else { receive_within(millis(100)) }
        });
    };
    holds("a monitor", begin, |_, book| book.borrow_mut().quiet = true);
}

#[test]
fn a_watcher_of_peers_holds_the_connection() {
    let begin = |world: &mut World<SimNode>, port, _, book: &Shared| {
        let book = book.clone();
        spawn(world, port, move |cx: &mut Cx<PeerStatus>, event| {
            match event {
                Event::Start => drop(cx.peer_status(|status| status)),
                Event::Message(told) => book.borrow_mut().statuses.push(told.status),
                _ => {}
            }
            if book.borrow().quiet { stop() } else { receive_within(millis(100)) }
        });
    };
    holds("a watcher", begin, |_, book| {
        assert_eq!(book.borrow().statuses, [Status::Online]);
        book.borrow_mut().quiet = true;
    });
}

#[test]
fn a_question_for_a_name_holds_the_connection() {
    let begin = |world: &mut World<SimNode>, port, _, _: &Shared| {
        spawn(world, port, |cx: &mut Cx<Found>, event| match event {
            Event::Start => {
                cx.locate("nobody", secs(65), |found| found);
                receive()
            }
            _ => stop(),
        });
    };
    holds("a question", begin, |_, _| {});
}

#[test]
fn a_request_that_is_not_answered_holds_the_connection() {
    let begin = |world: &mut World<SimNode>, port, sink, book: &Shared| {
        let book = book.clone();
        spawn(world, port, move |cx: &mut Cx<Result<u64, AskError>>, event| match event {
            Event::Start => {
                cx.ask(sink, secs(600), Word::Ask, |answer| answer);
                receive()
            }
            Event::Message(answer) => {
                book.borrow_mut().answers.push(answer);
                stop()
            }
            _ => receive(),
        });
    };
    holds("a request", begin, |_, book| book.borrow_mut().kept.clear());
}

#[test]
fn a_watcher_that_comes_while_the_session_rests_is_told_that_the_peer_is_gone() {
    let (mut world, book, _) = at_rest(3);
    // It stands still for longer than the timeout: nobody notices, since nobody asks.
    world.hold(at(2), secs(3_000));
    world.run_for(secs(100));
    let told = book.clone();
    spawn(&mut world, 1, move |cx: &mut Cx<PeerStatus>, event| {
        match event {
            Event::Start => drop(cx.peer_status(|status| status)),
            Event::Message(status) => told.borrow_mut().statuses.push(status.status),
            _ => {}
        }
        receive()
    });
    world.run_for(secs(30));
    assert_eq!(book.borrow().statuses, [Status::Online, Status::Suspect, Status::Offline]);
}

#[test]
fn streaming_is_switched_on_and_off_at_any_time() {
    let (mut world, _, _) = at_rest(5);
    let switch = |world: &mut World<SimNode>, port, streams| {
        spawn(world, port, move |cx: &mut Cx<()>, _| {
            let there = at(3 - port).into();
            cx.stream_send(there, streams)?;
            assert!(cx.stream_send(at(99).into(), streams).is_err(), "nobody is known there");
            stop()
        });
    };
    switch(&mut world, 1, true);
    world.run_for(secs(60));
    assert_eq!([1, 2].map(|port| connections(&mut world, port)), [1, 1]);
    switch(&mut world, 2, false);
    world.run_for(secs(4));
    assert_eq!([1, 2].map(|port| connections(&mut world, port)), [0, 0], "either side may want it closed");
}
