//! Handshakes that fail (versions, misuse, floods, refusals), and the data that a proof binds.

use super::*;
use crate::deframer::Deframer;
use crate::entropy::Entropy;
use crate::limits::HELLO_BYTES_MAX;

fn profile(node: u64, suite: Suite) -> Profile {
    Profile {
        node: NodeId::from_bits(node),
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

/// Runs a handshake until the acceptor has checked the dialler's proof. `spoil` may change that proof before.
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

/// A newer dialler has a wider range of versions and further fields at the end of its hello.
#[test]
fn acceptor_answers_newer_dialler_in_common_version() {
    let mut bytes = hello(Suite::Plain);
    bytes[10] = 9;
    // Fields of a later version follow the last field.
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
fn dialler_receives_refusal_with_reason() {
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
    let step = dialler.advance(&here, &mut input, &mut Vec::new());
    assert_eq!(step.err(), Some(HandshakeError::RefusedByPeer(refusal)));
}

#[test]
fn refusal_each_kind_survives_encoding() {
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
        Refusal::Certificate,
        Refusal::OldEpoch { node: NodeId::from_bits(7), known: u64::MAX },
        Refusal::EpochTooHigh { node: NodeId::from_bits(7), known: 8 },
        Refusal::NodeIdInUse,
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
fn proof_binds_its_bytes_and_tls_exporter() {
    for suite in [Suite::Aes128Gcm, Suite::Hmac] {
        assert!(matches!(proven(suite, [None, None], |_| {}), Ok(HandshakeStep::Proven)));
        for at in 8..50 {
            let refused = proven(suite, [None, None], |proof| proof[at] ^= 1).err();
            // Byte 17 states whether the proof of the secret follows.
            let is_expected = match refused {
                Some(HandshakeError::PeerMisbehaved(HandshakeFault::Malformed(_))) => at == 17,
                Some(HandshakeError::Refused(Refusal::WrongSecret)) => at != 17,
                _ => false,
            };
            assert!(is_expected, "byte {at}: {refused:?}");
        }
    }
    let (this, other) = (Some([1; 32]), Some([2; 32]));
    assert!(matches!(proven(Suite::Tls, [this, this], |_| {}), Ok(HandshakeStep::Proven)));
    let relayed = proven(Suite::Tls, [this, other], |_| {});
    assert_eq!(
        relayed.err(),
        Some(HandshakeError::Refused(Refusal::WrongSecret)),
        "a man in the middle has two TLS connections"
    );
    let bare = proven(Suite::Tls, [this, None], |_| {});
    assert_eq!(bare.err(), Some(HandshakeError::Refused(Refusal::Suite)), "the acceptor has no TLS");
}

#[test]
fn acceptor_without_tls_refuses_tls_dialler() {
    let mut out = Vec::new();
    let (_, step) = accept(&[22, 3, 1, 0, 200], &mut out);
    let refusal = Refusal::Tls(TlsFault::OneSided);
    assert_eq!(step.err(), Some(HandshakeError::Refused(refusal)));
    assert_eq!(out, refusal.message());
}

#[test]
fn acceptor_accepts_only_secrets_of_its_keyring() {
    let both = Keyring::new(1, "one".into()).accepting(2, "two".into());
    let suite = Suite::Aes128Gcm;
    let dial_under = |keyring: Keyring| {
        let here = Profile { keyring, ..profile(1, suite) };
        let there = Profile { keyring: both.clone(), ..profile(2, suite) };
        proven_between(&here, &there, [None, None], |_| {})
    };
    assert!(matches!(dial_under(Keyring::new(1, "one".into())), Ok(HandshakeStep::Proven)));
    assert!(matches!(dial_under(Keyring::new(2, "two".into())), Ok(HandshakeStep::Proven)));
    let refused = |refusal| Some(HandshakeError::Refused(refusal));
    assert_eq!(dial_under(Keyring::new(2, "one".into())).err(), refused(Refusal::WrongSecret));
    assert_eq!(dial_under(Keyring::new(3, "one".into())).err(), refused(Refusal::UnknownKey));
    // The dialler proves only the secret in use, not the others that it accepts.
    let dialling = Keyring::new(3, "three".into()).accepting(1, "one".into());
    assert_eq!(dial_under(dialling).err(), refused(Refusal::UnknownKey));
}

#[test]
fn proof_without_secret_passes_only_under_plain() {
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
fn peer_beyond_4096_handshake_bytes_is_refused() {
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
    let fault = HandshakeFault::TooLong { length: HELLO_BYTES_MAX + 1 };
    assert_eq!(step.err(), Some(HandshakeError::PeerMisbehaved(fault)));
}

#[test]
fn method_at_wrong_step_is_caller_misuse() {
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
fn profile_beyond_hello_is_refused() {
    let sound = profile(1, Suite::Plain);
    assert_eq!(sound.check(), Ok(()));
    let open = Profile { suites: vec![Suite::Hmac, Suite::Plain], ..sound.clone() };
    assert_eq!(open.check(), Err(ProfileError::NotAlone { suite: Suite::Plain }));
    let mixed = Profile { suites: vec![Suite::Tls, Suite::Hmac], ..sound.clone() };
    assert_eq!(mixed.check(), Err(ProfileError::NotAlone { suite: Suite::Tls }));
    let bare = Profile { keyring: Keyring::none(), suites: vec![Suite::Hmac], ..sound.clone() };
    assert_eq!(bare.check(), Err(ProfileError::NoSecret));
    let long = Profile { name: "x".repeat(256), ..sound.clone() };
    assert_eq!(long.check(), Err(ProfileError::Name { bytes: 256 }));
    let none = Profile { suites: Vec::new(), ..sound };
    assert_eq!(none.check(), Err(ProfileError::Suites { count: 0 }));
}

proptest::proptest! {
    #[test]
    fn random_or_damaged_hello_never_panics(
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
