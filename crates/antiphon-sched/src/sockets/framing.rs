//! Frames within a stream of bytes.
//!
//! Invariant: memory follows the bytes that came, not those that were announced; a frame over the limit is told
//! as soon as that is certain, and nothing is told after it.

use std::collections::VecDeque;

use super::error::SocketError;

/// How a stream is cut into frames. What is written is framed in the same way: one `write`, one frame (but see
/// [`Framing::Lines`]).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Framing {
    /// Not at all: bytes as they come, at most 64 KiB at a time.
    Bytes,
    /// Lines that end with `\n` or `\r\n`, told without it; the last may lack it. Writing appends `\n`, and leaves the
    /// data as it is: with `\n` inside it is several lines, and a `\r` at its end is lost. Text that comes from others
    /// is to be checked for them, or it may say lines that its writer never meant; else use `LengthPrefixed`.
    Lines {
        /// The most bytes in a line, without its end.
        max: usize,
    },
    /// Four bytes of length, big-endian, before each frame.
    LengthPrefixed {
        /// The most bytes in a frame, without the length.
        max: usize,
    },
}

impl Framing {
    /// Appends `data` as it is to be sent.
    pub(crate) fn encode(self, data: &[u8], out: &mut VecDeque<u8>) -> Result<(), SocketError> {
        match self {
            Self::Bytes => out.extend(data),
            Self::Lines { max } if data.len() > max => return Err(SocketError::FrameTooLong { max }),
            Self::Lines { .. } => {
                out.extend(data);
                out.push_back(b'\n');
            }
            Self::LengthPrefixed { max } => match u32::try_from(data.len()) {
                Ok(length) if data.len() <= max => {
                    out.extend(length.to_be_bytes());
                    out.extend(data);
                }
                Ok(_) | Err(_) => return Err(SocketError::FrameTooLong { max }),
            },
        }
        Ok(())
    }
}

/// Cuts a stream into frames.
pub(crate) struct FrameSplitter {
    framing: Framing,
    buffer: Vec<u8>,
    /// What was told already.
    start: usize,
    /// Up to here there is no end of a line.
    searched: usize,
    ended: bool,
}

impl FrameSplitter {
    pub(crate) fn new(framing: Framing) -> Self {
        Self { framing, buffer: Vec::new(), start: 0, searched: 0, ended: false }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The stream has ended: what is left may be a last line, or is a frame cut short.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// The next frame; `None` when it has not come yet.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, SocketError> {
        match self.framing {
            Framing::Bytes => Ok(self.take_all()),
            Framing::Lines { max } => self.next_line(max),
            Framing::LengthPrefixed { max } => self.next_counted(max),
        }
    }

    fn take_all(&mut self) -> Option<Vec<u8>> {
        (self.start < self.buffer.len()).then(|| self.take(self.buffer.len(), 0))
    }

