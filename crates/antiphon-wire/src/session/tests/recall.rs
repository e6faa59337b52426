//! What waits for an actor when the peer pauses it, and what passes it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::ends::{End, begun, meet, message, seconds, told};
use crate::frame::{Frame, Goodbye, GoodbyeReason, NodeAt};
use crate::ids::{Key, NodeId, Pair};
use crate::session::HeldCredit;
use crate::{Limits, Locations, Time};

/// More than a window for actor 2 is under way, of which the peer holds back all that has arrived; then it pauses the actor.
fn stuck(bodies: usize) -> (End, End) {
    let (mut a, mut b) = begun(Limits::default());
    a.session().intern("t").expect("room");
    for number in 0..bodies {
        let body = format!("{number:0>50}");
        a.session().send(&message(1, 2, body.as_bytes())).expect("room");
    }
    let held = a.talk_and_be_held(&mut b);
    assert!(held.len() < bodies, "a window full of them");
    b.session().pause(Key(2));
    // The actor took a few after all, so there is room for whom it may concern.
    held.into_iter().take(1000).for_each(|held| b.session().release(held));
    b.talk(Time::START, &mut a);
    (a, b)
}

#[test]
fn what_was_sent_at_once_to_a_paused_actor_stays_and_others_pass() {
    let (mut a, mut b) = stuck(40_000);
    let queued = a.session().queued_bytes();
    a.session().send(&message(1, 3, b"passes")).expect("room");
    assert_eq!(a.talk(Time::START, &mut b), ["3:passes"]);
    assert_eq!(a.session().queued_bytes(), queued, "nothing else left, and nothing is forgotten");
    a.session().check();
}

#[test]
fn what_was_taken_back_arrives_in_order_before_what_was_sent_later() {
    let (mut a, mut b) = stuck(40_000);
    a.talk(Time::START, &mut b);
    a.session().send(&message(1, 2, b"last")).expect("room");
    assert_eq!(a.talk(Time::START, &mut b), [] as [&str; 0]);
    b.session().unpause(Key(2));
    let mut heard = Vec::new();
    while a.session().queued_bytes() > 0 {
        b.talk(Time::START, &mut a);
        heard.extend(a.talk(Time::START, &mut b));
    }
    assert_eq!(heard.pop().as_deref(), Some("2:last"));
    let first = 40_000 - heard.len();
    let expected: Vec<String> = (first..40_000).map(|number| format!("2:{number:0>50}")).collect();
    assert_eq!(heard, expected);
}

/// A window is nearly full, and two large frames wait, of which the peer puts one together at a time.
fn two_large(window_left: usize) -> (End, End, Vec<HeldCredit>) {
    let limits = Limits { window_bytes: 64 * 1024, reassembly_bytes_max: 150_000, ..Limits::default() };
    let (mut a, mut b) = begun(limits);
    a.session().intern("t").expect("room");
    for _ in 0..4 {
        let body = vec![7; (64 * 1024 - window_left) / 4 - 40];
        a.session().send(&message(1, 4, &body)).expect("room");
    }
    let large = vec![7; 100_000];
    a.session().send(&message(1, 2, &large)).expect("room");
    a.session().send(&message(1, 3, &large)).expect("room");
    let held = a.talk_and_be_held(&mut b);
    b.session().pause(Key(2));
    b.talk(Time::START, &mut a);
    (a, b, held)
}

fn talk_both_ways(a: &mut End, b: &mut End) -> Vec<String> {
    let mut heard = Vec::new();
    for _ in 0..10 {
        b.talk(Time::START, a);
        heard.extend(a.talk(Time::START, b));
    }
    heard
}

#[test]
fn a_large_frame_of_which_nothing_has_left_makes_room_for_another() {
    let (mut a, mut b, held) = two_large(1_000);
    assert_eq!(held.len(), 5, "a tag, and what fills the window");
    held.into_iter().for_each(|held| b.session().release(held));
    assert_eq!(talk_both_ways(&mut a, &mut b), ["3:100000"]);
    b.session().unpause(Key(2));
    assert_eq!(talk_both_ways(&mut a, &mut b), ["2:100000"]);
}

