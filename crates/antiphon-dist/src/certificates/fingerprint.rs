//! The fingerprint of a certificate: its SHA-256, as `openssl x509 -fingerprint -sha256` prints it.
//!
//! Invariant: the hash covers the whole certificate. So a peer with the same fingerprint has the same certificate, and,
//! since TLS requires a signature, its key.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use thiserror::Error;

use super::{TlsError, certificates};

/// The SHA-256 of a certificate.
///
/// Its text is pairs of hexadecimal digits with colons between them, as `openssl x509 -in node.pem -noout -fingerprint
/// -sha256` prints it. Parsing skips all text up to the last `=`, and accepts the digits without colons.
///
/// ```
/// use antiphon_dist::Fingerprint;
///
/// let text = ["AB"; 32].join(":");
/// let fingerprint: Fingerprint = format!("sha256 Fingerprint={text}").parse()?;
/// assert_eq!(fingerprint.to_string(), text);
/// # Ok::<(), antiphon_dist::FingerprintError>(())
/// ```
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// The error for a text that is not a fingerprint.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a fingerprint is 64 hexadecimal digits, with or without colons; print one with `openssl x509 -in FILE -noout \
     -fingerprint -sha256`"
)]
pub struct FingerprintError;

impl Fingerprint {
    /// The fingerprint with these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The fingerprint of the first certificate in a PEM file. In a file with CA certificates, the first is the node's own.
    ///
    /// # Errors
    /// The file cannot be read, or contains no certificate.
    pub fn of_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        let path = path.as_ref();
        let found = certificates(path)?;
        let first = found.first().ok_or_else(|| TlsError::NoCertificate { file: path.to_owned() })?;
        Ok(Self::of(first))
    }

    /// The fingerprint of a certificate in DER.
    pub(crate) fn of(certificate: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits = text.rsplit_once('=').map_or(text, |(_, digits)| digits).trim();
        let mut digits = digits.chars().filter(|digit| *digit != ':').map(|digit| digit.to_digit(16));
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(FingerprintError);
            };
            *byte = (high << 4 | low) as u8;
        }
        if digits.next().is_some() { Err(FingerprintError) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            let colon = if place == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_parses_its_text_with_and_without_colons() {
        let bytes = std::array::from_fn(|at| (at * 9) as u8);
        let written = Fingerprint::from_bytes(bytes).to_string();
        for text in
            [written.clone(), written.replace(':', ""), written.to_lowercase(), format!("{written}\n")]
        {
            assert_eq!(text.parse(), Ok(Fingerprint::from_bytes(bytes)), "{text}");
        }
        for text in ["", "AB", &written[3..], &format!("{written}:00"), &written.replace('1', "g")] {
            assert_eq!(text.parse::<Fingerprint>(), Err(FingerprintError), "{text}");
        }
    }

    #[test]
    fn fingerprint_of_empty_input_is_known_sha256() {
        let of_empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of_empty.parse(), Ok(Fingerprint::of(b"")));
    }
}
