//! Partitions between nodes that are at addresses of a real network: short ones lose nothing, long ones end the session, and
//! the nodes find each other again.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Config, NetCx, PeerStatus, Status};
use antiphon_sched::{Addr, Cx, Event, Loop, millis, receive, secs};
use antiphon_sim::{Faults, Replay, SimNode, World, seeds};

/// The simulated network is none of this machine: any address works.
const HOSTS: [[u8; 4]; 2] = [[10, 0, 0, 1], [10, 0, 0, 2]];

fn at(host: usize) -> SocketAddr {
    SocketAddr::from((HOSTS[host], 9705))
}

#[derive(Default)]
struct Observed {
    received: Vec<u64>,
    /// The statuses that each node has seen of the other.
    statuses: [Vec<Status>; 2],
}

type Shared = Rc<RefCell<Observed>>;

fn set_up(sched: &mut Loop, host: usize, observed: &Shared) {
    let seen = observed.clone();
    sched.spawn(move |cx: &mut Cx<PeerStatus>, event| {
        match event {
            Event::Start => drop(cx.peer_status(|status| status)?),
            Event::Message(peer) => seen.borrow_mut().statuses[host].push(peer.status),
            _ => {}
        }
        receive()
    });
    if host == 0 {
        let observed = observed.clone();
        sched.spawn(move |cx: &mut Cx<u64>, event| {
            match event {
                Event::Start => cx.register("sink")?,
                Event::Message(number) => observed.borrow_mut().received.push(number),
                _ => {}
            }
            receive()
        });
    } else {
        sched.spawn(|cx: &mut Cx<Option<Addr<u64>>>, event| {
            match event {
                Event::Start => cx.locate("sink", secs(600), Result::ok),
                Event::Message(found) => {
                    let sink = found.ok_or("no sink")?;
                    let mut number = 0;
                    cx.spawn(move |cx: &mut Cx<()>, event| {
                        match event {
                            Event::Start => drop(cx.every(millis(10), || ())?),
                            Event::Message(()) => {
                                number += 1;
                                cx.tell(sink, number);
                            }
                            _ => {}
                        }
                        receive()
                    });
                }
                _ => {}
            }
            receive()
        });
    }
}

fn world(seed: u64) -> (World<SimNode>, Shared) {
    let observed = Shared::default();
    let mut world = World::new(seed, Faults { jitter: millis(1), ..Faults::default() });
    let config = Config { secret: Some("key".into()), ..Config::default() };
    for host in 0..2 {
        let (config, observed) = (config.clone(), observed.clone());
        world.add(at(host), move |seed| {
            let mut node = SimNode::new(&config, at(host), seed, |sched| set_up(sched, host, &observed));
            node.set_neighbours(vec![at(0), at(1)]);
            node
        });
    }
    world.run_for(secs(5));
    (world, observed)
}

#[test]
fn short_partition_loses_no_message() {
    for seed in seeds(5) {
        let _replay = Replay::new("short_partition_loses_no_message", seed);
        let (mut world, observed) = world(seed);
        let before = observed.borrow().received.len();
        assert!(before > 100, "the nodes have found each other");
        world.partition(&[at(0)], &[at(1)]);
        world.run_for(secs(8));
        assert_eq!(observed.borrow().received.len(), before, "nothing arrives");
        world.heal();
        world.run_for(secs(5));
        let observed = observed.borrow();
        assert!(observed.received.iter().copied().eq(1..=observed.received.len() as u64), "nothing is lost");
        assert!(observed.received.len() > before + 1200, "{}", observed.received.len());
        for statuses in &observed.statuses {
            assert!(
                !statuses.contains(&Status::Offline) && statuses.contains(&Status::Suspect),
                "{statuses:?}"
            );
        }
    }
}

#[test]
fn long_partition_ends_session_and_heals() {
    for (seed, one_way) in seeds(5).flat_map(|seed| [(seed, false), (seed, true)]) {
        let _replay = Replay::new("long_partition_ends_session_and_heals", seed);
        let (mut world, observed) = world(seed);
        if one_way {
            world.partition_one_way(&[at(0)], &[at(1)]);
        } else {
            world.partition(&[at(0)], &[at(1)]);
        }
        world.run_for(secs(40));
        let lost = |statuses: &[Status]| statuses.contains(&Status::Offline);
        assert!(lost(&observed.borrow().statuses[1]), "{:?}", observed.borrow().statuses);
        assert!(one_way || lost(&observed.borrow().statuses[0]));
        world.heal();
        world.run_for(secs(30));
        for statuses in &observed.borrow().statuses {
            assert_eq!(statuses.last(), Some(&Status::Online), "{statuses:?}");
        }
    }
}
