//! Cuts a byte stream that arrives in arbitrary pieces into handshake messages and records.
//!
//! Invariant: the buffer never grows beyond [`BUFFER_BYTES_MAX`], nor beyond one handshake message until the first record;
//! what lies in `filled[start..end]` was received and not yet taken.

use crate::handshake::{HANDSHAKE_HEADER_BYTES, HandshakeFault, MAGIC};
use crate::limits::HELLO_BYTES_MAX;
use crate::record::{Opener, RECORD_HEADER_BYTES, RecordError};

/// The read buffer of one connection. Records are opened in it and their frames borrow from it.
///
/// Read into [`space`](Deframer::space) and tell [`filled`](Deframer::filled), or [`push`](Deframer::push) a slice; then take
/// records (by a session) until there is none. Idle, it owns no memory.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that the buffer should have at the next `space`.
    wanted: usize,
}

impl Deframer {
    /// An empty one, without memory.
    pub fn new() -> Deframer {
        Deframer::default()
    }

    /// Room to read into: at least one byte as long as everything whole has been taken out.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let wanted = self.wanted.max(HELLO_BYTES_MAX);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let is_cramped = self.end == self.buffer.len() || self.buffer.len() - self.start < wanted;
        if self.start > 0 && is_cramped {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// The first `count` bytes of [`space`](Deframer::space) have been filled.
    ///
    /// # Panics
    /// If there was not so much space.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "only what `space` gave can be filled");
        self.end += count;
        // A reader that fills all its space will have more: with records flowing, give it a larger one.
        if self.end == self.buffer.len() && self.wanted > 0 {
            self.wanted = (self.buffer.len() * 2).min(BUFFER_BYTES_MAX);
        }
    }

    /// Copies in as much of `bytes` as there is space for, and answers how much that was. 0 only if a whole message or
    /// record waits to be taken.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let space = self.space();
        let count = bytes.len().min(space.len());
        space[..count].copy_from_slice(&bytes[..count]);
        self.filled(count);
        count
    }

    /// Bytes received and not yet taken.
    pub fn pending_bytes(&self) -> usize {
        self.end - self.start
    }

    /// Gives back the memory if nothing is pending. For idle connections.
    pub fn release(&mut self) {
        if self.start == self.end {
            *self = Deframer { wanted: self.wanted.min(RECORDS_BYTES_FIRST), ..Deframer::default() };
        }
    }

    /// Whether the next bytes are the beginning of a TLS handshake (RFC 8446, 5.1), where one of ours is due.
    pub(crate) fn begins_as_tls(&self) -> bool {
        self.buffer[self.start..self.end].starts_with(&[22, 3])
    }

    /// The next handshake message, header included; `None` until it is whole.
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

    /// The body of the next record, opened in place; `None` until it is whole.
    #[inline]
    pub(crate) fn next_record(&mut self, opener: &mut Opener) -> Result<Option<&[u8]>, RecordError> {
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
        opener.open(&mut self.buffer[record]).map(Some)
    }
}

/// The buffer once records flow, until reads fill it.
const RECORDS_BYTES_FIRST: usize = 16 * 1024;
/// The largest buffer: four of the largest records, so that moving the beginning of one costs little.
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
            assert!(count > 0, "there is always space once everything whole was taken");
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
    fn pieces_of_any_size_give_the_same_records() {
        let bodies: Vec<Vec<u8>> =
            [0, 1, 100, 20_000, 65_516, 3].map(|length| vec![length as u8; length]).into();
        let stream = stream(&bodies);
        for piece in [1, 3, 4, 5, 1_000, 65_536, 1 << 20] {
            assert_eq!(deframed(&stream, || piece), bodies, "in pieces of {piece}");
        }
    }

    #[test]
    fn garbage_instead_of_a_hello_is_known_by_its_first_byte() {
        let mut deframer = Deframer::new();
        deframer.push(b"G");
        assert_eq!(deframer.next_handshake(), Err(HandshakeFault::NotAntiphon));
    }

    #[test]
    fn before_the_first_record_a_peer_cannot_make_the_buffer_grow() {
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
        fn random_pieces_give_the_same_records(
            lengths in proptest::collection::vec(0_usize..70_000, 1..8),
            pieces in proptest::collection::vec(1_usize..90_000, 1..8),
        ) {
            let bodies: Vec<Vec<u8>> = lengths.iter().map(|length| vec![5; (*length).min(65_516)]).collect();
            let stream = stream(&bodies);
            let mut pieces = pieces.iter().copied().cycle();
            assert_eq!(deframed(&stream, || pieces.next().expect("a cycle")), bodies);
        }
    }
}
