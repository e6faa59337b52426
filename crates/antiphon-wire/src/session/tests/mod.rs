//! Two sessions in memory: what a session does beside losing connections (that is the simulator's).

mod ends;
mod meeting;
mod recall;

use super::*;
use crate::bytes::Field;
use crate::frame::{Fragment, FragmentPart, Lookup, Monitor, NameSpace, NodeAt};
use crate::handshake::Refusal;
use crate::ids::Pair;
use crate::{Keyring, Locations, Secret};
use ends::{Side, begun, end, meet, message, met, seconds, told};

#[test]
fn two_nodes_meet_under_every_suite_and_a_message_arrives() {
    for suite in [Suite::Aes128Gcm, Suite::ChaCha20Poly1305, Suite::Hmac, Suite::Plain] {
        let (mut a, mut b) = (end(1, &[suite], Limits::default()), end(2, &[suite], Limits::default()));
        meet(&mut a, &mut b, Time::START).expect("they meet");
        assert_eq!(a.session().suite(), Some(suite));
        assert_eq!(a.session().intern("str"), Ok(TagId(0)));
        a.session().send(&message(1, 2, b"hello")).expect("room");
        assert_eq!(a.talk(Time::START, &mut b), ["tag 0 = str", "2:hello"]);
    }
}

#[test]
fn the_acceptor_takes_the_first_of_the_diallers_suites_that_it_allows() {
    let mut a = end(1, &[Suite::ChaCha20Poly1305, Suite::Hmac, Suite::Aes128Gcm], Limits::default());
    let mut b = end(2, &[Suite::Aes128Gcm, Suite::Hmac], Limits::default());
    meet(&mut a, &mut b, Time::START).expect("they meet");
    assert_eq!(b.session().suite(), Some(Suite::Hmac));
}

#[test]
fn another_secret_another_key_id_no_common_suite_and_oneself_are_refused_and_told() {
    let suites = [Suite::Aes128Gcm];
    let mut a = end(1, &suites, Limits::default());
    let mut wrong = end(2, &suites, Limits::default());
    wrong.profile.keyring = Keyring::new(7, Secret::from("other"));
    assert_eq!(meet(&mut a, &mut wrong, Time::START), Err((Side::Acceptor, Refusal::WrongSecret)));
    let mut wrong = end(2, &suites, Limits::default());
    wrong.profile.keyring = Keyring::new(8, Secret::from("key"));
    assert_eq!(meet(&mut a, &mut wrong, Time::START), Err((Side::Acceptor, Refusal::UnknownKey)));
    let mut wrong = end(2, &[Suite::Hmac], Limits::default());
    assert_eq!(meet(&mut a, &mut wrong, Time::START), Err((Side::Acceptor, Refusal::Suite)));
    let mut same = end(1, &suites, Limits::default());
    assert_eq!(meet(&mut a, &mut same, Time::START), Err((Side::Acceptor, Refusal::SelfConnection)));
}

#[test]
fn tags_are_told_once_and_keep_their_numbers_over_connections() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("one").expect("room");
    a.session().intern("two").expect("room");
    a.session().send(&message(1, 2, b"x")).expect("room");
    assert_eq!(a.talk(Time::START, &mut b), ["tag 0 = one", "tag 1 = two", "2:x"]);
    a.session().disconnected();
    b.session().disconnected();
    meet(&mut b, &mut a, Time::START).expect("they meet again");
    assert_eq!(a.session().intern("two"), Ok(TagId(1)));
    a.session().send(&message(1, 2, b"y")).expect("room");
    assert_eq!(a.talk(Time::START, &mut b), ["2:y"]);
    assert_eq!(b.session().tag_name(TagId(1)), Some("two"));
}

#[test]
fn a_large_message_lets_others_pass_and_nothing_of_its_own_pair() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("t").expect("room");
    let large = vec![7; 300_000];
    for frame in
        [message(1, 2, b"before"), message(1, 2, &large), message(1, 2, b"after"), message(1, 3, b"passes")]
    {
        a.session().send(&frame).expect("room");
    }
    let monitor = Monitor { watcher: Key(1), target: Key(2), id: 9 };
    a.session().send(&Frame::Monitor(monitor)).expect("room");
    let heard = a.talk(Time::START, &mut b);
    assert_eq!(heard, ["tag 0 = t", "2:before", "3:passes", "2:300000", "2:after", "Monitor"]);
    assert_eq!(a.session().queued_bytes(), 0);
}

