//! The table of actors, and the queue of those that have something to do.
//!
//! Invariant: a slot with a cell is in the run queue exactly when its `next` is not `UNLISTED`; a slot without
//! one is in the free list, retired, or dying under the hands of its own step. A key agrees with at most
//! one actor ever.

use crate::cell::Cell;
use crate::id::Key;

/// The end of a list.
const NONE: u32 = u32::MAX;
/// The `next` of a slot that is in no list.
const UNLISTED: u32 = u32::MAX - 1;
const FLAG_BITS: u32 = 4;

/// What is known of an actor besides its cell. One bit each.
#[derive(Copy, Clone)]
pub(crate) struct Flag(u32);

impl Flag {
    pub(crate) const DAEMON: Self = Self(1);
    /// Has an entry in the side table.
    pub(crate) const EXTRAS: Self = Self(2);
    /// Is to be looked at by the next trimming.
    pub(crate) const TRIM: Self = Self(4);
    /// Is no actor, but a further address of one.
    pub(crate) const ADAPTER: Self = Self(8);
}

struct ActorSlot {
    cell: Option<Cell>,
    /// The next slot in the run queue, or in the free list.
    next: u32,
    /// Generation 28 bits, flags 4 bits.
    meta: u32,
}

impl ActorSlot {
    fn generation(&self) -> u32 {
        self.meta >> FLAG_BITS
    }

    #[inline]
    fn is_of(&self, key: Key) -> bool {
        u64::from(self.generation()) == key.generation()
    }

    #[inline]
    fn is_queued(&self) -> bool {
        self.next != UNLISTED
    }
}

pub(crate) struct ActorTable {
    slots: Vec<ActorSlot>,
    free: u32,
    run_head: u32,
    run_tail: u32,
    runnable: usize,
    live: usize,
}

