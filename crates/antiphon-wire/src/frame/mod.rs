//! Frames: the units of the protocol, their numbers, and their one form in bytes.
//!
//! A frame is a header of four bytes (kind, flags, length of the payload as u16) and the payload. Kinds below
//! [`NUMBERED_FROM`] are *control*: they carry no frame number, cost no credit, are not repeated over a new connection and
//! may overtake. All others are *numbered*: the n-th numbered frame of a session is frame n, in each direction.

mod codes;
mod table;

pub use codes::{CloseReason, DownReason, FragmentPart, GoodbyeReason, LookupResult, NameSpace, Outcome};
pub use table::*;

use crate::bytes::{Malformed, Reader};

/// The first numbered kind.
pub const NUMBERED_FROM: u8 = 0x20;
/// Flag: whoever does not know this kind skips the frame (and counts it, if it is numbered).
pub const MAY_IGNORE: u8 = 0x01;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 4;

/// One frame as it lies in a record: the header read, the payload not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// What kind of frame.
    pub kind: u8,
    /// [`MAY_IGNORE`] or nothing.
    pub flags: u8,
    /// What the kind says.
    pub payload: &'a [u8],
}

impl<'a> RawFrame<'a> {
    /// Takes the next frame off the front of a record's body; `None` at its end.
    ///
    /// # Errors
    /// [`Malformed`] if the body ends within a frame.
    #[inline]
    pub fn take_from(body: &mut &'a [u8]) -> Result<Option<RawFrame<'a>>, Malformed> {
        if body.is_empty() {
            return Ok(None);
        }
        let mut reader = Reader::new(body);
        let [kind, flags, low, high] = reader.array("frame header")?;
        let payload = reader.slice("frame payload", u16::from_le_bytes([low, high]).into())?;
        *body = reader.rest();
        Ok(Some(RawFrame { kind, flags, payload }))
    }

    /// Whether the frame has a number, costs credit and survives its connection.
    #[inline]
    pub fn is_numbered(&self) -> bool {
        self.kind >= NUMBERED_FROM
    }

    /// Header and payload.
    #[inline]
    pub fn bytes_len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Reads the payload; `None` if the kind is unknown and may be ignored.
    ///
    /// # Errors
    /// [`Malformed`] if the payload is not what its kind says, or the kind is unknown and matters.
    #[inline]
    pub fn decode(&self) -> Result<Option<Frame<'a>>, Malformed> {
        match Frame::decode(self.kind, self.payload)? {
            Some(frame) => Ok(Some(frame)),
            None if self.flags & MAY_IGNORE != 0 => Ok(None),
            None => Err(Malformed::Unknown { field: "frame kind", value: self.kind.into() }),
        }
    }
}

impl Frame<'_> {
    /// Appends header and payload.
    ///
    /// # Errors
    /// [`FrameTooLarge`], and nothing appended, if the payload exceeds 65,535 bytes. (A session sends what exceeds
    /// [`FRAGMENT_BYTES_MAX`](crate::FRAGMENT_BYTES_MAX) in fragments.)
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
        let size = self.payload_size();
        let length = u16::try_from(size).map_err(|_| FrameTooLarge { size })?;
        self.put_with_header(length, out);
        Ok(())
    }

    #[inline]
    pub(crate) fn put_with_header(&self, length: u16, out: &mut Vec<u8>) {
        let [low, high] = length.to_le_bytes();
        let before = out.len();
        out.extend_from_slice(&[self.kind(), self.flags(), low, high]);
        self.put_payload(out);
        debug_assert_eq!(
            out.len() - before,
            HEADER_BYTES + usize::from(length),
            "{} tells its size",
            self.name()
        );
    }

    fn flags(&self) -> u8 {
        0
    }
}

/// A frame whose payload does not fit its length field. Nothing was written; send less at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {size} bytes does not fit; send less at a time")]
pub struct FrameTooLarge {
    /// Bytes of the payload.
    pub size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Kinds that exist, mostly, with payloads of small numbers, which are often lengths, codes and flags.
    fn hopeful() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let kinds: Vec<u8> = Frame::KINDS.iter().map(|(kind, _)| *kind).collect();
        let byte = prop_oneof![4 => Just(0_u8), 3 => 1_u8..8, 1 => any::<u8>()];
        (prop_oneof![9 => prop::sample::select(kinds), 1 => any::<u8>()], prop::collection::vec(byte, 0..64))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn whatever_decodes_has_that_one_form((kind, payload) in hopeful()) {
            if let Ok(Some(frame)) = Frame::decode(kind, &payload) {
                let mut bytes = Vec::new();
                frame.encode(&mut bytes).expect("as small as it was");
                prop_assert_eq!(frame.payload_size(), payload.len());
                prop_assert_eq!(&bytes[HEADER_BYTES..], &payload[..]);
                prop_assert_eq!(bytes[0], kind);
            }
        }

        #[test]
        fn random_bodies_of_records_never_panic(body: Vec<u8>) {
            let mut rest = body.as_slice();
            while let Ok(Some(raw)) = RawFrame::take_from(&mut rest) {
                let _fault = raw.decode();
            }
        }
    }

    #[test]
    fn a_frame_beyond_its_length_field_is_refused_and_nothing_written() {
        let body = vec![0; 70_000];
        let frame = Frame::from(Fragment { stream: 1, part: FragmentPart::Next, data: &body });
        let mut out = vec![1];
        assert_eq!(frame.encode(&mut out), Err(FrameTooLarge { size: 70_005 }));
        assert_eq!(out, [1]);
    }
}
