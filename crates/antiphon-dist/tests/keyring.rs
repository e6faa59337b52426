//! Secret rotation with several accepted secrets, and the suites that a configuration allows.

mod common;

use std::sync::mpsc::{Receiver, channel};

use antiphon_dist::node::NodeCore;
use antiphon_dist::{
    Config, DeliverError, Location, NetCx, Node, NodeError, PeerError, Refusal, Secret, Status, Suite,
    SuitesFault,
};
use antiphon_sched::{Addr, Cx, Event, millis, receive};
use common::certs::Certs;
use common::{Net, PATIENCE, TestNode, recv, recv_until, report};

const OLD: u32 = 1;
const NEW: u32 = 2;

/// The steps of a rotation: the key id of the secret that the node uses, and of a further secret that it accepts.
const STEPS: [(u32, Option<u32>); 4] = [(OLD, None), (OLD, Some(NEW)), (NEW, Some(OLD)), (NEW, None)];
const NAMES: [&str; 3] = ["a", "b", "c"];

struct RotationTest {
    net: Net,
    new: Secret,
}

impl RotationTest {
    fn new() -> Self {
        Self {
            net: Net::new(),
            new: antiphon_dist::secret::generate().expect("the system has random numbers"),
        }
    }

    fn of(&self, id: u32) -> Secret {
        if id == OLD { self.net.secret.clone() } else { self.new.clone() }
    }

    fn config(&self, name: &str, (own, accepted): (u32, Option<u32>)) -> Config {
        Config {
            secret: Some(self.of(own)),
            key_id: own,
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
                report(&ready, ());
            }
            receive()
        });
        recv(&registered);
        node
    }
}

enum FlowEvent {
    Next,
    Receipt(Result<(), DeliverError>),
}

/// Sends messages from one node to another without end; the receiver gets the receipts.
fn start_flow(from: &TestNode, to: &'static str) -> Receiver<Result<(), DeliverError>> {
    let to: Addr<u64> = from.find(to);
    let (sender, results) = channel();
    from.spawn(move |cx, event| {
        match event {
            Event::Start | Event::Message(FlowEvent::Next) => cx.deliver(to, 0, PATIENCE, FlowEvent::Receipt),
            Event::Message(FlowEvent::Receipt(receipt)) => {
                report(&sender, receipt);
                cx.after(millis(1), FlowEvent::Next).expect("the limit is not reached");
            }
            _ => {}
        }
        receive()
    });
    results
}

#[test]
fn secret_rotation_keeps_messages_flowing() {
    let secrets = RotationTest::new();
    let mut nodes: Vec<Option<TestNode>> = (0..3).map(|at| Some(secrets.start(at, STEPS[0]))).collect();
    nodes.iter().flatten().for_each(|node| node.wait_for_peers(2));
    for step in &STEPS[1..] {
        for at in 0..3 {
            let (one, other) = ((at + 1) % 3, (at + 2) % 3);
            let other_name = NAMES[other];
            let old = nodes[at].take().expect("the node runs");
            let [one, other] = [&nodes[one], &nodes[other]].map(|node| node.as_ref().expect("the node runs"));
            let receipts = start_flow(one, other_name);
            let statuses = one.statuses();
            recv_until(&statuses, |status| *status == (NAMES[at].into(), Status::Online));
            old.stop();
            recv_until(&statuses, |status| *status == (NAMES[at].into(), Status::Offline));
            let back = secrets.start(at, *step);
            let seen = recv_until(&statuses, |status| *status == (NAMES[at].into(), Status::Online));
            assert!(seen.iter().all(|(name, _)| name == NAMES[at]), "{seen:?}");
            back.wait_for_peers(2);
            assert_eq!(recv(&receipts), Ok(()));
            let failed = receipts.try_iter().find(Result::is_err);
            assert_eq!(failed, None, "{} to {other_name}", one.location);
            assert_eq!(recv(&receipts), Ok(()), "the messages continue");
            // The restarted node exchanges messages with both peers.
            for peer in [one, other] {
                let addr: Addr<u64> = peer.find(NAMES[at]);
                assert_eq!(peer.deliver(addr, 1), Ok(()));
            }
            let addr: Addr<u64> = back.find(other_name);
            assert_eq!(back.deliver(addr, 1), Ok(()));
            nodes[at] = Some(back);
        }
    }
    // A node that has only the old secret is refused with the reason.
    let late = secrets.start(0, STEPS[0]);
    let there = nodes[1].as_ref().expect("the node runs");
    assert_eq!(late.connect(there.location, PATIENCE), Err(PeerError::Refused(Refusal::UnknownKey)));
    assert_eq!(there.connect(late.location, PATIENCE), Err(PeerError::Refused(Refusal::UnknownKey)));
    late.log.wait_for("the datagram has key id Some(2)");
}