impl ActorTable {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: NONE, run_head: NONE, run_tail: NONE, runnable: 0, live: 0 }
    }

    /// How many actors there are.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn is_runnable(&self) -> bool {
        self.run_head != NONE
    }

    /// How many actors have something to do.
    pub(crate) fn runnable(&self) -> usize {
        self.runnable
    }

    /// Gives the cell a slot.
    ///
    /// # Panics
    /// When 2^28 - 1 actors live at once.
    pub(crate) fn insert(&mut self, cell: Cell) -> Key {
        self.live += 1;
        let index = match self.free {
            NONE => {
                let index = self.slots.len() as u32;
                assert!(index <= Key::INDEX_MAX, "a loop holds at most {} actors", Key::INDEX_MAX);
                self.slots.push(ActorSlot { cell: None, next: UNLISTED, meta: 0 });
                index
            }
            index => {
                self.free = self.slots[index as usize].next;
                index
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.cell = Some(cell);
        slot.next = UNLISTED;
        Key::new(slot.generation(), index)
    }

    /// The cell of a living actor, and whether it is in the run queue.
    #[inline]
    pub(crate) fn receiver(&mut self, key: Key) -> Option<(&mut Cell, bool)> {
        let slot = self.slots.get_mut(key.index() as usize)?;
        if !slot.is_of(key) {
            return None;
        }
        let queued = slot.is_queued();
        slot.cell.as_mut().map(|cell| (cell, queued))
    }

    /// The cell of a living actor.
    #[inline]
    pub(crate) fn cell_mut(&mut self, key: Key) -> Option<&mut Cell> {
        let slot = self.slots.get_mut(key.index() as usize)?;
        if slot.is_of(key) { slot.cell.as_mut() } else { None }
    }

    pub(crate) fn is_alive(&self, key: Key) -> bool {
        self.slots.get(key.index() as usize).is_some_and(|slot| slot.is_of(key) && slot.cell.is_some())
    }

    /// Puts another cell in the place of an actor's; the old one comes back.
    #[cfg_attr(feature = "safe", expect(dead_code, reason = "the unsafe cell's"))]
    pub(crate) fn replace(&mut self, key: Key, cell: Cell) -> Option<Cell> {
        self.cell_mut(key).map(|old| std::mem::replace(old, cell))
    }

    /// Ends an actor: its key is stale from now on. The slot stays taken until [`ActorTable::free`].
    pub(crate) fn remove(&mut self, key: Key) -> Option<Cell> {
        let slot = self.slots.get_mut(key.index() as usize).filter(|slot| slot.is_of(key))?;
        let cell = slot.cell.take()?;
        slot.meta = slot.meta.wrapping_add(1 << FLAG_BITS);
        self.live -= 1;
        Some(cell)
    }

    /// Gives the slot of a removed actor back, or retires it when its generations are used up.
    pub(crate) fn free(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.is_queued() {
            // It leaves the run queue when its turn comes; then it is freed.
            return;
        }
        slot.meta &= !((1 << FLAG_BITS) - 1);
        if slot.generation() < Key::GENERATION_MAX {
            slot.next = self.free;
            self.free = index;
        }
    }

    pub(crate) fn has(&self, index: u32, flag: Flag) -> bool {
        self.slots[index as usize].meta & flag.0 != 0
    }

    pub(crate) fn set(&mut self, index: u32, flag: Flag, on: bool) {
        let meta = &mut self.slots[index as usize].meta;
        if on {
            *meta |= flag.0;
        } else {
            *meta &= !flag.0;
        }
    }

    /// Has the actor run, unless it is in the queue already.
    #[inline]
    pub(crate) fn enqueue(&mut self, index: u32) {
        if !self.slots[index as usize].is_queued() {
            self.append(index);
        }
    }

    /// As [`ActorTable::enqueue`], for an actor that is known not to be in the queue.
    #[inline]
    pub(crate) fn append(&mut self, index: u32) {
        self.slots[index as usize].next = NONE;
        self.runnable += 1;
        if self.run_head == NONE {
            self.run_head = index;
        } else {
            self.slots[self.run_tail as usize].next = index;
        }
        self.run_tail = index;
    }

    /// The next actor to run, with its cell; it is no longer in the queue.
    #[inline]
    pub(crate) fn dequeue(&mut self) -> Option<(Key, &mut Cell)> {
        loop {
            let index = self.run_head;
            let slot = self.slots.get_mut(index as usize)?;
            self.run_head = slot.next;
            self.runnable -= 1;
            slot.next = UNLISTED;
            if slot.cell.is_none() {
                self.free(index);
                continue;
            }
            let slot = &mut self.slots[index as usize];
            let key = Key::new(slot.generation(), index);
            return slot.cell.as_mut().map(|cell| (key, cell));
        }
    }

    /// The keys of all who live.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let taken = self.slots.iter().zip(0..).filter(|(slot, _)| slot.cell.is_some());
        taken.map(|(slot, index)| Key::new(slot.generation(), index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cx::Cx;
    use crate::event::Event;
    use crate::mailbox::Mailbox;
    use crate::step::{Step, suspend};

    fn cell() -> Cell {
        Cell::new(Mailbox::<u32>::new(), |_: &mut Cx<'_, u32>, _: Event<u32>| -> Step<u32> { suspend() })
    }

    fn end_actor(slots: &mut ActorTable, key: Key) {
        drop(slots.remove(key).expect("it lives"));
        slots.free(key.index());
    }

    #[test]
    fn a_slot_is_used_again_under_another_generation() {
        let mut slots = ActorTable::new();
        let old = slots.insert(cell());
        end_actor(&mut slots, old);
        let new = slots.insert(cell());
        assert_eq!(old.index(), new.index());
        assert_ne!(old, new);
        assert!(slots.is_alive(new) && !slots.is_alive(old));
        assert!(slots.cell_mut(old).is_none() && slots.remove(old).is_none());
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let mut slots = ActorTable::new();
        let first = slots.insert(cell());
        end_actor(&mut slots, first);
        // As if it had had all of its tenants but the last two.
        let slot = &mut slots.slots[first.index() as usize];
        slot.meta = (slot.meta & ((1 << FLAG_BITS) - 1)) | ((Key::GENERATION_MAX - 2) << FLAG_BITS);
        let mut last = first;
        for _ in 0..2 {
            last = slots.insert(cell());
            assert_eq!(last.index(), first.index());
            end_actor(&mut slots, last);
        }
        let next = slots.insert(cell());
        assert_ne!(next.index(), first.index(), "the slot is retired");
        for generation in [0, 1, Key::GENERATION_MAX - 1, Key::GENERATION_MAX] {
            assert!(!slots.is_alive(Key::new(generation, first.index())), "no key means a retired slot");
        }
        assert!(!slots.is_alive(last));
    }

    #[test]
    fn no_forged_key_is_alive() {
        let mut slots = ActorTable::new();
        let key = slots.insert(cell());
        for bit in 0..64 {
            assert!(!slots.is_alive(Key::from_bits(key.to_bits() ^ (1 << bit))), "bit {bit}");
        }
        assert!(!slots.is_alive(Key::from_bits(u64::MAX)));
    }

    #[test]
    fn whoever_ends_while_it_waits_to_run_leaves_the_queue_in_order() {
        let mut slots = ActorTable::new();
        let keys = [(); 4].map(|()| slots.insert(cell()));
        keys.iter().for_each(|key| slots.enqueue(key.index()));
        slots.enqueue(keys[0].index());
        assert_eq!(slots.runnable(), 4, "once is enough");
        end_actor(&mut slots, keys[1]);
        end_actor(&mut slots, keys[3]);
        let tenant = slots.insert(cell());
        assert!(!keys.iter().any(|key| key.index() == tenant.index()), "a queued slot is not given away");
        let mut next = || slots.dequeue().map(|(key, _)| key);
        assert_eq!([next(), next(), next()], [Some(keys[0]), Some(keys[2]), None]);
        assert_eq!((slots.runnable(), slots.live()), (0, 3));
        let next = [slots.insert(cell()), slots.insert(cell())];
        assert_ne!(next[0].index(), next[1].index());
        assert!(next.iter().all(|key| key.index() == keys[1].index() || key.index() == keys[3].index()));
    }
}
