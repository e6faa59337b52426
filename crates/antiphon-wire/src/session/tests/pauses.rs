//! Pauses: the frames that wait for a paused actor, and the frames that pass them.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::test_peer::{TestPeer, begun_pair, connect, describe, message, seconds};
use crate::frame::{Answer, Frame, Goodbye, GoodbyeReason, Message, Throw};
use crate::ids::{Key, TagId};
use crate::session::HeldCredit;
use crate::{Limits, Route, Time};

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
    assert!(b.session().pause(Key::from_bits(2)));
    // The release of some frames returns credit, so other actors have room.
    held.into_iter().take(1000).for_each(|held| b.session().release(held));
    b.transmit(Time::ZERO, &mut a);
    (a, b)
}

#[test]
fn paused_actors_burst_stays_while_others_pass() {
    let (mut a, mut b) = blocked_pair(40_000);
    let queued = a.session().queued_bytes();
    a.session().send(&message(1, 3, b"passes")).expect("the queue has room");
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["3:passes"]);
    assert_eq!(a.session().queued_bytes(), queued, "all other frames stay queued");
    a.session().check();
}

#[test]
fn held_frames_arrive_before_later_ones() {
    let (mut a, mut b) = blocked_pair(40_000);
    a.transmit(Time::ZERO, &mut b);
    a.session().send(&message(1, 2, b"last")).expect("the queue has room");
    assert_eq!(a.transmit(Time::ZERO, &mut b), [] as [&str; 0]);
    b.session().unpause(Key::from_bits(2));
    let mut received = Vec::new();
    while a.session().queued_bytes() > 0 {
        b.transmit(Time::ZERO, &mut a);
        received.extend(a.transmit(Time::ZERO, &mut b));
    }
    assert_eq!(received.pop().as_deref(), Some("2:last"));
    assert!(received.len() > 20_000, "only {} frames were held", received.len());
    let first = 40_000 - received.len();
    let expected: Vec<String> = (first..40_000).map(|number| format!("2:{number:0>50}")).collect();
    assert_eq!(received, expected);
}

/// So many bytes of the window are left, and two large frames wait. The peer has room to reassemble one at a time.
fn pair_with_two_large(window_left: usize) -> (TestPeer, TestPeer, Vec<HeldCredit>) {
    let limits = Limits { window_bytes: 128 * 1024, reassembly_bytes_max: 150_000, ..Limits::default() };
    let (mut a, mut b) = begun_pair(limits);
    a.session().intern("t").expect("a tag number is free");
    for _ in 0..8 {
        let body = vec![7; (128 * 1024 - window_left) / 8 - 40];
        a.session().send(&message(1, 4, &body)).expect("the queue has room");
    }
    let large = vec![7; 100_000];
    a.session().send(&message(1, 2, &large)).expect("the queue has room");
    a.session().send(&message(1, 3, &large)).expect("the queue has room");
    let held = a.transmit_held(&mut b);
    assert!(b.session().pause(Key::from_bits(2)));
    b.transmit(Time::ZERO, &mut a);
    (a, b, held)
}

fn transmit_both_ways(a: &mut TestPeer, b: &mut TestPeer) -> Vec<String> {
    let mut received = Vec::new();
    for _ in 0..10 {
        b.transmit(Time::ZERO, a);
        received.extend(a.transmit(Time::ZERO, b));
    }
    received
}

#[test]
fn large_frame_of_paused_actor_takes_no_room() {
    let (mut a, mut b, held) = pair_with_two_large(34_000);
    assert_eq!(held.len(), 9, "a tag, and the frames that fill the window");
    held.into_iter().for_each(|held| b.session().release(held));
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["3:100000"]);
    b.session().unpause(Key::from_bits(2));
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["2:100000"]);
}

/// The peer has reserved room for a large frame that has begun. If it waited for its paused actor, it would keep that room
/// from the large frames of all other actors.
#[test]
fn begun_large_frame_continues_despite_pause() {
    let (mut a, mut b, held) = pair_with_two_large(60_000);
    assert_eq!(held.len(), 9, "the session handles the fragment itself");
    held.into_iter().for_each(|held| b.session().release(held));
    a.session().send(&message(1, 2, b"behind it")).expect("the queue has room");
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["2:100000", "3:100000"]);
    b.session().unpause(Key::from_bits(2));
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["2:behind it"]);
}

