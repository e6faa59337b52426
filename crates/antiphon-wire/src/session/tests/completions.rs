//! Answers and other completions: their part of the credit, and the bound on those that wait.

use super::test_peer::{TestPeer, begun_pair, message, seconds};
use crate::frame::{Answer, Credit, Down, DownReason, Frame, Message, Outcome, Receipt};
use crate::ids::{Key, NodeId, TagId};
use crate::session::{HeldCredit, SendRefused, SessionEvent};
use crate::{Limits, Route, Time};

fn receipt(request: u64) -> Frame<'static> {
    Receipt { request, outcome: Outcome::NoActor }.into()
}

fn deliver(receipt: u64, body: &[u8]) -> Frame<'_> {
    Message {
        to: Key::from_bits(2),
        from: Key::from_bits(1),
        tag: TagId(0),
        receipt: Some(receipt),
        route: Route::NONE,
        body,
    }
    .into()
}

/// Two nodes, of which the first has used all credit for messages. The second holds the credit of all of them.
fn pair_without_credit(limits: Limits) -> (TestPeer, TestPeer, Vec<HeldCredit>) {
    let (mut a, mut b) = begun_pair(limits);
    a.session().intern("t").expect("a tag number is free");
    let body = [7; 1000];
    for _ in 0..limits.window_bytes / 500 {
        a.session().send(&message(1, 2, &body)).expect("the queue has room");
    }
    let held = a.transmit_held(&mut b);
    assert!(a.session().queued_for_actors() > 0, "messages wait for credit");
    (a, b, held)
}

#[test]
fn answers_pass_messages_without_credit() {
    let (mut a, mut b, held) = pair_without_credit(Limits::default());
    let large = vec![7; 500_000];
    let answer = Answer {
        to: Key::from_bits(9),
        from: Key::from_bits(1),
        tag: TagId(0),
        route: Route::NONE,
        body: &large,
    };
    a.session().send(&answer.into()).expect("the reserve has room");
    let no_actor = Down {
        watcher: Key::from_bits(5),
        actor: Key::from_bits(0),
        node: NodeId::from_bits(1),
        id: 4,
        reason: DownReason::NoActor,
    };
    a.session().send(&no_actor.into()).expect("a completion");
    (0..10_000).for_each(|request| a.session().send(&receipt(request)).expect("a completion"));
    let mut received = Vec::new();
    for _ in 0..100 {
        received.extend(a.transmit(Time::ZERO, &mut b));
        b.transmit(Time::ZERO, &mut a);
        a.session().check();
    }
    let of = |name| received.iter().filter(|received| *received == name).count();
    assert_eq!((of("Answer"), of("Down"), of("Receipt")), (1, 1, 10_000));
    assert!(a.session().queued_for_actors() > 0, "the messages still wait for credit");
    held.into_iter().for_each(|held| b.session().release(held));
    for _ in 0..100 {
        b.transmit(Time::ZERO, &mut a);
        a.transmit(Time::ZERO, &mut b);
    }
    assert_eq!(a.session().queued_bytes(), 0);
}

/// A `Down` arrives after the messages of its actor, also when these wait for credit.
#[test]
fn down_stays_behind_messages_of_its_actor() {
    let (mut a, mut b, held) = pair_without_credit(Limits::default());
    let down = |actor| Down {
        watcher: Key::from_bits(2),
        actor: Key::from_bits(actor),
        node: NodeId::from_bits(1),
        id: 4,
        reason: DownReason::Terminated,
    };
    a.session().send(&down(1).into()).expect("a completion");
    a.session().send(&down(3).into()).expect("a completion");
    assert_eq!(a.transmit(Time::ZERO, &mut b), [] as [&str; 0], "they wait for credit as messages do");
    held.into_iter().for_each(|held| b.session().release(held));
    let mut received = Vec::new();
    for _ in 0..100 {
        b.transmit(Time::ZERO, &mut a);
        received.extend(a.transmit(Time::ZERO, &mut b));
    }
    let (downs, last) = (received.iter().filter(|received| *received == "Down").count(), received.pop());
    assert_eq!((downs, last.as_deref()), (2, Some("Down")));
    let first = received.iter().position(|received| received == "Down");
    assert!(first.is_some_and(|first| first < 100), "that of another actor passes the messages: {first:?}");
}

