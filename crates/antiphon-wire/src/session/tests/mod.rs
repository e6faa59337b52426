//! Two sessions in memory. The simulator tests lost connections.

mod admission;
mod completions;
mod flow_control;
mod pauses;
mod test_peer;

use super::*;
use crate::bytes::Field;
use crate::frame::{Close, CloseReason, Credit, Fragment, FragmentPart, Monitor, NodeAt, Tag};
use crate::handshake::Refusal;
use crate::{Keyring, Locations, Secret};
use proptest::strategy::{Just, Strategy};
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use test_peer::{Side, begun_pair, connect, connected_pair, describe, message, seconds, test_peer};

#[test]
fn handshake_every_suite_carries_message() {
    for suite in [Suite::Aes128Gcm, Suite::ChaCha20Poly1305, Suite::Hmac, Suite::Plain] {
        let (mut a, mut b) =
            (test_peer(1, &[suite], Limits::default()), test_peer(2, &[suite], Limits::default()));
        connect(&mut a, &mut b, Time::ZERO).expect("the handshake succeeds");
        assert_eq!(a.session().suite(), Some(suite));
        assert_eq!(a.session().intern("str"), Ok(TagId(0)));
        a.session().send(&message(1, 2, b"hello")).expect("the queue has room");
        assert_eq!(a.transmit(Time::ZERO, &mut b), ["tag 0 = str", "2:hello"]);
    }
}

#[test]
fn acceptor_chooses_diallers_first_allowed_suite() {
    let mut a = test_peer(1, &[Suite::ChaCha20Poly1305, Suite::Hmac, Suite::Aes128Gcm], Limits::default());
    let mut b = test_peer(2, &[Suite::Aes128Gcm, Suite::Hmac], Limits::default());
    connect(&mut a, &mut b, Time::ZERO).expect("the handshake succeeds");
    assert_eq!(b.session().suite(), Some(Suite::Hmac));
}

#[test]
fn handshake_refuses_wrong_secret_key_suite_and_self() {
    let suites = [Suite::Aes128Gcm];
    let mut a = test_peer(1, &suites, Limits::default());
    let mut wrong = test_peer(2, &suites, Limits::default());
    wrong.profile.keyring = Keyring::new(7, Secret::from("other"));
    assert_eq!(connect(&mut a, &mut wrong, Time::ZERO), Err((Side::Acceptor, Refusal::WrongSecret)));
    let mut wrong = test_peer(2, &suites, Limits::default());
    wrong.profile.keyring = Keyring::new(8, Secret::from("key"));
    assert_eq!(connect(&mut a, &mut wrong, Time::ZERO), Err((Side::Acceptor, Refusal::UnknownKey)));
    let mut wrong = test_peer(2, &[Suite::Hmac], Limits::default());
    assert_eq!(connect(&mut a, &mut wrong, Time::ZERO), Err((Side::Acceptor, Refusal::Suite)));
    let mut same = test_peer(1, &suites, Limits::default());
    assert_eq!(connect(&mut a, &mut same, Time::ZERO), Err((Side::Acceptor, Refusal::SelfConnection)));
}

#[test]
fn tags_keep_numbers_across_connections() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("one").expect("a tag number is free");
    a.session().intern("two").expect("a tag number is free");
    a.session().send(&message(1, 2, b"x")).expect("the queue has room");
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["tag 0 = one", "tag 1 = two", "2:x"]);
    a.session().connection_lost();
    b.session().connection_lost();
    connect(&mut b, &mut a, Time::ZERO).expect("the second handshake succeeds");
    assert_eq!(a.session().intern("two"), Ok(TagId(1)));
    a.session().send(&message(1, 2, b"y")).expect("the queue has room");
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["2:y"]);
    assert_eq!(b.session().tag_name(TagId(1)), Some("two"));
}

#[test]
fn large_message_blocks_only_its_own_pair() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    let large = vec![7; 300_000];
    for frame in
        [message(1, 2, b"before"), message(1, 2, &large), message(1, 2, b"after"), message(1, 3, b"passes")]
    {
        a.session().send(&frame).expect("the queue has room");
    }
    let monitor = Monitor { watcher: Key::from_bits(1), target: Key::from_bits(2), id: 9 };
    a.session().send(&Frame::Monitor(monitor)).expect("the queue has room");
    let received = a.transmit(Time::ZERO, &mut b);
    assert_eq!(received, ["tag 0 = t", "2:before", "3:passes", "2:300000", "2:after", "Monitor"]);
    assert_eq!(a.session().queued_bytes(), 0);
}

