//! Probes and announcements that a node receives. The tests use the node core alone, so datagrams can have any source
//! address.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_dist::node::{Driver, Input, NodeCore, Output};
use antiphon_dist::{Config, Location, NetCx, PeerError, Secret};
use antiphon_sched::{Cx, Event, LocalActors, Loop, LoopConfig, Platform, Time, receive, secs};
use antiphon_wire::{Datagram, DatagramKey, Entropy, Locations, NodeId, Presence, Probe, ProbeReply, Route};

struct TestDriver {
    sched: Loop,
    outputs: Vec<Output>,
}

impl Driver for TestDriver {
    fn local(&mut self) -> LocalActors<'_> {
        self.sched.local_actors()
    }

    fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    fn entropy(&mut self) -> Option<Entropy> {
        None
    }
}

/// A node core with a simulated driver, which receives the datagrams of a test.
struct ProbedNode {
    core: NodeCore,
    driver: TestDriver,
    now: Duration,
}

const SECRET: &str = "a secret of this test";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl ProbedNode {
    fn new(config: Config, location: &str) -> Self {
        let sched = loop_of_tests();
        let core = core_of(&sched, config, location);
        Self { core, driver: TestDriver { sched, outputs: Vec::new() }, now: Duration::ZERO }
    }

    /// Passes a datagram to the core, and returns the outputs.
    fn handle(&mut self, from: &str, bytes: &[u8]) -> Vec<Output> {
        let now = Time::ZERO + self.now;
        self.core.handle(now, Input::Datagram(at(from), bytes), &mut self.driver);
        std::mem::take(&mut self.driver.outputs)
    }

    fn probe(&mut self, from: &str, reply_to: Option<&str>) -> Vec<Output> {
        self.handle(from, &probe(reply_to))
    }
}

fn loop_of_tests() -> Loop {
    let scheduler = LoopConfig { platform: Platform::Virtual, watchdog: None, ..LoopConfig::default() };
    Loop::new(scheduler).expect("a virtual loop opens no system resources")
}

fn core_of(sched: &Loop, config: Config, location: &str) -> NodeCore {
    let config = Config { secret: Some(Secret::from(SECRET)), ..config };
    let networks = ["10.0.0.0/24", "127.0.0.0/24"].map(|network| network.parse().expect("a network"));
    let core = NodeCore::simulated(&config, sched.node_id(), Location::new(at(location)), networks.to_vec());
    core.expect("the configuration is valid")
}

fn sealed(datagram: &Datagram<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let key = DatagramKey::new(0, &Secret::from(SECRET));
    datagram.encode(Some(&key), &mut bytes).expect("the datagram is small");
    bytes
}

fn probe(reply_to: Option<&str>) -> Vec<u8> {
    let from = Presence { node: NodeId::from_bits(9), name: "asker", locations: Locations::NONE };
    sealed(&Datagram::Probe(Probe { from, reply_to: reply_to.map(at) }))
}

#[test]
fn probe_is_answered_and_repeated_to_siblings() {
    let mut node = ProbedNode::new(Config::default(), "10.0.0.1:7000");
    let outputs = node.probe("10.9.9.9:555", None);
    let [Output::Siblings(repeated), Output::Datagram(to, reply)] = &outputs[..] else {
        panic!("expected one repeated probe and one reply: {outputs:?}");
    };
    assert_eq!(*to, at("10.9.9.9:555"));
    assert!(reply.len() <= probe(None).len());
    assert_eq!(repeated, &probe(Some("10.9.9.9:555")));
    // A sibling that receives the repeated probe replies to it and does not repeat it.
    let mut sibling = ProbedNode::new(Config::default(), "10.0.0.1:7001");
    let outputs = sibling.handle("127.0.0.1:51350", repeated);
    assert!(matches!(&outputs[..], [Output::Datagram(to, _)] if *to == at("10.9.9.9:555")), "{outputs:?}");
}

#[test]
fn probe_reply_address_requires_sibling() {
    let mut node = ProbedNode::new(Config::default(), "10.0.0.1:7000");
    assert_eq!(
        node.probe("10.0.0.2:51350", Some("10.0.0.3:80")),
        [],
        "a reply address from another host is ignored"
    );
    assert_eq!(node.core.counts().refused_datagrams, 1);
    assert_eq!(node.probe("10.0.0.1:51350", Some("10.0.0.3:80")).len(), 1);
}

#[test]
fn loopback_node_replies_only_to_loopback() {
    let mut node = ProbedNode::new(Config::default(), "127.0.0.1:7000");
    assert_eq!(node.probe("127.0.0.1:51350", Some("10.0.0.3:80")), []);
    assert_eq!(node.probe("127.0.0.1:51350", Some("127.0.0.1:80")).len(), 1);
}

#[test]
fn probe_ignored_or_without_discovery_gets_no_reply() {
    let mut undiscoverable =
        ProbedNode::new(Config { discover_peers: false, ..Config::default() }, "10.0.0.1:7000");
    assert_eq!(undiscoverable.probe("10.0.0.2:555", None), []);
    let ignoring = Config { ignore_peers: vec![at("10.0.0.2:0").ip()], ..Config::default() };
    let mut ignoring = ProbedNode::new(ignoring, "10.0.0.1:7000");
    assert_eq!(ignoring.probe("10.0.0.2:555", None), []);
    assert_eq!(ignoring.probe("127.0.0.1:51350", Some("10.0.0.2:555")), []);
}

