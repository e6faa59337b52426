//! A hashed timer wheel: four levels of 256 slots, with a tick of about a millisecond.
//!
//! Insert, cancel and push back take constant time. A timer never fires early, and at most one tick late; in virtual time, which
//! uses an ordered set in place of the lists, it fires exactly in time. Timers
//! of one tick fire in the order of their deadlines, and at equal deadlines in the order in which they were set.
//!
//! A list is a vector of node indexes, not a chain through the nodes. With a million timers each node is a cache
//! miss, and a chain would wait for them one after the other.
//!
//! Invariant: a node in level `l`, slot `s`, is linked for a tick with `s` as its `l`-th byte, and less than
//! `256^(l+1)` ticks ahead. `lists[node.list][node.at]` is the node. `bitmap` has a bit for each list that is not
//! empty.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::Key;
use crate::request::RequestId;
use crate::slots::{SlotKey, Slots};
use crate::socket::SocketId;
use antiphon_types::Time;

const TICK_SHIFT: u32 = 20;
const LEVELS: usize = 4;
const SLOTS: usize = 256;
/// An emptied list keeps its memory up to this capacity.
const KEPT_MAX: usize = 64;
/// The most ticks ahead that the wheel can hold. A later timer is linked there, and linked again when it comes up.
const HORIZON: u64 = (1 << 32) - 1;

/// The key of a timer. It stays invalid after the timer has fired or was cancelled.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey(SlotKey);

/// The purpose of a timer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum TimerPurpose {
    /// The wait of an actor: `receive_within`, `receive_if_within` or `sleep`.
    Wait(Key),
    /// A timer with a message, in this slot of an actor's mailbox.
    Message(Key, u32),
    /// The timeout of a request.
    Request(RequestId),
    /// A timeout of a socket.
    Socket(SocketId),
    /// The half, or the end, of the grace time of an actor.
    Termination(Key),
    /// The half of the time for the stop of the loop.
    Stop,
    /// The end of a blocking job of a virtual loop.
    VirtualJob(usize),
}

#[derive(Copy, Clone)]
struct TimerNode {
    /// When to fire. It may have been pushed back, so that it is later than the list of the node.
    deadline: Time,
    order: u64,
    purpose: TimerPurpose,
    /// The list, by level and slot. Nothing reads it in virtual time.
    list: u32,
    /// The position in the list.
    at: u32,
}

pub(crate) struct TimerWheel {
    nodes: Slots<TimerNode>,
    lists: Box<[Vec<u32>]>,
    bitmap: [[u64; SLOTS / 64]; LEVELS],
    /// All timers of this and earlier ticks have fired.
    tick: u64,
    order: u64,
    /// In virtual time: all running timers, with the indexes of their nodes. The lists are empty then.
    exact: Option<BTreeSet<(Time, u64, u32)>>,
    /// In virtual time: the time of the last `advance`.
    exact_now: Time,
}

impl TimerWheel {
    pub(crate) fn new(is_virtual: bool) -> Self {
        Self {
            exact: is_virtual.then(BTreeSet::new),
            exact_now: Time::ZERO,
            nodes: Slots::new(),
            lists: vec![Vec::new(); LEVELS * SLOTS].into(),
            bitmap: [[0; SLOTS / 64]; LEVELS],
            tick: 0,
            order: 0,
        }
    }

