//! The handshake of one connection: hello, hello, proof, proof; the dialler proves first.
//!
//! Each state names the one message that it takes; any other, like any byte that does not parse, ends the handshake. Nothing
//! beyond the fixed messages is decoded before both proofs hold, and a peer has [`HELLO_BYTES_MAX`](crate::HELLO_BYTES_MAX) bytes for all of them.

mod hello;
mod keys;
mod machine;
mod message;
mod tls;

pub use hello::{CLOSES_WHEN_IDLE, Hello, HelloLimits, ResumeState, UNDISCOVERED};
pub use keys::HandshakeRole;
pub use machine::{Handshake, HandshakeStep};
pub use message::Refusal;
pub use tls::{EXPORTER_LABEL, TlsFault};

pub(crate) use keys::ResumeKey;
pub(crate) use message::{HANDSHAKE_HEADER_BYTES, MAGIC, RESUME_KEYS_MAX};

use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::bytes::Malformed;
use crate::ids::NodeId;
use crate::keyring::Keyring;
use crate::limits::{LOCATIONS_MAX, Limits, NAME_BYTES_MAX};
use crate::record::{Allowance, Opener, Sealer};
use crate::suite::Suite;

/// The oldest version of the protocol that this crate speaks.
pub const VERSION_MIN: u16 = 1;
/// The newest version of the protocol that this crate speaks.
pub const VERSION_MAX: u16 = 1;

/// What one node tells and demands in every handshake.
#[derive(Debug, Clone)]
pub struct Profile {
    /// This incarnation.
    pub node: NodeId,
    /// The node's name, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Where the node can be dialled, best first; at most [`LOCATIONS_MAX`].
    pub locations: Vec<SocketAddr>,
    /// The suites that are allowed, best first; at most 8.
    pub suites: Vec<Suite>,
    /// The shared secrets. Without one, only [`Suite::Tls`] and [`Suite::Plain`] make sense.
    pub keyring: Keyring,
    /// Such as [`CLOSES_WHEN_IDLE`].
    pub flags: u32,
    /// Sizes and wear.
    pub limits: Limits,
}

impl Profile {
    /// Checks what a hello cannot express. To be called once, when the node starts.
    ///
    /// # Errors
    /// [`ProfileError`], which names the field.
    pub fn check(&self) -> Result<(), ProfileError> {
        if self.name.len() > NAME_BYTES_MAX {
            return Err(ProfileError::Name { bytes: self.name.len() });
        }
        if self.locations.len() > LOCATIONS_MAX {
            return Err(ProfileError::Locations { count: self.locations.len() });
        }
        if self.suites.is_empty() || self.suites.len() > 8 {
            return Err(ProfileError::Suites { count: self.suites.len() });
        }
        let needs_secret = |suite: &Suite| suite.key_bytes() > 0;
        if self.keyring.is_empty() && self.suites.iter().any(needs_secret) {
            return Err(ProfileError::NoSecret);
        }
        if self.suites.contains(&Suite::Plain) && self.suites.len() > 1 {
            return Err(ProfileError::PlainBesides);
        }
        if self.flags & 0xffff != 0 {
            return Err(ProfileError::Flags);
        }
        Ok(())
    }

    fn hello(&self, resume_state: ResumeState, nonce: [u8; 32], public: [u8; 32]) -> Hello {
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            flags: self.flags,
            key_id: self.keyring.key_id(),
            node: self.node,
            resume_state,
            offer: HelloLimits::from(&self.limits),
            nonce,
            public,
            suites: self.suites.iter().copied().take(8).collect(),
            name: self.name.clone(),
            locations: self.locations.iter().copied().take(LOCATIONS_MAX).collect(),
        }
    }
}