#[test]
fn large_messages_of_different_pairs_interleave() {
    let (mut a, mut b) = connected_pair(Limits { window_bytes: 8 << 20, ..Limits::default() });
    a.session().intern("t").expect("a tag number is free");
    let (longer, shorter) = (vec![7; 2_000_000], vec![7; 100_000]);
    a.session().send(&message(1, 2, &longer)).expect("the queue has room");
    a.session().send(&message(1, 3, &shorter)).expect("the queue has room");
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["tag 0 = t", "3:100000", "2:2000000"]);
}

#[test]
fn large_frame_waits_for_peers_reassembly_room() {
    let limits = Limits { reassembly_bytes_max: 500_000, ..Limits::default() };
    let (mut a, mut b) = connected_pair(limits);
    a.session().intern("t").expect("a tag number is free");
    let large = vec![7; 300_000];
    a.session().send(&message(1, 2, &large)).expect("the queue has room");
    a.session().send(&message(1, 3, &large)).expect("the queue has room");
    let mut received = Vec::new();
    for _ in 0..10 {
        received.extend(a.transmit(Time::ZERO, &mut b));
        b.transmit(Time::ZERO, &mut a);
    }
    assert_eq!(received, ["tag 0 = t", "2:300000", "3:300000"]);
}

#[test]
fn message_over_peers_limit_is_refused() {
    let (mut a, _b) = connected_pair(Limits { message_bytes_max: 100_000, ..Limits::default() });
    let body = vec![7; 200_000];
    let refused = a.session().send(&message(1, 2, &body));
    assert!(matches!(refused, Err(SendRefused::TooLarge { limit: 100_000, .. })));
    assert_eq!(a.session().queued_bytes(), 0);
}

#[test]
fn sender_stops_at_credit_until_release() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    let body = [7; 10_000];
    for _ in 0..200 {
        a.session().send(&message(1, 2, &body)).expect("the queue has room");
    }
    let held = a.transmit_held(&mut b);
    let arrived = held.len();
    assert!((100..105).contains(&(arrived - 1)), "1 MiB of 10,029-byte frames, and a tag: {arrived}");
    let credit = a.session().credit;
    b.transmit(Time::ZERO, &mut a);
    assert_eq!(a.session().credit, credit, "held frames return no credit");
    assert!(!a.session().poll_transmit(Time::ZERO, &mut Vec::new()));
    held.into_iter().for_each(|held| b.session().release(held));
    b.session().check();
    b.transmit(Time::ZERO, &mut a);
    assert_eq!(a.transmit(Time::ZERO, &mut b).len(), 201 - arrived);
}

#[test]
fn small_release_returns_credit_while_much_held() {
    let (mut a, mut b) = begun_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    for _ in 0..200 {
        a.session().send(&message(1, 2, &[7; 10_000])).expect("the queue has room");
    }
    let mut held = a.transmit_held(&mut b);
    assert!(held.len() > 100, "held frames fill the window");
    for _ in 0..10 {
        for held in held.drain(..3) {
            b.session().release(held);
        }
        b.transmit(Time::ZERO, &mut a);
        let more = a.transmit_held(&mut b);
        assert!(!more.is_empty(), "the credit of three frames allows more");
        held.extend(more);
    }
}

#[test]
fn paused_actor_receives_nothing_across_connections() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    assert!(b.session().pause(Key::from_bits(2)));
    b.transmit(Time::ZERO, &mut a);
    a.session().send(&message(1, 2, b"first")).expect("the queue has room");
    a.session().send(&message(1, 3, b"other")).expect("the queue has room");
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["tag 0 = t", "3:other"]);
    assert!(a.session().queued_bytes() > 0);
    a.session().connection_lost();
    b.session().connection_lost();
    connect(&mut a, &mut b, Time::ZERO).expect("the second handshake succeeds");
    b.transmit(Time::ZERO, &mut a);
    a.session().send(&message(1, 2, b"second")).expect("the queue has room");
    assert_eq!(a.transmit(Time::ZERO, &mut b), [] as [&str; 0]);
    b.session().unpause(Key::from_bits(2));
    b.transmit(Time::ZERO, &mut a);
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["2:first", "2:second"]);
}

