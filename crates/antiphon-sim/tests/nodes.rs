//! Whole nodes under cuts, crashes and lost datagrams: promises 1 to 5 and 7 of the design, over many seeds.
//!
//! Each node runs a sink, registered by name, and a source for each other node. A source locates the sink of its target
//! node, monitors it, and sends it numbered messages, every third with a receipt. The observations of all actors are kept
//! in one place, which outlives crashes.

mod violations;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Config, DeliverError, LocateError, NetCx, PeerStatus, Status};
use antiphon_sched::{
    Addr, Cx, Down, Event, ExitReason, Loop, NodeId, millis, receive, receive_within, secs,
};
use antiphon_sim::{Faults, Replay, SimNode, World, assert_covered, seeds};
use violations::Violations;

/// One start of a source: the incarnation of its node, and the port of its target.
type SourceId = (NodeId, u16);
type Numbered = (u64, u16, u64);

/// The observations of all actors.
#[derive(Default)]
struct Observed {
    /// The last number that each sink received from each source.
    received: BTreeMap<(NodeId, SourceId), u64>,
    /// All messages received.
    all: BTreeSet<(SourceId, u64)>,
    /// The last number that each source sent.
    sent: BTreeMap<SourceId, u64>,
    /// Deliveries without an answer.
    awaited: BTreeSet<(SourceId, u64)>,
    /// Deliveries that a receipt confirmed.
    delivered: BTreeSet<(SourceId, u64)>,
    /// Deliveries that were refused.
    refused: BTreeSet<(SourceId, u64)>,
    /// The number of deliveries that may or may not have arrived.
    unknown: u32,
    /// Monitors without a `Down`.
    monitors: BTreeMap<SourceId, u32>,
    downs: u32,
    /// The number of times that a node saw a peer go offline.
    offline: u32,
    /// Nodes that suspected a peer.
    suspicious: BTreeSet<NodeId>,
    /// Set when the sources are to send no more messages.
    stopped: bool,
    violations: Violations,
}

type Shared = Rc<RefCell<Observed>>;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn name(port: u16) -> String {
    format!("sink {port}")
}

fn sink(sched: &mut Loop, port: u16, observed: &Shared) {
    let observed = observed.clone();
    sched.spawn(move |cx: &mut Cx<Numbered>, event| {
        match event {
            Event::Start => cx.register(&name(port))?,
            Event::Message((node, to, number)) => {
                let source = (NodeId::from_bits(node), to);
                let observed = &mut *observed.borrow_mut();
                let last = observed.received.insert((cx.id().node(), source), number).unwrap_or(0);
                observed
                    .violations
                    .check(number > last, || format!("{source:?}: {number} was received after {last}"));
                let is_new = observed.all.insert((source, number));
                observed.violations.check(is_new, || format!("{source:?}: {number} was received twice"));
            }
            _ => {}
        }
        receive()
    });
}

enum SourceEvent {
    Found(Result<Addr<Numbered>, LocateError>),
    Receipt(u64, Result<(), DeliverError>),
    Peer(PeerStatus),
}

fn source(sched: &mut Loop, to: u16, observed: &Shared) {
    let observed = observed.clone();
    let mut sink: Option<Addr<Numbered>> = None;
    sched.spawn(move |cx: &mut Cx<SourceEvent>, event| {
        let me = (cx.id().node(), to);
        match event {
            Event::Start => {
                cx.peer_status(SourceEvent::Peer).expect("the limit is not reached");
                cx.locate(&name(to), secs(600), SourceEvent::Found);
            }
            Event::Message(SourceEvent::Found(found)) => {
                let found = found?;
                sink = Some(found);
                cx.monitor(found);
                *observed.borrow_mut().monitors.entry(me).or_default() += 1;
            }
            Event::Message(SourceEvent::Receipt(number, result)) => {
                let observed = &mut *observed.borrow_mut();
                let is_first = observed.awaited.remove(&(me, number));
                observed.violations.check(is_first, || format!("{me:?}: {number} was answered twice"));
                match result {
                    Ok(()) => {
                        observed.delivered.insert((me, number));
                    }
                    Err(DeliverError::Refused(_)) => {
                        observed.refused.insert((me, number));
                    }
                    Err(_) => observed.unknown += 1,
                }
            }
            Event::Message(SourceEvent::Peer(peer)) => {
                let mut observed = observed.borrow_mut();
                observed.offline += u32::from(peer.status == Status::Offline);
                if peer.status == Status::Suspect {
                    observed.suspicious.insert(me.0);
                }
            }
            Event::Down(Down { actor, reason }) => {
                let observed = &mut *observed.borrow_mut();
                // A sink exits only when its node crashes.
                observed
                    .violations
                    .check(matches!(reason, ExitReason::NodeLost | ExitReason::NoActor), || {
                        format!("{me:?}: a sink exited: {reason}")
                    });
                observed.downs += 1;
                let open = observed.monitors.entry(me).or_default();
                observed
                    .violations
                    .check(*open == 1, || format!("{me:?}: a Down arrived while {open} monitors were open"));
                *open = open.saturating_sub(1);
                observed.violations.check(sink.map(|sink| sink.id()) == Some(actor), || {
                    format!("{me:?}: a Down of {actor}, which was not monitored")
                });
                sink = None;
                cx.locate(&name(to), secs(600), SourceEvent::Found);
            }
            Event::Timeout => send_next(cx, sink, me, &observed),
            _ => {}
        }
        receive_within(millis(11))
    });
}

