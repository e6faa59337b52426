//! Channels and their relays under cuts and crashes, over many seeds.
//!
//! The first node opens a channel. Every node has two subscribers and a source, which delivers numbered messages one after
//! the other. The observations of all actors are kept in one place, which outlives crashes.

mod violations;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Channel, Config, DeliverError, LocateError, NetCx, SubscribeError};
use antiphon_sched::{ActorId, Cx, Event, Loop, NodeId, millis, receive, receive_within, secs};
use antiphon_sim::{Faults, Replay, SimNode, World, assert_covered, seeds};
use violations::Violations;

const NODES: u16 = 3;
const SUBSCRIBERS: usize = 2 * NODES as usize;

/// The node of a source, and the number of a message.
type Numbered = (u64, u64);

/// The observations of all actors.
#[derive(Default)]
struct Observed {
    /// The last number that each subscriber received from each source.
    received: BTreeMap<(ActorId, u64), u64>,
    /// Numbers that a subscriber did not receive between two that it did.
    gaps: u64,
    /// Deliveries without an answer.
    open: BTreeSet<Numbered>,
    answered: u64,
    /// Deliveries that not all subscribers acknowledged.
    partial: u64,
    downs: u64,
    /// Set when the sources are to send no more messages.
    stopped: bool,
    violations: Violations,
}

type Shared = Rc<RefCell<Observed>>;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

enum SubscriberEvent {
    Found(Result<Channel<Numbered>, LocateError>),
    Subscribed(Result<(), SubscribeError>),
    Received(Numbered),
}

/// Subscribes to the channel, and does so again after a `Down` of the channel.
fn subscriber(sched: &mut Loop, observed: &Shared) {
    let observed = observed.clone();
    let mut adapter = None;
    sched.spawn(move |cx: &mut Cx<SubscriberEvent>, event| {
        match event {
            Event::Start => {
                adapter = Some(cx.adapter(SubscriberEvent::Received).expect("the limit is not reached"));
                cx.locate("numbers", secs(600), SubscriberEvent::Found);
            }
            Event::Message(SubscriberEvent::Found(channel)) => {
                if let Some(adapter) = adapter {
                    cx.subscribe_within(channel?, adapter, secs(30), SubscriberEvent::Subscribed);
                }
            }
            Event::Message(SubscriberEvent::Subscribed(Ok(()))) => {}
            Event::Down(_) => {
                observed.borrow_mut().downs += 1;
                cx.locate("numbers", secs(600), SubscriberEvent::Found);
            }
            Event::Message(SubscriberEvent::Subscribed(Err(_))) => return receive_within(secs(1)),
            Event::Timeout => cx.locate("numbers", secs(600), SubscriberEvent::Found),
            Event::Message(SubscriberEvent::Received((source, number))) => {
                let observed = &mut *observed.borrow_mut();
                let last = observed.received.insert((cx.id(), source), number);
                if let Some(last) = last {
                    observed.violations.check(number > last, || format!("{number} arrived after {last}"));
                    observed.gaps += number.saturating_sub(last + 1);
                }
            }
            _ => {}
        }
        receive()
    });
}

enum SourceEvent {
    Found(Result<Channel<Numbered>, LocateError>),
    Delivered(u64, Result<usize, DeliverError>),
}

/// Delivers numbered messages, one at a time; each waits for `n` subscribers.
fn source(sched: &mut Loop, observed: &Shared, n: usize) {
    let observed = observed.clone();
    let (mut channel, mut number) = (None, 0);
    sched.spawn(move |cx: &mut Cx<SourceEvent>, event| {
        let me = cx.id().node().to_bits();
        match event {
            Event::Start => cx.locate("numbers", secs(600), SourceEvent::Found),
            Event::Message(SourceEvent::Found(found)) => {
                channel = Some(found?);
                return receive_within(millis(1));
            }
            Event::Message(SourceEvent::Delivered(number, result)) => {
                let observed = &mut *observed.borrow_mut();
                let is_first = observed.open.remove(&(me, number));
                observed.violations.check(is_first, || format!("delivery {number} was answered twice"));
                observed.answered += 1;
                observed.violations.check(!result.as_ref().is_ok_and(|count| *count > SUBSCRIBERS), || {
                    format!("more subscribers acknowledged than there are: {result:?}")
                });
                observed.partial += u64::from(result != Ok(SUBSCRIBERS));
                if result.is_err() {
                    // The channel may have been opened again by a new incarnation of its node.
                    cx.locate("numbers", secs(600), SourceEvent::Found);
                    return receive();
                }
                return receive_within(millis(20));
            }
            Event::Timeout => {
                if let Some(channel) = channel.filter(|_| !observed.borrow().stopped) {
                    number += 1;
                    let now = number;
                    observed.borrow_mut().open.insert((me, now));
                    cx.deliver_all(channel, (me, now), n, secs(20), move |done| {
                        SourceEvent::Delivered(now, done)
                    });
                }
            }
            _ => {}
        }
        receive()
    });
}