#[test]
fn silence_leads_to_pings_suspicion_and_loss() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    assert_eq!(a.session().poll_timeout(), Some(seconds(1)));
    a.session().on_timeout(seconds(1));
    a.transmit(seconds(1), &mut b);
    b.transmit(seconds(1), &mut a);
    assert_eq!(a.session().poll_timeout(), Some(seconds(2)), "the pong arrived");
    for second in 2..=15 {
        a.session().on_timeout(seconds(second));
        assert!(a.session().poll_transmit(seconds(second), &mut Vec::new()), "a ping each second: {second}");
        let event = a.session().poll_event();
        let expected = (second == 4).then_some(SessionEvent::Liveness(Liveness::Suspect));
        assert_eq!(event, expected, "second {second}");
    }
    a.session().exclude_stall(Duration::from_secs(2));
    a.session().on_timeout(seconds(17));
    assert_eq!(a.session().liveness(), Liveness::Suspect, "the stall of two seconds does not count");
    a.session().on_timeout(seconds(18));
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Liveness(Liveness::Lost)));
    assert_eq!(a.session().poll_timeout(), None);
}

#[test]
fn suspected_peer_that_sends_is_online() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().on_timeout(seconds(3));
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Liveness(Liveness::Suspect)));
    b.session().on_timeout(seconds(3));
    b.transmit(seconds(3), &mut a);
    assert_eq!(a.session().poll_event(), Some(SessionEvent::Liveness(Liveness::Online)));
}

#[test]
fn idle_closed_session_ignores_silence() {
    let (mut a, _b) = connected_pair(Limits::default());
    a.session().connection_closed_idle();
    assert_eq!(a.session().poll_timeout(), None);
    a.session().on_timeout(seconds(1000));
    assert_eq!(a.session().liveness(), Liveness::Online);
}

#[test]
fn restarted_keepalive_counts_silence_from_restart() {
    let (mut a, _b) = connected_pair(Limits::default());
    a.session().connection_closed_idle();
    a.session().restart_keepalive(seconds(1000));
    a.session().on_timeout(seconds(1000));
    assert_eq!(a.session().liveness(), Liveness::Online);
    assert_eq!(a.session().poll_timeout(), Some(seconds(1000) + Limits::default().suspect_after));
    a.session().on_timeout(seconds(1015));
    assert_eq!(a.session().liveness(), Liveness::Lost);
}

#[test]
fn acknowledge_now_skips_delay() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    b.session().acknowledge_now();
    assert!(!b.session().wants_transmit(), "no acknowledgement is pending");
    a.session().intern("t").expect("a tag number is free");
    a.transmit(Time::ZERO, &mut b);
    b.session().acknowledge_now();
    b.transmit(Time::ZERO, &mut a);
    assert!(a.session().is_idle());
}

#[test]
fn acknowledgement_after_delay_frees_sent_frames() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    a.session().intern("t").expect("a tag number is free");
    a.transmit(Time::ZERO, &mut b);
    assert!(!b.session().wants_transmit());
    assert!(!a.session().is_idle());
    let due = b.session().poll_timeout().expect("an acknowledgement is pending");
    assert_eq!(due, Time::ZERO + Limits::default().ack_delay);
    b.session().on_timeout(due);
    b.transmit(due, &mut a);
    assert!(a.session().is_idle());
    assert!(a.session().outbound.is_empty());
}

#[test]
fn worn_keys_request_connection_once() {
    let (mut a, mut b) = connected_pair(Limits { connection_records_max: 16, ..Limits::default() });
    a.session().intern("t").expect("a tag number is free");
    let mut events = Vec::new();
    for _ in 0..30 {
        a.session().send(&message(1, 2, b"x")).expect("the queue has room");
        a.transmit(Time::ZERO, &mut b);
        events.extend(a.session().poll_event());
    }
    assert_eq!(events, [SessionEvent::Renew]);
    assert!(!a.session().wants_transmit(), "exhausted keys seal no record");
    connect(&mut a, &mut b, Time::ZERO).expect("the second handshake succeeds");
    assert_eq!(a.transmit(Time::ZERO, &mut b).len(), 30 - 16);
}

