//! What an actor wrote and the system has not taken yet.
//!
//! Invariant: no more than `QUEUE_MAX` bytes wait, framing included.

use std::collections::VecDeque;
use std::io::{self, Write};

use super::error::SocketError;
use super::framing::Framing;

/// Above this, a writer is to pause.
const MARK_HIGH: usize = 1 << 20;
/// Below this, a writer that was above the mark is told.
const MARK_LOW: usize = 256 << 10;
/// More is an error.
const QUEUE_MAX: usize = 64 << 20;
/// Written at once, before the others have their turn.
const BYTES_A_ROUND: usize = 1 << 20;
/// An empty queue keeps no more memory than this.
const KEPT_MAX: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct SendBuffer {
    queue: VecDeque<u8>,
    /// The system may take more; it says when, once it has refused.
    pub(crate) writable: bool,
    over_mark: bool,
}

/// How far a flush came.
pub(crate) enum Flushed {
    /// Nothing waits.
    All,
    /// The system takes no more.
    Blocked,
    /// This round's share is used up.
    Cut,
    /// Nothing will be taken any more; the queue is gone.
    Failed(io::Error),
}

impl SendBuffer {
    pub(crate) fn new(writable: bool) -> Self {
        Self { writable, ..Self::default() }
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn push(&mut self, framing: Framing, data: &[u8]) -> Result<(), SocketError> {
        if self.queue.len().saturating_add(data.len()) > QUEUE_MAX - 4 {
            return Err(SocketError::QueueFull { max: QUEUE_MAX });
        }
        framing.encode(data, &mut self.queue)?;
        self.over_mark |= self.queue.len() > MARK_HIGH;
        Ok(())
    }

    pub(crate) fn flush(&mut self, to: &mut impl Write) -> Flushed {
        let mut left = BYTES_A_ROUND;
        while !self.queue.is_empty() {
            if !self.writable {
                return Flushed::Blocked;
            }
            if left == 0 {
                return Flushed::Cut;
            }
            let (front, _) = self.queue.as_slices();
            match to.write(&front[..front.len().min(left)]) {
                Ok(0) => return self.fail(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.queue.drain(..count);
                    left -= count;
                }
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => return self.fail(reason),
            }
        }
        if self.queue.capacity() > KEPT_MAX {
            self.queue = VecDeque::new();
        }
        let flushed = to.flush();
        self.after(flushed)
    }

    /// What a flush of the stream itself means, when nothing waits here.
    pub(crate) fn after(&mut self, flushed: io::Result<()>) -> Flushed {
        match flushed {
            Ok(()) => Flushed::All,
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Flushed::Blocked
            }
            Err(reason) => self.fail(reason),
        }
    }

    fn fail(&mut self, reason: io::Error) -> Flushed {
        self.queue = VecDeque::new();
        self.over_mark = false;
        Flushed::Failed(reason)
    }

    /// Whether a writer that was above the mark is to be told that there is room; once.
    pub(crate) fn take_relief(&mut self) -> bool {
        let relieved = self.over_mark && self.queue.len() < MARK_LOW;
        self.over_mark &= !relieved;
        relieved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then refuses.
    struct Throat(usize);

    impl Write for Throat {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.0.min(bytes.len());
            self.0 -= count;
            if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_above_the_mark_is_told_once_when_little_is_left() {
        let mut send_buffer = SendBuffer::new(true);
        send_buffer.push(Framing::Bytes, &vec![0; MARK_HIGH]).expect("room");
        assert!(matches!(send_buffer.flush(&mut Throat(MARK_HIGH - 1)), Flushed::Blocked));
        assert!(!send_buffer.take_relief(), "it was not above the mark");
        send_buffer.push(Framing::Bytes, &vec![0; MARK_HIGH]).expect("room");
        send_buffer.writable = true;
        assert!(matches!(send_buffer.flush(&mut Throat(MARK_HIGH - MARK_LOW)), Flushed::Blocked));
        assert!(!send_buffer.take_relief(), "more than the low mark is left");
        send_buffer.writable = true;
        assert!(matches!(send_buffer.flush(&mut Throat(MARK_HIGH)), Flushed::All));
        assert!(send_buffer.take_relief());
        assert!(!send_buffer.take_relief(), "once");
    }

    #[test]
    fn no_more_waits_than_the_cap() {
        let mut send_buffer = SendBuffer::new(true);
        let full = Err(SocketError::QueueFull { max: QUEUE_MAX });
        assert_eq!(
            send_buffer.push(Framing::LengthPrefixed { max: usize::MAX }, &vec![0; QUEUE_MAX - 3]),
            full
        );
        assert_eq!(
            send_buffer.push(Framing::LengthPrefixed { max: usize::MAX }, &vec![0; QUEUE_MAX - 4]),
            Ok(())
        );
        assert_eq!(send_buffer.len(), QUEUE_MAX);
        assert_eq!(send_buffer.push(Framing::Bytes, &[0]), full);
    }

    #[test]
    fn one_round_writes_its_share() {
        let mut send_buffer = SendBuffer::new(true);
        send_buffer.push(Framing::Bytes, &vec![0; BYTES_A_ROUND + 1]).expect("room");
        assert!(matches!(send_buffer.flush(&mut Throat(usize::MAX)), Flushed::Cut));
        assert_eq!(send_buffer.len(), 1);
        assert!(matches!(send_buffer.flush(&mut Throat(usize::MAX)), Flushed::All));
    }
}
