//! A list of waiting frames, in order: small frames in buffers, and large frames.
//!
//! Most lists hold one small frame, for example a `Down`, and there may be very many lists. So such a list is no more than the frame.
//!
//! Invariants:
//! - A list that is `Many` holds an item.
//! - The serial numbers of items rise from the front to the back. An item keeps its number while it is in the list.
//! - A buffer of small frames holds at least one frame that was not removed.
//! - A removed frame stays in its buffer as a header of the kind [`REMOVED`] and its payload. At most half of a buffer is
//!   removed frames.

use std::collections::VecDeque;

use crate::frame::{self, Frame, HEADER_BYTES, RawFrame};

/// How the send queue treats a frame, by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameClass {
    /// It counts as bytes that wait for its receiving actor.
    Counted,
    /// It passes a pause of its receiving actor, and counts in the reserve.
    Urgent,
    /// An answer, or a frame that names no actor. It counts in the reserve.
    Reserved,
    /// It completes something that is open at the peer, which would stay open for ever without the frame. So it is never
    /// refused.
    Completion,
    /// A `Down` without a value or a text: a completion.
    Down,
}

impl FrameClass {
    /// The class of a frame of this kind, with a payload of `size` bytes.
    pub(crate) fn of(kind: u8, size: usize) -> FrameClass {
        match kind {
            frame::Message::KIND | frame::Monitor::KIND | frame::Notify::KIND => FrameClass::Counted,
            // A hint of a node passes a pause with the value that names the node.
            frame::Terminate::KIND | frame::Throw::KIND | frame::Resume::KIND | frame::NodeAt::KIND => {
                FrameClass::Urgent
            }
            // With a value or a text it can be refused, and is then sent without.
            frame::Down::KIND if size > DOWN_BYTES_LEAST => FrameClass::Reserved,
            frame::Down::KIND => FrameClass::Down,
            frame::Demonitor::KIND
            | frame::ReplyDropped::KIND
            | frame::Receipt::KIND
            | frame::Found::KIND
            | frame::CancelLookup::KIND
            | frame::Goodbye::KIND
            | frame::Lagged::KIND => FrameClass::Completion,
            _ => FrameClass::Reserved,
        }
    }

    /// The class of a frame.
    pub(crate) fn of_raw(raw: &RawFrame<'_>) -> FrameClass {
        FrameClass::of(raw.kind, raw.payload.len())
    }
}

/// Bytes of waiting frames, headers included, by their class.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitingBytes {
    /// Bytes that count for their receiving actors.
    pub(crate) counted: u64,
    /// Bytes in the reserve.
    pub(crate) reserved: u64,
    /// Bytes of completions but `Down`s.
    pub(crate) completions: u64,
    /// Bytes of `Down`s without a value or a text.
    pub(crate) downs: u64,
    /// The number of frames in the reserve.
    pub(crate) reserved_frames: u64,
}

impl WaitingBytes {
    pub(crate) fn of(class: FrameClass, bytes: u64) -> WaitingBytes {
        let mut waiting = WaitingBytes::default();
        match class {
            FrameClass::Counted => waiting.counted = bytes,
            FrameClass::Urgent | FrameClass::Reserved => {
                (waiting.reserved, waiting.reserved_frames) = (bytes, 1);
            }
            FrameClass::Completion => waiting.completions = bytes,
            FrameClass::Down => waiting.downs = bytes,
        }
        waiting
    }

    pub(crate) fn total(self) -> u64 {
        self.counted + self.reserved + self.completions + self.downs
    }
}

impl std::ops::AddAssign for WaitingBytes {
    #[inline]
    fn add_assign(&mut self, other: WaitingBytes) {
        self.counted += other.counted;
        self.reserved += other.reserved;
        self.completions += other.completions;
        self.downs += other.downs;
        self.reserved_frames += other.reserved_frames;
    }
}

impl std::ops::SubAssign for WaitingBytes {
    #[inline]
    fn sub_assign(&mut self, other: WaitingBytes) {
        self.counted -= other.counted;
        self.reserved -= other.reserved;
        self.completions -= other.completions;
        self.downs -= other.downs;
        self.reserved_frames -= other.reserved_frames;
    }
}

/// The frames at the front of a list among which a `Monitor` is looked for. It is the first frame of a pair most often.
const MONITORS_EXAMINED: usize = 8;

