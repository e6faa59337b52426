//! Names the refusal for each line of hostile.txt, in words that any implementation can compare.

use antiphon_wire::frame::RawFrame;
use antiphon_wire::msgpack::{self, MalformedBody};
use antiphon_wire::{
    Datagram, DatagramError, Deframer, Handshake, HandshakeError, HandshakeStep, HeldSession, Malformed,
    PeerFault, RecordError, ResumeState, Session, SessionError, Suite, Time,
};

use crate::{NONCE, PRIVATE, SUITES, complete_handshake, entropy, profile};

/// The refusal of the bytes, which are of this kind; `None` if they are accepted.
pub(crate) fn refusal(kind: &str, bytes: &[u8]) -> Option<String> {
    let (kind, suite) = kind.split_once(' ').unwrap_or((kind, "Plain"));
    let suite = SUITES.into_iter().find(|known| format!("{known:?}") == suite).expect("a suite");
    let refusal = match kind {
        "frames" => frames(bytes)?,
        "body" => body(bytes)?,
        "datagram" => datagram(bytes)?,
        "dialler" | "proof" | "acceptor" | "acceptor-proof" => return handshake(kind, suite, bytes),
        "record" => record(suite, bytes)?,
        other => panic!("hostile.txt has no kind {other}"),
    };
    Some(refusal.to_owned())
}

fn malformed(reason: Malformed) -> &'static str {
    match reason {
        Malformed::Truncated { .. } => "truncated",
        Malformed::Trailing { .. } => "trailing",
        Malformed::NotUtf8 { .. } => "not UTF-8",
        Malformed::Unknown { .. } => "unknown",
        Malformed::TooLarge { .. } => "too large",
        other => panic!("{other} has no name yet"),
    }
}

fn frames(bytes: &[u8]) -> Option<&'static str> {
    let mut rest = bytes;
    loop {
        match RawFrame::take_from(&mut rest) {
            Ok(None) => return None,
            Err(reason) => return Some(malformed(reason)),
            Ok(Some(raw)) => {
                if let Err(reason) = raw.decode() {
                    return Some(malformed(reason));
                }
            }
        }
    }
}

fn body(bytes: &[u8]) -> Option<&'static str> {
    Some(match msgpack::check(bytes, &msgpack::BodyLimits::default()).err()? {
        MalformedBody::Truncated => "truncated",
        MalformedBody::Declares { .. } => "declares too much",
        MalformedBody::TooDeep { .. } => "too deep",
        MalformedBody::TooMany { .. } => "too many",
        MalformedBody::Trailing { .. } => "trailing",
        MalformedBody::Reserved => "reserved",
        other => panic!("{other} has no name yet"),
    })
}

fn datagram(bytes: &[u8]) -> Option<&'static str> {
    Some(match Datagram::decode(None, bytes).err()? {
        DatagramError::NotAntiphon => "not Antiphon's",
        DatagramError::Version { .. } => "version",
        DatagramError::KeyId { .. } => "key id",
        DatagramError::Malformed(reason) => malformed(reason),
        other => panic!("{other} does not occur without a key"),
    })
}

/// The refusal as the peer receives it: its code, or `closed` if the connection is closed without a refusal.
fn handshake(kind: &str, suite: Suite, bytes: &[u8]) -> Option<String> {
    let handshake = complete_handshake(suite);
    let (mut input, mut out) = (Deframer::new(), Vec::new());
    let (mut machine, profile) = if kind.starts_with("acceptor") {
        let dialler = Handshake::dial(
            &profile(1, suite),
            entropy(PRIVATE.0, NONCE.0),
            ResumeState::unknown(1),
            handshake.exporter,
            &mut out,
        );
        (dialler, profile(1, suite))
    } else {
        (Handshake::accept(handshake.exporter), profile(2, suite))
    };
    if kind == "proof" {
        input.push(&handshake.hello_a);
        assert!(matches!(machine.advance(&profile, &mut input, &mut out), Ok(HandshakeStep::Introduced)));
        let resume_state = ResumeState { epoch: 3, known: 0, ordinal: 0 };
        machine.answer(&profile, entropy(PRIVATE.1, NONCE.1), resume_state, &mut out).expect("at this step");
    }
    if kind == "acceptor-proof" {
        input.push(&handshake.hello_b);
        assert!(matches!(machine.advance(&profile, &mut input, &mut out), Ok(HandshakeStep::Introduced)));
        machine.prove(&profile, HeldSession::nothing(), &mut out).expect("at this step");
    }
    out.clear();
    input.push(bytes);
    match machine.advance(&profile, &mut input, &mut out) {
        Ok(
            HandshakeStep::Wait | HandshakeStep::Introduced | HandshakeStep::Proven | HandshakeStep::Done(_),
        ) => None,
        Err(HandshakeError::CallerMisused) => panic!("the test calls a method at the wrong step"),
        Err(_) if out.is_empty() => Some("closed".to_owned()),
        // The code follows the header of eight bytes.
        Err(_) => Some(format!("refused {}", out[8])),
    }
}

/// The refusal of the bytes that follow the dialler's proof of handshake.txt.
fn record(suite: Suite, bytes: &[u8]) -> Option<&'static str> {
    let connection = complete_handshake(suite).at_b;
    let (now, acceptor) = (Time::ZERO, profile(2, suite));
    let mut session = Session::begin(now, &acceptor.limits, acceptor.node, &connection);
    session.connected(now, connection).expect("the session begins");
    Some(match receive(&mut session, now, bytes).err()? {
        SessionError::Record(RecordError::Length { .. }) => "length",
        SessionError::Record(RecordError::Header { .. }) => "header",
        SessionError::Record(RecordError::Unauthentic) => "unauthentic",
        SessionError::PeerMisbehaved(PeerFault::Malformed(reason)) => malformed(reason),
        SessionError::PeerMisbehaved(PeerFault::FrameNumber { .. }) => "frame number",
        SessionError::PeerMisbehaved(PeerFault::NotBegun) => "not begun",
        SessionError::PeerMisbehaved(PeerFault::TagNumber { .. }) => "tag number",
        SessionError::PeerMisbehaved(PeerFault::UnknownTag { .. }) => "unknown tag",
        SessionError::PeerMisbehaved(PeerFault::Fragment { .. }) => "fragment",
        SessionError::PeerMisbehaved(PeerFault::Reassembly { .. }) => "reassembly",
        other => panic!("{other} has no name yet"),
    })
}

fn receive(session: &mut Session, now: Time, bytes: &[u8]) -> Result<(), SessionError> {
    let (mut input, mut rest) = (Deframer::new(), bytes);
    while !rest.is_empty() {
        let count = input.push(rest);
        assert!(count > 0, "there is space when all whole records are taken");
        rest = &rest[count..];
        while let Some(mut frames) = session.next_record(now, &mut input)? {
            while session.next_frame(now, &mut frames)?.is_some() {}
            let unread = frames.unread();
            input.put_back(unread);
        }
    }
    Ok(())
}
