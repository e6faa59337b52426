//! By what a certificate is named: its SHA-256, as `openssl x509 -fingerprint -sha256` prints it.
//!
//! Invariant: it is made of the whole certificate, so whoever presents one with the same has that very certificate, and, since
//! TLS wants a signature, its key.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use thiserror::Error;

use super::{TlsError, certificates};

/// The SHA-256 of a certificate.
///
/// It is written and read as pairs of hexadecimal digits, with colons between them; `openssl x509 -in node.pem -noout
/// -fingerprint -sha256` prints it so, and what stands before its `=` is passed over.
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

/// Why a text is no fingerprint.
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

    /// That of the first certificate in a PEM file: the node's own, where others stand behind it.
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate.
    pub fn of_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        let path = path.as_ref();
        let found = certificates(path)?;
        let first = found.first().ok_or_else(|| TlsError::NoCertificate { file: path.to_owned() })?;
        Ok(Self::of(first))
    }

    /// That of a certificate in DER.
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
    fn a_fingerprint_is_read_as_it_is_written_with_colons_and_without_in_any_case() {
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
    fn the_hash_is_sha_256() {
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of_nothing.parse(), Ok(Fingerprint::of(b"")));
    }
}
