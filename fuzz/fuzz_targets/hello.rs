//! The first bytes from an unknown peer, at both ends of a connection, in pieces of any size.
//!
//! Neither end panics, sends or buffers more than the bound of a hello, or accepts a proof without the secret.

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
    let mut handshake = if dials {
        Handshake::dial(&profile, entropy(), ResumeState::unknown(1), None, &mut out)
    } else {
        Handshake::accept(None)
    };
    let mut deframer = Deframer::new();
    for piece in pieces(bytes) {
        // Bytes that do not fit are more than a peer may send before its proof; they are ignored.
        deframer.push(piece);
        assert!(deframer.pending_bytes() <= HELLO_BYTES_MAX);
        match advance(&profile, &mut handshake, &mut deframer, &mut out) {
            Ok(true) => {}
            Ok(false) => return assert!(!has_secret, "a proof was accepted without the secret"),
            Err(_) => return,
        }
    }
});

/// Advances the handshake as far as the bytes allow; false when the peer is proven.
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
        assert!(out.len() <= HELLO_BYTES_MAX, "an answer is longer than a hello");
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
                let peer = handshake.peer().expect("an introduced peer has sent its hello");
                let Ok(resume_state) = Session::answer_to(None, &epochs, peer) else { return Ok(true) };
                handshake.answer(profile, entropy(), resume_state, out)?;
            }
        }
    }
}
