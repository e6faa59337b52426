//! The secrets of a node: the one that it uses, and others that it also accepts while a cluster changes its secret.
//!
//! Invariant: the secret in use is one of the accepted secrets. Without a secret the keyring is empty and its key
//! id is 0.

use std::collections::BTreeMap;

use crate::datagram::DatagramKey;
use crate::secret::Secret;

/// Secrets by key id.
///
/// A node dials and announces under one of them, and accepts peers under any of them. So the secret of a running
/// cluster can be changed one node at a time: first every node accepts the new secret, then every node uses it,
/// then every node drops the old one.
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
    /// A keyring without secrets, for the suites that need none: `plain` and `tls`.
    pub fn none() -> Keyring {
        Keyring::default()
    }

    /// A keyring with one secret, which is used and accepted.
    pub fn new(id: u32, secret: Secret) -> Keyring {
        Keyring { used: id, secrets: BTreeMap::from([(id, secret)]) }
    }

    /// Also accepts another secret. An id that is present already keeps its secret. An empty keyring stays empty,
    /// because a node that proves nothing itself cannot demand a proof.
    pub fn accepting(mut self, id: u32, secret: Secret) -> Keyring {
        if !self.is_empty() {
            self.secrets.entry(id).or_insert(secret);
        }
        self
    }

    /// The id of the secret in use; 0 if there is none.
    pub fn key_id(&self) -> u32 {
        self.used
    }

    /// Whether a peer may use this key id.
    pub fn knows(&self, id: u32) -> bool {
        self.secrets.contains_key(&id) || (self.is_empty() && id == self.used)
    }

    /// Whether there is no secret.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The key that authenticates datagrams. It signs under the secret in use, and verifies under any secret.
    /// `None` without a secret.
    pub fn datagram_key(&self) -> Option<DatagramKey> {
        let key = DatagramKey::new(self.used, self.secrets.get(&self.used)?);
        let others = self.secrets.iter().filter(|(id, _)| **id != self.used);
        Some(others.fold(key, |key, (id, secret)| key.accepting(*id, secret)))
    }

    /// The secret with this id.
    pub(crate) fn secret(&self, id: u32) -> Option<&Secret> {
        self.secrets.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyring_keeps_first_secret_of_id() {
        let ring = Keyring::new(1, "one".into()).accepting(2, "two".into()).accepting(1, "other".into());
        assert_eq!(ring.secret(1), Some(&"one".into()));
        assert_eq!(ring.secret(2), Some(&"two".into()));
        assert_eq!((ring.key_id(), ring.knows(0)), (1, false));
        let none = Keyring::none().accepting(1, "one".into());
        assert!(none.is_empty() && none.knows(0) && !none.knows(1));
    }

    #[test]
    fn keyring_debug_hides_secrets() {
        let ring = Keyring::new(1, "hush".into()).accepting(2, "quiet".into());
        let shown = format!("{ring:?} {:?}", ring.datagram_key());
        assert!(shown.contains("Secret") && shown.contains('2'), "{shown}");
        assert!(!shown.contains("hush") && !shown.contains("quiet"), "{shown}");
    }
}
