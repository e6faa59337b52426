//! The messages before the first record: two hellos and two proofs, or a refusal.
//!
//! Each message has a header of eight bytes (magic, kind, a zero, the length of the rest as u16) and a body of
//! fixed layout. Before a proof is verified, a node decodes nothing else.

use smallvec::SmallVec;

use crate::bytes::{Field, Malformed, Reader};
use crate::handshake::{HandshakeFault, TlsFault};
use crate::ids::NodeId;

/// The first bytes of every handshake message.
pub(crate) const MAGIC: [u8; 4] = *b"ANTI";
/// Bytes of the header: magic (4), kind, zero, length (2).
pub(crate) const HANDSHAKE_HEADER_BYTES: usize = 8;
/// The largest number of resume keys of one session, and of their proofs in one message.
pub(crate) const RESUME_KEYS_MAX: usize = 4;

/// The kind of a handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    DiallerHello = 1,
    AcceptorHello = 2,
    DiallerProof = 3,
    AcceptorProof = 4,
    Refused = 5,
}

/// Why a connection is refused. It is sent unauthenticated, so the peer can log it but not rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The proof of the secret does not verify.
    #[error("the secrets differ; give both nodes the same one")]
    WrongSecret,
    /// The two sides support no common version.
    #[error("no common version of the protocol ({min} to {max} on the refusing side); update the older node")]
    Version {
        /// The oldest version that the refusing side supports.
        min: u16,
        /// The newest version that the refusing side supports.
        max: u16,
    },
    /// The acceptor accepts no secret with the dialler's key id.
    #[error(
        "the acceptor does not know the dialler's key id; give both nodes the same, or let the acceptor accept it too"
    )]
    UnknownKey,
    /// The two sides allow no common suite. Usually one side has a secret and the other has none.
    #[error("no suite in common; give both nodes a secret, or neither, and the same TLS setting")]
    Suite,
    /// Dialler and acceptor are the same node.
    #[error("the node dialled itself; remove its own location from its peers")]
    SelfConnection,
    /// The two nodes are connected already.
    #[error("the two nodes are connected already; nothing needs to be done")]
    Duplicate,
    /// A newer connection or a newer session replaces this one.
    #[error("a newer connection replaces this one; nothing needs to be done")]
    Superseded,
    /// The dialler cannot prove the session that the acceptor holds.
    #[error("this session belongs to another connection; wait until it is lost, then dial again")]
    Session,
    /// The peer has too many connections.
    #[error("the peer has too many connections; dial again later")]
    Busy,
    /// The peer is configured to ignore this node.
    #[error("the peer ignores this node; remove this node from the list of ignored nodes there")]
    Ignored,
    /// The peer could not read a message.
    #[error("the peer could not read the handshake; see its log")]
    Malformed,
    /// The peer is leaving.
    #[error("the peer is leaving")]
    Leaving,
    /// The node id belongs to another certificate than that of this connection.
    #[error("that node is known by another certificate; if it is the same program, restart it")]
    Certificate,
    /// The TLS handshake failed. Every fault is sent to the peer as [`TlsFault::OneSided`].
    #[error(transparent)]
    Tls(TlsFault),
    /// The hello has a lower epoch than the peer knows of this node. It is another node with this node's id, or this handshake is
    /// older than the present session.
    #[error("the peer knows a later session of a node with this id; this node returns with a higher epoch")]
    OldEpoch {
        /// The node that refuses.
        node: NodeId,
        /// The epoch that it knows.
        known: u64,
    },
    /// The hello has an epoch that is too far above the one that the peer knows of this node.
    #[error(
        "the epoch is too far above the one that the peer knows of this node id; wait until that session is lost, then dial again"
    )]
    EpochTooHigh {
        /// The node that refuses.
        node: NodeId,
        /// The epoch that it knows.
        known: u64,
    },
    /// A node with the same id is connected, and its connection answers.
    #[error(
        "another connection of this node id answers; two programs use one node id, which is random: look for the other one"
    )]
    NodeIdInUse,
    /// A reason that a later version of the protocol defines.
    #[error("refused for reason {0}, which this version does not know; update this node")]
    Other(u8),
}

impl Refusal {
    /// The whole message. For a node that refuses before a handshake begins: one with TLS refuses a peer without it.
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
            Refusal::OldEpoch { .. } => (15, 0, 0),
            Refusal::EpochTooHigh { .. } => (16, 0, 0),
            Refusal::NodeIdInUse => (17, 0, 0),
            Refusal::Other(code) => (code, 0, 0),
        };
        out.extend_from_slice(&[code, 0]);
        min.put(out);
        max.put(out);
        if let Refusal::OldEpoch { node, known } | Refusal::EpochTooHigh { node, known } = self {
            node.put(out);
            known.put(out);
        }
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
            15 => Refusal::OldEpoch { node: NodeId::take(&mut reader)?, known: u64::take(&mut reader)? },
            16 => Refusal::EpochTooHigh { node: NodeId::take(&mut reader)?, known: u64::take(&mut reader)? },
            17 => Refusal::NodeIdInUse,
            code => Refusal::Other(code),
        })
    }
}

/// The proof of the secret, and of the session if one is resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) claim: Claim,
    /// The HMAC-SHA256 under the key of the proofs; `None` under [`Suite::Plain`](crate::Suite::Plain).
    pub(crate) secret: Option<[u8; 32]>,
    /// The dialler's: one HMAC for each resume key that it has. The acceptor's: one HMAC with the key that matched.
    pub(crate) session: SmallVec<[[u8; 32]; RESUME_KEYS_MAX]>,
}

/// The statement that a proof authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The dialler's: whether it has the session. The acceptor's: whether both resume it.
    pub(crate) resumes: bool,
    /// The number of the next numbered frame that the proving side expects; 0 if it does not resume.
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

/// `Field::take` under another name, because `Option::take` hides it.
trait FromReader<'a>: Field<'a> {
    fn from_reader(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Self::take(reader)
    }
}

impl<'a, T: Field<'a>> FromReader<'a> for T {}

/// Appends a header without the length, and returns its position.
pub(crate) fn begin(kind: MessageKind, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    start
}

/// Sets the length of the message that [`begin`] began at `start`.
pub(crate) fn finish(start: usize, out: &mut [u8]) {
    let length = out.len() - start - HANDSHAKE_HEADER_BYTES;
    let length = u16::try_from(length).expect("a handshake message is shorter than 64 KiB");
    out[start + 6..start + HANDSHAKE_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Reads the header of a whole message, and returns its kind and a reader of its body.
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
