//! A proven connection without a session: its owner sends any frames.

use crate::deframer::Deframer;
use crate::frame::{Frame, FrameTooLarge, HEADER_BYTES};
use crate::handshake::ProvenConnection;
use crate::record::{Opener, RecordError, Sealer};

/// A proven connection without a [`Session`](crate::Session), for tests that play a hostile member: frames in any number and order,
/// with any credit and numbers. It seals and opens records, and does nothing else.
#[doc(hidden)]
#[derive(Debug)]
pub struct RawConnection {
    sealer: Sealer,
    opener: Opener,
}

impl RawConnection {
    /// Takes a connection.
    pub fn new(connection: ProvenConnection) -> RawConnection {
        RawConnection { sealer: connection.sealer, opener: connection.opener }
    }

    /// Appends records with these frames, in order, as many frames in each as fit.
    ///
    /// # Errors
    /// [`FrameTooLarge`] for the first frame that fits into no record; those before it are appended.
    ///
    /// # Panics
    /// If the keys are used up, after some 2^32 records.
    pub fn seal(&mut self, frames: &[Frame<'_>], out: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
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