#[test]
fn two_large_messages_of_different_pairs_share_the_way() {
    let (mut a, mut b) = met(Limits { window_bytes: 8 << 20, ..Limits::default() });
    a.session().intern("t").expect("room");
    let (longer, shorter) = (vec![7; 2_000_000], vec![7; 100_000]);
    a.session().send(&message(1, 2, &longer)).expect("room");
    a.session().send(&message(1, 3, &shorter)).expect("room");
    assert_eq!(a.talk(Time::START, &mut b), ["tag 0 = t", "3:100000", "2:2000000"]);
}

#[test]
fn large_frames_wait_for_the_room_that_the_peer_has_to_put_them_together() {
    let limits = Limits { reassembly_bytes_max: 500_000, ..Limits::default() };
    let (mut a, mut b) = met(limits);
    a.session().intern("t").expect("room");
    let large = vec![7; 300_000];
    a.session().send(&message(1, 2, &large)).expect("room");
    a.session().send(&message(1, 3, &large)).expect("room");
    let mut heard = Vec::new();
    for _ in 0..10 {
        heard.extend(a.talk(Time::START, &mut b));
        b.talk(Time::START, &mut a);
    }
    assert_eq!(heard, ["tag 0 = t", "2:300000", "3:300000"]);
}

#[test]
fn a_message_beyond_the_peers_limit_is_refused_before_anything_is_sent() {
    let (mut a, _b) = met(Limits { message_bytes_max: 100_000, ..Limits::default() });
    let body = vec![7; 200_000];
    let refused = a.session().send(&message(1, 2, &body));
    assert!(matches!(refused, Err(SendRefused::TooLarge { limit: 100_000, .. })));
    assert_eq!(a.session().queued_bytes(), 0);
}

#[test]
fn a_sender_stops_at_its_credit_until_the_receiver_releases() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("t").expect("room");
    let body = [7; 10_000];
    for _ in 0..200 {
        a.session().send(&message(1, 2, &body)).expect("room");
    }
    let held = a.talk_and_be_held(&mut b);
    let arrived = held.len();
    assert!((100..105).contains(&(arrived - 1)), "1 MiB of 10,029-byte frames, and a tag: {arrived}");
    assert!(!b.session().wants_transmit() || b.talk(Time::START, &mut a).is_empty());
    assert!(!a.session().poll_transmit(Time::START, &mut Vec::new()));
    held.into_iter().for_each(|held| b.session().release(held));
    b.session().check();
    b.talk(Time::START, &mut a);
    assert_eq!(a.talk(Time::START, &mut b).len(), 201 - arrived);
}

#[test]
fn what_little_is_released_still_flows_while_much_is_held_back() {
    let (mut a, mut b) = begun(Limits::default());
    a.session().intern("t").expect("room");
    for _ in 0..200 {
        a.session().send(&message(1, 2, &[7; 10_000])).expect("room");
    }
    let mut held = a.talk_and_be_held(&mut b);
    assert!(held.len() > 100, "a window full");
    for _ in 0..10 {
        for held in held.drain(..3) {
            b.session().release(held);
        }
        b.talk(Time::START, &mut a);
        let more = a.talk_and_be_held(&mut b);
        assert!(!more.is_empty(), "three went, so others come");
        held.extend(more);
    }
}

#[test]
fn a_paused_actor_gets_nothing_while_others_do_also_over_a_new_connection() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("t").expect("room");
    b.session().pause(Key(2));
    b.talk(Time::START, &mut a);
    a.session().send(&message(1, 2, b"first")).expect("room");
    a.session().send(&message(1, 3, b"other")).expect("room");
    assert_eq!(a.talk(Time::START, &mut b), ["tag 0 = t", "3:other"]);
    assert!(a.session().queued_bytes() > 0);
    a.session().disconnected();
    b.session().disconnected();
    meet(&mut a, &mut b, Time::START).expect("they meet again");
    b.talk(Time::START, &mut a);
    a.session().send(&message(1, 2, b"second")).expect("room");
    assert_eq!(a.talk(Time::START, &mut b), [] as [&str; 0]);
    b.session().unpause(Key(2));
    b.talk(Time::START, &mut a);
    assert_eq!(a.talk(Time::START, &mut b), ["2:first", "2:second"]);
}

