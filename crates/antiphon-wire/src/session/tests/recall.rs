//! Recalled frames: the frames that wait for a paused actor, and the frames that pass them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::test_peer::{TestPeer, begun_pair, connect, describe, message, seconds};
use crate::frame::{Frame, Goodbye, GoodbyeReason, NodeAt};
use crate::ids::{Key, NodeId, Pair};
use crate::session::HeldCredit;
use crate::{Limits, Locations, Time};

/// More than a window of frames is sent to actor 2. The peer holds the credit of all that arrive, then pauses the actor.
fn blocked_pair(bodies: usize) -> (TestPeer, TestPeer) {
    let (mut a, mut b) = begun_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    for number in 0..bodies {
        let body = format!("{number:0>50}");
        a.session().send(&message(1, 2, body.as_bytes())).expect("the queue has room");
    }
    let held = a.transmit_held(&mut b);
    assert!(held.len() < bodies, "not all frames fit the window");
    assert!(b.session().pause(Key(2)));
    // The release of some frames returns credit, so other actors have room.
    held.into_iter().take(1000).for_each(|held| b.session().release(held));
    b.transmit(Time::START, &mut a);
    (a, b)
}

#[test]
fn paused_actors_burst_stays_while_others_pass() {
    let (mut a, mut b) = blocked_pair(40_000);
    let queued = a.session().queued_bytes();
    a.session().send(&message(1, 3, b"passes")).expect("the queue has room");
    assert_eq!(a.transmit(Time::START, &mut b), ["3:passes"]);
    assert_eq!(a.session().queued_bytes(), queued, "all other frames stay queued");
    a.session().check();
}

#[test]
fn recalled_frames_arrive_before_later_ones() {
    let (mut a, mut b) = blocked_pair(40_000);
    a.transmit(Time::START, &mut b);
    a.session().send(&message(1, 2, b"last")).expect("the queue has room");
    assert_eq!(a.transmit(Time::START, &mut b), [] as [&str; 0]);
    b.session().unpause(Key(2));
    let mut received = Vec::new();
    while a.session().queued_bytes() > 0 {
        b.transmit(Time::START, &mut a);
        received.extend(a.transmit(Time::START, &mut b));
    }
    assert_eq!(received.pop().as_deref(), Some("2:last"));
    assert!(received.len() > 20_000, "only {} frames were recalled", received.len());
    let first = 40_000 - received.len();
    let expected: Vec<String> = (first..40_000).map(|number| format!("2:{number:0>50}")).collect();
    assert_eq!(received, expected);
}

/// A window is nearly full, and two large frames wait. The peer has room to reassemble one at a time.
fn pair_with_two_large(window_left: usize) -> (TestPeer, TestPeer, Vec<HeldCredit>) {
    let limits = Limits { window_bytes: 64 * 1024, reassembly_bytes_max: 150_000, ..Limits::default() };
    let (mut a, mut b) = begun_pair(limits);
    a.session().intern("t").expect("a tag number is free");
    for _ in 0..4 {
        let body = vec![7; (64 * 1024 - window_left) / 4 - 40];
        a.session().send(&message(1, 4, &body)).expect("the queue has room");
    }
    let large = vec![7; 100_000];
    a.session().send(&message(1, 2, &large)).expect("the queue has room");
    a.session().send(&message(1, 3, &large)).expect("the queue has room");
    let held = a.transmit_held(&mut b);
    assert!(b.session().pause(Key(2)));
    b.transmit(Time::START, &mut a);
    (a, b, held)
}

fn transmit_both_ways(a: &mut TestPeer, b: &mut TestPeer) -> Vec<String> {
    let mut received = Vec::new();
    for _ in 0..10 {
        b.transmit(Time::START, a);
        received.extend(a.transmit(Time::START, b));
    }
    received
}

#[test]
fn recalled_large_frame_makes_room_for_another() {
    let (mut a, mut b, held) = pair_with_two_large(1_000);
    assert_eq!(held.len(), 5, "a tag, and the frames that fill the window");
    held.into_iter().for_each(|held| b.session().release(held));
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["3:100000"]);
    b.session().unpause(Key(2));
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["2:100000"]);
}

/// The peer has reserved room for a large frame that has begun. If it waited for its paused actor, it would keep that room
/// from the large frames of all other actors.
#[test]
fn begun_large_frame_continues_despite_pause() {
    let (mut a, mut b, held) = pair_with_two_large(20_000);
    assert_eq!(held.len(), 5, "the session handles the fragment itself");
    held.into_iter().for_each(|held| b.session().release(held));
    a.session().send(&message(1, 2, b"behind it")).expect("the queue has room");
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["2:100000", "3:100000"]);
    b.session().unpause(Key(2));
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["2:behind it"]);
}