#[test]
fn undelivered_reports_each_frame_once() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    a.session().send(&message(1, 2, b"acknowledged")).expect("the queue has room");
    a.transmit(Time::ZERO, &mut b);
    b.session().on_timeout(seconds(1));
    b.transmit(Time::ZERO, &mut a);
    let large = vec![7; 3_000_000];
    a.session().send(&message(1, 2, b"sent")).expect("the queue has room");
    a.session().send(&message(1, 3, &large)).expect("the queue has room");
    a.transmit(Time::ZERO, &mut b);
    a.session().send(&message(1, 3, b"behind it")).expect("the queue has room");
    a.session().send(&message(1, 4, b"never sent")).expect("the queue has room");
    let mut left = Vec::new();
    a.session().undelivered(|frame, perhaps_arrived| left.push((describe(frame), perhaps_arrived)));
    left.sort();
    let expected = [("2:sent", true), ("3:3000000", true), ("3:behind it", false), ("4:never sent", false)];
    assert_eq!(left, expected.map(|(frame, perhaps_arrived)| (frame.to_owned(), perhaps_arrived)));
}

#[test]
fn peer_without_session_begins_new_one() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    b.end_session(NodeId::from_bits(1));
    connect(&mut a, &mut b, Time::ZERO).expect("the handshake succeeds");
    assert_eq!(a.epochs.of(NodeId::from_bits(2)), 2, "the old session was lost");
    assert_eq!(a.session().frames_sent(), 0);
    let (mut a, mut b) = connected_pair(Limits::default());
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    b.end_session(NodeId::from_bits(1));
    connect(&mut b, &mut a, Time::ZERO).expect("the handshake succeeds");
    assert_eq!(a.epochs.of(NodeId::from_bits(2)), 2, "the result does not depend on the dialler");
}

/// A node with the secret but without the resume key cannot take over a session.
#[test]
fn secret_without_resume_key_cannot_resume() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    let mut thief = test_peer(1, &[Suite::Aes128Gcm], Limits::default());
    thief.handshakes = 8;
    // The thief knows the fields that are sent in the clear: node, epochs, ordinal.
    let mut other = test_peer(2, &[Suite::Aes128Gcm], Limits::default());
    connect(&mut thief, &mut other, Time::ZERO).expect("the handshake succeeds");
    thief.session().connection_lost();
    let refused = connect(&mut thief, &mut b, Time::ZERO);
    assert_eq!(refused, Err((Side::Acceptor, Refusal::Session)));
    assert!(b.session().is_connected());
}

