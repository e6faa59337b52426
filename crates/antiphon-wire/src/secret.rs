//! The secret that the nodes of a cluster share.
//!
//! A secret proves that a node is a member, not which member it is. It never appears in `Debug`, in errors or on
//! the wire.

use std::fmt;

use ring::digest;
use zeroize::{Zeroize, Zeroizing};

/// A shared secret: any text, preferably a strong one.
///
/// A *strong* secret is `antiphon-`, 43 base64url characters (32 random bytes) and a checksum of 6 characters. Use
/// any other text, such as `key`, only on loopback: guesses can be tested against a recorded datagram.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: Zeroizing<String>,
}

impl Secret {
    /// Encodes 32 random bytes as a strong secret.
    pub fn from_random(mut bytes: [u8; 32]) -> Secret {
        let mut text = Zeroizing::new(String::with_capacity(STRONG_BYTES));
        text.push_str(PREFIX);
        push_base64url(&mut text, &bytes);
        let sum = checksum(&text);
        text.push_str(&sum);
        bytes.zeroize();
        Secret { text }
    }

    /// Whether this secret has the strong form with a correct checksum.
    pub fn is_strong(&self) -> bool {
        let Some((body, sum)) = self.text.split_at_checked(PREFIX.len() + RANDOM_CHARS) else { return false };
        body.strip_prefix(PREFIX).is_some_and(|random| random.bytes().all(is_base64url))
            && checksum(body) == *sum
    }

    /// Whether this secret begins as a strong one, and is none: it has lost or gained characters.
    pub fn is_damaged(&self) -> bool {
        self.text.starts_with(PREFIX) && !self.is_strong()
    }

    /// The text of the secret, to print for the operator that generates one. Do not log it.
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

/// The first 36 bits of the SHA-256 of `body`. A typing error passes with a probability of 1 in 69 thousand million.
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
    fn base64url_matches_rfc_4648() {
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
    fn strong_secret_with_typo_is_weak() {
        let secret = Secret::from_random([7; 32]);
        assert_eq!(secret.reveal().len(), STRONG_BYTES);
        assert!(secret.is_strong());
        let typo = secret.reveal().replacen("BwcH", "BwcJ", 1);
        assert_ne!(typo, secret.reveal());
        let typo = Secret::from(typo);
        assert!(!typo.is_strong() && typo.is_damaged() && !secret.is_damaged());
    }

    #[test]
    fn short_or_multibyte_text_is_weak() {
        assert!(!Secret::from("key").is_strong() && !Secret::from("key").is_damaged());
        assert!(!Secret::from("").is_strong());
        assert!(!Secret::from("é".repeat(29)).is_strong());
    }

    #[test]
    fn secret_debug_hides_text() {
        assert_eq!(format!("{:?}", Secret::from("hush")), "Secret");
    }
}
