//! The messages before the first record: two hellos, two proofs, or a refusal.
//!
//! Each is a header of eight bytes (the magic, a kind, a zero, the length of the rest as u16) and a fixed layout. They are
//! the only bytes that anybody decodes before a proof.

use smallvec::SmallVec;

use crate::bytes::{Field, Malformed, Reader};
use crate::handshake::{HandshakeFault, TlsFault};

/// The first bytes of every handshake message.
pub(crate) const MAGIC: [u8; 4] = *b"ANTI";
/// Magic, kind, zero, length.
pub(crate) const HANDSHAKE_HEADER_BYTES: usize = 8;
/// Resume keys, and so proofs of them, of one session.
pub(crate) const RESUME_KEYS_MAX: usize = 4;

/// Which message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    DiallerHello = 1,
    AcceptorHello = 2,
    DiallerProof = 3,
    AcceptorProof = 4,
    Refused = 5,
}

/// Why a connection is refused. Told to the other side in the clear, so it is a hint for a log, not a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The proof does not hold.
    #[error("the secrets differ; give both nodes the same one")]
    WrongSecret,
    /// No version in common.
    #[error("no common version of the protocol ({min} to {max} on the refusing side); update the older node")]
    Version {
        /// The refusing side's oldest.
        min: u16,
        /// The refusing side's newest.
        max: u16,
    },
    /// The key id names no secret of the acceptor's.
    #[error(
        "the dialler's key id is unknown to the other node; give both the same, or have the other accept that one too"
    )]
    UnknownKey,
    /// No suite in common: mostly one side has a secret and the other none.
    #[error("no suite in common; give both nodes a secret, or neither, and the same TLS setting")]
    Suite,
    /// Dialler and acceptor are the same node.
    #[error("the node dialled itself; leave its own location out of its peers")]
    SelfConnection,
    /// The two are connected already.
    #[error("the two nodes are connected already; nothing needs to be done")]
    Duplicate,
    /// A newer connection, or a newer session, has taken over.
    #[error("a newer connection has taken over; nothing needs to be done")]
    Superseded,
    /// The dialler does not have the session that it wants to resume.
    #[error("this session belongs to another connection; wait until it is lost, then dial again")]
    Session,
    /// Too many connections at a time.
    #[error("the peer has too many connections; dial again later")]
    Busy,
    /// The user ignores this peer.
    #[error("the peer ignores this node; take it off its list to connect")]
    Ignored,
    /// The peer could not read a message.
    #[error("the peer could not read the handshake; see its log")]
    Malformed,
    /// The node leaves.
    #[error("the peer is leaving")]
    Leaving,
    /// The node is known by another certificate than this connection's.
    #[error("that node is known by another certificate; if it is the same program, start it anew")]
    Certificate,
    /// The TLS below came to nothing. Told to the other side only as [`TlsFault::OneSided`].
    #[error(transparent)]
    Tls(TlsFault),
    /// A reason of a later version.
    #[error("refused for reason {0}, which this version does not know; update this node")]
    Other(u8),
}

impl Refusal {
    /// The whole message, for who refuses before there is a handshake: a node that speaks TLS to one that does not.
    pub fn message(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        bytes
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        let start = begin(MessageKind::Refused, out);
        let (code, min, max) = match self {
            Refusal::WrongSecret => (1, 0, 0),
            Refusal::Version { min, max } => (2, min, max),
            Refusal::UnknownKey => (3, 0, 0),
            Refusal::Suite => (4, 0, 0),
            Refusal::SelfConnection => (5, 0, 0),
            Refusal::Duplicate => (6, 0, 0),
            Refusal::Superseded => (7, 0, 0),
            Refusal::Session => (8, 0, 0),
            Refusal::Busy => (9, 0, 0),
            Refusal::Ignored => (10, 0, 0),
            Refusal::Malformed => (11, 0, 0),
            Refusal::Leaving => (12, 0, 0),
            Refusal::Tls(_) => (13, 0, 0),
            Refusal::Certificate => (14, 0, 0),
            Refusal::Other(code) => (code, 0, 0),
        };
        out.extend_from_slice(&[code, 0]);
        min.put(out);
        max.put(out);
        finish(start, out);
    }