/// Waiting frames in order.
#[derive(Debug, Default)]
pub(super) enum FrameList {
    #[default]
    Empty,
    /// One small frame, with its header. The serial number of its item is [`FIRST_SERIAL`].
    Single(Box<[u8]>),
    Many(Box<FrameItems>),
}

/// The items of a list.
#[derive(Debug, Default)]
pub(super) struct FrameItems {
    items: VecDeque<ListItem>,
    /// The number of urgent frames.
    urgent: u32,
}

#[derive(Debug)]
pub(super) struct ListItem {
    serial: i64,
    pub(super) frames: QueuedFrames,
}

#[derive(Debug)]
pub(super) enum QueuedFrames {
    Small(SmallFrames),
    Large(LargeFrame),
}

/// A buffer of encoded small frames.
#[derive(Debug, Default)]
pub(super) struct SmallFrames {
    pub(super) bytes: Vec<u8>,
    /// The number of frames that were not removed.
    pub(super) frames: u32,
    /// How many of them are urgent.
    urgent: u32,
    /// How many of them are messages that ask for a receipt.
    pub(super) receipts: u32,
    /// Bytes of removed frames.
    pub(super) removed: usize,
    pub(super) waiting: WaitingBytes,
}

/// A large frame, which is moved in fragments.
#[derive(Debug)]
pub(super) struct LargeFrame {
    pub(super) kind: u8,
    /// The number of its stream, from the first fragment on.
    pub(super) stream: Option<u32>,
    pub(super) payload: Vec<u8>,
    /// Bytes of the payload that were moved.
    pub(super) taken: usize,
}

impl QueuedFrames {
    /// Whether it is a large frame, not yet begun, for which the peer has no room beside those that are `in_progress`.
    pub(super) fn has_to_wait(&self, in_progress: u64, reassembly_bytes_max: u64) -> bool {
        match self {
            QueuedFrames::Large(LargeFrame { stream: None, payload, .. }) => {
                in_progress > 0 && in_progress + payload.len() as u64 > reassembly_bytes_max
            }
            QueuedFrames::Large(_) | QueuedFrames::Small(_) => false,
        }
    }

    /// Whether it is a large frame of which some fragments were moved.
    fn is_begun(&self) -> bool {
        matches!(self, QueuedFrames::Large(LargeFrame { stream: Some(_), .. }))
    }

    /// Calls `each` with its frames, and whether a part of the frame was moved.
    pub(super) fn report(&self, each: &mut impl FnMut(&Frame<'_>, bool)) {
        let mut report = |kind, payload: &[u8], is_begun| {
            if let Ok(Some(frame)) = Frame::decode(kind, payload) {
                each(&frame, is_begun);
            }
        };
        match self {
            QueuedFrames::Large(large) => report(large.kind, &large.payload, large.taken > 0),
            QueuedFrames::Small(small) => {
                small.iter().for_each(|(_, raw)| report(raw.kind, raw.payload, false));
            }
        }
    }

    pub(super) fn waiting(&self) -> WaitingBytes {
        match self {
            QueuedFrames::Small(small) => small.waiting,
            QueuedFrames::Large(large) => large.waiting(),
        }
    }

    fn urgent(&self) -> u32 {
        match self {
            QueuedFrames::Small(small) => small.urgent,
            QueuedFrames::Large(large) => u32::from(large.class() == FrameClass::Urgent),
        }
    }
}

impl LargeFrame {
    pub(super) fn class(&self) -> FrameClass {
        FrameClass::of(self.kind, self.payload.len())
    }

    /// The header counts until the whole frame is moved.
    pub(super) fn waiting(&self) -> WaitingBytes {
        let bytes = HEADER_BYTES + self.payload.len() - self.taken;
        WaitingBytes::of(self.class(), bytes as u64)
    }

    /// The number of the receipt that it asks for.
    pub(super) fn receipt(&self) -> Option<u64> {
        message_receipt(self.kind, &self.payload)
    }
}

impl SmallFrames {
    /// A buffer of one frame.
    fn of_one(frame: Box<[u8]>) -> SmallFrames {
        let mut small = SmallFrames { bytes: frame.into_vec(), ..SmallFrames::default() };
        small.count(0);
        small
    }