/// A profile that no hello can express. Nothing was started; change the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The name is too long.
    #[error("the node's name has {bytes} bytes; at most 255 are allowed")]
    Name {
        /// Its bytes.
        bytes: usize,
    },
    /// Too many locations.
    #[error("the node has {count} locations; tell at most 8")]
    Locations {
        /// How many.
        count: usize,
    },
    /// No suite, or too many.
    #[error("{count} suites are allowed; name 1 to 8")]
    Suites {
        /// How many.
        count: usize,
    },
    /// A suite with keys, and no secret to derive them from.
    #[error("the suites need a secret; give one, or allow only `plain` or `tls`")]
    NoSecret,
    /// `plain` beside others: whoever sits in the middle could take the others out of a hello, and nothing would prove it.
    #[error("`plain` is allowed beside other suites; allow it alone, or not at all")]
    PlainBesides,
    /// A flag of the lower half.
    #[error("no flag of the lower 16 bits has a meaning in this version")]
    Flags,
}

/// What a side has of the session that a handshake may resume. Made by the session.
#[derive(Debug, Clone, Default)]
pub struct HeldSession {
    /// The next numbered frame that this side expects; 0 in a new session.
    pub(crate) next: u64,
    pub(crate) keys: SmallVec<[ResumeKey; RESUME_KEYS_MAX]>,
    pub(crate) grip: Hold,
}

/// How firmly a side holds a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hold {
    /// There is no session.
    #[default]
    None,
    /// There is one, but nothing was ever received on it, so it can begin once more.
    Loose,
    /// Something was received: only the side with its resume key may go on with it.
    Firm,
}

impl HeldSession {
    /// Of a side without a session.
    pub fn nothing() -> HeldSession {
        HeldSession::default()
    }
}

/// A proven connection: the keys of both directions, and what both sides said.
#[derive(Debug)]
pub struct ProvenConnection {
    pub(crate) role: HandshakeRole,
    pub(crate) suite: Suite,
    pub(crate) peer: Hello,
    pub(crate) mine: ResumeState,
    /// Whether both sides go on with the session that they have.
    pub(crate) resumes: bool,
    /// The next numbered frame that the peer expects; 0 in a session that begins.
    pub(crate) peer_expects: u64,
    /// Of a session that begins.
    pub(crate) resume_key: Option<ResumeKey>,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

impl ProvenConnection {
    /// What the peer said about itself; proven under every suite but `plain`.
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// The agreed suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Which side of it this is.
    pub fn role(&self) -> HandshakeRole {
        self.role
    }

    /// The epoch of this side's half of the session.
    pub fn epoch(&self) -> u64 {
        self.mine.epoch
    }

    /// Whether both sides go on with the session that they have.
    pub fn resumes(&self) -> bool {
        self.resumes
    }

    /// The dialler's number of this connection.
    pub(crate) fn ordinal(&self) -> u32 {
        match self.role {
            HandshakeRole::Dialler => self.mine.ordinal,
            HandshakeRole::Acceptor => self.peer.resume_state.ordinal,
        }
    }

    fn allowance(limits: &Limits) -> Allowance {
        Allowance { records_max: limits.connection_records_max, bytes_max: limits.connection_bytes_max }
    }
}

/// Why a handshake failed, by whose fault. It is over; write what is in `out`, then close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer broke the protocol.
    #[error("the peer is no Antiphon node, or a broken one: {0}")]
    PeerMisbehaved(#[from] HandshakeFault),
    /// This side refuses the peer, and told it so.
    #[error("refused the peer: {0}")]
    Refused(Refusal),
    /// The peer refuses this side.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(Refusal),
    /// A method was called in a state that it does not belong to.
    #[error("the handshake is not at this step; follow `HandshakeStep`")]
    CallerMisused,
}

/// How a peer broke the protocol in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeFault {
    /// The first bytes are not those of a handshake.
    #[error("its bytes do not begin as a handshake does")]
    NotAntiphon,
    /// More bytes than a handshake may have.
    #[error("its handshake has {length} bytes, more than the 4096 allowed")]
    TooLong {
        /// How many.
        length: usize,
    },
    /// A message that does not parse.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A message at the wrong step.
    #[error("a handshake message came at the wrong step")]
    Unexpected,
    /// An X25519 key that agrees to nothing.
    #[error("its public key agrees to nothing")]
    BadPublicKey,
    /// A version or suite that this side did not name.
    #[error("it chose a version or a suite that was not offered")]
    NotOffered,
}

#[cfg(test)]
mod tests;
