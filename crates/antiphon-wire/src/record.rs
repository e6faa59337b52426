//! Records: a header, a body of whole frames, and a tag. They are sealed and opened in place.
//!
//! The number of a record is not sent. It is the count of earlier records in the same direction of the same
//! connection, and it is the nonce. So a record does not open if records are lost, repeated, reordered or
//! reflected.

use ring::{aead, hmac};
use subtle::ConstantTimeEq;

use crate::suite::{Protection, Suite};

/// Bytes of the header of a record: length of the rest (u16), version, flags.
pub(crate) const RECORD_HEADER_BYTES: usize = 4;
/// The version of the record format.
pub(crate) const RECORD_VERSION: u8 = 1;

/// Why a record is refused. The connection cannot be used any more: close it, and resume the session over a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is larger than the agreed maximum, or smaller than its own tag.
    #[error(
        "the peer sent a record of {length} bytes, where {least} to {most} are allowed; close the connection"
    )]
    Length {
        /// Bytes of the whole record.
        length: usize,
        /// Bytes of the smallest allowed record.
        least: usize,
        /// Bytes of the largest allowed record.
        most: usize,
    },
    /// The header has another version, or unknown flags.
    #[error(
        "a record has version {version} and flags {flags}, where 1 and 0 were agreed; close the connection"
    )]
    Header {
        /// The received version.
        version: u8,
        /// The received flags.
        flags: u8,
    },
    /// The tag does not verify: the record is damaged or forged, or an earlier one was lost.
    #[error(
        "a record is not authentic: it is damaged or not from the peer; close the connection and dial again"
    )]
    Unauthentic,
    /// The keys of this connection have protected as many records or bytes as they may.
    #[error("the keys of this connection are used up; continue the session over a new connection")]
    Exhausted,
}

/// The number of records and bytes that the keys of one direction may protect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) records_max: u64,
    pub(crate) bytes_max: u64,
}

/// Protects the records of one direction.
#[derive(Debug)]
pub(crate) struct Sealer {
    protection: Protection,
    tag_bytes: usize,
    record_bytes_max: usize,
    allowance: Allowance,
    records: u64,
    bytes: u64,
}

impl Sealer {
    pub(crate) fn new(suite: Suite, key: &[u8], record_bytes_max: usize, allowance: Allowance) -> Sealer {
        let protection = Protection::new(suite, key);
        Sealer { protection, tag_bytes: suite.tag_bytes(), record_bytes_max, allowance, records: 0, bytes: 0 }
    }

    /// The number of bytes of frames that fit into one record.
    #[inline]
    pub(crate) fn body_bytes_max(&self) -> usize {
        self.record_bytes_max - RECORD_HEADER_BYTES - self.tag_bytes
    }

    /// Whether the session needs a new connection: seven eighths of the allowance are used.
    pub(crate) fn needs_renewal(&self) -> bool {
        let is_near = |used: u64, most: u64| used >= most - most / 8;
        is_near(self.records, self.allowance.records_max) || is_near(self.bytes, self.allowance.bytes_max)
    }

    /// Whether another record of the largest size could exceed the allowance.
    pub(crate) fn is_exhausted(&self) -> bool {
        let next = self.bytes.saturating_add(self.record_bytes_max as u64);
        self.records >= self.allowance.records_max || next > self.allowance.bytes_max
    }

    /// Appends space for a header and returns its position. The caller appends the body after it.
    #[inline]
    pub(crate) fn begin(out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        start
    }

    /// Seals the record in `out[start..]`. `start` is the result of [`begin`](Sealer::begin).
    ///
    /// The body has at most `body_bytes_max` bytes, and `is_exhausted` is false.
    ///
    /// # Panics
    /// If the body is so long that the record's length exceeds a u16.
    pub(crate) fn seal(&mut self, out: &mut Vec<u8>, start: usize) {
        let whole = out.len() - start + self.tag_bytes;
        let rest = u16::try_from(whole - RECORD_HEADER_BYTES).expect("a body keeps to body_bytes_max");
        let [low, high] = rest.to_le_bytes();
        let header = [low, high, RECORD_VERSION, 0];
        out[start..start + RECORD_HEADER_BYTES].copy_from_slice(&header);
        let body = &mut out[start + RECORD_HEADER_BYTES..];
        match &self.protection {
            Protection::Aead(key) => {
                let sealed =
                    key.seal_in_place_separate_tag(nonce(self.records), aead::Aad::from(header), body);
                let tag = sealed.expect("an AEAD seals bodies of 64 KiB");
                out.extend_from_slice(tag.as_ref());
            }
            Protection::Hmac(key) => {
                let tag = hmac_tag(key, self.records, header, body);
                out.extend_from_slice(tag.as_ref());
            }
            Protection::Unprotected => {}
        }
        self.records += 1;
        self.bytes += whole as u64;
    }
}

