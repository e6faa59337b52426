//! The state machine of a handshake. A transition consumes the state it leaves; an error leaves it over.

use crate::deframer::Deframer;
use crate::entropy::{Agreement, Entropy};
use crate::handshake::hello::{Hello, HelloLimits, ResumeState};
use crate::handshake::keys::{self, HandshakeRole, ResumeKey, Schedule, Transcript};
use crate::handshake::message::{self, Claim, MessageKind, Proof, Refusal};
use crate::handshake::{
    HandshakeError, HandshakeFault, HeldSession, Hold, Profile, ProvenConnection, TlsFault, VERSION_MAX,
    VERSION_MIN,
};
use crate::limits::HELLO_BYTES_MAX;
use crate::record::{Opener, Sealer};
use crate::suite::Suite;

/// One side of one handshake. See [`HandshakeStep`] for what to do when.
#[derive(Debug)]
pub struct Handshake {
    state: HandshakeState,
    /// Bytes that TLS exported, bound into the proofs under [`Suite::Tls`].
    exporter: Option<[u8; 32]>,
    /// Bytes that the peer may still send.
    budget: usize,
}

/// What the handshake waits for.
#[derive(Debug)]
pub enum HandshakeStep {
    /// More bytes.
    Wait,
    /// The peer's hello is there ([`Handshake::peer`]), unproven. The acceptor goes on with [`Handshake::answer`], the dialler
    /// with [`Handshake::prove`]; or either refuses.
    Introduced,
    /// The acceptor's: the dialler's proof holds. Go on with [`Handshake::confirm`], or refuse.
    Proven,
    /// The dialler's: both proofs hold.
    Done(Box<ProvenConnection>),
}

#[derive(Debug)]
enum HandshakeState {
    /// Dialler: hello sent.
    Dialled { hello: Box<Hello>, message: Vec<u8>, agreement: OpaqueAgreement },
    /// Dialler: hello received.
    Greeted { session: Box<Draft>, agreement: OpaqueAgreement },
    /// Dialler: proof sent.
    ProofSent { session: Box<Draft>, schedule: Schedule, claim: Claim, holding: HeldSession },
    /// Acceptor: nothing yet.
    Listening,
    /// Acceptor: hello received.
    Asked { peer: Box<Hello>, message: Vec<u8>, suite: Suite },
    /// Acceptor: hello sent.
    Answered { session: Box<Draft>, schedule: Schedule },
    /// Acceptor: proof received, and it holds.
    ProofHeld { session: Box<Draft>, schedule: Schedule, proof: Proof },
    /// Done, refused or failed.
    Over,
}

/// What is agreed so far.
#[derive(Debug)]
struct Draft {
    peer: Hello,
    mine: ResumeState,
    suite: Suite,
    transcript: Transcript,
}

/// A key agreement that nothing shows.
struct OpaqueAgreement(Agreement);

impl std::fmt::Debug for OpaqueAgreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed")
    }
}

impl Handshake {
    /// Begins as the side that dialled: its hello is appended to `out`.
    pub fn dial(
        profile: &Profile,
        entropy: Entropy,
        resume_state: ResumeState,
        exporter: Option<[u8; 32]>,
        out: &mut Vec<u8>,
    ) -> Handshake {
        let hello = Box::new(profile.hello(resume_state, entropy.nonce, entropy.public));
        let mut message = Vec::new();
        hello.put(MessageKind::DiallerHello, &mut message);
        out.extend_from_slice(&message);
        let state = HandshakeState::Dialled { hello, message, agreement: OpaqueAgreement(entropy.agreement) };
        Handshake { state, exporter, budget: HELLO_BYTES_MAX }
    }

    /// Begins as the side that was dialled.
    pub fn accept(exporter: Option<[u8; 32]>) -> Handshake {
        Handshake { state: HandshakeState::Listening, exporter, budget: HELLO_BYTES_MAX }
    }

