//! Several secrets at a time, so that all nodes can change theirs one after another; and the suites that a secret may have.

mod common;

use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::node::NodeCore;
use antiphon_dist::{
    Config, DeliverError, Location, NetCx, Node, NodeError, PeerError, Refusal, Secret, Status, Suite,
    SuitesFault,
};
use antiphon_sched::{Addr, Cx, Event, millis, receive, stop};
use common::certs::Certs;
use common::{Net, PATIENCE, TestNode, heard, heard_until, tell_test};

const OLD: u32 = 1;
const NEW: u32 = 2;

/// The steps that a node goes through: which secret it uses, and which it accepts besides.
const STEPS: [(u32, Option<u32>); 4] = [(OLD, None), (OLD, Some(NEW)), (NEW, Some(OLD)), (NEW, None)];
const NAMES: [&str; 3] = ["a", "b", "c"];

struct Secrets {
    net: Net,
    new: Secret,
}

impl Secrets {
    fn new() -> Self {
        Self { net: Net::new(), new: Secret::generate().expect("the system has random numbers") }
    }

    fn of(&self, id: u32) -> Secret {
        if id == OLD { self.net.secret.clone() } else { self.new.clone() }
    }

    fn config(&self, name: &str, (used, accepted): (u32, Option<u32>)) -> Config {
        Config {
            secret: Some(self.of(used)),
            key_id: used,
            other_secrets: accepted.map(|id| (id, self.of(id))).into_iter().collect(),
            ..self.net.config(name)
        }
    }

    fn start(&self, at: usize, step: (u32, Option<u32>)) -> TestNode {
        let node = TestNode::start(self.config(NAMES[at], step));
        let (ready, registered) = channel();
        node.spawn(move |cx: &mut Cx<u64>, event| {
            if matches!(event, Event::Start) {
                cx.register(NAMES[at])?;
                tell_test(&ready, ());
            }
            receive()
        });
        heard(&registered);
        node
    }
}

enum Flow {
    Next,
    Receipt(Result<(), DeliverError>),
}

/// Messages from one node to another without end; what becomes of each is told.
fn flow(from: &TestNode, to: &'static str) -> Receiver<Result<(), DeliverError>> {
    let to: Addr<u64> = from.find(to);
    let (tell, told) = channel();
    from.spawn(move |cx, event| {
        match event {
            Event::Start | Event::Message(Flow::Next) => cx.deliver(to, 0, PATIENCE, Flow::Receipt),
            Event::Message(Flow::Receipt(receipt)) => {
                tell_test(&tell, receipt);
                cx.after(millis(1), Flow::Next);
            }
            _ => {}
        }
        receive()
    });
    told
}

#[test]
fn three_nodes_change_their_secret_one_after_another_while_messages_flow() {
    let secrets = Secrets::new();
    let mut nodes: Vec<Option<TestNode>> = (0..3).map(|at| Some(secrets.start(at, STEPS[0]))).collect();
    nodes.iter().flatten().for_each(|node| node.wait_for_peers(2));
    for step in &STEPS[1..] {
        for at in 0..3 {
            let (one, other) = ((at + 1) % 3, (at + 2) % 3);
            let other_name = NAMES[other];
            let leaving = nodes[at].take().expect("it runs");
            let [one, other] = [&nodes[one], &nodes[other]].map(|node| node.as_ref().expect("it runs"));
            let flowing = flow(one, other_name);
            let statuses = one.statuses();
            heard_until(&statuses, |told| *told == (NAMES[at].into(), Status::Online));
            leaving.stop();
            heard_until(&statuses, |told| *told == (NAMES[at].into(), Status::Offline));
            let back = secrets.start(at, *step);
            let seen = heard_until(&statuses, |told| *told == (NAMES[at].into(), Status::Online));
            assert!(seen.iter().all(|(name, _)| name == NAMES[at]), "{seen:?}");
            back.wait_for_peers(2);
            assert_eq!(heard(&flowing), Ok(()));
            let broken = flowing.try_iter().find(Result::is_err);
            assert_eq!(broken, None, "{} to {other_name}", one.location);
            assert_eq!(heard(&flowing), Ok(()), "it flows on");
            // It sends and is sent to, by both.
            for peer in [one, other] {
                let addr: Addr<u64> = peer.find(NAMES[at]);
                assert_eq!(peer.deliver(addr, 1), Ok(()));
            }
            let addr: Addr<u64> = back.find(other_name);
            assert_eq!(back.deliver(addr, 1), Ok(()));
            nodes[at] = Some(back);
        }
    }
    // Who has only the old one is nobody's peer any more, and is told why.
    let late = secrets.start(0, STEPS[0]);
    let there = nodes[1].as_ref().expect("it runs");
    assert_eq!(peer(&late, there.location), Err(PeerError::Refused(Refusal::UnknownKey)));
    assert_eq!(peer(there, late.location), Err(PeerError::Refused(Refusal::UnknownKey)));
    late.log.wait_for("a datagram under key id Some(2)");
}

