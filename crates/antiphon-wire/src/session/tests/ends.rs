//! Two nodes in memory, a handshake between them, and what they say to each other.

use std::time::Duration;

use crate::frame::{Frame, Message};
use crate::handshake::{
    Handshake, HandshakeError, HandshakeStep, Profile, ProvenConnection, Refusal, ResumeState,
};
use crate::ids::{Key, NodeId, TagId};
use crate::session::{Admission, Epochs, HeldCredit, Session};
use crate::{Deframer, Entropy, Keyring, Limits, Route, Secret, Suite, Time};

/// One node with at most one session.
pub(super) struct End {
    pub(super) profile: Profile,
    pub(super) epochs: Epochs,
    pub(super) session: Option<Session>,
    pub(super) input: Deframer,
    pub(super) output: Vec<u8>,
    /// Handshakes so far, which make each one's chance differ.
    pub(super) handshakes: u8,
}

pub(super) fn end(node: u64, suites: &[Suite], limits: Limits) -> End {
    let profile = Profile {
        node: NodeId(node),
        name: format!("node {node}"),
        locations: vec!["127.0.0.1:4000".parse().expect("an address")],
        suites: suites.to_vec(),
        keyring: Keyring::new(7, Secret::from("key")),
        flags: 0,
        limits,
    };
    profile.check().expect("a sound profile");
    End {
        profile,
        epochs: Epochs::default(),
        session: None,
        input: Deframer::new(),
        output: Vec::new(),
        handshakes: 0,
    }
}

pub(super) fn deliver(from: &mut Vec<u8>, to: &mut Deframer) {
    let mut rest = from.as_slice();
    while !rest.is_empty() {
        let count = to.push(rest);
        assert!(count > 0);
        rest = &rest[count..];
    }
    from.clear();
}

/// One handshake between the two, which both take.
pub(super) fn meet(dialler: &mut End, acceptor: &mut End, now: Time) -> Result<(), (Side, Refusal)> {
    let [ours, theirs] = shake(dialler, acceptor)?;
    acceptor.take(now, theirs);
    dialler.take(now, ours);
    Ok(())
}

/// One handshake between the two, which neither has taken yet: the dialler's connection and the acceptor's.
pub(super) fn shake(
    dialler: &mut End,
    acceptor: &mut End,
) -> Result<[Box<ProvenConnection>; 2], (Side, Refusal)> {
    shake_while(dialler, acceptor, |_, _| {})
}

/// As `shake`; and `meanwhile` happens when both hellos are said and neither proof.
pub(super) fn shake_while(
    dialler: &mut End,
    acceptor: &mut End,
    meanwhile: impl FnOnce(&mut End, &mut End),
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

    deliver(&mut there, &mut acceptor.input);
    advance(&mut accepting, acceptor, &mut back).map_err(|refusal| (Side::Acceptor, refusal))?;
    let hello = accepting.peer().expect("introduced").clone();
    let resume_state = Session::answer_to(acceptor.session.as_ref(), &acceptor.epochs, &hello);
    let resume_state = resume_state.map_err(|refusal| (Side::Acceptor, refusal))?;
    let entropy = acceptor.entropy();
    accepting.answer(&acceptor.profile, entropy, resume_state, &mut back).expect("at this step");

    meanwhile(dialler, acceptor);
    deliver(&mut back, &mut dialler.input);
    advance(&mut dialling, dialler, &mut there).map_err(|refusal| (Side::Dialler, refusal))?;
    let holding = Session::prove_to(dialler.session.as_ref(), &mut dialler.epochs, &dialling);
    let holding = holding.map_err(|refusal| (Side::Dialler, refusal))?;
    dialling.prove(&dialler.profile, holding, &mut there).expect("at this step");

    deliver(&mut there, &mut acceptor.input);
    advance(&mut accepting, acceptor, &mut back).map_err(|refusal| (Side::Acceptor, refusal))?;
    let holding = Session::confirm_to(acceptor.session.as_ref(), &mut acceptor.epochs, &accepting);
    let holding = holding.map_err(|refusal| (Side::Acceptor, refusal))?;
    let theirs = match accepting.confirm(&acceptor.profile, &holding, &mut back) {
        Ok(connection) => connection,
        Err(HandshakeError::Refused(refusal)) => return Err((Side::Acceptor, refusal)),
        Err(other) => panic!("{other}"),
    };

    deliver(&mut back, &mut dialler.input);
    match advance(&mut dialling, dialler, &mut there).map_err(|refusal| (Side::Dialler, refusal))? {
        HandshakeStep::Done(ours) => Ok([ours, theirs]),
        other => panic!("{other:?}"),
    }
}

pub(super) fn advance(
    handshake: &mut Handshake,
    end: &mut End,
    out: &mut Vec<u8>,
) -> Result<HandshakeStep, Refusal> {
    match handshake.advance(&end.profile, &mut end.input, out) {
        Ok(step) => Ok(step),
        Err(HandshakeError::Refused(refusal)) => Err(refusal),
        Err(other) => panic!("{other}"),
    }
}

