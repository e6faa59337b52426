//! What is for an actor that the peer has just paused is taken back from the outbound into its lanes, so that more than a
//! window sent at once to an actor that is stuck does not use up what the others live on.
//!
//! Invariants: only frames of which no byte was ever transmitted are taken back, so no number that the peer may know
//! changes; of a pair all of them are, in order, before what waits in its lane; a large frame is taken back whole or, once
//! it has begun on the wire, not at all, because the peer has set room aside for it.

use std::collections::{BTreeMap, VecDeque};

use crate::frame::{Fragment, FragmentPart, Frame, Goodbye};
use crate::ids::Pair;
use crate::session::outbound::{Outbound, UnsentFrame};
use crate::session::send_queue::{PairQueue, QueuedFrame, SendQueue};

impl SendQueue {
    /// Takes back what is for paused actors, if one was paused since the last time. It costs a look at every frame that waits,
    /// so it is done once before a transmission, however many actors were paused and unpaused meanwhile.
    pub(crate) fn recall(&mut self, outbound: &mut Outbound) {
        if !std::mem::take(&mut self.recall_due) || !self.can_recall(outbound) {
            return;
        }
        let mut recall = Recall { send_queue: self, taken: BTreeMap::new(), streams: BTreeMap::new() };
        outbound.recall(|unsent, number| recall.takes(unsent, number));
        recall.put_back();
    }

    /// Whether there is something to take back. Nothing is from before a goodbye, behind which nothing leaves any more.
    fn can_recall(&self, outbound: &Outbound) -> bool {
        let mut is_any = false;
        for unsent in outbound.unsent() {
            if unsent.raw.kind == Goodbye::KIND {
                return false;
            }
            is_any |= unsent.pair.is_some_and(|pair| self.paused.contains(&pair.to));
        }
        is_any
    }
}

struct Recall<'a> {
    send_queue: &'a mut SendQueue,
    /// What goes before the items of each lane.
    taken: BTreeMap<Pair, PairQueue>,
    /// The large frames that are taken back.
    streams: BTreeMap<u32, Payload>,
}

/// Where the payload of a large frame is that is taken back.
enum Payload {
    /// Still in its lane, all of it.
    InQueue,
    /// Only in its fragments: it is put together from them.
    InFragments,
}

impl Recall<'_> {
    /// Whether a frame, which gets this number if it stays, is taken back.
    fn takes(&mut self, unsent: &UnsentFrame<'_>, number: u64) -> bool {
        let pair = unsent.pair.filter(|pair| self.send_queue.paused.contains(&pair.to));
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
            let payload = if self.send_queue.begin_again(pair, fragment.stream) {
                Payload::InQueue
            } else {
                let payload = Vec::with_capacity(total as usize);
                let item = QueuedFrame::Large { kind, stream: None, payload, taken: 0 };
                self.taken.entry(pair).or_default().items.push_back(item);
                self.send_queue.kept.retain(|kept| kept.stream != fragment.stream);
                Payload::InFragments
            };
            self.streams.insert(fragment.stream, payload);
        }
        match self.streams.get(&fragment.stream) {
            // Its first part was transmitted: the rest follows.
            None => false,
            Some(Payload::InQueue) => true,
            Some(Payload::InFragments) => {
                let last = self.taken.get_mut(&pair).and_then(|pair_queue| pair_queue.items.back_mut());
                let Some(QueuedFrame::Large { payload, .. }) = last else { return false };
                payload.extend_from_slice(fragment.data);
                self.send_queue.bytes += fragment.data.len() as u64;
                true
            }
        }
    }

    /// A fragment stays, and moves up.
    fn renumber(&mut self, stream: u32, number: u64) {
        for kept in self.send_queue.kept.iter_mut().filter(|kept| kept.stream == stream) {
            kept.last_frame = number;
        }
    }

    fn put_back(self) {
        for (pair, taken) in self.taken {
            let mut items: VecDeque<QueuedFrame> = taken.items;
            let pair_queue = self.send_queue.send_queue.entry(Some(pair)).or_default();
            items.append(&mut pair_queue.items);
            pair_queue.items = items;
        }
    }
}

impl SendQueue {
    /// Has the large frame at the front of a lane begin anew, if it is this one: none of it was transmitted.
    fn begin_again(&mut self, pair: Pair, number: u32) -> bool {
        let front = self.send_queue.get_mut(&Some(pair)).and_then(|pair_queue| pair_queue.items.front_mut());
        let Some(QueuedFrame::Large { stream, payload, taken, .. }) = front else { return false };
        if *stream != Some(number) {
            return false;
        }
        self.under_way -= payload.len() as u64;
        self.bytes += *taken as u64;
        (*stream, *taken) = (None, 0);
        true
    }
}
