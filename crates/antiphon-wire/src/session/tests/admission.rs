//! Which connections continue a session, begin one, or are refused.

use super::test_peer::{
    Side, TestPeer, connect, connected_pair, run_handshake, run_handshake_with, test_peer,
};
use crate::handshake::{Refusal, ResumeState};
use crate::ids::NodeId;
use crate::session::epochs::EPOCH_STEP_MAX;
use crate::session::resume::SessionIdentity;
use crate::session::{Admission, Session};
use crate::{Limits, Suite, Time};

const NOW: Time = Time::ZERO;
/// The nodes of `unconnected_pair` and of `connected_pair`.
const A: NodeId = NodeId::from_bits(1);
const B: NodeId = NodeId::from_bits(2);

fn admits(end: &TestPeer, connection: &crate::ProvenConnection) -> Admission {
    Session::admit(end.session.as_ref(), &end.epochs, connection)
}

fn unconnected_pair() -> (TestPeer, TestPeer) {
    let suites = [Suite::Aes128Gcm];
    (test_peer(1, &suites, Limits::default()), test_peer(2, &suites, Limits::default()))
}

/// Of two connections, the one with the higher ordinal wins. With equal ordinals, the one that the smaller node dialled
/// wins.
#[test]
fn connection_wins_by_ordinal_then_smaller_node() {
    let (smaller, bigger) = (NodeId::from_bits(1), NodeId::from_bits(2));
    let yields = |me, live_dialler, is_firm: bool, ordinal, dialler| {
        let peer = if me == smaller { bigger } else { smaller };
        let identity = SessionIdentity {
            me,
            peer,
            epoch: 1,
            peer_epoch: 1,
            keys: Default::default(),
            is_firm,
            ordinal: 5,
            dialled: 0,
            live_dialler,
        };
        identity.yields_to(ordinal, dialler)
    };
    for me in [smaller, bigger] {
        for dialler in [smaller, bigger] {
            for live in [smaller, bigger] {
                assert_eq!(yields(me, Some(live), true, 6, dialler), Ok(()), "higher");
                assert_eq!(yields(me, Some(live), true, 4, dialler), Err(Refusal::Superseded), "lower");
            }
            assert_eq!(yields(me, None, true, 5, dialler), Ok(()), "no live connection");
            assert_eq!(
                yields(me, None, true, 4, dialler),
                Err(Refusal::Superseded),
                "older than the last proven connection"
            );
        }
        assert_eq!(yields(me, Some(bigger), true, 5, smaller), Ok(()));
        assert_eq!(yields(me, Some(smaller), true, 5, bigger), Err(Refusal::Duplicate));
        assert_eq!(yields(me, Some(smaller), true, 5, smaller), Err(Refusal::Duplicate));
        assert_eq!(yields(me, Some(bigger), true, 5, bigger), Err(Refusal::Duplicate));
        assert_eq!(
            yields(me, Some(bigger), false, 5, bigger),
            Ok(()),
            "the dialler gave up its earlier connection"
        );
        assert_eq!(yields(me, Some(smaller), false, 5, bigger), Err(Refusal::Duplicate));
    }
}

#[test]
fn simultaneous_first_dials_form_one_session() {
    let (mut a, mut b) = unconnected_pair();
    let [at_a, at_b] = run_handshake(&mut a, &mut b).expect("the handshake succeeds");
    let [at_b_too, at_a_too] = run_handshake(&mut b, &mut a).expect("the second handshake succeeds");
    // Each side first adopts the connection that it accepted. The one that it dialled completes later.
    a.adopt(NOW, at_a_too);
    b.adopt(NOW, at_b);
    assert_eq!(admits(&a, &at_a), Admission::Continues, "the smaller node's dial");
    assert_eq!(admits(&b, &at_b_too), Admission::Refused(Refusal::Duplicate));
    a.adopt(NOW, at_a);
    a.session().intern("t").expect("a tag number is free");
    assert_eq!(a.transmit(NOW, &mut b), ["tag 0 = t"]);
    assert_eq!((a.epochs.of(B), b.epochs.of(A)), (1, 1), "no session ended");
}