    /// Counts the frame at the back, which begins at `start`.
    #[inline]
    fn count(&mut self, start: usize) {
        let frame = &self.bytes[start..];
        let kind = frame[0];
        self.frames += 1;
        self.receipts += u32::from(message_receipt(kind, &frame[HEADER_BYTES..]).is_some());
        let class = FrameClass::of(kind, frame.len() - HEADER_BYTES);
        self.urgent += u32::from(class == FrameClass::Urgent);
        self.waiting += WaitingBytes::of(class, frame.len() as u64);
    }

    /// The frames that were not removed, each with its offset.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, RawFrame<'_>)> {
        let mut rest = self.bytes.as_slice();
        let all = std::iter::from_fn(move || {
            let offset = self.bytes.len() - rest.len();
            RawFrame::take_from(&mut rest).ok().flatten().map(|raw| (offset, raw))
        });
        all.filter(|(_, raw)| raw.kind != REMOVED)
    }

    /// Removes the frame at `offset`.
    fn remove(&mut self, offset: usize) {
        let mut rest = &self.bytes[offset..];
        let Ok(Some(raw)) = RawFrame::take_from(&mut rest) else { return };
        let (class, bytes) = (FrameClass::of_raw(&raw), raw.bytes_len());
        self.frames -= 1;
        self.receipts -= u32::from(receipt_of(&raw).is_some());
        self.urgent -= u32::from(class == FrameClass::Urgent);
        self.waiting -= WaitingBytes::of(class, bytes as u64);
        self.removed += bytes;
        self.bytes[offset] = REMOVED;
    }

    /// Frees the bytes of removed frames, if they are more than half of the buffer.
    fn compact(&mut self) {
        if self.removed * 2 <= self.bytes.len() {
            return;
        }
        let mut kept = Vec::with_capacity(self.bytes.len() - self.removed);
        for (offset, raw) in self.iter() {
            kept.extend_from_slice(&self.bytes[offset..offset + raw.bytes_len()]);
        }
        (self.bytes, self.removed) = (kept, 0);
    }
}

