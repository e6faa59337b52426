//! Flow control per receiving actor: limits, marks, frames that pass a pause, and withdrawn messages.

use std::collections::VecDeque;

use super::test_peer::{TestPeer, begun_pair, connect, connected_pair, describe, message, test_peer};
use crate::frame::{
    Answer, Demonitor, Down, DownReason, Frame, Goodbye, GoodbyeReason, IdleAgreed, Message, Monitor,
    Outcome, Receipt, ReplyDropped, ReplyDroppedReason, Resume, Terminate, Throw,
};
use crate::ids::{Key, NodeId, TagId};
use crate::session::{SendMark, SendRefused, SessionEvent, Withdrawn};
use crate::{Limits, Route, Suite, Time};

/// A cap of 1 MB, and little that is on its way.
fn small_limits() -> Limits {
    Limits {
        queue_bytes_cap: 1_000_000,
        queue_bytes_high: 100_000,
        queue_bytes_low: 10_000,
        window_bytes: 64 * 1024,
        ..Limits::default()
    }
}

/// Two nodes after a handshake, and these actors of the second node are paused. All tags are numbered.
fn pair_with_paused(limits: Limits, actors: &[u64]) -> (TestPeer, TestPeer) {
    let (mut a, mut b) = begun_pair(limits);
    a.session().intern("t").expect("a tag number is free");
    a.transmit(Time::ZERO, &mut b);
    pause(&mut a, &mut b, actors);
    (a, b)
}

fn pause(a: &mut TestPeer, b: &mut TestPeer, actors: &[u64]) {
    assert!(actors.iter().all(|actor| b.session().pause(Key::from_bits(*actor))));
    b.transmit(Time::ZERO, a);
}

fn unpause(a: &mut TestPeer, b: &mut TestPeer, actor: u64) {
    b.session().unpause(Key::from_bits(actor));
    b.transmit(Time::ZERO, a);
}

fn deliver<'a>(to: u64, receipt: u64, body: &'a [u8]) -> Frame<'a> {
    let (to, from) = (Key::from_bits(to), Key::from_bits(1));
    Message { to, from, tag: TagId(0), receipt: Some(receipt), route: Route::NONE, body }.into()
}

fn answer<'a>(request: u64, body: &'a [u8]) -> Frame<'a> {
    Answer { to: Key::from_bits(request), from: Key::from_bits(1), tag: TagId(0), route: Route::NONE, body }
        .into()
}

/// Sends until the session refuses; returns the accepted bytes.
fn fill(a: &mut TestPeer, frame: &Frame<'_>) -> u64 {
    let mut accepted = 0;
    while a.session().send(frame).is_ok() {
        accepted += frame.encoded_size();
        a.session().check();
    }
    accepted
}

/// All frames that arrive while both sides transmit.
fn exchange(a: &mut TestPeer, b: &mut TestPeer) -> Vec<String> {
    let mut received = Vec::new();
    for _ in 0..200 {
        received.extend(a.transmit(Time::ZERO, b));
        b.transmit(Time::ZERO, a);
    }
    received
}

fn is_busy(result: Result<(), SendRefused>) -> bool {
    matches!(result, Err(SendRefused::Busy { .. }))
}

#[test]
fn stuck_actors_leave_budget_to_others() {
    let (mut a, _b) = pair_with_paused(small_limits(), &[2, 3]);
    let body = [7; 973];
    assert_eq!(fill(&mut a, &message(1, 2, &body)), 500_000);
    assert_eq!(fill(&mut a, &message(1, 3, &body)), 250_000);
    assert_eq!(a.session().queued_for(Key::from_bits(2)), 500_000);
    assert_eq!(a.session().queued_for_actors(), 750_000);
    assert_eq!(a.session().send(&message(1, 4, &body)), Ok(()), "another actor has room");
}

#[test]
fn senders_to_one_actor_share_its_limit() {
    let (mut a, _b) = pair_with_paused(small_limits(), &[2]);
    let body = [7; 973];
    let first = fill(&mut a, &message(1, 2, &body));
    assert!(first > 0);
    assert!(is_busy(a.session().send(&message(5, 2, &body))));
    let adapter = 2 | (3 << 46);
    assert!(is_busy(a.session().send(&message(1, adapter, &body))), "an adapter counts as its actor");
}

