//! Reads a stream and delivers its frames, as fast as the actor takes them.
//!
//! Invariant: while the actor's mailbox is full, nothing is read and no frame is delivered.

use std::io::{self, Read};

use super::framing::{FrameSplitter, Framing};
use crate::id::Key;
use crate::scheduler::Core;

/// Reads of one socket a round.
const READS_PER_ROUND: usize = 4;
/// Frames of one socket a round.
const FRAMES_PER_ROUND: usize = 1024;

pub(crate) struct FrameReader {
    splitter: FrameSplitter,
    end: Option<io::Result<()>>,
    /// The number of bytes that may still be read; after them the stream counts as ended.
    bytes_left: Option<usize>,
}

/// The result of [`FrameReader::pull`].
pub(crate) enum Pulled {
    /// There is nothing more to read now.
    Empty,
    /// This round's share is used up.
    ShareUsed,
    /// The actor's mailbox is full; `delivered` if it took at least one frame before.
    Full { delivered: bool },
    /// All frames were delivered, and the stream has ended.
    Ended(io::Result<()>),
}

impl FrameReader {
    pub(crate) fn new(framing: Framing) -> Self {
        Self { splitter: FrameSplitter::new(framing), end: None, bytes_left: None }
    }

    /// Limits the number of bytes that are still read.
    pub(crate) fn limit(&mut self, bytes: usize) {
        self.bytes_left = Some(bytes);
    }

    /// Stops reading: `pull` delivers the frames that are complete, and then reports the end.
    pub(crate) fn end(&mut self) {
        self.splitter.end();
        self.end = Some(Ok(()));
    }

    /// Reads, and delivers frames.
    pub(crate) fn pull(
        &mut self,
        core: &mut Core,
        owner: Key,
        from: &mut impl Read,
        buffer: &mut [u8],
        mut deliver: impl FnMut(&mut Core, Vec<u8>),
    ) -> Pulled {
        let mut frames = 0;
        for _ in 0..READS_PER_ROUND {
            loop {
                // An actor that a delivery has ended has no room either.
                if !core.has_room(owner) {
                    return Pulled::Full { delivered: frames > 0 };
                }
                if frames == FRAMES_PER_ROUND {
                    return Pulled::ShareUsed;
                }
                match self.splitter.next() {
                    Ok(Some(frame)) => deliver(core, frame),
                    Ok(None) => break,
                    Err(reason) => return Pulled::Ended(Err(reason.into())),
                }
                frames += 1;
            }
            if let Some(end) = self.end.take() {
                return Pulled::Ended(end);
            }
            if !self.read(from, buffer) {
                return Pulled::Empty;
            }
        }
        Pulled::ShareUsed
    }

    /// Reads once. Returns false if the stream would block.
    fn read(&mut self, from: &mut impl Read, buffer: &mut [u8]) -> bool {
        let most = self.bytes_left.map_or(buffer.len(), |left| left.min(buffer.len()));
        match from.read(&mut buffer[..most]) {
            Ok(0) => self.end(),
            Ok(count) => {
                self.bytes_left = self.bytes_left.map(|left| left - count);
                self.splitter.feed(&buffer[..count]);
            }
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return false,
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            // The frames before the error are complete, and are delivered first.
            Err(reason) => self.end = Some(Err(reason)),
        }
        true
    }
}
