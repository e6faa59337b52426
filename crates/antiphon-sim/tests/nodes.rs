//! Whole nodes under cuts, crashes and lost datagrams: promises 1 to 5 and 7 of the design, over many seeds.
//!
//! Each node runs a sink, registered by name, and a source for each other node: it locates that node's sink,
//! monitors it, and sends it numbered messages, every third with a receipt. What all of them saw stands in
//! one book, which outlives crashes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Config, DeliverError, LocateError, NetCx, PeerStatus, Status};
use antiphon_sched::{
    Addr, Cx, Down, Event, ExitReason, Loop, NodeId, millis, receive, receive_within, secs,
};
use antiphon_sim::{Faults, Replay, SimNode, World, seeds};

/// One start of a source: its node's incarnation, and where it sends.
type SourceId = (NodeId, u16);
type Numbered = (u64, u16, u64);

/// What all actors saw.
#[derive(Default)]
struct Book {
    /// The last number that each sink heard of each source.
    heard: BTreeMap<(NodeId, SourceId), u64>,
    all: BTreeSet<(SourceId, u64)>,
    sent: BTreeMap<SourceId, u64>,
    /// Receipts that are awaited, that came, and that were refused.
    awaited: BTreeSet<(SourceId, u64)>,
    delivered: BTreeSet<(SourceId, u64)>,
    refused: BTreeSet<(SourceId, u64)>,
    /// Monitors that were set and not yet answered.
    monitors: BTreeMap<SourceId, u32>,
    downs: u32,
    offline: u32,
    /// Nodes that suspected another.
    suspicious: BTreeSet<NodeId>,
    /// Nobody sends any more: what is under way arrives.
    quiet: bool,
}

type Shared = Rc<RefCell<Book>>;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn name(port: u16) -> String {
    format!("sink {port}")
}

fn sink(sched: &mut Loop, port: u16, book: &Shared) {
    let book = book.clone();
    sched.spawn(move |cx: &mut Cx<Numbered>, event| {
        match event {
            Event::Start => cx.register(&name(port))?,
            Event::Message((node, to, number)) => {
                let source = (NodeId::from_bits(node), to);
                let mut book = book.borrow_mut();
                let last = book.heard.insert((cx.id().node(), source), number).unwrap_or(0);
                assert!(number > last, "in order and once: {number} after {last} from {source:?}");
                assert!(book.all.insert((source, number)), "nothing is heard twice");
            }
            _ => {}
        }
        receive()
    });
}

enum Source {
    Found(Result<Addr<Numbered>, LocateError>),
    Receipt(u64, Result<(), DeliverError>),
    Peer(PeerStatus),
}

fn source(sched: &mut Loop, to: u16, book: &Shared) {
    let book = book.clone();
    let mut sink: Option<Addr<Numbered>> = None;
    sched.spawn(move |cx: &mut Cx<Source>, event| {
        let me = (cx.id().node(), to);
        match event {
            Event::Start => {
                cx.peer_status(Source::Peer);
                cx.locate(&name(to), secs(600), Source::Found);
            }
            Event::Message(Source::Found(found)) => {
                let found = found?;
                sink = Some(found);
                cx.monitor(found);
                *book.borrow_mut().monitors.entry(me).or_default() += 1;
            }
            Event::Message(Source::Receipt(number, result)) => {
                let mut book = book.borrow_mut();
                assert!(book.awaited.remove(&(me, number)), "a receipt comes once");
                match result {
                    Ok(()) => assert!(book.delivered.insert((me, number))),
                    Err(DeliverError::Refused(_)) => assert!(book.refused.insert((me, number))),
                    Err(_) => {}
                }
            }
            Event::Message(Source::Peer(peer)) => {
                let mut book = book.borrow_mut();
                book.offline += u32::from(peer.status == Status::Offline);
                if peer.status == Status::Suspect {
                    book.suspicious.insert(me.0);
                }
            }
            Event::Down(Down { actor, reason }) => {
                assert!(
                    matches!(reason, ExitReason::NodeLost | ExitReason::NoActor),
                    "sinks end with their nodes: {reason}"
                );
                let mut book = book.borrow_mut();
                book.downs += 1;
                let open = book.monitors.entry(me).or_default();
                assert_eq!(*open, 1, "one Down a monitor");
                *open -= 1;
                assert_eq!(sink.map(|sink| sink.id()), Some(actor));
                sink = None;
                cx.locate(&name(to), secs(600), Source::Found);
            }
            Event::Timeout => speak(cx, sink, me, &book),
            _ => {}
        }
        receive_within(millis(11))
    });
}

fn speak(cx: &mut Cx<Source>, sink: Option<Addr<Numbered>>, me: SourceId, book: &Shared) {
    let Some(sink) = sink.filter(|_| !book.borrow().quiet) else { return };
    let mut book = book.borrow_mut();
    let number = book.sent.entry(me).or_default();
    *number += 1;
    let number = *number;
    let message = (me.0.to_bits(), me.1, number);
    if number.is_multiple_of(3) {
        book.awaited.insert((me, number));
        drop(book);
        cx.deliver(sink, message, secs(30), move |result| Source::Receipt(number, result));
    } else {
        drop(book);
        cx.tell(sink, message);
    }
}

fn node(config: &Config, ports: &[u16], port: u16, seed: u64, book: &Shared) -> SimNode {
    let mut node = SimNode::new(config, at(port), seed, |sched| {
        sink(sched, port, book);
        for to in ports.iter().copied().filter(|to| *to != port) {
            source(sched, to, book);
        }
    });
    node.set_neighbours(ports.iter().map(|port| at(*port)).collect());
    node
}

