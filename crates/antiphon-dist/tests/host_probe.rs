//! What a node does with datagrams that ask who is there: by the core alone, so that they can come from anywhere.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_dist::node::{Driver, Input, NodeCore, Output};
use antiphon_dist::{Config, Location, NetCx, PeerError, Secret};
use antiphon_sched::{Cx, Event, Loop, LoopConfig, LoopRef, Park, Time, receive, secs};
use antiphon_wire::{Datagram, DatagramKey, Entropy, Locations, NodeId, Presence, Probe, ProbeReply, Route};

struct TestDriver {
    sched: Loop,
    outputs: Vec<Output>,
}

impl Driver for TestDriver {
    fn loop_ref(&mut self) -> LoopRef<'_> {
        self.sched.loop_ref()
    }

    fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    fn entropy(&mut self) -> Option<Entropy> {
        None
    }
}

struct Asked {
    core: NodeCore,
    driver: TestDriver,
    now: Duration,
}

const SECRET: &str = "a secret of this test";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Asked {
    fn new(config: Config, location: &str) -> Self {
        let sched = loop_of_tests();
        let core = core_of(&sched, config, location);
        Self { core, driver: TestDriver { sched, outputs: Vec::new() }, now: Duration::ZERO }
    }

    fn hear(&mut self, from: &str, bytes: &[u8]) -> Vec<Output> {
        let now = Time::ZERO + self.now;
        self.core.handle(now, Input::Datagram(at(from), bytes), &mut self.driver);
        std::mem::take(&mut self.driver.outputs)
    }

    fn probe(&mut self, from: &str, reply_to: Option<&str>) -> Vec<Output> {
        self.hear(from, &probe(reply_to))
    }
}

fn loop_of_tests() -> Loop {
    let scheduler = LoopConfig { park: Park::Virtual, watchdog: None, ..LoopConfig::default() };
    Loop::new(scheduler).expect("a virtual loop needs nothing")
}

fn core_of(sched: &Loop, config: Config, location: &str) -> NodeCore {
    let config = Config { secret: Some(Secret::from(SECRET)), ..config };
    let networks = vec![(at("10.0.0.0:0").ip(), 24), (at("127.0.0.0:0").ip(), 24)];
    let core = NodeCore::simulated(&config, sched.node_id(), Location::new(at(location)), networks);
    core.expect("a sound configuration")
}

fn sealed(datagram: &Datagram<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let key = DatagramKey::new(0, &Secret::from(SECRET));
    datagram.encode(Some(&key), &mut bytes).expect("small");
    bytes
}

fn probe(reply_to: Option<&str>) -> Vec<u8> {
    let from = Presence { node: NodeId(9), name: "asker", locations: Locations::NONE };
    sealed(&Datagram::Probe(Probe { from, reply_to: reply_to.map(at) }))
}

#[test]
fn a_question_is_answered_where_it_came_from_and_repeated_within_the_host() {
    let mut asked = Asked::new(Config::default(), "10.0.0.1:7000");
    let outputs = asked.probe("10.9.9.9:555", None);
    let [Output::Siblings(repeated), Output::Datagram(to, answer)] = &outputs[..] else {
        panic!("one repetition, one answer: {outputs:?}");
    };
    assert_eq!(*to, at("10.9.9.9:555"));
    assert!(answer.len() <= probe(None).len());
    assert_eq!(repeated, &probe(Some("10.9.9.9:555")));
    // A sibling hears that, and answers; it repeats nothing.
    let mut sibling = Asked::new(Config::default(), "10.0.0.1:7001");
    let outputs = sibling.hear("127.0.0.1:51350", repeated);
    assert!(matches!(&outputs[..], [Output::Datagram(to, _)] if *to == at("10.9.9.9:555")), "{outputs:?}");
}

#[test]
fn only_a_sibling_says_where_a_question_came_from() {
    let mut asked = Asked::new(Config::default(), "10.0.0.1:7000");
    assert_eq!(asked.probe("10.0.0.2:51350", Some("10.0.0.3:80")), [], "a third party is not sent answers");
    assert_eq!(asked.core.counts().refused_datagrams, 1);
    assert_eq!(asked.probe("10.0.0.1:51350", Some("10.0.0.3:80")).len(), 1);
}

#[test]
fn a_node_on_loopback_answers_nobody_elsewhere() {
    let mut asked = Asked::new(Config::default(), "127.0.0.1:7000");
    assert_eq!(asked.probe("127.0.0.1:51350", Some("10.0.0.3:80")), []);
    assert_eq!(asked.probe("127.0.0.1:51350", Some("127.0.0.1:80")).len(), 1);
}

#[test]
fn a_node_without_discovery_or_that_ignores_the_asker_does_not_answer() {
    let mut quiet = Asked::new(Config { discover_peers: false, ..Config::default() }, "10.0.0.1:7000");
    assert_eq!(quiet.probe("10.0.0.2:555", None), []);
    let ignoring = Config { ignore_peers: vec![at("10.0.0.2:0").ip()], ..Config::default() };
    let mut ignoring = Asked::new(ignoring, "10.0.0.1:7000");
    assert_eq!(ignoring.probe("10.0.0.2:555", None), []);
    assert_eq!(ignoring.probe("127.0.0.1:51350", Some("10.0.0.2:555")), []);
}

