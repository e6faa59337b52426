//! The frames of one session that have to wait before they are appended to [`Outbound`]:
//!
//! - large frames, which are cut into fragments;
//! - frames that must not overtake those of their pair of actors;
//! - frames for an actor that the peer has paused.
//!
//! Invariant: a pair of actors has a queue only while a frame of the pair waits. While it has one, every frame of the
//! pair goes through that queue. So frames never overtake within a pair, and pairs do not block each other.

mod recall;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::bytes::Field;
use crate::frame::{Fragment, FragmentPart, Frame, HEADER_BYTES, RawFrame};
use crate::ids::{Key, Pair, Recipient};
use crate::limits::FRAGMENT_BYTES_MAX;
use crate::session::outbound::Outbound;

/// The waiting frames of one session, in one queue for each pair of actors.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// `None` is the queue of large frames that name no pair.
    queues: BTreeMap<Option<Pair>, PairQueue>,
    /// The pairs with a queue that is not paused, in round-robin order.
    ready: VecDeque<Option<Pair>>,
    /// The actors that the peer has paused.
    paused: BTreeSet<Key>,
    /// Whether an actor was paused since the last recall.
    recall_due: bool,
    /// Bytes that wait in all queues.
    bytes: u64,
    next_stream: u32,
    /// Payload bytes of the large frames of which some, but not all, fragments were moved.
    in_progress: u64,
    /// The large frames that were moved completely, until the last fragment is acknowledged. They are reported if the
    /// session ends before.
    unacknowledged: VecDeque<SentLargeFrame>,
}

/// The waiting frames of one pair of actors.
#[derive(Debug, Default)]
struct PairQueue {
    items: VecDeque<QueuedFrame>,
}

#[derive(Debug)]
enum QueuedFrame {
    /// Encoded small frames, of which the first `taken` bytes were moved.
    Small { bytes: Vec<u8>, taken: usize },
    /// The payload of a large frame, of which the first `taken` bytes were moved. `stream` is set with the first fragment.
    Large { kind: u8, stream: Option<u32>, payload: Vec<u8>, taken: usize },
}

/// A large frame that was moved completely to [`Outbound`].
#[derive(Debug)]
struct SentLargeFrame {
    kind: u8,
    stream: u32,
    /// The first bytes of the payload.
    head: Vec<u8>,
    /// The number of the last fragment.
    last_frame: u64,
}

impl QueuedFrame {
    /// Whether it is a large frame, not yet begun, for which the peer has no room beside those that are `in_progress`.
    fn has_to_wait(&self, in_progress: u64, reassembly_bytes_max: u64) -> bool {
        match self {
            QueuedFrame::Large { stream: None, payload, .. } => {
                in_progress > 0 && in_progress + payload.len() as u64 > reassembly_bytes_max
            }
            QueuedFrame::Large { stream: Some(_), .. } | QueuedFrame::Small { .. } => false,
        }
    }
}