/// Large urgent frames of two senders: one has begun when the pause arrives, and the other finds no room beside it.
#[test]
fn begun_urgent_frame_is_first_to_pass_pause() {
    let limits = Limits { window_bytes: 70_000, reassembly_bytes_max: 100_000, ..Limits::default() };
    let (mut a, mut b) = begun_pair(limits);
    a.session().intern("t").expect("a tag number is free");
    let body = vec![7; 90_000];
    let throw = |from, size| Throw {
        from: Key::from_bits(from),
        target: Key::from_bits(2),
        tag: TagId(0),
        body: &body[..size],
    };
    a.session().send(&throw(5, 90_000).into()).expect("the reserve has room");
    a.session().poll_transmit(Time::ZERO, &mut Vec::new());
    a.session().send(&throw(1, 60_000).into()).expect("the reserve has room");
    a.session().connection_lost();
    b.session().connection_lost();
    connect(&mut a, &mut b, Time::ZERO).expect("the second handshake succeeds");
    assert!(b.session().pause(Key::from_bits(2)));
    assert_eq!(transmit_both_ways(&mut a, &mut b), ["tag 0 = t", "Throw", "Throw"]);
}

#[test]
fn frames_before_goodbye_pass_pause() {
    let (mut a, mut b) = begun_pair(Limits { window_bytes: 64 * 1024, ..Limits::default() });
    a.session().intern("t").expect("a tag number is free");
    let before = a.session().frames_sent();
    a.session().send(&message(1, 2, b"before")).expect("the queue has room");
    a.session()
        .send(&Frame::Goodbye(Goodbye { reason: GoodbyeReason::Leaving }))
        .expect("the queue has room");
    assert!(b.session().pause(Key::from_bits(2)));
    b.transmit(Time::ZERO, &mut a);
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["tag 0 = t", "2:before", "Goodbye"]);
    assert_eq!(a.session().frames_sent(), before + 2);
}

#[test]
fn undelivered_reports_held_frames() {
    let (mut a, mut b) = blocked_pair(40_000);
    let received = b.session().frames_received();
    a.transmit(Time::ZERO, &mut b);
    let mut listed = Vec::new();
    a.session().undelivered(|_, perhaps_arrived| listed.push(perhaps_arrived));
    let held = listed.iter().filter(|perhaps_arrived| !**perhaps_arrived).count() as u64;
    assert_eq!(held, 40_001 - received, "all but the tag and the received frames");
}

