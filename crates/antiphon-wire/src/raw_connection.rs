//! A proven connection without a session: its owner sends any frames.

use crate::deframer::Deframer;
use crate::frame::{Fragment, FragmentPart, Frame, FrameTooLarge, HEADER_BYTES, NUMBERED_FROM};
use crate::handshake::ProvenConnection;
use crate::limits::FRAGMENT_BYTES_MAX;
use crate::record::{Opener, RecordError, Sealer};

/// A proven connection without a [`Session`](crate::Session), for tests that play a hostile member: frames in any number and order,
/// with any credit and numbers. It seals and opens records, and does nothing else.
#[doc(hidden)]
#[derive(Debug)]
pub struct RawConnection {
    sealer: Sealer,
    opener: Opener,
    /// The stream of the next large frame that is sent in fragments. High, so that it is none that the owner chooses.
    next_stream: u32,
}

impl RawConnection {
    /// Takes a connection.
    pub fn new(connection: ProvenConnection) -> RawConnection {
        RawConnection { sealer: connection.sealer, opener: connection.opener, next_stream: 1 << 31 }
    }

    /// Appends records with these frames, in order, as many frames in each as fit. Numbered frames that are too large for one
    /// piece are sent as fragments.
    ///
    /// # Errors
    /// [`FrameTooLarge`] for the first frame that fits into no record; those before it are appended.
    ///
    /// # Panics
    /// If the keys are used up, after some 2^32 records.
    pub fn seal(&mut self, frames: &[Frame<'_>], out: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
        for run in frames.chunk_by(|one, other| !is_large(one) && !is_large(other)) {
            match run {
                [frame] if is_large(frame) => self.seal_large(frame, out)?,
                _ => self.seal_small(run, out)?,
            }
        }
        Ok(())
    }

    /// Appends a record without frames.
    ///
    /// # Panics
    /// As [`RawConnection::seal`].
    pub fn seal_empty(&mut self, out: &mut Vec<u8>) {
        assert!(!self.sealer.is_exhausted(), "the keys of this connection are used up");
        let start = Sealer::begin(out);
        self.sealer.seal(out, start);
    }

    fn seal_large(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
        let mut payload = Vec::new();
        frame.put_payload(&mut payload);
        let size = payload.len();
        let total = u32::try_from(size).map_err(|_| FrameTooLarge { size })?;
        let stream = self.next_stream;
        self.next_stream = stream.wrapping_add(1);
        let mut part = FragmentPart::First { kind: frame.kind(), total };
        for data in payload.chunks(FRAGMENT_BYTES_MAX) {
            self.seal_small(&[Fragment { stream, part, data }.into()], out)?;
            part = FragmentPart::Next;
        }
        Ok(())
    }

    /// Appends records with these frames as they are.
    fn seal_small(&mut self, frames: &[Frame<'_>], out: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
        let room = self.sealer.body_bytes_max();
        let mut rest = frames.iter().peekable();
        while rest.peek().is_some() {
            assert!(!self.sealer.is_exhausted(), "the keys of this connection are used up");
            let start = Sealer::begin(out);
            let body = out.len();
            while let Some(frame) =
                rest.next_if(|frame| out.len() - body + HEADER_BYTES + frame.payload_size() <= room)
            {
                frame.encode(out)?;
            }
            if out.len() == body {
                out.truncate(start);
                return Err(FrameTooLarge { size: rest.next().map_or(0, Frame::payload_size) });
            }
            self.sealer.seal(out, start);
        }
        Ok(())
    }

    /// Opens the next record, and calls `each` for its frames. Returns false if no whole record has arrived.
    ///
    /// # Errors
    /// The record is not authentic.
    pub fn open(
        &mut self,
        input: &mut Deframer,
        mut each: impl FnMut(Frame<'_>),
    ) -> Result<bool, RecordError> {
        let Some(mut rest) = input.next_record(&mut self.opener)? else { return Ok(false) };
        while let Ok(Some(raw)) = crate::frame::RawFrame::take_from(&mut rest) {
            if let Ok(Some(frame)) = raw.decode() {
                each(frame);
            }
        }
        Ok(true)
    }
}

/// Whether a receiver accepts the frame in fragments only.
fn is_large(frame: &Frame<'_>) -> bool {
    let is_numbered = frame.kind() >= NUMBERED_FROM && !matches!(frame, Frame::Fragment(_));
    is_numbered && frame.payload_size() > FRAGMENT_BYTES_MAX
}