#[test]
fn frames_that_name_no_pair_keep_the_order_that_they_are_given() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("t").expect("room");
    let pair = Pair { to: Key(2), from: Key(1) };
    let large = vec![7; 100_000];
    a.session().send(&message(1, 2, &large)).expect("room");
    let found = NodeAt { request: 1, node: NodeId(3), name: "three", locations: Locations::NONE };
    a.session().send_in_order(pair, &Frame::NodeAt(found)).expect("room");
    let want = Lookup { request: 1, space: NameSpace::Actor, all: false, name: "x" };
    a.session().send(&Frame::Lookup(want)).expect("room");
    assert_eq!(a.talk(Time::START, &mut b), ["tag 0 = t", "Lookup", "2:100000", "NodeAt"]);
}

#[test]
fn the_queue_has_a_cap_and_tells_when_it_has_drained() {
    let limits = Limits {
        queue_bytes_cap: 100_000,
        queue_bytes_high: 50_000,
        queue_bytes_low: 20_000,
        ..Limits::default()
    };
    let (mut a, mut b) = met(limits);
    a.session().intern("t").expect("room");
    let body = [7; 10_000];
    let mut taken = 0;
    while a.session().send(&message(1, 2, &body)).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 9);
    assert!(matches!(a.session().send(&message(1, 2, &body)), Err(SendRefused::Busy { .. })));
    let text = "x".repeat(15_000);
    let reason = crate::frame::DownReason::Failed(&text);
    let down = crate::frame::Down { watcher: Key(1), actor: Key(2), node: NodeId(3), id: 4, reason };
    assert_eq!(a.session().send(&down.into()), Ok(()), "what the peer waits for is not held back");
    assert_eq!(a.session().poll_event(), None);
    a.talk(Time::START, &mut b);
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Writable));
    assert_eq!(a.session().poll_event(), None);
}

#[test]
fn silence_brings_pings_then_suspicion_then_loss_and_a_word_ends_it() {
    let (mut a, mut b) = met(Limits::default());
    a.talk(Time::START, &mut b);
    b.talk(Time::START, &mut a);
    assert_eq!(a.session().poll_timeout(), Some(seconds(1)));
    a.session().on_timeout(seconds(1));
    a.talk(seconds(1), &mut b);
    b.talk(seconds(1), &mut a);
    assert_eq!(a.session().poll_timeout(), Some(seconds(2)), "the pong was heard");
    for second in 2..=15 {
        a.session().on_timeout(seconds(second));
        assert!(a.session().poll_transmit(seconds(second), &mut Vec::new()), "a ping each second: {second}");
        let event = a.session().poll_event();
        let expected = (second == 4).then_some(SessionEvent::Liveness(Liveness::Suspect));
        assert_eq!(event, expected, "second {second}");
    }
    a.session().forgive(Duration::from_secs(2));
    a.session().on_timeout(seconds(17));
    assert_eq!(a.session().status(), Liveness::Suspect, "two of the seconds were our own");
    a.session().on_timeout(seconds(18));
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Liveness(Liveness::Lost)));
    assert_eq!(a.session().poll_timeout(), None);
}

#[test]
fn a_suspected_peer_that_speaks_is_online_again() {
    let (mut a, mut b) = met(Limits::default());
    a.session().on_timeout(seconds(3));
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Liveness(Liveness::Suspect)));
    b.session().on_timeout(seconds(3));
    b.talk(seconds(3), &mut a);
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Liveness(Liveness::Online)));
}

#[test]
fn at_rest_silence_means_nothing() {
    let (mut a, _b) = met(Limits::default());
    a.session().rest();
    assert_eq!(a.session().poll_timeout(), None);
    a.session().on_timeout(seconds(1000));
    assert_eq!(a.session().status(), Liveness::Online);
}