fn world(seed: u64, faults: Faults, count: u16) -> (World<SimNode>, Shared) {
    let book = Shared::default();
    let ports: Vec<u16> = (1..=count).collect();
    let config = Config { secret: Some("key".into()), ..Config::default() };
    let mut world = World::new(seed, faults);
    for port in ports.clone() {
        let (ports, config, book) = (ports.clone(), config.clone(), book.clone());
        world.add(at(port), move |seed| node(&config, &ports, port, seed, &book));
    }
    (world, book)
}

/// Over a sound network: every source of a living node is heard, and every receipt has come.
fn settle(world: &mut World<SimNode>, book: &Shared) {
    world.set_faults(Faults::default());
    // All who live find each other, and whatever was lost is noticed.
    world.run_for(secs(20));
    book.borrow_mut().quiet = true;
    world.run_for(secs(40));
    let book = book.borrow();
    assert!(!book.heard.is_empty());
    let lost: Vec<_> = book.delivered.difference(&book.all).collect();
    assert_eq!(lost, Vec::<&(SourceId, u64)>::new(), "what has a receipt was heard");
    let wrong: Vec<_> = book.refused.intersection(&book.all).collect();
    assert_eq!(wrong, Vec::<&(SourceId, u64)>::new(), "what was refused was not heard");
}

#[test]
fn nodes_find_each_other_although_datagrams_are_lost() {
    for seed in seeds(2) {
        let _replay = Replay::new("nodes_find_each_other", seed);
        let faults = Faults { datagram_lost_once_in: 3, ..Faults::default() };
        let (mut world, book) = world(seed, faults, 4);
        world.run_for(secs(25));
        assert_eq!(book.borrow().heard.len(), 12, "each of four is heard by the three others");
        for port in 1..=4 {
            let counts = world.machine(at(port)).expect("it runs").counts();
            assert_eq!((counts.peers, counts.monitors), (3, 6));
        }
    }
}

#[test]
fn cuts_lose_and_repeat_nothing_between_actors() {
    for seed in seeds(3) {
        let _replay = Replay::new("cuts_lose_and_repeat_nothing", seed);
        let faults = Faults {
            cut_every: millis(60),
            dial_fails_once_in: 10,
            piece_bytes_max: 200,
            jitter: millis(2),
            ..Faults::default()
        };
        let (mut world, book) = world(seed, faults, 3);
        world.run_for(secs(8));
        settle(&mut world, &book);
        let cuts: u64 = world.faults_so_far().0;
        assert!(cuts > 50, "{cuts} cuts");
        let book = book.borrow();
        assert_eq!(book.downs, 0, "a session outlives its connections");
        assert_eq!(book.offline, 0);
        for ((_, source), last) in &book.heard {
            let sent = book.sent[source];
            assert_eq!(sent, *last, "all that {source:?} sent was heard");
            let heard = book.all.range((*source, 0)..=(*source, u64::MAX)).count() as u64;
            assert_eq!(heard, *last, "no number is missing");
        }
    }
}

#[test]
fn crashes_answer_every_receipt_and_monitor_once() {
    let mut downs = 0;
    for seed in seeds(4) {
        let _replay = Replay::new("crashes_answer_every_receipt", seed);
        let faults = Faults {
            crash_every: secs(3),
            cut_every: millis(400),
            half_open_once_in: 4,
            restart_within: secs(2),
            datagram_lost_once_in: 5,
            ..Faults::default()
        };
        let (mut world, book) = world(seed, faults, 3);
        world.run_for(secs(30));
        settle(&mut world, &book);
        let mut living = BTreeSet::new();
        for port in 1..=3 {
            living.insert(world.machine(at(port)).expect("it runs").sched().node_id());
        }
        let book = book.borrow();
        // Who lives has one monitor on each living sink, and waits for nothing older than its timeout.
        for to in 1..=3 {
            for node in &living {
                if let Some(open) = book.monitors.get(&(*node, to)) {
                    assert_eq!(*open, 1, "{node} watches sink {to}");
                }
            }
        }
        let open = book.awaited.iter().filter(|((node, _), _)| living.contains(node)).count();
        assert_eq!(open, 0, "every receipt of those who live has come");
        let heard: BTreeSet<SourceId> = book
            .heard
            .keys()
            .filter(|(sink, source)| living.contains(sink) && living.contains(&source.0))
            .map(|(_, source)| *source)
            .collect();
        assert_eq!(heard.len(), 6, "all have found each other again");
        downs += book.downs;
    }
    assert!(downs > 0, "monitors were answered");
}

#[test]
fn a_node_that_stood_still_accuses_nobody() {
    let (mut world, book) = world(1, Faults::default(), 2);
    world.run_for(secs(3));
    // The second node stands still: the world passes it by.
    world.hold(at(2), secs(10));
    world.run_for(secs(12));
    let homes = [1, 2].map(|port| world.machine(at(port)).expect("it runs").sched().node_id());
    let suspicious = &book.borrow().suspicious;
    assert!(suspicious.contains(&homes[0]), "the first heard nothing for ten seconds");
    assert!(!suspicious.contains(&homes[1]), "the second knows that it stood still itself");
    assert_eq!(book.borrow().downs, 0, "nobody was lost: the silence was shorter than the timeout");
    assert_eq!(book.borrow().offline, 0);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let faults = Faults { crash_every: secs(2), cut_every: millis(100), ..Faults::default() };
        let (mut world, _) = world(seed, faults, 3);
        world.run_for(secs(5));
        world.trace()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).hash(), run(4).hash());
}