#[test]
fn session_ended_during_resume_refuses_connection() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().intern("t").expect("a tag number is free");
    a.transmit(NOW, &mut b);
    b.transmit(NOW, &mut a);
    a.session().connection_lost();
    b.session().connection_lost();
    let [at_a, _] = run_handshake(&mut a, &mut b).expect("the second handshake succeeds");
    assert!(at_a.resumes());
    assert_eq!(admits(&a, &at_a), Admission::Continues);
    a.end_session(B);
    assert_eq!(admits(&a, &at_a), Admission::Refused(Refusal::Superseded));
}

/// A first handshake that completes after the session became firm is refused.
#[test]
fn late_first_handshake_is_refused() {
    let (mut a, mut b) = unconnected_pair();
    let [at_a, _] = run_handshake(&mut a, &mut b).expect("the handshake succeeds");
    connect(&mut b, &mut a, NOW).expect("the opposite dial succeeds");
    assert_eq!(
        admits(&a, &at_a),
        Admission::Continues,
        "nothing was received, so the session may begin again"
    );
    a.session().intern("t").expect("a tag number is free");
    a.transmit(NOW, &mut b);
    b.transmit(NOW, &mut a);
    assert_eq!(admits(&a, &at_a), Admission::Refused(Refusal::Superseded));
}

#[test]
fn connection_of_ended_session_half_is_refused() {
    let (mut a, mut b) = unconnected_pair();
    let [at_a, _] = run_handshake(&mut a, &mut b).expect("the handshake succeeds");
    a.epochs.ended(B);
    assert_eq!(admits(&a, &at_a), Admission::Refused(Refusal::Superseded));
}

#[test]
fn handshake_survives_ends_of_other_sessions() {
    let (mut a, mut b) = unconnected_pair();
    let others_end = |end: &mut TestPeer| (7..10).for_each(|node| end.epochs.ended(NodeId::from_bits(node)));
    let [at_a, at_b] = run_handshake_with(&mut a, &mut b, |a, b| {
        others_end(a);
        others_end(b);
    })
    .expect("their own session has not ended");
    others_end(&mut a);
    others_end(&mut b);
    assert_eq!((admits(&a, &at_a), admits(&b, &at_b)), (Admission::Begins, Admission::Begins));
}

#[test]
fn first_dials_form_one_session_despite_other_ends() {
    let (mut a, mut b) = unconnected_pair();
    let [at_a, at_b] = run_handshake(&mut a, &mut b).expect("the handshake succeeds");
    a.epochs.ended(NodeId::from_bits(9));
    b.epochs.ended(NodeId::from_bits(9));
    let [at_b_too, at_a_too] = run_handshake(&mut b, &mut a).expect("the second handshake succeeds");
    a.adopt(NOW, at_a_too);
    b.adopt(NOW, at_b);
    assert_eq!(admits(&a, &at_a), Admission::Continues, "the smaller node's dial");
    assert_eq!(admits(&b, &at_b_too), Admission::Refused(Refusal::Duplicate));
}

/// A dialler proves itself under the epoch that it sent first. A handshake with a later epoch is refused and must be
/// repeated.
#[test]
fn dialler_with_unsettled_epoch_must_dial_again() {
    let (mut a, mut b) = unconnected_pair();
    a.epochs.ended(NodeId::from_bits(9));
    // One handshake is proven under the first epoch; the other was dialled after the end of a session.
    let mixed = run_handshake_with(&mut a, &mut b, |a, b| {
        let _settled = a.epochs.settle_for(b.profile.node, 1);
    });
    assert_eq!(mixed.err(), Some((Side::Dialler, Refusal::Superseded)));
    connect(&mut a, &mut b, NOW).expect("the dialler now sends the settled epoch");
}

#[test]
fn session_changed_between_hello_and_proof_refuses() {
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().connection_lost();
    let lost = run_handshake_with(&mut a, &mut b, |_, b| b.end_session(A));
    assert_eq!(lost.err(), Some((Side::Acceptor, Refusal::Superseded)));

    let (mut a, mut b) = connected_pair(Limits::default());
    let lost = run_handshake_with(&mut a, &mut b, |a, _| a.end_session(B));
    assert_eq!(lost.err(), Some((Side::Dialler, Refusal::Superseded)));

    // Dialled without a session, while the dialler still has one with the acceptor under an older epoch.
    let (mut a, mut b) = connected_pair(Limits::default());
    a.session().connection_lost();
    b.session().connection_lost();
    let session = a.session.take();
    a.epochs.ended(B);
    let unknown = run_handshake_with(&mut a, &mut b, |a, _| a.session = session);
    assert_eq!(unknown.err(), Some((Side::Dialler, Refusal::Duplicate)));
}

