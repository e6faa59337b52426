//! The secrets that a node knows: one that it uses, and others that it accepts while a cluster changes its secret.
//!
//! Invariant: the secret in use is one of the secrets; without a secret the ring is empty, and its key id is 0.

use std::collections::BTreeMap;

use crate::datagram::DatagramKey;
use crate::secret::Secret;

/// Secrets by their key ids.
///
/// A node dials and announces under one of them, and lets peers in under any. So a secret can be changed while a cluster
/// runs, one node at a time: first every node accepts the new one, then every node uses it, then every node forgets the old.
///
/// ```
/// use antiphon_wire::Keyring;
///
/// let changing = Keyring::new(1, "old".into()).accepting(2, "new".into());
/// assert_eq!(changing.key_id(), 1);
/// assert!(changing.knows(2) && !changing.knows(3));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    used: u32,
    secrets: BTreeMap<u32, Secret>,
}

impl Keyring {
    /// Without a secret: for the suites that do without, `plain` and `tls`.
    pub fn none() -> Keyring {
        Keyring::default()
    }

    /// One secret, which is used and accepted.
    pub fn new(id: u32, secret: Secret) -> Keyring {
        Keyring { used: id, secrets: BTreeMap::from([(id, secret)]) }
    }

    /// Accepts a further secret. An id that the ring has already keeps its secret; an empty ring stays empty, since a
    /// node that proves nothing itself cannot demand a proof.
    pub fn accepting(mut self, id: u32, secret: Secret) -> Keyring {
        if !self.is_empty() {
            self.secrets.entry(id).or_insert(secret);
        }
        self
    }

    /// The id of the secret in use; 0 without one.
    pub fn key_id(&self) -> u32 {
        self.used
    }

    /// Whether a peer may come under this id.
    pub fn knows(&self, id: u32) -> bool {
        self.secrets.contains_key(&id) || (self.is_empty() && id == self.used)
    }

    /// Whether there is no secret.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// What authenticates datagrams: those sent under the secret in use, those received under any. `None` without a
    /// secret.
    pub fn datagram_key(&self) -> Option<DatagramKey> {
        let key = DatagramKey::new(self.used, self.secrets.get(&self.used)?);
        let others = self.secrets.iter().filter(|(id, _)| **id != self.used);
        Some(others.fold(key, |key, (id, secret)| key.accepting(*id, secret)))
    }

    /// The secret of this id.
    pub(crate) fn secret(&self, id: u32) -> Option<&Secret> {
        self.secrets.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_first_secret_of_an_id_and_an_empty_one_stays_empty() {
        let ring = Keyring::new(1, "one".into()).accepting(2, "two".into()).accepting(1, "other".into());
        assert_eq!(ring.secret(1), Some(&"one".into()));
        assert_eq!(ring.secret(2), Some(&"two".into()));
        assert_eq!((ring.key_id(), ring.knows(0)), (1, false));
        let none = Keyring::none().accepting(1, "one".into());
        assert!(none.is_empty() && none.knows(0) && !none.knows(1));
    }

    #[test]
    fn debug_shows_ids_and_nothing_of_the_secrets() {
        let ring = Keyring::new(1, "hush".into()).accepting(2, "quiet".into());
        let shown = format!("{ring:?} {:?}", ring.datagram_key());
        assert!(!shown.contains("hush") && !shown.contains("quiet"), "{shown}");
    }
}
