//! The handshake of one connection: two hellos, then two proofs. The dialler's message comes first in both pairs.
//!
//! Each state accepts one message. Any other message, and any bytes that do not parse, end the handshake. Until
//! both proofs are verified, only handshake messages are decoded. All messages of a peer together have at most
//! [`HELLO_BYTES_MAX`](crate::HELLO_BYTES_MAX) bytes.

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

/// The oldest version of the protocol that this crate supports.
pub const VERSION_MIN: u16 = 1;
/// The newest version of the protocol that this crate supports.
pub const VERSION_MAX: u16 = 1;

/// The settings of one node for all of its handshakes.
#[derive(Debug, Clone)]
pub struct Profile {
    /// This incarnation.
    pub node: NodeId,
    /// The node's name, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// The locations at which the node accepts connections, best first; at most [`LOCATIONS_MAX`].
    pub locations: Vec<SocketAddr>,
    /// The allowed suites, best first; at most 8.
    pub suites: Vec<Suite>,
    /// The shared secrets. Without one, only [`Suite::Tls`] and [`Suite::Plain`] are possible.
    pub keyring: Keyring,
    /// Flags such as [`CLOSES_WHEN_IDLE`].
    pub flags: u32,
    /// The limits of sizes, and of the use of keys.
    pub limits: Limits,
}

impl Profile {
    /// Checks that a hello can express this profile. Call it once, when the node starts.
    ///
    /// # Errors
    /// [`ProfileError`], which names the field at fault.
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
        if let Some(suite) = self.suites.iter().find(|suite| suite.is_alone())
            && self.suites.len() > 1
        {
            return Err(ProfileError::NotAlone { suite: *suite });
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
            limits: HelloLimits::from(&self.limits),
            nonce,
            public,
            suites: self.suites.iter().copied().take(8).collect(),
            name: self.name.clone(),
            locations: self.locations.iter().copied().take(LOCATIONS_MAX).collect(),
        }
    }
}

/// Why a profile is refused. Nothing was started; change the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The name is too long.
    #[error("the node's name has {bytes} bytes; at most 255 are allowed")]
    Name {
        /// The length of the name.
        bytes: usize,
    },
    /// There are too many locations.
    #[error("the node has {count} locations; give at most 8")]
    Locations {
        /// The number of locations.
        count: usize,
    },
    /// There is no suite, or there are too many.
    #[error("the node allows {count} suites; allow 1 to 8")]
    Suites {
        /// The number of suites.
        count: usize,
    },
    /// A suite needs keys, but there is no secret from which to derive them.
    #[error("the suites need a secret; give one, or allow only `plain` or `tls`")]
    NoSecret,
    /// `plain` or `tls` is allowed beside other suites. An attacker in the middle could remove those from a hello that offers
    /// `plain`, and no proof would show it. A connection with TLS begins with TLS, so no other suite can be chosen on it.
    #[error("`{suite}` is allowed beside other suites; allow it alone, or not at all")]
    NotAlone {
        /// The suite.
        suite: Suite,
    },
    /// A flag of the lower half is set.
    #[error("a flag of the lower 16 bits is set, but this version defines none; clear it")]
    Flags,
}

/// The session that this side holds and that a handshake may resume. The session creates it.
#[derive(Debug, Clone, Default)]
pub struct HeldSession {
    /// The next numbered frame that this side expects; 0 in a new session.
    pub(crate) next: u64,
    pub(crate) keys: SmallVec<[ResumeKey; RESUME_KEYS_MAX]>,
    pub(crate) hold: Hold,
}

/// Whether a side holds a session, and whether the peer may replace it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hold {
    /// This side has no session with the peer.
    #[default]
    None,
    /// There is a session, but no record of it was received, so it may begin again on another connection.
    Loose,
    /// A record of the session was received. Only a peer with one of its resume keys may continue it.
    Firm,
}

impl HeldSession {
    /// The value for a side without a session.
    pub fn nothing() -> HeldSession {
        HeldSession::default()
    }
}

/// A connection after its handshake: the keys of both directions, and the data of both hellos.
#[derive(Debug)]
pub struct ProvenConnection {
    pub(crate) role: HandshakeRole,
    pub(crate) suite: Suite,
    pub(crate) peer: Hello,
    pub(crate) mine: ResumeState,
    /// Whether both sides continue the session that they hold.
    pub(crate) resumes: bool,
    /// The next numbered frame that the peer expects; 0 in a session that begins.
    pub(crate) peer_expects: u64,
    /// The resume key, if a session begins and its suite has proofs.
    pub(crate) resume_key: Option<ResumeKey>,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

impl ProvenConnection {
    /// The peer's hello. It is proven under every suite except `plain`.
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// The agreed suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The role of this side.
    pub fn role(&self) -> HandshakeRole {
        self.role
    }

    /// The epoch of this side's half of the session.
    pub fn epoch(&self) -> u64 {
        self.mine.epoch
    }

    /// Whether both sides continue the session that they hold.
    pub fn resumes(&self) -> bool {
        self.resumes
    }

    /// The number of this connection in the session, which the dialler chose.
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

/// Why a handshake failed, and which side is at fault. Write the content of `out`, then close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer broke the protocol.
    #[error("the peer is not an Antiphon node, or is faulty: {0}")]
    PeerMisbehaved(#[from] HandshakeFault),
    /// This side refuses the peer, and has put the refusal into `out`.
    #[error("refused the peer: {0}")]
    Refused(Refusal),
    /// The peer refuses this side.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(Refusal),
    /// A method was called at the wrong step.
    #[error("the handshake is not at this step; follow `HandshakeStep`")]
    CallerMisused,
}

/// How a peer broke the protocol in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeFault {
    /// The first bytes are not the magic of a handshake message.
    #[error("its bytes do not begin as a handshake does")]
    NotAntiphon,
    /// The messages of the peer exceed the limit.
    #[error("its handshake has {length} bytes, more than the 4096 allowed")]
    TooLong {
        /// The number of bytes, as far as it is known.
        length: usize,
    },
    /// A message does not parse.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A message arrived at the wrong step.
    #[error("a handshake message arrived at the wrong step")]
    Unexpected,
    /// The X25519 public key has a low order, so the shared bytes are all zero.
    #[error("its public key has a low order")]
    BadPublicKey,
    /// The acceptor chose a version or suite that this side did not offer.
    #[error("it chose a version or a suite that was not offered")]
    NotOffered,
}

#[cfg(test)]
mod tests;
