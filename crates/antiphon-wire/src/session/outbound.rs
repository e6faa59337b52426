//! The numbered frames that one session sends, encoded in segments. They are kept until they are acknowledged.
//!
//! Invariants:
//! - A frame lies in one segment. Segments are contiguous in frame numbers and in byte positions.
//! - Every acknowledged frame was transmitted, and every transmitted frame was appended.
//! - A segment is removed once all its frames are acknowledged.
//! - A frame is appended only when the peer's credit admits it, except type tags, and a goodbye with the small
//!   answers before it. So nothing that has to wait for credit lies before frames that have it.

use std::collections::VecDeque;

use crate::frame::{Frame, HEADER_BYTES, RawFrame};

/// Maximum bytes of one segment. A full segment fits the largest record together with header, tag and control frames.
pub(crate) const SEGMENT_BYTES: usize = 64 * 1024 - 512;

/// The peer acknowledged or expects a frame that this side has not sent or no longer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfRange;

/// The numbered frames that are appended and not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    segments: VecDeque<Segment>,
    /// Recycled buffers, so that a steady flow does not allocate.
    spare: Vec<Vec<u8>>,
    /// The number of the next frame to append.
    next: u64,
    /// Bytes appended since the session began.
    end: u64,
    /// All frames below this number are acknowledged.
    acked: u64,
    /// All frames from this number on were never transmitted on any connection.
    transmitted: u64,
    cursor: Cursor,
    /// The numbers of the frames that end a part of the send queue and were never transmitted.
    part_ends: VecDeque<u64>,
}

#[derive(Debug)]
struct Segment {
    bytes: Vec<u8>,
    first_frame: u64,
    frames: u32,
    /// The position of its first byte, counted from the beginning of the session.
    position: u64,
}

/// The next frame to transmit on the present connection.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    segment: usize,
    offset: usize,
    frame: u64,
    position: u64,
}

impl Segment {
    fn end_frame(&self) -> u64 {
        self.first_frame + u64::from(self.frames)
    }

    /// Its frames from number `acked` on, and whether each is below `transmitted`.
    fn unacknowledged(&self, acked: u64, transmitted: u64) -> impl Iterator<Item = (RawFrame<'_>, bool)> {
        let mut rest = self.bytes.as_slice();
        let raw = std::iter::from_fn(move || RawFrame::take_from(&mut rest).ok().flatten());
        let kept = (self.first_frame..).zip(raw).filter(move |(number, _)| *number >= acked);
        kept.map(move |(number, raw)| (raw, number < transmitted))
    }
}

impl Outbound {
    /// Appends a frame with a payload of `size` bytes, at most [`FRAGMENT_BYTES_MAX`](crate::FRAGMENT_BYTES_MAX) and a
    /// fragment's fields.
    #[inline]
    pub(crate) fn append(&mut self, frame: &Frame<'_>, size: usize) {
        let length = u16::try_from(size).expect("large frames were cut into fragments");
        let bytes = self.room_for(HEADER_BYTES + size);
        frame.put_with_header(length, bytes);
        self.count(HEADER_BYTES + size);
    }

    /// Appends encoded frames, which together fit a segment.
    pub(crate) fn append_frames(&mut self, bytes: &[u8], frames: u32) {
        self.room_for(bytes.len()).extend_from_slice(bytes);
        self.count_frames(bytes.len(), frames);
    }

    /// The frame that was appended last ends a part of the send queue.
    pub(crate) fn end_part(&mut self) {
        self.part_ends.push_back(self.next - 1);
    }

    /// The number of parts from the send queue that are not completely transmitted.
    pub(crate) fn parts_ahead(&self) -> usize {
        self.part_ends.len()
    }

    /// The buffer of a segment with room for `count` more bytes.
    #[inline]
    fn room_for(&mut self, count: usize) -> &mut Vec<u8> {
        let has_room = self.segments.back().is_some_and(|last| last.bytes.len() + count <= SEGMENT_BYTES);
        if !has_room {
            self.add_segment();
        }
        &mut self.segments.back_mut().expect("the last segment has room").bytes
    }

