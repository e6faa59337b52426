//! Sessions under cuts, half-open connections, failed dials and crashes: promises 1 and 2, over many seeds.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_sim::{EndpointConfig, Faults, Replay, SessionEndpoint, World, seeds};
use antiphon_wire::{Limits, Suite};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Two endpoints that both dial each other, or only the first.
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

/// Lets everything that was sent arrive, over a sound network, and checks that it did.
fn settle(world: &mut World<SessionEndpoint>) {
    world.set_faults(Faults::default());
    for host in [at(1), at(2)] {
        world.machine(host).expect("it runs").be_silent();
    }
    world.run_for(Duration::from_secs(40));
    let (first, second) =
        (world.machine(at(1)).expect("it runs").node(), world.machine(at(2)).expect("it runs").node());
    for (host, node, peer) in [(at(1), first, second), (at(2), second, first)] {
        let other = if host == at(1) { at(2) } else { at(1) };
        assert_eq!(world.machine(host).expect("it runs").settled(), (1, 1), "all frames are acknowledged");
        let sent = world.machine(host).expect("it runs").sent_to(peer).expect("they have a session");
        let heard = world.machine(other).expect("it runs").heard_from(node);
        assert!(heard == sent || sent == 0, "everything sent was heard: {sent} sent, {heard} heard");
    }
}

#[test]
fn cuts_in_the_middle_of_records_lose_and_repeat_nothing() {
    let mut all = 0;
    for seed in seeds(12) {
        let _replay = Replay::new("cuts_in_the_middle_of_records", seed);
        let mut world = world(seed, cuts(50), &EndpointConfig::default(), seed % 2 == 0);
        world.run_for(Duration::from_secs(3));
        settle(&mut world);
        for host in [at(1), at(2)] {
            assert_eq!(
                world.machine(host).expect("it runs").sessions_ended(),
                0,
                "the session outlives its connections"
            );
        }
        all += world.faults_so_far().0;
    }
    assert!(all > 0, "connections were cut");
}

#[test]
fn a_small_window_and_worn_keys_change_nothing() {
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
        parks_once_in: 5,
        ..EndpointConfig::default()
    };
    for seed in seeds(6) {
        let _replay = Replay::new("a_small_window", seed);
        let mut world = world(seed, cuts(100), &config, seed % 2 == 0);
        world.run_for(Duration::from_secs(2));
        settle(&mut world);
    }
}

#[test]
fn actors_that_are_paused_now_and_then_lose_and_repeat_nothing() {
    let limits = Limits { window_bytes: 64 * 1024, reassembly_bytes_max: 300_000, ..Limits::default() };
    let config = EndpointConfig {
        limits,
        speaks_every: Duration::from_millis(1),
        large_once_in: 6,
        parks_once_in: 6,
        ..EndpointConfig::default()
    };
    for seed in seeds(8) {
        let _replay = Replay::new("actors_that_are_paused", seed);
        let mut world = world(seed, cuts(150), &config, seed % 2 == 0);
        world.run_for(Duration::from_secs(1));
        settle(&mut world);
    }
}

#[test]
fn crashes_end_sessions_and_the_next_incarnation_begins_anew() {
    for seed in seeds(12) {
        let _replay = Replay::new("crashes_end_sessions", seed);
        let faults = Faults { crash_every: Duration::from_secs(2), ..cuts(200) };
        // An endpoint speaks to the incarnations that crashed until they are lost.
        let config = EndpointConfig { speaks_every: Duration::from_millis(50), ..EndpointConfig::default() };
        let mut world = world(seed, faults, &config, seed % 2 == 0);
        world.run_for(Duration::from_secs(10));
        world.set_faults(Faults::default());
        world.run_for(Duration::from_secs(2));
        // The session with an incarnation that crashed is lost in its own time.
        world.run_for(Duration::from_secs(20));
        settle(&mut world);
    }
}

#[test]
fn losses_of_a_session_on_one_side_only_are_found_out() {
    let limits = Limits {
        ping_after: Duration::from_millis(10),
        suspect_after: Duration::from_millis(20),
        lost_after: Duration::from_millis(40),
        ..Limits::default()
    };
    let mut ended = 0;
    for seed in seeds(10) {
        let _replay = Replay::new("losses_of_a_session", seed);
        let config = EndpointConfig { limits, ..EndpointConfig::default() };
        let mut world = world(seed, cuts(30), &config, seed % 2 == 0);
        world.run_for(Duration::from_secs(3));
        settle(&mut world);
        ended += world.machine(at(1)).expect("it runs").sessions_ended();
    }
    assert!(ended > 0, "sessions were lost");
}

#[test]
fn a_node_that_loses_others_all_the_time_is_met_by_the_first_dial() {
    let latency = Duration::from_millis(30);
    for seed in seeds(6) {
        let _replay = Replay::new("a_node_that_loses_others", seed);
        let mut world = World::new(seed, Faults { latency, ..Faults::default() });
        let quiet = EndpointConfig { speaks_every: Duration::ZERO, ..EndpointConfig::default() };
        let here = quiet.clone();
        world.add(at(1), move |seed| SessionEndpoint::new(here.clone(), seed));
        // Each of them gives its session up before a word can have come back, and begins another.
        let lost_after = Duration::from_millis(40);
        let limits = Limits {
            ping_after: lost_after / 4,
            suspect_after: lost_after / 2,
            lost_after,
            ..Limits::default()
        };
        for port in 3..11 {
            let config = EndpointConfig { targets: vec![at(1)], limits, ..quiet.clone() };
            world.add(at(port), move |seed| SessionEndpoint::new(config.clone(), seed));
        }
        world.run_for(Duration::from_secs(1));
        let before = world.machine(at(1)).expect("it runs").sessions_ended();
        let config = EndpointConfig { targets: vec![at(1)], ..quiet };
        world.add(at(2), move |seed| SessionEndpoint::new(config.clone(), seed));
        // A connection, two hellos and two proofs; a second attempt would take as long again.
        world.run_for(latency * 7);
        let ended = world.machine(at(1)).expect("it runs").sessions_ended() - before;
        assert!(ended > 3, "{ended} sessions ended meanwhile");
        let (_, sessions) = world.machine(at(2)).expect("it runs").settled();
        assert_eq!(sessions, 1, "they have met");
    }
}

#[test]
fn four_endpoints_that_lose_each_other_keep_their_sessions_apart() {
    let limits = Limits {
        ping_after: Duration::from_millis(20),
        suspect_after: Duration::from_millis(40),
        lost_after: Duration::from_millis(80),
        ..Limits::default()
    };
    for seed in seeds(6) {
        let _replay = Replay::new("four_endpoints", seed);
        let config =
            EndpointConfig { limits, speaks_every: Duration::from_millis(20), ..EndpointConfig::default() };
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
            world.machine(host).expect("it runs").be_silent();
        }
        world.run_for(Duration::from_secs(5));
        for host in hosts {
            assert_eq!(
                world.machine(host).expect("it runs").settled(),
                (3, 3),
                "everybody has met everybody"
            );
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let run = |seed| {
        let faults = Faults { crash_every: Duration::from_secs(1), ..cuts(50) };
        let config = EndpointConfig { suite: Suite::Aes128Gcm, ..EndpointConfig::default() };
        let mut world = world(seed, faults, &config, true);
        world.run_for(Duration::from_secs(2));
        world.trace()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).hash(), run(8).hash());
    assert!(run(7).events() > 1000);
}