fn send_next(cx: &mut Cx<SourceEvent>, sink: Option<Addr<Numbered>>, me: SourceId, observed: &Shared) {
    let Some(sink) = sink.filter(|_| !observed.borrow().stopped) else { return };
    let mut observed = observed.borrow_mut();
    let number = observed.sent.entry(me).or_default();
    *number += 1;
    let number = *number;
    let message = (me.0.to_bits(), me.1, number);
    if number.is_multiple_of(3) {
        observed.awaited.insert((me, number));
        drop(observed);
        cx.deliver(sink, message, secs(30), move |result| SourceEvent::Receipt(number, result));
    } else {
        drop(observed);
        cx.tell(sink, message);
    }
}

fn node(config: &Config, ports: &[u16], port: u16, seed: u64, observed: &Shared) -> SimNode {
    let mut node = SimNode::new(config, at(port), seed, |sched| {
        sink(sched, port, observed);
        for to in ports.iter().copied().filter(|to| *to != port) {
            source(sched, to, observed);
        }
    });
    node.set_neighbours(ports.iter().map(|port| at(*port)).collect());
    node
}

fn world(seed: u64, faults: Faults, count: u16) -> (World<SimNode>, Shared) {
    let observed = Shared::default();
    let ports: Vec<u16> = (1..=count).collect();
    let config = Config { secret: Some("key".into()), ..Config::default() };
    let mut world = World::new(seed, faults);
    for port in ports.clone() {
        let (ports, config, observed) = (ports.clone(), config.clone(), observed.clone());
        world.add(at(port), move |seed| node(&config, &ports, port, seed, &observed));
    }
    (world, observed)
}

/// Lets everything settle on a network without faults, and checks the promises about messages and receipts.
fn settle(world: &mut World<SimNode>, observed: &Shared) {
    world.set_faults(Faults::default());
    // All running nodes find each other, and lost connections and sessions are noticed.
    world.run_for(secs(20));
    observed.borrow_mut().stopped = true;
    world.run_for(secs(40));
    let observed = observed.borrow();
    observed.violations.assert_none();
    let lost: Vec<_> = observed.delivered.difference(&observed.all).collect();
    assert_eq!(lost, Vec::<&(SourceId, u64)>::new(), "messages with a receipt were not received");
    let wrong: Vec<_> = observed.refused.intersection(&observed.all).collect();
    assert_eq!(wrong, Vec::<&(SourceId, u64)>::new(), "refused messages were received");
}

#[test]
fn discovery_datagram_loss_finds_all_nodes() {
    for seed in seeds(2) {
        let _replay = Replay::new("discovery_datagram_loss_finds_all_nodes", seed);
        let faults = Faults { datagram_lost_once_in: 3, ..Faults::default() };
        let (mut world, observed) = world(seed, faults, 4);
        world.run_for(secs(25));
        observed.borrow().violations.assert_none();
        assert_eq!(observed.borrow().received.len(), 12, "each of four nodes received from three others");
        for port in 1..=4 {
            let counts = world.machine(at(port)).expect("it is running").counts();
            assert_eq!((counts.peers, counts.monitors), (3, 6));
        }
    }
}

