//! Which connection a session takes, begins with, or refuses.

use super::ends::{End, Side, end, meet, met, shake, shake_while};
use crate::handshake::{Refusal, ResumeState};
use crate::ids::NodeId;
use crate::session::resume::SessionIdentity;
use crate::session::{Admission, Session};
use crate::{Limits, Suite, Time};

const NOW: Time = Time::START;
/// The nodes of `two` and of `met`.
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn admits(end: &End, connection: &crate::ProvenConnection) -> Admission {
    Session::admit(end.session.as_ref(), &end.epochs, connection)
}

fn two() -> (End, End) {
    let suites = [Suite::Aes128Gcm];
    (end(1, &suites, Limits::default()), end(2, &suites, Limits::default()))
}

#[test]
fn of_two_connections_that_with_the_higher_ordinal_wins_and_of_equals_that_of_the_smaller_node() {
    let (smaller, bigger) = (NodeId(1), NodeId(2));
    let yields = |me, live, is_firm: bool, ordinal, dialler| {
        let peer = if me == smaller { bigger } else { smaller };
        let identity = SessionIdentity {
            me,
            peer,
            epoch: 1,
            known: 1,
            keys: Default::default(),
            is_firm,
            ordinal: 5,
            dialled: 0,
            live,
        };
        identity.yields_to(ordinal, dialler)
    };
    for me in [smaller, bigger] {
        for dialler in [smaller, bigger] {
            for live in [smaller, bigger] {
                assert_eq!(yields(me, Some(live), true, 6, dialler), Ok(()), "higher");
                assert_eq!(yields(me, Some(live), true, 4, dialler), Err(Refusal::Superseded), "lower");
            }
            assert_eq!(yields(me, None, true, 5, dialler), Ok(()), "none to yield");
            assert_eq!(
                yields(me, None, true, 4, dialler),
                Err(Refusal::Superseded),
                "older than one that was there"
            );
        }
        assert_eq!(yields(me, Some(bigger), true, 5, smaller), Ok(()));
        assert_eq!(yields(me, Some(smaller), true, 5, bigger), Err(Refusal::Duplicate));
        assert_eq!(yields(me, Some(smaller), true, 5, smaller), Err(Refusal::Duplicate));
        assert_eq!(yields(me, Some(bigger), true, 5, bigger), Err(Refusal::Duplicate));
        assert_eq!(yields(me, Some(bigger), false, 5, bigger), Ok(()), "it gave up the one before");
        assert_eq!(yields(me, Some(smaller), false, 5, bigger), Err(Refusal::Duplicate));
    }
}

#[test]
fn two_first_dials_at_the_same_moment_are_one_session() {
    let (mut a, mut b) = two();
    let [at_a, at_b] = shake(&mut a, &mut b).expect("they meet");
    let [at_b_too, at_a_too] = shake(&mut b, &mut a).expect("they meet twice");
    // Each side takes the acceptor's connection first, and learns of its own dial's later.
    a.take(NOW, at_a_too);
    b.take(NOW, at_b);
    assert_eq!(admits(&a, &at_a), Admission::Takes, "the smaller node's dial");
    assert_eq!(admits(&b, &at_b_too), Admission::Refused(Refusal::Duplicate));
    a.take(NOW, at_a);
    a.session().intern("t").expect("room");
    assert_eq!(a.talk(NOW, &mut b), ["tag 0 = t"]);
    assert_eq!((a.epochs.of(B), b.epochs.of(A)), (1, 1), "nothing ended");
}

#[test]
fn a_session_that_ends_while_it_is_being_resumed_is_not_taken_for_a_new_one() {
    let (mut a, mut b) = met(Limits::default());
    a.session().intern("t").expect("room");
    a.talk(NOW, &mut b);
    b.talk(NOW, &mut a);
    a.session().disconnected();
    b.session().disconnected();
    let [at_a, _] = shake(&mut a, &mut b).expect("they meet again");
    assert!(at_a.resumes());
    assert_eq!(admits(&a, &at_a), Admission::Takes);
    a.lose(B);
    assert_eq!(admits(&a, &at_a), Admission::Refused(Refusal::Superseded));
}

#[test]
fn a_first_handshake_that_comes_to_its_end_after_the_session_moved_on_is_refused() {
    let (mut a, mut b) = two();
    let [at_a, _] = shake(&mut a, &mut b).expect("they meet");
    meet(&mut b, &mut a, NOW).expect("they meet the other way round");
    assert_eq!(admits(&a, &at_a), Admission::Takes, "nothing was received: it may begin once more");
    a.session().intern("t").expect("room");
    a.talk(NOW, &mut b);
    b.talk(NOW, &mut a);
    assert_eq!(admits(&a, &at_a), Admission::Refused(Refusal::Superseded));
}

#[test]
fn a_connection_of_an_ended_half_begins_nothing() {
    let (mut a, mut b) = two();
    let [at_a, _] = shake(&mut a, &mut b).expect("they meet");
    a.epochs.ended(B);
    assert_eq!(admits(&a, &at_a), Admission::Refused(Refusal::Superseded));
}

