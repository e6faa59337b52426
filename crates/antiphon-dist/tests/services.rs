//! A service that a program writes: its name, the origin of its messages, its quota, its access and its log.

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use antiphon_dist::service::{FromNode, NodeRef, PeerQuota, ServiceAddr};
use antiphon_dist::{AccessPolicy, Config, LocateError, NetCx, Node, RegisterError};
use antiphon_sched::{Actor, ActorId, Addr, Cx, Event, NodeId, Permit, Step, actor, millis, receive};
use common::{Net, PATIENCE, TestNode, recv, report};

/// What the service reports of each message: its sender, and whether it was kept.
type Note = (String, Option<NodeId>, bool);

/// Keeps texts, at most two of each peer. The text `clear` drops all.
struct Board {
    quota: PeerQuota,
    permits: Vec<Permit>,
    access: AccessPolicy,
    notes: Sender<Note>,
}

impl Actor<FromNode<String>> for Board {
    fn step(
        &mut self,
        cx: &mut Cx<'_, FromNode<String>>,
        event: Event<FromNode<String>>,
    ) -> Step<FromNode<String>> {
        match event {
            Event::Start => {
                let me = cx.addr();
                let mut node = NodeRef::of(cx.loop_ref());
                node.register("board", me)?;
                node.allow(me, self.access.clone())?;
            }
            Event::Message(FromNode { message, from, .. }) => {
                let is_kept = match from.map(|peer| (peer, self.quota.take(peer))) {
                    Some((_, Ok(permit))) => {
                        self.permits.push(permit);
                        true
                    }
                    Some((peer, Err(_))) => {
                        let what = "writes more texts than it may";
                        NodeRef::of(cx.loop_ref()).log_refused(peer, "board", what);
                        false
                    }
                    None => true,
                };
                if message == "clear" {
                    self.permits.clear();
                }
                report(&self.notes, (message, from, is_kept));
            }
            _ => {}
        }
        receive()
    }
}

fn start_board(node: &TestNode, access: AccessPolicy) -> Receiver<Note> {
    let (notes, received) = channel();
    node.with(move |node| {
        let board = Board { quota: PeerQuota::new(2), permits: Vec::new(), access, notes };
        node.set_up(|sched| sched.loop_ref().spawn_service(board));
    });
    received
}

/// Looks for the board, and sends texts to it.
fn write(
    node: &TestNode,
    within: Duration,
    texts: &'static [&'static str],
) -> Receiver<Result<(), LocateError>> {
    let (found, results) = channel();
    node.spawn(move |cx: &mut Cx<Result<ServiceAddr<String>, LocateError>>, event| {
        match event {
            Event::Start => cx.locate("board", within, |found| found),
            Event::Message(board) => {
                if let Ok(board) = board {
                    texts.iter().try_for_each(|text| cx.send(board, (*text).to_owned()))?;
                }
                report(&found, board.map(|_| ()));
            }
            _ => {}
        }
        receive()
    });
    results
}

#[test]
fn peer_over_service_quota_is_refused() {
    let (serving, peer) = Net::new().pair();
    let notes = start_board(&serving, AccessPolicy::all());
    assert_eq!(recv(&write(&serving, PATIENCE, &["own", "own", "own"])), Ok(()));
    for _ in 0..3 {
        assert_eq!(recv(&notes), ("own".to_owned(), None, true), "this node has no quota");
    }
    assert_eq!(recv(&write(&peer, PATIENCE, &["one", "two", "three", "clear", "four"])), Ok(()));
    let received: Vec<Note> = (0..5).map(|_| recv(&notes)).collect();
    let from = Some(peer.handle.node_id());
    assert!(received.iter().all(|(_, sender, _)| *sender == from), "{received:?}");
    let kept: Vec<(&str, bool)> = received.iter().map(|(text, _, is_kept)| (&**text, *is_kept)).collect();
    assert_eq!(kept, [("one", true), ("two", true), ("three", false), ("clear", false), ("four", true)]);
    let lines = serving.log.lines("writes more texts than it may");
    assert_eq!(lines.len(), 1, "the log is throttled: {lines:?}");
    assert_eq!(serving.counts().names, 0, "names of services do not count as names of programs");
}

#[test]
fn closed_service_is_not_found() {
    let (serving, peer) = Net::new().pair();
    let notes = start_board(&serving, AccessPolicy::none());
    assert_eq!(recv(&write(&peer, millis(300), &["one"])), Err(LocateError::TimedOut));
    assert_eq!(recv(&write(&serving, PATIENCE, &["own"])), Ok(()));
    assert_eq!(recv(&notes), ("own".to_owned(), None, true));
}

/// Only an actor of this node that takes the messages of the service can be registered, and the file service keeps its name.
#[test]
fn register_of_other_actor_is_refused() {
    let config = Config { discover_peers: false, ..Config::default() };
    let mut node = Node::new(config).expect("a node starts");
    node.set_up(|sched| {
        let mut loop_ref = sched.loop_ref();
        let own = loop_ref.spawn_service(actor(|_: &mut Cx<'_, FromNode<String>>, _| receive()));
        let elsewhere = Addr::of(ActorId::new(NodeId::from_bits(9), own.id().key()));
        let of_other_type = Addr::<FromNode<u64>>::of(own.id());
        let mut node = NodeRef::of(&mut loop_ref);
        assert_eq!(node.register::<String>("board", elsewhere), Err(RegisterError::NotHere));
        assert_eq!(node.register("board", of_other_type), Err(RegisterError::NotHere));
        assert!(matches!(node.register("files", own), Err(RegisterError::Taken { .. })));
        assert_eq!(node.register("board", own), Ok(()));
    });
}
