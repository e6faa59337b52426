//! Connect requests to a host while the datagrams of its probe are lost and duplicated, over many seeds.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use antiphon_dist::{Config, Location, NetCx, PeerError, PeerOptions};
use antiphon_sched::{Cx, Event, Loop, Time, millis, receive, receive_within, secs};
use antiphon_sim::{Faults, Replay, SimNode, World, assert_covered, seeds};

type Answer = Result<Vec<Location>, PeerError>;
type Answers = Rc<RefCell<Vec<(Time, Answer)>>>;

const HERE: [u8; 4] = [127, 0, 0, 9];
const THERE: [u8; 4] = [127, 0, 0, 1];

fn config() -> Config {
    Config { secret: Some("key".into()), ..Config::default() }
}

/// Spawns an actor that requests connections to all nodes on the host `THERE`, 20 s after its start.
fn requester(sched: &mut Loop, udp_port: u16, timeout: Duration, answers: &Answers) {
    let answers = answers.clone();
    sched.spawn(move |cx: &mut Cx<Answer>, event| match event {
        Event::Start => receive_within(secs(20)),
        Event::Timeout => {
            let options = PeerOptions { udp_port: Some(udp_port), ..PeerOptions::default() };
            cx.peer_with(std::net::IpAddr::from(THERE), options, timeout, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            answers.borrow_mut().push((cx.now(), answer));
            receive()
        }
        _ => receive(),
    });
}

fn world(seed: u64, faults: Faults, udp_port: u16, timeout: Duration) -> (World<SimNode>, Answers) {
    let mut world = World::new(seed, faults);
    let there: Vec<SocketAddr> = (1..=3).map(|port| SocketAddr::from((THERE, port))).collect();
    for at in there.clone() {
        let neighbours = there.clone();
        world.add(at, move |seed| {
            let mut node = SimNode::new(&config(), at, seed, |_| ());
            node.set_neighbours(neighbours.clone());
            node
        });
    }
    let (answers, at) = (Answers::default(), SocketAddr::from((HERE, 9)));
    let results = answers.clone();
    world.add(at, move |seed| {
        SimNode::new(&config(), at, seed, |sched| requester(sched, udp_port, timeout, &results))
    });
    (world, answers)
}

#[test]
fn connect_request_datagram_loss_finds_all_nodes() {
    let mut slowest = Time::ZERO;
    for seed in seeds(40) {
        let _replay = Replay::new("connect_request_datagram_loss_finds_all_nodes", seed);
        let faults = Faults { datagram_lost_once_in: 2, latency: millis(20), ..Faults::default() };
        let (mut world, answers) = world(seed, faults, 1, secs(60));
        world.run_for(secs(90));
        let answers = answers.borrow();
        let [(answered_at, Ok(found))] = &answers[..] else {
            panic!("the request did not succeed once: {answers:?}")
        };
        let all: Vec<Location> = (1..=3).map(|port| SocketAddr::from((THERE, port)).into()).collect();
        assert_eq!(*found, all);
        slowest = slowest.max(*answered_at);
    }
    // Without losses the answer arrives 410 ms after the request.
    assert_covered(slowest.since(Time::ZERO) > secs(20) + millis(500), "no datagram had to be repeated");
}

#[test]
fn connect_request_unused_port_times_out() {
    let (mut world, answers) = world(1, Faults::default(), 77, secs(3));
    world.run_for(secs(60));
    let answers = answers.borrow();
    let [(at, Err(PeerError::NoAnswer))] = answers[..] else { panic!("{answers:?}") };
    assert!((secs(23)..secs(23) + millis(10)).contains(&at.since(Time::ZERO)), "{at:?}");
}