#[test]
fn hostile_frame_returns_matching_fault() {
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
        (&[0x20, 0, 6, 0, 5, 0, 0, 0, 0, 0], PeerFault::TagNumber { id: TagId(5), expected: 0 }),
        (&[0x21, 0, 6, 0, 1, 0, 0, 0, 1, 9], PeerFault::Fragment { stream: 1 }),
        (&[0x21, 0, 11, 0, 1, 0, 0, 0, 0, 0x22, 255, 255, 255, 255, 9], PeerFault::Fragment { stream: 1 }),
    ];
    for (bytes, fault) in faults {
        let (_, mut b) = begun_pair(Limits::default());
        let mut frames = Frames::of(bytes);
        let refused = b.session().next_frame(Time::ZERO, &mut frames).map(|_| ());
        assert_eq!(refused, Err(SessionError::PeerMisbehaved(fault)), "{bytes:?}");
    }
    // A numbered frame, a control frame, and one of an unknown kind that may be ignored.
    for first in [&[0x34, 0, 1, 0, 0][..], &[0x01, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x1f, 1, 0, 0]] {
        let (_, mut b) = connected_pair(Limits::default());
        let refused = b.session().next_frame(Time::ZERO, &mut Frames::of(first)).map(|_| ());
        assert_eq!(refused, Err(SessionError::PeerMisbehaved(PeerFault::NotBegun)), "{first:?}");
    }
    let (_, mut b) = begun_pair(Limits::default());
    let refused = b
        .session()
        .next_frame(Time::ZERO, &mut Frames::of(&[0x0a, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
        .map(|_| ());
    assert_eq!(
        refused,
        Err(SessionError::PeerMisbehaved(PeerFault::FrameNumber { frame: 0 })),
        "`Begin` is allowed once"
    );
    let (_, mut b) = begun_pair(Limits::default());
    let mut unknown_tag = Vec::new();
    message(1, 2, b"").encode(&mut unknown_tag).expect("a small frame");
    let refused = b.session().next_frame(Time::ZERO, &mut Frames::of(&unknown_tag)).map(|_| ());
    assert_eq!(refused, Err(SessionError::PeerMisbehaved(PeerFault::UnknownTag { id: TagId(0) })));
}

#[test]
fn node_name_over_255_bytes_is_refused() {
    for bytes in [255, 256] {
        let (_, mut b) = begun_pair(Limits::default());
        let name = "n".repeat(bytes);
        let hint = NodeAt { request: 0, node: NodeId::from_bits(9), name: &name, locations: Locations::NONE };
        let mut body = Vec::new();
        Frame::from(hint).encode(&mut body).expect("a small frame");
        let taken = b.session().next_frame(Time::ZERO, &mut Frames::of(&body)).map(|_| ());
        let fault = PeerFault::Malformed(Malformed::TooLarge { field: "name", value: 256, limit: 255 });
        let expected = if bytes == 255 { Ok(()) } else { Err(SessionError::PeerMisbehaved(fault)) };
        assert_eq!(taken, expected, "{bytes} bytes");
    }
}

#[test]
fn frame_behind_close_waits_for_next_connection() {
    let (mut a, mut b) = begun_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    a.session().send(&message(1, 2, b"x")).expect("the queue has room");
    let close = Close { reason: CloseReason::Misbehaved };
    a.session().send_control(&close.into()).expect("there is a connection");
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["Close"]);
    assert!(!a.session().wants_transmit());
    a.session().connection_lost();
    b.session().connection_lost();
    connect(&mut a, &mut b, Time::ZERO).expect("the second handshake succeeds");
    assert_eq!(a.transmit(Time::ZERO, &mut b), ["tag 0 = t", "2:x"]);
}

#[test]
fn large_frames_over_reassembly_limit_are_refused() {
    let (_, mut b) = begun_pair(Limits { reassembly_bytes_max: 100_000, ..Limits::default() });
    let mut body = Vec::new();
    for stream in [1, 2] {
        let part = FragmentPart::First { kind: 0x22, total: 60_000 };
        let fragment = Fragment { stream, part, data: &[1] };
        Frame::from(fragment).encode(&mut body).expect("a small frame");
    }
    let refused = b.session().next_frame(Time::ZERO, &mut Frames::of(&body)).map(|_| ());
    assert_eq!(refused, Err(SessionError::PeerMisbehaved(PeerFault::Reassembly { declared: 120_000 })));
}

#[test]
fn unknown_ignorable_frame_is_counted_and_skipped() {
    let (_, mut b) = begun_pair(Limits::default());
    let mut frames = Frames::of(&[0x7f, 1, 3, 0, 1, 2, 3, 0x1f, 1, 0, 0]);
    assert!(b.session().next_frame(Time::ZERO, &mut frames).expect("the frame may be ignored").is_none());
    assert_eq!(b.session().frames_received(), 1);
}

/// A record of very many frames without numbers is taken in parts. Numbered frames do not count.
#[test]
fn control_frames_are_taken_in_parts() {
    let (_, mut b) = begun_pair(Limits::default());
    let (credit, ignored) = (Frame::from(Credit { until: 1 }), [0x7f, 1, 0, 0]);
    let mut body = Vec::new();
    (0..3_000).for_each(|_| credit.encode(&mut body).expect("a small frame"));
    (0..3_000).for_each(|_| body.extend(ignored));
    let mut parts = Vec::new();
    let mut rest = body.as_slice();
    while !rest.is_empty() {
        let before = b.session().control_frames_received();
        let mut frames = Frames::of(rest);
        assert!(b.session().next_frame(Time::ZERO, &mut frames).expect("sound frames").is_none());
        rest = &rest[rest.len() - frames.unread()..];
        parts.push(b.session().control_frames_received() - before);
    }
    assert_eq!(parts, [1_024, 1_024, 952]);
    assert_eq!(b.session().frames_received(), 3_000);
}

#[test]
fn frame_over_credit_is_refused() {
    let (_, mut b) = begun_pair(Limits { window_bytes: 64 * 1024, ..Limits::default() });
    let mut frame = vec![0x7f, 1, 0, 0];
    frame[2..4].copy_from_slice(&16_384_u16.to_le_bytes());
    frame.resize(16_388, 0);
    let four = frame.repeat(4);
    let mut frames = Frames::of(&four);
    let refused = b.session().next_frame(Time::ZERO, &mut frames).map(|_| ());
    assert_eq!(
        refused,
        Err(SessionError::PeerMisbehaved(PeerFault::CreditExceeded { by: 4 * 16_388 - 65_536 }))
    );
}

#[test]
fn session_without_traffic_keeps_no_buffer() {
    let (mut a, mut b) = begun_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    b.session().intern("t").expect("a tag number is free");
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    a.session().on_timeout(seconds(1));
    a.transmit(seconds(1), &mut b);
    for peer in [&mut a, &mut b] {
        assert!(peer.session().outbound.is_empty());
        assert_eq!(peer.session().outbound.spare_buffers(), 0, "a ping frees the buffers of both sides");
        peer.input.release();
        assert_eq!(peer.input.pending_bytes(), 0);
    }
}

#[test]
fn frame_payload_size_is_sum_of_fields() {
    let frame = message(1, 2, b"body");
    assert_eq!(frame.payload_size(), 8 + 8 + 4 + 1 + 2 + 4);
    assert_eq!(7_u64.size(), 8);
}

/// Arbitrary payloads from an authenticated peer neither panic nor break an invariant.
#[test]
fn session_arbitrary_frames_keep_invariants() {
    let kinds = Frame::KINDS.iter().map(|(kind, _)| *kind).collect::<Vec<u8>>();
    // Zeros and payloads of 8 bytes are valid for many kinds.
    let byte = proptest::prop_oneof![6 => Just(0_u8), 1 => 1_u8..4];
    let length = proptest::prop_oneof![2 => Just(8_usize), 1 => 0_usize..40];
    let payload = length.prop_flat_map(move |length| proptest::collection::vec(byte.clone(), length));
    let frame = (proptest::sample::select(kinds), payload);
    // A malformed frame ends a case, so three of four cases leave the malformed frames out.
    let frames = (proptest::collection::vec(frame, 1..100), proptest::bool::weighted(0.25));
    let bodies = frames.prop_map(|(frames, with_malformed)| {
        let mut body = Vec::new();
        crate::frame::Begin { frame: 0 }.put_frame(&mut body);
        Frame::from(Tag { id: TagId(0), name: "t" }).encode(&mut body).expect("a small frame");
        for (kind, payload) in &frames {
            if with_malformed || matches!(Frame::decode(*kind, payload), Ok(Some(_))) {
                body.extend_from_slice(&[*kind, 0, payload.len() as u8, 0]);
                body.extend_from_slice(payload);
            }
        }
        body
    });
    let config = Config { source_file: Some(file!()), ..Config::default() };
    let (accepted, refused) = (Cell::new(0), Cell::new(0));
    let result = TestRunner::new(config).run(&bodies, |body| {
        let (_, mut b) = connected_pair(Limits::default());
        let mut rest = Frames::of(&body);
        b.session().identity.is_firm = true;
        loop {
            let incoming = b.session().next_frame(Time::ZERO, &mut rest);
            let name = incoming.map(|incoming| incoming.map(|incoming| incoming.frame().name()));
            b.session().check();
            match name {
                Ok(Some("Tag")) => {}
                Ok(Some(_)) => accepted.set(accepted.get() + 1),
                Ok(None) => break,
                Err(_) => {
                    refused.set(refused.get() + 1);
                    break;
                }
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(accepted.get() > 100, "only {} frames were accepted", accepted.get());
    assert!(refused.get() > 100, "only {} frames were refused", refused.get());
}

proptest::proptest! {
    #[test]
    fn large_frames_arrive_whole_and_in_order(sizes in proptest::collection::vec(0_usize..70_000, 1..12)) {
        let (mut a, mut b) = connected_pair(Limits { window_bytes: 100_000, ..Limits::default() });
        a.session().intern("t").expect("a tag number is free");
        let body = vec![7; 70_000];
        for size in &sizes {
            a.session().send(&message(1, 2, &body[..*size])).expect("the queue has room");
        }
        let mut received = Vec::new();
        for _ in 0..100 {
            received.extend(a.transmit(Time::ZERO, &mut b));
            b.transmit(Time::ZERO, &mut a);
        }
        let expected: Vec<String> = sizes.iter().map(|size| describe(&message(1, 2, &body[..*size]))).collect();
        proptest::prop_assert_eq!(&received[1..], &expected[..]);
        proptest::prop_assert!(a.session().queued_bytes() == 0);
    }
}

impl crate::frame::Begin {
    fn put_frame(self, out: &mut Vec<u8>) {
        Frame::from(self).encode(out).expect("a small frame");
    }
}