impl FrameList {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, FrameList::Empty)
    }

    /// Whether a frame is urgent.
    pub(super) fn has_urgent(&self) -> bool {
        match self {
            FrameList::Empty => false,
            FrameList::Single(frame) => class_of_bytes(frame) == FrameClass::Urgent,
            FrameList::Many(many) => many.urgent > 0,
        }
    }

    fn front(&self) -> Option<&QueuedFrames> {
        match self {
            FrameList::Empty | FrameList::Single(_) => None,
            FrameList::Many(many) => many.items.front().map(|item| &item.frames),
        }
    }

    /// Whether the frames at the front can be moved now: see [`QueuedFrames::has_to_wait`].
    pub(super) fn can_move(&self, in_progress: u64, reassembly_bytes_max: u64) -> bool {
        match self.front() {
            Some(frames) => !frames.has_to_wait(in_progress, reassembly_bytes_max),
            None => !self.is_empty(),
        }
    }

    /// Whether small frames are at the front.
    pub(super) fn begins_small(&self) -> bool {
        match self.front() {
            Some(frames) => matches!(frames, QueuedFrames::Small(_)),
            None => !self.is_empty(),
        }
    }

    /// Whether a large frame of which some fragments were moved is at the front.
    pub(super) fn is_begun(&self) -> bool {
        self.front().is_some_and(QueuedFrames::is_begun)
    }

    pub(super) fn pop_front(&mut self) -> Option<ListItem> {
        match self {
            FrameList::Empty => None,
            FrameList::Single(frame) => {
                let small = SmallFrames::of_one(std::mem::take(frame));
                *self = FrameList::Empty;
                Some(ListItem { serial: FIRST_SERIAL, frames: QueuedFrames::Small(small) })
            }
            FrameList::Many(many) => {
                let item = many.items.pop_front()?;
                many.urgent -= item.frames.urgent();
                self.forget_if_empty();
                Some(item)
            }
        }
    }

    /// Returns an item that was taken from the front.
    pub(super) fn return_front(&mut self, item: ListItem) {
        let many = self.many();
        many.urgent += item.frames.urgent();
        many.items.push_front(item);
    }

    /// The items, to which one is added.
    fn many(&mut self) -> &mut FrameItems {
        if let FrameList::Empty | FrameList::Single(_) = self {
            let mut many = Box::<FrameItems>::default();
            if let Some(item) = self.pop_front() {
                many.urgent += item.frames.urgent();
                many.items.push_back(item);
            }
            *self = FrameList::Many(many);
        }
        match self {
            FrameList::Many(many) => many,
            FrameList::Empty | FrameList::Single(_) => unreachable!("the list was changed"),
        }
    }

    fn forget_if_empty(&mut self) {
        if let FrameList::Many(many) = self
            && many.items.is_empty()
        {
            *self = FrameList::Empty;
        }
    }

    /// Adds a small frame of `bytes` bytes, which `put` appends to a buffer. Returns the serial number of its item. A full
    /// buffer is followed by one of `spare`.
    #[inline]
    pub(super) fn push_small(
        &mut self,
        bytes: usize,
        spare: &mut Vec<Vec<u8>>,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> i64 {
        if let FrameList::Empty = self {
            let mut frame = Vec::with_capacity(bytes);
            put(&mut frame);
            *self = FrameList::Single(frame.into_boxed_slice());
            return FIRST_SERIAL;
        }
        self.many().push_small(bytes, spare, put)
    }

    /// Adds a large frame. Returns the serial number of its item.
    pub(super) fn push_large(&mut self, large: LargeFrame) -> i64 {
        self.many().push_back(QueuedFrames::Large(large))
    }

    /// Adds a large frame before all others.
    pub(super) fn push_front(&mut self, large: LargeFrame) {
        let many = self.many();
        let serial = many.items.front().map_or(FIRST_SERIAL, |front| front.serial - 1);
        self.return_front(ListItem { serial, frames: QueuedFrames::Large(large) });
    }

    /// Removes the message that asks for this receipt from the item with this serial number. Returns its bytes; `None` if
    /// there is none, or a fragment of it was moved.
    pub(super) fn withdraw(&mut self, serial: i64, receipt: u64) -> Option<WaitingBytes> {
        let withdrawn = match self {
            FrameList::Empty => None,
            FrameList::Single(frame) => {
                let is_it = message_receipt(frame[0], &frame[HEADER_BYTES..]) == Some(receipt);
                let bytes = is_it.then(|| waiting_of_bytes(frame))?;
                *self = FrameList::Empty;
                Some(bytes)
            }
            FrameList::Many(many) => many.withdraw(serial, receipt),
        };
        self.forget_if_empty();
        withdrawn
    }

    /// Removes the `Monitor` with this number, if it is among the first frames. Returns its bytes.
    pub(super) fn withdraw_monitor(&mut self, id: u64) -> Option<WaitingBytes> {
        let withdrawn = match self {
            FrameList::Empty => None,
            FrameList::Single(frame) => {
                let is_it = monitor_id(frame[0], &frame[HEADER_BYTES..]) == Some(id);
                let bytes = is_it.then(|| waiting_of_bytes(frame))?;
                *self = FrameList::Empty;
                Some(bytes)
            }
            FrameList::Many(many) => many.withdraw_monitor(id),
        };
        self.forget_if_empty();
        withdrawn
    }

    /// Moves all urgent frames to the back of `into`, except a large one at the front of which some fragments were moved. It
    /// is returned instead.
    pub(super) fn move_urgent(
        &mut self,
        into: &mut FrameList,
        spare: &mut Vec<Vec<u8>>,
    ) -> Option<LargeFrame> {
        match self {
            FrameList::Empty => None,
            FrameList::Single(frame) => {
                if class_of_bytes(frame) == FrameClass::Urgent {
                    into.push_small(frame.len(), spare, |bytes| bytes.extend_from_slice(frame));
                    *self = FrameList::Empty;
                }
                None
            }
            FrameList::Many(many) => {
                let begun = many.move_urgent(into, spare);
                self.forget_if_empty();
                begun
            }
        }
    }

    /// Calls `each` with its frames, and whether a part of the frame was moved.
    #[cfg(test)]
    pub(super) fn report(&self, each: &mut impl FnMut(&Frame<'_>, bool)) {
        match self {
            FrameList::Empty => {}
            FrameList::Single(frame) => {
                QueuedFrames::Small(SmallFrames::of_one(frame.clone())).report(each);
            }
            FrameList::Many(many) => many.items.iter().for_each(|item| item.frames.report(each)),
        }
    }

    /// The receipts that its messages ask for, without large ones that have begun.
    pub(super) fn receipts(&self) -> Vec<u64> {
        match self {
            FrameList::Empty => Vec::new(),
            FrameList::Single(frame) => {
                message_receipt(frame[0], &frame[HEADER_BYTES..]).into_iter().collect()
            }
            FrameList::Many(many) => {
                let of_item = |item: &ListItem| match &item.frames {
                    QueuedFrames::Small(small) => {
                        small.iter().filter_map(|(_, raw)| receipt_of(&raw)).collect()
                    }
                    QueuedFrames::Large(large) if large.stream.is_none() => {
                        large.receipt().into_iter().collect()
                    }
                    QueuedFrames::Large(_) => Vec::new(),
                };
                many.items.iter().flat_map(of_item).collect()
            }
        }
    }

    /// The payload bytes of its large frames that have begun.
    pub(super) fn in_progress(&self) -> u64 {
        let FrameList::Many(many) = self else { return 0 };
        let begun = many.items.iter().filter(|item| item.frames.is_begun());
        let bytes = begun.map(|item| match &item.frames {
            QueuedFrames::Large(large) => large.payload.len() as u64,
            QueuedFrames::Small(_) => 0,
        });
        bytes.sum()
    }

    /// Panics if an invariant does not hold. Returns the bytes of all frames.
    pub(super) fn check(&self) -> WaitingBytes {
        match self {
            FrameList::Empty => WaitingBytes::default(),
            FrameList::Single(frame) => {
                let mut rest = &frame[..];
                let first = RawFrame::take_from(&mut rest);
                assert!(matches!(first, Ok(Some(raw)) if raw.kind != REMOVED), "it is a frame");
                assert!(rest.is_empty(), "it is a single frame");
                waiting_of_bytes(frame)
            }
            FrameList::Many(many) => many.check(),
        }
    }
}

impl FrameItems {
    fn push_back(&mut self, frames: QueuedFrames) -> i64 {
        let serial = self.items.back().map_or(FIRST_SERIAL, |last| last.serial + 1);
        self.urgent += frames.urgent();
        self.items.push_back(ListItem { serial, frames });
        serial
    }

    #[inline]
    fn push_small(&mut self, bytes: usize, spare: &mut Vec<Vec<u8>>, put: impl FnOnce(&mut Vec<u8>)) -> i64 {
        let new = match self.items.back() {
            Some(ListItem { frames: QueuedFrames::Small(small), .. }) => {
                let is_full = small.bytes.len() + bytes > SMALL_BYTES_MAX;
                is_full.then(|| spare.pop().unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES_MAX)))
            }
            // The first buffer grows, so a list with little to send keeps little memory.
            Some(_) | None => Some(Vec::new()),
        };
        if let Some(bytes) = new {
            self.push_back(QueuedFrames::Small(SmallFrames { bytes, ..SmallFrames::default() }));
        }
        let Some(ListItem { serial, frames: QueuedFrames::Small(small) }) = self.items.back_mut() else {
            unreachable!("a buffer was added")
        };
        let (start, urgent) = (small.bytes.len(), small.urgent);
        put(&mut small.bytes);
        small.count(start);
        self.urgent += small.urgent - urgent;
        *serial
    }

    fn withdraw(&mut self, serial: i64, receipt: u64) -> Option<WaitingBytes> {
        let index = self.items.binary_search_by_key(&serial, |item| item.serial).ok()?;
        match &mut self.items[index].frames {
            QueuedFrames::Large(large) => {
                if large.stream.is_some() || large.receipt() != Some(receipt) {
                    return None;
                }
                let bytes = large.waiting();
                self.items.remove(index);
                Some(bytes)
            }
            QueuedFrames::Small(small) => {
                let found = small.iter().find(|(_, raw)| receipt_of(raw) == Some(receipt));
                let offset = found?.0;
                Some(self.remove_small(index, offset))
            }
        }
    }

    fn withdraw_monitor(&mut self, id: u64) -> Option<WaitingBytes> {
        let QueuedFrames::Small(small) = &self.items.front()?.frames else { return None };
        let is_it = |(offset, raw): (usize, RawFrame<'_>)| {
            (monitor_id(raw.kind, raw.payload) == Some(id)).then_some(offset)
        };
        let offset = small.iter().take(MONITORS_EXAMINED).find_map(is_it)?;
        Some(self.remove_small(0, offset))
    }

    /// Removes the small frame at an offset of an item. Returns its bytes.
    fn remove_small(&mut self, index: usize, offset: usize) -> WaitingBytes {
        let QueuedFrames::Small(small) = &mut self.items[index].frames else {
            return WaitingBytes::default();
        };
        let mut bytes = small.waiting;
        small.remove(offset);
        bytes -= small.waiting;
        self.tidy(index);
        bytes
    }

    fn move_urgent(&mut self, into: &mut FrameList, spare: &mut Vec<Vec<u8>>) -> Option<LargeFrame> {
        let mut begun = None;
        let mut index = 0;
        while index < self.items.len() && self.urgent > 0 {
            match &mut self.items[index].frames {
                QueuedFrames::Large(large) if large.class() == FrameClass::Urgent => {
                    self.urgent -= 1;
                    match self.items.remove(index).map(|item| item.frames) {
                        Some(QueuedFrames::Large(large)) if large.stream.is_some() => begun = Some(large),
                        Some(QueuedFrames::Large(large)) => {
                            into.push_large(large);
                        }
                        Some(QueuedFrames::Small(_)) | None => {}
                    }
                    continue;
                }
                QueuedFrames::Small(small) if small.urgent > 0 => {
                    let urgent =
                        small.iter().filter(|(_, raw)| FrameClass::of_raw(raw) == FrameClass::Urgent);
                    let offsets: Vec<(usize, usize)> =
                        urgent.map(|(offset, raw)| (offset, raw.bytes_len())).collect();
                    for (offset, length) in offsets {
                        let frame = &small.bytes[offset..offset + length];
                        into.push_small(length, spare, |bytes| bytes.extend_from_slice(frame));
                        small.remove(offset);
                        self.urgent -= 1;
                    }
                    if self.tidy(index) {
                        continue;
                    }
                }
                QueuedFrames::Large(_) | QueuedFrames::Small(_) => {}
            }
            index += 1;
        }
        begun
    }

    /// Removes the buffer at `index` if no frame is left in it, and else frees what removed frames occupy. Returns whether
    /// it removed the buffer.
    fn tidy(&mut self, index: usize) -> bool {
        let QueuedFrames::Small(small) = &mut self.items[index].frames else { return false };
        if small.frames == 0 {
            self.items.remove(index);
            return true;
        }
        small.compact();
        false
    }

    fn check(&self) -> WaitingBytes {
        assert!(!self.items.is_empty(), "a list without items is `Empty`");
        assert!(self.items.iter().is_sorted_by_key(|item| item.serial), "serial numbers rise");
        let mut waiting = WaitingBytes::default();
        for frames in self.items.iter().map(|item| &item.frames) {
            waiting += frames.waiting();
            let QueuedFrames::Small(small) = frames else { continue };
            assert!(small.frames > 0, "a buffer holds a frame");
            assert!(small.removed * 2 <= small.bytes.len(), "removed frames are freed");
            // This visits every frame, which is too much for a simulator.
            if !cfg!(test) {
                continue;
            }
            let mut counted = SmallFrames::default();
            for (offset, raw) in small.iter() {
                let start = counted.bytes.len();
                counted.bytes.extend_from_slice(&small.bytes[offset..offset + raw.bytes_len()]);
                counted.count(start);
            }
            let counts = |small: &SmallFrames| (small.frames, small.urgent, small.receipts, small.waiting);
            assert_eq!(counts(small), counts(&counted), "a buffer counts its frames");
            assert_eq!(small.bytes.len() - small.removed, counted.bytes.len(), "removed bytes are counted");
        }
        assert_eq!(
            self.items.iter().map(|item| item.frames.urgent()).sum::<u32>(),
            self.urgent,
            "urgent frames are counted"
        );
        waiting
    }
}

