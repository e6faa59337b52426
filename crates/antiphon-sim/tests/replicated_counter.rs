//! An example of a bug that only some partitions show, and of the test that finds it. The page docs/testing.md explains it.
//!
//! A primary counts, and tells its replica each step by `deliver`. When no receipt comes in time, it sends the step again. But
//! the step may have arrived: only its receipt is late. So a replica that does not look at the numbers of the steps counts some
//! of them twice.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Config, DeliverError, NetCx};
use antiphon_sched::{Addr, Cx, Event, Loop, millis, receive, secs};
use antiphon_sim::{Faults, Replay, SimNode, SimRng, World, seeds};

/// A step of the counter: its number.
type Counted = u64;

/// Starts the replica. A program calls this function with the loop of its node, by `Node::set_up`.
fn start_replica(sched: &mut Loop, checks_numbers: bool, count: Rc<Cell<u64>>) {
    let mut last = 0;
    sched.spawn(move |cx: &mut Cx<Counted>, event| {
        match event {
            Event::Start => cx.register("replica")?,
            Event::Message(number) if number > last || !checks_numbers => {
                last = last.max(number);
                count.set(count.get() + 1);
            }
            _ => {}
        }
        receive()
    });
}

enum PrimaryEvent {
    Found(Addr<Counted>),
    Next,
    Receipt(Counted, Result<(), DeliverError>),
}

/// Starts the primary, which counts to `steps`, one step a second.
fn start_primary(sched: &mut Loop, steps: u64) {
    let (mut replica, mut number) = (None, 0);
    sched.spawn(move |cx, event| {
        let deliver = |cx: &mut Cx<PrimaryEvent>, to: Addr<Counted>, number| {
            cx.deliver(to, number, secs(5), move |receipt| PrimaryEvent::Receipt(number, receipt));
        };
        match event {
            Event::Start => {
                cx.locate("replica", secs(600), |found| PrimaryEvent::Found(found.expect("it is there")));
            }
            Event::Message(PrimaryEvent::Found(found)) => {
                replica = Some(found);
                cx.after(secs(1), PrimaryEvent::Next)?;
            }
            Event::Message(PrimaryEvent::Next) => {
                if let Some(to) = replica.filter(|_| number < steps) {
                    number += 1;
                    deliver(cx, to, number);
                }
            }
            Event::Message(PrimaryEvent::Receipt(_, Ok(()))) => {
                cx.after(secs(1), PrimaryEvent::Next)?;
            }
            Event::Message(PrimaryEvent::Receipt(number, Err(_))) => {
                if let Some(to) = replica {
                    deliver(cx, to, number);
                }
            }
            _ => {}
        }
        receive()
    });
}

const STEPS: u64 = 60;

/// The number that the replica has in the end, under partitions that come from the seed.
fn count_under_partitions(seed: u64, checks_numbers: bool) -> u64 {
    let [primary, replica] = [1, 2].map(|host| SocketAddr::from(([10, 0, 0, host], 9705)));
    let config = Config { secret: Some("key".into()), ..Config::default() };
    let count = Rc::new(Cell::new(0));
    let mut world = World::new(seed, Faults { jitter: millis(5), ..Faults::default() });
    let (counted, replica_config) = (count.clone(), config.clone());
    world.add(replica, move |seed| {
        let set_up = |sched: &mut Loop| start_replica(sched, checks_numbers, counted.clone());
        let mut node = SimNode::new(&replica_config, replica, seed, set_up);
        node.set_neighbours(vec![primary]);
        node
    });
    world.add(primary, move |seed| {
        let mut node = SimNode::new(&config, primary, seed, |sched| start_primary(sched, STEPS));
        node.set_neighbours(vec![replica]);
        node
    });
    let mut random = SimRng::new(seed);
    for _ in 0..6 {
        world.run_for(random.span(secs(20)));
        world.partition_one_way(&[replica], &[primary]);
        // Shorter than `peer_timeout`: the session outlives it.
        world.run_for(random.span(secs(12)));
        world.heal();
    }
    world.run_until(secs(300), |_| count.get() >= STEPS);
    world.run_for(secs(20));
    count.get()
}

#[test]
fn replica_that_checks_numbers_counts_once() {
    for seed in seeds(20) {
        let _replay = Replay::new("replica_that_checks_numbers_counts_once", seed);
        assert_eq!(count_under_partitions(seed, true), STEPS);
    }
}

/// A test of a program would assert equality here, and fail with the seed to replay.
#[test]
fn some_seed_shows_double_counting() {
    let wrong = (0..20).find(|seed| count_under_partitions(*seed, false) != STEPS);
    let seed = wrong.expect("a partition in the wrong moment shows the bug");
    assert_eq!(
        count_under_partitions(seed, false),
        count_under_partitions(seed, false),
        "a seed repeats its run"
    );
}
