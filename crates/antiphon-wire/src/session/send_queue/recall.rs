//! Recalls frames for a paused actor from [`Outbound`] into the send queue. Otherwise a burst of more than one window to a
//! blocked actor would use up the credit of all other actors.
//!
//! Invariants:
//! - Only frames of which no byte was ever transmitted are recalled, so no frame number that the peer may know changes.
//! - All such frames of a pair are recalled, in order, and put before the frames that wait in its queue.
//! - A large frame is recalled completely. Once its first fragment is transmitted it is not recalled at all, because the
//!   peer has reserved room for it.

use std::collections::{BTreeMap, VecDeque};

use crate::frame::{Fragment, FragmentPart, Frame, Goodbye};
use crate::ids::Pair;
use crate::session::outbound::{Outbound, UnsentFrame};
use crate::session::send_queue::{PairQueue, QueuedFrame, SendQueue};

impl SendQueue {
    /// Recalls the frames for paused actors, if an actor was paused since the last recall. A recall visits every unsent
    /// frame, so it runs once before a transmission, however many actors were paused and unpaused meanwhile.
    pub(crate) fn recall(&mut self, outbound: &mut Outbound) {
        if !std::mem::take(&mut self.recall_due) || !self.can_recall(outbound) {
            return;
        }
        let mut recall = Recall { send_queue: self, taken: BTreeMap::new(), streams: BTreeMap::new() };
        outbound.recall(|unsent, number| recall.takes(unsent, number));
        recall.put_back();
    }

    /// Whether a frame can be recalled. No frame before a goodbye is, because no frame can follow a goodbye.
    fn can_recall(&self, outbound: &Outbound) -> bool {
        let mut is_any = false;
        for unsent in outbound.unsent() {
            if unsent.raw.kind == Goodbye::KIND {
                return false;
            }
            is_any |= unsent.pair.is_some_and(|pair| self.is_held(pair));
        }
        is_any
    }
}

/// The state of one recall.
struct Recall<'a> {
    send_queue: &'a mut SendQueue,
    /// The recalled frames, to be put before the frames in the queue of their pair.
    taken: BTreeMap<Pair, PairQueue>,
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
        let pair = unsent.pair.filter(|pair| self.send_queue.is_held(*pair));
        if unsent.raw.kind == Fragment::KIND {
            let Ok(Some(Frame::Fragment(fragment))) = unsent.raw.decode() else { return false };
            let is_taken = pair.is_some_and(|pair| self.takes_fragment(pair, &fragment));
            if !is_taken {
                self.renumber(fragment.stream, number);
            }
            return is_taken;
        }
        let Some(pair) = pair else { return false };
        self.taken.entry(pair).or_default().extend_small(|bytes| bytes.extend_from_slice(unsent.bytes));
        self.send_queue.bytes += unsent.bytes.len() as u64;
        true
    }

    fn takes_fragment(&mut self, pair: Pair, fragment: &Fragment<'_>) -> bool {
        if let FragmentPart::First { kind, total } = fragment.part {
            let source = if self.send_queue.restart_large(pair, fragment.stream) {
                PayloadSource::Queue
            } else {
                let payload = Vec::with_capacity(total as usize);
                let item = QueuedFrame::Large { kind, stream: None, payload, taken: 0 };
                self.taken.entry(pair).or_default().items.push_back(item);
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
                let last = self.taken.get_mut(&pair).and_then(|pair_queue| pair_queue.items.back_mut());
                let Some(QueuedFrame::Large { payload, .. }) = last else { return false };
                payload.extend_from_slice(fragment.data);
                self.send_queue.bytes += fragment.data.len() as u64;
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
        for (pair, taken) in self.taken {
            let mut items: VecDeque<QueuedFrame> = taken.items;
            let pair_queue = self.send_queue.queues.entry(Some(pair)).or_default();
            items.append(&mut pair_queue.items);
            pair_queue.items = items;
        }
    }
}

impl SendQueue {
    /// Restarts the large frame at the front of the queue of `pair`, if it has this stream number. No part of it was
    /// transmitted.
    fn restart_large(&mut self, pair: Pair, number: u32) -> bool {
        let front = self.queues.get_mut(&Some(pair)).and_then(|pair_queue| pair_queue.items.front_mut());
        let Some(QueuedFrame::Large { stream, payload, taken, .. }) = front else { return false };
        if *stream != Some(number) {
            return false;
        }
        self.in_progress -= payload.len() as u64;
        self.bytes += *taken as u64;
        (*stream, *taken) = (None, 0);
        true
    }
}
