//! The frames of one session that have to wait before they are appended to [`Outbound`]:
//!
//! - large frames, which are cut into fragments;
//! - frames that must not overtake those of their pair of actors;
//! - frames for an actor that the peer has paused;
//! - all frames while enough bytes are on their way in [`Outbound`], or while the peer's credit does not admit more.
//!
//! So the bytes that wait for an actor are known exactly. Bytes in [`Outbound`] are on their way and do not count.
//!
//! Answers have a part of the credit of their own: the last [`ANSWER_CREDIT_BYTES`]. Each side returns the credit of
//! answers at once, so answers always find credit. All other frames may have to wait for credit that the peer withholds until
//! its own answers have left ([`SendQueue::withholds_credit`]).
//!
//! Invariants:
//! - A pair of actors has a list only while a frame of the pair waits. While it has one, every frame of the pair goes through
//!   that list. So frames never overtake within a pair, and pairs do not block each other. Only urgent frames (`Terminate`,
//!   `Throw`, `Resume`) overtake, while their receiver is paused.
//! - While an urgent frame for an actor waits in the list of those that passed a pause, no other frame for the actor is
//!   moved, except fragments of a large frame that has begun.
//! - The counted bytes keep to twice the cap.

mod frame_list;
mod pair_lists;
mod room;

pub(crate) use frame_list::{FrameClass, WaitingBytes};
pub(crate) use room::QueueBudget;
pub use room::SendMark;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use crate::bytes::Field;
use crate::frame::{self, DownReason, Fragment, FragmentPart, Frame, HEADER_BYTES, Message};
use crate::ids::{FrameTarget, Key, Pair};
use crate::limits::{FRAGMENT_BYTES_MAX, Limits};
use crate::session::outbound::Outbound;
use crate::session::send_queue::frame_list::{
    DOWN_BYTES_LEAST, FrameList, LargeFrame, QueuedFrames, SMALL_BYTES_MAX, SmallFrames, receipt_of,
};
use crate::session::send_queue::pair_lists::PairLists;
use crate::session::send_queue::room::AwaitedRoom;

/// The waiting frames of one session.
#[derive(Debug)]
pub(crate) struct SendQueue {
    budget: QueueBudget,
    /// The receivers for which frames wait, and the paused actors. There may be very many, and leaves of such a map are half empty: so
    /// its values are boxed.
    targets: BTreeMap<FrameTarget, Box<TargetQueues>>,
    /// Small answers. Each completes something of its own, so they keep no order with later frames.
    answers: FrameList,
    /// Other frames that name no pair. They keep their order.
    unpaired: FrameList,
    /// The receivers of which a frame can be moved.
    ready: BTreeSet<FrameTarget>,
    /// The receiver of the last part. The next part is for the next receiver that is ready.
    last_served: Option<FrameTarget>,
    /// The group of the last part. The groups take turns.
    last_group: TurnGroup,
    /// The pairs with a large frame at the front of which some, but not all, fragments were moved.
    begun: BTreeSet<Pair>,
    /// The number of actors that the peer has paused.
    paused: u32,
    /// Whether a goodbye was sent. No frame may follow it, so what waits stays here.
    is_closed: bool,
    waiting: WaitingBytes,
    /// The part of `waiting` that is in `answers`.
    waiting_answers: WaitingBytes,
    /// The place of each waiting message that asks for a receipt: its pair, and the serial number of its item.
    receipts: BTreeMap<u64, (Pair, i64)>,
    room: AwaitedRoom,
    /// Empty buffers of small frames, so that a steady flow does not allocate.
    spare: Vec<Vec<u8>>,
    next_stream: u32,
    /// Payload bytes of the large frames of which some, but not all, fragments were moved.
    in_progress: u64,
    /// The large frames that were moved completely, until the last fragment is acknowledged. They are reported if the
    /// session ends before.
    unacknowledged: VecDeque<SentLargeFrame>,
}

/// The waiting frames of one receiver.
#[derive(Debug, Default)]
struct TargetQueues {
    is_paused: bool,
    /// Bytes that count as waiting for this actor.
    counted: u64,
    /// The waiting frames, in one list for each sender.
    lists: PairLists,
    /// Urgent frames that passed a pause, of all senders.
    urgent: FrameList,
}

/// A large frame that was moved completely to [`Outbound`].
#[derive(Debug)]
struct SentLargeFrame {
    kind: u8,
    /// The first bytes of the payload.
    head: Vec<u8>,
    /// The number of the last fragment.
    last_frame: u64,
}

/// The list of the next part.
#[derive(Debug, Clone, Copy)]
enum PartSource {
    Answers,
    Unpaired,
    Urgent(FrameTarget),
    Pair(Pair),
}

