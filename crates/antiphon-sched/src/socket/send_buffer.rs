//! The bytes that an actor wrote and the system has not taken yet.
//!
//! Invariant: at most `QUEUE_MAX` bytes wait, framing included.

use std::collections::VecDeque;
use std::io::{self, Write};

use super::error::SocketError;
use super::framing::Framing;

/// A writer should pause while more bytes than this wait.
const MARK_HIGH: usize = 1 << 20;
/// `Writable` is sent when fewer bytes than this wait, after more than `MARK_HIGH` did.
const MARK_LOW: usize = 256 << 10;
/// More bytes than this are an error.
const QUEUE_MAX: usize = 64 << 20;
/// Bytes that one socket writes a round.
const BYTES_PER_ROUND: usize = 1 << 20;
/// The capacity that an empty queue may keep.
const KEPT_MAX: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct SendBuffer {
    queue: VecDeque<u8>,
    above_mark: bool,
}

/// The result of a flush.
pub(crate) enum Flushed {
    /// All bytes are written.
    All,
    /// The system takes no more bytes now.
    Blocked,
    /// This round's share is used up.
    ShareUsed,
    /// No more bytes can ever be written; the queue was dropped.
    Failed(io::Error),
}

impl SendBuffer {
    /// The number of bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn push(&mut self, framing: Framing, data: &[u8]) -> Result<(), SocketError> {
        if self.queue.len().saturating_add(data.len()) > QUEUE_MAX - 4 {
            return Err(SocketError::QueueFull { max: QUEUE_MAX });
        }
        framing.encode(data, &mut self.queue)?;
        self.above_mark |= self.queue.len() > MARK_HIGH;
        Ok(())
    }

    pub(crate) fn flush(&mut self, to: &mut impl Write) -> Flushed {
        let mut left = BYTES_PER_ROUND;
        while !self.queue.is_empty() {
            if left == 0 {
                return Flushed::ShareUsed;
            }
            let (front, _) = self.queue.as_slices();
            match to.write(&front[..front.len().min(left)]) {
                Ok(0) => return self.fail(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.queue.drain(..count);
                    left -= count;
                }
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => return self.fail(reason),
            }
        }
        if self.queue.capacity() > KEPT_MAX {
            self.queue = VecDeque::new();
        }
        let flushed = to.flush();
        self.on_stream_flushed(flushed)
    }

    /// Converts the result of a flush of the stream itself, while this queue is empty.
    pub(crate) fn on_stream_flushed(&mut self, flushed: io::Result<()>) -> Flushed {
        match flushed {
            Ok(()) => Flushed::All,
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => Flushed::Blocked,
            Err(reason) => self.fail(reason),
        }
    }

    fn fail(&mut self, reason: io::Error) -> Flushed {
        self.queue = VecDeque::new();
        self.above_mark = false;
        Flushed::Failed(reason)
    }

    /// Whether `Writable` is due: more than `MARK_HIGH` bytes waited, and fewer than `MARK_LOW` do now. True once.
    pub(crate) fn take_writable_event(&mut self) -> bool {
        let is_due = self.above_mark && self.queue.len() < MARK_LOW;
        self.above_mark &= !is_due;
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then blocks.
    struct LimitedWriter(usize);

    impl Write for LimitedWriter {
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
    fn writable_event_is_due_once_below_low_mark() {
        let mut send_buffer = SendBuffer::default();
        send_buffer.push(Framing::Bytes, &vec![0; MARK_HIGH]).expect("room");
        assert!(matches!(send_buffer.flush(&mut LimitedWriter(MARK_HIGH - 1)), Flushed::Blocked));
        assert!(!send_buffer.take_writable_event(), "it was never above the high mark");
        send_buffer.push(Framing::Bytes, &vec![0; MARK_HIGH]).expect("room");
        assert!(matches!(send_buffer.flush(&mut LimitedWriter(MARK_HIGH - MARK_LOW)), Flushed::Blocked));
        assert!(!send_buffer.take_writable_event(), "more than the low mark is left");
        assert!(matches!(send_buffer.flush(&mut LimitedWriter(MARK_HIGH)), Flushed::All));
        assert!(send_buffer.take_writable_event());
        assert!(!send_buffer.take_writable_event(), "once");
    }

    #[test]
    fn push_over_cap_is_refused() {
        let mut send_buffer = SendBuffer::default();
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
    fn flush_writes_at_most_one_share() {
        let mut send_buffer = SendBuffer::default();
        send_buffer.push(Framing::Bytes, &vec![0; BYTES_PER_ROUND + 1]).expect("room");
        assert!(matches!(send_buffer.flush(&mut LimitedWriter(usize::MAX)), Flushed::ShareUsed));
        assert_eq!(send_buffer.len(), 1);
        assert!(matches!(send_buffer.flush(&mut LimitedWriter(usize::MAX)), Flushed::All));
    }
}
