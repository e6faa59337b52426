//! Two nodes that flood each other with requests. Each withholds credit from the other while its own answers wait, so
//! answers must never wait for that credit.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_dist::{Config, Limits, Location, NetCx};
use antiphon_sched::{Addr, AskError, Bytes, Cx, Event, Loop, ReplyTo, millis, receive, secs};
use antiphon_sim::{Faults, Replay, World, assert_covered, seeds};
use serde::{Deserialize, Serialize};

/// A request for so many bytes.
#[derive(Serialize, Deserialize)]
struct Ask(u32, ReplyTo<Bytes>);
antiphon_sched::wire!(Ask, "test.floods.ask/1", compact);

enum Flood {
    Found(Addr<Ask>),
    Replied(Result<Bytes, AskError>),
}

/// The requests of each node.
const REQUESTS: usize = 4_000;

#[derive(Default)]
struct Results {
    replies: usize,
    refused: usize,
    failed: Vec<AskError>,
}

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 9705))
}

/// Spawns an actor that replies, and one that floods the other node.
fn spawn_flood(sched: &mut Loop, other: SocketAddr, reply_bytes: u32, results: Rc<RefCell<Results>>) {
    sched.spawn(|cx: &mut Cx<Ask>, event| {
        match event {
            Event::Start => cx.register("replies")?,
            Event::Message(Ask(bytes, reply)) => cx.reply(reply, Bytes::from(vec![7; bytes as usize])),
            _ => {}
        }
        receive()
    });
    sched.spawn(move |cx: &mut Cx<Flood>, event| {
        match event {
            Event::Start => {
                cx.locate_at("replies", Location::new(other), secs(60), |found| {
                    Flood::Found(found.expect("it exists"))
                });
            }
            Event::Message(Flood::Found(there)) => {
                for number in 0..REQUESTS as u32 {
                    let bytes = number * 7919 % reply_bytes;
                    cx.ask(there, secs(600), move |reply| Ask(bytes, reply), Flood::Replied);
                }
            }
            Event::Message(Flood::Replied(reply)) => match reply {
                Ok(_) => results.borrow_mut().replies += 1,
                Err(AskError::Busy | AskError::Request(_)) => results.borrow_mut().refused += 1,
                Err(reason) => results.borrow_mut().failed.push(reason),
            },
            _ => {}
        }
        receive()
    });
}

#[test]
fn nodes_flooding_each_other_both_finish() {
    let mut refused = 0;
    for seed in seeds(6) {
        let _replay = Replay::new("nodes_flooding_each_other_both_finish", seed);
        let mut world = World::new(seed, Faults { latency: millis(1), ..Faults::default() });
        let limits = Limits {
            window_bytes: 64 * 1024,
            queue_bytes_cap: if seed % 2 == 0 { 200_000 } else { 64 << 20 },
            ..Limits::default()
        };
        let config = Config { secret: Some("key".into()), limits, ..Config::default() };
        let results: [Rc<RefCell<Results>>; 2] = Default::default();
        for (host, results) in (1..).zip(&results) {
            let (results, reply_bytes) = (results.clone(), if seed % 3 == 0 { 50_000 } else { 3_000 });
            world.add_node(at(host), &config, move |sched| {
                spawn_flood(sched, at(3 - host), reply_bytes, results.clone());
            });
        }
        world.run_for(secs(120));
        for results in &results {
            let results = results.borrow();
            assert_eq!(results.failed, [], "seed {seed}");
            assert_eq!(results.replies + results.refused, REQUESTS, "seed {seed}");
            assert!(results.replies > 0);
            refused += results.refused;
        }
    }
    assert_covered(refused > 0, "a refused reply");
}
