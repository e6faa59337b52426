//! The shared secret that makes nodes peers.
//!
//! A secret proves membership, not which member. It never appears in `Debug`, in errors or on the wire.

#[cfg(feature = "system-secrets")]
mod source;
#[cfg(feature = "system-secrets")]
pub use source::{EnvironmentFault, FileFault, SecretError};

use std::fmt;

use ring::digest;
use zeroize::{Zeroize, Zeroizing};

/// A shared secret: any text, or better one made by [`Secret::from_random`].
///
/// A *strong* secret is `antiphon-`, 43 base64url characters (32 random bytes) and 6 of a checksum. Anything else, like
/// `key`, can be found by guessing against a recording of a datagram, and is for loopback.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: Zeroizing<String>,
}

impl Secret {
    /// The strong secret that stands for 32 random bytes.
    pub fn from_random(mut bytes: [u8; 32]) -> Secret {
        let mut text = Zeroizing::new(String::with_capacity(STRONG_BYTES));
        text.push_str(PREFIX);
        push_base64url(&mut text, &bytes);
        let sum = checksum(&text);
        text.push_str(&sum);
        bytes.zeroize();
        Secret { text }
    }

    /// A strong secret from the system's randomness.
    ///
    /// # Errors
    /// [`NoRandomness`](crate::NoRandomness) if the system has none to give.
    #[cfg(feature = "system-random")]
    pub fn generate() -> Result<Secret, crate::NoRandomness> {
        let random = ring::rand::SystemRandom::new();
        let mut bytes = [0; 32];
        ring::rand::SecureRandom::fill(&random, &mut bytes).map_err(|_| crate::NoRandomness)?;
        Ok(Secret::from_random(bytes))
    }

    /// Whether this secret has the strong form, checksum included.
    pub fn is_strong(&self) -> bool {
        let Some((body, sum)) = self.text.split_at_checked(PREFIX.len() + RANDOM_CHARS) else { return false };
        body.strip_prefix(PREFIX).is_some_and(|random| random.bytes().all(is_base64url))
            && checksum(body) == *sum
    }

    /// The text itself, to print for the operator who asked for a new secret. Keep it out of logs.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret { text: Zeroizing::new(text.to_owned()) }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret { text: Zeroizing::new(text) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The first 36 bits of the SHA-256 of everything before it: a typing error passes once in 69 thousand million.
fn checksum(body: &str) -> String {
    let digest = digest::digest(&digest::SHA256, body.as_bytes());
    let mut sum = String::new();
    push_base64url(&mut sum, &digest.as_ref()[..6]);
    sum.truncate(CHECKSUM_CHARS);
    sum
}

/// Appends base64url (RFC 4648 section 5) without padding.
fn push_base64url(text: &mut String, bytes: &[u8]) {
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for i in 0..=chunk.len() {
            let index = (bits >> (18 - 6 * i)) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

const PREFIX: &str = "antiphon-";
const RANDOM_CHARS: usize = 43;
const CHECKSUM_CHARS: usize = 6;
const STRONG_BYTES: usize = PREFIX.len() + RANDOM_CHARS + CHECKSUM_CHARS;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_that_of_the_rfc() {
        let encoded = |bytes: &[u8]| {
            let mut text = String::new();
            push_base64url(&mut text, bytes);
            text
        };
        assert_eq!(encoded(b""), "");
        assert_eq!(encoded(b"f"), "Zg");
        assert_eq!(encoded(b"fo"), "Zm8");
        assert_eq!(encoded(b"foobar"), "Zm9vYmFy");
        assert_eq!(encoded(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn a_secret_from_random_bytes_is_strong_and_one_changed_letter_makes_it_weak() {
        let secret = Secret::from_random([7; 32]);
        assert_eq!(secret.reveal().len(), STRONG_BYTES);
        assert!(secret.is_strong());
        let typo = secret.reveal().replacen("BwcH", "BwcJ", 1);
        assert_ne!(typo, secret.reveal());
        assert!(!Secret::from(typo).is_strong());
    }

    #[test]
    fn words_and_multibyte_text_are_weak() {
        assert!(!Secret::from("key").is_strong());
        assert!(!Secret::from("").is_strong());
        assert!(!Secret::from("é".repeat(29)).is_strong());
    }

    #[test]
    fn debug_shows_nothing_of_the_secret() {
        assert_eq!(format!("{:?}", Secret::from("hush")), "Secret");
    }
}