#[test]
fn config_with_invalid_secrets_is_refused() {
    let secrets = RotationTest::new();
    let same = Config { key_id: NEW, ..secrets.config("same", STEPS[1]) };
    assert!(matches!(Node::new(same).err(), Some(NodeError::SameKeyId { id: NEW })));
    let only = Config { secret: None, ..secrets.config("only", STEPS[1]) };
    assert!(matches!(Node::new(only).err(), Some(NodeError::OnlyOtherSecrets)));
    let beyond = Config { ip: [192, 0, 2, 1].into(), ..secrets.config("weak", STEPS[1]) };
    let weak = Config { other_secrets: vec![(NEW, "key".into())], ..beyond };
    assert!(matches!(Node::new(weak).err(), Some(NodeError::WeakSecret { .. })));
}

#[test]
fn hmac_suite_requires_both_nodes() {
    let net = Net::new();
    let readable = |name| Config { suites: Some(vec![Suite::Hmac]), ..net.static_config(name, &[]) };
    let first = TestNode::start(readable("first"));
    let second = TestNode::start(readable("second"));
    assert_eq!(second.connect(first.location, PATIENCE), Ok(vec![first.location]));
    let third = net.static_node("third", &[]);
    assert_eq!(third.connect(first.location, PATIENCE), Err(PeerError::Refused(Refusal::Suite)));
}

#[test]
fn config_with_conflicting_suites_is_refused() {
    let (net, certs) = (Net::new(), Certs::new());
    let certfile = Some(certs.node("own").both);
    let fault = |config: Config| match Node::new(config).err() {
        Some(NodeError::Suites(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let with = |suites: &[Suite]| Config { suites: Some(suites.to_vec()), ..net.static_config("node", &[]) };
    assert_eq!(fault(with(&[Suite::Tls])), SuitesFault::NoCertificate);
    assert_eq!(fault(with(&[Suite::Plain])), SuitesFault::PlainWithSecret);
    assert_eq!(fault(Config { certfile: certfile.clone(), ..with(&[Suite::Hmac]) }), SuitesFault::BesidesTls);
    assert!(Node::new(Config { certfile, ..with(&[Suite::Tls]) }).is_ok());
    assert!(matches!(Node::new(with(&[])).err(), Some(NodeError::Profile(_))));
}

#[test]
fn debug_output_shows_no_secret() {
    let config = Config {
        secret: Some("hushhush".into()),
        other_secrets: vec![(NEW, "hushhush2".into())],
        ip: [192, 0, 2, 1].into(),
        ..Config::default()
    };
    let error = Node::new(config.clone()).expect_err("the secret is weak");
    let at = Location::new(([127, 0, 0, 1], 1).into());
    let me = antiphon_sched::NodeId::from_bits(1);
    let core = NodeCore::simulated(&config, me, at, Vec::new()).expect("the configuration is valid");
    let shown = format!("{config:?} {config:#?} {error} {error:?} {core:?} {core:#?}");
    assert!(shown.contains("Secret"), "the output contains the secrets' fields: {shown}");
    assert!(!shown.contains("hushhush"), "{shown}");
}
