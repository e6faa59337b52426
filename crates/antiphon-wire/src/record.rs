//! Records: a header, a body of whole frames, a tag; sealed and opened in place.
//!
//! The number of a record is not sent: it is the count of records before it in that direction of that connection, and the
//! nonce. So a record that is lost, repeated, moved or reflected does not open.

use ring::{aead, hmac};
use subtle::ConstantTimeEq;

use crate::suite::{Protection, Suite};

/// Bytes of a record's header: length of what follows (u16), version, flags.
pub(crate) const RECORD_HEADER_BYTES: usize = 4;
/// The version of the record format.
pub(crate) const RECORD_VERSION: u8 = 1;

/// Why a record is refused. The connection is of no use any more: close it, and let the session dial another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is larger than this side told that it takes, or smaller than its own tag.
    #[error(
        "the peer sent a record of {length} bytes, where {least} to {most} are allowed; close the connection"
    )]
    Length {
        /// Bytes of the whole record.
        length: usize,
        /// Bytes of the smallest.
        least: usize,
        /// Bytes of the largest.
        most: usize,
    },
    /// The header is not one of this version.
    #[error(
        "a record has version {version} and flags {flags}, where 1 and 0 were agreed; close the connection"
    )]
    Header {
        /// As sent.
        version: u8,
        /// As sent.
        flags: u8,
    },
    /// The tag does not fit: damage, loss, or another sender.
    #[error("a record is not authentic: damaged, or not from the peer; close the connection and dial again")]
    Unauthentic,
    /// The keys of this connection have protected as much as they may.
    #[error("the keys of this connection are used up; continue the session over a new connection")]
    Exhausted,
}

/// What the keys of one direction have protected, and how much they may.
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

    /// Bytes of frames that one record takes.
    #[inline]
    pub(crate) fn body_bytes_max(&self) -> usize {
        self.record_bytes_max - RECORD_HEADER_BYTES - self.tag_bytes
    }

    /// Whether it is time for a new connection: seven eighths of the allowance are used.
    pub(crate) fn is_worn(&self) -> bool {
        let worn = |used: u64, most: u64| used >= most - most / 8;
        worn(self.records, self.allowance.records_max) || worn(self.bytes, self.allowance.bytes_max)
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        let next = self.bytes.saturating_add(self.record_bytes_max as u64);
        self.records >= self.allowance.records_max || next > self.allowance.bytes_max
    }

    /// Puts the place of a header; the body is to be appended after it.
    #[inline]
    pub(crate) fn begin(out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        start
    }

    /// Seals `out[start..]`, whose header place and body [`begin`](Sealer::begin) and the caller put there.
    ///
    /// The caller keeps to `body_bytes_max`, and asked `is_exhausted` before.
    pub(crate) fn seal(&mut self, out: &mut Vec<u8>, start: usize) {
        let whole = out.len() - start + self.tag_bytes;
        let follows = u16::try_from(whole - RECORD_HEADER_BYTES).expect("a body keeps to body_bytes_max");
        let [low, high] = follows.to_le_bytes();
        let header = [low, high, RECORD_VERSION, 0];
        out[start..start + RECORD_HEADER_BYTES].copy_from_slice(&header);
        let body = &mut out[start + RECORD_HEADER_BYTES..];
        match &self.protection {
            Protection::Aead(key) => {
                let sealed =
                    key.seal_in_place_separate_tag(nonce(self.records), aead::Aad::from(header), body);
                let tag = sealed.expect("a body of 64 KiB is within what an AEAD seals");
                out.extend_from_slice(tag.as_ref());
            }
            Protection::Hmac(key) => {
                let tag = hmac_tag(key, self.records, header, body);
                out.extend_from_slice(tag.as_ref());
            }
            Protection::Bare => {}
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

    /// Bytes of the whole record that this header begins.
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

    /// Opens a whole record in place and answers its body.
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
            Protection::Bare => Ok(sealed),
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

/// Four zero bytes, and the record's number as u64.
fn nonce(number: u64) -> aead::Nonce {
    let mut nonce = [0; aead::NONCE_LEN];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    aead::Nonce::assume_unique_for_key(nonce)
}

/// Over the record's number as u64, the header, and the body.
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
    fn what_is_sealed_opens_in_order_under_every_suite() {
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
    fn every_flipped_bit_is_seen_by_the_suites_with_a_tag() {
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
    fn a_record_out_of_its_place_does_not_open() {
        for suite in ALL.into_iter().filter(|suite| suite.tag_bytes() > 0) {
            let (mut sealer, mut opener) = pair(suite, AMPLE);
            let first = sealed(&mut sealer, b"first");
            let mut second = sealed(&mut sealer, b"second");
            assert_eq!(opener.open(&mut second), Err(RecordError::Unauthentic));
            let (_, mut opener) = pair(suite, AMPLE);
            assert!(opener.open(&mut first.clone()).is_ok());
            assert_eq!(opener.open(&mut first.clone()), Err(RecordError::Unauthentic));
        }
    }

    #[test]
    fn keys_wear_out_and_are_then_refused_on_both_sides() {
        let allowance = Allowance { records_max: 8, bytes_max: 1 << 38 };
        let (mut sealer, mut opener) = pair(Suite::Aes128Gcm, allowance);
        for number in 0..8 {
            assert_eq!(sealer.is_worn(), number >= 7);
            assert!(!sealer.is_exhausted());
            assert!(opener.open(&mut sealed(&mut sealer, b"x")).is_ok());
        }
        assert!(sealer.is_exhausted());
        assert_eq!(opener.open(&mut sealed(&mut sealer, b"x")), Err(RecordError::Exhausted));
    }

    #[test]
    fn a_header_of_another_version_or_a_length_beyond_the_limits_is_refused() {
        let opener = Opener::new(Suite::Aes128Gcm, &[9; 32], 40_000, AMPLE);
        assert_eq!(opener.record_bytes([16, 0, 2, 0]), Err(RecordError::Header { version: 2, flags: 0 }));
        assert_eq!(opener.record_bytes([16, 0, 1, 1]), Err(RecordError::Header { version: 1, flags: 1 }));
        assert!(matches!(opener.record_bytes([15, 0, 1, 0]), Err(RecordError::Length { length: 19, .. })));
        assert!(matches!(opener.record_bytes([0xff, 0xff, 1, 0]), Err(RecordError::Length { .. })));
        assert_eq!(opener.record_bytes([16, 0, 1, 0]), Ok(20));
    }
}