/// The class of an encoded frame.
fn class_of_bytes(frame: &[u8]) -> FrameClass {
    FrameClass::of(frame[0], frame.len() - HEADER_BYTES)
}

/// The bytes of an encoded frame, by its class.
fn waiting_of_bytes(frame: &[u8]) -> WaitingBytes {
    WaitingBytes::of(class_of_bytes(frame), frame.len() as u64)
}

/// The number of the receipt that a frame asks for, if it is a message that asks for one.
pub(super) fn receipt_of(raw: &RawFrame<'_>) -> Option<u64> {
    message_receipt(raw.kind, raw.payload)
}

/// The number of a `Monitor`.
fn monitor_id(kind: u8, payload: &[u8]) -> Option<u64> {
    if kind != frame::Monitor::KIND {
        return None;
    }
    match Frame::decode(kind, payload) {
        Ok(Some(Frame::Monitor(monitor))) => Some(monitor.id),
        _ => None,
    }
}

/// As [`receipt_of`]. It reads two fields only.
#[inline]
fn message_receipt(kind: u8, payload: &[u8]) -> Option<u64> {
    if kind != frame::Message::KIND || *payload.get(RECEIPT_OFFSET)? == 0 {
        return None;
    }
    let number = payload.get(RECEIPT_OFFSET + 1..)?.first_chunk()?;
    Some(u64::from_le_bytes(*number))
}