#[test]
fn next_dial_recovers_lost_last_proof() {
    let (mut a, mut b) = unconnected_pair();
    // The acceptor adopts the connection, but its proof never reaches the dialler.
    let [_, at_b] = run_handshake(&mut a, &mut b).expect("the handshake succeeds");
    b.adopt(NOW, at_b);
    b.session().intern("early").expect("a tag number is free");
    let mut lost = Vec::new();
    assert!(b.session().poll_transmit(NOW, &mut lost));
    connect(&mut a, &mut b, NOW).expect("the dialler repeats its first dial");
    assert_eq!(b.transmit(NOW, &mut a), ["tag 0 = early"], "the frame is sent again");
    assert_eq!(b.epochs.of(A), 1, "it is the same session");
    // The same while the dialler holds the session.
    a.transmit(NOW, &mut b);
    a.session().connection_lost();
    let [_, at_b] = run_handshake(&mut a, &mut b).expect("the second handshake succeeds");
    b.adopt(NOW, at_b);
    b.session().intern("late").expect("a tag number is free");
    assert!(b.session().poll_transmit(NOW, &mut lost));
    connect(&mut a, &mut b, NOW).expect("the next dial succeeds");
    assert_eq!(b.transmit(NOW, &mut a), ["tag 1 = late"]);
}

#[test]
fn dial_older_than_session_is_refused() {
    let (mut a, mut b) = unconnected_pair();
    (0..2).for_each(|_| a.epochs.ended(B));
    (0..4).for_each(|_| b.epochs.ended(A));
    let [at_a, at_b] = run_handshake(&mut a, &mut b).expect("the handshake succeeds");
    let mut hello = at_b.peer().clone();
    a.adopt(NOW, at_a);
    b.adopt(NOW, at_b);
    a.transmit(NOW, &mut b);
    let mut answer = |epoch, known, ordinal| {
        hello.resume_state = ResumeState { epoch, known, ordinal };
        Session::answer_to(b.session.as_ref(), &b.epochs, &hello)
    };
    assert_eq!(answer(3, 5, 1), Err(Refusal::Duplicate), "a repeated dial");
    assert_eq!(answer(3, 5, 0), Err(Refusal::Superseded), "an older dial");
    let old = Refusal::OldEpoch { node: B, known: 3 };
    assert_eq!(answer(2, 0, 9), Err(old), "a dialler's half that it has lost");
    assert_eq!(answer(3, 4, 9), Err(Refusal::Superseded), "an acceptor's half that it has lost");
    assert_eq!(answer(3, 5, 2), Ok(ResumeState { epoch: 5, known: 3, ordinal: 1 }));
    assert_eq!(
        answer(4, 0, 1),
        Ok(ResumeState { epoch: 5, known: 0, ordinal: 0 }),
        "the dialler begins a new session"
    );
    assert!(answer(3 + EPOCH_STEP_MAX, 0, 1).is_ok());
    let too_high = Refusal::EpochTooHigh { node: B, known: 3 };
    assert_eq!(answer(4 + EPOCH_STEP_MAX, 0, 1), Err(too_high));
}

/// Only a session of which records have arrived stands against a newer epoch.
#[test]
fn newer_epoch_would_replace_firm_session() {
    let (mut a, mut b) = unconnected_pair();
    let [at_a, at_b] = run_handshake(&mut a, &mut b).expect("the handshake succeeds");
    let mut hello = at_b.peer().clone();
    a.adopt(NOW, at_a);
    b.adopt(NOW, at_b);
    let with_epoch = |epoch, hello: &mut crate::Hello| {
        hello.resume_state = ResumeState::unknown(epoch);
        hello.clone()
    };
    let newer = with_epoch(2, &mut hello);
    assert!(!b.session().would_be_replaced_by(&newer), "no record has arrived");
    a.session().intern("t").expect("a tag number is free");
    a.transmit(NOW, &mut b);
    assert!(b.session().would_be_replaced_by(&newer));
    assert!(!b.session().would_be_replaced_by(&with_epoch(1, &mut hello)), "the same epoch");
}