/// What `peer` says of a location.
fn peer(node: &TestNode, at: Location) -> Result<Vec<Location>, PeerError> {
    let (tell, told) = channel();
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.peer(at, PATIENCE, |answer| answer);
            receive()
        }
        Event::Message(answer) => {
            tell_test(&tell, answer);
            stop()
        }
        _ => receive(),
    });
    heard(&told)
}

#[test]
fn secrets_that_nobody_could_tell_apart_are_refused_at_the_start() {
    let secrets = Secrets::new();
    let same = Config { key_id: NEW, ..secrets.config("same", STEPS[1]) };
    assert!(matches!(Node::new(same).err(), Some(NodeError::SameKeyId { id: NEW })));
    let only = Config { secret: None, ..secrets.config("only", STEPS[1]) };
    assert!(matches!(Node::new(only).err(), Some(NodeError::OnlyOtherSecrets)));
    let beyond = Config { ip: [192, 0, 2, 1].into(), ..secrets.config("weak", STEPS[1]) };
    let weak = Config { other_secrets: vec![(NEW, "key".into())], ..beyond };
    assert!(matches!(Node::new(weak).err(), Some(NodeError::WeakSecret { .. })));
}

#[test]
fn records_may_be_readable_if_both_nodes_say_so() {
    let net = Net::new();
    let readable = |name| Config { suites: Some(vec![Suite::Hmac]), ..net.quiet(name, &[]) };
    let first = TestNode::start(readable("first"));
    let second = TestNode::start(readable("second"));
    assert_eq!(peer(&second, first.location), Ok(vec![first.location]));
    let third = net.quiet_node("third", &[]);
    assert_eq!(peer(&third, first.location), Err(PeerError::Refused(Refusal::Suite)));
}

#[test]
fn suites_that_do_not_fit_the_rest_are_refused_at_the_start() {
    let (net, certs) = (Net::new(), Certs::new());
    let certfile = Some(certs.node("own").both);
    let fault = |config: Config| match Node::new(config).err() {
        Some(NodeError::Suites(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let with = |suites: &[Suite]| Config { suites: Some(suites.to_vec()), ..net.quiet("node", &[]) };
    assert_eq!(fault(with(&[Suite::Tls])), SuitesFault::NoCertificate);
    assert_eq!(fault(with(&[Suite::Plain])), SuitesFault::PlainWithSecret);
    assert_eq!(fault(Config { certfile: certfile.clone(), ..with(&[Suite::Hmac]) }), SuitesFault::BesidesTls);
    assert!(Node::new(Config { certfile, ..with(&[Suite::Tls]) }).is_ok());
    assert!(matches!(Node::new(with(&[])).err(), Some(NodeError::Profile(_))));
}

#[test]
fn nothing_of_a_node_that_can_be_formatted_shows_a_secret() {
    let config = Config {
        secret: Some("hushhush".into()),
        other_secrets: vec![(NEW, "hushhush2".into())],
        ip: [192, 0, 2, 1].into(),
        ..Config::default()
    };
    let error = Node::new(config.clone()).expect_err("the secret is weak");
    let at = Location::new(([127, 0, 0, 1], 1).into());
    let me = antiphon_sched::NodeId::from_bits(1);
    let core = NodeCore::simulated(&config, me, at, Vec::new()).expect("a sound configuration");
    let shown = format!("{config:?} {config:#?} {error} {error:?} {core:?} {core:#?}");
    assert!(shown.contains("Secret"), "the secrets are in there: {shown}");
    assert!(!shown.contains("hushhush"), "{shown}");
}