    fn next_line(&mut self, max: usize) -> Result<Option<Vec<u8>>, SocketError> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(at) = found.map(|at| self.searched + at) else {
            self.searched = self.buffer.len();
            let rest = &self.buffer[self.start..];
            let may_end = !self.ended && rest.ends_with(b"\r");
            if rest.len() - usize::from(may_end) > max {
                return Err(SocketError::FrameTooLong { max });
            }
            return Ok(if self.ended { self.take_all() } else { None });
        };
        let line = &self.buffer[self.start..at];
        let end_bytes = if line.ends_with(b"\r") { 2 } else { 1 };
        if line.len() + 1 - end_bytes > max {
            return Err(SocketError::FrameTooLong { max });
        }
        Ok(Some(self.take(at + 1, end_bytes)))
    }

    fn next_counted(&mut self, max: usize) -> Result<Option<Vec<u8>>, SocketError> {
        let rest = &self.buffer[self.start..];
        let short = if self.ended && !rest.is_empty() { Err(SocketError::Truncated) } else { Ok(None) };
        let Some(header) = rest.first_chunk::<4>() else { return short };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > max {
            return Err(SocketError::FrameTooLong { max });
        }
        if rest.len() - 4 < length {
            return short;
        }
        self.start += 4;
        Ok(Some(self.take(self.start + length, 0)))
    }

    /// Takes what lies before `end`, without its last bytes.
    fn take(&mut self, end: usize, without: usize) -> Vec<u8> {
        let from = std::mem::replace(&mut self.start, end);
        self.searched = end;
        if from == 0 && end == self.buffer.len() {
            // All of it: no copy, and no memory kept.
            let mut frame = std::mem::take(&mut self.buffer);
            (self.start, self.searched) = (0, 0);
            frame.truncate(end - without);
            return frame;
        }
        self.buffer[from..end - without].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LINES: Framing = Framing::Lines { max: 5 };
    const LENGTH4: Framing = Framing::LengthPrefixed { max: 5 };

    /// Feeds pieces, and gives all frames, and how it ended.
    fn cut(framing: Framing, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<SocketError>) {
        let mut splitter = FrameSplitter::new(framing);
        let mut frames = Vec::new();
        for piece in pieces.iter().map(Some).chain([None]) {
            match piece {
                Some(piece) => splitter.feed(piece),
                None => splitter.end(),
            }
            loop {
                match splitter.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(reason) => return (frames, Some(reason)),
                }
            }
        }
        (frames, None)
    }

    fn encoded(framing: Framing, frames: &[Vec<u8>]) -> Vec<u8> {
        let mut out = VecDeque::new();
        for frame in frames {
            framing.encode(frame, &mut out).expect("within the limit");
        }
        out.into()
    }

    #[test]
    fn lines_may_end_with_a_carriage_return_and_the_last_with_nothing() {
        let told = cut(LINES, &[b"one\r\ntwo\n\n\r\nfi", b"ve5\r", b"\nend"]);
        let lines = ["one", "two", "", "", "five5", "end"].map(|line| line.as_bytes().to_vec());
        assert_eq!(told, (lines.to_vec(), None));
    }

    #[test]
    fn a_line_over_the_limit_is_told_before_it_ends() {
        let too_long = Some(SocketError::FrameTooLong { max: 5 });
        assert_eq!(cut(LINES, &[b"ab\n123456"]), (vec![b"ab".to_vec()], too_long));
        assert_eq!(cut(LINES, &[b"123456\n"]), (vec![], too_long));
        assert_eq!(cut(LINES, &[b"123456\r\n"]), (vec![], too_long));
        let mut endless = FrameSplitter::new(LINES);
        endless.feed(b"1234567");
        assert_eq!(endless.next(), Err(SocketError::FrameTooLong { max: 5 }));
    }

    #[test]
    fn a_counted_frame_over_the_limit_is_told_by_its_length_alone() {
        let (frames, reason) = cut(LENGTH4, &[&[0, 0, 0, 1, 7, 0, 0, 0, 6]]);
        assert_eq!((frames, reason), (vec![vec![7]], Some(SocketError::FrameTooLong { max: 5 })));
        let (frames, reason) = cut(LENGTH4, &[&[0xff; 4]]);
        assert_eq!((frames, reason), (vec![], Some(SocketError::FrameTooLong { max: 5 })));
    }

    #[test]
    fn a_stream_that_ends_within_a_counted_frame_is_truncated() {
        for bytes in [&[0, 0][..], &[0, 0, 0, 2], &[0, 0, 0, 2, 1]] {
            assert_eq!(cut(LENGTH4, &[bytes]), (vec![], Some(SocketError::Truncated)), "{bytes:?}");
        }
        assert_eq!(cut(LENGTH4, &[&[0, 0, 0, 0]]), (vec![vec![]], None));
    }

    #[test]
    fn nothing_over_the_limit_is_written() {
        for framing in [LINES, LENGTH4] {
            let mut out = VecDeque::new();
            assert_eq!(framing.encode(b"123456", &mut out), Err(SocketError::FrameTooLong { max: 5 }));
            assert!(out.is_empty());
            assert_eq!(framing.encode(b"12345", &mut out), Ok(()));
        }
    }

    fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
        vec(vec(any::<u8>().prop_filter("no end of line", |byte| !b"\r\n".contains(byte)), 0..200), 0..20)
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_bytes_are_split(
            frames in lines(), lengths in vec(1_usize..50, 1..20), counted in any::<bool>(),
        ) {
            let framing =
                if counted { Framing::LengthPrefixed { max: 200 } } else { Framing::Lines { max: 200 } };
            let bytes = encoded(framing, &frames);
            let mut rest = &bytes[..];
            let mut pieces = Vec::new();
            for length in lengths.iter().cycle() {
                let (piece, left) = rest.split_at((*length).min(rest.len()));
                pieces.push(piece);
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(cut(framing, &pieces), (frames, None));
        }

        #[test]
        fn any_bytes_at_all_give_frames_within_the_limit(bytes in vec(any::<u8>(), 0..500), max in 0_usize..40) {
            for framing in [Framing::Bytes, Framing::Lines { max }, Framing::LengthPrefixed { max }] {
                let (frames, _) = cut(framing, &[&bytes]);
                prop_assert!(framing == Framing::Bytes || frames.iter().all(|frame| frame.len() <= max));
            }
        }
    }
}
