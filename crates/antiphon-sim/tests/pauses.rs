//! An actor that is stuck holds up nobody but those who write to it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use antiphon_dist::{Config, DeliverError, LocateError, NetCx};
use antiphon_sched::{Addr, Cx, Event, Loop, LoopConfig, Time, millis, receive, receive_within, secs, sleep};
use antiphon_sim::{Faults, Replay, SimNode, World, seeds};

type Numbered = (u64, String);

/// 16 MiB in messages of 1 KiB, and a hundred of which fill a mailbox.
const MESSAGES: u64 = 16 * 1024;
const MAILBOX: usize = 100;
const STUCK_FOR: Duration = secs(5);

#[derive(Default)]
struct Book {
    /// The last number that the stuck actor took.
    taken: u64,
    /// How long each receipt of the quick actor took.
    waits: Vec<Duration>,
}

type Shared = Rc<RefCell<Book>>;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn stuck_and_quick(sched: &mut Loop, book: &Shared) {
    let book = book.clone();
    sched.spawn(move |cx: &mut Cx<Numbered>, event| {
        match event {
            Event::Start => {
                cx.register("stuck")?;
                return sleep(STUCK_FOR);
            }
            Event::Message((number, _)) => {
                let last = std::mem::replace(&mut book.borrow_mut().taken, number);
                assert_eq!(number, last + 1, "in order and once");
            }
            _ => {}
        }
        receive()
    });
    sched.spawn(|cx: &mut Cx<u64>, event| {
        if let Event::Start = event {
            cx.register("quick")?;
        }
        receive()
    });
}

enum Said {
    Stuck(Result<Addr<Numbered>, LocateError>),
    Quick(Result<Addr<u64>, LocateError>),
    Receipt(Time, Result<(), DeliverError>),
}

/// Sends all at once to the one, and asks for a receipt of the other every other millisecond.
fn writer(sched: &mut Loop, book: &Shared) {
    let book = book.clone();
    let mut quick = None;
    sched.spawn(move |cx: &mut Cx<Said>, event| {
        match event {
            Event::Start => cx.locate("quick", secs(9), Said::Quick),
            Event::Message(Said::Quick(found)) => {
                quick = Some(found?);
                cx.locate("stuck", secs(9), Said::Stuck);
            }
            Event::Message(Said::Stuck(found)) => {
                let stuck = found?;
                (1..=MESSAGES).for_each(|number| cx.tell(stuck, (number, "x".repeat(1024))));
            }
            Event::Message(Said::Receipt(asked, receipt)) => {
                receipt?;
                book.borrow_mut().waits.push(cx.now().since(asked));
            }
            Event::Timeout => {
                let (quick, now) = (quick.expect("it was found within a moment"), cx.now());
                cx.deliver(quick, 0, secs(30), move |receipt| Said::Receipt(now, receipt));
            }
            _ => {}
        }
        if quick.is_some() { receive_within(millis(2)) } else { receive() }
    });
}

fn world(seed: u64, faults: Faults) -> (World<SimNode>, Shared) {
    let book = Shared::default();
    let scheduler = LoopConfig { mailbox_max: MAILBOX, ..LoopConfig::default() };
    let config = Config { secret: Some("key".into()), scheduler, ..Config::default() };
    let mut world = World::new(seed, faults);
    for (port, set_up) in [(1, writer as fn(&mut Loop, &Shared)), (2, stuck_and_quick)] {
        let (config, book) = (config.clone(), book.clone());
        world.add(at(port), move |seed| {
            let mut node = SimNode::new(&config, at(port), seed, |sched| set_up(sched, &book));
            node.set_neighbours(vec![at(1), at(2)]);
            node
        });
    }
    (world, book)
}

#[test]
fn others_are_answered_within_milliseconds_while_16_mib_wait_for_a_stuck_actor() {
    for seed in seeds(2) {
        let _replay = Replay::new("others_are_answered_within_milliseconds", seed);
        let (mut world, book) = world(seed, Faults::default());
        world.run_for(STUCK_FOR - millis(500));
        assert_eq!(book.borrow().taken, 0, "the actor is stuck");
        let waits = std::mem::take(&mut book.borrow_mut().waits);
        let longest = waits.iter().max().copied().unwrap_or_default();
        assert!(waits.len() > 500, "{} receipts came while it was", waits.len());
        assert!(longest < millis(20), "and none took long: {longest:?}");
        world.run_for(secs(5));
        assert_eq!(book.borrow().taken, MESSAGES, "when it wakes, all arrive");
    }
}

#[test]
fn what_waits_for_a_stuck_actor_survives_cuts() {
    for seed in seeds(2) {
        let _replay = Replay::new("what_waits_for_a_stuck_actor_survives_cuts", seed);
        let faults = Faults { cut_every: millis(300), jitter: millis(1), ..Faults::default() };
        let (mut world, book) = world(seed, faults);
        world.run_for(STUCK_FOR + secs(3));
        world.set_faults(Faults::default());
        world.run_for(secs(10));
        assert_eq!(book.borrow().taken, MESSAGES);
        assert!(world.faults_so_far().0 > 5, "connections were cut");
    }
}
