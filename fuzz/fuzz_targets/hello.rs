//! What strangers say first, at both ends of a connection, in pieces of any size.
//!
//! Neither end panics, says or takes more than a hello's bound, or finds a proof where the secret is not known.

#![no_main]

use antiphon_fuzz::{fresh, pieces, profile};
use antiphon_wire::{
    Deframer, Epochs, HELLO_BYTES_MAX, Handshake, HandshakeError, Profile, Role, Session, Standing, Step,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, Vec<u8>)| {
    let (dials, has_secret, bytes) = input;
    let profile = profile(1, has_secret);
    let mut out = Vec::new();
    let mut handshake = match dials {
        true => Handshake::dial(&profile, fresh(), Standing::unknown(1), None, &mut out),
        false => Handshake::accept(None),
    };
    let mut deframer = Deframer::new();
    for piece in pieces(&bytes) {
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
            Step::Wait => return Ok(true),
            Step::Proven => return Ok(false),
            Step::Done(connection) => {
                assert_eq!(connection.role(), Role::Dialler);
                return Ok(false);
            }
            Step::Introduced if handshake.standing().is_some() => {
                let holding = Session::prove_to(None, &mut epochs, handshake);
                let Ok(holding) = holding else { return Ok(true) };
                handshake.prove(profile, holding, out)?;
            }
            Step::Introduced => {
                let peer = handshake.peer().expect("it has introduced itself");
                let Ok(standing) = Session::answer_to(None, &epochs, peer) else { return Ok(true) };
                handshake.answer(profile, fresh(), standing, out)?;
            }
        }
    }
}