#[test]
fn burst_of_small_messages_fits_empty_queue() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    for number in 0..100_000_u64 {
        let mut body = [0; 64];
        body[..8].copy_from_slice(&number.to_le_bytes());
        a.session().send(&message(1, 2, &body)).expect("the queue has room");
    }
    a.session().check();
    let (mut arrived, mut rounds) = (0, 0);
    while a.session().queued_bytes() > 0 {
        arrived += a.transmit(Time::ZERO, &mut b).len();
        b.transmit(Time::ZERO, &mut a);
        rounds += 1;
        assert!(rounds < 1000, "the queue does not drain");
    }
    assert_eq!(arrived, 100_001);
}

#[test]
fn actor_without_queue_accepts_one_large_message() {
    let limits = Limits { queue_bytes_cap: 20 << 20, ..small_limits() };
    let (mut a, _b) = pair_with_paused(limits, &[2, 3, 4]);
    let large = vec![7; 16 << 20];
    assert_eq!(a.session().send(&message(1, 2, &large)), Ok(()), "beyond half of the cap");
    assert!(is_busy(a.session().send(&message(1, 2, b"x"))), "its limit is reached");
    assert_eq!(a.session().send(&message(1, 3, &large)), Ok(()), "within twice the cap");
    assert!(is_busy(a.session().send(&message(1, 4, &large))));
    assert_eq!(a.session().send(&message(1, 4, b"x")), Ok(()));
    a.session().check();
}

#[test]
fn refused_frame_reports_its_bytes() {
    let (mut a, _b) = pair_with_paused(small_limits(), &[2]);
    let frame = message(1, 2, &[7; 973]);
    fill(&mut a, &frame);
    let refused = a.session().send(&frame);
    assert_eq!(refused, Err(SendRefused::Busy { queued: 500_000, bytes: frame.encoded_size() }));
    assert!(!a.session().fits(Key::from_bits(2), frame.encoded_size(), SendMark::Cap));
    assert!(a.session().fits(Key::from_bits(3), frame.encoded_size(), SendMark::Cap));
}

#[test]
fn high_mark_is_reached_before_cap() {
    let (mut a, _b) = pair_with_paused(small_limits(), &[2]);
    let frame = message(1, 2, &[7; 973]);
    let bytes = frame.encoded_size();
    while a.session().fits(Key::from_bits(2), bytes, SendMark::High) {
        a.session().send(&frame).expect("the high mark is below the cap");
    }
    assert_eq!(a.session().queued_for(Key::from_bits(2)), 100_000);
    assert!(a.session().fits(Key::from_bits(2), bytes, SendMark::Cap));
}

#[test]
fn awaited_room_is_reported_when_queue_drains() {
    let (mut a, mut b) = pair_with_paused(small_limits(), &[2]);
    let frame = message(1, 2, &[7; 973]);
    fill(&mut a, &frame);
    a.session().await_room(Key::from_bits(2), frame.encoded_size(), SendMark::Cap);
    a.session().await_room(Key::from_bits(3), frame.encoded_size(), SendMark::High);
    assert_eq!(
        a.session().poll_event(),
        Some(SessionEvent::Writable { actor: Key::from_bits(3) }),
        "it fits already"
    );
    assert_eq!(a.session().poll_event(), None);
    unpause(&mut a, &mut b, 2);
    a.transmit(Time::ZERO, &mut b);
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Writable { actor: Key::from_bits(2) }));
    assert_eq!(a.session().poll_event(), None);
    assert_eq!(a.session().send(&frame), Ok(()));
}

#[test]
fn awaited_room_comes_from_another_actor() {
    let (mut a, mut b) = pair_with_paused(small_limits(), &[2, 3]);
    fill(&mut a, &message(1, 2, &[7; 973]));
    let frame = message(1, 3, &[7; 973]);
    fill(&mut a, &frame);
    a.session().await_room(Key::from_bits(3), frame.encoded_size(), SendMark::Cap);
    assert_eq!(a.session().poll_event(), None);
    unpause(&mut a, &mut b, 2);
    exchange(&mut a, &mut b);
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Writable { actor: Key::from_bits(3) }));
}

#[test]
fn awaited_room_can_be_given_up() {
    let (mut a, _b) = pair_with_paused(small_limits(), &[2]);
    a.session().await_room(Key::from_bits(2), 100, SendMark::Cap);
    a.session().stop_awaiting_room(Key::from_bits(2));
    assert_eq!(a.session().poll_event(), None);
}