    #[cold]
    fn add_segment(&mut self) {
        let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(SEGMENT_BYTES));
        self.segments.push_back(Segment { bytes, first_frame: self.next, frames: 0, position: self.end });
    }

    #[inline]
    fn count(&mut self, bytes: usize) {
        self.count_frames(bytes, 1);
    }

    #[inline]
    fn count_frames(&mut self, bytes: usize, frames: u32) {
        let segment = self.segments.back_mut().expect("the frames were appended to a segment");
        segment.frames += frames;
        self.next += u64::from(frames);
        self.end += bytes as u64;
    }

    /// Copies whole frames to `out`: at most `room` bytes, and none that ends beyond the position `credit`.
    pub(crate) fn copy_to(&mut self, out: &mut Vec<u8>, mut room: usize, credit: u64) {
        while let Some(segment) = self.segments.get(self.cursor.segment) {
            let rest = &segment.bytes[self.cursor.offset..];
            let credit_left =
                usize::try_from(credit.saturating_sub(self.cursor.position)).unwrap_or(usize::MAX);
            let allowed = room.min(credit_left);
            let is_whole = rest.len() <= allowed;
            let (bytes, frames) = if is_whole {
                (rest.len(), segment.end_frame() - self.cursor.frame)
            } else {
                whole_frames(rest, allowed)
            };
            out.extend_from_slice(&rest[..bytes]);
            room -= bytes;
            self.cursor.offset += bytes;
            self.cursor.position += bytes as u64;
            self.cursor.frame += frames;
            if !is_whole || self.cursor.segment + 1 == self.segments.len() {
                break;
            }
            self.cursor.segment += 1;
            self.cursor.offset = 0;
        }
        self.transmitted = self.transmitted.max(self.cursor.frame);
        while self.part_ends.pop_front_if(|frame| *frame < self.transmitted).is_some() {}
    }

    /// Whether a frame waits that fits the credit.
    #[inline]
    pub(crate) fn can_send(&self, credit: u64) -> bool {
        if self.cursor.position == self.end {
            return false;
        }
        if self.end <= credit {
            return true;
        }
        let mut at = self.cursor;
        let mut segment = &self.segments[at.segment];
        if at.offset == segment.bytes.len() {
            (at.segment, at.offset) = (at.segment + 1, 0);
            segment = &self.segments[at.segment];
        }
        at.position + frame_bytes(&segment.bytes[at.offset..]) as u64 <= credit
    }

    /// Handles an acknowledgement of all frames below `next`.
    ///
    /// # Errors
    /// [`OutOfRange`], and nothing changed, if one of these frames was never transmitted.
    pub(crate) fn acknowledge(&mut self, next: u64) -> Result<(), OutOfRange> {
        if next > self.transmitted {
            return Err(OutOfRange);
        }
        // On this connection the peer counts frames from the number in `Begin`. So this side must repeat even those that
        // the peer received over an older connection, and keeps them until then.
        self.acked = self.acked.max(next.min(self.cursor.frame));
        while self.segments.front().is_some_and(|first| first.end_frame() <= self.acked) {
            self.drop_first();
        }
        Ok(())
    }

    fn drop_first(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        self.recycle(segment.bytes);
        match self.cursor.segment.checked_sub(1) {
            Some(index) => self.cursor.segment = index,
            // The cursor was at the end of the removed segment.
            None => self.cursor.offset = 0,
        }
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_SEGMENTS_MAX && bytes.capacity() >= SEGMENT_BYTES {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Continues from frame number `frame`, on a new connection.
    ///
    /// # Errors
    /// [`OutOfRange`], and nothing changed, if `frame` is beyond the transmitted frames, or no longer kept.
    pub(crate) fn rewind(&mut self, frame: u64) -> Result<(), OutOfRange> {
        if frame > self.transmitted || frame < self.acked {
            return Err(OutOfRange);
        }
        let index = self.segments.partition_point(|segment| segment.end_frame() <= frame);
        let Some(segment) = self.segments.get(index) else {
            self.cursor = self.cursor_at_end();
            return Ok(());
        };
        let offset = offset_of(&segment.bytes, frame - segment.first_frame);
        self.cursor = Cursor { segment: index, offset, frame, position: segment.position + offset as u64 };
        Ok(())
    }

    fn cursor_at_end(&self) -> Cursor {
        let (segment, offset) = match self.segments.back() {
            Some(last) => (self.segments.len() - 1, last.bytes.len()),
            None => (0, 0),
        };
        Cursor { segment, offset, frame: self.next, position: self.end }
    }

    /// Bytes that wait to be transmitted on this connection.
    #[inline]
    pub(crate) fn unsent_bytes(&self) -> u64 {
        self.end - self.cursor.position
    }

    /// The position of the first byte that is kept.
    pub(crate) fn kept_from(&self) -> u64 {
        self.segments.front().map_or(self.end, |first| first.position)
    }

    /// The bytes that are kept.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.end - self.kept_from()
    }

    /// Bytes appended since the session began.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The position of the next byte to transmit.
    pub(crate) fn sent(&self) -> u64 {
        self.cursor.position
    }

    /// The number of the next frame to append.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// All frames below this number are acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    /// Whether no frame is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Frees the recycled buffers, if no frame is kept.
    pub(crate) fn release_spare(&mut self) {
        if self.is_empty() {
            self.spare = Vec::new();
        }
    }

    #[cfg(test)]
    pub(crate) fn spare_buffers(&self) -> usize {
        self.spare.len()
    }

    /// Every unacknowledged frame, and whether it was ever transmitted.
    #[cfg(test)]
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = (RawFrame<'_>, bool)> {
        self.segments.iter().flat_map(|segment| segment.unacknowledged(self.acked, self.transmitted))
    }

    /// Removes the first segment, and calls `each` with its unacknowledged frames, and whether the frame was ever
    /// transmitted. Returns false if there is no segment. For the end of a session.
    pub(crate) fn take_unacknowledged(&mut self, each: impl FnMut(RawFrame<'_>, bool)) -> bool {
        let Some(segment) = self.segments.pop_front() else { return false };
        let mut each = each;
        segment
            .unacknowledged(self.acked, self.transmitted)
            .for_each(|(raw, was_transmitted)| each(raw, was_transmitted));
        true
    }

    /// Panics if an invariant does not hold.
    pub(crate) fn check(&self) {
        let (mut frame, mut position) =
            self.segments.front().map_or((self.next, self.end), |first| (first.first_frame, first.position));
        assert!(self.acked >= frame, "unacknowledged frames are kept");
        for segment in &self.segments {
            assert_eq!((segment.first_frame, segment.position), (frame, position), "segments are contiguous");
            assert!(segment.end_frame() > self.acked, "an acknowledged segment is removed");
            assert!(segment.bytes.len() <= SEGMENT_BYTES, "a segment keeps to its maximum size");
            frame = segment.end_frame();
            position += segment.bytes.len() as u64;
        }
        assert_eq!((frame, position), (self.next, self.end), "segments hold all appended frames");
        assert!(self.acked <= self.transmitted && self.transmitted <= self.next);
        assert!(self.cursor.frame >= self.acked && self.cursor.frame <= self.transmitted);
        assert!(self.cursor.position <= self.end);
        assert_eq!(self.cursor.frame == self.next, self.cursor.position == self.end);
        let ends = &self.part_ends;
        assert!(ends.iter().is_sorted_by(|one, other| one < other), "the ends of parts are in order");
        assert!(
            ends.iter().all(|frame| (self.transmitted..self.next).contains(frame)),
            "the ends of parts are unsent frames"
        );
    }
}

/// The length in bytes of the frame at the front.
#[inline]
fn frame_bytes(bytes: &[u8]) -> usize {
    let [_, _, low, high] = *bytes.first_chunk::<HEADER_BYTES>().expect("a segment holds whole frames");
    HEADER_BYTES + usize::from(u16::from_le_bytes([low, high]))
}

/// The offset of the frame behind the first `frames` frames.
fn offset_of(bytes: &[u8], frames: u64) -> usize {
    (0..frames).fold(0, |offset, _| offset + frame_bytes(&bytes[offset..]))
}

/// The length in bytes and the number of the whole frames at the front that fit into `allowed` bytes.
fn whole_frames(bytes: &[u8], allowed: usize) -> (usize, u64) {
    let (mut end, mut frames) = (0, 0);
    while end < bytes.len() {
        let after = end + frame_bytes(&bytes[end..]);
        if after > allowed {
            break;
        }
        (end, frames) = (after, frames + 1);
    }
    (end, frames)
}

/// The maximum number of recycled buffers: as many as a window of 1 MiB keeps in flight, and a few more.
const SPARE_SEGMENTS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::CancelLookup;

    fn filled(frames: u64) -> Outbound {
        let mut outbound = Outbound::default();
        for request in 0..frames {
            outbound.append(&Frame::CancelLookup(CancelLookup { request }), 8);
            outbound.check();
        }
        outbound
    }

    fn taken(outbound: &mut Outbound, room: usize, credit: u64) -> Vec<u64> {
        let mut out = Vec::new();
        outbound.copy_to(&mut out, room, credit);
        outbound.check();
        let (mut rest, mut requests) = (out.as_slice(), Vec::new());
        while let Some(raw) = RawFrame::take_from(&mut rest).expect("whole frames") {
            let Ok(Some(Frame::CancelLookup(CancelLookup { request }))) = raw.decode() else {
                panic!("another frame than appended")
            };
            requests.push(request);
        }
        requests
    }

    #[test]
    fn outbound_frames_keep_order_within_room_and_credit() {
        let mut outbound = filled(10);
        assert!(!outbound.can_send(11));
        assert!(outbound.can_send(12));
        assert_eq!(taken(&mut outbound, 1000, 12 * 3), [0, 1, 2]);
        assert!(!outbound.can_send(12 * 3));
        assert_eq!(taken(&mut outbound, 12 * 2 + 11, 1000), [3, 4]);
        assert_eq!(taken(&mut outbound, 1000, 1000), [5, 6, 7, 8, 9]);
        assert_eq!(outbound.unsent_bytes(), 0);
    }

    #[test]
    fn outbound_unacknowledged_frames_are_resent_across_segments() {
        let mut outbound = filled(20_000);
        assert_eq!(taken(&mut outbound, usize::MAX, u64::MAX), (0..20_000).collect::<Vec<_>>());
        for kept_from in [0, 1, 5_418, 5_419, 10_000, 19_999, 20_000] {
            assert_eq!(outbound.acknowledge(kept_from), Ok(()));
            outbound.check();
            assert_eq!(outbound.rewind(kept_from), Ok(()));
            assert_eq!(taken(&mut outbound, usize::MAX, u64::MAX), (kept_from..20_000).collect::<Vec<_>>());
        }
        assert!(outbound.is_empty());
    }

    /// An acknowledgement that overtakes the repetition on a new connection does not skip a frame.
    #[test]
    fn outbound_acknowledged_during_resend_skips_nothing() {
        let mut outbound = filled(10);
        assert_eq!(taken(&mut outbound, usize::MAX, u64::MAX).len(), 10);
        assert_eq!(outbound.rewind(0), Ok(()));
        assert_eq!(taken(&mut outbound, 12 * 2, u64::MAX), [0, 1]);
        assert_eq!(outbound.acknowledge(7), Ok(()));
        assert_eq!(outbound.acked(), 2);
        assert_eq!(taken(&mut outbound, usize::MAX, u64::MAX), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(outbound.acknowledge(10), Ok(()));
        assert!(outbound.is_empty());
    }

    #[test]
    fn outbound_impossible_acknowledgement_and_rewind_are_refused() {
        let mut outbound = filled(10);
        assert_eq!(outbound.acknowledge(1), Err(OutOfRange));
        assert_eq!(taken(&mut outbound, 12 * 5, u64::MAX).len(), 5);
        assert_eq!(outbound.acknowledge(6), Err(OutOfRange));
        assert_eq!(outbound.acknowledge(4), Ok(()));
        assert_eq!(outbound.rewind(3), Err(OutOfRange));
        assert_eq!(outbound.rewind(6), Err(OutOfRange));
        assert_eq!(outbound.rewind(4), Ok(()));
    }

    #[test]
    fn outbound_steady_flow_recycles_segments() {
        let mut outbound = Outbound::default();
        let mut out = Vec::new();
        for round in 0..100_000_u64 {
            outbound.append(&Frame::CancelLookup(CancelLookup { request: round }), 8);
            out.clear();
            outbound.copy_to(&mut out, usize::MAX, u64::MAX);
            outbound.acknowledge(round).expect("transmitted");
        }
        outbound.check();
        assert!(outbound.segments.len() + outbound.spare.len() <= 2);
    }
}
