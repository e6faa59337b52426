//! Sessions under cuts, half-open connections, failed dials and crashes, over many seeds. The endpoints check promises 1
//! and 2 at each message.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sim::{EndpointConfig, Faults, Replay, SessionEndpoint, World, assert_covered, seeds};
use antiphon_wire::{Limits, Suite};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Two endpoints; the first dials the second, and with `both_dial` the second also dials the first.
fn world(seed: u64, faults: Faults, config: &EndpointConfig, both_dial: bool) -> World<SessionEndpoint> {
    let mut world = World::new(seed, faults);
    let (first, second) = (at(1), at(2));
    let here = EndpointConfig { targets: vec![second], ..config.clone() };
    let there =
        EndpointConfig { targets: if both_dial { vec![first] } else { Vec::new() }, ..config.clone() };
    world.add(first, move |seed| SessionEndpoint::new(here.clone(), seed));
    world.add(second, move |seed| SessionEndpoint::new(there.clone(), seed));
    world
}

fn cuts(every_millis: u64) -> Faults {
    Faults {
        cut_every: Duration::from_millis(every_millis),
        half_open_once_in: 3,
        dial_fails_once_in: 10,
        piece_bytes_max: 3000,
        jitter: Duration::from_millis(2),
        ..Faults::default()
    }
}

/// Lets all messages arrive on a network without faults, and checks that they did. Returns the number of messages in the
/// present session.
fn settle(world: &mut World<SessionEndpoint>) -> u64 {
    world.set_faults(Faults::default());
    for host in [at(1), at(2)] {
        world.machine(host).expect("it is running").stop_sending();
    }
    world.run_for(Duration::from_secs(40));
    let (first, second) = (
        world.machine(at(1)).expect("it is running").node(),
        world.machine(at(2)).expect("it is running").node(),
    );
    let mut total = 0;
    for (host, node, peer) in [(at(1), first, second), (at(2), second, first)] {
        let other = if host == at(1) { at(2) } else { at(1) };
        assert_eq!(
            world.machine(host).expect("it is running").settled(),
            (1, 1),
            "all frames are acknowledged"
        );
        let sent =
            world.machine(host).expect("it is running").sent_to(peer).expect("the endpoints have a session");
        let received = world.machine(other).expect("it is running").received_from(node);
        // A session without messages leaves the count of the one before.
        assert!(received == sent || sent == 0, "{sent} messages were sent and {received} received");
        total += sent;
    }
    total
}

#[test]
fn session_cuts_lose_and_repeat_nothing() {
    let (mut cuts_made, mut messages) = (0, 0);
    for seed in seeds(12) {
        let _replay = Replay::new("session_cuts_lose_and_repeat_nothing", seed);
        let mut world = world(seed, cuts(50), &EndpointConfig::default(), seed % 2 == 0);
        world.run_for(Duration::from_secs(3));
        messages += settle(&mut world);
        for host in [at(1), at(2)] {
            assert_eq!(
                world.machine(host).expect("it is running").sessions_ended(),
                0,
                "the session outlives its connections"
            );
        }
        cuts_made += world.fault_counts().cuts;
    }
    assert_covered(cuts_made > 0, "no connection was cut");
    assert_covered(messages > 0, "no message was sent");
}

/// A connection is replaced after 60 records, because its keys are used up.
#[test]
fn session_small_window_and_renewal_lose_nothing() {
    let limits = Limits {
        window_bytes: 64 * 1024,
        connection_records_max: 60,
        queue_bytes_cap: 300_000,
        ..Limits::default()
    };
    let config = EndpointConfig {
        limits,
        suite: Suite::Aes128Gcm,
        large_once_in: 20,
        held_once_in: 5,
        ..EndpointConfig::default()
    };
    let mut messages = 0;
    for seed in seeds(6) {
        let _replay = Replay::new("session_small_window_and_renewal_lose_nothing", seed);
        let mut world = world(seed, cuts(100), &config, seed % 2 == 0);
        world.run_for(Duration::from_secs(2));
        messages += settle(&mut world);
    }
    assert_covered(messages > 0, "no message was sent");
}

#[test]
fn session_paused_actors_lose_and_repeat_nothing() {
    let limits = Limits { window_bytes: 64 * 1024, reassembly_bytes_max: 300_000, ..Limits::default() };
    let config = EndpointConfig {
        limits,
        send_every: Duration::from_millis(1),
        large_once_in: 6,
        held_once_in: 6,
        ..EndpointConfig::default()
    };
    let mut messages = 0;
    for seed in seeds(8) {
        let _replay = Replay::new("session_paused_actors_lose_and_repeat_nothing", seed);
        let mut world = world(seed, cuts(150), &config, seed % 2 == 0);
        world.run_for(Duration::from_secs(1));
        messages += settle(&mut world);
    }
    assert_covered(messages > 0, "no message was sent");
}

#[test]
fn session_after_crash_begins_with_new_incarnation() {
    let (mut crashes, mut ended) = (0, 0);
    for seed in seeds(12) {
        let _replay = Replay::new("session_after_crash_begins_with_new_incarnation", seed);
        let faults = Faults { crash_every: Duration::from_secs(2), ..cuts(200) };
        // An endpoint sends to a crashed incarnation until the session with it ends.
        let config = EndpointConfig { send_every: Duration::from_millis(50), ..EndpointConfig::default() };
        let mut world = world(seed, faults, &config, seed % 2 == 0);
        world.run_for(Duration::from_secs(10));
        world.set_faults(Faults::default());
        world.run_for(Duration::from_secs(2));
        // The session with a crashed incarnation ends when its timeout is over.
        world.run_for(Duration::from_secs(20));
        settle(&mut world);
        crashes += world.fault_counts().crashes;
        ended += sessions_ended(&mut world);
    }
    assert_covered(crashes > 0, "no endpoint crashed");
    assert_covered(ended > 0, "no session ended");
}

