//! The record stream of a proven connection. A session without a secret may accept the frames in it; a session with a
//! secret accepts none.

#![no_main]

use antiphon_fuzz::{entropy, pieces, profile};
use antiphon_wire::{
    Deframer, Epochs, Handshake, HandshakeStep, HeldSession, Profile, ProvenConnection, ResumeState, Session,
    SessionError, Time,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((flags, bytes)) = input.split_first() else { return };
    let has_secret = flags & 1 != 0;
    let mine = profile(1, has_secret);
    let mut now = Time::ZERO;
    let connection = honest_connection(&mine, &profile(2, has_secret));
    let mut session = Session::begin(now, &mine.limits, mine.node, &connection);
    session.connected(now, connection).expect("a session accepts its first connection");
    let mut deframer = Deframer::new();
    let mut out = Vec::new();
    for piece in pieces(bytes) {
        let mut rest = piece;
        while !rest.is_empty() {
            let count = deframer.push(rest);
            rest = &rest[count..];
            match take(&mut session, now, &mut deframer) {
                Ok(frames) => {
                    assert!(frames == 0 || !has_secret, "a record without a valid seal was accepted")
                }
                Err(_) => return,
            }
            assert!(count > 0 || rest.is_empty(), "the deframer has space when all whole records are taken");
        }
        session.check();
        out.clear();
        while session.poll_transmit(now, &mut out) && out.len() < 1 << 20 {}
        while session.poll_event().is_some() {}
        if let Some(due) = session.poll_timeout() {
            now = due.max(now);
            session.on_timeout(now);
        }
        if !session.is_connected() {
            return;
        }
    }
});

fn take(session: &mut Session, now: Time, deframer: &mut Deframer) -> Result<usize, SessionError> {
    let mut taken = 0;
    while let Some(mut frames) = session.next_record(now, deframer)? {
        while let Some(incoming) = session.next_frame(now, &mut frames)? {
            taken += 1;
            let _tag = incoming.frame().tag();
            // The credit of some frames is held and released.
            if taken % 3 == 0 {
                let held = session.hold();
                session.release(held);
            }
        }
        let unread = frames.unread();
        deframer.put_back(unread);
    }
    Ok(taken)
}

/// Runs an honest handshake, and returns the acceptor's end of the connection.
fn honest_connection(mine: &Profile, theirs: &Profile) -> Box<ProvenConnection> {
    let (mut to_them, mut to_me) = (Deframer::new(), Deframer::new());
    let (mut out, mut my_epochs, mut their_epochs) = (Vec::new(), Epochs::default(), Epochs::default());
    let mut dialler =
        Handshake::dial(theirs, entropy(), ResumeState::unknown(their_epochs.of_unknown_node()), None, &mut out);
    let mut acceptor = Handshake::accept(None);
    loop {
        to_me.push(&out);
        out.clear();
        match acceptor.advance(mine, &mut to_me, &mut out).expect("an honest peer") {
            HandshakeStep::Introduced => {
                let hello = acceptor.peer().expect("an introduced peer has sent its hello");
                let resume_state = Session::answer_to(None, &my_epochs, hello).expect("no session yet");
                acceptor.answer(mine, entropy(), resume_state, &mut out).expect("the peer awaits an answer");
            }
            HandshakeStep::Proven => {
                let holding = Session::confirm_to(None, &mut my_epochs, &acceptor).expect("no session yet");
                return acceptor.confirm(mine, &holding, &mut out).expect("the peer is proven");
            }
            HandshakeStep::Wait | HandshakeStep::Done(_) => {}
        }
        to_them.push(&out);
        out.clear();
        if let HandshakeStep::Introduced =
            dialler.advance(theirs, &mut to_them, &mut out).expect("an honest peer")
        {
            let holding: HeldSession =
                Session::prove_to(None, &mut their_epochs, &dialler).expect("no session yet");
            dialler.prove(theirs, holding, &mut out).expect("the peer awaits a proof");
        }
    }
}