    /// The number of running timers.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn insert(&mut self, deadline: Time, purpose: TimerPurpose) -> TimerKey {
        self.order += 1;
        let node = TimerNode { deadline, order: self.order, purpose, list: 0, at: 0 };
        let key = self.nodes.insert(node, |generation| generation.unwrap_or(0));
        self.link(key.index, self.tick + 1);
        TimerKey(key)
    }

    /// The purpose of a timer; `None` when it has fired or was cancelled.
    pub(crate) fn purpose(&self, key: TimerKey) -> Option<TimerPurpose> {
        self.nodes.get(key.0).map(|node| node.purpose)
    }

    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<TimerPurpose> {
        let node = self.nodes.remove(key.0)?;
        self.unlink(key.0.index, &node);
        Some(node.purpose)
    }

    /// Changes the deadline; false when the timer has fired or was cancelled. A later deadline costs only a store: the
    /// node stays in its list, and is linked again when the list comes up.
    pub(crate) fn push_back(&mut self, key: TimerKey, deadline: Time) -> bool {
        let Some(&old) = self.nodes.get(key.0) else { return false };
        self.order += 1;
        let moves = deadline < old.deadline || self.exact.is_some();
        let index = key.0.index;
        if moves {
            self.unlink(index, &old);
        }
        let node = &mut self.nodes[index];
        node.deadline = deadline;
        node.order = self.order;
        if moves {
            self.link(index, self.tick + 1);
        }
        true
    }

    /// Appends to `due` all timers that are due at `now`.
    pub(crate) fn advance(&mut self, now: Time, due: &mut Vec<TimerPurpose>) {
        if self.exact.is_some() {
            return self.advance_exactly(now, due);
        }
        let target = now.as_nanos() >> TICK_SHIFT;
        while self.tick < target {
            match self.next_busy_tick() {
                Some(next) if next <= target => self.tick = next,
                Some(_) | None => {
                    self.tick = target;
                    return;
                }
            }
            self.cascade();
            self.fire(now, due);
        }
    }

    /// When to call `advance` next: never later than in the tick of the first deadline.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        if let Some(exact) = &self.exact {
            return exact.first().map(|(deadline, ..)| *deadline);
        }
        self.next_busy_tick().map(|tick| Time::from_nanos(tick << TICK_SHIFT))
    }

    #[cold]
    fn advance_exactly(&mut self, now: Time, due: &mut Vec<TimerPurpose>) {
        self.exact_now = self.exact_now.max(now);
        while let Some(exact) = &mut self.exact
            && exact.first().is_some_and(|(deadline, ..)| *deadline <= now)
            && let Some((_, _, index)) = exact.pop_first()
        {
            due.extend(self.release(index));
        }
    }

    fn cascade(&mut self) {
        for level in (1..LEVELS).rev() {
            let below = 8 * level as u32;
            if self.tick & ((1 << below) - 1) != 0 {
                continue;
            }
            let slot = (self.tick >> below) as usize % SLOTS;
            let batch = self.take_list(level * SLOTS + slot);
            for &index in &batch {
                // A timer of this same tick fires right after.
                self.link(index, self.tick);
            }
            self.give_back(level * SLOTS + slot, batch);
        }
    }

    fn fire(&mut self, now: Time, due: &mut Vec<TimerPurpose>) {
        let list = self.tick as usize % SLOTS;
        let mut batch = self.take_list(list);
        if batch.len() > 1 {
            batch.sort_unstable_by_key(|&index| {
                let node = &self.nodes[index];
                (node.deadline, node.order)
            });
        }
        for &index in &batch {
            let node = &self.nodes[index];
            if node.deadline > now || tick_of(node.deadline) > self.tick {
                self.link(index, self.tick + 1);
            } else {
                due.extend(self.release(index));
            }
        }
        self.give_back(list, batch);
    }

    /// Takes the nodes out of a list; the caller links them again or releases them.
    fn take_list(&mut self, list: usize) -> Vec<u32> {
        self.mark(list, false);
        std::mem::take(&mut self.lists[list])
    }

    /// Returns the memory of a list, unless it is large or the list has new nodes.
    fn give_back(&mut self, list: usize, mut batch: Vec<u32>) {
        if self.lists[list].is_empty() && batch.capacity() <= KEPT_MAX {
            batch.clear();
            self.lists[list] = batch;
        }
    }

    /// Links a node into the list of its deadline, but not before the tick `earliest`.
    fn link(&mut self, index: u32, earliest: u64) {
        if let Some(exact) = &mut self.exact {
            let node = &mut self.nodes[index];
            // Later than now: an actor that waits for no time at all does not stop the time.
            node.deadline = node.deadline.max(self.exact_now + Duration::from_nanos(1));
            exact.insert((node.deadline, node.order, index));
            return;
        }
        let tick = tick_of(self.nodes[index].deadline).clamp(earliest, self.tick + HORIZON);
        let ahead = tick - self.tick;
        let level = (0..LEVELS).find(|&l| ahead < 1 << (8 * (l + 1))).unwrap_or(LEVELS - 1);
        let list = level * SLOTS + (tick >> (8 * level)) as usize % SLOTS;
        let node = &mut self.nodes[index];
        node.list = list as u32;
        node.at = self.lists[list].len() as u32;
        if node.at == 0 {
            self.mark(list, true);
        }
        self.lists[list].push(index);
    }

    /// Removes a node from its list. The node itself may be removed already.
    fn unlink(&mut self, index: u32, node: &TimerNode) {
        let TimerNode { list, at, deadline, order, .. } = *node;
        if let Some(exact) = &mut self.exact {
            exact.remove(&(deadline, order, index));
            return;
        }
        let list = list as usize;
        self.lists[list].swap_remove(at as usize);
        match self.lists[list].get(at as usize) {
            Some(&moved) => self.nodes[moved].at = at,
            None if at == 0 => {
                let batch = self.take_list(list);
                self.give_back(list, batch);
            }
            None => {}
        }
    }

    /// Removes a node that is in no list any more. Returns its purpose.
    fn release(&mut self, index: u32) -> Option<TimerPurpose> {
        let key = self.nodes.key_at(index)?;
        self.nodes.remove(key).map(|node| node.purpose)
    }

    fn mark(&mut self, list: usize, busy: bool) {
        let word = &mut self.bitmap[list / SLOTS][list % SLOTS / 64];
        let bit = 1 << (list % 64);
        if busy {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// The next tick at which a slot of level 0 fires, or one of a higher level moves down.
    fn next_busy_tick(&self) -> Option<u64> {
        (0..LEVELS).filter_map(|level| self.next_busy_in(level)).min()
    }

    fn next_busy_in(&self, level: usize) -> Option<u64> {
        let now = self.tick >> (8 * level);
        let begin = (now as usize + 1) % SLOTS;
        let steps = distance_to_bit(&self.bitmap[level], begin)?;
        Some((now + 1 + steps as u64) << (8 * level))
    }
}

fn tick_of(deadline: Time) -> u64 {
    deadline.as_nanos().div_ceil(1 << TICK_SHIFT)
}

/// The distance from `begin` to the next set bit, with wrap-around.
fn distance_to_bit(words: &[u64; SLOTS / 64], begin: usize) -> Option<usize> {
    let (word, bit) = (begin / 64, begin % 64);
    let first = words[word] >> bit;
    if first != 0 {
        return Some(first.trailing_zeros() as usize);
    }
    let n = words.len();
    (1..=n).find_map(|step| {
        let bits = words[(word + step) % n];
        (bits != 0).then(|| step * 64 - bit + bits.trailing_zeros() as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timer(n: u32) -> TimerPurpose {
        TimerPurpose::Message(Key::new(0, 0), n)
    }

    #[test]
    fn wheel_fires_by_deadline_then_insertion_order() {
        let mut wheel = TimerWheel::new(false);
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        wheel.insert(at(700), timer(0));
        wheel.insert(at(5), timer(1));
        wheel.insert(at(700), timer(2));
        let mut due = Vec::new();
        wheel.advance(at(600), &mut due);
        assert_eq!(due, [timer(1)]);
        wheel.insert(at(700), timer(3));
        wheel.advance(at(800), &mut due);
        assert_eq!(due, [timer(1), timer(0), timer(2), timer(3)]);
        assert_eq!(wheel.len(), 0);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn cancelled_key_stays_invalid_after_reuse() {
        let mut wheel = TimerWheel::new(false);
        let old = wheel.insert(Time::from_nanos(1 << 30), timer(0));
        assert_eq!(wheel.cancel(old), Some(timer(0)));
        let new = wheel.insert(Time::from_nanos(1 << 30), timer(1));
        assert_eq!(wheel.cancel(old), None);
        assert!(!wheel.push_back(old, Time::MAX));
        assert_eq!(wheel.purpose(new), Some(timer(1)));
    }

    /// The requests of a burst have the same timeout, and are answered before it.
    #[test]
    fn cancelled_burst_leaves_no_large_list() {
        let mut wheel = TimerWheel::new(false);
        let keys: Vec<TimerKey> =
            (0..1000).map(|number| wheel.insert(Time::from_nanos(1 << 33), timer(number))).collect();
        keys.into_iter().for_each(|key| assert!(wheel.cancel(key).is_some()));
        assert!(wheel.lists.iter().all(|list| list.capacity() <= KEPT_MAX));
        assert_eq!(wheel.next_deadline(), None);
    }

    proptest! {
        /// In virtual time, each timer fires exactly at its time, in the order of their deadlines.
        #[test]
        fn virtual_timers_fire_exactly(
            spans in prop::collection::vec((1u64..1 << 45, 1u64..1 << 45), 1..60),
        ) {
            let mut wheel = TimerWheel::new(true);
            let mut model: Vec<(u64, u32)> = Vec::new();
            for ((span, other), id) in spans.into_iter().zip(0..) {
                let key = wheel.insert(Time::from_nanos(span), timer(id));
                match id % 3 {
                    0 => model.push((span, id)),
                    1 => {
                        prop_assert!(wheel.push_back(key, Time::from_nanos(other)));
                        model.push((other, id));
                    }
                    _ => prop_assert_eq!(wheel.cancel(key), Some(timer(id))),
                }
            }
            model.sort_unstable();
            let mut fired = Vec::new();
            while let Some(next) = wheel.next_deadline() {
                let mut due = Vec::new();
                wheel.advance(next, &mut due);
                prop_assert!(!due.is_empty());
                for due in due {
                    let TimerPurpose::Message(_, id) = due else { panic!("only timers with messages were set") };
                    fired.push((next.as_nanos(), id));
                }
            }
            prop_assert_eq!(fired.iter().map(|fired| fired.0).collect::<Vec<_>>(), model.iter().map(|m| m.0).collect::<Vec<_>>());
            fired.sort_unstable();
            prop_assert_eq!(fired, model);
            prop_assert_eq!(wheel.len(), 0);
        }

        /// Compared with a sorted list: no timer fires early, more than a tick late, or never.
        #[test]
        fn wheel_agrees_with_sorted_list(
            spans in prop::collection::vec((0u64..1 << 45, any::<bool>(), 0u64..1 << 45), 1..60),
            steps in prop::collection::vec(1u64..1 << 43, 1..60),
        ) {
            let mut wheel = TimerWheel::new(false);
            let mut model: Vec<(u64, u32)> = Vec::new();
            let mut now = 0;
            let mut spans = spans.into_iter().zip(0..);
            for step in steps {
                for ((span, push, other), id) in spans.by_ref().take(3) {
                    let key = wheel.insert(Time::from_nanos(now + span), timer(id));
                    let at = if push { other } else { span };
                    if push { prop_assert!(wheel.push_back(key, Time::from_nanos(now + at))); }
                    model.push((now + at, id));
                }
                if let (Some(next), Some(first)) = (wheel.next_deadline(), model.iter().map(|m| m.0).min()) {
                    prop_assert!(next.as_nanos() <= tick_of(Time::from_nanos(first)).max(wheel.tick + 1) << TICK_SHIFT);
                }
                now += step;
                let mut due = Vec::new();
                wheel.advance(Time::from_nanos(now), &mut due);
                for fired in due {
                    let TimerPurpose::Message(_, id) = fired else { panic!("only timers with messages were set") };
                    let at = model.iter().position(|m| m.1 == id).expect("a timer fires once");
                    prop_assert!(model.remove(at).0 <= now);
                }
                prop_assert!(model.iter().all(|m| m.0 + (2 << TICK_SHIFT) > now));
                prop_assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