/// The large frame is listed until its last fragment is acknowledged.
#[test]
fn undelivered_omits_acknowledged_large_frame() {
    let (mut a, mut b) = begun_pair(Limits { window_bytes: 128 * 1024, ..Limits::default() });
    a.session().intern("t").expect("a tag number is free");
    let mut held = Vec::new();
    for (to, size, count) in [(4, 14_000, 7), (2, 1_000, 60), (3, 30_000, 1)] {
        (0..count)
            .for_each(|_| a.session().send(&message(1, to, &vec![7; size])).expect("the queue has room"));
        held.extend(a.transmit_held(&mut b));
    }
    assert!(b.session().pause(Key::from_bits(2)));
    held.into_iter().for_each(|held| b.session().release(held));
    let received = transmit_both_ways(&mut a, &mut b);
    assert_eq!(received, ["3:30000"]);
    b.session().on_timeout(seconds(1));
    b.transmit(Time::ZERO, &mut a);
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
    /// As `Send`, but the message asks for a receipt, so it can be withdrawn.
    Deliver {
        from: u64,
        to: u64,
        size: usize,
    },
    /// Withdraws the delivery with this index among those that were sent, counted from the last.
    Withdraw(usize),
    Throw {
        from: u64,
        to: u64,
        size: usize,
    },
    Answer {
        from: u64,
        size: usize,
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
    let to = 10..13_u64;
    let sized = || {
        let size = prop_oneof![3 => 0..200_usize, 2 => 3_000..16_000_usize, 2 => 16_300..60_000_usize];
        (1..3_u64, 10..13_u64, size)
    };
    prop_oneof![
        5 => sized().prop_map(|(from, to, size)| SessionAction::Send { from, to, size }),
        4 => sized().prop_map(|(from, to, size)| SessionAction::Deliver { from, to, size }),
        3 => (0..10_usize).prop_map(SessionAction::Withdraw),
        2 => sized().prop_map(|(from, to, size)| SessionAction::Throw { from, to, size }),
        1 => sized().prop_map(|(from, _, size)| SessionAction::Answer { from, size }),
        2 => to.clone().prop_map(SessionAction::Pause),
        2 => to.prop_map(SessionAction::Unpause),
        2 => (0..3_usize).prop_map(SessionAction::Transmit),
        3 => Just(SessionAction::TransmitBack),
        1 => (0..3_usize).prop_map(SessionAction::Cut),
    ]
}

/// What one peer has sent, and the other has received.
#[derive(Default)]
struct PairLog {
    /// For each pair: the number of its frames, in the order in which they were sent.
    sent: BTreeMap<(u64, u64), Vec<SentFrame>>,
    /// For each pair: the numbers that have arrived.
    received: BTreeMap<(u64, u64), Vec<u64>>,
    /// The deliveries: pair and number. The index is the receipt.
    deliveries: Vec<((u64, u64), u64)>,
    withdrawn: u64,
    overtaken: u64,
}

#[derive(Clone, Copy)]
struct SentFrame {
    number: u64,
    is_urgent: bool,
    is_withdrawn: bool,
}

impl PairLog {
    /// The number of the next frame of a pair.
    fn next(&mut self, from: u64, to: u64, is_urgent: bool) -> u64 {
        let sent = self.sent.entry((from, to)).or_default();
        let number = sent.len() as u64 + 1;
        sent.push(SentFrame { number, is_urgent, is_withdrawn: false });
        number
    }

    /// Records the arrival of a frame. All frames of its pair that were sent before have arrived or were withdrawn. Only an
    /// urgent frame may have overtaken others, and no urgent one.
    fn record_received(&mut self, frame: &Frame<'_>) {
        let Some((pair, number)) = PairLog::pair_and_number(frame) else { return };
        let sent = &self.sent[&pair];
        let received = self.received.entry(pair).or_default();
        assert!(!received.contains(&number), "frame {number} of {pair:?} arrives once");
        let SentFrame { is_urgent, is_withdrawn, .. } = sent[number as usize - 1];
        assert!(!is_withdrawn, "frame {number} of {pair:?} was withdrawn");
        for earlier in &sent[..number as usize - 1] {
            if !earlier.is_withdrawn && !received.contains(&earlier.number) {
                assert!(
                    is_urgent && !earlier.is_urgent,
                    "frame {number} of {pair:?} overtook {}",
                    earlier.number
                );
                self.overtaken += 1;
            }
        }
        received.push(number);
    }

    /// The pair and the number of a frame; `None` for a tag.
    fn pair_and_number(frame: &Frame<'_>) -> Option<((u64, u64), u64)> {
        let number = |body: &[u8]| u64::from_le_bytes(*body.first_chunk().expect("a number"));
        Some(match frame {
            Frame::Message(message) => ((message.from.to_bits(), message.to.to_bits()), number(message.body)),
            Frame::Throw(throw) => ((throw.from.to_bits(), throw.target.to_bits()), number(throw.body)),
            Frame::Answer(answer) => ((answer.from.to_bits(), answer.to.to_bits()), number(answer.body)),
            // In this test the node id encodes the pair.
            Frame::NodeAt(at) => ((at.node.to_bits() / 100, at.node.to_bits() % 100), at.request),
            Frame::Tag(_) => return None,
            other => panic!("unexpected {}", other.name()),
        })
    }

    /// Checks the report that an end of the session would give now. It lists each missing frame once, and does not list a
    /// received frame as one that did not arrive, or a withdrawn one at all.
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
            for SentFrame { number, is_withdrawn, .. } in sent {
                let perhaps_arrived = listed.get(&(*pair, *number));
                let is_received = self.received.get(pair).is_some_and(|received| received.contains(number));
                assert!(
                    perhaps_arrived.is_some() || is_received || *is_withdrawn,
                    "frame {number} of {pair:?} is not listed"
                );
                assert!(
                    perhaps_arrived != Some(&false) || !is_received,
                    "frame {number} of {pair:?} arrived"
                );
                assert!(
                    perhaps_arrived.is_none() || !is_withdrawn,
                    "frame {number} of {pair:?} was withdrawn"
                );
            }
        }
    }

    /// All frames have arrived that were not withdrawn.
    fn check_complete(&self) {
        for (pair, sent) in &self.sent {
            let expected = sent.iter().filter(|frame| !frame.is_withdrawn).count();
            assert_eq!(self.received.get(pair).map_or(0, Vec::len), expected, "frames of {pair:?}");
        }
    }
}

fn transmit_records(a: &mut TestPeer, b: &mut TestPeer, log: &mut PairLog, records: usize) {
    let mut bytes = Vec::new();
    for _ in 0..records {
        a.session().poll_transmit(Time::ZERO, &mut bytes);
        a.session().check();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        rest = &rest[b.input.push(rest)..];
        let session = b.session.as_mut().expect("the session exists");
        while let Some(mut frames) = session.next_record(Time::ZERO, &mut b.input).expect("valid records") {
            while let Some(incoming) = session.next_frame(Time::ZERO, &mut frames).expect("valid frames") {
                log.record_received(&incoming.frame());
            }
        }
        session.check();
    }
}

fn numbered(number: u64, size: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(8 + size, 7);
    body
}