/// The sessions that ended at the running endpoints.
fn sessions_ended(world: &mut World<SessionEndpoint>) -> u64 {
    [at(1), at(2)].map(|host| world.machine(host).expect("it is running").sessions_ended()).iter().sum()
}

#[test]
fn session_lost_on_one_side_is_replaced() {
    let limits = Limits {
        ping_after: Duration::from_millis(10),
        suspect_after: Duration::from_millis(20),
        lost_after: Duration::from_millis(40),
        ..Limits::default()
    };
    let mut ended = 0;
    for seed in seeds(10) {
        let _replay = Replay::new("session_lost_on_one_side_is_replaced", seed);
        let config = EndpointConfig { limits, ..EndpointConfig::default() };
        let mut world = world(seed, cuts(30), &config, seed % 2 == 0);
        world.run_for(Duration::from_secs(3));
        settle(&mut world);
        ended += world.machine(at(1)).expect("it is running").sessions_ended();
    }
    assert_covered(ended > 0, "no session ended");
}

#[test]
fn dial_to_node_losing_sessions_succeeds_first_time() {
    let latency = Duration::from_millis(30);
    let mut ended = 0;
    for seed in seeds(6) {
        let _replay = Replay::new("dial_to_node_losing_sessions_succeeds_first_time", seed);
        let mut world = World::new(seed, Faults { latency, ..Faults::default() });
        let silent = EndpointConfig { send_every: Duration::ZERO, ..EndpointConfig::default() };
        let here = silent.clone();
        world.add(at(1), move |seed| SessionEndpoint::new(here.clone(), seed));
        // Each of these endpoints ends its session before an answer can arrive, and begins another.
        let lost_after = Duration::from_millis(40);
        let limits = Limits {
            ping_after: lost_after / 4,
            suspect_after: lost_after / 2,
            lost_after,
            ..Limits::default()
        };
        for port in 3..11 {
            let config = EndpointConfig { targets: vec![at(1)], limits, ..silent.clone() };
            world.add(at(port), move |seed| SessionEndpoint::new(config.clone(), seed));
        }
        world.run_for(Duration::from_secs(1));
        let before = world.machine(at(1)).expect("it is running").sessions_ended();
        let config = EndpointConfig { targets: vec![at(1)], ..silent };
        world.add(at(2), move |seed| SessionEndpoint::new(config.clone(), seed));
        // This is enough for a connection, two hellos and two proofs. A second attempt would take as long again.
        world.run_for(latency * 7);
        ended += world.machine(at(1)).expect("it is running").sessions_ended() - before;
        let (_, sessions) = world.machine(at(2)).expect("it is running").settled();
        assert_eq!(sessions, 1, "the first dial leads to a session");
    }
    assert_covered(ended > 3, &format!("only {ended} other sessions ended meanwhile"));
}

#[test]
fn four_endpoints_losing_sessions_all_reconnect() {
    let limits = Limits {
        ping_after: Duration::from_millis(20),
        suspect_after: Duration::from_millis(40),
        lost_after: Duration::from_millis(80),
        ..Limits::default()
    };
    let (mut crashes, mut ended) = (0, 0);
    for seed in seeds(6) {
        let _replay = Replay::new("four_endpoints_losing_sessions_all_reconnect", seed);
        let config =
            EndpointConfig { limits, send_every: Duration::from_millis(20), ..EndpointConfig::default() };
        let mut world = World::new(seed, Faults { crash_every: Duration::from_secs(1), ..cuts(10) });
        let hosts = [at(1), at(2), at(3), at(4)];
        for host in hosts {
            let targets = hosts.into_iter().filter(|other| *other != host).collect();
            let config = EndpointConfig { targets, ..config.clone() };
            world.add(host, move |seed| SessionEndpoint::new(config.clone(), seed));
        }
        world.run_for(Duration::from_secs(4));
        world.set_faults(Faults::default());
        world.run_for(Duration::from_secs(2));
        for host in hosts {
            world.machine(host).expect("it is running").stop_sending();
        }
        world.run_for(Duration::from_secs(5));
        for host in hosts {
            let endpoint = world.machine(host).expect("it is running");
            assert_eq!(endpoint.settled(), (3, 3), "each endpoint has a session with each other");
            ended += endpoint.sessions_ended();
        }
        crashes += world.fault_counts().crashes;
    }
    assert_covered(crashes > 0, "no endpoint crashed");
    assert_covered(ended > 0, "no session ended");
}

#[test]
fn session_same_seed_gives_same_trace() {
    let run = |seed| {
        let faults = Faults { crash_every: Duration::from_secs(1), ..cuts(50) };
        let config = EndpointConfig { suite: Suite::Aes128Gcm, ..EndpointConfig::default() };
        let mut world = world(seed, faults, &config, true);
        world.run_for(Duration::from_secs(2));
        world.trace()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).hash(), run(8).hash());
    assert!(run(7).events() > 1000, "the run is too short to compare");
}