fn world(seed: u64, faults: Faults, n: usize) -> (World<SimNode>, Shared) {
    let observed = Shared::default();
    let config = Config { secret: Some("key".into()), ..Config::default() };
    let mut world = World::new(seed, faults);
    for port in 1..=NODES {
        let (config, observed) = (config.clone(), observed.clone());
        world.add(at(port), move |seed| {
            let mut node = SimNode::new(&config, at(port), seed, |sched| {
                if port == 1 {
                    sched.spawn(|cx: &mut Cx<()>, event| {
                        if matches!(event, Event::Start) {
                            cx.channel::<Numbered>("numbers")?;
                        }
                        receive()
                    });
                }
                subscriber(sched, &observed);
                subscriber(sched, &observed);
                source(sched, &observed, n);
            });
            node.set_neighbours((1..=NODES).map(at).collect());
            node
        });
    }
    (world, observed)
}

#[test]
fn channel_cuts_deliver_once_in_order() {
    let (mut cuts, mut deliveries) = (0, 0);
    for seed in seeds(3) {
        let _replay = Replay::new("channel_cuts_deliver_once_in_order", seed);
        let faults = Faults {
            cut_every: millis(60),
            dial_fails_once_in: 10,
            piece_bytes_max: 200,
            jitter: millis(2),
            ..Faults::default()
        };
        let (mut world, observed) = world(seed, faults, SUBSCRIBERS);
        world.run_for(secs(8));
        world.set_faults(Faults::default());
        observed.borrow_mut().stopped = true;
        world.run_for(secs(40));
        cuts += world.fault_counts().cuts;
        let observed = observed.borrow();
        deliveries += observed.answered;
        observed.violations.assert_none();
        assert_eq!((observed.open.len(), observed.partial, observed.downs, observed.gaps), (0, 0, 0, 0));
        assert_eq!(
            observed.received.len(),
            SUBSCRIBERS * usize::from(NODES),
            "each subscriber received messages of all sources"
        );
    }
    assert_covered(cuts > 50, &format!("only {cuts} connections were cut"));
    assert_covered(deliveries > 30, &format!("only {deliveries} deliveries were answered"));
}

/// Each delivery of a surviving source is answered once, and all subscribers find the channel again.
#[test]
fn channel_crashes_answer_deliveries_once_and_resubscribe() {
    let (mut crashes, mut answered, mut downs) = (0, 0, 0);
    for seed in seeds(4) {
        let _replay = Replay::new("channel_crashes_answer_deliveries_once_and_resubscribe", seed);
        let faults = Faults {
            crash_every: secs(3),
            cut_every: millis(400),
            half_open_once_in: 4,
            restart_within: secs(2),
            ..Faults::default()
        };
        let (mut world, observed) = world(seed, faults, 0);
        world.run_for(secs(30));
        world.set_faults(Faults::default());
        world.run_for(secs(60));
        observed.borrow_mut().stopped = true;
        world.run_for(secs(40));
        crashes += world.fault_counts().crashes;
        let observed = observed.borrow();
        answered += observed.answered;
        downs += observed.downs;
        observed.violations.assert_none();
        let running: BTreeSet<NodeId> = (1..=NODES)
            .map(|port| world.machine(at(port)).expect("it is running").sched().node_id())
            .collect();
        let is_running = |(node, _): &&Numbered| running.contains(&NodeId::from_bits(*node));
        assert_eq!(
            observed.open.iter().filter(is_running).count(),
            0,
            "every delivery of a running node is answered"
        );
        let pairs = observed.received.keys().filter(|(actor, source)| {
            running.contains(&actor.node()) && running.contains(&NodeId::from_bits(*source))
        });
        assert_eq!(
            pairs.count(),
            SUBSCRIBERS * usize::from(NODES),
            "each running subscriber received messages of all running sources"
        );
        for port in 1..=NODES {
            let counts = world.machine(at(port)).expect("it is running").counts();
            assert_eq!(counts.channel_relays, usize::from(port != 1), "each other node has one relay");
        }
    }
    assert_covered(crashes > 0, "no node crashed");
    assert_covered(answered > 0, "no delivery was answered");
    // In a run in which the node of the channel never crashes, no subscriber receives a `Down`.
    assert_covered(downs > 0, "no subscriber received a Down");
}
