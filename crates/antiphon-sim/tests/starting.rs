//! Many nodes that start together, and many that come and crash.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_dist::Config;
use antiphon_sched::{millis, secs};
use antiphon_sim::{Faults, Replay, SimNode, World, seeds};

fn at(host: u16) -> SocketAddr {
    let [upper, lower] = host.to_be_bytes();
    SocketAddr::from(([10, 0, upper, lower], 9705))
}

fn config() -> Config {
    Config { secret: Some("key".into()), ..Config::default() }
}

fn world(seed: u64) -> World<SimNode> {
    World::new(seed, Faults { latency: millis(1), ..Faults::default() })
}

/// The dials that find new peers do not count towards the limit of ten a second, so the nodes do not wait for later
/// announcements.
fn start_together(test: &'static str, nodes: u16, within: Duration, seed: u64) {
    let _replay = Replay::new(test, seed);
    let mut world = world(seed);
    for host in 1..=nodes {
        world.add_node(at(host), &config(), |_| ());
    }
    let begun = world.now();
    let mut left = 1;
    world.run_until(within, |world| {
        while left <= nodes
            && world.machine(at(left)).is_some_and(|node| node.counts().online == usize::from(nodes) - 1)
        {
            left += 1;
        }
        left > nodes
    });
    println!("{nodes} nodes know each other after {:?}", world.now().since(begun));
    for host in 1..=nodes {
        let online = world.machine(at(host)).map(|node| node.counts().online);
        assert_eq!(online, Some(usize::from(nodes) - 1), "{host}");
    }
}

#[test]
fn fifty_nodes_started_together_find_each_other() {
    for seed in seeds(2) {
        start_together("fifty_nodes_started_together_find_each_other", 50, secs(1), seed);
    }
}

#[test]
fn hundred_nodes_started_together_find_each_other() {
    for seed in seeds(1) {
        start_together("hundred_nodes_started_together_find_each_other", 100, secs(2), seed);
    }
}

/// Clients that crash, or that are cut off and lost after a timeout, leave a bounded number of entries.
#[test]
fn crashed_clients_are_forgotten() {
    for seed in seeds(1) {
        let _replay = Replay::new("crashed_clients_are_forgotten", seed);
        let mut world = world(seed);
        let server = at(1);
        let config = Config { discover_peers: false, ..config() };
        world.add_node(server, &config, |_| ());
        world.run_for(millis(100));
        let config = Config { peers: vec![server.into()], ..config };
        let mut met = 0;
        for round in 0..8 {
            let clients: Vec<SocketAddr> = (0..100).map(|nth| at(1000 + round * 100 + nth)).collect();
            for client in &clients {
                world.add_node(*client, &config, |_| ());
            }
            world.run_for(millis(500));
            met += world.machine(server).map_or(0, |node| node.counts().online);
            if round % 2 == 0 {
                world.partition(&[server], &clients);
            }
            clients.iter().for_each(|client| world.take_down(*client));
            world.run_for(secs(20));
            let online = world.machine(server).map(|node| node.counts().online);
            assert_eq!(online, Some(0));
        }
        assert_eq!(met, 800);
        // The last 256 are remembered.
        let known = world.machine(server).map(|node| node.counts().peers);
        assert_eq!(known, Some(256));
    }
}