    /// The peer's hello, between [`HandshakeStep::Introduced`] and the end. Unproven until [`HandshakeStep::Proven`] or [`HandshakeStep::Done`].
    pub fn peer(&self) -> Option<&Hello> {
        match &self.state {
            HandshakeState::Greeted { session, .. }
            | HandshakeState::ProofSent { session, .. }
            | HandshakeState::Answered { session, .. }
            | HandshakeState::ProofHeld { session, .. } => Some(&session.peer),
            HandshakeState::Asked { peer, .. } => Some(peer),
            HandshakeState::Dialled { .. } | HandshakeState::Listening | HandshakeState::Over => None,
        }
    }

    /// What this side said of its standing in the session, once it has said hello and heard one.
    pub fn resume_state(&self) -> Option<ResumeState> {
        match &self.state {
            HandshakeState::Dialled { hello, .. } => Some(hello.resume_state),
            HandshakeState::Greeted { session, .. }
            | HandshakeState::ProofSent { session, .. }
            | HandshakeState::Answered { session, .. }
            | HandshakeState::ProofHeld { session, .. } => Some(session.mine),
            HandshakeState::Asked { .. } | HandshakeState::Listening | HandshakeState::Over => None,
        }
    }

    /// Takes what has arrived, up to the next step. To be called when bytes were read, and again after each step.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is over. Write `out`, which may hold a refusal, then close.
    pub fn advance(
        &mut self,
        profile: &Profile,
        input: &mut Deframer,
        out: &mut Vec<u8>,
    ) -> Result<HandshakeStep, HandshakeError> {
        match &self.state {
            HandshakeState::Greeted { .. } | HandshakeState::Asked { .. } => {
                return Ok(HandshakeStep::Introduced);
            }
            HandshakeState::ProofHeld { .. } => return Ok(HandshakeStep::Proven),
            HandshakeState::Over => return Err(HandshakeError::CallerMisused),
            HandshakeState::Dialled { .. }
            | HandshakeState::ProofSent { .. }
            | HandshakeState::Listening
            | HandshakeState::Answered { .. } => {}
        }
        let step = self.next_step(profile, input);
        if let Err(error) = &step {
            self.state = HandshakeState::Over;
            match error {
                HandshakeError::Refused(refusal) => refusal.put(out),
                HandshakeError::PeerMisbehaved(_) => Refusal::Malformed.put(out),
                HandshakeError::RefusedByPeer(_) | HandshakeError::CallerMisused => {}
            }
        }
        step
    }

