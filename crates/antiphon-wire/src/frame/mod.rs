//! Frames: the units of the protocol, their numbers and their encoding.
//!
//! A frame is a header of four bytes (kind, flags, length of the payload as u16) and the payload. There are two sorts:
//!
//! - *Control* frames have kinds below [`NUMBERED_FROM`]. They carry no frame number, cost no credit, are not repeated over
//!   a new connection and may overtake other frames.
//! - *Numbered* frames are all others. The n-th numbered frame of a session is frame n, counted in each direction.
//!
//! Each frame has exactly one encoding.

mod codes;
mod table;

pub use codes::{
    CloseReason, DownReason, FragmentPart, GoodbyeReason, LookupResult, NameSpace, Outcome, PayloadFault,
    ReplyDroppedReason,
};
pub use table::*;

use crate::bytes::{Malformed, Reader};
use crate::limits::FRAGMENT_BYTES_MAX;

/// The first numbered kind.
pub const NUMBERED_FROM: u8 = 0x20;
/// Flag: a receiver that does not know this kind skips the frame (and counts it, if it is numbered).
pub const MAY_IGNORE: u8 = 0x01;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 4;

/// One frame of a record, with its header decoded and its payload still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// The number of the kind.
    pub kind: u8,
    /// [`MAY_IGNORE`] or 0.
    pub flags: u8,
    /// The payload, in the encoding of the kind.
    pub payload: &'a [u8],
}

impl<'a> RawFrame<'a> {
    /// Takes the next frame from the front of a record's body; `None` at its end.
    ///
    /// # Errors
    /// [`Malformed`] if the body ends within a frame, if the frame has an unknown flag, or if it is numbered and should have
    /// come in fragments.
    #[inline]
    pub fn take_from(body: &mut &'a [u8]) -> Result<Option<RawFrame<'a>>, Malformed> {
        if body.is_empty() {
            return Ok(None);
        }
        let mut reader = Reader::new(body);
        let [kind, flags, low, high] = reader.array("frame header")?;
        let payload = reader.slice("frame payload", u16::from_le_bytes([low, high]).into())?;
        *body = reader.rest();
        let raw = RawFrame { kind, flags, payload };
        if flags & !MAY_IGNORE != 0 {
            return Err(Malformed::Unknown { field: "frame flags", value: flags.into() });
        }
        if payload.len() > FRAGMENT_BYTES_MAX && raw.is_numbered() && kind != Fragment::KIND {
            let (value, limit) = (payload.len() as u64, FRAGMENT_BYTES_MAX as u64);
            return Err(Malformed::TooLarge { field: "frame payload", value, limit });
        }
        Ok(Some(raw))
    }

    /// Whether the frame has a number, costs credit and is repeated over a new connection.
    #[inline]
    pub fn is_numbered(&self) -> bool {
        self.kind >= NUMBERED_FROM
    }

    /// Bytes of header and payload.
    #[inline]
    pub fn bytes_len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Decodes the payload; `None` if the kind is unknown and may be ignored.
    ///
    /// # Errors
    /// [`Malformed`] if the payload does not fit its kind, or the kind is unknown and must not be ignored.
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
    /// Bytes of header and payload: what the frame counts in a session's queue.
    #[inline]
    pub fn encoded_size(&self) -> u64 {
        (HEADER_BYTES + self.payload_size()) as u64
    }

    /// Appends header and payload.
    ///
    /// # Errors
    /// [`FrameTooLarge`], and nothing appended, if the payload exceeds 65,535 bytes. (A session sends a payload above
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
            "the payload size of {} is exact",
            self.name()
        );
    }

    fn flags(&self) -> u8 {
        0
    }
}

/// The payload of a frame does not fit its length field. Nothing was written; send a smaller payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame payload of {size} bytes exceeds 65,535 bytes; send a smaller one")]
pub struct FrameTooLarge {
    /// Bytes of the payload.
    pub size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    use std::cell::Cell;

    /// Mostly known kinds, with payloads of small numbers, which are often valid lengths, codes and flags.
    fn likely_frames() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let kinds: Vec<u8> = Frame::KINDS.iter().map(|(kind, _)| *kind).collect();
        let byte = prop_oneof![4 => Just(0_u8), 3 => 1_u8..8, 1 => any::<u8>()];
        (prop_oneof![9 => prop::sample::select(kinds), 1 => any::<u8>()], prop::collection::vec(byte, 0..64))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn record_random_body_never_panics(body: Vec<u8>) {
            let mut rest = body.as_slice();
            while let Ok(Some(raw)) = RawFrame::take_from(&mut rest) {
                let _fault = raw.decode();
            }
        }
    }

    #[test]
    fn decoded_frame_encodes_to_same_bytes() {
        let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(4000) };
        let decoded = Cell::new(0);
        let result = TestRunner::new(config).run(&likely_frames(), |(kind, payload)| {
            if let Ok(Some(frame)) = Frame::decode(kind, &payload) {
                decoded.set(decoded.get() + 1);
                let mut bytes = Vec::new();
                frame.encode(&mut bytes).expect("the payload is small");
                prop_assert_eq!(frame.payload_size(), payload.len());
                prop_assert_eq!(&bytes[HEADER_BYTES..], &payload[..]);
                prop_assert_eq!(bytes[0], kind);
            }
            Ok(())
        });
        result.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(decoded.get() > 100, "only {} of 4000 frames decoded", decoded.get());
    }

    /// A refused frame appends nothing.
    #[test]
    fn frame_beyond_length_field_is_refused() {
        let body = vec![0; 70_000];
        let frame = Frame::from(Fragment { stream: 1, part: FragmentPart::Next, data: &body });
        let mut out = vec![1];
        assert_eq!(frame.encode(&mut out), Err(FrameTooLarge { size: 70_005 }));
        assert_eq!(out, [1]);
    }
}
