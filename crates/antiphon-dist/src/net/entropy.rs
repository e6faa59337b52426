//! The entropy of handshakes, from the random numbers of the system.

use antiphon_wire::Entropy;
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::{SecureRandom, SystemRandom};

/// Draws the entropy of one handshake from the random numbers of the system. For drivers of a
/// [`NodeCore`](crate::node::NodeCore): their own, or those of tests.
///
/// # Errors
/// [`NoRandomness`] if the system supplies no random bytes.
pub fn system_entropy() -> Result<Entropy, NoRandomness> {
    let DrawnKeys { nonce, public, private } = DrawnKeys::draw()?;
    Ok(Entropy::new(nonce, public, move |peer| agree(private, peer)))
}

/// The random values of one handshake.
struct DrawnKeys {
    nonce: [u8; 32],
    public: [u8; 32],
    private: EphemeralPrivateKey,
}

impl DrawnKeys {
    fn draw() -> Result<Self, NoRandomness> {
        let random = SystemRandom::new();
        let mut nonce = [0; 32];
        random.fill(&mut nonce).map_err(|_| NoRandomness)?;
        let private = EphemeralPrivateKey::generate(&X25519, &random).map_err(|_| NoRandomness)?;
        let computed = private.compute_public_key().map_err(|_| NoRandomness)?;
        let mut public = [0; 32];
        public.copy_from_slice(computed.as_ref());
        Ok(Self { nonce, public, private })
    }
}

/// The bytes that both sides share; `None` for a key of low order.
fn agree(private: EphemeralPrivateKey, peer: &[u8; 32]) -> Option<[u8; 32]> {
    let peer = UnparsedPublicKey::new(&X25519, peer);
    agree_ephemeral(private, &peer, |shared| <[u8; 32]>::try_from(shared).ok()).ok()?
}

/// The system supplied no random bytes, so nothing was started. Without them no key is secret; do not continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system supplied no random bytes; check that /dev/urandom or getrandom works, then start again")]
pub struct NoRandomness;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_entropies_agree_and_differ() -> Result<(), NoRandomness> {
        let (a, b) = (DrawnKeys::draw()?, DrawnKeys::draw()?);
        assert_ne!(a.nonce, b.nonce);
        assert_ne!(a.public, b.public);
        let shared = agree(a.private, &b.public);
        assert!(shared.is_some());
        assert_eq!(shared, agree(b.private, &a.public));
        Ok(())
    }

    #[test]
    fn low_order_key_yields_no_agreement() -> Result<(), NoRandomness> {
        assert_eq!(agree(DrawnKeys::draw()?.private, &[0; 32]), None);
        Ok(())
    }
}