#[test]
fn the_ends_of_other_sessions_refuse_no_handshake() {
    let (mut a, mut b) = two();
    let others_end = |end: &mut End| (7..10).for_each(|node| end.epochs.ended(NodeId(node)));
    let [at_a, at_b] = shake_while(&mut a, &mut b, |a, b| {
        others_end(a);
        others_end(b);
    })
    .expect("they have not lost each other");
    others_end(&mut a);
    others_end(&mut b);
    assert_eq!((admits(&a, &at_a), admits(&b, &at_b)), (Admission::Begins, Admission::Begins));
}

#[test]
fn two_first_dials_are_one_session_although_others_end_between_them() {
    let (mut a, mut b) = two();
    let [at_a, at_b] = shake(&mut a, &mut b).expect("they meet");
    a.epochs.ended(NodeId(9));
    b.epochs.ended(NodeId(9));
    let [at_b_too, at_a_too] = shake(&mut b, &mut a).expect("they meet twice");
    a.take(NOW, at_a_too);
    b.take(NOW, at_b);
    assert_eq!(admits(&a, &at_a), Admission::Takes, "the smaller node's dial");
    assert_eq!(admits(&b, &at_b_too), Admission::Refused(Refusal::Duplicate));
}

#[test]
fn a_stranger_that_was_told_something_else_before_is_asked_to_come_again() {
    let (mut a, mut b) = two();
    a.epochs.ended(NodeId(9));
    // The one handshake is proven under what it was told first, the other was dialled after an end.
    let mixed = shake_while(&mut a, &mut b, |a, b| {
        let _settled = a.epochs.settle_for(b.profile.node, 1);
    });
    assert_eq!(mixed.err(), Some((Side::Dialler, Refusal::Superseded)));
    meet(&mut a, &mut b, NOW).expect("now it is told the same");
}

#[test]
fn a_session_that_changes_between_hello_and_proof_refuses_on_either_side() {
    let (mut a, mut b) = met(Limits::default());
    a.session().disconnected();
    let lost = shake_while(&mut a, &mut b, |_, b| b.lose(A));
    assert_eq!(lost.err(), Some((Side::Acceptor, Refusal::Superseded)));

    let (mut a, mut b) = met(Limits::default());
    let lost = shake_while(&mut a, &mut b, |a, _| a.lose(B));
    assert_eq!(lost.err(), Some((Side::Dialler, Refusal::Superseded)));

    // Dialled as a stranger, while there is a session of an older half with whoever answers.
    let (mut a, mut b) = met(Limits::default());
    a.session().disconnected();
    b.session().disconnected();
    let session = a.session.take();
    a.epochs.ended(B);
    let stranger = shake_while(&mut a, &mut b, |a, _| a.session = session);
    assert_eq!(stranger.err(), Some((Side::Dialler, Refusal::Duplicate)));
}

#[test]
fn a_lost_last_proof_is_made_up_for_by_the_next_dial() {
    let (mut a, mut b) = two();
    // The acceptor takes the connection; its proof never reaches the dialler.
    let [_, at_b] = shake(&mut a, &mut b).expect("they meet");
    b.take(NOW, at_b);
    b.session().intern("early").expect("room");
    let mut lost = Vec::new();
    assert!(b.session().poll_transmit(NOW, &mut lost));
    meet(&mut a, &mut b, NOW).expect("the dialler tries again, as if for the first time");
    assert_eq!(b.talk(NOW, &mut a), ["tag 0 = early"], "nothing was lost");
    assert_eq!(b.epochs.of(A), 1, "it is the same session");
    // Also the other way round, with a session that the dialler does hold.
    a.talk(NOW, &mut b);
    a.session().disconnected();
    let [_, at_b] = shake(&mut a, &mut b).expect("they meet again");
    b.take(NOW, at_b);
    b.session().intern("late").expect("room");
    assert!(b.session().poll_transmit(NOW, &mut lost));
    meet(&mut a, &mut b, NOW).expect("and again");
    assert_eq!(b.talk(NOW, &mut a), ["tag 1 = late"]);
}

#[test]
fn a_dial_from_before_the_session_is_refused() {
    let (mut a, mut b) = two();
    (0..2).for_each(|_| a.epochs.ended(B));
    (0..4).for_each(|_| b.epochs.ended(A));
    let [at_a, at_b] = shake(&mut a, &mut b).expect("they meet");
    let mut hello = at_b.peer().clone();
    a.take(NOW, at_a);
    b.take(NOW, at_b);
    a.talk(NOW, &mut b);
    let mut answer = |epoch, known, ordinal| {
        hello.resume_state = ResumeState { epoch, known, ordinal };
        Session::answer_to(b.session.as_ref(), &b.epochs, &hello)
    };
    assert_eq!(answer(3, 5, 1), Err(Refusal::Duplicate), "the same dial once more");
    assert_eq!(answer(3, 5, 0), Err(Refusal::Superseded), "an older dial");
    assert_eq!(answer(2, 0, 9), Err(Refusal::Superseded), "of a half that the dialler has lost");
    assert_eq!(answer(3, 4, 9), Err(Refusal::Superseded), "to a half that this side has lost");
    assert_eq!(answer(3, 5, 2), Ok(ResumeState { epoch: 5, known: 3, ordinal: 1 }));
    assert_eq!(
        answer(4, 0, 1),
        Ok(ResumeState { epoch: 5, known: 0, ordinal: 0 }),
        "the dialler begins anew"
    );
}