#[test]
fn replayed_probes_get_limited_replies() {
    let mut node = ProbedNode::new(Config::default(), "10.0.0.1:7000");
    let mut replies = 0;
    let mut count = |outputs: Vec<Output>| {
        replies += outputs.iter().filter(|output| matches!(output, Output::Datagram(..))).count();
    };
    // Within one second, probes with 1,000 forged source ports, and 1,000 probes with the same forged source.
    for hit in 0..1_000 {
        node.now = Duration::from_millis(hit);
        count(node.probe("10.9.9.9:555", None));
        count(node.probe(&format!("10.9.9.9:{}", 1_000 + hit), None));
    }
    assert!((64..=64 + 20).contains(&replies), "{replies} replies");
}

#[test]
fn unrequested_probe_reply_causes_no_dial() {
    let mut node = ProbedNode::new(Config::default(), "127.0.0.1:7000");
    let locations = [at("127.0.0.2:7000")];
    let from =
        Presence { node: NodeId::from_bits(9), name: "forged", locations: Locations::Plain(&locations) };
    let reply = sealed(&Datagram::ProbeReply(ProbeReply { from, siblings: Route::NONE }));
    assert_eq!(node.handle("127.0.0.2:51350", &reply), []);
    let announce = sealed(&Datagram::Announce(from));
    assert_eq!(
        node.handle("127.0.0.2:51350", &announce).len(),
        1,
        "an announcement of the same locations causes a dial"
    );
}

#[test]
fn announcement_dials_source_or_allowed_location() {
    let announced = [at("127.0.0.5:7000"), at("127.0.0.2:7000"), at("127.1.0.2:7000")];
    let dialled = |locations: &[SocketAddr]| {
        let from =
            Presence { node: NodeId::from_bits(9), name: "nine", locations: Locations::Plain(locations) };
        let bytes = sealed(&Datagram::Announce(from));
        match ProbedNode::new(Config::default(), "127.0.0.1:7000").handle("127.0.0.2:51350", &bytes)[..] {
            [Output::Dial(_, to)] => Some(to),
            _ => None,
        }
    };
    assert_eq!(dialled(&announced), Some(announced[1]));
    assert_eq!(dialled(&[announced[2], announced[0]]), Some(announced[0]));
    assert_eq!(dialled(&[announced[2]]), None, "the network is not allowed");
    assert_eq!(dialled(&[at("127.0.0.1:7000")]), None, "a node does not dial itself");
}

/// Opens a connect request to a host in an actor of the node, and returns the outputs.
fn connect(node: &mut ProbedNode, host: &str) -> Vec<Output> {
    let host = at(host).ip();
    let mut sched = std::mem::replace(&mut node.driver.sched, loop_of_tests());
    sched.set_transport(Box::new(std::mem::replace(
        &mut node.core,
        core_of(&sched, Config::default(), "127.0.0.1:1"),
    )));
    sched.spawn(move |cx: &mut Cx<Result<Vec<Location>, PeerError>>, event| {
        if matches!(event, Event::Start) {
            cx.peer(host, secs(60), |found| found);
        }
        receive()
    });
    sched.work();
    let of_loop = sched.with_transport(|core: &mut NodeCore, _| {
        std::mem::replace(core, core_of(&loop_of_tests(), Config::default(), "127.0.0.1:1"))
    });
    node.core = of_loop.expect("the transport was set above");
    node.driver.sched = sched;
    node.core.handle(Time::ZERO + node.now, Input::Tick, &mut node.driver);
    std::mem::take(&mut node.driver.outputs)
}

#[test]
fn probe_replies_dial_bounded_locations_of_host() {
    let mut node = ProbedNode::new(Config::default(), "127.0.0.1:7000");
    let outputs = connect(&mut node, "127.9.0.2:0");
    assert!(matches!(&outputs[..], [Output::Ask(to, _)] if *to == at("127.9.0.2:51350")), "{outputs:?}");
    let mut dialled = Vec::new();
    for number in 0..1_000 {
        let locations = [at("127.8.0.8:7"), SocketAddr::new(at("127.9.0.2:0").ip(), 1_000 + number)];
        let from = Presence {
            node: NodeId::from_bits(number.into()),
            name: "many",
            locations: Locations::Plain(&locations),
        };
        let reply = sealed(&Datagram::ProbeReply(ProbeReply { from, siblings: Route::NONE }));
        let outputs = node.handle("127.9.0.2:51350", &reply);
        dialled.extend(outputs.into_iter().map(|output| match output {
            Output::Dial(_, to) => to,
            other => panic!("{other:?}"),
        }));
        assert_eq!(node.handle("127.9.0.3:51350", &reply), [], "a reply from another host is ignored");
    }
    assert_eq!(dialled.len(), 256);
    assert!(
        dialled.iter().all(|to| to.ip() == at("127.9.0.2:0").ip()),
        "only locations of the probed host are dialled"
    );
}
