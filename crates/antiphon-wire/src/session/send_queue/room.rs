//! How many bytes may wait for each receiving actor, and which actors a node awaits room for.
//!
//! The rule is a dynamic threshold (Choudhury and Hahne, 1998, alpha 1): as many bytes may wait for one actor as are still
//! free in the budget. So one stuck actor leaves half of the budget to all others, and n stuck actors leave 1/(n+1).

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::Key;
use crate::limits::Limits;

/// How full the queue of an actor may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendMark {
    /// The limit of the actor.
    Cap,
    /// `queue_bytes_high`, or half of the limit of the actor if that is less.
    High,
}

/// The bytes that may wait for all actors of one peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueBudget {
    pub(crate) cap: u64,
    pub(crate) high: u64,
}

impl QueueBudget {
    /// The most bytes that may wait for all actors together, so that `bytes` more may wait for an actor for which `queued`
    /// bytes wait already. `None` if the actor has to send some of its own first, or if the bytes never fit.
    fn total_max(self, queued: u64, bytes: u64, mark: SendMark) -> Option<u64> {
        if queued == 0 {
            return (self.cap * 2).checked_sub(bytes);
        }
        let after = queued + bytes;
        match mark {
            // after <= cap - (total + bytes)
            SendMark::Cap => self.cap.checked_sub(after + bytes),
            // after <= high, and after <= limit / 2 with limit = (cap - others) / 2 and others = total - queued
            SendMark::High if after > self.high => None,
            SendMark::High => (self.cap + queued).checked_sub(4 * after),
        }
    }

    /// Whether `bytes` more may wait for an actor for which `queued` of all `total` bytes wait.
    pub(crate) fn fits(self, queued: u64, total: u64, bytes: u64, mark: SendMark) -> bool {
        self.total_max(queued, bytes, mark).is_some_and(|most| total <= most)
    }
}

impl Limits {
    /// Whether `bytes` more may wait for an actor for which `queued` of all `total` bytes to its peer wait: the rule of a
    /// session, for messages that wait before there is one.
    pub fn admits(&self, queued: u64, total: u64, bytes: u64, mark: SendMark) -> bool {
        let budget = QueueBudget { cap: self.queue_bytes_cap, high: self.queue_bytes_high };
        budget.fits(queued, total, bytes, mark)
    }
}

/// The actors that the node awaits room for. Each is reported once.
#[derive(Debug, Default)]
pub(crate) struct AwaitedRoom {
    awaited: BTreeMap<Key, Awaited>,
    /// Awaited actors by the largest total at which their bytes fit.
    by_total: BTreeSet<(u64, Key)>,
    /// Actors that have room and were not reported, in their order by number.
    writable: BTreeMap<u64, Key>,
    /// The numbers of these.
    writable_numbers: BTreeMap<Key, u64>,
    last_number: u64,
}

/// The least room that is awaited for an actor.
#[derive(Debug, Default)]
struct Awaited {
    /// The bytes for each mark.
    cap: Option<u64>,
    high: Option<u64>,
    /// The largest total at which one of them fits, with what waits for the actor at present.
    total_max: Option<u64>,
}

impl Awaited {
    fn total_max(&self, budget: QueueBudget, queued: u64) -> Option<u64> {
        let of_mark = |bytes: Option<u64>, mark| budget.total_max(queued, bytes?, mark);
        of_mark(self.cap, SendMark::Cap).max(of_mark(self.high, SendMark::High))
    }
}

impl AwaitedRoom {
    /// Awaits room for `bytes` bytes for an actor, unless less is awaited for the mark. Then call
    /// [`update`](AwaitedRoom::update).
    pub(crate) fn add(&mut self, actor: Key, bytes: u64, mark: SendMark) {
        let awaited = self.awaited.entry(actor).or_default();
        let least = match mark {
            SendMark::Cap => &mut awaited.cap,
            SendMark::High => &mut awaited.high,
        };
        *least = Some(least.map_or(bytes, |least| least.min(bytes)));
    }

    pub(crate) fn remove(&mut self, actor: Key) {
        if let Some(Awaited { total_max: Some(most), .. }) = self.awaited.remove(&actor) {
            self.by_total.remove(&(most, actor));
        }
        if let Some(number) = self.writable_numbers.remove(&actor) {
            self.writable.remove(&number);
        }
    }

    /// Handles a change of the bytes that wait for an actor.
    #[inline]
    pub(crate) fn update(&mut self, budget: QueueBudget, actor: Key, queued: u64) {
        if !self.awaited.is_empty() {
            self.update_awaited(budget, actor, queued);
        }
    }

