//! Frames that may not leave yet: large ones, cut into fragments; what must not overtake them; and what is for an actor
//! that the peer has paused.
//!
//! Invariants: a pair of actors has a lane only while something of it waits, and while it has one every frame of that pair
//! goes through it; so nothing overtakes within a pair, and everything passes between pairs.

mod recall;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::bytes::Field;
use crate::frame::{Fragment, FragmentPart, Frame, HEADER_BYTES, RawFrame};
use crate::ids::{Key, Pair};
use crate::limits::FRAGMENT_BYTES_MAX;
use crate::session::outbound::Outbound;

#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// `None` is the lane of large frames that name no pair.
    send_queue: BTreeMap<Option<Pair>, PairQueue>,
    /// Lanes that are not paused, in the order of their turns.
    ready: VecDeque<Option<Pair>>,
    paused: BTreeSet<Key>,
    /// Whether an actor was paused since frames were recalled the last time.
    recall_due: bool,
    /// Bytes that wait in all lanes.
    bytes: u64,
    next_stream: u32,
    /// Payload bytes of the large frames that are begun and not yet ended.
    under_way: u64,
    /// What large frames begin with, until their last fragment is acknowledged: to tell, at the end, what was not delivered.
    kept: VecDeque<Kept>,
}

#[derive(Debug, Default)]
struct PairQueue {
    items: VecDeque<QueuedFrame>,
}

#[derive(Debug)]
enum QueuedFrame {
    /// Encoded frames, of which the first `taken` bytes are gone.
    Small { bytes: Vec<u8>, taken: usize },
    /// The payload of a large frame, of which the first `taken` bytes are gone.
    Large { kind: u8, stream: Option<u32>, payload: Vec<u8>, taken: usize },
}

#[derive(Debug)]
struct Kept {
    kind: u8,
    stream: u32,
    head: Vec<u8>,
    last_frame: u64,
}

impl QueuedFrame {
    /// Whether it is a large frame, not yet begun, for which the peer has no room while others are `under_way`.
    fn has_to_wait(&self, under_way: u64, reassembly_bytes_max: u64) -> bool {
        match self {
            QueuedFrame::Large { stream: None, payload, .. } => {
                under_way > 0 && under_way + payload.len() as u64 > reassembly_bytes_max
            }
            QueuedFrame::Large { stream: Some(_), .. } | QueuedFrame::Small { .. } => false,
        }
    }
}

impl PairQueue {
    /// Has `put` append a small frame.
    fn extend_small(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let has_room =
            matches!(self.items.back(), Some(QueuedFrame::Small { bytes, .. }) if bytes.len() < SMALL_BYTES);
        if !has_room {
            self.items.push_back(QueuedFrame::Small { bytes: Vec::new(), taken: 0 });
        }
        if let Some(QueuedFrame::Small { bytes, .. }) = self.items.back_mut() {
            put(bytes);
        }
    }
}

impl SendQueue {
    /// Whether any frame may have to wait: the hot path asks only this.
    #[inline]
    pub(crate) fn are_idle(&self) -> bool {
        self.send_queue.is_empty() && self.paused.is_empty()
    }