/// Frames that take turns with those of other groups.
#[derive(Debug, Clone, Copy)]
enum TurnGroup {
    Answers,
    Unpaired,
    Pairs,
}

impl TurnGroup {
    /// All groups, in the order in which they are next after this one.
    fn in_turn(self) -> [TurnGroup; 3] {
        match self {
            TurnGroup::Answers => [TurnGroup::Unpaired, TurnGroup::Pairs, TurnGroup::Answers],
            TurnGroup::Unpaired => [TurnGroup::Pairs, TurnGroup::Answers, TurnGroup::Unpaired],
            TurnGroup::Pairs => [TurnGroup::Answers, TurnGroup::Unpaired, TurnGroup::Pairs],
        }
    }
}

impl PartSource {
    fn group(self) -> TurnGroup {
        match self {
            PartSource::Answers => TurnGroup::Answers,
            PartSource::Unpaired => TurnGroup::Unpaired,
            PartSource::Urgent(_) | PartSource::Pair(_) => TurnGroup::Pairs,
        }
    }
}

/// The positions up to which frames may be appended to [`Outbound`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SendUntil {
    /// The position for answers.
    pub(crate) answers: u64,
    /// The position for all other frames.
    pub(crate) others: u64,
}

impl SendUntil {
    /// The last part of what may be sent is for answers.
    pub(crate) fn new(until: u64) -> SendUntil {
        SendUntil { answers: until, others: until.saturating_sub(ANSWER_CREDIT_BYTES) }
    }
}

impl SendQueue {
    pub(crate) fn new(limits: &Limits) -> SendQueue {
        SendQueue {
            budget: QueueBudget { cap: limits.queue_bytes_cap, high: limits.queue_bytes_high },
            targets: BTreeMap::new(),
            answers: FrameList::default(),
            unpaired: FrameList::default(),
            ready: BTreeSet::new(),
            last_served: None,
            last_group: TurnGroup::Pairs,
            begun: BTreeSet::new(),
            paused: 0,
            is_closed: false,
            waiting: WaitingBytes::default(),
            waiting_answers: WaitingBytes::default(),
            receipts: BTreeMap::new(),
            room: AwaitedRoom::default(),
            spare: Vec::new(),
            next_stream: 0,
            in_progress: 0,
            unacknowledged: VecDeque::new(),
        }
    }