/// Opens the records of one direction.
#[derive(Debug)]
pub(crate) struct Opener {
    protection: Protection,
    tag_bytes: usize,
    record_bytes_max: usize,
    allowance: Allowance,
    records: u64,
    bytes: u64,
}

impl Opener {
    pub(crate) fn new(suite: Suite, key: &[u8], record_bytes_max: usize, allowance: Allowance) -> Opener {
        let protection = Protection::new(suite, key);
        Opener { protection, tag_bytes: suite.tag_bytes(), record_bytes_max, allowance, records: 0, bytes: 0 }
    }

    /// The length of the tag behind the body of a record, in bytes.
    pub(crate) fn tag_bytes(&self) -> usize {
        self.tag_bytes
    }

    /// The length of the whole record with this header, in bytes.
    pub(crate) fn record_bytes(&self, header: [u8; RECORD_HEADER_BYTES]) -> Result<usize, RecordError> {
        let [low, high, version, flags] = header;
        if version != RECORD_VERSION || flags != 0 {
            return Err(RecordError::Header { version, flags });
        }
        let length = RECORD_HEADER_BYTES + usize::from(u16::from_le_bytes([low, high]));
        let (least, most) = (RECORD_HEADER_BYTES + self.tag_bytes, self.record_bytes_max);
        if length < least || length > most {
            return Err(RecordError::Length { length, least, most });
        }
        Ok(length)
    }

    /// Opens a whole record in place and returns its body.
    pub(crate) fn open<'r>(&mut self, record: &'r mut [u8]) -> Result<&'r [u8], RecordError> {
        self.count(record.len())?;
        let number = self.records - 1;
        let (header, sealed) = record.split_first_chunk_mut().ok_or(RecordError::Unauthentic)?;
        let header: [u8; RECORD_HEADER_BYTES] = *header;
        match &self.protection {
            Protection::Aead(key) => {
                let opened = key.open_in_place(nonce(number), aead::Aad::from(header), sealed);
                opened.map(|body| &*body).map_err(|_| RecordError::Unauthentic)
            }
            Protection::Hmac(key) => {
                let split = sealed.len().checked_sub(self.tag_bytes).ok_or(RecordError::Unauthentic)?;
                let (body, tag) = sealed.split_at(split);
                let ours = hmac_tag(key, number, header, body);
                let is_same: bool = ours.as_ref().ct_eq(tag).into();
                if is_same { Ok(body) } else { Err(RecordError::Unauthentic) }
            }
            Protection::Unprotected => Ok(sealed),
        }
    }

    fn count(&mut self, length: usize) -> Result<(), RecordError> {
        let bytes = self.bytes.saturating_add(length as u64);
        if self.records >= self.allowance.records_max || bytes > self.allowance.bytes_max {
            return Err(RecordError::Exhausted);
        }
        self.records += 1;
        self.bytes = bytes;
        Ok(())
    }
}

/// The nonce of a record: four zero bytes, then the record's number as u64.
fn nonce(number: u64) -> aead::Nonce {
    let mut nonce = [0; aead::NONCE_LEN];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    aead::Nonce::assume_unique_for_key(nonce)
}

