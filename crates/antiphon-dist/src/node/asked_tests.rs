//! What a peer's frames and hearsay may change, by the core alone. Tests only.

#![expect(clippy::wildcard_enum_match_arm, reason = "the ends that these tests mean are few")]

use std::cell::RefCell;
use std::rc::Rc;

use antiphon_sched::{ActorId, Cx, Event, ExitReason, Key, MonitorId, NodeId, Signal, receive};

use super::frames::InboundSignal;
use super::peers::PEERS_MAX;
use super::testing::TestCore;
use crate::peer_limits::PeerLimits;

impl TestCore {
    fn effect(&mut self, node: NodeId, arrived: InboundSignal) {
        self.core.take_effect(node, arrived, &mut self.driver);
        self.core.check();
    }
}

fn far(node: NodeId, number: u64) -> ActorId {
    ActorId::new(node, Key::from_bits(number))
}

/// An actor that peers reach, and the ends that it is told of.
type FromNode = Rc<RefCell<Vec<(ActorId, Option<&'static str>)>>>;

fn watcher(alone: &mut TestCore) -> (Key, FromNode) {
    let told = FromNode::default();
    let tell = told.clone();
    let (_, watcher) = alone.actor(move |_cx: &mut Cx<String>, event| {
        if let Event::Down(down) = event {
            let kind = match down.reason {
                ExitReason::Terminated => Some("terminated"),
                ExitReason::Refused => Some("refused"),
                _ => None,
            };
            tell.borrow_mut().push((down.actor, kind));
        }
        receive()
    });
    alone.pass();
    (watcher, told)
}

#[test]
fn a_notify_under_a_number_that_is_in_use_does_not_take_the_place_of_the_other() {
    let mut alone = TestCore::new();
    let node = alone.peer(5);
    let (watcher, told) = watcher(&mut alone);
    let id = MonitorId { origin: node, number: 1 };
    for actor in [far(node, 1), far(node, 2)] {
        alone.effect(node, InboundSignal::Notify { watcher, id, actor });
    }
    assert_eq!(alone.core.counts().refused_messages, 1);
    alone.effect(node, InboundSignal::Down { watcher, id, reason: ExitReason::Terminated });
    alone.pass();
    assert_eq!(*told.borrow(), [(far(node, 1), Some("terminated"))]);
}

#[test]
fn a_watcher_is_told_of_a_notify_that_is_refused() {
    let mut alone = TestCore::with(PeerLimits { monitors_max: 2, ..PeerLimits::default() });
    let node = alone.peer(5);
    let (watcher, told) = watcher(&mut alone);
    for number in 1..=3 {
        let id = MonitorId { origin: node, number };
        alone.effect(node, InboundSignal::Notify { watcher, id, actor: far(node, number) });
    }
    alone.pass();
    assert_eq!(*told.borrow(), [(far(node, 3), Some("refused"))]);
    let counts = alone.core.counts();
    assert_eq!((counts.refusals.monitors, counts.monitors), (1, 2));
    // When one is over, there is room again.
    let id = MonitorId { origin: node, number: 1 };
    alone.effect(node, InboundSignal::Down { watcher, id, reason: ExitReason::Terminated });
    alone.effect(node, InboundSignal::Notify { watcher, id, actor: far(node, 4) });
    alone.pass();
    assert_eq!(told.borrow().len(), 2);
    assert_eq!(alone.core.counts().monitors, 2);
}

#[test]
fn monitors_of_actors_here_use_up_nothing_of_a_peers_and_the_other_way_round() {
    let mut alone = TestCore::with(PeerLimits { monitors_max: 2, ..PeerLimits::default() });
    let node = alone.peer(5);
    let (watcher, told) = watcher(&mut alone);
    let me = alone.core.me();
    let own = |number| MonitorId { origin: me, number };
    let theirs = |number| MonitorId { origin: node, number };
    // As actors here have set them, in both directions.
    let peer = alone.core.peers.get_mut(&node).expect("it is known");
    for number in 1..=5 {
        peer.monitors.watch(watcher, own(number), far(node, number));
        peer.monitors.be_watched(watcher, own(number));
    }
    for number in 1..=2 {
        let actor = far(node, number);
        alone.effect(node, InboundSignal::Notify { watcher, id: theirs(number), actor });
        alone.effect(
            node,
            InboundSignal::Monitor { watcher: actor.key(), target: watcher, id: theirs(number) },
        );
    }
    alone.pass();
    let counts = alone.core.counts();
    assert_eq!((counts.refusals.monitors, counts.monitors), (0, 14));
    assert!(told.borrow().is_empty());
    alone.effect(node, InboundSignal::Monitor { watcher, target: watcher, id: theirs(3) });
    assert_eq!(alone.core.counts().refusals.monitors, 1);
}

#[test]
fn hearsay_takes_free_places_and_makes_nobody_forgotten() {
    let mut alone = TestCore::new();
    let at = [([127, 0, 0, 1], 9).into()];
    alone.core.settings.dial_allow = vec![([127, 0, 0, 0].into(), 8)];
    let known = alone.peer(1);
    for number in 2..PEERS_MAX as u64 + 10 {
        alone.core.learn(NodeId::from_bits(number), "", at.into_iter());
    }
    assert_eq!(alone.core.peers.len(), PEERS_MAX);
    assert!(alone.core.peers.contains_key(&known));
    assert!(alone.core.peers.contains_key(&NodeId::from_bits(2)), "hearsay does not replace hearsay either");
    // Who comes itself, and proves it, has a place.
    assert!(alone.core.has_place_for(NodeId::from_bits(1 << 40)));
    assert_eq!(alone.core.peers.len(), PEERS_MAX - 1);
}

#[test]
fn a_signal_that_goes_nowhere_leaves_no_monitor() {
    let mut alone = TestCore::new();
    let node = alone.peer(5);
    let (watcher, _) = watcher(&mut alone);
    let id = MonitorId { origin: alone.core.me(), number: 1 };
    let target = far(node, 1);
    alone.core.peers.get_mut(&node).expect("it is known").monitors.watch(watcher, id, target);
    alone.core.answer_signal(Signal::Monitor { target, id, watcher }, antiphon_sched::Undelivered::NoNode);
    assert_eq!(alone.core.counts().monitors, 0);
}