    fn next_step(
        &mut self,
        profile: &Profile,
        input: &mut Deframer,
    ) -> Result<HandshakeStep, HandshakeError> {
        if input.begins_as_tls() {
            return Err(HandshakeError::Refused(Refusal::Tls(TlsFault::OneSided)));
        }
        let Some(message) = input.next_handshake()? else { return Ok(HandshakeStep::Wait) };
        let left = self.budget.checked_sub(message.len());
        self.budget = left.ok_or(HandshakeFault::TooLong { length: HELLO_BYTES_MAX + 1 })?;
        let (kind, reader) = message::open(message)?;
        if kind == MessageKind::Refused {
            return Err(HandshakeError::RefusedByPeer(
                Refusal::take(reader).map_err(HandshakeFault::Malformed)?,
            ));
        }
        match (std::mem::replace(&mut self.state, HandshakeState::Over), kind) {
            (HandshakeState::Listening, MessageKind::DiallerHello) => {
                let peer = Box::new(Hello::take(reader).map_err(HandshakeFault::Malformed)?);
                let suite = choose(profile, &peer, self.exporter.is_some())?;
                self.state = HandshakeState::Asked { peer, message: message.to_vec(), suite };
                Ok(HandshakeStep::Introduced)
            }
            (HandshakeState::Dialled { hello, message: mine, agreement }, MessageKind::AcceptorHello) => {
                let peer = Hello::take(reader).map_err(HandshakeFault::Malformed)?;
                let suite = chosen(profile, &peer)?;
                let transcript = Transcript::of(&mine, message, exporter_of(suite, &self.exporter)?);
                let session = Box::new(Draft { peer, mine: hello.resume_state, suite, transcript });
                self.state = HandshakeState::Greeted { session, agreement };
                Ok(HandshakeStep::Introduced)
            }
            (HandshakeState::Answered { session, schedule }, MessageKind::DiallerProof) => {
                let proof = Proof::take(reader).map_err(HandshakeFault::Malformed)?;
                check_secret(&session, &schedule, HandshakeRole::Dialler, &proof)?;
                self.state = HandshakeState::ProofHeld { session, schedule, proof };
                Ok(HandshakeStep::Proven)
            }
            (HandshakeState::ProofSent { session, schedule, claim, holding }, MessageKind::AcceptorProof) => {
                let proof = Proof::take(reader).map_err(HandshakeFault::Malformed)?;
                check_secret(&session, &schedule, HandshakeRole::Acceptor, &proof)?;
                let resumes = proof.claim.resumes;
                if resumes {
                    let key = find_key(&session, &schedule, HandshakeRole::Acceptor, &proof, &holding);
                    let is_held = claim.resumes && key.is_some();
                    is_held.then_some(()).ok_or(HandshakeError::Refused(Refusal::Session))?;
                }
                let expects = proof.claim.next;
                Ok(HandshakeStep::Done(Box::new(session.finish(
                    profile,
                    &schedule,
                    HandshakeRole::Dialler,
                    resumes,
                    expects,
                ))))
            }
            (
                HandshakeState::Dialled { .. }
                | HandshakeState::Greeted { .. }
                | HandshakeState::ProofSent { .. }
                | HandshakeState::Listening
                | HandshakeState::Asked { .. }
                | HandshakeState::Answered { .. }
                | HandshakeState::ProofHeld { .. }
                | HandshakeState::Over,
                MessageKind::DiallerHello
                | MessageKind::AcceptorHello
                | MessageKind::DiallerProof
                | MessageKind::AcceptorProof
                | MessageKind::Refused,
            ) => Err(HandshakeFault::Unexpected.into()),
        }
    }

    /// The acceptor's answer to a dialler's hello: its own hello, appended to `out`.
    ///
    /// # Errors
    /// [`HandshakeError::CallerMisused`] at another step; [`HandshakeError::PeerMisbehaved`] if the peer's public key agrees
    /// to nothing. The handshake is over.
    pub fn answer(
        &mut self,
        profile: &Profile,
        entropy: Entropy,
        resume_state: ResumeState,
        out: &mut Vec<u8>,
    ) -> Result<(), HandshakeError> {
        let HandshakeState::Asked { peer, message, suite } =
            std::mem::replace(&mut self.state, HandshakeState::Over)
        else {
            return Err(HandshakeError::CallerMisused);
        };
        let mut hello = profile.hello(resume_state, entropy.nonce, entropy.public);
        (hello.version_min, hello.version_max) =
            (VERSION_MAX.min(peer.version_max), VERSION_MAX.min(peer.version_max));
        hello.suites = [suite].into_iter().collect();
        if suite.is_proven() {
            hello.key_id = peer.key_id;
        }
        let mut mine = Vec::new();
        hello.put(MessageKind::AcceptorHello, &mut mine);
        let transcript = Transcript::of(&message, &mine, exporter_of(suite, &self.exporter)?);
        let schedule = agree(profile, suite, entropy.agreement, &peer, transcript).inspect_err(|_| {
            Refusal::Malformed.put(out);
        })?;
        out.extend_from_slice(&mine);
        let session = Box::new(Draft { peer: *peer, mine: resume_state, suite, transcript });
        self.state = HandshakeState::Answered { session, schedule };
        Ok(())
    }

