//! What a handshake needs of chance: a nonce and one key agreement, brought by the caller.

use std::fmt;

/// The chance that one side of one handshake uses up: a nonce, an X25519 public key, and the agreement that its private
/// half can make once.
///
/// [`Entropy::system`] draws a real one. A simulator and the vectors bring a deterministic one with [`Entropy::new`]; nothing
/// else may, because two connections with the same `Entropy` share their keys.
pub struct Entropy {
    pub(crate) nonce: [u8; 32],
    pub(crate) public: [u8; 32],
    pub(crate) agreement: Agreement,
}

pub(crate) type Agreement = Box<dyn FnOnce(&[u8; 32]) -> Option<[u8; 32]> + Send>;

impl Entropy {
    /// A `Entropy` from its parts. `agree` turns the peer's public key into the shared 32 bytes, or answers `None` for a key
    /// that agrees to nothing (all zero result, RFC 7748 section 6.1).
    pub fn new(
        nonce: [u8; 32],
        public: [u8; 32],
        agree: impl FnOnce(&[u8; 32]) -> Option<[u8; 32]> + Send + 'static,
    ) -> Entropy {
        Entropy { nonce, public, agreement: Box::new(agree) }
    }

    /// A `Entropy` from the system's randomness.
    ///
    /// # Errors
    /// [`NoRandomness`] if the system has none to give.
    #[cfg(feature = "system-random")]
    pub fn system() -> Result<Entropy, NoRandomness> {
        use ring::{agreement, rand, rand::SecureRandom};

        let random = rand::SystemRandom::new();
        let mut nonce = [0; 32];
        random.fill(&mut nonce).map_err(|_| NoRandomness)?;
        let private = agreement::EphemeralPrivateKey::generate(&agreement::X25519, &random);
        let private = private.map_err(|_| NoRandomness)?;
        let computed = private.compute_public_key().map_err(|_| NoRandomness)?;
        let mut public = [0; 32];
        public.copy_from_slice(computed.as_ref());
        Ok(Entropy::new(nonce, public, move |peer| {
            let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, peer);
            agreement::agree_ephemeral(private, &peer, |shared| <[u8; 32]>::try_from(shared).ok()).ok()?
        }))
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fresh")
    }
}

/// The system gave no randomness; nothing was started. Without it no secret can be kept, so do not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes; see that /dev/urandom or getrandom works, then start again")]
pub struct NoRandomness;

#[cfg(all(test, feature = "system-random"))]
mod tests {
    use super::*;

    #[test]
    fn two_fresh_ones_agree_and_differ() -> Result<(), NoRandomness> {
        let (a, b) = (Entropy::system()?, Entropy::system()?);
        let (public_a, public_b) = (a.public, b.public);
        assert_ne!(a.nonce, b.nonce);
        assert_eq!((a.agreement)(&public_b), (b.agreement)(&public_a));
        Ok(())
    }

    #[test]
    fn a_key_of_low_order_agrees_to_nothing() -> Result<(), NoRandomness> {
        assert_eq!((Entropy::system()?.agreement)(&[0; 32]), None);
        Ok(())
    }
}
