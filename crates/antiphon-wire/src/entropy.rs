//! The entropy of a handshake: a nonce and one key agreement, supplied by the caller.

use std::fmt;

/// The random values that one side of one handshake consumes: a nonce, an X25519 public key, and the key agreement
/// that the private key performs once.
///
/// [`Entropy::system`] draws real random values. Only simulators and test vectors use fixed values
/// ([`Entropy::new`]): two connections with the same values share their keys.
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

    /// Draws an `Entropy` from the random numbers of the system.
    ///
    /// # Errors
    /// [`NoRandomness`] if the system supplies no random bytes.
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
        f.write_str("Entropy")
    }
}

/// The system supplied no random bytes, so nothing was started. Without them no key is secret; do not continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system supplied no random bytes; check that /dev/urandom or getrandom works, then start again")]
pub struct NoRandomness;

#[cfg(all(test, feature = "system-random"))]
mod tests {
    use super::*;

    #[test]
    fn system_entropies_agree_and_differ() -> Result<(), NoRandomness> {
        let (a, b) = (Entropy::system()?, Entropy::system()?);
        let (public_a, public_b) = (a.public, b.public);
        assert_ne!(a.nonce, b.nonce);
        assert_ne!(public_a, public_b);
        let shared = (a.agreement)(&public_b);
        assert!(shared.is_some());
        assert_eq!(shared, (b.agreement)(&public_a));
        Ok(())
    }

    #[test]
    fn low_order_key_yields_no_agreement() -> Result<(), NoRandomness> {
        assert_eq!((Entropy::system()?.agreement)(&[0; 32]), None);
        Ok(())
    }
}
