//! What strangers say first, at both ends of a connection, in pieces of any size.
//!
//! Neither end panics, says or takes more than a hello's bound, or finds a proof where the secret is not known.

#![no_main]

use antiphon_fuzz::{entropy, pieces, profile};
use antiphon_wire::{
    Deframer, Epochs, HELLO_BYTES_MAX, Handshake, HandshakeError, HandshakeRole, HandshakeStep, Profile,
    ResumeState, Session,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((flags, bytes)) = input.split_first() else { return };
    let (dials, has_secret) = (flags & 1 != 0, flags & 2 != 0);
    let profile = profile(1, has_secret);
    let mut out = Vec::new();
    let mut handshake = match dials {
        true => Handshake::dial(&profile, entropy(), ResumeState::unknown(1), None, &mut out),
        false => Handshake::accept(None),
    };
    let mut deframer = Deframer::new();
    for piece in pieces(bytes) {
        // What does not fit is more than anybody may say before the proof.
        deframer.push(piece);
        assert!(deframer.pending_bytes() <= HELLO_BYTES_MAX);
        match advance(&profile, &mut handshake, &mut deframer, &mut out) {
            Ok(true) => {}
            Ok(false) => return assert!(!has_secret, "a proof without the secret"),
            Err(_) => return,
        }
    }
});

/// Goes on as far as the bytes allow; false when the peer is proven.
fn advance(
    profile: &Profile,
    handshake: &mut Handshake,
    deframer: &mut Deframer,
    out: &mut Vec<u8>,
) -> Result<bool, HandshakeError> {
    let mut epochs = Epochs::default();
    loop {
        out.clear();
        let step = handshake.advance(profile, deframer, out);
        assert!(out.len() <= HELLO_BYTES_MAX, "no answer is longer than a hello");
        match step? {
            HandshakeStep::Wait => return Ok(true),
            HandshakeStep::Proven => return Ok(false),
            HandshakeStep::Done(connection) => {
                assert_eq!(connection.role(), HandshakeRole::Dialler);
                return Ok(false);
            }
            HandshakeStep::Introduced if handshake.resume_state().is_some() => {
                let holding = Session::prove_to(None, &mut epochs, handshake);
                let Ok(holding) = holding else { return Ok(true) };
                handshake.prove(profile, holding, out)?;
            }
            HandshakeStep::Introduced => {
                let peer = handshake.peer().expect("it has introduced itself");
                let Ok(resume_state) = Session::answer_to(None, &epochs, peer) else { return Ok(true) };
                handshake.answer(profile, entropy(), resume_state, out)?;
            }
        }
    }
}
