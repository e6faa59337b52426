//! The entropy of a handshake: a nonce and one key agreement, supplied by the caller.

use std::fmt;

/// The random values that one side of one handshake consumes: a nonce, an X25519 public key, and the key agreement
/// that the private key performs once.
///
/// The driver of a node draws them from the random numbers of its system. Only simulators and test vectors use fixed
/// values: two connections with the same values share their keys.
pub struct Entropy {
    pub(crate) nonce: [u8; 32],
    pub(crate) public: [u8; 32],
    pub(crate) agreement: Agreement,
}

pub(crate) type Agreement = Box<dyn FnOnce(&[u8; 32]) -> Option<[u8; 32]> + Send>;

impl Entropy {
    /// Creates an `Entropy` from its parts.
    ///
    /// `agree` turns the peer's public key into the 32 shared bytes. It returns `None` for a key of low order: the
    /// shared bytes are then all zero (RFC 7748, section 6.1).
    pub fn new(
        nonce: [u8; 32],
        public: [u8; 32],
        agree: impl FnOnce(&[u8; 32]) -> Option<[u8; 32]> + Send + 'static,
    ) -> Entropy {
        Entropy { nonce, public, agreement: Box::new(agree) }
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}