    /// The dialler's answer to an acceptor's hello: its proof, appended to `out`.
    ///
    /// # Errors
    /// As [`answer`](Handshake::answer).
    pub fn prove(
        &mut self,
        profile: &Profile,
        holding: HeldSession,
        out: &mut Vec<u8>,
    ) -> Result<(), HandshakeError> {
        let HandshakeState::Greeted { session, agreement } =
            std::mem::replace(&mut self.state, HandshakeState::Over)
        else {
            return Err(HandshakeError::CallerMisused);
        };
        let schedule = agree(profile, session.suite, agreement.0, &session.peer, session.transcript)
            .inspect_err(|_| Refusal::Malformed.put(out))?;
        let claim = Claim { resumes: holding.grip != Hold::None, next: holding.next };
        let proofs = holding
            .keys
            .iter()
            .map(|key| schedule.prove_resumption(key, HandshakeRole::Dialler, claim))
            .collect();
        let secret = session.suite.is_proven().then(|| schedule.prove(HandshakeRole::Dialler, claim));
        Proof { claim, secret, session: proofs }.put(MessageKind::DiallerProof, out);
        self.state = HandshakeState::ProofSent { session, schedule, claim, holding };
        Ok(())
    }

    /// The acceptor's answer to a dialler's proof: its own proof, appended to `out`. The connection is proven.
    ///
    /// # Errors
    /// [`HandshakeError::Refused`] with [`Refusal::Session`], told to the dialler in `out`, if this side holds the session
    /// firmly and the dialler has none of its resume keys. [`HandshakeError::CallerMisused`] at another step.
    pub fn confirm(
        &mut self,
        profile: &Profile,
        holding: &HeldSession,
        out: &mut Vec<u8>,
    ) -> Result<Box<ProvenConnection>, HandshakeError> {
        let HandshakeState::ProofHeld { session, schedule, proof } =
            std::mem::replace(&mut self.state, HandshakeState::Over)
        else {
            return Err(HandshakeError::CallerMisused);
        };
        let key = find_key(&session, &schedule, HandshakeRole::Dialler, &proof, holding);
        let resumes = proof.claim.resumes && holding.grip != Hold::None && key.is_some();
        if holding.grip == Hold::Firm && !resumes {
            Refusal::Session.put(out);
            return Err(HandshakeError::Refused(Refusal::Session));
        }
        let claim = Claim { resumes, next: if resumes { holding.next } else { 0 } };
        let resume_key = key.flatten().filter(|_| resumes);
        let proofs = resume_key
            .map(|key| schedule.prove_resumption(key, HandshakeRole::Acceptor, claim))
            .into_iter()
            .collect();
        let secret = session.suite.is_proven().then(|| schedule.prove(HandshakeRole::Acceptor, claim));
        Proof { claim, secret, session: proofs }.put(MessageKind::AcceptorProof, out);
        let expects = proof.claim.next;
        Ok(Box::new(session.finish(profile, &schedule, HandshakeRole::Acceptor, resumes, expects)))
    }

    /// Ends the handshake and tells the peer why, in `out`. Then write and close.
    pub fn refuse(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        self.state = HandshakeState::Over;
        refusal.put(out);
    }
}

impl Draft {
    fn finish(
        self,
        profile: &Profile,
        schedule: &Schedule,
        role: HandshakeRole,
        resumes: bool,
        peer_expects: u64,
    ) -> ProvenConnection {
        let (suite, limits) = (self.suite, &profile.limits);
        let allowance = ProvenConnection::allowance(limits);
        let ours = HelloLimits::from(limits).record_bytes_max as usize;
        let theirs = self.peer.offer.record_bytes_max as usize;
        let their_role = match role {
            HandshakeRole::Dialler => HandshakeRole::Acceptor,
            HandshakeRole::Acceptor => HandshakeRole::Dialler,
        };
        ProvenConnection {
            role,
            suite,
            mine: self.mine,
            resumes,
            peer_expects: if resumes { peer_expects } else { 0 },
            resume_key: (!resumes && suite.is_proven()).then(|| schedule.resume_key()),
            sealer: Sealer::new(suite, &*schedule.record_key(role), ours.min(theirs), allowance),
            opener: Opener::new(suite, &*schedule.record_key(their_role), ours.min(theirs), allowance),
            peer: self.peer,
        }
    }
}

