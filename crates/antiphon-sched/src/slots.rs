//! A table of values under keys that become invalid: a key has the index of a slot, and the generation that the slot had.
//!
//! Invariant: a key refers to at most one value until its generation repeats. A free slot is in the free list, once; the slot that
//! was freed last is used first.

use std::ops::{Index, IndexMut};

use crate::scheduler::TableInUse;

/// The end of the free list.
const NONE: u32 = u32::MAX;

/// The key of a value.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlotKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
}

struct Slot<T> {
    /// The generation of the value; in a free slot, the one that the next value would have.
    generation: u32,
    content: SlotContent<T>,
}

enum SlotContent<T> {
    Value(T),
    /// The slot is free; this is the next one in the free list.
    Free(u32),
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: NONE, len: 0 }
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The index of the slot that the next value gets.
    pub(crate) fn next_index(&self) -> u32 {
        match self.free {
            NONE => u32::try_from(self.slots.len())
                .ok()
                .filter(|index| *index != NONE)
                .expect("fewer values than 2^32 - 1"),
            index => index,
        }
    }

    /// Inserts a value. `generation` chooses its generation from the one that follows in its slot, or from `None` in a new slot.
    pub(crate) fn insert(&mut self, value: T, generation: impl FnOnce(Option<u32>) -> u32) -> SlotKey {
        let _in_use = TableInUse::begin();
        let index = self.next_index();
        let generation = match self.slots.get_mut(index as usize) {
            Some(slot) => {
                if let SlotContent::Free(next) = slot.content {
                    self.free = next;
                }
                slot.generation = generation(Some(slot.generation));
                slot.content = SlotContent::Value(value);
                slot.generation
            }
            None => {
                let generation = generation(None);
                self.slots.push(Slot { generation, content: SlotContent::Value(value) });
                generation
            }
        };
        self.len += 1;
        SlotKey { index, generation }
    }

    pub(crate) fn get(&self, key: SlotKey) -> Option<&T> {
        self.slots.get(key.index as usize).filter(|slot| slot.generation == key.generation)?.value()
    }

    pub(crate) fn get_mut(&mut self, key: SlotKey) -> Option<&mut T> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?.value_mut()
    }

    /// The key of the value in a slot; `None` if the slot is free.
    pub(crate) fn key_at(&self, index: u32) -> Option<SlotKey> {
        let slot = self.slots.get(index as usize)?;
        slot.value().map(|_| SlotKey { index, generation: slot.generation })
    }

    /// Removes a value. The next generation of its slot follows by one.
    pub(crate) fn remove(&mut self, key: SlotKey) -> Option<T> {
        self.remove_with_step(key, 1)
    }

    /// As [`Slots::remove`]; the next generation follows by `step`.
    pub(crate) fn remove_with_step(&mut self, key: SlotKey, step: u32) -> Option<T> {
        let _in_use = TableInUse::begin();
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?;
        slot.value()?;
        let content = std::mem::replace(&mut slot.content, SlotContent::Free(self.free));
        slot.generation = slot.generation.wrapping_add(step);
        self.free = key.index;
        self.len -= 1;
        match content {
            SlotContent::Value(value) => Some(value),
            SlotContent::Free(_) => None,
        }
    }

    /// All values, with their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotKey, &T)> {
        self.slots.iter().zip(0..).filter_map(|(slot, index)| {
            slot.value().map(|value| (SlotKey { index, generation: slot.generation }, value))
        })
    }

    /// Removes all values.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        let keys: Vec<SlotKey> = self.iter().map(|(key, _)| key).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }
}

impl<T> Slot<T> {
    fn value(&self) -> Option<&T> {
        match &self.content {
            SlotContent::Value(value) => Some(value),
            SlotContent::Free(_) => None,
        }
    }

    fn value_mut(&mut self) -> Option<&mut T> {
        match &mut self.content {
            SlotContent::Value(value) => Some(value),
            SlotContent::Free(_) => None,
        }
    }
}

/// The value in a slot that is known not to be free.
impl<T> Index<u32> for Slots<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        self.slots[index as usize].value().expect("the slot holds a value")
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.slots[index as usize].value_mut().expect("the slot holds a value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(slots: &mut Slots<char>, value: char) -> SlotKey {
        slots.insert(value, |next| next.unwrap_or(0))
    }

    #[test]
    fn removed_key_stays_invalid_after_reuse() {
        let mut slots = Slots::new();
        let old = numbered(&mut slots, 'a');
        assert_eq!(slots.remove(old), Some('a'));
        assert!(slots.get(old).is_none() && slots.remove(old).is_none() && slots.len() == 0);
        let new = numbered(&mut slots, 'b');
        assert_eq!(new, SlotKey { index: 0, generation: 1 });
        assert!(slots.get(old).is_none() && slots.get_mut(old).is_none() && slots.remove(old).is_none());
        assert_eq!((slots.get(new), slots.len()), (Some(&'b'), 1));
    }

    #[test]
    fn free_slot_has_no_valid_key() {
        let mut slots = Slots::new();
        let key = numbered(&mut slots, 'a');
        slots.remove(key);
        for generation in [0, 1, u32::MAX] {
            let guessed = SlotKey { generation, ..key };
            assert!(slots.get(guessed).is_none() && slots.remove(guessed).is_none());
        }
        assert_eq!((slots.key_at(0), slots.key_at(7)), (None, None));
        assert_eq!(slots.next_index(), 0, "the slot is in the free list once");
    }

    #[test]
    fn slot_freed_last_is_used_first() {
        let mut slots = Slots::new();
        let keys = ['a', 'b', 'c'].map(|value| numbered(&mut slots, value));
        for key in [keys[2], keys[0]] {
            assert!(slots.remove(key).is_some());
        }
        let reused = ['d', 'e', 'f'].map(|value| {
            let index = slots.next_index();
            let key = numbered(&mut slots, value);
            assert_eq!(key.index, index);
            (key.index, key.generation)
        });
        assert_eq!(reused, [(0, 1), (2, 1), (3, 0)]);
        assert_eq!([slots[0], slots[1], slots[2], slots[3]], ['d', 'b', 'e', 'f']);
    }

    #[test]
    fn generation_is_chosen_from_the_next_one() {
        let mut slots = Slots::new();
        let mut seen = Vec::new();
        let mut choose = |next: Option<u32>, chosen| {
            seen.push(next);
            chosen
        };
        let first = slots.insert('a', |next| choose(next, 40));
        assert!(slots.remove_with_step(first, 5).is_some());
        let second = slots.insert('b', |next| choose(next, 7));
        assert_eq!((first.generation, second.generation), (40, 7));
        assert_eq!(seen, [None, Some(45)]);
        let last = SlotKey { generation: u32::MAX, ..second };
        slots.remove(second);
        slots.insert('c', |_| u32::MAX);
        slots.remove(last);
        assert_eq!(numbered(&mut slots, 'd').generation, 0, "generations wrap around");
    }

    #[test]
    fn all_values_are_listed_and_taken() {
        let mut slots = Slots::new();
        let keys = ['a', 'b', 'c'].map(|value| numbered(&mut slots, value));
        slots.remove(keys[1]);
        let listed: Vec<_> = slots.iter().map(|(key, value)| (key, *value)).collect();
        assert_eq!(listed, [(keys[0], 'a'), (keys[2], 'c')]);
        assert_eq!(slots.take_all(), ['a', 'c']);
        assert_eq!((slots.len(), slots.get(keys[0])), (0, None));
    }
}
