//! The ids of nodes, and the keys of the actors on them.
//!
//! Invariant: a key without an adapter number is used for one actor only. Its slot in the actor table may be used again
//! with another generation. The key of an adapter contains the key of its actor.

use std::fmt;

/// The random id of one incarnation of a node.
///
/// A node that restarts gets another id, even if it uses the same port.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node id with the number `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The node id as a number, as it crosses the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

const INDEX_BITS: u32 = 25;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const GENERATION_BITS: u32 = 21;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
const ACTOR_BITS: u32 = GENERATION_BITS + INDEX_BITS;
const ACTOR_MASK: u64 = (1 << ACTOR_BITS) - 1;

/// An address within its node: adapter number (18 bits), generation (21), index (25).
///
/// The adapter number is 0 for the actor's own address. So [`Key::actor`] returns the actor of each address, also on
/// nodes that know nothing else about it.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

impl Key {
    /// The highest index of an actor. A loop holds at most one actor more than this number.
    pub const INDEX_MAX: u32 = INDEX_MASK as u32 - 1;
    /// The last generation of a slot; after it the slot is retired.
    pub const GENERATION_MAX: u32 = GENERATION_MASK as u32;
    /// The highest adapter number: the most adapters of one actor.
    pub const ADAPTER_MAX: u32 = (1 << (u64::BITS - ACTOR_BITS)) - 1;

    /// The key of an actor.
    pub const fn new(generation: u32, index: u32) -> Self {
        Self(((generation as u64 & GENERATION_MASK) << INDEX_BITS) | (index as u64 & INDEX_MASK))
    }

    /// The key with the number `bits`, as it crossed the wire. Every number is a valid key; most refer to no actor.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The key as a number, as it crosses the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The key of the actor itself: without the adapter number. For the key of an actor, the key itself.
    pub const fn actor(self) -> Self {
        Self(self.0 & ACTOR_MASK)
    }

    /// Whether the key is that of an adapter.
    pub const fn is_adapter(self) -> bool {
        self.adapter_number() != 0
    }

    /// The number of the adapter; 0 for the actor's own address.
    pub const fn adapter_number(self) -> u32 {
        (self.0 >> ACTOR_BITS) as u32
    }

    /// The key of the adapter `number` of the same actor.
    pub const fn with_adapter_number(self, number: u32) -> Self {
        Self(self.actor().0 | ((number as u64) << ACTOR_BITS))
    }

    /// The index of the actor in the table of its loop.
    #[inline]
    pub const fn index(self) -> u32 {
        (self.0 & INDEX_MASK) as u32
    }

    /// Adapter number and generation: the part of the key besides the index.
    #[inline]
    pub const fn generation(self) -> u64 {
        self.0 >> INDEX_BITS
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.actor().generation())?;
        match self.adapter_number() {
            0 => Ok(()),
            number => write!(f, "/{number}"),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapter_key_contains_key_of_actor() {
        for (generation, index) in [(0, 0), (7, 3), (Key::GENERATION_MAX, Key::INDEX_MAX)] {
            let actor = Key::new(generation, index);
            assert!(!actor.is_adapter());
            assert_eq!((actor.actor(), actor.index(), actor.generation()), (actor, index, generation.into()));
            for number in [1, 2, Key::ADAPTER_MAX] {
                let adapter = actor.with_adapter_number(number);
                assert!(adapter.is_adapter());
                assert_eq!((adapter.actor(), adapter.adapter_number()), (actor, number));
                assert_eq!(adapter.with_adapter_number(0), actor);
                assert_eq!((adapter.index(), adapter.generation() == actor.generation()), (index, false));
            }
        }
        assert_eq!(Key::new(7, 3).to_string(), "3.7");
        assert_eq!(Key::new(7, 3).with_adapter_number(2).to_string(), "3.7/2");
        assert_eq!(u64::from(Key::ADAPTER_MAX), u64::MAX >> ACTOR_BITS);
    }
}