#[test]
fn urgent_signals_pass_pause_in_order() {
    let (mut a, mut b) = pair_with_paused(small_limits(), &[2]);
    a.session().send(&message(1, 2, b"held")).expect("the queue has room");
    let large = vec![7; 40_000];
    let (from, target, tag) = (Key::from_bits(1), Key::from_bits(2), TagId(0));
    for frame in [
        Frame::from(Throw { from, target, tag, body: &large }),
        Resume { from, target, tag, body: b"x" }.into(),
        Terminate { from, target, grace: Some(5000) }.into(),
    ] {
        a.session().send(&frame).expect("the reserve has room");
        a.session().check();
    }
    assert_eq!(exchange(&mut a, &mut b), ["Throw", "Resume", "Terminate"]);
    unpause(&mut a, &mut b, 2);
    assert_eq!(exchange(&mut a, &mut b), ["2:held"]);
}

/// Urgent signals that wait behind messages when the pause arrives: some on their way, some in the queue.
#[test]
fn pause_lets_waiting_urgent_signals_pass() {
    let (mut a, mut b) = begun_pair(small_limits());
    a.session().intern("t").expect("a tag number is free");
    a.transmit(Time::ZERO, &mut b);
    let (from, target) = (Key::from_bits(1), Key::from_bits(2));
    for number in 0..1000 {
        a.session().send(&message(1, 2, format!("{number:0>50}").as_bytes())).expect("the queue has room");
        if number % 100 == 0 {
            a.session()
                .send(&Terminate { from, target, grace: Some(5000) }.into())
                .expect("the reserve has room");
        }
    }
    assert!(a.session().queued_in_reserve() > 0, "some signals wait in the queue");
    pause(&mut a, &mut b, &[2]);
    let mut received = exchange(&mut a, &mut b);
    assert_eq!(received.split_off(received.len() - 8), vec!["Terminate"; 8]);
    assert_eq!(a.session().queued_in_reserve(), 0);
    unpause(&mut a, &mut b, 2);
    received.extend(exchange(&mut a, &mut b));
    received.retain(|frame| frame != "Terminate");
    let expected: Vec<String> = (0..1000).map(|number| format!("2:{number:0>50}")).collect();
    assert_eq!(received, expected);
}

#[test]
fn urgent_signal_without_pause_keeps_order() {
    let (mut a, mut b) = connected_pair(small_limits());
    a.session().intern("t").expect("a tag number is free");
    let large = vec![7; 100_000];
    a.session().send(&message(1, 2, &large)).expect("the queue has room");
    a.session()
        .send(&Terminate { from: Key::from_bits(1), target: Key::from_bits(2), grace: None }.into())
        .expect("the reserve has room");
    assert_eq!(exchange(&mut a, &mut b), ["tag 0 = t", "2:100000", "Terminate"]);
}

/// A message that is sent after an urgent signal does not overtake it, also when the pause ends meanwhile.
#[test]
fn message_stays_behind_urgent_signal_after_unpause() {
    let (mut a, mut b) = pair_with_paused(Limits { window_bytes: 64 * 1024, ..small_limits() }, &[2]);
    let large = vec![7; 200_000];
    let (from, target, tag) = (Key::from_bits(1), Key::from_bits(2), TagId(0));
    a.session().send(&Throw { from, target, tag, body: &large }.into()).expect("the reserve has room");
    a.transmit(Time::ZERO, &mut b);
    unpause(&mut a, &mut b, 2);
    a.session().send(&message(1, 2, b"later")).expect("the queue has room");
    a.session().send(&message(5, 2, b"other sender")).expect("the queue has room");
    let received = exchange(&mut a, &mut b);
    assert_eq!(received[0], "Throw");
    assert_eq!(received.len(), 3);
}

#[test]
fn answer_to_request_named_like_paused_actor_passes() {
    let (mut a, mut b) = pair_with_paused(small_limits(), &[2]);
    a.session().send(&answer(2, b"small")).expect("the reserve has room");
    a.session().send(&answer(2, &vec![7; 40_000])).expect("the reserve has room");
    let request_id = Key::from_bits(2);
    let dropped = ReplyDropped { request_id, reason: ReplyDroppedReason::Busy };
    a.session().send(&dropped.into()).expect("a completion");
    a.session().send(&Receipt { request: 2, outcome: Outcome::Full }.into()).expect("a completion");
    let mut received = exchange(&mut a, &mut b);
    received.sort();
    assert_eq!(received, ["Answer", "Answer", "Receipt", "ReplyDropped"]);
}

