//! The key schedule, which derives proofs and keys from the secret, the agreement and the transcript.
//!
//! Every key also depends on the X25519 agreement. So guesses of the secret cannot be tested against a recorded
//! handshake.

use ring::{digest, hkdf, hmac};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::handshake::message::Claim;
use crate::secret::Secret;

/// The role of one side in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeRole {
    /// The side that dialled.
    Dialler,
    /// The side that accepted the connection.
    Acceptor,
}

/// The key by which a later connection proves that it belongs to the session. Derived in the handshake that begins
/// the session.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ResumeKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeKey")
    }
}

/// The SHA-256 of the dialler's hello, the acceptor's hello (both as whole messages), and the TLS exporter if the
/// suite is `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transcript([u8; 32]);

impl Transcript {
    pub(crate) fn of(dialler: &[u8], acceptor: &[u8], exporter: Option<&[u8; 32]>) -> Transcript {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(dialler);
        context.update(acceptor);
        if let Some(exporter) = exporter {
            context.update(exporter);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Transcript(hash)
    }
}

/// The keys of one handshake.
pub(crate) struct Schedule {
    extracted: hkdf::Prk,
    transcript: Transcript,
}

impl Schedule {
    /// Extracts the key material. The text of the secret is the salt (empty without a secret), the agreement is the
    /// input.
    pub(crate) fn new(secret: Option<&Secret>, agreement: &[u8; 32], transcript: Transcript) -> Schedule {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, secret.map_or(&[], Secret::as_bytes));
        Schedule { extracted: salt.extract(agreement), transcript }
    }

    /// The proof by `role` of the secret and of its claim.
    pub(crate) fn prove(&self, role: HandshakeRole, claim: Claim) -> [u8; 32] {
        let key = self.expand::<32>("antiphon proof");
        sign(&*key, proof_label(role), self.transcript, claim)
    }

    /// The key of the records that `role` sends.
    pub(crate) fn record_key(&self, role: HandshakeRole) -> Zeroizing<[u8; 32]> {
        self.expand(match role {
            HandshakeRole::Dialler => "antiphon dialler records",
            HandshakeRole::Acceptor => "antiphon acceptor records",
        })
    }

    /// The resume key of a session that begins with this handshake.
    pub(crate) fn resume_key(&self) -> ResumeKey {
        ResumeKey(self.expand("antiphon resume"))
    }

    /// The proof by `role` of the resume key of an earlier handshake, and of its claim.
    pub(crate) fn prove_resumption(&self, key: &ResumeKey, role: HandshakeRole, claim: Claim) -> [u8; 32] {
        sign(&*key.0, resume_label(role), self.transcript, claim)
    }

    fn expand<const N: usize>(&self, label: &str) -> Zeroizing<[u8; N]> {
        let info = [label.as_bytes(), &self.transcript.0];
        let mut key = Zeroizing::new([0; N]);
        let expanded = self.extracted.expand(&info, Length(N)).and_then(|okm| okm.fill(&mut *key));
        expanded.expect("HKDF-SHA256 expands to 32 bytes");
        key
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schedule")
    }
}

/// Compares two proofs in constant time.
pub(crate) fn is_same(ours: &[u8; 32], theirs: &[u8; 32]) -> bool {
    ours.ct_eq(theirs).into()
}

fn sign(key: &[u8], label: &str, transcript: Transcript, claim: Claim) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(label.as_bytes());
    context.update(&transcript.0);
    context.update(&claim.bytes());
    let mut proof = [0; 32];
    proof.copy_from_slice(context.sign().as_ref());
    proof
}

fn proof_label(role: HandshakeRole) -> &'static str {
    match role {
        HandshakeRole::Dialler => "antiphon dialler proves",
        HandshakeRole::Acceptor => "antiphon acceptor proves",
    }
}

fn resume_label(role: HandshakeRole) -> &'static str {
    match role {
        HandshakeRole::Dialler => "antiphon dialler resumes",
        HandshakeRole::Acceptor => "antiphon acceptor resumes",
    }
}

/// A number of output bytes, as ring's HKDF takes it.
#[derive(Debug)]
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