#[test]
fn a_large_frame_that_has_begun_keeps_its_room_and_goes_on_later() {
    let (mut a, mut b, held) = two_large(20_000);
    assert_eq!(held.len(), 5, "and a fragment, which is the session's own");
    held.into_iter().for_each(|held| b.session().release(held));
    assert_eq!(talk_both_ways(&mut a, &mut b), [] as [&str; 0]);
    b.session().unpause(Key(2));
    assert_eq!(talk_both_ways(&mut a, &mut b), ["2:100000", "3:100000"]);
}

#[test]
fn nothing_is_taken_back_from_before_a_goodbye() {
    let (mut a, mut b) = begun(Limits { window_bytes: 64 * 1024, ..Limits::default() });
    a.session().intern("t").expect("room");
    let before = a.session().frames_sent();
    a.session().send(&message(1, 2, b"said before")).expect("room");
    a.session().send(&Frame::Goodbye(Goodbye { reason: GoodbyeReason::Leaving })).expect("room");
    b.session().pause(Key(2));
    b.talk(Time::START, &mut a);
    assert_eq!(a.talk(Time::START, &mut b), ["tag 0 = t", "2:said before", "Goodbye"]);
    assert_eq!(a.session().frames_sent(), before + 2);
}

#[test]
fn what_was_taken_back_is_told_of_when_the_session_ends_and_did_not_arrive() {
    let (mut a, mut b) = stuck(40_000);
    let heard = b.session().frames_received();
    a.talk(Time::START, &mut b);
    let mut told = Vec::new();
    a.session().undelivered(|_, perhaps_arrived| told.push(perhaps_arrived));
    let recalled = told.iter().filter(|perhaps| !**perhaps).count() as u64;
    assert_eq!(recalled, 40_001 - heard, "all but the tag and what had arrived");
}

#[test]
fn a_large_frame_that_moved_up_is_told_of_until_it_is_acknowledged_and_no_longer() {
    let (mut a, mut b) = begun(Limits { window_bytes: 64 * 1024, ..Limits::default() });
    a.session().intern("t").expect("room");
    let mut held = Vec::new();
    for (to, size, count) in [(4, 13_000, 5), (2, 1_000, 60), (3, 30_000, 1)] {
        (0..count).for_each(|_| a.session().send(&message(1, to, &vec![7; size])).expect("room"));
        held.extend(a.talk_and_be_held(&mut b));
    }
    b.session().pause(Key(2));
    held.into_iter().for_each(|held| b.session().release(held));
    let heard = talk_both_ways(&mut a, &mut b);
    assert_eq!(heard, ["3:30000"]);
    b.session().on_timeout(seconds(1));
    b.talk(Time::START, &mut a);
    let mut left = Vec::new();
    a.session().undelivered(|frame, _| left.push(told(frame)));
    assert_eq!(left, vec!["2:1000"; 60]);
}

#[derive(Debug, Clone)]
enum Act {
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
    /// The sender transmits so many records.
    Speak(usize),
    /// The receiver says all that it has to say.
    Answer,
    /// The connection is lost with so many records on it.
    Cut(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let (from, to) = (1..3_u64, 10..13_u64);
    let size = prop_oneof![3 => 0..200_usize, 2 => 3_000..16_000_usize, 2 => 16_300..60_000_usize];
    prop_oneof![
        6 => (from.clone(), to.clone(), size).prop_map(|(from, to, size)| Act::Send { from, to, size }),
        1 => (from, to.clone()).prop_map(|(from, to)| Act::SendInOrder { from, to }),
        2 => to.clone().prop_map(Act::Pause),
        2 => to.prop_map(Act::Unpause),
        2 => (0..3_usize).prop_map(Act::Speak),
        3 => Just(Act::Answer),
        1 => (0..3_usize).prop_map(Act::Cut),
    ]
}

/// What one end has sent, and what the other has heard of each pair.
#[derive(Default)]
struct Book {
    sent: BTreeMap<(u64, u64), u64>,
    heard: BTreeMap<(u64, u64), u64>,
}

impl Book {
    fn next(&mut self, from: u64, to: u64) -> u64 {
        let number = self.sent.entry((from, to)).or_default();
        *number += 1;
        *number
    }

    fn hear(&mut self, frame: &Frame<'_>) {
        let Some((pair, number)) = Book::read(frame) else { return };
        let last = self.heard.entry(pair).or_default();
        assert_eq!(number, *last + 1, "of {pair:?}, in order and once");
        *last = number;
    }