#[test]
fn answers_have_reserve_beside_full_queue() {
    let (mut a, mut b) = pair_with_paused(small_limits(), &[2]);
    fill(&mut a, &message(1, 2, &[7; 973]));
    a.session().connection_lost();
    b.session().connection_lost();
    let large = vec![7; 99_000];
    let answers = fill(&mut a, &answer(9, &large));
    assert_eq!(answers / answer(9, &large).encoded_size(), 10, "the reserve is as large as the cap");
    assert_eq!(a.session().queued_in_reserve(), answers);
    assert!(is_busy(a.session().send(&answer(9, &large))));
    let small = fill(&mut a, &answer(10, b"small answers wait in the reserve, too"));
    assert!(small > 0);
    a.session().check();
}

#[test]
fn completions_are_never_refused() {
    let (mut a, mut b) = pair_with_paused(small_limits(), &[2]);
    fill(&mut a, &message(1, 2, &[7; 973]));
    let text = "x".repeat(15_000);
    let down = |reason| Down {
        watcher: Key::from_bits(2),
        actor: Key::from_bits(1),
        node: NodeId::from_bits(3),
        id: 4,
        reason,
    };
    let with_text = down(DownReason::Failed(&text)).into();
    assert_eq!(fill(&mut a, &with_text) / with_text.encoded_size(), 65, "a text counts in the reserve");
    let down = down(DownReason::Failed(""));
    for _ in 0..135 {
        assert_eq!(a.session().send(&down.into()), Ok(()));
    }
    a.session().check();
    assert!(exchange(&mut a, &mut b).is_empty(), "they keep their place behind the pause");
    unpause(&mut a, &mut b, 2);
    let received = exchange(&mut a, &mut b);
    assert_eq!(received.iter().filter(|name| *name == "Down").count(), 200);
    assert!(received.first().is_some_and(|first| first.starts_with("2:")));
}

#[test]
fn monitors_count_for_their_target() {
    let (mut a, _b) = pair_with_paused(small_limits(), &[2]);
    a.session()
        .send(&Monitor { watcher: Key::from_bits(1), target: Key::from_bits(2), id: 1 }.into())
        .expect("the queue has room");
    assert_eq!(a.session().queued_for(Key::from_bits(2)), 28);
    assert_eq!(
        fill(&mut a, &Monitor { watcher: Key::from_bits(1), target: Key::from_bits(2), id: 1 }.into()),
        500_000 / 28 * 28 - 28
    );
}

#[test]
fn withdrawn_message_is_never_transmitted() {
    let (mut a, mut b) = pair_with_paused(small_limits(), &[2]);
    let large = vec![7; 40_000];
    for (receipt, body) in [(1, b"one".as_slice()), (2, b"two"), (3, &large), (4, b"four")] {
        a.session().send(&deliver(2, receipt, body)).expect("the queue has room");
    }
    let queued = a.session().queued_for(Key::from_bits(2));
    for receipt in [2, 3] {
        assert_eq!(a.session().withdraw(Key::from_bits(2), receipt), Some(Withdrawn { is_paused: true }));
        assert_eq!(a.session().withdraw(Key::from_bits(2), receipt), None);
        a.session().check();
    }
    assert_eq!(a.session().withdraw(Key::from_bits(3), 1), None, "it waits for another actor");
    let freed = deliver(2, 2, b"two").encoded_size() + deliver(2, 3, &large).encoded_size();
    assert_eq!(a.session().queued_for(Key::from_bits(2)), queued - freed);
    let mut left = Vec::new();
    a.session().undelivered(|frame, _| left.push(describe(frame)));
    left.retain(|name| name.starts_with("2:"));
    assert_eq!(left, ["2:one", "2:four"]);
    unpause(&mut a, &mut b, 2);
    assert_eq!(exchange(&mut a, &mut b), ["2:one", "2:four"]);
}

#[test]
fn transmitted_message_cannot_be_withdrawn() {
    let (mut a, mut b) = begun_pair(small_limits());
    a.session().intern("t").expect("a tag number is free");
    let large = vec![7; 200_000];
    a.session().send(&deliver(2, 1, b"small")).expect("the queue has room");
    a.session().send(&deliver(3, 2, &large)).expect("the queue has room");
    a.transmit(Time::ZERO, &mut b);
    assert_eq!(a.session().withdraw(Key::from_bits(2), 1), None);
    assert_eq!(a.session().withdraw(Key::from_bits(3), 2), None, "a part of it was transmitted");
    assert_eq!(exchange(&mut a, &mut b), ["3:200000"]);
}

