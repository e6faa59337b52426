//! Handshakes that go as they should not: versions, misuse, floods, refusals; and what a proof binds.

use super::*;
use crate::deframer::Deframer;
use crate::entropy::Entropy;
use crate::limits::HELLO_BYTES_MAX;

fn profile(node: u64, suite: Suite) -> Profile {
    Profile {
        node: NodeId(node),
        name: "n".to_owned(),
        locations: Vec::new(),
        suites: vec![suite],
        keyring: Keyring::new(0, "key".into()),
        flags: 0,
        limits: Limits::default(),
    }
}

fn entropy(seed: u8) -> Entropy {
    let public = [seed; 32];
    Entropy::new([seed; 32], public, move |peer| Some([seed.wrapping_add(peer[0]); 32]))
}

fn hello(suite: Suite) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _dialler = Handshake::dial(&profile(1, suite), entropy(1), ResumeState::unknown(1), None, &mut bytes);
    bytes
}

fn accept(bytes: &[u8], out: &mut Vec<u8>) -> (Handshake, Result<HandshakeStep, HandshakeError>) {
    let mut input = Deframer::new();
    input.push(bytes);
    let mut acceptor = Handshake::accept(None);
    let step = acceptor.advance(&profile(2, Suite::Plain), &mut input, out);
    (acceptor, step)
}

/// Both sides up to the acceptor's judgement of the dialler's proof.
fn proven(
    suite: Suite,
    exporters: [Option<[u8; 32]>; 2],
    spoil: impl Fn(&mut Vec<u8>),
) -> Result<HandshakeStep, HandshakeError> {
    proven_between(&profile(1, suite), &profile(2, suite), exporters, spoil)
}

fn proven_between(
    here: &Profile,
    there: &Profile,
    exporters: [Option<[u8; 32]>; 2],
    spoil: impl Fn(&mut Vec<u8>),
) -> Result<HandshakeStep, HandshakeError> {
    let (mut to_a, mut to_b) = (Deframer::new(), Deframer::new());
    let mut bytes = Vec::new();
    let mut dialler = Handshake::dial(here, entropy(1), ResumeState::unknown(1), exporters[0], &mut bytes);
    let mut acceptor = Handshake::accept(exporters[1]);
    to_b.push(&bytes);
    bytes.clear();
    acceptor.advance(there, &mut to_b, &mut bytes)?;
    acceptor.answer(there, entropy(2), ResumeState::unknown(1), &mut bytes)?;
    to_a.push(&bytes);
    bytes.clear();
    dialler.advance(here, &mut to_a, &mut bytes)?;
    dialler.prove(here, HeldSession::nothing(), &mut bytes)?;
    spoil(&mut bytes);
    to_b.push(&bytes);
    acceptor.advance(there, &mut to_b, &mut Vec::new())
}

#[test]
fn a_later_dialler_that_also_speaks_this_version_is_answered_in_it() {
    let mut bytes = hello(Suite::Plain);
    bytes[10] = 9;
    // What a later version says after the last field.
    bytes.extend_from_slice(&[1, 2, 3]);
    bytes[6] += 3;
    let mut out = Vec::new();
    let (mut acceptor, step) = accept(&bytes, &mut out);
    assert!(matches!(step, Ok(HandshakeStep::Introduced)));
    acceptor
        .answer(&profile(2, Suite::Plain), entropy(2), ResumeState::unknown(1), &mut out)
        .expect("at this step");
    assert_eq!(out[8..12], [1, 0, 1, 0], "the chosen version, twice");
}

#[test]
fn a_refusal_reaches_the_dialler_with_its_reason() {
    let mut bytes = hello(Suite::Plain);
    (bytes[8], bytes[10]) = (2, 3);
    let mut out = Vec::new();
    let (_, step) = accept(&bytes, &mut out);
    let refusal = Refusal::Version { min: 1, max: 1 };
    assert_eq!(step.err(), Some(HandshakeError::Refused(refusal)));
    let mut input = Deframer::new();
    input.push(&out);
    let here = profile(1, Suite::Plain);
    let mut dialler = Handshake::dial(&here, entropy(1), ResumeState::unknown(1), None, &mut Vec::new());
    let told = dialler.advance(&here, &mut input, &mut Vec::new());
    assert_eq!(told.err(), Some(HandshakeError::RefusedByPeer(refusal)));
}

