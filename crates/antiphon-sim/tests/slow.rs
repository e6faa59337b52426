//! Networks so slow that a connection and its handshake take longer together than each of them may.

use std::net::SocketAddr;

use antiphon_dist::{Config, Counts, Limits, PeerAt};
use antiphon_sched::{Cx, Event, Loop, millis, receive, secs};
use antiphon_sim::{Faults, Replay, SimNode, World, seeds};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// What two nodes came to, of which one dials the other, after a minute.
fn minute_of_a_slow_network(seed: u64, limits: Limits) -> (Counts, Counts) {
    // A dial takes 2.4 s, the handshake 4.8 s more.
    let faults = Faults { latency: millis(1_200), ..Faults::default() };
    let mut world = World::new(seed, faults);
    let quiet = Config { discover_peers: false, limits, secret: Some("key".into()), ..Config::default() };
    let dials = Config { peers: vec![PeerAt::Location(at(2).into())], ..quiet.clone() };
    for (port, config) in [(1, dials), (2, quiet)] {
        world.add(at(port), move |seed| SimNode::new(&config, at(port), seed, stay));
    }
    world.run_for(secs(60));
    let mut counts = |port| world.machine(at(port)).expect("it runs").counts();
    (counts(1), counts(2))
}

fn stay(sched: &mut Loop) {
    sched.spawn(|_: &mut Cx<()>, _: Event<()>| receive());
}

#[test]
fn a_dial_and_its_handshake_have_their_time_each() {
    for seed in seeds(2) {
        let _replay = Replay::new("a_dial_and_its_handshake", seed);
        let (one, two) = minute_of_a_slow_network(seed, Limits::default());
        for counts in [one, two] {
            assert_eq!((counts.connections, counts.refused_handshakes), (1, 0), "{counts:?}");
        }
        let (one, two) =
            minute_of_a_slow_network(seed, Limits { handshake_timeout: secs(4), ..Limits::default() });
        assert_eq!((one.peers, two.peers), (0, 0), "the time is the configured one");
        assert!(one.refused_handshakes > 0 && two.refused_handshakes > 0, "{one:?} {two:?}");
    }
}