#[test]
fn recall_skips_frames_before_goodbye() {
    let (mut a, mut b) = begun_pair(Limits { window_bytes: 64 * 1024, ..Limits::default() });
    a.session().intern("t").expect("a tag number is free");
    let before = a.session().frames_sent();
    a.session().send(&message(1, 2, b"before")).expect("the queue has room");
    a.session()
        .send(&Frame::Goodbye(Goodbye { reason: GoodbyeReason::Leaving }))
        .expect("the queue has room");
    assert!(b.session().pause(Key(2)));
    b.transmit(Time::START, &mut a);
    assert_eq!(a.transmit(Time::START, &mut b), ["tag 0 = t", "2:before", "Goodbye"]);
    assert_eq!(a.session().frames_sent(), before + 2);
}

#[test]
fn undelivered_reports_recalled_frames() {
    let (mut a, mut b) = blocked_pair(40_000);
    let received = b.session().frames_received();
    a.transmit(Time::START, &mut b);
    let mut listed = Vec::new();
    a.session().undelivered(|_, perhaps_arrived| listed.push(perhaps_arrived));
    let recalled = listed.iter().filter(|perhaps_arrived| !**perhaps_arrived).count() as u64;
    assert_eq!(recalled, 40_001 - received, "all but the tag and the received frames");
}

/// A recall gives the fragments behind it lower numbers. The large frame is listed until its last fragment is acknowledged.
#[test]
fn undelivered_omits_acknowledged_renumbered_large_frame() {
    let (mut a, mut b) = begun_pair(Limits { window_bytes: 64 * 1024, ..Limits::default() });
    a.session().intern("t").expect("a tag number is free");
    let mut held = Vec::new();
    for (to, size, count) in [(4, 13_000, 5), (2, 1_000, 60), (3, 30_000, 1)] {
        (0..count)
            .for_each(|_| a.session().send(&message(1, to, &vec![7; size])).expect("the queue has room"));
        held.extend(a.transmit_held(&mut b));
    }
    assert!(b.session().pause(Key(2)));
    held.into_iter().for_each(|held| b.session().release(held));
    let received = transmit_both_ways(&mut a, &mut b);
    assert_eq!(received, ["3:30000"]);
    b.session().on_timeout(seconds(1));
    b.transmit(Time::START, &mut a);
    let mut left = Vec::new();
    a.session().undelivered(|frame, _| left.push(describe(frame)));
    assert_eq!(left, vec!["2:1000"; 60]);
}

#[derive(Debug, Clone)]
enum SessionAction {
    Send {
        from: u64,
        to: u64,
        size: usize,
    },
    SendInOrder {
        from: u64,
        to: u64,
    },
    Pause(u64),
    Unpause(u64),
    /// The sender transmits this number of records.
    Transmit(usize),
    /// The receiver transmits all its records.
    TransmitBack,
    /// The connection is lost with this number of records on it.
    Cut(usize),
}

fn action() -> impl Strategy<Value = SessionAction> {
    let (from, to) = (1..3_u64, 10..13_u64);
    let size = prop_oneof![3 => 0..200_usize, 2 => 3_000..16_000_usize, 2 => 16_300..60_000_usize];
    prop_oneof![
        6 => (from.clone(), to.clone(), size).prop_map(|(from, to, size)| SessionAction::Send { from, to, size }),
        1 => (from, to.clone()).prop_map(|(from, to)| SessionAction::SendInOrder { from, to }),
        2 => to.clone().prop_map(SessionAction::Pause),
        2 => to.prop_map(SessionAction::Unpause),
        2 => (0..3_usize).prop_map(SessionAction::Transmit),
        3 => Just(SessionAction::TransmitBack),
        1 => (0..3_usize).prop_map(SessionAction::Cut),
    ]
}

/// The number of frames that one peer has sent, and the other has received, for each pair.
#[derive(Default)]
struct PairLog {
    sent: BTreeMap<(u64, u64), u64>,
    received: BTreeMap<(u64, u64), u64>,
}

impl PairLog {
    fn next(&mut self, from: u64, to: u64) -> u64 {
        let number = self.sent.entry((from, to)).or_default();
        *number += 1;
        *number
    }

    fn record_received(&mut self, frame: &Frame<'_>) {
        let Some((pair, number)) = PairLog::pair_and_number(frame) else { return };
        let last = self.received.entry(pair).or_default();
        assert_eq!(number, *last + 1, "frames of {pair:?} arrive in order and once");
        *last = number;
    }

