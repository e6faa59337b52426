//! The table of actors, and the run queue: the actors that have events or messages to handle.
//!
//! Invariant: a slot with a cell is in the run queue exactly when its `next` is not `UNLISTED`. A slot without
//! a cell is in the free list, in the run queue until it is dequeued, retired, or its actor is being ended.
//! A key refers to at most one actor, ever.
//!
//! It is not a [`Slots`](crate::slots::Slots), since each message looks at a slot: generation, flags and the link of the run queue
//! are packed into 8 bytes, and a slot whose generations are used up is retired.

use crate::id::Key;
use crate::scheduler::cell::{ActorType, Cell};

/// The end of a list.
const NONE: u32 = u32::MAX;
/// The `next` of a slot that is in no list.
const UNLISTED: u32 = u32::MAX - 1;
const FLAG_BITS: u32 = 11;

/// A property of an actor, stored as one bit of its slot.
#[derive(Copy, Clone)]
pub(crate) struct Flag(u32);

impl Flag {
    pub(crate) const DAEMON: Self = Self(1);
    /// The actor has an entry in the table of actor extras.
    pub(crate) const EXTRAS: Self = Self(2);
    /// The actor is in the list of mailboxes to trim.
    pub(crate) const TRIM: Self = Self(4);
    /// Something waits for room in the mailbox, or holds a reserved place in it.
    pub(crate) const CONTENDED: Self = Self(8);
    /// The actor has an entry in the table of terminations.
    pub(crate) const TERMINATING: Self = Self(16);
    /// The mailbox has a limit of its own, in the actor's extras.
    pub(crate) const OWN_LIMIT: Self = Self(64);
    /// Mailboxes into which messages are not pushed without a closer look.
    const NOT_PLAIN: Self = Self(Self::CONTENDED.0 | Self::OWN_LIMIT.0);
    /// When the loop stops, the actor ends after all that are no services.
    pub(crate) const SERVICE: Self = Self(32);
}

struct ActorSlot {
    cell: Option<Cell>,
    /// The next slot in the run queue, or in the free list.
    next: u32,
    /// Generation 21 bits, flags 11 bits.
    meta: u32,
    /// The number of actors that were inserted before.
    spawn_number: u64,
}

impl ActorSlot {
    fn generation(&self) -> u32 {
        self.meta >> FLAG_BITS
    }

