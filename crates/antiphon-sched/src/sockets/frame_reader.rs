//! What arrives, cut into frames, as fast as the actor takes it.
//!
//! Invariant: nothing is read, and no frame told, while the actor's mailbox is full.

use std::io::{self, Read};

use super::framing::{FrameSplitter, Framing};
use crate::core::Core;
use crate::id::Key;

/// Reads at once, before the others have their turn.
const READS_A_ROUND: usize = 4;
/// Frames at once.
const FRAMES_A_ROUND: usize = 1024;

pub(crate) struct FrameReader {
    splitter: FrameSplitter,
    /// There may be something to read; the system says when there is again.
    pub(crate) readable: bool,
    end: Option<io::Result<()>>,
    /// Bytes that are still read before it is taken to be the end.
    left: Option<usize>,
}

/// How far reading came.
pub(crate) enum Pulled {
    /// Nothing is there.
    Dry,
    /// This round's share is used up.
    Cut,
    /// The actor's mailbox is full; whether it took something before.
    Full { fed: bool },
    /// All was told, and there will be nothing more.
    Ended(io::Result<()>),
}

impl FrameReader {
    pub(crate) fn new(framing: Framing) -> Self {
        Self { splitter: FrameSplitter::new(framing), readable: false, end: None, left: None }
    }

    /// No more than so many bytes are to be read.
    pub(crate) fn limit(&mut self, bytes: usize) {
        self.left = Some(bytes);
    }

    /// Nothing more is to be read: what came is told, and then the end.
    pub(crate) fn end(&mut self) {
        self.splitter.end();
        self.end = Some(Ok(()));
    }

    /// Reads, and tells frames.
    pub(crate) fn pull(
        &mut self,
        core: &mut Core,
        owner: Key,
        from: &mut impl Read,
        space: &mut [u8],
        mut tell: impl FnMut(&mut Core, Vec<u8>),
    ) -> Pulled {
        let mut frames = 0;
        for _ in 0..READS_A_ROUND {
            loop {
                // An actor that ended while it was told has no room either.
                if !core.has_room(owner) {
                    return Pulled::Full { fed: frames > 0 };
                }
                if frames == FRAMES_A_ROUND {
                    return Pulled::Cut;
                }
                match self.splitter.next() {
                    Ok(Some(frame)) => tell(core, frame),
                    Ok(None) => break,
                    Err(reason) => return Pulled::Ended(Err(reason.into())),
                }
                frames += 1;
            }
            if let Some(end) = self.end.take() {
                return Pulled::Ended(end);
            }
            if !self.readable {
                return Pulled::Dry;
            }
            self.read(from, space);
        }
        Pulled::Cut
    }

    fn read(&mut self, from: &mut impl Read, space: &mut [u8]) {
        let most = self.left.map_or(space.len(), |left| left.min(space.len()));
        match from.read(&mut space[..most]) {
            Ok(0) => self.end(),
            Ok(count) => {
                self.left = self.left.map(|left| left - count);
                self.splitter.feed(&space[..count]);
            }
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            // What came before it is whole, and told first.
            Err(reason) => self.end = Some(Err(reason)),
        }
    }
}