#[test]
fn every_refusal_comes_back_as_it_was_told() {
    let all = [
        Refusal::WrongSecret,
        Refusal::Version { min: 3, max: 4 },
        Refusal::UnknownKey,
        Refusal::Suite,
        Refusal::SelfConnection,
        Refusal::Duplicate,
        Refusal::Superseded,
        Refusal::Session,
        Refusal::Busy,
        Refusal::Ignored,
        Refusal::Malformed,
        Refusal::Leaving,
        Refusal::Tls(TlsFault::OneSided),
        Refusal::Other(99),
    ];
    for refusal in all {
        let mut bytes = Vec::new();
        refusal.put(&mut bytes);
        let (_, reader) = message::open(&bytes).expect("a message");
        assert_eq!(Refusal::take(reader), Ok(refusal));
    }
}

#[test]
fn a_proof_binds_every_byte_of_itself_and_what_tls_exported() {
    for suite in [Suite::Aes128Gcm, Suite::Hmac] {
        assert!(matches!(proven(suite, [None, None], |_| {}), Ok(HandshakeStep::Proven)));
        for at in 8..50 {
            let spoiled = proven(suite, [None, None], |proof| proof[at] ^= 1);
            assert!(spoiled.is_err(), "byte {at}");
        }
    }
    let (this, other) = (Some([1; 32]), Some([2; 32]));
    assert!(matches!(proven(Suite::Tls, [this, this], |_| {}), Ok(HandshakeStep::Proven)));
    let relayed = proven(Suite::Tls, [this, other], |_| {});
    assert_eq!(
        relayed.err(),
        Some(HandshakeError::Refused(Refusal::WrongSecret)),
        "somebody sits in the middle"
    );
    let bare = proven(Suite::Tls, [this, None], |_| {});
    assert_eq!(bare.err(), Some(HandshakeError::Refused(Refusal::Suite)), "no TLS there");
}

#[test]
fn a_dialler_that_speaks_tls_is_told_that_this_side_does_not() {
    let mut out = Vec::new();
    let (_, step) = accept(&[22, 3, 1, 0, 200], &mut out);
    let refusal = Refusal::Tls(TlsFault::OneSided);
    assert_eq!(step.err(), Some(HandshakeError::Refused(refusal)));
    assert_eq!(out, refusal.message());
}

#[test]
fn an_acceptor_lets_a_dialler_in_under_any_secret_of_its_keyring_and_no_other() {
    let both = Keyring::new(1, "one".into()).accepting(2, "two".into());
    let suite = Suite::Aes128Gcm;
    let meet = |keyring: Keyring| {
        let here = Profile { keyring, ..profile(1, suite) };
        let there = Profile { keyring: both.clone(), ..profile(2, suite) };
        proven_between(&here, &there, [None, None], |_| {})
    };
    assert!(matches!(meet(Keyring::new(1, "one".into())), Ok(HandshakeStep::Proven)));
    assert!(matches!(meet(Keyring::new(2, "two".into())), Ok(HandshakeStep::Proven)));
    let refused = |refusal| Some(HandshakeError::Refused(refusal));
    assert_eq!(meet(Keyring::new(2, "one".into())).err(), refused(Refusal::WrongSecret));
    assert_eq!(meet(Keyring::new(3, "one".into())).err(), refused(Refusal::UnknownKey));
    // The secret in use counts, not what the dialler would accept besides.
    let dialling = Keyring::new(3, "three".into()).accepting(1, "one".into());
    assert_eq!(meet(dialling).err(), refused(Refusal::UnknownKey));
}