#[test]
fn a_session_that_is_woken_counts_silence_from_then_on() {
    let (mut a, _b) = met(Limits::default());
    a.session().rest();
    a.session().wake(seconds(1000));
    a.session().on_timeout(seconds(1000));
    assert_eq!(a.session().status(), Liveness::Online);
    assert_eq!(a.session().poll_timeout(), Some(seconds(1000) + Limits::default().suspect_after));
    a.session().on_timeout(seconds(1015));
    assert_eq!(a.session().status(), Liveness::Lost);
}

#[test]
fn what_is_acknowledged_before_an_end_need_not_wait() {
    let (mut a, mut b) = met(Limits::default());
    a.talk(Time::START, &mut b);
    b.talk(Time::START, &mut a);
    b.session().acknowledge_now();
    assert!(!b.session().wants_transmit(), "nothing is owed");
    a.session().intern("t").expect("room");
    a.talk(Time::START, &mut b);
    b.session().acknowledge_now();
    b.talk(Time::START, &mut a);
    assert!(a.session().is_idle());
}

#[test]
fn acknowledgements_wait_a_little_and_then_free_what_was_kept() {
    let (mut a, mut b) = met(Limits::default());
    a.talk(Time::START, &mut b);
    b.talk(Time::START, &mut a);
    a.session().intern("t").expect("room");
    a.talk(Time::START, &mut b);
    assert!(!b.session().wants_transmit());
    assert!(!a.session().is_idle());
    let due = b.session().poll_timeout().expect("an acknowledgement is owed");
    assert_eq!(due, Time::START + Limits::default().ack_delay);
    b.session().on_timeout(due);
    b.talk(due, &mut a);
    assert!(a.session().is_idle());
    assert!(a.session().outbound.is_empty());
}

#[test]
fn worn_keys_ask_for_a_new_connection_once() {
    let (mut a, mut b) = met(Limits { connection_records_max: 16, ..Limits::default() });
    a.session().intern("t").expect("room");
    let mut events = Vec::new();
    for _ in 0..30 {
        a.session().send(&message(1, 2, b"x")).expect("room");
        a.talk(Time::START, &mut b);
        events.extend(a.session().poll_event());
    }
    assert_eq!(events, [SessionEvent::Renew]);
    assert!(!a.session().wants_transmit(), "used up keys protect nothing more");
    meet(&mut a, &mut b, Time::START).expect("they meet again");
    assert_eq!(a.talk(Time::START, &mut b).len(), 30 - 16);
}

#[test]
fn what_is_left_at_the_end_is_told_once_each() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("t").expect("room");
    a.session().send(&message(1, 2, b"acknowledged")).expect("room");
    a.talk(Time::START, &mut b);
    b.session().on_timeout(seconds(1));
    b.talk(Time::START, &mut a);
    let large = vec![7; 3_000_000];
    a.session().send(&message(1, 2, b"sent")).expect("room");
    a.session().send(&message(1, 3, &large)).expect("room");
    a.talk(Time::START, &mut b);
    a.session().send(&message(1, 3, b"behind it")).expect("room");
    a.session().send(&message(1, 4, b"never sent")).expect("room");
    let mut left = Vec::new();
    a.session().undelivered(|frame, perhaps| left.push((told(frame), perhaps)));
    left.sort();
    let expected = [("2:sent", true), ("3:3000000", true), ("3:behind it", false), ("4:never sent", false)];
    assert_eq!(left, expected.map(|(told, perhaps)| (told.to_owned(), perhaps)));
}

#[test]
fn a_peer_that_lost_the_session_begins_another_one() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("t").expect("room");
    a.talk(Time::START, &mut b);
    b.talk(Time::START, &mut a);
    b.lose(NodeId(1));
    meet(&mut a, &mut b, Time::START).expect("they meet");
    assert_eq!(a.epochs.of(NodeId(2)), 2, "the old session was lost");
    assert_eq!(a.session().frames_sent(), 0);
    let (mut a, mut b) = met(Limits::default());
    a.talk(Time::START, &mut b);
    b.talk(Time::START, &mut a);
    b.lose(NodeId(1));
    meet(&mut b, &mut a, Time::START).expect("they meet");
    assert_eq!(a.epochs.of(NodeId(2)), 2, "whoever dials");
}