/// The tag over the record's number as u64, the header, and the body.
fn hmac_tag(key: &hmac::Key, number: u64, header: [u8; RECORD_HEADER_BYTES], body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(&number.to_le_bytes());
    context.update(&header);
    context.update(body);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Suite; 5] =
        [Suite::Aes128Gcm, Suite::ChaCha20Poly1305, Suite::Hmac, Suite::Tls, Suite::Plain];
    const AMPLE: Allowance = Allowance { records_max: 1 << 32, bytes_max: 1 << 38 };

    fn pair(suite: Suite, allowance: Allowance) -> (Sealer, Opener) {
        (Sealer::new(suite, &[9; 32], 65_536, allowance), Opener::new(suite, &[9; 32], 65_536, allowance))
    }

    fn sealed(sealer: &mut Sealer, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0xee; 3];
        let start = Sealer::begin(&mut out);
        out.extend_from_slice(body);
        sealer.seal(&mut out, start);
        out.split_off(start)
    }

    #[test]
    fn record_sealed_opens_under_every_suite() {
        for suite in ALL {
            let (mut sealer, mut opener) = pair(suite, AMPLE);
            let full = vec![7; sealer.body_bytes_max()];
            for body in [b"first".as_slice(), b"", &full] {
                let mut record = sealed(&mut sealer, body);
                let header = *record.first_chunk().expect("a record has a header");
                assert_eq!(opener.record_bytes(header), Ok(record.len()), "{suite:?}");
                assert_eq!(opener.open(&mut record), Ok(body), "{suite:?}");
            }
        }
    }

    #[test]
    fn record_over_limit_is_refused() {
        let opener = Opener::new(Suite::Plain, &[], 40_000, AMPLE);
        let header = |length: u16| {
            let [low, high] = length.to_le_bytes();
            opener.record_bytes([low, high, RECORD_VERSION, 0])
        };
        assert_eq!(header(39_996), Ok(40_000));
        assert_eq!(header(39_997), Err(RecordError::Length { length: 40_001, least: 4, most: 40_000 }));
    }

    #[test]
    fn record_with_flipped_bit_is_unauthentic() {
        for suite in ALL.into_iter().filter(|suite| suite.tag_bytes() > 0) {
            let (mut sealer, _) = pair(suite, AMPLE);
            let record = sealed(&mut sealer, b"body");
            for bit in 0..record.len() * 8 {
                let mut damaged = record.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let (_, mut opener) = pair(suite, AMPLE);
                assert_eq!(opener.open(&mut damaged), Err(RecordError::Unauthentic), "{suite:?} bit {bit}");
            }
        }
    }

    #[test]
    fn record_reordered_or_repeated_is_unauthentic() {
        for suite in ALL.into_iter().filter(|suite| suite.tag_bytes() > 0) {
            let (mut sealer, mut opener) = pair(suite, AMPLE);
            let first = sealed(&mut sealer, b"first");
            let mut second = sealed(&mut sealer, b"second");
            assert_eq!(opener.open(&mut second), Err(RecordError::Unauthentic));
            let (_, mut opener) = pair(suite, AMPLE);
            assert_eq!(opener.open(&mut first.clone()), Ok(b"first".as_slice()));
            assert_eq!(opener.open(&mut first.clone()), Err(RecordError::Unauthentic));
        }
    }

    #[test]
    fn keys_exhausted_are_refused_on_both_sides() {
        let allowance = Allowance { records_max: 8, bytes_max: 1 << 38 };
        let (mut sealer, mut opener) = pair(Suite::Aes128Gcm, allowance);
        for number in 0..8 {
            assert_eq!(sealer.needs_renewal(), number >= 7);
            assert!(!sealer.is_exhausted());
            assert_eq!(opener.open(&mut sealed(&mut sealer, b"x")), Ok(b"x".as_slice()));
        }
        assert!(sealer.is_exhausted());
        assert_eq!(opener.open(&mut sealed(&mut sealer, b"x")), Err(RecordError::Exhausted));
    }

    #[test]
    fn header_wrong_version_or_length_is_refused() {
        let opener = Opener::new(Suite::Aes128Gcm, &[9; 32], 40_000, AMPLE);
        assert_eq!(opener.record_bytes([16, 0, 2, 0]), Err(RecordError::Header { version: 2, flags: 0 }));
        assert_eq!(opener.record_bytes([16, 0, 1, 1]), Err(RecordError::Header { version: 1, flags: 1 }));
        let refused = |length| Err(RecordError::Length { length, least: 20, most: 40_000 });
        assert_eq!(opener.record_bytes([15, 0, 1, 0]), refused(19));
        assert_eq!(opener.record_bytes([0xff, 0xff, 1, 0]), refused(65_539));
        assert_eq!(opener.record_bytes([16, 0, 1, 0]), Ok(20));
    }
}