impl PairQueue {
    /// Calls `put` to append a small frame to the last buffer, or to a new one.
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
    /// Whether no frame waits and none has to. This is the only check on the hot path.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.queues.is_empty() && self.paused.is_empty()
    }

    /// Whether a small frame of this pair has to wait.
    pub(crate) fn must_wait(&self, pair: Pair) -> bool {
        self.is_held(pair) || self.queues.contains_key(&Some(pair))
    }

    /// Whether the peer has paused the receiver of this pair.
    fn is_held(&self, pair: Pair) -> bool {
        match pair.to() {
            Recipient::Actor(actor) => self.paused.contains(&actor),
            Recipient::Request(_) => false,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a small frame that has to wait.
    pub(crate) fn push_small(&mut self, pair: Pair, frame: &Frame<'_>, size: usize) {
        let length = u16::try_from(size).expect("a small frame fits the length field");
        let pair_queue = self.pair_queue(Some(pair));
        pair_queue.extend_small(|bytes| frame.put_with_header(length, bytes));
        self.bytes += (HEADER_BYTES + size) as u64;
    }

    /// Adds a large frame.
    pub(crate) fn push_large(&mut self, pair: Option<Pair>, frame: &Frame<'_>, size: usize) {
        let mut payload = Vec::with_capacity(size);
        frame.put_payload(&mut payload);
        let kind = frame.kind();
        self.pair_queue(pair).items.push_back(QueuedFrame::Large { kind, stream: None, payload, taken: 0 });
        self.bytes += size as u64;
    }

    fn pair_queue(&mut self, pair: Option<Pair>) -> &mut PairQueue {
        let is_paused = pair.is_some_and(|pair| self.is_held(pair));
        let ready = &mut self.ready;
        self.queues.entry(pair).or_insert_with(|| {
            if !is_paused {
                ready.push_back(pair);
            }
            PairQueue::default()
        })
    }

    /// Pauses the frames for `actor`, at the peer's request. Returns false if the peer exceeds its limit of paused actors.
    pub(crate) fn pause(&mut self, actor: Key, limit: u32) -> bool {
        if self.paused.len() >= limit as usize && !self.paused.contains(&actor) {
            return false;
        }
        if self.paused.insert(actor) {
            self.ready.retain(|pair| pair.is_none_or(|pair| pair.to() != Recipient::Actor(actor)));
            self.recall_due = true;
        }
        true
    }

    pub(crate) fn unpause(&mut self, actor: Key) {
        if self.paused.remove(&actor) {
            let from = |key| Some(Pair::new(Key(key), actor));
            let queues = self.queues.range(from(0)..=from(u64::MAX >> 18));
            self.ready.extend(queues.map(|(pair, _)| *pair));
        }
    }

    /// Ends all pauses, because they end with their connection.
    pub(crate) fn unpause_all(&mut self) {
        for actor in std::mem::take(&mut self.paused) {
            self.paused.insert(actor);
            self.unpause(actor);
        }
    }

    /// Whether [`pump`](SendQueue::pump) would move a part.
    pub(crate) fn can_pump(&self, outbound: &Outbound, reassembly_bytes_max: u64) -> bool {
        let heads = self.ready.iter().filter_map(|pair| self.queues.get(pair)?.items.front());
        outbound.parts_ahead() < PARTS_AHEAD
            && heads.into_iter().any(|item| !item.has_to_wait(self.in_progress, reassembly_bytes_max))
    }

    /// Moves frames to `outbound`: one part of each queue in turn. It moves only a few parts ahead of the socket, so that
    /// other frames can pass between them.
    pub(crate) fn pump(&mut self, outbound: &mut Outbound, reassembly_bytes_max: u64) {
        while self.unacknowledged.front().is_some_and(|sent| sent.last_frame < outbound.acked()) {
            self.unacknowledged.pop_front();
        }
        let mut blocked = 0;
        while outbound.parts_ahead() < PARTS_AHEAD && blocked < self.ready.len() {
            let Some(pair) = self.ready.pop_front() else { return };
            let is_moved = self.move_part(pair, outbound, reassembly_bytes_max);
            blocked = if is_moved { 0 } else { blocked + 1 };
            let is_empty = self.queues.get(&pair).is_none_or(|pair_queue| pair_queue.items.is_empty());
            if is_empty {
                self.queues.remove(&pair);
            } else {
                self.ready.push_back(pair);
            }
        }
    }

    /// Moves one part of the queue of `pair`. Returns false if its large frame has to wait until others are complete.
    fn move_part(&mut self, pair: Option<Pair>, outbound: &mut Outbound, reassembly_bytes_max: u64) -> bool {
        let Some(pair_queue) = self.queues.get_mut(&pair) else { return true };
        let Some(item) = pair_queue.items.front_mut() else { return true };
        if item.has_to_wait(self.in_progress, reassembly_bytes_max) {
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
                    self.in_progress += total;
                    self.next_stream = self.next_stream.wrapping_add(1);
                    self.next_stream
                });
                let moved = move_fragment(*kind, number, payload, taken, outbound);
                let is_done = *taken == payload.len();
                if is_done {
                    self.in_progress -= total;
                    payload.truncate(HEAD_BYTES);
                    let head = payload.as_slice().to_vec();
                    let last_frame = outbound.next() - 1;
                    self.unacknowledged.push_back(SentLargeFrame {
                        kind: *kind,
                        stream: number,
                        head,
                        last_frame,
                    });
                }
                (moved, is_done)
            }
        };
        if is_done {
            pair_queue.items.pop_front();
        }
        self.bytes -= moved as u64;
        debug_assert!(outbound.end() > before, "a part has bytes");
        outbound.label(pair, true);
        true
    }

    /// Every frame that waits, and every large frame with a fragment that is not below `acked`; with whether a part of it
    /// was moved. The body of a large frame may be truncated.
    pub(crate) fn undelivered(&self, acked: u64) -> impl Iterator<Item = (Frame<'_>, bool)> {
        let sent = self.unacknowledged.iter().filter(move |sent| sent.last_frame >= acked);
        let sent = sent.map(|sent| (sent.kind, sent.head.as_slice(), true));
        let items = self.queues.values().flat_map(|pair_queue| &pair_queue.items);
        let large = items.clone().filter_map(|item| match item {
            QueuedFrame::Large { kind, payload, taken, .. } => Some((*kind, payload.as_slice(), *taken > 0)),
            QueuedFrame::Small { .. } => None,
        });
        let large = sent.chain(large);
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
        assert_eq!(self.queues.values().map(waiting).sum::<u64>(), self.bytes, "waiting bytes are counted");
        for (pair, pair_queue) in &self.queues {
            assert!(!pair_queue.items.is_empty(), "a pair has a queue only while a frame waits");
            let is_paused = pair.is_some_and(|pair| self.is_held(pair));
            let entries = self.ready.iter().filter(|ready| *ready == pair).count();
            assert_eq!(entries, usize::from(!is_paused), "a pair is ready once, or paused");
        }
        assert!(self.ready.iter().all(|pair| self.queues.contains_key(pair)), "a ready pair has a queue");
    }
}

/// Moves small frames, up to about the bytes of one fragment. Returns the moved bytes.
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

/// Moves the next fragment of a large frame. Returns the moved bytes of its payload.
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

/// The number of parts that are moved ahead of the socket.
const PARTS_AHEAD: usize = 4;
/// Small frames of a pair are kept in buffers of about this size, so that moved frames free their memory.
const SMALL_BYTES: usize = 64 * 1024;
/// The bytes that are kept of a sent large frame: its fields before the body, unless its route is long.
const HEAD_BYTES: usize = 512;
