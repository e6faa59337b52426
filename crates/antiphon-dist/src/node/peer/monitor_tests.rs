//! Tests of the monitors that a peer sets, and of the nodes that it names.

#![expect(clippy::wildcard_enum_match_arm, reason = "these tests expect few of the exit reasons")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use antiphon_sched::{ActorId, Cx, Event, ExitReason, Key, MonitorId, NodeId, Signal, SignalKind, receive};

use super::state::PeerState;
use crate::node::testing::TestCore;
use crate::peer_limits::PeerLimits;

impl TestCore {
    fn apply_checked(&mut self, from: ActorId, to: Key, kind: SignalKind) {
        self.apply_signal(from, to, kind);
        self.core.check();
    }
}

fn remote_actor(node: NodeId, number: u64) -> ActorId {
    ActorId::new(node, Key::from_bits(number))
}

/// The actors and the exit reasons of received `Down`s.
type ReceivedDowns = Rc<RefCell<Vec<(ActorId, Option<&'static str>)>>>;

/// Spawns an actor that is exposed to peers and records the `Down`s that it receives.
fn spawn_watcher(test: &mut TestCore) -> (Key, ReceivedDowns) {
    let downs = ReceivedDowns::default();
    let received = downs.clone();
    let (_, watcher) = test.spawn(move |_cx: &mut Cx<String>, event| {
        if let Event::Down(down) = event {
            let kind = match down.reason {
                ExitReason::Terminated => Some("terminated"),
                ExitReason::Refused => Some("refused"),
                _ => None,
            };
            received.borrow_mut().push((down.actor, kind));
        }
        receive()
    });
    test.advance();
    (watcher, downs)
}

#[test]
fn notify_with_used_number_is_refused() {
    let mut test = TestCore::new();
    let node = test.add_peer(5);
    let (watcher, downs) = spawn_watcher(&mut test);
    let id = MonitorId { origin: node, number: 1 };
    for actor in [remote_actor(node, 1), remote_actor(node, 2)] {
        test.apply_checked(actor, watcher, SignalKind::Notify(id));
    }
    assert_eq!(test.core.counts().refused_messages, 1);
    test.receive_down(node, id, ExitReason::Terminated);
    test.advance();
    assert_eq!(*downs.borrow(), [(remote_actor(node, 1), Some("terminated"))]);
}

/// The local actor receives `Down` with the reason `Refused` for a notify over the limit. A `Down` makes room again.
#[test]
fn notify_over_limit_sends_refused_down() {
    let mut test = TestCore::with(PeerLimits { monitors_max: 2, ..PeerLimits::default() });
    let node = test.add_peer(5);
    let (watcher, downs) = spawn_watcher(&mut test);
    for number in 1..=3 {
        let id = MonitorId { origin: node, number };
        test.apply_checked(remote_actor(node, number), watcher, SignalKind::Notify(id));
    }
    test.advance();
    assert_eq!(*downs.borrow(), [(remote_actor(node, 3), Some("refused"))]);
    let counts = test.core.counts();
    assert_eq!((counts.refusals.monitors, counts.monitors), (1, 2));
    // The end of a monitor makes room for another.
    let id = MonitorId { origin: node, number: 1 };
    test.receive_down(node, id, ExitReason::Terminated);
    test.apply_checked(remote_actor(node, 4), watcher, SignalKind::Notify(id));
    test.advance();
    let expected = [(remote_actor(node, 3), Some("refused")), (remote_actor(node, 1), Some("terminated"))];
    assert_eq!(*downs.borrow(), expected);
    assert_eq!(test.core.counts().monitors, 2);
}

#[test]
fn local_and_peer_monitors_have_separate_limits() {
    let mut test = TestCore::with(PeerLimits { monitors_max: 2, ..PeerLimits::default() });
    let node = test.add_peer(5);
    let (watcher, downs) = spawn_watcher(&mut test);
    let me = test.core.me();
    let local_id = |number| MonitorId { origin: me, number };
    let peer_id = |number| MonitorId { origin: node, number };
    // Monitors that local actors have set, in both directions.
    let peer = test.core.peers.get_mut(node).expect("the peer is known");
    for number in 1..=5 {
        peer.monitors.add_local_watcher(watcher, local_id(number), remote_actor(node, number));
        peer.monitors.add_remote_watcher(watcher, local_id(number));
    }
    for number in 1..=2 {
        let actor = remote_actor(node, number);
        test.apply_checked(actor, watcher, SignalKind::Notify(peer_id(number)));
        test.apply_checked(actor, watcher, SignalKind::Monitor(peer_id(number)));
    }
    test.advance();
    let counts = test.core.counts();
    assert_eq!((counts.refusals.monitors, counts.monitors), (0, 14));
    assert!(downs.borrow().is_empty());
    test.apply_checked(remote_actor(node, 3), watcher, SignalKind::Monitor(peer_id(3)));
    assert_eq!(test.core.counts().refusals.monitors, 1);
}

#[test]
fn failed_monitor_signal_removes_monitor() {
    let mut test = TestCore::new();
    let node = test.add_peer(5);
    let (watcher, _) = spawn_watcher(&mut test);
    let id = MonitorId { origin: test.core.me(), number: 1 };
    let target = remote_actor(node, 1);
    let peer = test.core.peers.get_mut(node).expect("the peer is known");
    peer.monitors.add_local_watcher(watcher, id, target);
    assert_eq!(test.core.counts().monitors, 1);
    let from = Some(ActorId::new(test.core.me(), watcher));
    let signal = Signal { from, to: target, kind: SignalKind::Monitor(id) };
    let peer = test.core.peers.get_mut(node).expect("the peer is known");
    peer.fail_signal(&mut test.core.cx, signal, antiphon_sched::Undelivered::NoNode);
    assert_eq!(test.core.counts().monitors, 0);
}

/// A node that is known to be lost, and whose port refuses, is given up. One that was never reached may start later.
#[test]
fn waiting_signals_fail_when_lost_node_refuses_dials() {
    for (state, left) in [(PeerState::Lost, 0), (PeerState::Unmet, 1)] {
        let mut test = TestCore::new();
        let at: SocketAddr = ([127, 0, 0, 1], 9).into();
        let node = test.add_peer(5);
        let (watcher, _) = spawn_watcher(&mut test);
        test.core.peers.edit(node, |peer| (peer.state, peer.locations) = (state, vec![at]));
        if left == 0 {
            test.core.peers.remember_ended(&mut test.core.cx, node);
        }
        let id = MonitorId { origin: test.core.me(), number: 1 };
        let target = remote_actor(node, 1);
        test.signal(watcher, target, SignalKind::Monitor(id));
        for _ in 0..2 {
            test.core.on_location_refused(node, &mut test.driver);
        }
        test.advance();
        let waiting = test.core.peers.get(node).map_or(0, |peer| usize::from(!peer.waiting.is_empty()));
        assert_eq!(waiting, left);
    }
}

/// Monitors with a peer whose session has ended are completed in parts.
#[test]
fn lost_peer_is_reported_to_watchers_in_parts() {
    const MONITORS: usize = 5000;
    let mut test = TestCore::new();
    let node = test.add_peer(5);
    let (watcher, downs) = spawn_watcher(&mut test);
    test.add_session(node);
    for number in 0..MONITORS as u64 {
        let id = MonitorId { origin: node, number };
        test.apply_checked(remote_actor(node, number), watcher, SignalKind::Notify(id));
    }
    assert_eq!(test.core.counts().monitors, MONITORS);
    test.core.end_session(node, "the test ends it", &mut test.driver);
    let (mut last, mut parts) = (0, 0);
    while downs.borrow().len() < MONITORS {
        test.advance();
        let received = downs.borrow().len();
        assert!(received - last <= 2000, "{} Downs at once", received - last);
        (last, parts) = (received, parts + 1);
        test.core.handle(test.core.cx.now, crate::node::Input::Tick, &mut test.driver);
        assert!(parts < 10, "{received} Downs after {parts} rounds");
    }
    assert!(parts >= 3 && !test.core.is_dirty());
    test.advance();
    assert_eq!(downs.borrow().len(), MONITORS);
}

/// A service of this node sets monitors on actors of a peer that takes none of its frames, and removes them again.
#[test]
fn removed_monitors_of_own_actors_do_not_wait() {
    let mut test = TestCore::new();
    let node = test.add_peer(5);
    test.add_session(node);
    let queued = |test: &TestCore| test.core.peers.get(node).map_or(0, |peer| peer.queued_bytes());
    for number in 1..10_000 {
        let id = MonitorId { origin: test.core.me(), number };
        let target = remote_actor(node, number);
        let watcher = Key::from_bits(1);
        test.signal(watcher, target, SignalKind::Monitor(id));
        test.signal(watcher, target, SignalKind::Demonitor(id));
    }
    // What has left the queue is on its way, and bounded.
    assert!(queued(&test) < 300_000, "{} bytes wait", queued(&test));
    assert_eq!(test.core.counts().monitors, 0);
}