    pub(crate) fn take(mut reader: Reader<'_>) -> Result<Refusal, Malformed> {
        let [code, _] = reader.array("refusal")?;
        let (min, max) = (u16::take(&mut reader)?, u16::take(&mut reader)?);
        Ok(match code {
            1 => Refusal::WrongSecret,
            2 => Refusal::Version { min, max },
            3 => Refusal::UnknownKey,
            4 => Refusal::Suite,
            5 => Refusal::SelfConnection,
            6 => Refusal::Duplicate,
            7 => Refusal::Superseded,
            8 => Refusal::Session,
            9 => Refusal::Busy,
            10 => Refusal::Ignored,
            11 => Refusal::Malformed,
            12 => Refusal::Leaving,
            13 => Refusal::Tls(TlsFault::OneSided),
            14 => Refusal::Certificate,
            code => Refusal::Other(code),
        })
    }
}

/// A proof of the secret, and of the session if one is resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) claim: Claim,
    /// HMAC-SHA256; `None` under a suite that proves nothing.
    pub(crate) secret: Option<[u8; 32]>,
    /// The dialler: one for each resume key that it has. The acceptor: one with the key that it found.
    pub(crate) session: SmallVec<[[u8; 32]; RESUME_KEYS_MAX]>,
}

/// What a proof is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The dialler: whether it has the session. The acceptor: whether it goes on.
    pub(crate) resumes: bool,
    /// The next numbered frame that the prover expects.
    pub(crate) next: u64,
}

impl Claim {
    pub(crate) fn bytes(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        bytes[0] = self.resumes.into();
        bytes[1..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

impl Proof {
    pub(crate) fn put(&self, kind: MessageKind, out: &mut Vec<u8>) {
        let start = begin(kind, out);
        out.extend_from_slice(&self.claim.bytes());
        self.secret.put(out);
        out.push(u8::try_from(self.session.len()).expect("at most RESUME_KEYS_MAX proofs"));
        self.session.iter().for_each(|proof| proof.put(out));
        finish(start, out);
    }

    pub(crate) fn take(mut reader: Reader<'_>) -> Result<Proof, Malformed> {
        let claim = Claim { resumes: bool::take(&mut reader)?, next: u64::take(&mut reader)? };
        let secret = Option::<[u8; 32]>::from_reader(&mut reader)?;
        let count = usize::from(u8::take(&mut reader)?);
        if count > RESUME_KEYS_MAX {
            let limit = RESUME_KEYS_MAX as u64;
            return Err(Malformed::TooLarge { field: "resume proofs", value: count as u64, limit });
        }
        let mut session = SmallVec::new();
        for _ in 0..count {
            session.push(reader.array("resume proof")?);
        }
        reader.finish("proof")?;
        Ok(Proof { claim, secret, session })
    }
}

/// `Field::take` under a name that `Option`'s own `take` does not hide.
trait FromReader<'a>: Field<'a> {
    fn from_reader(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Self::take(reader)
    }
}

impl<'a, T: Field<'a>> FromReader<'a> for T {}

/// Appends a header with the length still open, and answers where it is.
pub(crate) fn begin(kind: MessageKind, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    start
}

/// Fills in the length of the message that `begin` began.
pub(crate) fn finish(start: usize, out: &mut [u8]) {
    let length = out.len() - start - HANDSHAKE_HEADER_BYTES;
    let length = u16::try_from(length).expect("a handshake message is far below 64 KiB");
    out[start + 6..start + HANDSHAKE_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Reads the header of a whole message.
pub(crate) fn open(message: &[u8]) -> Result<(MessageKind, Reader<'_>), HandshakeFault> {
    let mut reader = Reader::new(message);
    let [_, _, _, _, kind, zero, _, _] = reader.array::<HANDSHAKE_HEADER_BYTES>("handshake header")?;
    if zero != 0 {
        return Err(Malformed::Unknown { field: "handshake header", value: zero.into() }.into());
    }
    let kinds = [
        MessageKind::DiallerHello,
        MessageKind::AcceptorHello,
        MessageKind::DiallerProof,
        MessageKind::AcceptorProof,
        MessageKind::Refused,
    ];
    let known = kinds.into_iter().find(|known| *known as u8 == kind);
    let kind = known.ok_or(Malformed::Unknown { field: "handshake message", value: kind.into() })?;
    Ok((kind, reader))
}