    /// Whether a small frame of this pair has to wait.
    pub(crate) fn hold(&self, pair: Pair) -> bool {
        self.paused.contains(&pair.to) || self.send_queue.contains_key(&Some(pair))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A small frame that has to wait.
    pub(crate) fn push_small(&mut self, pair: Pair, frame: &Frame<'_>, size: usize) {
        let length = u16::try_from(size).expect("a small frame");
        let pair_queue = self.pair_queue(Some(pair));
        pair_queue.extend_small(|bytes| frame.put_with_header(length, bytes));
        self.bytes += (HEADER_BYTES + size) as u64;
    }

    /// A large frame.
    pub(crate) fn push_large(&mut self, pair: Option<Pair>, frame: &Frame<'_>, size: usize) {
        let mut payload = Vec::with_capacity(size);
        frame.put_payload(&mut payload);
        let kind = frame.kind();
        self.pair_queue(pair).items.push_back(QueuedFrame::Large { kind, stream: None, payload, taken: 0 });
        self.bytes += size as u64;
    }

    fn pair_queue(&mut self, pair: Option<Pair>) -> &mut PairQueue {
        let is_paused = pair.is_some_and(|pair| self.paused.contains(&pair.to));
        let ready = &mut self.ready;
        self.send_queue.entry(pair).or_insert_with(|| {
            if !is_paused {
                ready.push_back(pair);
            }
            PairQueue::default()
        })
    }

    /// The peer wants nothing for `actor`. Answers false if it has paused too many.
    pub(crate) fn pause(&mut self, actor: Key, limit: u32) -> bool {
        if self.paused.len() >= limit as usize && !self.paused.contains(&actor) {
            return false;
        }
        if self.paused.insert(actor) {
            self.ready.retain(|pair| pair.is_none_or(|pair| pair.to != actor));
            self.recall_due = true;
        }
        true
    }

    pub(crate) fn unpause(&mut self, actor: Key) {
        if self.paused.remove(&actor) {
            let from = |key| Some(Pair { to: actor, from: Key(key) });
            let send_queue = self.send_queue.range(from(0)..=from(u64::MAX));
            self.ready.extend(send_queue.map(|(pair, _)| *pair));
        }
    }

    /// Pauses end with their connection.
    pub(crate) fn unpause_all(&mut self) {
        for actor in std::mem::take(&mut self.paused) {
            self.paused.insert(actor);
            self.unpause(actor);
        }
    }

    /// Whether [`pump`](SendQueue::pump) would move something.
    pub(crate) fn can_pump(&self, outbound: &Outbound, reassembly_bytes_max: u64) -> bool {
        let heads = self.ready.iter().filter_map(|pair| self.send_queue.get(pair)?.items.front());
        outbound.parts_ahead() < PARTS_AHEAD
            && heads.into_iter().any(|item| !item.has_to_wait(self.under_way, reassembly_bytes_max))
    }

    /// Gives the outbound what may leave: a part of each lane in turn, and few parts ahead of the socket, so that others pass
    /// between them.
    pub(crate) fn pump(&mut self, outbound: &mut Outbound, reassembly_bytes_max: u64) {
        while self.kept.front().is_some_and(|kept| kept.last_frame < outbound.acked()) {
            self.kept.pop_front();
        }
        let mut refused = 0;
        while outbound.parts_ahead() < PARTS_AHEAD && refused < self.ready.len() {
            let Some(pair) = self.ready.pop_front() else { return };
            let is_moved = self.take_turn(pair, outbound, reassembly_bytes_max);
            refused = if is_moved { 0 } else { refused + 1 };
            let is_empty = self.send_queue.get(&pair).is_none_or(|pair_queue| pair_queue.items.is_empty());
            if is_empty {
                self.send_queue.remove(&pair);
            } else {
                self.ready.push_back(pair);
            }
        }
    }

    /// Moves one part of a lane; false if its large frame has to wait until others have ended.
    fn take_turn(&mut self, pair: Option<Pair>, outbound: &mut Outbound, reassembly_bytes_max: u64) -> bool {
        let Some(pair_queue) = self.send_queue.get_mut(&pair) else { return true };
        let Some(item) = pair_queue.items.front_mut() else { return true };
        if item.has_to_wait(self.under_way, reassembly_bytes_max) {
            return false;
        }
        let before = outbound.end();
        let (moved, is_done) = match item {
            QueuedFrame::Small { bytes, taken } => {
                let moved = move_small(pair, bytes, taken, outbound);
                (moved, *taken == bytes.len())
            }
            QueuedFrame::Large { kind, stream, payload, taken } => {
                let total = payload.len() as u64;
                let number = *stream.get_or_insert_with(|| {
                    self.under_way += total;
                    self.next_stream = self.next_stream.wrapping_add(1);
                    self.next_stream
                });
                let moved = move_fragment(*kind, number, payload, taken, outbound);
                let is_done = *taken == payload.len();
                if is_done {
                    self.under_way -= total;
                    payload.truncate(HEAD_BYTES);
                    let head = payload.as_slice().to_vec();
                    let last_frame = outbound.next() - 1;
                    self.kept.push_back(Kept { kind: *kind, stream: number, head, last_frame });
                }
                (moved, is_done)
            }
        };
        if is_done {
            pair_queue.items.pop_front();
        }
        self.bytes -= moved as u64;
        debug_assert!(outbound.end() > before, "a turn moves something");
        outbound.label(pair, true);
        true
    }

    /// Every frame that waits or whose fragments are not all below `acked`, with whether some of it was moved on. The body of
    /// a large one may be cut short.
    pub(crate) fn undelivered(&self, acked: u64) -> impl Iterator<Item = (Frame<'_>, bool)> {
        let kept = self.kept.iter().filter(move |kept| kept.last_frame >= acked);
        let kept = kept.map(|kept| (kept.kind, kept.head.as_slice(), true));
        let items = self.send_queue.values().flat_map(|pair_queue| &pair_queue.items);
        let large = items.clone().filter_map(|item| match item {
            QueuedFrame::Large { kind, payload, taken, .. } => Some((*kind, payload.as_slice(), *taken > 0)),
            QueuedFrame::Small { .. } => None,
        });
        let large = kept.chain(large);
        let large =
            large.filter_map(|(kind, head, is_begun)| Some((Frame::decode(kind, head).ok()??, is_begun)));
        let small = items.filter_map(|item| match item {
            QueuedFrame::Small { bytes, taken } => Some(&bytes[*taken..]),
            QueuedFrame::Large { .. } => None,
        });
        let small = small.flat_map(|mut rest| {
            let raw = std::iter::from_fn(move || RawFrame::take_from(&mut rest).ok().flatten());
            raw.filter_map(|raw| Some((raw.decode().ok()??, false)))
        });
        large.chain(small)
    }

    /// Panics if an invariant does not hold.
    pub(crate) fn check(&self) {
        let waiting = |pair_queue: &PairQueue| -> u64 {
            pair_queue
                .items
                .iter()
                .map(|item| match item {
                    QueuedFrame::Small { bytes, taken } => bytes.len() - taken,
                    QueuedFrame::Large { payload, taken, .. } => payload.len() - taken,
                } as u64)
                .sum()
        };
        assert_eq!(
            self.send_queue.values().map(waiting).sum::<u64>(),
            self.bytes,
            "bytes of lanes are counted"
        );
        for (pair, pair_queue) in &self.send_queue {
            assert!(!pair_queue.items.is_empty(), "a lane exists only while something waits");
            let is_paused = pair.is_some_and(|pair| self.paused.contains(&pair.to));
            let turns = self.ready.iter().filter(|ready| *ready == pair).count();
            assert_eq!(turns, usize::from(!is_paused), "a lane has one turn, or is paused");
        }
        assert!(self.ready.iter().all(|pair| self.send_queue.contains_key(pair)), "only lanes have turns");
    }
}

/// Moves small frames, about as many bytes as a fragment has.
fn move_small(pair: Option<Pair>, bytes: &[u8], taken: &mut usize, outbound: &mut Outbound) -> usize {
    let before = *taken;
    let mut rest = &bytes[before..];
    while *taken - before < FRAGMENT_BYTES_MAX {
        let Ok(Some(raw)) = RawFrame::take_from(&mut rest) else { break };
        outbound.append_encoded(&bytes[*taken..*taken + raw.bytes_len()]);
        *taken += raw.bytes_len();
        if raw.decode().ok().flatten().is_none_or(|frame| frame.pair() != pair) {
            outbound.label(pair, false);
        }
    }
    *taken - before
}

/// Moves the next fragment of a large frame.
fn move_fragment(kind: u8, stream: u32, payload: &[u8], taken: &mut usize, outbound: &mut Outbound) -> usize {
    let total = u32::try_from(payload.len()).expect("the largest message is far below 4 GiB");
    let part = if *taken == 0 { FragmentPart::First { kind, total } } else { FragmentPart::Next };
    let count = (payload.len() - *taken).min(FRAGMENT_BYTES_MAX);
    let data = &payload[*taken..*taken + count];
    let frame = Frame::Fragment(Fragment { stream, part, data });
    outbound.append(&frame, stream.size() + part.size() + count);
    *taken += count;
    count
}

/// Parts that lanes have ahead of the socket.
const PARTS_AHEAD: usize = 4;
/// Small frames of a lane lie in pieces of this size, so that what has left gives its memory back.
const SMALL_BYTES: usize = 64 * 1024;
/// What is kept of a large frame: its fields before the body, unless its route is long.
const HEAD_BYTES: usize = 512;