fn perform(action: &SessionAction, a: &mut TestPeer, b: &mut TestPeer, log: &mut PairLog) {
    match *action {
        SessionAction::Send { from, to, size } => {
            let body = numbered(log.next(from, to, false), size);
            a.session().send(&message(from, to, &body)).expect("the queue has room");
        }
        SessionAction::Deliver { from, to, size } => {
            let number = log.next(from, to, false);
            let (body, receipt) = (numbered(number, size), Some(log.deliveries.len() as u64));
            log.deliveries.push(((from, to), number));
            let (to, from) = (Key::from_bits(to), Key::from_bits(from));
            let message = Message { to, from, tag: TagId(0), receipt, route: Route::NONE, body: &body };
            a.session().send(&message.into()).expect("the queue has room");
        }
        SessionAction::Withdraw(index) => {
            let Some(receipt) = log.deliveries.len().checked_sub(index + 1) else { return };
            let (pair, number) = log.deliveries[receipt];
            let sent = &mut log.sent.get_mut(&pair).expect("it was sent")[number as usize - 1];
            if a.session().withdraw(Key::from_bits(pair.1), receipt as u64).is_some() {
                assert!(!sent.is_withdrawn, "a message is withdrawn once");
                (sent.is_withdrawn, log.withdrawn) = (true, log.withdrawn + 1);
            }
        }
        SessionAction::Throw { from, to, size } => {
            let body = numbered(log.next(from, to, true), size);
            let throw =
                Throw { from: Key::from_bits(from), target: Key::from_bits(to), tag: TagId(0), body: &body };
            a.session().send(&throw.into()).expect("the reserve has room");
        }
        SessionAction::Answer { from, size } => {
            // Each request has one answer. Its id may be the key of a paused actor in another pair.
            let request = 10 + log.sent.keys().filter(|pair| pair.0 >= 5).count() as u64;
            let body = numbered(log.next(from + 5, request, false), size);
            let (to, from) = (Key::from_bits(request), Key::from_bits(from + 5));
            let answer = Answer { to, from, tag: TagId(0), route: Route::NONE, body: &body };
            a.session().send(&answer.into()).expect("the reserve has room");
        }
        SessionAction::Pause(actor) => assert!(b.session().pause(Key::from_bits(actor))),
        SessionAction::Unpause(actor) => b.session().unpause(Key::from_bits(actor)),
        SessionAction::Transmit(records) => transmit_records(a, b, log, records),
        SessionAction::TransmitBack => {
            b.transmit(Time::ZERO, a);
        }
        SessionAction::Cut(records) => {
            for _ in 0..records {
                a.session().poll_transmit(Time::ZERO, &mut Vec::new());
            }
            a.session().connection_lost();
            b.session().connection_lost();
            connect(a, b, Time::ZERO).expect("the second handshake succeeds");
        }
    }
    a.session().check();
}

/// Checks all promises of the send queue on random runs; and that urgent frames have overtaken others, and messages were
/// withdrawn.
#[test]
fn pauses_and_cuts_keep_frames_in_order() {
    let config = Config { source_file: Some(file!()), ..Config::with_cases(300) };
    let (withdrawn, overtaken) = (Cell::new(0), Cell::new(0));
    let actions = (prop::collection::vec(action(), 1..80), prop::bool::ANY);
    let result = TestRunner::new(config).run(&actions, |(actions, has_little_ahead)| {
        let limits = Limits { window_bytes: 70_000, reassembly_bytes_max: 100_000, ..Limits::default() };
        let ahead = if has_little_ahead { 2_000 } else { limits.queue_bytes_low };
        let (mut a, mut b) = begun_pair(Limits { queue_bytes_low: ahead, ..limits });
        a.session().intern("t").expect("a tag number is free");
        let mut log = PairLog::default();
        for action in &actions {
            perform(action, &mut a, &mut b, &mut log);
            log.check_undelivered(&mut a);
        }
        for actor in 10..13 {
            b.session().unpause(Key::from_bits(actor));
        }
        for _ in 0..200 {
            b.transmit(Time::ZERO, &mut a);
            transmit_records(&mut a, &mut b, &mut log, 20);
        }
        log.check_complete();
        assert_eq!(a.session().queued_bytes(), 0);
        assert_eq!(a.session().queued_for_actors() + a.session().queued_in_reserve(), 0);
        b.session().on_timeout(seconds(1));
        b.transmit(Time::ZERO, &mut a);
        a.session().undelivered(|frame, _| panic!("an acknowledged {} is listed", frame.name()));
        withdrawn.set(withdrawn.get() + log.withdrawn);
        overtaken.set(overtaken.get() + log.overtaken);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(withdrawn.get() > 50, "only {} messages were withdrawn", withdrawn.get());
    assert!(overtaken.get() > 50, "only {} frames were overtaken", overtaken.get());
}
