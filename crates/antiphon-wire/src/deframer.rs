//! Splits a byte stream that arrives in arbitrary pieces into handshake messages and records.
//!
//! Invariants: the buffer never grows beyond [`BUFFER_BYTES_MAX`], and until the first record not beyond one
//! handshake message. The bytes in `buffer[start..end]` have been received and not taken yet. The first `opened` of them are the rest
//! of the body of an open record, and the next `trailer` its tag.

use crate::handshake::{HANDSHAKE_HEADER_BYTES, HandshakeFault, MAGIC};
use crate::limits::HELLO_BYTES_MAX;
use crate::record::{Opener, RECORD_HEADER_BYTES, RecordError};

/// The read buffer of one connection. Records are opened in place, and their frames borrow from the buffer.
///
/// Read into [`space`](Deframer::space), then call [`filled`](Deframer::filled); or [`push`](Deframer::push) a
/// slice. Then let the session take records until there are none. [`release`](Deframer::release) frees the memory
/// while the connection is idle.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    opened: usize,
    trailer: usize,
    /// The least length of the buffer at the next `space`, in bytes.
    wanted: usize,
}

impl Deframer {
    /// Creates an empty deframer, which owns no memory.
    pub fn new() -> Deframer {
        Deframer::default()
    }

    /// The free part of the buffer. It has at least one byte if all whole messages and records have been taken.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let wanted = self.wanted.max(HELLO_BYTES_MAX);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let lacks_space = self.end == self.buffer.len() || self.buffer.len() - self.start < wanted;
        if self.start > 0 && lacks_space {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// Marks the first `count` bytes of [`space`](Deframer::space) as received.
    ///
    /// # Panics
    /// If `count` exceeds the length of the space.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "no more than the slice from `space` can be filled");
        self.end += count;
        // A read that fills all the space has probably left bytes in the socket. After the first record, double the
        // space.
        if count > 0 && self.end == self.buffer.len() && self.wanted > 0 {
            self.wanted = (self.buffer.len() * 2).min(BUFFER_BYTES_MAX);
        }
    }

    /// Copies as much of `bytes` as fits, and returns the number of copied bytes. It is 0 only if `bytes` is empty,
    /// or a whole message or record waits to be taken.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let space = self.space();
        let count = bytes.len().min(space.len());
        space[..count].copy_from_slice(&bytes[..count]);
        self.filled(count);
        count
    }

    /// The number of bytes that have been received and not taken yet.
    pub fn pending_bytes(&self) -> usize {
        self.end - self.start
    }

    /// Frees the memory if no bytes are pending. For idle connections.
    pub fn release(&mut self) {
        if self.start == self.end {
            *self = Deframer { wanted: self.wanted.min(RECORDS_BYTES_FIRST), ..Deframer::default() };
        }
    }

    /// Puts back the frames of the last record that were not taken: so many bytes as
    /// [`Frames::unread`](crate::Frames::unread) says. The session returns them with the next record.
    pub fn put_back(&mut self, unread: usize) {
        if unread > 0 {
            self.opened = unread;
            self.start -= unread + self.trailer;
        }
    }

    /// Whether frames of an open record were put back.
    #[inline]
    pub(crate) fn has_put_back(&self) -> bool {
        self.opened > 0
    }

    /// Whether the next bytes begin a TLS handshake (RFC 8446, 5.1) instead of an Antiphon handshake.
    pub(crate) fn begins_as_tls(&self) -> bool {
        self.buffer[self.start..self.end].starts_with(&[22, 3])
    }

    /// The next handshake message with its header; `None` until it is complete.
    pub(crate) fn next_handshake(&mut self) -> Result<Option<&[u8]>, HandshakeFault> {
        let pending = &self.buffer[self.start..self.end];
        let magic_seen = pending.len().min(MAGIC.len());
        if pending[..magic_seen] != MAGIC[..magic_seen] {
            return Err(HandshakeFault::NotAntiphon);
        }
        let Some(header) = pending.first_chunk::<HANDSHAKE_HEADER_BYTES>() else { return Ok(None) };
        let [.., low, high] = *header;
        let length = HANDSHAKE_HEADER_BYTES + usize::from(u16::from_le_bytes([low, high]));
        if length > HELLO_BYTES_MAX {
            return Err(HandshakeFault::TooLong { length });
        }
        if pending.len() < length {
            return Ok(None);
        }
        let message = self.start..self.start + length;
        self.start += length;
        Ok(Some(&self.buffer[message]))
    }

    /// Opens the next record in place and returns its body; `None` until the record is complete. What was put back comes first.
    #[inline]
    pub(crate) fn next_record(&mut self, opener: &mut Opener) -> Result<Option<&[u8]>, RecordError> {
        if self.opened > 0 {
            let rest = self.start..self.start + std::mem::take(&mut self.opened);
            self.start = rest.end + self.trailer;
            return Ok(Some(&self.buffer[rest]));
        }
        let pending = &self.buffer[self.start..self.end];
        let Some(header) = pending.first_chunk::<RECORD_HEADER_BYTES>() else {
            self.wanted = self.wanted.max(RECORDS_BYTES_FIRST);
            return Ok(None);
        };
        let length = opener.record_bytes(*header)?;
        if pending.len() < length {
            self.wanted = self.wanted.max(length).max(RECORDS_BYTES_FIRST);
            return Ok(None);
        }
        let record = self.start..self.start + length;
        self.start += length;
        self.trailer = opener.tag_bytes();
        opener.open(&mut self.buffer[record]).map(Some)
    }
}

