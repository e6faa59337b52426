//! The receive state of one session: the next frame number, the granted credit, the known type tags and the incomplete
//! large frames.
//!
//! Invariants:
//! - Received bytes never exceed granted bytes.
//! - Granted bytes never exceed released bytes by more than one window.
//! - The declared bytes of incomplete large frames keep to their limit. Memory is reserved only for bytes that arrived.

use std::collections::BTreeMap;

use crate::bytes::Malformed;
use crate::frame::{Fragment, FragmentPart, Frame, NUMBERED_FROM, Tag};
use crate::ids::TagId;
use crate::limits::{
    FRAGMENT_BYTES_MAX, LARGE_FRAME_FIELDS_BYTES_MAX, Limits, NAME_BYTES_MAX, TAG_BYTES_MAX,
};
use crate::session::PeerFault;
use crate::session::send_queue::{ANSWER_CREDIT_BYTES, PART_BYTES_MAX};

/// The receive state of one session.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// The number of the next expected frame.
    next: u64,
    /// The number of frames that the peer has yet to repeat on the present connection although they have arrived.
    repeated: u64,
    /// Whether the peer has sent `Begin` on the present connection.
    has_begun: bool,
    /// Bytes of all frames that have arrived.
    position: u64,
    /// Bytes of all frames that this side no longer keeps.
    released: u64,
    /// Bytes of the frame that was handed out last, until the next one is requested.
    handed_out: u64,
    /// Bytes of frames that this side no longer keeps, but for which it returns no credit yet.
    withheld: u64,
    /// The position up to which the peer may send.
    granted: u64,
    /// The `next` that was acknowledged last.
    acked: u64,
    /// The `position` at that time.
    acked_position: u64,
    tags: Vec<Box<str>>,
    assemblies: BTreeMap<u32, Assembly>,
    /// Declared bytes of all assemblies.
    declared: u64,
    window: u64,
}

#[derive(Debug)]
struct Assembly {
    kind: u8,
    total: u32,
    payload: Vec<u8>,
}

/// A large frame, reassembled from its fragments. It owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    kind: u8,
    payload: Vec<u8>,
}

impl Assembled {
    /// The frame. Its body borrows from `self`.
    pub fn frame(&self) -> Frame<'_> {
        let decoded = Frame::decode(self.kind, &self.payload);
        decoded.ok().flatten().expect("a large frame is decoded once before it is handed out")
    }

    pub(crate) fn kind(&self) -> u8 {
        self.kind
    }

    /// Bytes of the frame's payload.
    pub fn bytes_len(&self) -> usize {
        self.payload.len()
    }
}

impl Inbound {
    pub(crate) fn new(window: u64) -> Inbound {
        Inbound {
            next: 0,
            repeated: 0,
            has_begun: false,
            position: 0,
            released: 0,
            handed_out: 0,
            withheld: 0,
            granted: window,
            acked: 0,
            acked_position: 0,
            tags: Vec::new(),
            assemblies: BTreeMap::new(),
            declared: 0,
            window,
        }
    }

    /// Prepares for a new connection, on which the peer first sends `Begin`.
    pub(crate) fn begin_connection(&mut self) {
        self.has_begun = false;
        self.repeated = 0;
    }

    /// Whether the peer has sent `Begin` on the present connection.
    #[inline]
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Handles `Begin`: the first numbered frame on this connection is `from`.
    pub(crate) fn begin_at(&mut self, from: u64) -> Result<(), PeerFault> {
        if self.has_begun || from > self.next {
            return Err(PeerFault::FrameNumber { frame: from });
        }
        self.has_begun = true;
        self.repeated = self.next - from;
        Ok(())
    }

    /// Counts an arrived numbered frame of `bytes` bytes. Returns false if the frame had arrived before.
    #[inline]
    pub(crate) fn admit(&mut self, bytes: usize) -> Result<bool, PeerFault> {
        if self.repeated > 0 || !self.has_begun {
            return self.skip_repeated();
        }
        let position = self.position + bytes as u64;
        if position > self.granted {
            return Err(PeerFault::CreditExceeded { by: position - self.granted });
        }
        self.position = position;
        self.next += 1;
        self.handed_out += bytes as u64;
        Ok(true)
    }