#[test]
fn a_proof_is_demanded_where_one_is_due_and_refused_where_none_is() {
    let unproven = |bytes: &mut Vec<u8>| {
        bytes.clear();
        let claim = message::Claim { resumes: false, next: 0 };
        let proof = message::Proof { claim, secret: None, session: SmallVec::new() };
        proof.put(message::MessageKind::DiallerProof, bytes);
    };
    let refused = proven(Suite::Aes128Gcm, [None, None], unproven);
    assert_eq!(refused.err(), Some(HandshakeFault::Unexpected.into()));
    assert!(matches!(proven(Suite::Plain, [None, None], unproven), Ok(HandshakeStep::Proven)));
}

#[test]
fn a_peer_has_4096_bytes_for_the_whole_handshake() {
    let mut bytes = hello(Suite::Plain);
    let length = HELLO_BYTES_MAX - HANDSHAKE_HEADER_BYTES;
    bytes.resize(HELLO_BYTES_MAX, 0);
    bytes[6..8].copy_from_slice(&(length as u16).to_le_bytes());
    let there = profile(2, Suite::Plain);
    let mut input = Deframer::new();
    input.push(&bytes);
    let mut acceptor = Handshake::accept(None);
    let mut out = Vec::new();
    assert!(matches!(acceptor.advance(&there, &mut input, &mut out), Ok(HandshakeStep::Introduced)));
    acceptor.answer(&there, entropy(2), ResumeState::unknown(1), &mut out).expect("at this step");
    input.push(&[MAGIC.as_slice(), &[3, 0, 11, 0], &[0; 11]].concat());
    let step = acceptor.advance(&there, &mut input, &mut out);
    assert!(matches!(step, Err(HandshakeError::PeerMisbehaved(HandshakeFault::TooLong { .. }))));
}

#[test]
fn methods_out_of_turn_are_the_callers_fault_and_end_the_handshake() {
    let here = profile(1, Suite::Plain);
    let mut out = Vec::new();
    let mut acceptor = Handshake::accept(None);
    let early = acceptor.confirm(&here, &HeldSession::nothing(), &mut out).map(|_| ());
    assert_eq!(early, Err(HandshakeError::CallerMisused));
    let mut dialler = Handshake::dial(&here, entropy(1), ResumeState::unknown(1), None, &mut Vec::new());
    assert_eq!(
        dialler.answer(&here, entropy(1), ResumeState::unknown(1), &mut out),
        Err(HandshakeError::CallerMisused)
    );
    assert_eq!(dialler.prove(&here, HeldSession::nothing(), &mut out), Err(HandshakeError::CallerMisused));
    assert!(out.is_empty());
}

#[test]
fn a_profile_that_no_hello_can_express_is_found_at_the_start() {
    let sound = profile(1, Suite::Plain);
    assert_eq!(sound.check(), Ok(()));
    let open = Profile { suites: vec![Suite::Hmac, Suite::Plain], ..sound.clone() };
    assert_eq!(open.check(), Err(ProfileError::PlainBesides));
    let bare = Profile { keyring: Keyring::none(), suites: vec![Suite::Hmac], ..sound.clone() };
    assert_eq!(bare.check(), Err(ProfileError::NoSecret));
    let long = Profile { name: "x".repeat(256), ..sound.clone() };
    assert_eq!(long.check(), Err(ProfileError::Name { bytes: 256 }));
    let none = Profile { suites: Vec::new(), ..sound };
    assert_eq!(none.check(), Err(ProfileError::Suites { count: 0 }));
}

proptest::proptest! {
    #[test]
    fn random_bytes_and_damaged_hellos_never_panic(
        noise: Vec<u8>,
        damage in proptest::collection::vec((0_usize..200, 0_u8..=255), 0..6),
    ) {
        let mut damaged = hello(Suite::Plain);
        for (at, byte) in damage {
            let at = at % damaged.len();
            damaged[at] = byte;
        }
        for bytes in [damaged, [MAGIC.as_slice(), &noise].concat(), noise] {
            let mut out = Vec::new();
            let (mut acceptor, step) = accept(&bytes, &mut out);
            if let Ok(HandshakeStep::Introduced) = step {
                let _fault = acceptor.answer(&profile(2, Suite::Plain), entropy(2), ResumeState::unknown(1), &mut out);
            }
        }
    }
}