/// The length of the buffer from the first record until a read fills it.
const RECORDS_BYTES_FIRST: usize = 16 * 1024;
/// The largest length of the buffer: four of the largest records. So moving an incomplete one is cheap.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Allowance, Sealer};
    use crate::suite::Suite;

    const AMPLE: Allowance = Allowance { records_max: 1 << 32, bytes_max: 1 << 38 };

    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut sealer = Sealer::new(Suite::Aes128Gcm, &[1; 32], 65_536, AMPLE);
        let mut out = Vec::new();
        for body in bodies {
            let start = Sealer::begin(&mut out);
            out.extend_from_slice(body);
            sealer.seal(&mut out, start);
        }
        out
    }

    fn deframed(stream: &[u8], mut piece: impl FnMut() -> usize) -> Vec<Vec<u8>> {
        let mut opener = Opener::new(Suite::Aes128Gcm, &[1; 32], 65_536, AMPLE);
        let mut deframer = Deframer::new();
        let (mut bodies, mut rest) = (Vec::new(), stream);
        while !rest.is_empty() {
            let offered = piece().clamp(1, rest.len());
            let count = deframer.push(&rest[..offered]);
            assert!(count > 0, "there is space when all whole records are taken");
            rest = &rest[count..];
            while let Some(body) = deframer.next_record(&mut opener).expect("the stream is sound") {
                bodies.push(body.to_vec());
            }
            assert!(deframer.buffer.len() <= BUFFER_BYTES_MAX);
        }
        assert_eq!(deframer.pending_bytes(), 0);
        deframer.release();
        assert_eq!(deframer.buffer.capacity(), 0);
        bodies
    }

    #[test]
    fn stream_pieces_of_any_size_yield_records() {
        let bodies: Vec<Vec<u8>> =
            [0, 1, 100, 20_000, 65_516, 3].map(|length| vec![length as u8; length]).into();
        let stream = stream(&bodies);
        for piece in [1, 3, 4, 5, 1_000, 65_536, 1 << 20] {
            assert_eq!(deframed(&stream, || piece), bodies, "in pieces of {piece}");
        }
    }

    #[test]
    fn foreign_first_byte_is_refused() {
        let mut deframer = Deframer::new();
        deframer.push(b"G");
        assert_eq!(deframer.next_handshake(), Err(HandshakeFault::NotAntiphon));
    }

    #[test]
    fn handshake_flood_does_not_grow_buffer() {
        let mut deframer = Deframer::new();
        let mut flood = MAGIC.to_vec();
        flood.extend_from_slice(&[1, 0, 0xf0, 0x0f]);
        flood.resize(100_000, 0);
        assert_eq!(deframer.push(&flood), HELLO_BYTES_MAX);
        assert_eq!(deframer.space().len(), 0);
        assert_eq!(deframer.buffer.len(), HELLO_BYTES_MAX);
    }

    proptest::proptest! {
        #[test]
        fn stream_random_pieces_yield_records(
            lengths in proptest::collection::vec(0_usize..70_000, 1..8),
            pieces in proptest::collection::vec(1_usize..90_000, 1..8),
        ) {
            let bodies: Vec<Vec<u8>> = lengths.iter().map(|length| vec![5; (*length).min(65_516)]).collect();
            let stream = stream(&bodies);
            let mut pieces = pieces.iter().copied().cycle();
            assert_eq!(deframed(&stream, || pieces.next().expect("a cycle")), bodies);
        }

        /// Parts of records of any size are put back, while more bytes arrive and the buffer moves.
        #[test]
        fn unread_parts_of_records_come_again(
            lengths in proptest::collection::vec(1_usize..5_000, 1..20),
            pieces in proptest::collection::vec(1_usize..4_000, 1..8),
            reads in proptest::collection::vec(1_usize..3_000, 1..8),
        ) {
            let body = |(number, length): (usize, &usize)| vec![number as u8; *length];
            let bodies: Vec<Vec<u8>> = lengths.iter().enumerate().map(body).collect();
            let (mut pieces, mut reads) = (pieces.iter().cycle(), reads.iter().cycle());
            let mut opener = Opener::new(Suite::Aes128Gcm, &[1; 32], 65_536, AMPLE);
            let (stream, mut deframer, mut taken) = (stream(&bodies), Deframer::new(), Vec::new());
            let mut rest = stream.as_slice();
            while !rest.is_empty() || deframer.pending_bytes() > 0 {
                let piece = rest.len().min(*pieces.next().expect("a cycle"));
                rest = &rest[deframer.push(&rest[..piece])..];
                let body = deframer.next_record(&mut opener).expect("the stream is sound");
                let Some(body) = body else { continue };
                let read = body.len().min(*reads.next().expect("a cycle"));
                let unread = body.len() - read;
                taken.extend_from_slice(&body[..read]);
                deframer.put_back(unread);
            }
            assert_eq!(taken, bodies.concat());
        }
    }
}
