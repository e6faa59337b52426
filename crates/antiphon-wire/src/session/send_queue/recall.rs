//! Recalls frames for a paused actor from [`Outbound`] into the send queue. Otherwise a burst of more than one window to a
//! blocked actor would use up the credit of all other actors.
//!
//! Invariants:
//! - Only frames of which no byte was ever transmitted are recalled, so no frame number that the peer may know changes.
//! - All such frames of a pair are recalled, in order, and put before the frames that wait in its list. Urgent frames stay,
//!   because they pass a pause.
//! - A large frame is recalled completely. Once its first fragment is transmitted it is not recalled at all, because the
//!   peer has reserved room for it.

use std::collections::BTreeMap;

use crate::frame::{Fragment, FragmentPart, Frame, HEADER_BYTES};
use crate::ids::{Pair, Recipient};
use crate::session::outbound::{Outbound, UnsentFrame};
use crate::session::send_queue::frame_list::{FrameClass, FrameList, LargeFrame, WaitingBytes};
use crate::session::send_queue::{SendQueue, Source};

impl SendQueue {
    /// Recalls the frames for paused actors, if an actor was paused since the last recall. A recall visits every unsent
    /// frame, so it runs once before a transmission, however many actors were paused and unpaused meanwhile.
    pub(crate) fn recall(&mut self, outbound: &mut Outbound) {
        // No frame before a goodbye is recalled, because no frame can follow a goodbye.
        if !std::mem::take(&mut self.recall_due) || self.is_closed || !self.can_recall(outbound) {
            return;
        }
        let mut recall = Recall { send_queue: self, taken: BTreeMap::new(), streams: BTreeMap::new() };
        outbound.recall(|unsent, number| recall.takes(unsent, number));
        recall.put_back();
    }

    fn can_recall(&self, outbound: &Outbound) -> bool {
        outbound.unsent().any(|unsent| unsent.pair.is_some_and(|pair| self.is_held(pair.to())))
    }

    /// Counts bytes that wait for a receiver again.
    fn count_recalled(&mut self, to: Recipient, bytes: WaitingBytes) {
        self.waiting += bytes;
        if let Some(queues) = self.recipients.get_mut(&to) {
            queues.counted += bytes.counted;
        }
    }
}

/// The state of one recall.
struct Recall<'a> {
    send_queue: &'a mut SendQueue,
    /// The recalled frames, to be put before the frames in the list of their pair.
    taken: BTreeMap<Pair, FrameList>,
    /// The recalled large frames, by stream.
    streams: BTreeMap<u32, PayloadSource>,
}

/// The place of the payload of a recalled large frame.
enum PayloadSource {
    /// The queue still has the complete payload.
    Queue,
    /// Only the fragments have it: the payload is assembled from them.
    Fragments,
}

impl Recall<'_> {
    /// Recalls a frame if it is for a paused actor; returns whether it did. The frame gets `number` if it stays.
    fn takes(&mut self, unsent: &UnsentFrame<'_>, number: u64) -> bool {
        let pair = unsent.pair.filter(|pair| self.send_queue.is_held(pair.to()));
        if unsent.raw.kind == Fragment::KIND {
            let Ok(Some(Frame::Fragment(fragment))) = unsent.raw.decode() else { return false };
            let is_taken = pair.is_some_and(|pair| self.takes_fragment(pair, &fragment));
            if !is_taken {
                self.renumber(fragment.stream, number);
            }
            return is_taken;
        }
        let class = FrameClass::of(unsent.raw.kind);
        let Some(pair) = pair.filter(|_| class != FrameClass::Urgent) else { return false };
        let list = self.taken.entry(pair).or_default();
        let put = |bytes: &mut Vec<u8>| bytes.extend_from_slice(unsent.bytes);
        list.push_small(unsent.bytes.len(), &mut self.send_queue.spare, put);
        let bytes = WaitingBytes::of(class, unsent.bytes.len() as u64);
        self.send_queue.count_recalled(pair.to(), bytes);
        true
    }

    fn takes_fragment(&mut self, pair: Pair, fragment: &Fragment<'_>) -> bool {
        if let FragmentPart::First { kind, total } = fragment.part {
            let class = FrameClass::of(kind);
            if class == FrameClass::Urgent {
                return false;
            }
            let source = if self.send_queue.restart_large(pair, fragment.stream) {
                PayloadSource::Queue
            } else {
                let payload = Vec::with_capacity(total as usize);
                let large = LargeFrame { pair: Some(pair), kind, stream: None, payload, taken: 0 };
                self.taken.entry(pair).or_default().push_large(large);
                self.send_queue.count_recalled(pair.to(), WaitingBytes::of(class, HEADER_BYTES as u64));
                self.send_queue.unacknowledged.retain(|sent| sent.stream != fragment.stream);
                PayloadSource::Fragments
            };
            self.streams.insert(fragment.stream, source);
        }
        match self.streams.get(&fragment.stream) {
            // The first fragment was transmitted, so the rest must follow.
            None => false,
            Some(PayloadSource::Queue) => true,
            Some(PayloadSource::Fragments) => {
                let Some(large) = self.taken.get_mut(&pair).and_then(FrameList::back_large) else {
                    return false;
                };
                large.payload.extend_from_slice(fragment.data);
                let bytes = WaitingBytes::of(large.class(), fragment.data.len() as u64);
                self.send_queue.count_recalled(pair.to(), bytes);
                true
            }
        }
    }

    /// Records the new number of a fragment that stays.
    fn renumber(&mut self, stream: u32, number: u64) {
        for sent in self.send_queue.unacknowledged.iter_mut().filter(|sent| sent.stream == stream) {
            sent.last_frame = number;
        }
    }

    /// Puts the recalled frames before the waiting frames of their pairs.
    fn put_back(self) {
        let queue = self.send_queue;
        let mut changed: Vec<Pair> = self.taken.keys().copied().collect();
        for (pair, taken) in self.taken {
            let Some(queues) = queue.recipients.get_mut(&pair.to()) else { continue };
            let list = queues.lists.entry(pair.from()).or_default();
            for (receipt, serial) in list.prepend(taken) {
                queue.receipts.insert(receipt, (pair, serial));
            }
        }
        changed.dedup_by_key(|pair| pair.to());
        for pair in changed {
            queue.update_room(pair.to());
            queue.refresh(pair.to());
        }
    }
}

impl SendQueue {
    /// Restarts the large frame at the front of the list of `pair`, if it has this stream number. No part of it was
    /// transmitted.
    fn restart_large(&mut self, pair: Pair, number: u32) -> bool {
        let Some(list) = self.list_mut(Source::Pair(pair)) else { return false };
        let Some(large) = list.front_large().filter(|large| large.stream == Some(number)) else {
            return false;
        };
        let before = large.waiting();
        (large.stream, large.taken) = (None, 0);
        let (total, receipt) = (large.payload.len() as u64, large.receipt());
        let mut returned = large.waiting();
        returned -= before;
        let serial = list.front_serial();
        if let (Some(receipt), Some(serial)) = (receipt, serial) {
            self.receipts.insert(receipt, (pair, serial));
        }
        self.in_progress -= total;
        self.begun.remove(&pair);
        self.count_recalled(pair.to(), returned);
        self.update_room(pair.to());
        self.refresh(pair.to());
        true
    }
}
