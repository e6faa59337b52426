//! The state machine of a handshake. A transition consumes the old state; an error ends the handshake.

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

/// One side of one handshake. [`HandshakeStep`] describes which method to call next.
#[derive(Debug)]
pub struct Handshake {
    state: HandshakeState,
    /// The bytes that TLS exported. Under [`Suite::Tls`] the proofs bind them.
    exporter: Option<[u8; 32]>,
    /// The number of bytes that the peer may still send.
    bytes_left: usize,
}

/// The step that a handshake has reached, and the next action of the caller.
#[derive(Debug)]
pub enum HandshakeStep {
    /// The handshake waits for more bytes.
    Wait,
    /// The peer's hello has arrived ([`Handshake::peer`]); it is unproven. The acceptor continues with
    /// [`Handshake::answer`], the dialler with [`Handshake::prove`]. Either side may call [`Handshake::refuse`]
    /// instead.
    Introduced,
    /// Acceptor: the dialler's proof is verified. Continue with [`Handshake::confirm`] or [`Handshake::refuse`].
    Proven,
    /// Dialler: both proofs are verified.
    Done(Box<ProvenConnection>),
}

/// The role of this side, and the last message that it sent or received.
#[derive(Debug)]
enum HandshakeState {
    DiallerSentHello {
        hello: Box<Hello>,
        message: Vec<u8>,
        agreement: OpaqueAgreement,
    },
    DiallerGotHello {
        draft: Box<Draft>,
        agreement: OpaqueAgreement,
    },
    DiallerSentProof {
        draft: Box<Draft>,
        schedule: Schedule,
        claim: Claim,
        held: HeldSession,
    },
    /// No message was received.
    AcceptorListening,
    AcceptorGotHello {
        peer: Box<Hello>,
        message: Vec<u8>,
        suite: Suite,
    },
    AcceptorSentHello {
        draft: Box<Draft>,
        schedule: Schedule,
    },
    /// The proof is verified.
    AcceptorGotProof {
        draft: Box<Draft>,
        schedule: Schedule,
        proof: Proof,
    },
    /// The handshake is done, refused or failed.
    Ended,
}

/// The values that both hellos determine.
#[derive(Debug)]
struct Draft {
    peer: Hello,
    mine: ResumeState,
    suite: Suite,
    transcript: Transcript,
}

/// A key agreement with a `Debug` output that hides it.
struct OpaqueAgreement(Agreement);

impl std::fmt::Debug for OpaqueAgreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpaqueAgreement")
    }
}

