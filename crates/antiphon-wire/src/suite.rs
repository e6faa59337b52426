//! The suites, which are the ways to protect records, and the keys of one direction.

use ring::{aead, hmac};

/// A way to protect records. The dialler offers suites in order of preference, and the acceptor takes the first
/// that it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Suite {
    /// AES-128-GCM: encrypted and authenticated.
    Aes128Gcm = 1,
    /// ChaCha20-Poly1305: encrypted and authenticated, for machines without AES instructions.
    ChaCha20Poly1305 = 2,
    /// HMAC-SHA256 over readable bytes: authenticated, not encrypted.
    Hmac = 3,
    /// The byte stream is TLS 1.3 already, and the proofs bind its exporter. Records carry no tag of their own.
    Tls = 4,
    /// No protection: for loopback, or where the operator allows it.
    Plain = 5,
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Suite::Aes128Gcm => "aes-128-gcm",
            Suite::ChaCha20Poly1305 => "chacha20-poly1305",
            Suite::Hmac => "hmac",
            Suite::Tls => "tls",
            Suite::Plain => "plain",
        })
    }
}

impl Suite {
    /// The two suites called `aead`, the faster one on this machine first.
    pub fn aead() -> [Suite; 2] {
        if has_aes_instructions() {
            [Suite::Aes128Gcm, Suite::ChaCha20Poly1305]
        } else {
            [Suite::ChaCha20Poly1305, Suite::Aes128Gcm]
        }
    }

    /// Whether both sides send a proof before the first record.
    pub fn is_proven(self) -> bool {
        self != Suite::Plain
    }

    /// Whether a node that offers this suite offers no other one.
    pub(crate) fn is_alone(self) -> bool {
        matches!(self, Suite::Tls | Suite::Plain)
    }

    /// The length of the tag at the end of each record, in bytes.
    pub fn tag_bytes(self) -> usize {
        match self {
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => 16,
            Suite::Hmac => 32,
            Suite::Tls | Suite::Plain => 0,
        }
    }

    /// The length of the key of one direction, in bytes.
    pub(crate) fn key_bytes(self) -> usize {
        match self {
            Suite::Aes128Gcm => 16,
            Suite::ChaCha20Poly1305 | Suite::Hmac => 32,
            Suite::Tls | Suite::Plain => 0,
        }
    }

    /// The suite with this number; `None` for a suite of a later version, which is ignored.
    pub(crate) fn from_number(number: u8) -> Option<Suite> {
        SUITES.iter().copied().find(|suite| *suite as u8 == number)
    }
}

/// The keys of one direction of one connection.
#[derive(Debug)]
pub(crate) enum Protection {
    Aead(Box<aead::LessSafeKey>),
    Hmac(Box<hmac::Key>),
    Unprotected,
}

impl Protection {
    /// Creates the protection of one direction.
    ///
    /// # Panics
    /// If `key` is shorter than the suite's `key_bytes`.
    pub(crate) fn new(suite: Suite, key: &[u8]) -> Protection {
        let aead = |algorithm| {
            let key = aead::UnboundKey::new(algorithm, &key[..suite.key_bytes()]);
            Protection::Aead(Box::new(aead::LessSafeKey::new(
                key.expect("the key has the length of its suite"),
            )))
        };
        match suite {
            Suite::Aes128Gcm => aead(&aead::AES_128_GCM),
            Suite::ChaCha20Poly1305 => aead(&aead::CHACHA20_POLY1305),
            Suite::Hmac => {
                Protection::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &key[..suite.key_bytes()])))
            }
            Suite::Tls | Suite::Plain => Protection::Unprotected,
        }
    }
}

fn has_aes_instructions() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

const SUITES: [Suite; 5] = [Suite::Aes128Gcm, Suite::ChaCha20Poly1305, Suite::Hmac, Suite::Tls, Suite::Plain];
