//! Many nodes that start together.

use std::net::SocketAddr;

use antiphon_dist::Config;
use antiphon_sched::{millis, secs};
use antiphon_sim::{Faults, Replay, World, seeds};

const NODES: u8 = 40;

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 9705))
}

/// The dials that find new peers do not count towards the limit of ten a second, so the nodes do not wait for later
/// announcements.
#[test]
fn nodes_started_together_find_each_other() {
    for seed in seeds(3) {
        let _replay = Replay::new("nodes_started_together_find_each_other", seed);
        let mut world = World::new(seed, Faults { latency: millis(1), ..Faults::default() });
        let config = Config { secret: Some("key".into()), ..Config::default() };
        for host in 1..=NODES {
            world.add_node(at(host), &config, |_| ());
        }
        world.run_for(secs(1));
        for host in 1..=NODES {
            let online = world.machine(at(host)).map(|node| node.counts().online);
            assert_eq!(online, Some(usize::from(NODES) - 1), "{host}");
        }
    }
}