    /// The pair and the number of a frame; `None` for a tag.
    fn pair_and_number(frame: &Frame<'_>) -> Option<((u64, u64), u64)> {
        Some(match frame {
            Frame::Message(message) => {
                let number = message.body.first_chunk().expect("a number");
                ((message.from.0, message.to.0), u64::from_le_bytes(*number))
            }
            // In this test the node id encodes the pair.
            Frame::NodeAt(at) => ((at.node.0 / 100, at.node.0 % 100), at.request),
            Frame::Tag(_) => return None,
            other => panic!("unexpected {}", other.name()),
        })
    }

    /// Checks the report that an end of the session would give now. It lists each missing frame once, and does not list a
    /// received frame as one that did not arrive.
    fn check_undelivered(&self, a: &mut TestPeer) {
        let mut listed = BTreeMap::new();
        a.session().undelivered(|frame, perhaps_arrived| {
            let (pair, number) = PairLog::pair_and_number(frame).expect("no tag");
            assert!(
                listed.insert((pair, number), perhaps_arrived).is_none(),
                "frame {number} of {pair:?} is listed twice"
            );
        });
        for (pair, sent) in &self.sent {
            let received = self.received.get(pair).copied().unwrap_or(0);
            for number in 1..=*sent {
                let perhaps_arrived = listed.get(&(*pair, number));
                assert!(
                    perhaps_arrived.is_some() || number <= received,
                    "frame {number} of {pair:?} is not listed"
                );
                assert!(
                    perhaps_arrived != Some(&false) || number > received,
                    "frame {number} of {pair:?} arrived"
                );
            }
        }
    }
}

fn transmit_records(a: &mut TestPeer, b: &mut TestPeer, log: &mut PairLog, records: usize) {
    let mut bytes = Vec::new();
    for _ in 0..records {
        a.session().poll_transmit(Time::START, &mut bytes);
        a.session().check();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        rest = &rest[b.input.push(rest)..];
        let session = b.session.as_mut().expect("the session exists");
        while let Some(mut frames) = session.next_record(Time::START, &mut b.input).expect("valid records") {
            while let Some(incoming) = session.next_frame(Time::START, &mut frames).expect("valid frames") {
                log.record_received(&incoming.frame());
            }
        }
        session.check();
    }
}

fn perform(action: &SessionAction, a: &mut TestPeer, b: &mut TestPeer, log: &mut PairLog) {
    match *action {
        SessionAction::Send { from, to, size } => {
            let mut body = log.next(from, to).to_le_bytes().to_vec();
            body.resize(8 + size, 7);
            a.session().send(&message(from, to, &body)).expect("the queue has room");
        }
        SessionAction::SendInOrder { from, to } => {
            let (request, node) = (log.next(from, to), NodeId(from * 100 + to));
            let at = NodeAt { request, node, name: "", locations: Locations::NONE };
            let pair = Pair::new(Key(from), Key(to));
            a.session().send_in_order(pair, &at.into()).expect("the queue has room");
        }
        SessionAction::Pause(actor) => assert!(b.session().pause(Key(actor))),
        SessionAction::Unpause(actor) => b.session().unpause(Key(actor)),
        SessionAction::Transmit(records) => transmit_records(a, b, log, records),
        SessionAction::TransmitBack => {
            b.transmit(Time::START, a);
        }
        SessionAction::Cut(records) => {
            for _ in 0..records {
                a.session().poll_transmit(Time::START, &mut Vec::new());
            }
            a.session().connection_lost();
            b.session().connection_lost();
            connect(a, b, Time::START).expect("the second handshake succeeds");
        }
    }
    a.session().check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pauses_and_cuts_keep_frames_in_order(actions in prop::collection::vec(action(), 1..80)) {
        let limits = Limits { window_bytes: 70_000, reassembly_bytes_max: 100_000, ..Limits::default() };
        let (mut a, mut b) = begun_pair(limits);
        a.session().intern("t").expect("a tag number is free");
        let mut log = PairLog::default();
        for action in &actions {
            perform(action, &mut a, &mut b, &mut log);
            log.check_undelivered(&mut a);
        }
        for actor in 10..13 {
            b.session().unpause(Key(actor));
        }
        for _ in 0..200 {
            b.transmit(Time::START, &mut a);
            transmit_records(&mut a, &mut b, &mut log, 20);
        }
        prop_assert_eq!(log.received, log.sent, "all frames have arrived");
        prop_assert_eq!(a.session().queued_bytes(), 0);
        b.session().on_timeout(seconds(1));
        b.transmit(Time::START, &mut a);
        a.session().undelivered(|frame, _| panic!("an acknowledged {} is listed", frame.name()));
    }
}