#[test]
fn questions_repeated_by_whoever_recorded_one_are_answered_a_few_times() {
    let mut asked = Asked::new(Config::default(), "10.0.0.1:7000");
    let mut answers = 0;
    let mut count = |outputs: Vec<Output>| {
        answers += outputs.iter().filter(|output| matches!(output, Output::Datagram(..))).count();
    };
    // One second: one victim at each of 1,000 ports, and one that is hit all the time.
    for hit in 0..1_000 {
        asked.now = Duration::from_millis(hit);
        count(asked.probe("10.9.9.9:555", None));
        count(asked.probe(&format!("10.9.9.9:{}", 1_000 + hit), None));
    }
    assert!((64..=64 + 20).contains(&answers), "{answers} answers");
}

#[test]
fn answers_that_nobody_asked_for_cause_no_dial() {
    let mut asked = Asked::new(Config::default(), "127.0.0.1:7000");
    let locations = [at("127.0.0.2:7000")];
    let from = Presence { node: NodeId(9), name: "liar", locations: Locations::Plain(&locations) };
    let answer = sealed(&Datagram::ProbeReply(ProbeReply { from, siblings: Route::NONE }));
    assert_eq!(asked.hear("127.0.0.2:51350", &answer), []);
    let announce = sealed(&Datagram::Announce(from));
    assert_eq!(asked.hear("127.0.0.2:51350", &announce).len(), 1, "an announcement of the same does");
}

#[test]
fn an_announcement_is_dialled_at_the_address_that_it_came_from_and_only_where_that_is_allowed() {
    let told = [at("127.0.0.5:7000"), at("127.0.0.2:7000"), at("127.1.0.2:7000")];
    let dialled = |locations: &[SocketAddr]| {
        let from = Presence { node: NodeId(9), name: "nine", locations: Locations::Plain(locations) };
        let bytes = sealed(&Datagram::Announce(from));
        match Asked::new(Config::default(), "127.0.0.1:7000").hear("127.0.0.2:51350", &bytes)[..] {
            [Output::Dial(_, to)] => Some(to),
            _ => None,
        }
    };
    assert_eq!(dialled(&told), Some(told[1]));
    assert_eq!(dialled(&[told[2], told[0]]), Some(told[0]));
    assert_eq!(dialled(&[told[2]]), None, "that network is not allowed");
    assert_eq!(dialled(&[at("127.0.0.1:7000")]), None, "that is itself");
}

/// Has an actor of the node's contact a host, and answers what the node sends.
fn contact(asked: &mut Asked, host: &str) -> Vec<Output> {
    let host = at(host).ip();
    let mut sched = std::mem::replace(&mut asked.driver.sched, loop_of_tests());
    sched.set_transport(Box::new(std::mem::replace(
        &mut asked.core,
        core_of(&sched, Config::default(), "127.0.0.1:1"),
    )));
    sched.spawn(move |cx: &mut Cx<Result<Vec<Location>, PeerError>>, event| {
        if matches!(event, Event::Start) {
            cx.peer(host, secs(60), |answer| answer);
        }
        receive()
    });
    sched.work();
    asked.core = *sched.take_transport::<NodeCore>().expect("it was put there");
    asked.driver.sched = sched;
    asked.core.handle(Time::ZERO + asked.now, Input::Tick, &mut asked.driver);
    std::mem::take(&mut asked.driver.outputs)
}

#[test]
fn a_host_that_is_asked_causes_dials_of_its_own_nodes_and_not_too_many() {
    let mut asking = Asked::new(Config::default(), "127.0.0.1:7000");
    let outputs = contact(&mut asking, "127.9.0.2:0");
    assert!(matches!(&outputs[..], [Output::Ask(to, _)] if *to == at("127.9.0.2:51350")), "{outputs:?}");
    let mut dialled = Vec::new();
    for number in 0..1_000 {
        let locations = [at("127.8.0.8:7"), SocketAddr::new(at("127.9.0.2:0").ip(), 1_000 + number)];
        let from =
            Presence { node: NodeId(number.into()), name: "many", locations: Locations::Plain(&locations) };
        let answer = sealed(&Datagram::ProbeReply(ProbeReply { from, siblings: Route::NONE }));
        let outputs = asking.hear("127.9.0.2:51350", &answer);
        dialled.extend(outputs.into_iter().map(|output| match output {
            Output::Dial(_, to) => to,
            other => panic!("{other:?}"),
        }));
        assert_eq!(asking.hear("127.9.0.3:51350", &answer), [], "that host was not asked");
    }
    assert_eq!(dialled.len(), 256);
    assert!(dialled.iter().all(|to| to.ip() == at("127.9.0.2:0").ip()), "only the host itself was asked for");
}