    /// The pair and the number of a frame.
    fn read(frame: &Frame<'_>) -> Option<((u64, u64), u64)> {
        Some(match frame {
            Frame::Message(message) => {
                let number = message.body.first_chunk().expect("a number");
                ((message.from.0, message.to.0), u64::from_le_bytes(*number))
            }
            // The pair stands in the name of the node, which is nobody else's business here.
            Frame::NodeAt(at) => ((at.node.0 / 100, at.node.0 % 100), at.request),
            Frame::Tag(_) => return None,
            other => panic!("nobody sent {}", other.name()),
        })
    }

    /// If the session ended now, each frame that was not heard would be told of once, and nobody would be told that one did
    /// not arrive which did.
    fn check_undelivered(&self, a: &mut End) {
        let mut listed = BTreeMap::new();
        a.session().undelivered(|frame, perhaps_arrived| {
            let (pair, number) = Book::read(frame).expect("no tag");
            assert!(
                listed.insert((pair, number), perhaps_arrived).is_none(),
                "{pair:?} {number} is told of twice"
            );
        });
        for (pair, sent) in &self.sent {
            let heard = self.heard.get(pair).copied().unwrap_or(0);
            for number in 1..=*sent {
                let told = listed.get(&(*pair, number));
                assert!(told.is_some() || number <= heard, "nobody is told of {pair:?} {number}");
                assert!(told != Some(&false) || number > heard, "{pair:?} {number} arrived");
            }
        }
    }
}

fn speak(a: &mut End, b: &mut End, book: &mut Book, records: usize) {
    let mut bytes = Vec::new();
    for _ in 0..records {
        a.session().poll_transmit(Time::START, &mut bytes);
        a.session().check();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        rest = &rest[b.input.push(rest)..];
        let session = b.session.as_mut().expect("they have met");
        while let Some(mut frames) = session.next_record(Time::START, &mut b.input).expect("sound records") {
            while let Some(incoming) = session.next_frame(Time::START, &mut frames).expect("sound frames") {
                book.hear(&incoming.frame());
            }
        }
        session.check();
    }
}

fn perform(act: &Act, a: &mut End, b: &mut End, book: &mut Book) {
    match *act {
        Act::Send { from, to, size } => {
            let mut body = book.next(from, to).to_le_bytes().to_vec();
            body.resize(8 + size, 7);
            a.session().send(&message(from, to, &body)).expect("room");
        }
        Act::SendInOrder { from, to } => {
            let (request, node) = (book.next(from, to), NodeId(from * 100 + to));
            let at = NodeAt { request, node, name: "", locations: Locations::NONE };
            let pair = Pair { to: Key(to), from: Key(from) };
            a.session().send_in_order(pair, &at.into()).expect("room");
        }
        Act::Pause(actor) => b.session().pause(Key(actor)),
        Act::Unpause(actor) => b.session().unpause(Key(actor)),
        Act::Speak(records) => speak(a, b, book, records),
        Act::Answer => {
            b.talk(Time::START, a);
        }
        Act::Cut(records) => {
            for _ in 0..records {
                a.session().poll_transmit(Time::START, &mut Vec::new());
            }
            a.session().disconnected();
            b.session().disconnected();
            meet(a, b, Time::START).expect("they meet again");
        }
    }
    a.session().check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pauses_and_cuts_at_any_time_lose_repeat_and_reorder_nothing(acts in prop::collection::vec(act(), 1..80)) {
        let limits = Limits { window_bytes: 70_000, reassembly_bytes_max: 100_000, ..Limits::default() };
        let (mut a, mut b) = begun(limits);
        a.session().intern("t").expect("room");
        let mut book = Book::default();
        for act in &acts {
            perform(act, &mut a, &mut b, &mut book);
            book.check_undelivered(&mut a);
        }
        for actor in 10..13 {
            b.session().unpause(Key(actor));
        }
        for _ in 0..200 {
            b.talk(Time::START, &mut a);
            speak(&mut a, &mut b, &mut book, 20);
        }
        prop_assert_eq!(book.heard, book.sent, "all has arrived");
        prop_assert_eq!(a.session().queued_bytes(), 0);
        b.session().on_timeout(seconds(1));
        b.talk(Time::START, &mut a);
        a.session().undelivered(|frame, _| panic!("{} is acknowledged", frame.name()));
    }
}
