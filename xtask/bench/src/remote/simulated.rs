//! The workloads of `ours` in the simulator: the same actors and nodes, on virtual time and a network without faults.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};

use antiphon::prelude::*;
use antiphon_sim::{Faults, SimNode, World};

use super::ours::{self, Small};
use crate::pair;

/// A virtual time that no workload reaches, in seconds.
const LIMIT_SECONDS: u64 = 3_600;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Runs two nodes, of which the second dials the first, until there is a result.
fn run<T>(
    server: impl Fn(&mut SimNode) + 'static,
    client: impl Fn(&mut SimNode) + 'static,
    results: &Receiver<T>,
) -> T {
    let config = Config { secret: Some("key".into()), discover_peers: false, ..Config::default() };
    let dials = Config { peers: vec![PeerAt::from(at(1))], ..config.clone() };
    let mut world = World::new(1, Faults::default());
    world.add(at(1), move |seed| node(&config, at(1), seed, &server));
    world.add(at(2), move |seed| node(&dials, at(2), seed, &client));
    for _ in 0..LIMIT_SECONDS {
        world.run_for(secs(1));
        if let Ok(result) = results.try_recv() {
            return result;
        }
    }
    panic!("no result after {LIMIT_SECONDS} virtual seconds");
}

fn node(config: &Config, at: SocketAddr, seed: u64, set_up: impl Fn(&mut SimNode)) -> SimNode {
    let mut node = SimNode::new(config, at, seed, |_| ());
    set_up(&mut node);
    node
}

/// Round trips, one message at a time.
pub(super) fn round_trip() -> Vec<f64> {
    let (sender, results) = channel();
    let server = |node: &mut SimNode| {
        node.sched().spawn_actor(ours::echo_server());
    };
    let client = move |node: &mut SimNode| {
        node.sched().spawn_actor(ours::echo_client(sender.clone()));
    };
    pair::percentiles(&run(server, client, &results))
}

/// Messages of three numbers, sent as fast as possible.
pub(super) fn one_way_small() -> Vec<f64> {
    let (sender, results) = channel();
    let server = |node: &mut SimNode| {
        node.sched().spawn_actor(ours::counter::<Small>());
    };
    let client = move |node: &mut SimNode| {
        node.sched().spawn_actor(ours::producer::<Small>(sender.clone()));
    };
    run(server, client, &results)
}