    fn update_awaited(&mut self, budget: QueueBudget, actor: Key, queued: u64) {
        let Some(awaited) = self.awaited.get_mut(&actor) else { return };
        let total_max = awaited.total_max(budget, queued);
        if let Some(before) = std::mem::replace(&mut awaited.total_max, total_max) {
            self.by_total.remove(&(before, actor));
        }
        self.by_total.extend(total_max.map(|most| (most, actor)));
    }

    /// Finds the awaited actors that have room now.
    pub(crate) fn find_writable(&mut self, total: u64) {
        while self.by_total.last().is_some_and(|(most, _)| total <= *most) {
            let Some((_, actor)) = self.by_total.pop_last() else { return };
            self.awaited.remove(&actor);
            if !self.writable_numbers.contains_key(&actor) {
                self.last_number += 1;
                self.writable.insert(self.last_number, actor);
                self.writable_numbers.insert(actor, self.last_number);
            }
        }
    }

    /// The next actor that has room.
    pub(crate) fn next_writable(&mut self) -> Option<Key> {
        let (_, actor) = self.writable.pop_first()?;
        self.writable_numbers.remove(&actor);
        Some(actor)
    }

    /// Panics if an invariant does not hold. `queued` returns the bytes that wait for an actor.
    pub(crate) fn check(&self, budget: QueueBudget, queued: impl Fn(Key) -> u64) {
        for (actor, awaited) in &self.awaited {
            let most = awaited.total_max(budget, queued(*actor));
            assert_eq!(most, awaited.total_max, "an awaited actor is up to date");
        }
        let known = self.awaited.iter().filter_map(|(actor, awaited)| Some((awaited.total_max?, *actor)));
        assert_eq!(known.collect::<BTreeSet<_>>(), self.by_total, "awaited actors are sorted");
        let writable = self.writable.iter().map(|(number, actor)| (*actor, *number));
        assert_eq!(
            writable.collect::<BTreeMap<_, _>>(),
            self.writable_numbers,
            "writable actors are numbered"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: QueueBudget = QueueBudget { cap: 1_000_000, high: 100_000 };

    /// Fills the queue of one actor with small frames, and returns its bytes.
    fn filled(total_of_others: u64, mark: SendMark) -> u64 {
        let mut queued = 0;
        while BUDGET.fits(queued, total_of_others + queued, 100, mark) {
            queued += 100;
        }
        queued
    }

    #[test]
    fn stuck_actors_share_budget_by_threshold() {
        let (mut total, mut stuck) = (0, Vec::new());
        for _ in 0..4 {
            let queued = filled(total, SendMark::Cap);
            stuck.push(queued);
            total += queued;
        }
        assert_eq!(stuck, [500_000, 250_000, 125_000, 62_500]);
    }

    #[test]
    fn empty_queue_accepts_one_frame_within_twice_budget() {
        assert!(BUDGET.fits(0, 1_900_000, 100_000, SendMark::Cap));
        assert!(BUDGET.fits(0, 1_900_000, 100_000, SendMark::High));
        assert!(!BUDGET.fits(0, 1_900_000, 100_001, SendMark::Cap));
        assert!(!BUDGET.fits(1, 1_900_000, 1, SendMark::Cap));
    }

    #[test]
    fn high_mark_is_half_of_limit_at_most() {
        assert_eq!(filled(0, SendMark::High), 100_000);
        let limit = filled(800_000, SendMark::Cap);
        assert_eq!((limit, filled(800_000, SendMark::High)), (100_000, 50_000));
    }

    #[test]
    fn awaited_actor_is_reported_once_it_fits() {
        let mut room = AwaitedRoom::default();
        room.add(Key::from_bits(1), 1_000, SendMark::Cap);
        room.update(BUDGET, Key::from_bits(1), 499_500);
        room.find_writable(499_500);
        assert_eq!(room.next_writable(), None);
        room.update(BUDGET, Key::from_bits(1), 499_000);
        room.find_writable(499_000);
        assert_eq!((room.next_writable(), room.next_writable()), (Some(Key::from_bits(1)), None));
    }

    #[test]
    fn awaited_actor_is_reported_when_others_leave_room() {
        let mut room = AwaitedRoom::default();
        room.add(Key::from_bits(1), 1_000, SendMark::Cap);
        room.update(BUDGET, Key::from_bits(1), 100_000);
        room.find_writable(900_000);
        assert_eq!(room.next_writable(), None);
        room.find_writable(898_000);
        assert_eq!(room.next_writable(), Some(Key::from_bits(1)));
    }

    #[test]
    fn removed_actor_is_not_reported() {
        let mut room = AwaitedRoom::default();
        for actor in [Key::from_bits(1), Key::from_bits(2)] {
            room.add(actor, 1_000, SendMark::Cap);
            room.update(BUDGET, actor, 0);
        }
        room.remove(Key::from_bits(1));
        room.find_writable(0);
        assert_eq!((room.next_writable(), room.next_writable()), (Some(Key::from_bits(2)), None));
    }
}
