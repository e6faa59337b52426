//! A network so slow that a dial and its handshake together take longer than the timeout of either.

use std::net::SocketAddr;

use antiphon_dist::{Config, Counts, Limits, PeerAt};
use antiphon_sched::{Cx, Event, Loop, millis, receive, secs};
use antiphon_sim::{Faults, Replay, SimNode, World, assert_covered, seeds};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The counters of two nodes, of which the first dials the second, after a minute on a slow network.
fn counts_after_a_minute(seed: u64, limits: Limits) -> (Counts, Counts) {
    // A dial takes 2.4 s, the handshake 4.8 s more.
    let faults = Faults { latency: millis(1_200), ..Faults::default() };
    let mut world = World::new(seed, faults);
    let config = Config { discover_peers: false, limits, secret: Some("key".into()), ..Config::default() };
    let dials = Config { peers: vec![PeerAt::Location(at(2).into())], ..config.clone() };
    for (port, config) in [(1, dials), (2, config)] {
        world.add(at(port), move |seed| SimNode::new(&config, at(port), seed, keep_running));
    }
    world.run_for(secs(60));
    let mut counts = |port| world.machine(at(port)).expect("it is running").counts();
    (counts(1), counts(2))
}

/// Spawns an actor that does nothing, so that the loop keeps running.
fn keep_running(sched: &mut Loop) {
    sched.spawn(|_: &mut Cx<()>, _: Event<()>| receive());
}

#[test]
fn dial_and_handshake_have_separate_timeouts() {
    let mut timed_out_at_dialler = 0;
    for seed in seeds(2) {
        let _replay = Replay::new("dial_and_handshake_have_separate_timeouts", seed);
        let (one, two) = counts_after_a_minute(seed, Limits::default());
        for counts in [one, two] {
            assert_eq!((counts.connections, counts.refused_handshakes), (1, 0), "{counts:?}");
        }
        let (one, two) =
            counts_after_a_minute(seed, Limits { handshake_timeout: secs(4), ..Limits::default() });
        assert_eq!((one.peers, two.peers), (0, 0), "a handshake timeout of 4 s is too short here");
        // The accepting node began to wait 1.2 s before the dialling one. So its close arrives at the same time as the
        // timeout of the dialling node, and the jitter decides which of them is first.
        assert!(two.refused_handshakes > 0, "{one:?} {two:?}");
        timed_out_at_dialler += one.refused_handshakes;
    }
    assert_covered(timed_out_at_dialler > 0, "no handshake timed out at the dialling node");
}
