//! Nodes in memory, handshakes between them, and the exchange of records and frames.

use std::time::Duration;

use crate::frame::{Frame, Message};
use crate::handshake::{
    Handshake, HandshakeError, HandshakeStep, Profile, ProvenConnection, Refusal, ResumeState,
};
use crate::ids::{Key, NodeId, TagId};
use crate::session::{Admission, Epochs, HeldCredit, Session};
use crate::{Deframer, Entropy, Keyring, Limits, Route, Secret, Suite, Time};

/// One node with at most one session.
pub(super) struct TestPeer {
    pub(super) profile: Profile,
    pub(super) epochs: Epochs,
    pub(super) session: Option<Session>,
    pub(super) input: Deframer,
    pub(super) output: Vec<u8>,
    /// The number of handshakes so far, from which each handshake derives its entropy.
    pub(super) handshakes: u8,
}

pub(super) fn test_peer(node: u64, suites: &[Suite], limits: Limits) -> TestPeer {
    let profile = Profile {
        node: NodeId::from_bits(node),
        name: format!("node {node}"),
        locations: vec!["127.0.0.1:4000".parse().expect("an address")],
        suites: suites.to_vec(),
        keyring: Keyring::new(7, Secret::from("key")),
        flags: 0,
        limits,
    };
    profile.check().expect("a sound profile");
    TestPeer {
        profile,
        epochs: Epochs::default(),
        session: None,
        input: Deframer::new(),
        output: Vec::new(),
        handshakes: 0,
    }
}

pub(super) fn push_all(from: &mut Vec<u8>, to: &mut Deframer) {
    let mut rest = from.as_slice();
    while !rest.is_empty() {
        let count = to.push(rest);
        assert!(count > 0);
        rest = &rest[count..];
    }
    from.clear();
}

/// Runs one handshake between the two; both adopt the connection.
pub(super) fn connect(
    dialler: &mut TestPeer,
    acceptor: &mut TestPeer,
    now: Time,
) -> Result<(), (Side, Refusal)> {
    let [ours, theirs] = run_handshake(dialler, acceptor)?;
    acceptor.adopt(now, theirs);
    dialler.adopt(now, ours);
    Ok(())
}

/// Runs one handshake between the two, and returns the dialler's connection and the acceptor's. Neither is adopted yet.
pub(super) fn run_handshake(
    dialler: &mut TestPeer,
    acceptor: &mut TestPeer,
) -> Result<[Box<ProvenConnection>; 2], (Side, Refusal)> {
    run_handshake_with(dialler, acceptor, |_, _| {})
}

/// As `run_handshake`, but calls `before_proofs` when both hellos are sent and neither proof is.
pub(super) fn run_handshake_with(
    dialler: &mut TestPeer,
    acceptor: &mut TestPeer,
    before_proofs: impl FnOnce(&mut TestPeer, &mut TestPeer),
) -> Result<[Box<ProvenConnection>; 2], (Side, Refusal)> {
    dialler.input = Deframer::new();
    acceptor.input = Deframer::new();
    let resume_state = match &mut dialler.session {
        Some(session) => session.next_resume_state(),
        None => ResumeState::unknown(dialler.epochs.of(acceptor.profile.node)),
    };
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let entropy = dialler.entropy();
    let mut dialling = Handshake::dial(&dialler.profile, entropy, resume_state, None, &mut there);
    let mut accepting = Handshake::accept(None);

    push_all(&mut there, &mut acceptor.input);
    advance(&mut accepting, acceptor, &mut back).map_err(|refusal| (Side::Acceptor, refusal))?;
    let hello = accepting.peer().expect("the hello has arrived").clone();
    let resume_state = Session::answer_to(acceptor.session.as_ref(), &acceptor.epochs, &hello);
    let resume_state = resume_state.map_err(|refusal| (Side::Acceptor, refusal))?;
    let entropy = acceptor.entropy();
    accepting
        .answer(&acceptor.profile, entropy, resume_state, &mut back)
        .expect("the acceptor is due to answer");

    before_proofs(dialler, acceptor);
    push_all(&mut back, &mut dialler.input);
    advance(&mut dialling, dialler, &mut there).map_err(|refusal| (Side::Dialler, refusal))?;
    let held = Session::prove_to(dialler.session.as_ref(), &mut dialler.epochs, &dialling);
    let held = held.map_err(|refusal| (Side::Dialler, refusal))?;
    dialling.prove(&dialler.profile, held, &mut there).expect("the dialler is due to prove");

    push_all(&mut there, &mut acceptor.input);
    advance(&mut accepting, acceptor, &mut back).map_err(|refusal| (Side::Acceptor, refusal))?;
    let held = Session::confirm_to(acceptor.session.as_ref(), &mut acceptor.epochs, &accepting);
    let held = held.map_err(|refusal| (Side::Acceptor, refusal))?;
    let theirs = match accepting.confirm(&acceptor.profile, &held, &mut back) {
        Ok(connection) => connection,
        Err(HandshakeError::Refused(refusal)) => return Err((Side::Acceptor, refusal)),
        Err(other) => panic!("{other}"),
    };

    push_all(&mut back, &mut dialler.input);
    match advance(&mut dialling, dialler, &mut there).map_err(|refusal| (Side::Dialler, refusal))? {
        HandshakeStep::Done(ours) => Ok([ours, theirs]),
        other => panic!("{other:?}"),
    }
}

pub(super) fn advance(
    handshake: &mut Handshake,
    peer: &mut TestPeer,
    out: &mut Vec<u8>,
) -> Result<HandshakeStep, Refusal> {
    match handshake.advance(&peer.profile, &mut peer.input, out) {
        Ok(step) => Ok(step),
        Err(HandshakeError::Refused(refusal)) => Err(refusal),
        Err(other) => panic!("{other}"),
    }
}