/// The receiver of many messages that ask for receipts cannot send these. It returns no more credit, so at most a window of
/// further messages arrives.
#[test]
fn untaken_receipts_withhold_credit() {
    let (mut a, mut b) = begun_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    let mut receipts = 0_u64;
    for _ in 0..2_000 {
        (0..500).for_each(|number| {
            let _refused = a.session().send(&deliver(number, b""));
        });
        // `b` cannot transmit its receipts, but its control frames arrive.
        let arrived = a.transmit(Time::ZERO, &mut b).len() as u64;
        (0..arrived).for_each(|_| b.session().send(&receipt(receipts)).expect("a completion"));
        receipts += arrived;
        let until = b.session().inbound.take_credit();
        a.session().process_control(Frame::Credit(Credit { until })).expect("credit");
    }
    b.session().check();
    let waiting = b.session().queued_bytes();
    assert!((4 << 20..6 << 20).contains(&waiting), "{waiting} bytes of receipts wait");
    assert_eq!(waiting, receipts * receipt(0).encoded_size());
}

/// On both sides many receipts wait, so that each withholds the other's credit for messages. Both still finish.
#[test]
fn floods_in_both_directions_finish() {
    let (mut a, mut b) = begun_pair(Limits::default());
    let count = 800_000_u64;
    for peer in [&mut a, &mut b] {
        peer.session().intern("t").expect("a tag number is free");
        for number in 0..count {
            peer.session().send(&message(1, 2, b"")).expect("the queue has room");
            peer.session().send(&receipt(number)).expect("a completion");
        }
        assert!(peer.session().send_queue.is_full_of_answers());
    }
    let (mut messages, mut receipts, mut withheld) = ([0_u64; 2], [0_u64; 2], [false; 2]);
    let mut is_over = false;
    while !is_over {
        is_over = true;
        for side in [0, 1] {
            let (from, to) = if side == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let mut out = Vec::new();
            from.session().poll_transmit(Time::ZERO, &mut out);
            let received = to.receive(Time::ZERO, &out);
            is_over &= out.is_empty();
            withheld[side] |= to.session().inbound.withheld() > 0;
            messages[side] += received.iter().filter(|frame| *frame == "2:").count() as u64;
            receipts[side] += received.iter().filter(|frame| *frame == "Receipt").count() as u64;
        }
    }
    assert_eq!(withheld, [true; 2], "both sides withheld credit");
    assert_eq!((messages, receipts), ([count; 2], [count; 2]));
}

#[test]
fn peer_that_acknowledges_nothing_is_unresponsive() {
    let (mut a, _b, _held) = pair_without_credit(Limits::default());
    (0..400_000).for_each(|request| a.session().send(&receipt(request)).expect("a completion"));
    // The peer is not silent: something of it arrives each second.
    for second in 1..=16 {
        a.session().poll_transmit(seconds(second), &mut Vec::new());
        a.session().on_received(seconds(second));
        a.session().on_timeout(seconds(second));
        let expected = (second == 16).then_some(SessionEvent::Unresponsive);
        assert_eq!(a.session().poll_event(), expected, "after {second} s");
    }
}

/// A peer that grants any credit, and acknowledges nothing, makes this side keep a bounded number of bytes.
#[test]
fn unacknowledged_bytes_are_bounded() {
    let (mut a, _b) = begun_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    a.session().process_control(Frame::Credit(Credit { until: u64::MAX })).expect("credit");
    let body = vec![7; 100_000];
    let mut transmitted = 0;
    while !matches!(a.session().send(&message(1, 2, &body)), Err(SendRefused::Busy { .. })) {
        let mut out = Vec::new();
        while a.session().poll_transmit(Time::ZERO, &mut out) {
            transmitted += out.len();
            out.clear();
        }
    }
    assert!((15 << 20..17 << 20).contains(&transmitted), "{transmitted} bytes are kept");
    a.session().check();
}