#[test]
fn node_cuts_lose_and_repeat_no_messages() {
    let (mut cuts, mut receipts) = (0, 0);
    for seed in seeds(3) {
        let _replay = Replay::new("node_cuts_lose_and_repeat_no_messages", seed);
        let faults = Faults {
            cut_every: millis(60),
            dial_fails_once_in: 10,
            piece_bytes_max: 200,
            jitter: millis(2),
            ..Faults::default()
        };
        let (mut world, observed) = world(seed, faults, 3);
        world.run_for(secs(8));
        settle(&mut world, &observed);
        cuts += world.fault_counts().cuts;
        let observed = observed.borrow();
        receipts += observed.delivered.len();
        assert_eq!(observed.downs, 0, "a session outlives its connections");
        assert_eq!(observed.offline, 0);
        assert_eq!(observed.received.len(), 6, "each of three nodes received from two others");
        for ((_, source), last) in &observed.received {
            let sent = observed.sent[source];
            assert_eq!(sent, *last, "the last message of {source:?} arrives");
            let count = observed.all.range((*source, 0)..=(*source, u64::MAX)).count() as u64;
            assert_eq!(count, *last, "all messages of {source:?} arrive");
        }
    }
    assert_covered(cuts > 50, &format!("only {cuts} connections were cut"));
    assert_covered(receipts > 0, "no delivery got a receipt");
}

#[test]
fn node_crashes_answer_receipts_and_monitors_once() {
    let (mut crashes, mut receipts, mut unknown, mut downs) = (0, 0, 0, 0);
    for seed in seeds(4) {
        let _replay = Replay::new("node_crashes_answer_receipts_and_monitors_once", seed);
        let faults = Faults {
            crash_every: secs(3),
            cut_every: millis(400),
            half_open_once_in: 4,
            restart_within: secs(2),
            datagram_lost_once_in: 5,
            ..Faults::default()
        };
        let (mut world, observed) = world(seed, faults, 3);
        world.run_for(secs(30));
        settle(&mut world, &observed);
        let mut running = BTreeMap::new();
        for port in 1..=3 {
            let node = world.machine(at(port)).expect("it is running").sched().node_id();
            running.insert(node, port);
        }
        let observed = observed.borrow();
        for (node, port) in &running {
            for to in (1..=3).filter(|to| to != port) {
                let open = observed.monitors.get(&(*node, to));
                assert_eq!(open, Some(&1), "the source at {node} monitors sink {to}");
            }
        }
        let open = observed.awaited.iter().filter(|((node, _), _)| running.contains_key(node)).count();
        assert_eq!(open, 0, "every delivery of a running node is answered");
        let found: BTreeSet<SourceId> = observed
            .received
            .keys()
            .filter(|(sink, source)| running.contains_key(sink) && running.contains_key(&source.0))
            .map(|(_, source)| *source)
            .collect();
        assert_eq!(found.len(), 6, "all running nodes have found each other again");
        crashes += world.fault_counts().crashes;
        receipts += observed.delivered.len();
        unknown += observed.unknown;
        downs += observed.downs;
    }
    assert_covered(crashes > 0, "no node crashed");
    assert_covered(receipts > 0, "no delivery got a receipt");
    assert_covered(unknown > 0, "no session ended with a delivery under way");
    assert_covered(downs > 0, "no monitor was answered");
}

#[test]
fn node_after_stall_suspects_no_peer() {
    let (mut world, observed) = world(1, Faults::default(), 2);
    world.run_for(secs(3));
    world.stall(at(2), secs(10));
    world.run_for(secs(12));
    let nodes = [1, 2].map(|port| world.machine(at(port)).expect("it is running").sched().node_id());
    let observed = observed.borrow();
    observed.violations.assert_none();
    assert!(observed.suspicious.contains(&nodes[0]), "the first node received nothing for ten seconds");
    assert!(!observed.suspicious.contains(&nodes[1]), "the second node excludes its own stall");
    assert_eq!(observed.downs, 0, "the stall was shorter than the timeout, so no session ended");
    assert_eq!(observed.offline, 0);
}

#[test]
fn node_same_seed_gives_same_trace() {
    let run = |seed| {
        let faults = Faults { crash_every: secs(2), cut_every: millis(100), ..Faults::default() };
        let (mut world, _) = world(seed, faults, 3);
        world.run_for(secs(5));
        world.trace()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).hash(), run(4).hash());
}