/// The side that refuses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialler,
    Acceptor,
}

impl TestPeer {
    /// A toy key agreement: both sides compute the same key from both public halves.
    fn entropy(&mut self) -> Entropy {
        self.handshakes += 1;
        let seed = self.profile.node.to_bits() as u8 * 16 + self.handshakes;
        let public = [seed; 32];
        Entropy::new([seed ^ 0x55; 32], public, move |peer| Some([seed.wrapping_add(peer[0]); 32]))
    }

    pub(super) fn adopt(&mut self, now: Time, connection: Box<ProvenConnection>) {
        match Session::admit(self.session.as_ref(), &self.epochs, &connection) {
            Admission::Continues => {}
            Admission::Begins => {
                self.end_session_if_any(connection.peer().node);
                self.session =
                    Some(Session::begin(now, &self.profile.limits, self.profile.node, &connection));
            }
            Admission::Refused(refusal) => panic!("{refusal}"),
        }
        self.session.as_mut().expect("the session exists").connected(now, connection).expect("admitted");
    }

    fn end_session_if_any(&mut self, peer: NodeId) {
        if self.session.is_some() {
            self.end_session(peer);
        }
    }

    /// Ends the session with `peer` on this side.
    pub(super) fn end_session(&mut self, peer: NodeId) {
        self.session = None;
        self.epochs.ended(peer);
    }

    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("the session exists")
    }

    /// Transmits all records, and returns descriptions of the frames that `other` receives.
    pub(super) fn transmit(&mut self, now: Time, other: &mut TestPeer) -> Vec<String> {
        let mut received = Vec::new();
        while self.session.as_mut().expect("the session exists").poll_transmit(now, &mut self.output) {
            self.session().check();
            received.extend(other.receive(now, &self.output));
            self.output.clear();
        }
        received
    }

    /// As `transmit`, but `other` holds the credit of every frame.
    pub(super) fn transmit_held(&mut self, other: &mut TestPeer) -> Vec<HeldCredit> {
        self.transmit_held_with(other, |_| ())
    }

    /// As `transmit_held`, and passes each frame to `each`.
    pub(super) fn transmit_held_with(
        &mut self,
        other: &mut TestPeer,
        mut each: impl FnMut(&Frame<'_>),
    ) -> Vec<HeldCredit> {
        while self.session.as_mut().expect("the session exists").poll_transmit(Time::ZERO, &mut self.output) {
        }
        let session = other.session.as_mut().expect("the session exists");
        let mut held = Vec::new();
        let mut rest = self.output.as_slice();
        while !rest.is_empty() {
            rest = &rest[other.input.push(rest)..];
            while let Some(mut frames) =
                session.next_record(Time::ZERO, &mut other.input).expect("valid records")
            {
                while let Some(incoming) = session.next_frame(Time::ZERO, &mut frames).expect("valid frames")
                {
                    each(&incoming.frame());
                    held.push(session.hold());
                }
            }
        }
        self.output.clear();
        held
    }

    /// Takes the bytes of records, and returns descriptions of their frames.
    pub(super) fn receive(&mut self, now: Time, mut bytes: &[u8]) -> Vec<String> {
        let mut received = Vec::new();
        while !bytes.is_empty() {
            let count = self.input.push(bytes);
            assert!(count > 0, "the buffer has space once all complete records are taken");
            bytes = &bytes[count..];
            self.take_records(now, &mut received);
        }
        received
    }

    fn take_records(&mut self, now: Time, received: &mut Vec<String>) {
        let session = self.session.as_mut().expect("the session exists");
        while let Some(mut frames) = session.next_record(now, &mut self.input).expect("valid records") {
            while let Some(incoming) = session.next_frame(now, &mut frames).expect("valid frames") {
                received.push(describe(&incoming.frame()));
            }
        }
        session.check();
    }
}

/// Describes a frame: its receiver and body for a message, else its kind.
pub(super) fn describe(frame: &Frame<'_>) -> String {
    match frame {
        Frame::Message(message) if message.body.len() > 100 => {
            format!("{:x}:{}", message.to.to_bits(), message.body.len())
        }
        Frame::Message(message) => {
            format!("{:x}:{}", message.to.to_bits(), String::from_utf8_lossy(message.body))
        }
        Frame::Tag(tag) => format!("tag {} = {}", tag.id.0, tag.name),
        other => other.name().to_owned(),
    }
}

pub(super) fn message<'a>(from: u64, to: u64, body: &'a [u8]) -> Frame<'a> {
    let message = Message {
        to: Key::from_bits(to),
        from: Key::from_bits(from),
        tag: TagId(0),
        receipt: None,
        route: Route::NONE,
        body,
    };
    Frame::Message(message)
}

/// Two nodes after a handshake.
pub(super) fn connected_pair(limits: Limits) -> (TestPeer, TestPeer) {
    let suites = [Suite::Aes128Gcm];
    let (mut a, mut b) = (test_peer(1, &suites, limits), test_peer(2, &suites, limits));
    connect(&mut a, &mut b, Time::ZERO).expect("the handshake succeeds");
    (a, b)
}

/// Two nodes after a handshake that have both sent `Begin`.
pub(super) fn begun_pair(limits: Limits) -> (TestPeer, TestPeer) {
    let (mut a, mut b) = connected_pair(limits);
    a.transmit(Time::ZERO, &mut b);
    b.transmit(Time::ZERO, &mut a);
    (a, b)
}

pub(super) fn seconds(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}