#[test]
fn withdrawn_messages_make_room() {
    let (mut a, _b) = pair_with_paused(small_limits(), &[2]);
    let body = [7; 973];
    let mut accepted = 0;
    while a.session().send(&deliver(2, accepted, &body)).is_ok() {
        accepted += 1;
    }
    a.session().await_room(Key::from_bits(2), deliver(2, 0, &body).encoded_size(), SendMark::Cap);
    assert_eq!(a.session().poll_event(), None);
    for receipt in 0..accepted {
        assert!(a.session().withdraw(Key::from_bits(2), receipt).is_some(), "message {receipt} waits");
    }
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Writable { actor: Key::from_bits(2) }));
    assert_eq!(a.session().queued_for_actors(), 0);
    a.session().check();
}

/// A monitor that is removed before it was transmitted leaves nothing. One that was transmitted is followed by its `Demonitor`,
/// which takes no more memory than its bytes.
#[test]
fn removed_monitors_leave_nothing_in_queue() {
    let (mut a, mut b) = pair_with_paused(small_limits(), &[]);
    let watcher = Key::from_bits(1);
    let monitor = |target, id| Frame::from(Monitor { watcher, target: Key::from_bits(target), id });
    let demonitor = |target, id| Frame::from(Demonitor { watcher, target: Key::from_bits(target), id });
    let mut transmitted = 0;
    for id in 1..20_000 {
        a.session().send(&monitor(id, id)).expect("the queue has room");
        if !a.session().withdraw_monitor(watcher, Key::from_bits(id), id) {
            transmitted += 1;
            a.session().send(&demonitor(id, id)).expect("it is never refused");
        }
    }
    assert!((1..4000).contains(&transmitted), "{transmitted} had credit");
    assert_eq!(a.session().queued_for_actors(), 0);
    a.session().check();
    // A monitor behind many other frames of its pair is not searched for.
    for _ in 0..10 {
        a.session().send(&message(1, 2, b"m")).expect("the queue has room");
    }
    a.session().send(&monitor(2, 30_000)).expect("the queue has room");
    assert!(!a.session().withdraw_monitor(watcher, Key::from_bits(2), 30_000));
    a.session().send(&demonitor(2, 30_000)).expect("it is never refused");
    a.session().check();
    let received = exchange(&mut a, &mut b);
    assert_eq!(received.len(), 2 * transmitted + 12);
    assert_eq!(a.session().queued_bytes(), 0);
}

#[test]
fn pairs_share_connection_in_turn() {
    let (mut a, mut b) = connected_pair(small_limits());
    a.session().intern("t").expect("a tag number is free");
    for (from, to) in [(1, 2), (1, 3), (5, 3)] {
        for _ in 0..100 {
            a.session().send(&message(from, to, &[7; 1000])).expect("the queue has room");
        }
    }
    a.transmit(Time::ZERO, &mut b);
    let left = [2, 3].map(|actor| a.session().queued_for(Key::from_bits(actor)));
    assert!(left.iter().all(|bytes| *bytes > 0), "not all is sent: {left:?}");
    // About a window is sent. Actor 2 gets about as much as actor 3 with its two senders.
    assert!(left[1] > left[0] + 80_000, "actor 3 got too much: {left:?}");
}

#[test]
fn goodbye_is_the_last_frame() {
    let (mut a, mut b) = connected_pair(Limits { window_bytes: 64 * 1024, ..Limits::default() });
    a.session().intern("t").expect("a tag number is free");
    for _ in 0..1000 {
        a.session().send(&message(1, 2, &[7; 1000])).expect("the queue has room");
    }
    a.session().send(&Frame::Goodbye(Goodbye { reason: GoodbyeReason::Closed })).expect("a completion");
    let waiting = a.session().queued_for(Key::from_bits(2));
    assert!(waiting > 0);
    let received = exchange(&mut a, &mut b);
    assert_eq!(received.last().map(String::as_str), Some("Goodbye"));
    assert_eq!(
        a.session().queued_for(Key::from_bits(2)),
        waiting,
        "what waited stays, and is reported as undelivered"
    );
}

