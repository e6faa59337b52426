//! Channels and their relays under cuts and crashes, over many seeds.
//!
//! The first node opens a channel; every node has two subscribers and a source, which delivers numbered messages
//! one after the other. What all of them saw stands in one book, which outlives crashes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Channel, Config, DeliverError, LocateError, NetCx, SubscribeError};
use antiphon_sched::{ActorId, Cx, Event, Loop, NodeId, millis, receive, receive_within, secs};
use antiphon_sim::{Faults, Replay, SimNode, World, seeds};

const NODES: u16 = 3;
const SUBSCRIBERS: usize = 2 * NODES as usize;

/// The node of a source, and the number of a message.
type Numbered = (u64, u64);

#[derive(Default)]
struct Book {
    /// The last number that each subscriber heard of each source.
    heard: BTreeMap<(ActorId, u64), u64>,
    /// Numbers that no subscriber may miss: those delivered to all, as each subscriber counts them.
    gaps: u64,
    open: BTreeSet<Numbered>,
    answered: u64,
    /// Deliveries that not all subscribers have acknowledged.
    short: u64,
    downs: u64,
    quiet: bool,
}

type Shared = Rc<RefCell<Book>>;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

enum Listener {
    Found(Result<Channel<Numbered>, LocateError>),
    Subscribed(Result<(), SubscribeError>),
    Heard(Numbered),
}

/// Subscribes, and does so again when it is told that the channel is gone.
fn listener(sched: &mut Loop, book: &Shared) {
    let book = book.clone();
    let mut adapter = None;
    sched.spawn(move |cx: &mut Cx<Listener>, event| {
        match event {
            Event::Start => {
                adapter = Some(cx.adapter(Listener::Heard));
                cx.locate("numbers", secs(600), Listener::Found);
            }
            Event::Message(Listener::Found(channel)) => {
                if let Some(adapter) = adapter {
                    cx.subscribe_within(channel?, adapter, secs(30), Listener::Subscribed);
                }
            }
            Event::Message(Listener::Subscribed(Ok(()))) => {}
            Event::Down(_) => {
                book.borrow_mut().downs += 1;
                cx.locate("numbers", secs(600), Listener::Found);
            }
            Event::Message(Listener::Subscribed(Err(_))) => return receive_within(secs(1)),
            Event::Timeout => cx.locate("numbers", secs(600), Listener::Found),
            Event::Message(Listener::Heard((source, number))) => {
                let mut book = book.borrow_mut();
                let last = book.heard.insert((cx.id(), source), number);
                if let Some(last) = last {
                    assert!(number > last, "in order and once: {number} after {last}");
                    book.gaps += number - last - 1;
                }
            }
            _ => {}
        }
        receive()
    });
}

enum Source {
    Found(Result<Channel<Numbered>, LocateError>),
    Delivered(u64, Result<usize, DeliverError>),
}

/// Delivers to so many subscribers, again and again.
fn source(sched: &mut Loop, book: &Shared, n: usize) {
    let book = book.clone();
    let (mut channel, mut number) = (None, 0);
    sched.spawn(move |cx: &mut Cx<Source>, event| {
        let me = cx.id().node().to_bits();
        match event {
            Event::Start => cx.locate("numbers", secs(600), Source::Found),
            Event::Message(Source::Found(found)) => {
                channel = Some(found?);
                return receive_within(millis(1));
            }
            Event::Message(Source::Delivered(number, result)) => {
                let mut book = book.borrow_mut();
                assert!(book.open.remove(&(me, number)), "a delivery is answered once");
                book.answered += 1;
                if result.as_ref().is_ok_and(|count| *count > SUBSCRIBERS) {
                    panic!("{result:?} are more than there are");
                }
                book.short += u64::from(result != Ok(SUBSCRIBERS));
                if result.is_err() {
                    drop(book);
                    // The channel may be another by now.
                    cx.locate("numbers", secs(600), Source::Found);
                    return receive();
                }
                return receive_within(millis(20));
            }
            Event::Timeout => {
                if let Some(channel) = channel.filter(|_| !book.borrow().quiet) {
                    number += 1;
                    let now = number;
                    book.borrow_mut().open.insert((me, now));
                    cx.deliver_all(channel, (me, now), n, secs(20), move |done| Source::Delivered(now, done));
                }
            }
            _ => {}
        }
        receive()
    });
}

fn world(seed: u64, faults: Faults, n: usize) -> (World<SimNode>, Shared) {
    let book = Shared::default();
    let config = Config { secret: Some("key".into()), ..Config::default() };
    let mut world = World::new(seed, faults);
    for port in 1..=NODES {
        let (config, book) = (config.clone(), book.clone());
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
                listener(sched, &book);
                listener(sched, &book);
                source(sched, &book, n);
            });
            node.set_neighbours((1..=NODES).map(at).collect());
            node
        });
    }
    (world, book)
}

#[test]
fn cuts_lose_repeat_and_reorder_nothing_in_channels() {
    for seed in seeds(3) {
        let _replay = Replay::new("cuts_lose_repeat_and_reorder_nothing_in_channels", seed);
        let faults = Faults {
            cut_every: millis(60),
            dial_fails_once_in: 10,
            piece_bytes_max: 200,
            jitter: millis(2),
            ..Faults::default()
        };
        let (mut world, book) = world(seed, faults, SUBSCRIBERS);
        world.run_for(secs(8));
        world.set_faults(Faults::default());
        book.borrow_mut().quiet = true;
        world.run_for(secs(40));
        assert!(world.faults_so_far().0 > 50, "there were cuts");
        let book = book.borrow();
        assert!(book.answered > 30, "{} deliveries", book.answered);
        assert_eq!((book.open.len(), book.short, book.downs, book.gaps), (0, 0, 0, 0));
        assert_eq!(book.heard.len(), SUBSCRIBERS * usize::from(NODES), "each heard all sources");
    }
}

#[test]
fn crashes_answer_each_delivery_once_and_all_find_the_channel_again() {
    let mut downs = 0;
    for seed in seeds(4) {
        let _replay = Replay::new("crashes_answer_each_delivery_once", seed);
        let faults = Faults {
            crash_every: secs(3),
            cut_every: millis(400),
            half_open_once_in: 4,
            restart_within: secs(2),
            ..Faults::default()
        };
        let (mut world, book) = world(seed, faults, 0);
        world.run_for(secs(30));
        world.set_faults(Faults::default());
        world.run_for(secs(60));
        book.borrow_mut().quiet = true;
        world.run_for(secs(40));
        let living: BTreeSet<NodeId> =
            (1..=NODES).map(|port| world.machine(at(port)).expect("it runs").sched().node_id()).collect();
        let is_open = |(node, _): &&Numbered| living.contains(&NodeId::from_bits(*node));
        assert_eq!(book.borrow().open.iter().filter(is_open).count(), 0, "who lives has been answered");
        downs += book.borrow().downs;
        // All who live hear all who live.
        let heard = book
            .borrow()
            .heard
            .keys()
            .filter(|(actor, source)| {
                living.contains(&actor.node()) && living.contains(&NodeId::from_bits(*source))
            })
            .count();
        assert_eq!(heard, SUBSCRIBERS * usize::from(NODES));
        for port in 1..=NODES {
            let counts = world.machine(at(port)).expect("it runs").counts();
            assert_eq!(counts.relays, usize::from(port != 1), "one relay a node");
        }
    }
    // Where the channel's own node never crashes, no subscriber receives a `Down`.
    assert!(downs > 0, "no subscriber received a Down");
}