    /// Whether the key is of the actor in this slot. No key of an adapter is: its adapter number differs from 0.
    #[inline]
    fn matches(&self, key: Key) -> bool {
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
    len: usize,
    spawned: u64,
}

impl ActorTable {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            run_head: NONE,
            run_tail: NONE,
            runnable: 0,
            len: 0,
            spawned: 0,
        }
    }

    /// The number of actors.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_runnable(&self) -> bool {
        self.run_head != NONE
    }

    /// The length of the run queue.
    pub(crate) fn runnable(&self) -> usize {
        self.runnable
    }

    /// Puts the cell into a free slot.
    ///
    /// # Panics
    /// If 2^25 - 1 slots are in use or retired.
    pub(crate) fn insert(&mut self, cell: Cell) -> Key {
        self.len += 1;
        let index = match self.free {
            NONE => {
                let index = self.slots.len() as u32;
                assert!(index <= Key::INDEX_MAX, "a loop holds at most {} actors", Key::INDEX_MAX + 1);
                self.slots.push(ActorSlot { cell: None, next: UNLISTED, meta: 0, spawn_number: 0 });
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
        slot.spawn_number = self.spawned;
        self.spawned += 1;
        Key::new(slot.generation(), index)
    }

    /// The cell of a running actor, whether the actor is in the run queue, and whether its mailbox is contended or has a limit
    /// of its own.
    #[inline]
    pub(crate) fn receiver(&mut self, key: Key) -> Option<(&mut Cell, bool, bool)> {
        let slot = self.slots.get_mut(key.index() as usize)?;
        if !slot.matches(key) {
            return None;
        }
        let (queued, contended) = (slot.is_queued(), slot.meta & Flag::NOT_PLAIN.0 != 0);
        slot.cell.as_mut().map(|cell| (cell, queued, contended))
    }

    /// The cell of a running actor.
    #[inline]
    pub(crate) fn cell_mut(&mut self, key: Key) -> Option<&mut Cell> {
        let slot = self.slots.get_mut(key.index() as usize)?;
        if slot.matches(key) { slot.cell.as_mut() } else { None }
    }

    /// The type of a running actor.
    pub(crate) fn actor_type(&self, key: Key) -> Option<ActorType> {
        let slot = self.slots.get(key.index() as usize).filter(|slot| slot.matches(key))?;
        slot.cell.as_ref().map(Cell::actor_type)
    }

    pub(crate) fn is_alive(&self, key: Key) -> bool {
        self.slots.get(key.index() as usize).is_some_and(|slot| slot.matches(key) && slot.cell.is_some())
    }

    /// Whether the mailbox of an actor has a limit of its own; `false` if the actor has ended.
    #[inline]
    pub(crate) fn has_own_limit(&self, key: Key) -> bool {
        self.slots
            .get(key.index() as usize)
            .is_some_and(|slot| slot.meta & Flag::OWN_LIMIT.0 != 0 && slot.matches(key))
    }

    /// Replaces the cell of an actor, and returns the old one.
    #[cfg_attr(feature = "safe", expect(dead_code, reason = "only the unsafe cell uses it"))]
    pub(crate) fn replace(&mut self, key: Key, cell: Cell) -> Option<Cell> {
        self.cell_mut(key).map(|old| std::mem::replace(old, cell))
    }

    /// Removes an actor: its key is stale from now on. The slot stays in use until [`ActorTable::free`].
    pub(crate) fn remove(&mut self, key: Key) -> Option<Cell> {
        let slot = self.slots.get_mut(key.index() as usize).filter(|slot| slot.matches(key))?;
        let cell = slot.cell.take()?;
        slot.meta = slot.meta.wrapping_add(1 << FLAG_BITS);
        self.len -= 1;
        Some(cell)
    }

    /// Frees the slot of a removed actor, or retires it if its generations are used up.
    pub(crate) fn free(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.is_queued() {
            // `dequeue` frees it when it reaches the head of the run queue.
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

    /// Whether the actor is in the run queue.
    pub(crate) fn is_queued(&self, index: u32) -> bool {
        self.slots[index as usize].is_queued()
    }

    /// Puts the actor into the run queue, unless it is there already.
    #[inline]
    pub(crate) fn enqueue(&mut self, index: u32) {
        if !self.slots[index as usize].is_queued() {
            self.append(index);
        }
    }

    /// Puts an actor into the run queue that is known not to be there.
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

    /// Takes the next actor to run from the queue, with its cell.
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

    /// The actor in a place: `None` beyond the last place, `Some(None)` if the place is free.
    pub(crate) fn key_at(&self, index: u32) -> Option<Option<Key>> {
        let slot = self.slots.get(index as usize)?;
        Some(slot.cell.as_ref().map(|_| Key::new(slot.generation(), index)))
    }

    /// The keys of all actors.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.slots().map(|(slot, index)| Key::new(slot.generation(), index))
    }

    /// The keys of all actors in the order in which they end last when the loop stops: services first, then by age.
    pub(crate) fn last_to_end(&self) -> Vec<Key> {
        let mut all: Vec<(bool, u64, Key)> = self
            .slots()
            .map(|(slot, index)| {
                let is_service = slot.meta & Flag::SERVICE.0 != 0;
                (!is_service, slot.spawn_number, Key::new(slot.generation(), index))
            })
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, _, key)| key).collect()
    }

    /// The slots in use, with their indices.
    fn slots(&self) -> impl Iterator<Item = (&ActorSlot, u32)> {
        self.slots.iter().zip(0..).filter(|(slot, _)| slot.cell.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::Cx;
    use crate::actor::Event;
    use crate::actor::{Step, suspend};
    use crate::scheduler::mailbox::Mailbox;

    fn cell() -> Cell {
        Cell::new(Mailbox::<u32>::new(), |_: &mut Cx<'_, u32>, _: Event<u32>| -> Step<u32> { suspend() })
    }

    fn end_actor(table: &mut ActorTable, key: Key) {
        drop(table.remove(key).expect("the actor is alive"));
        table.free(key.index());
    }

    #[test]
    fn actor_table_reuses_slot_with_new_generation() {
        let mut table = ActorTable::new();
        let old = table.insert(cell());
        end_actor(&mut table, old);
        let new = table.insert(cell());
        assert_eq!(old.index(), new.index());
        assert_ne!(old, new);
        assert!(table.is_alive(new) && !table.is_alive(old));
        assert!(table.cell_mut(old).is_none() && table.remove(old).is_none());
    }

    #[test]
    fn actor_table_retires_slot_after_last_generation() {
        let mut table = ActorTable::new();
        let first = table.insert(cell());
        end_actor(&mut table, first);
        // As if the slot had been used for all generations but the last two.
        let slot = &mut table.slots[first.index() as usize];
        slot.meta = (slot.meta & ((1 << FLAG_BITS) - 1)) | ((Key::GENERATION_MAX - 2) << FLAG_BITS);
        let mut last = first;
        for _ in 0..2 {
            last = table.insert(cell());
            assert_eq!(last.index(), first.index());
            end_actor(&mut table, last);
        }
        let next = table.insert(cell());
        assert_ne!(next.index(), first.index(), "the slot is retired");
        for generation in [0, 1, Key::GENERATION_MAX - 1, Key::GENERATION_MAX] {
            assert!(
                !table.is_alive(Key::new(generation, first.index())),
                "generation {generation} of a retired slot"
            );
        }
        assert!(!table.is_alive(last));
    }

    #[test]
    fn actor_table_forged_key_is_not_alive() {
        let mut table = ActorTable::new();
        let key = table.insert(cell());
        for bit in 0..64 {
            assert!(!table.is_alive(Key::from_bits(key.to_bits() ^ (1 << bit))), "bit {bit}");
        }
        assert!(!table.is_alive(Key::from_bits(u64::MAX)));
    }

    #[test]
    fn actor_table_removed_actor_leaves_run_queue() {
        let mut table = ActorTable::new();
        let keys = [(); 4].map(|()| table.insert(cell()));
        keys.iter().for_each(|key| table.enqueue(key.index()));
        table.enqueue(keys[0].index());
        assert_eq!(table.runnable(), 4, "enqueueing twice counts once");
        end_actor(&mut table, keys[1]);
        end_actor(&mut table, keys[3]);
        let inserted = table.insert(cell());
        assert!(!keys.iter().any(|key| key.index() == inserted.index()), "a queued slot is not reused");
        let mut next = || table.dequeue().map(|(key, _)| key);
        assert_eq!([next(), next(), next()], [Some(keys[0]), Some(keys[2]), None]);
        assert_eq!((table.runnable(), table.len()), (0, 3));
        let next = [table.insert(cell()), table.insert(cell())];
        assert_ne!(next[0].index(), next[1].index());
        assert!(next.iter().all(|key| key.index() == keys[1].index() || key.index() == keys[3].index()));
    }
}