/// The number of pauses is agreed, so a session never sends one that its peer must refuse.
#[test]
fn pauses_stop_at_peers_limit() {
    let (mut a, mut b) = begun_pair(Limits::default());
    for actor in 0..65_536 {
        assert!(b.session().pause(Key::from_bits(actor)), "pause {actor} is within the limit");
    }
    assert!(!b.session().pause(Key::from_bits(65_536)));
    assert!(b.session().pause(Key::from_bits(7)), "this actor is paused already");
    b.transmit(Time::ZERO, &mut a);
    assert!(a.session().is_paused(Key::from_bits(65_535)) && !a.session().is_paused(Key::from_bits(65_536)));
    b.session().unpause(Key::from_bits(7));
    assert!(b.session().pause(Key::from_bits(65_536)));
    b.transmit(Time::ZERO, &mut a);
    assert!(a.session().is_paused(Key::from_bits(65_536)) && !a.session().is_paused(Key::from_bits(7)));
    // An ended pause is sent first, also that of a higher key.
    b.session().unpause(Key::from_bits(65_536));
    assert!(b.session().pause(Key::from_bits(7)));
    b.transmit(Time::ZERO, &mut a);
    assert!(a.session().is_paused(Key::from_bits(7)) && !a.session().is_paused(Key::from_bits(65_536)));
    // Changes that the peer has not got cancel each other out.
    b.session().unpause(Key::from_bits(7));
    assert!(b.session().pause(Key::from_bits(7)));
    assert!(!b.session().wants_transmit());
    b.session().unpause(Key::from_bits(7));
    assert!(b.session().pause(Key::from_bits(65_536)));
    for peer in [&mut a, &mut b] {
        peer.session().connection_lost();
    }
    connect(&mut a, &mut b, Time::ZERO).expect("the second handshake succeeds");
    b.transmit(Time::ZERO, &mut a);
    assert!(a.session().is_paused(Key::from_bits(65_536)), "a new connection repeats the pauses");
}

/// A peer that proposes without end, and reads nothing, makes one answer wait.
#[test]
fn answers_to_proposals_wait_once() {
    let (mut a, mut b) = begun_pair(Limits::default());
    for sent in 0..1000 {
        b.session().send_control(&IdleAgreed { sent }.into()).expect("the session is connected");
    }
    assert_eq!(b.transmit(Time::ZERO, &mut a), [describe(&IdleAgreed { sent: 999 }.into())]);
}

#[test]
fn paused_actor_includes_its_adapters() {
    let adapter = 2 | (9 << 46);
    let (mut a, mut b) = pair_with_paused(small_limits(), &[adapter]);
    a.session().send(&message(1, 2, b"actor")).expect("the queue has room");
    a.session().send(&message(1, adapter, b"adapter")).expect("the queue has room");
    assert_eq!(exchange(&mut a, &mut b), [] as [&str; 0]);
    unpause(&mut a, &mut b, 2);
    assert_eq!(exchange(&mut a, &mut b), ["2:actor", &format!("{adapter:x}:adapter")]);
}

#[test]
fn lower_pause_limit_of_peer_is_raised() {
    let suites = [Suite::Aes128Gcm];
    let few = Limits { paused_actors_max: 10, ..Limits::default() };
    let (mut a, mut b) = (test_peer(1, &suites, few), test_peer(2, &suites, Limits::default()));
    connect(&mut a, &mut b, Time::ZERO).expect("the handshake succeeds");
    let paused = (0..65_537).filter(|actor| b.session().pause(Key::from_bits(*actor))).count();
    assert_eq!(paused, 65_536);
    b.transmit(Time::ZERO, &mut a);
}

/// Small frames, each of a new pair, do not take all credit while a large frame waits.
#[test]
fn small_frames_of_new_pairs_spare_large_frame() {
    let limits = Limits { window_bytes: 128 * 1024, ..Limits::default() };
    let (mut a, mut b) = begun_pair(limits);
    a.session().intern("t").expect("a tag number is free");
    for _ in 0..200 {
        a.session().send(&message(1, 2, &[7; 1000])).expect("the queue has room");
    }
    a.session().send(&message(1, 3, &[7; 100_000])).expect("the queue has room");
    let mut held = VecDeque::from(a.transmit_held(&mut b));
    let mut received = Vec::new();
    for round in 0..1000 {
        // The peer takes two frames, and more frames of new pairs come than it has taken.
        held.drain(..held.len().min(2)).for_each(|held| b.session().release(held));
        b.transmit(Time::ZERO, &mut a);
        for number in 0..4 {
            a.session().send(&message(10 + round * 4 + number, 4, &[7; 1000])).expect("the queue has room");
        }
        held.extend(a.transmit_held_with(&mut b, |frame| received.push(describe(frame))));
        if received.iter().any(|name| name == "3:100000") {
            return;
        }
    }
    panic!("the large message has not arrived, but {} others", received.len());
}