#[test]
fn who_has_the_secret_but_not_the_resume_key_cannot_take_over_a_session() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("t").expect("room");
    a.talk(Time::START, &mut b);
    b.talk(Time::START, &mut a);
    let mut thief = end(1, &[Suite::Aes128Gcm], Limits::default());
    thief.handshakes = 8;
    // The thief overheard everything in the clear: node, epochs, ordinal.
    let mut other = end(2, &[Suite::Aes128Gcm], Limits::default());
    meet(&mut thief, &mut other, Time::START).expect("they meet");
    thief.session().disconnected();
    let refused = meet(&mut thief, &mut b, Time::START);
    assert_eq!(refused, Err((Side::Acceptor, Refusal::Session)));
    assert!(b.session().is_connected());
}

#[test]
fn hostile_frames_are_refused_with_a_typed_error() {
    let faults: [(&[u8], PeerFault); 7] = [
        (
            &[0x22, 0, 200, 0],
            PeerFault::Malformed(Malformed::Truncated { field: "frame payload", missing: 200 }),
        ),
        (
            &[0x31, 0, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            Malformed::Trailing { within: "frame payload", count: 1 }.into(),
        ),
        (&[0x7f, 0, 0, 0], Malformed::Unknown { field: "frame kind", value: 0x7f }.into()),
        (&[0x01, 0, 8, 0, 9, 0, 0, 0, 0, 0, 0, 0], PeerFault::FrameNumber { frame: 9 }),
        (&[0x20, 0, 6, 0, 5, 0, 0, 0, 0, 0], PeerFault::TagNumber { told: TagId(5), expected: 0 }),
        (&[0x21, 0, 6, 0, 1, 0, 0, 0, 1, 9], PeerFault::Fragment { stream: 1 }),
        (&[0x21, 0, 11, 0, 1, 0, 0, 0, 0, 0x22, 255, 255, 255, 255, 9], PeerFault::Fragment { stream: 1 }),
    ];
    for (bytes, fault) in faults {
        let (_, mut b) = begun(Limits::default());
        let mut frames = Frames::of(bytes);
        let refused = b.session().next_frame(Time::START, &mut frames).map(|_| ());
        assert_eq!(refused, Err(SessionError::PeerMisbehaved(fault)), "{bytes:?}");
    }
    let (_, mut b) = met(Limits::default());
    let refused = b.session().next_frame(Time::START, &mut Frames::of(&[0x34, 0, 1, 0, 0])).map(|_| ());
    assert_eq!(refused, Err(SessionError::PeerMisbehaved(PeerFault::NotBegun)));
    let (_, mut b) = begun(Limits::default());
    let refused = b
        .session()
        .next_frame(Time::START, &mut Frames::of(&[0x0a, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
        .map(|_| ());
    assert_eq!(
        refused,
        Err(SessionError::PeerMisbehaved(PeerFault::FrameNumber { frame: 0 })),
        "it begins once"
    );
    let (_, mut b) = begun(Limits::default());
    let mut unknown_tag = Vec::new();
    message(1, 2, b"").encode(&mut unknown_tag).expect("small");
    let refused = b.session().next_frame(Time::START, &mut Frames::of(&unknown_tag)).map(|_| ());
    assert_eq!(refused, Err(SessionError::PeerMisbehaved(PeerFault::UnknownTag { id: TagId(0) })));
}

#[test]
fn more_large_frames_at_a_time_than_were_allowed_are_refused() {
    let (_, mut b) = begun(Limits { reassembly_bytes_max: 100_000, ..Limits::default() });
    let mut body = Vec::new();
    for stream in [1, 2] {
        let part = FragmentPart::First { kind: 0x22, total: 60_000 };
        let fragment = Fragment { stream, part, data: &[1] };
        Frame::from(fragment).encode(&mut body).expect("small");
    }
    let refused = b.session().next_frame(Time::START, &mut Frames::of(&body)).map(|_| ());
    assert_eq!(refused, Err(SessionError::PeerMisbehaved(PeerFault::Reassembly { declared: 120_000 })));
}

#[test]
fn a_frame_of_a_later_version_that_may_be_ignored_is_counted_and_passed_over() {
    let (_, mut b) = begun(Limits::default());
    let mut frames = Frames::of(&[0x7f, 1, 3, 0, 1, 2, 3, 0x1f, 1, 0, 0]);
    assert!(b.session().next_frame(Time::START, &mut frames).expect("passed over").is_none());
    assert_eq!(b.session().frames_received(), 1);
}

#[test]
fn more_than_was_granted_is_refused() {
    let (_, mut b) = begun(Limits { window_bytes: 64 * 1024, ..Limits::default() });
    let mut frame = vec![0x7f, 1, 0, 0];
    frame[2..4].copy_from_slice(&60_000_u16.to_le_bytes());
    frame.resize(60_004, 0);
    let mut twice = frame.clone();
    twice.extend_from_slice(&frame);
    let mut frames = Frames::of(&twice);
    let refused = b.session().next_frame(Time::START, &mut frames).map(|_| ());
    assert_eq!(
        refused,
        Err(SessionError::PeerMisbehaved(PeerFault::CreditExceeded { by: 120_008 - 65_536 }))
    );
}

#[test]
fn a_session_without_traffic_owns_no_buffer() {
    let (mut a, mut b) = begun(Limits::default());
    a.session().intern("t").expect("room");
    b.session().intern("t").expect("room");
    a.talk(Time::START, &mut b);
    b.talk(Time::START, &mut a);
    a.session().on_timeout(seconds(1));
    a.talk(seconds(1), &mut b);
    for end in [&mut a, &mut b] {
        assert!(end.session().outbound.is_empty());
        assert_eq!(end.session().outbound.spare_buffers(), 0, "also where the other side asks first");
        end.input.release();
        assert_eq!(end.input.pending_bytes(), 0);
    }
}

#[test]
fn every_field_tells_its_size() {
    let frame = message(1, 2, b"body");
    assert_eq!(frame.payload_size(), 8 + 8 + 4 + 1 + 2 + 4);
    assert_eq!(7_u64.size(), 8);
}

proptest::proptest! {
    #[test]
    fn whatever_a_proven_peer_sends_neither_panics_nor_breaks_an_invariant(
        frames in proptest::collection::vec(
            (0_usize..Frame::KINDS.len(), proptest::collection::vec(0_u8..4, 0..40)),
            1..20,
        ),
    ) {
        let (_, mut b) = met(Limits::default());
        let mut body = Vec::new();
        crate::frame::Begin { frame: 0 }.put_frame(&mut body);
        for (kind, payload) in &frames {
            body.extend_from_slice(&[Frame::KINDS[*kind].0, 0, payload.len() as u8, 0]);
            body.extend_from_slice(payload);
        }
        let mut rest = Frames::of(&body);
        b.session().identity.is_firm = true;
        while let Ok(Some(incoming)) = b.session().next_frame(Time::START, &mut rest) {
            let _name = incoming.frame().name();
            b.session().check();
        }
        b.session().check();
    }

    #[test]
    fn large_frames_of_any_size_arrive_whole_and_in_order(sizes in proptest::collection::vec(0_usize..70_000, 1..12)) {
        let (mut a, mut b) = met(Limits { window_bytes: 100_000, ..Limits::default() });
        a.session().intern("t").expect("room");
        let body = vec![7; 70_000];
        for size in &sizes {
            a.session().send(&message(1, 2, &body[..*size])).expect("room");
        }
        let mut heard = Vec::new();
        for _ in 0..100 {
            heard.extend(a.talk(Time::START, &mut b));
            b.talk(Time::START, &mut a);
        }
        let expected: Vec<String> = sizes.iter().map(|size| told(&message(1, 2, &body[..*size]))).collect();
        proptest::prop_assert_eq!(&heard[1..], &expected[..]);
        proptest::prop_assert!(a.session().queued_bytes() == 0);
    }
}

impl crate::frame::Begin {
    fn put_frame(self, out: &mut Vec<u8>) {
        Frame::from(self).encode(out).expect("small");
    }
}