/// The bytes of the payload of a `Down` without a value or a text: watcher, actor, node, id and reason.
pub(super) const DOWN_BYTES_LEAST: usize = 4 * 8 + 1;
/// The serial number of the first item of a list that was empty.
const FIRST_SERIAL: i64 = 0;
/// The kind of a removed frame. No frame has it.
const REMOVED: u8 = 0;
/// The bytes before the receipt of a message: receiver, sender and type tag.
const RECEIPT_OFFSET: usize = 8 + 8 + 4;
/// Maximum bytes of a buffer, unless a single frame is larger. A buffer is one part, about as large as a fragment; four
/// buffers fit a segment.
pub(super) const SMALL_BYTES_MAX: usize = 16_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Route;
    use crate::frame::{Message, Terminate};
    use crate::ids::{Key, TagId};

    fn message(receipt: Option<u64>, body: &[u8]) -> Frame<'_> {
        Message {
            to: Key::from_bits(2),
            from: Key::from_bits(1),
            tag: TagId(0),
            receipt,
            route: Route::NONE,
            body,
        }
        .into()
    }

    fn push(list: &mut FrameList, frame: &Frame<'_>) -> i64 {
        let length = u16::try_from(frame.payload_size()).expect("a small frame");
        let bytes = HEADER_BYTES + frame.payload_size();
        list.push_small(bytes, &mut Vec::new(), |bytes| frame.put_with_header(length, bytes))
    }

    #[test]
    fn receipt_is_read_from_encoded_message() {
        for receipt in [None, Some(0), Some(u64::MAX)] {
            let mut bytes = Vec::new();
            message(receipt, b"body").encode(&mut bytes).expect("a small frame");
            let raw = RawFrame::take_from(&mut bytes.as_slice()).expect("a frame").expect("a frame");
            assert_eq!(receipt_of(&raw), receipt);
        }
    }

    #[test]
    fn withdrawn_messages_free_their_memory() {
        let mut list = FrameList::default();
        let body = [7; 100];
        let serials: Vec<i64> =
            (0..10_000).map(|receipt| push(&mut list, &message(Some(receipt), &body))).collect();
        for (receipt, serial) in (0_u64..).zip(serials) {
            if receipt % 100 == 0 {
                continue;
            }
            let bytes = list.withdraw(serial, receipt).expect("the message waits");
            assert_eq!(bytes, WaitingBytes { counted: 135, ..WaitingBytes::default() });
            assert_eq!(list.withdraw(serial, receipt), None, "it is withdrawn once");
        }
        assert_eq!(list.check().counted, 100 * 135);
        let capacity = |item: &ListItem| match &item.frames {
            QueuedFrames::Small(small) => small.bytes.capacity(),
            QueuedFrames::Large(_) => 0,
        };
        let FrameList::Many(many) = &list else { panic!("messages wait") };
        let kept: usize = many.items.iter().map(capacity).sum();
        assert!(kept <= 100 * 135 * 2 + 2 * SMALL_BYTES_MAX, "{kept} bytes are kept for 100 messages");
    }

    #[test]
    fn urgent_frames_move_in_order() {
        let (mut list, mut urgent) = (FrameList::default(), FrameList::default());
        for number in 0..1000 {
            push(&mut list, &message(None, b"body"));
            push(
                &mut list,
                &Terminate { from: Key::from_bits(number), target: Key::from_bits(2), grace: None }.into(),
            );
        }
        assert!(list.move_urgent(&mut urgent, &mut Vec::new()).is_none());
        assert!(!list.has_urgent());
        assert_eq!(list.check().counted, 1000 * 31);
        assert_eq!(urgent.check().reserved, 1000 * 21);
        let mut order = Vec::new();
        urgent.report(&mut |frame, _| match frame {
            Frame::Terminate(terminate) => order.push(terminate.from.to_bits()),
            other => panic!("{} is not urgent", other.name()),
        });
        assert_eq!(order, (0..1000).collect::<Vec<u64>>());
    }
}