    #[cold]
    fn skip_repeated(&mut self) -> Result<bool, PeerFault> {
        self.repeated = self.repeated.checked_sub(1).ok_or(PeerFault::NotBegun)?;
        Ok(false)
    }

    /// Releases the bytes of the frame that was handed out last.
    #[inline]
    pub(crate) fn release_handed_out(&mut self) {
        self.released += std::mem::take(&mut self.handed_out);
    }

    /// Withholds the credit for the frame that was handed out last, until [`release_withheld`](Inbound::release_withheld).
    pub(crate) fn withhold_handed_out(&mut self) {
        self.withheld += std::mem::take(&mut self.handed_out);
    }

    /// Withholds bytes that were held.
    pub(crate) fn withhold(&mut self, bytes: u64) {
        self.withheld += bytes;
    }

    #[cfg(test)]
    pub(crate) fn withheld(&self) -> u64 {
        self.withheld
    }

    pub(crate) fn release_withheld(&mut self) {
        self.released += std::mem::take(&mut self.withheld);
    }

    /// Takes the bytes of the frame that was handed out last, for a later [`release`](Inbound::release).
    pub(crate) fn hold_handed_out(&mut self) -> u64 {
        std::mem::take(&mut self.handed_out)
    }

    pub(crate) fn release(&mut self, bytes: u64) {
        self.released += bytes;
        debug_assert!(self.released <= self.position, "only held bytes can be released");
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether a frame has arrived that is not acknowledged.
    #[inline]
    pub(crate) fn has_unacked(&self) -> bool {
        self.next > self.acked
    }

    /// Bytes that have arrived and are not acknowledged.
    #[inline]
    pub(crate) fn unacked_bytes(&self) -> u64 {
        self.position - self.acked_position
    }

    /// Returns the acknowledgement to send now, and records it as sent.
    pub(crate) fn take_ack(&mut self) -> u64 {
        (self.acked, self.acked_position) = (self.next, self.position);
        self.next
    }

    /// Bytes that can be granted but are not yet.
    #[inline]
    pub(crate) fn grantable(&self) -> u64 {
        self.released + self.window - self.granted
    }

    /// Whether enough can be granted for a `Credit` frame. A quarter of the window is enough. Less is enough while the
    /// peer has little credit left, because this side holds much: at most [`GRANT_BYTES_LEAST`], so that an answer always
    /// finds room in the credit that is kept for answers, and another part in the credit before it.
    #[inline]
    pub(crate) fn credit_due(&self) -> bool {
        let grantable = self.grantable();
        let is_short = self.granted - self.position < SHORT_BYTES_LEAST.max(self.window / 4);
        let least = (self.window / 64).min(GRANT_BYTES_LEAST);
        grantable >= self.window / 4 || (is_short && grantable >= least)
    }

    /// Returns the credit to send now, and records it as granted.
    pub(crate) fn take_credit(&mut self) -> u64 {
        self.granted = self.released + self.window;
        self.granted
    }

    pub(crate) fn tag_name(&self, id: TagId) -> Option<&str> {
        self.tags.get(id.0 as usize).map(|name| &**name)
    }

    /// Adds a type tag that the peer has numbered.
    pub(crate) fn add_tag(&mut self, tag: Tag<'_>, limits: &Limits) -> Result<(), PeerFault> {
        let expected = self.tags.len() as u64;
        if u64::from(tag.id.0) != expected || expected >= u64::from(limits.tags_max) {
            return Err(PeerFault::TagNumber { id: tag.id, expected });
        }
        if tag.name.len() > TAG_BYTES_MAX {
            let (value, limit) = (tag.name.len() as u64, TAG_BYTES_MAX as u64);
            return Err(Malformed::TooLarge { field: "type tag", value, limit }.into());
        }
        self.tags.push(tag.name.into());
        Ok(())
    }

    /// Checks that a frame's tag is known, and that the name of a node is short.
    #[inline]
    pub(crate) fn check_fields(&self, frame: &Frame<'_>) -> Result<(), PeerFault> {
        if let Frame::NodeAt(hint) = frame
            && hint.name.len() > NAME_BYTES_MAX
        {
            let (value, limit) = (hint.name.len() as u64, NAME_BYTES_MAX as u64);
            return Err(Malformed::TooLarge { field: "name", value, limit }.into());
        }
        match frame.tag() {
            Some(id) if id.0 as usize >= self.tags.len() => Err(PeerFault::UnknownTag { id }),
            Some(_) | None => Ok(()),
        }
    }

    /// Adds an arrived fragment. Returns the large frame if it is complete now.
    pub(crate) fn assemble(
        &mut self,
        fragment: Fragment<'_>,
        limits: &Limits,
    ) -> Result<Option<Assembled>, PeerFault> {
        let stream = fragment.stream;
        if fragment.data.is_empty() || fragment.data.len() > FRAGMENT_BYTES_MAX {
            return Err(PeerFault::Fragment { stream });
        }
        if let FragmentPart::First { kind, total } = fragment.part {
            self.begin_assembly(stream, kind, total, limits)?;
        }
        let assembly = self.assemblies.get_mut(&stream).ok_or(PeerFault::Fragment { stream })?;
        assembly.payload.extend_from_slice(fragment.data);
        let (arrived, total) = (assembly.payload.len(), assembly.total as usize);
        if arrived > total {
            return Err(PeerFault::Fragment { stream });
        }
        if arrived < total {
            return Ok(None);
        }
        let Some(Assembly { kind, payload, .. }) = self.assemblies.remove(&stream) else { return Ok(None) };
        self.declared -= total as u64;
        let frame = Frame::decode(kind, &payload)?;
        let unknown = Malformed::Unknown { field: "frame kind", value: kind.into() };
        self.check_fields(&frame.ok_or(unknown)?)?;
        Ok(Some(Assembled { kind, payload }))
    }

    fn begin_assembly(
        &mut self,
        stream: u32,
        kind: u8,
        total: u32,
        limits: &Limits,
    ) -> Result<(), PeerFault> {
        let most = limits.message_bytes_max.saturating_add(LARGE_FRAME_FIELDS_BYTES_MAX);
        let is_large = total as usize > FRAGMENT_BYTES_MAX && total <= most;
        let is_whole_frame = kind >= NUMBERED_FROM && kind != FRAGMENT && kind != TAG;
        let is_new = !self.assemblies.contains_key(&stream);
        if !is_large || !is_whole_frame || !is_new {
            return Err(PeerFault::Fragment { stream });
        }
        if !Frame::KINDS.iter().any(|(known, _)| *known == kind) {
            return Err(Malformed::Unknown { field: "frame kind", value: kind.into() }.into());
        }
        self.declared += u64::from(total);
        if !self.assemblies.is_empty() && self.declared > u64::from(limits.reassembly_bytes_max) {
            return Err(PeerFault::Reassembly { declared: self.declared });
        }
        self.assemblies.insert(stream, Assembly { kind, total, payload: Vec::new() });
        Ok(())
    }

    /// The number of type tags that the peer has numbered.
    pub(crate) fn tags_len(&self) -> u64 {
        self.tags.len() as u64
    }

    /// The bytes of incomplete large frames that have arrived.
    pub(crate) fn incomplete_bytes(&self) -> u64 {
        self.assemblies.values().map(|assembly| assembly.payload.len() as u64).sum()
    }

    /// Panics if an invariant does not hold.
    pub(crate) fn check(&self) {
        assert!(self.position <= self.granted, "received bytes were granted");
        let known = self.released + self.handed_out + self.withheld;
        assert!(known <= self.position, "released bytes were received");
        assert!(self.granted <= self.released + self.window, "granted bytes stay within one window");
        let declared: u64 = self.assemblies.values().map(|assembly| u64::from(assembly.total)).sum();
        assert_eq!(declared, self.declared, "declared bytes are counted");
        for assembly in self.assemblies.values() {
            assert!(
                assembly.payload.len() < assembly.total as usize,
                "a complete assembly is handed out at once"
            );
        }
    }
}

/// PROTOCOL.md states these two.
const SHORT_BYTES_LEAST: u64 = ANSWER_CREDIT_BYTES + PART_BYTES_MAX as u64;
const GRANT_BYTES_LEAST: u64 = 8 * 1024;
const TAG: u8 = 0x20;
const FRAGMENT: u8 = 0x21;
