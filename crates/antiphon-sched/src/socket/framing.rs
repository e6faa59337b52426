//! Frames within a stream of bytes.
//!
//! Invariants: memory grows with the bytes that arrived, not with the lengths that were announced. A frame over the
//! limit is an error as soon as that is certain, and no frame follows the error.

use std::collections::VecDeque;

use super::error::SocketError;

/// How a stream is cut into frames. Written data is framed in the same way: one `write` is one frame (but see
/// [`Framing::Lines`]).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Framing {
    /// No framing: bytes as they arrive, at most 64 KiB at a time.
    Bytes,
    /// Lines that end with `\n` or `\r\n`, and are delivered without it; the last line may lack it. Writing appends
    /// `\n` and leaves the data as it is: data with `\n` inside becomes several lines, and a `\r` at its end is lost.
    /// Check text from untrusted sources for both, so that it cannot inject lines, or use `LengthPrefixed`.
    Lines {
        /// The largest number of bytes in a line, without its end.
        max: usize,
    },
    /// Each frame follows its length, which is four bytes, big-endian.
    LengthPrefixed {
        /// The largest number of bytes in a frame, without the length.
        max: usize,
    },
}

impl Framing {
    /// Appends `data` as one frame.
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
    /// The bytes before this position were returned already.
    start: usize,
    /// No line ends before this position.
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

    /// Marks the end of the stream: the remaining bytes are a last line, or a truncated frame.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// The next frame; `None` when it is not complete yet.
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
        let incomplete = if self.ended && !rest.is_empty() { Err(SocketError::Truncated) } else { Ok(None) };
        let Some(header) = rest.first_chunk::<4>() else { return incomplete };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > max {
            return Err(SocketError::FrameTooLong { max });
        }
        if rest.len() - 4 < length {
            return incomplete;
        }
        self.start += 4;
        Ok(Some(self.take(self.start + length, 0)))
    }

    /// Takes the bytes before `end`, without the last `dropped` of them.
    fn take(&mut self, end: usize, dropped: usize) -> Vec<u8> {
        let from = std::mem::replace(&mut self.start, end);
        self.searched = end;
        if from == 0 && end == self.buffer.len() {
            // The frame is the whole buffer: this saves a copy, and keeps no memory.
            let mut frame = std::mem::take(&mut self.buffer);
            (self.start, self.searched) = (0, 0);
            frame.truncate(end - dropped);
            return frame;
        }
        self.buffer[from..end - dropped].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LINES: Framing = Framing::Lines { max: 5 };
    const LENGTH4: Framing = Framing::LengthPrefixed { max: 5 };

    /// Feeds the pieces, and returns all frames, and the error if there was one.
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
    fn lines_crlf_or_unterminated_last_are_split() {
        let result = cut(LINES, &[b"one\r\ntwo\n\n\r\nfi", b"ve5\r", b"\nend"]);
        let lines = ["one", "two", "", "", "five5", "end"].map(|line| line.as_bytes().to_vec());
        assert_eq!(result, (lines.to_vec(), None));
    }

    #[test]
    fn line_over_limit_fails_before_its_end() {
        let too_long = Some(SocketError::FrameTooLong { max: 5 });
        assert_eq!(cut(LINES, &[b"ab\n123456"]), (vec![b"ab".to_vec()], too_long));
        assert_eq!(cut(LINES, &[b"123456\n"]), (vec![], too_long));
        assert_eq!(cut(LINES, &[b"123456\r\n"]), (vec![], too_long));
        let mut endless = FrameSplitter::new(LINES);
        endless.feed(b"1234567");
        assert_eq!(endless.next(), Err(SocketError::FrameTooLong { max: 5 }));
    }

    #[test]
    fn counted_frame_over_limit_fails_by_header() {
        let (frames, reason) = cut(LENGTH4, &[&[0, 0, 0, 1, 7, 0, 0, 0, 6]]);
        assert_eq!((frames, reason), (vec![vec![7]], Some(SocketError::FrameTooLong { max: 5 })));
        let (frames, reason) = cut(LENGTH4, &[&[0xff; 4]]);
        assert_eq!((frames, reason), (vec![], Some(SocketError::FrameTooLong { max: 5 })));
    }

    #[test]
    fn stream_ending_within_counted_frame_is_truncated() {
        for bytes in [&[0, 0][..], &[0, 0, 0, 2], &[0, 0, 0, 2, 1]] {
            assert_eq!(cut(LENGTH4, &[bytes]), (vec![], Some(SocketError::Truncated)), "{bytes:?}");
        }
        assert_eq!(cut(LENGTH4, &[&[0, 0, 0, 0]]), (vec![vec![]], None));
    }

    #[test]
    fn encode_over_limit_writes_nothing() {
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
        fn frames_any_split_round_trip(
            frames in lines(), lengths in vec(1_usize..50, 1..20), counted in any::<bool>(),
        ) {
            let framing =
                if counted { Framing::LengthPrefixed { max: 200 } } else { Framing::Lines { max: 200 } };
            let bytes = encoded(framing, &frames);
            let mut remaining = &bytes[..];
            let mut pieces = Vec::new();
            for length in lengths.iter().cycle() {
                let (piece, rest) = remaining.split_at((*length).min(remaining.len()));
                pieces.push(piece);
                remaining = rest;
                if remaining.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(cut(framing, &pieces), (frames, None));
        }

        #[test]
        fn splitter_any_bytes_respects_frame_limit(bytes in vec(any::<u8>(), 0..500), max in 0_usize..40) {
            for framing in [Framing::Bytes, Framing::Lines { max }, Framing::LengthPrefixed { max }] {
                let (frames, reason) = cut(framing, &[&bytes]);
                if framing == Framing::Bytes {
                    prop_assert_eq!((frames.concat(), reason), (bytes.clone(), None));
                } else {
                    prop_assert!(frames.iter().all(|frame| frame.len() <= max));
                }
            }
        }
    }
}