    /// Whether no frame waits and none has to. This is the only check of this queue on the hot path.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.targets.is_empty() && self.answers.is_empty() && self.unpaired.is_empty()
    }

    /// Whether a small frame has to wait behind others, or for the end of a pause.
    pub(crate) fn must_wait(&self, pair: Option<Pair>, frame: &Frame<'_>) -> bool {
        match pair {
            Some(pair) if is_urgent(frame) && self.is_held(pair.to()) => {
                self.targets.get(&pair.to()).is_some_and(|queues| !queues.urgent.is_empty())
            }
            Some(pair) if self.keeps_order(pair) => true,
            Some(_) | None if is_answer(frame) => !self.answers.is_empty(),
            Some(_) => false,
            None => !self.unpaired.is_empty(),
        }
    }

    /// Whether a frame of this pair has to wait in the list of the pair.
    fn keeps_order(&self, pair: Pair) -> bool {
        self.targets.get(&pair.to()).is_some_and(|queues| {
            queues.is_paused || !queues.urgent.is_empty() || queues.lists.get(pair.from()).is_some()
        })
    }

    /// Whether so many answers wait that the peer gets no more credit for what may cause further ones.
    #[inline]
    pub(crate) fn is_full_of_answers(&self) -> bool {
        self.waiting_answers.completions + self.waiting_answers.downs > ANSWERS_BYTES_MAX
    }

    /// As [`is_full_of_answers`](SendQueue::is_full_of_answers), also with the `Down`s that wait behind the messages of their actors.
    #[inline]
    pub(crate) fn withholds_credit(&self) -> bool {
        self.is_full_of_answers() || self.waiting.downs + self.downs_overhead() > DOWNS_BYTES_MAX
    }

    /// What `Down`s without a value that wait for their pairs occupy besides their bytes.
    fn downs_overhead(&self) -> u64 {
        let downs = self.waiting.downs - self.waiting_answers.downs;
        downs / DOWN_FRAME_BYTES * PAIR_OVERHEAD_BYTES
    }

    /// What frames in the reserve occupy besides their bytes, except answers.
    fn reserve_overhead(&self) -> u64 {
        (self.waiting.reserved_frames - self.waiting_answers.reserved_frames) * PAIR_OVERHEAD_BYTES
    }

    /// Whether a frame of this class may wait for `to`.
    ///
    /// # Errors
    /// The bytes that wait already for the actor, or in the reserve.
    pub(crate) fn admit(&self, to: Option<FrameTarget>, class: FrameClass, bytes: u64) -> Result<(), u64> {
        match class {
            FrameClass::Counted => {
                let queued = to.map_or(0, |to| self.counted(to));
                let fits = self.budget.fits(queued, self.waiting.counted, bytes, SendMark::Cap);
                fits.then_some(()).ok_or(queued)
            }
            FrameClass::Urgent | FrameClass::Reserved => {
                let queued = self.waiting.reserved + self.reserve_overhead();
                (queued + bytes <= self.budget.cap).then_some(()).ok_or(queued)
            }
            FrameClass::Completion | FrameClass::Down => Ok(()),
        }
    }

    /// Bytes that wait for an actor: messages, `Monitor` and `Notify`.
    pub(crate) fn counted(&self, to: FrameTarget) -> u64 {
        self.targets.get(&to).map_or(0, |queues| queues.counted)
    }

    pub(crate) fn waiting(&self) -> WaitingBytes {
        self.waiting
    }

    pub(crate) fn is_paused(&self, actor: Key) -> bool {
        self.is_held(FrameTarget::Actor(actor))
    }

    fn is_held(&self, to: FrameTarget) -> bool {
        self.targets.get(&to).is_some_and(|queues| queues.is_paused)
    }

    /// Whether a message of `bytes` bytes would be accepted for an actor.
    pub(crate) fn fits(&self, actor: Key, bytes: u64, mark: SendMark) -> bool {
        let queued = self.counted(FrameTarget::Actor(actor));
        self.budget.fits(queued, self.waiting.counted, bytes, mark)
    }

    pub(crate) fn await_room(&mut self, actor: Key, bytes: u64, mark: SendMark) {
        self.room.add(actor, bytes, mark);
        self.update_room(FrameTarget::Actor(actor));
        self.room.find_writable(self.waiting.counted);
    }

    pub(crate) fn stop_awaiting_room(&mut self, actor: Key) {
        self.room.remove(actor);
    }

    pub(crate) fn next_writable(&mut self) -> Option<Key> {
        self.room.next_writable()
    }

    fn update_room(&mut self, to: FrameTarget) {
        if let FrameTarget::Actor(actor) = to {
            self.room.update(self.budget, actor, self.counted(to));
        }
    }

    /// Adds a small frame that counts for its actor behind others of its pair, which is the common case while frames wait.
    /// `None` if no frame of the pair waits, or the frame is of another class.
    ///
    /// # Errors
    /// The bytes that wait already for the actor, if the frame does not fit.
    #[inline]
    pub(crate) fn push_behind(
        &mut self,
        pair: Pair,
        frame: &Frame<'_>,
        size: usize,
    ) -> Option<Result<(), u64>> {
        if FrameClass::of(frame.kind(), size) != FrameClass::Counted {
            return None;
        }
        let queues = self.targets.get_mut(&pair.to())?;
        let list = queues.lists.get_mut(pair.from())?;
        let bytes = (HEADER_BYTES + size) as u64;
        if !self.budget.fits(queues.counted, self.waiting.counted, bytes, SendMark::Cap) {
            return Some(Err(queues.counted));
        }
        let length = u16::try_from(size).expect("a small frame fits the length field");
        let put = |bytes: &mut Vec<u8>| frame.put_with_header(length, bytes);
        let serial = list.push_small(HEADER_BYTES + size, &mut self.spare, put);
        queues.counted += bytes;
        self.waiting.counted += bytes;
        if let (FrameTarget::Actor(actor), queued) = (pair.to(), queues.counted) {
            self.room.update(self.budget, actor, queued);
        }
        if let Frame::Message(Message { receipt: Some(receipt), .. }) = frame {
            self.receipts.insert(*receipt, (pair, serial));
        }
        Some(Ok(()))
    }

    /// Adds a frame that has to wait.
    pub(crate) fn push(&mut self, pair: Option<Pair>, frame: &Frame<'_>, size: usize) {
        let class = FrameClass::of(frame.kind(), size);
        let is_large = size > FRAGMENT_BYTES_MAX;
        let is_answer = is_answer(frame);
        // A `Demonitor` whose `Monitor` has left keeps no order with later frames, so it needs no list of its own.
        let is_orderless = is_answer || matches!(frame, Frame::Demonitor(_));
        let pair = pair.filter(|pair| is_large || !is_orderless || self.keeps_order(*pair));
        let (list, is_urgent) = match pair {
            None if is_answer && !is_large => (&mut self.answers, false),
            None => (&mut self.unpaired, false),
            Some(pair) => {
                let queues = self.targets.entry(pair.to()).or_default();
                let is_urgent = queues.is_paused && class == FrameClass::Urgent;
                let list = if is_urgent { &mut queues.urgent } else { queues.lists.list_for(pair.from()) };
                (list, is_urgent)
            }
        };
        let was_empty = list.is_empty();
        let serial = if is_large {
            let mut payload = Vec::with_capacity(size);
            frame.put_payload(&mut payload);
            list.push_large(LargeFrame { kind: frame.kind(), stream: None, payload, taken: 0 })
        } else {
            let length = u16::try_from(size).expect("a small frame fits the length field");
            let put = |bytes: &mut Vec<u8>| frame.put_with_header(length, bytes);
            list.push_small(HEADER_BYTES + size, &mut self.spare, put)
        };
        let bytes = WaitingBytes::of(class, (HEADER_BYTES + size) as u64);
        self.waiting += bytes;
        let Some(pair) = pair else {
            if is_answer && !is_large {
                self.waiting_answers += bytes;
            }
            return;
        };
        if let (Frame::Message(message), false) = (frame, is_urgent)
            && let Some(receipt) = message.receipt
        {
            self.receipts.insert(receipt, (pair, serial));
        }
        if bytes.counted > 0 {
            if let Some(queues) = self.targets.get_mut(&pair.to()) {
                queues.counted += bytes.counted;
            }
            self.update_room(pair.to());
        }
        if was_empty {
            self.refresh(pair.to());
        }
    }

    /// Records whether a frame of this receiver can be moved. Forgets the receiver if nothing waits for it.
    fn refresh(&mut self, to: FrameTarget) {
        let Some(queues) = self.targets.get(&to) else { return };
        let can_move = !queues.urgent.is_empty()
            || if queues.is_paused { self.begun_pair(to).is_some() } else { !queues.lists.is_empty() };
        if can_move {
            self.ready.insert(to);
        } else {
            self.ready.remove(&to);
        }
        if !queues.is_paused && !can_move {
            self.targets.remove(&to);
        }
    }

    /// A pair of this receiver with a large frame that has begun. The peer has reserved room for it, so it continues even
    /// while all others wait for the end of a pause, or for an urgent frame. Otherwise it would keep that room from them.
    fn begun_pair(&self, to: FrameTarget) -> Option<Pair> {
        self.begun.range(Pair::range_to(to)).next().copied()
    }

    /// Pauses the frames for `actor`, at the peer's request. Returns false if the peer exceeds its limit of paused actors.
    pub(crate) fn pause(&mut self, actor: Key, limit: u32) -> bool {
        let to = FrameTarget::Actor(actor);
        if self.is_held(to) {
            return true;
        }
        if self.paused >= limit {
            return false;
        }
        self.paused += 1;
        let queues = self.targets.entry(to).or_default();
        queues.is_paused = true;
        let mut begun = Vec::new();
        for from in queues.lists.senders() {
            let Some(list) = queues.lists.get_mut(from).filter(|list| list.has_urgent()) else { continue };
            if let Some(large) = list.move_urgent(&mut queues.urgent, &mut self.spare) {
                self.begun.remove(&Pair::new(from, actor));
                begun.push(large);
            }
            queues.lists.forget_if_empty(from);
        }
        // These come first: a frame before them could wait for the room that the peer has reserved for them.
        begun.into_iter().for_each(|large| queues.urgent.push_front(large));
        self.refresh(to);
        true
    }

    pub(crate) fn unpause(&mut self, actor: Key) {
        let to = FrameTarget::Actor(actor);
        if let Some(queues) = self.targets.get_mut(&to).filter(|queues| queues.is_paused) {
            queues.is_paused = false;
            self.paused -= 1;
            self.refresh(to);
        }
    }

    /// Ends all pauses, because they end with their connection.
    pub(crate) fn unpause_all(&mut self) {
        let paused = self.targets.iter().filter(|(_, queues)| queues.is_paused);
        let paused: Vec<FrameTarget> = paused.map(|(to, _)| *to).collect();
        for to in paused {
            if let FrameTarget::Actor(actor) = to {
                self.unpause(actor);
            }
        }
    }

    /// Moves the small frames that name no pair to `outbound`, and keeps all others, because a goodbye follows.
    pub(crate) fn close(&mut self, outbound: &mut Outbound) {
        for source in [PartSource::Answers, PartSource::Unpaired] {
            while self.list_mut(source).is_some_and(|list| list.begins_small()) {
                self.move_part(source, outbound);
            }
        }
        self.is_closed = true;
    }

    /// Whether [`pump`](SendQueue::pump) would move a part.
    pub(crate) fn can_pump(&self, outbound: &Outbound, until: SendUntil, reassembly_bytes_max: u64) -> bool {
        !self.is_closed
            && outbound.parts_ahead() < PARTS_AHEAD
            && self.next_source(outbound, until, reassembly_bytes_max).is_some()
    }

    /// Moves frames to `outbound`: one part for each receiver in turn, and of each sender to a receiver in turn. It moves only
    /// a few parts ahead of the socket, so that other frames can pass between them.
    pub(crate) fn pump(&mut self, outbound: &mut Outbound, until: SendUntil, reassembly_bytes_max: u64) {
        while self.unacknowledged.front().is_some_and(|sent| sent.last_frame < outbound.acked()) {
            self.unacknowledged.pop_front();
        }
        while !self.is_closed && outbound.parts_ahead() < PARTS_AHEAD {
            let Some(source) = self.next_source(outbound, until, reassembly_bytes_max) else { break };
            self.move_part(source, outbound);
        }
        self.room.find_writable(self.waiting.counted);
    }

    fn next_source(
        &self,
        outbound: &Outbound,
        until: SendUntil,
        reassembly_bytes_max: u64,
    ) -> Option<PartSource> {
        // Room for the largest part, so that no small part takes the credit of a large one whose turn it is.
        let end = outbound.end() + PART_BYTES_MAX as u64;
        if end > until.answers {
            return None;
        }
        let others_have_credit = end <= until.others;
        let can_move = |list: &FrameList| list.can_move(self.in_progress, reassembly_bytes_max);
        self.last_group.in_turn().into_iter().find_map(|group| match group {
            TurnGroup::Answers => can_move(&self.answers).then_some(PartSource::Answers),
            TurnGroup::Unpaired => {
                (others_have_credit && can_move(&self.unpaired)).then_some(PartSource::Unpaired)
            }
            TurnGroup::Pairs => self.next_in_pairs(others_have_credit, can_move),
        })
    }

    /// The next part of a pair: of any pair, or of the large answers only.
    fn next_in_pairs(
        &self,
        others_have_credit: bool,
        can_move: impl Fn(&FrameList) -> bool,
    ) -> Option<PartSource> {
        let first = if others_have_credit { FIRST_ACTOR } else { FIRST_REQUEST };
        let last_served = self.last_served.filter(|last| *last >= first);
        let after = last_served.map_or(Bound::Included(first), Bound::Excluded);
        let later = self.ready.range((after, Bound::Unbounded));
        let earlier = last_served.map(|last| self.ready.range(first..=last));
        let mut in_turn = later.chain(earlier.into_iter().flatten());
        in_turn.find_map(|to| {
            let queues = self.targets.get(to)?;
            if can_move(&queues.urgent) {
                return Some(PartSource::Urgent(*to));
            }
            if queues.is_paused || !queues.urgent.is_empty() {
                return self.begun_pair(*to).map(PartSource::Pair);
            }
            let from = queues.lists.next_in_turn(&can_move)?;
            Some(PartSource::Pair(Pair::of(from, *to)))
        })
    }

    fn list_mut(&mut self, source: PartSource) -> Option<&mut FrameList> {
        match source {
            PartSource::Answers => Some(&mut self.answers),
            PartSource::Unpaired => Some(&mut self.unpaired),
            PartSource::Urgent(to) => Some(&mut self.targets.get_mut(&to)?.urgent),
            PartSource::Pair(pair) => self.targets.get_mut(&pair.to())?.lists.get_mut(pair.from()),
        }
    }

    /// Moves one part: a buffer of small frames, or a fragment of a large frame.
    fn move_part(&mut self, source: PartSource, outbound: &mut Outbound) {
        let Some(mut item) = self.list_mut(source).and_then(FrameList::pop_front) else { return };
        let mut moved = item.frames.waiting();
        let before = outbound.end();
        match &mut item.frames {
            QueuedFrames::Small(small) => {
                if small.receipts > 0 {
                    for receipt in small.iter().filter_map(|(_, raw)| receipt_of(&raw)) {
                        self.receipts.remove(&receipt);
                    }
                }
                move_small(small, outbound);
                self.recycle(std::mem::take(&mut small.bytes));
            }
            QueuedFrames::Large(large) => {
                let is_done = self.move_fragment(large, outbound);
                if let PartSource::Pair(pair) = source {
                    if is_done {
                        self.begun.remove(&pair);
                    } else {
                        self.begun.insert(pair);
                    }
                }
                if !is_done {
                    moved -= large.waiting();
                    if let Some(list) = self.list_mut(source) {
                        list.return_front(item);
                    }
                }
            }
        }
        debug_assert!(outbound.end() > before, "a part has bytes");
        outbound.end_part();
        self.last_group = source.group();
        self.waiting -= moved;
        let to = match source {
            PartSource::Answers => {
                self.waiting_answers -= moved;
                return;
            }
            PartSource::Unpaired => return,
            PartSource::Urgent(to) => to,
            PartSource::Pair(pair) => {
                self.on_taken(pair, moved);
                pair.to()
            }
        };
        self.last_served = Some(to);
        self.refresh(to);
    }

    /// Frames of a pair were taken from the front of its list.
    fn on_taken(&mut self, pair: Pair, taken: WaitingBytes) {
        let Some(queues) = self.targets.get_mut(&pair.to()) else { return };
        queues.lists.note_turn(pair.from());
        queues.counted -= taken.counted;
        queues.lists.forget_if_empty(pair.from());
        self.update_room(pair.to());
    }

    /// Moves the next fragment of a large frame. Returns whether it was the last one.
    fn move_fragment(&mut self, large: &mut LargeFrame, outbound: &mut Outbound) -> bool {
        let total = large.payload.len();
        if large.stream.is_none() {
            self.in_progress += total as u64;
            self.next_stream = self.next_stream.wrapping_add(1);
            if let Some(receipt) = large.receipt() {
                self.receipts.remove(&receipt);
            }
        }
        let stream = *large.stream.get_or_insert(self.next_stream);
        append_fragment(large, stream, outbound);
        if large.taken < total {
            return false;
        }
        self.in_progress -= total as u64;
        large.payload.truncate(HEAD_BYTES);
        let head = large.payload.as_slice().to_vec();
        let last_frame = outbound.next() - 1;
        self.unacknowledged.push_back(SentLargeFrame { kind: large.kind, head, last_frame });
        true
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && bytes.capacity() >= SMALL_BYTES_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Frees the empty buffers.
    pub(crate) fn release_spare(&mut self) {
        self.spare = Vec::new();
    }

    /// Removes a message that waits for `actor` and asks for this receipt. Returns whether there was one.
    pub(crate) fn withdraw(&mut self, actor: Key, receipt: u64) -> bool {
        let Some((pair, serial)) = self.receipts.get(&receipt).copied() else { return false };
        if pair.to() != FrameTarget::Actor(actor) {
            return false;
        }
        let Some(list) = self.list_mut(PartSource::Pair(pair)) else { return false };
        let Some(bytes) = list.withdraw(serial, receipt) else { return false };
        self.receipts.remove(&receipt);
        self.waiting -= bytes;
        self.on_withdrawn(pair, bytes);
        self.refresh(pair.to());
        self.room.find_writable(self.waiting.counted);
        true
    }

    /// Removes the `Monitor` of a pair with this number, if it is among the first frames that wait for the pair. Returns whether it was.
    pub(crate) fn withdraw_monitor(&mut self, pair: Pair, id: u64) -> bool {
        let Some(list) = self.list_mut(PartSource::Pair(pair)) else { return false };
        let Some(bytes) = list.withdraw_monitor(id) else { return false };
        self.waiting -= bytes;
        self.on_withdrawn(pair, bytes);
        self.refresh(pair.to());
        self.room.find_writable(self.waiting.counted);
        true
    }

    fn on_withdrawn(&mut self, pair: Pair, bytes: WaitingBytes) {
        let Some(queues) = self.targets.get_mut(&pair.to()) else { return };
        queues.counted -= bytes.counted;
        queues.lists.forget_if_empty(pair.from());
        self.update_room(pair.to());
    }

    /// The bytes that it holds because of the peer: waiting frames but those that complete requests of this side, the heads of large
    /// frames, and the entries of paused actors.
    pub(crate) fn held_bytes(&self) -> u64 {
        let WaitingBytes { counted, reserved, downs, .. } = self.waiting;
        let overhead = self.downs_overhead() + self.reserve_overhead();
        let waiting = counted + reserved + downs + overhead + self.waiting_answers.completions;
        let heads = (self.unacknowledged.len() * HEAD_BYTES) as u64;
        waiting + heads + u64::from(self.paused) * PAUSED_ACTOR_BYTES
    }

    /// The most bytes that it holds because of the peer, if at most `kept` bytes are kept until they are acknowledged.
    pub(crate) fn held_bytes_max(limits: &Limits, kept: u64) -> u64 {
        // What arrived with the last credit, or waited for a mailbox, causes more completions. They are smaller than their causes.
        let completions =
            ANSWERS_BYTES_MAX + DOWNS_BYTES_MAX + 2 * u64::from(limits.window_bytes) + LATE_BYTES_MAX;
        let heads = kept / FRAGMENT_BYTES_MAX as u64 * HEAD_BYTES as u64;
        let paused = u64::from(limits.paused_actors_max) * PAUSED_ACTOR_BYTES;
        3 * limits.queue_bytes_cap + completions + heads + paused
    }

    fn lists(&self) -> impl Iterator<Item = &FrameList> {
        let of_targets = self.targets.values();
        let of_targets = of_targets.flat_map(|queues| {
            std::iter::once(&queues.urgent).chain(queues.lists.iter().map(|(_, list)| list))
        });
        [&self.answers, &self.unpaired].into_iter().chain(of_targets)
    }

    /// Removes some of the frames that wait and of the large frames with a fragment that is not below `acked`, and calls
    /// `each` with them; and whether a part of it was moved. The body of a large frame may be truncated. Returns false if no
    /// frame is left. After the first call the queue is of no other use.
    pub(crate) fn take_undelivered(&mut self, acked: u64, mut each: impl FnMut(&Frame<'_>, bool)) -> bool {
        if let Some(sent) = self.unacknowledged.pop_front() {
            sent.report(acked, &mut each);
            return true;
        }
        let shared = [&mut self.answers, &mut self.unpaired];
        if let Some(item) = shared.into_iter().find_map(FrameList::pop_front) {
            item.frames.report(&mut each);
            return true;
        }
        while let Some(mut target) = self.targets.first_entry() {
            let queues = target.get_mut();
            if let Some(item) = queues.urgent.pop_front().or_else(|| queues.lists.pop_any()) {
                item.frames.report(&mut each);
                return true;
            }
            target.remove();
        }
        false
    }

    /// As [`take_undelivered`](SendQueue::take_undelivered), of all frames, which stay.
    #[cfg(test)]
    pub(crate) fn undelivered(&self, acked: u64, mut each: impl FnMut(&Frame<'_>, bool)) {
        self.unacknowledged.iter().for_each(|sent| sent.report(acked, &mut each));
        self.lists().for_each(|list| list.report(&mut each));
    }

    /// Panics if an invariant does not hold.
    pub(crate) fn check(&self) {
        let mut waiting = self.answers.check();
        waiting += self.unpaired.check();
        let mut receipts = 0;
        for (to, queues) in &self.targets {
            let mut counted = 0;
            for (from, list) in queues.lists.iter() {
                assert!(!list.is_empty(), "a pair has a list only while a frame waits");
                assert!(!(queues.is_paused && list.has_urgent()), "urgent frames pass a pause");
                let bytes = list.check();
                waiting += bytes;
                counted += bytes.counted;
                let pair = Pair::of(from, *to);
                receipts += self.check_list(pair, list);
            }
            waiting += queues.urgent.check();
            assert_eq!(counted, queues.counted, "the bytes that wait for an actor are counted");
            let is_idle = queues.lists.is_empty() && queues.urgent.is_empty();
            assert!(queues.is_paused || !is_idle, "a receiver without frames is forgotten");
            let can_move = !queues.urgent.is_empty()
                || if queues.is_paused { self.begun_pair(*to).is_some() } else { !queues.lists.is_empty() };
            assert_eq!(can_move, self.ready.contains(to), "a receiver is ready if a frame can be moved");
        }
        assert_eq!(waiting, self.waiting, "waiting bytes are counted");
        assert!(receipts >= self.receipts.len(), "each known receipt belongs to a waiting message");
        assert!(self.ready.iter().all(|to| self.targets.contains_key(to)), "a ready receiver has frames");
        let paused = self.targets.values().filter(|queues| queues.is_paused).count();
        assert_eq!(paused, self.paused as usize, "paused actors are counted");
        let in_progress = self.lists().map(FrameList::in_progress);
        assert_eq!(in_progress.sum::<u64>(), self.in_progress, "begun large frames are counted");
        let most = self.budget.cap * 2;
        assert!(self.waiting.counted <= most, "{} bytes wait for actors", self.waiting.counted);
        // The last frame has its overhead in addition.
        let (reserved, most) = (self.waiting.reserved + self.reserve_overhead(), self.budget.cap);
        assert!(reserved <= most + PAIR_OVERHEAD_BYTES, "{reserved} bytes wait in the reserve");
        self.room.check(self.budget, |actor| self.counted(FrameTarget::Actor(actor)));
    }

    /// Checks the list of a pair. Returns the number of its messages that ask for a receipt.
    fn check_list(&self, pair: Pair, list: &FrameList) -> usize {
        assert_eq!(list.is_begun(), self.begun.contains(&pair), "pairs with begun large frames are known");
        // This visits every frame, which is too much for a simulator.
        if !cfg!(test) {
            return self.receipts.len();
        }
        let receipts = list.receipts();
        assert!(receipts.iter().all(|receipt| self.receipts.contains_key(receipt)), "each receipt is known");
        receipts.len()
    }
}

impl SentLargeFrame {
    fn report(&self, acked: u64, each: &mut impl FnMut(&Frame<'_>, bool)) {
        if self.last_frame >= acked
            && let Ok(Some(frame)) = Frame::decode(self.kind, &self.head)
        {
            each(&frame, true);
        }
    }
}

/// Whether a frame may use the credit that is kept for answers. The `Down` of an actor that has lived keeps its order with the
/// messages of the actor, so it is none.
#[inline]
pub(crate) fn is_answer(frame: &Frame<'_>) -> bool {
    match frame {
        Frame::Answer(_) | Frame::ReplyDropped(_) | Frame::Receipt(_) | Frame::Found(_) => true,
        Frame::NodeAt(at) => at.request != 0,
        Frame::Down(down) => matches!(down.reason, DownReason::NoActor | DownReason::Refused),
        Frame::Ack(_)
        | Frame::Credit(_)
        | Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::Pause(_)
        | Frame::Unpause(_)
        | Frame::Close(_)
        | Frame::IdleProposed(_)
        | Frame::IdleAgreed(_)
        | Frame::Begin(_)
        | Frame::Tag(_)
        | Frame::Fragment(_)
        | Frame::Message(_)
        | Frame::Monitor(_)
        | Frame::Demonitor(_)
        | Frame::Notify(_)
        | Frame::Terminate(_)
        | Frame::Throw(_)
        | Frame::Resume(_)
        | Frame::Lagged(_)
        | Frame::PayloadRefused(_)
        | Frame::Lookup(_)
        | Frame::CancelLookup(_)
        | Frame::Goodbye(_)
        | Frame::AnnounceRelay(_) => false,
    }
}

/// Whether a node returns the credit of frames of this kind at once: they cause no completions.
#[inline]
pub(crate) fn returns_credit_at_once(kind: u8) -> bool {
    matches!(
        kind,
        frame::Tag::KIND
            | frame::Answer::KIND
            | frame::ReplyDropped::KIND
            | frame::Receipt::KIND
            | frame::Down::KIND
            | frame::Found::KIND
            | frame::NodeAt::KIND
    )
}

fn is_urgent(frame: &Frame<'_>) -> bool {
    FrameClass::of(frame.kind(), 0) == FrameClass::Urgent
}

/// Moves all frames of a buffer.
fn move_small(small: &SmallFrames, outbound: &mut Outbound) {
    if small.removed == 0 {
        return outbound.append_frames(&small.bytes, small.frames);
    }
    for (offset, raw) in small.iter() {
        outbound.append_frames(&small.bytes[offset..offset + raw.bytes_len()], 1);
    }
}

/// Appends the next fragment of a large frame.
fn append_fragment(large: &mut LargeFrame, stream: u32, outbound: &mut Outbound) {
    let total = u32::try_from(large.payload.len()).expect("the largest message is far below 4 GiB");
    let part =
        if large.taken == 0 { FragmentPart::First { kind: large.kind, total } } else { FragmentPart::Next };
    let count = (large.payload.len() - large.taken).min(FRAGMENT_BYTES_MAX);
    let data = &large.payload[large.taken..large.taken + count];
    let frame = Frame::Fragment(Fragment { stream, part, data });
    outbound.append(&frame, stream.size() + part.size() + count);
    large.taken += count;
}

/// The number of parts that are moved ahead of the socket.
const PARTS_AHEAD: usize = 4;
/// The bytes that are kept of a sent large frame: its fields before the body, unless its route is long.
const HEAD_BYTES: usize = 512;
/// The maximum number of empty buffers: as many as the parts that a record takes, and a few more.
const SPARE_BUFFERS_MAX: usize = 8;
/// The bytes at the end of the peer's credit that only answers may use. PROTOCOL.md states them.
pub(crate) const ANSWER_CREDIT_BYTES: u64 = 32 * 1024;
/// The most bytes of a part: of a fragment, with all its fields.
pub(crate) const PART_BYTES_MAX: usize = HEADER_BYTES + FRAGMENT_BYTES_MAX + 16;
const _: () =
    assert!(PART_BYTES_MAX >= SMALL_BYTES_MAX, "a buffer of small frames is no larger than a fragment");
/// The bytes of waiting answers without a body above which the peer gets no credit for what may cause further ones.
const ANSWERS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The same for `Down`s that wait for their pairs, with what these occupy: for 79,000 of them. Those of all monitors that a peer may
/// have by default fit.
const DOWNS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What a frame occupies besides its bytes, if it is the only one of its pair: entries in half-empty leaves of two maps, the queues of
/// its receiver, and its allocation. `waiting_downs_occupy_what_they_count` measures it.
const PAIR_OVERHEAD_BYTES: u64 = 176;
/// The bytes of a `Down` without a value or a text.
const DOWN_FRAME_BYTES: u64 = (HEADER_BYTES + DOWN_BYTES_LEAST) as u64;
/// Bytes of receipts for messages that wait for mailboxes, and that asked for them.
const LATE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What the entry of a paused actor occupies.
const PAUSED_ACTOR_BYTES: u64 = 192;
/// The first of the actors, and of the requests, among all receivers.
const FIRST_ACTOR: FrameTarget = FrameTarget::Actor(Key::from_bits(0));
const FIRST_REQUEST: FrameTarget = FrameTarget::Request(Key::from_bits(0));
