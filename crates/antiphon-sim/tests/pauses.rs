//! An actor that handles no messages for a while delays only the messages that are sent to it.

mod violations;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use antiphon_dist::{Config, DeliverError, LocateError, NetCx};
use antiphon_sched::{Addr, Cx, Event, Loop, LoopConfig, Time, millis, receive, receive_within, secs, sleep};
use antiphon_sim::{Faults, Replay, SimNode, World, assert_covered, seeds};
use violations::Violations;

type Numbered = (u64, String);

/// Messages of 1 KiB, 16 MiB in all.
const MESSAGES: u64 = 16 * 1024;
/// The limit of a mailbox, in messages.
const MAILBOX: usize = 100;
const STUCK_FOR: Duration = secs(5);

#[derive(Default)]
struct Observed {
    /// The last number that the stuck actor handled.
    handled: u64,
    /// The time that each receipt of the quick actor took.
    waits: Vec<Duration>,
    violations: Violations,
}

type Shared = Rc<RefCell<Observed>>;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn stuck_and_quick(sched: &mut Loop, observed: &Shared) {
    let observed = observed.clone();
    sched.spawn(move |cx: &mut Cx<Numbered>, event| {
        match event {
            Event::Start => {
                cx.register("stuck")?;
                return sleep(STUCK_FOR);
            }
            Event::Message((number, _)) => {
                let observed = &mut *observed.borrow_mut();
                let last = std::mem::replace(&mut observed.handled, number);
                observed
                    .violations
                    .check(number == last + 1, || format!("{number} was handled after {last}"));
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

enum WriterEvent {
    Stuck(Result<Addr<Numbered>, LocateError>),
    Quick(Result<Addr<u64>, LocateError>),
    Receipt(Time, Result<(), DeliverError>),
}

/// Sends all messages to the stuck actor at once, then delivers a message to the quick one every two milliseconds.
fn writer(sched: &mut Loop, observed: &Shared) {
    let observed = observed.clone();
    let mut quick = None;
    sched.spawn(move |cx: &mut Cx<WriterEvent>, event| {
        match event {
            Event::Start => cx.locate("quick", secs(9), WriterEvent::Quick),
            Event::Message(WriterEvent::Quick(found)) => {
                quick = Some(found?);
                cx.locate("stuck", secs(9), WriterEvent::Stuck);
            }
            Event::Message(WriterEvent::Stuck(found)) => {
                let stuck = found?;
                (1..=MESSAGES).for_each(|number| cx.tell(stuck, (number, "x".repeat(1024))));
            }
            Event::Message(WriterEvent::Receipt(asked, receipt)) => {
                receipt?;
                observed.borrow_mut().waits.push(cx.now().since(asked));
            }
            Event::Timeout => {
                let (quick, now) =
                    (quick.expect("the quick actor is located before the first timeout"), cx.now());
                cx.deliver(quick, 0, secs(30), move |receipt| WriterEvent::Receipt(now, receipt));
            }
            _ => {}
        }
        if quick.is_some() { receive_within(millis(2)) } else { receive() }
    });
}

fn world(seed: u64, faults: Faults) -> (World<SimNode>, Shared) {
    let observed = Shared::default();
    let scheduler = LoopConfig { mailbox_max: MAILBOX, ..LoopConfig::default() };
    let config = Config { secret: Some("key".into()), scheduler, ..Config::default() };
    let mut world = World::new(seed, faults);
    for (port, set_up) in [(1, writer as fn(&mut Loop, &Shared)), (2, stuck_and_quick)] {
        let (config, observed) = (config.clone(), observed.clone());
        world.add(at(port), move |seed| {
            let mut node = SimNode::new(&config, at(port), seed, |sched| set_up(sched, &observed));
            node.set_neighbours(vec![at(1), at(2)]);
            node
        });
    }
    (world, observed)
}

/// Receipts of another actor take milliseconds while 16 MiB wait for the stuck one.
#[test]
fn stuck_actor_backlog_delays_no_other_actor() {
    let mut receipts = 0;
    for seed in seeds(2) {
        let _replay = Replay::new("stuck_actor_backlog_delays_no_other_actor", seed);
        let (mut world, observed) = world(seed, Faults::default());
        world.run_for(STUCK_FOR - millis(500));
        assert_eq!(observed.borrow().handled, 0, "the actor is stuck");
        let waits = std::mem::take(&mut observed.borrow_mut().waits);
        let longest = waits.iter().max().copied().unwrap_or_default();
        receipts += waits.len();
        assert!(longest < millis(20), "a receipt of the quick actor took {longest:?}");
        world.run_for(secs(5));
        observed.borrow().violations.assert_none();
        assert_eq!(observed.borrow().handled, MESSAGES, "all messages arrive after the stall of the actor");
    }
    assert_covered(receipts > 500, &format!("only {receipts} receipts arrived while the actor was stuck"));
}

#[test]
fn stuck_actor_backlog_survives_cuts() {
    let mut cuts = 0;
    for seed in seeds(2) {
        let _replay = Replay::new("stuck_actor_backlog_survives_cuts", seed);
        let faults = Faults { cut_every: millis(300), jitter: millis(1), ..Faults::default() };
        let (mut world, observed) = world(seed, faults);
        world.run_for(STUCK_FOR + secs(3));
        world.set_faults(Faults::default());
        world.run_for(secs(10));
        observed.borrow().violations.assert_none();
        assert_eq!(observed.borrow().handled, MESSAGES, "all messages arrive");
        cuts += world.fault_counts().cuts;
    }
    assert_covered(cuts > 5, &format!("only {cuts} connections were cut"));
}