impl Handshake {
    /// Begins a handshake as the dialler. Appends its hello to `out`.
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
        let state = HandshakeState::DiallerSentHello {
            hello,
            message,
            agreement: OpaqueAgreement(entropy.agreement),
        };
        Handshake { state, exporter, bytes_left: HELLO_BYTES_MAX }
    }

    /// Begins a handshake as the acceptor.
    pub fn accept(exporter: Option<[u8; 32]>) -> Handshake {
        Handshake { state: HandshakeState::AcceptorListening, exporter, bytes_left: HELLO_BYTES_MAX }
    }

    /// The peer's hello, from [`HandshakeStep::Introduced`] to the end of the handshake.
    ///
    /// It is unproven until [`HandshakeStep::Proven`] or [`HandshakeStep::Done`].
    pub fn peer(&self) -> Option<&Hello> {
        match &self.state {
            HandshakeState::DiallerGotHello { draft, .. }
            | HandshakeState::DiallerSentProof { draft, .. }
            | HandshakeState::AcceptorSentHello { draft, .. }
            | HandshakeState::AcceptorGotProof { draft, .. } => Some(&draft.peer),
            HandshakeState::AcceptorGotHello { peer, .. } => Some(peer),
            HandshakeState::DiallerSentHello { .. }
            | HandshakeState::AcceptorListening
            | HandshakeState::Ended => None,
        }
    }

    /// The [`ResumeState`] in this side's hello; `None` until the hello is sent.
    pub fn resume_state(&self) -> Option<ResumeState> {
        match &self.state {
            HandshakeState::DiallerSentHello { hello, .. } => Some(hello.resume_state),
            HandshakeState::DiallerGotHello { draft, .. }
            | HandshakeState::DiallerSentProof { draft, .. }
            | HandshakeState::AcceptorSentHello { draft, .. }
            | HandshakeState::AcceptorGotProof { draft, .. } => Some(draft.mine),
            HandshakeState::AcceptorGotHello { .. }
            | HandshakeState::AcceptorListening
            | HandshakeState::Ended => None,
        }
    }

    /// Takes the received messages up to the next step. Call it when bytes have arrived, and again after each step.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake has ended. Write `out`, which may hold a refusal, then close the connection.
    pub fn advance(
        &mut self,
        profile: &Profile,
        input: &mut Deframer,
        out: &mut Vec<u8>,
    ) -> Result<HandshakeStep, HandshakeError> {
        match &self.state {
            HandshakeState::DiallerGotHello { .. } | HandshakeState::AcceptorGotHello { .. } => {
                return Ok(HandshakeStep::Introduced);
            }
            HandshakeState::AcceptorGotProof { .. } => return Ok(HandshakeStep::Proven),
            HandshakeState::Ended => return Err(HandshakeError::CallerMisused),
            HandshakeState::DiallerSentHello { .. }
            | HandshakeState::DiallerSentProof { .. }
            | HandshakeState::AcceptorListening
            | HandshakeState::AcceptorSentHello { .. } => {}
        }
        let step = self.next_step(profile, input);
        if let Err(error) = &step {
            self.state = HandshakeState::Ended;
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
        let left = self.bytes_left.checked_sub(message.len());
        self.bytes_left = left.ok_or(HandshakeFault::TooLong { length: HELLO_BYTES_MAX + 1 })?;
        let (kind, reader) = message::open(message)?;
        if kind == MessageKind::Refused {
            return Err(HandshakeError::RefusedByPeer(
                Refusal::take(reader).map_err(HandshakeFault::Malformed)?,
            ));
        }
        match (std::mem::replace(&mut self.state, HandshakeState::Ended), kind) {
            (HandshakeState::AcceptorListening, MessageKind::DiallerHello) => {
                let peer = Box::new(Hello::take(reader).map_err(HandshakeFault::Malformed)?);
                peer.check_as_dialler().map_err(HandshakeFault::Malformed)?;
                let suite = choose_suite(profile, &peer, self.exporter.is_some())?;
                self.state = HandshakeState::AcceptorGotHello { peer, message: message.to_vec(), suite };
                Ok(HandshakeStep::Introduced)
            }
            (
                HandshakeState::DiallerSentHello { hello, message: mine, agreement },
                MessageKind::AcceptorHello,
            ) => {
                let peer = Hello::take(reader).map_err(HandshakeFault::Malformed)?;
                let suite = check_choice(profile, &peer)?;
                let transcript = Transcript::of(&mine, message, exporter_of(suite, &self.exporter)?);
                let draft = Box::new(Draft { peer, mine: hello.resume_state, suite, transcript });
                self.state = HandshakeState::DiallerGotHello { draft, agreement };
                Ok(HandshakeStep::Introduced)
            }
            (HandshakeState::AcceptorSentHello { draft, schedule }, MessageKind::DiallerProof) => {
                let proof = Proof::take(reader).map_err(HandshakeFault::Malformed)?;
                check_secret(&draft, &schedule, HandshakeRole::Dialler, &proof)?;
                self.state = HandshakeState::AcceptorGotProof { draft, schedule, proof };
                Ok(HandshakeStep::Proven)
            }
            (
                HandshakeState::DiallerSentProof { draft, schedule, claim, held },
                MessageKind::AcceptorProof,
            ) => {
                let proof = Proof::take(reader).map_err(HandshakeFault::Malformed)?;
                check_secret(&draft, &schedule, HandshakeRole::Acceptor, &proof)?;
                let resumes = proof.claim.resumes;
                if resumes {
                    let key = find_key(&draft, &schedule, HandshakeRole::Acceptor, &proof, &held);
                    let is_held = claim.resumes && key.is_some();
                    is_held.then_some(()).ok_or(HandshakeError::Refused(Refusal::Session))?;
                }
                let expects = proof.claim.next;
                Ok(HandshakeStep::Done(Box::new(draft.finish(
                    profile,
                    &schedule,
                    HandshakeRole::Dialler,
                    resumes,
                    expects,
                ))))
            }
            (
                HandshakeState::DiallerSentHello { .. }
                | HandshakeState::DiallerGotHello { .. }
                | HandshakeState::DiallerSentProof { .. }
                | HandshakeState::AcceptorListening
                | HandshakeState::AcceptorGotHello { .. }
                | HandshakeState::AcceptorSentHello { .. }
                | HandshakeState::AcceptorGotProof { .. }
                | HandshakeState::Ended,
                MessageKind::DiallerHello
                | MessageKind::AcceptorHello
                | MessageKind::DiallerProof
                | MessageKind::AcceptorProof
                | MessageKind::Refused,
            ) => Err(HandshakeFault::Unexpected.into()),
        }
    }

    /// Answers the dialler's hello: appends the acceptor's hello to `out`.
    ///
    /// # Errors
    /// [`HandshakeError::CallerMisused`] at another step; [`HandshakeError::PeerMisbehaved`] if the peer's public
    /// key has a low order. The handshake has ended.
    pub fn answer(
        &mut self,
        profile: &Profile,
        entropy: Entropy,
        resume_state: ResumeState,
        out: &mut Vec<u8>,
    ) -> Result<(), HandshakeError> {
        let HandshakeState::AcceptorGotHello { peer, message, suite } =
            std::mem::replace(&mut self.state, HandshakeState::Ended)
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
        let draft = Box::new(Draft { peer: *peer, mine: resume_state, suite, transcript });
        self.state = HandshakeState::AcceptorSentHello { draft, schedule };
        Ok(())
    }

    /// Answers the acceptor's hello: appends the dialler's proof to `out`.
    ///
    /// # Errors
    /// [`HandshakeError::CallerMisused`] at another step; [`HandshakeError::PeerMisbehaved`] if the peer's public
    /// key has a low order. The handshake has ended.
    pub fn prove(
        &mut self,
        profile: &Profile,
        held: HeldSession,
        out: &mut Vec<u8>,
    ) -> Result<(), HandshakeError> {
        let HandshakeState::DiallerGotHello { draft, agreement } =
            std::mem::replace(&mut self.state, HandshakeState::Ended)
        else {
            return Err(HandshakeError::CallerMisused);
        };
        let schedule = agree(profile, draft.suite, agreement.0, &draft.peer, draft.transcript)
            .inspect_err(|_| Refusal::Malformed.put(out))?;
        let claim = Claim { resumes: held.hold != Hold::None, next: held.next };
        let proofs = held
            .keys
            .iter()
            .map(|key| schedule.prove_resumption(key, HandshakeRole::Dialler, claim))
            .collect();
        let secret = draft.suite.is_proven().then(|| schedule.prove(HandshakeRole::Dialler, claim));
        Proof { claim, secret, session: proofs }.put(MessageKind::DiallerProof, out);
        self.state = HandshakeState::DiallerSentProof { draft, schedule, claim, held };
        Ok(())
    }

    /// Acceptor, at [`HandshakeStep::Proven`]: whether the dialler has proven that it holds this session.
    pub fn is_resumed(&self, held: &HeldSession) -> bool {
        let HandshakeState::AcceptorGotProof { draft, schedule, proof } = &self.state else { return false };
        resumed_key(draft, schedule, proof, held).is_some()
    }

    /// Answers the dialler's proof: appends the acceptor's proof to `out`, and returns the proven connection.
    ///
    /// # Errors
    /// [`HandshakeError::Refused`] with [`Refusal::Session`] if this side has received records of the session and
    /// the dialler has none of its resume keys; `out` then holds the refusal. [`HandshakeError::CallerMisused`] at
    /// another step.
    pub fn confirm(
        &mut self,
        profile: &Profile,
        held: &HeldSession,
        out: &mut Vec<u8>,
    ) -> Result<Box<ProvenConnection>, HandshakeError> {
        let HandshakeState::AcceptorGotProof { draft, schedule, proof } =
            std::mem::replace(&mut self.state, HandshakeState::Ended)
        else {
            return Err(HandshakeError::CallerMisused);
        };
        let key = resumed_key(&draft, &schedule, &proof, held);
        let resumes = key.is_some();
        if held.hold == Hold::Firm && !resumes {
            Refusal::Session.put(out);
            return Err(HandshakeError::Refused(Refusal::Session));
        }
        let claim = Claim { resumes, next: if resumes { held.next } else { 0 } };
        let proofs = key
            .flatten()
            .map(|key| schedule.prove_resumption(key, HandshakeRole::Acceptor, claim))
            .into_iter()
            .collect();
        let secret = draft.suite.is_proven().then(|| schedule.prove(HandshakeRole::Acceptor, claim));
        Proof { claim, secret, session: proofs }.put(MessageKind::AcceptorProof, out);
        let expects = proof.claim.next;
        Ok(Box::new(draft.finish(profile, &schedule, HandshakeRole::Acceptor, resumes, expects)))
    }

    /// Ends the handshake and appends the refusal to `out`. Write `out`, then close the connection.
    pub fn refuse(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        self.state = HandshakeState::Ended;
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
        let theirs = self.peer.limits.record_bytes_max as usize;
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

/// Chooses the suite, as the acceptor, from the dialler's hello.
fn choose_suite(profile: &Profile, peer: &Hello, is_tls: bool) -> Result<Suite, HandshakeError> {
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

/// Checks, as the dialler, the choices in the acceptor's hello, and returns the suite. The key id must be the
/// dialler's own.
fn check_choice(profile: &Profile, peer: &Hello) -> Result<Suite, HandshakeError> {
    if peer.node == profile.node {
        return Err(HandshakeError::Refused(Refusal::SelfConnection));
    }
    let is_one_each = peer.version_min == peer.version_max && peer.suites.len() == 1;
    let is_ours = (VERSION_MIN..=VERSION_MAX).contains(&peer.version_min);
    match peer.suites.first() {
        Some(suite) if is_one_each && is_ours && profile.suites.contains(suite) => {
            if suite.is_proven() && peer.key_id != profile.keyring.key_id() {
                return Err(HandshakeError::Refused(Refusal::UnknownKey));
            }
            Ok(*suite)
        }
        Some(_) | None => Err(HandshakeFault::NotOffered.into()),
    }
}

/// The bytes that TLS exported, if the suite binds them.
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
    draft: &Draft,
    schedule: &Schedule,
    prover: HandshakeRole,
    proof: &Proof,
) -> Result<(), HandshakeError> {
    let is_verified = match (&proof.secret, draft.suite.is_proven()) {
        (Some(theirs), true) => keys::is_same(&schedule.prove(prover, proof.claim), theirs),
        (None, false) => true,
        (None, true) | (Some(_), false) => return Err(HandshakeFault::Unexpected.into()),
    };
    is_verified.then_some(()).ok_or(HandshakeError::Refused(Refusal::WrongSecret))
}

/// For the acceptor: the resume key with which a dialler has proven that it holds the session, as [`find_key`].
fn resumed_key<'h>(
    draft: &Draft,
    schedule: &Schedule,
    proof: &Proof,
    held: &'h HeldSession,
) -> Option<Option<&'h ResumeKey>> {
    let resumes = proof.claim.resumes && held.hold != Hold::None;
    resumes.then(|| find_key(draft, schedule, HandshakeRole::Dialler, proof, held)).flatten()
}

/// Finds the resume key that both sides hold: `Some(None)` if the session needs no proof, `None` if no proof matches.
fn find_key<'h>(
    draft: &Draft,
    schedule: &Schedule,
    prover: HandshakeRole,
    proof: &Proof,
    held: &'h HeldSession,
) -> Option<Option<&'h ResumeKey>> {
    if held.keys.is_empty() && !draft.suite.is_proven() {
        return Some(None);
    }
    let matches = |key: &&ResumeKey| {
        let ours = schedule.prove_resumption(key, prover, proof.claim);
        proof.session.iter().any(|theirs| keys::is_same(&ours, theirs))
    };
    held.keys.iter().find(matches).map(Some)
}