/// The acceptor's choice, from a dialler's hello.
fn choose(profile: &Profile, peer: &Hello, is_tls: bool) -> Result<Suite, HandshakeError> {
    let refuse = |refusal| Err(HandshakeError::Refused(refusal));
    if peer.node == profile.node {
        return refuse(Refusal::SelfConnection);
    }
    if peer.version_min > VERSION_MAX || peer.version_max < VERSION_MIN {
        return refuse(Refusal::Version { min: VERSION_MIN, max: VERSION_MAX });
    }
    let allows = |suite: &Suite| profile.suites.contains(suite) && (*suite != Suite::Tls || is_tls);
    let suite = peer.suites.iter().copied().find(allows);
    let Some(suite) = suite else { return refuse(Refusal::Suite) };
    if suite.is_proven() && !profile.keyring.knows(peer.key_id) {
        return refuse(Refusal::UnknownKey);
    }
    Ok(suite)
}

/// The acceptor's choice, as its hello tells the dialler. The key id is the dialler's own: it chooses.
fn chosen(profile: &Profile, peer: &Hello) -> Result<Suite, HandshakeError> {
    if peer.node == profile.node {
        return Err(HandshakeError::Refused(Refusal::SelfConnection));
    }
    let is_one = peer.version_min == peer.version_max && peer.suites.len() == 1;
    let is_ours = (VERSION_MIN..=VERSION_MAX).contains(&peer.version_min);
    match peer.suites.first() {
        Some(suite) if is_one && is_ours && profile.suites.contains(suite) => {
            if suite.is_proven() && peer.key_id != profile.keyring.key_id() {
                return Err(HandshakeError::Refused(Refusal::UnknownKey));
            }
            Ok(*suite)
        }
        Some(_) | None => Err(HandshakeFault::NotOffered.into()),
    }
}

/// The bytes that TLS exported, where the suite binds them.
fn exporter_of(suite: Suite, exporter: &Option<[u8; 32]>) -> Result<Option<&[u8; 32]>, HandshakeError> {
    match (suite, exporter) {
        (Suite::Tls, None) => Err(HandshakeError::Refused(Refusal::Suite)),
        (Suite::Tls, Some(exporter)) => Ok(Some(exporter)),
        (Suite::Aes128Gcm | Suite::ChaCha20Poly1305 | Suite::Hmac | Suite::Plain, _) => Ok(None),
    }
}

fn agree(
    profile: &Profile,
    suite: Suite,
    agreement: Agreement,
    peer: &Hello,
    transcript: Transcript,
) -> Result<Schedule, HandshakeError> {
    let shared = if suite.is_proven() {
        agreement(&peer.public).ok_or(HandshakeFault::BadPublicKey)?
    } else {
        [0; 32]
    };
    Ok(Schedule::new(profile.keyring.secret(peer.key_id), &shared, transcript))
}

fn check_secret(
    session: &Draft,
    schedule: &Schedule,
    prover: HandshakeRole,
    proof: &Proof,
) -> Result<(), HandshakeError> {
    let holds = match (&proof.secret, session.suite.is_proven()) {
        (Some(theirs), true) => keys::is_same(&schedule.prove(prover, proof.claim), theirs),
        (None, false) => true,
        (None, true) | (Some(_), false) => return Err(HandshakeFault::Unexpected.into()),
    };
    holds.then_some(()).ok_or(HandshakeError::Refused(Refusal::WrongSecret))
}

/// The resume key that both have: `Some(None)` if the session has none to prove, `None` if no proof holds.
fn find_key<'h>(
    session: &Draft,
    schedule: &Schedule,
    prover: HandshakeRole,
    proof: &Proof,
    holding: &'h HeldSession,
) -> Option<Option<&'h ResumeKey>> {
    if holding.keys.is_empty() && !session.suite.is_proven() {
        return Some(None);
    }
    let matches = |key: &&ResumeKey| {
        let ours = schedule.prove_resumption(key, prover, proof.claim);
        proof.session.iter().any(|theirs| keys::is_same(&ours, theirs))
    };
    holding.keys.iter().find(matches).map(Some)
}