/// Which side refuses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialler,
    Acceptor,
}

impl End {
    /// A toy agreement: both sides compute the same from both public halves. Nobody listens in a test.
    fn entropy(&mut self) -> Entropy {
        self.handshakes += 1;
        let seed = self.profile.node.0 as u8 * 16 + self.handshakes;
        let public = [seed; 32];
        Entropy::new([seed ^ 0x55; 32], public, move |peer| Some([seed.wrapping_add(peer[0]); 32]))
    }

    pub(super) fn take(&mut self, now: Time, connection: Box<ProvenConnection>) {
        match Session::admit(self.session.as_ref(), &self.epochs, &connection) {
            Admission::Takes => {}
            Admission::Begins => {
                self.lose_if_any(connection.peer().node);
                self.session =
                    Some(Session::begin(now, &self.profile.limits, self.profile.node, &connection));
            }
            Admission::Refused(refusal) => panic!("{refusal}"),
        }
        self.session.as_mut().expect("there is one").connected(now, connection).expect("admitted");
    }

    fn lose_if_any(&mut self, peer: NodeId) {
        if self.session.is_some() {
            self.lose(peer);
        }
    }

    /// The session with `peer` ends on this side.
    pub(super) fn lose(&mut self, peer: NodeId) {
        self.session = None;
        self.epochs.ended(peer);
    }

    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("they have met")
    }

    /// Everything that this end has to say, and what the other makes of it.
    pub(super) fn talk(&mut self, now: Time, other: &mut End) -> Vec<String> {
        let mut heard = Vec::new();
        while self.session.as_mut().expect("they have met").poll_transmit(now, &mut self.output) {
            self.session().check();
            heard.extend(other.listen(now, &self.output));
            self.output.clear();
        }
        heard
    }

    /// As `talk`, but the other end holds back the credit of every frame.
    pub(super) fn talk_and_be_held(&mut self, other: &mut End) -> Vec<HeldCredit> {
        while self.session.as_mut().expect("they have met").poll_transmit(Time::START, &mut self.output) {}
        let session = other.session.as_mut().expect("they have met");
        let mut held = Vec::new();
        let mut rest = self.output.as_slice();
        while !rest.is_empty() {
            rest = &rest[other.input.push(rest)..];
            while let Some(mut frames) =
                session.next_record(Time::START, &mut other.input).expect("sound records")
            {
                while session.next_frame(Time::START, &mut frames).expect("sound frames").is_some() {
                    held.push(session.hold());
                }
            }
        }
        self.output.clear();
        held
    }

    pub(super) fn listen(&mut self, now: Time, mut bytes: &[u8]) -> Vec<String> {
        let mut heard = Vec::new();
        while !bytes.is_empty() {
            let count = self.input.push(bytes);
            assert!(count > 0, "there is space once all whole records were taken");
            bytes = &bytes[count..];
            self.take_records(now, &mut heard);
        }
        heard
    }

    fn take_records(&mut self, now: Time, heard: &mut Vec<String>) {
        let session = self.session.as_mut().expect("they have met");
        while let Some(mut frames) = session.next_record(now, &mut self.input).expect("sound records") {
            while let Some(incoming) = session.next_frame(now, &mut frames).expect("sound frames") {
                heard.push(told(&incoming.frame()));
            }
        }
        session.check();
    }
}

pub(super) fn told(frame: &Frame<'_>) -> String {
    match frame {
        Frame::Message(message) if message.body.len() > 100 => {
            format!("{}:{}", message.to, message.body.len())
        }
        Frame::Message(message) => format!("{}:{}", message.to, String::from_utf8_lossy(message.body)),
        Frame::Tag(tag) => format!("tag {} = {}", tag.id.0, tag.name),
        other => other.name().to_owned(),
    }
}

pub(super) fn message<'a>(from: u64, to: u64, body: &'a [u8]) -> Frame<'a> {
    let message =
        Message { to: Key(to), from: Key(from), tag: TagId(0), receipt: None, route: Route::NONE, body };
    Frame::Message(message)
}

pub(super) fn met(limits: Limits) -> (End, End) {
    let suites = [Suite::Aes128Gcm];
    let (mut a, mut b) = (end(1, &suites, limits), end(2, &suites, limits));
    meet(&mut a, &mut b, Time::START).expect("they meet");
    (a, b)
}

/// Both have said where they begin.
pub(super) fn begun(limits: Limits) -> (End, End) {
    let (mut a, mut b) = met(limits);
    a.talk(Time::START, &mut b);
    b.talk(Time::START, &mut a);
    (a, b)
}

pub(super) fn seconds(seconds: u64) -> Time {
    Time::START + Duration::from_secs(seconds)
}
